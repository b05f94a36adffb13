/**
 * Programs that run as tasks, and how processes die.
 *
 * @module
 */

import { spawn } from "./processes.ts";
import { sleep, type Stream, system } from "./system.ts";

/** The options of a program that runs as a task. */
export interface CommandOptions {
  /** Give the words, joined by spaces, to a shell. @default {false} */
  shell?: boolean;
}

/** What `forrest#NAME` stands for in a task file. */
export const ownFunctions = { command: runProgram };

async function runProgram(argv: string[], { shell = false }: CommandOptions = {}): Promise<string> {
  const process = spawn(shell ? ["sh", "-c", argv.join(" ")] : argv);
  process.stdin.getWriter().close().catch(() => {});
  const read = async (stream: Stream) => {
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of process[stream]) {
      text += decoder.decode(chunk, { stream: true });
      if (stream === "stderr") system.stderr.writeSync(chunk);
    }
    return text;
  };
  const [status, stdout, stderr] = await Promise.all([
    process.status,
    read("stdout"),
    read("stderr"),
  ]);
  if (status.success) return stdout;
  if (isEndOfJob(status)) await sleep(500); // this process is to end as well, and the task to go back
  const error = deathOf(`\`${argv.join(" ")}\``, status, stdout + stderr);
  throw Object.assign(error, { code: status.code, signal: status.signal });
}

/** Whether a process has died of a signal with which batch systems end all processes of a job at once. */
export function isEndOfJob({ signal }: Deno.CommandStatus): boolean {
  return /^SIG(TERM|INT|HUP|QUIT)$/.test(signal ?? "");
}

/** The error of a process that died of itself. */
export function deathOf(
  what: string,
  { signal, code }: Deno.CommandStatus,
  printed: string,
): Error {
  const isUnsettled = code === 0 || /Top-level await promise never resolved/.test(printed);
  const ended =
    "ended before it: the task called `exit()`, or waits for a promise that nothing will settle";
  const how = signal ? `was killed by ${signal}` : isUnsettled ? ended : `exited with code ${code}`;
  const last = printed.trim() && `. It last printed:\n${printed.trim().slice(-2000)}`;
  const error = new Error(`${what} ${how}${last}`);
  return Object.assign(error, { stack: `Error: ${error.message}` });
}

/**
 * Programs that run as tasks, and how processes die.
 *
 * @module
 */

import { errorOf, spawn, statusOf } from "./processes.ts";
import type { Step } from "./steps.ts";
import { sleep, type Stream, stringify, system } from "./system.ts";

/** The options of a program that runs as a task. */
export interface CommandOptions {
  /**
   * Give the words, joined by spaces, to a shell.
   *
   * @default {false}
   */
  shell?: boolean;
}

/** What `forrest#NAME` stands for in a task file. */
export const ownFunctions = { command: runProgram };

async function runProgram(argv: string[], options?: CommandOptions): Promise<string> {
  if (!programOf([{ call: "forrest#command", args: [argv, options ?? {}] }])) {
    const wanted = "an array of words, at least one, and perhaps `{ shell: true }`";
    throw new TypeError(`Cannot start ${stringify(argv)}: \`forrest#command\` takes ${wanted}`);
  }
  const process = spawn(wordsOf(argv, options));
  process.stdin.getWriter().close().catch(() => {});
  return await resultOf(process, argv, (chunk) => system.stderr.writeSync(chunk));
}

/** A program that a task consists of. */
export type Program = { argv: string[]; options?: CommandOptions };

/** The program that a task consists of, if that is all. */
export function programOf(steps: Step[]): Program | undefined {
  const [{ call, args = [] }] = steps;
  if (steps.length > 1 || call !== "forrest#command" || args.length > 2) return;
  const [argv, options = {}] = args as [argv: unknown, options?: CommandOptions];
  const isWord = (word: unknown) => typeof word === "string" && !word.includes("\0");
  const areWords = Array.isArray(argv) && argv.length > 0 && argv.every(isWord);
  const areOptions = /^({}|{"shell":(true|false)})$/.test(stringify(options));
  if (areWords && areOptions) return { argv, options };
}

/** The words with which a program is started. */
export function wordsOf(argv: string[], { shell = false }: CommandOptions = {}): string[] {
  return shell ? ["sh", "-c", argv.join(" ")] : argv;
}

/**
 * What a program prints to its standard output; throws if it fails. `print` gets the other output. Nothing
 * more is read after `end`, as what the program has left running may hold its output open.
 */
export async function resultOf(
  process: Deno.ChildProcess,
  argv: string[],
  print: (chunk: Uint8Array, text: string) => void,
  end?: Promise<void>,
): Promise<string> {
  const words = argv.join(" "); // all of them are in the task
  const name = `\`${words.length > 100 ? `${words.slice(0, 99)}…` : words}\``;
  const fix = "let it write to a file, as its standard output is its result";
  const read = async (stream: Stream) => {
    const [reader, decoder] = [process[stream].getReader(), new TextDecoder()];
    end?.then(() => reader.cancel()).catch(() => {}); // it may have failed by itself
    let text = "";
    for (let chunk; (chunk = (await reader.read()).value);) {
      const added = decoder.decode(chunk, { stream: true });
      text += added;
      if (stream === "stderr") {
        print(chunk, added);
        text = text.slice(-10_000);
      } else if (text.length > 100e6) {
        await reader.cancel();
        throw new RangeError(`${name} has printed more than 100 MB: ${fix}`);
      }
    }
    return text;
  };
  const [status, stdout, stderr] = await Promise.all([
    statusOf(process),
    read("stdout"),
    read("stderr"),
  ]);
  if (status.success) return stdout;
  // a batch system may be ending all processes, this one as well, and then the task is to go back
  await sleep(isEndOfJob(status) ? 500 : 50);
  const error = deathOf(name, status, stdout + stderr);
  throw Object.assign(error, { code: status.code, signal: status.signal });
}

/**
 * Whether a process has died of a signal with which batch systems end all processes of a job at once; or has
 * ended as a shell does whose last command has.
 */
export function isEndOfJob({ code, signal }: Deno.CommandStatus): boolean {
  return /^SIG(TERM|INT|HUP|QUIT)$/.test(signal ?? "") || [129, 130, 131, 143].includes(code);
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
  // deno-lint-ignore no-control-regex
  const plain = printed.replaceAll(/\x1b\[[\d;]*m/g, "").trim(); // without colors
  const last = plain && `. It last printed:\n${plain.slice(-2000)}`;
  return errorOf(`${what} ${how}${last}`);
}

/**
 * Processes that are measured: each leads a process group and has a scratch folder, and a signal ends them.
 *
 * @module
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Does something that signals abort, and removes a folder then, in which it may leave anything. */
export async function inScratch(
  prefix: string,
  action: (folder: string, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const stop = new AbortController();
  const listeners = SIGNALS.map((name) => [name, () => stop.abort(name)] as const);
  for (const [name, listener] of listeners) process.on(name, listener);
  const folder = fs.mkdtempSync(prefix);
  try {
    await action(folder, stop.signal);
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    process.exitCode = 128 + os.constants.signals[stop.signal.reason as typeof SIGNALS[number]];
  } finally {
    fs.rmSync(folder, { recursive: true });
    for (const [name, listener] of listeners) process.off(name, listener);
  }
}

/** How a program that is measured is started. */
export interface RunOptions {
  cwd?: string;
  env?: Record<string, string>;
  /** What it reads. */
  input?: string;
  /** Nobody looks at what it prints. */
  isSilent?: true;
}

/** Runs a program to its end; gives what it has printed, and the seconds that it took. */
export async function run(
  command: readonly string[],
  signal: AbortSignal,
  options: RunOptions = {},
): Promise<{ output: string; seconds: number }> {
  signal.throwIfAborted();
  const { cwd, env, input, isSilent } = options;
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "forrest-bench-"));
  const [program, ...words] = command;
  const begin = performance.now();
  const child = spawn(program, words, {
    cwd,
    detached: true,
    env: { ...process.env, TMPDIR: scratch, ...env },
    stdio: [input === undefined ? "ignore" : "pipe", isSilent ? "ignore" : "pipe", "inherit"],
  });
  const end = () => void kill(child.pid!, "SIGTERM");
  signal.addEventListener("abort", end);
  try {
    let output = "";
    child.stdout?.on("data", (chunk) => output += chunk);
    child.stdin?.on("error", () => {}).end(input); // how it has ended says more
    const [code] = await once(child, "close");
    const seconds = (performance.now() - begin) / 1000;
    signal.throwIfAborted();
    if (code === 0) return { output, seconds };
    throw new Error(`\`${command.join(" ")}\` has ended with \`${code}\``);
  } finally {
    signal.removeEventListener("abort", end);
    if (child.pid) await endOf(child.pid);
    fs.rmSync(scratch, { recursive: true });
  }
}

/** Runs a program that prints a number. */
export async function printedNumber(...program: Parameters<typeof run>): Promise<number> {
  const { output } = await run(...program);
  if (Number(output)) return Number(output);
  throw new Error(`Expected \`${program[0].join(" ")}\` to print a number, got \`${output}\``);
}

/** Sends a signal to a process group; false if none of it is left. */
function kill(group: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-group, signal);
  } catch {
    return false;
  }
}

/** Waits until nothing of a process group is left, which is killed if that takes long. */
async function endOf(group: number): Promise<void> {
  for (let wait = 0; wait < 100 && kill(group, 0); wait++) await sleep(50);
  kill(group, "SIGKILL");
}

/**
 * What all measurements share: how this runtime is started, a clock, a pause, a median, a table.
 *
 * @module
 */

import os from "node:os";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

/** The runtime that measures, and is measured. */
export const runtime = globalThis.Deno ? "Deno" : "Bun";

/** The words that start a program of this runtime, before the path of its module. */
export const start: readonly string[] = globalThis.Deno
  ? [process.execPath, "run", "-A"]
  : [process.execPath];

/** The folder in which `bench` lies. */
export const workingTree: string = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");

/** Seconds that `action` takes. */
export async function seconds(action: () => unknown): Promise<number> {
  const begin = performance.now();
  await action();
  return (performance.now() - begin) / 1000;
}

/**
 * Waits until what was removed before is forgotten: for a while, an ext4 without a journal does not use
 * its inodes again, and looks at each whenever a file is made. That can halve the speed of all that makes
 * thousands of files. It may take a minute, which is too long for a benchmark: begin it on a quiet disk.
 */
export function quiet(signal?: AbortSignal): Promise<void> {
  return sleep(5500, undefined, { signal });
}

/** The middle one of some numbers; of an even number of them, the mean of the two in the middle. */
export function median(numbers: number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** Prints what was measured as a table in Markdown, below the versions of what has measured it. */
export function printTable(head: string[], rows: string[][]): void {
  const version = process.versions[runtime.toLowerCase()];
  console.log(`\n${runtime} ${version}, ${os.cpus().length} × ${os.cpus()[0].model}\n`);
  for (const cells of [head, head.map(() => "---"), ...rows]) {
    console.log(`| ${cells.join(" | ")} |`);
  }
}

/** What stores a value in a task file and reads it back, of the copy of forrest in a folder. */
export async function codecOf(folder: URL): Promise<Codec> {
  // older revisions do not export it
  for (const file of ["mod.ts", "runner.ts", "src/values.ts"]) {
    const module = await import(new URL(file, folder).href).catch(() => ({}));
    if (module.encode && module.decode) return module;
  }
  throw new Error(`Cannot find \`encode\` and \`decode\` in ${folder}`);
}

/** A value as a task file holds it, and back. */
export interface Codec {
  /** Stores a value; `name` is what errors call it. */
  encode(value: unknown, name: string): unknown;
  /** Reads back what `encode` has made. */
  decode(stored: unknown): unknown;
}

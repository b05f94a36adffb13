/**
 * The library that is tested: the module that `FORREST_MODULE` names, and otherwise `mod.ts`.
 *
 * So the same tests run against the library as it is bundled into one file.
 *
 * @module
 */
import { cpSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import type * as library from "../mod.ts";

/** The address of the module, as programs of tests import it. */
export const module: string = process.env.FORREST_MODULE ||
  new URL("../mod.ts", import.meta.url).href;

export const {
  command,
  defer,
  evaluate,
  exec,
  map,
  readTask,
  TaskList,
} = await import(module) as typeof library;

export type Deferred<T> = library.Deferred<T>;
export type RunOptions = library.RunOptions;
export type State = library.State;
export type Task<T = unknown> = library.Task<T>;
export type TaskList<T = unknown> = library.TaskList<T>;

/** The directory of the project. */
export const project: string = dirname(dirname(fileURLToPath(import.meta.url)));

/** What the source of the library consists of. */
export const parts: readonly string[] = ["mod.ts", "files.ts", "runner.ts"];

/** Copies the source of the library into a directory, whose `mod.ts` can then be imported. */
export function copyLibrary(to: string): void {
  for (const part of parts) cpSync(join(project, part), join(to, part), { recursive: true });
}

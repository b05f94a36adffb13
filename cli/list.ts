/**
 * The list that a command is about, and the tasks in it.
 *
 * @module
 */

import { lstatSync, readdirSync, type Stats } from "node:fs";
import { isAlive, locate, type State, states, TaskList } from "../mod.ts";
import { type Input, program, unknown, UsageError } from "./command.ts";
import { quote } from "./terminal.ts";

/** The one list that a command is about. */
export function directoryOf({ words: [directory] }: Input): string {
  if (!directory) throw new UsageError("DIR, the directory of the list, is missing");
  return directory.replace(/(?<=.)\/+$/, "");
}

/** Takes a list that is there; makes none. */
export function openList(directory: string, logFile?: string): TaskList {
  const names = namesIn(directory);
  const make = `\`forrest add ${quote(directory)} ...\` makes one`;
  if (!names) throw new UsageError(`There is no task list \`${directory}\`; ${make}`);
  if (!names.includes("todo")) {
    throw new UsageError(`\`${directory}\` is no task list: it has no folder \`todo\``);
  }
  return new TaskList(directory, { existOk: true, preClean: false, logFile });
}

/** What lies in a directory; undefined if it does not exist. */
export function namesIn(directory: string): string[] | undefined {
  try {
    return readdirSync(directory);
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === "ENOENT") return undefined;
    if (code !== "ENOTDIR") throw error;
    throw new UsageError(`\`${directory}\` is a file, or in one; not the directory of a task list`);
  }
}

/** The path of a task of a list, whichever its state; `others` are what else might have been meant. */
export function findTask(directory: string, tasks: TaskList, id: string, ...others: State[]) {
  const found = tasks.find(id);
  if (found) return directory + found.slice(tasks.directory.length);
  const paths = states.flatMap((state) => [...tasks.paths(state)]);
  const ids = paths.slice(0, 10_000).map((path) => locate(path).id);
  if (!ids.length) throw new UsageError(`There is no task \`${id}\`: \`${directory}\` is empty`);
  throw new UsageError(`${unknown("task", id, [...others, ...ids])} in \`${directory}\``);
}

/** Those of the paths in `running` whose run was on this machine, and has died. */
export const deadAmong = (claims: Iterable<string>): string[] =>
  [...claims].filter((claim) => isAlive(claim) === false);

/** What is to be said of tasks that a dead run has left in `running`. */
export function noteOnDead(dead: number, directory: string): string {
  const fix = `\`${program("run", directory)}\` takes over`;
  return dead ? `  (${dead} left by a run that has died: ${fix})` : "";
}

/** What is to be said of a file that is not there. */
export function noTask(path: string): UsageError {
  return new UsageError(`There is no task \`${path}\`; \`forrest list DIR\` names those of a list`);
}

/** What is known of a path, be it a dangling link; undefined if there is nothing. */
export function infoOf(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

export const exists = (path: string): boolean => infoOf(path) !== undefined;

/**
 * The list that a command is about, and the tasks in it.
 *
 * @module
 */

import { lstatSync, readdirSync, type Stats } from "node:fs";
import { isAlive, locate, type State, states, TaskList } from "../mod.ts";
import { type Input, program, unknown, UsageError } from "./command.ts";
import { matches, nameAt, stateAt } from "./task.ts";
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

/** The file of the one task that has a word for its id, or was made of that line. */
export function findTask(directory: string, tasks: TaskList, word: string): string {
  const [found, ...others] = findTasks(directory, tasks, word);
  if (!others.length) return shortened(found, directory, tasks);
  const ids = [found, ...others.slice(0, 4)].map((path) => `\`${locate(path).id}\``).join(", ");
  throw new UsageError(`\`${word}\` is the line of several tasks: say which, ${ids}`);
}

/** The path of a task, as it is written from here. */
function shortened(path: string, directory: string, tasks: TaskList): string {
  return directory + path.slice(tasks.directory.length);
}

/** The files of the tasks that have a word for their id, or were made of that line: one at least. */
function findTasks(directory: string, tasks: TaskList, word: string): string[] {
  const own = tasks.find(word);
  const paths = own ? [own] : states.flatMap((state) => [...tasks.paths(state)]);
  const part = readable(word) && `-${readable(word)}-`; // which ids have that were made of this line
  const isIt = (path: string) => path.includes(part) && nameAt(path) === word;
  const found = own ? paths : paths.filter(isIt);
  if (found.length) return found;
  if (!paths.length) {
    throw new UsageError(`There is no task \`${word}\`: \`${directory}\` is empty`);
  }
  const ids = paths.slice(0, 10_000).map((path) => locate(path).id);
  const names = paths.slice(0, 1000).map(nameAt);
  throw new UsageError(
    `${unknown("task", word, [...names, ...ids, ...states])} in \`${directory}\``,
  );
}

/** As much of a line as may be in the name of a file. */
export function readable(line: string): string {
  const plain = line.replace(/[^\w.=@+-]+/g, "_").replaceAll(".json@", ".json_");
  return plain.replace(/^[._-]+/, "").slice(0, 60);
}

const isState = (word: string): word is State => states.includes(word as State);

/** Whether words after DIR, `--where` or `--match` choose tasks. */
export function isChoosing({ words, text }: Input): boolean {
  return words.length > 1 || text("where") !== undefined || text("match") !== undefined;
}

/** The files of the tasks that words (states, ids or lines), `--where` and `--match` choose. */
export function* choose(
  { words: [, ...words], text }: Input,
  directory: string,
  tasks: TaskList,
  usual: readonly State[],
): Generator<string, void, void> {
  const [where, match] = [text("where"), text("match")];
  if (where && !isState(where)) throw new UsageError(unknown("state", where, [...states]));
  for (const word of words.length ? words : where ? [where] : usual) {
    const found = isState(word) ? tasks.paths(word) : findTasks(directory, tasks, word);
    for (const full of found) {
      const path = shortened(full, directory, tasks);
      const isWanted = !where || stateAt(path) === where;
      if (isWanted && exists(path) && (!match || matches(path, match))) yield path;
    }
  }
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

/**
 * The list that a command is about, and the tasks in it.
 *
 * @module
 */

import { lstatSync, readdirSync, type Stats } from "node:fs";
import { tmpdir } from "node:os";
import { isAlive, locate, type State, states, TaskList } from "../mod.ts";
import { type Input, nearby, program, unknown, UsageError } from "./command.ts";
import { matches, nameAt, placeOf } from "./task.ts";
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

/** A list beside all others, which is removed when it is disposed. */
export const temporaryList = (): TaskList =>
  new TaskList(`${tmpdir()}/forrest-${crypto.randomUUID()}`, { postClean: true });

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
export function findTask(tasks: TaskList, word: string): string {
  const found = findTasks(tasks, word);
  if (found.length === 1) return found[0];
  const ids = found.slice(0, 5).map((path) => `\`${locate(path).id}\``).join(", ");
  throw new UsageError(`\`${word}\` is the line of several tasks: say which, ${ids}`);
}

/** The files of the tasks that have a word for their id, or were made of that line: one at least. */
function findTasks(tasks: TaskList, word: string): string[] {
  const own = tasks.find(word);
  if (own) return [own];
  const paths = states.flatMap((state) => [...tasks.paths(state)]);
  const part = readable(word) && `-${readable(word)}-`; // which ids have that were made of this line
  const found = paths.filter((path) => path.includes(part) && nameAt(path) === word);
  if (found.length) return found;
  const list = nearby(tasks.directory);
  if (!paths.length) throw new UsageError(`There is no task \`${word}\`: \`${list}\` is empty`);
  const ids = paths.slice(0, 10_000).map((path) => locate(path).id);
  const valid = [...paths.slice(0, 1000).map(nameAt), ...ids, ...states];
  throw new UsageError(`${unknown("task", word, valid)} in \`${list}\``);
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
  tasks: TaskList,
  usual: readonly State[],
): Generator<string, void, void> {
  const [where, match] = [text("where"), text("match")];
  if (where && !isState(where)) throw new UsageError(unknown("state", where, [...states]));
  for (const word of words.length ? words : where ? [where] : usual) {
    for (const path of isState(word) ? tasks.paths(word) : findTasks(tasks, word)) {
      const isWanted = !where || placeOf(path).state === where;
      if (isWanted && exists(path) && (!match || matches(path, match))) yield path;
    }
  }
}

/** How many tasks a run has left in `running` that was on this machine, and has died. */
export const deadIn = (tasks: TaskList): number =>
  [...tasks.paths("running")].filter((claim) => isAlive(claim) === false).length;

/** What is to be said of those. */
export function noteOnDead(tasks: TaskList): string {
  const dead = deadIn(tasks);
  const fix = `\`${program("run", nearby(tasks.directory))}\` takes over`;
  return dead ? `  (${dead} left by a run that has died: ${fix})` : "";
}

/** How many tasks are in some states, in a line. */
export const countsIn = (counts: Partial<Record<State, number>>): string =>
  Object.entries(counts).map(([state, n]) => `${n} ${state}`).join(", ");

/** What is to be said of a file that is not there. */
export function noTask(path: string): UsageError {
  return new UsageError(`There is no task \`${path}\`; \`forrest list DIR\` names those of a list`);
}

/** What is known of a path, be it a dangling link; undefined if there is nothing. */
export function infoOf(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

export const exists = (path: string): boolean => infoOf(path) !== undefined;

/**
 * The list that a command is about, and the tasks in it: as their files hold them, how people call them, how they
 * are chosen, and the line that says what became of one.
 *
 * @module
 */

import { existsSync, lstatSync, readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { resolve } from "@std/path/resolve";
import { isAlive, locate, type State, states, type Step, TaskList } from "../mod.ts";
import { briefOf, codeOf, headOfError, textOfError } from "./code.ts";
import { type Input, nearby, program, unknown, UsageError } from "./command.ts";
import { cut, duration, paint, printable, quote, widthOfOutput } from "./terminal.ts";

// ------------------------------------------------------------------------------------- a list

/** The one list that a command is about. */
export function directoryOf({ words: [directory] }: Input): string {
  if (!directory) throw new UsageError("DIR, the directory of the list, is missing");
  return directory.replace(/(?<=.)\/+$/, "");
}

/** Takes a list that is there; makes none. */
export function openList(directory: string, logFile?: string): TaskList {
  const options = { existOk: true, preClean: false, logFile };
  if (isList(directory)) return new TaskList(directory, options);
  const make = `\`forrest add ${quote(directory)} ...\` makes one`;
  const problem = !existsSync(directory)
    ? `There is no task list \`${directory}\`; ${make}`
    : isDirectory(directory)
    ? `\`${directory}\` is no task list: it has no folder \`todo\``
    : `\`${directory}\` is a file, or in one; not the directory of a task list`;
  throw new UsageError(problem);
}

export const isDirectory = (path: string): boolean =>
  existsSync(path) && statSync(path).isDirectory();

export const isList = (directory: string): boolean => existsSync(`${directory}/todo`);

/** A list beside all others, which is removed when it is disposed. */
export const temporaryList = (): TaskList =>
  new TaskList(`${tmpdir()}/forrest-${crypto.randomUUID()}`, { postClean: true });

/** Whether a path is that of a task, and not that of a list. */
export const isTaskFile = (path: string): boolean => /\.json(@[^/]*)?$/.test(path) && !isList(path);

/** The path of the task that words say, be it by its list and a word for it; and the words after that. */
export function taskIn(input: Input): string[] {
  const [path, word, ...others] = input.words;
  if (path === undefined || isTaskFile(path)) return input.words;
  const tasks = openList(directoryOf(input));
  if (word === undefined) throw new UsageError("ID or LINE, which says the task, is missing");
  return [nearby(findTask(tasks, word)), ...others];
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
  const isFile = word.endsWith(".json"); // or an id that ends so
  const own = tasks.find(word) ?? (isFile ? tasks.find(word.slice(0, -".json".length)) : undefined);
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

/** The files of the tasks that words (states, ids or lines), `--where` and `--match` choose; one may have moved since. */
export function* choose(input: Input, tasks: TaskList, usual: readonly State[]) {
  const [, ...words] = input.words;
  const [where, match] = [input.text("where"), input.text("match")];
  if (where && !isState(where)) throw new UsageError(unknown("state", where, [...states]));
  for (const word of words.length ? words : where ? [where] : usual) {
    for (const path of isState(word) ? tasks.paths(word) : findTasks(tasks, word)) {
      const isWanted = !where || placeOf(path).state === where;
      if (isWanted && (!match || matches(path, match))) yield path;
    }
  }
}

/** The tasks that are chosen, or those in the first of these states; `problem` is that of one in no such state. */
export function tasksChosen(input: Input, tasks: TaskList, allowed: State[], problem: string) {
  const chosen = [...choose(input, tasks, allowed.slice(0, 1))].map(locate);
  const other = chosen.find(({ state }) => !allowed.includes(state));
  if (!other) return chosen;
  throw new UsageError(`The task \`${other.id}\` ${problem}: it is in \`${other.state}\``);
}

/** How many tasks a run has left in `running` that was on this machine, and has died. */
export const deadIn = (tasks: TaskList): number =>
  [...tasks.paths("running")].filter((claim) => isAlive(claim) === false).length;

/** What is to be said of those. */
export function noteOnDead(tasks: TaskList, dead = deadIn(tasks)): string {
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

/** Whether there is something at a path, be it a dangling link. */
export const exists = (path: string): boolean => !!lstatSync(path, { throwIfNoEntry: false });

// ------------------------------------------------------------------------------------- a task

/** A task as its file holds it. */
export type Stored = Record<string, unknown> & { steps?: Step[] };

/** Reads a task file; if that cannot be read, the error of the task says so. */
export function storedAt(path: string): Stored {
  try {
    const text = readFileSync(path, "utf8");
    const stored = JSON.parse(text.replace(/^\uFEFF/, "")); // as editors on Windows begin it
    if (stored && typeof stored === "object") return stored as Stored;
    throw new TypeError("it holds no object");
  } catch (error) {
    const message = `Cannot read the task: ${(error as Error).message}`;
    return { errorValue: { $error: { name: "Error", message } } };
  }
}

/** Where a task lies, and its state by the name of that folder, if it is one of a list. */
export function placeOf(path: string): { directory: string; id: string; state: State | "" } {
  const place = locate(resolve(path));
  return { ...place, state: states.includes(place.state) ? place.state : "" };
}

/** A task with its file, and what people call it: the line that `forrest add` has made it of, or else its id. */
export function taskAt(path: string, stored = storedAt(path)) {
  const place = placeOf(path);
  const { line } = Object(stored.metadata);
  const isOfLine = typeof line === "string";
  return { ...place, path, stored, isOfLine, name: isOfLine ? line : place.id };
}

export type Task = ReturnType<typeof taskAt>;

export const nameAt = (path: string): string => taskAt(path).name;

/** What `--json` prints of a task. */
export function jsonOf({ id, state, path, isOfLine, name, stored }: Task) {
  const { steps: _steps, metadata, ...others } = stored;
  const named = isOfLine ? { line: name } : { metadata };
  return JSON.stringify({ id, state, path: nearby(path), ...named, ...others });
}

/** One line that says what became of a task; `note` comes before its value, error or call. */
export function lineOf(task: Task, width = widthOfOutput(), note = "") {
  const { name, state, stored } = task;
  const seconds = typeof stored.runtime === "number" ? duration(stored.runtime) : "";
  const text = [
    state.padEnd(7),
    cut(printable(name), Math.max(20, width / 3)),
    seconds.padStart(7),
    note + printable(outcomeOf(stored)),
  ];
  const color = state === "done" ? "green" : state === "fail" ? "red" : "dim";
  return cut(text.join("  "), width).replace(/^\w+/, (word) => paint(color, word));
}

function outcomeOf(stored: Stored): string {
  if ("errorValue" in stored) return headOfError(stored.errorValue);
  if ("returnValue" in stored) return codeOf(stored.returnValue);
  return Array.isArray(stored.steps) ? briefOf(stored.steps.at(-1)) : "";
}

/** Whether the name, the error with its causes, the value or the call of a task contains a text. */
function matches(path: string, text: string): boolean {
  const { name, stored } = taskAt(path);
  const error = "errorValue" in stored ? textOfError(stored.errorValue) : "";
  const messages = error.replace(/^ +at .*/gm, ""); // without its stacks
  return `${name}\n${messages}\n${outcomeOf(stored)}`.includes(text);
}

const PROGRAM = /^Error: `([^`\s]+)[^`]*` (exited with code \d+|was killed by \w+)/;

/** What failures are grouped by: of a program, the words and what it has printed differ; of others, the name. */
export function kindOf(error: unknown, name: string): string {
  const message = headOfError(error);
  const [, program, how] = PROGRAM.exec(message) ?? [];
  if (program) return `${program} ${how}`;
  const isInWord = (place: number) => /\w/.test(message[place] ?? "");
  return message.replaceAll(name, (found, start: number) => {
    return isInWord(start - 1) || isInWord(start + found.length) ? found : "{}";
  });
}

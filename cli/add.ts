/**
 * `forrest add`: adds a task for each line of a file or of the standard input.
 *
 * @module
 */

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import process from "node:process";
import { dirname } from "@std/path/posix/dirname";
import { resolve } from "@std/path/resolve";
import { toFileUrl } from "@std/path/to-file-url";
import help from "./help/add.txt" with { type: "text" };
import { command, defer, encode, locate, states, TaskList } from "../mod.ts";
import { briefOf } from "./code.ts";
import { type Command, type Input, isSpecifier, program, UsageError } from "./command.ts";
import { linesOf } from "./lines.ts";
import { directoryOf, exists, namesIn, readable, temporaryList } from "./list.ts";
import { count, isTerminal, quote, write } from "./terminal.ts";

export const add: Command = { help, action: addAll };

type Deferred = ReturnType<typeof defer>;
/** The task for a line: the key says which tasks are the same, `shown` what is called. */
interface Made {
  key: unknown;
  shown: string;
  task: Deferred;
}
type MakeTask = (line: string, number: number) => Made;

async function addAll(input: Input): Promise<number> {
  const directory = directoryOf(input);
  const names = namesIn(directory);
  if (names?.length && !names.includes("todo")) {
    throw new UsageError(`\`${directory}\` is no task list, but not empty: choose a new directory`);
  }
  const { make, file } = await whatToAdd(input);
  if (file === "-" && isTerminal("stdin")) {
    write("stderr", "Type one argument a line; Ctrl-D ends it.\n");
  }
  if (input.is("dry-run")) return await showFirst(madeOf(file, make));
  const tasks = new TaskList(directory, { existOk: true, preClean: false });
  const { added, known } = await addMade(tasks, madeOf(file, make));
  const rest = known ? `; ${known} there already` : "";
  write("stdout", `${count(added, "task")} added to \`${directory}\`${rest}\n`);
  const isAny = added + known > 0;
  if (isAny) write("stderr", `To run what waits:  ${program("run", directory)}\n`);
  return 0;
}

/** What the words say: which task a line makes, and where the lines are. */
async function whatToAdd(input: Input): Promise<{ make: MakeTask; file: string }> {
  const words = input.words.slice(1);
  const isProgram = input.rest.length > 0;
  const [surplus, owner] = isProgram ? ["json", "MODULE#EXPORT"] : ["shell", "-- PROGRAM"];
  if (input.is(surplus)) throw new UsageError(`\`--${surplus}\` is for \`${owner}\` only`);
  const [isJson, separator] = [input.is("json"), input.text("colsep")];
  const columns = columnsBy(separator);
  if (columns && isJson) throw new UsageError("Lines have columns, or are JSON: not both");
  const argumentsOf = isJson ? parseLine : columns ?? ((line: string) => [line]);
  const make = isProgram
    ? programTask(input.rest, input.is("shell"), columns)
    : await callTask(words.shift(), argumentsOf, separator ?? isJson);
  const [file = "-"] = words;
  if (words.length > 1) {
    const files = words.map(quote).join(" ");
    throw new UsageError(`One file at a time, or \`cat ${files} | forrest add\` and so on`);
  }
  if (file !== "-" && !exists(file)) throw new UsageError(`There is no file \`${file}\``);
  return { make, file };
}

/** What parts a line into its columns, if it is to have some. */
function columnsBy(separator?: string): ((line: string) => string[]) | undefined {
  if (separator === undefined) return undefined;
  try {
    const pattern = new RegExp(separator);
    return (line) => line.split(pattern);
  } catch (error) {
    throw new UsageError(`\`--colsep\`: ${(error as Error).message}`);
  }
}

/** The tasks that lines make, with these and their numbers. */
async function* madeOf(file: string, make: MakeTask) {
  let number = 0;
  for await (const text of linesOf(file)) {
    const line = text.replace(/\r$/, ""); // of a file from Windows
    number++;
    if (!line.trim()) continue;
    if (line.includes("\0")) {
      throw new UsageError(`Line ${number} has a NUL in it: write one argument a line`);
    }
    yield { ...make(line, number), line, number };
  }
}

type Lines = ReturnType<typeof madeOf>;

async function showFirst(lines: Lines): Promise<number> {
  let number = 0;
  for await (const { shown } of lines) {
    number++;
    if (number <= 10) write("stdout", `${shown}\n`);
  }
  const more = number > 10 ? `... and ${number - 10} more\n` : "";
  write("stdout", `${more}Nothing was added: ${count(number, "task")} would be\n`);
  return 0;
}

/** Adds tasks under ids that sort as their lines do, and that end with a digest of their keys. */
async function addMade(tasks: TaskList, lines: Lines) {
  const cwd = process.cwd();
  const there = [...whatIsThere(tasks)];
  const digests = new Set(there.map(({ digest }) => digest));
  const last = there.reduce((last, { place }) => Math.max(last, place), 0);
  const pending: Promise<unknown>[] = [];
  const ids = new Set<string>(); // that were added
  let all = 0;
  try {
    for await (const { line, number, key, task } of lines) {
      all++;
      const bytes = new TextEncoder().encode(JSON.stringify([cwd, key]));
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes), 0, 6).toHex();
      if (digests.has(digest)) continue;
      digests.add(digest);
      const place = `${last + number}`.padStart(7, "0"); // so that ids sort as numbers do
      const id = [place, readable(line), digest].filter(Boolean).join("-");
      const scheduled = tasks.schedule(task, { id, metadata: { line }, cwd })
        .then(({ scheduled }) => scheduled && ids.add(id));
      scheduled.catch(() => {}); // as it is handled later
      if (pending.push(scheduled) === 1000) await Promise.all(pending.splice(0));
    }
    await Promise.all(pending);
  } catch (error) {
    await Promise.allSettled(pending);
    if (!(error instanceof UsageError) || !ids.size) throw error;
    const were = ids.size === 1 ? "was" : "were";
    throw new UsageError(`${error.message}; before that, ${count(ids.size, "task")} ${were} added`);
  }
  const added = ids.size - dropDoubles(tasks, ids);
  return { added, known: all - added };
}

/** The tasks that a list has, by the digests in their ids, and their places in it; those that wait come last. */
function* whatIsThere(tasks: TaskList) {
  for (const path of states.toReversed().flatMap((state) => [...tasks.paths(state)])) {
    const { id, state } = locate(path);
    const [, place = 0, digest] = /^(?:(\d+)-)?(?:.*-)?([0-9a-f]{12})$/s.exec(id) ?? [];
    if (digest) yield { path, id, state, digest, place: Number(place) };
  }
}

/**
 * Removes what was added at the same time by another `forrest add`: of tasks for the same line, whoever looks
 * keeps the same one. Gives how many of those with these ids are gone.
 */
function dropDoubles(tasks: TaskList, ids: Set<string>): number {
  const added = new Set([...ids].map((id) => id.slice(-12)));
  const ours = [...whatIsThere(tasks)].filter(({ digest }) => added.has(digest));
  let dropped = 0;
  for (const [kept, ...others] of Map.groupBy(ours, ({ digest }) => digest).values()) {
    for (const { path, id, state } of others) {
      const isDouble = id !== kept.id && state === "todo" && tasks.find(kept.id);
      if (!isDouble) continue;
      rmSync(path, { force: true });
      if (ids.has(id)) dropped++;
    }
  }
  return dropped;
}

async function callTask(
  target = "",
  argumentsOf: (line: string, number: number) => unknown[],
  format: string | boolean,
): Promise<MakeTask> {
  const [, module, name] = /^(.+)#([^#]+)$/s.exec(target) ?? [];
  if (!module) {
    const given = target ? `\`${target}\` names no function` : "The function is missing";
    throw new UsageError(`${given}: write MODULE#EXPORT, or \`-- PROGRAM\` for a program`);
  }
  const url = urlOf(module);
  if (!url) throw new UsageError(`There is no module \`${module}\``);
  url.hash = name;
  await checkCall(url.href);
  return (line, number) => {
    const args = argumentsOf(line, number);
    const shown = briefOf({ call: url.href, args: args.map((item) => encode(item, "line")) });
    return { key: [url.href, format, line], shown, task: defer(url, ...args) };
  };
}

/** The URL of a module: of a file, or of a package that is installed here, or that `deno.json` names. */
function urlOf(module: string): URL | undefined {
  if (isSpecifier(module)) return new URL(module);
  if (exists(module)) return toFileUrl(resolve(module));
  const require = createRequire(resolve("here"));
  const folders = require.resolve.paths(module) ?? [];
  const [root] = /^(@[^/]+\/)?[^./][^/]*/.exec(module) ?? [];
  // or else Bun would install what may be misspelt
  if (root && folders.some((folder) => exists(`${folder}/${root}`))) {
    return toFileUrl(require.resolve(module));
  }
  try {
    return urlOf(JSON.parse(readFileSync("deno.json", "utf8")).imports[module]);
  } catch {
    return undefined;
  }
}

/** Lets a process look for a function, as a run would. What cannot be imported here may be elsewhere. */
async function checkCall(call: string): Promise<void> {
  using trial = temporaryList();
  const steps = [{ value: { $function: call } }, { value: null }];
  writeFileSync(`${trial.directory}/todo/call.json`, JSON.stringify({ steps }));
  const [task] = await trial.run({ processes: 1, autokill: 10, onOutput: () => {} });
  if (task.state === "done") return;
  const { message } = Object(task.errorValue);
  if (/ is not a function; it exports /.test(message)) throw new UsageError(message);
  write("stderr", `Its module cannot be imported here: ${message}\n`);
}

function parseLine(line: string, number: number): unknown[] {
  const take = (_key: string, value: unknown, context?: { source?: string }) => {
    const { source = "" } = context ?? {};
    if (typeof value !== "number" || isExact(source)) return value;
    const read = `JavaScript reads the number \`${source}\` as \`${value}\``;
    throw new UsageError(`Line ${number}: ${read}: write it as text, \`"${source}"\``);
  };
  try {
    const value = JSON.parse(line, take);
    return Array.isArray(value) ? value : [value];
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`Line ${number} is not JSON: ${(error as Error).message}`);
  }
}

/** Whether a number, written with as many digits, is what the text says. */
function isExact(text: string): boolean {
  const digits = significant(text);
  const precision = Math.min(Math.max(digits.length, 1), 100);
  return significant(Number(text).toPrecision(precision)) === digits;
}

/** The digits of a number, from the first one that is not 0. */
const significant = (text: string) => text.replace(/e.*|\D/gi, "").replace(/^0+/, "");

const PLACEHOLDER = /\{(\d*)(|\.|#|\/|\/\/|\/\.)\}/g;

const stem = (path: string) => path.replace(/\.[^/.]*$/, "");
const base = (path: string) => path.replace(/^.*\//s, "");

/** What stands between the braces, after the number of a column. */
const meanings: Record<string, (text: string) => string> = {
  "": (text) => text,
  ".": stem,
  "/": base,
  "//": dirname,
  "/.": (text) => stem(base(text)),
};

function programTask(
  words: string[],
  isShell: boolean,
  columnsOf?: (line: string) => string[],
): MakeTask {
  const isOurs = ([found, column]: string[]) => !column || (columnsOf && found !== `{${column}#}`);
  const isGiven = words.some((word) => word.matchAll(PLACEHOLDER).some(isOurs));
  const template = isGiven ? words : [...words, "{}"];
  return (line, number) => {
    const columns = columnsOf?.(line) ?? [];
    const fill = (found: string, column: string, kind: string) => {
      if (!isOurs([found, column])) return found;
      const text = column ? columns[Number(column) - 1] : line;
      if (text === undefined) {
        throw new UsageError(
          `Line ${number} has ${count(columns.length, "column")}, and no ${found}`,
        );
      }
      const value = kind === "#" ? `${number}` : meanings[kind](text);
      return isShell ? quote(value) : value;
    };
    const argv = template.map((word) => word.replace(PLACEHOLDER, fill));
    const options = isShell ? { shell: true } : {};
    const shown = briefOf({ call: "forrest#command", args: [argv, options] });
    return { key: [template, isShell, line], shown, task: command(argv, options) };
  };
}

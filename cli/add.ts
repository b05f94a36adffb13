/**
 * `forrest add`: adds a task for each line of a file or of the standard input.
 *
 * @module
 */

import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import process from "node:process";
import { dirname } from "@std/path/posix/dirname";
import { resolve } from "@std/path/resolve";
import { toFileUrl } from "@std/path/to-file-url";
import help from "./help/add.txt" with { type: "text" };
import { command, defer, encode, locate, states, TaskList } from "../mod.ts";
import { briefOf } from "./code.ts";
import { type Command, type Input, isSpecifier, program, UsageError } from "./command.ts";
import { linesOf } from "./log.ts";
import { directoryOf, exists, isDirectory, isList, readable, temporaryList } from "./list.ts";
import { Stop } from "./stop.ts";
import { count, isTerminal, quote, write } from "./terminal.ts";

export const add: Command = { help, takesProgram: true, action: addAll };

const PROGRAM = "forrest#command"; // as a task calls it

/** What to call for each line. */
interface Recipe {
  call: string;
  /** With the line, it says which tasks are the same. */
  key: unknown[];
  args(line: string, number: number): unknown[];
}

async function addAll(input: Input): Promise<void> {
  const directory = directoryOf(input);
  if (existsSync(directory) && !isList(directory)) {
    const isFile = !isDirectory(directory);
    const what = isFile ? "a file" : "no task list, but not empty";
    const isOther = isFile || readdirSync(directory).length > 0;
    if (isOther) throw new UsageError(`\`${directory}\` is ${what}: choose a new directory`);
  }
  const { recipe, file } = await whatToAdd(input);
  if (file === "-" && isTerminal("stdin")) {
    write("stderr", "Type one argument a line; Ctrl-D ends it.\n");
  }
  if (input.is("dry-run")) return await showFirst(file, recipe);
  const tasks = new TaskList(directory, { existOk: true, preClean: false });
  const { added, known } = await addEach(tasks, file, recipe);
  const rest = known ? `; ${known} there already` : "";
  write("stdout", `${count(added, "task")} added to \`${directory}\`${rest}\n`);
  if (added || known) write("stderr", `To run what waits:  ${program("run", directory)}\n`);
}

/** What the words say: what to call for a line, and where the lines are. */
async function whatToAdd(input: Input): Promise<{ recipe: Recipe; file: string }> {
  const words = input.words.slice(1);
  const isProgram = input.rest.length > 0;
  const [surplus, owner] = isProgram ? ["json", "MODULE#EXPORT"] : ["shell", "-- PROGRAM"];
  if (input.is(surplus)) throw new UsageError(`\`--${surplus}\` is for \`${owner}\` only`);
  const [isJson, separator] = [input.is("json"), input.text("colsep")];
  const columns = columnsBy(separator);
  if (columns && isJson) throw new UsageError("Lines have columns, or are JSON: not both");
  const args = isJson ? parseLine : columns ?? ((line: string) => [line]);
  const recipe: Recipe = isProgram
    ? programRecipe(input.rest, input.is("shell"), columns)
    : await functionRecipe(words.shift(), separator ?? isJson, args);
  const [file = "-"] = words;
  if (words.length > 1) {
    const files = words.map(quote).join(" ");
    throw new UsageError(`One file at a time, or \`cat ${files} | forrest add\` and so on`);
  }
  if (file !== "-" && !exists(file)) throw new UsageError(`There is no file \`${file}\``);
  if (isDirectory(file)) throw new UsageError(`\`${file}\` is a directory, and no file of lines`);
  return { recipe, file };
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

/** The lines that are to be tasks, with their numbers and what is to be called with. */
async function* callsFor(file: string, { args }: Recipe) {
  let number = 0;
  for await (const text of linesOf(file)) {
    const line = text.replace(/\r$/, ""); // of a file from Windows
    number++;
    if (!line.trim()) continue;
    if (line.includes("\0")) {
      throw new UsageError(`Line ${number} has a NUL in it: write one argument a line`);
    }
    yield { line, number, args: args(line, number) };
  }
}

async function showFirst(file: string, recipe: Recipe): Promise<void> {
  let all = 0;
  for await (const { args } of callsFor(file, recipe)) {
    all++;
    const stored = args.map((item) => encode(item, "line"));
    if (all <= 10) write("stdout", `${briefOf({ call: recipe.call, args: stored })}\n`);
  }
  const more = all > 10 ? `... and ${all - 10} more\n` : "";
  write("stdout", `${more}Nothing was added: ${count(all, "task")} would be\n`);
}

/** Adds tasks under ids that sort as their lines do, and that end with a digest of what makes them different. */
async function addEach(tasks: TaskList, file: string, recipe: Recipe) {
  const { call, key } = recipe;
  const { createHash } = process.getBuiltinModule("node:crypto"); // which Deno takes 20 ms to load
  const cwd = process.cwd();
  const there = [...whatIsThere(tasks)];
  const digests = new Set(there.map(({ digest }) => digest));
  const last = there.reduce((last, { place }) => Math.max(last, place), 0);
  const pending: Promise<unknown>[] = [];
  const ids = new Set<string>(); // that were added
  const wereAdded = () => `${count(ids.size, "task")} ${ids.size === 1 ? "was" : "were"} added`;
  const stop = new Stop();
  stop.signal.addEventListener("abort", async () => {
    await Promise.allSettled(pending);
    write("stderr", `${stop.reason}: ${wereAdded()}; the same command adds the rest\n`);
    process.exit(stop.code);
  });
  let all = 0;
  try {
    for await (const { line, number, args } of callsFor(file, recipe)) {
      all++;
      const whole = createHash("sha256").update(JSON.stringify([cwd, [...key, line]])).digest(
        "hex",
      );
      const digest = whole.slice(0, 12);
      if (digests.has(digest) || stop.signal.aborted) continue;
      digests.add(digest);
      const place = `${last + number}`.padStart(7, "0"); // so that ids sort as numbers do
      const id = [place, readable(line), digest].filter(Boolean).join("-");
      const [argv, options] = args as [string[], object];
      const task = call === PROGRAM ? command(argv, options) : defer(new URL(call), ...args);
      const scheduled = tasks.schedule(task, { id, metadata: { line }, cwd })
        .then(({ scheduled }) => scheduled && ids.add(id));
      scheduled.catch(() => {}); // as it is handled later
      if (pending.push(scheduled) < 1000) continue;
      await Promise.all(pending);
      pending.length = 0;
    }
    await Promise.all(pending);
  } catch (error) {
    await Promise.allSettled(pending);
    if (!(error instanceof UsageError) || !ids.size) throw error;
    throw new UsageError(`${error.message}; before that, ${wereAdded()}`);
  } finally {
    stop.release();
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

async function functionRecipe(target = "", format: string | boolean, args: Recipe["args"]) {
  const [, module, name] = /^(.+)#([^#]+)$/s.exec(target) ?? [];
  if (!module) {
    const given = target ? `\`${target}\` names no function` : "The function is missing";
    throw new UsageError(`${given}: write MODULE#EXPORT, or \`-- PROGRAM\` for a program`);
  }
  const url = urlOf(module);
  if (!url) throw new UsageError(`There is no module \`${module}\``);
  url.hash = name;
  await checkCall(url.href);
  return { call: url.href, key: [url.href, format], args };
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

const stem = (path: string) => path.replace(/\.[^/.]*$/, "");
const base = (path: string) => path.replace(/^.*\//s, "");

/** What stands between braces, after the number of a column. */
const meanings: Record<string, (text: string) => string> = {
  "": (text) => text,
  ".": stem,
  "/": base,
  "//": dirname,
  "/.": (text) => stem(base(text)),
};

function programRecipe(words: string[], isShell: boolean, columnsOf?: (line: string) => string[]) {
  const placeholder = new RegExp(`\\{#\\}|\\{(${columnsOf ? "\\d*" : ""})(|\\.|/|//|/\\.)\\}`, "g");
  const isGiven = words.some((word) => word.search(placeholder) >= 0);
  const template = isGiven ? words : [...words, "{}"];
  const args = (line: string, number: number) => {
    const columns = columnsOf?.(line) ?? [];
    const fill = (found: string, column: string, kind: string) => {
      if (found === "{#}") return `${number}`;
      const text = column ? columns[Number(column) - 1] : line;
      if (text === undefined) {
        const there = count(columns.length, "column");
        throw new UsageError(`Line ${number} has ${there}, and no ${found}`);
      }
      const value = meanings[kind](text);
      return isShell ? quote(value) : value;
    };
    const argv = template.map((word) => word.replace(placeholder, fill));
    return [argv, isShell ? { shell: true } : {}];
  };
  return { call: PROGRAM, key: [template, isShell], args };
}

/**
 * `forrest add`: adds a task for each line of a file or of the standard input.
 *
 * @module
 */

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname } from "@std/path/posix/dirname";
import { resolve } from "@std/path/resolve";
import { toFileUrl } from "@std/path/to-file-url";
import { command, defer, TaskList } from "../mod.ts";
import type { Command, Input } from "./command.ts";
import { isSpecifier, program, UsageError } from "./command.ts";
import { linesOf } from "./lines.ts";
import { directoryOf, exists, namesIn } from "./list.ts";
import { count, isTerminal, quote, write } from "./terminal.ts";

export const add: Command = {
  usage: [
    "DIR MODULE#EXPORT [FILE|-] [--json]",
    "DIR [FILE|-] [--shell] -- PROGRAM [WORD ...]",
  ],
  brief: "add a task for each line of a file or of stdin",
  about: `Add a task for each line of a file or of the standard input. What the list has
already, in any state, is not added again.`,
  words: [
    ["DIR", "the directory of the task list; made if it does not exist"],
    ["MODULE#EXPORT", "the function to call with a line, such as ./tasks.ts#resize"],
    ["FILE", "one argument a line [default: -, the standard input]"],
    ["PROGRAM", "the program to run for a line; as in GNU parallel, its words"],
    ["", "may have {} (the line), {.} (without extension), {/} (without"],
    ["", "directory), {//} (the directory), {/.} (neither), {#} (its"],
    ["", "number); without any of them the line comes last"],
  ],
  options: [
    ["--json", "lines are JSON values; an array holds several arguments"],
    ["--shell", "give the words, joined by spaces, to sh"],
  ],
  examples: [
    "ls *.wav | forrest add tasklist -- ffmpeg -i {} {.}.mp3",
    "forrest add tasklist ./tasks.ts#fetchPage urls.txt",
  ],
  action: addAll,
};

type Deferred = ReturnType<typeof defer>;
/** Makes the task for a line; the key says which tasks are the same. */
type MakeTask = (line: string, number: number) => { key: unknown; task: Deferred };

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
  const tasks = new TaskList(directory, { existOk: true, preClean: false });
  const { added, known } = await addLines(tasks, file, make);
  const rest = known ? `; ${known} there already` : "";
  write("stdout", `${count(added, "task")} added to \`${directory}\`${rest}\n`);
  if (!added && !known) return 0;
  write("stderr", `To run what waits:  ${program("run", directory)}\n`);
  return 0;
}

/** What the words say: which task a line makes, and where the lines are. */
async function whatToAdd(input: Input): Promise<{ make: MakeTask; file: string }> {
  const words = input.words.slice(1);
  const isProgram = input.rest.length > 0;
  const [surplus, owner] = isProgram ? ["json", "MODULE#EXPORT"] : ["shell", "-- PROGRAM"];
  if (input.is(surplus)) throw new UsageError(`\`--${surplus}\` is for \`${owner}\` only`);
  const make = isProgram
    ? programTask(input.rest, input.is("shell"))
    : await callTask(words.shift(), input.is("json"));
  const [file = "-"] = words;
  if (words.length > 1) {
    const files = words.map(quote).join(" ");
    throw new UsageError(`One file at a time, or \`cat ${files} | forrest add\` and so on`);
  }
  if (file !== "-" && !exists(file)) throw new UsageError(`There is no file \`${file}\``);
  return { make, file };
}

async function addLines(tasks: TaskList, file: string, make: MakeTask) {
  const pending = new Set<Promise<unknown>>();
  const answers = { added: 0, known: 0 };
  let number = 0;
  try {
    for await (const text of linesOf(file)) {
      const line = text.replace(/\r$/, ""); // of a file from Windows
      number++;
      if (!line.trim()) continue;
      if (line.includes("\0")) {
        throw new UsageError(`Line ${number} has a NUL in it: write one argument a line`);
      }
      const { key, task } = make(line, number);
      const scheduled = schedule(tasks, line, key, task).then((isNew) =>
        answers[isNew ? "added" : "known"]++
      );
      pending.add(scheduled);
      scheduled.then(() => pending.delete(scheduled), () => {});
      if (pending.size >= 1000) await Promise.race(pending);
    }
    await Promise.all(pending);
    return answers;
  } catch (error) {
    await Promise.allSettled(pending);
    if (!(error instanceof UsageError) || !answers.added) throw error;
    const before = `; before that, ${count(answers.added, "task")} were added`;
    throw new UsageError(error.message + before);
  }
}

/** Schedules a task under an id that comes from its line; says whether it is new. */
async function schedule(tasks: TaskList, line: string, key: unknown, task: Deferred) {
  const readable = line.replace(/[^\w.,=@+-]+/g, "_").replaceAll(".json@", ".json_");
  const name = readable.replace(/^[._-]+/, "").slice(0, 60);
  const bytes = new TextEncoder().encode(JSON.stringify(key));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes), 0, 6).toHex();
  const { scheduled } = await tasks.schedule(task, { id: name ? `${name}-${digest}` : digest });
  return scheduled;
}

async function callTask(target = "", isJson: boolean): Promise<MakeTask> {
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
    const args = isJson ? parseLine(line, number) : [line];
    return { key: [url.href, isJson, line], task: defer(url, ...args) };
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
  using trial = new TaskList(`${tmpdir()}/forrest-${crypto.randomUUID()}`, { postClean: true });
  const steps = [{ value: { $function: call } }, { value: null }];
  writeFileSync(`${trial.directory}/todo/call.json`, JSON.stringify({ steps }));
  const options = { processes: 1, autokill: 10, onOutput: () => {} };
  for await (const { state, errorValue } of trial.run(options)) {
    const { message } = Object(errorValue);
    if (/ is not a function; it exports /.test(message)) throw new UsageError(message);
    if (state === "fail") write("stderr", `Its module cannot be imported here: ${message}\n`);
  }
}

function parseLine(line: string, number: number): unknown[] {
  let value;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new UsageError(`Line ${number} is not JSON: ${(error as Error).message}`);
  }
  for (const [token] of line.matchAll(/"(?:[^"\\]+|\\.)*"|-?\d[-+.\de]*/gi)) {
    if (token.startsWith('"') || isExact(token)) continue;
    const fix = `write it as text, \`"${token}"\``;
    throw new UsageError(
      `Line ${number}: JavaScript reads the number \`${token}\` as \`${Number(token)}\`: ${fix}`,
    );
  }
  return Array.isArray(value) ? value : [value];
}

/** Whether a number, written with as many digits, is what the text says. */
function isExact(text: string): boolean {
  const digits = significant(text);
  const precision = Math.min(Math.max(digits.length, 1), 100);
  return significant(Number(text).toPrecision(precision)) === digits;
}

/** The digits of a number, from the first one that is not 0. */
const significant = (text: string) => text.replace(/e.*|\D/gi, "").replace(/^0+/, "");

const PLACEHOLDER = /\{(?:|\.|#|\/|\/\/|\/\.)\}/g;

const stem = (path: string) => path.replace(/\.[^/.]*$/, "");
const base = (path: string) => path.replace(/^.*\//s, "");

const meanings: Record<string, (line: string, number: number) => string> = {
  "{}": (line) => line,
  "{.}": stem,
  "{/}": base,
  "{//}": dirname,
  "{/.}": (line) => stem(base(line)),
  "{#}": (_line, number) => `${number}`,
};

function programTask(words: string[], isShell: boolean): MakeTask {
  const isGiven = words.some((word) => word.search(PLACEHOLDER) >= 0);
  const template = isGiven ? words : [...words, "{}"];
  return (line, number) => {
    const fill = (found: string) => {
      const value = meanings[found](line, number);
      return isShell ? quote(value) : value;
    };
    const argv = template.map((word) => word.replace(PLACEHOLDER, fill));
    return {
      key: [template, isShell, line],
      task: command(argv, isShell ? { shell: true } : undefined),
    };
  };
}

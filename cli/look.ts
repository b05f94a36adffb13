/**
 * `forrest status`, `list`, `show` and `logs`: looks at a list, and changes nothing.
 *
 * @module
 */

import { stripVTControlCharacters } from "node:util";
import { resolve } from "@std/path/resolve";
import { locate, type State, states, type TaskList } from "../mod.ts";
import { codeOf, programOf, textOfError } from "./code.ts";
import { type Command, DIR, type Input, program, type Row, UsageError } from "./command.ts";
import { linesOf } from "./lines.ts";
import { deadAmong, directoryOf, exists, findTask, infoOf } from "./list.ts";
import { noTask, noteOnDead, openList } from "./list.ts";
import { Progress, Screen } from "./screen.ts";
import { lineOf, stateAt, type Stored, storedAt } from "./task.ts";
import { count, cut, duration, paint, printable } from "./terminal.ts";
import { columns, widthOfOutput, write, writeAll } from "./terminal.ts";

const FULL: Row = ["--full", "show all of long values [default: cut]"];

export const status: Command = {
  most: 1,
  usage: ["DIR [--watch]"],
  brief: "count the tasks in each state, also while they run",
  about: "Count the tasks in each state, and estimate the time left while they run.",
  words: [DIR],
  options: [["-w, --watch", "go on until nothing is left to do"]],
  examples: ["forrest status tasklist --watch"],
  action: countTasks,
};

export const list: Command = {
  usage: ["DIR [STATE|ID ...] [--full]", "TASK.json ... [--full]"],
  brief: "list tasks, one a line",
  about: "List tasks, one a line: state, id, run time, and value, error or call.",
  words: [DIR, ["STATE", "todo, running, done or fail [default: all]"], ["ID", "a task's id"]],
  options: [FULL],
  examples: ["forrest list tasklist fail"],
  action: listTasks,
};

export const show: Command = {
  usage: ["TASK.json [--full]", "DIR ID [--full]"],
  brief: "show a task: its call, its outcome, what it printed",
  about: "Show a task: its call as code, its value or error, and what it printed.",
  words: [["TASK.json", "the file of the task"], DIR, ["ID", "the id of the task"]],
  options: [FULL],
  examples: ["forrest show tasklist/fail/7.json", "forrest show tasklist 7 --full"],
  action: showTask,
};

export const logs: Command = {
  most: 2,
  usage: ["DIR [ID] [--log FILE]"],
  brief: "print what tasks have printed",
  about: "Print what tasks have printed, and what happened to them when.",
  words: [DIR, ["ID", "only this task"]],
  options: [["--log FILE", "the log of the run [default: DIR/log.txt]"]],
  examples: ["forrest logs tasklist 7"],
  action: printLog,
};

// ------------------------------------------------------------------------------------- status

async function countTasks(input: Input): Promise<number> {
  const directory = directoryOf(input);
  const tasks = openList(directory);
  if (input.is("watch")) return await watch(tasks, directory);
  const counts = tasks.count();
  const dead = deadAmong(tasks.paths("running")).length;
  const widest = Math.max(...Object.values(counts).map((n) => `${n}`.length));
  const rows = Object.entries(counts).map(([state, n]) => {
    const note = state === "running" ? noteOnDead(dead, directory) : "";
    return `${state.padEnd(7)}  ${`${n}`.padStart(widest)}${note}\n`;
  });
  write("stdout", rows.join(""));
  const running = counts.running - dead;
  const rate = running > 0 ? recentRate(tasks) : 0;
  if (!rate) return 0;
  // once little more waits, what runs may be what takes longest
  const left = counts.todo > running ? duration((counts.todo + running) / rate) : "?";
  const digits = Number(rate.toPrecision(2));
  write("stdout", `${digits} tasks a second in the last minute, ${left} left\n`);
  return 0;
}

/** How many tasks a second have ended in the last minute. */
function recentRate(tasks: TaskList): number {
  const paths = [...tasks.paths("done"), ...tasks.paths("fail")];
  const ages = paths.map((path) => (Date.now() - (infoOf(path)?.mtimeMs ?? 0)) / 1000);
  const recent = ages.filter((age) => age < 60);
  return recent.length / recent.reduce((longest, age) => Math.max(longest, age), 1);
}

/** Shows the live line until nothing is left to do; without a terminal, a line for each change. */
async function watch(tasks: TaskList, directory: string): Promise<number> {
  const screen = new Screen(true);
  const progress = new Progress(tasks);
  for (let before = "";;) {
    const counts = progress.counts();
    const note = noteOnDead(deadAmong(tasks.paths("running")).length, directory);
    const text = Object.entries(counts).map(([state, n]) => `${n} ${state}`).join(", ") + note;
    const isOver = counts.todo + counts.running === 0;
    if (screen.isLive && !isOver && !note) screen.show(progress.line(columns()));
    else if (text !== before) screen.print(`${text}\n`, "stdout");
    if (isOver) break;
    before = text;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  screen.end();
  return 0;
}

// --------------------------------------------------------------------------------------- list

const isTaskFile = (path: string): boolean =>
  /\.json(@[^/]*)?$/.test(path) && infoOf(path)?.isDirectory() === false;

async function listTasks(input: Input): Promise<number> {
  await writeAll(linesOfTasks(input));
  return 0;
}

function* linesOfTasks(input: Input): Generator<string, void, void> {
  const directory = directoryOf(input);
  const width = input.is("full") ? Infinity : widthOfOutput();
  if (isTaskFile(directory)) return yield* input.words.map((path) => lineOf(path, width));
  const tasks = openList(directory);
  const [, ...words] = input.words;
  for (const word of words.length ? words : states) {
    if (!states.includes(word as State)) {
      yield lineOf(findTask(directory, tasks, word, ...states), width);
    } else {for (const path of tasks.paths(word as State)) {
        const stored = storedAt(path);
        // what cannot be read may have moved on
        if (!("errorValue" in stored) || exists(path)) yield lineOf(path, width, stored);
      }}
  }
}

// --------------------------------------------------------------------------------------- show

async function showTask(input: Input): Promise<number> {
  const [path, id] = input.words;
  const isFull = input.is("full");
  if (path === undefined) throw new UsageError("TASK.json, the task to show, is missing");
  if (id === undefined && isTaskFile(path)) return await showFile(path, isFull);
  if (id === undefined && /\.json$/.test(path) && !exists(path)) throw noTask(path);
  const directory = directoryOf(input);
  const tasks = openList(directory);
  if (id === undefined) throw new UsageError("ID, the id of the task, is missing");
  return await showFile(findTask(directory, tasks, id), isFull);
}

const LINES = 20; // so many of a value, an error or an output are shown without `--full`

async function showFile(path: string, isFull: boolean): Promise<number> {
  const stored = storedAt(path);
  const { errorValue } = stored;
  const output = await outputOf(path, stored);
  const message = `${Object(Object(errorValue).$error).message}`;
  const [end = "", told = ""] = /\. It last printed:\n(.*)$/s.exec(message) ?? [];
  // an error holds the end of it; of a program, with what this has printed to its standard output
  const printed = told.includes(stripVTControlCharacters(output).trim()) ? told : output;
  const twice = stripVTControlCharacters(printed).includes(told) ? end : "";
  const sections = [
    `${path}\n${factsOf(stateAt(path), stored)}`.trimEnd(),
    Array.isArray(stored.steps) ? programOf(stored.steps) : "",
    "metadata" in stored ? `metadata: ${codeOf(stored.metadata)}` : "",
    "returnValue" in stored ? `value: ${codeOf(stored.returnValue)}` : "",
    "errorValue" in stored ? textOfError(errorValue).replace(twice, "") : "",
  ].filter(Boolean).map((section) => isFull ? section : shorten(section));
  if (printed) sections.push(`It printed:\n${isFull ? printed : shorten(printed, true)}`);
  if ("errorValue" in stored) {
    sections.push(`To run it here, with its stack:\n  ${program("exec", path, "--raise")}`);
  }
  write("stdout", `${sections.join("\n\n")}\n`);
  return 0;
}

/** The first lines of a text, or the last ones, as much of them as fits the width. */
function shorten(text: string, isEnd = false): string {
  const lines = text.split("\n");
  const more = Math.max(0, lines.length - LINES);
  const note = more ? [paint("dim", `... ${count(more, "more line")}: \`--full\` shows all`)] : [];
  const kept = isEnd ? lines.slice(more) : lines.slice(0, LINES);
  const shown = kept.map((line) => cut(printable(line), widthOfOutput()));
  return (isEnd ? [...note, ...shown] : [...shown, ...note]).join("\n");
}

function factsOf(state: string, { attempts, started, runtime }: Stored): string {
  const facts = [
    state,
    typeof attempts === "number" && attempts > 1 ? `${attempts} attempts` : "",
    typeof started === "string" ? `started ${started}` : "",
    typeof runtime === "number" ? `ran ${duration(runtime)}` : "",
  ];
  return facts.filter(Boolean).join(", ");
}

// --------------------------------------------------------------------------------------- logs

const TIME = "2026-11-20T20:00:00.000Z ".length; // at the beginning of each line of a log

/** What a line of a log says of a task, if it is about that: what has happened to it, or what it has printed. */
type Said = { event: string; printed?: undefined } | { printed: string };

function saidOf(line: string, id: string): Said | undefined {
  const text = line.slice(TIME);
  if (text.startsWith(`${id} `)) { // the id of another task may begin with this one
    const said = text.slice(id.length + 1);
    if (said.startsWith("|")) return { printed: said.slice(2) };
    if (/^(is |has |\s)/.test(said)) return { event: said };
  }
  const [ids, ...printed] = text.split(" | "); // a process that holds several prints for all of them
  const isTheirs = printed.length > 0 && ids.split(",").includes(id);
  return isTheirs ? { printed: printed.join(" | ") } : undefined;
}

/** What the log of its list says that a task has printed since it was last started. */
async function outputOf(path: string, { started }: Stored): Promise<string> {
  const { directory, id, state } = locate(resolve(path));
  const log = `${directory}/log.txt`;
  if (!exists(log) || (!started && state === "todo")) return "";
  const isRunning = state === "running"; // when that began, its file does not say
  let isStarted = isRunning;
  let lines: string[] = [];
  for await (const line of linesOf(log, false)) {
    const said = saidOf(line, id);
    if (said?.printed !== undefined) {
      if (isStarted || line >= `${started ?? ""}`) lines.push(said.printed);
    } else if (said) {
      const isStart = said.event === "is started";
      if (isStart || isRunning) lines = []; // what comes now is of another attempt
      if (isStart) isStarted = true;
    }
  }
  return lines.join("\n");
}

async function printLog(input: Input): Promise<number> {
  const directory = directoryOf(input);
  const tasks = openList(directory);
  const [, id] = input.words;
  const log = input.text("log") ?? `${directory}/log.txt`;
  if (!exists(log)) throw new UsageError(`There is no log \`${log}\`: \`forrest run\` writes it`);
  if (id !== undefined) findTask(directory, tasks, id);
  await writeAll(linesAbout(log, id));
  return 0;
}

/** The lines of a log, or those that say something of a task. */
async function* linesAbout(log: string, id?: string): AsyncGenerator<string, void, void> {
  for await (const line of linesOf(log, false)) {
    if (id === undefined || saidOf(line, id)) yield line;
  }
}

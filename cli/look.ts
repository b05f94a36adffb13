/**
 * `forrest status`, `list`, `show` and `logs`: looks at a list, and changes nothing.
 *
 * @module
 */

import { lstatSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";
import statusHelp from "./help/status.txt" with { type: "text" };
import listHelp from "./help/list.txt" with { type: "text" };
import showHelp from "./help/show.txt" with { type: "text" };
import logsHelp from "./help/logs.txt" with { type: "text" };
import { locate, states, type TaskList } from "../mod.ts";
import { codeOf, programOf, textOfError } from "./code.ts";
import { type Command, type Input, nearby, program, UsageError } from "./command.ts";
import { choose, countsIn, deadIn, directoryOf, exists, findTask } from "./list.ts";
import { isTaskFile, jsonOf, lineOf, noTask, noteOnDead, openList } from "./list.ts";
import { type Stored, type Task, taskAt, taskIn } from "./list.ts";
import { linesOf, saidOf, triesIn, type Try } from "./log.ts";
import { Progress } from "./live.ts";
import { Screen } from "./screen.ts";
import { count, cut, duration, paint, printable } from "./terminal.ts";
import { widthOfOutput, write, writeAll } from "./terminal.ts";

export const status: Command = { help: statusHelp, most: 1, action: countTasks };
export const list: Command = { help: listHelp, action: listTasks };
export const show: Command = { help: showHelp, action: showTask };
export const logs: Command = { help: logsHelp, most: 2, action: printLog };

// ------------------------------------------------------------------------------------- status

async function countTasks(input: Input): Promise<void> {
  const tasks = openList(directoryOf(input));
  if (input.is("watch")) return await watch(tasks);
  const counts = tasks.count();
  const dead = deadIn(tasks);
  const widest = Math.max(...Object.values(counts).map((n) => `${n}`.length));
  for (const [state, n] of Object.entries(counts)) {
    const note = state === "running" ? noteOnDead(tasks, dead) : "";
    write("stdout", `${state.padEnd(7)}  ${`${n}`.padStart(widest)}${note}\n`);
  }
  const running = counts.running - dead;
  const rate = running > 0 ? recentRate(tasks) : 0;
  if (!rate) return;
  // once little more waits, what runs may be what takes longest
  const left = counts.todo > running ? duration((counts.todo + running) / rate) : "?";
  const digits = Number(rate.toPrecision(2));
  write("stdout", `${digits} tasks a second in the last minute, ${left} left\n`);
}

/** How many tasks a second have ended in the last minute. */
function recentRate(tasks: TaskList): number {
  const paths = [...tasks.paths("done"), ...tasks.paths("fail")];
  const timeOf = (path: string) => lstatSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const ages = paths.map((path) => (Date.now() - timeOf(path)) / 1000);
  const recent = ages.filter((age) => age < 60);
  return recent.length / recent.reduce((longest, age) => Math.max(longest, age), 1);
}

/** Shows the live line until nothing is left to do; without a terminal, a line for each change. */
async function watch(tasks: TaskList): Promise<void> {
  const screen = new Screen();
  const progress = new Progress(tasks);
  for (let before = "";;) {
    const counts = progress.counts();
    const note = noteOnDead(tasks);
    const text = countsIn(counts) + note;
    const isOver = counts.todo + counts.running === 0;
    if (screen.isLive && !isOver && !note) screen.show(progress.line());
    else if (text !== before) screen.print(`${text}\n`, "stdout");
    if (isOver) break;
    before = text;
    await setTimeout(200);
  }
  screen.end();
}

// --------------------------------------------------------------------------------------- list

async function listTasks(input: Input): Promise<void> {
  const directory = directoryOf(input);
  if (isTaskFile(directory) && !exists(directory)) throw noTask(directory);
  const width = input.is("full") ? Infinity : widthOfOutput();
  const isFile = isTaskFile(directory);
  const paths = isFile ? input.words : choose(input, openList(directory), states);
  const tasks = Iterator.from(paths).map((path) => taskAt(path));
  const hasMoved = ({ path, stored }: Task) => !isFile && "errorValue" in stored && !exists(path);
  const there = tasks.filter((task) => !hasMoved(task));
  await writeAll(there.map((task) => input.is("json") ? jsonOf(task) : lineOf(task, width)));
}

// --------------------------------------------------------------------------------------- show

async function showTask(input: Input): Promise<void> {
  const [path] = taskIn(input);
  if (path === undefined) throw new UsageError("TASK.json, the task to show, is missing");
  if (!exists(path)) throw noTask(path);
  await showFile(path, input.is("full"));
}

const LINES = 20; // so many of a value, an error or an output are shown without `--full`

async function showFile(path: string, isFull: boolean): Promise<void> {
  const { directory, id, state, name, isOfLine, stored } = taskAt(path);
  const { errorValue } = stored;
  const log = `${directory}/log.txt`;
  const isNew = state === "todo" && stored.started === undefined;
  const tries = exists(log) && !isNew ? (await triesIn(log, id)).get(id) ?? [] : [];
  const output = tries.at(-1)?.printed?.join("\n") ?? "";
  const message = `${Object(Object(errorValue).$error).message}`;
  const [end = "", told = ""] = /\. It last printed:\n(.*)$/s.exec(message) ?? [];
  // an error holds the end of it; of a program, with what this has printed to its standard output
  const printed = told.includes(stripVTControlCharacters(output).trim()) ? told : output;
  const twice = stripVTControlCharacters(printed).includes(told) ? end : "";
  const sections = [
    `${isOfLine ? `${name}\n` : ""}${path}\n${factsOf(state, stored)}`.trimEnd(),
    Array.isArray(stored.steps) ? programOf(stored.steps) : "",
    "metadata" in stored && !isOfLine ? `metadata: ${codeOf(stored.metadata)}` : "",
    triesText(tries.slice(-(Number(stored.attempts) || 1), -1)),
    "returnValue" in stored ? `value: ${codeOf(stored.returnValue)}` : "",
    "errorValue" in stored ? textOfError(errorValue).replace(twice, "") : "",
  ].filter(Boolean).map((section) => isFull ? section : shorten(section));
  if (printed) sections.push(`It printed:\n${isFull ? printed : shorten(printed, true)}`);
  if ("errorValue" in stored) {
    sections.push(`To run it here, with its stack:\n  ${program("exec", path, "--raise")}`);
  }
  write("stdout", `${sections.join("\n\n")}\n`);
}

/** The tries of a task before the last one, each with its time. */
function triesText(before: Try[]): string {
  const rows = before.map(({ started, seconds, error = "failed" }) => {
    const ran = seconds === undefined ? "" : `ran ${duration(seconds)}, `;
    return `\n  ${new Date(started).toISOString()}, ${ran}${error}`;
  });
  return rows.length ? `Tried before:${rows.join("")}` : "";
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

function factsOf(state: string, { cwd, attempts, started, runtime }: Stored): string {
  const facts = [
    state,
    typeof cwd === "string" && nearby(cwd) !== "." ? `in ${nearby(cwd)}` : "",
    typeof attempts === "number" && attempts > 1 ? `${attempts} attempts` : "",
    typeof started === "string" ? `started ${started}` : "",
    typeof runtime === "number" ? `ran ${duration(runtime)}` : "",
  ];
  return facts.filter(Boolean).join(", ");
}

// --------------------------------------------------------------------------------------- logs

async function printLog(input: Input): Promise<void> {
  const tasks = openList(directoryOf(input));
  const [directory, word] = input.words;
  const log = input.text("log") ?? `${directory}/log.txt`;
  if (!exists(log)) throw new UsageError(`There is no log \`${log}\`: \`forrest run\` writes it`);
  const id = word === undefined ? undefined : locate(findTask(tasks, word)).id;
  await writeAll(linesAbout(log, id));
}

/** The lines of a log, or those that say something of a task. */
async function* linesAbout(log: string, id?: string): AsyncGenerator<string, void, void> {
  for await (const line of linesOf(log, false)) {
    if (id === undefined || saidOf(line, id)) yield line;
  }
}

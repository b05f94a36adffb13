#!/usr/bin/env -S deno run -A
/**
 * The `forrest` command: runs, fills and looks at lists of tasks.
 *
 * @example
 * ```sh
 * ls *.wav | forrest add tasklist -- ffmpeg -i {} {.}.mp3
 * forrest run tasklist
 * ```
 *
 * @module
 */

import { parseArgs } from "deno-std/cli/parse_args.js"; // @std/cli, by its name on the npm registry
import { command, defer, exec, type RunOptions, type State, type Task, TaskList } from "./mod.ts";
import { callOf, codeOf, headOfError, programOf, textOfError } from "./src/code.ts";
import { newOwner, pathsIn, recover } from "./src/claims.ts";
import { exists, infoOf, locate, stateOf, states } from "./src/files.ts";
import { isIgnored } from "./src/processes.ts";
import type { Step } from "./src/steps.ts";
import {
  fileUrl,
  fullPath,
  isBundled,
  isSpecifier,
  LONGEST_TIMER,
  parse as parseJson,
  pathOf,
  sleep,
  type Stream,
  system,
} from "./src/system.ts";
import {
  columns,
  count,
  cut,
  duration,
  isSignal,
  isTerminal,
  nearby,
  paint,
  printable,
  program,
  Progress,
  quote,
  Screen,
  widthOfOutput,
  write,
} from "./src/terminal.ts";
import { encodeThrown } from "./src/values.ts";

// -------------------------------------------------------------------------------- the commands

interface Option {
  name: string;
  letter?: string;
  /** What stands for its value in the help; without one it is a flag. */
  value?: string;
  /** It may be given several times. */
  isMany?: true;
  about: string;
}

interface Command {
  usage: string[];
  /** How many words it takes, if not any number. */
  most?: number;
  /** What the list of all commands says. */
  brief: string;
  about: string;
  words?: [name: string, about: string][];
  options?: Option[];
  examples: string[];
  action(input: Input): number | Promise<number>;
}

const DIR: [string, string] = ["DIR", "the directory of the task list"];
const SESSION: Option = {
  name: "session",
  letter: "s",
  value: "MODULE",
  about: "what it exports, functions stored as text can use",
};
const FULL: Option = { name: "full", about: "show all of long values [default: cut]" };
const YES: Option = { name: "yes", letter: "y", about: "do not ask" };
const LOG: Option = {
  name: "log",
  value: "FILE",
  about: "where to log [default: DIR/log.txt, for `show`]",
};

const commands: Record<string, Command> = {
  run: {
    most: 1,
    usage: ["DIR [options]"],
    brief: "run what waits in a list",
    about: "Run what waits in a task list. Started again, it goes on with what is left.",
    words: [DIR],
    options: [
      {
        name: "processes",
        letter: "j",
        value: "N",
        about: "tasks to run at once [default: one a CPU]",
      },
      { name: "autokill", value: "S", about: "kill a task after S seconds [default: never]" },
      { name: "retries", value: "N", about: "try a failed task again N times [default: 0]" },
      {
        name: "retry-delay",
        value: "S",
        about: "wait S seconds first, then twice that [default: 0]",
      },
      { name: "max-failures", value: "N", about: "give up after more failures [default: never]" },
      {
        name: "tasks-per-process",
        value: "N",
        about: "then a new process takes over [default: 1]",
      },
      { name: "concurrency", value: "N", about: "tasks that one process holds [default: 1]" },
      {
        name: "permission",
        value: "FLAG",
        isMany: true,
        about: "as in --permission=--allow-net [default: all]",
      },
      SESSION,
      { name: "time-left", value: "S", about: "end in order within S seconds [default: no end]" },
      {
        name: "stop-signal",
        value: "NAME",
        about: "end in order, with code 75, on it and on SIGTERM",
      },
      LOG,
      { name: "print-errors", about: "print the stack of each error at once" },
      { name: "json", about: "a JSON object for each task; all else on stderr" },
      { name: "quiet", letter: "q", about: "only whether tasks have failed, and what they print" },
    ],
    examples: ["forrest run tasklist -j 8 --autokill 60 --retries 2"],
    action: run,
  },
  exec: {
    most: 2,
    usage: ["TASK.json [OUT.json] [options]"],
    brief: "run one task, to debug it or for xargs",
    about: `Run one task and print its value. A task in the \`todo\` of a list is claimed, and
its outcome is filed in the list; any other stays as it is, as does each with
OUT.json or --raise.`,
    words: [["TASK.json", "the task"], ["OUT.json", "where to write the outcome"]],
    options: [
      { name: "raise", about: "throw what the task throws, here, and change no file" },
      { name: "print", about: "print the whole error [default: its first line]" },
      SESSION,
      { name: "inspect-brk", about: "wait for a debugger, and stop before the first line" },
    ],
    examples: [
      "forrest exec tasklist/fail/7.json --raise",
      "ls tasklist/todo/*.json | xargs -n 1 -P 8 forrest exec",
    ],
    action: execute,
  },
  add: {
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
      { name: "json", about: "lines are JSON values; an array holds several arguments" },
      { name: "shell", about: "give the words, joined by spaces, to sh" },
    ],
    examples: [
      "ls *.wav | forrest add tasklist -- ffmpeg -i {} {.}.mp3",
      "forrest add tasklist ./tasks.ts#fetchPage urls.txt",
    ],
    action: add,
  },
  status: {
    most: 1,
    usage: ["DIR [--watch]"],
    brief: "count the tasks in each state, also while they run",
    about: "Count the tasks in each state, and estimate the time left while they run.",
    words: [DIR],
    options: [{ name: "watch", letter: "w", about: "go on until nothing is left to do" }],
    examples: ["forrest status tasklist --watch"],
    action: status,
  },
  list: {
    usage: ["DIR [STATE|ID ...] [--full]", "TASK.json ... [--full]"],
    brief: "list tasks, one a line",
    about: "List tasks, one a line: state, id, run time, and value, error or call.",
    words: [DIR, ["STATE", "todo, running, done or fail [default: all]"], ["ID", "a task's id"]],
    options: [FULL],
    examples: ["forrest list tasklist fail"],
    action: list,
  },
  show: {
    usage: ["TASK.json [--full]", "DIR ID [--full]"],
    brief: "show a task: its call, its outcome, what it printed",
    about: "Show a task: its call as code, its value or error, and what it printed.",
    words: [["TASK.json", "the file of the task"], DIR, ["ID", "the id of the task"]],
    options: [FULL],
    examples: ["forrest show tasklist/fail/7.json", "forrest show tasklist 7 --full"],
    action: show,
  },
  logs: {
    most: 2,
    usage: ["DIR [ID] [--log FILE]"],
    brief: "print what tasks have printed",
    about: "Print what tasks have printed, and what happened to them when.",
    words: [DIR, ["ID", "only this task"]],
    options: [{ ...LOG, about: "the log of the run [default: DIR/log.txt]" }],
    examples: ["forrest logs tasklist 7"],
    action: logs,
  },
  retry: {
    usage: ["DIR [ID ...]"],
    brief: "move failed tasks back to those that wait",
    about: "Move failed tasks back to those that wait, for the next run.",
    words: [DIR, ["ID", "the tasks to move [default: all that failed]"]],
    examples: ["forrest retry tasklist && forrest run tasklist"],
    action: retry,
  },
  clean: {
    most: 1,
    usage: ["DIR [--todo] [--done] [--fail] [--yes]"],
    brief: "remove tasks of some states",
    about: "Remove the tasks of the states named. Without any: all tasks, after a question.",
    words: [DIR],
    options: [
      { name: "todo", about: "tasks that wait" },
      { name: "done", about: "tasks that have a value" },
      { name: "fail", about: "tasks that have an error" },
      YES,
    ],
    examples: ["forrest clean tasklist --done"],
    action: clean,
  },
  reset: {
    most: 1,
    usage: ["DIR [--yes]"],
    brief: "remove a list",
    about:
      "Remove a list, after a question: tasks, log and folders.\nWhat else lies in its directory stays.",
    words: [DIR],
    options: [YES],
    examples: ["forrest reset tasklist"],
    action: reset,
  },
  report: {
    most: 1,
    usage: ["DIR [-o FILE] [--trace FILE]"],
    brief: "write a page with a timeline and all failures",
    about: "Write a page with totals, a timeline, run times, and failures by their message.",
    words: [DIR],
    options: [
      { name: "output", letter: "o", value: "FILE", about: "the page [default: report.html]" },
      {
        name: "trace",
        value: "FILE",
        about: "a trace for Perfetto, in the Chrome format, instead",
      },
    ],
    examples: ["forrest report tasklist -o report.html"],
    action: report,
  },
};

const EXIT_CODES: [string, string][] = [
  ["0", "nothing is left to do here, and no task has failed meanwhile"],
  ["1", "a task has failed, or something else went wrong"],
  ["2", "wrong usage"],
  ["75", "another run has the task, or this one was to stop: run it again"],
  ["129, 130, 143", "ended by SIGHUP, by Ctrl-C, by SIGTERM"],
];

/** Runs the command that `words` say; gives the exit code. */
async function main(words: string[]): Promise<number> {
  const [name = "help", ...rest] = words;
  try {
    if (name === "--version" || name === "-V") return await printVersion();
    if (name === "help" || name === "-h" || name === "--help") {
      return await help(rest.find((word) => !word.startsWith("-")));
    }
    const chosen = await commandNamed(name);
    const input = await parse(chosen, rest);
    if (input.is("help")) return await help(name);
    const surplus = input.words[chosen.most ?? Infinity];
    if (surplus !== undefined) throw new UsageError(`\`${surplus}\` is a word too many`);
    return await chosen.action(input);
  } catch (error) {
    if (error instanceof Raised) throw error.cause;
    const isUsage = error instanceof UsageError;
    const isKnown = Object.hasOwn(commands, name);
    const hint = isUsage ? `See \`forrest ${isKnown ? `${name} -h` : "help"}\`.\n` : "";
    write("stderr", `forrest${isKnown ? ` ${name}` : ""}: ${explain(error, rest[0])}\n${hint}`);
    return isUsage ? 2 : 1;
  }
}

/** Something that a person can put right in the words of the command. */
class UsageError extends Error {}

/** Holds what a task has thrown, for the runtime to print it as it is. */
class Raised extends Error {}

async function commandNamed(name: string): Promise<Command> {
  if (Object.hasOwn(commands, name)) return commands[name];
  throw new UsageError(await unknown("command", name, Object.keys(commands)));
}

async function unknown(what: string, word: string, valid: string[]): Promise<string> {
  const { closestString } = await import("deno-std/text/closest_string.js");
  const nearest = printable(closestString(word, valid));
  return `There is no ${what} \`${printable(word)}\`; the nearest is \`${nearest}\``;
}

const NOT_ALLOWED = "you are not allowed to; look at who owns it, and at its mode";
const FULL_DISK = "no space is left; no task is lost: make room, and start the command again";
const REASONS: Record<string, string> = {
  EACCES: NOT_ALLOWED,
  EPERM: NOT_ALLOWED,
  EROFS: "it lies in a file system that can only be read",
  ENOSPC: FULL_DISK,
  EDQUOT: FULL_DISK,
  ENOENT: "it, or its directory, does not exist",
  ENOTDIR: "a part of its path is a file",
  EISDIR: "it is a directory",
};

/** Says what happened, where (`directory`, if the error does not know), and what to do about it. */
function explain(error: unknown, directory?: string): string {
  if (!(error instanceof Error)) return String(error);
  const { code = "", path: own } = error as { code?: string; path?: string };
  if (!Object.hasOwn(REASONS, code)) return error.message;
  const path = own ?? /['"]([^'"]+)['"]/.exec(error.message)?.[1];
  const place = (path ?? directory ?? ".").replace(/(?<=\.json)@.*/s, "");
  return `Cannot use \`${place}\`: ${REASONS[code]} (${code})`;
}

// -------------------------------------------------------------------------- words and options

/** The words after a command, and its options. */
interface Input {
  words: string[];
  /** What follows `--`. */
  rest: string[];
  is(flag: string): boolean;
  text(option: string): string | undefined;
  number(option: string): number | undefined;
  all(option: string): string[];
}

async function parse(command: Command, args: string[]): Promise<Input> {
  const options: Option[] = [...command.options ?? [], { name: "help", letter: "h", about: "" }];
  const names = (isWanted: (option: Option) => unknown) =>
    options.filter(isWanted).map((o) => o.name);
  const lettered = options.filter(({ letter }) => letter);
  // as in `--yes=no`, which the parser takes for `--yes`
  const ours = args.includes("--") ? args.slice(0, args.indexOf("--")) : args;
  const given = new Set(ours.flatMap((word) => /^--([^=]+)=/.exec(word)?.[1] ?? []));
  let wrong: string | undefined;
  const values = parseArgs(args, {
    "--": true,
    boolean: names(({ value }) => !value),
    string: ["_", ...names(({ value }) => value)],
    collect: names(({ isMany }) => isMany),
    alias: Object.fromEntries(lettered.map(({ name, letter }) => [name, letter])),
    unknown(word: string, key?: string) {
      if (key !== undefined) wrong ??= word.replace(/=.*/s, "");
    },
  });
  if (wrong !== undefined) {
    const valid = options.flatMap(({ name, letter }) => [`--${name}`, `-${letter ?? "-" + name}`]);
    throw new UsageError(await unknown("option", wrong, valid));
  }
  for (const name of names(({ value }) => !value)) {
    if (typeof values[name] === "boolean" && !given.has(name)) continue;
    throw new UsageError(
      `\`--${name}\` takes no value; write letters apart, as in \`-q -j 4\``,
    );
  }
  for (const name of names(({ value }) => value)) {
    if (![values[name]].flat().includes("")) continue;
    throw new UsageError(`\`--${name}\` needs a value, as in \`--${name}=...\``);
  }
  return {
    words: values._.map(String),
    rest: values["--"],
    is: (flag) => values[flag] === true,
    text: (option) => values[option],
    number: (option) => values[option] === undefined ? undefined : numberOf(option, values[option]),
    all: (option) => values[option] ?? [],
  };
}

function numberOf(option: string, text: string): number {
  if (/^(\d+\.?|\d*\.\d+)(e\+?\d+)?$/i.test(text)) return Number(text);
  throw new UsageError(`\`--${option}\` must be a number such as 60; it is \`${printable(text)}\``);
}

async function help(name?: string): Promise<number> {
  write("stdout", name === undefined ? helpOfAll() : helpOf(name, await commandNamed(name)));
  return 0;
}

function helpOfAll(): string {
  const rows = Object.entries(commands).map(([name, { brief }]): [string, string] => [name, brief]);
  return `Run your loop in parallel. Each task is a file; its folder is its state.

Usage: forrest COMMAND DIR [options]

Commands:
${inColumns([...rows, ["help", "say more of a command, as \`forrest run -h\` does"]])}
Options:
${inColumns([["-h, --help", "print this"], ["-V, --version", "print the version"]])}
Example:
  ls *.wav | forrest add tasklist -- ffmpeg -i {} {.}.mp3
  forrest run tasklist

Exit codes:
${inColumns(EXIT_CODES)}`;
}

function helpOf(
  name: string,
  { usage, about, words = [], options = [], examples }: Command,
): string {
  const rows = options.map(({ name, letter, value, about }): [string, string] => [
    `${letter ? `-${letter},` : "   "} --${name}${value ? ` ${value}` : ""}`,
    about,
  ]);
  const usages = usage.map((line) => `forrest ${name} ${line}`).join("\n       ");
  const parts = [
    `Usage: ${usages}\n\n${about}\n`,
    words.length ? `Arguments:\n${inColumns(words)}` : "",
    rows.length ? `Options:\n${inColumns(rows)}` : "",
    `Example:\n${examples.map((example) => `  ${example}\n`).join("")}`,
  ];
  return parts.filter(Boolean).join("\n");
}

function inColumns(rows: [string, string][]): string {
  const width = Math.max(...rows.map(([first]) => first.length));
  return rows.map(([first, second]) => `  ${first.padEnd(width)}  ${second}\n`).join("");
}

async function printVersion(): Promise<number> {
  const { default: config } = await import("./deno.json", { with: { type: "json" } });
  write("stdout", `forrest ${config.version}\n`);
  return 0;
}

/** The one list that a command is about. */
function directoryOf({ words: [directory] }: Input): string {
  if (!directory) throw new UsageError("DIR, the directory of the list, is missing");
  return directory.replace(/(?<=.)\/+$/, "");
}

/** Takes a list that is there; makes none. */
function openList(directory: string, logFile?: string): TaskList {
  const names = namesIn(directory);
  const make = `\`forrest add ${quote(directory)} ...\` makes one`;
  if (!names) throw new UsageError(`There is no task list \`${directory}\`; ${make}`);
  if (!names.includes("todo")) {
    throw new UsageError(`\`${directory}\` is no task list: it has no folder \`todo\``);
  }
  return new TaskList(directory, { existOk: true, preClean: false, logFile });
}

/** What lies in a directory; undefined if it does not exist. */
function namesIn(directory: string): string[] | undefined {
  try {
    return Array.from(system.readDirSync(directory), ({ name }) => name);
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === "ENOENT") return undefined;
    if (code !== "ENOTDIR") throw error;
    throw new UsageError(`\`${directory}\` is a file, or in one; not the directory of a task list`);
  }
}

// ----------------------------------------------------------------------------------------- run

const AGAIN = 75;

async function run(input: Input): Promise<number> {
  const directory = directoryOf(input);
  const tasks = openList(directory, input.text("log") ?? `${directory}/log.txt`);
  const [isJson, isQuiet] = [input.is("json"), input.is("quiet")];
  const out = isJson ? "stderr" : "stdout";
  const screen = new Screen(!isQuiet);
  const progress = new Progress(tasks);
  const clock = new Clock(input.number("time-left"));
  const stop = new Stop(clock, screen, input.text("stop-signal"));
  const live = screen.isLive ? setInterval(() => screen.show(progress.line(columns())), 100) : 0;
  const failed: string[] = [];
  let done = 0;
  let problem: unknown;
  try {
    const running = tasks.run({
      ...runOptions(input),
      signal: stop.signal,
      mayStart: clock.seconds < Infinity ? () => clock.mayStart() : undefined,
      onOutput: (text, stream, id) => screen.output(text, isJson ? "stderr" : stream, id),
    });
    for await (const task of running) {
      const path = `${directory}/${task.state}/${task.id}.json`;
      clock.saw(task.runtime);
      screen.flush(task.id);
      if (task.state === "done") done++;
      else failed.push(task.id);
      if (isJson) write("stdout", `${JSON.stringify(outcomeAt(path, task))}\n`);
      else if (!isQuiet) screen.print(`${lineOf(path)}\n`, out);
      if (input.is("print-errors") && task.state === "fail") {
        screen.print(`${textOfError(storedAt(path).errorValue)}\n`, "stderr");
      }
    }
  } catch (error) {
    problem = error;
  } finally {
    clearInterval(live);
    stop.release();
    screen.end();
  }
  if (problem instanceof RangeError) throw new UsageError(withOptionNames(problem.message));
  const counts = tasks.count();
  if (!isQuiet && (!problem || done || failed.length)) {
    write(out, `${summary(counts, done, failed.length, progress.elapsed())}\n`);
  }
  if (failed.length) write("stderr", failures(directory, failed, input));
  const isOver = stop.reason === TIME_IS_OVER || !clock.mayStart();
  if (isOver ? counts.todo : stop.reason) {
    const reason = stop.reason || TIME_IS_OVER;
    const waiting = `${count(counts.todo, "task")} ${counts.todo === 1 ? "is" : "are"} in \`todo\``;
    write("stderr", `${reason}: nothing runs any more, ${waiting}.\n`);
    if (counts.todo) write("stderr", `To go on:  ${program()} run ${quote(directory)}\n`);
    return stop.code || AGAIN;
  }
  if (problem) throw problem instanceof Error ? named(problem) : problem;
  return failed.length ? 1 : 0;
}

function runOptions(input: Input): RunOptions {
  const permissions = input.all("permission");
  return {
    processes: input.number("processes"),
    autokill: input.number("autokill"),
    retries: input.number("retries"),
    retryDelay: input.number("retry-delay"),
    maxFailures: input.number("max-failures"),
    tasksPerProcess: input.number("tasks-per-process"),
    concurrency: input.number("concurrency"),
    permissions: permissions.length ? permissions : undefined,
    session: sessionOf(input),
  };
}

/** The session module, which must be there if it is a file. */
function sessionOf(input: Input): string | undefined {
  const session = input.text("session");
  if (!session || mayBeModule(session)) return session;
  throw new UsageError(`\`--session\`: there is no module \`${session}\``);
}

/** Whether there may be such a module: of a file, that is looked up. */
const mayBeModule = (specifier: string): boolean => isSpecifier(specifier) || exists(specifier);

/** The names that the options of `run()` have here. */
function withOptionNames(message: string): string {
  const withDashes = (name: string) => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
  const ofRun = /`(processes|autokill|retr\w+|max\w+|tasks\w+|concurrency)(: |`)/g;
  return message.replace(
    ofRun,
    (_, name, end) => `\`--${withDashes(name)}${end === "`" ? end : " "}`,
  );
}

function named(error: Error): Error {
  error.message = withOptionNames(error.message);
  return error;
}

function summary(
  counts: Record<State, number>,
  done: number,
  failed: number,
  seconds: number,
): string {
  const { todo, running } = counts;
  if (!done && !failed && !todo && !running) {
    const hint = counts.fail ? " (to let them run again: `forrest retry`)" : "";
    return `Nothing to do: no task waits; ${counts.done} done, ${counts.fail} failed before${hint}`;
  }
  const rest = [todo ? `${todo} waiting` : "", running ? `${running} running elsewhere` : ""];
  const parts = [`${done} done`, `${failed} failed`, ...rest.filter(Boolean)];
  return `${count(done + failed, "task")} in ${duration(seconds)}: ${parts.join(", ")}`;
}

/** The last lines of a run in which tasks have failed. */
function failures(directory: string, ids: string[], input: Input): string {
  const first = `${directory}/fail/${ids[0]}.json`;
  const session = input.text("session");
  const again = `${program()} exec ${quote(first)} --raise${
    session ? ` -s ${quote(session)}` : ""
  }`;
  const retry = `${program()} retry ${quote(directory)}`;
  return `${ids.length > 1 ? `${ids.length} tasks have` : "A task has"} failed.
To run ${ids.length > 1 ? "the first of them" : "it"} here, with its stack:  ${again}
To let ${ids.length > 1 ? "them" : "it"} run again:  ${retry}
`;
}

const TIME_IS_OVER = "The time is over (`--time-left`)";

/** Knows what can still be done in the time that is left. */
class Clock {
  readonly seconds: number;
  #runtimes: number[] = [];
  #expected = 0;

  constructor(seconds = Infinity) {
    this.seconds = seconds;
  }

  left(): number {
    return this.seconds - performance.now() / 1000; // which counts from the start of this program
  }

  saw(runtime = 0): void {
    if (this.seconds === Infinity) return;
    this.#runtimes = [...this.#runtimes.slice(-99), runtime];
    const sorted = this.#runtimes.toSorted((a, b) => a - b);
    this.#expected = sorted[Math.floor(sorted.length * 0.9)]; // which nine of ten do not exceed
  }

  mayStart(): boolean {
    return this.left() > this.#expected + 1;
  }

  /** Calls `action` a second before the end: time to kill what runs, and to put it back. */
  beforeEnd(action: () => void): () => void {
    if (this.seconds * 1000 > LONGEST_TIMER) return () => {};
    const timer = setTimeout(action, Math.max(0, this.left() - 1) * 1000);
    return () => clearTimeout(timer);
  }
}

/** Ends a run in order on a signal or at the end of its time, and at once on a second signal. */
class Stop {
  #controller = new AbortController();
  #undo: (() => void)[] = [];
  readonly signal = this.#controller.signal;
  reason = "";
  code = 0;

  constructor(clock: Clock, screen: Screen, stopSignal?: string) {
    const codes: Record<string, number> = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };
    if (stopSignal) {
      codes[stopSignal.toUpperCase().replace(/^(SIG)?/, "SIG")] = codes.SIGTERM = AGAIN;
    }
    for (const [name, code] of Object.entries(codes)) {
      const reason = name === "SIGINT" ? "Interrupted" : `Stopped by ${name}`;
      this.#listen(name, () => {
        if (!this.signal.aborted) return this.#end(reason, code);
        screen.end();
        system.exit(code);
      });
    }
    this.#undo.push(clock.beforeEnd(() => this.#end(TIME_IS_OVER, AGAIN)));
  }

  #listen(name: string, listener: () => void): void {
    if (isIgnored(name)) return;
    try {
      if (!isSignal(name)) throw new TypeError();
      system.addSignalListener(name as Deno.Signal, listener);
    } catch {
      throw new UsageError(
        `\`--stop-signal\`: there is no signal \`${printable(name)}\` to wait for`,
      );
    }
    this.#undo.push(() => system.removeSignalListener(name as Deno.Signal, listener));
  }

  #end(reason: string, code: number): void {
    [this.reason, this.code] = [reason, code];
    this.#controller.abort();
  }

  release(): void {
    for (const undo of this.#undo) undo();
  }
}

// ---------------------------------------------------------------------------------------- exec

async function execute(input: Input): Promise<number> {
  const [path, output] = input.words;
  if (path === undefined) throw new UsageError("TASK.json, the task to run, is missing");
  if (input.is("inspect-brk")) return await debug();
  const { directory, state, id } = locate(fullPath(path));
  const isRaising = input.is("raise");
  if (state === "todo" && !output && !isRaising && /\.json$/.test(path)) {
    return await runOne(nearby(directory || "/"), id, input);
  }
  if (!exists(path)) throw noTask(path);
  if (output && stateAt(output) && exists(`${locate(fullPath(output)).directory}/todo`)) {
    const fix = "one task at a time, as by `xargs -n 1`, or another place for its outcome";
    throw new UsageError(`\`${output}\` is the place of a task: ${fix}`);
  }
  let task;
  try {
    task = await exec(path, { raise: isRaising, output, session: sessionOf(input) });
  } catch (error) {
    if (isRaising) throw new Raised("", { cause: error });
    throw error;
  }
  if ("errorValue" in task) {
    complain(path, task.errorValue, input);
    return 1;
  }
  if (!output && task.returnValue !== undefined) console.log(task.returnValue);
  return 0;
}

/** Claims one task of a list, runs it, and files its outcome. */
async function runOne(directory: string, id: string, input: Input): Promise<number> {
  const tasks = openList(directory, `${directory}/log.txt`);
  const screen = new Screen(false);
  const stop = new Stop(new Clock(), screen);
  const options = { processes: 1, ids: [id], session: sessionOf(input), signal: stop.signal };
  const onOutput = (text: string, stream: Stream) => write(stream, text);
  let isMine = false;
  for await (const { state, errorValue, returnValue } of tasks.run({ ...options, onOutput })) {
    isMine = true;
    if (state === "fail") complain(`${directory}/fail/${id}.json`, errorValue, input);
    else if (returnValue !== undefined) console.log(returnValue);
  }
  stop.release();
  if (stop.reason) {
    write("stderr", `${stop.reason}: the task is back in \`todo\`\n`);
    return stop.code;
  }
  return whatBecameOf(directory, id, isMine);
}

/** The exit code for a task of a list: what this process has not done, another one may have. */
function whatBecameOf(directory: string, id: string, isMine: boolean): number {
  const state = stateOf(directory, id);
  if (!state) throw noTask(`${directory}/todo/${id}.json`);
  if (!isMine) {
    const where = state === "running" ? "another run has it" : `it is in \`${state}\` already`;
    write("stderr", `Not run: \`${printable(id)}\`, as ${where}\n`);
  }
  return state === "done" ? 0 : state === "fail" ? 1 : AGAIN;
}

function noTask(path: string): UsageError {
  return new UsageError(`There is no task \`${path}\`; \`forrest list DIR\` names those of a list`);
}

function complain(path: string, error: unknown, input: Input): void {
  const stored = encodeThrown(error);
  const text = input.is("print") ? textOfError(stored) : headOfError(stored);
  const again = `${program()} exec ${quote(path)} --raise`;
  write("stderr", `${printable(locate(path).id)}: ${text}\nTo see where: ${again}\n`);
}

/** Starts this program again, in the debugger. */
async function debug(): Promise<number> {
  if (isBundled) {
    throw new UsageError("`--inspect-brk` needs the source of forrest: use Deno or Bun");
  }
  const words = system.args.filter((word) => word !== "--inspect-brk");
  const { spawnSync } = await import("node:child_process");
  const start = globalThis.Deno
    ? ["run", "-A", "--inspect-brk", import.meta.url]
    : ["--inspect-brk", pathOf(import.meta.url)];
  const args = [...start, ...words];
  return spawnSync(system.execPath(), args, { stdio: "inherit" }).status ?? 1;
}

// ----------------------------------------------------------------------------------------- add

/** Makes the task for a line; the key says which tasks are the same. */
type MakeTask = (line: string, number: number) => { key: unknown; task: ReturnType<typeof defer> };

async function add(input: Input): Promise<number> {
  const directory = directoryOf(input);
  const names = namesIn(directory);
  if (names?.length && !names.includes("todo")) {
    throw new UsageError(`\`${directory}\` is no task list, but not empty: choose a new directory`);
  }
  const words = input.words.slice(1);
  const [surplusOption, owner] = input.rest.length
    ? ["json", "MODULE#EXPORT"]
    : ["shell", "-- PROGRAM"];
  if (input.is(surplusOption)) {
    throw new UsageError(`\`--${surplusOption}\` is for \`${owner}\` only`);
  }
  const make = input.rest.length
    ? await programTask(input.rest, input.is("shell"))
    : callTask(words.shift(), input.is("json"));
  const [file = "-", ...surplus] = words;
  if (surplus.length) {
    const files = words.map(quote).join(" ");
    throw new UsageError(`One file at a time, or \`cat ${files} | forrest add\` and so on`);
  }
  if (file !== "-" && !exists(file)) throw new UsageError(`There is no file \`${file}\``);
  if (file === "-" && isTerminal("stdin")) {
    write("stderr", "Type one argument a line; Ctrl-D ends it.\n");
  }
  const tasks = new TaskList(directory, { existOk: true, preClean: false });
  const pending = new Set<Promise<unknown>>();
  const answers = { added: 0, known: 0 };
  let number = 0;
  const addLines = async () => {
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
  };
  await addLines().catch(async (error) => {
    await Promise.allSettled(pending);
    const before = `; before that, ${count(answers.added, "task")} were added`;
    throw error instanceof UsageError && answers.added
      ? new UsageError(error.message + before)
      : error;
  });
  const known = answers.known ? `; ${answers.known} there already` : "";
  write("stdout", `${count(answers.added, "task")} added to \`${directory}\`${known}\n`);
  if (!answers.added && !answers.known) return 0;
  write("stderr", `To run what waits:  ${program()} run ${quote(directory)}\n`);
  return 0;
}

/** Schedules a task under an id that comes from its line; says whether it is new. */
async function schedule(
  tasks: TaskList,
  line: string,
  key: unknown,
  task: ReturnType<typeof defer>,
): Promise<boolean> {
  const readable = line.replace(/[^\w.,=@+-]+/g, "_").replaceAll(".json@", ".json_");
  const name = readable.replace(/^[._-]+/, "").slice(0, 60);
  const bytes = new TextEncoder().encode(JSON.stringify(key));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes), 0, 6).toHex();
  const { scheduled } = await tasks.schedule(task, { id: name ? `${name}-${digest}` : digest });
  return scheduled;
}

function callTask(target = "", isJson: boolean): MakeTask {
  const [, module, name] = /^(.+)#([^#]+)$/s.exec(target) ?? [];
  if (!module) {
    const given = target ? `\`${target}\` names no function` : "The function is missing";
    throw new UsageError(`${given}: write MODULE#EXPORT, or \`-- PROGRAM\` for a program`);
  }
  if (!mayBeModule(module)) throw new UsageError(`There is no module \`${module}\``);
  const url = new URL(fileUrl(module));
  url.hash = name;
  return (line, number) => {
    const args = isJson ? parseLine(line, number) : [line];
    return { key: [url.href, args], task: defer(url, ...args) };
  };
}

function parseLine(line: string, number: number): unknown[] {
  try {
    const value = JSON.parse(line);
    return Array.isArray(value) ? value : [value];
  } catch (error) {
    throw new UsageError(`Line ${number} is not JSON: ${(error as Error).message}`);
  }
}

async function programTask(words: string[], isShell: boolean): Promise<MakeTask> {
  const { dirname } = await import("deno-std/path/posix/dirname.js"); // of @std/path
  const placeholder = /\{(?:|\.|#|\/|\/\/|\/\.)\}/g;
  const isGiven = words.some((word) => word.search(placeholder) >= 0);
  const template = isGiven ? words : [...words, "{}"];
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
  return (line, number) => {
    const fill = (found: string) => {
      const value = meanings[found](line, number);
      return isShell ? quote(value) : value;
    };
    const argv = template.map((word) => word.replace(placeholder, fill));
    return {
      key: [template, isShell, line],
      task: command(argv, isShell ? { shell: true } : undefined),
    };
  };
}

/** The lines of a file; throws if one is not in UTF-8, or else reads what is wrong in it as U+FFFD. */
async function* linesOf(file: string, isStrict = true): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder("utf-8", { fatal: isStrict });
  const source = file === "-" ? system.stdin : system.openSync(file);
  const buffer = new Uint8Array(65536);
  const parts: string[] = []; // of a long line, which is not to be searched for each of them
  let number = 1;
  for (let isEnd = false; !isEnd;) {
    const length = await source.read(buffer);
    isEnd = !length;
    const chunk = buffer.subarray(0, length ?? 0);
    try {
      parts.push(decoder.decode(chunk, { stream: !isEnd }));
    } catch {
      throw new UsageError(`Line ${number + linesBeforeFault(chunk)} is not in UTF-8`);
    }
    if (!isEnd && !parts.at(-1)!.includes("\n")) continue;
    const lines = parts.splice(0).join("").split("\n");
    parts.push(lines.pop()!);
    number += lines.length;
    yield* lines;
  }
  if (parts[0]) yield parts[0];
}

/** How many lines end before the first that is not in UTF-8; what this begins with may end a character. */
function linesBeforeFault(bytes: Uint8Array): number {
  const begin = bytes.findIndex((byte) => (byte & 0xc0) !== 0x80);
  for (let start = begin, lines = 0; start >= 0; lines++) {
    const end = bytes.indexOf(10, start);
    try {
      const line = bytes.subarray(start, end < 0 ? bytes.length : end);
      new TextDecoder("utf-8", { fatal: true }).decode(line, { stream: end < 0 });
    } catch {
      return lines;
    }
    start = end < 0 ? -1 : end + 1;
  }
  return 0; // then it was where this and what came before meet
}

// ------------------------------------------------------------------------------------- looking

/** A task as its file holds it. */
type Stored = Record<string, unknown> & { steps?: Step[] };

/** Reads a task file; if that cannot be read, the error of the task says so. */
function storedAt(path: string): Stored {
  try {
    const stored = parseJson(system.readTextFileSync(path));
    if (stored && typeof stored === "object") return stored;
    throw new TypeError("it holds no object");
  } catch (error) {
    const message = `Cannot read the task: ${(error as Error).message}`;
    return { errorValue: { $error: { name: "Error", message } } };
  }
}

/** What `--json` prints of a task. */
function outcomeAt(path: string, { id, state }: Task): Stored {
  const { steps: _steps, ...others } = storedAt(path);
  return { id, state, path, ...others };
}

/** One line that says what became of a task. */
function lineOf(path: string, width = widthOfOutput()): string {
  const { id } = locate(path);
  const state = stateAt(path);
  const stored = storedAt(path);
  const seconds = typeof stored.runtime === "number" ? duration(stored.runtime) : "";
  const text = [state.padEnd(7), printable(id), seconds.padStart(7), printable(briefOf(stored))];
  const color = state === "done" ? "green" : state === "fail" ? "red" : "dim";
  return cut(text.join("  "), width).replace(/^\w+/, (word) => paint(color, word));
}

/** The state of a task by the folder that it lies in, if that is one of a list. */
function stateAt(path: string): string {
  const { state } = locate(fullPath(path));
  return states.includes(state) ? state : "";
}

function briefOf(stored: Stored): string {
  if ("errorValue" in stored) return headOfError(stored.errorValue);
  if ("returnValue" in stored) return codeOf(stored.returnValue);
  return Array.isArray(stored.steps) ? callOf(stored.steps.at(-1)) : "";
}

async function status(input: Input): Promise<number> {
  const tasks = openList(directoryOf(input));
  if (input.is("watch")) return await watch(tasks);
  const counts = tasks.count();
  const widest = Math.max(...Object.values(counts).map((n) => `${n}`.length));
  const rows = Object.entries(counts).map(([state, n]) =>
    `${state.padEnd(7)}  ${`${n}`.padStart(widest)}\n`
  );
  write("stdout", rows.join(""));
  const rate = counts.running ? recentRate(tasks.directory) : 0;
  if (!rate) return 0;
  const left = duration((counts.todo + counts.running) / rate);
  write(
    "stdout",
    `${Number(rate.toPrecision(2))} tasks a second in the last minute, ${left} left\n`,
  );
  return 0;
}

/** How many tasks a second have ended in the last minute. */
function recentRate(directory: string): number {
  const paths = [...pathsIn(directory, "done"), ...pathsIn(directory, "fail")];
  const ages = paths.map((path) => (Date.now() - Number(infoOf(path)?.mtime ?? 0)) / 1000);
  const recent = ages.filter((age) => age < 60);
  return recent.length / recent.reduce((longest, age) => Math.max(longest, age), 1);
}

/** Shows the live line until nothing is left to do; without a terminal, a line for each change. */
async function watch(tasks: TaskList): Promise<number> {
  const screen = new Screen(true);
  const progress = new Progress(tasks);
  for (let before = "", isOver = false; !isOver; await sleep(isOver ? 0 : 200)) {
    const counts = progress.counts();
    const text = Object.entries(counts).map(([state, n]) => `${n} ${state}`).join(", ");
    isOver = counts.todo + counts.running === 0;
    if (screen.isLive && !isOver) screen.show(progress.line(columns()));
    else if (text !== before) screen.print(`${text}\n`, "stdout");
    before = text;
  }
  screen.end();
  return 0;
}

/** The path of a task, whichever its state. */
function pathOfTask(directory: string, id: string): string | undefined {
  const state = stateOf(directory, id);
  if (state !== "running") return state && `${directory}/${state}/${id}.json`;
  return pathsIn(directory, state).find((path) => locate(path).id === id);
}

async function notInList(directory: string, id: string, words: string[] = []): Promise<never> {
  const paths = states.flatMap((state) => [...pathsIn(directory, state)]);
  const ids = paths.slice(0, 10_000).map((path) => locate(path).id);
  if (!ids.length) throw new UsageError(`There is no task \`${id}\`: \`${directory}\` is empty`);
  throw new UsageError(`${await unknown("task", id, [...words, ...ids])} in \`${directory}\``);
}

const isTaskFile = (path: string): boolean =>
  /\.json(@[^/]*)?$/.test(path) && infoOf(path)?.isDirectory === false;

async function list(input: Input): Promise<number> {
  const directory = directoryOf(input);
  const width = input.is("full") ? Infinity : widthOfOutput();
  const say = (path: string) => write("stdout", `${lineOf(path, width)}\n`);
  if (isTaskFile(directory)) {
    for (const path of input.words) say(path);
    return 0;
  }
  openList(directory);
  const [, ...words] = input.words;
  for (const word of words.length ? words : states) {
    if (states.includes(word as State)) {
      for (const path of pathsIn(directory, word as State)) if (exists(path)) say(path);
    } else say(pathOfTask(directory, word) ?? await notInList(directory, word, [...states]));
  }
  return 0;
}

async function show(input: Input): Promise<number> {
  const [path, id] = input.words;
  const isFull = input.is("full");
  if (path === undefined) throw new UsageError("TASK.json, the task to show, is missing");
  if (id === undefined && isTaskFile(path)) return await showTask(path, isFull);
  if (id === undefined && /\.json$/.test(path) && !exists(path)) throw noTask(path);
  const directory = directoryOf(input);
  openList(directory);
  if (id === undefined) throw new UsageError("ID, the id of the task, is missing");
  return await showTask(pathOfTask(directory, id) ?? await notInList(directory, id), isFull);
}

const LINES = 20; // so many of a value, an error or an output are shown without `--full`

async function showTask(path: string, isFull: boolean): Promise<number> {
  const stored = storedAt(path);
  const sections = [
    `${path}\n${factsOf(stateAt(path), stored)}`.trimEnd(),
    Array.isArray(stored.steps) ? programOf(stored.steps) : "",
    "metadata" in stored ? `metadata: ${codeOf(stored.metadata)}` : "",
    "returnValue" in stored ? `value: ${codeOf(stored.returnValue)}` : "",
    "errorValue" in stored ? textOfError(stored.errorValue) : "",
  ].filter(Boolean).map((section) => isFull ? section : shorten(section));
  const output = await outputOf(path, stored);
  if (output) sections.push(`It printed:\n${isFull ? output : shorten(output, true)}`);
  if ("errorValue" in stored) {
    sections.push(`To run it here, with its stack:\n  ${program()} exec ${quote(path)} --raise`);
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

const TIME = "2026-11-20T20:00:00.000Z ".length; // at the beginning of each line of a log

/** Whether a line of a log is about a task; a process that holds several prints for all of them. */
function isAbout(line: string, id: string): boolean {
  // after the id: what was printed, or what has happened; the id of another task may begin with this one
  if (line.startsWith(`${id} `, TIME)) {
    return /^(\||is |has |\s)/.test(line.slice(TIME + id.length + 1));
  }
  const [ids, ...printed] = line.slice(TIME).split(" | ");
  return printed.length > 0 && ids.split(",").includes(id);
}

/** What the log of its list says that a task has printed since it was last started. */
async function outputOf(path: string, { started }: Stored): Promise<string> {
  const { directory, id, state } = locate(fullPath(path));
  const log = `${directory}/log.txt`;
  const isRunning = state === "running"; // when that began, its file does not say
  if (!exists(log) || (!started && state === "todo")) return "";
  const lines: string[] = [];
  for await (const line of linesOf(log, false)) {
    if (!isAbout(line, id)) continue;
    const at = line.indexOf(" | ", TIME);
    if (at < 0 && isRunning) lines.length = 0; // it has ended, and begun again
    if (at > 0 && (isRunning || line >= `${started ?? ""}`)) lines.push(line.slice(at + 3));
  }
  return lines.join("\n");
}

async function logs(input: Input): Promise<number> {
  const directory = directoryOf(input);
  openList(directory);
  const [, id] = input.words;
  const log = input.text("log") ?? `${directory}/log.txt`;
  if (!exists(log)) throw new UsageError(`There is no log \`${log}\`: \`forrest run\` writes it`);
  if (id !== undefined && !pathOfTask(directory, id)) await notInList(directory, id);
  for await (const line of linesOf(log, false)) {
    if (id === undefined || isAbout(line, id)) write("stdout", `${line}\n`);
  }
  return 0;
}

// ------------------------------------------------------------------------------------ changing

async function retry(input: Input): Promise<number> {
  const directory = directoryOf(input);
  const tasks = openList(directory);
  const [, ...ids] = input.words;
  for (const id of ids) {
    const state = stateOf(directory, id) ?? await notInList(directory, id);
    if (state === "fail") continue;
    throw new UsageError(`The task \`${id}\` has not failed: it is in \`${state}\``);
  }
  const moved = await tasks.retry(ids.length ? ids : undefined);
  if (!moved) write("stdout", "No task has failed\n");
  else write("stdout", `${count(moved, "task")} moved from \`fail\` back to \`todo\`\n`);
  if (moved) write("stderr", `To run what waits:  ${program()} run ${quote(directory)}\n`);
  return 0;
}

function clean(input: Input): number {
  const directory = directoryOf(input);
  const tasks = openList(directory);
  const removable = ["todo", "done", "fail"] as const;
  const named = removable.filter((state) => input.is(state));
  const chosen = named.length ? named : removable;
  const counts = tasks.count();
  const what = chosen.map((state) => `${counts[state]} ${state}`).join(", ");
  if (!named.length && !isAgreed(`Remove all tasks of \`${directory}\` (${what})?`, input)) {
    return 1;
  }
  tasks.clean(Object.fromEntries(chosen.map((state) => [state, true])));
  write("stdout", `Removed from \`${directory}\`: ${what}\n`);
  return 0;
}

function reset(input: Input): number {
  const directory = directoryOf(input);
  const tasks = openList(directory);
  const what = Object.entries(tasks.count()).map(([state, n]) => `${n} ${state}`).join(", ");
  if (!isAgreed(`Remove the task list \`${directory}\` (${what})?`, input)) return 1;
  recover(directory, newOwner(), Infinity);
  const { running } = tasks.count();
  if (running) {
    const those = `${count(running, "task")} of \`${directory}\` ${running === 1 ? "is" : "are"}`;
    const fix =
      "stop that run, or, if it has died on another host, let `forrest run` take them over";
    throw new Error(`Nothing is removed, as ${those} running: ${fix}`);
  }
  if (exists(`${directory}/log.txt`)) system.removeSync(`${directory}/log.txt`);
  const options = { existOk: true, preClean: false, postClean: true };
  new TaskList(directory, options)[Symbol.dispose]();
  const left = namesIn(directory)?.length
    ? `; \`${directory}\` stays, as it holds other things`
    : "";
  write("stdout", `Removed \`${directory}\`: ${what}${left}\n`);
  return 0;
}

/** Asks on a terminal; elsewhere `--yes` must be given. */
function isAgreed(question: string, input: Input): boolean {
  if (input.is("yes")) return true;
  if (!isTerminal("stdin")) throw new UsageError(`${question} Say so with \`--yes\``);
  if (confirm(question)) return true;
  write("stdout", "Nothing was removed\n");
  return false;
}

async function report(input: Input): Promise<number> {
  const directory = directoryOf(input);
  openList(directory);
  const { reportPage, traceEvents } = await import("./report.ts");
  const trace = input.text("trace");
  const page = input.text("output") ?? (trace ? undefined : "report.html");
  const put = (path: string, text: string) =>
    path === "-" ? write("stdout", text) : system.writeTextFileSync(path, text);
  if (page) put(page, reportPage(directory));
  if (trace) put(trace, traceEvents(directory));
  for (const path of [page, trace]) if (path && path !== "-") write("stdout", `Written: ${path}\n`);
  return 0;
}

if (import.meta.main) system.exit(await main(system.args));

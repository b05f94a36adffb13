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

import "./mod.ts"; // first: in an executable, a process that is to run tasks never gets beyond it
import process from "node:process";
import { parseArgs } from "@std/cli/parse-args";
import { type Command, type Input, Raised, type Row, unknown, UsageError } from "./cli/command.ts";
import { printable, write } from "./cli/terminal.ts";

// -------------------------------------------------------------------------------- the commands

/** The commands in the order of the help: each is read from its file when it is asked for. */
const commands: Record<string, () => Promise<Command>> = {
  run: async () => (await import("./cli/run.ts")).run,
  exec: async () => (await import("./cli/exec.ts")).exec,
  add: async () => (await import("./cli/add.ts")).add,
  status: async () => (await import("./cli/look.ts")).status,
  list: async () => (await import("./cli/look.ts")).list,
  show: async () => (await import("./cli/look.ts")).show,
  logs: async () => (await import("./cli/look.ts")).logs,
  retry: async () => (await import("./cli/change.ts")).retry,
  clean: async () => (await import("./cli/change.ts")).clean,
  reset: async () => (await import("./cli/change.ts")).reset,
  report: async () => (await import("./cli/report.ts")).report,
};

const EXIT_CODES: Row[] = [
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
    const input = parse(chosen, rest);
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

async function commandNamed(name: string): Promise<Command> {
  if (Object.hasOwn(commands, name)) return await commands[name]();
  throw new UsageError(unknown("command", name, [...Object.keys(commands), "help"]));
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

function parse({ options = [], otherNames = {} }: Command, args: string[]): Input {
  const all = [...options, ["-h, --help", ""]].map(([usage]) => {
    const [, letter, name, value] = /^(?:-(\w), )?--(\S+)( \S+)?$/.exec(usage)!;
    const aliases = Object.keys(otherNames).filter((other) => otherNames[other] === name);
    return { name, aliases: letter ? [letter, ...aliases] : aliases, isFlag: !value };
  });
  const flags = all.filter(({ isFlag }) => isFlag).map(({ name }) => name);
  const others = all.filter(({ isFlag }) => !isFlag).map(({ name }) => name);
  let wrong: string | undefined;
  const values = parseArgs(args, {
    "--": true,
    boolean: flags,
    string: ["_", ...others],
    collect: others,
    alias: Object.fromEntries(all.map(({ name, aliases }) => [name, aliases])),
    unknown(word: string, key?: string) {
      if (key !== undefined) wrong ??= word.replace(/=.*/s, "");
    },
  });
  if (wrong !== undefined) {
    const names = all.flatMap(({ name, aliases }) => [name, ...aliases]);
    const valid = names.map((name) => name.length > 1 ? `--${name}` : `-${name}`);
    throw new UsageError(unknown("option", wrong, valid));
  }
  // as in `--yes=no`, which the parser takes for `--yes`
  const ours = args.includes("--") ? args.slice(0, args.indexOf("--")) : args;
  const given = new Set(ours.flatMap((word) => /^--([^=]+)=/.exec(word)?.[1] ?? []));
  const valued = flags.find((name) => typeof values[name] !== "boolean" || given.has(name));
  if (valued) {
    throw new UsageError(`\`--${valued}\` takes no value; write letters apart, as in \`-q -j 4\``);
  }
  const empty = others.find((name) => values[name].includes(""));
  if (empty) throw new UsageError(`\`--${empty}\` needs a value, as in \`--${empty}=...\``);
  const text = (option: string): string | undefined => values[option].at(-1);
  return {
    words: values._.map(String),
    rest: values["--"],
    is: (flag) => values[flag],
    text,
    number: (option) => text(option) === undefined ? undefined : numberOf(option, text(option)!),
    all: (option) => values[option],
  };
}

function numberOf(option: string, text: string): number {
  if (/^(\d+\.?|\d*\.\d+)(e\+?\d+)?$/i.test(text)) return Number(text);
  throw new UsageError(`\`--${option}\` must be a number such as 60; it is \`${printable(text)}\``);
}

// ------------------------------------------------------------------------------------- help

async function help(name?: string): Promise<number> {
  write("stdout", name === undefined ? await helpOfAll() : helpOf(name, await commandNamed(name)));
  return 0;
}

async function helpOfAll(): Promise<string> {
  const rows: Row[] = [];
  for (const [name, load] of Object.entries(commands)) rows.push([name, (await load()).brief]);
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

function helpOf(name: string, command: Command): string {
  const { usage, about, words = [], options = [], examples } = command;
  const rows = options.map(([usage, about]): Row => [usage.replace(/^--/, "    --"), about]);
  const usages = usage.map((line) => `forrest ${name} ${line}`).join("\n       ");
  const parts = [
    `Usage: ${usages}\n\n${about}\n`,
    words.length ? `Arguments:\n${inColumns(words)}` : "",
    rows.length ? `Options:\n${inColumns(rows)}` : "",
    `Example:\n${examples.map((example) => `  ${example}\n`).join("")}`,
  ];
  return parts.filter(Boolean).join("\n");
}

function inColumns(rows: Row[]): string {
  const width = Math.max(...rows.map(([first]) => first.length));
  return rows.map(([first, second]) => `  ${first.padEnd(width)}  ${second}\n`).join("");
}

async function printVersion(): Promise<number> {
  const { default: config } = await import("./deno.json", { with: { type: "json" } });
  write("stdout", `forrest ${config.version}\n`);
  return 0;
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)));

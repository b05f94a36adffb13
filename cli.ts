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
import { type Command, type Commands, type Input, optionsIn } from "./cli/command.ts";
import { unknown, UsageError } from "./cli/command.ts";
import help from "./cli/help/forrest.txt" with { type: "text" };
import { printable, write } from "./cli/terminal.ts";
import config from "./deno.json" with { type: "json" };

// -------------------------------------------------------------------------------- the commands

/** The commands. What each prints as its help lies in `cli/help`. */
const commands: Commands = {
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
  report: async () => (await import("./cli/page.ts")).report,
  completions: async () => (await import("./cli/completions.ts")).completions,
};

/** Runs the command that `words` say; gives the exit code, if that is not 0. */
async function main(words: string[]): Promise<number | void> {
  const [name = "help", ...rest] = words;
  try {
    if (name === "--version" || name === "-V") {
      return write("stdout", `forrest ${config.version}\n`);
    }
    if (name === "help" || name === "-h" || name === "--help") {
      const asked = rest.find((word) => !word.startsWith("-"));
      return write("stdout", asked === undefined ? help : (await commandNamed(asked)).help);
    }
    const chosen = await commandNamed(name);
    const input = parse(chosen, rest);
    if (input.is("help")) return write("stdout", chosen.help);
    const surplus = input.words[chosen.most ?? Infinity];
    if (surplus !== undefined) throw new UsageError(`\`${surplus}\` is a word too many`);
    return await chosen.action(input, commands);
  } catch (error) {
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

const REASONS: Record<string, string> = {
  "EACCES|EPERM": "you are not allowed to; look at who owns it, and at its mode",
  "ENOSPC|EDQUOT": "no space is left; no task is lost: make room, and start the command again",
  "EROFS": "it lies in a file system that can only be read",
  "ENOENT": "it, or its directory, does not exist",
};

/** Says what happened, where (`directory`, if the error does not know), and what to do about it. */
function explain(error: unknown, directory?: string): string {
  if (!(error instanceof Error)) return String(error);
  const { code = "", path: own } = error as { code?: string; path?: string };
  const reasons = Object.entries(REASONS);
  const [, reason] = reasons.find(([codes]) => codes.split("|").includes(code)) ?? [];
  if (!reason) return error.message;
  const path = own ?? /['"]([^'"]+)['"]/.exec(error.message)?.[1];
  const place = (path ?? directory ?? ".").replace(/(?<=\.json)@.*/s, "");
  return `Cannot use \`${place}\`: ${reason} (${code})`;
}

// -------------------------------------------------------------------------- words and options

/** Options under names that people know from GNU parallel and coreutils. */
const otherNames: Record<string, string> = { processes: "jobs", autokill: "timeout" };

function parse({ help, takesProgram = false }: Command, args: string[]): Input {
  const all = [...optionsIn(help), { name: "help", letter: "h", value: undefined }];
  const alias = Object.fromEntries(all.map(({ name, letter }) => {
    return [name, [letter, otherNames[name]].filter((other) => other !== undefined)];
  }));
  const flags = all.filter(({ value }) => !value).map(({ name }) => name);
  const others = all.filter(({ value }) => value).map(({ name }) => name);
  const values = parseArgs(args, {
    "--": true,
    boolean: flags,
    string: ["_", ...others],
    collect: others,
    alias,
    unknown(word: string, key?: string) {
      if (key === undefined) return;
      const names = Object.entries(alias).flat(2);
      const valid = names.map((name) => name.length > 1 ? `--${name}` : `-${name}`);
      throw new UsageError(unknown("option", word.replace(/=.*/s, ""), valid));
    },
  });
  const ours = args.slice(0, args.length - values["--"].length);
  // the parser takes `--yes=no` for `--yes`
  const valued = flags.find((name) =>
    typeof values[name] !== "boolean" || ours.some((word) => word.startsWith(`--${name}=`))
  );
  if (valued) {
    throw new UsageError(`\`--${valued}\` takes no value; write letters apart, as in \`-q -j 4\``);
  }
  const empty = others.find((name) => values[name].includes(""));
  if (empty) throw new UsageError(`\`--${empty}\` needs a value, as in \`--${empty}=...\``);
  const text = (option: string): string | undefined => values[option].at(-1);
  return {
    words: [...values._, ...takesProgram ? [] : values["--"]].map(String),
    rest: takesProgram ? values["--"] : [],
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

if (import.meta.main) process.exit(Number(await main(process.argv.slice(2)) ?? 0));

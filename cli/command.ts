/**
 * What every command stands on: how it is described, the words that it gets, the list that it is
 * about, and how it says what a person can put right.
 *
 * @module
 */

import { existsSync, lstatSync, readdirSync, type Stats } from "node:fs";
import process from "node:process";
import { fromFileUrl } from "@std/path/from-file-url";
import { locate, states, TaskList } from "../mod.ts";
import { printable, quote } from "./terminal.ts";

/** What the help says in two columns: a word or an option, and what it is about. */
export type Row = [string, string];

/** A command as its file describes it. */
export interface Command {
  usage: string[];
  /** How many words it takes, if not any number. */
  most?: number;
  /** What the list of all commands says. */
  brief: string;
  about: string;
  words?: Row[];
  /** As in `-j, --processes N`; what has no value is a flag. */
  options?: Row[];
  examples: string[];
  /** Does it; gives the exit code. */
  action(input: Input): number | Promise<number>;
}

/** The words after a command, and its options. */
export interface Input {
  words: string[];
  /** What follows `--`. */
  rest: string[];
  is(flag: string): boolean;
  text(option: string): string | undefined;
  number(option: string): number | undefined;
  all(option: string): string[];
}

/** Something that a person can put right in the words of the command. */
export class UsageError extends Error {}

/** Holds what a task has thrown, for the runtime to print it as it is. */
export class Raised extends Error {}

/** The exit code of what is to be started again. */
export const AGAIN = 75;

export const DIR: Row = ["DIR", "the directory of the task list"];
export const SESSION: Row = [
  "-s, --session MODULE",
  "what it exports, functions stored as text can use",
];

/** Says that there is no such word, and which is the nearest one. */
export async function unknown(what: string, word: string, valid: string[]): Promise<string> {
  const { closestString } = await import("@std/text/closest-string");
  const nearest = printable(closestString(word, valid));
  return `There is no ${what} \`${printable(word)}\`; the nearest is \`${nearest}\``;
}

// ------------------------------------------------------------------------- files and modules

/** What is known of a path, be it a dangling link; undefined if there is nothing. */
export function infoOf(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

export const exists = (path: string): boolean => infoOf(path) !== undefined;

/** Whether a text names a module by something other than a path, such as a URL. */
export const isSpecifier = (text: string): boolean => /^[a-z][a-z+.-]+:/i.test(text);

/** Whether there may be such a module: of a file, that is looked up. */
export const mayBeModule = (text: string): boolean => isSpecifier(text) || exists(text);

/** The session module, which must be there if it is a file. */
export function sessionOf(input: Input): string | undefined {
  const session = input.text("session");
  if (!session || mayBeModule(session)) return session;
  throw new UsageError(`\`--session\`: there is no module \`${session}\``);
}

// ----------------------------------------------------------------------------------- the list

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

/** The path of a task of a list, whichever its state; `words` are what else might have been meant. */
export async function findTask(
  directory: string,
  tasks: TaskList,
  id: string,
  words: readonly string[] = [],
): Promise<string> {
  const found = tasks.find(id);
  if (found) return directory + found.slice(tasks.directory.length);
  const ids: string[] = [];
  for (const path of states.flatMap((state) => [...tasks.paths(state)])) {
    if (ids.push(locate(path).id) === 10_000) break;
  }
  if (!ids.length) throw new UsageError(`There is no task \`${id}\`: \`${directory}\` is empty`);
  throw new UsageError(`${await unknown("task", id, [...words, ...ids])} in \`${directory}\``);
}

/** What is to be said of a file that is not there. */
export function noTask(path: string): UsageError {
  return new UsageError(`There is no task \`${path}\`; \`forrest list DIR\` names those of a list`);
}

// ------------------------------------------------------------------------------- this program

/** Where the source of this program is. */
export const SOURCE = new URL("../cli.ts", import.meta.url).href;

/** Whether this program is one executable, and has no source. */
export const isExecutable = !/\/cli\/command\.[jt]s$/.test(import.meta.url) ||
  !!(globalThis.Deno?.build as { standalone?: boolean } | undefined)?.standalone;

/** The line that starts this program with `words`, for a person who wants to do so. */
export function program(...words: string[]): string {
  return [...start(), ...words.map(quote)].join(" ");
}

function start(): string[] {
  if (isExecutable) return [wordFor("forrest")];
  const script = quote(SOURCE.startsWith("file:") ? nearby(fromFileUrl(SOURCE)) : SOURCE);
  return globalThis.Deno ? [wordFor("deno"), "run", "-A", script] : [wordFor("bun"), script];
}

/** The name of the program that runs, if a shell finds one of that name, or else its path. */
function wordFor(name: string): string {
  const folders = (process.env.PATH ?? "").split(":");
  if (folders.some((folder) => existsSync(`${folder}/${name}`))) return name;
  const path = nearby(process.execPath);
  return quote(path.includes("/") ? path : `./${path}`);
}

/** A path as short as it can be from here. */
export function nearby(path: string): string {
  const here = process.cwd();
  if (path === here) return ".";
  return path.startsWith(`${here}/`) ? path.slice(here.length + 1) : path;
}

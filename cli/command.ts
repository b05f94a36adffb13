/**
 * What every command stands on: how it is described, the words that it gets, how it says what a person
 * can put right, and how this program is started.
 *
 * @module
 */

import { existsSync } from "node:fs";
import process from "node:process";
import { fromFileUrl } from "@std/path/from-file-url";
import { levenshteinDistance } from "@std/text/levenshtein-distance";
import { printable, quote } from "./terminal.ts";

/** A command as its file describes it. */
export interface Command {
  /** What `-h` prints; its options are those that this names. */
  help: string;
  /** How many words it takes, if not any number. */
  most?: number;
  /** Whether what follows `--` is a program, and no words for it. */
  takesProgram?: boolean;
  /** Does it, as one of these commands; gives the exit code, if that is not 0. */
  action(input: Input, commands: Commands): number | void | Promise<number | void>;
}

/** Commands by their names, each of which is read from its file when it is asked for. */
export type Commands = Record<string, () => Promise<Command>>;

/** An option, as in `  -j, --processes N  tasks to run at once`; what has no value is a flag. */
export interface Option {
  name: string;
  letter?: string;
  value?: string;
  about: string;
}

/** The options that a help names. */
export function optionsIn(help: string): Option[] {
  const rows = help.matchAll(/^ {2}(?:-(\w), | {4})--([\w-]+)(?: ([A-Z]+))? {2,}(.*)$/gm);
  return [...rows].map(([, letter, name, value, about]) => ({ name, letter, value, about }));
}

/** The words after a command, and its options. */
export interface Input {
  words: string[];
  /** The program that follows `--`. */
  rest: string[];
  is(flag: string): boolean;
  text(option: string): string | undefined;
  number(option: string): number | undefined;
  all(option: string): string[];
}

/** Something that a person can put right in the words of the command. */
export class UsageError extends Error {}

/** The exit code of what is to be started again. */
export const AGAIN = 75;

/** Says that there is no such word, and which one may have been meant, if one is near. */
export function unknown(what: string, word: string, valid: string[]): string {
  const said = `There is no ${what} \`${printable(word)}\``;
  const bare = (option: string) => option.replace(/^-+/, "");
  const near = valid.filter((other) => isNear(bare(word), bare(other)));
  const distance = (other: string) => levenshteinDistance(word, other);
  const [nearest] = near.sort((a, b) => distance(a) - distance(b));
  return nearest ? `${said}; the nearest is \`${printable(nearest)}\`` : said;
}

/** Whether a word begins another, has its letters, or is wrong by a third of the longer one at most. */
function isNear(word: string, other: string): boolean {
  if (word && other.startsWith(word)) return true;
  const letters = (word: string) => Array.from(word).sort().join("");
  const most = Math.max(word.length, other.length) / 3;
  return letters(word) === letters(other) || levenshteinDistance(word, other) <= most;
}

/** Whether a text names a module by something other than a path, such as a URL. */
export const isSpecifier = (text: string): boolean => /^[a-z][a-z+.-]+:/i.test(text);

/** The session module, which must be there if it is a file. */
export function sessionOf(input: Input): string | undefined {
  const session = input.text("session");
  if (!session || isSpecifier(session) || existsSync(session)) return session;
  throw new UsageError(`\`--session\`: there is no module \`${session}\``);
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
  const folder = folderOf("forrest");
  const isOfPackage = !isExecutable && folder?.endsWith("/node_modules/.bin"); // where no shell looks
  if (isOfPackage) return ["bunx", "forrest"];
  if (isExecutable || folder) return [wordFor("forrest")];
  const script = quote(SOURCE.startsWith("file:") ? nearby(fromFileUrl(SOURCE)) : SOURCE);
  return globalThis.Deno ? [wordFor("deno"), "run", "-A", script] : [wordFor("bun"), script];
}

/** The name of the program that runs, if a shell finds one of that name, or else its path. */
function wordFor(name: string): string {
  if (folderOf(name)) return name;
  const path = nearby(process.execPath);
  return quote(path.includes("/") ? path : `./${path}`);
}

/** Where a shell finds a program. */
function folderOf(program: string): string | undefined {
  const folders = (process.env.PATH ?? "").split(":");
  return folders.find((folder) => existsSync(`${folder}/${program}`));
}

/** A path as short as it can be from here. */
export function nearby(path: string): string {
  let here;
  try {
    here = process.cwd();
  } catch {
    return path; // as it is gone
  }
  if (path === here) return ".";
  return path.startsWith(`${here}/`) ? path.slice(here.length + 1) : path;
}

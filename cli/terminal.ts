/**
 * What the command writes: text that fits, on a terminal or elsewhere.
 *
 * @module
 */

import { fstatSync, writeSync } from "node:fs";
import process from "node:process";
import type { Stream } from "../mod.ts";

const descriptors = { stdin: 0, stdout: 1, stderr: 2 };

const terminals: { [S in "stdin" | Stream]?: boolean } = {};

/** Whether a person is at the other end. */
export function isTerminal(stream: "stdin" | Stream): boolean {
  return terminals[stream] ??= fstatSync(descriptors[stream]).isCharacterDevice() &&
    process.getBuiltinModule("node:tty").isatty(descriptors[stream]); // which Bun takes 10 ms to load
}

/** How wide the terminal is now. */
export function columns(): number {
  try {
    const { stdout, stderr } = process;
    return (stderr.isTTY ? stderr : stdout).getWindowSize()[0] || 80;
  } catch {
    return 80; // it is gone
  }
}

/** How wide a line on the standard output may be. */
export const widthOfOutput = (): number => isTerminal("stdout") ? columns() : 200;

/** Writes a text, unless nobody reads it any more. */
export function write(stream: Stream, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let written = 0; written < bytes.length;) {
    try {
      written += writeSync(descriptors[stream], bytes, written);
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === "EPIPE" || code === "EIO") return;
      if (code !== "EAGAIN") throw Object.assign(error as Error, { path: stream });
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1); // for the reader of a full pipe
    }
  }
}

/** Writes lines to the standard output, many at once. */
export async function writeAll(lines: Iterable<string> | AsyncIterable<string>): Promise<void> {
  let text = "";
  const add = (line: string) => {
    text += `${line}\n`;
    if (text.length < 65_536) return;
    write("stdout", text);
    text = "";
  };
  try {
    // to wait for each of those that are there already takes as long as to make it
    if (Symbol.iterator in lines) { for (const line of lines) add(line); }
    else for await (const line of lines) add(line);
  } finally {
    write("stdout", text);
  }
}

/** A word as a shell reads it back. */
export function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

// ------------------------------------------------------------------------------------- text

export const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;

/** A time in the units that suit it, to two digits or so, or as precise as it is to be; the page has its text, too. */
export function duration(seconds: number, precision = seconds / 60): string {
  if (!seconds) return "0 s";
  const digits = Math.min(15, Math.max(2, Math.ceil(Math.log10(seconds / precision))));
  const rounded = Number(seconds.toPrecision(digits));
  const [unit, size] = rounded < 1e-3 ? ["µs", 1e-6] : rounded < 1 ? ["ms", 1e-3] : ["s", 1];
  if (rounded < 60) return `${Number((rounded / (size as number)).toPrecision(digits))} ${unit}`;
  const parts: string[] = [];
  const least = [86400, 3600, 60, 1].find((size) => size <= precision);
  let rest = least ? Math.round(seconds / least) * least : rounded;
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]] as const) {
    if (rest >= size) parts.push(`${Math.floor(rest / size)} ${unit}`);
    rest %= size;
    if (size <= precision) return parts.join(" ");
  }
  return [...parts, rest ? `${Number(rest.toFixed(6))} s` : ""].join(" ").trim();
}

/** Text in one line, without the control characters that an id or a value may hold. */
export function printable(text: string): string {
  // deno-lint-ignore no-control-regex
  const plain = text.replace(/\x1b\[[\d;]*m/g, ""); // without colors
  // deno-lint-ignore no-control-regex
  return plain.replace(/[\x00-\x1f\x7f-\x9f\u2028\u2029]/g, (character) => {
    const escaped = JSON.stringify(character).slice(1, -1);
    return escaped === character ? `\\x${character.charCodeAt(0).toString(16)}` : escaped;
  });
}

// `@std/cli/unicode-width` would know all of this, but its table is not on the npm registry
const WIDE =
  /[\p{Script=Han}\p{Script=Hangul}\p{Script=Hiragana}\p{Script=Katakana}\p{Emoji_Presentation}\u3000-\u303f\uff01-\uff60]/u;

/** How many columns a text takes. */
export function widthOf(text: string): number {
  // deno-lint-ignore no-control-regex
  const plain = text.replace(/\x1b\[\d+m/g, "");
  return Array.from(plain, widthOfCharacter).reduce((sum, width) => sum + width, 0);
}

function widthOfCharacter(character: string): number {
  if (/[\p{Mark}\p{Format}]/u.test(character)) return 0;
  return WIDE.test(character) ? 2 : 1;
}

/** As much of a text as fits, with an ellipsis if something is missing. */
export function cut(text: string, width: number): string {
  if (text.length * 2 <= width || widthOf(text) <= width) return text;
  let used = 1;
  let kept = "";
  for (const character of text) {
    used += widthOfCharacter(character);
    if (used > width) break;
    kept += character;
  }
  return `${kept}…`;
}

const COLORS = { red: 31, green: 32, dim: 2 };

/** Colored text, on a terminal whose user has nothing against it. */
export function paint(color: keyof typeof COLORS, text: string, stream: Stream = "stdout"): string {
  const { NO_COLOR, TERM } = process.env;
  const isPlain = NO_COLOR || TERM === "dumb" || !isTerminal(stream);
  if (!text || isPlain) return text;
  return `\x1b[${COLORS[color]}m${text}\x1b[0m`;
}

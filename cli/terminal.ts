/**
 * What the command writes: text that fits, and on a terminal a line that lives.
 *
 * @module
 */

import { fstatSync, writeSync } from "node:fs";
import process from "node:process";
import { locate, type State, type Stream, type TaskList } from "../mod.ts";

const descriptors = { stdin: 0, stdout: 1, stderr: 2 };

/** Whether a person is at the other end. */
export function isTerminal(stream: "stdin" | Stream): boolean {
  const isDevice = fstatSync(descriptors[stream]).isCharacterDevice();
  return isDevice && process.getBuiltinModule("node:tty").isatty(descriptors[stream]); // which Bun takes 10 ms to load
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
      if (code !== "EAGAIN") throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1); // for the reader of a full pipe
    }
  }
}

/** A word as a shell reads it back. */
export function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

// ------------------------------------------------------------------------------------- text

export const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;

/** A time, to two digits or so. */
export function duration(seconds: number): string {
  const rounded = Number(seconds.toPrecision(2));
  if (rounded < 1) return `${Number((rounded * 1000).toPrecision(2))} ms`;
  if (rounded < 10) return `${rounded} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48
    ? `${hours} h ${minutes % 60} min`
    : `${Math.floor(hours / 24)} d ${hours % 24} h`;
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

const WIDE =
  /[\p{Script=Han}\p{Script=Hangul}\p{Script=Hiragana}\p{Script=Katakana}\p{Emoji_Presentation}\u3000-\u303f\uff01-\uff60]/u;
const NARROW = /^[ -~\u00a0-\u02ff·…█░]*$/;

/** How many columns a text takes. */
function widthOf(text: string): number {
  // deno-lint-ignore no-control-regex
  const plain = text.replace(/\x1b\[\d+m/g, "");
  if (NARROW.test(plain)) return plain.length;
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

// ------------------------------------------------------------------------------ the live line

/** What has been printed of a line, by a task, or by several: then `id` has all of theirs. */
type Begun = { id: string; stream: Stream; text: string };

const LONGEST = 1e6; // characters of a line that are kept together

/** Puts together what tasks print, so that the lines of several do not mix. */
class Lines {
  #begun = new Map<string, Begun>();

  /** Adds what a task has printed; gives the lines that are whole now. */
  add(text: string, stream: Stream, id: string): string {
    const key = `${stream} ${id}`;
    const before = this.#begun.get(key)?.text ?? "";
    const whole = before + text;
    const last = text.lastIndexOf("\n") + 1; // to search all of a long line again takes too long
    const end = whole.length > LONGEST ? whole.length : last && before.length + last;
    this.#begun.set(key, { id, stream, text: whole.slice(end) });
    if (end === whole.length) this.#begun.delete(key);
    return whole.slice(0, end);
  }

  /** Takes the lines that a task has begun; those of all tasks, without an id. */
  take(id?: string): Begun[] {
    const isIts = (ids: string) => id === undefined || ids === id || ids.split(",").includes(id);
    const taken = [...this.#begun].filter(([, begun]) => isIts(begun.id));
    for (const [key] of taken) this.#begun.delete(key);
    return taken.map(([, begun]) => begun);
  }
}

/** The terminal, if there is one: text, and below it a line that is written anew again and again. */
export class Screen {
  /** Whether there is a live line. */
  readonly isLive: boolean;
  #line = "";
  #lines = new Lines();

  constructor(isWanted: boolean) {
    this.isLive = isWanted && isTerminal("stderr") && process.env.TERM !== "dumb";
  }

  /** Writes the live line anew. */
  show(line: string): void {
    const erasure = this.#erasure();
    this.#line = line;
    write("stderr", erasure + line);
  }

  /** What removes the live line; several rows, if the terminal has become narrower and wrapped it. */
  #erasure(): string {
    if (!this.#line) return "";
    const rows = Math.ceil(widthOf(this.#line) / columns());
    this.#line = "";
    return `\r${rows > 1 ? `\x1b[${rows - 1}A` : ""}\x1b[J`;
  }

  /** Writes above the live line. */
  print(text: string, stream: Stream): void {
    const line = this.#line;
    if (line) write("stderr", this.#erasure());
    write(stream, text);
    if (line) this.show(line);
  }

  /** Writes what a task has printed, in whole lines, so that those of several tasks do not mix. */
  output(text: string, stream: Stream, id: string): void {
    const lines = this.#lines.add(text, stream, id);
    if (lines) this.print(this.isLive ? lines.replace(/\n?$/, "\n") : lines, stream);
  }

  /** Ends the lines that a task has begun; those of all tasks, without an id. */
  flush(id?: string): void {
    for (const { text, stream } of this.#lines.take(id)) this.print(`${text}\n`, stream);
  }

  /** Removes the live line. */
  end(): void {
    this.flush();
    write("stderr", this.#erasure());
  }
}

/** What is known of a list while it is worked on, by this run and by others. */
export class Progress {
  readonly tasks: Pick<TaskList, "count" | "paths">;
  #begin = performance.now();
  #counts: Record<State, number>;
  #endedBefore: number;
  #nextLook = 0;
  #claims = new Map<string, number>(); // their paths, and when they were first seen

  constructor(tasks: Progress["tasks"]) {
    this.tasks = tasks;
    this.#counts = tasks.count();
    this.#endedBefore = this.#counts.done + this.#counts.fail;
  }

  /** Counts the tasks in each state, but spends no more than a twentieth of the time on that. */
  counts(): Record<State, number> {
    const now = performance.now();
    if (now < this.#nextLook) return this.#counts;
    this.#counts = this.tasks.count();
    const claims = [...this.tasks.paths("running")];
    this.#claims = new Map(claims.map((claim) => [claim, this.#claims.get(claim) ?? now]));
    this.#nextLook = now + Math.max(150, 20 * (performance.now() - now));
    return this.#counts;
  }

  /** Seconds since the beginning. */
  elapsed(): number {
    return (performance.now() - this.#begin) / 1000;
  }

  /**
   * A bar, and as much as fits of: counts, time left, rate, the task that runs for longest. Some
   * columns stay free for the `^C` that a terminal shows.
   */
  line(width: number): string {
    const { todo, running, done, fail } = this.counts();
    const total = todo + running + done + fail;
    const rate = (done + fail - this.#endedBefore) / this.elapsed();
    const left = rate > 0 ? duration((todo + running) / rate) : "?";
    const parts = [
      `${done}/${total} done`,
      `, ${fail} failed`,
      `, ${running} running`,
      ` · ${left} left`,
      ` · ${rate < 10 ? rate.toFixed(1) : Math.round(rate)}/s`,
      this.#longest(),
    ];
    let text = "";
    for (const part of parts) if (widthOf(text + part) < width - 13) text += part;
    const cells = Math.max(0, Math.min(40, width - widthOf(text) - 4));
    return `${bar(cells, total ? (done + fail) / total : 1)} ${text}`;
  }

  #longest(): string {
    const [[claim, since] = []] = [...this.#claims].sort(([, a], [, b]) => a - b);
    if (!claim) return "";
    const id = cut(printable(locate(claim).id), 30);
    return ` · ${id} runs for ${duration((performance.now() - since!) / 1000)}`;
  }
}

function bar(cells: number, share: number): string {
  const full = Math.round(cells * Math.min(1, share));
  const empty = "░".repeat(cells - full);
  return paint("green", "█".repeat(full), "stderr") + paint("dim", empty, "stderr");
}

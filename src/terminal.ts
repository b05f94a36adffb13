/**
 * What the command writes: text that fits, and on a terminal a line that lives.
 *
 * @module
 */

import { idsIn } from "./claims.ts";
import type { State } from "./files.ts";
import { Lines } from "./lines.ts";
import { isThere } from "./processes.ts";
import {
  environment,
  isBundled,
  nodeProcess,
  pathOf,
  type Stream,
  system,
  writeAll,
} from "./system.ts";

const descriptors = { stdin: 0, stdout: 1, stderr: 2 };

/** Whether a person is at the other end. */
export function isTerminal(stream: "stdin" | Stream): boolean {
  if (globalThis.Deno) return Deno[stream].isTerminal();
  const { getBuiltinModule } = nodeProcess();
  const isDevice = getBuiltinModule("node:fs").fstatSync(descriptors[stream]).isCharacterDevice();
  return isDevice && getBuiltinModule("node:tty").isatty(descriptors[stream]); // which Bun takes 10 ms to load
}

/** Whether there is a signal of that name to wait for; where there is a `Deno`, it knows by itself. */
export function isSignal(name: string): boolean {
  if (/^SIG(KILL|STOP)$/.test(name)) return false;
  if (globalThis.Deno || /^SIG(INT|TERM|HUP)$/.test(name)) return true;
  return name in nodeProcess().getBuiltinModule("node:os").constants.signals;
}

/** How wide the terminal is now. */
export function columns(): number {
  try {
    if (globalThis.Deno) return Deno.consoleSize().columns || 80;
    const { stdout, stderr } = nodeProcess();
    return (stderr.isTTY ? stderr : stdout).getWindowSize()[0] || 80;
  } catch {
    return 80; // it is gone
  }
}

/** How wide a line on the standard output may be. */
export const widthOfOutput = (): number => isTerminal("stdout") ? columns() : 200;

/** Writes a text, unless nobody reads it any more. */
export function write(stream: Stream, text: string): void {
  const writeSync = (bytes: Uint8Array): number => {
    try {
      return system[stream].writeSync(bytes);
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === "EAGAIN") return 0; // a pipe that is full, and does not block
      if (code === "EPIPE" || code === "EIO") return bytes.length;
      throw error;
    }
  };
  writeAll({ writeSync }, text);
}

/** The words that start this program, for a person who wants to start it again. */
export function program(): string {
  if (isBundled) return wordFor("forrest");
  const { href } = new URL("../cli.ts", import.meta.url);
  const script = quote(href.startsWith("file:") ? nearby(pathOf(href)) : href);
  return globalThis.Deno ? `${wordFor("deno")} run -A ${script}` : `${wordFor("bun")} ${script}`;
}

/** The name of the program that runs, if a shell finds one of that name, or else its path. */
function wordFor(name: string): string {
  const isFound = environment("PATH").split(":").some((path) => isThere(`${path}/${name}`));
  const path = nearby(system.execPath());
  return isFound ? name : quote(path.includes("/") ? path : `./${path}`);
}

/** A path as short as it can be from here. */
export function nearby(path: string): string {
  const here = system.cwd();
  if (path === here) return ".";
  return path.startsWith(`${here}/`) ? path.slice(here.length + 1) : path;
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
  const isPlain = environment("NO_COLOR") || environment("TERM") === "dumb" || !isTerminal(stream);
  if (!text || isPlain) return text;
  return `\x1b[${COLORS[color]}m${text}\x1b[0m`;
}

// ------------------------------------------------------------------------------ the live line

/** The terminal, if there is one: text, and below it a line that is written anew again and again. */
export class Screen {
  /** Whether there is a live line. */
  readonly isLive: boolean;
  #line = "";
  #lines = new Lines();

  constructor(isWanted: boolean) {
    this.isLive = isWanted && isTerminal("stderr") && environment("TERM") !== "dumb";
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
  readonly tasks: { directory: string; count(): Record<State, number> };
  #begin = performance.now();
  #counts: Record<State, number>;
  #endedBefore: number;
  #nextLook = 0;
  #claims = new Map<string, number>(); // and when they were first seen

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
    const claims = idsIn(this.tasks.directory, "running");
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
    const id = printable(claim.replace(/\.json@[^@]*$/, ""));
    return ` · ${cut(id, 30)} runs for ${duration((performance.now() - since!) / 1000)}`;
  }
}

function bar(cells: number, share: number): string {
  const full = Math.round(cells * Math.min(1, share));
  const empty = "░".repeat(cells - full);
  return paint("green", "█".repeat(full), "stderr") + paint("dim", empty, "stderr");
}

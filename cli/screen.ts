/**
 * What lives on a terminal while tasks run: what they print, and below it a line with the progress.
 *
 * @module
 */

import process from "node:process";
import type { Stream } from "../mod.ts";
import { columns, isTerminal, paint, widthOf, write } from "./terminal.ts";

/** The terminal, if there is one: text, and below it a line that is written anew again and again. */
export class Screen {
  /** Whether there is a live line. */
  readonly isLive: boolean;
  #line = "";

  constructor(isWanted = true) {
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

  /** Writes whole lines above the live line. */
  print(text: string, stream: Stream): void {
    this.above(() => write(stream, this.isLive ? text.replace(/\n?$/, "\n") : text));
  }

  /** Does what writes to the terminal above the live line. */
  above(action: () => void): void {
    const line = this.#line;
    if (line) write("stderr", this.#erasure());
    action();
    if (line) this.show(line);
  }

  /** Removes the live line. */
  end(): void {
    write("stderr", this.#erasure());
  }
}

/** A bar, if the share is known, and as much of the parts as fits; some columns stay free for a `^C`. */
export function barWith(share: number | undefined, parts: string[]): string {
  const width = columns();
  let text = "";
  for (const part of parts) if (widthOf(text + part) < width - 13) text += part;
  if (share === undefined) return text;
  const cells = Math.max(0, Math.min(40, width - widthOf(text) - 4));
  const full = Math.round(cells * Math.min(1, share));
  const empty = paint("dim", "░".repeat(cells - full), "stderr");
  return `${paint("green", "█".repeat(full), "stderr")}${empty} ${text}`;
}

/** How many a second, for the live line. */
export const rateText = (rate: number): string =>
  ` · ${rate < 10 ? rate.toFixed(1) : Math.round(rate)}/s`;

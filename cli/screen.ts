/**
 * What lives on a terminal while tasks run: what they print, and below it a line with the progress.
 *
 * @module
 */

import process from "node:process";
import { locate, type State, type Stream, type TaskList } from "../mod.ts";
import { columns, cut, duration, paint, printable, widthOf } from "./terminal.ts";
import { isTerminal, write } from "./terminal.ts";

/** The terminal, if there is one: text, and below it a line that is written anew again and again. */
export class Screen {
  /** Whether there is a live line. */
  readonly isLive: boolean;
  #line = "";

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

  /** Writes what a task has printed. */
  output(text: string, stream: Stream): void {
    this.print(this.isLive ? text.replace(/\n?$/, "\n") : text, stream);
  }

  /** Removes the live line. */
  end(): void {
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
    const [longest, seconds] = this.#longest();
    // what runs longest may take as long again, however short the others were
    const left = rate > 0 ? duration(Math.max((todo + running) / rate, seconds)) : "?";
    const parts = [
      `${done}/${total} done`,
      `, ${fail} failed`,
      `, ${running} running`,
      ` · ${left} left`,
      ` · ${rate < 10 ? rate.toFixed(1) : Math.round(rate)}/s`,
      longest && ` · ${cut(printable(locate(longest).id), 30)} runs for ${duration(seconds)}`,
    ];
    let text = "";
    for (const part of parts) if (widthOf(text + part) < width - 13) text += part;
    const cells = Math.max(0, Math.min(40, width - widthOf(text) - 4));
    return `${bar(cells, total ? (done + fail) / total : 1)} ${text}`;
  }

  /** The path of the task that has been running for longest, and for how many seconds. */
  #longest(): [claim: string, seconds: number] {
    const now = performance.now();
    const [[claim, since] = ["", now]] = [...this.#claims].sort((a, b) => a[1] - b[1]);
    return [claim, (now - since) / 1000];
  }
}

function bar(cells: number, share: number): string {
  const full = Math.round(cells * Math.min(1, share));
  const empty = "░".repeat(cells - full);
  return paint("green", "█".repeat(full), "stderr") + paint("dim", empty, "stderr");
}

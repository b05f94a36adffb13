/**
 * How work ends before its end: on a signal, or as its time is over.
 *
 * @module
 */

import { constants } from "node:os";
import process from "node:process";
import { listen } from "../mod.ts";
import { AGAIN, UsageError } from "./command.ts";
import type { Screen } from "./screen.ts";
import { printable } from "./terminal.ts";

export const TIME_IS_OVER = "The time is over (`--time-left`)";

const LONGEST_TIMER = 2 ** 31 - 1; // milliseconds

/** Knows what can still be done in the time that is left. */
export class Clock {
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
export class Stop {
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
        process.exit(code);
      });
    }
    this.#undo.push(clock.beforeEnd(() => this.#end(TIME_IS_OVER, AGAIN)));
  }

  #listen(name: string, listener: () => void): void {
    try {
      if (/^SIG(KILL|STOP)$/.test(name) || !(name in constants.signals)) throw new TypeError();
      this.#undo.push(listen(name, listener));
    } catch {
      throw new UsageError(
        `\`--stop-signal\`: there is no signal \`${printable(name)}\` to wait for`,
      );
    }
  }

  #end(reason: string, code: number): void {
    [this.reason, this.code] = [reason, code];
    this.#controller.abort();
  }

  release(): void {
    for (const undo of this.#undo) undo();
  }
}

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

/** Ends a run in order on a signal or at the end of its time, and at once on a second signal. */
export class Stop {
  readonly #controller = new AbortController();
  readonly signal = this.#controller.signal;
  readonly #undo: (() => void)[] = [];
  readonly #seconds: number;
  #runtimes: number[] = [];
  reason = "";
  code = 0;

  constructor(seconds = Infinity, stopSignal?: string, screen?: Screen) {
    this.#seconds = seconds;
    const codes: Record<string, number> = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };
    if (stopSignal) codes[nameOfSignal(stopSignal)] = codes.SIGTERM = AGAIN;
    for (const [name, code] of Object.entries(codes)) {
      const reason = name === "SIGINT" ? "Interrupted" : `Stopped by ${name}`;
      const release = listen(name, () => {
        if (!this.signal.aborted) return this.#end(reason, code);
        screen?.end();
        process.exit(code);
      });
      this.#undo.push(release);
    }
    const wait = (this.#left() - 1) * 1000; // a second is time to kill what runs, and to put it back
    if (wait >= 2 ** 31) return; // no timer is that long
    const timer = setTimeout(() => this.#end(TIME_IS_OVER, AGAIN), Math.max(0, wait));
    this.#undo.push(() => clearTimeout(timer));
  }

  #left(): number {
    return this.#seconds - performance.now() / 1000; // which counts from the start of this program
  }

  #end(reason: string, code: number): void {
    [this.reason, this.code] = [reason, code];
    this.#controller.abort();
  }

  /** Learns how long a task takes. */
  saw(runtime = 0): void {
    this.#runtimes = [...this.#runtimes.slice(-99), runtime];
  }

  /** Whether a task can be expected to finish in the time that is left, as nine of ten would. */
  mayStart(): boolean {
    if (this.#seconds === Infinity) return true;
    const sorted = this.#runtimes.toSorted((a, b) => a - b);
    return this.#left() > (sorted[Math.floor(sorted.length * 0.9)] ?? 0) + 1;
  }

  release(): void {
    for (const undo of this.#undo) undo();
  }
}

function nameOfSignal(text: string): string {
  const name = text.toUpperCase().replace(/^(SIG)?/, "SIG");
  const isHeard = name in constants.signals && !/^SIG(KILL|STOP|ILL|FPE|SEGV)$/.test(name);
  if (isHeard) return name;
  const reason = `there is no signal \`${printable(name)}\` to wait for`;
  throw new UsageError(`\`--stop-signal\`: ${reason}`);
}

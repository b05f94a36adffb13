/**
 * What the live line says of a list.
 *
 * @module
 */

import type { State, TaskList } from "../mod.ts";
import { exists, nameAt } from "./list.ts";
import { barWith, rateText } from "./screen.ts";
import { cut, duration, printable } from "./terminal.ts";

/** How long this program has been running. */
export const secondsSinceStart = (): number => performance.now() / 1000;

/** What is known of a list while it is worked on, by this run and by others. */
export class Progress {
  /** The ids of the tasks that have failed, and are to be tried again. */
  readonly retried = new Set<string>();
  readonly #tasks: TaskList;
  #counts: Record<State, number>;
  #endedBefore: number;
  #nextLook = 0;
  #claims = new Map<string, number>(); // their paths, and when they were first seen

  constructor(tasks: TaskList) {
    this.#tasks = tasks;
    this.#counts = tasks.count();
    this.#endedBefore = this.#counts.done + this.#counts.fail;
  }

  /** Counts the tasks in each state, but spends no more than a twentieth of the time on that. */
  counts(): Record<State, number> {
    const now = performance.now();
    if (now < this.#nextLook) return this.#counts;
    this.#counts = this.#tasks.count();
    const claims = [...this.#tasks.paths("running")];
    this.#claims = new Map(claims.map((claim) => [claim, this.#claims.get(claim) ?? now]));
    this.#nextLook = now + Math.max(150, 20 * (performance.now() - now));
    return this.#counts;
  }

  /** A bar with counts, time left, rate, and the task that runs for longest. */
  line(): string {
    const { todo, running, done, fail } = this.counts();
    const total = todo + running + done + fail;
    const rate = (done + fail - this.#endedBefore) / secondsSinceStart();
    const [longest, seconds] = this.#longest();
    // what runs longest may take as long again, however short the others were
    const left = rate > 0 ? duration(Math.max((todo + running) / rate, seconds)) : "?";
    return barWith(total ? (done + fail) / total : 1, [
      `${done}/${total} done`,
      `, ${fail} failed`,
      `, ${running} running`,
      this.retried.size ? `, ${this.retried.size} to be tried again` : "",
      ` · ${left} left`,
      rateText(rate),
      longest && ` · ${cut(printable(nameAt(longest)), 30)} runs for ${duration(seconds)}`,
    ]);
  }

  /** The path of the task that has been running for longest, and for how many seconds. */
  #longest(): [claim: string, seconds: number] {
    const now = performance.now();
    const claims = [...this.#claims].sort((a, b) => a[1] - b[1]);
    const [claim, since] = claims.find(([claim]) => exists(claim)) ?? ["", now]; // as it may have ended
    return [claim, (now - since) / 1000];
  }
}

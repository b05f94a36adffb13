/**
 * The bar of the command, for a loop of your own.
 *
 * @example
 * ```ts
 * import { defer, TaskList } from "jsr:@x/forrest";
 * import { progress } from "jsr:@x/forrest/progress";
 *
 * const tasks = new TaskList("tasklist", { existOk: true });
 * for (let i = 0; i < 10; i++) tasks.schedule(defer(Math.sqrt, i));
 * for await (const task of progress(tasks.run())) console.log(task.returnValue);
 * ```
 *
 * @module
 */

import { barWith, rateText, Screen } from "./screen.ts";
import { duration } from "./terminal.ts";

/** The options of {@linkcode progress}. */
export interface ProgressOptions {
  /** How many items there are; what says so itself (a run, an array, a set) need not be told. */
  total?: number | undefined;
}

/**
 * Gives the items of a run, of `map`, or of anything else that can be iterated, and meanwhile shows a bar
 * on standard error, if that is a terminal. What `console` prints comes above it.
 *
 * @example
 * ```ts
 * import { map } from "jsr:@x/forrest";
 * import { progress } from "jsr:@x/forrest/progress";
 *
 * const numbers = [1, 2, 3];
 * for await (const root of progress(map(Math.sqrt, numbers), { total: numbers.length })) {
 *   console.log(root);
 * }
 * ```
 */
export async function* progress<T>(
  items: Iterable<T> | AsyncIterable<T>,
  options: ProgressOptions = {},
): AsyncGenerator<T, void, void> {
  const screen = new Screen();
  if (!screen.isLive) return yield* items;
  const begin = performance.now();
  let [done, failed] = [0, 0];
  const show = () => {
    const total = options.total ?? totalOf(items);
    screen.show(lineOf(done, failed, total, (performance.now() - begin) / 1000));
  };
  const release = keepConsoleAbove(screen);
  const timer = setInterval(show, 100);
  try {
    for await (const item of items) {
      done++;
      if (Object(item).state === "fail") failed++;
      show();
      yield item;
    }
  } finally {
    clearInterval(timer);
    release();
    screen.end();
  }
}

/** How many items there are, if they say so. */
function totalOf(items: object): number | undefined {
  const { total, length, size } = items as Record<string, unknown>;
  return [total, length, size].find((value) => typeof value === "number");
}

function lineOf(done: number, failed: number, total: number | undefined, seconds: number): string {
  const rate = done / seconds;
  const left = total !== undefined && rate > 0 ? duration(Math.max(0, total - done) / rate) : "?";
  return barWith(total === undefined ? undefined : done / Math.max(total, 1), [
    total === undefined ? `${done} done` : `${done}/${total} done`,
    failed ? `, ${failed} failed` : "",
    total === undefined ? ` · ${duration(seconds)}` : ` · ${left} left`,
    rateText(rate),
  ]);
}

/** Lets what `console` prints come above the live line; gives what ends that. */
function keepConsoleAbove(screen: Screen): () => void {
  const names = ["log", "info", "debug", "warn", "error", "table", "dir"] as const;
  const undo = names.map((name) => {
    const print = console[name];
    console[name] = (...args: unknown[]) => screen.above(() => print(...args));
    return () => void (console[name] = print);
  });
  return () => undo.forEach((restore) => restore());
}

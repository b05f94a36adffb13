/**
 * Schedules, counts or runs a list of very many tasks, which do nothing, and prints what that has taken:
 * `deno run -A bench/scale.ts schedule|count|run DIRECTORY COUNT`.
 *
 * @module
 */

import fs from "node:fs";
import process from "node:process";
import { defer, TaskList } from "../mod.ts";
import { seconds } from "./instruments.ts";
import { noop } from "./tasks.ts";

/** What is told of a list, in seconds and MB. */
export interface Scale {
  schedule: number;
  count: number;
  run: number;
  /** Until the first task has ended. */
  first: number;
  /** The most that the process of the run has had. */
  memory: number;
}

async function schedule(directory: string, count: number) {
  const tasks = new TaskList(directory);
  const schedule = await seconds(async () => {
    for (let left = count; left > 0; left -= 1000) {
      const length = Math.min(left, 1000);
      await Promise.all(Array.from({ length }, () => tasks.schedule(defer(noop))));
    }
  });
  return { schedule };
}

const asItIs = { existOk: true, preClean: false };

async function count(directory: string) {
  const tasks = new TaskList(directory, asItIs);
  return { count: await seconds(() => tasks.count()) };
}

async function run(directory: string, total: number) {
  const tasks = new TaskList(directory, asItIs);
  let first = 0;
  let done = 0;
  const run = await seconds(async () => {
    const begin = performance.now();
    for await (const { state } of tasks.run({ processes: 2, tasksPerProcess: Infinity })) {
      first ||= (performance.now() - begin) / 1000;
      if (state === "done") done++;
    }
  });
  if (done !== total) throw new Error(`Expected ${total} tasks to be done, got ${done}`);
  const [, peak] = /VmHWM:\s*(\d+) kB/.exec(fs.readFileSync("/proc/self/status", "utf8"))!;
  return { run, first, memory: Number(peak) / 1000 };
}

const actions: Record<string, (directory: string, count: number) => Promise<object>> = {
  schedule,
  count,
  run,
};
const [what, directory, number] = process.argv.slice(2);
const told = await actions[what](directory, Number(number));
console.log(JSON.stringify(told));

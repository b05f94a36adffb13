/**
 * A progress bar in a few lines: `total` is the number of tasks to come and those that have come.
 *
 *     deno run -A examples/progress.ts
 */

import process from "node:process";
import { defer, TaskList } from "../mod.ts";

export function isPrime(number: number): boolean {
  for (let factor = 2; factor * factor <= number; factor++) {
    if (number % factor === 0) return false;
  }
  return number > 1;
}

if (import.meta.main) {
  using tasks = new TaskList<boolean>("tasklist", { existOk: true, postClean: true });
  for (let number = 10_000_000_000; number < 10_000_000_100; number++) {
    tasks.schedule(defer(isPrime, number), { metadata: number });
  }

  const primes: unknown[] = [];
  let finished = 0;
  const run = tasks.run({ tasksPerProcess: 10 });
  for await (const { metadata, returnValue } of run) {
    if (returnValue) primes.push(metadata);
    const filled = Math.round(++finished / run.total * 40);
    const bar = "█".repeat(filled).padEnd(40, "░");
    if (process.stderr.isTTY) process.stderr.write(`${bar} ${finished}/${run.total}\r`);
  }
  if (process.stderr.isTTY) process.stderr.write("\n");
  console.log(primes.sort().join(" "));
}

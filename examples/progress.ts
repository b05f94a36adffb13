/**
 * The progress bar of the command, on standard error if that is a terminal.
 *
 *     deno run -A examples/progress.ts
 */

import { progress } from "../cli/progress.ts";
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
  for await (const { metadata, returnValue } of progress(tasks.run({ tasksPerProcess: 10 }))) {
    if (returnValue) primes.push(metadata);
  }
  console.log(primes.sort().join(" "));
}

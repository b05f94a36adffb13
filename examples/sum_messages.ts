/**
 * Several workers add up numbers, and the total of each is added up in the end.
 *
 *     deno run -A examples/sum_messages.ts
 */

import { map } from "../mod.ts";

// Each process imports this module once, so this is the state of one worker.
const worker = crypto.randomUUID();
let total = 0;

export function add(message: number): [worker: string, total: number] {
  total += message;
  return [worker, total];
}

function* messages(): Generator<number> {
  for (let message = 0; message < 1000; message++) yield message;
}

if (import.meta.main) {
  const totals = new Map<string, number>();
  for await (const [worker, total] of map(add, messages(), { ordered: false, processes: 2 })) {
    totals.set(worker, total); // the last total of each worker stays
  }
  const have = [...totals.values()].reduce((sum, total) => sum + total);
  console.log(`${totals.size} workers: ${have}`);
}

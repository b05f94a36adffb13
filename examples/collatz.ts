/**
 * Several readers compute, and one writer prints their results in order.
 *
 *     deno run -A examples/collatz.ts
 */

import { map } from "../mod.ts";

type Message = { number: number; kind: "EVEN" | "ODD" };

export function collatz({ number, kind }: Message): [number, number] {
  return [number, kind === "EVEN" ? number / 2 : 3 * number + 1];
}

export function print([number, next]: [number, number]): void {
  console.log(`${number} -> ${next}`);
}

function* messages(): Generator<Message> {
  for (let number = 0; number < 40; number++) {
    yield { number, kind: number % 2 === 0 ? "EVEN" : "ODD" };
  }
}

if (import.meta.main) {
  // The readers are calls in this process, as good as threads for waiting; the writer is a process.
  const results = map(collatz, messages(), { processes: 0, concurrency: 8 });
  for await (const _ of map(print, results, { processes: 1 }));
}

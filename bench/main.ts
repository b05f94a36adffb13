/**
 * Measures forrest, and prints a table:
 *
 * ```sh
 * deno task bench [PART OF A ROW'S NAME ...]
 * deno task bench --against REVISION [--pairs N] [PART OF A ROW'S NAME ...]
 * ```
 *
 * The first compares with floors that are measured in the same run, the second with another revision of
 * forrest. `bun bench/main.ts` takes the same words.
 *
 * @module
 */

import process from "node:process";
import { parseArgs } from "node:util";
import { compareWith } from "./against.ts";
import { compareWithFloors } from "./floors.ts";

const { values: { against, pairs }, positionals: parts } = parseArgs({
  args: process.argv.slice(2),
  options: { against: { type: "string" }, pairs: { type: "string" } },
  allowPositionals: true,
});
if (pairs && !against) throw new TypeError("Expected `--against REVISION` beside `--pairs`");
if (against) await compareWith(against, Number(pairs ?? 5), parts);
else await compareWithFloors(parts);
// on Bun, what a run has started may keep a program from its end
if (!globalThis.Deno) process.exit();

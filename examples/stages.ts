/**
 * Stages of work, each with workers of its own: the results of one are the items of the next.
 *
 *     deno run -A examples/stages.ts [FILE ...]
 */

import { readFile } from "node:fs/promises";
import process from "node:process";
import { map } from "../mod.ts";

export const read = async (path: string): Promise<[path: string, text: string]> => [
  path,
  await readFile(path, "utf8"),
];

export function countWords([path, text]: [string, string]): [path: string, Map<string, number>] {
  const counts = new Map<string, number>();
  for (const [word] of text.toLowerCase().matchAll(/\p{L}{4,}/gu)) {
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return [path, counts];
}

export function describe([path, counts]: [string, Map<string, number>]): string {
  const [first] = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  return `${path}: ${counts.size} words, most often ${first ? `"${first[0]}"` : "none"}`;
}

if (import.meta.main) {
  const paths = process.argv.slice(2);
  // Two stages: reading waits, so it stays in this process; counting computes.
  const texts = map(read, paths, { processes: 0, concurrency: 16 });
  const counted = map(countWords, texts, { processes: 2 });
  // And a third one, which gives its results as they are ready.
  for await (const line of map(describe, counted, { processes: 1, ordered: false })) {
    console.log(line);
  }
}

/**
 * Downloads the details of movies into a folder: an execution that can be resumed, which remembers
 * its errors and gives up after too many of them.
 *
 *     deno run -A examples/movies.ts https://example.com/movies/ movies 0111161 0068646 0468569
 *
 * Run it again, and it downloads only what is not in the folder yet.
 */

import { mkdirSync, writeFileSync } from "node:fs";
import process from "node:process";
import { defer, TaskList } from "../mod.ts";

export async function downloadMovieDetails(source: string, store: string, movieId: string) {
  const response = await fetch(new URL(movieId, source));
  if (!response.ok) throw new Error(`Cannot download ${movieId}: ${response.status}`);
  writeFileSync(`${store}/${movieId}.json`, await response.text());
}

if (import.meta.main) {
  const [source, store, ...movieIds] = process.argv.slice(2);
  if (!movieIds.length) throw new Error("Usage: examples/movies.ts URL FOLDER ID...");
  mkdirSync(store, { recursive: true });
  const execution = new TaskList<void>(`${store}/execution`, {
    existOk: true,
    preClean: false, // resume what is there,
    retryFailed: true, // and what has failed as well
  });
  for (const movieId of movieIds) {
    execution.schedule(defer(downloadMovieDetails, source, store, movieId), { id: movieId });
  }

  try {
    const run = execution.run({ processes: 2, retries: 1, maxFailures: 2 });
    for await (const { id, attempts } of run) console.log(`${id}: ${attempts} attempts`);
  } catch (error) {
    console.error(`Gave up. ${error}`);
  }

  const { todo, done, fail } = execution.count();
  console.log(`${done} finished, ${todo + fail} unfinished`);
  for await (const { id, errorValue } of execution.failTasks()) console.log(`${id}: ${errorValue}`);
}

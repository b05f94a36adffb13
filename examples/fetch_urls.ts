/**
 * Fetches the URLs that a file lists, one in each line: hundreds at once with few processes.
 *
 *     deno run -A examples/fetch_urls.ts urls.txt [LIST] [SECONDS]
 *
 * Run it again, and it fetches only what is new or has failed.
 */

import { readFileSync } from "node:fs";
import process from "node:process";
import { defer, TaskList } from "../mod.ts";

export async function fetchUrl(url: string, seconds = 30) {
  const response = await fetch(url, { signal: AbortSignal.timeout(seconds * 1000) });
  if (!response.ok) throw new Error(`${url} answers ${response.status} ${response.statusText}`);
  const text = await response.text();
  const title = /<title>(.*?)<\/title>/is.exec(text)?.[1].trim();
  return { url, status: response.status, length: text.length, title };
}

/** A file name for a URL: the same one each time, so that nothing is scheduled twice. */
async function idOf(url: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url));
  return new Uint8Array(digest).toHex();
}

if (import.meta.main) {
  const [file, directory = "urls", seconds = "30"] = process.argv.slice(2);
  if (!file) throw new Error("Usage: examples/fetch_urls.ts FILE [LIST] [SECONDS]");
  const urls = readFileSync(file, "utf8").split(/\s+/).filter(Boolean);
  const tasks = new TaskList<Awaited<ReturnType<typeof fetchUrl>>>(directory, {
    existOk: true,
    preClean: false,
    retryFailed: true,
  });
  for (const url of urls) {
    tasks.schedule(defer(fetchUrl, url, Number(seconds)), { id: await idOf(url), metadata: url });
  }

  for await (const { metadata, returnValue, errorValue } of tasks.run({ concurrency: 100 })) {
    if (returnValue) console.log(`${metadata}: ${returnValue.length} characters`);
    else console.log(`${metadata}: ${errorValue}`);
  }
  const { done, fail } = tasks.count();
  console.log(`${done} fetched, ${fail} failed`);
}

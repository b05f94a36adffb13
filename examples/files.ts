/**
 * Looks at every file below some folders: what it is, whether it is what its name says, and what would
 * be gained by compressing it. Without an argument it looks at this project and its dependencies.
 *
 *     deno run -A examples/files.ts [FOLDER ...]
 */

import { type Dirent, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { resolve } from "node:path";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";
import { defer, TaskList } from "../mod.ts";

interface Description {
  kind: string;
  bytes: number;
  lines: number;
  imports: number;
}

interface Packed extends Description {
  digest: string;
  compressed: number;
}

/** How files of some kinds begin. */
const beginnings: Record<string, number[]> = {
  gif: [0x47, 0x49, 0x46, 0x38],
  gz: [0x1f, 0x8b],
  jpg: [0xff, 0xd8, 0xff],
  pdf: [0x25, 0x50, 0x44, 0x46],
  png: [0x89, 0x50, 0x4e, 0x47],
  wasm: [0x00, 0x61, 0x73, 0x6d],
  zip: [0x50, 0x4b, 0x03, 0x04],
};

/** The first step: reads a file, and throws if it is not what its name says. */
export function read(path: string): { content: Uint8Array; description: Description } {
  if (!statSync(path).isFile()) throw new TypeError(`${path} is not a file that can be read`);
  const content = new Uint8Array(readFileSync(path));
  const ending = /[^/]\.(\w+)$/.exec(path)?.[1].toLowerCase() ?? "";
  const beginning = beginnings[ending];
  if (beginning && !beginning.every((byte, index) => content[index] === byte)) {
    throw new TypeError(`${path} does not begin as a ${ending} file does`);
  }
  const isText = !content.subarray(0, 8000).includes(0) && !beginning;
  const text = isText ? new TextDecoder("utf-8", { fatal: Boolean(ending) }).decode(content) : "";
  if (ending === "json") JSON.parse(text);
  const description = {
    kind: ending || (isText ? "text" : "binary"),
    bytes: content.length,
    lines: text.split("\n").length - 1,
    imports: /^[jt]sx?$/.test(ending) ? countImports(path, text) : 0,
  };
  return { content, description };
}

/** The imports of a module; throws if the file that one of them names is not there. */
function countImports(path: string, text: string): number {
  const imports = [...text.matchAll(/^(?:im|ex)port\b[^"'();]*?from\s*"(\.[^"]+)"/gm)];
  for (const [, specifier] of imports) {
    const target = new URL(specifier, pathToFileURL(path));
    if (!existsSync(target)) throw new Error(`${path} imports ${specifier}, which is not there`);
  }
  return imports.length;
}

/** The second step: needs what the first has read. */
export async function pack(content: Uint8Array, description: Description): Promise<Packed> {
  const bytes = new Uint8Array(content);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
  const gzip = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  const compressed = (await new Response(gzip).arrayBuffer()).byteLength;
  return { ...description, digest, compressed };
}

function* filesBelow(folder: string): Generator<string> {
  let entries: Dirent[] = [];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch {
    yield folder; // its task will fail, so that it is in the report
  }
  for (const entry of entries) {
    const path = `${folder}/${entry.name}`;
    if (!entry.isDirectory()) yield path;
    else if (![".git", "dist", "node_modules", "tasklist"].includes(entry.name)) {
      yield* filesBelow(path);
    }
  }
}

/** This project, and the package that its command uses, wherever the runtime keeps it. */
async function defaultFolders(): Promise<string[]> {
  const project = new URL("..", import.meta.url);
  await import("@std/path");
  const dependencies = new URL("..", import.meta.resolve("@std/path"));
  return [project, dependencies].map((url) => fileURLToPath(url));
}

function print(title: string, rows: (string | number)[][]): void {
  const texts = rows.map((row) => row.map((cell) => cell.toLocaleString("en")));
  const widths = texts[0]?.map((_, column) => Math.max(...texts.map((row) => row[column].length)));
  console.log(`\n${title}`);
  for (const row of texts) {
    const cells = row.map((cell, column) =>
      typeof rows[0][column] === "number"
        ? cell.padStart(widths[column])
        : cell.padEnd(widths[column])
    );
    console.log(`  ${cells.join("  ").trimEnd()}`);
  }
}

if (import.meta.main) {
  const given = process.argv.slice(2);
  const folders = given.length ? given : await defaultFolders();
  const tasks = new TaskList<Packed>("tasklist", { existOk: true });
  for (const folder of folders.map((folder) => resolve(folder))) {
    for (const path of filesBelow(folder)) {
      const file = defer(read, path);
      tasks.schedule(defer(pack, file.content, file.description), { metadata: path });
    }
  }

  const started = performance.now();
  const good: { path: string; file: Packed }[] = [];
  const bad: { id: string; error: Error }[] = [];
  const run = tasks.run({ autokill: 60 });
  for await (const { id, metadata, returnValue, errorValue } of run) {
    if (returnValue) good.push({ path: String(metadata), file: returnValue });
    else bad.push({ id, error: errorValue as Error });
    const finished = `${good.length + bad.length} of ${run.total} files\r`;
    if (process.stderr.isTTY) process.stderr.write(finished);
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const [count, failures] = [good.length.toLocaleString("en"), bad.length.toLocaleString("en")];
  console.log(`${count} files are fine, ${failures} are not (${seconds} s)`);

  const kinds = Map.groupBy(good, ({ file }) => file.kind);
  const sum = (files: typeof good, key: "bytes" | "lines" | "compressed") =>
    files.reduce((sum, { file }) => sum + file[key], 0);
  const rows = [...kinds].map(([kind, files]) => {
    const [bytes, compressed] = [sum(files, "bytes"), sum(files, "compressed")];
    const saved = `${Math.round(100 * (1 - compressed / (bytes || 1)))} % smaller`;
    return [kind, files.length, sum(files, "lines"), bytes, saved];
  }).sort((a, b) => Number(b[3]) - Number(a[3]));
  print("kind, files, lines, bytes, with gzip", rows.slice(0, 10));

  const copies = [...Map.groupBy(good, ({ file }) => file.digest).values()]
    .filter((same) => same.length > 1 && same[0].file.bytes > 0)
    .sort((a, b) => b.length - a.length);
  print(
    "the same file, several times",
    copies.slice(0, 5).map((same) => [same.length, same[0].path]),
  );

  const wordy = good.filter(({ file }) => file.imports > 0);
  wordy.sort((a, b) => b.file.imports - a.file.imports);
  print("most imports", wordy.slice(0, 5).map(({ path, file }) => [file.imports, path]));

  if (bad.length) {
    bad.sort((a, b) => a.error.message < b.error.message ? -1 : 1);
    print("not what they seem", bad.slice(0, 20).map(({ error }) => [error.message]));
    console.log(
      "\nTheir tasks lie in tasklist/fail. To run the first of them here, up to its error:",
    );
    console.log(`  forrest exec tasklist/fail/${bad[0].id}.json --raise`);
    console.log("(`deno run -A cli.ts`, or `bun cli.ts`, is `forrest` where it is not installed.)");
  }
}

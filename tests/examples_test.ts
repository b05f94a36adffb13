/** Runs each program in `examples/`, on the runtime that runs this test. */

import { after, test } from "node:test";
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const project = fileURLToPath(new URL("..", import.meta.url));
const runtime = [process.execPath, ...("Deno" in globalThis ? ["run", "-A"] : [])];
const folders: string[] = [];
after(() => folders.forEach((folder) => rmSync(folder, { recursive: true, force: true })));

function newFolder(files: Record<string, string | Uint8Array> = {}): string {
  const folder = mkdtempSync(join(tmpdir(), "forrest-examples-"));
  folders.push(folder);
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(folder, name, ".."), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
  return folder;
}

async function run(cwd: string, module: string, ...args: string[]) {
  const [program, ...first] = runtime;
  const child = spawn(program, [...first, join(project, module), ...args], {
    cwd,
    env: { ...process.env, NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 60_000,
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk) => stdout += chunk);
  child.stderr.on("data", (chunk) => stderr += chunk);
  const code = await new Promise((resolve) => child.on("close", resolve));
  return { code, stdout, stderr, lines: stdout.trimEnd().split("\n") };
}

/** Serves on the loopback, and closes whatever connection is still open in the end. */
async function serving<T>(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
  use: (url: string) => Promise<T>,
): Promise<T> {
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    return await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

test("quickstart prints the value or the error of each item", async () => {
  const folder = newFolder();
  const { code, stdout } = await run(folder, "examples/quickstart.ts");
  assert.equal(code, 0);
  assert.match(stdout, /====> 12$/m);
  assert.match(stdout, /RangeError: 13 is bad luck/);
  assert.match(stdout, /quickstart\.ts:\d+/);
  assert.equal(readdirSync(join(folder, "tasklist/done")).length, 19);
  assert.equal(readdirSync(join(folder, "tasklist/fail")).length, 1);
});

test("files reports what is fine, and leaves in fail what is not what it seems", async () => {
  const folder = newFolder({
    "tree/good.ts": 'export { one } from "./one.ts";\n',
    "tree/one.ts": "export const one = 1;\n",
    "tree/copy of one.ts": "export const one = 1;\n",
    "tree/notes": "plain text\n",
    "tree/picture.png": new Uint8Array([0x89, 0x50, 0x4e, 0x47, 1, 2, 3]),
    "tree/deep/er/no picture.png": "<svg/>",
    "tree/cut off.json": '{ "a": [1, 2',
    "tree/latin.txt": new Uint8Array([0x63, 0x61, 0x66, 0xe9]),
    "tree/lost.ts": 'import { two } from "./two.ts";\n',
  });
  symlinkSync("nowhere", join(folder, "tree/dangling"));
  assert.equal(spawnSync("mkfifo", [join(folder, "tree/pipe")]).status, 0);
  const { code, stdout } = await run(folder, "examples/files.ts", "tree");
  assert.equal(code, 0);
  assert.match(stdout, /^5 files are fine, 6 are not/m);
  assert.match(stdout, /ts +3 +3 +/);
  assert.match(stdout, /the same file, several times\n +2 .*one\.ts/);
  assert.match(stdout, /no picture\.png does not begin as a png file does/);
  assert.match(stdout, /JSON/);
  assert.match(stdout, /lost\.ts imports \.\/two\.ts, which is not there/);
  assert.match(stdout, /ENOENT.*dangling/);
  assert.match(stdout, /pipe is not a file that can be read/);
  assert.equal(readdirSync(join(folder, "tasklist/done")).length, 5);
  assert.equal(readdirSync(join(folder, "tasklist/fail")).length, 6);

  const [, command] = /^ {2}forrest (exec \S+ --raise)$/m.exec(stdout)!;
  const looked = await run(folder, "cli.ts", ...command.split(" "));
  assert.equal(looked.code, 1);
  assert.match(looked.stderr, /files\.ts:\d+/);
  assert.equal(readdirSync(join(folder, "tasklist/fail")).length, 6);
});

test("fetch_urls fetches from a server that is slow, fails and hangs, and then only what is left", async () => {
  const asked: string[] = [];
  let broken = true;
  await serving((request, response) => {
    const path = request.url ?? "";
    asked.push(path);
    if (path.startsWith("/hang") && broken) return;
    if (path.startsWith("/fail") && broken) response.statusCode = 503;
    const body = `<title> page ${path} </title>`;
    setTimeout(() => response.end(body), path.startsWith("/slow") ? 1000 : 0);
  }, async (url) => {
    const paths = ["slow", "fail", "hang", "good"].flatMap((kind) =>
      Array.from({ length: 30 }, (_, index) => `${kind}/${index}`)
    );
    const folder = newFolder({ "urls.txt": paths.map((path) => `${url}${path}\n`).join("") });
    const first = await run(folder, "examples/fetch_urls.ts", "urls.txt", "list", "4");
    assert.equal(first.code, 0);
    assert.equal(first.lines.at(-1), "60 fetched, 60 failed");
    assert.equal(first.lines.filter((line) => /answers 503/.test(line)).length, 30);
    assert.equal(first.lines.filter((line) => /TimeoutError/.test(line)).length, 30);

    broken = false;
    asked.length = 0;
    const second = await run(folder, "examples/fetch_urls.ts", "urls.txt", "list", "4");
    assert.equal(second.lines.at(-1), "120 fetched, 0 failed");
    assert.equal(asked.length, 60);
    assert.deepEqual(asked.filter((path) => !/^\/(fail|hang)\//.test(path)), []);
  });
});

test("the programs of tasks.py: add, run, add and run again, status, reset", async () => {
  let asked = 0;
  let broken = true;
  await serving((request, response) => {
    asked++;
    if (broken && request.url === "/7") response.statusCode = 500;
    response.end("page");
  }, async (url) => {
    const list = Array.from({ length: 20 }, (_, index) => `${url}${index}\n`);
    const folder = newFolder({ "list_of_jobs.txt": list.join("") });
    const forrest = (...words: string[]) => run(folder, "cli.ts", ...words);
    const fetchUrl = `${join(project, "examples/fetch_urls.ts")}#fetchUrl`;

    assert.equal((await forrest("add", "list", fetchUrl, "list_of_jobs.txt")).code, 0);
    assert.equal((await forrest("run", "list", "--processes=2", "--concurrency=500")).code, 1);
    assert.match((await forrest("status", "list")).stdout, /done +19$.*fail +1$/ms);
    assert.equal(asked, 20);

    broken = false;
    assert.equal((await forrest("add", "list", fetchUrl, "list_of_jobs.txt")).code, 0);
    assert.equal((await forrest("retry", "list")).code, 0);
    assert.equal((await forrest("run", "list")).code, 0);
    assert.match((await forrest("status", "list")).stdout, /done +20$/m);
    assert.equal(asked, 21);

    assert.equal((await forrest("reset", "list", "--yes")).code, 0);
    assert.deepEqual(readdirSync(folder), ["list_of_jobs.txt"]);
  });
});

test("movies resumes an execution, remembers its errors, and gives up after too many", async () => {
  const asked: string[] = [];
  let broken = true;
  await serving((request, response) => {
    const movie = (request.url ?? "").slice(1);
    asked.push(movie);
    if (broken && Number(movie) > 1) response.statusCode = 500;
    response.end(JSON.stringify({ movie }));
  }, async (url) => {
    const folder = newFolder();
    const movies = Array.from({ length: 20 }, (_, index) => `${index}`);
    const first = await run(folder, "examples/movies.ts", url, "store", ...movies);
    assert.match(first.stderr, /Gave up.*\d failures.*maxFailures/);
    assert.match(first.stdout, /^2 finished, 18 unfinished$/m);
    assert.match(first.stdout, /^\d+: Error: Cannot download \d+: 500$/m);
    assert.match(first.stdout, /: 2 attempts$/m);
    assert.ok(asked.length < 20, `it asked ${asked.length} times`);

    broken = false;
    asked.length = 0;
    const second = await run(folder, "examples/movies.ts", url, "store", ...movies);
    assert.equal(second.lines.at(-1), "20 finished, 0 unfinished");
    assert.equal(asked.length, 18);
    assert.equal(readFileSync(join(folder, "store/19.json"), "utf8"), '{"movie":"19"}');
  });
});

test("sum_messages adds up the totals of its workers", async () => {
  const { lines } = await run(newFolder(), "examples/sum_messages.ts");
  assert.deepEqual(lines, ["2 workers: 499500"]);
});

test("collatz prints its results in order", async () => {
  const { lines } = await run(newFolder(), "examples/collatz.ts");
  const next = (number: number) => number % 2 ? 3 * number + 1 : number / 2;
  assert.deepEqual(
    lines,
    Array.from({ length: 40 }, (_, number) => `${number} -> ${next(number)}`),
  );
});

test("stages hands the results of one map to the next", async () => {
  const folder = newFolder({ "a.txt": "run forrest run forrest\n", "b.txt": "one two\n" });
  const { lines } = await run(folder, "examples/stages.ts", "a.txt", "b.txt");
  assert.deepEqual(lines.sort(), [
    'a.txt: 1 words, most often "forrest"',
    "b.txt: 0 words, most often none",
  ]);
});

test("progress finds what it looks for, and leaves no list", async () => {
  const folder = newFolder();
  const { lines } = await run(folder, "examples/progress.ts");
  assert.match(lines[0], /^10000000019 10000000033 .* 10000000097$/);
  assert.deepEqual(readdirSync(folder), []);
});

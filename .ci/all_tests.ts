/**
 * Runs every check, and every test on both runtimes: `deno task test [PART OF A FILE NAME ...]`.
 *
 * With `--quick` (`deno task test:quick`), it is some checks, and the specification on Deno.
 *
 * The tests find the programs of the two runtimes in `FORREST_DENO` and `FORREST_BUN`. Bun is taken
 * from the npm registry, so that Deno is all that has to be there.
 */

import { findBun } from "./bun.ts";

const MINUTES = 15; // for one test file on one runtime, also where others keep all cores busy

interface Outcome {
  passed: number;
  failed: number;
  skipped: number;
}

const total: Outcome = { passed: 0, failed: 0, skipped: 0 };

async function run(program: string, args: string[], env: Record<string, string> = {}) {
  const started = performance.now();
  const process = new Deno.Command(program, {
    args,
    env,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(MINUTES * 60_000),
  }).spawn();
  let output = "";
  const read = async (stream: ReadableStream<Uint8Array>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) output += text;
  };
  const drained = Promise.all([read(process.stdout), read(process.stderr)]);
  const { success, signal } = await process.status;
  const patience = new Promise((resolve) => setTimeout(resolve, 2000));
  await Promise.race([drained, patience]); // what a test has left running may hold its output open
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  if (signal) output += `\nended by ${signal} after ${seconds} s; ${MINUTES} minutes are allowed\n`;
  // deno-lint-ignore no-control-regex
  return { success, output: output.replace(/\x1b\[[\d;]*m/g, ""), seconds };
}

function report(what: string, outcome: Outcome, seconds: string, output: string): void {
  total.passed += outcome.passed;
  total.failed += outcome.failed;
  total.skipped += outcome.skipped;
  const skipped = outcome.skipped ? `, ${outcome.skipped} skipped` : "";
  const summary = `${outcome.passed} passed, ${outcome.failed} failed${skipped} (${seconds} s)`;
  const isSkipped = (line: string) => /^\(skip\) | \.\.\. ignored |^skipped/.test(line);
  const skips = output.trim().split("\n").filter(isSkipped);
  const shown = outcome.failed ? whatFailed(output) : new Set(skips); // as Bun prints them twice
  console.log([...shown, `${what}: ${summary}`, ...(outcome.failed ? [""] : [])].join("\n"));
}

/** What the test runner printed, without the tests that passed. */
function whatFailed(output: string): string[] {
  return output.trim().split("\n").filter((line) => !/^\(pass\) | \.\.\. ok \(/.test(line));
}

async function check(...args: string[]): Promise<void> {
  const what = `deno ${args.join(" ")}`;
  console.log(`${what} ...`);
  const { success, output, seconds } = await run(Deno.execPath(), args);
  report(what, { passed: Number(success), failed: Number(!success), skipped: 0 }, seconds, output);
}

/** Reads the last summary that the test runner printed; one that ends badly has a failure at least. */
function outcomeOf(success: boolean, output: string): Outcome {
  const count = (pattern: RegExp) => Number([...output.matchAll(pattern)].at(-1)?.[1] ?? 0);
  const outcome = {
    passed: count(/(?:\| |^ *)(\d+) pass(?:ed)?\b/gm),
    failed: count(/(?:\| |^ *)(\d+) fail(?:ed)?\b/gm),
    skipped: count(/(?:\| |^ *)(\d+) (?:ignored|skip)\b/gm),
  };
  if (!success || outcome.passed + outcome.skipped === 0) outcome.failed ||= 1;
  return outcome;
}

/**
 * Makes the executable for the tests of the command, once for all, as a user does. That of Deno is made of a
 * base that may be out of reach; a failure of both is one of the tests.
 */
async function makeExecutable(folder: string): Promise<string | undefined> {
  for (const task of ["compile", "compile:bun"]) {
    console.log(`deno task ${task} ...`);
    const file = `${folder}/forrest`;
    const { success, output, seconds } = await run(Deno.execPath(), ["task", task, file]);
    const outcome = { passed: Number(success), failed: 0, skipped: Number(!success) };
    if (task === "compile:bun") [outcome.failed, outcome.skipped] = [outcome.skipped, 0];
    report(`deno task ${task}`, outcome, seconds, output);
    if (success) return file;
  }
}

interface Runtime {
  name: string;
  /** What runs a test file, before its name. */
  command: string[];
  /** The files that are still to be run, in order. */
  files: string[];
}

async function test({ name, command: [program, ...args] }: Runtime, file: string): Promise<void> {
  const what = `${name} ${file}`;
  console.log(`${what} ...`);
  const { success, output, seconds } = await run(program, [...args, `./${file}`], env);
  report(what, outcomeOf(success, output), seconds, output);
}

const running = new Map<string, Promise<void>>(); // by the names of files

/** Runs the files of the first runtime, then of the other; but none that is being run, as it may need a port. */
async function testAll(...runtimes: Runtime[]): Promise<void> {
  const left = () =>
    runtimes.flatMap((runtime) => runtime.files.map((file) => ({ runtime, file })));
  while (left().length) {
    const next = left().find(({ file }) => !running.has(file));
    if (!next) {
      await Promise.race(running.values());
      continue;
    }
    const { runtime, file } = next;
    runtime.files.splice(runtime.files.indexOf(file), 1);
    const ended = test(runtime, file).finally(() => running.delete(file));
    running.set(file, ended);
    await ended;
  }
}

/** The test files that lie in a folder. */
function testsIn(folder: string): string[] {
  const names = [...Deno.readDirSync(`./${folder}`)].map(({ name }) => `${folder}${name}`);
  return names.filter((name) => name.endsWith("_test.ts")).sort();
}

Deno.chdir(new URL("..", import.meta.url));
const parts = Deno.args.filter((word) => word !== "--quick");
const isQuick = Deno.args.includes("--quick");
const isChosen = (name: string) => parts.length === 0 || parts.some((part) => name.includes(part));
const files = (isQuick ? ["mod_test.ts"] : [...testsIn(""), ...testsIn("tests/")]).filter(isChosen);
if (files.length === 0) throw new Error(`No test file has ${parts.join(" or ")} in its name`);

const env: Record<string, string> = { FORREST_DENO: Deno.execPath() };
const deno: Runtime = {
  name: "deno",
  command: [Deno.execPath(), "test", "-A", ...parts.length ? [] : ["--no-check"]], // as all are checked before
  files: files.toReversed(), // the longest one is among the last
};
const bun: Runtime = { name: "bun", command: [], files: [] };
if (!isQuick) {
  env.FORREST_BUN = await findBun();
  const { success, output } = await run(env.FORREST_BUN, ["install", "--no-save", "--silent"]);
  if (!success) throw new Error(`Cannot install the packages for Bun: ${output}`);
  bun.command = [env.FORREST_BUN, "test", "--timeout", `${MINUTES * 60_000}`];
  const isLongest = (file: string) => Number(file.includes("system_calls")); // not to be the last alone
  bun.files = files.toSorted((one, other) => isLongest(other) - isLongest(one));
}

const folder = Deno.makeTempDirSync({ prefix: "forrest-executable-" });
const isOfCommand = (file: string) => Deno.readTextFileSync(file).includes("/cli_helpers.ts");
const executable = files.some(isOfCommand) && await makeExecutable(folder);
if (executable) env.FORREST_EXECUTABLE = executable;

if (parts.length === 0) {
  await check("fmt", "--check");
  await check("lint");
  await check("check");
}
if (parts.length === 0 && !isQuick) {
  await check("doc", "--lint", "mod.ts");
  await check("publish", "--dry-run", "--allow-dirty");
}

// Tests wait more than they compute, so three files are run at once, from both ends.
await Promise.all([testAll(deno, bun), testAll(bun, deno), testAll(deno, bun)]);
Deno.removeSync(folder, { recursive: true });

if (total.skipped) console.log(`${total.skipped} skipped`);
console.log(`${total.passed} passed, ${total.failed} failed`);
Deno.exit(total.failed ? 1 : 0);

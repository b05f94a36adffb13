/**
 * Runs every check, and every test on both runtimes: `deno task test [PART OF A FILE NAME ...]`.
 *
 * The tests find the programs of the two runtimes in `FORREST_DENO` and `FORREST_BUN`. Bun is taken
 * from the npm registry, so that Deno is all that has to be there.
 */

const BUN = "1.4.5";
const MINUTES = 5; // for one test file on one runtime

interface Outcome {
  passed: number;
  failed: number;
  skipped: number;
}

const total: Outcome = { passed: 0, failed: 0, skipped: 0 };

async function findBun(): Promise<string> {
  const processor = Deno.build.arch === "x86_64" ? "x64" : "aarch64";
  const manifest = `npm:@oven/bun-${Deno.build.os}-${processor}@${BUN}/package.json`;
  await import(manifest, { with: { type: "json" } }); // this is what downloads it
  const program = Deno.build.os === "windows" ? "bin/bun.exe" : "bin/bun";
  return decodeURIComponent(new URL(program, import.meta.resolve(manifest)).pathname);
}

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
  const lines = output.trim().split("\n");
  const shown = outcome.failed ? whatFailed(output) : lines.filter(isSkipped);
  console.log([...shown, `${what}: ${summary}`, ...(outcome.failed ? [""] : [])].join("\n"));
}

/** What the test runner printed, without the tests that passed. */
function whatFailed(output: string): string[] {
  return output.trim().split("\n").filter((line) => !/^\(pass\) | \.\.\. ok \(/.test(line));
}

async function check(...args: string[]): Promise<void> {
  const { success, output, seconds } = await run(Deno.execPath(), args);
  const outcome = { passed: Number(success), failed: Number(!success), skipped: 0 };
  report(`deno ${args.join(" ")}`, outcome, seconds, output);
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

/** Real processes on a busy machine can be late: a file that fails is shown, and tried once more. */
async function test(name: string, program: string, args: string[], env: Record<string, string>) {
  let { success, output, seconds } = await run(program, args, env);
  if (outcomeOf(success, output).failed) {
    console.log(`${whatFailed(output).slice(-150).join("\n")}\n${name} failed: once more`);
    ({ success, output, seconds } = await run(program, args, env));
  }
  report(name, outcomeOf(success, output), seconds, output);
}

Deno.chdir(new URL("..", import.meta.url));
const [deno, bun] = [Deno.execPath(), await findBun()];
const env = { FORREST_DENO: deno, FORREST_BUN: bun };
const installed = await run(bun, ["install", "--no-save", "--silent"]);
if (!installed.success) throw new Error(`Cannot install the packages for Bun: ${installed.output}`);

const isChosen = (name: string) =>
  Deno.args.length === 0 || Deno.args.some((part) => name.includes(part));
const namesIn = (path: string) => [...Deno.readDirSync(path)].map(({ name }) => name).sort();
const names = [...namesIn("."), ...namesIn("tests").map((name) => `tests/${name}`)];
const tests = names.filter((name) => name.endsWith("_test.ts") && isChosen(name));

if (Deno.args.length === 0) {
  await check("fmt", "--check");
  await check("lint");
  await check("check");
  await check("doc", "--lint", "mod.ts");
  await check("publish", "--dry-run", "--allow-dirty");
}
// Tests wait more than they compute, so both runtimes go through the files at once, from both ends;
// never both through the same file, as it may need a port or a program for itself.
const inUse = new Map<string, Promise<void>>();
async function testAll(program: string, command: string, args: string[], names: string[]) {
  for (const name of names) {
    const other = inUse.get(name);
    if (other) await other;
    const tested = test(`${command} ${name}`, program, [...args, `./${name}`], env);
    inUse.set(name, tested);
    await tested;
  }
}
const patience = ["--timeout", `${MINUTES * 60_000}`];
await Promise.all([
  testAll(deno, "deno test -A", ["test", "-A"], tests),
  testAll(bun, "bun test", ["test", ...patience], tests.toReversed()),
]);

if (total.skipped) console.log(`${total.skipped} skipped`);
console.log(`${total.passed} passed, ${total.failed} failed`);
Deno.exit(total.failed ? 1 : 0);

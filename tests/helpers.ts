/**
 * What the tests have in common: folders, programs, and what becomes of a task.
 *
 * @module
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test as register } from "node:test";
import { module, type RunOptions, type Task, TaskList } from "./library.ts";

export const fixtures = new URL("./fixtures/tasks.ts", import.meta.url).href;
export const session = new URL("./fixtures/session.ts", import.meta.url);
export const runtime = "Deno" in globalThis ? "deno" : "bun";

/** A test that may take as long as a process needs on a busy machine. */
export function test(name: string, run: () => void | Promise<void>): void;
export function test(
  name: string,
  options: { skip: string | false },
  run: () => void | Promise<void>,
): void;
export function test(
  name: string,
  options: { skip: string | false } | (() => void | Promise<void>),
  run?: () => void | Promise<void>,
): void {
  const { skip } = typeof options === "function" ? { skip: false } : options;
  register(name, { timeout: 60_000, skip }, (run ?? options) as () => Promise<void>);
}

export const onDeno = { skip: runtime !== "deno" && "permissions are Deno's" };

export interface Folder extends Disposable {
  file(name: string): string;
  read(name: string): string;
  lines(name: string): string[];
  write(name: string, text: string): string;
}

/** An empty folder that is removed in the end. */
export function temporary(): Folder {
  const path = realpathSync(mkdtempSync(join(tmpdir(), "forrest-test-")));
  const file = (name: string) => join(path, name);
  const read = (name: string) => existsSync(file(name)) ? readFileSync(file(name), "utf8") : "";
  return {
    file,
    read,
    lines: (name) => read(name).trim().split("\n"),
    write: (name, text) => {
      mkdirSync(join(file(name), ".."), { recursive: true });
      writeFileSync(file(name), text);
      return file(name);
    },
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true, maxRetries: 5 }),
  };
}

/** What becomes of a task in a list of its own. */
export async function outcomeOf(task: unknown, options: RunOptions = {}): Promise<Task> {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(task);
  const [outcome] = await Array.fromAsync(tasks.run({ processes: 1, ...options }));
  return outcome;
}

export async function resultOf(task: unknown, options: RunOptions = {}): Promise<unknown> {
  const outcome = await outcomeOf(task, options);
  if ("errorValue" in outcome) throw outcome.errorValue;
  return outcome.returnValue;
}

/** Runs a program as a user would, in its own folder. */
export function runProgram(
  ...program: Parameters<typeof writeProgram>
): { code: number | null; stdout: string; stderr: string } {
  const [file, args, options] = writeProgram(...program);
  const spawned = spawnSync(file, args, { ...options, encoding: "utf8", timeout: 50_000 });
  return { code: spawned.status, stdout: spawned.stdout, stderr: spawned.stderr };
}

/** Writes a program, which may use the module without importing it, and says how to start it. */
export function writeProgram(
  folder: Folder,
  text: string,
  files: Record<string, string> = {},
  name = "main.ts",
  program = process.execPath,
  flags = ["-A"],
): [string, string[], { cwd: string; env: NodeJS.ProcessEnv }] {
  for (const [name, text] of Object.entries(files)) folder.write(name, text);
  const imports = ["command", "defer", "evaluate", "exec", "map", "TaskList"].filter((word) =>
    new RegExp(`\\b${word}\\b`).test(text) && !text.includes(`from "${module}"`)
  );
  const header = imports.length ? `import { ${imports.join(", ")} } from "${module}";\n` : "";
  const lines = text.replaceAll(/^ +/gm, "");
  const path = folder.write(name, `import process from "node:process";\n${header}${lines}`);
  const isDeno = program === process.execPath ? runtime === "deno" : runtime !== "deno";
  const args = ["run", ...(isDeno ? flags : []), path];
  return [program, args, { cwd: join(path, ".."), env: { ...process.env, NO_COLOR: "1" } }];
}

let other: string | undefined;

/** The program of the runtime that does not run these tests. */
export function otherRuntime(): string {
  const [name, ...ask] = runtime === "deno"
    ? ["BUN", "bun@1.4.5", "-e", "console.log(process.execPath)"]
    : ["DENO", "deno@2.9.6", "eval", "console.log(Deno.execPath())"];
  other ??= process.env[`FORREST_${name}`];
  return other ??= spawnSync("npx", ["--yes", ...ask], { encoding: "utf8" }).stdout.trim();
}

/** Whether a process runs; one that is dead and not yet reaped does not. */
export function isRunning(pid: string): boolean {
  assert.match(pid, /^\d+/);
  const { stdout } = spawnSync("ps", ["-o", "stat=", "-p", pid.trim()], { encoding: "utf8" });
  return stdout.trim() !== "" && !stdout.startsWith("Z");
}

/** Waits until something has happened. */
export async function until(condition: () => boolean, seconds = 20): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (!condition()) {
    assert.ok(performance.now() < end, `did not happen within ${seconds} s: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

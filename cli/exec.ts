/**
 * `forrest exec`: runs one task, to debug it or for xargs.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { fromFileUrl } from "@std/path/from-file-url";
import { dirname } from "@std/path/posix/dirname";
import { resolve } from "@std/path/resolve";
import { encode, exec as runFile, type ExecOptions, locate, readTask } from "../mod.ts";
import type { AnyTask, Stream } from "../mod.ts";
import { headOfError, textOfError } from "./code.ts";
import type { Command, Input } from "./command.ts";
import { AGAIN, isExecutable, isSpecifier, nearby, program } from "./command.ts";
import { Raised, SESSION, sessionOf, UsageError } from "./command.ts";
import { exists, noTask, openList } from "./list.ts";
import { Screen } from "./screen.ts";
import { Clock, Stop } from "./stop.ts";
import { stateAt, storedAt } from "./task.ts";
import { printable, write } from "./terminal.ts";

export const exec: Command = {
  most: 2,
  usage: ["TASK.json [OUT.json] [options]"],
  brief: "run one task, to debug it or for xargs",
  about: `Run one task and print its value. A task in the \`todo\` of a list is claimed, and
its outcome is filed in the list; any other stays as it is, as does each with
OUT.json or --raise.`,
  words: [["TASK.json", "the task"], ["OUT.json", "where to write the outcome"]],
  options: [
    ["--raise", "throw what the task throws, here, and change no file"],
    ["--print", "print the whole error [default: its first line]"],
    SESSION,
    ["--inspect-brk", "wait for a debugger, and stop before the first line"],
  ],
  examples: [
    "forrest exec tasklist/fail/7.json --raise",
    "ls tasklist/todo/*.json | xargs -n 1 -P 8 forrest exec",
  ],
  action: execute,
};

async function execute(input: Input): Promise<number> {
  const [path, output] = input.words;
  if (path === undefined) throw new UsageError("TASK.json, the task to run, is missing");
  const isDebugged = input.is("inspect-brk");
  if (isDebugged && isExecutable) {
    throw new UsageError("`--inspect-brk` needs the source of forrest: use Deno or Bun");
  }
  const { directory, state, id } = locate(resolve(path));
  const isRaising = input.is("raise");
  const isFiled = !output && !isRaising && !isDebugged;
  if (state === "todo" && isFiled && /\.json$/.test(path)) {
    return await runOne(nearby(directory || "/"), id, input);
  }
  if (!exists(path)) throw noTask(path);
  if (output && stateAt(output) && exists(`${locate(resolve(output)).directory}/todo`)) {
    const fix = "one task at a time, as by `xargs -n 1`, or another place for its outcome";
    throw new UsageError(`\`${output}\` is the place of a task: ${fix}`);
  }
  const options = { raise: isRaising, output, session: sessionOf(input) };
  const task = isExecutable ? await runHere(path, options) : runApart(path, options, isDebugged);
  if (typeof task === "number") return task;
  if ("errorValue" in task) {
    complain(path, task.errorValue, input);
    return 1;
  }
  if (!output && task.returnValue !== undefined) console.log(task.returnValue);
  return 0;
}

/** Claims one task of a list, runs it, and files its outcome. */
async function runOne(directory: string, id: string, input: Input): Promise<number> {
  const tasks = openList(directory, `${directory}/log.txt`);
  const screen = new Screen(false);
  const stop = new Stop(new Clock(), screen);
  const options = { processes: 1, ids: [id], session: sessionOf(input), signal: stop.signal };
  const onOutput = (text: string, stream: Stream) => write(stream, text);
  let isMine = false;
  for await (const { state, errorValue, returnValue } of tasks.run({ ...options, onOutput })) {
    isMine = true;
    if (state === "fail") complain(`${directory}/fail/${id}.json`, errorValue, input);
    else if (returnValue !== undefined) console.log(returnValue);
  }
  stop.release();
  if (stop.reason) {
    write("stderr", `${stop.reason}: the task is back in \`todo\`\n`);
    return stop.code;
  }
  const found = tasks.find(id);
  if (!found) throw noTask(`${directory}/todo/${id}.json`);
  return whatBecameOf(found, isMine);
}

/** The exit code for a task of a list: what this process has not done, another one may have. */
function whatBecameOf(path: string, isMine: boolean): number {
  const { id, state } = locate(path);
  if (!isMine) {
    const where = state === "running" ? "another run has it" : `it is in \`${state}\` already`;
    write("stderr", `Not run: \`${printable(id)}\`, as ${where}\n`);
  }
  return state === "done" ? 0 : state === "fail" ? 1 : AGAIN;
}

function complain(path: string, error: unknown, input: Input): void {
  const stored = encode(error, "errorValue");
  const text = input.is("print") ? textOfError(stored) : headOfError(stored);
  const again = program("exec", path, "--raise");
  write("stderr", `${printable(locate(path).id)}: ${text}\nTo see where: ${again}\n`);
}

async function runHere(path: string, options: ExecOptions): Promise<AnyTask> {
  try {
    return await runFile(path, options);
  } catch (error) {
    if (options.raise) throw new Raised("", { cause: error });
    throw error;
  }
}

/** Runs a task in a process of its project, not of forrest; gives the exit code if there is no outcome. */
function runApart(path: string, options: ExecOptions, isDebugged: boolean): AnyTask | number {
  const folder = mkdtempSync(`${tmpdir()}/forrest-exec-`);
  const output = options.output ?? (options.raise ? undefined : `${folder}/outcome.json`);
  const script = new URL("./here.ts", import.meta.url).href;
  const start = globalThis.Deno
    ? ["--preload", script, `${projectOf(path)}/forrest.js`] // which is never reached
    : [fromFileUrl(script)];
  const flags = [...globalThis.Deno ? ["run", "-A"] : [], ...isDebugged ? ["--inspect-brk"] : []];
  const words = [...flags, ...start, path, JSON.stringify({ ...options, output })];
  try {
    const { status } = spawnSync(process.execPath, words, { stdio: "inherit" });
    return status === 0 && output ? readTask(output) : status ?? 1;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The folder of a module that a task calls: from there, Deno looks for the configuration of its project. */
function projectOf(path: string): string {
  const { steps } = storedAt(path);
  const calls = Array.isArray(steps) ? steps.map((step) => `${Object(step).call}`) : [];
  const isOfFile = (call: string) => call.startsWith("file:") || !isSpecifier(call);
  const [module = "."] = calls.filter((call) => call.includes("#") && isOfFile(call));
  return dirname(module.startsWith("file:") ? fromFileUrl(module) : module);
}

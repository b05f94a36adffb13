/**
 * `forrest exec`: runs one task, to debug it or for xargs.
 *
 * @module
 */

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import process from "node:process";
import { fromFileUrl } from "@std/path/from-file-url";
import { resolve } from "@std/path/resolve";
import help from "./help/exec.txt" with { type: "text" };
import { type AnyTask, denoArgs, encode, exec as runFile, type ExecOptions } from "../mod.ts";
import { listen, locate, readTask, type Stream } from "../mod.ts";
import { headOfError, textOfError } from "./code.ts";
import type { Command, Input } from "./command.ts";
import { AGAIN, isExecutable, nearby, program, SOURCE } from "./command.ts";
import { Raised, sessionOf, UsageError } from "./command.ts";
import { directoryOf, exists, findTask, noTask, openList } from "./list.ts";
import { Screen } from "./screen.ts";
import { Clock, Stop } from "./stop.ts";
import { nameAt, stateAt } from "./task.ts";
import { printable, write } from "./terminal.ts";

/** What a task is run with where the command itself is of no use. */
const LIBRARY = new URL("../mod.ts", import.meta.url).href;

export const exec: Command = {
  help,
  most: 3,
  action: execute,
};

async function execute(input: Input): Promise<number> {
  const [path, output] = pathsIn(input);
  if (path === undefined) throw new UsageError("TASK.json, the task to run, is missing");
  const { directory, state, id } = locate(resolve(path));
  const isDebugged = input.is("inspect-brk");
  const isRaising = input.is("raise") || isDebugged;
  if (state === "todo" && !output && !isRaising && /\.json$/.test(path)) {
    return await runOne(nearby(directory || "/"), id, input);
  }
  if (!exists(path)) throw noTask(path);
  if (output && stateAt(output) && exists(`${locate(resolve(output)).directory}/todo`)) {
    const fix = "one task at a time, as by `xargs -n 1`, or another place for its outcome";
    throw new UsageError(`\`${output}\` is the place of a task: ${fix}`);
  }
  const options = { raise: isRaising, output, session: sessionOf(input) };
  if (globalThis.Deno && !isExecutable) return await runInProject(path, options, input);
  if (isDebugged) return await debug();
  let task;
  try {
    task = await runFile(path, options);
  } catch (error) {
    if (isRaising) throw new Raised("", { cause: error });
    throw error;
  }
  return report(path, task, input);
}

/** Prints the value of a task, or its error; gives the exit code. */
function report(path: string, task: AnyTask, input: Input): number {
  if ("errorValue" in task) {
    complain(path, task.errorValue, input);
    return 1;
  }
  if (!input.words[1] && task.returnValue !== undefined) console.log(task.returnValue);
  return 0;
}

/** Runs a task on Deno, where imports are those of the main module: so one that would lie in its project. */
async function runInProject(path: string, options: ExecOptions, input: Input): Promise<number> {
  const { steps } = readTask(path);
  const output = options.output ?? `${tmpdir()}/forrest-${crypto.randomUUID()}.json`;
  const words = [resolve(path), options.raise ? options : { ...options, output }];
  const code = `import process from "node:process"; import { exec } from "${LIBRARY}";
    const { returnValue } = await exec(...${JSON.stringify(words)});
    if (${options.raise} && returnValue !== undefined) console.log(returnValue);
    process.exit(0);`;
  const flags = input.is("inspect-brk") ? ["-A", "--inspect-brk"] : ["-A"];
  const args = denoArgs(flags, Array.isArray(steps) ? steps.map(Object) : [], code);
  const child = spawn(process.execPath, args, { stdio: "inherit" });
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) listen(name, () => child.kill(name));
  const [status, signal] = await once(child, "close");
  if (signal) return 128 + constants.signals[signal as "SIGINT"];
  if (options.raise || status) return status;
  const result = report(path, readTask(output), input);
  if (!options.output) rmSync(output);
  return result;
}

/** The path of the task, be it that of a list and a task in it, and where its outcome is to be written. */
function pathsIn(input: Input): (string | undefined)[] {
  const [path, word, output] = input.words;
  if (word === undefined || !existsSync(`${path}/todo`)) {
    if (output !== undefined) throw new UsageError(`\`${output}\` is a word too many`);
    return [path, word];
  }
  const directory = directoryOf(input);
  return [findTask(directory, openList(directory), word), output];
}

/** Claims one task of a list, runs it, and files its outcome. */
async function runOne(directory: string, id: string, input: Input): Promise<number> {
  const tasks = openList(directory);
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
  const { state } = locate(path);
  if (!isMine) {
    const where = state === "running" ? "another run has it" : `it is in \`${state}\` already`;
    write("stderr", `Not run: \`${printable(nameAt(path))}\`, as ${where}\n`);
  }
  return state === "done" ? 0 : state === "fail" ? 1 : AGAIN;
}

function complain(path: string, error: unknown, input: Input): void {
  const stored = encode(error, "errorValue");
  const text = input.is("print") ? textOfError(stored) : headOfError(stored);
  const again = program("exec", path, "--raise");
  write("stderr", `${printable(nameAt(path))}: ${text}\nTo see where: ${again}\n`);
}

/** Starts this program again on Bun, in the debugger. */
function debug(): number {
  if (isExecutable) {
    throw new UsageError("`--inspect-brk` needs the source of forrest: use Deno or Bun");
  }
  const words = process.argv.slice(2).map((word) => word === "--inspect-brk" ? "--raise" : word);
  const start = ["--inspect-brk", fromFileUrl(SOURCE), ...words];
  return spawnSync(process.execPath, start, { stdio: "inherit" }).status ?? 1;
}

/**
 * `forrest exec`: runs one task, to debug it or for xargs.
 *
 * @module
 */

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import process from "node:process";
import { fromFileUrl } from "@std/path/from-file-url";
import { resolve } from "@std/path/resolve";
import { type AnyTask, denoArgs, encode, exec as runFile, type ExecOptions } from "../mod.ts";
import { listen, locate, readTask, type Stream } from "../mod.ts";
import { headOfError, textOfError } from "./code.ts";
import type { Command, Input } from "./command.ts";
import { AGAIN, isExecutable, nearby, program, SOURCE } from "./command.ts";
import { Raised, SESSION, sessionOf, UsageError } from "./command.ts";
import { exists, noTask, openList } from "./list.ts";
import { Screen } from "./screen.ts";
import { Clock, Stop } from "./stop.ts";
import { stateAt } from "./task.ts";
import { printable, write } from "./terminal.ts";

/** What a task is run with where the command itself is of no use. */
const LIBRARY = new URL("../mod.ts", import.meta.url).href;

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
    ["--inspect-brk", "the same, but wait for a debugger before the first line"],
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

/** Starts this program again on Bun, in the debugger. */
function debug(): number {
  if (isExecutable) {
    throw new UsageError("`--inspect-brk` needs the source of forrest: use Deno or Bun");
  }
  const words = process.argv.slice(2).map((word) => word === "--inspect-brk" ? "--raise" : word);
  const start = ["--inspect-brk", fromFileUrl(SOURCE), ...words];
  return spawnSync(process.execPath, start, { stdio: "inherit" }).status ?? 1;
}

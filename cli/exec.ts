/**
 * `forrest exec`: runs one task, to debug it or for xargs.
 *
 * @module
 */

import { existsSync } from "node:fs";
import process from "node:process";
import { fromFileUrl } from "@std/path/from-file-url";
import { resolve } from "@std/path/resolve";
import help from "./help/exec.txt" with { type: "text" };
import { encode, exec as runFile, locate, type Stream } from "../mod.ts";
import { headOfError, textOfError } from "./code.ts";
import type { Command, Input } from "./command.ts";
import { AGAIN, isExecutable, nearby, program, SOURCE } from "./command.ts";
import { Raised, sessionOf, UsageError } from "./command.ts";
import { directoryOf, exists, findTask, noTask, openList } from "./list.ts";
import { Screen } from "./screen.ts";
import { Clock, Stop } from "./stop.ts";
import { nameAt, stateAt } from "./task.ts";
import { printable, write } from "./terminal.ts";

export const exec: Command = {
  help,
  most: 3,
  action: execute,
};

async function execute(input: Input): Promise<number> {
  const [path, output] = pathsIn(input);
  if (path === undefined) throw new UsageError("TASK.json, the task to run, is missing");
  if (input.is("inspect-brk")) return await debug();
  const { directory, state, id } = locate(resolve(path));
  const isRaising = input.is("raise");
  if (state === "todo" && !output && !isRaising && /\.json$/.test(path)) {
    return await runOne(nearby(directory || "/"), id, input);
  }
  if (!exists(path)) throw noTask(path);
  if (output && stateAt(output) && exists(`${locate(resolve(output)).directory}/todo`)) {
    const fix = "one task at a time, as by `xargs -n 1`, or another place for its outcome";
    throw new UsageError(`\`${output}\` is the place of a task: ${fix}`);
  }
  let task;
  try {
    task = await runFile(path, { raise: isRaising, output, session: sessionOf(input) });
  } catch (error) {
    if (isRaising) throw new Raised("", { cause: error });
    throw error;
  }
  if ("errorValue" in task) {
    complain(path, task.errorValue, input);
    return 1;
  }
  if (!output && task.returnValue !== undefined) console.log(task.returnValue);
  return 0;
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

/** Starts this program again, in the debugger. */
async function debug(): Promise<number> {
  if (isExecutable) {
    throw new UsageError("`--inspect-brk` needs the source of forrest: use Deno or Bun");
  }
  const words = process.argv.slice(2).filter((word) => word !== "--inspect-brk");
  const start = globalThis.Deno
    ? ["run", "-A", "--inspect-brk", SOURCE]
    : ["--inspect-brk", fromFileUrl(SOURCE)];
  const { spawnSync } = await import("node:child_process");
  return spawnSync(process.execPath, [...start, ...words], { stdio: "inherit" }).status ?? 1;
}

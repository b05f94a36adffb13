/**
 * `forrest exec`: runs one task, to debug it or for xargs.
 *
 * @module
 */

import process from "node:process";
import { fromFileUrl } from "@std/path/from-file-url";
import { resolve } from "@std/path/resolve";
import { encode, exec as runFile, locate, type Stream } from "../mod.ts";
import { headOfError, textOfError } from "./code.ts";
import type { Command, Input } from "./command.ts";
import { AGAIN, isExecutable, nearby, program, SOURCE } from "./command.ts";
import { Raised, SESSION, sessionOf, UsageError } from "./command.ts";
import { exists, noTask, openList } from "./list.ts";
import { Screen } from "./screen.ts";
import { Clock, Stop } from "./stop.ts";
import { stateAt } from "./task.ts";
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

/**
 * `forrest exec`: runs one task, to debug it or for xargs.
 *
 * @module
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, statSync } from "node:fs";
import { constants } from "node:os";
import process from "node:process";
import { dirname } from "@std/path/posix/dirname";
import { resolve } from "@std/path/resolve";
import help from "./help/exec.txt" with { type: "text" };
import { denoArgs, exec as runFile, listen, locate, readTask } from "../mod.ts";
import { headOfError, textOfError } from "./code.ts";
import { AGAIN, type Command, type Input, isExecutable, nearby, program } from "./command.ts";
import { sessionOf, UsageError } from "./command.ts";
import { exists, isList, nameAt, noTask, openList, placeOf, storedAt, taskIn } from "./list.ts";
import { temporaryList } from "./list.ts";
import { Stop } from "./stop.ts";
import { printable, write } from "./terminal.ts";

export const exec: Command = { help, most: 3, action: execute };

/** Runs a task where it is, in its list, or a copy of it in a list of its own, or here. */
async function execute(input: Input): Promise<number | void> {
  const [path, output, surplus] = taskIn(input);
  if (path === undefined) throw new UsageError("TASK.json, the task to run, is missing");
  if (surplus !== undefined) throw new UsageError(`\`${surplus}\` is a word too many`);
  const isRaising = input.is("raise") || input.is("inspect-brk");
  const { directory, state, id } = placeOf(path);
  const isOwn = state === "todo" && !output && !isRaising;
  if (!isOwn && !exists(path)) throw noTask(path);
  if (isRaising) return await raise(path, input);
  if (output !== undefined && !exists(dirname(output))) {
    throw new UsageError(`There is no directory for \`${output}\``);
  }
  if (output !== undefined && statSync(output, { throwIfNoEntry: false })?.isDirectory()) {
    throw new UsageError(`\`${output}\` is a directory: give the name of a file`);
  }
  const place = output === undefined ? undefined : placeOf(output);
  if (place?.state && isList(place.directory)) {
    const fix = "one task at a time, as by `xargs -n 1`, or another place for its outcome";
    throw new UsageError(`\`${output}\` is the place of a task: ${fix}`);
  }
  const name = isOwn ? id : "task";
  using tasks = isOwn ? openList(nearby(directory || "/")) : temporaryList();
  if (!isOwn) copyFileSync(path, `${tasks.directory}/todo/${name}.json`);
  const stop = new Stop();
  const options = { processes: 1, ids: [name], session: sessionOf(input), signal: stop.signal };
  const [task] = await tasks.run(options);
  stop.release();
  const found = tasks.find(name);
  if (!found) throw noTask(path);
  if (stop.reason && !task) {
    write("stderr", `${stop.reason}: the task is ${isOwn ? "back in `todo`" : "as it was"}\n`);
    return stop.code;
  }
  if (output) copyFileSync(found, output);
  else if (task?.returnValue !== undefined) console.log(task.returnValue);
  return report(found, isOwn ? nearby(found) : path, !!task, input);
}

/** Says why a task has failed, or where it is if this process did not get it; gives the exit code. */
function report(found: string, path: string, isMine: boolean, input: Input): number {
  const { state } = locate(found);
  const name = printable(nameAt(path));
  if (!isMine) {
    const where = state === "running" ? "another run has it" : `it is in \`${state}\` already`;
    write("stderr", `Not run: \`${name}\`, as ${where}\n`);
  } else if (state === "fail") {
    const { errorValue } = storedAt(found);
    const text = input.is("print") ? textOfError(errorValue) : headOfError(errorValue);
    write("stderr", `${name}: ${text}\nTo see where: ${program("exec", path, "--raise")}\n`);
  }
  return state === "done" ? 0 : state === "fail" ? 1 : AGAIN;
}

/** Runs a task so that what it throws is seen as it is, and that a debugger can wait; changes no file. */
async function raise(path: string, input: Input): Promise<number | void> {
  const options = { raise: true, session: sessionOf(input) };
  const isDebugged = input.is("inspect-brk");
  if (!isExecutable) return await raiseElsewhere([resolve(path), options], isDebugged);
  if (isDebugged) throw new UsageError("`--inspect-brk` needs the source: use Deno or Bun");
  try {
    const { returnValue } = await runFile(path, options);
    if (returnValue !== undefined) console.log(returnValue);
  } catch (error) {
    console.error(error);
    return 1;
  }
}

/** Does so in a process whose main module would lie in the project of the task, as Deno imports by that. */
async function raiseElsewhere(words: [string, object], isDebugged: boolean): Promise<number> {
  const code = `import { exec } from "${new URL("../mod.ts", import.meta.url)}";
    const { returnValue } = await exec(...${JSON.stringify(words)});
    if (returnValue !== undefined) console.log(returnValue);
    process.exit(0);`;
  // Bun would wait at full speed for what nothing will settle
  const idle = globalThis.Deno ? "" : "setInterval(() => {}, 2 ** 30);";
  const flags = isDebugged ? ["--inspect-brk"] : [];
  const { steps } = readTask(words[0]);
  const args = globalThis.Deno
    ? denoArgs(
      { permissions: ["-A", ...flags] },
      Array.isArray(steps) ? steps.map(Object) : [],
      code,
    )
    : [...flags, "-e", idle + code];
  const child = spawn(process.execPath, args, { stdio: "inherit" });
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) listen(name, () => child.kill(name));
  const [status, signal] = await once(child, "close");
  return signal ? 128 + constants.signals[signal as "SIGINT"] : status;
}

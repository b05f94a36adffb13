/**
 * The list that a command is about, and the tasks in it.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import { lstatSync, readdirSync, readFileSync, type Stats } from "node:fs";
import { hostname } from "node:os";
import { locate, type State, states, TaskList } from "../mod.ts";
import { type Input, program, unknown, UsageError } from "./command.ts";
import { quote } from "./terminal.ts";

/** The one list that a command is about. */
export function directoryOf({ words: [directory] }: Input): string {
  if (!directory) throw new UsageError("DIR, the directory of the list, is missing");
  return directory.replace(/(?<=.)\/+$/, "");
}

/** Takes a list that is there; makes none. */
export function openList(directory: string, logFile?: string): TaskList {
  const names = namesIn(directory);
  const make = `\`forrest add ${quote(directory)} ...\` makes one`;
  if (!names) throw new UsageError(`There is no task list \`${directory}\`; ${make}`);
  if (!names.includes("todo")) {
    throw new UsageError(`\`${directory}\` is no task list: it has no folder \`todo\``);
  }
  return new TaskList(directory, { existOk: true, preClean: false, logFile });
}

/** What lies in a directory; undefined if it does not exist. */
export function namesIn(directory: string): string[] | undefined {
  try {
    return readdirSync(directory);
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === "ENOENT") return undefined;
    if (code !== "ENOTDIR") throw error;
    throw new UsageError(`\`${directory}\` is a file, or in one; not the directory of a task list`);
  }
}

/** The path of a task of a list, whichever its state; `others` are what else might have been meant. */
export function findTask(directory: string, tasks: TaskList, id: string, ...others: State[]) {
  const found = tasks.find(id);
  if (found) return directory + found.slice(tasks.directory.length);
  const paths = states.flatMap((state) => [...tasks.paths(state)]);
  const ids = paths.slice(0, 10_000).map((path) => locate(path).id);
  if (!ids.length) throw new UsageError(`There is no task \`${id}\`: \`${directory}\` is empty`);
  throw new UsageError(`${unknown("task", id, [...others, ...ids])} in \`${directory}\``);
}

/** Those of the paths in `running` whose run was on this machine, and has died. */
export function deadAmong(claims: Iterable<string>): string[] {
  const ownerOf = (claim: string) => /@([^@/]+)\.[^./]+$/.exec(claim)?.[1] ?? "";
  return [...Map.groupBy(claims, ownerOf)].flatMap(([owner, own]) => isDead(owner) ? own : []);
}

/** Whether a process has died; of another machine, nobody here can tell. */
function isDead(owner: string): boolean {
  const [host, pid, start] = owner.split(".");
  if (host !== hostname().replace(/[^\w-]+/g, "_")) return false;
  try {
    return startOf(pid) !== start;
  } catch {
    return true; // there is no such process
  }
}

/** When a process started, as the library has it in the names of what it claims. */
function startOf(pid: string): string {
  const boot = "/proc/sys/kernel/random/boot_id";
  if (!exists(boot)) {
    const { stdout } = spawnSync("ps", ["-o", "lstart=", "-p", pid], { encoding: "utf8" });
    return stdout.replace(/\W+/g, "_");
  }
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const [state, ...fields] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return /[ZX]/.test(state) ? "" : `${readFileSync(boot, "utf8").slice(0, 8)}-${fields[18]}`;
}

/** What is to be said of tasks that a dead run has left in `running`. */
export function noteOnDead(dead: number, directory: string): string {
  const fix = `\`${program("run", directory)}\` takes over`;
  return dead ? `  (${dead} left by a run that has died: ${fix})` : "";
}

/** What is to be said of a file that is not there. */
export function noTask(path: string): UsageError {
  return new UsageError(`There is no task \`${path}\`; \`forrest list DIR\` names those of a list`);
}

/** What is known of a path, be it a dangling link; undefined if there is nothing. */
export function infoOf(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

export const exists = (path: string): boolean => infoOf(path) !== undefined;

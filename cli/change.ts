/**
 * `forrest retry`, `clean` and `reset`: what changes a list without running it.
 *
 * @module
 */

import { rmSync } from "node:fs";
import { locate, TaskList } from "../mod.ts";
import { type Command, DIR, type Input, program, type Row, UsageError } from "./command.ts";
import { directoryOf, findTask, namesIn, openList } from "./list.ts";
import { count, isTerminal, write } from "./terminal.ts";

const YES: Row = ["-y, --yes", "do not ask"];

export const retry: Command = {
  usage: ["DIR [ID ...]"],
  brief: "move failed tasks back to those that wait",
  about: "Move failed tasks back to those that wait, for the next run.",
  words: [DIR, ["ID", "the tasks to move [default: all that failed]"]],
  examples: ["forrest retry tasklist && forrest run tasklist"],
  action: retryTasks,
};

export const clean: Command = {
  most: 1,
  usage: ["DIR [--todo] [--done] [--fail] [--yes]"],
  brief: "remove tasks of some states",
  about: "Remove the tasks of the states named. Without any: all tasks, after a question.",
  words: [DIR],
  options: [
    ["--todo", "tasks that wait"],
    ["--done", "tasks that have a value"],
    ["--fail", "tasks that have an error"],
    YES,
  ],
  examples: ["forrest clean tasklist --done"],
  action: cleanList,
};

export const reset: Command = {
  most: 1,
  usage: ["DIR [--yes]"],
  brief: "remove a list",
  about:
    "Remove a list, after a question: tasks, log and folders.\nWhat else lies in its directory stays.",
  words: [DIR],
  options: [YES],
  examples: ["forrest reset tasklist"],
  action: resetList,
};

async function retryTasks(input: Input): Promise<number> {
  const directory = directoryOf(input);
  const tasks = openList(directory);
  const [, ...ids] = input.words;
  for (const id of ids) {
    const { state } = locate(findTask(directory, tasks, id));
    if (state === "fail") continue;
    throw new UsageError(`The task \`${id}\` has not failed: it is in \`${state}\``);
  }
  const moved = await tasks.retry(ids.length ? ids : undefined);
  if (!moved) write("stdout", "No task has failed\n");
  else write("stdout", `${count(moved, "task")} moved from \`fail\` back to \`todo\`\n`);
  if (moved) write("stderr", `To run what waits:  ${program("run", directory)}\n`);
  return 0;
}

function cleanList(input: Input): number {
  const directory = directoryOf(input);
  const tasks = openList(directory);
  const removable = ["todo", "done", "fail"] as const;
  const named = removable.filter((state) => input.is(state));
  const chosen = named.length ? named : removable;
  const counts = tasks.count();
  const what = chosen.map((state) => `${counts[state]} ${state}`).join(", ");
  if (!named.length && !isAgreed(`Remove all tasks of \`${directory}\` (${what})?`, input)) {
    return 1;
  }
  tasks.clean(Object.fromEntries(chosen.map((state) => [state, true])));
  write("stdout", `Removed from \`${directory}\`: ${what}\n`);
  return 0;
}

function resetList(input: Input): number {
  const directory = directoryOf(input);
  const tasks = openList(directory);
  const what = Object.entries(tasks.count()).map(([state, n]) => `${n} ${state}`).join(", ");
  if (!isAgreed(`Remove the task list \`${directory}\` (${what})?`, input)) return 1;
  tasks.recover();
  const { running } = tasks.count();
  if (running) {
    const those = `${count(running, "task")} of \`${directory}\` ${running === 1 ? "is" : "are"}`;
    const fix =
      "stop that run, or, if it has died on another host, let `forrest run` take them over";
    throw new Error(`Nothing is removed, as ${those} running: ${fix}`);
  }
  rmSync(`${directory}/log.txt`, { force: true });
  const options = { existOk: true, preClean: false, postClean: true };
  new TaskList(directory, options)[Symbol.dispose]();
  const left = namesIn(directory)?.length
    ? `; \`${directory}\` stays, as it holds other things`
    : "";
  write("stdout", `Removed \`${directory}\`: ${what}${left}\n`);
  return 0;
}

/** Asks on a terminal; elsewhere `--yes` must be given. */
function isAgreed(question: string, input: Input): boolean {
  if (input.is("yes")) return true;
  if (!isTerminal("stdin")) throw new UsageError(`${question} Say so with \`--yes\``);
  if (confirm(question)) return true;
  write("stdout", "Nothing was removed\n");
  return false;
}

/**
 * `forrest retry`, `clean` and `reset`: what changes a list without running it.
 *
 * @module
 */

import retryHelp from "./help/retry.txt" with { type: "text" };
import cleanHelp from "./help/clean.txt" with { type: "text" };
import resetHelp from "./help/reset.txt" with { type: "text" };
import { locate, TaskList } from "../mod.ts";
import { type Command, type Input, nearby, program, UsageError } from "./command.ts";
import { choose, countsIn, directoryOf, exists, isChoosing, openList } from "./list.ts";
import { count, isTerminal, write } from "./terminal.ts";

export const retry: Command = { help: retryHelp, action: retryTasks };
export const clean: Command = { help: cleanHelp, most: 1, action: cleanList };
export const reset: Command = { help: resetHelp, most: 1, action: resetList };

async function retryTasks(input: Input): Promise<number> {
  const tasks = openList(directoryOf(input));
  const chosen = [...choose(input, tasks, ["fail"])].map(locate);
  const other = chosen.find(({ state }) => state !== "fail");
  if (other) {
    throw new UsageError(`The task \`${other.id}\` has not failed: it is in \`${other.state}\``);
  }
  const moved = await tasks.retry(chosen.map(({ id }) => id));
  if (!moved) {
    write("stdout", isChoosing(input) ? "No task is chosen\n" : "No task has failed\n");
    return 0;
  }
  write("stdout", `${count(moved, "task")} moved from \`fail\` back to \`todo\`\n`);
  write("stderr", `To run what waits:  ${program("run", nearby(tasks.directory))}\n`);
  return 0;
}

function cleanList(input: Input): number {
  const directory = directoryOf(input);
  const tasks = openList(directory);
  const { todo, done, fail } = tasks.count();
  const counts = Object.entries({ todo, done, fail });
  const named = counts.filter(([state]) => input.is(state));
  const chosen = named.length ? named : counts;
  const what = countsIn(Object.fromEntries(chosen));
  const isMeant = named.length ||
    isAgreed(`Remove all tasks of \`${directory}\` (${what})?`, input);
  if (!isMeant) return 1;
  tasks.clean(Object.fromEntries(chosen.map(([state]) => [state, true])));
  write("stdout", `Removed from \`${directory}\`: ${what}\n`);
  return 0;
}

function resetList(input: Input): number {
  const directory = directoryOf(input);
  const tasks = openList(directory);
  const what = countsIn(tasks.count());
  if (!isAgreed(`Remove the task list \`${directory}\` (${what})?`, input)) return 1;
  tasks.recover();
  const { running } = tasks.count();
  if (running) {
    const those = `${count(running, "task")} of \`${directory}\` ${running === 1 ? "is" : "are"}`;
    const fix =
      "stop that run, or, if it has died on another host, let `forrest run` take them over";
    throw new Error(`Nothing is removed, as ${those} running: ${fix}`);
  }
  const options = { existOk: true, preClean: false, postClean: true };
  new TaskList(directory, options)[Symbol.dispose]();
  const left = exists(directory) ? `; \`${directory}\` stays, as it holds other things` : "";
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

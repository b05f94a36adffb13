/**
 * `forrest retry`, `clean` and `reset`: what changes a list without running it.
 *
 * @module
 */

import retryHelp from "./help/retry.txt" with { type: "text" };
import cleanHelp from "./help/clean.txt" with { type: "text" };
import resetHelp from "./help/reset.txt" with { type: "text" };
import { TaskList } from "../mod.ts";
import { type Command, type Input, nearby, program, UsageError } from "./command.ts";
import { countsIn, directoryOf, exists, isChoosing, openList, tasksChosen } from "./list.ts";
import { count, isTerminal, write } from "./terminal.ts";

export const retry: Command = { help: retryHelp, action: retryTasks };
export const clean: Command = { help: cleanHelp, most: 1, action: cleanList };
export const reset: Command = { help: resetHelp, most: 1, action: resetList };

async function retryTasks(input: Input): Promise<void> {
  const tasks = openList(directoryOf(input));
  const chosen = tasksChosen(input, tasks, ["fail"], "has not failed");
  const moved = await tasks.retry(chosen.map(({ id }) => id));
  const none = isChoosing(input) ? "No task is chosen" : "No task has failed";
  const what = moved ? `${count(moved, "task")} moved from \`fail\` back to \`todo\`` : none;
  write("stdout", `${what}\n`);
  if (moved) write("stderr", `To run what waits:  ${program("run", nearby(tasks.directory))}\n`);
}

function cleanList(input: Input): number | void {
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
}

function resetList(input: Input): number | void {
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
}

/** Asks on a terminal; elsewhere `--yes` must be given. */
function isAgreed(question: string, input: Input): boolean {
  if (input.is("yes")) return true;
  if (!isTerminal("stdin")) throw new UsageError(`${question} Say so with \`--yes\``);
  if (confirm(question)) return true;
  write("stdout", "Nothing was removed\n");
  return false;
}

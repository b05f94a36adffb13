/**
 * `forrest run`: runs what waits in a list.
 *
 * @module
 */

import { setTimeout } from "node:timers/promises";
import type { RunOptions, TaskList } from "../mod.ts";
import { Account } from "./account.ts";
import { AGAIN, type Command, type Input, nearby, program } from "./command.ts";
import { sessionOf, UsageError } from "./command.ts";
import help from "./help/run.txt" with { type: "text" };
import { deadIn, directoryOf, isChoosing, openList, tasksChosen } from "./list.ts";
import { Progress } from "./live.ts";
import { Screen } from "./screen.ts";
import { Stop, TIME_IS_OVER } from "./stop.ts";
import { count, write } from "./terminal.ts";

export const run: Command = { help, action: runList };

async function runList(input: Input): Promise<number | void> {
  const tasks = openList(directoryOf(input), input.text("log"));
  if (input.is("line-buffer") && input.is("keep-order")) {
    throw new UsageError("`--line-buffer` prints at once, `--keep-order` in order: choose one");
  }
  const ids = isChoosing(input) ? await chosenIds(input, tasks) : undefined;
  const isQuiet = input.is("quiet");
  if (ids && !ids.length) {
    const none = isQuiet ? "" : "Nothing to do: no task is chosen\n";
    return write(input.is("json") ? "stderr" : "stdout", none);
  }
  const screen = new Screen(!isQuiet);
  const stop = new Stop(input.number("time-left"), input.text("stop-signal"), screen);
  const progress = new Progress(tasks);
  const live = screen.isLive ? setInterval(() => screen.show(progress.line()), 100) : 0;
  const account = new Account({ tasks, screen, progress, input });
  const options = { ...runOptions(input, stop, account), ids };
  let problem: unknown;
  try {
    do {
      account.expect(ids);
      for await (const task of tasks.run(options)) {
        stop.saw(task.runtime);
        account.ended(task);
      }
    } while (input.is("follow") && stop.mayStart() && await hasMore(tasks, stop.signal));
  } catch (error) {
    problem = error;
  } finally {
    clearInterval(live);
    stop.release();
    account.end();
    screen.end();
  }
  if (problem instanceof Error) problem.message = withOptionNames(problem.message);
  if (problem instanceof RangeError) throw new UsageError(problem.message);
  account.close(!problem);
  const { todo } = tasks.count();
  const isOver = stop.reason === TIME_IS_OVER || !stop.mayStart();
  if (isOver ? todo : stop.reason) {
    write("stderr", ending(stop.reason || TIME_IS_OVER, todo, tasks));
    return stop.code || AGAIN;
  }
  if (problem) throw problem;
  if (account.failed) return 1;
}

/** The ids of the tasks that are chosen; those of them that have failed are put back first. */
async function chosenIds(input: Input, tasks: TaskList): Promise<string[]> {
  if (input.is("follow")) throw new UsageError("`--follow` runs all tasks: it takes no choice");
  const chosen = tasksChosen(input, tasks, ["todo", "fail"], "cannot be run");
  const failed = chosen.filter(({ state }) => state === "fail").map(({ id }) => id);
  if (failed.length) await tasks.retry(failed);
  return chosen.map(({ id }) => id);
}

/** The options of `run()` that are numbers; here, `perSecond` is `--per-second`. */
const NUMBERS = [
  ...["processes", "autokill", "retries", "retryDelay", "perSecond", "maxFailures"],
  ...["tasksPerProcess", "concurrency"],
];

const optionOf = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

function runOptions(input: Input, stop: Stop, account: Account): RunOptions {
  const permissions = input.all("permission");
  return {
    ...Object.fromEntries(NUMBERS.map((name) => [name, input.number(optionOf(name))])),
    permissions: permissions.length ? permissions : undefined,
    session: sessionOf(input),
    signal: stop.signal,
    mayStart: () => stop.mayStart(),
    onOutput: (text, stream, ids) => account.take(text, stream, ids),
    retryIf: (_, task, seconds) => account.retried(task, seconds),
  };
}

/** A message of `run()` as it is said here. */
function withOptionNames(message: string): string {
  const ofRun = new RegExp(`\`(${NUMBERS.join("|")})(: |\`)`, "g");
  return message.replace(ofRun, (_, name: string, end) => {
    return `\`--${optionOf(name)}${end === "`" ? end : " "}`;
  });
}

/** Waits until there is something to do; false if it is to stop. */
async function hasMore(tasks: TaskList, signal: AbortSignal): Promise<boolean> {
  while (!signal.aborted) {
    const [waiting] = tasks.paths("todo");
    if (waiting || deadIn(tasks)) return true;
    await setTimeout(200);
  }
  return false;
}

/** The last lines of a run that has ended before its end. */
function ending(reason: string, waiting: number, tasks: TaskList): string {
  const those = `${count(waiting, "task")} ${waiting === 1 ? "is" : "are"} in \`todo\``;
  const again = waiting ? `To go on:  ${program("run", nearby(tasks.directory))}\n` : "";
  return `${reason}: nothing runs any more, ${those}.\n${again}`;
}

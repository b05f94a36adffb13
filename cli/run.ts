/**
 * `forrest run`: runs what waits in a list.
 *
 * @module
 */

import { watch } from "node:fs";
import { locate, type RunOptions, type TaskList } from "../mod.ts";
import { Account } from "./account.ts";
import type { Command, Input } from "./command.ts";
import { AGAIN, program, sessionOf, UsageError } from "./command.ts";
import help from "./help/run.txt" with { type: "text" };
import { choose, deadAmong, directoryOf, isChoosing, openList } from "./list.ts";
import { Progress } from "./live.ts";
import { Screen } from "./screen.ts";
import { Clock, Stop, TIME_IS_OVER } from "./stop.ts";
import { count, write } from "./terminal.ts";

export const run: Command = {
  help,
  otherNames: { jobs: "processes", timeout: "autokill" },
  action: runList,
};

async function runList(input: Input): Promise<number> {
  const directory = directoryOf(input);
  const tasks = openList(directory, input.text("log"));
  if (input.is("line-buffer") && input.is("keep-order")) {
    throw new UsageError("`--line-buffer` prints at once, `--keep-order` in order: choose one");
  }
  const ids = isChoosing(input) ? await chosenIds(input, directory, tasks) : undefined;
  if (ids && !ids.length) {
    write("stdout", "Nothing to do: no task is chosen\n");
    return 0;
  }
  const screen = new Screen(!input.is("quiet"));
  const progress = new Progress(tasks);
  const clock = new Clock(input.number("time-left"));
  const stop = new Stop(clock, screen, input.text("stop-signal"));
  const live = screen.isLive ? setInterval(() => screen.show(progress.line()), 100) : 0;
  const account = new Account({ directory, tasks, screen, progress, input });
  let problem: unknown;
  try {
    do {
      account.expect(ids);
      const running = tasks.run({
        ...runOptions(input),
        ids,
        signal: stop.signal,
        mayStart: clock.seconds < Infinity ? () => clock.mayStart() : undefined,
        onOutput: (text, stream, ids) => account.output.take(text, stream, ids),
        retryIf: (_, task, seconds) => account.retried(task, seconds),
      });
      for await (const task of running) {
        clock.saw(task.runtime);
        account.ended(task);
      }
    } while (input.is("follow") && clock.mayStart() && await hasMore(tasks, stop.signal));
  } catch (error) {
    problem = error;
  } finally {
    clearInterval(live);
    stop.release();
    account.output.end();
    screen.end();
  }
  if (problem instanceof Error) problem.message = withOptionNames(problem.message);
  if (problem instanceof RangeError) throw new UsageError(problem.message);
  account.close(!problem);
  const { todo } = tasks.count();
  const isOver = stop.reason === TIME_IS_OVER || !clock.mayStart();
  if (isOver ? todo : stop.reason) {
    write("stderr", ending(stop.reason || TIME_IS_OVER, todo, directory));
    return stop.code || AGAIN;
  }
  if (problem) throw problem;
  return account.failed ? 1 : 0;
}

/** The ids of the tasks that are chosen; those of them that have failed are put back first. */
async function chosenIds(input: Input, directory: string, tasks: TaskList): Promise<string[]> {
  if (input.is("follow")) throw new UsageError("`--follow` runs all tasks: it takes no choice");
  const chosen = [...choose(input, directory, tasks, ["todo"])].map(locate);
  for (const { id, state } of chosen) {
    if (state === "todo" || state === "fail") continue;
    throw new UsageError(`The task \`${id}\` cannot be run: it is in \`${state}\``);
  }
  const failed = chosen.filter(({ state }) => state === "fail").map(({ id }) => id);
  if (failed.length) await tasks.retry(failed);
  return chosen.map(({ id }) => id);
}

const LOOK = 5000; // milliseconds after which a list is looked at anyway, as on network file systems

/** Waits until there is something to do; false if it is to stop. */
async function hasMore(tasks: TaskList, signal: AbortSignal): Promise<boolean> {
  while (!signal.aborted) {
    const changed = Promise.withResolvers<void>();
    const watcher = watch(`${tasks.directory}/todo`, () => changed.resolve());
    signal.addEventListener("abort", () => changed.resolve());
    const timer = setTimeout(changed.resolve, LOOK);
    const isThere = tasks.count().todo > 0 || deadAmong(tasks.paths("running")).length > 0;
    if (!isThere) await changed.promise;
    watcher.close();
    clearTimeout(timer);
    if (isThere) return true;
  }
  return false;
}

function runOptions(input: Input): RunOptions {
  const permissions = input.all("permission");
  return {
    processes: input.number("processes"),
    autokill: input.number("autokill"),
    retries: input.number("retries"),
    retryDelay: input.number("retry-delay"),
    maxFailures: input.number("max-failures"),
    tasksPerProcess: input.number("tasks-per-process"),
    concurrency: input.number("concurrency"),
    perSecond: input.number("per-second"),
    permissions: permissions.length ? permissions : undefined,
    session: sessionOf(input),
  };
}

/** The names that the options of `run()` have here. */
function withOptionNames(message: string): string {
  const ofRun = /`(processes|autokill|retr\w+|max\w+|tasks\w+|concurrency)(: |`)/g;
  return message.replace(ofRun, (_, name: string, end) => {
    const option = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    return `\`${option}${end === "`" ? end : " "}`;
  });
}

/** The last lines of a run that has ended before its end. */
function ending(reason: string, waiting: number, directory: string): string {
  const tasks = `${count(waiting, "task")} ${waiting === 1 ? "is" : "are"} in \`todo\``;
  const again = waiting ? `To go on:  ${program("run", directory)}\n` : "";
  return `${reason}: nothing runs any more, ${tasks}.\n${again}`;
}

/**
 * `forrest run`: runs what waits in a list.
 *
 * @module
 */

import type { RunOptions, State, Task } from "../mod.ts";
import { textOfError } from "./code.ts";
import type { Command, Input } from "./command.ts";
import { AGAIN, DIR, program, SESSION, sessionOf, UsageError } from "./command.ts";
import { directoryOf, openList } from "./list.ts";
import { Progress, Screen } from "./screen.ts";
import { Clock, Stop, TIME_IS_OVER } from "./stop.ts";
import { lineOf, outcomeAt, storedAt } from "./task.ts";
import { columns, count, duration, write } from "./terminal.ts";

export const run: Command = {
  most: 1,
  usage: ["DIR [options]"],
  brief: "run what waits in a list",
  about: "Run what waits in a task list. Started again, it goes on with what is left.",
  words: [DIR],
  options: [
    ["-j, --processes N", "tasks to run at once [default: one a CPU]"],
    ["--autokill S", "kill a task after S seconds [default: never]"],
    ["--retries N", "try a failed task again N times [default: 0]"],
    ["--retry-delay S", "wait S seconds first, then twice that [default: 0]"],
    ["--max-failures N", "give up after more failures [default: never]"],
    ["--tasks-per-process N", "then a new process takes over [default: 1]"],
    ["--concurrency N", "tasks that one process holds [default: 1]"],
    ["--permission FLAG", "as in --permission=--allow-net [default: all]"],
    SESSION,
    ["--time-left S", "end in order within S seconds [default: no end]"],
    ["--stop-signal NAME", "end in order, with code 75, on it and on SIGTERM"],
    ["--log FILE", "where to log [default: DIR/log.txt, for `show`]"],
    ["--print-errors", "print the stack of each error at once"],
    ["--json", "a JSON object for each task; all else on stderr"],
    ["-q, --quiet", "only whether tasks have failed, and what they print"],
  ],
  otherNames: { jobs: "processes", timeout: "autokill" },
  examples: ["forrest run tasklist -j 8 --autokill 60 --retries 2"],
  action: runList,
};

async function runList(input: Input): Promise<number> {
  const directory = directoryOf(input);
  const tasks = openList(directory, input.text("log") ?? `${directory}/log.txt`);
  const [isJson, isQuiet] = [input.is("json"), input.is("quiet")];
  const screen = new Screen(!isQuiet);
  const progress = new Progress(tasks);
  const clock = new Clock(input.number("time-left"));
  const stop = new Stop(clock, screen, input.text("stop-signal"));
  const live = screen.isLive ? setInterval(() => screen.show(progress.line(columns())), 100) : 0;
  const failed: string[] = [];
  let done = 0;
  let problem: unknown;
  try {
    const running = tasks.run({
      ...runOptions(input),
      signal: stop.signal,
      mayStart: clock.seconds < Infinity ? () => clock.mayStart() : undefined,
      onOutput: (text, stream) => screen.output(text, isJson ? "stderr" : stream),
    });
    for await (const task of running) {
      clock.saw(task.runtime);
      if (task.state === "done") done++;
      else failed.push(task.id);
      tell(task, directory, screen, input);
    }
  } catch (error) {
    problem = error;
  } finally {
    clearInterval(live);
    stop.release();
    screen.end();
  }
  if (problem instanceof Error) problem.message = withOptionNames(problem.message);
  if (problem instanceof RangeError) throw new UsageError(problem.message);
  const counts = tasks.count();
  if (!isQuiet && (!problem || done || failed.length)) {
    const text = summary(counts, done, failed.length, progress.elapsed());
    write(isJson ? "stderr" : "stdout", `${text}\n`);
  }
  if (failed.length) write("stderr", failures(directory, failed, input));
  const isOver = stop.reason === TIME_IS_OVER || !clock.mayStart();
  if (isOver ? counts.todo : stop.reason) {
    write("stderr", ending(stop.reason || TIME_IS_OVER, counts.todo, directory));
    return stop.code || AGAIN;
  }
  if (problem) throw problem;
  return failed.length ? 1 : 0;
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
    permissions: permissions.length ? permissions : undefined,
    session: sessionOf(input),
  };
}

/** Says what became of a task. */
function tell(task: Task, directory: string, screen: Screen, input: Input): void {
  const path = `${directory}/${task.state}/${task.id}.json`;
  if (input.is("json")) write("stdout", `${JSON.stringify(outcomeAt(path, task))}\n`);
  else if (!input.is("quiet")) screen.print(`${lineOf(path)}\n`, "stdout");
  if (input.is("print-errors") && task.state === "fail") {
    screen.print(`${textOfError(storedAt(path).errorValue)}\n`, "stderr");
  }
}

/** The names that the options of `run()` have here. */
function withOptionNames(message: string): string {
  const ofRun = /`(processes|autokill|retr\w+|max\w+|tasks\w+|concurrency)(: |`)/g;
  return message.replace(ofRun, (_, name: string, end) => {
    const option = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    return `\`${option}${end === "`" ? end : " "}`;
  });
}

type Counts = Record<State, number>;

function summary(counts: Counts, done: number, failed: number, seconds: number): string {
  const { todo, running } = counts;
  if (!done && !failed && !todo && !running) {
    const hint = counts.fail ? " (to let them run again: `forrest retry`)" : "";
    return `Nothing to do: no task waits; ${counts.done} done, ${counts.fail} failed before${hint}`;
  }
  const rest = [todo ? `${todo} waiting` : "", running ? `${running} running elsewhere` : ""];
  const parts = [`${done} done`, `${failed} failed`, ...rest.filter(Boolean)];
  return `${count(done + failed, "task")} in ${duration(seconds)}: ${parts.join(", ")}`;
}

/** The last lines of a run in which tasks have failed. */
function failures(directory: string, ids: string[], input: Input): string {
  const session = input.text("session");
  const path = `${directory}/fail/${ids[0]}.json`;
  const again = program("exec", path, "--raise", ...session ? ["-s", session] : []);
  const isOne = ids.length === 1;
  return `${isOne ? "A task has" : `${ids.length} tasks have`} failed.
To run ${isOne ? "it" : "the first of them"} here, with its stack:  ${again}
To let ${isOne ? "it" : "them"} run again:  ${program("retry", directory)}
`;
}

/** The last lines of a run that has ended before its end. */
function ending(reason: string, waiting: number, directory: string): string {
  const tasks = `${count(waiting, "task")} ${waiting === 1 ? "is" : "are"} in \`todo\``;
  const again = waiting ? `To go on:  ${program("run", directory)}\n` : "";
  return `${reason}: nothing runs any more, ${tasks}.\n${again}`;
}

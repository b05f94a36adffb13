/**
 * What a run says of its tasks: of each as it is tried again and as it ends, and of all at the end.
 *
 * @module
 */

import { encode, locate, type State, type Stream, type Task, type TaskList } from "../mod.ts";
import { headOfError, textOfError } from "./code.ts";
import { type Input, program } from "./command.ts";
import { Output } from "./output.ts";
import type { Progress } from "./live.ts";
import type { Screen } from "./screen.ts";
import { kindOf, lineOf, nameOf, outcomeAt, storedAt } from "./task.ts";
import { count, cut, duration, printable, widthOfOutput, write } from "./terminal.ts";

/** What a run works on, and where it tells of it. */
interface Context {
  directory: string;
  tasks: TaskList;
  screen: Screen;
  progress: Progress;
  input: Input;
}

/** Tells of the tasks of a run, and counts them. */
export class Account {
  readonly output: Output;
  done = 0;
  failed = 0;
  readonly #context: Context;
  readonly #kinds = new Map<string, { count: number; first: string }>(); // of failures

  constructor(context: Context) {
    this.#context = context;
    const { tasks, input } = context;
    this.output = new Output({
      tasks,
      print: (text, stream) => this.#print(text, stream),
      isAtOnce: input.is("line-buffer"),
      isTagged: input.is("tag"),
    });
  }

  /** Writes what is no JSON. */
  #print(text: string, stream: Stream): void {
    const { screen, input } = this.#context;
    screen.print(text, input.is("json") ? "stderr" : stream);
  }

  /** Lets tasks be told of in the order of the list, if that is wished. */
  expect(ids?: string[]): void {
    const { tasks, input } = this.#context;
    if (!input.is("keep-order")) return;
    const all = [...tasks.paths("todo")].map((path) => locate(path).id);
    this.output.expect(ids?.toSorted() ?? all);
  }

  /** Tells that a task has failed, and is tried again. */
  retried({ id, retried, runtime, metadata, errorValue }: Task, seconds: number): true {
    const { directory, progress, input } = this.#context;
    progress.retried.add(id);
    const stored = { metadata, runtime, errorValue: encode(errorValue) };
    const which = retried ? ` ${retried} of ${input.number("retries")}` : "";
    const note = `retry${which} in ${duration(seconds)}: `;
    const line = lineOf(`${directory}/todo/${id}.json`, undefined, note, stored);
    const say = () => input.is("quiet") || this.#print(`${line}\n`, "stdout");
    this.output.tell(id, say, false);
    return true;
  }

  /** Tells of a task that is done, or has failed for good. */
  ended(task: Task): void {
    const { directory, progress } = this.#context;
    const path = `${directory}/${task.state}/${task.id}.json`;
    progress.retried.delete(task.id);
    if (task.state === "done") this.done++;
    else this.#fail(task, path);
    this.output.tell(task.id, () => this.#outcome(task, path), true);
  }

  #fail(task: Task, path: string): void {
    this.failed++;
    const message = headOfError(storedAt(path).errorValue);
    const kind = kindOf(message, nameOf(task.id, task.metadata));
    const { count, first } = this.#kinds.get(kind) ?? { count: 0, first: path };
    this.#kinds.set(kind, { count: count + 1, first });
  }

  #outcome(task: Task, path: string): void {
    const { screen, input } = this.#context;
    if (input.is("json")) screen.print(`${JSON.stringify(outcomeAt(path, task))}\n`, "stdout");
    else if (!input.is("quiet")) screen.print(`${lineOf(path)}\n`, "stdout");
    if (!input.is("print-errors") || task.state !== "fail") return;
    screen.print(`${textOfError(storedAt(path).errorValue)}\n`, "stderr");
  }

  /** The last lines. */
  close(isWhole: boolean): void {
    const { directory, tasks, progress, input } = this.#context;
    const isEmpty = !this.done && !this.failed;
    if (!input.is("quiet") && (isWhole || !isEmpty)) {
      const counts = tasks.count();
      const text = isEmpty && !counts.todo && !counts.running
        ? nothingToDo(counts, directory)
        : this.#summary(counts, progress.elapsed());
      this.#print(`${text}\n`, "stdout");
    }
    if (this.failed) write("stderr", this.#failures(directory));
  }

  #summary({ todo, running }: Record<State, number>, seconds: number): string {
    const { done, failed } = this;
    const rest = [todo ? `${todo} waiting` : "", running ? `${running} running elsewhere` : ""];
    const parts = [`${done} done`, `${failed} failed`, ...rest.filter(Boolean)];
    return `${count(done + failed, "task")} in ${duration(seconds)}: ${parts.join(", ")}`;
  }

  /** The kinds of failures, the most frequent first, each with what reproduces the first of them. */
  #failures(directory: string): string {
    const session = this.#context.input.text("session");
    const options = ["--raise", ...session ? ["-s", session] : []];
    const kinds = [...this.#kinds].sort(([, a], [, b]) => b.count - a.count);
    const rows = kinds.slice(0, 5).map(([kind, { count, first }]) => {
      const head = cut(`  ${count} x ${printable(kind)}`, widthOfOutput());
      return `${head}\n      ${program("exec", first, ...options)}\n`;
    });
    const more = kinds.length - rows.length;
    const all = program("list", directory, "fail");
    if (more) rows.push(`  and ${more} more kind${more > 1 ? "s" : ""}:  ${all}\n`);
    const isOne = this.failed === 1;
    const what = isOne
      ? "A task has failed. To run it"
      : `${this.failed} tasks have failed. To run the first of each kind`;
    const again = program("retry", directory);
    return `${what} here, with its stack:\n${rows.join("")}To let ${
      isOne ? "it" : "them"
    } run again:  ${again}\n`;
  }
}

function nothingToDo({ done, fail }: Record<State, number>, directory: string): string {
  const hint = fail ? ` (to let them run again:  ${program("retry", directory)})` : "";
  return `Nothing to do: no task waits; ${done} done, ${fail} failed before${hint}`;
}

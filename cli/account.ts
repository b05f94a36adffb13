/**
 * What a run says of its tasks: of each as it is tried again and as it ends, and of all at the end.
 *
 * @module
 */

import { encode, type Task } from "../mod.ts";
import { headOfError, textOfError } from "./code.ts";
import { nearby, program } from "./command.ts";
import { type Context, Output } from "./output.ts";
import { kindOf, lineOf, nameOf, outcomeAt, storedAt } from "./task.ts";
import { count, cut, duration, printable, widthOfOutput, write } from "./terminal.ts";

/** Tells of the tasks of a run, and counts them. */
export class Account {
  readonly output: Output;
  done = 0;
  failed = 0;
  readonly #context: Context;
  readonly #kinds = new Map<string, { count: number; first: string }>(); // of failures

  constructor(context: Context) {
    this.#context = context;
    this.output = new Output(context);
  }

  /** Tells that a task has failed, and is tried again. */
  retried({ id, retried, runtime, metadata, errorValue }: Task, seconds: number): true {
    const { tasks, progress, input } = this.#context;
    progress.retried.add(id);
    const stored = { metadata, runtime, errorValue: encode(errorValue) };
    const which = retried ? ` ${retried} of ${input.number("retries")}` : "";
    const note = `retry${which} in ${duration(seconds)}: `;
    const line = lineOf(`${tasks.directory}/todo/${id}.json`, undefined, note, stored);
    this.output.tell(id, () => input.is("quiet") || this.output.print(`${line}\n`), false);
    return true;
  }

  /** Tells of a task that is done, or has failed for good. */
  ended({ id, state, metadata }: Task): void {
    const { tasks, progress } = this.#context;
    const path = `${tasks.directory}/${state}/${id}.json`;
    progress.retried.delete(id);
    if (state === "done") this.done++;
    else this.#fail(path, nameOf(id, metadata));
    this.output.tell(id, () => this.#outcome(path, state === "fail"), true);
  }

  #fail(path: string, name: string): void {
    this.failed++;
    const kind = kindOf(headOfError(storedAt(path).errorValue), name);
    const { count, first } = this.#kinds.get(kind) ?? { count: 0, first: path };
    this.#kinds.set(kind, { count: count + 1, first });
  }

  #outcome(path: string, isFailed: boolean): void {
    const { screen, input } = this.#context;
    if (input.is("json")) screen.print(`${outcomeAt(path)}\n`, "stdout");
    else if (!input.is("quiet")) screen.print(`${lineOf(path)}\n`, "stdout");
    if (!isFailed || !input.is("print-errors")) return;
    screen.print(`${textOfError(storedAt(path).errorValue)}\n`, "stderr");
  }

  /** The last lines. */
  close(isWhole: boolean): void {
    const isEmpty = !this.done && !this.failed;
    const isWanted = !this.#context.input.is("quiet") && (isWhole || !isEmpty);
    if (isWanted) this.output.print(`${this.#summary(isEmpty)}\n`);
    if (this.failed) write("stderr", this.#failures());
  }

  #summary(isEmpty: boolean): string {
    const { tasks, progress } = this.#context;
    const { todo, running, done, fail } = tasks.count();
    if (isEmpty && !todo && !running) {
      const again = program("retry", nearby(tasks.directory));
      const hint = fail ? ` (to let them run again:  ${again})` : "";
      return `Nothing to do: no task waits; ${done} done, ${fail} failed before${hint}`;
    }
    const rest = [todo && `${todo} waiting`, running && `${running} running elsewhere`];
    const parts = [`${this.done} done`, `${this.failed} failed`, ...rest.filter(Boolean)];
    const all = count(this.done + this.failed, "task");
    return `${all} in ${duration(progress.elapsed())}: ${parts.join(", ")}`;
  }

  /** The kinds of failures, the most frequent first, each with what reproduces the first of them. */
  #failures(): string {
    const { tasks, input } = this.#context;
    const directory = nearby(tasks.directory);
    const session = input.text("session");
    const options = ["--raise", ...session ? ["-s", session] : []];
    const kinds = [...this.#kinds].sort(([, a], [, b]) => b.count - a.count);
    const rows = kinds.slice(0, 5).map(([kind, { count, first }]) => {
      const head = cut(`  ${count} x ${printable(kind)}`, widthOfOutput());
      return `${head}\n      ${program("exec", nearby(first), ...options)}\n`;
    });
    const more = kinds.length - rows.length;
    const all = program("list", directory, "fail");
    if (more) rows.push(`  and ${count(more, "more kind")}:  ${all}\n`);
    const [what, them] = this.failed === 1
      ? ["A task has failed. To run it", "it"]
      : [`${this.failed} tasks have failed. To run the first of each kind`, "them"];
    const again = `To let ${them} run again:  ${program("retry", directory)}\n`;
    return `${what} here, with its stack:\n${rows.join("")}${again}`;
  }
}

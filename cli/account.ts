/**
 * What a run says: what its tasks print, what became of each, and at the end of all.
 *
 * @module
 */

import { encode, locate, type Stream, type Task, type TaskList } from "../mod.ts";
import { headOfError, textOfError } from "./code.ts";
import { type Input, nearby, program } from "./command.ts";
import { jsonOf, kindOf, lineOf, nameAt, storedAt, taskAt } from "./list.ts";
import { type Progress, secondsSinceStart } from "./live.ts";
import type { Screen } from "./screen.ts";
import { count, cut, duration, printable, widthOfOutput, write } from "./terminal.ts";

const MOST = 10_000_000; // characters of a task that are held until it ends

/** What a run works on, and where it tells of it. */
interface Context {
  tasks: TaskList;
  screen: Screen;
  progress: Progress;
  input: Input;
}

/**
 * Tells of the tasks of a run, and counts them. What they print is kept together, in whole lines: that of a task
 * comes when it ends, before what is said of it.
 */
export class Account {
  done = 0;
  failed = 0;
  readonly #context: Context;
  readonly #kinds = new Map<string, { count: number; first: string; message: string }>(); // of failures
  readonly #held = new Map<string, { size: number; says: (() => void)[] }>();
  readonly #order = new Set<string>();
  readonly #over = new Set<string>();

  constructor(context: Context) {
    this.#context = context;
  }

  /** Writes what is no JSON. */
  #print(text: string, stream: Stream = "stdout"): void {
    const { screen, input } = this.#context;
    screen.print(text, input.is("json") ? "stderr" : stream);
  }

  /** Lets these tasks, or all that wait, be told of in the order of the list, if that is wished. */
  expect(ids?: string[]): void {
    const { tasks, input } = this.#context;
    if (!input.is("keep-order")) return;
    const all = ids?.toSorted() ?? [...tasks.paths("todo")].map((path) => locate(path).id);
    for (const id of all) this.#order.add(id);
  }

  /** Takes lines that a task has printed, or one of several; then there are commas between their ids. */
  take(text: string, stream: Stream, ids: string): void {
    const { input } = this.#context;
    const tag = input.is("tag") ? `${this.#nameOf(ids)}\t` : "";
    const whole = text.replace(/\n?$/, "\n"); // also the end of what has no end of a line
    const tagged = tag ? whole.replace(/.*\n/g, (line) => tag + line) : whole;
    const say = () => this.#print(tagged, stream);
    if (input.is("line-buffer") || ids.includes(",")) say();
    else this.#hold(ids, say, text.length);
  }

  #nameOf(ids: string): string {
    const [id, ...others] = ids.split(",");
    const path = this.#context.tasks.find(id);
    const name = printable(path ? nameAt(path) : id);
    return others.length ? `${name} or ${others.length} more` : name;
  }

  #hold(id: string, say: () => void, size = 0): void {
    const held = this.#held.get(id) ?? { size: 0, says: [] };
    this.#held.set(id, held);
    held.says.push(say);
    held.size += size;
    if (held.size > MOST) this.#release(id);
  }

  /** Says something of a task, after all that it has printed until then. */
  #tell(id: string, say: () => void, isOver: boolean): void {
    this.#hold(id, say);
    if (!this.#order.has(id)) return this.#release(id);
    if (isOver) this.#over.add(id);
    for (const first of this.#order) {
      if (!this.#over.delete(first)) return;
      this.#order.delete(first);
      this.#release(first);
    }
  }

  #release(id: string): void {
    for (const say of this.#held.get(id)?.says ?? []) say();
    this.#held.delete(id);
  }

  /** Says all that is left, as nothing more will come. */
  end(): void {
    for (const id of [...this.#order, ...this.#held.keys()]) this.#release(id);
  }

  /** Tells that a task has failed, and is tried again. */
  retried({ id, retried, runtime, metadata, errorValue }: Task, seconds: number): true {
    const { tasks, progress, input } = this.#context;
    progress.retried.add(id);
    const stored = { metadata, runtime, errorValue: encode(errorValue) };
    const which = retried ? ` ${retried} of ${input.number("retries")}` : "";
    const note = `retry${which} in ${duration(seconds)}: `;
    const task = taskAt(`${tasks.directory}/todo/${id}.json`, stored);
    const line = lineOf(task, undefined, note);
    this.#tell(id, () => input.is("quiet") || this.#print(`${line}\n`), false);
    return true;
  }

  /** Tells of a task that is done, or has failed for good. */
  ended({ id, state }: Task): void {
    const { tasks, progress } = this.#context;
    const path = `${tasks.directory}/${state}/${id}.json`;
    progress.retried.delete(id);
    if (state === "done") this.done++;
    else this.#fail(path);
    this.#tell(id, () => this.#outcome(path, state === "fail"), true);
  }

  #fail(path: string): void {
    this.failed++;
    const { name, stored } = taskAt(path);
    const kind = kindOf(stored.errorValue, name);
    const known = this.#kinds.get(kind);
    if (known) known.count++;
    else this.#kinds.set(kind, { count: 1, first: path, message: headOfError(stored.errorValue) });
  }

  #outcome(path: string, isFailed: boolean): void {
    const { screen, input } = this.#context;
    if (input.is("json")) screen.print(`${jsonOf(taskAt(path))}\n`, "stdout");
    else if (!input.is("quiet")) screen.print(`${lineOf(taskAt(path))}\n`, "stdout");
    if (!isFailed || !input.is("print-errors")) return;
    screen.print(`${textOfError(storedAt(path).errorValue)}\n`, "stderr");
  }

  /** The last lines. */
  close(isWhole: boolean): void {
    const isEmpty = !this.done && !this.failed;
    const isWanted = !this.#context.input.is("quiet") && (isWhole || !isEmpty);
    if (isWanted) this.#print(`${this.#summary(isEmpty)}\n`);
    if (this.failed) write("stderr", this.#failures());
  }

  #summary(isEmpty: boolean): string {
    const { tasks } = this.#context;
    const { todo, running, done, fail } = tasks.count();
    if (isEmpty && !todo && !running) {
      const again = program("retry", nearby(tasks.directory));
      const hint = fail ? ` (to let them run again:  ${again})` : "";
      return `Nothing to do: no task waits; ${done} done, ${fail} failed before${hint}`;
    }
    const rest = [todo && `${todo} waiting`, running && `${running} running elsewhere`];
    const parts = [`${this.done} done`, `${this.failed} failed`, ...rest.filter(Boolean)];
    const all = count(this.done + this.failed, "task");
    return `${all} in ${duration(secondsSinceStart())}: ${parts.join(", ")}`;
  }

  /** The kinds of failures, the most frequent first, each with what reproduces the first of them. */
  #failures(): string {
    const { tasks, input } = this.#context;
    const directory = nearby(tasks.directory);
    const session = input.text("session");
    const options = ["--raise", ...session ? ["-s", session] : []];
    const kinds = [...this.#kinds].sort(([, a], [, b]) => b.count - a.count);
    const rows = kinds.slice(0, 5).map(([kind, { count, first, message }]) => {
      const head = cut(`  ${count} x ${printable(count === 1 ? message : kind)}`, widthOfOutput());
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

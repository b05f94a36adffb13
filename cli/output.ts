/**
 * What tasks print, and what is said of them: by task, in order, or at once.
 *
 * @module
 */

import { locate, type Stream, type TaskList } from "../mod.ts";
import type { Input } from "./command.ts";
import type { Progress } from "./live.ts";
import type { Screen } from "./screen.ts";
import { nameAt } from "./task.ts";
import { printable } from "./terminal.ts";

const MOST = 10_000_000; // characters of a task that are held until it ends

/** What a run works on, and where it tells of it. */
export interface Context {
  tasks: TaskList;
  screen: Screen;
  progress: Progress;
  input: Input;
}

/** Keeps what tasks print together, in whole lines: that of a task comes when it ends, before what is said of it. */
export class Output {
  readonly #context: Context;
  readonly #held = new Map<string, { size: number; says: (() => void)[] }>();
  readonly #order = new Set<string>();
  readonly #over = new Set<string>();

  constructor(context: Context) {
    this.#context = context;
  }

  /** Writes what is no JSON. */
  print(text: string, stream: Stream = "stdout"): void {
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
    const say = () => this.print(tagged, stream);
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
  tell(id: string, say: () => void, isOver: boolean): void {
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
}

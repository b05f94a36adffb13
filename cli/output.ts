/**
 * What tasks print, and what is said of them: by task, in order, or at once.
 *
 * @module
 */

import type { Stream, TaskList } from "../mod.ts";
import { nameAt } from "./task.ts";
import { printable } from "./terminal.ts";

const MOST = 10_000_000; // characters of a task that are held until it ends

/** How to print. */
interface Settings {
  tasks: TaskList;
  print(text: string, stream: Stream): void;
  /** Each line when it is whole. */
  isAtOnce: boolean;
  /** With the name of its task before each line. */
  isTagged: boolean;
}

/** Keeps what tasks print together, in whole lines: that of a task comes when it ends, before what is said of it. */
export class Output {
  readonly #settings: Settings;
  readonly #held = new Map<string, { size: number; says: (() => void)[] }>();
  readonly #order = new Set<string>();
  readonly #over = new Set<string>();

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** Lets what comes of tasks be said in the order of these ids. */
  expect(ids: Iterable<string>): void {
    for (const id of ids) this.#order.add(id);
  }

  /** Takes lines that a task has printed, or one of several; then there are commas between their ids. */
  take(text: string, stream: Stream, ids: string): void {
    const { print, isAtOnce, isTagged } = this.#settings;
    const tag = isTagged ? `${this.#nameOf(ids)}\t` : "";
    const whole = text.replace(/\n?$/, "\n"); // also the end of what has no end of a line
    const tagged = tag ? whole.replace(/.*\n/g, (line) => tag + line) : whole;
    const say = () => print(tagged, stream);
    if (isAtOnce || ids.includes(",")) say();
    else this.#hold(ids, say, text.length);
  }

  #nameOf(ids: string): string {
    const [id, ...others] = ids.split(",");
    const path = this.#settings.tasks.find(id);
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

/**
 * The processes that make the calls of a `map`.
 *
 * @module
 */

import type { State } from "./files.ts";
import type { Items, Options } from "./options.ts";
import { type Answer, Pool, type Runner } from "./pool.ts";
import { nameHere, refer, type Reference } from "./references.ts";
import { apply, load, type Target } from "./steps.ts";
import { type Stream, stringify, system, writeAll } from "./system.ts";
import { type Callable, decode, encode, encodeThrown } from "./values.ts";

/** The pool of a `map`: the calls wait in memory, and a few milliseconds of work with each runner. */
export class MapPool extends Pool {
  readonly callee: Callable;
  waiting: [string, unknown[]][] = [];
  finished = new Map<string, [State, unknown]>();
  read = 0; // how many items were read, and
  yielded = 0; // how many results the consumer got
  here = 0; // calls that run in this process
  isRead = false;
  override longestAnswer = Infinity;
  reference?: Reference;
  target?: Target; // in this process
  readonly source: AsyncGenerator<unknown[], void, void>;
  readonly arrays: unknown[][]; // those of the sources of which the length is known
  makeRoom = (): void => {}; // lets more be read

  constructor(callee: Callable, options: Options, sources: Items<unknown>[]) {
    super(options);
    this.callee = callee;
    this.source = zip(sources);
    this.arrays = sources.filter((source) => Array.isArray(source));
  }

  run(): AsyncGenerator<unknown, void, void> {
    return this.options.processes ? this.guard(this.results()) : this.results();
  }

  async *results(): AsyncGenerator<unknown, void, void> {
    const { processes, ordered = true } = this.options;
    this.readAll();
    try {
      while (!this.isRead || this.yielded < this.read) {
        const [key] = ordered ? [`${this.yielded}`] : this.finished.keys();
        const [state, value] = this.finished.get(key) ?? [];
        if (state) {
          this.finished.delete(key);
          this.yielded++;
          this.makeRoom();
          const result = processes ? decode(value) : value;
          if (state === "fail") throw result;
          yield result;
        } else if (this.isStopped) {
          throw this.problem ?? new Error("Stopped by a signal, with items left to do");
        } else await new Promise<void>((resolve) => this.wake = resolve);
      }
      if (this.problem) throw this.problem;
    } finally {
      this.isStopped = true;
      this.makeRoom();
      this.source.return();
    }
  }

  async readAll(): Promise<void> {
    const { processes, concurrency } = this.options;
    try {
      if (processes) this.reference = await refer(this.callee);
      else this.target = await load(nameHere(this.callee) ?? this.callee);
      for await (const args of this.source) {
        this.waiting.push([`${this.read++}`, args]);
        this.change();
        const window = () => 4 * processes * Math.max(concurrency, this.depth(8)) || concurrency;
        while (!this.isStopped && (this.waiting.length || this.read - this.yielded >= window())) {
          await new Promise<void>((resolve) => this.makeRoom = resolve);
        }
        if (this.isStopped) return;
      }
    } catch (error) {
      this.problem = error;
    }
    this.isRead = true;
    this.wake();
  }

  fill(): void {
    const { processes, concurrency } = this.options;
    // near the end no more than its share of what is left, as the last calls may be slow
    const left = Math.min(...this.arrays.map(({ length }) => length)) - this.read;
    const share = Math.ceil(left / processes / 2);
    const room = Math.max(concurrency, Math.min(this.depth(8), share));
    while (!this.isStopped && this.waiting.length) {
      const runner = this.leastBusy(room);
      const isFull = processes ? !runner && this.running() >= processes : this.here >= concurrency;
      if (isFull) return;
      const [key, args] = this.waiting.shift()!;
      if (processes) this.give(key, args, runner);
      else this.callHere(key, args);
    }
    this.makeRoom();
  }

  give(key: string, args: unknown[], runner?: Runner): void {
    try {
      const step = { call: this.reference, args: encode(args, "item") };
      (runner ?? this.start([], stringify(step))).give(key, stringify({ key, step }));
    } catch (error) {
      this.settled(key, "fail", encodeThrown(error));
    }
  }

  async callHere(key: string, args: unknown[]): Promise<void> {
    this.here++;
    try {
      const value = await apply(...this.target!, args);
      this.settled(key, "done", value);
    } catch (error) {
      this.settled(key, "fail", error);
    }
    this.here--;
    this.change();
  }

  settled(key: string, state: State, value: unknown): void {
    this.count();
    this.finished.set(key, [state, value]);
  }

  answer(runner: Runner, [key, state, value]: Answer): boolean {
    if (!runner.held.delete(key)) return false;
    this.settled(key, state, value);
    this.change();
    return true;
  }

  lose(runner: Runner, error: Error): void {
    for (const key of runner.held.keys()) this.settled(key, "fail", encodeThrown(error));
  }

  output(_runner: Runner, text: string, stream: Stream): void {
    writeAll(system[stream], text);
  }
}

/** Arrays of an item from each source, until the first of them ends. */
async function* zip(sources: Items<unknown>[]): AsyncGenerator<unknown[], void, void> {
  const iterators = sources.map((source) =>
    (source as AsyncIterable<unknown>)[Symbol.asyncIterator]?.() ??
      (source as Iterable<unknown>)[Symbol.iterator]()
  );
  try {
    while (true) {
      const items = await Promise.all(iterators.map((iterator) => iterator.next()));
      if (items.some(({ done }) => done)) return;
      yield items.map(({ value }) => value);
    }
  } finally {
    await Promise.allSettled(iterators.map(async (iterator) => await iterator.return?.()));
  }
}

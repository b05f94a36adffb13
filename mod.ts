/**
 * Keep your loop, and let a process of its own run each of its items.
 *
 * Every scheduled task is a JSON file in `tasklist/todo`. `run()` executes each one in a fresh
 * process and moves the file to `done` or `fail`. So tasks survive errors, crashes and reboots, and
 * can be looked at, edited, retried and debugged.
 *
 * @example Run a loop in parallel
 * ```ts
 * import { defer, TaskList } from "jsr:@x/forrest";
 *
 * const tasks = new TaskList("tasklist");
 * for (const word of ["run", "forrest", "run"]) {
 *   const intermediate = defer((word: string) => ({ list: [word.length, word] }), word);
 *   tasks.schedule(defer((text: unknown) => String(text).toUpperCase(), intermediate.list[1]));
 * }
 * for await (const task of tasks.run({ processes: 2 })) {
 *   console.log(task.returnValue ?? task.errorValue);
 * }
 * ```
 *
 * @module
 */

import "./src/bundled.ts";
import {
  addTask,
  checkId,
  idsIn,
  newId,
  newOwner,
  type NewTask,
  pathsIn,
  recover,
} from "./src/claims.ts";
import { build, deferred, MARK, newStep, partOf, type Place } from "./src/deferred.ts";
import {
  claimsOf,
  exists,
  infoOf,
  locate,
  move,
  readTask,
  type State,
  stateOf,
  states,
  syncFolder,
  type Task,
  toTask,
  withOutcome,
  writeTask,
} from "./src/files.ts";
import {
  checkNames,
  type Items,
  type MapOptions,
  type Options,
  type RunOptions,
  type Tasks,
  withDefaults,
  withMapDefaults,
} from "./src/options.ts";
import { isIgnored, reportAtEnd } from "./src/processes.ts";
import type { CommandOptions } from "./src/programs.ts";
import { nameHere, refer, see } from "./src/references.ts";
import { refuseWhileImporting, runSteps, type Step, stepsOf } from "./src/steps.ts";
import { fileUrl, fullPath, succeeds, system } from "./src/system.ts";
import { type Callable, decode as decodeValue, encode as encodeValue } from "./src/values.ts";

export { locate, MARK, readTask, states };
export type { Stream } from "./src/system.ts";
export type { Callable, CommandOptions, Items, MapOptions, RunOptions, State, Step, Task, Tasks };

/** A value to come. Its parts are deferred values too, and calling one defers the call. */
export type Deferred<T> = Marked<T> & Parts<NonNullable<T>> & Call<NonNullable<T>>;

/** What marks a deferred value. */
export type Marked<T> = { readonly [MARK]: T };

/** The deferred parts of a `T`. Mapped over a key parameter, as a primitive would map to itself. */
export type Parts<T, K extends keyof T = keyof T> = 0 extends 1 & T ? AnyParts
  : [T] extends [never] ? unknown
  : { readonly [P in K]-?: Deferred<T[P]> };

/** The deferred parts of what may be anything, and its call. */
export interface AnyParts {
  // deno-lint-ignore no-explicit-any
  (...args: any[]): Deferred<any>;
  /** Any part. */
  // deno-lint-ignore no-explicit-any
  readonly [key: string]: Deferred<any>;
}

/** The deferred call of a `T`, if it is a function. */
export type Call<T> = [T] extends [never] ? unknown
  : Signatures<T> extends [infer P, infer Q, infer R, infer S]
    ? Signature<P> & Signature<Q> & Signature<R> & Signature<S>
  : unknown;

/** The deferred call of a function with one signature: its arguments, and what it returns. */
export type Signature<S> = S extends [infer A extends readonly unknown[], infer R]
  ? (...args: Inputs<A>) => Deferred<Awaited<R>>
  : never;

/** The last four signatures of a function. TypeScript repeats the first for those that it does not have. */
export type Signatures<F> = F extends {
  (...args: infer A): infer P;
  (...args: infer B): infer Q;
  (...args: infer C): infer R;
  (...args: infer D): infer S;
} ? [[A, P], [B, Q], [C, R], [D, S]]
  : unknown;

/** What those of the signatures return that take the arguments `A`. */
export type Returned<S, A> = S extends [infer P extends readonly unknown[], infer R]
  ? A extends Inputs<P> ? R : never
  : never;

/** Any class. */
// deno-lint-ignore no-explicit-any
export type Constructor = new (...args: any) => any;

/** What a class may be constructed with; of the overloads of its constructor, the last three count. */
export type Construction<C> = C extends {
  new (...args: infer A): unknown;
  new (...args: infer B): unknown;
  new (...args: infer D): unknown;
} ? A | B | D
  : never;

/** What a class constructs; for a URL, anything. */
// deno-lint-ignore no-explicit-any
export type Constructed<C> = C extends Constructor ? InstanceType<C> : any;

/** What may be given for a `T`: the value, a deferred, or a value with deferreds in it. */
export type Input<T> =
  | T
  | Marked<T>
  | (T extends Callable ? never : T extends object ? { [K in keyof T]: Input<T[K]> } : never);

/** What may be given for the arguments `A` of a function. */
export type Inputs<A extends readonly unknown[]> = { [K in keyof A]: Input<A[K]> };

/**
 * Defers a call of `call` with `args`, or plain data: nothing is called before the task runs.
 *
 * The result can be indexed, its properties read and its methods called; all of that is recorded.
 * It may stand anywhere in the arguments of another deferred call. Each deferred call runs at most
 * once in a task. A `URL` with a fragment (`./tasks.ts#prepare`) names the function outright.
 *
 * @example
 * ```ts
 * import { defer, evaluate } from "jsr:@x/forrest";
 *
 * const words = defer((text: string) => text.split(" "), "run forrest run");
 * console.log(await evaluate(words[1].toUpperCase())); // FORREST
 * ```
 */
export function defer<A extends readonly unknown[], R>(
  call: (...args: A) => R,
  ...args: Inputs<A>
): Deferred<Awaited<R>>;
/** Defers a call of a function with several signatures, of which the last four count. */
export function defer<F extends Callable, A extends Inputs<Signatures<F>[number][0]>>(
  call: F,
  ...args: A
): Deferred<Awaited<Returned<Signatures<F>[number], A>>>;
/** Defers a construction, or a call of the function that a URL names. */
export function defer<C extends Constructor | URL>(
  call: C,
  ...args: C extends Constructor ? Inputs<Construction<C>> : unknown[]
): Deferred<Constructed<C>>;
/** Defers plain data. */
export function defer<T>(
  value: T extends Callable | Constructor ? T extends Marked<unknown> ? T : never : T,
): Deferred<T extends Marked<infer V> ? V : T>;
export function defer(call: unknown, ...args: unknown[]): unknown {
  if (partOf(call) && !args.length) return call;
  const isCall = typeof call === "function" || (call instanceof URL && call.hash);
  return deferred(isCall ? newStep(partOf(call) ?? call, args) : newStep(undefined, [call]));
}

/**
 * Runs a deferred value here and now, in this process, through the same steps as a runner would.
 *
 * Rejects with whatever a step throws. Arguments are copied, so they must be storable.
 *
 * @throws {TypeError} If an argument cannot be stored.
 *
 * @example
 * ```ts
 * import { defer, evaluate } from "jsr:@x/forrest";
 *
 * console.log(await evaluate(defer(Math.max, 3, defer(Math.sqrt, 16)))); // 4
 * ```
 */
export async function evaluate<T>(task: Marked<T> | T): Promise<T> {
  const [steps, functions] = build(task);
  for (const { into, key, call } of functions) into[key] = nameHere(call) ?? call;
  return await runSteps(steps) as T;
}

/** The options of a {@linkcode TaskList}. */
export interface ListOptions {
  /**
   * Take a directory that exists.
   *
   * @default {false}
   */
  existOk?: boolean;
  /**
   * Remove the tasks that an existing directory holds.
   *
   * @default {true}
   */
  preClean?: boolean;
  /**
   * Remove the list when it is disposed of (`using`).
   *
   * @default {false}
   */
  postClean?: boolean;
  /**
   * If the directory exists, skip every `schedule()`: `run()` does what is left.
   *
   * @default {false}
   */
  noScheduleIfExist?: boolean;
  /**
   * Let `schedule()` replace a failed task that has the given id.
   *
   * @default {false}
   */
  retryFailed?: boolean;
  /** A file for all output of tasks and a line for each event, in place of the terminal. */
  logFile?: string;
}

const listOptions = [
  "existOk",
  "preClean",
  "postClean",
  "noScheduleIfExist",
  "retryFailed",
  "logFile",
];

/** A promise that knows whether anybody waits for it. */
class Watched<T> extends Promise<T> {
  seen = false;
  override then<A, B>(...handlers: Parameters<Promise<T>["then"]>): Promise<A | B> {
    this.seen = true;
    return super.then(...handlers) as Promise<A | B>;
  }
}

/** The options of {@linkcode TaskList.schedule}. */
export interface ScheduleOptions {
  /** Anything that can be stored; it comes back with the result. */
  metadata?: unknown;
  /** The name of its file, without `.json`. An id that the list has, in any state, is not scheduled again. */
  id?: string;
}

/** What became of a `schedule()`. */
export interface Scheduled {
  /** The name of its file, without `.json`. */
  id: string;
  /** False if the list has a task with this id already, or skips every task (`noScheduleIfExist`). */
  scheduled: boolean;
}

/** The tasks of a run as they finish. `total` is how many there are: those that have finished, and those to come. */
export type Run<T> = Tasks<T> & { readonly total: number };

/**
 * A directory of tasks: each is a JSON file, which lies in `todo`, `running`, `done` or `fail`.
 *
 * @example
 * ```ts
 * import { defer, TaskList } from "jsr:@x/forrest";
 *
 * const tasks = new TaskList("tasklist", { existOk: true });
 * for (let i = 0; i < 10; i++) tasks.schedule(defer(Math.sqrt, i), { metadata: { i } });
 * for await (const task of tasks.run()) console.log(task.metadata, task.returnValue);
 * ```
 */
export class TaskList<T = unknown> {
  /** Where the tasks lie: an absolute path. */
  readonly directory: string;
  #options: ListOptions;
  #skip: boolean;
  #pending = new Set<Promise<unknown>>();
  #isReporting = false;
  #failed: { scheduled: Watched<Scheduled>; error: unknown }[] = [];
  #queue: (NewTask & { done: (isScheduled: Promise<boolean>) => void })[] = [];
  #writing?: Promise<void>;

  /**
   * Makes the directory, or takes the one that is there.
   *
   * @throws {Error} If the directory exists, and neither `existOk` nor `noScheduleIfExist` is set.
   * @throws {TypeError} If there is no such option.
   */
  constructor(directory: string | URL, options: ListOptions = {}) {
    refuseWhileImporting();
    checkNames(Object.keys(options), listOptions, " of a task list");
    this.directory = fullPath(directory).replace(/(?<=.)\/$/, "");
    this.#options = options;
    const present = exists(this.directory);
    if (present && !options.existOk && !options.noScheduleIfExist) {
      const fix = "take it as it is with `existOk: true, preClean: false`, or another name";
      throw new Error(
        `Cannot make the task list \`${this.directory}\`, as it exists already: ${fix}`,
      );
    }
    this.#skip = present && !!options.noScheduleIfExist;
    for (const state of states) {
      system.mkdirSync(`${this.directory}/${state}`, { recursive: true });
    }
    if (present && !this.#skip && options.preClean !== false) this.clean();
  }

  /**
   * Writes a task into `todo`; resolves when it is safely on disk.
   *
   * Nobody has to await it: `run()` waits for what is pending, and throws an error that nobody has
   * seen.
   *
   * @param task What to run: a deferred value, or plain data.
   * @throws {TypeError} If something in it cannot be stored (the message names the place), or if the id
   * is no file name.
   */
  schedule(task: Input<T>, options: ScheduleOptions = {}): Promise<Scheduled> {
    const scheduled = new Watched<Scheduled>((done) => done(this.#schedule(task, options)));
    const failed = (error: unknown) => {
      this.#failed.push({ scheduled, error });
      if (!this.#isReporting) reportAtEnd(() => this.#unseen());
      this.#isReporting = true;
    };
    const settled = Promise.prototype.then.call(scheduled, () => {}, failed); // not `scheduled.then()`: that would see it
    this.#pending.add(settled);
    settled.then(() => this.#pending.delete(settled));
    return scheduled;
  }

  async #schedule(task: unknown, options: ScheduleOptions): Promise<Scheduled> {
    const { metadata, id = newId() } = options;
    checkId(id);
    if (this.#skip) return { id, scheduled: false };
    const [steps, functions] = build(task);
    const stored = metadata === undefined ? {} : { metadata: encodeValue(metadata, "metadata") };
    const name = async ({ into, key, call }: Place) => into[key] = await refer(call);
    await Promise.all(functions.map(name));
    const text = writeTask({ steps, ...stored });
    const isNew = options.id === undefined; // as nobody else makes the same
    const scheduled = await new Promise<boolean>((done) => {
      this.#queue.push({ id, text, isNew, done });
      this.#writing ??= this.#write();
    });
    return { id, scheduled };
  }

  /** Writes what was scheduled, many files at once, and syncs the folder once for all of them. */
  async #write(): Promise<void> {
    for (let batch; (batch = this.#queue.splice(0, 64)).length;) {
      const writes = batch.map((task) => addTask(this.directory, task, this.#options.retryFailed));
      await Promise.allSettled(writes);
      const synced = Promise.try(() => syncFolder(`${this.directory}/todo`));
      batch.forEach(({ done }, index) => done(synced.then(() => writes[index])));
    }
    this.#writing = undefined;
  }

  /**
   * Runs what is in `todo`, each task in a process of its own, and yields each task as it finishes.
   *
   * `break` ends the run: what was running goes back to `todo`, and nothing keeps running. SIGINT,
   * SIGTERM and SIGHUP do the same before they end the program.
   *
   * @throws {RangeError} If an option is out of range.
   * @throws {TypeError} If there is no such option, or if Deno's permissions do not suffice.
   * @throws {Error} At its end, if more tasks have failed than `maxFailures` says.
   */
  run(options: RunOptions = {}): Run<T> {
    const progress: { total?: number } = {};
    const count = () =>
      options.ids?.length ?? this.#pending.size + idsIn(this.directory, "todo").length;
    const run = this.#run(withDefaults(options), progress);
    return Object.defineProperty(run, "total", { get: () => progress.total ??= count() }) as Run<T>;
  }

  async *#run(options: Options, progress: { total?: number }): Tasks<T> {
    await this.#arrived();
    const { ListPool } = await import("./src/list_pool.ts"); // late, as the process of a task needs none
    const { logFile } = this.#options;
    const list = { directory: this.directory, logFile, pending: this.#pending, progress };
    yield* new ListPool(list, options).run() as Tasks<T>;
    await this.#arrived();
  }

  /** Waits for what is being scheduled, and throws an error of it that nobody has seen. */
  async #arrived(): Promise<void> {
    await Promise.allSettled(this.#pending);
    const unseen = this.#unseen();
    this.#failed = [];
    if (unseen) throw unseen.error;
  }

  #unseen(): { error: unknown } | undefined {
    return this.#failed.find(({ scheduled }) => !scheduled.seen);
  }

  async *#tasks(state: State): Tasks<T> {
    await Promise.allSettled(this.#pending);
    for (const path of pathsIn(this.directory, state)) {
      if (exists(path)) yield readTask(path) as Task<T>;
    }
  }

  /** The tasks that wait. */
  todoTasks(): Tasks<T> {
    return this.#tasks("todo");
  }

  /** The tasks that are being run. */
  runningTasks(): Tasks<T> {
    return this.#tasks("running");
  }

  /** The tasks that have a return value. */
  doneTasks(): Tasks<T> {
    return this.#tasks("done");
  }

  /** The tasks that have an error. */
  failTasks(): Tasks<T> {
    return this.#tasks("fail");
  }

  /** The path of the file of a task, in whichever state it is; undefined if the list does not have it. */
  find(id: string): string | undefined {
    const state = stateOf(this.directory, id);
    if (state === "running") return claimsOf(this.directory, id)[0] ?? this.find(id); // it has moved on
    return state && `${this.directory}/${state}/${id}.json`;
  }

  /** The paths of the tasks of a state, in the order of their ids, without reading them. */
  paths(state: State): Iterable<string> {
    return pathsIn(this.directory, state);
  }

  /** Puts back what dead runs have left. `run()` does so by itself. */
  recover(): void {
    recover(this.directory, newOwner(), Infinity);
  }

  /** How many tasks each folder holds, without reading them. */
  count(): Record<State, number> {
    const counts = states.map((state) => [state, idsIn(this.directory, state).length]);
    return Object.fromEntries(counts);
  }

  /**
   * Moves failed tasks back to `todo`: all, those with the given ids, or those that `which` is for. Gives
   * how many were moved.
   */
  async retry(which?: string[] | ((task: Task<T>) => boolean)): Promise<number> {
    await Promise.allSettled(this.#pending);
    const ids = Array.isArray(which) ? new Set(which) : undefined;
    let moved = 0;
    for (const id of idsIn(this.directory, "fail")) {
      const file = `${this.directory}/fail/${id}.json`;
      if ((ids && !ids.has(id)) || !exists(file)) continue;
      if (typeof which === "function" && !which(readTask(file) as Task<T>)) continue;
      const original = `${file}.original`; // which may have been repaired
      if (infoOf(original)?.isFile) move(original, file);
      if (move(file, `${this.directory}/todo/${id}.json`)) moved++;
    }
    if (moved) syncFolder(`${this.directory}/todo`);
    return moved;
  }

  /**
   * Removes tasks: all, or those of the states that are `true`, or all but those that are `false`.
   *
   * @throws {TypeError} If there is no such state.
   */
  clean(which: { todo?: boolean; done?: boolean; fail?: boolean } = {}): void {
    const removable = ["todo", "done", "fail"] as const;
    const unknown = Object.keys(which).find((state) => !removable.some((name) => name === state));
    if (unknown) {
      throw new TypeError(
        `Cannot clean \`${unknown}\`: only ${removable.join(", ")} can be cleaned`,
      );
    }
    const isChosen = (state: typeof removable[number]) =>
      which[state] ?? !Object.values(which).includes(true);
    if (isChosen("todo")) recover(this.directory, newOwner(), Infinity);
    for (const state of removable.filter(isChosen)) {
      const folder = `${this.directory}/${state}`;
      for (const { name } of [...system.readDirSync(folder)]) {
        if (!/\.json(\.original)?$/.test(name)) continue;
        succeeds(() => system.removeSync(`${folder}/${name}`, { recursive: true })); // or it has moved on
      }
    }
  }

  /** With `postClean`, removes the tasks, and the directory if nothing else lies in it. */
  [Symbol.dispose](): void {
    if (!this.#options.postClean) return;
    this.clean();
    try {
      for (const state of states) system.removeSync(`${this.directory}/${state}`);
      system.removeSync(this.directory);
    } catch { /* something else lies in there, and stays */ }
  }

  /** Like `[Symbol.dispose]()`, after what is being scheduled has been written. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#pending);
    this[Symbol.dispose]();
  }
}

/**
 * Calls a function on each item, in several processes, and gives the results. It keeps no list on disk.
 *
 * Items are read as results are taken, so they may be endless. Several sources are zipped, up to the
 * end of the shortest. A call that throws, or kills its process, rejects at its item and ends the map.
 *
 * @throws {TypeError} If there is nothing to map, or no such option.
 * @throws {RangeError} If an option is out of range.
 *
 * @example
 * ```ts
 * import { map } from "jsr:@x/forrest";
 *
 * for await (const double of map((x: number) => x * 2, [0, 1, 2, 3])) console.log(double);
 * ```
 */
export function map<A, R>(
  call: (a: A) => R,
  items: Items<A>,
  options?: MapOptions,
): AsyncGenerator<Awaited<R>, void, void>;
/** The same, with an item of each of several sources for each call. */
export function map<A extends unknown[], R>(
  call: (...args: A) => R,
  ...sources: [...{ [K in keyof A]: Items<A[K]> }, options: MapOptions]
): AsyncGenerator<Awaited<R>, void, void>;
/** The same, without options. */
export function map<A extends unknown[], R>(
  call: (...args: A) => R,
  ...sources: { [K in keyof A]: Items<A[K]> }
): AsyncGenerator<Awaited<R>, void, void>;
export function map<R>(
  call: Callable,
  ...rest: (Items<unknown> | MapOptions | undefined)[]
): AsyncGenerator<R, void, void> {
  refuseWhileImporting();
  if (typeof call !== "function") {
    throw new TypeError(`Expected the first argument of \`map\` to be a function, got \`${call}\``);
  }
  const isSource = (item: unknown) =>
    Symbol.iterator in Object(item) || Symbol.asyncIterator in Object(item);
  const sources = rest.filter(isSource) as Items<unknown>[];
  if (!sources.length) {
    throw new TypeError(`Expected items for \`map\`, got \`${rest[0]}\`, which cannot be iterated`);
  }
  const options = withMapDefaults(rest.find((item) => !isSource(item)) as MapOptions ?? {});
  see(call);
  return (async function* () {
    const { MapPool } = await import("./src/map_pool.ts"); // late, as the process of a call needs none
    yield* new MapPool(call, options, sources).run() as AsyncGenerator<R, void, void>;
  })();
}

/**
 * Defers a run of a program; its value is what the program writes to its standard output.
 *
 * The task fails if the program does, with `code`, `signal` and the end of its output in the error; also
 * if it writes more than 100 MB. A run starts such a task without a runtime, if it is all of the task.
 *
 * @example
 * ```ts
 * import { command, evaluate } from "jsr:@x/forrest";
 *
 * console.log(await evaluate(command(["echo", "run"]))); // run
 * ```
 */
export function command(argv: Input<string[]>, options: CommandOptions = {}): Deferred<string> {
  if (typeof argv === "string") throw new TypeError(`Expected an array of words, got \`${argv}\``);
  return deferred(newStep("forrest#command", [argv, options])) as Deferred<string>;
}

/** The options of {@linkcode exec}. */
export interface ExecOptions {
  /**
   * Throw what the task throws.
   *
   * @default {false}
   */
  raise?: boolean;
  /** Where to write the task with its outcome. */
  output?: string;
  /** A module whose exports are in scope for functions that are stored as their text. */
  session?: string | URL;
}

/**
 * Runs one task file in this process; the file stays as it is.
 *
 * @throws {Error} If the file cannot be read.
 *
 * @example
 * ```ts
 * import { exec } from "jsr:@x/forrest";
 *
 * const task = await exec("tasklist/fail/1.json", { raise: true }); // throws where the task does
 * console.log(task.returnValue);
 * ```
 */
export async function exec(path: string | URL, options: ExecOptions = {}): Promise<Task> {
  const file = fullPath(path);
  const session = options.session && fileUrl(`${options.session}`);
  const { id, state } = locate(file);
  const text = system.readTextFileSync(file);
  if (options.raise) {
    const steps = stepsOf(text, file);
    return { id, state, returnValue: await runSteps(steps, session) };
  }
  const { run } = await import("./src/runner.ts"); // here, as few need it
  const task = writeTask(withOutcome(...await run(file, session)));
  if (options.output) system.writeTextFileSync(options.output, task);
  return toTask(id, state, task);
}

/**
 * A value as a task file holds it.
 *
 * @param name What the value is called where the error says which part of it cannot be stored.
 * @throws {TypeError} If something in it cannot be stored.
 *
 * @example
 * ```ts
 * import { decode, encode } from "jsr:@x/forrest";
 *
 * console.log(encode(new Date(0), "date")); // { $date: "1970-01-01T00:00:00.000Z" }
 * console.log(decode({ $date: "1970-01-01T00:00:00.000Z" })); // a Date
 * ```
 */
export function encode(value: unknown, name: string): unknown {
  return encodeValue(value, name);
}

/**
 * Reads back, in place, what {@linkcode encode} has made.
 *
 * @throws {TypeError} If it holds what is no way to store a value.
 */
export function decode(stored: unknown): unknown {
  return decodeValue(stored);
}

/**
 * Listens to a signal that ends programs, unless this program was started so that it ignores it, as by
 * `nohup`. Gives what ends that.
 *
 * @example
 * ```ts
 * import { listen, TaskList } from "jsr:@x/forrest";
 *
 * const tasks = new TaskList("tasklist", { existOk: true, preClean: false });
 * const controller = new AbortController();
 * const stop = listen("SIGTERM", () => controller.abort());
 * for await (const task of tasks.run({ signal: controller.signal })) console.log(task.id);
 * stop();
 * ```
 */
export function listen(signal: string, listener: () => void): () => void {
  if (isIgnored(signal)) return () => {};
  system.addSignalListener(signal as Deno.Signal, listener);
  return () => system.removeSignalListener(signal as Deno.Signal, listener);
}

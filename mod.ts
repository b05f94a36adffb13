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
import { addTask, checkId, idsIn, newId, newOwner, type NewTask, recover } from "./src/claims.ts";
import {
  exists,
  infoOf,
  locate,
  move,
  readTask,
  type State,
  states,
  syncFolder,
  type Task,
  toTask,
  withOutcome,
  writeTask,
} from "./src/files.ts";
import {
  type Items,
  type MapOptions,
  type Options,
  type RunOptions,
  type Tasks,
  withDefaults,
  withMapDefaults,
} from "./src/options.ts";
import { reportAtEnd } from "./src/processes.ts";
import type { CommandOptions } from "./src/programs.ts";
import { MARK, newStep, type Part, partOf, printable, type Recorded } from "./src/recorded.ts";
import { nameHere, refer, see } from "./src/references.ts";
import { refuseWhileImporting, runSteps, type Step, stepsOf } from "./src/steps.ts";
import { fileUrl, fullPath, succeeds, system, Watched } from "./src/system.ts";
import { type Callable, encode, type Path } from "./src/values.ts";

export { MARK, readTask };
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
/** Defers a construction. */
export function defer<C extends Constructor>(
  call: C,
  ...args: Inputs<Construction<C>>
): Deferred<InstanceType<C>>;
/** Defers a call of the function that a URL names. */
// deno-lint-ignore no-explicit-any
export function defer(call: URL, ...args: unknown[]): Deferred<any>;
/** Defers plain data. */
export function defer<T>(
  value: T extends Callable | Constructor ? T extends Marked<unknown> ? T : never : T,
): Deferred<T extends Marked<infer V> ? V : T>;
export function defer(call: unknown, ...args: unknown[]): unknown {
  if (partOf(call) && !args.length) return call;
  const isCall = typeof call === "function" || (call instanceof URL && call.hash);
  return deferred(isCall ? newStep(partOf(call) ?? call, args) : newStep(undefined, [call]));
}

function deferred(step: Step, path: Path = []): unknown {
  const target = Object.assign(function () {}, { [MARK]: { step, path } }); // no arrow, for `construct`
  return new Proxy(Object.setPrototypeOf(target, printable), recorder);
}

const refuse = (use: string) => (): never => {
  const fix = "pass it to `defer(fn, value)` and do that in `fn`";
  throw new TypeError(
    `Cannot ${use} a deferred value, as it is not there before its task runs: ${fix}`,
  );
};

const recorder: ProxyHandler<Callable & { [MARK]: Part }> = {
  get(target, key) {
    if (key === Symbol.toPrimitive) return refuse("convert");
    if (key === Symbol.iterator || key === Symbol.asyncIterator) return refuse("iterate over");
    if (key === "toJSON") return refuse("stringify");
    if (key === "then") return undefined; // not a thenable: `await` gives the deferred back
    if (typeof key === "symbol") return Reflect.get(target, key);
    const { step, path } = target[MARK];
    return deferred(step, [...path, /^(0|[1-9]\d{0,8})$/.test(key) ? Number(key) : key]);
  },
  apply: (target, _owner, args) => deferred(newStep(target[MARK], args)),
  construct: refuse("construct with"),
  set: refuse("assign to"),
  deleteProperty: refuse("delete from"),
  ownKeys: refuse("list the keys of"),
  has: refuse("look for a key in"),
};

/**
 * Runs a deferred value here and now, in this process, through the same steps as a runner would.
 *
 * Rejects with whatever a step throws.
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

/** A function in the steps of a task, and where what stands for it is to be put. */
type Place = { into: Record<string, unknown>; key: string; call: Callable };

/** The steps of a task in the order in which they were made, and the functions in them. */
function build(task: unknown): [Step[], Place[]] {
  const end = partOf(task) ?? { step: newStep(undefined, [task]), path: [] };
  const stored = new Map<Recorded, Step>([[end.step, {}]]);
  const refs: { $step: number; path: Path }[] = [];
  const functions: Place[] = [];
  const link = ({ step, path }: Part) => {
    if (!stored.has(step)) stored.set(step, {});
    return refs[refs.push({ $step: step.order, path }) - 1];
  };
  const leaf = (call: Callable) => {
    const part = partOf(call);
    if (part) return link(part);
    const into = { $function: undefined };
    functions.push({ into, key: "$function", call });
    return into;
  };
  for (const [{ call, args }, into] of stored) { // which also visits what is added meanwhile
    if (call === undefined) {
      into.value = encode(args[0], "value", leaf);
      continue;
    }
    into.call = undefined; // so that it comes first in the file
    const isName = typeof call === "string" || call instanceof URL;
    if (typeof call === "function") functions.push({ into, key: "call", call: call as Callable });
    else into.call = isName ? `${call}` : link(call as Part);
    into.args = args.map((item, index) => encode(item, `args[${index}]`, leaf));
  }
  const steps = [...stored.keys()].sort((a, b) => a.order - b.order);
  const index = new Map(steps.map(({ order }, index) => [order, index]));
  const result = end.path.length ? [{ value: link(end) }] : [];
  for (const ref of refs) ref.$step = index.get(ref.$step)!;
  return [[...steps.map((step) => stored.get(step)!), ...result], functions];
}

// the list
/** The options of a {@linkcode TaskList}. */
export interface ListOptions {
  /** Take a directory that exists. @default {false} */
  existOk?: boolean;
  /** Remove the tasks that an existing directory holds. @default {true} */
  preClean?: boolean;
  /** Remove the list when it is disposed of (`using`). @default {false} */
  postClean?: boolean;
  /** If the directory exists, skip every `schedule()`: `run()` does what is left. @default {false} */
  noScheduleIfExist?: boolean;
  /** Let `schedule()` replace a failed task that has the given id. @default {false} */
  retryFailed?: boolean;
  /** A file for all output of tasks and a line for each event, in place of the terminal. */
  logFile?: string;
}

/** What became of a `schedule()`: `scheduled` is false if the list was to skip it or has its id. */
export interface Scheduled {
  /** The name of its file, without `.json`. */
  id: string;
  /** Whether there is a new task to run. */
  scheduled: boolean;
}

/** The tasks of a run as they finish; `total` says how many they will be, with those that were. */
export type Run<T> = Tasks<T> & { readonly total: number };

/**
 * A directory of tasks: each is a JSON file, which lies in `todo`, `running`, `done` or `fail`.
 *
 * Throws if the directory exists, unless `existOk` or `noScheduleIfExist` is set.
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
  /** The tasks that wait. */
  readonly todoTasks: () => Tasks<T> = () => this.#tasks("todo");
  /** The tasks that are being run. */
  readonly runningTasks: () => Tasks<T> = () => this.#tasks("running");
  /** The tasks that have a return value. */
  readonly doneTasks: () => Tasks<T> = () => this.#tasks("done");
  /** The tasks that have an error. */
  readonly failTasks: () => Tasks<T> = () => this.#tasks("fail");
  #options: ListOptions;
  #skip: boolean;
  #pending = new Set<Promise<unknown>>();
  #isReporting = false;
  #failed: { scheduled: Watched<Scheduled>; error: unknown }[] = [];
  #queue: (NewTask & { done: (isScheduled: Promise<boolean>) => void })[] = [];
  #writing?: Promise<void>;

  /** Makes the directory, or takes the one that is there. */
  constructor(directory: string | URL, options: ListOptions = {}) {
    refuseWhileImporting();
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
   * seen. Rejects with a TypeError that names the place if something in it cannot be stored.
   *
   * @param task What to run: a deferred value, or plain data.
   * @param options `metadata` comes back with the result. An `id` that the list has already, in any
   * state, is not scheduled again.
   */
  schedule(
    task: Input<T>,
    options: { metadata?: unknown; id?: string } = {},
  ): Promise<Scheduled> {
    const scheduled = new Watched<Scheduled>((done) => done(this.#schedule(task, options)));
    const failed = (error: unknown) => {
      this.#failed.push({ scheduled, error });
      if (!this.#isReporting) reportAtEnd(() => this.#unseen());
      this.#isReporting = true;
    };
    const settled = Promise.prototype.then.call(scheduled, () => {}, failed); // which is not to see it
    this.#pending.add(settled);
    settled.then(() => this.#pending.delete(settled));
    return scheduled;
  }

  async #schedule(task: unknown, options: { metadata?: unknown; id?: string }): Promise<Scheduled> {
    const { metadata, id = newId() } = options;
    checkId(id);
    if (this.#skip) return { id, scheduled: false };
    const [steps, functions] = build(task);
    const stored = metadata === undefined ? {} : { metadata: encode(metadata, "metadata") };
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
   * Throws a RangeError if an option is out of range, and a TypeError if Deno's permissions do not
   * suffice.
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
    for (const name of idsIn(this.directory, state)) {
      const path = `${this.directory}/${state}/${name}${state === "running" ? "" : ".json"}`;
      if (exists(path)) yield readTask(path) as Task<T>;
    }
  }

  /** How many tasks each folder holds, without reading them. */
  count(): Record<State, number> {
    const counts = states.map((state) => [state, idsIn(this.directory, state).length]);
    return Object.fromEntries(counts);
  }

  /** Moves failed tasks back to `todo`: all, those with the given ids, or those that `which` is for. */
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

  /** Removes tasks: all, or those of the states that are `true`, or all but those that are `false`. */
  clean(which: { todo?: boolean; done?: boolean; fail?: boolean } = {}): void {
    const removable = ["todo", "done", "fail"] as const;
    const unknown = Object.keys(which).find((state) => !removable.includes(state as "todo"));
    if (unknown) {
      throw new TypeError(`Cannot clean \`${unknown}\`: there are ${removable.join(", ")}`);
    }
    const isChosen = (state: "todo" | "done" | "fail") =>
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

  /** The same, after what is pending has been written. */
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
    throw new TypeError("The first argument of `map` must be a function");
  }
  const isSource = (item: unknown) =>
    Symbol.iterator in Object(item) || Symbol.asyncIterator in Object(item);
  const sources = rest.filter(isSource) as Items<unknown>[];
  if (!sources.length) {
    throw new TypeError(`There is nothing to map: ${rest[0]} cannot be iterated`);
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
  if (typeof argv === "string") throw new TypeError('`command` takes words: `["echo", "run"]`');
  return deferred(newStep("forrest#command", [argv, options])) as Deferred<string>;
}

/** The options of {@linkcode exec}. */
export interface ExecOptions {
  /** Throw what the task throws. @default {false} */
  raise?: boolean;
  /** Where to write the task with its outcome. */
  output?: string;
  /** A module whose exports are in scope for functions that are stored as their text. */
  session?: string | URL;
}

/**
 * Runs one task file in this process; the file stays as it is.
 *
 * Throws if the file cannot be read.
 *
 * @example
 * ```ts
 * import { exec } from "jsr:@x/forrest";
 *
 * const task = await exec("tasklist/fail/1.json", { raise: true }); // throws where the task does
 * console.log(task.returnValue);
 * ```
 */
export async function exec(path: string, options: ExecOptions = {}): Promise<Task> {
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

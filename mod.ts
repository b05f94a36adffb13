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

import * as files from "./files.ts";
import { locate, newOwner, type Outcome, type Result, type State, states } from "./files.ts";
import {
  apply,
  bun,
  type Callable,
  type Child,
  collect,
  type CommandOptions,
  compile,
  cwd,
  deathOf,
  decode,
  deno,
  encode,
  encodeThrown,
  errorOf,
  fileUrl,
  GUARD,
  isCompiled,
  isEndOfJob,
  load,
  nodeProcess,
  ORDER,
  type Path,
  pathOf,
  pathText,
  print,
  refuseWhileImporting,
  RUNNER,
  runSteps,
  SERVE,
  sleep,
  spawn,
  type Step,
  stepsOf,
  type Stream,
  type Told,
  WORD,
} from "./runner.ts";

export { decode, encode, locate, states };
export type { Callable, CommandOptions, State, Step, Stream };

// ---------------------------------------------------------------------------------- deferred values

/** Marks a deferred value, also one of another copy of this module. */
export const MARK: unique symbol = Symbol.for("forrest.deferred");

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

/** The deferred call of a `T`, if it is a function; of several signatures, the last four count. */
export type Call<T> = [T] extends [never] ? unknown
  : T extends {
    (...args: infer A): infer P;
    (...args: infer B): infer Q;
    (...args: infer C): infer R;
    (...args: infer D): infer S;
  } ? Signature<A, P> & Signature<B, Q> & Signature<C, R> & Signature<D, S>
  : unknown;

/** The deferred call of a function with one signature. */
export type Signature<A extends readonly unknown[], R> = (
  ...args: Inputs<A>
) => Deferred<Awaited<R>>;

/** What may be given for a `T`: the value, a deferred, or a value with deferreds in it. */
export type Input<T> =
  | T
  | Marked<T>
  | (T extends Callable ? never : T extends object ? { [K in keyof T]: Input<T[K]> } : never);

/** What may be given for the arguments `A` of a function. */
export type Inputs<A extends readonly unknown[]> = { [K in keyof A]: Input<A[K]> };

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
 * Defers a run of a program; its value is what the program writes to its standard output: a text, or
 * bytes if that is not UTF-8.
 *
 * The task fails if the program does, with `code`, `signal` and the end of its output in the error; also
 * if it writes more than 100 MB. It has ended when its process has.
 *
 * @throws {TypeError} If `argv` is no array.
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
  return deferred(newStep(COMMAND, [argv, options])) as Deferred<string>;
}

const COMMAND = "forrest#command";

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
  for (const { into, key, call } of functions) into[key] = globalName(call) ?? call;
  return await runSteps(steps) as T;
}

// -------------------------------------------------------------------------------------------- lists

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
  logFile?: string | undefined;
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

/** A task as it is stored, with its metadata, value and error read back. */
export interface Task<T = unknown> {
  /** The name of its file, without `.json`. */
  id: string;
  /** The folder that it lies in. */
  state: State;
  /** What it calls. */
  steps?: Step[];
  /** What was attached to it with `schedule()`. */
  metadata?: unknown;
  /** How often it was started. */
  attempts?: number;
  /** How many runs have died while it was running, until it has an outcome. */
  crashes?: number;
  /** How often it was tried again, while it waits for the next time. */
  retried?: number;
  /** When it was last started, in ISO 8601. */
  started?: string;
  /** How long it ran, in seconds. */
  runtime?: number;
  /** What its last step returned. */
  returnValue?: T;
  /** What was thrown: an error of the same class, with the original stack. */
  errorValue?: unknown;
}

/** The tasks of a run as they finish. `total` is how many there are: those that have finished, and those to come. */
export type Run<T> = Tasks<T> & { readonly total: number };

/** Tasks, one after the other. */
export type Tasks<T> = AsyncGenerator<Task<T>, void, void>;

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
  #queue: (files.Addition & { done: (isScheduled: Promise<boolean>) => void })[] = [];
  #writing: Promise<void> | undefined;

  /**
   * Makes the directory, or takes the one that is there.
   *
   * @throws {Error} If the directory exists, and neither `existOk` nor `noScheduleIfExist` is set; or if
   * its tasks were to be removed while another run is at work on them.
   * @throws {TypeError} If there is no such option.
   */
  constructor(directory: string | URL, options: ListOptions = {}) {
    refuseWhileImporting();
    checkNames(options, LIST_OPTIONS, " of a task list");
    this.directory = fullPath(directory).replace(/(?<=.)\/$/, "");
    this.#options = options;
    const { existOk, preClean = true, noScheduleIfExist = false } = options;
    const present = files.exists(this.directory);
    if (present && !existOk && !noScheduleIfExist) {
      const fix = "take it as it is with `existOk: true, preClean: false`, or another name";
      throw new Error(
        `Cannot make the task list \`${this.directory}\`, as it exists already: ${fix}`,
      );
    }
    this.#skip = present && noScheduleIfExist;
    files.makeFolders(this.directory);
    if (present && !this.#skip && preClean) this.clean();
  }

  /**
   * Writes a task into `todo`; resolves when it is safely on disk.
   *
   * Nobody has to await it, as `run()` waits for what is pending. If it fails and nobody handles that, it
   * ends the program, as each rejection does that nobody handles.
   *
   * @param task What to run: a deferred value, or plain data.
   * @throws {TypeError} If something in it cannot be stored (the message names the place), if the id is no
   * file name, or if its function cannot be found by another process.
   */
  schedule(task: Input<T>, options: ScheduleOptions = {}): Promise<Scheduled> {
    const scheduled = this.#schedule(task, options);
    const settled = scheduled.then(() => {}, () => {});
    this.#pending.add(settled);
    settled.then(() => this.#pending.delete(settled));
    return scheduled.then((result) => result); // one that nobody has looked at yet
  }

  async #schedule(task: unknown, options: ScheduleOptions): Promise<Scheduled> {
    const { metadata, id = files.newId() } = options;
    files.checkId(id);
    if (this.#skip) return { id, scheduled: false };
    if (task instanceof Promise) throw new TypeError(`Cannot schedule a Promise: ${FORGOTTEN}`);
    const [steps, functions] = build(task);
    const stored = metadata === undefined ? {} : { metadata: encode(metadata, "metadata") };
    const name = async ({ into, key, call }: Place) => into[key] = await refer(call);
    await Promise.all(functions.map(name));
    const text = files.formatTask({ steps, ...stored });
    const isNew = options.id === undefined; // as nobody else makes the same
    const scheduled = await new Promise<boolean>((done) => {
      this.#queue.push({ id, text, isNew, done });
      this.#writing ??= this.#write();
    });
    const { logFile } = this.#options;
    if (scheduled && logFile) files.log(logFile, id, "is scheduled");
    return { id, scheduled };
  }

  /** Writes what was scheduled, many files at once, and syncs the folder once for all of them. */
  async #write(): Promise<void> {
    for (let batch; (batch = this.#queue.splice(0, 64)).length;) {
      const { retryFailed } = this.#options;
      const writes = batch.map((task) => files.add(this.directory, task, retryFailed));
      await Promise.allSettled(writes);
      const synced = Promise.try(() => files.syncFolder(`${this.directory}/todo`));
      batch.forEach(({ done }, index) => done(synced.then(() => writes[index]!)));
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
    const { logFile } = this.#options;
    const list = { directory: this.directory, logFile, pending: this.#pending };
    const run = new ListRun(list, withDefaults(options));
    const tasks = run.tasks();
    return Object.defineProperty(tasks, "total", { get: () => run.total }) as unknown as Run<T>;
  }

  async *#tasks(state: State): Tasks<T> {
    await Promise.allSettled(this.#pending);
    for (const path of this.paths(state)) {
      if (files.exists(path)) yield readTask<T>(path);
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

  /** How many tasks each folder holds, without reading them. */
  count(): Record<State, number> {
    const counts = states.map((state) => [state, files.idsIn(this.directory, state).length]);
    return Object.fromEntries(counts);
  }

  /** The paths of the tasks of a state, in the order of their ids, without reading them. */
  paths(state: State): Iterable<string> {
    return files.pathsIn(this.directory, state);
  }

  /** The path of the file of a task, in whichever state; undefined if the list does not have it. */
  find(id: string): string | undefined {
    return files.isFileName(id) ? files.find(this.directory, id)[0] : undefined;
  }

  /**
   * Moves failed tasks back to `todo`: all, those with the given ids, or those that `which` is for. Gives
   * how many were moved.
   */
  async retry(which?: string[] | ((task: Task<T>) => boolean)): Promise<number> {
    await Promise.allSettled(this.#pending);
    const ids = Array.isArray(which) ? new Set(which) : undefined;
    let moved = 0;
    for (const path of this.paths("fail")) {
      const { id } = locate(path);
      if (ids && !ids.has(id)) continue;
      if (typeof which === "function" && !(files.exists(path) && which(readTask<T>(path)))) {
        continue;
      }
      if (files.retry(this.directory, id)) moved++;
    }
    if (moved) await files.syncFolder(`${this.directory}/todo`);
    return moved;
  }

  /** Puts back what runs that have died have left; `run()` does so by itself. */
  recover(): void {
    const { claims, makers } = files.takeOver(this.directory, newOwner());
    for (const maker of makers) killAll(`/${maker}.`);
    for (const claim of claims) files.putBack(claim);
  }

  /**
   * Removes tasks: all, or those of the states that are `true`, or all but those that are `false`.
   *
   * @throws {TypeError} If there is no such state.
   * @throws {Error} If tasks that wait are to be removed, and a run is at work on the list.
   */
  clean(which: { todo?: boolean; done?: boolean; fail?: boolean } = {}): void {
    const removable = ["todo", "done", "fail"] as const;
    const unknown = Object.keys(which).find((state) => !removable.some((name) => name === state));
    if (unknown) {
      const known = removable.join(", ");
      throw new TypeError(`Cannot clean \`${unknown}\`: only ${known} can be cleaned`);
    }
    const chosen = removable.filter((state) =>
      which[state] ?? !Object.values(which).includes(true)
    );
    if (chosen.includes("todo")) this.recover();
    for (const state of chosen) files.removeTasks(this.directory, state);
  }

  /** With `postClean`, removes the tasks, and the directory if nothing else lies in it. */
  [Symbol.dispose](): void {
    if (!this.#options.postClean) return;
    this.clean();
    files.removeFolders(this.directory);
  }

  /** Like `[Symbol.dispose]()`, after what is being scheduled has been written. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#pending);
    this[Symbol.dispose]();
  }
}

const FORGOTTEN = "defer the call, as in `defer(fn, value)`, or await it";

/** Reads the task file at `path`; if that cannot be read, the error of the task says so. */
export function readTask<T = unknown>(path: string): Task<T> {
  const { id, state } = locate(path);
  try {
    return toTask(files.readText(path), id, state) as Task<T>;
  } catch (cause) {
    return { id, state, errorValue: new Error(`Cannot read the task \`${path}\``, { cause }) };
  }
}

function toTask(text: string, id: string, state: State): Task {
  const task = files.parseTask(text);
  if (!task) throw new SyntaxError("It is no object in JSON");
  for (const key of ["metadata", "returnValue", "errorValue"]) {
    if (key in task) task[key] = decode(task[key]);
  }
  return { ...task, id, state };
}

/** The options of {@linkcode exec}. */
export interface ExecOptions {
  /**
   * Throw what the task throws.
   *
   * @default {false}
   */
  raise?: boolean | undefined;
  /** Where to write the task with its outcome. */
  output?: string | undefined;
  /** A module whose exports are in scope for functions that are stored as their text. */
  session?: string | URL | undefined;
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
  const text = files.readText(file);
  if (options.raise) {
    return { id, state, returnValue: await runSteps(stepsOf(text, file), session) };
  }
  const begin = Date.now();
  const start = performance.now();
  const told = (result: object) =>
    ({ begin, runtime: performance.now() - start, ...result }) as Told;
  const run = async () => encode(await runSteps(stepsOf(text, file), session), "returnValue");
  const outcome = await run().then(
    (returnValue) => told({ returnValue }),
    (error) => told({ errorValue: encodeThrown(error) }),
  );
  const written = files.withResult(text, resultOf(outcome));
  if (options.output) files.writeText(options.output, written);
  return toTask(written, id, state);
}

/** The absolute path that a path, or a file URL, stands for; no other URL is a place for files. */
function fullPath(path: string | URL): string {
  const name = `${path}`.replace(/^(?!file:)(?=[^/\\]{2,}:)/, "./");
  if (typeof path !== "string" && !(path instanceof URL) || !name) {
    throw new TypeError(`Cannot use \`${path}\` as a path: it must have a name`);
  }
  return pathOf(fileUrl(name)).replace(/\/{2,}/g, "/");
}

// ---------------------------------------------------------------------------------------- options

/** The options of `TaskList.run()`. */
export interface RunOptions {
  /**
   * How many processes run tasks at once.
   *
   * @default {navigator.hardwareConcurrency}
   */
  processes?: number | undefined;
  /**
   * Seconds after which a task fails, and all its processes are killed.
   *
   * @default {Infinity}
   */
  autokill?: number | undefined;
  /**
   * Print the stack of every error at once.
   *
   * @default {false}
   */
  printErrors?: boolean | undefined;
  /** A module whose exports are in scope for functions that are stored as their text. */
  session?: string | URL | undefined;
  /**
   * Deno's permissions for tasks, such as `["--allow-net"]`; Bun has none.
   *
   * @default {["--allow-all"]}
   */
  permissions?: string[] | undefined;
  /**
   * Tasks that one process runs before another takes its place.
   *
   * @default {1}
   */
  tasksPerProcess?: number | undefined;
  /**
   * Tasks that one process holds at once, for those that wait.
   *
   * @default {1}
   */
  concurrency?: number | undefined;
  /**
   * How often a task that failed is tried again; put back by hand, it begins anew.
   *
   * @default {0}
   */
  retries?: number | undefined;
  /**
   * Seconds before the first retry of a task; twice as many before the next.
   *
   * @default {0}
   */
  retryDelay?: number | undefined;
  /**
   * How many tasks may fail: after one more, nothing is started, and the run throws at its end.
   *
   * @default {Infinity}
   */
  maxFailures?: number | undefined;
  /**
   * How many runs may die while a task is running, until that task has failed.
   *
   * @default {3}
   */
  maxCrashes?: number | undefined;
  /** Ends the run as `break` would. If it is given, signals are left to the program. */
  signal?: AbortSignal | undefined;
  /** Run only the tasks with these ids. */
  ids?: string[] | undefined;
  /**
   * Asked before each task: if it returns false, nothing more is started.
   *
   * @default {() => true}
   */
  mayStart?: (() => boolean) | undefined;
  /** Gets what tasks print, in place of the terminal. */
  onOutput?: ((text: string, stream: Stream, id: string) => void) | undefined;
}

/** The options of `map`. */
export interface MapOptions {
  /**
   * How many processes; 0 calls the function in this one.
   *
   * @default {navigator.hardwareConcurrency}
   */
  processes?: number | undefined;
  /**
   * Calls that one process holds at once, for those that wait.
   *
   * @default {1}
   */
  concurrency?: number | undefined;
  /**
   * Give the results in the order of the items, not as they finish.
   *
   * @default {true}
   */
  ordered?: boolean | undefined;
  /** A module whose exports are in scope for a function that is stored as its text. */
  session?: string | URL | undefined;
  /**
   * Deno's permissions for calls, such as `["--allow-net"]`; Bun has none.
   *
   * @default {["--allow-all"]}
   */
  permissions?: string[] | undefined;
}

/** All options of a run or a `map`, with their defaults. */
type Options =
  & { [K in Exclude<keyof RunOptions, Rare | "session">]-?: NonNullable<RunOptions[K]> }
  & Pick<RunOptions, Rare>
  & { session: string | undefined }; // the URL of the module
type Rare = "ids" | "onOutput" | "signal" | "mayStart";

const LIST_OPTIONS = "existOk preClean postClean noScheduleIfExist retryFailed logFile".split(" ");
const MAP_OPTIONS = "processes concurrency ordered session permissions".split(" ");

/** Throws if one of the options is none. */
function checkNames(options: object, known: readonly string[], whose = ""): void {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const [unknown] = given.find(([name]) => !known.includes(name)) ?? [];
  if (unknown) throw new TypeError(`There is no option \`${unknown}\`${whose}`);
}

/** The numbers among the options, and the least that each may be. */
const LEAST = {
  processes: 1,
  tasksPerProcess: 1,
  concurrency: 1,
  maxCrashes: 1,
  retries: 0,
  maxFailures: 0,
  autokill: Number.MIN_VALUE,
  retryDelay: 0,
};

/** The options with their defaults; throws if one is out of range. */
function withDefaults(options: RunOptions, fewestProcesses = 1): Options {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const checked = {
    processes: navigator.hardwareConcurrency,
    autokill: Infinity,
    printErrors: false,
    tasksPerProcess: (options.concurrency ?? 1) > 1 ? Infinity : 1,
    concurrency: 1,
    retries: 0,
    retryDelay: 0,
    maxFailures: Infinity,
    maxCrashes: 3,
    permissions: options.permissions ?? (options.processes === 0 ? [ALL] : allPermissions()),
    session: undefined,
    ids: undefined,
    onOutput: undefined,
    signal: undefined,
    mayStart: undefined,
    ...Object.fromEntries(given),
  };
  checkNames(options, Object.keys(checked));
  if (options.signal && !(options.signal instanceof AbortSignal)) {
    throw new TypeError("Expected `signal` to be an AbortSignal");
  }
  for (const name of ["permissions", "ids"] as const) {
    if (checked[name] === undefined || Array.isArray(checked[name])) continue;
    throw new TypeError(`Expected \`${name}\` to be an array`);
  }
  if ((!deno || isCompiled) && !isUnlimited(checked.permissions)) {
    const why = deno
      ? "a compiled program runs with those of its own"
      : "only Deno has `permissions`";
    throw new TypeError(`Cannot limit what tasks may do: ${why}`);
  }
  for (const [name, least] of Object.entries({ ...LEAST, processes: fewestProcesses })) {
    checkNumber(name, (checked as Record<string, unknown>)[name], least);
  }
  return { ...checked, session: options.session && fileUrl(`${options.session}`) };
}

function checkNumber(name: string, value: unknown, least: number): void {
  const isWhole = name !== "autokill" && name !== "retryDelay"; // which are seconds
  const isNumber = typeof value === "number" && value >= least;
  if (isNumber && (!isWhole || value === Infinity || Number.isInteger(value))) return;
  const range = name === "autokill" ? "above 0" : `from ${least} up`;
  const found = `\`${value}\`${typeof value === "number" ? "" : ` (${typeof value})`}`;
  const kind = `a ${isWhole ? "whole " : ""}number ${range}`;
  throw new RangeError(`Expected \`${name}\` to be ${kind}, got ${found}`);
}

const ALL = "--allow-all";

/** Whether processes with these permissions may do everything. */
const isUnlimited = (permissions: string[]): boolean =>
  permissions.some((flag) => flag === "-A" || flag === ALL);

function allPermissions(): string[] {
  const kinds = ["read", "write", "net", "env", "run", "sys", "ffi", "import"];
  const isMissing = (name: string) => deno?.permissions.querySync({ name }).state !== "granted";
  const missing = deno && kinds.find(isMissing);
  if (!missing) return [ALL];
  const fix = "say with `permissions` what they may do, or start it with `--allow-all`";
  throw new TypeError(
    `Cannot give tasks all permissions, as this program lacks \`--allow-${missing}\`: ${fix}`,
  );
}

// -------------------------------------------------------------------------------------------- map

/** What `map` reads items from. */
export type Items<T> = Iterable<T> | AsyncIterable<T>;

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
  const given = rest.find((item) => !isSource(item)) as MapOptions | undefined;
  checkNames(given ?? {}, MAP_OPTIONS, " of `map`");
  const { ordered = true, ...options } = given ?? {};
  const checked = withDefaults({ ...options, tasksPerProcess: Infinity }, 0);
  see(call);
  return new MapRun(sources, ordered, checked).results(call) as AsyncGenerator<R, void, void>;
}

type Settled = { value: unknown } | { error: unknown };

/** A `map`: reads items a few milliseconds ahead, has a pool make the calls, and gives the results. */
class MapRun {
  readonly #options: Options;
  readonly #sources: Items<unknown>[];
  readonly #isOrdered: boolean;
  readonly #pool: Pool;
  readonly #finished = new Map<number, Settled>();
  #read = 0;
  #yielded = 0;
  #here = 0; // calls that run in this process
  #isRead = false;
  #isStopped = false;
  #wake = nothing;
  #makeRoom = nothing;

  constructor(sources: Items<unknown>[], isOrdered: boolean, options: Options) {
    this.#options = options;
    this.#sources = sources;
    this.#isOrdered = isOrdered;
    this.#pool = new Pool(options, 8, {
      changed: () => this.#makeRoom(),
      printed: (text, stream) => print(text, stream),
    });
  }

  results(call: Callable): AsyncGenerator<unknown, void, void> {
    const results = this.#results(call);
    return this.#options.processes ? guard(results, this.#pool, () => this.#stop()) : results;
  }

  async *#results(call: Callable): AsyncGenerator<unknown, void, void> {
    const source = zip(this.#sources);
    const reading = this.#readAll(call, source);
    reading.catch(nothing); // it is asked for its error below
    try {
      while (!this.#isRead || this.#yielded < this.#read) {
        const key = this.#isOrdered ? this.#yielded : this.#finished.keys().next().value;
        const result = this.#finished.get(key ?? -1);
        if (result) {
          this.#finished.delete(key!);
          this.#yielded++;
          this.#makeRoom();
          if ("error" in result) throw result.error;
          yield result.value;
        } else if (this.#isStopped) {
          throw new Error("Stopped by a signal, with items left to do");
        } else await new Promise<void>((resolve) => this.#wake = resolve);
      }
      await reading;
    } finally {
      this.#stop();
      source.return();
    }
  }

  /** Reads the items and has the calls made, as long as there is room for them and for their results. */
  async #readAll(call: Callable, source: AsyncGenerator<unknown[], void, void>): Promise<void> {
    const { processes, concurrency } = this.#options;
    const window = () => 4 * processes * Math.max(concurrency, this.#pool.depth) || concurrency;
    const isFull = () =>
      this.#read - this.#yielded >= window() ||
      (processes ? this.#pool.isFull : this.#here >= concurrency);
    try {
      const make = processes ? await this.#callElsewhere(call) : await this.#callHere(call);
      for await (const args of source) {
        while (isFull() && !this.#isStopped) {
          await new Promise<void>((resolve) => this.#makeRoom = resolve);
        }
        if (this.#isStopped) return;
        const key = this.#read++;
        make(args).then(
          (value) => this.#finished.set(key, { value }),
          (error) => this.#finished.set(key, { error }),
        ).then(() => this.#wake());
      }
    } finally {
      this.#isRead = true;
      this.#wake();
    }
  }

  async #callHere(call: Callable): Promise<(args: unknown[]) => Promise<unknown>> {
    const [owner, callee] = await load(globalName(call) ?? call);
    return async (args) => {
      this.#here++;
      try {
        return await apply(owner, callee, args);
      } finally {
        this.#here--;
        this.#makeRoom();
      }
    };
  }

  async #callElsewhere(call: Callable): Promise<(args: unknown[]) => Promise<unknown>> {
    const reference = await refer(call);
    const arrays = this.#sources.filter((source) => Array.isArray(source));
    const shortest = Math.min(...arrays.map(({ length }) => length));
    return async (args) => {
      this.#pool.left = shortest - this.#read;
      const step = { call: reference, args: encode(args, "item") as unknown[] };
      const told = await this.#pool.execute({ id: "", steps: [step] });
      if ("errorValue" in told) throw decode(told.errorValue);
      return decode(told.returnValue);
    };
  }

  #stop(): void {
    this.#isStopped = true;
    this.#pool.stop();
    this.#makeRoom();
    this.#wake();
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

// ------------------------------------------------------------------------------- the run of a list

type Timer = ReturnType<typeof setTimeout>;

/** The list that a run is about. */
interface List {
  directory: string;
  logFile: string | undefined;
  /** What is being scheduled. */
  pending: Set<Promise<unknown>>;
}

/**
 * The run of a list: it claims tasks (`fill`), has the pool execute them (`start`), files what came of them
 * (`conclude`, `fileAll`), and yields them. It works on while its consumer is busy.
 */
class ListRun {
  readonly #list: List;
  readonly #options: Options;
  readonly #owner = newOwner();
  readonly #pool: Pool;
  readonly #log: Log | undefined;
  readonly #claims = new Map<string, string>(); // the claimed tasks, and the texts of their files
  readonly #delays = new Set<Timer>(); // of retries that are not due yet
  #ids: Iterator<string> = [].values(); // of the last listing, those that are still to come
  #listed = 0; // how many tasks that had
  #left = 0; // how many of them are still to come
  #claimed = 0; // how many of them this run has claimed
  #fruitless = 0; // listings in a row of which it has claimed none
  #stride = 1; // how many to leave to another run, at most, if that was faster
  #next: string | undefined; // the next id, if it is taken from `ids` already
  #again: string[] = []; // to be retried
  #outcomes: Outcome[] = []; // to be filed
  #filing: Promise<void> | undefined;
  #finished: string[] = []; // paths, to be yielded
  #yielded = 0;
  #failures = 0;
  #total: number | undefined;
  #isRefused = false; // by `mayStart`
  #isStopped = false;
  #problem: { error: unknown } | undefined; // what ends the run
  #wake = nothing; // tells the consumer that something has changed

  constructor(list: List, options: Options) {
    this.#list = list;
    this.#options = options;
    this.#log = list.logFile === undefined ? undefined : new Log(list.logFile);
    this.#pool = new Pool(options, 50, {
      changed: () => this.#change(),
      begun: (id) => this.#try(() => this.#log?.event(id, "is started")),
      printed: (text, stream, ids) => this.#try(() => this.#print(text, stream, ids)),
    });
  }

  /** How many tasks there are: those that have finished, and those to come. */
  get total(): number {
    const { directory, pending } = this.#list;
    const count = () => pending.size + files.idsIn(directory, "todo").length;
    return this.#total ??= this.#options.ids?.length ?? count();
  }

  async *tasks(): Tasks<unknown> {
    const { pending } = this.#list;
    await Promise.allSettled(pending);
    const refresh = setInterval(() => files.refresh(this.#claims.keys()), files.lease() / 6);
    try {
      this.#log?.open();
      yield* guard(this.#finishedTasks(), this.#pool, () => this.#stop(), this.#options.signal);
    } finally {
      clearInterval(refresh);
      await this.#filing;
      this.#stop();
      this.#log?.close();
    }
    await Promise.allSettled(pending);
  }

  async *#finishedTasks(): Tasks<unknown> {
    const { maxFailures } = this.#options;
    const { directory, pending } = this.#list;
    while (true) {
      this.#try(() => this.#fill());
      const path = this.#finished.shift();
      if (path) {
        this.#yielded++;
        yield readTask(path);
      } else if (this.#problem) throw this.#problem.error;
      else if (this.#isStopped) return;
      else if (this.#pool.isBusy || this.#claims.size || this.#delays.size) {
        await new Promise<void>((resolve) => this.#wake = resolve);
      } else if (this.#failures > maxFailures) {
        const failures = `${this.#failures} failure${this.#failures === 1 ? "" : "s"}`;
        const left = `${files.idsIn(directory, "todo").length} tasks are left in \`todo\``;
        throw new Error(`Stopped after ${failures} (\`maxFailures: ${maxFailures}\`): ${left}`);
      } else if (this.#isOver()) return;
      else if (pending.size) await Promise.allSettled(pending);
      else if (!await this.#look()) return;
    }
  }

  /** Whether nothing more is to be started. */
  #isOver(): boolean {
    return this.#isStopped || this.#isRefused || this.#failures > this.#options.maxFailures;
  }

  /** Looks for tasks in `todo` and for those of dead runs; false if there are none. */
  async #look(): Promise<boolean> {
    const { directory } = this.#list;
    const { ids } = this.#options;
    const { claims, makers, isUnsure } = files.takeOver(directory, this.#owner);
    for (const maker of makers) killAll(`/${maker}.`);
    for (const claim of claims) this.#bury(claim);
    this.#fruitless = this.#claimed ? 0 : this.#fruitless + 1;
    const waits = (id: string) =>
      files.isFileName(id) && files.exists(`${directory}/todo/${id}.json`);
    const wanted = ids ? [...new Set(ids)].sort().filter(waits) : files.idsIn(directory, "todo");
    this.#ids = wanted[Symbol.iterator]();
    this.#listed = this.#left = wanted.length;
    this.#claimed = 0;
    this.#total = this.#yielded + claims.length + this.#listed;
    if (this.#listed && this.#fruitless > 3) this.#complain([...wanted].slice(0, 3));
    if (claims.length || this.#listed) return true;
    if (isUnsure) await sleep(Math.min(1000, files.lease() / 6));
    return isUnsure;
  }

  /** Ends the run, as there are files that it cannot claim, as often as it tries. */
  #complain(ids: string[]): void {
    const names = ids.map((id) => JSON.stringify(`${id}.json`)).join(", ");
    const fix = "their names are too long, or not in UTF-8: rename them";
    throw new Error(
      `Cannot run ${this.#listed} of the files in \`todo\`, such as ${names}: ${fix}`,
    );
  }

  /** Claims tasks and has them executed, as long as there is room. */
  #fill(): void {
    const { mayStart, maxFailures } = this.#options;
    while (this.#finished.length < 1000 && !this.#isOver()) {
      const id = this.#again[0] ?? (this.#next ??= this.#ids.next().value);
      // no more than may still fail, nor than its share of what is left
      this.#pool.left = Math.min(this.#left, 2 * (maxFailures - this.#failures));
      if (id === undefined) break;
      if (this.#pool.isFull || (mayStart && this.#filing)) return; // it is to see all outcomes
      this.#isRefused = mayStart ? !mayStart() : false;
      if (this.#isRefused) break;
      if (this.#again.length) this.#again.shift();
      else {
        this.#next = undefined;
        this.#left--;
      }
      const claim = this.#claim(id);
      if (claim) this.#start(claim, id);
    }
    this.#pool.endIdle();
  }

  #claim(id: string): string | undefined {
    const { directory } = this.#list;
    if (files.isTooLong(id, this.#owner)) return;
    const claim = files.claim(directory, id, this.#owner);
    if (!claim) this.#goOn();
    else if (files.exists(`${directory}/done/${id}.json`)) {
      files.remove(claim);
      this.#log?.event(id, "is dropped, as it is done already");
    } else {
      this.#claimed++;
      return claim;
    }
  }

  /**
   * Goes on somewhat further down, as another run is at work here: so each soon has a stretch of the list
   * to itself, and the order is roughly kept. What is left out is found when we look again.
   */
  #goOn(): void {
    this.#stride = Math.min(this.#stride * 2, 1024);
    const some = Math.floor(Math.random() * Math.min(this.#stride, this.#left));
    for (let skipped = 0; skipped < some; skipped++) this.#ids.next();
    this.#left -= some;
  }

  #start(claim: string, id: string): void {
    const text = files.readText(claim);
    this.#claims.set(claim, text);
    const execute = async () => {
      const steps = stepsOf(text, `${id}.json`);
      return await this.#pool.execute({ id, steps });
    };
    const failed = (error: unknown): Told => ({
      begin: Date.now(),
      runtime: 0,
      errorValue: encodeThrown(error),
    });
    execute().catch(failed).then((told) => this.#conclude(claim, resultOf(told)));
  }

  /** Counts the death of a run against a task that was in flight in it, as it may have been the cause. */
  #bury(claim: string): void {
    const { maxCrashes } = this.#options;
    const text = files.readText(claim);
    this.#claims.set(claim, text);
    const crashes = 1 + (Number(files.parseTask(text)?.["crashes"]) || 0);
    const message =
      `The run that this task was running in has died (${crashes} of \`maxCrashes\` times)`;
    const result = { crashes, errorValue: encodeThrown(errorOf(message)) };
    this.#conclude(claim, result, crashes < maxCrashes ? Infinity : 0);
  }

  /** Takes what came of a task, and sees to it that it is filed. */
  #conclude(claim: string, result: Result, retries = this.#options.retries): void {
    const text = this.#claims.get(claim);
    if (text === undefined) return; // the run has been stopped
    const outcome = files.outcomeOf(claim, text, result, retries);
    if (outcome.state === "fail") this.#failures++;
    this.#outcomes.push(outcome);
    this.#filing ??= this.#fileAll();
    this.#change();
  }

  /** Files outcomes, one batch after the other: those that come meanwhile are filed together. */
  async #fileAll(): Promise<void> {
    try {
      for (let batch; (batch = this.#outcomes.splice(0, 64)).length;) {
        await files.file(batch);
        for (const outcome of batch) this.#settled(outcome);
      }
    } catch (error) {
      this.#halt(error);
    }
    this.#filing = undefined;
    this.#change();
  }

  /** Handles a task that has an outcome in its place. */
  #settled({ claim, state, retried }: Outcome): void {
    const { id } = locate(claim);
    const isRetried = state === "todo";
    this.#claims.delete(claim);
    this.#log?.event(id, isRetried ? "has failed, and will be retried" : `is in \`${state}\``);
    if (isRetried) {
      const delay = retried && this.#options.retryDelay * 1000 * 2 ** (retried - 1);
      const timer = setTimeout(() => {
        this.#delays.delete(timer);
        this.#again.push(id);
        this.#change();
      }, Math.min(delay, LONGEST_TIMER));
      this.#delays.add(timer);
    } else if (state !== "running") {
      const path = `${this.#list.directory}/${state}/${id}.json`;
      if (state === "fail" && this.#options.printErrors) this.#printError(path, id);
      this.#finished.push(path);
    }
  }

  #print(text: string, stream: Stream, ids: string): void {
    this.#log?.printed(ids, text, stream);
    if (this.#options.onOutput) this.#options.onOutput(text, stream, ids);
    else if (!this.#log) print(text, stream);
  }

  #printError(path: string, id: string): void {
    const stack = stackOf(readTask(path).errorValue);
    if (this.#log) this.#log.write(id, stack, "  ");
    else print(`${id}: ${stack}\n`, "stderr");
  }

  #change(): void {
    this.#try(() => this.#fill());
    this.#wake();
  }

  #try(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#halt(error);
    }
  }

  /** Ends the run with an error. */
  #halt(error: unknown): void {
    this.#problem ??= { error };
    this.#isStopped = true;
    this.#wake();
  }

  /** Kills what runs, and puts back all claims, at once: no call in here is asynchronous. */
  #stop(): void {
    this.#isStopped = true;
    this.#pool.stop();
    for (const timer of this.#delays) clearTimeout(timer);
    for (const claim of this.#claims.keys()) this.#try(() => void files.putBack(claim));
    this.#claims.clear();
    this.#wake();
  }
}

/** What a runner has told of a task, as its file is to say it. */
function resultOf({ begin, runtime, ...result }: Told): Result {
  const started = new Date(begin).toISOString();
  return { started, runtime: Math.round(runtime * 1000) / 1e6, ...result } as Result;
}

/** The stack of an error and of its causes. */
function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return `${error}`;
  const cause = error.cause === undefined ? "" : `\nCaused by: ${stackOf(error.cause)}`;
  return `${error.stack}${cause}`;
}

/** The log of a run: a line for each event, and for each line that a task prints. */
class Log {
  readonly #path: string;
  readonly #begun = new Map<string, string>(); // lines that are not whole yet, by stream and ids
  #file: number | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  open(): void {
    this.#file = files.openLog(this.#path);
  }

  /** Takes what tasks have printed, and writes the lines that are whole. */
  printed(ids: string, text: string, stream: Stream): void {
    const key = `${stream} ${ids}`;
    const whole = (this.#begun.get(key) ?? "") + text;
    const end = whole.length > 1e6
      ? whole.length
      : text.includes("\n")
      ? whole.lastIndexOf("\n") + 1
      : 0;
    this.write(ids, whole.slice(0, end), "| ");
    if (end < whole.length) this.#begun.set(key, whole.slice(end));
    else this.#begun.delete(key);
  }

  /** Writes what has happened to a task, after what it has printed. */
  event(id: string, text: string): void {
    this.#flush(id);
    this.write(id, text);
  }

  /** Writes the lines that are not whole: those of a task, or of all. */
  #flush(id?: string): void {
    for (const [key, text] of this.#begun) {
      const ids = key.slice(key.indexOf(" ") + 1);
      if (id !== undefined && !ids.split(",").includes(id)) continue;
      this.#begun.delete(key);
      this.write(ids, text, "| ");
    }
  }

  write(id: string, text: string, mark = ""): void {
    if (text && this.#file !== undefined) files.log(this.#file, id, text, mark);
  }

  close(): void {
    this.#flush();
    if (this.#file !== undefined) files.close(this.#file);
    this.#file = undefined;
  }
}

// ------------------------------------------------------------------------------------------- the pool

/** What a pool is to have done: the steps of a task, and the id by which its output is told. */
interface Work {
  id: string;
  steps: Step[];
}

/** Work with what it takes to give it to a runner, and to say what came of it. */
interface Job extends Work {
  order: string; // JSON, without its nonce
  kind: string; // of the runners that may do it; empty, if it is to have one of its own
  resolve(told: Told): void;
}

/** A job that a runner has. */
interface Held {
  job: Job;
  parts: string[]; // of a long answer
  begun?: number; // in milliseconds
  timer?: Timer; // until it must have been answered
}

/** A process that the pool has started. */
interface Runner {
  kind: string;
  child: Child;
  held: Map<string, Held>; // by their nonces, in the order in which they were given
  given: number; // how many jobs it ever got, and
  begun: number; // how many of them it has begun
  lastId: string;
  unsent: string; // orders of this turn of the event loop
  marker: string; // what the environment of all its descendants contains
  isEnding: boolean; // it gets nothing more
  isKilled: boolean;
  overdue?: Held; // what it was killed for
  printed: string; // the end of it
  limit?: Timer; // until it must have ended
}

/** What a pool tells its owner. */
interface Listener {
  /** There is room, or a runner has ended. */
  changed(): void;
  /** A runner has begun a task. */
  begun?(id: string): void;
  /** A runner has printed something, for one of the tasks with these ids. */
  printed(text: string, stream: Stream, ids: string): void;
}

/** Runners, and what they are to do. The rest of this program sees `execute`, and what came of it. */
class Pool {
  readonly owner = newOwner();
  /** How much work is still to come, as far as that is known: near the end it is shared out. */
  left = Infinity;
  readonly #options: Options;
  readonly #ahead: number; // milliseconds of work that a runner is given beyond what it works on
  readonly #listener: Listener;
  readonly #queue: Job[] = [];
  readonly #runners = new Set<Runner>();
  #started = 0;
  #answered = 0;
  #firstAnswer = 0; // when it came, in milliseconds
  #isStopped = false;

  constructor(options: Options, ahead: number, listener: Listener) {
    this.#options = options;
    this.#ahead = ahead;
    this.#listener = listener;
  }

  /** Has work done; resolves with what came of it, be it the death of its runner. */
  execute({ id, steps }: Work): Promise<Told> {
    const { session, concurrency, autokill } = this.#options;
    const isShared = this.#isShared(steps);
    const timeout = concurrency > 1 && autokill * 1000 <= LONGEST_TIMER
      ? { timeout: autokill * 1000 }
      : {};
    const order = JSON.stringify({
      steps,
      ...(session ? { session } : {}),
      ...(isShared && concurrency > 1 ? { concurrency, ...timeout } : {}),
    });
    return new Promise((resolve) => {
      const kind = isShared ? `shared ${projectOf(steps)}` : "";
      this.#queue.push({ id, steps, order, kind, resolve });
      this.#place();
    });
  }

  /** Whether work may share a runner: a program may always, as it is a process of its own. */
  #isShared([step, ...others]: Step[]): boolean {
    return this.#options.tasksPerProcess > 1 || (step?.call === COMMAND && !others.length);
  }

  /** Whether work would have to wait here. */
  get isFull(): boolean {
    const { processes } = this.#options;
    if (this.#queue.length) return true;
    return this.#running() >= processes && !this.#leastBusy()?.isFree;
  }

  /** Whether there is work, or a process that has not ended yet. */
  get isBusy(): boolean {
    return this.#runners.size > 0 || this.#queue.length > 0;
  }

  /** How many jobs a runner does while it is not given others: so many are given ahead. */
  get depth(): number {
    // the first answer says nothing of how long a job takes: the next ones do
    const passed = Math.max(1, performance.now() - this.#firstAnswer);
    const perMillisecond = Math.max(0, this.#answered - 1) / passed;
    return Math.min(128, Math.floor(this.#ahead * perMillisecond / this.#options.processes));
  }

  /** Gives jobs to runners, as long as there is room. */
  #place(): void {
    for (let job; (job = this.#queue[0]) && !this.#isStopped;) {
      const { runner, isFree } = this.#leastBusy(job.kind) ?? {};
      const hasPlace = this.#running() < this.#options.processes;
      const isIdle = runner && !runner.held.size;
      if (runner && (isIdle || (isFree && !hasPlace))) this.#give(runner, job);
      else if (hasPlace || this.#endOther()) this.#start(job);
      else return;
      this.#queue.shift();
    }
  }

  /** Ends a runner of another kind that has nothing to do, and holds a place; false if there is none. */
  #endOther(): boolean {
    const idle = [...this.#runners].find((runner) => !runner.isEnding && !runner.held.size);
    if (idle) this.#end(idle);
    return idle !== undefined;
  }

  /** The runner that has the least to do, and whether it has room for more. */
  #leastBusy(kind?: string): { runner: Runner; isFree: boolean } | undefined {
    const { concurrency, processes } = this.#options;
    const usable = [...this.#runners].filter((runner) =>
      !runner.isEnding && (kind === undefined || runner.kind === kind)
    );
    const [runner] = usable.sort((a, b) => a.held.size - b.held.size);
    if (!runner) return;
    // more than it works on only if it works them off one by one, and no more than its share of the rest
    const ahead = Math.min(this.depth, Math.floor(this.left / processes / 2));
    const room = concurrency > 1 ? concurrency : Math.max(1, ahead);
    return { runner, isFree: runner.held.size < room };
  }

  /** How many processes have work, or may get some. */
  #running(): number {
    const isRunning = (runner: Runner) => !runner.isEnding || runner.held.size > 0;
    return [...this.#runners].filter(isRunning).length;
  }

  /** Starts a runner for a job; if it gets no other, it has its order with the start, which is faster. */
  #start(job: Job): void {
    const { permissions } = this.#options;
    const marker = `/${this.owner}.${this.#started++}/`;
    const nonce = crypto.randomUUID();
    const order = withNonce(job.order, nonce);
    const isSingle = !job.kind && isUnlimited(permissions) && fitsVariable(order);
    const command = runnerCommand(permissions, job.steps, !isSingle);
    const env = {
      FORREST_TASKS: environment("FORREST_TASKS") + marker,
      ...(isSingle ? { [ORDER]: order } : {}),
    };
    const runner: Runner = {
      kind: job.kind,
      marker,
      child: spawnGroup(command, { env, hasInput: !isSingle }),
      held: new Map(),
      given: 0,
      begun: 0,
      lastId: "",
      unsent: "",
      printed: "",
      isEnding: isSingle,
      isKilled: false,
    };
    this.#runners.add(runner);
    this.#watch(runner);
    if (isSingle) this.#hold(runner, nonce, job);
    else this.#give(runner, job);
  }

  #give(runner: Runner, job: Job): void {
    const nonce = crypto.randomUUID();
    this.#hold(runner, nonce, job);
    this.#send(runner, withNonce(job.order, nonce));
    if (!job.kind || runner.given >= this.#options.tasksPerProcess) this.#end(runner);
  }

  #hold(runner: Runner, nonce: string, job: Job): void {
    runner.given++;
    runner.lastId = job.id;
    runner.held.set(nonce, { job, parts: [] });
    this.#begin(runner);
  }

  /** Sends an order: at once to a runner that has nothing else to do, or else with others of this turn. */
  #send(runner: Runner, order: string): void {
    const isFirst = !runner.unsent;
    runner.unsent += `${order}\n`;
    if (runner.held.size === 1) this.#flush(runner);
    else if (isFirst) setTimeout(() => this.#flush(runner));
  }

  #flush(runner: Runner): void {
    if (runner.unsent && !runner.isKilled) runner.child.write(runner.unsent);
    runner.unsent = "";
  }

  /** Notes at which jobs a runner is by now, and sees to it that they do not take too long. */
  #begin(runner: Runner): void {
    const { concurrency, autokill } = this.#options;
    const isCompany = runner.kind !== "" && concurrency > 1;
    const grace = isCompany ? 500 : 0; // in which the runner may say itself that a task takes too long
    for (const held of [...runner.held.values()].slice(0, isCompany ? concurrency : 1)) {
      if (held.begun) continue;
      held.begun = Date.now();
      runner.begun++;
      this.#listener.begun?.(held.job.id);
      const limit = autokill * 1000 + grace;
      if (limit > LONGEST_TIMER) continue;
      const kill = () => this.#expire(runner, held);
      held.timer = setTimeout(() => {
        // if we were stopped meanwhile, as by Ctrl-Z, its answer may have arrived already
        if (Date.now() - held.begun! - limit > 500) held.timer = setTimeout(kill, 500);
        else kill();
      }, limit);
    }
  }

  #expire(runner: Runner, held: Held): void {
    runner.overdue = held;
    killAll(runner.marker); // first, as this finds others by their parents
    this.#kill(runner);
  }

  #kill(runner: Runner): void {
    runner.isEnding = runner.isKilled = true;
    for (const { timer } of runner.held.values()) clearTimeout(timer);
    killGroup(runner.child.pid);
    try {
      runner.child.kill(); // as it may not lead its group yet
    } catch { /* it has ended */ }
  }

  /** Lets a runner end when it has done what it has. */
  #end(runner: Runner): void {
    if (!runner.isEnding) {
      this.#flush(runner);
      runner.child.close();
    }
    runner.isEnding = true;
    this.#limit(runner);
  }

  /** Kills a runner that has nothing left to do, and does not end: what a task has left may block it. */
  #limit(runner: Runner): void {
    if (!runner.isEnding || runner.held.size) return;
    runner.limit ??= setTimeout(() => this.#kill(runner), 5000);
  }

  /** Lets all runners end that have nothing to do, as there is nothing to give them. */
  endIdle(): void {
    for (const runner of this.#runners) if (!runner.held.size) this.#end(runner);
  }

  /** Waits for the end of a runner, and for what it prints until then. */
  async #watch(runner: Runner): Promise<void> {
    const { child } = runner;
    const output = this.#read(runner, "stdout").finally(() => this.#end(runner)); // it can answer no more
    const errors = this.#read(runner, "stderr");
    const ended = await child.ended;
    killGroup(child.pid); // what its tasks have left running
    await Promise.all([output, errors]);
    if (isEndOfJob(ended) && !runner.isKilled) await sleep(500); // as this process may be to end, too
    clearTimeout(runner.limit);
    this.#runners.delete(runner);
    this.#lose(runner, deathOf("The process of this task", ended, runner.printed));
    this.#changed();
  }

  /** Reads what a runner prints: between what its tasks print, there are its answers. */
  async #read(runner: Runner, stream: Stream): Promise<void> {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    let text = "";
    await collect(runner.child[stream], runner.child.ended, (chunk) => {
      text += decoder.decode(chunk, { stream: true });
      const isAnswers = stream === "stdout";
      for (let end; isAnswers && (end = text.indexOf("\n", text.indexOf("\x1e"))) >= 0;) {
        const begin = text.lastIndexOf("\x1e", end);
        if (begin < 0) break;
        this.#print(runner, text.slice(0, begin), stream);
        const isAnswer = this.#answer(runner, text.slice(begin + 1, end));
        if (!isAnswer) this.#print(runner, text.slice(begin, end + 1), stream);
        text = text.slice(end + 1);
      }
      const begin = isAnswers ? text.indexOf("\x1e") : -1;
      const isBegun = begin >= 0 && text.length - begin < 5000; // an answer has shorter lines
      this.#print(runner, isBegun ? text.slice(0, begin) : text, stream);
      text = isBegun ? text.slice(begin) : "";
    });
    this.#print(runner, runner.isKilled ? "" : text, stream);
  }

  #print(runner: Runner, text: string, stream: Stream): void {
    if (!text) return;
    runner.printed = (runner.printed + text).slice(-2000);
    const begun = [...runner.held.values()].filter((held) => held.begun);
    const ids = begun.length ? begun.map(({ job }) => job.id).join(",") : runner.lastId;
    this.#listener.printed(text, stream, ids);
  }

  /** Takes an answer, or a part of it; false if it is none, but something that a task has printed. */
  #answer(runner: Runner, line: string): boolean {
    const nonce = line.slice(0, NONCE);
    const held = runner.held.get(nonce);
    if (!held) return false;
    if (runner.isKilled) return true; // its answers are for nobody
    const [head, size, end] = /^ (\d+)([+.])/.exec(line.slice(NONCE, NONCE + 8)) ?? [""];
    const part = line.slice(NONCE + head.length);
    held.parts.push(part);
    if (part.length !== Number(size)) {
      this.#settle(runner, nonce, { errorValue: encodeThrown(TORN) });
    } else if (end === ".") this.#settle(runner, nonce, JSON.parse(held.parts.join("")));
    return true;
  }

  #settle(runner: Runner, nonce: string, result: object): void {
    const { job, timer, begun = Date.now() } = runner.held.get(nonce)!;
    clearTimeout(timer);
    runner.held.delete(nonce);
    if (!this.#answered++) this.#firstAnswer = performance.now();
    const isOverdue = "isOverdue" in result;
    if (isOverdue) this.#end(runner); // after the others: the task is still at work in there
    const told = { begin: begun, runtime: Date.now() - begun, ...result };
    job.resolve((isOverdue ? { ...told, errorValue: this.#timeout() } : told) as Told);
    this.#begin(runner);
    this.#limit(runner);
    this.#changed();
  }

  /** Sees to what a dead runner has held. */
  #lose(runner: Runner, death: Error): void {
    if (this.#isStopped) return;
    const held = [...runner.held].reverse();
    const company = held.filter(([, { begun }]) => begun).length;
    for (const [nonce, { job, begun, timer }] of held) {
      clearTimeout(timer);
      const isOverdue = runner.overdue === runner.held.get(nonce);
      const isToBlame = begun && company === 1 &&
        (isOverdue || (runner.begun === 1 && !runner.isKilled));
      if (isToBlame) {
        const errorValue = isOverdue ? this.#timeout() : encodeThrown(death);
        job.resolve({ begin: begun, runtime: Date.now() - begun, errorValue });
      } else { // who dies in company runs again alone, who only waited, with others
        this.#queue.unshift({ ...job, kind: begun ? "" : job.kind });
      }
    }
  }

  #timeout(): unknown {
    const { autokill } = this.#options;
    const message = `The task was killed after ${autokill} s, as \`autokill\` says`;
    return encodeThrown(errorOf(message, { name: "TimeoutError" }));
  }

  #changed(): void {
    this.#place();
    this.#listener.changed();
  }

  /** Kills all that runs, at once: no call in here is asynchronous. */
  stop(): void {
    this.#isStopped = true;
    if (this.#runners.size) killAll(`/${this.owner}.`);
    for (const runner of this.#runners) this.#kill(runner);
  }
}

/** Marks that an order is answered by a process that had it, as no other knows this. */
const withNonce = (order: string, nonce: string): string => `{"nonce":"${nonce}",${order.slice(1)}`;
const NONCE = crypto.randomUUID().length;

const TORN = errorOf(
  "What this gave was lost, as something else printed to the standard output of its process " +
    "meanwhile: let that write to a file",
);

/** Whether the system takes a text as a variable. */
const fitsVariable = (text: string): boolean =>
  text.length < 100_000 && new TextEncoder().encode(text).length < 100_000;

// ------------------------------------------------------------------------------ how runners are started

/** The command of a runner. */
function runnerCommand(permissions: string[], steps: Step[], hasInput: boolean): string[] {
  const program = deno ? deno.execPath() : nodeProcess().execPath;
  const command = isCompiled
    ? [program, WORD]
    : deno
    ? [program, ...denoArgs(permissions, steps)]
    : [program, "-e", `import.meta.require(${quote(pathOf(RUNNER))});${CALL}`];
  // its orders come by another descriptor, so that no task reads them from its standard input
  const isApart = hasInput && isUnlimited(permissions);
  return isApart ? ["sh", "-c", 'exec "$@" 3<&0 </dev/null', "sh", ...command] : command;
}

const CALL = `globalThis[Symbol.for("${SERVE}")]()`;

/**
 * Deno takes import map, packages and lock file from beside its main module, so it is given one that would
 * lie in the task's project. It never gets there, as the runner exits in the preloaded module; that waits
 * for the runner, and is no module of ours, as task modules import them.
 */
function denoArgs(permissions: string[], steps: Step[]): string[] {
  // a module that a preloaded one could import by a literal name needs no permission to be read
  const modules = isUnlimited(permissions) ? [] : new Set(steps.flatMap(moduleOf));
  const imports = [...modules].map((module) => `() => import(${quote(module)})`);
  const code = [`import ${quote(RUNNER)}`, ...imports, `await ${CALL}`].join(";");
  const preload = `data:text/javascript,${encodeURIComponent(code)}`;
  const main = `${projectOf(steps)}forrest-runner.js`;
  return ["run", ...permissions, "--no-prompt", "--preload", preload, main];
}

const moduleOf = ({ call }: Step): string[] =>
  typeof call === "string" && call.includes("#") ? [call.slice(0, call.lastIndexOf("#"))] : [];

/** The folder in which Deno is to look for the configuration of a task; no other runtime is told. */
function projectOf(steps: Step[]): string {
  if (!deno) return "";
  const module = steps.flatMap(moduleOf).find((url) => url.startsWith("file:")) ?? deno.mainModule;
  try {
    if (module.startsWith("file:")) return pathOf(new URL(".", module).href);
  } catch { /* the task will fail, and say why */ }
  return `${cwd()}/`;
}

/** A text as a literal in ASCII, as Bun takes code that it need not transpile for Latin-1. */
function quote(text: string): string {
  const escape = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(/[^ -~]/g, escape);
}

/** Starts a program in a process group of its own. */
function spawnGroup(command: string[], options: Parameters<typeof spawn>[1]): Child {
  // for `detached`, Deno copies its page tables, and stands still for 3 ms
  hasSetsid ??= deno !== undefined && files.exists("/usr/bin/setsid");
  if (hasSetsid) return spawn(["/usr/bin/setsid", "--", ...command], options);
  return spawn(command, { ...options, detached: true });
}

let hasSetsid: boolean | undefined;

/** Kills a process and all that it has started and that has not left its group. */
function killGroup(pid: number): void {
  try {
    nodeProcess().kill(-pid, "SIGKILL");
  } catch { /* none of it is left */ }
}

/** Kills every process with $0 in its environment, and all that descend from these, until there is none. */
const KILL = `for i in $(seq 100); do
  marked=$(grep -lsFe "$0" /proc/[0-9]*/environ | cut -d/ -f3 | tr "\n" " ")
  all=$(cat /proc/[0-9]*/stat 2> /dev/null | sed "s/(.*)//" | awk -v marked="$marked" '
    BEGIN { split(marked, pids); for (i in pids) found[pids[i]] = 1 }
    $2 != "Z" { parent[$1] = $3 }
    END { for (pid in parent) for (p = pid; p > 1; p = parent[p]) if (p in found) { print pid; break } }
  ') || all=$marked
  [ "$all" ] || break
  kill -9 $all 2> /dev/null
  sleep 0.02
done`;

function killAll(mark: string): void {
  const { spawnSync } = nodeProcess().getBuiltinModule("node:child_process");
  spawnSync("sh", ["-c", KILL, mark]);
}

// ---------------------------------------------------------------------------- how the program ends

const LONGEST_TIMER = 2 ** 31 - 1; // milliseconds
const nothing = (): void => {};

/**
 * Hands on results; whatever becomes of this program, nothing that the pool has started outlives it: not its
 * end, for which `stop` is called, nor its death, for which another process waits.
 */
async function* guard<R>(
  results: AsyncGenerator<R, void, void>,
  pool: Pool,
  stop: () => void,
  signal?: AbortSignal,
): AsyncGenerator<R, void, void> {
  // Deno kills its children if this program ends with an error, but not theirs
  const wait = `cat > /dev/null; ${KILL}`;
  const script = deno ? `exec 3<&0; { exec <&3; ${wait}; } &` : wait;
  const watchdog = spawnGroup(["sh", "-c", script, `/${pool.owner}.`], { hasInput: true });
  for (const output of [watchdog.stdout, watchdog.stderr]) output.cancel().catch(nothing);
  const isEnding = { value: false };
  const release = beforeEnd(stop, isEnding, signal);
  if (signal?.aborted) stop();
  try {
    yield* results;
  } finally {
    pool.stop();
    if (isEnding.value) await new Promise(nothing); // nothing after the loop is to run
    release();
    watchdog.close(); // which the system does if this process dies
  }
}

/** Calls `stop` before the program ends, be it by a signal, which then does what it does. */
function beforeEnd(
  stop: () => void,
  isEnding: { value: boolean },
  signal?: AbortSignal,
): () => void {
  const undo: (() => void)[] = [];
  const release = () => undo.splice(0).forEach((remove) => remove());
  if (deno) {
    globalThis.addEventListener("unload", stop);
    undo.push(() => globalThis.removeEventListener("unload", stop));
  } else {
    nodeProcess().on("exit", stop);
    undo.push(() => nodeProcess().off("exit", stop));
  }
  signal?.addEventListener("abort", stop);
  undo.push(() => signal?.removeEventListener("abort", stop));
  const names = signal ? [] : ["SIGHUP", "SIGINT", "SIGTERM"] as const;
  for (const name of names) {
    const isHandled = handlerOf(name);
    undo.push(listen(name, () => {
      stop();
      release();
      if (isHandled()) return;
      isEnding.value = true;
      const { pid, kill, exit } = nodeProcess();
      kill(pid, name);
      setTimeout(() => exit(128 + NUMBERS[name]), 500); // process 1 of a container survives that
    }));
  }
  return release;
}

const NUMBERS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 };
type Ending = keyof typeof NUMBERS;

/**
 * Listens to a signal that ends programs, unless this program was started so that it ignores that, as by
 * `nohup`. Gives what ends the listening.
 *
 * @example
 * ```ts
 * import { listen } from "jsr:@x/forrest";
 *
 * const release = listen("SIGTERM", () => console.log("told to end"));
 * release();
 * ```
 */
export function listen(signal: string, listener: () => void): () => void {
  const process = nodeProcess();
  if (isNoted("SigIgn", signal)) {
    // as soon as Deno listens to one signal, it ends by any other that nobody listens to
    if (deno) process.on(signal, nothing);
    return nothing;
  }
  process.on(signal, listener);
  return () => void process.off(signal, listener);
}

let status: string | undefined; // of this process, before we began to listen: what Deno catches, it always does

/** Whether the system has noted a signal as one that is ignored (`SigIgn`) or caught (`SigCgt`). */
function isNoted(mask: "SigIgn" | "SigCgt", name: string): boolean {
  try {
    status ??= files.readText("/proc/self/status");
  } catch {
    status = ""; // not on Linux, or not permitted: then it is neither, as far as we know
  }
  const digits = new RegExp(`${mask}:\\s*(\\w+)`).exec(status)?.[1]?.slice(-8) ?? "0";
  const number = NUMBERS[name as Ending] ?? 0;
  return number > 0 && (Number.parseInt(digits, 16) >> (number - 1) & 1) === 1;
}

/** Whether the program itself handles a signal; on Deno, whether it did when this was first asked. */
function handlerOf(name: Ending): () => boolean {
  const isCaught = isNoted("SigCgt", name);
  return deno ? () => isCaught : () => nodeProcess().listenerCount(name) > 0;
}

function environment(name: string): string {
  try {
    return nodeProcess().env[name] ?? "";
  } catch {
    return ""; // Deno does not permit to look
  }
}
// -------------------------------------------------------------------------------- which function is it?

/** How a task file names a function: the name of a global, `MODULE#EXPORT`, or its text. */
type Name = string | { source: string };

const known = new WeakMap<Callable, Promise<Name>>();
const stacks = new WeakMap<Callable, string>(); // of where each function was first seen

/** Notes from where a function is known, if it is seen for the first time: a stack takes 20 µs. */
function see(call: Callable): void {
  if (stacks.has(call)) return;
  const { stackTraceLimit, prepareStackTrace } = Error;
  Object.assign(Error, { stackTraceLimit: 100, prepareStackTrace: undefined }); // whatever the program wants
  stacks.set(call, new Error().stack ?? "");
  Object.assign(Error, { stackTraceLimit, prepareStackTrace });
}

/** Says how a runner finds a function. */
function refer(call: Callable): Promise<Name> {
  see(call);
  if (!known.has(call)) known.set(call, findName(call, stacks.get(call)!));
  return known.get(call)!;
}

async function findName(call: Callable, stack: string): Promise<Name> {
  const name = globalName(call) ?? await findExport(call, modulesOn(stack)) ??
    globalName(call, ["Buffer", "Response", "Deno", "Bun"]); // which are loaded when they are first read
  if (name) return name;
  const source = Function.prototype.toString.call(call);
  try {
    compile(source);
  } catch {
    const fix = "wrap it in an arrow function or export it from a module";
    throw new TypeError(
      `Cannot schedule the function \`${call.name || "(anonymous)"}\`, as its text cannot stand ` +
        `alone (it is native, bound, or a method): ${fix}`,
    );
  }
  return { source };
}

/** The name of a function that is global, or that a global object has, unless that means another by now. */
function globalName(call: Callable, owners?: string[]): string | undefined {
  const { name } = call;
  const here = globalThis as unknown as Record<string, unknown>;
  const own = (object: unknown, key: string) =>
    Object.getOwnPropertyDescriptor(Object(object), key)?.value; // which calls no getter
  if (name && Object.hasOwn(here, name) && here[name] === call) return name;
  const isOwner = (owner: string) => {
    const value = owners ? here[owner] : own(here, owner);
    return value !== here && own(value, name) === call;
  };
  const owner = name && (owners ?? Object.getOwnPropertyNames(here)).find(isOwner);
  return owner ? `${owner}.${name}` : undefined;
}

const mainModule = (): string => deno ? deno.mainModule : fileUrl(bun!.main);

/** The modules on a stack, but for ours, and then the main module. */
function modulesOn(stack: string): string[] {
  const frames = stack.matchAll(/((?:file:|https?:|[A-Z]:\\|\/)[^\n]*?):\d+:\d+\)?$/gm);
  const urls = [...frames].map(([, place = ""]) => fileUrl(place));
  return [...urls.filter((url) => !isOurs(url)), mainModule()];
}

const isOurs = (url: string): boolean => url === import.meta.url || url === RUNNER;

/** Finds a function among the exports of modules, and of those that they import. */
async function findExport(call: Callable, urls: string[]): Promise<string | undefined> {
  const places = new Set(urls);
  for (const url of places) { // which also visits what is added meanwhile
    modules.set(url, modules.get(url) ?? lookInto(url));
    const { functions, imports } = await modules.get(url)!;
    const found = functions.get(call) ??
      (url === mainModule() ? exportOfMain(call, url) : undefined);
    if (found) return found;
    for (const other of imports) if (!isOurs(other)) places.add(other);
  }
}

/** What is known of a module: the names of the functions that it exports, and from where it imports. */
interface Module {
  functions: Map<unknown, string>;
  imports: string[];
}

const modules = new Map<string, Promise<Module>>();

async function lookInto(url: string): Promise<Module> {
  const functions = new Map<unknown, string>();
  const exports = url === mainModule() ? {} : await exportsOf(url); // which cannot be imported while it runs
  for (const [name, value] of Object.entries(exports)) {
    const isName = typeof value === "function" && name !== "module.exports"; // which only Deno knows
    if (isName) functions.set(value, `${url}#${name}`);
  }
  const isPackage = url.includes("/node_modules/"); // where nobody schedules from the inside
  const specifiers = isPackage ? [] : importsIn(codeOf(url) ?? textOf(url));
  return { functions, imports: specifiers.map((specifier) => resolve(specifier, url)) };
}

/** What a module exports that the program has loaded; nothing, if it is still being evaluated. */
async function exportsOf(url: string): Promise<Record<string, unknown>> {
  let timer: Timer | undefined;
  const late = new Promise<object>((resolve) => timer = setTimeout(() => resolve({}), 1000));
  const exports = await Promise.race([import(url), late]).catch(() => ({}));
  clearTimeout(timer);
  return exports;
}

function textOf(url: string): string {
  try {
    return url.startsWith("file:") ? files.readText(pathOf(url)) : "";
  } catch {
    return ""; // it is gone, or is no file
  }
}

/** A module as the runtime runs it: without types, and without imports of types; undefined if nobody knows. */
function codeOf(url: string): string | undefined {
  const loader = /\.[cm]?([jt]sx?)$/.exec(url)?.[1] ?? "ts";
  const options = { loader, target: "bun", inline: true, minify: { syntax: true } };
  try {
    if (bun) return new bun.Transpiler(options).transformSync(textOf(url));
    if (loader.startsWith("js")) return textOf(url);
    const { stripTypeScriptTypes } = nodeProcess().getBuiltinModule("node:module") as unknown as {
      stripTypeScriptTypes(text: string, options: { mode: string }): string;
    };
    return stripTypeScriptTypes(textOf(url), { mode: "transform" });
  } catch {
    return undefined;
  }
}

/** From where a module imports, up to its first other statement: what looks like an import there may be text. */
function importsIn(code: string): string[] {
  const lexeme = /"[^"\n]*"|'[^'\n]*'|\/\*.*?\*\/|\/\/[^\n]*|^#![^\n]*/gs;
  const plain = code.replace(lexeme, (found) => /^[/#]/.test(found) ? " " : found); // without comments
  const statement =
    /[\s;]*(?:(["'])use \w+\1|(?:im|ex)port\b\s*(?:[^"'()=]*?\bfrom\b)?\s*(["'])(.*?)\2(?:\s*with\s*\{[^}]*\})?)/sy;
  const found: string[] = [];
  for (let match; (match = statement.exec(plain));) if (match[3]) found.push(match[3]);
  return found;
}

function resolve(specifier: string, base: string): string {
  if (/^\.{0,2}\//.test(specifier)) return new URL(specifier, base).href;
  const ways = [
    () => import.meta.resolve(specifier), // by an import map
    () => nodeProcess().getBuiltinModule("node:module").createRequire(base).resolve(specifier),
  ];
  if (bun) ways.unshift(() => bun!.resolveSync(specifier, pathOf(new URL(".", base).href)));
  for (const way of ways) {
    try {
      return fileUrl(way());
    } catch { /* then in the next way */ }
  }
  return specifier;
}

/** The name of a function that the main module exports: it is known by its name and its text. */
function exportOfMain(call: Callable, url: string): string | undefined {
  const code = codeOf(url) ?? textOf(url);
  const [, alias] = exportsIn(code).find(([name]) => name === call.name) ?? [];
  if (alias === undefined) return;
  const text = Function.prototype.toString.call(call);
  const isDeclared = /^(?:async\s+)?(?:function|class)\b\s*\*?\s*[\p{ID_Start}$_]/u.test(text);
  const declaration = isDeclared
    ? text
    : `${call.name === "default" ? "export default" : `${call.name} =`} ${text}`;
  const name = call.name.replaceAll("$", "\\$");
  const same = new RegExp(
    `\\b(?:function|class|const|let|var)\\b\\s*\\*?\\s*${name}(?![\\p{ID_Continue}$])`,
    "gu",
  );
  const isUnclear = codeOf(url) === undefined || (code.match(same)?.length ?? 0) > 1;
  if (!isUnclear && !code.includes(declaration)) return; // another function has its name
  const fix = "give it a name of its own, or move it to a module";
  if (isUnclear) {
    throw new TypeError(`Cannot tell which \`${call.name}\` of \`${url}\` this is: ${fix}`);
  }
  if (GUARDS.test(textOf(url))) return `${url}#${alias}`;
  throw new TypeError(
    `Cannot run \`${call.name}\` in another process, which would start \`${url}\` again: ${GUARD}`,
  );
}

/** The ways in which a script asks whether it is the program. */
const GUARDS =
  /\bimport\.meta\.main\b|\bmain\b[^\n;]*=\s*import\.meta\b|\brequire\.main\b|\bBun\.main\b|\bmainModule\b|\bargv\[1\]/;

/** The names of what a script exports, and the names by which it does. */
function exportsIn(code: string): [name: string, alias: string][] {
  const NAME = "[\\p{ID_Start}$_][\\p{ID_Continue}$]*";
  const found: [string, string][] = [];
  const find = (pattern: string) => code.matchAll(new RegExp(`^export\\s*${pattern}`, "gmu"));
  const keyword = "(?:async\\s+)?(?:function\\s*\\*?|class|const|let|var)";
  for (const [, byDefault, name = ""] of find(`(default\\s+)?${keyword}\\s*(${NAME})`)) {
    found.push([name, byDefault ? "default" : name]);
  }
  for (const [, name = "default"] of find(`default\\b(?:\\s+(${NAME})\\s*(?:;|$))?`)) {
    found.push([name, "default"]);
  }
  for (const [, items = ""] of find("\\{([^}]*)\\}\\s*(?:;|$)")) {
    const item = new RegExp(`(${NAME})(?:\\s+as\\s+(?:(${NAME})|"([^"]*)"))?`, "gu");
    for (const [, name = "", alias = name, text] of items.matchAll(item)) {
      found.push([name, text ?? alias]);
    }
  }
  return found;
}

// ------------------------------------------------------------------------------ what is deferred, and how

/** A call with its arguments; steps are numbered as they are made, which is an order to run them in. */
type Recorded = { order: number; call: unknown; args: unknown[] };
/** A part of what a step gives. */
type Part = { step: Recorded; path: Path };

/** What all copies of forrest in one process share. */
const shared: { steps: number } = share();

function share(): typeof shared {
  const own = { steps: 0 };
  try {
    return (globalThis as Record<symbol, typeof own>)[Symbol.for("forrest")] ??= own;
  } catch {
    return own; // a task has frozen the global object
  }
}

/** Records a step. */
function newStep(call: unknown, args: unknown[]): Recorded {
  for (const item of [call, ...args]) {
    if (typeof item === "function" && !partOf(item)) see(item as Callable);
  }
  return { order: shared.steps++, call, args };
}

/** What a deferred value records; undefined for any other value. */
function partOf(value: unknown): Part | undefined {
  return typeof value === "function" ? (value as { [MARK]?: Part })[MARK] : undefined;
}

/** A deferred value for what a step gives, or for a part of that. */
function deferred(step: Recorded, path: Path = []): unknown {
  const target = Object.assign(function () {}, { [MARK]: { step, path } }); // an arrow function has no `construct` trap
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

/** Makes `console.log` show a deferred value as the call that it stands for. */
const printable = Object.create(Function.prototype, {
  [Symbol.for("Deno.customInspect")]: { value: show },
  [Symbol.for("nodejs.util.inspect.custom")]: { value: show },
});

function show(this: { [MARK]: Part }): string {
  return describe(this[MARK], 4);
}

function describe({ step, path }: Part, depth: number): string {
  const show = (value: unknown): string => {
    const part = partOf(value) ?? ((value as Part)?.step && value as Part);
    if (part) return depth ? describe(part, depth - 1) : "…";
    if (typeof value === "function") return value.name || "(anonymous)";
    if (Array.isArray(value)) return "[…]";
    return value && typeof value === "object" && !(value instanceof URL)
      ? "{…}"
      : JSON.stringify(value) ?? `${value}`;
  };
  const args = step.args.map(show).join(", ");
  const call = step.call === undefined
    ? `defer(${args})`
    : `defer(${[show(step.call), args].join(", ")})`;
  const isMethod = (step.call as Part)?.step;
  return (isMethod ? `${show(step.call)}(${args})` : call) + pathText(path);
}

/** A function in the steps of a task, and where its reference is to be put. */
type Place = { into: Record<string, unknown>; key: string; call: Callable };

/** The steps of a task in the order in which they were made, and the functions in them. */
function build(task: unknown): [Step[], Place[]] {
  const end = partOf(task) ?? { step: newStep(undefined, [task]), path: [] };
  const stored = new Map<Recorded, Record<string, unknown>>([[end.step, {}]]);
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
      into["value"] = encode(args[0], "value", leaf);
      continue;
    }
    into["call"] = undefined; // so that it comes first in the file
    const isName = typeof call === "string" || call instanceof URL;
    if (typeof call === "function") functions.push({ into, key: "call", call: call as Callable });
    else into["call"] = isName ? `${call}` : link(call as Part);
    into["args"] = args.map((item, index) => encode(item, `args[${index}]`, leaf));
  }
  const steps = [...stored.keys()].sort((a, b) => a.order - b.order);
  const index = new Map(steps.map(({ order }, index) => [order, index]));
  const result = end.path.length ? [{ value: link(end) }] : [];
  for (const ref of refs) ref.$step = index.get(ref.$step)!;
  return [[...steps.map((step) => stored.get(step)!), ...result], functions];
}

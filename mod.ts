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
import { isAlive, locate, newOwner, type Outcome, type Result, states } from "./files.ts";
import type { State } from "./files.ts";
import { cwd, decode, encode, encodeThrown, errorOf, fileUrl, pathOf, pathText } from "./runner.ts";
import { apply, compile, GUARD, load, refuseWhileImporting, runSteps, stepsOf } from "./runner.ts";
import { bun, type Child, collect, deno, nodeProcess, print, sleep, spawn } from "./runner.ts";
import { deathOf, isCompiled, isEndOfJob, ORDER, RUNNER, SERVE, tell, WORD } from "./runner.ts";
import { attempt, type Callable, type CommandOptions, type Path, type Runtime } from "./runner.ts";
import { type SpawnOptions, type Step, type Stream, type Told, within } from "./runner.ts";

export { decode, encode, isAlive, locate, states };
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
/** Defers a construction (of several signatures, the last counts), or a call of the function that a URL names. */
export function defer<C extends Constructor | URL>(
  call: C,
  ...args: C extends Constructor ? Inputs<ConstructorParameters<C>> : unknown[]
): Deferred<Constructed<C>>;
/** Defers plain data. */
export function defer<T>(
  value: T extends Callable | Constructor ? T extends Marked<unknown> ? T : never : T,
): Deferred<T extends Marked<infer V> ? V : T>;
export function defer(call: unknown, ...args: unknown[]): unknown {
  if (partOf(call) && !args.length) return call;
  if (typeof call === "function") return deferred(newStep(call, args));
  const name = call instanceof URL && call.hash ? call.href : undefined;
  return deferred(name ? newStep(name, args) : newStep(undefined, [call]));
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
  for (const { into, key } of functions) into[key] = globalName(into[key]) ?? into[key];
  return await runSteps(steps) as T;
}

// -------------------------------------------------------------------------------------------- lists

/** The options of a {@linkcode TaskList}. */
export interface ListOptions {
  /**
   * Take a directory that exists; its tasks are removed, unless `preClean` is false.
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
    this.directory = fullPath(directory);
    const { logFile } = options;
    this.#options = { ...options, logFile: logFile && fullPath(logFile) }; // wherever the program goes
    const { existOk, preClean = true, noScheduleIfExist = false } = options;
    const isThere = files.exists(this.directory);
    this.#skip = isThere && noScheduleIfExist;
    if (isThere && !existOk && !noScheduleIfExist) {
      const fix = "take it as it is with `existOk: true, preClean: false`, or another name";
      throw new Error(`Cannot make the task list \`${this.directory}\`, as it exists: ${fix}`);
    }
    files.makeFolders(this.directory);
    if (!isThere || !preClean || this.#skip) return;
    this.recover();
    const { running } = this.count();
    if (running) {
      const fix = "wait for it, or take the list as it is with `preClean: false`";
      throw new Error(`Cannot remove tasks of \`${this.directory}\`, as ${running} run: ${fix}`);
    }
    this.clean();
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
    const settled = scheduled.then(nothing, nothing);
    this.#pending.add(settled);
    settled.then(() => this.#pending.delete(settled));
    return scheduled.then((result) => result); // a new one, so that its error is unhandled as long as nobody handles it
  }

  async #schedule(task: unknown, options: ScheduleOptions): Promise<Scheduled> {
    checkNames(options, ["metadata", "id"], " of `schedule`");
    const { metadata, id = files.newId() } = options;
    files.checkId(id);
    if (this.#skip) return { id, scheduled: false };
    const [steps, functions] = build(task);
    const stored = metadata === undefined ? {} : { metadata: encode(metadata, "metadata") };
    const name = async ({ into, key }: Place) => into[key] = await refer(into[key]);
    await Promise.all(functions.map(name));
    const text = files.formatTask({ steps, ...stored });
    const scheduled = await new Promise<boolean>((done) => {
      this.#queue.push({ id, text, isNew: options.id === undefined, done });
      this.#writing ??= this.#write();
    });
    const { logFile } = this.#options;
    // if that cannot be written, a run will say so: the task is there
    if (scheduled && logFile) attempt(() => files.log(logFile, id, "is scheduled"));
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
      const isWanted = typeof which === "function" ? which(readTask<T>(path)) : !ids || ids.has(id);
      if (isWanted && files.retry(this.directory, id)) moved++;
    }
    if (moved) await files.syncFolder(`${this.directory}/todo`);
    return moved;
  }

  /** Puts back what runs that have died have left; `run()` does so by itself, and counts that as a crash. */
  recover(): void {
    for (const claim of takeOver(this.directory, newOwner()).claims) files.putBack(claim);
  }

  /**
   * Removes tasks: all, or those of the states that are `true`, or all but those that are `false`.
   *
   * @throws {TypeError} If there is no such state.
   */
  clean(which: { todo?: boolean; done?: boolean; fail?: boolean } = {}): void {
    const removable = ["todo", "done", "fail"] as const;
    checkNames(which, removable, " of `clean`");
    const isAny = Object.values(which).includes(true);
    const chosen = removable.filter((state) => which[state] ?? !isAny);
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

/** Reads the task file at `path`; if that cannot be read, the error of the task says so. */
export function readTask<T = unknown>(path: string): Task<T> {
  try {
    return toTask(files.readText(path), path) as Task<T>;
  } catch (cause) {
    const { id, state } = locate(path);
    return { id, state, errorValue: new Error(`Cannot read the task \`${path}\``, { cause }) };
  }
}

function toTask(text: string, path: string): Task {
  const task = files.parseTask(text);
  if (!task) throw new SyntaxError("It is no object in JSON");
  for (const key of ["metadata", "returnValue", "errorValue"]) {
    if (key in task) task[key] = decode(task[key]);
  }
  const { id, state } = locate(path);
  return { ...task, id, state };
}

/** The options of {@linkcode exec}. */
export interface ExecOptions extends Pick<RunOptions, "session"> {
  /**
   * Throw what the task throws.
   *
   * @default {false}
   */
  raise?: boolean | undefined;
  /** Where to write the task with its outcome. */
  output?: string | undefined;
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
  const text = files.readText(file);
  const steps = () => stepsOf(text, file);
  const { id, state } = locate(file);
  if (options.raise) return { id, state, returnValue: await runSteps(steps(), session) };
  const written = files.withResult(text, resultOf(await tell(steps, session)));
  if (options.output) files.writeText(options.output, written);
  return toTask(written, file);
}

/** The absolute path that a path, or a file URL, stands for. */
function fullPath(path: string | URL): string {
  const name = pathOf(`${path ?? ""}`);
  if (!name) throw new TypeError(`Cannot use \`${path}\` as a path: it must have a name`);
  return nodeProcess().getBuiltinModule("node:path").resolve(name);
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
   * Seconds after which a task fails, and all its processes are killed; with `concurrency`, after the others
   * that its process holds.
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
  /** Told of each task that has failed and is tried again, with the seconds until then. */
  onRetry?: ((task: Task, seconds: number) => void) | undefined;
}

/** The options of `map`; with 0 processes, it calls the function in this one. */
export interface MapOptions
  extends Pick<RunOptions, "processes" | "concurrency" | "session" | "permissions"> {
  /**
   * Give the results in the order of the items, not as they finish.
   *
   * @default {true}
   */
  ordered?: boolean | undefined;
}

/** What a run or a `map` does if it is told nothing. */
const DEFAULTS = {
  processes: 1, // or rather one for each CPU
  autokill: Infinity,
  printErrors: false,
  tasksPerProcess: 1, // or without end, with `concurrency`
  concurrency: 1,
  retries: 0,
  retryDelay: 0,
  maxFailures: Infinity,
  maxCrashes: 3,
  permissions: ["--allow-all"],
};
/** The least that numbers may be, if that is not 0. */
const LEAST = { processes: 1, autokill: 0.001, tasksPerProcess: 1, concurrency: 1, maxCrashes: 1 };
const OTHERS = ["session", "ids", "onOutput", "onRetry", "signal", "mayStart"];
const RUN_OPTIONS = [...Object.keys(DEFAULTS), ...OTHERS];
const LIST_OPTIONS = "existOk preClean postClean noScheduleIfExist retryFailed logFile".split(" ");
const MAP_OPTIONS = "processes concurrency ordered session permissions".split(" ");

type Defaults = typeof DEFAULTS;
/** The options of a run with their defaults, and with the URL of the session module. */
type Options = Defaults & Omit<RunOptions, keyof Defaults | "session"> & { session?: string };

/** Throws if one of the options is none. */
function checkNames(options: object, known: readonly string[], whose = ""): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || known.includes(name)) continue;
    throw new TypeError(`There is no option \`${name}\`${whose}`);
  }
}

/** Throws if an option is not what it has to be. */
function expect(isMet: boolean, name: string, wanted: string, value: unknown): void {
  if (isMet) return;
  throw new RangeError(`Expected \`${name}\` to be ${wanted}, got \`${value}\` (${typeof value})`);
}

/** The options with their defaults; throws if one is out of range. */
function withDefaults(options: RunOptions, fewestProcesses = 1): Options {
  checkNames(options, RUN_OPTIONS);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const checked: Options = {
    ...DEFAULTS,
    processes: navigator.hardwareConcurrency,
    tasksPerProcess: (options.concurrency ?? 1) > 1 ? Infinity : 1,
    ...Object.fromEntries(given),
  };
  const { permissions, ids = [], signal, session } = checked;
  if (session) checked.session = fileUrl(`${session}`);
  const least: Record<string, number> = { ...LEAST, processes: fewestProcesses };
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    if (typeof usual === "number") checkNumber(name, checked[name as "retries"], least[name] ?? 0);
  }
  expect(Array.isArray(permissions), "permissions", "an array", permissions);
  expect(Array.isArray(ids), "ids", "an array", ids);
  expect(!signal || signal instanceof AbortSignal, "signal", "an AbortSignal", signal);
  checkPermissions(permissions, checked.processes > 0 && !options.permissions);
  return checked;
}

/** Throws if an option is no number from `least` up. */
function checkNumber(name: string, value: unknown, least: number): void {
  const isSeconds = name === "autokill" || name === "retryDelay";
  const isWhole = isSeconds || value === Infinity || Number.isInteger(value);
  const isMet = typeof value === "number" && value >= least && isWhole;
  expect(isMet, name, `a ${isSeconds ? "" : "whole "}number from ${least} up`, value);
}

/** Whether processes with these permissions may do everything. */
const isUnlimited = (permissions: string[]): boolean =>
  permissions.some((flag) => flag === "-A" || flag === "--allow-all");

/** Throws if tasks cannot have these permissions; `areAll` says that nobody has asked for a limit. */
function checkPermissions(permissions: string[], areAll: boolean): void {
  if ((!deno || isCompiled) && !isUnlimited(permissions)) {
    const why = "only Deno has `permissions`, and a program that is compiled those of its own";
    throw new TypeError(`Cannot limit what tasks may do: ${why}`);
  }
  if (!deno || !areAll) return;
  const kinds = ["read", "write", "net", "env", "run", "sys", "ffi", "import"];
  const missing = kinds.find((name) => deno.permissions.querySync({ name }).state !== "granted");
  if (!missing) return;
  const why = `as this program lacks \`--allow-${missing}\``;
  const fix = "say with `permissions` what they may do, or start it with `--allow-all`";
  throw new TypeError(`Cannot give tasks all permissions, ${why}: ${fix}`);
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
  const isSource = (item: unknown) =>
    Symbol.iterator in Object(item) || Symbol.asyncIterator in Object(item);
  const sources = rest.filter(isSource) as Items<unknown>[];
  if (typeof call !== "function") {
    throw new TypeError(`Expected the first argument of \`map\` to be a function, got \`${call}\``);
  }
  if (!sources.length) {
    throw new TypeError(`Expected items for \`map\`, got \`${rest[0]}\`, which cannot be iterated`);
  }
  const given = (rest.find((item) => !isSource(item)) ?? {}) as MapOptions;
  checkNames(given, MAP_OPTIONS, " of `map`");
  const { ordered = true, ...others } = given;
  const options = withDefaults({ ...others, tasksPerProcess: Infinity }, 0);
  see(call);
  const pool = options.processes ? new Pool(options, 8, new Log()) : undefined;
  const calls = callAll(call, sources, ordered, options, pool);
  const guarded = pool ? guard(calls, pool, () => pool.stop()) : calls;
  return guarded as AsyncGenerator<R, void, void>;
}

/** Something that changes, for which others wait. */
class Change {
  #waiting: (() => void)[] = [];

  /** Resolves at the next change. */
  next(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  tell(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** Reads items a few milliseconds ahead, has the calls made, and gives their results. */
async function* callAll(
  call: Callable,
  sources: Items<unknown>[],
  isOrdered: boolean,
  { processes, concurrency }: Options,
  pool?: Pool,
): AsyncGenerator<unknown, void, void> {
  const change = pool ?? new Change();
  const results: Promise<unknown>[] = []; // in the order in which they are to be given
  let ahead = 0; // how many items have been read whose results have not been given
  let isRead = false;
  let isOver = false;
  const isFull = () => {
    const window = pool ? 4 * processes * Math.max(concurrency, pool.depth) : concurrency;
    return pool?.isFull || ahead >= window;
  };
  const readAll = async () => {
    try {
      const make = await callerOf(call, sources, pool);
      for await (const args of zip(sources)) {
        while (isFull() && !isOver) await change.next();
        if (isOver) return;
        ahead++;
        const result = make(args);
        if (isOrdered) results.push(result);
        const ended = () => {
          if (!isOrdered) results.push(result);
          change.tell();
        };
        result.then(ended, ended);
      }
    } finally {
      isRead = true;
      change.tell();
    }
  };
  const reading = readAll();
  reading.catch(nothing); // its error comes after the results
  try {
    while (ahead || !isRead) {
      if (!results.length) await change.next();
      if (pool?.end) throw pool.end.reason;
      if (!results.length) continue;
      const result = await results.shift();
      ahead--;
      change.tell();
      yield result;
    }
    await reading;
  } catch (error) {
    throw error === STOPPED ? errorOf("Stopped by a signal, with items left to do") : error;
  } finally {
    isOver = true;
    change.tell();
  }
}

/** What calls a function: in this process, or by a pool. */
async function callerOf(
  call: Callable,
  sources: Items<unknown>[],
  pool?: Pool,
): Promise<(args: unknown[]) => Promise<unknown>> {
  if (!pool) {
    const [owner, callee] = await load(globalName(call) ?? call);
    return async (args) => await apply(owner, callee, args);
  }
  const name = await refer(call);
  const lengths = sources.map((source) => Array.isArray(source) ? source.length : Infinity);
  pool.left = Math.min(...lengths);
  return async (args) => {
    pool.left--;
    const steps = [{ call: name, args: encode(args, "item") as unknown[] }];
    const told = await pool.execute("", steps);
    if ("errorValue" in told) throw decode(told.errorValue);
    return decode(told.returnValue);
  };
}

/** Arrays of an item from each source, until the first of them ends. */
async function* zip(sources: Items<unknown>[]): AsyncGenerator<unknown[], void, void> {
  const iterators = sources.map(async function* (source) {
    yield* source;
  });
  try {
    while (true) {
      const items = await Promise.all(iterators.map((iterator) => iterator.next()));
      if (items.some(({ done }) => done)) return;
      yield items.map(({ value }) => value);
    }
  } finally {
    await Promise.allSettled(iterators.map((iterator) => iterator.return()));
  }
}

// ------------------------------------------------------------------------------- the run of a list

/** The list that a run is about, and what is being scheduled. */
type List = { directory: string; logFile: string | undefined; pending: Set<Promise<unknown>> };

/**
 * The run of a list: it claims tasks (`fill`), has the pool execute them (`start`), files what came of them
 * (`conclude`, `fileAll`), and yields them. It works on while its consumer is busy.
 */
class ListRun {
  readonly #list: List;
  readonly #options: Options;
  readonly #owner = newOwner();
  readonly #pool: Pool;
  readonly #log: Log;
  readonly #claims = new Map<string, string>(); // the claimed tasks, and the texts of their files
  readonly #delays = new Set<Timer>(); // of retries that are not due yet
  #ids: string[] = []; // in `todo`, when it last looked, and those to be retried
  #at = 0; // the next of them
  #outcomes: Outcome[] = []; // to be filed
  #filing: Promise<void> | undefined;
  #finished: string[] = []; // paths, to be yielded
  #yielded = 0;
  #failures = 0;
  #total: number | undefined;
  #isOver = false; // nothing more is to be started

  constructor(list: List, options: Options) {
    this.#list = list;
    this.#options = options;
    this.#log = new Log(list.logFile, options.onOutput);
    this.#pool = new Pool(options, 50, this.#log);
  }

  /** How many tasks there are: those that have finished, and those to come. */
  get total(): number {
    const { directory, pending } = this.#list;
    return this.#total ??= this.#options.ids?.length ??
      pending.size + files.idsIn(directory, "todo").length;
  }

  async *tasks(): Tasks<unknown> {
    await this.#arrivals();
    const refresh = setInterval(() => files.refresh(this.#claims.keys()), files.lease() / 6);
    this.#feed().catch((error) => this.#pool.stop(error));
    try {
      yield* guard(this.#finishedTasks(), this.#pool, () => this.#stop(), this.#options.signal);
    } catch (error) {
      if (error !== STOPPED) throw error;
    } finally {
      clearInterval(refresh);
      await this.#filing;
      this.#stop();
      this.#log.flush();
    }
    await this.#arrivals();
  }

  /** Waits for what is being scheduled, and lets an error of it that nobody handles end the program first. */
  async #arrivals(): Promise<void> {
    await Promise.allSettled(this.#list.pending);
    await sleep(0);
  }

  async *#finishedTasks(): Tasks<unknown> {
    while (true) {
      this.#fill();
      const path = this.#finished.shift();
      if (path) {
        this.#yielded++;
        yield readTask(path);
      } else if (this.#pool.end) throw this.#pool.end.reason;
      else if (this.#pool.isBusy || this.#claims.size) await this.#pool.next();
      else if (this.#isOver) return this.#surrender();
      else if (this.#delays.size) await this.#pool.next();
      else if (this.#list.pending.size) await this.#arrivals();
      else if (!await this.#look()) return;
    }
  }

  /** Throws if more tasks have failed than may. */
  #surrender(): void {
    const { maxFailures } = this.#options;
    if (this.#failures <= maxFailures) return;
    const count = `${this.#failures} failure${this.#failures === 1 ? "" : "s"}`;
    const left = files.idsIn(this.#list.directory, "todo").length;
    const rest = `${left} tasks are left in \`todo\``;
    throw new Error(`Stopped after ${count} (\`maxFailures: ${maxFailures}\`): ${rest}`);
  }

  /** Looks for tasks in `todo` and for those of dead runs; false if there are none. */
  async #look(): Promise<boolean> {
    const { directory } = this.#list;
    const { claims, isUnsure } = takeOver(directory, this.#owner);
    const wanted = this.#options.ids && new Set(this.#options.ids);
    const isWanted = (id: string) => wanted?.has(id) ?? true;
    for (const claim of claims) {
      if (isWanted(locate(claim).id)) this.#bury(claim);
      else files.putBack(claim);
    }
    const ids = files.idsIn(directory, "todo").filter(isWanted);
    const isName = (id: string) => !files.isTooLong(id, this.#owner) && !id.includes("\ufffd");
    this.#ids = ids.filter(isName); // of a file that can be moved
    this.#at = 0;
    this.#total = this.#yielded + claims.length + this.#ids.length;
    if (claims.length || this.#ids.length) return true;
    if (ids.length) {
      const name = JSON.stringify(`${ids[0]}.json`);
      const what = `${ids.length} of the files in \`todo\`, such as ${name}`;
      throw new Error(`Cannot run ${what}: their names are too long, or not in UTF-8: rename them`);
    }
    if (isUnsure) await sleep(Math.min(1000, files.lease() / 6));
    return isUnsure;
  }

  /** Gives the pool more to do whenever something has changed, also while the consumer is busy. */
  async #feed(): Promise<void> {
    while (!this.#pool.end) {
      await this.#pool.next();
      this.#fill();
    }
  }

  /** Claims tasks and has them executed, as long as there is room. */
  #fill(): void {
    const { mayStart, maxFailures } = this.#options;
    while (this.#finished.length < 1000) {
      const id = this.#ids[this.#at];
      if (id === undefined || this.#isOver || this.#pool.end) return this.#pool.endAll();
      // no more are given ahead than may still fail, and near the end no more than a fair share
      this.#pool.left = Math.min(this.#ids.length - this.#at, 2 * (maxFailures - this.#failures));
      if (this.#pool.isFull || (mayStart && this.#filing)) return; // it is to see all outcomes in place
      this.#isOver = mayStart?.() === false;
      if (this.#isOver) continue;
      this.#at++;
      this.#start(id);
    }
  }

  /** Claims a task, and has it executed. */
  #start(id: string): void {
    const { directory } = this.#list;
    const claim = files.claim(directory, id, this.#owner);
    if (claim === undefined) {
      // another run is at work here: further down each has a stretch of the list to itself, and the order
      // is roughly kept; what is left out is found when this one looks again
      this.#at = Math.min(this.#ids.length, this.#at + Math.floor(Math.random() * 100));
    } else if (files.exists(`${directory}/done/${id}.json`)) {
      files.remove(claim);
      this.#log.event(id, "is dropped, as it is done already");
    } else this.#carryOut(claim, id);
  }

  #carryOut(claim: string, id: string): void {
    this.#claims.set(claim, "");
    try {
      const text = files.readText(claim);
      this.#claims.set(claim, text);
      const told = this.#pool.execute(id, stepsOf(text, `${id}.json`));
      const concluded = told.then((told) => this.#conclude(claim, resultOf(told)));
      concluded.catch((error) => this.#pool.stop(error));
    } catch (error) { // it is no task, or cannot be read
      const errorValue = encodeThrown(error);
      this.#conclude(claim, resultOf({ begin: Date.now(), runtime: 0, errorValue }));
    }
  }

  /** Counts the death of a run against a task that was in flight in it, as it may have been the cause. */
  #bury(claim: string): void {
    const text = files.readable(claim);
    this.#claims.set(claim, text);
    const crashes = 1 + (Number(files.parseTask(text)?.["crashes"]) || 0);
    const message =
      `The run that this task was running in has died (${crashes} of \`maxCrashes\` times)`;
    const result = { crashes, errorValue: encodeThrown(errorOf(message)) };
    this.#conclude(claim, result, crashes < this.#options.maxCrashes ? Infinity : 0);
  }

  /** Takes what came of a task, and sees to it that it is filed. */
  #conclude(claim: string, result: Result, retries = this.#options.retries): void {
    const text = this.#claims.get(claim);
    if (text === undefined) return; // the run has been stopped
    const outcome = files.outcomeOf(claim, text, result, retries);
    if (outcome.state === "fail") this.#failures++;
    this.#isOver ||= this.#failures > this.#options.maxFailures;
    this.#outcomes.push(outcome);
    this.#filing ??= this.#fileAll();
    this.#pool.change();
  }

  /** Files outcomes, one batch after the other: those that come meanwhile are filed together. */
  async #fileAll(): Promise<void> {
    try {
      for (let batch; (batch = this.#outcomes.splice(0, 64)).length;) {
        await files.file(batch);
        for (const outcome of batch) this.#settled(outcome);
      }
    } catch (error) {
      this.#pool.stop(error);
    }
    this.#filing = undefined;
    this.#pool.change();
  }

  /** Handles a task that has an outcome in its place. */
  #settled({ claim, state, retried }: Outcome): void {
    const { id } = locate(claim);
    if (!this.#claims.delete(claim)) return; // the run has been stopped
    const path = `${this.#list.directory}/${state}/${id}.json`;
    if (state === "todo") return this.#retry(path, this.#options.retryDelay * 2 ** (retried - 1));
    this.#log.event(id, `is in \`${state}\``);
    if (state === "fail" && this.#options.printErrors) {
      this.#log.error(id, readTask(path).errorValue);
    }
    if (state !== "running") this.#finished.push(path); // or else another run has it
  }

  #retry(path: string, seconds: number): void {
    const task = readTask(path);
    const { id, runtime = 0, errorValue } = task;
    const [why] = `${errorValue}`.split("\n");
    this.#log.event(id, `has failed after ${runtime} s, and is retried in ${seconds} s: ${why}`);
    this.#options.onRetry?.(task, seconds);
    const timer = setTimeout(() => {
      this.#delays.delete(timer);
      this.#ids.splice(this.#at, 0, id);
      this.#pool.change();
    }, Math.min(seconds * 1000, LONGEST_TIMER));
    this.#delays.add(timer);
  }

  /** Kills what runs, and puts back all claims, at once: no call in here is asynchronous. */
  #stop(): void {
    this.#pool.stop();
    for (const timer of this.#delays) clearTimeout(timer);
    for (const claim of this.#claims.keys()) attempt(() => files.putBack(claim));
    this.#claims.clear();
  }
}

/** Claims for `owner` what dead runs had in flight, and kills what they have left running. */
function takeOver(directory: string, owner: string): files.Estate {
  const estate = files.takeOver(directory, owner);
  for (const maker of estate.makers) killAll(`/${maker}.`);
  return estate;
}

/** What a runner has told of a task, as its file is to say it. */
function resultOf({ begin, runtime, ...result }: Told): Result {
  const started = new Date(begin).toISOString();
  return { started, runtime: Math.round(runtime * 1000) / 1e6, ...result };
}

/** The stack of an error and of its causes. */
function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return `${error}`;
  const cause = error.cause === undefined ? "" : `\nCaused by: ${stackOf(error.cause)}`;
  return `${error.stack}${cause}`;
}

/** What has been printed of a line, by a task, or by several: then `id` has the ids of all, with commas. */
export type Begun = { id: string; stream: Stream; text: string };

/**
 * Puts together what tasks print, as `onOutput` gets it, so that the lines of several do not mix.
 *
 * @example
 * ```ts
 * import { Lines } from "jsr:@x/forrest";
 *
 * const lines = new Lines();
 * console.log(lines.add("1\n2", "stdout", "task")); // 1
 * console.log(lines.take("task")); // [{ id: "task", stream: "stdout", text: "2" }]
 * ```
 */
export class Lines {
  #begun = new Map<string, Begun>();

  /** Adds what a task has printed; gives the lines that are whole now, or a million characters of one. */
  add(text: string, stream: Stream, id: string): string {
    const key = `${stream} ${id}`;
    const before = this.#begun.get(key)?.text ?? "";
    const whole = before + text;
    const last = text.lastIndexOf("\n") + 1; // to search all of a long line again takes too long
    const end = whole.length > 1e6 ? whole.length : last && before.length + last;
    this.#begun.set(key, { id, stream, text: whole.slice(end) });
    if (end === whole.length) this.#begun.delete(key);
    return whole.slice(0, end);
  }

  /** Takes the lines that a task has begun; those of all tasks, without an id. */
  take(id?: string): Begun[] {
    const isIts = (ids: string) => id === undefined || `,${ids},`.includes(`,${id},`);
    const taken = [...this.#begun].filter(([, begun]) => isIts(begun.id));
    for (const [key] of taken) this.#begun.delete(key);
    return taken.map(([, begun]) => begun);
  }
}

/** Where a run tells what happens, and what its tasks print: in a log, or without one on the terminal. */
class Log {
  readonly #path: string | undefined;
  readonly #onOutput: RunOptions["onOutput"];
  readonly #lines = new Lines();

  constructor(path?: string, onOutput?: RunOptions["onOutput"]) {
    this.#path = path;
    this.#onOutput = onOutput;
  }

  /** Takes what tasks have printed, and writes the lines that are whole. */
  printed(text: string, stream: Stream, ids: string): void {
    if (this.#onOutput) this.#onOutput(text, stream, ids);
    else if (this.#path === undefined) print(text, stream);
    if (this.#path === undefined) return;
    this.#write(ids, this.#lines.add(text, stream, ids), "| ");
  }

  /** Writes the stack of an error. */
  error(id: string, error: unknown): void {
    if (this.#path === undefined) print(`${id}: ${stackOf(error)}\n`, "stderr");
    else this.#write(id, stackOf(error), "  ");
  }

  /** Writes what has happened to a task, after what it has printed. */
  event(id: string, text: string): void {
    this.flush(id);
    this.#write(id, text);
  }

  /** Writes the lines of a task that are not whole, or of all tasks. */
  flush(id?: string): void {
    for (const begun of this.#lines.take(id)) this.#write(begun.id, begun.text, "| ");
  }

  #write(id: string, text: string, mark = ""): void {
    if (text && this.#path !== undefined) files.log(this.#path, id, text, mark);
  }
}

// ------------------------------------------------------------------------------------------- the pool

type Timer = ReturnType<typeof setTimeout>;
const LONGEST_TIMER = 2 ** 31 - 1; // milliseconds
const nothing = (): void => {};

/** What a pool is to have done, from `execute` until that resolves. */
interface Job {
  id: string; // by which its output is told
  steps: Step[];
  nonce: string; // which marks its answer, as no other process knows it
  order: string;
  isShared: boolean; // with others in one runner
  answer: string; // as far as it has come
  begun: number; // in milliseconds; 0, if a runner has not begun it
  timer?: Timer; // until it must have been answered
  outcome: PromiseWithResolvers<Told>;
}

/** A process that does jobs. */
class Runner {
  readonly child: Child;
  readonly marker: string; // what the environment of all its descendants contains
  readonly jobs = new Map<string, Job>(); // by their nonces, in the order in which they were given
  given = 0; // how many jobs it ever got
  last: Job;
  printed = ""; // the end of it
  isEnding = false; // it gets nothing more
  isKilled = false;
  overdue: Job | undefined; // for which it was killed
  limit: Timer | undefined; // until it must have ended
  readonly #options: Options;
  #unsent = "";

  /** Starts it for a job; one that gets no other has its order with its start, as that is faster. */
  constructor(job: Job, marker: string, options: Options) {
    const { permissions } = options;
    const isShort = job.order.length < 33_000; // the system takes no more than 128 KiB, as bytes
    const isSingle = !job.isShared && isShort && isUnlimited(permissions);
    const inherited = attempt(() => nodeProcess().env["FORREST_TASKS"]) ?? "";
    const env = { FORREST_TASKS: inherited + marker, ...(isSingle ? { [ORDER]: job.order } : {}) };
    const command = runnerCommand(permissions, job.steps, !isSingle);
    this.child = spawnGroup(command, { env, hasInput: !isSingle });
    this.#options = options;
    this.marker = marker;
    this.isEnding = isSingle;
    this.last = job;
  }

  /** The jobs that it is at; the others wait. */
  get begun(): IteratorObject<Job> {
    return this.jobs.values().take(this.#options.concurrency);
  }

  give(job: Job): void {
    const { tasksPerProcess } = this.#options;
    this.given++;
    this.last = job;
    this.jobs.set(job.nonce, job);
    if (this.isEnding) return; // it has its order
    // at once to a runner that has nothing else to do, or else with others of this turn of the event loop
    if (!this.#unsent && this.jobs.size > 1) setTimeout(() => this.#send());
    this.#unsent += `${job.order}\n`;
    if (this.jobs.size === 1) this.#send();
    // programs may share one in any case
    if (!job.isShared || (tasksPerProcess > 1 && this.given >= tasksPerProcess)) this.end();
  }

  #send(): void {
    if (this.#unsent && !this.isKilled) this.child.write(this.#unsent);
    this.#unsent = "";
  }

  /** Lets it end when it has done what it has. */
  end(): void {
    if (!this.isEnding) {
      this.#send();
      this.child.close();
    }
    this.isEnding = true;
    // what a task has left may block it
    if (!this.jobs.size) this.limit ??= setTimeout(() => this.kill(), 5000);
  }

  kill(): void {
    this.isEnding = this.isKilled = true;
    killGroup(this.child.pid);
    this.child.kill(); // as it may not lead its group yet
  }
}

/** Runners, and what they are to do. Who uses it sees `execute`, and what came of it. */
class Pool extends Change {
  readonly owner = newOwner();
  /** How much work is still to come, as far as that is known: near the end it is shared out. */
  left = Infinity;
  readonly #options: Options;
  readonly #ahead: number; // milliseconds of work that a runner is given beyond what it works on
  readonly #log: Log;
  readonly #timeout: number | undefined; // milliseconds that a job may take
  readonly #runners = new Set<Runner>();
  #queue: Job[] = [];
  #answered = 0;
  #firstAnswer = 0; // when it came, in milliseconds
  /** Why it was stopped. */
  end: { reason: unknown } | undefined;

  constructor(options: Options, ahead: number, log: Log) {
    super();
    this.#options = options;
    this.#ahead = ahead;
    this.#log = log;
    const timeout = options.autokill * 1000;
    this.#timeout = timeout <= LONGEST_TIMER ? timeout : undefined;
  }

  /** Has steps done; resolves with what came of them, be it the death of their runner; rejects if it is stopped. */
  execute(id: string, steps: Step[]): Promise<Told> {
    const { session, concurrency, tasksPerProcess } = this.#options;
    // a program is a process of its own anyway
    const isProgram = steps.length === 1 && steps[0]?.call === COMMAND;
    const isShared = isProgram || tasksPerProcess > 1;
    const nonce = crypto.randomUUID();
    const timeout = concurrency > 1 ? this.#timeout : undefined;
    const most = Math.min(concurrency, LONGEST_TIMER); // JSON has no Infinity
    const order = JSON.stringify({ nonce, steps, session, concurrency: most, timeout });
    const outcome = Promise.withResolvers<Told>();
    this.#queue.push({ id, steps, nonce, order, isShared, answer: "", begun: 0, outcome });
    this.#place();
    return outcome.promise;
  }

  /** Whether work would have to wait here. */
  get isFull(): boolean {
    return this.#queue.length > 0 || (!this.#hasPlace() && !this.#leastBusy()?.jobs.size);
  }

  /** Whether there is work, or a process that has not ended yet. */
  get isBusy(): boolean {
    return this.#runners.size > 0 || this.#queue.length > 0;
  }

  /** How many jobs a runner may be given beyond what it works on. */
  get depth(): number {
    // the first answer says nothing of how long a job takes: the next ones do
    const passed = Math.max(1, performance.now() - this.#firstAnswer);
    const perMillisecond = Math.max(0, this.#answered - 1) / passed;
    return Math.min(128, Math.floor(this.#ahead * perMillisecond / this.#options.processes));
  }

  /** Gives jobs to runners, as long as there is room. */
  #place(): void {
    for (let job; (job = this.#queue[0]) && !this.end; this.#queue.shift()) {
      const runner = job.isShared ? this.#leastBusy() : undefined;
      const isIdle = runner?.jobs.size === 0;
      const hasPlace = this.#hasPlace();
      if (hasPlace && !isIdle) this.#start(job);
      else if (runner && isIdle === hasPlace) this.#begin(runner, job);
      else return;
    }
  }

  /** Whether a process more may have work. */
  #hasPlace(): boolean {
    const busy = [...this.#runners].filter(({ jobs }) => jobs.size);
    return busy.length < this.#options.processes;
  }

  /** The shared runner that has the least to do, if it has room. */
  #leastBusy(): Runner | undefined {
    const { concurrency, processes } = this.#options;
    // more than it works on only if it works them off one by one, and no more than its share of the rest
    const ahead = Math.min(this.depth, Math.floor(this.left / processes / 2));
    let least = concurrency > 1 ? concurrency : Math.max(1, ahead);
    let found: Runner | undefined;
    for (const runner of this.#runners) {
      if (runner.isEnding || runner.jobs.size >= least) continue;
      least = runner.jobs.size;
      found = runner;
    }
    return found;
  }

  #start(job: Job): void {
    this.#try(() => { // as the system may start no more processes
      const marker = `/${this.owner}.${files.newId()}/`;
      const runner = new Runner(job, marker, this.#options);
      this.#runners.add(runner);
      this.#watch(runner).catch((error) => this.stop(error));
      this.#begin(runner, job);
    });
  }

  /** Notes at which jobs a runner is by now, given one more, and sees to it that they do not take too long. */
  #begin(runner: Runner, more?: Job): void {
    if (more) runner.give(more);
    if (runner.isKilled) return;
    const grace = this.#options.concurrency > 1 ? 500 : 50; // as its answer may be on its way
    for (const job of runner.begun) {
      if (job.begun) continue;
      job.begun = Date.now();
      this.#try(() => this.#log.event(job.id, `is started in process ${runner.child.pid}`));
      const expire = () => {
        runner.overdue = job;
        killAll(runner.marker); // first, as this finds others by their parents
        runner.kill();
      };
      const wait = () => job.timer = setTimeout(expire, grace); // also if we were stopped, as by Ctrl-Z
      if (this.#timeout !== undefined) job.timer = setTimeout(wait, this.#timeout);
    }
  }

  /** Lets all runners end when they have done what they have, as there is nothing to give them. */
  endAll(): void {
    if (!this.#queue.length) this.#runners.forEach((runner) => runner.end());
  }

  /** Waits for the end of a runner, and for what it prints until then. */
  async #watch(runner: Runner): Promise<void> {
    const { pid, ended } = runner.child;
    const [death] = await Promise.all([
      ended.finally(() => killGroup(pid)), // what its tasks have left running
      this.#read(runner, "stdout").finally(() => runner.end()), // it can answer no more
      this.#read(runner, "stderr"),
    ]);
    if (isEndOfJob(death) && !runner.isKilled) await sleep(500); // as this process may be to end, too
    this.#runners.delete(runner);
    this.#lose(runner, deathOf("The process of this task", death, runner.printed));
    clearTimeout(runner.limit);
    this.change();
  }

  /** Reads what a runner prints: between what its tasks print, there are its answers. */
  async #read(runner: Runner, stream: Stream): Promise<void> {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    let text = "";
    await collect(runner.child[stream], runner.child.ended, (chunk) => {
      text = this.#take(runner, text + decoder.decode(chunk, { stream: true }), stream);
    });
    this.#print(runner, runner.isKilled ? "" : text, stream);
  }

  /** Takes answers and what tasks have printed; gives the beginning of what may become an answer. */
  #take(runner: Runner, text: string, stream: Stream): string {
    const [plain = "", ...marked] = text.split("\x1e");
    this.#print(runner, plain, stream);
    for (const [index, part] of marked.entries()) {
      const end = part.indexOf("\n");
      const isBegun = end < 0 && index === marked.length - 1 && part.length < 5000; // as its lines are shorter
      if (isBegun) return `\x1e${part}`;
      const isAnswer = end >= 0 && this.#answer(runner, part.slice(0, end));
      this.#print(runner, isAnswer ? part.slice(end + 1) : `\x1e${part}`, stream);
    }
    return "";
  }

  #print(runner: Runner, text: string, stream: Stream): void {
    if (!text) return;
    runner.printed = (runner.printed + text).slice(-2000);
    const begun = [...runner.begun];
    const ids = (begun.length ? begun : [runner.last]).map(({ id }) => id).join(",");
    this.#try(() => this.#log.printed(text, stream, ids));
  }

  /** Takes an answer, or a part of it; false if it is none, but something that a task has printed. */
  #answer(runner: Runner, line: string): boolean {
    const job = runner.jobs.get(line.slice(0, NONCE));
    if (!job || runner.isKilled) return job !== undefined; // of one that was killed, they are for nobody
    const [, size, end, part = ""] = /^ (\d+)([+.])(.*)$/s.exec(line.slice(NONCE)) ?? [];
    job.answer += part;
    if (end === "+" && part.length === Number(size)) return true;
    const told = files.parseTask(job.answer) ?? {};
    if (told["isOverdue"]) runner.end(); // after the others, as that task is at work still
    this.#settle(runner, job, told["isOverdue"] ? overdue(this.#options) : told);
    return true;
  }

  /** Takes what came of a job; if a runner has told something else, its answer is torn. */
  #settle(runner: Runner, job: Job, result: files.Stored): void {
    clearTimeout(job.timer);
    runner.jobs.delete(job.nonce);
    if (!this.#answered++) this.#firstAnswer = performance.now();
    const { returnValue, errorValue, runtime = Date.now() - job.begun } = result;
    const outcome = returnValue === undefined
      ? { errorValue: errorValue === undefined ? torn() : errorValue }
      : { returnValue };
    job.outcome.resolve({ begin: job.begun, runtime: Number(runtime), ...outcome });
    if (runner.isEnding) runner.end();
    this.#begin(runner);
    this.#place();
  }

  /** Sees to what a dead runner has held. */
  #lose(runner: Runner, death: Error): void {
    const [first, ...others] = runner.begun;
    const isOverdue = first === runner.overdue;
    const isToBlame = isOverdue || (!runner.isKilled && runner.given === 1);
    const result = isOverdue ? overdue(this.#options) : { errorValue: encodeThrown(death) };
    if (first && !others.length && isToBlame) this.#settle(runner, first, result);
    const left = [...runner.jobs.values()];
    for (const { timer } of left) clearTimeout(timer);
    // who dies in company runs again alone, who only waited, with others
    const again = left.map((job) => ({ ...job, isShared: !job.begun, begun: 0, answer: "" }));
    this.#queue.unshift(...again);
  }

  /** Goes on, as something has changed. */
  change(): void {
    this.#place();
    this.tell();
  }

  /** What the run or the program adds may fail, and ends everything then. */
  #try(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.stop(error);
    }
  }

  /** Kills all that runs, at once: no call in here is asynchronous. */
  stop(reason: unknown = STOPPED): void {
    if (this.end) return;
    this.end = { reason };
    if (this.#runners.size) killAll(`/${this.owner}.`);
    const jobs = [...this.#runners].flatMap(({ jobs }) => [...jobs.values()]);
    for (const runner of this.#runners) runner.kill();
    for (const { outcome } of [...jobs, ...this.#queue]) outcome.reject(reason);
    this.#queue = [];
    this.tell();
  }
}

function overdue({ autokill }: Options): files.Stored {
  const message = `The task was killed after ${autokill} s, as \`autokill\` says`;
  return { errorValue: encodeThrown(errorOf(message, { name: "TimeoutError" })) };
}

const NONCE = 36; // characters of a UUID

// no error is made as this module is loaded, since the first one takes Deno 2 ms
const STOPPED = Symbol("stopped");
const torn = () =>
  encodeThrown(errorOf(
    "What this gave was lost, as something else printed to the standard output of its process " +
      "meanwhile: let that write to a file",
  ));

// ------------------------------------------------------------------------------ how runners are started

/** The command of a runner. */
function runnerCommand(permissions: string[], steps: Step[], hasInput: boolean): string[] {
  const program = deno ? deno.execPath() : nodeProcess().execPath;
  const code = `import.meta.require("${RUNNER}");${CALL}`;
  const args = isCompiled ? [WORD] : deno ? denoArgs(permissions, steps) : ["-e", code, WORD];
  // its orders come by another descriptor, so that no task reads them from its standard input
  const isApart = hasInput && isUnlimited(permissions);
  const shell = isApart ? ["sh", "-c", 'exec "$@" 3<&0 </dev/null', "sh"] : [];
  return [...shell, program, ...args];
}

const CALL = `globalThis[Symbol.for("${SERVE}")]()`;

/**
 * Deno takes import map, packages and lock file from beside its main module, so it is given one that would
 * lie in the task's project. It never gets there, as the runner exits in the preloaded module; that waits
 * for the runner, and is no module of ours, as task modules import them.
 */
function denoArgs(permissions: string[], steps: Step[]): string[] {
  const called = steps.map(({ call }) => /^(.+)#[^#]*$/s.exec(`${call}`)?.[1]);
  const modules = called.filter((module) => module !== undefined);
  // a module that a preloaded one could import by a literal name needs no permission to be read
  const readable = isUnlimited(permissions) ? [] : new Set(modules);
  const imports = [...readable].map((module) => `() => import(${JSON.stringify(module)})`);
  const code = [`import "${RUNNER}"`, ...imports, `await ${CALL}`].join(";");
  const preload = `data:text/javascript,${encodeURIComponent(code)}`;
  const own = modules.find((url) => url.startsWith("file:")) ?? deno!.mainModule;
  const project = own.startsWith("file:") ? own.slice(0, own.lastIndexOf("/")) : fileUrl(cwd());
  const main = `${project}/forrest-runner.js`;
  return ["run", ...permissions, "--no-prompt", "--preload", preload, main];
}

let hasSetsid: boolean | undefined;

/** Starts a program in a process group of its own. */
function spawnGroup(command: string[], options: SpawnOptions): Child {
  // for `detached`, Deno copies its page tables, and stands still for 3 ms
  hasSetsid ??= deno !== undefined && files.exists("/usr/bin/setsid");
  if (hasSetsid) return spawn(["/usr/bin/setsid", "--", ...command], options);
  return spawn(command, { ...options, detached: true });
}

/** Kills a process and all that it has started and that has not left its group, as far as any of it is left. */
const killGroup = (pid: number): void => void attempt(() => nodeProcess().kill(-pid, "SIGKILL"));

/** Kills every process with $0 in its environment, and all that descend from these, until there is none. */
const KILL = `for i in $(seq 100); do
  marked=$(grep -lsFe "$0" /proc/[0-9]*/environ | cut -d/ -f3 | tr "\\n" " ")
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
  const ending = beforeEnd(stop, signal);
  if (signal?.aborted) stop();
  try {
    yield* results;
  } finally {
    pool.stop();
    if (ending.isSure) await new Promise(nothing); // nothing after the loop is to run
    ending.release();
    watchdog.close(); // which the system does if this process dies
  }
}

const NUMBERS: Record<string, number> = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 };

/** Calls `stop` before the program ends, be it by a signal, which then does what it does. */
function beforeEnd(stop: () => void, signal?: AbortSignal): { isSure: boolean; release(): void } {
  const process = nodeProcess();
  const releases = signal ? [] : Object.keys(NUMBERS).map(listenTo);
  const ending = { isSure: false, release };
  if (deno) globalThis.addEventListener("unload", stop);
  else process.on("exit", stop);
  signal?.addEventListener("abort", stop);
  return ending;

  function listenTo(name: string): () => void {
    const isCaught = deno && hasMask("SigCgt", name); // by the program: what Deno catches, it always does
    return listen(name, () => {
      stop();
      release();
      if (isCaught || process.listenerCount(name) > 0) return;
      ending.isSure = true;
      process.kill(process.pid, name);
      setTimeout(() => process.exit(128 + NUMBERS[name]!), 500); // process 1 of a container survives that
    });
  }

  function release(): void {
    globalThis.removeEventListener?.("unload", stop);
    process.off("exit", stop);
    signal?.removeEventListener("abort", stop);
    for (const end of releases) end();
  }
}

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
  const isIgnored = hasMask("SigIgn", signal);
  // as soon as Deno listens to one signal, it ends by any other that nobody listens to
  const heard = isIgnored ? nothing : listener;
  if (!isIgnored || deno) process.on(signal, heard);
  return () => void process.off(signal, heard);
}

let status: string | undefined; // of this process, before we began to listen

/** Whether the system has noted a signal as one that is ignored (`SigIgn`) or caught (`SigCgt`). */
function hasMask(mask: "SigIgn" | "SigCgt", name: string): boolean {
  status ??= files.readable("/proc/self/status"); // empty if this is not Linux, or it is not permitted
  const digits = new RegExp(`${mask}:\\s*(\\w+)`).exec(status)?.[1]?.slice(-8) ?? "0";
  const bit = (NUMBERS[name] ?? 0) - 1;
  return bit >= 0 && (Number.parseInt(digits, 16) >> bit & 1) === 1;
}

// -------------------------------------------------------------------------------- which function is it?

/** How a task file names a function: the name of a global, `MODULE#EXPORT`, or its text. */
type Name = string | { source: string };

/** Of functions: the stack where each was first seen, and its name, as soon as somebody asks for it. */
const seen = new WeakMap<object, { stack: string; name?: Promise<Name> }>();

/** Notes from where a function is known, if it is seen for the first time: a stack takes 20 µs. */
function see(call: unknown): void {
  if (typeof call !== "function" || seen.has(call) || partOf(call)) return;
  const { stackTraceLimit, prepareStackTrace } = Error;
  Object.assign(Error, { stackTraceLimit: 100, prepareStackTrace: undefined }); // whatever the program wants
  seen.set(call, { stack: new Error().stack ?? "" });
  Object.assign(Error, { stackTraceLimit, prepareStackTrace });
}

/** Says how a runner finds a function. */
function refer(call: Callable): Promise<Name> {
  see(call);
  const known = seen.get(call)!;
  return known.name ??= findName(call, known.stack);
}

async function findName(call: Callable, stack: string): Promise<Name> {
  const name = globalName(call) ?? await findExport(call, modulesOn(stack));
  if (name) return name;
  const source = Function.prototype.toString.call(call);
  if (attempt(() => compile(source))) return { source };
  const shown = call.name || "(anonymous)";
  const why = "its text cannot stand alone (it is native, bound, or a method)";
  const fix = "wrap it in an arrow function or export it from a module";
  throw new TypeError(`Cannot schedule the function \`${shown}\`, as ${why}: ${fix}`);
}

/** The name of a function that is global, or that a global object has, unless that means another by now. */
function globalName(call: Callable): string | undefined {
  const { name } = call;
  const own = (object: unknown, key: string) =>
    Object.getOwnPropertyDescriptor(Object(object), key)?.value; // which calls no getter
  if (Object.hasOwn(globalThis, name) && (globalThis as Runtime)[name] === call) return name;
  const names = Object.getOwnPropertyNames(globalThis);
  const owner = names.find((owner) => own(own(globalThis, owner), name) === call);
  return owner && `${owner}.${name}`;
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
    const { functions, imports, code } = await modules.get(url)!;
    const found = url === mainModule() ? exportOfMain(call, url, code) : functions.get(call);
    if (found) return found;
    for (const other of imports) if (!isOurs(other)) places.add(other);
  }
  return undefined;
}

/** What is known of a module. */
interface Module {
  functions: Map<unknown, string>; // the names of those that it exports
  imports: string[];
  code: string;
}

const modules = new Map<string, Promise<Module>>();

async function lookInto(url: string): Promise<Module> {
  const isMain = url === mainModule();
  const isPackage = !isMain && url.includes("/node_modules/"); // where nobody schedules from the inside
  const code = isPackage ? "" : codeOf(url);
  const imports = importsIn(withoutComments(code)).map((specifier) => resolve(specifier, url));
  const functions = new Map<unknown, string>();
  const exports = isMain ? {} : await exportsOf(url); // which cannot be imported while it runs
  for (const [name, value] of Object.entries(exports)) functions.set(value, `${url}#${name}`);
  return { functions, imports, code };
}

/** What a module exports that the program has loaded; nothing, if it is still being evaluated. */
async function exportsOf(url: string): Promise<Record<string, unknown>> {
  return await within(1000, import(url), {}).catch(() => ({}));
}

/** A module as the runtime runs it: without types, and without imports of types; as it is written, if nobody knows. */
function codeOf(url: string): string {
  const text = url.startsWith("file:") ? files.readable(pathOf(url)) : "";
  const loader = /\.[cm]?([jt]sx?)$/.exec(url)?.[1] ?? "ts";
  const options = { loader, target: "bun", inline: true, minify: { syntax: true } };
  const transform = () => {
    if (bun) return unescaped(new bun.Transpiler(options).transformSync(text));
    if (loader.startsWith("js")) return text;
    const { stripTypeScriptTypes } = nodeProcess().getBuiltinModule("node:module") as Runtime;
    return stripTypeScriptTypes(text, { mode: "transform" });
  };
  return attempt(transform, () => text);
}

/** A text as it was before Bun has written other than ASCII in other words. */
const unescaped = (text: string): string =>
  text.replace(/\\u\{(\w+)\}/g, (_, digits) => String.fromCodePoint(Number.parseInt(digits, 16)));

/** A text without comments, as far as that can be told without reading all of the language. */
function withoutComments(code: string): string {
  const lexeme = /"[^"\n]*"|'[^'\n]*'|\/\*.*?\*\/|\/\/[^\n]*|^#![^\n]*/gs;
  return code.replace(lexeme, (found) => /^[/#]/.test(found) ? " " : found);
}

/** From where a module imports, up to its first other statement: what looks like an import there may be text. */
function importsIn(code: string): string[] {
  const statement =
    /[\s;]*(?:(["'])use \w+\1|(?:im|ex)port\b\s*(?:[^"'()=]*?\bfrom\b)?\s*(["'])(.*?)\2(?:\s*with\s*\{[^}]*\})?)/sy;
  const found: string[] = [];
  for (let match; (match = statement.exec(code));) if (match[3]) found.push(match[3]);
  return found;
}

function resolve(specifier: string, base: string): string {
  if (/^\.{0,2}\//.test(specifier)) return new URL(specifier, base).href;
  const { createRequire } = nodeProcess().getBuiltinModule("node:module");
  const found = bun
    ? attempt(() => bun.resolveSync(specifier, pathOf(new URL(".", base).href)))
    : attempt(() => import.meta.resolve(specifier)) ?? // by an import map
      attempt(() => createRequire(base).resolve(specifier));
  return found ? fileUrl(found) : specifier;
}

/**
 * The name of a function that the main module exports: that cannot be imported while it runs, so a function is
 * known by its text, if that stands there once, and not inside of anything else.
 */
function exportOfMain(call: Callable, url: string, code: string): string | undefined {
  const { name } = call;
  const text = unescaped(Function.prototype.toString.call(call));
  const hasName = /^(?:async\s+)?(?:function|class)\b[\s*]*[\p{ID_Start}$_]/u.test(text);
  const declaration = hasName || name === "default" ? text : `${name} = ${text}`;
  const sites = code.split(declaration).slice(0, -1); // what stands before each
  const outside = sites.map((before) => DECLARATION.exec(before)).find((found) => found);
  if (!outside) return undefined;
  const [, isDirect, isDefault, list = ""] = outside;
  const alias = isDefault ? "default" : isDirect ? name : aliasOf(name, withoutComments(code));
  if (!alias || !isBalanced(list)) return undefined;
  if (sites.length > 1) {
    const fix = "give it a name of its own, or move it to a module";
    throw new TypeError(`Cannot tell which \`${name}\` of \`${url}\` this is: ${fix}`);
  }
  if (GUARDS.test(code)) return `${url}#${alias}`;
  const why = `which would start \`${url}\` again`;
  throw new TypeError(`Cannot run \`${name}\` in another process, ${why}: ${GUARD}`);
}

/** What stands before a declaration at the top of a script, as runtimes print it: Bun makes one list of several. */
const DECLARATION =
  /(?:^|\n(?:\/\*[^\n]*\*\/ )?|\b(export ))(default )?(?:(?:const|let|var) ((?:(?!\n\w).)*, )?)?$/s;

/** Whether all brackets in a piece of code are closed. */
function isBalanced(code: string): boolean {
  const bare = code.replace(/(["'`]).*?\1/gs, "");
  return bare.replace(/[^([{]/g, "").length === bare.replace(/[^)\]}]/g, "").length;
}

/** By which name a script exports what it declares elsewhere. */
function aliasOf(name: string, code: string): string | undefined {
  const statements = code.matchAll(/^\s*export\s*(?:default\s+([^\s;{]+)|\{([^}]*)\})\s*(?:;|$)/gm);
  const items = [...statements].flatMap(([, only, list = `${only} as default`]) => list.split(","));
  const pairs = items.map((item) => item.trim().split(/\s+as\s+/));
  const [, alias = name] = pairs.find(([local]) => local === name) ?? [name, ""];
  return alias.replace(/^["']|["']$/g, "");
}

/** The ways in which a script asks whether it is the program. */
const GUARDS =
  /\bimport\.meta\.main\b|\bmain\b[^\n;]*=\s*import\.meta\b|\brequire\.main\b|\bBun\.main\b|\bmainModule\b|\bargv\[1\]/;

// ------------------------------------------------------------------------------ what is deferred, and how

/** A call with its arguments; steps are numbered as they are made, which is an order to run them in. */
type Recorded = { order: number; call: unknown; args: unknown[] };
/** A part of what a step gives. */
type Part = { step: Recorded; path: Path };

/** What all copies of forrest in one process share. */
const SHARED = Symbol.for("forrest");
const shared: { steps: number } = (globalThis as Runtime)[SHARED] ??= { steps: 0 };

/** Records a step. */
function newStep(call: unknown, args: unknown[]): Recorded {
  for (const item of [call, ...args]) see(item);
  return { order: shared.steps++, call, args };
}

/** What a deferred value records; undefined for any other value. */
function partOf(value: unknown): Part | undefined {
  return typeof value === "function" ? (value as { [MARK]?: Part })[MARK] : undefined;
}

/** A deferred value for what a step gives, or for a part of that. */
function deferred(step: Recorded, path: Path = []): unknown {
  const part = { step, path };
  const show = () => describe(part);
  // an arrow function has no `construct` trap
  const target = Object.assign(function () {}, { [MARK]: part, [INSPECT]: show, [DENO]: show });
  return new Proxy(target, recorder);
}

/** By these, `console.log` finds how to show a value. */
const INSPECT = Symbol.for("nodejs.util.inspect.custom");
const DENO = Symbol.for("Deno.customInspect");

const refuse = (use: string) => (): never => {
  const why = "as it is not there before its task runs";
  const fix = "pass it to `defer(fn, value)` and do that in `fn`";
  throw new TypeError(`Cannot ${use} a deferred value, ${why}: ${fix}`);
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
  apply: (target, _owner, args) => deferred(newStep(target, args)),
  construct: refuse("construct with"),
  set: refuse("assign to"),
  deleteProperty: refuse("delete from"),
  ownKeys: refuse("list the keys of"),
  has: refuse("look for a key in"),
};

/** The call that a part stands for. */
function describe({ step: { call, args }, path }: Part, depth = 4): string {
  const shown = (value: unknown): string => {
    const part = partOf(value);
    if (part) return depth ? describe(part, depth - 1) : "…";
    if (typeof value === "function") return value.name || "(anonymous)";
    if (typeof value === "object" && value) return Array.isArray(value) ? "[…]" : "{…}";
    return typeof value === "string" ? JSON.stringify(value) : String(value);
  };
  const list = args.map(shown).join(", ");
  const method = partOf(call) && `${shown(call)}(${list})`;
  const whole = method ?? `defer(${call === undefined ? "" : `${shown(call)}, `}${list})`;
  return `${whole}${pathText(path)}`;
}

/** Where a function stands in the steps of a task, until its name is put there. */
// deno-lint-ignore no-explicit-any
type Place = { into: any; key: "call" | "$function" };

/** The steps of a task in the order in which they were made, and the places of the functions in them. */
function build(task: unknown): [Step[], Place[]] {
  const end = partOf(task) ?? { step: newStep(undefined, [task]), path: [] };
  const found = new Map<Recorded, Step>([[end.step, {}]]);
  const links: { $step: number; path: Path }[] = [];
  const functions: Place[] = [];
  const link = ({ step, path }: Part) => {
    if (!found.has(step)) found.set(step, {});
    return links[links.push({ $step: step.order, path }) - 1];
  };
  const leaf = (call: Callable) => {
    const part = partOf(call);
    if (part) return link(part);
    const into = { $function: call };
    functions.push({ into, key: "$function" });
    return into;
  };
  for (const [{ call, args }, into] of found) { // which also visits what is added meanwhile
    if (call === undefined) into.value = encode(args[0], "value", leaf);
    else {
      const part = partOf(call);
      into.call = part ? link(part) : call;
      into.args = args.map((item, index) => encode(item, `args[${index}]`, leaf));
    }
    if (typeof into.call === "function") functions.push({ into, key: "call" });
  }
  const steps = [...found].sort(([a], [b]) => a.order - b.order);
  const index = new Map(steps.map(([{ order }], index) => [order, index]));
  const result = end.path.length ? [{ value: link(end) }] : [];
  for (const link of links) link.$step = index.get(link.$step)!;
  return [[...steps.map(([, step]) => step), ...result], functions];
}

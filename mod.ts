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
import { isAlive, locate, type Outcome, type Result, type State, states } from "./files.ts";
import { apply, attempt, bun, collect, compile, cwd, deathOf, decode, deno } from "./runner.ts";
import { describe, encode, encodeThrown, enter, errorOf, fileUrl, GUARD } from "./runner.ts";
import { holdersIn, isCompiled, isEndOfJob, load, nodeProcess, ORDER, pathOf } from "./runner.ts";
import { pathText, print, refuseWhileImporting, resolve, RUNNER, runSteps } from "./runner.ts";
import { SERVE, sleep, spawn, tell, WORD, type Work, workOf } from "./runner.ts";
import type { Callable, Child, CommandOptions, Path, Runtime, Step, Stream } from "./runner.ts";

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
// deno-lint-ignore no-explicit-any
export type AnyParts = { (...args: any[]): Deferred<any>; readonly [key: string]: Deferred<any> };

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
export type Signature<A extends unknown[], R> = (...args: Inputs<A>) => Deferred<Awaited<R>>;

/** What may be given for a `T`: the value, a deferred, or a value with deferreds in it. */
export type Input<T> =
  | T
  | Marked<T>
  | (T extends Callable ? never
    : T extends readonly (infer I)[] ? I[] extends T ? readonly Input<I>[] : Inputs<T>
    : T extends object ? { [K in keyof T]: Input<T[K]> }
    : never);

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
  const name = call instanceof URL && call.hash ? call.href : undefined; // another URL is data
  return deferred(name ? newStep(name, args) : newStep(undefined, [call]));
}

/**
 * Defers a run of a program; its value is what the program writes to its standard output: a text, or
 * bytes if that is not UTF-8.
 *
 * The task fails if the program does, with `code`, `signal` and the end of its output in the error; also
 * if it writes more than 100 MB. It has ended when its process has.
 *
 * @throws {TypeError} If `argv` is no array, or if there is no such option.
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
  checkNames(options, ["shell"], " of `command`");
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
  const steps = await build(task, (call) => globalName(call) ?? call);
  return await runSteps({ steps }) as T;
}

// -------------------------------------------------------------------------------------------- lists

/** The options of a {@linkcode TaskList}. */
export interface ListOptions {
  /**
   * Take a directory that exists; its tasks and its log are removed, unless `preClean` is false.
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
  /** A file for all output of tasks and a line for each event, in place of the terminal and of `log.txt` in the list. */
  logFile?: string | undefined;
}

/** The options of {@linkcode TaskList.schedule}. */
export interface ScheduleOptions {
  /** Anything that can be stored; it comes back with the result. */
  metadata?: unknown;
  /** The name of its file, without `.json`. An id that the list has, in any state, is not scheduled again. */
  id?: string;
  /** The directory in which it runs, in place of the one in which the run was started. */
  cwd?: string | undefined;
}

/**
 * What became of a `schedule()`: the id of the task, and whether it was scheduled, which it is not if the list has
 * a task with this id already, or skips every task (`noScheduleIfExist`).
 */
export type Scheduled = { id: string; scheduled: boolean };

/** A task as it is stored, with its metadata, value and error read back: `state` says which of these it has. */
export type Task<T = unknown> =
  & AnyTask
  & (
    | { state: "done"; returnValue: T; errorValue?: undefined }
    | { state: "fail"; returnValue?: undefined; errorValue: unknown }
    | { state: "todo" | "running"; returnValue?: undefined }
  );

/** What tasks of all states may have. If a file cannot be read, its error says so, in any state. */
export interface AnyTask {
  /** The name of its file, without `.json`. */
  id: string;
  /** The folder that it lies in. */
  state: State;
  /** What it calls. */
  steps?: Step[];
  /** The directory in which it runs, if that is not the one of the run. */
  cwd?: string;
  /** What was attached to it with `schedule()`. */
  metadata?: unknown;
  /** How often it was started. */
  attempts?: number;
  /** How many runs have died while it was running, until it has an outcome. */
  crashes?: number;
  /** Which retry it waits for, counted from 1. */
  retried?: number;
  /** When it was last started, in ISO 8601. */
  started?: string;
  /** How long it ran, in seconds. */
  runtime?: number;
  /** What its last step returned. */
  returnValue?: unknown;
  /** What was thrown: an error of the same class, if that is built in, with the original stack. */
  errorValue?: unknown;
}

/**
 * A run: it begins when it is looped over, and gives its tasks as they finish, or awaited, and gives them
 * all. `total` is how many there are: those that have finished, and those to come.
 */
export type Run<T> =
  & Tasks<T, Outcomes>
  & PromiseLike<(Task<T> & { state: Outcomes })[]>
  & { readonly total: number };

/** The states of tasks that have an outcome. */
export type Outcomes = "done" | "fail";

/** Tasks, one after the other. */
export type Tasks<T, S extends State = State> = AsyncGenerator<Task<T> & { state: S }, void, void>;

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
  #list: List;
  #skip: boolean;
  #add: (task: files.Addition) => Promise<boolean>;

  /**
   * Makes the directory, or takes the one that is there.
   *
   * @throws {Error} If the directory exists, and neither `existOk` nor `noScheduleIfExist` is set; or if
   * its tasks were to be removed while some of them are running.
   * @throws {TypeError} If there is no such option.
   */
  constructor(directory: string | URL, options: ListOptions = {}) {
    refuseWhileImporting();
    checkNames(options, LIST_OPTIONS, " of a task list");
    this.directory = fullPath(directory);
    const { existOk, preClean = true, noScheduleIfExist = false } = options;
    const logFile = options.logFile && fullPath(options.logFile); // wherever the program goes
    this.#list = { ...options, directory: this.directory, logFile, pending: new Set() };
    const isThere = files.exists(this.directory);
    this.#skip = isThere && noScheduleIfExist;
    this.#add = files.adderTo(this.directory, options.retryFailed);
    if (isThere && !existOk && !noScheduleIfExist) {
      const fix = "take it as it is with `existOk: true, preClean: false`, or another name";
      throw new Error(`Cannot make the task list \`${this.directory}\`, as it exists: ${fix}`);
    }
    const isList = states.some((state) => files.exists(`${this.directory}/${state}`));
    files.makeFolders(this.directory);
    if (!isList || !preClean || this.#skip) return;
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
  schedule<V extends Input<T>>(
    task: V extends Marked<unknown> ? V : V extends Callable | PromiseLike<unknown> ? never : V,
    options: ScheduleOptions = {},
  ): Promise<Scheduled> {
    const { pending } = this.#list;
    const scheduled: Promise<Scheduled> = this.#schedule(task, options)
      .finally(() => pending.delete(scheduled));
    pending.add(scheduled);
    return scheduled.then((result) => result); // a new one, so that its error is unhandled as long as nobody handles it
  }

  async #schedule(task: unknown, options: ScheduleOptions): Promise<Scheduled> {
    checkNames(options, ["metadata", "id", "cwd"], " of `schedule`");
    const { metadata, id = files.newId(), cwd } = options;
    files.checkId(id);
    if (!partOf(task) && (typeof task === "function" || typeof Object(task).then === "function")) {
      const what = typeof task === "function" ? "function" : "promise";
      throw new TypeError(`Cannot schedule a ${what}, which is no task: \`defer(fn, ...)\` is one`);
    }
    if (this.#skip) return { id, scheduled: false };
    const place = cwd === undefined ? {} : { cwd: fullPath(cwd) };
    const stored = metadata === undefined ? {} : { metadata: encode(metadata, "metadata") };
    const steps = await build(task, refer);
    const text = files.formatTask({ steps, ...place, ...stored });
    const scheduled = await this.#add({ id, text, isNew: options.id === undefined });
    const log = logTo(nothing, this.#list.logFile);
    if (scheduled) log.event(id, "is scheduled");
    attempt(log.flush); // if it cannot be written, a run will say so
    return { id, scheduled };
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
    return new ListRun(this.#list, withDefaults(options)).begin() as Run<T>;
  }

  /** The tasks that wait. */
  todoTasks(): Tasks<T, "todo"> {
    return tasksIn(this.#list, "todo") as Tasks<T, "todo">;
  }

  /** The tasks that are being run. */
  runningTasks(): Tasks<T, "running"> {
    return tasksIn(this.#list, "running") as Tasks<T, "running">;
  }

  /** The tasks that have a return value. */
  doneTasks(): Tasks<T, "done"> {
    return tasksIn(this.#list, "done") as Tasks<T, "done">;
  }

  /** The tasks that have an error. */
  failTasks(): Tasks<T, "fail"> {
    return tasksIn(this.#list, "fail") as Tasks<T, "fail">;
  }

  /** How many tasks each folder holds, without reading them. */
  count(): Record<State, number> {
    const counts = states.map((state) => [state, countIn(this.directory, state)]);
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
    await Promise.allSettled(this.#list.pending);
    const ids = Array.isArray(which) ? new Set(which) : undefined;
    let moved = 0;
    for (const path of this.paths("fail")) {
      const { id } = locate(path);
      const isWanted = typeof which === "function" ? which(readTask<T>(path)) : !ids || ids.has(id);
      if (isWanted && files.retry(this.directory, id)) moved++;
    }
    if (moved) await files.sync(`${this.directory}/todo`);
    return moved;
  }

  /** Puts back the tasks of runs that have died; `run()` does so by itself, and counts that as a crash. */
  recover(): void {
    const { claims } = files.takeOver(this.directory, files.newOwner(), killRest);
    claims.forEach(files.putBack);
  }

  /**
   * Removes tasks: all, with the log that lies beside them, or those of the states that are `true`, or all but
   * those that are `false`.
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
    if (chosen.length === removable.length) files.remove(files.logOf(this.directory));
  }

  /** With `postClean`, removes the tasks, and the directory if nothing else lies in it. */
  [Symbol.dispose](): void {
    if (!this.#list.postClean) return;
    this.clean();
    files.removeFolders(this.directory);
  }

  /** Like `[Symbol.dispose]()`, after what is being scheduled has been written. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#list.pending);
    this[Symbol.dispose]();
  }
}

const UNUSED = "forrest: a `run()` was neither looped over nor awaited: it has done nothing\n";

/** Reads the task file at `path`; if that cannot be read, the error of the task says so. */
export function readTask<T = unknown>(path: string): Task<T> {
  return toTask(path, () => files.readText(path)) as Task<T>;
}

function toTask(path: string, read: () => string): AnyTask {
  const { id, state } = locate(path);
  try {
    const task = files.parseTask(read());
    if (!task) throw new SyntaxError("It is no object in JSON");
    for (const key of ["metadata", "returnValue", "errorValue"]) {
      if (key in task) task[key] = decode(task[key]);
    }
    return { ...task, id, state };
  } catch (cause) {
    return { id, state, errorValue: new Error(`Cannot read the task \`${path}\``, { cause }) };
  }
}

/** The options of {@linkcode exec}. */
export interface ExecOptions extends Pick<RunOptions, "session"> {
  /**
   * Throw what the task throws.
   *
   * @default {false}
   */
  raise?: boolean | undefined;
  /** Where to write the task with its outcome, unless that is thrown. */
  output?: string | undefined;
}

/**
 * Runs one task file in this process; the file stays as it is.
 *
 * @throws {Error} If the file cannot be read.
 * @throws {TypeError} If there is no such option.
 *
 * @example
 * ```ts
 * import { exec } from "jsr:@x/forrest";
 *
 * const task = await exec("tasklist/fail/1.json", { raise: true }); // throws where the task does
 * console.log(task.returnValue);
 * ```
 */
export async function exec(path: string | URL, options: ExecOptions = {}): Promise<AnyTask> {
  checkNames(options, ["raise", "output", "session"], " of `exec`");
  const file = fullPath(path);
  const session = options.session && fileUrl(`${options.session}`);
  const output = options.output && fullPath(options.output);
  const text = files.readText(file);
  const directory = attempt(cwd)!;
  const started = new Date().toISOString();
  try {
    const told = await tell(() => workOf(text, file), session, options.raise);
    const written = files.withResult(text, { started, ...told });
    if (output) files.writeText(output, written);
    return toTask(file, () => written);
  } finally {
    attempt(() => enter(directory)); // as the task may have gone to its own
  }
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
   * Tasks that one process runs before another takes its place; with `concurrency`, by default without end.
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
   * Seconds before the first retry of a task, and by chance up to half as many more; twice that before the
   * next.
   *
   * @default {0}
   */
  retryDelay?: number | undefined;
  /**
   * Asked before a retry, with the seconds until that: if it returns false, the task has failed.
   *
   * @default {() => true}
   */
  retryIf?: ((error: unknown, task: Task, seconds: number) => boolean) | undefined;
  /**
   * How many tasks may be started in a second.
   *
   * @default {Infinity}
   */
  perSecond?: number | undefined;
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
  /**
   * Give the tasks that have an outcome already, too, before those that this run finishes.
   *
   * @default {false}
   */
  collect?: boolean | undefined;
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

/** The least that numbers may be, and what they are if it is not told: those that may be fractions, and others. */
const FRACTIONS = { autokill: 0.001, retryDelay: 0, perSecond: 0.001 };
const COUNTS = { tasksPerProcess: 1, concurrency: 1, maxCrashes: 1, retries: 0, maxFailures: 0 };
/** What is more than that, if it is not told; `processes` is one for each CPU then. */
const LIMITS = { autokill: Infinity, perSecond: Infinity, maxFailures: Infinity, maxCrashes: 3 };
const DEFAULTS = { ...FRACTIONS, ...COUNTS, ...LIMITS, processes: 1, permissions: ["--allow-all"] };
const OTHERS = "printErrors session ids onOutput signal mayStart retryIf collect".split(" ");
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
  const least = { ...FRACTIONS, ...COUNTS, processes: fewestProcesses };
  for (const [name, from] of Object.entries(least)) {
    const value = checked[name as "retries"];
    const mayBeFraction = name in FRACTIONS || value === Infinity;
    const isInRange = value >= from && (mayBeFraction || Number.isInteger(value));
    const wanted = `a ${mayBeFraction ? "" : "whole "}number from ${from} up`;
    expect(typeof value === "number" && isInRange, name, wanted, value);
  }
  const areFlags = Array.isArray(permissions) && permissions.every((flag) => FLAG.test(flag));
  expect(areFlags, "permissions", "an array of flags such as `--allow-net`", permissions);
  expect(Array.isArray(ids), "ids", "an array", ids);
  if (checked.ids) checked.ids = [...ids]; // which the program may change later
  for (const name of ["mayStart", "retryIf", "onOutput"] as const) {
    expect(typeof (checked[name] ?? nothing) === "function", name, "a function", checked[name]);
  }
  expect(!signal || signal instanceof AbortSignal, "signal", "an AbortSignal", signal);
  checkPermissions(permissions, checked.processes, !options.permissions);
  return checked;
}

/** A flag of Deno for a permission. */
const FLAG =
  /^(--(allow|deny|ignore)-(all|env|ffi|import|net|read|run|scripts|sys|write)|-[AEINRSW])(=|$)/;

/** Whether processes with these permissions may do everything. */
const isUnlimited = (permissions: string[]): boolean =>
  permissions.some((flag) => /^(-A|--allow-all)$/.test(flag)) &&
  !permissions.some((flag) => /^--(deny|ignore)-/.test(flag));

/** Throws if tasks cannot have these permissions; `areAll` says that nobody has asked for a limit. */
function checkPermissions(permissions: string[], processes: number, areAll: boolean): void {
  if ((!deno || isCompiled || !processes) && !isUnlimited(permissions)) {
    throw new TypeError("Cannot limit tasks: only processes of Deno have `permissions`");
  }
  if (!deno || !processes || !areAll) return;
  const kinds = ["read", "write", "net", "env", "run", "sys", "ffi", "import"];
  const missing = kinds.find((name) => deno.permissions.querySync({ name }).state !== "granted");
  if (!missing) return;
  throw new TypeError(`Without \`--allow-${missing}\`, say with \`permissions\` what tasks may do`);
}

// -------------------------------------------------------------------------------------------- map

/** What `map` reads items from; promises are waited for. */
export type Items<T> = Iterable<T | PromiseLike<T>> | AsyncIterable<T>;

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
export function map(call: Callable, ...rest: (Items<unknown> | MapOptions | undefined)[]): unknown {
  refuseWhileImporting();
  const isSource = (item: unknown) =>
    Symbol.iterator in Object(item) || Symbol.asyncIterator in Object(item);
  const given = (isSource(rest.at(-1)) ? {} : rest.pop() ?? {}) as MapOptions;
  const sources = rest.filter(isSource) as Items<unknown>[];
  const areOptions = Object.prototype.toString.call(given) === "[object Object]"; // and no promise
  const areAll = areOptions && sources.length === rest.length && rest.length > 0;
  if (typeof call !== "function" || !areAll) {
    const got = [call, ...rest, given].map((item) => `\`${item}\``).join(", ");
    throw new TypeError(`Expected a function, items, and perhaps options, got ${got}`);
  }
  checkNames(given, MAP_OPTIONS, " of `map`");
  const { ordered = true, ...others } = given;
  const options = { ...withDefaults({ ...others, tasksPerProcess: Infinity }, 0), ordered };
  see(call);
  return callAll(call, sources, options);
}

/** Reads items a few milliseconds ahead, has the calls made, and gives their results. */
async function* callAll(call: Callable, sources: Items<unknown>[], options: Options & MapOptions) {
  const { processes, concurrency, ordered } = options;
  const pool = new Pool({ ...options, ahead: 8, log: logTo(print), onChange: nothing });
  const ready: unknown[] = []; // results, or what will become one
  let ahead = 0; // how many items have been read whose results have not been given
  let isRead = false;
  const wake = () => pool.wake();
  const most = () => processes ? 4 * processes * Math.max(concurrency, pool.depth) : concurrency;
  const isFull = () => ahead >= most() || (processes > 0 && pool.isFull);
  pool.left = Math.min(...sources.map((it) => Array.isArray(it) ? it.length : Infinity));
  const readAll = async () => {
    const name = processes ? await refer(call) : undefined;
    const [owner, callee] = await load(globalName(call) ?? call);
    const make = async (args: unknown[]) => {
      if (!processes) return await apply(owner, callee, args);
      const steps = [{ call: name, args: encode(args, "item") as unknown[] }];
      const told = await pool.execute("", { steps });
      if ("errorValue" in told) throw decode(told.errorValue);
      return decode(told.returnValue);
    };
    for await (const args of zip(sources)) {
      while (isFull() && !pool.stopped) await pool.next();
      if (pool.stopped) return;
      pool.left--;
      ahead++;
      const result = make(args);
      const add = () => void ready.push(result);
      if (ordered) add();
      else result.then(add, add);
      result.then(wake, wake);
    }
  };
  const reading = readAll().finally(() => {
    isRead = true;
    wake();
  });
  reading.catch(nothing); // its error comes after the results
  const more = async () => {
    if (isRead && !ahead) {
      await reading;
      pool.endAll();
      if (!pool.isBusy) return false;
    }
    await pool.next();
    return true;
  };
  const stop = () => pool.stop(errorOf("Stopped by a signal, with items left to do"));
  for await (const result of handOn({ pool, ready, more, stop })) {
    ahead--;
    wake();
    yield result;
  }
}

/** Arrays of an item from each source, until the first of them ends. */
async function* zip(sources: Items<unknown>[]): AsyncGenerator<unknown[], void, void> {
  const [source = [], ...others] = sources;
  const rest = others.length ? zip(others) : undefined;
  try {
    for await (const item of source) { // one after the other: none is asked after the end of another
      const next = await rest?.next();
      if (next?.done) return;
      yield [item, ...next?.value ?? []];
    }
  } finally {
    await rest?.return();
  }
}

// ------------------------------------------------------------------------------- the run of a list

/** A list: its options, where it lies, and what is being scheduled. */
type List = ListOptions & { directory: string; pending: Set<Promise<unknown>> };

/** How many tasks of a state there are. */
const countIn = (directory: string, state: State): number => files.idsIn(directory, state).length;

/** Waits for what is being scheduled, and lets an error of it that nobody handles end the program first. */
async function arrivals({ pending }: List): Promise<void> {
  await Promise.allSettled(pending);
  await sleep(0);
}

/** The tasks of a state, as soon as what is being scheduled has been written. */
async function* tasksIn({ directory, pending }: List, state: State): Tasks<unknown> {
  await Promise.allSettled(pending);
  for (const path of files.pathsIn(directory, state)) {
    if (files.exists(path)) yield readTask(path);
  }
}

/**
 * The run of a list: it claims tasks (`fill`), has the pool execute each, files what came of it
 * (`carryOut`), and hands it on. It works on while its consumer is busy.
 */
class ListRun {
  readonly #list: List;
  readonly pool: Pool;
  readonly ready: string[] = []; // paths of the tasks that have finished, to be handed on
  readonly #claims = new Set<string>(); // paths of the tasks that this run has
  readonly #timers = new Set<Timer>(); // of what is to be done later
  #ids: string[] = []; // what is to be claimed, from the last to the first
  #filing: Promise<void> | undefined; // of the last outcome
  #unfiled = 0; // outcomes that are not in their places yet
  #finished = 0; // tasks that have been handed on
  #failures = 0;
  #total: number | undefined;
  #isPaused = false; // as no more may be started within this time
  #isOver = false; // nothing more is to be started

  constructor(list: List, options: Options) {
    this.#list = list;
    const { directory, logFile } = list;
    const show = options.onOutput ?? (logFile ? nothing : print);
    if (logFile) files.writeText(logFile, "", "a"); // which is to fail before anything is started
    const log = logTo(show, logFile ?? files.logOf(directory));
    this.pool = new Pool({ ...options, ahead: 50, log, onChange: () => this.#fill() });
    if (options.collect) this.#finished = countIn(directory, "done") + countIn(directory, "fail");
  }

  /** What its program gets of it. */
  begin(): Tasks<unknown> {
    const unused = () => print(UNUSED, "stderr");
    nodeProcess().on("exit", unused);
    const tasks = this.#tasks(unused);
    let all: Promise<unknown> | undefined;
    const then = (...handlers: []) => (all ??= Array.fromAsync(tasks)).then(...handlers);
    const { directory, pending } = this.#list;
    const coming = () => this.pool.options.ids?.length ?? pending.size + countIn(directory, "todo");
    const get = () => this.#total ??= this.#finished + coming();
    return Object.defineProperties(tasks, { total: { get }, then: { value: then } });
  }

  async *#tasks(unused: () => void): Tasks<unknown> {
    nodeProcess().off("exit", unused);
    const { collect, signal } = this.pool.options;
    const earlier = collect ? ["done", "fail"] as const : [];
    for (const state of earlier) yield* tasksIn(this.#list, state);
    const refresh = setInterval(() => files.refresh(this.#claims), files.lease() / 6);
    try {
      for await (const path of handOn(this, signal)) {
        this.#finished++;
        yield readTask(path);
      }
    } finally {
      clearInterval(refresh);
      await this.#filing?.catch(nothing); // so that what has been told is not thrown away
      this.stop();
      await arrivals(this.#list);
    }
  }

  /** Waits until something has changed; false if nothing is left to start or to wait for. */
  async more(): Promise<boolean> {
    this.#fill();
    const isRetried = this.#timers.size && !this.#isOver;
    if (!this.pool.isBusy && !this.#claims.size && !isRetried) {
      await arrivals(this.#list);
      if (!this.#isOver) return await this.#look();
      const { maxFailures } = this.pool.options;
      if (this.#failures <= maxFailures) return false;
      const count = `${this.#failures} failure${this.#failures === 1 ? "" : "s"}`;
      const rest = `tasks left in \`todo\`: ${countIn(this.#list.directory, "todo")}`;
      throw new Error(`Stopped after ${count} (\`maxFailures: ${maxFailures}\`): ${rest}`);
    }
    await this.pool.next();
    return true;
  }

  /** Looks for tasks in `todo` and for those of dead runs; false if there are none. */
  async #look(): Promise<boolean> {
    const { directory } = this.#list;
    const wanted = this.pool.options.ids && new Set(this.pool.options.ids);
    const isWanted = (id: string) => wanted?.has(id) ?? true;
    const { claims, isUnsure } = files.takeOver(directory, this.pool.owner, killRest);
    for (const claim of claims) {
      if (!isWanted(locate(claim).id)) files.putBack(claim);
      else this.#carryOut(claim, true).catch((error) => this.pool.stop(error));
    }
    const ids = files.idsIn(directory, "todo").filter(isWanted);
    this.#ids = ids.filter((id) => files.mayClaim(directory, id, this.pool.owner)).reverse();
    this.#total = this.#finished + claims.length + this.#ids.length;
    if (claims.length || this.#ids.length) return true;
    if (ids.length) {
      const name = JSON.stringify(`${ids[0]}.json`);
      const what = `${ids.length} of the files in \`todo\`, such as ${name}`;
      throw new Error(`Cannot run ${what}: their names are too long, or not in UTF-8: rename them`);
    }
    if (isUnsure) await sleep(Math.min(1000, files.lease() / 6));
    return isUnsure;
  }

  /** Starts tasks as long as there is room; also while the consumer is busy. */
  #fill(): void {
    const { mayStart, maxFailures } = this.pool.options;
    this.pool.options.log.flush();
    // if runners are faster than the disk, it is to keep up with them: what waits for it costs memory
    while (!this.#isPaused && this.ready.length < 1000 && this.#unfiled < 128) {
      if (!this.#ids.length || this.#isOver || this.pool.stopped) return this.pool.endAll();
      // of what is left, a runner gets half its share ahead, and no more than may still fail
      this.pool.left = Math.min(this.#ids.length, 2 * (maxFailures - this.#failures));
      if (this.pool.isFull || (mayStart && this.#unfiled)) return; // it is to see all outcomes in place
      if (mayStart?.() === false) this.#isOver = true;
      else this.#start(this.#ids.pop()!);
    }
  }

  /** Claims a task, and sees to it. */
  #start(id: string): void {
    const { directory } = this.#list;
    const claim = files.claim(directory, id, this.pool.owner);
    if (claim === undefined) {
      // another run is at work here: further down each has a stretch of the list to itself, and the order
      // is roughly kept; what is left out is found when this one looks again
      this.#ids.splice(-Math.floor(Math.random() * 100) || this.#ids.length);
    } else if (files.exists(`${directory}/done/${id}.json`)) {
      files.remove(claim);
      this.pool.options.log.event(id, "is dropped, as it is done already");
    } else {
      const { perSecond } = this.pool.options;
      this.#isPaused = perSecond < Infinity;
      if (this.#isPaused) this.#later(1000 / perSecond, () => this.#isPaused = false);
      this.#carryOut(claim).catch((error) => this.pool.stop(error));
    }
  }

  /** Sees to a task that was claimed, or left by a run that has died, until its outcome is in its place. */
  async #carryOut(claim: string, isLeft = false): Promise<void> {
    const { maxCrashes, maxFailures, retries, retryDelay, retryIf } = this.pool.options;
    this.#claims.add(claim);
    let text = "";
    let told: Result;
    try {
      text = files.readText(claim);
      const { id } = locate(claim);
      told = isLeft ? blame(text) : await this.pool.execute(id, workOf(text, `${id}.json`));
    } catch (error) { // it is no task, or cannot be read; or the run was stopped
      told = { started: new Date().toISOString(), runtime: 0, ...failed(error) };
    }
    const afterCrash = Number(told["crashes"]) < maxCrashes ? Infinity : 0;
    let outcome = files.outcomeOf(claim, text, told, isLeft ? afterCrash : retries);
    const delay = isLeft ? 0 : retryDelay * 2 ** Math.min(outcome.retried - 1, 99);
    // some time more, so that those that failed together are not tried again together
    const pause = delay * (1 + Math.random() / 2);
    const mayAsk = outcome.state === "todo" && !isLeft && !this.pool.stopped;
    const task = mayAsk && toTask(claim, () => outcome.text) as Task;
    const isFinal = task && retryIf && !retryIf(task.errorValue, task, pause);
    if (isFinal) outcome = files.outcomeOf(claim, text, told, 0);
    if (this.pool.stopped) return; // the task goes back
    const { state } = outcome;
    if (state === "fail") this.#failures++;
    this.#isOver ||= this.#failures > maxFailures;
    this.#unfiled++;
    await (this.#filing = files.file(outcome));
    this.#unfiled--;
    const isOurs = this.#claims.delete(claim); // or the run has been stopped meanwhile
    // if another run was faster, it may be at work on it still
    const isSettled = outcome.state === state || /done|fail/.test(outcome.state);
    if (isOurs && isSettled) this.#announce(outcome, pause);
    this.pool.wake();
  }

  /** Handles a task that has an outcome in its place: hands it on, or tries it again. */
  #announce({ claim, state, text }: Outcome, pause: number): void {
    const { id } = locate(claim);
    const { log, printErrors } = this.pool.options;
    if (state === "todo") {
      const { runtime = 0, errorValue } = toTask(claim, () => text);
      const [why] = describe(errorValue).split("\n");
      const told = `is retried in ${Number(pause.toFixed(3))} s: ${why}`;
      log.event(id, `has failed after ${runtime} s, and ${told}`);
      return this.#later(pause * 1000, () => this.#ids.push(id));
    }
    const path = `${this.#list.directory}/${state}/${id}.json`;
    log.event(id, `is in \`${state}\``);
    if (state === "fail" && printErrors) {
      const { inspect } = nodeProcess().getBuiltinModule("node:util");
      const shown = inspect(readTask(path).errorValue, { depth: 99 });
      log.printed(`${id}: ${shown}\n`, "stderr", id);
    }
    this.ready.push(path);
  }

  /** Does something later, unless the run has been stopped by then. */
  #later(time: number, action: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
      this.pool.wake();
    }, Math.min(time, LONGEST_TIMER));
    this.#timers.add(timer);
  }

  /** Kills what runs, and puts back all claims, at once: no call in here is asynchronous. */
  stop(): void {
    this.pool.stop();
    for (const timer of this.#timers) clearTimeout(timer);
    for (const claim of this.#claims) attempt(() => files.putBack(claim));
    this.#claims.clear();
    attempt(() => this.pool.options.log.flush());
  }
}

/** The death of a run as what came of a task that was in flight in it, as that may have been the cause. */
function blame(text: string): Result {
  const crashes = 1 + files.countOf(files.parseTask(text)?.["crashes"]);
  const times = `${crashes} of \`maxCrashes\` times`;
  const error = errorOf(`The run that this task was running in has died (${times})`);
  return { crashes, ...failed(error) };
}

type Show = (text: string, stream: Stream, ids: string) => void;

type Log = ReturnType<typeof logTo>;

/** Where a run tells what happens, and what its tasks print: on the terminal, and in a log if it has one. */
function logTo(show: Show, path?: string) {
  let text = ""; // not written yet
  /** Takes what has happened to a task; `mark` says that this is something else. */
  const event = (id: string, what: string, mark = "") => {
    if (path === undefined) return;
    const head = `${new Date().toISOString()} ${id} ${mark}`;
    text += `${head}${what.replace(/\n$/, "").replaceAll("\n", () => `\n${head}`)}\n`;
  };
  /** Writes what it has been given. */
  const flush = () => {
    if (text) files.writeText(path!, text, "a");
    text = "";
  };
  /** Takes lines that tasks have printed. */
  const printed: Show = (lines, stream, ids) => {
    show(lines, stream, ids);
    event(ids, lines, "| ");
    flush();
  };
  return { event, flush, printed };
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
  kind: string | undefined; // of a runner that it may share with others; undefined if with none
  answer: string; // as far as it has come
  begun: number; // in milliseconds; 0, if a runner has not begun it
  timer?: Timer; // until it must have been answered
  outcome: PromiseWithResolvers<Result>;
}

/** A process that does jobs. */
class Runner {
  readonly child: Child;
  readonly kind: string | undefined; // of the jobs that it may be given, if others than its first
  readonly marker: string; // what the environment of all its descendants contains
  readonly jobs = new Map<string, Job>(); // by their nonces, in the order in which they were given
  given = 0; // how many jobs it ever got
  printed = ""; // the end of it
  isEnding = false; // it gets nothing more
  isKilled = false;
  isQuiet = false; // it has printed nothing of late
  overdue: Job | undefined; // which has taken too long
  limit: Timer | undefined; // until it must have ended
  readonly #pool: Pool;
  readonly #unread = { stdout: "", stderr: "" }; // the beginnings of lines
  #unsent = "";
  #last: Job | undefined;

  /** Starts it for a job; one that gets no other has its order with its start, as that is faster. */
  constructor(job: Job, marker: string, pool: Pool) {
    const { permissions } = pool.options;
    const isShort = job.order.length < 33_000; // the system takes no more than 128 KiB, as bytes
    const isSingle = job.kind === undefined && isShort && isUnlimited(permissions);
    const inherited = attempt(() => nodeProcess().env["FORREST_TASKS"]) ?? "";
    const env = { FORREST_TASKS: inherited + marker, ...(isSingle ? { [ORDER]: job.order } : {}) };
    const command = runnerCommand(pool.options, job.steps, !isSingle);
    this.child = spawn(command, { env, cwd: pool.directory, hasInput: !isSingle, isLeader: true });
    this.#pool = pool;
    this.marker = marker;
    this.kind = job.kind;
    this.isEnding = isSingle;
  }

  /** The jobs that it is at; the others wait. */
  get begun(): Job[] {
    return [...this.jobs.values().take(this.#pool.options.concurrency)];
  }

  give(job: Job): void {
    const { tasksPerProcess } = this.#pool.options;
    this.given++;
    this.#last = job;
    this.jobs.set(job.nonce, job);
    if (this.isEnding) return; // it has its order
    // at once to a runner that has nothing else to do, or else with others of this turn of the event loop
    if (!this.#unsent && this.jobs.size > 1) setTimeout(() => this.#send());
    this.#unsent += `${job.order}\n`;
    if (this.jobs.size === 1) this.#send();
    // programs may share one in any case
    if (job.kind === undefined || (tasksPerProcess > 1 && this.given >= tasksPerProcess)) {
      this.end();
    }
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
    const expect = () => {
      if (this.isQuiet) this.kill(); // what a task has left may block it
      this.isQuiet = true;
    };
    if (!this.jobs.size) this.limit ??= setInterval(expect, 2500);
  }

  kill(): void {
    this.isEnding = this.isKilled = true;
    killGroup(this.child.pid);
    this.child.kill(); // as it may not lead its group yet
  }

  /** Reads the lines that it prints: those of its tasks, and its answers. */
  async read(stream: Stream): Promise<void> {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    await collect(this.child[stream], this.child.ended, (chunk) => {
      const text = decoder.decode(chunk, { stream: true });
      const end = text.lastIndexOf("\n") + 1; // to search all of a long line again takes too long
      const lines = end && this.#unread[stream] + text.slice(0, end);
      this.#unread[stream] = (end ? "" : this.#unread[stream]) + text.slice(end);
      if (lines) this.#take(lines, stream);
      if (this.#unread[stream].length > 1e6) this.flush(stream);
    });
    this.flush(stream);
    if (!this.isKilled) this.#print(this.#unread[stream], stream);
  }

  /** Takes lines: what tasks have printed, and in between, what answers a job or is a part of that. */
  #take(lines: string, stream: Stream): void {
    let begin = 0; // of what was printed since the last answer
    for (const match of lines.matchAll(ANSWER)) {
      const [head, nonce = "", size, end] = match;
      const job = this.jobs.get(nonce);
      if (!job) continue;
      this.#print(lines.slice(begin, match.index), stream);
      begin = lines.indexOf("\n", match.index) + 1;
      const part = lines.slice(match.index + head.length, begin - 1);
      const isTorn = part.length !== Number(size);
      job.answer = isTorn ? "" : job.answer + part;
      if (isTorn || end === ".") this.#pool.settle(this, job, files.parseTask(job.answer) ?? {});
    }
    this.#print(lines.slice(begin), stream);
  }

  /** Hands on what there is of a line, but for the beginning of an answer, whose lines are short. */
  flush(stream: Stream): void {
    const text = this.#unread[stream];
    const mark = text.indexOf("\x1e", Math.max(0, text.length - 5000));
    const end = mark < 0 ? text.length : mark;
    this.#unread[stream] = text.slice(end);
    this.#print(text.slice(0, end), stream);
  }

  #print(text: string, stream: Stream): void {
    if (!text) return;
    this.isQuiet = false;
    this.printed = (this.printed + text).slice(-2000);
    const begun = this.begun.length ? this.begun : [this.#last!];
    const ids = begun.map(({ id }) => id).join(",");
    this.#pool.try(() => this.#pool.options.log.printed(text, stream, ids));
  }
}

/**
 * The options of a run, and how many milliseconds of work a runner is given beyond what it works on, where to tell
 * what happens, and what to do when something has changed.
 */
type PoolOptions = Options & { ahead: number; log: Log; onChange: () => void };

/**
 * Runners, and what they are to do. Who uses it sees `execute`, and what came of it.
 *
 * A job waits in the queue; it is given to a runner, which begins it at once or after the ones before; it is
 * settled by its answer, by its timeout, or by the death of its runner. Of a runner that dies and that had
 * several jobs, nobody knows which was to blame: those that it had begun wait again, each for a runner of its
 * own. A runner is one of two: that of a single job, which has its order with its start, or one that reads orders.
 */
class Pool {
  readonly options: PoolOptions;
  readonly owner = files.newOwner();
  // wherever the program goes later; where it has none any more, no process starts
  readonly directory = attempt(cwd) ?? "none";
  readonly #timeout: number | undefined; // milliseconds that a job may take
  readonly #runners = new Set<Runner>();
  #queue: Job[] = [];
  #answered = 0; // jobs, but for the first of each runner, which has to load modules as well
  #worked = 0; // milliseconds that these took
  #watchdog: Child | undefined;
  #waiting: (() => void)[] = []; // what is to go on at the next change
  /** How much work is still to come, as far as that is known: near the end it is shared out. */
  left = Infinity;
  /** That it was stopped, and the error for which. */
  stopped: { reason: unknown } | undefined;

  constructor(options: PoolOptions) {
    this.options = options;
    const timeout = options.autokill * 1000;
    this.#timeout = timeout <= LONGEST_TIMER ? timeout : undefined;
  }

  /** Has work done; resolves with what came of them, be it the death of their runner; rejects if it is stopped. */
  execute(id: string, { steps, cwd }: Work): Promise<Result> {
    const { session, concurrency, tasksPerProcess, permissions } = this.options;
    // a program is a process of its own anyway
    const isProgram = steps.length === 1 && steps[0]?.call === COMMAND;
    const isShared = isProgram || tasksPerProcess > 1;
    // as one with limited permissions can read the modules of its first job, and no others
    const modules = isUnlimited(permissions) ? "" : `${modulesOf(steps, session)}`;
    const kind = isShared ? modules : undefined;
    const nonce = crypto.randomUUID();
    const timeout = concurrency > 1 ? this.#timeout : undefined;
    const order = JSON.stringify({ nonce, steps, cwd, session, concurrency, timeout });
    const outcome = Promise.withResolvers<Result>();
    this.#queue.push({ id, steps, nonce, order, kind, answer: "", begun: 0, outcome });
    this.#place();
    return outcome.promise;
  }

  /** Whether work would have to wait here. */
  get isFull(): boolean {
    return this.#queue.length > 0 || !this.#room();
  }

  /** Whether there is work, or a process that has not ended yet. */
  get isBusy(): boolean {
    return this.#runners.size > 0 || this.#queue.length > 0;
  }

  /** How many jobs a runner may be given beyond what it works on. */
  get depth(): number {
    // by what runners say that jobs take, as answers come late where all cores are busy
    return Math.min(128, this.#answered, this.options.ahead * this.#answered / this.#worked || 0);
  }

  /** Resolves at the next change. */
  next(): Promise<void> {
    return new Promise((resolve) => this.stopped ? resolve() : this.#waiting.push(resolve));
  }

  /** Goes on, as something has changed. */
  wake(): void {
    this.#place();
    if (!this.stopped) this.try(this.options.onChange);
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Gives jobs to runners, as long as there is room. */
  #place(): void {
    for (let job; (job = this.#queue[0]) && !this.stopped; this.#queue.shift()) {
      const room = this.#room(job);
      if (!room) return;
      // as the system may start no more processes
      this.try(() => this.#begin(room === "new" ? this.#start(job) : room, job));
    }
  }

  /** The runner that a job can be given to, or that one is to be started; undefined if it has to wait. */
  #room(job?: Job): Runner | "new" | undefined {
    const { concurrency, processes } = this.options;
    // more than it works on only if it works them off one by one, and no more than its share of the rest
    const ahead = Math.min(this.depth, Math.floor(this.left / processes / 2));
    let least = concurrency > 1 ? concurrency : Math.max(1, ahead);
    let busy = 0;
    let found: Runner | undefined;
    for (const runner of this.#runners) {
      if (runner.jobs.size) busy++;
      if (runner.isEnding || runner.jobs.size >= least) continue;
      if (job && runner.kind !== (job.kind ?? job.nonce)) continue;
      least = runner.jobs.size;
      found = runner;
    }
    if (busy < processes) return found?.jobs.size === 0 ? found : "new";
    return found?.jobs.size ? found : undefined; // one that is idle would be one more
  }

  /** Starts a runner for a job. */
  #start(job: Job): Runner {
    for (const runner of this.#runners) if (!runner.jobs.size) runner.end(); // which is of another kind
    this.#watchdog ??= startWatchdog(`/${this.owner}.`);
    const runner = new Runner(job, `/${this.owner}.${files.newId()}/`, this);
    this.#runners.add(runner);
    this.#watch(runner).catch((error) => this.stop(error));
    return runner;
  }

  /** Notes at which jobs a runner is by now, given one more, and sees to it that they do not take too long. */
  #begin(runner: Runner, more?: Job): void {
    if (more) runner.give(more);
    if (runner.isKilled) return;
    for (const job of runner.begun.filter(({ begun }) => !begun)) {
      job.begun = Date.now();
      this.options.log.event(job.id, `is started in process ${runner.child.pid}`);
      const expire = () => {
        runner.overdue = job;
        killAll(runner.marker); // first, as this finds others by their parents
        runner.kill();
      };
      // once more, as its answer may be on its way, also if we were stopped, as by Ctrl-Z
      const wait = () => job.timer = setTimeout(expire, this.options.concurrency > 1 ? 500 : 50);
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
      runner.read("stdout").finally(() => runner.end()), // it can answer no more
      runner.read("stderr"),
    ]);
    if (runner.overdue && !runner.isKilled) killAll(runner.marker); // also what has left its group
    if (isEndOfJob(death) && !runner.isKilled) await sleep(500); // as this process may be to end, too
    this.#runners.delete(runner);
    this.#lose(runner, deathOf("The process of this task", death, runner.printed));
    clearTimeout(runner.limit);
    this.wake();
  }

  /** Takes what came of a job; if that is neither value nor error, it took too long, or an answer was torn. */
  settle(runner: Runner, job: Job, result: files.Stored): void {
    clearTimeout(job.timer);
    runner.flush("stderr");
    const { runtime = (Date.now() - job.begun) / 1000, returnValue, errorValue } = result;
    if (runner.given > runner.jobs.size) { // it is not its first one
      this.#answered++;
      this.#worked += Number(runtime) * 1000;
    }
    runner.jobs.delete(job.nonce);
    if (result["isOverdue"]) runner.overdue = job;
    const fault = () => failed(runner.overdue === job ? overdue(this.options) : torn());
    const error = () => errorValue === undefined ? fault() : { errorValue };
    const outcome = returnValue === undefined ? error() : { returnValue };
    const started = new Date(job.begun).toISOString();
    job.outcome.resolve({ started, runtime: Number(runtime), ...outcome });
    if (runner.isEnding || runner.overdue) runner.end(); // after the others, as that one is at work still
    this.#begin(runner);
    this.#place();
  }

  /** Sees to what a dead runner has held. */
  #lose(runner: Runner, death: Error): void {
    const [job, ...others] = runner.begun; // of several, nobody knows which it was
    const isOverdue = job === runner.overdue && !others.length;
    if (job && isOverdue) this.settle(runner, job, {});
    else if (job && runner.given === 1 && !runner.isKilled) this.settle(runner, job, failed(death));
    const left = [...runner.jobs.values()];
    for (const { timer } of left) clearTimeout(timer);
    // who dies in company runs again alone, who only waited, with others
    const kindOf = ({ begun, kind }: Job) => begun ? undefined : kind;
    const again = left.map((job) => ({ ...job, kind: kindOf(job), begun: 0, answer: "" }));
    this.#queue.unshift(...again);
  }

  /** What the run or the program adds may fail, and ends everything then. */
  try(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.stop(error);
    }
  }

  /** Kills all that runs, at once: no call in here is asynchronous. */
  stop(reason?: unknown): void {
    if (this.stopped) return;
    this.stopped = { reason };
    if (this.#runners.size) killAll(`/${this.owner}.`);
    const jobs = [...this.#runners].flatMap(({ jobs }) => [...jobs.values()]);
    for (const runner of this.#runners) runner.kill();
    for (const { outcome } of [...jobs, ...this.#queue]) outcome.reject(reason);
    this.#queue = [];
    this.#watchdog?.close(); // which the system does if this process dies
    this.wake();
  }
}

/** An error as the outcome of a task. */
const failed = (error: unknown) => ({ errorValue: encodeThrown(error) });

const overdue = ({ autokill }: Options): Error =>
  errorOf(`The task was killed after ${autokill} s (\`autokill\`)`, { name: "TimeoutError" });

/** How an answer to a job, or a part of it, begins: with nonce, length, and whether it is the last part. */
// deno-lint-ignore no-control-regex
const ANSWER = /\x1e([\w-]{36})(?: (\d+)([+.]))?/g;

const torn = (): Error =>
  errorOf("What this gave was lost, as others printed meanwhile: let them write to files");

// ------------------------------------------------------------------------------ how runners are started

/** The command of a runner. */
function runnerCommand(limits: Limits, steps: Step[], hasInput: boolean): string[] {
  const program = deno ? deno.execPath() : nodeProcess().execPath;
  const code = `import.meta.require("${RUNNER}");${CALL}`;
  const args = isCompiled ? [WORD] : deno ? denoArgs(limits, steps) : ["-e", code, WORD];
  // its orders come by another descriptor, so that no task reads them from its standard input
  const isApart = hasInput && isUnlimited(limits.permissions);
  const shell = isApart ? ["sh", "-c", 'exec "$@" 3<&0 </dev/null', "sh"] : [];
  return [...shell, program, ...args];
}

const CALL = `globalThis[Symbol.for("${SERVE}")]()`;

/** What runners may do on Deno, and the URL of the session module. */
export type Limits = { permissions: string[]; session?: string };

/**
 * Deno takes import map, packages and lock file from beside its main module, so it is given one that would
 * lie in the project of the program, or of a task's module that is none of the program's. It never gets
 * there, as the runner exits in the preloaded module; that waits for the runner, and is no module of ours, as
 * task modules import them.
 */
export function denoArgs(limits: Limits, steps: Step[], main = SERVING): string[] {
  const { permissions, session } = limits;
  const modules = modulesOf(steps, session);
  const imports = modules.map((module) => `() => import(${JSON.stringify(module)})`);
  // a module that a preloaded one could import by a literal name needs no permission to be read
  const code = [main, ...isUnlimited(permissions) ? [] : imports].join(";");
  const preload = `data:text/javascript,${encodeURIComponent(code)}`;
  const others = modules.filter((url) => url !== session && !isOfProgram(url));
  const isFile = (url: string) => url.startsWith("file:") && url !== COMMAND_LINE;
  const own = [...others, mainModule()].find(isFile) ?? fileUrl("forrest");
  const nowhere = `${own.slice(0, own.lastIndexOf("/"))}/${WORD}.js`;
  return ["run", ...permissions, "--no-prompt", "--preload", preload, nowhere];
}

/** The modules of the functions that steps call, and that of the session. */
function modulesOf(steps: Step[], session = ""): string[] {
  const inside = holdersIn(steps).map((it) => it.$function);
  const called = [...steps.map(({ call }) => call), ...inside, `${session}#`];
  const names = called.filter((call) => typeof call === "string" && call.length < 5000);
  return [...new Set(names.flatMap((call) => /^([^\0]+)#[^#]*$/.exec(`${call}`)?.[1] ?? []))];
}

const SERVING = `import "${RUNNER}"; await ${CALL}`;

/** The command, which is not the program of those who use it. */
const COMMAND_LINE = new URL("cli.ts", RUNNER).href;

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

/** Kills what a dead run has left running. */
const killRest = (maker: string): void => killAll(`/${maker}.`);

function killAll(mark: string): void {
  const { spawnSync } = nodeProcess().getBuiltinModule("node:child_process");
  spawnSync("sh", ["-c", KILL, mark]);
}

// ---------------------------------------------------------------------------- how the program ends

/** What a run and a `map` have in common: a pool, and what is to be handed on, in this order. */
type Source<R> = Pick<ListRun, "pool" | "more" | "stop"> & { ready: (R | Promise<R>)[] };

const NUMBERS: Record<string, number> = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 };

/** Hands on results; whatever becomes of this program, nothing that the pool has started outlives it. */
async function* handOn<R>(source: Source<R>, signal?: AbortSignal): AsyncGenerator<R, void, void> {
  const { pool, ready } = source;
  const process = nodeProcess();
  const stop = () => source.stop();
  let isEnding = false; // this program, by a signal, which does what it does
  const listenTo = (name: string) => {
    return listen(name, () => {
      stop();
      release();
      if (process.listenerCount(name) > 0 || (deno && attempt(() => listensOnDeno(name)))) return;
      isEnding = true;
      if (process.pid === 1) process.exit(128 + NUMBERS[name]!); // of a container, which survives its own
      process.kill(process.pid, name);
    });
  };
  const releases = signal ? [] : Object.keys(NUMBERS).map(listenTo);
  const release = () => {
    globalThis.removeEventListener?.("unload", stop);
    process.off("exit", stop);
    signal?.removeEventListener("abort", stop);
    for (const end of releases) end();
  };
  if (deno) globalThis.addEventListener("unload", stop);
  else process.on("exit", stop);
  signal?.addEventListener("abort", stop);
  if (signal?.aborted) stop();
  try {
    while (ready.length || (!pool.stopped && await source.more())) {
      if (ready.length) yield await ready.shift()!;
    }
    if (pool.stopped?.reason !== undefined) throw pool.stopped.reason;
  } finally {
    pool.stop();
    if (isEnding) await new Promise(nothing); // nothing after the loop is to run
    release();
  }
}

/** Starts what waits for the death of this program, and then kills what it has started, by its mark. */
function startWatchdog(mark: string): Child {
  // Deno kills its children if this program ends with an error, but not theirs
  const wait = `cat > /dev/null; ${KILL}`;
  const script = deno ? `exec 3<&0; { exec <&3; ${wait}; } &` : wait;
  const watchdog = spawn(["sh", "-c", script, mark], { hasInput: true, isLeader: true });
  for (const output of [watchdog.stdout, watchdog.stderr]) output.cancel().catch(nothing);
  return watchdog;
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
  // as soon as Deno listens to one signal, it ends by any other that nobody listens to
  const heard = isIgnored(signal) ? nothing : listener;
  if (heard === listener || deno) process.on(signal, heard);
  return () => void process.off(signal, heard);
}

/** Whether the program listens to a signal by Deno's own means: then one more listener is no more of a resource. */
function listensOnDeno(name: string): boolean {
  const count = () => Object.keys(deno[deno.internal].core.resources()).length;
  const before = count();
  deno.addSignalListener(name, nothing);
  const isSame = count() === before;
  deno.removeSignalListener(name, nothing);
  return isSame;
}

let status: string | undefined; // of this process, before we began to listen

/** Whether the system has noted a signal as one that is ignored. */
function isIgnored(name: string): boolean {
  status ??= files.readable("/proc/self/status"); // empty if this is not Linux, or it is not permitted
  const digits = /SigIgn:\s*(\w+)/.exec(status)?.[1]?.slice(-8) ?? "0";
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
  const set = (how: object) => attempt(() => Object.assign(Error, how)); // unless it is frozen
  set({ stackTraceLimit: 100, prepareStackTrace: undefined }); // whatever the program wants
  seen.set(call, { stack: new Error().stack ?? "" });
  set({ stackTraceLimit, prepareStackTrace });
}

/** Says how a runner finds a function. */
function refer(call: Callable): Promise<Name> {
  see(call);
  const known = seen.get(call)!;
  return known.name ??= findName(call, known.stack);
}

let turn: Promise<unknown> = Promise.resolve();

async function findName(call: Callable, stack: string): Promise<Name> {
  // one after the other, so that each module is asked once
  const found = turn.then(() => globalName(call) ?? findExport(call, stack));
  turn = found.catch(nothing);
  const name = await found;
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

const mainModule = (): string =>
  deno ? deno.mainModule ?? (globalThis as Runtime).location.href : fileUrl(bun!.main); // of a worker

/** Finds a function among the exports of the modules on a stack, of the main module, and of what they import. */
async function findExport(call: Callable, stack: string): Promise<string | undefined> {
  const frames = stack.matchAll(/((?:file:|https?:|[A-Z]:\\|\/)[^\n]*?):\d+:\d+\)?$/gm);
  const places = Array.from(frames, ([, place = ""]) => fileUrl(place.replace(/^file:\/\//, ""))); // not encoded
  let isUnguarded = false;
  for (const [url, module] of reachable([...places, mainModule()])) {
    const exports = module.exports ??= (await exportsOf(url)).all;
    const valueOf = (key: PropertyKey) => attempt(() => Reflect.get(exports, key)); // if it has one already
    const name = Reflect.ownKeys(exports).findLast((key) => valueOf(key) === call);
    if (name === undefined) continue;
    const isGuarded = url !== mainModule() || GUARDS.test(module.code);
    if (isGuarded) return `${url}#${String(name).replace("module.exports", "default")}`; // as only Deno says
    isUnguarded ||= module.code !== ""; // or else nobody can tell, as it is no file
  }
  if (!isUnguarded) return undefined;
  const why = `which would start \`${mainModule()}\` again`;
  throw new TypeError(`Cannot run \`${call.name}\` in another process, ${why}: ${GUARD}`);
}

/**
 * What a module exports, also if it is evaluated still, as the main module is. Of two modules that import each
 * other, `inner` is evaluated before what `outer` imports after it, and throws what that exports: so no other
 * module is evaluated for this.
 */
async function exportsOf(url: string): Promise<{ all: object }> { // as what exports `then` cannot be awaited
  const { createRequire } = nodeProcess().getBuiltinModule("node:module");
  const required = deno && attempt(() => createRequire(url).cache[pathOf(url)]); // in the old style
  if (required) return { all: { ...required.exports, default: required.exports } };
  const outer = `forrest:${files.newId()}`;
  const inner = `${outer}.inner`;
  const withdraw = provide({
    [outer]: `import "${inner}"; export * as all from ${JSON.stringify(url)};`,
    [inner]: `import { all } from "${outer}"; throw { all };`,
  });
  const { all = {} } = await import(outer).catch((thrown) => thrown); // nothing, if there is no such module
  withdraw();
  return { all };
}

/** Lets modules with these texts be imported by their names; gives what ends that. */
function provide(texts: Record<string, string>): () => void {
  if (bun) {
    const setup = (build: Runtime) => {
      for (const name in texts) build.module(name, () => ({ contents: texts[name], loader: "js" }));
    };
    bun.plugin({ name: "forrest", setup });
    return nothing; // as nobody else knows these names
  }
  const { registerHooks } = nodeProcess().getBuiltinModule("node:module") as Runtime;
  // after a hook that loads, Deno would wait for what nothing will settle
  const resolve = (name: string, context: object, next: Callable) => {
    if (!Object.hasOwn(texts, name)) return next(name, context);
    const url = `data:text/javascript,${encodeURIComponent(texts[name]!)}`;
    return { url, format: "module", shortCircuit: true };
  };
  const hooks = registerHooks({ resolve });
  return () => hooks.deregister();
}

/** What is known of a module of this program. */
type Module = { code: string; imports: string[]; exports?: object };

const modules = new Map<string, Module>();

/** Modules but for ours, those that they import, and so on. */
function* reachable(urls: string[]): Generator<[string, Module], void, void> {
  const found = new Set(urls);
  for (const url of found) { // which also visits what is added meanwhile
    const isOurs = url === import.meta.url || url === RUNNER;
    if (isOurs && url !== mainModule()) continue; // which a program in one file is, too
    const module = modules.get(url) ?? lookInto(url);
    modules.set(url, module);
    yield [url, module];
    for (const other of module.imports) found.add(other);
  }
}

function lookInto(url: string): Module {
  const isPackage = url !== mainModule() && url.includes("/node_modules/"); // where nobody schedules from the inside
  const code = url.startsWith("file:") && !isPackage ? files.readable(pathOf(url)) : "";
  return { code, imports: importsIn(code).map((other) => resolve(other, url)) };
}

/** Whether the program consists of this module, too, as far as that shows along its imports. */
const isOfProgram = (url: string): boolean =>
  modules.has(url) || reachable([mainModule()]).some(([other]) => other === url);

/** From where a module imports more than types, as far as that can be told without reading all of the language. */
function importsIn(code: string): string[] {
  const lexeme = /("[^"\n]*"|'[^'\n]*')|`[^`]*`|\/\*.*?\*\/|\/\/[^\n]*/gs;
  const bare = code.replace(lexeme, "$1 "); // without comments and long texts
  const statement =
    /(?:^|;)\s*(?:im|ex)port\b\s*(?!type\b)(?:[^"'()=]*?\bfrom\b)?\s*(["'])(.*?)\1/gm;
  return Array.from(bare.matchAll(statement), ([, , specifier = ""]) => specifier);
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
const shared: { steps: number } = (globalThis as Runtime)[Symbol.for("forrest")] ??= { steps: 0 };

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
  const target = Object.assign(function () {}, { [MARK]: part, [INSPECT]: () => callText(part) });
  return new Proxy(target, recorder);
}

/** By this, `console.log` finds how to show a value. */
const INSPECT = Symbol.for("nodejs.util.inspect.custom");

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
  construct: refuse("construct with"), // which an arrow function as the target would not have
  set: refuse("assign to"),
  deleteProperty: refuse("delete from"),
  ownKeys: refuse("list the keys of"),
  has: refuse("look for a key in"),
};

/** The call that a part stands for. */
function callText({ step: { call, args }, path }: Part, depth = 4): string {
  const shown = (value: unknown): string => {
    const part = partOf(value);
    if (part) return depth ? callText(part, depth - 1) : "…";
    if (typeof value === "function") return value.name || "(anonymous)";
    if (typeof value === "object" && value) return Array.isArray(value) ? "[…]" : "{…}";
    return typeof value === "string" ? JSON.stringify(value) : String(value);
  };
  const isMethod = partOf(call) !== undefined;
  const listed = isMethod || call === undefined ? args : [call, ...args];
  return `${isMethod ? shown(call) : "defer"}(${listed.map(shown).join(", ")})${pathText(path)}`;
}

/** The steps of a task in the order in which they were made; `nameOf` says how a function is stored. */
async function build(task: unknown, nameOf: (call: Callable) => unknown): Promise<Step[]> {
  const whole = partOf(task);
  const end = whole?.path.length === 0 ? whole.step : newStep(undefined, [task]);
  const found = new Map<Recorded, Step>([[end, {}]]);
  const links: { $step: number; path: Path }[] = [];
  const functions: { $function: unknown }[] = [];
  const leaf = (call: Callable) => {
    const part = partOf(call);
    if (!part) return functions[functions.push({ $function: call }) - 1];
    if (!found.has(part.step)) found.set(part.step, {});
    return links[links.push({ $step: part.step.order, path: part.path }) - 1];
  };
  for (const [{ call, args }, into] of found) { // which also visits what is added meanwhile
    if (call === undefined) into.value = encode(args[0], "value", leaf);
    else {
      into.call = encode(call, "call", leaf);
      into.args = args.map((item, index) => encode(item, `args[${index}]`, leaf));
    }
  }
  const steps = [...found].sort(([a], [b]) => a.order - b.order);
  const index = new Map(steps.map(([{ order }], index) => [order, index]));
  for (const link of links) link.$step = index.get(link.$step)!;
  const rename = async (place: { $function: unknown }) => {
    const name = nameOf(place.$function as Callable); // at once, as the stack tells where it is known
    place.$function = name instanceof Promise ? await name : name;
  };
  await Promise.all(functions.map(rename));
  for (const [, step] of steps) step.call = Object(step.call).$function ?? step.call;
  return steps.map(([, step]) => step);
}

/**
 * What a run or a `map` can be told, and what it does if it is told nothing.
 *
 * @module
 */

import type { Task } from "./files.ts";
import { fileUrl, isBundled, type Stream, system } from "./system.ts";

/** The options of `TaskList.run()`. */
export interface RunOptions {
  /**
   * How many processes run tasks at once.
   *
   * @default {navigator.hardwareConcurrency}
   */
  processes?: number;
  /**
   * Seconds after which a task fails, and all its processes are killed.
   *
   * @default {Infinity}
   */
  autokill?: number;
  /**
   * Print the stack of every error at once.
   *
   * @default {false}
   */
  printErrors?: boolean;
  /** A module whose exports are in scope for functions that are stored as their text. */
  session?: string | URL;
  /**
   * Deno's permissions for tasks, such as `["--allow-net"]`; Bun has none.
   *
   * @default {["--allow-all"]}
   */
  permissions?: string[];
  /**
   * Tasks that one process runs before another takes its place.
   *
   * @default {1}
   */
  tasksPerProcess?: number;
  /**
   * Tasks that one process holds at once, for those that wait.
   *
   * @default {1}
   */
  concurrency?: number;
  /**
   * How often a task that failed is tried again; put back by hand, it begins anew.
   *
   * @default {0}
   */
  retries?: number;
  /**
   * Seconds before the first retry of a task; twice as many before the next.
   *
   * @default {0}
   */
  retryDelay?: number;
  /**
   * How many tasks may fail: after one more, nothing is started, and the run throws at its end.
   *
   * @default {Infinity}
   */
  maxFailures?: number;
  /**
   * How many runs may die while a task is running, until that task has failed.
   *
   * @default {3}
   */
  maxCrashes?: number;
  /** Ends the run as `break` would. If it is given, signals are left to the program. */
  signal?: AbortSignal;
  /** Run only the tasks with these ids. */
  ids?: string[];
  /**
   * Asked before each task: if it returns false, nothing more is started.
   *
   * @default {() => true}
   */
  mayStart?: () => boolean;
  /** Gets what tasks print, in place of the terminal. */
  onOutput?: (text: string, stream: Stream, id: string) => void;
}

/** The options of `map`. */
export interface MapOptions {
  /**
   * How many processes; 0 calls the function in this one.
   *
   * @default {navigator.hardwareConcurrency}
   */
  processes?: number;
  /**
   * Calls that one process holds at once, for those that wait.
   *
   * @default {1}
   */
  concurrency?: number;
  /**
   * Give the results in the order of the items, not as they finish.
   *
   * @default {true}
   */
  ordered?: boolean;
  /** A module whose exports are in scope for a function that is stored as its text. */
  session?: string | URL;
  /**
   * Deno's permissions for calls, such as `["--allow-net"]`; Bun has none.
   *
   * @default {["--allow-all"]}
   */
  permissions?: string[];
}

/** What `map` reads items from. */
export type Items<T> = Iterable<T> | AsyncIterable<T>;

/** Tasks, one after the other. */
export type Tasks<T> = AsyncGenerator<Task<T>, void, void>;

const optional = ["session", "ids", "onOutput", "signal", "mayStart"] as const;
type Optional = typeof optional[number];
/** All options of a run or a `map`: only those without a default may be missing. */
export type Options =
  & Required<Omit<RunOptions, Optional>>
  & Pick<RunOptions, Exclude<Optional, "session">>
  & { session?: string; ordered?: boolean }; // `session` is the URL of the module

/** The options that are given, as `undefined` is as good as none. */
const givenOf = (options: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));

/** Throws if one of the names is that of no option. */
export function checkNames(names: string[], known: readonly string[], whose = ""): void {
  const unknown = names.find((name) => !known.includes(name));
  if (unknown) throw new TypeError(`There is no option \`${unknown}\`${whose}`);
}

const ofMap = ["processes", "concurrency", "ordered", "session", "permissions"];

/** The options of a `map`, with their defaults. */
export function withMapDefaults({ ordered, ...options }: MapOptions): Options {
  checkNames(Object.keys(givenOf(options)), ofMap, " of `map`");
  return { ...withDefaults({ ...options, tasksPerProcess: Infinity }, 0), ordered };
}

/** The options with their defaults; throws if one is out of range. */
export function withDefaults(options: RunOptions, fewestProcesses = 1): Options {
  const given = givenOf(options);
  const checked: Options = {
    processes: navigator.hardwareConcurrency,
    autokill: Infinity,
    printErrors: false,
    tasksPerProcess: (options.concurrency ?? 1) > 1 ? Infinity : 1,
    concurrency: 1,
    retries: 0,
    retryDelay: 0,
    maxFailures: Infinity,
    maxCrashes: 3,
    permissions: options.permissions ??
      (options.processes === 0 ? ["--allow-all"] : allPermissions()),
  };
  checkNames(Object.keys(given), [...Object.keys(checked), ...optional]);
  if (options.signal && !(options.signal instanceof AbortSignal)) {
    throw new TypeError("Expected `signal` to be an AbortSignal");
  }
  const check = (name: keyof Options, least: number, isWhole = true) => {
    const value = checked[name] as number;
    const isNumber = typeof value === "number" && value >= least;
    if (isNumber && (!isWhole || value === Infinity || Number.isInteger(value))) return;
    const kind = `a ${isWhole ? "whole " : ""}number from ${least} up`;
    const found = `\`${value}\`${typeof value === "number" ? "" : ` (${typeof value})`}`;
    throw new RangeError(`Expected \`${name}\` to be ${kind}, got ${found}`);
  };
  Object.assign(checked, given);
  for (const name of ["permissions", "ids"] as const) {
    if (checked[name] === undefined || Array.isArray(checked[name])) continue;
    throw new TypeError(`Expected \`${name}\` to be an array`);
  }
  if ((!globalThis.Deno || isBundled) && !isUnlimited(checked.permissions)) {
    const why = isBundled
      ? "a compiled program runs with those of its own"
      : "only Deno has `permissions`";
    throw new TypeError(`Cannot limit what tasks may do: ${why}`);
  }
  check("processes", fewestProcesses);
  for (const name of ["tasksPerProcess", "concurrency", "maxCrashes"] as const) check(name, 1);
  for (const name of ["retries", "maxFailures"] as const) check(name, 0);
  for (const name of ["autokill", "retryDelay"] as const) check(name, 0, false);
  // a runner is told by JSON, which has no `Infinity`
  for (const name of ["concurrency", "retries"] as const) {
    checked[name] = Math.min(checked[name], Number.MAX_SAFE_INTEGER);
  }
  if (options.session) checked.session = fileUrl(`${options.session}`);
  return checked;
}

/** Whether processes with these permissions may do everything. */
export function isUnlimited(permissions: string[]): boolean {
  return permissions.some((flag) => /^(-A|--allow-all)$/.test(flag));
}

function allPermissions(): string[] {
  const kinds = ["read", "write", "net", "env", "run", "sys", "ffi", "import"] as const;
  const isMissing = (name: string) =>
    system.permissions.querySync({ name } as Deno.PermissionDescriptor).state !== "granted";
  const missing = globalThis.Deno && kinds.find(isMissing);
  if (!missing) return ["--allow-all"];
  const fix = "say with `permissions` what they may do, or start it with `--allow-all`";
  throw new TypeError(
    `Cannot give tasks all permissions, as this program lacks \`--allow-${missing}\`: ${fix}`,
  );
}

/**
 * Evaluates the steps of a task, one after the other.
 *
 * @module
 */

import { fileUrl, parse, pathOf, stringify } from "./system.ts";
import { type Callable, decode, follow, type Path, pathText } from "./values.ts";

/** A step of a task file: a call with its arguments, or a value. */
export type Step = { call?: unknown; args?: unknown[]; value?: unknown };

/** The steps in the text of the task file at `path`. */
export function stepsOf(text: string, path: string): Step[] {
  let steps: Step[] | undefined;
  try {
    steps = parse(text)?.steps;
  } catch (error) {
    throw new SyntaxError(`Cannot read the task \`${path}\`: ${(error as Error).message}`);
  }
  if (steps === undefined && text.includes('"errorValue":')) {
    const fix = `what it was lies in \`${path}.original\`: repair that, then \`forrest retry\``;
    throw new TypeError(`Cannot run the task \`${path}\`, as it was none; ${fix}`);
  }
  const known = ["call", "args", "value"];
  const refuse = (place: string, wanted: string) =>
    new TypeError(`Cannot run the task \`${path}\`: \`${place}\` must be ${wanted}`);
  if (!Array.isArray(steps) || !steps.length) throw refuse("steps", "an array of at least one");
  for (const [index, step] of steps.entries()) {
    const isStep = step && typeof step === "object" && ("value" in step || "call" in step);
    const surplus = isStep && Object.keys(step).find((key) => !known.includes(key));
    if (surplus) throw refuse(`steps[${index}]`, `a step, which has no \`${surplus}\``);
    if (isStep && "call" in step && "value" in step) {
      throw refuse(`steps[${index}]`, "a step with a `call` or a `value`, not both");
    }
    if (!isStep) throw refuse(`steps[${index}]`, "an object with `call` and `args`, or `value`");
    if (!Array.isArray(step.args === undefined ? [] : step.args)) {
      throw refuse(`steps[${index}]`, "an object whose `args` are an array");
    }
  }
  return steps;
}

/** What the last of the steps returns. `session` is the URL of a module; some may have `results`. */
export async function runSteps(
  steps: Step[],
  session?: string,
  results: unknown[] = [],
): Promise<unknown> {
  for (const { call, args = [], value } of steps.slice(results.length)) {
    if (call === undefined) {
      const stored = [value];
      await loadFunctions(stored, session);
      results.push(...decode(stored, results) as unknown[]);
    } else results.push(await runStep(call, args, results, session));
  }
  return results.at(-1);
}

async function runStep(
  call: unknown,
  args: unknown[],
  results: unknown[],
  session?: string,
): Promise<unknown> {
  await loadFunctions(args, session);
  const values = decode(args, results) as unknown[];
  const ref = call as { $step: number; path?: Path };
  const [owner, callee] = typeof ref?.$step !== "number" ? await load(call, session) : [
    ref.path?.length && follow({ ...ref, path: ref.path.slice(0, -1) }, results),
    follow(ref, results),
  ];
  if (typeof callee !== "function") {
    const { $step, path = [] } = ref;
    const part = path.length ? `\`${pathText(path)}\` of ` : "";
    const kind = typeof callee === "object" ? "an object" : `a ${typeof callee}`;
    const what = callee === undefined || callee === null ? callee : kind;
    throw new TypeError(`${part}what step ${$step} gave is ${what}, not a function`);
  }
  try {
    return await apply(owner, callee as Callable, values);
  } catch (error) {
    throw explain(error, call);
  }
}

/** Calls a function, or constructs with it if it is a class. */
export function apply(owner: unknown, callee: Callable, args: unknown[]): unknown {
  return isConstructor(callee)
    ? Reflect.construct(callee, args)
    : Reflect.apply(callee, owner, args);
}

/** What a call has thrown; if that may be as its function was stored without what is around it, it says so. */
export function explain(error: unknown, call: unknown): unknown {
  const isText = typeof (call as { source?: unknown } | undefined)?.source === "string";
  if (!isText || !(error instanceof ReferenceError)) return error;
  const message =
    `${error.message}. The function was stored as its text, without the variables around it: export ` +
    "it from a module (and guard the main part of a script with `if (import.meta.main)`), or name a `session` module";
  return Object.assign(new ReferenceError(message), {
    stack: error.stack?.replace(error.message, message),
  });
}

/** Classes, the built-ins that are like them (their `prototype` is fixed), and functions that give methods. */
function isConstructor(callee: object): boolean {
  const prototype = Object.getOwnPropertyDescriptor(callee, "prototype");
  const isClass = prototype?.writable === false || hasMethods(prototype?.value);
  return isClass && !([String, Number, Boolean, BigInt, Symbol] as unknown[]).includes(callee);
}

/** Whether a `prototype` is that of a class as they were written before there were any. */
function hasMethods(prototype: unknown): boolean {
  if (!Object.hasOwn(Object(prototype), "constructor")) return false; // as of a generator
  const isDerived = Object.getPrototypeOf(prototype) !== Object.prototype;
  return isDerived || Object.values(prototype as object).some((item) => typeof item === "function");
}

/** Replaces the references in `$function`, which are loaded asynchronously, by the functions. */
async function loadFunctions(stored: unknown, session?: string): Promise<void> {
  const places = [stored];
  for (const place of places) {
    const holder = place as { $function?: unknown; $object?: object; $error?: object };
    const parts = holder.$object ?? holder.$error ?? holder; // of the first two, the keys are literal
    for (const item of Object.values(parts)) {
      if (typeof item === "object" && item) places.push(item);
    }
    if (holder.$function !== undefined) {
      [, holder.$function] = await load(holder.$function, session);
    }
  }
}

/** The object that a function is called on, and the function. */
export type Target = [owner: unknown, callee: Callable];

/** Finds the function that a reference stands for. */
export async function load(call: unknown, session?: string): Promise<Target> {
  if (typeof call === "function") return [undefined, call as Callable];
  if (typeof call === "object" && typeof (call as { source?: unknown })?.source === "string") {
    const scope = session ? await importFrom(session) : {};
    return [undefined, compile((call as { source: string }).source, scope)];
  }
  if (typeof call !== "string") {
    throw new TypeError(`\`call\` is ${stringify(call)}, not a function's name`);
  }
  const hash = call.lastIndexOf("#");
  const module = hash < 0 ? undefined : call.slice(0, hash);
  const name = call.slice(hash + 1);
  const exports = module === undefined
    ? globalThis
    : module === "forrest"
    ? (await import("./programs.ts")).ownFunctions // here, as few need it
    : await importFrom(module);
  const path = Object.hasOwn(exports, name) ? [name] : name.split("."); // as of a static method
  let owner: unknown;
  let value: unknown = exports;
  for (const key of path) {
    owner = value;
    value = value && Object.hasOwn(value, key)
      ? (value as Record<string, unknown>)[key]
      : undefined;
  }
  if (typeof value === "function") {
    return [module !== undefined && owner === exports ? undefined : owner, value as Callable];
  }
  const known = module !== undefined
    ? `; it exports ${Object.keys(exports).join(", ") || "nothing"}`
    : "";
  throw new TypeError(`\`${call}\` is not a function${known}`);
}

/** The modules that were imported, or are about to be. */
const modules = new Map<string, Promise<Record<string, unknown>>>();

function importFrom(path: string): Promise<Record<string, unknown>> {
  const url = fileUrl(path);
  const forget = (error: unknown) => {
    modules.delete(url); // so that it is tried again
    throw error;
  };
  if (!modules.has(url)) modules.set(url, importFirst(url).catch(forget));
  return modules.get(url)!;
}

/** Imports a module, and shows meanwhile that it does. */
async function importFirst(url: string): Promise<Record<string, unknown>> {
  const place = url.startsWith("file:") ? pathOf(url) : url;
  const importing = (globalThis as Importing)[Symbol.for("forrest.importing")] ??= new Set();
  importing.add(place);
  try {
    const isAsync = !globalThis.Deno && !requireModule(place);
    if (isAsync && place === mainOfBun()) { // which would wait for itself, and for ever
      const fix = "move the function to a module of its own, or use `forrest exec`";
      throw new Error(`Bun cannot import \`${place}\` while that waits for this: ${fix}`);
    }
    return await import(url);
  } finally {
    importing.delete(place);
  }
}

/**
 * Loads a module on Bun, without the threads that `import()` starts there; unless it is an asynchronous
 * one. This refers to nothing around it, as its text is handed to the processes of single tasks.
 */
export function requireModule(place: string): boolean {
  try {
    (import.meta as unknown as { require(place: string): unknown }).require(place);
    return true;
  } catch (error) {
    if (!`${(error as Error)?.message}`.startsWith("require() async module")) throw error;
    return false;
  }
}

function mainOfBun(): string | undefined {
  return (globalThis as { Bun?: { main: string } }).Bun?.main;
}

/** The places, as in a stack, of the modules that are being imported, by all copies of forrest in a process. */
export type Importing = Record<symbol, Set<string>>;

/** Throws if a module starts tasks while a runner imports it: that would start runners without end. */
export function refuseWhileImporting(): void {
  const stack = new Error().stack ?? "";
  const importing = (globalThis as Importing)[Symbol.for("forrest.importing")] ?? [];
  const isIn = (path: string) => stack.includes(path) || stack.includes(fileUrl(path));
  if (![...importing].some(isIn)) return;
  const fix = "put the main part of the script in `if (import.meta.main) { ... }`";
  throw new Error(`Cannot start tasks while a runner imports this module for a function: ${fix}`);
}

/** Evaluates the text of a function, with the exports of the session module in scope. */
export function compile(source: string, session: Record<string, unknown> = {}): Callable {
  const isName = (name: string) => name !== "default" && /^[\p{L}_$][\p{L}\p{N}_$]*$/u.test(name);
  const names = Object.keys(session).filter(isName);
  return new Function(...names, `"use strict"; return (${source}\n)`)(
    ...names.map((name) => session[name]),
  );
}

/**
 * The process of a task: how a runner takes orders and answers, how it runs the steps of a task, how values are
 * written as JSON, and how programs are started.
 *
 * A runner is a process that is started to carry out orders. It reads them, one JSON line each, from descriptor
 * 3, or its standard input if permissions are limited, until that ends; a runner of a single task has its
 * order in an environment variable. An order holds the steps of a task and a nonce. It is answered with a line
 * that begins with 0x1E and that nonce, by which the run tells it from all that tasks print; a long answer goes
 * in several such lines, each with its length. A runner never touches the list.
 *
 * As many processes load this file, at the start of which each line counts, it imports nothing.
 *
 * @module
 */

// what a task may replace, and its runner needs
const { parse, stringify } = JSON;
const now = performance.now.bind(performance);
const encoder = new TextEncoder();

/** What `make` gives, or if it throws, what `otherwise` does. */
export function attempt<T, U = undefined>(make: () => T, otherwise?: () => U): T | U {
  try {
    return make();
  } catch {
    return otherwise?.() as U;
  }
}

// -------------------------------------------------------------------------------- orders and answers

/** What is to be done: steps, and the directory to be in, if that is not the one of the run. */
export type Work = { steps: Step[]; cwd?: string | undefined };

/**
 * What a runner is told to do. `nonce` marks the answer, as no other process knows it; the exports of the module at
 * `session` are in scope for functions that are stored as their text; `concurrency` is how many orders it gets at
 * once, to work on all of them (if it is one, it may get others to do later); after `timeout` milliseconds it
 * answers that the time of the task is over.
 */
type Order = Work & { nonce: string; session?: string; concurrency: number; timeout?: number };

/** What a runner tells of a task, unless that is overdue: for how many seconds it ran, and what came of it. */
export type Told = { runtime: number } & ({ returnValue: unknown } | { errorValue: unknown });

/** The variable that holds the order of a runner of a single task. */
export const ORDER = "FORREST_ORDER";

/** Makes this process a runner: carries out its order, or all that it reads until its input ends. */
async function serve(): Promise<void> {
  if (bun) nodeProcess().on("unhandledRejection", fall);
  const directory = attempt(cwd)!;
  const running = new Set<Promise<void>>();
  for await (const line of takeOrder() ?? lines()) {
    const order: Order = { cwd: directory, ...parse(line) };
    attempt(() => enter(directory)); // which a task before may have left
    const performed = perform(order);
    running.add(performed);
    performed.then(() => running.delete(performed));
    if (order.concurrency === 1) await performed; // or else no more come than it may work on
  }
  await Promise.all(running);
  end();
}

/** Lets a rejection that nobody handles end this process, as Bun does; it does not if it has just begun. */
function fall(error: unknown): void {
  if (nodeProcess().listenerCount("unhandledRejection") > 1) return; // somebody does
  setTimeout(() => {
    throw error;
  });
}

/** The order of a runner of a single task, which nobody that it starts is to see. */
function takeOrder(): [string] | undefined {
  // where permissions are limited, orders come by its input
  const order = deno ? attempt(() => deno.env.get(ORDER)) : nodeProcess().env[ORDER];
  if (!order) return;
  if (deno) deno.env.delete(ORDER);
  else delete nodeProcess().env[ORDER];
  return [order];
}

/** Runs the steps of an order, and answers with what came of them, or that they took too long. */
async function perform(order: Order): Promise<void> {
  const { nonce, session, timeout } = order;
  const told = tell(() => order, session);
  const result = await (timeout === undefined ? told : within(timeout, told, { isOverdue: true }));
  try {
    if ("toJSON" in []) throw new Error("This task has changed how all values are stored");
    await answer(nonce, stringify(result));
  } catch (error) { // the task has closed the output, or has broken what its process needs
    print(`${(error as Error)?.stack ?? error}\n`, "stderr");
    nodeProcess().exit(70);
  }
}

/**
 * What a promise gives within so many milliseconds, or else `late`. The first timer takes Deno 5 ms, so few
 * tasks should need one.
 */
async function within<T, U>(time: number, promise: Promise<T>, late: U): Promise<T | U> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const over = new Promise<U>((resolve) => timer = setTimeout(resolve, time, late));
  return await Promise.race([promise, over]).finally(() => clearTimeout(timer));
}

/** Does some work, and tells what came of it; what `work` throws is an error of the task, or `isRaised`. */
export async function tell(work: () => Work, session?: string, isRaised = false): Promise<Told> {
  importing.delete(pathOf(RUNNER)); // as what this process was started with is loaded
  const start = now(); // which no clock can set back
  const seconds = () => Math.round((now() - start) * 1000) / 1e6;
  try {
    const returnValue = encode(await runSteps(work(), session), "returnValue");
    return { runtime: seconds(), returnValue };
  } catch (error) {
    if (isRaised) throw error;
    return { runtime: seconds(), errorValue: encodeThrown(error) };
  }
}

/**
 * Answers in lines of a page, up to eight in one write: a pipe or a socket takes these apart between pages at
 * most, so that nothing else that is printed gets into a line.
 */
async function answer(nonce: string, text: string): Promise<void> {
  const isAscii = encoder.encode(text).length === text.length; // or else a character has up to three bytes
  const length = Math.floor((PAGE - nonce.length - 8) / (isAscii ? 1 : 3));
  let lines = "";
  for (let begin = 0, end; begin < text.length; begin = end) {
    end = begin + length;
    if (/[\ud800-\udbff]/.test(text[end - 1] ?? "")) end--; // not between the halves of a character
    const part = text.slice(begin, end);
    const isLast = end >= text.length;
    if (lines && (isLast || !isAscii || lines.length === 8 * PAGE)) { // others are no pages
      await write(lines);
      lines = "";
    }
    lines += `\x1e${nonce} ${part.length}${isLast ? "." : "+"}${part}\n`;
  }
  await write(lines);
}

/** The bytes that a pipe takes whole. */
const PAGE = 4096;

let output: Runtime; // of Deno

/** Writes an answer; on Bun without `node:fs`, whose load takes 3 ms. */
async function write(text: string): Promise<void> {
  if (bun) return await bun.write(bun.stdout, text);
  // what tasks start may let the standard output refuse what it has no room for: so by one of our own
  output ??= attempt(() => deno.openSync("/dev/fd/1", { write: true })) ?? deno.stdout;
  const bytes = encoder.encode(text);
  for (let at = 0; at < bytes.length;) at += output.writeSync(bytes.subarray(at));
}

// ------------------------------------------------------------------------------- the steps of a task

/** A step of a task: a call with its arguments, or a value. */
export interface Step {
  /** The function: see the task file in `docs/`. */
  call?: unknown;
  /** Its arguments. */
  args?: unknown[];
  /** What the step gives, if it is no call. */
  value?: unknown;
}

/** The way to a part of a value. */
export type Path = (string | number)[];

/** What stands in a task for the result of a step before, or a part of it. */
type Reference = { $step: number; path?: Path };

/** Any function. */
// deno-lint-ignore no-explicit-any
export type Callable = (...args: any[]) => unknown;

/** What is to be done for the task file at `path`, which has this text. */
export function workOf(text: string, path: string): Work {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const refuse = (place: string, wanted: string) =>
    new TypeError(`Cannot run the task \`${name}\`: \`${place}\` must be ${wanted}`);
  let work: Partial<Work>;
  try {
    work = Object(parse(text.replace(/^\uFEFF/, "")));
  } catch (error) {
    throw new SyntaxError(`Cannot read the task \`${name}\`: ${(error as Error).message}`);
  }
  const { steps, cwd } = work;
  if (steps === undefined && "errorValue" in work && !("attempts" in work)) {
    const fix = `what it was is \`fail/${name}.original\`: repair that, then \`forrest retry\``;
    throw new TypeError(`Cannot run the task \`${name}\`, as it was none; ${fix}`);
  }
  if (!Array.isArray(steps) || !steps.length) throw refuse("steps", "an array of at least one");
  for (const [index, step] of steps.entries()) {
    const { args = [], ...others }: Step = Object(step);
    const isStep = ["call", "value"].includes(Object.keys(others).join());
    if (isStep && Array.isArray(args)) continue;
    const wanted = "a `call`, whose `args` are an array, or with a `value`, and nothing else";
    throw refuse(`steps[${index}]`, `an object with ${wanted}`);
  }
  if (typeof (cwd ?? "") !== "string") throw refuse("cwd", "a path");
  return { steps, cwd };
}

/** What the last of the steps returns. `session` is the URL of a module. */
export async function runSteps({ steps, cwd }: Work, session?: string): Promise<unknown> {
  const results: unknown[] = [];
  if (cwd !== undefined) enter(cwd);
  for (const { call, args = [], value } of steps) {
    const isCall = call !== undefined;
    const stored = isCall ? args : [value];
    try {
      for (const holder of holdersIn(stored)) {
        [, holder.$function] = await load(holder.$function, session);
      }
      const values = decode(stored, results) as unknown[];
      const [owner, callee] = isCall ? await load(call, session, results) : [null, () => values[0]];
      results.push(await apply(owner, callee, values));
    } catch (error) {
      throw explain(error, call);
    }
  }
  return results.at(-1);
}

/** Calls a function, or constructs with it if it is a class. */
export function apply(owner: unknown, callee: Callable, args: unknown[]): unknown {
  if (isConstructor(callee)) return Reflect.construct(callee, args);
  return Reflect.apply(callee, owner, args);
}

/** Whether a function is a class, a built-in that is like one, or gives methods to what it makes. */
function isConstructor(callee: object): boolean {
  const { value, writable } = Object.getOwnPropertyDescriptor(callee, "prototype") ?? {};
  if (!value || [String, Number, Boolean, BigInt, Symbol].includes(callee as never)) return false;
  const isDerived = Object.getPrototypeOf(value) !== Object.prototype;
  const isLikeClass = Object.hasOwn(value, "constructor"); // as that of a generator is not
  return !writable || (isLikeClass && (isDerived || Object.keys(value).length > 0));
}

/** If an error may come of a function's text that lacks what was around it, or of the executable, says so. */
function explain(error: unknown, call: unknown): unknown {
  if (!(error instanceof ReferenceError)) return error;
  const isOfOther = isCompiled && /^(Deno|Bun) is not defined/.test(error.message);
  if (!isOfOther && typeof Object(call).source !== "string") return error;
  const runtime = deno ? "Deno" : "Bun";
  const why = isOfOther
    ? `This executable runs tasks on ${runtime}: compile one that is made of the other`
    : "The function was stored as its text, without the variables around it: " +
      `export it from a module (and ${GUARD}), or name a \`session\` module`;
  return new ReferenceError(`${error.message}. ${why}`, { cause: error });
}

/** The objects that hold a reference to a function in `$function`. */
export function holdersIn(stored: unknown): { $function?: unknown }[] {
  // deno-lint-ignore no-explicit-any
  const places: any[] = [stored];
  for (const holder of places) {
    const parts = holder.$object ?? holder.$error ?? holder; // of the first two, the keys are literal
    for (const item of Object.values(parts)) {
      if (typeof item === "object" && item) places.push(item);
    }
  }
  return places.filter((holder) => holder.$function !== undefined);
}

// ------------------------------------------------------------------------------ functions by their names

/** A function, and the object that it is called on. */
type Found = [owner: unknown, callee: Callable];

/** Finds the function that a call in a task stands for; `results` are those of the steps before. */
export async function load(call: unknown, session = "", results: unknown[] = []): Promise<Found> {
  const [owner, callee, exports] = await look(call, session, results);
  if (typeof callee === "function") return [owner, callee as Callable];
  const what = typeof call === "string" ? `\`${call}\`` : `\`call\` is ${stringify(call)}, which`;
  const names = exports && `; it exports ${Object.keys(exports).join(", ") || "nothing"}`;
  throw new TypeError(`${what} is not a function${names ?? ""}`);
}

/** What was found, what it is a part of, and what else its module exports. */
type Seen = [owner: unknown, value: unknown, exports?: Exports];

/** What a call stands for, be it a function or not. */
async function look(call: unknown, session: string, results: unknown[]): Promise<Seen> {
  if (typeof call === "function") return [undefined, call];
  if (typeof call === "string") {
    const hash = call.lastIndexOf("#");
    if (hash < 0) return attempt(() => walk(globalThis, call.split(".")), () => []) as Seen;
    const module = call.slice(0, hash);
    const exports = module === "forrest" ? { command: runProgram } : await importFrom(module);
    return [undefined, (exports as Exports)[call.slice(hash + 1)], exports];
  }
  const { source, $step } = Object(call);
  if (typeof $step === "number") return follow(call as Reference, results);
  if (typeof source !== "string") return [undefined, call];
  return [undefined, compile(source, session ? await importFrom(session) : {})];
}

/** The result of a step before, or a part of it, and what it is a part of. */
function follow({ $step, path = [] }: Reference, results: unknown[]): Seen {
  if (!Number.isInteger($step) || !Object.hasOwn(results, $step)) {
    throw new RangeError(`\`$step\`: ${$step} is none of the ${results.length} steps before`);
  }
  if (!Array.isArray(path)) throw new TypeError("`path` must be an array");
  return walk(results[$step], path);
}

/** A part of a value, and what it is a part of. */
function walk(value: unknown, path: Path): Seen {
  let owner: unknown;
  for (const key of path) {
    if (key === "__proto__" || key === "constructor" || key === "prototype") { // which all objects share
      throw new TypeError(`\`path\`: \`${key}\` cannot be a part of a deferred value`);
    }
    if (value === undefined || value === null) {
      throw new TypeError(`Cannot read \`${key}\` of ${value}, in the path ${stringify(path)}`);
    }
    owner = value;
    value = (value as Exports)[key];
  }
  return [owner, value];
}

/** Evaluates the text of a function, with the exports of the session module in scope. */
export function compile(source: string, session: Record<string, unknown> = {}): Callable {
  const isVariable = /^(?!default$)[\p{L}_$][\p{L}\p{N}_$]*$/u;
  const names = Object.keys(session).filter((name) => isVariable.test(name));
  const make = new Function(...names, `"use strict"; return (${source}\n)`);
  return make(...names.map((name) => session[name]));
}

/** The URL of a path; an absolute URL or another specifier stays as it is. */
export function fileUrl(path: string): string {
  if (/^[a-z][a-z+.-]+:/i.test(path)) return path;
  const url = new URL("file:///");
  const full = /^([A-Z]:)?[\\/]/i.test(path) ? path : `${cwd()}/${path}`;
  url.pathname = full.replace(/[%\\\t\n\r]/g, encodeURIComponent); // what it would read, or leave out
  return url.href;
}

/** The path of a file URL; of another one, all of it. */
export function pathOf(url: string): string {
  return url.startsWith("file:") ? decodeURIComponent(new URL(url).pathname) : url;
}

type Exports = Record<string, unknown>;

/** The modules that were imported. */
const modules = new Map<string, Exports>();

/** The places, as in a stack, of the modules that all copies of forrest in a process are importing. */
const importing: Set<string> = (globalThis as Runtime)[Symbol.for("forrest.imports")] ??= new Set();

/** Imports a module, and shows meanwhile that it does. */
async function importFrom(name: string): Promise<Exports> {
  // what only Deno gets by itself is installed for Bun
  const specifier = bun ? name.replace(/^npm:\/?(@?[^@]+)(@[^/]*)?/, "$1") : name;
  const isPackage = specifier !== name || !/^[./]|:|\.[cm]?[jt]sx?$/.test(specifier);
  const url = isPackage ? resolve(specifier, `${fileUrl(cwd())}/`) : fileUrl(specifier);
  if (modules.has(url)) return modules.get(url)!;
  const place = pathOf(url);
  importing.add(place);
  try {
    modules.set(url, bun && requireOnBun(place) || await import(url));
    return modules.get(url)!;
  } finally {
    importing.delete(place);
  }
}

/** What the specifier in an import stands for, in the module at `base`. */
export function resolve(specifier: string, base: string): string {
  if (/^\.{0,2}\//.test(specifier)) return new URL(specifier, base).href;
  const { createRequire } = nodeProcess().getBuiltinModule("node:module");
  const found = bun
    ? attempt(() => bun.resolveSync(specifier, pathOf(new URL(".", base).href)))
    : attempt(() => import.meta.resolve(specifier)) ?? // by an import map
      attempt(() => createRequire(base).resolve(specifier));
  return found?.startsWith("/") ? fileUrl(found) : found ?? specifier;
}

/** Loads a module without the threads that `import()` starts on Bun, if it is one that can be loaded so. */
function requireOnBun(place: string): Exports | undefined {
  try {
    const exports = (import.meta as unknown as { require(place: string): Exports }).require(place);
    const isModule = Object.prototype.toString.call(exports) === "[object Module]"; // and not in the old style
    return isModule ? exports : undefined;
  } catch (error) {
    if (!`${(error as Error)?.message}`.startsWith("require() async module")) throw error;
    if (place !== bun.main) return undefined;
    // it would wait for itself, and for ever
    const fix = "move the function to a module of its own, or use `forrest exec`";
    throw new Error(`Bun cannot import \`${place}\` while that waits for this: ${fix}`);
  }
}

/** Throws if a module starts tasks while a runner imports it: that would start runners without end. */
export function refuseWhileImporting(): void {
  if (!importing.size) return;
  const stack = new Error().stack ?? "";
  const isIn = (place: string) => stack.includes(place) || stack.includes(fileUrl(place));
  if (![...importing].some(isIn)) return;
  throw new Error(`Cannot start tasks while a runner imports this module for a function: ${GUARD}`);
}

/** What to do about a script that would start itself again and again. */
export const GUARD = "put the main part of the script in `if (import.meta.main) { ... }`";

// -------------------------------------------------------------------------------------- values as JSON

/**
 * Turns a value into what JSON can hold, as a task file has it: what it cannot hold becomes an object with
 * one key that begins with `$`.
 *
 * @param name What errors call the value.
 * @param leaf How functions are stored; without it, they are refused.
 * @throws {TypeError} If something in it cannot be stored; the message has the path to it.
 *
 * @example
 * ```ts
 * import { encode } from "jsr:@x/forrest";
 *
 * console.log(JSON.stringify(encode({ when: new Date(0) }))); // {"when":{"$date":"1970-01-01T00:00:00.000Z"}}
 * ```
 */
export function encode(value: unknown, name = "value", leaf?: Callable): unknown {
  return encodePart(value, { name, keys: [], inside: new Set(), leaf });
}

/** What is being stored: its name, the way to the part at hand, and the objects around that. */
type Place = { name: string; keys: Path; inside: Set<unknown>; leaf: Callable | undefined };

/** Whether JSON holds a value as it is; of an object, nothing is known. */
function isPlain(value: unknown): boolean {
  if (typeof value === "number") return Number.isFinite(value) && !Object.is(value, -0);
  return value === null || typeof value === "string" || typeof value === "boolean";
}

function encodePart(value: unknown, place: Place): unknown {
  if (isPlain(value)) return value;
  if (value === undefined) return { $undefined: true };
  if (typeof value === "number") return { $number: Object.is(value, -0) ? "-0" : `${value}` };
  if (typeof value === "bigint") return { $bigint: `${value}` };
  if (typeof value === "function" && place.leaf) return place.leaf(value as Callable);
  if (typeof value !== "object") throw notStorable(place, `a ${typeof value}`);
  if (place.inside.has(value)) throw notStorable(place, "a value that contains itself");
  place.inside.add(value);
  const stored = encodeObject(value as Record<string, unknown>, place);
  place.inside.delete(value);
  return stored;
}

function encodeChild(item: unknown, key: string | number, place: Place): unknown {
  if (isPlain(item)) return item;
  place.keys.push(key);
  const stored = encodePart(item, place);
  place.keys.pop();
  return stored;
}

function encodeObject(object: Record<string, unknown>, place: Place): unknown {
  if (Array.isArray(object)) {
    const stored: unknown[] = [...object]; // in which a hole is undefined
    for (let index = 0; index < stored.length; index++) {
      if (!isPlain(stored[index])) stored[index] = encodeChild(stored[index], index, place);
    }
    return stored;
  }
  const prototype = Object.getPrototypeOf(object) ?? Object.prototype;
  const type = Object.prototype.toString.call(object).slice(8, -1); // the same in all realms
  const name: string | undefined = prototype.constructor?.name;
  const isError = object instanceof Error || Error.isError(object);
  if (isError) return { $error: encodeError(object, place) };
  const codec = (name === type || type === "Uint8Array") && codecs[keyOf(type)];
  if (codec) return { [keyOf(type)]: encodeChild(codec[0](object), keyOf(type), place) };
  if (typeof object["toJSON"] === "function") {
    return encodeChild(object["toJSON"](), "toJSON()", place);
  }
  if (Object.getPrototypeOf(prototype)) throw notStorable(place, `a ${name || type}`);
  if (Object.getOwnPropertySymbols(object).length) throw notStorable(place, "keyed by a symbol");
  const entries = Object.entries(object).map(([key, item]) => [key, encodeChild(item, key, place)]);
  const stored = Object.fromEntries(entries); // which takes a `__proto__` for a key, too
  return Object.keys(stored).some((key) => key.startsWith("$")) ? { $object: stored } : stored;
}

function notStorable({ name, keys }: Place, what: string): TypeError {
  const fixes: Record<string, string> = {
    "a Promise": "await it first, or let `defer(fn, ...args)` make it",
    "a function": "export it from a module, and pass its name or what it gives",
    "a symbol": "pass its description",
    "keyed by a symbol": "use texts as keys",
    "a value that contains itself": "pass its parts, and let the task put them together",
  };
  const fix = fixes[what] ?? "pass what it takes to make one";
  return new TypeError(`\`${name}${pathText(keys)}\` is ${what} and cannot be stored: ${fix}`);
}

/** What can stand after a dot. */
const NAME = /^[a-z_$][\w$]*$/i;

/** A path as it is written in code. */
export const pathText = (path: Path = []): string =>
  path.map((key) => NAME.test(`${key}`) ? `.${key}` : `[${stringify(key)}]`).join("");

/** What errors hold that `Object.keys()` does not show. */
const HIDDEN = ["name", "stack", "cause", "errors"];

/** The parts of an error, however strange it is; what of them cannot be stored becomes text. */
function encodeError(error: Record<string, unknown>, place: Place): Record<string, unknown> {
  const read = (key: string): Runtime => attempt(() => error[key]); // a getter may throw
  const own = textOf(read("name") ?? "Error");
  const name = own === "Error" ? textOf(read("constructor")?.name ?? own) : own;
  const message = textOf(read("message") ?? "");
  const stack = ownFramesRemoved(textOf(read("stack") ?? `${name}: ${message}`));
  const stored: Record<string, unknown> = { name, message, stack };
  for (const key of [...HIDDEN, ...Object.keys(error)]) {
    if (Object.hasOwn(stored, key) || !Object.hasOwn(error, key)) continue;
    const item = read(key);
    const part = { ...place, keys: [], inside: new Set(place.inside) };
    stored[key] = attempt(() => encodePart(item, part), () => textOf(item));
  }
  return stored;
}

/** A stack without our frames, unless they may be those of the program, as all of it was made one file. */
function ownFramesRemoved(stack: string): string {
  const modules = [RUNNER, new URL("mod.ts", RUNNER).href, new URL("files.ts", RUNNER).href];
  const places = [...modules.map(pathOf), "data:text/javascript"]; // with which a runner is started
  const isFrame = (line: string) => /:\d+:\d+\)?$/.test(line);
  const isOurs = (line: string) => isFrame(line) && places.some((place) => line.includes(place));
  const others = stack.split("\n").filter((line) => !isOurs(line));
  const isApart = /\/runner\.[jt]s$/.test(RUNNER) || others.some(isFrame);
  return isApart ? others.join("\n") : stack;
}

/** What was thrown, as it is stored: the value, or a text if that cannot be stored. */
export const encodeThrown = (thrown: unknown): unknown =>
  attempt(() => encode(thrown, "errorValue"), () => describe(thrown));

/** Any value as a text; if it has none, the name of its class and what it holds, or the beginning of that. */
export function describe(value: unknown): string {
  const text = textOf(value);
  const whole = () => `${Object(value).constructor.name} ${stringify(value)}`.slice(0, 1000);
  return text === NAMELESS ? attempt(whole, () => text) : text;
}

/** The text of an object that has none of its own. */
const NAMELESS = "[object Object]";

const textOf = (value: unknown): string => attempt(() => String(value), () => NAMELESS);

/**
 * Reads back, in place, what {@linkcode encode} made.
 *
 * @param results What the steps before have given, for the parts of it that a task refers to.
 * @throws {TypeError} If a key that begins with `$` is none that can be stored.
 *
 * @example
 * ```ts
 * import { decode } from "jsr:@x/forrest";
 *
 * console.log(decode({ $bigint: "12345678901234567890" })); // 12345678901234567890n
 * ```
 */
export function decode(stored: unknown, results: unknown[] = []): unknown {
  if (typeof stored !== "object" || !stored) return stored;
  if (Array.isArray(stored)) {
    for (let index = 0; index < stored.length; index++) {
      if (!isPlain(stored[index])) stored[index] = decode(stored[index], results);
    }
    return stored;
  }
  const object = stored as Record<string, unknown>;
  const [key = ""] = Object.keys(object);
  if (key.startsWith("$")) return decodeSpecial(key, object, results);
  return decodeProperties(object, results);
}

function decodeProperties(object: Record<string, unknown>, results: unknown[]): object {
  for (const key in object) object[key] = decode(object[key], results);
  return object;
}

function decodeSpecial(key: string, object: Record<string, unknown>, results: unknown[]): unknown {
  const stored = object[key];
  if (key === "$undefined") return undefined;
  if (key === "$number") return Number(stored);
  if (key === "$bigint") return BigInt(stored as string);
  if (key === "$function") return stored;
  if (key === "$step") return follow(object as unknown as Reference, results)[1];
  if (key === "$error") return decodeError(stored as Record<string, unknown>, results);
  if (key === "$object") return decodeProperties(stored as Record<string, unknown>, results);
  const codec = codecs[key];
  if (!codec) throw new TypeError(`\`${key}\` is no way to store a value`);
  return codec[1](decode(stored, results));
}

function decodeError(stored: Record<string, unknown>, results: unknown[]): Error {
  const { message, ...parts } = stored;
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0; // or Bun prints where we are, in place of `stack`
  const error = new Error(message as string);
  Error.stackTraceLimit = stackTraceLimit;
  const builtIn = /^(Aggregate|Eval|Range|Reference|Suppressed|Syntax|Type|URI)Error$/;
  const type = builtIn.exec(`${parts["name"]}`) && (globalThis as Runtime)[`${parts["name"]}`];
  if (type) Object.setPrototypeOf(error, type.prototype);
  if (parts["name"] === error.name) delete parts["name"];
  for (const key in parts) {
    const value = decode(parts[key], results);
    const enumerable = !HIDDEN.includes(key);
    Object.defineProperty(error, key, { value, enumerable, configurable: true, writable: true });
  }
  return error;
}

/** How values of a class are written to JSON, and read back. */
// deno-lint-ignore no-explicit-any
type Codec = [write: (value: any) => unknown, read: (stored: any) => unknown];

/** The key under which an instance of a class is stored. */
const keyOf = (name: string): string => name === "Uint8Array" ? "$bytes" : `$${name.toLowerCase()}`;

const bytesOf = (text: string): Uint8Array<ArrayBuffer> => Uint8Array.fromBase64(text);

/**
 * For each class that JSON cannot hold, by the key under which its instances are stored: those whose name is
 * also what `Object.prototype.toString` says of them.
 */
const codecs: Record<string, Codec> = {
  $date: [(date) => isNaN(date) ? "" : date.toISOString(), dateOf],
  $url: [(url) => url.href, (href) => new URL(href)],
  $regexp: [({ source, flags }) => [source, flags], ([source, flags]) => new RegExp(source, flags)],
  $map: [(map) => [...map], (entries) => new Map(entries)],
  $set: [(set) => [...set], (items) => new Set(items)],
  $arraybuffer: [(buffer) => new Uint8Array(buffer).toBase64(), (text) => bytesOf(text).buffer],
  $bytes: [(bytes) => bytes.toBase64(), bytesOf],
};

const kinds =
  "Int8 Uint8Clamped Int16 Uint16 Int32 Uint32 Float16 Float32 Float64 BigInt64 BigUint64";
for (const kind of kinds.split(" ")) {
  const write = ({ buffer, byteOffset, byteLength }: DataView) =>
    new Uint8Array(buffer, byteOffset, byteLength).toBase64();
  // looked up late, as Bun makes each of these classes when it is first asked for
  const read = (text: string) => new (globalThis as Runtime)[`${kind}Array`](bytesOf(text).buffer);
  codecs[keyOf(`${kind}Array`)] = [write, read];
}

function dateOf(text: string): Date {
  const date = new Date(text);
  if (text && isNaN(Number(date))) throw new TypeError(`\`$date\`: \`${text}\` is no date`);
  return date;
}

// ---------------------------------------------------------------------------------------- programs

/** The options of a program that runs as a task. */
export interface CommandOptions {
  /**
   * Give the words, joined by spaces, to a shell.
   *
   * @default {false}
   */
  shell?: boolean;
}

/** Runs a program; gives what it prints: as text, or as bytes if it is not UTF-8. */
async function runProgram(argv: string[], options: CommandOptions = {}): Promise<unknown> {
  const isWord = (word: unknown) => typeof word === "string" && !word.includes("\0");
  const areWords = Array.isArray(argv) && argv.length > 0 && argv.every(isWord);
  if (!areWords || !/^({}|{"shell":(true|false)})$/.test(stringify(options))) {
    const wanted = "an array of words, at least one, and perhaps `{ shell: true }`";
    throw new TypeError(`Cannot start ${stringify(argv)}: \`forrest#command\` takes ${wanted}`);
  }
  const words = argv.join(" ");
  const name = `\`${words.length > 100 ? `${words.slice(0, 99)}…` : words}\``;
  const program = spawn(options.shell ? ["sh", "-c", words] : argv);
  const printed: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  const output = collect(program.stdout, program.ended, (chunk) => {
    printed.push(chunk.slice()); // as a short one may be the view of a long buffer
    size += chunk.length;
    if (size <= 100e6) return;
    program.kill();
    const fix = "let it write to a file, as its standard output is its result";
    throw new RangeError(`${name} has printed more than 100 MB: ${fix}`);
  });
  let errors = "";
  const decoder = new TextDecoder();
  const error = collect(program.stderr, program.ended, (chunk) => {
    print(chunk, "stderr");
    errors = (errors + decoder.decode(chunk, { stream: true })).slice(-10_000);
  });
  const [ended] = await Promise.all([program.ended, output, error]);
  const bytes = new Uint8Array(await new Blob(printed).arrayBuffer());
  const exact = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  if (ended.code === 0) return attempt(() => exact.decode(bytes), () => bytes);
  // a batch system may be ending all processes, this one as well, and then the task is to go back
  if (isEndOfJob(ended)) await sleep(500);
  const last = new TextDecoder().decode(bytes.subarray(-10_000));
  throw Object.assign(deathOf(name, ended, last + errors), ended);
}

/** Waits for so many milliseconds. */
export const sleep = (time: number): Promise<void> => new Promise((done) => setTimeout(done, time));

/**
 * Reads a stream of a program until all have closed it; what the program has left running may never do so,
 * and is read until it pauses, for half a second at the most.
 */
export async function collect(
  stream: ReadableStream<Uint8Array>,
  ended: Promise<unknown>,
  take: (chunk: Uint8Array<ArrayBuffer>) => void,
): Promise<void> {
  const reader = stream.getReader();
  const cancel = () => void reader.cancel().catch(ignore);
  let rounds = 0; // and not a span of time, as this process may have had none to read what there is
  let isQuiet = false;
  const round = () => {
    if (isQuiet || ++rounds === 5) cancel();
    isQuiet = true;
  };
  const timer = ended.catch(ignore).then(() => setInterval(round, 100));
  try {
    for (let chunk; (chunk = (await reader.read()).value); isQuiet = false) {
      take(chunk as Uint8Array<ArrayBuffer>);
    }
  } finally {
    timer.then(clearInterval);
    cancel();
  }
}

/**
 * Whether a process has died of a signal with which batch systems end all processes of a job at once; or has
 * ended as a shell does whose last command has.
 */
export function isEndOfJob({ code, signal }: Ended): boolean {
  return /^SIG(TERM|INT|HUP|QUIT)$/.test(signal ?? "") || [129, 130, 131, 143].includes(code);
}

/** The error of a process that died of itself. */
export function deathOf(what: string, { signal, code }: Ended, printed: string): Error {
  const isUnsettled = code === 0 || /Top-level await promise never resolved/.test(printed);
  const ended =
    "ended before it: the task called `exit()`, or waits for a promise that nothing will settle";
  const how = signal ? `was killed by ${signal}` : isUnsettled ? ended : `exited with code ${code}`;
  // deno-lint-ignore no-control-regex
  const plain = printed.replaceAll(/\x1b\[[\d;]*m/g, "").trim(); // without colors
  const last = plain && `. It last printed:\n${plain.slice(-2000)}`;
  return errorOf(`${what} ${how}${last}`);
}

/** An error of a process. Its stack would show where forrest has noticed it, so it has none. */
export function errorOf(message: string, properties: object = {}): Error {
  const { name = "Error" } = properties as { name?: string };
  return Object.assign(new Error(message), { stack: `${name}: ${message}` }, properties);
}

// ------------------------------------------------------------------------------------ the two runtimes

/** A runtime; its own types are not there in a project of the other one. */
// deno-lint-ignore no-explicit-any
export type Runtime = any;

/** The runtime, if it is Deno. */
export const deno: Runtime = (globalThis as { Deno?: Runtime }).Deno;
/** The runtime, if it is Bun. */
export const bun: Runtime = (globalThis as { Bun?: Runtime }).Bun;

if (!deno && !bun) throw new Error("forrest needs Deno 2.9, Bun 1.4, or one of their successors");

/** Is asked for late: to load `process` takes Deno 15 ms. */
export const nodeProcess = (): typeof import("node:process") => (globalThis as Runtime).process;

/** The directory of this process. */
export const cwd = (): string => deno ? deno.cwd() : nodeProcess().cwd();

/** Makes a directory the one of this process; that needs a permission, unless it is that already. */
export function enter(directory: string): void {
  if (directory === attempt(cwd)) return;
  try {
    if (deno) deno.chdir(directory);
    else nodeProcess().chdir(directory);
  } catch (cause) {
    throw new Error(`Cannot run in \`${directory}\`, the \`cwd\` of the task: ${cause}`, { cause });
  }
}

/** Where this module lies: a runner is started with it. */
export const RUNNER: string = import.meta.url;

/** Whether this module is a part of a compiled program, which starts itself as a runner. */
export const isCompiled: boolean = deno?.build.standalone ?? RUNNER.includes("/$bunfs/");

/** How a process has ended. */
export type Ended = { code: number; signal: string | null };

/** A process that was started here. */
export type Child = ReturnType<typeof spawn>;

/**
 * How a process is started: with variables besides those of this one, in another directory, with an input that is
 * not empty, as the leader of a process group of its own.
 */
type Start = { env?: Record<string, string>; cwd?: string; hasInput?: boolean; isLeader?: boolean };

/** Starts a program, with pipes. */
export function spawn(command: string[], { env, cwd, hasInput, isLeader }: Start = {}) {
  // for `detached`, Deno copies its page tables, and stands still for 3 ms
  const hasSetsid = deno && isLeader && attempt(() => deno.statSync("/usr/bin/setsid"));
  const [program, ...args] = hasSetsid ? ["/usr/bin/setsid", "--", ...command] : command;
  const detached = isLeader && !hasSetsid;
  let child: Runtime;
  try {
    if (deno) {
      const pipes = { stdin: hasInput ? "piped" : "null", stdout: "piped", stderr: "piped" };
      child = new deno.Command(program, { args, env, cwd, detached, ...pipes }).spawn();
    } else {
      const stdio = [hasInput ? "pipe" : "ignore", "pipe", "pipe"];
      child = bun.spawn(command, { env: { ...nodeProcess().env, ...env }, cwd, detached, stdio });
    }
  } catch (error) {
    const { code = "" } = error as { code?: string };
    const reason = REASONS[code];
    throw reason ? errorOf(`Cannot start \`${program}\`: ${reason}`, { code }) : error;
  }
  const input = hasInput && (deno ? child.stdin.getWriter() : child.stdin);
  const write = async (text: string) => {
    await input.write(encoder.encode(text));
    await input.flush?.();
  };
  const close = async () => await (deno ? input.close() : input.end());
  const ended: Promise<Ended> = deno
    ? child.status.then(({ code, signal }: Ended) => ({ code, signal }), withoutName)
    : child.exited.then((code: number) => ({ code, signal: child.signalCode }));
  return {
    pid: child.pid as number,
    stdout: child.stdout as ReadableStream<Uint8Array>,
    stderr: child.stderr as ReadableStream<Uint8Array>,
    /** How it has ended. */
    ended,
    /** Writes to its input. */
    write: (text: string) => void write(text).catch(ignore),
    /** Ends its input. */
    close: () => void close().catch(ignore),
    /** Kills it, unless it has ended. */
    kill: () => attempt(() => child.kill("SIGKILL")),
  };
}

const ignore = (): void => {}; // the process is dead: how it has ended says more

/** How a process of Deno has ended that was killed by a signal for which Deno has no name. */
function withoutName(error: Error): Ended {
  const signal = /\d+$/.exec(error.message)?.[0];
  if (!signal) throw error;
  return { code: 128 + Number(signal), signal };
}

/** Why a program cannot be started, in the same words on all runtimes. */
const REASONS: Record<string, string> = {
  ENOENT: "there is no such program, or its directory is gone",
  EACCES: "it is no program, or may not be run",
  ENOEXEC: "it is no program: a script must begin with `#!` and the program that reads it",
};

/** Where a process writes. */
export type Stream = "stdout" | "stderr";

/** Writes to a standard stream of this process, and waits for whoever reads slowly. */
export function print(text: string | Uint8Array, stream: Stream): void {
  const bytes = typeof text === "string" ? encoder.encode(text) : text;
  for (let at = 0; at < bytes.length;) at += writeSome(bytes.subarray(at), stream);
}

/** Writes what the stream takes, and says how much that was. */
function writeSome(bytes: Uint8Array, stream: Stream): number {
  try {
    if (deno) return deno[stream].writeSync(bytes);
    const { writeSync } = nodeProcess().getBuiltinModule("node:fs");
    return writeSync(stream === "stdout" ? 1 : 2, bytes);
  } catch (error) {
    if ((error as { code?: string }).code !== "EAGAIN") throw error;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    return 0;
  }
}

/** The lines of the input, which no task is to read: so of no standard input, unless permissions forbid to open another. */
async function* lines(): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(65536);
  const input = deno && attempt(() => deno.openSync("/dev/fd/3"), () => deno.stdin);
  const read = () => deno ? input.read(buffer) : readOnBun(buffer);
  let text = "";
  for (let length; (length = await read());) {
    const part = decoder.decode(buffer.subarray(0, length), { stream: true });
    text += part;
    if (!part.includes("\n")) continue; // a long line is not to be searched for each part of it
    const whole = text.split("\n");
    text = whole.pop()!;
    yield* whole;
  }
}

/** Reads what there is; a stream would keep a process that waits for nothing else. */
function readOnBun(buffer: Uint8Array): Promise<number> {
  const { read } = nodeProcess().getBuiltinModule("node:fs");
  return new Promise((resolve, reject) => {
    read(3, buffer, (error, length) => error ? reject(error) : resolve(length));
  });
}

/** Ends this process as a program ends, whatever timers tasks have left. */
function end(): void {
  // Bun ends by itself when all is written, unless something keeps it
  if (bun) setTimeout(endOnBun, 200).unref();
  // what tasks let wait for the end is called by `process`, if one has loaded it
  else if ("dispatchProcessExitEvent" in deno[deno.internal]) nodeProcess().exit(0);
  else deno.exit(0);
}

/** Ends this process when all is written that tasks have printed, which somebody may read slowly. */
function endOnBun(): void {
  const { stdout, stderr, exit } = nodeProcess();
  stdout.end(() => stderr.end(() => exit(0)));
}

// ------------------------------------------------------------------------------- how a runner begins

/** What the code calls that a runner is started with, in whichever file this module is. */
export const SERVE = "forrest.serve";
(globalThis as Record<symbol, unknown>)[Symbol.for(SERVE)] ??= serve;

/** The word by which a process is a runner: of its command, or of the main module that Deno looks for. */
export const WORD = "forrest-runner";

const words: string[] = deno ? deno.args : nodeProcess().argv.slice(isCompiled ? 2 : 1);
const isByName = deno && !isCompiled;
const isRunner = isByName ? `${deno.mainModule}`.endsWith(`/${WORD}.js`) : words[0] === WORD;

// a program that is one file with this is loaded by each runner: what starts tasks in it is refused
if (isRunner) importing.add(pathOf(RUNNER));

if (isCompiled && isRunner) {
  if (deno) await serve();
  else {
    // Bun would wait at full speed, and for ever where a task waits for what nothing will settle
    const process = nodeProcess();
    const begin = () => {
      process.off("uncaughtException", begin).off("unhandledRejection", begin);
      serve();
    };
    process.on("uncaughtException", begin).on("unhandledRejection", begin);
    // so that the program that this is a part of never begins
    throw new Error("This process is a runner, and no program");
  }
}

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

/** `Deno`, or the same calls made from `node:` built-ins. Importing those would double Deno's start. */
const system: typeof Deno = globalThis.Deno ?? hostFromNode();
const { parse, stringify } = JSON; // captured, as a task may replace them
const self = import.meta.url;
const MARK: unique symbol = Symbol.for("forrest.deferred") as never;
/** What all copies of this module in one process share. */
const shared: { order: number; importing: number; serve?: () => Promise<never> } =
  (globalThis as Record<symbol, never>)[Symbol.for("forrest")] ??= {
    order: 0,
    importing: 0,
  } as never;

// ---------------------------------------------------------------------------- deferred values

/** A value to come. Its parts are deferred values too, and calling one defers the call. */
export type Deferred<T> = { readonly [MARK]: T } & Parts<T> & Call<T>;

/** The deferred parts of a `T`. Mapped over a key parameter, as a primitive would map to itself. */
export type Parts<T, K extends keyof T = keyof T> = 0 extends 1 & T
  // deno-lint-ignore no-explicit-any
  ? { readonly [key: string]: Deferred<any> } & ((...args: any[]) => Deferred<any>)
  : { readonly [P in K]: Deferred<T[P]> };

/** The deferred call of a `T`, if it is a function. */
export type Call<T> = T extends (...args: infer A) => infer R
  ? (...args: Inputs<A>) => Deferred<Awaited<R>>
  : unknown;

/** What may be given for a `T`: the value, a deferred, or a value with deferreds in it. */
export type Input<T> =
  | T
  | Deferred<T>
  | (T extends Callable ? never : T extends object ? { [K in keyof T]: Input<T[K]> } : never);

/** What may be given for the arguments `A` of a function. */
export type Inputs<A extends readonly unknown[]> = { [K in keyof A]: Input<A[K]> };

/** Any function. */
// deno-lint-ignore no-explicit-any
export type Callable = (...args: any[]) => unknown;

type Part = { step: Step; path: (string | number)[] };
type Step = { order: number; call: unknown; args: unknown[]; stack?: string };
type Reference = string | { source: string };
/** A step of a task file: a call with its arguments, or a value. */
export type StoredStep = { call?: unknown; args?: unknown[]; value?: unknown };

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
export function defer<A extends readonly unknown[], R>(
  call: new (...args: A) => R,
  ...args: Inputs<A>
): Deferred<R>;
// deno-lint-ignore no-explicit-any
export function defer(call: URL, ...args: unknown[]): Deferred<any>;
export function defer<T>(value: T): Deferred<T>;
export function defer(call: unknown, ...args: unknown[]): unknown {
  const stack = typeof call !== "function" || known.has(call) ? undefined : new Error().stack;
  if (partOf(call) && !args.length) return call;
  const isCall = typeof call === "function" || (call instanceof URL && call.hash);
  return deferred(isCall ? newStep(partOf(call) ?? call, args, stack) : newStep(undefined, [call]));
}

function newStep(call: unknown, args: unknown[], stack?: string): Step {
  return { order: shared.order++, call, args, stack };
}

function partOf(value: unknown): Part | undefined {
  return typeof value === "function" ? (value as unknown as Record<symbol, Part>)[MARK] : undefined;
}

function deferred(step: Step, path: Part["path"] = []): unknown {
  const target = Object.assign(() => {}, { [MARK]: { step, path } });
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
  [Symbol.for("Deno.customInspect")]: { value: print },
  [Symbol.for("nodejs.util.inspect.custom")]: { value: print },
});

function print(this: { [MARK]: Part }): string {
  return describe(this[MARK], 4);
}

function describe({ step, path }: Part, depth: number): string {
  const show = (value: unknown): string => {
    const part = partOf(value);
    if (part) return depth > 0 ? describe(part, depth - 1) : "…";
    if (typeof value === "function") return value.name || "(anonymous)";
    if (value instanceof URL) return value.href;
    return typeof value !== "object" || !value
      ? stringify(value) ?? String(value)
      : Array.isArray(value)
      ? "[…]"
      : "{…}";
  };
  const keys = path.map((key) =>
    /^[a-z_$][\w$]*$/i.test(`${key}`) ? `.${key}` : `[${stringify(key)}]`
  );
  const call = step.call as Part;
  const method = call?.step && depth > 0;
  const made = method
    ? `${describe(call, depth - 1)}(`
    : `defer(${show(step.call)}${step.args.length ? ", " : ""}`;
  return `${made}${step.args.map(show).join(", ")})${keys.join("")}`;
}

// ------------------------------------------------------------------------------- stored values

type Codec = [
  new (...a: never[]) => unknown,
  (value: never) => unknown,
  (stored: never) => unknown,
];
const bytesOf = (data: Int8Array) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
const unbase64 = (text: string) => Uint8Array.fromBase64(text);

/** For each `$` key, the class that JSON cannot hold, how it is written, and how it is read back. */
const codecs: Record<string, Codec> = {
  $date: [
    Date,
    (date: Date) => isNaN(+date) ? "" : date.toISOString(),
    (text: string) => new Date(text),
  ],
  $url: [URL, (url: URL) => url.href, (href: string) => new URL(href)],
  $regexp: [RegExp, (r: RegExp) => [r.source, r.flags], (r: [string, string]) => new RegExp(...r)],
  $map: [
    Map,
    (map: Map<unknown, unknown>) => [...map],
    (pairs: [unknown, unknown][]) => new Map(pairs),
  ],
  $set: [Set, (set: Set<unknown>) => [...set], (items: unknown[]) => new Set(items)],
  $bytes: [Uint8Array, (bytes: Uint8Array) => bytes.toBase64(), unbase64],
  $arraybuffer: [
    ArrayBuffer,
    (b: ArrayBuffer) => new Uint8Array(b).toBase64(),
    (t: string) => unbase64(t).buffer,
  ],
};
for (
  const type of [
    Int8Array,
    Uint8ClampedArray,
    Int16Array,
    Uint16Array,
    Int32Array,
    Uint32Array,
    Float32Array,
    Float64Array,
    BigInt64Array,
    BigUint64Array,
  ]
) {
  const read = (text: string) => new type(unbase64(text).buffer);
  codecs[`$${type.name.toLowerCase()}`] = [
    type,
    (data: Int8Array) => bytesOf(data).toBase64(),
    read,
  ];
}

type Place = {
  name: string;
  keys: (string | number)[];
  inside: Set<unknown>;
  leaf?: (leaf: Callable) => unknown;
};

/** Turns `value` into what JSON can hold; `leaf` says how deferreds and functions are stored. */
function encode(value: unknown, name: string, leaf?: Place["leaf"]): unknown {
  return encodeAt(value, { name, keys: [], inside: new Set(), leaf });
}

function isPlain(value: unknown): boolean {
  if (typeof value === "number") return Number.isFinite(value) && !Object.is(value, -0);
  return value === null || typeof value === "string" || typeof value === "boolean";
}

function encodeAt(value: unknown, place: Place): unknown {
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

function encodeObject(object: Record<string, unknown>, place: Place): unknown {
  const child = (item: unknown, key: string | number): unknown => {
    if (isPlain(item)) return item;
    place.keys.push(key);
    const stored = encodeAt(item, place);
    place.keys.pop();
    return stored;
  };
  if (Array.isArray(object)) return Array.from(object, child);
  if (object instanceof Error) return { $error: encodeError(object, place) };
  const prototype = Object.getPrototypeOf(object);
  for (const [key, [type, write]] of Object.entries(codecs)) {
    const match = prototype === type.prototype ||
      (key === "$bytes" && object instanceof Uint8Array);
    if (match) return { [key]: child(write(object as never), key) };
  }
  if (typeof object.toJSON === "function") return child(object.toJSON(), "toJSON()");
  if (prototype && Object.getPrototypeOf(prototype)) {
    throw notStorable(place, `a ${prototype.constructor?.name || "value of a nameless class"}`);
  }
  if (Object.getOwnPropertySymbols(object).length) throw notStorable(place, "keyed by a symbol");
  const entries = Object.entries(object).map(([key, item]) => [key, child(item, key)]);
  const stored = Object.fromEntries(entries);
  return Object.keys(stored).some((key) => key.startsWith("$")) ? { $object: stored } : stored;
}

function notStorable({ name, keys }: Place, what: string): TypeError {
  const path = keys.map((key) => typeof key === "number" ? `[${key}]` : `.${key}`).join("");
  return new TypeError(`\`${name}${path}\` is ${what} and cannot be stored`);
}

/** The stack without the frames of this module. */
function userStack(error: Error): string {
  const isOurs = (line: string) =>
    /:\d+:\d+\)?$/.test(line) &&
    (line.includes(pathOf(self)) || line.includes("data:text/javascript,import"));
  return (error.stack ?? `${error}`).split("\n").filter((line) => COMPILED || !isOurs(line)).join(
    "\n",
  );
}

/** The parts of an error; of its own properties, those that cannot be stored become text. */
function encodeError(error: Error, place: Place): Record<string, unknown> {
  const name = error.name === "Error" ? error.constructor?.name ?? "Error" : error.name;
  const stored: Record<string, unknown> = { name, message: error.message, stack: userStack(error) };
  for (const key of new Set(["cause", "errors", ...Object.keys(error)])) {
    if (key in stored || !Object.hasOwn(error, key)) continue;
    const item = (error as unknown as Record<string, unknown>)[key];
    try {
      stored[key] = encodeAt(item, { ...place, inside: new Set(place.inside) });
    } catch {
      stored[key] = String(item);
    }
  }
  return stored;
}

/** Reads back, in place, what `encode` made. `results` are those of the steps before. */
function decode(stored: unknown, results: unknown[] = []): unknown {
  if (typeof stored !== "object" || !stored) return stored;
  const object = stored as Record<string, unknown>;
  const [key] = Object.keys(object);
  if (!Array.isArray(object) && key?.startsWith("$")) return decodeSpecial(key, object, results);
  for (const key in object) {
    if (typeof object[key] === "object") object[key] = decode(object[key], results);
  }
  return object;
}

function decodeSpecial(key: string, object: Record<string, unknown>, results: unknown[]): unknown {
  const stored = object[key];
  if (key === "$step") return follow(object as never, results);
  if (key === "$undefined") return undefined;
  if (key === "$number") return Number(stored);
  if (key === "$bigint") return BigInt(stored as string);
  if (key === "$function") return stored;
  if (key === "$error") return decodeError(stored as never);
  if (key === "$object") {
    const plain = stored as Record<string, unknown>;
    for (const key in plain) plain[key] = decode(plain[key], results);
    return plain;
  }
  if (!Object.hasOwn(codecs, key)) throw new TypeError(`\`${key}\` is no way to store a value`);
  return codecs[key][2](decode(stored, results) as never);
}

/** The result of a step before, or a part of it. */
function follow(ref: { $step: number; path?: (string | number)[] }, results: unknown[]): unknown {
  if (!Object.hasOwn(results, ref.$step)) {
    throw new RangeError(`\`$step\`: ${ref.$step} is none of the ${results.length} steps before`);
  }
  let value = results[ref.$step] as Record<string, unknown>;
  for (const key of ref.path ?? []) {
    if (/^(__proto__|constructor|prototype)$/.test(`${key}`)) {
      throw new TypeError(`\`path\`: \`${key}\` cannot be a part of a deferred value`);
    }
    if (value === undefined || value === null) {
      throw new TypeError(
        `Cannot read \`${key}\` of ${value}, in the path ${
          stringify(ref.path)
        } of step ${ref.$step}`,
      );
    }
    value = value[key] as typeof value;
  }
  return value;
}

function decodeError({ name, message, stack, ...properties }: Record<string, unknown>): Error {
  const error = new Error(message as string);
  const type = (globalThis as Record<string, unknown>)[name as string] as
    | ErrorConstructor
    | undefined;
  const known = type === Error || type?.prototype instanceof Error;
  if (known) Object.setPrototypeOf(error, type!.prototype);
  if (error.name !== name) {
    Object.defineProperty(error, "name", { value: name, configurable: true, writable: true });
  }
  Object.defineProperty(error, "stack", { value: stack, configurable: true, writable: true });
  return Object.assign(error, decode(properties));
}

// ---------------------------------------------------------------------------- stored functions

/** What each function is stored as, or will be. */
const known = new WeakMap<object, Promise<Reference>>();
/** The functions that a module exports or imports: by identity, or by name for the main module. */
const modules = new Map<string, Promise<Map<unknown, string>>>();

/** Says how a runner finds `call`: by a global's name, by module and export, or by its text. */
function refer(call: Callable, stack = new Error().stack): Promise<Reference> {
  if (!known.has(call)) known.set(call, findReference(call, stack ?? ""));
  return known.get(call)!;
}

async function findReference(call: Callable, stack: string): Promise<Reference> {
  const builtin = globals().get(call);
  if (builtin) return builtin;
  for (const [, place] of stack.matchAll(/((?:file:|https?:|[A-Z]:\\|\/)[^\n]*?):\d+:\d+\)?$/gm)) {
    const url = /^\w{2,}:/.test(place) ? place : fileUrl(place);
    if (!modules.has(url)) modules.set(url, findFunctions(url));
    const functions = await modules.get(url)!;
    const found = url === self ? undefined : functions.get(call) ?? functions.get(call.name || " ");
    if (found) return found;
  }
  const source = Function.prototype.toString.call(call);
  try {
    compile(source);
  } catch {
    throw new TypeError(
      `Cannot schedule the function \`${
        call.name || "(anonymous)"
      }\`, as its text cannot stand alone ` +
        "(it is native, bound, or a method): wrap it in an arrow function or export it from a module",
    );
  }
  return { source };
}

let globalNames: Map<unknown, string> | undefined;
function globals(): Map<unknown, string> {
  if (globalNames) return globalNames;
  globalNames = new Map();
  for (const name of Object.getOwnPropertyNames(globalThis)) {
    const value = Object.getOwnPropertyDescriptor(globalThis, name)?.value;
    if (typeof value === "function") globalNames.set(value, name);
    for (
      const key of value && !/^(globalThis|window|self|global)$/.test(name)
        ? Object.getOwnPropertyNames(value)
        : []
    ) {
      const member = Object.getOwnPropertyDescriptor(value, key)?.value;
      if (typeof member === "function" && !globalNames.has(member)) {
        globalNames.set(member, `${name}.${key}`);
      }
    }
  }
  return globalNames;
}

/** The functions that the module at `url` exports, and those that it imports from elsewhere. */
async function findFunctions(url: string): Promise<Map<unknown, string>> {
  const found = new Map<unknown, string>();
  const add = async (specifier: string) => {
    const exports = await within(1000, import(specifier)).catch(() => undefined) ?? {};
    for (const name of Object.keys(exports)) found.set(exports[name], `${specifier}#${name}`);
  };
  const text = await Promise.resolve().then(() => system.readTextFileSync(new URL(url))).catch(() =>
    ""
  );
  for (
    const [, specifier] of text.matchAll(
      /^\s*(?:im|ex)port\s(?!\s*type\b)[^"'();]*\bfrom\s*["'](.+?)["']/gm,
    )
  ) {
    await add(resolve(specifier, url));
  }
  if (url !== system.mainModule) {
    await add(url);
  } else { // the main module is still being evaluated: to import it would wait for ever
    const declaration =
      /^export\s+(default\s+)?(?:async\s+)?(?:function\s*\*?|class|const|let|var)\s*([\w$]+)/gm;
    for (const [, byDefault, name] of text.matchAll(declaration)) {
      found.set(name, `${url}#${byDefault ? "default" : name}`);
    }
    for (const [, names] of text.matchAll(/^export\s*\{([^}]*)\}\s*(?:;|$)/gm)) {
      for (const [, name, alias] of names.matchAll(/([\w$]+)(?:\s+as\s+([\w$]+))?/g)) {
        found.set(name, `${url}#${alias ?? name}`);
      }
    }
  }
  return found;
}

function resolve(specifier: string, base: string): string {
  if (/^\.{0,2}\//.test(specifier)) return new URL(specifier, base).href;
  const bun =
    (globalThis as unknown as { Bun?: { resolveSync(from: string, to: string): string } }).Bun;
  try {
    if (bun) {
      return fileUrl(bun.resolveSync(specifier, decodeURIComponent(new URL(".", base).pathname)));
    }
    return import.meta.resolve(specifier);
  } catch {
    return specifier;
  }
}

/** The URL of a path; an absolute URL or another specifier stays as it is. */
function fileUrl(path: string): string {
  if (/^[a-z][a-z+.-]+:/i.test(path)) return path;
  const url = new URL("file:///");
  const isAbsolute = /^([A-Z]:)?[\\/]/i.test(path);
  url.pathname = (isAbsolute ? path : `${system.cwd()}/${path}`).replaceAll("%", "%25");
  return url.href;
}

function pathOf(url: string): string {
  return decodeURIComponent(new URL(url).pathname);
}

/** Evaluates the text of a function, with the exports of the session module in scope. */
function compile(source: string, session: Record<string, unknown> = {}): Callable {
  return new Function(...Object.keys(session), `return (${source}\n)`)(...Object.values(session));
}

/** The function that a reference stands for, and the object that it is called on. */
async function load(call: unknown, session?: string): Promise<[unknown, unknown]> {
  if (typeof call === "function") return [undefined, call];
  if (typeof call === "object" && typeof (call as { source?: unknown })?.source === "string") {
    const scope = session ? await importModule(session) : {};
    return [undefined, compile((call as { source: string }).source, scope)];
  }
  if (typeof call !== "string") {
    throw new TypeError(`\`call\` is ${stringify(call)}, not a function's name`);
  }
  const [, module, name] = /^(.*)#([^#]*)$/s.exec(call) ?? [];
  const path = module === undefined ? call.split(".") : [name];
  let owner: unknown;
  let value: unknown = module === undefined
    ? globalThis
    : module === "forrest"
    ? own
    : await importModule(module);
  for (const key of path) {
    owner = value;
    value = value && Object.hasOwn(value, key)
      ? (value as Record<string, unknown>)[key]
      : undefined;
  }
  if (typeof value === "function") return [module === undefined ? owner : undefined, value];
  const known = module === undefined
    ? ""
    : `; it exports ${Object.keys(owner as object).join(", ") || "nothing"}`;
  throw new TypeError(`\`${call}\` is not a function${known}`);
}

async function importModule(path: string): Promise<Record<string, unknown>> {
  shared.importing++;
  try {
    return await import(fileUrl(path));
  } finally {
    shared.importing--;
  }
}

// ---------------------------------------------------------------------------------- evaluation

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
export async function evaluate<T>(task: Deferred<T> | T): Promise<T> {
  const [steps] = build(task, (call) => call);
  return await runSteps(steps) as T;
}

/** The steps of a task in the order in which they were made, and the references still looked for. */
function build(
  task: unknown,
  refer: (call: Callable, stack?: string) => unknown,
): [StoredStep[], Promise<void>[]] {
  const end = partOf(task) ?? { step: newStep(undefined, [task]), path: [] };
  const stored = new Map<Step, StoredStep>([[end.step, {}]]);
  const refs: { $step: number; path: Part["path"] }[] = [];
  const pending: Promise<void>[] = [];
  const link = ({ step, path }: Part) => {
    if (!stored.has(step)) stored.set(step, {});
    return refs[refs.push({ $step: step.order, path }) - 1];
  };
  const reference = <K extends string>(
    into: Record<K, unknown>,
    key: K,
    call: Callable,
    stack?: string,
  ) => {
    const found = refer(call, stack);
    into[key] = found;
    if (found instanceof Promise) {
      pending.push(found.then((reference) => void (into[key] = reference)));
    }
  };
  const leaf = (value: Callable) => {
    const part = partOf(value);
    if (part) return link(part);
    const holder = { $function: undefined };
    reference(holder, "$function", value);
    return holder;
  };
  for (const [{ call, args, stack }, into] of stored) { // a map's iteration visits what is added to it
    if (call === undefined) Object.assign(into, { value: encode(args[0], "value", leaf) });
    else if (call instanceof URL || typeof call === "string") into.call = `${call}`;
    else if (typeof call === "function") {
      reference(into as Required<StoredStep>, "call", call as Callable, stack);
    } else into.call = link(call as Part);
    if (call !== undefined) {
      into.args = args.map((item, index) => encode(item, `args[${index}]`, leaf));
    }
  }
  const steps = [...stored.keys()].sort((a, b) => a.order - b.order);
  const index = new Map(steps.map(({ order }, index) => [order, index]));
  const result = end.path.length ? [{ value: link(end) }] : [];
  for (const ref of refs) ref.$step = index.get(ref.$step)!;
  return [[...steps.map((step) => stored.get(step)!), ...result], pending];
}

async function runSteps(steps: StoredStep[], session?: string): Promise<unknown> {
  const results: unknown[] = [];
  for (const { call, args = [], value } of steps) {
    if (call === undefined) results.push(decode(value, results));
    else results.push(await runStep(call, args, results, session));
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
  const ref = call as { $step: number; path?: Part["path"] };
  const [owner, callee] = typeof ref.$step !== "number" ? await load(call, session) : [
    ref.path?.length && follow({ ...ref, path: ref.path.slice(0, -1) }, results),
    follow(ref, results),
  ];
  if (typeof callee !== "function") {
    throw new TypeError(`${stringify(call)} is a ${typeof callee}, not a function`);
  }
  try {
    return await (isConstructor(callee)
      ? Reflect.construct(callee, values)
      : Reflect.apply(callee, owner, values));
  } catch (error) {
    if (
      !(error instanceof ReferenceError) || typeof (call as { source?: string }).source !== "string"
    ) throw error;
    const message =
      `${error.message}. The function was stored as its text, without the variables around it: export ` +
      "it from a module (and guard the main part of a script with `if (import.meta.main)`), or name a `session` module";
    throw Object.assign(new ReferenceError(message), {
      stack: error.stack?.replace(error.message, message),
    });
  }
}

/** Replaces the references in `$function`, which are loaded asynchronously, by the functions. */
async function loadFunctions(stored: unknown, session?: string): Promise<void> {
  const places = [stored];
  for (const place of places) {
    for (const item of Object.values(place as object)) {
      if (typeof item === "object" && item) places.push(item);
    }
    const holder = place as { $function?: unknown };
    if (holder.$function !== undefined) {
      [, holder.$function] = await load(holder.$function, session);
    }
  }
}

/** Classes, and the built-ins that are like them: those whose `prototype` cannot be replaced. */
function isConstructor(callee: object): boolean {
  const fixed = Object.getOwnPropertyDescriptor(callee, "prototype")?.writable === false;
  return fixed && !([String, Number, Boolean, BigInt, Symbol] as unknown[]).includes(callee);
}

// ------------------------------------------------------------------------------------ the list

/** The folders of a list: the state of a task is the folder that it lies in. */
export type State = "todo" | "running" | "done" | "fail";

/** A task as it is stored, with its metadata, value and error read back. */
export interface Task<T = unknown> {
  /** The name of its file, without `.json`. */
  id: string;
  /** The folder that it lies in. */
  state: State;
  /** What it calls. */
  steps?: StoredStep[];
  /** What was attached to it with `schedule()`. */
  metadata?: unknown;
  /** How often it was started. */
  attempts?: number;
  /** When it was last started, in ISO 8601. */
  started?: string;
  /** How long it ran, in seconds. */
  runtime?: number;
  /** What its last step returned. */
  returnValue?: T;
  /** What was thrown, as an error of the same class with the original stack. */
  errorValue?: unknown;
}

/** The options of a {@linkcode TaskList}. */
export interface ListOptions {
  /** Take a directory that exists. @default {false} */
  existOk?: boolean;
  /** Remove the tasks that an existing directory holds. @default {true} */
  preClean?: boolean;
  /** Remove the list when it is disposed (`using`). @default {false} */
  postClean?: boolean;
  /** If the directory exists, skip every `schedule()`, and let `run()` do what is left. @default {false} */
  noScheduleIfExist?: boolean;
  /** Schedule the failed tasks among those with a known id again. @default {false} */
  retryFailed?: boolean;
  /** The file for all output of tasks, and a line for each event, in place of the terminal. */
  logFile?: string;
}

/** The options of {@linkcode TaskList.run}. */
export interface RunOptions {
  /** How many tasks may run at once, each in a process. @default {navigator.hardwareConcurrency} */
  processes?: number;
  /** Seconds after which a task's whole process group is killed, and the task has failed. @default {Infinity} */
  autokill?: number;
  /** Print the stack of every error at once. @default {false} */
  printErrors?: boolean;
  /** A module whose exports are in scope for functions that are stored as text. */
  session?: string | URL;
  /** Deno's permissions for tasks, such as `["--allow-net"]`. @default {["--allow-all"]} */
  permissions?: string[];
  /** Tasks that one process runs before it is replaced. @default {1} */
  tasksPerProcess?: number;
  /** Tasks that one process holds at once, for those that wait; more than 1 keeps processes. @default {1} */
  concurrency?: number;
  /** How often a task that failed is tried again. @default {0} */
  retries?: number;
  /** Seconds before the first retry of a task; doubles with each. @default {0} */
  retryDelay?: number;
  /** Start nothing more after more failures than that, and throw at the end. @default {Infinity} */
  maxFailures?: number;
  /** Dead runs after which a task that was running in each of them has failed. @default {3} */
  maxCrashes?: number;
  /** Ends the run like `break` when it aborts. If given, the module leaves the program's signals alone. */
  signal?: AbortSignal;
  /** Gets what tasks print, in place of the terminal. */
  onOutput?: (text: string, stream: "stdout" | "stderr", id: string) => void;
}

/** Where a scheduled task went; `scheduled` is false if the list was to skip it or has its id. */
export interface Scheduled {
  /** The name of its file, without `.json`. */
  id: string;
  /** Whether a file was written. */
  scheduled: boolean;
}

/** The tasks of a run as they finish, and how many they will be. */
export type Run<T> = AsyncGenerator<Task<T>, void, void> & {
  /** The tasks to come and those that have come. */
  readonly total: number;
};

const states: readonly State[] = ["todo", "running", "done", "fail"];

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
  #options: ListOptions;
  #skip: boolean;
  #queue: {
    id: string;
    text: string;
    resolve: (state: Scheduled) => void;
    reject: (error: unknown) => void;
  }[] = [];
  #writing?: Promise<void>;
  #pending = new Set<Promise<unknown>>();
  #failed: Watched<Scheduled>[] = [];

  /** Makes the directory, or takes the one that is there. */
  constructor(directory: string | URL, options: ListOptions = {}) {
    if (shared.importing) throw new Error(GUARD);
    this.directory = pathOf(fileUrl(String(directory))).replace(/\/$/, "");
    this.#options = options;
    const present = exists(this.directory);
    if (present && !options.existOk && !options.noScheduleIfExist) {
      throw new Error(
        `Cannot make the task list \`${this.directory}\`: it exists already; take it with \`existOk: true\``,
      );
    }
    this.#skip = present && !!options.noScheduleIfExist;
    for (const state of states) system.mkdirSync(`${this.directory}/${state}`, { recursive: true });
    if (present && !this.#skip && options.preClean !== false) this.clean();
  }
  /**
   * Writes a task into `todo`; resolves when it is safely on disk.
   *
   * Nobody has to await it: `run()` waits for what is pending, and throws an error that nobody has
   * seen. Rejects with a TypeError, which names the place, if something cannot be stored.
   *
   * @param task What to run: a deferred value, or plain data.
   * @param options `metadata` comes back with the result. An `id` that the list has already, in any
   * state, is not scheduled again.
   */
  schedule(
    task: Deferred<T> | T,
    options: { metadata?: unknown; id?: string } = {},
  ): Promise<Scheduled> {
    const scheduled = new Watched<Scheduled>((resolve) => resolve(this.#store(task, options)));
    this.#pending.add(scheduled);
    const settled = () => this.#pending.delete(scheduled);
    Promise.prototype.then.call(
      scheduled,
      settled,
      () => settled() && this.#failed.push(scheduled),
    );
    return scheduled;
  }

  async #store(
    task: unknown,
    { metadata, id = newId() }: { metadata?: unknown; id?: string },
  ): Promise<Scheduled> {
    if (!/^[^./\\\0][^/\\\0]*$/.test(id) || id.length > 150 || /\.json@/.test(id)) {
      throw new TypeError(
        `Cannot use \`${id}\` as an id: it must be a file name of up to 150 characters, without a dot at its start`,
      );
    }
    if (this.#skip) return { id, scheduled: false };
    const [steps, pending] = build(task, refer);
    const stored = metadata === undefined
      ? { steps }
      : { steps, metadata: encode(metadata, "metadata") };
    await Promise.all(pending);
    const text = writeTask(stored);
    return await new Promise((resolve, reject) => {
      this.#queue.push({ id, text, resolve, reject });
      this.#writing ??= this.#write();
    });
  }

  /** Writes what is scheduled, many at a time, and syncs the folder once for all of them. */
  async #write(): Promise<void> {
    for (let batch; (batch = this.#queue.splice(0, 64)).length;) {
      const written = batch.map(async ({ id, text, resolve, reject }) => {
        try {
          const scheduled = await this.#publish(id, text);
          return () => resolve({ id, scheduled });
        } catch (error) {
          return () => reject(error);
        }
      });
      const answers = await Promise.all(written);
      syncFolder(`${this.directory}/todo`);
      for (const answer of answers) answer();
    }
    this.#writing = undefined;
  }

  async #publish(id: string, text: string): Promise<boolean> {
    const aside = `${this.directory}/running/${id}.json@${newOwner()}+`;
    const file = writeAside(aside, text);
    await file.sync();
    file.close();
    const state = states.find((state) => has(this.directory, state, id));
    const retry = state === "fail" && this.#options.retryFailed;
    if (state) system.removeSync(aside);
    else system.renameSync(aside, `${this.directory}/todo/${id}.json`);
    return !state || (retry ? this.#move(id, "fail", "todo") : false);
  }

  /**
   * Runs what is in `todo`, each task in a process of its own, and yields each task as it finishes.
   *
   * `break` ends the run: what was running goes back to `todo`, and nothing keeps running. A signal
   * (SIGINT, SIGTERM, SIGHUP) does the same before it ends the program.
   *
   * @throws {RangeError} If an option is out of range.
   * @throws {TypeError} If Deno's permissions do not suffice.
   */
  run(options: RunOptions = {}): Run<T> {
    const progress: Progress = { total: undefined };
    const ready = async () => {
      await Promise.allSettled(this.#pending);
      const unseen = this.#failed.splice(0).find((scheduled) => !scheduled.seen);
      if (unseen) await unseen;
    };
    const pool = new Pool(this.directory, checkOptions(options), this.#options.logFile);
    const run = pool.run(progress, ready);
    const total = () =>
      progress.total ??= this.#pending.size + idsIn(this.directory, "todo").length;
    return Object.defineProperty(run, "total", { get: total }) as Run<T>;
  }

  /** The tasks that wait. */
  todoTasks(): AsyncGenerator<Task<T>, void, void> {
    return this.#tasks("todo");
  }

  /** The tasks that are being run. */
  runningTasks(): AsyncGenerator<Task<T>, void, void> {
    return this.#tasks("running");
  }

  /** The tasks that have a return value. */
  doneTasks(): AsyncGenerator<Task<T>, void, void> {
    return this.#tasks("done");
  }

  /** The tasks that have an error. */
  failTasks(): AsyncGenerator<Task<T>, void, void> {
    return this.#tasks("fail");
  }

  async *#tasks(state: State): AsyncGenerator<Task<T>, void, void> {
    await Promise.allSettled(this.#pending);
    for (const id of idsIn(this.directory, state)) {
      const path = `${this.directory}/${state}/${id}${state === "running" ? "" : ".json"}`;
      if (exists(path)) yield readTask(path) as Task<T>;
    }
  }

  /** How many tasks each folder holds, without reading them. */
  count(): Record<State, number> {
    const counts = states.map((state) => [state, idsIn(this.directory, state).length]);
    return Object.fromEntries(counts);
  }

  /** Moves failed tasks back to `todo`: all, those with the given ids, or those for which `which` is true. */
  async retry(which: string[] | ((task: Task<T>) => boolean) = () => true): Promise<number> {
    let moved = 0;
    for await (const task of this.failTasks()) {
      const wanted = typeof which === "function" ? which(task) : which.includes(task.id);
      if (wanted && this.#move(task.id, "fail", "todo")) moved++;
    }
    return moved;
  }

  #move(id: string, from: State, to: State): boolean {
    const moved = move(
      `${this.directory}/${from}/${id}.json`,
      `${this.directory}/${to}/${id}.json`,
    );
    if (moved) syncFolder(`${this.directory}/${to}`);
    return moved;
  }

  /** Removes the tasks that wait, are done or have failed; all of them by default. */
  clean({ todo = true, done = true, fail = true } = {}): void {
    if (todo) recover(this.directory, newOwner(), Infinity);
    for (const [state, chosen] of Object.entries({ todo, done, fail })) {
      for (const { name } of chosen ? [...system.readDirSync(`${this.directory}/${state}`)] : []) {
        if (/\.json(\.original)?$/.test(name)) {
          system.removeSync(`${this.directory}/${state}/${name}`, { recursive: true });
        }
      }
    }
  }

  /** Removes the list, if `postClean` is set: its tasks, its folders, and the directory if nothing else is in it. */
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

/** A promise that knows whether anybody waits for it. */
class Watched<T> extends Promise<T> {
  static override readonly [Symbol.species] = Promise;
  seen = false;
  override then<A = T, B = never>(
    done?: ((value: T) => A | PromiseLike<A>) | null,
    failed?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.seen = true;
    return super.then(done, failed);
  }
}

// -------------------------------------------------------------------------------- task files
//
// A task is in one place at any time, and only these renames move it:
//
//   todo/ID.json -> running/ID.json@OWNER                     the claim
//   running/ID.json@OWNER -> running/ID.json@OWNER~STATE      the seal: from now on it is in STATE
//   running/ID.json@OWNER+ -> STATE/ID.json                   the outcome, written and synced before
//   running/ID.json@OWNER -> todo/ID.json                     back, as its run has ended
//
// The seal can be set once, by whoever finds the claim in its place: so the first outcome wins. Who
// finds a seal whose owner is dead ends what it began.

type Seal = "todo" | "done" | "fail" | "keep";
const seals: readonly Seal[] = ["done", "fail", "todo", "keep"];

let lastId = 0;
const nonce = crypto.randomUUID().slice(0, 4);

/** An id that sorts after all before it, in this process and, by the clock, in others. */
function newId(): string {
  lastId = Math.max(lastId + 1, Date.now() * 1000);
  return `${lastId}-${nonce}`;
}

/** The ids of the tasks in `state`, in order; for `running`, with the owners of their claims. */
function idsIn(directory: string, state: State): string[] {
  const pattern = state === "running" ? /^([^.].*\.json@[^@+~]*)$/s : /^([^.].*)\.json$/s;
  const names = Array.from(
    system.readDirSync(`${directory}/${state}`),
    ({ name }) => pattern.exec(name)?.[1],
  );
  return names.filter((name) => name !== undefined).sort();
}

/** False if a file that `action` needs is not there; other errors are thrown. */
function succeeds(action: () => unknown): boolean {
  try {
    action();
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return false;
    throw error;
  }
}

const exists = (path: string): boolean => succeeds(() => system.lstatSync(path));
const move = (from: string, to: string): boolean => succeeds(() => system.renameSync(from, to));
const remove = (path: string): boolean => succeeds(() => system.removeSync(path));

/** Whether a task is in `state`. */
function has(directory: string, state: State, id: string): boolean {
  if (state !== "running") return exists(`${directory}/${state}/${id}.json`);
  return Array.from(system.readDirSync(`${directory}/running`)).some(({ name }) =>
    name.startsWith(`${id}.json@`) && !name.endsWith("+")
  );
}

/** One line for each step and for each other key, so that a person can read and edit it. */
function writeTask({ steps, ...others }: Record<string, unknown>): string {
  const lines = Object.entries(others).map(([key, value]) =>
    `  ${stringify(key)}: ${stringify(value)}`
  );
  const list = Array.isArray(steps)
    ? steps.map((step) => `    ${stringify(step)}`).join(",\n")
    : undefined;
  const first = list === undefined
    ? steps === undefined ? [] : [`  "steps": ${stringify(steps)}`]
    : [`  "steps": [\n${list}\n  ]`];
  return `{\n${[...first, ...lines].join(",\n")}\n}\n`;
}

/** The id, the list, and the state of the task at `path`. */
function locate(path: string): { id: string; state: State; directory: string } {
  const [, directory, state, id] = /^(.*)\/([^/]*)\/([^/]*?)(?:\.json(?:@[^/]*)?)?$/s.exec(path)!;
  return { directory, state: state as State, id };
}

/** Reads the task file at `path`; if that cannot be read, the error of the task says so. */
export function readTask(path: string): Task {
  const { id, state } = locate(path);
  try {
    return toTask(id, state, system.readTextFileSync(path));
  } catch (error) {
    return {
      id,
      state,
      errorValue: new Error(`Cannot read the task \`${path}\``, { cause: error }),
    };
  }
}

function toTask(id: string, state: State, text: string): Task {
  const task = parse(text);
  for (const key of ["metadata", "returnValue", "errorValue"]) {
    if (key in task) task[key] = decode(task[key]);
  }
  return { ...task, id, state };
}

function writeAside(path: string, text: string): Deno.FsFile {
  const file = system.openSync(path, { write: true, create: true, truncate: true });
  const bytes = new TextEncoder().encode(text);
  for (let written = 0; written < bytes.length;) written += file.writeSync(bytes.subarray(written));
  return file;
}

function syncFolder(path: string): void {
  const folder = system.openSync(path);
  folder.syncSync();
  folder.close();
}

/** Files the outcome of a claimed task, if nobody has done so; says in which state the task is now. */
function publish(claim: string, seal: Seal, text: string): State {
  const file = writeAside(`${claim}+`, text);
  file.syncSync();
  file.close();
  if (!move(claim, `${claim}~${seal}`) && !exists(`${claim}~${seal}`)) {
    const elsewhere = whereIs(claim);
    if (elsewhere) {
      remove(`${claim}+`);
      return elsewhere;
    }
    writeAside(`${claim}~${seal}`, "").close(); // the task has removed its own file
  }
  return finish(claim, seal);
}

/** Ends what a seal began. It may be done again, and by anybody. */
function finish(claim: string, seal: Seal): State {
  const { directory, id } = locate(claim);
  const state = seal === "keep" ? "fail" : seal;
  const target = `${directory}/${state}/${id}.json`;
  if (move(`${claim}+`, target)) syncFolder(`${directory}/${state}`);
  if (state === "done") remove(`${directory}/fail/${id}.json`); // it was copied from there to be retried
  if (seal === "keep") move(`${claim}~keep`, `${target}.original`);
  else remove(`${claim}~${seal}`);
  return state;
}

/** Ends what a process began before it died; says in which state the task is then. */
function settle(claim: string): State | undefined {
  const seal = seals.find((seal) => exists(`${claim}~${seal}`));
  return seal ? finish(claim, seal) : exists(claim) ? "running" : whereIs(claim);
}

function whereIs(claim: string): State | undefined {
  const { directory, id } = locate(claim);
  return states.find((state) => has(directory, state, id));
}

const COMPILED = self.includes("/$bunfs/") ||
  !!(globalThis.Deno?.build as { standalone?: boolean })?.standalone;

/** Files the outcome of a claimed task; a failed one goes to `todo` as long as it may be retried. */
function record(claim: string, text: string, outcome: Outcome, retries = 0): [State, number] {
  const task = withOutcome(text, outcome);
  const attempts = Number(task.attempts ?? 1);
  const failed = task === outcome ? "keep" : attempts <= retries ? "todo" : "fail";
  const seal = "returnValue" in outcome ? "done" : failed;
  return [publish(claim, seal, writeTask(task)), attempts];
}

/** The task as it was written, with an outcome; only the outcome if it was not a task. */
function withOutcome(text: string, outcome: Outcome): Record<string, unknown> {
  let task: unknown;
  try {
    task = parse(text);
  } catch { /* the outcome says so */ }
  if (typeof task !== "object" || !task || Array.isArray(task)) return outcome;
  const { returnValue: _value, errorValue: _error, ...others } = task as Record<string, unknown>;
  return { ...others, attempts: (Number(others.attempts) || 0) + 1, ...outcome };
}

type Outcome = Record<string, unknown> & ({ returnValue: unknown } | { errorValue: unknown });

function textOf(path: string): string {
  try {
    return system.readTextFileSync(path);
  } catch {
    return "";
  }
}

/** What was thrown, as it is stored. */
function encodeThrown(thrown: unknown): unknown {
  try {
    return encode(thrown, "errorValue");
  } catch {
    return String(thrown);
  }
}

// ------------------------------------------------------------------------- owners and processes

/** Runs a few lines of shell, which can look at and kill other processes where no runtime can. */
function shell(script: string, arg: string): string {
  const { stdout } = new system.Command("sh", { args: ["-c", script, arg] }).outputSync();
  return new TextDecoder().decode(stdout).trim();
}

/** When a process started, as a text that no other process with its id has had; empty if it is dead. */
const START =
  `s=$(cat /proc/$0/stat 2>/dev/null) && set -- \${s##*) } && [ $1 != Z ] && [ $1 != X ] &&
  echo $(cut -c1-8 /proc/sys/kernel/random/boot_id)-\${20} || { [ -d /proc/self ] || ps -o lstart= -p $0; }`;
/** Kills every process with a text in its environment, until there is none. */
const KILL =
  `i=0; while [ $i -lt 100 ] && p=$(grep -lsFe "$0" /proc/[0-9]*/environ | cut -d/ -f3) && [ "$p" ]
  do kill -9 $p 2>/dev/null; i=$((i+1)); sleep 0.02; done`;

/** What the environment of this process says of the runs that it is a part of. */
const inherited = () => system.env.get("FORREST_TASKS") ?? "";
const newOwner = () => `${processOwner()}.${newId()}`;
let identity: string | undefined;

/** Host, process id and start of this process. */
function processOwner(): string {
  const parts = () => [system.hostname(), `${system.pid}`, shell(START, `${system.pid}`)];
  return identity ??= parts().map((part) => part.replace(/[^\w-]+/g, "_")).join(".");
}

const REFRESH = 10_000; // milliseconds between the signs of life on a claim
const LEASE = 60_000; // and without one, after which a claim of another host is recovered
const observed = new Map<string, { mtime: number; since: number }>();

/** Whether the owner of a claim lives; undefined if that cannot be known yet, as it is on another host. */
function isAlive(claim: string): boolean | undefined {
  const owner = claim.slice(claim.lastIndexOf(".json@") + 6);
  if (owner.startsWith(`${processOwner()}.`)) return true;
  const [host, pid, start] = owner.split(".");
  if (host === processOwner().split(".")[0]) {
    return shell(START, pid).replace(/[^\w-]+/g, "_") === start;
  }
  let mtime = 0;
  succeeds(() => mtime = Number(system.lstatSync(claim).mtime));
  const before = observed.get(claim);
  if (before?.mtime !== mtime) observed.set(claim, { mtime, since: performance.now() }); // no clock but ours
  if (before && before.mtime !== mtime) return true;
  return before && performance.now() - before.since > LEASE ? false : undefined;
}

/** Puts back what dead runs have left; true if the owner of something may be dead. */
function recover(directory: string, owner: string, maxCrashes: number): boolean {
  const alive = new Map<string, boolean | undefined>();
  for (const { name } of [...system.readDirSync(`${directory}/running`)]) {
    const [, id, other] = /^(.*)\.json@([^@+~]*)([+~].*)?$/s.exec(name) ?? [];
    if (!id) continue;
    const claim = `${directory}/running/${id}.json@${other}`;
    if (!alive.has(other)) {
      alive.set(other, isAlive(claim));
      if (alive.get(other) === false) shell(KILL, `/${other}.`);
    }
    if (alive.get(other) !== false || settle(claim) !== "running") continue;
    const taken = `${directory}/running/${id}.json@${owner}`;
    if (has(directory, "done", id)) remove(claim);
    else if (move(claim, taken)) recordCrash(taken, maxCrashes);
  }
  return [...alive.values()].includes(undefined);
}

/** Counts the death of a run against a task that was running in it, as it may have been the cause. */
function recordCrash(claim: string, maxCrashes: number): void {
  const text = textOf(claim);
  const crashes = 1 + (Number(/^  "crashes": (\d+)/m.exec(text)?.[1]) || 0);
  const message = `The run that this task was running in has died, for the ${crashes}. time`;
  const outcome = { crashes, errorValue: encodeThrown(new Error(message)) };
  record(claim, text, outcome, crashes < maxCrashes ? Infinity : 0);
}

// ------------------------------------------------------------------------------------ the pool

type Progress = { total?: number };
const RUNNER = "forrest-runner";
const GUARD =
  "Cannot use a task list while a runner imports this module to find a function in it: put the main part " +
  "of the script in `if (import.meta.main) { ... }`";
type Settings = { session?: string; retries: number; concurrency: number; kept: boolean };
type Answer = [key: string, state: State, attempts: number];

type Timer = ReturnType<typeof setTimeout>;
type Stream = "stdout" | "stderr";
interface Runner {
  held: Map<string, Timer | undefined>; // the keys of its tasks, and the timers of their autokill
  given: number; // how many tasks it was ever given
  marker: string; // what is in the environment of its descendants
  ended: boolean; // it gets no more
  killed: boolean;
  give(key: string, request: unknown): void;
  end(): void;
  kill(): void;
}

interface RunnerEvents {
  answer(runner: Runner, answer: Answer): boolean; // false if it was not one: some task has printed it
  output(runner: Runner, text: string, stream: Stream): void;
  exit(runner: Runner, error: Error): void;
}

let runnersStarted = 0;

/** Starts a process that runs this module, in a process group of its own. */
function startRunner(
  settings: Settings,
  owner: string,
  command: string[],
  events: RunnerEvents,
): Runner {
  const marker = `/${owner}.${runnersStarted++}/`;
  const words = [...command, RUNNER, stringify(settings)];
  const redirect = ["sh", "-c", 'exec "$@" 3<&0 </dev/null', "sh"];
  // A kept runner gets its requests from descriptor 3, so that no task can take them from stdin.
  const [program, ...args] = settings.kept ? [...redirect, ...words] : words;
  const env = { FORREST_TASKS: inherited() + marker };
  const pipes = {
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    detached: true,
  } as Deno.CommandOptions;
  const process = new system.Command(program, { args, env, ...pipes }).spawn();
  const input = process.stdin.getWriter();
  const ignore = () => {}; // it is dead, and its exit will be handled
  let tail = "";
  const runner: Runner = {
    held: new Map(),
    given: 0,
    marker,
    ended: false,
    killed: false,
    give(key, request) {
      runner.given++;
      runner.held.set(key, undefined);
      input.write(new TextEncoder().encode(`${stringify(request)}\n`)).catch(ignore);
    },
    end() {
      if (!runner.ended) input.close().catch(ignore);
      runner.ended = true;
    },
    kill() {
      runner.ended = runner.killed = true;
      killGroup(process.pid);
    },
  };
  const print = (text: string, stream: Stream) => {
    if (!text) return;
    tail = (tail + text).slice(-2000);
    events.output(runner, text, stream);
  };
  const read = async (stream: Stream) => {
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of process[stream]) {
      text += decoder.decode(chunk, { stream: true });
      let mark = text.indexOf("\x1e");
      for (
        let end;
        mark >= 0 && (end = text.indexOf("\n", mark)) >= 0;
        mark = text.indexOf("\x1e", mark + 1)
      ) {
        print(text.slice(0, mark), stream);
        const answer = stream === "stdout" && parseAnswer(text.slice(mark + 1, end));
        const answered = answer && events.answer(runner, answer);
        text = text.slice(answered ? end + 1 : mark);
        mark = answered ? -1 : 0;
      }
      print(text.slice(0, mark < 0 ? undefined : mark), stream);
      text = mark < 0 ? "" : text.slice(mark);
    }
    print(text, stream);
  };
  const drained = Promise.all([read("stdout"), read("stderr")]);
  process.status.then(async (status) => {
    killGroup(process.pid); // what the task has left running
    await within(200, drained); // unless somebody who left the group holds its output open
    events.exit(runner, deathOf("The process of this task", status, tail));
  });
  return runner;
}

function parseAnswer(text: string): Answer | undefined {
  try {
    const answer = parse(text);
    return Array.isArray(answer) ? answer as Answer : undefined;
  } catch { /* a task has printed it */ }
}

/** What `promise` gives within so many milliseconds, else undefined. */
async function within<T>(milliseconds: number, promise: Promise<T>): Promise<T | void> {
  let timer: Timer | undefined;
  const late = new Promise<void>((resolve) => timer = setTimeout(resolve, milliseconds));
  return await Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function killGroup(pid: number): void {
  try {
    system.kill(-pid as never, "SIGKILL");
  } catch { /* none of it is left */ }
}

/** The error of a process that died of itself. */
function deathOf(what: string, { signal, code }: Deno.CommandStatus, output: string): Error {
  const how = signal
    ? `was killed by ${signal}`
    : code && !/Top-level await promise never resolved/.test(output)
    ? `exited with code ${code}`
    : "ended before the task: it called `exit()`, or it waits for a promise that nothing will settle";
  const end = output.trim().slice(-2000);
  const error = new Error(`${what} ${how}${end && `. It last printed:\n${end}`}`);
  error.stack = `Error: ${error.message}`;
  return error;
}

/** The command that starts a runner: this runtime with this module, or the compiled program itself. */
function runnerCommand(permissions: string[], firstTask: string): string[] {
  const program = system.execPath();
  if (COMPILED) return [program];
  if (!globalThis.Deno) return [program, ...process.execArgv, pathOf(self)];
  // Deno takes import map, packages and lock file from beside its main module, so it is given one that
  // would lie in the task's project. It never gets there, as the runner exits in the preloaded module.
  const module = /"call": ?"(file:[^"#]*)/.exec(firstTask)?.[1] ?? system.mainModule;
  const main = /^file:/.test(module)
    ? pathOf(new URL("forrest-runner.js", module).href)
    : "forrest-runner.js";
  // What is preloaded waits for the runner, and not this module itself, as task modules import this one.
  const start = `import ${stringify(self)}; await globalThis[Symbol.for("forrest")].serve();`;
  const preload = `data:text/javascript,${encodeURIComponent(start)}`;
  return [program, "run", ...permissions, "--no-prompt", "--preload", preload, main];
}

/** Starts a process that kills all that is left of a run, should this process be killed. */
function watch(owner: string): WritableStreamDefaultWriter {
  const args = ["-c", `cat > /dev/null; ${KILL}`, `/${owner}.`];
  const streams = {
    stdin: "piped",
    stdout: "null",
    stderr: "null",
    detached: true,
  } as Deno.CommandOptions;
  return new system.Command("sh", { args, ...streams }).spawn().stdin.getWriter();
}

/** Calls `stop` before the program ends, be it by `exit()` or by a signal, which does its work after that. */
function beforeEnd(stop: () => void, signal?: AbortSignal): () => void {
  const undo: (() => void)[] = [];
  const release = () => undo.splice(0).forEach((remove) => remove());
  const listen = (target: Emitter, event: string) => {
    target.addEventListener(event, stop);
    undo.push(() => target.removeEventListener(event, stop));
  };
  listen(globalThis.Deno ? globalThis : exitEvents(), globalThis.Deno ? "unload" : "exit");
  if (signal) listen(signal, "abort");
  for (const name of signal ? [] : ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    const listener = () => {
      stop();
      release();
      system.kill(system.pid, name);
    };
    system.addSignalListener(name, listener);
    undo.push(() => system.removeSignalListener(name, listener));
  }
  return release;
}

type Emitter = Pick<EventTarget, "addEventListener" | "removeEventListener">;
type Options =
  & Required<Omit<RunOptions, "session" | "onOutput" | "signal">>
  & Pick<RunOptions, "onOutput" | "signal">
  & {
    session?: string;
    ordered?: boolean;
  };

/** The options with their defaults. */
function checkOptions(options: RunOptions & MapOptions, processes = 1): Options {
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
    permissions: permissionsOf(options.permissions),
    ...Object.fromEntries(given),
    session: options.session && fileUrl(String(options.session)),
  };
  const least = {
    processes,
    tasksPerProcess: 1,
    concurrency: 1,
    retries: 0,
    maxFailures: 0,
    maxCrashes: 1,
    autokill: 0,
    retryDelay: 0,
  };
  for (const [name, minimum] of Object.entries(least)) {
    const value = checked[name as "processes"];
    const whole = /autokill|retryDelay/.test(name) || Number.isInteger(value) || value === Infinity;
    if (typeof value !== "number" || !whole || !(value >= minimum)) {
      throw new RangeError(
        `Expected \`${name}\` to be a ${
          whole ? "" : "whole "
        }number from ${minimum} up, got \`${value}\``,
      );
    }
  }
  return checked;
}

/** Deno's permission flags for runners: what tasks may do, and what the runner itself needs. */
function permissionsOf(permissions?: string[]): string[] {
  if (permissions) return permissions;
  const kinds = [
    "read",
    "write",
    "net",
    "env",
    "run",
    "sys",
    "ffi",
    "import",
  ] as Deno.PermissionName[];
  const missing = globalThis.Deno &&
    kinds.find((name) => system.permissions.querySync({ name } as never).state !== "granted");
  if (!missing) return ["--allow-all"];
  throw new TypeError(
    `Cannot give tasks every permission, as this program lacks \`--allow-${missing}\`: say with \`permissions\` what they may do`,
  );
}

/** Runs the tasks of one list, and works on while its consumer is busy. */
class Pool implements RunnerEvents {
  owner = newOwner();
  runners = new Set<Runner>();
  ids: string[] = []; // what was in `todo` when we last looked
  next = 0;
  again: string[] = []; // to be retried, or put back as their process had to end
  alone = new Set<string>(); // those among them which may have been the cause of that
  claims = 0; // since then
  yielded = 0;
  delayed = 0;
  failures = 0;
  overdue = new Set<string>();
  finished: string[] = [];
  stopped = false;
  problem: unknown;
  logged?: Deno.FsFile;
  wake = () => {};

  constructor(readonly directory: string, readonly options: Options, readonly logFile?: string) {}

  async *run(progress: Progress, ready: () => Promise<void>): AsyncGenerator<Task, void, void> {
    await ready();
    const watchdog = watch(this.owner);
    const release = beforeEnd(() => this.stop(), this.options.signal);
    const refresh = setInterval(() => this.refresh(), REFRESH);
    try {
      while (
        this.failures <= this.options.maxFailures || this.runners.size || this.finished.length
      ) {
        this.try(() => this.fill());
        const path = this.finished.shift();
        if (path) this.yielded++;
        if (path) yield readTask(path);
        else if (this.problem) throw this.problem;
        else if (this.stopped) return;
        else if (this.runners.size || this.delayed) {
          await new Promise<void>((resolve) => this.wake = resolve);
        } else if (!await this.look(progress)) return;
      }
      const left = idsIn(this.directory, "todo").length;
      const { maxFailures } = this.options;
      throw new Error(
        `Stopped after ${this.failures} failures (\`maxFailures: ${maxFailures}\`): ${left} tasks are left in \`todo\``,
      );
    } finally {
      this.stop();
      clearInterval(refresh);
      release();
      watchdog.close().catch(() => {});
      this.logged?.close();
      this.logged = undefined;
    }
  }

  /** Looks for tasks: in `todo`, and in the hands of dead runs. */
  async look(progress: Progress): Promise<boolean> {
    const undecided = recover(this.directory, this.owner, this.options.maxCrashes);
    const idle = this.ids.length > 0 && !this.claims;
    [this.ids, this.next, this.claims] = [idsIn(this.directory, "todo"), 0, 0];
    progress.total = this.yielded + this.ids.length;
    if (undecided && !this.ids.length) await new Promise((resolve) => setTimeout(resolve, 1000));
    return undecided || (this.ids.length > 0 && !idle);
  }

  /** Gives tasks to runners, as long as there is room. */
  fill(): void {
    const { processes, maxFailures, tasksPerProcess, autokill } = this.options;
    while (!this.stopped && this.failures <= maxFailures && this.finished.length < 1000) {
      const id = this.again.at(-1) ?? this.ids[this.next];
      const alone = this.alone.has(id);
      const free = id === undefined || alone ? undefined : this.freeRunner();
      if (id === undefined || (!free && this.runners.size >= processes)) {
        for (const runner of this.runners) {
          if (id === undefined || (alone && !runner.held.size)) runner.end();
        }
        return;
      }
      if (this.again.length) this.again.pop();
      else this.next++;
      const claim = this.claim(id);
      if (!claim) continue;
      const runner = free ?? this.start(claim, alone);
      runner.give(claim, claim);
      if (autokill < 2 ** 31 / 1000) {
        runner.held.set(
          claim,
          setTimeout(() => this.kill(runner, claim), autokill * 1000),
        );
      }
      if (alone || runner.given >= tasksPerProcess) runner.end();
    }
  }

  freeRunner(): Runner | undefined {
    const { processes, concurrency, tasksPerProcess } = this.options;
    const free = [...this.runners].filter(({ held, given, ended }) =>
      !ended && held.size < concurrency && given < tasksPerProcess
    ).sort((a, b) => a.held.size - b.held.size);
    return free[0]?.held.size && this.runners.size < processes ? undefined : free[0];
  }

  claim(id: string): string | undefined {
    const claim = `${this.directory}/running/${id}.json@${this.owner}`;
    try {
      // a network file system may say that a rename has failed when it has not
      if (!move(`${this.directory}/todo/${id}.json`, claim) && !exists(claim)) return;
    } catch (error) {
      if ((error as { code?: string }).code !== "ENAMETOOLONG") throw error;
      this.log(id, "left in `todo`, as its name is too long");
      return;
    }
    this.claims++;
    if (!has(this.directory, "done", id)) return claim;
    remove(claim);
    this.log(id, "dropped, as it is done already");
  }

  start(claim: string, alone: boolean): Runner {
    const { session, retries, permissions, tasksPerProcess } = this.options;
    const concurrency = alone ? 1 : this.options.concurrency;
    const settings = { session, retries, concurrency, kept: !alone && tasksPerProcess > 1 };
    const runner = startRunner(
      settings,
      this.owner,
      runnerCommand(permissions, textOf(claim)),
      this,
    );
    this.runners.add(runner);
    return runner;
  }

  answer(runner: Runner, [claim, state, attempts]: Answer): boolean {
    if (!runner.held.has(claim) || exists(claim)) return false;
    clearTimeout(runner.held.get(claim));
    runner.held.delete(claim);
    this.settled(claim, state, attempts);
    return true;
  }

  exit(runner: Runner, error: Error): void {
    this.runners.delete(runner);
    this.try(() => {
      for (const [claim, timer] of runner.held) {
        clearTimeout(timer);
        const state = settle(claim);
        const late = this.overdue.has(claim) && this.timeout();
        if (state !== "running") this.settled(claim, state, 1);
        else if (late || (!runner.killed && runner.given === 1)) this.fail(claim, late || error);
        else this.putBack(claim, !runner.killed);
      }
    });
    this.try(() => this.fill());
    this.wake();
  }

  /** Handles a task that is in nobody's hands any more. */
  settled(claim: string, state: State | undefined, attempts: number): void {
    const { id } = locate(claim);
    const path = `${this.directory}/${state}/${id}.json`;
    this.log(id, state === "todo" ? `failed, attempt ${attempts}` : state ?? "gone");
    if (state === "todo") {
      this.delayed++;
      setTimeout(() => {
        this.delayed--;
        this.again.push(id);
        this.try(() => this.fill());
        this.wake();
      }, this.options.retryDelay * 1000 * 2 ** (attempts - 1));
    } else if (state === "done" || state === "fail") {
      if (state === "fail") this.failures++;
      if (state === "fail" && this.options.printErrors) {
        console.error(`${id}:`, readTask(path).errorValue);
      }
      this.finished.push(path);
    }
    this.try(() => this.fill());
    this.wake();
  }

  timeout(): Error {
    const error = new Error(`The task was killed after ${this.options.autokill} s (\`autokill\`)`);
    return Object.assign(error, { name: "TimeoutError", stack: undefined });
  }

  fail(claim: string, error: Error): void {
    const outcome = { errorValue: encodeThrown(error) };
    this.settled(claim, ...record(claim, textOf(claim), outcome, this.options.retries));
  }

  putBack(claim: string, alone = false): void {
    const { id, directory } = locate(claim);
    if (!move(claim, `${directory}/todo/${id}.json`)) return;
    this.again.push(id);
    if (alone) this.alone.add(id);
  }

  kill(runner: Runner, claim: string): void {
    this.overdue.add(claim);
    runner.kill();
    shell(KILL, runner.marker); // those who have left its process group
  }

  /** Ends the run at once: kills what is running, and puts it back. Uses no asynchronous call. */
  stop(): void {
    this.stopped = true;
    for (const runner of this.runners) runner.kill();
    if (this.runners.size) shell(KILL, `/${this.owner}.`);
    for (const { held } of this.runners) {
      for (const [claim, timer] of held) {
        clearTimeout(timer);
        if (settle(claim) === "running") this.putBack(claim);
      }
      held.clear();
    }
    this.wake();
  }

  refresh(): void {
    const now = new Date();
    for (const { held } of this.runners) {
      for (const claim of held.keys()) succeeds(() => system.utimeSync(claim, now, now));
    }
  }

  try(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.problem ??= error;
      this.stopped = true;
    }
  }

  output(runner: Runner, text: string, stream: Stream): void {
    const id = locate([...runner.held.keys()][0] ?? "//").id;
    if (this.options.onOutput) this.options.onOutput(text, stream, id);
    else if (this.logFile) this.log(id, text);
    else system[stream].writeSync(new TextEncoder().encode(text));
  }

  log(id: string, text: string): void {
    if (!this.logFile) return;
    const time = new Date().toISOString();
    const lines = text.trimEnd().split("\n").map((line) => `${time} ${id} ${line}\n`);
    this.logged ??= system.openSync(this.logFile, { append: true, create: true });
    this.logged.writeSync(new TextEncoder().encode(lines.join("")));
  }
}

// ---------------------------------------------------------------------------- map and command

/** The options of {@linkcode map}. */
export interface MapOptions {
  /** How many processes; 0 calls the function in this one. @default {navigator.hardwareConcurrency} */
  processes?: number;
  /** Calls that one process holds at once, for those that wait. @default {1} */
  concurrency?: number;
  /** Give the results in the order of the items, not as they finish. @default {true} */
  ordered?: boolean;
  /** A module whose exports are in scope for a function that is stored as its text. */
  session?: string | URL;
  /** Deno's permissions for the calls, such as `["--allow-net"]`. @default {["--allow-all"]} */
  permissions?: string[];
}

/** What {@linkcode map} reads items from. */
export type Items<T> = Iterable<T> | AsyncIterable<T>;

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
export function map<A, B, R>(
  call: (a: A, b: B) => R,
  items: Items<A>,
  others: Items<B>,
  options?: MapOptions,
): AsyncGenerator<Awaited<R>, void, void>;
export function map<R>(
  call: Callable,
  ...rest: (Items<unknown> | MapOptions | undefined)[]
): AsyncGenerator<R, void, void> {
  const isSource = (item: unknown) =>
    Symbol.iterator in Object(item) || Symbol.asyncIterator in Object(item);
  const sources = rest.filter(isSource) as Items<unknown>[];
  const options = checkOptions({
    tasksPerProcess: Infinity,
    ...rest.filter((item) => !isSource(item))[0],
  }, 0);
  const stack = new Error().stack;
  return new Mapping<R>(call, stack, options).run(zip(sources));
}

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
    for (const iterator of iterators) iterator.return?.();
  }
}

/** The calls of one `map`: the same runners as for a list, without files. */
class Mapping<R> implements RunnerEvents {
  owner = newOwner();
  runners = new Set<Runner>();
  results = new Map<string, [State, unknown]>();
  given = 0;
  answered = 0;
  taken = 0;
  begun = 0;
  ended = false;
  problem: unknown;
  wake = () => {};
  room = () => {};

  constructor(
    readonly callee: Callable,
    readonly stack: string | undefined,
    readonly options: Options,
  ) {}

  async *run(source: AsyncGenerator<unknown[], void, void>): AsyncGenerator<R, void, void> {
    const { processes, ordered = true } = this.options;
    const watchdog = processes ? watch(this.owner) : undefined;
    const release = beforeEnd(() => this.stop(), this.options.signal);
    this.read(source);
    try {
      while (!this.ended || this.taken < this.given) {
        const [key] = ordered ? [`${this.taken}`] : this.results.keys();
        const [state, value] = this.results.get(key) ?? [];
        if (state) {
          this.results.delete(key);
          this.taken++;
          this.room();
          if (state === "fail") throw processes ? decode(value) : value;
          yield (processes ? decode(value) : value) as R;
        } else await new Promise<void>((resolve) => this.wake = resolve);
      }
      if (this.problem) throw this.problem;
    } finally {
      this.stop();
      release();
      watchdog?.close().catch(() => {});
      source.return();
    }
  }

  /** Reads items and gives them to runners, as long as there is room. */
  async read(source: AsyncGenerator<unknown[], void, void>): Promise<void> {
    try {
      const call = this.options.processes ? await refer(this.callee, this.stack) : this.callee;
      for await (const args of source) {
        const key = `${this.given++}`;
        if (this.options.processes) {
          this.freeRunner().give(key, { key, step: { call, args: encode(args, "item") } });
        } else this.callHere(key, args);
        const full = () =>
          this.given - this.answered >= this.capacity() ||
          this.given - this.taken >= this.capacity() * 4;
        while (!this.ended && full()) await new Promise<void>((resolve) => this.room = resolve);
        if (this.ended) return;
      }
    } catch (error) {
      this.problem = error;
    }
    this.ended = true;
    this.wake();
  }

  /** How many calls may be in flight: some milliseconds of work for each runner. */
  capacity(): number {
    const { processes, concurrency } = this.options;
    const ahead = this.answered / (performance.now() - this.begun) * 8;
    return processes
      ? Math.max(processes * concurrency, Math.min(64 * processes, Math.floor(ahead)))
      : concurrency;
  }

  freeRunner(): Runner {
    const { processes, concurrency, session, permissions } = this.options;
    const [least] = [...this.runners].sort((a, b) => a.held.size - b.held.size);
    if (least && (!least.held.size || this.runners.size >= processes)) return least;
    const settings = { session, concurrency, retries: 0, kept: true };
    const runner = startRunner(settings, this.owner, runnerCommand(permissions, ""), this);
    this.runners.add(runner);
    return runner;
  }

  async callHere(key: string, args: unknown[]): Promise<void> {
    try {
      this.settled(key, "done", await this.callee(...args as never[]));
    } catch (error) {
      this.settled(key, "fail", error);
    }
  }

  settled(key: string, state: State, value: unknown): void {
    if (!this.answered++) this.begun = performance.now();
    this.results.set(key, [state, value]);
    this.room();
    this.wake();
  }

  answer(runner: Runner, [key, state, value]: Answer): boolean {
    const known = runner.held.delete(key);
    if (known) this.settled(key, state, value);
    return known;
  }

  exit(runner: Runner, error: Error): void {
    this.runners.delete(runner);
    for (const key of runner.held.keys()) this.settled(key, "fail", encodeThrown(error));
  }

  output(_runner: Runner, text: string, stream: Stream): void {
    system[stream].writeSync(new TextEncoder().encode(text));
  }

  stop(): void {
    this.ended = true;
    for (const runner of this.runners) {
      runner.held.clear();
      runner.kill();
    }
    this.room();
    this.wake();
  }
}

/** Options of {@linkcode command}. */
export interface CommandOptions {
  /** Give the words, joined by spaces, to `sh -c`. @default {false} */
  shell?: boolean;
}

/**
 * Defers a run of a program: the value is what it writes to its standard output.
 *
 * The task fails if the program exits with another code than 0, with `code`, `signal` and the end
 * of its output in the error.
 *
 * @example
 * ```ts
 * import { command, evaluate } from "jsr:@x/forrest";
 *
 * console.log(await evaluate(command(["echo", "run"]))); // run
 * ```
 */
export function command(
  argv: Input<readonly string[]>,
  options: CommandOptions = {},
): Deferred<string> {
  return deferred(newStep("forrest#command", [argv, options])) as Deferred<string>;
}

/** What `forrest#NAME` stands for in a task file. */
const own = { command: runProgram };

async function runProgram(argv: string[], { shell = false }: CommandOptions = {}): Promise<string> {
  const [program, ...args] = shell ? ["sh", "-c", argv.join(" ")] : argv;
  const pipes = { stdin: "null", stdout: "piped", stderr: "piped" } as const;
  const process = new system.Command(program, { args, ...pipes }).spawn();
  const read = async (stream: Stream) => {
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of process[stream]) {
      text += decoder.decode(chunk, { stream: true });
      if (stream === "stderr") system.stderr.writeSync(chunk);
    }
    return text;
  };
  const [status, stdout, stderr] = await Promise.all([
    process.status,
    read("stdout"),
    read("stderr"),
  ]);
  if (status.success) return stdout;
  const { message } = deathOf(`\`${argv.join(" ")}\``, status, stdout + stderr);
  throw Object.assign(new Error(message), { code: status.code, signal: status.signal });
}

// ------------------------------------------------------------------------------------- the runner

/** Serves the requests of a pool: paths of claimed tasks, or the calls of a `map`. */
async function serve({ session, retries, concurrency, kept }: Settings): Promise<never> {
  const input = kept ? system.openSync("/dev/fd/3") : system.stdin;
  const [buffer, decoder, cwd] = [new Uint8Array(65536), new TextDecoder(), system.cwd()];
  const busy = new Set<Promise<unknown>>();
  const work = async (request: string | { key: string; step: StoredStep }) => {
    if (kept) system.chdir(cwd);
    const answer = typeof request === "string"
      ? [request, ...await perform(request, session, retries)]
      : await call(request.key, request.step, session);
    const line = new TextEncoder().encode(`\x1e${stringify(answer)}\n`);
    for (let written = 0; written < line.length;) {
      written += system.stdout.writeSync(line.subarray(written));
    }
  };
  for (let text = "";;) {
    const end = text.indexOf("\n");
    if (end < 0) { // wait with a synchronous read if there is nothing else to do: it starts faster
      const length = await (busy.size ? input.read(buffer) : input.readSync(buffer));
      if (!length) break;
      text += decoder.decode(buffer.subarray(0, length), { stream: true });
      continue;
    }
    const done = work(parse(text.slice(0, end))).catch(die).finally(() => busy.delete(done));
    busy.add(done);
    text = text.slice(end + 1);
    if (busy.size >= concurrency) await Promise.race(busy);
  }
  await Promise.all(busy);
  system.exit(0);
}

/** Ends the runner, as it can neither file an outcome nor tell of it: its pool knows what to do. */
function die(error: unknown): never {
  console.error(error);
  system.exit(70);
}

/** Runs a claimed task and files its outcome. */
async function perform(claim: string, session?: string, retries = 0): Promise<[State, number]> {
  const [text, outcome] = await run(claim, session);
  return record(claim, text, outcome, retries);
}

/** The text of a task file, and what comes of its steps. */
async function run(path: string, session?: string): Promise<[string, Outcome]> {
  const started = new Date().toISOString();
  const begin = performance.now();
  const runtime = () => Math.round((performance.now() - begin) * 1000) / 1e6; // seconds
  let text = "";
  try {
    text = system.readTextFileSync(path);
    const returnValue = encode(await runSteps(stepsOf(text, path), session), "returnValue");
    return [text, { started, runtime: runtime(), returnValue }];
  } catch (error) {
    return [text, { started, runtime: runtime(), errorValue: encodeThrown(error) }];
  }
}

function stepsOf(text: string, path: string): StoredStep[] {
  let task: { steps?: StoredStep[] };
  try {
    task = parse(text);
  } catch (error) {
    throw new SyntaxError(`Cannot read the task \`${path}\`: ${(error as Error).message}`);
  }
  const { steps } = task ?? {};
  const isStep = (step: StoredStep) =>
    step && typeof step === "object" &&
    ("value" in step || "call" in step && Array.isArray(step.args ?? []));
  const wrong = Array.isArray(steps) && steps.length
    ? steps.findIndex((step) => !isStep(step))
    : undefined;
  if (wrong === -1) return steps!;
  const place = wrong === undefined ? "`steps`" : `\`steps[${wrong}]\``;
  const wanted = wrong === undefined
    ? "an array of at least one step"
    : "an object with `call` and `args`, or with `value`";
  throw new TypeError(`Cannot run the task \`${path}\`: ${place} must be ${wanted}`);
}

async function call(
  key: string,
  step: StoredStep,
  session?: string,
): Promise<[string, State, unknown]> {
  try {
    return [key, "done", encode(await runSteps([step], session), "returnValue")];
  } catch (error) {
    return [key, "fail", encodeThrown(error)];
  }
}

/** The options of {@linkcode exec}. */
export interface ExecOptions {
  /** Throw what the task throws, and change no file. @default {false} */
  raise?: boolean;
  /** Where to write the outcome, in place of the list. */
  output?: string;
  /** A module whose exports are in scope for functions that are stored as text. */
  session?: string | URL;
}

/**
 * Runs one task file in this process.
 *
 * A task in the `todo` of a list is claimed, and its outcome is filed in the list. Any other is left as
 * it is. Throws if the file cannot be read, or if another run has claimed it.
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
  const file = pathOf(fileUrl(path));
  const session = options.session && fileUrl(String(options.session));
  const { id, state, directory } = locate(file);
  if (options.raise) {
    const steps = stepsOf(system.readTextFileSync(file), file);
    return { id, state, returnValue: await runSteps(steps, session) };
  }
  if (!options.output && state === "todo" && exists(`${directory}/running`)) {
    const claim = `${directory}/running/${id}.json@${newOwner()}`;
    if (!move(file, claim)) throw new Error(`Cannot claim \`${path}\`: another run has it`);
    const [filed] = await perform(claim, session);
    return readTask(`${directory}/${filed}/${id}.json`);
  }
  const task = writeTask(withOutcome(...await run(file, session)));
  if (options.output) writeAside(options.output, task).close();
  return toTask(id, state, task);
}

// ---------------------------------------------------------------------------- where there is no Deno

type Process = typeof import("node:process");

function exitEvents(): Emitter {
  const { process } = globalThis as unknown as { process: Process };
  return {
    addEventListener: process.on.bind(process),
    removeEventListener: process.off.bind(process),
  } as never;
}

function hostFromNode(): typeof Deno {
  const process = (globalThis as unknown as { process: Process }).process;
  const fs = process.getBuiltinModule("node:fs");
  const child = () => process.getBuiltinModule("node:child_process"); // as late as can be: it costs milliseconds
  const open = (path: string, { write, create, truncate, append }: Deno.OpenOptions = {}) => {
    const flags = append ? "a" : create ? truncate ? "w" : "wx" : write ? "r+" : "r";
    return file(path === "/dev/fd/3" ? 3 : fs.openSync(path, flags)); // it may be a socket
  };
  const file = (fd: number) => ({
    readSync: (buffer: Uint8Array) => fs.readSync(fd, buffer),
    read: (buffer: Uint8Array) =>
      new Promise((resolve, reject) =>
        fs.read(
          fd,
          buffer,
          0,
          buffer.length,
          null,
          (error, n) => error ? reject(error) : resolve(n),
        )
      ),
    writeSync: (bytes: Uint8Array) => fs.writeSync(fd, bytes),
    syncSync: () => fs.fsyncSync(fd),
    sync: () =>
      new Promise<void>((resolve, reject) =>
        fs.fsync(fd, (error) => error ? reject(error) : resolve())
      ),
    close: () => fs.closeSync(fd),
  });
  class Command {
    constructor(
      private program: string,
      private options: Deno.CommandOptions & { detached?: boolean },
    ) {}
    outputSync() {
      return child().spawnSync(this.program, this.options.args);
    }
    spawn() {
      const { args, env, stdin, stdout, stderr, detached } = this.options;
      const stdio = [stdin, stdout, stderr].map((kind) => kind === "piped" ? "pipe" : "ignore") as [
        "pipe",
      ];
      const spawned = child().spawn(this.program, args ?? [], {
        env: { ...process.env, ...env },
        stdio,
        detached,
      });
      const { pid, stdin: input } = spawned;
      const writer = {
        write: async (bytes: Uint8Array) => void input.write(bytes),
        close: async () => void input.end(),
      };
      input?.on("error", () => {});
      const status = new Promise((resolve, reject) => {
        spawned.on(
          "exit",
          (code, signal) => resolve({ code: code ?? 128, signal, success: code === 0 }),
        );
        spawned.on("error", reject);
      });
      return {
        pid,
        stdin: { getWriter: () => writer },
        stdout: spawned.stdout,
        stderr: spawned.stderr,
        status,
      };
    }
  }
  return {
    Command,
    args: process.argv.slice(2),
    build: { os: process.platform },
    pid: process.pid,
    mainModule: process.argv[1] ? fileUrl(process.argv[1]) : "",
    env: { get: (name: string) => process.env[name] },
    cwd: process.cwd,
    chdir: process.chdir,
    execPath: () => process.execPath,
    exit: process.exit,
    kill: process.kill,
    hostname: () => process.getBuiltinModule("node:os").hostname(),
    addSignalListener: (signal: string, listener: () => void) => void process.on(signal, listener),
    removeSignalListener: (signal: string, listener: () => void) =>
      void process.off(signal, listener),
    stdin: file(0),
    stdout: file(1),
    stderr: file(2),
    openSync: open,
    readTextFileSync: (path: string | URL) => fs.readFileSync(path, "utf8"),
    renameSync: fs.renameSync,
    removeSync: (path: string, options?: Deno.RemoveOptions) =>
      fs.lstatSync(path).isDirectory() && !options?.recursive
        ? fs.rmdirSync(path)
        : fs.rmSync(path, options),
    mkdirSync: fs.mkdirSync,
    lstatSync: fs.lstatSync,
    readDirSync: (path: string) => fs.readdirSync(path).map((name) => ({ name })),
    utimeSync: fs.utimesSync,
  } as unknown as typeof Deno;
}

// ---------------------------------------------------------------------------------------------

if (system.args[0] === RUNNER && !shared.serve) { // a copy of this module in a task module is no runner
  shared.serve = () => serve(parse(system.args[1]));
  if (COMPILED) await shared.serve(); // and never let the program begin
  else if (import.meta.main) shared.serve();
}

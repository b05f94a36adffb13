/**
 * The process of a task: values as JSON, the steps of a task, programs, and a runner that reads orders.
 *
 * A runner is a process that is started with one word. It reads orders, one JSON line each, until its input
 * ends; a runner of a single task has its order in an environment variable. An order holds the steps of a
 * task and a nonce. It is answered with a line that begins with 0x1E and that nonce, by which the run tells
 * it from all that tasks print; a long answer goes in several such lines, each with its length. A runner
 * never touches the list.
 *
 * As many processes load this file, at the start of which each line counts, it imports nothing.
 *
 * @module
 */

/** Any function. */
// deno-lint-ignore no-explicit-any
export type Callable = (...args: any[]) => unknown;

/** The way to a part of a value. */
export type Path = (string | number)[];

/** A step of a task: a call with its arguments, or a value. */
export interface Step {
  /** The function: see the task file in `docs/`. */
  call?: unknown;
  /** Its arguments. */
  args?: unknown[];
  /** What the step gives, if it is no call. */
  value?: unknown;
}

// what a task may replace, and its runner needs
const { parse, stringify } = JSON;
const now = performance.now.bind(performance);
const encoder = new TextEncoder();

// ------------------------------------------------------------------------------------ the two runtimes

type Process = typeof import("node:process");
type Ended = { code: number; signal: string | null };

/** What is used of `Deno`; its own types are not there in a project of Bun. */
export interface DenoHost {
  args: string[];
  build: { standalone?: boolean };
  mainModule: string;
  internal: symbol;
  stdin: { readSync(bytes: Uint8Array): number | null };
  stdout: { writeSync(bytes: Uint8Array): number };
  stderr: { writeSync(bytes: Uint8Array): number };
  env: { get(name: string): string | undefined; delete(name: string): void };
  permissions: { querySync(permission: { name: string }): { state: string } };
  execPath(): string;
  cwd(): string;
  chdir(path: string): void;
  exit(code: number): never;
  openSync(path: string): {
    readSync(bytes: Uint8Array): number | null;
    read(bytes: Uint8Array): Promise<number | null>;
  };
  Command: new (program: string, options: object) => {
    spawn(): {
      pid: number;
      stdin: WritableStream<Uint8Array>;
      stdout: ReadableStream<Uint8Array>;
      stderr: ReadableStream<Uint8Array>;
      status: Promise<Ended>;
      kill(signal: string): void;
    };
  };
}

/** What is used of `Bun`. */
export interface BunHost {
  main: string;
  sleepSync(milliseconds: number): void;
  file(descriptor: number): { stream(): ReadableStream<Uint8Array> };
  stdout: { writer(): { write(text: string): unknown; flush(): unknown } };
  spawn(command: string[], options: object): {
    pid: number;
    stdin: { write(text: string): unknown; flush(): unknown; end(): unknown };
    stdout: ReadableStream<Uint8Array>;
    stderr: ReadableStream<Uint8Array>;
    exited: Promise<unknown>;
    exitCode: number | null;
    signalCode: string | null;
    kill(signal: string): void;
  };
  resolveSync(specifier: string, from: string): string;
  Transpiler: new (options: object) => { transformSync(text: string): string };
}

const hosts = globalThis as unknown as { Deno?: DenoHost; Bun?: BunHost; process: Process };

/** The runtime, if it is Deno. */
export const deno: DenoHost | undefined = hosts.Deno;
/** The runtime, if it is Bun. */
export const bun: BunHost | undefined = hosts.Bun;

if (!deno && !bun) throw new Error("forrest needs Deno 2.9, Bun 1.4, or one of their successors");

/** Is asked for late: to load `process` takes Deno 15 ms. */
export const nodeProcess = (): Process => hosts.process;

/** Where this module lies: a runner is started with it. */
export const RUNNER: string = import.meta.url;

/** Whether this module is a part of a compiled program, which starts itself as a runner. */
export const isCompiled: boolean = deno?.build.standalone ?? RUNNER.includes("/$bunfs/");

/** The word that makes a process a runner. */
export const WORD = "forrest-runner";

/** The variable that holds the order of a runner of a single task. */
export const ORDER = "FORREST_ORDER";

/** The directory of this process. */
export const cwd = (): string => deno ? deno.cwd() : nodeProcess().cwd();

/** A process that was started here. */
export interface Child {
  pid: number;
  stdout: ReadableStream<Uint8Array>;
  stderr: ReadableStream<Uint8Array>;
  /** How it has ended. */
  ended: Promise<Ended>;
  write(text: string): void;
  close(): void;
  kill(): void;
}

/** How a process is started. */
export interface SpawnOptions {
  /** Variables besides those of this process. */
  env?: Record<string, string>;
  /** Whether it gets an input; or else its input is empty. */
  hasInput?: boolean;
  /** Whether it leads a process group of its own. */
  detached?: boolean;
}

/** Starts a program, with pipes. */
export function spawn(command: string[], options: SpawnOptions = {}): Child {
  const [program = "", ...args] = command;
  try {
    return deno ? spawnOnDeno(deno, program, args, options) : spawnOnBun(bun!, command, options);
  } catch (error) {
    throw cannotStart(program, error);
  }
}

const ignore = (): void => {}; // the process is dead: how it has ended says more

function spawnOnDeno(
  deno: DenoHost,
  program: string,
  args: string[],
  { hasInput, ...options }: SpawnOptions,
): Child {
  const pipes = { stdin: hasInput ? "piped" : "null", stdout: "piped", stderr: "piped" };
  const process = new deno.Command(program, { args, ...pipes, ...options }).spawn();
  const input = hasInput ? process.stdin.getWriter() : undefined;
  const { pid, stdout, stderr } = process;
  return {
    pid,
    stdout,
    stderr,
    ended: process.status.catch((error: Error) => { // Deno knows no names for some signals
      const signal = /\d+$/.exec(error.message)?.[0];
      if (!signal) throw error;
      return { code: 128 + Number(signal), signal };
    }),
    write: (text) => void input?.write(encoder.encode(text)).catch(ignore),
    close: () => void input?.close().catch(ignore),
    kill: () => process.kill("SIGKILL"),
  };
}

function spawnOnBun(bun: BunHost, command: string[], options: SpawnOptions): Child {
  const env = { ...nodeProcess().env, ...options.env };
  const stdio = [options.hasInput ? "pipe" : "ignore", "pipe", "pipe"];
  const process = bun.spawn(command, { env, stdio, detached: options.detached });
  const { pid, stdin, stdout, stderr } = process;
  const attempt = async (action: () => unknown) => await action();
  return {
    pid,
    stdout,
    stderr,
    ended: process.exited.then(() => {
      return { code: process.exitCode ?? 128, signal: process.signalCode };
    }),
    write(text) {
      stdin.write(text);
      attempt(() => stdin.flush()).catch(ignore);
    },
    close: () => void attempt(() => stdin?.end()).catch(ignore),
    kill: () => process.kill("SIGKILL"),
  };
}

/** Says in the same words on all runtimes why a program could not be started. */
function cannotStart(program: string, cause: unknown): unknown {
  const { code } = cause as { code?: string };
  const fewer = "use fewer processes, or raise";
  const reasons: Record<string, string> = {
    ENOENT: "there is no such program",
    EACCES: "it is no program, or may not be run",
    ENOEXEC: "it is no program: a script must begin with `#!` and the program that reads it",
    E2BIG: "its words are too long",
    EMFILE: `too many files are open: ${fewer} \`ulimit -n\``,
    EAGAIN: `too many processes run: ${fewer} \`ulimit -u\``,
  };
  const reason = code && Object.hasOwn(reasons, code) ? reasons[code] : undefined;
  return reason ? errorOf(`Cannot start \`${program}\`: ${reason}`, { code }) : cause;
}

/** An error of a process. Its stack would show where forrest has noticed it, so it has none. */
export function errorOf(message: string, properties: object = {}): Error {
  const { name = "Error" } = properties as { name?: string };
  return Object.assign(new Error(message), { stack: `${name}: ${message}` }, properties);
}

// -------------------------------------------------------------------------------------- values as JSON

// deno-lint-ignore no-explicit-any
type Codec = [write: (value: any) => unknown, read: (stored: any) => unknown];
type Bytes = Uint8Array<ArrayBuffer> & { toBase64(): string };
const { fromBase64 } = Uint8Array as unknown as { fromBase64(text: string): Bytes };
const bytesOf = (text: string): Bytes => fromBase64.call(Uint8Array, text);
const base64Of = (bytes: Uint8Array): string => (bytes as Bytes).toBase64();

/** For each class that JSON cannot hold: how its values are written, and read back. */
const codecs: Record<string, Codec> = {
  Date: [(date) => isNaN(date) ? "" : date.toISOString(), dateOf],
  URL: [(url) => url.href, (href) => new URL(href)],
  RegExp: [({ source, flags }) => [source, flags], ([source, flags]) => new RegExp(source, flags)],
  Map: [(map) => [...map], (entries) => new Map(entries)],
  Set: [(set) => [...set], (items) => new Set(items)],
  ArrayBuffer: [(buffer) => base64Of(new Uint8Array(buffer)), (text) => bytesOf(text).buffer],
  Uint8Array: [base64Of, bytesOf],
};
const kinds =
  "Int8 Uint8Clamped Int16 Uint16 Int32 Uint32 Float16 Float32 Float64 BigInt64 BigUint64";
for (const kind of kinds.split(" ")) {
  const name = `${kind}Array`;
  const type = (globalThis as unknown as Record<string, Float64ArrayConstructor>)[name];
  if (!type) continue;
  codecs[name] = [
    ({ buffer, byteOffset, byteLength }) =>
      base64Of(new Uint8Array(buffer, byteOffset, byteLength)),
    (text) => new type(bytesOf(text).buffer),
  ];
}

/** The key under which a value of a class is stored. */
const keyOf = (name: string): string => name === "Uint8Array" ? "$bytes" : `$${name.toLowerCase()}`;
const readers = Object.fromEntries(
  Object.entries(codecs).map(([name, [, read]]) => [keyOf(name), read]),
);

function dateOf(text: string): Date {
  const date = new Date(text);
  if (text && isNaN(Number(date))) throw new TypeError(`\`$date\`: \`${text}\` is no date`);
  return date;
}

/** Whether a key can be written after a dot. */
const isName = (key: string | number): boolean => /^[a-z_$][\w$]*$/i.test(`${key}`);

/** A path as it is written in code. */
export function pathText(path: Path = []): string {
  return path.map((key) => isName(key) ? `.${key}` : `[${stringify(key)}]`).join("");
}

/** What is being stored: its name, the way to the part at hand, and the objects around that. */
interface Place {
  name: string;
  keys: Path;
  inside: Set<unknown>;
  leaf: ((leaf: Callable) => unknown) | undefined;
}

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
export function encode(value: unknown, name = "value", leaf?: Place["leaf"]): unknown {
  return encodePart(value, { name, keys: [], inside: new Set(), leaf });
}

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
  if (Array.isArray(object)) { // a loop, as `map()` leaves out holes
    const copy = new Array(object.length);
    for (let index = 0; index < copy.length; index++) {
      copy[index] = encodeChild(object[index], index, place);
    }
    return copy;
  }
  const prototype = Object.getPrototypeOf(object);
  if (prototype !== null && prototype !== Object.prototype) {
    const type = Object.prototype.toString.call(object).slice(8, -1); // the same in all realms
    const name: string | undefined = prototype.constructor?.name;
    if (object instanceof Error || type === "Error") return { $error: encodeError(object, place) };
    const codec = Object.hasOwn(codecs, type) ? codecs[type] : undefined;
    if (codec && (name === type || type === "Uint8Array")) {
      return { [keyOf(type)]: encodeChild(codec[0](object), keyOf(type), place) };
    }
    if (typeof object["toJSON"] === "function") {
      return encodeChild(object["toJSON"](), "toJSON()", place);
    }
    if (Object.getPrototypeOf(prototype)) throw notStorable(place, `a ${name || type}`);
  } else if (typeof object["toJSON"] === "function") {
    return encodeChild(object["toJSON"](), "toJSON()", place);
  }
  if (Object.getOwnPropertySymbols(object).length) throw notStorable(place, "keyed by a symbol");
  const entries = Object.entries(object).map(([key, item]) => [key, encodeChild(item, key, place)]);
  const stored = Object.fromEntries(entries); // which takes a `__proto__` for a key, too
  return Object.keys(stored).some((key) => key.startsWith("$")) ? { $object: stored } : stored;
}

function notStorable({ name, keys }: Place, what: string): TypeError {
  const fixes: Record<string, string> = {
    "a Promise": "await it first",
    "a function": "export it from a module, and pass its name or what it gives",
    "a symbol": "pass its description",
    "keyed by a symbol": "use texts as keys",
    "a value that contains itself": "pass its parts, and let the task put them together",
  };
  const fix = fixes[what] ?? "pass what it takes to make one";
  return new TypeError(`\`${name}${pathText(keys)}\` is ${what} and cannot be stored: ${fix}`);
}

/** What errors hold that `Object.keys()` does not show. */
const HIDDEN = ["cause", "errors"];

/** The parts of an error, however strange it is; what of them cannot be stored becomes text. */
function encodeError(error: Record<string, unknown>, place: Place): Record<string, unknown> {
  const read = (key: string) => {
    try {
      return error[key];
    } catch {
      return undefined; // a getter has thrown
    }
  };
  const text = (value: unknown, otherwise: string) =>
    value === undefined ? otherwise : textOf(value);
  const own = text(read("name"), "Error");
  const name = own === "Error"
    ? text((read("constructor") as Callable | undefined)?.name, own)
    : own;
  const message = text(read("message"), "");
  const stack = ownFramesRemoved(text(read("stack"), `${name}: ${message}`));
  const stored: Record<string, unknown> = { name, message, stack };
  for (const key of new Set([...HIDDEN, ...Object.keys(error)])) {
    if (Object.hasOwn(stored, key) || !Object.hasOwn(error, key)) continue;
    const item = read(key);
    try {
      const inside = { ...place, keys: [...place.keys], inside: new Set(place.inside) };
      stored[key] = encodePart(item, inside);
    } catch {
      stored[key] = textOf(item);
    }
  }
  return stored;
}

/** What shows a frame of ours in a stack: the path of a module, or the code that a runner is started with. */
const ownFrames: string[] = [pathOf(RUNNER), "data:text/javascript"];

/** A stack without our frames, unless there are no others. */
function ownFramesRemoved(stack: string): string {
  const isOurs = (line: string) =>
    /:\d+:\d+\)?$/.test(line) && ownFrames.some((place) => line.includes(place));
  return stack.split("\n").filter((line) => !isOurs(line)).join("\n");
}

/** What was thrown, as it is stored: the value, or a text if that cannot be stored. */
export function encodeThrown(thrown: unknown): unknown {
  try {
    return encode(thrown, "errorValue");
  } catch {
    const text = textOf(thrown);
    return text === "[object Object]" ? describe(thrown as object) : text;
  }
}

/** An object by its class and what it holds, or the beginning of that. */
function describe(object: object): string {
  try {
    return `${object.constructor.name} ${stringify(object)}`.slice(0, 1000);
  } catch {
    return "[object Object]";
  }
}

function textOf(value: unknown): string {
  try {
    return String(value);
  } catch {
    return "[object Object]"; // without a prototype, or with a `toString` that throws
  }
}

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
      if (typeof stored[index] === "object") stored[index] = decode(stored[index], results);
    }
    return stored;
  }
  const object = stored as Record<string, unknown>;
  const [key] = Object.keys(object);
  return key?.startsWith("$")
    ? decodeSpecial(key, object, results)
    : decodeProperties(object, results);
}

function decodeProperties(object: Record<string, unknown>, results: unknown[]): object {
  for (const key in object) object[key] = decode(object[key], results);
  return object;
}

function decodeSpecial(key: string, object: Record<string, unknown>, results: unknown[]): unknown {
  const stored = object[key];
  if (key === "$step") return follow(object as unknown as Reference, results);
  if (key === "$undefined") return undefined;
  if (key === "$number") return Number(stored);
  if (key === "$bigint") return BigInt(stored as string);
  if (key === "$function") return stored;
  if (key === "$error") return decodeError(stored as Record<string, unknown>);
  if (key === "$object") return decodeProperties(stored as Record<string, unknown>, results);
  const read = Object.hasOwn(readers, key) ? readers[key] : undefined;
  if (!read) throw new TypeError(`\`${key}\` is no way to store a value`);
  return read(decode(stored, results));
}

function decodeError({ name, message, stack, ...others }: Record<string, unknown>): Error {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0; // or Bun prints where we are, in place of `stack`
  const error = new Error(message as string);
  Error.stackTraceLimit = stackTraceLimit;
  const type = (globalThis as Record<string, unknown>)[`${name}`] as ErrorConstructor | undefined;
  // some of Bun's have methods that work only on what it has made itself
  const isUsable = type?.prototype instanceof Error && !Object.hasOwn(type.prototype, "toString");
  if (isUsable) Object.setPrototypeOf(error, type.prototype);
  for (const key in others) others[key] = decode(others[key]); // one by one, as one may begin with `$`
  const parts = { ...(name === error.name ? {} : { name }), stack };
  const hidden = HIDDEN.filter((key) => key in others).map((key) => [key, others[key]]);
  for (const [key, value] of Object.entries({ ...parts, ...Object.fromEntries(hidden) })) {
    if (value === undefined && !HIDDEN.includes(key)) continue;
    Object.defineProperty(error, key, { value, configurable: true, writable: true });
    delete others[key];
  }
  return Object.assign(error, others);
}

/** What stands in a task for the result of a step before, or a part of it. */
interface Reference {
  $step: number;
  path?: Path;
}

/** The result of a step before, or a part of it. */
function follow({ $step, path = [] }: Reference, results: unknown[]): unknown {
  if (!Number.isInteger($step) || !Object.hasOwn(results, $step)) {
    throw new RangeError(`\`$step\`: ${$step} is none of the ${results.length} steps before`);
  }
  if (!Array.isArray(path)) throw new TypeError("`path` must be an array");
  let value = results[$step] as Record<string, unknown>;
  for (const key of path) {
    if (key === "__proto__" || key === "constructor" || key === "prototype") { // which all objects share
      throw new TypeError(`\`path\`: \`${key}\` cannot be a part of a deferred value`);
    }
    if (value === undefined || value === null) {
      const place = `in the path ${stringify(path)} of step ${$step}`;
      throw new TypeError(`Cannot read \`${key}\` of ${value}, ${place}`);
    }
    value = value[key] as typeof value;
  }
  return value;
}

// ------------------------------------------------------------------------------- the steps of a task

/** The steps in the text of the task file at `path`. */
export function stepsOf(text: string, path: string): Step[] {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const refuse = (place: string, wanted: string) =>
    new TypeError(`Cannot run the task \`${name}\`: \`${place}\` must be ${wanted}`);
  let steps: Step[] | undefined;
  try {
    steps = parse(text.startsWith("\uFEFF") ? text.slice(1) : text)?.steps;
  } catch (error) {
    throw new SyntaxError(`Cannot read the task \`${name}\`: ${(error as Error).message}`);
  }
  if (steps === undefined && text.includes('"errorValue":')) {
    const fix = `what it was lies in \`${path}.original\`: repair that, then \`forrest retry\``;
    throw new TypeError(`Cannot run the task \`${name}\`, as it was none; ${fix}`);
  }
  if (!Array.isArray(steps) || !steps.length) throw refuse("steps", "an array of at least one");
  for (const [index, step] of steps.entries()) {
    const problem = problemOf(step);
    if (problem) throw refuse(`steps[${index}]`, problem);
  }
  return steps;
}

/** What a step must be, if it is not. */
function problemOf(step: unknown): string | undefined {
  const { args = [] } = Object(step) as Step;
  const keys = Object.keys(Object(step));
  const isStep = keys.includes("call") || keys.includes("value");
  if (typeof step !== "object" || !isStep) return "an object with `call` and `args`, or `value`";
  const surplus = keys.find((key) => !["call", "args", "value"].includes(key));
  if (surplus) return `a step, which has no \`${surplus}\``;
  if (keys.includes("call") && keys.includes("value")) {
    return "a step with a `call` or a `value`, not both";
  }
  if (!Array.isArray(args)) return "an object whose `args` are an array";
}

/** What the last of the steps returns. `session` is the URL of a module. */
export async function runSteps(steps: Step[], session?: string): Promise<unknown> {
  const results: unknown[] = [];
  for (const { call, args = [], value } of steps) {
    const stored = call === undefined ? [value] : args;
    await loadFunctions(stored, session);
    const values = decode(stored, results) as unknown[];
    results.push(call === undefined ? values[0] : await runStep(call, values, results, session));
  }
  return results.at(-1);
}

async function runStep(
  call: unknown,
  args: unknown[],
  results: unknown[],
  session?: string,
): Promise<unknown> {
  const { $step, path = [] } = Object(call) as Reference;
  const [owner, callee] = typeof $step !== "number" ? await load(call, session) : [
    path.length ? follow({ $step, path: path.slice(0, -1) }, results) : undefined,
    follow({ $step, path }, results),
  ];
  if (typeof callee !== "function") {
    const part = path.length ? `\`${pathText(path)}\` of ` : "";
    const kind = typeof callee === "object" ? "an object" : `a ${typeof callee}`;
    const what = callee === undefined || callee === null ? callee : kind;
    throw new TypeError(`${part}what step ${$step} gave is ${what}, not a function`);
  }
  try {
    return await apply(owner, callee as Callable, args);
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

/** Whether a function is a class, a built-in that is like one, or gives methods to what it makes. */
function isConstructor(callee: object): boolean {
  const { value, writable } = Object.getOwnPropertyDescriptor(callee, "prototype") ?? {};
  if (!value || ([String, Number, Boolean, BigInt, Symbol] as unknown[]).includes(callee)) {
    return false;
  }
  if (!writable) return true;
  const isDerived = Object.getPrototypeOf(value) !== Object.prototype;
  return Object.hasOwn(value, "constructor") && (isDerived || Object.keys(value).length > 0);
}

/** If an error may come of a function's text that lacks what was around it, says so. */
function explain(error: unknown, call: unknown): unknown {
  const isText = typeof (call as { source?: unknown } | undefined)?.source === "string";
  if (!isText || !(error instanceof ReferenceError)) return error;
  const message = `${error.message}. The function was stored as its text, without the variables ` +
    "around it: export it from a module (and guard the main part of a script with " +
    "`if (import.meta.main)`), or name a `session` module";
  const stack = error.stack?.replace(error.message, message);
  return Object.assign(new ReferenceError(message), { stack });
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

// ------------------------------------------------------------------------------ functions by their names

/** Finds the function that a reference stands for, and the object that it is called on. */
export async function load(call: unknown, session?: string): Promise<[unknown, Callable]> {
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
  let owner: unknown;
  let value: unknown = module === undefined
    ? globalThis
    : module === "forrest"
    ? { command: runProgram }
    : await importFrom(module);
  const exports = Object.keys(value as object);
  for (const key of Object.hasOwn(value as object, name) ? [name] : name.split(".")) {
    owner = value;
    value = value && Object.hasOwn(value, key)
      ? (value as Record<string, unknown>)[key]
      : undefined;
  }
  if (typeof value === "function") {
    return [module !== undefined && exports.includes(name) ? undefined : owner, value as Callable];
  }
  const known = module !== undefined ? `; it exports ${exports.join(", ") || "nothing"}` : "";
  throw new TypeError(`\`${call}\` is not a function${known}`);
}

/** Evaluates the text of a function, with the exports of the session module in scope. */
export function compile(source: string, session: Record<string, unknown> = {}): Callable {
  const isVariable = (name: string) =>
    name !== "default" && /^[\p{L}_$][\p{L}\p{N}_$]*$/u.test(name);
  const names = Object.keys(session).filter(isVariable);
  const make = new Function(...names, `"use strict"; return (${source}\n)`);
  return make(...names.map((name) => session[name]));
}

/** Whether a text is a specifier of a module other than a path, such as a URL. */
const isSpecifier = (text: string): boolean => /^[a-z][a-z+.-]+:/i.test(text);

/** The URL of a path; an absolute URL or another specifier stays as it is. */
export function fileUrl(path: string): string {
  if (isSpecifier(path)) return path;
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

/** The modules that were imported, or are about to be. */
const modules = new Map<string, Promise<Exports>>();

function importFrom(path: string): Promise<Exports> {
  const url = fileUrl(path);
  const forget = (error: unknown) => {
    modules.delete(url); // so that it is tried again
    throw error;
  };
  if (!modules.has(url)) modules.set(url, importFirst(url).catch(forget));
  return modules.get(url)!;
}

/** The places, as in a stack, of the modules that all copies of forrest in a process are importing. */
type Importing = Record<symbol, Set<string> | undefined>;
const IMPORTING = Symbol.for("forrest.importing");

/** Imports a module, and shows meanwhile that it does. */
async function importFirst(url: string): Promise<Exports> {
  const place = pathOf(url);
  const importing = (globalThis as unknown as Importing)[IMPORTING] ??= new Set();
  importing.add(place);
  try {
    if (bun && !requireOnBun(place) && place === bun.main) { // which would wait for itself, and for ever
      const fix = "move the function to a module of its own, or use `forrest exec`";
      throw new Error(`Bun cannot import \`${place}\` while that waits for this: ${fix}`);
    }
    return await import(url);
  } finally {
    importing.delete(place);
  }
}

/** Loads a module without the threads that `import()` starts on Bun; false if it is an asynchronous one. */
function requireOnBun(place: string): boolean {
  try {
    (import.meta as unknown as { require(place: string): unknown }).require(place);
    return true;
  } catch (error) {
    if (!`${(error as Error)?.message}`.startsWith("require() async module")) throw error;
    return false;
  }
}

/** Throws if a module starts tasks while a runner imports it: that would start runners without end. */
export function refuseWhileImporting(): void {
  const places = [...(globalThis as unknown as Importing)[IMPORTING] ?? []];
  if (!places.length) return;
  const stack = new Error().stack ?? "";
  if (!places.some((place) => stack.includes(place) || stack.includes(fileUrl(place)))) return;
  throw new Error(`Cannot start tasks while a runner imports this module for a function: ${GUARD}`);
}

/** What to do about a script that would start itself again and again. */
export const GUARD = "put the main part of the script in `if (import.meta.main) { ... }`";

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

const MOST_PRINTED = 100e6; // bytes

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
    printed.push(chunk);
    size += chunk.length;
    if (size <= MOST_PRINTED) return;
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
  const bytes = await new Blob(printed).arrayBuffer();
  if (ended.code === 0) return textOrBytes(bytes);
  // a batch system may be ending all processes, this one as well, and then the task is to go back
  if (isEndOfJob(ended)) await sleep(500);
  const death = deathOf(name, ended, decoder.decode(bytes.slice(-10_000)) + errors);
  throw Object.assign(death, ended);
}

export const sleep = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Reads a stream of a program until that has ended; what it has left running may hold its output open. */
export async function collect(
  stream: ReadableStream<Uint8Array>,
  ended: Promise<unknown>,
  take: (chunk: Uint8Array<ArrayBuffer>) => void,
): Promise<void> {
  const reader = stream.getReader();
  let isQuiet = false;
  let isOver = false;
  let timer: ReturnType<typeof setInterval> | undefined;
  const cancelIfQuiet = () => {
    if (isQuiet) reader.cancel().catch(ignore);
    isQuiet = true;
  };
  ended.finally(() => {
    if (!isOver) timer = setInterval(cancelIfQuiet, 100);
  });
  try {
    for (let chunk; (chunk = (await reader.read()).value);) {
      isQuiet = false;
      take(chunk as Uint8Array<ArrayBuffer>);
    }
  } finally {
    isOver = true;
    clearInterval(timer);
    reader.cancel().catch(ignore);
  }
}

function textOrBytes(bytes: ArrayBuffer): string | Uint8Array {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return new Uint8Array(bytes);
  }
}

/** Where a process writes. */
export type Stream = "stdout" | "stderr";

/** Writes to a standard stream of this process, and waits for whoever reads slowly. */
export function print(text: string | Uint8Array, stream: Stream): void {
  const bytes = typeof text === "string" ? encoder.encode(text) : text;
  const writeSync = deno
    ? (rest: Uint8Array) => deno[stream].writeSync(rest)
    : (rest: Uint8Array) => writeOnBun(stream === "stdout" ? 1 : 2, rest);
  for (let at = 0; at < bytes.length;) at += writeSync(bytes.subarray(at));
}

function writeOnBun(file: number, bytes: Uint8Array): number {
  try {
    return nodeProcess().getBuiltinModule("node:fs").writeSync(file, bytes);
  } catch (error) {
    if ((error as { code?: string }).code !== "EAGAIN") throw error;
    bun!.sleepSync(1);
    return 0;
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

// -------------------------------------------------------------------------------- orders and answers

/** What a runner is told to do. */
export interface Order {
  /** Marks the answer, as no other process knows it. */
  nonce: string;
  /** The steps of the task. */
  steps: Step[];
  /** The URL of a module whose exports are in scope for functions that are stored as their text. */
  session?: string;
  /** How many orders the runner may work on at once; one, if it is not said. */
  concurrency?: number;
  /** Milliseconds after which it answers that the time of the task is over. */
  timeout?: number;
}

/** What a runner tells of a task: when it began, and for how long it ran, both in milliseconds. */
export type Told =
  & { begin: number; runtime: number }
  & ({ returnValue: unknown } | { errorValue: unknown });

/** Makes this process a runner: carries out its order, or all that it reads until its input ends. */
async function serve(): Promise<void> {
  const only = takeOrder();
  if (only) await perform(parse(only));
  else await performAll();
  end();
}

/** The order of a runner of a single task, which nobody that it starts is to see. */
function takeOrder(): string | undefined {
  if (!deno) {
    const { env } = nodeProcess();
    const order = env[ORDER];
    delete env[ORDER];
    return order;
  }
  try {
    const order = deno.env.get(ORDER);
    if (order) deno.env.delete(ORDER);
    return order;
  } catch {
    return undefined; // its permissions are limited: then orders come by its input
  }
}

async function performAll(): Promise<void> {
  const directory = cwd();
  let running = 0;
  let free = ignore;
  for await (const line of lines(() => running === 0)) {
    const order: Order = parse(line);
    goTo(directory); // as a task before may have left it
    running++;
    perform(order).finally(() => {
      running--;
      free();
    });
    while (running >= (order.concurrency ?? 1)) {
      await new Promise<void>((resolve) => free = resolve);
    }
  }
  while (running) await new Promise<void>((resolve) => free = resolve);
}

function goTo(directory: string): void {
  try {
    if (deno) deno.chdir(directory);
    else nodeProcess().chdir(directory);
  } catch { /* it is gone; or its permissions are limited, so that no task can leave it */ }
}

/** Runs steps, and says what came of them. */
export async function tell(steps: () => Step[], session?: string): Promise<Told> {
  const begin = Date.now();
  const start = now();
  try {
    const returnValue = encode(await runSteps(steps(), session), "returnValue");
    return { begin, runtime: now() - start, returnValue };
  } catch (error) {
    return { begin, runtime: now() - start, errorValue: encodeThrown(error) };
  }
}

/** Carries out an order, and answers with what came of it. */
async function perform({ nonce, steps, session, timeout }: Order): Promise<void> {
  const told = tell(() => steps, session);
  let timer: ReturnType<typeof setTimeout> | undefined;
  const overdue = (time: number) =>
    new Promise<{ isOverdue: true }>((resolve) => {
      timer = setTimeout(() => resolve({ isOverdue: true }), time);
    });
  const result = await (timeout ? Promise.race([told, overdue(timeout)]) : told);
  if (timer !== undefined) clearTimeout(timer);
  try {
    await answer(nonce, stringify(result));
  } catch (error) { // the task has closed the output, or has broken what its process needs
    print(`${(error as Error)?.stack ?? error}\n`, "stderr");
    nodeProcess().exit(70);
  }
}

/** Bytes that a pipe takes whole (`PIPE_BUF`): so nothing else that is printed gets into a line. */
const LINE = 4096;

async function answer(nonce: string, text: string): Promise<void> {
  const most = LINE - nonce.length - 20;
  const isShort = text.length * 3 <= most;
  // deno-lint-ignore no-control-regex
  const length = isShort || /^[\0-\x7f]*$/.test(text) ? most : Math.floor(most / 3);
  for (let begin = 0, end; begin < text.length; begin = end) {
    end = begin + length;
    const isInPair = /[\ud800-\udbff]/.test(text[end - 1] ?? "");
    if (isInPair) end--;
    const part = text.slice(begin, end);
    await say(`\x1e${nonce} ${part.length}${end < text.length ? "+" : "."}${part}\n`);
  }
}

let writer: ReturnType<BunHost["stdout"]["writer"]> | undefined;
let saying: unknown;

/** Writes a line to the standard output. */
async function say(line: string): Promise<void> {
  if (deno) {
    const bytes = encoder.encode(line);
    for (let at = 0; at < bytes.length;) at += deno.stdout.writeSync(bytes.subarray(at));
    return;
  }
  while (saying) await saying; // for somebody who reads slowly
  writer ??= bun!.stdout.writer();
  writer.write(line);
  const flushed = writer.flush();
  if (!(flushed instanceof Promise)) return;
  saying = flushed;
  await flushed;
  saying = undefined;
}

/** The lines of the input. */
async function* lines(isIdle: () => boolean): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder();
  let parts: string[] = []; // of a long line, which is not to be searched for each of them
  for await (const chunk of deno ? chunksOnDeno(deno, isIdle) : bun!.file(3).stream()) {
    const text = decoder.decode(chunk, { stream: true });
    parts.push(text);
    if (!text.includes("\n")) continue;
    const whole = parts.join("").split("\n");
    parts = [whole.pop()!];
    yield* whole;
  }
}

/** The input, which no task is to read: so it is no standard input, unless permissions are limited. */
async function* chunksOnDeno(
  deno: DenoHost,
  isIdle: () => boolean,
): AsyncGenerator<Uint8Array, void, void> {
  let input: ReturnType<DenoHost["openSync"]> | undefined;
  try {
    input = deno.openSync("/dev/fd/3");
  } catch { /* only a program with all permissions may do that */ }
  const buffer = new Uint8Array(65536);
  while (true) {
    // a synchronous read, as long as nothing else is to be done, is faster
    const isSync = !input || isIdle();
    const length = isSync ? (input ?? deno.stdin).readSync(buffer) : await input!.read(buffer);
    if (!length) return;
    yield buffer.subarray(0, length);
  }
}

/** Ends this process as a program ends, whatever timers tasks have left. */
function end(): void {
  if (!deno) { // which ends by itself when all is written, unless something keeps it
    setTimeout(() => nodeProcess().exit(0), 200).unref();
    return;
  }
  const internals = (deno as unknown as Record<symbol, object | undefined>)[deno.internal] ?? {};
  const isNodeLoaded = "dispatchProcessExitEvent" in internals;
  if (isNodeLoaded) nodeProcess().exit(0); // which calls what waits for the end
  else deno.exit(0);
}

/** What the code calls that a runner is started with, in whichever file this module is. */
export const SERVE = "forrest.serve";
(globalThis as unknown as Record<symbol, unknown>)[Symbol.for(SERVE)] ??= serve;

if (isCompiled && nodeProcess().argv[2] === WORD) {
  if (deno) await serve();
  else {
    // Bun would wait at full speed, and for ever where a task waits for what nothing will settle
    const halt = new Error("This process is a runner, and no program");
    const process = nodeProcess();
    const begin = (error: unknown) => {
      process.off("uncaughtException", begin).off("unhandledRejection", begin);
      if (error !== halt) throw error;
      serve();
    };
    process.on("uncaughtException", begin).on("unhandledRejection", begin);
    throw halt; // so that the program that this is a part of never begins
  }
}

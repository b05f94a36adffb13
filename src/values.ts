/**
 * Values as JSON: what it cannot hold is an object with one key that begins with `$`.
 *
 * @module
 */

import { isBundled, pathOf, stringify } from "./system.ts";

/** Any function. */
// deno-lint-ignore no-explicit-any
export type Callable = (...args: any[]) => unknown;

/** The way to a part of a value. */
export type Path = (string | number)[];

/** Whether a key can be written after a dot. */
export function isName(key: string | number): boolean {
  return /^[a-z_$][\w$]*$/i.test(`${key}`);
}

/** A path as it is written in code. */
export function pathText(path: Path = []): string {
  return path.map((key) => isName(key) ? `.${key}` : `[${stringify(key)}]`).join("");
}

// deno-lint-ignore no-explicit-any
type Codec = [type: any, write: (value: any) => unknown, read: (stored: any) => unknown];
const fromBase64 = (text: string) => Uint8Array.fromBase64(text);

/** For each `$` key: the class that JSON cannot hold, how it is written, and how it is read back. */
const codecs: Record<string, Codec> = {
  $date: [Date, (date) => isNaN(date) ? "" : date.toISOString(), toDate],
  $url: [URL, (url) => url.href, (href) => new URL(href)],
  $regexp: [
    RegExp,
    ({ source, flags }) => [source, flags],
    (parts) => new RegExp(...parts as [string]),
  ],
  $map: [Map, (map) => [...map], (entries) => new Map(entries)],
  $set: [Set, (set) => [...set], (items) => new Set(items)],
  $bytes: [Uint8Array, (bytes) => bytes.toBase64(), fromBase64],
  $arraybuffer: [
    ArrayBuffer,
    (buffer) => new Uint8Array(buffer).toBase64(),
    (text) => fromBase64(text).buffer,
  ],
};
for (
  const kind
    of "Int8 Uint8Clamped Int16 Uint16 Int32 Uint32 Float16 Float32 Float64 BigInt64 BigUint64"
      .split(" ")
) {
  const type = (globalThis as unknown as Record<string, Float64ArrayConstructor>)[`${kind}Array`];
  if (type) {
    codecs[`$${kind.toLowerCase()}array`] = [
      type,
      ({ buffer, byteOffset, byteLength }) =>
        new Uint8Array(buffer, byteOffset, byteLength).toBase64(),
      (text) => new type(fromBase64(text).buffer),
    ];
  }
}

function toDate(text: string): Date {
  const date = new Date(text);
  if (text && isNaN(Number(date))) throw new TypeError(`\`$date\`: \`${text}\` is no date`);
  return date;
}

const host = globalThis as unknown as {
  Buffer?: { prototype: Uint8Array; from(text: string, encoding: string): Uint8Array };
};
codecs.$buffer = [undefined, codecs.$bytes[1], (text) => host.Buffer!.from(text, "base64")];

type Place = {
  name: string;
  keys: (string | number)[];
  inside: Set<unknown>;
  leaf?: (leaf: Callable) => unknown;
};

/** Turns `value` into what JSON can hold; `leaf` says how deferreds and functions are stored. */
export function encode(value: unknown, name: string, leaf?: Place["leaf"]): unknown {
  return encodeAt(value, { name, keys: [], inside: new Set(), leaf });
}

/**
 * Whether JSON holds a value as it is. Of an object, that is found out only if `depth` says how deep to
 * look. This refers to nothing around it, as its text is handed to the processes of single tasks.
 */
export function isPlain(value: unknown, depth = 0): boolean {
  if (typeof value === "number") return Number.isFinite(value) && !Object.is(value, -0);
  if (typeof value !== "object" || !value) {
    return value === null || typeof value === "string" || typeof value === "boolean";
  }
  if (!depth || "toJSON" in value) return false;
  if (Array.isArray(value)) { // `every()` would leave out holes
    for (let index = 0; index < value.length; index++) {
      if (!isPlain(value[index], depth - 1)) return false;
    }
    return true;
  }
  return Object.getPrototypeOf(value) === Object.prototype &&
    !Object.getOwnPropertySymbols(value).length &&
    Object.entries(value).every(([key, item]) => !key.startsWith("$") && isPlain(item, depth - 1));
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
  if (Array.isArray(object)) { // a loop, as `map()` leaves out holes, and `from()` takes twice as long
    const copy = new Array(object.length);
    for (let index = 0; index < copy.length; index++) copy[index] = child(object[index], index);
    return copy;
  }
  if (object instanceof Error) return { $error: encodeError(object, place) };
  const prototype = Object.getPrototypeOf(object);
  for (const [key, [type, write]] of Object.entries(codecs)) {
    if (prototype === type?.prototype) return { [key]: child(write(object), key) };
  }
  if (object instanceof Uint8Array) { // of a subclass; Deno loads `Buffer` when it is first read: so only here
    const key = prototype === host.Buffer?.prototype ? "$buffer" : "$bytes";
    return { [key]: codecs.$bytes[1](object) };
  }
  if (typeof object.toJSON === "function") return child(object.toJSON(), "toJSON()");
  if (prototype && Object.getPrototypeOf(prototype)) {
    const tag = Object.prototype.toString.call(object).slice(8, -1); // as of a generator
    throw notStorable(place, `a ${prototype.constructor?.name || tag}`);
  }
  if (Object.getOwnPropertySymbols(object).length) throw notStorable(place, "keyed by a symbol");
  const entries = Object.entries(object).map(([key, item]) => [key, child(item, key)]);
  const stored = Object.fromEntries(entries);
  return Object.keys(stored).some((key) => key.startsWith("$")) ? { $object: stored } : stored;
}

function notStorable({ name, keys }: Place, what: string): TypeError {
  return new TypeError(`\`${name}${pathText(keys)}\` is ${what} and cannot be stored`);
}

/** How the paths of our files begin. */
const OWN_FILES = pathOf(new URL(".", import.meta.url).href);

/** What shows a frame of ours: the path of a file, or the code that runners are started with. */
const OURS = [
  OWN_FILES,
  "data:text/javascript,import",
  "data:text/javascript,await",
  "/[eval]:",
  "/%5Beval%5D:",
];

/** The stack without our frames. */
function userStack(error: Error): string {
  const isOurs = (line: string) =>
    /:\d+:\d+\)?$/.test(line) && OURS.some((place) => line.includes(place));
  return (error.stack ?? `${error}`).split("\n").filter((line) => isBundled || !isOurs(line)).join(
    "\n",
  );
}

/** What errors hold that `Object.keys()` does not show. */
const hiddenIn = (name: unknown): string[] =>
  name === "SuppressedError" ? ["cause", "error", "suppressed"] : ["cause", "errors"];

/** The parts of an error; of its own properties, those that cannot be stored become text. */
function encodeError(error: Error, place: Place): Record<string, unknown> {
  const name = error.name === "Error" ? error.constructor?.name ?? "Error" : error.name;
  const message = `${error.message}`;
  const stored: Record<string, unknown> = { name: `${name}`, message, stack: userStack(error) };
  for (const key of new Set([...hiddenIn(name), ...Object.keys(error)])) {
    if (Object.hasOwn(stored, key) || !Object.hasOwn(error, key)) continue;
    const item = (error as unknown as Record<string, unknown>)[key];
    try {
      stored[key] = encodeAt(item, {
        ...place,
        keys: [...place.keys],
        inside: new Set(place.inside),
      });
    } catch {
      stored[key] = textOf(item);
    }
  }
  return stored;
}

/** Reads back, in place, what `encode` made. `results` are those of the steps before. */
export function decode(stored: unknown, results: unknown[] = []): unknown {
  if (typeof stored !== "object" || !stored) return stored;
  const object = stored as Record<string, unknown>;
  if (Array.isArray(object)) {
    for (let index = 0; index < object.length; index++) {
      if (typeof object[index] === "object") object[index] = decode(object[index], results);
    }
    return object;
  }
  const [key] = Object.keys(object);
  if (key?.startsWith("$")) return decodeSpecial(key, object, results);
  for (const key in object) {
    if (typeof object[key] === "object") object[key] = decode(object[key], results);
  }
  return object;
}

function decodeSpecial(key: string, object: Record<string, unknown>, results: unknown[]): unknown {
  const stored = object[key];
  if (key === "$step") return follow(object as Reference, results);
  if (key === "$undefined") return undefined;
  if (key === "$number") return Number(stored);
  if (key === "$bigint") return BigInt(stored as string);
  if (key === "$function") return stored;
  if (key === "$error") return decodeError(stored as Record<string, unknown>);
  if (key === "$object") {
    const plain = stored as Record<string, unknown>;
    for (const key in plain) plain[key] = decode(plain[key], results);
    return plain;
  }
  if (!Object.hasOwn(codecs, key)) throw new TypeError(`\`${key}\` is no way to store a value`);
  return codecs[key][2](decode(stored, results));
}

/** Whether a key may be in a path: not if it leads to what all objects share. */
export function mayFollow(key: unknown): boolean {
  return !/^(__proto__|constructor|prototype)$/.test(`${key}`);
}

/** What stands in a task for the result of a step before, or a part of it. */
type Reference = { $step: number; path?: Path };

/** The result of a step before, or a part of it. */
export function follow(
  ref: Reference,
  results: unknown[],
): unknown {
  if (!Number.isInteger(ref.$step) || !Object.hasOwn(results, ref.$step)) {
    throw new RangeError(`\`$step\`: ${ref.$step} is none of the ${results.length} steps before`);
  }
  let value = results[ref.$step] as Record<string, unknown>;
  if (!Array.isArray(ref.path ?? [])) throw new TypeError("`path` must be an array");
  for (const key of ref.path ?? []) {
    if (!mayFollow(key)) {
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

function decodeError({ name, message, stack, ...others }: Record<string, unknown>): Error {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0; // or Bun prints where we are, in place of `stack`
  const error = new Error(message as string);
  Error.stackTraceLimit = stackTraceLimit;
  const type = (globalThis as Record<string, unknown>)[name as string] as
    | ErrorConstructor
    | undefined;
  // some of Bun's have methods that work only on what it has made itself
  const isUsable = type?.prototype instanceof Error && !Object.hasOwn(type.prototype, "toString");
  if (isUsable) Object.setPrototypeOf(error, type!.prototype);
  const hidden = hiddenIn(name).map((key) => [key, decode(others[key])]);
  for (const [key, value] of [["name", name], ["stack", stack], ...hidden] as [string, unknown][]) {
    if (value === undefined || (key === "name" && value === error.name)) continue;
    Object.defineProperty(error, key, { value, configurable: true, writable: true });
    delete others[key];
  }
  for (const key in others) others[key] = decode(others[key]); // one by one, as a key may begin with `$`
  return Object.assign(error, others);
}

/** What was thrown, as it is stored. */
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

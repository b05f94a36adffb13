/**
 * Deferred values: what they record, how they are printed, and the steps of a task that come of them.
 *
 * @module
 */

import { see } from "./references.ts";
import { stringify } from "./system.ts";
import type { Step } from "./steps.ts";
import { type Callable, encode, type Path, pathText } from "./values.ts";

/** Marks a deferred value, also one of another copy of this module. */
export const MARK: unique symbol = Symbol.for("forrest.deferred");

/** A call with its arguments; steps are numbered as they are made, which is an order to run them in. */
export type Recorded = { order: number; call: unknown; args: unknown[] };
/** A part of what a step gives. */
export type Part = { step: Recorded; path: Path };

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
export function newStep(call: unknown, args: unknown[]): Recorded {
  for (const item of [call, ...args]) {
    if (typeof item === "function" && !partOf(item)) see(item as Callable);
  }
  return { order: shared.steps++, call, args };
}

/** What a deferred value records; undefined for any other value. */
export function partOf(value: unknown): Part | undefined {
  return typeof value === "function" ? (value as { [MARK]?: Part })[MARK] : undefined;
}

/** A deferred value for what a step gives, or for a part of that. */
export function deferred(step: Recorded, path: Path = []): unknown {
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
export const printable = Object.create(Function.prototype, {
  [Symbol.for("Deno.customInspect")]: { value: print },
  [Symbol.for("nodejs.util.inspect.custom")]: { value: print },
});

function print(this: { [MARK]: Part }): string {
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
      : stringify(value) ?? `${value}`;
  };
  const args = step.args.map(show).join(", ");
  const call = step.call === undefined
    ? `defer(${args})`
    : `defer(${[show(step.call), args].join(", ")})`;
  const isMethod = (step.call as Part)?.step;
  return (isMethod ? `${show(step.call)}(${args})` : call) + pathText(path);
}

/** A function in the steps of a task, and where its reference is to be put. */
export type Place = { into: Record<string, unknown>; key: string; call: Callable };

/** The steps of a task in the order in which they were made, and the functions in them. */
export function build(task: unknown): [Step[], Place[]] {
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

/**
 * What a deferred value records: a call, or plain data, and the way to a part of its result.
 *
 * @module
 */

import { see } from "./references.ts";
import { shared, stringify } from "./system.ts";
import { type Callable, type Path, pathText } from "./values.ts";

/** Marks a deferred value, also one of another copy of this module. */
export const MARK: unique symbol = Symbol.for("forrest.deferred") as never;

/** A call with its arguments; steps are numbered as they are made, which is an order to run them in. */
export type Recorded = { order: number; call: unknown; args: unknown[] };
/** A part of what a step gives. */
export type Part = { step: Recorded; path: Path };

/** Records a step. */
export function newStep(call: unknown, args: unknown[]): Recorded {
  for (const item of [call, ...args]) {
    if (typeof item === "function" && !partOf(item)) see(item as Callable);
  }
  return { order: shared.steps++, call, args };
}

/** What a deferred value records; undefined for any other value. */
export function partOf(value: unknown): Part | undefined {
  return typeof value === "function" ? (value as unknown as Record<symbol, Part>)[MARK] : undefined;
}

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

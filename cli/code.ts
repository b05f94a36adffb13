/**
 * Stored tasks, values and errors as a person reads them: as code.
 *
 * @module
 */

import type { Step } from "../mod.ts";
import { quote } from "./terminal.ts";

/** A stored value as the code that makes it; an ellipsis, if it is too deep. */
export function codeOf(stored: unknown): string {
  try {
    return codeOfPart(stored);
  } catch {
    return "…";
  }
}

function codeOfPart(stored: unknown): string {
  if (Array.isArray(stored)) return `[${stored.map(codeOfPart).join(", ")}]`;
  if (typeof stored !== "object" || !stored) return JSON.stringify(stored) ?? "undefined";
  const [key] = Object.keys(stored);
  if (!key?.startsWith("$")) return codeOfObject(stored);
  try {
    return codeOfSpecial(key, stored as Record<string, unknown>);
  } catch (error) {
    if (error instanceof RangeError) throw error;
    return codeOfObject(stored); // written by hand, and no value
  }
}

function codeOfObject(object: object): string {
  const fields = Object.entries(object).map(([key, value]) =>
    `${isName(key) ? key : JSON.stringify(key)}: ${codeOfPart(value)}`
  );
  return fields.length ? `{ ${fields.join(", ")} }` : "{}";
}

/** Whether a key can be written after a dot. */
const isName = (key: string | number): boolean => /^[a-z_$][\w$]*$/i.test(`${key}`);

/** The way to a part of a value, as it is written in code. */
function pathText(path: (string | number)[] = []): string {
  return path.map((key) => isName(key) ? `.${key}` : `[${JSON.stringify(key)}]`).join("");
}

/** What JSON cannot hold. */
const specials: Record<string, (stored: never) => string> = {
  $undefined: () => "undefined",
  $number: (text: string) => text,
  $bigint: (digits: string) => `${digits}n`,
  $object: codeOfObject,
  $function: codeOfCallee,
  $regexp: ([source, flags]: string[]) => `/${source}/${flags}`,
  $bytes: (base64: string) => `Uint8Array.fromBase64(${JSON.stringify(base64)})`,
  $arraybuffer: (base64: string) => `${specials.$bytes(base64 as never)}.buffer`,
  $error: ({ name, message }: Error) => `new ${name}(${JSON.stringify(message)})`,
};

function codeOfSpecial(key: string, object: Record<string, unknown>): string {
  const stored = object[key];
  if (key === "$step") return `step${stored}${pathText(object.path as (string | number)[])}`;
  if (Object.hasOwn(specials, key)) return specials[key](stored as never);
  const names = Object.getOwnPropertyNames(globalThis);
  const type = names.find((name) => `$${name.toLowerCase()}` === key) ?? key;
  if (/Array$/.test(type)) return `new ${type}(${specials.$arraybuffer(stored as never)})`;
  return `new ${type}(${codeOfPart(stored)})`;
}

function codeOfCallee(call: unknown): string {
  if (typeof call === "string") return call.slice(call.lastIndexOf("#") + 1);
  const source = (call as { source?: string } | undefined)?.source;
  return source === undefined ? codeOf(call) : `(${source})`;
}

/** A step as the call that it is; what is no step, as it is. */
export function callOf(step: Step = {}): string {
  const { call, args = [], value } = Object(step) as Step;
  if (call === undefined) return codeOf("value" in Object(step) ? value : step);
  if (!Array.isArray(args)) return codeOf(step);
  const words = args.map(codeOf);
  if (call === "forrest#command" && words[1] === "{}") words.pop(); // no options
  return `${codeOfCallee(call)}(${words.join(", ")})`;
}

/** A step as it is said in a line: a program as it would be typed. */
export function briefOf(step: Step = {}): string {
  const { call, args } = Object(step) as Step;
  const [words, options] = Array.isArray(args) ? args : [];
  if (call !== "forrest#command" || !Array.isArray(words)) return callOf(step);
  return words.map((word) => Object(options).shell ? word : quote(`${word}`)).join(" ");
}

/** All steps as a program, with the imports that it would need. */
export function programOf(steps: Step[]): string {
  const imports = new Map<string, Set<string>>();
  for (const { call } of steps.map(Object)) {
    const [, module, name] = /^(.*)#([^#]*)$/s.exec(typeof call === "string" ? call : "") ?? [];
    const [exported] = (name ?? "").split("."); // of a static method, the class
    if (module) imports.set(module, (imports.get(module) ?? new Set()).add(exported));
  }
  const froms = [...imports].map(([module, names]) =>
    `import { ${[...names].join(", ")} } from ${JSON.stringify(module)};`
  );
  const lines = steps.map((step, index) =>
    index < steps.length - 1 ? `const step${index} = ${callOf(step)};` : `${callOf(step)};`
  );
  return [...froms, ...lines].join("\n");
}

/** What a stored error says, with its name; or what else was thrown. */
export function messageOf(stored: unknown): string {
  if (stored === undefined) return "(no error is stored)";
  const { $error: error } = Object(stored);
  if (!error) return `threw ${codeOf(stored)}`;
  const { name = "Error", message = "" } = error;
  const words = [name, message].map((word) => typeof word === "string" ? word : codeOf(word));
  return words.filter(Boolean).join(": ");
}

/** The same in one line. */
export function headOfError(stored: unknown): string {
  const [first, ...others] = messageOf(stored).trimEnd().split("\n");
  return /It last printed:$/.test(first) ? `${first} ${tellingOf(others)}` : first;
}

/** The line that says most of what a process has printed last: an error, and no line of its stack. */
function tellingOf(lines: string[]): string {
  const told = lines.filter((line) => !/^\s*at |^Bun v\d|^\s*$/.test(line));
  return told.findLast((line) => /^(error|panic|Uncaught|\w*Error)\b.*:/i.test(line)) ??
    told.at(-1) ?? "";
}

/** The same with its stack, its own properties and its causes. */
export function textOfError(stored: unknown): string {
  const { name: _, message = "", stack, cause, ...others } = Object(Object(stored).$error);
  const isWhole = stack && `${stack}`.includes(message);
  const head = isWhole ? [stack] : [messageOf(stored), stack];
  const properties = Object.entries(others).map(([key, value]) => `    ${key}: ${codeOf(value)}`);
  const reason = cause === undefined ? "" : `Caused by: ${textOfError(cause)}`;
  return [...head, ...properties, reason].filter(Boolean).join("\n");
}

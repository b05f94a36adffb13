/**
 * A task as its file holds it, how people call it, and the line that says what became of it.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { resolve } from "@std/path/resolve";
import { locate, type State, states, type Step } from "../mod.ts";
import { briefOf, codeOf, headOfError, textOfError } from "./code.ts";
import { nearby } from "./command.ts";
import { cut, duration, paint, printable, widthOfOutput } from "./terminal.ts";

/** A task as its file holds it. */
export type Stored = Record<string, unknown> & { steps?: Step[] };

/** Reads a task file; if that cannot be read, the error of the task says so. */
export function storedAt(path: string): Stored {
  try {
    const text = readFileSync(path, "utf8");
    const stored = JSON.parse(text.replace(/^\uFEFF/, "")); // as editors on Windows begin it
    if (stored && typeof stored === "object") return stored as Stored;
    throw new TypeError("it holds no object");
  } catch (error) {
    const message = `Cannot read the task: ${(error as Error).message}`;
    return { errorValue: { $error: { name: "Error", message } } };
  }
}

/** The line that `forrest add` has made a task of. */
export function lineIn(metadata: unknown): string | undefined {
  const { line } = Object(metadata);
  return typeof line === "string" ? line : undefined;
}

/** What people call a task: the line that it was made of, or else its id. */
export const nameOf = (id: string, metadata: unknown): string => lineIn(metadata) ?? id;

export const nameAt = (path: string): string => nameOf(locate(path).id, storedAt(path).metadata);

/** What `--json` prints of a task. */
export function outcomeAt(path: string): string {
  const { id, state } = placeOf(path);
  const { steps: _steps, metadata, ...others } = storedAt(path);
  const line = lineIn(metadata);
  const named = line === undefined ? { metadata } : { line };
  return JSON.stringify({ id, state, path: nearby(path), ...named, ...others });
}

/** Where a task lies, and its state by the name of that folder, if it is one of a list. */
export function placeOf(path: string): { directory: string; id: string; state: State | "" } {
  const place = locate(resolve(path));
  return { ...place, state: states.includes(place.state) ? place.state : "" };
}

/** One line that says what became of a task; `note` comes before its value, error or call. */
export function lineOf(
  path: string,
  width = widthOfOutput(),
  note = "",
  stored = storedAt(path),
): string {
  const { id, state } = placeOf(path);
  const name = printable(nameOf(id, stored.metadata));
  const seconds = typeof stored.runtime === "number" ? duration(stored.runtime) : "";
  const text = [
    state.padEnd(7),
    cut(name, Math.max(20, width / 3)),
    seconds.padStart(7),
    note + printable(outcomeOf(stored)),
  ];
  const color = state === "done" ? "green" : state === "fail" ? "red" : "dim";
  return cut(text.join("  "), width).replace(/^\w+/, (word) => paint(color, word));
}

function outcomeOf(stored: Stored): string {
  if ("errorValue" in stored) return headOfError(stored.errorValue);
  if ("returnValue" in stored) return codeOf(stored.returnValue);
  return Array.isArray(stored.steps) ? briefOf(stored.steps.at(-1)) : "";
}

/** Whether the name, the error with its causes, the value or the call of a task contains a text. */
export function matches(path: string, text: string): boolean {
  const stored = storedAt(path);
  const error = "errorValue" in stored ? textOfError(stored.errorValue) : "";
  const messages = error.replace(/^ +at .*/gm, ""); // without its stacks
  const name = nameOf(locate(path).id, stored.metadata);
  return `${name}\n${messages}\n${outcomeOf(stored)}`.includes(text);
}

const PROGRAM = /^Error: `([^`\s]+)[^`]*` (exited with code \d+|was killed by \w+)/;

/** What failures are grouped by: of a program, the words and what it has printed differ; of others, the name. */
export function kindOf(message: string, name: string): string {
  const [, program, how] = PROGRAM.exec(message) ?? [];
  if (program) return `${program} ${how}`;
  const whole = new RegExp(`(?<!\\w)${RegExp.escape(name)}(?!\\w)`, "g");
  return message.replace(whole, "{}");
}

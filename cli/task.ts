/**
 * A task as its file holds it, how people call it, and the line that says what became of it.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { resolve } from "@std/path/resolve";
import { locate, type State, states, type Step, type Task } from "../mod.ts";
import { briefOf, codeOf, headOfError, textOfError } from "./code.ts";
import { cut, duration, paint, printable, widthOfOutput } from "./terminal.ts";

/** A task as its file holds it. */
export type Stored = Record<string, unknown> & { steps?: Step[] };

/** Reads a task file; if that cannot be read, the error of the task says so. */
export function storedAt(path: string): Stored {
  try {
    const stored = parseTask(readFileSync(path, "utf8"));
    if (stored && typeof stored === "object") return stored as Stored;
    throw new TypeError("it holds no object");
  } catch (error) {
    const message = `Cannot read the task: ${(error as Error).message}`;
    return { errorValue: { $error: { name: "Error", message } } };
  }
}

/** What the text of a task file says; editors on Windows begin a file with a mark that is no JSON. */
export const parseTask = (text: string): unknown => JSON.parse(text.replace(/^\uFEFF/, ""));

/** The line that `forrest add` has made a task of. */
export function lineIn(metadata: unknown): string | undefined {
  const { line } = Object(metadata);
  return typeof line === "string" ? line : undefined;
}

/** What people call a task: the line that it was made of, or else its id. */
export const nameOf = (id: string, metadata: unknown): string => lineIn(metadata) ?? id;

export const nameAt = (path: string): string => nameOf(locate(path).id, storedAt(path).metadata);

/** What `--json` prints of a task. */
export function outcomeAt(path: string, { id, state }: Pick<Task, "id" | "state">): Stored {
  const { steps: _steps, metadata, ...others } = storedAt(path);
  const line = lineIn(metadata);
  return { id, state, path, ...(line === undefined ? { metadata } : { line }), ...others };
}

/** The state of a task by the folder that it lies in, if that is one of a list. */
export const stateAt = (path: string): State | "" => placeOf(path).state;

function placeOf(path: string): { id: string; state: State | "" } {
  const { id, state } = locate(path.startsWith("/") ? path : resolve(path));
  return { id, state: states.includes(state) ? state : "" };
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

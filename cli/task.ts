/**
 * A task as its file holds it, and the line that says what became of it.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { resolve } from "@std/path/resolve";
import { locate, type State, states, type Step, type Task } from "../mod.ts";
import { callOf, codeOf, headOfError } from "./code.ts";
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

/** What `--json` prints of a task. */
export function outcomeAt(path: string, { id, state }: Task): Stored {
  const { steps: _steps, ...others } = storedAt(path);
  return { id, state, path, ...others };
}

/** The state of a task by the folder that it lies in, if that is one of a list. */
export const stateAt = (path: string): State | "" => placeOf(path).state;

function placeOf(path: string): { id: string; state: State | "" } {
  const { id, state } = locate(path.startsWith("/") ? path : resolve(path));
  return { id, state: states.includes(state) ? state : "" };
}

/** One line that says what became of a task. */
export function lineOf(path: string, width = widthOfOutput(), stored = storedAt(path)): string {
  const { id, state } = placeOf(path);
  const seconds = typeof stored.runtime === "number" ? duration(stored.runtime) : "";
  const text = [state.padEnd(7), printable(id), seconds.padStart(7), printable(briefOf(stored))];
  const color = state === "done" ? "green" : state === "fail" ? "red" : "dim";
  return cut(text.join("  "), width).replace(/^\w+/, (word) => paint(color, word));
}

function briefOf(stored: Stored): string {
  if ("errorValue" in stored) return headOfError(stored.errorValue);
  if ("returnValue" in stored) return codeOf(stored.returnValue);
  return Array.isArray(stored.steps) ? callOf(stored.steps.at(-1)) : "";
}

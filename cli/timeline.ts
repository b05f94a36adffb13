/**
 * The finished tasks of a list in time: on lanes, as its processes ran them.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import { locate, type State } from "../mod.ts";
import { openList } from "./list.ts";
import { parseTask, type Stored } from "./task.ts";

type Failure = { message: string; stack?: string };
/** A task, with what could be read of it. */
export interface Entry {
  id: string;
  state: State;
  calls?: string;
  attempts?: number;
  started?: number; // milliseconds since 1970
  runtime?: number; // seconds
  failure?: Failure;
  unreadable?: boolean;
}
/** A task with times. `start` counts from the first start of all; both are in microseconds. */
export type Bar = { entry: Entry; lane: number; start: number; duration: number };
type Stretch = [start: number, end: number];

/** A list in time: its tasks, and those of them that have times, on lanes. */
export interface Timeline {
  entries: Entry[];
  bars: Bar[];
  lanes: number;
  /** When the first task started, in milliseconds since 1970. */
  start: number;
  /** The times in which tasks ran. */
  stretches: Stretch[];
}

export function readTimeline(directory: string): Timeline {
  const entries = readList(directory);
  const bars = layOut(entries);
  const lanes = bars.reduce((most, { lane }) => Math.max(most, lane + 1), 0);
  return { entries, bars, lanes, start: bars[0]?.entry.started ?? 0, stretches: stretchesOf(bars) };
}

/** The finished tasks of a list in the trace format of Chrome, which https://ui.perfetto.dev opens. */
export function traceEvents(directory: string): string {
  const { bars, lanes, start } = readTimeline(directory);
  const about = (name: string, tid: number, args: object) => {
    return { ph: "M", pid: 1, name, tid, args };
  };
  const names = Array.from({ length: lanes }, (_, lane) => [
    about("thread_name", lane + 1, { name: `process ${lane + 1}` }),
    about("thread_sort_index", lane + 1, { sort_index: lane + 1 }),
  ]);
  const slices = bars.map(({ entry: { id, state, calls, attempts, failure }, ...bar }) => ({
    ...{ name: id, cat: state, ph: "X", pid: 1, tid: bar.lane + 1 },
    ...{ ts: bar.start, dur: bar.duration },
    args: { state, calls, attempts, error: failure?.message },
  }));
  const process = about("process_name", 0, { name: `forrest ${directory}` });
  return JSON.stringify({
    displayTimeUnit: "ms",
    otherData: { started: bars.length ? new Date(start).toISOString() : undefined },
    traceEvents: [process, ...names.flat(), ...slices],
  });
}

function readList(directory: string): Entry[] {
  const tasks = openList(directory);
  const entries = new Map<string, Entry>();
  // In this order, and by id, a task that moves while the folders are read is counted, and counted once.
  for (const state of ["todo", "running", "fail", "done"] as const) {
    for (const path of tasks.paths(state)) {
      const entry = readEntry(path);
      if (entry) entries.set(entry.id, entry);
    }
  }
  return [...entries.values()];
}

function readEntry(path: string): Entry | undefined {
  const { id, state } = locate(path);
  if (state === "todo" || state === "running") return { id, state }; // it has no times yet
  try {
    const task = parseTask(readFileSync(path, "utf8")) as Stored;
    if (typeof task !== "object" || !task || Array.isArray(task)) throw new Error("it is no task");
    const steps: { call?: unknown }[] = Array.isArray(task.steps) ? task.steps : [];
    const calls = steps.flatMap(({ call }) => typeof call === "string" ? [call] : []).join(", ");
    const failure = state === "fail" ? failureOf(task.errorValue) : undefined;
    const entry = { id, state, calls, failure, attempts: Number(task.attempts) || undefined };
    const [started, runtime] = [Date.parse(`${task.started}`), task.runtime];
    const timed = started >= 0 && typeof runtime === "number" && runtime >= 0 && runtime < 1e9;
    return timed ? { ...entry, started, runtime } : entry;
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined; // it has just been moved
    const failure = { message: `The task file cannot be read: ${(error as Error).message}` };
    return { id, state, unreadable: true, failure: state === "fail" ? failure : undefined };
  }
}

function failureOf(errorValue: unknown): Failure {
  const error = (errorValue as { $error?: Record<string, unknown> } | undefined)?.$error;
  const text = typeof errorValue === "string" ? errorValue : JSON.stringify(errorValue);
  const message = error ? `${error.name ?? "Error"}: ${error.message ?? ""}` : text;
  return {
    message: stripVTControlCharacters(message ?? "(no error is stored)"),
    stack: error?.stack ? stripVTControlCharacters(`${error.stack}`) : undefined,
  };
}

/** Gives each task that has times a lane which is free then, the first one if there are several. */
function layOut(entries: Entry[]): Bar[] {
  const timed = entries.filter(({ started }) => started !== undefined);
  timed.sort((a, b) => a.started! - b.started! || a.runtime! - b.runtime!);
  const ends: number[] = [];
  return timed.map((entry) => {
    const started = (entry.started! - timed[0].started!) * 1000;
    // `started` is cut off to milliseconds: within the next one, a lane may still be getting free.
    const free = ends.findIndex((end) => end < started + 1000);
    const lane = free < 0 ? ends.length : free;
    const start = Math.max(started, ends[lane] ?? 0);
    const duration = Math.max(1, Math.round(entry.runtime! * 1e6));
    ends[lane] = start + duration;
    return { entry, lane, start, duration };
  });
}

/** The times in which tasks ran, joined where the pause between them is short beside them. */
function stretchesOf(bars: Bar[], longestPause = 0): Stretch[] {
  const stretches: Stretch[] = [];
  for (const { start, duration } of bars) {
    const last = stretches.at(-1);
    if (last && start <= last[1] + longestPause) last[1] = Math.max(last[1], start + duration);
    else stretches.push([start, start + duration]);
  }
  return longestPause ? stretches : stretchesOf(bars, Math.max(1e6, lengthOf(stretches) / 4));
}

/** How long tasks ran, in microseconds. */
export const lengthOf = (stretches: Stretch[]) =>
  stretches.reduce((sum, [start, end]) => sum + end - start, 0);

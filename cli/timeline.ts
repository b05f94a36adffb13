/**
 * The finished tasks of a list in time: on lanes, as its processes ran them.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import { locate, type State } from "../mod.ts";
import { exists, openList } from "./list.ts";
import { triesIn, type Try } from "./log.ts";
import { nameOf, parseTask, type Stored } from "./task.ts";

type Failure = { message: string; stack?: string };
/** A task, with what could be read of it. */
export interface Entry {
  id: string;
  name: string;
  state: State;
  calls?: string;
  attempts?: number;
  failure?: Failure;
  unreadable?: boolean;
  /** Those that have times; the last is that of its outcome. */
  tries: Try[];
}
/** A try. `start` counts from the first start of all; both times are in microseconds. */
export interface Bar {
  entry: Entry;
  /** What came of it; `todo`, if the task was tried again. */
  state: State;
  error?: string;
  start: number;
  duration: number;
  /** Its process has a lane, with a row for each task that it held at once. */
  lane: number;
  row: number;
}
type Stretch = [start: number, end: number];

/** A list in time: its tasks, and their tries, as far as these have times, on lanes. */
export interface Timeline {
  entries: Entry[];
  bars: Bar[];
  /** How many rows each lane has. */
  rows: number[];
  /** When the first task started, in milliseconds since 1970. */
  start: number;
  /** The times in which tasks ran. */
  stretches: Stretch[];
}

export async function readTimeline(directory: string): Promise<Timeline> {
  const log = `${directory}/log.txt`;
  const tries = exists(log) ? await triesIn(log) : new Map<string, Try[]>();
  const entries = readList(directory, tries);
  const timed = entries.flatMap((entry) => entry.tries);
  const start = timed.reduce((least, { started }) => Math.min(least, started), Infinity);
  const bars = layOut(entries, start);
  const rows: number[] = [];
  for (const { lane, row } of bars) rows[lane] = Math.max(rows[lane] ?? 0, row + 1);
  return { entries, bars, rows, start: bars.length ? start : 0, stretches: stretchesOf(bars) };
}

/** The finished tasks of a list in the trace format of Chrome, which https://ui.perfetto.dev opens. */
export async function traceEvents(directory: string): Promise<string> {
  const { bars, rows, start } = await readTimeline(directory);
  const about = (name: string, tid: number, args: object) => {
    return { ph: "M", pid: 1, name, tid, args };
  };
  const threads = rows.flatMap((rows, lane) =>
    Array.from({ length: rows }, (_, row) => [lane, row])
  );
  const number = new Map(threads.map((thread, index) => [`${thread}`, index + 1]));
  const names = threads.flatMap(([lane, row], index) => [
    about("thread_name", index + 1, { name: `process ${lane + 1}${row ? ` (${row + 1})` : ""}` }),
    about("thread_sort_index", index + 1, { sort_index: index + 1 }),
  ]);
  const slices = bars.map(({ entry: { id, name, calls, attempts }, state, error, ...bar }) => ({
    ...{ name, cat: state, ph: "X", pid: 1, tid: number.get(`${bar.lane},${bar.row}`) },
    ...{ ts: bar.start, dur: bar.duration },
    args: { id, state, calls, attempts, error },
  }));
  const process = about("process_name", 0, { name: `forrest ${directory}` });
  return JSON.stringify({
    displayTimeUnit: "ms",
    otherData: { started: bars.length ? new Date(start).toISOString() : undefined },
    traceEvents: [process, ...names, ...slices],
  });
}

function readList(directory: string, tries: Map<string, Try[]>): Entry[] {
  const tasks = openList(directory);
  const entries = new Map<string, Entry>();
  // In this order, and by id, a task that moves while the folders are read is counted, and counted once.
  for (const state of ["todo", "running", "fail", "done"] as const) {
    for (const path of tasks.paths(state)) {
      const entry = readEntry(path, tries.get(locate(path).id) ?? []);
      if (entry) entries.set(entry.id, entry);
    }
  }
  return [...entries.values()];
}

function readEntry(path: string, logged: Try[]): Entry | undefined {
  const { id, state } = locate(path);
  if (state === "todo" || state === "running") return { id, name: id, state, tries: [] }; // it has no times yet
  try {
    const task = parseTask(readFileSync(path, "utf8")) as Stored;
    if (typeof task !== "object" || !task || Array.isArray(task)) throw new Error("it is no task");
    const steps: { call?: unknown }[] = Array.isArray(task.steps) ? task.steps : [];
    const calls = steps.flatMap(({ call }) => typeof call === "string" ? [call] : []).join(", ");
    const failure = state === "fail" ? failureOf(task.errorValue) : undefined;
    const attempts = Number(task.attempts) || undefined;
    const tries = triesOf(task, logged.slice(-(attempts ?? 1)));
    return { id, name: nameOf(id, task.metadata), state, calls, failure, attempts, tries };
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined; // it has just been moved
    const failure = { message: `The task file cannot be read: ${(error as Error).message}` };
    return {
      id,
      name: id,
      state,
      unreadable: true,
      failure: state === "fail" ? failure : undefined,
      tries: [],
    };
  }
}

/** The tries of a task that have times: those before the last as the log has them, and that as its file says. */
function triesOf({ started, runtime }: Stored, logged: Try[]): Try[] {
  const before = logged.slice(0, -1).filter(({ seconds }) => seconds !== undefined);
  const [begun, process] = [Date.parse(`${started}`), logged.at(-1)?.process];
  const isTimed = begun >= 0 && typeof runtime === "number" && runtime >= 0 && runtime < 1e9;
  return isTimed ? [...before, { started: begun, seconds: runtime, process }] : before;
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

const CLOCK = 1000; // microseconds by which the start of a task may be too early, as it is cut off

/** Gives each process a lane that is free then, the first one if there are several, and its tries rows of it. */
function layOut(entries: Entry[], first: number): Bar[] {
  const bars = entries.flatMap((entry) =>
    entry.tries.map((one, index): Bar & { process?: string } => ({
      entry,
      state: index < entry.tries.length - 1 ? "todo" : entry.state,
      error: one.error ?? entry.failure?.message,
      start: (one.started - first) * 1000,
      duration: Math.max(1, Math.round(one.seconds! * 1e6)),
      process: one.process,
      lane: 0,
      row: 0,
    }))
  );
  bars.sort((a, b) => a.start - b.start || a.duration - b.duration);
  const lanes: number[] = []; // when they are free
  for (const held of heldTogether(bars)) {
    const free = lanes.findIndex((end) => end < held[0].start + CLOCK);
    const lane = free < 0 ? lanes.length : free;
    const rows: number[] = [];
    for (const bar of held) {
      const place = rows.findIndex((end) => end < bar.start + CLOCK);
      bar.lane = lane;
      bar.row = place < 0 ? rows.length : place;
      bar.start = Math.max(bar.start, rows[bar.row] ?? lanes[lane] ?? 0);
      rows[bar.row] = bar.start + bar.duration;
    }
    lanes[lane] = Math.max(...rows);
  }
  return bars;
}

const PAUSE = 1e6; // microseconds after which a process with the same id is taken for another one

/** The tries of each process, in the order of their starts. */
function heldTogether(bars: (Bar & { process?: string })[]): Bar[][] {
  const all: Bar[][] = [];
  const latest = new Map<string, { held: Bar[]; end: number }>();
  for (const bar of bars) {
    const known = latest.get(bar.process ?? "");
    const isIts = bar.process !== undefined && known && bar.start < known.end + PAUSE;
    const held = isIts ? known.held : [];
    if (!isIts) all.push(held);
    held.push(bar);
    const end = Math.max(isIts ? known.end : 0, bar.start + bar.duration);
    if (bar.process !== undefined) latest.set(bar.process, { held, end });
  }
  return all;
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

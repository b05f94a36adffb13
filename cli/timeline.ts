/**
 * The finished tasks of a list in time: on lanes, as its processes ran them.
 *
 * @module
 */

import { locate } from "../mod.ts";
import { messageOf } from "./code.ts";
import { exists, openList, taskAt } from "./list.ts";
import { triesIn, type Try } from "./log.ts";

/**
 * A list in time: its tasks, and their tries, as far as these have times, on lanes. Its `start` is in milliseconds
 * since 1970, all else in microseconds since then.
 */
export type Timeline = Awaited<ReturnType<typeof readTimeline>>;

/** A task, with what could be read of it. */
export type Entry = ReturnType<typeof readTries>["entry"];

/** A try of it. */
export type Bar = ReturnType<typeof readTries>["bars"][number];

export async function readTimeline(directory: string) {
  const tasks = openList(directory);
  const log = `${directory}/log.txt`;
  const logged = exists(log) ? await triesIn(log) : new Map<string, Try[]>();
  const byId = new Map<string, ReturnType<typeof readTries>>();
  // In this order, and by id, a task that moves while the folders are read is counted, and counted once.
  for (const state of ["todo", "running", "fail", "done"] as const) {
    for (const path of tasks.paths(state)) {
      const { id } = locate(path);
      if (exists(path)) byId.set(id, readTries(path, logged.get(id) ?? []));
    }
  }
  const entries = [...byId.values()].map(({ entry }) => entry);
  const bars = [...byId.values()].flatMap(({ bars }) => bars);
  bars.sort((a, b) => a.start - b.start || a.duration - b.duration);
  const first = bars[0]?.start ?? 0;
  for (const bar of bars) bar.start -= first;
  const rows = layOut(bars); // how many each lane has
  return { entries, bars, rows, start: first / 1000, stretches: stretchesOf(bars) };
}

/** The finished tasks of a list in the trace format of Chrome, which https://ui.perfetto.dev opens. */
export async function traceEvents(directory: string): Promise<string> {
  const { bars, rows, start } = await readTimeline(directory);
  const about = (name: string, tid: number, args: object) => ({ ph: "M", pid: 1, name, tid, args });
  // each row is a thread
  const firsts = rows.map((_, lane) => rows.slice(0, lane).reduce((sum, rows) => sum + rows, 1));
  const threads = rows.flatMap((rows, lane) =>
    Array.from({ length: rows }, (_, row) => `process ${lane + 1}${row ? ` (${row + 1})` : ""}`)
  );
  const names = threads.flatMap((name, index) => [
    about("thread_name", index + 1, { name }),
    about("thread_sort_index", index + 1, { sort_index: index + 1 }),
  ]);
  const slices = bars.map(({ entry: { id, name, calls, attempts }, state, error, ...bar }) => ({
    ...{ name, cat: state, ph: "X", pid: 1, tid: firsts[bar.lane] + bar.row },
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

/** Reads a task, and its tries that have times: those before the last from its log, and that from its file. */
function readTries(path: string, logged: Try[]) {
  const isFinished = /^(done|fail)$/.test(locate(path).state); // others are not read, as they have no times yet
  const { id, name, state, stored } = taskAt(path, isFinished ? undefined : {});
  const { started, runtime, errorValue } = stored;
  const steps: { call?: unknown }[] = Array.isArray(stored.steps) ? stored.steps.map(Object) : [];
  const calls = steps.flatMap(({ call }) => typeof call === "string" ? [call] : []).join(", ");
  const isBroken = state === "done" && !steps.length; // what has failed says so itself
  const attempts = typeof stored.attempts === "number" ? stored.attempts : 1;
  const entry = { id, name, state, calls, isBroken, attempts, errorValue };
  const tries = logged.slice(-attempts);
  const begun = typeof started === "string" ? Date.parse(started) : NaN;
  const seconds = typeof runtime === "number" && runtime < 1e9 ? runtime : undefined;
  const error = state === "fail" ? messageOf(errorValue) : undefined;
  const last = { started: begun, seconds, process: tries.at(-1)?.process, error, state };
  const all = [...tries.slice(0, -1).map((one) => ({ ...one, state: "todo" })), last];
  const timed = all.filter(({ started, seconds = -1 }) => started >= 0 && seconds >= 0);
  const bars = timed.map(({ started, seconds, process, error, state }) => ({
    entry,
    state, // what came of it
    error,
    start: started * 1000, // microseconds, as all below
    duration: Math.max(1, Math.round(seconds! * 1e6)),
    process,
    lane: 0, // that of its process, with a row for each task that this held at once
    row: 0,
  }));
  return { entry, bars };
}

const CLOCK = 1000; // microseconds by which the start of a task may be too early, as it is cut off

/**
 * Gives each process a lane that is free then, the first one if there are several, and its tries rows of it;
 * gives how many rows each lane has.
 */
function layOut(bars: Bar[]): number[] {
  const lanes: { free: number; rows: number }[] = [];
  for (const held of heldTogether(bars)) {
    const found = lanes.findIndex(({ free }) => free < held[0].start + CLOCK);
    const lane = found < 0 ? lanes.push({ free: 0, rows: 0 }) - 1 : found;
    const { free, rows } = lanes[lane];
    const ends: number[] = []; // of the rows
    for (const bar of held) {
      const row = ends.findIndex((end) => end < bar.start + CLOCK);
      bar.lane = lane;
      bar.row = row < 0 ? ends.length : row;
      bar.start = Math.max(bar.start, ends[bar.row] ?? free);
      ends[bar.row] = bar.start + bar.duration;
    }
    lanes[lane] = { free: Math.max(...ends), rows: Math.max(rows, ends.length) };
  }
  return lanes.map(({ rows }) => rows);
}

const PAUSE = 1e6; // microseconds after which a process with the same id is taken for another one

/** The tries of each process, in the order of their starts. */
function heldTogether(bars: Bar[]): Bar[][] {
  const all: { bars: Bar[]; end: number }[] = [];
  const latest = new Map<unknown, typeof all[0]>();
  for (const bar of bars) {
    const process = bar.process ?? bar; // where that is not known, each try is of another one
    let held = latest.get(process);
    if (!held || bar.start >= held.end + PAUSE) {
      held = { bars: [], end: 0 };
      latest.set(process, held);
      all.push(held);
    }
    held.bars.push(bar);
    held.end = Math.max(held.end, bar.start + bar.duration);
  }
  return all.map(({ bars }) => bars);
}

type Stretch = [start: number, end: number];

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

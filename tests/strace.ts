/**
 * Programs that use a list under `strace`, which can kill or mislead them at any system call.
 *
 * @module
 */
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import {
  assertAllDone,
  assertKept,
  assertLegal,
  type Event,
  type Host,
  type HostOptions,
  idsIn,
  linesOf,
  log,
  newDirectory,
  newFile,
  newList,
  startHost,
  stored,
} from "./crash.ts";

/** The calls that change a list, or tell another process of it. */
export const calls =
  "openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,link," +
  "linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,utimensat,ftruncate";

export type Point = [call: string, nth: number];

/** Which system calls in a trace concern the list, by name and number; with what it tells to others in `pipes`. */
export function pointsIn(trace: string, directory: string, pipes: boolean): Point[] {
  const counts = new Map<string, number>();
  const points = new Map<string, Point>();
  for (const line of linesOf(trace)) {
    const [, thread, call] = /^(?:(\d+) +)?(\w+)\(/.exec(line) ?? [];
    if (!call) continue;
    const count = (counts.get(`${thread} ${call}`) ?? 0) + 1;
    counts.set(`${thread} ${call}`, count);
    const changes = call === "openat"
      ? /O_CREAT|O_WRONLY|O_RDWR/.test(line)
      : pipes || !/<(pipe|socket|UNIX)/.test(line);
    if (line.includes(directory) && changes) points.set(`${call} ${count}`, [call, count]);
  }
  return [...points.values()];
}

/** The words that run a command under strace, which are followed by what to trace. */
const strace = (follow: boolean) => [
  ...["strace", "-q", "-y", "-s", "300", "-e", "signal=KILL"],
  ...follow ? ["-f"] : [],
];

/** One of the steps that must bear a fault at each of its system calls. */
export interface Stage {
  action: "schedule" | "run";
  options: HostOptions;
  /** Whether the runners are traced, and not the program that starts them. */
  runners?: boolean;
  /** Whether the threads and the children of the program are traced as well. */
  threads?: boolean;
  /** The folder of the list that the traced calls are about, if it is not all. */
  folder?: string;
  prepare(): Promise<string>;
  /** Asserts on a list at rest, after it was run again. */
  verify(directory: string, seen: Event[], context: string): void;
}

/** Starts the program of a stage under strace. */
export function startTraced(stage: Stage, directory: string, words: string[]): Host {
  // its asynchronous calls are made in threads
  const follow = stage.action === "schedule" || !!stage.threads;
  const about = stage.folder ? ["-P", path.join(directory, stage.folder)] : [];
  if (!stage.runners) {
    const before = [...strace(follow), ...about, ...words];
    return startHost(stage.action, directory, stage.options, { before });
  }
  const script = newFile("runner");
  const command = [...strace(false), "-D", ...words, process.execPath].map((word) => `'${word}'`);
  fs.writeFileSync(script, `#!/bin/sh\nexec ${command.join(" ")} "$@"\n`);
  fs.chmodSync(script, 0o755);
  const env = { FORREST_CRASH_RUNNER: script };
  return startHost(stage.action, directory, stage.options, { env });
}

export const scheduling: Stage = {
  action: "schedule",
  options: { ids: ["a", "b", "c"], log },
  prepare: () => Promise.resolve(newDirectory()),
  verify: assertKept,
};

export const running: Stage = {
  action: "run",
  options: { processes: 1 },
  prepare: () => newList({ a: ["note", log, "a"], b: ["note", log, "b"] }),
  verify(directory, seen, context) {
    assertKept(directory, seen, context);
    assertAllDone(directory, ["a", "b"], context);
  },
};

export const syncing: Stage = { ...running, threads: true };

export const retrying: Stage = {
  ...running,
  options: { processes: 1, retries: 1 },
  prepare: () => newList({ a: ["refuse", log, "a"] }),
  verify(directory, _seen, context) {
    assertLegal(directory, "at rest", context);
    assert.deepEqual(idsIn(directory, "fail"), ["a"], context);
  },
};

export const publishing: Stage = {
  ...running,
  runners: true,
  prepare: () => newList({ a: ["noteMuch", log, "a"], b: ["noteMuch", log, "b"] }),
  verify(directory, seen, context) {
    assertKept(directory, seen, context);
    assert.deepEqual([...idsIn(directory, "done"), ...idsIn(directory, "fail")].sort(), ["a", "b"]);
  },
};

export const retryingAlone: Stage = {
  ...retrying,
  runners: true,
  prepare: () => newList({ a: ["refuseMuch", log, "a"] }),
  verify(directory, seen, context) {
    retrying.verify(directory, seen, context);
    assert.equal(seen.filter(({ id }) => id).length, 1, context);
    // a disk error ends the run before it has tried again, and the next one does not retry
    const least = context.startsWith("error") ? 1 : 2;
    assert.ok(Number(stored(directory, "fail", "a").attempts) >= least, context);
  },
};

export const publishingMany: Stage = {
  ...publishing,
  options: { processes: 1, tasksPerProcess: 10 },
  prepare: running.prepare,
};

export const publishingTogether: Stage = {
  ...publishingMany,
  options: { processes: 1, concurrency: 2 },
};

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

/**
 * Which system calls in a trace concern the list, by name and number: those that change it, and with `pipes`
 * also those that give orders to runners.
 */
export function pointsIn(trace: string, directory: string, pipes: boolean): Point[] {
  const counts = new Map<string, number>();
  const points = new Map<string, Point>();
  for (const line of linesOf(trace)) {
    const [, thread, call] = /^(?:(\d+) +)?(\w+)\(/.exec(line) ?? [];
    if (!call) continue;
    const count = (counts.get(`${thread} ${call}`) ?? 0) + 1;
    counts.set(`${thread} ${call}`, count);
    const changes = call === "openat" ? /O_CREAT|O_WRONLY|O_RDWR/.test(line) : !isOfPipe(line);
    const isOrder = pipes && isOfPipe(line) && line.includes("nonce");
    if ((line.includes(directory) && changes) || isOrder) {
      points.set(`${call} ${count}`, [call, count]);
    }
  }
  return [...points.values()];
}

const isOfPipe = (line: string): boolean => /<(pipe|socket|UNIX)/.test(line);

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
  const command = [...strace(true), "-D", ...words, process.execPath].map((word) => `'${word}'`);
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

/** The tasks that have failed, as their files could not be read for once, and are kept as they were. */
export function unreadIn(directory: string, context: string): string[] {
  const failed = context.startsWith("error") ? idsIn(directory, "fail") : [];
  return failed.filter((id) => {
    const original = `${directory}/fail/${id}.json.original`;
    const text = fs.existsSync(original) ? fs.readFileSync(original, "utf8") : "";
    const error = JSON.stringify(stored(directory, "fail", id).errorValue);
    return text.includes('"steps"') && /E(IO|NOSPC|ACCES)/.test(error);
  });
}

function assertDone(directory: string, ids: string[], context: string): void {
  const unread = unreadIn(directory, context);
  assert.deepEqual([idsIn(directory, "todo"), idsIn(directory, "fail")], [[], unread], context);
  assert.deepEqual([...idsIn(directory, "done"), ...unread].sort(), ids, context);
}

export const running: Stage = {
  action: "run",
  options: { processes: 1 },
  prepare: () => newList({ a: ["note", log, "a"], b: ["note", log, "b"] }),
  verify(directory, seen, context) {
    assertKept(directory, seen, context);
    assertDone(directory, ["a", "b"], context);
  },
};

export const keeping: Stage = {
  ...running,
  options: { processes: 1, tasksPerProcess: 10 },
  prepare: () => newList(Object.fromEntries(many.map((id) => [id, ["note", log, id]]))),
  verify(directory, seen, context) {
    assertKept(directory, seen, context);
    assertDone(directory, many, context);
  },
};

const many = ["a", "b", "c"]; // the first, one in between, and the last

export const sharing: Stage = { ...keeping, options: { processes: 1, concurrency: 2 } };

export const syncing: Stage = { ...running, threads: true };

export const retrying: Stage = {
  ...running,
  options: { processes: 1, retries: 1 },
  prepare: () => newList({ a: ["refuse", log, "a"] }),
  verify(directory, seen, context) {
    assertLegal(directory, "at rest", context);
    assert.deepEqual(idsIn(directory, "fail"), ["a"], context);
    const isUnread = unreadIn(directory, context).length > 0;
    assert.ok(isUnread || Number(stored(directory, "fail", "a").attempts) >= 1, context);
    const failures = seen.filter(({ id }) => id);
    assert.ok(failures.every(({ state }) => state === "fail"), context);
  },
};

export const retryingKept: Stage = {
  ...retrying,
  options: { processes: 1, tasksPerProcess: 10, retries: 1 },
};

/**
 * Starts programs that use a list, kills them, and looks at what they leave behind.
 *
 * @module
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { eventOf } from "./fixtures/crash/event.ts";
import { otherRuntime } from "./helpers.ts";
import { defer, type RunOptions, type State, TaskList } from "./library.ts";

export const fixtures = new URL("fixtures/crash/", import.meta.url);
const host = fileURLToPath(new URL("host.ts", fixtures));
export const seed = Number(process.env.FORREST_CRASH_SEED ?? Date.now() % 1_000_000);
const isDeno = "Deno" in globalThis;
export const base = fs.mkdtempSync(path.join(os.tmpdir(), "forrest-crash-"));

process.env.FORREST_CRASH = base; // of all that is started here, too

function cleanUp(): void {
  killAll(processesWith(`FORREST_CRASH=${base}`));
  fs.rmSync(base, { recursive: true, force: true });
}

after(cleanUp);

// which is not called if only some of the tests are run
if (isDeno) globalThis.addEventListener("unload", cleanUp);
else process.once("exit", cleanUp);

/** Declares a test with time enough for a busy machine; `missing` says why it cannot run on this one. */
export function check(name: string, missing: string | false, behaves: () => Promise<void>): void {
  if (missing) test(`${name} (skipped: ${missing})`, { skip: missing }, () => {});
  else test(name, { timeout: 600_000 }, behaves);
}

export const noProc = !fs.existsSync("/proc/self/environ") &&
  "there is no /proc to find processes in";

export const noStrace = spawnSync("strace", ["-o", "/dev/null", "true"]).status !== 0 &&
  "strace is not installed, or may not trace";

// -------------------------------------------------------------------------- programs and processes

/** This runtime, with what it needs to start a program that may do everything. */
const here = isDeno ? [process.execPath, "run", "--allow-all"] : [process.execPath];

/** Deno and Bun. */
export const bothRuntimes = (): string[][] =>
  isDeno ? [here, [otherRuntime()]] : [[otherRuntime(), "run", "-A"], here];

export interface Ending {
  code: number | null;
  signal: string | null;
  output: string;
}

interface Program {
  pid: number;
  kill(signal: string): void;
  ended: Promise<Ending>;
}

/** Starts a program; if it has not ended after a minute, it hangs. */
function start(
  [program, ...args]: string[],
  { env = {}, deadline = 60, cwd = base }: {
    env?: Record<string, string>;
    deadline?: number;
    cwd?: string;
  } = {},
): Program {
  const child = spawn(program, args, {
    cwd,
    env: { ...process.env, NO_COLOR: "1", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (data) => output = (output + data).slice(-100_000));
  }
  const ended = new Promise<Ending>((resolve, reject) => {
    const timer = setTimeout(() => {
      killAll([child.pid!]);
      reject(new Error(`\`${args.join(" ")}\` hangs; it has printed: ${output.slice(-5000)}`));
    }, deadline * 1000);
    child.on("error", reject);
    child.on("exit", (code, signal) => {
      clearTimeout(timer);
      const end = () => resolve({ code, signal, output });
      child.on("close", end); // what it printed last comes later
      setTimeout(end, signal ? 5 : 2000); // but what it has left may hold its output open
    });
  });
  ended.catch(() => {}); // whoever awaits it gets the error
  const kill = (signal: string) => { // not `child.kill`, with which Deno takes this for what ended it
    if (child.exitCode === null && child.signalCode === null) signalAll([child.pid!], signal);
  };
  return { pid: child.pid!, kill, ended };
}

export interface HostOptions extends RunOptions {
  ids?: string[];
  log?: string;
  logFile?: string;
  handler?: "exit" | "stay";
  linger?: number;
  /** What it repeats in its report. */
  tag?: string;
}

/** What a host has seen, as it happened. */
export interface Event {
  scheduled?: string;
  refused?: string;
  id?: string;
  state?: State;
  value?: unknown;
  error?: string;
  name?: string;
  attempts?: number;
  handler?: string;
  ended?: true;
  failed?: string;
}

export interface Host extends Program {
  /** The events so far. */
  seen(): Event[];
  /** The events until its end, which it must reach without an error of its own. */
  finished(): Promise<Event[]>;
}

let files = 0;

/** The name of a file that is not there yet. */
export function newFile(name: string): string {
  return path.join(base, `${name}-${files++}`);
}

/** Starts a program that uses a list: see `host.ts`. `before` are the words before its command. */
export function startHost(
  action: "schedule" | "run",
  directory: string,
  options: HostOptions = {},
  { before = [], runtime = here, env = {}, deadline = 60, cwd }: {
    before?: string[];
    runtime?: string[];
    env?: Record<string, string>;
    deadline?: number;
    cwd?: string;
  } = {},
): Host {
  const report = newFile("report");
  const words = [...before, ...runtime, host, action, directory];
  const program = start([...words, JSON.stringify({ report, ...options })], { env, deadline, cwd });
  const seen = () => linesOf(report).map((line) => JSON.parse(line));
  const finished = async () => {
    const { code, signal, output } = await program.ended;
    assert.equal(
      signal ?? code,
      0,
      `${action} ended badly; it has printed: ${output}\nand reported: ${
        linesOf(report).slice(-5)
      }`,
    );
    return seen();
  };
  return { ...program, seen, finished };
}

/** The whole lines of a file, which may not be there yet. */
export function linesOf(file: string): string[] {
  return fs.existsSync(file) ? fs.readFileSync(file, "utf8").split("\n").slice(0, -1) : [];
}

/** Runs what a list holds to its end, in this process, and with a kept runner, as that is faster. */
export async function runList(directory: string, options: RunOptions = {}): Promise<Event[]> {
  const quick = { processes: 1, tasksPerProcess: 1000, maxCrashes: 1000, ...options };
  const tasks = new TaskList(directory, { existOk: true, preClean: false });
  return await Array.fromAsync(tasks.run({ ...quick, onOutput: () => {} }), eventOf);
}

let marks = 0;
export const newMark = () => `${base}/mark-${marks++}`;

/** The processes of a program that was started with this mark in its environment. */
export function survivors(mark: string): number[] {
  return processesWith(`FORREST_MARK=${mark}`);
}

/** The processes that have a variable in their environment, except for this one. */
function processesWith(variable: string): number[] {
  if (noProc) return [];
  return fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
    try {
      return pid !== process.pid &&
        fs.readFileSync(`/proc/${pid}/environ`, "latin1").split("\0").includes(variable);
    } catch {
      return false; // it has ended
    }
  });
}

function signalAll(pids: number[], signal: string): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch { /* it has ended */ }
  }
}

export const killAll = (pids: number[]) => signalAll(pids, "SIGKILL");

/** Waits until `holds`, for some seconds. */
export async function until(holds: () => boolean, what: string, seconds = 20): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !holds(); await pause(20)) {
    if (Date.now() > end) assert.fail(`not within ${seconds} s: ${what}`);
  }
}

export function commandOf(pid: number): string {
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").slice(0, 200);
  } catch {
    return ""; // it has ended
  }
}

export async function allGone(mark: string, seconds = 20): Promise<void> {
  for (const end = Date.now() + seconds * 1000; survivors(mark).length; await pause(50)) {
    if (Date.now() < end) continue;
    const left = survivors(mark);
    const commands = left.map(commandOf);
    killAll(left);
    assert.fail(`still running after ${seconds} s: ${commands.join("\n")}`);
  }
}

export const pause = (milliseconds: number) =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Calls `work` on all items, two at a time. */
export async function inPairs<T>(
  items: Iterable<T>,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const waiting = [...items];
  const worker = async () => {
    while (waiting.length) await work(waiting.shift()!);
  };
  await Promise.all([worker(), worker()]);
}

/** Numbers from 0 to 1 that a seed determines (mulberry32). */
export function randomNumbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const stubborn = { asleep: "sleep", busy: "loop", parent: "haveChildren" };

/** A list of tasks that do not end, and a run of it in which all of them have started. */
export async function startStubborn(
  options: HostOptions,
  mark: string,
  calls: Record<string, string> = stubborn,
): Promise<[string, Host]> {
  const notes = newFile("notes");
  const named = Object.entries(calls).map(([id, name]) => [id, [name, notes, id] as Call]);
  const directory = await newList(Object.fromEntries(named));
  const host = startHost("run", directory, { processes: named.length, ...options }, {
    env: { FORREST_MARK: mark },
  });
  await until(() => linesOf(notes).length === named.length, "all tasks have started");
  return [directory, host];
}

// -------------------------------------------------------------------------------- lists and states

export const states: readonly State[] = ["todo", "running", "done", "fail"];
let lists = 0;

export function newDirectory(): string {
  return path.join(base, `list-${lists++}`);
}

export type Call = string | [name: string, ...args: unknown[]];

/** A list with a task for each id: the name of a function in `tasks.ts`, and its arguments. */
export async function newList(
  calls: Record<string, Call>,
  directory = newDirectory(),
): Promise<string> {
  const tasks = new TaskList(directory);
  for (const [id, call] of Object.entries(calls)) {
    const [name, ...args] = [call].flat() as [string, ...unknown[]];
    await tasks.schedule(defer(new URL(`tasks.ts#${name}`, fixtures), ...args), { id });
  }
  return directory;
}

/** The names in a folder of a list, in order. */
export function namesIn(directory: string, state: State): string[] {
  return fs.readdirSync(path.join(directory, state)).sort();
}

export function idsIn(directory: string, state: Exclude<State, "running">): string[] {
  return namesIn(directory, state).filter((name) => name.endsWith(".json"))
    .map((name) => name.slice(0, -5));
}

export function stored(directory: string, state: State, id: string): Record<string, unknown> {
  return JSON.parse(fs.readFileSync(path.join(directory, state, `${id}.json`), "utf8"));
}

// The legal states of a list at rest, when nothing works on it:
//
//   todo/ID.json            a task without a `returnValue`; it has an `errorValue` only after an attempt
//   done/ID.json            a task with a `returnValue` and without an `errorValue`
//   fail/ID.json            a task with an `errorValue` and without a `returnValue`,
//   fail/ID.json.original   and beside it, if that was no task, what had lain in `todo`
//
// `running` is empty, and no id is in two folders. While something works on the list, or after that was
// killed, there may also be in `running`, of each owner and with no other combination:
//
//   ID.json@OWNER+                    a task or an outcome being written, of which nobody has been told
//   ID.json@OWNER                     a claim: the id is in no other folder
//   ID.json@OWNER, ID.json@OWNER+     a claim and its outcome: as before
//   ID.json@OWNER~STATE, …+           an outcome that is to be published: the id is in no other folder
//   ID.json@OWNER~STATE               an outcome that was published: the id is in STATE, or went on from there

/** Says what is illegal in a list: nothing, if all is well. */
export function illegalities(
  directory: string,
  when: "at rest" | "after a crash" = "at rest",
): string[] {
  const wrong: string[] = [];
  const places = new Map<string, string[]>();
  const put = (id: string, place: string) => places.set(id, [...places.get(id) ?? [], place]);
  for (const name of fs.readdirSync(directory)) {
    if (![...states, "log.txt"].includes(name)) wrong.push(`${name} is none of the four folders`);
  }
  for (const state of ["todo", "done", "fail"] as const) {
    for (const name of namesIn(directory, state)) {
      const [, id, original] = /^([^.].*?)\.json(\.original)?$/s.exec(name) ?? [];
      if (!id || (original && state !== "fail")) wrong.push(`${state}/${name} has no such name`);
      else if (!original) {
        put(id, state);
        wrong.push(...contradictions(directory, state, id));
      } else if (!namesIn(directory, "fail").includes(`${id}.json`)) {
        wrong.push(`${state}/${name} has no task beside it`);
      }
    }
  }
  const claims = new Map<string, string[]>();
  for (const name of namesIn(directory, "running")) {
    const [, id, owner, suffix] = /^(.*)\.json@([^@+~]*)(\+|~\w+)?$/s.exec(name) ?? [];
    if (!id || when === "at rest") wrong.push(`running/${name} does not belong there`);
    const claim = `${id}.json@${owner}`;
    claims.set(claim, [...claims.get(claim) ?? [], suffix ?? ""]);
  }
  for (const [claim, suffixes] of claims) {
    const id = claim.slice(0, claim.lastIndexOf(".json@"));
    const kind = suffixes.sort().join(" ");
    if (!/^(\+|\+?|(\+ )?~(todo|done|fail))$|^ \+$/.test(kind)) {
      wrong.push(`running/${claim} is there as "${kind}"`);
    }
    if (suffixes.includes("") || suffixes.length === 2) put(id, `running/${claim}${suffixes}`);
    else if (kind.startsWith("~") && !places.has(id) && when === "after a crash") {
      const held = [...claims].some(([other, suffixes]) =>
        other !== claim && other.startsWith(`${id}.json@`) && suffixes.join() !== "+"
      );
      if (!held) wrong.push(`running/${claim}${kind} is published nowhere`);
    }
  }
  for (const [id, where] of places) {
    if (where.length > 1) wrong.push(`${id} is in ${where.join(" and in ")}`);
  }
  return wrong;
}

/** Says what in a task file does not fit its folder. */
function contradictions(directory: string, state: "todo" | "done" | "fail", id: string): string[] {
  const place = `${state}/${id}.json`;
  let task: Record<string, unknown>;
  try {
    task = stored(directory, state, id);
  } catch (error) {
    return [`${place} cannot be read: ${error}`];
  }
  const [hasValue, hasError] = ["returnValue" in task, "errorValue" in task];
  const wrong: string[] = [];
  const original = fs.existsSync(path.join(directory, state, `${id}.json.original`));
  if (!Array.isArray(task.steps) && state !== "fail") wrong.push(`${place} has no steps`);
  if (!("steps" in task) && original !== !("steps" in task) && state === "done") {
    wrong.push(`${place} has lost what it was`);
  }
  if (hasValue !== (state === "done")) {
    wrong.push(`${place} has ${hasValue ? "a" : "no"} returnValue`);
  }
  if (state !== "todo" && hasError !== (state === "fail")) {
    wrong.push(`${place} has ${hasError ? "an" : "no"} errorValue`);
  }
  if (state === "todo" && hasError && !task.attempts) {
    wrong.push(`${place} has an error without an attempt`);
  }
  return wrong;
}

export function assertLegal(
  directory: string,
  when?: "at rest" | "after a crash",
  context = "",
): void {
  assert.deepEqual(illegalities(directory, when), [], context);
}

/** Asserts that a list at rest holds exactly these tasks in `done`, and nothing else. */
export function assertAllDone(directory: string, ids: string[], context = ""): void {
  assertLegal(directory, "at rest", context);
  assert.deepEqual(idsIn(directory, "done"), [...ids].sort(), context);
  assert.deepEqual([...idsIn(directory, "todo"), ...idsIn(directory, "fail")], [], context);
}

/** Every task that was acknowledged has one outcome, the one that was yielded if any was. */
export function assertKept(directory: string, seen: Event[], context: string): void {
  assertLegal(directory, "at rest", context);
  assert.deepEqual(idsIn(directory, "todo"), [], context);
  const [done, fail] = [idsIn(directory, "done"), idsIn(directory, "fail")];
  for (const { scheduled, id, state, value, error } of seen) {
    if (scheduled) assert.ok(done.includes(scheduled), `${scheduled} is lost, ${context}`);
    if (!id) continue;
    assert.ok((state === "done" ? done : fail).includes(id), `${id} is not ${state}, ${context}`);
    if (state !== "done") continue;
    if (error) assert.match(error, /^Cannot read the task `.*done/, context); // which is there
    else assert.equal(stored(directory, state, id).returnValue, value, context);
  }
}

export const log = path.join(base, "log");
let dead: Promise<string> | undefined;

/** The owner of a claim whose run was killed. */
export function deadOwner(): Promise<string> {
  const find = async () => {
    const directory = await newList({ a: ["sleep", log, "a"] });
    const host = startHost("run", directory);
    await until(() => namesIn(directory, "running").length > 0, "a claim");
    host.kill("SIGKILL");
    await host.ended;
    const [claim] = namesIn(directory, "running");
    return claim.slice(claim.indexOf("@") + 1);
  };
  return dead ??= find();
}

export const steps = (...steps: unknown[]) => JSON.stringify({ steps });

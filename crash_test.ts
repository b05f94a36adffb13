// Kills, cuts off and misleads real runs, and looks at what they leave behind.
//
// FORREST_CRASH_SECONDS says how long to kill at random, FORREST_CRASH_SEED repeats such a loop, and
// FORREST_CRASH_ALL takes every system call and every error in place of a selection of them.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { defer, type RunOptions, type State, TaskList } from "./mod.ts";

const fixtures = new URL("testdata/crash/", import.meta.url);
const host = fileURLToPath(new URL("host.ts", fixtures));
const seconds = Number(process.env.FORREST_CRASH_SECONDS ?? 20);
const seed = Number(process.env.FORREST_CRASH_SEED ?? Date.now() % 1_000_000);
const all = !!process.env.FORREST_CRASH_ALL;
const isDeno = "Deno" in globalThis;
const base = fs.mkdtempSync(path.join(os.tmpdir(), "forrest-crash-"));

function cleanUp(): void {
  killAll(processesWith(`FORREST_CRASH=${base}`));
  fs.rmSync(base, { recursive: true, force: true });
}
after(cleanUp);
// which is not called if only some of the tests are run
if (isDeno) globalThis.addEventListener("unload", cleanUp);
else process.once("exit", cleanUp);

/** Declares a test with time enough for a busy machine; `missing` says why it cannot run on this one. */
function check(name: string, missing: string | false, behaves: () => Promise<void>): void {
  if (missing) test(`${name} (skipped: ${missing})`, { skip: missing }, () => {});
  else test(name, { timeout: 600_000 }, behaves);
}

const noProc = !fs.existsSync("/proc/self/environ") && "there is no /proc to find processes in";
const noStrace = spawnSync("strace", ["-o", "/dev/null", "true"]).status !== 0 &&
  "strace is not installed, or may not trace";

// ------------------------------------------------------------------------- programs and processes

/** This runtime, with what it needs to start a program that may do everything. */
const here = isDeno ? [process.execPath, "run", "--allow-all"] : [process.execPath];

let runtimes: string[][] | undefined;

/** Deno and Bun: this runtime, and the other as the environment names it or as npm has it. */
function bothRuntimes(): string[][] {
  const find = (name: string, version: string, print: string[]) => {
    const words = ["--yes", `${name}@${version}`, ...print];
    const program = process.env[`FORREST_${name.toUpperCase()}`] ??
      spawnSync("npx", words, { encoding: "utf8" }).stdout?.trim();
    if (!program) assert.fail(`no ${name}: \`npx ${words.join(" ")}\` has not said where it is`);
    return program;
  };
  return runtimes ??= isDeno
    ? [here, [find("bun", "1.4.5", ["-e", "console.log(process.execPath)"])]]
    : [[find("deno", "2.9.6", ["eval", "console.log(Deno.execPath())"]), "run", "-A"], here];
}

interface Ending {
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
    env: { ...process.env, NO_COLOR: "1", FORREST_CRASH: base, ...env },
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
      setTimeout(() => resolve({ code, signal, output }), 5); // what it printed last comes later
    });
  });
  ended.catch(() => {}); // whoever awaits it gets the error
  const kill = (signal: string) => { // not `child.kill`, with which Deno takes this for what ended it
    if (child.exitCode === null && child.signalCode === null) signalAll([child.pid!], signal);
  };
  return { pid: child.pid!, kill, ended };
}

interface HostOptions extends RunOptions {
  ids?: string[];
  log?: string;
  logFile?: string;
  handler?: "exit" | "stay";
  linger?: number;
  /** What it repeats in its report. */
  tag?: string;
}

/** What a host has seen, as it happened. */
interface Event {
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

interface Host extends Program {
  /** The events so far. */
  seen(): Event[];
  /** The events until its end, which it must reach without an error of its own. */
  finished(): Promise<Event[]>;
}

let reports = 0;

/** Starts a program that uses a list: see `host.ts`. `before` are the words before its command. */
function startHost(
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
  const report = path.join(base, `report-${reports++}`);
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
function linesOf(file: string): string[] {
  return fs.existsSync(file) ? fs.readFileSync(file, "utf8").split("\n").slice(0, -1) : [];
}

/** Runs what a list holds to its end, in kept runners, as these start faster. */
function runList(directory: string, options: HostOptions = {}): Promise<Event[]> {
  const quick = { processes: 1, tasksPerProcess: 1000, maxCrashes: 1000, ...options };
  return startHost("run", directory, quick).finished();
}

let marks = 0;
const newMark = () => `${base}/mark-${marks++}`;

/** The processes of a program that was started with this mark in its environment. */
function survivors(mark: string): number[] {
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

const killAll = (pids: number[]) => signalAll(pids, "SIGKILL");

/** Waits until `holds`, for some seconds. */
async function until(holds: () => boolean, what: string, seconds = 20): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !holds(); await pause(20)) {
    if (Date.now() > end) assert.fail(`not within ${seconds} s: ${what}`);
  }
}

function commandOf(pid: number): string {
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").slice(0, 200);
  } catch {
    return ""; // it has ended
  }
}

async function allGone(mark: string, seconds = 8): Promise<void> {
  for (const end = Date.now() + seconds * 1000; survivors(mark).length; await pause(50)) {
    if (Date.now() < end) continue;
    const left = survivors(mark);
    const commands = left.map(commandOf);
    killAll(left);
    assert.fail(`still running after ${seconds} s: ${commands.join("\n")}`);
  }
}

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Calls `work` on all items, two at a time. */
async function inPairs<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
  const waiting = [...items];
  const worker = async () => {
    while (waiting.length) await work(waiting.shift()!);
  };
  await Promise.all([worker(), worker()]);
}

/** Numbers from 0 to 1 that a seed determines (mulberry32). */
function randomNumbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// ------------------------------------------------------------------------------- lists and states

const states: readonly State[] = ["todo", "running", "done", "fail"];
let lists = 0;

function newDirectory(): string {
  return path.join(base, `list-${lists++}`);
}

type Call = string | [name: string, ...args: unknown[]];

/** A list with a task for each id: the name of a function in `tasks.ts`, and its arguments. */
async function newList(calls: Record<string, Call>, directory = newDirectory()): Promise<string> {
  const tasks = new TaskList(directory);
  for (const [id, call] of Object.entries(calls)) {
    const [name, ...args] = [call].flat() as [string, ...unknown[]];
    await tasks.schedule(defer(new URL(`tasks.ts#${name}`, fixtures), ...args), { id });
  }
  return directory;
}

/** The names in a folder of a list, in order. */
function namesIn(directory: string, state: State): string[] {
  return fs.readdirSync(path.join(directory, state)).sort();
}

function idsIn(directory: string, state: Exclude<State, "running">): string[] {
  return namesIn(directory, state).filter((name) => name.endsWith(".json"))
    .map((name) => name.slice(0, -5));
}

function stored(directory: string, state: State, id: string): Record<string, unknown> {
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
function illegalities(directory: string, when: "at rest" | "after a crash" = "at rest"): string[] {
  const wrong: string[] = [];
  const places = new Map<string, string[]>();
  const put = (id: string, place: string) => places.set(id, [...places.get(id) ?? [], place]);
  for (const name of fs.readdirSync(directory)) {
    if (!states.includes(name as State)) wrong.push(`${name} is none of the four folders`);
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
    if (!/^(\+|\+?|(\+ )?~(todo|done|fail|again|keep))$|^ \+$/.test(kind)) {
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

function assertLegal(directory: string, when?: "at rest" | "after a crash", context = ""): void {
  assert.deepEqual(illegalities(directory, when), [], context);
}

/** Asserts that a list at rest holds exactly these tasks in `done`, and nothing else. */
function assertAllDone(directory: string, ids: string[], context = ""): void {
  assertLegal(directory, "at rest", context);
  assert.deepEqual(idsIn(directory, "done"), [...ids].sort(), context);
  assert.deepEqual([...idsIn(directory, "todo"), ...idsIn(directory, "fail")], [], context);
}

test("the checker accepts the legal states, and nothing else", () => {
  const todo = `{"steps":[{"value":1}]}`;
  const done = `{"steps":[{"value":1}],"attempts":1,"returnValue":1}`;
  const fail = `{"steps":[{"value":1}],"attempts":1,"errorValue":"x"}`;
  const verdict = (files: Record<string, string>, when?: "after a crash") => {
    const directory = newDirectory();
    for (const state of states) fs.mkdirSync(path.join(directory, state), { recursive: true });
    for (const [name, text] of Object.entries(files)) {
      fs.writeFileSync(path.join(directory, name), text);
    }
    return illegalities(directory, when).length ? "illegal" : "legal";
  };
  const legal = { "todo/a.json": todo, "done/b.json": done, "fail/c.json": fail };
  assert.equal(verdict({}), "legal");
  assert.equal(verdict(legal), "legal");
  assert.equal(verdict({ "fail/a.json": fail, "fail/a.json.original": "?" }), "legal");
  const illegal: Record<string, string>[] = [
    { "todo/b.json": todo },
    { "fail/b.json": fail },
    { "running/x.json@h.1.1.1": todo },
    { "running/x.json@h.1.1.1+": "" },
    { "todo/x.json": done },
    { "done/x.json": todo },
    { "done/x.json": fail },
    { "fail/x.json": done },
    { "todo/x.json": "{" },
    { "todo/x.json": `{"steps":[],"errorValue":1}` },
    { "done/x.json": `{"returnValue":1}` },
    { "done/x.json.original": "" },
    { "fail/x.json.original": "" },
    { "todo/x": todo },
    { "x.json": todo },
  ];
  for (const files of illegal) {
    assert.equal(verdict({ ...legal, ...files }), "illegal", JSON.stringify(files));
  }
  const crashed: [string, Record<string, string>][] = [
    ["legal", { "running/x.json@h.1.1.1": todo }],
    ["legal", { "running/x.json@h.1.1.1": todo, "running/x.json@h.1.1.1+": "{" }],
    ["legal", { "running/x.json@h.1.1.1+": "" }],
    ["legal", { "running/x.json@h.1.1.1~done": todo, "running/x.json@h.1.1.1+": done }],
    ["legal", { "running/b.json@h.1.1.1~done": todo }],
    ["illegal", { "running/x.json@h.1.1.1~done": todo }],
    ["illegal", { "running/a.json@h.1.1.1": todo }],
    ["illegal", { "running/b.json@h.1.1.1~done": todo, "running/b.json@h.1.1.1+": done }],
    ["illegal", { "running/x.json@h.1.1.1": todo, "running/x.json@h.2.2.2": todo }],
    ["illegal", { "running/x.json@h.1.1.1": todo, "running/x.json@h.1.1.1~done": todo }],
    ["illegal", { "running/x.json@h.1.1.1~gone": todo, "running/x.json@h.1.1.1+": done }],
    ["illegal", { "running/x": todo }],
  ];
  for (const [wanted, files] of crashed) {
    assert.equal(verdict({ ...legal, ...files }, "after a crash"), wanted, JSON.stringify(files));
  }
});

// ------------------------------------------------------------------------- at every system call

/** The calls that change a list, or tell another process of it. */
const calls = "openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,link," +
  "linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,utimensat,ftruncate";
type Point = [call: string, nth: number];

/** Which system calls in a trace concern the list, by name and number; with what it tells to others in `pipes`. */
function pointsIn(trace: string, directory: string, pipes: boolean): Point[] {
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
interface Stage {
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
function startTraced(stage: Stage, directory: string, words: string[]): Host {
  // its asynchronous calls are made in threads
  const follow = stage.action === "schedule" || !!stage.threads;
  const about = stage.folder ? ["-P", path.join(directory, stage.folder)] : [];
  if (!stage.runners) {
    const before = [...strace(follow), ...about, ...words];
    return startHost(stage.action, directory, stage.options, { before });
  }
  const script = path.join(base, `runner-${reports++}`);
  const command = [...strace(false), "-D", ...words, process.execPath].map((word) => `'${word}'`);
  fs.writeFileSync(script, `#!/bin/sh\nexec ${command.join(" ")} "$@"\n`);
  fs.chmodSync(script, 0o755);
  const env = { FORREST_CRASH_RUNNER: script };
  return startHost(stage.action, directory, stage.options, { env });
}

async function pointsOf(stage: Stage, pipes: boolean): Promise<Point[]> {
  const trace = path.join(base, `trace-${reports++}`);
  const directory = await stage.prepare();
  await startTraced(stage, directory, ["-o", trace, "-e", `trace=${calls}`]).finished();
  const points = pointsIn(trace, directory, pipes);
  fs.rmSync(directory, { recursive: true });
  assert.ok(points.length > 5, `the trace shows ${points.length} calls only`);
  return points;
}

/** Runs a stage with a fault at one of its calls, then runs the list again; says whether it met the fault. */
async function withFault(stage: Stage, [call, nth]: Point, fault: string): Promise<boolean> {
  const directory = await stage.prepare();
  const context = `${fault} at ${call} ${nth} in ${directory}`;
  const trace = path.join(base, `trace-${reports++}`);
  const inject = ["-e", `trace=${call}`, "-e", `inject=${call}:${fault}:when=${nth}`];
  const host = startTraced(stage, directory, ["-A", "-o", trace, ...inject]);
  await host.ended;
  const seen = host.seen();
  for (const event of fault.startsWith("error") ? seen : []) {
    const message = event.refused ? event.error : event.failed;
    if (message === undefined) continue;
    assert.match(message, /os error|E(IO|NOSPC|ACCES)|denied|space|I\/O|i\/o/, context);
  }
  if (fault.startsWith("error") && !seen.some(({ failed }) => failed)) {
    const answered = seen.map(({ scheduled, refused }) => scheduled ?? refused);
    for (const id of stage.options.ids ?? []) assert.ok(answered.includes(id), context);
  }
  if (fs.existsSync(path.join(directory, "fail"))) {
    assertLegal(directory, "after a crash", context);
  }
  const again = await runList(directory);
  stage.verify(directory, [...seen, ...again], context);
  fs.rmSync(directory, { recursive: true });
  return /killed by SIGKILL|INJECTED/.test(fs.readFileSync(trace, "utf8"));
}

async function killAtEveryStep(stage: Stage): Promise<void> {
  const points = await pointsOf(stage, true);
  await withFaults(stage, points.map((point) => [point, "signal=KILL"]));
}

async function failAtEveryStep(stage: Stage): Promise<void> {
  const errors = ["EIO", "ENOSPC", "EACCES"];
  const points = await pointsOf(stage, false);
  const chosen = (index: number) => all ? errors : [errors[index % 3]];
  const faults = (point: Point, index: number) =>
    chosen(index).map((error) => [point, `error=${error}`] as [Point, string]);
  await withFaults(stage, points.flatMap(faults));
}

async function withFaults(stage: Stage, faults: [Point, string][]): Promise<void> {
  let met = 0;
  await inPairs(faults, async ([point, fault]) => {
    if (await withFault(stage, point, fault)) met++;
  });
  const enough = faults.length * 0.7; // which call is the Nth varies a little from start to start
  assert.ok(met >= enough, `only ${met} of ${faults.length} faults were met`);
}

/** Every task that was acknowledged has one outcome, the one that was yielded if any was. */
function assertKept(directory: string, seen: Event[], context: string): void {
  assertLegal(directory, "at rest", context);
  assert.deepEqual(idsIn(directory, "todo"), [], context);
  const [done, fail] = [idsIn(directory, "done"), idsIn(directory, "fail")];
  for (const { scheduled, id, state, value } of seen) {
    if (scheduled) assert.ok(done.includes(scheduled), `${scheduled} is lost, ${context}`);
    if (!id) continue;
    assert.ok((state === "done" ? done : fail).includes(id), `${id} is not ${state}, ${context}`);
    if (state === "done") assert.equal(stored(directory, state, id).returnValue, value, context);
  }
}

const log = path.join(base, "log");
const scheduling: Stage = {
  action: "schedule",
  options: { ids: ["a", "b", "c"], log },
  prepare: () => Promise.resolve(newDirectory()),
  verify: assertKept,
};
const running: Stage = {
  action: "run",
  options: { processes: 1 },
  prepare: () => newList({ a: ["note", log, "a"], b: ["note", log, "b"] }),
  verify(directory, seen, context) {
    assertKept(directory, seen, context);
    assertAllDone(directory, ["a", "b"], context);
  },
};
const syncing: Stage = { ...running, threads: true };
const retrying: Stage = {
  ...running,
  options: { processes: 1, retries: 1 },
  prepare: () => newList({ a: ["refuse", log, "a"] }),
  verify(directory, _seen, context) {
    assertLegal(directory, "at rest", context);
    assert.deepEqual(idsIn(directory, "fail"), ["a"], context);
  },
};
const publishing: Stage = {
  ...running,
  runners: true,
  prepare: () => newList({ a: ["noteMuch", log, "a"], b: ["noteMuch", log, "b"] }),
  verify(directory, seen, context) {
    assertKept(directory, seen, context);
    assert.deepEqual([...idsIn(directory, "done"), ...idsIn(directory, "fail")].sort(), ["a", "b"]);
  },
};
const retryingAlone: Stage = {
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
const publishingMany: Stage = {
  ...publishing,
  options: { processes: 1, tasksPerProcess: 10 },
  prepare: running.prepare,
};
const publishingTogether: Stage = { ...publishingMany, options: { processes: 1, concurrency: 2 } };

let dead: Promise<string> | undefined;

/** The owner of a claim whose run was killed. */
function deadOwner(): Promise<string> {
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

/** A list with everything that a run may leave when it is killed. */
async function leftovers(): Promise<string> {
  const owner = await deadOwner();
  const ids = [
    "claimed",
    "written",
    "torn",
    "sealed",
    "published",
    "failed",
    "kept",
    "again",
    "back",
  ];
  const directory = await newList(Object.fromEntries(ids.map((id) => [id, ["note", log, id]])));
  const at = (id: string, suffix: string) => `${directory}/running/${id}.json@${owner}${suffix}`;
  for (const id of ids) fs.renameSync(`${directory}/todo/${id}.json`, at(id, ""));
  const task = { steps: [{ value: "from before" }], attempts: 1 };
  const outcome = (id: string, outcome: object, place = at(id, "+")) =>
    fs.writeFileSync(place, JSON.stringify({ ...task, ...outcome }));
  const seal = (id: string, state: string) => fs.renameSync(at(id, ""), at(id, `~${state}`));
  fs.writeFileSync(at("written", "+"), `{"steps":[{"val`);
  fs.writeFileSync(at("unscheduled", "+"), `{"steps":[{"val`);
  fs.writeFileSync(at("torn", "+"), `{"steps":[{"val`); // by a power failure
  seal("torn", "done");
  outcome("sealed", { returnValue: "from before" });
  seal("sealed", "done");
  outcome("published", { returnValue: "from before" }, `${directory}/done/published.json`);
  seal("published", "done");
  outcome("failed", { errorValue: "from before" });
  seal("failed", "fail");
  outcome("kept", { errorValue: "from before" });
  seal("kept", "keep");
  outcome("again", { errorValue: "from before" });
  seal("again", "todo");
  outcome("back", {}, `${directory}/todo/back.json`);
  seal("back", "todo");
  assertLegal(directory, "after a crash");
  return directory;
}

const recovering: Stage = {
  action: "run",
  options: { processes: 1, tasksPerProcess: 10, maxCrashes: 1000 },
  prepare: leftovers,
  verify(directory, seen, context) {
    assertKept(directory, seen, context);
    const done = ["again", "back", "claimed", "published", "sealed", "torn", "written"];
    assert.deepEqual(idsIn(directory, "done"), done, context);
    assert.deepEqual(idsIn(directory, "fail"), ["failed", "kept"], context);
    for (const id of ["sealed", "published"]) {
      assert.equal(stored(directory, "done", id).returnValue, "from before", context);
    }
    for (const id of ["failed", "kept"]) {
      assert.equal(stored(directory, "fail", id).errorValue, "from before", context);
    }
  },
};

const stages: [string, Stage][] = [
  ["schedules", scheduling],
  ["claims tasks and runs them", running],
  ["tries a task again", retrying],
  ["recovers what a dead run has left", recovering],
];
for (const [does, stage] of stages) {
  check(
    `a program killed at any system call while it ${does} loses nothing`,
    noStrace,
    () => killAtEveryStep(stage),
  );
  check(
    `a program that meets a disk error while it ${does} says so and loses nothing`,
    noStrace,
    () => failAtEveryStep(stage),
  );
}
check(
  "a program killed, or met by a disk error, while it brings outcomes to disk loses nothing",
  noStrace,
  async () => {
    for (const folder of [undefined, "done"]) {
      for (const fault of ["signal=KILL", "error=EIO", "error=ENOSPC"]) {
        const stage = { ...syncing, folder };
        assert.ok(await withFault(stage, ["fsync", 1], fault), `${folder}, ${fault}`);
      }
    }
  },
);
const runnerStages: [string, Stage][] = [
  ["a runner", publishing],
  ["a kept runner", publishingMany],
  ["a runner of several tasks", publishingTogether],
  ["the runner of a task that is tried again", retryingAlone],
];
for (const [name, stage] of runnerStages) {
  check(
    `${name} killed at any system call leaves one outcome of each task`,
    noStrace,
    () => killAtEveryStep(stage),
  );
  check(
    `${name} that meets a disk error leaves one outcome of each task`,
    noStrace,
    () => failAtEveryStep(stage),
  );
}

/** The names of files in the order in which they were written, synced, renamed and removed. */
function changesIn(trace: string, directory: string): string[] {
  const changes: string[] = [];
  for (const line of linesOf(trace)) {
    const [, call, rest] = /^(?:\d+ +)?(\w+)\((.*)/.exec(line) ?? [];
    if (!call || !rest.includes(directory)) continue;
    if (call === "openat" && !/O_CREAT|O_WRONLY|O_RDWR/.test(rest)) continue;
    const names = rest.slice(0, rest.lastIndexOf(")")).split(directory).slice(1);
    const ends = names.map((name) => name.replace(/[\\"<>,)].*/, "").replace(/@[^+~]*/, "@"));
    if (call !== "mkdir") changes.push(`${call.replace(/at2?$/, "")} ${ends.join(" ")}`.trim());
  }
  return changes;
}

check(
  "a task and its outcome are on disk before anybody is told, or anything is removed",
  noStrace,
  async () => {
    const trace = path.join(base, `trace-${reports++}`);
    const words = ["-o", trace, "-e", `trace=${calls}`];
    const directory = newDirectory();
    const stage = { ...scheduling, options: { ids: ["a"], log, tag: directory } };
    await startTraced(stage, directory, words).finished();
    assert.deepEqual(changesIn(trace, directory), [
      "open /running/a.json@+",
      "write /running/a.json@+",
      "fsync /running/a.json@+",
      "link /running/a.json@+ /todo/a.json",
      "unlink /running/a.json@+",
      "fsync /todo",
      "write", // the acknowledgement
    ]);
    const filing = [
      "open /running/a.json@+",
      "write /running/a.json@+",
      "rename /running/a.json@ /running/a.json@~done",
      "fsync /running/a.json@+",
      "rename /running/a.json@+ /done/a.json",
      "fsync /done",
      "unlink /running/a.json@~done",
    ];
    const told = "write /running/a.json@"; // by a pipe
    fs.rmSync(trace);
    await startTraced(syncing, directory, words).finished();
    const claim = "rename /todo/a.json /running/a.json@";
    const changes = changesIn(trace, directory).filter((change) => change !== told);
    assert.deepEqual(changes, [claim, ...filing]);
    fs.rmSync(trace);
    const other = await newList({ a: ["noteMuch", log, "a"] });
    await startTraced(publishing, other, words).finished();
    assert.deepEqual(changesIn(trace, other), [...filing, told]);
  },
);

// ------------------------------------------------------------------------ nothing is left running

const stubborn = { asleep: "sleep", busy: "loop", parent: "haveChildren" };

/** A list of tasks that do not end, and a run of it in which all of them have started. */
async function startStubborn(
  options: HostOptions,
  mark: string,
  calls: Record<string, string> = stubborn,
): Promise<[string, Host]> {
  const notes = path.join(base, `notes-${reports++}`);
  const named = Object.entries(calls).map(([id, name]) => [id, [name, notes, id] as Call]);
  const directory = await newList(Object.fromEntries(named));
  const host = startHost("run", directory, { processes: named.length, ...options }, {
    env: { FORREST_MARK: mark },
  });
  await until(() => linesOf(notes).length === named.length, "all tasks have started");
  return [directory, host];
}

for (const kept of [false, true]) {
  const how = kept ? "kept runners" : "fresh runners";
  check(`a run that is killed leaves no process of its tasks (${how})`, noProc, async () => {
    const mark = newMark();
    const [directory, host] = await startStubborn({ tasksPerProcess: kept ? 10 : 1 }, mark);
    assert.ok(survivors(mark).length > 10);
    host.kill("SIGKILL");
    await host.ended;
    await allGone(mark);
    assertLegal(directory, "after a crash");
    assert.equal(namesIn(directory, "running").length, 3);
  });
}

check(
  "what is left of a run is killed by the next one, if its watcher was killed too",
  noProc,
  async () => {
    const mark = newMark();
    const [directory, host] = await startStubborn({}, mark);
    const watchers = survivors(mark).filter((pid) =>
      fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("environ")
    );
    assert.equal(watchers.length, 1);
    killAll(watchers);
    host.kill("SIGKILL");
    await host.ended;
    await pause(500);
    assert.ok(survivors(mark).length > 0);
    const next = startHost("run", directory, { processes: 1, autokill: 0.3 });
    await allGone(mark);
    await next.finished();
    assert.deepEqual(idsIn(directory, "fail"), Object.keys(stubborn).sort());
    assertLegal(directory);
  },
);

check(
  "autokill leaves nothing of a task, nor of children that ignore signals or leave its group",
  noProc,
  async () => {
    const mark = newMark();
    for (const tasksPerProcess of [1, 10]) {
      const [directory, host] = await startStubborn({ autokill: 1.5, tasksPerProcess }, mark);
      const seen = (await host.finished()).filter(({ id }) => id);
      await allGone(mark, 3);
      assert.deepEqual(idsIn(directory, "fail"), Object.keys(stubborn).sort());
      for (const { name, error } of seen) {
        assert.equal(name, "TimeoutError");
        assert.match(error!, /killed after 1\.5 s/);
      }
      assertLegal(directory);
    }
  },
);

check(
  "the neighbours of a task that autokill ends are run again, and are not blamed",
  noProc,
  async () => {
    const notes = path.join(base, "neighbours");
    const ids = ["a", "c", "d", "e", "f", "g", "h", "i", "j"];
    const slow = ids.map((id) => [id, ["slowNote", notes, id, 900]] as [string, Call]);
    const directory = await newList(Object.fromEntries([
      ["b", ["haveChildren", notes, "b"]],
      ...slow,
    ]));
    const options = { processes: 1, concurrency: 4, autokill: 2 };
    const seen = await startHost("run", directory, options).finished();
    assert.deepEqual(idsIn(directory, "done"), ids);
    assert.deepEqual(idsIn(directory, "fail"), ["b"]);
    assert.match(seen.find(({ id }) => id === "b")!.error!, /killed after 2 s/);
    assert.ok(linesOf(notes).length > ids.length + 1); // some were run again
    for (const id of ids) assert.equal(stored(directory, "done", id).attempts, 1);
    assertLegal(directory);
  },
);

check(
  "autokill ends what has left the process group of a task at once, and not with the run",
  noProc,
  async () => {
    const mark = newMark();
    const notes = path.join(base, "at-once");
    const directory = await newList({
      a: ["haveChildren", notes, "a"],
      b: ["slowNote", notes, "b", 900],
      c: ["slowNote", notes, "c", 900],
    });
    const host = startHost("run", directory, { processes: 1, autokill: 1.5 }, {
      env: { FORREST_MARK: mark },
    });
    await until(() => host.seen().some(({ id }) => id === "a"), "the task has failed");
    const isChild = (pid: number) => /sleep 600|while :/.test(commandOf(pid));
    await until(() => !survivors(mark).some(isChild), "its children are gone", 1);
    assert.ok(!host.seen().some(({ id }) => id === "c"));
    await host.finished();
    assert.deepEqual(idsIn(directory, "done"), ["b", "c"]);
  },
);

check("what a task leaves running ends with it", noProc, async () => {
  const mark = newMark();
  for (const tasksPerProcess of [1, 10]) {
    const directory = await newList({ a: "leaveChild", b: "leaveTimer", c: "leaveServer" });
    const host = startHost("run", directory, { processes: 1, tasksPerProcess }, {
      env: { FORREST_MARK: mark },
    });
    await host.finished();
    await allGone(mark, 3);
    assertAllDone(directory, ["a", "b", "c"]);
  }
});

// ------------------------------------------------------------------------------ misbehaving tasks

interface Misbehaviour {
  does: string;
  call: (directory: string) => Call;
  /** What its error says, or the value that it returns. */
  error?: RegExp;
  value?: unknown;
  /** What may run beside it, if it spoils the process for the usual one. */
  neighbour?: Call;
}

const deadly: Misbehaviour[] = [
  { does: "calls exit(0)", call: () => ["exit", 0], error: /called `exit\(\)`/ },
  { does: "calls exit(0) later", call: () => ["exitLater", 0], error: /called `exit\(\)`/ },
  { does: "exits with a code", call: () => ["exit", 3], error: /exited with code 3/ },
  { does: "is killed by SIGKILL", call: () => "killItself", error: /by SIGKILL/ },
  {
    does: "is killed by SIGSEGV",
    call: () => "violateMemory",
    error: /by SIG|code 1[34]/,
  },
  { does: "exhausts its memory", call: () => "exhaustMemory", error: /memory|SIG|code|allocat/i },
  {
    does: "rejects a promise that nobody holds",
    call: () => "rejectUnheld",
    error: /nobody holds this/,
  },
  {
    does: "never settles its promise",
    call: () => "neverSettle",
    error: /waits for a promise that nothing/,
  },
];

const harmless: Misbehaviour[] = [
  { does: "throws from a timer after returning", call: () => "throwLater", value: "returned" },
  { does: "prints 50 MB", call: () => "printMuch", value: "printed" },
  { does: "prints a megabyte of bytes 0x1E", call: () => "printMarks", value: "printed" },
  {
    does: "prints 50 MB after a byte 0x1E",
    call: () => ["printMuch", "\x1e", " "],
    value: "printed",
  },
  { does: "prints without a newline", call: () => "printWithoutNewline", value: "printed" },
  { does: "forges answers", call: (directory) => ["forge", directory], value: "forged" },
  { does: "closes its standard output", call: () => "closeOutput", value: "closed" },
  {
    does: "puts a file in place of its standard output",
    call: (directory) => ["replaceOutput", `${directory}-output`],
    value: "replaced",
  },
  { does: "reads its standard input", call: () => "readInput", value: "read 0" },
  { does: "reads it synchronously", call: () => "readInputSynchronously", value: "read 0" },
  { does: "changes directory", call: () => "changeDirectory", value: "/" },
  {
    does: "deletes its own task file",
    call: (directory) => ["deleteOwnFile", directory, "bad"],
    value: "deleted",
  },
  {
    does: "deletes its own task file and forges an answer",
    call: (directory) => ["forgeAfterDeletion", directory, "bad"],
    value: "forged",
  },
  {
    does: "replaces globals",
    call: () => "replaceGlobals",
    value: "replaced",
    neighbour: "whereAmI",
  },
  { does: "leaves a timer", call: () => "leaveTimer", value: "left" },
  { does: "leaves a server", call: () => "leaveServer", value: "left" },
  { does: "leaves a child with its output open", call: () => "leaveChild", value: "left" },
];

const ways: [string, HostOptions][] = [
  ["in a process of its own", { tasksPerProcess: 1 }],
  ["in a kept process", { tasksPerProcess: 10 }],
  ["beside others in one process", { concurrency: 2 }],
];

for (const [where, options] of ways) {
  check(
    `a misbehaving task ${where} neither hangs the run nor harms its neighbours`,
    noProc,
    async () => {
      const problems: string[] = [];
      await inPairs([...deadly, ...harmless], async ({ does, call, error, value, neighbour }) => {
        const directory = newDirectory();
        const notes = `${directory}-notes`;
        const calls: Record<string, Call> = {
          bad: call(directory),
          good: neighbour ?? ["slowNote", notes, "good", 200],
          last: "whereAmI",
        };
        await newList({ a: ["note", notes, "a"], ...calls }, directory);
        try {
          const host = startHost("run", directory, { processes: 1, ...options }, { deadline: 20 });
          const seen = await host.finished();
          const wanted = error ? { fail: ["bad"], done: [] } : { fail: [], done: ["bad"] };
          assert.deepEqual(idsIn(directory, "fail"), wanted.fail);
          assert.deepEqual(idsIn(directory, "done"), ["a", ...wanted.done, "good", "last"]);
          assertLegal(directory);
          const yielded = seen.filter(({ id }) => id);
          assert.deepEqual(yielded.map(({ id }) => id).sort(), ["a", "bad", "good", "last"]);
          const bad = yielded.find(({ id }) => id === "bad")!;
          if (error) assert.match(bad.error!, error);
          else assert.equal(bad.value, value);
          if (!options.concurrency) {
            assert.equal(stored(directory, "done", "last").returnValue, base);
          }
        } catch (error) {
          problems.push(`A task that ${does}: ${(error as Error).message}`);
        }
      });
      assert.equal(problems.join("\n\n"), "");
    },
  );
}

check("an unheld rejection after the end of a task harms nobody", noProc, async () => {
  const directory = await newList({ a: "rejectUnheldAtOnce", b: ["slowNote", log, "b", 100] });
  const seen = await startHost("run", directory, { processes: 1, tasksPerProcess: 10 }).finished();
  assert.deepEqual(seen.filter(({ id }) => id).map(({ id }) => id).sort(), ["a", "b"]);
  assert.ok(idsIn(directory, "done").includes("b"));
  assertLegal(directory);
});

check(
  "all of what a task prints gets to the log, and no forged answer is taken for one",
  noProc,
  async () => {
    const directory = newDirectory();
    await newList({ forger: ["forge", directory], printer: "printMuch" }, directory);
    const logFile = `${directory}.log`;
    await startHost("run", directory, { processes: 2, logFile }).finished();
    const text = fs.readFileSync(logFile, "latin1");
    assert.ok(text.length > 50 * 2 ** 20);
    assert.ok(text.includes("beside"));
    assertAllDone(directory, ["forger", "printer"]);
    fs.rmSync(logFile);
  },
);

// ---------------------------------------------------------------------------- many runs, one list

check(
  "eight runs, four on Deno and four on Bun, execute each of 2,000 tasks once",
  false,
  async () => {
    const directory = newDirectory();
    const notes = `${directory}-notes`;
    const ids = Array.from(
      { length: 2000 },
      (_, index) => `task-${String(index).padStart(4, "0")}`,
    );
    const tasks = new TaskList(directory);
    const note = new URL("tasks.ts#note", fixtures);
    await Promise.all(ids.map((id) => tasks.schedule(defer(note, notes, id), { id })));
    const [deno, bun] = bothRuntimes();
    const options = { processes: 1, tasksPerProcess: 10_000 };
    const hosts = Array.from(
      { length: 8 },
      (_, index) =>
        startHost("run", directory, options, { runtime: index % 2 ? deno : bun, deadline: 100 }),
    );
    const seen = (await Promise.all(hosts.map((host) => host.finished()))).flat();
    assertAllDone(directory, ids);
    assert.deepEqual(linesOf(notes).map((line) => line.split(" ")[0]).sort(), ids);
    const yielded = seen.flatMap(({ id }) => id ?? []).sort();
    assert.deepEqual(yielded, ids);
  },
);

check(
  "a program killed at any moment loses no task, no outcome, and has no task twice",
  noProc,
  async () => {
    const random = randomNumbers(seed);
    const pick = <T>(items: T[]): T => items[Math.floor(random() * items.length)];
    const runtimes = bothRuntimes();
    const directory = newDirectory();
    const notes = `${directory}-notes`;
    const context = `FORREST_CRASH_SEED=${seed}`;
    const mark = newMark();
    const wanted: string[] = [];
    const seen: Event[] = [];
    let crashes = 0;
    for (const end = Date.now() + seconds * 1000; Date.now() < end; crashes++) {
      const news = Array.from({ length: 20 }, (_, index) => `task-${crashes}-${index}`);
      wanted.push(...news);
      const env = { FORREST_MARK: mark };
      const scheduled = new Set(seen.map(({ scheduled }) => scheduled));
      const ids = wanted.filter((id) => !scheduled.has(id)).slice(-60); // those of a killed program again
      const hosts = [
        startHost("schedule", directory, { ids, log: notes }, { runtime: pick(runtimes), env }),
        ...Array.from({ length: 1 + Math.floor(random() * 2) }, () =>
          startHost("run", directory, {
            processes: 1 + Math.floor(random() * 2),
            tasksPerProcess: pick([1, 5, 1000]),
            concurrency: pick([1, 1, 4]),
            maxCrashes: 1000,
          }, { runtime: pick(runtimes), env })),
      ];
      await pause(random() * 900);
      if (random() < 0.3) killAll(survivors(mark).filter(() => random() < 0.3)); // of any kind
      await pause(random() * 300);
      for (const host of hosts.sort(() => random() - 0.5)) {
        host.kill("SIGKILL");
        if (random() < 0.5) await pause(random() * 50);
      }
      const endings = await Promise.all(hosts.map(({ ended }) => ended));
      for (const { output } of endings) assert.doesNotMatch(output, /Uncaught|Unhandled/i, context);
      for (const host of hosts) seen.push(...host.seen());
      if (fs.existsSync(path.join(directory, "fail")) && !survivors(mark).length) {
        assertLegal(directory, "after a crash", context);
      }
    }
    await allGone(mark);
    seen.push(...await runList(directory));
    assertLegal(directory, "at rest", context);
    assert.deepEqual(idsIn(directory, "todo"), [], context);
    const tokens = new Set(linesOf(notes).map((line) => line.split(" ")[1]));
    const [done, fail] = [new Set(idsIn(directory, "done")), new Set(idsIn(directory, "fail"))];
    for (const { scheduled, id, state, value } of seen) {
      const kept = scheduled ?? id;
      if (!kept) continue;
      assert.ok(done.has(kept) || fail.has(kept), `${kept} is lost, ${context}`);
      if (id) {
        assert.ok(
          (state === "done" ? done : fail).has(id),
          `${id} is not ${state}, ${context}`,
        );
      }
      if (state === "done") {
        assert.equal(stored(directory, "done", id!).returnValue, value, `${id}, ${context}`);
      }
    }
    for (const id of done) {
      assert.ok(
        tokens.has(stored(directory, "done", id).returnValue as string),
        `${id}, ${context}`,
      );
    }
    for (const id of fail) {
      const { message } = (stored(directory, "fail", id).errorValue as { $error: Error }).$error;
      assert.match(message, /SIGKILL|run that this task was running in/, context);
    }
    assert.ok(done.size > 0, context);
  },
);

// --------------------------------------------------------------------------------- files by others

interface BadFile {
  is: string;
  bytes: string | Uint8Array;
  /** What its error says of the place. */
  error: RegExp;
}

const steps = (...steps: unknown[]) => JSON.stringify({ steps });
const add = (...args: unknown[]) => ({ call: "Math.max", args });
const badFiles: BadFile[] = [
  { is: "empty", bytes: "", error: /Cannot read the task `empty\.json`/ },
  { is: "blank", bytes: "\n \n", error: /Cannot read the task/ },
  { is: "cut off", bytes: steps(add(1, 2)).slice(0, -9), error: /Cannot read the task/ },
  { is: "not JSON", bytes: "import os\nprint('hello')\n", error: /Cannot read the task/ },
  { is: "binary", bytes: new Uint8Array(5000).map((_, i) => i * 7), error: /Cannot read the task/ },
  { is: "zeros", bytes: new Uint8Array(5000), error: /Cannot read the task/ },
  { is: "100 MB", bytes: new Uint8Array(100 * 2 ** 20).fill(120), error: /Cannot read the task/ },
  { is: "a number", bytes: "42", error: /`steps` must be/ },
  { is: "null", bytes: "null", error: /`steps` must be/ },
  { is: "a text", bytes: `"steps"`, error: /`steps` must be/ },
  { is: "an array", bytes: "[1, 2]", error: /`steps` must be/ },
  { is: "without steps", bytes: "{}", error: /`steps` must be/ },
  { is: "of other things", bytes: `{"name": "x", "version": 1}`, error: /`steps` must be/ },
  { is: "steps of no array", bytes: `{"steps": {"call": "Math.max"}}`, error: /`steps` must be/ },
  { is: "no steps", bytes: steps(), error: /`steps` must be/ },
  { is: "a null step", bytes: steps(null), error: /`steps\[0\]` must be/ },
  { is: "an empty step", bytes: steps({ value: 1 }, {}), error: /`steps\[1\]` must be/ },
  { is: "args of no array", bytes: steps({ call: "Math.max", args: 1 }), error: /`steps\[0\]`/ },
  { is: "a call of a number", bytes: steps({ call: 5, args: [] }), error: /`call`/ },
  { is: "a call of null", bytes: steps({ call: null, args: [] }), error: /`call`/ },
  { is: "a call of nothing", bytes: steps({ call: "Math.nothing" }), error: /Math\.nothing/ },
  { is: "a call of __proto__", bytes: steps({ call: "__proto__.toString" }), error: /__proto__/ },
  { is: "a missing module", bytes: steps({ call: "./gone.ts#f" }), error: /gone\.ts/ },
  { is: "a forward step", bytes: steps(add({ $step: 1 }), add(1)), error: /\$step`: 1/ },
  { is: "a step to itself", bytes: steps(add({ $step: 0 })), error: /\$step`: 0/ },
  { is: "a step beyond", bytes: steps(add(1), add({ $step: 99 })), error: /\$step`: 99/ },
  { is: "a negative step", bytes: steps(add(1), add({ $step: -1 })), error: /\$step`: -1/ },
  { is: "half a step", bytes: steps(add(1), add({ $step: 0.5 })), error: /\$step`: 0\.5/ },
  { is: "a named step", bytes: steps(add(1), add({ $step: "length" })), error: /\$step`.*length/ },
  {
    is: "a path to __proto__",
    bytes: steps(add(1), { value: { $step: 0, path: ["__proto__"] } }),
    error: /`path`.*`__proto__`/,
  },
  {
    is: "a path to constructor",
    bytes: steps(add(1), { call: { $step: 0, path: ["constructor", "constructor"] }, args: ["1"] }),
    error: /`path`.*`constructor`/,
  },
  {
    is: "a path that is none",
    bytes: steps(add(1), { value: { $step: 0, path: 7 } }),
    error: /path/,
  },
  { is: "an unknown key", bytes: steps({ value: { $nothing: 1 } }), error: /\$nothing/ },
  {
    is: "nested deeply",
    bytes: `{"steps":[{"value":${"[".repeat(1e5)}${"]".repeat(1e5)}}]}`,
    error: /./,
  },
];

/** What was in `todo` is still there: as it was in a file beside, or in the task that has an error. */
function assertBytesKept(directory: string, id: string, bytes: string | Uint8Array): void {
  const original = path.join(directory, "fail", `${id}.json.original`);
  if (fs.existsSync(original)) {
    assert.ok(Buffer.from(bytes as string).equals(fs.readFileSync(original)), `${id} has changed`);
    return;
  }
  const before = JSON.parse(Buffer.from(bytes as string).toString());
  const state = fs.existsSync(`${directory}/done/${id}.json`) ? "done" : "fail";
  const after = stored(directory, state, id);
  const own = ["attempts", "started", "runtime", "errorValue", "returnValue"];
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const [was, is] = [before, after].map((task) => JSON.stringify(task[key]));
    if (!own.includes(key)) assert.ok(was === is, `\`${key}\` of ${id} has changed`);
  }
}

check(
  "a bad file in `todo` fails with an error that names the place, is kept, and stops nothing",
  false,
  async () => {
    const directory = await newList({ "!first": "whereAmI", "~last": "whereAmI" });
    for (const { is, bytes } of badFiles) fs.writeFileSync(`${directory}/todo/${is}.json`, bytes);
    fs.mkdirSync(`${directory}/todo/folder.json`);
    fs.writeFileSync(`${directory}/todo/folder.json/inside`, "kept");
    fs.symlinkSync("/nowhere/at/all", `${directory}/todo/dangling.json`);
    fs.symlinkSync("loop.json", `${directory}/todo/loop.json`);
    const bad = [...badFiles.map(({ is }) => is), "folder", "dangling", "loop"];
    const seen = await runList(directory);
    const errors = new Map(seen.map(({ id, error }) => [id, error]));
    assertLegal(directory);
    assert.deepEqual(idsIn(directory, "done"), ["!first", "~last"]);
    assert.deepEqual(idsIn(directory, "fail"), bad.sort());
    for (const { is, bytes, error } of badFiles) {
      assert.match(errors.get(is) ?? "", error, is);
      assertBytesKept(directory, is, bytes);
    }
    for (const id of ["folder", "dangling", "loop"]) {
      assert.match(
        errors.get(id) ?? "",
        /directory|No such|ENOENT|EISDIR|ELOOP|symbolic|os error/,
        id,
      );
    }
    assert.equal(fs.readFileSync(`${directory}/fail/folder.json.original/inside`, "utf8"), "kept");
    assert.equal(fs.readlinkSync(`${directory}/fail/dangling.json.original`), "/nowhere/at/all");
    fs.rmSync(directory, { recursive: true });
  },
);

const oddNames = [
  "with spaces  and\ttabs",
  "with 'single' and \"double\" quotes",
  "with\nnewlines\n",
  "100%",
  "%2e%2e%2f",
  "#fragment",
  "what?",
  "Ünïcödé-文字-🏃",
  "e\u0301 decomposed",
  "$(touch x)`touch x`;&|<>*",
  "back\\slash",
  "-rf",
  "x.json",
  "x.json@y",
  "x.json@vm.1.1.1~done",
  "x.json@vm.1.1.1+",
  "\x1e",
  "\x01\x7f",
  "a".repeat(150),
];

for (const kept of [false, true]) {
  check(
    `a task is run whatever its file is called (${kept ? "kept" : "fresh"} runners)`,
    false,
    async () => {
      const directory = await newList({ x: "whereAmI" });
      const task = (name: string) => steps({ value: name });
      for (const name of oddNames) fs.writeFileSync(`${directory}/todo/${name}.json`, task(name));
      const left = ["no-json", ".hidden.json", ".json", "x.json~", "x.txt"];
      for (const name of left) fs.writeFileSync(`${directory}/todo/${name}`, task(name));
      const seen = await startHost("run", directory, {
        processes: 2,
        tasksPerProcess: kept ? 100 : 1,
      })
        .finished();
      assert.deepEqual(namesIn(directory, "todo"), left.sort());
      for (const name of left) fs.rmSync(`${directory}/todo/${name}`);
      assertAllDone(directory, [...oddNames, "x"]);
      for (const name of oddNames) {
        assert.equal(stored(directory, "done", name).returnValue, name);
        assert.equal(seen.find(({ id }) => id === name)?.value, name);
      }
    },
  );
}

check(
  "a task whose name is too long to be claimed or filed is left alone and reported, or run",
  false,
  async () => {
    const directory = await newList({ x: "whereAmI" });
    const names = Array.from({ length: 101 }, (_, index) => "n".repeat(150 + index));
    for (const name of names) {
      fs.writeFileSync(`${directory}/todo/${name}.json`, steps({ value: 1 }));
    }
    const host = startHost("run", directory, { processes: 1, tasksPerProcess: 1000 });
    await host.finished();
    const { output } = await host.ended;
    assertLegal(directory);
    const [todo, done] = [idsIn(directory, "todo"), idsIn(directory, "done")];
    assert.deepEqual([...done, ...todo].sort(), [...names, "x"].sort());
    assert.deepEqual(idsIn(directory, "fail"), []);
    assert.ok(done.length > 10 && todo.length > 10);
    for (const name of todo) {
      assert.ok(output.includes(name), `${name.length} letters: not reported`);
    }
  },
);

const asOther = (() => {
  const drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
  if (process.getuid?.() !== 0) return [];
  const secret = path.join(base, "secret");
  fs.writeFileSync(secret, "");
  fs.chmodSync(secret, 0);
  return spawnSync(drop[0], [...drop.slice(1), "cat", secret]).status === 1 ? drop : undefined;
})();

check(
  "a file that may not be read fails with an error that says so",
  !asOther && "root reads everything here",
  async () => {
    const directory = await newList({ x: "whereAmI", y: "whereAmI" });
    fs.chmodSync(`${directory}/todo/x.json`, 0);
    const options = { processes: 1, tasksPerProcess: 10 };
    const seen = await startHost("run", directory, options, { before: asOther }).finished();
    assert.match(seen.find(({ id }) => id === "x")!.error!, /denied|EACCES/i);
    assert.deepEqual(idsIn(directory, "done"), ["y"]);
    assert.deepEqual(namesIn(directory, "fail"), ["x.json", "x.json.original"]);
    assertLegal(directory);
  },
);

check(
  "a list that may not be written to is refused with a clear error, and is unchanged",
  !asOther && "root writes everywhere here",
  async () => {
    const directory = await newList({ x: "whereAmI" });
    const folders = [...states.map((state) => path.join(directory, state)), directory];
    for (const folder of folders) fs.chmodSync(folder, 0o555);
    const host = startHost("run", directory, {}, { before: asOther });
    await host.ended;
    assert.match(host.seen().at(-1)?.failed ?? "", /denied|EACCES/i);
    for (const folder of folders) fs.chmodSync(folder, 0o755);
    assert.deepEqual(idsIn(directory, "todo"), ["x"]);
    await runList(directory);
    assertAllDone(directory, ["x"]);
  },
);

/** A text that was a task, damaged in a few places. */
function damage(random: () => number): Uint8Array {
  const below = (limit: number) => Math.floor(random() * limit);
  const junk = [
    "{}",
    "[]",
    "null",
    "-1",
    "1e999",
    '"x"',
    '{"$step":0}',
    '{"$step":-1,"path":["x"]}',
  ]
    .concat('{"$step":0,"path":["__proto__"]}', '{"$date":[]}', '{"$map":1}', '{"$bytes":"*"}')
    .concat('{"$error":null}', '{"$regexp":"("}', '{"$bigint":"x"}', '{"$object":1}')
    .concat('{"$function":1}', '{"__proto__":1}', '{"$function":{"source":"("}}', '{"$step":{}}');
  let text = steps(
    add(3, 1),
    { value: { list: [1, "two", null], more: { $date: "2020-01-01T00:00:00.000Z" } } },
    { call: { $step: 1, path: ["list", "slice"] }, args: [{ $step: 0 }] },
    { call: "JSON.stringify", args: [{ $step: 2 }, { $undefined: true }, 2] },
  );
  text = text.replace(/}$/, `,"metadata":{"item":7},"attempts":1}`);
  for (let times = 1 + below(3); times > 0; times--) {
    const [from, to] = [below(text.length), below(text.length)].sort((a, b) => a - b);
    const change = [
      () => text.slice(0, from), // cut off
      () => text.slice(0, from) + text.slice(to), // with a hole
      () => text.slice(0, to) + text.slice(from), // twice
      () => text.replace(/\d+/, () => `${below(100) - 50}`),
      () => text.slice(0, from) + junk[below(junk.length)] + text.slice(from),
      () =>
        text.replaceAll(
          /\d+|null|"\w+"(?!:)/g,
          (old) => random() < 0.2 ? junk[below(junk.length)] : old,
        ),
      () => text.replaceAll(/"\w+":/g, (old) => random() < 0.1 ? '"__proto__":' : old),
    ];
    text = change[below(change.length)]();
  }
  const bytes = new TextEncoder().encode(text);
  if (random() < 0.3) {
    for (let times = below(9); times > 0; times--) bytes[below(bytes.length)] = below(256);
  }
  return bytes;
}

check(
  "a thousand damaged files end in `done` or `fail` with what they were, and stop nothing",
  false,
  async () => {
    const random = randomNumbers(seed);
    const directory = await newList({ "!first": "whereAmI", "~last": "whereAmI" });
    const files = new Map(
      Array.from({ length: 1000 }, (_, index) => [`bad-${index}`, damage(random)]),
    );
    for (const [id, bytes] of files) fs.writeFileSync(`${directory}/todo/${id}.json`, bytes);
    const seen = await runList(directory, { tasksPerProcess: 10_000 });
    const context = `FORREST_CRASH_SEED=${seed}`;
    assertLegal(directory, "at rest", context);
    const ids = [...idsIn(directory, "done"), ...idsIn(directory, "fail")].sort();
    assert.deepEqual(ids, [...files.keys(), "!first", "~last"].sort(), context);
    assert.ok(idsIn(directory, "fail").length > 500, context);
    assert.deepEqual(seen.flatMap(({ id }) => id ?? []).sort(), ids, context);
    for (const [id, bytes] of files) assertBytesKept(directory, id, bytes);
  },
);

check("an id that is no plain file name is refused, and writes nothing", false, async () => {
  const directory = newDirectory();
  const tasks = new TaskList(directory);
  const ids = [
    "../x",
    "..",
    ".",
    "",
    "/etc/x",
    `${base}/x`,
    "a/b",
    "a/../../x",
    "..\\x",
    "C:\\x",
    "x\0y",
  ]
    .concat("./x", "x/", ".x", "x.json@vm.1.1.1", "n".repeat(151));
  for (const id of ids) {
    await assert.rejects(
      tasks.schedule(defer(Math.sqrt, 1), { id }),
      (error: Error) => error instanceof TypeError && error.message.includes("as an id"),
      JSON.stringify(id),
    );
  }
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 0 });
  assert.ok(!fs.existsSync(path.join(base, "x.json")));
});

for (const [umask, folder, file] of [["077", 0o700, 0o600], ["027", 0o750, 0o640]] as const) {
  check(`files and directories are as the umask ${umask} says`, false, async () => {
    const directory = newDirectory();
    const logFile = `${directory}.log`;
    const before = ["sh", "-c", `umask ${umask}; exec "$@"`, "sh"];
    await startHost("schedule", directory, { ids: ["a", "b"], log }, { before }).finished();
    fs.writeFileSync(`${directory}/todo/bad.json`, "?");
    fs.chmodSync(`${directory}/todo/bad.json`, file);
    const modes = () =>
      fs.readdirSync(directory, { recursive: true, withFileTypes: true }).map((entry) => {
        const mode = fs.statSync(path.join(entry.parentPath, entry.name)).mode & 0o777;
        return [entry.name, mode, entry.isDirectory() ? folder : file];
      });
    for (const [name, mode, wanted] of modes()) assert.equal(mode, wanted, `${name}`);
    await startHost("run", directory, { processes: 1, logFile }, { before }).finished();
    for (const [name, mode, wanted] of modes()) assert.equal(mode, wanted, `${name}`);
    assert.equal(fs.statSync(directory).mode & 0o777, folder);
    assert.equal(fs.statSync(logFile).mode & 0o777, file);
    assert.equal(modes().length, 4 + 4);
  });
}

// ------------------------------------------------------------------------------ signals and owners

const signals = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const;

for (const signal of Object.keys(signals)) {
  check(
    `${signal} puts the tasks back without an attempt, kills what runs, and ends the program`,
    noProc,
    async () => {
      const mark = newMark();
      const [directory, host] = await startStubborn({}, mark);
      host.kill(signal);
      const { signal: by } = await host.ended;
      assert.equal(by, signal);
      await allGone(mark, 3);
      assertLegal(directory);
      assert.deepEqual(idsIn(directory, "todo"), Object.keys(stubborn).sort());
      for (const id of idsIn(directory, "todo")) {
        assert.deepEqual(Object.keys(stored(directory, "todo", id)), ["steps"]);
      }
    },
  );
}

check("a shell sees the exit code of the signal", noProc, async () => {
  const directory = await newList({ a: ["sleep", `${base}/a-sleeps`, "a"] });
  const before = ["sh", "-c", '"$@" & trap "kill -TERM $!" USR1; wait; wait $!; exit $?', "sh"];
  const host = startHost("run", directory, {}, { before });
  await until(() => linesOf(`${base}/a-sleeps`).length > 0, "the task has started");
  host.kill("SIGUSR1");
  assert.equal((await host.ended).code, 128 + signals.SIGTERM);
  assertLegal(directory);
});

check("a second signal ends the program at once, and loses nothing", noProc, async () => {
  for (const wait of [0, 5, 30]) {
    const mark = newMark();
    const [directory, host] = await startStubborn({}, mark);
    host.kill("SIGINT");
    await pause(wait);
    host.kill("SIGINT");
    assert.equal((await host.ended).signal, "SIGINT");
    await allGone(mark);
    assertLegal(directory, "after a crash");
    await runList(directory, { processes: 3, tasksPerProcess: 1, autokill: 0.5 });
    assertLegal(directory);
    assert.deepEqual(idsIn(directory, "fail"), Object.keys(stubborn).sort());
  }
});

check(
  "a program's own handler of a signal is called once, and what it does is done",
  noProc,
  async () => {
    for (const handler of ["exit", "stay"] as const) {
      for (const signal of Object.keys(signals)) {
        const mark = newMark();
        const [directory, host] = await startStubborn({ handler, linger: 300 }, mark);
        host.kill(signal);
        const { code, signal: by } = await host.ended;
        const handled = host.seen().filter((event) => event.handler);
        assert.deepEqual(handled, [{ handler: signal }], `${handler} on ${signal}`);
        assert.equal(by ?? code, handler === "exit" ? 7 : 0, `${handler} on ${signal}`);
        await allGone(mark, 3);
        assertLegal(directory);
        assert.deepEqual(idsIn(directory, "todo"), Object.keys(stubborn).sort());
      }
    }
  },
);

check("after a run, signals do again what they did before it", noProc, async () => {
  const signal = "SIGTERM";
  const directory = await newList({ a: "whereAmI" });
  const host = startHost("run", directory, { linger: 30_000 });
  await until(() => host.seen().some(({ ended }) => ended), "the run has ended");
  host.kill(signal);
  assert.equal((await host.ended).signal, signal);
  const handling = startHost("run", directory, { linger: 30_000, handler: "exit" });
  await until(() => handling.seen().some(({ ended }) => ended), "the run has ended");
  handling.kill(signal);
  assert.equal((await handling.ended).code, 7);
  assert.deepEqual(handling.seen().filter((event) => event.handler), [{ handler: signal }]);
});

check(
  "a task that was running in three dead runs fails and says so, and no other does",
  noProc,
  async () => {
    const directory = newDirectory();
    const notes = `${directory}-notes`;
    await newList({ killer: ["killRun", notes, "killer"] }, directory);
    const runs: Ending[] = [];
    for (let times = 0; times < 3; times++) {
      const host = startHost("run", directory, { processes: 1 });
      runs.push(await host.ended);
      assertLegal(directory, "after a crash");
    }
    assert.deepEqual(runs.map(({ signal }) => signal), ["SIGKILL", "SIGKILL", "SIGKILL"]);
    const seen = await startHost("run", directory, { processes: 1 }).finished();
    assertLegal(directory);
    assert.deepEqual(idsIn(directory, "fail"), ["killer"]);
    assert.equal(linesOf(notes).length, 3);
    const { errorValue, attempts } = stored(directory, "fail", "killer");
    assert.match(JSON.stringify(errorValue), /The run that this task was running in has died.*3/);
    assert.equal(attempts, 3);
    assert.ok(Array.isArray(seen));
  },
);

check(
  "a claim is recovered if another process has the id of its owner, or if that is a zombie",
  noProc,
  async () => {
    const owner = await deadOwner();
    const [name, , start, rest] = owner.split(".");
    const directory = await newList({ zombie: ["sleep", log, "zombie"] });
    // `sleep` never asks how its child has ended, so that stays a zombie
    const before = ["sh", "-c", '"$@" & exec sleep 60', "sh"];
    const parent = startHost("run", directory, {}, { before });
    await until(
      () => namesIn(directory, "running").some((file) => /^zombie/.test(file)),
      "a claim",
    );
    const pid = /^zombie\.json@[^.]*\.(\d+)/.exec(
      namesIn(directory, "running").find((file) => /^zombie/.test(file))!,
    )![1];
    process.kill(Number(pid), "SIGKILL");
    const stateOf = () => fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1][0];
    await until(() => stateOf() === "Z", "the owner is a zombie");
    const reused = [name, process.pid, start, rest].join(".");
    fs.writeFileSync(`${directory}/running/reused.json@${reused}`, steps({ value: "again" }));
    const seen = await runList(directory, { autokill: 0.5 });
    assert.equal(stateOf(), "Z");
    parent.kill("SIGKILL");
    assertLegal(directory);
    assert.deepEqual(idsIn(directory, "done"), ["reused"]);
    assert.deepEqual(idsIn(directory, "fail"), ["zombie"]);
    assert.match(seen.find(({ id }) => id === "zombie")!.error!, /killed after 0\.5 s/);
  },
);

check("the claims of a run that lives are left to it", noProc, async () => {
  const mark = newMark();
  const [directory, host] = await startStubborn({}, mark);
  const before = namesIn(directory, "running");
  await runList(directory);
  assert.deepEqual(namesIn(directory, "running"), before);
  assert.ok(survivors(mark).length > 10);
  host.kill("SIGTERM");
  await host.ended;
  await allGone(mark);
  assertLegal(directory);
});

// What another run has done with a task in the meantime, and where the task is then.
type Overtake = (directory: string, claim: string) => Promise<void> | void;
const overtaken: [string, Overtake, Exclude<State, "running">][] = [
  ["put back", (directory, claim) => fs.renameSync(claim, `${directory}/todo/a.json`), "todo"],
  [
    "finished",
    async (directory, claim) => {
      fs.renameSync(claim, `${directory}/todo/a.json`);
      await runList(directory);
    },
    "done",
  ],
  [
    "failed",
    (directory, claim) => {
      fs.rmSync(claim);
      const failed = { steps: [{ value: 1 }], attempts: 1, errorValue: "first" };
      fs.writeFileSync(`${directory}/fail/a.json`, JSON.stringify(failed));
    },
    "fail",
  ],
];
for (const [verb, overtake, state] of overtaken) {
  check(
    `an outcome that comes after another run has ${verb} the task is discarded`,
    false,
    async () => {
      const directory = newDirectory();
      const notes = `${directory}-notes`;
      await newList({ a: ["slowNote", notes, "a", 1000] }, directory);
      const late = startHost("run", directory, { processes: 1 });
      await until(() => linesOf(notes).length > 0, "the task has started");
      const [claim] = namesIn(directory, "running");
      await overtake(directory, `${directory}/running/${claim}`);
      const first = fs.readFileSync(`${directory}/${state}/a.json`, "utf8");
      await late.finished();
      if (state !== "todo") {
        assert.equal(fs.readFileSync(`${directory}/${state}/a.json`, "utf8"), first);
      }
      assertLegal(directory);
      assert.deepEqual(idsIn(directory, state === "todo" ? "done" : state), ["a"]);
    },
  );
}

// How far a runner has come with the outcome of its task, when its run is told to end.
const moments: [string, RegExp, string][] = [
  ["written", /\+$/, "rename:delay_enter=3000000:when=1"],
  ["sealed", /~done$/, "fsync:delay_exit=3000000:when=1"],
  ["synced", /~done$/, "rename:delay_enter=3000000:when=2"],
];
for (const [verb, left, delay] of moments) {
  check(
    `a run that is ended when an outcome is ${verb} leaves no task between two states`,
    noStrace || noProc,
    async () => {
      for (const end of ["SIGTERM", "autokill", "SIGKILL"]) {
        const directory = await newList({ a: ["noteMuch", log, "a"] });
        const call = delay.split(":")[0];
        const words = ["-o", "/dev/null", "-e", `trace=${call}`, "-e", `inject=${delay}`];
        const options = end === "autokill" ? { autokill: 1.5 } : {};
        const host = startTraced({ ...publishing, options }, directory, words);
        await until(() => namesIn(directory, "running").some((name) => left.test(name)), verb);
        if (end !== "autokill") host.kill(end);
        await host.ended;
        if (end === "SIGKILL") await runList(directory);
        assertLegal(directory, "at rest", end);
        const sealed = verb !== "written" ? "done" : end === "autokill" ? "fail" : undefined;
        const state = sealed ?? (end === "SIGTERM" ? "todo" : "done");
        assert.deepEqual(idsIn(directory, state), ["a"], `${verb}, ${end}`);
      }
    },
  );
}

check(
  "a run that is ended while it brings an outcome to disk leaves no task between two states",
  noStrace || noProc,
  async () => {
    for (const end of ["SIGTERM", "autokill", "SIGKILL"]) {
      const directory = await newList({ a: ["note", log, "a"] });
      const inject = "inject=fsync:delay_enter=1500000:when=1";
      const words = ["-D", "-o", "/dev/null", "-e", "trace=fsync", "-e", inject];
      const options = end === "autokill" ? { autokill: 1 } : {};
      const host = startTraced({ ...syncing, options }, directory, words);
      await until(() => namesIn(directory, "running").some((name) => /~done$/.test(name)), end);
      if (end !== "autokill") host.kill(end);
      await host.ended;
      if (end === "SIGKILL") await runList(directory);
      assertAllDone(directory, ["a"], end);
    }
  },
);

check("a claim of a task that is done already is dropped", false, async () => {
  const owner = await deadOwner();
  const directory = await newList({ a: "whereAmI", b: "whereAmI" });
  await runList(directory);
  const done = fs.readFileSync(`${directory}/done/a.json`, "utf8");
  fs.writeFileSync(`${directory}/running/a.json@${owner}`, steps({ value: "second" }));
  fs.writeFileSync(`${directory}/todo/b.json`, steps({ value: "second" }));
  await runList(directory);
  assertAllDone(directory, ["a", "b"]);
  assert.equal(fs.readFileSync(`${directory}/done/a.json`, "utf8"), done);
  assert.equal(stored(directory, "done", "b").returnValue, base);
});

check("nothing is killed for the sake of a file whose name is no claim", noProc, async () => {
  const directory = await newList({ a: "whereAmI" });
  const tools = path.join(base, "tools");
  fs.mkdirSync(tools, { recursive: true });
  // in place of the one that finds what is to be killed: it notes what it is to look for
  fs.writeFileSync(`${tools}/grep`, `#!/bin/sh\necho "$2" >> ${tools}/asked\n`);
  fs.chmodSync(`${tools}/grep`, 0o755);
  const owners = ["", "\n", "a\n\nb", ".", "...", "1", "-", "h.1.1", " "];
  for (const owner of owners) {
    fs.writeFileSync(`${directory}/running/x.json@${owner}`, steps({ value: owner }));
    fs.writeFileSync(`${directory}/running/y.json@${owner}+`, "");
  }
  const env = { PATH: `${tools}:${process.env.PATH}`, FORREST_LEASE: "0.3" };
  const host = startHost("run", directory, {}, { env, deadline: 10 });
  await host.ended.catch(() => {}); // whether it waits for their lease is not what this is about
  assert.deepEqual(idsIn(directory, "done").includes("a"), true);
  const asked = linesOf(`${tools}/asked`).filter((line) =>
    !/^\/[\w-]+(\.[\w-]+){3}[./]/.test(line)
  );
  assert.deepEqual(asked, []);
});

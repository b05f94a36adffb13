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

after(() => {
  killAll(survivors(base));
  fs.rmSync(base, { recursive: true, force: true });
});

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

/** The two runtimes, this one and the one that is named in the environment or got from npm. */
function bothRuntimes(): string[][] {
  const find = (name: string, version: string, print: string[]) =>
    process.env[`FORREST_${name.toUpperCase()}`] ??
      spawnSync("npx", ["--yes", `${name}@${version}`, ...print], { encoding: "utf8" }).stdout
        .trim();
  return isDeno
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
      child.kill("SIGKILL");
      reject(new Error(`\`${args.join(" ")}\` hangs; it has printed: ${output.slice(-5000)}`));
    }, deadline * 1000);
    child.on("error", reject);
    child.on("exit", (code, signal) => {
      clearTimeout(timer);
      setTimeout(() => resolve({ code, signal, output }), 5); // what it printed last comes later
    });
  });
  ended.catch(() => {}); // whoever awaits it gets the error
  return { pid: child.pid!, kill: (signal) => child.kill(signal as NodeJS.Signals), ended };
}

interface HostOptions extends RunOptions {
  ids?: string[];
  log?: string;
  logFile?: string;
  handler?: "exit" | "stay";
  linger?: number;
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
  action: "schedule" | "run" | "exec",
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

/** The processes which have `text` in their environment, except for this one. */
function survivors(text: string): number[] {
  if (noProc) return [];
  return fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
    try {
      return pid !== process.pid &&
        fs.readFileSync(`/proc/${pid}/environ`, "latin1").includes(text);
    } catch {
      return false; // it has ended
    }
  });
}

function killAll(pids: number[]): void {
  for (const pid of pids) {
    try {
      process.kill(pid, "SIGKILL");
    } catch { /* it has ended */ }
  }
}

/** Waits until `holds`, for some seconds. */
async function until(holds: () => boolean, what: string, seconds = 20): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !holds(); await pause(20)) {
    if (Date.now() > end) assert.fail(`not within ${seconds} s: ${what}`);
  }
}

async function allGone(mark: string, seconds = 8): Promise<void> {
  const commandOf = (pid: number) => {
    try {
      return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").slice(0, 200);
    } catch {
      return "";
    }
  };
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
    if (!/^(\+|\+?|(\+ )?~(todo|done|fail|keep))$|^ \+$/.test(kind)) {
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
const calls = "openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,unlink," +
  "unlinkat,rmdir,mkdir,mkdirat,utimensat,ftruncate";
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
  prepare(): Promise<string>;
  /** Asserts on a list at rest, after it was run again. */
  verify(directory: string, seen: Event[], context: string): void;
}

/** Starts the program of a stage under strace. */
function startTraced(stage: Stage, directory: string, words: string[]): Host {
  const follow = stage.action === "schedule"; // its asynchronous calls are made in threads
  if (!stage.runners) {
    const before = [...strace(follow), ...words];
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
const publishing: Stage = {
  ...running,
  runners: true,
  verify(directory, seen, context) {
    assertKept(directory, seen, context);
    assert.deepEqual([...idsIn(directory, "done"), ...idsIn(directory, "fail")].sort(), ["a", "b"]);
  },
};
const publishingMany: Stage = {
  ...publishing,
  options: { processes: 1, tasksPerProcess: 10 },
};

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
  const ids = ["claimed", "written", "sealed", "published", "failed", "kept", "again", "back"];
  const directory = await newList(Object.fromEntries(ids.map((id) => [id, ["note", log, id]])));
  const at = (id: string, suffix: string) => `${directory}/running/${id}.json@${owner}${suffix}`;
  for (const id of ids) fs.renameSync(`${directory}/todo/${id}.json`, at(id, ""));
  const task = { steps: [{ value: "from before" }], attempts: 1 };
  const outcome = (id: string, outcome: object, place = at(id, "+")) =>
    fs.writeFileSync(place, JSON.stringify({ ...task, ...outcome }));
  const seal = (id: string, state: string) => fs.renameSync(at(id, ""), at(id, `~${state}`));
  fs.writeFileSync(at("written", "+"), `{"steps":[{"val`);
  fs.writeFileSync(at("unscheduled", "+"), `{"steps":[{"val`);
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
    const done = ["again", "back", "claimed", "published", "sealed", "written"];
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
const runnerStages: [string, Stage][] = [["a runner", publishing], [
  "a kept runner",
  publishingMany,
]];
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
    const mark = `killed-${kept}-${process.pid}`;
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
    const mark = `watcher-${process.pid}`;
    const [directory, host] = await startStubborn({}, mark);
    const isWatcher = (pid: number) => fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(" ")[3];
    const children = survivors(mark).filter((pid) => isWatcher(pid) === `${host.pid}`);
    const watchers = children.filter((pid) =>
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
    const mark = `autokill-${process.pid}`;
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
    const slow = (id: string, milliseconds: number): Call => ["slowNote", notes, id, milliseconds];
    const directory = await newList({
      a: slow("a", 300),
      b: ["haveChildren", notes, "b"],
      c: slow("c", 100),
      d: slow("d", 1200),
      e: slow("e", 1200),
      f: slow("f", 100),
    });
    const options = { processes: 1, concurrency: 4, autokill: 2 };
    const seen = await startHost("run", directory, options).finished();
    assert.deepEqual(idsIn(directory, "done"), ["a", "c", "d", "e", "f"]);
    assert.deepEqual(idsIn(directory, "fail"), ["b"]);
    assert.equal(stored(directory, "done", "d").attempts, 1);
    assert.match(seen.find(({ id }) => id === "b")!.error!, /killed after 2 s/);
    assertLegal(directory);
  },
);

check("what a task leaves running ends with it", noProc, async () => {
  const mark = `left-${process.pid}`;
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
  { does: "replaces globals", call: () => "replaceGlobals", value: "replaced" },
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
      await inPairs([...deadly, ...harmless], async ({ does, call, error, value }) => {
        const directory = newDirectory();
        const notes = `${directory}-notes`;
        const calls: Record<string, Call> = {
          bad: call(directory),
          good: ["slowNote", notes, "good", 200],
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

/** Kills programs at every system call, and gives them faulty disks.
 *
 * `FORREST_CRASH_ALL` takes every system call and every error in place of a selection of them.
 */
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import {
  assertKept,
  assertLegal,
  type Call,
  check,
  deadOwner,
  idsIn,
  inPairs,
  linesOf,
  log,
  newDirectory,
  newFile,
  newList,
  noStrace,
  runList,
  startHost,
  stored,
} from "./crash.ts";
import {
  calls,
  keeping,
  type Point,
  pointsIn,
  retrying,
  retryingKept,
  running,
  scheduling,
  sharing,
  type Stage,
  startTraced,
  syncing,
  unreadIn,
} from "./strace.ts";

const all = !!process.env.FORREST_CRASH_ALL;

async function pointsOf(stage: Stage, pipes: boolean): Promise<Point[]> {
  const trace = newFile("trace");
  const directory = await stage.prepare();
  const traced = { ...stage, threads: true };
  await startTraced(traced, directory, ["-o", trace, "-e", `trace=${calls}`]).finished();
  const points = pointsIn(trace, directory, pipes);
  fs.rmSync(directory, { recursive: true });
  assert.ok(points.length > 5, `the trace shows ${points.length} calls only`);
  return points;
}

/** Runs a stage with a fault at one of its calls, then runs the list again; says whether it met the fault. */
async function withFault(stage: Stage, [call, nth]: Point, fault: string): Promise<boolean> {
  const directory = await stage.prepare();
  const context = `${fault} at ${call} ${nth} in ${directory}`;
  const trace = newFile("trace");
  const inject = ["-e", `trace=${call}`, "-e", `inject=${call}:${fault}:when=${nth}`];
  // the threads of a program sync and remove; all else is done by the first of them, which has no children to be hit
  const threads = stage.threads || /sync|unlink/.test(call);
  const host = startTraced({ ...stage, threads }, directory, ["-A", "-o", trace, ...inject]);
  await host.ended;
  const seen = host.seen();
  const injected = linesOf(trace).filter((line) => line.includes("INJECTED"));
  // and not in what a runtime wakes its threads with, or in an order to a runner, which fails its task
  // (a call that another thread has interrupted is told in two lines, of which the second has no path)
  const isOnList = injected.every((line) => line.includes(directory) || / resumed>/.test(line));
  for (const event of fault.startsWith("error") && isOnList ? seen : []) {
    const message = event.refused ? event.error : event.failed;
    if (message === undefined) continue;
    assert.match(message, /os error|E(IO|NOSPC|ACCES)|denied|space|I\/O|i\/o/, context);
  }
  if (fault.startsWith("error") && isOnList && !seen.some(({ failed }) => failed)) {
    const answered = seen.map(({ scheduled, refused }) => scheduled ?? refused);
    for (const id of stage.options.ids ?? []) assert.ok(answered.includes(id), context);
  }
  if (fs.existsSync(path.join(directory, "fail"))) {
    assertLegal(directory, "after a crash", context);
  }
  const again = await runList(directory);
  const isElsewhere = fault.startsWith("error") && !isOnList;
  if (!isElsewhere) stage.verify(directory, [...seen, ...again], context);
  fs.rmSync(directory, { recursive: true });
  if (isElsewhere) return false;
  return injected.length > 0 || fs.readFileSync(trace, "utf8").includes("killed by SIGKILL");
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

/** A list with everything that a run may leave when it is killed. */
async function leftovers(): Promise<string> {
  const owner = await deadOwner();
  const ids = ["again", "back", "claimed", "failed", "published", "sealed", "written"];
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
  outcome("again", { errorValue: "from before", retried: 1 });
  seal("again", "todo");
  outcome("back", { errorValue: "from before", retried: 1 }, `${directory}/todo/back.json`);
  seal("back", "todo");
  fs.writeFileSync(at("none", "~fail"), "this was no task");
  fs.writeFileSync(at("none", "+"), `{"errorValue":"from before"}`);
  fs.writeFileSync(at("nothing", "~fail"), "this was no task");
  fs.writeFileSync(`${directory}/fail/nothing.json`, `{"errorValue":"from before"}`);
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
    const unread = unreadIn(directory, context);
    const failed = ["failed", "none", "nothing"];
    assert.deepEqual([...idsIn(directory, "done"), ...unread].sort(), done, context);
    assert.deepEqual(idsIn(directory, "fail"), [...failed, ...unread].sort(), context);
    for (const id of ["sealed", "published"]) {
      assert.equal(stored(directory, "done", id).returnValue, "from before", context);
    }
    for (const id of failed) {
      assert.equal(stored(directory, "fail", id).errorValue, "from before", context);
    }
    for (const id of ["none", "nothing"]) {
      const original = fs.readFileSync(`${directory}/fail/${id}.json.original`, "utf8");
      assert.equal(original, "this was no task", context);
    }
  },
};

const stages: [string, Stage][] = [
  ["schedules", scheduling],
  ["claims tasks and runs each in a process of its own", running],
  ["claims tasks and runs them in a kept process", keeping],
  ["claims tasks and runs several at once in a process", sharing],
  ["tries a task again in another process", retrying],
  ["tries a task again in the same process", retryingKept],
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

const much = (ids: string[]) =>
  newList(Object.fromEntries(ids.map((id) => [id, ["noteMuch", log, id]])));

const runnerStages: [string, Stage][] = [
  ["a fresh runner", { ...running, runners: true, prepare: () => much(["a", "b"]) }],
  ["a kept runner", { ...keeping, runners: true }],
  ["a runner of several tasks", { ...sharing, runners: true }],
  ["the runner of a task that is tried again", { ...retrying, runners: true }],
];

for (const [name, stage] of runnerStages) {
  check(`${name} makes no system call on the list`, noStrace, async () => {
    const directory = await stage.prepare();
    const trace = newFile("trace");
    const traced = `trace=%file,%desc,${calls}`;
    const host = startTraced(stage, directory, ["-A", "-o", trace, "-e", traced]);
    stage.verify(directory, await host.finished(), name);
    const lines = linesOf(trace);
    assert.ok(lines.some((line) => line.includes("crash/tasks.ts")), "it was not traced");
    // what it reads and writes in pipes are orders and answers
    const isOfList = (line: string) =>
      line.includes(directory) && !/<(pipe|socket|UNIX)/.test(line);
    assert.deepEqual(lines.filter(isOfList), []);
  });
}

check("tasks.py: there is no server, in a run or elsewhere", noStrace, async () => {
  const trace = newFile("trace");
  const directory = await running.prepare();
  const before = ["strace", "-qq", "-f", "-e", "trace=bind,connect,listen", "-o", trace];
  const env = { DENO_NO_UPDATE_CHECK: "1" }; // which Deno does on its own, once a day
  const host = startHost("run", directory, running.options, { before, env });
  running.verify(directory, await host.finished(), "traced");
  assert.deepEqual(linesOf(trace).filter((line) => line.includes("AF_INET")), []);
});

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
    const trace = newFile("trace");
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
    fs.rmSync(trace);
    const ids = ["a", "b", "c"];
    const named = Object.fromEntries(ids.map((id) => [id, ["note", log, id] as Call]));
    for (const options of [{ processes: 1 }, { processes: 1, concurrency: 3 }]) {
      const list = await newList(named);
      await startTraced({ ...syncing, options }, list, words).finished();
      const changes = changesIn(trace, list);
      for (const id of ids) assertFiled(changes, id);
      fs.rmSync(trace);
    }
  },
);

/** What became of a task, in this order, with a sync of its folder while its seal is there. */
function assertFiled(changes: string[], id: string): void {
  const file = `/running/${id}.json@`;
  const wanted = [
    `rename /todo/${id}.json ${file}`,
    `open ${file}+`,
    `write ${file}+`,
    `fsync ${file}+`,
    `rename ${file} ${file}~done`,
    `rename ${file}+ /done/${id}.json`,
    `unlink ${file}~done`,
  ];
  const own = changes.filter((change) => change.includes(`/${id}.json`));
  assert.deepEqual(own, wanted);
  const [placed, unsealed] = [changes.indexOf(wanted[5]), changes.indexOf(wanted[6])];
  assert.ok(changes.slice(placed, unsealed).includes("fsync /done"), changes.join("\n"));
}

/** Lists: making, cleaning, the states of their tasks, and putting tasks back. */
import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import * as fixture from "./fixtures/tasks.ts";
import { fixtures, temporary, test } from "./helpers.ts";
import { newOwner } from "./internals.ts";
import { defer, exec, TaskList } from "./library.ts";

test("a list has no other options: a misspelt one could remove its tasks", async () => {
  using folder = temporary();
  await new TaskList(folder.file("list")).schedule(1);
  const options = { existOk: true, preclean: false } as never;
  assert.throws(() => new TaskList(folder.file("list"), options), {
    name: "TypeError",
    message: /no option `preclean`/,
  });
  assert.equal(readdirSync(folder.file("list/todo")).length, 1);
});

test("a list can be made in a directory that is not there yet, and by a URL", () => {
  using folder = temporary();
  const tasks = new TaskList(new URL(`file://${folder.file("deep/er/list")}/`));
  assert.equal(tasks.directory, folder.file("deep/er/list"));
  assert.deepEqual(readdirSync(tasks.directory).sort(), ["done", "fail", "running", "todo"]);
});

test("`noScheduleIfExist` schedules into a new directory", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"), { noScheduleIfExist: true });
  assert.equal((await tasks.schedule(1)).scheduled, true);
  assert.equal(tasks.count().todo, 1);
});

test("cleaning an existing directory does not follow links out of it", () => {
  using folder = temporary();
  folder.write("precious/a.json", "mine");
  new TaskList(folder.file("list"));
  symlinkSync(folder.file("precious"), folder.file("list/todo/link.json"));
  new TaskList(folder.file("list"), { existOk: true });
  assert.equal(readFileSync(folder.file("precious/a.json"), "utf8"), "mine");
});

test("a directory that was no list before keeps what lies in it", () => {
  using folder = temporary();
  folder.write("list/log.txt", "mine");
  new TaskList(folder.file("list"), { existOk: true });
  assert.equal(folder.read("list/log.txt"), "mine");
});

test("clean() removes the states that it is told", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(1);
  await tasks.schedule(defer(fixture.throwDetailed, "broken"));
  await Array.fromAsync(tasks.run());
  await tasks.schedule(2);
  tasks.clean({ todo: false, fail: false });
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 1 });
  tasks.clean({ todo: false });
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
  tasks.clean({ done: false, fail: false });
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 0 });
});

test("clean() removes what is asked for, and nothing if it does not know that", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(1);
  await Array.fromAsync(tasks.run({ processes: 1 }));
  await tasks.schedule(2);
  tasks.clean({ done: true });
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
  assert.throws(() => tasks.clean({ dnoe: true } as never), /TypeError|Cannot clean `dnoe`/);
  assert.equal(tasks.count().todo, 1);
});

test("a list must have a name", () => {
  assert.throws(() => new TaskList(""), /Cannot use `` as a path/);
  assert.throws(() => new TaskList(undefined as never), /Cannot use `undefined` as a path/);
});

test("a list may have a backslash in its name", () => {
  using folder = temporary();
  new TaskList(folder.file("a\\b"));
  assert.ok(existsSync(folder.file("a\\b/todo")));
});

test("tasks whose outcome a dead run has not moved are counted and looked at, and moved by the next", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const [host, , , number] = newOwner().split(".");
  const claim = folder.file(`list/running/ID.json@${host}.1.long-ago.${number}`);
  const place = (id: string, end: string) => claim.replace("ID", id) + end;
  const done = JSON.stringify({ steps: [{ value: 1 }], returnValue: "before" });
  for (
    const [id, aside] of [["sealed", place("sealed", "+")], [
      "moved",
      folder.file("list/done/moved.json"),
    ]]
  ) {
    writeFileSync(place(id, "~done"), JSON.stringify({ steps: [{ value: 1 }] }));
    writeFileSync(aside, done);
  }
  assert.deepEqual(tasks.count(), { todo: 0, running: 1, done: 1, fail: 0 });
  assert.deepEqual(await Array.fromAsync(tasks.runningTasks(), ({ id }) => id), ["sealed"]);
  assert.deepEqual(await Array.fromAsync(tasks.run()), []);
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 2, fail: 0 });
});

test("a task that is done, or has failed, begins anew when it is put back: no crash counts any more", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write("list/todo/a.json", '{\n  "steps": [{ "value": 1 }],\n  "crashes": 2\n}\n');
  const [task] = await Array.fromAsync(tasks.run());
  assert.deepEqual([task.state, task.crashes], ["done", undefined]);
});

test("a run of some ids puts back what a dead run has left of the others, and runs none of them", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (const id of ["wanted", "other"]) {
    const claim = `list/running/${id}.json@${newOwner().replace(/^([^.]+)\.\d+/, "$1.999999999")}`;
    folder.write(claim, '{ "steps": [{ "value": 1 }], "crashes": 1 }');
  }
  const seen = await Array.fromAsync(tasks.run({ ids: ["wanted"] }));
  assert.deepEqual(seen.map(({ id, state }) => [id, state]), [["wanted", "done"]]);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 1, fail: 0 });
  const text = readFileSync(folder.file("list/todo/other.json"), "utf8");
  assert.equal(JSON.parse(text).crashes, 1);
});

test("a task that has failed after too many crashes begins anew when it is put back", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const claim = `list/running/a.json@${newOwner().replace(/^([^.]+)\.\d+/, "$1.999999999")}`;
  folder.write(claim, '{ "steps": [{ "value": 1 }], "crashes": 2 }');
  const [failed] = await Array.fromAsync(tasks.run());
  assert.deepEqual([failed.state, failed.crashes], ["fail", undefined]);
  assert.equal(await tasks.retry(), 1);
  const [task] = await Array.fromAsync(tasks.run());
  assert.deepEqual([task.state, task.returnValue], ["done", 1]);
});

test("`schedule()` has no other options", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const options = { meta: 1 } as never;
  await assert.rejects(tasks.schedule(1, options), /no option `meta` of `schedule`/);
});

test("`retry()` leaves a directory alone that has the name of an original", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write("list/fail/a.json", '{ "steps": [{ "value": 1 }], "errorValue": "no" }');
  mkdirSync(folder.file("list/fail/a.json.original"));
  assert.equal(await tasks.retry(), 1);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
});

test("a failed task that is moved to `todo` by hand is run again", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.failAtFirst, folder.file("a"), 1), { id: "x" });
  await Array.fromAsync(tasks.run());
  renameSync(folder.file("list/fail/x.json"), folder.file("list/todo/x.json"));
  const [task] = await Array.fromAsync(tasks.run());
  assert.deepEqual([task.state, task.attempts, task.returnValue], ["done", 2, 2]);
  assert.equal(task.errorValue, undefined);
});

test("a task that is put back by hand has all its retries again", async () => {
  for (const tasksPerProcess of [1, 9]) {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"));
    tasks.schedule(defer(new URL(`${fixtures}#lost`)), { id: "x" });
    for (const attempts of [3, 6]) {
      const [task] = await Array.fromAsync(
        tasks.run({ processes: 1, retries: 2, tasksPerProcess }),
      );
      assert.equal(task.attempts, attempts);
      assert.ok(!("retried" in task));
      renameSync(folder.file("list/fail/x.json"), folder.file("list/todo/x.json"));
    }
  }
});

test("what is a file of its own, and no task, is told the same reason each time", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write("list/todo/x.json", '{ "step": [] }');
  for (let times = 0; times < 3; times++) {
    const [{ errorValue }] = await tasks.run();
    assert.match(
      `${errorValue}`,
      /^TypeError: Cannot run the task `x\.json`: `steps` must be an array/,
    );
    assert.doesNotMatch((errorValue as Error).stack!, /at .*mod\.ts/); // where we have seen it
    await tasks.retry();
  }
});

test("what was no task is not put in place of another one that has its id", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write("list/todo/a.json", "no task");
  await tasks.run();
  rmSync(folder.file("list/fail/a.json"));
  await tasks.schedule(defer(fixture.throwDetailed, "a task"), { id: "a" });
  await tasks.run();
  assert.equal(await tasks.retry(), 1);
  assert.match(folder.read("list/todo/a.json"), /throwDetailed/);
});

test("what was no task is retried as it was, repaired or not", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const bad = `{"steps": [{"call": "Math.sqrt", "args": [16],}]}`;
  folder.write("list/todo/x.json", bad);
  for (const repaired of [bad, bad.replace(",}", "}")]) {
    const [{ errorValue }] = await Array.fromAsync(tasks.run());
    assert.match(`${errorValue}`, /^SyntaxError: Cannot read the task `x\.json`/);
    const exec1 = exec(folder.file("list/fail/x.json"), { raise: true });
    await assert.rejects(exec1, /x\.json\.original`: repair that, then `forrest retry`/);
    folder.write("list/fail/x.json.original", repaired);
    assert.equal(await tasks.retry(), 1);
    assert.deepEqual(readdirSync(folder.file("list/fail")), []);
  }
  const [{ returnValue }] = await Array.fromAsync(tasks.run());
  assert.equal(returnValue, 4);
});

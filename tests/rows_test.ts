/** The rows of the README: what RunForrest and ezq do, as it is said here. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import * as fixture from "./fixtures/tasks.ts";
import { identity } from "./fixtures/tasks.ts";
import { fixtures, outcomeOf, resultOf, runProgram, temporary, test } from "./helpers.ts";
import { defer, map, TaskList } from "./library.ts";

test("RunForrest: a task runs", async () => {
  assert.equal(await resultOf(defer((x: number) => x, 42)), 42);
});

test("RunForrest: plain data is a task", async () => {
  assert.equal(await resultOf(42), 42);
  assert.equal(await resultOf(defer(42)), 42);
});

test("RunForrest: a nested task runs", async () => {
  assert.equal(await resultOf(defer(identity, defer(identity, 42))), 42);
});

test("RunForrest: many tasks run", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 20; i++) tasks.schedule(defer(identity, i));
  const values = await Array.fromAsync(tasks.run({ processes: 4 }), (task) => task.returnValue);
  assert.deepEqual((values as number[]).sort((a, b) => a - b), [...Array(20).keys()]);
});

test("RunForrest: the properties of a task are tasks", async () => {
  const failure = defer((message: string) => new Error(message), "an error message");
  assert.equal(await resultOf(defer(identity, failure.message)), "an error message");
  assert.equal(await resultOf(defer(identity, failure.message[0])), "a");
  assert.equal(await resultOf(failure.message.length), 16);
});

test("RunForrest: the items of a task are tasks", async () => {
  const list = defer(Array.of<number>, 23, 42);
  assert.equal(await resultOf(defer(identity, list[1])), 42);
  assert.equal(await resultOf(list[1]), 42);
  assert.equal(await resultOf(defer({ value: 42 }).value), 42);
});

test("RunForrest: tasks can be looked at while they wait and when they are done", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(defer(identity, 42));
  const [waiting] = await Array.fromAsync(tasks.todoTasks());
  assert.equal(waiting.state, "todo");
  assert.deepEqual(waiting.steps, [{ call: `${fixtures}#identity`, args: [42] }]);
  assert.deepEqual(await Array.fromAsync(tasks.doneTasks()), []);
  await Array.fromAsync(tasks.run());
  const [done] = await Array.fromAsync(tasks.doneTasks());
  assert.equal(done.id, waiting.id);
  assert.equal(done.returnValue, 42);
  assert.deepEqual(await Array.fromAsync(tasks.todoTasks()), []);
});

test("RunForrest: metadata comes back with the task", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const metadata = { date: new Date(86400000), item: 7 };
  await tasks.schedule(defer(identity, 42), { metadata });
  const [waiting] = await Array.fromAsync(tasks.todoTasks());
  assert.deepEqual(waiting.metadata, metadata);
  const [done] = await Array.fromAsync(tasks.run());
  assert.deepEqual(done.metadata, metadata);
});

test("RunForrest: a failing task has an error and lies in `fail`", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.throwDetailed, "it broke"), { metadata: "the one that fails" });
  const [yielded] = await Array.fromAsync(tasks.run());
  const [stored] = await Array.fromAsync(tasks.failTasks());
  for (const task of [yielded, stored]) {
    assert.ok(task.errorValue instanceof RangeError);
    assert.equal(task.errorValue.message, "it broke");
    assert.equal(task.metadata, "the one that fails");
    assert.equal(task.state, "fail");
    assert.ok(!("returnValue" in task));
  }
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 1 });
});

test("RunForrest: a list with `postClean` removes itself when it is disposed", async () => {
  using folder = temporary();
  const directory = folder.file("list");
  {
    using tasks = new TaskList(directory, { postClean: true });
    tasks.schedule(42);
    await Array.fromAsync(tasks.run());
    assert.ok(existsSync(directory));
  }
  assert.ok(!existsSync(directory));
  {
    await using tasks = new TaskList(directory, { postClean: true });
    tasks.schedule(42); // nobody waits for it, so it is pending when the list is disposed
  }
  assert.ok(!existsSync(directory));
});

test("RunForrest: `noScheduleIfExist` schedules nothing and runs what is left", async () => {
  using folder = temporary();
  const schedule = (tasks: TaskList) => {
    tasks.schedule(1);
    for (const name of ["2", "3"]) tasks.schedule(defer(fixture.waitFor, folder.file(name)));
  };
  const first = new TaskList(folder.file("list"), { noScheduleIfExist: true });
  schedule(first);
  for await (const _ of first.run({ processes: 1 })) break; // the computer crashed
  for (const name of ["2", "3"]) folder.write(name, name);
  const second = new TaskList(folder.file("list"), { noScheduleIfExist: true });
  schedule(second);
  const { scheduled } = await second.schedule(4);
  assert.equal(scheduled, false);
  const left = await Array.fromAsync(second.run(), (task) => task.returnValue);
  assert.deepEqual(left.sort(), ["2", "3"].map(folder.file));
});

test("RunForrest: a log file gets output and events in place of the terminal", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const tasks = new TaskList("list", { logFile: "list.log" });
     tasks.schedule(defer(() => console.log("noisy output")), { id: "noisy" });
     tasks.schedule(defer(() => console.error("noisy error")), { id: "warning" });
     tasks.schedule(defer(() => { throw new Error("broken") }), { id: "failing" });
     for await (const task of tasks.run({ processes: 2 }));`,
  );
  assert.equal(stdout + stderr, "");
  const log = readFileSync(folder.file("list.log"), "utf8");
  const line = (text: string) => new RegExp(`^\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z ${text}`, "m");
  for (const text of ["noisy .*noisy output", "warning .*noisy error"]) {
    assert.match(log, line(text));
  }
  for (const text of ["noisy .*done", "warning .*done", "failing .*fail"]) {
    assert.match(log, line(text));
  }
});

test("RunForrest: the run time of a task is saved in seconds", async () => {
  const task = await outcomeOf(defer(() => new Promise((resolve) => setTimeout(resolve, 120))));
  assert.ok(task.runtime! >= 0.1 && task.runtime! < 30, `${task.runtime}`);
  assert.ok(Date.parse(task.started!) <= Date.now());
});

test("ezq: map() gives the results in the order of the items", async () => {
  const results = await Array.fromAsync(map((x: number) => x * 2, [0, 1, 2, 3, 4, 5]));
  assert.deepEqual(results, [0, 2, 4, 6, 8, 10]);
});

test("ezq: workers keep a total each, and the sum of them is that of all messages", async () => {
  const totals = new Map<number, number>();
  const messages = Array.from({ length: 1000 }, (_, i) => i);
  for await (const { worker, total } of map(fixture.sum, messages, { processes: 2 })) {
    totals.set(worker, Math.max(total, totals.get(worker) ?? 0));
  }
  assert.equal([...totals.values()].reduce((a, b) => a + b), 499_500);
});

test("ezq: collatz in this process, sorted, into a printer in another", async () => {
  const numbers = Array.from({ length: 40 }, (_, i) => i);
  const pairs = map(fixture.collatz, numbers, { processes: 0, concurrency: 4 });
  const lines = map(([n, next]: [number, number]) => `${n} ${next}`, pairs, { processes: 1 });
  const printed = await Array.fromAsync(lines);
  assert.equal(printed.length, 40);
  assert.deepEqual(printed.slice(0, 4), ["0 0", "1 4", "2 1", "3 10"]);
});

test("ezq: without `processes`, as many tasks run at once as there are CPUs", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  mkdirSync(folder.file("meeting"));
  const cpus = navigator.hardwareConcurrency;
  for (let i = 0; i < cpus; i++) tasks.schedule(defer(fixture.meet, folder.file("meeting"), cpus));
  const pids = await Array.fromAsync(tasks.run(), (task) => task.returnValue);
  assert.equal(new Set(pids).size, cpus);
});

/** How tasks fail, and are tried again. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import * as fixture from "./fixtures/tasks.ts";
import { outcomeOf, resultOf, temporary, test, until } from "./helpers.ts";
import { defer, type Task, TaskList } from "./library.ts";

test("a task that waits for its retry keeps its last error and its attempts", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.failAtFirst, folder.file("a"), 9), { id: "waits" });
  const controller = new AbortController();
  const run = Array.fromAsync(
    tasks.run({ retries: 2, retryDelay: 60, signal: controller.signal }),
  );
  const path = folder.file("list/todo/waits.json");
  await until(() => existsSync(path) && readFileSync(path, "utf8").includes("attempt 1"));
  controller.abort();
  await run;
  const [waiting] = await Array.fromAsync(tasks.todoTasks());
  assert.equal(waiting.attempts, 1);
  assert.equal((waiting.errorValue as Error).message, "attempt 1");
});

test("the pause between attempts grows", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.failAtFirst, folder.file("a"), 2));
  await Array.fromAsync(tasks.run({ retries: 2, retryDelay: 0.2 }));
  const [first, second, third] = folder.lines("a").map(Number);
  assert.ok(second - first >= 190, `${second - first} ms`);
  assert.ok(third - second >= 390, `${third - second} ms`);
});

test("`retryIf` says whether an error is worth a retry", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.failAtFirst, folder.file("a"), 2), { id: "a", metadata: "again" });
  tasks.schedule(defer(fixture.failAtFirst, folder.file("b"), 2), { id: "b", metadata: "never" });
  const asked: string[] = [];
  const retryIf = (error: unknown, { id, metadata, retried }: Task, seconds: number) => {
    asked.push(`${id} ${retried} ${(error as Error).message}`);
    assert.ok(seconds >= 0.1 * retried! && seconds <= 0.16 * retried!, `${seconds} s`);
    return metadata === "again";
  };
  const finished = await tasks.run({ retries: 2, retryDelay: 0.1, retryIf, processes: 1 });
  assert.deepEqual(finished.map(({ id, state }) => `${state}/${id}`).sort(), ["done/a", "fail/b"]);
  assert.deepEqual(asked.sort(), ["a 1 attempt 1", "a 2 attempt 2", "b 1 attempt 1"]);
});

test("what `retryIf` throws ends the run, and the task goes back", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.throwDetailed, "no"));
  const retryIf = () => {
    throw new RangeError("what is this?");
  };
  await assert.rejects(Array.fromAsync(tasks.run({ retries: 1, retryIf })), /what is this/);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
});

test("a task counts its retries anew, whatever somebody has written there, and its pause is a number", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const steps = [{ call: "decodeURIComponent", args: ["%"] }];
  for (const [id, retried] of Object.entries({ a: { toString: 1 }, b: "1", c: 1100 })) {
    folder.write(`list/todo/${id}.json`, JSON.stringify({ steps, retried, crashes: retried }));
  }
  const asked: string[] = [];
  const retryIf = (_: unknown, { id, retried }: Task, seconds: number) => {
    asked.push(`${id} ${retried} ${seconds}`);
    return false;
  };
  const finished = await tasks.run({ retries: Infinity, retryIf });
  assert.deepEqual(finished.map(({ state }) => state), ["fail", "fail", "fail"]);
  assert.deepEqual(asked.sort(), ["a 1 0", "b 1 0", "c 1101 0"]);
});

test("what is thrown may be anything: it ends no run, and is told as what it holds", async () => {
  using folder = temporary();
  const logFile = folder.file("log.txt");
  const tasks = new TaskList(folder.file("list"), { logFile });
  const strange = (kind: string) => {
    const thrown: object = { kind, toString: "no function" };
    throw kind === "cause" ? new Error("it broke", { cause: thrown }) : thrown;
  };
  for (const id of ["value", "cause"]) tasks.schedule(defer(strange, id), { id });
  const finished = await tasks.run({ retries: 1, printErrors: true });
  assert.deepEqual(finished.map(({ state }) => state), ["fail", "fail"]);
  const log = folder.read("log.txt");
  assert.match(log, /value has failed .*, and is retried in 0 s: Object {"kind":"value",/);
  assert.match(log, /value \| value: { kind: 'value', toString: 'no function' }/);
  assert.match(log, /cause \| .*\[cause\]: { kind: 'cause',/);
});

test("a task file with metadata that nobody can read is run, and retried, like any other", async () => {
  using folder = temporary();
  const list = folder.file("list");
  const tasks = new TaskList(list);
  const steps = [{ call: "decodeURIComponent", args: ["%"] }];
  const odd = { steps, metadata: { $unknown: 1 } };
  folder.write("list/todo/odd.json", JSON.stringify(odd));
  tasks.schedule(7, { id: "other" });
  const asked: unknown[] = [];
  const retryIf = (error: unknown) => asked.push(error) < 2;
  const finished = await tasks.run({ retries: 5, retryIf });
  assert.deepEqual(finished.map(({ id, state }) => `${state}/${id}`).sort(), [
    "done/other",
    "fail/odd",
  ]);
  const { metadata, errorValue } = JSON.parse(folder.read("list/fail/odd.json"));
  assert.deepEqual(metadata, { $unknown: 1 });
  assert.equal(errorValue.$error.name, "URIError");
  const causes = asked.map((error) => `${(error as Error).cause}`);
  assert.deepEqual(causes, Array(2).fill("TypeError: `$unknown` is no way to store a value"));
});

test("a run gives up after more than `maxFailures` failures", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 8; i++) tasks.schedule(defer(fixture.throwDetailed, `failure ${i}`));
  const failed: string[] = [];
  const consume = async () => {
    for await (const { errorValue } of tasks.run({ processes: 1, maxFailures: 2 })) {
      failed.push((errorValue as Error).message);
    }
  };
  await assert.rejects(consume, /3 failures.*`maxFailures.* 2.*tasks left in `todo`: 5/);
  assert.deepEqual(failed, ["failure 0", "failure 1", "failure 2"]);
  assert.deepEqual(tasks.count(), { todo: 5, running: 0, done: 0, fail: 3 });
});

test("a run with kept processes gives up as well", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 100; i++) tasks.schedule(defer(fixture.throwDetailed, `failure ${i}`));
  const options = { processes: 2, tasksPerProcess: Infinity, maxFailures: 2 };
  await assert.rejects(Array.fromAsync(tasks.run(options)), /Stopped after .*`maxFailures/);
  const { todo, fail } = tasks.count();
  assert.ok(fail > 2 && todo > 0 && todo + fail === 100, `${todo} in todo, ${fail} in fail`);
});

test("kept processes are given no more than may still fail", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 500; i++) tasks.schedule(i);
  for (let i = 0; i < 100; i++) tasks.schedule(defer(fixture.throwDetailed, `failure ${i}`));
  const options = { processes: 2, tasksPerProcess: Infinity, maxFailures: 2 };
  await assert.rejects(Array.fromAsync(tasks.run(options)), /Stopped after .*`maxFailures/);
  const { done, fail } = tasks.count();
  assert.equal(done, 500);
  assert.ok(fail > 2 && fail <= 2 + 2 * 3, `${fail} in fail`);
});

test("a retry that is due in a month is not due now", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.failAtFirst, folder.file("attempts"), 1));
  for (let i = 0; i < 5; i++) tasks.schedule(i); // which a retry that is due would come before
  const controller = new AbortController();
  const { signal } = controller;
  const options = { processes: 1, retries: 1, retryDelay: Infinity, signal };
  const values: unknown[] = [];
  for await (const { returnValue } of tasks.run(options)) {
    if (values.push(returnValue) === 5) controller.abort();
  }
  assert.deepEqual(values, [0, 1, 2, 3, 4]);
  assert.equal(folder.lines("attempts").length, 1);
  assert.equal(tasks.count().todo, 1);
});

test("a task that rejects fails", async () => {
  const task = await outcomeOf(defer(() => Promise.reject(new SyntaxError("later"))));
  assert.ok(task.errorValue instanceof SyntaxError);
});

test("a task whose process is killed fails with the signal", async () => {
  const task = await outcomeOf(defer(fixture.killSelf));
  assert.match((task.errorValue as Error).message, /killed by SIGKILL/);
});

test("an error that a task lets nobody catch fails it", async () => {
  const reject = async () => {
    Promise.reject(new Error("nobody caught this"));
    await new Promise((resolve) => setTimeout(resolve, 2000));
  };
  const task = await outcomeOf(defer(reject), { onOutput: () => {} });
  assert.match(`${task.errorValue}`, /nobody caught this/);
});

test("a task is done when it returns, whatever timers it leaves", async () => {
  const leave = (x: number) => {
    setInterval(() => {}, 1000);
    return x;
  };
  assert.equal(await resultOf(defer(leave, 1)), 1);
  assert.equal(await resultOf(defer(leave, 2), { tasksPerProcess: 2 }), 2);
});

test("a task that waits for nothing fails", async () => {
  const task = await outcomeOf(defer(fixture.waitForNothing), { onOutput: () => {} });
  assert.match((task.errorValue as Error).message, /waits for a promise that nothing/);
});

test("a process that dies fails the task that killed it, and not those it held besides", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 3; i++) tasks.schedule(defer(fixture.addSlowly, i, 1));
  tasks.schedule(defer(fixture.exit, 3), { id: "deadly" });
  for (let i = 3; i < 6; i++) tasks.schedule(defer(fixture.addSlowly, i, 1));
  const outcomes = await Array.fromAsync(
    tasks.run({ processes: 1, concurrency: 4, onOutput: () => {} }),
  );
  const failed = outcomes.filter(({ state }) => state === "fail");
  assert.deepEqual(failed.map(({ id }) => id), ["deadly"]);
  assert.match((failed[0].errorValue as Error).message, /exited with code 3/);
  const values = outcomes.filter(({ state }) => state === "done").map((task) => task.returnValue);
  assert.deepEqual((values as number[]).sort(), [1, 2, 3, 4, 5, 6]);
});

test("a task that is killed for its time is tried again, too", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.hang, folder.file("pid")));
  const [task] = await Array.fromAsync(tasks.run({ autokill: 0.4, retries: 1 }));
  assert.deepEqual([task.state, task.attempts], ["fail", 2]);
  assert.equal((task.errorValue as Error).name, "TimeoutError");
});

test("what a loop has scheduled is in `todo` when the run tells of too many failures", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(decodeURIComponent, "%"));
  const consume = async () => {
    for await (const { id } of tasks.run({ maxFailures: 0 })) {
      for (const number of [1, 2]) tasks.schedule(number, { id: `${id}-${number}` });
    }
  };
  await assert.rejects(consume, /Stopped after 1 failure .*: tasks left in `todo`: 2/);
  assert.equal(tasks.count().todo, 2);
});

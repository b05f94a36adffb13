/** Running: how many at once, in which order, and which. */
import assert from "node:assert/strict";
import { mkdirSync, renameSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import * as fixture from "./fixtures/tasks.ts";
import { outcomeOf, resultOf, runProgram, temporary, test, until } from "./helpers.ts";
import { defer, module, type Task, TaskList } from "./library.ts";

test("run() keeps its processes busy while its consumer is", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 4; i++) tasks.schedule(i);
  for await (const _ of tasks.run({ processes: 1 })) {
    await until(() => tasks.count().done === 4);
  }
});

test("run() says how many tasks are to come", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(0);
  await tasks.schedule(1);
  tasks.schedule(2); // pending
  const run = tasks.run({ processes: 1 });
  assert.equal(run.total, 3);
  let seen = 0;
  for await (const _ of run) {
    assert.equal(run.total, 3);
    seen++;
  }
  assert.equal(seen, 3);
  assert.equal(run.total, 3);
});

test("run() of an empty list ends at once", async () => {
  using folder = temporary();
  const run = new TaskList(folder.file("list")).run();
  assert.equal(run.total, 0);
  assert.deepEqual(await Array.fromAsync(run), []);
});

test("a run that is awaited gives all its tasks", async () => {
  using folder = temporary();
  const tasks = new TaskList<number>(folder.file("list"));
  for (let i = 0; i < 3; i++) tasks.schedule(defer(Math.sqrt, i));
  const finished = await tasks.run();
  const values: (number | undefined)[] = finished.map(({ returnValue }) => returnValue);
  assert.deepEqual(values.sort(), [0, 1, Math.sqrt(2)]);
  assert.deepEqual(await tasks.run(), []);
  for (let i = 0; i < 3; i++) tasks.schedule(i);
  const run = tasks.run();
  const lengths = await Promise.all([run, run].map(async (run) => (await run).length));
  assert.deepEqual([...lengths, (await run).length], [3, 3, 3]);
});

test("a run that is awaited rejects as one that is looped over throws", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 3; i++) tasks.schedule(defer(fixture.throwDetailed, "no"));
  await assert.rejects(async () => await tasks.run({ maxFailures: 0 }), /Stopped after/);
});

test("a run that is neither looped over nor awaited is said at the end of the program", () => {
  using folder = temporary();
  const { stdout, stderr, code } = runProgram(
    folder,
    `const tasks = new TaskList("list");
     await tasks.schedule(1);
     tasks.run();
     await tasks.run({ ids: [] });
     console.log(tasks.count().todo);`,
  );
  assert.deepEqual([stdout, code], ["1\n", 0]);
  assert.equal(
    stderr,
    "forrest: a `run()` was neither looped over nor awaited: it has done nothing\n",
  );
});

test("`collect` gives what has an outcome already, and then what this run does", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (const id of ["b", "a"]) tasks.schedule(id, { id });
  tasks.schedule(defer(fixture.throwDetailed, "no"), { id: "c" });
  await tasks.run();
  for (const id of ["0", "d"]) tasks.schedule(id, { id });
  const run = tasks.run({ collect: true, processes: 1 });
  assert.equal(run.total, 5);
  const collected = await Array.fromAsync(run, ({ id, state }) => `${state}/${id}`);
  assert.deepEqual(collected, ["done/a", "done/b", "fail/c", "done/0", "done/d"]);
  assert.equal(run.total, 5);
});

test("no more tasks are started in a second than `perSecond` says", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const path = folder.file("times");
  for (let i = 0; i < 4; i++) tasks.schedule(defer(fixture.trace, path, "started"));
  const begin = performance.now();
  await tasks.run({ processes: 4, perSecond: 4 });
  assert.ok(performance.now() - begin >= 740); // three pauses
  assert.equal(folder.lines("times").length, 4);
});

test("one process holds as many tasks at once as `concurrency` says", async () => {
  using folder = temporary();
  mkdirSync(folder.file("meeting"));
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 20; i++) tasks.schedule(defer(fixture.meet, folder.file("meeting"), 20));
  const pids = await Array.fromAsync(
    tasks.run({ processes: 2, concurrency: 10 }),
    (task) => task.errorValue ?? task.returnValue,
  );
  assert.equal(pids.length, 20);
  assert.equal(new Set(pids).size, 2);
});

test("thousands of waiting calls need few processes", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const wait = (i: number) => new Promise<number>((resolve) => setTimeout(resolve, 20, i));
  await Promise.all(Array.from({ length: 1000 }, (_, i) => tasks.schedule(defer(wait, i))));
  let sum = 0;
  for await (const task of tasks.run({ processes: 2, concurrency: 500 })) {
    sum += task.returnValue as number;
  }
  assert.equal(sum, 499_500);
});

test("many network calls at once: slow, failing and hanging ones do not hold up the others", async () => {
  let [answered, answerSlowOne] = [0, () => {}];
  const server = createServer((request, response) => {
    const answer = (status: number) => response.writeHead(status).end(request.url);
    if (request.url === "/hang") return;
    if (request.url === "/slow") answerSlowOne = () => answer(200);
    else answer(request.url === "/fail" ? 500 : 200);
    if (request.url !== "/slow") answered++;
    if (answered === 41) answerSlowOne(); // last of all
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  using folder = temporary();
  try {
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const tasks = new TaskList(folder.file("list"));
    const paths = ["/slow", "/hang", "/fail", ...Array.from({ length: 40 }, (_, i) => `/${i}`)];
    for (const path of paths) {
      tasks.schedule(defer(fixture.fetchText, base + path), { metadata: path });
    }
    const outcomes = new Map<unknown, unknown>();
    for await (const task of tasks.run({ processes: 1, concurrency: 50, autokill: 3 })) {
      outcomes.set(task.metadata, task.returnValue ?? (task.errorValue as Error).message);
    }
    assert.equal(outcomes.size, 43);
    assert.equal(outcomes.get("/slow"), "/slow");
    assert.equal(outcomes.get("/39"), "/39");
    assert.match(outcomes.get("/fail") as string, /fail: 500/);
    assert.match(outcomes.get("/hang") as string, /killed after 3 s/);
    assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 41, fail: 2 });
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test("a task may run a list and a map of its own", async () => {
  using folder = temporary();
  const nested = async (module: string, directory: string) => {
    const { defer, map, TaskList } = await import(module);
    const tasks = new TaskList(directory);
    tasks.schedule(defer(Math.sqrt, 16));
    const results = await Array.fromAsync(map(Math.sqrt, [25]));
    for await (const { returnValue } of tasks.run()) results.push(returnValue);
    return results;
  };
  const task = defer(nested, module, folder.file("nested"));
  assert.deepEqual(await resultOf(task), [5, 4]);
});

test("run() runs only the tasks whose ids it is given", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (const id of ["a", "b", "c"]) await tasks.schedule(id, { id });
  const ids = await Array.fromAsync(tasks.run({ ids: ["c", "a", "lost"] }), ({ id }) => id);
  assert.deepEqual(ids.sort(), ["a", "c"]);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 2, fail: 0 });
});

test("run() starts nothing more once `mayStart` is false", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 5; i++) tasks.schedule(i);
  const run = tasks.run({ processes: 1, mayStart: () => tasks.count().done < 2 });
  const values = await Array.fromAsync(run, (task) => task.returnValue);
  assert.deepEqual(values, [0, 1]);
  assert.deepEqual(tasks.count(), { todo: 3, running: 0, done: 2, fail: 0 });
});

test("`mayStart` is asked once before each task", async () => {
  for (const options of [{ processes: 1 }, { processes: 2 }, { tasksPerProcess: 10 }]) {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"));
    for (let i = 0; i < 8; i++) tasks.schedule(i);
    let asked = 0;
    await Array.fromAsync(tasks.run({ ...options, mayStart: () => ++asked <= 3 }));
    assert.deepEqual(tasks.count(), { todo: 5, running: 0, done: 3, fail: 0 });
    assert.equal(asked, 4);
  }
});

test("a module that throws is evaluated once", async () => {
  using folder = temporary();
  const note = 'require("node:fs").appendFileSync(__dirname + "/notes", "evaluated\\n");';
  const module = folder.write("broken.cjs", `${note} throw new RangeError("broken");`);
  const task = defer(new URL(`file://${module}#call`));
  const { errorValue } = await outcomeOf(task);
  assert.match(String(errorValue), /RangeError: broken/);
  assert.deepEqual(folder.lines("notes"), ["evaluated"]);
});

test("the last tasks are shared among kept processes, though those before were quick", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  mkdirSync(folder.file("meeting"));
  for (let i = 0; i < 2000; i++) tasks.schedule(i);
  for (let i = 0; i < 16; i++) {
    tasks.schedule(defer(fixture.sleepWithOthers, folder.file("meeting"), 2));
  }
  const pids: unknown[] = [];
  for await (const { returnValue } of tasks.run({ processes: 2, tasksPerProcess: Infinity })) {
    if (typeof returnValue === "string") pids.push(returnValue);
  }
  const [most] = [...Map.groupBy(pids, (pid) => pid).values()].sort((a, b) => b.length - a.length);
  assert.ok(
    pids.length === 16 && most.length <= 11,
    `${most.length} of ${pids.length} in one process`,
  );
});

test("tasks that wait in one process may start tasks of their own at any time", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 30; i++) tasks.schedule(defer(fixture.mapOften, 3));
  const outcomes: unknown[] = [];
  for await (const task of tasks.run({ processes: 1, concurrency: 20 })) {
    outcomes.push(task.returnValue ?? task.errorValue);
  }
  assert.deepEqual(outcomes, Array(30).fill(0));
});

test("run() with ids takes each once, knows how many they are, and ignores those that are not there", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (const id of ["a", "b", "c"]) tasks.schedule(id, { id });
  const run = tasks.run({ ids: ["c", "a", "a", "../todo/b", "d"] });
  assert.equal(run.total, 5);
  assert.deepEqual((await Array.fromAsync(run, ({ id }) => id)).sort(), ["a", "c"]);
  assert.equal(tasks.count().todo, 1);
});

test("ids that no file can have are ignored", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(defer(fixture.throwDetailed, "broken"), { id: "a" });
  const odd = ["x".repeat(300), "x\0", "../done/a", ""];
  assert.deepEqual(await Array.fromAsync(tasks.run({ ids: odd })), []);
  await Array.fromAsync(tasks.run({ ids: ["a", ...odd] }));
  assert.equal(tasks.count().fail, 1);
  renameSync(folder.file("list/fail/a.json"), folder.file("list/done/a.json"));
  assert.equal(await tasks.retry(odd), 0);
});

test("the first answer of a kept process is no reason to hold many tasks ready", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const text = "export const late = () => new Promise((_, reject) => setTimeout(reject, 100, 1));";
  const url = new URL(`file://${folder.write("late.ts", text)}#late`);
  for (let i = 0; i < 40; i++) tasks.schedule(defer(url));
  const failed: Task[] = [];
  const run = async () => {
    for await (const task of tasks.run({ processes: 1, tasksPerProcess: 100, maxFailures: 1 })) {
      failed.push(task);
    }
  };
  await assert.rejects(run, /Stopped after/);
  assert.ok(failed.length < 8, `${failed.length} have failed`);
});

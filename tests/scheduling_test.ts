/** Scheduling: ids, schedules that nobody awaits, the same again. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import * as fixture from "./fixtures/tasks.ts";
import { identity } from "./fixtures/tasks.ts";
import { runProgram, temporary, test, until, writeProgram } from "./helpers.ts";
import { defer, TaskList } from "./library.ts";

test("run() throws the error of a schedule that nobody has awaited", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const expected = { name: "TypeError", message: /args\[0\]/ };
  tasks.schedule(defer(identity, Symbol("pending")));
  await assert.rejects(Array.fromAsync(tasks.run()), expected);
  tasks.schedule(defer(identity, Symbol("settled")));
  await new Promise((resolve) => setTimeout(resolve, 50));
  await assert.rejects(Array.fromAsync(tasks.run()), expected);
});

test("run() does not repeat the error of a schedule that somebody has caught", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await assert.rejects(tasks.schedule(defer(identity, Symbol("s"))));
  tasks.schedule(defer(identity, Symbol("s"))).catch(() => {});
  tasks.schedule(7);
  const values = await Array.fromAsync(tasks.run(), (task) => task.returnValue);
  assert.deepEqual(values, [7]);
});

test("an error of a schedule that nobody has seen does not end the program before run()", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const tasks = new TaskList("list");
     tasks.schedule(Symbol("s"));
     await new Promise((resolve) => setTimeout(resolve, 100));
     try { for await (const _ of tasks.run()); } catch (error) { console.log(error.message); }`,
  );
  assert.match(stdout, /`value` is a symbol/);
  assert.equal(stderr, "");
});

test("tasks run in the order in which they were scheduled", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 12; i++) tasks.schedule(defer(identity, i));
  const more = new TaskList(folder.file("list"), { existOk: true, preClean: false });
  for (let i = 12; i < 16; i++) more.schedule(defer(i % 2 ? Math.abs : identity<number>, i));
  assert.equal((await Array.fromAsync(tasks.todoTasks())).length >= 12, true);
  const values = await Array.fromAsync(more.run({ processes: 1 }), (task) => task.returnValue);
  assert.deepEqual(values, [...Array(16).keys()]);
});

test("tasks that are scheduled while a list runs are run too", async () => {
  using folder = temporary();
  const tasks = new TaskList<number>(folder.file("list"));
  tasks.schedule(defer(identity<number>, 3));
  const values: number[] = [];
  for await (const { returnValue } of tasks.run({ processes: 1 })) {
    values.push(returnValue!);
    if (returnValue! > 0) await tasks.schedule(defer(identity<number>, returnValue! - 1));
  }
  assert.deepEqual(values, [3, 2, 1, 0]);
});

test("an id that is running is not scheduled again", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.waitFor, folder.file("go")), { id: "slow" });
  tasks.schedule(1, { id: "quick" });
  for await (const { id } of tasks.run({ processes: 2 })) {
    if (id !== "quick") continue;
    await until(() => tasks.count().running === 1);
    assert.deepEqual(await tasks.schedule(2, { id: "slow" }), { id: "slow", scheduled: false });
    assert.deepEqual(
      await Array.fromAsync(tasks.runningTasks(), ({ id, state }) => [id, state]),
      [["slow", "running"]],
    );
    folder.write("go", "");
  }
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 2, fail: 0 });
});

test("the same id scheduled many times at once is scheduled once", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const all = Array.from({ length: 10 }, () => tasks.schedule(1, { id: "same" }));
  const scheduled = (await Promise.all(all)).filter(({ scheduled }) => scheduled);
  assert.equal(scheduled.length, 1);
  assert.equal(tasks.count().todo, 1);
});

test("the same ids scheduled by several programs at once are scheduled once", async () => {
  using folder = temporary();
  const [file, args, options] = writeProgram(
    folder,
    `import { existsSync, writeFileSync } from "node:fs";
     const tasks = new TaskList("list", { existOk: true, preClean: false });
     writeFileSync(\`ready-\${process.pid}\`, "");
     while (!existsSync("go")) await new Promise((resolve) => setTimeout(resolve, 1));
     for (let id = 0; id < 200; id++) {
       if ((await tasks.schedule(process.pid, { id: \`\${id}\` })).scheduled) console.log(id);
     }`,
  );
  const programs = Array.from({ length: 4 }, async () => {
    const program = spawn(file, args, options);
    let text = "";
    for await (const chunk of program.stdout) text += chunk;
    return text.split("\n").filter(Boolean);
  });
  const ready = () => readdirSync(folder.file("")).filter((name) => name.startsWith("ready-"));
  await until(() => ready().length === 4);
  folder.write("go", ""); // for all of them
  const printed = await Promise.all(programs);
  assert.equal(printed.flat().length, 200);
  assert.equal(new Set(printed.flat()).size, 200);
});

test("ids that are no file names are refused with the reason", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (const id of ["", ".", "..", "a/b", "../a", ".hidden", "a\0b", "x".repeat(300), "a\\b"]) {
    await assert.rejects(
      tasks.schedule(1, { id }),
      { name: "TypeError", message: /as an id: it must be a file name/ },
      id,
    );
  }
  for (const id of ["a b", "ü", "https:%2F%2Fexample.org", "1", "a.b.json", "x".repeat(150)]) {
    await tasks.schedule(1, { id });
  }
  const ids = await Array.fromAsync(tasks.run(), (task) => task.id);
  assert.equal(new Set(ids).size, 6);
  assert.equal(tasks.count().done, 6);
});

test("`retryFailed` runs the task as it is scheduled now", async () => {
  using folder = temporary();
  const options = { existOk: true, preClean: false, retryFailed: true };
  const first = new TaskList(folder.file("list"), options);
  await first.schedule(defer(fixture.throwDetailed, "htp://x"), { id: "page", metadata: 1 });
  await Array.fromAsync(first.run({ processes: 1 }));
  assert.equal(first.count().fail, 1);
  const second = new TaskList(folder.file("list"), options);
  const { scheduled } = await second.schedule(defer(identity, "http://x"), { id: "page" });
  assert.equal(scheduled, true);
  assert.deepEqual(second.count(), { todo: 1, running: 0, done: 0, fail: 0 });
  const [task] = await Array.fromAsync(second.run({ processes: 1 }));
  assert.deepEqual([task.returnValue, task.metadata], ["http://x", undefined]);
  assert.deepEqual(second.count(), { todo: 0, running: 0, done: 1, fail: 0 });
});

test("a `schedule()` that fails is reported at the end, if nobody has seen it", () => {
  using folder = temporary();
  const text = (rest: string) =>
    `const tasks = new TaskList("list" + Math.random());
     const scheduled = tasks.schedule(new WeakMap());
     tasks.schedule(1);
     ${rest}`;
  const unseen = runProgram(folder, text(""));
  assert.equal(unseen.code, 1);
  assert.match(unseen.stderr, /^Uncaught in `schedule\(\)`: TypeError: `value` is a WeakMap/);
  const thrice = runProgram(
    folder,
    text(`for (let i = 0; i < 3; i++) {
       try {
         for await (const _ of tasks.run()) { /* none */ }
       } catch { /* it is seen */ }
       tasks.schedule(i, { id: "../bad" });
     }`),
  );
  assert.equal(thrice.stderr.match(/Uncaught/g)?.length, 1);
  const seen = runProgram(folder, text("await scheduled.catch(() => {});"));
  assert.deepEqual(seen, { code: 0, stdout: "", stderr: "" });
});

test("what is scheduled while a run ends belongs to it, and so does what goes wrong there", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(0);
  const seen: unknown[] = [];
  const crawl = async (last: unknown) => {
    for await (const { returnValue } of tasks.run({ processes: 2 })) {
      seen.push(returnValue);
      if (seen.length < 8) tasks.schedule(seen.length);
      if (seen.length === 8) tasks.schedule(last);
    }
  };
  await crawl(8);
  assert.deepEqual(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
  seen.splice(0);
  tasks.schedule(0);
  await assert.rejects(crawl(new WeakMap()), /WeakMap and cannot be stored/);
  assert.equal(seen.length, 8);
});

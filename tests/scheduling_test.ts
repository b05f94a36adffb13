/** Scheduling: ids, schedules that nobody awaits, the same again. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import * as fixture from "./fixtures/tasks.ts";
import { identity } from "./fixtures/tasks.ts";
import { runProgram, runtime, temporary, test, until, writeProgram } from "./helpers.ts";
import { defer, TaskList } from "./library.ts";

test("a schedule that fails, and whose error is handled, is no matter of the run", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await assert.rejects(tasks.schedule(defer(identity, Symbol("s"))));
  tasks.schedule(defer(identity, Symbol("s"))).catch(() => {});
  tasks.schedule(7);
  const values = await Array.fromAsync(tasks.run(), (task) => task.returnValue);
  assert.deepEqual(values, [7]);
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
  for (
    const id of ["", ".", "..", "a/b", "../a", ".hidden", "a\0b", "a\nb", "x".repeat(300), "a\\b"]
  ) {
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

test("a `schedule()` that fails, and that nobody handles, ends the program as any rejection does", () => {
  using folder = temporary();
  const text = (rest: string) =>
    `const tasks = new TaskList("list" + Math.random());
     const scheduled = tasks.schedule(new WeakMap());
     tasks.schedule(1);
     ${rest}`;
  const loop = "for await (const task of tasks.run()) console.log(task.returnValue);";
  const refusal = /TypeError: `value` is a WeakMap and cannot be stored/;
  const later = "await new Promise((done) => setTimeout(done, 100)); console.log(1);";
  for (const rest of ["", later, loop]) {
    const unhandled = runProgram(folder, text(rest));
    assert.notEqual(unhandled.code, 0);
    assert.match(unhandled.stderr, refusal);
    // Bun goes on while the main module waits at its top
    assert.equal(unhandled.stdout, runtime === "bun" && rest ? "1\n" : "");
  }
  const handled = runProgram(folder, text(`scheduled.catch(() => {}); ${loop}`));
  assert.deepEqual(handled, { code: 0, stdout: "1\n", stderr: "" });
});

test("what is scheduled while a run ends belongs to it, also if some of it is refused", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(0);
  const seen: unknown[] = [];
  const refused: string[] = [];
  for await (const { returnValue } of tasks.run({ processes: 2 })) {
    seen.push(returnValue);
    if (seen.length > 8) continue;
    tasks.schedule(new WeakMap()).catch(({ message }) => refused.push(message));
    tasks.schedule(seen.length);
  }
  assert.deepEqual(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
  assert.equal(refused.length, 8);
});

test("a promise, or a function, is no task: `defer` was forgotten", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const add = async (x: number) => await Promise.resolve(x + 1);
  const forgotten = [add(1), Promise.resolve(defer(add, 1)), () => add(1), add, { then: add }];
  for (const task of forgotten as never[]) {
    const message = /^Cannot schedule a (promise|function), which is no task: `defer\(fn/;
    await assert.rejects(tasks.schedule(task), { name: "TypeError", message });
  }
  assert.equal(tasks.count().todo, 0);
});

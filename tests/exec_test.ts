/** `exec()`: one task, here. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import * as fixture from "./fixtures/tasks.ts";
import { runProgram, runtime, session, temporary, test } from "./helpers.ts";
import { defer, exec, TaskList } from "./library.ts";

declare const factor: number;

test("exec() with `raise` throws where the task does, and changes no file", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.throwDetailed, "broken"), { id: "bad" });
  await Array.fromAsync(tasks.run());
  const path = folder.file("list/fail/bad.json");
  const before = readFileSync(path, "utf8");
  await assert.rejects(exec(path, { raise: true }), (error: Error) => {
    assert.ok(error instanceof RangeError);
    assert.match(error.stack!, /throwDetailed.*fixtures\/tasks\.ts:\d+/);
    return true;
  });
  assert.equal(readFileSync(path, "utf8"), before);
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 1 });
});

test("exec() with `output` writes the outcome there, and leaves the task as it is", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(defer((x: number) => x * factor, 6), { id: "x", metadata: "kept" });
  const output = folder.file("out.json");
  const task = await exec(folder.file("list/todo/x.json"), { output, session });
  assert.equal(task.returnValue, 42);
  const written = JSON.parse(readFileSync(output, "utf8"));
  assert.deepEqual([written.returnValue, written.metadata], [42, "kept"]);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
});

test("exec() of a task with a `cwd` comes back from there, and writes where it was called", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const start = process.cwd();
     const tasks = new TaskList("list");
     await tasks.schedule(defer(decodeURI, "%"), { id: "a", cwd: "elsewhere" });
     await exec("list/todo/a.json", { output: "out.json" });
     await exec("list/todo/a.json", { raise: true }).catch((error) => console.log(error.name));
     console.log(process.cwd() === start);`,
    { "elsewhere/file": "" },
  );
  assert.deepEqual([stdout, stderr], ["URIError\ntrue\n", ""]);
  assert.equal(JSON.parse(folder.read("out.json")).errorValue.$error.name, "URIError");
});

test("exec() with `raise` refuses a result that cannot be stored, as a run does", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(() => () => 1), { id: "x" });
  const [{ errorValue }] = await tasks.run();
  assert.match(`${errorValue}`, /`returnValue` is a function and cannot be stored/);
  await assert.rejects(exec(folder.file("list/fail/x.json"), { raise: true }), errorValue as Error);
});

test("exec() of a file that is not there throws with its name", async () => {
  using folder = temporary();
  const path = folder.file("lost.json");
  await assert.rejects(exec(path), /lost\.json/);
  await assert.rejects(exec(path, { raise: true }), /lost\.json/);
});

test("exec() finds a task in a list with a colon in its name", () => {
  using folder = temporary();
  const text = `new TaskList("my:list").schedule(7, { id: "a" });`;
  assert.equal(runProgram(folder, text).stderr, "");
  const { stdout, stderr } = runProgram(
    folder,
    `console.log((await exec("my:list//todo/a.json")).state, (await exec("my:list/todo/a.json")).returnValue);`,
  );
  assert.deepEqual([stdout, stderr], ["todo 7\n", ""]);
});

test("exec() takes tasks of the program that calls it", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `export const unlucky = (item: number) => { throw new RangeError(String(item)); };
     if (import.meta.main) {
       const tasks = new TaskList("list");
       tasks.schedule(defer(unlucky, 13), { id: "x" });
       for await (const { id } of tasks.run()) console.log(id);
       console.log(String((await exec("list/fail/x.json")).errorValue));
     }`,
  );
  const wanted = runtime === "deno"
    ? "x\nRangeError: 13\n"
    : /^x\nError: Bun cannot import `.*forrest exec/;
  if (typeof wanted === "string") assert.equal(stdout, wanted, stderr);
  else assert.match(stdout, wanted, stderr); // Bun waits for ever there
});

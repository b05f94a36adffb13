/**
 * What the library exports for those who look at a list as the command does.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import process from "node:process";
import { decode, defer, encode, listen, locate, states, TaskList } from "../mod.ts";
import { temporary, test } from "./cli_helpers.ts";

const asItIs = { existOk: true, preClean: false };

test("`states` are the four folders of a list, in the order in which a task goes through them", () => {
  assert.deepEqual([...states], ["todo", "running", "done", "fail"]);
});

test("`locate` says of a path which task of which list it is, also while that runs", () => {
  const [directory, id] = ["/a/list", "7"];
  assert.deepEqual(locate("/a/list/done/7.json"), { directory, state: "done", id });
  assert.deepEqual(locate("/a/list/running/7.json@host.1.2.3"), {
    ...{ directory, state: "running", id },
  });
  assert.equal(locate("list/todo/a@b.json").id, "a@b");
});

test("`encode` and `decode` write a value as a task file holds it, and read it back", () => {
  const value = { when: new Date(7), all: new Set([1n, undefined]), plain: [1, "two", null] };
  const stored = encode(value, "value");
  assert.deepEqual(stored, {
    when: { $date: "1970-01-01T00:00:00.007Z" },
    all: { $set: [{ $bigint: "1" }, { $undefined: true }] },
    plain: [1, "two", null],
  });
  assert.deepEqual(decode(JSON.parse(JSON.stringify(stored))), value);
  assert.throws(() => encode({ a: [() => 1] }, "settings"), {
    name: "TypeError",
    message: /^`settings\.a\[0\]` is a function and cannot be stored/,
  });
});

test("`listen` calls back for each signal, until what it gives is called", async () => {
  let heard = 0;
  const others = listen("SIGUSR2", () => {}); // without any listener, the signal would end this
  const stop = listen("SIGUSR2", () => heard++);
  const signal = async () => {
    process.kill(process.pid, "SIGUSR2");
    await new Promise((resolve) => setTimeout(resolve, 100));
  };
  for (let tries = 0; !heard && tries < 100; tries++) await signal();
  assert.ok(heard > 0);
  stop();
  const before = heard;
  await signal();
  assert.equal(heard, before);
  others();
});

test("`find` and `paths` give the files of tasks, whichever their state", async () => {
  using project = temporary();
  const tasks = new TaskList(project.file("list"));
  for (const id of ["c", "a", "b"]) tasks.schedule(defer(Number, "1"), { id });
  await tasks.schedule(defer(JSON.parse, "{"), { id: "bad" });
  const waiting = ["a", "b", "bad", "c"].map((id) => `${tasks.directory}/todo/${id}.json`);
  assert.deepEqual([...tasks.paths("todo")], waiting);
  assert.equal(tasks.find("a"), waiting[0]);
  for await (const _task of tasks.run()) { /* each is filed */ }
  assert.equal(tasks.find("a"), `${tasks.directory}/done/a.json`);
  assert.deepEqual([...tasks.paths("fail")], [`${tasks.directory}/fail/bad.json`]);
  assert.equal(tasks.find("nowhere"), undefined);
});

test("`find` and `paths` give the claim of a task that runs; `recover` puts back what a dead run has left", async () => {
  using project = temporary();
  project.add("mark", project.file("begun"));
  const [id] = project.ids("todo");
  const run = project.start("run", "list");
  await project.until(() => existsSync(project.file("begun")));
  const tasks = new TaskList(project.file("list"), asItIs);
  assert.equal(locate(tasks.find(id)!).state, "running");
  assert.deepEqual([...tasks.paths("running")], [tasks.find(id)]);
  tasks.recover();
  assert.deepEqual(tasks.count(), { todo: 0, running: 1, done: 0, fail: 0 }, "its run lives");
  run.kill("SIGKILL");
  await run.code;
  await project.until(() => { // as who was alive a moment ago may not be looked at again at once
    tasks.recover();
    return tasks.count().running === 0;
  });
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
  assert.equal(tasks.find(id), `${tasks.directory}/todo/${id}.json`);
});

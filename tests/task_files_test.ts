/** Task files by others: by hand, by Python, and what is none. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, renameSync } from "node:fs";
import { add } from "./fixtures/tasks.ts";
import { fixtures, temporary, test } from "./helpers.ts";
import { defer, readTask, TaskList } from "./library.ts";

test("a task file that begins with a byte order mark runs", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write("list/todo/marked.json", '\uFEFF{ "steps": [{ "value": 5 }] }');
  const [task] = await Array.fromAsync(tasks.todoTasks());
  assert.deepEqual([task.id, task.errorValue], ["marked", undefined]);
  const [done] = await Array.fromAsync(tasks.run({ processes: 1 }));
  assert.deepEqual([done.id, done.returnValue], ["marked", 5]);
});

const python = spawnSync("python3", ["--version"]).status === 0;

test("a task file written by a Python script runs", {
  skip: !python && "there is no python3 on this machine",
}, async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write(
    "schedule.py",
    `import json, os, sys
directory, module = sys.argv[1:]
for number in range(3):
    task = {"steps": [
        {"call": module + "#add", "args": [number, 1]},
        {"call": "Math.sqrt", "args": [{"$step": 0}]},
        {"value": {"root": {"$step": 1}, "text": "ü", "big": {"$bigint": str(2 ** 70)}}},
    ], "metadata": {"number": number}}
    path = os.path.join(directory, "running", ".from-python")
    with open(path, "w") as file:
        json.dump(task, file)
    os.rename(path, os.path.join(directory, "todo", f"python-{number}.json"))
`,
  );
  const script = [folder.file("schedule.py"), tasks.directory, fixtures];
  assert.equal(spawnSync("python3", script, { encoding: "utf8" }).stderr, "");
  const outcomes = await Array.fromAsync(tasks.run({ processes: 1 }));
  assert.deepEqual(outcomes.map(({ errorValue }) => errorValue), Array(3).fill(undefined));
  assert.deepEqual(outcomes.map(({ returnValue }) => returnValue), [
    { root: 1, text: "ü", big: 2n ** 70n },
    { root: Math.SQRT2, text: "ü", big: 2n ** 70n },
    { root: Math.sqrt(3), text: "ü", big: 2n ** 70n },
  ]);
  assert.deepEqual(
    outcomes.map(({ metadata }) => metadata),
    [0, 1, 2].map((number) => ({ number })),
  );
  assert.deepEqual(readdirSync(folder.file("list/done")).length, 3);
});

test("task files that are none fail with a message that says why", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const files: Record<string, [string, RegExp]> = {
    "no json": ["this is no task", /Cannot read the task/],
    empty: ["", /Cannot read the task/],
    "no object": ["[1, 2]", /`steps` must be an array/],
    null: ["null", /`steps` must be an array/],
    "no steps": ['{ "metadata": 1 }', /`steps` must be an array/],
    "empty steps": ['{ "steps": [] }', /`steps` must be an array of at least one/],
    "wrong step": ['{ "steps": [{ "value": 1 }, { "cal": "x" }] }', /`steps\[1\]` must be/],
    "wrong args": ['{ "steps": [{ "call": "Math.max", "args": 5 }] }', /`steps\[0\].*must be/],
    "wrong call": ['{ "steps": [{ "call": 5 }] }', /`call` is 5/],
    "no global": ['{ "steps": [{ "call": "Math.lost" }] }', /`Math\.lost` is not a function/],
    "later step": ['{ "steps": [{ "value": { "$step": 1 } }, { "value": 1 }] }', /`\$step`: 1/],
    "no date": ['{ "steps": [{ "value": { "$date": "soon" } }] }', /`\$date`: `soon` is no date/],
    "unknown key": ['{ "steps": [{ "value": { "$lost": 1 } }] }', /`\$lost` is no way to store/],
    dangerous: [
      '{ "steps": [{ "value": {} }, { "value": { "$step": 0, "path": ["__proto__", "x"] } }] }',
      /`__proto__` cannot be a part/,
    ],
  };
  for (const [id, [text]] of Object.entries(files)) folder.write(`list/todo/${id}.json`, text);
  const messages = new Map<string, string>();
  for await (const task of tasks.run({ processes: 2 })) {
    messages.set(task.id, (task.errorValue as Error)?.message);
  }
  for (const [id, [, message]] of Object.entries(files)) {
    assert.match(messages.get(id) ?? "nothing", message, id);
  }
  assert.equal(tasks.count().fail, Object.keys(files).length);
});

test("what is no task is not tried again, and is kept as it was", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write("list/todo/broken.json", '{ "precious": ');
  const [task] = await Array.fromAsync(tasks.run({ processes: 1, retries: 2 }));
  assert.match(String(task.errorValue), /^SyntaxError: Cannot read the task `broken\.json`/);
  assert.equal(folder.read("list/fail/broken.json.original"), '{ "precious": ');
});

test("what was no task is kept, also if its error is put back by hand in its place", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write("list/todo/broken.json", '{ "precious": ');
  await tasks.run();
  renameSync(folder.file("list/fail/broken.json"), folder.file("list/todo/broken.json"));
  const [task] = await tasks.run();
  assert.match(String(task.errorValue), /`fail\/broken\.json\.original`: repair that/);
  assert.equal(folder.read("list/fail/broken.json.original"), '{ "precious": ');
});

test("a task file reads one line for each step", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(defer(add, defer(add, 1, 2), 3), { id: "x", metadata: { a: 1 } });
  assert.equal(
    folder.read("list/todo/x.json"),
    `{
  "steps": [
    {"call":"${fixtures}#add","args":[1,2]},
    {"call":"${fixtures}#add","args":[{"$step":0,"path":[]},3]}
  ],
  "metadata": {"a":1}
}
`,
  );
});

test("readTask() reads a task file, and says in its error that it cannot", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(1, { id: "x", metadata: new Set([1]) });
  const task = readTask(folder.file("list/todo/x.json"));
  assert.deepEqual([task.id, task.state, task.metadata], ["x", "todo", new Set([1])]);
  folder.write("list/fail/broken.json", "{");
  const broken = readTask(folder.file("list/fail/broken.json"));
  assert.equal(broken.id, "broken");
  assert.match((broken.errorValue as Error).message, /Cannot read the task `.*broken\.json`/);
});

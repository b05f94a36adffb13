/** What tasks print: on the terminal, into the log, and beside their answers. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync } from "node:fs";
import * as fixture from "./fixtures/tasks.ts";
import { fixtures, resultOf, runProgram, runtime, temporary, test } from "./helpers.ts";
import { writeProgram } from "./helpers.ts";
import { defer, TaskList } from "./library.ts";

test("`printErrors` prints the full stack of every error at once", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `import { throwDetailed } from "${fixtures}";
     const tasks = new TaskList("list");
     tasks.schedule(defer(throwDetailed, "it broke"), { id: "broken" });
     for await (const task of tasks.run({ printErrors: true })) console.log(task.state);`,
  );
  assert.equal(stdout, "fail\n");
  assert.match(stderr, /RangeError: it broke/);
  assert.match(stderr, /fixtures\/tasks\.ts:\d+/);
  assert.match(stderr, /the cause/);
});

test("without `printErrors` and `logFile`, only what tasks print is on the terminal", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `import { print, throwDetailed } from "${fixtures}";
     const tasks = new TaskList("list");
     tasks.schedule(defer(throwDetailed, "it broke"));
     tasks.schedule(defer(print, "out\\n", "err\\n"));
     for await (const task of tasks.run());`,
  );
  assert.equal(stdout, "out\n");
  assert.equal(stderr, "err\n");
});

test("a log that cannot be written is refused before anything is started", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"), { logFile: folder.file("nowhere/log") });
  await tasks.schedule(defer(Math.sqrt, 16));
  assert.throws(() => tasks.run(), /ENOENT.*nowhere/);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
});

test("a run without `logFile` keeps a log in its list, beside what it prints", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const tasks = new TaskList("list");
     tasks.schedule(defer(() => console.log("said")), { id: "a" });
     await tasks.run();`,
  );
  assert.deepEqual([stdout, stderr], ["said\n", ""]);
  const log = folder.lines("list/log.txt").map((line) =>
    line.replace(/^\S+ /, "").replace(/\d+$/, "N")
  );
  assert.deepEqual(log, ["a is started in process N", "a | said", "a is in `done`"]);
});

test("the log of a list goes with all of its tasks, and stays with some", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(1);
  await tasks.run();
  tasks.clean({ done: true });
  assert.ok(existsSync(folder.file("list/log.txt")));
  new TaskList(folder.file("list"), { existOk: true });
  assert.ok(!existsSync(folder.file("list/log.txt")));
});

test("a list that is removed takes its log along", async () => {
  using folder = temporary();
  {
    await using tasks = new TaskList(folder.file("list"), { postClean: true });
    tasks.schedule(1);
    await tasks.run();
  }
  assert.ok(!existsSync(folder.file("list")));
});

test("`onOutput` gets what tasks print, with the stream and the id", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.print, "ünï🏃 out", "err\n"), { id: "noisy" });
  const output = { stdout: "", stderr: "" };
  const ids = new Set<string>();
  const onOutput = (text: string, stream: "stdout" | "stderr", id: string) => {
    output[stream] += text;
    ids.add(id);
  };
  const [task] = await Array.fromAsync(tasks.run({ onOutput }));
  assert.equal(task.returnValue, "printed");
  assert.deepEqual(output, { stdout: "ünï🏃 out", stderr: "err\n" });
  assert.deepEqual([...ids], ["noisy"]);
});

test("results of any length come back, however much the task has printed", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const lengths = [0, 9_900, 10_100, 30_000, 59_500, 59_900, 60_100, 66_000, 300_000];
  for (const length of lengths) tasks.schedule(defer(fixture.printAndReturn, length));
  let printed = 0;
  const run = tasks.run({ processes: 2, onOutput: (text) => printed += text.length });
  for await (const { returnValue } of run) {
    const text = returnValue as string;
    assert.equal(text, "ü".repeat(text.length));
    lengths.splice(lengths.indexOf(text.length), 1);
  }
  assert.deepEqual(lengths, []);
  assert.equal(printed, 595_500 + 9 * "end.\n".length);
});

test("what a task prints is never mistaken for an answer, and always drained", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const noise = '\x1e["x","done",1]\n\x1e[]\n\x1e\n\x1e{"a":1}\n' + "x".repeat(1_000_000) + "\x1e";
  tasks.schedule(defer(fixture.print, noise));
  tasks.schedule(1);
  let printed = "";
  const options = { processes: 1, tasksPerProcess: 2, onOutput: (text: string) => printed += text };
  const values = await Array.fromAsync(tasks.run(options), (task) => task.returnValue);
  assert.deepEqual(values, ["printed", 1]);
  assert.ok(printed === noise, `${printed.length} characters for ${noise.length}`);
});

/** Lets a stream that others write to refuse at once what it has no room for, as a child of Bun leaves it. */
const unblock = `perl -MFcntl -e 'fcntl(STDOUT, F_SETFL, O_NONBLOCK | fcntl(STDOUT, F_GETFL, 0))'`;

test("a run waits for a slow reader of what its tasks print", () => {
  using folder = temporary();
  const [program, args, options] = writeProgram(
    folder,
    `const tasks = new TaskList("list");
     for (let i = 0; i < 3; i++) tasks.schedule(defer(() => console.log("x".repeat(300_000))));
     for await (const _ of tasks.run({ processes: 2 }));`,
  );
  for (const prepare of ["rm -rf list", `${unblock}; rm -rf list`]) {
    const pipe = `{ ${prepare}; "$@"; } | { sleep 0.5; wc -c; }`;
    const words = ["-c", pipe, "sh", program, ...args];
    const { stdout, stderr } = spawnSync("sh", words, { ...options, encoding: "utf8" });
    assert.equal(stderr, "");
    // if Deno cannot write all of it at once, it does not say how much it has written
    const isExact = runtime === "bun" || !prepare.includes("perl");
    assert.ok(isExact ? Number(stdout) === 900_003 : Number(stdout) > 900_003, stdout);
  }
});

test("a result in any script comes back whole, however long it is", async () => {
  for (const text of ["é", "aé", "🏃", "a🏃", "é🏃", "aé🏃文字"]) {
    const repeat = (text: string, times: number) => text.repeat(times);
    const value = await resultOf(defer(repeat, text, 20_000));
    assert.ok(value === text.repeat(20_000), text);
  }
});

test("an answer waits for room, whatever a child of its task has done to the output", async () => {
  const task = async (unblock: string) => {
    const { spawnSync } = await import("node:child_process");
    const { status } = spawnSync("sh", ["-c", unblock], { stdio: "inherit" });
    return `${status}${"x".repeat(3e6)}`;
  };
  for (const tasksPerProcess of [1, 2]) {
    const value = await resultOf(defer(task, unblock), { tasksPerProcess });
    assert.equal((value as string).length, 3_000_001);
  }
});

test("what a helper of a task prints does not tear the answer of the task", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 12; i++) tasks.schedule(defer(fixture.returnAmidNoise, 40_000));
  const lengths: unknown[] = [];
  for await (const { returnValue, errorValue } of tasks.run({ processes: 2, onOutput() {} })) {
    lengths.push((returnValue as string)?.length ?? errorValue);
  }
  assert.deepEqual(lengths, Array(12).fill(40_000));
});

test("what a task prints is no problem of its runner", async () => {
  const problem = `\x1e${
    JSON.stringify(["", "problem", { $error: { name: "Error", message: "x" } }])
  }`;
  for (const tasksPerProcess of [1, 5]) {
    const printed: string[] = [];
    const options = { tasksPerProcess, onOutput: (text: string) => void printed.push(text) };
    assert.equal(await resultOf(defer(fixture.print, `${problem}\n`), options), "printed");
    assert.equal(printed.join(""), `${problem}\n`);
  }
});

test("what a killed task has printed is not written into another file", async () => {
  using folder = temporary();
  for (let i = 0; i < 5; i++) {
    const tasks = new TaskList(folder.file(`list${i}`), { logFile: folder.file("log") });
    for (let j = 0; j < 4; j++) tasks.schedule(defer(fixture.printOn, "noise"));
    tasks.schedule(1);
    for await (const _ of tasks.run({ processes: 5 })) break;
    const file = openSync(folder.file(`victim${i}`), "w");
    await new Promise((resolve) => setTimeout(resolve, 50));
    closeSync(file);
    assert.equal(folder.read(`victim${i}`), "");
  }
});

test("the log has whole lines, though a task prints them in parts", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"), { logFile: folder.file("log") });
  const long = "long ".repeat(30_000);
  tasks.schedule(
    defer(fixture.printInParts, ["one ", "line\n\nand an", "other\n", long, "\nlast"]),
  );
  await Array.fromAsync(tasks.run({ processes: 1 }));
  const printed = folder.lines("log").filter((line) => line.includes(" | "));
  const texts = printed.map((line) => line.slice(line.indexOf(" | ") + 3));
  assert.deepEqual(texts, ["one line", "", "and another", long, "last"]);
});

test("what tasks that share a process print in parts is logged before they end", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"), { logFile: folder.file("log") });
  for (let i = 0; i < 6; i++) {
    tasks.schedule(defer(fixture.printInParts, [`part${i}`]), { id: `t${i}` });
  }
  await Array.fromAsync(tasks.run({ processes: 1, concurrency: 2 }));
  const lines = folder.lines("log");
  const printed = lines.findIndex((line) => line.includes("part0"));
  const ended = lines.findIndex((line) => /t0 is in `done`/.test(line));
  assert.ok(printed >= 0 && printed < ended, lines.join("\n"));
  assert.match(lines.at(-1)!, /is in `done`/);
});

test("a slow reader gets all that a task has printed before it returned", () => {
  for (const stream of ["stdout", "stderr"]) {
    using folder = temporary();
    const [program, args, options] = writeProgram(
      folder,
      `import { write } from "./tasks.ts";
       const tasks = new TaskList("list");
       for (let i = 0; i < 3; i++) tasks.schedule(defer(write, "${stream}"));
       for await (const _ of tasks.run({ processes: 2 }));`,
      {
        "tasks.ts": `import process from "node:process";
          export function write(stream: "stdout" | "stderr") {
            process[stream].write("x".repeat(2_000_000));
            setInterval(() => {}, 1000); // keeps its process
          }`,
      },
    );
    const words = ["-c", '"$@" 2>&1 | { sleep 1.5; wc -c; }', "sh", program, ...args];
    const { stdout, stderr } = spawnSync("sh", words, { ...options, encoding: "utf8" });
    assert.equal(Number(stdout), 6_000_000, `${stream} ${stderr}`);
  }
});

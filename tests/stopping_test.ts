/** Stopping: breaks, signals, kills, and what cannot go on. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import process from "node:process";
import * as fixture from "./fixtures/tasks.ts";
import {
  fixtures,
  isRunning,
  runProgram,
  temporary,
  test,
  until,
  writeProgram,
} from "./helpers.ts";
import { defer, TaskList } from "./library.ts";

test("an error in the consumer ends a run like break", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(1);
  tasks.schedule(defer(fixture.spin, folder.file("pid")));
  const consume = async () => {
    for await (const _ of tasks.run({ processes: 2 })) {
      await until(() => folder.read("pid") !== "");
      throw new Error("of the consumer");
    }
  };
  await assert.rejects(consume, /of the consumer/);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 1, fail: 0 });
  await until(() => !isRunning(folder.read("pid")));
});

test("a signal that aborts ends a run like break", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.hangWithChild, folder.file("pid"), true));
  const controller = new AbortController();
  const run = Array.fromAsync(tasks.run({ signal: controller.signal }));
  await until(() => folder.read("pid") !== "");
  controller.abort();
  assert.deepEqual(await run, []);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
  await until(() => !isRunning(folder.read("pid")));
});

test("a signal that has aborted before runs nothing", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(1);
  assert.deepEqual(await Array.fromAsync(tasks.run({ signal: AbortSignal.abort() })), []);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
});

for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  test(`${signal} puts back what was running before it ends the program`, async () => {
    using folder = temporary();
    const [file, flags, options] = writeProgram(
      folder,
      `import { hangWithChild } from "${fixtures}";
       const tasks = new TaskList("list");
       tasks.schedule(defer(hangWithChild, "pid", true));
       for await (const _ of tasks.run());`,
    );
    const program = spawn(file, flags, { ...options, stdio: "ignore" });
    const ended = new Promise((resolve) => program.on("exit", (_code, signal) => resolve(signal)));
    await until(() => folder.read("pid") !== "");
    program.kill(signal);
    assert.equal(await ended, signal);
    assert.equal(readdirSync(folder.file("list/todo")).length, 1);
    assert.deepEqual(readdirSync(folder.file("list/running")), []);
    await until(() => !isRunning(folder.read("pid")));
  });
}

test("a program that exits while it runs tasks puts them back, and leaves nothing running", async () => {
  using folder = temporary();
  const { code, stderr } = runProgram(
    folder,
    `import { existsSync } from "node:fs";
     import { hang } from "${fixtures}";
     const tasks = new TaskList("list");
     tasks.schedule(1);
     tasks.schedule(defer(hang, "pid"));
     for await (const _ of tasks.run({ processes: 2 })) {
       while (!existsSync("pid")) await new Promise((resolve) => setTimeout(resolve, 10));
       process.exit(5);
     }`,
  );
  assert.deepEqual([code, stderr], [5, ""]);
  assert.equal(readdirSync(folder.file("list/todo")).length, 1);
  assert.deepEqual(readdirSync(folder.file("list/running")), []);
  await until(() => !isRunning(folder.read("pid")));
});

for (const ownGroup of [false, true]) {
  const where = ownGroup ? "has left its process group" : "ignores SIGTERM";
  test(`autokill ends a child that ${where}`, async () => {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"));
    tasks.schedule(defer(fixture.hangWithChild, folder.file("pid"), ownGroup));
    const [task] = await Array.fromAsync(tasks.run({ autokill: 3 }));
    assert.equal((task.errorValue as Error).name, "TimeoutError");
    await until(() => !isRunning(folder.read("pid")));
    assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 1 });
  });
}

test("a task whose outcome cannot be written goes back, and is not blamed", () => {
  using folder = temporary();
  const [file, args, options] = writeProgram(
    folder,
    `const tasks = new TaskList("list");
     await tasks.schedule(command(["head", "-c", "1000000", "/dev/zero"]));
     for await (const task of tasks.run()) console.log(task);`,
  );
  const limit = 'trap "" XFSZ; ulimit -f 1000; exec "$@"'; // no file may be larger, as on a full disk
  const { stderr, stdout } = spawnSync("sh", ["-c", limit, "sh", file, ...args], {
    ...options,
    encoding: "utf8",
  });
  assert.match(stderr, /EFBIG|File too large/);
  assert.equal(stdout, "");
  assert.deepEqual(readdirSync(folder.file("list/fail")), []);
  assert.equal(readdirSync(folder.file("list/todo")).length, 1);
  assert.deepEqual(readdirSync(folder.file("list/running")), []);
});

test("a run whose program ends with an error leaves nothing running", async () => {
  using folder = temporary();
  const { stderr } = runProgram(
    folder,
    `import { existsSync } from "node:fs";
     const main = async () => {
       const tasks = new TaskList("list");
       await tasks.schedule(command(["sh", "-c", "echo $$ > pid; sleep 100; true"]));
       for await (const _ of tasks.run({ processes: 1 }));
     };
     main();
     setInterval(() => { if (existsSync("pid")) throw new Error("boo"); }, 10);`,
  );
  assert.match(stderr, /boo/);
  await until(() => !isRunning(folder.read("pid")));
});

test("a process that is killed as soon as it was started ends", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const mark = folder.file("mark");
  process.env.FORREST_TASKS = mark; // which all that a run starts inherits
  try {
    for (let i = 0; i < 20; i++) await tasks.schedule(i);
    for (let round = 0; round < 5; round++) {
      const controller = new AbortController();
      const run = Array.fromAsync(tasks.run({ processes: 4, signal: controller.signal }));
      await until(() => tasks.count().running > 0);
      controller.abort();
      await run;
    }
  } finally {
    delete process.env.FORREST_TASKS;
  }
  const marked = () => spawnSync("sh", ["-c", `grep -lsFe "$0" /proc/[0-9]*/environ`, mark]).stdout;
  await until(() => `${marked()}` === "");
  assert.equal(tasks.count().running, 0);
});

test("a run that gives up lets what is running finish", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(defer(fixture.waitFor, folder.file("go")));
  await tasks.schedule(defer(fixture.throwDetailed, "broken"));
  await tasks.schedule(1);
  const states: string[] = [];
  const consume = async () => {
    for await (const { state } of tasks.run({ processes: 2, maxFailures: 0 })) {
      states.push(state);
      folder.write("go", "");
    }
  };
  await assert.rejects(consume, /maxFailures/);
  assert.deepEqual(states, ["fail", "done"]);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 1, fail: 1 });
});

test("a run that cannot write its log ends with the error", {
  skip: !existsSync("/dev/full") && "there is no /dev/full",
}, async () => {
  for (const options of [{}, { tasksPerProcess: Infinity }, { concurrency: 5 }]) {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"), { logFile: "/dev/full" });
    for (let i = 0; i < 20; i++) tasks.schedule(defer(fixture.throwDetailed, `failure ${i}`));
    await assert.rejects(Array.fromAsync(tasks.run({ processes: 2, ...options })), /[Nn]o space/);
    assert.equal(tasks.count().running, 0);
  }
});

test("a run under `nohup` does not end by SIGHUP", async () => {
  using folder = temporary();
  const [program, args, options] = writeProgram(
    folder,
    `const tasks = new TaskList("list");
     tasks.schedule(defer(async (folder: string) => {
       const { existsSync, writeFileSync } = await import("node:fs");
       writeFileSync(folder + "/begun", "");
       while (!existsSync(folder + "/go")) await new Promise((resolve) => setTimeout(resolve, 10));
     }, "${folder.file("")}"));
     for await (const { state } of tasks.run()) console.log(state);`,
  );
  const script = `trap "" HUP; exec "$0" "$@"`;
  const child = spawn("sh", ["-c", script, program, ...args], options);
  const output = Array.fromAsync(child.stdout!.setEncoding("utf8"));
  await until(() => existsSync(folder.file("begun")));
  process.kill(child.pid!, "SIGHUP"); // not `child.kill`, with which Deno takes this for its end
  folder.write("go", "");
  assert.equal((await output).join(""), "done\n");
});

test("an outcome that cannot be filed ends the run with the reason, and loses no task", () => {
  for (const tasksPerProcess of [1, 9]) {
    using folder = temporary();
    const [file, args, options] = writeProgram(
      folder,
      `import { long } from "./tasks.ts";
       const tasks = new TaskList("list");
       for (const length of [300_000, 1]) tasks.schedule(defer(long, length));
       const run = Array.fromAsync(tasks.run({ processes: 1, tasksPerProcess: ${tasksPerProcess} }));
       await run.catch((error) => console.log(error.message));
       console.log(JSON.stringify(tasks.count()));`,
      { "tasks.ts": `export const long = (length: number) => "x".repeat(length);` },
    );
    const limited = `trap "" XFSZ; ulimit -f 200; exec "$@"`; // no file of more than 100 or 200 kB
    const spawned = spawnSync("sh", ["-c", limited, "sh", file, ...args], {
      ...options,
      encoding: "utf8",
    });
    const [message, counts] = spawned.stdout.split("\n");
    assert.match(message, /file too large/i, spawned.stderr);
    const { todo, running, done, fail } = JSON.parse(counts);
    assert.deepEqual([todo + done, running, fail], [2, 0, 0]);
    assert.ok(todo >= 1);
  }
});

test("a run that is left does not wait for retries", () => {
  using folder = temporary();
  const { code } = runProgram(
    folder,
    `import { unlucky } from "./tasks.ts";
     const tasks = new TaskList("list");
     for (const item of [0, 1]) tasks.schedule(defer(unlucky, item));
     for await (const _ of tasks.run({ processes: 1, retries: 3, retryDelay: 3600 })) break;`,
    {
      "tasks.ts": `export const unlucky = (item: number) => { if (!item) throw new Error("0"); };`,
    },
  );
  assert.equal(code, 0, "it waits");
});

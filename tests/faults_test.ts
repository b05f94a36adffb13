/** Faults that users have met: each of these once went wrong. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import process from "node:process";
import * as fixture from "./fixtures/tasks.ts";
import {
  isRunning,
  resultOf,
  runProgram,
  temporary,
  test,
  until,
  writeProgram,
} from "./helpers.ts";
import { command, defer, type RunOptions, TaskList } from "./library.ts";

test("the log has a line for each event of a task", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"), { logFile: folder.file("log") });
  await tasks.schedule(defer(fixture.failAtFirst, folder.file("attempts"), 1), { id: "again" });
  await tasks.schedule(defer(fixture.throwDetailed, "broken"), { id: "bad" });
  await tasks.schedule(1, { id: "good" });
  await Array.fromAsync(tasks.run({ processes: 1, retries: 1 }));
  const lines = folder.lines("log").map((line) => {
    const [, time, event] = /^(\S+) (.*)$/.exec(line) ?? [];
    assert.ok(!Number.isNaN(Date.parse(time ?? "")), line);
    return event ?? "";
  });
  const neutral = (line: string) =>
    line.replace(/process \d+/, "process N").replace(/[\d.]+ s/, "# s");
  const eventsOf = (id: string) =>
    lines.filter((line) => line.startsWith(`${id} `)).map((line) =>
      neutral(line.slice(id.length + 1))
    );
  const retried = (why: string) => [
    "is scheduled",
    "is started in process N",
    `has failed after # s, and is retried in 0 s: ${why}`,
    "is started in process N",
  ];
  assert.deepEqual(eventsOf("again"), [...retried("Error: attempt 1"), "is in `done`"]);
  assert.deepEqual(eventsOf("bad"), [...retried("RangeError: broken"), "is in `fail`"]);
  assert.deepEqual(eventsOf("good"), [
    "is scheduled",
    "is started in process N",
    "is in `done`",
  ]);
  assert.equal(lines.length, 13);
});

test("a program that leaves something in the background has ended when it has", async () => {
  for (const options of [{}, { autokill: 2 }, { tasksPerProcess: 10, autokill: 2 }]) {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"));
    const script = "sleep 5 & echo $! > $0; echo ended";
    for (const id of ["a", "b"]) {
      await tasks.schedule(command(["sh", "-c", script, folder.file(id)]), { id });
    }
    for await (const { returnValue } of tasks.run({ processes: 1, ...options })) {
      assert.equal(returnValue, "ended\n");
    }
    await until(() => !isRunning(folder.read("a")) && !isRunning(folder.read("b")), 3);
  }
});

test("autokill ends a child that has left its session and cleared its environment", async () => {
  for (const options of [{}, { tasksPerProcess: 10 }] as RunOptions[]) {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"));
    const hide = 'setsid env -i sh -c "echo \\$\\$ > $0; exec sleep 50" & wait';
    await tasks.schedule(command(["sh", "-c", hide.replaceAll("$0", folder.file("program"))]));
    await tasks.schedule(defer(fixture.hangBehind, hide.replaceAll("$0", folder.file("function"))));
    const errors = await Array.fromAsync(
      tasks.run({ processes: 2, autokill: 3, ...options }),
      ({ errorValue }) => (errorValue as Error).name,
    );
    assert.deepEqual(errors, ["TimeoutError", "TimeoutError"]);
    for (const file of ["program", "function"]) await until(() => !isRunning(folder.read(file)));
  }
});

test("calls that hang among quick ones in one process time out together, and none runs twice", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const file = folder.file("notes");
  const hanging: string[] = [];
  const ids = Array.from({ length: 2000 }, (_, index) => `${index}`.padStart(4, "0"));
  const schedule = (id: string, index: number) => {
    const isHanging = index % 100 === 50;
    if (isHanging) hanging.push(id);
    return tasks.schedule(defer(fixture.noteAndWait, file, id, isHanging), { id });
  };
  await Promise.all(ids.map(schedule));
  assert.equal(hanging.length, 20);
  const failed: string[] = [];
  for await (
    const { id, errorValue } of tasks.run({ processes: 1, concurrency: 50, autokill: 1 })
  ) {
    if (!errorValue) continue;
    assert.equal((errorValue as Error).name, "TimeoutError");
    failed.push(id);
  }
  assert.deepEqual(failed.sort(), hanging);
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 1980, fail: 20 });
  const notes = folder.lines("notes").map((line) => line.split(" "));
  assert.deepEqual(notes.map(([id]) => id).sort(), ids);
  // if each of them had to be waited for in turn, each would be the end of a process
  assert.ok(new Set(notes.map(([, pid]) => pid)).size < hanging.length / 2);
});

test("a directory that is removed while it is run ends the run with an error", async () => {
  for (const options of [{}, { tasksPerProcess: 10 }, { concurrency: 2 }]) {
    using folder = temporary();
    const [program, args, settings] = writeProgram(
      folder,
      `import { existsSync, rmSync } from "node:fs";
       const tasks = new TaskList("list");
       const wait = async (folder: string) => {
         const { existsSync, writeFileSync } = await import("node:fs");
         writeFileSync(folder + "/pid", process.pid + "");
         while (!existsSync(folder + "/go")) await new Promise((done) => setTimeout(done, 10));
         return 1;
       };
       await tasks.schedule(defer(wait, "${folder.file("")}"));
       await tasks.schedule(2);
       for await (const task of tasks.run({ processes: 1, ...${JSON.stringify(options)} })) {
         console.log(task.returnValue);
       }`,
    );
    const child = spawn(program, args, settings);
    let errors = "";
    child.stderr.on("data", (text) => errors += text);
    const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
    await until(() => existsSync(folder.file("pid")) && folder.read("pid") !== "");
    renameSync(folder.file("list"), folder.file("gone")); // at once, as the run may move a file meanwhile
    rmSync(folder.file("gone"), { recursive: true });
    folder.write("go", "");
    assert.equal(await ended, 1);
    assert.match(errors, /ENOENT|No such file|no folder/);
    await until(() => !isRunning(folder.read("pid")));
    assert.equal(existsSync(folder.file("list")), false);
  }
});

test("if the directory in which it was started is removed, a run ends, and says so", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `import { mkdirSync, rmSync } from "node:fs";
     const tasks = new TaskList("list");
     mkdirSync("work");
     process.chdir("work");
     for (let i = 0; i < 9; i++) tasks.schedule(defer(Number, i), { id: \`\${i}\` });
     tasks.schedule(command(["echo"]), { id: "program" });
     const run = async (options: object) => {
       try {
         for await (const { state } of tasks.run({ processes: 1, ...options })) {
           console.log(state);
         }
       } catch (error) {
         console.log((error as Error).message);
       }
     };
     let started = 0;
     const mayStart = () => {
       if (started++) rmSync("../work", { recursive: true, force: true });
       return true;
     };
     await run({ ids: ["0", "1", "2", "3"], mayStart });
     await run({ ids: ["4", "5"], tasksPerProcess: 5 });
     await run({ ids: ["program"] });
     const { todo, done } = tasks.count();
     console.log(todo + done, tasks.count());`,
  );
  const gone = "Cannot start `.*`: there is no such program, or its directory is gone\n";
  assert.match(stdout, new RegExp(`^done\n(${gone}){3}10 `), stderr);
});

test("what a task starts does not see the order of its process", async () => {
  for (const options of [{}, { tasksPerProcess: 2 }]) {
    const printed = await resultOf(command(["env"]), options);
    assert.doesNotMatch(String(printed), /FORREST_ORDER/);
    assert.doesNotMatch(
      String(await resultOf(defer(fixture.environment), options)),
      /FORREST_ORDER/,
    );
  }
  assert.ok(!("FORREST_ORDER" in process.env));
});

test("a list has no file but those of its tasks, whatever has become of them", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let index = 0; index < 10; index++) tasks.schedule(index, { id: `${index}` });
  tasks.schedule(defer(fixture.throwDetailed, "broken"), { id: "bad" });
  tasks.schedule(command(["false"]), { id: "program" });
  await Array.fromAsync(tasks.run({ processes: 2, retries: 1 }));
  const names = readdirSync(tasks.directory, { recursive: true, encoding: "utf8" }).sort();
  const done = Array.from({ length: 10 }, (_, index) => `done/${index}.json`);
  const failed = ["fail/bad.json", "fail/program.json"];
  assert.deepEqual(
    names,
    [...done, ...failed, "done", "fail", "log.txt", "running", "todo"].sort(),
  );
  assert.equal(JSON.parse(readFileSync(`${tasks.directory}/fail/bad.json`, "utf8")).attempts, 2);
});

/**
 * The specification: what the README promises, in its order, on real processes and real files.
 *
 * Runs unchanged under `deno test -A` and `bun test`. All else that is tested lies in `tests/`.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import process from "node:process";
import { inspect } from "node:util";
import { shout } from "./tests/fixtures/session.ts";
import * as fixture from "./tests/fixtures/tasks.ts";
import { add, identity, prepare, trace } from "./tests/fixtures/tasks.ts";
import { storable, unstorable } from "./tests/fixtures/values.ts";
import {
  fixtures,
  isRunning,
  onDeno,
  outcomeOf,
  resultOf,
  runProgram,
  session,
  temporary,
  test,
  until,
} from "./tests/helpers.ts";
import {
  command,
  defer,
  evaluate,
  exec,
  map,
  readTask,
  type RunOptions,
  type Task,
  TaskList,
} from "./tests/library.ts";

// --------------------------------------------------------------------------------------- your loop

test("RunForrest: a loop over items runs as tasks and gives their return values", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("tasklist"));
  for (const item of ["run", "forrest", "run!"]) {
    const intermediate = defer(prepare, item);
    await tasks.schedule(defer(fixture.dostuff, intermediate.list[1], intermediate.thing));
  }
  assert.equal(readdirSync(folder.file("tasklist/todo")).length, 3);
  const results = await Array.fromAsync(tasks.run({ processes: 4 }), (task) => task.returnValue);
  assert.deepEqual(results.sort(), ["FORREST 7", "RUN 3", "RUN! 4"]);
  assert.equal(readdirSync(folder.file("tasklist/done")).length, 3);
});

// ------------------------------------------------------------------------------- programs as tasks

test("command() gives what a program writes to its standard output", async () => {
  assert.equal(await resultOf(command(["echo", "run  forrest", "$HOME"])), "run  forrest $HOME\n");
  assert.equal(await evaluate(command(["echo", "run"]).trim()), "run");
});

test("command() runs a shell only when it is told", async () => {
  const task = command(["echo one | tr a-z A-Z; echo two >&2"], { shell: true });
  const output = { stdout: "", stderr: "" };
  const onOutput = (text: string, stream: "stdout" | "stderr") => output[stream] += text;
  assert.equal(await resultOf(task, { onOutput }), "ONE\n");
  assert.equal(output.stderr, "two\n");
});

test("command() fails with exit code, signal and the end of the output", async () => {
  const quiet = { onOutput: () => {} };
  const exited = await outcomeOf(command(["sh", "-c", "echo last; echo words >&2; exit 3"]), quiet);
  const exitError = exited.errorValue as Error & { code: number; signal: unknown };
  assert.match(exitError.message, /exited with code 3.*last\nwords/s);
  assert.equal(exitError.code, 3);
  assert.equal(exitError.signal, null);
  const killed = await outcomeOf(command(["sh", "-c", "kill -TERM $$"]), quiet);
  const killError = killed.errorValue as Error & { code: number; signal: unknown };
  assert.match(killError.message, /killed by SIGTERM/);
  assert.equal(killError.signal, "SIGTERM");
  assert.equal(killError.code, 128 + 15);
  const lost = await outcomeOf(command(["no-such-program", "x"]), quiet);
  assert.match((lost.errorValue as Error).message, /no-such-program/);
});

// ---------------------------------------------------------------------------------------- just map

test("map() takes exported, global and text functions", async () => {
  assert.deepEqual(await Array.fromAsync(map(prepare, ["a"]), ({ thing }) => thing), ["A"]);
  assert.deepEqual(await Array.fromAsync(map(Math.sqrt, [16, 25])), [4, 5]);
  assert.deepEqual(
    await Array.fromAsync(map((x: number) => x * factor, [6], { session })),
    [42],
  );
});

test("map() gives the results as they finish with `ordered: false`", async () => {
  using folder = temporary();
  const files = [folder.file("go"), folder.write("there", "")];
  const results: string[] = [];
  for await (const file of map(fixture.waitFor, files, { processes: 2, ordered: false })) {
    results.push(file);
    folder.write("go", "");
  }
  assert.deepEqual(results, files.toReversed());
});

for (const processes of [0, 2]) {
  test(`map() rejects at the item that throws, with ${processes} processes`, async () => {
    const check = (x: number) => {
      if (x === 2) throw new RangeError(`item ${x}`);
      return x;
    };
    const taken: number[] = [];
    const consume = async () => {
      for await (const x of map(check, [0, 1, 2, 3, 4], { processes })) taken.push(x);
    };
    await assert.rejects(consume, { name: "RangeError", message: "item 2" });
    assert.deepEqual(taken, [0, 1]);
  });
}

// --------------------------------------------------------------------------------- deferred values

test("defer() calls nothing before its task runs", async () => {
  using folder = temporary();
  const task = defer(trace, folder.file("trace"), "called");
  assert.ok(!existsSync(folder.file("trace")));
  assert.equal(await evaluate(task), "called");
  assert.deepEqual(folder.lines("trace"), ["called"]);
});

test("defer() takes parts of a value to any depth", async () => {
  const value = defer(() => ({ a: [{ "b c": { then: "no thenable", 0: ["deep"] } }] }));
  assert.equal(await evaluate(value.a[0]["b c"][0][0]), "deep");
  assert.equal(await evaluate(value.a.length), 1);
});

test("defer() calls a method on the object that it was read from", async () => {
  const account = defer(fixture.Account, "Forrest", 100);
  assert.equal(await evaluate(account.deposit(20)), 120);
  assert.deepEqual(
    await evaluate(defer((text: string) => ({ text }), "a\nb").text.split("\n").reverse()),
    ["b", "a"],
  );
  assert.equal(await resultOf(account.owner.toUpperCase().at(0)), "F");
});

test("defer() takes deferred values inside arrays and objects of its arguments", async () => {
  const two = defer(identity, 2);
  const sum = (a: { x: number[] }, [b]: [{ y: number }]) => a.x[0] + a.x[1] + b.y;
  const task = defer(sum, { x: [1, two] }, [{ y: defer(add, two, 1) }]);
  assert.equal(await evaluate(task), 6);
  assert.equal(await resultOf(task), 6);
});

test("defer() calls globals with their owner as `this`", async () => {
  assert.equal(await resultOf(defer(Math.max, 3, defer(Math.sqrt, 16))), 4);
  assert.deepEqual(await resultOf(defer(JSON.parse, '{"a": [1]}').a), [1]);
  assert.deepEqual(await resultOf(defer(Array.from<number>, new Set([1, 2]))), [1, 2]);
  assert.equal(await resultOf(defer(Promise.resolve<number>, 5)), 5);
  assert.equal(await resultOf(defer(Number, "5")), 5);
  assert.equal(await resultOf(defer(String, 5)), "5");
});

test("defer() takes a URL whose fragment names an export", async () => {
  const url = new URL("./tests/fixtures/tasks.ts#prepare", import.meta.url);
  assert.equal(await resultOf(defer(url, "item").thing), "ITEM");
  assert.equal(await evaluate(defer(new URL(`${fixtures}#default`), 1)), 2);
  assert.deepEqual(
    await evaluate(defer(new URL("https://example.org/"))),
    new URL("https://example.org/"),
  );
});

test("a deferred call runs at most once, however many paths lead to it", async () => {
  using folder = temporary();
  const file = folder.file("trace");
  const one = defer(trace, file, "one");
  const left = defer((a: string, b: string) => a + b, one, one.toUpperCase());
  const right = defer((parts: string[]) => parts.join(), [one, left, one[0]]);
  const task = defer({ left, right, again: [one, right] });
  await evaluate(task);
  assert.deepEqual(folder.lines("trace"), ["one"]);
  assert.deepEqual(await resultOf(task), {
    left: "oneONE",
    right: "one,oneONE,o",
    again: ["one", "one,oneONE,o"],
  });
  assert.deepEqual(folder.lines("trace"), ["one", "one"]);
});

test("a deferred value is not a thenable", async () => {
  const value = defer(identity, 1);
  assert.equal((value as unknown as { then: unknown }).then, undefined);
  assert.equal(await value, value);
  assert.equal(await Promise.resolve(value), value);
});

test("a deferred value prints as the call that it stands for", () => {
  assert.equal(inspect(defer(prepare, "item 7").list[1]), 'defer(prepare, "item 7").list[1]');
  const task = defer(fixture.dostuff, defer(prepare, "x").list[1], "y");
  assert.equal(inspect(task), 'defer(dostuff, defer(prepare, "x").list[1], "y")');
  const split = defer(identity, "a b").split(" ")[0];
  assert.equal(inspect(split), 'defer(identity, "a b").split(" ")[0]');
  assert.equal(inspect(defer({ "a b": 1 })["a b"]), 'defer({…})["a b"]');
  assert.equal(inspect(defer(42)), "defer(42)");
  assert.equal(inspect([defer(Math.max, 1, 2)]), "[ defer(max, 1, 2) ]");
});

test("evaluate() rejects with what a step throws", async () => {
  const thrown = { not: "an error" };
  const rethrow = () => {
    throw thrown;
  };
  await assert.rejects(evaluate(defer(rethrow)), (error) => error === thrown);
});

// --------------------------------------------------------------------------- which function is it?

test("a function is stored as a global, as an export, or as its text", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const call = async (task: unknown) => {
    const { id } = await tasks.schedule(task);
    return JSON.parse(readFileSync(folder.file(`list/todo/${id}.json`), "utf8")).steps.at(-1).call;
  };
  assert.equal(await call(defer(Math.max, 1)), "Math.max");
  assert.equal(await call(defer(prepare, "item")), `${fixtures}#prepare`);
  assert.equal(await call(defer(fixture.default, 1)), `${fixtures}#default`);
  assert.equal(await call(defer(shout, "run")), `${session}#shout`);
  assert.match((await call(defer((x: number) => x * 2, 1))).source, /^\(x\)\s*=>\s*x \* 2;?$/);
});

test("the free variables of a text function give an error that says what to do", async () => {
  const factor = Number("3");
  const task = await outcomeOf(defer((x: number) => x * factor, 2));
  assert.ok(task.errorValue instanceof ReferenceError);
  assert.match(task.errorValue.message, /factor/);
  for (const remedy of [/export/, /import\.meta\.main/, /session/]) {
    assert.match(task.errorValue.message, remedy);
    assert.match(task.errorValue.stack!, remedy);
  }
});

declare const factor: number;

// of the session module

test("a session module puts its exports in the scope of text functions", async () => {
  const task = defer((x: number) => shout(`${x * factor}`), 6);
  assert.equal(await resultOf(task, { session }), "42!");
  assert.equal(await resultOf(task, { session: session.href }), "42!");
  assert.equal(await resultOf(task, { session, tasksPerProcess: 2 }), "42!");
});

test("a main script's exported functions run while it is still being evaluated", () => {
  using folder = temporary();
  const { stdout, stderr, code } = runProgram(
    folder,
    `const offset = 2; // needs the module, so that the text alone would not do
     export function double(x: number) { return x * offset; }
     export const triple = async (x: number) => x + await double(x);
     export default function half(x: number) { return x / offset; }
     class Box { value: number; constructor(v: number) { this.value = v + offset; } }
     export { Box as Container };
     if (import.meta.main) {
       const tasks = new TaskList("list");
       await tasks.schedule(defer([
         defer(double, 4), defer(triple, 5), defer(half, 6), defer(Box, 7).value,
       ]));
       for await (const task of tasks.run()) console.log(task.errorValue ?? String(task.returnValue));
     }`,
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "8,15,3,9\n");
  assert.equal(code, 0);
});

test("an unguarded main script is refused before any process starts, with what to do", () => {
  using folder = temporary();
  const { stdout, stderr, code } = runProgram(
    folder,
    `import { appendFileSync } from "node:fs";
     appendFileSync("starts", "started\\n");
     export function double(x: number) { return x * 2; }
     const tasks = new TaskList("list");
     tasks.schedule(defer(double, 4));
     for await (const task of tasks.run()) console.log(task);`,
  );
  assert.match(stderr, /Cannot run `double` in another process.*`if \(import\.meta\.main\)/);
  assert.equal(stdout, "");
  assert.notEqual(code, 0);
  assert.deepEqual(folder.lines("starts"), ["started"]);
  for (const state of ["todo", "running", "done", "fail"]) {
    assert.deepEqual(readdirSync(folder.file(`list/${state}`)), []);
  }
});

// ------------------------------------------------------------- what can be an argument or a result

for (const [name, value] of Object.entries(storable)) {
  test(`a value comes back as it went in: ${name}`, async () => {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"));
    await tasks.schedule(defer(identity, value), { metadata: value });
    const [task] = await Array.fromAsync(tasks.run({ processes: 1 }));
    assert.equal(task.errorValue, undefined);
    assert.deepEqual(task.returnValue, value);
    assert.deepEqual(task.metadata, value);
    assert.deepEqual(await evaluate(defer(identity, value)), value);
    assert.deepEqual(await evaluate(defer([value])), [value]);
  });
}

test("errors come back as errors, with class, cause and own properties", async () => {
  const cause = new TypeError("the cause", { cause: "a text" });
  const error = Object.assign(new RangeError("it broke", { cause }), {
    code: "E_BROKE",
    when: new Date(5),
  });
  const back = await resultOf(defer(identity, error)) as typeof error;
  assert.ok(back instanceof RangeError && back.cause instanceof TypeError);
  assert.equal(back.name, "RangeError");
  assert.equal(back.message, "it broke");
  assert.equal(back.stack?.split("\n")[0], "RangeError: it broke");
  assert.equal(back.cause.message, "the cause");
  assert.equal(back.cause.cause, "a text");
  assert.equal(back.code, "E_BROKE");
  assert.deepEqual(back.when, new Date(5));
  assert.deepEqual(Object.keys(back), ["code", "when"]);
});

for (const [name, value, message] of unstorable) {
  test(`schedule() refuses with the path to it: ${name}`, async () => {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"));
    const expected = { name: "TypeError", message };
    await assert.rejects(tasks.schedule(defer(identity, value)), expected);
    await assert.rejects(tasks.schedule(defer(identity, value)), /cannot be stored/);
    assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 0 });
  });
}

test("a result that cannot be stored fails its task with the path to it", async () => {
  const opaque = await outcomeOf(defer(fixture.makeOpaque));
  assert.ok(opaque.errorValue instanceof TypeError);
  assert.match(
    opaque.errorValue.message,
    /`returnValue\.deep\[0\]` is a Opaque and cannot be stored/,
  );
  const callback = await outcomeOf(defer(fixture.makeFunction));
  assert.ok(callback.errorValue instanceof TypeError);
  assert.match(callback.errorValue.message, /`returnValue\.callback` is a function/);
});

// ----------------------------------------------------------------------------------- making a list

test("a list must be new", () => {
  using folder = temporary();
  new TaskList(folder.file("list"));
  assert.throws(() => new TaskList(folder.file("list")), {
    message: /list`.*exists.*`existOk: true/,
  });
});

test("`existOk` takes a directory that exists, and removes its tasks", async () => {
  using folder = temporary();
  const old = new TaskList(folder.file("list"));
  await old.schedule(1);
  await Array.fromAsync(old.run());
  await old.schedule(2);
  const tasks = new TaskList(folder.file("list"), { existOk: true });
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 0 });
});

test("`existOk` with `preClean: false` adds to the tasks that are there", async () => {
  using folder = temporary();
  const old = new TaskList(folder.file("list"));
  await old.schedule(1);
  const tasks = new TaskList(folder.file("list"), { existOk: true, preClean: false });
  await tasks.schedule(2);
  const values = await Array.fromAsync(tasks.run({ processes: 1 }), (task) => task.returnValue);
  assert.deepEqual(values, [1, 2]);
});

test("cleaning removes task files, and nothing else that lies there", async () => {
  using folder = temporary();
  const others = ["list/notes.txt", "list/todo/notes.txt", "list/done/report.csv", "list/x/a.json"];
  for (const file of [...others, "list/b.json"]) folder.write(file, "mine");
  const tasks = new TaskList(folder.file("list"), { existOk: true, postClean: true });
  await tasks.schedule(1);
  await tasks.schedule(defer(fixture.throwDetailed, "broken"));
  await Array.fromAsync(tasks.run());
  await tasks.schedule(2);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 1, fail: 1 });
  tasks.clean();
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 0 });
  tasks[Symbol.dispose]();
  for (const file of [...others, "list/b.json"]) {
    assert.equal(readFileSync(folder.file(file), "utf8"), "mine", file);
  }
});

test("a list without `postClean` is kept when it is disposed", async () => {
  using folder = temporary();
  {
    await using tasks = new TaskList(folder.file("list"));
    tasks.schedule(1);
  }
  assert.equal(readdirSync(folder.file("list/todo")).length, 1);
});

// -------------------------------------------------------------------------------------- scheduling

test("schedule() resolves when the file is on disk", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const { id, scheduled } = await tasks.schedule(defer(add, 1, 2));
  assert.equal(scheduled, true);
  assert.deepEqual(JSON.parse(readFileSync(folder.file(`list/todo/${id}.json`), "utf8")), {
    steps: [{ call: `${fixtures}#add`, args: [1, 2] }],
  });
});

test("what is scheduled stays as it was when schedule() was called", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const item = { list: [1] };
  for (let i = 2; i < 4; i++) {
    tasks.schedule(defer(identity, item), { metadata: item });
    item.list.push(i);
  }
  const outcomes = await Array.fromAsync(tasks.run({ processes: 1 }));
  const expected = [{ list: [1] }, { list: [1, 2] }];
  assert.deepEqual(outcomes.map(({ returnValue }) => returnValue), expected);
  assert.deepEqual(outcomes.map(({ metadata }) => metadata), expected);
});

test("run() waits for schedules that nobody has awaited", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 5; i++) tasks.schedule(defer(identity, i));
  assert.equal((await Array.fromAsync(tasks.run())).length, 5);
});

test("an id that the list has already, in any state, is not scheduled again", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const scheduleAll = async (tasks: TaskList) => [
    await tasks.schedule(defer(identity, 1), { id: "works" }),
    await tasks.schedule(defer(fixture.throwDetailed, "broken"), { id: "fails" }),
  ];
  const both = (scheduled: boolean) => [{ id: "works", scheduled }, { id: "fails", scheduled }];
  assert.deepEqual(await scheduleAll(tasks), both(true));
  assert.deepEqual(await scheduleAll(tasks), both(false));
  await Array.fromAsync(tasks.run());
  assert.deepEqual(await scheduleAll(tasks), both(false));
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 1, fail: 1 });
  const again = new TaskList(folder.file("list"), {
    existOk: true,
    preClean: false,
    retryFailed: true,
  });
  assert.deepEqual(await scheduleAll(again), [
    { id: "works", scheduled: false },
    { id: "fails", scheduled: true },
  ]);
  assert.deepEqual(again.count(), { todo: 1, running: 0, done: 1, fail: 0 });
});

test("the same script run a second time does only what is not done yet", () => {
  using folder = temporary();
  const script = `
    const tasks = new TaskList("list", { existOk: true, preClean: false, retryFailed: true });
    for (const name of ["a", "b", "c"]) {
      tasks.schedule(defer((name: string) => {
        if (name === "b" && !process.env.REPAIRED) throw new Error("broken");
        return name.toUpperCase();
      }, name), { id: name });
    }
    for await (const task of tasks.run({ processes: 1 })) console.log(task.id, task.state);`;
  assert.equal(runProgram(folder, script).stdout, "a done\nb fail\nc done\n");
  process.env.REPAIRED = "yes";
  try {
    assert.equal(runProgram(folder, script).stdout, "b done\n");
    assert.equal(runProgram(folder, script).stdout, "");
  } finally {
    delete process.env.REPAIRED;
  }
});

// ----------------------------------------------------------------------------------------- running

test("run() yields each task with its id, state, value, metadata and run time", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(add, 1, 2), { id: "sum", metadata: { of: 2 } });
  const [task] = await Array.fromAsync(tasks.run());
  const { started, runtime, ...others } = task;
  assert.equal(typeof started, "string");
  assert.equal(typeof runtime, "number");
  assert.deepEqual(others, {
    id: "sum",
    state: "done",
    steps: [{ call: `${fixtures}#add`, args: [1, 2] }],
    metadata: { of: 2 },
    attempts: 1,
    returnValue: 3,
  });
});

test("run() yields tasks as they finish", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.waitFor, folder.file("go")), { id: "1 slow" });
  tasks.schedule(1, { id: "2 quick" });
  const order: string[] = [];
  for await (const { id } of tasks.run({ processes: 2 })) {
    order.push(id);
    folder.write("go", "");
  }
  assert.deepEqual(order, ["2 quick", "1 slow"]);
});

test("run() runs as many tasks at once as `processes` says, and no more", async () => {
  using folder = temporary();
  mkdirSync(folder.file("meeting"));
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 3; i++) tasks.schedule(defer(fixture.meet, folder.file("meeting"), 3));
  const pids = await Array.fromAsync(tasks.run({ processes: 3 }), (task) => task.returnValue);
  assert.equal(new Set(pids).size, 3);
  mkdirSync(folder.file("present"));
  for (let i = 0; i < 8; i++) tasks.schedule(defer(fixture.occupancy, folder.file("present")));
  const most = await Array.fromAsync(tasks.run({ processes: 2 }), (task) => task.returnValue);
  assert.ok(Math.max(...most as number[]) <= 2, `${most}`);
});

test("every task has a process of its own, or shares it with as many as are allowed", async () => {
  const share = async (options: RunOptions) => {
    using folder = temporary();
    const tasks = new TaskList<{ pid: number; calls: number }>(folder.file("list"));
    for (let i = 0; i < 6; i++) tasks.schedule(defer(fixture.countCalls));
    const values = await Array.fromAsync(tasks.run(options), (task) => task.returnValue!);
    const byProcess = Object.values(Object.groupBy(values, ({ pid }) => pid));
    return byProcess.map((calls) => calls!.map(({ calls }) => calls));
  };
  assert.deepEqual(await share({ processes: 2 }), Array(6).fill([1]));
  assert.deepEqual(await share({ processes: 1, tasksPerProcess: 3 }), [[1, 2, 3], [1, 2, 3]]);
  assert.deepEqual(await share({ processes: 1, tasksPerProcess: Infinity }), [[1, 2, 3, 4, 5, 6]]);
});

test("break puts back what was running, and leaves nothing running", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(1);
  const { id } = await tasks.schedule(defer(fixture.hang, folder.file("pid")));
  for await (const _ of tasks.run({ processes: 2 })) {
    await until(() => folder.read("pid") !== "");
    break;
  }
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 1, fail: 0 });
  assert.deepEqual(readdirSync(folder.file("list/todo")), [`${id}.json`]);
  await until(() => !isRunning(folder.read("pid")));
});

test("autokill fails the task with a TimeoutError, and the others go on", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.spin, folder.file("pid")), { id: "stuck" });
  tasks.schedule(1, { id: "good" });
  const outcomes = new Map<string, Task>();
  for await (const task of tasks.run({ processes: 1, autokill: 3 })) outcomes.set(task.id, task);
  const error = outcomes.get("stuck")!.errorValue as Error;
  assert.ok(error instanceof Error);
  assert.equal(error.name, "TimeoutError");
  assert.match(error.message, /after 3 s.*autokill/);
  assert.equal(outcomes.get("good")!.returnValue, 1);
  assert.ok(!isRunning(folder.read("pid")));
});

test("a child that a task leaves running ends with its task", async () => {
  using folder = temporary();
  const file = folder.file("pid");
  const result = await resultOf(defer(
    async (module: string, file: string) => {
      const { hangWithChild, waitFor } = await import(module);
      hangWithChild(file, false);
      return await waitFor(file);
    },
    fixtures,
    file,
  ));
  assert.equal(result, file);
  await until(() => folder.read("pid") !== "" && !isRunning(folder.read("pid")));
});

test("a failed task is tried again as often as `retries` says", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.failAtFirst, folder.file("a"), 2), { id: "works at last" });
  tasks.schedule(defer(fixture.failAtFirst, folder.file("b"), 9), { id: "never works" });
  const outcomes = await Array.fromAsync(tasks.run({ retries: 2 }));
  assert.equal(outcomes.length, 2);
  const [good, bad] = ["works at last", "never works"].map((name) =>
    outcomes.find(({ id }) => id === name)!
  );
  assert.deepEqual([good.state, good.attempts, good.returnValue], ["done", 3, 3]);
  assert.equal(good.errorValue, undefined);
  assert.deepEqual([bad.state, bad.attempts], ["fail", 3]);
  assert.equal((bad.errorValue as Error).message, "attempt 3");
});

// -------------------------------------------------------------------------------- looking at tasks

test("count() counts each state", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(1);
  await tasks.schedule(defer(fixture.throwDetailed, "broken"));
  for await (const _ of tasks.run());
  await tasks.schedule(2);
  await tasks.schedule(3);
  assert.deepEqual(tasks.count(), { todo: 2, running: 0, done: 1, fail: 1 });
});

test("retry() moves failed tasks back: all, by id, or by a predicate", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (const id of ["a", "b", "c", "d"]) {
    tasks.schedule(defer(fixture.throwDetailed, `${id} broke`), { id });
  }
  tasks.schedule(1, { id: "works" });
  const todo = () => readdirSync(folder.file("list/todo")).sort();
  await Array.fromAsync(tasks.run());
  assert.equal(await tasks.retry(["a", "works", "lost"]), 1);
  assert.deepEqual(todo(), ["a.json"]);
  assert.equal(await tasks.retry(({ errorValue }) => /^b/.test((errorValue as Error).message)), 1);
  assert.deepEqual(todo(), ["a.json", "b.json"]);
  assert.equal(await tasks.retry(), 2);
  assert.deepEqual(tasks.count(), { todo: 4, running: 0, done: 1, fail: 0 });
  assert.equal(await tasks.retry(), 0);
});

// ------------------------------------------------------------------------------- when a task fails

test("an error comes back with the stack of where it happened in the user's code", async () => {
  const { errorValue } = await outcomeOf(defer(fixture.throwDetailed, "it broke"));
  const error = errorValue as Error & { code: string; details: unknown };
  assert.ok(error instanceof RangeError);
  assert.match(error.stack!, /^RangeError: it broke\n.*throwDetailed.*fixtures\/tasks\.ts:\d+:\d+/);
  assert.doesNotMatch(error.stack!, /mod\.ts|src\/|runSingle|eval|data:/);
  assert.ok(error.cause instanceof TypeError);
  assert.equal(error.cause.message, "the cause");
  assert.equal(error.code, "E_DETAIL");
  assert.deepEqual(error.details, { when: new Date(0), parts: [1n] });
});

test("what is thrown comes back, also if it is no error", async () => {
  for (const thrown of ["a text", 0, undefined, null, { code: 5 }, [new Date(5)]]) {
    const task = await outcomeOf(defer(fixture.throwValue, thrown));
    assert.equal(task.state, "fail");
    assert.ok("errorValue" in task);
    assert.deepEqual(task.errorValue, thrown);
  }
});

test("a task whose process exits fails with the code and the end of its output", async () => {
  for (const code of [0, 3]) {
    const task = await outcomeOf(defer(fixture.exit, code), { onOutput: () => {} });
    assert.equal(task.state, "fail");
    const { message } = task.errorValue as Error;
    assert.match(message, code ? /exited with code 3/ : /exit\(\)/);
    assert.match(message, /these were my last words/);
  }
});

// ----------------------------------------------------------------------------------- the task file

test("a task file written by hand runs", () => {
  using folder = temporary();
  folder.write("tasks.ts", "export const prepare = (x: string) => ({ list: [x, x.length] });");
  folder.write(
    "list/todo/by hand.json",
    `{ "steps": [
         { "call": "./tasks.ts#prepare", "args": ["item 7"] },
         { "call": "tasks.ts#prepare", "args": [{ "$step": 0, "path": ["list", 0] }] },
         { "call": { "$step": 1, "path": ["list", "at"] }, "args": [1] },
         { "value": { "$step": 0, "path": ["list"] } },
         { "call": { "source": "(...all) => all.concat(new Date(0))" },
           "args": [{ "$step": 2 }, { "$step": 3, "path": [1] }, { "$number": "NaN" }] },
         { "call": "node:path#join", "args": ["a", "b"] },
         { "call": "Math.max" },
         { "value": [{ "$step": 4 }, { "$step": 5 }, { "$step": 6, "path": [] }] }
       ] }`,
  );
  const { stdout, stderr } = runProgram(
    folder,
    `const tasks = new TaskList("list", { existOk: true, preClean: false });
     for await (const task of tasks.run()) {
       console.log(task.id, task.errorValue ?? JSON.stringify(task.returnValue));
     }`,
  );
  assert.equal(stderr, "");
  assert.equal(stdout, `by hand [[6,6,null,"${new Date(0).toISOString()}"],"a/b",null]\n`);
  assert.deepEqual(readdirSync(folder.file("list/done")), ["by hand.json"]);
});

// ---------------------------------------------------------------------------------------- one task

test("exec() runs one task here, and leaves its file as it is", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(defer(fixture.countCalls), { id: "good", metadata: { kept: new Set([1]) } });
  await tasks.schedule(defer(fixture.throwDetailed, "broken"), { id: "bad" });
  const before = folder.read("list/todo/good.json");
  const good = await exec(folder.file("list/todo/good.json"));
  assert.deepEqual([good.id, (good.returnValue as { pid: number }).pid], ["good", process.pid]);
  assert.deepEqual(good.metadata, { kept: new Set([1]) });
  const bad = await exec(folder.file("list/todo/bad.json"));
  assert.ok(bad.errorValue instanceof RangeError);
  assert.equal(folder.read("list/todo/good.json"), before);
  assert.deepEqual(tasks.count(), { todo: 2, running: 0, done: 0, fail: 0 });
});

// ------------------------------------------------------------------------------ what is guaranteed

test("what a killed program was running is run again, but not without end", () => {
  using folder = temporary();
  const program = `
    import { writeFileSync } from "node:fs";
    const tasks = new TaskList("list", { existOk: true, preClean: false });
    writeFileSync("run.pid", String(process.pid));
    const killRun = (path) => {
      const { readFileSync } = process.getBuiltinModule("node:fs");
      process.kill(Number(readFileSync(path, "utf8")), "SIGKILL");
      while (true);
    };
    tasks.schedule(defer(killRun, "run.pid"), { id: "deadly" });
    for await (const _ of tasks.run({ maxCrashes: 2 }));`;
  for (const _ of ["first", "second"]) assert.equal(runProgram(folder, program).code, null);
  assert.equal(runProgram(folder, program).code, 0);
  const task = readTask(folder.file("list/fail/deadly.json"));
  assert.match((task.errorValue as Error).message, /run .* has died.*2/);
});

test("two runs share one list, and each task runs once", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 12; i++) tasks.schedule(defer(trace, folder.file("trace"), `${i}`));
  const runs = [tasks.run({ processes: 1 }), tasks.run({ processes: 1 })];
  const yielded = await Promise.all(runs.map((run) => Array.fromAsync(run, ({ id }) => id)));
  assert.equal(new Set(yielded.flat()).size, 12);
  assert.equal(yielded.flat().length, 12);
  assert.equal(new Set(folder.lines("trace")).size, 12);
  assert.equal(folder.lines("trace").length, 12);
});

// ---------------------------------------------------------------------------------------- security

test("tasks may do what `permissions` says, and the runner what it needs", onDeno, async () => {
  using folder = temporary();
  const allowed = folder.write("data/allowed.txt", "allowed");
  const secret = folder.write("secret.txt", "secret");
  folder.write("tasks.ts", "export const read = (path: string) => Deno.readTextFileSync(path);");
  const read = new URL(`file://${folder.file("tasks.ts")}#read`);
  for (const tasksPerProcess of [1, 2]) {
    const permissions = [`--allow-read=${folder.file("data")}`];
    const options = { permissions, tasksPerProcess };
    assert.equal(await resultOf(defer(read, allowed), options), "allowed");
    const denied = await outcomeOf(defer(read, secret), options);
    assert.equal((denied.errorValue as Error)?.name, "NotCapable");
    assert.equal(await resultOf(defer(Math.sqrt, 16), { permissions: [], tasksPerProcess }), 4);
  }
});

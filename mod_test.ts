/**
 * What a user of the module sees, on real processes and real files.
 *
 * Runs unchanged under `deno test -A` and `bun test`.
 *
 * @module
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { closeSync, cpSync, existsSync, mkdirSync, mkdtempSync, openSync } from "node:fs";
import {
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import * as nodeModule from "node:module";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test as register } from "node:test";
import { inspect } from "node:util";
import { command, defer, type Deferred, evaluate, exec, map, readTask } from "./mod.ts";
import { type RunOptions, type Task, TaskList } from "./mod.ts";
import { newOwner } from "./src/claims.ts";
import { withDefaults } from "./src/options.ts";
import { ListPool } from "./src/list_pool.ts";
import * as fixture from "./testdata/tasks.ts";
import { add, identity, prepare, trace } from "./testdata/tasks.ts";
import { shout } from "./testdata/session.ts";

const fixtures = new URL("./testdata/tasks.ts", import.meta.url).href;
const session = new URL("./testdata/session.ts", import.meta.url);
const module = new URL("./mod.ts", import.meta.url).href;
const runtime = "Deno" in globalThis ? "deno" : "bun";

// ------------------------------------------------------------------ RunForrest, as its README has it

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

test("RunForrest: a task runs", async () => {
  assert.equal(await resultOf(defer((x: number) => x, 42)), 42);
});

test("RunForrest: plain data is a task", async () => {
  assert.equal(await resultOf(42), 42);
  assert.equal(await resultOf(defer(42)), 42);
});

test("RunForrest: a nested task runs", async () => {
  assert.equal(await resultOf(defer(identity, defer(identity, 42))), 42);
});

test("RunForrest: many tasks run", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 20; i++) tasks.schedule(defer(identity, i));
  const values = await Array.fromAsync(tasks.run({ processes: 4 }), (task) => task.returnValue);
  assert.deepEqual((values as number[]).sort((a, b) => a - b), [...Array(20).keys()]);
});

test("RunForrest: the properties of a task are tasks", async () => {
  const failure = defer((message: string) => new Error(message), "an error message");
  assert.equal(await resultOf(defer(identity, failure.message)), "an error message");
  assert.equal(await resultOf(defer(identity, failure.message[0])), "a");
  assert.equal(await resultOf(failure.message.length), 16);
});

test("RunForrest: the items of a task are tasks", async () => {
  const list = defer(Array.of<number>, 23, 42);
  assert.equal(await resultOf(defer(identity, list[1])), 42);
  assert.equal(await resultOf(list[1]), 42);
  assert.equal(await resultOf(defer({ value: 42 }).value), 42);
});

test("RunForrest: tasks can be looked at while they wait and when they are done", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(defer(identity, 42));
  const [waiting] = await Array.fromAsync(tasks.todoTasks());
  assert.equal(waiting.state, "todo");
  assert.deepEqual(waiting.steps, [{ call: `${fixtures}#identity`, args: [42] }]);
  assert.deepEqual(await Array.fromAsync(tasks.doneTasks()), []);
  await Array.fromAsync(tasks.run());
  const [done] = await Array.fromAsync(tasks.doneTasks());
  assert.equal(done.id, waiting.id);
  assert.equal(done.returnValue, 42);
  assert.deepEqual(await Array.fromAsync(tasks.todoTasks()), []);
});

test("RunForrest: metadata comes back with the task", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const metadata = { date: new Date(86400000), item: 7 };
  await tasks.schedule(defer(identity, 42), { metadata });
  const [waiting] = await Array.fromAsync(tasks.todoTasks());
  assert.deepEqual(waiting.metadata, metadata);
  const [done] = await Array.fromAsync(tasks.run());
  assert.deepEqual(done.metadata, metadata);
});

test("RunForrest: a failing task has an error and lies in `fail`", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.throwDetailed, "it broke"), { metadata: "the one that fails" });
  const [yielded] = await Array.fromAsync(tasks.run());
  const [stored] = await Array.fromAsync(tasks.failTasks());
  for (const task of [yielded, stored]) {
    assert.ok(task.errorValue instanceof RangeError);
    assert.equal(task.errorValue.message, "it broke");
    assert.equal(task.metadata, "the one that fails");
    assert.equal(task.state, "fail");
    assert.ok(!("returnValue" in task));
  }
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 1 });
});

test("RunForrest: a list with `postClean` removes itself when it is disposed", async () => {
  using folder = temporary();
  const directory = folder.file("list");
  {
    using tasks = new TaskList(directory, { postClean: true });
    tasks.schedule(42);
    await Array.fromAsync(tasks.run());
    assert.ok(existsSync(directory));
  }
  assert.ok(!existsSync(directory));
  {
    await using tasks = new TaskList(directory, { postClean: true });
    tasks.schedule(42); // nobody waits for it, so it is pending when the list is disposed
  }
  assert.ok(!existsSync(directory));
});

test("RunForrest: `noScheduleIfExist` schedules nothing and runs what is left", async () => {
  using folder = temporary();
  const schedule = (tasks: TaskList) => {
    tasks.schedule(1);
    for (const name of ["2", "3"]) tasks.schedule(defer(fixture.waitFor, folder.file(name)));
  };
  const first = new TaskList(folder.file("list"), { noScheduleIfExist: true });
  schedule(first);
  for await (const _ of first.run({ processes: 1 })) break; // the computer crashed
  for (const name of ["2", "3"]) folder.write(name, name);
  const second = new TaskList(folder.file("list"), { noScheduleIfExist: true });
  schedule(second);
  const { scheduled } = await second.schedule(4);
  assert.equal(scheduled, false);
  const left = await Array.fromAsync(second.run(), (task) => task.returnValue);
  assert.deepEqual(left.sort(), ["2", "3"].map(folder.file));
});

test("RunForrest: a log file gets output and events in place of the terminal", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const tasks = new TaskList("list", { logFile: "list.log" });
     tasks.schedule(defer(() => console.log("noisy output")), { id: "noisy" });
     tasks.schedule(defer(() => console.error("noisy error")), { id: "warning" });
     tasks.schedule(defer(() => { throw new Error("broken") }), { id: "failing" });
     for await (const task of tasks.run({ processes: 2 }));`,
  );
  assert.equal(stdout + stderr, "");
  const log = readFileSync(folder.file("list.log"), "utf8");
  const line = (text: string) => new RegExp(`^\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z ${text}`, "m");
  for (const text of ["noisy .*noisy output", "warning .*noisy error"]) {
    assert.match(log, line(text));
  }
  for (const text of ["noisy .*done", "warning .*done", "failing .*fail"]) {
    assert.match(log, line(text));
  }
});

test("RunForrest: the run time of a task is saved in seconds", async () => {
  const task = await outcomeOf(defer(() => new Promise((resolve) => setTimeout(resolve, 120))));
  assert.ok(task.runtime! >= 0.1 && task.runtime! < 30, `${task.runtime}`);
  assert.ok(Date.parse(task.started!) <= Date.now());
});

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

test("defer() calls a deferred function", async () => {
  const multiplier = defer((factor: number) => (x: number) => x * factor, 6);
  assert.equal(await evaluate(multiplier(7)), 42);
  assert.equal(await evaluate(defer(multiplier, 7)), 42);
});

test("defer() takes plain data with deferred values in it", async () => {
  const one = defer(identity, 1);
  const data = { list: [one, [defer(add, one, 1)]], map: new Map([["three", defer(add, 1, 2)]]) };
  const expected = { list: [1, [2]], map: new Map([["three", 3]]) };
  assert.deepEqual(await evaluate(defer(data)), expected);
  assert.deepEqual(await resultOf(defer(data)), expected);
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

test("defer() constructs classes and built-ins with `new`", async () => {
  assert.equal(await resultOf(defer(fixture.Account, "Jenny", 5).balance), 5);
  assert.deepEqual(await resultOf(defer(Date, 5)), new Date(5));
  assert.deepEqual(await resultOf(defer(Map<string, number>, [["a", 1]])), new Map([["a", 1]]));
  assert.equal(await resultOf(defer(URL, "a", "https://example.org/b/c").pathname), "/b/a");
  assert.equal(await resultOf(defer(RangeError, "an error message").message), "an error message");
  assert.deepEqual(await resultOf(defer(Set<number>, [1, 2])), new Set([1, 2]));
  class Local {
    value: number;
    constructor(value: number) {
      this.value = value;
    }
    double() {
      return this.value * 2;
    }
  }
  assert.equal(await resultOf(defer(Local, 21).double()), 42);
});

test("defer() takes a URL whose fragment names an export", async () => {
  const url = new URL("./testdata/tasks.ts#prepare", import.meta.url);
  assert.equal(await resultOf(defer(url, "item").thing), "ITEM");
  assert.equal(await evaluate(defer(new URL(`${fixtures}#default`), 1)), 2);
  assert.deepEqual(
    await evaluate(defer(new URL("https://example.org/"))),
    new URL("https://example.org/"),
  );
});

test("defer() takes asynchronous functions and waits for their results", async () => {
  const sum = defer(fixture.addSlowly, 1, defer(fixture.addSlowly, 2, 3));
  assert.equal(await evaluate(sum), 6);
  assert.equal(await resultOf(sum), 6);
});

test("defer() takes functions as arguments", async () => {
  assert.equal(await resultOf(defer(fixture.apply<number, number>, (x: number) => x * 2, 21)), 42);
  assert.equal(await resultOf(defer(fixture.apply<number, number>, Math.sqrt, 16)), 4);
  assert.equal(
    await resultOf(defer(fixture.apply<string, { thing: string }>, prepare, "x").thing),
    "X",
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

test("a deferred method call runs at most once", async () => {
  const account = defer(fixture.Account, "Forrest", 0);
  const first = account.deposit(1);
  const second = account.deposit(10);
  assert.deepEqual(await evaluate(defer([first, first, second, account.balance])), [1, 1, 11, 11]);
});

test("deferred calls run in the order in which they were made", async () => {
  using folder = temporary();
  const file = folder.file("trace");
  const [one, two, three] = ["one", "two", "three"].map((word) => defer(trace, file, word));
  await evaluate(defer([three, [two], one]));
  assert.deepEqual(folder.lines("trace"), ["one", "two", "three"]);
});

test("a chain of 100,000 calls runs", async () => {
  let sum: Deferred<number> = defer(0);
  for (let i = 0; i < 100_000; i++) sum = defer(add, sum, 1);
  assert.equal(await evaluate(sum), 100_000);
  assert.match(inspect(sum), /^defer\(add, defer\(add, .*…/);
});

test("a chain of 100,000 methods runs in a task", async () => {
  let text = defer("a".repeat(100_001)).trim();
  for (let i = 0; i < 50_000; i++) text = text.slice(1).trim();
  const task = await outcomeOf(text.length);
  assert.equal(task.errorValue, undefined);
  assert.equal(task.returnValue, 50_001);
});

test("using a deferred value as a value throws a TypeError that says what to do", () => {
  // deno-lint-ignore no-explicit-any
  const value = defer(identity, 1) as any;
  const uses: Record<string, () => unknown> = {
    "a template": () => `${value}`,
    String: () => String(value),
    addition: () => value + 1,
    multiplication: () => value * 2,
    comparison: () => value < 1,
    "loose equality": () => value == 1,
    "an object key": () => ({ [value]: 1 }),
    iteration: () => {
      for (const _ of value);
    },
    spread: () => [...value],
    destructuring: () => {
      const [_] = value;
    },
    "object spread": () => ({ ...value }),
    "JSON.stringify": () => JSON.stringify({ value }),
    new: () => new value(),
    assignment: () => (value.x = 1),
    "assignment to a part": () => (value.x.y = 1),
    deletion: () => delete value.x,
    "Object.keys": () => Object.keys(value),
    in: () => "x" in value,
  };
  for (const [name, use] of Object.entries(uses)) {
    assert.throws(use, (error: Error) => {
      assert.ok(error instanceof TypeError, `${name} throws ${error}`);
      assert.match(error.message, /deferred value.*`defer\(fn, value\)`/, name);
      return true;
    }, name);
  }
});

test("asynchronous iteration of a deferred value throws a TypeError that says what to do", async () => {
  // deno-lint-ignore no-explicit-any
  const value = defer(identity, [1]) as any;
  const iterate = async () => {
    for await (const _ of value);
  };
  await assert.rejects(iterate, {
    name: "TypeError",
    message: /deferred value.*`defer\(fn, value\)`/,
  });
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

test("console.log shows a deferred value as the call that it stands for", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `console.log(defer(Math.sqrt, 16)); console.log({ deep: defer([1]).at(0) });`,
  );
  assert.equal(stderr, "");
  assert.match(stdout, /^defer\(sqrt, 16\)\n/);
  assert.match(stdout, /defer\(\[…\]\)\.at\(0\)/);
});

test("a deferred value of another copy of the module is one, too", async () => {
  using folder = temporary();
  cpSync(new URL("./mod.ts", import.meta.url), folder.file("copy/mod.ts"));
  cpSync(new URL("./src", import.meta.url), folder.file("copy/src"), { recursive: true });
  const copy = await import(`file://${folder.file("copy/mod.ts")}`) as { defer: typeof defer };
  assert.notEqual(copy.defer, defer);
  const two = copy.defer(add, 1, 1);
  assert.equal(await evaluate(defer(add, two, two)), 4);
  assert.equal(await resultOf(copy.defer(add, defer(add, two, 1), two)), 5);
});

test("evaluate() rejects with what a step throws", async () => {
  const thrown = { not: "an error" };
  const rethrow = () => {
    throw thrown;
  };
  await assert.rejects(evaluate(defer(rethrow)), (error) => error === thrown);
});

test("evaluate() says which part of which value is missing", async () => {
  const task = defer(() => ({ list: undefined as unknown as string[] })).list[0];
  await assert.rejects(evaluate(task), {
    name: "TypeError",
    message: /`0` of undefined.*"list",0/,
  });
});

test("evaluate() gives functions copies of what they are given, as a runner does", async () => {
  const list = [1, 2];
  assert.deepEqual(await evaluate(defer((list: number[]) => list.reverse(), list)), [2, 1]);
  assert.deepEqual(list, [1, 2]);
  await assert.rejects(evaluate(defer(identity, Symbol("s"))), /`args\[0\]` is a symbol/);
});

test("evaluate() gives the very values that functions return", async () => {
  const made = new fixture.Opaque();
  assert.equal(await evaluate(defer(() => made)), made);
});

test("a function in deferred data is passed on as a function", async () => {
  const task = defer(fixture.apply, defer({ f: Math.sqrt }).f as never, 16);
  assert.equal(await evaluate(task), 4);
  assert.equal(await resultOf(task), 4);
  assert.equal(await resultOf(defer({ f: add }).f(1, 2)), 3);
});

test("evaluate() calls the global that was given, also if its name means another now", async () => {
  const real = globalThis.btoa;
  try {
    globalThis.btoa = (text: string) => `stub:${text}`;
    assert.equal(await evaluate(defer(real, "x")), "eA==");
  } finally {
    globalThis.btoa = real;
  }
});

test("evaluate() calls a method of a global on its owner, as a run does", async () => {
  const task = defer(Promise.all, [1, 2]);
  assert.deepEqual(await evaluate(task), [1, 2]);
  assert.deepEqual(await resultOf(task), [1, 2]);
});

// -------------------------------------------------------------------------------------------- types

/** Is never called: it only has to compile, or not to. */
export function types(): void {
  type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true
    : false;
  const is = <A, B>(_same: Same<A, B>): void => {};
  const prepared = defer(prepare, "item");
  const length = prepared.list[1];
  is<typeof length, Deferred<number>>(true);
  const words = prepared.thing.split(" ");
  const word = words[0];
  is<typeof word, Deferred<string>>(true);
  const sum = defer(fixture.addSlowly, length, defer(Math.max, length, 1));
  is<typeof sum, Deferred<number>>(true);
  const account = defer(fixture.Account, "Forrest", defer(Number, "1"));
  const balance = account.deposit(length);
  is<typeof balance, Deferred<number>>(true);
  const nothing = evaluate(defer(() => null));
  is<typeof nothing, Promise<null>>(true);
  const picked = [defer(fixture.pick, "a"), defer(fixture.pick, 1)] as const;
  is<typeof picked, readonly [Deferred<string>, Deferred<number>]>(true);
  const same = defer(length);
  is<typeof same, Deferred<number>>(true);
  const answer = defer(42 as number);
  is<typeof answer, Deferred<number>>(true);
  const nested = defer((options: { list: string[] }) => options.list.length, {
    list: ["a", prepared.thing],
  });
  is<typeof nested, Deferred<number>>(true);
  const optional = defer((): { a?: { b: string } | null } => ({})).a.b;
  is<typeof optional, Deferred<string>>(true);
  const matched = defer((text: string) => text.match(/x/), "x")[0];
  is<typeof matched, Deferred<string>>(true);
  const lengths = words.map((word) => word.length).length;
  is<typeof lengths, Deferred<number>>(true);
  const logged = defer(() => console).log(words, 1);
  is<typeof logged, Deferred<void>>(true);
  const page = defer(URL, prepared.thing, "https://example.org/").searchParams.get("page");
  is<typeof page, Deferred<string | null>>(true);
  const parsed = defer(JSON.parse, "[]")[0].anything("goes");
  // deno-lint-ignore no-explicit-any
  is<typeof parsed, Deferred<any>>(true);
  const value = evaluate(sum);
  is<typeof value, Promise<number>>(true);

  // @ts-expect-error: a number is no string
  defer(prepare, 7);
  // @ts-expect-error: an argument is missing
  defer(add, 1);
  // @ts-expect-error: all arguments are missing
  defer(add);
  // @ts-expect-error: all arguments are missing
  defer(fixture.Account);
  // @ts-expect-error: no signature takes a boolean
  defer(fixture.pick, true);
  // @ts-expect-error: nothing is no number
  defer(add, defer(() => undefined), 1);
  // @ts-expect-error: an argument is too many
  defer(add, 1, 2, 3);
  // @ts-expect-error: a deferred string is no number
  defer(add, prepared.thing, 1);
  // @ts-expect-error: a deferred string is no number, and so is one in an object
  defer((options: { size: number }) => options.size, { size: prepared.thing });
  // @ts-expect-error: there is no such property
  prepared.lost;
  // @ts-expect-error: a method takes what it takes
  prepared.thing.split(length, "a");
  // @ts-expect-error: a function takes what it takes
  defer(fixture.apply<number, number>, (x: string) => x.length, 1);
  // @ts-expect-error: a constructor takes what it takes
  defer(fixture.Account, "Forrest", "100");
  // @ts-expect-error: no arithmetic on a deferred value
  length + 1;
  // @ts-expect-error: no arithmetic on a deferred value
  length * 2;
  // @ts-expect-error: a deferred value is not the value
  length satisfies number;
  // @ts-expect-error: a deferred value cannot be iterated over
  for (const _ of prepared.list);
  // @ts-expect-error: parts cannot be assigned
  prepared.thing = "other";

  const numbers = new TaskList<number>("list");
  numbers.schedule(sum);
  // @ts-expect-error: a list of numbers takes no string
  numbers.schedule(prepared.thing);
  new TaskList<{ size: number }>("list").schedule({ size: length });
  const run = numbers.run();
  is<typeof run extends AsyncGenerator<infer Y> ? Y : never, Task<number>>(true);
  is<Task<number>["returnValue"], number | undefined>(true);

  const texts = map((x: number) => `${x}`, [1, 2]);
  is<typeof texts, AsyncGenerator<string, void, void>>(true);
  const sums = map(fixture.addSlowly, [1], [2], { ordered: false });
  is<typeof sums, AsyncGenerator<number, void, void>>(true);
  const zipped = map((a: number, b: string, c: boolean) => [a, b, c], [1], ["a"], new Set([true]));
  is<typeof zipped, AsyncGenerator<(string | number | boolean)[], void, void>>(true);
  const inferred = map((x) => x * 2, [1, 2]);
  is<typeof inferred, AsyncGenerator<number, void, void>>(true);
  // @ts-expect-error: items are what the function takes
  map((x: number) => x, ["a"]);
  // @ts-expect-error: there is no such option
  map((x: number) => x, [1], { order: true });
  // @ts-expect-error: there is no such option
  numbers.run({ process: 2 });
}

test("deferred calls are typed, and wrong ones do not compile", () => {
  assert.equal(typeof types, "function"); // the compiler has seen it, or this file would not run
});

// ------------------------------------------------------------------------------------ stored values

/** Every kind of value that a task file can hold. */
const storable: Record<string, unknown> = {
  null: null,
  "a text": 'of "any" \\ \0 \x1e \u2028 \ud800 kind 🏃\n',
  numbers: [0, 1.5, -1e300, Number.MIN_VALUE, NaN, Infinity, -Infinity, -0],
  booleans: [true, false],
  undefined: undefined,
  "undefined inside": { list: [undefined, 1, undefined], key: undefined },
  bigints: [0n, -(2n ** 100n)],
  dates: [new Date(0), new Date(-1), new Date(8.64e15), new Date(NaN)],
  urls: new URL("https://user@example.org:8080/a%20b?c=d#e"),
  "regular expressions": [/a\/[b"]+$/giu, /(?:)/],
  maps: new Map<unknown, unknown>([["a", { deep: new Map([[NaN, undefined]]) }], [{ key: 1 }, -0]]),
  sets: new Set<unknown>([1, "1", undefined, [new Set([1n])]]),
  "array buffers": new Uint8Array([1, 2, 3]).buffer,
  "typed arrays": [
    new Uint8Array([0, 255, 128]),
    new Uint8ClampedArray([0, 255]),
    new Int8Array([-128, 127]),
    new Int16Array([-32768, 32767]),
    new Uint16Array([65535]),
    new Int32Array([-1, 2 ** 31 - 1]),
    new Uint32Array([2 ** 32 - 1]),
    new Float32Array([1.5, NaN, -0]),
    new Float64Array([Math.PI, -Infinity, -0]),
    new BigInt64Array([-1n]),
    new BigUint64Array([2n ** 64n - 1n]),
    new Uint8Array(),
  ],
  "a part of a buffer": new Uint16Array([1, 2, 3, 4]).subarray(1, 3),
  "objects with $ keys": [
    { $date: "no date" },
    { $step: 0, path: [] },
    { $object: { $undefined: true } },
    { a: 1, $b: new Date(5), "": { $c: undefined } },
    { $function: "Math.max" },
  ],
  "objects with dangerous keys": JSON.parse(
    '{"__proto__": {"a": 1}, "constructor": 2, "toString": [3], "length": 4, "then": 5}',
  ),
  "objects with dangerous and $ keys": JSON.parse('{"$a": 1, "__proto__": {"__proto__": null}}'),
  "the same value twice": Array(2).fill({ shared: [1] }),
  "an empty array and an empty object": [[], {}],
  "keys like numbers": { 2: "b", 1: "a", "-1": "c" },
};

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

test("what comes back has own keys only where it had them", async () => {
  const sent = JSON.parse('{"__proto__": {"polluted": true}, "$": 1}');
  const back = await resultOf(defer(identity, sent)) as Record<string, unknown>;
  assert.deepEqual(Object.keys(back), ["__proto__", "$"]);
  assert.equal(back.polluted, undefined);
  assert.equal(({} as Record<string, unknown>).polluted, undefined);
});

test("a half-precision array comes back as it went in", {
  skip: !("Float16Array" in globalThis) && "this runtime has no Float16Array",
}, async () => {
  // deno-lint-ignore no-explicit-any
  const Float16Array = (globalThis as any).Float16Array;
  const halves = new Float16Array([1.5, -0, NaN]);
  assert.deepEqual(await resultOf(defer(identity, halves)), halves);
});

test("a Buffer comes back as the bytes that it holds", async () => {
  const back = await resultOf(defer(identity, Buffer.from("bytes")));
  assert.equal(new TextDecoder().decode(back as Uint8Array), "bytes");
});

test("large values go in and out", async () => {
  const [bytes, text] = [new Uint8Array(3_000_000).fill(7), "🏃".repeat(1_000_000)];
  const back = await resultOf(defer({ bytes, text })) as { bytes: Uint8Array; text: string };
  assert.ok(back.text === text);
  assert.ok(back.bytes.length === bytes.length && back.bytes.every((byte) => byte === 7));
});

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

test("errors of own classes, aggregate errors and DOM exceptions come back", async () => {
  class ParseError extends Error {
    line = 5;
  }
  const all = new AggregateError([new SyntaxError("one"), "two"], "several");
  const values = [new ParseError("bad"), all, new DOMException("stop", "AbortError")];
  const [parse, several, abort] = await resultOf(defer(identity, values)) as [
    ParseError,
    AggregateError,
    Error,
  ];
  assert.ok(parse instanceof Error);
  assert.deepEqual([parse.name, parse.message, parse.line], ["ParseError", "bad", 5]);
  assert.ok(several instanceof AggregateError);
  assert.ok(several.errors[0] instanceof SyntaxError);
  assert.equal(several.errors[1], "two");
  assert.ok(abort instanceof Error);
  assert.deepEqual([abort.name, abort.message], ["AbortError", "stop"]);
});

test("an error whose properties cannot be stored still comes back", async () => {
  const task = await outcomeOf(defer(() => {
    const error = new Error("odd") as Error & Record<string, unknown>;
    error.self = error;
    error.callback = () => {};
    error.symbol = Symbol("s");
    error.cause = { deep: new WeakMap() };
    throw error;
  }));
  assert.ok(task.errorValue instanceof Error);
  assert.equal(task.errorValue.message, "odd");
});

test("an object with toJSON is stored as what that gives", async () => {
  const account = new fixture.Account("Forrest", 5);
  assert.deepEqual(await resultOf(defer(identity, account)), { owner: "Forrest", balance: 5 });
});

const cyclic: Record<string, unknown> = { list: [] };
(cyclic.list as unknown[]).push({ cyclic });
const unstorable: [string, unknown, RegExp][] = [
  ["a cycle", cyclic, /`args\[0\]\.list\[0\]\.cyclic` .*contains itself/],
  ["a symbol", [1, Symbol("s")], /`args\[0\]\[1\]` is a symbol/],
  ["a symbol as a key", { a: { [Symbol("s")]: 1 } }, /`args\[0\]\.a` .*symbol/],
  [
    "an instance of a class",
    { deep: [new fixture.Opaque()] },
    /`args\[0\]\.deep\[0\]` is a Opaque/,
  ],
  ["a WeakMap", { cache: new WeakMap() }, /`args\[0\]\.cache` is a WeakMap/],
  ["a promise", { later: Promise.resolve() }, /`args\[0\]\.later` is a Promise/],
  ["a boxed number", Object(1), /`args\[0\]` is a Number/],
  ["something in a map", new Map([["a", Symbol("s")]]), /`args\[0\].*` is a symbol/],
  ["something in a set", new Set([new WeakSet()]), /`args\[0\].*` is a WeakSet/],
  [
    "something behind a dotted key",
    { "a.b c": Symbol("s") },
    /`args\[0\]\["a\.b c"\]` is a symbol/,
  ],
];

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

test("schedule() names the place of what cannot be stored in metadata and in plain data", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const deep = { deep: [1, Symbol("s")] };
  await assert.rejects(tasks.schedule(1, { metadata: deep }), /`metadata\.deep\[1\]` is a symbol/);
  await assert.rejects(tasks.schedule(deep), /`value\.deep\[1\]` is a symbol/);
  await assert.rejects(
    tasks.schedule(defer(add, 1, Symbol("s") as never)),
    /`args\[1\]` is a symbol/,
  );
  await assert.rejects(
    tasks.schedule(1, { metadata: { callback: () => {} } }),
    /`metadata\.callback` is a function/,
  );
});

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

test("the path to what cannot be stored leaves out what could not be stored before", async () => {
  const error = Object.assign(new Error("broken"), { deep: { map: new WeakMap() } });
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const scheduled = tasks.schedule(defer(identity, { error, socket: new WeakMap() } as unknown));
  await assert.rejects(scheduled, /`args\[0\]\.socket` is a WeakMap/);
});

test("what has no text can be thrown, and an error may have a property without one", async () => {
  const odd = () => Object.assign(Object.create(null), { code: 5, retry() {} });
  const { errorValue: bare } = await outcomeOf(defer(() => {
    throw Object.assign(Object.create(null), { code: 5, retry() {} });
  }));
  assert.equal(bare, "[object Object]");
  const { errorValue } = await outcomeOf(defer(fixture.throwOdd));
  assert.ok(errorValue instanceof RangeError, `${errorValue}`);
  assert.equal((errorValue as Error & { odd: unknown }).odd, "[object Object]");
  assert.throws(() => `${odd()}`);
});

test("an own property of an error may look like a stored function", async () => {
  const error = Object.assign(new Error("odd"), { $function: "Math.sqrt", $object: { a: 1 } });
  const back = await resultOf(defer(identity, error)) as typeof error;
  assert.equal(back.$function, "Math.sqrt");
});

test("a Buffer comes back as one, and a subclass of the user's own as bytes", async () => {
  class Bytes extends Uint8Array {}
  const identity = (value: unknown) => value;
  const buffer = await resultOf(defer(identity, Buffer.from("run")));
  assert.ok(Buffer.isBuffer(buffer));
  assert.equal(buffer.toString(), "run");
  const bytes = await resultOf(defer(identity, new Bytes([1, 2])));
  assert.deepEqual(bytes, new Uint8Array([1, 2]));
});

test("an error of `using` keeps the two that it is about", async () => {
  const task = await outcomeOf(defer(() => {
    using _file = {
      [Symbol.dispose]() {
        throw new Error("cannot close");
      },
    };
    throw new Error("disk full");
  }));
  const { error, suppressed } = task.errorValue as SuppressedError;
  assert.deepEqual([error.message, suppressed.message], ["cannot close", "disk full"]);
});

test("an error keeps its own properties, whatever their names, and in short", async () => {
  const task = await outcomeOf(defer(() => {
    class Client {
      bytes = new Uint8Array(100_000);
    }
    throw Object.assign(new Error("400"), { error: "invalid", client: new Client() });
  }));
  assert.deepEqual(Object.keys(task.errorValue as Error), ["error", "client"]);
  assert.ok(JSON.stringify(task.errorValue).length < 1000);
});

test("what is thrown and is no error keeps what it holds", async () => {
  const task = await outcomeOf(defer(() => {
    class Failure {
      code = 7;
    }
    throw new Failure();
  }));
  assert.equal(task.errorValue, 'Failure {"code":7}');
});

// --------------------------------------------------------------------------------- stored functions

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

test("a local function is stored as its text even if a text that is exported has its name", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `import { TaskList } from "${module}";
     import { schedule } from "./library.ts";
     const tasks = new TaskList("list");
     schedule(tasks);
     for await (const task of tasks.run()) console.log(task.errorValue ?? task.returnValue);`,
    {
      "library.ts": `import { defer, type TaskList } from "${module}";
        export const label = "local";
        const local = (x: number) => x * 2;
        export const schedule = (tasks: TaskList) => tasks.schedule(defer(local, 21));`,
    },
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "42\n");
});

test("functions whose text cannot stand alone are refused", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const object = {
    method() {
      return 1;
    },
    async *generator() {
      yield 1;
    },
  };
  const calls: [string, () => unknown][] = [
    ["bound", add.bind(null, 1, 2)],
    ["native", "text".toUpperCase],
    ["a method", object.method],
    ["a generator method", object.generator],
    ["bound and a global", Math.max.bind(Math)],
  ];
  for (const [name, call] of calls) {
    await assert.rejects(
      tasks.schedule(defer(call)),
      { name: "TypeError", message: /^Cannot schedule the function .*arrow function.*export/ },
      name,
    );
  }
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

test("the free variables of a text function that is awaited give the same error", async () => {
  const factor = Number("3");
  const task = await outcomeOf(defer(async (x: number) => (await x) * factor, 2));
  assert.match((task.errorValue as Error).message, /factor.*import\.meta\.main/s);
});

test("a text function that assigns to a free variable gives the same error", async () => {
  let calls = 0;
  const task = await outcomeOf(defer((x: number) => calls = x, 2));
  assert.match(`${task.errorValue}`, /calls.*import\.meta\.main/s);
  assert.equal(calls, 0);
});

declare const factor: number; // of the session module

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

test("an unguarded main script gives one clear error, not a storm of processes", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `import { appendFileSync } from "node:fs";
     appendFileSync("starts", "started\\n");
     export function double(x: number) { return x * 2; }
     const tasks = new TaskList("list");
     tasks.schedule(defer(double, 4));
     for await (const task of tasks.run()) console.log((task.errorValue as Error).message);`,
  );
  assert.match(stdout, /import\.meta\.main/);
  assert.equal(stdout.trim().split("\n").length, 1);
  assert.equal(stderr, "");
  assert.equal(readdirSync(folder.file("list/fail")).length, 1);
  assert.equal(folder.lines("starts").length, 2); // the program, and the one runner that imports it
});

test("an unguarded main script that maps gives one clear error, not a storm of processes", () => {
  using folder = temporary();
  const { stdout, stderr, code } = runProgram(
    folder,
    `import { appendFileSync, readFileSync } from "node:fs";
     appendFileSync("starts", "started\\n");
     if (readFileSync("starts", "utf8").length > 80) process.exit(7); // it is a storm
     export function double(x: number) { return x * 2; }
     for await (const y of map(double, [1, 2], { processes: 1 })) console.log(y);`,
  );
  assert.equal(folder.lines("starts").length, 2);
  assert.match(stderr, /import\.meta\.main/);
  assert.equal(stdout, "");
  assert.notEqual(code, 0);
});

test("a function that is no export of its module gives an error that lists what is", async () => {
  const task = await outcomeOf(defer(new URL("./testdata/session.ts#lost", import.meta.url)));
  assert.ok(task.errorValue instanceof TypeError);
  assert.match(task.errorValue.message, /#lost` is not a function.*factor.*shout/);
});

test("a module that is not there gives an error with its name", async () => {
  const task = await outcomeOf(defer(new URL("./testdata/lost.ts#run", import.meta.url)));
  assert.match((task.errorValue as Error).message, /lost\.ts/);
});

test("functions are found where `defer` is called, however they came there", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `/* This was once here:
     import { old } from "./old.ts";
     */
     import {
       Image, // not (only) a "class"
       routes, twice,
     } from "./tools.ts";
     import{squeezed}from"./squeezed.ts";
     import * as pages from "./pages.ts";
     const text = \`
     import { old } from "./old.ts";
     \`;
     const backtick = /\`/g; // does not begin a text
     const factor = 7;
     export function größe(x: number) { return x * factor; }
     const hidden = (x: number) => x * factor * 2;
     export { hidden as "a name" };
     if (import.meta.main) {
       const tasks = new TaskList("list");
       await tasks.schedule(defer([
         defer(Image.open, 1), defer(twice, 2), defer(routes.twice, 2), defer(squeezed, 3), defer(größe, 1), defer(hidden, 1),
         pages.page("a & b"), pages.pages(["a & b"]),
       ]));
       for await (const { errorValue, returnValue } of tasks.run()) console.log(errorValue ?? \`\${returnValue}\`);
     }`,
    {
      "old.ts": "console.log('the old module runs');",
      "tools.ts": `const factor = 3;
        export class Image { static open(x: number) { return x * factor; } }
        export const twice = (x: number) => x * 2 * factor;
        // of which a task would find what is declared here, and not what is there now: so its text is stored
        export const routes = { twice: (_: number) => 0 };
        routes.twice = (x: number) => x * 2;
        Object.defineProperty(globalThis, "db", { get: () => console.log("a getter runs") });`,
      "squeezed.ts": "const factor = 5; export const squeezed = (x: number) => x * factor;",
      // in strict code, Bun leaves no frame for a function that ends with a call
      "pages.ts": `import { defer } from "${module}";
        const escape = (text: string) => text.replaceAll("&", "&amp;");
        const render = (text: string) => "<" + escape(text) + ">";
        const each = (texts: string[], call: (text: string) => string) => texts.map(call);
        export { each, render };
        export function page(text: string) { return defer(render, text); }
        export function pages(texts: string[]) { return defer(each, texts, render); }`,
    },
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "3,12,4,15,7,14,<a &amp; b>,<a &amp; b>\n");
});

test("globals that a runtime loads late are stored by their names", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const tasks = new TaskList("list");
     for (const call of [atob, TextDecoder, Buffer.byteLength, Response.json]) await tasks.schedule(defer(call, "YQ=="));
     for await (const { steps } of tasks.todoTasks()) console.log(steps[0].call);`,
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "atob\nTextDecoder\nBuffer.byteLength\nResponse.json\n");
});

test("a function that gives methods to what it makes is a constructor", async () => {
  const Counter = fixture.Counter as unknown as new (count: number) => { next(): number };
  assert.equal(await resultOf(defer(Counter, 41).next()), 42);
  assert.equal(await resultOf(defer((counter) => counter.next(), defer(Counter, 41))), 42);
});

test("a function that another module hides is not taken for an export with its name", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `import { handlers } from "./handlers.ts";
     const LABEL = "main " + "crop ";
     export const crop = (x: number): string => LABEL + "of " + "main " + x;
     if (import.meta.main) {
       for (const task of [defer(handlers.crop, 1), defer(crop, 2)]) {
         const tasks = new TaskList("list", { existOk: true });
         tasks.schedule(task);
         for await (const { returnValue, errorValue } of tasks.run()) console.log(returnValue ?? errorValue);
       }
     }`,
    { "handlers.ts": `export const handlers = { crop: (x: number) => "handlers.crop " + x };` },
  );
  assert.equal(stderr, "");
  assert.deepEqual(stdout.trim().split("\n"), ["handlers.crop 1", "main crop of main 2"]);
});

test("an exported function of a script is found, however the runtime prints it again", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const pad = (...texts: string[]) => texts.join("|");
     enum Size { Small = "s" }
     export function report(name: string) {
       return pad(
         "first line, which is long enough that the formatter breaks this call\\n",
         "second",
         "é",
         Size.Small,
         name,
       );
     }
     export function broken(text: string) { return pad("a\\n",text   ,"it's",'b') }
     const named = (x: number) => pad("named", \`\${x}\`);
     export default named;
     if (import.meta.main) {
       for (const task of [defer(report, "x"), defer(broken, "y"), defer(named, 1)]) {
         const tasks = new TaskList("list", { existOk: true });
         tasks.schedule(task);
         for await (const { returnValue, errorValue } of tasks.run()) {
           console.log(JSON.stringify(returnValue ?? \`\${errorValue}\`));
         }
       }
     }`,
  );
  assert.equal(stderr, "");
  assert.deepEqual(stdout.trim().split("\n").map((line) => JSON.parse(line)), [
    "first line, which is long enough that the formatter breaks this call\n|second|é|s|x",
    "a\n|y|it's|b",
    "named|1",
  ]);
});

test("several imports may stand in one line", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `/* one line */ import { defer, TaskList } from "${module}"; import { seven } from "./seven.ts";
     const tasks = new TaskList("list");
     tasks.schedule(defer(seven));
     for await (const { returnValue, errorValue } of tasks.run()) console.log(returnValue ?? errorValue);`,
    { "seven.ts": "const digits = [7];\nexport const seven = () => digits[0];" },
  );
  assert.deepEqual([stdout, stderr], ["7\n", ""]);
});

// --------------------------------------------------------------------------- where task modules live

test("a task module uses top-level await, and the directory and environment of the parent", () => {
  using folder = temporary();
  mkdirSync(folder.file("work"));
  const { stdout, stderr } = runProgram(
    folder,
    `import * as fixture from "${fixtures}";
     process.chdir("work");
     process.env.FORREST_TEST_VARIABLE = "inherited";
     const tasks = new TaskList("list");
     tasks.schedule(defer([
       defer(fixture.whatWasAwaited), defer(fixture.surroundings, "FORREST_TEST_VARIABLE"),
     ]));
     for await (const task of tasks.run()) {
       console.log(task.errorValue ?? JSON.stringify(task.returnValue));
     }`,
  );
  assert.equal(stderr, "");
  const [awaited, { cwd, value, input }] = JSON.parse(stdout);
  assert.deepEqual([awaited, cwd, value, input], [
    "awaited",
    folder.file("work"),
    "inherited",
    "",
  ]);
});

/** A project with a package, an import of its own, and a task module that uses both. */
function makeProject(folder: Folder): void {
  folder.write("project/package.json", '{ "type": "module", "imports": { "#own": "./own.ts" } }');
  folder.write("project/own.ts", "export const own: string = 'own';");
  const description = '{ "name": "greeter", "version": "1.0.0", "main": "main.js" }';
  folder.write("project/node_modules/greeter/package.json", description);
  folder.write(
    "project/node_modules/greeter/main.js",
    "exports.greet = (x) => `Hello, ${x}` + mark(); const mark = () => '!';",
  );
  folder.write(
    "project/tasks.ts",
    `import { greet } from "greeter";
     import { own } from "#own";
     enum Kind { A = "a" }
     export const run = (name: string): string => [greet(name), own, Kind.A].join();`,
  );
}

test("a task module uses the packages of its own project", async () => {
  using folder = temporary();
  makeProject(folder);
  const task = defer(new URL(`file://${folder.file("project/tasks.ts")}#run`), "Jenny");
  assert.equal(await resultOf(task), "Hello, Jenny!,own,a");
});

test("a task module uses in the runner what its project gives it in the parent", () => {
  using folder = temporary();
  makeProject(folder);
  const { stdout, stderr } = runProgram(
    folder,
    `import { run } from "./tasks.ts";
     console.log(run("parent"));
     const tasks = new TaskList("../list");
     tasks.schedule(defer(run, "runner"));
     for await (const task of tasks.run()) console.log(task.errorValue ?? task.returnValue);`,
    {},
    "project/main.ts",
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "Hello, parent!,own,a\nHello, runner!,own,a\n");
});

test("a task module uses the import map and the npm packages of its own project", {
  skip: runtime !== "deno" && "import maps in deno.json are Deno's",
}, async () => {
  using folder = temporary();
  folder.write(
    "project/deno.json",
    '{ "imports": { "mapped/": "./library/", "path": "npm:deno-std@1.4.0/path/mod.js" } }',
  );
  folder.write("project/library/text.ts", "export const text: string = 'mapped';");
  folder.write(
    "project/tasks.ts",
    `import { text } from "mapped/text.ts";
     import { basename } from "path";
     export const run = () => basename("a/" + text);`,
  );
  const task = defer(new URL(`file://${folder.file("project/tasks.ts")}#run`));
  assert.equal(await resultOf(task), "mapped");
  const { stdout, stderr } = runProgram(
    folder,
    `import { run } from "./tasks.ts";
     const tasks = new TaskList("../list");
     tasks.schedule(defer(run));
     for await (const task of tasks.run()) console.log(task.errorValue ?? task.returnValue);`,
    {},
    "project/main.ts",
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "mapped\n");
});

test("the functions of a package that a script imports are tasks", () => {
  using folder = temporary();
  makeProject(folder);
  const { stdout, stderr } = runProgram(
    folder,
    `import { greet } from "greeter";
     import { basename } from "node:path";
     const tasks = new TaskList("list");
     tasks.schedule(defer(greet, "package"));
     tasks.schedule(defer(basename, "/a/b"));
     for await (const task of tasks.run({ processes: 1 })) {
       console.log(task.errorValue ?? task.returnValue);
     }`,
    {},
    "project/main.ts",
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "Hello, package!\nb\n");
});

test("tasks of several projects run in one list, each with what its own project has", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (const name of ["one", "two"]) {
    folder.write(`${name}/package.json`, "{}");
    folder.write(`${name}/node_modules/who/package.json`, '{ "main": "main.js" }');
    folder.write(`${name}/node_modules/who/main.js`, `exports.who = "${name}";`);
    folder.write(`${name}/tasks.mjs`, 'import { who } from "who"; export const run = () => who;');
    tasks.schedule(defer(new URL(`file://${folder.file(`${name}/tasks.mjs`)}#run`)));
  }
  const outcomes = await Array.fromAsync(
    tasks.run({ processes: 1 }),
    (task) => task.errorValue ?? task.returnValue,
  );
  assert.deepEqual(outcomes, ["one", "two"]);
});

test("directories with spaces, percents, hashes and umlauts work", async () => {
  using folder = temporary();
  const odd = "a b %41 #c ü";
  folder.write(`${odd}/tasks.ts`, "export const run = (x: number): number => x + 1;");
  const url = new URL("file:///");
  url.pathname = folder.file(`${odd}/tasks.ts`).replaceAll("%", "%25");
  const tasks = new TaskList(folder.file(`${odd}/list`));
  tasks.schedule(defer(new URL(`${url}#run`), 41));
  const [task] = await Array.fromAsync(tasks.run());
  assert.equal(task.errorValue, undefined);
  assert.equal(task.returnValue, 42);
  assert.ok(existsSync(folder.file(`${odd}/list/done/${task.id}.json`)));
});

// ------------------------------------------------------------------------------ the options of a list

test("a list has no other options: a misspelt one could remove its tasks", async () => {
  using folder = temporary();
  await new TaskList(folder.file("list")).schedule(1);
  const options = { existOk: true, preclean: false } as never;
  assert.throws(() => new TaskList(folder.file("list"), options), {
    name: "TypeError",
    message: /no option `preclean`/,
  });
  assert.equal(readdirSync(folder.file("list/todo")).length, 1);
});

test("a list must be new", () => {
  using folder = temporary();
  new TaskList(folder.file("list"));
  assert.throws(() => new TaskList(folder.file("list")), {
    message: /list`.*exists.*`existOk: true/,
  });
});

test("a list can be made in a directory that is not there yet, and by a URL", () => {
  using folder = temporary();
  const tasks = new TaskList(new URL(`file://${folder.file("deep/er/list")}/`));
  assert.equal(tasks.directory, folder.file("deep/er/list"));
  assert.deepEqual(readdirSync(tasks.directory).sort(), ["done", "fail", "running", "todo"]);
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

test("`noScheduleIfExist` schedules into a new directory", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"), { noScheduleIfExist: true });
  assert.equal((await tasks.schedule(1)).scheduled, true);
  assert.equal(tasks.count().todo, 1);
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

test("cleaning an existing directory does not follow links out of it", () => {
  using folder = temporary();
  folder.write("precious/a.json", "mine");
  new TaskList(folder.file("list"));
  symlinkSync(folder.file("precious"), folder.file("list/todo/link.json"));
  new TaskList(folder.file("list"), { existOk: true });
  assert.equal(readFileSync(folder.file("precious/a.json"), "utf8"), "mine");
});

test("clean() removes the states that it is told", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(1);
  await tasks.schedule(defer(fixture.throwDetailed, "broken"));
  await Array.fromAsync(tasks.run());
  await tasks.schedule(2);
  tasks.clean({ todo: false, fail: false });
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 1 });
  tasks.clean({ todo: false });
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
  tasks.clean({ done: false, fail: false });
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 0 });
});

test("a list without `postClean` is kept when it is disposed", async () => {
  using folder = temporary();
  {
    await using tasks = new TaskList(folder.file("list"));
    tasks.schedule(1);
  }
  assert.equal(readdirSync(folder.file("list/todo")).length, 1);
});

test("clean() removes what is asked for, and nothing if it does not know that", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(1);
  await Array.fromAsync(tasks.run({ processes: 1 }));
  await tasks.schedule(2);
  tasks.clean({ done: true });
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
  assert.throws(() => tasks.clean({ dnoe: true } as never), /TypeError|Cannot clean `dnoe`/);
  assert.equal(tasks.count().todo, 1);
});

test("a list must have a name", () => {
  assert.throws(() => new TaskList(""), /Cannot use `` as a path/);
  assert.throws(() => new TaskList(undefined as never), /Cannot use `undefined` as a path/);
});

// ---------------------------------------------------------------------------------------- scheduling

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
    `const tasks = new TaskList("list", { existOk: true, preClean: false });
     await new Promise((resolve) => setTimeout(resolve, Number(process.argv[2]) - Date.now()));
     for (let id = 0; id < 200; id++) {
       if ((await tasks.schedule(process.pid, { id: \`\${id}\` })).scheduled) console.log(id);
     }`,
  );
  const start = `${Date.now() + 1000}`; // for all of them
  const printed = await Promise.all(Array.from({ length: 4 }, async () => {
    const program = spawn(file, [...args, start], options);
    let text = "";
    for await (const chunk of program.stdout) text += chunk;
    return text.split("\n").filter(Boolean);
  }));
  assert.equal(printed.flat().length, 200);
  assert.equal(new Set(printed.flat()).size, 200);
});

test("tasks whose outcome a dead run has not moved are counted and looked at, and moved by the next", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const [host, , , number] = newOwner().split(".");
  const claim = folder.file(`list/running/ID.json@${host}.1.long-ago.${number}`);
  const place = (id: string, end: string) => claim.replace("ID", id) + end;
  const done = JSON.stringify({ steps: [{ value: 1 }], returnValue: "before" });
  for (
    const [id, aside] of [["sealed", place("sealed", "+")], [
      "moved",
      folder.file("list/done/moved.json"),
    ]]
  ) {
    writeFileSync(place(id, "~done"), JSON.stringify({ steps: [{ value: 1 }] }));
    writeFileSync(aside, done);
  }
  assert.deepEqual(tasks.count(), { todo: 0, running: 1, done: 1, fail: 0 });
  assert.deepEqual(await Array.fromAsync(tasks.runningTasks(), ({ id }) => id), ["sealed"]);
  assert.deepEqual(await Array.fromAsync(tasks.run()), []);
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 2, fail: 0 });
});

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

test("a task that is done, or has failed, begins anew when it is put back: no crash counts any more", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write("list/todo/a.json", '{\n  "steps": [{ "value": 1 }],\n  "crashes": 2\n}\n');
  const [task] = await Array.fromAsync(tasks.run());
  assert.deepEqual([task.state, task.crashes], ["done", undefined]);
});

test("`retry()` leaves a directory alone that has the name of an original", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write("list/fail/a.json", '{ "steps": [{ "value": 1 }], "errorValue": "no" }');
  mkdirSync(folder.file("list/fail/a.json.original"));
  assert.equal(await tasks.retry(), 1);
  assert.deepEqual(tasks.count(), { todo: 1, running: 0, done: 0, fail: 0 });
});

test("a list may have a backslash in its name", () => {
  using folder = temporary();
  new TaskList(folder.file("a\\b"));
  assert.ok(existsSync(folder.file("a\\b/todo")));
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

// ------------------------------------------------------------------------------------------- running

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
  const server = createServer((request, response) => {
    const answer = (status: number) => response.writeHead(status).end(request.url);
    if (request.url === "/hang") return;
    if (request.url === "/fail") answer(500);
    else if (request.url === "/slow") setTimeout(answer, 200, 200);
    else answer(200);
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

test("autokill fails the task with a TimeoutError, and the others go on", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.spin, folder.file("pid")), { id: "stuck" });
  tasks.schedule(1, { id: "good" });
  const outcomes = new Map<string, Task>();
  for await (const task of tasks.run({ processes: 1, autokill: 1.5 })) outcomes.set(task.id, task);
  const error = outcomes.get("stuck")!.errorValue as Error;
  assert.ok(error instanceof Error);
  assert.equal(error.name, "TimeoutError");
  assert.match(error.message, /1\.5 s.*autokill/);
  assert.equal(outcomes.get("good")!.returnValue, 1);
  assert.ok(!isRunning(folder.read("pid")));
});

for (const ownGroup of [false, true]) {
  const where = ownGroup ? "has left its process group" : "ignores SIGTERM";
  test(`autokill ends a child that ${where} within a second`, async () => {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"));
    tasks.schedule(defer(fixture.hangWithChild, folder.file("pid"), ownGroup));
    const [task] = await Array.fromAsync(tasks.run({ autokill: 1.5 }));
    assert.equal((task.errorValue as Error).name, "TimeoutError");
    await until(() => !isRunning(folder.read("pid")), 1);
    assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 1 });
  });
}

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
  assert.match(stderr, /testdata\/tasks\.ts:\d+/);
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

test("a task may replace what its runner is made of, and still has its outcome", async () => {
  using folder = temporary();
  folder.write(
    "odd.ts",
    `export const stringify = () => { JSON.stringify = () => "bad"; return "q".repeat(70_000); };
     export const date = () => {
       const value = new Date(9);
       globalThis.Date = class extends Date {} as never;
       return value;
     };
     export const map = () => {
       const value = new Map([[1, 2]]);
       globalThis.Map = class {} as never;
       return value;
     };
     export const url = () => { globalThis.URL = class { constructor() { throw 1; } } as never; return [1n]; };
     export const promise = () => { globalThis.Promise = class {} as never; return [1n]; };
     export const runtime = () => { (globalThis as any).process = undefined; return [1n]; };
     export const clock = () => { (globalThis as any).performance = undefined; return [1n]; };
     export const array = () => { (Array.prototype as any).toJSON = () => "bad"; return [1n]; };
     export const object = () => { (Object.prototype as any).toJSON = () => "bad"; return [1n]; };
     export const now = () => { performance.now = () => { throw 1; }; return [1n]; };
     export const json = () => { (globalThis as any).JSON = undefined; return [1n]; };
     export const frozen = () => { Object.freeze(JSON); return [1n]; };
     export const deno = () => { delete (globalThis as any).Deno; return [1n]; };
     export const coder = () => { (globalThis as any).TextEncoder = undefined; return [1n]; };
     export const timer = () => { (globalThis as any).setTimeout = undefined; return [1n]; };
     export const plain = () => { (Object.prototype as any).toJSON = () => "bad"; return [1]; };`,
  );
  const odd = ["url", "promise", "runtime", "clock", "array", "object", "now", "json", "frozen"];
  odd.push("deno", "coder", "timer");
  const wanted: Record<string, unknown> = {
    stringify: "q".repeat(70_000),
    date: new Date(9),
    map: new Map([[1, 2]]),
    plain: [1],
    ...Object.fromEntries(odd.map((id) => [id, [1n]])),
  };
  const tasks = new TaskList(folder.file("list"));
  for (const id in wanted) {
    const url = new URL(`file://${folder.file("odd.ts")}#${id}`);
    await tasks.schedule(defer(url), { id, metadata: "kept" });
    const step = defer(url, defer(identity, 1));
    await tasks.schedule(step, { id: `${id}-step`, metadata: "kept" });
  }
  const found: Record<string, unknown[]> = {};
  const onOutput = (text: string) => assert.fail(`A task has printed ${text}`);
  for await (const task of tasks.run({ processes: 2, onOutput })) {
    const { id, returnValue, errorValue, metadata } = task;
    assert.equal(errorValue, undefined, `${id}: ${errorValue}`);
    assert.equal(metadata, "kept");
    (found[id.replace("-step", "")] ??= []).push(returnValue);
  }
  for (const id in wanted) assert.deepEqual(found[id], [wanted[id], wanted[id]], id);
});

test("a task that says how all objects are stored spoils no task file", async () => {
  for (const tasksPerProcess of [1, 100]) {
    using folder = temporary();
    folder.write(
      "odd.ts",
      `export const odd = (type: string) => {
         (globalThis as any)[type].prototype.toJSON = () => "bad";
         return 1n;
       };`,
    );
    const tasks = new TaskList(folder.file("list"));
    for (const id of ["Object", "Array"]) {
      const url = new URL(`file://${folder.file("odd.ts")}#odd`);
      await tasks.schedule(defer(url, id), { id, metadata: { kept: [1] } });
      await tasks.schedule(2, { id: `${id}-next`, metadata: { kept: [1] } });
    }
    const values: Record<string, unknown> = {};
    for await (const task of tasks.run({ processes: 1, tasksPerProcess })) {
      values[task.id] = task.returnValue;
      assert.deepEqual(task.metadata, { kept: [1] });
      assert.equal(typeof task.steps![0], "object");
    }
    assert.deepEqual(values, { Object: 1n, Array: 1n, "Object-next": 2, "Array-next": 2 });
  }
});

test("a result is stored as it is, whether its process is kept or not", async () => {
  using folder = temporary();
  folder.write(
    "results.ts",
    `class Own { a = 1; }
     class List extends Array<number> {}
     const cycle: unknown[] = [];
     cycle.push({ cycle });
     export const results: Record<string, unknown> = {
       plain: { a: [1, "b", null, true, { c: [] }], d: {}, "e f": "\\x1e\\ud800\\n" },
       hole: [1, , 3],
       nothing: { a: [undefined] },
       negative: [-0],
       infinite: { a: [Infinity] },
       dollar: { a: { $date: "x" } },
       proto: JSON.parse('{ "__proto__": 1, "a": 2 }'),
       bare: Object.assign(Object.create(null), { a: 1 }),
       bareNested: [Object.assign(Object.create(null), { a: 1 })],
       getter: { get a() { return [1]; } },
       hidden: Object.defineProperty({ a: 1 }, "b", { value: 2 }),
       symbol: { a: { [Symbol("s")]: 1 } },
       own: [new Own()],
       date: { a: [new Date(5)] },
       toJson: { a: { toJSON: () => 5 } },
       arrayToJson: [Object.assign([1], { toJSON: () => 5 })],
       extra: Object.assign([1], { a: 2 }),
       list: List.from([1, 2]),
       boxed: [Object(1)],
       inherited: Object.create({ a: 1 }),
       function: { a: () => 1 },
       bytes: { a: new Uint8Array([1, 2]) },
       deep: Array.from({ length: 60 }).reduce((inner) => ({ inner }), 1),
       cycle,
       long: Array.from({ length: 20_000 }, (_, index) => ({ index })),
     };
     export const get = (name: string) => results[name];`,
  );
  const { results } = await import(folder.file("results.ts"));
  const stored = async (options: RunOptions) => {
    const tasks = new TaskList(folder.file(`list${options.tasksPerProcess}`));
    for (const id in results) {
      await tasks.schedule(defer(new URL(`file://${folder.file("results.ts")}#get`), id), { id });
    }
    const texts: Record<string, unknown> = {};
    for await (const { id, state } of tasks.run({ ...options, processes: 2 })) {
      const text = readFileSync(`${tasks.directory}/${state}/${id}.json`, "utf8");
      const { returnValue, errorValue } = JSON.parse(text);
      texts[id] = [state, returnValue, errorValue?.$error.message];
    }
    return texts;
  };
  const alone = await stored({ tasksPerProcess: 1 });
  assert.equal(Object.keys(alone).length, Object.keys(results).length);
  assert.deepEqual(alone, await stored({ tasksPerProcess: 100 }));
  const failed = Object.keys(alone).filter((id) => (alone[id] as string[])[0] === "fail");
  const unstorable = ["boxed", "cycle", "function", "inherited", "own", "symbol"];
  assert.deepEqual(failed.sort(), unstorable);
  assert.deepEqual(alone.plain, ["done", results.plain, undefined]);
  assert.deepEqual(alone.hole, ["done", [1, { $undefined: true }, 3], undefined]);
});

test("steps give the same in a process of their own as in a kept one", async () => {
  using folder = temporary();
  folder.write(
    "steps.ts",
    `export class Own { constructor(readonly a: unknown) {} get double() { return [this.a, this.a]; } }
     export const make = (x: unknown) => ({ x, list: [x, null], own: new Own(x), f: () => x });
     export const show = (...args: unknown[]) => JSON.stringify(args);
     export function fail(text: string) { throw new RangeError(text); }
     export const notes: string[] = [];
     export const note = (text: string) => { notes.push(text); return notes; };
     export const number = 5;
     export const counter = (count = 0) =>
       ({ get next() { return ++count; }, get bad() { throw ++count; } });
     export const pollute = () => { Object.prototype.source = "() => 'hacked'"; return 1; };
     export const replace = () => {
       const { map, reduce } = Array.prototype;
       Array.prototype.map = Array.prototype.reduce = function () { return ["hacked"]; };
       setTimeout(() => Object.assign(Array.prototype, { map, reduce }));
       return { x: 1 };
     };
     export const clean = (x) => { delete Object.prototype.source; return x; };
     export const trap = () => ({ get x() { throw new Error("trapped"); } });
     export const freeze = () => { Object.freeze(globalThis); };`,
  );
  const at = (name: string) => `file://${folder.file("steps.ts")}#${name}`;
  const made = { call: at("make"), args: [7] };
  const ref = ($step: number, ...path: unknown[]) => ({ $step, path });
  const show = (...args: unknown[]) => ({ call: at("show"), args });
  let tasks: Record<string, unknown[]> = {
    chain: [made, show(ref(0, "x"), ref(0, "list", 0), "text", null, { a: [1] })],
    whole: [made, show({ $step: 0 })],
    class: [made, show(ref(0, "own", "a"), ref(0, "own", "double", 1))],
    missing: [made, show(ref(0, "nothing"))],
    beyond: [made, show(ref(0, "list", 1, "x"))],
    forbidden: [made, show(ref(0, "constructor"))],
    tooLate: [show({ $step: 0 }), made],
    negative: [made, show({ $step: -1 })],
    noPath: [made, show({ $step: 0, path: "x" })],
    extra: [made, show({ $step: 0, path: ["x"], other: 1 })],
    nested: [made, show([ref(0, "x")], { a: ref(0, "list") })],
    special: [made, show(ref(0, "x"), { $bigint: "5" }, { $undefined: true })],
    value: [made, { value: [ref(0, "list"), { $undefined: true }] }],
    only: [{ value: { a: 1 } }],
    method: [made, { call: ref(0, "list", "at"), args: [0] }],
    construct: [{ call: at("Own"), args: [3] }, show(ref(0, "double"))],
    late: [made, { call: at("Own"), args: [ref(0, "x")] }, show(ref(1, "a"))],
    text: [{ call: { source: "(x) => ({ y: x + 1 })" }, args: [1] }, show(ref(0, "y"))],
    thrower: [made, { call: at("fail"), args: ["thrown"] }, show(1)],
    unknown: [made, { call: at("nowhere"), args: [] }],
    noFunction: [made, { call: at("number"), args: [] }],
    noText: [{ call: { source: "5" }, args: [] }],
    badText: [made, { call: { source: "(x) =>" }, args: [] }],
    outside: [made, { call: { source: "() => outside" }, args: [] }],
    noModule: [made, { call: "file:///nowhere/m.ts#f", args: [] }],
    once: [{ call: at("note"), args: ["a"] }, { call: at("Own"), args: [1] }, show({ $step: 0 })],
    getter: [
      { call: at("counter") },
      { call: at("Own"), args: [ref(0, "next")] },
      show(ref(1, "a")),
    ],
    badGetter: [{ call: at("counter") }, show(ref(0, "bad"))],
    pollute: [{ call: at("pollute") }, { call: at("clean"), args: [5] }],
    trap: [{ call: at("trap") }],
    trapBefore: [{ call: at("trap") }, { call: at("clean"), args: [6] }],
    noArgs: [{ call: at("show") }, { call: at("show"), args: [{ $step: 0 }] }],
  };
  const stored = async (name: string, options: RunOptions) => {
    const list = new TaskList(folder.file(name));
    for (const [id, steps] of Object.entries(tasks)) {
      folder.write(`${name}/todo/${id}.json`, JSON.stringify({ steps }));
    }
    const outcomes: Record<string, unknown> = {};
    for await (const task of list.run({ ...options, processes: 2 })) {
      const [error] = `${task.errorValue}`.split("\n");
      outcomes[task.id] = task.state === "done" ? task.returnValue : error;
    }
    return outcomes;
  };
  const alone = await stored("alone", { tasksPerProcess: 1 });
  assert.equal(Object.keys(alone).length, Object.keys(tasks).length);
  assert.deepEqual(alone, await stored("kept", { tasksPerProcess: 100 }));
  tasks = { // these would harm their neighbours in a kept process
    replace: [{ call: at("replace") }, { call: at("clean"), args: [ref(0, "x")] }],
    freeze: [{ call: at("freeze") }, { call: at("Own"), args: [8] }, show(ref(1, "a"))],
  };
  assert.deepEqual(await stored("harmful", { tasksPerProcess: 1 }), { replace: 1, freeze: "[8]" });
  assert.equal(alone.chain, '[7,7,"text",null,{"a":[1]}]');
  assert.equal(alone.once, '[["a"]]'); // no step has run twice
  assert.deepEqual([alone.getter, alone.badGetter], ["[1]", "1"]); // nor any getter
  assert.match(`${alone.beyond}`, /Cannot read `x` of null, in the path/);
});

test("a process that dies of a signal without a name fails its task alone", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const die = async () => {
    const { spawnSync } = process.getBuiltinModule("node:child_process");
    spawnSync("sh", ["-c", `kill -40 ${process.pid}`]);
    await new Promise((resolve) => setTimeout(resolve, 5000));
  };
  await tasks.schedule(defer(die), { id: "function" });
  await tasks.schedule(command(["sh", "-c", "kill -40 $$"]), { id: "program" });
  await tasks.schedule(1, { id: "value" });
  const run = tasks.run({ processes: 1, onOutput: () => {} });
  const outcomes = await Array.fromAsync(run, ({ id, errorValue }) => `${id} ${errorValue}`);
  outcomes.sort();
  assert.match(outcomes[0], /^function Error: .* was killed by (SIG)?\w+$/);
  assert.match(outcomes[1], /^program Error: .* was killed by (SIG)?\w+$/);
  assert.equal(outcomes[2], "value undefined");
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

test("a task with an odd module fails alone", async () => {
  for (const tasksPerProcess of [1, 2]) {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"));
    await tasks.schedule(1, { id: "good" });
    for (const [id, url] of [["percent", "file:///tmp/100%/m.ts#f"], ["host", "file://%%%#f"]]) {
      folder.write(`list/todo/${id}.json`, JSON.stringify({ steps: [{ call: url, args: [] }] }));
    }
    const nothing = { steps: [{ call: "Math.max", args: null }] };
    folder.write("list/todo/nothing.json", JSON.stringify(nothing));
    const run = tasks.run({ processes: 1, tasksPerProcess });
    const states = await Array.fromAsync(run, ({ id, state }) => `${id} ${state}`);
    assert.deepEqual(states.sort(), ["good done", "host fail", "nothing fail", "percent fail"]);
    const [failed] = (await Array.fromAsync(tasks.failTasks())).filter(({ id }) =>
      id === "nothing"
    );
    assert.match((failed.errorValue as Error).message, /whose `args` are an array/);
  }
});

test("a process that a task has left blocked holds up no run", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 2; i++) tasks.schedule(defer(fixture.blockLater));
  const values = await Array.fromAsync(tasks.run(), ({ returnValue }) => returnValue);
  assert.deepEqual(values, ["returned", "returned"]);
});

test("a task whose folder is removed while it runs is not lost", async () => {
  const cli = new URL("./cli.ts", import.meta.url).pathname;
  const flags = runtime === "deno" ? ["run", "-A"] : [];
  for (const tasksPerProcess of ["1", "100"]) {
    using folder = temporary();
    const done = folder.file("list/done");
    const call = (path: string) => import("node:fs").then(({ rmdirSync }) => rmdirSync(path));
    await new TaskList(folder.file("list")).schedule(defer(call, done), { id: "it" });
    const args = [
      ...flags,
      cli,
      "run",
      folder.file("list"),
      `--tasks-per-process=${tasksPerProcess}`,
    ];
    const { status, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
    assert.match(stderr, /`.*\/done`/);
    assert.notEqual(status, 0);
    spawnSync(process.execPath, args);
    assert.deepEqual(readdirSync(done), ["it.json"]);
  }
});

test("a process that is killed as soon as it was started ends", async () => {
  using folder = temporary();
  const pool = new ListPool({ directory: folder.file("list") }, withDefaults({}));
  for (let i = 0; i < 20; i++) pool.spawn(pool.startFor("/")).kill();
  const wait = () => new Promise((go) => setTimeout(go, 100));
  for (let i = 0; i < 40 && pool.runners.size; i++) await wait(); // after 5 s it is killed again
  assert.equal(pool.runners.size, 0);
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

test("tasks find their standard input empty", async () => {
  for (const options of [{}, { tasksPerProcess: 2 }]) {
    const { input } = await resultOf(defer(fixture.surroundings, "PATH"), options) as {
      input: string;
    };
    assert.equal(input, "");
  }
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

test("a task that waits for its retry keeps its last error and its attempts", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.failAtFirst, folder.file("a"), 9), { id: "waits" });
  const controller = new AbortController();
  const run = Array.fromAsync(
    tasks.run({ retries: 2, retryDelay: 60, signal: controller.signal }),
  );
  const path = folder.file("list/todo/waits.json");
  await until(() => existsSync(path) && readFileSync(path, "utf8").includes("attempt 1"));
  controller.abort();
  await run;
  const [waiting] = await Array.fromAsync(tasks.todoTasks());
  assert.equal(waiting.attempts, 1);
  assert.equal((waiting.errorValue as Error).message, "attempt 1");
});

test("the pause between attempts grows", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.failAtFirst, folder.file("a"), 2));
  await Array.fromAsync(tasks.run({ retries: 2, retryDelay: 0.2 }));
  const [first, second, third] = folder.lines("a").map(Number);
  assert.ok(second - first >= 190, `${second - first} ms`);
  assert.ok(third - second >= 390, `${third - second} ms`);
});

test("a run gives up after more than `maxFailures` failures", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 8; i++) tasks.schedule(defer(fixture.throwDetailed, `failure ${i}`));
  const failed: string[] = [];
  const consume = async () => {
    for await (const { errorValue } of tasks.run({ processes: 1, maxFailures: 2 })) {
      failed.push((errorValue as Error).message);
    }
  };
  await assert.rejects(consume, /3 failures.*`maxFailures.* 2.*5 tasks are left in `todo`/);
  assert.deepEqual(failed, ["failure 0", "failure 1", "failure 2"]);
  assert.deepEqual(tasks.count(), { todo: 5, running: 0, done: 0, fail: 3 });
});

test("a run with kept processes gives up as well", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 100; i++) tasks.schedule(defer(fixture.throwDetailed, `failure ${i}`));
  const options = { processes: 2, tasksPerProcess: Infinity, maxFailures: 2 };
  await assert.rejects(Array.fromAsync(tasks.run(options)), /Stopped after .*`maxFailures/);
  const { todo, fail } = tasks.count();
  assert.ok(fail > 2 && todo > 0 && todo + fail === 100, `${todo} in todo, ${fail} in fail`);
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

test("a module that throws is evaluated once", async () => {
  using folder = temporary();
  const note = 'require("node:fs").appendFileSync(__dirname + "/notes", "evaluated\\n");';
  const module = folder.write("broken.cjs", `${note} throw new RangeError("broken");`);
  const task = defer(new URL(`file://${module}#call`));
  const { errorValue } = await outcomeOf(task);
  assert.match(String(errorValue), /RangeError: broken/);
  assert.deepEqual(folder.lines("notes"), ["evaluated"]);
});

test("a run waits for a slow reader of what its tasks print", () => {
  using folder = temporary();
  const [program, args, options] = writeProgram(
    folder,
    `const tasks = new TaskList("list");
     for (let i = 0; i < 3; i++) tasks.schedule(defer(() => console.log("x".repeat(300_000))));
     for await (const _ of tasks.run({ processes: 2 }));`,
  );
  const words = ["-c", '"$@" | { sleep 0.5; wc -c; }', "sh", program, ...args];
  const { stdout, stderr } = spawnSync("sh", words, { ...options, encoding: "utf8" });
  assert.equal(Number(stdout), 900_003, stderr);
});

test("options out of range are refused with the value that was found", () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const wrong: Record<string, unknown>[] = [
    { processes: 0 },
    { processes: 1.5 },
    { processes: "2" },
    { autokill: -1 },
    { autokill: NaN },
    { tasksPerProcess: 0 },
    { concurrency: 0 },
    { retries: -1 },
    { retryDelay: -1 },
    { maxFailures: -1 },
  ];
  for (const options of wrong) {
    const [[name, value]] = Object.entries(options);
    const message = new RegExp(`\`${name}\`.*got \`${value}\``);
    assert.throws(() => tasks.run(options), { name: "RangeError", message }, name);
  }
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

test("`Infinity` means without end for each option of a run with kept processes", async () => {
  using folder = temporary();
  const file = folder.file("attempts");
  const options = { retries: Infinity, tasksPerProcess: 2, processes: 1 };
  assert.equal(await resultOf(defer(fixture.failAtFirst, file, 4), options), 5);
  mkdirSync(folder.file("meeting"));
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 5; i++) tasks.schedule(defer(fixture.meet, folder.file("meeting"), 5));
  const pids = await Array.fromAsync(
    tasks.run({ processes: 1, concurrency: Infinity, autokill: 20 }),
    ({ returnValue }) => returnValue,
  );
  assert.equal(new Set(pids).size, 1);
  assert.equal(typeof pids[0], "number");
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

test("kept processes are given no more than may still fail", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 500; i++) tasks.schedule(i);
  for (let i = 0; i < 100; i++) tasks.schedule(defer(fixture.throwDetailed, `failure ${i}`));
  const options = { processes: 2, tasksPerProcess: Infinity, maxFailures: 2 };
  await assert.rejects(Array.fromAsync(tasks.run(options)), /Stopped after .*`maxFailures/);
  const { done, fail } = tasks.count();
  assert.equal(done, 500);
  assert.ok(fail > 2 && fail <= 2 + 2 * 3, `${fail} in fail`);
});

test("the last tasks are shared among kept processes, though those before were quick", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 2000; i++) tasks.schedule(i);
  for (let i = 0; i < 16; i++) tasks.schedule(defer(fixture.sleepAndTell, 100));
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

test("a retry that is due in a month is not due now", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.failAtFirst, folder.file("attempts"), 1));
  const controller = new AbortController();
  const { signal } = controller;
  const options = { processes: 1, retries: 1, retryDelay: Infinity, signal };
  setTimeout(() => controller.abort(), 1000);
  assert.deepEqual(await Array.fromAsync(tasks.run(options)), []);
  assert.equal(folder.lines("attempts").length, 1);
  assert.equal(tasks.count().todo, 1);
});

test("options that are no numbers, or no arrays, are refused", () => {
  const refused = (options: object, message: RegExp) =>
    assert.throws(() => withDefaults(options as RunOptions), message);
  for (const autokill of [null, "2", true, [], NaN]) {
    refused({ autokill }, /Expected `autokill` to be a number/);
  }
  refused({ retryDelay: null }, /Expected `retryDelay` to be a number/);
  refused({ ids: "i-12" }, /Expected `ids` to be an array/);
  refused({ permissions: null }, /Expected `permissions` to be an array/);
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

test("a task that opens too many files breaks its own process, and not the run", {
  skip: runtime === "deno" && "Deno ends such a process by itself",
}, () => {
  using folder = temporary();
  const text = `const tasks = new TaskList("list");
    tasks.schedule(defer(exhaust));
    for (let i = 0; i < 5; i++) tasks.schedule(i);
    const states: string[] = [];
    for await (const { state } of tasks.run({ processes: 1, tasksPerProcess: 10 })) states.push(state);
    console.log(states.sort().join(" "));`;
  const [program, args, options] = writeProgram(
    folder,
    `import { exhaust } from "./exhaust.ts";\n${text}`,
    {
      "exhaust.ts": `import { openSync } from "node:fs";
        export function exhaust() {
          try {
            while (true) openSync("/dev/null", "r");
          } catch { /* no more */ }
        }`,
    },
  );
  const shell = ["-c", `ulimit -n 300; exec "$0" "$@"`, program, ...args];
  const { stdout, stderr } = spawnSync("sh", shell, {
    ...options,
    encoding: "utf8",
    timeout: 50_000,
  });
  assert.equal(stdout, "done done done done done fail\n", stderr);
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

test("runs and maps leave no open files behind", {
  skip: !existsSync("/proc/self/fd") && "only Linux shows them",
}, async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"), { logFile: folder.file("log") });
  const round = async () => {
    tasks.schedule(1);
    await Array.fromAsync(tasks.run({ processes: 1 }));
    await Array.fromAsync(map((x: number) => x, [1], { processes: 1 }));
  };
  const count = () => readdirSync("/proc/self/fd").length;
  for (let i = 0; i < 3; i++) await round();
  const before = count();
  for (let i = 0; i < 8; i++) await round();
  await until(() => count() < before + 8);
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

test("a run under `nohup` does not end by SIGHUP", async () => {
  using folder = temporary();
  const [program, args, options] = writeProgram(
    folder,
    `const tasks = new TaskList("list");
     tasks.schedule(defer(async (file: string) => {
       await (await import("node:fs/promises")).writeFile(file, "");
       await new Promise((resolve) => setTimeout(resolve, 1000));
     }, "${folder.file("begun")}"));
     for await (const { state } of tasks.run()) console.log(state);`,
  );
  const script = `trap "" HUP; exec "$0" "$@"`;
  const child = spawn("sh", ["-c", script, program, ...args], options);
  const output = Array.fromAsync(child.stdout!.setEncoding("utf8"));
  await until(() => existsSync(folder.file("begun")));
  child.kill("SIGHUP");
  assert.equal((await output).join(""), "done\n");
});

// ------------------------------------------------------------------------------------- how tasks fail

test("an error comes back with the stack of where it happened in the user's code", async () => {
  const { errorValue } = await outcomeOf(defer(fixture.throwDetailed, "it broke"));
  const error = errorValue as Error & { code: string; details: unknown };
  assert.ok(error instanceof RangeError);
  assert.match(error.stack!, /^RangeError: it broke\n.*throwDetailed.*testdata\/tasks\.ts:\d+:\d+/);
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

test("a task that rejects fails", async () => {
  const task = await outcomeOf(defer(() => Promise.reject(new SyntaxError("later"))));
  assert.ok(task.errorValue instanceof SyntaxError);
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

test("a task whose process is killed fails with the signal", async () => {
  const task = await outcomeOf(defer(fixture.killSelf));
  assert.match((task.errorValue as Error).message, /killed by SIGKILL/);
});

test("an error that a task lets nobody catch fails it", async () => {
  const reject = async () => {
    Promise.reject(new Error("nobody caught this"));
    await new Promise((resolve) => setTimeout(resolve, 2000));
  };
  const task = await outcomeOf(defer(reject), { onOutput: () => {} });
  assert.match(`${task.errorValue}`, /nobody caught this/);
});

test("a task is done when it returns, whatever timers it leaves", async () => {
  const leave = (x: number) => {
    setInterval(() => {}, 1000);
    return x;
  };
  assert.equal(await resultOf(defer(leave, 1)), 1);
  assert.equal(await resultOf(defer(leave, 2), { tasksPerProcess: 2 }), 2);
});

test("every task starts in the directory of its run, also where one before went elsewhere", async () => {
  using folder = temporary();
  const tasks = new TaskList<string>(folder.file("list"));
  const move = () => {
    const before = process.cwd();
    process.chdir("/");
    return before;
  };
  for (let i = 0; i < 3; i++) tasks.schedule(defer(move));
  const run = tasks.run({ processes: 1, tasksPerProcess: 3 });
  const directories = await Array.fromAsync(run, ({ returnValue }) => returnValue);
  assert.deepEqual(directories, Array(3).fill(process.cwd()));
});

test("a task that waits for nothing fails", async () => {
  const task = await outcomeOf(defer(fixture.waitForNothing), { onOutput: () => {} });
  assert.match((task.errorValue as Error).message, /waits for a promise that nothing/);
});

test("a process that dies fails the task that killed it, and not those it held besides", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 3; i++) tasks.schedule(defer(fixture.addSlowly, i, 1));
  tasks.schedule(defer(fixture.exit, 3), { id: "deadly" });
  for (let i = 3; i < 6; i++) tasks.schedule(defer(fixture.addSlowly, i, 1));
  const outcomes = await Array.fromAsync(
    tasks.run({ processes: 1, concurrency: 4, onOutput: () => {} }),
  );
  const failed = outcomes.filter(({ state }) => state === "fail");
  assert.deepEqual(failed.map(({ id }) => id), ["deadly"]);
  assert.match((failed[0].errorValue as Error).message, /exited with code 3/);
  const values = outcomes.filter(({ state }) => state === "done").map((task) => task.returnValue);
  assert.deepEqual((values as number[]).sort(), [1, 2, 3, 4, 5, 6]);
});

// ---------------------------------------------------------------------------------- states and retry

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

test("a failed task that is moved to `todo` by hand is run again", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.failAtFirst, folder.file("a"), 1), { id: "x" });
  await Array.fromAsync(tasks.run());
  renameSync(folder.file("list/fail/x.json"), folder.file("list/todo/x.json"));
  const [task] = await Array.fromAsync(tasks.run());
  assert.deepEqual([task.state, task.attempts, task.returnValue], ["done", 2, 2]);
  assert.equal(task.errorValue, undefined);
});

// ---------------------------------------------------------------------------------------- task files

test("a task file that begins with a byte order mark runs", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  folder.write("list/todo/marked.json", '\uFEFF{ "steps": [{ "value": 5 }] }');
  const [task] = await Array.fromAsync(tasks.todoTasks());
  assert.deepEqual([task.id, task.errorValue], ["marked", undefined]);
  const [done] = await Array.fromAsync(tasks.run({ processes: 1 }));
  assert.deepEqual([done.id, done.returnValue], ["marked", 5]);
});

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

// -------------------------------------------------------------------------------------------- exec

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

test("exec() with `raise` throws where the task does, and changes no file", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.throwDetailed, "broken"), { id: "bad" });
  await Array.fromAsync(tasks.run());
  const path = folder.file("list/fail/bad.json");
  const before = readFileSync(path, "utf8");
  await assert.rejects(exec(path, { raise: true }), (error: Error) => {
    assert.ok(error instanceof RangeError);
    assert.match(error.stack!, /throwDetailed.*testdata\/tasks\.ts:\d+/);
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

// ---------------------------------------------------------------------------------------- command

test("command() gives what a program writes to its standard output", async () => {
  assert.equal(await resultOf(command(["echo", "run  forrest", "$HOME"])), "run  forrest $HOME\n");
  assert.equal(await evaluate(command(["echo", "run"]).trim()), "run");
});

test("command() takes deferred words", async () => {
  const task = command(["echo", defer(prepare, "item").thing, defer(String, 5)]);
  assert.equal(await resultOf(task), "ITEM 5\n");
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
  const killError = killed.errorValue as Error & { signal: unknown };
  assert.match(killError.message, /killed by SIGTERM/);
  assert.equal(killError.signal, "SIGTERM");
  const lost = await outcomeOf(command(["no-such-program", "x"]), quiet);
  assert.match((lost.errorValue as Error).message, /no-such-program/);
});

test("a program that is a task is started without a runtime", async () => {
  const parent = Number(await resultOf(command(["sh", "-c", "echo $PPID"])));
  assert.equal(parent, process.pid);
  const shell = Number(await resultOf(command(["echo $PPID"], { shell: true })));
  assert.equal(shell, process.pid);
});

test("programs give the same whether they are started by the run or by a kept process", async () => {
  using folder = temporary();
  const left = "sleep 100 > /dev/null 2>&1 & echo $! > $0";
  const programs: Record<string, [argv: unknown, options?: unknown]> = {
    plain: [["printf", "%s|", "a b", "$HOME", "ü", ""]],
    shell: [["echo one |", "tr a-z A-Z; echo two >&2"], { shell: true }],
    environment: [["sh", "-c", "cd ..; echo $OLDPWD"]],
    answer: [["printf", '\x1e["key","done",1]\n']],
    bytes: [["printf", "\\377\\303\\274\\357\\273\\277"]],
    mark: [["printf", "\\357\\273\\277a"]],
    late: [["(sleep 0.3; echo late) & echo early"], { shell: true }],
    left: [["sh", "-c", left, folder.file("left")]],
    input: [["cat"]],
    long: [["head -c 300000 /dev/zero | tr '\\0' 'x'"], { shell: true }],
    tooLong: [["head", "-c", "100000001", "/dev/zero"]],
    endless: [["yes"]],
    code: [["sh", "-c", "echo out; echo err >&2; exit 127"]],
    signal: [["sh", "-c", "kill -SEGV $$"]],
    missing: [["no-such-program"]],
    missingPath: [["./no/such/program", "x"]],
    nameless: [[""]],
    option: [["--version"]],
    noWords: [[]],
    noArray: ["echo"],
    number: [["echo", 5]],
    zero: [["echo", "a\0b"]],
    unknown: [["echo", "a"], { shell: false, other: 1 }],
    nothing: [["echo", "a"], null],
  };
  const outcomes = async (options: RunOptions) => {
    const tasks = new TaskList(folder.file(`list${options.tasksPerProcess}`));
    for (const [id, args] of Object.entries(programs)) {
      const steps = [{ call: "forrest#command", args }];
      folder.write(`list${options.tasksPerProcess}/todo/${id}.json`, JSON.stringify({ steps }));
    }
    const found: Record<string, unknown> = {};
    const printed: Record<string, string> = {};
    const onOutput = (text: string, _stream: string, id: string) =>
      printed[id] = (printed[id] ?? "") + text;
    for await (const task of tasks.run({ ...options, processes: 2, onOutput })) {
      const { message, code, signal } = (task.errorValue ?? {}) as Error & Record<string, unknown>;
      const isOwn = typeof code === "number"; // the error of a program that has run
      const outcome = isOwn ? [message, signal || code] : message?.replace(/ \(.*/s, "");
      found[task.id] = task.state === "done" ? task.returnValue : outcome;
      if (task.id !== "left") continue;
      await until(() => !isRunning(folder.read("left")));
    }
    return [found, printed];
  };
  const [alone, printed] = await outcomes({ tasksPerProcess: 1 });
  assert.equal(Object.keys(alone).length, Object.keys(programs).length);
  assert.deepEqual(alone, (await outcomes({ tasksPerProcess: 100 }))[0]);
  assert.deepEqual(alone.code, [
    "`sh -c echo out; echo err >&2; exit 127` exited with code 127. " +
    "It last printed:\nout\nerr",
    127,
  ]);
  assert.match(`${alone.endless}`, /`yes` has printed more than 100 MB: let it write to a file/);
  assert.equal(alone.missing, "Cannot start `no-such-program`: there is no such program");
  assert.equal(alone.option, alone.missing.replace("no-such-program", "--version"));
  assert.deepEqual([printed.shell, printed.code], ["two\n", "err\n"]);
});

test("a program that is killed holds up nothing, whoever has its output open", async () => {
  using folder = temporary();
  const stay = "exec setsid env -i sh -c 'echo $$ > $0; exec sleep 20' $0"; // without our marks
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(command(["sh", "-c", `${stay} & sleep 100`, folder.file("pid")]));
  const [task] = await Array.fromAsync(tasks.run({ autokill: 1 }));
  assert.equal((task.errorValue as Error).name, "TimeoutError");
  assert.ok(isRunning(folder.read("pid")));
  process.kill(Number(folder.read("pid")));
});

test("a task that is killed for its time is tried again, too", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(defer(fixture.hang, folder.file("pid")));
  const [task] = await Array.fromAsync(tasks.run({ autokill: 0.4, retries: 1 }));
  assert.deepEqual([task.state, task.attempts], ["fail", 2]);
  assert.equal((task.errorValue as Error).name, "TimeoutError");
});

test("command() finds its standard input empty, and ends with its task", async () => {
  assert.equal(await resultOf(command(["cat"])), "");
  using folder = temporary();
  const script = `echo $$ > ${folder.file("pid")}; trap "" TERM; while :; do sleep 0.1; done`;
  const task = await outcomeOf(command([script], { shell: true }), { autokill: 1.5 });
  assert.equal((task.errorValue as Error).name, "TimeoutError");
  await until(() => !isRunning(folder.read("pid")), 1);
});

test("a program that was written by hand must be words", async () => {
  using folder = temporary();
  for (
    const [id, args] of Object.entries({
      text: ["echo hi"],
      none: [[]],
      odd: [["echo"], { cwd: "/" }],
    })
  ) {
    folder.write(
      `list/todo/${id}.json`,
      JSON.stringify({ steps: [{ call: "forrest#command", args }] }),
    );
  }
  const tasks = new TaskList(folder.file("list"), { existOk: true, preClean: false });
  for await (const { errorValue } of tasks.run({ processes: 1 })) {
    assert.match(
      `${errorValue}`,
      /TypeError: Cannot start .*`forrest#command` takes an array of words/,
    );
  }
  assert.equal(tasks.count().fail, 3);
});

// ---------------------------------------------------------------------------------------------- map

test("ezq: map() gives the results in the order of the items", async () => {
  const results = await Array.fromAsync(map((x: number) => x * 2, [0, 1, 2, 3, 4, 5]));
  assert.deepEqual(results, [0, 2, 4, 6, 8, 10]);
});

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

test("map() takes asynchronous items", async () => {
  async function* items() {
    for (let i = 0; i < 5; i++) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      yield i;
    }
  }
  assert.deepEqual(await Array.fromAsync(map(Math.sqrt, items())), [0, 1, 2, 3, 4].map(Math.sqrt));
});

for (const options of [{}, { ordered: false }, { processes: 0 }, { concurrency: 4 }]) {
  test(`map() reads endless items as results are taken: ${JSON.stringify(options)}`, async () => {
    let read = 0;
    let ended = false;
    function* endless() {
      try {
        while (true) yield read++;
      } finally {
        ended = true;
      }
    }
    let taken = 0;
    for await (const _ of map((x: number) => x + 1, endless(), { processes: 2, ...options })) {
      if (++taken === 5) { // a consumer who takes no more
        await new Promise((resolve) => setTimeout(resolve, 200));
        const before = read;
        await new Promise((resolve) => setTimeout(resolve, 300));
        assert.equal(read, before);
      }
      if (taken === 50) break;
    }
    assert.ok(read < 5000, `${read} items were read for 50 results`);
    await until(() => ended);
  });
}

test("map() zips several sources, up to the end of the shortest", async () => {
  const sums = map(add, [1, 2, 3], new Set([10, 20]));
  assert.deepEqual(await Array.fromAsync(sums), [11, 22]);
  async function* items() {
    yield* ["a", "b", "c"];
  }
  const three = map((a: number, b: string, c: boolean) => [a, b, c], [1, 2], "ab", [true, false]);
  assert.deepEqual(await Array.fromAsync(three), [[1, "a", true], [2, "b", false]]);
  const repeated = map((text: string, count: number) => text.repeat(count), items(), [1, 2, 3], {
    processes: 1,
  });
  assert.deepEqual(await Array.fromAsync(repeated), ["a", "bb", "ccc"]);
});

test("map() with no processes calls the function in this one", async () => {
  const seen: number[] = [];
  let most = 0;
  let running = 0;
  const wait = async (x: number) => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setTimeout(resolve, 5));
    running--;
    seen.push(x);
    return { x, symbol: Symbol.for("not storable") };
  };
  const results = await Array.fromAsync(
    map(wait, [3, 2, 1, 0], { processes: 0, concurrency: 2 }),
  );
  assert.deepEqual(results.map(({ x }) => x), [3, 2, 1, 0]);
  assert.equal(results[0].symbol, Symbol.for("not storable"));
  assert.equal(seen.length, 4);
  assert.equal(most, 2);
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

test("map() rejects if a call ends its process, and if its source throws", async () => {
  await assert.rejects(
    Array.fromAsync(map((x: number) => process.exit(x), [3])),
    /exited with code 3/,
  );
  function* broken() {
    yield 1;
    throw new Error("no more items");
  }
  const taken: number[] = [];
  const consume = async () => {
    for await (const x of map(Math.sqrt, broken())) taken.push(x);
  };
  await assert.rejects(consume, /no more items/);
  assert.deepEqual(taken, [1]);
});

test("map() refuses an item that cannot be stored", async () => {
  const items = [{ deep: Symbol("s") }];
  await assert.rejects(Array.fromAsync(map(identity, items)), {
    name: "TypeError",
    message: /item.*deep` is a symbol and cannot be stored/,
  });
});

test("map() leaves no process behind after an error or a break", async () => {
  using folder = temporary();
  const files = [folder.file("pid"), folder.file("other")];
  const call = async (module: string, file: string) =>
    file.endsWith("pid") ? await (await import(module)).hang(file) : file;
  const results = map(call, Array(2).fill(fixtures), files, { processes: 2, ordered: false });
  for await (const _ of results) {
    await until(() => folder.read("pid") !== "");
    break;
  }
  await until(() => !isRunning(folder.read("pid")));
});

test("map() carries every value that a task file can hold", async () => {
  const values = Object.values(storable);
  assert.deepEqual(await Array.fromAsync(map(identity, values)), values);
});

test("map() of a map runs two stages, and three", async () => {
  const doubled = map((x: number) => x * 2, [1, 2, 3], { processes: 1 });
  const rooted = map(Math.sqrt, doubled, { processes: 1 });
  const texts = map((x: number) => x.toFixed(2), rooted, { processes: 1 });
  assert.deepEqual(await Array.fromAsync(texts), ["1.41", "2.00", "2.45"]);
});

test("map() of a map rejects with the error of an earlier stage", async () => {
  const first = map(
    (x: number) => {
      if (x === 2) throw new RangeError("in the first stage");
      return x;
    },
    [1, 2, 3],
    { processes: 1 },
  );
  await assert.rejects(Array.fromAsync(map(Math.sqrt, first, { processes: 1 })), {
    name: "RangeError",
    message: "in the first stage",
  });
});

test("map() holds as many calls in one process as `concurrency` says", async () => {
  using folder = temporary();
  mkdirSync(folder.file("meeting"));
  const folders = Array(6).fill(folder.file("meeting"));
  const options = { processes: 1, concurrency: 6 };
  const pids = await Array.fromAsync(map(fixture.meet, folders, Array(6).fill(6), options));
  assert.equal(new Set(pids).size, 1);
});

test("ezq: workers keep a total each, and the sum of them is that of all messages", async () => {
  const totals = new Map<number, number>();
  const messages = Array.from({ length: 1000 }, (_, i) => i);
  for await (const { worker, total } of map(fixture.sum, messages, { processes: 2 })) {
    totals.set(worker, Math.max(total, totals.get(worker) ?? 0));
  }
  assert.equal([...totals.values()].reduce((a, b) => a + b), 499_500);
});

test("ezq: collatz in this process, sorted, into a printer in another", async () => {
  const numbers = Array.from({ length: 40 }, (_, i) => i);
  const pairs = map(fixture.collatz, numbers, { processes: 0, concurrency: 4 });
  const lines = map(([n, next]: [number, number]) => `${n} ${next}`, pairs, { processes: 1 });
  const printed = await Array.fromAsync(lines);
  assert.equal(printed.length, 40);
  assert.deepEqual(printed.slice(0, 4), ["0 0", "1 4", "2 1", "3 10"]);
});

test("map() shares out the last calls of an array, which may be slow", async () => {
  const slowOnes = async (number: number) => {
    if (number >= 4000) await new Promise((resolve) => setTimeout(resolve, 200));
    return number >= 4000 ? globalThis.process?.pid ?? Deno.pid : 0;
  };
  const calls = new Map<number, number>();
  const numbers = Array.from({ length: 4020 }, (_, number) => number);
  for await (const pid of map(slowOnes, numbers, { processes: 2 })) {
    calls.set(pid, (calls.get(pid) ?? 0) + 1);
  }
  calls.delete(0);
  assert.ok(Math.min(...calls.values()) > 5 && calls.size === 2, `${[...calls.values()]}`);
});

test("map() with 0 processes needs no other, and calls as a run would", async () => {
  const dates = await Array.fromAsync(map(Date as never, [0], { processes: 0 }));
  assert.deepEqual(dates, [new Date(0)]);
  const values = await Array.fromAsync(map(Promise.resolve as never, [5], { processes: 0 }));
  assert.deepEqual(values, [5]);
});

test("map() refuses the options that only a run has", () => {
  for (const name of ["autokill", "retries", "signal", "tasksPerProcess", "procs"]) {
    const options = { [name]: 1 } as never;
    assert.throws(() => map((x: number) => x, [1], options), new RegExp(`no option \`${name}\``));
  }
  map((x: number) => x, [1], { autokill: undefined } as never);
});

test("map() does not wait for a result that something else has printed into", () => {
  using folder = temporary();
  const [program, args, options] = writeProgram(
    folder,
    `import { returnAmidNoise } from "${fixtures}";
     const lengths = Array.from({ length: 12 }, () => 200_000);
     try {
       for await (const text of map(returnAmidNoise, lengths, { processes: 2 })) {
         if (text.length !== 200_000) console.error(text.length);
       }
     } catch (error) {
       console.error((error as Error).message);
     }`,
  );
  const shell = ["-c", `exec "$0" "$@" > /dev/null`, program, ...args];
  const { status, stderr } = spawnSync("sh", shell, {
    ...options,
    encoding: "utf8",
    timeout: 30_000,
  });
  assert.equal(status, 0, "it waits");
  assert.match(stderr, /^(What this call gave was lost.*\n)?$/);
});

test("map() that a signal stops does not end as if all were done", () => {
  using folder = temporary();
  const { code, stdout, stderr } = runProgram(
    folder,
    `process.on("SIGINT", () => {});
     const wait = async (x: number) => {
       await new Promise((resolve) => setTimeout(resolve, 50));
       return x;
     };
     const results: number[] = [];
     try {
       for await (const x of map(wait, Array.from({ length: 100 }, (_, i) => i), { processes: 1 })) {
         if (results.push(x) === 3) process.kill(process.pid, "SIGINT");
       }
     } catch (error) {
       console.log((error as Error).message);
     }
     console.log(results.length < 100);`,
  );
  assert.deepEqual([code, stdout, stderr], [
    0,
    "Stopped by a signal, with items left to do\ntrue\n",
    "",
  ]);
});

// ----------------------------------------------------------------------------------- Deno and Bun

test("a list scheduled by one runtime is run by the other", async () => {
  using folder = temporary();
  const other = otherRuntime();
  const tasks = new TaskList(folder.file("list"));
  const values = Object.values(storable);
  const intermediate = defer(prepare, "item");
  await tasks.schedule(defer(fixture.dostuff, intermediate.list[1], intermediate.thing));
  await tasks.schedule(defer((list: unknown[]) => list, values), { metadata: values });
  await tasks.schedule(defer(fixture.throwDetailed, "broken"));
  const { stdout, stderr } = runProgram(
    folder,
    `const tasks = new TaskList("list", { existOk: true, preClean: false });
     for await (const task of tasks.run({ processes: 1 })) console.log(task.state);`,
    {},
    "run.ts",
    other,
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "done\ndone\nfail\n");
  const [text, list] = await Array.fromAsync(tasks.doneTasks());
  assert.equal(text.returnValue, "ITEM 4");
  assert.deepEqual(list.returnValue, values);
  assert.deepEqual(list.metadata, values);
  const [failed] = await Array.fromAsync(tasks.failTasks());
  assert.ok(failed.errorValue instanceof RangeError);
  assert.match(failed.errorValue.stack!, /throwDetailed.*testdata\/tasks\.ts/);
});

test("a list scheduled by the other runtime is run by this one", async () => {
  using folder = temporary();
  const { stderr } = runProgram(
    folder,
    `import { dostuff, prepare, throwDetailed } from "${fixtures}";
     const tasks = new TaskList("list");
     const intermediate = defer(prepare, "item");
     await tasks.schedule(defer(dostuff, intermediate.list[1], intermediate.thing));
     const values = [undefined, NaN, 5n, new Date(5), new Map([[1, new Uint8Array([1])]]), /a/g];
     await tasks.schedule(defer((list: unknown[]) => list, values), { metadata: values });
     await tasks.schedule(defer(throwDetailed, "broken"));`,
    {},
    "schedule.ts",
    otherRuntime(),
  );
  assert.equal(stderr, "");
  const tasks = new TaskList(folder.file("list"), { existOk: true, preClean: false });
  const [text, list, failed] = await Array.fromAsync(tasks.run({ processes: 1 }));
  const values = [undefined, NaN, 5n, new Date(5), new Map([[1, new Uint8Array([1])]]), /a/g];
  assert.equal(text.returnValue, "ITEM 4");
  assert.deepEqual(list.returnValue, values);
  assert.deepEqual(list.metadata, values);
  assert.ok(failed.errorValue instanceof RangeError);
});

// ---------------------------------------------------------------------------- odd places and sizes

test("forrest runs in a folder with any name", () => {
  using folder = temporary();
  const here = (name: string) => folder.file(`ü 日本 100%25 %/${name}`);
  for (const name of ["mod.ts", "src"]) {
    cpSync(new URL(name, import.meta.url), here(name), { recursive: true });
  }
  writeFileSync(
    here("main.ts"),
    `import { defer, TaskList } from "./mod.ts";
     export const date = () => new Date(7);
     export const unlucky = () => { throw new RangeError("13"); };
     if (import.meta.main) {
       const tasks = new TaskList("list");
       for (const call of [date, unlucky]) for (let i = 0; i < 2; i++) tasks.schedule(defer(call as () => void));
       for (const options of [{ processes: 1 }, { processes: 1, tasksPerProcess: 9 }]) {
         const found = await Array.fromAsync(tasks.run(options), ({ returnValue, errorValue }) => returnValue ?? errorValue);
         console.log(...found.map(String).map((text) => text.slice(0, 14)).sort());
         await tasks.retry();
       }
     }`,
  );
  const flags = runtime === "deno" ? ["-A"] : [];
  const args = ["run", ...flags, here("main.ts")];
  const { stdout, stderr } = spawnSync(process.execPath, args, { cwd: here(""), encoding: "utf8" });
  const date = `${new Date(7)}`.slice(0, 14);
  assert.equal(
    stdout,
    `RangeError: 13 RangeError: 13 ${date} ${date}\nRangeError: 13 RangeError: 13\n`,
    stderr,
  );
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

test("map() takes items and results of many megabytes, in linear time", async () => {
  const text = "x".repeat(20e6); // which took a minute when each part was searched with all before it
  assert.deepEqual(await Array.fromAsync(map(identity<string>, [text], { processes: 1 })), [text]);
});

test("a task that is nested too deep fails alone", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const deep = `${"[".repeat(20_000)}${"]".repeat(20_000)}`;
  folder.write("list/todo/deep.json", `{"steps": [{"call": "Array.of", "args": [${deep}]}]}`);
  tasks.schedule(defer(Math.sqrt, 16), { id: "next" });
  const found = await Array.fromAsync(tasks.run({ processes: 1 }), ({ id }) => id);
  assert.deepEqual(found.sort(), ["deep", "next"]);
});

test("a task that is put back by hand has all its retries again", async () => {
  for (const tasksPerProcess of [1, 9]) {
    using folder = temporary();
    const tasks = new TaskList(folder.file("list"));
    tasks.schedule(defer(new URL(`${fixtures}#lost`)), { id: "x" });
    for (const attempts of [3, 6]) {
      const [task] = await Array.fromAsync(
        tasks.run({ processes: 1, retries: 2, tasksPerProcess }),
      );
      assert.equal(task.attempts, attempts);
      assert.ok(!("retried" in task));
      renameSync(folder.file("list/fail/x.json"), folder.file("list/todo/x.json"));
    }
  }
});

test("what was no task is retried as it was, repaired or not", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const bad = `{"steps": [{"call": "Math.sqrt", "args": [16],}]}`;
  folder.write("list/todo/x.json", bad);
  for (const repaired of [bad, bad.replace(",}", "}")]) {
    const [{ errorValue }] = await Array.fromAsync(tasks.run());
    assert.match(`${errorValue}`, /^SyntaxError: Cannot read the task `x\.json`/);
    const exec1 = exec(folder.file("list/fail/x.json"), { raise: true });
    await assert.rejects(exec1, /x\.json\.original`: repair that, then `forrest retry`/);
    folder.write("list/fail/x.json.original", repaired);
    assert.equal(await tasks.retry(), 1);
    assert.deepEqual(readdirSync(folder.file("list/fail")), []);
  }
  const [{ returnValue }] = await Array.fromAsync(tasks.run());
  assert.equal(returnValue, 4);
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

test("a session may have a default export, and names that are no variables", async () => {
  using folder = temporary();
  const path = folder.write(
    "session.ts",
    `export const factor = 6; const odd = 1; export { odd as "an odd name" }; export default 3;`,
  );
  const call = new Function("return (x) => x * factor")() as (x: number) => number;
  assert.equal(await resultOf(defer(call, 7), { session: path }), 42);
});

test("what forrest is told wrongly is refused with a reason", async () => {
  assert.throws(
    () => command("echo run" as never),
    /TypeError: Expected an array of words, got `echo run`/,
  );
  assert.throws(() => withDefaults({ permissions: "-A" as never }), /`permissions` to be an array/);
  const limited = () => withDefaults({ permissions: ["--allow-net"] });
  if (runtime === "deno") limited();
  else assert.throws(limited, /only Deno has `permissions`/);
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  await tasks.schedule(1, { id: "ü".repeat(75) });
  await assert.rejects(tasks.schedule(1, { id: "ü".repeat(76) }), /up to 150 bytes/);
});

test("a registry may have made JavaScript of forrest", () => {
  using folder = temporary();
  mkdirSync(folder.file("src"));
  const { stripTypeScriptTypes } = nodeModule as unknown as {
    stripTypeScriptTypes(text: string, options: { mode: "transform" }): string;
  };
  const { Bun } = globalThis as unknown as {
    Bun: { Transpiler: new (options: object) => { transformSync(text: string): string } };
  };
  const toJavaScript = (text: string) =>
    runtime === "deno"
      ? stripTypeScriptTypes(text, { mode: "transform" })
      : new Bun.Transpiler({ loader: "ts" }).transformSync(text);
  const here = new URL(".", import.meta.url);
  for (
    const name of [
      "mod.ts",
      ...readdirSync(new URL("src", here)).map((file) => `src/${file}`),
    ]
  ) {
    const text = toJavaScript(readFileSync(new URL(name, here), "utf8"));
    folder.write(name.replace(/ts$/, "js"), text.replace(/("\.[^"\n]*)\.ts"/g, '$1.js"'));
  }
  const { stdout, stderr } = runProgram(
    folder,
    `import * as own from "./mod.js";
     const tasks = new own.TaskList("list");
     tasks.schedule(own.defer(Math.sqrt, 16));
     tasks.schedule(own.defer(Array.of, 1n));
     for (const options of [{}, { tasksPerProcess: 9 }]) {
       for await (const { returnValue } of tasks.run({ processes: 1, ...options })) console.log(returnValue);
     }
     for await (const root of own.map(Math.sqrt, [25])) console.log(root);`,
  );
  assert.equal(stdout.replaceAll(" ", ""), "4\n[1n]\n5\n", stderr);
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

test("an error is stored with whatever its class puts in it", async () => {
  using folder = temporary();
  const path = folder.write(
    "odd.ts",
    `export const cloud = () => { throw Object.assign(new Error("no"), { $fault: "client", when: new Date(1) }); };
     export const body = () => { throw Object.assign(new Error(), { message: { status: 500 } }); };
     export const big = () => { throw Object.assign(new Error(), { message: 5n }); };`,
  );
  const errorOf = async (name: string, options: RunOptions) =>
    (await outcomeOf(defer(new URL(`file://${path}#${name}`)), options)).errorValue as Record<
      string,
      unknown
    >;
  for (const options of [{}, { tasksPerProcess: 9 }]) {
    const { message, $fault, when } = await errorOf("cloud", options);
    assert.deepEqual([message, $fault, when], ["no", "client", new Date(1)]);
    assert.equal((await errorOf("body", options)).message, "[object Object]");
    assert.equal((await errorOf("big", options)).message, "5");
  }
});

test("a function of the main script is not taken for an export that has its name", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `/* as the function parse, const over = 1 */ // or a function parse
     export function parse(text: string) { return "export " + text; }
     export const read = (text: string) => "export " + text;
     export function* count() { yield 1; }
     export function over(a: number): string;
     export function over(a: string): string;
     export function over(a: unknown) { return "over " + a; }
     const csv = { parse: (text: string) => "csv " + text, read(text: string) { return "csv " + text; } };
     const make = () => { const read = (text: string) => "inner " + text; return read; };
     if (import.meta.main) {
       const tasks = new TaskList("list");
       const calls = [parse, csv.parse, make(), over as (text: string) => string];
       for (const call of calls) await tasks.schedule(defer(call, "a"));
       for await (const { steps } of tasks.todoTasks()) console.log(JSON.stringify(steps![0].call).slice(-30));
       for await (const { returnValue } of tasks.run({ processes: 1 })) console.log(returnValue);
     }`,
  );
  const values = stdout.split("\n").slice(-5);
  assert.deepEqual(values, ["export a", "csv a", "inner a", "over a", ""], stderr);
  assert.match(stdout, /main\.ts#parse"\n.*"}\n.*"}\n.*main\.ts#over"\n/);
});

test("a run that is left does not wait for retries", () => {
  using folder = temporary();
  const begin = Date.now();
  runProgram(
    folder,
    `import { unlucky } from "./tasks.ts";
     const tasks = new TaskList("list");
     for (const item of [0, 1]) tasks.schedule(defer(unlucky, item));
     for await (const _ of tasks.run({ processes: 1, retries: 3, retryDelay: 30 })) break;`,
    {
      "tasks.ts": `export const unlucky = (item: number) => { if (!item) throw new Error("0"); };`,
    },
  );
  assert.ok(Date.now() - begin < 25_000);
});

test("a directory may have a colon in its name", () => {
  using folder = temporary();
  const { stdout } = runProgram(folder, `console.log(new TaskList("jobs:x").directory);`);
  assert.equal(stdout, `${realpathSync(folder.file("jobs:x"))}\n`);
});

// --------------------------------------------------------------------------- permissions on Deno

const onDeno = { skip: runtime !== "deno" && "permissions are Deno's" };

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

test("tasks may not start programs if `permissions` does not say so", onDeno, async () => {
  const task = await outcomeOf(command(["echo", "run"]), { permissions: [] });
  assert.equal((task.errorValue as Error)?.name, "NotCapable");
});

test("map() gives its runners the permissions that it is told", onDeno, async () => {
  using folder = temporary();
  const secret = folder.write("secret.txt", "secret");
  const read = (path: string) => import("node:fs").then((fs) => fs.readFileSync(path, "utf8"));
  await assert.rejects(Array.fromAsync(map(read, [secret], { permissions: [] })));
  assert.deepEqual(await Array.fromAsync(map(Math.sqrt, [16], { permissions: [] })), [4]);
});

test("a parent without every permission must say what tasks may do", onDeno, () => {
  using folder = temporary();
  const flags = ["read", "write", "run", "env", "sys"].map((name) => `--allow-${name}`);
  const script = (options: string) =>
    `const tasks = new TaskList("list", { existOk: true });
     tasks.schedule(defer(Math.sqrt, 16));
     for await (const task of tasks.run(${options})) console.log(task.errorValue ?? task.returnValue);`;
  const silent = runProgram(folder, script(""), {}, "main.ts", process.execPath, flags);
  assert.notEqual(silent.code, 0);
  assert.match(silent.stderr, /TypeError: .*`--allow-net`.*`permissions`/);
  const spoken = runProgram(
    folder,
    script("{ permissions: [] }"),
    {},
    "main.ts",
    process.execPath,
    flags,
  );
  assert.equal(spoken.stderr, "");
  assert.equal(spoken.stdout, "4\n");
});

// ---------------------------------------------------------------------------------------------

/** A test that may take as long as a process needs on a busy machine. */
function test(name: string, run: () => void | Promise<void>): void;
function test(
  name: string,
  options: { skip: string | false },
  run: () => void | Promise<void>,
): void;
function test(
  name: string,
  options: { skip: string | false } | (() => void | Promise<void>),
  run?: () => void | Promise<void>,
): void {
  const { skip } = typeof options === "function" ? { skip: false } : options;
  register(name, { timeout: 60_000, skip }, (run ?? options) as () => Promise<void>);
}

interface Folder extends Disposable {
  file(name: string): string;
  read(name: string): string;
  lines(name: string): string[];
  write(name: string, text: string): string;
}

/** An empty folder that is removed in the end. */
function temporary(): Folder {
  const path = realpathSync(mkdtempSync(join(tmpdir(), "forrest-test-")));
  const file = (name: string) => join(path, name);
  const read = (name: string) => existsSync(file(name)) ? readFileSync(file(name), "utf8") : "";
  return {
    file,
    read,
    lines: (name) => read(name).trim().split("\n"),
    write: (name, text) => {
      mkdirSync(join(file(name), ".."), { recursive: true });
      writeFileSync(file(name), text);
      return file(name);
    },
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true, maxRetries: 5 }),
  };
}

/** What becomes of a task in a list of its own. */
async function outcomeOf(task: unknown, options: RunOptions = {}): Promise<Task> {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(task);
  const [outcome] = await Array.fromAsync(tasks.run({ processes: 1, ...options }));
  return outcome;
}

async function resultOf(task: unknown, options: RunOptions = {}): Promise<unknown> {
  const outcome = await outcomeOf(task, options);
  if ("errorValue" in outcome) throw outcome.errorValue;
  return outcome.returnValue;
}

/** Runs a program as a user would, in its own folder. */
function runProgram(
  ...program: Parameters<typeof writeProgram>
): { code: number | null; stdout: string; stderr: string } {
  const [file, args, options] = writeProgram(...program);
  const spawned = spawnSync(file, args, { ...options, encoding: "utf8", timeout: 50_000 });
  return { code: spawned.status, stdout: spawned.stdout, stderr: spawned.stderr };
}

/** Writes a program, which may use the module without importing it, and says how to start it. */
function writeProgram(
  folder: Folder,
  text: string,
  files: Record<string, string> = {},
  name = "main.ts",
  program = process.execPath,
  flags = ["-A"],
): [string, string[], { cwd: string; env: NodeJS.ProcessEnv }] {
  for (const [name, text] of Object.entries(files)) folder.write(name, text);
  const imports = ["command", "defer", "evaluate", "exec", "map", "TaskList"].filter((word) =>
    new RegExp(`\\b${word}\\b`).test(text) && !text.includes(`from "${module}"`)
  );
  const header = imports.length ? `import { ${imports.join(", ")} } from "${module}";\n` : "";
  const lines = text.replaceAll(/^ +/gm, "");
  const path = folder.write(name, `import process from "node:process";\n${header}${lines}`);
  const isDeno = program === process.execPath ? runtime === "deno" : runtime !== "deno";
  const args = ["run", ...(isDeno ? flags : []), path];
  return [program, args, { cwd: join(path, ".."), env: { ...process.env, NO_COLOR: "1" } }];
}

let other: string | undefined;
/** The program of the runtime that does not run these tests. */
function otherRuntime(): string {
  const [name, ...ask] = runtime === "deno"
    ? ["BUN", "bun@1.4.5", "-e", "console.log(process.execPath)"]
    : ["DENO", "deno@2.9.6", "eval", "console.log(Deno.execPath())"];
  other ??= process.env[`FORREST_${name}`];
  return other ??= spawnSync("npx", ["--yes", ...ask], { encoding: "utf8" }).stdout.trim();
}

/** Whether a process runs; one that is dead and not yet reaped does not. */
function isRunning(pid: string): boolean {
  assert.match(pid, /^\d+/);
  const { stdout } = spawnSync("ps", ["-o", "stat=", "-p", pid.trim()], { encoding: "utf8" });
  return stdout.trim() !== "" && !stdout.startsWith("Z");
}

/** Waits until something has happened. */
async function until(condition: () => boolean, seconds = 20): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (!condition()) {
    assert.ok(performance.now() < end, `did not happen within ${seconds} s: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Deferred values: they record, and never call. */
import assert from "node:assert/strict";
import { inspect } from "node:util";
import * as fixture from "./fixtures/tasks.ts";
import { add, identity, prepare, trace } from "./fixtures/tasks.ts";
import { outcomeOf, resultOf, runProgram, temporary, test } from "./helpers.ts";
import { copyLibrary, defer, type Deferred, evaluate } from "./library.ts";

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
  copyLibrary(folder.file("copy"));
  const copy = await import(`file://${folder.file("copy/mod.ts")}`) as { defer: typeof defer };
  assert.notEqual(copy.defer, defer);
  const two = copy.defer(add, 1, 1);
  assert.equal(await evaluate(defer(add, two, two)), 4);
  assert.equal(await resultOf(copy.defer(add, defer(add, two, 1), two)), 5);
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

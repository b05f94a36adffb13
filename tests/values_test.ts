/** What goes into task files and comes back. */
import assert from "node:assert/strict";
import * as fixture from "./fixtures/tasks.ts";
import { add, identity } from "./fixtures/tasks.ts";
import { outcomeOf, resultOf, temporary, test } from "./helpers.ts";
import { defer, type RunOptions, TaskList } from "./library.ts";

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

test("bytes of a subclass come back as bytes", async () => {
  class Bytes extends Uint8Array {}
  const identity = (value: unknown) => value;
  const bytes = await resultOf(defer(identity, new Bytes([1, 2])));
  assert.deepEqual(bytes, new Uint8Array([1, 2]));
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

test("a task that is nested too deep fails alone", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const deep = `${"[".repeat(20_000)}${"]".repeat(20_000)}`;
  folder.write("list/todo/deep.json", `{"steps": [{"call": "Array.of", "args": [${deep}]}]}`);
  tasks.schedule(defer(Math.sqrt, 16), { id: "next" });
  const found = await Array.fromAsync(tasks.run({ processes: 1 }), ({ id }) => id);
  assert.deepEqual(found.sort(), ["deep", "next"]);
});

test("errors of another realm keep what they are, and so do its dates, maps and bytes", async () => {
  using folder = temporary();
  const path = folder.write(
    "realm.ts",
    `import { runInNewContext } from "node:vm";
     export const make = () => runInNewContext(\`({
       error: Object.assign(new RangeError("far", { cause: new Map([[1, 2]]) }), { code: 5 }),
       date: new Date(9), map: new Map([["a", 1]]), bytes: new Uint8Array([1, 2]), list: [1, { a: 2 }],
     })\`);`,
  );
  const back = await resultOf(defer(new URL(`file://${path}#make`))) as Record<string, unknown>;
  const { error, ...others } = back as { error: Error & { code: number } };
  assert.ok(error instanceof RangeError);
  assert.deepEqual([error.message, error.code, error.cause], ["far", 5, new Map([[1, 2]])]);
  assert.deepEqual(others, {
    date: new Date(9),
    map: new Map([["a", 1]]),
    bytes: new Uint8Array([1, 2]),
    list: [1, { a: 2 }],
  });
});

test("an error comes back, however strange it is", async () => {
  using folder = temporary();
  const path = folder.write(
    "strange.ts",
    `const error = (properties: PropertyDescriptorMap) => Object.defineProperties(new Error("kept"), properties);
     export const errors: Record<string, () => unknown> = {
       exception: () => new DOMException("kept"),
       getter: () => error({ bad: { enumerable: true, get() { throw 1; } }, code: { enumerable: true, value: 5 } }),
       nothing: () => error({ code: { enumerable: true, value: null } }),
       circle: () => { const made = error({}); return Object.assign(made, { cause: made }); },
       tagged: () => error({ [Symbol.toStringTag]: { value: "Date" } }),
       frozen: () => Object.freeze(error({})),
       made: () => Object.assign(Object.create(RangeError.prototype), { message: "kept" }),
     };
     export const fail = (name: string) => { throw errors[name](); };
     export const names = Object.keys(errors);`,
  );
  const { names } = await import(path);
  for (const name of names) {
    const { errorValue } = await outcomeOf(defer(new URL(`file://${path}#fail`), name));
    const error = errorValue as Error & { code: unknown };
    assert.ok(error instanceof Error, name);
    assert.equal(error.message, "kept", name);
    if (name === "exception") assert.match(`${error}`, /^DOMException: kept/);
    if (name === "made") assert.ok(error instanceof RangeError);
    if (name === "getter") assert.equal(error.code, 5);
    if (name === "nothing") assert.equal(error.code, null);
  }
});

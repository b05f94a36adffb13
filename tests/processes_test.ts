/** What tasks do to their processes. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import process from "node:process";
import * as fixture from "./fixtures/tasks.ts";
import { identity } from "./fixtures/tasks.ts";
import { resultOf, runProgram, runtime, temporary, test, until, writeProgram } from "./helpers.ts";
import { command, defer, map, type RunOptions, TaskList } from "./library.ts";

test("a task runs in its `cwd`, and those after it where the run was", async () => {
  for (const options of [{}, { tasksPerProcess: 10 }]) {
    using folder = temporary();
    const tasks = new TaskList<unknown>(folder.file("list"));
    const here = () => import("node:process").then(({ default: process }) => process.cwd());
    const places = ["/usr", undefined, "/nowhere", folder.file("list")];
    for (const [index, cwd] of places.entries()) {
      tasks.schedule(defer(here), { id: `function ${index}`, cwd });
      tasks.schedule(command(["pwd"]), { id: `program ${index}`, cwd });
    }
    const found: Record<string, unknown> = {};
    for await (const { id, returnValue, errorValue } of tasks.run({ processes: 1, ...options })) {
      found[id] = `${returnValue ?? (errorValue as Error).message}`.trim();
    }
    for (const what of ["function", "program"]) {
      const [usr, here, nowhere, list] = places.map((_, index) => found[`${what} ${index}`]);
      assert.deepEqual([usr, here, list], ["/usr", process.cwd(), folder.file("list")]);
      assert.match(
        `${nowhere}`,
        /^Cannot run in `\/nowhere`, the `cwd` of the task: .*[Nn]o such /,
      );
    }
  }
});

test("tasks run where their run was started, wherever the program goes meanwhile", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const elsewhere = "${folder.file("elsewhere")}";
     const here = () => import("node:process").then((it) => it.default.cwd());
     const tasks = new TaskList("list");
     const places = [undefined, undefined, elsewhere, undefined];
     const start = process.cwd();
     for (const tasksPerProcess of [1, 10]) {
       process.chdir(start);
       for (const cwd of places) tasks.schedule(defer(here), { cwd });
       const mayStart = () => (process.chdir(elsewhere), true);
       for await (const { returnValue } of tasks.run({ processes: 1, tasksPerProcess, mayStart })) {
         console.log(returnValue);
       }
     }`,
    { "elsewhere/file": "" },
  );
  assert.equal(stderr, "");
  const [start, elsewhere] = [folder.file("."), folder.file("elsewhere")];
  const expected = [start, start, elsewhere, start];
  assert.deepEqual(stdout.trim().split("\n"), [...expected, ...expected]);
});

test("a task whose directory is gone fails, and does not run where one before it was", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `import { mkdirSync } from "node:fs";
     const elsewhere = process.cwd();
     const tasks = new TaskList("list");
     const here = () => import("node:process").then((it) => it.default.cwd());
     mkdirSync("work");
     process.chdir("work");
     const remove = defer((path: string) => import("node:fs").then((fs) => fs.rmdirSync(path)), process.cwd());
     tasks.schedule(defer(here), { id: "1", cwd: elsewhere });
     tasks.schedule(remove, { id: "2" });
     tasks.schedule(defer(here), { id: "3", cwd: elsewhere });
     tasks.schedule(defer(here), { id: "4" });
     for await (const { state } of tasks.run({ processes: 1, tasksPerProcess: 10 })) console.log(state);`,
  );
  assert.equal(stderr, "");
  assert.deepEqual(stdout.trim().split("\n"), ["done", "done", "done", "fail"]);
});

test("a task that replaces what its process is made of has its outcome, or fails alone", async () => {
  using folder = temporary();
  folder.write(
    "odd.ts",
    `export const stringify = () => { JSON.stringify = () => "bad"; return [1n]; };
     export const parse = () => { JSON.parse = () => "bad"; return [1n]; };
     export const json = () => { (globalThis as any).JSON = undefined; return [1n]; };
     export const now = () => { performance.now = () => { throw 1; }; return [1n]; };
     export const clock = () => { (globalThis as any).performance = undefined; return [1n]; };
     export const frozen = () => { Object.freeze(JSON); return [1n]; };
     export const url = () => { globalThis.URL = class { constructor() { throw 1; } } as never; return [1n]; };
     export const promise = () => { globalThis.Promise = class {} as never; return [1n]; };
     export const date = () => { globalThis.Date = class extends Date {} as never; return [1n]; };
     export const map = () => { globalThis.Map = class {} as never; return [1n]; };
     export const runtime = () => { (globalThis as any).process = undefined; return [1n]; };
     export const deno = () => { delete (globalThis as any).Deno; return [1n]; };
     export const coder = () => { (globalThis as any).TextEncoder = undefined; return [1n]; };
     export const timer = () => { (globalThis as any).setTimeout = undefined; return [1n]; };
     export const object = () => { (Object.prototype as any).toJSON = () => "bad"; return [1n]; };`,
  );
  const captured = ["stringify", "parse", "json", "now", "clock", "frozen"];
  const others = ["url", "promise", "date", "map", "runtime", "deno", "coder", "timer", "object"];
  for (const options of [{}, { tasksPerProcess: 1000 }, { concurrency: 4 }]) {
    const tasks = new TaskList(folder.file("list"), { existOk: true });
    for (const id of [...captured, ...others]) {
      const url = new URL(`file://${folder.file("odd.ts")}#${id}`);
      await tasks.schedule(defer(url), { id, metadata: "kept" });
    }
    await tasks.schedule(defer(identity, "neighbour"), { id: "neighbour", metadata: "kept" });
    const found: Record<string, unknown> = {};
    const run = tasks.run({ processes: 2, autokill: 3, onOutput: () => {}, ...options });
    for await (const { id, returnValue, errorValue, metadata } of run) {
      found[id] = errorValue instanceof Error ? "failed" : returnValue;
      assert.equal(metadata, "kept");
    }
    assert.equal(Object.keys(found).length, captured.length + others.length + 1);
    if (!("concurrency" in options || "tasksPerProcess" in options)) {
      for (const id of captured) assert.deepEqual(found[id], [1n], id);
      assert.equal(found.neighbour, "neighbour");
    }
    for (const id of others) if (found[id] !== "failed") assert.deepEqual(found[id], [1n], id);
  }
});

test("a task that says how all objects are stored spoils no task file but its own", async () => {
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
    const run = tasks.run({ processes: 1, tasksPerProcess, onOutput: () => {} });
    const values: Record<string, unknown> = {};
    for await (const task of run) {
      values[task.id] = task.errorValue instanceof Error ? "failed" : task.returnValue;
      assert.deepEqual(task.metadata, { kept: [1] });
      assert.equal(typeof task.steps![0], "object");
    }
    assert.deepEqual(Object.keys(values).sort(), ["Array", "Array-next", "Object", "Object-next"]);
    if (tasksPerProcess > 1) continue; // who shares a process shares its objects
    assert.deepEqual([values["Object-next"], values["Array-next"]], [2, 2]);
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
  const cli = new URL("../cli.ts", import.meta.url).pathname;
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

test("tasks find their standard input empty", async () => {
  for (const options of [{}, { tasksPerProcess: 2 }]) {
    const { input } = await resultOf(defer(fixture.surroundings, "PATH"), options) as {
      input: string;
    };
    assert.equal(input, "");
  }
});

test("a task that opens too many files does no harm to those after it", {
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
  assert.equal(stdout, "done done done done done done\n", stderr);
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

/** Which function is it? */
import assert from "node:assert/strict";
import * as fixture from "./fixtures/tasks.ts";
import { add } from "./fixtures/tasks.ts";
import { outcomeOf, resultOf, runProgram, temporary, test } from "./helpers.ts";
import { defer, evaluate, map, module, TaskList } from "./library.ts";

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
  assert.deepEqual(folder.lines("starts"), ["started"]);
  assert.match(stderr, /import\.meta\.main/);
  assert.equal(stdout, "");
  assert.notEqual(code, 0);
});

test("a function that is no export of its module gives an error that lists what is", async () => {
  const task = await outcomeOf(defer(new URL("./fixtures/session.ts#lost", import.meta.url)));
  assert.ok(task.errorValue instanceof TypeError);
  assert.match(task.errorValue.message, /#lost` is not a function.*factor.*shout/);
});

test("a module that is not there gives an error with its name", async () => {
  const task = await outcomeOf(defer(new URL("./fixtures/lost.ts#run", import.meta.url)));
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
       routes, // not (only) a "class"
       twice,
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
         defer(twice, 2), defer(routes.twice, 2), defer(squeezed, 3), defer(größe, 1), defer(hidden, 1),
         pages.page("a & b"), pages.pages(["a & b"]),
       ]));
       for await (const { errorValue, returnValue } of tasks.run()) console.log(errorValue ?? \`\${returnValue}\`);
     }`,
    {
      "old.ts": "console.log('the old module runs');",
      "tools.ts": `const factor = 3;
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
  assert.equal(stdout, "12,4,15,7,14,<a &amp; b>,<a &amp; b>\n");
});

test("a static method is refused, as no name of it is known, with the way out", async () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const refusal = /`deposit`.*method.*: wrap it in an arrow function or export it/;
  class Bank {
    static deposit(x: number): number {
      return x;
    }
  }
  await assert.rejects(tasks.schedule(defer(Bank.deposit, 1)), refusal);
  assert.equal(tasks.count().todo, 0);
});

test("of two functions of one name, each task calls its own", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `export function read(text: string) { return "outer " + text; }
     const make = () => { function read(text: string) { return "inner " + text; } return read; };
     const shout = (text: string) => text.toUpperCase();
     export { shout };
     const other = () => { const shout = (text: string) => text + "!"; return shout; };
     const twin = () => { const shout = (text: string) => text.toUpperCase(); return shout; };
     if (import.meta.main) {
       const tasks = new TaskList("list");
       for (const [id, call] of Object.entries({ outer: read, inner: make(), upper: shout, loud: other(), twin: twin() })) {
         await tasks.schedule(defer(call, "a"), { id });
       }
       for await (const { id, returnValue } of tasks.run()) console.log(id, returnValue);
     }`,
  );
  assert.equal(stderr, "");
  const found = Object.fromEntries(
    stdout.trim().split("\n").map((line) => line.split(/ (.*)/) as [string, string]),
  );
  assert.deepEqual(found, {
    outer: "outer a",
    inner: "inner a",
    upper: "A",
    loud: "a!",
    twin: "A",
  });
});

test("to find a function, no module is evaluated that the program does not evaluate", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `import { seven, type Seven } from "./seven.ts";
     import type { Loud } from "./loud.ts";
     const text = \`
       import "./louder.ts";
     \`;
     const noted: Loud = [];
     const tasks = new TaskList("list");
     await tasks.schedule(defer(seven));
     await tasks.schedule(defer((note: string) => note, "note"));
     for await (const { returnValue } of tasks.run({ processes: 1 })) noted.push(returnValue);
     const digits: Seven[] = [7];
     console.log(noted, digits, text.length);`,
    {
      "seven.ts": "export type Seven = 7;\nlet count = 0;\nexport const seven = () => 7 + count++;",
      "loud.ts": "export type Loud = unknown[];\nconsole.log('evaluated');",
      "louder.ts": "console.log('evaluated, too');",
    },
  );
  assert.equal(stderr, "");
  assert.match(stdout, /^\[ 7, "note" \] \[ 7 \] \d+\n$/);
});

test("functions are found beside a module that exports `then`, and in one in CommonJS", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `import { createRequire } from "node:module";
     import { seven } from "./thenable.ts";
     const { make } = createRequire(import.meta.url)("./old.cjs");
     const tasks = new TaskList("list");
     for (const task of [defer(() => 7), make(defer), defer(() => 5)]) await tasks.schedule(task);
     if (seven() !== 7) throw new Error("not seven");
     for await (const { returnValue, errorValue } of tasks.run({ processes: 1 })) {
       console.log(returnValue ?? errorValue);
     }`,
    {
      "thenable.ts": "export function then() {}\nexport const seven = () => 7;",
      "old.cjs":
        "const five = [5];\nexports.six = () => five[0] + 1;\nexports.make = (defer) => defer(exports.six);",
    },
  );
  assert.deepEqual([stdout, stderr], ["7\n6\n5\n", ""]);
});

test("a task that schedules, and then waits for what nothing will settle, ends with an error", async () => {
  using folder = temporary();
  folder.write(
    "waits.ts",
    `import { defer, TaskList } from "${module}";
     export async function wait(directory: string) {
       await new TaskList(directory).schedule(defer(() => 1));
       await new Promise(() => {});
     }`.replaceAll(/^ +/gm, ""),
  );
  const task = defer(new URL(`file://${folder.file("waits.ts")}#wait`), folder.file("inner"));
  const { errorValue } = await outcomeOf(task, { autokill: 30 });
  assert.match(
    `${errorValue}`,
    /ended before it: the task called `exit\(\)`, or waits for a promise/,
  );
});

test("functions are found in folders of any name, and without stacks", () => {
  using folder = temporary();
  for (const name of ["per%cent", "sp ace é", "a%20b"]) {
    const { stdout, stderr } = runProgram(
      folder,
      `import { seven } from "./seven.ts";
       Object.freeze(Error);
       const tasks = new TaskList("list");
       await tasks.schedule(defer(seven));
       const main = (x: number) => x + zero;
       const zero = 0;
       export { main };
       await tasks.schedule(defer(main, 1)).catch((error) => console.log(error.message.slice(0, 17)));
       for await (const { returnValue, errorValue } of tasks.run()) console.log(returnValue ?? errorValue);`,
      { [`${name}/seven.ts`]: "const digits = [7];\nexport const seven = () => digits[0];" },
      `${name}/main.ts`,
    );
    assert.deepEqual([stdout, stderr], ["Cannot run `main`\n7\n", ""], name);
  }
});

test("globals that a runtime loads late are stored by their names", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const tasks = new TaskList("list");
     for (const call of [atob, TextDecoder, Response]) await tasks.schedule(defer(call, "YQ=="));
     for await (const { steps } of tasks.todoTasks()) console.log(steps[0].call);`,
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "atob\nTextDecoder\nResponse\n");
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

test("a session may have a default export, and names that are no variables", async () => {
  using folder = temporary();
  const path = folder.write(
    "session.ts",
    `export const factor = 6; const odd = 1; export { odd as "an odd name" }; export default 3;`,
  );
  const call = new Function("return (x) => x * factor")() as (x: number) => number;
  assert.equal(await resultOf(defer(call, 7), { session: path }), 42);
});

test("a function of the main script is not taken for an export that has its name", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `export function parse(text: string) { return "export " + text; }
     export const read = (text: string) => "export " + text;
     export function* count() { yield 1; }
     export function over(a: number): string;
     export function over(a: string): string;
     export function over(a: unknown) { return "over " + a; }
     const csv = { parse: (text: string) => "csv " + text, read(text: string) { return "csv " + text; } };
     if (import.meta.main) {
       const tasks = new TaskList("list");
       const calls = [parse, csv.parse, over as (text: string) => string];
       for (const call of calls) await tasks.schedule(defer(call, "a"));
       for await (const { steps } of tasks.todoTasks()) console.log(JSON.stringify(steps![0].call).slice(-30));
       for await (const { returnValue } of tasks.run({ processes: 1 })) console.log(returnValue);
     }`,
  );
  const values = stdout.split("\n").slice(-4);
  assert.deepEqual(values, ["export a", "csv a", "over a", ""], stderr);
  assert.match(stdout, /main\.ts#parse"\n.*"}\n.*main\.ts#over"\n/);
});

test("an export of the script is told from what has its name, or its text, inside of something else", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const base = Number("2");
     export const offset = Number("1"); export const triple = (x: number) => x * 3 * base;
     const { shout } = { shout: (text: string) => text + " of an object" };
     export { shout };
     const withDefault = (_: number, shout = (text: string) => text + " by default") => shout;
     const make = () => { const base = 7; function same(x: number) { return x * base; } return same; };
     export function same(x: number) { return x * base; }
     if (import.meta.main) {
       const tasks = new TaskList("list");
       for (const [id, call, item] of [["a", triple, 1], ["b", withDefault(1), "t"], ["c", shout, "t"], ["d", make(), 1], ["e", same, 1]]) {
         await tasks.schedule(defer(call as (item: unknown) => unknown, item), { id: id as string }).catch((error) => console.log(error.message));
       }
       for await (const { id, returnValue, errorValue } of tasks.run({ processes: 1 })) console.log(id, errorValue?.name ?? returnValue);
     }`,
  );
  assert.equal(stderr, "");
  assert.match(stdout, /^a 6\nb t by default\nc t of an object$/m);
  // of what it finds around it, the one inside has nothing; Bun has put the number into it
  assert.match(stdout, /^d (ReferenceError|7)\ne 2$/m);
});

test("a function in the arguments is found where it was given, be it one of several", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const name = "./late.ts";
     const { schedule } = await import(name);
     const tasks = new TaskList("list");
     schedule(tasks);
     for await (const task of tasks.run()) console.log(task.errorValue ?? task.returnValue);`,
    {
      "late.ts": `import { defer, type TaskList } from "${module}";
        const factor = 3;
        export const triple = (x: number) => x * factor;
        export const both = (calls: ((x: number) => number)[]) => calls.map((call) => call(factor));
        export const schedule = (tasks: TaskList) => { tasks.schedule(defer(both, [triple, triple])); };`,
    },
  );
  assert.equal(stderr, "");
  assert.match(stdout, /9,\s9/);
});

test("functions and classes with properties of their own are called, and not read", async () => {
  class Box {
    static source = "() => 42";
    static then(): number {
      return 7;
    }
    x = 1;
  }
  assert.equal((await evaluate(defer(Box))).x, 1);
  const named = Object.assign((x: number) => x + 1, { source: "hello", $step: 0 });
  assert.equal(await evaluate(defer(named, 1)), 2);
  assert.deepEqual(await Array.fromAsync(map(named, [1, 2], { processes: 0 })), [2, 3]);
  assert.deepEqual(await Array.fromAsync(map(named, [1, 2], { processes: 1 })), [2, 3]);
});

/** Where task modules live: projects, packages, directories with odd names. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  writeFileSync,
} from "node:fs";
import * as nodeModule from "node:module";
import { join } from "node:path";
import process from "node:process";
import {
  fixtures,
  type Folder,
  resultOf,
  runProgram,
  runtime,
  temporary,
  test,
} from "./helpers.ts";
import { copyLibrary, defer, TaskList } from "./library.ts";

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

test("what a program imports sees in a runner what it saw there, also below another `deno.json`", () => {
  using folder = temporary();
  makeProject(folder);
  folder.write("project/deno.json", '{ "imports": { "mapped/": "./library/" } }');
  folder.write(
    "project/tsconfig.json",
    '{ "compilerOptions": { "paths": { "mapped/*": ["./library/*"] } } }',
  );
  folder.write("project/library/text.ts", "export const text = 'mapped';");
  const text =
    'import { text } from "mapped/text.ts"; export const run = (x = "") => x + text + " ";';
  const { stdout, stderr } = runProgram(
    folder,
    `import { run } from "./inside/tasks.ts";
     export const last = (x: string) => x + "own" + Number("1");
     if (import.meta.main) {
       const tasks = new TaskList("../list", { existOk: true, noScheduleIfExist: true });
       for (const id of ["1", "2"]) tasks.schedule(defer(last, defer(run)), { id });
       for await (const task of tasks.run({ ids: [process.argv[2] ?? "1"] })) console.log(task.errorValue ?? task.returnValue);
       if (!process.argv[2]) {
         const { spawnSync } = await import("node:child_process");
         const words = ["run", ..."Deno" in globalThis ? ["-A"] : [], process.argv[1]!, "2"];
         console.log(spawnSync(process.execPath, words, { encoding: "utf8" }).stdout);
       }
     }`,
    { "project/inside/tasks.ts": text, "project/inside/deno.json": "{}" },
    "project/main.ts",
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "mapped own1\nmapped own1\n\n");
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

test("a package is named as in an import, and means that of the project on both runtimes", () => {
  using folder = temporary();
  makeProject(folder);
  folder.write("project/node_modules/point.js/package.json", '{ "main": "main.js" }');
  folder.write("project/node_modules/point.js/main.js", "exports.greet = (x) => `Hello, ${x}!`;");
  folder.write("project/single.cjs", "const mark = '!'; module.exports = (x) => x + mark;");
  const { stdout, stderr } = runProgram(
    folder,
    `import { readdirSync, writeFileSync } from "node:fs";
     import single from "./single.cjs";
     const tasks = new TaskList("list");
     for (const [id, call] of ["greeter#greet", "npm:greeter@1.0.0#greet", "npm:point.js@2#greet", "./tasks.ts#run", "path#basename"].entries()) {
       const isOther = call.startsWith("npm:") && "Deno" in globalThis; // which gets it from a registry
       const steps = [{ call: isOther ? "greeter#greet" : call, args: ["you"] }];
       writeFileSync(\`list/todo/\${id}.json\`, JSON.stringify({ steps }));
     }
     await tasks.schedule(defer(single, "one"), { id: "single" });
     for await (const { id, steps } of tasks.todoTasks()) if (id === "single") console.log(steps![0]!.call);
     for await (const task of tasks.run({ processes: 1 })) console.log(task.errorValue ?? task.returnValue);`,
    {},
    "project/main.ts",
  );
  assert.equal(stderr, "");
  const single = `file://${folder.file("project/single.cjs")}#default`;
  const values = ["Hello, you!", "Hello, you!", "Hello, you!", "Hello, you!,own,a", "you", "one!"];
  assert.deepEqual(stdout.trim().split("\n"), [single, ...values]);
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

test("forrest runs in a folder with any name", () => {
  using folder = temporary();
  const here = (name: string) => folder.file(`ü 日本 100%25 %/${name}`);
  copyLibrary(here(""));
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

test("a registry may have made JavaScript of forrest", () => {
  using folder = temporary();
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
  const source = folder.file("source");
  copyLibrary(source);
  const names = readdirSync(source, { encoding: "utf8", recursive: true });
  for (const name of names.filter((name) => name.endsWith(".ts"))) {
    const text = toJavaScript(readFileSync(join(source, name), "utf8"));
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

test("a directory may have a colon in its name", () => {
  using folder = temporary();
  const { stdout } = runProgram(folder, `console.log(new TaskList("jobs:x").directory);`);
  assert.equal(stdout, `${realpathSync(folder.file("jobs:x"))}\n`);
});

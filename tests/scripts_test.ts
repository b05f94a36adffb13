/** Scripts that hold their functions and their loop: what must be guarded, and how. */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { type Folder, runProgram, runtime, temporary, test } from "./helpers.ts";
import { module, TaskList } from "./library.ts";

const header = `import { appendFileSync } from "node:fs";
  import { defer, map, TaskList } from "${module}";
  appendFileSync("starts", "started\\n");
  const factor = 2;`;
const double = "export function double(x: number) { return x * factor; }";
const pause = "await new Promise((resolve) => setTimeout(resolve, 20));";

/** The loop of a script, over a list or a map; it prints what each gives. */
const loops: Record<string, (options: string) => string> = {
  "a list": (options) =>
    `const tasks = new TaskList("list", { existOk: true });
     for (const x of [1, 2, 3]) tasks.schedule(defer(double, x));
     const run = tasks.run({ processes: 1, ${options} });
     for await (const { returnValue, errorValue } of run) console.log(errorValue ?? returnValue);`,
  "a map": (options) =>
    `for await (const y of map(double, [1, 2, 3], { processes: 1, ${options} })) console.log(y);`,
};

const ways: [what: string, options: string][] = [
  ["a list", ""],
  ["a list", "tasksPerProcess: 10"],
  ["a list", "concurrency: 3"],
  ["a map", ""],
  ["a map", "concurrency: 3"],
];

for (const [what, options] of ways) {
  test(`a script with awaits at its top runs ${what} (${options || "by default"})`, () => {
    const loop = loops[what]!(options);
    const awaited = `export const offset = await Promise.resolve(0);`;
    const scripts = {
      before: `${awaited} ${pause} ${double} if (import.meta.main) { ${loop} }`,
      after: `${double} if (import.meta.main) { ${loop} } ${pause} ${awaited}`,
      both: `${pause} if (import.meta.main) { ${loop} } ${awaited} ${double}`,
    };
    for (const [place, script] of Object.entries(scripts)) {
      using folder = temporary();
      const { stdout, stderr, code } = runProgram(folder, `${header}\n${script}`);
      assert.deepEqual([stdout, stderr, code], ["2\n4\n6\n", "", 0], place);
    }
  });
}

/** A list of before, with a task that waits. */
async function oldList(folder: Folder): Promise<void> {
  await new TaskList(folder.file("list")).schedule(1, { id: "old" });
}

for (const what of Object.keys(loops)) {
  test(`an unguarded script is refused before any process starts (${what})`, async () => {
    const loop = loops[what]!("").replace("existOk: true", "existOk: true, preClean: false");
    const scripts = {
      plain: `${double} ${loop}`,
      "in a function": `${double}
        async function main() { ${pause} ${loop} }
        await main();`,
      "in a function that nobody awaits": `${double}
        async function main() { ${pause} ${loop} }
        main();`,
      "after a while": `${double} setTimeout(async () => { ${loop} }, 20);`,
      "with a function that is exported below": `${loop} ${double}`,
      "with a documented function": `/** Doubles. */\n${double}\n${loop}`,
      "with a function that is renamed": `const double = (x: number) => x * factor;
        export { double as twice }; ${loop}`,
    };
    for (const [place, script] of Object.entries(scripts)) {
      using folder = temporary();
      await oldList(folder);
      const { stdout, stderr, code } = runProgram(folder, `${header}\n${script}`);
      const refusal = /Cannot run `double` in another process.*`if \(import\.meta\.main\)/;
      assert.match(stderr, refusal, place);
      assert.notEqual(code, 0, place);
      assert.deepEqual(folder.lines("starts"), ["started"], place);
      const places = readdirSync(folder.file("list"), { recursive: true, encoding: "utf8" });
      const files = places.filter((name) => name.includes(".json"));
      // Bun goes on after a rejection while the main module waits at its top: then the run does what was there
      const isRun = runtime === "bun" && files.join() === "done/old.json";
      if (!isRun) assert.deepEqual(files, ["todo/old.json"], place);
      assert.equal(stdout, isRun ? "1\n" : "", place);
    }
  });

  test(`a script may ask in several ways whether it is the program (${what})`, () => {
    const loop = loops[what]!("");
    const main = `async function main() { ${pause} ${loop} }`;
    const program = `import { pathToFileURL } from "node:url";`;
    const guards = {
      block: `if (import.meta.main) { await main(); }`,
      statement: `if (import.meta.main) await main();`,
      unawaited: `if (import.meta.main) main();`,
      inverted: `if (!import.meta.main) { /* a task */ } else await main();`,
      destructured: `const { main: isMain } = import.meta; if (isMain) await main();`,
      argument:
        `${program} if (pathToFileURL(process.argv[1]!).href === import.meta.url) await main();`,
    };
    for (const [how, guard] of Object.entries(guards)) {
      using folder = temporary();
      const script = `${header}\n${double}\n${main}\n${guard}`;
      const { stdout, stderr, code } = runProgram(folder, script);
      assert.deepEqual([stdout, stderr, code], ["2\n4\n6\n", "", 0], how);
    }
  });
}

test("a script in CommonJS may ask whether it is `require.main`", () => {
  using folder = temporary();
  const script = `const { appendFileSync } = require("node:fs");
    appendFileSync("starts", "started\\n");
    const double = (x) => x * 2;
    exports.double = double;
    async function main() {
      const { defer, map, TaskList } = await import("${module}");
      for await (const y of map(double, [1, 2, 3], { processes: 1 })) console.log(y);
    }
    if (require.main === module) main();`;
  folder.write("program.cjs", script);
  const { stdout, stderr, code } = runProgram(
    folder,
    `import { spawnSync } from "node:child_process";
     const { stdout, stderr } = spawnSync(process.execPath, ["run", "-A", "program.cjs"].filter(
       (word) => word !== "-A" || "Deno" in globalThis), { encoding: "utf8" });
     console.log(stdout + stderr);`,
  );
  assert.deepEqual([stdout, stderr, code], ["2\n4\n6\n\n", "", 0]);
  assert.ok(existsSync(folder.file("starts")));
});

for (const odd of ["Error.stackTraceLimit = 0", "Error.prepareStackTrace = () => 'mine'"]) {
  test(`exported functions are found whatever the program does to stacks: \`${odd}\``, () => {
    using folder = temporary();
    const { stdout, stderr } = runProgram(
      folder,
      `import { triple } from "./triple.ts";
       ${odd};
       const seven = 7;
       export function add(x: number) { return x + seven; }
       if (import.meta.main) {
         const tasks = new TaskList("list");
         await tasks.schedule(defer(add, defer(triple, 5)));
         for await (const { returnValue, steps } of tasks.run()) {
           console.log(returnValue, steps!.map(({ call }) => String(call).replace(/.*[/]/, "")).join(" "));
         }
         for await (const y of map(add, [1], { processes: 1 })) console.log(y);
       }`,
      { "triple.ts": "const three = 3; export const triple = (x: number) => x * three;" },
    );
    assert.equal(stderr, "");
    assert.equal(stdout, "22 triple.ts#triple main.ts#add\n8\n");
  });
}

test("a helper that waits, and then defers, finds the function of another module", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `import { plan } from "./helper.ts";
     const tasks = new TaskList("list");
     await tasks.schedule(await plan(4));
     for await (const { returnValue, errorValue } of tasks.run()) console.log(errorValue ?? returnValue);`,
    {
      "helper.ts": `import { defer } from "${module}";
        import { work } from "./work.ts";
        export async function plan(x: number) {
          await new Promise((resolve) => setTimeout(resolve, 20));
          return defer(work, x);
        }`,
      "work.ts": "const hundred = 100; export const work = (x: number) => x + hundred;",
    },
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "104\n");
});

test("a script whose tasks need nothing of it needs no guard", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const tasks = new TaskList("list");
     tasks.schedule(defer((x: number) => x + 1, 1));
     tasks.schedule(defer(Math.sqrt, 16));
     const values: unknown[] = [];
     for await (const { returnValue } of tasks.run()) values.push(returnValue);
     for await (const y of map((x: number) => x * 2, [5])) values.push(y);
     console.log(values.sort().join(" "));`,
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "10 2 4\n");
});

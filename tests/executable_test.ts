/**
 * What the executable must do beyond what the command does: see also the tests of that.
 *
 * @module
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, writeFileSync } from "node:fs";
import process from "node:process";
import { asExecutable, compiler, copySource, how, program } from "./cli_helpers.ts";
import { runtime, temporary, test } from "./cli_helpers.ts";

for (const base of runtime === "deno" ? ["deno", "bun"] : ["bun"]) {
  test(`an executable of ${base} that cannot be made leaves the one that is there`, () => {
    using list = temporary();
    copySource(list.file("source"));
    if (base === "bun") list.write("source/cli.ts", 'import "./nowhere.ts";');
    list.write("source/dist/forrest", "the one before");
    const [compile, ...words] = compiler(list.file("source"));
    const env = { ...process.env, DENORT_BIN: list.file("nowhere") }; // as where it cannot be fetched
    const { status } = spawnSync(compile, [...words, base], { env, cwd: list.file(".") });
    assert.equal(status, 1);
    assert.deepEqual(readdirSync(list.file("source/dist")), ["forrest"]);
    assert.equal(list.read("source/dist/forrest"), "the one before");
  });
}

asExecutable(() => {
  test(
    "the executable ignores `.env` and `bunfig.toml` beside it, and is the runner of its own tasks",
    {
      skip: program ? false : how,
    },
    () => {
      using list = temporary();
      writeFileSync(list.file(".env"), "SECRET=from-a-file\n");
      writeFileSync(list.file("bunfig.toml"), 'preload = ["./nowhere.ts"]\n');
      writeFileSync(
        list.file("own.ts"),
        "export const secret = () => process.env.SECRET ?? 'none';\n",
      );
      list.forrestWith("x\n", "add", "list", "./own.ts#secret");
      const { code, stdout, stderr } = list.forrest("run", "list");
      assert.match(stdout, /^done .* "none"$/m);
      assert.deepEqual([code, stderr], [0, ""]);
    },
  );

  test(
    "the executable sees the paths of `tsconfig.json`, and says on which runtime it runs tasks",
    {
      skip: program ? false : how,
    },
    () => {
      using list = temporary();
      list.write("which.ts", 'export const which = () => "Bun" in globalThis ? "Bun" : "Deno";');
      list.forrestWith("x\n", "add", "which", "which.ts#which");
      const isBun = / "Bun"$/m.test(list.forrest("run", "which").stdout);
      list.write(
        "own/tsconfig.json",
        '{ "compilerOptions": { "paths": { "mapped/*": ["./lib/*"] } } }',
      );
      list.write("own/deno.json", '{ "imports": { "mapped/": "./lib/" } }');
      list.write("own/lib/text.ts", "export const text = 'mapped';");
      list.write(
        "own/tasks.ts",
        `${isBun ? 'import { text } from "mapped/text.ts";' : 'const text = "mapped";'}
       export const run = (): string => text;
       export const other = () => ${isBun ? "Deno.version" : "Bun.version"};`,
      );
      for (const call of ["run", "other"]) {
        list.forrestWith("x\n", "add", "list", `own/tasks.ts#${call}`);
      }
      const { stdout } = list.forrest("run", "list");
      assert.match(stdout, /^done .* "mapped"$/m);
      assert.match(
        stdout,
        /(Deno|Bun) is not defined. This executable runs tasks on (Bun|Deno): compile/,
      );
    },
  );

  test("the executable runs TypeScript tasks with relative imports and packages of their project", {
    skip: program ? false : how,
  }, () => {
    using list = temporary();
    list.write("node_modules/shouting/package.json", '{ "name": "shouting", "main": "main.js" }');
    list.write("node_modules/shouting/main.js", "exports.shout = (text) => text.toUpperCase();");
    list.write("lib/ending.ts", "export enum Ending { Loud = '!' }");
    list.write(
      "own.ts",
      `import { shout } from "shouting"; import { Ending } from "./lib/ending.ts";
     await Promise.resolve();
     export const call = (text: string): string => shout(text) + Ending.Loud;`,
    );
    list.forrestWith("run\n", "add", "list", "./own.ts#call");
    assert.match(list.forrest("run", "list").stdout, /^done .* "RUN!"$/m);
  });
});

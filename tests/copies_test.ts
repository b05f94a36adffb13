/**
 * The library as others take it: its three files in a folder of theirs, the file that
 * `deno task bundle` makes, under the compiler of a project of theirs, and from JSR.
 */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync } from "node:fs";
import { readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { otherRuntime } from "./helpers.ts";

const project = fileURLToPath(new URL("..", import.meta.url));
const rooms = ["mod.ts", "files.ts", "runner.ts"];
const bundle = ["forrest.js", "forrest.d.ts"];
const onDeno = "Deno" in globalThis;
const run = onDeno ? ["run", "-A"] : [];
const folder = realpathSync(mkdtempSync(join(tmpdir(), "forrest-copies-")));
const bundled = join(folder, "dist");

before(() => {
  const made = start(project, deno(), ["run", "-A", "--no-lock", ".ci/bundle.ts", bundled]);
  assert.equal(made.status, 0, made.stderr);
});
after(() => rmSync(folder, { recursive: true, force: true }));

// ------------------------------------------------------------------------------ copies that run

test("a copy of the three files runs the first program of the README", () => {
  const place = newPlace("copy", project, rooms);
  assertLoopRuns(place, "./mod.ts");
});

test("the bundle runs the first program of the README, alone in a folder", () => {
  const place = newPlace("bundle", bundled, ["forrest.js"]);
  assertLoopRuns(place, "./forrest.js");
});

test("the bundle exports what the module does, and says which version it is", async () => {
  const copy = await import(pathToFileURL(join(bundled, "forrest.js")).href);
  const module = await import("../mod.ts");
  const names = (exports: Record<string, unknown>) =>
    Object.entries(exports).map(([key, value]) => [key, (value as { name?: string }).name]);
  assert.deepEqual(names(copy), names(module));
  const { name, version } = JSON.parse(read(project, "deno.json"));
  for (const file of bundle) {
    const [head] = read(bundled, file).split("\n");
    assert.ok(head.startsWith(`// ${name} ${version}, made by \`deno task bundle\``), head);
  }
});

test("a program that is one file with the bundle finds its functions, and where they threw", () => {
  const program = `
    const factor = 3;
    export function triple(x) { return x * factor; }
    export function fail() { throw new Error("failed"); }
    if (import.meta.main) {
      const tasks = new TaskList("list");
      for (const call of [triple, fail]) tasks.schedule(defer(call, 2));
      const [{ returnValue }, { errorValue }] = await tasks.run({ processes: 1 });
      console.log(returnValue, errorValue.stack);
    }`.replaceAll("\n    ", "\n");
  const place = newPlace("one-file", bundled, ["forrest.js"]);
  const main = join(place, "forrest.js");
  writeFileSync(main, read(place, "forrest.js") + program);
  const { stdout, stderr } = start(place, process.execPath, [...run, main]);
  assert.match(stdout, /^6 Error: failed\n +at fail .*forrest\.js:/);
  assert.equal(stderr, "");
});

test("a program that is one file with the bundle, and has no guard, starts no processes without end", () => {
  const program = `
    const factor = 3;
    export function triple(x) { return x * factor; }
    console.log("started");
    for await (const value of map(triple, [1, 2], { processes: 1 })) console.log(value);`;
  const place = newPlace("one-file-unguarded", bundled, ["forrest.js"]);
  const main = join(place, "forrest.js");
  writeFileSync(main, read(place, "forrest.js") + program.replaceAll("\n    ", "\n"));
  const { stdout, stderr, status } = start(place, process.execPath, [...run, main]);
  assert.notEqual(status, 0);
  assert.match(stdout, /^started\n(started\n)?$/);
  assert.match(stderr, /put the main part of the script in `if \(import\.meta\.main\)/);
});

test("the specification holds for the bundle", () => {
  const specify = onDeno ? ["test", "-A"] : ["test", "--timeout", "300000"];
  const specified = (module: string) => {
    const env = { FORREST_MODULE: pathToFileURL(join(bundled, module)).href };
    return start(project, process.execPath, [...specify, "./mod_test.ts"], env);
  };
  assert.notEqual(specified("nowhere.js").status, 0, "the specification has looked elsewhere");
  const { status, stdout, stderr } = specified("forrest.js");
  assert.equal(status, 0, withoutPassed(stdout + stderr));
});

/** What the test runners print, but for the tests that passed. */
function withoutPassed(output: string): string {
  return output.split("\n").filter((line) => !/^\(pass\) | \.\.\. ok \(/.test(line)).join("\n");
}

// --------------------------------------------------------------------- under the strictest compiler

const strict = [
  "strict",
  "exactOptionalPropertyTypes",
  "noImplicitReturns",
  "noPropertyAccessFromIndexSignature",
  "noUncheckedIndexedAccess",
  "noUnusedLocals",
  "noUnusedParameters",
];
/** The one that `bun init` asks for, and the one that most projects have. */
const compilers = { typescript: "7.0.2", typescript5: "npm:typescript@5.9.3" };

test("the three files have no error in a project as `bun init` makes it", () => {
  const place = newPlace("strict-copy", project, rooms);
  assertCompiles(place, "./mod.ts");
});

test("the types of the bundle have no error in a project as `bun init` makes it", () => {
  const place = newPlace("strict-bundle", bundled, bundle);
  assertCompiles(place, "./forrest.js");
});

// ----------------------------------------------------------------------------- what Deno's tools see

if (onDeno) {
  test("the bundle has every doc comment of the public API", () => {
    assert.deepEqual(documentation(join(bundled, "forrest.js")), documentation(`${project}mod.ts`));
    const code = read(bundled, "forrest.js");
    seeDocumented(`${project}mod.ts`, ({ kind }, doc) => {
      const [line] = doc.split("\n");
      const isCode = kind === "class" || kind === "function" || kind === "variable";
      if (isCode) assert.ok(code.includes(line), `the code has lost its comment: ${line}`);
    });
    const linted = start(bundled, deno(), ["doc", "--lint", "forrest.d.ts"]);
    assert.equal(linted.status, 0, linted.stderr);
  });

  test("a program that imports the bundle is checked by Deno against its types", () => {
    const place = newPlace("checked", bundled, bundle);
    writeFileSync(join(place, "program.ts"), typedProgram("./forrest.js"));
    const checked = start(place, deno(), ["check", "program.ts"]);
    assert.equal(checked.status, 0, checked.stderr);
  });

  test("JSR gets the modules of the exports, README and LICENSE, and nothing else; no type is slow", () => {
    const { status, stderr } = start(project, deno(), ["publish", "--dry-run", "--allow-dirty"]);
    assert.equal(status, 0, stderr); // as a slow type is an error
    const root = pathToFileURL(project).href;
    const files = [...stderr.matchAll(/^ +(file:.+) \([\d.]+\w+\)$/gm)].map(([, url]) => url);
    const { exports } = JSON.parse(read(project, "deno.json"));
    const modules = Object.values<string>(exports).flatMap(modulesOf);
    const others = ["LICENSE", "README.md", "deno.json"];
    const expected = new Set([...modules, ...others.map((name) => `${root}${name}`)]);
    assert.deepEqual(files.sort(), [...expected].sort());
  });

  test("what JSR counts is there: docs of each module and export, a description, the runtimes", () => {
    const { name, version, exports } = JSON.parse(read(project, "deno.json"));
    const linted = start(project, deno(), ["doc", "--lint", ...Object.values<string>(exports)]);
    assert.equal(linted.status, 0, linted.stderr);
    for (const module of Object.values<string>(exports)) {
      assert.match(
        read(project, module),
        /^(#!.*\n)?\/\*\*(?:(?!\*\/).)*@example(?:(?!\*\/).)*@module\n \*\//s,
      );
    }
    const description = JSON.parse(read(project, "package.json"));
    assert.deepEqual([description.name, description.version], [name, version]);
    assert.ok(description.description.length <= 250, "which is all that JSR shows");
    assert.deepEqual(Object.keys(description.engines), ["deno", "bun"]);
  });
}

/** The URLs of the local modules that one needs, itself among them. */
function modulesOf(entry: string): string[] {
  const { modules } = JSON.parse(start(project, deno(), ["info", "--json", entry]).stdout);
  const urls: string[] = modules.map(({ specifier }: { specifier: string }) => specifier);
  return urls.filter((url) => url.startsWith("file:"));
}

interface Documented {
  kind?: string;
  declarationKind?: string;
  jsDoc?: { doc?: string };
}

/** Calls a function on each thing of the public API, members too, for which a module has a doc comment. */
function seeDocumented(module: string, see: (thing: Documented, doc: string) => void): void {
  const seeAll = (thing: Documented) => {
    if (thing.declarationKind === "private") return;
    if (thing.jsDoc?.doc) see(thing, thing.jsDoc.doc);
    for (const part of Object.values(thing)) if (part && typeof part === "object") seeAll(part);
  };
  const { nodes } = JSON.parse(start(project, deno(), ["doc", "--json", module]).stdout);
  const [{ module_doc, symbols }] = Object.values<{ module_doc: object; symbols: object }>(nodes);
  seeAll({ jsDoc: module_doc });
  seeAll(symbols);
}

/** The doc comments of the public API of a module. */
function documentation(module: string): string[] {
  const docs: string[] = [];
  seeDocumented(module, (_thing, doc) => docs.push(doc.trim()));
  return docs.sort();
}

// ------------------------------------------------------------------------------------------- set-up

/** A folder with copies of files. */
function newPlace(name: string, from: string, files: string[]): string {
  const place = join(folder, name);
  mkdirSync(place);
  for (const file of files) {
    copyFileSync(join(from, file), join(place, file));
  }
  return place;
}

function read(...path: string[]): string {
  return readFileSync(join(...path), "utf8");
}

function start(cwd: string, program: string, args: string[], variables = {}) {
  const env = { ...process.env, NO_COLOR: "1", ...variables };
  return spawnSync(program, args, { cwd, env, encoding: "utf8", maxBuffer: Infinity });
}

/** The program of Deno, which makes the bundle on both runtimes. */
const deno = (): string => onDeno ? process.execPath : otherRuntime();

/** The loop of the README, with the library from another place. */
function loopWith(library: string): string {
  const [, loop] = read(project, "README.md").match(/^```ts loop\.ts\n(.*?)^```$/ms) ?? [];
  assert.ok(loop, "the README has a first program");
  assert.match(loop, /"jsr:@x\/forrest"/);
  return loop.replaceAll("jsr:@x/forrest", library);
}

/** Runs the loop of the README, with the library from another place, and looks at what it prints. */
function assertLoopRuns(place: string, library: string): void {
  writeFileSync(join(place, "loop.ts"), loopWith(library));
  const { status, stdout, stderr } = start(place, process.execPath, [...run, "loop.ts"]);
  assert.equal(status, 0, stderr);
  const expected = Array.from({ length: 20 }, (_, item) => {
    const outcome = item === 13 ? "RangeError: 13 is bad luck" : `${"=".repeat(item % 8)}> ${item}`;
    return `item-${item} ${outcome}`;
  });
  assert.deepEqual(stdout.trim().split("\n").sort(), expected.sort());
  assert.deepEqual(readdirSync(join(place, "tasklist/fail")), ["item-13.json"]);
}

/** What a user relies on in the types; that wrong arguments are refused shows that none is `any`. */
function typedProgram(library: string): string {
  return `import { defer, evaluate, map, type Task, TaskList } from "${library}";

const word = defer((text: string): string[] => text.split(" "), "run forrest");
const length: number = await evaluate(word.length);
// @ts-expect-error: a number is no text
defer((text: string): string => text, 1);
// @ts-expect-error: a text is no number
const wrong: number = await evaluate(word.join("-"));
for await (const double of map((x: number): number => x * 2, [1, length])) double.toFixed();
using tasks = new TaskList<number>("tasklist", { existOk: true });
tasks.schedule(word.length, { id: "length" });
for await (const task of tasks.run({ processes: 2 })) {
  const typed: Task<number> = task;
  const value: number | undefined = typed.returnValue;
  console.log(value, wrong);
}
`;
}

/** Compiles programs in a folder in which `bun init` has been, as strictly as the compilers can. */
function assertCompiles(place: string, library: string): void {
  writeFileSync(join(place, "program.ts"), typedProgram(library));
  writeFileSync(join(place, "loop.ts"), loopWith(library));
  const devDependencies = { "@types/bun": "1.4.5", "@types/node": "26.6.7", ...compilers };
  const manifest = { name: "strict", type: "module", private: true, devDependencies };
  writeFileSync(join(place, "package.json"), JSON.stringify(manifest));
  const compilerOptions = {
    lib: ["ESNext"],
    target: "ESNext",
    module: "Preserve",
    moduleDetection: "force",
    jsx: "react-jsx",
    allowJs: true,
    types: ["bun"],
    moduleResolution: "bundler",
    allowImportingTsExtensions: true,
    verbatimModuleSyntax: true,
    noEmit: true,
    skipLibCheck: false, // it would skip the types of the bundle
    noFallthroughCasesInSwitch: true,
    noImplicitOverride: true,
    ...Object.fromEntries(strict.map((name) => [name, true])),
  };
  writeFileSync(join(place, "tsconfig.json"), JSON.stringify({ compilerOptions }));
  const installed = start(place, process.execPath, ["install"]);
  assert.equal(installed.status, 0, installed.stderr);
  assert.ok(!existsSync(join(place, "node_modules/@types/deno")));
  for (const compiler of Object.keys(compilers)) {
    const program = `node_modules/${compiler}/bin/tsc`;
    const compiled = start(place, process.execPath, [...run, program, "--noEmit"]);
    assert.equal(compiled.stdout + compiled.stderr, "");
    assert.equal(compiled.status, 0);
  }
}

/**
 * Runs the programs and the commands of README.md and of docs/, and compares what they print with what
 * those say. `REWRITE_README=1 deno test -A tests/readme_test.ts` makes their screens anew.
 */

import { after, test } from "node:test";
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const project = fileURLToPath(new URL("..", import.meta.url));
const isRewriting = process.env.REWRITE_README === "1";
const onDeno = "Deno" in globalThis;
const runtime = [process.execPath, ...(onDeno ? ["run", "-A"] : [])];
const folders: string[] = [];
after(() => folders.forEach((folder) => rmSync(folder, { recursive: true, force: true })));

interface Block {
  language: string;
  name?: string;
  text: string;
}

interface Page {
  name: string;
  text: string;
  blocks: Block[];
}

function readPage(name: string): Page {
  const text = readFileSync(join(project, name), "utf8");
  const blocks = [...text.matchAll(/^```(\w+)(?: (\S+))?\n(.*?)^```$/gms)].map(
    ([, language, name, text]) => ({ language, name, text }),
  );
  return { name, text, blocks };
}

const readme = readPage("README.md");
const documents = readdirSync(join(project, "docs")).sort().map((name) => readPage(`docs/${name}`));
const pages = [readme, ...documents, readPage("CONTRIBUTING.md")];
const pageNamed = (name: string) => pages.find((page) => page.name === name)!;
const options = pageNamed("docs/options.md");
const taskFile = pageNamed("docs/task-file.md");

/** The files that are all of the library: those to copy. */
const libraryFiles = ["mod.ts", "files.ts", "runner.ts"];

/** A program as a reader would have it: what a fragment leaves out is what the page has shown before. */
function complete(text: string): string {
  const isWhole = text.includes(' from "jsr:@x/forrest"');
  const given = [
    'import { defer, TaskList } from "jsr:@x/forrest";',
    'import { dostuff, prepare } from "./loop.ts";',
    "const longListOfStuff = [1, 2, 3];",
    /\btasks = /.test(text) ? "" : 'const tasks = new TaskList("tasklist", { existOk: true });',
  ];
  const whole = [...isWhole ? [] : given, text].join("\n");
  return onDeno ? whole : whole.replace(/"npm:/, '"'); // as after `bun add`
}

/** A folder that knows the clone as the README says, with the named programs of the pages. */
function newFolder(page: Page = readme): string {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "forrest-readme-")));
  folders.push(folder);
  for (const { name, text } of [...readme.blocks, ...page.blocks]) {
    if (!name) continue;
    writeFileSync(join(folder, name), text.replaceAll("/path/to/forrest/", project));
  }
  rmSync(join(folder, onDeno ? "tsconfig.json" : "deno.json")); // for the other runtime
  mkdirSync(join(folder, "texts"));
  writeFileSync(join(folder, "texts/one.txt"), "one\n");
  writeFileSync(join(folder, "urls.txt"), "data:,one\ndata:,two\n");
  mkdirSync(join(folder, ".bin"));
  const deno = onDeno
    ? `exec "${process.execPath}" "$@"`
    : `shift 2; exec "${process.execPath}" "$@"`;
  writeFileSync(join(folder, ".bin/deno"), `#!/bin/sh\n${deno}\n`);
  chmodSync(join(folder, ".bin/deno"), 0o755);
  symlinkSync(join(project, "cli/forrest"), join(folder, ".bin/forrest"));
  return folder;
}

function run(folder: string, [program, ...args]: string[]) {
  const env = { ...process.env, NO_COLOR: "1", PATH: `${folder}/.bin:${process.env.PATH}` };
  return spawnSync(program, args, { cwd: folder, env, encoding: "utf8", timeout: 60_000 });
}

function runProgram(folder: string, name: string, text: string) {
  writeFileSync(join(folder, name), complete(text));
  return run(folder, [...runtime, name]);
}

/** The paths of all failed tasks in the lists of a folder. */
function failuresIn(folder: string): string[] {
  return readdirSync(folder).map((name) => join(folder, name, "fail"))
    .flatMap((fail) => existsSync(fail) ? readdirSync(fail).map((name) => join(fail, name)) : []);
}

for (const page of pages) {
  for (const { language, name, text } of page.blocks) {
    if (language !== "ts" || name) continue;
    const [title] = text.split("\n").filter((line) => !/^import |^$/.test(line));
    test(`a program of ${page.name} runs, and prints what it says: ${title}`, () => {
      const folder = newFolder(page);
      const { status, stdout, stderr } = runProgram(folder, "program.ts", text);
      const noise = /^(Check|Download|\d+ of \d+).*\n/gm;
      assert.equal(stderr.replace(noise, ""), "");
      assert.equal(status, 0);
      const expected = [...text.matchAll(/console\.log\(.*\); \/\/ (.+)$/gm)].map(([, said]) =>
        said
      );
      if (expected.length) assert.deepEqual(stdout.trimEnd().split("\n"), expected);
      assert.deepEqual(failuresIn(folder), []);
    });
  }
}

function checkPrograms(page: Page): void {
  const programs = page.blocks.filter(({ language }) => language === "ts");
  const folder = newFolder(page);
  const files = programs.map(({ name, text }, index) => {
    if (name) return name;
    writeFileSync(join(folder, `program${index}.ts`), complete(text));
    return `program${index}.ts`;
  });
  const { status, stderr } = run(folder, [process.execPath, "check", ...files]);
  assert.equal(status, 0, stderr);
}

if (onDeno) { // as Bun checks no types
  for (const page of pages) {
    if (!page.text.includes("```ts")) continue;
    test(`the programs of ${page.name} compile`, () => checkPrograms(page));
  }
}

/** Runs the README's loop, and says what became of its items. */
function runLoop(folder: string, specifier: string): string[] {
  const { text } = readme.blocks.find(({ name }) => name === "loop.ts")!;
  writeFileSync(join(folder, "loop.ts"), text.replace("jsr:@x/forrest", specifier));
  const { status, stdout, stderr } = run(folder, [...runtime, "loop.ts"]);
  assert.equal(status, 0, stderr);
  return stdout.trimEnd().split("\n").sort();
}

test("the README's loop, started again, does what is left", () => {
  const folder = newFolder();
  const lines = runLoop(folder, "jsr:@x/forrest");
  assert.equal(lines.length, 20);
  rmSync(join(folder, "tasklist/log.txt"));
  assert.deepEqual(runLoop(folder, "jsr:@x/forrest"), lines);
  assert.ok(!existsSync(join(folder, "tasklist/log.txt"))); // nothing was started
  rmSync(join(folder, "tasklist/done/item-7.json"));
  assert.deepEqual(runLoop(folder, "jsr:@x/forrest"), lines);
  const log = readFileSync(join(folder, "tasklist/log.txt"), "utf8");
  assert.deepEqual(log.match(/\S+ is started/g), ["item-7 is started"]);
});

test("the files that the README says to copy are all that a program needs", () => {
  const folder = newFolder();
  rmSync(join(folder, onDeno ? "deno.json" : "tsconfig.json"));
  for (const name of libraryFiles) {
    mkdirSync(dirname(join(folder, "forrest", name)), { recursive: true });
    cpSync(join(project, name), join(folder, "forrest", name));
  }
  assert.equal(runLoop(folder, "./forrest/mod.ts").length, 20);
});

/** What is printed, without what is only so on this machine. */
function neutral(text: string, folder: string): string {
  const lines = text.replaceAll(folder, "/home/me")
    .replace(/ +$/gm, "")
    .replace(/^\n+|\n+$/g, "");
  return lines && `${lines}\n`;
}

/** The same without what differs from one run to the next. */
function steady(text: string): string {
  return text.replace(/ +\d+(\.\d+)? (ms|s|min)\b/g, " # s")
    .replace(/-[0-9a-f]{12}\b/g, "-DIGEST") // of a path, too
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME");
}

for (const { name, text } of pages) {
  if (!text.includes("```console")) continue;
  test(`the screens of ${name} are what the commands print`, () => {
    const folder = newFolder();
    const answer = (_line: string, command: string, said: string) => {
      const { stdout, stderr, error } = run(folder, ["sh", "-c", command]);
      assert.ifError(error);
      const printed = neutral(stdout + stderr, folder);
      const stack = /^ +at |^error: Uncaught/m; // each runtime has its own way to print one
      const differs = steady(printed) !== steady(said) && (onDeno || !stack.test(said));
      if (!isRewriting && differs) assert.equal(steady(printed), steady(said), command);
      return `$ ${command}\n${differs ? printed : said}`;
    };
    const rewritten = text.replace(
      /(?<=^```console\n).*?(?=^```$)/gms,
      (screen) => screen.replace(/^\$ (.*)\n((?:(?!\$ ).*\n)*)/gm, answer),
    );
    if (isRewriting) writeFileSync(join(project, name), rewritten);
  });
}

test("the task file of the page on it, written by hand, runs and lands in done", () => {
  const folder = newFolder();
  const [{ text }] = taskFile.blocks.filter(({ language }) => language === "json");
  mkdirSync(join(folder, "tasklist/todo"), { recursive: true });
  writeFileSync(join(folder, "tasklist/todo/by-hand.json"), text);
  assert.equal(run(folder, ["forrest", "run", "tasklist"]).status, 0);
  const task = JSON.parse(readFileSync(join(folder, "tasklist/done/by-hand.json"), "utf8"));
  assert.equal(task.returnValue, "=======> 7");
  assert.deepEqual(task.metadata, { item: 7 });
});

test("the Python program of the page on the task file schedules tasks, which run", (context) => {
  const [{ text }] = taskFile.blocks.filter(({ language }) => language === "python");
  const folder = newFolder();
  mkdirSync(join(folder, "tasklist/todo"), { recursive: true });
  const { error, status, stderr } = run(folder, ["python3", "-c", text]);
  if (error) return context.skip("there is no python3 on this machine");
  assert.equal(status, 0, stderr);
  assert.equal(run(folder, ["forrest", "run", "tasklist"]).status, 0);
  const values = readdirSync(join(folder, "tasklist/done")).sort().map((name) =>
    JSON.parse(readFileSync(join(folder, "tasklist/done", name), "utf8")).returnValue
  );
  assert.deepEqual(values, [0, 1, Math.SQRT2]);
});

/** The rows of the tables of a page whose first column has this title. */
function rowsOf(page: Page, title: string): string[][] {
  const tables = [...page.text.matchAll(/^\| (.*?) +\|.*\n\| -.*\n((?:\|.*\n)+)/gm)];
  return tables.filter(([, first]) => first === title).flatMap(([, , rows]) =>
    rows.trimEnd().split("\n").map((row) =>
      row.split(/(?<!\\)\|/).slice(1, -1).map((c) => c.trim())
    )
  );
}

const withoutTicks = (cell: string) => /^`+ ?(.*?) ?`+$/.exec(cell)?.[1] ?? cell;

test("the table of stored values is true", () => {
  const rows = rowsOf(taskFile, "JSON");
  assert.ok(rows.length > 10);
  const text = rows.map(([stored, value], index) => {
    const json = withoutTicks(stored).replaceAll('"', '\\"');
    return `test("${json}", ${withoutTicks(value)}, ${index});`;
  }).join("\n");
  const program = `
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { exec } from "jsr:@x/forrest";
async function test(json: string, value: unknown, index: number) {
  writeFileSync(\`\${index}.json\`, \`{ "steps": [{ "call": "pass.ts#pass", "args": [\${json}] }] }\`);
  await exec(\`\${index}.json\`, { raise: true });
  const { passed } = globalThis as { passed?: unknown };
  if (value instanceof Error) assert.equal(\`\${passed}\`, \`\${value}\`);
  else assert.deepEqual(passed, value);
}
${text.replaceAll("test(", "await test(").replace("function await", "function")}
`;
  const folder = newFolder();
  writeFileSync(
    join(folder, "pass.ts"),
    "export const pass = (passed: unknown) => void Object.assign(globalThis, { passed });\n",
  );
  const { status, stderr } = runProgram(folder, "table.ts", program);
  assert.equal(status, 0, stderr);
});

/** Each option of the library, with its default, as the source has them. */
function realOptions(): string[][] {
  const source = libraryFiles.map((name) => readFileSync(join(project, name), "utf8")).join("\n");
  const optionsOf = (type: string): string[][] => {
    const declaration = new RegExp(`^export interface ${type}Options([^{]*){\n(.*?)^}`, "ms");
    const [, base, fields] = declaration.exec(source)!;
    const picked = [...base.matchAll(/"(\w+)"/g)].map(([, name]) => name);
    const inherited = picked.length
      ? optionsOf("Run").filter(([name]) => picked.includes(name))
      : [];
    const field = /^ {2}\/\*\*(.*?)\*\/\n {2}(\w+)\?:/gms;
    const own = [...fields.matchAll(field)].map(([, about, name]) => {
      const [, value = ""] = /@default \{(.*?)\}\s*$/s.exec(about) ?? [];
      return [name, value.replace("navigator.hardwareConcurrency", "one for each CPU")];
    });
    return [...inherited, ...own];
  };
  return ["List", "Schedule", "Run", "Map", "Command", "Exec"].flatMap(optionsOf);
}

test("the page on options names every option, with its default", () => {
  const rows = rowsOf(options, "option");
  const said = rows.map(([name, value]) => [withoutTicks(name), withoutTicks(value)]);
  assert.deepEqual(said.sort(), realOptions().sort());
});

test("the README names only options that there are", () => {
  const real = realOptions().map(([name]) => name);
  const said = rowsOf(readme, "where").flatMap(([, cell]) =>
    [...cell.matchAll(/`(\w+)/g)].map(([, name]) => name)
  );
  assert.ok(said.length > 5);
  assert.deepEqual(said.filter((name) => !real.includes(name)), []);
});

test("a test or an example is named for each feature of the Python systems", () => {
  const folders = [project, join(project, "tests")];
  const files = folders.flatMap((folder) => readdirSync(folder).map((name) => join(folder, name)));
  const tests = files.filter((name) => name.endsWith("_test.ts"));
  const names = tests.map((name) => readFileSync(name, "utf8")).join("\n");
  for (const system of ["RunForrest", "tasks.py", "pylo", "ezq"]) {
    const rows = rowsOf(pageNamed("docs/coming-from.md"), system);
    assert.ok(rows.length > 5, system);
    for (const [theirs, , shown] of rows) {
      const isExample = shown.startsWith("examples/");
      const found = isExample ? existsSync(join(project, shown)) : names.includes(`"${shown}`);
      assert.ok(shown && found, `${theirs}: ${shown}`);
      if (isExample) assert.ok(names.includes(`"${shown}"`), `no test runs ${shown}`);
    }
  }
});

/** The headings of a page, as links name them. */
function anchorsOf({ text }: Page): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
    title.toLowerCase().replace(/[^\w -]/g, "").replaceAll(" ", "-")
  );
}

test("the links of all pages lead somewhere", () => {
  for (const page of pages) {
    for (const [, target] of page.text.matchAll(/\]\(((?!https?:)[^)]+)\)/g)) {
      const [path, anchor] = target.split("#");
      const name = path ? join(dirname(page.name), path) : page.name;
      assert.ok(existsSync(join(project, name)), `${page.name}: ${target}`);
      if (anchor) assert.ok(anchorsOf(pageNamed(name)).includes(anchor), `${page.name}: ${target}`);
    }
  }
});

test("the README links to every page in docs/", () => {
  for (const { name } of documents) assert.ok(readme.text.includes(`](${name})`), name);
});

test("the README has 300 lines and 15 KB at most", () => {
  assert.ok(readme.text.trimEnd().split("\n").length <= 300);
  assert.ok(new TextEncoder().encode(readme.text).length <= 15_000);
});

test("the README counts the lines of the library", () => {
  const counted = libraryFiles;
  const code = counted.flatMap((name) => readFileSync(join(project, name), "utf8").split("\n"))
    .filter((line) => !/^\s*(\/\/|\/?\*|$)/.test(line));
  const [whole, said] = /\bsome\s+([\d,]+)\s+lines\b/.exec(readme.text)!;
  const lines = (Math.round(code.length / 100) * 100).toLocaleString("en");
  if (isRewriting) {
    const text = readFileSync(join(project, readme.name), "utf8");
    const rewritten = text.replace(whole, whole.replace(said, lines));
    writeFileSync(join(project, readme.name), rewritten);
  } else assert.equal(said, lines);
});

test("the versions of the runtimes are the same wherever they stand", () => {
  const places = ["README.md", "CONTRIBUTING.md", ".ci/run", ".ci/bun.ts", "tests/helpers.ts"];
  const all = places.map((name) => readFileSync(join(project, name), "utf8")).join("\n");
  const { engines } = JSON.parse(readFileSync(join(project, "package.json"), "utf8"));
  const { Deno: major, Bun: other } = /\bDeno (?<Deno>[\d.]+)\s+and Bun (?<Bun>[\d.]+)/.exec(all)!
    .groups!;
  assert.deepEqual(engines, { deno: `>=${major}`, bun: `>=${other}` });
  const versions = (
    pattern: RegExp,
  ) => [...new Set([...all.matchAll(pattern)].map(([, it]) => it))];
  const [denos, buns] = [/\bdeno@([\d.]+)/g, /(?:\bbun@|VERSION = ")([\d.]+)/g].map(versions);
  assert.deepEqual([denos.length, buns.length], [1, 1]);
  assert.ok(denos[0].startsWith(`${major}.`) && buns[0].startsWith(`${other}.`));
});

test("the tasks of `deno task` that the pages name are there", () => {
  const { tasks } = JSON.parse(readFileSync(join(project, "deno.json"), "utf8"));
  for (const { name, text } of pages) {
    for (const [, task] of text.matchAll(/deno(?:@[\d.]+)? task ([\w:]+)/g)) {
      assert.ok(task in tasks, `${name}: ${task}`);
    }
  }
});

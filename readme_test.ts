/**
 * Runs the programs and the commands of README.md, and compares what they print with what it says.
 * `REWRITE_README=1 deno test -A readme_test.ts` makes its screens anew.
 */

import { after, test } from "node:test";
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const project = fileURLToPath(new URL(".", import.meta.url));
const readme = readFileSync(join(project, "README.md"), "utf8");
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

const blocks: Block[] = [...readme.matchAll(/^```(\w+)(?: (\S+))?\n(.*?)^```$/gms)].map(
  ([, language, name, text]) => ({ language, name, text }),
);

/** A program as a reader would have it: what a fragment leaves out is what the page has shown before. */
function complete(text: string): string {
  const whole = /^(import|export) /m.test(text);
  const given = [
    'import { defer, TaskList } from "jsr:@x/forrest";',
    'import { dostuff, prepare } from "./loop.ts";',
    "const longListOfStuff = [1, 2, 3];",
    /\btasks = /.test(text) ? "" : 'const tasks = new TaskList("tasklist", { existOk: true });',
  ];
  return [...whole ? [] : given, text].join("\n").replaceAll("jsr:@x/forrest", `${project}mod.ts`);
}

/** A folder with the named programs of the page, and `forrest` and the runtimes in its `.bin`. */
function newFolder(): string {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "forrest-readme-")));
  folders.push(folder);
  for (const { name, text } of blocks) if (name) writeFileSync(join(folder, name), complete(text));
  const commands = {
    deno: onDeno ? `"${process.execPath}" "$@"` : `shift 2; exec "${process.execPath}" "$@"`,
    forrest: `exec ${runtime.map((word) => `"${word}"`).join(" ")} "${project}cli.ts" "$@"`,
  };
  mkdirSync(join(folder, ".bin"));
  for (const [name, command] of Object.entries(commands)) {
    writeFileSync(join(folder, ".bin", name), `#!/bin/sh\n${command}\n`);
    chmodSync(join(folder, ".bin", name), 0o755);
  }
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

for (const { language, name, text } of blocks) {
  if (language !== "ts" || name) continue;
  const [title] = text.split("\n").filter((line) => !/^import |^$/.test(line));
  test(`the README's program runs, and prints what it says: ${title}`, () => {
    const { status, stdout, stderr } = runProgram(newFolder(), "program.ts", text);
    assert.equal(stderr.replace(/^\d+ of \d+\n/gm, "").replace(/^Check.*\n/gm, ""), "");
    assert.equal(status, 0);
    const expected = [...text.matchAll(/console\.log\(.*\); \/\/ (.+)$/gm)].map(([, said]) => said);
    if (expected.length) assert.deepEqual(stdout.trimEnd().split("\n"), expected);
  });
}

test("the README's programs compile", { skip: !onDeno }, () => {
  const folder = newFolder();
  const programs = blocks.filter(({ language }) => language === "ts").map(
    ({ name, text }, index) => {
      const file = name ?? `program${index}.ts`;
      writeFileSync(join(folder, file), complete(text));
      return file;
    },
  );
  const { status, stderr } = run(folder, [process.execPath, "check", ...programs]);
  assert.equal(status, 0, stderr);
});

/** What is printed, without what is only so on this machine. */
function neutral(text: string, folder: string): string {
  const lines = text.replaceAll(folder, "/home/me")
    .replace(/\S*(deno run -A|bun) \S*cli\.ts\b/g, "forrest")
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

test("the README's screens are what the commands print", () => {
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
  const rewritten = readme.replace(
    /(?<=^```console\n).*?(?=^```$)/gms,
    (text) => text.replace(/^\$ (.*)\n((?:(?!\$ ).*\n)*)/gm, answer),
  );
  if (isRewriting) writeFileSync(join(project, "README.md"), rewritten);
});

test("the README's task file, written by hand, runs and lands in done", () => {
  const folder = newFolder();
  const [{ text }] = blocks.filter(({ language }) => language === "json");
  mkdirSync(join(folder, "tasklist/todo"), { recursive: true });
  writeFileSync(join(folder, "tasklist/todo/by-hand.json"), text);
  assert.equal(run(folder, ["forrest", "run", "tasklist"]).status, 0);
  const task = JSON.parse(readFileSync(join(folder, "tasklist/done/by-hand.json"), "utf8"));
  assert.equal(task.returnValue, "=======> 7");
  assert.deepEqual(task.metadata, { item: 7 });
});

test("the README's Python program schedules tasks, which run", (context) => {
  const [{ text }] = blocks.filter(({ language }) => language === "python");
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

/** The rows of the tables whose first column has this title. */
function rowsOf(title: string): string[][] {
  const tables = [...readme.matchAll(/^\| (.*?) +\|.*\n\| -.*\n((?:\|.*\n)+)/gm)];
  return tables.filter(([, first]) => first === title).flatMap(([, , rows]) =>
    rows.trimEnd().split("\n").map((row) =>
      row.split(/(?<!\\)\|/).slice(1, -1).map((c) => c.trim())
    )
  );
}

const withoutTicks = (cell: string) => /^`+ ?(.*?) ?`+$/.exec(cell)?.[1] ?? cell;

test("the README's table of stored values is true", () => {
  const rows = rowsOf("JSON");
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
  const { returnValue } = await exec(\`\${index}.json\`, { raise: true }) as { returnValue: Error };
  if (value instanceof Error) assert.equal(\`\${returnValue}\`, \`\${value}\`);
  else assert.deepEqual(returnValue, value);
}
${text.replaceAll("test(", "await test(").replace("function await", "function")}
`;
  const folder = newFolder();
  writeFileSync(join(folder, "pass.ts"), "export const pass = (value: unknown) => value;\n");
  const { status, stderr } = runProgram(folder, "table.ts", program);
  assert.equal(status, 0, stderr);
});

test("the README's tables name every option, with its default", () => {
  const sources = ["mod.ts", ...readdirSync(join(project, "src")).map((name) => `src/${name}`)];
  const source = sources.map((name) => readFileSync(join(project, name), "utf8")).join("\n");
  const said = rowsOf("option").map(([name, value]) => [withoutTicks(name), withoutTicks(value)]);
  const real = ["ListOptions", "RunOptions", "MapOptions"].flatMap((type) => {
    const [, fields] = new RegExp(`^export interface ${type}[^{]*{\n(.*?)^}`, "ms").exec(source)!;
    const field = /^ {2}\/\*\*(.*?)\*\/\n {2}(\w+)\?:/gms;
    return [...fields.matchAll(field)].map(([, about, name]) => {
      const [, value = ""] = /@default \{(.*?)\}\s*$/s.exec(about) ?? [];
      return [name, value.replace("navigator.hardwareConcurrency", "one for each CPU")];
    });
  });
  assert.deepEqual(said.sort(), real.sort());
});

test("the README names a test or an example for each feature of the Python systems", () => {
  const tests = ["", "tests/"].flatMap((folder) =>
    readdirSync(join(project, folder)).map((name) => `${folder}${name}`)
  ).filter((name) => name.endsWith("_test.ts"));
  const names = tests.map((name) => readFileSync(join(project, name), "utf8")).join("\n");
  for (const system of ["RunForrest", "tasks.py", "pylo", "ezq"]) {
    const rows = rowsOf(system);
    assert.ok(rows.length > 5, system);
    for (const [theirs, ours, shown] of rows) {
      const isExample = shown.startsWith("examples/");
      const found = isExample ? existsSync(join(project, shown)) : names.includes(`"${shown}`);
      assert.ok(found || (shown === "" && ours.startsWith("nothing: ")), `${theirs}: ${shown}`);
      if (isExample) assert.ok(names.includes(`"${shown}"`), `no test runs ${shown}`);
    }
  }
});

test("the README's links lead somewhere", () => {
  const headings = [...readme.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
    title.toLowerCase().replace(/[^\w -]/g, "").replaceAll(" ", "-")
  );
  for (const [, target] of readme.matchAll(/\]\(((?!https?:)[^)]+)\)/g)) {
    if (target.startsWith("#")) assert.ok(headings.includes(target.slice(1)), target);
    else assert.ok(existsSync(join(project, target)), target);
  }
});

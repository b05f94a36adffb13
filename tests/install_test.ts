/**
 * The ways to get forrest that need a machine of their own: an empty home, and no registry but that of npm.
 * Those in which files are copied are tested with the copies, the executable with that.
 *
 * @module
 */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { type Folder, runtime, temporary, test } from "./helpers.ts";

const project = fileURLToPath(new URL("..", import.meta.url));
const readme = readFileSync(join(project, "README.md"), "utf8");
const [, loop] = /^```ts loop\.ts\n(.*?)^```/ms.exec(readme)!;
const run = runtime === "deno" ? "deno run -A" : "bun";

/** A machine with nothing but the system, this runtime, and a clone of the repository. */
function newMachine(folder: Folder, clone = "forrest"): (cwd: string, line: string) => Ran {
  mkdirSync(folder.file("bin"));
  const names = runtime === "deno" ? ["deno"] : ["bun", "bunx"];
  for (const name of names) symlinkSync(process.execPath, folder.file(`bin/${name}`));
  for (const name of ["mod.ts", "files.ts", "runner.ts", "cli.ts", "cli"].concat(configurations)) {
    cpSync(join(project, name), folder.file(`${clone}/${name}`), { recursive: true });
  }
  folder.write("own/loop.ts", loop);
  const home = folder.file("home");
  mkdirSync(home);
  const bin = [`${home}/.deno/bin`, `${home}/.local/bin`, folder.file("bin"), "/usr/bin", "/bin"];
  const env = { HOME: home, PATH: bin.join(":"), NO_COLOR: "1" };
  return (cwd, line) => {
    const options = { cwd: folder.file(cwd), env, encoding: "utf8" } as const;
    const { status, stdout, stderr } = spawnSync("sh", ["-c", line], options);
    return { status, stdout, stderr };
  };
}

const configurations = ["deno.json", "deno.lock", "package.json", "jsconfig.json"];

interface Ran {
  status: number | null;
  stdout: string;
  stderr: string;
}

function assertLoopRuns({ status, stdout, stderr }: Ran): void {
  assert.equal(status, 0, stderr);
  assert.equal(stdout.split("\n").length, 21);
  assert.match(stdout, /^item-1 => 1$/m);
}

/** The line that the README says, with the place of the clone. */
function lineOf(pattern: RegExp, folder: Folder): string {
  const [line] = pattern.exec(readme.replace(/\s+/g, " ")) ?? [];
  assert.ok(line, `the README has ${pattern}`);
  return line.replaceAll("/path/to/forrest", folder.file("forrest"));
}

/** Fills and runs a list of a project that has imports of its own, by a command of this name. */
function assertCommandWorks(folder: Folder, machine: ReturnType<typeof newMachine>, name: string) {
  const paths = '{ "compilerOptions": { "paths": { "own": ["./own.ts"] } } }'; // what each runtime reads
  folder.write("own/deno.json", '{ "imports": { "own": "./own.ts" } }');
  if (runtime === "bun") folder.write("own/tsconfig.json", paths);
  folder.write("own/own.ts", 'export const own = "of the project";');
  folder.write(
    "own/tasks.ts",
    `import { own } from "own";
     export function show(text: string) { if (text === "bad") throw new RangeError(own); return own; }`,
  );
  const forrest = (words: string) => machine("own", `${name} ${words}`);
  assert.equal(machine("own", `printf 'good\\nbad\\n' > lines`).status, 0);
  const added = forrest("add list tasks.ts#show lines");
  assert.equal(added.stdout, "2 tasks added to `list`\n", added.stderr);
  assert.equal(added.stderr, `To run what waits:  ${name} run list\n`);
  const steps = [{ call: "tasks.ts#show", args: ["by hand"] }]; // a path counts from where it is run
  folder.write("own/list/todo/by-hand.json", JSON.stringify({ steps }));
  const ran = machine("own", /To run what waits: (.*)/.exec(added.stderr)![1]);
  assert.match(ran.stdout, /^done +by-hand .* "of the project"$/m, ran.stderr);
  assert.match(ran.stdout, /^done +good.* "of the project"$/m, ran.stderr);
  assert.match(ran.stdout, /^fail .* RangeError: of the project$/m);
  assert.match(ran.stderr, new RegExp(`^To let it run again:  ${name} retry list$`, "m"));
  const [, line] = /^ +(\S.* exec .*)$/m.exec(ran.stderr)!;
  assert.match(line, new RegExp(`^${name} exec list/fail/\\d+-bad-\\w+\\.json --raise$`));
  for (const words of [line, line.replace(" --raise", "")]) {
    const { status, stderr } = machine("own", words);
    assert.equal(status, 1);
    assert.match(stderr, /RangeError: of the project/);
    if (words === line) assert.match(stderr, /at show .*tasks\.ts:2:/);
  }
  const value = forrest("exec list/done/*-good-*.json");
  assert.deepEqual(value, { status: 0, stdout: "of the project\n", stderr: "" });
}

test("inside the clone, the programs of the README run as they are printed", () => {
  using folder = temporary();
  const machine = newMachine(folder);
  folder.write("forrest/some/loop.ts", loop);
  assertLoopRuns(machine("forrest/some", `${run} loop.ts`));
});

test("the command runs by a link to its script, and its hints say `forrest`", () => {
  using folder = temporary();
  const machine = newMachine(folder);
  mkdirSync(folder.file("home/.local/bin"), { recursive: true });
  const linked = machine(".", lineOf(/ln -s \S+ [^`]+/, folder));
  assert.equal(linked.status, 0, linked.stderr);
  assertCommandWorks(folder, machine, "forrest");
});

test("where no runtime is, the command says which would do", () => {
  using folder = temporary();
  const machine = newMachine(folder);
  const { status, stderr } = machine(".", "rm bin/*; sh forrest/cli/forrest status");
  assert.equal(status, 127);
  assert.equal(stderr, "forrest: Cannot run, as deno or bun is not on the PATH\n");
});

if (runtime === "deno") {
  test("`deno install` gives the command, whose hints say `forrest`, and changes nothing in the clone", () => {
    using folder = temporary();
    const machine = newMachine(folder);
    const lock = folder.read("forrest/deno.lock");
    const installed = machine(".", lineOf(/deno install -g [^`]*cli\.ts/, folder));
    assert.equal(installed.status, 0, installed.stderr);
    assertCommandWorks(folder, machine, "forrest");
    assert.equal(folder.read("forrest/deno.lock"), lock);
  });

  test("where both runtimes are, a project that Bun has installed runs on Bun, and others on Deno", () => {
    using folder = temporary();
    const machine = newMachine(folder);
    symlinkSync(process.env.FORREST_BUN!, folder.file("bin/bun"));
    const task = { steps: [{ call: { source: "() => typeof Bun" } }] };
    folder.write("own/deep/list/todo/1.json", JSON.stringify(task));
    const type = () => {
      const line = "sh ../../forrest/cli/forrest run list; mv list/done/* list/todo";
      const { stdout, stderr } = machine("own/deep", line);
      return /^done +1 .* "(.*)"$/m.exec(stdout)?.[1] ?? stderr;
    };
    assert.equal(type(), "undefined");
    folder.write("own/bun.lock", "{}");
    assert.equal(type(), "object");
    folder.write("own/deno.json", "{}");
    assert.equal(type(), "undefined");
  });
} else {
  for (const kind of ["a folder", "a git URL"]) {
    test(`\`bun add\` of ${kind} gives the module, and the command by \`bunx forrest\``, () => {
      using folder = temporary();
      const machine = newMachine(folder);
      const author = "-c user.name=me -c user.email=me@example.org";
      const commit = `git init -q && git add . && git ${author} commit -q -m all`;
      if (kind === "a git URL") assert.equal(machine("forrest", commit).status, 0);
      folder.write("own/package.json", '{ "type": "module" }');
      const place = folder.file("forrest");
      const added = machine(
        "own",
        `bun add ${kind === "a folder" ? place : `git+file://${place}`}`,
      );
      assert.equal(added.status, 0, added.stderr);
      folder.write("own/loop.ts", loop.replace("jsr:@x/forrest", "@x/forrest"));
      assertLoopRuns(machine("own", "bun loop.ts"));
      assert.match(machine("own", "bunx forrest status tasklist").stdout, /^done +19$/m);
      assertCommandWorks(folder, machine, "bunx forrest");
    });
  }
}

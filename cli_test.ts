/**
 * What a person sees who uses the command: from its source, and as one executable.
 *
 * Runs unchanged under `deno test -A` and `bun test`.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync } from "node:fs";
import { readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { after, test as register } from "node:test";
import { fileURLToPath } from "node:url";

const project = dirname(fileURLToPath(import.meta.url));
const runtime = "Deno" in globalThis ? "deno" : "bun";
const built = mkdtempSync(join(tmpdir(), "forrest-build-"));
after(() => rmSync(built, { recursive: true, force: true }));

const source = runtime === "deno"
  ? [process.execPath, "run", "-A", join(project, "cli.ts")]
  : [process.execPath, join(project, "cli.ts")];

/** What the tasks of these tests call; it lies in a project of its own. */
const TASKS = `
import { writeFileSync } from "node:fs";
export const double = (text: string) => Number(text) * 2;
export const add = (a: number, b: number) => a + b;
export function refuse(text: string) {
  throw new RangeError("cannot do " + text, { cause: new Error("too hard") });
}
export function talk(text: string) {
  console.log("said " + text);
  console.error("whispered " + text);
  return { text };
}
export async function talkTwice(text: string) {
  await nap("0.5");
  console.log("begun " + text);
  await nap("0.5");
}
export const refuseOdd = (text: string) => Number(text) % 2 ? refuse(text) : "even";
export async function nap(seconds: string) {
  await new Promise((resolve) => setTimeout(resolve, Number(seconds) * 1000));
  return "rested";
}
export function mark(path: string) {
  writeFileSync(path, "", { flag: "a" });
  return nap("60");
}
export const long = () => "long ".repeat(1000);
export const leave = (code: string) => process.exit(Number(code));
export const print = (lines: string) => {
  for (let i = 0; i < Number(lines); i++) console.log("line " + i);
};
`;

// -------------------------------------------------------------------------------- the launchers

type Build = { how: string; program?: string };

/** Builds the executable with whatever can build it here. */
function buildExecutable(): Build {
  const program = join(built, "forrest");
  const run = (words: string[], cwd: string) =>
    spawnSync(words[0], words.slice(1), { cwd, encoding: "utf8", timeout: 120_000 }).status === 0;
  if (runtime === "deno") {
    const words = [process.execPath, "compile", "-A", "-q", "--output", program, "cli.ts"];
    if (run(words, project)) return { how: "deno compile", program };
  }
  const given = runtime === "bun" ? process.execPath : process.env.FORREST_BUN;
  const bun = given ? [given] : ["npx", "--yes", "bun@1.4.5"];
  for (const name of ["cli.ts", "mod.ts", "report.ts", "src", "deno.json", "package.json"]) {
    cpSync(join(project, name), join(built, "source", name), { recursive: true });
  }
  const { tasks } = JSON.parse(readFileSync(join(project, "deno.json"), "utf8"));
  const flags = tasks["compile:bun"].replace(/.*bun build /, "").split(" ");
  const words = flags.map((word: string) => word === "dist/forrest" ? program : word);
  const isBuilt = run([...bun, "install", "--no-save"], join(built, "source")) &&
    run([...bun, "build", ...words], join(built, "source"));
  return isBuilt ? { how: "bun build --compile", program } : { how: "nothing here can build it" };
}

const { how, program } = buildExecutable();
console.log(program ? `The executable was built with ${how}` : `skipped the executable: ${how}`);

/** How the command is started in the tests that follow. */
let launcher = source;
let isExecutable = false;

function suite(): void {
  // ------------------------------------------------------------------------------------- help

  test("`forrest`, `forrest help`, `-h` and `--help` print one screen and succeed", () => {
    using list = temporary();
    const { code, stdout, stderr } = list.forrest();
    assert.deepEqual([code, stderr], [0, ""]);
    assert.match(stdout, /Usage: forrest COMMAND DIR \[options\]/);
    assert.match(stdout, /Exit codes:\n {2}0 /);
    assert.ok(stdout.split("\n").length <= 40, "it fits a screen");
    for (const word of ["help", "-h", "--help"]) assert.equal(list.forrest(word).stdout, stdout);
  });

  test("the help of each command has usage, options with defaults and an example, on one screen", () => {
    using list = temporary();
    const all = list.forrest("help").stdout;
    const [, section] = /Commands:\n([^]*?)\n\n/.exec(all)!;
    const names = [...section.matchAll(/^ {2}(\w+)/gm)].map(([, name]) => name);
    assert.deepEqual(
      names.join(" "),
      "run exec add status list show logs retry clean reset report help",
    );
    for (const name of names.slice(0, -1)) {
      const { code, stdout } = list.forrest(name, "-h");
      assert.equal(code, 0);
      assert.match(stdout, new RegExp(`^Usage: forrest ${name} `));
      assert.match(stdout, new RegExp(`\nExample:\n {2}.*forrest ${name}`));
      const lines = stdout.split("\n");
      assert.ok(lines.length <= 30 && lines.every((line) => line.length <= 80), name);
    }
    assert.equal(list.forrest("help", "run").stdout, list.forrest("run", "--help").stdout);
    assert.match(list.forrest("run", "-h").stdout, /--retries N .*\[default: 0\]/);
  });

  test("an unknown command, option or task is refused with the nearest valid word", () => {
    using list = temporary();
    list.add("double", "1");
    const cases: [string[], RegExp][] = [
      [["rnu", "list"], /no command `rnu`; the nearest is `run`/],
      [["help", "lst"], /no command `lst`; the nearest is `list`/],
      [["toString"], /no command `toString`/],
      [["run", "list", "--retires=2"], /no option `--retires`; the nearest is `--retries`/],
      [["run", "list", "-k"], /no option `-k`; the nearest is `-\w`/],
      [["list", "list", "dnoe"], /no task `dnoe`; the nearest is `done` in `list`/],
    ];
    for (const [words, message] of cases) {
      const { code, stderr } = list.forrest(...words);
      assert.match(stderr, message);
      assert.match(stderr, /See `forrest .*`/);
      assert.equal(code, 2);
    }
  });

  test("a missing word, a missing value and a number that is none are refused", () => {
    using list = temporary();
    list.add("double", "1");
    const cases: [string[], RegExp][] = [
      [["run"], /DIR, the directory of the list, is missing/],
      [["exec"], /TASK.json, the task to run, is missing/],
      [["show"], /TASK.json, the task to show, is missing/],
      [["add", "list"], /The function is missing: write MODULE#EXPORT, or `-- PROGRAM`/],
      [["add", "list", "tasks.ts"], /`tasks.ts` names no function/],
      [["add", "list", "nowhere.ts#double"], /There is no module `nowhere.ts`/],
      [["add", "list", "tasks.ts#double", "nowhere"], /There is no file `nowhere`/],
      [["run", "list", "--log"], /`--log` needs a value/],
      [["run", "list", "-j", "many"], /`--processes` must be a number such as 60; it is `many`/],
      [["run", "list", "-j", "1e-1"], /`--processes` must be a number such as 60; it is `1e-1`/],
      [["run", "list", "-j", "5e-324"], /must be a number/],
      [["run", "list", "-qj1"], /`--quiet` takes no value; write letters apart/],
      [["clean", "list", "--yes=no"], /`--yes` takes no value/],
      [["clean", "list", "--done="], /`--done` takes no value/],
      [["run", "list", "--retries", "2.5e0"], /Expected `--retries` to be a whole number/],
      [["run", "list", "-j0"], /Expected `--processes` to be a whole number from 1 up, got `0`/],
      [["run", "list", "--retries", "1.5"], /Expected `--retries` to be a whole number/],
      [["run", "list", "--stop-signal", "LUNCH"], /there is no signal `SIGLUNCH` to wait for/],
      [["run", "list", "--stop-signal", "KILL"], /there is no signal `SIGKILL` to wait for/],
    ];
    for (const [words, message] of cases) {
      const { code, stderr } = list.forrest(...words);
      assert.match(stderr, message);
      assert.equal(code, 2, stderr);
    }
    assert.equal(list.count("todo"), 1);
  });

  test("`--version` prints the version of the package", () => {
    using list = temporary();
    const { version } = JSON.parse(readFileSync(join(project, "deno.json"), "utf8"));
    assert.equal(list.forrest("--version").stdout, `forrest ${version}\n`);
  });

  test("a directory that is no list, a file, and a list that is not there are named", () => {
    using list = temporary();
    const cases: [string, RegExp][] = [
      ["nowhere", /There is no task list `nowhere`; `forrest add nowhere ...` makes one/],
      [".", /`.` is no task list: it has no folder `todo`/],
      ["tasks.ts", /`tasks.ts` is a file, or in one; not the directory of a task list/],
    ];
    const names = ["run", "status", "list", "logs", "retry", "clean", "reset", "report"];
    for (const [directory, message] of cases) {
      for (const name of names) {
        const { code, stderr } = list.forrest(name, directory);
        assert.match(stderr, message);
        assert.equal(code, 2);
      }
    }
    assert.match(list.forrest("add", ".", "tasks.ts#double").stderr, /no task list, but not empty/);
    assert.deepEqual(readdirSync(list.file(".")), ["tasks.ts"], "nothing was made");
  });

  // -------------------------------------------------------------------------------------- run

  test("`run` prints a line for each task and a summary, and succeeds if all are done", () => {
    using list = temporary();
    list.add("double", "1", "2", "3");
    const { code, stdout, stderr } = list.forrest("run", "list", "-j", "2");
    assert.deepEqual([code, stderr], [0, ""]);
    const lines = stdout.trim().split("\n");
    assert.equal(lines.length, 4);
    assert.match(lines.slice(0, 3).sort()[1], /^done +2-\w+ +[\d.]+ m?s +4$/);
    assert.match(lines[3], /^3 tasks in [\d.]+ m?s: 3 done, 0 failed$/);
    assert.equal(list.count("done"), 3);
  });

  test("`run` with a failed task exits with 1, and names the command that reproduces the first", () => {
    using list = temporary("a list, it's");
    list.add("refuseOdd", "1", "2");
    const { code, stdout, stderr } = list.forrest("run", list.name, "-j1");
    assert.equal(code, 1);
    assert.match(stdout, /^fail +1-\w+ .* RangeError: cannot do 1$/m);
    assert.match(stdout, /^2 tasks in .*: 1 done, 1 failed$/m);
    const [, command] = / {2}(\S.* exec .* --raise)$/m.exec(stderr)!;
    const again = list.shell(command);
    assert.match(again.stderr, /RangeError: cannot do 1/);
    assert.match(again.stderr, /refuse \(?.*tasks\.ts:6:/);
    assert.match(again.stderr, /too hard/);
    assert.equal(again.code, 1);
    assert.equal(list.count("fail"), 1);
  });

  test("`run` into a pipe prints no control characters", () => {
    using list = temporary();
    list.add("talk", "this", "that\x1b[31m");
    const { stdout, stderr } = list.forrest("run", "list");
    const own = stdout.split("\n").filter((line) => !line.startsWith("said ")).join("\n");
    // deno-lint-ignore no-control-regex
    assert.doesNotMatch(own, /[\x00-\x09\x0b-\x1f\x7f]/);
    assert.match(stdout, /^said this$/m);
    assert.match(stderr, /^whispered this$/m);
  });

  test("`run --json` prints a JSON object for each task, and all else on standard error", () => {
    using list = temporary();
    list.add("talk", "this");
    list.add("refuse", "that");
    const { code, stdout, stderr } = list.forrest("run", "list", "--json", "-j1");
    assert.equal(code, 1);
    const [failed, done] = stdout.trim().split("\n").map((line) => JSON.parse(line))
      .sort((a, b) => b.state.localeCompare(a.state));
    assert.deepEqual(done.returnValue, { text: "this" });
    assert.equal(done.path, `list/done/${done.id}.json`);
    assert.equal(failed.errorValue.$error.message, "cannot do that");
    assert.equal(failed.attempts, 1);
    assert.match(stderr, /^said this$/m);
    assert.match(stderr, /2 tasks in .*: 1 done, 1 failed/);
  });

  test("`run --quiet` prints what tasks print, and failures", () => {
    using list = temporary();
    list.add("talk", "this");
    const quiet = list.forrest("run", "list", "--quiet");
    assert.deepEqual([quiet.code, quiet.stdout, quiet.stderr], [
      0,
      "said this\n",
      "whispered this\n",
    ]);
    list.add("refuse", "that");
    const { code, stdout, stderr } = list.forrest("run", "list", "-q");
    assert.deepEqual([code, stdout], [1, ""]);
    assert.match(stderr, /^A task has failed\./);
  });

  test("`run --print-errors` prints the whole stack, with causes, at once", () => {
    using list = temporary();
    list.add("refuse", "that");
    const { stderr } = list.forrest("run", "list", "--print-errors");
    assert.match(stderr, /RangeError: cannot do that\n +at refuse .*tasks\.ts:6:/);
    assert.match(stderr, /Caused by: Error: too hard\n +at refuse /);
  });

  test("`run --retries` tries again, and `--autokill` ends what takes too long", () => {
    using list = temporary();
    list.add("refuse", "that");
    list.add("nap", "60");
    const words = ["--retries", "1", "--retry-delay", "0.1", "--autokill", "1"];
    const { code, stdout } = list.forrest("run", "list", "-j2", ...words);
    assert.equal(code, 1);
    assert.match(stdout, /^fail .* RangeError: cannot do that$/m);
    assert.match(stdout, /^fail .* TimeoutError: .* 1 s/m);
    const shown = list.forrest("show", "list", list.ids("fail").find((id) => /that/.test(id))!);
    assert.match(shown.stdout, /fail, 2 attempts, started /);
  });

  test("`run --max-failures` gives up, leaves the rest, and says so", () => {
    using list = temporary();
    list.add("refuse", ..."abcdef");
    const { code, stderr } = list.forrest("run", "list", "-j1", "--max-failures", "1");
    assert.equal(code, 1);
    assert.match(stderr, /Stopped after 2 failures .*`--max-failures 1`.*: 4 tasks are left/);
    assert.deepEqual([list.count("todo"), list.count("fail")], [4, 2]);
  });

  test("`run --session` gives functions stored as text the exports of a module", () => {
    using list = temporary();
    list.add("double", "1");
    const [id] = list.ids("todo");
    const step = { call: { source: "(x) => double(x) + 1" }, args: ["20"] };
    writeFileSync(list.file(`list/todo/${id}.json`), JSON.stringify({ steps: [step] }));
    const failed = list.forrest("run", "list");
    assert.match(failed.stdout, /ReferenceError: .*double/);
    list.forrest("retry", "list");
    const { code, stdout } = list.forrest("run", "list", "-s", "./tasks.ts");
    assert.equal(code, 0);
    assert.match(stdout, /^done .* 41$/m);
  });

  test(
    "`run --permission` says what tasks may do",
    { skip: isExecutable || runtime !== "deno" ? "permissions are Deno's" : false },
    () => {
      using list = temporary();
      list.add("mark", list.file("made"));
      const { code, stdout } = list.forrest("run", "list", "--permission=--allow-net");
      assert.equal(code, 1);
      assert.match(stdout, /NotCapable: .*write access/);
    },
  );

  test("`run --tasks-per-process` and `--concurrency` let a process run more than one task", () => {
    using list = temporary();
    list.add("nap", ...Array.from("abcdefgh", () => "0.3"), "0.2", "0.1");
    list.add("double", "1", "2", "3", "4");
    const { code, stdout } = list.forrest(
      ..."run list -j1 --tasks-per-process 10 --concurrency 4".split(" "),
    );
    assert.equal(code, 0);
    assert.match(stdout, /^7 tasks in /m);
  });

  test("`run` of a list with nothing to do says so and succeeds", () => {
    using list = temporary();
    list.add("double");
    const { code, stdout } = list.forrest("run", "list");
    assert.equal(code, 0);
    assert.equal(stdout, "Nothing to do: no task waits; 0 done, 0 failed before\n");
  });

  test("a failed task that is moved back with `mv` runs again", () => {
    using list = temporary();
    list.add("refuse", "that");
    list.forrest("run", "list");
    const [id] = list.ids("fail");
    const task = list.read(`list/fail/${id}.json`).replace("#refuse", "#talk");
    writeFileSync(list.file(`list/fail/${id}.json`), task);
    renameSync(list.file(`list/fail/${id}.json`), list.file(`list/todo/${id}.json`));
    const { code, stdout } = list.forrest("run", "list");
    assert.equal(code, 0);
    assert.match(stdout, /^done .* \{ text: "that" \}$/m);
  });

  test("`run --log` logs there, and not in the list", () => {
    using list = temporary();
    list.add("talk", "this");
    list.forrest("run", "list", "--log", "other.txt");
    assert.match(list.read("other.txt"), /Z this-\w+ \| said this\n/);
    assert.equal(existsSync(list.file("list/log.txt")), false);
    assert.match(list.forrest("logs", "list", "--log", "other.txt").stdout, /said this/);
  });

  for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]] as const) {
    test(`${signal} puts back what runs, says how to go on, and ends with ${code}`, async () => {
      using list = temporary();
      list.add("mark", list.file("begun"));
      const run = list.start("run", "list", "--json");
      await list.until(() => existsSync(list.file("begun")));
      run.kill(signal);
      assert.equal(await run.code, code);
      assert.match(run.stderr(), /^(Interrupted|Stopped by SIG\w+): .* 1 task is in `todo`\.$/m);
      assert.match(run.stderr(), /^To go on: {2}.* run list$/m);
      assert.deepEqual([list.count("todo"), list.count("running")], [1, 0]);
    });
  }

  test("SIGTERM and the signal of `--stop-signal` end the run with 75", async () => {
    using list = temporary();
    list.add("mark", list.file("begun"));
    for (const signal of ["SIGUSR2", "SIGTERM"] as const) {
      rmSync(list.file("begun"), { force: true });
      const run = list.start("run", "list", "--stop-signal", "usr2");
      await list.until(() => existsSync(list.file("begun")));
      run.kill(signal);
      assert.equal(await run.code, 75);
      assert.deepEqual([list.count("todo"), list.count("running")], [1, 0]);
    }
  });

  test("`run --time-left` ends in order before the time is over, with 75 if something is left", () => {
    using list = temporary();
    list.add("nap", "60", "0.1");
    const begun = performance.now();
    const { code, stderr } = list.forrest("run", "list", "-j2", "--time-left", "4");
    assert.ok(performance.now() - begun < 30_000);
    assert.equal(code, 75);
    assert.match(stderr, /^The time is over \(`--time-left`\): nothing runs any more, 1 task is/m);
    assert.deepEqual([list.count("todo"), list.count("running"), list.count("done")], [1, 0, 1]);
  });

  test("`run --time-left` starts nothing that cannot be expected to finish, and succeeds if nothing is left", () => {
    using list = temporary();
    list.add("nap", "1.5", "1.6", "1.7", "1.8");
    const some = list.forrest("run", "list", "-j1", "--time-left", "4.5");
    assert.equal(some.code, 75);
    assert.ok(list.count("todo") > 0);
    assert.equal(list.count("todo") + list.count("done"), 4);
    assert.doesNotMatch(list.read("list/log.txt"), /put back/);
    assert.equal(list.forrest("run", "list", "-j4", "--time-left", "1000").code, 0);
  });

  test("a log on a full disk ends the run with a clear error, and loses nothing", {
    skip: existsSync("/dev/full") ? false : "there is no /dev/full on this machine",
  }, () => {
    using list = temporary();
    list.add("talk", "this");
    const { code, stderr } = list.forrest("run", "list", "--log", "/dev/full");
    assert.equal(code, 1);
    assert.match(stderr, /no space is left; no task is lost/);
    assert.equal(list.count("todo") + list.count("done"), 1);
  });

  test("a list that may not be written is named, with what to do", {
    skip: process.getuid?.() === 0 ? "root may write everywhere" : false,
  }, () => {
    using list = temporary();
    list.add("double", "1");
    chmodSync(list.file("list/running"), 0o500);
    const { code, stderr } = list.forrest("run", "list", "--log", "log.txt");
    chmodSync(list.file("list/running"), 0o700);
    assert.equal(code, 1);
    assert.match(stderr, /Cannot use `.*list\/.*`: you are not allowed to/);
    assert.equal(list.count("todo"), 1);
  });

  test("`run` refuses a session module that is not there, and nothing is run", () => {
    using list = temporary();
    list.add("double", "1");
    const { code, stderr } = list.forrest("run", "list", "-s", "nowhere.ts");
    assert.match(stderr, /`--session`: there is no module `nowhere.ts`/);
    assert.deepEqual([code, list.count("todo")], [2, 1]);
  });

  test("`run` that nothing is left for ends well, whatever the time is", () => {
    using list = temporary();
    list.add("double", "1");
    list.forrest("run", "list");
    const { code, stdout, stderr } = list.forrest("run", "list", "--time-left", "0");
    assert.deepEqual([code, stderr], [0, ""]);
    assert.match(stdout, /Nothing to do/);
  });

  test("`run` under nohup goes on after SIGHUP", async () => {
    using list = temporary();
    list.add("nap", "1.5");
    const command = `trap "" HUP; exec ${list.command} run list > out`;
    list.write("nohup.sh", command);
    const child = spawn("sh", ["nohup.sh"], { cwd: list.file("."), env: environment() });
    const ended = new Promise((resolve) => child.on("close", resolve));
    await list.until(() => list.count("running") === 1);
    process.kill(child.pid!, "SIGHUP");
    assert.equal(await ended, 0);
    assert.match(list.read("out"), /1 done, 0 failed/);
  });

  test("the line of a program that failed says what it last printed", () => {
    using list = temporary();
    const words = Array.from({ length: 60 }, (_, i) => `word${i}`);
    list.forrestWith(
      "1\n",
      "add",
      "list",
      "--",
      "sh",
      "-c",
      "echo first; echo it broke; exit 3",
      ...words,
    );
    const { stdout } = list.forrest("run", "list");
    assert.match(
      stdout,
      /^fail .* Error: `sh -c .*…` exited with code 3. It last printed: it broke$/m,
    );
  });

  test("`FORREST_LEASE` must be a number of seconds", () => {
    using list = temporary();
    list.add("double", "1");
    for (const lease of ["abc", "-5"]) {
      const { code, stderr } = list.shell(`FORREST_LEASE=${lease} ${list.command} run list`);
      assert.match(
        stderr,
        new RegExp(`Expected \`FORREST_LEASE\` to be a number.*, got \`${lease}\``),
      );
      assert.equal(code, 2);
    }
  });

  // ------------------------------------------------------------------------------------- exec

  test("`exec` runs a task, prints its value, and changes no file", () => {
    using list = temporary();
    list.add("double", "21");
    list.forrest("run", "list");
    const [id] = list.ids("done");
    const before = list.read(`list/done/${id}.json`);
    const { code, stdout, stderr } = list.forrest("exec", `list/done/${id}.json`);
    assert.deepEqual([code, stdout, stderr], [0, "42\n", ""]);
    assert.equal(list.read(`list/done/${id}.json`), before);
  });

  test("`exec --raise` throws the original error, with the user's file and line", () => {
    using list = temporary();
    list.add("refuse", "that");
    const [id] = list.ids("todo");
    const { code, stderr } = list.forrest("exec", `list/todo/${id}.json`, "--raise");
    assert.equal(code, 1);
    assert.match(stderr, /RangeError.*: cannot do that/);
    assert.match(stderr, /refuse \(?.*tasks\.ts:6:/);
    assert.equal(list.count("todo"), 1);
  });

  test("`exec` of a failing task says so in a line, and `--print` in full", () => {
    using list = temporary();
    list.add("refuse", "that");
    list.forrest("run", "list");
    const path = `list/fail/${list.ids("fail")[0]}.json`;
    const brief = list.forrest("exec", path);
    assert.equal(brief.code, 1);
    assert.match(
      brief.stderr,
      /^that-\w+: RangeError: cannot do that\nTo see where: .* --raise\n$/,
    );
    const full = list.forrest("exec", path, "--print");
    assert.equal(full.code, 1);
    assert.match(full.stderr, /at refuse .*tasks\.ts:6:[^]*Caused by: Error: too hard/);
  });

  test("`exec TASK.json OUT.json` writes the outcome there", () => {
    using list = temporary();
    list.add("double", "21");
    const [id] = list.ids("todo");
    const { code, stdout } = list.forrest("exec", `list/todo/${id}.json`, "out.json");
    assert.deepEqual([code, stdout], [0, ""]);
    assert.equal(JSON.parse(list.read("out.json")).returnValue, 42);
    assert.equal(list.count("todo"), 1);
  });

  test("`exec` of a task in `todo` claims it, and files the outcome; a second time it does nothing", () => {
    using list = temporary();
    list.add("refuseOdd", "1", "2");
    const [odd, even] = list.ids("todo").map((id) => `list/todo/${id}.json`);
    const failed = list.forrest("exec", odd);
    assert.equal(failed.code, 1);
    assert.match(failed.stderr, /RangeError: cannot do 1\nTo see where: .* exec list\/fail\/1-/);
    const done = list.forrest("exec", even);
    assert.deepEqual([done.code, done.stdout], [0, "even\n"]);
    assert.deepEqual([list.count("done"), list.count("fail")], [1, 1]);
    const again = list.forrest("exec", even);
    assert.deepEqual([again.code, again.stdout], [0, ""]);
    assert.match(again.stderr, /Not run: `2-\w+`, as it is in `done` already/);
    assert.equal(list.forrest("exec", odd).code, 1);
    assert.equal(JSON.parse(list.read(odd.replace("todo", "fail"))).attempts, 1);
    list.add("refuseOdd", "4");
    const inside = `cd list/todo && ${list.command} exec *.json`;
    assert.match(list.shell(inside).stdout, /^even\n/);
    assert.deepEqual([list.count("todo"), list.count("done")], [0, 2]);
  });

  test("`exec` of a task that another run has ends with 75", async () => {
    using list = temporary();
    list.add("mark", list.file("begun"));
    const path = `list/todo/${list.ids("todo")[0]}.json`;
    const run = list.start("exec", path);
    await list.until(() => existsSync(list.file("begun")));
    const { code, stderr } = list.forrest("exec", path);
    assert.equal(code, 75);
    assert.match(stderr, /Not run: .* another run has it/);
    run.kill("SIGTERM");
    assert.equal(await run.code, 143);
    assert.match(run.stderr(), /Stopped by SIGTERM: the task is back in `todo`/);
    assert.deepEqual([list.count("todo"), list.count("running")], [1, 0]);
  });

  test("`exec` of a task that calls `exit(255)` never ends with 255", () => {
    using list = temporary();
    list.add("leave", "255");
    const { code } = list.forrest("exec", `list/todo/${list.ids("todo")[0]}.json`);
    assert.equal(code, 1);
    assert.equal(list.count("fail"), 1);
  });

  test("`exec` of a file that is not there, or is no task, says so", () => {
    using list = temporary();
    list.add("double", "1");
    for (const path of ["list/todo/x.json", "list/fail/x.json", "x.json"]) {
      const { code, stderr } = list.forrest("exec", path);
      assert.equal(code, 2);
      assert.match(stderr, new RegExp(`There is no task \`${path}\``));
    }
    writeFileSync(list.file("bad.json"), '{"steps": 3}');
    const { code, stderr } = list.forrest("exec", "bad.json");
    assert.equal(code, 1);
    assert.match(stderr, /`steps` must be an array/);
  });

  test("`exec --inspect-brk` waits for a debugger", {
    skip: isExecutable ? "an executable has no debugger" : false,
  }, async () => {
    using list = temporary();
    list.add("double", "1");
    const run = list.start(
      "exec",
      `list/todo/${list.ids("todo")[0]}.json`,
      "--raise",
      "--inspect-brk",
    );
    await list.until(() => /Debugger listening|ws:\/\//.test(run.stderr() + run.stdout()));
    assert.equal(run.stdout().includes("2"), false);
    killGroup(run.process);
    await run.code;
  });

  test("`xargs` runs the tasks of a list; a second time nothing happens", () => {
    using list = temporary();
    list.add("double", ..."123456");
    const line = `ls list/todo/*.json | tee names | xargs -n 1 -P 3 ${list.command} exec`;
    assert.equal(list.shell(line).code, 0);
    assert.equal(list.count("done"), 6);
    const { code, stdout } = list.shell(`xargs -n 1 -P 3 ${list.command} exec < names`);
    assert.deepEqual([code, stdout], [0, ""]);
  });

  test("GNU parallel runs the tasks of a list, and its job log has their exit codes", {
    skip: isInstalled("parallel") ? false : "there is no GNU parallel on this machine",
  }, () => {
    using list = temporary();
    list.add("refuseOdd", ..."1234");
    const line = `ls list/todo/*.json | tee names | parallel --joblog log ${list.command} exec {}`;
    assert.equal(list.shell(line).code, 2, "the number of jobs that have failed");
    const codes = list.read("log").trim().split("\n").slice(1).map((row) => row.split("\t")[6]);
    assert.deepEqual(codes.sort(), ["0", "0", "1", "1"]);
    assert.deepEqual([list.count("done"), list.count("fail")], [2, 2]);
  });

  test("`exec` files a task of a list, however its path is written", () => {
    using list = temporary();
    list.add("double", "1", "2", "3", "4");
    const [a, b, c, d] = list.ids("todo");
    const path = list.file("list/todo");
    const lines = [
      `cd list/todo && ${list.command} exec ./${a}.json`,
      `${list.command} exec list/todo//${b}.json`,
      `${list.command} exec ./list/../list/todo/${c}.json`,
      `${list.command} exec ${path}/./${d}.json`,
    ];
    for (const line of lines) assert.deepEqual(list.shell(line).stderr, "");
    assert.equal(list.count("done"), 4);
    list.write("list/todo/a\tb.json", JSON.stringify({ steps: [{ value: 1 }] }));
    assert.equal(list.forrest("exec", "list/todo/a\tb.json").stdout, "1\n");
  });

  // -------------------------------------------------------------------------------------- add

  test("`add` makes a task of each line; adding twice adds once, and what is new", () => {
    using list = temporary();
    const first = list.add("double", "one", "two", "", "one");
    assert.match(first.stdout, /^2 tasks added to `list`; 1 there already$/m);
    assert.match(first.stderr, /^To run what waits: {2}.* run list$/m);
    list.forrest("run", "list");
    assert.match(list.add("double", "two", "three").stdout, /^1 task added to `list`; 1 there/m);
    assert.equal(list.count("todo"), 1);
    assert.match(list.add("refuse", "two").stdout, /^1 task added to `list`$/m, "another function");
  });

  test("`add` reads a file as well, also without a newline at its end, or from Windows", () => {
    using list = temporary();
    writeFileSync(list.file("words.txt"), "a b\r\nc");
    list.forrest("add", "list", "./tasks.ts#talk", "words.txt");
    list.forrest("run", "list");
    const values = list.ids("done").map((id) => list.task("done", id).returnValue);
    assert.deepEqual(values, [{ text: "a b" }, { text: "c" }]);
    writeFileSync(list.file("more.txt"), "d");
    const both = list.forrest("add", "list", "./tasks.ts#talk", "more.txt", "words.txt");
    assert.equal(both.code, 2);
    assert.match(both.stderr, /One file at a time.*`cat more\.txt words\.txt \| forrest add`/);
    assert.equal(list.count("todo"), 0);
  });

  test("`add --json` takes JSON values, and spreads arrays to several arguments", () => {
    using list = temporary();
    const words = ["add", "list", "tasks.ts#add", "--json"];
    assert.equal(list.forrestWith("[1, 2]\n[3, 4]\n", ...words).code, 0);
    const { stdout } = list.forrest("run", "list");
    assert.match(stdout, /^done .* 3$/m);
    assert.match(stdout, /^done .* 7$/m);
    const { code, stderr } = list.forrestWith("[5, 6]\n{oops\n", ...words);
    assert.equal(code, 2);
    assert.match(stderr, /Line 2 is not JSON: /);
  });

  test("a task that waits for what nothing will settle fails, and so does its module", () => {
    using list = temporary();
    writeFileSync(list.file("never.ts"), "export const never = () => new Promise(() => {});");
    writeFileSync(list.file("late.ts"), "await new Promise(() => {}); export const f = () => 1;");
    list.forrestWith("1\n", "add", "list", "never.ts#never");
    list.forrestWith("2\n", "add", "list", "late.ts#f");
    assert.equal(list.forrest("run", "list").code, 1);
    const messages = list.ids("fail").map((id) =>
      list.task("fail", id).errorValue.$error.message as string
    );
    assert.equal(messages.length, 2);
    for (const message of messages) assert.match(message, /waits for a promise that nothing will/);
  });

  test("`add` makes ids that are file names, whatever the line", () => {
    using list = temporary();
    const lines = [
      "../../etc/passwd",
      ".hidden",
      "a/b c%#?*'\"",
      "漢字",
      "-".repeat(300),
      "x".repeat(3000),
    ];
    list.add("talk", ...lines);
    assert.equal(list.count("todo"), lines.length);
    assert.equal(list.forrest("run", "list").code, 0);
    const texts = list.ids("done").map((id) => list.task("done", id).returnValue.text);
    assert.deepEqual(texts.sort(), lines.sort());
  });

  test("`add DIR -- PROGRAM` runs a program for each line", () => {
    using list = temporary();
    list.forrestWith("a b\n$HOME\n", "add", "list", "--", "printf", "<%s>");
    list.forrestWith("one\n", "add", "list", "--", "sh", "-c", "echo failing {} >&2; exit 7");
    const { code, stdout } = list.forrest("run", "list", "-j1");
    assert.equal(code, 1);
    assert.match(stdout, /^done .* "<a b>"$/m);
    assert.match(stdout, /^done .* "<\$HOME>"$/m, "no shell has seen it");
    assert.match(stdout, /^fail .* Error: .* exited with code 7/m);
    assert.match(list.forrest("show", "list", list.ids("fail")[0]).stdout, /failing one/);
  });

  test("`{}`, `{.}`, `{/}`, `{//}`, `{/.}` and `{#}` mean what they mean in GNU parallel", {
    skip: isInstalled("parallel") ? false : "there is no GNU parallel on this machine",
  }, () => {
    using list = temporary();
    const lines = ["a b.c", "sub.dir/foo", "x/y.tar.gz", "/", "/etc/x.d/", "q//z.y", ".rc", "it's"];
    const words = "{} {.} {/} {//} {/.} {#} {x} {.}{/}";
    const input = lines.map((line) => `${line}\n`).join("");
    const { stdout } = spawnSync("parallel", ["-k", "-j1", `printf '%s|' ${words}; echo`], {
      input,
      encoding: "utf8",
    });
    list.forrestWith(input, "add", "list", "--", "printf", "%s|", ...words.split(" "));
    list.forrestWith(input, "add", "list", "--shell", "--", `printf '%s|' ${words}`);
    list.forrest("run", "list", "--tasks-per-process", "20");
    const values = list.ids("done").map((id) => list.task("done", id).returnValue);
    const expected = stdout.trimEnd().split("\n");
    assert.deepEqual(values.sort(), [...expected, ...expected].sort());
  });

  test("without a placeholder the line comes last, and `--shell` gives all to a shell", () => {
    using list = temporary();
    list.forrestWith(
      "it's; * ~\n~\n",
      "add",
      "list",
      "--shell",
      "--",
      "echo",
      "{}",
      "|",
      "tr",
      "a-z",
      "A-Z",
    );
    list.forrestWith("last\n", "add", "list", "--", "echo", "first");
    const { stdout } = list.forrest("run", "list");
    assert.match(stdout, /"IT'S; \* ~\\n"/);
    assert.match(stdout, /"~\\n"/, "no home directory");
    assert.match(stdout, /"first last\\n"/);
  });

  test("`add` takes lines that look like files of ours, and names one that is not UTF-8", () => {
    using list = temporary();
    assert.equal(list.add("double", "icon.json@2x", "1").code, 0);
    assert.equal(list.count("todo"), 2);
    writeFileSync(
      list.file("bytes"),
      Uint8Array.from([...Array(70_000).fill(10), 65, 10, 97, 0xc3]),
    );
    const { code, stderr } = list.forrest("add", "other", "./tasks.ts#double", "bytes");
    assert.match(stderr, /Line 70002 is not in UTF-8/);
    const text = `${"a".repeat(65_535)}é\nx \ufffd y\n\n\n\n\n`; // the buffer ends in a character
    writeFileSync(list.file("bytes"), Uint8Array.from([...Buffer.from(text), 0xff, 10]));
    assert.match(
      list.forrest("add", "other", "./tasks.ts#double", "bytes").stderr,
      /Line 7 is not/,
    );
    assert.equal(code, 2);
  });

  test("`add` refuses an option that does not fit what is added, and an empty name", () => {
    using list = temporary();
    const json = list.forrestWith("1\n", "add", "list", "--json", "--", "echo");
    assert.match(json.stderr, /`--json` is for `MODULE#EXPORT` only/);
    const shell = list.forrestWith("1\n", "add", "list", "tasks.ts#double", "--shell");
    assert.match(shell.stderr, /`--shell` is for `-- PROGRAM` only/);
    const empty = list.forrestWith("1\n", "add", "", "tasks.ts#double");
    assert.match(empty.stderr, /DIR, the directory of the list, is missing/);
    assert.deepEqual([json.code, shell.code, empty.code], [2, 2, 2]);
    assert.deepEqual(readdirSync(list.file(".")), ["tasks.ts"]);
  });

  // ---------------------------------------------------------------------------------- looking

  test("`status` counts the tasks in each state", () => {
    using list = temporary();
    list.add("refuseOdd", ..."123");
    assert.match(
      list.forrest("status", "list").stdout,
      /^todo +3\nrunning +0\ndone +0\nfail +0\n$/,
    );
    list.forrest("run", "list");
    assert.match(
      list.forrest("status", "list").stdout,
      /^todo +0\nrunning +0\ndone +1\nfail +2\n$/,
    );
  });

  test("`status` tells the rate and the time left while tasks run", async () => {
    using list = temporary();
    list.add("double", "1");
    list.forrest("run", "list");
    list.add("mark", list.file("begun"));
    const run = list.start("run", "list");
    await list.until(() => existsSync(list.file("begun")));
    const { stdout } = list.forrest("status", "list");
    assert.match(stdout, /^running +1$/m);
    assert.match(stdout, /^[\d.]+ tasks a second in the last minute, .* left$/m);
    run.kill("SIGTERM");
    await run.code;
  });

  test("`status --watch` goes on until nothing is left to do", async () => {
    using list = temporary();
    list.add("nap", "0.5", "0.6");
    const watch = list.start("status", "list", "--watch");
    await list.until(() => /2 todo/.test(watch.stdout()));
    list.forrest("run", "list", "-j1");
    assert.equal(await watch.code, 0);
    assert.match(
      watch.stdout(),
      /^2 todo, 0 running, 0 done, 0 fail\n[^]*0 todo, 0 running, 2 done, 0 fail\n$/,
    );
  });

  test("`list` shows tasks by state, by id, or by path, a line each", () => {
    using list = temporary();
    list.add("refuseOdd", "1", "2");
    const waiting = list.forrest("list", "list").stdout;
    assert.match(waiting, /^todo +1-\w+ +refuseOdd\("1"\)\ntodo +2-\w+ +refuseOdd\("2"\)\n$/);
    list.forrest("run", "list");
    const [done, fail] = [
      list.forrest("list", "list", "done"),
      list.forrest("list", "list", "fail"),
    ];
    assert.match(done.stdout, /^done +2-\w+ +[\d.]+ m?s +"even"\n$/);
    assert.match(fail.stdout, /^fail +1-\w+ +[\d.]+ m?s +RangeError: cannot do 1\n$/);
    assert.equal(list.forrest("list", "list").stdout, done.stdout + fail.stdout);
    const [id] = list.ids("fail");
    assert.equal(list.forrest("list", "list", id).stdout, fail.stdout);
    assert.equal(list.forrest("list", `list/fail/${id}.json`).stdout, fail.stdout);
  });

  test("`show` writes the call as code, and the value, the metadata and what the task printed", () => {
    using list = temporary();
    list.add("double", "1");
    const [id] = list.ids("todo");
    const module = `file://${list.file("tasks.ts")}`;
    const steps = [
      {
        call: `${module}#talk`,
        args: [{ a: [1, { $date: "2026-01-01T00:00:00.000Z" }], "b c": null }],
      },
      { call: "Math.max", args: [{ $number: "Infinity" }, { $bigint: "7" }] },
      { call: { $step: 0, path: ["text", "a", "at"] }, args: [0] },
    ];
    const task = JSON.stringify({ steps: [steps[0], steps[2]], metadata: { item: 7 } });
    writeFileSync(list.file(`list/todo/${id}.json`), task);
    list.forrest("run", "list");
    const { code, stdout } = list.forrest("show", "list", id);
    assert.equal(code, 0);
    assert.equal(list.forrest("show", `list/done/${id}.json`).stdout, stdout);
    assert.match(stdout, /^done, started 20.*Z, ran [\d.]+ m?s$/m);
    assert.ok(stdout.includes(`import { talk } from "${module}";`));
    assert.ok(
      stdout.includes(
        'const step0 = talk({ a: [1, new Date("2026-01-01T00:00:00.000Z")], "b c": null });',
      ),
    );
    assert.match(stdout, /^step0\.text\.a\.at\(0\);$/m);
    assert.match(stdout, /^metadata: \{ item: 7 \}$/m);
    assert.match(stdout, /^value: 1$/m);
    assert.match(stdout, /It printed:\n(.*\n)?said \[object Object\]\n/);
  });

  test("`show` of a failed task has the stack, the causes, and the command to reproduce it", () => {
    using list = temporary();
    list.add("refuse", "that");
    list.forrest("run", "list");
    const path = `list/fail/${list.ids("fail")[0]}.json`;
    const { stdout } = list.forrest("show", path);
    assert.match(stdout, /^RangeError: cannot do that\n +at refuse .*tasks\.ts:6:/m);
    assert.match(stdout, /^Caused by: Error: too hard$/m);
    assert.ok(stdout.includes(`exec ${path} --raise\n`));
  });

  test("`show` and `list` cut what is long, and `--full` shows all", () => {
    using list = temporary();
    list.add("long", "1");
    list.add("print", "100");
    list.forrest("run", "list");
    const [print, long] = list.ids("done").sort((a) => a.startsWith("100") ? -1 : 1);
    const cut = list.forrest("show", "list", long).stdout;
    assert.ok(cut.length < 1000);
    assert.match(cut, /^value: "long .*…$/m);
    assert.ok(list.forrest("show", "list", long, "--full").stdout.includes("long ".repeat(1000)));
    assert.match(list.forrest("list", "list", long).stdout, /…\n$/);
    assert.ok(list.forrest("list", "list", long, "--full").stdout.length > 5000);
    const printed = list.forrest("show", "list", print).stdout;
    assert.match(printed, /It printed:\n\.\.\. 80 more lines: `--full` shows all\nline 80\n/);
    assert.match(printed, /line 99\n/);
    assert.match(list.forrest("show", "list", print, "--full").stdout, /line 0\nline 1\n/);
  });

  test("`show` and `list` get along with a file that is no task", () => {
    using list = temporary();
    list.add("double", "1");
    for (
      const [name, text] of [["empty", ""], ["cut", '{"steps": ['], ["list", "[]"], [
        "odd",
        '{"steps":3}',
      ]]
    ) {
      writeFileSync(list.file(`list/todo/${name}.json`), text);
    }
    assert.equal(list.forrest("list", "list").stdout.split("\n").length, 6);
    for (const id of ["empty", "cut", "list", "odd"]) {
      assert.equal(list.forrest("show", "list", id).code, 0);
    }
    assert.match(list.forrest("show", "list", "cut").stdout, /Cannot read the task: /);
  });

  test("`logs` prints what tasks have printed, and when they ended, of all or of one", () => {
    using list = temporary();
    list.add("talk", "this", "that");
    assert.match(list.forrest("logs", "list").stderr, /There is no log `list\/log.txt`/);
    list.forrest("run", "list");
    const all = list.forrest("logs", "list").stdout;
    assert.match(all, /^20\S+Z this-\w+ \| said this$/m);
    assert.match(all, /^20\S+Z that-\w+ .*done/m);
    const id = list.ids("done").find((id) => id.startsWith("this"))!;
    const one = list.forrest("logs", "list", id).stdout;
    assert.match(one, /whispered this/);
    assert.doesNotMatch(one, /that/);
    assert.equal(list.forrest("logs", "list", "thsi").code, 2);
  });

  test("`logs` of a task has what its process printed while it held several", () => {
    using list = temporary();
    list.add("talkTwice", "this", "that");
    list.forrest("run", "list", "-j1", "--concurrency", "2");
    for (const id of list.ids("done")) {
      const { stdout } = list.forrest("logs", "list", id);
      assert.match(stdout, new RegExp(`begun ${id.slice(0, 4)}$`, "m"));
      assert.match(list.forrest("show", "list", id).stdout, /It printed:\n(.*\n)*begun/);
    }
  });

  test("`list` and `show` show tasks that are none", () => {
    using list = temporary();
    list.add("double", "1");
    const steps = { null: [null], args: [{ call: "Math.sqrt", args: 5 }], number: [7] };
    for (const [id, value] of Object.entries(steps)) {
      list.write(`list/todo/${id}.json`, JSON.stringify({ steps: value }));
    }
    const { code, stdout, stderr } = list.forrest("list", "list");
    assert.deepEqual([code, stderr, stdout.trim().split("\n").length], [0, "", 4]);
    assert.match(stdout, /args .*\{ call: "Math.sqrt", args: 5 \}/);
    list.forrest("run", "list");
    for (const id of Object.keys(steps)) {
      const shown = list.forrest("show", "list", id);
      assert.deepEqual([shown.code, shown.stderr], [0, ""]);
      assert.match(shown.stdout, /TypeError: Cannot run the task/);
    }
  });

  test("`logs` tells ids apart of which one begins with the other", () => {
    using list = temporary();
    list.add("talk", "one");
    const [id] = list.ids("todo");
    renameSync(list.file(`list/todo/${id}.json`), list.file("list/todo/a.json"));
    list.add("talk", "two");
    renameSync(
      list.file(`list/todo/${list.ids("todo").find((i) => i !== "a")}.json`),
      list.file("list/todo/a b.json"),
    );
    list.forrest("run", "list", "-j1");
    assert.match(list.forrest("logs", "list", "a").stdout, /said one/);
    assert.doesNotMatch(list.forrest("logs", "list", "a").stdout, /two|a b/);
    assert.match(list.forrest("logs", "list", "a b").stdout, /said two/);
  });

  test("`show` prints typed arrays as code that makes them", () => {
    using list = temporary();
    const value = { $float64array: Buffer.from(Float64Array.of(1.5, 2).buffer).toString("base64") };
    list.write("list/todo/a.json", JSON.stringify({ steps: [{ value }] }));
    const { stdout } = list.forrest("show", "list/todo/a.json");
    const code = /new Float64Array\(.*\)/.exec(stdout)![0];
    assert.deepEqual(new Function(`return ${code}`)(), Float64Array.of(1.5, 2));
  });

  // --------------------------------------------------------------------------------- changing

  test("`retry` moves failed tasks back: all, or those named", () => {
    using list = temporary();
    list.add("refuse", ..."abc");
    list.forrest("run", "list");
    const [first] = list.ids("fail");
    assert.match(
      list.forrest("retry", "list", first).stdout,
      /^1 task moved from `fail` back to `todo`/,
    );
    assert.deepEqual(list.ids("todo"), [first]);
    const wrong = list.forrest("retry", "list", first);
    assert.equal(wrong.code, 2);
    assert.match(wrong.stderr, /has not failed: it is in `todo`/);
    assert.match(list.forrest("retry", "list").stdout, /^2 tasks moved/);
    assert.equal(list.forrest("retry", "list").stdout, "No task has failed\n");
  });

  test("`clean` removes tasks of the states named, and all only with `--yes`", () => {
    using list = temporary();
    list.add("refuseOdd", ..."1234");
    list.forrest("run", "list");
    list.add("double", "1");
    assert.equal(list.forrest("clean", "list", "--done").stdout, "Removed from `list`: 2 done\n");
    const asked = list.forrest("clean", "list");
    assert.equal(asked.code, 2);
    assert.match(
      asked.stderr,
      /Remove all tasks of `list` \(1 todo, 0 done, 2 fail\)\? Say so with `--yes`/,
    );
    assert.equal(list.count("fail"), 2);
    assert.equal(list.forrest("clean", "list", "--yes").code, 0);
    assert.match(list.forrest("status", "list").stdout, /^todo +0\nrunning +0\ndone +0\nfail +0\n/);
  });

  test("`reset` refuses while tasks run, and removes nothing", async () => {
    using list = temporary();
    list.add("mark", "marker");
    list.add("double", "z"); // which comes after the other
    list.start("run", "list", "-j", "1");
    await list.until(() => existsSync(list.file("marker")));
    const { code, stderr } = list.forrest("reset", "list", "--yes");
    assert.match(stderr, /Nothing is removed, as 1 task of `list` is running: stop that run/);
    assert.equal(code, 1);
    assert.equal(list.count("todo"), 1);
  });

  test("`exec` does not write an outcome over a task", () => {
    using list = temporary();
    list.add("double", "1", "2");
    const paths = list.ids("todo").map((id) => `list/todo/${id}.json`);
    const { code, stderr } = list.forrest("exec", ...paths);
    assert.match(stderr, /`list\/todo\/2-\w+.json` is the place of a task: one task at a time/);
    assert.equal(code, 2);
    assert.equal(
      list.forrest("run", "list", "--json").stdout.match(/"returnValue":[24]/g)?.length,
      2,
    );
  });

  test("`show` tells what the last attempt has printed, and of a new task nothing", () => {
    using list = temporary();
    const words = ["add", "list", "--shell", "--", "cat {} >&2; false"];
    list.forrestWith("text\n", ...words);
    const [id] = list.ids("todo");
    for (const text of ["first", "second"]) {
      writeFileSync(list.file("text"), `${text}\n`);
      list.forrest("run", "list");
      list.forrest("retry", "list");
    }
    assert.match(list.forrest("show", "list", id).stdout, /It printed:\nsecond$/m);
    list.forrest("clean", "list", "--todo");
    list.forrestWith("text\n", ...words);
    assert.doesNotMatch(list.forrest("show", "list", id).stdout, /It printed/);
  });

  test("`list` and `show` show what is no value, and a list whose name ends like that of a task", () => {
    using list = temporary();
    const steps = [{ value: { $regexp: 5 } }];
    const failed = [{ $error: null }, { $error: { stack: "x" } }, { $step: 0, path: "x" }];
    for (const [index, errorValue] of failed.entries()) {
      list.write(`a.json/fail/${index}.json`, JSON.stringify({ steps, errorValue }));
    }
    list.write("a.json/todo/a.json", JSON.stringify({ steps }));
    const { code, stdout, stderr } = list.forrest("list", "a.json");
    assert.deepEqual([code, stderr], [0, ""]);
    assert.equal(stdout.match(/^(todo|fail) /gm)?.length, 4);
    assert.match(stdout, /^todo .*\{ \$regexp: 5 \}$/m);
    for (const id of ["0", "1", "2", "a"]) assert.equal(list.forrest("show", "a.json", id).code, 0);
  });

  test("`list` and `show` take a task that lies in no list", () => {
    using list = temporary();
    list.add("double", "1");
    renameSync(list.file(`list/todo/${list.ids("todo")[0]}.json`), list.file("1.json"));
    for (const path of ["1.json", "./1.json"]) {
      assert.match(list.forrest("list", path).stdout, /^ +1 .* double\("1"\)$/m);
      assert.match(list.forrest("show", path).stdout, /double\("1"\)/);
    }
  });

  test("a run that was suspended takes the outcomes that came meanwhile", async () => {
    using list = temporary();
    list.forrestWith("0.6\n", "add", "list", "--", "sleep");
    const run = list.start("run", "list", "--autokill", "2");
    await list.until(() => list.count("running") === 1);
    run.kill("SIGSTOP");
    await new Promise((resolve) => setTimeout(resolve, 2500));
    run.kill("SIGCONT");
    await list.until(() => list.count("running") === 0);
    assert.equal(list.count("done"), 1);
  });

  test("`add` takes what follows `--` for words of the program, and no options", () => {
    using list = temporary();
    list.forrestWith("x\n", "add", "list", "--", "echo", "--json=no", "--shell=no");
    assert.match(list.forrest("run", "list").stdout, /"--json=no --shell=no x\\n"/);
  });

  test("`add` refuses lines with a NUL, as of `find -print0`", () => {
    using list = temporary();
    const { code, stderr } = list.forrestWith("a\0b\0", "add", "list", "--", "echo");
    assert.match(stderr, /Line 1 has a NUL in it/);
    assert.equal(code, 2);
  });

  test("`reset` removes a list, only with `--yes` where it cannot ask, and leaves other files", () => {
    using list = temporary();
    list.add("double", "1", "2");
    list.forrest("run", "list");
    assert.equal(list.forrest("reset", "list").code, 2);
    assert.equal(list.count("done"), 2);
    assert.equal(list.forrest("reset", "list", "--yes").code, 0);
    assert.equal(existsSync(list.file("list")), false);
    list.add("double", "1");
    writeFileSync(list.file("list/notes.txt"), "");
    assert.match(
      list.forrest("reset", "list", "-y").stdout,
      /`list` stays, as it holds other things/,
    );
    assert.deepEqual(readdirSync(list.file("list")), ["notes.txt"]);
  });

  test("`report` writes a page, or a trace", () => {
    using list = temporary();
    list.add("refuseOdd", "1", "2");
    list.forrest("run", "list");
    assert.equal(list.forrest("report", "list").stdout, "Written: report.html\n");
    assert.match(list.read("report.html"), /^<!DOCTYPE html>[^]*cannot do 1/);
    list.forrest("report", "list", "-o", "page.html", "--trace", "trace.json");
    assert.equal(existsSync(list.file("page.html")), true);
    assert.equal(JSON.parse(list.read("trace.json")).traceEvents.length > 0, true);
  });

  // ------------------------------------------------------------------------------- a terminal

  const inTerminal = { skip: !isInstalled("tmux") && "there is no tmux on this machine" };

  for (const width of [60, 200]) {
    test(
      `on a terminal of ${width} columns a live line shows the progress below the output`,
      inTerminal,
      async () => {
        using list = temporary();
        list.add("talk", ..."abcdef");
        list.add("nap", "60");
        using screen = terminal(list, width);
        screen.type(`${list.command} run list -j2`);
        await list.until(() => /6\/7 done/.test(screen.text()));
        const lines = screen.text().trimEnd().split("\n");
        const live = lines.at(-1)!;
        assert.match(live, /^█+░* 6\/7 done, 0 failed, 1 running/);
        if (width === 200) assert.match(live, / · \S+ m?s left · \S+\/s · 60-\w+ runs for /);
        assert.ok(live.length < width);
        for (const word of "abcdef") assert.ok(lines.some((line) => line === `said ${word}`));
        screen.type("C-c");
        await list.until(() => /^To go on: /m.test(screen.text()));
        await list.until(() => {
          // again and again, as what is typed before a runtime resets the terminal may be lost
          screen.type("echo code $?");
          return /^code 130/m.test(screen.text());
        });
        const after = screen.text();
        for (const word of "abcdef") assert.match(after, new RegExp(`^said ${word}$`, "m"));
        assert.match(after, /^6 tasks in .*: 6 done, 0 failed, 1 waiting$/m);
        assert.match(after, /^Interrupted: nothing runs any more/m);
        assert.doesNotMatch(after, /[█░]/);
      },
    );
  }

  test("the live line survives a change of the width", inTerminal, async () => {
    using list = temporary();
    list.add("talk", "this");
    list.add("nap", "60");
    using screen = terminal(list, 180);
    screen.type(`${list.command} run list -j2`);
    await list.until(() => /runs for [2-9]/.test(screen.text()));
    screen.resize(50);
    await list.until(() => {
      const text = screen.text().trimEnd(); // of one moment: the terminal wraps the line before forrest hears of it
      const times = text.match(/1\/2 done/g)?.length ?? 0; // what was drawn meanwhile may remain above it, once
      const isOneLine = times > 0 && times <= 2 && /(^|\n)█+░* 1\/2 done[^\n]*$/.test(text);
      const last = text.split("\n").at(-1)!;
      return isOneLine && last.length < 50 && !/runs for/.test(last) && /^said this$/m.test(text);
    });
    screen.type("C-c");
  });

  for (const [setting, isColored] of [["", true], ["NO_COLOR=1 ", false]] as const) {
    const name = isColored
      ? "on a terminal states are colored"
      : "nothing is colored if `NO_COLOR` is set";
    test(name, inTerminal, async () => {
      using list = temporary();
      list.add("double", "1");
      list.forrest("run", "list");
      using screen = terminal(list, 80);
      screen.type(`${setting}${list.command} list list`);
      await list.until(() => /done +1-/.test(screen.text()));
      assert.equal(screen.text(true).includes("\x1b[32mdone"), isColored);
    });
  }

  for (
    const [answer, outcome, isLeft] of [["n", "Nothing was", true], [
      "y",
      "Removed",
      false,
    ]] as const
  ) {
    test(`\`reset\` asks on a terminal; the answer is ${answer}`, inTerminal, async () => {
      using list = temporary();
      list.add("double", "1");
      using screen = terminal(list, 80);
      screen.type(`${list.command} reset list`);
      await list.until(() => /\(1 todo, 0 running, 0 done, 0 fail\)\?/.test(screen.text()));
      screen.type(answer);
      await list.until(() => screen.text().includes(outcome));
      assert.equal(existsSync(list.file("list")), isLeft);
    });
  }
}

suite();
launcher = program ? [program] : source;
isExecutable = true;
if (program) suite();

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

// ------------------------------------------------------------------------------- what they need

function test(
  name: string,
  options: { skip: string | false } | (() => void | Promise<void>),
  run?: () => void | Promise<void>,
): void {
  const { skip } = typeof options === "function" ? { skip: false as const } : options;
  const [words, isOfExecutable] = [launcher, isExecutable];
  const title = isOfExecutable ? `${name} (executable, ${how})` : name;
  register(
    skip ? `${title} (skipped: ${skip})` : title,
    { timeout: 60_000, skip: !!skip },
    async () => {
      [launcher, isExecutable] = [words, isOfExecutable];
      await ((run ?? options) as () => void | Promise<void>)();
    },
  );
}

interface Result {
  code: number | null;
  stdout: string;
  stderr: string;
}

interface Started {
  process: ChildProcess;
  code: Promise<number | null>;
  stdout(): string;
  stderr(): string;
  kill(signal: string): void;
}

/** A project with a module of functions, in which the command is started. */
interface Project {
  /** The directory of the list that `add` fills. */
  name: string;
  /** The words that start the command, for a shell. */
  command: string;
  file(name: string): string;
  read(name: string): string;
  write(name: string, text: string): void;
  forrest(...words: string[]): Result;
  /** The same, with something on its standard input. */
  forrestWith(input: string, ...words: string[]): Result;
  shell(line: string): Result;
  start(...words: string[]): Started;
  /** Adds a task that calls a function of the module for each line. */
  add(name: string, ...lines: string[]): Result;
  ids(state: string): string[];
  count(state: string): number;
  // deno-lint-ignore no-explicit-any
  task(state: string, id: string): any;
  until(isReached: () => boolean): Promise<void>;
  [Symbol.dispose](): void;
}

function temporary(name = "list"): Project {
  const path = realpathSync(mkdtempSync(join(tmpdir(), "forrest-cli-")));
  const file = (name: string) => join(path, name);
  const [command, ...first] = launcher;
  const options = { cwd: path, encoding: "utf8", timeout: 50_000, env: environment() } as const;
  const result = ({ status, stdout, stderr }: ReturnType<typeof spawnSync>): Result => ({
    code: status,
    stdout: `${stdout}`,
    stderr: uncolored(`${stderr}`),
  });
  const forrestWith = (input: string, ...words: string[]) =>
    result(spawnSync(command, [...first, ...words], { ...options, input }));
  const ids = (state: string) =>
    readdirSync(file(`${name}/${state}`)).sort().map((entry) => entry.replace(/\.json(@.*)?$/, ""));
  const started: ChildProcess[] = [];
  writeFileSync(file("tasks.ts"), TASKS);
  return {
    name,
    command: launcher.join(" "),
    file,
    read: (name) => readFileSync(file(name), "utf8"),
    write(name, text) {
      mkdirSync(dirname(file(name)), { recursive: true });
      writeFileSync(file(name), text);
    },
    forrest: (...words) => forrestWith("", ...words),
    forrestWith,
    shell(line) {
      writeFileSync(file("line.sh"), line); // as Deno rewrites its own name in what follows `sh -c`
      return result(spawnSync("sh", ["line.sh"], options));
    },
    start(...words) {
      const child = spawn(command, [...first, ...words], { ...options, detached: true });
      started.push(child);
      let [stdout, stderr] = ["", ""];
      child.stdout!.on("data", (text) => stdout += text);
      child.stderr!.on("data", (text) => stderr += text);
      const code = new Promise<number | null>((resolve) => child.on("close", resolve));
      // Deno takes a process that was told to end with `child.kill()` for one that a signal has killed
      const kill = (signal: string) => void process.kill(child.pid!, signal);
      return { process: child, code, stdout: () => stdout, stderr: () => stderr, kill };
    },
    add: (call, ...lines) =>
      forrestWith(lines.map((line) => `${line}\n`).join(""), "add", name, `./tasks.ts#${call}`),
    ids,
    count: (state) => ids(state).length,
    task: (state, id) => JSON.parse(readFileSync(file(`${name}/${state}/${id}.json`), "utf8")),
    async until(isReached) {
      for (let i = 0; i < 400; i++) {
        if (isReached()) return;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      throw new Error(`It did not happen within 40 s: ${isReached}`);
    },
    [Symbol.dispose]() {
      for (const child of started) killGroup(child);
      rmSync(path, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** Ends what a test has started, if it is still there; each was started in a group of its own. */
function killGroup({ pid, exitCode, signalCode }: ChildProcess): void {
  if (!pid || exitCode !== null || signalCode !== null) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch { /* it has just ended */ }
}

/** The environment, without what would change what the command prints. */
function environment(): Record<string, string> {
  const { NO_COLOR: _no, FORCE_COLOR: _force, FORREST_TASKS: _tasks, ...others } = process.env;
  return others as Record<string, string>;
}

/** Without the colors in which Deno prints what nobody has caught, also where no terminal is. */
function uncolored(text: string): string {
  const [first, ...parts] = text.split("\x1b");
  const isUncaught = /Uncaught/.test(text);
  return isUncaught
    ? [first, ...parts.map((part) => part.replace(/^\[[\d;]*m/, ""))].join("")
    : text;
}

function isInstalled(program: string): boolean {
  return spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;
}

interface Terminal {
  type(text: string): void;
  resize(width: number): void;
  /** What it shows, with what has scrolled out of it. */
  text(withColors?: boolean): string;
  [Symbol.dispose](): void;
}

/** A real terminal, with a shell in the directory of the project. */
function terminal(list: Project, width: number): Terminal {
  const socket = list.file("tmux");
  const tmux = (...words: string[]) =>
    spawnSync("tmux", ["-f", "/dev/null", "-S", socket, ...words], {
      encoding: "utf8",
      env: { ...environment(), TERM: "xterm-256color", LC_ALL: "C.UTF-8", PS1: "$ " },
    }).stdout;
  tmux("-u", "new-session", "-d", "-x", `${width}`, "-y", "50", "-c", list.file("."), "sh");
  for (let tries = 0; tries < 100; tries++) { // what is typed before its prompt would be mixed with it
    if (tmux("capture-pane", "-p").trim()) break;
    spawnSync("sleep", ["0.1"]);
  }
  return {
    type: (text) =>
      void (text === "C-c" ? tmux("send-keys", text) : tmux("send-keys", "-l", `${text}\n`)),
    resize: (width) => void tmux("resize-window", "-x", `${width}`),
    text: (withColors) => tmux("capture-pane", "-p", ...(withColors ? ["-e"] : []), "-S", "-"),
    [Symbol.dispose]: () => void tmux("kill-server"),
  };
}

/**
 * What a person sees who runs a list with the command, and who asks it for help.
 *
 * @module
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { eachWay, environment, project, runtime, temporary, test } from "./cli_helpers.ts";

eachWay((isExecutable) => {
  // ---------------------------------------------------------------------------------------- help

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
      "run exec add status list show logs retry clean reset report completions help",
    );
    for (const name of names.slice(0, -1)) {
      const { code, stdout } = list.forrest(name, "-h");
      assert.equal(code, 0);
      assert.match(stdout, new RegExp(`^Usage: forrest ${name} `));
      assert.match(stdout, new RegExp(`\nExample:\n {2}.*forrest ${name}`));
      const lines = stdout.split("\n");
      assert.ok(lines.length <= 36, `${name} has ${lines.length} lines`);
      for (const line of lines) assert.ok(line.length <= 80, line);
    }
    assert.equal(list.forrest("help", "run").stdout, list.forrest("run", "--help").stdout);
    assert.match(list.forrest("run", "-h").stdout, /--retries N .*\[default: 0\]/);
  });

  test("an unknown command, option or task is refused, with the valid word that is near", () => {
    using list = temporary();
    list.add("double", "pineapple");
    const [id] = list.ids("todo");
    const cases: [string[], RegExp][] = [
      [["rnu", "list"], /no command `rnu`; the nearest is `run`/],
      [["help", "lst"], /no command `lst`; the nearest is `list`/],
      [["hlep"], /no command `hlep`; the nearest is `help`\n/],
      [["toString"], /no command `toString`\n/],
      [["run", "list", "--retires=2"], /no option `--retires`; the nearest is `--retries`/],
      [["run", "list", "--tasks=2"], /no option `--tasks`; the nearest is `--tasks-per-process`/],
      [["run", "list", "--jbos", "2"], /no option `--jbos`; the nearest is `--jobs`/],
      [["run", "list", "--load", "2"], /no option `--load`\n/],
      [["run", "list", "--halt=2"], /no option `--halt`\n/],
      [["run", "list", "-u"], /no option `-u`\n/],
      [["retry", "list", "nosuch"], /There is no task `nosuch` in `list`\n/],
      [["show", "list", ""], /There is no task `` in `list`\n/],
      [["show", "list", "pineaple"], /no task `pineaple`; the nearest is `pineapple` in `list`/],
      [["show", "list", id.slice(0, -1)], new RegExp(`the nearest is \`${id}\` in \`list\``)],
      [["list", "list", "--where", "failed"], /no state `failed`; the nearest is `fail`\n/],
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
    for (
      const [words, message] of [
        [["tasks.ts", "tasks.ts#double"], /`tasks\.ts` is a file/],
        [["list", "tasks.ts#double", "."], /`\.` is a directory, and no file of lines/],
      ] as const
    ) {
      const { code, stderr } = list.forrest("add", ...words);
      assert.match(stderr, message);
      assert.equal(code, 2);
    }
    assert.deepEqual(readdirSync(list.file(".")), ["tasks.ts"], "nothing was made");
  });

  // ----------------------------------------------------------------------------------------- run

  test("`run` prints a line for each task and a summary, and succeeds if all are done", () => {
    using list = temporary();
    list.add("double", "1", "2", "3");
    const { code, stdout, stderr } = list.forrest("run", "list", "-j", "2");
    assert.deepEqual([code, stderr], [0, ""]);
    const lines = stdout.trim().split("\n");
    assert.equal(lines.length, 4);
    assert.match(lines.slice(0, 3).sort()[1], /^done +2 +[\d.]+ m?s +4$/);
    assert.match(lines[3], /^3 tasks in [\d.]+ m?s: 3 done, 0 failed$/);
    assert.equal(list.count("done"), 3);
  });

  test("`run` with a failed task exits with 1, and names the command that reproduces the first", () => {
    using list = temporary("a list, it's");
    list.add("refuseOdd", "1", "2");
    const { code, stdout, stderr } = list.forrest("run", list.name, "-j1");
    assert.equal(code, 1);
    assert.match(stdout, /^fail +1 .* RangeError: cannot do 1$/m);
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

  test("`run` knows `--jobs` of GNU parallel and `--timeout` of coreutils", () => {
    using list = temporary();
    list.add("nap", "60");
    const { stdout } = list.forrest("run", "list", "--jobs=1", "--timeout", "0.5");
    assert.match(stdout, /^fail .* TimeoutError: .* 0\.5 s/m);
    const none = list.forrest("run", "list", "--jobs", "0");
    assert.match(none.stderr, /Expected `--processes` to be a whole number from 1 up, got `0`/);
    assert.equal(none.code, 2);
  });

  test("`run --max-failures` gives up, leaves the rest, and says so", () => {
    using list = temporary();
    list.add("refuse", ..."abcdef");
    const { code, stderr } = list.forrest("run", "list", "-j1", "--max-failures", "1");
    assert.equal(code, 1);
    assert.match(
      stderr,
      /Stopped after 2 failures .*`--max-failures 1`.*: tasks left in `todo`: 4/,
    );
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
    assert.match(list.read("other.txt"), /Z 0000001-this-\w+ \| said this\n/);
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

  test("a run that was suspended takes the outcomes that came meanwhile", async () => {
    using list = temporary();
    list.forrestWith(
      "begun\n",
      "add",
      "list",
      "--shell",
      "--",
      "touch {} && sleep 0.6 && touch over",
    );
    const run = list.start("run", "list", "--autokill", "2");
    await list.until(() => existsSync(list.file("begun")));
    run.kill("SIGSTOP");
    await list.until(() => existsSync(list.file("over")));
    await new Promise((resolve) => setTimeout(resolve, 2500)); // until its time is over, too
    run.kill("SIGCONT");
    await list.until(() => list.count("running") === 0);
    assert.equal(list.count("done"), 1);
  });
});

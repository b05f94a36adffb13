/**
 * What a person sees who looks at a list with the command, and who changes it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { existsSync, mkdirSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { eachWay, killGroup, temporary, test } from "./cli_helpers.ts";

eachWay(() => {
  // ------------------------------------------------------------------------------------- looking

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

  test("`status` gives no time while little more waits than what runs, whose end nobody knows", async () => {
    using list = temporary();
    list.add("double", ..."123456");
    list.forrest("run", "list", "--tasks-per-process", "6");
    list.add("mark", list.file("begun"));
    const run = list.start("run", "list");
    await list.until(() => existsSync(list.file("begun")));
    assert.match(list.forrest("status", "list").stdout, /last minute, \? left$/m);
    run.kill("SIGTERM");
    await run.code;
  });

  test("`status` says that a run has died, and what takes over, and changes nothing", async () => {
    using list = temporary();
    list.add("mark", list.file("begun"));
    list.add("double", "1", "2");
    const run = list.start("run", "list", "-j", "1");
    await list.until(() => existsSync(list.file("begun")));
    assert.match(list.forrest("status", "list").stdout, /^running +1$/m);
    const others = list.file("list/running/other.json@elsewhere.1.2.3");
    writeFileSync(others, JSON.stringify({ steps: [{ value: 3 }] })); // nobody here knows of that
    killGroup(run.process);
    await run.code;
    const before = readdirSync(list.file("list/running"));
    assert.equal(before.length, 2);
    const { code, stdout } = list.forrest("status", "list");
    assert.match(
      stdout,
      /^running +2 {2}\(1 left by a run that has died: `.* run list` takes over\)$/m,
    );
    const watch = list.start("status", "list", "--watch");
    const line =
      /, 2 running, .* fail {2}\(1 left by a run that has died: `.* run list` takes over\)$/m;
    await list.until(() => line.test(watch.stdout()));
    assert.deepEqual(readdirSync(list.file("list/running")), before);
    assert.equal(code, 0);
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
    assert.match(waiting, /^todo +1 +refuseOdd\("1"\)\ntodo +2 +refuseOdd\("2"\)\n$/);
    list.forrest("run", "list");
    const [done, fail] = [
      list.forrest("list", "list", "done"),
      list.forrest("list", "list", "fail"),
    ];
    assert.match(done.stdout, /^done +2 +[\d.]+ m?s +"even"\n$/);
    assert.match(fail.stdout, /^fail +1 +[\d.]+ m?s +RangeError: cannot do 1\n$/);
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

  test("`show` of a program that failed has what it printed once", () => {
    using list = temporary();
    const lines = "seq 1000 1009; seq 2000 2009 >&2; exit 3"; // all of it is in the error
    const many = "echo out; seq 3000 3999 >&2; exit 3"; // the end of it is
    for (const script of [lines, many]) {
      list.forrestWith("x\n", "add", "list", "--", "sh", "-c", script);
    }
    list.forrest("run", "list");
    const times = (text: string, part: string) => text.split(part).length - 1;
    const shown = list.ids("fail").map((id) => list.forrest("show", "list", id, "--full").stdout);
    const [few, all] = shown.sort((a, b) => a.length - b.length);
    for (const text of [few, all]) {
      assert.match(text, /^command\(\["sh", "-c", ".*", "x"\]\);$/m);
      assert.match(text, /^Error: `sh -c .*` exited with code 3\n/m);
      assert.equal(times(text, "rinted:\n"), 1);
    }
    assert.deepEqual(["1000\n", "1009\n", "2000\n", "2009\n"].map((n) => times(few, n)), [
      1,
      1,
      1,
      1,
    ]);
    assert.deepEqual(["3000\n", "3500\n", "3999\n"].map((n) => times(all, n)), [1, 1, 1]);
    list.forrestWith("y\n", "add", "list", "--shell", "--", "true");
    const [id] = list.ids("todo");
    assert.match(
      list.forrest("show", "list", id).stdout,
      /command\(.*, \{ shell: true \}\);$/m,
    );
  });

  test("`show` and `list` cut what is long, and `--full` shows all", () => {
    using list = temporary();
    list.add("long", "1");
    list.add("print", "100");
    list.forrest("run", "list");
    const [long, print] = list.ids("done");
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
    assert.match(all, /^20\S+Z 0000001-this-\w+ \| said this$/m);
    assert.match(all, /^20\S+Z 0000002-that-\w+ .*done/m);
    const id = list.ids("done").find((id) => id.includes("this"))!;
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
      assert.match(stdout, new RegExp(`begun ${id.split("-")[1]}$`, "m"));
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

  test("`logs` and `show` know the lines of a task that was scheduled, started and tried again", () => {
    using list = temporary();
    const task = { steps: [{ value: 1 }], started: "2026-01-01T00:00:03.000Z", returnValue: 1 };
    const line = (second: number, text: string) => `2026-01-01T00:00:0${second}.000Z ${text}\n`;
    const own = [
      line(0, "a is scheduled"),
      line(1, "a is started"),
      line(1, "a | first try"),
      line(1, "a has failed, and will be retried"),
      line(2, "a is started"),
      line(2, "a | loaded | slowly"), // before its first step is started
      line(3, "a,b | second try"),
      line(4, "a is in `done`"),
    ];
    const others = [line(0, "b is scheduled"), line(2, "b is started"), line(3, "a b | no")];
    list.write("list/todo/b.json", JSON.stringify({ steps: [{ value: 2 }] }));
    list.write("list/done/a.json", JSON.stringify(task));
    list.write("list/running/c.json@host.1.2.3", JSON.stringify({ steps: [{ value: 3 }] }));
    const running = [line(5, "c is started"), line(5, "c | old"), line(6, "c is started")];
    list.write("list/log.txt", [...own, ...others, ...running, line(7, "c | new")].join(""));
    mkdirSync(list.file("list/fail"));
    assert.equal(list.forrest("logs", "list", "a").stdout, own.join(""));
    const shown = list.forrest("show", "list", "a").stdout;
    assert.match(shown, /It printed:\nloaded \| slowly\nsecond try\n$/);
    assert.doesNotMatch(list.forrest("show", "list", "b").stdout, /It printed/);
    assert.match(list.forrest("show", "list", "c").stdout, /It printed:\nnew\n$/);
    assert.equal(list.forrest("report", "list", "-o", "page.html").code, 0);
  });

  test("`show` prints typed arrays as code that makes them", () => {
    using list = temporary();
    const value = { $float64array: Buffer.from(Float64Array.of(1.5, 2).buffer).toString("base64") };
    list.write("list/todo/a.json", JSON.stringify({ steps: [{ value }] }));
    const { stdout } = list.forrest("show", "list/todo/a.json");
    const code = /new Float64Array\(.*\)/.exec(stdout)![0];
    assert.deepEqual(new Function(`return ${code}`)(), Float64Array.of(1.5, 2));
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

  // ------------------------------------------------------------------------------------ changing

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
});

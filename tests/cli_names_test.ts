/**
 * How the command calls tasks, how they are chosen, and in which order and where they run.
 *
 * @module
 */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { eachWay, killGroup, temporary, test } from "./cli_helpers.ts";

eachWay(() => {
  test("a task that was added is called by its line everywhere, and found by it", () => {
    using list = temporary();
    const line = "folder/two words.txt?x=1";
    list.add("refuse", line);
    assert.match(list.forrest("list", "list").stdout, /^todo +folder\/two words\.txt\?x=1 /);
    const run = list.forrest("run", "list", line);
    assert.match(run.stdout, /^fail +folder\/two words\.txt\?x=1 .* RangeError: cannot do folder/);
    assert.match(run.stderr, /^ {2}1 x RangeError: cannot do folder\/two words\.txt\?x=1$/m);
    const [id] = list.ids("fail");
    assert.match(id, /^0000001-folder_two_words\.txt_x=1-[0-9a-f]{12}$/);
    const shown = list.forrest("show", "list", line).stdout;
    assert.ok(shown.startsWith(`${line}\nlist/fail/${id}.json\nfail, `), shown);
    assert.equal(list.forrest("show", "list", id).stdout, shown);
    assert.match(list.forrest("logs", "list", line).stdout, /is in `fail`$/m);
    const exec = list.forrest("exec", "list", line);
    assert.ok(exec.stderr.startsWith(`${line}: RangeError: cannot do `), exec.stderr);
    assert.equal(exec.code, 1);
    assert.match(list.forrest("exec", "list", id, "--raise").stderr, /RangeError.*: cannot do /);
    assert.match(list.forrest("retry", "list", line).stdout, /^1 task moved/);
    assert.deepEqual(list.ids("todo"), [id]);
  });

  test("what follows `--` names tasks as well, also those whose line begins with a dash", () => {
    using list = temporary();
    list.add("double", "-n", "--help", "7");
    for (const command of ["run", "list", "retry"]) {
      const { code, stderr } = list.forrest(command, "list", "--", "nosuch");
      assert.match(stderr, /nosuch/);
      assert.equal(code, 2, command);
    }
    assert.match(list.forrest("show", "list", "--", "-n").stdout, /^-n\nlist\/todo\/0000001-/);
    assert.match(list.forrest("run", "list", "--", "--help").stdout, /^done +--help /);
    assert.deepEqual(list.ids("todo").length, 2);
    const clean = list.forrest("clean", "list", "--todo", "--", "7");
    assert.deepEqual([clean.code, list.ids("todo").length], [2, 2]);
  });

  test("a task with a line of any length fails like any other", () => {
    using list = temporary();
    list.add("refuse", "z".repeat(200_000));
    const { code, stderr } = list.forrest("run", "list");
    assert.match(stderr, /^ {2}1 x RangeError: cannot do z+/m);
    assert.equal(code, 1);
    assert.equal(list.forrest("report", "list").code, 0);
  });

  test("of a line with several tasks, one is to be said by its id", () => {
    using list = temporary();
    list.add("double", "7");
    list.add("refuse", "7");
    const [double, refuse] = list.ids("todo");
    const { code, stderr } = list.forrest("show", "list", "7");
    assert.match(stderr, /`7` is the line of several tasks: say which, /);
    assert.ok(stderr.includes(`\`${double}\`, \`${refuse}\``), stderr);
    assert.equal(code, 2);
    assert.equal(list.forrest("list", "list", "7").stdout.split("\n").length, 3);
  });

  test("tasks run in the order of their lines, also those that are added later", () => {
    using list = temporary();
    const lines = ["z", "b", "漢字", ...Array.from({ length: 10 }, (_, i) => `${9 - i}`)];
    list.add("talk", ...lines);
    assert.match(list.add("talk", "new", ...lines).stdout, /^1 task added to `list`; 13 there/);
    list.add("talk", "a");
    const { stdout } = list.forrest("run", "list", "-j1", "--tasks-per-process", "100");
    const order = [...stdout.matchAll(/^done +(\S+)/gm)].map(([, line]) => line);
    assert.deepEqual(order, [...lines, "new", "a"]);
    assert.match(list.add("talk", ...lines).stdout, /^0 tasks added to `list`; 13 there/);
  });

  test("the same lines that are added twice at the same time are there once", async () => {
    using list = temporary();
    list.write("lines", Array.from({ length: 300 }, (_, i) => `${i}\n`).join(""));
    const words = ["add", "list", "lines", "--", "echo"];
    const adding = [list.start(...words), list.start(...words), list.start(...words)];
    for (const { code } of adding) assert.equal(await code, 0);
    const digests = list.ids("todo").map((id) => id.slice(-12));
    assert.equal(digests.length, 300);
    assert.equal(new Set(digests).size, 300);
  });

  test("`list --json` prints an object for each task", () => {
    using list = temporary();
    list.add("refuseOdd", "1", "2", "4");
    list.write(
      "list/todo/hand.json",
      JSON.stringify({ steps: [{ value: 7 }], metadata: { a: 1 } }),
    );
    list.forrest("run", "list");
    const read = (...words: string[]) =>
      list.forrest("list", "list", "--json", ...words).stdout.trim().split("\n").map((line) =>
        JSON.parse(line)
      );
    const [two, four, hand] = read("done");
    assert.deepEqual([two.line, two.returnValue, two.attempts], ["2", "even", 1]);
    assert.deepEqual([four.state, four.path], ["done", `list/done/${four.id}.json`]);
    assert.deepEqual([hand.id, hand.metadata, hand.returnValue], ["hand", { a: 1 }, 7]);
    const [failed] = read("--where", "fail");
    assert.equal(failed.errorValue.$error.message, "cannot do 1");
    assert.ok(Date.parse(failed.started) > 0 && failed.runtime >= 0);
    assert.equal(read().length, 4);
  });

  test("`--where` and `--match` choose by state, error, value and line in `list`, `retry` and `run`", () => {
    using list = temporary();
    list.add("refuse", "one", "two", "three");
    list.add("double", "1", "2");
    list.forrest("run", "list");
    const chosen = (...words: string[]) =>
      [...list.forrest("list", "list", ...words).stdout.matchAll(/^\w+ +(\S+)/gm)]
        .map(([, line]) => line).join(" ");
    assert.equal(chosen("--match", "too hard", "--where", "fail"), "one two three");
    assert.equal(chosen("--match", "cannot do t"), "two three");
    assert.equal(chosen("--match", "4"), "2");
    assert.equal(chosen("one", "2", "--where", "done"), "2");
    assert.equal(chosen("--match", "nothing has this"), "");
    const retried = list.forrest("retry", "list", "--match", "do two");
    assert.match(retried.stdout, /^1 task moved/);
    assert.equal(chosen("todo"), "two");
    const run = list.forrest("run", "list", "--where", "fail", "--match", "three");
    assert.match(run.stdout, /^fail +three .*\n1 task in .*, 1 waiting$/m);
    assert.equal(list.task("fail", list.ids("fail")[1]).attempts, 2);
    const none = list.forrest("run", "list", "--match", "nothing has this");
    assert.deepEqual([none.code, none.stdout], [0, "Nothing to do: no task is chosen\n"]);
    const quiet = list.forrest("run", "list", "--match", "nothing has this", "--quiet", "--json");
    assert.deepEqual([quiet.code, quiet.stdout, quiet.stderr], [0, "", ""]);
    const json = list.forrest("run", "list", "--match", "nothing has this", "--json");
    assert.deepEqual([json.stdout, json.stderr], ["", "Nothing to do: no task is chosen\n"]);
    const done = list.forrest("run", "list", "1");
    assert.match(done.stderr, /The task `0000004-1-\w+` cannot be run: it is in `done`/);
    assert.equal(done.code, 2);
  });

  test("a run without tasks names the command that retries earlier failures, as it is typed", () => {
    using list = temporary("a list");
    list.add("refuse", "that");
    list.forrest("run", list.name);
    const { code, stdout, stderr } = list.forrest("run", list.name);
    assert.deepEqual([code, stderr], [0, ""]);
    const [, command] = /^Nothing to do: .*, 1 failed before \(to let them run again: {2}(.*)\)$/m
      .exec(stdout)!;
    assert.match(list.shell(command).stdout, /^1 task moved/);
  });

  test("tasks run where they were added, whatever the place of the run", () => {
    using list = temporary("below/list");
    mkdirSync(list.file("below"));
    writeFileSync(list.file("below/one.txt"), "text");
    writeFileSync(list.file("below/lines"), "one.txt\n");
    const below = (line: string) => list.shell(`cd below && ${list.command} ${line}`);
    assert.equal(below("add list lines -- cat").code, 0);
    assert.equal(below("add list lines --shell -- 'pwd; cat {}'").code, 0);
    assert.match(below("add list lines -- cat").stdout, /^0 tasks added .*; 1 there already/);
    const { code, stdout } = list.forrest("run", list.name);
    assert.equal(code, 0);
    assert.match(stdout, /^done +one\.txt .* "text"$/m);
    assert.ok(stdout.includes(`${list.file("below")}\\ntext"`), stdout);
    writeFileSync(
      list.file("below/read.ts"),
      `import { readFileSync } from "node:fs";
       export const read = (path: string) => readFileSync(path, "utf8");`,
    );
    assert.equal(below("add list ./read.ts#read lines").code, 0);
    assert.match(list.forrest("run", list.name).stdout, /^done +one\.txt .* "text"$/m);
  });

  test("`add --dry-run` shows tasks as they would be run, and adds none", () => {
    using list = temporary();
    const lines = Array.from({ length: 12 }, (_, i) => `it's ${i}.x\n`).join("");
    const dry = list.forrestWith(lines, "add", "list", "--dry-run", "--", "echo", "{.}", "{#}");
    const rows = dry.stdout.split("\n");
    assert.equal(rows.length, 13);
    assert.equal(rows[1], "echo 'it'\\''s 1' 2");
    assert.deepEqual(rows.slice(10), [
      "... and 2 more",
      "Nothing was added: 12 tasks would be",
      "",
    ]);
    const call = list.forrestWith("[1, 2]\n", "add", "list", "tasks.ts#add", "--json", "--dry-run");
    assert.match(call.stdout, /^add\(1, 2\)\nNothing was added: 1 task would be\n$/);
    assert.equal(list.forrest("status", "list").code, 2);
  });

  test("`--colsep` gives the columns of a line to a function, or to `{1}`, `{2/}` and so on", () => {
    using list = temporary();
    const lines = "a b,/x/y.z\nc,d.e\n";
    list.forrestWith(
      lines,
      "add",
      "list",
      "--colsep",
      ",",
      "--",
      "echo",
      "{2/.}",
      "{1}",
      "{#} {2}",
    );
    const { stdout } = list.forrest("run", "list", "-j1");
    assert.match(stdout, /^done +a b,\/x\/y\.z .* "y a b 1 \/x\/y\.z\\n"$/m);
    assert.match(stdout, /^done +c,d\.e .* "d c 2 d\.e\\n"$/m);
    list.forrestWith("20\t22\n", "add", "list", "tasks.ts#add", "--colsep", "\\t");
    assert.match(list.forrest("run", "list").stdout, /"2022"$/m);
    const short = list.forrestWith("1,2\n3\n", "add", "list", "--colsep", ",", "--", "echo", "{2}");
    assert.match(short.stderr, /Line 2 has 1 column, and no \{2\}; before that, 1 task was added/);
    assert.equal(short.code, 2);
    const bad = list.forrestWith("1\n", "add", "list", "--colsep", "(", "--", "echo");
    assert.match(bad.stderr, /`--colsep`: .*regular expression/i);
    list.forrestWith("x\n", "add", "list", "--", "printf", "%s", "{2}");
    assert.match(list.forrest("list", "list", "todo").stdout, /printf %s '?\{2\}'? x$/m);
  });

  test("`show` tells of the tries before, each with its time and its error", () => {
    using list = temporary();
    list.add("refuseFirst", "file");
    list.forrest("run", "list", "--retries", "2");
    const { stdout } = list.forrest("show", "list", "file");
    assert.match(stdout, /^done, 2 attempts, started /m);
    assert.match(stdout, /^Tried before:\n {2}20\S+Z, ran \S+ m?s, Error: 503 of file$/m);
  });

  test("`run --follow` waits for what is added, until it is told to stop", async () => {
    using list = temporary();
    list.add("double", "1");
    const run = list.start("run", "list", "--follow");
    await list.until(() => /^done +1 /m.test(run.stdout()));
    list.add("double", "2", "3");
    await list.until(() => list.count("done") === 3);
    list.add("refuse", "that");
    await list.until(() => /^fail +that /m.test(run.stdout()));
    run.kill("SIGTERM");
    assert.equal(await run.code, 143);
    assert.match(run.stdout(), /^4 tasks in .*: 3 done, 1 failed$/m);
    assert.match(
      run.stderr(),
      /^Stopped by SIGTERM: nothing runs any more, 0 tasks are in `todo`/m,
    );
    killGroup(run.process);
    const both = list.forrest("run", "list", "--follow", "--match", "x");
    assert.match(both.stderr, /`--follow` runs all tasks: it takes no choice/);
    assert.equal(both.code, 2);
  });
});

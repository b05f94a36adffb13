/**
 * What the command prints of what tasks print: in a pipe, where nothing is written anew.
 *
 * @module
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { eachWay, isInstalled, type Project, temporary, test } from "./cli_helpers.ts";

/** How many tasks have printed their first line by now. */
function begun(list: Project): number {
  const log = list.file("list/log.txt");
  return existsSync(log) ? readFileSync(log, "utf8").split(" first of ").length - 1 : 0;
}

/** Runs two tasks that print at the same time, of which the second one ends first. */
async function runBoth(list: Project, ...options: string[]): Promise<string> {
  list.add("talkUntil", "one", "two");
  const run = list.start("run", "list", "-j2", ...options);
  await list.until(() => begun(list) === 2);
  list.write("two", "");
  const isTold = () => run.stdout().includes("done     two"); // in order, it is told after the first
  await list.until(() => options.includes("-k") ? list.count("done") === 1 : isTold());
  list.write("one", "");
  assert.equal(await run.code, 0);
  return run.stdout().replace(/ +\S+ m?s {2}undefined/g, "").replace(/^2 tasks .*\n/m, "");
}

eachWay(() => {
  test("what a task prints comes when it ends, and is not mixed with that of others", async () => {
    using list = temporary();
    const two = "first of two\nlast of two\ndone     two\n";
    assert.equal(await runBoth(list), `${two}first of one\nlast of one\ndone     one\n`);
  });

  test("`--keep-order` prints in the order of the list", async () => {
    using list = temporary();
    const [one, two] = ["one", "two"].map((name) =>
      `first of ${name}\nlast of ${name}\ndone     ${name}\n`
    );
    assert.equal(await runBoth(list, "-k"), one + two);
  });

  test("`--line-buffer` prints each line at once, and `--tag` the name of the task before it", async () => {
    using list = temporary();
    const printed = (await runBoth(list, "--line-buffer", "--tag")).split("\n");
    assert.deepEqual(printed.slice(0, 2).sort(), ["one\tfirst of one", "two\tfirst of two"]);
    assert.deepEqual(printed.slice(2), [
      "two\tlast of two",
      "done     two",
      "one\tlast of one",
      "done     one",
      "",
    ]);
  });

  test("`--line-buffer` and `--keep-order` cannot both be had", () => {
    using list = temporary();
    list.add("double", "1");
    const { code, stderr } = list.forrest("run", "list", "-k", "--line-buffer");
    assert.match(stderr, /`--line-buffer` prints at once, `--keep-order` in order: choose one/);
    assert.deepEqual([code, list.count("todo")], [2, 1]);
  });

  test("lines of a process that held several tasks are tagged as what they are", () => {
    using list = temporary();
    list.add("talkTwice", "this", "that");
    const { stdout } = list.forrest("run", "list", "-j1", "--concurrency", "2", "--tag");
    assert.match(stdout, /^this or 1 more\tbegun th(is|at)$/m);
  });

  test("what an interrupted task has printed is printed", async () => {
    using list = temporary();
    list.add("talkUntil", "never");
    const run = list.start("run", "list");
    await list.until(() => begun(list) === 1);
    run.kill("SIGTERM");
    assert.equal(await run.code, 143);
    assert.match(run.stdout(), /^first of never\n/);
  });

  test("tries are lines of their own, and failures come in groups, five at most", () => {
    using list = temporary();
    list.add("refuse", "a", "b", "a b");
    list.add("refuseFirst", "file");
    for (let code = 1; code < 7; code++) {
      list.forrestWith("x\ny\n", "add", "list", "--shell", "--", `exit ${code} #`);
    }
    const options = ["-j1", "--retries", "1", "--retry-delay", "0.1"];
    const { code, stdout, stderr } = list.forrest("run", "list", ...options);
    assert.equal(code, 1);
    assert.match(stdout, /^todo +file +\S+ m?s {2}retry 1 of 1 in 1\d\d ms: Error: 503 of file$/m);
    assert.match(stdout, /^done +file .* "accepted"$/m);
    const lines = stderr.trimEnd().split("\n");
    assert.match(lines[0], /^15 tasks have failed\. To run the first of each kind here/);
    assert.equal(lines[1], "  3 x RangeError: cannot do {}");
    assert.match(lines[2], /^ {6}\S.* exec list\/fail\/000000\d-(a|b|a_b)-\w+\.json --raise$/);
    assert.match(lines[3], /^ {2}2 x exit exited with code \d$/);
    assert.match(lines[11], /^ {2}and 2 more kinds: {2}.* list list fail$/);
    assert.match(lines[12], /^To let them run again: {2}.* retry list$/);
    assert.equal(lines.length, 13);
    const json = list.forrest("retry", "list") && list.forrest("run", "list", "--json", ...options);
    for (const line of json.stdout.trim().split("\n")) assert.equal(JSON.parse(line).state, "fail");
    assert.match(json.stderr, /^todo +a .* retry 1 of 1 in /m);
  });

  for (const shell of ["bash", "zsh", "fish"]) {
    const isThere = isInstalled(shell) ? false : `there is no ${shell} on this machine`;
    test(`\`completions ${shell}\` completes commands and options`, { skip: isThere }, () => {
      using list = temporary();
      const { code, stdout } = list.forrest("completions", shell);
      assert.equal(code, 0);
      list.write("script", stdout);
      const run = (script: string) =>
        spawnSync(shell, ["-c", script], { cwd: list.file("."), encoding: "utf8" }).stdout;
      if (shell === "zsh") {
        const mock = "compdef() { :; }; _arguments() { print -l -- $@; }; . ./script;";
        const words = run(`${mock} words=(forrest run --re); CURRENT=3; _forrest`);
        assert.match(words, /^--retries\[try a failed task again .*\]:N:_files$/m);
        return;
      }
      const complete = (line: string) =>
        shell === "fish"
          ? run(`source script; complete -C "forrest ${line}"`).replace(/\t.*/g, "")
          : run(`. ./script; COMP_WORDS=(forrest ${line}); COMP_CWORD=${line.split(" ").length}
              _forrest; printf '%s\n' "\${COMPREPLY[@]}"`);
      assert.equal(complete("ru"), "run\n");
      assert.equal(complete("run --re"), "--retries\n--retry-delay\n");
      assert.equal(complete("add list --colse"), "--colsep\n");
    });
  }

  test("`completions` of another shell are refused", () => {
    using list = temporary();
    assert.match(list.forrest("completions").stderr, /The shell is missing: bash, zsh, fish/);
    const { code, stderr } = list.forrest("completions", "bsh");
    assert.match(stderr, /There is no shell `bsh`; the nearest is `bash`/);
    assert.equal(code, 2);
  });
});

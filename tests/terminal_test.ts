/**
 * What a person sees who uses the command on a terminal.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import {
  eachWay,
  isInstalled,
  project,
  runtime,
  temporary,
  terminal,
  test,
} from "./cli_helpers.ts";

eachWay(() => {
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
        screen.type(`${list.command} run list -j2; echo code $?`);
        await list.until(() => /6\/7 done/.test(screen.text()));
        const lines = screen.text().trimEnd().split("\n");
        const live = lines.at(-1)!;
        assert.match(live, /^█+░* 6\/7 done, 0 failed, 1 running/);
        if (width === 200) assert.match(live, / · \S+ m?s left · \S+\/s · 60 runs for /);
        assert.ok(live.length < width);
        for (const word of "abcdef") assert.ok(lines.some((line) => line === `said ${word}`));
        screen.type("C-c");
        await list.until(() => /^To go on: /m.test(screen.text()));
        await list.until(() => /^code 130/m.test(screen.text()));
        const after = screen.text();
        for (const word of "abcdef") assert.match(after, new RegExp(`^said ${word}$`, "m"));
        assert.match(after, /^6 tasks in .*: 6 done, 0 failed, 1 waiting$/m);
        assert.match(after, /^Interrupted: nothing runs any more/m);
        assert.doesNotMatch(after, /[█░]/);
      },
    );
  }

  for (const width of [60, 200]) {
    test(
      `on a terminal of ${width} columns tries are said, and failures at the end by their kind`,
      inTerminal,
      async () => {
        using list = temporary();
        list.add("refuse", "one", "two");
        list.add("refuseFirst", "three");
        using screen = terminal(list, width);
        const options = "-j1 --retries 1 --retry-delay 4";
        screen.type(`${list.command} run list ${options}; echo code $?`);
        const bar = width === 200 ? /, 3 to be tried again · / : /░ 0\/3 done, 0 failed/;
        await list.until(() => bar.test(screen.text()));
        await list.until(() => /^code 1/m.test(screen.text()));
        const text = screen.text();
        const said = width === 200 ? "RangeError: cannot do one" : "RangeErr";
        assert.match(
          text,
          new RegExp(`^todo +one .* m?s  retry 1 of 1 in [4-6][.\\d]* s: ${said}`, "m"),
        );
        assert.match(text, /^done +three .* "accepted"$/m);
        assert.match(text, /^2 tasks have failed\. /m);
        assert.match(text, /^ {2}2 x RangeError: cannot do \{\}$/m);
        assert.match(
          text.replaceAll(/\s/g, ""), // as the line is broken somewhere
          /execlist\/fail\/000000[12]-(one|two)-\w+\.json--raise/,
        );
      },
    );

    test(
      `on a terminal of ${width} columns \`progress\` shows a bar below what the loop prints`,
      inTerminal,
      async () => {
        using list = temporary();
        const url = (name: string) => JSON.stringify(join(project, name));
        list.write(
          "loop.ts",
          `import { progress } from ${url("cli/progress.ts")};
          import { defer, TaskList } from ${url("mod.ts")};
          import { existsSync } from "node:fs";
          import { nap } from "./tasks.ts";
          const tasks = new TaskList("list", { existOk: true });
          tasks.schedule(defer(JSON.parse, "{"), { id: "a" });
          tasks.schedule(defer(Number, "7"), { id: "b" });
          tasks.schedule(defer(nap, "60"), { id: "c" });
          for await (const task of progress(tasks.run({ processes: 1 }))) {
            console.log("got " + task.id);
            console.error("also " + task.id);
            if (task.id === "b") while (!existsSync("go")) await nap("0.05");
            if (task.id === "b") break;
          }
          console.log("over");`,
        );
        using screen = terminal(list, width);
        screen.type(`${process.execPath} ${runtime === "deno" ? "run -A" : ""} loop.ts`);
        await list.until(() => / 2\/3 done/.test(screen.text()));
        const live = screen.text().trimEnd().split("\n").at(-1)!;
        assert.match(live, /^█+░* 2\/3 done, 1 failed · \S+ m?s left/);
        assert.ok(live.length < width);
        list.write("go", "");
        await list.until(() => /^over$/m.test(screen.text()));
        const text = screen.text();
        for (const id of "ab") assert.match(text, new RegExp(`^got ${id}\nalso ${id}$`, "m"));
        assert.doesNotMatch(text, /[█░]/);
      },
    );
  }

  test(
    "the time left is not less than what runs longest has been running",
    inTerminal,
    async () => {
      using list = temporary();
      list.add("double", ...Array.from({ length: 40 }, (_, i) => `${i}`));
      list.add("nap", "60");
      using screen = terminal(list, 200);
      screen.type(`${list.command} run list -j2 --tasks-per-process 40`);
      const live = / 40\/41 done.* · (\S+) s left .* runs for ([3-9]\S*) s/;
      let seen: RegExpExecArray | null = null;
      await list.until(() => !!(seen = live.exec(screen.text())));
      assert.equal(seen![1], seen![2]);
      screen.type("C-c");
    },
  );

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
      await list.until(() => /done +1 /.test(screen.text()));
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
});

/**
 * What a person sees who uses the command on a terminal.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { eachWay, isInstalled, temporary, terminal, test } from "./cli_helpers.ts";

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
        if (width === 200) assert.match(live, / · \S+ m?s left · \S+\/s · 60-\w+ runs for /);
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
});

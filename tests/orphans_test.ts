/** Nothing is left running. */
import assert from "node:assert/strict";
import fs from "node:fs";
import {
  allGone,
  assertAllDone,
  assertLegal,
  type Call,
  check,
  commandOf,
  idsIn,
  killAll,
  linesOf,
  namesIn,
  newFile,
  newList,
  newMark,
  noProc,
  pause,
  startHost,
  startStubborn,
  stored,
  stubborn,
  survivors,
  until,
} from "./crash.ts";

for (const kept of [false, true]) {
  const how = kept ? "kept runners" : "fresh runners";
  check(`a run that is killed leaves no process of its tasks (${how})`, noProc, async () => {
    const mark = newMark();
    const [directory, host] = await startStubborn({ tasksPerProcess: kept ? 10 : 1 }, mark);
    assert.ok(survivors(mark).length > 10);
    host.kill("SIGKILL");
    await host.ended;
    await allGone(mark);
    assertLegal(directory, "after a crash");
    assert.equal(namesIn(directory, "running").length, 3);
  });
}

check(
  "what is left of a run is killed by the next one, if its watcher was killed too",
  noProc,
  async () => {
    const mark = newMark();
    const [directory, host] = await startStubborn({}, mark);
    const watchers = survivors(mark).filter((pid) =>
      fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("environ")
    );
    assert.equal(watchers.length, 1);
    killAll(watchers);
    host.kill("SIGKILL");
    await host.ended;
    await pause(500);
    assert.ok(survivors(mark).length > 0);
    const next = startHost("run", directory, { processes: 1, autokill: 0.3 });
    await allGone(mark);
    await next.finished();
    assert.deepEqual(idsIn(directory, "fail"), Object.keys(stubborn).sort());
    assertLegal(directory);
  },
);

check(
  "autokill leaves nothing of a task, nor of children that ignore signals or leave its group",
  noProc,
  async () => {
    const mark = newMark();
    for (const tasksPerProcess of [1, 10]) {
      const [directory, host] = await startStubborn({ autokill: 1.5, tasksPerProcess }, mark);
      const seen = (await host.finished()).filter(({ id }) => id);
      await allGone(mark);
      assert.deepEqual(idsIn(directory, "fail"), Object.keys(stubborn).sort());
      for (const { name, error } of seen) {
        assert.equal(name, "TimeoutError");
        assert.match(error!, /killed after 1\.5 s/);
      }
      assertLegal(directory);
    }
  },
);

for (
  const [what, call, isAgain] of [
    ["a task that waits too long end with it, and are run once", "haveChildren", false],
    ["a task that blocks their process are run again, and are not blamed", "loop", true],
  ] as const
) {
  check(`the neighbours of ${what}`, noProc, async () => {
    const notes = newFile("neighbours");
    const ids = ["a", "c", "d", "e", "f", "g", "h", "i", "j"];
    const slow = ids.map((id) => [id, ["slowNote", notes, id, 900]] as [string, Call]);
    const directory = await newList(Object.fromEntries([["b", [call, notes, "b"]], ...slow]));
    const options = { processes: 1, concurrency: 4, autokill: 2 };
    const seen = await startHost("run", directory, options).finished();
    assert.deepEqual(idsIn(directory, "done"), ids);
    assert.deepEqual(idsIn(directory, "fail"), ["b"]);
    const { name, error } = seen.find(({ id }) => id === "b")!;
    assert.equal(name, "TimeoutError");
    assert.match(error!, /killed after 2 s/);
    const runs = linesOf(notes).length;
    if (isAgain) assert.ok(runs > ids.length + 1);
    else assert.equal(runs, ids.length + 1);
    for (const id of ids) assert.equal(stored(directory, "done", id).attempts, 1);
    assertLegal(directory);
  });
}

for (const concurrency of [1, 2]) {
  const name =
    `autokill ends what has left the process group of a task before the run ends (${concurrency} at once)`;
  check(name, noProc, async () => {
    const mark = newMark();
    const notes = newFile("at-once");
    const others = [..."bcdefghijklm"].slice(0, 6 * concurrency);
    const slow = others.map((id) => [id, ["slowNote", notes, id, 600]] as [string, Call]);
    const directory = await newList(Object.fromEntries([
      ["a", ["haveChildren", notes, "a"]],
      ...slow,
    ]));
    const host = startHost("run", directory, { processes: 1, autokill: 1.5, concurrency }, {
      env: { FORREST_MARK: mark },
    });
    await until(() => host.seen().some(({ id }) => id === "a"), "the task has failed");
    const isChild = (pid: number) => /sleep 600|while :/.test(commandOf(pid));
    await until(() => !survivors(mark).some(isChild), "its children are gone");
    assert.ok(!host.seen().some(({ id }) => id === others.at(-1)));
    await host.finished();
    assert.deepEqual(idsIn(directory, "done"), others);
  });
}

check("what a task leaves running ends with it", noProc, async () => {
  const mark = newMark();
  for (const tasksPerProcess of [1, 10]) {
    const directory = await newList({ a: "leaveChild", b: "leaveTimer", c: "leaveServer" });
    const host = startHost("run", directory, { processes: 1, tasksPerProcess }, {
      env: { FORREST_MARK: mark },
    });
    await host.finished();
    await allGone(mark);
    assertAllDone(directory, ["a", "b", "c"]);
  }
});

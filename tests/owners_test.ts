/** Whose task is it: claims of the dead and the living, and outcomes that come late. */
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import {
  allGone,
  assertAllDone,
  assertLegal,
  base,
  check,
  deadOwner,
  type Ending,
  idsIn,
  linesOf,
  log,
  namesIn,
  newDirectory,
  newList,
  newMark,
  noProc,
  noStrace,
  runList,
  startHost,
  startStubborn,
  steps,
  stored,
  survivors,
  until,
} from "./crash.ts";
import type { State } from "./library.ts";
import { startTraced, syncing } from "./strace.ts";

check(
  "a task that was running in three dead runs fails and says so, and no other does",
  noProc,
  async () => {
    const directory = newDirectory();
    const notes = `${directory}-notes`;
    await newList({ killer: ["killRun", notes, "killer"] }, directory);
    const runs: Ending[] = [];
    for (let times = 0; times < 3; times++) {
      const host = startHost("run", directory, { processes: 1 });
      runs.push(await host.ended);
      assertLegal(directory, "after a crash");
    }
    assert.deepEqual(runs.map(({ signal }) => signal), ["SIGKILL", "SIGKILL", "SIGKILL"]);
    const seen = await startHost("run", directory, { processes: 1 }).finished();
    assertLegal(directory);
    assert.deepEqual(idsIn(directory, "fail"), ["killer"]);
    assert.equal(linesOf(notes).length, 3);
    const { errorValue, attempts } = stored(directory, "fail", "killer");
    assert.match(JSON.stringify(errorValue), /The run that this task was running in has died.*3/);
    assert.equal(attempts, 3);
    assert.ok(Array.isArray(seen));
  },
);

check(
  "a claim is recovered if another process has the id of its owner, or if that is a zombie",
  noProc,
  async () => {
    const owner = await deadOwner();
    const [name, , start, rest] = owner.split(".");
    const directory = await newList({ zombie: ["sleep", log, "zombie"] });
    // `sleep` never asks how its child has ended, so that stays a zombie
    const before = ["sh", "-c", '"$@" & exec sleep 60', "sh"];
    const parent = startHost("run", directory, {}, { before });
    await until(
      () => namesIn(directory, "running").some((file) => /^zombie/.test(file)),
      "a claim",
    );
    const pid = /^zombie\.json@[^.]*\.(\d+)/.exec(
      namesIn(directory, "running").find((file) => /^zombie/.test(file))!,
    )![1];
    process.kill(Number(pid), "SIGKILL");
    const stateOf = () => fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1][0];
    await until(() => stateOf() === "Z", "the owner is a zombie");
    const reused = [name, process.pid, start, rest].join(".");
    fs.writeFileSync(`${directory}/running/reused.json@${reused}`, steps({ value: "again" }));
    const seen = await runList(directory, { autokill: 3 });
    assert.equal(stateOf(), "Z");
    parent.kill("SIGKILL");
    assertLegal(directory);
    assert.deepEqual(idsIn(directory, "done"), ["reused"]);
    assert.deepEqual(idsIn(directory, "fail"), ["zombie"]);
    assert.match(seen.find(({ id }) => id === "zombie")!.error!, /killed after 3 s/);
  },
);

check("the claims of a run that lives are left to it", noProc, async () => {
  const mark = newMark();
  const [directory, host] = await startStubborn({}, mark);
  const before = namesIn(directory, "running");
  await runList(directory);
  assert.deepEqual(namesIn(directory, "running"), before);
  assert.ok(survivors(mark).length > 10);
  host.kill("SIGTERM");
  await host.ended;
  await allGone(mark);
  assertLegal(directory);
});

// What another run has done with a task in the meantime, and where the task is then.
type Overtake = (directory: string, claim: string) => Promise<void> | void;

const overtaken: [string, Overtake, Exclude<State, "running">][] = [
  ["put back", (directory, claim) => fs.renameSync(claim, `${directory}/todo/a.json`), "todo"],
  [
    "finished",
    async (directory, claim) => {
      fs.renameSync(claim, `${directory}/todo/a.json`);
      await runList(directory);
    },
    "done",
  ],
  [
    "failed",
    (directory, claim) => {
      fs.rmSync(claim);
      const failed = { steps: [{ value: 1 }], attempts: 1, errorValue: "first" };
      fs.writeFileSync(`${directory}/fail/a.json`, JSON.stringify(failed));
    },
    "fail",
  ],
];

for (const [verb, overtake, state] of overtaken) {
  check(
    `an outcome that comes after another run has ${verb} the task is discarded`,
    false,
    async () => {
      const directory = newDirectory();
      const notes = `${directory}-notes`;
      await newList({ a: ["slowNote", notes, "a", 1000] }, directory);
      const late = startHost("run", directory, { processes: 1 });
      await until(() => linesOf(notes).length > 0, "the task has started");
      const [claim] = namesIn(directory, "running");
      await overtake(directory, `${directory}/running/${claim}`);
      const first = fs.readFileSync(`${directory}/${state}/a.json`, "utf8");
      await late.finished();
      if (state !== "todo") {
        assert.equal(fs.readFileSync(`${directory}/${state}/a.json`, "utf8"), first);
      }
      assertLegal(directory);
      assert.deepEqual(idsIn(directory, state === "todo" ? "done" : state), ["a"]);
    },
  );
}

// How far a run has come with the outcome of a task when it is told to end, and where the task is then.
const moments: [string, RegExp, string, "todo" | "done"][] = [
  ["written", /\+$/, "fsync:delay_enter=1500000:when=1", "todo"],
  ["sealed", /~done$/, "rename:delay_exit=1500000:when=2", "done"],
  ["in its place", /~done$/, "rename:delay_exit=1500000:when=3", "done"],
  ["removed from its seal", /~done$/, "unlink:delay_enter=1500000", "done"], // of any thread
];

for (const [verb, left, delay, state] of moments) {
  check(
    `a run that is ended when an outcome is ${verb} leaves no task between two states`,
    noStrace || noProc,
    async () => {
      for (const end of ["SIGTERM", "autokill", "SIGKILL"]) {
        const directory = await newList({ a: ["note", log, "a"] });
        const call = delay.split(":")[0];
        // so long that a busy machine has begun the task, and then longer
        const longer = end === "autokill" ? delay.replace("1500000", "6000000") : delay;
        const words = ["-D", "-o", "/dev/null", "-e", `trace=${call}`, "-e", `inject=${longer}`];
        const options = end === "autokill" ? { autokill: 5 } : {};
        const stage = { ...syncing, threads: call !== "rename", options };
        const host = startTraced(stage, directory, words);
        await until(() => namesIn(directory, "running").some((name) => left.test(name)), verb);
        if (end !== "autokill") host.kill(end);
        const { code, signal } = await host.ended;
        assert.ok(signal === end || code === 0); // its work may be done by then
        assertLegal(directory, end === "SIGKILL" ? "after a crash" : "at rest", `${verb}, ${end}`);
        if (end === "SIGTERM") assert.deepEqual(idsIn(directory, state), ["a"], verb);
        if (end !== "autokill") await runList(directory);
        assertAllDone(directory, ["a"], `${verb}, ${end}`);
      }
    },
  );
}

check("a claim of a task that is done already is dropped", false, async () => {
  const owner = await deadOwner();
  const directory = await newList({ a: "whereAmI", b: "whereAmI" });
  await runList(directory);
  const done = fs.readFileSync(`${directory}/done/a.json`, "utf8");
  fs.writeFileSync(`${directory}/running/a.json@${owner}`, steps({ value: "second" }));
  fs.writeFileSync(`${directory}/todo/b.json`, steps({ value: "second" }));
  await runList(directory);
  assertAllDone(directory, ["a", "b"]);
  assert.equal(fs.readFileSync(`${directory}/done/a.json`, "utf8"), done);
  assert.equal(stored(directory, "done", "b").returnValue, process.cwd());
});

check("nothing is killed for the sake of a file whose name is no claim", noProc, async () => {
  const directory = await newList({ a: "whereAmI" });
  const tools = path.join(base, "tools");
  fs.mkdirSync(tools, { recursive: true });
  // in place of the one that finds what is to be killed: it notes what it is to look for
  fs.writeFileSync(`${tools}/grep`, `#!/bin/sh\necho "$2" >> ${tools}/asked\n`);
  fs.chmodSync(`${tools}/grep`, 0o755);
  const owners = ["", "\n", "a\n\nb", ".", "...", "1", "-", "h.1.1", " "];
  for (const owner of owners) {
    fs.writeFileSync(`${directory}/running/x.json@${owner}`, steps({ value: owner }));
    fs.writeFileSync(`${directory}/running/y.json@${owner}+`, "");
  }
  const env = { PATH: `${tools}:${process.env.PATH}`, FORREST_LEASE: "0.3" };
  const host = startHost("run", directory, {}, { env, deadline: 10 });
  await host.ended.catch(() => {}); // whether it waits for their lease is not what this is about
  assert.deepEqual(idsIn(directory, "done").includes("a"), true);
  const asked = linesOf(`${tools}/asked`).filter((line) =>
    !/^\/[\w-]+(\.[\w-]+){3}[./]/.test(line)
  );
  assert.deepEqual(asked, []);
});

/** Many runs of one list, killed at random, and what they must leave.
 *
 * `FORREST_CRASH_SECONDS` says how long to kill, `FORREST_CRASH_SEED` repeats such a loop.
 */
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { test } from "node:test";
import {
  allGone,
  assertAllDone,
  assertLegal,
  bothRuntimes,
  check,
  type Event,
  fixtures,
  idsIn,
  illegalities,
  killAll,
  linesOf,
  newDirectory,
  newMark,
  noProc,
  pause,
  randomNumbers,
  runList,
  seed,
  startHost,
  states,
  stored,
  survivors,
} from "./crash.ts";
import { defer, TaskList } from "./library.ts";

const seconds = Number(process.env.FORREST_CRASH_SECONDS ?? 20);

test("the checker accepts the legal states, and nothing else", () => {
  const todo = `{"steps":[{"value":1}]}`;
  const done = `{"steps":[{"value":1}],"attempts":1,"returnValue":1}`;
  const fail = `{"steps":[{"value":1}],"attempts":1,"errorValue":"x"}`;
  const verdict = (files: Record<string, string>, when?: "after a crash") => {
    const directory = newDirectory();
    for (const state of states) fs.mkdirSync(path.join(directory, state), { recursive: true });
    for (const [name, text] of Object.entries(files)) {
      fs.writeFileSync(path.join(directory, name), text);
    }
    return illegalities(directory, when).length ? "illegal" : "legal";
  };
  const legal = { "todo/a.json": todo, "done/b.json": done, "fail/c.json": fail };
  assert.equal(verdict({}), "legal");
  assert.equal(verdict(legal), "legal");
  assert.equal(verdict({ "fail/a.json": fail, "fail/a.json.original": "?" }), "legal");
  const illegal: Record<string, string>[] = [
    { "todo/b.json": todo },
    { "fail/b.json": fail },
    { "running/x.json@h.1.1.1": todo },
    { "running/x.json@h.1.1.1+": "" },
    { "todo/x.json": done },
    { "done/x.json": todo },
    { "done/x.json": fail },
    { "fail/x.json": done },
    { "todo/x.json": "{" },
    { "todo/x.json": `{"steps":[],"errorValue":1}` },
    { "done/x.json": `{"returnValue":1}` },
    { "done/x.json.original": "" },
    { "fail/x.json.original": "" },
    { "todo/x": todo },
    { "x.json": todo },
  ];
  for (const files of illegal) {
    assert.equal(verdict({ ...legal, ...files }), "illegal", JSON.stringify(files));
  }
  const crashed: [string, Record<string, string>][] = [
    ["legal", { "running/x.json@h.1.1.1": todo }],
    ["legal", { "running/x.json@h.1.1.1": todo, "running/x.json@h.1.1.1+": "{" }],
    ["legal", { "running/x.json@h.1.1.1+": "" }],
    ["legal", { "running/x.json@h.1.1.1~done": todo, "running/x.json@h.1.1.1+": done }],
    ["legal", { "running/b.json@h.1.1.1~done": todo }],
    ["illegal", { "running/x.json@h.1.1.1~done": todo }],
    ["illegal", { "running/a.json@h.1.1.1": todo }],
    ["illegal", { "running/b.json@h.1.1.1~done": todo, "running/b.json@h.1.1.1+": done }],
    ["illegal", { "running/x.json@h.1.1.1": todo, "running/x.json@h.2.2.2": todo }],
    ["illegal", { "running/x.json@h.1.1.1": todo, "running/x.json@h.1.1.1~done": todo }],
    ["illegal", { "running/x.json@h.1.1.1~gone": todo, "running/x.json@h.1.1.1+": done }],
    ["illegal", { "running/x": todo }],
  ];
  for (const [wanted, files] of crashed) {
    assert.equal(verdict({ ...legal, ...files }, "after a crash"), wanted, JSON.stringify(files));
  }
});

check(
  "eight runs, four on Deno and four on Bun, execute each of 2,000 tasks once",
  false,
  async () => {
    const directory = newDirectory();
    const notes = `${directory}-notes`;
    const ids = Array.from(
      { length: 2000 },
      (_, index) => `task-${String(index).padStart(4, "0")}`,
    );
    const tasks = new TaskList(directory);
    const note = new URL("tasks.ts#note", fixtures);
    await Promise.all(ids.map((id) => tasks.schedule(defer(note, notes, id), { id })));
    const [deno, bun] = bothRuntimes();
    const options = { processes: 1, tasksPerProcess: 10_000 };
    const hosts = Array.from(
      { length: 8 },
      (_, index) =>
        startHost("run", directory, options, { runtime: index % 2 ? deno : bun, deadline: 100 }),
    );
    const seen = (await Promise.all(hosts.map((host) => host.finished()))).flat();
    assertAllDone(directory, ids);
    assert.deepEqual(linesOf(notes).map((line) => line.split(" ")[0]).sort(), ids);
    const yielded = seen.flatMap(({ id }) => id ?? []).sort();
    assert.deepEqual(yielded, ids);
  },
);

check(
  "a program killed at any moment loses no task, no outcome, and has no task twice",
  noProc,
  async () => {
    const random = randomNumbers(seed);
    const pick = <T>(items: T[]): T => items[Math.floor(random() * items.length)];
    const runtimes = bothRuntimes();
    const directory = newDirectory();
    const notes = `${directory}-notes`;
    const context = `FORREST_CRASH_SEED=${seed}`;
    const mark = newMark();
    const wanted: string[] = [];
    const seen: Event[] = [];
    let crashes = 0;
    for (const end = Date.now() + seconds * 1000; Date.now() < end; crashes++) {
      const news = Array.from({ length: 20 }, (_, index) => `task-${crashes}-${index}`);
      wanted.push(...news);
      const env = { FORREST_MARK: mark };
      const scheduled = new Set(seen.map(({ scheduled }) => scheduled));
      const ids = wanted.filter((id) => !scheduled.has(id)).slice(-60); // those of a killed program again
      const hosts = [
        startHost("schedule", directory, { ids, log: notes }, { runtime: pick(runtimes), env }),
        ...Array.from({ length: 1 + Math.floor(random() * 2) }, () =>
          startHost("run", directory, {
            processes: 1 + Math.floor(random() * 2),
            tasksPerProcess: pick([1, 5, 1000]),
            concurrency: pick([1, 1, 4]),
            maxCrashes: 1000,
          }, { runtime: pick(runtimes), env })),
      ];
      await pause(random() * 900);
      if (random() < 0.3) killAll(survivors(mark).filter(() => random() < 0.3)); // of any kind
      await pause(random() * 300);
      for (const host of hosts.sort(() => random() - 0.5)) {
        host.kill("SIGKILL");
        if (random() < 0.5) await pause(random() * 50);
      }
      const endings = await Promise.all(hosts.map(({ ended }) => ended));
      for (const { output } of endings) assert.doesNotMatch(output, /Uncaught|Unhandled/i, context);
      for (const host of hosts) seen.push(...host.seen());
      if (fs.existsSync(path.join(directory, "fail")) && !survivors(mark).length) {
        assertLegal(directory, "after a crash", context);
      }
    }
    await allGone(mark);
    seen.push(...await runList(directory));
    assertLegal(directory, "at rest", context);
    assert.deepEqual(idsIn(directory, "todo"), [], context);
    const tokens = new Set(linesOf(notes).map((line) => line.split(" ")[1]));
    const [done, fail] = [new Set(idsIn(directory, "done")), new Set(idsIn(directory, "fail"))];
    for (const { scheduled, id, state, value } of seen) {
      const kept = scheduled ?? id;
      if (!kept) continue;
      assert.ok(done.has(kept) || fail.has(kept), `${kept} is lost, ${context}`);
      if (id) {
        assert.ok(
          (state === "done" ? done : fail).has(id),
          `${id} is not ${state}, ${context}`,
        );
      }
      if (state === "done") {
        assert.equal(stored(directory, "done", id!).returnValue, value, `${id}, ${context}`);
      }
    }
    for (const id of done) {
      assert.ok(
        tokens.has(stored(directory, "done", id).returnValue as string),
        `${id}, ${context}`,
      );
    }
    for (const id of fail) {
      const { message } = (stored(directory, "fail", id).errorValue as { $error: Error }).$error;
      assert.match(message, /SIGKILL|run that this task was running in/, context);
    }
    assert.ok(done.size > 0, context);
  },
);

/** Signals to a program that runs a list. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import {
  allGone,
  assertLegal,
  base,
  check,
  idsIn,
  linesOf,
  newList,
  newMark,
  noProc,
  pause,
  runList,
  startHost,
  startStubborn,
  stored,
  stubborn,
  until,
} from "./crash.ts";

import { runtime, temporary, writeProgram } from "./helpers.ts";

const signals = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const;

for (const signal of Object.keys(signals)) {
  check(
    `${signal} puts the tasks back without an attempt, kills what runs, and ends the program`,
    noProc,
    async () => {
      const mark = newMark();
      const [directory, host] = await startStubborn({}, mark);
      host.kill(signal);
      const { signal: by } = await host.ended;
      assert.equal(by, signal);
      await allGone(mark);
      assertLegal(directory);
      assert.deepEqual(idsIn(directory, "todo"), Object.keys(stubborn).sort());
      for (const id of idsIn(directory, "todo")) {
        assert.deepEqual(Object.keys(stored(directory, "todo", id)), ["steps"]);
      }
    },
  );
}

check("a shell sees the exit code of the signal", noProc, async () => {
  const directory = await newList({ a: ["sleep", `${base}/a-sleeps`, "a"] });
  const before = ["sh", "-c", '"$@" & trap "kill -TERM $!" USR1; wait; wait $!; exit $?', "sh"];
  const host = startHost("run", directory, {}, { before });
  await until(() => linesOf(`${base}/a-sleeps`).length > 0, "the task has started");
  host.kill("SIGUSR1");
  assert.equal((await host.ended).code, 128 + signals.SIGTERM);
  assertLegal(directory);
});

check("a second signal ends the program at once, and loses nothing", noProc, async () => {
  for (const wait of [0, 5, 30]) {
    const mark = newMark();
    const [directory, host] = await startStubborn({}, mark);
    host.kill("SIGINT");
    await pause(wait);
    host.kill("SIGINT");
    assert.equal((await host.ended).signal, "SIGINT");
    await allGone(mark);
    assertLegal(directory, "after a crash");
    await runList(directory, { processes: 3, tasksPerProcess: 1, autokill: 0.5 });
    assertLegal(directory);
    assert.deepEqual(idsIn(directory, "fail"), Object.keys(stubborn).sort());
  }
});

check(
  "a program's own handler of a signal is called once, and what it does is done",
  noProc,
  async () => {
    for (const handler of ["exit", "stay"] as const) {
      for (const signal of Object.keys(signals)) {
        const mark = newMark();
        const [directory, host] = await startStubborn({ handler, linger: 300 }, mark);
        host.kill(signal);
        const { code, signal: by } = await host.ended;
        const handled = host.seen().filter((event) => event.handler);
        assert.deepEqual(handled, [{ handler: signal }], `${handler} on ${signal}`);
        assert.equal(by ?? code, handler === "exit" ? 7 : 0, `${handler} on ${signal}`);
        await allGone(mark);
        assertLegal(directory);
        assert.deepEqual(idsIn(directory, "todo"), Object.keys(stubborn).sort());
      }
    }
  },
);

check("after a run, signals do again what they did before it", noProc, async () => {
  const signal = "SIGTERM";
  const directory = await newList({ a: "whereAmI" });
  const host = startHost("run", directory, { linger: 30_000 });
  await until(() => host.seen().some(({ ended }) => ended), "the run has ended");
  host.kill(signal);
  assert.equal((await host.ended).signal, signal);
  const handling = startHost("run", directory, { linger: 30_000, handler: "exit" });
  await until(() => handling.seen().some(({ ended }) => ended), "the run has ended");
  handling.kill(signal);
  assert.equal((await handling.ended).code, 7);
  assert.deepEqual(handling.seen().filter((event) => event.handler), [{ handler: signal }]);
});

const container = ["--fork", "--pid", "--mount-proc", "--kill-child"];
const noContainer = spawnSync("unshare", [...container, "true"]).status !== 0 &&
  "this user may not make namespaces (`unshare`)";

for (const [signal, number] of Object.entries(signals)) {
  check(`${signal} ends a program that is process 1 of its container`, noContainer, () => {
    using folder = temporary();
    const [program, args, options] = writeProgram(
      folder,
      `const tasks = new TaskList("list");
       await tasks.schedule(command(["sh", "-c", "kill -${number} 1; exec sleep 60"]), { id: "kill" });
       for await (const { state } of tasks.run()) console.log(state);
       console.log("after the loop");`,
    );
    const words = [...container, program, ...args];
    const { status, stdout } = spawnSync("unshare", words, { ...options, encoding: "utf8" });
    assert.deepEqual([status, stdout], [128 + number, ""]);
    assert.deepEqual(readdirSync(folder.file("list/todo")), ["kill.json"]);
    return Promise.resolve();
  });
}

const late = {
  "ends it, whenever the run began": ["", ["SIGINT", ""]],
  "is its own, if it listens by Deno's own means": [
    'globalThis.Deno?.addSignalListener("SIGINT", () => console.log("heard"));',
    runtime === "deno" ? [null, "heard\nafter the loop\n"] : ["SIGINT", ""],
  ],
  "ends it, if it listens to another one by Deno's own means": [
    'globalThis.Deno?.addSignalListener("SIGTERM", () => console.log("heard"));',
    ["SIGINT", ""],
  ],
} as const;

for (const [what, [listen, expected]] of Object.entries(late)) {
  check(`SIGINT of a program that has run for a while ${what}`, false, async () => {
    using folder = temporary();
    const [program, args, options] = writeProgram(
      folder,
      `${listen}
       const tasks = new TaskList("list");
       await tasks.schedule(defer((time: number) => new Promise((done) => setTimeout(done, time)), 60_000));
       await new Promise((done) => setTimeout(done, 1000)); // Deno itself listens after half a second
       const running = () => tasks.count().running ? process.kill(process.pid, "SIGINT") : setTimeout(running, 50);
       setTimeout(running, 50);
       for await (const { state } of tasks.run()) console.log(state);
       console.log("after the loop");
       process.exit();`,
    );
    const { signal, stdout, stderr } = spawnSync(program, args, { ...options, encoding: "utf8" });
    assert.deepEqual([signal, stdout], expected, stderr);
    assert.equal(readdirSync(folder.file("list/todo")).length, 1);
    await Promise.resolve();
  });
}

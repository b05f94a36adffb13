/** Options are checked before anything runs. */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import * as fixture from "./fixtures/tasks.ts";
import { resultOf, runtime, temporary, test } from "./helpers.ts";
import { command, defer, exec, map, type RunOptions, TaskList } from "./library.ts";

test("options out of range are refused with the value that was found", () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const wrong: Record<string, unknown>[] = [
    { processes: 0 },
    { processes: 1.5 },
    { processes: "2" },
    { autokill: -1 },
    { autokill: 0 },
    { autokill: NaN },
    { tasksPerProcess: 0 },
    { concurrency: 0 },
    { retries: -1 },
    { retryDelay: -1 },
    { perSecond: 0 },
    { maxFailures: -1 },
  ];
  for (const options of wrong) {
    const [[name, value]] = Object.entries(options);
    const message = new RegExp(`\`${name}\`.*got \`${value}\``);
    assert.throws(() => tasks.run(options), { name: "RangeError", message }, name);
  }
});

test("`Infinity` means without end for each option of a run with kept processes", async () => {
  using folder = temporary();
  const file = folder.file("attempts");
  const options = { retries: Infinity, tasksPerProcess: 2, processes: 1 };
  assert.equal(await resultOf(defer(fixture.failAtFirst, file, 4), options), 5);
  mkdirSync(folder.file("meeting"));
  const tasks = new TaskList(folder.file("list"));
  for (let i = 0; i < 5; i++) tasks.schedule(defer(fixture.meet, folder.file("meeting"), 5));
  const pids = await Array.fromAsync(
    tasks.run({ processes: 1, concurrency: Infinity, autokill: 20 }),
    ({ returnValue }) => returnValue,
  );
  assert.equal(new Set(pids).size, 1);
  assert.equal(typeof pids[0], "number");
});

test("options that are no numbers, or no arrays, are refused", () => {
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  const refused = (options: object, message: RegExp) =>
    assert.throws(() => tasks.run(options as RunOptions), message);
  for (const autokill of [null, "2", true, [], NaN]) {
    refused({ autokill }, /Expected `autokill` to be a number/);
  }
  refused({ retryDelay: null }, /Expected `retryDelay` to be a number/);
  refused({ ids: "i-12" }, /Expected `ids` to be an array/);
  refused({ permissions: null }, /Expected `permissions` to be an array/);
  refused({ retryIf: true }, /Expected `retryIf` to be a function, got `true`/);
  refused({ onOutput: "log" }, /Expected `onOutput` to be a function/);
});

test("an option that is none is refused, whatever it is an option of", async () => {
  using folder = temporary();
  const wrong = { timeout: 1 } as object;
  const message = /There is no option `timeout` of `/;
  assert.throws(() => command(["true"], wrong), message);
  await assert.rejects(exec(folder.file("task.json"), wrong), message);
  const tasks = new TaskList(folder.file("list"));
  await assert.rejects(tasks.schedule(1, wrong), message);
  assert.throws(() => tasks.clean(wrong), message);
  assert.throws(() => tasks.run(wrong), /There is no option `timeout`/);
});

test("what forrest is told wrongly is refused with a reason", async () => {
  assert.throws(
    () => command("echo run" as never),
    /TypeError: Expected an array of words, got `echo run`/,
  );
  using folder = temporary();
  const tasks = new TaskList(folder.file("list"));
  assert.throws(() => tasks.run({ permissions: "-A" as never }), /`permissions` to be an array/);
  for (const flag of ["allow-net", "--alow-net", "--allow-", "--allow-nets", "--v8-flags=--x", 7]) {
    const run = () => tasks.run({ permissions: ["--allow-all", flag as string] });
    assert.throws(run, /`permissions` to be an array of flags such as `--allow-net`/);
  }
  const limited = () => tasks.run({ permissions: ["--allow-net"] });
  if (runtime === "deno") limited();
  else assert.throws(limited, /only processes of Deno have `permissions`/);
  for (const permissions of [[], ["--allow-all", "--deny-net"]]) {
    const here = () => map(Math.sqrt, [16], { processes: 0, permissions });
    assert.throws(here, /only processes of Deno have `permissions`/);
  }
  await tasks.schedule(1, { id: "ü".repeat(75) });
  await assert.rejects(tasks.schedule(1, { id: "ü".repeat(76) }), /up to 150 bytes/);
});

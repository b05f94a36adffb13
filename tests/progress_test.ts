/** The bar of the command in a loop of one's own; on a terminal it is in `terminal_test.ts`. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { progress } from "../cli/progress.ts";
import { prepare, throwDetailed } from "./fixtures/tasks.ts";
import { temporary, test } from "./helpers.ts";
import { defer, map, TaskList } from "./library.ts";

test("progress() gives what a run, a map, an array or an endless generator gives", async () => {
  using folder = temporary();
  const tasks = new TaskList<{ thing: string }>(folder.file("list"));
  tasks.schedule(defer(prepare, "a"));
  const values: string[] = [];
  for await (const { returnValue } of progress(tasks.run())) values.push(returnValue!.thing);
  assert.deepEqual(values, ["A"]);
  const roots: number[] = await Array.fromAsync(progress(map(Math.sqrt, [4, 9]), { total: 2 }));
  assert.deepEqual(roots, [2, 3]);
  assert.deepEqual(await Array.fromAsync(progress(new Set("ab"))), ["a", "b"]);
  let isOver = false;
  const endless = function* () {
    try {
      for (let i = 0;; i++) yield i;
    } finally {
      isOver = true;
    }
  };
  for await (const number of progress(endless())) if (number === 3) break;
  assert.ok(isOver);
});

test("progress() passes an error on", async () => {
  const failing = progress(map(throwDetailed, ["broken"], { processes: 1 }));
  await assert.rejects(Array.fromAsync(failing), /broken/);
});

test("progress() writes nothing where no terminal is", () => {
  const url = new URL("../cli/progress.ts", import.meta.url);
  using folder = temporary();
  folder.write(
    "loop.ts",
    `import { progress } from ${JSON.stringify(fileURLToPath(url))};
    for await (const item of progress([1, 2])) console.log(item);`,
  );
  const flags = "Deno" in globalThis ? ["run", "-A"] : [];
  const { stdout, stderr } = spawnSync(process.execPath, [...flags, folder.file("loop.ts")], {
    encoding: "utf8",
  });
  assert.deepEqual([stdout, stderr.replace(/^.*Check.*\n/gm, "")], ["1\n2\n", ""]);
});

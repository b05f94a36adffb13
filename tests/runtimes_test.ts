/** Lists that Deno and Bun share. */
import assert from "node:assert/strict";
import * as fixture from "./fixtures/tasks.ts";
import { prepare } from "./fixtures/tasks.ts";
import { storable } from "./fixtures/values.ts";
import { fixtures, otherRuntime, runProgram, temporary, test } from "./helpers.ts";
import { defer, TaskList } from "./library.ts";

test("a list scheduled by one runtime is run by the other", async () => {
  using folder = temporary();
  const other = otherRuntime();
  const tasks = new TaskList(folder.file("list"));
  const values = Object.values(storable);
  const intermediate = defer(prepare, "item");
  await tasks.schedule(defer(fixture.dostuff, intermediate.list[1], intermediate.thing));
  await tasks.schedule(defer((list: unknown[]) => list, values), { metadata: values });
  await tasks.schedule(defer(fixture.throwDetailed, "broken"));
  const { stdout, stderr } = runProgram(
    folder,
    `const tasks = new TaskList("list", { existOk: true, preClean: false });
     for await (const task of tasks.run({ processes: 1 })) console.log(task.state);`,
    {},
    "run.ts",
    other,
  );
  assert.equal(stderr, "");
  assert.equal(stdout, "done\ndone\nfail\n");
  const [text, list] = await Array.fromAsync(tasks.doneTasks());
  assert.equal(text.returnValue, "ITEM 4");
  assert.deepEqual(list.returnValue, values);
  assert.deepEqual(list.metadata, values);
  const [failed] = await Array.fromAsync(tasks.failTasks());
  assert.ok(failed.errorValue instanceof RangeError);
  assert.match(failed.errorValue.stack!, /throwDetailed.*fixtures\/tasks\.ts/);
});

test("a list scheduled by the other runtime is run by this one", async () => {
  using folder = temporary();
  const { stderr } = runProgram(
    folder,
    `import { dostuff, prepare, throwDetailed } from "${fixtures}";
     const tasks = new TaskList("list");
     const intermediate = defer(prepare, "item");
     await tasks.schedule(defer(dostuff, intermediate.list[1], intermediate.thing));
     const values = [undefined, NaN, 5n, new Date(5), new Map([[1, new Uint8Array([1])]]), /a/g];
     await tasks.schedule(defer((list: unknown[]) => list, values), { metadata: values });
     await tasks.schedule(defer(throwDetailed, "broken"));`,
    {},
    "schedule.ts",
    otherRuntime(),
  );
  assert.equal(stderr, "");
  const tasks = new TaskList(folder.file("list"), { existOk: true, preClean: false });
  const [text, list, failed] = await Array.fromAsync(tasks.run({ processes: 1 }));
  const values = [undefined, NaN, 5n, new Date(5), new Map([[1, new Uint8Array([1])]]), /a/g];
  assert.equal(text.returnValue, "ITEM 4");
  assert.deepEqual(list.returnValue, values);
  assert.deepEqual(list.metadata, values);
  assert.ok(failed.errorValue instanceof RangeError);
});

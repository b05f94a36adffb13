/**
 * The loop of the README: every item in a process of its own. Run it again, and it does what is left.
 *
 *     deno run -A examples/quickstart.ts
 *     bun examples/quickstart.ts
 */

import { defer, TaskList } from "../mod.ts";

export function prepare(item: number) {
  return { list: ["ignored", item] as const, thing: "=".repeat(item % 8) };
}

export function dostuff(item: string | number, thing: string): string {
  if (item === 13) throw new RangeError("13 is bad luck");
  return `${thing}> ${item}`;
}

if (import.meta.main) { // processes that run the tasks import this module, too, but not for this part
  const tasks = new TaskList("tasklist", { existOk: true, preClean: false });

  for (let item = 0; item < 20; item++) {
    const intermediate = defer(prepare, item);
    const result = defer(dostuff, intermediate.list[1], intermediate.thing);
    tasks.schedule(result, { id: `item-${item}` });
  }

  for await (const task of tasks.run()) {
    console.log(task.id, task.returnValue ?? task.errorValue);
  }
}

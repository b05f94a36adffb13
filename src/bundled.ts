/**
 * Makes a process of a bundle or a compiled program a runner, if it was started as one. A program that
 * imports this never begins then.
 *
 * @module
 */

import type { Host, Load } from "./single.ts";
import { isBundled, nodeProcess, parse, RUNNER, system } from "./system.ts";

if (isBundled && system.args[0] === RUNNER) {
  const modules = { // imported only here, so that no other program loads them for this
    conclude: () => import("./conclude.ts"),
    files: () => import("./files.ts"),
    steps: () => import("./steps.ts"),
    values: () => import("./values.ts"),
  };
  const load = ((name) => modules[name]()) as Load;
  const start = async () => {
    if (system.args[1]) return (await import("./runner.ts")).serve(parse(system.args[1]));
    const { onBun, onDeno, runSingle } = await import("./single.ts");
    const { isPlain } = await load("values");
    if (globalThis.Deno) return await runSingle({ Deno }, ...onDeno, load, isPlain);
    const { process, setTimeout, Bun } = globalThis as Host;
    const { requireModule } = await load("steps");
    await runSingle({ process, setTimeout, Bun }, ...onBun, load, isPlain, requireModule);
  };
  if (globalThis.Deno) await start();
  // Bun would wait at full speed, and for ever where a task waits for what nothing will settle
  const halt = new Error("This process is a runner, and no program");
  const process = nodeProcess();
  const events = ["uncaughtException", "unhandledRejection"] as const;
  const begin = (error: unknown) => {
    for (const event of events) process.off(event, begin);
    if (error !== halt) throw error;
    start();
  };
  for (const event of events) process.on(event, begin);
  throw halt; // so that what imports this never begins
}

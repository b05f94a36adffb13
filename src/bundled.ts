/**
 * Makes a process of a bundle or a compiled program a runner, if it was started as one. A program that
 * imports this never begins then.
 *
 * @module
 */

import * as conclude from "./conclude.ts";
import * as files from "./files.ts";
import { serve } from "./runner.ts";
import { type Load, runSingle } from "./single.ts";
import * as steps from "./steps.ts";
import { isBundled, nodeProcess, parse, RUNNER, system } from "./system.ts";
import * as values from "./values.ts";

if (isBundled && system.args[0] === RUNNER) {
  const load = ((name) => Promise.resolve({ conclude, files, steps, values }[name])) as Load;
  const start = () =>
    system.args[1]
      ? serve(parse(system.args[1]))
      : runSingle(load, values.isPlain, globalThis.Deno ? undefined : steps.requireModule);
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
  throw halt;
}

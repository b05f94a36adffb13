/**
 * What the process of one task runs.
 *
 * Its text is handed to the runtime: to load the modules of the runner, and to run their code for the
 * first time, takes a quarter of what Deno takes to start, and as long as Bun. So it refers to nothing
 * around it, loads what only some tasks need, and leaves it to the pool to file an outcome.
 *
 * @module
 */

import type { importModule, Step } from "./steps.ts";

/** The variable of the environment that tells the process of one task what to run. */
export const ORDER = "FORREST_ORDER";

/** What it is told. */
export type Order = {
  claim: string;
  secret: string; // which no other process knows, and without which an answer is none
  steps: Step[];
  call?: { url: string; place: string; name: string }; // if one call with plain arguments is all
  session?: string;
  retries: number;
};

/** What the process of one task tells of it; the pool files that. */
export type Told = {
  begin: number; // in milliseconds since 1970, as the first `Date` takes Deno 0.3 ms
  runtime: number; // in seconds
} & ({ returnValue: unknown } | { errorValue: unknown });

type Process = typeof import("node:process");
type Modules = {
  steps: typeof import("./steps.ts");
  values: typeof import("./values.ts");
  files: typeof import("./files.ts");
};
/** Loads a module of forrest. */
export type Load = <Name extends keyof Modules>(name: Name) => Promise<Modules[Name]>;

/** Runs the task in the variable `name` of the environment. */
export async function runSingle(
  name: string,
  load: Load,
  importFile: typeof importModule,
  isPlain: (value: unknown) => boolean,
): Promise<void> {
  type Bun = {
    file(descriptor: number): { size: number };
    write(file: unknown, text: string): Promise<number>;
  };
  const { Deno, Bun } = globalThis as unknown as { Deno?: typeof globalThis.Deno; Bun: Bun };
  const process = Deno ? undefined : (globalThis as unknown as { process: Process }).process; // which Deno would have to load
  const { parse, stringify } = JSON; // captured, as the task may replace them
  const order: Order = parse((Deno ? Deno.env.get(name) : process!.env[name])!);
  if (Deno) Deno.env.delete(name);
  else delete process!.env[name];
  const { claim, secret, call, steps, session, retries } = order;
  const begin = performance.timeOrigin + performance.now();

  const evaluate = async (): Promise<unknown> => {
    const callee = call && (await importFile(call.url, call.place))[call.name];
    const isFunction = typeof callee === "function" &&
      Object.getOwnPropertyDescriptor(callee, "prototype")?.writable !== false; // and no class
    if (isFunction) return await callee(...steps[0].args ?? []);
    return (await load("steps")).runSteps(steps, session);
  };
  const run = async () => {
    try {
      const value = await evaluate();
      if (value === undefined) return { returnValue: { $undefined: true } };
      if (isPlain(value)) return { returnValue: value };
      return { returnValue: (await load("values")).encode(value, "returnValue") };
    } catch (error) {
      return { errorValue: (await load("values")).encodeThrown(error) };
    }
  };
  const write = async (...answer: unknown[]) => {
    const text = `\x1e${stringify(answer)}\n`;
    if (text.length > 60_000) throw new RangeError("The pool is told of no more than a pipe holds");
    if (Deno) {
      const bytes = new TextEncoder().encode(text);
      for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
      return;
    }
    const output = Bun.file(1);
    if (output.size < Infinity) throw new Error("The task has put a file in place of the pipe");
    await Bun.write(output, text);
  };

  const result = await run();
  const runtime = Math.round((performance.timeOrigin + performance.now() - begin) * 1000) / 1e6;
  const told: Told = { begin, runtime, ...result };
  try {
    await write(claim, secret, told);
  } catch { // it is too long, or the task has closed its standard output
    const { outcomeOf, record, textOf } = await load("files");
    const { state, attempts } = record(claim, textOf(claim), outcomeOf(told), retries);
    await write(claim, state, attempts).catch(() => {});
  }
  if (Deno) Deno.exit(0);
  // Bun writes to pipes asynchronously: so it may, unless something else keeps the process alive
  setTimeout(() => process!.exit(0), 200).unref();
}

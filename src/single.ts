/**
 * What the process of one task runs.
 *
 * Its text is handed to the runtime: to load the modules of the runner, and to run their code for the
 * first time, takes a quarter of what Deno takes to start, and as long as Bun. So it refers to nothing
 * around it, loads what only some tasks need, and leaves it to the pool to file an outcome.
 *
 * @module
 */

import type { importModule, isConstructor, Step } from "./steps.ts";

/** What the process of one task is told by a line on its standard input. */
export type Order = {
  claim: string;
  secret: string; // which no other process knows, and without which an answer is none
  steps: Step[];
  call?: { url: string; place: string; name: string }; // if one call with plain arguments is all
  session?: string;
  retries: number;
};

type Result = { returnValue: unknown } | { errorValue: unknown };
/** What the process of one task tells of it: since when, in milliseconds, and for how many seconds. */
export type Told = { begin: number; runtime: number } & Result;

type Modules = {
  steps: typeof import("./steps.ts");
  values: typeof import("./values.ts");
  files: typeof import("./files.ts");
};
/** Loads a module of forrest. */
export type Load = <Name extends keyof Modules>(name: Name) => Promise<Modules[Name]>;

type Runtimes = {
  Deno?: typeof globalThis.Deno;
  Bun: {
    file(descriptor: number): { size: number };
    write(file: unknown, text: string): Promise<number>;
  };
  prompt(message: string): string | null;
  process: typeof import("node:process");
};

/** Waits for the order to run a task, and runs it. */
export async function runSingle(
  load: Load,
  importFile: typeof importModule,
  isClass: typeof isConstructor,
  isPlain: (value: unknown) => boolean,
): Promise<void> {
  const runtimes = globalThis as unknown as Runtimes;
  const { Deno, Bun } = runtimes;
  const process = Deno ? undefined : runtimes.process; // which Deno would have to load
  const { parse, stringify } = JSON;
  const { Date, Map, Set, URL, RegExp, Promise, Error } = globalThis;
  const replaceable = { Date, Map, Set, URL, RegExp, Promise, Error };
  /** Loads a module after the task, which may have replaced what that module takes for granted. */
  const need: Load = (module) => {
    Object.assign(globalThis, replaceable, process && { process });
    Object.assign(JSON, { parse, stringify });
    return load(module);
  };
  let text = "";
  if (Deno) {
    const [buffer, decoder] = [new Uint8Array(16384), new TextDecoder()];
    while (!text.endsWith("\n")) {
      const length = Deno.stdin.readSync(buffer) ?? Deno.exit(0); // as this process is not needed
      text += decoder.decode(buffer.subarray(0, length), { stream: true });
    }
  } else text = runtimes.prompt("") ?? process!.exit(0); // all else takes Bun 0.3 to 2 ms to read with
  const { claim, secret, call, steps, session, retries }: Order = parse(text);
  const begin = Date.now(); // a `Date` takes Deno 0.3 ms
  const start = performance.now();
  let result: Result;
  try {
    const callee = call && (await importFile(call.url, call.place))[call.name];
    const value = typeof callee === "function" && !isClass(callee)
      ? await callee(...steps[0].args ?? [])
      : await (await load("steps")).runSteps(steps, session);
    const returnValue = value === undefined
      ? { $undefined: true }
      : isPlain(value)
      ? value
      : (await need("values")).encode(value, "returnValue");
    result = { returnValue };
  } catch (error) {
    result = { errorValue: (await need("values")).encodeThrown(error) };
  }
  const runtime = Math.round((performance.now() - start) * 1000) / 1e6;
  const told: Told = { begin, runtime, ...result };
  for (const { prototype } of [Object, Array]) delete (prototype as { toJSON?: unknown }).toJSON;
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
  try {
    await write(claim, secret, told);
  } catch { // it is too long, or the task has closed its standard output
    const { outcomeOf, record, textOf } = await need("files");
    const { state, attempts } = record(claim, textOf(claim), outcomeOf(told), retries);
    await write(claim, state, attempts).catch(() => {}); // which the pool finds out when this ends
  }
  if (Deno) Deno.exit(0);
  // Bun writes to pipes asynchronously: so it may, unless something else keeps the process alive
  setTimeout(() => process!.exit(0), 200).unref();
}

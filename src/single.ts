/**
 * What the process of one task runs.
 *
 * Its text is handed to the runtime: to load the modules of the runner, and to run their code for the
 * first time, takes a quarter of what Deno takes to start, and as long as Bun. So it refers to nothing
 * around it. As each of its own lines takes Bun some 0.01 ms, it does no more than what a call with plain
 * arguments and a plain result needs; `conclude.ts` does the rest, and is loaded when it is needed. It is
 * left to the pool to file an outcome.
 *
 * @module
 */

import type { Importing, Step } from "./steps.ts";

/** What the process of one task is told by a line on its standard input. */
export type Order = {
  claim: string;
  secret: string; // which no other process knows, and without which an answer is none
  steps: Step[];
  call?: { url: string; place: string; name: string }; // if one call with plain arguments is all
  session?: string;
  retries: number;
};

/** What a call has returned or thrown. */
export type Result = { value: unknown; hasFailed?: true };

/** What the process of one task tells of it: since when, and for how long, both in milliseconds. */
export type Told =
  & { begin: number; runtime: number }
  & ({ returnValue: unknown } | { errorValue: unknown });

/** Tells the pool something; false if that cannot be done, or is too long to be told. */
export type Tell = (...answer: unknown[]) => Promise<boolean>;

type Modules = {
  conclude: typeof import("./conclude.ts");
  files: typeof import("./files.ts");
  steps: typeof import("./steps.ts");
  values: typeof import("./values.ts");
};
/** Loads a module of forrest. */
export type Load = <Name extends keyof Modules>(name: Name) => Promise<Modules[Name]>;

type Runtimes = Importing & {
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
  isPlain: Modules["values"]["isPlain"],
  preload?: Modules["steps"]["requireModule"],
): Promise<void> {
  const runtimes = globalThis as unknown as Runtimes;
  const { Deno, Bun } = runtimes;
  const process = Deno ? undefined : runtimes.process; // which Deno would have to load
  const { parse, stringify } = JSON;
  const own = { JSON, Date, Map, Set, URL, RegExp, Promise, Error, performance };
  let text = "";
  if (Deno) {
    const [buffer, decoder] = [new Uint8Array(16384), new TextDecoder()];
    while (!text.endsWith("\n")) {
      const length = Deno.stdin.readSync(buffer) ?? Deno.exit(0); // as this process is not needed
      text += decoder.decode(buffer.subarray(0, length), { stream: true });
    }
  } else text = runtimes.prompt("") ?? process!.exit(0); // all else takes Bun 0.3 to 2 ms to read with
  const order: Order = parse(text);
  const { claim, secret, call, steps } = order;
  const begin = Date.now(); // a `Date` takes Deno 0.3 ms
  const now = performance.now.bind(performance);
  const start = now();
  let result: Result | undefined;
  try {
    if (call) {
      const importing = runtimes[Symbol.for("forrest.importing")] = new Set([call.place]);
      preload?.(call.place);
      const callee = (await import(call.url))[call.name];
      importing.clear();
      const { writable } = Object.getOwnPropertyDescriptor(callee ?? {}, "prototype") ?? {};
      const isFunction = typeof callee === "function" && writable !== false; // it may be a class
      if (isFunction) result = { value: await callee(...steps[0].args ?? []) };
    }
  } catch (value) {
    result = { value, hasFailed: true };
  }
  const runtime = now() - start;
  const tell: Tell = async (...answer) => {
    try {
      for (const { prototype } of [Object, Array]) {
        delete (prototype as { toJSON?: unknown }).toJSON;
      }
      const text = `\x1e${stringify(answer)}\n`;
      if (text.length > 60_000) return false; // it is more than a pipe holds
      if (Deno) {
        const bytes = new TextEncoder().encode(text);
        for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
        return true;
      }
      const output = Bun.file(1);
      return output.size === Infinity && await Bun.write(output, text) > 0; // it may be no pipe now
    } catch { // the task has closed its standard output
      return false;
    }
  };
  const need: Load = (module) => {
    try {
      Object.assign(globalThis, own, process && { process });
      Object.assign(JSON, { parse, stringify });
    } catch { /* the task has frozen them */ }
    return load(module);
  };
  const { value, hasFailed } = result ?? { hasFailed: true };
  const returnValue = value === undefined ? { $undefined: true } : value;
  const isSimple = !hasFailed && (value === undefined || isPlain(value, 50));
  if (!isSimple || !await tell(claim, secret, { begin, runtime, returnValue })) {
    await (await need("conclude")).conclude(order, begin, runtime, result, need, tell);
  }
  if (Deno) Deno.exit(0);
  // Bun writes to pipes asynchronously: so it may, unless something else keeps the process alive
  setTimeout(() => process!.exit(0), 200).unref();
}

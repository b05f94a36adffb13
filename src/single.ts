/**
 * What the process of one task runs.
 *
 * Its text is handed to the runtime: to load the modules of the runner, and to run their code for the
 * first time, takes a quarter of what Deno takes to start, and as long as Bun. So it refers to nothing
 * around it. As each of its own lines takes Bun some 0.01 ms, it does no more than what calls with plain
 * arguments and a plain result need; `conclude.ts` does the rest, and is loaded when it is needed. It is
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
  calls: Call[];
  session?: string;
  retries: number;
};

/**
 * Where the function of a step is: in a file, or in the order. The steps that an order begins with have one
 * if each argument is plain, or the result of a step before or a part of it.
 */
export type Call = { url: string; place: string; name: string; source: null } | { source: string };

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

/** How a process reads its order and tells its outcome: what differs between runtimes. */
export type Channel = {
  read(): string;
  write(text: string): boolean | Promise<boolean>;
  end(): void;
  own: object; // what a task may have replaced by the time it is used again
};

/** Makes a channel with what the runtime has before any task can change that. */
export function channelOfDeno(): Channel {
  const { Deno } = globalThis;
  const [buffer, decoder] = [new Uint8Array(16384), new TextDecoder()];
  return {
    own: {},
    read() {
      let text = "";
      while (!text.endsWith("\n")) {
        const length = Deno.stdin.readSync(buffer) ?? Deno.exit(0); // as this process is not needed
        text += decoder.decode(buffer.subarray(0, length), { stream: true });
      }
      return text;
    },
    write(text) {
      const bytes = new TextEncoder().encode(text);
      for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
      return true;
    },
    end: () => Deno.exit(0),
  };
}

type Bun = {
  file(descriptor: number): { size: number };
  write(file: unknown, text: string): Promise<number>;
};

/** The same. */
export function channelOfBun(): Channel {
  const { Bun, process, prompt } = globalThis as typeof globalThis & {
    Bun: Bun;
    process: typeof import("node:process");
  };
  return {
    own: { process },
    read: () => prompt("") ?? process.exit(0), // all else takes Bun 0.3 to 2 ms to read with
    async write(text) {
      const output = Bun.file(1);
      return output.size === Infinity && await Bun.write(output, text) > 0; // it may be no pipe now
    },
    // Bun writes to pipes asynchronously: so it may, unless something else keeps the process alive
    end: () => void setTimeout(() => process.exit(0), 200).unref(),
  };
}

/** Waits for the order to run a task, and runs it. */
export async function runSingle(
  { read, write, end, own }: Channel,
  load: Load,
  isPlain: Modules["values"]["isPlain"],
  preload?: Modules["steps"]["requireModule"],
): Promise<void> {
  const { parse, stringify } = JSON;
  const ours = { JSON, Date, Map, Set, URL, RegExp, Promise, Error, performance, ...own };
  const order: Order = parse(read());
  const { claim, secret, calls, steps } = order;
  const begin = Date.now(); // a `Date` takes Deno 0.3 ms
  const now = performance.now.bind(performance);
  const start = now();
  const results: unknown[] = [];
  let thrown: { value: unknown } | undefined;
  const follow = (arg: unknown) => {
    const { $step, path = [] } = (arg ?? {}) as { $step?: number; path?: string[] };
    if ($step === undefined) return arg;
    let value = results[$step] as Record<string, unknown> | null | undefined;
    for (const key of path) {
      if (value === undefined || value === null) {
        const place = `in the path ${stringify(path)} of step ${$step}`;
        throw new TypeError(`Cannot read \`${key}\` of ${value}, ${place}`);
      }
      value = value[key] as typeof value;
    }
    return value;
  };
  try {
    const importing = (globalThis as unknown as Importing)[Symbol.for("forrest.importing")] =
      new Set();
    for (const call of calls) {
      let callee: unknown;
      if (call.source !== null) callee = new Function(`"use strict"; return (${call.source}\n)`)();
      else {
        importing.add(call.place);
        preload?.(call.place);
        callee = (await import(call.url))[call.name];
        importing.clear();
      }
      const { writable } = Object.getOwnPropertyDescriptor(callee ?? {}, "prototype") ?? {};
      if (typeof callee !== "function" || writable === false) break; // it may be a class
      const args: unknown[] = [];
      for (const arg of steps[results.length].args ?? []) args[args.length] = follow(arg);
      results.push(await callee(...args));
    }
  } catch (value) {
    thrown = { value };
  }
  const runtime = now() - start;
  const tell: Tell = async (...answer) => {
    try {
      for (const { prototype } of [Object, Array]) {
        delete (prototype as { toJSON?: unknown }).toJSON;
      }
      const text = `\x1e${stringify(answer)}\n`;
      return text.length < 60_000 && await write(text); // which is less than a pipe holds
    } catch { // the task has closed its standard output
      return false;
    }
  };
  const need: Load = (module) => {
    try {
      Object.assign(globalThis, ours);
      Object.assign(JSON, { parse, stringify });
    } catch { /* the task has frozen them */ }
    return load(module);
  };
  const value = results[results.length - 1];
  const returnValue = value === undefined ? { $undefined: true } : value;
  let isSimple = !thrown && results.length === steps.length;
  try {
    isSimple &&= value === undefined || isPlain(value, 50);
  } catch {
    isSimple = false; // a part of it is a getter that throws
  }
  if (!isSimple || !await tell(claim, secret, { begin, runtime, returnValue })) {
    const { conclude } = await need("conclude");
    await conclude(order, begin, runtime, results, thrown, need, tell);
  }
  end();
}

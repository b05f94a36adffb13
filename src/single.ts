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

type Modules = {
  conclude: typeof import("./conclude.ts");
  files: typeof import("./files.ts");
  steps: typeof import("./steps.ts");
  values: typeof import("./values.ts");
};
/** Loads a module of forrest. */
export type Load = <Name extends keyof Modules>(name: Name) => Promise<Modules[Name]>;

type Bun = {
  file(descriptor: number): { size: number };
  write(file: unknown, text: string): Promise<number>;
};

/** What a runtime has before any task can change that; first what can be assigned. */
export type Host = {
  process?: typeof import("node:process");
  setTimeout?: typeof setTimeout;
  Bun?: Bun;
  Deno?: typeof Deno;
};

/** Writes to the pool; false if that cannot be done. */
type Write = (text: string, host: Host) => boolean | Promise<boolean>;

/** Waits for the line that is the order. */
function readOnDeno(): string {
  const { stdin, exit } = Deno;
  const [buffer, decoder] = [new Uint8Array(16384), new TextDecoder()];
  let text = "";
  while (!text.endsWith("\n")) {
    const length = stdin.readSync(buffer) ?? exit(0); // as this process is not needed
    text += decoder.decode(buffer.subarray(0, length), { stream: true });
  }
  return text;
}

function writeOnDeno(text: string, { Deno }: Host): boolean {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += Deno!.stdout.writeSync(bytes.subarray(at));
  return true;
}

function endOnDeno({ Deno }: Host): void {
  Deno!.exit(0);
}

/** Waits for the line that is the order. All but `prompt()` takes Bun 0.3 to 2 ms to read with. */
function readOnBun({ process }: Host): string {
  return prompt("") ?? process!.exit(0);
}

async function writeOnBun(text: string, { Bun }: Host): Promise<boolean> {
  const output = Bun!.file(1);
  return output.size === Infinity && await Bun!.write(output, text) > 0; // it may be no pipe now
}

/** Bun writes to pipes asynchronously: so it may, unless something else keeps the process alive. */
function endOnBun({ process, setTimeout }: Host): void {
  setTimeout!(() => process!.exit(0), 200).unref();
}

/** How a process reads its order, writes its answer and ends on Deno; as an object they take 0.1 ms more. */
export const onDeno = [readOnDeno, writeOnDeno, endOnDeno] as const;
/** How a process does so on Bun. */
export const onBun = [readOnBun, writeOnBun, endOnBun] as const;

/** Runs the task of an order, and tells what came of it. */
export async function runSingle(
  host: Host,
  read: (host: Host) => string,
  write: Write,
  end: (host: Host) => void,
  load: Load,
  isPlain: Modules["values"]["isPlain"],
  preload?: Modules["steps"]["requireModule"],
): Promise<void> {
  const { parse, stringify } = JSON;
  const ours = { JSON, Date, Map, Set, URL, RegExp, Promise, Error, performance, TextEncoder };
  const order: Order = parse(read(host));
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
    const importing = (globalThis as Importing)[Symbol.for("forrest.importing")] = new Set();
    for (let index = 0; index < calls.length; index++) {
      const call = calls[index];
      let callee: unknown;
      if (call.source !== null) callee = new Function(`"use strict"; return (${call.source}\n)`)();
      else {
        importing.add(call.place);
        preload?.(call.place);
        callee = (await import(call.url))[call.name];
        importing.clear();
      }
      if (typeof callee !== "function") break;
      const prototype = Object.getOwnPropertyDescriptor(callee, "prototype");
      const mayBeClass = prototype &&
        (!prototype.writable || Object.keys(Object(prototype.value)).length > 0 ||
          Object.getPrototypeOf(Object(prototype.value)) !== Object.prototype);
      if (mayBeClass) break;
      const given = steps[index].args ?? [];
      const args: unknown[] = [];
      for (let at = 0; at < given.length; at++) args[at] = follow(given[at]);
      results[index] = await callee(...args);
    }
  } catch (value) {
    thrown = { value };
  }
  const runtime = now() - start;
  let isTold = false;
  try {
    const value = results[steps.length - 1];
    if (results.length === steps.length && (value === undefined || isPlain(value, 50))) {
      const returnValue = value === undefined ? '{"$undefined":true}' : stringify(value);
      const told = `{"begin":${begin},"runtime":${runtime},"returnValue":${returnValue}}`;
      const answer = `\x1e[${stringify(claim)},"${secret}",${told}]\n`;
      // as in `conclude.ts`, in fewer steps
      const isAtomic = answer.length < 1300 || new TextEncoder().encode(answer).length <= 4096;
      isTold = isAtomic && await write(answer, host);
    }
  } catch { /* a getter throws, or the task has closed its standard output */ }
  if (!isTold) {
    const restore = (target: object, values: object) => {
      try {
        Object.assign(target, values);
      } catch { /* the task has frozen it, or what comes now cannot be assigned */ }
    };
    const need: Load = (module) => {
      restore(globalThis, ours);
      restore(globalThis, host);
      restore(JSON, { parse, stringify });
      return load(module);
    };
    const { conclude } = await need("conclude");
    await conclude(order, begin, runtime, results, thrown, need, (text) => write(text, host));
  }
  end(host);
}

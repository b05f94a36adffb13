/**
 * The runner: a process that a pool has started.
 *
 * @module
 */

import { type Outcome, record, type State } from "./files.ts";
import type { Answer, Settings } from "./pool.ts";
import { runSteps, type Step, stepsOf } from "./steps.ts";
import {
  all,
  isBundled,
  parse,
  race,
  RUNNER,
  shared,
  stringify,
  system,
  writeAll,
} from "./system.ts";
import { encode, encodeThrown } from "./values.ts";

/** Serves a pool: each line is the path of a claimed task, or a call of a `map`. */
export async function serve(settings: Settings): Promise<never> {
  const { session, retries, concurrency, descriptor } = settings;
  const input = descriptor ? system.openSync(`/dev/fd/${descriptor}`) : system.stdin;
  const [buffer, decoder, directory] = [new Uint8Array(65536), new TextDecoder(), system.cwd()];
  const busy = new Set<Promise<void>>();
  const work = async (request: string | { key: string; step: Step }) => {
    if (descriptor) system.chdir(directory); // as the task before may have left it
    const answer = typeof request === "string"
      ? [request, ...await perform(request, session, retries)]
      : await call(request.key, request.step, session);
    writeAll(system.stdout, `\x1e${stringify(answer)}\n`);
  };
  const die = (error: unknown): never => {
    writeAll(system.stderr, `${(error as Error)?.stack ?? error}\n`);
    system.exit(70); // neither filed nor answered: the pool knows what to do
  };
  for (let text = "";;) {
    const end = text.indexOf("\n");
    if (end < 0) { // a synchronous read, as long as nothing else is to be done, starts faster
      const length = await (busy.size ? input.read(buffer) : input.readSync(buffer));
      if (!length) break;
      text += decoder.decode(buffer.subarray(0, length), { stream: true });
      continue;
    }
    const done = work(parse(text.slice(0, end))).catch(die).finally(() => busy.delete(done));
    busy.add(done);
    text = text.slice(end + 1);
    if (busy.size >= concurrency) await race(busy);
  }
  await all(busy);
  if (globalThis.Deno) system.exit(0);
  // Bun writes to pipes asynchronously: so it may, unless something else keeps the process alive
  return setTimeout(() => system.exit(0), 200).unref() as never;
}

/** Runs a claimed task and files its outcome. */
async function perform(claim: string, session?: string, retries = 0): Promise<[State, number]> {
  const [text, outcome] = await run(claim, session);
  return record(claim, text, outcome, retries);
}

/** The text of a task file, and what comes of its steps. */
export async function run(path: string, session?: string): Promise<[string, Outcome]> {
  const started = new Date().toISOString();
  const begin = performance.now();
  const runtime = () => Math.round((performance.now() - begin) * 1000) / 1e6; // seconds
  let text = "";
  try {
    text = system.readTextFileSync(path);
    const returnValue = encode(await runSteps(stepsOf(text, path), session), "returnValue");
    return [text, { started, runtime: runtime(), returnValue }];
  } catch (error) {
    return [text, { started, runtime: runtime(), errorValue: encodeThrown(error) }];
  }
}

async function call(key: string, step: Step, session?: string): Promise<Answer> {
  try {
    return [key, "done", encode(await runSteps([step], session), "returnValue")];
  } catch (error) {
    return [key, "fail", encodeThrown(error)];
  }
}

if (system.args[0] === RUNNER && !shared.serve) { // not in the copies of it that task modules import
  shared.serve = () => serve(parse(system.args[1]));
  if (isBundled) await shared.serve().then(() => new Promise(() => {})); // never lets the program begin
  else if (import.meta.main) shared.serve();
}

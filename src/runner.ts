/**
 * The runner: a process that a pool has started.
 *
 * @module
 */

import { Filing, type Outcome, record, type Sealed, sealOutcome } from "./files.ts";
import type { Answer, Problem, Settings } from "./pool.ts";
import { runSteps, type Step, stepsOf } from "./steps.ts";
import {
  all,
  isOfSystem,
  parse,
  race,
  removeToJSON,
  stringify,
  system,
  writeAll,
} from "./system.ts";
import { encode, encodeThrown } from "./values.ts";

/** Serves a pool: each line is the path of a claimed task, or a call of a `map`. */
export async function serve(settings: Settings): Promise<void> {
  const { session, retries, concurrency, descriptor } = settings;
  const input = descriptor ? system.openSync(`/dev/fd/${descriptor}`) : system.stdin;
  const [buffer, decoder, directory] = [new Uint8Array(65536), new TextDecoder(), system.cwd()];
  const busy = new Set<Promise<void>>();
  let text = "";
  const say = (answers: (Answer | Problem)[]) => {
    // one by one: a longer text could be torn by what another process prints
    for (const answer of answers) writeAll(system.stdout, `\x1e${stringify(answer)}\n`);
  };
  const answerOf = ({ claim, state, retried }: Sealed): Answer => [claim, state, retried];
  const work = async (request: string | { key: string; step: Step }) => {
    if (descriptor) system.chdir(directory); // as the task before may have left it
    if (typeof request !== "string") return say([await call(request.key, request.step, session)]);
    const outcome = await run(request, session);
    if (busy.size > 1 || filing.work || text.includes("\n")) {
      filing.add(sealOutcome(request, ...outcome, retries)); // while other tasks run
    } else {
      say([answerOf(record(request, ...outcome, retries))]);
    }
  };
  const die = (error: unknown, key: string): never => {
    if (isOfSystem(error)) say([[key, "problem", encodeThrown(error)]]); // which ends the run
    else writeAll(system.stderr, `${(error as Error)?.stack ?? error}\n`);
    system.exit(70); // neither filed nor answered: the pool knows what to do
  };
  const filing: Filing = new Filing(
    (batch) => say(batch.map(answerOf)),
    (error) => die(error, filing.batch[0].claim),
  );
  const readLine = async () => {
    const parts = [text]; // as to search all of a long line for each part would take quadratic time
    while (!parts.at(-1)!.includes("\n")) {
      // a synchronous read, as long as nothing else is to be done, starts faster
      const isIdle = !busy.size && !filing.work;
      const length = await (isIdle ? input.readSync(buffer) : input.read(buffer));
      if (!length) return false;
      parts.push(decoder.decode(buffer.subarray(0, length), { stream: true }));
    }
    text = parts.join("");
    return true;
  };
  while (text.includes("\n") || await readLine()) {
    const end = text.indexOf("\n");
    const request = parse(text.slice(0, end));
    text = text.slice(end + 1);
    const key = typeof request === "string" ? request : request.key;
    const failed = (error: unknown) => die(error, key);
    const done = work(request).catch(failed).finally(() => busy.delete(done));
    busy.add(done);
    if (busy.size >= concurrency) await race(busy);
  }
  await all(busy);
  await filing.work;
  if (globalThis.Deno) system.exit(0);
  // Bun writes to pipes asynchronously: so it may, unless something else keeps the process alive
  setTimeout(() => system.exit(0), 200).unref();
}

/** The text of a task file, and what comes of its steps. */
export async function run(path: string, session?: string): Promise<[string, Outcome]> {
  const started = new Date().toISOString();
  const begin = performance.now();
  const runtime = () => Math.round((performance.now() - begin) * 1000) / 1e6; // seconds
  let text = "";
  try {
    text = system.readTextFileSync(path);
    const name = path.replace(/.*\//s, "").replace(/\.json@[^@]*$/, ".json"); // it moves on from its folder
    const returnValue = encode(await runSteps(stepsOf(text, name), session), "returnValue");
    return [text, { started, runtime: runtime(), returnValue }];
  } catch (error) {
    return [text, { started, runtime: runtime(), errorValue: encodeThrown(error) }];
  } finally {
    removeToJSON();
  }
}

async function call(key: string, step: Step, session?: string): Promise<Answer> {
  try {
    return [key, "done", encode(await runSteps([step], session), "returnValue")];
  } catch (error) {
    return [key, "fail", encodeThrown(error)];
  }
}

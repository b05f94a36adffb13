/**
 * What the process of one task does with all but the simplest of tasks and outcomes.
 *
 * @module
 */

import type { Load, Order, Told } from "./single.ts";
import { isOfSystem, removeToJSON, stringify } from "./system.ts";

/** Whether a pipe takes a text whole (`PIPE_BUF`): another process may print into the middle of a longer one. */
function isAtomic(text: string): boolean {
  return new TextEncoder().encode(text).length <= 4096;
}

/** Runs those steps of a task that have no results yet; and tells the pool what came of it, or files that. */
export async function conclude(
  order: Order,
  begin: number,
  runtime: number,
  results: unknown[],
  thrown: { value: unknown } | undefined,
  load: Load,
  write: (text: string) => boolean | Promise<boolean>,
): Promise<void> {
  const { claim, secret, steps, session, retries } = order;
  const tell = async (...answer: unknown[]) => {
    try {
      removeToJSON();
      const text = `\x1e${stringify(answer)}\n`;
      return isAtomic(text) && await write(text); // what is not is filed here
    } catch { // the task has closed its standard output
      return false;
    }
  };
  let failure = thrown;
  if (failure?.value instanceof ReferenceError) {
    const { explain } = await load("steps");
    failure = { value: explain(failure.value, steps[results.length].call) };
  } else if (!failure && results.length < steps.length) {
    const now = performance.now.bind(performance); // as the task may replace it
    const start = now();
    try {
      await (await load("steps")).runSteps(steps, session, results);
    } catch (value) {
      failure = { value };
    }
    runtime += now() - start;
  }
  const { encode, encodeThrown } = await load("values");
  const stored = () => {
    if (failure) return { errorValue: encodeThrown(failure.value) };
    try {
      return { returnValue: encode(results.at(-1), "returnValue") };
    } catch (error) {
      return { errorValue: encodeThrown(error) };
    }
  };
  const told: Told = { begin, runtime, ...stored() };
  if (await tell(claim, secret, told)) return;
  const { outcomeOf, record, textOf } = await load("files");
  try {
    const { state, retried } = record(claim, textOf(claim), outcomeOf(told), retries);
    await tell(claim, state, retried); // if it cannot, the pool finds out when this ends
  } catch (error) {
    const isTold = isOfSystem(error) && await tell(claim, "problem", encodeThrown(error));
    if (!isTold) throw error;
  }
}

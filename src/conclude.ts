/**
 * What the process of one task does with all but the simplest of tasks and outcomes.
 *
 * @module
 */

import type { Load, Order, Result, Tell, Told } from "./single.ts";

/** Runs a task, unless that was `called` already; and tells the pool what came of it, or files that. */
export async function conclude(
  order: Order,
  begin: number,
  runtime: number,
  called: Result | undefined,
  load: Load,
  tell: Tell,
): Promise<void> {
  const { claim, secret, retries } = order;
  let result = called;
  if (!result) {
    const now = performance.now.bind(performance); // as the task may replace it
    const start = now();
    result = await run(order, load);
    runtime += now() - start;
  }
  const told: Told = { begin, runtime, ...store(result, await load("values")) };
  if (await tell(claim, secret, told)) return;
  const { outcomeOf, record, textOf } = await load("files");
  const { state, attempts } = record(claim, textOf(claim), outcomeOf(told), retries);
  await tell(claim, state, attempts); // if it cannot, the pool finds out when this ends
}

async function run({ steps, session }: Order, load: Load): Promise<Result> {
  try {
    return { value: await (await load("steps")).runSteps(steps, session) };
  } catch (value) {
    return { value, hasFailed: true };
  }
}

function store({ value, hasFailed }: Result, values: typeof import("./values.ts")) {
  const { encode, encodeThrown } = values;
  if (hasFailed) return { errorValue: encodeThrown(value) };
  try {
    return { returnValue: encode(value, "returnValue") };
  } catch (error) {
    return { errorValue: encodeThrown(error) };
  }
}

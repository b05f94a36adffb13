/** Tasks for the benchmark. */

export const noop = (): void => {};

/** Computes for a millisecond. */
export function compute(): number {
  const end = performance.now() + 1;
  let rounds = 0;
  while (performance.now() < end) rounds++;
  return rounds;
}

export const wait = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

/** What the peers in Node are to do, as `tasks.ts` has it. */

export const noop = () => {};

export const echo = (text) => text;

export const rest = () => new Promise((resolve) => setTimeout(resolve, 1));

/** What BullMQ calls in processes of its own. */
export default ({ name }) => ({ noop, echo, rest })[name]();

/**
 * Lines that come in parts.
 *
 * @module
 */

import type { Stream } from "./system.ts";

/** What has been printed of a line, by a task, or by several: then `id` has all of theirs. */
type Begun = { id: string; stream: Stream; text: string };

const LONGEST = 1e6; // characters of a line that are kept together

/** Puts together what tasks print, so that the lines of several do not mix. */
export class Lines {
  #begun = new Map<string, Begun>();

  /** Adds what a task has printed; gives the lines that are whole now. */
  add(text: string, stream: Stream, id: string): string {
    const key = `${stream} ${id}`;
    const before = this.#begun.get(key)?.text ?? "";
    const whole = before + text;
    const last = text.lastIndexOf("\n") + 1; // to search all of a long line again takes too long
    const end = whole.length > LONGEST ? whole.length : last && before.length + last;
    this.#begun.set(key, { id, stream, text: whole.slice(end) });
    if (end === whole.length) this.#begun.delete(key);
    return whole.slice(0, end);
  }

  /** Takes the lines that a task has begun; those of all tasks, without an id. */
  take(id?: string): Begun[] {
    const isIts = (ids: string) => id === undefined || ids === id || ids.split(",").includes(id);
    const taken = [...this.#begun].filter(([, begun]) => isIts(begun.id));
    for (const [key] of taken) this.#begun.delete(key);
    return taken.map(([, begun]) => begun);
  }
}

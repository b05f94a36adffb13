/**
 * Lines that come in parts.
 *
 * @module
 */

import type { Stream } from "./system.ts";

/** What has been printed of a line. */
type Begun = { id: string; stream: Stream; text: string };

const LONGEST = 1e6; // characters of a line that are kept together

/** Puts together what tasks print, so that the lines of several do not mix. */
export class Lines {
  #begun = new Map<string, Begun>();

  /** Adds what a task has printed; gives the lines that are whole now. */
  add(text: string, stream: Stream, id: string): string {
    const key = `${stream} ${id}`;
    const whole = (this.#begun.get(key)?.text ?? "") + text;
    const end = whole.length > LONGEST ? whole.length : whole.lastIndexOf("\n") + 1;
    this.#begun.set(key, { id, stream, text: whole.slice(end) });
    if (end === whole.length) this.#begun.delete(key);
    return whole.slice(0, end);
  }

  /** Takes the lines that a task has begun; those of all tasks, without an id. */
  take(id?: string): Begun[] {
    const taken = [...this.#begun].filter(([, begun]) => id === undefined || id === begun.id);
    for (const [key] of taken) this.#begun.delete(key);
    return taken.map(([, begun]) => begun);
  }
}

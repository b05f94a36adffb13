/**
 * What the log of a list says of its tasks: what has happened to them, and what they have printed.
 *
 * @module
 */

import { linesOf } from "./lines.ts";

const TIME = "2026-11-20T20:00:00.000Z ".length; // at the beginning of each line

/** What a line says of a task, if it is about that. */
type Said = { event: string; printed?: undefined } | { printed: string };

export function saidOf(line: string, id: string): Said | undefined {
  const text = line.slice(TIME);
  if (text.startsWith(`${id} `)) { // the id of another task may begin with this one
    const said = text.slice(id.length + 1);
    if (said.startsWith("|")) return { printed: said.slice(2) };
    if (/^(is |has |\s)/.test(said)) return { event: said };
  }
  const [ids, ...printed] = text.split(" | "); // a process that holds several prints for all of them
  const isTheirs = printed.length > 0 && ids.split(",").includes(id);
  return isTheirs ? { printed: printed.join(" | ") } : undefined;
}

/** What a task has printed since it was last started, or since then if it has an outcome. */
export async function printedBy(
  log: string,
  id: string,
  isRunning: boolean,
  since: string,
): Promise<string> {
  let isStarted = isRunning; // when that began, its file does not say
  let lines: string[] = [];
  for await (const line of linesOf(log, false)) {
    const said = saidOf(line, id);
    if (said?.printed !== undefined) {
      if (isStarted || line >= since) lines.push(said.printed);
    } else if (said) {
      const isStart = said.event.startsWith("is started");
      if (isStart || isRunning) lines = []; // what comes now is of another try
      if (isStart) isStarted = true;
    }
  }
  return lines.join("\n");
}

/** A try of a task. */
export interface Try {
  /** When it was started, in milliseconds since 1970. */
  started: number;
  /** For how long it ran, if it is over. */
  seconds?: number;
  /** The id of its process. */
  process?: string;
  /** Why the task was tried again. */
  error?: string;
}

const EVENT =
  /^(\S+) (.+?) (is started|is in `|has failed after )(?: in process (\d+)|([\d.e-]+) s, and is retried in \S+ s: (.*)|\w+`)?$/s;

/** The tries of all tasks, or of one, by their ids. */
export async function triesIn(log: string, only?: string): Promise<Map<string, Try[]>> {
  const tries = new Map<string, Try[]>();
  for await (const line of linesOf(log, false)) {
    const [, time, id, event, process, seconds, error] = EVENT.exec(line) ?? [];
    if (!id || (only !== undefined && id !== only)) continue;
    const own = tries.get(id) ?? [];
    tries.set(id, own);
    const now = Date.parse(time);
    if (event === "is started") own.push({ started: now, process });
    else if (own.length) {
      const last = own.at(-1)!;
      last.seconds = Number(seconds ?? (now - last.started) / 1000);
      last.error = error;
    }
  }
  return tries;
}

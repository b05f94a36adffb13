/**
 * The lines of a file, and what those of the log of a list say of its tasks: what has happened to them, and what
 * they have printed.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createReadStream } from "node:fs";
import process from "node:process";
import { UsageError } from "./command.ts";

/** The lines of a file; throws if one is not in UTF-8, or else reads what is wrong in it as U+FFFD. */
export async function* linesOf(file: string, isStrict = true): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder("utf-8", { fatal: isStrict });
  let number = 0;
  const decode = (parts: Uint8Array[]) => {
    number++;
    try {
      return decoder.decode(Buffer.concat(parts));
    } catch {
      throw new UsageError(`Line ${number} is not in UTF-8`);
    }
  };
  let begun: Uint8Array[] = []; // parts of a long line, which is not to be searched for each of them
  for await (const chunk of file === "-" ? process.stdin : createReadStream(file)) {
    let start = 0;
    for (let end; (end = chunk.indexOf(10, start)) >= 0; start = end + 1) {
      yield decode([...begun, chunk.subarray(start, end)]);
      begun = [];
    }
    if (start < chunk.length) begun.push(chunk.subarray(start));
  }
  if (begun.length) yield decode(begun);
}

const TIME = "2026-11-20T20:00:00.000Z ".length; // at the beginning of each line

/** Whether a line is about a task, and then what the task has printed, unless it says what has happened to it. */
export function saidOf(line: string, id: string): { printed?: string } | undefined {
  const text = line.slice(TIME);
  if (text.startsWith(`${id} `)) { // the id of another task may begin with this one
    const said = text.slice(id.length + 1);
    if (said.startsWith("|")) return { printed: said.slice(2) };
    if (/^(is |has |\s)/.test(said)) return {};
  }
  const [ids, ...printed] = text.split(" | "); // a process that holds several prints for all of them
  const isTheirs = printed.length > 0 && ids.split(",").includes(id);
  return isTheirs ? { printed: printed.join(" | ") } : undefined;
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
  /** The lines that it has printed, if only those of one task were asked for. */
  printed?: string[];
}

const EVENT =
  /^(\S+) (.+?) (is started|is in `|has failed after )(?: in process (\d+)|([\d.e-]+) s, and is retried in \S+ s: (.*)|\w+`)?$/s;

/** The tries of all tasks, or of one, by their ids. */
export async function triesIn(log: string, only?: string): Promise<Map<string, Try[]>> {
  const tries = new Map<string, Try[]>();
  for await (const line of linesOf(log, false)) {
    const { printed } = (only !== undefined && saidOf(line, only)) || {};
    if (printed !== undefined) tries.get(only!)?.at(-1)?.printed?.push(printed);
    const [, time, id, event, process, seconds, error] = EVENT.exec(line) ?? [];
    if (!id || printed !== undefined || (only !== undefined && id !== only)) continue;
    const own = tries.get(id) ?? [];
    tries.set(id, own);
    const now = Date.parse(time);
    const last = own.at(-1);
    if (event === "is started") own.push({ started: now, process, printed: [] });
    else if (last) {
      last.seconds = Number(seconds ?? (now - last.started) / 1000);
      last.error = error;
    }
  }
  return tries;
}

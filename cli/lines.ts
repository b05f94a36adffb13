/**
 * The lines of a file, or of the standard input.
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

/**
 * `forrest report`: writes a page about a list, or a trace.
 *
 * @module
 */

import { writeFileSync } from "node:fs";
import { type Command, DIR, type Input } from "./command.ts";
import { directoryOf, openList } from "./list.ts";
import { write } from "./terminal.ts";

export const report: Command = {
  most: 1,
  usage: ["DIR [-o FILE] [--trace FILE]"],
  brief: "write a page with a timeline and all failures",
  about: "Write a page with totals, a timeline, run times, and failures by their message.",
  words: [DIR],
  options: [
    ["-o, --output FILE", "the page [default: report.html]"],
    ["--trace FILE", "a trace for Perfetto, in the Chrome format, instead"],
  ],
  examples: ["forrest report tasklist -o report.html"],
  action: writeReport,
};

async function writeReport(input: Input): Promise<number> {
  const directory = directoryOf(input);
  openList(directory);
  const trace = input.text("trace");
  const page = input.text("output") ?? (trace ? undefined : "report.html");
  if (page) put(page, (await import("./page.ts")).reportPage(directory));
  if (trace) put(trace, (await import("./timeline.ts")).traceEvents(directory));
  for (const path of [page, trace]) if (path && path !== "-") write("stdout", `Written: ${path}\n`);
  return 0;
}

function put(path: string, text: string): void {
  if (path === "-") write("stdout", text);
  else writeFileSync(path, text);
}

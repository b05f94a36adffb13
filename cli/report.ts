/**
 * `forrest report`: writes a page about a list, or a trace.
 *
 * @module
 */

import { writeFileSync } from "node:fs";
import help from "./help/report.txt" with { type: "text" };
import type { Command, Input } from "./command.ts";
import { directoryOf, openList } from "./list.ts";
import { write } from "./terminal.ts";

export const report: Command = {
  help,
  most: 1,
  action: writeReport,
};

async function writeReport(input: Input): Promise<number> {
  const directory = directoryOf(input);
  openList(directory);
  const trace = input.text("trace");
  const page = input.text("output") ?? (trace ? undefined : "report.html");
  if (page) put(page, await (await import("./page.ts")).reportPage(directory));
  if (trace) put(trace, await (await import("./timeline.ts")).traceEvents(directory));
  for (const path of [page, trace]) if (path && path !== "-") write("stdout", `Written: ${path}\n`);
  return 0;
}

function put(path: string, text: string): void {
  if (path === "-") write("stdout", text);
  else writeFileSync(path, text);
}

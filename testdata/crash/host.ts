/** The program that the crash tests start and kill: `host.ts ACTION DIRECTORY OPTIONS`. */
import fs from "node:fs";
import process from "node:process";
import { defer, type RunOptions, TaskList } from "../../mod.ts";

interface Options extends RunOptions {
  /** The file for what this program has seen: a line for each event, written at once. */
  report: string;
  /** For `schedule`: the ids of the tasks, and the file in which they note that they ran. */
  ids?: string[];
  log?: string;
  logFile?: string;
  /** What the program's own handlers of signals do. */
  handler?: "exit" | "stay";
  /** What to repeat in each line of the report. */
  tag?: string;
  /** Milliseconds that this program lives on after the run. */
  linger?: number;
}

const [action, directory, text = "{}"] = process.argv.slice(2);
const { report, ids = [], log, logFile, handler, linger, tag, ...options }: Options = JSON.parse(
  text,
);

const runner = process.env.FORREST_CRASH_RUNNER;
if (runner) { // runners are started with this program, which traces them
  if ("Deno" in globalThis) Deno.execPath = () => runner;
  else process.execPath = runner;
}

function say(event: Record<string, unknown>): void {
  fs.appendFileSync(report, `${JSON.stringify({ ...event, tag })}\n`);
}

async function schedule(): Promise<void> {
  const tasks = new TaskList(directory, { existOk: true, preClean: false });
  const note = new URL("tasks.ts#note", import.meta.url);
  const schedule = async (id: string) => {
    try {
      await tasks.schedule(defer(note, log, id), { id });
      say({ scheduled: id });
    } catch (error) {
      say({ refused: id, error: `${error}` });
    }
  };
  await schedule(ids[0]);
  await Promise.all(ids.slice(1).map(schedule));
}

async function run(): Promise<void> {
  const tasks = new TaskList(directory, { existOk: true, preClean: false, logFile });
  for await (const task of tasks.run(options)) {
    const error = task.errorValue as Error | undefined;
    say({
      id: task.id,
      state: task.state,
      value: task.returnValue,
      ...error && { error: `${error?.message ?? error}`, name: error?.name },
      attempts: task.attempts,
    });
  }
  say({ ended: true });
}

for (const name of handler ? ["SIGINT", "SIGTERM", "SIGHUP"] as const : []) {
  process.on(name, () => {
    say({ handler: name });
    if (handler === "exit") process.exit(7);
  });
}
try {
  if (action === "schedule") await schedule();
  else await run();
} catch (error) {
  say({ failed: `${error}` });
  process.exitCode = 1;
}
if (linger) await new Promise((resolve) => setTimeout(resolve, linger));
if (handler) process.exit();

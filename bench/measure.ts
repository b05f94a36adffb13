/**
 * Measures one row of `--against` once, with the copy of forrest whose `mod.ts` is given, and prints a
 * number: `deno run -A bench/measure.ts ROW MODULE` or `bun bench/measure.ts ROW MODULE`.
 *
 * It uses nothing but the public API, so that it can measure any revision.
 *
 * @module
 */

import { execFile, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import type { RunOptions, TaskList } from "../mod.ts";
import { codecOf, median, seconds, start } from "./instruments.ts";
import { echo, noop, wait } from "./tasks.ts";

/** What is compared with another revision. */
export interface Row {
  /** What the number counts. */
  unit: string;
  /** What is counted, if it is a cost in place of a speed. */
  cost?: string;
  /** It leaves thousands of removed files behind, after which a disk has to come to rest. */
  isManyFiles?: true;
  measure(copy: Copy): number | Promise<number>;
}

/** The copy of forrest that is measured. */
interface Copy {
  forrest: typeof import("../mod.ts");
  /** The URL of its folder. */
  folder: URL;
  /** For lists; it is removed at the end. */
  scratch: string;
}

/** All rows, by name. Each warms up what it measures: caches of modules, and the compiler. */
export const rows: Record<string, Row> = {
  fresh: {
    unit: "tasks/s",
    async measure(copy) {
      const options = { processes: 2 };
      await drain(await listOf(copy, 20), options);
      return 200 / await drain(await listOf(copy, 200), options);
    },
  },
  kept: {
    unit: "tasks/s",
    isManyFiles: true,
    async measure(copy) {
      await drain(await listOf(copy, 200), kept);
      return 5000 / await drain(await listOf(copy, 5000), kept);
    },
  },
  schedule: {
    unit: "tasks/s",
    isManyFiles: true,
    async measure(copy) {
      await listOf(copy, 200);
      return 5000 / await seconds(() => listOf(copy, 5000));
    },
  },
  map: {
    unit: "calls/s",
    measure: (copy) => mapRate(copy, noop, 0, 20_000),
  },
  "map, 64 KB": {
    unit: "calls/s",
    measure: (copy) => mapRate(copy, echo, "x".repeat(65_536), 3000),
  },
  programs: {
    unit: "tasks/s",
    async measure(copy) {
      await runCommand(copy, 2);
      return 500 / await runCommand(copy, 500);
    },
  },
  "programs, scheduled": {
    unit: "tasks/s",
    async measure(copy) {
      const program = () => copy.forrest.command(["true"]);
      await drain(await listOf(copy, 2, program), { processes: 2 });
      return 500 / await seconds(async () => {
        await drain(await listOf(copy, 500, program), { processes: 2 });
      });
    },
  },
  waiting: {
    unit: "1/s",
    async measure(copy) {
      await drain(await listOf(copy, 2), { processes: 2 });
      const tasks = await listOf(copy, 200, () => copy.forrest.defer(wait, 100));
      let begun = Infinity;
      await drain(tasks, { processes: 2, concurrency: 50 }, (started) => {
        begun = Math.min(begun, Date.parse(started));
      });
      return 1000 / (Date.now() - begun);
    },
  },
  "waiting 1 ms": {
    unit: "tasks/s",
    isManyFiles: true,
    async measure(copy) {
      const options = { processes: 2, concurrency: 50, tasksPerProcess: Infinity };
      const rest = () => copy.forrest.defer(wait, 1);
      await drain(await listOf(copy, 200, rest), options);
      return 5000 / await drain(await listOf(copy, 5000, rest), options);
    },
  },
  idle: {
    unit: "%",
    cost: "of a CPU, by a run that waits for one task",
    measure: idleShare,
  },
  "values, doubles": {
    unit: "1/s",
    measure: (copy) => store(copy, Float64Array.from({ length: 3_000_000 }, () => Math.random())),
  },
  "values, numbers": {
    unit: "1/s",
    measure: (copy) => store(copy, Array.from({ length: 1_000_000 }, () => Math.random())),
  },
  large: {
    unit: "tasks/s",
    isManyFiles: true,
    async measure(copy) {
      await drain(await listOf(copy, 200), kept);
      const count = 20_000;
      const time = await seconds(async () => {
        const tasks = await listOf(copy, count);
        await drain(tasks, kept);
        check(tasks.count().done, count, "tasks in `done`");
      });
      return count / time;
    },
  },
  import: {
    unit: "ms",
    cost: "CPU time that it adds",
    measure: addedByImport,
  },
};

const kept = { processes: 2, tasksPerProcess: Infinity };

function check(found: number, expected: number, what: string): void {
  if (found !== expected) throw new Error(`Expected ${expected} ${what}, got ${found}`);
}

let lists = 0;

/** A new list of so many tasks, which do nothing if it is not said what they do. */
async function listOf(
  { forrest, scratch }: Copy,
  count: number,
  task: () => unknown = () => forrest.defer(noop),
): Promise<TaskList> {
  const tasks = new forrest.TaskList(path.join(scratch, `list${lists++}`));
  for (let left = count; left > 0; left -= 5000) {
    const length = Math.min(left, 5000);
    await Promise.all(Array.from({ length }, () => tasks.schedule(task() as object)));
  }
  return tasks;
}

/** Runs all tasks of a list, and gives the seconds that this has taken. */
async function drain(
  tasks: TaskList,
  options: RunOptions,
  finished = (_started: string) => {},
): Promise<number> {
  const { todo } = tasks.count();
  let done = 0;
  const time = await seconds(async () => {
    for await (const task of tasks.run(options)) {
      if (task.state === "done") done++;
      finished(task.started!);
    }
  });
  check(done, todo, "tasks with a return value");
  return time;
}

/** Runs a list of programs by the `forrest` command, and gives the seconds that this has taken. */
async function runCommand(copy: Copy, count: number): Promise<number> {
  const tasks = await listOf(copy, count, () => copy.forrest.command(["true"]));
  const cli = new URL("cli.ts", copy.folder).pathname;
  const [program, ...words] = [...start, cli, "run", tasks.directory, "-j", "2", "-q"];
  const time = await seconds(() => promisify(execFile)(program, words));
  check(tasks.count().done, count, "tasks in `done`");
  return time;
}

/** Calls a second of `map` with many times the same item, by runners that have started. */
async function mapRate<T>(
  { forrest }: Copy,
  call: (item: T) => unknown,
  item: T,
  count: number,
): Promise<number> {
  const items = Array.from({ length: count + 200 }, () => item);
  const results = forrest.map(call, items, { processes: 2 });
  for (let warm = 0; warm < 200; warm++) await results.next();
  let done = 0;
  const time = await seconds(async () => {
    for await (const _ of results) done++;
  });
  check(done, count, "calls");
  return count / time;
}

/** Per cent of a CPU that a run takes while it waits for a task, of ten seconds. */
async function idleShare(copy: Copy): Promise<number> {
  const SECONDS = 10;
  const tasks = await listOf(copy, 1, () => copy.forrest.defer(wait, (SECONDS + 4) * 1000));
  const ended = drain(tasks, { processes: 1 });
  await wait(2000); // its runner has started
  const before = process.cpuUsage();
  await wait(SECONDS * 1000);
  const { user, system } = process.cpuUsage(before);
  check(tasks.count().running, 1, "running tasks");
  await ended;
  return (user + system) / 1e4 / SECONDS;
}

/** How often in a second a value can be stored and read back. */
async function store({ folder }: Copy, value: unknown): Promise<number> {
  const { encode, decode } = await codecOf(folder);
  const once = () => decode(JSON.parse(JSON.stringify(encode(value, "value"))));
  once();
  const times: number[] = [];
  for (let time = 0; time < 11; time++) times.push(await seconds(once));
  return 1 / median(times);
}

/** Milliseconds of CPU time that a process takes to import forrest, beyond those for an empty module. */
function addedByImport({ folder, scratch }: Copy): number {
  const write = (name: string, text: string) => {
    const file = path.join(scratch, name);
    fs.writeFileSync(file, text);
    return file;
  };
  write("nothing.ts", "export {};\n");
  const empty = write("empty.ts", 'import "./nothing.ts";\n');
  const importing = write("importing.ts", `import "${new URL("mod.ts", folder).href}";\n`);
  const cpuTime = clockOfProcesses();
  for (const file of [importing, empty, importing]) cpuTime([...start, file]); // fills the caches
  const [base, whole]: number[][] = [[], []];
  for (let time = 0; time < 20; time++) {
    base.push(cpuTime([...start, empty]));
    whole.push(cpuTime([...start, importing]));
  }
  return median(whole) - median(base);
}

/**
 * What runs a program, and gives the milliseconds of CPU time of all its threads from its start to its
 * end. A program could not tell that of itself without loading more, which would be a part of it.
 */
function clockOfProcesses(): (command: string[]) => number {
  const { Bun } = globalThis as { Bun?: BunThatSpawns };
  if (Bun) {
    return (command) => {
      const { exitCode, resourceUsage } = Bun.spawnSync(command);
      check(exitCode, 0, "as the code of an exit");
      return Number(resourceUsage.cpuTime.total) / 1000;
    };
  }
  const { symbols: { getrusage } } = Deno.dlopen("libc.so.6", {
    getrusage: { parameters: ["i32", "buffer"], result: "i32" },
  });
  const CHILDREN = -1; // all that have ended
  const milliseconds = () => {
    const usage = new BigInt64Array(18); // it begins with the seconds and microseconds of both times
    check(getrusage(CHILDREN, usage.buffer), 0, "from `getrusage`");
    const [user, userMicros, system, systemMicros] = [...usage].map(Number);
    return (user + system) * 1000 + (userMicros + systemMicros) / 1000;
  };
  return ([program, ...words]) => {
    const before = milliseconds();
    check(spawnSync(program, words).status!, 0, "as the code of an exit");
    return milliseconds() - before;
  };
}

/** What is used of Bun, whose types are not here. */
interface BunThatSpawns {
  spawnSync(command: string[]): {
    exitCode: number;
    resourceUsage: { cpuTime: { total: bigint } };
  };
}

if (import.meta.main) {
  const [name, module] = process.argv.slice(2);
  const { href } = pathToFileURL(module);
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "forrest-measure-"));
  try {
    const copy = { forrest: await import(href), folder: new URL(".", href), scratch };
    console.log(await rows[name].measure(copy));
  } finally {
    fs.rmSync(scratch, { recursive: true });
  }
}

/**
 * Compares forrest with floors that are measured in the same run. `FORREST_BENCH_TASKS=1000000` makes the
 * large list as large as that.
 *
 * @module
 */

import { execFileSync, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { command, defer, map, TaskList } from "../mod.ts";
import { codecOf, median, printTable, quiet, runtime, seconds, start } from "./instruments.ts";
import { compute, noop, wait } from "./tasks.ts";

const rows: string[][] = [];
let scratch: string;
let lists = 0;

/** Prints a table of the rows whose names contain one of the `parts`, or of all. */
export async function compareWithFloors(parts: string[]): Promise<void> {
  scratch = fs.mkdtempSync(path.join(os.tmpdir(), "forrest-bench-"));
  try {
    for (const [name, measure] of measurements) {
      if (!parts.length || parts.some((part) => name.includes(part))) await measure();
    }
  } finally {
    fs.rmSync(scratch, { recursive: true });
  }
  printTable(["what", "forrest", "floor", "ratio", "bar"], rows);
}

const measurements: [name: string, measure: () => Promise<void>][] = [
  ["large list", largeList], // first, as this shows the memory of a process that has done nothing else
  ["values", values],
  ["fresh processes", freshProcesses],
  ["kept runners", keptRunners],
  ["schedule", schedule],
  ["waiting tasks", waitingTasks],
  ["building", building],
  ["import", importing],
  ["map, no-op", () => mapping("no-op", noop, 20_000)],
  ["map, 1 ms", () => mapping("1 ms", compute, 1000)],
  ["programs", programs],
];

/** The median of a few pairs, which are measured in turn, as the speed of a machine drifts; of two, the worse. */
async function pairs(ours: () => unknown, floor: () => unknown, times = 5, before = () => {}) {
  const found: [number, number][] = [];
  for (let time = 0; time < times; time++) {
    await before();
    const our = await seconds(ours);
    await before();
    found.push([our, await seconds(floor)]);
  }
  return found.sort(([a, b], [c, d]) => a / b - c / d)[times >> 1];
}

function row(name: string, ours: string, floor: string, ratio: number, bar: string): void {
  const cells = [name, ours, floor, ratio.toFixed(2), bar];
  rows.push(cells);
  console.error(cells.join(" | "));
}

const perSecond = (count: number, time: number) => `${Math.round(count / time)}/s`;

function ms(time: number): string {
  return `${(time * 1000).toFixed(0)} ms`;
}

/** A new list of so many tasks that do nothing. */
async function listOf(
  count: number,
  call: (...args: never[]) => unknown = noop,
  ...args: unknown[]
): Promise<TaskList> {
  const tasks = new TaskList(path.join(scratch, `list${lists++}`));
  for (let begin = 0; begin < count; begin += 1000) {
    const length = Math.min(1000, count - begin);
    await Promise.all(
      Array.from({ length }, () => tasks.schedule(defer(call, ...args as never[]))),
    );
  }
  return tasks;
}

async function consume(items: AsyncIterable<unknown>, count = Infinity): Promise<void> {
  for await (const _ of items) if (--count <= 0) break;
}

/** Writes, syncs and renames a file for each task, as one would without forrest. */
function writePlainly(count: number): void {
  const folder = fs.mkdtempSync(path.join(scratch, "plain-"));
  const text = '{\n  "steps": [\n    {"call":"file:///tasks.ts#noop","args":[]}\n  ]\n}\n';
  for (let index = 0; index < count; index++) {
    const file = fs.openSync(`${folder}/${index}.tmp`, "w");
    fs.writeSync(file, text);
    fs.fsyncSync(file);
    fs.closeSync(file);
    fs.renameSync(`${folder}/${index}.tmp`, `${folder}/${index}.json`);
  }
}

/** What has to happen to the files of so many tasks, in one process and a plain loop. */
function movePlainly(folder: string, names: string[]): void {
  for (const name of names) {
    const claim = `${folder}/running/${name}@plain`;
    fs.renameSync(`${folder}/todo/${name}`, claim);
    const text = fs.readFileSync(claim, "utf8");
    const file = fs.openSync(`${claim}+`, "w");
    fs.writeSync(file, text);
    fs.fsyncSync(file);
    fs.closeSync(file);
    fs.renameSync(`${claim}+`, `${folder}/done/${name}`);
    fs.unlinkSync(claim);
    const done = fs.openSync(`${folder}/done`, "r");
    fs.fsyncSync(done);
    fs.closeSync(done);
  }
}

async function largeList(): Promise<void> {
  const large = Number(process.env.FORREST_BENCH_TASKS || 10_000);
  const costs: number[][] = [];
  for (const count of [Math.min(large, 10_000) / 10, large]) {
    let tasks = undefined as unknown as TaskList;
    const scheduled = await seconds(async () => tasks = await listOf(count));
    const counted = await seconds(() => tasks.count());
    let first = 0;
    const options = { processes: 2, tasksPerProcess: Infinity };
    const ran = await seconds(async () => {
      const begin = performance.now();
      for await (const _ of tasks.run(options)) first ||= performance.now() - begin;
    });
    costs.push([scheduled / count, ran / count, counted / count, first / 1000]);
  }
  const [few, many] = costs;
  const text = (cost: number) => `${(cost * 1e6).toFixed(0)} µs`;
  for (const [index, name] of ["schedule", "run"].entries()) {
    const ratio = many[index] / few[index];
    row(`large list, ${name}`, text(many[index]), text(few[index]), ratio, "<= 1.2");
  }
  row("large list, count", text(many[2]), text(few[2]), many[2] / few[2], "<= 1.2");
  row("large list, first task", `${many[3].toFixed(2)} s`, "2 s", many[3] / 2, "<= 1");
  const rss = process.memoryUsage().rss / 1e6;
  row("large list, memory", `${rss.toFixed(0)} MB`, "300 MB", rss / 300, "<= 1");
}

async function values(): Promise<void> {
  const doubles = Float64Array.from({ length: 10_000_000 }, () => Math.random());
  const numbers = Array.from({ length: 1_000_000 }, () => Math.random());
  const { encode, decode } = await codecOf(new URL("..", import.meta.url));
  const store = (value: unknown) => decode(JSON.parse(JSON.stringify(encode(value, "value"))));
  const bytes = new Uint8Array(doubles.buffer);
  const [ours, floor] = await pairs(() => store(doubles), () => {
    Uint8Array.fromBase64(JSON.parse(JSON.stringify(bytes.toBase64())));
  }, 3);
  row("values, 10 million doubles", ms(ours), ms(floor), ours / floor, "<= 1.5");
  const [array, json] = await pairs(
    () => store(numbers),
    () => JSON.parse(JSON.stringify(numbers)),
  );
  row("values, a million numbers", ms(array), ms(json), array / json, "<= 1.5");
}

async function freshProcesses(): Promise<void> {
  const count = 400;
  // beside the task module, so that both find the same configuration
  const empty = fileURLToPath(new URL("./empty.ts", import.meta.url));
  const input = "x\n".repeat(count);
  const lists = await Promise.all(Array.from({ length: 3 }, () => listOf(count)));
  await quiet();
  const [ours, floor] = await pairs(
    () => consume(lists.pop()!.run({ processes: 2 })),
    () => execFileSync("xargs", ["-P2", "-n1", ...start, empty], { input }),
    3,
  );
  const bar = runtime === "Deno" ? "0.85" : "0.8";
  row(
    "fresh processes",
    perSecond(count, ours),
    perSecond(count, floor),
    floor / ours,
    `>= ${bar}`,
  );
}

async function keptRunners(): Promise<void> {
  const count = 5000;
  const [ourLists, plainLists] = [[], []] as TaskList[][];
  for (let time = 0; time < 2; time++) {
    ourLists.push(await listOf(count));
    plainLists.push(await listOf(count));
  }
  const [ours, floor] = await pairs(
    () => consume(ourLists.pop()!.run({ processes: 2, tasksPerProcess: Infinity })),
    () => {
      const { directory } = plainLists.pop()!;
      movePlainly(directory, fs.readdirSync(`${directory}/todo`));
    },
    2,
    quiet,
  );
  row("kept runners", perSecond(count, ours), perSecond(count, floor), floor / ours, ">= 1");
  const few = await listOf(200);
  const fresh = await seconds(() => consume(few.run({ processes: 2 })));
  const ratio = (count / ours) / (200 / fresh);
  const bar = runtime === "Deno" ? ">= 30" : "";
  row("kept runners, fresh ones", perSecond(count, ours), perSecond(200, fresh), ratio, bar);
}

async function schedule(): Promise<void> {
  const count = 10_000;
  const scheduling = async () => {
    const tasks = new TaskList(path.join(scratch, `list${lists++}`));
    const all = Array.from({ length: count }, () => tasks.schedule(defer(noop)));
    await Promise.all(all);
  };
  const [ours, floor] = await pairs(scheduling, () => writePlainly(count), 2);
  row("schedule", perSecond(count, ours), perSecond(count, floor), floor / ours, ">= 1");
}

async function waitingTasks(): Promise<void> {
  const tasks = await listOf(200, wait, 100);
  await quiet();
  let begun = 0;
  const whole = await seconds(async () => {
    for await (const { started } of tasks.run({ processes: 2, concurrency: 50 })) {
      begun = Math.min(begun || Infinity, Date.parse(started!));
    }
  });
  const ours = (Date.now() - begun) / 1000;
  row(
    "waiting tasks",
    `${ours.toFixed(3)} s of ${whole.toFixed(3)} s`,
    "0.2 s",
    ours / 0.2,
    "<= 1.5",
  );
}

const pass = (value: unknown) => value;

async function building(): Promise<void> {
  const build = (count: number) =>
    seconds(() => {
      let chain: unknown = 0;
      for (let index = 0; index < count; index++) chain = defer(pass, chain);
    });
  const [few, many] = [await build(100_000), await build(1_000_000)];
  row("building, a million defers", ms(many), ms(few * 10), many / few / 10, "linear");
  const tasks = new TaskList(path.join(scratch, "building"));
  const chained = async (count: number) => {
    let chain: unknown = 0;
    for (let index = 0; index < count; index++) chain = defer(pass, chain);
    return await seconds(() => tasks.schedule(chain as never));
  };
  const fanned = async (count: number) => {
    const all = Array.from({ length: count }, (_, index) => defer(pass, index));
    return await seconds(() => tasks.schedule(defer((list: unknown[]) => list.length, all)));
  };
  for (const [name, schedule] of Object.entries({ "chain": chained, "fan-in": fanned })) {
    const [short, long] = [await schedule(10_000), await schedule(100_000)];
    row(`building, a ${name} of 100,000`, ms(long), ms(short * 10), long / short / 10, "linear");
  }
}

async function importing(): Promise<void> {
  const [empty, full] = ["nothing.ts", "import.ts"].map((name) => path.join(scratch, name));
  fs.writeFileSync(empty, "\n");
  fs.writeFileSync(
    full,
    `import ${JSON.stringify(new URL("../mod.ts", import.meta.url).href)};\n`,
  );
  const starting = (file: string) => () => spawnSync(start[0], [...start.slice(1), file]);
  starting(full)();
  const [ours, floor] = await pairs(starting(full), starting(empty), 21);
  const more = `+${((ours - floor) * 1000).toFixed(1)} ms`;
  row("import", `${ms(ours)} (${more})`, ms(floor), ours / floor, "+5 ms");
}

/** Calls a second of a worker pool from the registry, in Node, where it is at home. */
function workerpool(call: string, count: number): number {
  const program = `
    import workerpool from "workerpool";
    const pool = workerpool.pool({ minWorkers: 2, maxWorkers: 2, workerType: "process" });
    const noop = () => {};
    const compute = () => { const end = performance.now() + 1; while (performance.now() < end); };
    await Promise.all([pool.exec(noop), pool.exec(noop)]);
    const begin = performance.now();
    await Promise.all(Array.from({ length: ${count} }, () => pool.exec(${call})));
    console.log((performance.now() - begin) / 1000);
    await pool.terminate();`;
  const folder = path.join(scratch, "workerpool");
  if (!fs.existsSync(folder)) {
    fs.mkdirSync(folder);
    fs.writeFileSync(path.join(folder, "package.json"), '{ "type": "module" }');
    execFileSync("npm", ["install", "--silent", "workerpool@10"], { cwd: folder });
  }
  fs.writeFileSync(path.join(folder, "main.js"), program);
  return Number(execFileSync("node", ["main.js"], { cwd: folder, encoding: "utf8" }));
}

async function mapping(
  name: string,
  call: (item: number) => unknown,
  count: number,
): Promise<void> {
  if (spawnSync("npm", ["--version"]).status !== 0) {
    console.error(`map, ${name}: not compared, as there is no npm to install workerpool with`);
    return;
  }
  const ours: number[] = [];
  const floors: number[] = [];
  for (let time = 0; time < 3; time++) {
    const results = map(call, Array.from({ length: count + 100 }, () => 0), { processes: 2 });
    for (let warm = 0; warm < 100; warm++) await results.next(); // the runners have started
    ours.push(await seconds(() => consume(results)));
    floors.push(workerpool(call === noop ? "noop" : "compute", count));
  }
  const [our, floor] = [median(ours), median(floors)];
  row(
    `map, ${name}, workerpool`,
    perSecond(count, our),
    perSecond(count, floor),
    floor / our,
    ">= 1",
  );
}

async function programs(): Promise<void> {
  if (spawnSync("parallel", ["--version"]).status !== 0) {
    console.error("programs: not compared, as GNU parallel is not installed");
    return;
  }
  const [lists, log] = [[] as TaskList[], path.join(scratch, "joblog")];
  for (let time = 0; time < 3; time++) {
    const tasks = new TaskList(path.join(scratch, `programs${time}`));
    await Promise.all(Array.from({ length: 500 }, () => tasks.schedule(command(["true"]))));
    lists.push(tasks);
  }
  const input = "true\n".repeat(500);
  const [ours, floor] = await pairs(
    () => consume(lists.pop()!.run({ processes: 2 })),
    () =>
      execFileSync("parallel", ["-j2", "--joblog", log], {
        input,
        stdio: ["pipe", "ignore", "ignore"],
      }),
    3,
  );
  row("programs, parallel", perSecond(500, ours), perSecond(500, floor), floor / ours, "> 1");
}

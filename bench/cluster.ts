/**
 * How claiming grows with the number of runs that share one list: `deno run -A bench/cluster.ts`.
 *
 * Each run is a process of its own, as one on each node of a cluster would be, with one kept runner. Its
 * tasks do nothing, so that claiming is what is left. A lost race is a claim that another run was faster
 * to make. The processors of this machine are shared by all runs, so that claims a second cannot grow
 * beyond what those can do: the floor is the rate of as many runs with a list each. What tells of a cluster
 * are the lost races, as each of them is two round trips to the file server there.
 *
 * It also runs under Bun: `bun bench/cluster.ts`.
 */

import { type ChildProcess, spawn } from "node:child_process";
import fs from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { TaskList } from "../mod.ts";
import { start } from "./instruments.ts";

const TASKS = 100_000;
const RUNS = [1, 8, 32]; // the last one is to end the list
const SECONDS = 5; // for each of the others, and a quarter more for each run
const MOST_SECONDS = 60; // for the last

/** In memory if that can be: syncing files to a disk would hide what claiming costs. */
const folder = fs.existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

/** What one run reports at its end. */
interface Report {
  /** When its tasks have started, in milliseconds by the clock of all, and their places in the list. */
  claims: [time: number, place: number][];
  /** How many claims it has tried; none, if they were not made by `node:fs`, which shows them. */
  tried: number;
  lost: number;
}

/** Runs the list until it is drained or this process is told to end, and prints a report. */
async function work(directory: string): Promise<void> {
  const report: Report = { claims: [], tried: 0, lost: 0 };
  const { renameSync } = fs;
  fs.renameSync = (from, to) => {
    const isClaim = /\/todo\/[^/]+$/.test(`${from}`) && /\/running\/[^/]+$/.test(`${to}`);
    if (isClaim) report.tried++;
    try {
      renameSync(from, to);
    } catch (error) {
      if (isClaim) report.lost++;
      throw error;
    }
  };
  const stop = new AbortController();
  process.stdin.once("end", () => stop.abort()).resume();
  const tasks = new TaskList(directory, { existOk: true, preClean: false });
  console.log("ready");
  while (!fs.existsSync(`${directory}/../go`)) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const options = { processes: 1, tasksPerProcess: Infinity, concurrency: 4, signal: stop.signal };
  for await (const { id, started } of tasks.run(options)) {
    report.claims.push([Date.parse(started!), Number(id)]);
  }
  fs.writeSync(1, `${JSON.stringify(report)}\n`);
  process.exit(0);
}

/** A list of tasks that are but a value. They are links to a few files, as that is quickly made. */
function makeList(directory: string, tasks: number): void {
  for (const state of ["todo", "running", "done", "fail"]) {
    fs.mkdirSync(`${directory}/${state}`, { recursive: true });
  }
  for (let index = 0; index < tasks; index++) {
    const original = `${directory}/task-${Math.floor(index / 10_000)}`; // file systems limit the links
    if (index % 10_000 === 0) {
      fs.writeFileSync(original, '{\n  "steps": [\n    {"value":1}\n  ]\n}\n');
    }
    fs.linkSync(original, `${directory}/todo/${`${index}`.padStart(6, "0")}.json`);
  }
}

async function measure(runs: number, lists: number, seconds: number): Promise<Report> {
  const directory = fs.mkdtempSync(join(folder, "forrest-claims-"));
  const children: ChildProcess[] = [];
  try {
    const tasks = Math.floor(TASKS / lists);
    for (let list = 0; list < lists; list++) makeList(`${directory}/${list}`, tasks);
    const self = fileURLToPath(import.meta.url);
    const started = Array.from({ length: runs }, (_, run) => {
      const [program, ...words] = [...start, self, "work", `${directory}/${run % lists}`];
      const child = spawn(program, words, { stdio: ["pipe", "pipe", "inherit"] });
      children.push(child);
      let output = "";
      child.stdout.on("data", (chunk) => output += chunk);
      const ready = new Promise((resolve) => child.stdout.once("data", resolve));
      const report = new Promise<Report>((resolve, reject) =>
        child.on("close", () => {
          const line = output.split("\n").find((line) => line.startsWith("{"));
          if (line) resolve(JSON.parse(line));
          else reject(new Error(`A run has died:\n${output}`));
        })
      );
      return { ready, report };
    });
    await Promise.all(started.map(({ ready }) => ready));
    fs.writeFileSync(`${directory}/go`, "");
    const timer = setTimeout(() => children.forEach((child) => child.stdin!.end()), seconds * 1000);
    const reports = await Promise.all(started.map(({ report }) => report));
    clearTimeout(timer);
    const claims = reports.flatMap(({ claims }) => claims).sort((a, b) => a[0] - b[0]);
    const sum = (name: "tried" | "lost") => reports.reduce((sum, report) => sum + report[name], 0);
    return { claims, tried: sum("tried"), lost: sum("lost") };
  } finally {
    for (const child of children) child.kill("SIGKILL");
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

function rate({ claims }: Report): [rate: number, seconds: number] {
  const seconds = (claims.at(-1)![0] - claims[0][0]) / 1000;
  return [claims.length / seconds, seconds];
}

if (process.argv[2] === "work") await work(process.argv[3]);
else {
  console.log(`${TASKS} tasks in ${folder}, ${availableParallelism()} processors`);
  console.log(
    "runs   claims  seconds  claims/s  with a list each  ratio  lost races/claim  places off",
  );
  for (const runs of RUNS) {
    const isLast = runs === RUNS.at(-1);
    const [floor] = runs > 1 ? rate(await measure(runs, runs, SECONDS + runs / 4)) : [undefined];
    const report = await measure(runs, 1, isLast ? MOST_SECONDS : SECONDS + runs / 4);
    const { claims, tried, lost } = report;
    const [shared, seconds] = rate(report);
    const distances = claims.map(([, place], rank) => Math.abs(place - rank));
    const distance = distances.reduce((sum, distance) => sum + distance, 0) / claims.length;
    const cells = [
      `${runs}`.padStart(4),
      `${claims.length}`.padStart(8),
      seconds.toFixed(1).padStart(8),
      shared.toFixed(0).padStart(9),
      (floor?.toFixed(0) ?? "").padStart(17),
      (floor ? (shared / floor).toFixed(2) : "").padStart(6),
      (tried ? (lost / claims.length).toFixed(3) : "").padStart(17),
      distance.toFixed(0).padStart(11),
    ];
    console.log(cells.join(" "));
  }
}

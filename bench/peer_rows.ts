/**
 * What forrest is compared in with other programs, and what is wanted of it.
 *
 * @module
 */

import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { workingTree } from "./instruments.ts";
import { LARGE, type Place } from "./peer_place.ts";
import { printedNumber, run, type RunOptions } from "./processes.ts";
import type { Scale } from "./scale.ts";

/** A runtime that forrest runs on. */
export interface Runtime {
  name: "Deno" | "Bun";
  /** Its place in the bars of a row. */
  index: number;
  /** The words that start a program, before the path of its module. */
  start: string[];
}

/** Gives a speed, or a cost. */
type Measure = (place: Place, runtime: Runtime) => Promise<number>;

/** Something to do, and those who do it, too. */
export interface Work {
  name: string;
  unit: string;
  /** Less is better. */
  isCost?: true;
  /** It takes many minutes. */
  isScale?: true;
  /** Once is enough. */
  isSteady?: true;
  measure: Measure;
  peers: Peer[];
}

/** Who does the same work. */
export interface Peer {
  name: string;
  /** What the ratio of ours to theirs is to be, on Deno and on Bun. */
  bars: [deno: number, bun: number] | [];
  /** What it does not promise, and forrest does. */
  lacks: string;
  /** Programs and packages. */
  needs: string[];
  /** It is measured with the same runtime. */
  isOfRuntime?: true;
  measure: Measure;
}

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const forrest = ({ start }: Runtime, ...words: string[]) => [...start, here("../cli.ts"), ...words];

/** What `measure.ts` measures of forrest. */
const own = (row: string): Measure => ({ signal }, { start }) =>
  printedNumber([...start, here("measure.ts"), row, here("../mod.ts")], signal);

/** What `node_peers.js` measures of a package. */
const inNode = (name: string): Measure => ({ node, port, signal }) =>
  printedNumber(["node", "node_peers.js", name, `${port}`], signal, { cwd: node });

const TRUES = 500;

/** How often in a second a shell script has the program `true` run, which does so 500 times. */
const script = (text: string, options?: (folder: string) => RunOptions): Measure => {
  return async ({ folder, signal }) => {
    const own = fs.mkdtempSync(path.join(folder, "script-"));
    const given = { cwd: own, isSilent: true, ...options?.(own) } as const;
    const { seconds } = await run(["sh", "-c", text], signal, given);
    return TRUES / seconds;
  };
};

const trues = () => ({ input: "true\n".repeat(TRUES) });

/** Seconds that a program takes. */
const secondsOf = (command: (place: Place, runtime: Runtime) => string[]): Measure => {
  return async (place, runtime) => {
    const { seconds } = await run(command(place, runtime), place.signal, { isSilent: true });
    return seconds;
  };
};

/** Lines a second that `forrest add` adds, with its start. */
const addedLines = (count: number): Measure => async ({ folder, signal }, runtime) => {
  const list = path.join(fs.mkdtempSync(path.join(folder, "add-")), "list");
  const input = Array.from({ length: count }, (_, index) => `line ${index}\n`).join("");
  const command = forrest(runtime, "add", list, "--", "true");
  const { seconds } = await run(command, signal, { input, isSilent: true });
  return count / seconds;
};

/** A limit in place of a peer. */
const limit = (name: string, value: number): Peer => {
  return { name, bars: [1, 1], lacks: "", needs: [], measure: () => Promise.resolve(value) };
};

// ------------------------------------------------------------------------------------- a list at scale

/** How many tasks the largest list has. */
const MANY = Number(process.env.FORREST_BENCH_TASKS || 1_000_000);
const LIST = `a list of ${MANY.toLocaleString("en")} tasks`;

const scales = new Map<string, Promise<Scale>>();

/** What `scale.ts` tells of so many tasks, which is measured once. */
function scaleOf({ folder, signal }: Place, { name, start }: Runtime, count: number) {
  return scales.getOrInsertComputed(`${name} ${count}`, async () => {
    const list = path.join(folder, `${name} ${count}`);
    const tell = async (what: string) => {
      const { output } = await run([...start, here("scale.ts"), what, list, `${count}`], signal);
      return JSON.parse(output);
    };
    const scale = { ...await tell("schedule"), ...await tell("count"), ...await tell("run") };
    console.error(`${name}, ${count} tasks: ${JSON.stringify(scale)}`);
    return scale;
  });
}

/** What a task of so many costs. */
const costAt = (what: "schedule" | "run" | "count", count: number): Measure => {
  return async (place, runtime) => (await scaleOf(place, runtime, count))[what] / count * 1e6;
};

const growing = (what: "schedule" | "run" | "count"): Work => ({
  name: `${LIST}: ${what}`,
  unit: " µs a task",
  isCost: true,
  isScale: true,
  measure: costAt(what, MANY),
  peers: [{
    name: "the same with 10,000",
    bars: [1.2, 1.2],
    lacks: "",
    needs: [],
    isOfRuntime: true,
    measure: costAt(what, 10_000),
  }],
});

const ofMillion = (name: string, unit: string, what: "first" | "memory", most: Peer): Work => ({
  name: `${LIST}: ${name}`,
  unit,
  isCost: true,
  isScale: true,
  measure: async (place, runtime) => (await scaleOf(place, runtime, MANY))[what],
  peers: [most],
});

// --------------------------------------------------------------------------------------- all the rows

const BARE = "a record of anything";
const KILL = "to kill what a call has started";

/** All that is compared. */
export const works: Work[] = [
  {
    name: "a function, a process each",
    unit: "/s",
    measure: own("fresh"),
    peers: [{
      name: "`xargs -P2` that starts the same module",
      bars: [0.85, 0.65],
      lacks: `arguments, results, ${BARE}, and ${KILL}`,
      needs: ["xargs"],
      isOfRuntime: true,
      async measure({ signal }, { start }) {
        const input = "x\n".repeat(200);
        const command = ["xargs", "-P2", "-n1", ...start, here("tasks.ts")];
        const { seconds } = await run(command, signal, { input, cwd: workingTree });
        return 200 / seconds;
      },
    }],
  },
  {
    name: "durable tasks, 2 kept processes",
    unit: "/s",
    measure: own("kept"),
    peers: [{
      name: "BullMQ, 2 sandboxed processors, Redis with `appendfsync always`",
      bars: [3, 3],
      lacks: KILL,
      needs: ["bullmq", "redis-server"],
      measure: inNode("bullmq sandboxed"),
    }],
  },
  {
    name: "`true` as a program, scheduled and run",
    unit: "/s",
    measure: own("programs, scheduled"),
    peers: [
      {
        name: "GNU parallel with a job log",
        bars: [1.35, 1.6],
        lacks: "durability: its log is not synced, and what waits is nowhere; results are printed",
        needs: ["parallel"],
        measure: script("parallel -j2 --joblog joblog", trues),
      },
      {
        name: "task-spooler",
        bars: [0.85, 1],
        lacks: "durability: what waits is in the memory of its server",
        needs: ["tsp"],
        measure: script(
          `tsp -S 2; for i in $(seq ${TRUES}); do tsp true; done; tsp -w; tsp -K`,
          (folder) => ({ env: { TS_SOCKET: `${folder}/socket`, TMPDIR: folder } }),
        ),
      },
      {
        name: "nq, 2 queues",
        bars: [],
        lacks: "syncs, retries, limits of time; two at once, but for two queues",
        needs: ["nq"],
        measure: script(
          `for queue in 1 2; do (
            export NQDIR=$queue
            for i in $(seq ${TRUES / 2}); do nq -q true; done
            nq -w
          ) & done; wait`,
        ),
      },
      {
        name: "bare `xargs -P2`",
        bars: [0.4, 0.5],
        lacks: `${BARE}, results, durability, and ${KILL}`,
        needs: ["xargs"],
        measure: script("xargs -P2 -n1 true", trues),
      },
    ],
  },
  {
    name: "durable tasks that wait 1 ms, 2 processes, `concurrency: 50`",
    unit: "/s",
    measure: own("waiting 1 ms"),
    peers: [{
      name: "BullMQ in one process, 50 at once, Redis with `appendfsync always`",
      bars: [0.5, 0.5],
      lacks: `isolation: a job that crashes or hangs takes all others with it; ${KILL}`,
      needs: ["bullmq", "redis-server"],
      measure: inNode("bullmq"),
    }],
  },
  {
    name: "`map` of a function that does nothing, 2 processes",
    unit: "/s",
    measure: own("map"),
    peers: [
      {
        name: "workerpool in processes",
        bars: [3, 3],
        lacks: KILL,
        needs: ["workerpool"],
        measure: inNode("workerpool"),
      },
      {
        name: "tinypool in processes",
        bars: [3, 3],
        lacks: KILL,
        needs: ["tinypool"],
        measure: inNode("tinypool"),
      },
      {
        name: "piscina, 2 threads",
        bars: [1.5, 1.5],
        lacks: `isolation: a call that ends the process ends all; ${KILL}`,
        needs: ["piscina"],
        measure: inNode("piscina"),
      },
    ],
  },
  {
    name: "`map` of texts of 64 KB, there and back, 2 processes",
    unit: "/s",
    measure: own("map, 64 KB"),
    peers: [{
      name: "tinypool in processes",
      bars: [1.5, 2.5],
      lacks: KILL,
      needs: ["tinypool"],
      measure: inNode("tinypool, 64 KB"),
    }],
  },
  {
    name: "`forrest add` of 5,000 lines",
    unit: "/s",
    measure: addedLines(5000),
    peers: [{
      name: "`schedule` of as many without ids",
      bars: [0.6, 0.6],
      lacks: "that a line is not added twice",
      needs: [],
      isOfRuntime: true,
      measure: own("schedule"),
    }],
  },
  {
    name: "`forrest status` of 100,000 tasks",
    unit: " s",
    isCost: true,
    measure: secondsOf(({ largeList }, runtime) => forrest(runtime, "status", largeList)),
    peers: [{
      name: "`ls` of the folder",
      bars: [3, 3],
      lacks: "",
      needs: [],
      measure: secondsOf(({ largeList }) => ["ls", `${largeList}/done`]),
    }],
  },
  {
    name: "`forrest list` of 100,000 tasks",
    unit: " s",
    isCost: true,
    measure: secondsOf(({ largeList }, runtime) => forrest(runtime, "list", largeList)),
    peers: [{
      name: "reading the files in a plain loop",
      bars: [2, 2],
      lacks: "",
      needs: [],
      isOfRuntime: true,
      measure: secondsOf(({ largeList }, { start }) => [
        ...start,
        here("read_files.ts"),
        `${largeList}/done`,
      ]),
    }],
  },
  {
    name: "a run that waits for one task, for 10 s",
    unit: " % of a CPU",
    isCost: true,
    isSteady: true,
    measure: own("idle"),
    peers: [limit("0.2 % of a CPU", 0.2)],
  },
  growing("schedule"),
  growing("run"),
  growing("count"),
  ofMillion("memory of its run", " MB", "memory", limit("300 MB", 300)),
  ofMillion("until the first task has ended", " s", "first", limit("2 s", 2)),
  {
    name: `\`forrest add\` of ${LARGE.toLocaleString("en")} lines`,
    unit: "/s",
    isScale: true,
    measure: addedLines(LARGE),
    peers: [{
      name: "`schedule` of as many without ids",
      bars: [0.6, 0.6],
      lacks: "that a line is not added twice",
      needs: [],
      isOfRuntime: true,
      measure: async (place, runtime) => {
        const { schedule } = await scaleOf(place, runtime, LARGE);
        return LARGE / schedule;
      },
    }],
  },
];

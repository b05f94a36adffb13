/**
 * Measures one peer from the npm registry once, in Node, where they are at home, and prints how many calls
 * it makes a second: `node node_peers.js PEER [PORT OF REDIS]`. It runs from a folder in which the peers
 * are installed, beside a copy of `node_tasks.js`.
 *
 * Each begins with some calls that are not counted: its processes or threads have started then.
 *
 * @module
 */

import process from "node:process";
import { fileURLToPath } from "node:url";
import * as tasks from "./node_tasks.js";

const file = fileURLToPath(new URL("node_tasks.js", import.meta.url));
const [name, port] = process.argv.slice(2);
const TEXT = "x".repeat(65_536);

const peers = {
  "bullmq sandboxed": () => bullmq("noop", file, 2, 3000),
  "bullmq": () => bullmq("rest", ({ name }) => tasks[name](), 50, 10_000),
  "piscina": async () => {
    const { Piscina } = await load("piscina");
    const pool = new Piscina({ filename: file, minThreads: 2, maxThreads: 2 });
    return await callRate(() => pool.run(undefined, { name: "noop" }), 20_000);
  },
  "tinypool": async () => await callRate(await tinypool("noop"), 20_000),
  "tinypool, 64 KB": async () => await callRate(await tinypool("echo", TEXT), 3000),
  "workerpool": async () => {
    const { default: workerpool } = await load("workerpool");
    const pool = workerpool.pool({ minWorkers: 2, maxWorkers: 2, workerType: "process" });
    return await callRate(() => pool.exec(tasks.noop), 20_000);
  },
};

/** Imports a package; by a name that is computed, as it is not there where this file is checked. */
const load = (name) => import(name);

async function tinypool(name, item) {
  const { Tinypool } = await load("tinypool");
  const options = { runtime: "child_process", minThreads: 2, maxThreads: 2 };
  const pool = new Tinypool({ filename: file, ...options });
  return () => pool.run(item, { name });
}

/** Calls a second, of calls that are all given at once. */
async function callRate(call, count) {
  await Promise.all(Array.from({ length: 200 }, call));
  const begin = performance.now();
  await Promise.all(Array.from({ length: count }, call));
  return count / (performance.now() - begin) * 1000;
}

/** Jobs a second, of jobs that all wait: from the start of their worker to the end of the last. */
async function bullmq(name, processor, concurrency, count) {
  const { Queue, Worker } = await load("bullmq");
  const queueName = `peers-${process.pid}`;
  const connection = { host: "127.0.0.1", port: Number(port), maxRetriesPerRequest: null };
  const queue = new Queue(queueName, { connection });
  const drain = async (count) => {
    for (let left = count; left > 0; left -= 1000) {
      const length = Math.min(left, 1000);
      await queue.addBulk(Array.from({ length }, () => ({ name, data: {} })));
    }
    const begin = performance.now();
    const worker = new Worker(queueName, processor, { connection, concurrency });
    let done = 0;
    await new Promise((resolve, reject) => {
      worker.on("completed", () => ++done === count && resolve());
      worker.on("failed", (_job, error) => reject(error));
      worker.on("error", reject);
    });
    const time = performance.now() - begin;
    await worker.close();
    return count / time * 1000;
  };
  await drain(200);
  return await drain(count);
}

console.log(await peers[name]());
process.exit();

/**
 * Where forrest and its peers are compared: a folder in which packages are installed, a Redis, and a list of
 * 100,000 tasks, all of which are gone at the end.
 *
 * @module
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { run } from "./processes.ts";

/** Programs, and the packages of Debian that bring them. */
const PROGRAMS: Record<string, string> = {
  parallel: "parallel",
  tsp: "task-spooler",
  nq: "nq",
  "redis-server": "redis-server",
  xargs: "findutils",
  npm: "npm",
};

/** Packages of npm, in the versions that were compared. */
const PACKAGES: Record<string, string[]> = {
  bullmq: ["bullmq@6.7.0", "ioredis@5.8.2"],
  piscina: ["piscina@5.3.2"],
  tinypool: ["tinypool@2.2.0"],
  workerpool: ["workerpool@10.0.3"],
};

/** How many tasks the large list has. */
export const LARGE = 100_000;

/** What forrest and its peers are compared with. */
export class Place {
  /** What is not here. */
  readonly missing = new Set<string>();
  readonly folder: string;
  /** Whether all is to end. */
  readonly signal: AbortSignal;
  /** The folder with the packages, and with the programs that measure them. */
  readonly node: string;
  /** Where Redis listens, if it runs. */
  port = 0;
  #redis: ChildProcess | undefined;
  #largeList: string | undefined;

  constructor(folder: string, signal: AbortSignal) {
    this.folder = folder;
    this.signal = signal;
    this.node = path.join(folder, "node");
  }

  /** Looks for programs, installs packages, and starts Redis, as far as they are needed. */
  async prepare(needs: string[]): Promise<void> {
    const packages = needs.filter((name) => name in PACKAGES);
    const programs = needs.filter((name) => name in PROGRAMS);
    if (packages.length) programs.push("npm");
    for (const program of programs) {
      if (spawnSync("which", [program]).status !== 0) this.#miss(program, PROGRAMS[program]);
    }
    if (!this.missing.has("npm")) await this.#install(packages);
    for (const name of packages) {
      if (!fs.existsSync(path.join(this.node, "node_modules", name))) this.missing.add(name);
    }
    if (needs.includes("redis-server") && !this.missing.has("redis-server")) {
      await this.#startRedis();
    }
  }

  #miss(program: string, debian: string): void {
    this.missing.add(program);
    console.error(`\`${program}\` is not here; \`apt-get install ${debian}\` brings it`);
  }

  async #install(names: string[]): Promise<void> {
    fs.mkdirSync(this.node);
    fs.writeFileSync(path.join(this.node, "package.json"), '{ "type": "module" }');
    for (const name of ["node_peers.js", "node_tasks.js"]) {
      fs.copyFileSync(path.join(import.meta.dirname!, name), path.join(this.node, name));
    }
    const packages = names.flatMap((name) => PACKAGES[name]);
    if (!packages.length) return;
    const words = ["npm", "install", "--silent", "--no-audit", "--no-fund", ...packages];
    try {
      await run(words, this.signal, { cwd: this.node });
    } catch (error) {
      this.signal.throwIfAborted();
      console.error(`Cannot install ${names.join(", ")}: ${(error as Error).message}`);
    }
  }

  /** Starts a Redis that syncs each write, and that ends with this process, however that ends. */
  async #startRedis(): Promise<void> {
    this.port = await freePort();
    const data = path.join(this.folder, "redis");
    fs.mkdirSync(data);
    const options = { port: this.port, bind: "127.0.0.1", dir: data, save: "" };
    const durable = { appendonly: "yes", appendfsync: "always" };
    const words = Object.entries({ ...options, ...durable }).flatMap(([name, value]) => [
      `--${name}`,
      `${value}`,
    ]);
    const script = 'exec 3<&0; redis-server "$@" < /dev/null & cat <&3 > /dev/null; kill $!; wait';
    this.#redis = spawn("sh", ["-c", script, "sh", ...words], {
      detached: true, // so that it gets no Ctrl-C
      stdio: ["pipe", "pipe", "inherit"],
    });
    let output = "";
    for await (const chunk of this.#redis.stdout!.iterator({ destroyOnReturn: false })) {
      output += chunk;
      if (output.includes("Ready to accept connections")) {
        this.#redis.stdout!.resume();
        return;
      }
    }
    throw new Error(`Redis has not started:\n${output}`);
  }

  /** The directory of a list of tasks that are done; it is made when it is first asked for. */
  get largeList(): string {
    if (this.#largeList) return this.#largeList;
    const directory = path.join(this.folder, "large");
    for (const state of ["todo", "running", "done", "fail"]) {
      fs.mkdirSync(`${directory}/${state}`, { recursive: true });
    }
    for (let index = 0; index < LARGE; index++) {
      // links to a few files are quickly made and removed; file systems limit their number
      const original = `${directory}/${Math.floor(index / 10_000)}`;
      if (index % 10_000 === 0) fs.writeFileSync(original, TASK);
      fs.linkSync(original, `${directory}/done/${1e15 + index}-0a1b2c3d.json`);
    }
    return this.#largeList = directory;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#redis || this.#redis.exitCode !== null) return;
    this.#redis.stdin!.end();
    await once(this.#redis, "exit");
  }
}

const TASK = `{
  "steps": [
    {"call":"file:///home/me/tasks.ts#double","args":[21]}
  ],
  "attempts": 1,
  "started": "2026-11-20T20:00:00.000Z",
  "runtime": 0.0312,
  "returnValue": 42
}
`;

/** A port that nothing listens on. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

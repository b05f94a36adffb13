/**
 * Compares forrest on both runtimes with other programs that do the same work, and prints a table:
 *
 * ```sh
 * deno task bench:peers [--pairs N] [PART OF A ROW'S NAME ...]
 * deno task bench:peers scale
 * ```
 *
 * Forrest and its peers are measured in turn, as the speed of a machine drifts, three times or as often as
 * five minutes allow; each ratio is the median. What is missing is named and skipped:
 * `apt-get install parallel task-spooler nq redis-server` brings programs; packages of npm are put into a
 * folder that is removed at the end. `scale` has the rows that do not fit into five minutes; it measures
 * once, and `FORREST_BENCH_TASKS` says how many tasks there are, if not a million.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { median, printTable, start } from "./instruments.ts";
import { Place } from "./peer_place.ts";
import { type Peer, type Runtime, type Work, works } from "./peer_rows.ts";
import { inScratch } from "./processes.ts";

const SECONDS = 270; // after which no round begins that would not end within five minutes

/** What was measured of a peer on a runtime: ratios, and the numbers that they come of. */
type Found = { ratios: number[]; ours: number[]; theirs: number[] };

/** The runtimes that are here; the others are named. */
async function findRuntimes(): Promise<Runtime[]> {
  const found: Runtime[] = [];
  for (const [index, name] of (["Deno", "Bun"] as const).entries()) {
    const program = await findRuntime(name);
    const words = name === "Deno" ? ["run", "-A"] : [];
    if (program) found.push({ name, index, start: [program, ...words] });
    else console.error(`${name}: not measured; set \`FORREST_${name.toUpperCase()}\` to its path`);
  }
  return found;
}

async function findRuntime(name: "Deno" | "Bun"): Promise<string | undefined> {
  if (name in globalThis) return start[0];
  const word = process.env[`FORREST_${name.toUpperCase()}`] ?? name.toLowerCase();
  if (spawnSync(word, ["--version"]).status === 0) return word;
  if (name === "Bun") return await (await import("../.ci/bun.ts")).findBun();
}

/** Measures the works in turn, until there are so many pairs or there is no more time. */
class Comparison {
  readonly #found = new Map<string, Found>();
  readonly #failed = new Set<Peer>();
  readonly #place: Place;
  readonly #runtimes: Runtime[];
  readonly #works: Work[];

  constructor(place: Place, runtimes: Runtime[], works: Work[]) {
    this.#place = place;
    this.#runtimes = runtimes;
    this.#works = works;
  }

  async rounds(pairs: number, seconds: number): Promise<void> {
    const begin = performance.now();
    for (let round = 1; round <= pairs; round++) {
      const before = performance.now();
      for (const work of this.#works) {
        if (round === 1 || !work.isSteady) await this.#round(work);
      }
      const now = performance.now();
      console.error(`round ${round} of ${pairs} took ${((now - before) / 1000).toFixed(0)} s`);
      if (now - begin + (now - before) > seconds * 1000) break;
    }
  }

  /** Measures forrest on each runtime, and its peers between. */
  async #round(work: Work): Promise<void> {
    const peers = work.peers.filter((peer) => !this.#failed.has(peer));
    if (!peers.length) return;
    const common = new Map<Peer, number>();
    for (const runtime of this.#runtimes) {
      const ours = await this.#try(peers, () => work.measure(this.#place, runtime));
      if (ours === undefined) return;
      for (const peer of peers) {
        const measure = () => peer.measure(this.#place, runtime);
        const theirs = common.get(peer) ?? await this.#try([peer], measure);
        if (theirs === undefined) continue;
        if (!peer.isOfRuntime) common.set(peer, theirs);
        this.#note(work, peer, runtime, ours, theirs);
      }
    }
  }

  /** What cannot be measured is named, and not tried again. */
  async #try(peers: Peer[], measure: () => Promise<number>): Promise<number | undefined> {
    try {
      return await measure();
    } catch (error) {
      this.#place.signal.throwIfAborted();
      for (const peer of peers) this.#failed.add(peer);
      const names = peers.map(({ name }) => name).join(", ");
      console.error(`${names}: not compared: ${(error as Error).message}`);
    }
  }

  #note(work: Work, peer: Peer, runtime: Runtime, ours: number, theirs: number): void {
    const key = `${work.name} ${peer.name} ${runtime.name}`;
    const found = this.#found.getOrInsert(key, { ratios: [], ours: [], theirs: [] });
    found.ours.push(ours);
    found.theirs.push(theirs);
    found.ratios.push(ours / theirs);
    console.error(`${key}: ${text(ours)} / ${text(theirs)} = ${text(ours / theirs)}`);
  }

  /** The rows of the table. */
  rows(): string[][] {
    return this.#works.flatMap((work) =>
      work.peers.map((peer) => {
        const cells = ["Deno", "Bun"].map((name, index) => {
          const found = this.#found.get(`${work.name} ${peer.name} ${name}`);
          return found ? cellOf(found, work, peer.bars[index]) : "-";
        });
        const sign = work.isCost ? "<=" : ">=";
        const bars = [...new Set(peer.bars)].map((bar) => `${sign} ${bar}`).join(", ") || "-";
        return [work.name, peer.name, ...cells, bars, peer.lacks];
      })
    );
  }
}

/** The median of the ratios, in italics if it misses the bar, with their range and our number. */
function cellOf({ ratios, ours }: Found, { unit, isCost }: Work, bar?: number): string {
  const ratio = median(ratios);
  const misses = bar !== undefined && (isCost ? ratio > bar : ratio < bar);
  const range = `${text(Math.min(...ratios))} - ${text(Math.max(...ratios))}`;
  const said = misses ? `_${text(ratio)}_` : text(ratio);
  return `${said} (${range}; ${text(median(ours))}${unit})`;
}

/** A number with three digits that count. */
const text = (number: number): string =>
  number >= 1000 ? Math.round(number).toLocaleString("en") : `${Number(number.toPrecision(3))}`;

function chosenWorks(parts: string[]): Work[] {
  const isScale = parts.includes("scale");
  const others = parts.filter((part) => part !== "scale");
  const isIn = (part: string) => ({ name }: { name: string }) =>
    name.toLowerCase().includes(part.toLowerCase());
  const all = works.filter((work) => !!work.isScale === isScale);
  const unknown = others.find((part) =>
    !all.some((work) => isIn(part)(work) || work.peers.some(isIn(part)))
  );
  if (unknown !== undefined) {
    const known = all.flatMap(({ name, peers }) => [name, ...peers.map(({ name }) => name)]);
    const names = known.map((name) => `\n- ${name}`).join("");
    throw new TypeError(`There is no row \`${unknown}\`; there are${names}`);
  }
  if (!others.length) return all;
  const chosen = all.map((work) => {
    const isWhole = others.some((part) => isIn(part)(work));
    const peers = work.peers.filter((peer) => isWhole || others.some((part) => isIn(part)(peer)));
    return { ...work, peers };
  });
  return chosen.filter(({ peers }) => peers.length);
}

/** The works without the peers that lack something here. */
function thoseHere(works: Work[], { missing }: Place): Work[] {
  const isHere = ({ needs }: Peer) => !needs.some((name) => missing.has(name));
  const found = works.map((work) => ({ ...work, peers: work.peers.filter(isHere) }));
  return found.filter(({ peers }) => peers.length);
}

/**
 * Has the file system keep the folders in a folder far from each other. An ext4 without a journal does not
 * use the inodes of removed files again for a minute, and looks at each of them when a file is made nearby.
 */
function spread(folder: string): void {
  spawnSync("chattr", ["+T", folder]); // where that fails, there is no such need, or no help
}

const { values, positionals } = parseArgs({
  args: process.argv.slice(2),
  options: { pairs: { type: "string" } },
  allowPositionals: true,
});
const isScale = positionals.includes("scale");
const pairs = Number(values.pairs ?? (isScale ? 1 : 3));
if (!Number.isInteger(pairs) || pairs < 1) {
  throw new RangeError(
    `Expected \`--pairs\` to be a whole number from 1 up, got \`${values.pairs}\``,
  );
}
const chosen = chosenWorks(positionals);
const runtimes = await findRuntimes();
await inScratch(path.join(os.tmpdir(), "forrest-peers-"), async (folder, signal) => {
  process.env.TMPDIR = folder;
  spread(folder);
  await using place = new Place(folder, signal);
  await place.prepare(chosen.flatMap(({ peers }) => peers.flatMap(({ needs }) => needs)));
  const comparison = new Comparison(place, runtimes, thoseHere(chosen, place));
  await comparison.rounds(pairs, isScale ? Infinity : SECONDS);
  printTable(["work", "against", "Deno", "Bun", "bar", "it does not promise"], comparison.rows());
});
if (!globalThis.Deno) process.exit(); // on Bun, what was started may keep a program from its end

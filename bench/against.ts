/**
 * Compares the working tree with another revision of forrest. Both are measured in turn, as the speed of
 * a machine drifts, and each time by a process of its own.
 *
 * @module
 */

import { execFileSync } from "node:child_process";
import fs from "node:fs";
import process from "node:process";
import { median, printTable, quiet, start, workingTree } from "./instruments.ts";
import { type Row, rows } from "./measure.ts";
import { inScratch, printedNumber } from "./processes.ts";

/** Prints a table of the rows whose names contain one of the `parts`, or of all. */
export async function compareWith(
  revision: string,
  pairs: number,
  parts: string[],
): Promise<void> {
  if (!Number.isInteger(pairs) || pairs < 1) {
    throw new RangeError(`Expected \`--pairs\` to be a whole number from 1 up, got \`${pairs}\``);
  }
  const names = chosenRows(parts);
  const commit = commitOf(revision);
  await inScratch(`${workingTree}-against-`, async (folder, signal) => {
    checkOut(commit, `${folder}/tree`);
    // away from both trees, so that neither configures what is a task of both
    fs.cpSync(import.meta.dirname!, `${folder}/bench`, { recursive: true });
    const comparison = new Comparison(folder, signal);
    const table: string[][] = [];
    for (const name of names) table.push(await comparison.row(name, rows[name], pairs));
    printTable(["what", "working tree", revision, "working tree / it", "from - to"], table);
  });
}

function chosenRows(parts: string[]): string[] {
  const names = Object.keys(rows);
  const unknown = parts.find((part) => !names.some((name) => name.includes(part)));
  if (unknown !== undefined) {
    const known = names.map((name) => `\`${name}\``).join(", ");
    throw new TypeError(`There is no row \`${unknown}\`: there are ${known}`);
  }
  return names.filter((name) => !parts.length || parts.some((part) => name.includes(part)));
}

function commitOf(revision: string): string {
  const words = ["rev-parse", "--verify", "--end-of-options", `${revision}^{commit}`];
  return execFileSync("git", words, { cwd: workingTree, encoding: "utf8" }).trim();
}

/** Unpacks a commit into a new folder; packages are those of the working tree. */
function checkOut(commit: string, folder: string): void {
  fs.mkdirSync(folder);
  const archive = execFileSync("git", ["archive", commit], { cwd: workingTree, maxBuffer: 1e9 });
  execFileSync("tar", ["x", "-C", folder], { input: archive });
  const packages = `${workingTree}/node_modules`;
  if (fs.existsSync(packages)) fs.symlinkSync(packages, `${folder}/node_modules`);
}

/** Measures both trees by the copy of `measure.ts` in a folder, until a signal. */
class Comparison {
  readonly #measure: string;
  readonly #trees: string[];
  readonly #signal: AbortSignal;

  constructor(folder: string, signal: AbortSignal) {
    this.#measure = `${folder}/bench/measure.ts`;
    this.#trees = [workingTree, `${folder}/tree`];
    this.#signal = signal;
  }

  /** The cells of a row. */
  async row(name: string, { unit, cost, isManyFiles }: Row, pairs: number): Promise<string[]> {
    const found: number[][] = [[], []];
    const ratios: number[] = [];
    try {
      while (ratios.length < pairs) {
        for (const [index, tree] of this.#trees.entries()) {
          const command = [...start, this.#measure, name, `${tree}/mod.ts`];
          found[index].push(await printedNumber(command, this.#signal));
          if (isManyFiles) await quiet(this.#signal);
        }
        const [ours, theirs] = found.map((numbers) => numbers.at(-1)!);
        ratios.push(ours / theirs);
        const pair = `${name}, ${ratios.length} of ${pairs}`;
        console.error(`${pair}: ${text(ours)} / ${text(theirs)} = ${text(ours / theirs)}`);
      }
    } catch (error) {
      if (this.#signal.aborted) throw error;
      console.error(`${name}: ${(error as Error).message}`);
      process.exitCode = 1;
      return [name, "failed", "", "", ""];
    }
    const [ours, theirs] = found.map((numbers) => `${text(median(numbers))} ${unit}`);
    const range = `${text(Math.min(...ratios))} - ${text(Math.max(...ratios))}`;
    const what = cost ? `${name}: ${cost}, less is better` : name;
    return [what, ours, theirs, text(median(ratios)), range];
  }
}

/** A number with four digits that count. */
function text(number: number): string {
  return `${Number(number.toPrecision(4))}`;
}

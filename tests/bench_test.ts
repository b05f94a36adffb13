/** The comparison with peers, as far as it can be tried in a few seconds. */

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import process from "node:process";
import { type Folder, runtime, temporary, test, until } from "./helpers.ts";
import { project } from "./library.ts";

const words = [...(runtime === "deno" ? ["run", "-A"] : []), "bench/peers.ts"];

const optionsIn = (folder: Folder) => {
  return { cwd: project, env: { ...process.env, TMPDIR: folder.file("") } };
};

test("the comparison with peers prints a table of ratios, with bars and what a peer does not promise", () => {
  using folder = temporary();
  const { stdout, stderr } = spawnSync(
    process.execPath,
    [...words, "--pairs", "1", "bare"],
    { ...optionsIn(folder), encoding: "utf8" },
  );
  const rows = stdout.split("\n").filter((line) => line.startsWith("|"));
  assert.equal(rows.length, 3, stderr);
  assert.match(rows[0], /^\| work \| against \| Deno \| Bun \| bar \| it does not promise \|$/);
  const [work, against, deno, bun, bar, lacks] = rows[2].slice(2, -2).split(" | ");
  assert.match(work, /`true` as a program/);
  assert.match(against, /xargs/);
  assert.match(runtime === "deno" ? deno : bun, /^_?[\d.]+_? \([\d.]+ - [\d.]+; [\d,.]+\/s\)$/);
  assert.equal(bar, ">= 0.4, >= 0.5");
  assert.match(lacks, /durability/);
  assert.deepEqual(readdirSync(folder.file("")), []);
});

test("the comparison with peers says which rows there are", () => {
  const { status, stderr } = spawnSync(process.execPath, [...words, "celery"], {
    cwd: project,
    encoding: "utf8",
  });
  assert.notEqual(status, 0);
  assert.match(stderr, /There is no row `celery`; there are\n- .*xargs/s);
});

test("Ctrl-C ends the comparison with peers, which leaves nothing", async () => {
  using folder = temporary();
  const child = spawn(process.execPath, [...words, "bare"], {
    ...optionsIn(folder),
    stdio: "ignore",
  });
  const ended = once(child, "exit");
  // it measures
  const isAtWork = () =>
    readdirSync(folder.file(""), { recursive: true }).some((name) => `${name}`.includes("/todo/"));
  await until(isAtWork);
  process.kill(child.pid!, "SIGINT"); // Deno takes what `child.kill` sends for how it has ended
  assert.deepEqual(await ended, [130, null]);
  assert.deepEqual(readdirSync(folder.file("")), []);
});

/** The order of the house: what lies where, and how large a file of tests may be. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "./helpers.ts";
import { project } from "./library.ts";

test("the top level holds the rooms, what the runtimes insist on, and the folders", () => {
  const made = ["node_modules", "dist", "tasklist", ".git"]; // by those who work here, and in no clone
  assert.deepEqual(readdirSync(project).filter((name) => !made.includes(name)).sort(), [
    ...[".ci", ".gitignore", "CONTRIBUTING.md", "LICENSE", "README.md", "bench", "cli", "cli.ts"],
    ...["deno.json", "deno.lock", "docs", "examples", "files.ts", "jsconfig.json", "mod.ts"],
    ...["mod_test.ts", "package.json", "runner.ts", "tests"],
  ]);
});

test("the specification has under 800 lines, and no other file of tests above 1,000", () => {
  const linesOf = (name: string) =>
    readFileSync(join(project, name), "utf8").split("\n").length - 1;
  assert.ok(linesOf("mod_test.ts") < 800);
  const files = readdirSync(join(project, "tests")).filter((name) => name.endsWith(".ts"));
  assert.deepEqual(files.filter((name) => linesOf(`tests/${name}`) > 1000), []);
});

/**
 * Makes the command one executable: `deno run -A .ci/compile.ts deno|bun [FILE]`. On Bun, it makes that
 * of Bun. If it fails, an executable that is there already stays as it is.
 */

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const project = fileURLToPath(new URL("..", import.meta.url));
const [runtime, file = join(project, "dist/forrest")] = process.argv.slice(2);
const executable = resolve(file);
mkdirSync(dirname(executable), { recursive: true });
const folder = mkdtempSync(`${executable}-`); // beside it, so that it can be moved at once
const made = join(folder, "forrest");

function run(program: string, ...words: string[]): boolean {
  return spawnSync(program, words, { cwd: project, stdio: "inherit" }).status === 0;
}

function compile(): boolean {
  const isMade = run(process.execPath, "compile", "-A", "--output", made, "cli.ts");
  if (!isMade) console.error("From nothing but the npm registry: `deno task compile:bun`");
  return isMade;
}

async function compileWithBun(): Promise<boolean> {
  const onDeno = "Deno" in globalThis;
  const given = onDeno ? process.env.FORREST_BUN : process.execPath;
  const bun = given ?? await (await import("./bun.ts")).findBun();
  const flags = [
    "--compile",
    "--bytecode",
    "--format=esm",
    "--compile-autoload-package-json",
    "--compile-autoload-tsconfig",
    "--no-compile-autoload-dotenv",
    "--no-compile-autoload-bunfig",
  ];
  return run(bun, "install", "--no-save") &&
    run(bun, "build", ...flags, "--outfile", made, "cli.ts");
}

let isMade = false;
try {
  isMade = runtime === "bun" ? await compileWithBun() : compile();
  if (isMade) renameSync(made, executable);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exit(isMade ? 0 : 1);

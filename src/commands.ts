/**
 * How runners are started, and what the process of one task is told.
 *
 * There are three ways: a kept runner imports `runner.ts`; the process of one task gets the text of
 * `runSingle`; and a compiled program starts itself, and finds in `bundled.ts` that it is a runner.
 *
 * @module
 */

import { isUnlimited } from "./options.ts";
import { type Call, onBun, onDeno, type Order, runSingle } from "./single.ts";
import { requireModule, type Step, stepsOf } from "./steps.ts";
import { isBundled, pathOf, RUNNER, stringify, system } from "./system.ts";
import { isPlain, mayFollow } from "./values.ts";

/** `.ts`; a registry may have made `.js` of it. */
const extension = import.meta.url.slice(-3);

/** The command of a runner that serves a pool: this runtime, or a compiled program itself. */
export function serving(
  settings: string,
  permissions: string[],
  access: string[],
  firstTask: string,
): string[] {
  const program = system.execPath();
  if (isBundled) return [program, RUNNER, settings];
  const runner = quote(`runner${extension}`);
  // to require is faster than to import, for which Bun starts threads
  if (!globalThis.Deno) return [program, "-e", `import.meta.require(${runner}).serve(${settings})`];
  // a module that a preloaded one could import by a literal name needs no permission to be read
  const modules = isUnlimited(permissions)
    ? []
    : new Set(firstTask.matchAll(/"call": ?("[^"#]*)#/g).map(([, module]) => module));
  const code = [
    `import { serve } from ${runner}`,
    ...[...modules].map((module) => `() => import(${module}")`),
    `await serve(${settings})`,
  ];
  const flags = isUnlimited(permissions) ? permissions : withAccess(permissions, access);
  return preloading(code.join(";"), flags, projectOf(firstTask));
}

/** The command of a process that runs one task. */
export function runningOne(permissions: string[], project: string): string[] {
  const program = system.execPath();
  if (isBundled) return [program, RUNNER];
  const load = (how: string) => `(name) => ${how}(${quote("")} + name + "${extension}")`;
  const run = (...args: unknown[]) => `(${runSingle})(${args.join(", ")})`;
  if (globalThis.Deno) {
    const code = run("{ Deno }", ...onDeno, load("import"), isPlain);
    return preloading(`await ${code}`, permissions, project);
  }
  const [host, required] = ["{ process, setTimeout, Bun }", load("import.meta.require")];
  const code = run(host, ...onBun, required, isPlain, requireModule);
  return [program, "-e", `// @bun\n${code}`]; // which spares it the transpiler
}

/** The way to a module of forrest, as a literal: in ASCII, as Bun takes what it need not transpile for Latin-1. */
function quote(file: string): string {
  const { href } = new URL(`./${file}`, import.meta.url);
  const escape = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return stringify(globalThis.Deno ? href : pathOf(href)).replace(/[^ -~]/g, escape);
}

/**
 * Deno takes import map, packages and lock file from beside its main module, so it is given one that would
 * lie in the task's project. It never gets there, as the runner exits in the preloaded module; that waits
 * for the runner, and is no module of ours, as task modules import them.
 */
function preloading(code: string, flags: string[], project: string): string[] {
  const preload = `data:text/javascript,${encodeURIComponent(code)}`;
  const main = `${project}forrest-runner.js`;
  return [system.execPath(), "run", ...flags, "--no-prompt", "--preload", preload, main];
}

/** The folder in which Deno is to look for the configuration of a task; no other runtime is told. */
export function projectOf(text: string): string {
  if (!globalThis.Deno) return "";
  const module = /"call": ?"(file:[^"#]*)/.exec(text)?.[1] ?? system.mainModule;
  try {
    if (module.startsWith("file:")) return pathOf(new URL(".", module).href);
  } catch { /* the task will fail, and say why */ }
  return `${system.cwd()}/`;
}

/** Adds what a runner itself needs; after a flag that allows everything, a list would be a limit. */
function withAccess(permissions: string[], paths: string[]): string[] {
  const names = [["--allow-read", "-R"], ["--allow-write", "-W"]];
  const missing = names.filter((flags) => !flags.some((flag) => permissions.includes(flag)));
  return [...permissions, ...missing.flatMap(([flag]) => paths.map((path) => `${flag}=${path}`))];
}

/** What the process of one task is told, and its steps; undefined if the task is very long, or is none. */
export function orderOf(
  order: Omit<Order, "steps" | "calls">,
  text: string,
): { steps: Step[]; request: string } | undefined {
  if (text.length > 100_000) return;
  try {
    const steps = stepsOf(text, order.claim);
    const calls: Call[] = [];
    for (const step of steps) {
      const call = callOf(step, calls.length, order.session);
      if (!call) break;
      calls.push(call);
    }
    return { steps, request: stringify({ ...order, steps, calls }) };
  } catch { /* it is none, or too deep: a runner will say so */ }
}

/** Where the function of a step is, if it is called with arguments that need no codec. */
function callOf({ call, args = [] }: Step, index: number, session?: string): Call | undefined {
  const { source } = Object(call) as { source?: unknown };
  const isText = typeof source === "string" && session === undefined;
  const isExport = typeof call === "string" && /^file:.*#/.test(call);
  if (!isText && !isExport) return;
  if (!args.every((arg) => isResult(arg, index) || !mayBeSpecial(arg))) return;
  if (!isExport) return { source: source as string };
  const hash = call.lastIndexOf("#");
  const url = call.slice(0, hash);
  return { url, place: pathOf(url), name: call.slice(hash + 1), source: null };
}

/** Whether an argument is a valid reference to the result of a step before, or to a part of it. */
function isResult(arg: unknown, index: number): boolean {
  const { $step, path = [], ...others } = Object(arg) as Record<string, unknown>;
  const isStep = Number.isInteger($step) && $step as number >= 0 && $step as number < index;
  if (!isStep || !Array.isArray(path) || Object.keys(others).length) return false;
  return path.every(mayFollow);
}

function mayBeSpecial(arg: unknown): boolean {
  return typeof arg === "object" && stringify(arg).includes('"$');
}

/**
 * What the tests of the command share: a project to use it in, and the ways to start it.
 *
 * @module
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync } from "node:fs";
import { readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { after, test as register } from "node:test";
import { fileURLToPath } from "node:url";

export const project = dirname(dirname(fileURLToPath(import.meta.url)));
export const runtime = "Deno" in globalThis ? "deno" : "bun";
const built = mkdtempSync(join(tmpdir(), "forrest-build-"));
after(() => rmSync(built, { recursive: true, force: true }));

const source = runtime === "deno"
  ? [process.execPath, "run", "-A", join(project, "cli.ts")]
  : [process.execPath, join(project, "cli.ts")];

/** What the tasks of these tests call; it lies in a project of its own. */
const TASKS = `
import { existsSync, writeFileSync } from "node:fs";
export const double = (text: string) => Number(text) * 2;
export const add = (a: number, b: number) => a + b;
export function refuse(text: string) {
  throw new RangeError("cannot do " + text, { cause: new Error("too hard") });
}
export function talk(text: string) {
  console.log("said " + text);
  console.error("whispered " + text);
  return { text };
}
export async function talkTwice(text: string) {
  await nap("0.5");
  console.log("begun " + text);
  await nap("0.5");
}
export const refuseOdd = (text: string) => Number(text) % 2 ? refuse(text) : "even";
export async function nap(seconds: string) {
  await new Promise((resolve) => setTimeout(resolve, Number(seconds) * 1000));
  return "rested";
}
export function mark(path: string) {
  writeFileSync(path, "", { flag: "a" });
  return nap("60");
}
/** Prints a line, and another when there is the file that its argument names. */
export async function talkUntil(path: string) {
  console.log("first of " + path);
  while (!existsSync(path)) await nap("0.05");
  console.log("last of " + path);
}
export function refuseFirst(path: string) {
  if (existsSync(path)) return "accepted";
  writeFileSync(path, "");
  throw new Error("503 of " + path);
}
export const long = () => "long ".repeat(1000);
export const leave = (code: string) => process.exit(Number(code));
export const print = (lines: string) => {
  for (let i = 0; i < Number(lines); i++) console.log("line " + i);
};
`;

type Build = { how: string; program?: string };

/** The executable that `deno task test` has made, or one that is made with whatever can make it here. */
function buildExecutable(): Build {
  const made = process.env.FORREST_EXECUTABLE;
  if (made) return { how: "as `deno task test` made it", program: made };
  const program = join(built, "forrest");
  copySource(join(built, "source")); // so that nothing is installed in the project
  for (const base of runtime === "deno" ? ["deno", "bun"] : ["bun"]) {
    const [start, ...words] = compiler(join(built, "source"));
    const options = { cwd: built, timeout: 120_000 };
    const { status } = spawnSync(start, [...words, base, program], options);
    if (status === 0) return { how: `of ${base}`, program };
  }
  return { how: "nothing here can build it" };
}

/** Copies what an executable is made of. */
export function copySource(folder: string): void {
  const isSource = (name: string) => /^(cli|\.ci|[a-z]+\.ts|\w+\.json)$/.test(name);
  for (const name of readdirSync(project).filter(isSource)) {
    cpSync(join(project, name), join(folder, name), { recursive: true });
  }
}

/** The words that start what makes an executable. */
export function compiler(folder: string): string[] {
  const flags = runtime === "deno" ? ["run", "-A", "--no-lock"] : [];
  return [process.execPath, ...flags, join(folder, ".ci/compile.ts")];
}

export const { how, program } = buildExecutable();
if (!program) console.log(`skipped the executable: ${how}`);

/** How the command is started in the tests that follow. */
let launcher = source;
let isExecutable = false;

/** Registers tests twice: of the source, and of the executable, if there is one. */
export function eachWay(suite: (isExecutable: boolean) => void): void {
  suite(false);
  if (program) asExecutable(() => suite(true));
}

/** Registers tests of the executable. */
export function asExecutable(suite: () => void): void {
  if (program) launcher = [program];
  isExecutable = true;
  suite();
}

export function test(
  name: string,
  options: { skip: string | false } | (() => void | Promise<void>),
  run?: () => void | Promise<void>,
): void {
  const { skip } = typeof options === "function" ? { skip: false as const } : options;
  const [words, isOfExecutable] = [launcher, isExecutable];
  const title = isOfExecutable ? `${name} (executable)` : name;
  register(
    skip ? `${title} (skipped: ${skip})` : title,
    { timeout: 60_000, skip: !!skip },
    async () => {
      [launcher, isExecutable] = [words, isOfExecutable];
      await ((run ?? options) as () => void | Promise<void>)();
    },
  );
}

export interface Result {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface Started {
  process: ChildProcess;
  code: Promise<number | null>;
  stdout(): string;
  stderr(): string;
  kill(signal: string): void;
}

/** A project with a module of functions, in which the command is started. */
export interface Project {
  /** The directory of the list that `add` fills. */
  name: string;
  /** The words that start the command, for a shell. */
  command: string;
  file(name: string): string;
  read(name: string): string;
  write(name: string, text: string): void;
  forrest(...words: string[]): Result;
  /** The same, with something on its standard input. */
  forrestWith(input: string, ...words: string[]): Result;
  shell(line: string): Result;
  start(...words: string[]): Started;
  /** Adds a task that calls a function of the module for each line. */
  add(name: string, ...lines: string[]): Result;
  ids(state: string): string[];
  count(state: string): number;
  // deno-lint-ignore no-explicit-any
  task(state: string, id: string): any;
  until(isReached: () => boolean): Promise<void>;
  [Symbol.dispose](): void;
}

export function temporary(name = "list"): Project {
  const path = realpathSync(mkdtempSync(join(tmpdir(), "forrest-cli-")));
  const file = (name: string) => join(path, name);
  const [command, ...first] = launcher;
  const options = { cwd: path, encoding: "utf8", timeout: 50_000, env: environment() } as const;
  const result = ({ status, stdout, stderr }: ReturnType<typeof spawnSync>): Result => ({
    code: status,
    stdout: `${stdout}`,
    stderr: uncolored(`${stderr}`),
  });
  const forrestWith = (input: string, ...words: string[]) =>
    result(spawnSync(command, [...first, ...words], { ...options, input }));
  const ids = (state: string) =>
    readdirSync(file(`${name}/${state}`)).sort().map((entry) => entry.replace(/\.json(@.*)?$/, ""));
  const started: ChildProcess[] = [];
  writeFileSync(file("tasks.ts"), TASKS);
  return {
    name,
    command: launcher.join(" "),
    file,
    read: (name) => readFileSync(file(name), "utf8"),
    write(name, text) {
      mkdirSync(dirname(file(name)), { recursive: true });
      writeFileSync(file(name), text);
    },
    forrest: (...words) => forrestWith("", ...words),
    forrestWith,
    shell(line) {
      writeFileSync(file("line.sh"), line); // as Deno rewrites its own name in what follows `sh -c`
      return result(spawnSync("sh", ["line.sh"], options));
    },
    start(...words) {
      const child = spawn(command, [...first, ...words], { ...options, detached: true });
      started.push(child);
      let [stdout, stderr] = ["", ""];
      child.stdout!.on("data", (text) => stdout += text);
      child.stderr!.on("data", (text) => stderr += text);
      const code = new Promise<number | null>((resolve) => child.on("close", resolve));
      // Deno takes a process that was told to end with `child.kill()` for one that a signal has killed
      const kill = (signal: string) => void process.kill(child.pid!, signal);
      return { process: child, code, stdout: () => stdout, stderr: () => stderr, kill };
    },
    add: (call, ...lines) =>
      forrestWith(lines.map((line) => `${line}\n`).join(""), "add", name, `./tasks.ts#${call}`),
    ids,
    count: (state) => ids(state).length,
    task: (state, id) => JSON.parse(readFileSync(file(`${name}/${state}/${id}.json`), "utf8")),
    async until(isReached) {
      for (let i = 0; i < 400; i++) {
        if (isReached()) return;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      throw new Error(`It did not happen within 40 s: ${isReached}`);
    },
    [Symbol.dispose]() {
      for (const child of started) killGroup(child);
      rmSync(path, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** Ends what a test has started, if it is still there; each was started in a group of its own. */
export function killGroup({ pid, exitCode, signalCode }: ChildProcess): void {
  if (!pid || exitCode !== null || signalCode !== null) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch { /* it has just ended */ }
}

/** The environment, without what would change what the command prints. */
export function environment(): Record<string, string> {
  const { NO_COLOR: _no, FORCE_COLOR: _force, FORREST_TASKS: _tasks, ...others } = process.env;
  return others as Record<string, string>;
}

/** Without the colors in which Deno prints what nobody has caught, also where no terminal is. */
function uncolored(text: string): string {
  const [first, ...parts] = text.split("\x1b");
  const isUncaught = /Uncaught/.test(text);
  return isUncaught
    ? [first, ...parts.map((part) => part.replace(/^\[[\d;]*m/, ""))].join("")
    : text;
}

export function isInstalled(program: string): boolean {
  return spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;
}

export interface Terminal {
  type(text: string): void;
  resize(width: number): void;
  /** What it shows, with what has scrolled out of it. */
  text(withColors?: boolean): string;
  [Symbol.dispose](): void;
}

/** A real terminal, with a shell in the directory of the project. */
export function terminal(list: Project, width: number): Terminal {
  const socket = list.file("tmux");
  const tmux = (...words: string[]) =>
    spawnSync("tmux", ["-f", "/dev/null", "-S", socket, ...words], {
      encoding: "utf8",
      env: { ...environment(), TERM: "xterm-256color", LC_ALL: "C.UTF-8", PS1: "$ " },
    }).stdout;
  tmux("-u", "new-session", "-d", "-x", `${width}`, "-y", "50", "-c", list.file("."), "sh");
  for (let tries = 0; tries < 100; tries++) { // what is typed before its prompt would be mixed with it
    if (tmux("capture-pane", "-p").trim()) break;
    spawnSync("sleep", ["0.1"]);
  }
  return {
    type: (text) =>
      void (text === "C-c" ? tmux("send-keys", text) : tmux("send-keys", "-l", `${text}\n`)),
    resize: (width) => void tmux("resize-window", "-x", `${width}`),
    text: (withColors) => tmux("capture-pane", "-p", ...(withColors ? ["-e"] : []), "-S", "-"),
    [Symbol.dispose]: () => void tmux("kill-server"),
  };
}

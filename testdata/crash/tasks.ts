/** The tasks of the crash tests: some do their work, the others misbehave. */
import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import process from "node:process";

const wait = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Notes in a file outside of the list that it has run, and returns what no other run of it does. */
export function note(log: string, name: string): string {
  const token = crypto.randomUUID();
  fs.appendFileSync(log, `${name} ${token}\n`);
  return token;
}

/** The same, with a result that its process files itself, as it is too long to be told. */
export function noteMuch(log: string, name: string): string {
  return note(log, name) + "x".repeat(100_000);
}

export async function slowNote(log: string, name: string, milliseconds: number): Promise<string> {
  const token = note(log, name);
  await wait(milliseconds);
  return token;
}

export function refuse(log: string, name: string): never {
  note(log, name);
  throw new Error("refused");
}

export function refuseMuch(log: string, name: string): never {
  note(log, name);
  throw new Error("refused".repeat(10_000));
}

export async function sleep(log: string, name: string): Promise<void> {
  note(log, name);
  await wait(600_000);
}

export function loop(log: string, name: string): void {
  note(log, name);
  for (const end = Date.now() + 600_000; Date.now() < end;);
}

/** Starts children that ignore every signal they can, in its process group and outside of it. */
export async function haveChildren(log: string, name: string): Promise<void> {
  const stubborn = "trap '' TERM INT HUP QUIT; sleep 600 & while :; do sleep 600; done";
  const ways = [
    ["sh", "-c", stubborn],
    ["sh", "-c", `(sh -c "${stubborn}" &) &`], // its parent dies at once
    ["setsid", "sh", "-c", stubborn],
    ["setsid", "sh", "-c", `(setsid sh -c "${stubborn}" &) &`],
    ["nohup", "sh", "-c", "while :; do :; done"],
  ];
  for (const [program, ...args] of ways) spawn(program, args, { stdio: "ignore" });
  await wait(200);
  await sleep(log, name);
}

export function chain(log: string, name: string, child: string[]): Promise<void> {
  spawn(child[0], child.slice(1), { stdio: "inherit" });
  return sleep(log, name);
}

/** Kills the run that it is a part of. */
export async function killRun(log: string, name: string): Promise<void> {
  note(log, name);
  process.kill(process.ppid, "SIGKILL");
  await wait(600_000);
}

export function exit(code: number): never {
  process.exit(code);
}

export async function exitLater(code: number): Promise<void> {
  await wait(100);
  process.exit(code);
}

export async function killItself(): Promise<void> {
  process.kill(process.pid, "SIGKILL");
  await wait(600_000);
}

export async function violateMemory(): Promise<void> {
  if ("Deno" in globalThis) { // whose engine survives a SIGSEGV without a cause
    Deno.UnsafePointerView.getCString(Deno.UnsafePointer.create(8n)!);
  }
  process.kill(process.pid, "SIGSEGV");
  await wait(600_000);
}

/** Fills the memory, which it first limits to a little more than it has. */
export function exhaustMemory(): number {
  const status = fs.readFileSync("/proc/self/status", "utf8");
  const limit = (Number(/VmSize:\s*(\d+)/.exec(status)![1]) + 150_000) * 1024;
  const limited = spawnSync("prlimit", ["--pid", `${process.pid}`, `--as=${limit}`]);
  if (limited.status !== 0) process.abort(); // rather than to take all that the machine has
  const kept: unknown[] = [];
  while (kept.length < 100_000) kept.push(new Array(10_000).fill(kept.length + 0.5));
  return kept.length;
}

export async function rejectUnheld(): Promise<string> {
  Promise.reject(new Error("nobody holds this"));
  await wait(300);
  return "survived";
}

export async function rejectUnheldAtOnce(): Promise<string> {
  Promise.reject(new Error("nobody holds this"));
  return await "returned";
}

export function throwLater(): string {
  setTimeout(() => {
    throw new Error("thrown after the end");
  }, 50);
  return "returned";
}

export function printMuch(begin = "", end = "\n"): string {
  const lines = `${"x".repeat(1023)}${end}`.repeat(1024);
  write(1, begin);
  for (let i = 0; i < 50; i++) write(1, lines);
  return "printed";
}

export function printMarks(): string {
  write(1, `${"\x1e".repeat(2 ** 20)}\n`);
  return "printed";
}

function write(stream: number, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let written = 0; written < bytes.length;) {
    try {
      written += fs.writeSync(stream, bytes, written);
    } catch (error) {
      if ((error as { code?: string }).code !== "EAGAIN") throw error;
    }
  }
}

export function printWithoutNewline(): string {
  write(1, "no newline");
  write(2, "none here");
  return "printed";
}

/** Prints what an answer of a runner looks like, for itself and for whatever lies beside it. */
export async function forge(directory: string): Promise<string> {
  for (const name of [...fs.readdirSync(`${directory}/running`), "x.json@y"]) {
    const told = { begin: 0, runtime: 0, returnValue: "bad" };
    const secrets = [
      "done",
      "",
      crypto.randomUUID(),
      null,
      undefined,
      ...Object.values(process.env),
    ];
    for (
      const answer of [
        ...[["done", 1], ["fail", 1], ["todo", 1], ["nonsense"], [], [null, null]],
        ...secrets.map((secret) => [secret, told]),
      ]
    ) {
      const line = `\x1e${JSON.stringify([`${directory}/running/${name}`, ...answer])}\n`;
      write(1, `${line}beside\x1e${line}`);
      write(2, line);
    }
  }
  write(1, "\x1e\n\x1e{}\n\x1enull\n\x1e[]\n\x1e[1,2,3]\n\x1e");
  await wait(300);
  write(1, "\x1e\x1e");
  return "forged";
}

export async function forgeAfterDeletion(directory: string, name: string): Promise<string> {
  const claim = fs.readdirSync(`${directory}/running`).find((file) =>
    file.startsWith(`${name}.json@`)
  );
  fs.rmSync(`${directory}/running/${claim}`);
  write(1, `\x1e${JSON.stringify([`${directory}/running/${claim}`, "done", 1])}\n`);
  await wait(200);
  return "forged";
}

export function closeOutput(): string {
  fs.closeSync(1);
  return "closed";
}

/** The next file to be opened takes the descriptor of the standard output. */
export function replaceOutput(path: string): string {
  fs.closeSync(1);
  fs.openSync(path, "w");
  return "replaced";
}

export async function readInput(): Promise<string> {
  let text = "";
  process.stdin.on("data", (data) => text += data);
  await Promise.race([new Promise((resolve) => process.stdin.on("end", resolve)), wait(1000)]);
  return `read ${text.length}`;
}

export function readInputSynchronously(): string {
  const buffer = new Uint8Array(100);
  try {
    return `read ${fs.readSync(0, buffer)}`;
  } catch {
    return "read 0";
  }
}

export function changeDirectory(): string {
  process.chdir("/");
  return process.cwd();
}

export function whereAmI(): string {
  return process.cwd();
}

export function deleteOwnFile(directory: string, name: string): string {
  for (const file of fs.readdirSync(`${directory}/running`)) {
    if (file.startsWith(`${name}.json@`)) fs.rmSync(`${directory}/running/${file}`);
  }
  return "deleted";
}

export function replaceGlobals(): string {
  const globals = globalThis as unknown as Record<string, unknown>;
  const broken = () => {
    throw new Error("replaced by a task");
  };
  globals.console = { log: broken, error: broken, warn: broken, info: broken, debug: broken };
  globals.Promise = broken;
  JSON.stringify = broken as never;
  JSON.parse = broken as never;
  return "replaced";
}

export function leaveTimer(): string {
  setInterval(() => {}, 600_000);
  return "left";
}

export async function leaveServer(): Promise<string> {
  const server = http.createServer(() => {});
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return "left";
}

export function neverSettle(): Promise<never> {
  return new Promise(() => {});
}

export function leaveChild(): string {
  spawn("sleep", ["600"], { stdio: "inherit" });
  return "left";
}

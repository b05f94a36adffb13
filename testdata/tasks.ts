/** The functions that the tests defer. Runners import them from here. */
import { spawn } from "node:child_process";
import { appendFileSync, existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { writeFileSync } from "node:fs";
import process from "node:process";
import { map } from "../mod.ts";

/** What took its time at the top level of the module. */
export const awaited: string = await new Promise((resolve) => setTimeout(resolve, 1, "awaited"));

export function prepare(item: string): { list: [string, number]; thing: string } {
  return { list: [item, item.length], thing: item.toUpperCase() };
}

export function dostuff(length: number, thing: string): string {
  return `${thing} ${length}`;
}

export default function theDefault(x: number): number {
  return x + 1;
}

export function identity<T>(value: T): T {
  return value;
}

export function add(a: number, b: number): number {
  return a + b;
}

export function apply<A, B>(call: (a: A) => B, value: A): B {
  return call(value);
}

export async function addSlowly(a: number, b: number): Promise<number> {
  await new Promise((resolve) => setTimeout(resolve, 5));
  return a + b;
}

export function whatWasAwaited(): string {
  return awaited;
}

export class Account {
  owner: string;
  balance: number;
  constructor(owner: string, balance: number) {
    this.owner = owner;
    this.balance = balance;
  }
  deposit(amount: number): number {
    return this.balance += amount;
  }
  toJSON(): { owner: string; balance: number } {
    return { owner: this.owner, balance: this.balance };
  }
}

export class Opaque {
  secret = 1;
}

export function makeOpaque(): { deep: Opaque[] } {
  return { deep: [new Opaque()] };
}

export function makeFunction(): { callback: () => number } {
  return { callback: () => 1 };
}

export function throwDetailed(message: string): never {
  const error = new RangeError(message, { cause: new TypeError("the cause") });
  throw Object.assign(error, { code: "E_DETAIL", details: { when: new Date(0), parts: [1n] } });
}

export function throwValue(value: unknown): never {
  throw value;
}

/** Writes a line, so that calls can be counted. */
export function trace(file: string, word: string): string {
  appendFileSync(file, `${word}\n`);
  return word;
}

/** Fails as often as told, and says in its error which attempt that was. */
export function failAtFirst(file: string, failures: number): number {
  appendFileSync(file, `${Date.now()}\n`);
  const attempt = readFileSync(file, "utf8").trim().split("\n").length;
  if (attempt <= failures) throw new Error(`attempt ${attempt}`);
  return attempt;
}

/** Writes its process id into a file, and waits for ever. */
export async function hang(file: string): Promise<never> {
  writeFileSync(file, `${process.pid}`);
  return await new Promise(() => setInterval(() => {}, 1000));
}

/** Hangs so that no timer, promise or signal handler gets its turn. */
export function spin(file: string): never {
  process.on("SIGTERM", () => {});
  writeFileSync(file, `${process.pid}`);
  while (true);
}

/** Leaves a child that ignores SIGTERM, and waits for ever. */
export async function hangWithChild(file: string, ownGroup: boolean): Promise<never> {
  const script = `trap "" TERM; echo $$ > "$0"; while :; do sleep 0.1; done`;
  spawn("sh", ["-c", script, file], { detached: ownGroup, stdio: "inherit" });
  return await new Promise(() => setInterval(() => {}, 1000));
}

/** Returns when as many calls as told are running at once. */
export async function meet(folder: string, count: number): Promise<number> {
  writeFileSync(`${folder}/${crypto.randomUUID()}`, "");
  while (readdirSync(folder).length < count) await new Promise((done) => setTimeout(done, 10));
  return process.pid;
}

/** How many calls were running when this one began. */
export async function occupancy(folder: string): Promise<number> {
  const mine = `${folder}/${crypto.randomUUID()}`;
  writeFileSync(mine, "");
  const others = readdirSync(folder).length;
  await new Promise((resolve) => setTimeout(resolve, 50));
  rmSync(mine);
  return others;
}

/** Returns when a file is there. */
export async function waitFor(file: string): Promise<string> {
  while (!existsSync(file)) await new Promise((resolve) => setTimeout(resolve, 10));
  return file;
}

let calls = 0;
export function countCalls(): { pid: number; calls: number } {
  return { pid: process.pid, calls: ++calls };
}

let total = 0;
export function sum(message: number): { worker: number; total: number } {
  return { worker: process.pid, total: total += message };
}

export function surroundings(variable: string): { cwd: string; value?: string; input: string } {
  return { cwd: process.cwd(), value: process.env[variable], input: readFileSync(0, "utf8") };
}

export function print(text: string, error = ""): string {
  process.stdout.write(text);
  process.stderr.write(error);
  return "printed";
}

/** Leaves something that never gives way. */
export function blockLater(): string {
  setTimeout(() => {
    while (true);
  });
  return "returned";
}

/** Prints a line of so many characters and some more, and returns it. */
export function printAndReturn(length: number): string {
  const text = "ü".repeat(length);
  console.log(`${text}end.`);
  return text;
}

export function exit(code: number): never {
  console.log("these were my last words");
  process.exit(code);
}

export function killSelf(): void {
  process.kill(process.pid, "SIGKILL");
  while (true);
}

export async function waitForNothing(): Promise<never> {
  return await new Promise(() => {});
}

/** The next number of Collatz' sequence. */
export function collatz(n: number): [number, number] {
  return [n, n % 2 ? 3 * n + 1 : n / 2];
}

export async function fetchText(url: string): Promise<string> {
  const response = await fetch(url);
  const text = await response.text();
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return text;
}

/** Throws an error with a property that has no text. */
export function throwOdd(): never {
  const odd = Object.assign(Object.create(null), { call() {} });
  throw Object.assign(new RangeError("odd"), { odd });
}

/** Returns a long text, while a child prints on its standard output. */
export async function returnAmidNoise(length: number): Promise<string> {
  const script = "while :; do echo noise noise noise; done";
  spawn("sh", ["-c", script], { stdio: ["ignore", "inherit", "ignore"] });
  await new Promise((resolve) => setTimeout(resolve, 50));
  return "x".repeat(length);
}

/** Blocks its process for a while, and says which one that is. */
export function sleepAndTell(milliseconds: number): string {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
  return `${process.pid}`;
}

/** Prints again and again, and never ends. */
export async function printOn(text: string): Promise<never> {
  setInterval(() => console.log(text.repeat(100)), 1);
  return await new Promise(() => {});
}

/** Prints parts of lines, one after the other. */
export async function printInParts(parts: string[]): Promise<void> {
  for (const part of parts) {
    await new Promise((resolve) => process.stdout.write(part, resolve));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Starts calls in this process again and again; says how often that was refused. */
export async function mapOften(rounds: number): Promise<number> {
  let refused = 0;
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < 200; i++) {
      try {
        map((x: number) => x, [], { processes: 0 });
      } catch {
        refused++;
      }
      await Promise.resolve();
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return refused;
}

export function pick(value: string): string;
export function pick(value: number): number;
export function pick(value: string | number): string | number {
  return value;
}

/** A class as it was written before there were any. */
export function Counter(this: { count: number }, count: number): void {
  this.count = count;
}

Counter.prototype.next = function (this: { count: number }): number {
  return ++this.count;
};

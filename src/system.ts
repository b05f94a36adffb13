/**
 * What forrest asks of the system: `Deno`, or the same calls made from `node:` built-ins, and the few
 * things that no runtime offers, done by a shell.
 *
 * @module
 */

/** `Deno`, or the same calls made from `node:` built-ins. Importing those would double Deno's start. */
export const system: typeof Deno = globalThis.Deno ?? systemOfNode();

/** Where a process writes. */
export type Stream = "stdout" | "stderr";

/** The first argument of a process that is to be a runner. */
export const RUNNER = "forrest-runner";

/** Captured, as a task may replace them. */
export const { parse, stringify } = JSON;
/** The same. */
export const [race, all]: [typeof Promise.race, typeof Promise.all] = [
  Promise.race.bind(Promise),
  Promise.all.bind(Promise),
];

/** Whether this module is a part of one file with the program: of a bundle or a compiled executable. */
export const isBundled = !import.meta.url.endsWith("/src/system.ts") ||
  !!(system.build as { standalone?: boolean }).standalone;

/** What all copies of forrest in one process share. */
export const shared: { steps: number; importing: Set<string>; serve?: () => Promise<never> } =
  (globalThis as Record<symbol, never>)[Symbol.for("forrest")] ??= {
    steps: 0,
    importing: new Set(),
  } as never;

/** The URL of a path; an absolute URL or another specifier stays as it is. */
export function fileUrl(path: string): string {
  if (/^[a-z][a-z+.-]+:/i.test(path)) return path;
  const url = new URL("file:///");
  const isAbsolute = /^([A-Z]:)?[\\/]/i.test(path);
  url.pathname = (isAbsolute ? path : `${system.cwd()}/${path}`).replaceAll("%", "%25");
  return url.href;
}

/** The path of a file URL. */
export function pathOf(url: string): string {
  return decodeURIComponent(new URL(url).pathname);
}

/** A variable of the environment, or an empty text. */
export function environment(name: string): string {
  try {
    return system.env.get(name) ?? "";
  } catch {
    return ""; // Deno does not permit it
  }
}

/** False if a file that `action` needs is not there; other errors are thrown. */
export function succeeds(action: () => unknown): boolean {
  try {
    action();
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return false;
    throw error;
  }
}

/** Writes all of a text; one call may write less. */
export function writeAll(file: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let written = 0; written < bytes.length;) written += file.writeSync(bytes.subarray(written));
}

/** Resolves after so many milliseconds. */
export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** What `promise` gives, unless that takes more than so many milliseconds. */
export async function within<T>(milliseconds: number, promise: Promise<T>): Promise<T | void> {
  let timer: Timer | undefined;
  const late = new Promise<void>((resolve) => timer = setTimeout(resolve, milliseconds));
  return await Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Starts a program, with pipes. */
export function spawn(command: string[], options: Deno.CommandOptions = {}): Deno.ChildProcess {
  const [program, ...args] = command;
  const pipes = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  return new system.Command(program, { args, ...pipes, ...options }).spawn();
}

/** Starts a program in a process group of its own, with pipes. */
export function spawnGroup(command: string[], env?: Record<string, string>): Deno.ChildProcess {
  // for `detached`, Deno copies its page tables, and stands still for 3 ms
  hasSetsid ??= !!globalThis.Deno && succeeds(() => system.lstatSync("/usr/bin/setsid"));
  if (hasSetsid) return spawn(["/usr/bin/setsid", ...command], { env });
  return spawn(command, { env, detached: true } as Deno.CommandOptions);
}

let hasSetsid: boolean | undefined;

/** Kills a process and all that it has started and that has not left its group. */
export function killGroup(pid: number): void {
  try {
    system.kill(-pid, "SIGKILL");
  } catch { /* none of it is left */ }
}

/** A promise that knows whether anybody waits for it. */
export class Watched<T> extends Promise<T> {
  seen = false;
  override then<A, B>(...handlers: Parameters<Promise<T>["then"]>): Promise<A | B> {
    this.seen = true;
    return super.then(...handlers) as Promise<A | B>;
  }
}

/** Runs a few lines of shell: it can look at and kill other processes where no runtime can. */
export function shell(script: string, arg: string): string {
  const { stdout } = new system.Command("sh", { args: ["-c", script, arg] }).outputSync();
  return new TextDecoder().decode(stdout).trim().replace(/[^\w-]+/g, "_");
}

/** Calls `stop` before the program ends by `exit()` or by a signal, which then does what it does. */
export function beforeEnd(stop: () => void, signal?: AbortSignal): () => void {
  const undo: (() => void)[] = [];
  const release = () => undo.splice(0).forEach((remove) => remove());
  const listen = (target: Emitter, event: string) => {
    target.addEventListener(event, stop);
    undo.push(() => target.removeEventListener(event, stop));
  };
  listen(globalThis.Deno ? globalThis : exitOfNode(), globalThis.Deno ? "unload" : "exit");
  if (signal) listen(signal, "abort");
  for (const name of signal ? [] : ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    const isHandled = handlerOf(name);
    const listener = () => {
      stop();
      release();
      if (!isHandled()) system.kill(system.pid, name);
    };
    system.addSignalListener(name, listener);
    undo.push(() => system.removeSignalListener(name, listener));
  }
  return release;
}

let caught: number | undefined;

/** Whether the program itself handles a signal; on Deno, whether it did when this was first asked. */
function handlerOf(name: "SIGINT" | "SIGTERM" | "SIGHUP"): () => boolean {
  if (!globalThis.Deno) return () => nodeProcess().listenerCount(name) > 0;
  try {
    const signals = /SigCgt:\s*(\w+)/.exec(system.readTextFileSync("/proc/self/status"))!;
    caught ??= Number.parseInt(signals[1].slice(-8), 16);
  } catch { /* not on Linux, or not permitted: then it does not, as far as we know */ }
  const bit = { SIGHUP: 0, SIGINT: 1, SIGTERM: 14 }[name];
  return () => ((caught ?? 0) >> bit & 1) === 1;
}

type Emitter = Pick<EventTarget, "addEventListener" | "removeEventListener">;

type Process = typeof import("node:process");
/** The `process` of Node, which Bun has, and Deno where it is asked for. */
export function nodeProcess(): Process {
  return (globalThis as unknown as { process: Process }).process;
}

function exitOfNode(): Emitter {
  const process = nodeProcess();
  const [on, off] = [process.on.bind(process), process.off.bind(process)];
  return { addEventListener: on, removeEventListener: off } as unknown as Emitter;
}

function systemOfNode(): typeof Deno {
  const process = nodeProcess();
  const fs = process.getBuiltinModule("node:fs");
  const childProcess = () => process.getBuiltinModule("node:child_process"); // late: it costs milliseconds
  type Done<T> = (error: Error | null, value?: T) => void;
  const promise = <T>(action: (done: Done<T>) => void) =>
    new Promise<T>((resolve, reject) =>
      action((error, value) => error ? reject(error) : resolve(value!))
    );
  const file = (fd: number) => ({
    readSync: (bytes: Uint8Array) => fs.readSync(fd, bytes),
    read: (bytes: Uint8Array) =>
      promise<number>((done) => fs.read(fd, bytes, 0, bytes.length, null, done)),
    writeSync: (bytes: Uint8Array) => fs.writeSync(fd, bytes),
    syncSync: () => fs.fsyncSync(fd),
    sync: () => promise<void>((done) => fs.fsync(fd, done)),
    close: () => fs.closeSync(fd),
    [Symbol.dispose]: () => fs.closeSync(fd),
  });
  const open = (path: string, options: Deno.OpenOptions = {}) => {
    if (path.startsWith("/dev/fd/")) return file(+path.slice(8)); // a socket, which cannot be opened
    return file(fs.openSync(path, options.append ? "a" : options.write ? "w" : "r"));
  };
  class Command {
    constructor(readonly program: string, readonly options: Deno.CommandOptions) {}
    outputSync() {
      return childProcess().spawnSync(this.program, this.options.args);
    }
    spawn() {
      const { args = [], env, detached } = this.options as Deno.CommandOptions & {
        detached: boolean;
      };
      const options = { env: { ...process.env, ...env }, detached };
      const child = childProcess().spawn(this.program, args, options);
      child.on("error", () => {}); // reported below
      if (!child.pid) throw new Error(`Cannot start \`${this.program}\`: there is no such program`);
      child.stdin.on("error", () => {});
      const status = promise((done) =>
        child.on(
          "exit",
          (code, signal) => done(null, { code: code ?? 128, signal, success: code === 0 }),
        )
      );
      const write = (bytes: Uint8Array) =>
        promise<void>((done) => child.stdin.write(bytes, (error) => done(error ?? null)));
      const close = () => promise<void>((done) => child.stdin.end(() => done(null)));
      const stdin = { getWriter: () => ({ write, close }) };
      return { pid: child.pid, stdin, stdout: child.stdout, stderr: child.stderr, status };
    }
  }
  return {
    Command,
    args: process.argv.slice(2),
    build: { os: process.platform },
    pid: process.pid,
    mainModule: process.argv[1] ? fileUrl(process.argv[1]) : import.meta.url,
    env: { get: (name: string) => process.env[name] },
    cwd: process.cwd,
    chdir: process.chdir,
    execPath: () => process.execPath,
    exit: process.exit,
    kill: process.kill,
    hostname: () => process.getBuiltinModule("node:os").hostname(),
    addSignalListener: process.on.bind(process),
    removeSignalListener: process.off.bind(process),
    stdin: file(0),
    stdout: file(1),
    stderr: file(2),
    openSync: open,
    renameSync: fs.renameSync, // to spread `fs` would load all of it, which takes 10 ms
    lstatSync: (path: string) => fs.lstatSync(path, { throwIfNoEntry: false }), // errors cost 1 ms
    statSync: fs.statSync,
    mkdirSync: fs.mkdirSync,
    chmodSync: fs.chmodSync,
    realPathSync: fs.realpathSync,
    readTextFileSync: (path: string | URL) => fs.readFileSync(path, "utf8"),
    writeTextFileSync: fs.writeFileSync,
    removeSync: (path: string, options = { recursive: false }) =>
      !fs.lstatSync(path).isDirectory()
        ? fs.unlinkSync(path)
        : options.recursive
        ? fs.rmSync(path, options)
        : fs.rmdirSync(path),
    readDirSync: (path: string) => fs.readdirSync(path).map((name) => ({ name })),
    utimeSync: fs.utimesSync,
  } as unknown as typeof Deno;
}

type Timer = ReturnType<typeof setTimeout>;

/** When process $0 started, as a text that no other one with its id has had; `dead` if it is dead. */
export const START = `if s=$(cat /proc/$0/stat 2>/dev/null); then set -- \${s##*) }
  [ $1 = Z ] || [ $1 = X ] && echo dead || echo $(cut -c1-8 /proc/sys/kernel/random/boot_id)-\${20}
  elif [ -d /proc/self ]; then echo dead; else ps -o lstart= -p $0 || echo dead; fi`;
/** The namespace of process ids, if it is not the machine's own: process ids mean nothing outside. */
export const NAMESPACE = `; n=$(readlink /proc/self/ns/pid | tr -dc 0-9)
  [ "$n" = 4026531836 ] || echo $n`;
/** Kills every process with $0 in its environment, until there is none. */
export const KILL =
  `i=0; while [ $i -lt 100 ] && p=$(grep -lsFe "$0" /proc/[0-9]*/environ | cut -d/ -f3) &&
  [ "$p" ]; do kill -9 $p 2>/dev/null; i=$((i+1)); sleep 0.02; done`;

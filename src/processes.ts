/**
 * How other processes are started, looked at and killed; what no runtime can do is done by a shell.
 *
 * @module
 */

import { environment, nodeProcess, system, writeAll } from "./system.ts";

/** What a process may be started with. */
type Options = { env?: Record<string, string>; detached?: boolean };

/** Starts a program, with pipes. */
export function spawn(command: string[], options: Options = {}): Deno.ChildProcess {
  const [program, ...args] = command;
  const pipes = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  try {
    if (!globalThis.Deno) return spawnOfBun(command, options);
    return new system.Command(program, { args, ...pipes, ...options }).spawn();
  } catch (error) {
    throw cannotStart(program, error);
  }
}

/** Says in the same words on all runtimes why a program could not be started. */
function cannotStart(program: string, cause: unknown): unknown {
  const { code } = cause as { code?: string };
  const fewer = "use fewer processes, or raise";
  const reasons: Record<string, string> = {
    ENOENT: "there is no such program",
    EACCES: "it is no program, or may not be run",
    E2BIG: "its words are too long",
    EMFILE: `too many files are open: ${fewer} \`ulimit -n\``,
    EAGAIN: `too many processes run: ${fewer} \`ulimit -u\``,
  };
  if (!code || !Object.hasOwn(reasons, code)) return cause;
  return errorOf(`Cannot start \`${program}\`: ${reasons[code]}`, { code });
}

/** An error of a process. Its stack would show where forrest has noticed it, so it has none. */
export function errorOf(message: string, properties: { name?: string; code?: string } = {}): Error {
  const stack = `${properties.name ?? "Error"}: ${message}`;
  return Object.assign(new Error(message), { stack }, properties);
}

const found = new Set<string>(); // programs that are there

/** Throws if a program cannot be started; else `setsid` would say so, as if the program had. */
function find(program: string): void {
  if (found.has(program)) return;
  const isPath = program.includes("/");
  const folders = (environment("PATH") || "/usr/bin:/bin").split(":");
  const paths = isPath ? [program] : folders.map((folder) => `${folder || "."}/${program}`);
  let code = "ENOENT";
  for (const path of paths) {
    try {
      const { isFile, mode } = system.statSync(path);
      if (!isFile || !(mode! & 0o111)) code = "EACCES";
      else {
        if (!isPath || program.startsWith("/")) found.add(program);
        return;
      }
    } catch (error) {
      if ((error as { code?: string }).code !== "ENOENT") return; // it may be there
    }
  }
  throw cannotStart(program, { code });
}

/** Starts a program in a process group of its own, with pipes. */
export function spawnGroup(command: string[], env?: Record<string, string>): Deno.ChildProcess {
  // for `detached`, Deno copies its page tables, and stands still for 3 ms
  hasSetsid ??= !!globalThis.Deno && isThere("/usr/bin/setsid");
  if (hasSetsid) {
    find(command[0]);
    return spawn(["/usr/bin/setsid", "--", ...command], { env });
  }
  return spawn(command, { env, detached: true });
}

let hasSetsid: boolean | undefined;

/** Whether there is something at a path, as far as we may look. */
export function isThere(path: string): boolean {
  try {
    return !!system.lstatSync(path);
  } catch {
    return false; // or Deno does not permit to look
  }
}

type Bun = {
  spawn(command: string[], options: object): {
    pid: number;
    stdin: { write(bytes: Uint8Array): unknown; flush(): unknown; end(): unknown };
    stdout: AsyncIterable<Uint8Array>;
    stderr: AsyncIterable<Uint8Array>;
    exited: Promise<unknown>;
    exitCode: number | null;
    signalCode: Deno.Signal | null;
    kill(signal: Deno.Signal): void;
  };
  spawnSync(command: string[]): { stdout: Uint8Array };
};
const bun = () => (globalThis as unknown as { Bun: Bun }).Bun;

function spawnOfBun(command: string[], options: Options): Deno.ChildProcess {
  const env = { ...nodeProcess().env, ...options.env };
  const child = bun().spawn(command, { ...options, env, stdio: ["pipe", "pipe", "pipe"] });
  const { pid, stdin, stdout, stderr } = child;
  const write = async (bytes: Uint8Array) => {
    stdin.write(bytes);
    await stdin.flush();
  };
  const close = async () => void await stdin.end();
  const status = child.exited.then(() => {
    const { exitCode, signalCode } = child;
    return { code: exitCode ?? 128, signal: signalCode, success: exitCode === 0 };
  });
  const kill = (signal: Deno.Signal) => child.kill(signal);
  const input = { getWriter: () => ({ write, close }) };
  const process = { pid, stdin: input, stdout, stderr, status, kill };
  return process as unknown as Deno.ChildProcess;
}

/** Kills a process and all that it has started and that has not left its group. */
export function killGroup(pid: number): void {
  try {
    system.kill(-pid, "SIGKILL");
  } catch { /* none of it is left */ }
}

/** How a process has ended. Deno knows no names for some signals, and would throw. */
export function statusOf(process: Deno.ChildProcess): Promise<Deno.CommandStatus> {
  return process.status.catch((error: Error) => {
    const signal = /\d+$/.exec(error.message)?.[0] as Deno.Signal | undefined;
    if (!signal) throw error;
    return { code: 128 + Number(signal), signal, success: false };
  });
}

/** Kills a process that was started here. */
export function kill(process: Deno.ChildProcess): void {
  try {
    process.kill("SIGKILL");
  } catch { /* it has ended */ }
}

/** What a few lines of shell print. */
export function printedBy(script: string, arg: string): Uint8Array {
  const args = ["-c", script, arg];
  const { stdout } = globalThis.Deno
    ? new Deno.Command("sh", { args }).outputSync()
    : bun().spawnSync(["sh", ...args]);
  return stdout;
}

/** What a few lines of shell print, as one word: a shell can look at and kill other processes where no runtime can. */
export function shell(script: string, arg: string): string {
  return new TextDecoder().decode(printedBy(script, arg)).trim().replace(/[^\w-]+/g, "_");
}

/** Calls `stop` before the program ends by `exit()` or by a signal, which then does what it does. */
export function beforeEnd(stop: () => void, signal?: AbortSignal): () => void {
  const undo: (() => void)[] = [];
  const release = () => undo.splice(0).forEach((remove) => remove());
  const listen = (target: Emitter, event: string) => {
    target.addEventListener(event, stop);
    undo.push(() => target.removeEventListener(event, stop));
  };
  listen(...exit());
  if (signal) listen(signal, "abort");
  for (const name of signal ? [] : ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    if (isIgnored(name)) continue;
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

/** Reports, when the program ends, an error that nobody has seen by then. */
export function reportAtEnd(unseen: () => { error: unknown } | undefined): void {
  const report = () => {
    const found = unseen();
    if (!found) return;
    const { error } = found;
    const text = error instanceof Error ? error.stack : error;
    writeAll(system.stderr, `Uncaught in \`schedule()\`: ${text}\n`);
    if (globalThis.Deno) Deno.exitCode ||= 1;
    else nodeProcess().exitCode ||= 1;
  };
  const [target, event] = exit();
  target.addEventListener(event, report);
}

type Ending = "SIGINT" | "SIGTERM" | "SIGHUP";

let status: string | undefined; // of this process, before we began to listen: what Deno catches, it always does

/** Whether the system has noted a signal as one that is ignored (`SigIgn`) or caught (`SigCgt`). */
function isNoted(mask: "SigIgn" | "SigCgt", name: Ending): boolean {
  try {
    status ??= system.readTextFileSync("/proc/self/status");
  } catch { /* not on Linux, or not permitted: then it is neither, as far as we know */ }
  const digits = new RegExp(`${mask}:\\s*(\\w+)`).exec(status ?? "")?.[1].slice(-8) ?? "0";
  const bit = { SIGHUP: 0, SIGINT: 1, SIGTERM: 14 }[name];
  return (Number.parseInt(digits, 16) >> bit & 1) === 1;
}

/** Whether this program was started so that SIGHUP does nothing, as by `nohup`; then that remains so. */
export function isIgnored(name: string): boolean {
  const isIgnored = isNoted("SigIgn", "SIGHUP") && name === "SIGHUP"; // noted before any is listened to
  // as soon as Deno listens to one signal, it ends by any other that nobody listens to
  if (isIgnored && globalThis.Deno) Deno.addSignalListener("SIGHUP", doNothing);
  return isIgnored;
}

const doNothing = () => {};

/** Whether the program itself handles a signal; on Deno, whether it did when this was first asked. */
function handlerOf(name: Ending): () => boolean {
  if (!globalThis.Deno) return () => nodeProcess().listenerCount(name) > 0;
  const isHandled = isNoted("SigCgt", name);
  return () => isHandled;
}

type Emitter = Pick<EventTarget, "addEventListener" | "removeEventListener">;

/** What tells that this program ends, and the name of that event. */
function exit(): [Emitter, string] {
  if (globalThis.Deno) return [globalThis, "unload"];
  const process = nodeProcess();
  const [on, off] = [process.on.bind(process), process.off.bind(process)];
  return [{ addEventListener: on, removeEventListener: off } as unknown as Emitter, "exit"];
}

/** Kills every process with $0 in its environment, until there is none. */
export const KILL =
  `i=0; while [ $i -lt 100 ] && p=$(grep -lsFe "$0" /proc/[0-9]*/environ | cut -d/ -f3) &&
  [ "$p" ]; do kill -9 $p 2>/dev/null; i=$((i+1)); sleep 0.02; done`;

/**
 * What forrest asks of the system: `Deno`, or the same calls made from `node:` built-ins.
 *
 * @module
 */

/** `Deno`, or the same calls made from `node:` built-ins. Importing those would double Deno's start. */
export const system: typeof Deno = globalThis.Deno ?? systemOfNode();

/** Where a process writes. */
export type Stream = "stdout" | "stderr";

/** The first argument of a compiled program that is to be a runner. */
export const RUNNER = "forrest-runner";

const { parse: parseText } = JSON;
/** `JSON.stringify`, captured as a task may replace it. */
export const { stringify } = JSON;
/** `JSON.parse`, captured; editors on Windows begin a file with a mark that it does not know. */
export const parse = (text: string) => parseText(text.startsWith("\uFEFF") ? text.slice(1) : text);
/** Captured, as a task may replace them. */
export const [race, all]: [typeof Promise.race, typeof Promise.all] = [
  Promise.race.bind(Promise),
  Promise.all.bind(Promise),
];

/** Whether this module is a part of one file with the program: of a bundle or a compiled executable. */
export const isBundled = !/\/src\/system\.[jt]s$/.test(import.meta.url) ||
  !!(system.build as { standalone?: boolean }).standalone;

/** Whether a text is a specifier of a module other than a path, such as a URL. */
export const isSpecifier = (text: string): boolean => /^[a-z][a-z+.-]+:/i.test(text);

/** The URL of a path; an absolute URL or another specifier stays as it is. */
export function fileUrl(path: string): string {
  if (isSpecifier(path)) return path;
  const url = new URL("file:///");
  const isAbsolute = /^([A-Z]:)?[\\/]/i.test(path);
  const full = isAbsolute ? path : `${system.cwd()}/${path}`;
  url.pathname = full.replace(/[%\\\t\n\r]/g, encodeURIComponent); // what it would read, or leave out
  return url.href;
}

/** The path of a file URL. */
export function pathOf(url: string): string {
  return decodeURIComponent(new URL(url).pathname);
}

/** The absolute path that a path, or a file URL, stands for; no other URL is a place for files. */
export function fullPath(path: string | URL): string {
  const name = `${path}`.replace(/^(?!file:)(?=[^/\\]{2,}:)/, "./");
  if (typeof path !== "string" && !(path instanceof URL) || !name) {
    throw new TypeError(`Cannot use \`${path}\` as a path: it must have a name`);
  }
  return pathOf(fileUrl(name)).replace(/\/{2,}/g, "/");
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

/**
 * Whether the system refused something, as a full disk does. Too many open files, or a closed descriptor,
 * do not count: a task may have caused them.
 */
export function isOfSystem(error: unknown): boolean {
  const { code, message } = Object(error) as { code?: unknown; message?: unknown };
  if (/^(EMFILE|EBADF)/.test(`${code ?? message}`)) return false;
  return /^E[A-Z]+$/.test(`${code}`) || /^E[A-Z]+: |\(os error \d+\)/.test(`${message}`);
}

/** Writes all of a text; one call may write less. */
export function writeAll(file: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let written = 0; written < bytes.length;) written += file.writeSync(bytes.subarray(written));
}

/** Removes a `toJSON` that a task has given to all objects: it would change how files are written. */
export function removeToJSON(): void {
  for (const { prototype } of [Object, Array]) delete (prototype as { toJSON?: unknown }).toJSON;
}

/** The longest delay of a timer, in milliseconds. */
export const LONGEST_TIMER = 2 ** 31 - 1;

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

type Process = typeof import("node:process");
/** The `process` of Node, which Bun has, and Deno where it is asked for. */
export function nodeProcess(): Process {
  return (globalThis as { process: Process }).process;
}

/** The calls of `Deno` that forrest uses, made from what Bun and Node have. */
function systemOfNode(): typeof Deno {
  const process = nodeProcess();
  const fs = () => process.getBuiltinModule("node:fs"); // late, as it takes Bun 2 ms
  const [encoder, chunk] = [new TextEncoder(), 8192];
  let libc: Record<string, (...args: unknown[]) => number> | undefined | null = null;
  /** Makes a system call where that can be done without `node:fs`: gives -1 if it fails. */
  const call = (name: string, ...args: unknown[]): number | undefined => {
    if (libc === null) libc = libcOfBun();
    if (args.some((item) => typeof item === "string" && item.includes("\0"))) return;
    const toC = (item: unknown) => typeof item === "string" ? encoder.encode(`${item}\0`) : item;
    return libc?.[name](...args.map(toC));
  };
  /** The same; what fails is tried by `node:fs`, which says what is wrong. */
  const attempt = (otherwise: () => number | void, name: string, ...args: unknown[]): number => {
    const result = call(name, ...args) ?? -1;
    return result < 0 ? otherwise() ?? 0 : result;
  };
  const promise = <T>(action: (done: (error: Error | null, value?: T) => void) => void) =>
    new Promise<T>((resolve, reject) =>
      action((error, value) => error ? reject(error) : resolve(value!))
    );
  const file = (fd: number) => {
    const close = () => {
      const closing = fd;
      fd = -1; // which the system may give to another file
      attempt(() => fs().closeSync(closing), "close", closing);
    };
    return {
      readSync: (bytes: Uint8Array) =>
        attempt(() => fs().readSync(fd, bytes), "read", fd, bytes, bytes.length),
      read: (bytes: Uint8Array) =>
        promise<number>((done) => fs().read(fd, bytes, 0, bytes.length, null, done)),
      writeSync(bytes: Uint8Array): number {
        try {
          return attempt(() => fs().writeSync(fd, bytes), "write", fd, bytes, bytes.length);
        } catch (error) {
          if ((error as { code?: string }).code !== "EAGAIN") throw error;
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1); // for the reader of a pipe
          return 0;
        }
      },
      syncSync() {
        const result = call("fsync", fd);
        if (result === undefined) fs().fsyncSync(fd);
        else if (result < 0) throw new Error("EIO: cannot bring a file to disk, fsync"); // no second try
      },
      sync: () => promise<void>((done) => fs().fsync(fd, done)),
      close,
      [Symbol.dispose]: close,
    };
  };
  const open = (
    path: string,
    { append, write }: Deno.OpenOptions = {},
  ): ReturnType<typeof file> => {
    if (path.startsWith("/dev/fd/")) return file(+path.slice(8)); // a socket, which cannot be opened
    const mode = append ? "a" : write ? "w" : "r";
    const flags = 0o2000000 | { r: 0, w: 0o1101, a: 0o2101 }[mode]; // those of Linux, with O_CLOEXEC
    const fd = attempt(() => fs().openSync(path, mode), "open", path, flags, 0o666);
    if (fd > 2) return file(fd);
    // a task has closed a standard stream: what it prints must not get into a file
    fs().closeSync(fd);
    fs().openSync("/dev/null", "r+");
    return open(path, { append, write });
  };
  const readText = (path: string | URL): string => {
    if (typeof path !== "string") return fs().readFileSync(path, "utf8");
    using file = open(path);
    const bytes = new Uint8Array(chunk);
    const length = file.readSync(bytes);
    if (length === chunk) return fs().readFileSync(path, "utf8");
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes.subarray(0, length));
  };
  const remove = (path: string, options = { recursive: false }) => {
    if (!fs().lstatSync(path).isDirectory()) fs().unlinkSync(path);
    else if (options.recursive) fs().rmSync(path, options);
    else fs().rmdirSync(path);
  };
  return {
    get args() {
      return process.argv.slice(2);
    },
    build: { os: process.platform },
    pid: process.pid,
    get mainModule() {
      return process.argv[1] ? fileUrl(process.argv[1]) : import.meta.url;
    },
    env: { get: (name: string) => process.env[name] },
    cwd: () => process.cwd(),
    chdir: (path: string) => process.chdir(path),
    execPath: () => process.execPath,
    exit: (code: number) => process.exit(code),
    kill: (pid: number, signal: string) => process.kill(pid, signal),
    hostname: () => process.getBuiltinModule("node:os").hostname(),
    addSignalListener: process.on.bind(process),
    removeSignalListener: process.off.bind(process),
    stdin: file(0),
    stdout: file(1),
    stderr: file(2),
    openSync: open,
    renameSync: (from: string, to: string) =>
      attempt(() => fs().renameSync(from, to), "rename", from, to),
    linkSync: (from: string, to: string) => fs().linkSync(from, to),
    lstatSync(path: string) {
      const found = fs().lstatSync(path, { throwIfNoEntry: false }); // errors cost 1 ms
      const { mtime, ino } = found ?? {};
      return found && { isFile: found.isFile(), isDirectory: found.isDirectory(), mtime, ino };
    },
    mkdirSync: (path: string, options: Deno.MkdirOptions) => fs().mkdirSync(path, options),
    readTextFileSync: readText,
    writeTextFileSync: (path: string, text: string) => fs().writeFileSync(path, text),
    removeSync: (path: string, options?: { recursive: boolean }) =>
      attempt(() => remove(path, options), "unlink", path),
    readDirSync: (path: string) => fs().readdirSync(path).map((name) => ({ name })),
    utimeSync: (path: string, read: Date, written: Date) => fs().utimesSync(path, read, written),
  } as unknown as typeof Deno;
}

/** The few calls that a runner makes for a task, without the 2 ms that `node:fs` takes to load. */
function libcOfBun(): Record<string, (...args: unknown[]) => number> | undefined {
  const process = nodeProcess();
  if (!("Bun" in globalThis) || process.platform !== "linux") return;
  const returns = "int";
  try {
    const ffi = process.getBuiltinModule("bun:ffi" as "node:fs") as unknown as {
      dlopen(name: string, calls: object): { symbols: ReturnType<typeof libcOfBun> };
    };
    return ffi.dlopen("libc.so.6", {
      open: { args: ["ptr", "int", "int"], returns },
      read: { args: ["int", "ptr", "usize"], returns },
      write: { args: ["int", "ptr", "usize"], returns },
      fsync: { args: ["int"], returns },
      close: { args: ["int"], returns },
      rename: { args: ["ptr", "ptr"], returns },
      unlink: { args: ["ptr"], returns },
    }).symbols;
  } catch { /* there is another C library: then by `node:fs` */ }
}

type Timer = ReturnType<typeof setTimeout>;

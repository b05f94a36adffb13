/**
 * Which tasks there are, whose they are, and what becomes of those whose owner is dead.
 *
 * @module
 */

import {
  ASIDE,
  claimsIn,
  claimsOf,
  exists,
  infoOf,
  link,
  move,
  putBack,
  record,
  remove,
  settle,
  type State,
  stateOf,
} from "./files.ts";
import { errorOf, KILL, printedBy, shell } from "./processes.ts";
import { environment, LONGEST_TIMER, succeeds, system, writeAll } from "./system.ts";
import { encodeThrown } from "./values.ts";

let lastId = 0;
const nonce = crypto.randomUUID().slice(0, 8);

/** A name that sorts after all before it, by the clock and, in this process, by the order. */
export function newId(): string {
  lastId = Math.max(lastId + 1, Date.now() * 1000);
  return `${lastId}-${nonce}`;
}

/** Whether there may be a file of that name which is no hidden one. */
export const isFileName = (id: string): boolean => /^[^./\0][^/\0]*$/.test(id);

/** Throws if a task cannot have this id, which is to be the name of a file. */
export function checkId(id: unknown): void {
  const isName = typeof id === "string" && isFileName(id) && !/\\|\.json@/.test(id);
  if (isName && new TextEncoder().encode(id).length <= 150) return;
  const rule = "a file name of up to 150 bytes that does not begin with a dot";
  throw new TypeError(`Cannot use \`${id}\` as an id: it must be ${rule}`);
}

/** Ids in order, and how many they are. */
type Ids = Iterable<string> & { readonly length: number };

/** The ids of the tasks in a folder; for `running`, with the owners of their claims. */
export function idsIn(directory: string, state: "running"): string[];
/** The ids of the tasks in a folder, in order; of a very large folder, they are no array. */
export function idsIn(directory: string, state: State): Ids;
export function idsIn(directory: string, state: State): Ids {
  const folder = `${directory}/${state}`;
  const isLarge = globalThis.Deno && system.lstatSync(folder).size > 4e6; // some 100,000 names
  if (isLarge && state !== "running") return idsInLarge(folder);
  const names = Array.from(system.readDirSync(folder), ({ name }) => name);
  if (state === "running") return claimsIn(names).sort();
  return names.flatMap((name) => /^([^.].*)\.json$/s.exec(name)?.[1] ?? []).sort();
}

/** The paths of the tasks in a folder, in the order of their ids. */
export function* pathsIn(directory: string, state: State): Generator<string, void, void> {
  const extension = state === "running" ? "" : ".json";
  for (const name of idsIn(directory, state)) yield `${directory}/${state}/${name}${extension}`;
}

/** The ids in a folder of a million tasks, for which Deno would take 5 s and 600 MB. */
function idsInLarge(folder: string): Ids {
  const stdout = printedBy('ls -f "$0" | LC_ALL=C sort | grep "^[^.].*\\.json$"', folder);
  const decoder = new TextDecoder();
  function* ids() {
    for (let start = 0, end; (end = stdout.indexOf(10, start)) >= 0; start = end + 1) {
      yield decoder.decode(stdout.subarray(start, end - ".json".length));
    }
  }
  let length = 0;
  for (let at = -1; (at = stdout.indexOf(10, at + 1)) >= 0;) length++;
  return { length, [Symbol.iterator]: ids };
}

/** A task that is to be written; `isNew` says that no other task can have its id. */
export type NewTask = { id: string; text: string; isNew: boolean };

/**
 * Writes a task into `todo`, which is to be synced then; false if the list has its id. `mayReplace`
 * says that it replaces one that has failed.
 */
export async function addTask(
  directory: string,
  { id, text, isNew }: NewTask,
  mayReplace = false,
): Promise<boolean> {
  const claim = `${directory}/running/${id}.json@${newOwner()}`;
  const [todo, done, failed] = ["todo", "done", "fail"].map((state) =>
    `${directory}/${state}/${id}.json`
  );
  const aside = `${claim}+`;
  try {
    using file = system.openSync(aside, ASIDE);
    writeAll(file, text);
    await file.sync();
    if (isNew) {
      system.renameSync(aside, todo);
      return true;
    }
    const state = stateOf(directory, id);
    if (state === "fail" && mayReplace && move(failed, claim)) { // so it is never in two places
      if (move(aside, claim)) remove(`${failed}.original`);
      system.renameSync(claim, todo);
      return true;
    }
    const { ino } = system.lstatSync(aside);
    const isAdded = !state && link(aside, todo);
    remove(aside);
    if (!isAdded) return false;
    // it may have been somewhere else when we looked
    const isOther = (path: string) => (infoOf(path)?.ino ?? ino) !== ino;
    if (![done, failed, ...claimsOf(directory, id)].some(isOther)) return true;
    if (infoOf(todo)?.ino === ino) remove(todo);
    return false;
  } catch (error) {
    remove(aside);
    throw error;
  }
}

/** When process $0 started, as a text that no other one with its id has had; `dead` if it is dead. */
const START = `if s=$(cat /proc/$0/stat 2>/dev/null); then set -- \${s##*) }
  [ $1 = Z ] || [ $1 = X ] && echo dead || echo $(cut -c1-8 /proc/sys/kernel/random/boot_id)-\${20}
  elif [ -d /proc/self ]; then echo dead; else ps -o lstart= -p $0 || echo dead; fi`;
/** The namespace of process ids, if it is not the machine's own: process ids mean nothing outside. */
const NAMESPACE = `; n=$(readlink /proc/self/ns/pid | tr -dc 0-9)
  [ "$n" = 4026531836 ] || echo $n`;

let identity: string | undefined;

/** Host, id and start of this process. */
function processOwner(): string {
  if (identity) return identity;
  const [start, namespace] = shell(START + NAMESPACE, `${system.pid}`).split("_");
  if (!start) throw new Error("Cannot tell when this process started: `sh` or `cat` does not work");
  const host = [system.hostname().replace(/[^\w-]+/g, "_"), namespace].filter(Boolean).join("-");
  return identity = `${host}.${system.pid}.${start}`;
}

export const newOwner = (): string => `${processOwner()}.${newId()}`;
/** Milliseconds without a sign of life after which a claim of another host is recovered. */
export function lease(): number {
  const text = environment("FORREST_LEASE") || "60";
  const milliseconds = 1000 * Number(text);
  if (milliseconds > 0 && milliseconds <= LONGEST_TIMER) return milliseconds;
  throw new RangeError(`Expected \`FORREST_LEASE\` to be a number of seconds, got \`${text}\``);
}

const observed = new Map<string, { mtime: number; since: number }>();

/** Whether the process that made these files lives; undefined if it is on another host and nothing shows yet. */
function isAlive(maker: string, files: string[]): boolean | undefined {
  if (maker === processOwner()) return true;
  const [host, pid, start] = maker.split(".");
  if (host === processOwner().split(".")[0]) {
    const { since = -Infinity } = observed.get(maker) ?? {}; // one look will do for a while
    if (performance.now() - since < Math.min(1000, lease() / 6)) return true;
    const found = shell(START, pid);
    if (found === start) observed.set(maker, { mtime: 0, since: performance.now() });
    return found ? found === start : undefined; // unknown, if the shell could not be started
  }
  const mtime = Math.max(...files.map((path) => Number(infoOf(path)?.mtime ?? 0)));
  const before = observed.get(maker);
  if (before?.mtime === mtime) {
    return performance.now() - before.since > lease() ? false : undefined;
  }
  observed.set(maker, { mtime, since: performance.now() }); // by no clock but our own
  return before && true;
}

/**
 * Puts back what dead runs have left, and says so to `filed`; true if the owner of something may be
 * dead.
 */
export function recover(
  directory: string,
  owner: string,
  maxCrashes: number,
  filed: (claim: string, state: State) => void = () => {},
): boolean {
  const alive = new Map<string, boolean | undefined>();
  const running = `${directory}/running`;
  const names = Array.from(system.readDirSync(running), ({ name }) => name);
  const filesOf = (maker: string) =>
    names.filter((name) => name.includes(`.json@${maker}.`)).map((name) => `${running}/${name}`);
  for (const name of names) {
    const [, id, other, maker] =
      /^(.+)\.json@(((?:[\w-]+\.){2}[\w-]+)\.[\w-]+)(?:[+~]\w*)?$/s.exec(name) ?? [];
    if (!id) continue; // no file of ours
    const claim = `${running}/${id}.json@${other}`;
    if (!alive.has(maker)) {
      alive.set(maker, isAlive(maker, filesOf(maker)));
      if (alive.get(maker) === false) shell(KILL, `/${maker}.`);
    }
    if (alive.get(maker) !== false) continue;
    const isLeft = settle(claim) === "running";
    const taken = `${running}/${id}.json@${owner}`; // so that only one of us counts it
    if (!isLeft || exists(`${directory}/done/${id}.json`)) remove(claim);
    else {
      let text = ""; // which is read before anything moves, as that may fail
      succeeds(() => text = system.readTextFileSync(claim));
      if (!move(claim, taken)) continue; // whoever has sealed or taken it needs what was written aside
      try {
        filed(taken, recordCrash(taken, text, maxCrashes));
      } catch (error) { // as the disk is full: this run is not to leave what it cannot count
        putBack(taken);
        throw error;
      }
    }
    remove(`${claim}+`);
  }
  return [...alive.values()].includes(undefined);
}

/** Counts the death of a run against a task that was running in it, as it may have been the cause. */
function recordCrash(claim: string, text: string, maxCrashes: number): State {
  const crashes = 1 + (Number(/^ *"crashes": (\d+)/m.exec(text)?.[1]) || 0);
  const message =
    `The run that this task was running in has died (${crashes} of \`maxCrashes\` times)`;
  const outcome = { crashes, errorValue: encodeThrown(errorOf(message)) };
  return record(claim, text, outcome, crashes < maxCrashes ? Infinity : 0).state;
}

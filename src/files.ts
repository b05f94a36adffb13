/**
 * Task files: how they are written and read, and how they move.
 *
 * A task is in one place at any time, and only these renames move it:
 *
 *     todo/ID.json -> running/ID.json@OWNER                   the claim
 *     running/ID.json@OWNER -> running/ID.json@OWNER~STATE    the seal: from now on it is in STATE
 *     running/ID.json@OWNER+ -> STATE/ID.json                 the outcome, written and synced before
 *     running/ID.json@OWNER -> todo/ID.json                   put back, as its run has ended
 *
 * Only one of those who find the claim in its place can seal it: so the first outcome wins. Whoever
 * finds the seal of a dead owner ends what that began.
 *
 * @module
 */

import type { Step } from "./steps.ts";
import {
  environment,
  KILL,
  NAMESPACE,
  parse,
  shell,
  START,
  stringify,
  succeeds,
  system,
  writeAll,
} from "./system.ts";
import { decode, encodeThrown } from "./values.ts";

/** The folders of a list: the state of a task is the folder that it lies in. */
export type State = "todo" | "running" | "done" | "fail";
export const states: readonly State[] = ["todo", "running", "done", "fail"];

/** A task as it is stored, with its metadata, value and error read back. */
export interface Task<T = unknown> {
  /** The name of its file, without `.json`. */
  id: string;
  /** The folder that it lies in. */
  state: State;
  /** What it calls. */
  steps?: Step[];
  /** What was attached to it with `schedule()`. */
  metadata?: unknown;
  /** How often it was started. */
  attempts?: number;
  /** When it was last started, in ISO 8601. */
  started?: string;
  /** How long it ran, in seconds. */
  runtime?: number;
  /** What its last step returned. */
  returnValue?: T;
  /** What was thrown: an error of the same class, with the original stack. */
  errorValue?: unknown;
}

/**
 * How a claim may be sealed: by a state; by `again`, for `done` after it has failed; or by `keep`, for
 * `fail` with the original, which was no task, beside it.
 */
type Seal = "todo" | "done" | "fail" | "again" | "keep";
const seals: readonly Seal[] = ["done", "fail", "todo", "again", "keep"];

let lastId = 0;
const nonce = crypto.randomUUID().slice(0, 4);

/** A name that sorts after all before it, by the clock and, in this process, by the order. */
export function newId(): string {
  lastId = Math.max(lastId + 1, Date.now() * 1000);
  return `${lastId}-${nonce}`;
}

/** Whether there is something at `path`, be it a dangling link. */
export function exists(path: string): boolean {
  let found: unknown; // which is still undefined where lstatSync() does not throw
  return succeeds(() => found = system.lstatSync(path)) && found !== undefined;
}

export const move = (from: string, to: string): boolean =>
  succeeds(() => system.renameSync(from, to));
export const remove = (path: string): boolean => succeeds(() => system.removeSync(path));

/** Ids in order, and how many they are. */
export type Ids = Iterable<string> & { readonly length: number };

/** The ids of the tasks in a folder; for `running`, with the owners of their claims. */
export function idsIn(directory: string, state: "running"): string[];
/** The same, which for a very large folder is no array. */
export function idsIn(directory: string, state: State): Ids;
export function idsIn(directory: string, state: State): Ids {
  const folder = `${directory}/${state}`;
  const isLarge = globalThis.Deno && system.lstatSync(folder).size > 4e6; // some 100,000 names
  if (isLarge && state !== "running") return idsInLarge(folder);
  const pattern = state === "running" ? /^([^.].*\.json@[^@+~]*)$/s : /^([^.].*)\.json$/s;
  const names = Array.from(system.readDirSync(folder), ({ name }) => name);
  return names.flatMap((name) => pattern.exec(name)?.[1] ?? []).sort();
}

/** The same for a million names, for which Deno would take 5 s and 600 MB. */
function idsInLarge(folder: string): Ids {
  const args = ["-c", 'ls -f "$0" | LC_ALL=C sort | grep "^[^.].*\\.json$"', folder];
  const { stdout } = new system.Command("sh", { args }).outputSync();
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

/** The state of a task, if the list has it. */
export function stateOf(directory: string, id: string): State | undefined {
  const begin = `${id}.json@`;
  const isClaim = ({ name }: { name: string }) =>
    name.startsWith(begin) && !/@|\+$/.test(name.slice(begin.length));
  return states.find((state) =>
    state === "running"
      ? Array.from(system.readDirSync(`${directory}/running`)).some(isClaim)
      : exists(`${directory}/${state}/${id}.json`)
  );
}

/** The list, the state and the id of the task at `path`. */
export function locate(path: string): { directory: string; state: State; id: string } {
  const [name, state, ...directories] = path.split("/").reverse();
  const [, id] = /^(.*)\.json(?:@[^@]*)?$/s.exec(name) ?? [, name]; // no owner contains an `@`
  return { directory: directories.reverse().join("/"), state: state as State, id };
}

/** One line for each step and for each other key, so that a person can read and edit it. */
export function writeTask({ steps, ...others }: Record<string, unknown>): string {
  const lines = Object.entries(others).map(([key, value]) =>
    `${stringify(key)}: ${stringify(value)}`
  );
  const list = Array.isArray(steps) && steps.map((step) => `    ${stringify(step)}`).join(",\n");
  if (steps !== undefined) lines.unshift(`"steps": ${list ? `[\n${list}\n  ]` : stringify(steps)}`);
  return `{\n  ${lines.join(",\n  ")}\n}\n`;
}

/** Reads the task file at `path`; if that cannot be read, the error of the task says so. */
export function readTask(path: string): Task {
  const { id, state } = locate(path);
  try {
    return toTask(id, state, system.readTextFileSync(path));
  } catch (cause) {
    return { id, state, errorValue: new Error(`Cannot read the task \`${path}\``, { cause }) };
  }
}

export function toTask(id: string, state: State, text: string): Task {
  const task = parse(text);
  for (const key of ["metadata", "returnValue", "errorValue"]) {
    if (key in task) task[key] = decode(task[key]);
  }
  return { ...task, id, state };
}

export function textOf(path: string): string {
  try {
    return system.readTextFileSync(path);
  } catch {
    return "";
  }
}

export const ASIDE: Deno.OpenOptions = { write: true, create: true, truncate: true };

export function syncFolder(path: string): void {
  using folder = system.openSync(path);
  folder.syncSync();
}

export type Outcome =
  & Record<string, unknown>
  & ({ returnValue: unknown } | { errorValue: unknown });

/** Files the outcome of a claimed task; a failed one goes to `todo` as long as it may be retried. */
export function record(
  claim: string,
  text: string,
  outcome: Outcome,
  retries = 0,
): [State, number] {
  const task = withOutcome(text, outcome);
  const attempts = Number(task.attempts ?? 1);
  const failed = task === outcome ? "keep" : attempts <= retries ? "todo" : "fail";
  const done = /^ *"errorValue":/m.test(text) ? "again" : "done";
  const seal = "returnValue" in outcome ? done : failed;
  try {
    return [publish(claim, seal, writeTask(task)), attempts];
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // it is too deep to be written again
    return [publish(claim, "keep", writeTask({ errorValue: encodeThrown(error) })), attempts];
  }
}

/** The task as it was written, with an outcome; only the outcome if it was not a task. */
export function withOutcome(text: string, outcome: Outcome): Record<string, unknown> {
  let task: unknown;
  try {
    task = parse(text);
  } catch { /* the outcome says so */ }
  if (typeof task !== "object" || !task || Array.isArray(task)) return outcome;
  const { returnValue: _value, errorValue: _error, ...others } = task as Record<string, unknown>;
  return { ...others, attempts: (Number(others.attempts) || 0) + 1, ...outcome };
}

/** Files a text as the outcome of a claim, if it is the first; says in which state the task is then. */
function publish(claim: string, seal: Seal, text: string): State {
  using file = system.openSync(`${claim}+`, ASIDE);
  writeAll(file, text);
  file.syncSync();
  // a network file system may say that a rename has failed when it has not
  if (!move(claim, `${claim}~${seal}`) && !exists(`${claim}~${seal}`)) {
    const { directory, id } = locate(claim);
    const elsewhere = stateOf(directory, id) ?? stateOf(directory, id); // it may have moved meanwhile
    if (elsewhere) {
      remove(`${claim}+`);
      return elsewhere;
    }
    system.openSync(`${claim}~${seal}`, ASIDE).close(); // the task has removed its own file
  }
  return finish(claim, seal);
}

/** Ends what a seal began. It may be done again, and by anybody. */
function finish(claim: string, seal: Seal): State {
  const { directory, id } = locate(claim);
  const state = seal === "keep" ? "fail" : seal === "again" ? "done" : seal;
  const target = `${directory}/${state}/${id}.json`;
  if (move(`${claim}+`, target)) syncFolder(`${directory}/${state}`);
  if (seal === "again") remove(`${directory}/fail/${id}.json`); // from where it was copied
  if (seal === "keep") move(`${claim}~keep`, `${target}.original`);
  else remove(`${claim}~${seal}`);
  return state;
}

/** Ends what a dead process began; says in which state the task is then. */
export function settle(claim: string): State | undefined {
  const seal = seals.find((seal) => exists(`${claim}~${seal}`));
  if (seal) return finish(claim, seal);
  const { directory, id } = locate(claim);
  return exists(claim) ? "running" : stateOf(directory, id);
}

/** Puts a claimed task back as it was. */
export function putBack(claim: string): boolean {
  const { directory, id } = locate(claim);
  if (settle(claim) !== "running" || !move(claim, `${directory}/todo/${id}.json`)) return false;
  if (exists(`${claim}+`)) remove(`${claim}+`); // the runner was killed while it wrote that
  return true;
}

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
export const lease = Number(environment("FORREST_LEASE") || 60) * 1000;
const observed = new Map<string, { mtime: number; since: number }>();

/** Whether the owner of a claim lives; undefined if it is on another host and nothing shows yet. */
function isAlive(claim: string, owner: string): boolean | undefined {
  if (owner.startsWith(`${processOwner()}.`)) return true;
  const [host, pid, start] = owner.split(".");
  if (host === processOwner().split(".")[0]) {
    const { since = -Infinity } = observed.get(owner) ?? {}; // one look at each owner will do for a while
    if (performance.now() - since < lease / 6) return true;
    const found = shell(START, pid);
    if (found === start) observed.set(owner, { mtime: 0, since: performance.now() });
    return found ? found === start : undefined; // unknown, if the shell could not be started
  }
  let mtime = 0;
  succeeds(() => mtime = Number(system.lstatSync(claim).mtime));
  const before = observed.get(claim);
  if (before?.mtime === mtime) return performance.now() - before.since > lease ? false : undefined;
  observed.set(claim, { mtime, since: performance.now() }); // by no clock but our own
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
  for (const { name } of [...system.readDirSync(`${directory}/running`)]) {
    const [, id, other] = /^(.+)\.json@((?:[\w-]+\.){3}[\w-]+)(?:[+~]\w*)?$/s.exec(name) ?? [];
    if (!id) continue; // no file of ours
    const claim = `${directory}/running/${id}.json@${other}`;
    if (!alive.has(other)) {
      alive.set(other, isAlive(claim, other));
      if (alive.get(other) === false) shell(KILL, `/${other}.`);
    }
    if (alive.get(other) !== false) continue;
    const isLeft = settle(claim) === "running";
    const taken = `${directory}/running/${id}.json@${owner}`; // so that only one of us counts it
    if (!isLeft || exists(`${directory}/done/${id}.json`)) remove(claim);
    else if (move(claim, taken)) filed(taken, recordCrash(taken, maxCrashes));
    else continue; // whoever has sealed or taken it needs what was written aside
    remove(`${claim}+`);
  }
  return [...alive.values()].includes(undefined);
}

/** Counts the death of a run against a task that was running in it, as it may have been the cause. */
function recordCrash(claim: string, maxCrashes: number): State {
  const text = textOf(claim);
  const crashes = 1 + (Number(/^ *"crashes": (\d+)/m.exec(text)?.[1]) || 0);
  const message =
    `The run that this task was running in has died (${crashes} of \`maxCrashes\` times)`;
  const outcome = { crashes, errorValue: encodeThrown(new Error(message)) };
  return record(claim, text, outcome, crashes < maxCrashes ? Infinity : 0)[0];
}

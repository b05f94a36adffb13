/**
 * Task files: how they are written and read, and how they move.
 *
 * A task is in one place at any time, and only these renames move it:
 *
 *     todo/ID.json -> running/ID.json@OWNER                   the claim
 *     running/ID.json@OWNER -> running/ID.json@OWNER~STATE    the seal: the outcome is written, and decided
 *     running/ID.json@OWNER+ -> STATE/ID.json                 the outcome, synced before
 *     running/ID.json@OWNER -> todo/ID.json                   put back, as its run has ended
 *
 * To file is: write `+`, rename to `~`, sync, move (`place`), sync the folder, remove what was sealed
 * (`clear`). `record` does so for one outcome, `fileAll` for many, and `settle` ends it for somebody who
 * has died in between.
 *
 * A kept runner files the outcomes of its tasks itself. The process of a single task tells its pool what
 * came of it, and that files it, as its code is warm; what is too long to be told, it files itself.
 *
 * Only one of those who find the claim in its place can seal it: so the first outcome wins. Whoever
 * finds the seal of a dead owner ends what that began. Only a power failure can leave a seal without a
 * whole outcome: then it is taken back, as the sealed file is the task as it was.
 *
 * @module
 */

import type { Told } from "./single.ts";
import type { Step } from "./steps.ts";
import { all, parse, stringify, succeeds, system, writeAll } from "./system.ts";
import { decode, encodeThrown } from "./values.ts";

/** The folders of a list: the state of a task is the folder that it lies in. */
export type State = "todo" | "running" | "done" | "fail";
/** The four states, in the order in which a task goes through them. */
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
  /** How many runs have died while it was running, until it has an outcome. */
  crashes?: number;
  /** How often it was tried again, while it waits for the next time. */
  retried?: number;
  /** When it was last started, in ISO 8601. */
  started?: string;
  /** How long it ran, in seconds. */
  runtime?: number;
  /** What its last step returned. */
  returnValue?: T;
  /** What was thrown: an error of the same class, with the original stack. */
  errorValue?: unknown;
}

/** How a claim may be sealed, and the state that this stands for. */
const seals = {
  done: "done",
  fail: "fail",
  todo: "todo",
  again: "done", // after it has failed
  keep: "fail", // with the original, which was no task, beside it
} as const;
type Seal = keyof typeof seals;

/** What is known of `path`, be it a dangling link; undefined if there is nothing. */
export function infoOf(path: string): Deno.FileInfo | undefined {
  let found: Deno.FileInfo | undefined; // which is still undefined where lstatSync() does not throw
  succeeds(() => found = system.lstatSync(path));
  return found;
}

export const exists = (path: string): boolean => infoOf(path) !== undefined;

export const move = (from: string, to: string): boolean =>
  succeeds(() => system.renameSync(from, to));
export const remove = (path: string): boolean => succeeds(() => system.removeSync(path));

/** The state of a task, if the list has it. */
export function stateOf(directory: string, id: string): State | undefined {
  return states.find((state) =>
    state === "running"
      ? claimsOf(directory, id).length > 0
      : exists(`${directory}/${state}/${id}.json`)
  );
}

/** Those of the names that are claims, or claims with an outcome that is not in its place yet. */
export function claimsIn(names: string[]): string[] {
  const all = new Set(names);
  return names.filter((name) => {
    const [, claim, seal] = /^([^.].*\.json@[^@+~]*)(~[^@+~]*)?$/s.exec(name) ?? [];
    return claim && (!seal || all.has(`${claim}+`));
  });
}

/** The paths of the claims of a task. */
export function claimsOf(directory: string, id: string): string[] {
  const folder = `${directory}/running`;
  const begin = `${id}.json@`;
  const names = Array.from(system.readDirSync(folder), ({ name }) => name);
  const own = names.filter((name) => name.startsWith(begin) && !name.includes("@", begin.length));
  return claimsIn(own).map((name) => `${folder}/${name}`);
}

/** Gives a file a second name, unless that is taken; where no file has two, the first one goes. */
export function link(from: string, to: string): boolean {
  try {
    system.linkSync(from, to);
  } catch (error) {
    const { code, message } = error as Error & { code?: string };
    if (code === "EEXIST") return false;
    const isUnable = /^(EPERM|ENOSYS|ENOTSUP|EOPNOTSUPP)$/.test(`${code}`) ||
      /error 38\)/.test(message);
    if (!isUnable) throw error;
    system.renameSync(from, to);
  }
  return true;
}

/** The list, the state and the id of the task at `path`. */
export function locate(path: string): { directory: string; state: State; id: string } {
  const parts = path.split("/"); // by no regular expression: a runner's first takes Bun 0.4 ms
  const name = parts.pop()!;
  const state = parts.pop() as State;
  const owner = name.endsWith(".json") ? -1 : name.lastIndexOf("@"); // no owner contains an `@`
  const file = owner < 0 ? name : name.slice(0, owner);
  const id = file.endsWith(".json") ? file.slice(0, -".json".length) : name;
  return { directory: parts.join("/"), state, id };
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

async function syncFolderLater(path: string): Promise<void> {
  using folder = system.openSync(path);
  await folder.sync();
}

export type Outcome =
  & Record<string, unknown>
  & ({ returnValue: unknown } | { errorValue: unknown });

/** What the process of a task has told, as an outcome. */
export function outcomeOf({ begin, runtime, ...result }: Told): Outcome {
  const started = new Date(begin).toISOString();
  return { started, runtime: Math.round(runtime * 1000) / 1e6, ...result };
}

/** An outcome that is decided. `file` is where it was written, aside: it is to be synced and moved. */
export type Sealed = {
  claim: string;
  state: State;
  retried: number; // how often it is tried again, with this time
  seal?: Seal; // none, if the task was filed already by another run
  file?: Deno.FsFile;
};

/** Files outcomes, one batch after the other: those that come meanwhile are filed together. */
export class Filing {
  readonly filed: (batch: Sealed[]) => void;
  readonly failed: (error: unknown) => void;
  readonly waiting: Sealed[] = [];
  batch: Sealed[] = [];
  work?: Promise<void>; // until there is nothing left to file

  constructor(filed: (batch: Sealed[]) => void, failed: (error: unknown) => void) {
    this.filed = filed;
    this.failed = failed;
  }

  add(sealed: Sealed): void {
    this.waiting.push(sealed);
    this.work ??= this.fileBatches().catch(this.failed);
  }

  async fileBatches(): Promise<void> {
    while ((this.batch = this.waiting.splice(0, 32)).length) {
      await fileAll(this.batch);
      this.filed(this.batch);
    }
    this.work = undefined;
  }
}

/** Files the outcome of a claimed task; a failed one goes to `todo` as long as it may be retried. */
export function record(claim: string, text: string, outcome: Outcome, retries = 0): Sealed {
  const sealed = sealOutcome(claim, text, outcome, retries);
  try {
    sealed.file?.syncSync();
  } catch (error) {
    unseal(sealed, error);
  }
  finish(sealed);
  return sealed;
}

/** Files many outcomes: all are synced at the same time, and then each folder once. */
async function fileAll(batch: Sealed[]): Promise<void> {
  const sync = async (sealed: Sealed) =>
    await sealed.file?.sync().catch((error) => unseal(sealed, error));
  await all(batch.map(sync));
  await all([...place(batch)].map(syncFolderLater));
  clear(batch);
}

/** Writes an outcome aside and seals the claim: whatever is killed from now on, it will be filed. */
export function sealOutcome(claim: string, text: string, outcome: Outcome, retries = 0): Sealed {
  const task = withOutcome(text, outcome);
  const retried = (Number(task.retried) || 0) + 1;
  const failed = task === outcome ? "keep" : retried <= retries ? "todo" : "fail";
  const hasFailed = text.includes('"errorValue":') && /^ *"errorValue":/m.test(text);
  const done = hasFailed ? "again" : "done";
  try {
    const seal = "returnValue" in outcome ? done : failed;
    if (seal !== "todo") { // whoever puts it back by hand begins anew
      delete task.retried;
      delete task.crashes;
    } else if (!("crashes" in outcome)) task.retried = retried; // the death of a run is no retry
    return { ...sealText(claim, seal, writeTask(task)), retried };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // it is too deep to be written again
    return { ...sealText(claim, "keep", writeTask({ errorValue: encodeThrown(error) })), retried };
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

function sealText(claim: string, seal: Seal, text: string): Omit<Sealed, "retried"> {
  const file = system.openSync(`${claim}+`, ASIDE);
  try {
    writeAll(file, text);
  } catch (error) {
    file.close();
    throw error;
  }
  // a network file system may say that a rename has failed when it has not
  if (!move(claim, `${claim}~${seal}`) && !exists(`${claim}~${seal}`)) {
    const { directory, id } = locate(claim);
    const elsewhere = stateOf(directory, id) ?? stateOf(directory, id); // it may have moved meanwhile
    if (elsewhere) {
      file.close();
      remove(`${claim}+`);
      return { claim, state: elsewhere };
    }
    system.openSync(`${claim}~${seal}`, ASIDE).close(); // the task has removed its own file
  }
  return { claim, state: seals[seal], seal, file };
}

/** Takes back a seal whose outcome could not be brought to disk. */
function unseal({ claim, seal }: Sealed, error: unknown): never {
  move(`${claim}~${seal}`, claim);
  throw error;
}

/** What it takes to end what a seal began. */
type Part = Pick<Sealed, "claim" | "seal" | "file">;

/** Ends what a seal began. It may be done again, and by anybody. */
function finish(sealed: Part): void {
  place([sealed]).forEach(syncFolder);
  clear([sealed]);
}

/** Moves outcomes into their folders, which are to be synced then. */
function place(batch: Part[]): Set<string> {
  const folders = new Set<string>();
  for (const { claim, seal, file } of batch) {
    file?.close();
    const { directory, id } = locate(claim);
    const folder = seal && `${directory}/${seals[seal]}`;
    if (!folder) continue;
    if (move(`${claim}+`, `${folder}/${id}.json`)) folders.add(folder);
    else if (exists(`${claim}+`)) throw new Error(`There is no folder \`${folder}\` any more`);
  }
  return folders;
}

/** Removes what was sealed, as its outcome is in its place. */
function clear(batch: Part[]): void {
  for (const { claim, seal } of batch) {
    const { directory, id } = locate(claim);
    if (seal === "again") remove(`${directory}/fail/${id}.json`); // from where it was copied
    if (seal === "keep") move(`${claim}~keep`, `${directory}/fail/${id}.json.original`);
    else if (seal) remove(`${claim}~${seal}`);
  }
}

/** How a claim is sealed, if it is. */
export function sealOf(claim: string): Seal | undefined {
  return (Object.keys(seals) as Seal[]).find((seal) => exists(`${claim}~${seal}`));
}

/** Ends what a dead process began; says in which state the task is then. */
export function settle(claim: string): State | undefined {
  const seal = sealOf(claim);
  if (seal && isWhole(`${claim}+`)) {
    finish({ claim, seal });
    return seals[seal];
  }
  if (seal) move(`${claim}~${seal}`, claim); // as if it had not run
  const { directory, id } = locate(claim);
  return exists(claim) ? "running" : stateOf(directory, id);
}

/** Whether what was written aside is on disk to its end. After a power failure it may not be. */
function isWhole(aside: string): boolean {
  let text: string | undefined; // which remains undefined if it is in its place already
  succeeds(() => {
    using file = system.openSync(aside);
    text = system.readTextFileSync(aside);
    file.syncSync();
  });
  try {
    return text === undefined || !!parse(text);
  } catch {
    return false;
  }
}

/** Puts a claimed task back as it was, unless it has an outcome; says in which state it is then. */
export function putBack(claim: string): State | undefined {
  const { directory, id } = locate(claim);
  const state = settle(claim);
  if (state !== "running" || !move(claim, `${directory}/todo/${id}.json`)) return state;
  if (exists(`${claim}+`)) remove(`${claim}+`); // the runner was killed while it wrote that
  return "todo";
}

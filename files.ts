/**
 * The folder: what a task file is, how it is written and read, how it moves, and whose it is.
 *
 * A task is one JSON file, and the folder in which it lies is its state. Only these renames move it:
 *
 *     todo/ID.json -> running/ID.json@OWNER                   the claim; only one of many can make it
 *     running/ID.json@OWNER -> running/ID.json@OWNER~STATE    the seal, which decides: the first outcome wins
 *     running/ID.json@OWNER+ -> STATE/ID.json                 the outcome, written aside and synced before the seal
 *     running/ID.json@OWNER -> todo/ID.json                   put back, as its run has ended
 *
 * After the outcome is in its place, the folder is synced, and the seal is removed. Whoever finds a claim
 * or a seal of a dead owner ends what that began: a seal always has a whole outcome, in its place or aside.
 * Outcomes come in batches, so that many files are synced at the same time, and each folder once.
 *
 * @module
 */

import type * as nodeFs from "node:fs";

/** The folders of a list: the state of a task is the folder in which it lies. */
export type State = "todo" | "running" | "done" | "fail";

/** All states, in the order in which a task goes through them. */
export const states: readonly State[] = ["todo", "running", "done", "fail"];

// ------------------------------------------------------------------------------------ the system

type Process = typeof import("node:process");

/** Is asked for late: to load `process` takes Deno 15 ms, which the process of a task has no need of. */
const system = (): Process => (globalThis as unknown as { process: Process }).process;

let loaded: typeof nodeFs | undefined;

/** `node:fs`, loaded when it is first needed. */
function fs(): typeof nodeFs {
  return loaded ??= system().getBuiltinModule("node:fs");
}

const codeOf = (error: unknown): string => `${(error as { code?: unknown } | undefined)?.code}`;

/** False if a file that `action` needs is not there; other errors are thrown. */
function succeeds(action: () => void): boolean {
  try {
    action();
    return true;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return false;
    throw error;
  }
}

const move = (from: string, to: string): boolean => succeeds(() => fs().renameSync(from, to));
const remove = (path: string): boolean => succeeds(() => fs().unlinkSync(path));
const infoOf = (path: string) => fs().lstatSync(path, { throwIfNoEntry: false });

/** Whether there is something at a path, be it a dangling link. */
export const exists = (path: string): boolean => infoOf(path) !== undefined;

/** The text of a file; undefined if it is not there. */
export function read(path: string): string | undefined {
  try {
    return fs().readFileSync(path, "utf8");
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** The text of a file that is there. */
export const readText = (path: string): string => fs().readFileSync(path, "utf8");

/** Writes a file, which is not brought to disk. */
export const writeText = (path: string, text: string): void => fs().writeFileSync(path, text);

/** Opens a log, to add to it. */
export const openLog = (path: string): number => fs().openSync(path, "a");
export const close = (file: number): void => fs().closeSync(file);

/** Writes lines to a log: what has happened to a task, or what it has printed. */
export function log(file: number | string, id: string, text: string, mark = ""): void {
  const time = new Date().toISOString();
  const lines = text.replace(/\n$/, "").split("\n");
  fs().appendFileSync(file, lines.map((line) => `${time} ${id} ${mark}${line}\n`).join(""));
}

/** Writes a file and brings it to disk. */
async function write(path: string, text: string): Promise<void> {
  const file = fs().openSync(path, "w");
  try {
    fs().writeFileSync(file, text);
    await sync(file);
  } finally {
    fs().closeSync(file);
  }
}

function sync(file: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fs().fsync(file, (error) => error ? reject(error) : resolve());
  });
}

/** Brings the names in a folder to disk, on all file systems that can do so for a folder. */
export async function syncFolder(path: string): Promise<void> {
  const folder = fs().openSync(path, "r");
  try {
    await sync(folder);
  } catch (error) {
    if (!/^(EINVAL|ENOTSUP|EOPNOTSUPP)$/.test(codeOf(error))) throw error;
  } finally {
    fs().closeSync(folder);
  }
}

// -------------------------------------------------------------------------------- what a task file is

/** A task as its file holds it. */
export type Stored = Record<string, unknown>;

/** The task in the text of a file; undefined if it is none. */
export function parseTask(text: string): Stored | undefined {
  try {
    const task = JSON.parse(text.startsWith("\uFEFF") ? text.slice(1) : text); // as editors on Windows begin it
    return typeof task === "object" && task && !Array.isArray(task) ? task : undefined;
  } catch {
    return undefined;
  }
}

/** The text of a task: one line for each step and for each other key, so that a person can edit it. */
export function formatTask({ steps, ...others }: Stored): string {
  const lines = Object.entries(others).map(([key, value]) =>
    `${JSON.stringify(key)}: ${JSON.stringify(value)}`
  );
  if (Array.isArray(steps) && steps.length) {
    const list = steps.map((step) => `    ${JSON.stringify(step)}`).join(",\n");
    lines.unshift(`"steps": [\n${list}\n  ]`);
  } else if (steps !== undefined) lines.unshift(`"steps": ${JSON.stringify(steps)}`);
  return `{\n  ${lines.join(",\n  ")}\n}\n`;
}

/** Where a task lies. */
export interface Location {
  /** The directory of its list. */
  directory: string;
  /** The folder in which it lies. */
  state: State;
  /** The name of its file, without `.json`. */
  id: string;
}

/** The list, the state and the id of the task file at `path`, be it a claim. */
export function locate(path: string): Location {
  const [name = "", state = "", ...folders] = path.split("/").reverse();
  const file = name.replace(/(?<=\.json)@[^@]*$/, "");
  const directory = folders.reverse().join("/");
  return { directory, state: state as State, id: file.replace(/\.json$/, "") };
}

/** Whether there may be a file of that name which is no hidden one. */
export const isFileName = (id: string): boolean => /^[^./\0][^/\0]*$/.test(id);

/**
 * Throws if a task cannot have this id: it must come back exactly from every command, and from file
 * systems that normalize names.
 */
export function checkId(id: unknown): asserts id is string {
  const isName = typeof id === "string" && isFileName(id) && !/[\\\p{C}]|\.json@/u.test(id);
  if (isName && id.normalize() === id && sizeOf(id) <= 150) return;
  const rule = "a file name of up to 150 bytes, in normal form, that does not begin with a dot " +
    "and has no control characters";
  throw new TypeError(`Cannot use ${JSON.stringify(id)} as an id: it must be ${rule}`);
}

const sizeOf = (text: string): number => new TextEncoder().encode(text).length;

let lastId = 0;
const nonce = crypto.randomUUID().slice(0, 8);

/** An id that sorts after all before it: by the clock and, in this process, by the order. */
export function newId(): string {
  lastId = Math.max(lastId + 1, Date.now() * 1000);
  return `${lastId}-${nonce}`;
}

// ------------------------------------------------------------------------------------ what a list holds

/** Ids in order, and how many they are. */
export type Ids = Iterable<string> & { readonly length: number };

/** The ids of the tasks in a folder, in order; of those that run, the names of the claims. */
export function idsIn(directory: string, state: State): Ids {
  const folder = `${directory}/${state}`;
  if (state === "running") return claimsIn(fs().readdirSync(folder)).sort();
  const isLarge = fs().lstatSync(folder).size > 4e6; // some 100,000 names
  if (isLarge && "Deno" in globalThis) return idsInLarge(folder);
  const names = fs().readdirSync(folder).filter((name) => /^[^.].*\.json$/s.test(name));
  return names.map((name) => name.slice(0, -".json".length)).sort();
}

/** The ids in a folder of a million tasks, to list which takes Deno 8 s and 900 MB. */
function idsInLarge(folder: string): Ids {
  const { execFileSync } = system().getBuiltinModule("node:child_process");
  const script = 'ls -f "$0" | LC_ALL=C sort | grep "^[^.].*\\.json$"';
  const listing = execFileSync("sh", ["-c", script, folder], { maxBuffer: 2 ** 30 });
  function* ids(): Generator<string, void, void> {
    for (let begin = 0, end; (end = listing.indexOf(10, begin)) >= 0; begin = end + 1) {
      yield listing.toString("utf8", begin, end - ".json".length);
    }
  }
  let length = 0;
  for (let at = -1; (at = listing.indexOf(10, at + 1)) >= 0;) length++;
  return { length, [Symbol.iterator]: ids };
}

/** The paths of the tasks in a folder, in the order of their ids. */
export function* pathsIn(directory: string, state: State): Generator<string, void, void> {
  const extension = state === "running" ? "" : ".json";
  for (const name of idsIn(directory, state)) yield `${directory}/${state}/${name}${extension}`;
}

/** Those of the names in `running` that are claims, or seals whose outcome is not in its place yet. */
function claimsIn(names: string[]): string[] {
  const all = new Set(names);
  return names.filter((name) => {
    const [, claim, seal] = /^([^.].*\.json@[^@+~]*)(~\w+)?$/s.exec(name) ?? [];
    return claim && (!seal || all.has(`${claim}+`));
  });
}

/** The path of the file of a task, in whichever state. */
export function find(directory: string, id: string): string | undefined {
  for (const state of states) {
    const path = state === "running" ? claimOf(directory, id) : `${directory}/${state}/${id}.json`;
    if (path && exists(path)) return path;
  }
}

function claimOf(directory: string, id: string): string | undefined {
  const folder = `${directory}/running`;
  const begin = `${id}.json@`;
  const names = fs().readdirSync(folder).filter((name) =>
    name.startsWith(begin) && !name.includes("@", begin.length)
  );
  const [claim] = claimsIn(names);
  return claim && `${folder}/${claim}`;
}

// ------------------------------------------------------------------------------------- how it gets there

/** Makes the folders of a list, as far as they are not there. */
export function makeFolders(directory: string): void {
  for (const state of states) fs().mkdirSync(`${directory}/${state}`, { recursive: true });
}

/** Removes the tasks of a state; what else lies there stays. */
export function removeTasks(directory: string, state: State): void {
  for (const name of fs().readdirSync(`${directory}/${state}`)) {
    const path = `${directory}/${state}/${name}`;
    if (/\.json(\.original)?$/.test(name)) fs().rmSync(path, { recursive: true, force: true });
  }
}

/** Removes the folders of a list and its directory, as far as nothing else lies there. */
export function removeFolders(directory: string): void {
  for (const folder of [...states.map((state) => `${directory}/${state}`), directory]) {
    try {
      fs().rmdirSync(folder);
    } catch { /* something else lies in there, and stays */ }
  }
}

/** A task that is to be added. */
export interface Addition {
  id: string;
  text: string;
  /** No other task can have its id. */
  isNew: boolean;
}

/**
 * Writes a task into `todo`, which is to be synced then; false if the list has its id. `mayReplace`
 * says that it replaces one that has failed.
 */
export async function add(
  directory: string,
  { id, text, isNew }: Addition,
  mayReplace = false,
): Promise<boolean> {
  const claim = `${directory}/running/${id}.json@${newOwner()}`;
  const aside = `${claim}+`;
  const todo = `${directory}/todo/${id}.json`;
  try {
    await write(aside, text);
    if (isNew) {
      fs().renameSync(aside, todo);
      return true;
    }
    const found = find(directory, id);
    const failed = `${directory}/fail/${id}.json`;
    if (found === failed && mayReplace && move(failed, claim)) { // so it is never in two places
      if (move(aside, claim)) remove(`${failed}.original`);
      fs().renameSync(claim, todo);
      return true;
    }
    return !found && addOnce(directory, id, aside);
  } finally {
    if (!isNew || exists(aside)) remove(aside);
  }
}

/** Gives what was written aside its name in `todo`, if nobody else has given that id to another file. */
function addOnce(directory: string, id: string, aside: string): boolean {
  const todo = `${directory}/todo/${id}.json`;
  const { ino } = fs().lstatSync(aside);
  if (!link(aside, todo)) return false;
  // the id may have been somewhere else when we looked for it
  const isOther = (path: string | undefined) => path && (infoOf(path)?.ino ?? ino) !== ino;
  const places = ["done", "fail"].map((state) => `${directory}/${state}/${id}.json`);
  if (![...places, claimOf(directory, id)].some(isOther)) return true;
  if (infoOf(todo)?.ino === ino) remove(todo);
  return false;
}

/** Gives a file a second name, unless that is taken; where no file has two, the first one goes. */
function link(from: string, to: string): boolean {
  try {
    fs().linkSync(from, to);
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    if (!/^(EPERM|ENOSYS|ENOTSUP|EOPNOTSUPP)$/.test(codeOf(error))) throw error;
    fs().renameSync(from, to);
  }
  return true;
}

/** Claims a task for `owner`; gives the path of the claim, or undefined if the task has gone elsewhere. */
export function claim(directory: string, id: string, owner: string): string | undefined {
  const path = `${directory}/running/${id}.json@${owner}`;
  // a network file system may say that a rename has failed when it has not
  return move(`${directory}/todo/${id}.json`, path) || exists(path) ? path : undefined;
}

/** Whether a claim, or its outcome written aside, would have too long a name. */
export const isTooLong = (id: string, owner: string): boolean =>
  sizeOf(`${id}.json@${owner}~done`) > 250;

/** Moves a failed task back to `todo`; what was no task goes back as it was, or as it was repaired. */
export function retry(directory: string, id: string): boolean {
  const failed = `${directory}/fail/${id}.json`;
  const original = `${failed}.original`;
  if (infoOf(original)?.isFile()) move(original, failed);
  return move(failed, `${directory}/todo/${id}.json`);
}

/** Drops a claim, as its task is done already. */
export const drop = remove;

/** Shows other hosts that the owner of these claims lives. */
export function refresh(claims: Iterable<string>): void {
  const now = new Date();
  for (const claim of claims) {
    try {
      fs().utimesSync(claim, now, now);
    } catch { /* it is gone, or belongs to another user: then other changes will tell */ }
  }
}

// --------------------------------------------------------------------------------- how it gets its outcome

/** What is to become of a claimed task. */
export interface Outcome {
  claim: string;
  /** The text of its file as it was. */
  task: string;
  /** Where it goes: to `todo`, if it is to be tried again. */
  state: State;
  /** The text of its file with the outcome. */
  text: string;
  /** How often it is tried again, with this time. */
  retried: number;
}

/** What came of a task: a value or an error as they are stored, and what else its file is to say. */
export type Result = Stored & ({ returnValue: unknown } | { errorValue: unknown });

/** The outcome of a claimed task; a failed one goes to `todo` as long as it may be retried. */
export function outcomeOf(
  claim: string,
  task: string,
  result: Result,
  mayRetry: boolean | number,
): Outcome {
  const retried = (Number(parseTask(task)?.["retried"]) || 0) + 1;
  const isAgain = "errorValue" in result && (mayRetry === true || retried <= Number(mayRetry));
  const state = "returnValue" in result ? "done" : isAgain ? "todo" : "fail";
  const added = isAgain && !("crashes" in result) ? { retried, ...result } : result; // a crash is no retry
  return { claim, task, state, text: withResult(task, added, !isAgain), retried };
}

/** The text of a task with a result; only the result, if it was no task or cannot be written again. */
export function withResult(task: string, result: Result, isFinal = true): string {
  const { returnValue: _value, errorValue: _error, ...others } = parseTask(task) ?? {};
  if (isFinal) { // whoever puts it back by hand begins anew
    delete others["retried"];
    delete others["crashes"];
  }
  const attempts = (Number(others["attempts"]) || 0) + 1;
  return formatTask(isTask(task) ? { ...others, attempts, ...result } : result);
}

/** Whether a text is a task that can be written again; one that is nested too deep cannot. */
function isTask(text: string): boolean {
  const task = parseTask(text);
  try {
    return task !== undefined && formatTask(task) !== "";
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
}

/**
 * Files outcomes: each is on disk and in its place when this resolves. Sets `state` to where a task is
 * if another run was faster. Rejects if one could not be written; the others are filed nevertheless.
 */
export async function file(outcomes: Outcome[]): Promise<void> {
  const written = await Promise.allSettled(
    outcomes.map(({ claim, text }) => write(`${claim}+`, text)),
  );
  const whole = outcomes.filter((_, index) => written[index]?.status === "fulfilled");
  const sealed = whole.filter(seal);
  const folders = new Set(sealed.map(place));
  await Promise.all([...folders].map(syncFolder));
  for (const { claim, state } of sealed) unseal(claim, state);
  const failed = written.find((result) => result.status === "rejected");
  if (failed) throw failed.reason;
}

/** Decides that an outcome is the one of its task; false if another one is. */
function seal(outcome: Outcome): boolean {
  const { claim, task, state } = outcome;
  const path = `${claim}~${state}`;
  if (move(claim, path) || exists(path)) return true;
  const { directory, id } = locate(claim);
  const elsewhere = find(directory, id) ?? find(directory, id); // it may have moved meanwhile
  if (elsewhere) {
    remove(`${claim}+`);
    outcome.state = locate(elsewhere).state;
    return false;
  }
  fs().writeFileSync(path, task); // the task has removed its own file
  return true;
}

/** Moves a sealed outcome to its place; gives the folder, which is to be synced. */
function place({ claim, state }: { claim: string; state: State }): string {
  const { directory, id } = locate(claim);
  const folder = `${directory}/${state}`;
  const isPlaced = move(`${claim}+`, `${folder}/${id}.json`) || !exists(`${claim}+`);
  if (!isPlaced) throw new Error(`There is no folder \`${folder}\` any more`);
  return folder;
}

/** Removes a seal, as the outcome is in its place; keeps what was no task beside its error. */
function unseal(claim: string, state: State): void {
  const { directory, id } = locate(claim);
  const sealed = `${claim}~${state}`;
  const task = read(sealed) ?? "";
  const hasFailed = task.includes('"errorValue"') && "errorValue" in (parseTask(task) ?? {});
  if (state === "done" && hasFailed) remove(`${directory}/fail/${id}.json`); // from where it was copied
  if (state === "fail" && !isTask(task)) move(sealed, `${directory}/fail/${id}.json.original`);
  else remove(sealed);
}

/** The state for which a claim is sealed, if it is. */
export const sealOf = (claim: string): State | undefined =>
  states.find((state) => exists(`${claim}~${state}`));

/** Ends what a seal began, be it that of a dead owner; gives the state of the task then. */
export function settle(claim: string): State | undefined {
  const state = sealOf(claim);
  if (!state) return;
  place({ claim, state });
  unseal(claim, state);
  return state;
}

/** Puts a claimed task back as it was, unless it has an outcome; gives the state in which it is then. */
export function putBack(claim: string): State | undefined {
  const { directory, id } = locate(claim);
  const state = settle(claim);
  if (state) return state;
  const isBack = move(claim, `${directory}/todo/${id}.json`);
  if (exists(`${claim}+`)) remove(`${claim}+`);
  return isBack ? "todo" : undefined;
}

// ---------------------------------------------------------------------------------------- whose it is

/** A file that only the system writes; Deno lets only programs with all permissions read these. */
function readOfSystem(path: string): string {
  try {
    return fs().readFileSync(path, "utf8");
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ESRCH") return "";
    return printedBy("cat", path);
  }
}

function printedBy(program: string, ...args: string[]): string {
  const { spawnSync } = system().getBuiltinModule("node:child_process");
  return spawnSync(program, args, { encoding: "utf8" }).stdout ?? "";
}

/** When a process started, as a text that no other one with its id has had; undefined if it is dead. */
function startOf(pid: number | string): string | undefined {
  const boot = readOfSystem("/proc/sys/kernel/random/boot_id").slice(0, 8);
  if (!boot) {
    return printedBy("ps", "-o", "lstart=", "-p", `${pid}`).replace(/\W+/g, "_") || undefined;
  }
  const stat = readOfSystem(`/proc/${pid}/stat`);
  const [state, ...fields] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const start = fields[18];
  return start && !/[ZX]/.test(`${state}`) ? `${boot}-${start}` : undefined;
}

let identity: string | undefined;

/** Host, id and start of this process. */
function processOwner(): string {
  if (identity) return identity;
  const { pid, getBuiltinModule } = system();
  const start = startOf(pid);
  if (!start) {
    throw new Error("Cannot tell when this process started: neither `cat` nor `ps` works");
  }
  const host = getBuiltinModule("node:os").hostname().replace(/[^\w-]+/g, "_");
  return identity = `${host}.${pid}.${start}`;
}

/** The name of an owner: host, process and its start, and a number. */
export const newOwner = (): string => `${processOwner()}.${newId()}`;

/** Milliseconds without a sign of life after which a claim of another host is taken over. */
export function lease(): number {
  let text = "60";
  try {
    text = system().env["FORREST_LEASE"] || text;
  } catch { /* Deno does not permit to look */ }
  const milliseconds = 1000 * Number(text);
  if (milliseconds > 0 && milliseconds < 2 ** 31) return milliseconds;
  throw new RangeError(`Expected \`FORREST_LEASE\` to be a number of seconds, got \`${text}\``);
}

const observed = new Map<string, { mtime: number; since: number }>();

/** Whether the maker of claims lives; undefined if it is on another host and nothing shows yet. */
function isAlive(maker: string, claims: string[]): boolean | undefined {
  const [host, pid, start] = maker.split(".");
  if (maker === processOwner()) return true;
  if (host === processOwner().split(".")[0]) return startOf(`${pid}`) === start;
  const mtime = Math.max(...claims.map((path) => infoOf(path)?.mtimeMs ?? 0));
  const before = observed.get(maker);
  if (before?.mtime === mtime) {
    return performance.now() - before.since > lease() ? false : undefined;
  }
  observed.set(maker, { mtime, since: performance.now() }); // by no clock but our own
  return before && true;
}

/** What dead owners have left. */
export interface Estate {
  /** The tasks that were in flight, which `owner` has claimed now. */
  claims: string[];
  /** The processes of dead owners, as in the names of their claims. */
  makers: string[];
  /** Whether there are owners on other hosts that may be dead. */
  isUnsure: boolean;
}

/** Ends what dead owners have begun, and claims for `owner` what they had in flight. */
export function takeOver(directory: string, owner: string): Estate {
  const running = `${directory}/running`;
  const alive = new Map<string, boolean | undefined>();
  const claims: string[] = [];
  const names = fs().readdirSync(running);
  const pattern = /^(.+\.json)@(((?:[\w-]+\.){2}[\w-]+)\.[\w-]+)(?:[+~]\w*)?$/s;
  for (const name of names) {
    const [, file = "", other = "", maker = ""] = pattern.exec(name) ?? [];
    if (!file) continue; // none of ours
    if (!alive.has(maker)) {
      const its = names.filter((name) => name.includes(`.json@${maker}.`));
      alive.set(maker, isAlive(maker, its.map((name) => `${running}/${name}`)));
    }
    if (alive.get(maker) !== false) continue;
    const [claim, taken] = [`${running}/${file}@${other}`, `${running}/${file}@${owner}`];
    if (settle(claim)) continue;
    if (exists(`${directory}/done/${file}`)) remove(claim);
    else if (move(claim, taken)) claims.push(taken); // so that only one of us counts it
    if (exists(`${claim}+`) && !sealOf(claim)) remove(`${claim}+`);
  }
  const makers = [...alive.keys()].filter((maker) => alive.get(maker) === false);
  return { claims, makers, isUnsure: [...alive.values()].includes(undefined) };
}

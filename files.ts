/**
 * The folder: what a task file is, how it gets into a list, how it moves, and whose it is.
 *
 * A task is one JSON file, and the folder in which it lies is its state. Renames move it, in which OWNER is the
 * run, or one of its own for a task that is being scheduled, and STATE is `done`, `fail`, or `todo` if it is to
 * be tried again:
 *
 *     running/ID.json@OWNER+ -> todo/ID.json              scheduled: written aside and synced before; linked,
 *                                                         and not renamed, if somebody has chosen the id
 *     fail/ID.json -> running/ID.json@OWNER -> todo/ID.json   replaced (`retryFailed`), written aside before
 *     fail/ID.json -> todo/ID.json                        moved back by hand, or by `retry`
 *     todo/ID.json -> running/ID.json@OWNER               the claim; only one of many can make it
 *     running/ID.json@OWNER -> running/ID.json@OWNER~STATE    the seal, which decides: the first outcome wins
 *     running/ID.json@OWNER+ -> STATE/ID.json             the outcome, written aside and synced before the seal
 *     running/ID.json@OWNER -> todo/ID.json               put back, as its run has ended
 *     running/ID.json@DEAD -> running/ID.json@OWNER       taken over from a run that has died
 *     running/ID.json@OWNER~fail -> fail/ID.json.original   what was no task, kept beside its error
 *
 * After the outcome is in its place, the folder is synced, and then the seal is removed. So a seal always
 * has a whole outcome, aside or in its place, and whoever finds the seal of a dead owner ends what it began.
 * Outcomes come in batches, so that many files are synced at the same time, and each folder once.
 *
 * @module
 */

import type * as nodeFs from "node:fs";

/** The folders of a list: the state of a task is the folder in which it lies. */
export type State = "todo" | "running" | "done" | "fail";

/** All states, in the order in which a task goes through them. */
export const states: readonly State[] = ["todo", "running", "done", "fail"];

// -------------------------------------------------------------------------------- what a task file is

/** A task as its file holds it. */
export type Stored = Record<string, unknown>;

/** The task in the text of a file; undefined if it is none. */
export function parseTask(text: string): Stored | undefined {
  const task = attempt(() => JSON.parse(text.replace(/^\uFEFF/, ""))); // as editors on Windows begin it
  return typeof task === "object" && task && !Array.isArray(task) ? task : undefined;
}

/** The text of a task: one line for each step and for each other key, so that a person can edit it. */
export function formatTask(task: Stored): string {
  const lines = Object.entries(task).map(([key, value]) => {
    const isList = key === "steps" && Array.isArray(value);
    const steps = isList && value.map((step) => `\n    ${JSON.stringify(step)}`).join(",");
    return `  ${JSON.stringify(key)}: ${isList ? `[${steps}\n  ]` : JSON.stringify(value)}`;
  });
  return `{\n${lines.join(",\n")}\n}\n`;
}

/** Whether a text is that of a task which can be written again, as it is not nested too deep. */
const isTask = (text: string): boolean => !!attempt(() => formatTask(parseTask(text)!));

/** What a task has counted, whatever somebody has written there. */
export const countOf = (value: unknown): number => typeof value === "number" ? value : 0;

/** What came of a task: a value or an error as they are stored, and what else its file is to say. */
export type Result = Stored & ({ returnValue: unknown } | { errorValue: unknown });

/** The text of a task with a result; only the result, if it was no task or cannot be written again. */
export function withResult(text: string, result: Result, isFinal = true): string {
  const task = parseTask(text);
  const { returnValue: _value, errorValue: _error, ...others }: Stored = task ?? {};
  const added: Stored = { ...others, attempts: countOf(others["attempts"]) + 1, ...result };
  if (isFinal) { // whoever puts it back by hand begins anew
    delete added["retried"];
    delete added["crashes"];
  }
  return (task && attempt(() => formatTask(added))) ?? formatTask(result);
}

/** The directory of its list, the state and the id of the task file at `path`, be it a claim. */
export function locate(path: string): { directory: string; state: State; id: string } {
  const folders = path.split("/");
  const name = folders.pop() ?? "";
  const state = folders.pop() ?? "";
  const file = state === "running" ? name.replace(/@[^@]*$/, "") : name;
  return { directory: folders.join("/"), state: state as State, id: file.replace(/\.json$/, "") };
}

/** Whether there may be a file of that name which is no hidden one. */
export const isFileName = (id: string): boolean => /^[^./\0][^/\0]*$/.test(id);

/**
 * Throws if a task cannot have this id: it must come back exactly from every command, and from file
 * systems that normalize names.
 */
export function checkId(id: unknown): asserts id is string {
  const isName = typeof id === "string" && isFileName(id) &&
    !/[\\\p{Cc}\p{Cs}\p{Zl}\p{Zp}]|\.json@/u.test(id);
  if (isName && id.normalize() === id && sizeOf(id) <= 150) return;
  const rule = "a file name of up to 150 bytes, in Unicode's form NFC, that begins with no dot " +
    "and has no control characters";
  throw new TypeError(`Cannot use ${JSON.stringify(id)} as an id: it must be ${rule}`);
}

const encoder = new TextEncoder();
const sizeOf = (text: string): number => encoder.encode(text).length;

let lastId = 0;
const nonce = crypto.randomUUID().slice(0, 8);

/** An id that sorts after all before it: by the clock and, in this process, by the order. */
export function newId(): string {
  lastId = Math.max(lastId + 1, Date.now() * 1000);
  return `${lastId}-${nonce}`;
}

// ------------------------------------------------------------------------------------ what a list holds

/** Makes the folders of a list, as far as they are not there. */
export function makeFolders(directory: string): void {
  for (const state of states) fs().mkdirSync(`${directory}/${state}`, { recursive: true });
}

/**
 * The ids of the tasks in a folder, in order; in `running`, the names of the claims, and of the seals
 * whose outcome is not in its place yet.
 */
export function idsIn(directory: string, state: State): string[] {
  const folder = `${directory}/${state}`;
  const isLarge = "Deno" in globalThis && fs().lstatSync(folder).size > 4e6;
  const listed = isLarge && state !== "running" && printedBy("sh", "-c", LIST, folder);
  if (listed) return listed.split("\n").slice(0, -1);
  const names = fs().readdirSync(folder);
  const isClaim = (name: string) => {
    const [, claim, seal] = /^([^.].*\.json@[^@+~]*)(~\w+)?$/s.exec(name) ?? [];
    return claim && (!seal || names.includes(`${claim}+`));
  };
  if (state === "running") return names.filter(isClaim).sort();
  return names.flatMap((name) => /^([^.].*)\.json$/s.exec(name)?.[1] ?? []).sort();
}

/** Lists the ids in a folder of 100,000 tasks or more: of a million, Deno does that in 8 s and with 900 MB. */
const LIST = // one `sed` for both would take three times as long
  `export LC_ALL=C; ls -f "$0" | grep -a '^[^.].*[.]json$' | sed 's/[.]json$//' | sort`;

/** The paths of the tasks in a folder, in the order of their ids. */
export function* pathsIn(directory: string, state: State): Generator<string, void, void> {
  const extension = state === "running" ? "" : ".json";
  for (const name of idsIn(directory, state)) yield `${directory}/${state}/${name}${extension}`;
}

/**
 * The paths of the files of tasks, in whichever state: one for each id, or none. It looks in one state after
 * the other, so as not to miss a task that moves on meanwhile.
 */
function findAll(directory: string, ids: string[]): Map<string, string[]> {
  const found = new Map(ids.map((id) => [id, [] as string[]]));
  for (const state of ids.length ? states : []) {
    const files = [...found.keys()].map((id) => `${directory}/${state}/${id}.json`);
    const paths = state === "running" ? pathsIn(directory, state) : files.filter(exists);
    for (const path of paths) found.get(locate(path).id)?.push(path);
  }
  return found;
}

/** The path of the file of a task, in whichever state: one, or none. */
export const find = (directory: string, id: string): string[] => findAll(directory, [id]).get(id)!;

/** Removes the tasks of a state, with what was kept beside them; what has another extension stays. */
export function removeTasks(directory: string, state: State): void {
  for (const name of fs().readdirSync(`${directory}/${state}`)) {
    const path = `${directory}/${state}/${name}`;
    if (/\.json(\.original)?$/.test(name)) fs().rmSync(path, { recursive: true, force: true });
  }
}

/** Where a list has its log, unless a run is told another file. */
export const logOf = (directory: string): string => `${directory}/log.txt`;

/** Removes the folders of a list and its directory, as far as nothing else lies there. */
export function removeFolders(directory: string): void {
  for (const folder of [...states.map((state) => `${directory}/${state}`), directory]) {
    if (!fs().readdirSync(folder).length) fs().rmdirSync(folder);
  }
}

// ------------------------------------------------------------------------------------- how it gets there

/** A task that is to be added; `isNew` says that no other one can have its id. */
export type Addition = { id: string; text: string; isNew: boolean };

/**
 * Gives what writes tasks into `todo`, where each is on disk when that resolves; false if the list has its
 * id. `mayReplace` says that a task replaces one that has failed.
 */
export function adderTo(
  directory: string,
  mayReplace = false,
): (task: Addition) => Promise<boolean> {
  return inBatches(async (tasks: Addition[]) => {
    const ids = tasks.flatMap(({ id, isNew }) => isNew ? [] : [id]);
    const claims = tasks.map(({ id }) => `${directory}/running/${id}.json@${newOwner()}`);
    const writes = tasks.map(({ text }, index) => sync(`${claims[index]}+`, text));
    await Promise.allSettled(writes);
    const before = findAll(directory, ids);
    const added = tasks.map(async ({ id }, index) => {
      await writes[index];
      return publish(claims[index]!, before.get(id), mayReplace);
    });
    await Promise.allSettled(added);
    for (const claim of claims) if (exists(`${claim}+`)) remove(`${claim}+`);
    await sync(`${directory}/todo`);
    const after = findAll(directory, ids);
    return tasks.map(async ({ id }, index) => {
      // it may have been put back, and claimed again, while we looked for it
      const isTwice = (after.get(id)?.length ?? 0) > 1;
      return await added[index]! && !(isTwice && withdraw(claims[index]!));
    });
  });
}

/** Moves a task that is written aside into `todo`, unless it is found in the list; if it is new, `found` is undefined. */
function publish(claim: string, found: string[] | undefined, mayReplace: boolean): boolean {
  const { directory, id } = locate(claim);
  const aside = `${claim}+`;
  const todo = `${directory}/todo/${id}.json`;
  const failed = `${directory}/fail/${id}.json`;
  if (!found) fs().renameSync(aside, todo);
  else if (found[0] === failed && mayReplace && move(failed, claim)) { // so it is never in two places
    fs().renameSync(aside, claim);
    remove(`${failed}.original`);
    fs().renameSync(claim, todo);
  } else return !found.length && link(aside, todo);
  return true;
}

/** Takes a task out of `todo` again if the list has another one of its id: claimed, as that may just have moved there. */
function withdraw(claim: string): boolean {
  const { directory, id } = locate(claim);
  const todo = `${directory}/todo/${id}.json`;
  const aside = `${claim}+`; // which nobody finds: so of two who do this at once, none goes by the other
  if (!move(todo, claim)) return false;
  const isTwice = find(directory, id).length > 1 && move(claim, aside) && !!find(directory, id)[0];
  if (isTwice) remove(aside);
  else if (!move(aside, todo)) putBack(claim);
  return isTwice;
}

/** Gives a file a second name, unless that is taken; where no file has two, the first one goes. */
function link(from: string, to: string): boolean {
  try {
    return succeeds(() => fs().linkSync(from, to), /^EEXIST$/);
  } catch {
    if (exists(to)) return false;
    fs().renameSync(from, to);
    return true;
  }
}

/** Claims a task for `owner`; gives the path of the claim, or undefined if the task has gone elsewhere. */
export function claim(directory: string, id: string, owner: string): string | undefined {
  const path = `${directory}/running/${id}.json@${owner}`;
  // a network file system may say that a rename has failed when it has not
  return move(`${directory}/todo/${id}.json`, path) || exists(path) ? path : undefined;
}

/** Whether a task can be claimed: its claim must not have too long a name, and its file must have one in UTF-8. */
export function mayClaim(directory: string, id: string, owner: string): boolean {
  const most = 255 - `.json@${owner}~done`.length;
  const isShort = id.length <= most / 3 || sizeOf(id) <= most; // a character has three bytes at most
  return isShort && (!id.includes("\ufffd") || exists(`${directory}/todo/${id}.json`));
}

/** Puts a claimed task back as it was, unless it has an outcome. */
export function putBack(claim: string): void {
  const { directory, id } = locate(claim);
  if (move(claim, `${directory}/todo/${id}.json`)) remove(`${claim}+`);
  else complete(claim);
}

/** Moves a failed task back to `todo`; what was no task goes back as it was, or as it was repaired. */
export function retry(directory: string, id: string): boolean {
  const failed = `${directory}/fail/${id}.json`;
  const original = `${failed}.original`;
  if (infoOf(original)?.isFile()) move(original, failed);
  return move(failed, `${directory}/todo/${id}.json`);
}

// --------------------------------------------------------------------------------- how it gets its outcome

/**
 * What is to become of a claimed task: the text of its file as it was (`task`), where it goes (`state`: to `todo`,
 * if it is to be tried again), the `text` of its file then, and how often it is tried again, with this time.
 */
export type Outcome = ReturnType<typeof outcomeOf>;

/** The outcome of a claim; a task that has failed goes to `todo` as long as it may be retried. */
export function outcomeOf(claim: string, task: string, result: Result, retries: number) {
  const retried = countOf(parseTask(task)?.["retried"]) + 1;
  // what is no task stays as it was
  const isAgain = "errorValue" in result && retried <= retries && isTask(task);
  const state = (isAgain ? "todo" : "errorValue" in result ? "fail" : "done") as State;
  const added = isAgain && !("crashes" in result) ? { retried, ...result } : result; // a crash is no retry
  return { claim, task, state, text: withResult(task, added, !isAgain), retried };
}

/**
 * Files an outcome, which is on disk and in its place when this resolves. Sets `state` to where its task
 * is if another run was faster.
 */
export const file = inBatches(async (outcomes: Outcome[]) => {
  const writes = outcomes.map(({ claim, text }) => sync(`${claim}+`, text));
  const written = await Promise.allSettled(writes);
  const whole = outcomes.filter((_, index) => written[index]?.status === "fulfilled");
  const sealed = whole.filter(seal);
  const folders = new Set(sealed.map(place));
  await Promise.all([...folders].map((folder) => sync(folder)));
  await Promise.all(sealed.flatMap(unseal).map(removeSoon));
  return writes;
});

/** Decides that an outcome is the one of its task; false if another one is. */
function seal(outcome: Outcome): boolean {
  const { claim, task, state } = outcome;
  const path = `${claim}~${state}`;
  if (move(claim, path) || exists(path)) return true;
  const { directory, id } = locate(claim);
  const [elsewhere] = [...find(directory, id), ...find(directory, id)]; // it may have moved meanwhile
  if (elsewhere) {
    remove(`${claim}+`);
    outcome.state = locate(elsewhere).state;
    return false;
  }
  writeText(path, task); // the task has removed its own file
  return true;
}

/** An outcome that is sealed. */
type Sealed = Pick<Outcome, "claim" | "task" | "state">;

/** Moves a sealed outcome to its place; gives the folder, which is to be synced. */
function place({ claim, state }: Sealed): string {
  const { directory, id } = locate(claim);
  const folder = `${directory}/${state}`;
  const isLeft = !move(`${claim}+`, `${folder}/${id}.json`) && infoOf(`${claim}+`);
  if (isLeft) throw new Error(`There is no folder \`${folder}\` any more`);
  return folder;
}

/** Gives a seal that is to be removed, as the outcome is in its place; keeps what was no task beside its error. */
function unseal({ claim, task, state }: Sealed): string[] {
  const { directory, id } = locate(claim);
  const path = `${claim}~${state}`;
  const failed = `${directory}/fail/${id}.json`;
  if (state === "done" && task.includes('"errorValue"')) remove(failed); // where it was copied from, by hand
  const isKept = state === "fail" && !isTask(task);
  const isNone = !task.includes('"steps"') && task.includes('"errorValue"'); // but the error of what was none
  // of what had its id before
  if (state === "fail" && !isKept && !isNone) remove(`${failed}.original`);
  return isKept && move(path, `${failed}.original`) ? [] : [path];
}

/** Ends what a seal began, be it that of a dead owner; gives the state of the task then. */
function complete(claim: string): State | undefined {
  const state = states.find((state) => infoOf(`${claim}~${state}`));
  if (!state) return;
  const sealed = { claim, state, task: readable(`${claim}~${state}`) };
  const folder = fs().openSync(place(sealed), "r");
  succeeds(() => fs().fsyncSync(folder), UNABLE); // at once, as a run that is stopped cannot wait
  fs().closeSync(folder);
  unseal(sealed).forEach(remove);
  return state;
}

// ---------------------------------------------------------------------------------------- whose it is

/** The name of an owner: host, process and its start, and a number. */
export const newOwner = (): string => `${processOwner()}.${newId()}`;

let identity: string | undefined;

/** Host, id and start of this process. */
function processOwner(): string {
  if (identity) return identity;
  const { pid, getBuiltinModule } = system();
  const start = startOf(pid);
  if (!start) throw new Error("Cannot tell when this process started: `cat` and `ps` have failed");
  const host = getBuiltinModule("node:os").hostname().replace(/[^\w-]+/g, "_");
  const short = host.replace(/^(.{20}).*(.{20})$/, "$1$2"); // as names of files cannot be longer than 255 bytes
  return identity = `${short}.${pid}.${start}`;
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

/** Whether there is such a process, and it is another user's, of which the system may show nothing (`hidepid`). */
const isHidden = (pid: number): boolean =>
  attempt(() => succeeds(() => system().kill(pid, 0), /^EPERM$/)) === false;

/** A file of the system; Deno lets only programs with all permissions read these. */
const readOfSystem = (path: string): string => readable(path) || printedBy("cat", path);

function printedBy(program: string, ...args: string[]): string {
  const { spawnSync } = system().getBuiltinModule("node:child_process");
  const options = { encoding: "utf8", maxBuffer: 2 ** 30 } as const;
  const { status, stdout } = spawnSync(program, args, options);
  return status === 0 ? stdout : "";
}

/** Milliseconds without a sign of life after which a claim of another host is taken over. */
export function lease(): number {
  const text = attempt(() => system().env["FORREST_LEASE"]) || "60"; // if Deno permits to look
  const milliseconds = 1000 * Number(text);
  if (milliseconds > 0 && milliseconds < 2 ** 31) return milliseconds;
  throw new RangeError(`Expected \`FORREST_LEASE\` to be a number of seconds, got \`${text}\``);
}

/** Shows other hosts that the owner of these claims lives. */
export function refresh(claims: Iterable<string>): void {
  const now = new Date();
  // one that is gone is none, and if it belongs to another user, other changes will tell
  for (const claim of claims) attempt(() => fs().utimesSync(claim, now, now));
}

const observed = new Map<string, { mtime: number; since: number }>();

/** Host, process and start of the owner in the name of a claim, or of what belongs to one. */
const makerOf = (name: string): string | undefined =>
  /\.json@((?:[\w-]+\.){2}[\w-]+)\.[\w-]+(?:[+~]\w*)?$/.exec(name)?.[1];

/**
 * Whether the run lives that has claimed a task, by the path of that in `running`; undefined if the run is
 * on another host, or its system hides it from this user.
 *
 * @example
 * ```ts
 * import { isAlive, TaskList } from "jsr:@x/forrest";
 *
 * const tasks = new TaskList("tasklist", { existOk: true, preClean: false });
 * const left = [...tasks.paths("running")].filter((path) => isAlive(path) === false);
 * console.log(left.length); // 0
 * ```
 */
export function isAlive(claim: string): boolean | undefined {
  const [host, pid, start] = makerOf(claim)?.split(".") ?? [];
  if (host !== processOwner().split(".")[0]) return undefined;
  const found = startOf(`${pid}`);
  return found === undefined && isHidden(Number(pid)) ? undefined : found === start;
}

/** Whether the maker of claims lives, as far as that shows; undefined if nothing shows yet. */
function showsLife(claims: string[]): boolean | undefined {
  const isKnown = isAlive(claims[0]!);
  if (isKnown !== undefined) return isKnown;
  const mtime = Math.max(...claims.map((path) => infoOf(path)?.mtimeMs ?? 0));
  const { directory } = locate(claims[0]!);
  const key = `${directory} ${makerOf(claims[0]!)}`; // who may have claims in several lists
  const before = observed.get(key);
  if (before?.mtime === mtime) {
    return performance.now() - before.since > lease() ? false : undefined;
  }
  observed.set(key, { mtime, since: performance.now() }); // by no clock but our own
  return before && true;
}

/**
 * Ends what dead owners have begun, and claims for `owner` what they had in flight. `bury` gets host, process
 * and start of each of them. Gives these claims, and whether other owners may be dead, too (`isUnsure`).
 */
export function takeOver(directory: string, owner: string, bury: (maker: string) => void) {
  const running = `${directory}/running`;
  const estate = { claims: [] as string[], isUnsure: false };
  for (const [maker, names] of Map.groupBy(fs().readdirSync(running), makerOf)) {
    if (maker === undefined) continue; // these are none of ours
    const paths = names.map((name) => `${running}/${name}`);
    const lives = showsLife(paths);
    if (lives === undefined) estate.isUnsure = true;
    if (lives !== false) continue;
    bury(maker);
    const claims = new Set(paths.map((path) => path.replace(/[+~]\w*$/, "")));
    estate.claims.push(...[...claims].flatMap((claim) => inherit(claim, owner) ?? []));
  }
  return estate;
}

/** Ends what a dead owner began with its claim; gives that of `owner`, if the task was in flight. */
function inherit(claim: string, owner: string): string | undefined {
  const { directory, id } = locate(claim);
  const taken = `${directory}/running/${id}.json@${owner}`;
  if (exists(`${directory}/done/${id}.json`)) remove(claim); // it is the copy of a task, made by hand
  const isTaken = move(claim, taken); // so that only one of us counts it
  if (isTaken || !complete(claim)) remove(`${claim}+`);
  return isTaken ? taken : undefined;
}

// ------------------------------------------------------------------------------------- the file system

/** Is asked for late: to load `process` takes Deno 15 ms, in vain for a task whose module only imports forrest. */
const system = () => (globalThis as unknown as { process: typeof import("node:process") }).process;

let loaded: typeof nodeFs | undefined;

/** `node:fs`, loaded when it is first needed. */
const fs = (): typeof nodeFs => loaded ??= system().getBuiltinModule("node:fs");

/** Whether there is something at a path that can be reached: the cheapest way to ask, also if not. */
export const exists = (path: string): boolean => fs().existsSync(path);

/** What is known of a file, be it a dangling link; undefined only if it is certain that there is none. */
const infoOf = (path: string) => fs().lstatSync(path, { throwIfNoEntry: false });

/** The text of a file that is there. */
export const readText = (path: string): string => fs().readFileSync(path, "utf8");

/** The text of a file; empty if it is a folder, or cannot be read. */
export const readable = (path: string): string => attempt(() => readText(path)) ?? "";

/** Writes a file, or with the flag `a` adds to it; that is not brought to disk. */
export const writeText = (path: string, text: string, flag = "w"): void =>
  fs().writeFileSync(path, text, { flag }); // as Deno's `appendFileSync` has no regard for the umask

/** Moves or removes a file; false if it is not there. */
const move = (from: string, to: string): boolean => succeeds(() => fs().renameSync(from, to));
export const remove = (path: string): boolean => succeeds(() => fs().unlinkSync(path));

/** Removes a file that may be gone, and does not stand still while the disk is told, as some file systems do. */
const removeSoon = (path: string): Promise<void> =>
  called((done) => fs().unlink(path, done)).catch(passOver(/^ENOENT$/));

/** What a function of `node:fs` does that calls back. */
const called = (act: (done: (error: unknown) => void) => void): Promise<void> =>
  new Promise((resolve, reject) => act((error) => error ? reject(error) : resolve()));

/** What `make` gives; undefined if it throws. */
function attempt<T>(make: () => T): T | undefined {
  try {
    return make();
  } catch {
    return undefined;
  }
}

/** False if an action fails with one of these codes; other errors are thrown. */
function succeeds(action: () => void, failures = /^ENOENT$/): boolean {
  try {
    action();
    return true;
  } catch (error) {
    passOver(failures)(error);
    return false;
  }
}

/** Has things done in batches, at most 64 at once: what comes while one is under way is in the next. */
function inBatches<T, R>(act: (items: T[]) => Promise<Promise<R>[]>): (item: T) => Promise<R> {
  let open: T[] | undefined; // the items of the last batch, as long as it takes more
  let last: Promise<Promise<R>[]> = Promise.resolve([]);
  return async (item) => {
    if (!open || open.length >= 64) {
      const items: T[] = open = [];
      last = Promise.allSettled([last]).then(() => {
        if (open === items) open = undefined;
        return act(items);
      });
    }
    const index = open.push(item) - 1;
    return await (await last)[index]!;
  };
}

/** Brings the names in a folder to disk, or a file with this text. */
export async function sync(path: string, text?: string): Promise<void> {
  const file = fs().openSync(path, text === undefined ? "r" : "w");
  try {
    if (text !== undefined) fs().writeFileSync(file, text);
    await called((done) => fs().fsync(file, done)).catch(passOver(UNABLE));
  } finally {
    fs().closeSync(file);
  }
}

/** What file systems say that cannot sync. */
const UNABLE = /^(EINVAL|ENOTSUP|EOPNOTSUPP)$/;

/** Throws an error that has none of these codes. */
const passOver = (codes: RegExp) => (error: unknown): void => {
  if (!codes.test(`${(error as { code?: unknown } | undefined)?.code}`)) throw error;
};

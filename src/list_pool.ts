/**
 * The processes that run the tasks of a list.
 *
 * @module
 */

import { idsIn, isFileName, lease, recover } from "./claims.ts";
import { orderOf, projectOf, runningOne } from "./commands.ts";
import {
  exists,
  Filing,
  locate,
  move,
  outcomeOf,
  putBack,
  readTask,
  record,
  remove,
  type Sealed,
  sealOf,
  sealOutcome,
  settle,
  type State,
  stateOf,
  textOf,
} from "./files.ts";
import { Lines } from "./lines.ts";
import { isUnlimited, type Options, type Tasks } from "./options.ts";
import { type Answer, Pool, type Runner, type Start, type Watch } from "./pool.ts";
import { errorOf, isThere, KILL, killGroup, shell, statusOf } from "./processes.ts";
import { type Program, programOf, resultOf, wordsOf } from "./programs.ts";
import type { Told } from "./single.ts";
import { LONGEST_TIMER, sleep, type Stream, stringify, system, writeAll } from "./system.ts";
import { encodeThrown } from "./values.ts";

/** What a pool is told of its list: where it lies, what is being scheduled, and where to note the total. */
type List = {
  directory: string;
  logFile?: string;
  pending?: Set<Promise<unknown>>;
  progress?: { total?: number };
};

/**
 * The pool of a list. It works on while its consumer is busy.
 *
 * A task is claimed (`claim`), given to a process (`give`) and at its turn there (`begin`). Then a kept
 * runner says that it has filed it (`answer`); or the process of one task says what came of it, and we
 * file it (`take`, `filed`); or its process has died (`lose`). `settled` ends all three.
 */
export class ListPool extends Pool {
  readonly directory: string;
  readonly pending: Set<Promise<unknown>>; // what is being scheduled
  readonly progress: { total?: number };
  listed = 0; // tasks in `todo` when it was last listed
  ids: Iterator<string> = [].values(); // ids of that listing that are still to come
  upcoming?: string; // the next of them, if it was taken from `ids`
  left = 0; // how many of them are still to come
  claims = 0; // how many of them this run has claimed
  fruitless = 0; // listings in a row of which it has claimed none
  stride = 1; // how many to leave to another run, at most, if it was faster
  again: string[] = []; // to be retried, or put back as their process had to end
  alone = new Set<string>(); // those of them that may have been the cause of that
  delays = new Set<Timer>(); // of retries that are not due yet
  overdue = new Set<string>();
  tooLong = new Set<string>(); // ids that nobody can claim
  finished: string[] = []; // paths
  yielded = 0;
  failures = 0;
  isRefused = false; // by `mayStart`
  log?: Deno.FsFile;
  readonly lines = new Lines(); // for it
  readonly starts = new Map<string, Start>();
  readonly filing: Filing = new Filing((batch) => this.filed(batch), (error) => this.halt(error));

  constructor(list: List, options: Options) {
    super(options);
    const { directory, logFile, pending = new Set(), progress = {} } = list;
    [this.directory, this.pending, this.progress] = [directory, pending, progress];
    if (logFile) this.log = system.openSync(logFile, { append: true, create: true });
  }

  async *run(): Tasks<unknown> {
    const refresh = setInterval(() => this.refresh(), lease() / 6);
    try {
      yield* this.guard(this.tasks());
    } finally {
      clearInterval(refresh);
      for (const { id, text } of this.lines.take()) this.write(id, text, "| ");
      this.log?.close();
    }
  }

  async *tasks(): Tasks<unknown> {
    const { maxFailures } = this.options;
    while (true) {
      this.try(() => this.fill());
      const path = this.finished.shift();
      if (path) {
        this.yielded++;
        yield readTask(path);
      } else if (this.problem) throw this.problem;
      else if (this.isStopped) return;
      else if (this.runners.size || this.delays.size || this.filing.work) {
        await new Promise<void>((resolve) => this.wake = resolve);
      } else if (this.failures > maxFailures) {
        const left = `${idsIn(this.directory, "todo").length} tasks are left in \`todo\``;
        throw new Error(
          `Stopped after ${this.failures} failure${
            this.failures === 1 ? "" : "s"
          } (\`maxFailures: ${maxFailures}\`): ${left}`,
        );
      } else if (this.isOver()) return;
      else if (this.pending.size) await Promise.allSettled(this.pending);
      else if (!await this.look()) return;
    }
  }

  /** Whether nothing more is to be started. */
  isOver(): boolean {
    const failing = this.unfiled().filter(({ state }) => state === "fail").length;
    return this.isStopped || this.isRefused || this.failures + failing > this.options.maxFailures;
  }

  /** The outcomes that are being filed. */
  unfiled(): Sealed[] {
    return [...this.filing.batch, ...this.filing.waiting];
  }

  /** Looks for tasks in `todo` and with dead runs; false if there are none. */
  async look(): Promise<boolean> {
    const filed = (claim: string, state: State) => {
      if (state === "fail") this.settled(claim, state);
    };
    const isUnsure = recover(this.directory, this.owner, this.options.maxCrashes, filed);
    this.fruitless = this.claims ? 0 : this.fruitless + 1;
    const isStuck = this.listed > 0 && this.fruitless > 3; // on names that nobody can claim
    const { ids } = this.options;
    const waits = (id: string) => isFileName(id) && isThere(`${this.directory}/todo/${id}.json`);
    const wanted = ids ? [...new Set(ids)].sort().filter(waits) : idsIn(this.directory, "todo");
    this.listed = wanted.length;
    this.ids = wanted[Symbol.iterator]();
    this.left = this.listed;
    this.claims = 0;
    this.progress.total = this.yielded + this.finished.length + this.listed;
    if (this.finished.length || (this.listed && !isStuck)) return true;
    if (isUnsure) await sleep(Math.min(1000, lease() / 6));
    return isUnsure;
  }

  fill(): void {
    const { processes, concurrency, tasksPerProcess, maxFailures } = this.options;
    while (this.finished.length < 1000) {
      if (this.isOver()) return this.endIdle(false);
      const id = this.again[0] ?? (this.upcoming ??= this.ids.next().value);
      const isAlone = this.alone.has(id);
      // more than it holds at once only if it works them off one after the other; and no more than its
      // share of what is left, or than may still fail
      const share = Math.min(this.left / processes / 2, maxFailures - this.failures);
      const room = concurrency > 1 ? concurrency : Math.max(1, Math.min(this.depth(64), share));
      const free = isAlone ? undefined : this.leastBusy(room);
      if (id === undefined || (!free && this.running() >= processes)) {
        if (id === undefined || isAlone) this.endIdle(isAlone);
        else if (tasksPerProcess === 1) this.prepare();
        return;
      }
      const { mayStart } = this.options;
      if (mayStart && this.filing.work) return; // it is to see all outcomes in their place
      this.isRefused = mayStart ? !mayStart() : false;
      if (this.isRefused) continue;
      if (this.again.length) this.again.shift();
      else {
        this.upcoming = undefined;
        this.left--;
      }
      const claim = this.claim(id);
      if (!claim) continue;
      try {
        this.begin(this.give(claim, free, isAlone));
      } catch (error) {
        putBack(claim); // as nobody has it yet
        throw error;
      }
    }
  }

  /** Ends all runners as soon as they have nothing to do; or those that have nothing to do now. */
  endIdle(isNow: boolean): void {
    this.spare?.kill(); // it has nothing to finish
    for (const runner of this.runners) if (!isNow || !runner.held.size) runner.end();
  }

  claim(id: string): string | void {
    const claim = `${this.directory}/running/${id}.json@${this.owner}`;
    if (new TextEncoder().encode(`${id}.json@${this.owner}`).length > 240) {
      if (this.tooLong.has(id)) return;
      this.tooLong.add(id);
      const text = "is left in `todo`, as its name is too long\n";
      this.write(id, text);
      return writeAll(system.stderr, `\`${id}.json\` ${text}`);
    }
    // a network file system may say that a rename has failed when it has not
    if (!move(`${this.directory}/todo/${id}.json`, claim) && !exists(claim)) return this.goOn();
    this.claims++;
    if (!exists(`${this.directory}/done/${id}.json`)) return claim;
    remove(claim);
    return this.write(id, "is dropped, as it is done already");
  }

  /**
   * Goes on somewhat further down, as another run is at work here: so each soon has a stretch of the list
   * to itself, and the order is roughly kept. What is left out is found when we look again.
   */
  goOn(): void {
    this.stride = Math.min(this.stride * 2, 1024);
    const some = Math.floor(Math.random() * Math.min(this.stride, this.left));
    for (let skipped = 0; skipped < some; skipped++) this.ids.next();
    this.left -= some;
  }

  /** Gives a task to a process, which may have been started already. */
  give(claim: string, free: Runner | undefined, isAlone: boolean): Runner {
    const { tasksPerProcess } = this.options;
    const text = free ? "" : textOf(claim);
    const isSingle = isAlone || tasksPerProcess === 1;
    const single = isSingle ? this.startSingle(claim, text) : undefined;
    const runner = single ?? free ?? this.start([this.directory], text, isAlone);
    if (!single) runner.give(claim, stringify(claim));
    if (isAlone || runner.given >= tasksPerProcess) runner.end();
    return runner;
  }

  /** Gives a task to a process of its own; undefined if it is no task that can be given in this way. */
  startSingle(claim: string, text: string): Runner | undefined {
    const { spare, options: { session, permissions, retries } } = this;
    const secret = crypto.randomUUID();
    const order = isUnlimited(permissions) && orderOf({ claim, secret, session, retries }, text);
    if (!order) return;
    const program = programOf(order.steps);
    if (program) return this.startProgram(claim, text, program);
    const start = this.startFor(projectOf(text));
    const isFit = spare?.start === start && !spare.isEnded;
    if (!isFit) spare?.kill();
    this.spare = undefined;
    const runner = isFit ? spare : this.spawn(start);
    runner.give(claim, order.request, { text, secret });
    runner.end();
    return runner;
  }

  /** Starts a program, which needs no runner; undefined if it does not start, and a runner is to say why. */
  startProgram(claim: string, text: string, { argv, options }: Program): Runner | undefined {
    const command = wordsOf(argv, options);
    try {
      const watch: Watch = (...its) => this.watchProgram(...its, claim, argv);
      const runner = this.spawn({ command }, watch);
      runner.hold(claim, { text });
      runner.end();
      return runner;
    } catch { /* there is no such program, or no room for it */ }
  }

  /** Waits for the end of a program, and files what it has printed. */
  async watchProgram(
    runner: Runner,
    process: Deno.ChildProcess,
    claim: string,
    argv: string[],
  ): Promise<void> {
    const [begin, start] = [Date.now(), performance.now()];
    const print = (_chunk: Uint8Array, text: string) =>
      void this.try(() => this.output(runner, text, "stderr"));
    // what has left its group may hold its output open when it is killed
    const killed = runner.killed.then(() => sleep(200));
    let runtime = 0;
    statusOf(process).then(() => runtime = performance.now() - start);
    const outcome = await resultOf(process, argv, print, killed).then(
      (returnValue) => ({ returnValue }),
      (error) => ({ errorValue: encodeThrown(error) }),
    );
    killGroup(process.pid); // what it has left running
    if (!runner.isKilled && runner.held.has(claim)) {
      this.try(() => this.take(runner, claim, { begin, runtime, ...outcome }));
    }
    this.remove(runner, () => this.timeout());
  }

  /** How the processes of single tasks are started in a project, from here: always the same object. */
  startFor(project: string): Start {
    const key = stringify([system.cwd(), project]);
    const make = () => ({ command: runningOne(this.options.permissions, project), isSingle: true });
    const start = this.starts.get(key) ?? make();
    this.starts.set(key, start);
    return start;
  }

  /** Takes what the process of one task has told, and begins to file it. */
  take(runner: Runner, claim: string, told: Told): boolean {
    const { text } = runner.held.get(claim)!;
    this.filing.add(sealOutcome(claim, text!, outcomeOf(told), this.options.retries));
    if (this.options.mayStart) this.filing.work!.then(() => this.change()); // which has waited for it
    this.release(runner, claim);
    this.change();
    return true;
  }

  /** Takes from a runner a task that it has answered for. */
  release(runner: Runner, claim: string): void {
    clearTimeout(runner.held.get(claim)?.timer);
    runner.held.delete(claim);
    this.count();
    this.limit(runner);
  }

  filed(batch: Sealed[]): void {
    if (this.isStopped) return; // then they were filed at once
    for (const { claim, state, retried } of batch) this.settled(claim, state, retried);
  }

  answer(runner: Runner, [claim, state, detail]: Answer): boolean {
    const held = runner.held.get(claim);
    if (held?.secret && held.secret === state) return this.take(runner, claim, detail as Told);
    if (!held || exists(claim)) return false;
    const { id } = locate(claim);
    // what goes to `todo` may be anywhere by now; if it is done, what says otherwise was forged
    const found = state === "todo"
      ? sealOf(claim) ? undefined : stateOf(this.directory, id)
      : exists(`${this.directory}/${state}/${id}.json`) && state;
    if (!found) return false;
    this.release(runner, claim);
    this.begin(runner);
    this.settled(claim, found === "done" || found === "fail" ? found : state, detail as number);
    return true;
  }

  lose(runner: Runner, error: Error): void {
    for (const [claim, { begun }] of runner.held) {
      const isOverdue = this.overdue.delete(claim);
      const isToBlame = begun && (isOverdue || (!runner.isKilled && runner.given === 1));
      try {
        const state = settle(claim);
        if (state !== "running") this.settled(claim, state);
        else if (isToBlame && !this.isStopped) {
          this.fail(claim, begun, isOverdue ? this.timeout() : error);
        } else if (putBack(claim) === "todo") {
          const { id } = locate(claim);
          this.again.push(id);
          if (!runner.isKilled) this.alone.add(id);
        }
      } catch (problem) { // as the disk is full: then it is as if it had not run
        this.halt(problem);
        this.try(() => putBack(claim));
      }
    }
  }

  fail(claim: string, begun: Date, error: Error): void {
    const [started, runtime] = [begun.toISOString(), (Date.now() - Number(begun)) / 1000];
    const outcome = { started, runtime, errorValue: encodeThrown(error) };
    const { state, retried } = record(claim, textOf(claim), outcome, this.options.retries);
    this.settled(claim, state, retried);
  }

  timeout(): Error {
    const { autokill } = this.options;
    const name = "TimeoutError";
    return errorOf(`The task was killed after ${autokill} s, as \`autokill\` says`, { name });
  }

  /** Handles a task that is in nobody's hands any more. */
  settled(claim: string, state?: State, retried = 1): void {
    const { id } = locate(claim);
    const path = `${this.directory}/${state}/${id}.json`;
    this.note(claim, state);
    if (state === "todo") {
      const delay = Math.min(this.options.retryDelay * 1000 * 2 ** (retried - 1), LONGEST_TIMER);
      const timer = setTimeout(() => {
        this.delays.delete(timer);
        this.again.push(id);
        this.change();
      }, delay);
      this.delays.add(timer);
    } else if (state === "done" || state === "fail") {
      if (state === "fail") this.failures++;
      if (state === "fail" && this.options.printErrors) this.printError(path);
      this.finished.push(path);
    }
    this.change();
  }

  /** Writes to the log what has become of a task, after what it has printed. */
  note(claim: string, state?: State): void {
    const { id } = locate(claim);
    for (const { id: ids, text } of this.lines.take(id)) this.write(ids, text, "| ");
    this.write(id, state === "todo" ? `has failed, and will be retried` : `is in \`${state}\``);
  }

  /** Notes which of its tasks a runner is at by now, and when they are to be killed. */
  begin(runner: Runner): void {
    const { concurrency, autokill } = this.options;
    for (const [claim, task] of [...runner.held].slice(0, concurrency)) {
      if (task.begun) continue;
      task.begun = new Date();
      if (autokill * 1000 > LONGEST_TIMER) continue;
      const kill = () => this.try(() => this.kill(runner, claim));
      const end = Date.now() + autokill * 1000;
      task.timer = setTimeout(() => {
        // if we were stopped meanwhile, as by Ctrl-Z, its outcome may have arrived already
        if (Date.now() - end > 500) task.timer = setTimeout(kill, 500);
        else kill();
      }, autokill * 1000);
    }
  }

  kill(runner: Runner, claim: string): void {
    for (const { timer } of runner.held.values()) clearTimeout(timer);
    const { begun } = runner.held.get(claim)!;
    const due = [...runner.held].filter(([, task]) => Number(task.begun) - Number(begun) < 100);
    // one of several may have blocked the others: each is to show by itself whether it takes so long
    if (due.length === 1) this.overdue.add(claim);
    else for (const [claim] of due) this.alone.add(locate(claim).id);
    runner.kill();
    shell(KILL, runner.marker); // those who have left its process group
  }

  override stop(): void {
    const held = [...this.runners].flatMap(({ held }) => [...held]);
    super.stop();
    for (const timer of this.delays) clearTimeout(timer);
    for (const [, { timer }] of held) clearTimeout(timer);
    const claims = [...held.map(([claim]) => claim), ...this.unfiled().map(({ claim }) => claim)];
    for (const claim of claims) this.try(() => this.putBack(claim));
  }

  /** Puts a task back; or notes that it has an outcome, of which nobody has been told. */
  putBack(claim: string): void {
    const isSealed = sealOf(claim) !== undefined;
    const state = putBack(claim);
    if (isSealed && (state === "done" || state === "fail")) this.note(claim, state);
  }

  /** Shows other hosts that we are alive. */
  refresh(): void {
    const now = new Date();
    for (const { held } of this.runners) {
      for (const claim of held.keys()) {
        try {
          system.utimeSync(claim, now, now);
        } catch {
          /* it is gone, or belongs to another user, whose run will tell by what else changes */
        }
      }
    }
  }

  printError(path: string): void {
    const { id, errorValue } = readTask(path);
    if (!this.log) writeAll(system.stderr, `${id}: ${stackOf(errorValue)}\n`);
    else this.write(id, stackOf(errorValue), "  ");
  }

  output(runner: Runner, text: string, stream: Stream): void {
    const begun = [...runner.held.keys()].slice(0, this.options.concurrency);
    const claims = begun.length ? begun : [runner.last];
    const id = claims.map((claim) => locate(claim).id).join(",");
    if (this.log) this.write(id, this.lines.add(text, stream, id), "| ");
    if (this.options.onOutput) this.options.onOutput(text, stream, id);
    else if (!this.log) writeAll(system[stream], text);
  }

  /** Writes lines to the log file: what has happened to a task, or what it has printed. */
  write(id: string, text: string, begin = ""): void {
    if (!this.log || !text) return;
    const lines = text.replace(/\n$/, "").split("\n");
    const time = new Date().toISOString();
    writeAll(this.log, lines.map((line) => `${time} ${id} ${begin}${line}\n`).join(""));
  }
}

/** The stack of an error and of its causes. */
function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return `${error}`;
  return error.cause === undefined
    ? `${error.stack}`
    : `${error.stack}\nCaused by: ${stackOf(error.cause)}`;
}

type Timer = ReturnType<typeof setTimeout>;

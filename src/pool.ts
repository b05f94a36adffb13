/**
 * The processes that run the tasks of a list, or the calls of a `map`.
 *
 * @module
 */

import { idsIn, lease, newOwner, recover } from "./claims.ts";
import { orderOf, projectOf, runningOne, serving } from "./commands.ts";
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
import { isUnlimited, type Items, type Options, type Tasks } from "./options.ts";
import {
  beforeEnd,
  isThere,
  KILL,
  kill,
  killGroup,
  shell,
  spawnGroup,
  statusOf,
} from "./processes.ts";
import { deathOf, isEndOfJob, type Program, programOf, resultOf, wordsOf } from "./programs.ts";
import { nameHere, refer, type Reference } from "./references.ts";
import type { Told } from "./single.ts";
import { apply, load, type Target } from "./steps.ts";
import {
  environment,
  LONGEST_TIMER,
  parse,
  sleep,
  type Stream,
  stringify,
  system,
  within,
  writeAll,
} from "./system.ts";
import { type Callable, decode, encode, encodeThrown } from "./values.ts";

type Timer = ReturnType<typeof setTimeout>;

/** What a runner is told when it starts. */
export type Settings = {
  session?: string;
  retries: number;
  concurrency: number;
  descriptor: 0 | 3;
};

/**
 * What a runner tells of a task. For a list, the detail says how often it is retried; or, if a secret stands
 * for the state, what the pool is to file.
 */
export type Answer = [key: string, state: State, detail: unknown];

/** What a runner tells if it can file nothing, as on a full disk: an error, which ends the run. */
export type Problem = [key: string, state: "problem", detail: unknown];

/** A task that a runner has: since when, what will kill it, and what the process of one task got. */
type Held = { begun?: Date; timer?: Timer; text?: string; secret?: string };

/** How a process is started. */
type Start = { command: string[]; isSingle?: boolean };

/** Reads what a process prints, until it is dead. */
type Watch = (runner: Runner, process: Deno.ChildProcess) => Promise<void>;

/** A process that runs tasks, as its pool sees it. */
interface Runner {
  held: Map<string, Held>; // its tasks by their keys
  given: number; // how many tasks it ever got,
  last: string; // and the key of the last
  marker: string; // what the environment of all its descendants contains
  start: Start;
  isEnded: boolean; // it gets no more
  isKilled: boolean;
  limit?: Timer; // until it must have ended
  killed: Promise<void>;
  hold(key: string, held: Held): void;
  give(key: string, request: string, held?: Held): void;
  end(): void;
  kill(): void;
}

let runnersStarted = 0;

/** What the pools of a list and of `map` have in common: how runners start, answer and end. */
abstract class Pool {
  readonly owner: string;
  readonly runners = new Set<Runner>();
  isStopped = false;
  problem: unknown; // what ends the run
  wake = (): void => {}; // tells the consumer that something has changed
  longestAnswer = 100_000; // characters, of which a runner uses less
  answered = 0;
  firstAnswer = 0; // when it came, in milliseconds
  spare?: Runner; // has been started ahead of its task
  mayPrepare = true;

  constructor(readonly options: Options) {
    this.owner = options.processes ? newOwner() : "";
  }

  /** Takes an answer; false if it was none, but something that a task has printed. */
  abstract answer(runner: Runner, answer: Answer): boolean;
  /** Takes back what a dead runner has held. */
  abstract lose(runner: Runner, error: Error): void;
  /** Gives tasks to runners, as long as there is room. */
  abstract fill(): void;
  abstract output(runner: Runner, text: string, stream: Stream): void;

  /** Takes an answer, unless it is a problem: that ends the run. */
  receive(runner: Runner, answer: Answer | Problem): boolean {
    const [key, state, detail] = answer;
    if (state === "problem" && runner.held.has(key)) throw decode(detail);
    return this.answer(runner, answer as Answer);
  }

  /** Starts a runner. */
  start(access: string[], firstTask: string, isAlone = false): Runner {
    const { session, retries, permissions, tasksPerProcess } = this.options;
    const concurrency = isAlone ? 1 : this.options.concurrency;
    const isKept = !isAlone && tasksPerProcess > 1;
    const isApart = isKept && isUnlimited(permissions); // as Deno lets nobody else open a descriptor
    const descriptor = isApart ? 3 : 0;
    const settings: Settings = { session, retries, concurrency, descriptor };
    const command = serving(stringify(settings), permissions, access, firstTask);
    // a kept runner has its requests on another descriptor, so that no task can read them from stdin
    if (isApart) command.unshift("sh", "-c", 'exec "$@" 3<&0 </dev/null', "sh");
    return this.spawn({ command });
  }

  /** Starts a runner ahead of its task, if tasks are so short that this helps, and hides its start. */
  prepare(): void {
    const start = [...this.runners].at(-1)?.start;
    const isWorthIt = this.mayPrepare && !this.spare && this.depth(200) > 0;
    if (isWorthIt && start?.isSingle) this.spare = this.spawn(start);
  }

  /** Starts a process in a process group of its own. */
  spawn(
    start: Start,
    watch: Watch = (runner, process) => this.watch(runner, process),
  ): Runner {
    const marker = `/${this.owner}.${runnersStarted++}/`;
    const process = spawnGroup(start.command, {
      FORREST_TASKS: environment("FORREST_TASKS") + marker,
    });
    const input = process.stdin.getWriter();
    const ignore = () => {}; // it is dead, and `lose` will follow
    const { promise: killed, resolve: setKilled } = Promise.withResolvers<void>();
    const runner: Runner = {
      held: new Map(),
      given: 0,
      last: "",
      marker,
      start,
      isEnded: false,
      isKilled: false,
      killed,
      hold(key, held) {
        runner.given++;
        runner.last = key;
        runner.held.set(key, held);
      },
      give(key, request, held = {}) {
        runner.hold(key, held);
        input.write(new TextEncoder().encode(`${request}\n`)).catch(ignore);
      },
      end: () => {
        if (!runner.isEnded) input.close().catch(ignore);
        runner.isEnded = true;
        this.limit(runner);
      },
      kill() {
        if (!runner.isEnded) input.close().catch(ignore);
        runner.isEnded = runner.isKilled = true;
        killGroup(process.pid);
        kill(process); // it may not lead its group yet
        setKilled();
      },
    };
    this.runners.add(runner);
    watch(runner, process);
    return runner;
  }

  /** Reads what a runner prints, until it is dead. */
  async watch(runner: Runner, process: Deno.ChildProcess): Promise<void> {
    let printed = "";
    const print = (text: string, stream: Stream) => {
      if (text) this.try(() => this.output(runner, text, stream));
      printed = (printed + text).slice(-2000);
    };
    const read = async (stream: Stream) => {
      const decoder = new TextDecoder();
      let text = "";
      const parts: string[] = []; // of a long answer, which is not to be searched for each of them
      let hasPrompt = stream === "stdout" && runner.start.isSingle && !globalThis.Deno;
      for await (const chunk of process[stream]) {
        parts.push(decoder.decode(chunk, { stream: true }));
        const isPart = text && !parts.at(-1)!.includes("\n") && this.longestAnswer === Infinity;
        if (isPart) continue;
        text += parts.splice(0).join("");
        if (hasPrompt && text.startsWith(" ")) text = text.slice(1); // which `prompt()` has printed
        hasPrompt = false;
        let start = text.indexOf("\x1e");
        for (let end; start >= 0 && (end = text.indexOf("\n", start)) >= 0;) {
          start = text.lastIndexOf("\x1e", end);
          print(text.slice(0, start), stream);
          const answer = stream === "stdout" ? parseAnswer(text.slice(start + 1, end)) : undefined;
          // the answers of a runner that was killed are for nobody
          const isAnswer = answer &&
            (runner.isKilled || this.try(() => this.receive(runner, answer)) !== false);
          if (!isAnswer) print(text.slice(start, end + 1), stream);
          text = text.slice(end + 1);
          start = text.indexOf("\x1e");
        }
        const isAnswerToBe = start >= 0 && text.length - start < this.longestAnswer;
        print(isAnswerToBe ? text.slice(0, start) : text, stream);
        text = isAnswerToBe ? text.slice(start) : "";
      }
      text += parts.join("");
      if (!runner.isKilled || !text.startsWith("\x1e")) print(text, stream);
    };
    // a task may close its standard output, on which the runner would answer
    const drained = Promise.all([read("stdout").finally(() => runner.end()), read("stderr")]);
    const status = await statusOf(process);
    killGroup(process.pid); // what its task has left running
    await within(200, drained); // or longer, if what has left the group holds its output open
    if (isEndOfJob(status) && !runner.isKilled) await sleep(500); // as this process may be to end, too
    if (runner === this.spare) [this.spare, this.mayPrepare] = [undefined, false];
    this.remove(runner, () => deathOf("The process of this task", status, printed));
  }

  /** Forgets a runner that is dead. */
  remove(runner: Runner, error: () => Error): void {
    clearTimeout(runner.limit);
    this.runners.delete(runner);
    for (const { timer } of runner.held.values()) clearTimeout(timer);
    if (runner.held.size) this.try(() => this.lose(runner, error()));
    this.change();
  }

  /** The runner that has the least to do, if it has room, and if there is no room for another. */
  leastBusy(room: number): Runner | undefined {
    const { processes, tasksPerProcess } = this.options;
    const free = [...this.runners].filter((runner) =>
      !runner.isEnded && runner !== this.spare && runner.given < tasksPerProcess
    );
    const [runner] = free.sort((a, b) => a.held.size - b.held.size);
    if (!runner || runner.held.size >= room) return;
    return runner.held.size && this.running() < processes ? undefined : runner;
  }

  /** Counts an answer. */
  count(): void {
    if (!this.answered++) this.firstAnswer = performance.now();
  }

  /** Kills a runner that has nothing left to do, and does not end: what a task has left may block it. */
  limit(runner: Runner): void {
    if (!runner.isEnded || runner.held.size) return;
    runner.limit ??= setTimeout(() => runner.kill(), 5000);
  }

  /**
   * How many tasks a runner does in so many milliseconds. It is given that many beyond the one that it
   * works on, so that it never waits for us.
   */
  depth(milliseconds: number): number {
    // the first answer says nothing of how long a task takes: the next ones do
    const passed = Math.max(1, performance.now() - this.firstAnswer);
    const perMillisecond = Math.max(0, this.answered - 1) / passed;
    return Math.min(
      128,
      Math.floor(milliseconds * perMillisecond / Math.max(1, this.options.processes)),
    );
  }

  /** How many processes run tasks, or may get some: those that are only to exit do not count. */
  running(): number {
    const isRunning = (runner: Runner) =>
      runner !== this.spare && (!runner.isEnded || runner.held.size > 0);
    return [...this.runners].filter(isRunning).length;
  }

  change(): void {
    this.try(() => this.fill());
    this.wake();
  }

  try<R>(action: () => R): R | undefined {
    try {
      return action();
    } catch (error) {
      this.halt(error);
    }
  }

  /** Ends the run with an error. */
  halt(error: unknown): void {
    this.problem ??= error;
    this.isStopped = true;
    this.wake();
  }

  /** Hands on what `tasks` yields; whatever happens, nothing of the run outlives it. */
  async *guard<R>(tasks: AsyncGenerator<R, void, void>): AsyncGenerator<R, void, void> {
    // Deno kills its children if this program ends with an error, but not theirs
    const wait = `cat > /dev/null; ${KILL}`;
    const script = globalThis.Deno ? `exec 3<&0; { exec <&3; ${wait}; } &` : wait;
    const watchdog = spawnGroup(["sh", "-c", script, `/${this.owner}.`]);
    for (const output of [watchdog.stdout, watchdog.stderr]) output.cancel().catch(() => {});
    const end = watchdog.stdin.getWriter(); // which the system closes if this process dies
    const release = beforeEnd(() => this.stop(), this.options.signal);
    if (this.options.signal?.aborted) this.stop();
    try {
      yield* tasks;
    } finally {
      this.stop();
      release();
      end.close().catch(() => {});
    }
  }

  /** Kills all that runs, at once: no call in here is asynchronous. */
  stop(): void {
    this.isStopped = true;
    for (const runner of this.runners) runner.kill();
    if (this.runners.size) shell(KILL, `/${this.owner}.`);
    for (const { held } of this.runners) held.clear();
    this.wake();
  }
}

/**
 * The pool of a list. It works on while its consumer is busy.
 *
 * A task is claimed (`claim`), given to a process (`give`) and at its turn there (`begin`). Then a kept
 * runner says that it has filed it (`answer`); or the process of one task says what came of it, and we
 * file it (`take`, `filed`); or its process has died (`lose`). `settled` ends all three.
 */
export class ListPool extends Pool {
  listed = 0; // how many tasks were in `todo` when we last looked,
  ids: Iterator<string> = [].values(); // which of them are still to come,
  upcoming?: string; // beginning with this one,
  left = 0; // how many of them,
  claims = 0; // and how many we got
  fruitless = 0; // how often in a row we have looked and got none
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

  constructor(
    readonly directory: string,
    options: Options,
    logFile?: string,
    readonly progress: { total?: number } = {},
    readonly pending: Set<Promise<unknown>> = new Set(), // what is being scheduled
  ) {
    super(options);
    if (logFile) this.log = system.openSync(logFile, { append: true, create: true });
  }

  async *run(): Tasks<unknown> {
    const refresh = setInterval(() => this.refresh(), lease / 6);
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
          `Stopped after ${this.failures} failures (\`maxFailures: ${maxFailures}\`): ${left}`,
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
    const waits = (id: string) =>
      /^[^./\0][^/\0]*$/.test(id) && isThere(`${this.directory}/todo/${id}.json`);
    const wanted = ids ? [...new Set(ids)].sort().filter(waits) : idsIn(this.directory, "todo");
    this.listed = wanted.length;
    this.ids = wanted[Symbol.iterator]();
    this.left = this.listed;
    this.claims = 0;
    this.progress.total = this.yielded + this.finished.length + this.listed;
    if (this.finished.length || (this.listed && !isStuck)) return true;
    if (isUnsure) await sleep(Math.min(1000, lease / 6));
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
    const outcome = await resultOf(process, argv, print, killed).then(
      (returnValue) => ({ returnValue }),
      (error) => ({ errorValue: encodeThrown(error) }),
    );
    killGroup(process.pid); // what it has left running
    const runtime = performance.now() - start;
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
    const { text, timer } = runner.held.get(claim)!;
    this.filing.add(sealOutcome(claim, text!, outcomeOf(told), this.options.retries));
    clearTimeout(timer);
    runner.held.delete(claim);
    this.count();
    this.limit(runner);
    this.change();
    return true;
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
    clearTimeout(held.timer);
    runner.held.delete(claim);
    this.count();
    this.limit(runner);
    this.begin(runner);
    this.settled(claim, found === "done" || found === "fail" ? found : state, detail as number);
    return true;
  }

  lose(runner: Runner, error: Error): void {
    for (const [claim, { begun }] of runner.held) {
      const isOverdue = this.overdue.delete(claim);
      const isToBlame = begun && (isOverdue || (!runner.isKilled && runner.given === 1));
      const state = settle(claim);
      if (state !== "running") this.settled(claim, state);
      else if (isToBlame) this.fail(claim, begun, isOverdue ? this.timeout() : error);
      else if (putBack(claim)) {
        const { id } = locate(claim);
        this.again.push(id);
        if (!runner.isKilled) this.alone.add(id);
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
    const message = `The task was killed after ${this.options.autokill} s, as \`autokill\` says`;
    return Object.assign(new Error(message), {
      name: "TimeoutError",
      stack: `TimeoutError: ${message}`,
    });
  }

  /** Handles a task that is in nobody's hands any more. */
  settled(claim: string, state?: State, retried = 1): void {
    const { id } = locate(claim);
    const path = `${this.directory}/${state}/${id}.json`;
    for (const { id: ids, text } of this.lines.take(id)) this.write(ids, text, "| ");
    this.write(id, state === "todo" ? `has failed, and will be retried` : `is in \`${state}\``);
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

  /** Notes which of its tasks a runner is at by now, and when they are to be killed. */
  begin(runner: Runner): void {
    const { concurrency, autokill } = this.options;
    for (const [claim, task] of [...runner.held].slice(0, concurrency)) {
      if (task.begun) continue;
      task.begun = new Date();
      if (autokill * 1000 > LONGEST_TIMER) continue;
      task.timer = setTimeout(() => this.try(() => this.kill(runner, claim)), autokill * 1000);
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
    for (const claim of claims) this.try(() => putBack(claim));
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

/** Arrays of an item from each source, until the first of them ends. */
export async function* zip(sources: Items<unknown>[]): AsyncGenerator<unknown[], void, void> {
  const iterators = sources.map((source) =>
    (source as AsyncIterable<unknown>)[Symbol.asyncIterator]?.() ??
      (source as Iterable<unknown>)[Symbol.iterator]()
  );
  try {
    while (true) {
      const items = await Promise.all(iterators.map((iterator) => iterator.next()));
      if (items.some(({ done }) => done)) return;
      yield items.map(({ value }) => value);
    }
  } finally {
    for (const iterator of iterators) iterator.return?.();
  }
}

/** The pool of a `map`: the calls wait in memory, and a few milliseconds of work with each runner. */
export class MapPool extends Pool {
  waiting: [string, unknown[]][] = [];
  finished = new Map<string, [State, unknown]>();
  read = 0; // how many items were read, and
  yielded = 0; // how many results the consumer got
  here = 0; // calls that run in this process
  isRead = false;
  override longestAnswer = Infinity;
  reference?: Reference;
  target?: Target; // in this process
  readonly source: AsyncGenerator<unknown[], void, void>;
  makeRoom = (): void => {}; // lets more be read

  constructor(
    readonly callee: Callable,
    options: Options,
    sources: Items<unknown>[],
  ) {
    super(options);
    this.source = zip(sources);
  }

  run(): AsyncGenerator<unknown, void, void> {
    return this.options.processes ? this.guard(this.results()) : this.results();
  }

  async *results(): AsyncGenerator<unknown, void, void> {
    const { processes, ordered = true } = this.options;
    this.readAll();
    try {
      while (!this.isRead || this.yielded < this.read) {
        const [key] = ordered ? [`${this.yielded}`] : this.finished.keys();
        const [state, value] = this.finished.get(key) ?? [];
        if (state) {
          this.finished.delete(key);
          this.yielded++;
          this.makeRoom();
          const result = processes ? decode(value) : value;
          if (state === "fail") throw result;
          yield result;
        } else if (this.isStopped) {
          throw this.problem ?? new Error("Stopped by a signal, with items left to do");
        } else await new Promise<void>((resolve) => this.wake = resolve);
      }
      if (this.problem) throw this.problem;
    } finally {
      this.isStopped = true;
      this.makeRoom();
      this.source.return();
    }
  }

  async readAll(): Promise<void> {
    const { processes, concurrency } = this.options;
    try {
      if (processes) this.reference = await refer(this.callee);
      else this.target = await load(nameHere(this.callee) ?? this.callee);
      for await (const args of this.source) {
        this.waiting.push([`${this.read++}`, args]);
        this.change();
        const window = () => 4 * processes * Math.max(concurrency, this.depth(8)) || concurrency;
        while (!this.isStopped && (this.waiting.length || this.read - this.yielded >= window())) {
          await new Promise<void>((resolve) => this.makeRoom = resolve);
        }
        if (this.isStopped) return;
      }
    } catch (error) {
      this.problem = error;
    }
    this.isRead = true;
    this.wake();
  }

  fill(): void {
    const { processes, concurrency } = this.options;
    const room = Math.max(concurrency, this.depth(8));
    while (!this.isStopped && this.waiting.length) {
      const runner = this.leastBusy(room);
      const isFull = processes ? !runner && this.running() >= processes : this.here >= concurrency;
      if (isFull) return;
      const [key, args] = this.waiting.shift()!;
      if (processes) this.give(key, args, runner);
      else this.callHere(key, args);
    }
    this.makeRoom();
  }

  give(key: string, args: unknown[], runner?: Runner): void {
    try {
      const step = { call: this.reference, args: encode(args, "item") };
      (runner ?? this.start([], stringify(step))).give(key, stringify({ key, step }));
    } catch (error) {
      this.settled(key, "fail", encodeThrown(error));
    }
  }

  async callHere(key: string, args: unknown[]): Promise<void> {
    this.here++;
    try {
      const value = await apply(...this.target!, args);
      this.settled(key, "done", value);
    } catch (error) {
      this.settled(key, "fail", error);
    }
    this.here--;
    this.change();
  }

  settled(key: string, state: State, value: unknown): void {
    this.count();
    this.finished.set(key, [state, value]);
  }

  answer(runner: Runner, [key, state, value]: Answer): boolean {
    if (!runner.held.delete(key)) return false;
    this.settled(key, state, value);
    this.change();
    return true;
  }

  lose(runner: Runner, error: Error): void {
    for (const key of runner.held.keys()) this.settled(key, "fail", encodeThrown(error));
  }

  output(_runner: Runner, text: string, stream: Stream): void {
    writeAll(system[stream], text);
  }
}

/** The stack of an error and of its causes. */
function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return `${error}`;
  return error.cause === undefined
    ? `${error.stack}`
    : `${error.stack}\nCaused by: ${stackOf(error.cause)}`;
}

function parseAnswer(text: string): Answer | Problem | undefined {
  try {
    const answer = parse(text);
    return Array.isArray(answer) ? answer as Answer : undefined;
  } catch { // a task has printed it, or into it
    const [, key] = /^\["([^"]*)","(?:done|fail)",/.exec(text) ?? [];
    if (key === undefined) return;
    const message =
      "What this call gave was lost, as something else printed to the standard output " +
      "of its process meanwhile: let that write to a file";
    return [key, "fail", encodeThrown(new Error(message))];
  }
}

/**
 * What the pools of a list and of a `map` have in common: how their processes start, answer and end.
 *
 * @module
 */

import { newOwner } from "./claims.ts";
import { serving } from "./commands.ts";
import type { State } from "./files.ts";
import { isUnlimited, type Options } from "./options.ts";
import { beforeEnd, KILL, kill, killGroup, shell, spawnGroup, statusOf } from "./processes.ts";
import { deathOf, isEndOfJob } from "./programs.ts";
import { environment, parse, sleep, type Stream, stringify, within } from "./system.ts";
import { decode, encodeThrown } from "./values.ts";

type Timer = ReturnType<typeof setTimeout>;

/** What a runner is told when it starts. */
export type Settings = {
  session?: string;
  retries: number;
  concurrency: number;
  descriptor: 0 | 3;
};

/**
 * What a runner tells of a task: its key (the path of its claim, or the number of an item), its state, and
 * for a list how often it was retried, for a `map` the value. The process of a single task gives its secret
 * as the state, and then what the pool is to file.
 */
export type Answer = [key: string, state: State, detail: unknown];

/** What a runner tells if it can file nothing, as on a full disk: an error, which ends the run. */
export type Problem = [key: string, state: "problem", detail: unknown];

/** A task that a runner has: since when, what will kill it, and what the process of one task got. */
export type Held = { begun?: Date; timer?: Timer; text?: string; secret?: string };

/** How a process is started. */
export type Start = { command: string[]; isSingle?: boolean };

/** Reads what a process prints, until it is dead. */
export type Watch = (runner: Runner, process: Deno.ChildProcess) => Promise<void>;

/** A process that runs tasks, as its pool sees it. */
export interface Runner {
  held: Map<string, Held>; // its tasks by their keys
  given: number; // how many tasks it ever got
  last: string; // the key of the last of them
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

/** Processes that run tasks. */
export abstract class Pool {
  readonly options: Options;
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
  isWatched = false; // by a process that kills the others when this one is dead

  constructor(options: Options) {
    this.options = options;
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
    this.isWatched = true;
    statusOf(watchdog).then(() => this.isWatched = false);
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
    if (this.runners.size || !this.isWatched) this.try(() => shell(KILL, `/${this.owner}.`));
    for (const { held } of this.runners) held.clear();
    this.wake();
  }
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

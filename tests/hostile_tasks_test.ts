/** Tasks that misbehave harm only themselves. */
import assert from "node:assert/strict";
import fs from "node:fs";
import {
  assertAllDone,
  assertLegal,
  base,
  type Call,
  check,
  type HostOptions,
  idsIn,
  inPairs,
  log,
  newDirectory,
  newList,
  noProc,
  startHost,
  stored,
} from "./crash.ts";

interface Misbehaviour {
  does: string;
  call: (directory: string) => Call;
  /** What its error says, or the value that it returns; with both of them, either will do. */
  error?: RegExp;
  value?: unknown;
  /** What may run beside it, if it spoils the process for the usual one. */
  neighbour?: Call;
}

const deadly: Misbehaviour[] = [
  { does: "calls exit(0)", call: () => ["exit", 0], error: /called `exit\(\)`/ },
  { does: "calls exit(0) later", call: () => ["exitLater", 0], error: /called `exit\(\)`/ },
  { does: "exits with a code", call: () => ["exit", 3], error: /exited with code 3/ },
  { does: "is killed by SIGKILL", call: () => "killItself", error: /by SIGKILL/ },
  {
    does: "is killed by SIGSEGV",
    call: () => "violateMemory",
    error: /by SIG|code 1[34]/,
  },
  { does: "exhausts its memory", call: () => "exhaustMemory", error: /memory|SIG|code|allocat/i },
  {
    does: "rejects a promise that nobody holds",
    call: () => "rejectUnheld",
    error: /nobody holds this/,
  },
  {
    does: "never settles its promise",
    call: () => "neverSettle",
    error: /waits for a promise that nothing/,
  },
];

/** What may keep a runner from answering: its task has an outcome nevertheless, be it this error. */
const unheard: Misbehaviour[] = [
  {
    does: "closes its standard output",
    call: () => "closeOutput",
    error: /The process of this task/,
    value: "closed",
  },
  {
    does: "puts a file in place of its standard output",
    call: (directory) => ["replaceOutput", `${directory}-output`],
    error: /The process of this task/,
    value: "replaced",
  },
  {
    does: "replaces globals",
    call: () => "replaceGlobals",
    error: /The process of this task/,
    value: "replaced",
    neighbour: "whereAmI",
  },
];

const harmless: Misbehaviour[] = [
  { does: "throws from a timer after returning", call: () => "throwLater", value: "returned" },
  { does: "prints 50 MB", call: () => "printMuch", value: "printed" },
  { does: "prints a megabyte of bytes 0x1E", call: () => "printMarks", value: "printed" },
  {
    does: "prints 50 MB after a byte 0x1E",
    call: () => ["printMuch", "\x1e", " "],
    value: "printed",
  },
  { does: "prints without a newline", call: () => "printWithoutNewline", value: "printed" },
  { does: "forges answers", call: () => "forge", value: "forged" },
  { does: "reads its standard input", call: () => "readInput", value: "read 0" },
  { does: "reads it synchronously", call: () => "readInputSynchronously", value: "read 0" },
  { does: "changes directory", call: () => "changeDirectory", value: "/" },
  {
    does: "deletes its own task file",
    call: (directory) => ["deleteOwnFile", directory, "bad"],
    value: "deleted",
  },
  { does: "leaves a timer", call: () => "leaveTimer", value: "left" },
  { does: "leaves a server", call: () => "leaveServer", value: "left" },
  { does: "leaves a child with its output open", call: () => "leaveChild", value: "left" },
];

const ways: [string, HostOptions][] = [
  ["in a process of its own", { tasksPerProcess: 1 }],
  ["in a kept process", { tasksPerProcess: 10 }],
  ["beside others in one process", { concurrency: 2 }],
];

for (const [where, options] of ways) {
  check(
    `a misbehaving task ${where} neither hangs the run nor harms its neighbours`,
    noProc,
    async () => {
      const problems: string[] = [];
      await inPairs(
        [...deadly, ...unheard, ...harmless],
        async ({ does, call, error, value, neighbour }) => {
          const directory = newDirectory();
          const notes = `${directory}-notes`;
          const calls: Record<string, Call> = {
            bad: call(directory),
            good: neighbour ?? ["slowNote", notes, "good", 200],
            last: "whereAmI",
          };
          await newList({ a: ["note", notes, "a"], ...calls }, directory);
          try {
            const host = startHost("run", directory, { processes: 1, ...options });
            const seen = await host.finished();
            const yielded = seen.filter(({ id }) => id);
            assert.deepEqual(yielded.map(({ id }) => id).sort(), ["a", "bad", "good", "last"]);
            const bad = yielded.find(({ id }) => id === "bad")!;
            const hasFailed = error !== undefined && (value === undefined || bad.state === "fail");
            assert.deepEqual(idsIn(directory, "fail"), hasFailed ? ["bad"] : []);
            const done = hasFailed ? ["a", "good", "last"] : ["a", "bad", "good", "last"];
            assert.deepEqual(idsIn(directory, "done"), done);
            assertLegal(directory);
            if (hasFailed) assert.match(bad.error!, error);
            else assert.equal(bad.value, value);
            if (!options.concurrency) {
              assert.equal(stored(directory, "done", "last").returnValue, base);
            }
          } catch (error) {
            problems.push(`A task that ${does}: ${(error as Error).message}`);
          }
        },
      );
      assert.equal(problems.join("\n\n"), "");
    },
  );
}

check("an unheld rejection after the end of a task harms nobody", noProc, async () => {
  const directory = await newList({ a: "rejectUnheldAtOnce", b: ["slowNote", log, "b", 100] });
  const seen = await startHost("run", directory, { processes: 1, tasksPerProcess: 10 }).finished();
  assert.deepEqual(seen.filter(({ id }) => id).map(({ id }) => id).sort(), ["a", "b"]);
  assert.ok(idsIn(directory, "done").includes("b"));
  assertLegal(directory);
});

check(
  "all of what a task prints gets to the log, and no forged answer is taken for one",
  noProc,
  async () => {
    const directory = newDirectory();
    await newList({ forger: "forge", printer: "printMuch" }, directory);
    const logFile = `${directory}.log`;
    await startHost("run", directory, { processes: 2, logFile }).finished();
    const text = fs.readFileSync(logFile, "latin1");
    assert.ok(text.length > 50 * 2 ** 20);
    assert.ok(text.includes("beside"));
    assertAllDone(directory, ["forger", "printer"]);
    fs.rmSync(logFile);
  },
);

check(
  "a task that answers for itself, in whichever words, can spoil its own outcome alone",
  noProc,
  async () => {
    const answers = {
      text: "3.foo",
      number: "1.7",
      nothing: "4.null",
      list: "2.[]",
      empty: "2.{}",
      short: "9.{}",
      long: `2.${'{"returnValue":1}'}`,
      silent: "0.",
      parts: "1+{\n",
      sizeless: "{}",
      endless: "2?{}",
      dateless: '44.{"begin":"x","runtime":"y","returnValue":"bad"}',
      dateful: '42.{"begin":1e99,"runtime":0,"returnValue":"bad"}',
      key: '28.{"returnValue":{"$date":"x"}}',
      both: '35.{"returnValue":1,"errorValue":"bad"}',
      overdue: '18.{"isOverdue":true}',
    };
    const calls: Record<string, Call> = {};
    for (const [id, answer] of Object.entries(answers)) {
      calls[id] = ["answerForItself", answer];
      calls[`${id}-next`] = ["note", log, id];
    }
    for (const options of [{ processes: 2 }, { processes: 2, tasksPerProcess: 1000 }]) {
      const directory = await newList(calls);
      const seen = await startHost("run", directory, options).finished();
      assertLegal(directory);
      const ids = seen.flatMap(({ id }) => id ?? []).sort();
      assert.deepEqual(ids, Object.keys(calls).sort());
      const done = idsIn(directory, "done").filter((id) => id.endsWith("-next"));
      assert.equal(done.length, Object.keys(answers).length);
    }
  },
);

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
  /** What its error says, or the value that it returns. */
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
  { does: "forges answers", call: (directory) => ["forge", directory], value: "forged" },
  { does: "closes its standard output", call: () => "closeOutput", value: "closed" },
  {
    does: "puts a file in place of its standard output",
    call: (directory) => ["replaceOutput", `${directory}-output`],
    value: "replaced",
  },
  { does: "reads its standard input", call: () => "readInput", value: "read 0" },
  { does: "reads it synchronously", call: () => "readInputSynchronously", value: "read 0" },
  { does: "changes directory", call: () => "changeDirectory", value: "/" },
  {
    does: "deletes its own task file",
    call: (directory) => ["deleteOwnFile", directory, "bad"],
    value: "deleted",
  },
  {
    does: "deletes its own task file and forges an answer",
    call: (directory) => ["forgeAfterDeletion", directory, "bad"],
    value: "forged",
  },
  {
    does: "replaces globals",
    call: () => "replaceGlobals",
    value: "replaced",
    neighbour: "whereAmI",
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
      await inPairs([...deadly, ...harmless], async ({ does, call, error, value, neighbour }) => {
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
          const wanted = error ? { fail: ["bad"], done: [] } : { fail: [], done: ["bad"] };
          assert.deepEqual(idsIn(directory, "fail"), wanted.fail);
          assert.deepEqual(idsIn(directory, "done"), ["a", ...wanted.done, "good", "last"]);
          assertLegal(directory);
          const yielded = seen.filter(({ id }) => id);
          assert.deepEqual(yielded.map(({ id }) => id).sort(), ["a", "bad", "good", "last"]);
          const bad = yielded.find(({ id }) => id === "bad")!;
          if (error) assert.match(bad.error!, error);
          else assert.equal(bad.value, value);
          if (!options.concurrency) {
            assert.equal(stored(directory, "done", "last").returnValue, base);
          }
        } catch (error) {
          problems.push(`A task that ${does}: ${(error as Error).message}`);
        }
      });
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
    await newList({ forger: ["forge", directory], printer: "printMuch" }, directory);
    const logFile = `${directory}.log`;
    await startHost("run", directory, { processes: 2, logFile }).finished();
    const text = fs.readFileSync(logFile, "latin1");
    assert.ok(text.length > 50 * 2 ** 20);
    assert.ok(text.includes("beside"));
    assertAllDone(directory, ["forger", "printer"]);
    fs.rmSync(logFile);
  },
);

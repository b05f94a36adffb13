/** Programs as tasks. */
import assert from "node:assert/strict";
import process from "node:process";
import { prepare } from "./fixtures/tasks.ts";
import {
  isRunning,
  outcomeOf,
  resultOf,
  runProgram,
  temporary,
  test,
  until,
  writeProgram,
} from "./helpers.ts";
import { command, defer, type RunOptions, TaskList } from "./library.ts";

test("command() takes deferred words", async () => {
  const task = command(["echo", defer(prepare, "item").thing, defer(String, 5)]);
  assert.equal(await resultOf(task), "ITEM 5\n");
});

test("programs share the process that starts them, also where each function has its own", async () => {
  using folder = temporary();
  const tasks = new TaskList<string>(folder.file("list"));
  for (let i = 0; i < 3; i++) tasks.schedule(command(["sh", "-c", "echo $PPID"]));
  tasks.schedule(command(["echo $PPID"], { shell: true }));
  const parents = await Array.fromAsync(tasks.run({ processes: 1 }), (task) => task.returnValue);
  assert.equal(parents.length, 4);
  assert.equal(new Set(parents).size, 1);
  assert.notEqual(Number(parents[0]), process.pid);
});

test("programs give the same whether they are started by the run or by a kept process", async () => {
  using folder = temporary();
  const left = "sleep 100 > /dev/null 2>&1 & echo $! > $0";
  const programs: Record<string, [argv: unknown, options?: unknown]> = {
    plain: [["printf", "%s|", "a b", "$HOME", "ü", ""]],
    shell: [["echo one |", "tr a-z A-Z; echo two >&2"], { shell: true }],
    environment: [["sh", "-c", "cd ..; echo $OLDPWD"]],
    answer: [["printf", '\x1e["key","done",1]\n']],
    bytes: [["printf", "\\377\\303\\274\\357\\273\\277"]],
    mark: [["printf", "\\357\\273\\277a"]],
    late: [["(sleep 0.3; echo late) & echo early"], { shell: true }],
    left: [["sh", "-c", left, folder.file("left")]],
    input: [["cat"]],
    long: [["head -c 300000 /dev/zero | tr '\\0' 'x'"], { shell: true }],
    tooLong: [["head", "-c", "100000001", "/dev/zero"]],
    endless: [["yes"]],
    code: [["sh", "-c", "echo out; echo err >&2; exit 127"]],
    signal: [["sh", "-c", "kill -SEGV $$"]],
    missing: [["no-such-program"]],
    missingPath: [["./no/such/program", "x"]],
    nameless: [[""]],
    option: [["--version"]],
    noWords: [[]],
    noArray: ["echo"],
    number: [["echo", 5]],
    zero: [["echo", "a\0b"]],
    unknown: [["echo", "a"], { shell: false, other: 1 }],
    nothing: [["echo", "a"], null],
  };
  const outcomes = async (options: RunOptions) => {
    const tasks = new TaskList(folder.file(`list${options.tasksPerProcess}`));
    for (const [id, args] of Object.entries(programs)) {
      const steps = [{ call: "forrest#command", args }];
      folder.write(`list${options.tasksPerProcess}/todo/${id}.json`, JSON.stringify({ steps }));
    }
    const found: Record<string, unknown> = {};
    const printed: Record<string, string> = {};
    const onOutput = (text: string, _stream: string, id: string) =>
      printed[id] = (printed[id] ?? "") + text;
    for await (const task of tasks.run({ ...options, processes: 2, onOutput })) {
      const { message, code, signal } = (task.errorValue ?? {}) as Error & Record<string, unknown>;
      const isOwn = typeof code === "number"; // the error of a program that has run
      const outcome = isOwn ? [message, signal || code] : message?.replace(/ \(.*/s, "");
      found[task.id] = task.state === "done" ? task.returnValue : outcome;
      if (task.id !== "left") continue;
      await until(() => !isRunning(folder.read("left")));
    }
    return [found, printed];
  };
  const [alone, printed] = await outcomes({ tasksPerProcess: 1 });
  assert.equal(Object.keys(alone).length, Object.keys(programs).length);
  assert.deepEqual(alone, (await outcomes({ tasksPerProcess: 100 }))[0]);
  assert.deepEqual(alone.code, [
    "`sh -c echo out; echo err >&2; exit 127` exited with code 127. " +
    "It last printed:\nout\nerr",
    127,
  ]);
  assert.match(`${alone.endless}`, /`yes` has printed more than 100 MB: let it write to a file/);
  assert.equal(
    alone.missing,
    "Cannot start `no-such-program`: there is no such program, or its directory is gone",
  );
  assert.equal(alone.option, alone.missing.replace("no-such-program", "--version"));
  assert.deepEqual([printed.shell, printed.code], ["two\n", "err\n"]);
});

test("a program that is killed holds up nothing, whoever has its output open", async () => {
  using folder = temporary();
  // without our marks, and its parent has ended
  const stay = "(setsid env -i sh -c 'echo $$ > $0; exec sleep 20' $0 &)";
  const tasks = new TaskList(folder.file("list"));
  tasks.schedule(command(["sh", "-c", `${stay}; sleep 100`, folder.file("pid")]));
  const [task] = await Array.fromAsync(tasks.run({ autokill: 3 }));
  assert.equal((task.errorValue as Error).name, "TimeoutError");
  assert.ok(isRunning(folder.read("pid")));
  process.kill(Number(folder.read("pid")));
});

test("command() finds its standard input empty, and ends with its task", async () => {
  assert.equal(await resultOf(command(["cat"])), "");
  using folder = temporary();
  const script = `echo $$ > ${folder.file("pid")}; trap "" TERM; while :; do sleep 0.1; done`;
  const task = await outcomeOf(command([script], { shell: true }), { autokill: 3 });
  assert.equal((task.errorValue as Error).name, "TimeoutError");
  await until(() => !isRunning(folder.read("pid")));
});

test("a program that was written by hand must be words", async () => {
  using folder = temporary();
  for (
    const [id, args] of Object.entries({
      text: ["echo hi"],
      none: [[]],
      odd: [["echo"], { env: {} }],
    })
  ) {
    folder.write(
      `list/todo/${id}.json`,
      JSON.stringify({ steps: [{ call: "forrest#command", args }] }),
    );
  }
  const tasks = new TaskList(folder.file("list"), { existOk: true, preClean: false });
  for await (const { errorValue } of tasks.run({ processes: 1 })) {
    assert.match(
      `${errorValue}`,
      /TypeError: Cannot start .*`forrest#command` takes an array of words/,
    );
  }
  assert.equal(tasks.count().fail, 3);
});

test("what a program prints is its value exactly, or as bytes if it is not UTF-8", async () => {
  const print = (format: string) => resultOf(command(["printf", format]));
  assert.equal(await print("\\357\\273\\277\\303\\274\\r\\n\\036"), "\uFEFFü\r\n\x1e");
  assert.deepEqual(await print("\\303"), new Uint8Array([0xc3]));
  assert.deepEqual(await print("a\\377\\000"), new Uint8Array([0x61, 0xff, 0]));
  const lines = "yes 🏃ü | head -c 280000";
  const text = await resultOf(command([lines], { shell: true })) as string;
  assert.ok(text === "🏃ü\n".repeat(40_000), `${text.length} characters`);
});

test("a program that prints many short pieces takes no more memory than what they are", () => {
  using folder = temporary();
  const [file, args] = writeProgram(
    folder,
    `for (let piece = 1; piece <= 3000; piece++) {
       process.stdout.write(piece + "\\n");
       await new Promise((resolve) => setTimeout(resolve, 1));
     }`,
    {},
    "pieces.ts",
  );
  const { stdout } = runProgram(
    folder,
    `await evaluate(command(["true"]));
     const before = process.memoryUsage().rss;
     const text = await evaluate(command(${JSON.stringify([file, ...args])}));
     console.log(text.length, Math.round((process.memoryUsage().rss - before) / 1e6));`,
  );
  const [length, megabytes] = stdout.split(" ").map(Number);
  assert.equal(length, 13_893);
  assert.ok(megabytes < 110, `${megabytes} MB`);
});

test("the end of a program is that of its process, whatever it has left to print on", async () => {
  const chatter = "(while :; do echo noise; sleep 0.02; done) & echo first";
  const value = await resultOf(command([chatter], { shell: true }));
  assert.match(value as string, /^(noise\n)*first\n/);
});

test("the error of a program has what it printed last, character by character", async () => {
  const script =
    "printf '\\303\\274 out'; printf '\\303' >&2; sleep 0.2; printf '\\274 err' >&2; exit 3";
  const { errorValue } = await outcomeOf(command(["sh", "-c", script]), { onOutput: () => {} });
  assert.match((errorValue as Error).message, /It last printed:\nü outü err$/);
});

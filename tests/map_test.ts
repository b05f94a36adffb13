/** `map()` without a list. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import process from "node:process";
import * as fixture from "./fixtures/tasks.ts";
import { add, identity } from "./fixtures/tasks.ts";
import { storable } from "./fixtures/values.ts";
import {
  fixtures,
  isRunning,
  runProgram,
  temporary,
  test,
  until,
  writeProgram,
} from "./helpers.ts";
import { map } from "./library.ts";

test("map() takes asynchronous items", async () => {
  async function* items() {
    for (let i = 0; i < 5; i++) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      yield i;
    }
  }
  assert.deepEqual(await Array.fromAsync(map(Math.sqrt, items())), [0, 1, 2, 3, 4].map(Math.sqrt));
});

for (const options of [{}, { ordered: false }, { processes: 0 }, { concurrency: 4 }]) {
  test(`map() reads endless items as results are taken: ${JSON.stringify(options)}`, async () => {
    let read = 0;
    let ended = false;
    function* endless() {
      try {
        while (true) yield read++;
      } finally {
        ended = true;
      }
    }
    let taken = 0;
    for await (const _ of map((x: number) => x + 1, endless(), { processes: 2, ...options })) {
      if (++taken === 5) { // a consumer who takes no more
        await standsStill(() => read);
      }
      if (taken === 50) break;
    }
    assert.ok(read < 5000, `${read} items were read for 50 results`);
    await until(() => ended);
  });
}

/** Waits until a number has stayed the same for some time, which what grows without end never does. */
async function standsStill(count: () => number): Promise<void> {
  let [before, times] = [count(), 0];
  await until(() => {
    times = count() === before ? times + 1 : 0;
    before = count();
    return times === 30;
  });
}

test("map() waits for items that are promises", async () => {
  const items = [
    1,
    Promise.resolve(2),
    new Promise<number>((resolve) => setTimeout(resolve, 9, 3)),
  ];
  for (const processes of [0, 1]) {
    const doubles = map((x: number) => x * 2, items, { processes });
    assert.deepEqual(await Array.fromAsync(doubles), [2, 4, 6]);
  }
  const broken = map((x: number) => x, [1, Promise.reject(new RangeError("no item"))]);
  await assert.rejects(Array.fromAsync(broken), /no item/);
});

test("map() zips several sources, up to the end of the shortest", async () => {
  const sums = map(add, [1, 2, 3], new Set([10, 20]));
  assert.deepEqual(await Array.fromAsync(sums), [11, 22]);
  async function* items() {
    yield* ["a", "b", "c"];
  }
  const three = map((a: number, b: string, c: boolean) => [a, b, c], [1, 2], "ab", [true, false]);
  assert.deepEqual(await Array.fromAsync(three), [[1, "a", true], [2, "b", false]]);
  const repeated = map((text: string, count: number) => text.repeat(count), items(), [1, 2, 3], {
    processes: 1,
  });
  assert.deepEqual(await Array.fromAsync(repeated), ["a", "bb", "ccc"]);
});

test("map() ends at the end of a source, and throws what it throws, though a later one has nothing", async () => {
  async function* silent() {
    await new Promise(() => {});
    yield 0;
  }
  async function* items() {
    yield 1;
    throw new RangeError("out of items");
  }
  async function* numbers() {
    yield 0;
    yield* silent();
  }
  assert.deepEqual(await Array.fromAsync(map(add, [], silent())), []);
  await assert.rejects(Array.fromAsync(map(add, items(), numbers())), /out of items/);
});

test("map() with no processes calls the function in this one", async () => {
  const seen: number[] = [];
  let most = 0;
  let running = 0;
  const wait = async (x: number) => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setTimeout(resolve, 5));
    running--;
    seen.push(x);
    return { x, symbol: Symbol.for("not storable") };
  };
  const results = await Array.fromAsync(
    map(wait, [3, 2, 1, 0], { processes: 0, concurrency: 2 }),
  );
  assert.deepEqual(results.map(({ x }) => x), [3, 2, 1, 0]);
  assert.equal(results[0].symbol, Symbol.for("not storable"));
  assert.equal(seen.length, 4);
  assert.equal(most, 2);
});

test("map() rejects if a call ends its process, and if its source throws", async () => {
  await assert.rejects(
    Array.fromAsync(map((x: number) => process.exit(x), [3])),
    /exited with code 3/,
  );
  function* broken() {
    yield 1;
    throw new Error("no more items");
  }
  const taken: number[] = [];
  const consume = async () => {
    for await (const x of map(Math.sqrt, broken())) taken.push(x);
  };
  await assert.rejects(consume, /no more items/);
  assert.deepEqual(taken, [1]);
});

test("map() refuses an item that cannot be stored", async () => {
  const items = [{ deep: Symbol("s") }];
  await assert.rejects(Array.fromAsync(map(identity, items)), {
    name: "TypeError",
    message: /item.*deep` is a symbol and cannot be stored/,
  });
});

test("map() refuses what is neither a source nor options", () => {
  const call = (a: number, b: number) => a + b;
  for (const wrong of [7, Promise.resolve([1])]) {
    // @ts-expect-error: this is no source
    assert.throws(() => map(call, [1, 2], wrong), /TypeError: Expected a function, items, and/);
    // @ts-expect-error: nor is it here
    assert.throws(() => map(call, wrong, [1, 2]), /TypeError: Expected a function, items, and/);
  }
});

test("map() leaves no process behind after an error or a break", async () => {
  using folder = temporary();
  const files = [folder.file("pid"), folder.file("other")];
  const call = async (module: string, file: string) =>
    file.endsWith("pid") ? await (await import(module)).hang(file) : file;
  const results = map(call, Array(2).fill(fixtures), files, { processes: 2, ordered: false });
  for await (const _ of results) {
    await until(() => folder.read("pid") !== "");
    break;
  }
  await until(() => !isRunning(folder.read("pid")));
});

test("map() carries every value that a task file can hold", async () => {
  const values = Object.values(storable);
  assert.deepEqual(await Array.fromAsync(map(identity, values)), values);
});

test("map() of a map runs two stages, and three", async () => {
  const doubled = map((x: number) => x * 2, [1, 2, 3], { processes: 1 });
  const rooted = map(Math.sqrt, doubled, { processes: 1 });
  const texts = map((x: number) => x.toFixed(2), rooted, { processes: 1 });
  assert.deepEqual(await Array.fromAsync(texts), ["1.41", "2.00", "2.45"]);
});

test("map() of a map rejects with the error of an earlier stage", async () => {
  const first = map(
    (x: number) => {
      if (x === 2) throw new RangeError("in the first stage");
      return x;
    },
    [1, 2, 3],
    { processes: 1 },
  );
  await assert.rejects(Array.fromAsync(map(Math.sqrt, first, { processes: 1 })), {
    name: "RangeError",
    message: "in the first stage",
  });
});

test("map() holds as many calls in one process as `concurrency` says", async () => {
  using folder = temporary();
  mkdirSync(folder.file("meeting"));
  const folders = Array(6).fill(folder.file("meeting"));
  const options = { processes: 1, concurrency: 6 };
  const pids = await Array.fromAsync(map(fixture.meet, folders, Array(6).fill(6), options));
  assert.equal(new Set(pids).size, 1);
});

test("map() shares out the last calls of an array, which may be slow", async () => {
  using folder = temporary();
  mkdirSync(folder.file("meeting"));
  const calls = new Map<string, number>();
  const folders = [...Array(4000).fill(""), ...Array(20).fill(folder.file("meeting"))];
  const slowOnes = map(fixture.sleepWithOthers, folders, Array(4020).fill(2), { processes: 2 });
  for await (const pid of slowOnes) calls.set(pid, (calls.get(pid) ?? 0) + 1);
  calls.delete("");
  assert.ok(Math.min(...calls.values()) > 5 && calls.size === 2, `${[...calls.values()]}`);
});

test("map() with 0 processes needs no other, and calls as a run would", async () => {
  const dates = await Array.fromAsync(map(Date as never, [0], { processes: 0 }));
  assert.deepEqual(dates, [new Date(0)]);
  const values = await Array.fromAsync(map(Promise.resolve as never, [5], { processes: 0 }));
  assert.deepEqual(values, [5]);
});

test("map() refuses the options that only a run has", () => {
  for (const name of ["autokill", "retries", "signal", "tasksPerProcess", "procs"]) {
    const options = { [name]: 1 } as never;
    assert.throws(() => map((x: number) => x, [1], options), new RegExp(`no option \`${name}\``));
  }
  map((x: number) => x, [1], { autokill: undefined } as never);
});

test("map() does not wait for a result that something else has printed into", () => {
  using folder = temporary();
  const [program, args, options] = writeProgram(
    folder,
    `import { returnAmidNoise } from "${fixtures}";
     const lengths = Array.from({ length: 12 }, () => 200_000);
     try {
       for await (const text of map(returnAmidNoise, lengths, { processes: 2 })) {
         if (text.length !== 200_000) console.error(text.length);
       }
     } catch (error) {
       console.error((error as Error).message);
     }`,
  );
  const shell = ["-c", `exec "$0" "$@" > /dev/null`, program, ...args];
  const { status, stderr } = spawnSync("sh", shell, {
    ...options,
    encoding: "utf8",
    timeout: 30_000,
  });
  assert.equal(status, 0, "it waits");
  assert.match(stderr, /^(What this call gave was lost.*\n)?$/);
});

test("map() that a signal stops does not end as if all were done", () => {
  using folder = temporary();
  const { code, stdout, stderr } = runProgram(
    folder,
    `process.on("SIGINT", () => {});
     const wait = async (x: number) => {
       await new Promise((resolve) => setTimeout(resolve, 50));
       return x;
     };
     const results: number[] = [];
     try {
       for await (const x of map(wait, Array.from({ length: 100 }, (_, i) => i), { processes: 1 })) {
         if (results.push(x) === 3) process.kill(process.pid, "SIGINT");
       }
     } catch (error) {
       console.log((error as Error).message);
     }
     console.log(results.length < 100);`,
  );
  assert.deepEqual([code, stdout, stderr], [
    0,
    "Stopped by a signal, with items left to do\ntrue\n",
    "",
  ]);
});

test("map() takes items and results of many megabytes, in linear time", async () => {
  const text = "x".repeat(20e6); // which took a minute when each part was searched with all before it
  assert.deepEqual(await Array.fromAsync(map(identity<string>, [text], { processes: 1 })), [text]);
});

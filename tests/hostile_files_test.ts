/** Files by others, damaged, unreadable, or with odd names. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import {
  assertAllDone,
  assertLegal,
  base,
  check,
  idsIn,
  log,
  namesIn,
  newDirectory,
  newList,
  randomNumbers,
  runList,
  seed,
  startHost,
  states,
  steps,
  stored,
} from "./crash.ts";
import { defer, TaskList } from "./library.ts";

interface BadFile {
  is: string;
  bytes: string | Uint8Array;
  /** What its error says of the place. */
  error: RegExp;
}

const add = (...args: unknown[]) => ({ call: "Math.max", args });

const badFiles: BadFile[] = [
  { is: "empty", bytes: "", error: /Cannot read the task `empty\.json`/ },
  { is: "blank", bytes: "\n \n", error: /Cannot read the task/ },
  { is: "cut off", bytes: steps(add(1, 2)).slice(0, -9), error: /Cannot read the task/ },
  { is: "not JSON", bytes: "import os\nprint('hello')\n", error: /Cannot read the task/ },
  { is: "binary", bytes: new Uint8Array(5000).map((_, i) => i * 7), error: /Cannot read the task/ },
  { is: "zeros", bytes: new Uint8Array(5000), error: /Cannot read the task/ },
  { is: "100 MB", bytes: new Uint8Array(100 * 2 ** 20).fill(120), error: /Cannot read the task/ },
  { is: "a number", bytes: "42", error: /`steps` must be/ },
  { is: "null", bytes: "null", error: /`steps` must be/ },
  { is: "a text", bytes: `"steps"`, error: /`steps` must be/ },
  { is: "an array", bytes: "[1, 2]", error: /`steps` must be/ },
  { is: "without steps", bytes: "{}", error: /`steps` must be/ },
  { is: "of other things", bytes: `{"name": "x", "version": 1}`, error: /`steps` must be/ },
  { is: "steps of no array", bytes: `{"steps": {"call": "Math.max"}}`, error: /`steps` must be/ },
  { is: "no steps", bytes: steps(), error: /`steps` must be/ },
  { is: "a null step", bytes: steps(null), error: /`steps\[0\]` must be/ },
  { is: "an empty step", bytes: steps({ value: 1 }, {}), error: /`steps\[1\]` must be/ },
  { is: "args of no array", bytes: steps({ call: "Math.max", args: 1 }), error: /`steps\[0\]`/ },
  { is: "a call of a number", bytes: steps({ call: 5, args: [] }), error: /`call`/ },
  { is: "a call of null", bytes: steps({ call: null, args: [] }), error: /`call`/ },
  { is: "a call of nothing", bytes: steps({ call: "Math.nothing" }), error: /Math\.nothing/ },
  { is: "a call of __proto__", bytes: steps({ call: "__proto__.toString" }), error: /__proto__/ },
  { is: "a missing module", bytes: steps({ call: "./gone.ts#f" }), error: /gone\.ts/ },
  { is: "a forward step", bytes: steps(add({ $step: 1 }), add(1)), error: /\$step`: 1/ },
  { is: "a step to itself", bytes: steps(add({ $step: 0 })), error: /\$step`: 0/ },
  { is: "a step beyond", bytes: steps(add(1), add({ $step: 99 })), error: /\$step`: 99/ },
  { is: "a negative step", bytes: steps(add(1), add({ $step: -1 })), error: /\$step`: -1/ },
  { is: "half a step", bytes: steps(add(1), add({ $step: 0.5 })), error: /\$step`: 0\.5/ },
  { is: "a named step", bytes: steps(add(1), add({ $step: "length" })), error: /\$step`.*length/ },
  {
    is: "a path to __proto__",
    bytes: steps(add(1), { value: { $step: 0, path: ["__proto__"] } }),
    error: /`path`.*`__proto__`/,
  },
  {
    is: "a path to constructor",
    bytes: steps(add(1), { call: { $step: 0, path: ["constructor", "constructor"] }, args: ["1"] }),
    error: /`path`.*`constructor`/,
  },
  {
    is: "a path that is none",
    bytes: steps(add(1), { value: { $step: 0, path: 7 } }),
    error: /path/,
  },
  { is: "a call of an object", bytes: steps({ call: { toString: 1 } }), error: /`call`/ },
  { is: "a function of an object", bytes: steps(add({ $function: { toString: 1 } })), error: /./ },
  { is: "a module of no path", bytes: steps({ call: "file:///a\0/b.ts#f" }), error: /./ },
  { is: "a long module", bytes: steps({ call: `file:///${"a".repeat(2e5)}/b.ts#f` }), error: /./ },
  {
    is: "counters that count nothing",
    bytes: `{"steps": [{"call": "Math.nothing"}], "metadata": 7, "attempts": {"toString": 1}}`,
    error: /Math\.nothing/,
  },
  { is: "an unknown key", bytes: steps({ value: { $nothing: 1 } }), error: /\$nothing/ },
  {
    is: "nested deeply",
    bytes: `{"steps":[{"value":${"[".repeat(1e5)}${"]".repeat(1e5)}}]}`,
    error: /./,
  },
];

/** What was in `todo` is still there: as it was in a file beside, or in the task that has an error. */
function assertBytesKept(directory: string, id: string, bytes: string | Uint8Array): void {
  const original = path.join(directory, "fail", `${id}.json.original`);
  if (fs.existsSync(original)) {
    assert.ok(Buffer.from(bytes as string).equals(fs.readFileSync(original)), `${id} has changed`);
    return;
  }
  const before = JSON.parse(Buffer.from(bytes as string).toString());
  const state = fs.existsSync(`${directory}/done/${id}.json`) ? "done" : "fail";
  const after = stored(directory, state, id);
  const own = ["attempts", "started", "runtime", "errorValue", "returnValue"];
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const [was, is] = [before, after].map((task) => JSON.stringify(task[key]));
    if (!own.includes(key)) assert.ok(was === is, `\`${key}\` of ${id} has changed`);
  }
}

check(
  "a bad file in `todo` fails with an error that names the place, is kept, and stops nothing",
  false,
  async () => {
    const directory = await newList({ "!first": "whereAmI", "~last": "whereAmI" });
    for (const { is, bytes } of badFiles) fs.writeFileSync(`${directory}/todo/${is}.json`, bytes);
    fs.mkdirSync(`${directory}/todo/folder.json`);
    fs.writeFileSync(`${directory}/todo/folder.json/inside`, "kept");
    fs.symlinkSync("/nowhere/at/all", `${directory}/todo/dangling.json`);
    fs.symlinkSync("loop.json", `${directory}/todo/loop.json`);
    const bad = [...badFiles.map(({ is }) => is), "folder", "dangling", "loop"];
    const seen = await runList(directory);
    const errors = new Map(seen.map(({ id, error }) => [id, error]));
    assertLegal(directory);
    assert.deepEqual(idsIn(directory, "done"), ["!first", "~last"]);
    assert.deepEqual(idsIn(directory, "fail"), bad.sort());
    for (const { is, bytes, error } of badFiles) {
      assert.match(errors.get(is) ?? "", error, is);
      assertBytesKept(directory, is, bytes);
    }
    for (const id of ["folder", "dangling", "loop"]) {
      assert.match(
        errors.get(id) ?? "",
        /directory|No such|ENOENT|EISDIR|ELOOP|symbolic|os error/,
        id,
      );
    }
    assert.equal(fs.readFileSync(`${directory}/fail/folder.json.original/inside`, "utf8"), "kept");
    assert.equal(fs.readlinkSync(`${directory}/fail/dangling.json.original`), "/nowhere/at/all");
    fs.rmSync(directory, { recursive: true });
  },
);

const oddNames = [
  "with spaces  and\ttabs",
  "with 'single' and \"double\" quotes",
  "with\nnewlines\n",
  "100%",
  "%2e%2e%2f",
  "#fragment",
  "what?",
  "Ünïcödé-文字-🏃",
  "e\u0301 decomposed",
  "$(touch x)`touch x`;&|<>*",
  "back\\slash",
  "-rf",
  "x.json",
  "x.json@y",
  "x.json@vm.1.1.1~done",
  "x.json@vm.1.1.1+",
  "\x1e",
  "\x01\x7f",
  "a\ufffdb",
  "a".repeat(150),
];

for (const kept of [false, true]) {
  check(
    `a task is run whatever its file is called (${kept ? "kept" : "fresh"} runners)`,
    false,
    async () => {
      const directory = await newList({ x: "whereAmI" });
      const task = (name: string) => steps({ value: name });
      for (const name of oddNames) fs.writeFileSync(`${directory}/todo/${name}.json`, task(name));
      const left = ["no-json", ".hidden.json", ".json", "x.json~", "x.txt"];
      for (const name of left) fs.writeFileSync(`${directory}/todo/${name}`, task(name));
      const seen = await startHost("run", directory, {
        processes: 2,
        tasksPerProcess: kept ? 100 : 1,
      })
        .finished();
      assert.deepEqual(namesIn(directory, "todo"), left.sort());
      for (const name of left) fs.rmSync(`${directory}/todo/${name}`);
      assertAllDone(directory, [...oddNames, "x"]);
      for (const name of oddNames) {
        assert.equal(stored(directory, "done", name).returnValue, name);
        assert.equal(seen.find(({ id }) => id === name)?.value, name);
      }
    },
  );
}

check(
  "a task whose name is too long to be claimed or filed is left alone and reported, or run",
  false,
  async () => {
    const directory = await newList({ x: "whereAmI" });
    const names = Array.from({ length: 101 }, (_, index) => "n".repeat(150 + index));
    for (const name of names) {
      fs.writeFileSync(`${directory}/todo/${name}.json`, steps({ value: 1 }));
    }
    const host = startHost("run", directory, { processes: 1, tasksPerProcess: 1000 });
    assert.equal((await host.ended).code, 1);
    assertLegal(directory);
    const [todo, done] = [idsIn(directory, "todo"), idsIn(directory, "done")];
    assert.deepEqual([...done, ...todo].sort(), [...names, "x"].sort());
    assert.deepEqual(idsIn(directory, "fail"), []);
    assert.ok(done.length > 10 && todo.length > 10);
    const { failed } = host.seen().at(-1)!;
    assert.match(
      failed!,
      /Cannot run \d+ of the files in `todo`, such as .*too long.*: rename them/,
    );
    assert.match(failed!, new RegExp(` ${todo.length} of the files`));
    assert.ok(failed!.includes(`"${todo[0]}.json"`));
  },
);

const asOther = (() => {
  const drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
  if (process.getuid?.() !== 0) return [];
  const secret = path.join(base, "secret");
  fs.writeFileSync(secret, "");
  fs.chmodSync(secret, 0);
  return spawnSync(drop[0], [...drop.slice(1), "cat", secret]).status === 1 ? drop : undefined;
})();

check(
  "a file that may not be read fails with an error that says so",
  !asOther && "root reads everything here",
  async () => {
    const directory = await newList({ x: "whereAmI", y: "whereAmI" });
    fs.chmodSync(`${directory}/todo/x.json`, 0);
    const options = { processes: 1, tasksPerProcess: 10 };
    const seen = await startHost("run", directory, options, { before: asOther }).finished();
    assert.match(seen.find(({ id }) => id === "x")!.error!, /denied|EACCES/i);
    assert.deepEqual(idsIn(directory, "done"), ["y"]);
    assert.deepEqual(namesIn(directory, "fail"), ["x.json", "x.json.original"]);
    assertLegal(directory);
  },
);

check(
  "a list that may not be written to is refused with a clear error, and is unchanged",
  !asOther && "root writes everywhere here",
  async () => {
    const directory = await newList({ x: "whereAmI" });
    const folders = [...states.map((state) => path.join(directory, state)), directory];
    for (const folder of folders) fs.chmodSync(folder, 0o555);
    const host = startHost("run", directory, {}, { before: asOther });
    await host.ended;
    assert.match(host.seen().at(-1)?.failed ?? "", /denied|EACCES/i);
    for (const folder of folders) fs.chmodSync(folder, 0o755);
    assert.deepEqual(idsIn(directory, "todo"), ["x"]);
    await runList(directory);
    assertAllDone(directory, ["x"]);
  },
);

/** A text that was a task, damaged in a few places. */
function damage(random: () => number): Uint8Array {
  const below = (limit: number) => Math.floor(random() * limit);
  const junk = [
    "{}",
    "[]",
    "null",
    "-1",
    "1e999",
    '"x"',
    '{"$step":0}',
    '{"$step":-1,"path":["x"]}',
  ]
    .concat('{"$step":0,"path":["__proto__"]}', '{"$date":[]}', '{"$map":1}', '{"$bytes":"*"}')
    .concat('{"$error":null}', '{"$regexp":"("}', '{"$bigint":"x"}', '{"$object":1}')
    .concat('{"$function":1}', '{"__proto__":1}', '{"$function":{"source":"("}}', '{"$step":{}}');
  let text = steps(
    add(3, 1),
    { value: { list: [1, "two", null], more: { $date: "2020-01-01T00:00:00.000Z" } } },
    { call: { $step: 1, path: ["list", "slice"] }, args: [{ $step: 0 }] },
    { call: "JSON.stringify", args: [{ $step: 2 }, { $undefined: true }, 2] },
  );
  text = text.replace(/}$/, `,"metadata":{"item":7},"attempts":1}`);
  for (let times = 1 + below(3); times > 0; times--) {
    const [from, to] = [below(text.length), below(text.length)].sort((a, b) => a - b);
    const change = [
      () => text.slice(0, from), // cut off
      () => text.slice(0, from) + text.slice(to), // with a hole
      () => text.slice(0, to) + text.slice(from), // twice
      () => text.replace(/\d+/, () => `${below(100) - 50}`),
      () => text.slice(0, from) + junk[below(junk.length)] + text.slice(from),
      () =>
        text.replaceAll(
          /\d+|null|"\w+"(?!:)/g,
          (old) => random() < 0.2 ? junk[below(junk.length)] : old,
        ),
      () => text.replaceAll(/"\w+":/g, (old) => random() < 0.1 ? '"__proto__":' : old),
    ];
    text = change[below(change.length)]();
  }
  const bytes = new TextEncoder().encode(text);
  if (random() < 0.3) {
    for (let times = below(9); times > 0; times--) bytes[below(bytes.length)] = below(256);
  }
  return bytes;
}

check(
  "a thousand damaged files end in `done` or `fail` with what they were, and stop nothing",
  false,
  async () => {
    const random = randomNumbers(seed);
    const directory = await newList({ "!first": "whereAmI", "~last": "whereAmI" });
    const files = new Map(
      Array.from({ length: 1000 }, (_, index) => [`bad-${index}`, damage(random)]),
    );
    for (const [id, bytes] of files) fs.writeFileSync(`${directory}/todo/${id}.json`, bytes);
    const seen = await runList(directory, { tasksPerProcess: 10_000 });
    const context = `FORREST_CRASH_SEED=${seed}`;
    assertLegal(directory, "at rest", context);
    const ids = [...idsIn(directory, "done"), ...idsIn(directory, "fail")].sort();
    assert.deepEqual(ids, [...files.keys(), "!first", "~last"].sort(), context);
    assert.ok(idsIn(directory, "fail").length > 500, context);
    assert.deepEqual(seen.flatMap(({ id }) => id ?? []).sort(), ids, context);
    for (const [id, bytes] of files) assertBytesKept(directory, id, bytes);
  },
);

check("an id that is no plain file name is refused, and writes nothing", false, async () => {
  const directory = newDirectory();
  const tasks = new TaskList(directory);
  const ids = [
    "../x",
    "..",
    ".",
    "",
    "/etc/x",
    `${base}/x`,
    "a/b",
    "a/../../x",
    "..\\x",
    "C:\\x",
    "x\0y",
  ]
    .concat("./x", "x/", ".x", "x.json@vm.1.1.1", "n".repeat(151));
  for (const id of ids) {
    await assert.rejects(
      tasks.schedule(defer(Math.sqrt, 1), { id }),
      (error: Error) => error instanceof TypeError && error.message.includes("as an id"),
      JSON.stringify(id),
    );
  }
  assert.deepEqual(tasks.count(), { todo: 0, running: 0, done: 0, fail: 0 });
  assert.ok(!fs.existsSync(path.join(base, "x.json")));
});

for (const [umask, folder, file] of [["077", 0o700, 0o600], ["027", 0o750, 0o640]] as const) {
  check(`files and directories are as the umask ${umask} says`, false, async () => {
    const directory = newDirectory();
    const logFile = `${directory}.log`;
    const before = ["sh", "-c", `umask ${umask}; exec "$@"`, "sh"];
    await startHost("schedule", directory, { ids: ["a", "b"], log }, { before }).finished();
    fs.writeFileSync(`${directory}/todo/bad.json`, "?");
    fs.chmodSync(`${directory}/todo/bad.json`, file);
    const modes = () =>
      fs.readdirSync(directory, { recursive: true, withFileTypes: true }).map((entry) => {
        const mode = fs.statSync(path.join(entry.parentPath, entry.name)).mode & 0o777;
        return [entry.name, mode, entry.isDirectory() ? folder : file];
      });
    for (const [name, mode, wanted] of modes()) assert.equal(mode, wanted, `${name}`);
    await startHost("run", directory, { processes: 1, logFile }, { before }).finished();
    for (const [name, mode, wanted] of modes()) assert.equal(mode, wanted, `${name}`);
    assert.equal(fs.statSync(directory).mode & 0o777, folder);
    assert.equal(fs.statSync(logFile).mode & 0o777, file);
    assert.equal(modes().length, 4 + 4);
  });
}

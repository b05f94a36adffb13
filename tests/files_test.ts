/** The files of a list as kills leave them between any two steps, and what becomes of them. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import process from "node:process";
import * as files from "../files.ts";
import type { Outcome, State } from "../files.ts";
import { type Folder, runProgram, temporary, test, writeProgram } from "./helpers.ts";

const task = `{\n  "steps": [\n    {"value":1}\n  ]\n}\n`;
const failedTask = task.replace(/\n}\n$/, `,\n  "errorValue": "before"\n}\n`);
const texts = {
  done: files.withResult(task, { returnValue: 1 }),
  fail: files.withResult(task, { errorValue: "no" }),
  todo: files.withResult(task, { retried: 1, errorValue: "no" }, false),
};

/** An owner on this host who has long died. */
function deadOwner(): string {
  const [host, , , number] = files.newOwner().split(".");
  return `${host}.1.long-ago.${number}`;
}

const away = () => `elsewhere.1.start.${files.newId()}`;

/** A list in a folder, with the files that are given. */
function listIn(folder: Folder, contents: Record<string, string> = {}): string {
  const directory = folder.file("list");
  files.makeFolders(directory);
  for (const [name, text] of Object.entries(contents)) {
    writeFileSync(`${directory}/${name}`, text);
  }
  return directory;
}

/** All files of a list. */
function contentsOf(directory: string): string[] {
  const names = files.states.flatMap((state) =>
    readdirSync(`${directory}/${state}`).map((name) => `${state}/${name}`)
  );
  return names.sort();
}

const textOf = (directory: string, name: string) => readFileSync(`${directory}/${name}`, "utf8");

/** Has a new owner take over what the dead have left, and put that back. */
function recover(directory: string): number {
  const { claims } = files.takeOver(directory, files.newOwner(), () => {});
  for (const claim of claims) files.putBack(claim);
  return claims.length;
}

function outcome(claim: string, state: keyof typeof texts, text = task): Outcome {
  return { claim, task: text, state, text: texts[state], retried: 1 };
}

/** The files of a task at each point where its run may be killed, and what is left of it then. */
const [claim, aside] = ["running/a.json@O", "running/a.json@O+"];
const crashes: [string, Record<string, string>, string[]][] = [
  ["being scheduled", { [aside]: "{" }, []],
  ["being scheduled under an id", { [aside]: task, "todo/a.json": task }, ["todo/a.json"]],
  ["being scheduled again", { [claim]: failedTask, [aside]: task }, ["todo/a.json"]],
  ["claimed", { [claim]: task }, ["todo/a.json"]],
  ["claimed although done", { [claim]: task, "done/a.json": texts.done }, ["done/a.json"]],
  ["being written", { [claim]: task, [aside]: "{" }, ["todo/a.json"]],
  ...(["done", "fail", "todo"] as const).flatMap((state): typeof crashes => {
    const seal = { [`${claim}~${state}`]: task };
    const place = `${state}/a.json`;
    return [
      [`sealed as ${state}`, { ...seal, [aside]: texts[state] }, [place]],
      [`placed in ${state}`, { ...seal, [place]: texts[state] }, [place]],
    ];
  }),
  [
    "sealed as what was no task",
    { [`${claim}~fail`]: "?", [aside]: texts.fail },
    ["fail/a.json", "fail/a.json.original"],
  ],
  [
    "sealed as done, and copied from `fail`,",
    { [`${claim}~done`]: failedTask, [aside]: texts.done, "fail/a.json": "{}" },
    ["done/a.json"],
  ],
  [
    "placed in `todo`, and finished by another run,",
    { [`${claim}~todo`]: task, "done/a.json": texts.done },
    ["done/a.json"],
  ],
];

for (const [where, contents, expected] of crashes) {
  test(`a task that was ${where} when its run died is in one state after the next`, () => {
    using folder = temporary();
    const owner = deadOwner();
    const named = Object.entries(contents).map(([name, text]) => [
      name.replace("@O", `@${owner}`),
      text,
    ]);
    const directory = listIn(folder, Object.fromEntries(named));
    recover(directory);
    assert.deepEqual(contentsOf(directory), expected);
    const [name] = expected;
    const state = name?.split("/")[0] as keyof typeof texts | undefined;
    if (state && Object.keys(contents).some((name) => name.endsWith(`~${state}`))) {
      assert.equal(textOf(directory, name!), texts[state]);
    }
    recover(directory);
    assert.deepEqual(contentsOf(directory), expected);
  });
}

const file = (outcomes: files.Outcome[]) => Promise.all(outcomes.map(files.file));

const add = (directory: string, task: files.Addition, mayReplace = false) =>
  files.adderTo(directory, mayReplace)(task);

test("what a dead owner had in flight is taken over by one of two, also if that one dies", () => {
  using folder = temporary();
  const claim = `running/a.json@${deadOwner()}`;
  const directory = listIn(folder, { [claim]: task, [`${claim}+`]: "{" });
  const second = deadOwner();
  const makers: string[] = [];
  const { claims } = files.takeOver(directory, second, (maker) => makers.push(maker));
  assert.deepEqual(claims, [`${directory}/running/a.json@${second}`]);
  assert.equal(makers.length, 1);
  const third = deadOwner().replace(".1.", ".2.");
  assert.equal(files.takeOver(directory, third, () => {}).claims.length, 1);
  assert.equal(recover(directory), 1);
  assert.deepEqual(contentsOf(directory), ["todo/a.json"]);
});

test("what a dead owner had in flight is taken over whatever it is called", () => {
  using folder = temporary();
  const names = ["\n", "x\n", " ", "x.json@y"];
  const claims = names.map((name) => [`running/${name}.json@${deadOwner()}`, task]);
  const directory = listIn(folder, Object.fromEntries(claims));
  assert.equal(recover(directory), names.length);
  assert.deepEqual(contentsOf(directory), names.map((name) => `todo/${name}.json`).sort());
});

test("a host with a long name has room for the longest ids", () => {
  using folder = temporary();
  const { stdout, stderr } = runProgram(
    folder,
    `const os = process.getBuiltinModule("node:os");
     os.hostname = () => "h".repeat(64);
     const tasks = new TaskList("list");
     await tasks.schedule(defer(Math.sqrt, 16), { id: "i".repeat(150) });
     for await (const { returnValue } of tasks.run()) console.log(returnValue);`,
  );
  assert.deepEqual([stdout, stderr], ["4\n", ""]);
});

test("what lives, or may live, is left to its owner, and so is what is none of ours", () => {
  using folder = temporary();
  const names = [
    `a.json@${files.newOwner()}`,
    `b.json@${away()}`,
    `c.json@${away()}+`,
    "d.json",
    "e.json@someone",
  ];
  const directory = listIn(
    folder,
    Object.fromEntries(names.map((name) => [`running/${name}`, task])),
  );
  const before = contentsOf(directory);
  const makers: string[] = [];
  const bury = (maker: string) => makers.push(maker);
  const { claims, isUnsure } = files.takeOver(directory, files.newOwner(), bury);
  assert.deepEqual([claims, makers, isUnsure], [[], [], true]);
  assert.deepEqual(contentsOf(directory), before);
});

for (const state of ["done", "fail", "todo"] as const) {
  test(`a run that is stopped at any moment of filing leaves one outcome (${state})`, async () => {
    // what has been awaited when it is stopped: the writes, or the folder as well
    for (const turns of [0, 1, 2, 4, 8, 1000]) {
      using folder = temporary();
      const claims = ["a", "b"].map((id) => `running/${id}.json@${files.newOwner()}`);
      const directory = listIn(folder, Object.fromEntries(claims.map((claim) => [claim, task])));
      const outcomes = claims.map((claim) => outcome(`${directory}/${claim}`, state));
      let isFiled = false;
      const filed = file(outcomes).then(() => isFiled = true);
      for (let turn = 0; turn < turns && !isFiled; turn++) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      for (const { claim } of outcomes) files.putBack(claim);
      const before = contentsOf(directory);
      await filed;
      assert.deepEqual(contentsOf(directory), before.filter((name) => !name.endsWith("+")));
      for (const [index, id] of ["a", "b"].entries()) {
        const found = files.find(directory, id);
        assert.equal(found.length, 1);
        assert.equal(files.locate(found[0]!).state, outcomes[index]!.state);
        const text = readFileSync(found[0]!, "utf8");
        assert.ok(text === texts[state] || found[0]!.includes("/todo/") && text === task);
      }
    }
  });
}

// a process of another user; root without its capabilities may not look at that
const hide = `mount -t proc -o hidepid=2 proc /proc || exit
  setpriv --reuid=65534 --regid=65534 --clear-groups sleep 60 &
  while [ "$(stat -c %u /proc/$!)" = 0 ]; do sleep 0.01; done
  exec setpriv --regid=1 --clear-groups --bounding-set=-all "$0" "$@" $!`;
const inHiding = ["--fork", "--pid", "--mount", "--kill-child", "sh", "-c", hide];
const noHiding = spawnSync("unshare", [...inHiding, "true"]).status !== 0 &&
  "this user may not make namespaces, or there is no `setpriv`";

test(
  "a run of another user is not taken for dead where the system hides it",
  { skip: noHiding },
  () => {
    using folder = temporary();
    const [program, args, options] = writeProgram(
      folder,
      `import { isAlive, newOwner } from "${new URL("../files.ts", import.meta.url)}";
     const [host] = newOwner().split(".");
     for (const pid of [process.argv.at(-1), 99999]) {
       console.log(isAlive(\`list/running/a.json@\${host}.\${pid}.start.1\`));
     }`,
    );
    const words = [...inHiding, program, ...args];
    const { stdout, stderr } = spawnSync("unshare", words, { ...options, encoding: "utf8" });
    assert.deepEqual([stdout, stderr], ["undefined\nfalse\n", ""]);
  },
);

test("a run that is stopped when its outcome is sealed puts that in its place", () => {
  using folder = temporary();
  const claim = `running/a.json@${files.newOwner()}`;
  const contents = { [`${claim}~done`]: task, [`${claim}+`]: texts.done };
  const directory = listIn(folder, contents);
  assert.deepEqual(files.find(directory, "a").map((path) => files.locate(path).state), ["running"]);
  files.putBack(`${directory}/${claim}`);
  assert.deepEqual(contentsOf(directory), ["done/a.json"]);
});

test("an outcome that comes after another run has taken over the task is discarded", async () => {
  const places: Record<string, (directory: string, claim: string) => void> = {
    running: (_, claim) => renameSync(claim, claim.replace(/@.*/, `@${away()}`)),
    todo: (directory, claim) => renameSync(claim, `${directory}/todo/a.json`),
    done: (directory, claim) => {
      unlinkSync(claim);
      writeFileSync(`${directory}/done/a.json`, "first");
    },
    fail: (directory, claim) => {
      unlinkSync(claim);
      writeFileSync(`${directory}/fail/a.json`, "first");
    },
  };
  for (const [state, overtake] of Object.entries(places)) {
    using folder = temporary();
    const name = `running/a.json@${files.newOwner()}`;
    const directory = listIn(folder, { [name]: task });
    const late = outcome(`${directory}/${name}`, "done");
    const filed = file([late]);
    overtake(directory, late.claim);
    await filed;
    assert.equal(late.state, state);
    const [path, ...others] = contentsOf(directory);
    assert.deepEqual([path!.split("/")[0], others], [state, []]);
    assert.notEqual(textOf(directory, path!), texts.done);
  }
});

test("the outcome of an owner that only seemed dead to another host is discarded", async () => {
  using folder = temporary();
  process.env.FORREST_LEASE = "0.01";
  const name = `running/a.json@${away()}`;
  const directory = listIn(folder, { [name]: task });
  const late = outcome(`${directory}/${name}`, "done");
  const claimed: string[] = [];
  for (const isRefreshed of [false, true, false]) {
    assert.equal(claimed.length, 0);
    if (isRefreshed) files.refresh([late.claim]);
    claimed.push(...files.takeOver(directory, files.newOwner(), () => {}).claims);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  delete process.env.FORREST_LEASE;
  await file([late]);
  assert.equal(late.state, "running");
  assert.deepEqual(contentsOf(directory).map((name) => `${directory}/${name}`), claimed);
});

test("an outcome is filed also if its task has removed its own file", async () => {
  using folder = temporary();
  const directory = listIn(folder);
  await file([outcome(`${directory}/running/a.json@${files.newOwner()}`, "done")]);
  assert.deepEqual(contentsOf(directory), ["done/a.json"]);
});

test("outcomes that can be written are filed, although another one cannot", async () => {
  using folder = temporary();
  const claims = ["a", "b"].map((id) => `running/${id}.json@${files.newOwner()}`);
  const directory = listIn(folder, Object.fromEntries(claims.map((claim) => [claim, task])));
  mkdirSync(`${directory}/${claims[0]}+`);
  const outcomes = claims.map((claim) => outcome(`${directory}/${claim}`, "done"));
  const filed = await Promise.allSettled(outcomes.map(files.file));
  assert.deepEqual(filed.map(({ status }) => status), ["rejected", "fulfilled"]);
  assert.deepEqual(contentsOf(directory).slice(0, 1), ["done/b.json"]);
  assert.ok(existsSync(outcomes[0]!.claim));
});

test("what is no file, or cannot be read, fails and is kept beside its error", async () => {
  using folder = temporary();
  const directory = listIn(folder);
  mkdirSync(`${directory}/todo/folder.json`);
  symlinkSync("/nowhere", `${directory}/todo/dangling.json`);
  for (const isKilled of [false, true]) {
    for (const id of ["folder", "dangling"]) {
      const owner = isKilled ? deadOwner() : files.newOwner();
      const claim = files.claim(directory, id, owner)!;
      if (isKilled) {
        renameSync(claim, `${claim}~fail`);
        writeFileSync(`${claim}+`, texts.fail);
        recover(directory);
      } else await file([outcome(claim, "fail", "")]);
      const kept = `fail/${id}.json`;
      const names = contentsOf(directory).filter((name) => name.includes(id));
      assert.deepEqual(names, [kept, `${kept}.original`]);
      renameSync(`${directory}/${kept}.original`, `${directory}/todo/${id}.json`);
      unlinkSync(`${directory}/${kept}`);
    }
  }
});

test("a task is retried once, if two programs retry it", () => {
  using folder = temporary();
  const directory = listIn(folder, { "fail/a.json": texts.fail, "fail/a.json.original": "?" });
  assert.deepEqual([files.retry(directory, "a"), files.retry(directory, "a")], [true, false]);
  assert.deepEqual(contentsOf(directory), ["todo/a.json"]);
  assert.equal(textOf(directory, "todo/a.json"), "?");
});

test("a task that is retried before its run has removed the seal stays in one state", async () => {
  using folder = temporary();
  const claim = `running/a.json@${deadOwner()}`;
  const directory = listIn(folder, { "fail/a.json": texts.fail, [`${claim}~fail`]: task });
  assert.ok(files.retry(directory, "a"));
  recover(directory);
  assert.deepEqual(contentsOf(directory), ["todo/a.json"]);
  const next = files.claim(directory, "a", files.newOwner())!;
  await file([outcome(next, "done", texts.fail)]);
  assert.deepEqual(contentsOf(directory), ["done/a.json"]);
});

test("an id is added once, in whichever state the list has it", async () => {
  const owner = files.newOwner();
  const places: [string, State][] = [
    ["todo/a.json", "todo"],
    [`running/a.json@${owner}`, "running"],
    ["done/a.json", "done"],
    ["fail/a.json", "fail"],
  ];
  for (const [name, state] of places) {
    using folder = temporary();
    const directory = listIn(folder, { [name]: texts.done });
    assert.equal(await add(directory, { id: "a", text: task, isNew: false }), false);
    assert.deepEqual(contentsOf(directory), [name]);
    const mayReplace = await add(directory, { id: "a", text: task, isNew: false }, true);
    assert.equal(mayReplace, state === "fail");
    assert.deepEqual(contentsOf(directory), [mayReplace ? "todo/a.json" : name]);
  }
});

test("one that has failed is replaced with what was kept beside it, and by one program", async () => {
  using folder = temporary();
  const directory = listIn(folder, { "fail/a.json": texts.fail, "fail/a.json.original": "?" });
  const addition = { id: "a", text: task, isNew: false };
  const added = [1, 2, 3].map(() => add(directory, addition, true));
  assert.equal((await Promise.all(added)).filter(Boolean).length, 1);
  assert.deepEqual(contentsOf(directory), ["todo/a.json"]);
  assert.equal(textOf(directory, "todo/a.json"), task);
});

test("an id that is claimed while it is added again is in one state", async () => {
  using folder = temporary();
  const directory = listIn(folder);
  const addition = { id: "a", text: task, isNew: false };
  const added = Array.from({ length: 20 }, () => add(directory, addition));
  const first = await Promise.race(added);
  const claim = files.claim(directory, "a", files.newOwner());
  await file([outcome(claim!, "done")]);
  const all = await Promise.all(added);
  assert.equal(all.filter(Boolean).length, 1, `the first is ${first}`);
  assert.deepEqual(contentsOf(directory), ["done/a.json"]);
});

test("a task that is claimed and put back while its id is looked for is not lost", async () => {
  using folder = temporary();
  const directory = listIn(folder);
  const fs = process.getBuiltinModule("node:fs");
  const { readdirSync } = fs;
  let looks = 0;
  // between the looks into `todo` and into `running` it is claimed, and then it is put back
  const lookAgain = (path: string) => {
    if (path !== `${directory}/running` || ++looks !== 2) return readdirSync(path);
    const claim = files.claim(directory, "a", files.newOwner())!;
    const names = readdirSync(path);
    files.putBack(claim);
    return names;
  };
  fs.readdirSync = lookAgain as typeof readdirSync;
  try {
    assert.equal(await add(directory, { id: "a", text: task, isNew: false }), true);
  } finally {
    fs.readdirSync = readdirSync;
  }
  assert.ok(looks >= 2, `${looks} looks`);
  assert.deepEqual(contentsOf(directory), ["todo/a.json"]);
});

test("of two that take out a second file of an id at once, one leaves it", async () => {
  using folder = temporary();
  const directory = listIn(folder);
  const fs = process.getBuiltinModule("node:fs");
  const { linkSync, readdirSync } = fs;
  const first = `${directory}/running/a.json@${files.newOwner()}`;
  const other = `${directory}/running/a.json@${files.newOwner()}`;
  let looks = 0;
  fs.linkSync = (from, to) => { // so late that the first look has not seen it
    writeFileSync(first, task);
    linkSync(from, to);
  };
  const look = (path: string) => {
    if (path === `${directory}/running`) looks++;
    if (looks === 3 && existsSync(first)) renameSync(first, other); // another one takes it out, too,
    if (looks === 4 && existsSync(other)) renameSync(other, `${other}+`); // and goes aside
    return readdirSync(path);
  };
  fs.readdirSync = look as typeof readdirSync;
  try {
    assert.equal(await add(directory, { id: "a", text: task, isNew: false }), true);
  } finally {
    Object.assign(fs, { linkSync, readdirSync });
  }
  assert.equal(looks, 4);
  assert.deepEqual(contentsOf(directory), [
    `${other}+`.replace(`${directory}/`, ""),
    "todo/a.json",
  ]);
});

test("a second file of an id is taken out of `todo`, wherever the first one is", async () => {
  using folder = temporary();
  const directory = listIn(folder);
  const fs = process.getBuiltinModule("node:fs");
  const { linkSync } = fs;
  const other = `running/a.json@${files.newOwner()}`;
  fs.linkSync = (from, to) => { // so late that the first look has not seen it
    writeFileSync(`${directory}/${other}`, task);
    linkSync(from, to);
  };
  try {
    assert.equal(await add(directory, { id: "a", text: task, isNew: false }), false);
  } finally {
    fs.linkSync = linkSync;
  }
  assert.deepEqual(contentsOf(directory), [other]);
});

test("an addition that cannot be written leaves nothing", async () => {
  using folder = temporary();
  const directory = listIn(folder);
  renameSync(`${directory}/todo`, `${directory}/gone`);
  for (const isNew of [true, false]) {
    await assert.rejects(add(directory, { id: "a", text: task, isNew }));
  }
  assert.deepEqual(readdirSync(`${directory}/running`), []);
});

test("what a folder holds is told by the names of its files, whatever they are", () => {
  using folder = temporary();
  const ids = [
    "x",
    "x.json",
    "x.json@y",
    "x.json@vm.1.1.1~done",
    " \n",
    "-rf",
    "ü",
    "a".repeat(150),
  ];
  const owner = files.newOwner();
  for (const id of ids) {
    const directory = listIn(folder, {
      [`todo/${id}.json`]: task,
      "todo/x.json~": "",
      "todo/.json": "",
    });
    assert.deepEqual(files.idsIn(directory, "todo"), [id]);
    assert.deepEqual([...files.pathsIn(directory, "todo")].map(files.locate), [
      { directory, state: "todo", id },
    ]);
    const claim = files.claim(directory, id, owner)!;
    assert.deepEqual(files.locate(claim), { directory, state: "running", id });
    assert.deepEqual(files.find(directory, id), [claim]);
    files.putBack(claim);
    assert.deepEqual(files.find(directory, id), [`${directory}/todo/${id}.json`]);
    unlinkSync(`${directory}/todo/${id}.json`);
  }
});

test("an id comes back exactly from every command and file system, or is refused", () => {
  const bad = ["", ".", "..", ".x", "a/b", "a\\b", "a\nb", "a\0", "\x7f", "\ud800", "e\u0301"];
  for (const id of [...bad, "x.json@y", "ü".repeat(76), 7, null]) {
    assert.throws(() => files.checkId(id), { name: "TypeError", message: /as an id: it must be/ });
  }
  for (const id of ["a", "a b", "é", "文字", "🏃", "a.json", "x@y", "ü".repeat(75)]) {
    files.checkId(id);
  }
});

test("a task is written so that it can be read again, whatever its keys are", () => {
  const odd = JSON.parse(`{"a\\"b": 1, "__proto__": {"x": 2}, "steps": [], "metadata": null}`);
  for (const task of [odd, {}, { steps: {} }, { steps: [{ value: 1 }, { value: 2 }] }]) {
    assert.deepEqual(files.parseTask(files.formatTask(task)), task);
  }
  assert.deepEqual(files.parseTask("\uFEFF{}"), {});
  for (const text of ["", "[]", "1", "null", "{"]) assert.equal(files.parseTask(text), undefined);
});

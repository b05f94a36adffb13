/** What tasks may do, on Deno. */
import assert from "node:assert/strict";
import process from "node:process";
import { onDeno, outcomeOf, runProgram, temporary, test } from "./helpers.ts";
import { command, defer, map } from "./library.ts";

test("tasks may not start programs if `permissions` does not say so", onDeno, async () => {
  const task = await outcomeOf(command(["echo", "run"]), { permissions: [] });
  assert.equal((task.errorValue as Error)?.name, "NotCapable");
});

test("map() gives its runners the permissions that it is told", onDeno, async () => {
  using folder = temporary();
  const secret = folder.write("secret.txt", "secret");
  const read = (path: string) => import("node:fs").then((fs) => fs.readFileSync(path, "utf8"));
  await assert.rejects(Array.fromAsync(map(read, [secret], { permissions: [] })));
  assert.deepEqual(await Array.fromAsync(map(Math.sqrt, [16], { permissions: [] })), [4]);
});

test("tasks may read the modules of their functions, and that of the session", onDeno, () => {
  using folder = temporary();
  const { stdout } = runProgram(
    folder,
    `import { one } from "./one.ts";
     import { two } from "./two.ts";
     const tasks = new TaskList("list");
     for (const call of [one, two, () => three, one, two]) tasks.schedule(defer(call));
     const options = { processes: 1, session: "three.ts", permissions: [] };
     const values = [];
     for await (const task of tasks.run({ ...options, tasksPerProcess: 10 })) {
       values.push(task.returnValue ?? String(task.errorValue));
     }
     for await (const value of map(() => three, [0], options)) values.push(value);
     console.log(values.join(" "));`,
    {
      "one.ts": "export const one = () => 1;",
      "two.ts": "export const two = () => 2;",
      "three.ts": "export const three = 3;",
    },
  );
  assert.equal(stdout, "1 2 3 1 2 3\n");
});

test("what is forbidden is forbidden, also where all else is allowed", onDeno, async () => {
  const read = () => import("node:process").then((it) => it.default.env["HOME"] ?? "nothing");
  for (const limit of ["--deny-env", "--ignore-env"]) {
    const permissions = ["--allow-all", limit];
    const { errorValue, returnValue } = await outcomeOf(defer(read), { permissions });
    assert.match(`${errorValue ?? returnValue}`, /Requires env access|nothing/);
    assert.equal((await outcomeOf(defer(Math.sqrt, 16), { permissions })).returnValue, 4);
  }
});

test("a parent without every permission must say what tasks may do", onDeno, () => {
  using folder = temporary();
  const flags = ["read", "write", "run", "env", "sys"].map((name) => `--allow-${name}`);
  const script = (options: string) =>
    `const tasks = new TaskList("list", { existOk: true });
     tasks.schedule(defer(Math.sqrt, 16));
     for await (const task of tasks.run(${options})) console.log(task.errorValue ?? task.returnValue);`;
  const silent = runProgram(folder, script(""), {}, "main.ts", process.execPath, flags);
  assert.notEqual(silent.code, 0);
  assert.match(silent.stderr, /TypeError: .*`--allow-net`.*`permissions`/);
  for (const read of ["--allow-read", `--allow-read=${folder.file(".")}`]) {
    const given = [read, ...flags.slice(1)];
    const text = script("{ permissions: [] }");
    const spoken = runProgram(folder, text, {}, "main.ts", process.execPath, given);
    assert.deepEqual([spoken.stderr, spoken.stdout], ["", "4\n"]);
  }
});

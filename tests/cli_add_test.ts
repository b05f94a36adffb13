/**
 * What a person sees who fills a list with the command, and who runs one of its tasks.
 *
 * @module
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { inspect } from "node:util";
import { decode } from "../mod.ts";
import { eachWay, isInstalled, killGroup, project, temporary, test } from "./cli_helpers.ts";

eachWay((isExecutable) => {
  // ----------------------------------------------------------------------------------------- add

  test("`add` makes a task of each line; adding twice adds once, and what is new", () => {
    using list = temporary();
    const first = list.add("double", "one", "two", "", "one");
    assert.match(first.stdout, /^2 tasks added to `list`; 1 there already$/m);
    assert.match(first.stderr, /^To run what waits: {2}.* run list$/m);
    const [id] = list.ids("todo");
    assert.match(
      list.forrest("show", "list", `${id}.json`).stdout,
      new RegExp(`^one\\nlist/todo/${id}`),
    );
    list.forrest("run", "list");
    assert.match(list.add("double", "two", "three").stdout, /^1 task added to `list`; 1 there/m);
    assert.equal(list.count("todo"), 1);
    assert.match(list.add("refuse", "two").stdout, /^1 task added to `list`$/m, "another function");
  });

  test("`add` reads a file as well, also without a newline at its end, or from Windows", () => {
    using list = temporary();
    writeFileSync(list.file("words.txt"), "a b\r\nc");
    list.forrest("add", "list", "./tasks.ts#talk", "words.txt");
    list.forrest("run", "list");
    const values = list.ids("done").map((id) => list.task("done", id).returnValue);
    assert.deepEqual(values, [{ text: "a b" }, { text: "c" }]);
    writeFileSync(list.file("more.txt"), "d");
    const both = list.forrest("add", "list", "./tasks.ts#talk", "more.txt", "words.txt");
    assert.equal(both.code, 2);
    assert.match(both.stderr, /One file at a time.*`cat more\.txt words\.txt \| forrest add`/);
    assert.equal(list.count("todo"), 0);
  });

  test("`add --json` takes JSON values, and spreads arrays to several arguments", () => {
    using list = temporary();
    const words = ["add", "list", "tasks.ts#add", "--json"];
    assert.equal(list.forrestWith("[1, 2]\n[3, 4]\n", ...words).code, 0);
    const { stdout } = list.forrest("run", "list");
    assert.match(stdout, /^done .* 3$/m);
    assert.match(stdout, /^done .* 7$/m);
    const { code, stderr } = list.forrestWith("[5, 6]\n{oops\n", ...words);
    assert.equal(code, 2);
    assert.match(stderr, /Line 2 is not JSON: /);
  });

  test("`add --json` takes numbers as they are written, or refuses the line", () => {
    using list = temporary();
    const words = ["add", "list", "tasks.ts#talk", "--json"];
    const exact = ["9007199254740992", "0.1", "0.10000000000000001", "-0", "0", "1e23", "5e-324"];
    const text = '"9007199254740993 \\" 1e400"';
    const all = [...exact, text, '{"1e400":[-1.50,true]}'];
    assert.equal(list.forrestWith(all.join("\n"), ...words).stderr.includes("Line"), false);
    list.forrest("run", "list", "-j1", "--tasks-per-process", "20");
    const values = list.ids("done").map((id) => decode(list.task("done", id).returnValue));
    const expected = all.map((line) => ({ text: JSON.parse(line) }));
    const sorted = (items: unknown[]) => items.map((item) => inspect(item)).sort();
    assert.deepEqual(sorted(values), sorted(expected));
    const refused = ["9007199254740993", "[1, -12345678901234567890]", "1e400", "1e-400", "4e-324"];
    for (const line of [...refused, '{"pi": 3.14159265358979323846}']) {
      const { code, stderr } = list.forrestWith(`7\n${line}\n`, ...words);
      const [number] = /-?[\d.]{3,}(e-?\d+)?|\de.*/.exec(line)!;
      assert.ok(stderr.includes(`Line 2: JavaScript reads the number \`${number}\` as \``), stderr);
      assert.ok(stderr.includes(`: write it as text, \`"${number}"\``), stderr);
      assert.equal(code, 2);
    }
    assert.deepEqual([list.count("todo"), list.count("done")], [1, all.length]);
  });

  test("`add --json` makes the id from the text of the line", () => {
    using list = temporary();
    const words = ["add", "list", "tasks.ts#talk", "--json"];
    assert.match(list.forrestWith("0\n-0\n0.0\n", ...words).stdout, /^3 tasks added/);
    assert.match(list.forrestWith("-0\n0\n", ...words).stdout, /^0 tasks added .*; 2 there/);
    assert.match(list.add("talk", "0").stdout, /^1 task added/);
  });

  test("`add` makes ids that are file names, whatever the line", () => {
    using list = temporary();
    const lines = [
      "../../etc/passwd",
      ".hidden",
      "a/b c%#?*'\"",
      "漢字",
      "-".repeat(300),
      "x".repeat(3000),
    ];
    list.add("talk", ...lines);
    assert.equal(list.count("todo"), lines.length);
    assert.equal(list.forrest("run", "list").code, 0);
    const texts = list.ids("done").map((id) => list.task("done", id).returnValue.text);
    assert.deepEqual(texts.sort(), lines.sort());
  });

  test("`add DIR -- PROGRAM` runs a program for each line", () => {
    using list = temporary();
    list.forrestWith("a b\n$HOME\n", "add", "list", "--", "printf", "<%s>");
    list.forrestWith("one\n", "add", "list", "--", "sh", "-c", "echo failing {} >&2; exit 7");
    const { code, stdout } = list.forrest("run", "list", "-j1");
    assert.equal(code, 1);
    assert.match(stdout, /^done .* "<a b>"$/m);
    assert.match(stdout, /^done .* "<\$HOME>"$/m, "no shell has seen it");
    assert.match(stdout, /^fail .* Error: .* exited with code 7/m);
    assert.match(list.forrest("show", "list", list.ids("fail")[0]).stdout, /failing one/);
  });

  test("`{}`, `{.}`, `{/}`, `{//}`, `{/.}` and `{#}` mean what they mean in GNU parallel", {
    skip: isInstalled("parallel") ? false : "there is no GNU parallel on this machine",
  }, () => {
    using list = temporary();
    const lines = ["a b.c", "sub.dir/foo", "x/y.tar.gz", "/", "/etc/x.d/", "q//z.y", ".rc", "it's"];
    const words = "{} {.} {/} {//} {/.} {#} {x} {.}{/}";
    const input = lines.map((line) => `${line}\n`).join("");
    const { stdout } = spawnSync("parallel", ["-k", "-j1", `printf '%s|' ${words}; echo`], {
      input,
      encoding: "utf8",
    });
    list.forrestWith(input, "add", "list", "--", "printf", "%s|", ...words.split(" "));
    list.forrestWith(input, "add", "list", "--shell", "--", `printf '%s|' ${words}`);
    list.forrest("run", "list", "--tasks-per-process", "20");
    const values = list.ids("done").map((id) => list.task("done", id).returnValue);
    const expected = stdout.trimEnd().split("\n");
    assert.deepEqual(values.sort(), [...expected, ...expected].sort());
  });

  test("without a placeholder the line comes last, and `--shell` gives all to a shell", () => {
    using list = temporary();
    list.forrestWith(
      "it's; * ~\n~\n",
      "add",
      "list",
      "--shell",
      "--",
      "echo",
      "{}",
      "|",
      "tr",
      "a-z",
      "A-Z",
    );
    list.forrestWith("last\n", "add", "list", "--", "echo", "first");
    const { stdout } = list.forrest("run", "list");
    assert.match(stdout, /"IT'S; \* ~\\n"/);
    assert.match(stdout, /"~\\n"/, "no home directory");
    assert.match(stdout, /"first last\\n"/);
  });

  test("`add` takes lines that look like files of ours, and names one that is not UTF-8", () => {
    using list = temporary();
    assert.equal(list.add("double", "icon.json@2x", "1").code, 0);
    assert.equal(list.count("todo"), 2);
    writeFileSync(
      list.file("bytes"),
      Uint8Array.from([...Array(70_000).fill(10), 65, 10, 97, 0xc3]),
    );
    const { code, stderr } = list.forrest("add", "other", "./tasks.ts#double", "bytes");
    assert.match(stderr, /Line 70002 is not in UTF-8/);
    const text = `${"a".repeat(65_535)}é\nx \ufffd y\n\n\n\n\n`; // the buffer ends in a character
    writeFileSync(list.file("bytes"), Uint8Array.from([...Buffer.from(text), 0xff, 10]));
    assert.match(
      list.forrest("add", "other", "./tasks.ts#double", "bytes").stderr,
      /Line 7 is not/,
    );
    assert.equal(code, 2);
  });

  test("`add` refuses an option that does not fit what is added, and an empty name", () => {
    using list = temporary();
    const json = list.forrestWith("1\n", "add", "list", "--json", "--", "echo");
    assert.match(json.stderr, /`--json` is for `MODULE#EXPORT` only/);
    const shell = list.forrestWith("1\n", "add", "list", "tasks.ts#double", "--shell");
    assert.match(shell.stderr, /`--shell` is for `-- PROGRAM` only/);
    const empty = list.forrestWith("1\n", "add", "", "tasks.ts#double");
    assert.match(empty.stderr, /DIR, the directory of the list, is missing/);
    assert.deepEqual([json.code, shell.code, empty.code], [2, 2, 2]);
    assert.deepEqual(readdirSync(list.file(".")), ["tasks.ts"]);
  });

  test("`add` refuses a function that its module does not export, and changes nothing", () => {
    using list = temporary();
    for (const name of ["duoble", "TASKS", "double.name", "toString"]) {
      const { code, stderr } = list.add(name, "1");
      assert.match(stderr, new RegExp(`tasks.ts#${name}. is not a function; it exports .*double`));
      assert.equal(code, 2);
    }
    assert.deepEqual(readdirSync(list.file(".")), ["tasks.ts"]);
  });

  test("`add` takes a module that cannot be imported here, and says so", () => {
    using list = temporary();
    list.write(
      "elsewhere.ts",
      "if (!process.env.THERE) throw new Error('not there'); export const f = () => 1;",
    );
    const { code, stdout, stderr } = list.forrestWith("1\n", "add", "list", "elsewhere.ts#f");
    assert.match(stdout, /^1 task added/);
    assert.match(stderr, /^Its module cannot be imported here: not there$/m);
    assert.equal(code, 0);
    assert.equal(list.shell(`THERE=1 ${list.command} run list`).code, 0);
  });

  test("`add` does not run a program whose function it takes", () => {
    using list = temporary();
    const library = pathToFileURL(join(project, "mod.ts"));
    list.write(
      "own.ts",
      `import { TaskList } from "${library}"; export const f = () => 1;
      console.log("printed"); new TaskList("made");`,
    );
    const { code, stdout } = list.forrestWith("1\n", "add", "list", "own.ts#f");
    assert.match(stdout, /^1 task added to `list`\n$/);
    assert.equal(code, 0);
    assert.deepEqual(readdirSync(list.file(".")).sort(), ["list", "own.ts", "tasks.ts"]);
  });

  test("`add` takes what follows `--` for words of the program, and no options", () => {
    using list = temporary();
    list.forrestWith("x\n", "add", "list", "--", "echo", "--json=no", "--shell=no");
    assert.match(list.forrest("run", "list").stdout, /"--json=no --shell=no x\\n"/);
  });

  test("`add` that is interrupted says how many tasks there are; the same again adds the rest", async () => {
    using list = temporary();
    const add = list.start("add", "list", "./tasks.ts#double");
    add.process.stdin!.write("one\ntwo\n");
    await list.until(() => existsSync(list.file("list/todo")) && list.count("todo") === 2);
    add.kill("SIGINT");
    assert.equal(await add.code, 130);
    const said = "Interrupted: 2 tasks were added; the same command adds the rest\n";
    assert.equal(add.stderr(), said);
    assert.match(list.add("double", "one", "two", "three").stdout, /^1 task added to `list`; 2 th/);
  });

  test("`add` refuses lines with a NUL, as of `find -print0`", () => {
    using list = temporary();
    const { code, stderr } = list.forrestWith("a\0b\0", "add", "list", "--", "echo");
    assert.match(stderr, /Line 1 has a NUL in it/);
    assert.equal(code, 2);
  });

  // ---------------------------------------------------------------------------------------- exec

  test("`exec` runs a task, prints its value, and changes no file", () => {
    using list = temporary();
    list.add("double", "21");
    list.forrest("run", "list");
    const [id] = list.ids("done");
    const before = list.read(`list/done/${id}.json`);
    const { code, stdout, stderr } = list.forrest("exec", `list/done/${id}.json`);
    assert.deepEqual([code, stdout, stderr], [0, "42\n", ""]);
    assert.equal(list.read(`list/done/${id}.json`), before);
  });

  test("`exec --raise` throws the original error, with the user's file and line", () => {
    using list = temporary();
    list.add("refuse", "that");
    const [id] = list.ids("todo");
    const { code, stderr } = list.forrest("exec", `list/todo/${id}.json`, "--raise");
    assert.equal(code, 1);
    assert.match(stderr, /RangeError.*: cannot do that/);
    assert.match(stderr, /refuse \(?.*tasks\.ts:6:/);
    assert.equal(list.count("todo"), 1);
  });

  test("`exec` of a failing task says so in a line, and `--print` in full", () => {
    using list = temporary();
    list.add("refuse", "that");
    list.forrest("run", "list");
    const path = `list/fail/${list.ids("fail")[0]}.json`;
    const brief = list.forrest("exec", path);
    assert.equal(brief.code, 1);
    assert.match(
      brief.stderr,
      /^that: RangeError: cannot do that\nTo see where: .* --raise\n$/,
    );
    const full = list.forrest("exec", path, "--print");
    assert.equal(full.code, 1);
    assert.match(full.stderr, /at refuse .*tasks\.ts:6:[^]*Caused by: Error: too hard/);
  });

  test("`exec TASK.json OUT.json` writes the outcome there", () => {
    using list = temporary();
    list.add("double", "21");
    const [id] = list.ids("todo");
    const { code, stdout } = list.forrest("exec", `list/todo/${id}.json`, "out.json");
    assert.deepEqual([code, stdout], [0, ""]);
    assert.equal(JSON.parse(list.read("out.json")).returnValue, 42);
    assert.equal(list.count("todo"), 1);
  });

  test("`exec` of a task in `todo` claims it, and files the outcome; a second time it does nothing", () => {
    using list = temporary();
    list.add("refuseOdd", "1", "2");
    const [odd, even] = list.ids("todo").map((id) => `list/todo/${id}.json`);
    const failed = list.forrest("exec", odd);
    assert.equal(failed.code, 1);
    assert.match(
      failed.stderr,
      /RangeError: cannot do 1\nTo see where: .* exec list\/fail\/0000001-1-/,
    );
    const done = list.forrest("exec", even);
    assert.deepEqual([done.code, done.stdout], [0, "even\n"]);
    assert.deepEqual([list.count("done"), list.count("fail")], [1, 1]);
    const again = list.forrest("exec", even);
    assert.deepEqual([again.code, again.stdout], [0, ""]);
    assert.match(again.stderr, /Not run: `2`, as it is in `done` already/);
    assert.equal(list.forrest("exec", odd).code, 1);
    assert.equal(JSON.parse(list.read(odd.replace("todo", "fail"))).attempts, 1);
    list.add("refuseOdd", "4");
    const inside = `cd list/todo && ${list.command} exec *.json`;
    assert.match(list.shell(inside).stdout, /^even\n/);
    assert.deepEqual([list.count("todo"), list.count("done")], [0, 2]);
  });

  test("`exec` of a task that another run has ends with 75", async () => {
    using list = temporary();
    list.add("mark", list.file("begun"));
    const path = `list/todo/${list.ids("todo")[0]}.json`;
    const run = list.start("exec", path);
    await list.until(() => existsSync(list.file("begun")));
    const { code, stderr } = list.forrest("exec", path);
    assert.equal(code, 75);
    assert.match(stderr, /Not run: .* another run has it/);
    run.kill("SIGTERM");
    assert.equal(await run.code, 143);
    assert.match(run.stderr(), /Stopped by SIGTERM: the task is back in `todo`/);
    assert.deepEqual([list.count("todo"), list.count("running")], [1, 0]);
  });

  test("`exec` of a task that calls `exit(255)` never ends with 255", () => {
    using list = temporary();
    list.add("leave", "255");
    const { code } = list.forrest("exec", `list/todo/${list.ids("todo")[0]}.json`);
    assert.equal(code, 1);
    assert.equal(list.count("fail"), 1);
  });

  test("`exec` of a file that is not there, or is no task, says so", () => {
    using list = temporary();
    list.add("double", "1");
    for (const path of ["list/todo/x.json", "list/fail/x.json", "x.json"]) {
      const { code, stderr } = list.forrest("exec", path);
      assert.equal(code, 2);
      assert.match(stderr, new RegExp(`There is no task \`${path}\``));
    }
    writeFileSync(list.file("bad.json"), '{"steps": 3}');
    const { code, stderr } = list.forrest("exec", "bad.json");
    assert.equal(code, 1);
    assert.match(stderr, /`steps` must be an array/);
  });

  test("`exec --inspect-brk` waits for a debugger", {
    skip: isExecutable ? "an executable has no debugger" : false,
  }, async () => {
    using list = temporary();
    list.add("double", "1");
    const run = list.start(
      "exec",
      `list/todo/${list.ids("todo")[0]}.json`,
      "--raise",
      "--inspect-brk",
    );
    await list.until(() => /Debugger listening|ws:\/\//.test(run.stderr() + run.stdout()));
    assert.equal(run.stdout().includes("2"), false);
    killGroup(run.process);
    await run.code;
  });

  test("`add` takes the functions of packages, by their names, and gets none that is not there", () => {
    using list = temporary();
    list.write("node_modules/shouting/package.json", '{ "name": "shouting", "main": "main.js" }');
    list.write("node_modules/shouting/main.js", "module.exports = (text) => text.toUpperCase();");
    list.write(
      "deno.json",
      '{ "nodeModulesDir": "manual", "imports": { "doubled": "./tasks.ts" } }',
    );
    for (const call of ["shouting#default", "doubled#long", "node:path#basename"]) {
      const { stderr } = list.forrestWith("run\n", "add", "list", call);
      assert.match(stderr, /^To run what waits: [^\n]*\n$/, call);
    }
    const { stdout } = list.forrest("run", "list");
    assert.match(stdout, /"RUN"/);
    assert.match(stdout, /3 done, 0 failed/);
    for (const module of ["nowhere", "./nowhere.ts", "@no/where"]) {
      const { code, stderr } = list.forrestWith("run\n", "add", "list", `${module}#run`);
      assert.match(stderr, new RegExp(`There is no module \`${module}\``));
      assert.equal(code, 2);
    }
  });

  test(
    "tasks see the imports of their own project, wherever they are run, and no lock file of ours",
    {
      skip: isExecutable ? "import maps are of the runtimes" : false,
    },
    () => {
      using list = temporary();
      const lock = () => readFileSync(join(project, "deno.lock"), "utf8");
      const before = lock();
      const paths = '{ "paths": { "mapped/*": ["./library/*"] } }';
      list.write("user/tsconfig.json", `{ "compilerOptions": ${paths} }`);
      list.write("user/deno.json", '{ "imports": { "mapped/": "./library/" } }');
      list.write("user/library/text.ts", "export const text = 'mapped';");
      list.write(
        "user/own.ts",
        `import { text } from "mapped/text.ts";
       export const run = (x: string) => text + x;
       export const fail = () => { throw new RangeError(text); };`,
      );
      for (const name of ["run", "fail"]) {
        const { stderr } = list.forrestWith("1\n", "add", "list", `user/own.ts#${name}`);
        assert.match(stderr, /^To run what waits: [^\n]*\n$/);
      }
      const [one, other] = list.ids("todo").map((id) => `list/todo/${id}.json`);
      const raised = [one, other].map((path) => list.forrest("exec", path, "--raise"));
      assert.deepEqual(raised.map(({ stdout }) => stdout).sort(), ["", "mapped1\n"]);
      assert.match(raised.map(({ stderr }) => stderr).join(""), /RangeError: mapped/);
      const written = [one, other].map((path) => list.forrest("exec", path, "out.json").code);
      assert.deepEqual(written.sort(), [0, 1]);
      list.forrest("run", "list");
      assert.equal(
        list.forrest("exec", `list/done/${list.ids("done")[0]}.json`).stdout,
        "mapped1\n",
      );
      const { code, stderr } = list.forrest("exec", `list/fail/${list.ids("fail")[0]}.json`);
      assert.match(stderr, /: RangeError: mapped\nTo see where: /);
      assert.equal(code, 1);
      assert.equal(lock(), before);
    },
  );

  test("`xargs` runs the tasks of a list; a second time nothing happens", () => {
    using list = temporary();
    list.add("double", ..."123456");
    const line = `ls list/todo/*.json | tee names | xargs -n 1 -P 3 ${list.command} exec`;
    assert.equal(list.shell(line).code, 0);
    assert.equal(list.count("done"), 6);
    const { code, stdout } = list.shell(`xargs -n 1 -P 3 ${list.command} exec < names`);
    assert.deepEqual([code, stdout], [0, ""]);
  });

  test("GNU parallel runs the tasks of a list, and its job log has their exit codes", {
    skip: isInstalled("parallel") ? false : "there is no GNU parallel on this machine",
  }, () => {
    using list = temporary();
    list.add("refuseOdd", ..."1234");
    const line = `ls list/todo/*.json | tee names | parallel --joblog log ${list.command} exec {}`;
    assert.equal(list.shell(line).code, 2, "the number of jobs that have failed");
    const codes = list.read("log").trim().split("\n").slice(1).map((row) => row.split("\t")[6]);
    assert.deepEqual(codes.sort(), ["0", "0", "1", "1"]);
    assert.deepEqual([list.count("done"), list.count("fail")], [2, 2]);
  });

  test("`exec` files a task of a list, however its path is written", () => {
    using list = temporary();
    list.add("double", "1", "2", "3", "4");
    const [a, b, c, d] = list.ids("todo");
    const path = list.file("list/todo");
    const lines = [
      `cd list/todo && ${list.command} exec ./${a}.json`,
      `${list.command} exec list/todo//${b}.json`,
      `${list.command} exec ./list/../list/todo/${c}.json`,
      `${list.command} exec ${path}/./${d}.json`,
    ];
    for (const line of lines) assert.deepEqual(list.shell(line).stderr, "");
    assert.equal(list.count("done"), 4);
    list.write("list/todo/a\tb.json", JSON.stringify({ steps: [{ value: 1 }] }));
    assert.equal(list.forrest("exec", "list/todo/a\tb.json").stdout, "1\n");
  });

  test("`exec --raise` of a task that starts tasks runs these", {
    skip: isExecutable ? "an executable has no source to start runners with" : false,
  }, () => {
    using list = temporary();
    const text = `import { map } from "${pathToFileURL(join(project, "mod.ts"))}";
      export const outer = async () => (await Array.fromAsync(map(Math.sqrt, [16]))).join();`;
    list.write("starts.ts", text);
    list.write("task.json", JSON.stringify({ steps: [{ call: "./starts.ts#outer", args: [] }] }));
    const { code, stdout, stderr } = list.forrest("exec", "task.json", "--raise");
    assert.deepEqual([code, stdout, stderr], [0, "4\n", ""]);
  });

  test("`exec` says before it runs a task that its outcome cannot be put where a directory is", () => {
    using list = temporary();
    list.add("double", "21");
    const [id] = list.ids("todo");
    list.write("place/file", "");
    const { code, stderr } = list.forrest("exec", `list/todo/${id}.json`, "place");
    assert.match(stderr, /`place` is a directory: give the name of a file/);
    assert.deepEqual([code, list.count("todo")], [2, 1]);
  });

  test("`exec` does not write an outcome over a task", () => {
    using list = temporary();
    list.add("double", "1", "2");
    const paths = list.ids("todo").map((id) => `list/todo/${id}.json`);
    const { code, stderr } = list.forrest("exec", ...paths);
    assert.match(
      stderr,
      /`list\/todo\/0000002-2-\w+.json` is the place of a task: one task at a time/,
    );
    assert.equal(code, 2);
    assert.equal(
      list.forrest("run", "list", "--json").stdout.match(/"returnValue":[24]/g)?.length,
      2,
    );
  });
});

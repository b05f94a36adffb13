import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import { defer, TaskList } from "../mod.ts";
import { reportPage } from "../cli/page.ts";
import { traceEvents } from "../cli/timeline.ts";

const root = mkdtempSync(join(tmpdir(), "forrest-report-"));
after(() => rmSync(root, { recursive: true, force: true }));

type Stored = Record<string, unknown> | string;
const start = Date.parse("2026-11-20T20:00:00.000Z");
const patient = { timeout: 120_000 }; // Bun gives a test 5 s, too little for a browser on a busy machine
/** A task that started so many seconds after the first, and ran for so many. */
const timed = (second: number, runtime: number, others: Record<string, unknown> = {}) => ({
  steps: [{ call: "file:///project/tasks.ts#work", args: [] }],
  attempts: 1,
  started: new Date(start + second * 1000).toISOString(),
  runtime,
  ...others,
});
const thrown = (name: string, message: string) => ({
  errorValue: {
    $error: { name, message, stack: `${name}: ${message}\n    at work (tasks.ts:1:2)` },
  },
});

/** Makes a list of files by their paths in it, such as `done/1.json`. */
function makeList(name: string, tasks: Record<string, Stored>): string {
  const directory = join(root, name);
  for (const state of ["todo", "running", "done", "fail"]) {
    mkdirSync(join(directory, state), { recursive: true });
  }
  for (const [path, task] of Object.entries(tasks)) {
    writeFileSync(join(directory, path), typeof task === "string" ? task : JSON.stringify(task));
  }
  return directory;
}

/** Text and numbers as a reader sees them, without the scripts and the styles. */
function visibleText(page: string): string {
  const text = page.replace(/<(script|style)\b[^>]*>[^]*?<\/\1>/g, "").replace(/<[^>]*>/g, " ");
  return text.replace(/&#(\d+);/g, (_, code) => String.fromCharCode(code)).replace(/\s+/g, " ");
}

type TraceEvent = { ph: string; name: string; cat: string; ts: number; dur: number; tid: number };
const slicesOf = async (directory: string): Promise<TraceEvent[]> =>
  JSON.parse(await traceEvents(directory)).traceEvents.filter(({ ph }: TraceEvent) => ph === "X");

const tenTasks = makeList("ten", {
  "todo/8.json": { steps: [{ value: 1 }] },
  "todo/9.json": { steps: [{ value: 1 }] },
  "running/7.json@host.1.2.3": { steps: [{ value: 1 }] },
  "running/6.json@host.1.2.3+": { steps: [{ value: 1 }] }, // an outcome that is being written
  "done/0.json": timed(0, 1),
  "done/1.json": timed(0, 2),
  "done/2.json": timed(1, 1, { attempts: 2 }),
  "done/3.json": timed(2, 1),
  "fail/4.json": timed(2, 0.5, thrown("TypeError", "no such item")),
  "fail/5.json": timed(2.5, 0.5, thrown("TypeError", "no such item")),
  "fail/6.json": timed(3, 0.5, { errorValue: "thrown text" }),
});

const evil = `</script><script>document.title = "owned"</script><img src=x onerror=alert(1)>'"&`;
const evilId = `a'b"<i>&$(touch x)`;
const evilTasks = makeList(`it's <b>evil & "odd"`, {
  [`fail/${evilId}.json`]: timed(0, 1, thrown("Error", evil)),
  [`done/${evilId}2.json`]: timed(0, 1),
});

function makeLargeList(): string {
  const tasks: Record<string, Stored> = {};
  for (let i = 0; i < 20_000; i++) {
    const outcome = i % 50 ? { returnValue: i } : thrown("Error", `message ${i % 200}`);
    const [second, runtime] = [Math.floor(i / 8) * 0.25, 0.01 * (1 + i % 24)];
    tasks[`${i % 50 ? "done" : "fail"}/${1795204800000000 + i}-ab12.json`] = timed(
      second,
      runtime,
      outcome,
    );
  }
  return makeList("large", tasks);
}

test("the page counts the tasks in each state", async () => {
  const text = visibleText(await reportPage(tenTasks));
  assert.match(text, /10 tasks in all/);
  assert.match(text, /Done 4 40\.0 %/);
  assert.match(text, /Failed 3 30\.0 %/);
  assert.match(text, /Running 1 10\.0 %/);
  assert.match(text, /Waiting 2 20\.0 %/);
});

test("the page sums up the run times", async () => {
  const text = visibleText(await reportPage(tenTasks));
  assert.match(text, /Elapsed 3\.5 s/);
  assert.match(text, /Sum of run times 6\.5 s/);
  assert.match(text, /Median run time 1 s/);
  assert.match(text, /Longest run time 2 s/);
  assert.match(text, /At once, on average 1\.9/);
  assert.match(text, /Tried more than once 1 task/);
});

test("the page groups failures by message, with the command that reproduces each", async () => {
  const page = await reportPage(tenTasks);
  const [, table] = /<table>([^]*)<\/table>/.exec(page)!;
  const [first, second] = table.split("<tr>").slice(2).map(visibleText);
  assert.match(first, /^ *2 TypeError: no such item/);
  assert.ok(first.includes(`forrest exec ${tenTasks}/fail/4.json --raise`));
  assert.ok(first.includes(`forrest exec ${tenTasks}/fail/5.json --raise`));
  assert.match(second, /^ *1 threw "thrown text"/); // as `forrest list` says it
  assert.ok(second.includes(`forrest exec ${tenTasks}/fail/6.json --raise`));
});

test("a command names the task, and is one that a shell understands", async () => {
  const [, command] = /<code>(.*?)<\/code>/.exec(await reportPage(evilTasks))!;
  const words = visibleText(command).replace(/^forrest/, "printf '%s\\n'");
  const printed = execFileSync("sh", ["-c", words], { encoding: "utf8" });
  assert.deepEqual(printed.split("\n"), [
    "exec",
    `${evilTasks}/fail/${evilId}.json`,
    "--raise",
    "",
  ]);
});

test("failures of one program are one group, whatever its words were", async () => {
  const ended = (words: string, how: string) =>
    timed(0, 1, thrown("Error", `\`convert ${words}\` ${how}. It last printed:\nno ${words}`));
  const list = makeList("programs", {
    "fail/1.json": ended("a.png", "exited with code 2"),
    "fail/2.json": ended("b.png", "exited with code 2"),
    "fail/3.json": ended("c.png", "was killed by SIGSEGV"),
  });
  assert.match(visibleText(await reportPage(list)), /3 tasks with 2 messages/);
});

test("ids, messages and directories are never taken for markup", async () => {
  const page = await reportPage(evilTasks);
  assert.ok(!page.includes("<script>document"));
  assert.ok(!page.includes("<img"));
  assert.ok(!page.includes("<i>"));
  assert.ok(!page.includes("<b>"));
  assert.ok(visibleText(page).includes(evil));
});

test("control characters that colour a message in a terminal are left out", async () => {
  const list = makeList("colours", {
    "fail/1.json": thrown("AssertionError", "\u001b[31mred\u001b[39m"),
  });
  assert.ok(visibleText(await reportPage(list)).includes("AssertionError: red"));
});

test("the page loads nothing from elsewhere", async () => {
  const page = await reportPage(tenTasks);
  assert.match(page, /Content-Security-Policy"\s+content="default-src 'none'/);
  assert.doesNotMatch(page, /(src|href)="(?!data:)/);
});

test("the page has a heading for each section, and names for what is drawn", async () => {
  const page = await reportPage(tenTasks);
  const headings = [...page.matchAll(/<h([12])[^>]*>(.*?)<\/h\1>/g)].map(([, , text]) => text);
  const sections = ["Totals", "Failures", "Timeline", "Run times"];
  assert.deepEqual(headings, [`Task list ${tenTasks}`, ...sections]);
  assert.match(page, /<html lang="en">/);
  assert.match(page, /<canvas tabindex="0"[^>]*aria-label="Timeline of 7 tasks in 2 lanes"/);
  assert.match(page, /<g role="listitem" aria-label="1 s to [^"]*: 3 tasks, 0 failed">/);
  assert.match(page, /<th scope="col">/);
});

test("the page can be read in light and in dark", async () => {
  assert.match(await reportPage(tenTasks), /@media \(prefers-color-scheme: dark\)/);
});

test("an empty list gives a page that says so, and a trace without tasks", async () => {
  const list = makeList("empty", {});
  const text = visibleText(await reportPage(list));
  assert.match(text, /This list is empty/);
  assert.match(text, /No finished task to draw yet/);
  assert.match(text, /No task has failed/);
  assert.deepEqual(await slicesOf(list), []);
});

test("files that are no tasks are counted and named, and do no harm", async () => {
  const list = makeList("corrupt", {
    "done/array.json": "[]",
    "done/cut.json": `{"steps": [`,
    "done/null.json": "null",
    "done/times.json": timed(0, 1, { started: "yesterday", runtime: "long" }),
    "done/negative.json": timed(0, -1),
    "fail/attempts.json": `{"attempts": {"valueOf": 1, "toString": 1}}`,
    "fail/error.json": `{"errorValue": {"$error": null}}`,
    "fail/message.json": `{"errorValue": {"$error": {"name": {"toString": 1}}}}`,
    "fail/none.json": "{}",
  });
  mkdirSync(join(list, "done/folder.json"));
  const text = visibleText(await reportPage(list));
  assert.match(text, /Done 6/);
  assert.match(text, /Failed 4/);
  assert.match(text, /Cannot be read as a task: .*done\/cut\.json/);
  assert.match(text, /\(no error is stored\)/);
  assert.deepEqual(await slicesOf(list), []);
});

test("tasks that left no times are counted as not drawn", async () => {
  const list = makeList("killed", {
    "done/1.json": timed(0, 1),
    "fail/2.json": thrown("TimeoutError", "The task was killed after 1 s"),
  });
  assert.match(visibleText(await reportPage(list)), /Not drawn: 1 task without times/);
});

test("a trace has a slice for each finished task, in microseconds", async () => {
  const slices = await slicesOf(tenTasks);
  assert.equal(slices.length, 7);
  const last = slices.find(({ name }) => name === "6")!;
  assert.deepEqual([last.cat, last.ts, last.dur], ["fail", 3_000_000, 500_000]);
});

test("a trace names its process, and a thread for each lane", async () => {
  const { traceEvents: events } = JSON.parse(await traceEvents(tenTasks));
  const names = events.filter(({ ph }: TraceEvent) => ph === "M")
    .map(({ args }: { args: { name?: string } }) => args.name).filter(Boolean);
  assert.deepEqual(names, [`forrest ${tenTasks}`, "process 1", "process 2"]);
});

test("tasks in one lane never overlap, even where their clocks are coarse", async () => {
  const tasks: Record<string, Stored> = {};
  let seed = 1;
  const random = () => (seed = seed * 16807 % 2147483647) / 2147483647;
  for (let i = 0; i < 500; i++) tasks[`done/${i}.json`] = timed(random() * 2, random() / 50);
  for (let i = 500; i < 520; i++) tasks[`done/${i}.json`] = timed(5, 0.00004); // one after another
  const list = makeList("overlap", tasks);
  const ends: number[] = [];
  for (const { tid, ts, dur } of await slicesOf(list)) {
    assert.ok(Number.isInteger(ts) && Number.isInteger(dur) && dur > 0);
    assert.ok(ts >= (ends[tid] ?? 0));
    ends[tid] = ts + dur;
  }
  const late = (await slicesOf(list)).filter(({ ts }) => ts >= 3_000_000);
  assert.equal(new Set(late.map(({ tid }) => tid)).size, 1);
});

test("pauses between runs are cut short, and left out of the elapsed time", async () => {
  const list = makeList("paused", {
    "done/1.json": timed(0, 10),
    "done/2.json": timed(86_400, 10),
    "done/3.json": timed(86_410, 10),
  });
  const text = visibleText(await reportPage(list));
  assert.match(text, /Elapsed 30 s/);
  assert.match(text, /Pauses are cut short/);
});

for (
  const [name, runtimes] of Object.entries({
    "a single task": [0.03],
    "a task of no time": [0, 0.01],
    "tasks of equal length": [1, 1, 1],
    "tasks of 30 times the length": [0.1, 3],
    "microseconds and weeks": [0.000002, 0.5, 2_000_000],
  })
) {
  test(`the histogram holds every task: ${name}`, async () => {
    const list = makeList(`histogram of ${name}`, {
      ...Object.fromEntries(runtimes.map((runtime, i) => [`done/${i}.json`, timed(i, runtime)])),
    });
    const labels = [...(await reportPage(list)).matchAll(/role="listitem" aria-label="(.*?)"/g)];
    const counts = labels.map(([, label]) => Number(/: (\d+) task/.exec(label)![1]));
    assert.equal(counts.reduce((sum, count) => sum + count, 0), runtimes.length);
    assert.doesNotMatch(
      (await reportPage(list)).replace(/<script>[^]*/, ""),
      /NaN|Infinity|undefined/,
    );
  });
}

test("a list that was really run gives a page and a trace", patient, async () => {
  const tasks = new TaskList(join(root, "real"));
  for (let i = 0; i < 3; i++) tasks.schedule(defer(Math.sqrt, i));
  tasks.schedule(defer(JSON.parse, "{"));
  for await (const _task of tasks.run({ processes: 2 }));
  assert.match(visibleText(await reportPage(tasks.directory)), /Done 3 .*Failed 1 .*SyntaxError/);
  assert.equal((await slicesOf(tasks.directory)).length, 4);
});

test("the page of 20,000 tasks stays below a megabyte", patient, async () => {
  const list = makeLargeList();
  const page = await reportPage(list);
  assert.match(visibleText(page), /20,000 tasks in all/);
  assert.match(visibleText(page), /400 tasks with 4 messages/);
  assert.ok(page.length < 1_000_000, `${page.length} characters`);
  assert.equal((await slicesOf(list)).length, 20_000);
});

const logged = makeList("logged", {
  // two tasks at once in one process, of which one was tried before in another; and one after them
  "done/1.json": timed(2, 2, { attempts: 2, metadata: { line: "one line" } }),
  "done/2.json": timed(3, 2, { metadata: { line: "another <line>" } }),
  "fail/3.json": timed(9, 1, {
    ...thrown("Error", "the file third.txt is bad"),
    metadata: { line: "third.txt" },
  }),
  "fail/4.json": timed(9, 1, {
    ...thrown("Error", "the file fourth.txt is bad"),
    metadata: { line: "fourth.txt" },
  }),
  "log.txt": [
    [0, "1 is scheduled"],
    [0, "1 is started in process 10"],
    [1, "1 has failed after 0.75 s, and is retried in 1 s: Error: 503"],
    [2, "1 is started in process 11"],
    [3, "2 is started in process 11"],
    [4, "1,2 | 1 is started in process 99"], // which is printed
    [4, "1 is in `done`"],
    [5, "2 is in `done`"],
    [9, "3 is started in process 10"], // another one with its id
    [10, "3 is in `fail`"],
    [9, "4 is started in process 11"],
    [10, "4 is in `fail`"],
  ].map(([second, text]) => `${new Date(start + Number(second) * 1000).toISOString()} ${text}\n`)
    .join(""),
});

test("with a log, a lane is a process, and has a bar for each try of each of its tasks", async () => {
  const page = await reportPage(logged);
  const data = JSON.parse(/id="data">(.*?)<\/script>/.exec(page)![1]);
  const bars = data.names.map((name: string, i: number) =>
    `${name}: lane ${data.lanes[i]}, row ${data.rows[i]}, ${data.durations[i]} µs`
  );
  assert.deepEqual(bars, [
    "one line: lane 0, row 0, 750000 µs",
    "one line: lane 0, row 0, 2000000 µs",
    "another <line>: lane 0, row 1, 2000000 µs",
    "third.txt: lane 0, row 0, 1000000 µs",
    "fourth.txt: lane 1, row 0, 1000000 µs",
  ]);
  assert.deepEqual([data.rowsOf, data.states], [[2, 1], "tddff"]);
  assert.match(page, /aria-label="Timeline of 4 tasks, and 1 earlier tries, in 2 lanes"/);
  assert.match(
    visibleText(page),
    /Where a process held several tasks at once, they share its lane/,
  );
  const slices = await slicesOf(logged);
  assert.deepEqual(slices.map(({ name, cat, tid }) => `${name} ${cat} ${tid}`), [
    "one line todo 1",
    "one line done 1",
    "another <line> done 2",
    "third.txt fail 1",
    "fourth.txt fail 3",
  ]);
});

test("failures stand first, under what they have in common, with the lines of their tasks", async () => {
  const page = await reportPage(logged);
  assert.ok(page.indexOf(">Failures<") < page.indexOf(">Timeline<"));
  const text = visibleText(page);
  assert.match(
    text,
    /2 tasks with 1 message\. .* Error: the file third\.txt is bad third\.txt forrest exec/,
  );
  assert.match(text, /The same in 1 task more fourth\.txt forrest exec/);
});

test("a failure has the tries before, each with its time and error", async () => {
  const line = (second: number, text: string) =>
    `${new Date(start + second * 1000).toISOString()} ${text}\n`;
  const list = makeList("tries", {
    "fail/1.json": timed(5, 1, { attempts: 2, ...thrown("Error", "500") }),
    "log.txt": line(0, "1 is started in process 7") +
      line(2, "1 has failed after 1.5 s, and is retried in 3 s: Error: 503 <b>") +
      line(5, "1 is started in process 7") + line(6, "1 is in `fail`"),
  });
  const text = visibleText(await reportPage(list));
  assert.match(text, /Tried before 2026-11-20 20:00:00 UTC , ran 1\.5 s: Error: 503 <b>/);
});

// -------------------------------------------------------------------------------- in a browser

const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const browser = names.find((name) =>
  spawnSync(name, ["--version"], { timeout: 20_000 }).status === 0
);

/** What a browser makes of a page, with a report of errors and of the sizes of what it shows. */
async function render(directory: string): Promise<string> {
  const profile = mkdtempSync(join(root, "profile-"));
  const watch = `<script>addEventListener("error", (event) => {
    document.documentElement.dataset.error = event.message;
  })</script>`;
  const measure = `<script>addEventListener("load", () => {
    const canvas = document.querySelector("canvas");
    for (const key of canvas ? ["ArrowRight", "+", "ArrowRight", "-", "0"] : []) {
      canvas.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
    }
    for (const button of document.querySelectorAll("[data-zoom]")) button.click();
    const pixels = canvas?.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const wide = document.documentElement.scrollWidth > innerWidth;
    Object.assign(document.documentElement.dataset, { ran: "yes", drawn: !!pixels?.some(Boolean), wide });
  })</script>`;
  const page = (await reportPage(directory)).replace("<style>", () => `${watch}<style>`)
    .replace("</body>", () => `${measure}</body>`);
  const file = join(profile, "page.html");
  writeFileSync(file, page);
  const switches = "headless no-sandbox disable-gpu disable-quic no-first-run " +
    "disable-background-networking disable-component-update disable-sync dump-dom";
  const options = switches.split(" ").map((name) => `--${name}`);
  const { stdout, stderr } = spawnSync(
    browser!,
    [...options, `--user-data-dir=${profile}`, "--window-size=500,900", pathToFileURL(file).href],
    { encoding: "utf8", timeout: 100_000, killSignal: "SIGKILL", maxBuffer: 2 ** 27 },
  );
  assert.match(stdout, /<html/, stderr);
  return stdout;
}

const browserTest = (name: string, check: () => Promise<void>) =>
  test(`in a browser, ${name}`, patient, (context) => {
    if (browser) return check();
    const reason = `skipped "${name}": none of ${names.join(", ")} can be started`;
    (context?.diagnostic ?? console.log).call(context, reason);
  });

for (
  const [name, directory, drawn] of [
    ["an empty list", () => makeList("empty", {}), false],
    ["ten tasks", () => tenTasks, true],
    ["tries in a log", () => logged, true],
    ["20,000 tasks", () => makeLargeList(), true],
  ] as [string, () => string, boolean][]
) {
  browserTest(`the script runs without errors, and nothing is too wide: ${name}`, async () => {
    const [, attributes] = /<html([^>]*)>/.exec(await render(directory()))!;
    assert.doesNotMatch(attributes, /data-error/);
    assert.match(attributes, /data-ran="yes"/);
    assert.match(attributes, new RegExp(`data-drawn="${drawn}"`));
    assert.match(attributes, /data-wide="false"/);
  });
}

browserTest("the arrow keys go through the tasks and say what each is", async () => {
  const [, output] = /<output[^>]*>(.*?)<\/output>/.exec(await render(tenTasks))!;
  assert.match(output, /^1: done, started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, ran 2 s, in lane 2$/);
});

browserTest("text from tasks stays text", async () => {
  const page = await render(evilTasks);
  assert.match(page, /<title>Task list .*evil/);
  assert.doesNotMatch(page, /<title>owned|<img|data-error/);
  assert.match(page, /data-ran="yes"/);
});

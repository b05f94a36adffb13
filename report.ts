/**
 * A task list as a picture: one HTML page that needs nothing else, or a trace that Perfetto opens.
 *
 * @example
 * ```ts
 * import { reportPage, traceEvents } from "./report.ts";
 *
 * Deno.writeTextFileSync("report.html", reportPage("tasklist"));
 * Deno.writeTextFileSync("trace.json", traceEvents("tasklist"));
 * ```
 *
 * @module
 */

import { pathsIn } from "./src/claims.ts";
import { locate, type State } from "./src/files.ts";
import { nodeProcess, parse, system } from "./src/system.ts";
import { quote } from "./src/terminal.ts";

type Failure = { message: string; stack?: string };
/** A task, with what could be read of it. */
interface Entry {
  id: string;
  state: State;
  calls?: string;
  attempts?: number;
  started?: number; // milliseconds since 1970
  runtime?: number; // seconds
  failure?: Failure;
  unreadable?: boolean;
}
/** A task with times. `start` counts from the first start of all; both are in microseconds. */
type Bar = { entry: Entry; lane: number; start: number; duration: number };
type Stretch = [start: number, end: number];

/** One self-contained HTML page about a list: totals, timeline, histogram of run times, failures. */
export function reportPage(directory: string): string {
  const entries = readList(directory);
  const bars = layOut(entries);
  const stretches = stretchesOf(bars);
  const title = `Task list ${escape(directory)}`;
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; ${
    ["style", "script"].map((kind) => `${kind}-src 'unsafe-inline'`).join("; ")
  }; img-src data:">
<link rel="icon" href="data:,">
<title>${title}</title>
<style>${STYLE}</style>
</head>
<body>
<header><h1>${title}</h1><p>As it was on ${time(Date.now())}</p></header>
<main>
${totalsSection(entries, bars, stretches)}
${timelineSection(entries, bars, stretches)}
${runTimesSection(bars)}
${failuresSection(directory, entries)}
</main>
<script type="application/json" id="data">${timelineData(bars, stretches)}</script>
<script>(${animate})(${duration}, ${niceStep})</script>
</body>
</html>
`;
}

/** The finished tasks of a list in the trace format of Chrome, which https://ui.perfetto.dev opens. */
export function traceEvents(directory: string): string {
  const bars = layOut(readList(directory));
  const about = (name: string, tid: number, args: unknown) => ({
    name,
    ph: "M",
    pid: 1,
    tid,
    args,
  });
  const lanes = Array.from({ length: laneCount(bars) }, (_, lane) => [
    about("thread_name", lane + 1, { name: `process ${lane + 1}` }),
    about("thread_sort_index", lane + 1, { sort_index: lane + 1 }),
  ]);
  const slices = bars.map(({ entry: { id, state, calls, attempts, failure }, ...bar }) => ({
    ...{ name: id, cat: state, ph: "X", pid: 1, tid: bar.lane + 1 },
    ...{ ts: bar.start, dur: bar.duration },
    args: { state, calls, attempts, error: failure?.message },
  }));
  const events = [about("process_name", 0, { name: `forrest ${directory}` }), lanes, slices].flat(
    2,
  );
  const otherData = { started: bars.length ? new Date(firstStart(bars)).toISOString() : undefined };
  return JSON.stringify({ displayTimeUnit: "ms", otherData, traceEvents: events });
}

// ------------------------------------------------------------------------------------ the tasks

function readList(directory: string): Entry[] {
  const entries = new Map<string, Entry>();
  // In this order, and by id, a task that moves while the folders are read is counted, and counted once.
  for (const state of ["todo", "running", "fail", "done"] as const) {
    for (const path of pathsIn(directory, state)) {
      const entry = readEntry(path);
      if (entry) entries.set(entry.id, entry);
    }
  }
  return [...entries.values()];
}

function readEntry(path: string): Entry | undefined {
  const { id, state } = locate(path);
  if (state === "todo" || state === "running") return { id, state }; // it has no times yet
  try {
    const task = parse(system.readTextFileSync(path));
    if (typeof task !== "object" || !task || Array.isArray(task)) throw new Error("it is no task");
    const steps: { call?: unknown }[] = Array.isArray(task.steps) ? task.steps : [];
    const calls = steps.flatMap(({ call }) => typeof call === "string" ? [call] : []).join(", ");
    const failure = state === "fail" ? failureOf(task.errorValue) : undefined;
    const entry = { id, state, calls, failure, attempts: Number(task.attempts) || undefined };
    const [started, runtime] = [Date.parse(task.started), task.runtime];
    const timed = started >= 0 && typeof runtime === "number" && runtime >= 0 && runtime < 1e9;
    return timed ? { ...entry, started, runtime } : entry;
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined; // it has just been moved
    const failure = { message: `The task file cannot be read: ${(error as Error).message}` };
    return { id, state, unreadable: true, failure: state === "fail" ? failure : undefined };
  }
}

function failureOf(errorValue: unknown): Failure {
  const error = (errorValue as { $error?: Record<string, unknown> } | undefined)?.$error;
  const text = typeof errorValue === "string" ? errorValue : JSON.stringify(errorValue);
  const message = error ? `${error.name ?? "Error"}: ${error.message ?? ""}` : text;
  const plain = nodeProcess().getBuiltinModule("node:util").stripVTControlCharacters;
  return {
    message: plain(message ?? "(no error is stored)"),
    stack: error?.stack ? plain(`${error.stack}`) : undefined,
  };
}

/** Gives each task that has times a lane which is free then, the first one if there are several. */
function layOut(entries: Entry[]): Bar[] {
  const timed = entries.filter(({ started }) => started !== undefined);
  timed.sort((a, b) => a.started! - b.started! || a.runtime! - b.runtime!);
  const ends: number[] = [];
  return timed.map((entry) => {
    const started = (entry.started! - timed[0].started!) * 1000;
    // `started` is cut off to milliseconds: within the next one, a lane may still be getting free.
    const free = ends.findIndex((end) => end < started + 1000);
    const lane = free < 0 ? ends.length : free;
    const start = Math.max(started, ends[lane] ?? 0);
    const duration = Math.max(1, Math.round(entry.runtime! * 1e6));
    ends[lane] = start + duration;
    return { entry, lane, start, duration };
  });
}

const laneCount = (bars: Bar[]) => bars.reduce((most, { lane }) => Math.max(most, lane + 1), 0);
const firstStart = (bars: Bar[]) => bars[0].entry.started! - bars[0].start / 1000;

/** The times in which tasks ran, joined where the pause between them is short beside them. */
function stretchesOf(bars: Bar[], longestPause = 0): Stretch[] {
  const stretches: Stretch[] = [];
  for (const { start, duration } of bars) {
    const last = stretches.at(-1);
    if (last && start <= last[1] + longestPause) last[1] = Math.max(last[1], start + duration);
    else stretches.push([start, start + duration]);
  }
  return longestPause ? stretches : stretchesOf(bars, Math.max(1e6, lengthOf(stretches) / 4));
}

const lengthOf = (stretches: Stretch[]) =>
  stretches.reduce((sum, [start, end]) => sum + end - start, 0);

// ------------------------------------------------------------------------------------- the page

const escape = (text: string) => text.replace(/[&<>"'\r]/g, (c) => `&#${c.charCodeAt(0)};`);
const cut = (text: string, most: number) => text.length > most ? `${text.slice(0, most)} …` : text;
const number = (value: number) => value.toLocaleString("en");
const tasks = (count: number) => `${number(count)} ${count === 1 ? "task" : "tasks"}`;

function section(title: string, note: string, body: string): string {
  const name = title.replace(" ", "-").toLowerCase();
  const heading = `<h2 id="${name}">${title}</h2><p class="note">${note}</p>`;
  return `<section aria-labelledby="${name}">${heading}${body}</section>`;
}

/** In UTC, until the script of the page replaces it by local time. */
function time(milliseconds: number): string {
  const iso = new Date(milliseconds).toISOString();
  return `<time datetime="${iso}">${iso.replace("T", " ").slice(0, 19)} UTC</time>`;
}

function totalsSection(entries: Entry[], bars: Bar[], stretches: Stretch[]): string {
  const words = { done: "Done", fail: "Failed", running: "Running", todo: "Waiting" };
  const counts = Object.entries(words).map(([state, word]) => {
    const count = entries.filter((entry) => entry.state === state).length;
    const percent = count / entries.length * 100;
    const share = !count ? "" : percent < 0.1 ? "&lt; 0.1 %" : `${percent.toFixed(1)} %`;
    const figure = `<dt>${word}</dt><dd>${number(count)} <small>${share}</small></dd>`;
    const part = count ? `<i class="${state}" style="flex-grow:${count}"></i>` : "";
    return { figure: `<div class="${state}">${figure}</div>`, part };
  });
  const runtimes = bars.map(({ entry }) => entry.runtime!).sort((a, b) => a - b);
  const quantile = (share: number) => duration(runtimes[Math.ceil(share * runtimes.length) - 1]);
  const sum = runtimes.reduce((sum, runtime) => sum + runtime, 0);
  const elapsed = lengthOf(stretches) / 1e6;
  const facts = bars.length
    ? {
      "Elapsed": duration(elapsed),
      "Sum of run times": duration(sum),
      "Mean at once": (sum / elapsed).toFixed(1),
      "Median run time": quantile(0.5),
      "95 % took at most": quantile(0.95),
      "Longest run time": quantile(1),
      "Needed a retry": tasks(entries.filter(({ attempts }) => attempts! > 1).length),
    }
    : {};
  const list = Object.entries(facts).map(([name, value]) =>
    `<div><dt>${name}</dt><dd>${value}</dd></div>`
  );
  const unreadable = entries.filter((entry) => entry.unreadable);
  const names = unreadable.slice(0, 5).map(({ id, state }) => `${state}/${id}.json`);
  const others = unreadable.length > 5 ? ` and ${number(unreadable.length - 5)} more` : "";
  const warning = `Cannot be read as a task: ${escape(names.join(", "))}${others}.`;
  const none = "This list is empty: schedule tasks, run them, and make this report again.";
  const body = [
    `<dl class="counts">${counts.map(({ figure }) => figure).join("")}</dl>`,
    `<div class="share" aria-hidden="true">${counts.map(({ part }) => part).join("")}</div>`,
    list.length ? `<dl class="facts">${list.join("")}</dl>` : "",
    unreadable.length ? `<p class="warning">${warning}</p>` : "",
  ];
  return section(
    "Totals",
    entries.length ? `${tasks(entries.length)} in all.` : none,
    body.join(""),
  );
}

function timelineSection(entries: Entry[], bars: Bar[], stretches: Stretch[]): string {
  if (!bars.length) return section("Timeline", "No finished task to draw yet.", "");
  const ended = entries.filter(({ state }) => state === "done" || state === "fail").length;
  const untimed = tasks(ended - bars.length);
  const notes = [
    `A lane for each process, from ${time(firstStart(bars))}`,
    ` to ${time(firstStart(bars) + stretches.at(-1)![1] / 1000)}.`,
    stretches.length > 1 ? " Pauses are cut short." : "",
    ended > bars.length ? ` Not drawn: ${untimed} without times, as after a crash.` : "",
  ];
  const label = `Timeline of ${tasks(bars.length)} in ${laneCount(bars)} lanes`;
  const body = `<div class="tools"><span class="legend"><i class="done"></i>done
<i class="fail"></i>failed</span><span role="group" aria-label="Zoom"><button data-zoom="0.5"
aria-label="Zoom out">−</button><button data-zoom="2" aria-label="Zoom in">+</button><button
data-zoom="0">Whole</button></span></div><canvas tabindex="0" role="application"
aria-label="${label}" aria-describedby="keys"></canvas><output aria-live="polite">Point at a task
to see what it is.</output><p class="note" id="keys">Keys, when the timeline has the focus:
<kbd>←</kbd> <kbd>→</kbd> go through the tasks, <kbd>+</kbd> <kbd>−</kbd> <kbd>0</kbd> zoom.</p>
<noscript>The timeline is drawn by a script, and this browser runs none.</noscript>`;
  return section("Timeline", notes.join(""), body);
}

/** What the script of the page draws, in columns to be small. */
function timelineData(bars: Bar[], stretches: Stretch[]): string {
  const data = {
    first: bars.length ? firstStart(bars) : 0,
    stretches,
    ids: bars.map(({ entry }) => entry.id),
    starts: bars.map(({ start }, index) => start - (bars[index - 1]?.start ?? 0)),
    durations: bars.map(({ duration }) => duration),
    lanes: bars.map(({ lane }) => lane),
    failed: bars.flatMap(({ entry }, index) => entry.state === "fail" ? [index] : []),
  };
  return JSON.stringify(data).replaceAll("<", "\\u003c");
}

function runTimesSection(bars: Bar[]): string {
  if (!bars.length) return section("Run times", "No finished task to count yet.", "");
  const { bins, ticks, logarithmic } = histogram(bars);
  const most = bins.reduce((most, { count }) => Math.max(most, count), 1);
  const step = Math.max(1, niceStep(most / 4, false));
  const levels = Array.from({ length: Math.ceil(most / step) + 1 }, (_, level) => level * step);
  const height = (count: number) => count && Math.max(2, count / levels.at(-1)! * 180);
  const lines = levels.map((count) => {
    const y = 190 - height(count);
    return `<line x2="100%" y1="${y}" y2="${y}"/><text x="-8" y="${y + 4}">${number(count)}</text>`;
  });
  const width = 100 / bins.length;
  const columns = bins.map(({ from, to, count, failed }, index) => {
    const rect = (state: string, count: number) =>
      `<rect class="${state}" x="${index * width}%" width="${width}%"` +
      ` y="${190 - height(count)}" height="${height(count)}"/>`;
    const label = `${duration(from)} to ${duration(to)}: ${tasks(count)}, ${number(failed)} failed`;
    const drawn = `<title>${label}</title>${rect("done", count)}${rect("fail", failed)}`;
    return count ? `<g role="listitem" aria-label="${label}">${drawn}</g>` : "";
  });
  const labels = ticks.map(({ value, at }) =>
    `<line class="tick" x1="${at}%" x2="${at}%" y1="190" y2="195"/>` +
    `<text class="tick" x="${at}%" y="211">${duration(value)}</text>`
  );
  const note = `How many tasks ran for how long${logarithmic ? ", on a logarithmic scale" : ""}.`;
  const drawn = [...lines, ...columns, ...labels].join("");
  return section("Run times", note, `<svg role="list" aria-label="${note}">${drawn}</svg>`);
}

/** Bins with round limits; each is wider by a factor if some tasks ran far longer than others. */
function histogram(bars: Bar[]) {
  const runtimes = bars.map(({ duration }) => duration / 1e6).sort((a, b) => a - b);
  const [shortest, longest] = [runtimes[0], runtimes.at(-1)!];
  const logarithmic = longest > 30 * shortest;
  const margin = logarithmic ? 0 : Math.max(0, longest * 0.1 - (longest - shortest)) / 2;
  const step = logarithmic
    ? 1 / Math.max(1, Math.min(10, Math.floor(24 / Math.log10(longest / shortest))))
    : niceStep((longest - shortest + 2 * margin) / 20);
  const scale = (value: number) => (logarithmic ? Math.log10(value) : value) / step;
  const limit = (bin: number) => logarithmic ? 10 ** (bin * step) : bin * step;
  const low = Math.floor(scale(shortest - margin) + 1e-9);
  const length = Math.floor(scale(longest + margin) + 1e-9) + 1 - low;
  const bins = Array.from({ length }, (_, bin) => {
    return { from: limit(low + bin), to: limit(low + bin + 1), count: 0, failed: 0 };
  });
  for (const { entry, duration } of bars) {
    const bin = bins[Math.floor(scale(duration / 1e6) + 1e-9) - low];
    bin.count++;
    if (entry.state === "fail") bin.failed++;
  }
  const isDense = longest < 100 * shortest;
  const small = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1]
    .flatMap((decade) => isDense ? [decade, 2 * decade, 5 * decade] : [decade]);
  const large = [10, 30, 60, 180, 600, 1800, 3600, 10800, 36000, 86400, 259200, 864000, 2592000]
    .filter((_, index) => isDense || index % 2 === 0);
  const values = logarithmic
    ? [...small, ...large]
    : bins.map(({ from }) => from).filter((_, bin) => (low + bin) % Math.ceil(length / 4) === 0);
  const ticks = values.map((value) => ({ value, at: (scale(value) - low) / length * 100 }))
    .filter(({ at }) => at > -1e-6 && at < 100.000001);
  return { bins, logarithmic, ticks };
}

const PROGRAM = /^Error: `([^`\s]+)[^`]*` (exited with code \d+|was killed by \w+)/;

function failuresSection(directory: string, entries: Entry[]): string {
  const groups = new Map<string, Entry[]>();
  for (const entry of entries) {
    const { message } = entry.failure ?? {};
    if (message === undefined) continue;
    // of a program, the words and what it has printed differ
    const [, program, how] = PROGRAM.exec(message) ?? [];
    const kind = program ? `${program} ${how}` : message;
    if (!groups.has(kind)) groups.set(kind, []);
    groups.get(kind)!.push(entry);
  }
  if (!groups.size) return section("Failures", "No task has failed.", "");
  const command = ({ id }: Entry) => {
    const path = quote(`${directory}/fail/${id}.json`);
    const code = `<code>forrest exec ${escape(path)} --raise</code>`;
    return `<div class="command">${code}<button>Copy</button></div>`;
  };
  const fold = (title: string, body: string) =>
    `<details><summary>${title}</summary>${body}</details>`;
  const sorted = [...groups].sort(([, a], [, b]) => b.length - a.length);
  const rows = sorted.slice(0, 50).map(([, [first, ...others]]) => {
    const { message } = first.failure!;
    const stack = first.failure?.stack ?? "";
    const left = others.length > 20 ? `<p>And ${number(others.length - 20)} more.</p>` : "";
    const same = others.slice(0, 20).map(command).join("") + left;
    const cell = [
      `<pre>${escape(cut(message, 1000))}</pre>${command(first)}`,
      stack && fold("Stack", `<pre>${escape(cut(stack, 4000))}</pre>`),
      same && fold(`The same in ${tasks(others.length)} more`, same),
    ];
    return `<tr><td>${number(others.length + 1)}</td><td>${cell.join("")}</td></tr>`;
  });
  const failed = sorted.reduce((sum, [, group]) => sum + group.length, 0);
  const rare = groups.size > 50 ? ` (the ${number(groups.size - 50)} rarest are left out)` : "";
  const messages = `${number(groups.size)} ${groups.size === 1 ? "message" : "messages"}${rare}`;
  const note = `${tasks(failed)} with ${messages}. Each command runs its task again, in the ` +
    "terminal, and throws what it throws.";
  const names = ["Tasks", "Message, and how to reproduce it"];
  const head = names.map((name) => `<th scope="col">${name}</th>`).join("");
  const table = `<table><thead><tr>${head}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
  return section("Failures", note, table);
}

// ------------------------------------- what the page has too: each function's text, and nothing around it

/** A time in the units that suit it, so that times `step` apart differ. */
function duration(seconds: number, step = seconds / 60): string {
  if (!seconds) return "0 s";
  const digits = Math.min(15, Math.max(3, 1 + Math.ceil(Math.log10(seconds / step))));
  const rounded = Number(seconds.toPrecision(digits));
  const [unit, size] = rounded < 1e-3 ? ["µs", 1e-6] : rounded < 1 ? ["ms", 1e-3] : ["s", 1];
  if (rounded < 60) return `${Number((rounded / (size as number)).toPrecision(digits))} ${unit}`;
  const parts: string[] = [];
  const least = [86400, 3600, 60, 1].find((size) => size <= step);
  let rest = least ? Math.round(seconds / least) * least : rounded;
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]] as const) {
    if (rest >= size) parts.push(`${Math.floor(rest / size)} ${unit}`);
    rest %= size;
    if (size <= step) return parts.join(" ");
  }
  return [...parts, rest ? `${Number(rest.toFixed(6))} s` : ""].join(" ").trim();
}

/** The least round number from `value` up: 1, 2 or 5 with zeros, or a round time. */
function niceStep(value: number, isTime = true): number {
  const power = 10 ** Math.floor(Math.log10(value));
  const decimal = power * [1, 2, 5, 10].find((factor) => factor * power > value * 0.999999)!;
  if (!isTime || decimal <= 20) return decimal;
  const times = [30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
  return times.find((time) => time > value * 0.999999) ?? 86400 * niceStep(value / 86400, false);
}

/** Shows local times, copies commands, and draws the timeline. */
function animate(format: typeof duration, round: typeof niceStep): void {
  // deno-lint-ignore no-explicit-any
  const page = globalThis as any;
  const all = (selector: string) => [...page.document.querySelectorAll(selector)];
  const local = (milliseconds: number) => new Date(milliseconds).toLocaleString("sv");
  for (const time of all("time")) time.textContent = local(Date.parse(time.dateTime));
  for (const button of all(".command button")) {
    button.onclick = async () => {
      const code = button.previousSibling;
      page.getSelection().selectAllChildren(code); // which also helps where the clipboard is closed
      await page.navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    };
  }
  const [canvas, output] = all("canvas, output");
  if (!canvas) return;

  const data = JSON.parse(all("#data")[0].textContent);
  const { first, ids, starts, durations, lanes } = data;
  for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
  const failed = new Set<number>(data.failed);
  const laneCount = lanes.reduce((most: number, lane: number) => Math.max(most, lane + 1), 0);
  // Where times are, from 0 to 1: stretches of work to scale, with pauses of one width between them.
  const pause = Math.min(0.03, 0.3 / data.stretches.length);
  let scale = 0; // of a microsecond
  for (const [start, end] of data.stretches) scale += end - start;
  scale = (1 - pause * (data.stretches.length - 1)) / scale;
  let edge = 0;
  const stretches = data.stretches.map(([start, end]: [number, number]) => {
    const stretch = { start, end, from: edge, to: edge + (end - start) * scale };
    edge = stretch.to + pause;
    return stretch;
  });
  let current = 0;
  const places: number[] = starts.map((start: number) => {
    while (start > stretches[current].end) current++;
    return stretches[current].from + (start - stretches[current].start) * scale;
  });

  const [left, top, bottom] = [28, 20, 22];
  const row = laneCount < 380 ? Math.min(22, Math.ceil(380 / laneCount)) : 380 / laneCount;
  const gap = row > 8 ? 2 : row > 3 ? 1 : 0;
  let [low, span, width, selected] = [0, 1, 0, -1];
  const x = (place: number) => left + (place - low) / span * width;
  const extent = (i: number) => [x(places[i]), x(places[i] + durations[i] * scale)];

  function draw(): void {
    const context = canvas.getContext("2d");
    const height = row * laneCount;
    const ratio = page.devicePixelRatio;
    width = canvas.clientWidth - left - 1;
    canvas.style.height = `${top + height + bottom}px`;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = (top + height + bottom) * ratio;
    context.scale(ratio, ratio);
    const style = page.getComputedStyle(canvas);
    const color = (name: string) => style.getPropertyValue(`--${name}`);
    context.font = `11px ${style.fontFamily}`;
    context.textBaseline = "middle";
    let free = 0;
    const write = (text: string, at: number, y: number) => {
      const half = context.measureText(text).width / 2;
      const middle = Math.max(left + half, Math.min(left + width - half, at));
      if (at < left || at > left + width || middle - half < free) return false;
      context.fillStyle = color("muted");
      context.fillText(text, middle - half, y);
      free = middle + half + 12;
      return true;
    };
    const every = round(16 / row, false);
    context.fillStyle = color("muted");
    for (let lane = 0; lane < laneCount; lane += Math.max(1, every)) {
      context.fillText(`${lane + 1}`, 0, top + (lane + 0.5) * row);
    }
    const step = round(Math.max(80 / width * span / scale / 1e6, 1e-6));
    for (const { start, end, from } of stretches) {
      const length = (end - start) / 1e6;
      for (let k = Math.max(0, Math.ceil((low - from) / scale / 1e6 / step));; k++) {
        const at = x(from + k * step * 1e6 * scale);
        if (k * step > length || at > left + width) break;
        context.fillStyle = color("line");
        if (!write(format(k * step, step), at, top + height + 13)) continue;
        context.fillStyle = color("line");
        context.fillRect(Math.round(at), top, 1, height);
      }
    }
    free = 0;
    context.save();
    context.beginPath();
    context.rect(left, 0, width + 1, top + height);
    context.clip();
    for (let i = 1; i < stretches.length; i++) {
      const [from, to] = [x(stretches[i - 1].to), x(stretches[i].from)];
      context.fillStyle = color("line");
      context.fillRect(from, top, to - from, height);
      const idle = `${format((stretches[i].start - stretches[i - 1].end) / 1e6)} idle`;
      write(idle, (from + to) / 2, 8);
    }
    const bar = (i: number, least: number) => {
      const [from, to] = extent(i);
      if (to < left || from > left + width) return;
      const size = Math.max(least, to - from - (to - from > 4 ? 1 : 0));
      context.fillRect(from, top + lanes[i] * row, size, row - gap);
    };
    context.fillStyle = color("done");
    for (let i = 0; i < ids.length; i++) if (!failed.has(i)) bar(i, 0.8);
    context.fillStyle = color("fail");
    for (const i of failed) bar(i, 1);
    context.fillStyle = color("ink");
    if (selected >= 0) bar(selected, 3);
    context.restore();
  }

  function select(i: number): void {
    selected = i;
    const state = failed.has(i) ? "failed" : "done";
    const times = `started ${local(first + starts[i] / 1000)}, ran ${format(durations[i] / 1e6)}`;
    output.textContent = `${ids[i]}: ${state}, ${times}, in lane ${lanes[i] + 1}`;
    draw();
  }

  function look(middle: number, wide: number): void {
    span = Math.max(Math.min(1, 100 * scale), Math.min(1, wide));
    low = Math.max(0, Math.min(1 - span, middle - span / 2));
    draw();
  }

  const zoom = (factor: number) => {
    const middle = selected < 0 ? low + span / 2 : places[selected];
    look(middle, factor ? span / factor : 1);
  };
  for (const button of all("[data-zoom]")) button.onclick = () => zoom(+button.dataset.zoom);
  canvas.onpointermove = canvas.onpointerdown = (event: Record<string, number>) => {
    if (event.buttons) look(low + span / 2 - event.movementX / width * span, span);
    let [found, least] = [-1, 5]; // pixels
    for (let i = 0; i < ids.length; i++) {
      if (lanes[i] !== Math.floor((event.offsetY - top) / row)) continue;
      const [from, to] = extent(i);
      const distance = Math.max(from - event.offsetX, event.offsetX - to, 0);
      if (distance < least) [found, least] = [i, distance];
    }
    if (found >= 0 && found !== selected) select(found);
  };
  canvas.onkeydown = (event: { key: string; preventDefault(): void }) => {
    const [zooms, steps] = [{ "+": 2, "-": 0.5, "0": 0 }, { ArrowLeft: -1, ArrowRight: 1 }];
    const [factor, step] = [zooms[event.key as "+"], steps[event.key as "ArrowLeft"]];
    if (factor === undefined && !step) return;
    event.preventDefault();
    if (!step) return zoom(factor);
    select(Math.max(0, Math.min(ids.length - 1, selected + step)));
    if (places[selected] < low || places[selected] > low + span) look(places[selected], span);
  };
  page.matchMedia("(prefers-color-scheme: dark)").onchange = draw;
  new page.ResizeObserver(draw).observe(canvas.parentElement);
  draw();
}

const STYLE = `
:root { --paper: #f6f7f8; --card: #fff; --ink: #1a1f26; --muted: #5a6472; --line: #e2e6ea;
  --done: #2f6db5; --fail: #c8451b; --running: #a97b00; --todo: #98a2ae; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --paper: #0f1216; --card: #171b21; --ink: #e8ebef;
  --muted: #9ba6b3; --line: #2a313a; --done: #5c9ce0; --fail: #f2784b; --running: #d9ac3c;
  --todo: #6c7785 } }
* { box-sizing: border-box; margin: 0 }
body { font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; color: var(--ink);
  background: var(--paper); max-width: 1180px; margin: auto; padding: clamp(14px, 3vw, 40px);
  overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25; letter-spacing: -.01em }
h2 { font-size: 1.05rem }
header p, .note, dt, small, th, summary, output { color: var(--muted) }
.note, .tools, output, summary, button, th, .facts { font-size: .875rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: clamp(14px, 2vw, 24px); margin-top: 18px }
.counts { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px;
  margin: 14px 0 }
.counts dt::before, .legend i { content: ""; display: inline-block; width: .65em; height: .65em;
  border-radius: 2px; margin-right: .45em; background: var(--color) }
.counts dd { font-size: 1.75rem; font-weight: 600; line-height: 1.2; letter-spacing: -.01em }
small { font-size: .875rem; font-weight: 400; letter-spacing: 0 }
.done { --color: var(--done) } .fail { --color: var(--fail) }
.running { --color: var(--running) } .todo { --color: var(--todo) }
.share { display: flex; gap: 2px; height: 8px; border-radius: 4px; overflow: hidden;
  background: var(--line) }
.share i { min-width: 4px; flex-basis: 0; background: var(--color) }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 12px;
  margin-top: 16px }
.facts dd { font-weight: 600; font-size: 1rem }
.warning { margin-top: 16px; color: var(--fail) }
.tools { display: flex; justify-content: space-between; align-items: center; margin: 12px 0 6px }
.legend i + i, .legend .fail { margin-left: .9em }
canvas { display: block; width: 100%; touch-action: pan-y; cursor: crosshair }
output { display: block; min-height: 1.5em; margin-top: 6px }
button { font: inherit; font-size: .8125rem; color: inherit; background: none; padding: 2px 10px;
  border: 1px solid var(--line); border-radius: 6px; margin-left: 6px; cursor: pointer }
button:hover { border-color: var(--muted) }
:focus-visible { outline: 2px solid var(--done); outline-offset: 2px; border-radius: 4px }
kbd { font: inherit; border: 1px solid var(--line); border-radius: 4px; padding: 0 5px }
svg { display: block; overflow: visible; width: calc(100% - 64px); height: 220px; margin: 12px 16px 0 48px }
svg rect { fill: var(--color); stroke: var(--card) } svg line { stroke: var(--line) }
svg line.tick { stroke: var(--muted) }
svg text { fill: var(--muted); font-size: 11px; text-anchor: end } svg text.tick { text-anchor: middle }
table { width: 100%; border-collapse: collapse; table-layout: fixed; margin-top: 12px }
th, td { text-align: left; vertical-align: top; padding: 10px 0; border-top: 1px solid var(--line) }
th { font-weight: 500; border: 0; padding: 0 0 6px } th:first-child { width: 64px }
td:first-child { font-weight: 600 }
pre, code { font: .8125rem/1.55 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap }
pre { max-height: 20em; overflow: auto }
.command { display: flex; justify-content: space-between; align-items: start; margin-top: 6px }
.command code { background: var(--paper); border-radius: 6px; padding: 3px 8px; flex: 1 }
details { margin-top: 8px } summary { cursor: pointer } details p { margin-top: 6px }
`;

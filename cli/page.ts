/**
 * A task list as one HTML page that needs nothing else.
 *
 * @module
 */

import type { State } from "../mod.ts";
import style from "./page.css" with { type: "text" };
import page from "./page.html" with { type: "text" };
import script from "./page.js" with { type: "text" };
import { kindOf } from "./task.ts";
import { exactDuration as duration, quote } from "./terminal.ts";
import tools from "./timeline.html" with { type: "text" };
import { type Bar, type Entry, lengthOf, readTimeline, type Timeline } from "./timeline.ts";

/** One self-contained HTML page about a list: totals, failures, timeline, histogram of run times. */
export async function reportPage(directory: string): Promise<string> {
  const timeline = await readTimeline(directory);
  const sections = [
    totalsSection(timeline),
    failuresSection(directory, timeline.entries),
    timelineSection(timeline),
    runTimesSection(timeline.bars),
  ];
  const shared = `const duration = ${duration};\nconst niceStep = ${niceStep};`;
  return fill(page, {
    title: `Task list ${escape(directory)}`,
    time: time(Date.now()),
    style: `<style>\n${style}</style>`,
    sections: sections.join("\n"),
    data: `<script type="application/json" id="data">${timelineData(timeline)}</script>`,
    script: `<script>\n(() => {\n${shared}\n${script}})();\n</script>`,
  });
}

/** A text with something in each of its places, such as `$title` or `<!-- $script -->`. */
const fill = (text: string, parts: Record<string, string>): string =>
  text.replace(/<!-- \$(\w+) -->|\$(\w+)/g, (_, element, word) => parts[element ?? word]);

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

function totalsSection({ entries, bars, stretches }: Timeline): string {
  const words = { done: "Done", fail: "Failed", running: "Running", todo: "Waiting" };
  const counts = Object.entries(words).map(([state, word]) => {
    const count = entries.filter((entry) => entry.state === state).length;
    const percent = count / entries.length * 100;
    const share = !count ? "" : percent < 0.1 ? "&lt; 0.1 %" : `${percent.toFixed(1)} %`;
    const figure = `<dt>${word}</dt><dd>${number(count)} <small>${share}</small></dd>`;
    const part = count ? `<i class="${state}" style="flex-grow:${count}"></i>` : "";
    return { figure: `<div class="${state}">${figure}</div>`, part };
  });
  const runtimes = bars.map(({ duration }) => duration / 1e6).sort((a, b) => a - b);
  const quantile = (share: number) => duration(runtimes[Math.ceil(share * runtimes.length) - 1]);
  const sum = runtimes.reduce((sum, runtime) => sum + runtime, 0);
  const elapsed = lengthOf(stretches) / 1e6;
  const facts = bars.length
    ? {
      "Elapsed": duration(elapsed),
      "Sum of run times": duration(sum),
      "At once, on average": (sum / elapsed).toFixed(1),
      "Median run time": quantile(0.5),
      "95 % took at most": quantile(0.95),
      "Longest run time": quantile(1),
      "Tried more than once": tasks(entries.filter(({ attempts }) => attempts! > 1).length),
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
  const note = entries.length ? `${tasks(entries.length)} in all.` : none;
  return section("Totals", note, body.join(""));
}

function timelineSection({ entries, bars, rows, start, stretches }: Timeline): string {
  if (!bars.length) return section("Timeline", "No finished task to draw yet.", "");
  const untimed = entries.filter(({ state, tries }) =>
    (state === "done" || state === "fail") && !tries.length
  );
  const notes = [
    `A lane for each process, from ${time(start)}`,
    ` to ${time(start + stretches.at(-1)![1] / 1000)}.`,
    rows.some((rows) => rows > 1)
      ? " Where a process held several tasks at once, they share its lane."
      : "",
    stretches.length > 1 ? " Pauses are cut short." : "",
    untimed.length ? ` Not drawn: ${tasks(untimed.length)} without times, as after a crash.` : "",
  ];
  const again = bars.filter(({ state }) => state === "todo").length;
  const tries = again ? `, and ${number(again)} earlier tries,` : "";
  const label = `Timeline of ${tasks(bars.length - again)}${tries} in ${rows.length} lanes`;
  return section("Timeline", notes.join(""), fill(tools, { label }));
}

/** What the script of the page draws, in columns to be small. */
function timelineData({ bars, rows, start, stretches }: Timeline): string {
  const indexes = (wanted: State) =>
    bars.flatMap(({ state }, index) => state === wanted ? [index] : []);
  const data = {
    first: start,
    stretches,
    names: bars.map(({ entry }) => entry.name),
    starts: bars.map(({ start }, index) => start - (bars[index - 1]?.start ?? 0)),
    durations: bars.map(({ duration }) => duration),
    lanes: bars.map(({ lane }) => lane),
    rows: rows.some((rows) => rows > 1) ? bars.map(({ row }) => row) : [],
    rowsOf: rows,
    failed: indexes("fail"),
    again: indexes("todo"),
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
  for (const { state, duration } of bars) {
    const bin = bins[Math.floor(scale(duration / 1e6) + 1e-9) - low];
    bin.count++;
    if (state !== "done") bin.failed++;
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

function failuresSection(directory: string, entries: Entry[]): string {
  const failed = entries.filter(({ failure }) => failure);
  const groups = Map.groupBy(failed, ({ failure, name }) => kindOf(failure!.message, name));
  if (!groups.size) return section("Failures", "No task has failed.", "");
  const command = ({ id, name }: Entry) => {
    const path = quote(`${directory}/fail/${id}.json`);
    const line = name === id ? "" : `<p>${escape(cut(name, 200))}</p>`;
    const code = `<code>forrest exec ${escape(path)} --raise</code>`;
    return `${line}<div class="command">${code}<button>Copy</button></div>`;
  };
  const fold = (title: string, body: string) =>
    `<details><summary>${title}</summary>${body}</details>`;
  const sorted = [...groups].sort(([, a], [, b]) => b.length - a.length);
  const triesOf = ({ tries }: Entry) =>
    tries.slice(0, -1).map(({ started, seconds, error = "failed" }) =>
      `<p>${time(started)}, ran ${duration(seconds!)}: ${escape(cut(error, 200))}</p>`
    );
  const rows = sorted.slice(0, 50).map(([, [first, ...others]]) => {
    const { message } = first.failure!;
    const stack = first.failure?.stack ?? "";
    const left = others.length > 20 ? `<p>And ${number(others.length - 20)} more.</p>` : "";
    const same = others.slice(0, 20).map(command).join("") + left;
    const cell = [
      `<pre>${escape(cut(message, 1000))}</pre>${command(first)}`,
      first.tries.length > 1 && fold("Tried before", triesOf(first).join("")),
      stack && fold("Stack", `<pre>${escape(cut(stack, 4000))}</pre>`),
      same && fold(`The same in ${tasks(others.length)} more`, same),
    ];
    return `<tr><td>${number(others.length + 1)}</td><td>${
      cell.filter(Boolean).join("")
    }</td></tr>`;
  });
  const rare = groups.size > 50 ? ` (the ${number(groups.size - 50)} rarest are left out)` : "";
  const messages = `${number(groups.size)} ${groups.size === 1 ? "message" : "messages"}${rare}`;
  const note =
    `${tasks(failed.length)} with ${messages}. Each command runs its task again, in the ` +
    "terminal, and throws what it throws.";
  const names = ["Tasks", "Message, and how to reproduce it"];
  const head = names.map((name) => `<th scope="col">${name}</th>`).join("");
  const table = `<table><thead><tr>${head}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
  return section("Failures", note, table);
}

// ---------------- what the script of the page has too: the text of it, and nothing around it

/** The least round number from `value` up: 1, 2 or 5 with zeros, or a round time. */
function niceStep(value: number, isTime = true): number {
  const power = 10 ** Math.floor(Math.log10(value));
  const decimal = power * [1, 2, 5, 10].find((factor) => factor * power > value * 0.999999)!;
  if (!isTime || decimal <= 20) return decimal;
  const times = [30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
  return times.find((time) => time > value * 0.999999) ?? 86400 * niceStep(value / 86400, false);
}

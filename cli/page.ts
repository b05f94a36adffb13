/**
 * `forrest report`: a task list as one HTML page that needs nothing else, or as a trace.
 *
 * @module
 */

import { writeFileSync } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import { messageOf, textOfError } from "./code.ts";
import type { Command, Input } from "./command.ts";
import help from "./help/report.txt" with { type: "text" };
import { directoryOf, kindOf } from "./list.ts";
import style from "./page.css" with { type: "text" };
import page from "./page.html" with { type: "text" };
import script from "./page.js" with { type: "text" };
import { cut, duration, quote, write } from "./terminal.ts";
import tools from "./timeline.html" with { type: "text" };
import { type Bar, type Entry, lengthOf, readTimeline } from "./timeline.ts";
import { type Timeline, traceEvents } from "./timeline.ts";

export const report: Command = { help, most: 1, action: writeReport };

async function writeReport(input: Input): Promise<void> {
  const directory = directoryOf(input);
  const trace = input.text("trace");
  const page = input.text("output") ?? (trace ? undefined : "report.html");
  for (const [path, make] of [[page, reportPage], [trace, traceEvents]] as const) {
    if (path === undefined) continue;
    const text = await make(directory);
    if (path === "-") write("stdout", text);
    else writeFileSync(path, text);
    if (path !== "-") write("stdout", `Written: ${path}\n`);
  }
}

/** One self-contained HTML page about a list: totals, failures, timeline, histogram of run times. */
export async function reportPage(directory: string): Promise<string> {
  const timeline = await readTimeline(directory);
  const shared = `const duration = ${duration};\nconst niceStep = ${niceStep};`;
  return fill(page, {
    title: `Task list ${escape(directory)}`,
    time: time(Date.now()),
    style: `<style>\n${style}</style>`,
    sections: [
      totalsSection(timeline),
      failuresSection(directory, timeline),
      timelineSection(timeline),
      runTimesSection(timeline.bars),
    ].join("\n"),
    data: `<script type="application/json" id="data">${timelineData(timeline)}</script>`,
    script: `<script>\n(() => {\n${shared}\n${script}})();\n</script>`,
  });
}

/** A text with something in each of its places, such as `$title` or `<!-- $script -->`. */
const fill = (text: string, parts: Record<string, string>): string =>
  text.replace(/<!-- \$(\w+) -->|\$(\w+)/g, (_, element, word) => parts[element ?? word]);

const escape = (text: string) =>
  stripVTControlCharacters(text).replace(/[&<>"'\r]/g, (c) => `&#${c.charCodeAt(0)};`);
const number = (value: number) => value.toLocaleString("en");
const tasks = (count: number, what = "task") => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

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
      "Tried more than once": tasks(entries.filter(({ attempts }) => attempts > 1).length),
    }
    : {};
  const list = Object.entries(facts).map(([name, value]) =>
    `<div><dt>${name}</dt><dd>${value}</dd></div>`
  );
  const broken = entries.filter(({ isBroken }) => isBroken).map(({ id }) => `done/${id}.json`);
  const warning = `Cannot be read as a task: ${escape(cut(broken.join(", "), 500))}`;
  const none = "This list is empty: schedule tasks, run them, and make this report again.";
  const body = [
    `<dl class="counts">${counts.map(({ figure }) => figure).join("")}</dl>`,
    `<div class="share" aria-hidden="true">${counts.map(({ part }) => part).join("")}</div>`,
    list.length ? `<dl class="facts">${list.join("")}</dl>` : "",
    broken.length ? `<p class="warning">${warning}</p>` : "",
  ];
  const note = entries.length ? `${tasks(entries.length)} in all.` : none;
  return section("Totals", note, body.join(""));
}

function timelineSection({ entries, bars, rows, start, stretches }: Timeline): string {
  if (!bars.length) return section("Timeline", "No finished task to draw yet.", "");
  const finished = entries.filter(({ state }) => /done|fail/.test(state)).length;
  const again = bars.filter(({ state }) => state === "todo").length;
  const untimed = finished - (bars.length - again);
  const notes = [
    `A lane for each process, from ${time(start)}`,
    ` to ${time(start + stretches.at(-1)![1] / 1000)}.`,
    rows.some((rows) => rows > 1)
      ? " Where a process held several tasks at once, they share its lane."
      : "",
    stretches.length > 1 ? " Pauses are cut short." : "",
    untimed ? ` Not drawn: ${tasks(untimed)} without times, as after a crash.` : "",
  ];
  const tries = again ? `, and ${number(again)} earlier tries,` : "";
  const label = `Timeline of ${tasks(bars.length - again)}${tries} in ${rows.length} lanes`;
  return section("Timeline", notes.join(""), fill(tools, { label }));
}

/** What the script of the page draws, in columns to be small. */
function timelineData({ bars, rows, start, stretches }: Timeline): string {
  const data = {
    first: start,
    stretches,
    names: bars.map(({ entry }) => entry.name),
    starts: bars.map(({ start }, index) => start - (bars[index - 1]?.start ?? 0)),
    durations: bars.map(({ duration }) => duration),
    lanes: bars.map(({ lane }) => lane),
    rows: bars.map(({ row }) => row),
    rowsOf: rows,
    states: bars.map(({ state }) => state[0]).join(""),
  };
  return JSON.stringify(data).replaceAll("<", "\\u003c");
}

function runTimesSection(bars: Bar[]): string {
  if (!bars.length) return section("Run times", "No finished task to count yet.", "");
  const limits = roundLimits(bars.map(({ duration }) => duration / 1e6));
  const bins = limits.slice(1).map((to, bin) => ({ from: limits[bin], to, count: 0, failed: 0 }));
  for (const { state, duration } of bars) {
    const bin = bins[limits.findLastIndex((limit) => limit <= duration / 1e6)];
    bin.count++;
    if (state !== "done") bin.failed++;
  }
  const most = Math.max(...bins.map(({ count }) => count));
  const height = (count: number) => count && Math.max(2, count / most * 180);
  const lines = [0, most].map((count) => {
    const y = 190 - height(count);
    return `<line x2="100%" y1="${y}" y2="${y}"/><text x="-8" y="${y + 4}">${number(count)}</text>`;
  });
  const every = Math.ceil(bins.length / 6);
  const columns = bins.map(({ from, to, count, failed }, index) => {
    const [x, width] = [`${100 * index / bins.length}%`, `${100 / bins.length}%`];
    const [begin, end] = [from, to].map((time) => duration(time, (to - from) / 10));
    const rect = (state: string, high: number) =>
      `<rect class="${state}" x="${x}" width="${width}" y="${190 - high}" height="${high}"/>`;
    const label = `${begin} to ${end}: ${tasks(count)}, ${number(failed)} failed`;
    const drawn = rect("done", height(count)) + rect("fail", height(failed));
    const tick = `<line class="tick" x1="${x}" x2="${x}" y1="190" y2="195"/>` +
      `<text class="tick" x="${x}" y="211">${begin}</text>`;
    const title = `<g role="listitem" aria-label="${label}"><title>${label}</title>`;
    return (count ? `${title}${drawn}</g>` : "") + (index % every === 0 ? tick : "");
  });
  const note =
    "How many tasks ran for how long, by times of which each is longer by a similar factor.";
  const drawn = [...lines, ...columns].join("");
  return section("Run times", note, `<svg role="list" aria-label="${note}">${drawn}</svg>`);
}

/** Some 20 round limits around times, each above the last by about the same factor. */
function roundLimits(times: number[]): number[] {
  const shortest = times.reduce((least, time) => Math.min(least, time));
  const longest = times.reduce((most, time) => Math.max(most, time));
  const growth = Math.max(0.02, (longest / shortest) ** (1 / 20) - 1);
  const limits = [10 ** Math.floor(Math.log10(shortest))];
  for (let last = limits[0]; last <= longest; limits.push(last)) {
    const step = niceStep(last * growth);
    last = (Math.floor(last / step + 1e-9) + 1) * step;
  }
  return limits.slice(limits.findLastIndex((limit) => limit <= shortest));
}

function failuresSection(directory: string, { entries, bars, start }: Timeline): string {
  const failed = entries.filter(({ state }) => state === "fail");
  const kind = ({ errorValue, name }: Entry) => kindOf(errorValue, name);
  const groups = [...Map.groupBy(failed, kind).values()].sort((a, b) => b.length - a.length);
  if (!groups.length) return section("Failures", "No task has failed.", "");
  const command = ({ id, name }: Entry) => {
    const path = quote(`${directory}/fail/${id}.json`);
    const line = name === id ? "" : `<p>${escape(cut(name, 200))}</p>`;
    const code = `<code>forrest exec ${escape(path)} --raise</code>`;
    return `${line}<div class="command">${code}<button>Copy</button></div>`;
  };
  const fold = (title: string, body: string) =>
    body && `<details><summary>${title}</summary>${body}</details>`;
  const row = ([first, ...others]: Entry[]) => {
    const message = messageOf(first.errorValue);
    const text = textOfError(first.errorValue);
    const before = bars.filter(({ entry, state }) => entry === first && state === "todo");
    const tries = before.map((bar) => {
      const when = `${time(start + bar.start / 1000)}, ran ${duration(bar.duration / 1e6)}`;
      return `<p>${when}: ${escape(cut(bar.error ?? "failed", 200))}</p>`;
    });
    const more = others.length > 20 ? `<p>And ${number(others.length - 20)} more.</p>` : "";
    const same = others.slice(0, 20).map(command).join("") + more;
    const cell = [
      `<pre>${escape(cut(message, 1000))}</pre>${command(first)}`,
      fold("Tried before", tries.join("")),
      fold("Stack", text === message ? "" : `<pre>${escape(cut(text, 4000))}</pre>`),
      fold(`The same in ${tasks(others.length)} more`, same),
    ];
    return `<tr><td>${number(others.length + 1)}</td><td>${cell.join("")}</td></tr>`;
  };
  const rare = groups.length > 50 ? ` (the ${number(groups.length - 50)} rarest are left out)` : "";
  const note = `${tasks(failed.length)} with ${tasks(groups.length, "message")}${rare}. ` +
    "Each command runs its task again, in the terminal, and throws what it throws.";
  const column = '<th scope="col">';
  const head = `${column}Tasks</th>${column}Message, and how to reproduce it</th>`;
  const rows = groups.slice(0, 50).map(row).join("");
  const table = `<table><thead><tr>${head}</tr></thead><tbody>${rows}</tbody></table>`;
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

/**
 * The script of the page: shows local times, copies commands, and draws the timeline. In the page
 * it stands in a function, below `duration` and `niceStep`.
 */

const all = (selector) => [...document.querySelectorAll(selector)];
const local = (milliseconds) => new Date(milliseconds).toLocaleString("sv");

for (const time of all("time")) time.textContent = local(Date.parse(time.dateTime));
for (const button of all(".command button")) {
  button.onclick = async () => {
    const code = button.previousSibling;
    getSelection().selectAllChildren(code); // which also helps where the clipboard is closed
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  };
}

// ------------------------------------------------------------------------------------ the data

const [canvas, output] = all("canvas, output");
const data = JSON.parse(all("#data")[0].textContent);
const { first, names, starts, durations, lanes, rows, rowsOf, states } = data; // d, f, or t: tried again
for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
const laneCount = rowsOf.length;

// Where times are, from 0 to 1: stretches of work to scale, with pauses of one width between them.
const pause = Math.min(0.03, 0.3 / data.stretches.length);
const working = data.stretches.reduce((sum, [start, end]) => sum + end - start, 0);
const scale = (1 - pause * (data.stretches.length - 1)) / working; // of a microsecond
const stretches = [];
for (const [start, end] of data.stretches) {
  const from = stretches.length ? stretches.at(-1).to + pause : 0;
  stretches.push({ start, end, from, to: from + (end - start) * scale });
}
let current = 0;
const places = starts.map((start) => {
  while (start > stretches[current].end) current++;
  return stretches[current].from + (start - stretches[current].start) * scale;
});

// ------------------------------------------------------------------------------------- drawing

const [left, top, bottom] = [28, 20, 22]; // pixels
const most = 22 * Math.min(4, Math.max(...rowsOf));
const row = laneCount < 380 ? Math.min(most, Math.ceil(380 / laneCount)) : 380 / laneCount;
const gapOf = (high) => high > 8 ? 2 : high > 3 ? 1 : 0;
const height = row * laneCount;
let [low, span, width, selected] = [0, 1, 0, -1];

/** Where the bar of a try begins, and how high it is: a part of its lane, if that has several rows. */
function band(i) {
  const size = row / rowsOf[lanes[i]];
  return [top + lanes[i] * row + rows[i] * size, size];
}

const x = (place) => left + (place - low) / span * width;
const extent = (i) => [x(places[i]), x(places[i] + durations[i] * scale)];

function draw() {
  const context = canvas.getContext("2d");
  const ratio = devicePixelRatio;
  width = canvas.clientWidth - left - 1;
  canvas.style.height = `${top + height + bottom}px`;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = (top + height + bottom) * ratio;
  context.scale(ratio, ratio);
  const style = getComputedStyle(canvas);
  const color = (name) => style.getPropertyValue(`--${name}`);
  context.font = `11px ${style.fontFamily}`;
  context.textBaseline = "middle";
  drawLanes(context, color);
  drawTimes(context, color);
  context.save();
  context.beginPath();
  context.rect(left, 0, width + 1, top + height);
  context.clip();
  drawPauses(context, color);
  drawTasks(context, color);
  context.restore();
}

function drawLanes(context, color) {
  context.fillStyle = color("muted");
  const every = Math.max(1, niceStep(16 / row, false));
  for (let lane = 0; lane < laneCount; lane += every) {
    context.fillText(`${lane + 1}`, 0, top + (lane + 0.5) * row);
  }
}

/** Writes words of one line, from left to right; those that would touch the last ones are left out. */
function writer(context, color, y) {
  let free = 0;
  return (text, at) => {
    const half = context.measureText(text).width / 2;
    const middle = Math.max(left + half, Math.min(left + width - half, at));
    if (at < left || at > left + width || middle - half < free) return false;
    context.fillStyle = color("muted");
    context.fillText(text, middle - half, y);
    free = middle + half + 12;
    return true;
  };
}

function drawTimes(context, color) {
  const write = writer(context, color, top + height + 13);
  const step = niceStep(Math.max(80 / width * span / scale / 1e6, 1e-6));
  for (const { start, end, from } of stretches) {
    const length = (end - start) / 1e6;
    for (let k = Math.max(0, Math.ceil((low - from) / scale / 1e6 / step));; k++) {
      const at = x(from + k * step * 1e6 * scale);
      if (k * step > length || at > left + width) break;
      if (!write(duration(k * step, step / 10), at)) continue;
      context.fillStyle = color("line");
      context.fillRect(Math.round(at), top, 1, height);
    }
  }
}

function drawPauses(context, color) {
  const write = writer(context, color, 8);
  for (let i = 1; i < stretches.length; i++) {
    const [from, to] = [x(stretches[i - 1].to), x(stretches[i].from)];
    context.fillStyle = color("line");
    context.fillRect(from, top, to - from, height);
    const idle = (stretches[i].start - stretches[i - 1].end) / 1e6;
    write(`${duration(idle)} idle`, (from + to) / 2);
  }
}

function drawTasks(context, color) {
  const bar = (i, least) => {
    const [from, to] = extent(i);
    if (to < left || from > left + width) return;
    const size = Math.max(least, to - from - (to - from > 4 ? 1 : 0));
    const [y, high] = band(i);
    context.fillRect(from, y, size, high - gapOf(high));
  };
  for (const [name, least] of [["done", 0.8], ["todo", 1], ["fail", 1]]) { // failures above others
    context.fillStyle = color(name === "todo" ? "running" : name);
    for (let i = 0; i < names.length; i++) if (states[i] === name[0]) bar(i, least);
  }
  context.fillStyle = color("ink");
  if (selected >= 0) bar(selected, 3);
}

// ------------------------------------------------------------------------------------- looking

function select(i) {
  selected = i;
  const state = { d: "done", f: "failed", t: "failed, and was tried again" }[states[i]];
  const times = `started ${local(first + starts[i] / 1000)}, ran ${duration(durations[i] / 1e6)}`;
  output.textContent = `${names[i]}: ${state}, ${times}, in lane ${lanes[i] + 1}`;
  draw();
}

function look(middle, wide) {
  span = Math.max(Math.min(1, 100 * scale), Math.min(1, wide));
  low = Math.max(0, Math.min(1 - span, middle - span / 2));
  draw();
}

function zoom(factor) {
  const middle = selected < 0 ? low + span / 2 : places[selected];
  look(middle, factor ? span / factor : 1);
}

function point(event) {
  if (event.buttons) look(low + span / 2 - event.movementX / width * span, span);
  let [found, least] = [-1, 5]; // pixels
  for (let i = 0; i < names.length; i++) {
    const [y, high] = band(i);
    if (event.offsetY < y || event.offsetY >= y + high) continue;
    const [from, to] = extent(i);
    const distance = Math.max(from - event.offsetX, event.offsetX - to, 0);
    if (distance < least) [found, least] = [i, distance];
  }
  if (found >= 0 && found !== selected) select(found);
}

function press(event) {
  const factor = { "+": 2, "-": 0.5, "0": 0 }[event.key];
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (factor === undefined && !step) return;
  event.preventDefault();
  if (!step) return zoom(factor);
  select(Math.max(0, Math.min(names.length - 1, selected + step)));
  if (places[selected] < low || places[selected] > low + span) look(places[selected], span);
}

if (canvas) { // as there is none where no task has finished
  for (const button of all("[data-zoom]")) button.onclick = () => zoom(+button.dataset.zoom);
  canvas.onpointermove = canvas.onpointerdown = point;
  canvas.onkeydown = press;
  matchMedia("(prefers-color-scheme: dark)").onchange = draw;
  new ResizeObserver(draw).observe(canvas.parentElement);
  draw();
}

// Keeps the page's numbers new: asks for the status, and shows it as the server has shown it first.
"use strict";

const PAUSE_MS = 2000;
const PATIENCE_MS = 5000;
const WIDTH = 300;
const HEIGHT = 52;
const SVG = "http://www.w3.org/2000/svg";

const DASH = "\u2013";
const STEPS = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];

const FORMATS = {
  text: (value) => String(value),
  count: (value) => Math.round(value).toLocaleString("en"),
  rate: (value) => (value < 10 ? value.toFixed(1) : FORMATS.count(value)),
  bytes: (value) => {
    const units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let unit = 0;
    while (value >= 999.5 && unit < units.length - 1) {
      value /= 1000;
      unit += 1;
    }
    return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
  },
  time: (seconds) => {
    if (seconds >= 1) return `${seconds.toFixed(1)} s`;
    const ms = seconds * 1000;
    return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  },
  span: (seconds) => {
    for (const [large, name, small, smallName] of STEPS) {
      if (seconds >= large) {
        const rest = Math.floor((seconds % large) / small);
        return `${Math.floor(seconds / large)} ${name}${rest ? ` ${rest} ${smallName}` : ""}`;
      }
    }
    return `${Math.floor(seconds)} s`;
  },
};

function shown(value, format) {
  return value === null || value === undefined ? DASH : FORMATS[format](value);
}

function found(status, path) {
  return path.split(".").reduce((part, name) => (part === null || part === undefined ? null : part[name]), status);
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function row(cells) {
  const line = document.createElement("tr");
  for (const [tag, text, className] of cells) {
    const cell = document.createElement(tag);
    if (tag === "th") cell.scope = "row";
    if (className) cell.className = className;
    cell.textContent = text;
    line.append(cell);
  }
  return line;
}

function none(columns) {
  const line = row([["td", "none", "none"]]);
  line.firstChild.colSpan = columns;
  return line;
}

function codeRows(counts) {
  const lines = Object.entries(counts).map(([code, count]) =>
    row([["th", code.replaceAll("_", " ")], ["td", shown(count, "count"), "number"]]));
  return lines.length ? lines : [none(2)];
}

function deviceRows(devices) {
  const lines = devices.map((device) => row([
    ["th", device.id],
    ["td", shown(device.seconds, "span")],
    ["td", shown(device.packets, "count"), "number roomy"],
    ["td", shown(device.bytes, "bytes"), "number"],
    ["td", device.address || DASH],
  ]));
  return lines.length ? lines : [none(5)];
}

function part(name, className, attributes) {
  const element = document.createElementNS(SVG, name);
  element.setAttribute("class", className);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function draw(svg, values, samples) {
  const most = Math.max(1, ...values);
  const step = WIDTH / (samples - 1);
  const first = WIDTH - (values.length - 1) * step;
  const points = values.map((value, index) =>
    `${(first + index * step).toFixed(1)},${(HEIGHT - 1 - (value / most) * (HEIGHT - 4)).toFixed(1)}`);
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const drawn = [part("line", "floor", { x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 })];
  if (points.length > 1) {
    const area = `${first.toFixed(1)},${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`;
    drawn.push(part("polygon", "area", { points: area }));
    drawn.push(part("polyline", "curve", { points: points.join(" ") }));
  }
  svg.replaceChildren(...drawn);
  svg.removeAttribute("hidden");
}

function summary(values, format) {
  if (!values.length) return "";
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return `on average ${shown(mean, format)}, at most ${shown(Math.max(...values), format)}`;
}

function tell(texts) {
  const region = document.getElementById("problems");
  if (region.textContent.trim() === texts.join("")) return;
  const list = document.createElement("ul");
  for (const text of texts) {
    const item = document.createElement("li");
    item.textContent = text;
    list.append(item);
  }
  region.replaceChildren(...(texts.length ? [list] : []));
}

function stateOf(count) {
  if (!count) return "All is well";
  return count === 1 ? "1 problem" : `${count} problems`;
}

function say(state, texts, isStale) {
  const element = document.getElementById("state");
  put(element, state);
  element.classList.toggle("bad", texts.length > 0);
  document.body.classList.toggle("stale", isStale);
  tell(texts);
}

function show(status) {
  for (const element of document.querySelectorAll("[data-path]")) {
    put(element, shown(found(status, element.dataset.path), element.dataset.format));
  }
  const samples = 300 / status.history.sample_seconds;
  for (const svg of document.querySelectorAll("[data-series]")) {
    draw(svg, status.history[svg.dataset.series], samples);
  }
  for (const element of document.querySelectorAll("[data-summary]")) {
    put(element, summary(status.history[element.dataset.summary], element.dataset.format));
  }
  for (const body of document.querySelectorAll("[data-codes]")) {
    body.replaceChildren(...codeRows(status[body.dataset.codes]));
  }
  for (const body of document.querySelectorAll("[data-devices]")) {
    body.replaceChildren(...deviceRows(status[body.dataset.devices]));
  }
  put(document.getElementById("left-out"), leftOut(status.devices_left_out));
  say(stateOf(status.problems.length), status.problems.map((problem) => problem.text), false);
}

function leftOut(count) {
  return count ? `and ${shown(count, "count")} more` : "";
}

let heard = new Date();

async function look() {
  try {
    const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.json());
    heard = new Date();
  } catch {
    const at = heard.toLocaleTimeString();
    say("No answer", [`The realm does not answer. These numbers are from ${at}.`], true);
  }
}

async function go() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resume) => setTimeout(resume, PAUSE_MS));
  }
}

go();

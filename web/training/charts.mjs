// Charts of a run's metrics as SVG: smoothed lines, evaluations as dots, the value under the pointer.

const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00"]; // Okabe and Ito
const TASKS = ["fill", "extend", "remove", "text"];
const PAST = 0.9; // weight of the past in a smoothed line: one step is of few edits
const [WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP] = [480, 190, 44, 18, 22, 8];
const SVG = "http://www.w3.org/2000/svg";

function element(name, values = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function points(metrics, name) {
  return metrics.filter((line) => Number.isFinite(line[name])).map((line) => [line.step, line[name]]);
}

function smoothed(line) {
  let past;
  return line.map(([x, y]) => [x, (past = past === undefined ? y : PAST * past + (1 - PAST) * y)]);
}

/** Return a few round numbers between two, both ends included in their range. */
function ticks(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

function cells(metrics, prefix) {
  const names = new Set(metrics.flatMap((line) => Object.keys(line)));
  return [...names].filter((name) => name.startsWith(prefix) && name.split(".").length === 2).sort();
}

/** Return the charts that a run's metrics are for: title and series, each with label and points. */
function plan(metrics) {
  const charts = [];
  const add = (title, series) => {
    const filled = series.filter(({ line }) => line.length);
    if (filled.length) charts.push({ title, series: filled });
  };
  const line = (name, label = name) => ({ label, line: smoothed(points(metrics, name)) });
  const dots = (name, label) => ({ label, line: points(metrics, name), isDotted: true });
  add("Reward: P(better than the reference)", [
    line("reward", "this run's steps"),
    dots("eval", "held-out edits"),
    dots("eval_judge", "held-out, other judge"),
  ]);
  add("Held-out accuracy", [dots("accuracy", "pairs answered right")]);
  for (const task of TASKS) {
    add(task, cells(metrics, `${task}.`).map((name) => line(name, name.split(".")[1].replaceAll("_", " "))));
  }
  add("Pairs told apart", [line("told_apart", "winner gained more than loser")]);
  add("Spread among siblings", [line("spread", "deviation of win rates")]);
  add("Loss", [line("loss")]);
  add("Norm of the gradient", [line("gradient")]);
  for (const name of cells(metrics, "drift.")) {
    add(`Drift: ${name.split(".")[1].replaceAll("_", " ")}`, [dots(name, "against the start")]);
  }
  return charts;
}

function chart({ title, series }, steps) {
  const values = series.flatMap(({ line }) => line.map((point) => point[1]));
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (high - low < 1e-3) [low, high] = [low - 0.05, high + 0.05];
  const last = Math.max(...series.flatMap(({ line }) => line.map((point) => point[0])), 1);
  const end = last > steps / 2 ? Math.max(steps, last) : last * 1.1; // a run that has just begun fills it
  const x = (step) => LEFT + ((WIDTH - LEFT - RIGHT) * step) / end;
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low));
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  for (const value of ticks(low, high)) {
    svg.append(element("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "grid" }));
    svg.append(element("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  for (const value of ticks(0, end)) {
    svg.append(element("text", { x: x(value), y: HEIGHT - 5, "text-anchor": "middle" }, String(value)));
  }
  series.forEach(({ line, isDotted }, index) => {
    const colour = COLOURS[index % COLOURS.length];
    const path = line.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    svg.append(element("polyline", { points: path, stroke: colour, class: isDotted ? "thin" : "" }));
    for (const [step, value] of isDotted ? line : []) {
      svg.append(element("circle", { cx: x(step), cy: y(value), r: 3.5, fill: colour }));
    }
  });
  const cursor = element("line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor", visibility: "hidden" });
  svg.append(cursor);
  return { svg, cursor, stepAt: (share) => ((share * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT)) * end, x };
}

function nearest(line, step) {
  return line.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
}

function figure(plan, steps) {
  const made = document.createElement("figure");
  const { svg, cursor, stepAt, x } = chart(plan, steps);
  const caption = document.createElement("figcaption");
  const keys = plan.series.map(({ label, line }, index) => {
    const key = document.createElement("span");
    const value = document.createElement("b");
    key.style.setProperty("--colour", COLOURS[index % COLOURS.length]);
    key.append(`${label} `, value);
    return { key, value, line };
  });
  const tell = (step) => {
    for (const { value, line } of keys) {
      value.textContent = nearest(line, step ?? Infinity)[1].toPrecision(3);
    }
  };
  const title = document.createElement("strong");
  title.textContent = plan.title;
  caption.append(title, ...keys.map(({ key }) => key));
  tell(Number.MAX_SAFE_INTEGER);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const { line } = plan.series[0];
    const step = nearest(line, stepAt((event.clientX - box.left) / box.width))[0];
    cursor.setAttribute("x1", x(step));
    cursor.setAttribute("x2", x(step));
    cursor.setAttribute("visibility", "visible");
    title.textContent = `${plan.title}, step ${step}`;
    tell(step);
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    title.textContent = plan.title;
    tell(Number.MAX_SAFE_INTEGER);
  });
  made.append(caption, svg);
  return made;
}

/** Draw all charts of a run into an element. */
export function drawCharts(target, metrics, steps) {
  const charts = plan(metrics);
  target.replaceChildren(...charts.map((each) => figure(each, steps)));
  if (!charts.length) target.textContent = "No step is done yet.";
}

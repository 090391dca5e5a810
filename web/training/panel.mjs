// The training panel: all runs, or one run as it learns. Everything comes from the run's own files.
import { Compare } from "./compare.mjs";
import { drawCharts } from "./charts.mjs";

const POLL_MS = 2000;
const run = new URLSearchParams(location.search).get("run");
const $ = (id) => document.getElementById(id);

/** Return the server's JSON; an Error with its sentence if it refuses or does not answer. */
async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Error("the server does not answer; the run's files are safe");
  }
  const values = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(values.error ?? `the server answers ${answer.status}`);
  return values;
}

function time(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.round((seconds % 3600) / 60)];
  return hours ? `${hours} h ${minutes} min` : seconds < 90 ? `${Math.round(seconds)} s` : `${minutes} min`;
}

function showList(runs) {
  const rows = runs.map(({ run: name, status, step, steps, error }) => {
    const row = document.createElement("a");
    row.href = `?${new URLSearchParams({ run: name })}`;
    const [title, state] = [document.createElement("b"), document.createElement("span")];
    title.textContent = name;
    state.textContent = error ?? `${status}, step ${step} of ${steps}`;
    row.className = status ?? "";
    row.append(title, state);
    return row;
  });
  $("list").replaceChildren(...rows);
  if (!rows.length) $("list").textContent = "No runs yet: OneReward Train and Train Judge make some.";
}

/** Return the seconds per step of the last steps that stand in the metrics. */
function pace(metrics) {
  const recent = metrics.slice(-20);
  const [first, last] = [recent[0], recent.at(-1)];
  const steps = last && first ? last.step - first.step : 0;
  return steps > 0 ? Math.max(0, (last.seconds - first.seconds) / steps) : NaN;
}

function showHead(view) {
  const { status, step, steps, metrics, memory_gb: memory } = view;
  $("name").textContent = run;
  $("status").textContent = status;
  $("status").className = status;
  const bar = document.querySelector("progress");
  bar.hidden = false;
  bar.value = steps ? step / steps : 0;
  const perStep = pace(metrics);
  const facts = [`step ${step} of ${steps}`];
  if (Number.isFinite(perStep)) facts.push(`${perStep.toFixed(perStep < 10 ? 1 : 0)} s per step`);
  if (status === "running" && Number.isFinite(perStep)) facts.push(`${time(perStep * (steps - step))} left`);
  if (memory) facts.push(`${memory.toFixed(1)} GB of host memory`);
  $("facts").textContent = facts.join(" · ");
  $("actions").hidden = status !== "running";
}

function showSettings(settings) {
  const items = Object.entries(settings).flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name.replaceAll("_", " ");
    text.textContent = value;
    return [term, text];
  });
  $("settings").replaceChildren(...items);
}

let compare;
let shown = "";

function show(view) {
  showHead(view);
  const state = JSON.stringify([view.metrics.length, view.metrics.at(-1), view.samples]);
  if (state === shown) return; // nothing new: what the reader points at stays
  shown = state;
  drawCharts($("charts"), view.metrics, view.steps);
  showSettings(view.settings);
  compare ??= new Compare(run);
  compare.update(view.edits, view.samples);
}

async function poll() {
  try {
    if (run) show(await ask(`api/run?${new URLSearchParams({ run })}`));
    else showList((await ask("api/runs")).runs);
    $("message").textContent = "";
  } catch (error) {
    $("message").textContent = error.message;
  }
  setTimeout(poll, document.hidden ? 5 * POLL_MS : POLL_MS);
}

for (const request of ["evaluate", "stop"]) {
  $(request).addEventListener("click", async () => {
    $(request).disabled = true;
    try {
      await ask("api/request", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ run, request }),
      });
      $("message").textContent = "asked; it happens after the step that is being done";
    } catch (error) {
      $("message").textContent = error.message;
    }
    setTimeout(() => ($(request).disabled = false), POLL_MS);
  });
}
$(run ? "run" : "list").hidden = false;
poll();

// The labelling page: one question at a time, each key saved at once by the server.
// The address holds folder and question, the browser the person's name; nothing else is kept here.

import { showAgreement, whoIs } from "./agreement.mjs";
import { draw, enlarge, fitPanes, isPhone, preload } from "./panes.mjs";
import { get, post } from "./server.mjs";
import { Zoom } from "./zoom.mjs";

const NAME = "onereward.labelling.name";
const ACTIVE = "onereward.labelling.active";
const FOCUS = "onereward.labelling.mask";
const byId = (id) => document.getElementById(id);
const stage = byId("stage");
const zoom = new Zoom(stage);
const words = (name) => name.replaceAll("_", " ");

let view; // the server's last answer
let isBusy = false;

const folder = () => new URLSearchParams(location.search).get("folder") ?? "";
const name = () => byId("name").value.trim();
const isActive = () => byId("active").checked;

function say(text, isError = false) {
  byId("message").className = isError ? "error" : "";
  byId("message").textContent = text;
}

/** Do one thing at a time, and show its error as a sentence. */
async function once(work) {
  if (isBusy) return;
  isBusy = true;
  document.body.classList.add("busy");
  try {
    await work();
  } catch (error) {
    say(error.message, true);
  } finally {
    isBusy = false;
    document.body.classList.remove("busy");
  }
}

// --- the list of folders ----------------------------------------------------------------------

async function showFolders() {
  byId("work").hidden = byId("keys").hidden = byId("order").hidden = true;
  byId("progress").hidden = byId("folders").hidden = true;
  const { folders } = await get("folders", { name: name() });
  const title = document.createElement("h1");
  title.textContent = folders.length ? "Which candidates will you compare?" : "No candidates yet";
  const items = folders.map(makeFolder);
  if (!folders.length) {
    const hint = document.createElement("p");
    hint.textContent =
      "Make some with OneReward Generate Candidates; they go to output/onereward/preferences.";
    items.push(hint);
  }
  byId("list").replaceChildren(title, ...items);
  byId("list").hidden = false;
}

function makeFolder({ folder: label, answered, questions, groups, error }) {
  const link = document.createElement("a");
  link.href = `?${new URLSearchParams({ folder: label })}`;
  const heading = Object.assign(document.createElement("strong"), { textContent: label });
  const count = document.createElement("span");
  count.textContent = error ?? `${answered} of ${questions} questions, ${groups} groups`;
  const bar = document.createElement("progress");
  Object.assign(bar, { max: Math.max(1, questions ?? 1), value: answered ?? 0 });
  link.append(heading, count, bar);
  return link;
}

// --- a question -------------------------------------------------------------------------------

async function show(next) {
  view = next;
  const { question, progress } = view;
  byId("folder").textContent = view.folder;
  byId("count").textContent = `${progress.answered} of ${progress.questions}`;
  const bar = document.querySelector("#progress progress");
  Object.assign(bar, { max: Math.max(1, progress.questions), value: progress.answered });
  showAgreement(byId("agreement"), view.agreement);
  byId("list").hidden = Boolean(question);
  byId("work").hidden = !question;
  byId("keys").hidden = false;
  makeKeys(question);
  showAfter();
  history.replaceState(null, "", address(question));
  if (!question) {
    showEnd();
    return;
  }
  byId("sentence").textContent = question.sentence;
  byId("prompt").textContent = question.prompt ? `${question.task}: “${question.prompt}”` : question.task;
  byId("steps").replaceChildren(...question.dimensions.map(makeStep));
  await drawQuestion(question);
}

function address(question) {
  const hash = question ? `#${question.group}:${question.dimension}` : "";
  return `?${new URLSearchParams({ folder: folder() })}${hash}`;
}

function makeStep({ name: label, answered }) {
  const step = Object.assign(document.createElement("li"), { textContent: words(label) });
  step.classList.toggle("answered", answered);
  step.classList.toggle("current", label === view.question.dimension);
  return step;
}

async function drawQuestion(question) {
  try {
    const { box } = await draw(stage, view.folder, question, (index) => answer(index));
    zoom.box = box;
  } catch {
    // Deleted meanwhile, or damaged: the server leaves out what it no longer has.
    const next = await get("view", request());
    if (next.question?.group !== question.group) {
      await show(next);
      return;
    }
    say("an image of these candidates cannot be read; see the folder, or press 0 to go on", true);
  }
  if (localStorage[FOCUS] === "true" && zoom.box) zoom.toMask();
  else zoom.fit();
  preload(view.folder, question.upcoming);
}

/** Show what others had said about the question just answered, or the server's note. */
function showAfter() {
  const message = byId("message");
  const rows = view.after ?? [];
  say(view.note);
  if (!rows.length || view.note) return;
  message.append("the question before: ");
  rows.slice(0, 4).forEach(({ labeller, agrees, confidence }, i) => {
    const part = document.createElement("span");
    const verdict = agrees === null ? "cannot be compared" : agrees ? "agrees" : "differs";
    part.className = verdict;
    const sure = labeller.startsWith("judge:") ? `, ${Math.round(100 * confidence)} % sure` : "";
    part.textContent = `${i ? " · " : ""}${whoIs(labeller)} ${verdict}${sure}`;
    message.append(part);
  });
}

function showText(title, hint) {
  const heading = Object.assign(document.createElement("h1"), { textContent: title });
  const text = Object.assign(document.createElement("p"), { textContent: hint });
  byId("list").replaceChildren(heading, text);
  byId("list").hidden = false;
}

function showEnd() {
  if (view.progress.answered) {
    showText(
      "All questions are answered. Thank you!",
      "Your pairs are in the folder's metadata.jsonl, for OneReward Judge Report and Train Judge.",
    );
    return;
  }
  showText(
    "There is nothing to compare here",
    "Comparisons need groups of at least two candidates whose images are there.",
  );
}

// --- keys -------------------------------------------------------------------------------------

function request(values) {
  const place = location.hash.slice(1);
  return { folder: folder(), name: name(), active: isActive(), place, ...values };
}

function answer(choice) {
  const question = view?.question;
  if (!question) return;
  const { group, dimension, stage: step } = question;
  void once(async () => {
    const values = request({ group, dimension, stage: step, choice });
    await show(await post("answer", values));
  });
}

function undo() {
  void once(async () => show(await post("undo", request())));
}

function choosePlace(place) {
  const index = view?.question?.candidates[place];
  if (index !== undefined && index !== view.question.best) answer(index);
}

function flicker(isOn) {
  document.body.classList.toggle("flicker", isOn);
}

function toggleZoom() {
  zoom.toggle();
  localStorage[FOCUS] = zoom.isOnMask;
}

function makeKeys(question) {
  const parts = [];
  const add = (key, text, action, isEnabled = true) => {
    const button = document.createElement("button");
    button.innerHTML = `<kbd>${key}</kbd> <span></span>`;
    button.lastElementChild.textContent = text;
    button.disabled = !isEnabled;
    if (action) button.addEventListener("click", action);
    parts.push(button);
    return button;
  };
  if (question) {
    add("0", "hardly any difference", () => answer("tie"));
    add("=", "as before", () => answer("repeat"), question.can_repeat);
    if (question.has_source) {
      const hold = add("Space", "hold: source");
      hold.id = "hold";
      hold.addEventListener("pointerdown", () => flicker(true));
    }
    add("Z", "mask / whole", toggleZoom, question.has_mask);
    add("O", "outline", () => stage.classList.toggle("no-outline"), question.has_mask).classList.add(
      "key-only",
    );
  }
  add("⌫", "undo", undo, view.progress.answered > 0 || question?.stage === "worst");
  byId("keys").replaceChildren(...parts);
}

const KEYS = {
  0: () => answer("tie"),
  "=": () => view?.question?.can_repeat && answer("repeat"),
  backspace: undo,
  z: toggleZoom,
  o: () => stage.classList.toggle("no-outline"),
};

function isTyping(event) {
  return event.target instanceof HTMLInputElement && event.target.type !== "checkbox";
}

addEventListener("keydown", (event) => {
  if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey || !folder()) return;
  if (event.key === " ") {
    event.preventDefault(); // neither scrolls nor presses a button
    flicker(true);
    return;
  }
  const isDigit = /^[1-9]$/.test(event.key);
  const action = isDigit ? () => choosePlace(Number(event.key) - 1) : KEYS[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  if (!event.repeat) action();
});
addEventListener("keyup", (event) => {
  if (event.key !== " " || isTyping(event)) return;
  event.preventDefault();
  flicker(false);
});
for (const kind of ["pointerup", "pointercancel", "blur"]) addEventListener(kind, () => flicker(false));
addEventListener("contextmenu", (event) => event.target.closest("#hold") && event.preventDefault());
addEventListener("resize", () => {
  fitPanes(stage);
  zoom.apply();
});
stage.addEventListener("click", (event) => {
  const pane = event.target.closest(".pane");
  if (!pane || !isPhone() || pane.classList.contains("large") || event.target.closest("button")) return;
  enlarge(stage, pane);
  zoom.apply();
});

// --- start ------------------------------------------------------------------------------------

function start() {
  void once(async () => {
    if (!folder()) {
      await showFolders();
      return;
    }
    if (!name()) {
      showText("Who is labelling?", "Type your name above: your answers are stored under it.");
      byId("name").focus();
      return;
    }
    if (!view) showText("Reading the folder …", "");
    await show(await get("view", request()));
  });
}

byId("name").value = localStorage[NAME] ?? "";
byId("active").checked = localStorage[ACTIVE] !== "false";
byId("name").addEventListener("change", () => {
  localStorage[NAME] = name();
  byId("name").blur();
  start();
});
byId("active").addEventListener("change", () => {
  localStorage[ACTIVE] = isActive();
  byId("active").blur();
  history.replaceState(null, "", address());
  start();
});
start();

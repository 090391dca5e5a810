// What a run notes, and why it stopped, as a read-only text on our nodes that stays after the job.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const PREFIX = "OneReward";
const NAME = "onereward_text";
const EVENT = "onereward.text";
const LINE_PX = 15;
const PADDING_PX = 12;
const MARGIN_PX = 4;
const CHARACTER_PX = 6;
const FRAME_PX = 34; // what the text's box and the node take of the width
const SCROLL_BAR_PX = 14;
const MAX_LINES = 9; // more scroll

function rootGraph() {
  return app.rootGraph ?? app.graph.rootGraph ?? app.graph;
}

/** Return the node of "7", of "5:3" (node 3 in subgraph node 5) or of "<subgraph's uuid>:3". */
function findNode(id) {
  const path = String(id).split(":");
  let graph = rootGraph();
  const own = path.pop();
  for (const step of path) {
    graph = graph.subgraphs?.get(step) ?? graph.getNodeById(step)?.subgraph;
    if (!graph) return undefined;
  }
  const node = graph.getNodeById(own);
  return node?.comfyClass?.startsWith(PREFIX) ? node : undefined;
}

function makeElement() {
  const element = document.createElement("div");
  element.className = NAME;
  element.notes = [];
  element.tabIndex = 0;
  element.dataset.captureWheel = "true"; // the wheel scrolls the text, not the canvas
  Object.assign(element.style, {
    boxSizing: "border-box",
    width: "100%",
    contain: "inline-size", // as wide as the node, however wide a table is
    padding: `${PADDING_PX / 2}px 8px`,
    overflow: "auto",
    font: `11px/${LINE_PX}px sans-serif`,
    color: "var(--input-text)",
    background: "var(--comfy-input-bg)",
    border: "1px solid var(--border-color)",
    borderRadius: "6px",
    userSelect: "text",
    cursor: "text",
  });
  return element;
}

function isTable(note) {
  return note.includes("\n");
}

/** Return a paragraph that wraps, or a table whose columns stay aligned. */
function makeNote(note, isError) {
  const part = document.createElement("div");
  part.textContent = note;
  Object.assign(part.style, {
    whiteSpace: isTable(note) ? "pre" : "pre-wrap",
    overflowWrap: isTable(note) ? "normal" : "anywhere",
    font: isTable(note) ? `10px/${LINE_PX}px monospace` : "inherit",
    borderLeft: isError ? "3px solid var(--error-text)" : "none",
    paddingLeft: isError ? "6px" : "0",
    fontWeight: isError ? "bold" : "inherit",
  });
  return part;
}

/** Return the height in pixels that shows the notes, or as many lines as a node may take. */
function neededHeight(notes, width) {
  const columns = Math.max(16, Math.floor((width - FRAME_PX) / CHARACTER_PX));
  const rows = (note) =>
    isTable(note) ? note.split("\n").length : Math.max(1, Math.ceil(note.length / columns));
  const lines = notes.reduce((sum, note) => sum + rows(note), 0);
  const isWide = (note) => isTable(note) && note.split("\n").some((row) => row.length > columns);
  const scrollBar = notes.some(isWide) ? SCROLL_BAR_PX : 0;
  return PADDING_PX + 2 + scrollBar + LINE_PX * Math.min(MAX_LINES, lines);
}

function addWidget(node) {
  const element = makeElement();
  const height = () => neededHeight(element.notes, node.size[0]) + 2 * MARGIN_PX;
  const widget = node.addDOMWidget(NAME, NAME, element, {
    serialize: false,
    margin: MARGIN_PX,
    getMinHeight: height,
    getMaxHeight: height,
    getValue: () => element.notes.join("\n"),
    setValue: () => {},
  });
  widget.serialize = false; // takes no place among the values of a saved workflow
  return widget;
}

function removeWidget(node, widget) {
  widget.onRemove?.();
  node.widgets.splice(node.widgets.indexOf(widget), 1);
}

function show(node, text, isError = false) {
  const notes = [...new Set(text)];
  let widget = node.widgets?.find((w) => w.name === NAME);
  if (!notes.length) {
    if (widget) removeWidget(node, widget);
    return;
  }
  widget ??= addWidget(node);
  const { element } = widget;
  element.notes = notes;
  element.dataset.isError = isError;
  element.replaceChildren(
    ...notes.map((note, i) => makeNote(note, isError && i === notes.length - 1)),
  );
  element.scrollTop = element.scrollHeight;
  const height = node.computeSize()[1];
  if (node.size[1] < height) node.setSize([node.size[0], height]);
  node.graph?.setDirtyCanvas(true, true);
}

function forgetErrors(graph) {
  for (const node of graph.nodes) {
    const widget = node.widgets?.find((w) => w.name === NAME);
    if (widget?.element.dataset.isError === "true") show(node, []);
    if (node.subgraph) forgetErrors(node.subgraph);
  }
}

/** Return what a refusal before the queue says, without the name of the input in front of it. */
function sentence(error) {
  const input = `${error.extra_info?.input_name} - `;
  const details = error.details ?? "";
  if (error.type === "custom_validation_failed" || error.type?.startsWith("exception_during")) {
    return details.startsWith(input) ? details.slice(input.length) : details;
  }
  return `${error.message}: ${details}`;
}

function showRefusals(nodeErrors) {
  for (const [id, { errors }] of Object.entries(nodeErrors ?? {})) {
    const node = findNode(id);
    if (node) show(node, errors.map(sentence), true);
  }
}

/** Puts what the server refuses before the queue on the nodes, too. */
function watchQueue() {
  const queue = api.queuePrompt;
  api.queuePrompt = async function (...args) {
    forgetErrors(rootGraph());
    try {
      const answer = await queue.apply(this, args);
      showRefusals(answer?.node_errors); // another output was fine
      return answer;
    } catch (error) {
      showRefusals(error?.response?.node_errors);
      throw error;
    }
  };
}

/** Takes a live preview away, where Nodes 2.0 would draw it beside the node's own image. */
function dropPreview(id) {
  const page = document.querySelector("#vue-app")?.__vue_app__;
  const stores = page?.config.globalProperties.$pinia?._s;
  stores?.get("nodeOutput")?.revokePreviewsByExecutionId?.(String(id));
}

app.registerExtension({
  name: "OneReward.text",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => {
      const node = findNode(detail.node);
      if (node) show(node, detail.text, detail.is_error);
    });
    api.addEventListener("executed", ({ detail }) => {
      const node = findNode(detail.display_node ?? detail.node);
      if (node && detail.output?.text) show(node, detail.output.text);
      if (node && detail.output?.images) dropPreview(detail.display_node ?? detail.node);
    });
    watchQueue();
  },
  /** Shows again what a tab or a job of the history has had. */
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) {
      const node = output?.text && findNode(id);
      if (node) show(node, output.text);
    }
  },
});

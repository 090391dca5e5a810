// Label by hand: a button on the nodes that hold candidates, and a sidebar tab with all folders.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const PAGE = "/onereward/labelling/";
const NAME = "onereward.labelling.name"; // where the page keeps who labels
const BUTTON = "label by hand"; // its text, too
const NODES = ["OneRewardLabelPreferences", "OneRewardGenerateCandidates", "OneRewardLoadPreferences"];
const SAVED = /^onereward\/preferences\/([^/]+) \[output\]$/;

function valueOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name)?.value;
}

/** Return the folder of a node's candidates, by its widgets or what comes in; undefined: unknown. */
function folderOf(node, depth = 0) {
  if (!node || depth > 20) return undefined;
  if (node.comfyClass === "OneRewardGenerateCandidates") return valueOf(node, "name");
  if (node.comfyClass === "OneRewardLoadPreferences") {
    return SAVED.exec(valueOf(node, "folder"))?.[1];
  }
  return folderOf(node.getInputNode?.(0), depth + 1);
}

function openPage(folder) {
  const query = folder ? `?${new URLSearchParams({ folder })}` : "";
  window.open(api.apiURL(PAGE + query), "_blank");
}

function addButton(node) {
  const widget = node.addWidget("button", BUTTON, null, () => openPage(folderOf(node)), {
    serialize: false,
  });
  widget.serialize = false; // takes no place among the values of a saved workflow
}

function makeEntry({ folder, answered, questions, error }) {
  const button = document.createElement("button");
  const [title, count] = [document.createElement("b"), document.createElement("span")];
  title.textContent = folder;
  count.textContent = error ?? `${answered} of ${questions} questions`;
  Object.assign(button.style, {
    display: "grid",
    gap: "2px",
    width: "100%",
    margin: "0 0 6px",
    padding: "8px 10px",
    textAlign: "left",
    overflowWrap: "anywhere",
    color: "var(--input-text)",
    background: "var(--comfy-input-bg)",
    border: "1px solid var(--border-color)",
    borderRadius: "6px",
    cursor: "pointer",
  });
  button.append(title, count);
  button.addEventListener("click", () => openPage(folder));
  return button;
}

async function fillTab(element) {
  const list = document.createElement("div");
  Object.assign(list.style, { padding: "12px", overflow: "auto", height: "100%" });
  element.replaceChildren(list);
  list.textContent = "reading the folders …";
  const name = localStorage[NAME] ?? "";
  try {
    const answer = await api.fetchApi(`${PAGE}api/folders?${new URLSearchParams({ name })}`);
    const { folders, error } = await answer.json();
    if (error) throw new Error(error);
    list.replaceChildren(...folders.map(makeEntry));
    if (!folders.length) {
      list.textContent = "No candidates yet: OneReward Generate Candidates makes some to compare.";
    }
  } catch (error) {
    list.textContent = `The folders cannot be read: ${error.message}`;
  }
}

app.registerExtension({
  name: "OneReward.label",
  setup() {
    app.extensionManager?.registerSidebarTab?.({
      id: "onereward-label",
      icon: "pi pi-thumbs-up",
      title: "Labels",
      tooltip: "OneReward: compare candidates by hand",
      type: "custom",
      render: (element) => void fillTab(element),
    });
  },
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) addButton(node);
  },
});

// A button on the training nodes that opens the panel of their run in a tab.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const PAGE = "/onereward/training/";
const KINDS = { OneRewardTrain: "policies", OneRewardTrainJudge: "judges" };

function openPanel(node) {
  const name = node.widgets?.find((widget) => widget.name === "name")?.value;
  const run = `${KINDS[node.comfyClass]}/${name}`;
  window.open(api.apiURL(`${PAGE}?${new URLSearchParams({ run })}`), "_blank");
}

app.registerExtension({
  name: "OneReward.trainingPanel",
  nodeCreated(node) {
    if (!(node.comfyClass in KINDS)) return;
    const widget = node.addWidget("button", "onereward_panel", null, () => openPanel(node), {
      serialize: false,
    });
    widget.label = "open the training panel";
    widget.serialize = false; // takes no place among the values of a saved workflow
  },
});

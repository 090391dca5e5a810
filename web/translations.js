/** Front ends such as 1.32 load a language after the packs' own texts, and so drop them: again. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const OURS = "nodeDefs.OneRewardFill.display_name";
const OF_COMFYUI = "nodeDefs.KSampler.display_name";
const WAIT_MS = 50;
const MAX_WAITS = 60;

/** Return the front end's texts of all languages; undefined where they cannot be reached. */
function findMessages() {
  const page = document.querySelector("#vue-app")?.__vue_app__;
  return page?._context.provides[page.__VUE_I18N_SYMBOL__]?.global;
}

app.registerExtension({
  name: "OneReward.translations",
  async init() {
    const messages = findMessages();
    const language = app.extensionManager?.setting?.get("Comfy.Locale");
    if (!messages?.te || !language || language === "en") return;
    for (let waits = 0; !messages.te(OF_COMFYUI, language) && waits < MAX_WAITS; waits++) {
      await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
    }
    if (messages.te(OURS, language)) return;
    const answer = await api.fetchApi("/i18n");
    const texts = answer.ok ? (await answer.json())[language] : undefined;
    const ours = Object.entries(texts?.nodeDefs ?? {}).filter(([id]) => id.startsWith("OneReward"));
    const categories = texts?.nodeCategories ?? {};
    if (!ours.length) return;
    const nodeDefs = Object.fromEntries(ours);
    messages.mergeLocaleMessage(language, { nodeDefs, nodeCategories: categories });
  },
});

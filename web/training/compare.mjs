// Two images of one held-out edit under a divider: the start (or the source), and after some steps.

const $ = (id) => document.getElementById(id);

export class Compare {
  constructor(run) {
    Object.assign(this, { run, edits: [], steps: [], index: 0, isNewest: true });
    $("previous").addEventListener("click", () => this.#move(-1));
    $("next").addEventListener("click", () => this.#move(1));
    $("source").addEventListener("change", () => this.#show());
    $("step").addEventListener("change", () => {
      this.isNewest = $("step").selectedIndex === this.steps.length - 1;
      this.#show();
    });
    $("divider").addEventListener("input", () => this.#divide());
    document.addEventListener("keydown", (event) => {
      if (event.target.closest("input, select, textarea")) return;
      if (event.key === "ArrowLeft") this.#move(-1);
      if (event.key === "ArrowRight") this.#move(1);
    });
    this.#divide();
  }

  /** Take what the run has now; the chosen edit stays, and the newest step if it was chosen. */
  update(edits, steps) {
    $("compare").hidden = !edits.length || !steps.length;
    const chosen = $("step").value;
    Object.assign(this, { edits, steps });
    $("step").replaceChildren(...steps.map((step) => new Option(`${step} steps`, step)));
    if (!steps.length || !edits.length) return;
    const stays = !this.isNewest && steps.includes(Number(chosen));
    $("step").value = stays ? chosen : steps.at(-1);
    this.index = Math.min(this.index, edits.length - 1);
    this.#show();
  }

  #move(by) {
    const count = this.edits.length;
    if (!count) return;
    this.index = (this.index + by + count) % count;
    this.#show();
  }

  #show() {
    const { task, prompt } = this.edits[this.index];
    const before = $("source").checked ? "source" : "start";
    $("edit").textContent = `${this.index + 1} of ${this.edits.length}: ${task}${prompt ? `, “${prompt}”` : ""}`;
    $("left").textContent = before;
    $("right").textContent = `after ${$("step").value} steps`;
    $("before").src = this.#url(before);
    $("after").src = this.#url($("step").value);
    $("before").alt = `${before} of edit ${this.index + 1}`;
    $("after").alt = `the model's image after ${$("step").value} steps`;
  }

  #url(place) {
    return `api/sample?${new URLSearchParams({ run: this.run, place, index: this.index })}`;
  }

  #divide() {
    $("stage").style.setProperty("--share", `${$("divider").value}%`);
  }
}

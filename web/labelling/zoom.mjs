// One zoom for all pictures: a scale, and the point that stands in the middle, in shares of them.

const MAX_SCALE = 32;
const MASK_MARGIN = 1.6; // the mask's box fills the view but for this
const WHEEL_SPEED = 0.0016;

export class Zoom {
  constructor(stage) {
    this.stage = stage;
    this.box = undefined;
    this.fit();
    this.pointers = new Map();
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      stage.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    stage.addEventListener("dblclick", (event) => event.target.closest(".view") && this.toggle());
  }

  /** Show the whole picture. */
  fit() {
    Object.assign(this, { scale: 1, x: 0.5, y: 0.5, isOnMask: false });
    this.apply();
  }

  /** Show the mask's surroundings, if there is a mask. */
  toMask() {
    if (!this.box) return;
    const { left, top, width, height } = this.box;
    this.scale = Math.max(1, Math.min(MAX_SCALE, 1 / (MASK_MARGIN * Math.max(width, height))));
    this.x = left + width / 2;
    this.y = top + height / 2;
    this.isOnMask = true;
    this.apply();
  }

  toggle() {
    if (this.isOnMask || this.scale > 1) this.fit();
    else this.toMask();
  }

  apply() {
    const half = 0.5 / this.scale;
    this.x = Math.min(1 - half, Math.max(half, this.x));
    this.y = Math.min(1 - half, Math.max(half, this.y));
    const [dx, dy] = [this.x - half, this.y - half].map((share) => -100 * share * this.scale);
    for (const layer of this.stage.querySelectorAll(".layer")) {
      layer.style.transform = `translate(${dx}%, ${dy}%) scale(${this.scale})`;
      const image = layer.querySelector("img");
      const shown = layer.parentElement.clientWidth * this.scale;
      const isNear = Boolean(image?.naturalWidth) && shown > 3 * image.naturalWidth;
      layer.parentElement.classList.toggle("near", isNear);
    }
  }

  /** Scale by a factor around a place of a view. */
  #scaleAt(view, clientX, clientY, factor) {
    const bounds = view.getBoundingClientRect();
    const scale = Math.min(MAX_SCALE, Math.max(1, this.scale * factor));
    const change = 1 / this.scale - 1 / scale;
    this.x += ((clientX - bounds.left) / bounds.width - 0.5) * change;
    this.y += ((clientY - bounds.top) / bounds.height - 0.5) * change;
    this.scale = scale;
    this.isOnMask = false;
    this.apply();
  }

  #wheel(event) {
    const view = event.target.closest(".view");
    if (!view) return;
    event.preventDefault();
    const pixels = event.deltaMode === 1 ? event.deltaY * 30 : event.deltaY;
    this.#scaleAt(view, event.clientX, event.clientY, Math.exp(-pixels * WHEEL_SPEED));
  }

  #down(event) {
    const view = event.target.closest(".view");
    if (!view) return;
    view.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    const view = event.target.closest?.(".view");
    if (!before || !view) return;
    const bounds = view.getBoundingClientRect();
    const others = [...this.pointers.values()].filter((p) => p.pointerId !== event.pointerId);
    if (others.length) {
      const distance = (p) => Math.hypot(p.clientX - others[0].clientX, p.clientY - others[0].clientY);
      const [x, y] = ["clientX", "clientY"].map((axis) => (event[axis] + others[0][axis]) / 2);
      this.#scaleAt(view, x, y, distance(event) / Math.max(1, distance(before)));
    } else {
      this.x -= (event.clientX - before.clientX) / bounds.width / this.scale;
      this.y -= (event.clientY - before.clientY) / bounds.height / this.scale;
      this.apply();
    }
    this.pointers.set(event.pointerId, event);
  }
}

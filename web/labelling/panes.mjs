// The pictures of a question: the source with the mask's outline, and the candidates.

import { makeOutline, traceMask } from "./outline.mjs";
import { imageUrl } from "./server.mjs";

const PHONE = matchMedia("(max-width: 700px)");
const GAP_PX = 8;
const CAPTION_PX = 35;
const SOURCE_SHARE = 0.45; // the source may be so much smaller than a candidate
const SMALL_PX = 110; // least height of the small pictures on a phone

export const isPhone = () => PHONE.matches;

function makeImage(url, className) {
  const image = document.createElement("img");
  Object.assign(image, { className, alt: "", draggable: false, decoding: "async", src: url });
  return image;
}

function makePane(className, images, foot) {
  const pane = document.createElement("div");
  const view = document.createElement("div");
  const layer = document.createElement("div");
  pane.className = `pane ${className}`;
  view.className = "view";
  layer.className = "layer";
  layer.append(...images);
  view.append(layer);
  pane.append(view, foot);
  return pane;
}

/** Draw a question into the stage; return promises' result: `{box}`, or an Error for lost images. */
export async function draw(stage, folder, question, choose) {
  const url = (image) => imageUrl(folder, question.group, image);
  const panes = [];
  if (question.has_source) {
    const caption = Object.assign(document.createElement("div"), { className: "caption" });
    caption.textContent = "source";
    panes.push(makePane("original", [makeImage(url("source"), "picture")], caption));
  }
  question.candidates.forEach((index, place) => {
    const button = document.createElement("button");
    button.innerHTML = place < 9 ? `<kbd>${place + 1}</kbd> <span></span>` : "<span></span>";
    button.lastElementChild.textContent = question.stage === "worst" ? "worst" : "best";
    if (index === question.best) {
      button.disabled = true;
      button.lastElementChild.textContent = "best";
    }
    button.addEventListener("click", () => choose(index));
    const images = [makeImage(url(index), "picture")];
    if (question.has_source) images.push(makeImage(url("source"), "source"));
    const pane = makePane("candidate", images, button);
    pane.dataset.index = index;
    pane.classList.toggle("best", index === question.best);
    panes.push(pane);
  });
  stage.replaceChildren(...panes);
  enlarge(stage, panes[question.has_source ? 1 : 0]);
  const pictures = [...stage.querySelectorAll(".picture")];
  await Promise.all(pictures.map((image) => image.decode()));
  fitPanes(stage);
  return { box: question.has_mask ? await addOutlines(stage, url("mask")) : undefined };
}

/** Draw the mask's outline on all pictures; return the mask's box, or undefined. */
async function addOutlines(stage, url) {
  const mask = makeImage(url, "");
  try {
    await mask.decode();
  } catch {
    return undefined; // the comparison can be made without it
  }
  const trace = traceMask(mask);
  for (const layer of stage.querySelectorAll(".layer")) layer.append(makeOutline(trace));
  return trace.box;
}

/** On a phone, show one picture large. */
export function enlarge(stage, pane) {
  for (const other of stage.children) other.classList.toggle("large", other === pane);
  fitPanes(stage);
}

/** Give every picture as much room as there is, all of them the same. */
export function fitPanes(stage) {
  const panes = [...stage.children];
  const image = stage.querySelector(".picture");
  if (!panes.length || !image) return;
  const ratio = image.naturalWidth ? image.naturalWidth / image.naturalHeight : 1;
  const style = getComputedStyle(stage);
  const width = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const height = stage.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
  if (isPhone()) {
    fitOnPhone(stage, panes, { ratio, width, height });
    return;
  }
  fitOnDesk(stage, panes, { ratio, width, height });
}

/** Candidates as large as they can be, the source beside them as large as the rest allows. */
function fitOnDesk(stage, panes, { ratio, width, height }) {
  const hasSource = panes[0].classList.contains("original");
  const count = panes.length - hasSource;
  const least = hasSource ? SOURCE_SHARE : 0;
  let best = { size: 0, columns: 1 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const room = (height - GAP_PX * (rows - 1)) / rows - CAPTION_PX - 2;
    const across = width - GAP_PX * (columns - 1 + hasSource) - 2 * (columns + hasSource);
    const size = Math.floor(Math.min(across / (columns + least), room * ratio));
    if (size > best.size) best = { size, columns, rows, across };
  }
  const { size, columns, rows, across } = best;
  const source = Math.floor(Math.min(size, across - columns * size));
  const tracks = `repeat(${columns}, ${size + 2}px)`;
  stage.style.gridTemplateColumns = hasSource ? `${source + 2}px ${tracks}` : tracks;
  for (const pane of panes) {
    const isSource = pane.classList.contains("original");
    pane.style.gridRow = isSource ? `1 / span ${rows}` : "";
    setHeight(pane, (isSource ? source : size) / ratio);
  }
}

function fitOnPhone(stage, panes, { ratio, width, height }) {
  const count = panes.length - 1;
  const small = (width - GAP_PX * (count - 1)) / Math.max(1, count);
  const smallHeight = Math.min(SMALL_PX, small / ratio);
  const large = Math.min(width, (height - smallHeight - 34 - CAPTION_PX - GAP_PX) * ratio);
  stage.style.gridTemplateColumns = `repeat(${Math.max(1, count)}, minmax(0, 1fr))`;
  for (const pane of panes) {
    const isLarge = pane.classList.contains("large");
    const side = isLarge ? large : Math.min(small, smallHeight * ratio);
    pane.style.width = `${Math.floor(side)}px`;
    Object.assign(pane.style, { justifySelf: "center", gridRow: "" });
    setHeight(pane, side / ratio);
  }
}

function setHeight(pane, height) {
  if (!isPhone()) Object.assign(pane.style, { width: "", justifySelf: "" });
  pane.querySelector(".view").style.height = `${Math.floor(height)}px`;
}

/** Load what the next screen shows, so that it comes at once. */
export function preload(folder, { group, candidates }) {
  for (let index = 0; index < candidates; index++) new Image().src = imageUrl(folder, group, index);
  if (candidates) new Image().src = imageUrl(folder, group, "source");
}

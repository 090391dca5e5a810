// The outline of a mask, as a path along the edges of its pixels.

const MAX_SIDE = 512; // larger masks are read at this size
const IS_INSIDE = 128;

/** Return `{path, width, height, box}` of a loaded mask image; box is in shares, or undefined. */
export function traceMask(image) {
  const scale = Math.min(1, MAX_SIDE / Math.max(image.naturalWidth, image.naturalHeight));
  const width = Math.max(1, Math.round(image.naturalWidth * scale));
  const height = Math.max(1, Math.round(image.naturalHeight * scale));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  const isInside = (x, y) =>
    x >= 0 && y >= 0 && x < width && y < height && pixels[4 * (y * width + x)] >= IS_INSIDE;
  const rows = edges(width, height, isInside, (x, y, end) => `M${x} ${y}H${end}`);
  const columns = edges(
    height,
    width,
    (y, x) => isInside(x, y),
    (y, x, end) => `M${x} ${y}V${end}`,
  );
  const box = boundingBox(width, height, isInside);
  return { path: rows + columns, width, height, box };
}

/** Return the path of all edges between a row and the one above it, one piece per straight run. */
function edges(length, count, isInside, piece) {
  const pieces = [];
  for (let j = 0; j <= count; j++) {
    let start = -1;
    for (let i = 0; i <= length; i++) {
      const isEdge = i < length && isInside(i, j) !== isInside(i, j - 1);
      if (isEdge && start < 0) start = i;
      if (!isEdge && start >= 0) {
        pieces.push(piece(start, j, i));
        start = -1;
      }
    }
  }
  return pieces.join("");
}

function boundingBox(width, height, isInside) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!isInside(x, y)) continue;
      left = Math.min(left, x);
      right = Math.max(right, x + 1);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y + 1);
    }
  }
  if (right < 0) return undefined;
  return {
    left: left / width,
    top: top / height,
    width: (right - left) / width,
    height: (bottom - top) / height,
  };
}

/** Return the outline as an element that covers the image. */
export function makeOutline({ path, width, height }) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "outline");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  for (const name of ["under", "over"]) {
    const line = document.createElementNS(space, "path");
    line.setAttribute("class", name);
    line.setAttribute("d", path);
    svg.append(line);
  }
  return svg;
}

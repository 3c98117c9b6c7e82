// Draws one frame of one run on a canvas: all compositing is done here, in the browser.

const FOREGROUND = /^foreground(-(\d+))?$/;
const ALPHA = /^alpha(-(\d+))?$/;

// The names that match, by their number: foreground, foreground-2, ...
function numbered(run, pattern) {
  const number = (name) => Number(pattern.exec(name)[2] ?? 1);
  return Object.keys(run.sheets).filter((name) => pattern.test(name)).sort((a, b) => number(a) - number(b));
}

// The foregrounds of a run from near to far, in the order of the view.
export function foregroundsOf(run, view) {
  const own = numbered(run, FOREGROUND);
  const order = (view.order ?? []).filter((name) => own.includes(name));
  return order.length === own.length ? order : own;
}

// All layers of a run, from the lowest up.
export function layersOf(run, view) {
  const layers = ["background", ...foregroundsOf(run, view).reverse(), "blended", ...numbered(run, ALPHA)];
  return layers.filter((layer) => run.sheets[layer]);
}

export const isForeground = (layer) => FOREGROUND.test(layer);

export function isShown(view, layer) {
  return view.shown[layer] ?? (layer === "background" || isForeground(layer));
}

export function freshView() {
  return {
    shown: {}, // by layer, where it differs from `isShown`
    order: null, // foregrounds from near to far; null as they are
    behind: "checker", colour: "#00b140", image: null, // image: an ImageBitmap
    swap: "own", other: null, // other: a run whose background lies under the foreground
    zoom: 1, panX: 0, panY: 0, // pan in parts of the picture
    scale: 1, moveX: 0, moveY: 0, // the foregrounds, moved in pixels of the clip
  };
}

export function draw(canvas, run, frame, view, only = null) {
  const context = canvas.getContext("2d");
  const fit = canvas.width / run.width;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  const all = fit * view.zoom;
  context.setTransform(
    all, 0, 0, all,
    canvas.width / 2 - all * run.width * (0.5 + view.panX), canvas.height / 2 - all * run.height * (0.5 + view.panY),
  );
  context.imageSmoothingEnabled = all < 2; // each pixel is to be seen, not a blur of it
  drawBehind(context, run, view);
  for (const layer of layersOf(run, view)) {
    if (only ? !only.includes(layer) : !isShown(view, layer)) continue;
    if (layer === "background" && !only) drawBackground(context, run, frame, view);
    else if (isForeground(layer) && !only) drawForeground(context, run, layer, frame, view);
    else drawSheet(context, run.sheets[layer], frame, 0, 0, run.width, run.height);
  }
}

function drawBehind(context, run, view) {
  const { width, height } = run;
  if (view.behind === "image" && view.image) return cover(context, view.image, 0, 0, view.image.width, view.image.height, width, height);
  if (view.behind === "colour") {
    context.fillStyle = view.colour;
    return context.fillRect(0, 0, width, height);
  }
  const side = Math.max(width, height) / 12;
  for (let row = 0; row * side < height; row++) {
    for (let column = 0; column * side < width; column++) {
      context.fillStyle = (row + column) % 2 ? "#ccc" : "#999";
      const [x, y] = [column * side, row * side];
      context.fillRect(x, y, Math.min(side, width - x), Math.min(side, height - y));
    }
  }
}

function drawBackground(context, run, frame, view) {
  if (view.swap === "image" && view.image) {
    return cover(context, view.image, 0, 0, view.image.width, view.image.height, run.width, run.height);
  }
  const from = view.swap === "run" && view.other?.sheets.background ? view.other : run;
  const sheet = from.sheets.background;
  if (!sheet) return;
  const { x, y, w, h } = sheet.frames[frame % sheet.frames.length];
  cover(context, sheet.image, x, y, w, h, run.width, run.height);
}

function drawForeground(context, run, layer, frame, view) {
  const { width, height } = run;
  const [w, h] = [width * view.scale, height * view.scale];
  context.save();
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  drawSheet(context, run.sheets[layer], frame, (width - w) / 2 + view.moveX, (height - h) / 2 + view.moveY, w, h);
  context.restore();
}

function drawSheet(context, sheet, frame, x, y, width, height) {
  if (!sheet) return;
  const at = sheet.frames[Math.min(frame, sheet.frames.length - 1)];
  context.drawImage(sheet.image, at.x, at.y, at.w, at.h, x, y, width, height);
}

// The largest window of the picture with the clip's aspect, around the centre.
function cover(context, image, x, y, w, h, width, height) {
  const factor = Math.min(w / width, h / height);
  const [across, down] = [width * factor, height * factor];
  context.drawImage(image, x + (w - across) / 2, y + (h - down) / 2, across, down, 0, 0, width, height);
}

// Where the foreground ends, nearest to the centre, in parts of the picture from its centre; null without an edge.
export function findEdge(run, frame) {
  const sheet = run.sheets.alpha;
  if (!sheet) return null;
  const at = sheet.frames[Math.min(frame, sheet.frames.length - 1)];
  const canvas = new OffscreenCanvas(at.w, at.h);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(sheet.image, at.x, at.y, at.w, at.h, 0, 0, at.w, at.h);
  const pixels = context.getImageData(0, 0, at.w, at.h).data;
  let best = null;
  for (let y = 0; y < at.h; y++) {
    for (let x = 0; x + 1 < at.w; x++) {
      const [here, next] = [pixels[4 * (y * at.w + x)], pixels[4 * (y * at.w + x + 1)]];
      if (here < 128 === next < 128) continue;
      const [dx, dy] = [(x + 1) / at.w - 0.5, (y + 0.5) / at.h - 0.5];
      const far = dx * dx + dy * dy;
      if (!best || far < best.far) best = { far, dx, dy };
    }
  }
  return best;
}

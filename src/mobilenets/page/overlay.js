// What is drawn over a picture: where the network looked, and the boxes of what it found.

import { seenPart } from "./preprocess.js";

const FINE = 96; // rows and columns that a heat map is smoothed to

// From cold to hot: dark violet, red, orange, yellow. Equal steps are seen as about equal.
const RAMP = [
  [30, 12, 70],
  [120, 28, 109],
  [203, 65, 73],
  [248, 135, 40],
  [252, 221, 120],
];
const HUES = ["#2f7de1", "#e0662b", "#1b9e77", "#c2439b", "#8a63d2", "#a87b00", "#d33f49", "#00899e"];

/** Return the colour of a class's boxes. */
export function hueOf(label) {
  let sum = 0;
  for (const letter of label) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  return HUES[sum % HUES.length];
}

/**
 * Draw over a picture.
 * @param canvas lies over the picture, of its shape.
 * @param size {width, height} of the picture in its own pixels.
 * @param what {heat: rows of 0..1 or null, opacity 0..1, preprocess, detections, chosen: index or null}
 */
export function draw(canvas, size, { heat, opacity, preprocess, detections, chosen }) {
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  const scale = { x: width / size.width, y: height / size.height };
  if (heat && opacity > 0) drawHeat(context, heat, opacity, seenPart(size.height, size.width, preprocess), scale);
  if (!detections) return;
  const strong = (index) => chosen === null || chosen === index;
  detections.forEach((each, index) => drawBox(context, each, scale, ratio, strong(index)));
  for (let index = detections.length - 1; index >= 0; index -= 1) drawName(context, detections[index], scale, ratio, strong(index)); // the surest on top
  context.globalAlpha = 1;
}

function drawHeat(context, heat, opacity, seen, scale) {
  const { width, height } = context.canvas;
  const part = [seen.left * scale.x, seen.top * scale.y, seen.width * scale.x, seen.height * scale.y];
  const veil = new Path2D();
  veil.rect(0, 0, width, height);
  veil.rect(...part);
  context.fillStyle = `rgb(0 0 0 / ${0.55 * opacity})`; // what the network never sees
  context.fill(veil, "evenodd");
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(coloured(smooth(heat), opacity), ...part);
}

/** Return FINE x FINE values between those of the rows, by cubic B-splines: no corners, no overshoot. */
export function smooth(heat) {
  const rows = heat.map((row) => stretched(row));
  const columns = Array.from({ length: FINE }, (_, x) => stretched(rows.map((row) => row[x])));
  const largest = columns.reduce((most, column) => column.reduce((a, b) => Math.max(a, b), most), 0) || 1;
  return Float32Array.from({ length: FINE * FINE }, (_, i) => columns[i % FINE][Math.floor(i / FINE)] / largest);
}

function stretched(values) {
  const at = (i) => values[Math.max(0, Math.min(values.length - 1, i))];
  return Float32Array.from({ length: FINE }, (_, i) => {
    const place = ((i + 0.5) * values.length) / FINE - 0.5;
    const from = Math.floor(place);
    const t = place - from;
    const sum =
      at(from - 1) * (1 - t) ** 3 +
      at(from) * (3 * t ** 3 - 6 * t ** 2 + 4) +
      at(from + 1) * (-3 * t ** 3 + 3 * t ** 2 + 3 * t + 1) +
      at(from + 2) * t ** 3;
    return sum / 6;
  });
}

function coloured(values, opacity) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [FINE, FINE];
  const context = canvas.getContext("2d");
  const image = context.createImageData(FINE, FINE);
  values.forEach((value, i) => {
    const place = value * (RAMP.length - 1);
    const low = Math.min(RAMP.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c += 1) image.data[4 * i + c] = RAMP[low][c] + (place - low) * (RAMP[low + 1][c] - RAMP[low][c]);
    image.data[4 * i + 3] = 255 * opacity * (0.35 + 0.65 * value);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

function drawBox(context, { label, box }, scale, ratio, strong) {
  const [left, top, right, bottom] = [box[0] * scale.x, box[1] * scale.y, box[2] * scale.x, box[3] * scale.y];
  context.globalAlpha = strong ? 1 : 0.3;
  context.lineWidth = 3 * ratio;
  context.lineJoin = "round";
  context.strokeStyle = hueOf(label);
  context.strokeRect(left, top, right - left, bottom - top);
}

function drawName(context, { label, score, box }, scale, ratio, strong) {
  const [left, top] = [box[0] * scale.x, box[1] * scale.y];
  context.globalAlpha = strong ? 1 : 0.3;
  context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
  const words = `${label} ${Math.round(100 * score)} %`;
  const [width, height] = [context.measureText(words).width + 10 * ratio, 20 * ratio];
  const x = Math.max(0, Math.min(left - 1.5 * ratio, context.canvas.width - width));
  const y = top >= height ? top - height : Math.min(top, context.canvas.height - height);
  context.fillStyle = hueOf(label);
  context.fillRect(x, y, width, height);
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(words, x + 5 * ratio, y + height / 2);
}

// From a detector's raw maps to boxes on the picture, as the package's image/detection.py does it: anchors, decoding,
// non-maximum suppression. Places are counted level by level, in a level anchor by anchor, in that row by row.

import { resizedSides, roundHalfEven } from "./preprocess.js";

const LARGEST_GROWTH = Math.log(1000 / 16); // a box is at most this much larger than its anchor

/**
 * Return what was found on a picture, the surest first: [{index, score, box: [x1, y1, x2, y2]}] in its pixels.
 * @param maps tensors of one picture, {dims: [1, channels, rows, columns], data}: boxes and scores of each level in turn.
 * @param detector the card's: form, levels of anchors [[scale, ratio]], coder, scores and limits.
 * @param preprocess what the picture was fitted by; its height and width are the network's input.
 * @param size {height, width} of the picture.
 * @param threshold the least score.
 */
export function boxesOf(maps, detector, preprocess, size, threshold) {
  const anchors = anchorsOf(maps, detector, preprocess);
  const found = candidatesOf(maps, detector, Math.max(threshold, detector.score_threshold));
  for (const each of found) {
    const box = decoded(each, maps, anchors, detector.coder);
    each.box = detector.form === "torchvision" ? clipped(box, preprocess) : box; // the other form clips what is left
  }
  return suppressed(found, detector).map(({ index, score, box }) => ({ index, score, box: onPicture(clipped(box, preprocess), preprocess, size) }));
}

/** Return the anchors of each level, Float64Array of x, y (centre), width, height for each place. */
export function anchorsOf(maps, { form, levels }, { height, width }) {
  return levels.map((level, number) => {
    const [, , rows, columns] = maps[2 * number].dims;
    const made = new Float64Array(4 * level.length * rows * columns);
    let at = 0;
    for (const [scale, ratio] of level) {
      const [wide, high] = sidesOf(scale, ratio, form, height, width);
      for (let row = 0; row < rows; row += 1) {
        for (let column = 0; column < columns; column += 1, at += 4) {
          made.set([((column + 0.5) * width) / columns, ((row + 0.5) * height) / rows, wide, high], at);
        }
      }
    }
    return made;
  });
}

function sidesOf(scale, ratio, form, height, width) {
  const [wide, high] = [scale * Math.sqrt(ratio), scale / Math.sqrt(ratio)];
  if (form === "torchvision") return [Math.min(wide, 1) * width, Math.min(high, 1) * height];
  const side = Math.min(height, width);
  return [wide * side, high * side];
}

/** Return {level, place, index, score, order} wherever a class scores more than `least`; `order` settles equal scores. */
function candidatesOf(maps, detector, least) {
  const found = [];
  let before = 0; // places of the levels before
  const all = detector.levels.reduce((sum, level, number) => sum + level.length * area(maps[2 * number]), 0);
  detector.levels.forEach((level, number) => {
    const { data, dims } = maps[2 * number + 1];
    const values = dims[1] / level.length; // the background's first
    const places = area(maps[2 * number + 1]);
    const scores = new Float64Array(values);
    for (let place = 0; place < level.length * places; place += 1) {
      const first = Math.floor(place / places) * values * places + (place % places);
      for (let value = 0; value < values; value += 1) scores[value] = data[first + value * places];
      if (!scores.every(Number.isFinite)) throw new Error("the model gives no numbers (nan): its weights are broken");
      toShares(scores, detector.scores);
      for (let value = 1; value < values; value += 1) {
        if (scores[value] > least) found.push({ level: number, place, index: value - 1, score: scores[value], order: (value - 1) * all + before + place });
      }
    }
    before += level.length * places;
  });
  return found.sort((a, b) => b.score - a.score || a.order - b.order);
}

const area = ({ dims: [, , rows, columns] }) => rows * columns;

/** Make scores of logits, in place: shares of all (softmax), or each of itself (sigmoid). */
function toShares(values, by) {
  if (by === "sigmoid") {
    for (let i = 0; i < values.length; i += 1) values[i] = 1 / (1 + Math.exp(-values[i]));
    return;
  }
  let largest = -Infinity;
  for (const value of values) largest = Math.max(largest, value);
  let sum = 0;
  for (let i = 0; i < values.length; i += 1) sum += values[i] = Math.exp(values[i] - largest);
  for (let i = 0; i < values.length; i += 1) values[i] /= sum;
}

/** Return the box of a candidate in pixels of the network's input. */
function decoded({ level, place }, maps, anchors, coder) {
  const { data } = maps[2 * level];
  const places = area(maps[2 * level]);
  const first = Math.floor(place / places) * 4 * places + (place % places);
  const [x, y, width, height] = coder.map((share, i) => data[first + i * places] / share);
  const [anchorX, anchorY, anchorWidth, anchorHeight] = anchors[level].subarray(4 * place, 4 * place + 4);
  const [centreX, centreY] = [x * anchorWidth + anchorX, y * anchorHeight + anchorY];
  const halfWidth = (Math.exp(Math.min(width, LARGEST_GROWTH)) * anchorWidth) / 2;
  const halfHeight = (Math.exp(Math.min(height, LARGEST_GROWTH)) * anchorHeight) / 2;
  return [centreX - halfWidth, centreY - halfHeight, centreX + halfWidth, centreY + halfHeight];
}

/** Return what survives: a box goes where a better one of its class stays that it overlaps by more than `nms_iou`. */
function suppressed(found, { nms_iou: most, candidates, detections }) {
  const seen = new Map(); // class -> how many were looked at
  const kept = [];
  for (const each of found) {
    const count = (seen.get(each.index) ?? 0) + 1;
    seen.set(each.index, count);
    if (count > candidates) continue;
    if (kept.some((other) => other.index === each.index && overlap(other.box, each.box) > most)) continue;
    kept.push(each);
    if (kept.length === detections) break;
  }
  return kept;
}

/** Return intersection over union of two boxes; not a number where both are empty. */
export function overlap(a, b) {
  const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const height = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const shared = width * height;
  return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared);
}

function clipped([x1, y1, x2, y2], { height, width }) {
  const within = (value, most) => Math.max(0, Math.min(most, value));
  return [within(x1, width), within(y1, height), within(x2, width), within(y2, height)];
}

/** Return a box in pixels of the network's input as one in pixels of the picture that was fitted to it. */
function onPicture([x1, y1, x2, y2], preprocess, { height, width }) {
  const sides = resizedSides(height, width, preprocess);
  const top = roundHalfEven((sides[0] - preprocess.height) / 2);
  const left = roundHalfEven((sides[1] - preprocess.width) / 2);
  const [stepX, stepY] = [width / sides[1], height / sides[0]];
  return clipped([(x1 + left) * stepX, (y1 + top) * stepY, (x2 + left) * stepX, (y2 + top) * stepY], { height, width });
}

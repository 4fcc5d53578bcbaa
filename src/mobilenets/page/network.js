// One model, run by ONNX Runtime Web: the same code in the page's worker and, when the export is proved, in Node.

import { boxesOf } from "./boxes.js";
import { fit } from "./preprocess.js";

/**
 * Open a model.
 * @param ort ONNX Runtime Web's module.
 * @param content the bytes of the .onnx file, which takes uint8 (1, height, width, channels).
 * @param card what the model's model.json says.
 */
export async function openNetwork(ort, content, card) {
  const session = await ort.InferenceSession.create(content, {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
  });
  return new Network(ort, session, card);
}

class Network {
  constructor(ort, session, card) {
    this.ort = ort;
    this.session = session;
    this.card = card;
  }

  /**
   * Compute what the network says of a picture that `preprocess.fit` has made.
   * @returns {outputs, heat}: tensors, of a classifier its logits, of a detector boxes and scores of each level in turn;
   *   and where it looked, a tensor or null.
   */
  async run(fitted) {
    const { height, width, channels } = this.card.preprocess;
    const input = new this.ort.Tensor("uint8", fitted, [1, height, width, channels]);
    const said = await this.session.run({ input });
    const names = this.card.detector?.outputs ?? ["logits"];
    return { outputs: names.map((name) => said[name]), heat: said.heat ?? null };
  }

  /** Say what is on a picture, the `top` best classes or the boxes from `threshold` on; times in ms. */
  predict(picture, { top, threshold }) {
    return this.card.detector ? this.#find(picture, threshold) : this.#classify(picture, top);
  }

  async #find(picture, threshold) {
    const { labels, preprocess, detector } = this.card;
    const began = performance.now();
    const fitted = fit(picture, preprocess);
    const fitMs = performance.now() - began;
    const { outputs } = await this.run(fitted);
    const networkMs = performance.now() - began - fitMs;
    const found = boxesOf(outputs, detector, preprocess, picture, threshold);
    const boxesMs = performance.now() - began - fitMs - networkMs;
    return { detections: found.map((each) => ({ label: labels[each.index], ...each })), fitMs, networkMs, boxesMs };
  }

  /** Return the `top` best classes and, where the model tells it, where it looked for each. */
  async #classify(picture, top) {
    const began = performance.now();
    const fitted = fit(picture, this.card.preprocess);
    const fitMs = performance.now() - began;
    const { outputs: [logits], heat } = await this.run(fitted);
    const networkMs = performance.now() - began - fitMs;
    const predictions = likeliest(logits.data, this.card.labels, top);
    if (heat !== null) {
      const [, classes, rows, columns] = heat.dims;
      predictions.slice(0, classes).forEach((prediction, place) => {
        const begin = place * rows * columns;
        prediction.heat = shown(heat.data.subarray(begin, begin + rows * columns), rows, columns);
      });
    }
    return { predictions, fitMs, networkMs };
  }

  async close() {
    await this.session.release();
  }
}

/** Return softmax scores, Float64Array, of logits. */
export function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(logits, (value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

function likeliest(logits, labels, top) {
  const scores = softmax(logits);
  if (!scores.every(Number.isFinite)) throw new Error("the model gives no numbers (nan): its weights are broken");
  const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b);
  return order.slice(0, top).map((index) => ({ label: labels[index], index, score: scores[index] }));
}

/** Return rows of values from 0 to 1: what speaks against the class is 0, the strongest place 1. */
function shown(values, rows, columns) {
  const largest = values.reduce((a, b) => Math.max(a, b), 0) || 1;
  return Array.from({ length: rows }, (_, row) =>
    Array.from(values.subarray(row * columns, (row + 1) * columns), (value) => Math.max(0, value) / largest),
  );
}

// One model, run by ONNX Runtime Web: the same code in the page's worker and, when the export is proved, in Node.

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

  /** Return the logits, Float32Array, and the heat, a tensor or null, of a picture that `preprocess.fit` has made. */
  async run(fitted) {
    const { height, width, channels } = this.card.preprocess;
    const input = new this.ort.Tensor("uint8", fitted, [1, height, width, channels]);
    const { logits, heat } = await this.session.run({ input });
    return { logits: logits.data, heat: heat ?? null };
  }

  /** Classify a picture: the `top` best classes and, where the model tells it, where it looked for each; times in ms. */
  async classify(picture, top) {
    const began = performance.now();
    const fitted = fit(picture, this.card.preprocess);
    const fitMs = performance.now() - began;
    const { logits, heat } = await this.run(fitted);
    const networkMs = performance.now() - began - fitMs;
    const predictions = likeliest(logits, this.card.labels, top);
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

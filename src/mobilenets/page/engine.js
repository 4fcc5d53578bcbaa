// The worker in which a model runs, so that the page never waits for it. Messages: {id, ask, ...} in, {id, answer} or
// {id, error} out.

import * as ort from "./ort.js";
import { openNetwork } from "./network.js";
import { pixelsOf } from "./pixels.js";

const OPEN_AT_A_TIME = 2; // what a comparison needs
const networks = new Map(); // name -> promise of a network, the one used last at the end

ort.env.logLevel = "error";
ort.env.wasm.wasmPaths = {
  mjs: new URL("ort-wasm.js", import.meta.url).href,
  wasm: new URL("ort-wasm.wasm", import.meta.url).href,
};
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, Math.max(1, navigator.hardwareConcurrency || 1)) : 1;

const ANSWERS = {
  async open({ model }) {
    await opened(model);
    return { threads: ort.env.wasm.numThreads };
  },

  async predict({ model, picture, top, threshold }) {
    const network = await opened(model);
    const began = performance.now();
    const pixels = await pixelsOf(picture);
    const decodeMs = performance.now() - began;
    const answer = await network.predict(pixels, { top, threshold });
    const { width, height } = pixels;
    return { ...answer, width, height, decodeMs, totalMs: performance.now() - began };
  },
};

function opened(model) {
  const waiting = networks.get(model.name) ?? open(model);
  networks.delete(model.name);
  networks.set(model.name, waiting);
  waiting.catch(() => networks.delete(model.name));
  if (networks.size > OPEN_AT_A_TIME) {
    const [[oldest, network]] = networks;
    networks.delete(oldest);
    network.then((each) => each.close()).catch(() => {});
  }
  return waiting;
}

async function open({ file, card, bytes }) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file}: the server answers ${response.status}`);
  const network = await openNetwork(ort, await withProgress(response, file, bytes), card);
  const { height, width, channels } = card.preprocess;
  await network.run(new Uint8Array(height * width * channels)); // the first run is slow, and should not be a person's
  return network;
}

/** Read a body piece by piece, and tell the page how far it is. */
async function withProgress(response, file, bytes) {
  const pieces = [];
  let received = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    received += value.length;
    self.postMessage({ progress: { file, received, bytes } });
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

let queue = Promise.resolve(); // one thing after the other: two networks at once would only slow each other down

self.addEventListener("message", ({ data: { id, ask, ...request } }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ id, answer: await ANSWERS[ask](request) });
    } catch (error) {
      self.postMessage({ id, error: error.message ?? String(error) });
    }
  });
});

// Runs a model of this folder in Node, by the files that browsers run: node prove.js MODEL PICTURES ANSWERS
// PICTURES holds uint8 pictures as they enter the network, one behind the other; ANSWERS will hold float32 for each:
// logits, or a detector's maps one behind the other.

import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "./ort.js";
import { openNetwork } from "./network.js";

const [, , model, pictures, said] = process.argv;
const card = JSON.parse(readFileSync(new URL(`models/${model}/model.json`, import.meta.url), "utf-8"));
ort.env.logLevel = "error";
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = {
  mjs: new URL("ort-wasm.js", import.meta.url).href,
  wasm: new URL("ort-wasm.wasm", import.meta.url).href,
};

const file = new URL(`models/${model}/${card.file}`, import.meta.url);
const network = await openNetwork(ort, new Uint8Array(readFileSync(file)), card);
const { height, width, channels } = card.preprocess;
const size = height * width * channels;
const all = new Uint8Array(readFileSync(pictures));
const answers = [];
const times = [];
for (let begin = 0; begin < all.length; begin += size) {
  const began = performance.now();
  const { outputs } = await network.run(all.slice(begin, begin + size));
  times.push(performance.now() - began);
  for (const { data } of outputs) answers.push(Buffer.from(Float32Array.from(data).buffer));
}
writeFileSync(said, Buffer.concat(answers));
console.log(JSON.stringify({ times_ms: times }));

// Runs the page's decoding and suppression on the cases of a folder: node boxes.mjs boxes.mjs FOLDER
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, , module, folder] = process.argv;
const { boxesOf } = await import(pathToFileURL(module));
const cases = JSON.parse(readFileSync(`${folder}/cases.json`, "utf-8"));
const answers = cases.map(({ shapes, detector, preprocess, size, threshold }, index) => {
  const content = readFileSync(`${folder}/${index}.in`);
  const values = new Float32Array(content.buffer, content.byteOffset, content.byteLength / 4);
  let begin = 0;
  const maps = shapes.map((dims) => {
    const count = dims.reduce((a, b) => a * b, 1);
    begin += count;
    return { dims, data: values.subarray(begin - count, begin) };
  });
  return boxesOf(maps, detector, preprocess, size, threshold);
});
console.log(JSON.stringify(answers));

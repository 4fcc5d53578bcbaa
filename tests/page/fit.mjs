// Runs the page's preprocessing on the cases of a folder: node fit.mjs preprocess.js FOLDER
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, , module, folder] = process.argv;
const { fit, seenPart } = await import(pathToFileURL(module));
const cases = JSON.parse(readFileSync(`${folder}/cases.json`, "utf-8"));
const parts = cases.map(({ height, width, step, preprocess }, index) => {
  const data = new Uint8Array(readFileSync(`${folder}/${index}.in`));
  writeFileSync(`${folder}/${index}.out`, fit({ data, height, width, step }, preprocess));
  return seenPart(height, width, preprocess);
});
console.log(JSON.stringify(parts));

// A model's card, for people.

import { element, factTable, percent, size, whole } from "./elements.js";

const SHARES = new Set(["top1", "top5", "top1_agreement", "map", "map_50"]);

/** Fill `place` with what a card says. */
export function showCard(place, card) {
  const [height, width] = card.resolution;
  const network = [
    ["architecture", card.arch?.name ?? card.arch],
    ["width", card.width],
    ["picture", `${width} × ${height}, ${card.in_channels === 1 ? "grey" : "colour"}`],
    ["classes", whole(card.labels.length)],
    ["parameters", card.parameters && whole(card.parameters)],
    ["multiply-adds", card.multiply_adds && whole(card.multiply_adds)],
    ["precision", card.precision],
    ["file", card.bytes && size(card.bytes)],
    ["run by", card.runtime],
  ];
  const { resize, interpolation, mean, std } = card.preprocess;
  const pictures = [
    ["resized", resize === null ? "stretched to the picture size" : `short side to ${resize}, then the centre is cut out`],
    ["filter", interpolation],
    ["mean", mean.map(number).join(", ")],
    ["deviation", std.map(number).join(", ")],
  ];
  const tables = [factTable("The network", present(network)), factTable("How pictures enter", pictures)];
  if (card.metrics?.length) tables.push(metricTable(card.metrics));
  const origin = present([
    ["origin", card.origin],
    ["made from", card.parent && `sha256 ${card.parent.slice(0, 16)}…`],
    ["notes", card.notes?.join(" ")],
  ]);
  if (origin.length) tables.push(factTable("Where it is from", origin));
  const more = [labelList(card.labels), ...(card.recipe ? [recipe(card.recipe)] : [])];
  place.replaceChildren(element("div", { class: "facts" }, ...tables), ...more);
}

function recipe(values) {
  const rows = Object.entries(values).filter(([key]) => key !== "run");
  const named = rows.map(([key, value]) => [key.replaceAll("_", " "), text(value)]);
  const half = Math.ceil(named.length / 2);
  const tables = [named.slice(0, half), named.slice(half)].map((part) => factTable("", part));
  return element("details", {}, element("summary", {}, "How it was trained"), element("div", { class: "facts" }, ...tables));
}

function present(rows) {
  return rows.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([name, value]) => [name, String(value)]);
}

function metricTable(metrics) {
  const rows = metrics.map(({ name, value, dataset, images }) => {
    const shown = SHARES.has(name) ? percent(value, 2) : number(value);
    return [name.replaceAll("_", " "), `${shown} on ${dataset}${images ? `, ${whole(images)} pictures` : ""}`];
  });
  return factTable("Measured", rows);
}

function labelList(labels) {
  const items = labels.map((label) => element("li", {}, label));
  const list = element("ol", { class: "scroll", start: "0", tabindex: "0", "aria-label": "Classes" }, ...items);
  return element("details", {}, element("summary", {}, `All ${whole(labels.length)} classes`), list);
}

const number = (value) => (Math.abs(value) >= 1e-3 || value === 0 ? String(Number(value.toPrecision(4))) : value.toExponential(1));

function text(value) {
  if (value === null) return "none";
  if (typeof value !== "object") return String(value);
  return Object.entries(value)
    .map(([key, each]) => (Array.isArray(value) ? text(each) : `${key} ${text(each)}`))
    .join(", ");
}

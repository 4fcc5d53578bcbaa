// How a model was judged: numbers, curves of its training, the confusion matrix.

import { element, factTable, percent, shape, whole } from "./elements.js";

const TABLE_CLASSES = 30; // up to here the matrix is a table with its counts in it, above a drawing
const PAIRS = 12;

/** Fill `place` with a report; what it does not have is left out. */
export function showReport(place, report) {
  place.replaceChildren();
  const { labels, confusion, history, html } = report;
  const rows = [
    ["top-1", isNumber(report.top1) && percent(report.top1, 2)],
    ["top-5", labels?.length > 5 && isNumber(report.top5) && percent(report.top5, 2)],
    ["mAP .5:.95", isNumber(report.map) && percent(report.map, 2)],
    ["mAP .5", isNumber(report.map_50) && percent(report.map_50, 2)],
    ["loss", isNumber(report.loss) && report.loss.toFixed(4)],
    ["pictures", isNumber(report.images) && `${whole(report.images)}${report.part ? ` (${report.part})` : ""}`],
    ["data", report.data],
  ].filter(([, value]) => value);
  if (rows.length) place.append(factTable("Judged", rows));
  if (report.per_class?.length) place.append(element("h3", {}, "Class by class"), classTable(report.per_class));
  if (history?.length > 1) place.append(element("h3", {}, "Training"), curves(history));
  if (confusion?.length) {
    place.append(element("h3", {}, "Confusion matrix"));
    place.append(element("p", { class: "faint" }, "A row is a true class, a column what it was taken for; the stronger the colour, the larger the share of the row. Blue is right, orange wrong."));
    const matrix = labels.length <= TABLE_CLASSES ? matrixTable(labels, confusion) : matrixDrawing(labels, confusion);
    const region = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion matrix" }, matrix);
    place.append(element("div", { class: "pair" }, region, pairTable(labels, confusion)));
  }
  if (html) place.append(element("p", { class: "more" }, element("a", { href: html, target: "_blank", rel: "noopener" }, "Open the whole report, with the pictures it got wrong")));
}

/** Return the average precisions of a detector's classes. */
function classTable(classes) {
  const names = ["class", "boxes", "AP", "AP50", "recall"];
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
  const share = (value) => element("td", {}, isNumber(value) ? percent(value, 2) : "–");
  const lines = classes.map(({ label, boxes, ap, ap_50: ap50, recall }) =>
    element("tr", {}, element("td", {}, label), element("td", {}, whole(boxes)), share(ap), share(ap50), share(recall)),
  );
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Classes" }, table);
}

const isNumber = (value) => typeof value === "number";

function matrixTable(labels, confusion) {
  const heads = labels.map((label) => element("th", { scope: "col" }, label));
  const head = element("thead", {}, element("tr", {}, element("td", {}), ...heads));
  const lines = confusion.map((row, truth) => {
    const sum = row.reduce((a, b) => a + b, 0) || 1;
    const cells = row.map((count, taken) => {
      const cell = element("td", { class: count === 0 ? "none" : truth === taken ? "right" : "wrong" }, count ? whole(count) : "·");
      cell.style.setProperty("--share", String(count / sum));
      cell.classList.toggle("strong", count / sum > 0.55);
      cell.title = `${labels[truth]} taken for ${labels[taken]}: ${whole(count)} of ${whole(sum)}`;
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row" }, labels[truth]), ...cells);
  });
  return element("table", { class: "matrix" }, head, element("tbody", {}, ...lines));
}

function matrixDrawing(labels, confusion) {
  const count = labels.length;
  const canvas = element("canvas", { class: "dense", role: "img", "aria-label": `Confusion matrix of ${count} classes; the pairs most often confused are in the table` });
  [canvas.width, canvas.height] = [count, count];
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => {
    const value = style.getPropertyValue(name).trim();
    return [1, 3, 5].map((at) => parseInt(value.slice(at, at + 2), 16));
  };
  const [right, wrong] = [rgb("--accent"), rgb("--wrong")];
  const context = canvas.getContext("2d");
  const image = context.createImageData(count, count);
  confusion.forEach((row, truth) => {
    const sum = row.reduce((a, b) => a + b, 0) || 1;
    row.forEach((images, taken) => {
      if (images) image.data.set([...(truth === taken ? right : wrong), 255 * Math.sqrt(images / sum)], 4 * (truth * count + taken));
    });
  });
  context.putImageData(image, 0, 0);
  const under = element("p", { class: "faint" }, "Point at a cell to read it.");
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = [event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight].map((share) => Math.min(count - 1, Math.max(0, Math.floor(share * count))));
    under.textContent = `${labels[y]} taken for ${labels[x]}: ${whole(confusion[y][x])}`;
  });
  return element("div", {}, canvas, under);
}

function pairTable(labels, confusion) {
  const pairs = confusion
    .flatMap((row, truth) => row.map((images, taken) => ({ truth, taken, images })))
    .filter(({ truth, taken, images }) => images && truth !== taken)
    .sort((a, b) => b.images - a.images)
    .slice(0, PAIRS);
  const head = element("tr", {}, ...["is", "taken for"].map((name) => element("th", { scope: "col" }, name)), element("th", { scope: "col", class: "number" }, "pictures"));
  const lines = pairs.map(({ truth, taken, images }) =>
    element("tr", {}, element("td", {}, labels[truth]), element("td", {}, labels[taken]), element("td", { class: "number" }, whole(images))),
  );
  const caption = element("caption", {}, pairs.length ? "Most often confused" : "Nothing was confused");
  return element("table", {}, caption, ...(pairs.length ? [element("thead", {}, head), element("tbody", {}, ...lines)] : []));
}

/** Draw every number of the history by epoch: losses together, shares together. */
function curves(history) {
  const names = Object.keys(history[0]).filter((name) => name !== "epoch" && history.some((row) => typeof row[name] === "number"));
  const groups = [
    ["Loss", names.filter((name) => name.includes("loss"))],
    ["Accuracy", names.filter((name) => /top|accuracy/.test(name))],
    ["Mean average precision", names.filter((name) => name.startsWith("val_map"))],
  ];
  const drawings = groups.filter(([, members]) => members.length).map(([title, members]) => curve(title, members.slice(0, 2), history));
  return element("div", { class: "curves" }, ...drawings);
}

function curve(title, names, history) {
  const values = names.flatMap((name) => history.map((row) => row[name])).filter((value) => typeof value === "number");
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const lines = names.map((name, index) => {
    const points = history
      .map((row, i) => [i, row[name]])
      .filter(([, value]) => typeof value === "number")
      .map(([i, value]) => `${(100 * i) / (history.length - 1)},${100 - (100 * (value - low)) / (high - low || 1)}`);
    return shape("polyline", { class: "ab"[index], points: points.join(" ") });
  });
  const drawing = shape("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": `${title} from ${low.toPrecision(3)} to ${high.toPrecision(3)} in ${history.length} epochs` }, ...lines);
  const keys = names.map((name, index) => element("span", { class: `key ${"ab"[index]}` }, name.replaceAll("_", " ")));
  return element("figure", {}, element("figcaption", {}, `${title}, ${low.toPrecision(3)} to ${high.toPrecision(3)}`, ...keys), drawing);
}

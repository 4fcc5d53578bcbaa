// The page: pictures come in, answers go out.

import { openBackend } from "./backend.js";
import { Camera, frameOf, jpegOf, nextFrame } from "./camera.js";
import { element } from "./elements.js";
import { showCard } from "./facts.js";
import { keep, prepare } from "./offline.js";
import { showReport } from "./report.js";
import { View } from "./view.js";

const TOP = 5;
const SPEAK_EVERY_MS = 2500; // a screen reader is told of live answers no more often
const $ = (id) => document.getElementById(id);

const camera = new Camera();
const pictures = []; // {blob, name, address, caption}
let backend = null;
let views = [];
let current = null; // the picture that is shown
let turn = 0; // what began in an earlier turn has nothing to say any more
let spoken = { words: "", at: 0 };

async function start() {
  backend = await openBackend();
  backend.askKey = askKey;
  if (await prepare((words) => ($("where").textContent = words))) return; // the page is loaded again
  const models = await backend.models();
  $("private").textContent = backend.words.privacy;
  $("where").textContent = backend.words.where;
  $("compare").hidden = models.length < 2;
  addView(models, models[0]);
  connect(models);
  await ready(views[0]);
  await keep(() => {
    backend.offline = true;
    $("where").textContent = backend.words.where;
  });
}

function addView(models, model) {
  const view = new View($("view"), models, model, async (changed) => {
    await ready(changed);
    if (current) await ask([changed]);
  });
  $("views").append(view.root);
  views.push(view);
  view.about.addEventListener("toggle", () => view.about.open && view.card && showCard(view.about.querySelector(".card"), view.card));
  view.judged.addEventListener("toggle", () => view.judged.open && loadReport(view));
  return view;
}

/** Load a view's model. */
async function ready(view) {
  const { model } = view;
  const here = () => view.model === model;
  view.describe(null);
  view.wait("Loading the model");
  try {
    const card = await backend.card(model);
    if (!here()) return;
    view.describe(card);
    view.about.open = false;
    view.judged.open = false;
    view.judged.hidden = !card.report;
    $("threshold-setting").hidden = views.every((each) => each.card?.task !== "detection");
    $("heat-setting").hidden = views.every((each) => each.card?.task === "detection" || each.card?.explain === false);
    await backend.open(model, (share) => here() && view.wait("Loading the model", share));
    $("where").textContent = backend.words.where;
  } catch (error) {
    if (here()) view.fail(error.message);
  } finally {
    if (here()) view.wait("");
  }
}

async function loadReport(view) {
  const place = view.judged.querySelector(".report");
  place.replaceChildren(element("p", { class: "faint" }, "Loading…"));
  try {
    const report = await backend.report(view.model);
    if (report) showReport(place, report);
    else place.replaceChildren(element("p", { class: "faint" }, "There is no report beside this model."));
  } catch (error) {
    place.replaceChildren(element("p", { class: "trouble" }, error.message));
  }
}

function wishes(view) {
  const { task, explain } = view.card ?? {};
  const threshold = task === "detection" ? $("threshold").value / 100 : 0;
  return { top: TOP, threshold, explain: task !== "detection" && explain !== false && $("heat").value > 0 };
}

/** Ask the views' models about the picture that is shown. */
async function ask(asked = views) {
  const [mine, picture] = [turn, current];
  if (!picture) return; // a slider was moved, and meanwhile the camera began
  for (const view of asked) {
    const { model } = view;
    const slow = setTimeout(() => view.wait("Looking"), 250);
    try {
      const answer = await backend.predict(model, picture, wishes(view));
      if (mine !== turn || view.model !== model) continue;
      view.showAnswer(answer, false);
      if (view === views[0]) caption(picture, view.said());
    } catch (error) {
      if (mine === turn && view.model === model) view.fail(`${picture.name}: ${error.message}`);
    } finally {
      clearTimeout(slow);
      if (view.model === model) view.wait("");
    }
  }
  if (mine === turn) speak(0);
}

async function show(picture) {
  stopCamera();
  turn += 1;
  const mine = turn;
  current = picture;
  trouble("");
  markStrip();
  await Promise.all(views.map((view) => view.showPicture(picture.address, picture.name)));
  if (mine === turn) await ask();
}

async function take(files) {
  const chosen = [...files];
  if (chosen.length === 0) return;
  const added = chosen.map((blob) => ({ blob, name: blob.name || "pasted picture", address: URL.createObjectURL(blob), caption: "" }));
  pictures.push(...added);
  drawStrip();
  await show(added[0]);
  // The others' captions, one after the other, as long as nothing else is wanted.
  const [mine, { model }] = [turn, views[0]];
  for (const picture of added.slice(1)) {
    if (mine !== turn || views[0].model !== model) return;
    try {
      const { predictions, detections } = await backend.predict(model, picture, { ...wishes(views[0]), explain: false });
      caption(picture, predictions ? predictions[0].label : `${detections.length} found`);
    } catch {
      caption(picture, "cannot be read");
    }
  }
}

/** Ask a person for the service's key; null where they give none. */
function askKey(again) {
  const dialog = $("key-dialog");
  $("key-again").hidden = !again;
  $("key").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue ? $("key").value.trim() : null), { once: true });
  });
}

function drawStrip() {
  $("strip-section").hidden = pictures.length < 2;
  for (const picture of pictures.filter((each) => !each.item)) {
    const button = element("button", { type: "button", title: picture.name }, element("img", { src: picture.address, alt: "" }), element("span", {}, picture.name));
    button.addEventListener("click", () => show(picture));
    picture.item = element("li", {}, button);
    $("strip").append(picture.item);
  }
}

function caption(picture, words) {
  const place = picture.item?.querySelector("span");
  if (place) place.textContent = words;
}

function markStrip() {
  for (const picture of pictures) picture.item?.firstElementChild.setAttribute("aria-pressed", String(picture === current));
}

async function startCamera(begin = () => camera.start()) {
  turn += 1;
  const mine = turn;
  trouble("");
  try {
    const stream = await begin();
    camera.watch(stopCamera);
    current = null;
    markStrip();
    markCamera(true);
    $("turn").hidden = !(await camera.several());
    await Promise.all(views.map((view) => view.showCamera(stream)));
    await live(mine);
  } catch (error) {
    if (mine !== turn) return;
    stopCamera();
    trouble(error.message);
    views.forEach((view) => view.empty());
  }
}

/** Look at one frame after the other; the next is taken when the last is answered, so nothing queues up. */
async function live(mine) {
  while (mine === turn && camera.on) {
    const bitmap = await frameOf(views[0].video, backend.liveSide);
    const { width, height } = bitmap;
    try {
      const picture = backend.liveSide ? { blob: await jpegOf(bitmap) } : { bitmap };
      for (const view of views) {
        const answer = await backend.predict(view.model, picture, wishes(view));
        if (mine !== turn) return;
        view.showAnswer({ width, height, ...answer }, true);
      }
    } finally {
      bitmap.close();
    }
    speak(SPEAK_EVERY_MS);
    await nextFrame(views[0].video);
  }
}

/** Stop, and keep the last frame as a picture. */
async function keepFrame() {
  const video = views[0].video;
  const bitmap = video.videoWidth ? await frameOf(video, 0) : null;
  stopCamera();
  if (bitmap === null) return;
  const blob = await jpegOf(bitmap);
  bitmap.close();
  await take([new File([blob], `camera ${new Date().toLocaleTimeString()}.jpg`, { type: blob.type })]);
}

function stopCamera() {
  if (!camera.on) return;
  turn += 1;
  camera.stop();
  markCamera(false);
  $("turn").hidden = true;
}

function markCamera(on) {
  const button = $("camera");
  button.setAttribute("aria-pressed", String(on));
  button.classList.toggle("live", on);
  button.querySelector("span").textContent = on ? "Stop, keep this frame" : "Use the camera";
}

function compare(models) {
  const on = views.length === 1;
  if (on) {
    const other = models.find((name) => name !== views[0].model);
    const view = addView(models, other);
    view.settings = views[0].settings;
    ready(view).then(() => (camera.on ? view.showCamera(views[0].video.srcObject) : current && view.showPicture(current.address, current.name).then(() => ask([view]))));
  } else {
    views.pop().root.remove();
  }
  $("views").classList.toggle("two", on);
  $("compare").setAttribute("aria-pressed", String(on));
}

function trouble(words) {
  $("trouble").textContent = words;
  $("trouble").hidden = !words;
}

/** Tell a screen reader the answers, when they have changed and the last is long enough ago. */
function speak(patienceMs) {
  const parts = views.map((view) => (views.length > 1 ? `${view.model}: ${view.said()}` : view.said()));
  const words = parts.join("; ");
  const labels = views.map((view) => view.best?.label ?? view.said()).join("; ");
  const now = performance.now();
  if (patienceMs && (labels === spoken.words || now - spoken.at < patienceMs)) return;
  spoken = { words: labels, at: now };
  $("said").textContent = words;
}

function connect(models) {
  $("file").addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = "";
  });
  $("camera").addEventListener("click", () => (camera.on ? keepFrame() : startCamera()));
  $("turn").addEventListener("click", () => startCamera(() => camera.turn()));
  $("compare").addEventListener("click", () => compare(models));
  $("heat").addEventListener("input", () => {
    const share = $("heat").value / 100;
    $("heat-value").textContent = share ? `${$("heat").value} %` : "off";
    views.forEach((view) => {
      view.settings.opacity = share;
      view.redraw();
    });
    const unexplained = share > 0 && current !== null && views.filter((view) => view.best && !view.explained);
    if (unexplained?.length) later(() => ask(unexplained));
  });
  $("threshold").addEventListener("input", () => {
    $("threshold-value").textContent = `${$("threshold").value} %`;
    if (current) later(() => ask());
  });
  document.addEventListener("paste", (event) => {
    if (event.target.closest?.("dialog")) return;
    const files = [...event.clipboardData.files];
    if (files.length) take(files);
    else trouble("there is no picture in the clipboard");
  });
  connectDrop();
  document.addEventListener("keydown", (event) => event.key === "Escape" && camera.on && keepFrame());
}

let waiting = null;

/** Do something once the user has stopped moving a slider. */
function later(action) {
  clearTimeout(waiting);
  waiting = setTimeout(action, 150);
}

function connectDrop() {
  let depth = 0;
  const curtain = (shown) => ($("curtain").hidden = !shown);
  document.addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth += 1;
    curtain(event.dataTransfer.types.includes("Files"));
  });
  document.addEventListener("dragleave", () => {
    depth -= 1;
    if (depth === 0) curtain(false);
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    curtain(false);
    if (event.dataTransfer.files.length) take(event.dataTransfer.files);
    else trouble("that is not a file: save the picture first, then drop the file");
  });
}

$("key-give").addEventListener("click", () => $("key-dialog").close("given"));
$("key").addEventListener("keydown", (event) => event.key === "Enter" && $("key-dialog").close("given"));
$("key-dialog").addEventListener("cancel", () => ($("key-dialog").returnValue = ""));
start().catch((error) => trouble(error.message));

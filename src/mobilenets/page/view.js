// One model looking at the picture: its own stage, answers, times and facts. Comparing is two of these.

import { element, milliseconds, percent } from "./elements.js";
import { draw, hueOf } from "./overlay.js";

const SPARK = 60; // times kept for the little curve

export class View {
  #parts = {};
  #size = null;
  #answer = null;
  #chosen = 0;
  #times = [];
  #ends = [];

  /**
   * @param template the page's <template id="view">
   * @param changed called when another model is chosen
   */
  constructor(template, models, model, changed) {
    const fragment = template.content.cloneNode(true);
    this.root = fragment.firstElementChild;
    const part = (selector) => this.root.querySelector(selector);
    for (const name of ["stage", "headline", "bars", "times", "spark", "steps", "nothing", "unable", "chips", "card", "judged", "report", "loading", "about"]) {
      this.#parts[name] = part(`.${name}`);
    }
    this.frame = part(".frame");
    [this.image, this.video, this.canvas] = [part("img"), part("video"), part("canvas")];
    this.model = model;
    this.card = null;
    const select = part("select");
    select.append(...models.map((name) => element("option", { value: name }, name)));
    select.value = model;
    select.disabled = models.length < 2;
    select.addEventListener("change", () => {
      this.model = select.value;
      changed(this);
    });
    this.about = part(".about");
    this.judged = part(".judged");
    this.settings = { opacity: 0 };
    new ResizeObserver(() => this.redraw()).observe(this.frame);
  }

  /** Take a model's card, or null while it is not known. */
  describe(card) {
    this.card = card;
    if (card === null) [this.#times, this.#ends] = [[], []]; // they were another's
    const [height, width] = card ? card.resolution : [0, 0];
    const words = card ? [card.precision, `${width} × ${height}`, `${card.labels.length} classes`] : [];
    this.#parts.chips.replaceChildren(...words.map((word) => element("span", {}, word)));
  }

  /** Say that something is under way: `words`, and a share from 0 to 1 or null; nothing where words are "". */
  wait(words, share = null) {
    const { loading } = this.#parts;
    loading.hidden = !words;
    loading.querySelector(".words").textContent = words;
    const bar = loading.querySelector("progress");
    bar.hidden = share === null;
    if (share !== null) bar.value = share;
  }

  /** Show a picture by its address; resolves to its size, or null where this browser cannot show it. */
  async showPicture(address, name) {
    this.#clear();
    this.video.hidden = true;
    this.video.srcObject = null;
    this.image.src = address;
    this.image.alt = name;
    const shown = await this.image.decode().then(() => true, () => false);
    this.image.hidden = !shown;
    if (shown) this.#fit(this.image.naturalWidth, this.image.naturalHeight);
    delete this.#parts.stage.dataset.empty;
    return shown ? this.#size : null;
  }

  /** Show the camera; resolves when its first frame is there. */
  async showCamera(stream) {
    this.#clear();
    this.image.hidden = true;
    this.image.removeAttribute("src");
    this.video.hidden = false;
    this.video.srcObject = stream;
    await this.video.play();
    this.#fit(this.video.videoWidth, this.video.videoHeight);
    delete this.#parts.stage.dataset.empty;
  }

  empty() {
    this.#clear();
    this.video.srcObject = null;
    this.#parts.stage.dataset.empty = "";
  }

  /** Show an answer of the backend's. */
  showAnswer(answer, live) {
    this.#answer = answer;
    if (this.#size === null) this.#fit(answer.width, answer.height);
    if (!live || answer.detections) this.#chosen = answer.detections ? null : 0;
    this.#parts.unable.hidden = true;
    this.#parts.nothing.hidden = true;
    if (answer.detections) this.#showDetections(answer.detections);
    else this.#showPredictions(answer.predictions);
    this.#showTimes(answer, live);
    this.redraw();
  }

  /** Say why there is no answer. */
  fail(message) {
    this.#clear();
    this.#parts.nothing.hidden = true;
    this.#parts.unable.hidden = false;
    this.#parts.unable.textContent = message;
  }

  /** Draw heat and boxes again, as the settings are now. */
  redraw() {
    if (this.#size === null) return;
    const { detections = null, predictions = [] } = this.#answer ?? {};
    const heat = predictions[this.#chosen]?.heat ?? null;
    draw(this.canvas, this.#answerSize(), {
      heat,
      opacity: this.settings.opacity,
      preprocess: this.card?.preprocess,
      detections,
      chosen: this.#chosen,
    });
    this.canvas.setAttribute("aria-label", this.said() || "No answer yet");
  }

  /** Return the answer in one sentence. */
  said() {
    const { predictions, detections } = this.#answer ?? {};
    if (predictions) return `${predictions[0].label}, ${percent(predictions[0].score, 0)}`;
    if (!detections) return "";
    if (detections.length === 0) return "nothing found";
    const counts = new Map();
    for (const { label } of detections) counts.set(label, (counts.get(label) ?? 0) + 1);
    return [...counts].map(([label, count]) => `${count} ${label}`).join(", ");
  }

  get best() {
    return this.#answer?.predictions?.[0] ?? null;
  }

  get explained() {
    return Boolean(this.#answer?.predictions?.[0]?.heat);
  }

  #clear() {
    this.#answer = null;
    this.#size = null;
    this.#chosen = 0;
    [this.#times, this.#ends] = [[], []];
    const { headline, bars, times, spark, steps, nothing, unable } = this.#parts;
    for (const each of [headline, bars, times, spark, steps, unable]) each.toggleAttribute("hidden", true);
    nothing.hidden = false;
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.canvas.setAttribute("aria-label", "No answer yet");
  }

  #fit(width, height) {
    this.#size = { width, height };
    this.frame.style.setProperty("--ratio", String(width / height));
    this.image.classList.toggle("tiny", Math.max(width, height) <= 96);
  }

  /** Boxes are in pixels of the picture as it was sent, which may be smaller than it is shown. */
  #answerSize() {
    const { width, height } = this.#answer ?? {};
    return width && height ? { width, height } : this.#size;
  }

  #showPredictions(predictions) {
    this.#headline(predictions[0].label, percent(predictions[0].score));
    const choosable = predictions.some((each) => each.heat);
    this.#rows(
      predictions.map(({ label, score, heat }, index) => ({ label, score, hue: null, index, choosable: choosable && Boolean(heat) })),
    );
  }

  #showDetections(detections) {
    this.#headline(this.said(), detections.length ? `best score ${percent(Math.max(...detections.map((each) => each.score)))}` : "");
    this.#rows(detections.map(({ label, score, box }, index) => ({ label, score, box, hue: hueOf(label), index, choosable: true })));
  }

  #headline(words, small) {
    const { headline } = this.#parts;
    headline.hidden = false;
    headline.replaceChildren(words, ...(small ? [element("small", {}, small)] : []));
  }

  /** Update the list in place: bars glide, and what has the focus keeps it. */
  #rows(rows) {
    const { bars } = this.#parts;
    bars.hidden = rows.length === 0;
    bars.classList.toggle("many", rows.length > 6);
    while (bars.children.length > rows.length) bars.lastElementChild.remove();
    while (bars.children.length < rows.length) bars.append(this.#row(bars.children.length));
    rows.forEach(({ label, score, box, hue, index, choosable }, place) => {
      const button = bars.children[place].firstElementChild;
      button.querySelector(".name").textContent = label;
      const number = button.querySelector(".score");
      number.textContent = percent(score);
      number.dataset.score = score;
      if (box) number.dataset.box = box.join(" ");
      else delete number.dataset.box;
      const fill = button.querySelector(".fill");
      fill.style.width = `${100 * score}%`;
      if (hue) fill.style.setProperty("--hue", hue);
      else fill.style.removeProperty("--hue");
      button.disabled = false;
      button.classList.toggle("plain", !choosable);
      if (choosable) button.setAttribute("aria-pressed", String(this.#chosen === index));
      else button.removeAttribute("aria-pressed");
    });
  }

  #row(place) {
    const fill = element("span", { class: "fill" });
    const track = element("span", { class: "track", "aria-hidden": "true" }, fill);
    const button = element("button", { type: "button" }, element("span", { class: "name" }), element("span", { class: "score" }), track);
    button.addEventListener("click", () => {
      if (button.classList.contains("plain")) return;
      this.#chosen = this.#answer.detections && this.#chosen === place ? null : place;
      [...this.#parts.bars.children].forEach((row, index) => {
        if (row.firstElementChild.hasAttribute("aria-pressed")) row.firstElementChild.setAttribute("aria-pressed", String(index === this.#chosen));
      });
      this.redraw();
    });
    return element("li", {}, button);
  }

  #showTimes({ totalMs, steps }, live) {
    const { times, spark, steps: line } = this.#parts;
    const now = performance.now();
    this.#times = [...this.#times, totalMs].slice(-SPARK);
    this.#ends = [...this.#ends, now].filter((end) => now - end < 2000);
    const sorted = [...this.#times].sort((a, b) => a - b);
    const typical = sorted[Math.floor(sorted.length / 2)];
    const span = now - this.#ends[0];
    const rate = live && span > 500 ? (1000 * (this.#ends.length - 1)) / span : 1000 / typical;
    times.hidden = false;
    times.querySelector("[data-time=total]").textContent = milliseconds(typical);
    times.querySelector("[data-time=rate]").textContent = rate.toFixed(1);
    const parts = Object.entries(steps).map(([name, ms]) => `${name} ${milliseconds(ms)}`);
    line.hidden = parts.length === 0;
    line.textContent = parts.join(" · ");
    spark.toggleAttribute("hidden", this.#times.length < 5); // a drawing has no property `hidden`
    const most = Math.max(...this.#times);
    const points = this.#times.map((ms, i) => `${(120 * i) / (SPARK - 1)},${27 - (26 * ms) / most}`);
    spark.firstElementChild.setAttribute("points", points.join(" "));
  }
}

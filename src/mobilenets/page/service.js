// The backend that asks the service which sent this page.

const KEY = "mobilenets.key"; // kept for this tab alone

export class ServiceBackend {
  words = { where: "answered by this service", privacy: "Pictures go to the service that sent this page, and nowhere else." };
  liveSide = 640;
  askKey = null; // set by the page: returns a promise of the key a person types, or null
  #cards = new Map();

  async models() {
    const { models } = await this.#get("v1/models");
    return models.map((each) => each.name);
  }

  card(model) {
    if (!this.#cards.has(model)) {
      const card = this.#get(`v1/model?${new URLSearchParams({ model })}`);
      card.catch(() => this.#cards.delete(model)); // asked again when it is wanted again
      this.#cards.set(model, card);
    }
    return this.#cards.get(model);
  }

  async open() {}

  async predict(model, { blob }, { top, threshold, explain }) {
    const query = new URLSearchParams({ model, top, threshold });
    if (explain) query.set("explain", "true");
    const began = performance.now();
    const headers = { "Content-Type": blob.type || "application/octet-stream" };
    const { items } = await this.#get(`v1/predict?${query}`, { method: "POST", headers, body: blob });
    const totalMs = performance.now() - began;
    const [item] = items;
    if (item.error) throw new Error(item.error);
    const { predictions, detections, width, height, heat } = item;
    if (heat && predictions) predictions[0].heat = heat;
    return { predictions, detections, width, height, totalMs, steps: stepsOf(item, totalMs) };
  }

  async report(model) {
    const report = await this.#get(`v1/report?${new URLSearchParams({ model })}`);
    if (report && sessionStorage.getItem(KEY)) delete report.html; // a link cannot carry the key
    return report;
  }

  /** Return the JSON at an address; a key is asked for where the service wants one. */
  async #get(address, options = {}) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
      const response = await answered(address, { ...options, headers });
      if (response.status === 401) {
        const typed = await this.askKey?.(key !== null);
        if (!typed) throw new Error("this service asks for its key");
        sessionStorage.setItem(KEY, typed);
        continue;
      }
      return documentOf(response);
    }
  }
}

/** Say what of the time was needed where. */
function stepsOf({ ms, model_ms: network }, totalMs) {
  const steps = {};
  if (typeof network === "number") steps.network = network;
  if (typeof ms === "number") {
    steps["rest of the service"] = Math.max(0, ms - (network ?? 0));
    steps["on the way"] = Math.max(0, totalMs - ms);
  }
  return steps;
}

async function answered(address, options) {
  try {
    return await fetch(address, { credentials: "same-origin", ...options });
  } catch {
    throw new Error("the service does not answer: is it still running?");
  }
}

async function documentOf(response) {
  const document = await response.json().catch(() => undefined);
  if (response.ok && document !== undefined) return document;
  const message = typeof document?.error === "string" ? document.error : `the service answers ${response.status}`;
  const again = response.headers.get("Retry-After");
  throw new Error(again ? `${message} (try again in ${again} s)` : message);
}

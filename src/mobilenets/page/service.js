// The backend that asks the service which sent this page.

export class ServiceBackend {
  words = { where: "answered by this service", privacy: "Pictures go to the service that sent this page, and nowhere else." };
  liveSide = 640;
  #cards = new Map();

  async models() {
    const answer = await getJson("v1/models");
    return (answer.models ?? answer).map((each) => (typeof each === "string" ? each : each.name));
  }

  card(model) {
    if (!this.#cards.has(model)) this.#cards.set(model, getJson(`v1/model?${new URLSearchParams({ model })}`));
    return this.#cards.get(model);
  }

  async open() {}

  async predict(model, picture, { top, threshold, explain }) {
    const query = new URLSearchParams({ model, top, threshold });
    if (explain) query.set("explain", "true");
    const { blob } = picture;
    const began = performance.now();
    const body = { method: "POST", headers: { "Content-Type": blob.type || "application/octet-stream" }, body: blob };
    const answer = await getJson(`v1/predict?${query}`, body);
    const totalMs = performance.now() - began;
    const item = (answer.items ?? answer.results ?? [answer].flat())[0];
    if (item.error) throw new Error(item.error);
    const predictions = item.predictions?.map((each, place) => {
      const heat = each.heat ?? (place === 0 ? item.heat : undefined);
      return heat ? { ...each, heat } : each;
    });
    const { detections, width, height } = item;
    const steps = stepsOf(item, totalMs);
    return { predictions, detections, width, height, totalMs, steps };
  }

  async report(model) {
    const card = await this.card(model);
    return card.report === false ? null : getJson(`v1/report?${new URLSearchParams({ model })}`);
  }
}

/** Say what of the time the service needed, where it tells. */
function stepsOf(item, totalMs) {
  const inside = item.ms ?? item.total_ms ?? item.timing?.total_ms;
  return typeof inside === "number" ? { service: inside, "on the way": Math.max(0, totalMs - inside) } : {};
}

async function getJson(address, options) {
  let response;
  try {
    response = await fetch(address, { credentials: "same-origin", ...options });
  } catch {
    throw new Error("the service does not answer: is it still running?");
  }
  const text = await response.text();
  let document = null;
  try {
    document = JSON.parse(text);
  } catch {
    // An answer that is no JSON has no message for people in it.
  }
  if (response.ok && document !== null) return document;
  if (response.ok) return text.trim() === "null" ? null : Promise.reject(new Error("the service's answer is no JSON"));
  const message = document?.error?.message ?? document?.error ?? document?.detail ?? `the service answers ${response.status}`;
  const again = response.headers.get("Retry-After");
  throw new Error(typeof message === "string" ? message + (again ? ` (try again in ${again} s)` : "") : `the service answers ${response.status}`);
}

// The backend that runs the models in this browser, in a worker.

export class BrowserBackend {
  liveSide = 0;
  threads = null; // not known before a model is open
  offline = false; // whether everything is kept for use without a network
  #worker = null;
  #waiting = new Map();
  #next = 0;
  #progress = new Map();
  #cards = new Map();

  get words() {
    const threads = this.threads === null ? [] : [this.threads === 1 ? "one thread" : `${this.threads} threads`];
    const where = ["runs in this browser", ...threads, ...(this.offline ? ["also offline"] : [])].join(" · ");
    return { where, privacy: "Pictures never leave this device: the network runs in this browser." };
  }

  async models() {
    return (await getJson("models.json")).models;
  }

  card(model) {
    if (!this.#cards.has(model)) this.#cards.set(model, getJson(`models/${encodeURIComponent(model)}/model.json`));
    return this.#cards.get(model);
  }

  async open(model, onProgress) {
    const request = await this.#request(model);
    this.#progress.set(request.file, onProgress);
    try {
      const { threads } = await this.#ask("open", { model: request });
      this.threads = threads;
    } finally {
      this.#progress.delete(request.file);
    }
  }

  async predict(model, picture, { top, threshold }) {
    const asked = { model: await this.#request(model), picture: picture.blob ?? picture.bitmap, top, threshold };
    const answer = await this.#ask("predict", asked);
    const steps = { decode: answer.decodeMs, resize: answer.fitMs, network: answer.networkMs };
    if (answer.boxesMs !== undefined) steps.boxes = answer.boxesMs;
    return { ...answer, steps };
  }

  async report() {
    return null;
  }

  async #request(model) {
    const card = await this.card(model);
    const file = new URL(`models/${encodeURIComponent(model)}/${card.file}`, document.baseURI).href;
    const { preprocess, labels, detector } = card;
    return { name: model, file, bytes: card.bytes, card: { preprocess, labels, detector } };
  }

  #ask(ask, request) {
    this.#worker ??= this.#start();
    const id = this.#next;
    this.#next += 1;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, ask, ...request });
    });
  }

  #start() {
    const worker = new Worker(new URL("engine.js", import.meta.url), { type: "module" });
    worker.addEventListener("message", ({ data: { id, answer, error, progress } }) => {
      if (progress) {
        const { file, received, bytes } = progress;
        this.#progress.get(file)?.(bytes ? Math.min(1, received / bytes) : null);
        return;
      }
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(answer);
      else reject(new Error(error));
    });
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      for (const { reject } of this.#waiting.values()) reject(new Error(`this browser cannot run the model: ${event.message ?? "its worker failed"}`));
      this.#waiting.clear();
      this.#worker = null;
    });
    return worker;
  }
}

async function getJson(file) {
  const response = await fetch(file).catch(() => null);
  if (!response?.ok) throw new Error(`${file} is missing: copy the exported folder again, whole`);
  return response.json();
}

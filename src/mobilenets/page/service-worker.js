// Keeps the files of this folder, so that the page opens without a network, and sends them with the headers that let a
// browser compute with threads. FILES is filled in when the folder is written: the sha256 of each file, by name.

const FILES = {/* files */};
const CACHE = "mobilenets";
const SHELL = Object.keys(FILES).filter((name) => !/\.(onnx|wasm)$/.test(name)); // small, wanted at once
const TYPES = { wasm: "application/wasm", js: "text/javascript; charset=utf-8" };
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

const addressOf = (name) => new URL(name, self.registration.scope).href;
const keyOf = (name) => `${addressOf(name)}?${FILES[name]}`; // another content is another key: no version is ever mixed

self.addEventListener("install", (event) => {
  event.waitUntil(Promise.all(SHELL.map(kept)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(forget().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const name = nameOf(event.request.url);
  if (event.request.method !== "GET" || !Object.hasOwn(FILES, name)) return;
  const answered = answer(name);
  event.respondWith(answered);
  event.waitUntil(answered.then(() => fetching.get(name)?.stored).catch(() => {})); // live until it is kept
});

self.addEventListener("message", (event) => {
  if (event.data !== "keep") return;
  const all = Promise.all(Object.keys(FILES).map(kept)).then(
    () => event.ports[0].postMessage({ kept: true }),
    () => event.ports[0].postMessage({ kept: false }),
  );
  event.waitUntil(all);
});

function nameOf(address) {
  const { origin, pathname } = new URL(address);
  const scope = new URL(self.registration.scope);
  if (origin !== scope.origin || !pathname.startsWith(scope.pathname)) return null;
  return decodeURIComponent(pathname.slice(scope.pathname.length)) || "index.html";
}

const fetching = new Map(); // name -> {response, stored}: two who want a file cause one request

function download(name) {
  if (!fetching.has(name)) {
    const pair = fetch(addressOf(name), { cache: "no-cache" }).then((response) => [response, response.clone()]);
    const stored = pair.then(([, copy]) => store(name, copy)).finally(() => fetching.delete(name));
    stored.catch(() => {}); // whoever waits for it is told
    fetching.set(name, { response: pair.then(([response]) => response), stored });
  }
  return fetching.get(name);
}

async function store(name, response) {
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  await (await caches.open(CACHE)).put(keyOf(name), response);
}

async function found(name) {
  return (await caches.open(CACHE)).match(keyOf(name));
}

/** Have a file kept; rejects where it cannot be had, or there is no room for it. */
async function kept(name) {
  if (!(await found(name))) await download(name).stored;
}

/** Answer with what is kept, or with what comes while it is being kept. */
async function answer(name) {
  const here = await found(name);
  if (here) return withHeaders(name, here);
  if (fetching.has(name)) {
    await fetching.get(name).stored.catch(() => {});
    return withHeaders(name, (await found(name)) ?? (await fetch(addressOf(name))));
  }
  return withHeaders(name, await download(name).response);
}

function withHeaders(name, response) {
  const headers = new Headers(response.headers);
  for (const [key, value] of Object.entries(HEADERS)) headers.set(key, value);
  const type = TYPES[name.split(".").pop()];
  if (type) headers.set("Content-Type", type);
  return new Response(response.body, { status: response.status, headers });
}

/** Delete what no version in use has any more. */
async function forget() {
  const cache = await caches.open(CACHE);
  const wanted = new Set(Object.keys(FILES).map(keyOf));
  for (const request of await cache.keys()) {
    if (!wanted.has(request.url)) await cache.delete(request);
  }
}

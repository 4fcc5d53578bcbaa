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
  if (event.request.method === "GET" && Object.hasOwn(FILES, name)) event.respondWith(answer(name));
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

const fetching = new Map(); // name -> promise, so that two who want a file cause one request

async function kept(name) {
  const cache = await caches.open(CACHE);
  const found = await cache.match(keyOf(name));
  if (found) return;
  if (!fetching.has(name)) {
    fetching.set(name, fetched(cache, name).finally(() => fetching.delete(name)));
  }
  await fetching.get(name);
}

async function fetched(cache, name) {
  const response = await fetch(addressOf(name), { cache: "no-cache" });
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  await cache.put(keyOf(name), response);
}

async function answer(name) {
  try {
    await kept(name);
    const response = await (await caches.open(CACHE)).match(keyOf(name));
    return withHeaders(name, response);
  } catch {
    return fetch(addressOf(name)); // no room to keep it: at least answer now
  }
}

function withHeaders(name, response) {
  const headers = new Headers(response.headers);
  for (const [key, value] of Object.entries(HEADERS)) headers.set(key, value);
  const type = TYPES[name.split(".").pop()];
  if (type) headers.set("Content-Type", type);
  return new Response(response.body, { status: 200, headers });
}

/** Delete what no version in use has any more. */
async function forget() {
  const cache = await caches.open(CACHE);
  const wanted = new Set(Object.keys(FILES).map(keyOf));
  for (const request of await cache.keys()) {
    if (!wanted.has(request.url)) await cache.delete(request);
  }
}

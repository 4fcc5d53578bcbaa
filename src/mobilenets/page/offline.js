// Where the model runs in this browser: keep everything for offline use, and let it have threads.

const RELOADED = "mobilenets.reloaded";
const PATIENCE_MS = 4000;

/**
 * Register the service worker, which keeps the files and adds the two headers without which browsers give no threads.
 * Returns whether the page is being loaded again to have them; nothing else should be begun then.
 */
export async function prepare(say) {
  if (!concerned()) return false;
  try {
    await navigator.serviceWorker.register("service-worker.js");
    if (!window.crossOriginIsolated && !sessionStorage.getItem(RELOADED) && (await controlled())) {
      sessionStorage.setItem(RELOADED, "yes"); // once: where it does not help, one thread has to do
      say("preparing…");
      location.reload();
      return true;
    }
    sessionStorage.removeItem(RELOADED);
  } catch {
    // Without a service worker (a private window, plain http) the page works, but not offline.
  }
  return false;
}

/** Wait until the service worker answers for this page; false where that takes too long. */
function controlled() {
  if (navigator.serviceWorker.controller) return true;
  return new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", () => resolve(true), { once: true });
    setTimeout(() => resolve(false), PATIENCE_MS);
  });
}

/** Have every file kept, also those this visit does not need; `done` is called once they are. */
export async function keep(done) {
  if (!concerned()) return;
  const registration = await navigator.serviceWorker.ready;
  const { port1, port2 } = new MessageChannel();
  port1.addEventListener("message", ({ data }) => {
    if (!data.kept) return;
    document.documentElement.dataset.offline = "ready";
    done();
  });
  port1.start();
  registration.active.postMessage("keep", [port2]);
}

const concerned = () => document.documentElement.dataset.backend === "browser" && Boolean(navigator.serviceWorker);

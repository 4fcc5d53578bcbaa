// What the page needs of whoever runs the models. There are two: the service that sent the page, and this browser.
//
//   words                      {where, privacy}: what to tell people
//   liveSide                   a camera's frame need be no larger than this, in pixels; 0 where frames stay here
//   models()                   promise of names, the first is the default
//   card(model)                promise of the model's card
//   open(model, onProgress)    promise that resolves when the model is ready; onProgress(share 0..1 or null)
//   predict(model, picture, {top, threshold, explain})
//                              picture {blob}, or {bitmap} where liveSide is 0; promise of {predictions [{label, index, score, heat?}] or
//                              detections [{label, score, box}], width, height, totalMs, steps {name: ms}};
//                              heat is rows of values 0..1 over what the network sees, box is [x1, y1, x2, y2] in pixels
//   report(model)              promise of a report, or null
//
// Promises are rejected with an Error whose message is for people.

/** Return the backend that the page was made for. */
export async function openBackend() {
  if (document.documentElement.dataset.backend === "browser") {
    const { BrowserBackend } = await import("./browser.js");
    return new BrowserBackend();
  }
  const { ServiceBackend } = await import("./service.js");
  return new ServiceBackend();
}

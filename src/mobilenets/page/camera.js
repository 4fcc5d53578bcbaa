// The camera: one frame at a time, the next when the last is answered.

export class Camera {
  #stream = null;
  #facing = "environment";

  get on() {
    return this.#stream !== null;
  }

  /** Start, and return the stream for the videos that show it. Rejects with an Error whose message is for people. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("no camera here: browsers allow it on https addresses and on localhost alone");
    }
    try {
      const video = { facingMode: { ideal: this.#facing }, width: { ideal: 1280 }, height: { ideal: 960 } };
      this.#stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    } catch (error) {
      throw new Error(REASONS[error.name] ?? `the camera does not start: ${error.message}`);
    }
    return this.#stream;
  }

  stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
  }

  /** Call `ended` when the camera goes away by itself. */
  watch(ended) {
    this.#stream.getVideoTracks().forEach((track) => track.addEventListener("ended", ended));
  }

  async turn() {
    this.stop();
    this.#facing = this.#facing === "environment" ? "user" : "environment";
    return this.start();
  }

  /** Say whether there is more than one. */
  async several() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    return devices.filter((device) => device.kind === "videoinput").length > 1;
  }
}

const REASONS = {
  NotAllowedError: "the camera may not be used: allow it in the browser's settings for this page",
  NotFoundError: "no camera was found: connect one, or choose a picture",
  NotReadableError: "the camera is used by another program: close that first",
};

/** Return the frame that a video shows, as an ImageBitmap with the longer side at most `side` pixels; 0 is no limit. */
export function frameOf(video, side) {
  const [width, height] = [video.videoWidth, video.videoHeight];
  const scale = side ? Math.min(1, side / Math.max(width, height)) : 1;
  const size = { resizeWidth: Math.round(width * scale), resizeHeight: Math.round(height * scale), resizeQuality: "medium" };
  return createImageBitmap(video, scale === 1 ? {} : size);
}

/** Wait until a video has another frame. */
export function nextFrame(video) {
  return new Promise((resolve) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(() => resolve());
    else requestAnimationFrame(() => resolve());
  });
}

/** Return an ImageBitmap as a JPEG file's Blob. */
export function jpegOf(bitmap) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the frame cannot be sent"))), "image/jpeg", 0.92);
  });
}

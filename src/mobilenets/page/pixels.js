// From a file or a camera's frame to pixels: upright, without its colour profile, transparency laid on white, as the
// Python package decodes it.

const PIXEL_LIMIT = 100_000_000; // four bytes each, and some copies: more would end a phone's tab

/** Return {data, height, width, step: 4} of a Blob or an ImageBitmap. */
export async function pixelsOf(picture) {
  const bitmap = picture instanceof ImageBitmap ? picture : await decoded(picture);
  const { width, height } = bitmap;
  try {
    if (width * height > PIXEL_LIMIT) {
      throw new Error(`${width} x ${height} pixels are more than a browser can hold: make the picture smaller`);
    }
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    return { data: context.getImageData(0, 0, width, height).data, width, height, step: 4 };
  } finally {
    bitmap.close();
  }
}

async function decoded(blob) {
  try {
    return await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error("not a picture that this browser can read: choose a JPEG, PNG, WebP, GIF, BMP or AVIF file");
  }
}

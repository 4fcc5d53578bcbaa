// From a picture to what a network takes, as the Python package does it: resize with an antialiased filter, crop the
// centre. Normalization is inside the model's file. Resizing is in two passes, first along the rows, with 8-bit values
// between them and coefficients of 22 fractional bits, which is how Pillow computes it: the results are the same to the
// last bit, and one grey level off where a picture is of an extreme shape and Pillow begins with the columns.

const PRECISION_BITS = 22;
const WHOLE_RESIZE_PIXELS = 16_000_000; // larger ones are computed from the cropped part's own corners

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

function cubic(signed) {
  const a = -0.5;
  const x = Math.abs(signed);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

/** Round to the nearest whole number, halves to the even one, as Python does. */
export function roundHalfEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/** Return the [height, width] that a picture is resized to before the crop. */
export function resizedSides(height, width, preprocess) {
  if (preprocess.resize === null) return [preprocess.height, preprocess.width];
  const long = Math.trunc((preprocess.resize * Math.max(height, width)) / Math.min(height, width));
  const sides = height <= width ? [preprocess.resize, long] : [long, preprocess.resize];
  if (sides[0] >= preprocess.height && sides[1] >= preprocess.width) return sides;
  const scale = Math.max(preprocess.height / height, preprocess.width / width);
  return [
    Math.max(preprocess.height, roundHalfEven(height * scale)),
    Math.max(preprocess.width, roundHalfEven(width * scale)),
  ];
}

/** Return the part of a picture that the network sees, {left, top, width, height} in the picture's own pixels. */
export function seenPart(height, width, preprocess) {
  const sides = resizedSides(height, width, preprocess);
  const [stepY, stepX] = [height / sides[0], width / sides[1]];
  const top = roundHalfEven((sides[0] - preprocess.height) / 2);
  const left = roundHalfEven((sides[1] - preprocess.width) / 2);
  return {
    left: left * stepX,
    top: top * stepY,
    width: preprocess.width * stepX,
    height: preprocess.height * stepY,
  };
}

/**
 * Resize and centre-crop one picture.
 * @param picture {data: uint8 array, height, width, step}, step bytes a pixel: 1 for grey, 3 for RGB, 4 for opaque RGBA.
 * @param preprocess the model's, as its card has it.
 * @returns Uint8Array of height * width * channels values, row by row, the channels of a pixel together.
 */
export function fit(picture, preprocess) {
  const { height, width } = picture;
  if (height < 1 || width < 1) throw new Error(`a picture of ${height} x ${width} pixels is empty`);
  const planes = planesOf(picture, preprocess.channels);
  const sides = resizedSides(height, width, preprocess);
  const top = roundHalfEven((sides[0] - preprocess.height) / 2);
  const left = roundHalfEven((sides[1] - preprocess.width) / 2);
  let rows = { size: height, out: sides[0], from: top, count: preprocess.height, low: 0, high: height };
  let columns = { size: width, out: sides[1], from: left, count: preprocess.width, low: 0, high: width };
  if (sides[0] * sides[1] > WHOLE_RESIZE_PIXELS) {
    rows = part(rows, height / sides[0]);
    columns = part(columns, width / sides[1]);
  }
  return resample(planes, rows, columns, preprocess.interpolation);
}

function part(axis, step) {
  const { size, from, count } = axis;
  return { size, out: count, from: 0, count, low: from * step, high: (from + count) * step };
}

/** Bring a picture to `channels` values a pixel: colour to grey by luma (Rec. 601, as Pillow), grey to colour by repetition. */
function planesOf(picture, channels) {
  const { data, width, height, step } = picture;
  if (channels === 1 && step >= 3) {
    const grey = new Uint8Array(width * height);
    for (let i = 0, j = 0; i < grey.length; i += 1, j += step) {
      grey[i] = (19595 * data[j] + 38470 * data[j + 1] + 7471 * data[j + 2] + 32768) >> 16;
    }
    return { data: grey, width, step: 1, channels: 1, offsets: [0] };
  }
  if (channels === 1) return { data, width, step, channels: 1, offsets: [0] };
  if (channels === 3) return { data, width, step, channels: 3, offsets: step === 1 ? [0, 0, 0] : [0, 1, 2] };
  throw new Error(`this model takes ${channels} channels, and pictures have 1 or 3`);
}

function resample(source, rows, columns, interpolation) {
  if (interpolation === "nearest") return pick(source, rows, columns);
  const across = coefficients(columns, interpolation);
  const down = coefficients(rows, interpolation);
  const first = down.starts[0];
  const last = down.starts[rows.count - 1] + down.lengths[rows.count - 1];
  const between = alongRows(source, across, first, last, columns.count);
  return alongColumns(between, down, first, columns.count * source.channels);
}

/** Return for each wanted output which inputs it reads and by which weights, 22 fractional bits. */
function coefficients(axis, interpolation) {
  const { support, weight } = FILTERS[interpolation];
  const { size, out, from, count, low, high } = axis;
  const starts = new Int32Array(count);
  const lengths = new Int32Array(count);
  if (size === out && low === 0 && high === size) {
    // Nothing to resize along this axis: each output is its input.
    for (let i = 0; i < count; i += 1) [starts[i], lengths[i]] = [from + i, 1];
    return { starts, lengths, taps: 1, weights: new Int32Array(count).fill(1 << PRECISION_BITS) };
  }
  const scale = (high - low) / out;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  const taps = Math.ceil(reach) * 2 + 1;
  const weights = new Int32Array(count * taps);
  const exact = new Float64Array(taps);
  for (let i = 0; i < count; i += 1) {
    const centre = low + (from + i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - reach + 0.5));
    const length = Math.min(size, Math.trunc(centre + reach + 0.5)) - start;
    let sum = 0;
    for (let k = 0; k < length; k += 1) {
      exact[k] = weight((k + start - centre + 0.5) * (1 / stretch));
      sum += exact[k];
    }
    for (let k = 0; k < length; k += 1) {
      const share = (sum === 0 ? exact[k] : exact[k] / sum) * (1 << PRECISION_BITS);
      weights[i * taps + k] = Math.trunc(share + (share < 0 ? -0.5 : 0.5));
    }
    [starts[i], lengths[i]] = [start, length];
  }
  return { starts, lengths, taps, weights };
}

const HALF = 1 << (PRECISION_BITS - 1);

function byte(sum) {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

function alongRows(source, across, first, last, count) {
  const { data, width, step, channels, offsets } = source;
  const { starts, lengths, taps, weights } = across;
  const out = new Uint8Array((last - first) * count * channels);
  let to = 0;
  for (let y = first; y < last; y += 1) {
    for (let x = 0; x < count; x += 1) {
      const begin = (y * width + starts[x]) * step;
      for (let c = 0; c < channels; c += 1) {
        let sum = HALF;
        let from = begin + offsets[c];
        for (let k = x * taps, end = k + lengths[x]; k < end; k += 1, from += step) {
          sum = (sum + Math.imul(data[from], weights[k])) | 0;
        }
        out[to] = byte(sum);
        to += 1;
      }
    }
  }
  return out;
}

function alongColumns(data, down, first, stride) {
  const { starts, lengths, taps, weights } = down;
  const out = new Uint8Array(starts.length * stride);
  for (let y = 0; y < starts.length; y += 1) {
    const begin = (starts[y] - first) * stride;
    for (let x = 0; x < stride; x += 1) {
      let sum = HALF;
      let from = begin + x;
      for (let k = y * taps, end = k + lengths[y]; k < end; k += 1, from += stride) {
        sum = (sum + Math.imul(data[from], weights[k])) | 0;
      }
      out[y * stride + x] = byte(sum);
    }
  }
  return out;
}

/** Take the nearest pixel. Positions are sums of steps, not products, as in Pillow: they round alike. */
function pick(source, rows, columns) {
  const { data, width, step, channels, offsets } = source;
  const [ys, xs] = [positions(rows), positions(columns)];
  const out = new Uint8Array(ys.length * xs.length * channels);
  let to = 0;
  for (const y of ys) {
    for (const x of xs) {
      for (let c = 0; c < channels; c += 1) {
        out[to] = data[(y * width + x) * step + offsets[c]];
        to += 1;
      }
    }
  }
  return out;
}

function positions(axis) {
  const { size, out, from, count, low, high } = axis;
  const scale = (high - low) / out;
  const found = new Int32Array(count);
  let place = low + scale * 0.5;
  for (let i = 0; i < from + count; i += 1, place += scale) {
    if (i >= from) found[i - from] = Math.min(size - 1, Math.floor(place));
  }
  return found;
}

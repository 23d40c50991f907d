// Short-time spectrum of a signal as brightness levels. No browser is needed here: the worker and the tests call it.

const WINDOW_S = 0.032; // crackles last 5 to 20 ms, wheezes 100 ms and longer
const HOP_S = 0.008;
const NUM_FFT = 512;
const MAX_FRAMES = 6000;
const LOWEST_SHARE = 0.1; // of the levels, that are shown as nothing
const HIGHEST_SHARE = 0.998;
const SILENCE_DB = -100; // digital silence says nothing of how dark the rest should be

// In-place radix-2 transform of `re` + i `im`; the length is a power of two.
export function fft(re, im) {
  const size = re.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let half = 1; half < size; half *= 2) {
    for (let k = 0; k < half; k++) {
      const angle = (-Math.PI * k) / half;
      const cos = Math.cos(angle);
      const sin = Math.sin(angle);
      for (let i = k; i < size; i += 2 * half) {
        const j = i + half;
        const real = re[j] * cos - im[j] * sin;
        const imaginary = re[j] * sin + im[j] * cos;
        re[j] = re[i] - real;
        im[j] = im[i] - imaginary;
        re[i] += real;
        im[i] += imaginary;
      }
    }
  }
}

// levels: 0 to 255 in decibels, (numFrames x numBins); bin k is at k * binHz, frame i is centred at i * hopS.
export function spectrogram(samples, sampleRateHz) {
  const numWindow = Math.min(NUM_FFT, Math.round(WINDOW_S * sampleRateHz));
  const hop = Math.max(Math.round(HOP_S * sampleRateHz), Math.ceil(samples.length / MAX_FRAMES));
  const numFrames = Math.max(1, Math.ceil(samples.length / hop));
  const numBins = NUM_FFT / 2;
  const window = Float64Array.from({ length: numWindow }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / numWindow));
  const decibels = new Float32Array(numFrames * numBins);
  const re = new Float64Array(NUM_FFT);
  const im = new Float64Array(NUM_FFT);
  for (let frame = 0; frame < numFrames; frame++) {
    const first = frame * hop - (numWindow >> 1);
    re.fill(0);
    im.fill(0);
    for (let n = 0; n < numWindow; n++) re[n] = (samples[first + n] ?? 0) * window[n];
    fft(re, im);
    for (let k = 0; k < numBins; k++) decibels[frame * numBins + k] = 10 * Math.log10(re[k] ** 2 + im[k] ** 2 + 10 ** (SILENCE_DB / 10));
  }
  return { levels: toLevels(decibels), numFrames, numBins, hopS: hop / sampleRateHz, binHz: sampleRateHz / NUM_FFT };
}

function toLevels(decibels) {
  const step = Math.max(1, Math.floor(decibels.length / 50000));
  const some = decibels.filter((value, i) => i % step === 0 && value > SILENCE_DB + 1).sort();
  const at = (share) => some[Math.floor(share * (some.length - 1))] ?? SILENCE_DB;
  const low = at(LOWEST_SHARE);
  const range = Math.max(at(HIGHEST_SHARE) - low, 20);
  return Uint8ClampedArray.from(decibels, (value) => (255 * (value - low)) / range);
}

// Frequency of each of `numRows` rows, highest first.
export function rowFrequencies(scale, numRows, { lowHz, highHz }) {
  return Float64Array.from({ length: numRows }, (_, row) => {
    const share = 1 - (row + 0.5) / numRows;
    return scale === "log" ? lowHz * (highHz / lowHz) ** share : highHz * share;
  });
}

// Pixels (numRows x numFrames) of a spectrogram in the colours of a palette.
export function paint({ levels, numFrames, numBins, binHz }, frequencies, palette) {
  const pixels = new Uint32Array(frequencies.length * numFrames);
  frequencies.forEach((frequency, row) => {
    const position = Math.min(frequency / binHz, numBins - 1.001);
    const below = Math.floor(position);
    const share = position - below;
    for (let frame = 0; frame < numFrames; frame++) {
      const from = frame * numBins + below;
      pixels[row * numFrames + frame] = palette[Math.round(levels[from] * (1 - share) + levels[from + 1] * share)];
    }
  });
  return new Uint8ClampedArray(pixels.buffer);
}

// A palette of 256 colours through the given ones, [red, green, blue] each.
export function gradient(stops) {
  const colours = Array.from({ length: 256 }, (_, level) => {
    const position = (level / 255) * (stops.length - 1);
    const below = Math.min(Math.floor(position), stops.length - 2);
    return [...stops[below].map((value, i) => value + (stops[below + 1][i] - value) * (position - below)), 255];
  });
  return new Uint32Array(Uint8Array.from(colours.flat()).buffer);
}

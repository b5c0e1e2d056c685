// Short-time spectra of a decoded sound, and the colours they are drawn in.

const FFT = 512;
const RANGE_DB = 75;
// magma (van der Walt & Smith, CC0) at equal steps
const COLOURS = [
  [0, 0, 4],
  [28, 16, 68],
  [79, 18, 123],
  [129, 37, 129],
  [181, 54, 122],
  [229, 80, 100],
  [251, 135, 97],
  [254, 194, 135],
  [252, 253, 191],
];

/** Levels of a sound, 0 to 1 over 75 dB below its loudest, as columns of FFT / 2 frequencies from 0 to half the rate. */
export function spectrogram(samples, columns) {
  const window = Float32Array.from({ length: FFT }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / FFT));
  const half = FFT / 2;
  const power = new Float32Array(columns * half);
  const real = new Float32Array(FFT);
  const imaginary = new Float32Array(FFT);
  for (let column = 0; column < columns; column++) {
    const start = Math.round(((column + 0.5) * samples.length) / columns) - half;
    for (let n = 0; n < FFT; n++) real[n] = window[n] * (samples[start + n] ?? 0);
    imaginary.fill(0);
    fft(real, imaginary);
    for (let bin = 0; bin < half; bin++) power[column * half + bin] = real[bin] ** 2 + imaginary[bin] ** 2;
  }
  const loudest = power.reduce((most, value) => Math.max(most, value), 1e-12);
  return power.map((value) => Math.max(0, 1 + (10 * Math.log10(value / loudest + 1e-12)) / RANGE_DB));
}

/** The colour of a level from 0 to 1. */
export function colour(level) {
  const place = Math.min(Math.max(level, 0), 1) * (COLOURS.length - 1);
  const below = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[below].map((value, i) => value + (place - below) * (COLOURS[below + 1][i] - value));
}

/** In place, radix 2 (Cooley & Tukey 1965). */
function fft(real, imaginary) {
  const length = real.length;
  for (let i = 1, j = 0; i < length; i++) {
    let bit = length >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let size = 2; size <= length; size <<= 1) {
    for (let k = 0; k < size / 2; k++) {
      const cos = Math.cos((-2 * Math.PI * k) / size);
      const sin = Math.sin((-2 * Math.PI * k) / size);
      for (let even = k; even < length; even += size) {
        const odd = even + size / 2;
        const re = real[odd] * cos - imaginary[odd] * sin;
        const im = real[odd] * sin + imaginary[odd] * cos;
        real[odd] = real[even] - re;
        imaginary[odd] = imaginary[even] - im;
        real[even] += re;
        imaginary[even] += im;
      }
    }
  }
}

// A sound to be seen and heard: its waveform and its spectrogram over one time axis, and the browser's own player.

import { el } from "./dom.js";
import { colour, spectrogram } from "./spectrum.js";
import { clock } from "./words.js";

const RATE = 16000; // what is shown then ends at 8 kHz
const WAVE_PX = 64;
const SPECTRUM_PX = 112;
const MOST_COLUMNS = 1200;

/**
 * A figure of a sound.
 *
 * @param {Blob} blob a file of sound in any form that the browser decodes.
 * @param {string} name what the pictures are called for those who cannot see them.
 */
export async function soundFigure(blob, name) {
  const player = el("audio", { controls: true, preload: "metadata", "aria-label": `Play ${name}` });
  player.src = URL.createObjectURL(blob);
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await blob.arrayBuffer());
  } catch {
    return el("figure", {}, player, el("figcaption", { class: "soft" }, "This browser cannot draw this format."));
  }
  const samples = mixed(sound);
  const length = clock(sound.duration);
  const wave = el("canvas", { role: "img", "aria-label": `Waveform of ${name}, ${length}` });
  const spectrum = el("canvas", { role: "img", "aria-label": `Spectrogram of ${name}, 0 to 8 kHz` });
  const head = el("span", { class: "head", "aria-hidden": "true", hidden: true });
  const plot = el("div", { class: "plot" }, wave, spectrum, el("span", { class: "top soft" }, "8 kHz"), head);
  player.addEventListener("timeupdate", () => {
    head.hidden = player.currentTime === 0;
    head.style.left = `${(100 * player.currentTime) / sound.duration}%`;
  });
  const draw = () => {
    const width = plot.clientWidth;
    if (!width) return;
    drawWave(sized(wave, width, WAVE_PX), samples, getComputedStyle(plot).getPropertyValue("--voice"));
    drawSpectrum(sized(spectrum, width, SPECTRUM_PX), samples);
  };
  new ResizeObserver(draw).observe(plot);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return el(
    "figure",
    { class: "sound" },
    plot,
    el("div", { class: "axis soft", "aria-hidden": "true" }, el("span", {}, "0 s"), el("span", {}, length)),
    player,
  );
}

function mixed(sound) {
  const samples = sound.getChannelData(0).slice();
  for (let channel = 1; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((value, n) => (samples[n] += value));
  }
  return samples;
}

function sized(canvas, width, height) {
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  return canvas.getContext("2d");
}

function drawWave(context, samples, ink) {
  const { width, height } = context.canvas;
  const peak = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
  context.fillStyle = ink;
  for (let x = 0; x < width; x++) {
    let low = 0;
    let high = 0;
    const end = Math.floor(((x + 1) * samples.length) / width);
    for (let n = Math.floor((x * samples.length) / width); n < end; n++) {
      low = Math.min(low, samples[n]);
      high = Math.max(high, samples[n]);
    }
    const reach = (height / 2 - 1) / peak;
    context.fillRect(x, height / 2 - high * reach, 1, Math.max((high - low) * reach, 1));
  }
}

function drawSpectrum(context, samples) {
  const { width, height } = context.canvas;
  const columns = Math.min(width, MOST_COLUMNS);
  const level = spectrogram(samples, columns);
  const bins = level.length / columns;
  const picture = new ImageData(columns, bins);
  for (let x = 0; x < columns; x++) {
    for (let bin = 0; bin < bins; bin++) {
      const at = 4 * ((bins - 1 - bin) * columns + x);
      picture.data.set([...colour(level[x * bins + bin]), 255], at);
    }
  }
  const small = new OffscreenCanvas(columns, bins);
  small.getContext("2d").putImageData(picture, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, width, height);
}

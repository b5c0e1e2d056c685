// Playback of stored voices: one at a time, from where the match is.

import { ask, recordingPath } from "./api.js";
import { el } from "./dom.js";
import { clock } from "./words.js";

const LONGEST_S = 60; // of a sound that the endpoint sends
const HELD = 8; // sounds kept decoded by the browser, the least recent given up first
const sounds = new Map();
const audio = new Audio();
let playing = null;

/** A button that plays a match from its segment's start, and stops it. */
export function playButton(match, fail) {
  const start = match.start_s < LONGEST_S ? (match.start_s ?? 0) : 0;
  const button = el("button", { type: "button", class: "play", click: () => toggle(button, match, start, fail) });
  shown(button, match, start, "play");
  return button;
}

async function toggle(button, match, start, fail) {
  const again = playing?.button === button;
  stop();
  if (again) return;
  const own = (playing = { button, reset: () => shown(button, match, start, "play") });
  shown(button, match, start, "wait");
  try {
    const url = await sound(match.recording_id);
    if (playing !== own) return;
    audio.src = url;
    await loaded();
    audio.currentTime = start;
    await audio.play();
    if (playing === own) shown(button, match, start, "stop");
  } catch (error) {
    if (playing === own) {
      stop();
      fail(error);
    }
  }
}

/** Silence, and every button as it was. */
export function stop() {
  audio.pause();
  playing?.reset();
  playing = null;
}

audio.addEventListener("ended", stop);

function shown(button, match, start, state) {
  const from = start > 0 ? ` from ${clock(start)}` : "";
  const text = { play: `Play${from}`, wait: "Loading", stop: "Stop" }[state];
  button.dataset.state = state;
  button.setAttribute("aria-label", `${text}: voice ${match.recording_id}`);
  button.replaceChildren(el("span", { class: "sign", "aria-hidden": "true" }), text);
}

function loaded() {
  return new Promise((resolve, reject) => {
    audio.addEventListener("loadedmetadata", resolve, { once: true });
    audio.addEventListener("error", () => reject(new Error("This sound cannot be played here.")), { once: true });
  });
}

async function sound(id) {
  const held = sounds.get(id) ?? URL.createObjectURL((await ask(recordingPath(id, "/sound"))).blob);
  sounds.delete(id);
  sounds.set(id, held);
  for (const [oldest, url] of sounds) {
    if (sounds.size <= HELD) break;
    sounds.delete(oldest);
    URL.revokeObjectURL(url);
  }
  return held;
}

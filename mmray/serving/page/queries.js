// The chosen recordings as they sound and look.

import { ask, recordingPath } from "./api.js";
import { el, the } from "./dom.js";
import { soundFigure } from "./signal.js";
import { about, label, one, role, size } from "./words.js";

/** The names of the chosen, each with a button that takes it out. */
export function showChosen(items, remove) {
  the("chosen").replaceChildren(
    ...items.map((item) =>
      el(
        "li",
        {},
        el("span", { class: `kind ${item.modality}` }, one(item.modality)),
        el("span", { class: "id" }, item.name),
        el("button", { type: "button", class: "remove", "aria-label": `Remove ${item.name}`, click: () => remove(item) }, "×"),
      ),
    ),
  );
}

/** Cards of the chosen; one that is shown already stays as it is. */
export function showQueries(items, playback) {
  const kept = items.map((item) => (item.card ??= card(item, playback)));
  const place = the("queries");
  if (kept.length !== place.childElementCount || kept.some((made, n) => made !== place.children[n])) {
    place.replaceChildren(...kept);
  }
}

/** The picture of an uploaded EEG, which the endpoint draws: asked for once its search is answered. */
export async function showUploadedEeg(items, signal) {
  for (const item of items) {
    if (!item.file || item.modality !== "eeg" || item.pictured) continue;
    item.pictured = true;
    const form = new FormData();
    form.append("file", item.file);
    await fill(item, async () => image((await ask("v1/picture", { form, signal })).blob, item));
  }
}

function card(item, playback) {
  const { recording, file } = item;
  item.space = el("div", { class: "space" });
  if (item.modality === "audio" && file) fill(item, () => soundFigure(file, item.name));
  else if (recording && playback) {
    const part = item.modality === "audio" ? "/sound" : "/picture";
    fill(item, async () => {
      const { blob } = await ask(recordingPath(recording.recording_id, part));
      return item.modality === "audio" ? soundFigure(blob, item.name) : image(blob, item);
    });
  }
  const badges = recording && [label(recording), role(recording.role)].filter(Boolean);
  return el(
    "article",
    { class: "query", "aria-label": `Query: ${item.name}` },
    el("h3", {}, el("span", { class: `kind ${item.modality}` }, one(item.modality)), el("span", { class: "id" }, item.name)),
    el("p", { class: "soft" }, recording ? [about(recording), ...badges].join(" · ") : `your file, ${size(file.size)}`),
    item.space,
  );
}

async function fill(item, make) {
  try {
    item.space.replaceChildren(await make());
  } catch (error) {
    if (error.name === "AbortError") item.pictured = false;
    else item.space.replaceChildren(el("p", { class: "soft" }, `No picture: ${error.message}`));
  }
}

function image(blob, item) {
  return el(
    "figure",
    { class: "map" },
    el("img", { src: URL.createObjectURL(blob), alt: `Scalp map of ${item.name}`, width: 480, height: 240 }),
  );
}

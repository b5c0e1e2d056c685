// What drove an answer: the weight of each modality, and the reference people who stood in for the missing one.

import { bar, el } from "./dom.js";
import { one, percent } from "./words.js";

const LISTED = 6;

/** The panel, or null where the system has neither weights nor neighbours to show. */
export function reasonsPanel(answer) {
  const weights = Object.entries(answer.modality_weights ?? {});
  const neighbours = [...(answer.neighbours ?? [])].sort((a, b) => b.weight - a.weight);
  if (!weights.length && !neighbours.length) return null;
  return el(
    "section",
    { class: "reasons" },
    el("h3", {}, "What drove it"),
    weights.length ? shares(weights) : null,
    neighbours.length ? reference(neighbours, answer.query_modality) : null,
  );
}

/** A slot can also pull against the query's vector: its share is then below nothing, and no bar shows it. */
function shares(weights) {
  const whole = weights.reduce((sum, [, weight]) => sum + Math.max(weight, 0), 0) || 1;
  const parts = weights.map(([modality, weight]) => {
    const part = el("span", { class: modality === "eeg" ? "eeg" : "voice" });
    part.style.width = `${(100 * Math.max(weight, 0)) / whole}%`;
    return part;
  });
  return el(
    "div",
    {},
    el("h4", {}, "Weight of each modality"),
    el("p", { class: "soft" }, "What share of the query's vector comes from each modality's slot."),
    el("span", { class: "bar stacked", "aria-hidden": "true" }, parts),
    el(
      "p",
      { class: "shares" },
      weights.map(([modality, weight]) =>
        el("span", {}, el("span", { class: `kind ${modality}` }, one(modality)), ` ${percent(weight)}`),
      ),
    ),
  );
}

function reference(neighbours, asked) {
  const most = neighbours[0].weight || 1;
  const rest = neighbours.slice(LISTED);
  const missing = { eeg: "voice", audio: "EEG" }[asked];
  return el(
    "div",
    {},
    el("h4", {}, "Reference neighbours"),
    el(
      "p",
      { class: "soft" },
      `Training recordings most like the query${missing ? `; they fill in for the ${missing} it comes without` : ""}, by weight.`,
    ),
    el(
      "ol",
      { class: "neighbours" },
      neighbours.slice(0, LISTED).map((neighbour) =>
        el(
          "li",
          {},
          el("span", { class: "id" }, neighbour.recording_id),
          el("span", { class: "soft" }, source(neighbour)),
          bar(neighbour.weight / most, neighbour.modality === "eeg" ? "eeg" : "voice"),
          el("span", { class: "score" }, percent(neighbour.weight)),
        ),
      ),
    ),
    rest.length
      ? el("p", { class: "soft" }, `and ${rest.length} more, together ${percent(rest.reduce((sum, n) => sum + n.weight, 0))}`)
      : null,
  );
}

/** A reference sample with several recordings goes by its person's name, which need not be said twice. */
function source({ recording_id: name, subject_id: subject, modality }) {
  return name === subject ? one(modality) : `${one(modality)} of ${subject}`;
}

// What the endpoint serves: at the foot always, and before the first query with what its run can do.

import { askJson } from "./api.js";
import { el, the } from "./dom.js";
import { evidencePanel } from "./evidence.js";
import { count, one } from "./words.js";

const DIRECTIONS = [
  ["eeg", "audio"],
  ["audio", "eeg"],
];
const OFFERED = 2;

/** The foot of the page. */
export function showServed(status) {
  const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  const counts = Object.entries(status.recordings).map(([modality, number]) => count(number, modality));
  the("served").replaceChildren(
    status.takeover ? el("p", { class: "caution" }, `A newer index is not served: ${status.takeover}`) : "",
    el(
      "dl",
      {},
      fact("Index", `${status.index_version} (${status.kind})`),
      fact("Holds", counts.join(", ")),
      fact("Run", status.run_id),
      fact("Model", el("abbr", { title: status.model }, status.model.slice(0, 12))),
      fact("mmray", status.version),
      fact("Routes", el("a", { href: "docs" }, "/docs")),
    ),
  );
}

/** Before a query: what the run's own test says, and recordings to begin with. */
export async function showIdle(status, pick) {
  const panels = DIRECTIONS.map(([from, to]) => {
    const row = figure(status.evaluation ?? [], `${from}->${to}`);
    const asked = from === "eeg" ? "EEG" : "a voice";
    const panel = row && evidencePanel({ ...row, above_chance: row.p_value < 0.05 }, asked, to);
    panel?.prepend(el("p", { class: "from soft" }, `${from === "eeg" ? "EEG" : "Voice"} to ${one(to)}`));
    return panel;
  }).filter(Boolean);
  the("idle").replaceChildren(
    el("h3", {}, panels.length ? "How far to trust this run" : "Nothing is asked yet"),
    panels.length ? el("div", { class: "pair" }, panels) : "",
    el("div", { id: "offered" }),
  );
  const lists = await Promise.all(DIRECTIONS.map(([from]) => askJson(`v1/recordings?modality=${from}&limit=200`)));
  const rows = lists.flatMap(({ recordings }) => unseenFirst(recordings).slice(0, OFFERED));
  if (!rows.length) return;
  the("offered").replaceChildren(
    el("h3", {}, "Begin with a stored recording"),
    el(
      "ul",
      { class: "offers" },
      rows.map((row) =>
        el(
          "li",
          {},
          el(
            "button",
            { type: "button", click: () => pick(row) },
            el("span", { class: `kind ${row.modality}` }, one(row.modality)),
            el("span", { class: "id" }, row.recording_id),
          ),
        ),
      ),
    ),
  );
}

function figure(rows, direction) {
  const of = (level) =>
    rows.find((row) => row.direction === direction && row.metric === "R@1" && row.level === level && row.p_value !== null);
  return of("subject") ?? of("pair");
}

function unseenFirst(recordings) {
  const worth = { unseen: 0, test: 1, validation: 2, train: 3 };
  return [...recordings].sort((a, b) => worth[a.role] - worth[b.role]);
}

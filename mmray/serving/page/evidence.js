// Whether to believe an answer: the run's own test, beside chance.

import { el, svg } from "./dom.js";
import { percent, verdict } from "./words.js";

/** The panel above the matches. */
export function evidencePanel(evidence, asked, target) {
  const said = verdict(evidence, asked, target);
  const kind = said.holds === null ? "unknown" : said.holds ? "holds" : "fails";
  return el(
    "div",
    { class: `verdict ${kind}` },
    el("h3", {}, said.head),
    el("p", {}, said.body),
    said.holds === null ? null : scale(evidence),
  );
}

/** Chance, the figure and its 95 % interval on one axis from nothing to always. */
export function scale({ value, chance, ci_low: low, ci_high: high }) {
  const at = (fraction) => 4 + 292 * Math.min(Math.max(fraction, 0), 1);
  const interval = low === null || high === null ? "" : `; 95\u00a0% of resampled people: ${percent(low)} to ${percent(high)}`;
  return el(
    "figure",
    { class: "scale" },
    svg(
      "svg",
      { viewBox: "0 0 300 22", "aria-hidden": "true", preserveAspectRatio: "none" },
      svg("line", { class: "whole", x1: 4, x2: 296, y1: 11, y2: 11 }),
      interval && svg("line", { class: "interval", x1: at(low), x2: at(high), y1: 11, y2: 11 }),
      svg("line", { class: "chance", x1: at(chance), x2: at(chance), y1: 1, y2: 21 }),
      svg("line", { class: "value", x1: at(value), x2: at(value), y1: 5, y2: 17 }),
    ),
    el(
      "figcaption",
      { class: "soft" },
      el("span", { class: "key value", "aria-hidden": "true" }),
      `found ${percent(value)}${interval}`,
      el("span", { class: "key chance", "aria-hidden": "true" }),
      `chance ${percent(chance)}`,
    ),
  );
}

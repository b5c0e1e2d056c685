// What the run's classifier says of the query: only when asked for, and with how far to trust it.

import { bar, el } from "./dom.js";
import { scale } from "./evidence.js";
import { percent, pValue } from "./words.js";

/** @param {() => Promise<object>} classify asks the endpoint. */
export function classesPanel(classify, fail) {
  const body = el("div", { "aria-live": "polite" });
  const button = el("button", { type: "button", click: show }, "Show classes");
  const note = el("p", { class: "soft" }, "Research software, not a diagnosis.");

  async function show() {
    button.disabled = true;
    button.textContent = "Classifying";
    try {
      body.replaceChildren(...told(await classify()));
      button.remove();
    } catch (error) {
      button.disabled = false;
      button.textContent = "Show classes";
      if (error.name !== "AbortError") fail(error);
    }
  }
  return el("section", { class: "classes" }, el("h3", {}, "Classification"), note, body, button);
}

function told(answer) {
  const classes = [...answer.classes].sort((a, b) => b.probability - a.probability);
  return [
    el(
      "ul",
      { class: "probabilities" },
      classes.map((row) =>
        el(
          "li",
          {},
          el("span", { class: "id" }, row.label_name ?? `label ${row.label}`),
          bar(row.probability),
          el("span", { class: "score" }, percent(row.probability)),
        ),
      ),
    ),
    ...trust(answer.evidence),
    answer.subject_seen_in_training
      ? el("p", {}, "The run was trained on this person, so it may only remember the label.")
      : null,
    el("p", { class: "soft" }, answer.note),
  ].filter(Boolean);
}

function trust(evidence) {
  if (!evidence || evidence.chance === null || evidence.p_value === null) {
    return [el("p", {}, "This run has no figure that says whether this exceeds chance.")];
  }
  const figure = `balanced accuracy ${percent(evidence.value)} on people it never saw; chance ${percent(evidence.chance)}, ${pValue(evidence.p_value)}`;
  const text = evidence.above_chance ? `Above chance: ${figure}.` : `Not above chance: ${figure}. Take this as a guess.`;
  return [el("p", {}, text), scale(evidence)];
}

// The ranked recordings.

import { recordingPath } from "./api.js";
import { bar, el } from "./dom.js";
import { playButton } from "./player.js";
import { about, clock, count, label, many, one, role } from "./words.js";

/**
 * @param {object} answer of the search.
 * @param {object} given `title` of the query, `subject` where it is one known person's, `playback` whether recordings may
 *   be seen and heard, `fail(error)`.
 */
export function matchesPanel(answer, { title, subject, playback, fail }) {
  const { matches, target, gallery } = answer;
  const head = el("h3", {}, `${target === "eeg" ? "EEG" : "Voices"} most like ${title}`);
  if (!matches.length) {
    return el("section", { class: "matches" }, head, el("p", {}, "No recording passes these filters."));
  }
  return el(
    "section",
    { class: "matches" },
    head,
    el("p", { class: "soft" }, `Best ${matches.length} of ${count(gallery, target)}, by cosine similarity. ${person(matches, subject, target)}`),
    el("ol", {}, matches.map((match) => item(match, subject, playback, fail))),
  );
}

function person(matches, subject, target) {
  if (!subject) return "";
  const own = matches.find((match) => match.subject_id === subject);
  return own
    ? `The same person's ${one(target)} first comes at rank ${own.rank}.`
    : `None of these ${many(target)} is of the same person.`;
}

function item(match, subject, playback, fail) {
  const voice = match.modality === "audio";
  const heading = el("a", { class: "id", href: `#${new URLSearchParams({ recording: match.recording_id })}` }, match.recording_id);
  heading.title = "Search with this recording";
  return el(
    "li",
    { class: voice ? "match voice" : "match eeg" },
    el("span", { class: "rank" }, el("span", { class: "unseen" }, "Rank "), String(match.rank)),
    playback ? thumbnail(match) : null,
    el(
      "div",
      { class: "who" },
      heading,
      el("p", { class: "soft" }, about(match)),
      el(
        "p",
        { class: "badges" },
        subject && match.subject_id === subject && el("span", { class: "badge same" }, "same person"),
        label(match) && el("span", { class: "badge" }, label(match)),
        el("span", { class: match.seen_in_training ? "badge seen" : "badge" }, role(match.role)),
        match.start_s !== null &&
          match.start_s !== undefined &&
          el("span", { class: "badge plain" }, `most alike at ${clock(match.start_s)}`),
      ),
    ),
    el(
      "div",
      { class: "much" },
      el("span", { class: "score" }, el("span", { class: "unseen" }, "Score "), match.score.toFixed(3)),
      bar(match.score, voice ? "voice" : "eeg"),
      voice && playback && playButton(match, fail),
    ),
  );
}

function thumbnail(match) {
  const what = match.modality === "eeg" ? "Scalp map" : "Spectrogram";
  const picture = el("img", {
    src: recordingPath(match.recording_id, "/picture"),
    alt: `${what} of ${match.recording_id}`,
    loading: "lazy",
    width: 480,
    height: 240,
  });
  picture.addEventListener("error", () => picture.replaceWith(el("span", { class: "no-picture soft" }, "no picture")));
  return picture;
}

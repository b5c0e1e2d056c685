// The page: what is chosen, when it is asked, and where the answer goes.

import { askJson, recordingPath } from "./api.js";
import { classesPanel } from "./classes.js";
import { el, the } from "./dom.js";
import { evidencePanel } from "./evidence.js";
import { modalityOf, offerFiles } from "./files.js";
import { matchesPanel } from "./matches.js";
import { stop } from "./player.js";
import { showChosen, showQueries, showUploadedEeg } from "./queries.js";
import { address, body, fromAddress, MOST_FILES, MOST_RECORDINGS, options, otherModality } from "./query.js";
import { reasonsPanel } from "./reasons.js";
import { showIdle, showServed } from "./served.js";
import { offerStored } from "./stored.js";
import { count, size, verdict } from "./words.js";

let items = []; // {name, modality, file} or {name, modality, recording}
let targetChosen = false;
let status = null;
let asking = new AbortController();

function tell(text) {
  the("told").textContent = text;
}

function fail(error) {
  the("trouble").replaceChildren(el("p", { class: "problem" }, error.message));
}

function add(more) {
  const [files, recordings] = [[...items, ...more].filter((i) => i.file), [...items, ...more].filter((i) => i.recording)];
  if (files.length > MOST_FILES || recordings.length > MOST_RECORDINGS) {
    fail(new Error(`A query takes at most ${MOST_FILES} files and ${MOST_RECORDINGS} stored recordings. Remove one first.`));
    return;
  }
  items = [...items, ...more];
  changed();
}

function remove(item) {
  const place = items.indexOf(item);
  items = items.filter((other) => other !== item);
  changed();
  (the("chosen").querySelectorAll("button")[Math.min(place, items.length - 1)] ?? the("file")).focus();
}

/** Ask anew. An address that is followed is completed in its place; what a user changes is a step to go back from. */
function changed(step = "pushState") {
  if (!targetChosen) the("ask").elements.target.value = otherModality(items) ?? the("ask").elements.target.value;
  showChosen(items, remove);
  showQueries(items, status?.playback ?? false);
  if (items.length) search(step);
  else clear(step);
}

function clear(step) {
  asking.abort();
  asking = new AbortController();
  busy(false);
  stop();
  tell("");
  the("trouble").replaceChildren();
  the("found").replaceChildren();
  the("idle").hidden = false;
  remember("", step);
}

async function search(step = "pushState") {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const given = options();
  const sent = items;
  stop();
  the("trouble").replaceChildren();
  the("idle").hidden = true;
  remember(address(sent, given), step);
  busy(true);
  try {
    const how = { ...body(sent, given), signal, onUpload: uploading, onWait: waiting };
    tell(sent.some((item) => item.file) ? "Uploading" : "Searching");
    const answer = await askJson("v1/search", how);
    show(answer, sent);
    busy(false);
    if (status?.playback) await showUploadedEeg(sent, signal);
  } catch (error) {
    if (asking.signal !== signal) return; // a newer search has the page
    busy(false);
    the("found").replaceChildren();
    tell(error.name === "AbortError" ? "Cancelled." : "");
    if (error.name !== "AbortError") fail(named(error, sent));
  }
}

/** The endpoint calls files "upload" or "upload 2"; the user knows them by their own names. */
function named(error, sent) {
  const files = sent.filter((item) => item.file);
  const name = (whole, number) => (files[(number ?? 1) - 1] ? `${files[(number ?? 1) - 1].name}: ` : whole);
  return new Error(error.message.replace(/^upload(?: (\d+))?: /i, name));
}

function show(answer, sent) {
  const subjects = new Set(sent.map((item) => item.recording?.subject_id ?? ""));
  const [subject] = subjects.size === 1 ? subjects : [""];
  const title = sent.length === 1 ? sent[0].name : `these ${sent.length} together`;
  const shown = { title, subject, playback: status?.playback ?? false, fail };
  const asked = sent.length > 1 ? "several recordings together" : { eeg: "EEG", audio: "a voice" }[answer.query_modality];
  the("found").replaceChildren(
    evidencePanel(answer.evidence, asked, answer.target),
    trainedOn(sent),
    matchesPanel(answer, shown),
    reasonsPanel(answer) ?? "",
    classesPanel(() => askJson("v1/classify", { ...body(sent, {}), onWait: waiting }), fail),
  );
  tell(`${count(answer.matches.length, answer.target)} found. ${verdict(answer.evidence, asked, answer.target).head}.`);
  const top = the("answer").getBoundingClientRect().top;
  if (top > innerHeight / 2) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    the("answer").scrollIntoView({ behavior: still ? "auto" : "smooth" });
  }
}

function trainedOn(sent) {
  return sent.some((item) => item.recording?.role === "train")
    ? el("p", { class: "caution" }, "The run was trained on this query's person, so it does better here than on anyone new.")
    : "";
}

function busy(whether) {
  the("cancel").hidden = !whether;
  the("progress").hidden = !whether;
  the("progress").removeAttribute("value");
  the("found").classList.toggle("stale", whether);
  the("answer").setAttribute("aria-busy", String(whether));
}

function uploading(fraction) {
  the("progress").value = fraction;
  if (fraction < 1) return;
  the("progress").removeAttribute("value");
  tell("Encoding");
}

function waiting(seconds) {
  tell(`The endpoint is busy; asking again in ${seconds} s.`);
}

async function take(files) {
  const limit = 1e6 * (status?.max_upload_mb ?? Infinity);
  const large = files.find((file) => file.size > limit);
  if (large) {
    fail(new Error(`${large.name} has ${size(large.size)}; this endpoint takes at most ${size(limit)}.`));
    return;
  }
  add(await Promise.all(files.map(async (file) => ({ name: file.name, modality: await modalityOf(file), file }))));
}

function pick(recording) {
  if (items.some((item) => item.recording?.recording_id === recording.recording_id)) return;
  add([stored(recording)]);
}

function stored(recording) {
  return { name: recording.recording_id, modality: recording.modality, recording };
}

function remember(hash, step) {
  if (location.hash !== hash) history[step](null, "", hash || location.pathname + location.search);
}

async function follow() {
  const { hash } = location;
  const { ids, target } = fromAddress(hash);
  if (target) the("ask").elements.target.value = target;
  targetChosen = target !== null;
  try {
    const recordings = await Promise.all(ids.map((id) => askJson(recordingPath(id))));
    if (location.hash !== hash) return; // left again meanwhile
    items = recordings.map(stored);
    changed("replaceState");
  } catch (error) {
    fail(error);
  }
}

async function start() {
  const here = new URL(location.href);
  if (here.searchParams.has("key")) {
    here.searchParams.delete("key"); // the cookie stands in for it from here on
    history.replaceState(null, "", here);
  }
  offerFiles(take);
  offerStored(pick, fail);
  the("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (items.length) search();
    else fail(new Error("Choose a file or a stored recording first."));
  });
  the("ask").addEventListener("change", ({ target }) => {
    if (target.name !== "target") return;
    targetChosen = true;
    if (items.length) search();
  });
  the("cancel").addEventListener("click", () => asking.abort());
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address belongs to the query
    the("answer").focus();
  });
  addEventListener("popstate", follow);
  try {
    status = await askJson("v1/status", { onWait: waiting });
  } catch (error) {
    fail(error);
    return;
  }
  showServed(status);
  showIdle(status, pick);
  the("ask").elements.top_k.max = status.top_k_limit;
  the("ask").elements.label.append(...status.labels.map((name) => el("option", { value: name }, name)));
  if (location.hash) await follow();
}

start();

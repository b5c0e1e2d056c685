// What is asked: the chosen files and recordings, the target and the filters, as a form, as JSON or as an address.

import { the } from "./dom.js";

const FILTERS = ["label", "role", "task", "session", "exclude_subject", "age_min", "age_max"];
export const MOST_FILES = 4;
export const MOST_RECORDINGS = 16;

/** The fields that were filled in. */
export function options() {
  const form = the("ask").elements;
  const given = { target: form.target.value, top_k: form.top_k.value.trim() || "10" };
  for (const name of FILTERS) {
    const value = form[name].value.trim();
    if (value) given[name] = value;
  }
  return given;
}

/** How `ask` sends a query: files as a form, stored recordings as JSON. */
export function body(items, given) {
  if (items.some((item) => item.file)) {
    const form = new FormData();
    for (const item of items) {
      if (item.file) form.append("file", item.file);
      else form.append("recording_id", item.recording.recording_id);
    }
    for (const [name, value] of Object.entries(given)) form.append(name, value);
    return { form };
  }
  const ids = items.map((item) => item.recording.recording_id);
  const numbers = Object.fromEntries(
    Object.entries(given).map(([name, value]) => [name, /^(top_k|age_)/.test(name) ? Number(value) : value]),
  );
  return { json: { recording_id: ids.length === 1 ? ids[0] : ids, ...numbers } };
}

/** The address of a query of stored recordings, "" where a file is part of it. */
export function address(items, given) {
  if (!items.length || items.some((item) => item.file)) return "";
  const parts = new URLSearchParams(items.map((item) => ["recording", item.recording.recording_id]));
  for (const [name, value] of Object.entries(given)) {
    if (!(name === "top_k" && value === "10")) parts.set(name, value);
  }
  return `#${parts}`;
}

/** The recordings that an address names; its options are put into the form. */
export function fromAddress(hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const ids = parts.getAll("recording").slice(0, MOST_RECORDINGS);
  if (!ids.length) return { ids, target: null };
  const form = the("ask").elements;
  for (const name of FILTERS) form[name].value = parts.get(name) ?? "";
  form.top_k.value = parts.get("top_k") ?? "10";
  the("narrow").open = FILTERS.some((name) => parts.get(name));
  const target = parts.get("target");
  return { ids, target: target === "eeg" || target === "audio" ? target : null };
}

/** What to look for when nobody said: the other modality. */
export function otherModality(items) {
  const kinds = new Set(items.map((item) => item.modality));
  return kinds.size === 1 ? ({ audio: "eeg", eeg: "audio" }[[...kinds][0]] ?? null) : null;
}

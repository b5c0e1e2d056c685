// Picking a stored recording: a combobox after the ARIA Authoring Practices, list autocomplete with manual selection.

import { askJson } from "./api.js";
import { el, the } from "./dom.js";
import { about, label, one, role } from "./words.js";

const LISTED = 50;
const PAUSE_MS = 150;

/** Let the combobox call `pick(recording)` for what is chosen, and `fail(error)` where the list cannot be had. */
export function offerStored(pick, fail) {
  const input = the("stored");
  const list = the("stored-list");
  const box = the("choices");
  const told = the("stored-count");
  let rows = [];
  let active = -1;
  let asking = new AbortController();
  let timer;

  async function look() {
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    const wanted = new URLSearchParams({ contains: input.value.trim(), limit: LISTED });
    if (!input.value.trim()) wanted.delete("contains");
    try {
      const found = await askJson(`v1/recordings?${wanted}`, { signal });
      rows = found.recordings;
      list.replaceChildren(...rows.map(option));
      told.textContent =
        found.total > rows.length
          ? `${rows.length} of ${found.total.toLocaleString("en")}; type more of an id to narrow`
          : found.total === 0
            ? "No recording has this in its id."
            : found.total === 1 ? "1 recording" : `${found.total} recordings`;
      open(true);
      mark(-1);
    } catch (error) {
      if (error.name === "AbortError") return;
      open(false);
      fail(error);
    }
  }

  function option(row, place) {
    return el(
      "li",
      {
        role: "option",
        id: `stored-${place}`,
        "aria-selected": "false",
        pointerdown: (event) => event.preventDefault(), // the input keeps the focus
        click: () => choose(place),
      },
      el("span", { class: `kind ${row.modality}` }, one(row.modality)),
      el("span", { class: "id" }, row.recording_id),
      el("span", { class: "soft" }, [about(row), label(row), role(row.role)].filter(Boolean).join(" · ")),
    );
  }

  function open(whether) {
    box.hidden = !whether;
    input.setAttribute("aria-expanded", String(whether));
    if (!whether) mark(-1);
  }

  function mark(place) {
    list.children[active]?.setAttribute("aria-selected", "false");
    active = place;
    const chosen = list.children[place];
    chosen?.setAttribute("aria-selected", "true");
    chosen?.scrollIntoView({ block: "nearest" });
    if (chosen) input.setAttribute("aria-activedescendant", chosen.id);
    else input.removeAttribute("aria-activedescendant");
  }

  function choose(place) {
    const row = rows[place];
    if (!row) return;
    open(false);
    input.value = "";
    pick(row);
  }

  function move(step) {
    if (box.hidden) look();
    else if (rows.length) mark((active + step + rows.length + (active < 0 && step < 0 ? 1 : 0)) % rows.length);
  }

  const keys = {
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    Enter: () => (box.hidden ? look() : choose(active < 0 && rows.length === 1 ? 0 : active)),
    Escape: () => open(false),
  };
  input.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS);
  });
  input.addEventListener("click", look);
  input.addEventListener("blur", () => {
    clearTimeout(timer);
    asking.abort();
    open(false);
  });
}

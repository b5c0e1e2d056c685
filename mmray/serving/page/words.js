// What the page says about numbers, people and recordings.

const TIED = "\u00a0"; // a number and its unit stay on one line
const ONE = { eeg: "EEG", audio: "voice" };
const MANY = { eeg: "EEG recordings", audio: "voices" };
const ROLES = {
  train: "seen in training",
  validation: "used for tuning",
  test: "held out",
  unseen: "new to the run",
};

export const one = (modality) => ONE[modality] ?? "file";
export const many = (modality) => MANY[modality] ?? modality;
export const role = (name) => ROLES[name] ?? name;
export const count = (number, modality) =>
  `${number.toLocaleString("en")} ${number === 1 ? (modality === "eeg" ? "EEG recording" : "voice") : many(modality)}`;

/** 0.392 as "39 %"; small ones keep a decimal. */
export function percent(fraction) {
  const points = Math.abs(100 * fraction);
  const sign = fraction < 0 ? "−" : "";
  return `${sign}${points > 0 && points < 2 ? points.toFixed(1) : Math.round(points)}${TIED}%`;
}

/** "p < 0.001", or two digits of it. */
export function pValue(p) {
  return (p < 0.001 ? "p < 0.001" : `p = ${Number(p.toPrecision(2))}`).replaceAll(" ", TIED);
}

/** Where in a recording: "12.5 s" within its first minute, then "3:05". */
export function clock(seconds) {
  if (seconds < 60) return `${Number(seconds.toFixed(1))}${TIED}s`;
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function size(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)}${TIED}kB` : `${(bytes / 1e6).toFixed(1)}${TIED}MB`;
}

/** A label by its name, else by its number; null where there is none. */
export function label(row) {
  return row.label_name ?? (row.label === null || row.label === undefined ? null : `label ${row.label}`);
}

/** Who and what a recording is, in one line. */
export function about(row) {
  return [
    `subject ${row.subject_id}`,
    row.task,
    row.session && `session${TIED}${row.session}`,
    row.age !== null && row.age !== undefined && `${Math.round(row.age)}${TIED}years`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/**
 * What a run's own test says about a kind of search.
 *
 * @returns {{holds: boolean|null, head: string, body: string}} holds is null where nothing was measured.
 */
export function verdict(evidence, asked, target) {
  if (!evidence) {
    return {
      holds: null,
      head: "No evidence for this kind of search",
      body: `This run was not tested on finding ${many(target)} by ${asked}, so nothing says whether these matches exceed chance.`,
    };
  }
  const found = `On people it never saw, this run finds the right ${one(target)} ${first(evidence.metric)} ${percent(evidence.value)} of the time`;
  if (evidence.chance === null || evidence.p_value === null) {
    return { holds: null, head: "Not compared with chance", body: `${found}; its report says no more.` };
  }
  const body = `${found}; chance ${percent(evidence.chance)}, ${pValue(evidence.p_value)}.`;
  return evidence.above_chance
    ? { holds: true, head: "Above chance", body }
    : { holds: false, head: `Not above chance (${pValue(evidence.p_value)})`, body: `${body} Take these matches as chance.` };
}

function first(metric) {
  const k = /^R@(\d+)$/.exec(metric)?.[1];
  return !k || k === "1" ? "first" : `among the first ${k}`;
}

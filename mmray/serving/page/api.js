// The endpoint's routes. One way to ask: it reports the upload, waits when the endpoint is busy, and can be cancelled.

const TRIES = 5;
const LONGEST_WAIT_S = 30;
const BUSY = new Set([429, 503]);

/** An answer that is not one: `message` is what a person should read. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Ask a route.
 *
 * @param {string} path relative to the page, so that a prefix of a proxy stays before it.
 * @param {object} how json or form is sent as a POST; `signal` cancels; `onUpload(fraction)` and `onWait(seconds)` report.
 * @returns {Promise<{blob: Blob, header: (name: string) => string|null}>}
 * @throws {Refusal} the endpoint said no, or said nothing; DOMException AbortError where it was cancelled.
 */
export async function ask(path, how = {}) {
  for (let tries = 1; ; tries++) {
    const answer = await once(path, how);
    if (answer.status >= 200 && answer.status < 300) return answer;
    if (!BUSY.has(answer.status) || tries === TRIES) throw await refusal(answer);
    const named = Number(answer.header("retry-after"));
    const seconds = Math.min(named > 0 ? named : 2 ** (tries - 1), LONGEST_WAIT_S);
    how.onWait?.(seconds);
    await pause(seconds, how.signal);
  }
}

/** The same, for an answer that is JSON. */
export async function askJson(path, how) {
  return JSON.parse(await (await ask(path, how)).blob.text());
}

/** The address of something a stored recording has: "", "/sound" or "/picture". */
export function recordingPath(id, part = "") {
  return `v1/recordings/${encodeURIComponent(id)}${part}`;
}

function once(path, { json, form, signal, onUpload }) {
  return new Promise((resolve, reject) => {
    const cancelled = () => new DOMException("cancelled", "AbortError");
    if (signal?.aborted) return reject(cancelled());
    const request = new XMLHttpRequest(); // fetch cannot tell how much of an upload is done
    request.open(json || form ? "POST" : "GET", path);
    request.responseType = "blob";
    const stop = () => request.abort();
    signal?.addEventListener("abort", stop);
    request.addEventListener("loadend", () => signal?.removeEventListener("abort", stop));
    request.addEventListener("load", () =>
      resolve({ status: request.status, blob: request.response, header: (name) => request.getResponseHeader(name) }),
    );
    request.addEventListener("abort", () => reject(cancelled()));
    request.addEventListener("error", () =>
      reject(new Refusal(0, "The endpoint did not answer. See whether it still runs, then try again.")),
    );
    if (form && onUpload) {
      request.upload.addEventListener("progress", (event) => onUpload(event.loaded / Math.max(event.total, 1)));
    }
    if (json) request.setRequestHeader("content-type", "application/json");
    request.send(json ? JSON.stringify(json) : (form ?? null));
  });
}

async function refusal({ status, blob, header }) {
  if (status === 401) {
    return new Refusal(401, "This link's key is no longer valid. Open the link that mmray serve printed last.");
  }
  let detail = "";
  if ((header("content-type") ?? "").includes("json")) {
    detail = JSON.parse(await blob.text()).detail ?? "";
  }
  if (BUSY.has(status)) return new Refusal(status, `The endpoint is busy: ${detail || "try again later"}.`);
  return new Refusal(status, detail ? sentence(detail) : `The endpoint answered ${status} without a reason.`);
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    });
  });
}

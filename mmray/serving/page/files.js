// Files for the query: chosen, or dropped anywhere on the page. What they hold is told from their first bytes.

import { the } from "./dom.js";

const SOUND = [/^RIFF....WAVE/s, /^RF64....WAVE/s, /^fLaC/, /^OggS/, /^ID3/, /^\xff[\xfb\xf3\xf2]/];

/** Let `take(files)` have what the user gives. */
export function offerFiles(take) {
  const input = the("file");
  const drop = the("drop");
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = ""; // so that the same file can be given again
  });
  let depth = 0;
  const over = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (over(event)) drop.classList.toggle("over", ++depth > 0);
  });
  document.addEventListener("dragleave", (event) => {
    if (over(event)) drop.classList.toggle("over", --depth > 0);
  });
  document.addEventListener("dragover", (event) => {
    if (over(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!over(event)) return;
    event.preventDefault();
    depth = 0;
    drop.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
}

/** "audio" for a sound; all else is left to the endpoint, which reads it as EEG or says why not. */
export async function modalityOf(file) {
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  return SOUND.some((signature) => signature.test(head)) ? "audio" : "eeg";
}

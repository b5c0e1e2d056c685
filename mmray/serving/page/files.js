// Files for the query: chosen, or dropped anywhere on the page. What they hold is told from their first bytes.

import { the } from "./dom.js";

const SOUND = [/^RIFF....WAVE/s, /^RF64....WAVE/s, /^fLaC/, /^OggS/, /^ID3/, /^\xff[\xfb\xf3\xf2]/];
const EEG = [/^0 {7}/, /^\xffBIOSEMI/, /^MATLAB [57]\.[03]/, /^\x89HDF\r\n/, /^PK\x03\x04/];

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

/** "audio", "eeg", or null where only the endpoint can tell, or say why not. */
export async function modalityOf(file) {
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  const matches = (signature) => signature.test(head);
  return SOUND.some(matches) ? "audio" : EEG.some(matches) ? "eeg" : null;
}

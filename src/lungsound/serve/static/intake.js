// How a sound comes in: chosen, dropped or recorded.
import { record } from "./audio.js";

const byId = (id) => document.getElementById(id);
const isText = (file) => file.name.toLowerCase().endsWith(".txt");
export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

// `limits()` promises the service's, `attempt(work)` runs work and tells what goes wrong, `onSound(file, annotation)` takes over.
export function listenForSounds({ limits, attempt, onSound, onRecord }) {
  const take = (files) => files.length > 0 && attempt(async () => onSound(...checked(files, await limits())));
  byId("file").addEventListener("change", ({ target }) => {
    const files = [...target.files];
    target.value = ""; // the same file may be chosen again
    take(files);
  });
  listenForDrops(take);
  let stop = null;
  const toggle = async () => {
    const finish = stop;
    stop = null;
    showRecording(false);
    const allowed = await limits();
    if (finish) return onSound(...checked([await finish()], allowed));
    onRecord();
    stop = await record({
      onLevel: ({ peak, passed_s }) => {
        byId("level").value = peak;
        byId("recorded").textContent = `${passed_s.toFixed(0)} s`;
        if (stop && passed_s >= (allowed.max_duration_s ?? Infinity) - 1) attempt(toggle);
      },
    });
    return showRecording(true);
  };
  byId("record").addEventListener("click", () => attempt(toggle));
}

function showRecording(isRecording) {
  byId("record").textContent = isRecording ? "Stop and listen" : "Record";
  byId("recording").hidden = !isRecording;
}

function checked(files, { max_bytes }) {
  const [sound, ...more] = files.filter((file) => !isText(file));
  if (!sound) throw new Error("A sound file is needed; a .txt annotation goes with one.");
  if (more.length > 0) throw new Error(`One recording at a time (${more.length + 1} were given); for a folder: lungsound review DIR.`);
  if (sound.size > (max_bytes ?? Infinity)) {
    throw new Error(`${sound.name} has ${megabytes(sound.size)}; the service takes up to ${megabytes(max_bytes)}.`);
  }
  return [sound, files.find(isText)];
}

function listenForDrops(take) {
  const carriesFiles = (event) => !byId("intake").hidden && event.dataTransfer.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("is-dropping");
  });
  addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? document.body.classList.remove("is-dropping"));
  addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    document.body.classList.remove("is-dropping");
    take([...event.dataTransfer.files]);
  });
}

// The page: where a recording comes in, and where what a person made of it goes out.
import { act, actions } from "./actions.js";
import * as api from "./api.js";
import * as cycles from "./cycles.js";
import { listenForSounds, megabytes } from "./intake.js";
import { actionOf } from "./keys.js";
import { attempt, fail, say } from "./messages.js";
import { areLettersOn, listenToPreferences } from "./preferences.js";
import { Review } from "./review.js";
import { close, moveBoundary, open, player, show, state, timeline } from "./workplace.js";

const TITLE = "Hear crackles and wheezes in a chest recording";
const FORMATS = {
  icbhi: { name: "ICBHI .txt", suffix: ".txt" },
  sprsound: { name: "SPRSound .json", suffix: ".json" },
  csv: { name: "CSV table", suffix: ".csv" },
};
const byId = (id) => document.getElementById(id);

// A review saves by itself; elsewhere corrections are lost with the page.
const isUnsaved = () => !state.review && state.sound !== null && state.history.present !== state.sound.saved;

async function upload(file, annotation) {
  if (isUnsaved() && !confirm(`The corrections of ${state.sound.name} are not saved. Open another recording?`)) return;
  byId("title").textContent = `Listening to ${file.name}\u2026`;
  try {
    const record = await api.predict(file, annotation, { age_years: byId("age").value, stethoscope: byId("stethoscope").value });
    await open(record, await file.arrayBuffer(), file.name);
    byId("main").focus({ preventScroll: true });
  } catch (error) {
    byId("title").textContent = state.sound?.name ?? TITLE;
    throw error;
  }
}

function listen() {
  const onClick = (id, work) => byId(id).addEventListener("click", work);
  const named = ["play", "loop", "add", "undo", "redo", "split", "merge", "remove", "reset", "accept", "next", "previous"];
  for (const id of named) onClick(id, actions[id]);
  onClick("play-all", actions.playAll);
  onClick("zoom-in", () => actions.zoom(1.5));
  onClick("zoom-out", () => actions.zoom(1 / 1.5));
  onClick("show-help", () => byId("help").showModal());
  onClick("unset", () => setThreshold(null));
  byId("threshold").addEventListener("input", ({ target }) => setThreshold(Number(target.value)));
  byId("scale").addEventListener("change", ({ target }) => timeline.setScale(target.value));
  for (const [id, edge] of [["start", "start_s"], ["end", "end_s"]]) {
    byId(id).addEventListener("change", ({ target }) => moveBoundary(edge, target.valueAsNumber));
    byId(id).addEventListener("blur", () => [state.history.settle(), show()]);
  }
  byId("token-dialog").addEventListener("close", () => {
    if (byId("token").value === "") return;
    api.setToken(byId("token").value);
    attempt(start);
  });
  addEventListener("keydown", (event) => {
    const action = actionOf(event, { areLettersOn: areLettersOn() });
    if (action?.[0] === "help") byId("help").showModal();
    else if (!action || !act(action)) return;
    event.preventDefault();
  });
  addEventListener("keyup", () => state.history?.settle());
  addEventListener("beforeunload", (event) => isUnsaved() && event.preventDefault());
}

function setThreshold(threshold) {
  state.sound.threshold = threshold;
  show();
}

async function save(format) {
  const { record, name, threshold } = state.sound;
  const answer = { name, duration_s: record.duration_s, sample_rate_hz: record.sample_rate_hz };
  const file = await api.getAnswerFile(format, { ...answer, cycles: cycles.labelled(state.history.present, state.model.classes, threshold) });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name.replace(/\.[^.]*$/, "") + FORMATS[format].suffix;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  state.sound.saved = state.history.present;
  say(`Saved as ${link.download}.`);
}

async function start() {
  state.model = await api.getModel();
  state.marks = cycles.marks(state.model.classes);
  byId("note").textContent = state.model.note;
  byId("evidence").textContent = state.model.evidence;
  byId("stethoscopes").replaceChildren(...state.model.stethoscopes.map((name) => new Option(name)));
  byId("last-key").textContent = state.model.classes.length;
  byId("sounds").textContent = state.model.sound_formats.join(", ").toUpperCase();
  const { max_bytes, max_duration_s } = state.model.limits;
  byId("limits").textContent = max_bytes ? `, up to ${megabytes(max_bytes)}${max_duration_s ? ` and ${max_duration_s} s` : ""}` : "";
  const shown = Object.keys(FORMATS).filter((format) => state.model.formats.includes(format));
  const buttons = shown.map((format) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: FORMATS[format].name });
    button.addEventListener("click", () => attempt(() => save(format)));
    return button;
  });
  byId("formats").replaceChildren(...buttons);
  for (const id of ["review", "keep"]) byId(id).hidden = !state.model.is_review;
  for (const id of ["intake", "save"]) byId(id).hidden = state.model.is_review;
  document.body.classList.toggle("is-review", state.model.is_review);
  if (!state.model.is_review) return;
  state.review = new Review({ onOpen: (record, bytes) => open(record, bytes, record.path), onNone: close, say, fail });
  await state.review.start();
}

// The service's limits; asked for once more where it did not answer at first.
async function whenReady() {
  await starting;
  if (!state.model) await start();
  return state.model.limits;
}

listen();
listenForSounds({ limits: whenReady, attempt, onSound: upload, onRecord: () => player.stop() });
listenToPreferences(() => timeline.repaint());
const starting = attempt(start);

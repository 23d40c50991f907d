// The page: one recording at a time, what is known of it, and what a person does to it.
import * as api from "./api.js";
import { ANALYSIS_RATE_HZ, Player, decode } from "./audio.js";
import * as cycles from "./cycles.js";
import { listenForSounds, megabytes } from "./intake.js";
import { actionOf } from "./keys.js";
import { describe, percent, showCycle, showFacts, showTable, showWhole, toneOf } from "./panels.js";
import { areLettersOn, listenToPreferences } from "./preferences.js";
import { Review } from "./review.js";
import { Timeline } from "./timeline.js";

const NUDGE_S = 0.02;
const WITHOUT_SOUND = ["next", "previous", "accept"];
const TITLE = "Hear crackles and wheezes in a chest recording";
const FORMATS = {
  icbhi: { name: "ICBHI .txt", suffix: ".txt" },
  sprsound: { name: "SPRSound .json", suffix: ".json" },
  csv: { name: "CSV table", suffix: ".csv" },
};
const byId = (id) => document.getElementById(id);

let model = null;
let marks = [];
let review = null;
let sound = null; // {record, name, threshold, selectedId, cursor_s, saved: the cycles as last saved}: the open recording
let history = null;
let worker = null;

const player = new Player({
  onTime: (time_s) => timeline.showPlayhead(time_s),
  onStop: () => {
    timeline.showPlayhead(sound?.cursor_s ?? null);
    showPlaying();
  },
});
const timeline = new Timeline({
  onPlay: (id) => {
    const isAgain = player.isPlaying && id === sound.selectedId;
    choose(id);
    if (isAgain) player.stop();
    else playChosen();
  },
  onSeek: (time_s) => {
    sound.cursor_s = time_s;
    timeline.showPlayhead(time_s);
    const hit = history.present.find((cycle) => cycle.start_s <= time_s && time_s < cycle.end_s);
    if (hit) choose(hit.id);
  },
  onMove: (edge, time_s) => moveBoundary(edge, time_s),
  onSettle: () => history.settle(),
});

// ---- what is said ----

const say = (text) => (byId("status").textContent = text);

function fail(error) {
  byId("error").hidden = false;
  byId("error").textContent = error.message;
  if (error.status === 401) byId("token-dialog").showModal();
}

// Runs what a person asked for; what goes wrong is told in one line.
async function attempt(work) {
  byId("error").hidden = true;
  try {
    return await work();
  } catch (error) {
    return fail(error);
  }
}

// ---- a recording ----

async function open(record, bytes, name) {
  player.load(null);
  history = new cycles.History(cycles.cyclesOf(record));
  const saved = history.present;
  sound = { record, name, threshold: null, selectedId: saved[0]?.id ?? null, cursor_s: null, saved };
  byId("title").textContent = name;
  document.title = `${name} - lungsound`;
  byId("workplace").hidden = false;
  document.body.classList.add("has-recording");
  timeline.showPlayhead(null);
  showFacts(record, model);
  showWhole(record, model, marks);
  const decoded = await decode(bytes).catch(() => null);
  if (sound?.record !== record) return; // another one was opened meanwhile
  player.load(decoded?.played ?? null);
  timeline.load({ samples: decoded?.samples ?? null, duration_s: record.duration_s, cycles: history.present });
  if (decoded) drawSpectrogram(decoded.samples);
  else say("This browser cannot play this format; the answers stand all the same.");
  show();
  showPlaying();
}

function close() {
  player.load(null);
  sound = null;
  byId("title").textContent = "No answer";
  byId("workplace").hidden = true;
}

function drawSpectrogram(samples) {
  worker?.terminate();
  worker = new Worker(new URL("spectrogram-worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => timeline.showSpectrogram(data);
  worker.postMessage({ samples, sampleRateHz: ANALYSIS_RATE_HZ });
}

// A review saves by itself; elsewhere corrections are lost with the page.
const isUnsaved = () => !review && sound !== null && history.present !== sound.saved;

async function upload(file, annotation) {
  if (isUnsaved() && !confirm(`The corrections of ${sound.name} are not saved. Open another recording?`)) return;
  byId("title").textContent = `Listening to ${file.name}\u2026`;
  try {
    const record = await api.predict(file, annotation);
    await open(record, await file.arrayBuffer(), file.name);
    byId("main").focus({ preventScroll: true });
  } catch (error) {
    byId("title").textContent = sound?.name ?? TITLE;
    throw error;
  }
}

// ---- showing ----

const call = (cycle) => cycles.called(cycle, model.classes, sound.threshold);
const chosen = () => history.present.find((cycle) => cycle.id === sound.selectedId) ?? null;

function show() {
  const rows = history.present.map((cycle) => ({ cycle, call: call(cycle) }));
  const bands = rows.map(({ cycle, call: { label, isUncertain, isByHand } }, index) => ({
    cycle,
    isUncertain,
    isByHand,
    mark: label === null ? "-" : marks[model.classes.indexOf(label)],
    word: label === null ? "no label" : label,
    tone: toneOf(model.classes, label),
    description: describe(index + 1, cycle, { label, isUncertain, isByHand }),
  }));
  timeline.showBands(bands, sound.selectedId);
  const index = cycles.indexOf(history.present, sound.selectedId);
  const facts = index < 0 ? null : { ...rows[index], number: index + 1, numCycles: rows.length };
  showCycle(facts && { ...facts, isMoved: cycles.isMoved(facts.cycle) }, model.classes, marks, setLabel);
  showTable(rows, sound.selectedId, model.classes, marks, choose);
  showCounts(rows);
  byId("undo").disabled = history.past.length === 0;
  byId("redo").disabled = history.future.length === 0;
}

function showCounts(rows) {
  const count = (test) => rows.filter(({ call: one }) => test(one)).length;
  const numAbnormal = count(({ label }) => label !== null && label !== model.classes[0]);
  const parts = [`${numAbnormal} of ${rows.length} cycles abnormal`, `${count((one) => one.isUncertain)} uncertain`];
  byId("counts").textContent = `${parts.join(", ")}, ${count((one) => one.isByHand)} by hand.`;
  const { threshold } = sound;
  const value = threshold === null ? "as the model says" : `from a probability of ${percent(threshold)}`;
  byId("threshold-value").textContent = value;
  byId("threshold").setAttribute("aria-valuetext", value);
  byId("unset").disabled = threshold === null;
}

function showPlaying() {
  byId("play").firstElementChild.textContent = player.isPlaying ? "Stop" : "Play";
  for (const id of ["play", "play-all"]) byId(id).disabled = !player.canPlay;
}

function choose(id) {
  if (id === sound.selectedId) return;
  player.stop();
  sound.selectedId = id;
  sound.cursor_s = null;
  timeline.showPlayhead(null);
  show();
  timeline.reveal();
}

// ---- changing ----

// `next` is the same list where nothing can be done; then `why` says so.
function change(next, { done, why, selectedId = sound.selectedId, gesture = null }) {
  byId("error").hidden = true;
  if (!history.commit(next, gesture)) return say(why ?? "");
  sound.selectedId = selectedId;
  say(done ?? "");
  show();
  return keep();
}

// In a review: saves what stands; false where that cannot be.
function keep() {
  if (!review) return true;
  try {
    review.save(cycles.labelled(history.present, model.classes, sound.threshold));
    return true;
  } catch (error) {
    review.hold(error.message);
    return false;
  }
}

function setLabel(label) {
  const cycle = chosen();
  if (cycle && label !== undefined) change(cycles.setLabel(history.present, cycle.id, label), { done: `Labelled ${label}.` });
}

function moveBoundary(edge, time_s) {
  const cycle = chosen();
  if (!cycle || !Number.isFinite(time_s)) return;
  const gesture = `${edge} ${cycle.id}`;
  change(cycles.moveBoundary(history.present, cycle.id, edge, time_s, sound.record.duration_s), { gesture });
}

function goTo(index) {
  const list = history.present;
  if (list.length > 0) choose(list[Math.min(Math.max(index, 0), list.length - 1)].id);
  timeline.focusChosen();
}

function stepHistory(isDone, word) {
  if (!isDone) return say(`Nothing to ${word}.`);
  if (!chosen()) sound.selectedId = history.present[0]?.id ?? null;
  show();
  say(word === "undo" ? "Undone." : "Done again.");
  return keep();
}

const timeInChosen = ({ start_s, end_s }) =>
  sound.cursor_s > start_s && sound.cursor_s < end_s ? sound.cursor_s : (start_s + end_s) / 2;

function playChosen() {
  const cycle = chosen();
  if (cycle) play(cycle.start_s, cycle.end_s);
  else play(sound.cursor_s ?? 0, sound.record.duration_s);
}

function play(start_s, end_s) {
  if (!player.canPlay) return;
  player.play(start_s, end_s, { isLooping: byId("loop").getAttribute("aria-pressed") === "true" });
  showPlaying();
}

const actions = {
  play: () => (player.isPlaying ? player.stop() : playChosen()),
  playAll: () => (player.isPlaying ? player.stop() : play(0, sound.record.duration_s)),
  loop: () => {
    const isOn = byId("loop").getAttribute("aria-pressed") !== "true";
    byId("loop").setAttribute("aria-pressed", isOn);
    if (player.isPlaying) playChosen();
  },
  zoom: (factor) => timeline.zoom(factor),
  cycleBefore: () => goTo(cycles.indexOf(history.present, sound.selectedId) - 1),
  cycleAfter: () => goTo(cycles.indexOf(history.present, sound.selectedId) + 1),
  firstCycle: () => goTo(0),
  lastCycle: () => goTo(history.present.length - 1),
  label: (index) => setLabel(model.classes[index]),
  nudge: (edge, direction) => chosen() && moveBoundary(edge, chosen()[edge] + direction * NUDGE_S),
  undo: () => stepHistory(history.undo(), "undo"),
  redo: () => stepHistory(history.redo(), "redo"),
  add: () => {
    const at_s = sound.cursor_s ?? chosen()?.end_s ?? 0;
    const next = cycles.add(history.present, at_s, sound.record.duration_s);
    const selectedId = next.reduce((last, cycle) => Math.max(last, cycle.id), 0);
    change(next, { selectedId, done: "Added: give it a label.", why: "No free stretch here: click the picture where no cycle is." });
  },
  split: () => {
    const cycle = chosen();
    if (!cycle) return;
    const next = cycles.split(history.present, cycle.id, timeInChosen(cycle), call(cycle).label);
    change(next, { done: "Split in two.", why: "Too near to a boundary to split." });
  },
  merge: () => {
    const cycle = chosen();
    if (!cycle) return;
    change(cycles.mergeWithNext(history.present, cycle.id, call(cycle).label), { done: "Merged.", why: "There is no next cycle." });
  },
  remove: () => {
    const index = cycles.indexOf(history.present, sound.selectedId);
    if (index < 0) return;
    const next = cycles.remove(history.present, sound.selectedId);
    change(next, { selectedId: next[Math.min(index, next.length - 1)]?.id ?? null, done: "Deleted." });
  },
  reset: () => {
    const cycle = chosen();
    if (cycle?.model && cycle.label !== null) change(cycles.setLabel(history.present, cycle.id, null), { done: "As the model says." });
  },
  next: () => review?.step(1),
  previous: () => review?.step(-1),
  accept: () => {
    if (!review) return;
    if (!sound || keep()) review.step(1);
  },
};

// ---- starting ----

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
    byId(id).addEventListener("blur", () => [history.settle(), show()]);
  }
  byId("token-dialog").addEventListener("close", () => {
    if (byId("token").value === "") return;
    api.setToken(byId("token").value);
    attempt(start);
  });
  addEventListener("keydown", (event) => {
    const action = actionOf(event, { areLettersOn: areLettersOn() });
    if (action?.[0] === "help") byId("help").showModal();
    else if (!action || !(sound || WITHOUT_SOUND.includes(action[0]))) return;
    else actions[action[0]](...action.slice(1));
    event.preventDefault();
  });
  addEventListener("keyup", () => history?.settle());
  addEventListener("beforeunload", (event) => isUnsaved() && event.preventDefault());
}

function setThreshold(threshold) {
  sound.threshold = threshold;
  show();
}

async function save(format) {
  const { record, name, threshold } = sound;
  const answer = { name, duration_s: record.duration_s, sample_rate_hz: record.sample_rate_hz };
  const file = await api.getAnswerFile(format, { ...answer, cycles: cycles.labelled(history.present, model.classes, threshold) });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name.replace(/\.[^.]*$/, "") + FORMATS[format].suffix;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  sound.saved = history.present;
  say(`Saved as ${link.download}.`);
}

async function start() {
  model = await api.getModel();
  marks = cycles.marks(model.classes);
  byId("note").textContent = model.note;
  byId("last-key").textContent = model.classes.length;
  const { max_bytes, max_duration_s } = model.limits;
  byId("limits").textContent = max_bytes ? `, up to ${megabytes(max_bytes)}${max_duration_s ? ` and ${max_duration_s} s` : ""}` : "";
  const shown = Object.keys(FORMATS).filter((format) => model.formats.includes(format));
  const buttons = shown.map((format) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: FORMATS[format].name });
    button.addEventListener("click", () => attempt(() => save(format)));
    return button;
  });
  byId("formats").replaceChildren(...buttons);
  for (const id of ["review", "keep"]) byId(id).hidden = !model.is_review;
  for (const id of ["intake", "save"]) byId(id).hidden = model.is_review;
  document.body.classList.toggle("is-review", model.is_review);
  if (!model.is_review) return;
  review = new Review({ onOpen: (record, bytes) => open(record, bytes, record.path), onNone: close, say, fail });
  await review.start();
}

// The service's limits; asked for once more where it did not answer at first.
async function whenReady() {
  await starting;
  if (!model) await start();
  return model.limits;
}

listen();
listenForSounds({ limits: whenReady, attempt, onSound: upload, onRecord: () => player.stop() });
listenToPreferences(() => timeline.repaint());
const starting = attempt(start);

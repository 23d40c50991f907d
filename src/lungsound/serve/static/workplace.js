// The open recording: what is known of it and shown, and what a person chooses, plays and changes.
import { ANALYSIS_RATE_HZ, Player, decode } from "./audio.js";
import * as cycles from "./cycles.js";
import { say, unsay } from "./messages.js";
import { breakable, describe, percent, showCycle, showFacts, showTable, showWhole, toneOf } from "./panels.js";
import { Timeline } from "./timeline.js";

const byId = (id) => document.getElementById(id);
// `sound`: {record, name, threshold, selectedId, cursor_s, saved: the cycles as last saved}, and `history` that of its cycles.
export const state = { model: null, marks: [], review: null, sound: null, history: null };
let worker = null;

export const player = new Player({
  onTime: (time_s) => timeline.showPlayhead(time_s),
  onStop: () => {
    timeline.showPlayhead(state.sound?.cursor_s ?? null);
    showPlaying();
  },
});
export const timeline = new Timeline({
  onPlay: (id) => {
    const isAgain = player.isPlaying && id === state.sound.selectedId;
    choose(id);
    if (isAgain) player.stop();
    else playChosen();
  },
  onSeek: (time_s) => {
    state.sound.cursor_s = time_s;
    timeline.showPlayhead(time_s);
    const hit = state.history.present.find((cycle) => cycle.start_s <= time_s && time_s < cycle.end_s);
    if (hit) choose(hit.id);
  },
  onMove: (edge, time_s) => moveBoundary(edge, time_s),
  onSettle: () => state.history.settle(),
});

export async function open(record, bytes, name) {
  player.load(null);
  state.history = new cycles.History(cycles.cyclesOf(record));
  const saved = state.history.present;
  state.sound = { record, name, threshold: null, selectedId: saved[0]?.id ?? null, cursor_s: null, saved };
  byId("title").replaceChildren(...breakable(name));
  document.title = `${name} - lungsound`;
  byId("workplace").hidden = false;
  document.body.classList.add("has-recording");
  timeline.showPlayhead(null);
  showFacts(record, state.model);
  showWhole(record, state.model, state.marks);
  const decoded = await decode(bytes).catch(() => null);
  if (state.sound?.record !== record) return; // another one was opened meanwhile
  player.load(decoded?.played ?? null);
  timeline.load({ samples: decoded?.samples ?? null, duration_s: record.duration_s, cycles: state.history.present });
  if (decoded) drawSpectrogram(decoded.samples);
  else say("This browser cannot play this format; the predictions are not affected.");
  show();
  showPlaying();
}

export function close() {
  player.load(null);
  state.sound = null;
  byId("title").textContent = "No answer";
  byId("workplace").hidden = true;
}

function drawSpectrogram(samples) {
  worker?.terminate();
  worker = new Worker(new URL("spectrogram-worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => timeline.showSpectrogram(data);
  worker.postMessage({ samples, sampleRateHz: ANALYSIS_RATE_HZ });
}

// ---- showing ----

export const call = (cycle) => cycles.called(cycle, state.model.classes, state.sound.threshold);
export const chosen = () => state.history.present.find((cycle) => cycle.id === state.sound.selectedId) ?? null;

export function show() {
  const rows = state.history.present.map((cycle) => ({ cycle, call: call(cycle) }));
  const bands = rows.map(({ cycle, call: { label, isUncertain, isByHand } }, index) => ({
    cycle,
    isUncertain,
    isByHand,
    mark: label === null ? "-" : state.marks[state.model.classes.indexOf(label)],
    word: label === null ? "no label" : label,
    tone: toneOf(state.model.classes, label),
    description: describe(index + 1, cycle, { label, isUncertain, isByHand }),
  }));
  timeline.showBands(bands, state.sound.selectedId);
  const index = cycles.indexOf(state.history.present, state.sound.selectedId);
  const facts = index < 0 ? null : { ...rows[index], number: index + 1, numCycles: rows.length };
  showCycle(facts && { ...facts, isMoved: cycles.isMoved(facts.cycle) }, state.model, state.marks, setLabel);
  showTable(rows, state.sound.selectedId, state.model.classes, state.marks, choose);
  showCounts(rows);
  byId("undo").disabled = state.history.past.length === 0;
  byId("redo").disabled = state.history.future.length === 0;
}

function showCounts(rows) {
  const count = (test) => rows.filter(({ call: one }) => test(one)).length;
  const numAbnormal = count(({ label }) => label !== null && label !== state.model.classes[0]);
  const parts = [`${numAbnormal} of ${rows.length} cycles abnormal`, `${count((one) => one.isUncertain)} uncertain`];
  byId("counts").textContent = `${parts.join(", ")}, ${count((one) => one.isByHand)} by hand.`;
  const { threshold } = state.sound;
  const value = threshold === null ? "as the model says" : `from a probability of ${percent(threshold)}`;
  byId("threshold-value").textContent = value;
  byId("threshold").setAttribute("aria-valuetext", value);
  byId("unset").disabled = threshold === null;
}

function showPlaying() {
  byId("play").firstElementChild.textContent = player.isPlaying ? "Stop" : "Play";
  for (const id of ["play", "play-all"]) byId(id).disabled = !player.canPlay;
}

export function choose(id) {
  if (id === state.sound.selectedId) return;
  player.stop();
  state.sound.selectedId = id;
  state.sound.cursor_s = null;
  timeline.showPlayhead(null);
  show();
  timeline.reveal();
}

// ---- changing ----

// `next` is the same list where nothing can be done; then `why` says so.
export function change(next, { done, why, selectedId = state.sound.selectedId, gesture = null }) {
  unsay();
  if (!state.history.commit(next, gesture)) return say(why ?? "");
  state.sound.selectedId = selectedId;
  say(done ?? "");
  show();
  return keep();
}

// In a review: saves what stands; false where that cannot be.
export function keep() {
  if (!state.review) return true;
  try {
    state.review.save(cycles.labelled(state.history.present, state.model.classes, state.sound.threshold));
    return true;
  } catch (error) {
    state.review.hold(error.message);
    return false;
  }
}

export function setLabel(label) {
  const cycle = chosen();
  if (cycle && label !== undefined) change(cycles.setLabel(state.history.present, cycle.id, label), { done: `Labelled ${label}.` });
}

export function moveBoundary(edge, time_s) {
  const cycle = chosen();
  if (!cycle || !Number.isFinite(time_s)) return;
  const gesture = `${edge} ${cycle.id}`;
  change(cycles.moveBoundary(state.history.present, cycle.id, edge, time_s, state.sound.record.duration_s), { gesture });
}

export function playChosen() {
  const cycle = chosen();
  if (cycle) play(cycle.start_s, cycle.end_s);
  else play(state.sound.cursor_s ?? 0, state.sound.record.duration_s);
}

export function play(start_s, end_s) {
  if (!player.canPlay) return;
  player.play(start_s, end_s, { isLooping: byId("loop").getAttribute("aria-pressed") === "true" });
  showPlaying();
}

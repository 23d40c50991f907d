// What keys and buttons do to the open recording, and in a review to the list.
import * as cycles from "./cycles.js";
import { say } from "./messages.js";
import { call, change, choose, chosen, keep, moveBoundary, play, playChosen, player, setLabel, show, state, timeline } from "./workplace.js";

const NUDGE_S = 0.02;
const WITHOUT_SOUND = ["next", "previous", "accept"];
const byId = (id) => document.getElementById(id);

function goTo(index) {
  const list = state.history.present;
  if (list.length > 0) choose(list[Math.min(Math.max(index, 0), list.length - 1)].id);
  timeline.focusChosen();
}

function stepHistory(isDone, word) {
  if (!isDone) return say(`Nothing to ${word}.`);
  if (!chosen()) state.sound.selectedId = state.history.present[0]?.id ?? null;
  show();
  say(word === "undo" ? "Undone." : "Done again.");
  return keep();
}

const timeInChosen = ({ start_s, end_s }) =>
  state.sound.cursor_s > start_s && state.sound.cursor_s < end_s ? state.sound.cursor_s : (start_s + end_s) / 2;

export const actions = {
  play: () => (player.isPlaying ? player.stop() : playChosen()),
  playAll: () => (player.isPlaying ? player.stop() : play(0, state.sound.record.duration_s)),
  loop: () => {
    const isOn = byId("loop").getAttribute("aria-pressed") !== "true";
    byId("loop").setAttribute("aria-pressed", isOn);
    if (player.isPlaying) playChosen();
  },
  zoom: (factor) => timeline.zoom(factor),
  cycleBefore: () => goTo(cycles.indexOf(state.history.present, state.sound.selectedId) - 1),
  cycleAfter: () => goTo(cycles.indexOf(state.history.present, state.sound.selectedId) + 1),
  firstCycle: () => goTo(0),
  lastCycle: () => goTo(state.history.present.length - 1),
  label: (index) => setLabel(state.model.classes[index]),
  nudge: (edge, direction) => chosen() && moveBoundary(edge, chosen()[edge] + direction * NUDGE_S),
  undo: () => stepHistory(state.history.undo(), "undo"),
  redo: () => stepHistory(state.history.redo(), "redo"),
  add: () => {
    const at_s = state.sound.cursor_s ?? chosen()?.end_s ?? 0;
    const next = cycles.add(state.history.present, at_s, state.sound.record.duration_s);
    const selectedId = next.reduce((last, cycle) => Math.max(last, cycle.id), 0);
    change(next, { selectedId, done: "Added: give it a label.", why: "No free stretch here: click the picture where no cycle is." });
  },
  split: () => {
    const cycle = chosen();
    if (!cycle) return;
    const next = cycles.split(state.history.present, cycle.id, timeInChosen(cycle), call(cycle).label);
    change(next, { done: "Split in two.", why: "Too near to a boundary to split." });
  },
  merge: () => {
    const cycle = chosen();
    if (!cycle) return;
    change(cycles.mergeWithNext(state.history.present, cycle.id, call(cycle).label), { done: "Merged.", why: "There is no next cycle." });
  },
  remove: () => {
    const index = cycles.indexOf(state.history.present, state.sound.selectedId);
    if (index < 0) return;
    const next = cycles.remove(state.history.present, state.sound.selectedId);
    change(next, { selectedId: next[Math.min(index, next.length - 1)]?.id ?? null, done: "Deleted." });
  },
  reset: () => {
    const cycle = chosen();
    if (cycle?.model && cycle.label !== null) change(cycles.setLabel(state.history.present, cycle.id, null), { done: "Back to the model's label." });
  },
  next: () => state.review?.step(1),
  previous: () => state.review?.step(-1),
  accept: () => {
    if (!state.review) return;
    if (!state.sound || keep()) state.review.step(1);
  },
};

// `action` is a name with its arguments, as `actionOf` gives it; false where nothing can be done now.
export function act([name, ...values]) {
  if (!state.sound && !WITHOUT_SOUND.includes(name)) return false;
  actions[name](...values);
  return true;
}

// The cycles of one recording and what a person does to them: plain values in, new values out, nothing drawn.
// A cycle: {id, start_s, end_s, label, model}. `label` is given by hand, null where the model's prediction stands; `model` is
// what the model says of the stretch {start_s, end_s, answer, best_guess, possible, reasons, probabilities}, null where it says
// nothing. An operation that cannot be done gives back the very same list.

export const MIN_CYCLE_S = 0.05;
export const UNCERTAIN = "uncertain";
const NEW_CYCLE_S = 2;
const TOUCHING_S = 0.001;

const milliseconds = (time_s) => Math.round(time_s * 1000) / 1000;
const byTime = (a, b) => a.start_s - b.start_s || a.end_s - b.end_s;
const nextId = (cycles) => 1 + Math.max(0, ...cycles.map((cycle) => cycle.id));
export const indexOf = (cycles, id) => cycles.findIndex((cycle) => cycle.id === id);

// The cycles of a service's record; where a person has corrected it, that person's, each with the model's prediction.
export function cyclesOf(record) {
  const sameStretch = (a) => (b) => Math.abs(a.start_s - b.start_s) + Math.abs(a.end_s - b.end_s) < TOUCHING_S;
  const stretches = record.corrected ?? record.cycles;
  const cycles = stretches.map((stretch, index) => ({
    id: index + 1,
    start_s: stretch.start_s,
    end_s: stretch.end_s,
    label: record.corrected ? stretch.label : null,
    model: record.cycles.find(sameStretch(stretch)) ?? null,
  }));
  return cycles.sort(byTime);
}

// What a cycle is called. With a threshold every cycle that is abnormal with at least that probability gets its most
// probable abnormal class and every other one the normal class (class 0); a label given by hand stays.
export function called(cycle, classes, threshold = null) {
  if (cycle.label !== null) return { label: cycle.label, isUncertain: false, isByHand: true };
  if (cycle.model === null) return { label: null, isUncertain: false, isByHand: true };
  const isUncertain = cycle.model.answer === UNCERTAIN;
  const { probabilities } = cycle.model;
  if (threshold === null) return { label: cycle.model.best_guess, isUncertain, isByHand: false };
  const isAbnormal = 1 - probabilities[classes[0]] >= threshold;
  const abnormal = classes.slice(1).reduce((best, name) => (probabilities[name] > probabilities[best] ? name : best));
  return { label: isAbnormal ? abnormal : classes[0], isUncertain, isByHand: false };
}

// Has a person moved a boundary, so that the model's probabilities are of another stretch?
export const isMoved = ({ start_s, end_s, model }) =>
  model !== null && Math.abs(start_s - model.start_s) + Math.abs(end_s - model.end_s) >= TOUCHING_S;

export const setLabel = (cycles, id, label) => cycles.map((cycle) => (cycle.id === id ? { ...cycle, label } : cycle));

export const remove = (cycles, id) => cycles.filter((cycle) => cycle.id !== id);

// Moves `edge` ("start_s" or "end_s"). A neighbour that touches it moves along; one that does not is a wall.
export function moveBoundary(cycles, id, edge, time_s, duration_s) {
  const index = indexOf(cycles, id);
  const cycle = cycles[index];
  const isStart = edge === "start_s";
  const facing = isStart ? "end_s" : "start_s";
  const neighbour = cycles[index + (isStart ? -1 : 1)];
  const gap_s = neighbour ? (isStart ? cycle.start_s - neighbour.end_s : neighbour.start_s - cycle.end_s) : Infinity;
  const isTouching = Math.abs(gap_s) <= TOUCHING_S;
  let low = isStart ? 0 : cycle.start_s + MIN_CYCLE_S;
  let high = isStart ? cycle.end_s - MIN_CYCLE_S : duration_s;
  if (gap_s >= -TOUCHING_S && neighbour) {
    if (isStart) low = isTouching ? neighbour.start_s + MIN_CYCLE_S : neighbour.end_s;
    else high = isTouching ? neighbour.end_s - MIN_CYCLE_S : neighbour.start_s;
  }
  if (low > high) return cycles;
  const moved = Math.min(Math.max(milliseconds(time_s), low), high);
  if (moved === cycle[edge]) return cycles;
  const changed = cycles.map((other) => {
    if (other.id === id) return { ...other, [edge]: moved };
    return isTouching && other === neighbour ? { ...other, [facing]: moved } : other;
  });
  return changed.sort(byTime);
}

// Two cycles of the same label instead of one.
export function split(cycles, id, time_s, label) {
  const cycle = cycles[indexOf(cycles, id)];
  const at_s = milliseconds(time_s);
  if (at_s - cycle.start_s < MIN_CYCLE_S || cycle.end_s - at_s < MIN_CYCLE_S) return cycles;
  const first = { ...cycle, end_s: at_s, label, model: null };
  const second = { id: nextId(cycles), start_s: at_s, end_s: cycle.end_s, label, model: null };
  return [...remove(cycles, id), first, second].sort(byTime);
}

// The cycle and the next one as one, with this label.
export function mergeWithNext(cycles, id, label) {
  const index = indexOf(cycles, id);
  const next = cycles[index + 1];
  if (!next) return cycles;
  const merged = { ...cycles[index], end_s: Math.max(cycles[index].end_s, next.end_s), label, model: null };
  return [...cycles.slice(0, index), merged, ...cycles.slice(index + 2)];
}

// A cycle without a label in the free stretch around `at_s`, from there on where that leaves room.
export function add(cycles, at_s, duration_s) {
  if (cycles.some((cycle) => cycle.start_s <= at_s && at_s < cycle.end_s)) return cycles;
  const before_s = Math.max(0, ...cycles.filter((cycle) => cycle.end_s <= at_s).map((cycle) => cycle.end_s));
  const after_s = Math.min(duration_s, ...cycles.filter((cycle) => cycle.start_s > at_s).map((cycle) => cycle.start_s));
  const start_s = Math.max(before_s, Math.min(milliseconds(at_s), after_s - MIN_CYCLE_S));
  const end_s = Math.min(after_s, start_s + NEW_CYCLE_S);
  if (end_s - start_s < MIN_CYCLE_S - TOUCHING_S) return cycles;
  return [...cycles, { id: nextId(cycles), start_s, end_s, label: null, model: null }].sort(byTime);
}

// The row of each cycle, such that those of one row never overlap: windows do.
export function lanes(cycles) {
  const ends = [];
  return cycles.map((cycle) => {
    const free = ends.findIndex((end_s) => end_s <= cycle.start_s + TOUCHING_S);
    const lane = free < 0 ? ends.length : free;
    ends[lane] = cycle.end_s;
    return lane;
  });
}

// What is saved: {start_s, end_s, label} of each. An uncertain cycle is saved as its best guess.
export function labelled(cycles, classes, threshold = null) {
  return cycles.map((cycle, index) => {
    const { label } = called(cycle, classes, threshold);
    if (label === null) throw new Error(`Cycle ${index + 1} has no label: select it and press 1 to ${classes.length}.`);
    return { start_s: cycle.start_s, end_s: cycle.end_s, label };
  });
}

// A short mark for each class, unlike the others: the initials of its words ("Coarse Crackle": CC).
export function marks(classes) {
  const initials = classes.map((name) => (name.match(/[A-Za-z]+/g) ?? ["?"]).map((word) => word[0].toUpperCase()).join(""));
  return initials.map((mark, index) => (initials.indexOf(mark) === index ? mark : `${mark}${index + 1}`));
}

// What was, is and will be again. Changes of one `gesture` (a drag) are undone together.
export class History {
  constructor(present) {
    this.past = [];
    this.present = present;
    this.future = [];
    this.gesture = null;
  }

  commit(next, gesture = null) {
    if (next === this.present) return false;
    if (gesture === null || gesture !== this.gesture) this.past.push(this.present);
    this.gesture = gesture;
    this.present = next;
    this.future = [];
    return true;
  }

  settle() {
    this.gesture = null;
  }

  undo() {
    return this.#step(this.past, this.future);
  }

  redo() {
    return this.#step(this.future, this.past);
  }

  #step(from, to) {
    if (from.length === 0) return false;
    to.push(this.present);
    this.present = from.pop();
    this.gesture = null;
    return true;
  }
}

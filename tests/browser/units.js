// Tests of the page's modules that draw nothing. `run(base)` imports them from `base` and gives back [name, mistake or ""].

function equal(got, wanted) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${a} is not ${b}`);
}
const near = (got, wanted, tolerance) => equal(Math.abs(got - wanted) <= tolerance, true);

const CLASSES = ["normal", "crackle", "wheeze", "both"];
const said = (probabilities, answer) => {
  const best = CLASSES[probabilities.indexOf(Math.max(...probabilities))];
  return {
    answer: answer ?? best,
    best_guess: best,
    possible: [],
    probabilities: Object.fromEntries(CLASSES.map((name, i) => [name, probabilities[i]])),
  };
};
const RECORD = {
  cycles: [
    { start_s: 0, end_s: 1, ...said([0.7, 0.1, 0.2, 0]) },
    { start_s: 1, end_s: 2, ...said([0.2, 0.5, 0.2, 0.1], "uncertain") },
    { start_s: 3, end_s: 4, ...said([0.1, 0.1, 0.8, 0]) },
  ],
};
const times = (cycles) => cycles.map(({ start_s, end_s }) => [start_s, end_s]);

const tests = {
  "cycles are called as the model says, by threshold, or by hand"({ cycles }) {
    const list = cycles.cyclesOf(RECORD);
    const words = (threshold) => list.map((cycle) => cycles.called(cycle, CLASSES, threshold).label);
    equal(words(null), ["normal", "crackle", "wheeze"]);
    equal(words(0.3), ["wheeze", "crackle", "wheeze"]);
    equal(words(0.85), ["normal", "normal", "wheeze"]);
    equal(cycles.called(list[1], CLASSES).isUncertain, true);
    const [first] = cycles.setLabel(list, 1, "both");
    equal(cycles.called(first, CLASSES, 0.99), { label: "both", isUncertain: false, isByHand: true });
    equal(list[0].label, null);
  },
  "a correction of before keeps its labels, and what the model says of the same stretch"({ cycles }) {
    const corrected = [{ start_s: 0, end_s: 1, label: "wheeze" }, { start_s: 1, end_s: 2.5, label: "normal" }];
    const list = cycles.cyclesOf({ ...RECORD, corrected });
    equal(list.map((cycle) => cycle.label), ["wheeze", "normal"]);
    equal(list.map((cycle) => cycle.model?.best_guess ?? null), ["normal", null]);
  },
  "a boundary takes a touching neighbour along, stops at others, and leaves each cycle a length"({ cycles }) {
    const list = cycles.cyclesOf(RECORD);
    const moved = (id, edge, time_s) => times(cycles.moveBoundary(list, id, edge, time_s, 5));
    equal(moved(1, "end_s", 1.2346), [[0, 1.235], [1.235, 2], [3, 4]]);
    equal(moved(2, "start_s", 0.5), [[0, 0.5], [0.5, 2], [3, 4]]);
    equal(moved(2, "end_s", 9), [[0, 1], [1, 3], [3, 4]]);
    equal(moved(3, "end_s", 9), [[0, 1], [1, 2], [3, 5]]);
    equal(moved(1, "end_s", 9), [[0, 1.95], [1.95, 2], [3, 4]]);
    equal(cycles.moveBoundary(list, 1, "start_s", -1, 5) === list, true);
    const windows = cycles.cyclesOf({ cycles: [0, 1, 2].map((start_s) => ({ ...RECORD.cycles[0], start_s, end_s: start_s + 2 })) });
    equal(times(cycles.moveBoundary(windows, 1, "end_s", 2.7, 5)), [[0, 2.7], [1, 3], [2, 4]]);
    equal(cycles.lanes(windows), [0, 1, 0]);
    equal(cycles.isMoved(cycles.moveBoundary(list, 1, "end_s", 1.2, 5)[0]), true);
  },
  "split, merge, delete and add"({ cycles }) {
    const list = cycles.cyclesOf(RECORD);
    const halves = cycles.split(list, 2, 1.5, "crackle");
    equal(times(halves), [[0, 1], [1, 1.5], [1.5, 2], [3, 4]]);
    equal(halves.map((cycle) => cycle.id), [1, 2, 4, 3]);
    equal(halves[2].model, null);
    equal(cycles.split(list, 2, 1.99, "crackle") === list, true);
    equal(times(cycles.mergeWithNext(halves, 2, "both")), [[0, 1], [1, 2], [3, 4]]);
    equal(cycles.mergeWithNext(list, 3, "both") === list, true);
    equal(times(cycles.remove(list, 2)), [[0, 1], [3, 4]]);
    equal(times(cycles.add(list, 2.25, 5)), [[0, 1], [1, 2], [2.25, 3], [3, 4]]);
    equal(times(cycles.add([], 0, 1)), [[0, 1]]);
    equal(cycles.add(list, 0.5, 5) === list, true);
    equal(cycles.add(list, 5, 5).length, 4);
    equal(cycles.add(cycles.cyclesOf({ cycles: [{ ...RECORD.cycles[0], end_s: 5 }] }), 5, 5).length, 1);
  },
  "nothing is saved without a label; an uncertain cycle as its best guess"({ cycles }) {
    const list = cycles.cyclesOf(RECORD);
    equal(cycles.labelled(list, CLASSES)[1], { start_s: 1, end_s: 2, label: "crackle" });
    let mistake = "";
    try {
      cycles.labelled(cycles.add(list, 2.5, 5), CLASSES);
    } catch (error) {
      mistake = error.message;
    }
    equal(mistake, "Cycle 3 has no label: select it and press 1 to 4.");
  },
  "undo takes a whole drag back, and a change after it ends what could be done again"({ cycles }) {
    const history = new cycles.History("a");
    equal(history.commit("a"), false);
    for (const state of ["b", "c"]) history.commit(state, "drag");
    history.settle();
    history.commit("d", "drag");
    equal([history.undo(), history.present, history.undo(), history.present, history.undo()], [true, "c", true, "a", false]);
    equal([history.redo(), history.present], [true, "c"]);
    history.commit("e");
    equal([history.redo(), history.past], [false, ["a", "c"]]);
  },
  "every class has a mark of its own"({ cycles }) {
    equal(cycles.marks(CLASSES), ["N", "C", "W", "B"]);
    const marks = cycles.marks(["Normal", "Rhonchi", "Wheeze", "Stridor", "Coarse Crackle", "Fine Crackle", "Wheeze+Crackle"]);
    equal(marks, ["N", "R", "W", "S", "CC", "FC", "WC"]);
    equal(cycles.marks(["crackle", "cough"]), ["C", "C2"]);
  },
  "the fast transform is the sum that defines it"({ spectrogram }) {
    const size = 16;
    const signal = Float64Array.from({ length: size }, (_, n) => Math.sin(n * n) + n / 7);
    const re = signal.slice();
    const im = new Float64Array(size);
    spectrogram.fft(re, im);
    for (let k = 0; k < size; k++) {
      const sum = (wave) => signal.reduce((total, value, n) => total + value * wave((2 * Math.PI * k * n) / size), 0);
      near(re[k], sum(Math.cos), 1e-9);
      near(im[k], -sum(Math.sin), 1e-9);
    }
  },
  "a tone is brightest at its frequency and time"({ spectrogram }) {
    const rate = 8000;
    const samples = Float32Array.from({ length: rate }, (_, n) => (n < rate / 2 ? 0 : Math.sin((2 * Math.PI * 500 * n) / rate)));
    const { levels, numFrames, numBins, hopS, binHz } = spectrogram.spectrogram(samples, rate);
    equal([numFrames, numBins, hopS, binHz], [125, 256, 0.008, 15.625]);
    const row = (frame) => [...levels.slice(frame * numBins, (frame + 1) * numBins)];
    const brightest = row(100).flatMap((level, bin) => (level === Math.max(...row(100)) ? [bin] : []));
    equal(brightest.reduce((sum, bin) => sum + bin) / brightest.length, 32);
    equal(Math.max(...row(30)), 0);
    const long = spectrogram.spectrogram(new Float32Array(rate * 100), rate);
    equal(long.numFrames <= 6000, true);
    equal(long.levels.every((level) => level === 0), true);
  },
  "rows of the picture reach from the highest frequency to the lowest"({ spectrogram }) {
    const linear = spectrogram.rowFrequencies("linear", 4, { lowHz: 0, highHz: 2000 });
    equal([...linear], [1750, 1250, 750, 250]);
    const log = spectrogram.rowFrequencies("log", 2, { lowHz: 10, highHz: 1000 });
    near(log[1] ** 2, 10 ** 1.5 * 10 ** 1.5, 1e-6);
    const palette = spectrogram.gradient([[0, 0, 0], [255, 128, 0]]);
    const picture = { levels: Uint8Array.of(0, 255), numFrames: 1, numBins: 2, binHz: 1 };
    equal([...spectrogram.paint(picture, [0], palette)], [0, 0, 0, 255]);
    equal([...spectrogram.paint(picture, [0.99], palette).slice(0, 3)].map((value) => value > 100), [true, true, false]);
  },
  "a WAV file says what it holds"({ wav }) {
    const view = new DataView(wav.wavBytes([Float32Array.of(0, 0.5), Float32Array.of(-1, 2)], 8000));
    equal([view.byteLength, view.getUint32(24, true), view.getUint32(40, true)], [52, 8000, 8]);
    equal([44, 46, 48, 50].map((offset) => view.getInt16(offset, true)), [0, 16384, -32768, 32767]);
  },
  "keys mean nothing where somebody types"({ keys }) {
    const press = (key, { on = "", areLettersOn = true, ...rest } = {}) => {
      const target = { closest: () => null, matches: (selector) => on !== "" && selector.includes(on) };
      const getModifierState = () => rest.isAltGraph ?? false;
      return keys.actionOf({ key, target, getModifierState, ...rest }, { areLettersOn });
    };
    equal(press("2"), ["label", 1]);
    equal(press("["), ["nudge", "end_s", -1]);
    equal(press("Z", { ctrlKey: true, shiftKey: true }), ["redo"]);
    equal(press("[", { ctrlKey: true, altKey: true, isAltGraph: true }), ["nudge", "end_s", -1]);
    equal([press("l", { altKey: true }), press("l", { ctrlKey: true })], [null, null]);
    equal(press(" "), ["play"]);
    equal(press(" ", { on: "button" }), null);
    equal(press("2", { on: "select" }), null);
    equal([press("l", { areLettersOn: false }), press("ArrowLeft", { areLettersOn: false })], [null, ["cycleBefore"]]);
  },
};

export async function run(base) {
  const names = ["cycles", "spectrogram", "wav", "keys"];
  const modules = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await import(`${base}/${name}.js`)])));
  return Object.entries(tests).map(([name, test]) => {
    try {
      test(modules);
      return [name, ""];
    } catch (error) {
      return [name, String(error)];
    }
  });
}

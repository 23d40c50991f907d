// The parts of the page that say things in words: the chosen cycle, the whole recording, the table, the list of a review.
import { UNCERTAIN } from "./cycles.js";

const CYCLES_FROM = {
  annotation: "cycles from the annotation",
  segmentation: "cycles from segmentation",
  windows: "sliding windows, not breathing cycles",
};
const TONES = 7;
const byId = (id) => document.getElementById(id);
export const percent = (share) => `${Math.round(100 * share)} %`;
export const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);
const seconds = (time_s) => time_s.toFixed(2);

function element(tag, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...(text === undefined ? [] : [text]), ...children);
  return made;
}

// The parts of a file name, which has no blanks to break a line at.
export const breakable = (name) => name.split(/(?<=[_.-])/).flatMap((part) => [part, element("wbr")]);

export const toneOf = (classes, label) => (label === null ? "none" : Math.min(classes.indexOf(label), TONES - 1));

function tile(classes, marks, label, isUncertain = false) {
  const mark = label === null ? "-" : marks[classes.indexOf(label)];
  const letter = element("b", { text: isUncertain ? `${mark}?` : mark });
  return element("span", { className: `tile tone-${toneOf(classes, label)}`, ariaHidden: "true" }, letter);
}

function shareCells(classes, marks, name, probabilities) {
  const bar = element("progress", { max: 1, value: probabilities?.[name] ?? 0, ariaHidden: "true" });
  const figure = element("span", { className: "number", text: probabilities ? percent(probabilities[name]) : "" });
  return [tile(classes, marks, name), element("span", { text: capital(name) }), bar, figure];
}

const withheldText = ({ reasons: codes }, { reasons }) =>
  codes.length > 0 ? `Withheld: ${codes.map((code) => `${reasons[code]} (${code})`).join("; ")}.` : "";

const possibleText = ({ answer, possible }) =>
  answer === UNCERTAIN && possible.length > 0 ? ` It cannot rule out ${possible.join(", ")}.` : "";

export function showFacts(record, model) {
  byId("facts").textContent = [
    `${record.duration_s.toFixed(1)} s`,
    `${record.sample_rate_hz / 1000} kHz`,
    CYCLES_FROM[record.cycles_from],
    `model ${model.model_sha256.slice(0, 8)}`,
    ...(record.stethoscope ? [record.stethoscope] : []),
    ...(record.age_years === null ? [] : [`${record.age_years} years`]),
  ].join(" \u00b7 ");
  byId("quality").replaceChildren(...record.quality.map((remark) => element("li", { text: `Quality: ${remark}` })));
}

export function showWhole({ whole, out_of_domain }, model, marks) {
  const { classes, scaling } = model;
  const said = byId("whole-said");
  if (whole === null) said.textContent = "No prediction for this recording: see the remarks above.";
  else said.replaceChildren(...saidParts(whole.best_guess, whole.answer === UNCERTAIN));
  const rows = whole === null ? [] : classes;
  byId("whole").replaceChildren(
    ...rows.map((name) => element("div", { className: "share" }, ...shareCells(classes, marks, name, whole.probabilities))),
  );
  const notes = [
    whole && withheldText(whole, model),
    whole && possibleText(whole),
    scaling ? `Probabilities: ${scaling}.` : "Probabilities are not calibrated: read them as ranks.",
    out_of_domain === null ? "" : `Unlike the training recordings: ${out_of_domain.toFixed(2)} (higher is less like them).`,
  ];
  byId("whole-note").textContent = notes.filter(Boolean).join(" ").trim();
}

function saidParts(label, isUncertain) {
  if (label === null) return ["Not labelled yet"];
  if (!isUncertain) return [capital(label)];
  return ["Uncertain ", element("span", { className: "faint", text: `best guess ${label}` })];
}

// `chosen`: {cycle, number, numCycles, call: what it is called, isMoved}, or null where no cycle is chosen.
export function showCycle(chosen, model, marks, onLabel) {
  const { classes } = model;
  byId("cycle-title").textContent = chosen ? `Cycle ${chosen.number} of ${chosen.numCycles}` : "No cycle selected";
  for (const control of byId("cycle").querySelectorAll("input, button")) control.disabled = chosen === null;
  if (!chosen) {
    for (const id of ["cycle-said", "labels", "cycle-note"]) byId(id).replaceChildren();
    return;
  }
  const { cycle, call, isMoved } = chosen;
  byId("cycle-said").replaceChildren(
    ...saidParts(call.label, call.isUncertain),
    ...(call.isByHand && call.label !== null ? [element("span", { className: "faint", text: " by hand" })] : []),
  );
  const buttons = classes.map((name, index) => {
    const key = element("kbd", { text: index + 1 });
    const button = element("button", { className: "share", type: "button", ariaPressed: String(name === call.label) });
    button.append(...shareCells(classes, marks, name, cycle.model?.probabilities), key);
    button.addEventListener("click", () => onLabel(name));
    return button;
  });
  const focused = [...byId("labels").children].indexOf(document.activeElement);
  byId("labels").replaceChildren(...buttons);
  buttons[focused]?.focus();
  const notes = [
    cycle.model === null && "The model has not predicted this stretch as a cycle: no probabilities.",
    cycle.model && withheldText(cycle.model, model),
    cycle.model && possibleText(cycle.model),
    isMoved && "The probabilities are of the stretch before its boundaries were moved.",
  ];
  byId("cycle-note").textContent = notes.filter(Boolean).join(" ").trim();
  for (const [id, time_s] of [["start", cycle.start_s], ["end", cycle.end_s]]) {
    if (document.activeElement !== byId(id)) byId(id).value = seconds(time_s);
  }
  byId("reset").disabled = cycle.model === null || cycle.label === null;
  byId("merge").disabled = chosen.number === chosen.numCycles;
}

export function describe(number, { start_s, end_s, model }, { label, isUncertain, isByHand }) {
  const said = label === null ? "not labelled" : isUncertain ? `uncertain, best guess ${label}` : label;
  const share = model && label !== null && !isByHand ? ` ${percent(model.probabilities[label])}` : "";
  return `Cycle ${number}, ${seconds(start_s)} to ${seconds(end_s)} seconds: ${said}${share}${isByHand ? ", by hand" : ""}`;
}

// `rows`: {cycle, call} in order of time.
export function showTable(rows, selectedId, classes, marks, onChoose) {
  const table = byId("table");
  const heads = ["", "Start", "End", "Label", ...classes.map(capital)];
  const numeric = (index) => (index === 1 || index === 2 || index > 3 ? "number" : "");
  table.tHead.replaceChildren(
    element("tr", {}, ...heads.map((text, i) => element("th", { text, scope: "col", className: numeric(i) }))),
  );
  table.tBodies[0].replaceChildren(
    ...rows.map(({ cycle, call }, index) => {
      const word = call.label === null ? "not labelled" : call.isUncertain ? `uncertain (${call.label})` : call.label;
      const label = element("td", {}, tile(classes, marks, call.label, call.isUncertain), ` ${word}${call.isByHand ? ", by hand" : ""}`);
      const figures = classes.map((name) => (cycle.model ? percent(cycle.model.probabilities[name]) : ""));
      const cells = [index + 1, seconds(cycle.start_s), seconds(cycle.end_s), label, ...figures];
      const made = cells.map((cell, i) => (i === 3 ? cell : element("td", { text: cell, className: numeric(i) })));
      const row = element("tr", { className: cycle.id === selectedId ? "is-selected" : "" }, ...made);
      row.addEventListener("click", () => onChoose(cycle.id));
      return row;
    }),
  );
}

function doubtText({ doubt, num_cycles, error }) {
  if (error) return "no prediction";
  return doubt === null ? "not predicted yet" : `${num_cycles} cycles \u00b7 uncertainty ${doubt.toFixed(2)}`;
}

export function showRecordings(recordings, problems, currentId, onOpen) {
  const numDone = recordings.filter((recording) => recording.is_corrected).length;
  byId("progress").textContent = `${numDone} of ${recordings.length} done`;
  byId("recordings").replaceChildren(
    ...recordings.map((recording) => {
      const button = element("button", { type: "button" }, element("span", {}, ...breakable(recording.name)));
      button.append(element("span", { text: recording.is_corrected ? "\u2713 done" : "" }));
      button.append(element("small", { text: doubtText(recording) }));
      if (recording.id === currentId) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => onOpen(recording.id));
      return element("li", {}, button);
    }),
    ...problems.map(({ name, error }) =>
      element("li", {}, element("span", {}, ...breakable(name)), element("small", { text: `not read: ${error}` })),
    ),
  );
  byId("recordings").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
}

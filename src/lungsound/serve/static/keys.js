// From a key press to the name of what is to be done. Nothing while somebody types, or where a control wants the key.

const LETTERS = { l: "loop", a: "add", x: "split", m: "merge", n: "next", p: "previous", y: "accept" };
const NAMED = {
  ArrowLeft: "cycleBefore",
  ArrowRight: "cycleAfter",
  Home: "firstCycle",
  End: "lastCycle",
  Delete: "remove",
  Backspace: "remove",
  "?": "help",
};
const SIGNS = {
  "[": ["end_s", -1],
  "]": ["end_s", 1],
  "{": ["start_s", -1],
  "}": ["start_s", 1],
};

// [name, ...arguments] or null. `areLettersOn`: single characters without a control key count.
export function actionOf(event, { areLettersOn }) {
  const { key, target } = event;
  // AltGr, which many keyboards need for brackets, is told as ctrl and alt.
  const isPlain = event.getModifierState("AltGraph") || !(event.ctrlKey || event.metaKey || event.altKey);
  const isTyping = target.matches("input:not([type=range], [type=file]), select, textarea");
  if (isTyping || target.closest("dialog") || (event.altKey && !isPlain)) return null;
  if (!isPlain) {
    if (key.toLowerCase() === "z") return [event.shiftKey ? "redo" : "undo"];
    return key.toLowerCase() === "y" ? ["redo"] : null;
  }
  const isControl = target.matches("button, summary, a, input");
  if (key === " ") return isControl ? null : [event.shiftKey ? "playAll" : "play"];
  if (target.matches("input[type=range]") && !/^[a-z0-9?[\]{}]$/i.test(key)) return null;
  if (NAMED[key] && (key !== "?" || areLettersOn)) return [NAMED[key]];
  if (!areLettersOn) return null;
  if (SIGNS[key]) return ["nudge", ...SIGNS[key]];
  if (key === "+" || key === "=") return ["zoom", 1.5];
  if (key === "-") return ["zoom", 1 / 1.5];
  if (key === "0") return ["reset"];
  if (/^[1-9]$/.test(key)) return ["label", Number(key) - 1];
  return LETTERS[key.toLowerCase()] ? [LETTERS[key.toLowerCase()]] : null;
}

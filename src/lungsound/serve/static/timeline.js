// Draws a recording and its cycles, and turns the pointer into times. It knows no rules: it reports what was done.
import { ANALYSIS_RATE_HZ } from "./audio.js";
import { lanes } from "./cycles.js";
import { gradient, paint, rowFrequencies } from "./spectrogram.js";

const ROWS = 256;
const LINEAR_HZ = { lowHz: 0, highHz: 2000 };
const LOG_HZ = { lowHz: 50, highHz: 4000 };
const MARKS_HZ = { linear: [500, 1000, 1500], log: [100, 200, 500, 1000, 2000] };
const PALETTES = {
  light: gradient([[255, 255, 255], [214, 230, 240], [112, 172, 205], [22, 94, 142], [10, 34, 66]]),
  dark: gradient([[14, 17, 21], [24, 50, 84], [58, 116, 158], [232, 164, 88], [255, 244, 214]]),
};
const LANE_PX = 36;
const READABLE_CYCLE_PX = 30;
const MAX_PX_PER_S = 800;
const byId = (id) => document.getElementById(id);

export class Timeline {
  #zoom = 1;
  #sound = null; // {samples, peak, duration_s}
  #picture = null; // the spectrogram as the worker gave it
  #painted = null; // a canvas of ROWS x frames
  #scale = "linear";
  #selected = null; // the chosen cycle
  #frame = 0;

  constructor({ onPlay, onSeek, onMove, onSettle }) {
    this.scroller = byId("scroller");
    this.track = byId("track");
    this.handles = [byId("handle-start"), byId("handle-end")];
    byId("view").addEventListener("click", (event) => onSeek(this.#time(event)));
    byId("bands").addEventListener("click", ({ target }) => {
      const band = target.closest(".band");
      if (band) onPlay(Number(band.dataset.id));
    });
    for (const handle of this.handles) this.#listen(handle, onMove, onSettle);
    this.scroller.addEventListener("scroll", () => this.#drawSoon());
    new ResizeObserver(() => this.#layOut()).observe(this.scroller);
  }

  #listen(handle, onMove, onSettle) {
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      handle.focus({ preventScroll: true });
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) onMove(handle.dataset.edge, this.#time(event));
    });
    handle.addEventListener("pointerup", onSettle);
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      const { edge } = handle.dataset;
      onMove(edge, this.#selected[edge] + step * (event.shiftKey ? 0.1 : 0.02));
    });
    handle.addEventListener("keyup", onSettle);
  }

  // A new recording; `samples` is null where this browser cannot read it.
  load({ samples, duration_s, cycles }) {
    const peak = samples?.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-6);
    this.#sound = { samples, peak, duration_s };
    this.#picture = null;
    this.#painted = null;
    const shortest_s = Math.min(duration_s, ...cycles.map((cycle) => cycle.end_s - cycle.start_s));
    const fit = this.scroller.clientWidth / duration_s;
    this.#zoom = Math.max(1, Math.min(READABLE_CYCLE_PX / shortest_s / fit, 12));
    this.scroller.scrollLeft = 0;
    this.#layOut();
  }

  showSpectrogram(picture) {
    this.#picture = picture;
    this.repaint();
  }

  setScale(scale) {
    this.#scale = scale;
    this.repaint();
  }

  zoom(factor) {
    if (!this.#sound) return;
    const middle_s = (this.scroller.scrollLeft + this.scroller.clientWidth / 2) / this.#pxPerS;
    const most = Math.max(1, (MAX_PX_PER_S * this.#sound.duration_s) / this.scroller.clientWidth);
    this.#zoom = Math.min(Math.max(1, this.#zoom * factor), most);
    this.#layOut();
    this.scroller.scrollLeft = middle_s * this.#pxPerS - this.scroller.clientWidth / 2;
  }

  // `bands`: {cycle, mark, word, tone, isUncertain, isByHand, description} in order of time.
  showBands(bands, selectedId) {
    const duration_s = this.#sound.duration_s;
    const rows = lanes(bands.map((band) => band.cycle));
    const list = byId("bands");
    const hasFocus = list.contains(document.activeElement);
    list.style.height = `${LANE_PX * (1 + Math.max(0, ...rows))}px`;
    list.replaceChildren(...bands.map((band, i) => bandElement(band, rows[i], duration_s, band.cycle.id === selectedId)));
    const chosen = bands.find(({ cycle }) => cycle.id === selectedId);
    this.#selected = chosen?.cycle ?? null;
    if (hasFocus) this.focusChosen();
    this.#showRange(chosen ? bands.indexOf(chosen) + 1 : 0);
  }

  #showRange(number) {
    const cycle = this.#selected;
    const percent = (time_s) => `${(100 * time_s) / this.#sound.duration_s}%`;
    const range = byId("range");
    range.hidden = cycle === null;
    if (cycle) Object.assign(range.style, { left: percent(cycle.start_s), width: percent(cycle.end_s - cycle.start_s) });
    for (const handle of this.handles) {
      handle.hidden = cycle === null;
      if (!cycle) continue;
      const time_s = cycle[handle.dataset.edge];
      handle.style.left = percent(time_s);
      const edge = handle.dataset.edge === "start_s" ? "Start" : "End";
      const values = { label: `${edge} of cycle ${number}`, valuemin: 0, valuemax: this.#sound.duration_s, valuenow: time_s };
      for (const [name, value] of Object.entries(values)) handle.setAttribute(`aria-${name}`, value);
      handle.setAttribute("aria-valuetext", `${time_s.toFixed(2)} seconds`);
    }
  }

  // So that a screen reader says which it is.
  focusChosen() {
    byId("bands").querySelector('[aria-selected="true"]')?.focus({ preventScroll: true });
  }

  // Brings the chosen cycle into sight.
  reveal() {
    const cycle = this.#selected;
    if (!cycle) return;
    const left = cycle.start_s * this.#pxPerS;
    const right = cycle.end_s * this.#pxPerS;
    const { scrollLeft, clientWidth } = this.scroller;
    if (left < scrollLeft || right > scrollLeft + clientWidth) this.scroller.scrollLeft = (left + right - clientWidth) / 2;
  }

  showPlayhead(time_s) {
    const head = byId("playhead");
    head.hidden = time_s === null;
    if (time_s !== null) head.style.transform = `translateX(${time_s * this.#pxPerS}px)`;
  }

  // Anew in the colours of the theme.
  repaint() {
    if (this.#picture) {
      const isLog = this.#scale === "log";
      const pixels = paint(this.#picture, rowFrequencies(this.#scale, ROWS, isLog ? LOG_HZ : LINEAR_HZ), PALETTES[shownTheme()]);
      this.#painted = new OffscreenCanvas(this.#picture.numFrames, ROWS);
      this.#painted.getContext("2d").putImageData(new ImageData(pixels, this.#picture.numFrames, ROWS), 0, 0);
    }
    this.#drawSoon();
  }

  get #pxPerS() {
    return (this.scroller.clientWidth * this.#zoom) / this.#sound.duration_s;
  }

  #time(event) {
    const time_s = (event.clientX - this.track.getBoundingClientRect().left) / this.#pxPerS;
    return Math.min(Math.max(0, time_s), this.#sound.duration_s);
  }

  #layOut() {
    if (!this.#sound) return;
    this.track.style.width = `${100 * this.#zoom}%`;
    byId("view").style.width = `${this.scroller.clientWidth}px`;
    this.#drawSoon();
  }

  #drawSoon() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#sound && this.#draw());
  }

  #draw() {
    const shown = { from_s: this.scroller.scrollLeft / this.#pxPerS, pxPerS: this.#pxPerS };
    drawSpectrogram(byId("spectrogram"), shown, this.#painted && { ...this.#picture, canvas: this.#painted }, this.#scale);
    byId("spectrogram").ariaBusy = String(this.#painted === null);
    drawWave(byId("wave"), shown, this.#sound);
    drawAxis(byId("axis"), shown, this.#sound.duration_s);
  }
}

export function shownTheme() {
  const { theme } = document.documentElement.dataset;
  return theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function bandElement({ cycle, mark, word, tone, isUncertain, isByHand, description }, row, duration_s, isSelected) {
  const band = document.createElement("div");
  band.className = `band tone-${tone}${isUncertain ? " is-uncertain" : ""}${isByHand ? " is-by-hand" : ""}`;
  band.dataset.id = cycle.id;
  const attributes = { role: "option", "aria-selected": isSelected, "aria-label": description, tabindex: isSelected ? 0 : -1 };
  for (const [name, value] of Object.entries(attributes)) band.setAttribute(name, value);
  band.title = description;
  Object.assign(band.style, {
    left: `${(100 * cycle.start_s) / duration_s}%`,
    width: `${(100 * (cycle.end_s - cycle.start_s)) / duration_s}%`,
    top: `${row * LANE_PX + 2}px`,
    height: `${LANE_PX - 4}px`,
    lineHeight: `${LANE_PX - 14}px`,
  });
  const letter = document.createElement("b");
  letter.textContent = isUncertain ? `${mark}?` : mark;
  const name = document.createElement("span");
  name.className = "word";
  name.textContent = word;
  band.append(letter, name);
  return band;
}

// A canvas as sharp as the screen; drawing is in CSS pixels.
function prepare(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = window.devicePixelRatio;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.fillStyle = getComputedStyle(canvas).color;
  pen.font = `11px ${getComputedStyle(canvas).fontFamily}`;
  return { pen, width, height };
}

function drawSpectrogram(canvas, { from_s, pxPerS }, picture, scale) {
  const { pen, width, height } = prepare(canvas);
  if (!picture) return;
  const pxPerFrame = picture.hopS * pxPerS;
  pen.drawImage(picture.canvas, from_s / picture.hopS, 0, width / pxPerFrame, ROWS, 0, 0, width, height);
  const { lowHz, highHz } = scale === "log" ? LOG_HZ : LINEAR_HZ;
  const halo = shownTheme() === "dark" ? "rgb(0 0 0 / 65%)" : "rgb(255 255 255 / 75%)";
  for (const hz of MARKS_HZ[scale]) {
    const share = scale === "log" ? Math.log(hz / lowHz) / Math.log(highHz / lowHz) : hz / highHz;
    const y = height * (1 - share);
    const text = hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`;
    const colour = pen.fillStyle;
    pen.fillStyle = halo;
    pen.fillRect(0, y - 8, pen.measureText(text).width + 10, 16);
    pen.fillStyle = colour;
    pen.fillText(text, 5, y + 4);
  }
}

function drawWave(canvas, { from_s, pxPerS }, { samples, peak }) {
  const { pen, width, height } = prepare(canvas);
  if (!samples) return;
  for (let x = 0; x < width; x++) {
    const first = Math.floor((from_s + x / pxPerS) * ANALYSIS_RATE_HZ);
    const last = Math.min(Math.max(first + 1, Math.ceil((from_s + (x + 1) / pxPerS) * ANALYSIS_RATE_HZ)), samples.length);
    let low = 0;
    let high = 0;
    for (let i = first; i < last; i++) {
      low = Math.min(low, samples[i]);
      high = Math.max(high, samples[i]);
    }
    const y = (value) => height / 2 - (value / peak) * (height / 2 - 2);
    pen.fillRect(x, y(high), 1, Math.max(1, y(low) - y(high)));
  }
}

function drawAxis(canvas, { from_s, pxPerS }, duration_s) {
  const { pen, width } = prepare(canvas);
  const step_s = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300].find((step) => step * pxPerS >= 56) ?? 600;
  for (let i = Math.ceil(from_s / step_s); i * step_s <= Math.min(duration_s, from_s + width / pxPerS); i++) {
    const x = (i * step_s - from_s) * pxPerS;
    const text = `${Number((i * step_s).toFixed(1))} s`;
    pen.fillRect(x, 0, 1, 4);
    if (x + 4 + pen.measureText(text).width < width) pen.fillText(text, x + 4, 15);
  }
}

// A folder under review: its recordings, most uncertain first, and saving at once.
import * as api from "./api.js";
import { showRecordings } from "./panels.js";

const PAUSE_MS = 250; // a drag is saved when it rests
const ASK_AGAIN_MS = 2000; // while the model has not answered for all recordings

export class Review {
  #recordings = [];
  #problems = []; // of the table of corrections
  #current = null; // id of the recording that was asked for
  #shown = null; // id of the one on the page
  #waiting = null; // {id, cycles, timer}
  #saving = Promise.resolve();
  #held = ""; // why the present state cannot be saved

  // `onOpen(record, bytes)` shows a recording, `onNone()` none, `say(text)` tells what happened, `fail(error)` what went wrong.
  constructor({ onOpen, onNone, say, fail }) {
    Object.assign(this, { onOpen, onNone, say, fail });
    addEventListener("pagehide", () => this.flush());
  }

  async start() {
    await this.#list();
    if (this.#recordings.length === 0) throw new Error("There are no recordings in this folder.");
    await this.open(this.#recordings[0].id);
    await this.#refresh();
  }

  async open(id) {
    if (this.#held) return this.fail(new Error(`${this.#held} Or undo.`));
    await this.flush();
    this.#current = id;
    this.#show();
    try {
      const [record, bytes] = await Promise.all([api.getRecording(id), api.getAudio(id)]);
      if (this.#current !== id) return;
      this.#shown = id;
      await this.onOpen(record, bytes);
    } catch (error) {
      if (this.#current !== id) return;
      this.#shown = null;
      this.onNone();
      this.fail(error);
    }
  }

  async step(by) {
    const index = this.#recordings.findIndex((recording) => recording.id === this.#current) + by;
    if (index >= 0 && index < this.#recordings.length) return this.open(this.#recordings[index].id);
    return this.say(by < 0 ? "This is the first recording." : "That was the last recording.");
  }

  // Saves the current recording's cycles, at the latest before another one is opened.
  save(cycles) {
    this.#drop();
    this.#held = "";
    this.#waiting = { id: this.#shown, cycles, timer: setTimeout(() => this.flush(), PAUSE_MS) };
    this.say("Saving\u2026");
  }

  // What waited to be saved no longer stands, and what stands cannot be saved: `why` says what is missing.
  hold(why) {
    this.#drop();
    this.#held = why;
    this.say(`Not saved yet. ${why}`);
  }

  flush() {
    const waiting = this.#waiting;
    if (waiting === null) return this.#saving;
    this.#drop();
    // One after the other: an earlier save must not arrive last.
    this.#saving = this.#saving.then(() => this.#put(waiting));
    return this.#saving;
  }

  async #put({ id, cycles }) {
    try {
      await api.putCycles(id, cycles);
      this.#recordings.find((recording) => recording.id === id).is_corrected = true;
      this.#show();
      this.say("Saved.");
    } catch (error) {
      this.fail(new Error(`Not saved: ${error.message}`));
    }
  }

  // The doubts and the order, until the model has answered for all.
  async #refresh() {
    await this.#list();
    this.#show();
    const isAsked = ({ doubt, error }) => doubt !== null || error !== null;
    if (!this.#recordings.every(isAsked)) setTimeout(() => this.#refresh().catch(this.fail), ASK_AGAIN_MS);
  }

  // What has no id is a line of the corrections that was not read.
  async #list() {
    const listed = await api.getRecordings();
    this.#recordings = listed.filter(({ id }) => id !== null);
    this.#problems = listed.filter(({ id }) => id === null);
  }

  #drop() {
    clearTimeout(this.#waiting?.timer);
    this.#waiting = null;
  }

  #show() {
    showRecordings(this.#recordings, this.#problems, this.#current, (id) => this.open(id));
  }
}

// Sound in and out: reading a file, playing a stretch of it, recording from the microphone.
import { wavBytes } from "./wav.js";

export const ANALYSIS_RATE_HZ = 8000; // the picture shows up to half of it
const PLAYED_RATE_HZ = 44100;
const PLAYED_PEAK = 0.9;
const MAX_GAIN = 40;

// {played: AudioBuffer, samples: mono at ANALYSIS_RATE_HZ}; throws when this browser cannot read the format.
export async function decode(bytes) {
  const at = (rateHz) => new OfflineAudioContext(1, 1, rateHz).decodeAudioData(bytes.slice(0));
  const [played, analysed] = await Promise.all([at(PLAYED_RATE_HZ), at(ANALYSIS_RATE_HZ)]);
  const samples = new Float32Array(analysed.length);
  for (let channel = 0; channel < analysed.numberOfChannels; channel++) {
    analysed.getChannelData(channel).forEach((value, i) => (samples[i] += value / analysed.numberOfChannels));
  }
  return { played, samples };
}

// Plays stretches of one sound; quiet recordings are raised to the same peak.
export class Player {
  #context = null;
  #source = null;
  #buffer = null;
  #gain = 1;

  constructor({ onTime, onStop }) {
    this.onTime = onTime;
    this.onStop = onStop;
  }

  load(buffer) {
    this.stop();
    this.#buffer = buffer;
    if (!buffer) return;
    const peak = buffer.getChannelData(0).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    this.#gain = Math.min(MAX_GAIN, PLAYED_PEAK / Math.max(peak, 1e-6));
  }

  get canPlay() {
    return this.#buffer !== null;
  }

  get isPlaying() {
    return this.#source !== null;
  }

  play(start_s, end_s, { isLooping }) {
    this.stop();
    this.#context ??= new AudioContext();
    this.#context.resume();
    const source = new AudioBufferSourceNode(this.#context, { buffer: this.#buffer });
    source.connect(new GainNode(this.#context, { gain: this.#gain })).connect(this.#context.destination);
    Object.assign(source, { loop: isLooping, loopStart: start_s, loopEnd: end_s });
    source.onended = () => this.#source === source && this.stop();
    source.start(0, start_s, isLooping ? undefined : end_s - start_s);
    this.#source = source;
    const began_s = this.#context.currentTime;
    const tick = () => {
      if (this.#source !== source) return;
      const passed_s = Math.max(0, this.#context.currentTime - began_s);
      this.onTime(start_s + (isLooping ? passed_s % (end_s - start_s) : Math.min(passed_s, end_s - start_s)));
      requestAnimationFrame(tick);
    };
    tick();
  }

  stop() {
    const source = this.#source;
    this.#source = null;
    source?.stop();
    if (source) this.onStop();
  }
}

// Records until `stop()`, which gives a WAV file. The browser's speech processing is switched off: it removes lung sounds.
export async function record({ onLevel }) {
  if (!navigator.mediaDevices) throw new Error("The browser gives the microphone only to https and localhost pages.");
  const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  const context = new AudioContext();
  await context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
  const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
  const blocks = [];
  const began = new Date();
  const ended = new Promise((resolve) => {
    node.port.onmessage = ({ data }) => {
      if (data === null) return resolve();
      blocks.push(data);
      onLevel({ peak: data.reduce((most, value) => Math.max(most, Math.abs(value)), 0), passed_s: (Date.now() - began) / 1000 });
    };
  });
  context.createMediaStreamSource(stream).connect(node);
  return async () => {
    node.port.postMessage("end");
    await ended;
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
    const name = `recording-${began.toISOString().slice(0, 19).replaceAll(":", "-")}.wav`;
    return new File([wavBytes(blocks, context.sampleRate)], name, { type: "audio/wav" });
  };
}

// Computes spectrograms beside the page, so that it does not freeze.
import { spectrogram } from "./spectrogram.js";

self.onmessage = ({ data: { samples, sampleRateHz } }) => {
  const result = spectrogram(samples, sampleRateHz);
  self.postMessage(result, [result.levels.buffer]);
};

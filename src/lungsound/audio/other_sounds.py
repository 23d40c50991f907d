"""What else is heard in a recording than the lungs: mains hum, a voice, the heart.

All is measured at 4 kHz, in the middle two minutes of a longer recording. The thresholds were set on all 289 recordings
of ICBHI and on 482 of the training part of SPRSound, and on sounds planted in them (docs/results.md).

- Hum: lines at the mains' frequency and its multiples, above the spectrum beside them.
- A voice: the spectrum of a frame ripples at a pitch of 80 to 400 Hz over the whole band. The spectrum is flattened
  first, so that a wheeze, which is one line or a few, counts by so few bins (the idea of the cepstrum: Noll, "Cepstrum
  pitch determination", JASA 41 (1967) 293). What keeps its pitch for half a second is no talk: a rhonchus has many
  harmonics too. A voice is noticed where it is heard through most of the recording.
- The heart: the level below 150 Hz rises and falls 46 to 182 times a minute, and lies far above the breath's.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lungsound.audio.quality import Defect, Samples
from lungsound.audio.waveform import resample

Values = npt.NDArray[np.float64]

HUM, SPEECH, HEART = "mains hum", "speech", "heart sounds dominate"

RATE_HZ = 4000
MAX_LENGTH_S = 120

# The same at 47, 53, 56 and 64 Hz, where no mains is, stays below 7.1 dB in all 771 recordings; at 50 Hz one eighth of
# ICBHI's has 10 to 30 dB.
MIN_HUM_DB = 10.0
MAINS_HZ = (50, 60)
NUM_LINES = 8
LINE_WIDTH_HZ, BESIDE_HZ = 0.75, (3.0, 12.0)
HUM_FRAME = 8192

# Of noise 0.23 at the median. The largest share of frames is 0.28 in both corpora.
MIN_VOICING = 0.4
MIN_SPOKEN_SHARE = 0.35
VOICE_FRAME, VOICE_HOP = 256, 64
VOICE_BAND_HZ, PITCH_HZ = (80.0, 1900.0), (80.0, 400.0)
FLATTENED_BINS = 51  # 200 Hz to either side
MAX_RIPPLE = 1.0
# A tone: in half a second four fifths of the frames are voiced, within 3 % of one pitch. A voice that talks glides.
STEADY_FRAMES, STEADY_PITCH, STEADY_SHARE = 31, 0.03, 0.8

# Beyond both are 1 in 100 recordings of ICBHI and none of SPRSound.
MIN_BEAT, MIN_HEART_DB = 0.45, 20.0
HEART_BAND_HZ, BREATH_BAND_HZ = (20.0, 150.0), (150.0, 800.0)
HEART_FRAME, HEART_HOP = 160, 80
BEAT_S = (0.33, 1.3)
TREND_S = 1.5
MAX_FALL_DB = 20.0  # below the median the level of a pause says nothing


@dataclass(frozen=True)
class OtherSounds:
    """Measures of one recording; zeros where it is too short to be measured.

    `hum_db`: the second strongest of the mains' lines above what lies beside it. `spoken_share`: of the frames.
    `beat`: the autocorrelation of the level below 150 Hz at the best heart rate, up to 1; `heart_db`: how far that
    level lies above the one from 150 to 800 Hz.
    """

    hum_db: float
    mains_hz: int
    spoken_share: float
    beat: float
    heart_db: float


def measure_other_sounds(waveform: Samples, sample_rate_hz: int) -> OtherSounds:
    """The measures of a mono waveform (samples,)."""
    longest = MAX_LENGTH_S * sample_rate_hz
    first = max(0, (waveform.size - longest) // 2)
    part = np.ascontiguousarray(waveform[first : first + longest])
    sound = resample(torch.from_numpy(part), sample_rate_hz, RATE_HZ).double().numpy()
    sound = sound - sound.mean()
    hum_db, mains_hz = max((line_db(sound, mains_hz), mains_hz) for mains_hz in MAINS_HZ)
    is_in_speech = is_spoken(sound)
    beat, heart_db = heart_beat(sound)
    return OtherSounds(hum_db, mains_hz, float(is_in_speech.mean()) if is_in_speech.size else 0.0, beat, heart_db)


def find_other_sounds(found: OtherSounds) -> tuple[Defect, ...]:
    """Which of the measures are beyond their thresholds."""
    defects = []
    if found.hum_db >= MIN_HUM_DB:
        defects.append(Defect(HUM, f"lines of {found.mains_hz} Hz, {found.hum_db:.0f} dB above their neighbours"))
    if found.spoken_share >= MIN_SPOKEN_SHARE:
        defects.append(
            Defect(SPEECH, f"{100 * found.spoken_share:.0f} % of the recording is voiced, at a pitch that glides")
        )
    if found.beat >= MIN_BEAT and found.heart_db >= MIN_HEART_DB:
        defects.append(Defect(HEART, f"a beat {found.heart_db:.0f} dB above the breath"))
    return tuple(defects)


def line_db(sound: Values, mains_hz: float) -> float:
    """How far the second strongest of the first eight multiples of a frequency stands above what lies beside it.

    Of a waveform (samples,) at `RATE_HZ`, by the median over frames of two seconds: a tone now and then is no line.
    Two lines, since one may be anything. 0 for less than a second; shorter frames below six.
    """
    frame = HUM_FRAME if sound.size >= 3 * HUM_FRAME else HUM_FRAME // 2
    if sound.size < frame:
        return 0.0
    power = np.median(_power(sound, frame, frame // 2, frame), axis=0)
    level_db = 10 * np.log10(np.maximum(power, 1e-20))
    frequency_hz = np.fft.rfftfreq(frame, 1 / RATE_HZ)
    lines_db = []
    for line_hz in mains_hz * np.arange(1, NUM_LINES + 1):
        away_hz = np.abs(frequency_hz - line_hz)
        is_beside = (away_hz > BESIDE_HZ[0]) & (away_hz < BESIDE_HZ[1])
        on_line = level_db[away_hz <= LINE_WIDTH_HZ + line_hz / 1000]
        lines_db.append(float(on_line.max() - np.median(level_db[is_beside])))
    return sorted(lines_db)[-2]


def is_spoken(sound: Values) -> npt.NDArray[np.bool_]:
    """Of each frame of a waveform (samples,) at `RATE_HZ` whether it is voiced, and of no tone that keeps its pitch."""
    strength, pitch_hz = voicing(sound)
    is_voiced = strength >= MIN_VOICING
    if len(is_voiced) < STEADY_FRAMES:
        return np.zeros_like(is_voiced)  # too short to be told from a tone
    windows = np.lib.stride_tricks.sliding_window_view(np.log(pitch_hz), STEADY_FRAMES)
    is_near = np.abs(windows - np.median(windows, axis=1, keepdims=True)) < STEADY_PITCH
    are_voiced = np.lib.stride_tricks.sliding_window_view(is_voiced, STEADY_FRAMES)
    is_steady = (is_near & are_voiced).mean(axis=1) >= STEADY_SHARE
    is_in_steady = np.convolve(is_steady, np.ones(STEADY_FRAMES)) > 0
    return np.asarray(is_voiced & ~is_in_steady)


def voicing(sound: Values) -> tuple[Values, Values]:
    """How well one pitch explains the spectrum, up to about 1, and that pitch in Hz, (frame,) each.

    Of a waveform (samples,) at `RATE_HZ`.
    """
    size = 2 * VOICE_FRAME
    frequency_hz = np.fft.rfftfreq(size, 1 / RATE_HZ)
    is_inside = (frequency_hz >= VOICE_BAND_HZ[0]) & (frequency_hz <= VOICE_BAND_HZ[1])
    level = _power(sound, VOICE_FRAME, VOICE_HOP, size)[:, is_inside] ** 0.25
    # Of each bin the ripple about the mean of its neighbours, as far as they are in the band.
    ripple = level / np.maximum(_mean_of_neighbours(level), 1e-12) - 1
    ripple = np.where(level > 0, np.minimum(ripple, MAX_RIPPLE), 0)
    whole = np.zeros((len(ripple), len(frequency_hz)))
    whole[:, is_inside] = ripple
    # The product with a cosine over frequency, over that of a cosine with itself; lags in samples at `RATE_HZ`.
    periodic = np.fft.irfft(whole, axis=1) * size / 2
    first, end = int(RATE_HZ / PITCH_HZ[1]), int(RATE_HZ / PITCH_HZ[0]) + 1
    lag = first + periodic[:, first:end].argmax(axis=1)
    before, peak, after = (np.take_along_axis(periodic, (lag + step)[:, np.newaxis], 1)[:, 0] for step in (-1, 0, 1))
    bend = before - 2 * peak + after
    is_peak = (bend < 0) & (peak >= np.maximum(before, after))
    finer = np.where(is_peak, 0.5 * (before - after) / np.where(is_peak, bend, 1), 0)
    strength = np.sqrt((ripple**2).sum(axis=1) * is_inside.sum() / 2)
    return np.asarray(peak / np.maximum(strength, 1e-12)), RATE_HZ / (lag + finer)


def heart_beat(sound: Values) -> tuple[float, float]:
    """`OtherSounds.beat` and `heart_db` of a waveform (samples,) at `RATE_HZ`."""
    power = _power(sound, HEART_FRAME, HEART_HOP, 2 * HEART_FRAME)
    frequency_hz = np.fft.rfftfreq(2 * HEART_FRAME, 1 / RATE_HZ)
    low, middle = (
        power[:, (frequency_hz >= first) & (frequency_hz < end)].sum(axis=1) + 1e-16
        for first, end in (HEART_BAND_HZ, BREATH_BAND_HZ)
    )
    frames_per_s = RATE_HZ / HEART_HOP
    num_trend, num_lags = int(TREND_S * frames_per_s), int(BEAT_S[1] * frames_per_s)
    if len(low) < 2 * num_lags:
        return 0.0, 0.0
    level_db = 10 * np.log10(low)
    level_db = np.maximum(level_db, np.median(level_db) - MAX_FALL_DB)
    padded = np.pad(level_db, (num_trend // 2, num_trend - num_trend // 2 - 1), mode="reflect")
    swing = level_db - np.convolve(padded, np.full(num_trend, 1 / num_trend), "valid")
    energy = float(swing @ swing)
    if energy == 0.0:
        return 0.0, 0.0
    alike = [
        float(swing[lag:] @ swing[:-lag]) / energy * len(swing) / (len(swing) - lag)
        for lag in range(int(BEAT_S[0] * frames_per_s), num_lags)
    ]
    return max(alike), float(10 * np.log10(low.mean() / middle.mean()))


def _power(sound: Values, frame: int, hop: int, size: int) -> Values:
    """Power spectra (frame, bin) under Hann windows, with transforms of `size`; none when it is too short for one."""
    if sound.size < frame:
        return np.zeros((0, size // 2 + 1))
    frames = np.lib.stride_tricks.sliding_window_view(sound, frame)[::hop]
    return np.asarray(np.abs(np.fft.rfft(frames * np.hanning(frame), size, axis=1)) ** 2)


def _mean_of_neighbours(level: Values) -> Values:
    """Of each bin (frame, bin) the mean over `FLATTENED_BINS` bins about it, of those that there are."""
    half = FLATTENED_BINS // 2
    sums = np.cumsum(np.pad(level, ((0, 0), (half + 1, half))), axis=1)
    counts = np.cumsum(np.pad(np.ones(level.shape[1]), (half + 1, half)))
    return np.asarray(
        (sums[:, FLATTENED_BINS:] - sums[:, :-FLATTENED_BINS]) / (counts[FLATTENED_BINS:] - counts[:-FLATTENED_BINS])
    )

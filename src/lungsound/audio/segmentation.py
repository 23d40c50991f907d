"""Segmentation of a recording without annotation into breathing cycles, by the onset of each inspiration.

Around the onsets that people marked (ICBHI, SPRSound) the level between 150 and 600 Hz rises within a third of a
second, more than at any other time of the cycle. So the rise of that level is measured every 40 ms; for each of
`NUM_PERIODS` breathing periods those onsets are taken whose rises have the largest sum, less a penalty on spacings that
differ from the period (dynamic programming as in Ellis, "Beat tracking by dynamic programming", Journal of New Music
Research 36 (2007) 51); and of these the period whose sum is largest for its number of onsets: to take expirations for
onsets too doubles the number, and pays only when they rise nearly as much.

The constants were tuned on the training parts of ICBHI and SPRSound alone.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Cycles = tuple[tuple[float, float], ...]
"""Start and end of each cycle in seconds, in order of time."""
Values = npt.NDArray[np.float64]

BAND_HZ = (150.0, 600.0)
FRAME_S = 0.04
FRAMES_AT_ONCE = 256  # long recordings of a high rate would take gigabytes at once
RISE_BEFORE_S, RISE_AFTER_S = 0.6, 0.52
# People mark the onset where the sound can first be heard, before its steepest rise.
ONSET_LEAD_S = 0.08

SHORTEST_PERIOD_S, LONGEST_PERIOD_S, NUM_PERIODS = 1.4, 6.0, 16
USUAL_PERIOD_S, PERIOD_SPREAD = 2.5, 0.7  # middle and deviation of the logarithm of the period
MIN_CYCLE_S, MAX_CYCLE_S = 0.8, 12.0
SPACING_WEIGHT = 6.0
# What is left before the first onset or after the last counts as a cycle from this share of a period on.
MIN_PARTIAL = 0.3

MIN_DURATION_S = 2 * SHORTEST_PERIOD_S
SILENCE_POWER = 1e-14
# In steady noise the rises found are 0.5 to 1.2 dB; 99 of 100 training recordings have more than 2.8 dB.
MIN_RISE_DB = 2.0


@dataclass(frozen=True)
class Segmentation:
    """Cycles that follow each other without a gap, or `problem`: why there are none.

    `is_steady`: nothing in the sound rises as breathing does (of every second recording of ICBHI and of SPRSound's
    tests 1 of 511).
    """

    cycles: Cycles
    problem: str | None = None
    is_steady: bool = False


def segment_cycles(waveform: npt.NDArray[np.float32], sample_rate_hz: int) -> Segmentation:
    """The breathing cycles in a waveform `(samples,)`, each from the onset of an inspiration to the next.

    The first and the last may be parts of cycles. Silence at either end is left out. Below a rate of 1200 Hz the
    band ends at half the rate. No cycles, with the reason, for a recording that is silent, too short, or has no
    breathing that stands out of its noise.
    """
    power = band_power(waveform, sample_rate_hz)
    sounding = np.flatnonzero(power > SILENCE_POWER)
    if not len(sounding):
        return Segmentation((), problem=f"no sound from {BAND_HZ[0]:g} to {BAND_HZ[1]:g} Hz", is_steady=True)
    first, last = int(sounding[0]), int(sounding[-1]) + 1
    if (last - first) * FRAME_S < MIN_DURATION_S:
        return Segmentation((), problem=f"less than {MIN_DURATION_S:g} s of sound")
    rise = level_rise(band_level_db(power[first:last]))
    deviation = float(rise.std())
    if deviation == 0.0:
        return Segmentation((), problem="the level does not change", is_steady=True)
    duration_s, best_value = len(rise) * FRAME_S, -math.inf
    periods_s = np.geomspace(SHORTEST_PERIOD_S, min(LONGEST_PERIOD_S, duration_s / 2), NUM_PERIODS)
    candidates = best_onsets(rise / deviation, periods_s)
    for (candidate, value), candidate_s in zip(candidates, periods_s.tolist(), strict=True):
        # A sum of n values of deviation 1 has deviation sqrt(n).
        usual = (math.log(candidate_s / USUAL_PERIOD_S) / PERIOD_SPREAD) ** 2
        weighed = value / math.sqrt(len(candidate)) - 0.5 * usual
        if weighed > best_value:
            best_value, onsets, period_s = weighed, candidate, candidate_s
    rise_db = float(np.median(rise[onsets]))
    if rise_db < MIN_RISE_DB:
        return Segmentation(
            (), problem=f"the level rises by only {rise_db:.1f} dB, like that of steady noise", is_steady=True
        )
    if (correlation := periodicity(rise, period_s)) < 0:
        return Segmentation((), problem=f"no rhythm (autocorrelation {correlation:.2f})")
    # Between frames i - 1 and i, which are twice as long as they are apart.
    onsets_s = ((first + onsets + 0.5) * FRAME_S - ONSET_LEAD_S).tolist()
    start_s, end_s = first * FRAME_S, min((last + 1) * FRAME_S, len(waveform) / sample_rate_hz)
    return Segmentation(cycles_between(onsets_s, start_s=start_s, end_s=end_s, min_partial_s=MIN_PARTIAL * period_s))


def sliding_windows(duration_s: float, *, length_s: float, hop_s: float) -> Cycles:
    """Windows for a recording without detected cycles: one every `hop_s`, the last at the end of the recording."""
    last_s = max(duration_s - length_s, 0.0)
    # A rest that is rounding alone makes no window.
    starts_s = [number * hop_s for number in range(math.ceil(last_s / hop_s - 1e-9))] + [last_s]
    return tuple((start_s, min(start_s + length_s, duration_s)) for start_s in starts_s)


def band_power(waveform: npt.NDArray[np.float32], sample_rate_hz: int) -> Values:
    """Power `(frame,)` in `BAND_HZ`, under Hann windows of 80 ms every 40 ms; empty for less than one window."""
    hop = round(FRAME_S * sample_rate_hz)
    if len(waveform) < 2 * hop:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 2 * hop)[::hop]
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    frequency_hz = np.fft.rfftfreq(2 * hop, 1 / sample_rate_hz)
    is_inside, energy = (frequency_hz >= BAND_HZ[0]) & (frequency_hz <= BAND_HZ[1]), np.empty(len(frames))
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        rows = slice(first, first + FRAMES_AT_ONCE)
        spectrum = np.fft.rfft(frames[rows] * window, axis=1)[:, is_inside]
        energy[rows] = (np.abs(spectrum).astype(np.float64) ** 2).sum(axis=1)
    return np.asarray(2 * energy / (2 * hop * float((window.astype(np.float64) ** 2).sum())))


def band_level_db(power: Values) -> Values:
    """Level `(frame,)` of a power, from 3 dB below the 2nd percentile of what is not silent."""
    floor = 0.5 * float(np.percentile(power[power > SILENCE_POWER], 2))
    return np.asarray(10 * np.log10(np.maximum(power, floor)))


def level_rise(level_db: Values) -> Values:
    """Rise `(frame,)` in dB at the beginning of each frame: the mean after it less the mean before; ends held."""
    before, after = round(RISE_BEFORE_S / FRAME_S), round(RISE_AFTER_S / FRAME_S)
    sums = np.concatenate(([0.0], np.cumsum(np.pad(level_db, (before, after), mode="edge"))))
    here = before + np.arange(len(level_db))
    return np.asarray((sums[here + after] - sums[here]) / after - (sums[here] - sums[here - before]) / before)


def periodicity(values: Values, period_s: float) -> float:
    """Autocorrelation of the values `(frame,)` at the period, the largest within a tenth of it; 1 at lag 0."""
    centred = values - values.mean()
    lags = range(max(1, round(0.9 * period_s / FRAME_S)), round(1.1 * period_s / FRAME_S) + 1)
    return max(float(centred[lag:] @ centred[:-lag]) for lag in lags) / float(centred @ centred)


def best_onsets(strength: Values, periods_s: Values) -> list[tuple[npt.NDArray[np.int64], float]]:
    """For each period the frames i_1 < i_2 < ... of largest value, one at least, and that value.

    It is the sum of `strength` `(frame,)` at these frames, less `SPACING_WEIGHT` ln(spacing / period)^2 for each
    two neighbours, `MIN_CYCLE_S` to `MAX_CYCLE_S` apart, and for what is left at either end if longer than the
    period.
    """
    num_frames, shortest, longest = len(strength), round(MIN_CYCLE_S / FRAME_S), round(MAX_CYCLE_S / FRAME_S)
    # From the longest to the shortest spacing, as the earlier frames lie in memory.
    spacing_s = np.arange(longest, shortest - 1, -1) * FRAME_S
    penalty = SPACING_WEIGHT * np.log(spacing_s / periods_s[:, None]) ** 2
    rest_s = np.arange(num_frames) * FRAME_S
    end_penalty = SPACING_WEIGHT * np.log(np.maximum(rest_s / periods_s[:, None], 1.0)) ** 2
    rows = np.arange(len(periods_s))
    value = np.full((len(periods_s), longest + num_frames), -np.inf)  # of the best onsets up to each; none before 0
    previous = np.full((len(periods_s), num_frames), -1)
    for frame in range(num_frames):
        earlier = value[:, frame : frame + len(spacing_s)] - penalty
        best = earlier.argmax(axis=1)
        is_later = earlier[rows, best] > -end_penalty[:, frame]
        previous[is_later, frame] = frame - longest + best[is_later]
        value[:, longest + frame] = strength[frame] + np.where(is_later, earlier[rows, best], -end_penalty[:, frame])
    total = value[:, longest:] - end_penalty[:, ::-1]
    best_of_periods = []
    for row in rows:
        onsets, frame = [], int(total[row].argmax())
        while frame >= 0:
            onsets.append(frame)
            frame = int(previous[row, frame])
        best_of_periods.append((np.array(onsets[::-1], dtype=np.int64), float(total[row].max())))
    return best_of_periods


def cycles_between(onsets_s: Iterable[float], *, start_s: float, end_s: float, min_partial_s: float) -> Cycles:
    """Cycles from onset to onset, and what is left before and after them where long enough; without onsets one."""
    borders = [onset_s for onset_s in onsets_s if start_s < onset_s < end_s]
    if not borders or borders[0] - start_s >= min_partial_s:
        borders.insert(0, start_s)
    if len(borders) == 1 or end_s - borders[-1] >= min_partial_s:
        borders.append(end_s)
    return tuple(pairwise(borders))

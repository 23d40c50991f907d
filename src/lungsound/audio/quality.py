"""What is wrong with a recording as a signal: clipping, silence, dropouts, offset, a band narrower than its rate.

Every measure is a plain function of a waveform (samples,) whose full scale is 1. The thresholds below were set on
ICBHI (289 recordings) and SPRSound (2,683), which are named where they speak for a number.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

LOWEST_DBFS = -200.0  # said of nothing but zeros

# Flat tops: runs of samples at exactly the recording's own extreme. In SPRSound no recording has one run of three;
# in ICBHI 75 have two or more, up to 19 % of their samples, all at full scale.
MIN_FLAT_SAMPLES = 3
MIN_FLAT_RUNS = 2
# A signal of few steps repeats its extreme without being clipped: below -40 dBFS a 16-bit peak has 328 steps.
MIN_CLIP_LEVEL = 0.01
MAX_CLIPPED_SHARE = 1e-4

# Floats reach beyond full scale: decoders of MP3 and OGG by a few dB, samples that were never scaled by 90.
MAX_PEAK_DBFS = 6.0

# Equal samples in a row. The longest such run in SPRSound, 16 bit at a median of -43 dBFS, is 30 ms.
MIN_SILENCE_S = 0.050
MAX_SILENCE_S = 0.5
# The quietest recording of SPRSound has -68 dBFS, of ICBHI -48; rounding to 16 bit alone makes -101.
MIN_RMS_DBFS = -80.0

# SPRSound's largest offset is 0.0005; 31 recordings of ICBHI have more than 0.01, up to 0.18.
MAX_DC_OFFSET = 0.01

# Where a fine crackle usually is strongest (Bohadana, Izbicki & Kraman, NEJM 2014). The spectra of SPRSound end at 758
# to 2566 Hz, half of them below 898 Hz, since its stethoscope cuts there; ICBHI's lowest ends at 715 Hz.
MIN_BAND_HZ = 650.0
# Lung sounds fall by 20 to 40 dB an octave into the microphone's noise; filters of software fall by 20 dB within 12 %
# of a frequency, which is 120 dB an octave.
STEEP_DB = 20.0
STEEP_WIDTH = 0.06
FLOOR_MARGIN_DB = 6.0

STANDARD_RATES_HZ = (4000, 8000, 10000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)
# At the old half rate, beyond what the slope before it promises. A resampler leaves little more than rounding above it
# (mirror images at -60 dB); Meditron's own filter falls as far at 1.7 kHz, but into noise 30 dB above rounding.
# Its edge is 29 dB at most, so beyond `CLEAR_EDGE_DB` it does not matter what lies above.
MIN_EDGE_DB = 14.0
CLEAR_EDGE_DB = 35.0
MAX_ABOVE_ROUNDING_DB = 20.0
ROUNDING_16_BIT_DB = -101.1

MAX_CHANNEL_DIFFERENCE_DB = -60.0

# What is left of a recording without its silence: most of it, and one breath as fast as an infant's.
MAX_SILENT_SHARE = 0.5
MIN_SOUND_S = 1.4
MOSTLY_SILENT, TOO_SHORT = "mostly silent", "too short"

_FRAME = 2048
_MIN_FRAME = 256
_SMOOTHED_BINS = 9


@dataclass(frozen=True)
class Band:
    """Where a recording's spectrum ends, and whether it ends at a wall, as a filter of software makes it."""

    limit_hz: float
    is_steep: bool


@dataclass(frozen=True)
class Quality:
    """The measures of one recording; of its channels' mean, but for the last two. None: too short to be measured."""

    sample_rate_hz: int
    num_channels: int
    duration_s: float
    rms_dbfs: float
    peak_dbfs: float
    dc_offset: float
    clipped_share: float
    silent_share: float
    longest_silence_s: float
    num_dropouts: int
    band: Band | None
    upsampled_from_hz: int | None
    num_dead_channels: int
    channel_difference_db: float | None


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong with a recording: one of a few fixed phrases, and what was measured."""

    kind: str
    detail: str


def measure_quality(channels: Samples, sample_rate_hz: int) -> Quality:
    """The measures of a recording (channel, samples) at the rate that its header says."""
    mono: Samples = channels.mean(axis=0, dtype=np.float32)
    silences = silent_stretches(mono, sample_rate_hz)
    num_samples = mono.size
    lengths = [end - start for start, end in silences]
    return Quality(
        sample_rate_hz=sample_rate_hz,
        num_channels=len(channels),
        duration_s=num_samples / sample_rate_hz,
        rms_dbfs=rms_dbfs(mono),
        peak_dbfs=_decibels(float(np.abs(mono).max())),
        dc_offset=float(mono.mean(dtype=np.float64)),
        clipped_share=max(clipped_share(channel) for channel in channels),
        silent_share=sum(lengths) / num_samples,
        longest_silence_s=max(lengths, default=0) / sample_rate_hz,
        num_dropouts=sum(start > 0 and end < num_samples for start, end in silences),
        band=occupied_band(mono, sample_rate_hz),
        upsampled_from_hz=upsampled_from_hz(mono, sample_rate_hz),
        num_dead_channels=sum(rms_dbfs(channel) < MIN_RMS_DBFS for channel in channels),
        channel_difference_db=channel_difference_db(channels) if len(channels) > 1 else None,
    )


def find_defects(quality: Quality) -> tuple[Defect, ...]:
    """What of the measures is beyond its threshold, whatever the other recordings of the corpus are like."""
    found = []
    num_dead, num_channels = quality.num_dead_channels, quality.num_channels
    if quality.rms_dbfs < MIN_RMS_DBFS and num_dead == 0 and num_channels > 1:
        found.append(Defect("channels cancel", "each holds sound, their mean, which is listened to, does not"))
    elif quality.rms_dbfs < MIN_RMS_DBFS and num_dead in (0, num_channels):
        found.append(Defect("silent", f"{quality.rms_dbfs:.0f} dBFS"))
    elif num_dead:
        found.append(Defect("dead channel", f"{num_dead} of {num_channels} channels hold no sound"))
    if quality.clipped_share >= MAX_CLIPPED_SHARE:
        found.append(Defect("clipped", f"{100 * quality.clipped_share:.2f} % of the samples are flat tops"))
    if quality.peak_dbfs > MAX_PEAK_DBFS:
        found.append(Defect("beyond full scale", f"{quality.peak_dbfs:+.0f} dBFS: written with another scale"))
    if quality.longest_silence_s >= MAX_SILENCE_S:
        share = f"{100 * quality.silent_share:.0f} % of the recording"
        found.append(Defect("digital silence", f"{share}, {quality.longest_silence_s:.1f} s in one stretch"))
    elif quality.num_dropouts:
        longest_ms = 1000 * quality.longest_silence_s
        found.append(
            Defect("dropouts", f"{quality.num_dropouts} stretches of equal samples, up to {longest_ms:.0f} ms")
        )
    if abs(quality.dc_offset) >= MAX_DC_OFFSET:
        found.append(Defect("DC offset", f"{quality.dc_offset:+.3f} of full scale"))
    difference_db = quality.channel_difference_db
    if difference_db is not None and difference_db <= MAX_CHANNEL_DIFFERENCE_DB:
        found.append(Defect("duplicate channel", f"two channels differ by {difference_db:.0f} dB"))
    if quality.upsampled_from_hz is not None:
        detail = f"as if recorded at {quality.upsampled_from_hz} Hz, its header says {quality.sample_rate_hz} Hz"
        found.append(Defect("upsampled", detail))
    elif quality.band is not None and quality.band.limit_hz < MIN_BAND_HZ and quality.rms_dbfs >= MIN_RMS_DBFS:
        detail = f"nothing above {quality.band.limit_hz:.0f} Hz: fine crackles lie about {MIN_BAND_HZ:.0f} Hz"
        found.append(Defect("band-limited", detail))
    return tuple(found)


def find_too_little_sound(quality: Quality) -> tuple[Defect, ...]:
    """What keeps a recording, unlike one cycle of it, from being answered for: silence in most of it, or no breath."""
    sound_s = (1 - quality.silent_share) * quality.duration_s
    found = []
    if quality.silent_share > MAX_SILENT_SHARE:
        found.append(Defect(MOSTLY_SILENT, f"{100 * quality.silent_share:.0f} % of the recording"))
    if sound_s < MIN_SOUND_S:
        found.append(Defect(TOO_SHORT, f"{sound_s:.1f} s of sound: a breath takes {MIN_SOUND_S:g} s at least"))
    return tuple(found)


def rms_dbfs(waveform: Samples) -> float:
    """Root mean square about the mean, in dB of full scale: -3.01 for a full sine; at least `LOWEST_DBFS`."""
    return _decibels(float(waveform.std(dtype=np.float64)))


def clipped_share(waveform: Samples) -> float:
    """Share of the samples that lie in flat tops: runs of 3 or more at exactly the largest or the smallest value.

    At least two runs, and an extreme of at least `MIN_CLIP_LEVEL`. Clipping that was resampled or encoded with loss
    afterwards has no flat tops any more, but where the decoder clips again.
    """
    num_clipped = 0
    for extreme in (waveform.max(), waveform.min()):
        if abs(extreme) < MIN_CLIP_LEVEL:
            continue
        starts, ends = _runs(waveform == extreme)
        lengths = (ends - starts)[ends - starts >= MIN_FLAT_SAMPLES]
        if len(lengths) >= MIN_FLAT_RUNS:
            num_clipped += int(lengths.sum())
    return num_clipped / waveform.size


def silent_stretches(waveform: Samples, sample_rate_hz: int) -> list[tuple[int, int]]:
    """First sample and end of each stretch of equal samples of `MIN_SILENCE_S` or more; flat tops are none."""
    starts, ends = _runs(np.diff(waveform) == 0)
    ends = ends + 1  # n equal steps are n + 1 equal samples
    is_long = ends - starts >= MIN_SILENCE_S * sample_rate_hz
    extremes = [value for value in (waveform.max(), waveform.min()) if abs(value) >= MIN_CLIP_LEVEL]
    is_varied = waveform.max() > waveform.min()
    return [
        (int(start), int(end))
        for start, end in zip(starts[is_long], ends[is_long], strict=True)
        if not (is_varied and waveform[start] in extremes)
    ]


def occupied_band(waveform: Samples, sample_rate_hz: int) -> Band | None:
    """Where the spectrum ends: at the last frequency above the rounding noise of its samples, or at a wall before.

    The spectrum is the median over frames of 2048 samples (a power of two down to 256 in short recordings; None below
    that and in silence), smoothed. The rounding noise is that of the recording's own step, a twelfth of its square.
    A wall is a fall by `STEEP_DB` within 12 % of a frequency to a level that nothing above it exceeds, and which is at
    most `MAX_ABOVE_ROUNDING_DB` above rounding: sound that falls into a microphone's noise goes on in that noise.
    """
    frame = _frame(waveform)
    level_db = None if frame is None else _median_spectrum_db(waveform, frame)
    if level_db is None:
        return None
    num_bins = len(level_db)
    floor_db = _rounding_db(waveform)
    above = np.flatnonzero(level_db > floor_db + FLOOR_MARGIN_DB)
    end = int(above[-1]) + 1 if above.size else 0
    highest_above = np.maximum.accumulate(level_db[::-1])[::-1]
    bins = np.arange(num_bins)
    is_inside = (1 + STEEP_WIDTH) * bins <= num_bins - 1
    before = level_db[((1 - STEEP_WIDTH) * bins[is_inside]).astype(np.int64)]
    after = highest_above[np.ceil((1 + STEEP_WIDTH) * bins[is_inside]).astype(np.int64)]
    # No wall within the first bins, where 12 % of a frequency is less than what the smoothing spans.
    is_wide = bins[is_inside] * STEEP_WIDTH >= _SMOOTHED_BINS / 2
    is_into_rounding = after <= max(floor_db, ROUNDING_16_BIT_DB) + MAX_ABOVE_ROUNDING_DB
    fall = np.where(is_wide & is_into_rounding, before - np.maximum(after, floor_db), 0.0)
    wall = int(fall.argmax())
    is_steep = bool(fall[wall] >= STEEP_DB)
    limit = min(end, wall) if is_steep else end
    return Band(limit_hz=min(limit, num_bins - 1) * sample_rate_hz / 2 / (num_bins - 1), is_steep=is_steep)


def upsampled_from_hz(waveform: Samples, sample_rate_hz: int) -> int | None:
    """The standard rate, at most 5/6 of the header's, at which the content seems to have been recorded; None: no sign.

    The sign is an edge at half the old rate: the level falls by `MIN_EDGE_DB` more than the slope before it promises,
    down to `MAX_ABOVE_ROUNDING_DB` above rounding or less, or by `CLEAR_EDGE_DB`. Of the 2,972 recordings at hand of
    ICBHI and SPRSound none has it; of 15 that were planted by each of three resamplers in each device of ICBHI at
    16 kHz, 8 to 15 are found; in Litt3200 and SPRSound, whose sound ends before half the old rate, none.
    A recording that was interpolated without a filter, or plays too slow or too fast by a wrong header, has none.
    """
    frame = _frame(waveform)
    level_db = None if frame is None else _median_spectrum_db(waveform, frame)
    if level_db is None:
        return None
    floor_db = max(_rounding_db(waveform), ROUNDING_16_BIT_DB)
    level_db = np.maximum(level_db, floor_db)
    edges_db: dict[int, float] = {}
    for rate_hz in STANDARD_RATES_HZ:
        if 1.2 * rate_hz <= sample_rate_hz:
            edge_db, above_db = _edge(level_db, rate_hz / sample_rate_hz)
            if above_db <= floor_db + MAX_ABOVE_ROUNDING_DB or edge_db >= CLEAR_EDGE_DB:
                edges_db[rate_hz] = edge_db
    highest = max(edges_db.values(), default=-math.inf)
    if highest < MIN_EDGE_DB:
        return None
    # 10000 and 11025 Hz have nearly the same edge: the lower one holds the content too.
    return min(rate_hz for rate_hz, edge_db in edges_db.items() if edge_db >= max(MIN_EDGE_DB, highest - 6))


def _edge(level_db: npt.NDArray[np.float64], place: float) -> tuple[float, float]:
    """How far the level falls at a place (1: the last bin) beyond its slope before, and the level after, in dB."""
    bins = np.arange(len(level_db)) / (len(level_db) - 1) / place
    far, near, above = (
        float(np.median(level_db[(bins >= low) & (bins <= high)]))
        for low, high in ((0.55, 0.7), (0.75, 0.88), (1.15, 1.35))
    )
    slope_db_per_octave = max(0.0, (far - near) / math.log2(0.815 / 0.625))
    return near - above - slope_db_per_octave * math.log2(1.25 / 0.815), above


def channel_difference_db(channels: Samples) -> float:
    """What is left of a channel when the one most like it, at the best gain, is taken away, in dB of itself."""
    centred = channels.astype(np.float64) - channels.mean(axis=1, dtype=np.float64, keepdims=True)
    energies = (centred**2).sum(axis=1)
    smallest = math.inf
    for one in range(len(centred)):
        for other in range(len(centred)):
            if one != other and energies[one] > 0 and energies[other] > 0:
                gain = centred[one] @ centred[other] / energies[other]
                rest = ((centred[one] - gain * centred[other]) ** 2).sum()
                smallest = min(smallest, float(rest / energies[one]))
    return 0.0 if math.isinf(smallest) else _decibels(math.sqrt(smallest))


def _median_spectrum_db(waveform: Samples, frame: int) -> npt.NDArray[np.float64] | None:
    """Power of white noise that would give this level, in each bin; smoothed by a median over bins."""
    frames = waveform[: waveform.size // frame * frame].reshape(-1, frame)
    sounding = frames[frames.std(axis=1) > 0]
    if not len(sounding):
        return None
    window = np.hanning(frame + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft((sounding - sounding.mean(axis=1, keepdims=True)) * window, axis=1)) ** 2
    # The power of a bin of noise is exponentially distributed: its median is ln 2 of its mean.
    white = np.median(power, axis=0) / math.log(2) / float((window.astype(np.float64) ** 2).sum())
    padded = np.pad(white, _SMOOTHED_BINS // 2, mode="edge")
    smoothed = np.median(np.lib.stride_tricks.sliding_window_view(padded, _SMOOTHED_BINS), axis=1)
    return np.asarray(10 * np.log10(np.maximum(smoothed, 1e-20)))


def _frame(waveform: Samples) -> int | None:
    """Samples of a frame of the spectrum; None when the waveform is too short for one."""
    longest = 1 << (waveform.size.bit_length() - 1) if waveform.size else 0
    return min(_FRAME, longest) if longest >= _MIN_FRAME else None


def _rounding_db(waveform: Samples) -> float:
    """Level of the noise that rounding to the waveform's own steps makes."""
    return 10 * math.log10(_step(waveform) ** 2 / 12)


def _step(waveform: Samples) -> float:
    """The smallest step between two values of 16-bit samples; else that of 24 bit."""
    scaled = waveform * np.float32(32768)
    whole = np.rint(scaled)
    if not np.array_equal(scaled, whole) or np.abs(whole).max() > 32768:  # floats may be beyond full scale
        return 2.0**-23
    values = np.flatnonzero(np.bincount(whole.astype(np.int64) + 32768))
    return float(np.diff(values).min()) / 32768 if len(values) > 1 else 1 / 32768


def _runs(is_in: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First index and end of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], is_in.astype(np.int8), [0]))))
    return edges[::2], edges[1::2]


def _decibels(amplitude: float) -> float:
    return max(LOWEST_DBFS, 20 * math.log10(amplitude)) if amplitude > 0 else LOWEST_DBFS

"""Quality of a recording: defects of the signal, and sounds beside the lungs.

Every measure is a plain function of a waveform (samples,) whose full scale is 1. The thresholds were set on ICBHI (289
recordings) and SPRSound (2,683), those of sounds beside the lungs also on sounds injected into them (docs/results.md).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungsound.audio.filter_bank import BLOCK_FRAMES
from lungsound.audio.io import Samples, resample

Values = npt.NDArray[np.float64]

LOWEST_DBFS = -200.0  # of nothing but zeros

# Flat tops: runs of samples at exactly the recording's own extreme. In SPRSound no recording has one run of three;
# in ICBHI 75 have two or more, up to 19 % of their samples, all at full scale.
MIN_FLAT_SAMPLES = 3
MIN_FLAT_RUNS = 2
MIN_CLIP_LEVEL = 0.01  # a signal of few steps repeats its extreme without being clipped
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
FRAME, MIN_FRAME = 2048, 256
AT_ONCE = 2**20  # samples; a multiple of each frame
SMOOTHED_BINS = 9

# Sounds beside the lungs are measured at 4 kHz, in the middle two minutes of a longer recording.
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
# A tone: in half a second four fifths of the frames are voiced, within 3 % of one pitch. A voice that talks glides; a
# rhonchus, which has many harmonics too, does not.
STEADY_FRAMES, STEADY_PITCH, STEADY_SHARE = 31, 0.03, 0.8
# Beyond both are 1 in 100 recordings of ICBHI and none of SPRSound.
MIN_BEAT, MIN_HEART_DB = 0.45, 20.0
HEART_BAND_HZ, BREATH_BAND_HZ = (20.0, 150.0), (150.0, 800.0)
HEART_FRAME, HEART_HOP = 160, 80
BEAT_S = (0.33, 1.3)
TREND_S = 1.5
MAX_FALL_DB = 20.0  # below the median the level of a pause says nothing


@dataclass(frozen=True)
class Band:
    """End of a recording's spectrum; `is_steep` when it ends at a wall, as a filter of software makes it."""

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
    """One defect of a recording: its kind, one of a few fixed phrases, and the measurement."""

    kind: str
    detail: str


def measure_quality(channels: Samples, sample_rate_hz: int) -> Quality:
    """The measures of a recording (channel, samples) at the rate that its header says."""
    mono = mono_of(channels)
    silences = silent_stretches(mono, sample_rate_hz)
    lengths = [end - start for start, end in silences]
    level_db, floor_db = median_spectrum_db(mono), rounding_db(mono)
    return Quality(
        sample_rate_hz=sample_rate_hz,
        num_channels=len(channels),
        duration_s=mono.size / sample_rate_hz,
        rms_dbfs=rms_dbfs(mono),
        peak_dbfs=_decibels(float(np.abs(mono).max())),
        dc_offset=float(mono.mean(dtype=np.float64)),
        clipped_share=max(clipped_share(channel) for channel in channels),
        silent_share=sum(lengths) / mono.size,
        longest_silence_s=max(lengths, default=0) / sample_rate_hz,
        num_dropouts=sum(start > 0 and end < mono.size for start, end in silences),
        band=None if level_db is None else occupied_band(level_db, floor_db, sample_rate_hz),
        upsampled_from_hz=None if level_db is None else upsampled_from_hz(level_db, floor_db, sample_rate_hz),
        num_dead_channels=sum(rms_dbfs(channel) < MIN_RMS_DBFS for channel in channels),
        channel_difference_db=channel_difference_db(channels) if len(channels) > 1 else None,
    )


def mono_of(channels: Samples) -> Samples:
    """The mean of the channels; of a single one no copy is made."""
    mono: Samples = channels[0] if len(channels) == 1 else channels.mean(axis=0, dtype=np.float32)
    return mono


def find_defects(quality: Quality) -> tuple[Defect, ...]:
    """Defects of the signal: measures beyond their thresholds, whatever other recordings of the corpus are like."""
    defects = []
    is_quiet, num_dead, num_channels = quality.rms_dbfs < MIN_RMS_DBFS, quality.num_dead_channels, quality.num_channels
    if is_quiet and num_dead == 0 and num_channels > 1:
        defects.append(Defect("channels cancel", "each holds sound; their mean, which the model gets, does not"))
    elif is_quiet and num_dead in (0, num_channels):
        defects.append(Defect("silent", f"{quality.rms_dbfs:.0f} dBFS"))
    elif num_dead:
        defects.append(Defect("dead channel", f"{num_dead} of {num_channels} channels hold no sound"))
    if quality.clipped_share >= MAX_CLIPPED_SHARE:
        defects.append(Defect("clipped", f"{100 * quality.clipped_share:.2f} % of the samples are flat tops"))
    if quality.peak_dbfs > MAX_PEAK_DBFS:
        defects.append(Defect("beyond full scale", f"{quality.peak_dbfs:+.0f} dBFS: written with another scale"))
    if quality.longest_silence_s >= MAX_SILENCE_S:
        share = f"{100 * quality.silent_share:.0f} % of the recording"
        defects.append(Defect("digital silence", f"{share}, {quality.longest_silence_s:.1f} s in one stretch"))
    elif quality.num_dropouts:
        longest = f"up to {1000 * quality.longest_silence_s:.0f} ms"
        defects.append(Defect("dropouts", f"{quality.num_dropouts} stretches of equal samples, {longest}"))
    if abs(quality.dc_offset) >= MAX_DC_OFFSET:
        defects.append(Defect("DC offset", f"{quality.dc_offset:+.3f} of full scale"))
    difference_db = quality.channel_difference_db
    if difference_db is not None and difference_db <= MAX_CHANNEL_DIFFERENCE_DB:
        defects.append(Defect("duplicate channel", f"two channels differ by {difference_db:.0f} dB"))
    if quality.upsampled_from_hz is not None:
        detail = f"as if recorded at {quality.upsampled_from_hz} Hz, its header says {quality.sample_rate_hz} Hz"
        defects.append(Defect("upsampled", detail))
    elif quality.band is not None and quality.band.limit_hz < MIN_BAND_HZ and not is_quiet:
        detail = f"nothing above {quality.band.limit_hz:.0f} Hz: fine crackles lie about {MIN_BAND_HZ:.0f} Hz"
        defects.append(Defect("band-limited", detail))
    return tuple(defects)


def find_too_little_sound(quality: Quality) -> tuple[Defect, ...]:
    """Defects that withhold the prediction for a whole recording: silence in most of it, or less than a breath."""
    sound_s = (1 - quality.silent_share) * quality.duration_s
    defects = []
    if quality.silent_share > MAX_SILENT_SHARE:
        defects.append(Defect(MOSTLY_SILENT, f"{100 * quality.silent_share:.0f} % of the recording"))
    if sound_s < MIN_SOUND_S:
        defects.append(Defect(TOO_SHORT, f"{sound_s:.1f} s of sound: a breath takes {MIN_SOUND_S:g} s at least"))
    return tuple(defects)


def rms_dbfs(waveform: Samples) -> float:
    """Root mean square about the mean, in dB of full scale: -3.01 for a full sine; at least `LOWEST_DBFS`."""
    mean, starts = float(waveform.mean(dtype=np.float64)), range(0, waveform.size, AT_ONCE)
    squares = sum(float(((waveform[at : at + AT_ONCE] - np.float64(mean)) ** 2).sum()) for at in starts)
    return _decibels(math.sqrt(squares / waveform.size))


def clipped_share(waveform: Samples) -> float:
    """Share of the samples in flat tops: two runs or more, each of 3 or more, at exactly the largest or least value."""
    num_clipped = 0
    for extreme in (waveform.max(), waveform.min()):
        starts, ends = _runs(waveform == extreme)
        lengths = (ends - starts)[ends - starts >= MIN_FLAT_SAMPLES]
        if abs(extreme) >= MIN_CLIP_LEVEL and len(lengths) >= MIN_FLAT_RUNS:
            num_clipped += int(lengths.sum())
    return num_clipped / waveform.size


def silent_stretches(waveform: Samples, sample_rate_hz: int) -> list[tuple[int, int]]:
    """First sample and end of each stretch of equal samples of `MIN_SILENCE_S` or more; flat tops are none."""
    starts, ends = _runs(waveform[1:] == waveform[:-1])
    ends = ends + 1  # n equal steps are n + 1 equal samples
    is_long = ends - starts >= MIN_SILENCE_S * sample_rate_hz
    is_varied = waveform.max() > waveform.min()
    flat_tops = [value for value in (waveform.max(), waveform.min()) if is_varied and abs(value) >= MIN_CLIP_LEVEL]
    stretches = zip(starts[is_long].tolist(), ends[is_long].tolist(), strict=True)
    return [(start, end) for start, end in stretches if waveform[start] not in flat_tops]


def occupied_band(level_db: Values, floor_db: float, sample_rate_hz: int) -> Band:
    """End of the spectrum (bin,): the last frequency above the rounding noise of the samples, or a wall before it.

    Both as `median_spectrum_db` and `rounding_db` give them. A wall is a fall by `STEEP_DB` within 12 % of a
    frequency to a level that nothing above it exceeds, and which is at most `MAX_ABOVE_ROUNDING_DB` above rounding:
    sound that falls into a microphone's noise goes on in that noise.
    """
    num_bins = len(level_db)
    above = np.flatnonzero(level_db > floor_db + FLOOR_MARGIN_DB)
    end = int(above[-1]) + 1 if above.size else 0
    highest_above = np.maximum.accumulate(level_db[::-1])[::-1]
    bins = np.arange(num_bins)
    bins = bins[(1 + STEEP_WIDTH) * bins <= num_bins - 1]
    before = level_db[((1 - STEEP_WIDTH) * bins).astype(np.int64)]
    after = highest_above[np.ceil((1 + STEEP_WIDTH) * bins).astype(np.int64)]
    # No wall within the first bins, where 12 % of a frequency is less than what the smoothing spans.
    is_wide = bins * STEEP_WIDTH >= SMOOTHED_BINS / 2
    is_into_rounding = after <= max(floor_db, ROUNDING_16_BIT_DB) + MAX_ABOVE_ROUNDING_DB
    fall = np.where(is_wide & is_into_rounding, before - np.maximum(after, floor_db), 0.0)
    wall = int(fall.argmax())
    is_steep = bool(fall[wall] >= STEEP_DB)
    limit = min(end, wall) if is_steep else end
    return Band(limit_hz=min(limit, num_bins - 1) * sample_rate_hz / 2 / (num_bins - 1), is_steep=is_steep)


def upsampled_from_hz(level_db: Values, floor_db: float, sample_rate_hz: int) -> int | None:
    """The standard rate, at most 5/6 of the header's, at which the content seems to have been recorded; None: no sign.

    Of a spectrum (bin,) and the level of rounding, as in `occupied_band`.

    The sign is an edge at half the old rate: the level falls by `MIN_EDGE_DB` more than the slope before it promises,
    down to `MAX_ABOVE_ROUNDING_DB` above rounding or less, or by `CLEAR_EDGE_DB`. No recording of ICBHI and SPRSound
    has it; of 15 that were planted by each of three resamplers in each device of ICBHI at 16 kHz, 8 to 15 are found;
    in Litt3200 and SPRSound, whose sound ends before half the old rate, none.
    """
    floor_db = max(floor_db, ROUNDING_16_BIT_DB)
    level_db = np.maximum(level_db, floor_db)
    edges_db: dict[int, float] = {}
    for rate_hz in STANDARD_RATES_HZ:
        if 1.2 * rate_hz <= sample_rate_hz:
            # The fall beyond the slope before the place of the edge, and the level after it.
            places = np.arange(len(level_db)) / (len(level_db) - 1) / (rate_hz / sample_rate_hz)
            far_db, near_db, above_db = (
                float(np.median(level_db[(places >= low) & (places <= high)]))
                for low, high in ((0.55, 0.7), (0.75, 0.88), (1.15, 1.35))
            )
            slope_db_per_octave = max(0.0, (far_db - near_db) / math.log2(0.815 / 0.625))
            edge_db = near_db - above_db - slope_db_per_octave * math.log2(1.25 / 0.815)
            if above_db <= floor_db + MAX_ABOVE_ROUNDING_DB or edge_db >= CLEAR_EDGE_DB:
                edges_db[rate_hz] = edge_db
    highest_db = max(edges_db.values(), default=-math.inf)
    # 10000 and 11025 Hz have nearly the same edge: the lower one holds the content too.
    rates_hz = [rate_hz for rate_hz, edge_db in edges_db.items() if edge_db >= max(MIN_EDGE_DB, highest_db - 6)]
    return min(rates_hz, default=None)


def channel_difference_db(channels: Samples) -> float:
    """Rest of a channel when the one most like it, at the best gain, is taken away, in dB of itself."""
    means, products = channels.mean(axis=1, dtype=np.float64, keepdims=True), np.zeros((len(channels), len(channels)))
    for first in range(0, channels.shape[1], AT_ONCE):
        centred = channels[:, first : first + AT_ONCE] - means
        products += centred @ centred.T
    is_sounding = products.diagonal() > 0
    if is_sounding.sum() < 2:
        return 0.0
    products = products[np.ix_(is_sounding, is_sounding)]
    norms = np.sqrt(products.diagonal())
    cosines = products / np.outer(norms, norms)
    np.fill_diagonal(cosines, 0.0)
    return _decibels(math.sqrt(max(0.0, 1 - float(np.abs(cosines).max()) ** 2)))


def median_spectrum_db(waveform: Samples) -> Values | None:
    """Power of white noise that would give this level, in each bin; smoothed by a median over bins.

    The median over frames of 2048 samples, a power of two down to 256 in short recordings; None below that and in
    silence.
    """
    frame = min(FRAME, 1 << max(0, waveform.size.bit_length() - 1))
    if frame < MIN_FRAME:
        return None
    window, parts = np.hanning(frame + 1)[:-1].astype(np.float32), []
    for first in range(0, waveform.size // frame * frame, AT_ONCE):  # long recordings would take gigabytes at once
        part = waveform[first : first + AT_ONCE]
        frames = part[: part.size // frame * frame].reshape(-1, frame)
        sounding = frames[frames.std(axis=1) > 0]
        spectrum = np.fft.rfft((sounding - sounding.mean(axis=1, keepdims=True)) * window, axis=1)
        parts.append(np.square(spectrum.real) + np.square(spectrum.imag))
    power = np.concatenate(parts)
    if not len(power):
        return None
    # The power of a bin of noise is exponentially distributed: its median is ln 2 of its mean.
    median = np.median(power, axis=0, overwrite_input=True)
    white = median / math.log(2) / float((window.astype(np.float64) ** 2).sum())
    padded = np.pad(white, SMOOTHED_BINS // 2, mode="edge")
    smoothed = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED_BINS), axis=1)
    return np.asarray(10 * np.log10(np.maximum(smoothed, 1e-20)))


def rounding_db(waveform: Samples) -> float:
    """Level of the noise that rounding to the smallest step of 16-bit samples makes; to 24 bit for any others."""
    is_there, step = np.zeros(2**16 + 1, np.bool_), 2.0**-23
    for first in range(0, waveform.size, AT_ONCE):
        scaled = waveform[first : first + AT_ONCE] * np.float32(32768)
        rounded = np.rint(scaled)
        if not np.array_equal(scaled, rounded) or np.abs(rounded).max() > 32768:  # floats may be beyond full scale
            break
        is_there[rounded.astype(np.int32) + 32768] = True
    else:
        values = np.flatnonzero(is_there)
        step = float(np.diff(values).min()) / 32768 if len(values) > 1 else 1 / 32768
    return 10 * math.log10(step**2 / 12)


def _runs(is_in: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First index and end of each run of true values."""
    padded = np.pad(is_in, 1)
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return edges[::2], edges[1::2]


def _decibels(amplitude: float) -> float:
    return max(LOWEST_DBFS, 20 * math.log10(amplitude)) if amplitude > 0 else LOWEST_DBFS


@dataclass(frozen=True)
class OtherSounds:
    """Measures of one recording; zeros where it is too short to be measured.

    `hum_db`: the second strongest of the mains' lines above what lies beside it. `spoken_share`: of the frames.
    `beat`: the autocorrelation of the level below 150 Hz at the best heart rate, 46 to 182 a minute, up to 1;
    `heart_db`: how far that level lies above the one from 150 to 800 Hz.
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
    sound = resample(part, sample_rate_hz, RATE_HZ)
    sound = sound - sound.mean(dtype=np.float64).astype(np.float32)
    level_db = line_spectrum_db(sound)
    lines = [(line_db(level_db, mains_hz), mains_hz) for mains_hz in MAINS_HZ] if level_db is not None else []
    hum_db, mains_hz = max(lines, default=(0.0, max(MAINS_HZ)))
    return OtherSounds(hum_db, mains_hz, spoken_share(sound), *heart_beat(sound))


def find_other_sounds(sounds: OtherSounds) -> tuple[Defect, ...]:
    """Sounds beside the lungs that are beyond their thresholds."""
    defects = []
    if sounds.hum_db >= MIN_HUM_DB:
        defects.append(Defect(HUM, f"lines of {sounds.mains_hz} Hz, {sounds.hum_db:.0f} dB above their neighbours"))
    if sounds.spoken_share >= MIN_SPOKEN_SHARE:
        share = f"{100 * sounds.spoken_share:.0f} %"
        defects.append(Defect(SPEECH, f"{share} of the recording is voiced, at a pitch that glides"))
    if sounds.beat >= MIN_BEAT and sounds.heart_db >= MIN_HEART_DB:
        defects.append(Defect(HEART, f"a beat {sounds.heart_db:.0f} dB above the breath"))
    return tuple(defects)


def line_spectrum_db(sound: Samples) -> Samples | None:
    """Level (bin,) of a waveform (samples,) at `RATE_HZ`, by the median over frames of two seconds.

    So a tone now and then is no line. None for less than a second.
    """
    frame = HUM_FRAME if sound.size >= 3 * HUM_FRAME else HUM_FRAME // 2
    if sound.size < frame:
        return None
    power = np.median(_power(sound, frame, frame // 2, frame), axis=0)
    return np.asarray(10 * np.log10(np.maximum(power, 1e-20)))


def line_db(level_db: Samples, mains_hz: float) -> float:
    """Level of the second strongest of a frequency's first eight multiples above the spectrum beside it, in dB.

    Of the `line_spectrum_db`. Two lines, since one may be anything.
    """
    frequency_hz = np.fft.rfftfreq(2 * (len(level_db) - 1), 1 / RATE_HZ)
    lines_db = []
    for line_hz in mains_hz * np.arange(1, NUM_LINES + 1):
        away_hz = np.abs(frequency_hz - line_hz)
        is_beside = (away_hz > BESIDE_HZ[0]) & (away_hz < BESIDE_HZ[1])
        on_line = level_db[away_hz <= LINE_WIDTH_HZ + line_hz / 1000]
        lines_db.append(float(on_line.max() - np.median(level_db[is_beside])))
    return sorted(lines_db)[-2]


def spoken_share(sound: Samples) -> float:
    """Share of voiced frames in a waveform (samples,) at `RATE_HZ`, but for those of a tone that keeps its pitch."""
    strength, pitch_hz = voicing(sound)
    is_voiced = strength >= MIN_VOICING
    if len(is_voiced) < STEADY_FRAMES:
        return 0.0  # too short to differ from a tone
    windows = np.lib.stride_tricks.sliding_window_view(np.log(pitch_hz), STEADY_FRAMES)
    is_near = np.abs(windows - np.median(windows, axis=1, keepdims=True)) < STEADY_PITCH
    are_voiced = np.lib.stride_tricks.sliding_window_view(is_voiced, STEADY_FRAMES)
    is_steady = (is_near & are_voiced).mean(axis=1) >= STEADY_SHARE
    is_in_steady = np.convolve(is_steady, np.ones(STEADY_FRAMES)) > 0
    return float((is_voiced & ~is_in_steady).mean())


def voicing(sound: Samples) -> tuple[Samples, Samples]:
    """Share of the spectrum that one pitch explains, up to about 1, and that pitch in Hz, (frame,) each.

    Of a waveform (samples,) at `RATE_HZ`. The spectrum is flattened first, so that a wheeze, which is one line or a
    few, counts by so few bins (the idea of the cepstrum: Noll, JASA 41 (1967) 293).
    """
    size, half = 2 * VOICE_FRAME, FLATTENED_BINS // 2
    frequency_hz = np.fft.rfftfreq(size, 1 / RATE_HZ)
    is_inside = (frequency_hz >= VOICE_BAND_HZ[0]) & (frequency_hz <= VOICE_BAND_HZ[1])
    level = np.sqrt(np.sqrt(_power(sound, VOICE_FRAME, VOICE_HOP, size)[:, is_inside]))
    # Of each bin the ripple about the mean of its neighbours, as far as they are in the band.
    sums = np.cumsum(np.pad(level, ((0, 0), (half + 1, half))), axis=1, dtype=np.float64)
    counts = np.cumsum(np.pad(np.ones(level.shape[1]), (half + 1, half)))
    num_summed = counts[FLATTENED_BINS:] - counts[:-FLATTENED_BINS]
    means = (sums[:, FLATTENED_BINS:] - sums[:, :-FLATTENED_BINS]) / num_summed
    ripple = np.where(level > 0, np.minimum(level / np.maximum(means, 1e-12) - 1, MAX_RIPPLE), 0).astype(np.float32)
    # The product with a cosine over frequency, over that of a cosine with itself; lags in samples at `RATE_HZ`.
    lags = np.arange(int(RATE_HZ / PITCH_HZ[1]) - 1, int(RATE_HZ / PITCH_HZ[0]) + 2)
    cosines = np.cos(2 * np.pi * np.outer(frequency_hz[is_inside], lags) / RATE_HZ).astype(np.float32)
    periodic = ripple @ cosines
    place = 1 + periodic[:, 1:-1].argmax(axis=1)
    before, peak, after = (np.take_along_axis(periodic, (place + step)[:, np.newaxis], 1)[:, 0] for step in (-1, 0, 1))
    bend = before - 2 * peak + after
    is_peak = (bend < 0) & (peak >= np.maximum(before, after))
    finer = np.where(is_peak, 0.5 * (before - after) / np.where(is_peak, bend, 1), 0)
    strength = np.sqrt((ripple**2).sum(axis=1) * is_inside.sum() / 2)
    return np.asarray(peak / np.maximum(strength, 1e-12)), RATE_HZ / (lags[place] + finer)


def heart_beat(sound: Samples) -> tuple[float, float]:
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
    similarities = [
        float(swing[lag:] @ swing[:-lag]) / energy * len(swing) / (len(swing) - lag)
        for lag in range(int(BEAT_S[0] * frames_per_s), num_lags)
    ]
    return max(similarities), float(10 * np.log10(low.mean() / middle.mean()))


def _power(sound: Samples, frame: int, hop: int, size: int) -> Samples:
    """Power spectra (frame, bin) under Hann windows, with transforms of `size`; none when it is too short for one."""
    if sound.size < frame:
        return np.zeros((0, size // 2 + 1), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(sound, frame)[::hop]
    window, power = np.hanning(frame).astype(np.float32), np.empty((len(frames), size // 2 + 1), np.float32)
    for first in range(0, len(frames), BLOCK_FRAMES):
        block = slice(first, first + BLOCK_FRAMES)
        spectrum = np.fft.rfft(frames[block] * window, size, axis=1)
        power[block] = np.square(spectrum.real) + np.square(spectrum.imag)
    return power

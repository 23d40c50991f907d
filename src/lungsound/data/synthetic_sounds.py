"""The sounds of a synthetic chest recording: breath noise, crackles, wheezes, heart, rustle, and the stethoscope.

Every generator returns a float64 waveform `(samples,)`, mono, at the sample rate that it is given. Typical
widths and frequencies follow
- Bohadana, Izbicki and Kraman, "Fundamentals of lung auscultation", N Engl J Med 370 (2014) 744, table of sounds:
  vesicular sound 100-1000 Hz falling from about 200 Hz, tracheal sound dropping above about 800 Hz, fine crackle
  about 650 Hz and 5 ms, coarse crackle about 350 Hz and 15 ms, wheeze a tone from 100 Hz, rhonchus about 150 Hz;
- Piirila and Sovijarvi, "Crackles: recording, analysis and clinical significance", Eur Respir J 8 (1995) 2139:
  initial deflection width (IDW) and two-cycle duration (2CD), 0.7 and 5 ms on average for fine crackles, 1.5 and
  10 ms for coarse ones; European guidelines put the border at a 2CD of 10 ms.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Waveform = NDArray[np.float64]
Curve = tuple[tuple[float, float], ...]
"""Points (frequency in Hz, level in dB), joined by straight lines over the logarithm of the frequency."""

VESICULAR: Curve = ((30, -14), (80, -1), (120, 0), (200, -3), (400, -13), (800, -27), (1600, -45), (3200, -65))
TRACHEAL: Curve = ((30, -14), (80, -3), (120, 0), (400, -8), (800, -15), (1600, -35), (3200, -55))
ROOM: Curve = ((10, -6), (25, 0), (60, -8), (150, -22), (400, -32), (1000, -40), (4000, -50))
RUSTLE: Curve = ((20, -12), (80, 0), (300, -4), (900, -14), (2500, -36))


class CrackleKind(NamedTuple):
    """Ranges from which the crackles of one kind are drawn."""

    name: str
    idw_s: tuple[float, float]
    two_cycle_s: tuple[float, float]


FINE = CrackleKind("fine crackle", idw_s=(0.0005, 0.0008), two_cycle_s=(0.0040, 0.0056))
COARSE = CrackleKind("coarse crackle", idw_s=(0.0012, 0.0018), two_cycle_s=(0.0102, 0.0135))


@dataclass(frozen=True)
class Stethoscope:
    """A recording device: its rates and a pass band with one resonance, in analogue sections of 2nd order.

    The chest is simulated at `chest_rate_hz`, which holds all that it sends out, and recorded at one of
    `oversamplings` times that rate: above half the chest's rate there is the device's own noise alone.
    """

    name: str
    chest_rate_hz: int
    oversamplings: tuple[int, ...]
    modes: tuple[str, ...]
    high_pass_hz: float
    low_pass_hz: float
    resonance_hz: float
    resonance_db: float
    noise_floor: float

    def response(self, frequency_hz: Waveform) -> NDArray[np.complex128]:
        """Complex gain at each frequency: Butterworth high-pass and low-pass, and a resonance of quality 1.5."""
        high, low, peak = (
            1j * frequency_hz / corner for corner in (self.high_pass_hz, self.low_pass_hz, self.resonance_hz)
        )
        gain, root2 = 10 ** (self.resonance_db / 20), np.sqrt(2.0)
        response: NDArray[np.complex128] = high**2 / (high**2 + root2 * high + 1) / (low**2 + root2 * low + 1)
        response *= peak**2 + peak * gain / 1.5 + 1
        response /= peak**2 + peak / 1.5 + 1
        return response

    def record(self, sound: Waveform, rng: Generator, *, oversampling: int) -> Waveform:
        """Recording of a sound at the chest's rate: the device's response, a higher rate, its own white noise."""
        length = _fast_length(len(sound) + self.chest_rate_hz // 10)
        frequency_hz = np.fft.rfftfreq(length, 1 / self.chest_rate_hz).astype(np.float64)
        spectrum = np.multiply(np.fft.rfft(sound, length), self.response(frequency_hz))
        recorded: Waveform = np.fft.irfft(spectrum, oversampling * length)[: oversampling * len(sound)]
        recorded *= oversampling
        return recorded + self.noise_floor * rng.standard_normal(len(recorded))


STETHOSCOPES = (
    Stethoscope("AKGC417L", 10_000, (1,), ("mc",), 20, 4000, 600, 3, 0.004),
    Stethoscope("Meditron", 11_025, (1, 1, 4), ("sc",), 20, 3000, 150, 4, 0.003),
    Stethoscope("LittC2SE", 8_000, (1, 2), ("mc",), 40, 3000, 200, 5, 0.003),
    Stethoscope("Litt3200", 4_000, (1,), ("sc",), 30, 1500, 400, 4, 0.001),
)


def _fast_length(num_samples: int) -> int:
    """The next length of the form k * 2^n with k in 5..8: quick to transform."""
    step = 1 << max((num_samples - 1).bit_length() - 3, 0)
    return -(-num_samples // step) * step


def crackle(sample_rate_hz: int, *, idw_s: float, two_cycle_s: float) -> Waveform:
    """One crackle `(samples,)` of peak 1, starting with its upward deflection.

    Two cycles of a sine over a warped time axis x^p, x from 0 to 1, with p such that the first zero crossing
    is at `idw_s` and the fourth at `two_cycle_s`, under a raised-cosine envelope over the square root of x
    (strongest at a quarter of the length, dying away slowly).
    """
    x = np.arange(int(np.ceil(two_cycle_s * sample_rate_hz))) / (two_cycle_s * sample_rate_hz)
    power = np.log(0.25) / np.log(idw_s / two_cycle_s)
    wave: Waveform = np.sin(4 * np.pi * x**power) * (1 - np.cos(2 * np.pi * np.sqrt(x)))
    wave /= np.abs(wave).max()
    return wave


def wheeze(
    sample_rate_hz: int,
    *,
    frequency_hz: float,
    duration_s: float,
    glide: float = 0.0,
    harmonics: tuple[float, ...] = (),
) -> Waveform:
    """One wheeze `(samples,)` whose fundamental has amplitude 1.

    The fundamental runs from `frequency_hz * (1 - glide / 2)` to `frequency_hz * (1 + glide / 2)` along half a
    cosine; `harmonics` are the amplitudes of the 2nd, 3rd, ... partial, left out above 0.45 of the sample rate.
    The first and the last fifth fade in and out along half a cosine.
    """
    num_samples = round(duration_s * sample_rate_hz)
    x = (np.arange(num_samples) + 0.5) / num_samples
    phase = 2 * np.pi * frequency_hz * duration_s * (x - glide / 2 * np.sin(np.pi * x) / np.pi)
    wave: Waveform = np.sin(phase)
    for order, amplitude in enumerate(harmonics, start=2):
        if order * frequency_hz * (1 + abs(glide) / 2) < 0.45 * sample_rate_hz:
            wave += amplitude * np.sin(order * phase)
    wave *= 0.5 * (1 - np.cos(np.pi * np.clip(np.minimum(x, 1 - x) / 0.2, 0, 1)))
    return wave


def shaped_noise(num_samples: int, sample_rate_hz: int, curve: Curve, rng: Generator, *, tilt: float = 1.0) -> Waveform:
    """Gaussian noise `(samples,)` of RMS 1 with the spectrum of `curve`, its levels multiplied by `tilt`."""
    length = _fast_length(num_samples)
    frequency_hz = np.fft.rfftfreq(length, 1 / sample_rate_hz)
    corners_hz, levels_db = np.array(curve).T
    level_db = np.interp(np.log2(np.maximum(frequency_hz, 1)), np.log2(corners_hz), levels_db)
    spectrum = rng.standard_normal((2, len(frequency_hz))) * 10 ** (tilt * level_db / 20)
    noise: Waveform = np.fft.irfft(spectrum[0] + 1j * spectrum[1], length)[:num_samples]
    noise /= np.sqrt(np.mean(noise**2))
    return noise


def add(target: Waveform, sound: Waveform, start: int) -> None:
    """Add `sound` to `target` in place from sample `start`; what lies past the ends is left out."""
    first, last = max(start, 0), min(start + len(sound), len(target))
    if first < last:
        target[first:last] += sound[first - start : last - start]


def breath_envelope(num_samples: int, sample_rate_hz: int, phases: NDArray[np.float64], sharpness: float) -> Waveform:
    """Envelope `(samples,)`: one rise and fall between 0 and 1, sin^sharpness, for each row (start, end) in seconds."""
    envelope = np.zeros(num_samples)
    for start, end in np.rint(phases * sample_rate_hz).astype(int):
        hump = np.sin(np.pi * (np.arange(end - start) + 0.5) / (end - start)) ** sharpness
        add(envelope, hump, int(start))
    return envelope


def heart_sounds(num_samples: int, sample_rate_hz: int, rng: Generator, *, beats_per_minute: float) -> Waveform:
    """First and second heart sounds `(samples,)` of amplitude about 1: thumps at 30-80 Hz, the second shorter."""
    wave = np.zeros(num_samples)
    period_s = 60 / beats_per_minute
    s1_hz, s2_hz = rng.uniform(32, 55), rng.uniform(50, 80)
    beat_s = rng.uniform(-period_s, 0)
    while beat_s * sample_rate_hz < num_samples:
        for delay_s, frequency_hz, width_s, level in ((0.0, s1_hz, 0.032, 1.0), (0.36 * period_s, s2_hz, 0.022, 0.8)):
            time_s = np.arange(int(6 * width_s * sample_rate_hz)) / sample_rate_hz - 3 * width_s
            thump = np.cos(2 * np.pi * frequency_hz * time_s) * np.exp(-0.5 * (time_s / width_s) ** 2)
            start = int((beat_s + delay_s) * sample_rate_hz)
            add(wave, level * rng.uniform(0.8, 1.2) * thump, start)
        beat_s += period_s * rng.uniform(0.95, 1.05)
    return wave


def rustle(sample_rate_hz: int, rng: Generator, *, duration_s: float) -> Waveform:
    """Skin and tube noise `(samples,)` of RMS about 0.5: a swell of broad noise, slower than any crackle."""
    num_samples = round(duration_s * sample_rate_hz)
    swell = np.sin(np.pi * (np.arange(num_samples) + 0.5) / num_samples) ** 2
    return swell * shaped_noise(num_samples, sample_rate_hz, RUSTLE, rng)

"""The audio layer against numbers from the published program: first from the project's own cut, then the whole set.

The tests that take `shared_dir` need the full golden folder; the others run anywhere.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungsound.audio.augment import SpecAugmentDraw, apply_specaugment
from lungsound.audio.filter_bank import (
    AUDIOSET_MEAN,
    AUDIOSET_STATISTICS,
    AUDIOSET_STD,
    EfficientATLogMel,
    LogMel,
    mel_banks,
    normalize,
)
from lungsound.audio.io import Padding, Samples, cut, fade, fit, read_waveform, resample, resample_kernel
from tests.golden.exact import exact_log_mel
from tests.golden.formulas import spec, uni, wave

DATA = Path(__file__).parent / "data"
NUM_SAMPLES = 128000
FADE_SAMPLES = 1000
FBANK_WAVES = ["breath8s", "noise8s", "chirp8s", "silence8s", "impulses8s", "dc8s", "short_0p5s"]
SHORT_WAVES = {"len400": 400, "len559": 559, "len560": 560}
# What the published weights, made in float32 and up to 2e-5 from exact, change in a normalised filter bank: 1e-4 in a
# mel on whose edge a loud tone lies. An error of 1 % changes 1.1e-3.
OF_PUBLISHED_WEIGHTS = 2e-4
RECORDINGS = ["105_1b1_Tc_sc_Meditron", "108_1b1_Al_sc_Meditron", "112_1p1_Ll_sc_Litt3200"]

Arrays = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    with np.load(DATA / "audio_reference.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return json.loads((DATA / "audio_reference.json").read_text())


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel()


def load(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


def full_scale(int16: NDArray[np.int16]) -> Samples:
    return int16.astype(np.float32) / np.float32(32768)


def input_wave(name: str) -> Samples:
    """The waveform behind a golden filter bank, from its formula."""
    t = np.arange(NUM_SAMPLES) / 16000
    if name == "silence8s":
        values = np.zeros(NUM_SAMPLES)
    elif name == "dc8s":
        values = np.full(NUM_SAMPLES, 3000.0)
    elif name == "impulses8s":
        values = np.where(np.arange(NUM_SAMPLES) % 1600 == 0, 20000.0, 0.0)
    elif name == "noise8s":
        values = np.round(32767 * uni(name, (NUM_SAMPLES,), std=0.2, dtype=np.float64))
    elif name == "chirp8s":
        values = np.round(32767 * 0.6 * np.sin(2 * np.pi * (50 * t + 490 * t * t)))
    else:
        values = wave(name, SHORT_WAVES.get(name, 8000 if name == "short_0p5s" else NUM_SAMPLES))
    return full_scale(values.astype(np.int16))


def normalized(log_mel: LogMel, waveform: Samples) -> NDArray[np.float32]:
    return normalize(log_mel(waveform[np.newaxis])[0], mean=AUDIOSET_MEAN, std=AUDIOSET_STD)


def max_difference(ours: Tensor | NDArray[Any], published: NDArray[Any]) -> float:
    assert tuple(ours.shape) == published.shape
    return float(np.abs(np.asarray(ours, dtype=np.float64) - published).max())


def assert_exact_and_published(
    log_mel: LogMel, waveform: Samples, published: NDArray[Any], rows: Any = slice(None)
) -> None:
    """Our filter bank is the exact one but for float32 rounding, and the published one but for that of both."""
    exact, ours = exact_log_mel(waveform), log_mel(waveform[np.newaxis])[0]
    assert ours.shape == exact.log_mel.shape
    assert (exact.lowest <= ours).all()
    assert (ours <= exact.highest).all()
    difference = np.abs(normalized(log_mel, waveform)[rows] - published)
    assert (difference < OF_PUBLISHED_WEIGHTS + (exact.highest - exact.lowest)[rows] / (2 * AUDIOSET_STD)).all()


class TestFilterBank:
    def test_window_and_mel_banks(self, arrays: Arrays, log_mel: LogMel) -> None:
        banks = mel_banks(128, fft_size=512, sample_rate_hz=16000)
        assert max_difference(log_mel.window, arrays["window"]) < 2e-7
        assert max_difference(banks[:, :256], arrays["mel_banks"]) < 2e-5
        assert np.abs(banks[:, 256]).max() == 0
        assert (banks.sum(axis=1) == 0).nonzero()[0].tolist() == [3]

    @pytest.mark.parametrize("name", ["breath8s", "noise8s", "chirp8s", "impulses8s"])
    def test_some_rows(self, name: str, arrays: Arrays, log_mel: LogMel) -> None:
        rows = arrays["fbank_rows"]
        assert_exact_and_published(log_mel, input_wave(name), arrays[f"fbank_norm/{name}"], rows)

    @pytest.mark.parametrize("name", ["noise8s", "chirp8s"])
    @pytest.mark.parametrize("fault", ["periodic window", "one mel 1 % louder", "mels up to 7990 Hz"])
    def test_the_limits_tell_a_fault_from_rounding(self, name: str, fault: str, arrays: Arrays) -> None:
        wrong = LogMel(high_hz=7990.0) if fault == "mels up to 7990 Hz" else LogMel()
        if fault == "periodic window":
            wrong.window = torch.hann_window(400).numpy()
        elif fault == "one mel 1 % louder":
            wrong.paired_banks[:, 64] *= 1.01
        with pytest.raises(AssertionError):
            assert_exact_and_published(wrong, input_wave(name), arrays[f"fbank_norm/{name}"], arrays["fbank_rows"])

    @pytest.mark.parametrize("name", ["silence8s", "dc8s"])
    def test_every_row_of_a_constant_waveform_is_at_the_floor(self, name: str, arrays: Arrays, log_mel: LogMel) -> None:
        published = np.broadcast_to(arrays[f"fbank_norm/{name}"], (798, 128))
        assert max_difference(normalized(log_mel, input_wave(name)), published) < 1e-6

    @pytest.mark.parametrize("name", SHORT_WAVES)
    def test_short_waveforms(self, name: str, arrays: Arrays, log_mel: LogMel) -> None:
        assert_exact_and_published(log_mel, input_wave(name), arrays[f"fbank_norm/{name}"])

    @pytest.mark.parametrize("name", [*FBANK_WAVES, *SHORT_WAVES])
    def test_whole_set(self, name: str, shared_dir: Path, log_mel: LogMel) -> None:
        published = load(shared_dir / "golden" / "a_fbank.npz")
        waveform = full_scale(published[f"wave_i16/{name}"])
        assert np.array_equal(waveform, input_wave(name))
        assert_exact_and_published(log_mel, waveform, published[f"fbank_norm/{name}"])
        if f"fbank_raw/{name}" in published:
            assert max_difference(log_mel(waveform[np.newaxis])[0], published[f"fbank_raw/{name}"]) < 1e-2


class TestEfficientATFilterBank:
    """Every 25th frame of what EfficientAT's own module gives in evaluation, for 2 s at 32 kHz."""

    @pytest.mark.parametrize("name", ["breath", "noise", "chirp"])
    def test_some_rows(self, name: str) -> None:
        t = np.arange(64000) / 32000
        samples = {
            "breath": wave("breath2s", 64000, 32000),
            "noise": np.round(32767 * uni("noise2s", (64000,), std=0.2, dtype=np.float64)),
            "chirp": np.round(32767 * 0.6 * np.sin(2 * np.pi * (50 * t + 3700 * t * t))),
        }[name]
        mean, std = AUDIOSET_STATISTICS["efficientat"]
        fbank = EfficientATLogMel()(full_scale(samples.astype(np.int16))[np.newaxis])[0]
        assert fbank.shape == (200, 128)
        published = load(DATA / "efficientat_reference.npz")[name]
        assert max_difference(normalize(fbank[::25], mean=mean, std=std), published) < 1e-3

    def test_mel_banks(self) -> None:
        banks = mel_banks(128, fft_size=1024, sample_rate_hz=32000, low_hz=0.0, high_hz=15000.0)
        published = load(DATA / "efficientat_reference.npz")["mel_banks_sum"]
        assert max_difference(banks.sum(axis=1), published) < 1e-4
        assert np.abs(banks[:, 512]).max() == 0


class TestResample:
    @pytest.mark.parametrize(("from_hz", "num_phases", "num_taps"), [(4000, 4, 15), (10000, 8, 19)])
    def test_kernel(self, from_hz: int, num_phases: int, num_taps: int, arrays: Arrays) -> None:
        kernel = resample_kernel(from_hz, 16000)
        published = arrays[f"kernel/{from_hz}"]
        assert published.shape == (num_phases, 1, num_taps)
        taps = kernel.shape[-1]
        assert max_difference(kernel, published[:, 0, :taps]) < 1e-6
        assert np.abs(published[..., taps:]).max(initial=0) < 1e-6

    @pytest.mark.parametrize(
        "case", ["44100_1000", "44100_441", "44100_44101", "22050_22050", "4000_8001", "10000_19999", "48000_9600"]
    )
    def test_both_ends(self, case: str, arrays: Arrays) -> None:
        from_hz, num_samples = map(int, case.split("_"))
        ours = resample(full_scale(wave(f"rs{case}", num_samples, from_hz)), from_hz, 16000)
        assert len(ours) == -(-num_samples * 16000 // from_hz)
        head, tail = arrays[f"resample_head/{case}"], arrays[f"resample_tail/{case}"]
        assert max_difference(ours[: len(head)], head) < 1e-5
        assert max_difference(ours[-len(tail) :], tail) < 1e-5

    def test_whole_set(self, shared_dir: Path) -> None:
        published = load(shared_dir / "golden" / "b_resample_fade_cutpad.npz")
        cases = [key.removeprefix("out/") for key in published if key.startswith("out/")]
        assert len(cases) == 10
        for case in cases:
            ours = resample(full_scale(published[f"in_i16/{case}"]), int(case.split("_")[0]), 16000)
            assert max_difference(ours, published[f"out/{case}"]) < 1e-5, case

    def test_whole_kernel_at_44100_hz(self, shared_dir: Path) -> None:
        published = load(shared_dir / "golden" / "b_resample_fade_cutpad.npz")["kernel/44100"]
        kernel = resample_kernel(44100, 16000)
        assert published.shape == (160, 1, 475)
        assert max_difference(kernel, published[:, 0, : kernel.shape[-1]]) < 1e-5
        assert np.abs(published[..., kernel.shape[-1] :]).max() < 1e-5


class TestFadeCutFit:
    def test_fade_of_both_ends(self, arrays: Arrays) -> None:
        faded = fade(np.ones(3000, np.float32), num_samples=FADE_SAMPLES)
        assert max_difference(faded[:1000], arrays["fade_both_on_ones_3000"]) < 1e-7
        assert max_difference(faded[:1999:-1], arrays["fade_both_on_ones_3000"]) < 1e-7
        assert np.array_equal(faded[1000:2000], np.ones(1000))

    def test_cut_truncates(self, facts: dict[str, Any]) -> None:
        recording = np.arange(20 * 16000)
        for times, (first, length) in facts["cycle_first_len_16k_20s"].items():
            start_s, end_s = map(float, times.split("_"))
            part = cut(recording, start_s=start_s, end_s=end_s, sample_rate_hz=16000)
            assert (int(part[0]), len(part)) == (first, length), times

    @pytest.mark.parametrize("padding", ["repeat", "zero"])
    def test_fit(self, padding: Padding, facts: dict[str, Any]) -> None:
        cases = {key: value for key, value in facts["fit_ramp"].items() if key.startswith(padding)}
        assert len(cases) == 10
        for case, published in cases.items():
            length = int(case.split("_")[1])
            ramp = np.arange(1, length + 1, dtype=np.float32)
            ours = fit(ramp, NUM_SAMPLES, padding=padding, fade_samples=FADE_SAMPLES)
            assert len(ours) == published["len"]
            np.testing.assert_allclose(ours[:8], published["head8"], rtol=1e-6, err_msg=case)
            np.testing.assert_allclose(ours[-8:], published["tail8"], rtol=1e-4, err_msg=case)
            at = [int(index) for index in published["at"]]
            np.testing.assert_allclose(ours[at], list(published["at"].values()), rtol=1e-6, err_msg=case)
            if padding == "zero" or length > NUM_SAMPLES:  # no fade: no rounding
                assert sha256(ours.astype("<f4").tobytes()).hexdigest() == published["sha256_f32le"], case

    @pytest.mark.parametrize("padding", ["repeat", "zero"])
    @pytest.mark.parametrize("length", [7999, 100001])
    def test_fit_whole(self, padding: Padding, length: int, shared_dir: Path) -> None:
        published = load(shared_dir / "golden" / "b_resample_fade_cutpad.npz")[f"cutpad_{padding}/{length}"]
        ramp = np.arange(1, length + 1, dtype=np.float32)
        ours = fit(ramp, NUM_SAMPLES, padding=padding, fade_samples=FADE_SAMPLES)
        np.testing.assert_allclose(ours, published, rtol=1e-6, atol=6e-8 * length)  # the last digit of the fade

    def test_fades_whole(self, shared_dir: Path) -> None:
        published = load(shared_dir / "golden" / "b_resample_fade_cutpad.npz")
        both = fade(np.ones(3000, np.float32), num_samples=FADE_SAMPLES)
        out = fade(np.ones(3000, np.float32), num_samples=FADE_SAMPLES, is_in=False)
        assert max_difference(both, published["fade_both_on_ones_3000"]) < 1e-7
        assert max_difference(out, published["fadeout_on_ones_3000"]) < 1e-7


def cycles_of(recording: Path, padding: Padding = "repeat") -> list[Samples]:
    """The cycles of a recording, annotated in the text file beside it, in the published order of steps."""
    faded = fade(read_waveform(recording), num_samples=FADE_SAMPLES)
    times = [line.split()[:2] for line in recording.with_suffix(".txt").read_text().splitlines()]
    parts = [cut(faded, start_s=float(start), end_s=float(end), sample_rate_hz=16000) for start, end in times]
    return [fit(part, NUM_SAMPLES, padding=padding, fade_samples=FADE_SAMPLES) for part in parts]


class TestPipeline:
    @pytest.mark.parametrize(
        ("name", "sample_rate_hz", "subtype", "end_s"),
        [("105_1b1_Tc_sc_Meditron", 44100, "PCM_16", 0.579), ("112_1p1_Ll_sc_Litt3200", 4000, "PCM_24", 1.889)],
    )
    def test_first_cycle_of_a_cut_recording(
        self, name: str, sample_rate_hz: int, subtype: str, end_s: float, arrays: Arrays, tmp_path: Path,
        log_mel: LogMel,
    ) -> None:  # fmt: skip
        """The stored start of the recording is 0.1 s longer than its first cycle, so its own fade-out is outside."""
        samples = arrays[f"recording/{name}"].astype(np.int32) << (16 if subtype == "PCM_16" else 8)
        recording = tmp_path / f"{name}.wav"
        soundfile.write(recording, samples, sample_rate_hz, subtype=subtype)
        recording.with_suffix(".txt").write_text(f"0.036\t{end_s}\t0\t0\n")
        (waveform,) = cycles_of(recording)
        difference = np.abs(normalized(log_mel, waveform)[::100] - arrays[f"pipeline/{name}"])
        assert difference.max() < 3e-3
        assert difference.mean() < 1e-4

    @pytest.mark.parametrize("name", RECORDINGS)
    def test_whole_recordings(self, name: str, shared_dir: Path, log_mel: LogMel) -> None:
        published = load(shared_dir / "golden" / "b_pipeline.npz")
        waveforms = cycles_of(shared_dir / "golden" / "wavs" / f"{name}.wav")
        assert len(waveforms) == len(published[f"labels/{name}"])
        for index, waveform in enumerate(waveforms):
            if f"wave/{name}/{index}" in published:
                assert max_difference(waveform, published[f"wave/{name}/{index}"]) < 1e-5
            difference = np.abs(normalized(log_mel, waveform) - published[f"fbank/{name}/{index}"])
            assert difference.max() < 3e-3
            assert difference.mean() < 1e-4

    @pytest.mark.parametrize("padding", ["repeat", "zero"])
    def test_both_paddings(self, padding: Padding, shared_dir: Path, log_mel: LogMel) -> None:
        variants = json.loads((shared_dir / "golden" / "b_pipeline_variants.json").read_text())
        waveforms = cycles_of(shared_dir / "golden" / "wavs" / f"{RECORDINGS[0]}.wav", padding)
        for waveform, (_label, wave_abs_sum, fbank_mean) in zip(waveforms, variants[f"{padding}_4"], strict=True):
            assert float(np.abs(waveform.astype(np.float64)).sum()) == pytest.approx(wave_abs_sum, rel=1e-5)
            assert float(normalized(log_mel, waveform).mean()) == pytest.approx(fbank_mean, abs=1e-4)


def published_draw(case: dict[str, Any]) -> SpecAugmentDraw:
    """The draws of a golden case: alternately a width (a float, truncated) and a start; two frequency masks first."""
    numbers = [draw[3] for draw in case["draws"]]
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    masks = tuple(slice(int(start), int(start) + int(width)) for width, start in pairs)
    return SpecAugmentDraw(frequency=masks[:2], time=masks[2:])


SPECAUGMENT_CASES = [
    ("icbhi_ast_sup_mean_0", "mean"),
    ("icbhi_ast_sup_zero_1", "zero"),
    ("icbhi_sup_mean_2", "mean"),
    ("icbhi_ast_sup_mean_3", "mean"),
]


class TestSpecAugment:
    @pytest.mark.parametrize(("name", "fill"), SPECAUGMENT_CASES)
    def test_on_a_grid_of_bins(self, name: str, fill: Any, arrays: Arrays, facts: dict[str, Any]) -> None:
        fbank = torch.from_numpy(spec(f"sa{name[-1]}")[0])
        masked = apply_specaugment(fbank, published_draw(facts["specaugment"][name]), fill=fill)
        assert max_difference(masked[::57, ::3], arrays[f"specaugment/{name}"]) < 1e-6

    @pytest.mark.parametrize(("name", "fill"), SPECAUGMENT_CASES)
    def test_whole(self, name: str, fill: Any, shared_dir: Path) -> None:
        case = json.loads((shared_dir / "golden" / "b_specaugment.json").read_text())[name]
        published = load(shared_dir / "golden" / "b_specaugment.npz")[name]
        fbank = torch.from_numpy(spec(f"sa{name[-1]}")[0])
        assert max_difference(apply_specaugment(fbank, published_draw(case), fill=fill), published) < 1e-6

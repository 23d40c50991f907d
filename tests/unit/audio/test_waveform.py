import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal

from lungsound.audio.io import (
    AudioInfo,
    _block_kernels,
    cut,
    fade,
    fit,
    probe,
    read_channels,
    read_waveform,
    resample,
    resample_kernel,
)
from lungsound.errors import AudioError


def write(path: Path, samples: np.ndarray, sample_rate_hz: int = 16000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, sample_rate_hz, subtype=subtype)
    return path


def noise(num_samples: int, num_channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (num_samples, num_channels)).squeeze()


def sine(frequency_hz: float, sample_rate_hz: int, num_samples: int) -> np.ndarray:
    return np.sin(2 * math.pi * frequency_hz * np.arange(num_samples) / sample_rate_hz)


class TestReadWaveform:
    @pytest.mark.parametrize(
        ("suffix", "subtype", "tolerance"),
        [("wav", "PCM_16", 2**-15), ("wav", "PCM_24", 2**-23), ("wav", "FLOAT", 1e-7), ("flac", "PCM_16", 2**-15)],
    )
    def test_samples_come_back_at_full_scale_1(
        self, suffix: str, subtype: str, tolerance: float, tmp_path: Path
    ) -> None:
        samples = noise(500)
        waveform = read_waveform(write(tmp_path / f"a.{suffix}", samples, subtype=subtype))
        assert waveform.dtype == np.float32
        np.testing.assert_allclose(waveform, samples, atol=tolerance)

    def test_channels_are_averaged(self, tmp_path: Path) -> None:
        samples = noise(300, num_channels=3)
        path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
        assert probe(path) == AudioInfo(num_samples=300, sample_rate_hz=16000, num_channels=3)
        np.testing.assert_allclose(read_waveform(path), samples.mean(axis=1), atol=1e-7)

    @pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_24"), ("ogg", "VORBIS")])
    @pytest.mark.parametrize("num_channels", [1, 2])
    def test_channels_are_those_that_soundfile_reads_in_one_decoding(
        self, num_channels: int, suffix: str, subtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(tmp_path / f"a.{suffix}", noise(4000, num_channels), 8000, subtype)
        expected, _ = soundfile.read(path, always_2d=True, dtype="float32")
        opened: list[object] = []
        sound_file = soundfile.SoundFile
        monkeypatch.setattr(soundfile, "SoundFile", lambda file: opened.append(file) or sound_file(file))
        channels, info = read_channels(path)
        assert info == AudioInfo(4000, 8000, num_channels)
        assert channels.flags.c_contiguous
        np.testing.assert_array_equal(channels, expected.T)
        assert len(opened) == 1

    @pytest.mark.parametrize("rate_hz", [1, 99, 1_000_001])
    def test_a_rate_that_cannot_be_is_refused_before_it_is_resampled(self, rate_hz: int, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", noise(100), rate_hz)
        for read in (probe, read_waveform, read_channels):
            with pytest.raises(AudioError, match=rf"a\.wav has a sample rate of {rate_hz} Hz by its header"):
                read(path)

    def test_a_name_need_not_be_utf_8(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", noise(100))
        try:
            path = path.rename(tmp_path / os.fsdecode(b"\xe9.wav"))
        except OSError as error:
            pytest.skip(f"this file system has names in UTF-8 only ({error.strerror})")
        assert len(read_waveform(path)) == 100

    def test_another_rate_is_resampled(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", sine(440, 8000, 8000), 8000, "FLOAT")
        waveform = read_waveform(path)
        assert len(waveform) == 16000
        np.testing.assert_allclose(waveform[200:-200], sine(440, 16000, 16000)[200:-200], atol=1e-3)
        assert np.array_equal(read_waveform(path, sample_rate_hz=8000), soundfile.read(path, dtype="float32")[0])

    @pytest.mark.parametrize(("suffix", "subtype"), [("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")])
    def test_lossy_formats(self, suffix: str, subtype: str, tmp_path: Path) -> None:
        path = write(tmp_path / f"a.{suffix}", sine(440, 16000, 16000), subtype=subtype)
        assert len(read_waveform(path)) == probe(path).num_samples == 16000


def truncate(path: Path, num_bytes: int) -> Path:
    path.write_bytes(path.read_bytes()[:-num_bytes])
    return path


class TestBadFiles:
    """Each gives one line that names the file."""

    def refuse(self, path: Path, match: str) -> None:
        for function in (probe, read_waveform):
            with pytest.raises(AudioError, match=match) as caught:
                function(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / "none.wav", "No such file")
        self.refuse(tmp_path / ("a" * 300 + ".wav"), "cannot be read")
        self.refuse(tmp_path / "a\0.wav", "no file has such a name")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.refuse(tmp_path, "directory")

    def test_no_sound(self, tmp_path: Path) -> None:
        (tmp_path / "a.wav").write_bytes(b"not a sound file at all")
        self.refuse(tmp_path / "a.wav", "no sound file")

    def test_noise_called_mp3(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp3").write_bytes(np.random.default_rng(1).bytes(20000))
        self.refuse(tmp_path / "a.mp3", "damaged, or not what its name says")

    def test_no_header(self, tmp_path: Path) -> None:
        (tmp_path / "a.raw").write_bytes(b"1234")
        self.refuse(tmp_path / "a.raw", "no header")

    def test_no_samples(self, tmp_path: Path) -> None:
        self.refuse(write(tmp_path / "a.wav", np.zeros(0)), "0 samples")

    @pytest.mark.parametrize(
        ("subtype", "num_bytes", "num_promised"),
        [("PCM_16", 1, 2000), ("PCM_16", 1000, 2000), ("PCM_24", 300, 3000), ("FLOAT", 3999, 4000), ("ULAW", 1, 1000)],
    )
    def test_truncated_wav(self, subtype: str, num_bytes: int, num_promised: int, tmp_path: Path) -> None:
        path = truncate(write(tmp_path / "a.wav", noise(1000), subtype=subtype), num_bytes)
        self.refuse(path, f"promises {num_promised} bytes of sound, {num_promised - num_bytes} are there")

    def test_truncated_wav_in_blocks(self, tmp_path: Path) -> None:
        self.refuse(truncate(write(tmp_path / "a.wav", noise(1000), 8000, "MS_ADPCM"), 1), "is truncated")

    def test_truncated_header(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", noise(1000))
        self.refuse(truncate(path, 2000 + 8), "ends before its samples begin")

    def test_truncated_flac(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.flac", noise(20000))
        with pytest.raises(AudioError, match=r"decoded|promises"):
            read_waveform(truncate(path, 10000))

    @pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
    @pytest.mark.parametrize("value", [math.nan, -math.inf, 1e20, -3e38])
    def test_samples_that_no_microphone_gives_are_named_by_their_time(
        self, value: float, subtype: str, tmp_path: Path
    ) -> None:
        samples = noise(16000, num_channels=2)
        samples[[12000, 15000], 1] = value
        path = write(tmp_path / "a.wav", samples, subtype=subtype)
        self.refuse(path, rf"a\.wav has a sample of {re.escape(f'{value:g}')} at 0\.750 s, in channel 2")

    def test_integers_that_were_never_scaled_are_read(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", noise(100) * 2**31, subtype="FLOAT")
        assert np.abs(read_waveform(path)).max() > 2**29


class TestUnusualWavs:
    def test_chunks_around_the_samples(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", noise(100))
        whole = path.read_bytes()
        note, more = b"note\x03\x00\x00\x00abc\x00", b"LIST\x04\x00\x00\x00INFO"
        path.write_bytes(whole[:12] + note + whole[12:] + more)
        assert len(read_waveform(path)) == 100

    def test_a_stream_whose_header_says_no_length(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", noise(100))
        content = path.read_bytes()
        assert content[36:40] == b"data"
        path.write_bytes(content[:40] + b"\xff\xff\xff\xff" + content[44:])
        assert len(read_waveform(path)) == 100


def sinc_interpolation(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Hann-windowed sinc, one output sample after the other, straight from its definition."""
    cutoff = 0.99 * min(from_hz, to_hz)
    resampled = []
    for index in range(math.ceil(len(samples) * to_hz / from_hz)):
        total = 0.0
        for position, sample in enumerate(samples):
            crossings = (position / from_hz - index / to_hz) * cutoff
            if abs(crossings) < 6:
                window = 0.5 * (1 + math.cos(math.pi * crossings / 6))
                total += sample * np.sinc(crossings) * window * cutoff / from_hz
        resampled.append(total)
    return np.array(resampled)


class TestResample:
    @pytest.mark.parametrize(("from_hz", "to_hz"), [(441, 160), (4, 16), (10, 16), (3, 2), (7, 331), (331, 7)])
    @pytest.mark.parametrize("num_samples", [1, 50])
    def test_against_the_definition(self, from_hz: int, to_hz: int, num_samples: int) -> None:
        samples = noise(51)[:num_samples]
        ours = resample(samples, from_hz, to_hz)
        np.testing.assert_allclose(ours, sinc_interpolation(samples, from_hz, to_hz), atol=1e-12)

    def test_the_same_rate_changes_nothing(self) -> None:
        waveform = noise(10)
        assert np.array_equal(resample(waveform, 8000, 8000), waveform)

    @pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 16000), (8000, 16000), (11127, 16000), (16000, 4000)])
    def test_a_sine_stays_a_sine(self, from_hz: int, to_hz: int) -> None:
        ours = resample(sine(300, from_hz, from_hz), from_hz, to_hz)
        assert len(ours) == to_hz
        middle = slice(to_hz // 10, -to_hz // 10)
        np.testing.assert_allclose(ours[middle], sine(300, to_hz, to_hz)[middle], atol=2e-3)

    def test_frequencies_above_the_new_nyquist_vanish(self) -> None:
        assert np.abs(resample(sine(12000, 44100, 44100), 44100, 16000)[500:-500]).max() < 3e-3

    def test_close_to_another_resampler_in_the_passband(self) -> None:
        low = signal.sosfiltfilt(signal.butter(8, 1000, fs=8000, output="sos"), noise(4000))
        ours = resample(low.copy(), 8000, 16000)
        theirs = signal.resample_poly(low, 2, 1)
        assert np.abs(ours - theirs)[200:-200].max() < 2e-3 * np.abs(low).max()

    def test_the_dtype_is_kept_and_rounds_alike(self) -> None:
        samples = noise(5000)
        ours = resample(samples.astype(np.float32), 44100, 16000)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, resample(samples, 44100, 16000), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 16000), (16001, 16000), (48000, 16000), (4000, 16000)])
    def test_no_product_takes_more_taps_than_its_phases_need(self, from_hz: int, to_hz: int) -> None:
        """A sinc of 6 crossings on each side, and from the first to the last of 16 phases."""
        num_periods, kernels = _block_kernels(from_hz, to_hz, np.dtype(np.float32))
        common = math.gcd(from_hz, to_hz)
        assert sum(kernel.shape[1] for kernel in kernels) == num_periods * to_hz // common
        scale = max(1.0, from_hz / to_hz)
        assert max(len(kernel) for kernel in kernels) <= 12 * scale / 0.99 + 15 * from_hz / to_hz + 4
        assert max(len(kernel) for kernel in kernels) <= num_periods * from_hz // common

    def test_later_phases_are_those_of_the_next_period(self) -> None:
        whole = resample_kernel(44100, 16000)
        np.testing.assert_allclose(resample_kernel(44100, 16000, first_phase=160), whole, rtol=0, atol=1e-12)
        later = resample_kernel(44100, 16000, first_phase=32, num_phases=3)
        np.testing.assert_allclose(later, whole[32:35, 88 : 88 + 40], rtol=0, atol=1e-12)


class TestFade:
    def test_closed_form(self) -> None:
        faded = fade(np.full((2, 9), 4.0), num_samples=5)
        assert faded.tolist() == [[0, 1, 2, 3, 4, 3, 2, 1, 0]] * 2

    def test_one_end_only(self) -> None:
        waveform = np.ones(4)
        assert fade(waveform, num_samples=2, is_out=False).tolist() == [0, 1, 1, 1]
        assert fade(waveform, num_samples=2, is_in=False).tolist() == [1, 1, 1, 0]
        assert fade(waveform, num_samples=0).tolist() == waveform.tolist() == [1, 1, 1, 1]

    def test_a_waveform_shorter_than_the_fade_is_all_fade(self) -> None:
        assert fade(np.ones(5), num_samples=1000).tolist() == [0, 0.1875, 0.25, 0.1875, 0]


class TestCut:
    recording = np.arange(100)

    def test_times_are_truncated_to_samples(self) -> None:
        assert cut(self.recording, start_s=0.19, end_s=0.59, sample_rate_hz=10).tolist() == [1, 2, 3, 4]

    def test_leading_axes(self) -> None:
        assert cut(self.recording.reshape(2, 50), start_s=0, end_s=1, sample_rate_hz=10).shape == (2, 10)

    def test_a_cycle_past_the_end_is_shorter(self) -> None:
        assert cut(self.recording, start_s=9.8, end_s=12, sample_rate_hz=10).tolist() == [98, 99]

    @pytest.mark.parametrize(("start_s", "end_s"), [(3, 3), (3, 2), (3, 3.01), (10, 12), (-1, 2), (-3, -1)])
    def test_nothing_to_cut(self, start_s: float, end_s: float) -> None:
        with pytest.raises(AudioError, match=f"from {start_s} s to {end_s} s of a recording of 10 s"):
            cut(self.recording, start_s=start_s, end_s=end_s, sample_rate_hz=10)


class TestFit:
    ramp = np.arange(1.0, 5.0)

    def test_longer_gives_the_first_part_without_a_fade(self) -> None:
        assert fit(self.ramp, 3, padding="repeat", fade_samples=2).tolist() == [1, 2, 3]

    def test_repeat_fades_the_end(self) -> None:
        assert fit(self.ramp, 10, padding="repeat", fade_samples=3).tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 0.5, 0]
        assert fit(self.ramp, 4, padding="repeat", fade_samples=2).tolist() == [1, 2, 3, 0]

    def test_zero_centres(self) -> None:
        assert fit(self.ramp, 7, padding="zero", fade_samples=3).tolist() == [0, 1, 2, 3, 4, 0, 0]
        assert fit(self.ramp, 4, padding="zero", fade_samples=3).tolist() == [1, 2, 3, 4]

    def test_the_waveform_is_left_alone(self) -> None:
        before = self.ramp.copy()
        fit(self.ramp, 4, padding="repeat", fade_samples=4)
        assert np.array_equal(self.ramp, before)

    def test_nothing_to_fit(self) -> None:
        with pytest.raises(AudioError, match="0 samples"):
            fit(np.zeros(0), 10, padding="repeat", fade_samples=2)


@pytest.mark.parametrize("read", [read_channels, read_waveform])
def test_a_pipe_is_refused_before_anybody_waits_for_it(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "live.wav")
    with pytest.raises(AudioError, match="is a pipe, a socket or a device: give a sound file"):
        read(tmp_path / "live.wav")

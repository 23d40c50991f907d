"""Sound files of telephones and browsers."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lungsound.audio.io import probe, read_channels, read_waveform
from lungsound.errors import AudioError, SettingsError

RATE_HZ = 16000


def tone(num_channels: int) -> np.ndarray:
    """A second of a tone of 400 Hz, each channel half as loud as the one before."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    return np.stack([0.5 ** (1 + place) * np.sin(2 * np.pi * 400 * time_s) for place in range(num_channels)])


def encode(path: Path, samples: np.ndarray, codec: str, *, rate_hz: int = RATE_HZ) -> None:
    av = pytest.importorskip("av")
    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32), format="fltp", layout=layout)
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(
            format=stream.format, layout=layout, rate=stream.rate, frame_size=stream.frame_size
        )
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.AAC", "aac"), ("a.mp4", "aac"), ("a.webm", "libopus")]
)
@pytest.mark.parametrize("num_channels", [1, 2])
def test_what_telephones_and_browsers_write_is_read(name: str, codec: str, num_channels: int, tmp_path: Path) -> None:
    samples = tone(num_channels)
    encode(tmp_path / name, samples, codec)
    info = probe(tmp_path / name)
    assert (info.num_channels, info.sample_rate_hz) == (num_channels, 48000 if codec == "libopus" else RATE_HZ)
    waveform = read_waveform(tmp_path / name, sample_rate_hz=RATE_HZ)
    assert len(waveform) == pytest.approx(RATE_HZ, abs=0.15 * RATE_HZ)  # encoders pad
    middle = waveform[len(waveform) // 4 : len(waveform) // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.fft.rfftfreq(len(middle), 1 / RATE_HZ)[spectrum.argmax()] == pytest.approx(400, abs=5)
    assert middle.std() == pytest.approx(samples.mean(axis=0).std(), rel=0.1)


def test_a_lossless_file_comes_back_sample_by_sample(tmp_path: Path) -> None:
    samples = np.round(tone(2) * 2**15) / 2**15
    encode(tmp_path / "a.m4a", samples, "alac")
    found, info = read_channels(tmp_path / "a.m4a")
    assert (info.sample_rate_hz, info.remarks) == (RATE_HZ, ())
    np.testing.assert_array_equal(found, samples)


def test_what_holds_no_sound_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.m4a").write_text("no sound at all")
    with pytest.raises(AudioError, match=r"a\.m4a cannot be decoded"):
        probe(tmp_path / "a.m4a")
    with pytest.raises(AudioError, match=r"none\.m4a cannot be read"):
        probe(tmp_path / "none.m4a")


@pytest.mark.parametrize(("num_channels", "rate_hz"), [(2, RATE_HZ), (1, 48000)])
def test_what_changes_on_the_way_is_refused(num_channels: int, rate_hz: int, tmp_path: Path) -> None:
    """Two recordings in one file, one after the other."""
    encode(tmp_path / "a.aac", tone(1), "aac")
    encode(tmp_path / "b.aac", tone(num_channels), "aac", rate_hz=rate_hz)
    (tmp_path / "both.aac").write_bytes((tmp_path / "a.aac").read_bytes() + (tmp_path / "b.aac").read_bytes())
    with pytest.raises(AudioError, match=r"both\.aac changes its rate or channels on the way"):
        probe(tmp_path / "both.aac")


def test_a_list_of_other_files_is_no_recording(tmp_path: Path) -> None:
    """FFmpeg by itself would open them."""
    encode(tmp_path / "secret.aac", tone(1), "aac")
    (tmp_path / "a.m4a").write_text("ffconcat version 1.0\nfile secret.aac\n")
    with pytest.raises(AudioError, match=r"a\.m4a cannot be decoded"):
        probe(tmp_path / "a.m4a")


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.m4a").touch()
    with pytest.raises(SettingsError, match=r"lungsound\[av\]"):
        probe(tmp_path / "a.m4a")

"""The synthetic corpus: its layout, its bytes, the truth of its labels, and its sounds measured by other means."""

import csv
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.random import default_rng
from scipy import signal

from lungsound.data.corpus import SYNTHETIC_EVENTS_FILE, Corpus
from lungsound.data.icbhi import read_icbhi
from lungsound.data.synthetic import draw_breaths, plan_sessions, synthesize
from lungsound.data.synthetic_sounds import (
    COARSE,
    FINE,
    STETHOSCOPES,
    VESICULAR,
    CrackleKind,
    Stethoscope,
    breath_envelope,
    crackle,
    heart_sounds,
    rustle,
    shaped_noise,
    wheeze,
)
from lungsound.errors import CorpusError, SettingsError
from lungsound.labels import LungSound

DEVICES = {"AKGC417L", "Meditron", "LittC2SE", "Litt3200"}
SEED_0_FIRST = ["501_1b1_Ar_sc_Litt3200", "501_1b2_Al_sc_Meditron", "501_1b3_Pl_mc_LittC2SE", "501_1b4_Lr_mc_AKGC417L"]


@pytest.fixture(scope="module")
def corpus(synthetic_corpus_dir: Path) -> Corpus:
    return read_icbhi(synthetic_corpus_dir)


@pytest.fixture(scope="module")
def events(synthetic_corpus_dir: Path) -> dict[str, list[dict[str, str]]]:
    found = defaultdict(list)
    with (synthetic_corpus_dir / SYNTHETIC_EVENTS_FILE).open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found[row["recording"]].append(row)
    return found


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The smallest corpora of seeds 0 and 1."""
    base = tmp_path_factory.mktemp("smallest")
    return [synthesize(base / str(seed), num_patients=4, seed=seed) for seed in range(2)]


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The corpus on disk


def test_same_seed_gives_same_bytes_and_another_seed_does_not(smallest: list[Path], tmp_path: Path) -> None:
    first = file_bytes(smallest[0])
    root = tmp_path / "empty"
    root.mkdir()
    calls: list[tuple[int, int]] = []
    again = synthesize(root, num_patients=4, seed=0, on_progress=lambda done, total: calls.append((done, total)))
    assert again == root
    assert file_bytes(root) == first
    assert not set(first.values()) & set(file_bytes(smallest[1]).values())
    num_recordings = len(list(root.glob("*.wav")))
    assert calls == [(done, num_recordings) for done in range(1, num_recordings + 1)]
    assert list(tmp_path.iterdir()) == [root]


def test_reader_finds_nothing_wrong(corpus: Corpus) -> None:
    assert corpus.require_sound() is corpus
    assert corpus.name == "synthetic"
    assert {recording.device for recording in corpus.recordings} == DEVICES
    assert {recording.patient for recording in corpus.recordings} == {str(number) for number in range(501, 509)}
    assert all(11 < recording.duration_s < 27 for recording in corpus.recordings)
    assert all(1.499 < cycle.end_s - cycle.start_s < 4.001 for cycle in corpus.cycles)
    assert set(Counter(cycle.recording.name for cycle in corpus.cycles).values()) <= {5, 6, 7, 8}
    assert all(recording.diagnosis is not None and recording.age_years is not None for recording in corpus.recordings)


def test_files_have_the_form_of_icbhi(synthetic_corpus_dir: Path, corpus: Corpus) -> None:
    rates = {"AKGC417L": {10000}, "Meditron": {11025, 44100}, "LittC2SE": {8000, 16000}, "Litt3200": {4000}}
    for recording in corpus.recordings:
        info = soundfile.info(recording.path)
        assert (info.format, info.subtype, info.channels) == ("WAV", "PCM_16", 1)
        assert info.samplerate in rates[recording.device or ""]
        for line in recording.path.with_suffix(".txt").read_text().splitlines():
            start, end, *flags = line.split("\t")
            assert (start, end) == (f"{float(start):.3f}", f"{float(end):.3f}")
            assert set(flags) <= {"0", "1"}
    for line in (synthetic_corpus_dir / "metadata.txt").read_text().splitlines():
        _, age, sex, bmi, weight, height, location = line.split("\t")
        assert sex in {"F", "M"}
        assert location in {"Tc", "Al", "Ar", "Pl", "Pr", "Ll", "Lr"}
        assert ([bmi] if float(age) < 18 else [weight, height]) == ["NA"] * (1 if float(age) < 18 else 2)


def test_diagnosis_agrees_with_what_is_heard(corpus: Corpus) -> None:
    heard = defaultdict(set)
    for cycle in corpus.cycles:
        heard[cycle.recording.diagnosis].add(cycle.sound)
    assert heard.keys() & {"Healthy", "URTI"}
    for diagnosis, sounds in heard.items():
        assert (sounds == {LungSound.NORMAL}) == (diagnosis in {"Healthy", "URTI"})


def test_labels_are_the_planted_events(corpus: Corpus, events: dict[str, list[dict[str, str]]]) -> None:
    num_used = 0
    for cycle in corpus.cycles:
        inside = [
            event
            for event in events[cycle.recording.name]
            if float(event["start_s"]) > cycle.start_s + 0.02 and float(event["end_s"]) < cycle.end_s - 0.02
        ]
        num_crackles = sum(event["kind"] in {"fine crackle", "coarse crackle"} for event in inside)
        wheezes = [event for event in inside if event["kind"] == "wheeze"]
        assert num_crackles >= 3 if cycle.has_crackle else num_crackles == 0
        assert bool(wheezes) == cycle.has_wheeze
        assert all(float(wheeze["end_s"]) - float(wheeze["start_s"]) >= 0.1 for wheeze in wheezes)
        num_used += len(inside)
    assert num_used == sum(map(len, events.values())) > 0


def test_crackles_are_heard_where_the_events_say(corpus: Corpus, events: dict[str, list[dict[str, str]]]) -> None:
    """Above 250 Hz the signal is on average far stronger in a crackle than in the 20 ms before the first of them."""
    gains_db = []
    for recording in corpus.recordings:
        crackles = [event for event in events[recording.name] if event["kind"].endswith("crackle")]
        if crackles:
            waveform, rate = soundfile.read(recording.path)
            band = signal.sosfilt(signal.butter(4, 250, "highpass", fs=rate, output="sos"), waveform)
            usual = np.median(np.abs(band)) / 0.6745
            for event in crackles:
                start, end = (int(float(event[key]) * rate) for key in ("start_s", "end_s"))
                gains_db.append(20 * np.log10(np.abs(band[start : end + rate // 500]).max() / usual))
    assert len(gains_db) > 100
    assert np.percentile(gains_db, 5) > 12


def test_wheezes_are_heard_at_their_frequency(corpus: Corpus, events: dict[str, list[dict[str, str]]]) -> None:
    """The strongest tone within the glide's reach stands 10 dB out of the spectrum around it."""
    prominences_db = []
    for recording in corpus.recordings:
        waveform, rate = soundfile.read(recording.path)
        for event in events[recording.name]:
            if event["kind"] == "wheeze":
                part = waveform[int(float(event["start_s"]) * rate) : int(float(event["end_s"]) * rate)]
                frequency_hz, power = signal.welch(part, rate, nperseg=int(0.08 * rate))
                ratio = frequency_hz / float(event["frequency_hz"])
                peak = power[(ratio > 0.85) & (ratio < 1.15)].max()
                around = power[((ratio > 0.6) & (ratio < 0.75)) | ((ratio > 1.25) & (ratio < 1.6))]
                prominences_db.append(10 * np.log10(peak / np.median(around)))
    assert len(prominences_db) > 40
    assert np.percentile(prominences_db, 5) > 10


@pytest.mark.parametrize("seed", range(2))
def test_smallest_corpus_has_all_classes_and_devices_in_both_parts(smallest: list[Path], seed: int) -> None:
    corpus = read_icbhi(smallest[seed])
    for part in ("train", "test"):
        assert {cycle.sound for cycle in corpus.part(part)} == set(LungSound)
        assert {cycle.recording.device for cycle in corpus.part(part)} == DEVICES


@pytest.mark.parametrize("num_patients", [5, 40, 101])
@pytest.mark.parametrize("seed", range(4))
def test_plan_splits_by_patient_with_all_classes_and_devices(num_patients: int, seed: int) -> None:
    rng = default_rng(seed)
    sessions = plan_sessions(num_patients, rng)
    parts = {session.patient.number: session.patient.part for session in sessions}
    assert set(parts) == set(range(501, 501 + num_patients))
    assert all(session.patient.part == parts[session.patient.number] for session in sessions)
    assert Counter(parts.values())["train"] == pytest.approx(0.6 * num_patients, abs=0.5)
    assert len({session.name for session in sessions}) == len(sessions)
    sounds = defaultdict(list)
    for session in sessions:
        sounds[session.patient.part] += [breath.sound for breath in draw_breaths(session.patient, rng)]
    for part in ("train", "test"):
        assert set(sounds[part]) == set(LungSound)
        assert {session.device.name for session in sessions if session.patient.part == part} == DEVICES


def test_class_shares() -> None:
    rng = default_rng(0)
    counts = Counter(
        breath.sound for session in plan_sessions(400, rng) for breath in draw_breaths(session.patient, rng)
    )
    shares = [counts[sound] / counts.total() for sound in LungSound]
    assert shares == pytest.approx([0.475, 0.2, 0.2, 0.125], abs=0.025)


def test_plan_of_seed_0_is_pinned() -> None:
    """numpy's random streams and ours are what they were; a corpus of the same seed is the same corpus."""
    sessions = plan_sessions(4, default_rng(0))
    assert [session.name for session in sessions][:4] == SEED_0_FIRST


# What it refuses, and what it leaves behind


@pytest.mark.parametrize(("num_patients", "seed", "said"), [(3, 0, "at least 4"), (4, -1, "0 or larger")])
def test_bad_settings_are_refused(tmp_path: Path, num_patients: int, seed: int, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        synthesize(tmp_path / "corpus", num_patients=num_patients, seed=seed)
    assert list(tmp_path.iterdir()) == []


def test_full_folder_and_file_are_refused_untouched(tmp_path: Path) -> None:
    note = tmp_path / "note"
    note.write_text("mine")
    with pytest.raises(SettingsError, match="is not empty"):
        synthesize(tmp_path, num_patients=4)
    with pytest.raises(SettingsError, match="is a file"):
        synthesize(note, num_patients=4)
    with pytest.raises(CorpusError, match="cannot write"):
        synthesize(note / "corpus", num_patients=4)
    assert file_bytes(tmp_path) == {"note": b"mine"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_when_interrupted(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupt(done: int, total: int) -> None:
        assert len(list(tmp_path.glob(".*.partial/*.wav"))) == done
        if done == 2 < total:
            raise error

    with pytest.raises(error):
        synthesize(tmp_path / "corpus", num_patients=4, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


# The sounds


def spectral_peak_hz(waveform: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(waveform, 16 * len(waveform)))
    return float(np.argmax(spectrum) * rate / (16 * len(waveform)))


@pytest.mark.parametrize(("kind", "idw_ms", "two_cycle_ms"), [(FINE, 0.7, 5), (COARSE, 1.5, 10)])
@pytest.mark.parametrize("end", [0, 1])
def test_crackle_widths_by_zero_crossings(kind: CrackleKind, idw_ms: float, two_cycle_ms: float, end: int) -> None:
    rate = 192_000
    wave = crackle(rate, idw_s=kind.idw_s[end], two_cycle_s=kind.two_cycle_s[end])
    crossings = np.flatnonzero(np.diff(np.signbit(wave[1:]))) + 1
    measured_ms = 1000 * np.append(crossings, len(wave)) / rate
    # Two cycles are four half-waves: three crossings inside, the fourth at the end.
    assert len(measured_ms) == 4
    assert measured_ms[0] == pytest.approx(1000 * kind.idw_s[end], abs=0.02)
    assert measured_ms[3] == pytest.approx(1000 * kind.two_cycle_s[end], abs=0.02)
    assert measured_ms[0] == pytest.approx(idw_ms, rel=0.35)
    assert measured_ms[3] == pytest.approx(two_cycle_ms, rel=0.36)
    assert (measured_ms[3] < 10) == (kind is FINE)
    assert np.all(np.diff(measured_ms, prepend=0)[1:] > measured_ms[0])
    assert np.abs(wave).max() == 1


@pytest.mark.parametrize(("kind", "low_hz", "high_hz"), [(FINE, 340, 900), (COARSE, 140, 340)])
def test_crackle_energy_lies_where_it_is_heard(kind: CrackleKind, low_hz: float, high_hz: float) -> None:
    for idw_s, two_cycle_s in zip(kind.idw_s, kind.two_cycle_s, strict=True):
        peak_hz = spectral_peak_hz(crackle(44_100, idw_s=idw_s, two_cycle_s=two_cycle_s), 44_100)
        assert low_hz < peak_hz < high_hz


def test_crackle_matches_its_formula_point_by_point() -> None:
    idw_s, two_cycle_s, rate = 0.0007, 0.005, 8000
    wave = crackle(rate, idw_s=idw_s, two_cycle_s=two_cycle_s)
    expected = []
    for index in range(40):
        x = index / 40
        warped = x ** (np.log(1 / 4) / np.log(0.14))
        expected.append(np.sin(4 * np.pi * warped) * 0.5 * (1 + np.cos(2 * np.pi * (x**0.5 - 0.5))))
    np.testing.assert_allclose(wave, np.array(expected) / np.max(np.abs(expected)), atol=1e-12)


@pytest.mark.parametrize("rate", [4000, 44_100])
@pytest.mark.parametrize("frequency_hz", [120.0, 437.0, 800.0])
def test_wheeze_has_the_wanted_frequency_and_length(rate: int, frequency_hz: float) -> None:
    wave = wheeze(rate, frequency_hz=frequency_hz, duration_s=0.4, harmonics=(0.4, 0.2))
    assert len(wave) == round(0.4 * rate)
    assert spectral_peak_hz(wave, rate) == pytest.approx(frequency_hz, abs=0.5)
    assert abs(wave[0]) < 0.01
    assert abs(wave[-1]) < 0.01
    loud_s = np.flatnonzero(np.abs(signal.hilbert(wave)) > 0.5)
    assert (loud_s[-1] - loud_s[0]) / rate > 0.3


def test_wheeze_harmonics_and_their_limit() -> None:
    wave = wheeze(4000, frequency_hz=700.0, duration_s=1.0, harmonics=(0.5, 0.25))
    spectrum = np.abs(np.fft.rfft(wave))
    assert spectrum[1400] / spectrum[700] == pytest.approx(0.5, rel=1e-3)
    assert spectrum[1900] / spectrum[700] < 1e-3  # the third, at 2100 Hz, would fold back to here


def test_wheeze_glides_from_below_to_above() -> None:
    rate = 44_100
    wave = wheeze(rate, frequency_hz=400.0, duration_s=1.0, glide=0.2)
    rising = np.flatnonzero((wave[:-1] < 0) & (wave[1:] >= 0))
    run_hz = rate / np.diff(rising)
    assert run_hz[:5].mean() == pytest.approx(360, rel=0.01)
    assert run_hz[-5:].mean() == pytest.approx(440, rel=0.01)
    assert len(rising) == pytest.approx(400, abs=1)


def test_shaped_noise_follows_its_curve() -> None:
    noise = shaped_noise(400_000, 8000, VESICULAR, default_rng(0))
    assert np.mean(noise**2) == pytest.approx(1)
    frequency_hz, power = signal.welch(noise, 8000, nperseg=800)
    level_db = 10 * np.log10(power)
    at = {hz: level_db[np.argmin(np.abs(frequency_hz - hz))] for hz, _ in VESICULAR}
    for hz, expected_db in VESICULAR[2:]:
        assert at[hz] - at[120] == pytest.approx(expected_db, abs=1.0)


@pytest.mark.parametrize("device", STETHOSCOPES, ids=lambda device: device.name)
def test_stethoscope_response_is_butterworth_with_a_resonance(device: Stethoscope) -> None:
    frequency_hz = np.array([5.0, 50.0, device.resonance_hz, 1000.0, 4000.0])
    flat = replace(device, resonance_db=0.0)
    expected = np.ones(5, dtype=complex)
    for corner_hz, kind in ((device.high_pass_hz, "highpass"), (device.low_pass_hz, "lowpass")):
        expected *= signal.freqs(*signal.butter(2, corner_hz, kind, analog=True), worN=frequency_hz)[1]
    np.testing.assert_allclose(flat.response(frequency_hz), expected, rtol=1e-9)
    gain_db = 20 * np.log10(np.abs(device.response(frequency_hz) / flat.response(frequency_hz)))
    assert gain_db[2] == pytest.approx(device.resonance_db)
    assert gain_db[0] == pytest.approx(0, abs=0.2)


def test_stethoscope_keeps_time_and_level_at_a_higher_rate() -> None:
    device = Stethoscope("test", 4000, (1, 4), ("sc",), 1e-3, 1e9, 500, 0, noise_floor=0)
    sound = signal.windows.hann(2000) * np.sin(2 * np.pi * 300 * np.arange(2000) / 4000)
    heard = device.record(sound, default_rng(0), oversampling=4)
    assert len(heard) == 8000
    np.testing.assert_allclose(heard[::4], sound, atol=1e-4)
    assert spectral_peak_hz(heard, 16_000) == pytest.approx(300, abs=1)


def test_breath_envelope_is_a_hump_for_each_phase() -> None:
    envelope = breath_envelope(1000, 100, np.array([[1.0, 3.0], [5.0, 6.0]]), 2.0)
    assert envelope[:100].max() == envelope[300:500].max() == envelope[600:].max() == 0
    assert envelope[199:201] == pytest.approx([1, 1], abs=1e-3)
    assert envelope[550] == pytest.approx(np.sin(np.pi * 50.5 / 100) ** 2)


def test_heart_beats_twice_in_a_period_and_low() -> None:
    beats = heart_sounds(40_000, 4000, default_rng(0), beats_per_minute=60)
    loudness = np.abs(signal.hilbert(beats))
    peaks, _ = signal.find_peaks(loudness, height=0.4, distance=400)
    assert len(peaks) == pytest.approx(20, abs=2)
    frequency_hz, power = signal.welch(beats, 4000, nperseg=4000)
    assert power[(frequency_hz > 20) & (frequency_hz < 150)].sum() > 0.98 * power.sum()


def test_rustle_swells_slowly() -> None:
    wave = rustle(4000, default_rng(0), duration_s=0.2)
    assert len(wave) == 800
    assert np.abs(wave[:40]).max() < 0.1 * np.abs(wave).max()
    assert np.abs(wave[-40:]).max() < 0.1 * np.abs(wave).max()

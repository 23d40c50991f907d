"""What a user gets wrong: one clear line, exit code 2, nothing half written."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, ModelSettings
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import make_classifier
from lungsound.training.checkpoint import read_checkpoint, write_checkpoint
from lungsound.training.model_file import FACTS_KEY, MODEL_FORMAT, read_arrays, save_model, write_arrays
from tests.integration.command import lungsound
from tests.unit.data.trees import NORMAL, write_icbhi, write_sound

NAMES = ["101_1b1_Al_sc_Meditron", "102_1b1_Ar_sc_Meditron"]
SMALL = ["audio.duration_s=0.5", "audio.num_mels=32", "model.stride=16", "train.batch_size=2", "train.epochs=1"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))


def write_corpus(folder: Path) -> Path:
    """Two recordings of two cycles each, one patient for training and one for the test."""
    write_icbhi(folder, dict.fromkeys(NAMES, NORMAL + "1.5\t1.9\t1\t0\n"))
    (folder / "official_split.txt").write_text(f"{NAMES[0]}\ttrain\n{NAMES[1]}\ttest\n")
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a corpus and a run trained on it, and a copy of it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGSOUND_CACHE", str(folder / "cache"))
        blank_pictures(patch)
        assert train(write_corpus(folder / "work" / "corpus"), folder / "work" / "out") == 0
    shutil.copytree(folder / "work", folder / "copy")
    return folder / "work", folder / "copy"


@pytest.fixture
def finished(trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> tuple[Path, Path]:
    """A corpus and a run that was trained on it, for this test to change."""
    shutil.rmtree(trained[0])
    shutil.copytree(trained[1], trained[0])
    capsys.readouterr()
    return trained[0] / "corpus", trained[0] / "out"


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """A model that was not trained, in the folder of a run."""
    audio, architecture = AudioSettings(duration_s=0.5, num_mels=32), ModelSettings(size="micro", stride=16)
    model = make_classifier(architecture, FrontEnd(audio), LABEL_SETS["sound4"])
    model.initialize(torch.Generator().manual_seed(0))
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "model.safetensors"
    save_model(path, model, audio=audio, architecture=architecture, mean=-4.0, std=4.0, label_set=LABEL_SETS["sound4"])
    return path


def one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """The one line on stderr, which names all of `parts`."""
    err = capsys.readouterr().err
    assert err.startswith("lungsound: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def train(corpus: Path, out: Path, *settings: str, recipe: str = "demo") -> int:
    sets = [part for setting in (*SMALL, "data.protocol=published", *settings) for part in ("--set", setting)]
    return lungsound("train", recipe, "--data", corpus, "--out", out, *sets)


def assert_nothing_written(tmp_path: Path) -> None:
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "cache").exists() or not any((tmp_path / "cache").rglob("*.npy"))


@pytest.fixture(autouse=True)
def _blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    blank_pictures(monkeypatch)


def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in {"draw_confusion": 2, "draw_score_intervals": 1, "draw_curves": 1}.items():
        monkeypatch.setattr(f"lungsound.evaluation.report.{name}", lambda *a, at=place, **_: a[at].write_bytes(b""))


# ---- corpora ----


def test_the_corpus_of_these_tests_is_fine(corpus: Path) -> None:
    assert lungsound("data", "check", corpus) == 0


def truncate_wav(corpus: Path) -> None:
    path = corpus / f"{NAMES[0]}.wav"
    path.write_bytes(path.read_bytes()[:-1000])


def empty_wav(corpus: Path) -> None:
    write_sound(corpus / f"{NAMES[0]}.wav", num_samples=0)


def letters(corpus: Path) -> None:
    (corpus / f"{NAMES[0]}.txt").write_text("0.5\tabc\t0\t0\n")


def label_2(corpus: Path) -> None:
    (corpus / f"{NAMES[0]}.txt").write_text(NORMAL + "1.5\t1.9\t2\t0\n")


def no_annotation(corpus: Path) -> None:
    (corpus / f"{NAMES[0]}.txt").unlink()


BAD_CORPORA = {
    truncate_wav: ("bad sound file", "truncated"),
    empty_wav: ("bad sound file", "0 samples"),
    letters: ("bad annotation", f"{NAMES[0]}.txt line 1", "'abc'"),
    label_2: ("bad annotation", f"{NAMES[0]}.txt line 2", "'2'", "expected 0 or 1"),
    no_annotation: ("missing annotation", NAMES[0]),
}


@pytest.mark.parametrize(("spoil", "parts"), BAD_CORPORA.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_corpus(spoil, parts: tuple[str, ...], corpus: Path, tmp_path: Path, capsys) -> None:
    spoil(corpus)
    assert train(corpus, tmp_path / "out") == 2
    one_line(capsys, *parts, str(corpus), "lungsound data check")
    assert_nothing_written(tmp_path)
    assert lungsound("data", "check", corpus) == 2
    assert parts[-1] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["train", "check", "demo"])
def test_a_folder_without_recordings(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "corpus"
    empty.mkdir()
    calls = {
        "train": ["train", "demo", "--data", empty, "--out", tmp_path / "out"],
        "check": ["data", "check", empty],
        "demo": ["demo", "--data", empty, "--out", tmp_path / "out"],
    }
    assert lungsound(*calls[command]) == 2
    one_line(capsys, f"no corpus in {empty}", "sound files with .txt beside them")
    assert_nothing_written(tmp_path)


def test_no_corpus_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lungsound("train", "demo", "--out", tmp_path / "out") == 2
    one_line(capsys, "no corpus given", "--data DIR")
    assert lungsound("train", "demo", "--data", tmp_path / "none", "--out", tmp_path / "out") == 2
    one_line(capsys, f"no folder {tmp_path / 'none'}")
    assert_nothing_written(tmp_path)


# ---- recipes and settings ----


def test_a_recipe_with_an_unknown_key(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text("extends = 'demo'\n[train]\nepoch = 3\n")
    assert train(corpus, tmp_path / "out", recipe=str(tmp_path / "mine.toml")) == 2
    one_line(capsys, "mine.toml", "unknown key 'train.epoch'", "the keys there are: epochs")
    assert_nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["train.epcohs=3"], ("unknown key 'train.epcohs'", "epochs, batch_size")),
        (["train.epochs"], ("override 'train.epochs'", "section.key=value")),
        (["train.epochs=none"], ("train.epochs", "valid integer")),
        (["train.device=cpu", "train.precision=fp16"], ("fp16 needs a GPU",)),
        (["train.device=abacus"], ("device 'abacus' is not known", "use auto, cpu")),
        (["data.split=fold9"], ("fold9",)),
        (["data.devices=['Stethos']"], ("no cycles", "Stethos")),
        (["data.label_set=diagnosis2"], ("needs each patient's diagnosis",)),
        (["train.batch_size=50"], ("2 training cycles fill no batch of 50",)),
        (["data.protocol=strict"], ("needs 2 or more training patients, got 1", "data.protocol=published")),
        (["train.selection=validation"], ("needs held-out patients", "data.protocol=strict")),
        (["objective.projection_dim=5"], ("projection_dim is 5", "project_*")),
        (["objective.is_class_weighted=true"], ("training cycles of every class",)),
        (["model.pretrained=nowhere"], ("weights 'nowhere'", "deit-tiny")),
    ],
)
def test_settings_that_make_no_sense(
    settings: list[str], parts: tuple[str, ...], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(corpus, tmp_path / "out", *settings) == 2
    one_line(capsys, *parts)
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(corpus, tmp_path / "out", recipe="patchmix") == 2
    one_line(capsys, "no recipe 'patchmix'", "tiny_patchmix_cl")
    assert_nothing_written(tmp_path)


def test_a_file_in_the_place_of_the_run(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert train(corpus, tmp_path / "out") == 2
    one_line(capsys, str(tmp_path / "out"))


# ---- weights ----


def test_a_checkpoint_of_another_shape(model_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, facts = read_arrays(model_path, expected_format=MODEL_FORMAT)
    write_arrays(model_path, tensors, facts | {"label_set": "sound2"})
    assert lungsound("predict", corpus / f"{NAMES[0]}.wav", "--model", model_path.parent) == 2
    one_line(capsys, str(model_path), "does not fit this model")


def resume(corpus: Path, out: Path) -> int:
    settings = [part for setting in (*SMALL, "data.protocol=published") for part in ("--set", setting)]
    return lungsound("train", "demo", "--data", corpus, "--out", out, *settings, "--resume")


def test_resuming_from_a_checkpoint_of_another_shape(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, out = finished
    checkpoint = out / "checkpoint.safetensors"
    tensors, facts = read_checkpoint(checkpoint)
    write_checkpoint(checkpoint, tensors | {"model.encoder.cls_token": torch.zeros(1, 1, 5)}, facts)
    before = checkpoint.read_bytes()
    assert resume(corpus, out) == 2
    one_line(capsys, str(checkpoint), "does not fit this run")
    assert checkpoint.read_bytes() == before


def test_resuming_on_a_corpus_that_has_changed(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    corpus, out = finished
    (corpus / f"{NAMES[0]}.txt").write_text("0.5\t1.5\t1\t1\n1.5\t1.9\t1\t0\n")
    assert resume(corpus, out) == 2
    one_line(capsys, str(corpus))


def test_evaluating_on_a_corpus_without_training_part(finished: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, out = finished
    (corpus / "official_split.txt").write_text("".join(f"{name}\ttest\n" for name in NAMES))
    assert lungsound("evaluate", out, "--data", corpus, "--out", tmp_path / "elsewhere") == 0


def test_pretrained_weights_of_another_shape(
    model_path: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3, 3)}, foreign, metadata={FACTS_KEY: "{}"})
    assert load_file(foreign)
    assert train(corpus, tmp_path / "out", f"model.pretrained={foreign}") == 2
    one_line(capsys, str(foreign))
    assert train(corpus, tmp_path / "out", f"model.pretrained={model_path}", "model.size=tiny") == 2
    one_line(capsys, str(model_path))
    assert not (tmp_path / "out").exists()


def test_predict_without_a_run(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = corpus / f"{NAMES[0]}.wav"
    assert lungsound("predict", sound, "--model", corpus) == 2
    one_line(capsys, str(corpus / "model.safetensors"), "give the folder of a run")
    assert lungsound("predict", sound, "--model", corpus / "nowhere") == 2
    one_line(capsys, f"no run {corpus / 'nowhere'}: give the folder of a run")
    assert lungsound("predict", sound, "--model", sound) == 2
    one_line(capsys, str(sound), "no safetensors file")
    assert lungsound("evaluate", corpus) == 2
    one_line(capsys, str(corpus), "is not the folder of a run")


def test_predict_on_what_is_no_sound(model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("0.5\t1.5\t0\t0\n")
    assert lungsound("predict", text, "--model", model_path.parent) == 1
    one_line(capsys, str(text), "no sound file")
    assert lungsound("predict", tmp_path, "--model", model_path.parent) == 2
    one_line(capsys, str(tmp_path), "no sound files")


def test_a_bad_recording_does_not_keep_the_others_from_an_answer(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.wav", tmp_path / "bad.wav"
    soundfile.write(good, np.random.default_rng(0).normal(0, 0.1, 8000), 8000, subtype="PCM_16")
    shutil.copy(good, bad)
    bad.write_bytes(bad.read_bytes()[:-100])
    assert lungsound("predict", bad, good, "--model", model_path.parent) == 1
    captured = capsys.readouterr()
    assert "good.wav" in captured.out
    assert captured.err.count("\n") == 1
    assert str(bad) in captured.err
    assert "truncated" in captured.err


def test_evaluating_elsewhere_needs_a_place_for_the_report(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, out = finished
    before = sorted(path.name for path in out.iterdir())
    assert lungsound("evaluate", out, "--data", corpus) == 2
    one_line(capsys, "--out DIR")
    assert sorted(path.name for path in out.iterdir()) == before

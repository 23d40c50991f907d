"""A folder that transformers loads as it is, and gives our logits."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from markupsafe import Markup
from torch import Tensor

from lungsound.audio.filter_bank import normalize
from lungsound.audio.front_end import Sound
from lungsound.config import AudioSettings, ModelSettings
from lungsound.errors import SettingsError
from lungsound.inference.engines import Parity, make
from lungsound.inference.graph import quiet
from lungsound.inference.hugging_face import (
    extractor_config,
    feature_scale,
    hugging_face_config,
    hugging_face_weights,
    write_card,
    write_hugging_face,
)
from lungsound.inference.predictor import Predictor
from lungsound.models.weights import load_weights
from lungsound.page import facts, paragraphs, render_markdown
from lungsound.training.model_file import TrainedModel, load_model, save_model, unfinished
from tests.networks import make_ast
from tests.unit.inference.models import (
    AUDIO,
    EFFICIENTAT_AUDIO,
    MOBILENET,
    NORMALIZED,
    TRANSFORMER,
    saved_model,
    sounds,
)


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library: ModuleType = pytest.importorskip("transformers")
        library.utils.logging.disable_progress_bar()
        return library


CARD = paragraphs(
    Markup("## Scores"),
    Markup("![curve](curve.png)"),
    facts(
        {
            "pretrained weights": "/srv/ann lee/weights/deit.safetensors",
            "command": "/srv/ann/venv/bin/lungsound train tiny --data '/srv/ann lee/icbhi/'",
        }
    ),
)


def spoilt_model(folder: Path) -> TrainedModel:
    """With every parameter drawn, so that one that is left out or exchanged shows, and features of little variance."""
    trained = saved_model(folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        encoder = trained.model.patch_encoder
        encoder.norm.weight.mul_(0.003)  # so that the epsilon of the head counts
        encoder.norm.bias.mul_(0.003)
    settings: dict[str, Any] = {"audio": AUDIO, "architecture": TRANSFORMER, "label_set": trained.label_set}
    save_model(folder / "model.safetensors", trained.model, mean=trained.mean, std=trained.std, **settings)
    return load_model(folder / "model.safetensors")


Exported = tuple[TrainedModel, Path, Parity, Parity]


@pytest.fixture(scope="module")
def exported(transformers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    del transformers
    base = tmp_path_factory.mktemp("hf")
    trained = spoilt_model(base / "run")
    (base / "run" / "MODEL_CARD.md").write_text(render_markdown("Model card: tiny", CARD))
    (base / "run" / "curve.png").write_bytes(b"png")
    numbers = {name: {"value": value} for name, value in (("score", 0.5), ("specificity", 0.7), ("sensitivity", 0.3))}
    report = {"context": {"corpus": "icbhi, 2 recordings", "recipe": "tiny"}, "all_classes": numbers}
    (base / "run" / "report.json").write_text(json.dumps(report))
    checked = write_hugging_face(base / "run" / "model.safetensors", base / "hf", sounds(trained))
    return trained, base / "hf", *checked


def fbanks(trained: TrainedModel, cycles: list[Sound]) -> Tensor:
    clips = np.stack([trained.front_end.fit(cycle.waveform) for cycle in cycles])
    return torch.from_numpy(normalize(trained.front_end.filter_banks(clips), mean=trained.mean, std=trained.std))


@torch.inference_mode()
def test_the_library_has_our_logits(exported: Exported, transformers: ModuleType) -> None:
    trained, folder, _, _ = exported
    model, told = transformers.AutoModelForAudioClassification.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    assert type(model).__name__ == "ASTForAudioClassification"
    assert list(model.config.id2label.values()) == list(trained.label_set.classes)
    fbank = fbanks(trained, sounds(trained))
    ours = trained.model(fbank)
    torch.testing.assert_close(model(fbank).logits, ours, atol=1e-5, rtol=0)
    features = model.audio_spectrogram_transformer(fbank).pooler_output / model.config.lungsound["feature_scale"]
    torch.testing.assert_close(features, trained.model.encoder(fbank), atol=1e-5, rtol=1e-4)
    # What the fold is for: with the library's own epsilon in the head the logits would be others.
    trained.model.head[0].eps = trained.model.patch_encoder.norm.eps
    assert (trained.model(fbank) - ours).abs().max() > 1e-3
    trained.model.head[0].eps = 1e-5


def test_the_fold_is_the_closed_form(exported: Exported) -> None:
    trained = exported[0]
    assert feature_scale(trained.model) == pytest.approx(0.1**0.5)
    x = torch.linspace(-0.01, 0.02, 96, dtype=torch.float64)
    folded = torch.nn.functional.layer_norm(x * 0.1**0.5, (96,), eps=1e-6)
    torch.testing.assert_close(folded, torch.nn.functional.layer_norm(x, (96,), eps=1e-5))


def test_the_pipeline_answers_for_a_sound_file(exported: Exported, transformers: ModuleType, tmp_path: Path) -> None:
    trained, folder, fitted, _ = exported
    assert (fitted.num_cycles, fitted.share) == (len(sounds(trained)), 1.0)
    assert fitted.largest_difference < 1e-4
    cycle = Sound(0.1 * sounds(trained)[0].waveform)
    path = tmp_path / "cycle.wav"
    soundfile.write(path, trained.front_end.fit(cycle.waveform), 16000, subtype="FLOAT")
    with quiet():
        pipeline = transformers.pipeline("audio-classification", model=str(folder))
        given = pipeline(soundfile.read(path, dtype="float32")[0])
        with_ffmpeg = pipeline(str(path)) if shutil.which("ffmpeg") else given
    expected = make("torch", trained).predict([cycle])[0][0]
    for answers in (given, with_ffmpeg):
        scores = {each["label"]: each["score"] for each in answers}
        got = [scores[name] for name in trained.label_set.classes]
        assert got == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_bare_cycle_is_counted_apart(exported: Exported) -> None:
    trained, folder, fitted, unpadded = exported
    assert unpadded.largest_difference > 100 * fitted.largest_difference
    card = (folder / "README.md").read_text()
    num = len(sounds(trained))
    assert f"gave lungsound's classes on {num} of {num} real cycles" in card
    assert f"Without fitting it gave lungsound's classes on {round(num * unpadded.share)} of {num}" in card


@pytest.mark.parametrize("changes", [{}, {"padding": "zero"}, {"fade_s": 0.0}])
def test_the_card_fits_cycles_as_we_do(changes: dict[str, Any], tmp_path: Path) -> None:
    trained = saved_model(tmp_path, audio=AUDIO.model_copy(update=changes))
    agreed = Parity(1, 1.0, 0.0)
    write_card(tmp_path, trained, run=tmp_path, fitted=agreed, unpadded=agreed)
    code = (tmp_path / "README.md").read_text().split("```")[1]
    names: dict[str, Any] = {"numpy": np}
    exec(code[code.index("def fitted") : code.rindex("classify(")], names)
    fitted: Callable[[Any], Any] = names["fitted"]
    for num_samples in (1000, 5001, 15999, 16000, 16001, 30000):
        cycle = np.random.default_rng(num_samples).standard_normal(num_samples, np.float32)
        np.testing.assert_allclose(fitted(cycle), trained.front_end.fit(cycle), atol=1e-6)


def test_the_card_has_the_runs_words_and_numbers(exported: Exported) -> None:
    folder = exported[1]
    yaml = pytest.importorskip("yaml")
    _, matter, text = (folder / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(matter)
    assert values["pipeline_tag"] == "audio-classification"
    (result,) = values["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.5, 0.7, 0.3]
    headings = [line for line in text.splitlines() if line.startswith("#") and not line.startswith("# repeats")]
    assert headings == ["# Model card: tiny", "## With transformers", "## Scores"]
    assert "- License: not stated; the terms of the training corpus" in text
    assert (folder / "curve.png").read_bytes() == b"png"


def test_the_card_says_nothing_of_folders_on_the_trainers_machine(exported: Exported) -> None:
    text = (exported[1] / "README.md").read_text()
    assert "| pretrained weights | deit.safetensors |\n" in text
    assert "| command |" not in text
    assert not re.search(r"ann\b|srv|\ball\\|my ", text)


def test_a_run_without_a_card_has_its_scores(tmp_path: Path) -> None:
    trained, agreed = saved_model(tmp_path), Parity(1, 1.0, 0.0)
    told = "No evaluation of this model is known."
    write_card(tmp_path, trained, run=tmp_path, fitted=agreed, unpadded=agreed)
    assert told in (tmp_path / "README.md").read_text()
    numbers = {name: {"value": 0.5} for name in ("score", "specificity", "sensitivity")}
    (tmp_path / "report.json").write_text(json.dumps({"context": {}, "all_classes": numbers}))
    write_card(tmp_path, trained, run=tmp_path, fitted=agreed, unpadded=agreed)
    text = (tmp_path / "README.md").read_text()
    assert told not in text
    assert "the scores above are known" in text


def test_a_run_is_not_overwritten(transformers: ModuleType, tmp_path: Path) -> None:
    del transformers
    saved_model(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(SettingsError, match="holds a model that was not exported, maybe a run: give another --out"):
        write_hugging_face(tmp_path / "model.safetensors", tmp_path, [])
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_an_export_stands_in_for_an_earlier_one(exported: Exported, tmp_path: Path) -> None:
    trained, folder = exported[:2]
    shutil.copytree(folder, tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text("{}")
    shutil.copy(folder / "lungsound.safetensors", tmp_path / "model.safetensors")
    write_hugging_face(tmp_path / "model.safetensors", tmp_path / "hf", sounds(trained)[:1])
    assert (tmp_path / "hf" / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_one_folder_serves_us_too(exported: Exported) -> None:
    trained, folder = exported[:2]
    for place in (folder, folder / "lungsound.safetensors"):
        assert Predictor.load(place).trained.sha256 == trained.sha256
    assert unfinished(folder) is None
    encoder = trained.model.patch_encoder
    ours = make_ast(num_mels=32, num_frames=98, dim=96, depth=4, num_heads=3, stride=16)
    report = load_weights(ours, folder, ModelSettings())
    assert not report.differences
    assert report.source_format == "AST, Hugging Face"
    for name, value in ours.state_dict().items():
        scale = feature_scale(trained.model) if name.startswith("norm.") else 1.0
        torch.testing.assert_close(value, encoder.state_dict()[name] * scale, rtol=1e-6, atol=0)


def test_the_files_are_readable_by_all_and_no_more_than_named(exported: Exported) -> None:
    folder = exported[1]
    names = ["README.md", "config.json", "curve.png", "lungsound.safetensors", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "preprocessor_config.json"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_configs_are_the_librarys_own(exported: Exported, transformers: ModuleType) -> None:
    """Every key of ours is one that the library writes itself, and its model has our weights and no others."""
    trained = exported[0]
    known = set(transformers.ASTConfig().to_dict()) | {"id2label", "label2id", "problem_type", "architectures"}
    assert set(hugging_face_config(trained.model)) <= known
    with quiet():
        extractor = transformers.ASTFeatureExtractor().to_dict()
    assert set(extractor_config(trained)) <= set(extractor)
    theirs = transformers.ASTForAudioClassification(transformers.ASTConfig(**hugging_face_config(trained.model)))
    assert sum(value.numel() for value in theirs.parameters()) == sum(
        value.numel() for value in hugging_face_weights(trained.model, scale=1.0).values()
    )


@pytest.mark.parametrize(
    ("audio", "architecture", "told"),
    [
        (EFFICIENTAT_AUDIO, MOBILENET, "model.architecture 'ast', and this has 'mn04'"),
        (AUDIO.model_copy(update={"is_padding_encoded": False}), TRANSFORMER, "audio.is_padding_encoded True"),
        (AUDIO, TRANSFORMER.model_copy(update={"pooling": "average_token"}), "this has 'average_token'"),
        (
            AUDIO.model_copy(update={"sample_rate_hz": 4000}),
            TRANSFORMER,
            "audio.sample_rate_hz 16000, and this has 4000",
        ),
        (NORMALIZED, TRANSFORMER, "audio.is_recording_normalized False"),
    ],
)
def test_what_the_library_cannot_compute_is_refused(
    audio: AudioSettings, architecture: ModelSettings, told: str, tmp_path: Path
) -> None:
    trained = saved_model(tmp_path / "run", audio=audio, architecture=architecture)
    with pytest.raises(SettingsError, match=f"transformers cannot compute this model: .*{told}.*to onnx"):
        write_hugging_face(tmp_path / "run" / "model.safetensors", tmp_path / "hf", sounds(trained))
    assert not (tmp_path / "hf").exists()


def test_without_cycles_no_files_are_left(transformers: ModuleType, tmp_path: Path) -> None:
    del transformers
    saved_model(tmp_path / "run")
    with pytest.raises(SettingsError, match="checked on cycles, and there are none"):
        write_hugging_face(tmp_path / "run" / "model.safetensors", tmp_path / "hf", [])
    assert not any((tmp_path / "hf").iterdir())

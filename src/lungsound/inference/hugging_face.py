"""A trained model as a folder that transformers loads as it is, and `Predictor.load` too: the same logits."""

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from lungsound.audio.filter_bank import normalize
from lungsound.audio.front_end import Sound
from lungsound.axes import PATCH_SIZE
from lungsound.errors import DataError, SettingsError
from lungsound.evaluation.report import MODEL_CARD
from lungsound.extras import load
from lungsound.files import read_json, write_text, written_together
from lungsound.inference.engines import Floats, Parity, make, parity
from lungsound.inference.graph import quiet
from lungsound.inference.model_files import LICENSE, checked, facts_of
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.hub import OWN_FILE
from lungsound.models.weights import LAYOUTS
from lungsound.page import DISCLAIMER, render
from lungsound.training.model_file import TrainedModel, load_model

# The row of the run's card on the command, and the folders of pretrained weights: where they lie is nobody's business.
PRIVATE = re.compile(
    r"^\| command \| .*\n|(?<=^\| pretrained weights \| )(?!hf://).*(?:/|\\\\)(?=[^/]+ \|$)", re.MULTILINE
)
RATE_HZ = 16000  # the only one at which the library's own filter bank has the frames that we have
HEAD_NAMES = {"0": "classifier.layernorm", "1": "classifier.dense"}


def write_hugging_face(model_file: Path, folder: Path, cycles: Sequence[Sound]) -> tuple[Parity, Parity]:
    """Write the folder, checked by the library on `cycles` as `FrontEnd.cut` gives them.

    Returns the parity of the library's pipeline with torch on cycles fitted to the input as the card says, and on the
    cycles as they are, which it pads with zeros of its own. SettingsError for a model that the library has no equal of,
    and for a folder of another model; WeightsError, and no files, for other probabilities.
    """
    trained = load_model(model_file)
    check_expressible(trained)
    if (folder / "model.safetensors").exists() and not (folder / OWN_FILE).exists():
        raise SettingsError(f"{folder} holds a model that was not exported, maybe a run: give another --out")
    with quiet():
        library = load("transformers", extra="baselines")
    front_end, classes, scale = trained.front_end, trained.label_set.classes, feature_scale(trained.model)
    with written_together(folder) as staging:
        weights = hugging_face_weights(trained.model, scale=scale)
        (staging / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
        facts = facts_of(trained) | {"feature_scale": scale}
        configs = {
            "config.json": hugging_face_config(trained.model) | {"lungsound": facts},
            "preprocessor_config.json": extractor_config(trained),
        }
        for name, values in configs.items():
            (staging / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(model_file, staging / OWN_FILE)
        with quiet():
            library.utils.logging.disable_progress_bar()
            pipeline = library.pipeline("audio-classification", model=str(staging), top_k=len(classes), device="cpu")

            def probabilities_of(cycle: Floats) -> Floats:
                fbank = front_end.filter_banks(front_end.fit(cycle[0])[np.newaxis])
                fbank = normalize(fbank, mean=trained.mean, std=trained.std)
                logits = pipeline.model(torch.from_numpy(fbank)).logits
                probabilities: Floats = logits.softmax(dim=1).numpy()
                return probabilities

            def piped(waveforms: Sequence[Floats]) -> Floats:
                scores = [{each["label"]: each["score"] for each in pipeline(one)} for one in waveforms]
                return np.array([[each[name] for name in classes] for each in scores], np.float32)

            checked(trained, cycles, probabilities_of)
            exact = [make("torch", trained).predict(cycles)[0]]
            fitted = parity(exact, [piped([front_end.fit(cycle.waveform) for cycle in cycles])])
            unpadded = parity(exact, [piped([cycle.waveform for cycle in cycles])])
        write_card(staging, trained, run=model_file.parent, fitted=fitted, unpadded=unpadded)
    return fitted, unpadded


def write_card(folder: Path, trained: TrainedModel, *, run: Path, fitted: Parity, unpadded: Parity) -> None:
    """Write README.md into `folder`: how to use the pipeline, its parity, and the run's own card and scores."""
    card, report, front_end = run / MODEL_CARD, run / "report.json", trained.front_end
    title, _, rest = card.read_text(encoding="utf-8").partition("\n") if card.is_file() else ("", "", "")
    for picture in re.findall(r"^!\[.*\]\(([^()/]+)\)$", rest, re.MULTILINE):
        shutil.copyfile(run / picture, folder / picture)
    text = render(
        "hugging_face.md",
        title=title or "# Model card: lungsound model",
        card=PRIVATE.sub("", rest),
        report=read_json(report, DataError) if report.is_file() else None,
        fitted=fitted,
        unpadded=unpadded,
        trained=trained,
        num_faded=min(front_end.num_fade_samples, front_end.num_samples),
        license=LICENSE,
        disclaimer=DISCLAIMER,
    )
    write_text(folder / "README.md", text)


def check_expressible(trained: TrainedModel) -> None:
    """SettingsError, saying why, for a model that transformers has no equal of."""
    audio, encoder = trained.front_end.audio, trained.model.encoder
    is_ast = isinstance(encoder, AudioSpectrogramTransformer)
    needed_and_given = {
        "model.architecture": ("ast", "ast" if is_ast else encoder.architecture),
        "model.pooling": ("class_token", encoder.pooling if is_ast else "class_token"),
        "audio.is_padding_encoded": (True, audio.is_padding_encoded),
        "audio.filter_bank": ("kaldi", audio.filter_bank),
        "audio.sample_rate_hz": (RATE_HZ, audio.sample_rate_hz),
        "audio.is_recording_normalized": (False, audio.is_recording_normalized),
    }
    for name, (needed, given) in needed_and_given.items():
        if needed != given:
            raise SettingsError(
                f"transformers cannot compute this model: it needs {name} {needed!r}, and this has {given!r}; export "
                "it to onnx instead"
            )


def feature_scale(model: LungSoundClassifier) -> float:
    """Factor from our features to the library's.

    Its head normalises with the epsilon of its encoder (1e-6), ours with 1e-5. (c x - c m) / sqrt(c^2 v + e) is
    (x - m) / sqrt(v + e / c^2), so features that are c = sqrt(e / e') as large give what epsilon e' gives. The last
    norm of the encoder, which nothing else reads, scales them.
    """
    return math.sqrt(model.patch_encoder.norm.eps / cast(nn.LayerNorm, model.head[0]).eps)


def hugging_face_weights(model: LungSoundClassifier, *, scale: float) -> dict[str, Tensor]:
    """Copies of encoder and head under the names of the library's files, which each version reads.

    `scale` is that of the features: `feature_scale`, or 1 where the library's head gets our epsilon afterwards.
    """
    names = {ours: theirs for theirs, ours in LAYOUTS["AST, Hugging Face"].stems.items()}
    weights = {f"{HEAD_NAMES[key[0]]}{key[1:]}": value.clone() for key, value in model.head.state_dict().items()}
    for key, value in model.encoder.state_dict().items():
        block = re.match(r"blocks\.(\d+)\.", key)
        place = "audio_spectrogram_transformer." + (f"encoder.layer.{block[1]}." if block else "")
        name = key[block.end() :] if block else key
        stem, _, leaf = name.rpartition(".")
        if name in names:
            weights[f"{place}{names[name]}"] = value.clone()
        elif stem == "attn.qkv":
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                weights[f"{place}{names[f'attn.{part}']}.{leaf}"] = rows.clone()
        else:
            factor = scale if stem == "norm" else 1.0
            weights[f"{place}{names[stem]}.{leaf}"] = (value.double() * factor).float()
    return weights


def hugging_face_config(model: LungSoundClassifier) -> dict[str, Any]:
    """config.json of the library's ASTForAudioClassification."""
    values = {"encoder": model.patch_encoder, "classes": model.classes, "patch_size": PATCH_SIZE}
    config: dict[str, Any] = json.loads(render("hugging_face_config.json", **values))
    return config


def extractor_config(trained: TrainedModel) -> dict[str, Any]:
    """preprocessor_config.json: ASTFeatureExtractor normalises as we do, (x - mean) / (2 std)."""
    config: dict[str, Any] = json.loads(render("hugging_face_preprocessor_config.json", trained=trained))
    return config

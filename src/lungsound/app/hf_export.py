"""A trained model as a folder that the transformers library loads as it is: no code of ours, the same logits.

model.safetensors, config.json, preprocessor_config.json   what `pipeline("audio-classification", model=DIR)` reads
lungsound.safetensors                                       the model file that it was made from, for `Predictor.load`
README.md                                                   the model card, with what a user of the pipeline must know
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lungsound.app.hf_card import model_card
from lungsound.app.hub import OWN_FILE
from lungsound.app.model_files import checked, facts_of, written_together
from lungsound.audio.fbank import normalize
from lungsound.axes import PATCH_SIZE
from lungsound.checkpoint import TrainedModel, load_model
from lungsound.engines.agreement import Agreement, agreement
from lungsound.engines.export import quiet
from lungsound.engines.extras import load
from lungsound.engines.torch_engine import TorchEngine
from lungsound.errors import SettingsError
from lungsound.model.classifier import LungSoundClassifier
from lungsound.model.encoder import AudioSpectrogramTransformer, Block
from lungsound.model.encoder_weights import HUGGING_FACE_NAMES, HUGGING_FACE_PREFIX, QUERY_KEY_VALUE

RATE_HZ = 16000  # the only one at which the library's own filter bank has the frames that we have
HEAD_NAMES = {"0": "classifier.layernorm", "1": "classifier.dense"}


@dataclass(frozen=True)
class HuggingFaceExport:
    """How often the library answers as we do, on the same cycles.

    weights     from our filter bank: what its model computes
    pipeline    its pipeline on cycles fitted to the input as the card says
    bare        its pipeline on the cycles as they are, which it pads with zeros of its own
    """

    weights: Agreement
    pipeline: Agreement
    bare: Agreement


def write_hugging_face(model_file: Path, folder: Path, cycles: Sequence[Tensor]) -> HuggingFaceExport:
    """Write the folder, checked by the library on `cycles`: waveforms (samples,) as `FrontEnd.cut` gives them.

    What the run's folder says of the model (MODEL_CARD.md, report.json) goes into the card. SettingsError for a model
    that the library has no equal of, without the library, and for a folder that holds a model which was not exported;
    WeightsError, and no files, when it answers otherwise.
    """
    trained = load_model(model_file)
    check_expressible(trained)
    if (folder / "model.safetensors").exists() and not (folder / OWN_FILE).exists():
        raise SettingsError(f"{folder} holds a model that was not exported, maybe a run: give another --out")
    with quiet():
        library = load("transformers", extra="baselines")
    with written_together(folder) as staging:
        weights = hugging_face_weights(trained.model, scale=feature_scale(trained.model))
        (staging / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
        facts = facts_of(trained) | {"feature_scale": feature_scale(trained.model)}
        _write(staging / "config.json", hugging_face_config(trained.model) | {"lungsound": facts})
        _write(staging / "preprocessor_config.json", extractor_config(trained))
        shutil.copyfile(model_file, staging / OWN_FILE)
        found = _measure(trained, staging, cycles, library)
        model_card(staging, trained, run=model_file.parent, pipeline=found.pipeline, bare=found.bare)
    return found


def check_expressible(trained: TrainedModel) -> None:
    """SettingsError, saying why, for a model that transformers has no equal of."""
    front_end, encoder = trained.front_end, trained.model.encoder
    if not isinstance(encoder, AudioSpectrogramTransformer):
        why = f"it has no {encoder.architecture} for sound"
    elif not front_end.is_padding_encoded:
        why = (
            "its Audio Spectrogram Transformer hears padding too (no mask), and this has audio.is_padding_encoded=false"
        )
    elif encoder.pooling != "class_token":
        why = (
            f"its Audio Spectrogram Transformer pools the class tokens, and this has model.pooling {encoder.pooling!r}"
        )
    elif (front_end.filter_bank, front_end.sample_rate_hz) != ("kaldi", RATE_HZ):
        why = (
            f"its filter bank is Kaldi's at {RATE_HZ} Hz, and this has {front_end.filter_bank!r} at "
            f"{front_end.sample_rate_hz} Hz"
        )
    else:
        return
    raise SettingsError(f"transformers cannot answer as this model does: {why}; export it to onnx instead")


def feature_scale(model: LungSoundClassifier) -> float:
    """What the library's features are of ours.

    Its head normalises with the epsilon of its encoder (1e-6), ours with 1e-5. (c x - c m) / sqrt(c^2 v + e) is
    (x - m) / sqrt(v + e / c^2), so features that are c = sqrt(e / e') as large give what epsilon e' gives. The last
    norm of the encoder, which nothing else reads, scales them.
    """
    return math.sqrt(model.patch_encoder.norm.eps / cast(nn.LayerNorm, model.head[0]).eps)


def hugging_face_weights(model: LungSoundClassifier, *, scale: float) -> dict[str, Tensor]:
    """Copies of encoder and head under the names of the library's files, which each version reads.

    `scale` is that of the features: `feature_scale`, or 1 where the library's head gets our epsilon afterwards.
    """
    names = {ours: theirs for theirs, ours in HUGGING_FACE_NAMES.items()}
    found: dict[str, Tensor] = {}
    for key, value in model.encoder.state_dict().items():
        stem, dot, leaf = key.rpartition(".")
        block, layer = "", ""
        if key.startswith("blocks."):
            _, number, stem = stem.split(".", 2)
            block, layer = f"blocks.{number}.", f"encoder.layer.{number}."
        place = HUGGING_FACE_PREFIX + layer
        if stem == "attn.qkv":
            for part, rows in zip(QUERY_KEY_VALUE, value.chunk(3), strict=True):
                found[f"{place}{part}.{leaf}"] = rows.clone()
        elif stem == "norm" and not block:
            found[f"{place}{names[stem]}.{leaf}"] = (value.double() * scale).float()
        else:
            found[place + (f"{names[stem]}.{leaf}" if dot else names[key])] = value.clone()
    for key, value in model.head.state_dict().items():
        index, _, leaf = key.partition(".")
        found[f"{HEAD_NAMES[index]}.{leaf}"] = value.clone()
    return found


def hugging_face_config(model: LungSoundClassifier) -> dict[str, Any]:
    """config.json of the library's ASTForAudioClassification."""
    encoder, classes = model.patch_encoder, model.classes
    return {
        "model_type": "audio-spectrogram-transformer",
        "architectures": ["ASTForAudioClassification"],
        "hidden_size": encoder.dim,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": cast(Block, encoder.blocks[0]).attn.num_heads,
        "intermediate_size": 4 * encoder.dim,
        "hidden_act": "gelu",
        "layer_norm_eps": encoder.norm.eps,
        "patch_size": PATCH_SIZE,
        "frequency_stride": encoder.stride,
        "time_stride": encoder.stride,
        "max_length": encoder.num_frames,
        "num_mel_bins": encoder.num_mels,
        "qkv_bias": True,
        "problem_type": "single_label_classification",
        "id2label": {str(index): name for index, name in enumerate(classes)},
        "label2id": {name: index for index, name in enumerate(classes)},
    }


def extractor_config(trained: TrainedModel) -> dict[str, Any]:
    """preprocessor_config.json: ASTFeatureExtractor normalises as we do, (x - mean) / (2 std)."""
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": trained.front_end.sample_rate_hz,
        "num_mel_bins": trained.front_end.num_mels,
        "max_length": trained.front_end.num_frames,
        "do_normalize": True,
        "mean": trained.mean,
        "std": trained.std,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _measure(trained: TrainedModel, folder: Path, cycles: Sequence[Tensor], library: Any) -> HuggingFaceExport:
    front_end, classes = trained.front_end, trained.label_set.classes
    with quiet():
        library.utils.logging.disable_progress_bar()
        pipeline = library.pipeline("audio-classification", model=str(folder), top_k=len(classes), device="cpu")

        def logits_of(cycle: Tensor) -> Tensor:
            fbank = front_end.filter_banks(front_end.fit(cycle[0]).unsqueeze(0))
            logits: Tensor = pipeline.model(normalize(fbank, mean=trained.mean, std=trained.std)).logits
            return logits.softmax(dim=1)

        def piped(waveforms: Sequence[Tensor]) -> Tensor:
            answers = [{each["label"]: each["score"] for each in pipeline(one.numpy())} for one in waveforms]
            return torch.tensor([[answer[name] for name in classes] for answer in answers])

        weights = checked(trained, cycles, logits_of)
        exact = TorchEngine(trained, device=torch.device("cpu")).answer(cycles)
        fitted = agreement(exact, piped([front_end.fit(cycle) for cycle in cycles]))
        return HuggingFaceExport(weights, fitted, agreement(exact, piped(cycles)))


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

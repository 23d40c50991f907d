"""A trained model as a folder that the transformers library loads as it is: no code of ours, the same logits.

model.safetensors, config.json, preprocessor_config.json   what `pipeline("audio-classification", model=DIR)` reads
lungsound.safetensors                                       the model file that it was made from, for `Predictor.load`
README.md                                                   the model card, as the Hub shows it
"""

import json
import math
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lungsound.audio.filter_bank import normalize
from lungsound.axes import PATCH_SIZE
from lungsound.errors import SettingsError
from lungsound.evaluation.report import MODEL_CARD
from lungsound.extras import load
from lungsound.files import write_text
from lungsound.inference.engines import Parity, TorchEngine, parity
from lungsound.inference.graph import quiet
from lungsound.inference.model_files import LICENSE, checked, facts_of, written_together
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.models.ast import Block as AttentionBlock
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.hub import OWN_FILE
from lungsound.models.weights import LAYOUTS
from lungsound.page import DISCLAIMER, Block, Bullets, Code, Facts, Heading, render_blocks
from lungsound.training.checkpoint import TrainedModel, load_model

# Facts of the run's card in which paths may stand, and the folders of a path unless it goes down from here.
WITH_PATHS = re.compile(r"^\| (?P<name>command|pretrained weights) \| (?P<value>.*) \|$", re.MULTILINE)
FOLDERS = re.compile(r"(?<![^=\"\[, ])(?:~[^/\\]*|\.\.?|[A-Za-z]:)?[/\\](?:[^\"]*[/\\])?(?=[^/\\])")
CARD = "README.md"
TAGS = ("audio-classification", "lung-sounds", "respiratory-sounds", "audio-spectrogram-transformer")
REPEATED = """\
    whole = numpy.resize(cycle, {num_samples})  # repeats it
    whole[{first_faded}:] *= numpy.linspace(1, 0, {num_faded})
    return whole"""
ZEROS = """\
    before = ({num_samples} - len(cycle)) // 2
    return numpy.pad(cycle, (before, {num_samples} - len(cycle) - before))"""
USE = """\
import numpy
from transformers import pipeline

classify = pipeline("audio-classification", model="DIR")


def fitted(cycle):
    \"\"\"A cycle (samples,) at {rate_hz} Hz as the model was trained on it: {duration_s:g} s.\"\"\"
    if len(cycle) > {num_samples}:
        return cycle[:{num_samples}]
{padding}


classify(fitted(cycle))"""


def model_card(folder: Path, trained: TrainedModel, *, run: Path, pipeline: Parity, bare: Parity) -> Path:
    """Write README.md into `folder`: how to use the pipeline, and what the run's own card says; its path.

    The scores of the run's report.json stand in the front matter. `pipeline` and `bare` are as in HuggingFaceExport.
    Of the paths in the run's card the last names are left: where they lie is nobody's business.
    """
    card = run / MODEL_CARD
    title, _, rest = card.read_text(encoding="utf-8").partition("\n") if card.is_file() else ("", "", "")
    if not title:
        title = "# Model card: lungsound model"
        is_scored = (run / "report.json").is_file()
        known = "Of its evaluation the scores above are known" if is_scored else "No evaluation of this model is known"
        rest = f"\n{known}.\n\n*{DISCLAIMER}*\n"
    for picture in re.findall(r"^!\[.*\]\(([^()/]+)\)$", rest, re.MULTILINE):
        shutil.copyfile(run / picture, folder / picture)
    rest = WITH_PATHS.sub(_shortened, rest)
    write_text(folder / CARD, f"{_front_matter(run)}{title}\n\n{render_blocks(_use(trained, pipeline, bare))}{rest}")
    return folder / CARD


def fitting_code(trained: TrainedModel) -> str:
    """The lines of Python that the card gives for the pipeline."""
    front_end = trained.front_end
    num_samples = front_end.num_samples
    num_faded = min(front_end.num_fade_samples, num_samples)
    values = {"num_samples": num_samples, "num_faded": num_faded, "first_faded": num_samples - num_faded}
    padding = (REPEATED if front_end.audio.padding == "repeat" else ZEROS).format(**values)
    return USE.format(
        padding=padding, rate_hz=front_end.sample_rate_hz, duration_s=front_end.audio.duration_s, **values
    )


def _use(trained: TrainedModel, pipeline: Parity, bare: Parity) -> list[Block]:
    front_end, calibration = trained.front_end, trained.calibration
    scaling = "They are not calibrated."
    if calibration is not None:
        scaling = (
            "They are not calibrated; the calibration that was learnt (softmax(log p / temperature), where there is a "
            "temperature) stands in config.json under lungsound.calibration."
        )
    return [
        Heading("With transformers"),
        Code(fitting_code(trained)),
        Bullets(
            [
                f"The input is one breathing cycle, mono, full scale 1, at {front_end.sample_rate_hz} Hz, cut from a "
                f"recording whose first and last {1000 * front_end.audio.fade_s:g} ms are faded. The pipeline cuts no "
                f"cycles: of a longer sound it takes the first {front_end.audio.duration_s:g} s.",
                f"Fit each cycle to {front_end.audio.duration_s:g} s as above: so the pipeline gave lungsound's "
                f"classes on {_share(pipeline)} (largest difference in probability {pipeline.largest_difference:.1e}).",
                "A shorter sound is not silence to the pipeline: it fills the filter bank with zeros, which are loud "
                f"there. Without fitting it gave lungsound's classes on {_share(bare)}.",
                f"Scores are the model's probabilities. {scaling}",
                f"License: {LICENSE}.",
                "lungsound itself reads recordings, cuts, fits and calibrates: lungsound.Predictor.load takes "
                "lungsound.safetensors of this folder, or the folder's name on the Hub.",
            ]
        ),
    ]


def _shortened(fact: re.Match[str]) -> str:
    value = re.sub(r"\\([^\w\s])", r"\1", fact["value"])  # as it was before it was Markdown
    if fact["name"] == "command":
        value = shlex.join(FOLDERS.sub("", word) for word in shlex.split(value))
    else:
        value = FOLDERS.sub("", value)
    return render_blocks([Facts({fact["name"]: value})]).splitlines()[-1]


def _share(parity: Parity) -> str:
    return f"{round(parity.share * parity.num_cycles)} of {parity.num_cycles} real cycles"


def _front_matter(run: Path) -> str:
    """YAML between lines of dashes; values as JSON, which YAML holds."""
    values: dict[str, Any] = {
        "license": "unknown",
        "library_name": "transformers",
        "pipeline_tag": "audio-classification",
        "tags": list(TAGS),
    }
    report = run / "report.json"
    if report.is_file():
        values |= _results(json.loads(report.read_text(encoding="utf-8")))
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---", "", ""])


def _results(report: dict[str, Any]) -> dict[str, Any]:
    """Results that the Hub lists of a report: specificity, sensitivity and their mean, as fractions."""
    context = report["context"]
    corpus = context.get("corpus", "not stated")
    metrics = [
        {"type": name, "name": name.capitalize(), "value": report["all_classes"][name]["value"]}
        for name in ("score", "specificity", "sensitivity")
    ]
    result = {
        "task": {"type": "audio-classification"},
        "dataset": {"type": corpus.partition(",")[0], "name": f"{corpus}, {context.get('split', 'split not stated')}"},
        "metrics": metrics,
    }
    name = context.get("recipe", "lungsound model")
    return {"metrics": ["specificity", "sensitivity"], "model-index": [{"name": name, "results": [result]}]}


RATE_HZ = 16000  # the only one at which the library's own filter bank has the frames that we have
HEAD_NAMES = {"0": "classifier.layernorm", "1": "classifier.dense"}


@dataclass(frozen=True)
class HuggingFaceExport:
    """Parity of the library with torch, on the same cycles.

    weights     from our filter bank: what its model computes
    pipeline    its pipeline on cycles fitted to the input as the card says
    bare        its pipeline on the cycles as they are, which it pads with zeros of its own
    """

    weights: Parity
    pipeline: Parity
    bare: Parity


def write_hugging_face(model_file: Path, folder: Path, cycles: Sequence[Tensor]) -> HuggingFaceExport:
    """Write the folder, checked by the library on `cycles`: waveforms (samples,) as `FrontEnd.cut` gives them.

    What the run's folder says of the model (MODEL_CARD.md, report.json) goes into the card. SettingsError for a model
    that the library has no equal of, without the library, and for a folder that holds a model which was not exported;
    WeightsError, and no files, when its probabilities are others.
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
        measured = _measure(trained, staging, cycles, library)
        model_card(staging, trained, run=model_file.parent, pipeline=measured.pipeline, bare=measured.bare)
    return measured


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
    elif (front_end.audio.filter_bank, front_end.sample_rate_hz) != ("kaldi", RATE_HZ):
        why = (
            f"its filter bank is Kaldi's at {RATE_HZ} Hz, and this has {front_end.audio.filter_bank!r} at "
            f"{front_end.sample_rate_hz} Hz"
        )
    else:
        return
    raise SettingsError(f"transformers cannot compute this model: {why}; export it to onnx instead")


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
    encoder, classes = model.patch_encoder, model.classes
    return {
        "model_type": "audio-spectrogram-transformer",
        "architectures": ["ASTForAudioClassification"],
        "hidden_size": encoder.dim,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": cast(AttentionBlock, encoder.blocks[0]).attn.num_heads,
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
            scores = [{each["label"]: each["score"] for each in pipeline(one.numpy())} for one in waveforms]
            return torch.tensor([[each[name] for name in classes] for each in scores])

        weights = checked(trained, cycles, logits_of)
        exact = TorchEngine(trained).predict(cycles)
        fitted = parity(exact, piped([front_end.fit(cycle) for cycle in cycles]))
        return HuggingFaceExport(weights, fitted, parity(exact, piped(cycles)))


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

"""The model card of a folder for transformers: README.md, as the Hub shows it."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from lungsound.app.model_files import LICENSE
from lungsound.checkpoint import TrainedModel
from lungsound.engines.agreement import Agreement
from lungsound.evaluation.reporting.model_card import FILE_NAME
from lungsound.files import write_text
from lungsound.page import DISCLAIMER, Block, Bullets, Code, Facts, Heading, render_blocks

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


def model_card(folder: Path, trained: TrainedModel, *, run: Path, pipeline: Agreement, bare: Agreement) -> Path:
    """Write README.md into `folder`: how to use the pipeline, and what the run's own card says; its path.

    The scores of the run's report.json stand in the front matter. `pipeline` and `bare` are as in HuggingFaceExport.
    Of the paths in the run's card the last names are left: where they lie is nobody's business.
    """
    told = run / FILE_NAME
    title, _, rest = told.read_text(encoding="utf-8").partition("\n") if told.is_file() else ("", "", "")
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
    padding = (REPEATED if front_end.padding == "repeat" else ZEROS).format(**values)
    return USE.format(padding=padding, rate_hz=front_end.sample_rate_hz, duration_s=front_end.duration_s, **values)


def _use(trained: TrainedModel, pipeline: Agreement, bare: Agreement) -> list[Block]:
    front_end, calibration = trained.front_end, trained.calibration
    scaling = "They are not calibrated."
    if calibration is not None:
        scaling = (
            f"They are not calibrated; the calibration that was learnt ({calibration.scaling.method}: softmax(scale * "
            "log p + bias)) stands in config.json under lungsound.calibration."
        )
    return [
        Heading("With transformers"),
        Code(fitting_code(trained)),
        Bullets(
            [
                f"The input is one breathing cycle, mono, full scale 1, at {front_end.sample_rate_hz} Hz, cut from a "
                f"recording whose first and last {1000 * front_end.fade_s:g} ms are faded. The pipeline cuts no "
                f"cycles: of a longer sound it hears the first {front_end.duration_s:g} s.",
                f"Fit each cycle to {front_end.duration_s:g} s as above: so the pipeline gave lungsound's answer on "
                f"{_share(pipeline)} (largest difference in probability {pipeline.largest_difference:.1e}).",
                "A shorter sound is not silence to the pipeline: it fills the filter bank with zeros, which are loud "
                f"there. Without fitting it gave lungsound's answer on {_share(bare)}.",
                f"Scores are the model's probabilities. {scaling}",
                f"License: {LICENSE}.",
                "lungsound itself reads recordings, cuts, fits and calibrates: lungsound.Predictor.load takes "
                "lungsound.safetensors of this folder, or the folder's name on the Hub.",
            ]
        ),
    ]


def _shortened(fact: re.Match[str]) -> str:
    value = re.sub(r"\\([\\`*<|])", r"\1", fact["value"])  # as it was before it was Markdown
    if fact["name"] == "command":
        value = shlex.join(FOLDERS.sub("", word) for word in shlex.split(value))
    else:
        value = FOLDERS.sub("", value)
    return render_blocks([Facts({fact["name"]: value})]).splitlines()[-1]


def _share(found: Agreement) -> str:
    return f"{round(found.share * found.num_cycles)} of {found.num_cycles} real cycles"


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
    """What the Hub lists of a report: specificity, sensitivity and their mean, as fractions."""
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

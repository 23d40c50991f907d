"""The files of one run.

config.json             the resolved settings
run.json                versions, revision, command, corpus and its fingerprint, what pretrained weights gave
log.csv                 a row per epoch
events/                 the same and each step for TensorBoard
checkpoint.safetensors  all that --resume needs
model.safetensors       the weights of the chosen epoch, with front end and classes
epochs/last.csv         answers for the validation and the test cycles after the last epoch; beside it, where there
                        are such, validation.csv and test.csv: after the epoch that is best on that part
predictions.csv         a row per test cycle
report.md, report.json  and their pictures; report.json is written last: a run with it is finished
.lock                   held by the training that is at work here
"""

import csv
import json
import math
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout
from tensorboardX import SummaryWriter

from lungsound.config import RunConfig, resolve
from lungsound.data.corpus import Corpus
from lungsound.data.splits import VALIDATION, Parts
from lungsound.errors import CorpusError, SettingsError, WeightsError
from lungsound.evaluation.calibration import ORDER_KEEPING, fit_calibration
from lungsound.evaluation.out_of_domain import Domain
from lungsound.evaluation.predictions import Predictions, read_predictions, write_predictions
from lungsound.evaluation.selection import NAMES
from lungsound.files import write_text, written_whole
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import LungSoundClassifier
from lungsound.training.checkpoint import (
    CHECKPOINT_FORMAT,
    TrainedModel,
    load_model,
    read_facts,
    read_tensors,
    save_model,
    write_calibration,
    write_domain,
    write_tensors,
)
from lungsound.training.trainer import Listener, Progress, TrainStep

RECORDED_PACKAGES = ("lungsound", "torch", "numpy", "soundfile", "safetensors")


class RunFolder(Listener):
    """Creates, opens and writes the folder of a run; as a listener it writes log and events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model.safetensors"
        self.checkpoint = path / "checkpoint.safetensors"
        self.predictions = path / "predictions.csv"
        self._events: SummaryWriter | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder and keep other trainings out of it; where no run came to start, what was made is taken away.

        SettingsError when another training is at work in it, or when it cannot be made.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"{self.path} cannot be made a folder ({error.strerror}): give another folder"
            ) from None
        place = self.path / ".lock"
        lock = FileLock(place, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise SettingsError(f"another training is at work in {self.path}: wait or give another folder") from None
        try:
            yield
        finally:
            if [*self.path.iterdir()] == [place]:
                place.unlink()
                for folder in made:
                    if not any(folder.iterdir()):  # a parent may hold other runs by now
                        folder.rmdir()
            lock.release()

    def check(self, config: RunConfig, *, is_resumed: bool) -> None:
        """SettingsError when a new run would stand on another's, or a resumed one has other settings."""
        if is_resumed:
            texts = {"name", "description"}  # say nothing about how a run is trained
            if differences := _differences(self.config().model_dump(exclude=texts), config.model_dump(exclude=texts)):
                raise SettingsError(f"{self.path} was started with other settings: {'; '.join(differences)}")
        elif (self.path / "config.json").exists():
            raise SettingsError(
                f"{self.path} already holds a run: give another folder, or go on with it by --resume, in Python "
                "is_resumed=True"
            )

    def start(self, config: RunConfig) -> None:
        """Write down the settings."""
        _write_json(self.path / "config.json", config.model_dump(mode="json"))

    def config(self) -> RunConfig:
        """The settings that the run was started with."""
        path = self.path / "config.json"
        if not path.is_file():
            raise SettingsError(f"{self.path} is not the folder of a run: it has no {path.name}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise SettingsError(
                f"{self.path} is not the folder of a run: {path.name} cannot be read ({error})"
            ) from None
        return resolve(values, source=str(path))

    def write_facts(self, *, corpus: Corpus, parts: Parts, **facts: Any) -> None:
        """Write run.json: `facts`, what the corpus is and how it was divided, versions and revision.

        Raises CorpusError when an earlier one says that the run was started on another corpus.
        """
        if (self.path / "run.json").is_file() and self.facts()["corpus"]["fingerprint"] != corpus.fingerprint:
            raise CorpusError(f"{corpus.root} is not what {self.path} was started on: files or labels have changed")
        described = {
            "name": corpus.name,
            "root": str(corpus.root),
            "num_recordings": len(corpus.recordings),
            "num_cycles": len(corpus.cycles),
            "problems": [str(problem) for problem in corpus.problems],
            "notes": list(corpus.notes),
            "fingerprint": corpus.fingerprint,
        }
        versions = {name: metadata.version(name) for name in RECORDED_PACKAGES}
        machine = {"python": platform.python_version(), "system": platform.platform()}
        rows = {"train": parts.train, "validation": parts.validation, "test": parts.test}
        divided = {
            "num_cycles": {name: len(part) for name, part in rows.items()},
            "patients": {name: sorted({corpus.cycles[r].recording.patient for r in rows[name]}) for name in rows},
            "left_out_patients": list(parts.left_out),
        }
        more = {"corpus": described, "versions": versions | machine, "revision": revision()} | divided
        _write_json(self.path / "run.json", facts | more)

    def facts(self) -> dict[str, Any]:
        """What `write_facts` wrote."""
        path = self.path / "run.json"
        try:
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise SettingsError(f"{path} is damaged ({error}): train the run again") from None
        return facts

    def save(self, step: TrainStep, progress: Progress) -> None:
        """Write the checkpoint."""
        facts = {"format": CHECKPOINT_FORMAT, "progress": progress.to_plain(), "scaler": step.scaler_state()}
        write_tensors(self.checkpoint, step.tensors(), facts)

    def restore(self, step: TrainStep) -> Progress:
        """Take up the checkpoint; a run without one starts from the beginning."""
        if not self.checkpoint.exists():
            return Progress()
        tensors, facts = read_tensors(self.checkpoint, expected_format=CHECKPOINT_FORMAT)
        try:
            step.restore(tensors, facts["scaler"])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise WeightsError(f"{self.checkpoint} does not fit this run ({reason}); start the run anew") from None
        return Progress.from_plain(facts["progress"])

    def progress(self) -> Progress:
        """How far the run came, as its checkpoint says."""
        if not self.checkpoint.exists():
            raise WeightsError(
                f"{self.checkpoint} is missing: the report needs its log; 'train --resume' writes it anew"
            )
        facts = read_facts(self.checkpoint, expected_format=CHECKPOINT_FORMAT)
        return Progress.from_plain(facts["progress"])

    def save_model(self, model: LungSoundClassifier, *, mean: float, std: float, devices: Sequence[str] = ()) -> None:
        """Write the model as it stands, as the one that the run gives."""
        config = self.config()
        label_set = LABEL_SETS[config.data.label_set]
        save_model(
            self.model,
            model,
            audio=config.audio,
            architecture=config.model,
            mean=mean,
            std=std,
            label_set=label_set,
            devices=devices,
        )

    def write_column(self, column: str, predictions: Predictions) -> None:
        """Write the answers of the epoch that this column of the report is about (`evaluation.columns.NAMES`)."""
        write_predictions(self.path / "epochs" / f"{column}.csv", predictions)

    def columns(self) -> dict[str, Predictions]:
        """What `write_column` wrote, by column."""
        paths = {name: self.path / "epochs" / f"{name}.csv" for name in NAMES}
        return {name: read_predictions(path) for name, path in paths.items() if path.is_file()}

    def calibrate(self, column: str) -> None:
        """Fit the calibration on the validation rows of this column, and put it into the model; nothing without any.

        Its scaling keeps the most probable class, so that the scores of the report are those of its answers.
        """
        answers = self.columns()[column]
        if VALIDATION in answers.parts:
            calibration = fit_calibration(answers.of_part(VALIDATION), allowed=ORDER_KEEPING)
            write_calibration(self.model, calibration)

    def keep_domain(self, domain: Domain | None) -> None:
        """Put into the model what unlike sounds are told by; nothing without any."""
        if domain is not None:
            write_domain(self.model, domain)

    def trained_model(self) -> TrainedModel:
        return load_model(self.model)

    def on_step(self, progress: Progress, *, num_steps: int, learning_rate: float) -> None:
        at = (progress.epoch - 1) * num_steps + progress.step
        events = self._writer(at)
        events.add_scalar("step/learning_rate", learning_rate, at)
        for name, value in progress.mean_losses().items():
            events.add_scalar(f"step/mean_{name}", value, at)

    def on_epoch(self, progress: Progress) -> None:
        rows = progress.history
        with written_whole(self.path / "log.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
        for name, value in rows[-1].items():
            if name != "epoch" and not math.isnan(value):
                self._writer().add_scalar(f"epoch/{name}", value, int(rows[-1]["epoch"]))
        self._writer().flush()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()

    def _writer(self, first_step: int | None = None) -> SummaryWriter:
        if self._events is None:
            self._events = SummaryWriter(str(self.path / "events"), purge_step=first_step)
        return self._events


def revision() -> str | None:
    """Git commit of the program, with "+" when files differ from it; None outside a git checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain", "."], cwd=here, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout else "")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=1) + "\n")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], place: str = "") -> list[str]:
    found = []
    for key in old:
        if isinstance(old[key], Mapping):
            found += _differences(old[key], new[key], f"{place}{key}.")
        elif old[key] != new[key]:
            found.append(f"{place}{key} was {old[key]!r}, now {new[key]!r}")
    return found

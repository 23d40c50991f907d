"""The folder of one run, its files (docs/outputs.md), and the facts of how it was trained."""

import csv
import hashlib
import math
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel
from tensorboardX import SummaryWriter
from torch import Tensor

from lungsound.config import RunConfig, resolve
from lungsound.data.corpus import Corpus
from lungsound.data.splits import CALIBRATION, VALIDATION, Parts
from lungsound.errors import CorpusError, RunBusyError, SettingsError, WeightsError
from lungsound.evaluation.predictions import Predictions, read_predictions, write_predictions
from lungsound.evaluation.runs import check_made_together
from lungsound.evaluation.selection import NAMES
from lungsound.files import hash_file, read_json, read_model, require_room, validated, write_json, written_whole
from lungsound.models.weights import LoadReport
from lungsound.processor import processor_name
from lungsound.training.checkpoint import CHECKPOINT_FORMAT, read_checkpoint, write_checkpoint
from lungsound.training.model_file import MODEL_FORMAT, PREDICTIONS, open_arrays
from lungsound.training.trainer import Listener, Progress, TrainStep

LOCK = ".lock"
UNTRAINED = {"name", "description"}  # settings that say nothing about how a run is trained
RECORDED_PACKAGES = ("lungsound", "torch", "numpy", "soundfile", "safetensors")


class CorpusFacts(BaseModel, frozen=True):
    """The corpus that a run was trained on; of several joined ones each by name in `members`, as it is alone."""

    name: str
    root: str
    num_recordings: int
    num_cycles: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    split_origin: str
    fingerprint: str
    members: dict[str, "CorpusFacts"] = {}

    @classmethod
    def of(cls, corpus: Corpus) -> "CorpusFacts":
        return cls(
            name=corpus.name,
            root=str(corpus.root),
            num_recordings=len(corpus.recordings),
            num_cycles=len(corpus.cycles),
            problems=tuple(map(str, corpus.problems)),
            notes=corpus.notes,
            split_origin=corpus.split_origin,
            fingerprint=corpus.fingerprint,
            members={name: cls.of(member) for name, member in corpus.members.items()},
        )

    def prefix_of(self, corpus: Corpus) -> str | None:
        """Beginning that a patient's name in `corpus` has here; None where its patients are not known to be the same.

        The same number is the same patient in any part of a real corpus, but not in two synthetic ones.
        """
        known = {"": self, **{f"{name}/": member for name, member in self.members.items()}}
        same = [prefix for prefix, each in known.items() if each.fingerprint == corpus.fingerprint]
        alike = [prefix for prefix, each in known.items() if each.name == corpus.name and not corpus.is_synthetic]
        return next(iter([*same, *alike]), None)


class RunFacts(BaseModel, frozen=True):
    """The content of run.json; `num_cycles` and `patients` by "train", "validation", "calibration" and "test"."""

    command: str
    device: str
    precision: str
    pretrained: str | None
    weights: str
    """Format and hash of the pretrained weights, or "random"."""
    processor: str = ""
    teachers: dict[str, str] = {}
    """SHA-256 of the model file of each teacher, by its name in the settings."""
    corpus: CorpusFacts
    num_cycles: dict[str, int]
    patients: dict[str, tuple[str, ...]]
    left_out_patients: tuple[str, ...]
    versions: dict[str, str]
    revision: str | None

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        parts: Parts,
        pretrained: LoadReport | None,
        teachers: Mapping[str, str],
        *,
        command: str,
        device: str,
        precision: str,
    ) -> "RunFacts":
        """Facts of a run that starts now, by this program on this machine."""
        rows = {"train": parts.train, VALIDATION: parts.validation, CALIBRATION: parts.calibration, "test": parts.test}
        patients = {name: {corpus.cycles[row].recording.patient for row in rows[name]} for name in rows}
        versions = {name: metadata.version(name) for name in RECORDED_PACKAGES}
        return cls(
            command=command,
            device=device,
            precision=precision,
            pretrained=None if pretrained is None else pretrained.summary(),
            weights="random" if pretrained is None else pretrained.source,
            teachers=dict(teachers),
            corpus=CorpusFacts.of(corpus),
            num_cycles={name: len(rows[name]) for name in rows},
            patients={name: tuple(sorted(patients[name])) for name in rows},
            left_out_patients=parts.left_out,
            versions=versions | {"python": platform.python_version(), "system": platform.platform()},
            revision=revision(),
            processor=processor_name(),
        )


class CheckpointFacts(BaseModel):
    """What stands in a checkpoint beside its tensors."""

    progress: Progress
    scaler: dict[str, Any]
    settings_sha256: str | None = None
    """Of the run; None in files of older versions."""


class RunFolder(Listener):
    """Creates, opens and writes the folder of a run; as a listener it writes log and events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model.safetensors"
        self.checkpoint = path / "checkpoint.safetensors"
        self.predictions = path / "predictions.csv"
        self._events: SummaryWriter | None = None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder, and keep other trainings out of it (RunBusyError); if no run came to start, take it away."""
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        require_room(self.path)
        lock = FileLock(self.path / LOCK, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise RunBusyError(f"another training is at work in {self.path}: wait or give another folder") from None
        try:
            yield
        finally:
            if self.is_blank:
                (self.path / LOCK).unlink()
                for folder in made:
                    if not any(folder.iterdir()):  # a parent may hold other runs by now
                        folder.rmdir()
            lock.release()

    @property
    def is_blank(self) -> bool:
        """True for a folder in which no run came to start, as one that was killed before leaves it."""
        return self.path.is_dir() and {path.name for path in self.path.iterdir()} <= {LOCK}

    def check(self, config: RunConfig, *, is_resumed: bool) -> None:
        """SettingsError when a new run would stand on another's, or a resumed one has other settings."""
        if is_resumed:
            old, new = (each.model_dump(exclude=UNTRAINED) for each in (self.config(), config))
            differences = [
                f"{section}.{key} was {old[section][key]!r}, now {value!r}"
                for section, values in new.items()
                for key, value in values.items()
                if old[section][key] != value
            ]
            if differences:
                raise SettingsError(f"{self.path} was started with other settings: {'; '.join(differences)}")
        elif (self.path / "config.json").exists():
            raise SettingsError(
                f"{self.path} already holds a run: give another folder, or go on with it by --resume, in Python "
                "is_resumed=True"
            )

    def start(self, config: RunConfig) -> None:
        path = self.path / "config.json"
        before = path.read_bytes() if path.is_file() else None
        write_json(path, config.model_dump(mode="json"))
        if path.read_bytes() != before:
            (self.path / "report.json").unlink(missing_ok=True)  # of the settings that stood there

    def config(self) -> RunConfig:
        """The settings that the run was started with."""
        path = self.path / "config.json"
        if not path.is_file():
            raise SettingsError(f"{self.path} is not the folder of a run: it has no config.json")
        check_made_together(path)
        return resolve(read_json(path, SettingsError), source=str(path))

    def write_facts(self, facts: RunFacts) -> None:
        """Write run.json. CorpusError or SettingsError when it was started on another corpus, with other teachers."""
        if (self.path / "run.json").is_file():
            earlier = self.facts()
            if earlier.corpus.fingerprint != facts.corpus.fingerprint:
                given = facts.corpus.root
                raise CorpusError(f"{given} is not what {self.path} was started on: files or labels have changed")
            for name, sha256 in facts.teachers.items():
                if earlier.teachers.get(name) != sha256:
                    raise SettingsError(f"{name} is not the teacher that {self.path} was started with: it has changed")
        (self.path / "report.json").unlink(missing_ok=True)  # of the facts that stood here
        write_json(self.path / "run.json", facts.model_dump(mode="json"))

    def precision(self) -> str | None:
        """The precision in which the run was trained so far; None for a new one."""
        return self.facts().precision if (self.path / "run.json").is_file() else None

    def facts(self) -> RunFacts:
        """The facts that `write_facts` wrote."""
        check_made_together(self.path / "run.json")
        return read_model(self.path / "run.json", RunFacts, SettingsError, advice="train the run again")

    def save(self, step: TrainStep, progress: Progress) -> None:
        facts = {
            "progress": progress.model_dump(),
            "scaler": step.scaler.state_dict(),
            "settings_sha256": self._hash_settings(),
        }
        write_checkpoint(self.checkpoint, step.tensors(), facts)

    def _hash_settings(self) -> str | None:
        """SHA-256 of the settings that are no defaults, but for `UNTRAINED`; None where nothing was started."""
        if not (self.path / "config.json").is_file():
            return None
        text = self.config().model_dump_json(exclude=UNTRAINED, exclude_defaults=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _checkpoint_facts(self, facts: Any) -> CheckpointFacts:
        kept = validated(facts, CheckpointFacts, WeightsError, path=self.checkpoint)
        if kept.settings_sha256 not in (None, self._hash_settings()):
            raise WeightsError(f"{self.checkpoint} is another run's: put back what was there, or start the run anew")
        return kept

    def restore(self, step: TrainStep) -> Progress:
        """Take up the checkpoint, which the first process reads for all; a run without one starts at the beginning."""

        def read() -> tuple[Progress, dict[str, Tensor], dict[str, Any]]:
            return self._restore(step), step.tensors(), step.scaler.state_dict()

        progress, tensors, scaler = step.ranks.of_first(read)
        if not step.ranks.is_first:
            step.restore(tensors, scaler)
        return progress

    def _restore(self, step: TrainStep) -> Progress:
        if not self.checkpoint.exists():
            return Progress()
        tensors, facts = read_checkpoint(self.checkpoint)
        kept = self._checkpoint_facts(facts)
        try:
            step.restore(tensors, kept.scaler)
        except (RuntimeError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise WeightsError(f"{self.checkpoint} does not fit this run ({reason}); start the run anew") from None
        return kept.progress

    def progress(self) -> Progress:
        """Progress of the run, from its checkpoint."""
        if not self.checkpoint.exists():
            raise WeightsError(
                f"{self.checkpoint} is missing: the report needs its log; 'train --resume' writes it anew"
            )
        with open_arrays(self.checkpoint, expected_format=CHECKPOINT_FORMAT) as (_, facts):
            return self._checkpoint_facts(facts).progress

    def check_model(self) -> str | None:
        """SettingsError when another model than the run's own lies in its folder; a remark when that is not known."""
        made = [hash_file(path) for path in sorted((self.path / "epochs").glob("*.csv"))]
        if not made:
            return None
        with open_arrays(self.model, expected_format=MODEL_FORMAT) as (_, facts):
            stated = facts.get(PREDICTIONS)
        if stated is None:
            return f"{self.model} is of an older version: that the predictions in {self.path} are its own is not known."
        if stated not in made:
            raise SettingsError(
                f"{self.model} did not make the predictions in {self.path / 'epochs'}: one of them is another run's or "
                "was changed; put back what was there, or train the run again"
            )
        return None

    def write_column(self, column: str, predictions: Predictions) -> None:
        """Write the predictions of the epoch that a column of the report is about (`evaluation.selection.NAMES`)."""
        write_predictions(self.column(column), predictions)

    def column(self, name: str) -> Path:
        """File of a column's predictions."""
        return self.path / "epochs" / f"{name}.csv"

    def columns(self) -> dict[str, Predictions]:
        """Read the predictions that `write_column` wrote, by column."""
        columns = {name: self.column(name) for name in NAMES if self.column(name).is_file()}
        for file in columns.values():
            check_made_together(file)
        return {name: read_predictions(file) for name, file in columns.items()}

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

    def __exit__(self, *_: object) -> None:
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

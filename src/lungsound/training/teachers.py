"""Soft labels: the probabilities that trained models, the teachers, give to the training cycles of another run."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from lungsound.config import RunConfig
from lungsound.data.batches import Inputs
from lungsound.data.corpus import Corpus
from lungsound.data.splits import Parts
from lungsound.data.store import open_filter_banks
from lungsound.errors import SettingsError
from lungsound.files import first_names
from lungsound.models.classifier import predict_cycles
from lungsound.models.hub import resolve_weights
from lungsound.progress import track
from lungsound.training.model_file import MODEL_FORMAT, load_model, open_arrays, unfinished
from lungsound.training.run import RunFacts, RunFolder


def ask_teachers(
    config: RunConfig, corpus: Corpus, parts: Parts, *, device: torch.device, console: Console
) -> tuple[dict[str, str], Tensor | None]:
    """SHA-256 of each teacher's model file by name, and soft labels (training cycle, class); None without a teacher.

    They are the mean of the probabilities, not calibrated, of the cycles as they are, each teacher with its own front
    end. SettingsError for a teacher of other classes, or one that a patient trained whom this run holds out or tests.
    """
    names = config.objective.teachers
    for name in names:
        _check(name, config, corpus, parts, console)
    hashes: dict[str, str] = {}
    given = []
    for name in names:
        teacher = load_model(_file(name))
        hashes[name] = teacher.sha256
        fbanks = open_filter_banks(corpus, teacher.front_end, console=console)
        inputs = Inputs.of(corpus, fbanks, teacher.front_end, teacher.label_set, mean=teacher.mean, std=teacher.std)
        batches = inputs.to_predict(parts.train, config.train.batch_size)
        with track(console, f"soft labels of {name}") as on_progress:
            probabilities, _ = predict_cycles(
                teacher.model, batches, device=device, on_progress=lambda done: on_progress(done, len(parts.train))
            )
        given.append(probabilities)
    mean = torch.from_numpy(np.mean(given, axis=0, dtype=np.float64).astype(np.float32)) if given else None
    return hashes, mean


def _file(name: str) -> Path:
    path = resolve_weights(name)
    return path / "model.safetensors" if path.is_dir() else path


def _check(name: str, config: RunConfig, corpus: Corpus, parts: Parts, console: Console) -> None:
    """SettingsError for a teacher that this run cannot learn from; a remark where its patients are not known."""
    file = _file(name)
    if problem := unfinished(file.parent):
        console.print(f"teacher {problem}", markup=False, highlight=False)
    with open_arrays(file, expected_format=MODEL_FORMAT) as (_, facts):
        label_set = facts.get("label_set")
    if label_set != config.data.label_set:
        raise SettingsError(
            f"objective.teachers: {name} tells the classes of {label_set} apart, but data.label_set is "
            f"{config.data.label_set!r}: take teachers of the same classes"
        )
    if not (file.parent / "run.json").is_file():
        console.print(f"teacher {name}: whom it was trained on is not known here", markup=False, highlight=False)
        return
    rows = (parts.train, (*parts.validation, *parts.calibration, *parts.test))
    own, others = ({corpus.cycles[row].recording.patient for row in part} for part in rows)
    if leaked := sorted((others - own) & patients_of(RunFolder(file.parent).facts(), corpus)):
        raise SettingsError(
            f"objective.teachers: {name} was trained on {len(leaked)} patient(s) whom this run holds out or tests "
            f"({first_names(leaked)}): train both with the same split, shares and train.division_seed"
        )


def patients_of(facts: RunFacts, corpus: Corpus) -> set[str]:
    """Patients whom a run was trained on, by their names in `corpus`, as far as it is of the same corpora."""
    members = {f"{name}/": member for name, member in corpus.members.items()} or {"": corpus}
    names = set()
    for own, member in members.items():
        prefix = facts.corpus.prefix_of(member)
        if prefix is not None:
            patients = [each for each in facts.patients["train"] if each.startswith(prefix)]
            names |= {own + patient.removeprefix(prefix) for patient in patients}
    return names

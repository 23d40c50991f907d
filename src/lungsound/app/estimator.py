"""Fit and predict as scikit-learn's classifiers do, by the same recipes and the same training as everything else."""

import csv
import importlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console

from lungsound.app.path_names import short_names
from lungsound.app.predictor import Predictor
from lungsound.audio.waveform import probe
from lungsound.config import RunConfig, load_config
from lungsound.data.holdout import hold_out_patients
from lungsound.data.reader import read_corpus
from lungsound.errors import SettingsError
from lungsound.files import written_whole
from lungsound.labels import LABEL_SETS, LabelSet
from lungsound.randomness import generator_at
from lungsound.recipe import train
from lungsound.run_folder import RunFolder

MIN_GROUPS = 3
COLUMNS = ("path", "name", "start_s", "end_s", "label", "patient", "split")


@dataclass(frozen=True)
class _Sound:
    """A stretch of a sound file in seconds; without `span_s` the whole of it."""

    path: Path
    span_s: tuple[float, float] | None = None


class LungSoundClassifier:
    """A classifier of sounds with scikit-learn's methods; scikit-learn itself is not needed.

    X is a list of sounds: paths (whole recordings), rows (path, start_s, end_s), or waveforms (samples,) at
    `sample_rate_hz`. y holds a word of one label set for each: "normal", "crackle", "wheeze", "both", or "normal",
    "abnormal", or SPRSound's words.

    recipe, settings: what is trained, as `load_config` takes it; {"train.epochs": 5} changes a setting. The recipe
        "demo" is small and starts from random weights; "patchmix_cl" is the paper's.
    out: the folder of the run, which must not hold one yet: it is what is saved. None keeps the model only in memory,
        as cross-validation needs it.
    test_share: of the sounds, how many are kept for the report of the run, by patients; of the others the recipe
        holds out its validation patients, on whom probabilities are calibrated.
    """

    classes_: NDArray[np.str_]
    predictor_: Predictor

    def __init__(
        self,
        recipe: str = "demo",
        *,
        settings: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        sample_rate_hz: int | None = None,
        test_share: float = 0.2,
        random_state: int = 0,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.settings = settings
        self.out = out
        self.sample_rate_hz = sample_rate_hz
        self.test_share = test_share
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    @classmethod
    def load(cls, run: str | Path, *, sample_rate_hz: int | None = None, device: str = "auto") -> "LungSoundClassifier":
        """The classifier that a run gave, whoever trained it; made to answer, not to be fitted again."""
        found = cls(out=run, sample_rate_hz=sample_rate_hz, device=device)
        return found._with(Predictor.load(run, device=device))

    def fit(self, X: Sequence[Any], y: Sequence[Any], groups: Sequence[Any] | None = None) -> "LungSoundClassifier":
        """Train on the sounds X with the labels y; `groups` says whose each is, by patient.

        Without groups each file (each waveform) counts as a patient of its own: give them when patients have several,
        else scores and calibration are made on patients who train too. Raises LungsoundError for what a user can mend.
        """
        labels = [str(label) for label in y]
        if len(labels) != len(X) or (groups is not None and len(groups) != len(X)):
            raise SettingsError(f"{len(X)} sounds with {len(labels)} labels: X, y and groups must have the same length")
        with ExitStack() as stack:
            out = Path(stack.enter_context(TemporaryDirectory()) if self.out is None else self.out)
            table = out / "corpus" / "table.csv"
            config = self._config(table, label_set_of(labels))
            run = RunFolder(out)
            run.check(config, is_resumed=False)
            sounds = _sounds(X, table.parent, self.sample_rate_hz)
            patients = [str(sound.path) for sound in sounds] if groups is None else [str(group) for group in groups]
            self._write_corpus(table, sounds, labels, patients)
            train(config, out, console=Console(quiet=not self.verbose))
            path = None if self.out is None else run.model
            return self._with(Predictor(run.trained_model(), device=self.device, path=path))

    def predict_proba(self, X: Sequence[Any]) -> NDArray[np.float64]:
        """Probabilities (sound, class) in the order of `classes_`; calibrated when the run held out patients for it."""
        predictor = self._fitted()
        found: NDArray[np.float64] = np.empty((len(X), len(self.classes_)))
        with TemporaryDirectory() as folder:
            rows_of: dict[Path, list[int]] = {}
            sounds = _sounds(X, Path(folder), self.sample_rate_hz)
            for row, sound in enumerate(sounds):
                rows_of.setdefault(sound.path, []).append(row)
            for path, rows in rows_of.items():
                spans_s = [sounds[row].span_s or (0.0, _duration_s(path)) for row in rows]
                for row, answer in zip(rows, predictor.predict(path, spans_s=spans_s), strict=True):
                    found[row] = [answer.probabilities[name] for name in self.classes_]
        found /= found.sum(axis=1, keepdims=True)  # the model's own sum to 1 in float32 only
        return found

    def predict(self, X: Sequence[Any]) -> NDArray[np.str_]:
        """The most probable class of each sound."""
        best = self.predict_proba(X).argmax(axis=1)
        found: NDArray[np.str_] = self.classes_[best]
        return found

    def score(self, X: Sequence[Any], y: Sequence[Any]) -> float:
        """Accuracy, as scikit-learn's classifiers have it; the field's Score stands in the report of the run."""
        return float(np.mean(self.predict(X) == np.array([str(label) for label in y])))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor; `deep` makes no difference."""
        del deep
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def set_params(self, **params: Any) -> "LungSoundClassifier":
        """Change arguments of the constructor; SettingsError for an unknown one."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise SettingsError(f"no parameter {name!r}: the parameters are {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """Asked for by scikit-learn alone, which is installed then."""
        utils = importlib.import_module("sklearn.utils")
        return utils.Tags(
            estimator_type="classifier",
            target_tags=utils.TargetTags(required=True, two_d_labels=False),
            classifier_tags=utils.ClassifierTags(),
            input_tags=utils.InputTags(two_d_array=False, string=True),
            no_validation=True,
        )

    def _config(self, table: Path, label_set: LabelSet) -> RunConfig:
        settings = {
            "data.label_set": label_set.name,
            "train.device": self.device,
            "train.seed": self.random_state,
            **(self.settings or {}),
            "data.root": str(table.absolute()),
        }
        overrides = [f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in settings.items()]
        return load_config(self.recipe, overrides)

    def _write_corpus(
        self, table: Path, sounds: Sequence[_Sound], labels: Sequence[str], patients: Sequence[str]
    ) -> None:
        """Write the sounds as a table corpus, some patients of which are tested."""
        if not 0 < self.test_share < 1:
            raise SettingsError(f"test_share is {self.test_share}: give a share between 0 and 1, e.g. 0.2")
        if len(set(patients)) < MIN_GROUPS:
            raise SettingsError(
                f"sounds of {len(set(patients))} patients (groups): fit needs {MIN_GROUPS} or more, to train, to "
                "calibrate and to report"
            )
        _write_table(table, sounds, labels, patients, held=frozenset())
        cycles = read_corpus(table).cycles
        generator = generator_at(self.random_state, "patients of the report")
        held = hold_out_patients(cycles, self.test_share, generator=generator)
        _write_table(table, sounds, labels, patients, held=held)

    def _with(self, predictor: Predictor) -> "LungSoundClassifier":
        self.predictor_ = predictor
        self.classes_ = np.array(sorted(predictor.classes))
        return self

    def _fitted(self) -> Predictor:
        if not hasattr(self, "predictor_"):
            raise SettingsError("this classifier is not fitted yet: call fit, or load the folder of a run")
        return self.predictor_


def label_set_of(labels: Sequence[str]) -> LabelSet:
    """The label set that has all these words as classes; SettingsError when there is none."""
    sets = [label_set for label_set in LABEL_SETS.values() if not label_set.needs_diagnosis]
    for label_set in sets:
        if labels and set(labels) <= set(label_set.classes):
            return label_set
    known = "; ".join(", ".join(label_set.classes) for label_set in sets)
    raise SettingsError(f"labels {sorted(set(labels))} are not words of one label set: y must have those of {known}")


def _sounds(X: Sequence[Any], folder: Path, sample_rate_hz: int | None) -> list[_Sound]:
    """Where each sound of X is; waveforms are written into `folder`, without loss."""
    sounds = []
    for number, given in enumerate(X):
        if isinstance(given, str | Path):
            sounds.append(_Sound(Path(given).absolute()))
        elif len(given) == 3 and isinstance(given[0], str | Path):
            sounds.append(_Sound(Path(given[0]).absolute(), (float(given[1]), float(given[2]))))
        else:
            path = folder / f"{number:06}.wav"
            _write_waveform(path, np.asarray(given), sample_rate_hz)
            sounds.append(_Sound(path.absolute()))
    return sounds


def _write_waveform(path: Path, waveform: NDArray[Any], sample_rate_hz: int | None) -> None:
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        raise SettingsError(
            f"a sound of {waveform.ndim} dimensions of type {waveform.dtype}: X must hold paths, rows (path, start_s, "
            "end_s), or waveforms (samples,) of floats with full scale 1"
        )
    if sample_rate_hz is None:
        raise SettingsError("X holds waveforms: say at what rate, LungSoundClassifier(sample_rate_hz=4000)")
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform.astype(np.float32), sample_rate_hz, subtype="FLOAT")


def _write_table(
    table: Path, sounds: Sequence[_Sound], labels: Sequence[str], patients: Sequence[str], *, held: frozenset[str]
) -> None:
    names = short_names([sound.path for sound in sounds])
    with written_whole(table) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for sound, name, label, patient in zip(sounds, names, labels, patients, strict=True):
            part = "test" if patient in held else "train"
            writer.writerow([sound.path, name, *(sound.span_s or ("", "")), label, patient, part])


def _duration_s(path: Path) -> float:
    info = probe(path)
    return info.num_samples / info.sample_rate_hz

"""A classifier with scikit-learn's methods, trained by the recipes as every other run."""

import importlib
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console

from lungsound.audio.io import probe
from lungsound.config import load_config
from lungsound.data.reader import read_corpus
from lungsound.data.splits import hold_out_patients
from lungsound.errors import SettingsError
from lungsound.files import csv_text, short_names, write_text
from lungsound.inference.prediction import TIME_DECIMALS, CyclePrediction
from lungsound.inference.predictor import Predictor
from lungsound.labels import LABEL_SETS, LabelSet
from lungsound.randomness import generator_at
from lungsound.recipe import train
from lungsound.training.model_file import load_model
from lungsound.training.run import RunFolder

# A stretch of a sound file in seconds; without a span all of it.
Sound = tuple[Path, tuple[float, float] | None]


class LungSoundClassifier:
    """A classifier of sounds with scikit-learn's methods; scikit-learn itself is not needed.

    X is a list of sounds: paths (whole recordings), rows (path, start_s, end_s), or waveforms (samples,) at
    `sample_rate_hz`. y holds a word of one label set for each: "normal", "crackle", "wheeze", "both", or "normal",
    "abnormal", or SPRSound's words.

    - `recipe`, `settings`: what is trained, as `load_config` takes it, e.g. "demo" with {"train.epochs": 5}. The recipe
      "demo" is small and starts from random weights; "patchmix_cl" is the paper's.
    - `out`: the folder of the run, which must not hold one yet: it is what is saved. None keeps the model only in
      memory, as cross-validation needs it, and makes no report.
    - `test_share`: of the sounds, how many are kept for the report in `out`, by patients. Of the others, without `out`
      of all, the recipe holds out its validation patients, on whom probabilities are calibrated.
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
        """The classifier of a trained run, to predict with and not to be fitted again."""
        classifier = cls(out=run, sample_rate_hz=sample_rate_hz, device=device)
        return classifier._with(Predictor.load(run, device=device))

    def fit(self, X: Sequence[Any], y: Sequence[Any], groups: Sequence[Any] | None = None) -> "LungSoundClassifier":
        """Train on the sounds X with the labels y; `groups` says whose each is, by patient.

        Without groups each file (each waveform) counts as a patient of its own: give them when patients have several,
        else scores and calibration are made on patients who train too. Raises LungsoundError for what a user can mend.
        """
        labels = [str(label) for label in _listed("y", y)]
        people = None if groups is None else [str(group) for group in _listed("groups", groups)]
        if len({len(labels), len(_listed("X", X)), len(labels if people is None else people)}) > 1:
            raise SettingsError(f"{len(X)} sounds with {len(labels)} labels: X, y and groups must have the same length")
        if not isinstance(self.settings, Mapping | None):
            raise SettingsError(f'settings {self.settings!r}: give a mapping, as in {{"train.epochs": 5}}')
        if not (isinstance(self.test_share, float) and 0 < self.test_share < 1):
            raise SettingsError(f"test_share is {self.test_share}: give a share between 0 and 1, e.g. 0.2")
        label_set = label_set_of(labels)
        with ExitStack() as stack:
            out = Path(stack.enter_context(TemporaryDirectory()) if self.out is None else self.out)
            table = out / "corpus" / "table.csv"
            train_settings = {"train.device": self.device, "train.seed": self.random_state}
            own = {"data.label_set": label_set.name, **train_settings, **(self.settings or {})}
            config = load_config(self.recipe, {**own, "data.root": table.absolute()})
            run = RunFolder(out)
            run.check(config, is_resumed=False)
            try:
                table.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(f"{out} cannot be made a folder ({error.strerror}): give another out") from None
            sounds = _sounds(X, table.parent, self.sample_rate_hz)
            patients = people or [str(path) for path, _ in sounds]
            # A run needs something to predict: validation patients, or a test.
            is_tested = self.out is not None or config.data.protocol == "published"
            if len(set(patients)) < (needed := 3 if is_tested else 2):
                raise SettingsError(
                    f"sounds of {len(set(patients))} patients (groups): fit needs {needed} or more, to train and to "
                    f"calibrate{', and to test' if is_tested else ''}"
                )
            rows = [*zip(sounds, short_names([path for path, _ in sounds]), labels, patients, strict=True)]
            _write_table(table, rows)
            unit, data = LABEL_SETS[config.data.label_set].unit, config.data
            corpus = read_corpus(table, is_strict=data.is_strict, unit=unit, label_map=data.label_map)
            if is_tested:
                generator = generator_at(self.random_state, "patients of the report")
                held = hold_out_patients(corpus.cycles, self.test_share, generator=generator)
                _write_table(table, rows, held)
            train(config, out, console=Console(quiet=not self.verbose), is_reported=self.out is not None)
            path = None if self.out is None else run.model
            return self._with(Predictor(load_model(run.model), device=self.device, path=path))

    def predict_with_reasons(self, X: Sequence[Any]) -> list[CyclePrediction]:
        """The prediction for each sound as `Predictor` gives it, with the `reasons` to withhold it (none: it stands).

        Neither age nor stethoscope is stated. `predict` and `predict_proba` give the same classes and probabilities,
        and say nothing about what is better withheld, as scikit-learn knows no such prediction.
        """
        if not hasattr(self, "predictor_"):
            raise SettingsError("this classifier is not fitted yet: call fit, or load the folder of a run")
        predictions: dict[int, CyclePrediction] = {}
        with TemporaryDirectory() as folder:
            spans_of: dict[Path, list[tuple[float, float, int]]] = {}
            for row, (path, span_s) in enumerate(_sounds(X, Path(folder), self.sample_rate_hz)):
                if span_s is None:
                    info = probe(path)
                    span_s = (0.0, info.num_samples / info.sample_rate_hz)
                spans_of.setdefault(path, []).append((*span_s, row))
            for path, spans in spans_of.items():
                spans.sort()  # as the cycles of a prediction are
                prediction = self.predictor_.predict(path, spans_s=[(start_s, end_s) for start_s, end_s, _ in spans])
                predictions |= zip((row for _, _, row in spans), prediction.cycles, strict=True)
        return [predictions[row] for row in range(len(predictions))]

    def predict_proba(self, X: Sequence[Any]) -> NDArray[np.float64]:
        """Probabilities (sound, class) in the order of `classes_`; calibrated when the run held out patients for it."""
        given = [[each.probabilities[name] for name in self.classes_] for each in self.predict_with_reasons(X)]
        probabilities = np.array(given, dtype=np.float64).reshape(-1, len(self.classes_))
        probabilities /= probabilities.sum(axis=1, keepdims=True)  # the model's own sum to 1 in float32 only
        return probabilities

    def predict(self, X: Sequence[Any]) -> NDArray[np.str_]:
        """The most probable class of each sound, or that of the threshold that the model keeps.

        Each sound gets one, also where the prediction is better withheld: see `predict_with_reasons`.
        """
        return np.array([each.best_guess for each in self.predict_with_reasons(X)], dtype=self.classes_.dtype)

    def score(self, X: Sequence[Any], y: Sequence[Any]) -> float:
        """Accuracy, as scikit-learn's classifiers have it; the field's Score stands in the report of the run."""
        labels = [str(label) for label in _listed("y", y)]
        if not labels or len(labels) != len(_listed("X", X)):
            raise SettingsError(f"{len(X)} sounds with {len(labels)} labels: give one or more sounds, a label for each")
        return float(np.mean(self.predict(X) == np.array(labels)))

    def __repr__(self) -> str:
        """With the parameters that are not the default, as scikit-learn prints them."""
        defaults = {name: parameter.default for name, parameter in signature(type(self)).parameters.items()}
        changed = {name: value for name, value in self.get_params().items() if value != defaults[name]}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

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

    def _with(self, predictor: Predictor) -> "LungSoundClassifier":
        self.predictor_ = predictor
        self.classes_ = np.array(sorted(predictor.classes))
        return self


def label_set_of(labels: Sequence[str]) -> LabelSet:
    """The label set that has all these words as classes; SettingsError when there is none."""
    sets = [label_set for label_set in LABEL_SETS.values() if not label_set.needs_diagnosis]
    for label_set in sets:
        if labels and set(labels) <= set(label_set.classes):
            return label_set
    known = "; ".join(", ".join(label_set.classes) for label_set in sets)
    raise SettingsError(f"labels {sorted(set(labels))} are not words of one label set: y must have those of {known}")


def _listed(name: str, given: Any) -> Any:
    """The argument X, y or groups, a data frame as its rows; SettingsError for anything without a length."""
    if isinstance(given, str | Path) or not hasattr(given, "__len__"):
        raise SettingsError(f"{name} is {str(given)!r}: give a list, one entry for each sound")
    return given.to_numpy() if hasattr(given, "to_numpy") else given


def _sounds(X: Sequence[Any], folder: Path, sample_rate_hz: int | None) -> list[Sound]:
    """The place of each sound of X; waveforms are written into `folder`, without loss."""
    sounds: list[Sound] = []
    for number, given in enumerate(_listed("X", X)):
        if isinstance(given, str | Path):
            sounds.append((Path(given).absolute(), None))
            continue
        if isinstance(given, list | tuple | np.ndarray) and len(given) == 3 and isinstance(given[0], str | Path):
            try:
                start_s, end_s = (round(float(each), TIME_DECIMALS) for each in given[1:])
            except (TypeError, ValueError):
                start_s = end_s = math.nan
            if not 0 <= start_s < end_s < math.inf:
                raise SettingsError(
                    f"X[{number}] is from {given[1]} to {given[2]}: give seconds from 0, the start before the end"
                )
            sounds.append((Path(given[0]).absolute(), (start_s, end_s)))
            continue
        waveform = np.asarray(given)
        if waveform.ndim != 1 or waveform.dtype.kind != "f":
            raise SettingsError(
                f"X[{number}] has {waveform.ndim} dimensions of type {waveform.dtype}: X must hold paths, rows (path, "
                "start_s, end_s), or waveforms (samples,) of floats with full scale 1 (int16: divide by 32768)"
            )
        if not len(waveform) or not np.isfinite(waveform).all():
            raise SettingsError(f"X[{number}] has no samples, or some that are infinite or not a number: leave it out")
        if sample_rate_hz is None or sample_rate_hz < 1:
            raise SettingsError("X holds waveforms: say at what rate, LungSoundClassifier(sample_rate_hz=4000)")
        path = (folder / f"{number:06}.wav").absolute()
        soundfile.write(path, waveform.astype(np.float32), sample_rate_hz, subtype="FLOAT")
        sounds.append((path, None))
    return sounds


def _write_table(table: Path, rows: Sequence[tuple[Sound, str, str, str]], held: frozenset[str] = frozenset()) -> None:
    """Write sounds, their names, labels and patients as a table corpus, the `held` patients in its test set."""
    lines: list[list[object]] = [["path", "name", "start_s", "end_s", "label", "patient", "split"]]
    for (path, span_s), name, label, patient in rows:
        part = "test" if patient in held else "train"
        lines.append([path, name, *(span_s or ("", "")), label, patient, part])
    write_text(table, csv_text(lines))

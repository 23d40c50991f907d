"""What is answered after each epoch of a run, and what of it is kept: the three ways to choose the epoch."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from lungsound.build.corpora import Inputs
from lungsound.config import RunConfig
from lungsound.data.corpus import Corpus
from lungsound.data.protocol import VALIDATION, Parts
from lungsound.evaluation.columns import LAST, TEST
from lungsound.evaluation.metrics import IcbhiScore, confusion_matrix, icbhi_score
from lungsound.evaluation.out_of_domain import Domain, fit_domain, spectral_features
from lungsound.evaluation.predictions import Predictions
from lungsound.labels import LABEL_SETS
from lungsound.model.classifier import predict_probabilities
from lungsound.run_folder import RunFolder
from lungsound.training.step import TrainStep

# Which column of the report the run's own weights are, by train.selection.
COLUMN_OF = {"last": LAST, "validation": VALIDATION, "best_on_test": TEST}


class Watch:
    """Answers the validation and the test cycles with the weights as they stand; writes what the columns need."""

    def __init__(
        self, config: RunConfig, run: RunFolder, step: TrainStep, corpus: Corpus, inputs: Inputs, parts: Parts
    ) -> None:
        self.run, self.step, self.corpus, self.inputs, self.parts = run, step, corpus, inputs, parts
        self.batch_size = config.train.batch_size
        self.classes = LABEL_SETS[config.data.label_set].classes
        self.column = COLUMN_OF[config.train.selection]
        is_test_watched = config.train.is_test_watched or self.column == TEST
        self.watched = {VALIDATION: parts.validation, TEST: parts.test if is_test_watched else ()}
        self.latest: Predictions | None = None

    def __call__(self) -> dict[str, IcbhiScore]:
        """Scores of the watched parts, by name; also keeps the answers for `keep`."""
        watched = {name: rows for name, rows in self.watched.items() if rows}
        rows = [row for name in watched for row in watched[name]]
        self.latest = self._predict(rows) if rows else None
        scores, first = {}, 0
        for name, part in watched.items():
            assert self.latest is not None
            chosen = slice(first, first + len(part))
            counts = confusion_matrix(self.latest.labels[chosen], self.latest.answers[chosen], len(self.classes))
            scores[name], first = icbhi_score(counts), first + len(part)
        return scores

    def keep(self, column: str) -> None:
        """Write the answers as this column of the report; the model too, when it is what the run gives."""
        rows = (*self.parts.validation, *self.parts.test)
        if self.latest is None or len(self.latest.keys) < len(rows):
            self.latest = self._predict(rows)
        self.run.write_column(column, self.latest)
        if column == self.column:
            self.save_model()

    def finish(self, best_epochs: Mapping[str, int]) -> None:
        """Write the column of the last epoch; see that there is a model, calibrate it, keep what it was trained on."""
        self.keep(LAST)
        kept = self.column if self.column in best_epochs else LAST
        if kept != self.column:
            self.save_model()
        self.run.calibrate(kept)
        self.run.keep_domain(self._domain())

    def save_model(self) -> None:
        devices = sorted({self.corpus.cycles[row].recording.device or "" for row in self.parts.train} - {""})
        self.run.save_model(self.step.answering, mean=self.inputs.mean, std=self.inputs.std, devices=devices)

    def _domain(self) -> Domain | None:
        """Of the training cycles as they are, without augmentation."""
        rows = np.array(self.parts.train)
        parts = (
            self.inputs.fbanks[rows[first : first + self.batch_size]] for first in range(0, len(rows), self.batch_size)
        )
        features = np.concatenate([spectral_features(fbanks) for fbanks in parts])
        patients = [self.corpus.cycles[row].recording.patient for row in rows]
        return fit_domain(features, patients, generator=np.random.default_rng(0))

    def _predict(self, rows: Sequence[int]) -> Predictions:
        batches = self.inputs.batches(rows, self.batch_size).in_order()
        probabilities = predict_probabilities(self.step.answering, batches, device=self.step.device)
        labels = [self.inputs.labels[row] for row in rows]
        return predictions_of(
            self.corpus, rows, labels, probabilities, classes=self.classes, validation=set(self.parts.validation)
        )


def predictions_of(
    corpus: Corpus,
    rows: Sequence[int],
    labels: Sequence[int],
    probabilities: torch.Tensor,
    *,
    classes: tuple[str, ...],
    validation: Collection[int] = (),
) -> Predictions:
    """Answers (cycle, class) for cycles of a corpus, with what they are keyed by; `validation` rows are that part."""
    cycles = [corpus.cycles[row] for row in rows]
    return Predictions(
        keys=tuple(cycle.key for cycle in cycles),
        patients=tuple(cycle.recording.patient for cycle in cycles),
        devices=tuple(cycle.recording.device or "" for cycle in cycles),
        parts=tuple(
            VALIDATION if row in validation else corpus.split.get(cycle.recording.name, "")
            for row, cycle in zip(rows, cycles, strict=True)
        ),
        labels=np.asarray(labels, dtype=np.int64),
        probabilities=probabilities.double().numpy(),
        classes=classes,
    )

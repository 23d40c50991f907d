"""The corpus of a run, and its cycles that train, validate and test: the published protocol, and the strict one.

Published: all of the training set trains. Strict: validation patients are held out of the training set, and patients
that the test has too leave it, so that nobody is on two sides.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lungsound.config import CorpusSettings, DataSettings, TrainSettings
from lungsound.data.corpus import Corpus, Cycle, Recording, join
from lungsound.data.reader import read_corpus
from lungsound.data.shards import in_shards
from lungsound.errors import CorpusError, SettingsError
from lungsound.labels import LABEL_SETS, LabelSet
from lungsound.randomness import generator_at

DEVICE_SPLIT = "device:"  # data.split = "device:Meditron": tested on that device, trained on the others
CORPUS_SPLIT = "corpus:"  # data.split = "corpus:icbhi": tested on that corpus, trained on the others
VALIDATION, CALIBRATION = "validation", "calibration"  # the parts of held-out rows in a predictions file
NUM_CANDIDATES = 400


def load_corpus(data: DataSettings) -> Corpus:
    """The corpus of the settings, or several as one, without what they leave out; CorpusError when nothing is left."""
    if data.corpora and data.root is not None:
        raise SettingsError(
            f"data.root ({data.root}) and {len(data.corpora)} data.corpora are both given: name one corpus, or each of "
            "several with a --data of its own"
        )
    corpus = join(_named(data), LABEL_SETS[data.label_set]) if data.corpora else _read(corpora_of(data)[0])
    if data.split.startswith(DEVICE_SPLIT):
        return leave_device_out(corpus, data.split.removeprefix(DEVICE_SPLIT))
    if data.split.startswith(CORPUS_SPLIT):
        return leave_corpus_out(corpus, data.split.removeprefix(CORPUS_SPLIT))
    return corpus


def corpora_of(data: DataSettings) -> list[DataSettings]:
    """Settings of each corpus alone, in the order given, before a device or a corpus is left out."""
    is_one_left_out = data.split.startswith((DEVICE_SPLIT, CORPUS_SPLIT))
    if not data.corpora:
        return [data.model_copy(update={"split": "official"}) if is_one_left_out else data]
    shared = {"corpora": (), "test_parts": (), "split": "official" if is_one_left_out else data.split}
    own_keys = DataSettings.model_fields.keys() & CorpusSettings.model_fields.keys()
    return [
        data.model_copy(update=shared | {key: own for key in own_keys if (own := getattr(each, key)) is not None})
        for each in data.corpora
    ]


def _named(data: DataSettings) -> dict[str, Corpus]:
    """The corpora by name: that in the settings, else that of the format, with a number from the second of one on."""
    named: dict[str, Corpus] = {}
    for place, (each, alone) in enumerate(zip(data.corpora, corpora_of(data), strict=True), start=1):
        if alone.root is None:
            raise SettingsError(f"corpus {place} of data.corpora has no root: give as many --data as there are corpora")
        corpus = load_corpus(alone)
        number, name = 1, each.name or corpus.name
        while each.name is None and name in named:
            number += 1
            name = f"{corpus.name}{number}"
        if name in named:
            raise SettingsError(f"two corpora are called {name!r}: give each of data.corpora another name")
        named[name] = corpus
    return named


def _read(data: DataSettings) -> Corpus:
    """The one corpus of the settings without what they leave out."""
    if data.root is None:
        raise SettingsError("no corpus given: name its folder with --data DIR, in Python by the setting data.root")
    corpus = read_corpus(
        data.root,
        kind=data.corpus,
        split=data.split,
        is_strict=data.is_strict,
        unit=LABEL_SETS[data.label_set].unit,
        label_map=data.label_map,
    )
    if data.shard_mb:
        corpus = in_shards(corpus, data.shard_mb)
    if unknown := set(data.left_out_recordings) - {recording.name for recording in corpus.recordings}:
        raise SettingsError(f"data.left_out_recordings: {data.root} has no recording {min(unknown)!r}")

    def is_kept(recording: Recording) -> bool:
        part, wanted = corpus.split.get(recording.name), (data.devices, data.modes, data.parts)
        facts = zip(wanted, (recording.device, recording.mode, part), strict=True)
        is_left_out = recording.name in data.left_out_recordings
        return not is_left_out and all(not names or name in names for names, name in facts)

    kept = corpus.keep(is_kept)
    if not kept.cycles:
        raise CorpusError(
            f"no cycles in {data.root} from devices {list(data.devices)}, modes {list(data.modes)} and parts "
            f"{list(data.parts)}, without {len(data.left_out_recordings)} recordings by name"
        )
    return kept


def hold_out_patients(cycles: Sequence[Cycle], share: float, *, generator: torch.Generator) -> frozenset[str]:
    """Patients that together hold about `share` of the cycles, of each class and of each device's cycles.

    Where there are several corpora, also of each corpus and of each class in it. Of many random sets the one whose
    counts come closest is taken. SettingsError for fewer than two patients.
    """
    patients = sorted({cycle.recording.patient for cycle in cycles})
    if len(patients) < 2:
        raise SettingsError(
            f"the strict protocol holds out validation patients and needs 2 or more training patients, got "
            f"{len(patients)}; data.protocol=published holds none out"
        )
    counts = {patient: Counter[str]() for patient in patients}
    for cycle in cycles:
        strata = ["all", f"class {cycle.word}", f"device {cycle.recording.device}"]
        if (corpus := cycle.recording.corpus) is not None:
            strata += [f"corpus {corpus}", f"corpus {corpus} class {cycle.word}"]
        counts[cycle.recording.patient].update(strata)
    names = sorted({name for own in counts.values() for name in own})
    table = torch.tensor([[counts[p][name] for name in names] for p in patients], dtype=torch.float64)
    best: tuple[float, frozenset[str]] | None = None
    for _ in range(NUM_CANDIDATES):
        order = torch.randperm(len(patients), generator=generator)
        held = table[order].cumsum(0)
        deviations = ((held / table.sum(0) - share) ** 2).sum(1)[:-1]
        num_held = int(deviations.argmin()) + 1
        deviation = float(deviations[num_held - 1])
        if best is None or deviation < best[0]:
            best = deviation, frozenset(patients[i] for i in order[:num_held].tolist())
    assert best is not None
    return best[1]


@dataclass(frozen=True)
class Parts:
    """Rows of the corpus's cycles; `left_out` are patients who leave the training set, since the test has them too.

    Settings, epoch and threshold are chosen on `validation`; on `calibration`, where there is any, nothing is chosen.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    calibration: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def held_out(self) -> dict[int, str]:
        """`VALIDATION` or `CALIBRATION` by row."""
        return dict.fromkeys(self.validation, VALIDATION) | dict.fromkeys(self.calibration, CALIBRATION)


def divide(corpus: Corpus, data: DataSettings, train: TrainSettings, *, is_tested: bool = True) -> Parts:
    """The parts of a corpus under the protocol of the settings.

    Under the strict one a corpus may lack a test set when `is_tested` is false. CorpusError when nothing trains or
    nothing is tested, SettingsError when there are too few patients to hold any out.
    """
    is_strict = data.protocol == "strict"
    if not is_strict and (train.selection == "validation" or train.is_threshold_chosen):
        setting = "selection=validation" if train.selection == "validation" else "is_threshold_chosen=true"
        raise SettingsError(
            f"train.{setting} needs held-out patients, which data.protocol=published does not have; "
            "set data.protocol=strict"
        )
    is_untested = is_strict and not is_tested and corpus.parts == ("train",)
    candidates, test = _rows(corpus, ("train",)), () if is_untested else rows_to_test(corpus, data.test_parts)
    if not candidates:
        raise CorpusError(f"{corpus.root} has no training cycles; the parts there are {list(corpus.parts)}")
    if not is_strict:
        return Parts(candidates, (), test)
    patients = [cycle.recording.patient for cycle in corpus.cycles]
    shared = shared_patients(corpus, corpus.part("train"), [corpus.cycles[row] for row in test])
    left_out = () if data.are_shared_patients_kept else shared
    staying = [row for row in candidates if patients[row] not in left_out]
    if not staying:
        raise CorpusError(
            f"{corpus.root}: the test has every training patient too, so the strict protocol leaves none to train; "
            "split by patient, or set data.protocol=published"
        )
    seed, held, rest = train.seed if train.division_seed is None else train.division_seed, [], staying
    # The second share is of all, so more of what the first has left.
    shares = (train.validation_share, train.calibration_share / (1 - train.validation_share))
    for part, share in zip((VALIDATION, CALIBRATION), shares, strict=True):
        names: frozenset[str] = frozenset()
        if share > 0:
            generator = generator_at(seed, f"{part} patients")
            names = hold_out_patients([corpus.cycles[row] for row in rest], share, generator=generator)
        held.append(tuple(row for row in rest if patients[row] in names))
        rest = [row for row in rest if patients[row] not in names]
    if train.is_threshold_chosen:
        _check_threshold(LABEL_SETS[data.label_set], [corpus.cycles[row] for row in held[0]])
    return Parts(tuple(rest), held[0], test, held[1], left_out=left_out)


def _check_threshold(label_set: LabelSet, validation: Sequence[Cycle]) -> None:
    """SettingsError where no threshold for "normal" can be chosen on these cycles."""
    normal = label_set.classes[0]
    if normal.casefold() != "normal":
        raise SettingsError(
            f"train.is_threshold_chosen=true needs a label set with a class 'normal'; {label_set.name} has "
            f"{', '.join(label_set.classes)}: take another data.label_set or leave it false"
        )
    labels = [label_set.label(sound=c.sound, diagnosis=c.recording.diagnosis, term=c.term) for c in validation]
    num_normal = labels.count(0)
    if num_normal in (0, len(labels)):
        raise SettingsError(
            "train.is_threshold_chosen=true needs normal and other cycles of validation patients; there are "
            f"{num_normal} and {len(labels) - num_normal}: take another train.validation_share or train.seed"
        )


def shared_patients(corpus: Corpus, train: Sequence[Cycle], test: Sequence[Cycle]) -> tuple[str, ...]:
    """Patients in both, but for those in test parts that hold known patients by design; sorted."""
    tested = {c.recording.patient for c in test if corpus.split[c.recording.name] not in corpus.known_patient_parts}
    return tuple(sorted(tested & {cycle.recording.patient for cycle in train}))


def rows_to_test(corpus: Corpus, parts: Sequence[str]) -> tuple[int, ...]:
    """Rows of the cycles of the test parts: those named, else every part but "train". CorpusError without cycles."""
    names = tuple(parts) or tuple(part for part in corpus.parts if part != "train")
    test = _rows(corpus, names)
    if not test or not set(names) <= set(corpus.parts):
        raise CorpusError(
            f"{corpus.root} has {len(test)} cycles in the test parts {list(names)}; its parts are {list(corpus.parts)}"
        )
    return test


def leave_device_out(corpus: Corpus, device: str) -> Corpus:
    """The corpus split into `device` ("test") and all others ("train"); CorpusError when one would be empty."""
    split = {r.name: "test" if r.device == device else "train" for r in corpus.recordings}
    if len(set(split.values())) < 2:
        devices = sorted({recording.device or "unknown" for recording in corpus.recordings})
        raise CorpusError(f"{corpus.root} cannot leave the device {device!r} out; its devices are {', '.join(devices)}")
    return replace(corpus, split=split)


def leave_corpus_out(corpus: Corpus, name: str) -> Corpus:
    """The corpora with `name`, its training part too ("icbhi.train"), as the only test; CorpusError without another."""
    if name not in corpus.members or len(corpus.members) < 2:
        there = ", ".join(corpus.members) or corpus.name
        raise CorpusError(f"{corpus.root} cannot leave the corpus {name!r} out; the corpora are {there}")
    own = {each.name for each in corpus.recordings if each.corpus == name}
    split = {
        each: f"{name}.{part}" if each in own and part == "train" else part
        for each, part in corpus.split.items()
        if each in own or part == "train"
    }
    return replace(corpus, split=split)


def _rows(corpus: Corpus, parts: Sequence[str]) -> tuple[int, ...]:
    return tuple(row for row, cycle in enumerate(corpus.cycles) if corpus.split.get(cycle.recording.name) in parts)

"""Make the model in the box again from the corpora; the work behind scripts/box.

The recipe `box` is trained on the training sets, its weights are rounded to float16, and the rounded model is
calibrated on held-out patients and measured once on the tests. It gets a gate against sounds without lungs and, if
one can be fitted, one against what sounds unlike the corpora on which it was shown to be better than always normal.
Then model, checksum and card are written.
"""

import argparse
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import soundfile
import torch
from benchmarks.firm import SHORT_S, clips
from rich.console import Console

from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.config import RunConfig, load_config
from lungsound.data.batches import Inputs
from lungsound.data.corpus import Corpus
from lungsound.data.splits import VALIDATION, Parts, corpora_of, divide, load_corpus, rows_to_test
from lungsound.data.store import open_filter_banks, sounds_of
from lungsound.errors import DataError, LungsoundError, WeightsError
from lungsound.evaluation.calibration import fit_calibration
from lungsound.evaluation.evidence import NAMES, Evidence, Measured, words_for_ages
from lungsound.evaluation.metrics import confusion_matrix, sensitivity, specificity
from lungsound.evaluation.out_of_domain import fit_gate
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.selection import LAST
from lungsound.extras import BOX, BOX_PACKAGE
from lungsound.files import write_text, written_whole
from lungsound.inference.bulk import sound_files
from lungsound.inference.engines import decisions, parity
from lungsound.inference.engines import make as make_engine
from lungsound.inference.graph import write_beside
from lungsound.inference.prediction import CyclePrediction
from lungsound.inference.predictor import Predictor, load_recording
from lungsound.processor import processor_name
from lungsound.progress import track
from lungsound.recipe import train
from lungsound.training.callbacks import predict_rows
from lungsound.training.evaluate import EVALUATION_BATCH_SIZE, known_patients
from lungsound.training.model_file import TrainedModel, add_to_model, load_model, write_rounded
from lungsound.training.run import CorpusFacts, RunFolder

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "README.md.jinja"
RULE = "-" * 79 + "\n"  # in LICENSE, between what holds for this box and the text of the GPL
LICENCES = {"sprsound": "GPL-3.0-only", "icbhi": "LicenseRef-ICBHI-2017-research"}  # of the corpora, as SPDX has it
MODEL = f"src/{BOX_PACKAGE}/model.safetensors"
MAX_BYTES = 12_000_000
NUM_SEEDS = 1
NUM_LUNGS, NUM_CLIPS = 1400, 320  # training cycles of each corpus, and clips without lungs, for the gate
HELD_OUT_KIND = "music"  # of these clips: to see what a gate does with a kind that it never heard
# Settings of each corpus. The recording left out of SPRSound is in its intra test too, under another name.
CORPORA: dict[str, dict[str, Any]] = {
    "sprsound": {"left_out_recordings": ["41279835_14.1_0_p1_2945"]},
    "icbhi": {},
}


@dataclass(frozen=True)
class Given:
    """Predictions of one group that are given and not withheld, as shares; NaN where there is none."""

    name: str
    given: float
    given_of_class: dict[str, float]
    specificity: float
    sensitivity: float
    covered: float


@dataclass(frozen=True)
class Making:
    """Folders of the corpora by name, the folder of the trainings, and the settings that go before the recipe's."""

    corpora: Mapping[str, Path]
    runs: Path
    settings: Sequence[str]
    num_seeds: int
    console: Console

    def train(self) -> RunFolder:
        """Train a run for each seed; several of them teach one more, whose model is taken."""
        runs = [self._train(f"seed{seed}", f"train.seed={seed}") for seed in range(self.num_seeds)]
        if len(runs) == 1:
            return runs[0]
        return self._train("taught", f"objective.teachers={json.dumps([str(run.path) for run in runs])}")

    def leave_out(self) -> list[Measured]:
        """Train without each stethoscope and each corpus in turn, and measure on its training set, which was not in.

        The only stethoscope of a corpus is left out with it.
        """
        corpus = load_corpus(self._config("train.seed=0").data)
        devices: dict[str, set[str]] = {}
        for recording in corpus.recordings:
            devices.setdefault(recording.corpus or "", set()).update(filter(None, [recording.device]))
        splits = {
            f"{NAMES[name]}, {device}": f"device:{device}"
            for name, own in devices.items()
            for device in sorted(own)
            if len(own) > 1 or len(corpus.members) < 2
        }
        if len(corpus.members) > 1:
            splits |= {NAMES[name]: f"corpus:{name}" for name in corpus.members}
        ages = {cycle.key: cycle.recording.age_years for cycle in corpus.cycles}
        measured = []
        for name, split in splits.items():
            run = self._train(f"without-{split.partition(':')[2]}", f"data.split={split}")
            tested = run.columns()[LAST].of_test()
            assert tested is not None
            own = [ages[key] for key in tested.keys]
            measured.append(Measured.of(tested, name=name, ages_years=own, is_trained_on=False))
        return measured

    def _train(self, name: str, setting: str) -> RunFolder:
        """Train on the training sets, the tests unread; a run that was stopped goes on, a finished one stays."""
        run = RunFolder(self.runs.absolute() / name)
        self.console.print(f"training in {run.path}")
        is_resumed = (run.path / "config.json").is_file()
        config = self._config(setting)
        train(config, run.path, console=self.console, is_resumed=is_resumed, is_reported=False)
        return run

    def _config(self, setting: str) -> RunConfig:
        tables = [
            {"name": corpus, "root": str(root.absolute()), "parts": ["train"], **CORPORA[corpus]}
            for corpus, root in self.corpora.items()
        ]
        inline = (", ".join(f"{key} = {json.dumps(value)}" for key, value in each.items()) for each in tables)
        corpora = f"data.corpora=[{', '.join(f'{{{each}}}' for each in inline)}]"
        return load_config(BOX, [*self.settings, corpora, setting])

    def calibrate(self, config: RunConfig, corpus: Corpus, parts: Parts, model: Path) -> None:
        """Fit the calibration to the rounded model on the patients that the run held out, and put it into the file."""
        trained = load_model(model)
        rows = (*parts.validation, *parts.calibration)
        predictions = self._predict(trained, corpus, self._inputs(trained, corpus), rows, parts.held_out)
        fitted_on = predictions.to_calibrate()
        assert fitted_on is not None
        threshold_on = predictions.of_part(VALIDATION) if config.train.is_threshold_chosen else None
        calibration = fit_calibration(fitted_on, threshold_on=threshold_on)
        evidence = Evidence.of(corpus, parts.train, calibration.decided(fitted_on))
        add_to_model(model, calibration=calibration, evidence=evidence)

    def add_gates(self, corpus: Corpus, parts: Parts, model: Path, hearts: Path) -> None:
        """Put one or two gates into the measured file, of training cycles; calibration patients set the thresholds.

        One stops sounds without lungs, the other, if there are `doubted_corpora`, what sounds like these and not like
        the rest. All is heard whole and in short pieces, as an annotation may cut it. Each corpus has as many training
        cycles in it. A threshold is that of the corpus, of those that shall pass, that needs the highest.
        """
        trained = load_model(model)
        engine, front_end = make_engine("torch", trained), trained.front_end

        def features_of(sounds: Sequence[Sound]) -> npt.NDArray[np.float32]:
            return engine.predict(sounds)[1]

        def with_pieces(sounds: list[Sound]) -> npt.NDArray[np.float32]:
            return features_of([*sounds, *pieces(sounds, front_end.sample_rate_hz, np.random.default_rng(0))])

        def lungs_of(name: str, rows: Iterable[int], most: int | None = None) -> list[Sound]:
            own = [row for row in rows if corpus.cycles[row].recording.corpus == name][:most]
            return sounds_of([corpus.cycles[row] for row in sorted(own)], front_end)

        shuffled = np.random.default_rng(0).permutation(parts.train).tolist()
        lungs = {name: with_pieces(lungs_of(name, shuffled, NUM_LUNGS)) for name in corpus.members}
        held_out = {
            name: features_of(sounds) for name in corpus.members if (sounds := lungs_of(name, parts.calibration))
        }
        gate = fit_gate(
            np.concatenate([*lungs.values()]), with_pieces(other_sounds(front_end, hearts)), [*held_out.values()]
        )
        doubted = {name: lungs.pop(name) for name in doubted_corpora(trained, corpus)}
        against_doubted = None
        if doubted:
            if missing := [NAMES[name] for name in lungs if name not in held_out]:
                raise DataError(f"{' and '.join(missing)}: no patient calibrates, who sets the threshold of a gate")
            of_proven, of_doubted = (np.concatenate([*group.values()]) for group in (lungs, doubted))
            against_doubted = fit_gate(of_proven, of_doubted, [held_out[name] for name in lungs])
        add_to_model(model, gate=gate, doubted=against_doubted)

    def measure(
        self, run: RunFolder, model: Path, others: Sequence[Measured] = ()
    ) -> tuple[Corpus, dict[str, Predictions]]:
        """Measure the calibrated model on each test, by stethoscope, and put that into the file, and the `others`.

        Gives the tests, and the decided predictions of each group.
        """
        trained, data = load_model(model), run.config().data
        calibration, evidence = trained.calibration, trained.evidence
        assert calibration is not None
        assert evidence is not None
        whole = (load_corpus(each.model_copy(update={"parts": ()})) for each in corpora_of(data))
        tests = [tuple(part for part in corpus.parts if part != "train") for corpus in whole]
        tested = tuple(each.model_copy(update={"parts": own}) for each, own in zip(data.corpora, tests, strict=True))
        corpus = load_corpus(data.model_copy(update={"corpora": tested}))
        rows, inputs = rows_to_test(corpus, ()), self._inputs(trained, corpus)
        predictions = calibration.decided(self._predict(trained, corpus, inputs, rows, {}))
        ages = {cycle.key: cycle.recording.age_years for cycle in corpus.cycles}
        groups = groups_of(corpus, predictions, known_patients(run.facts(), predictions))
        of_groups = {name: predictions.of_rows(rows) for name, rows in groups.items()}
        measured = [
            Measured.of(each, name=name, ages_years=[ages[key] for key in each.keys])
            for name, each in of_groups.items()
        ]
        add_to_model(model, evidence=evidence.model_copy(update={"measured": (*measured, *others)}))
        return corpus, of_groups

    def given(self, model: Path, corpus: Corpus, of_groups: Mapping[str, Predictions]) -> list[Given]:
        """What is given of each group by the finished model, where neither age nor stethoscope is stated."""
        predicted = self._predicted(model, corpus)
        return [given_of(name, each, [predicted[key] for key in each.keys]) for name, each in of_groups.items()]

    def _predicted(self, model: Path, corpus: Corpus) -> dict[str, CyclePrediction]:
        """Predictions of all cycles by key, as a user gets them."""
        predictor, predicted = Predictor.load(model, engine="torch"), dict[str, CyclePrediction]()
        with track(self.console, "predictions") as on_progress:
            for recording, group in groupby(corpus.cycles, key=lambda cycle: cycle.recording):
                cycles = sorted(group, key=lambda cycle: (cycle.start_s, cycle.end_s))
                spans_s = [(cycle.start_s, cycle.end_s) for cycle in cycles]
                of_recording = predictor.predict(recording.path, spans_s=spans_s).cycles
                predicted |= {cycle.key: each for cycle, each in zip(cycles, of_recording, strict=True)}
                on_progress(len(predicted), len(corpus.cycles))
        return predicted

    def _inputs(self, trained: TrainedModel, corpus: Corpus) -> Inputs:
        fbanks = open_filter_banks(corpus, trained.front_end, console=self.console)
        return Inputs.of(corpus, fbanks, trained.front_end, trained.label_set, mean=trained.mean, std=trained.std)

    def _predict(
        self, trained: TrainedModel, corpus: Corpus, inputs: Inputs, rows: Sequence[int], held_out: Mapping[int, str]
    ) -> Predictions:
        with track(self.console, "predictions") as on_progress:
            return predict_rows(
                trained.model,
                corpus,
                inputs,
                rows,
                batch_size=EVALUATION_BATCH_SIZE,
                device=torch.device("cpu"),
                on_progress=on_progress,
                held_out=held_out,
            )


def groups_of(corpus: Corpus, predictions: Predictions, met: Mapping[str, str]) -> dict[str, list[int]]:
    """Rows of each test and stethoscope, by name.

    Patients who are in the training set too are left out, but for those of a test that has them by design. The only
    stethoscope of a test is not named.
    """
    groups: dict[tuple[int, str], list[int]] = {}
    columns = list(zip(predictions.parts, predictions.devices, predictions.patients, strict=True))
    num_devices = Counter(part for part, _ in {(part, device) for part, device, _ in columns})
    for row, (part, device, patient) in enumerate(columns):
        if patient not in met or part in corpus.known_patient_parts:
            name, _, own = part.partition(".")
            title = f"{NAMES[name]} {own}"
            title += f", {device}" if device and num_devices[part] > 1 else ""
            groups.setdefault((list(corpus.members).index(name), title), []).append(row)
    return {title: rows for (_, title), rows in sorted(groups.items())}


def doubted_corpora(trained: TrainedModel, corpus: Corpus) -> list[str]:
    """Corpora on no test of which the model was shown to be better than always predicting normal.

    Empty where that would be all of them.
    """
    assert trained.evidence is not None
    tests = [each for each in trained.evidence.measured if each.is_trained_on and each.is_better_than_normal]
    doubted = [name for name in corpus.members if not any(each.name.startswith(NAMES[name]) for each in tests)]
    return doubted if len(doubted) < len(corpus.members) else []


def given_of(name: str, predictions: Predictions, predicted: Sequence[CyclePrediction]) -> Given:
    """Shares of the cycles of a group `predicted` without a reason to withhold, and whose set holds the true class."""
    labels, classes = predictions.labels, predictions.classes
    is_given = np.array([not each.reasons for each in predicted])
    confusion = confusion_matrix(labels[is_given], predictions.predicted[is_given], len(classes))
    is_covered = [classes[label] in each.possible for label, each in zip(labels, predicted, strict=True)]
    return Given(
        name=name,
        given=float(is_given.mean()),
        given_of_class={classes[label]: float(is_given[labels == label].mean()) for label in np.unique(labels)},
        specificity=float(specificity(confusion)),
        sensitivity=float(sensitivity(confusion)),
        covered=float(np.mean(is_covered)),
    )


def other_sounds(front_end: FrontEnd, hearts: Path) -> list[Sound]:
    """What would be taken for cycles in clips without lungs: made by a program, and every second of a folder of hearts.

    The other hearts, the kind held out, and other clips of these kinds, are for `benchmarks.firm`.
    """
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.wav" for number in range(NUM_CLIPS)]
        for path, (kind, samples, rate_hz) in zip(paths, clips(NUM_CLIPS, first_seed=0), strict=True):
            if kind != HELD_OUT_KIND:
                soundfile.write(path, samples, rate_hz, subtype="PCM_16")
        loaded = [
            load_recording(path, front_end, find_by="auto")
            for path in (*filter(Path.is_file, paths), *sound_files([hearts])[::2])
        ]
    return [stretch.sound for each in loaded for stretch in each.stretches]


def pieces(sounds: Sequence[Sound], sample_rate_hz: int, rng: np.random.Generator) -> list[Sound]:
    """A piece of each sound, of a length drawn from `SHORT_S` and from a place that is drawn."""
    cut = []
    for sound in sounds:
        size = min(len(sound.waveform), round(rng.uniform(*SHORT_S) * sample_rate_hz))
        first = int(rng.integers(len(sound.waveform) - size + 1))
        cut.append(replace(sound, waveform=sound.waveform[first : first + size]))
    return cut


def templates() -> jinja2.Environment:
    """The templates of the distribution."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "box"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the card is Markdown, of our own values
    )
    environment.filters["percent"] = lambda share: "n/a" if share is None or share != share else f"{100 * share:.1f}"
    return environment


def licence_of(corpora: Collection[str]) -> str:
    """Terms of weights that were trained on these corpora, and the text of the GPL from the distribution."""
    gpl = (ROOT / "box" / "LICENSE").read_text(encoding="utf-8").partition(RULE)[2]
    return templates().get_template("LICENSE.jinja").render(corpora=corpora, gpl=gpl)


def write_box(out: Path, run: RunFolder, model: Path, corpus: Corpus, given: Sequence[Given], *, command: str) -> None:
    """Write model, checksum, card and licence into the folder of the distribution."""
    trained, facts = load_model(model), run.facts()
    doubted = doubted_corpora(trained, corpus)
    num_bytes = model.stat().st_size
    if num_bytes > MAX_BYTES:
        raise WeightsError(f"{model} has {num_bytes} bytes, more than the {MAX_BYTES} of a box: take a smaller model")
    with written_whole(out / MODEL) as partial:
        shutil.copyfile(model, partial)
    write_text(out / f"{MODEL}.sha256", f"{trained.sha256}  {Path(MODEL).name}\n")
    card = (
        templates()
        .get_template(TEMPLATE)
        .render(
            trained=trained,
            num_parameters=sum(value.numel() for value in trained.model.parameters()),
            num_bytes=num_bytes,
            config=run.config(),
            facts=facts,
            tested={name: CorpusFacts.of(member) for name, member in corpus.members.items()},
            names=NAMES,
            words_for_ages=words_for_ages,
            doubted=[NAMES[name] for name in doubted],
            proven=[NAMES[name] for name in corpus.members if name not in doubted],
            given=given,
            command=command,
            processor=processor_name(),
        )
    )
    write_text(out / "README.md", card)
    write_text(out / "LICENSE", licence_of(facts.corpus.members))
    if (project := out / "pyproject.toml").is_file():
        licence = " AND ".join(LICENCES[name] for name in facts.corpus.members)
        text = project.read_text(encoding="utf-8")
        write_text(project, re.sub("^license = .*$", f'license = "{licence}"', text, flags=re.MULTILINE))


def add_graph(model: Path, corpus: Corpus) -> None:
    """Write the graph beside the model, hold it against torch on the tests: WeightsError, and no graph."""
    trained = load_model(model)
    graph = write_beside(trained)
    cycles = sounds_of([corpus.cycles[row] for row in rows_to_test(corpus, ())], trained.front_end)
    exact, given = (decisions(trained, make_engine(name, trained).predict(cycles)) for name in ("torch", "onnx"))
    if not (found := parity(exact, given)).is_exact:
        graph.unlink()
        raise WeightsError(f"{graph} differs from torch by {found.largest_difference:.1e} in probability on the tests")


def make(making: Making, out: Path, *, hearts: Path, is_any_left_out: bool, command: str) -> None:
    """Make the box, from the trainings on; `command` is named in the card."""
    run = making.train()
    others = making.leave_out() if is_any_left_out else []
    model = making.runs / "rounded.safetensors"
    write_rounded(run.model, model)
    config = run.config()
    trained_on = load_corpus(config.data)
    parts = divide(trained_on, config.data, config.train, is_tested=False)
    making.calibrate(config, trained_on, parts, model)
    corpus, of_groups = making.measure(run, model, others)
    making.add_gates(trained_on, parts, model, hearts)
    given = making.given(model, corpus, of_groups)
    write_box(out, run, model, corpus, given, command=command)
    add_graph(out / MODEL, corpus)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/box",
        description="Make the model in the box again from the corpora. A call that was stopped goes on where it was; "
        "on one machine the same corpora give the same bytes.",
    )
    parser.add_argument("--sprsound", metavar="DIR", type=Path, required=True, help="Folder of SPRSound 2022.")
    parser.add_argument("--icbhi", metavar="DIR", type=Path, help="Folder of ICBHI 2017, or of a part of it.")
    parser.add_argument(
        "--hearts",
        metavar="DIR",
        type=Path,
        required=True,
        help="Folder of heart sounds, of the CirCor DigiScope data set; every second is taken.",
    )
    parser.add_argument("--without", choices=["icbhi"], help="Make a box without ICBHI.")
    parser.add_argument(
        "--left-out",
        action="store_true",
        help="Also train without each stethoscope and each corpus in turn, and measure on it, for the card.",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=ROOT / "box",
        help="Write model, checksum and card into this distribution.  [default: box, of this checkout]",
    )
    parser.add_argument(
        "--runs", metavar="DIR", type=Path, default=Path("runs/box"), help="Keep trainings here.  [default: runs/box]"
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=int,
        default=NUM_SEEDS,
        help=f"Number of trainings; several teach one more.  [default: {NUM_SEEDS}]",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="Change a setting of the recipe 'box', e.g. --set model.pretrained=FILE. Repeatable.",
    )
    return parser


def command_of(given: argparse.Namespace) -> str:
    """The command that makes the same box on another machine: no folder or file of this one is named."""
    words = [
        "scripts/box",
        "--sprsound DIR",
        "--without icbhi" if given.icbhi is None else "--icbhi DIR",
        "--hearts DIR",
    ]
    words += ["--left-out"] if given.left_out else []
    words += [] if given.seeds == NUM_SEEDS else [f"--seeds {given.seeds}"]
    pairs = (setting.partition("=") for setting in given.set)
    return " ".join([*words, *(f"--set {key}={'FILE' if Path(value).exists() else value}" for key, _, value in pairs)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    given = parser.parse_args(arguments)
    if (given.icbhi is None) == (given.without is None):
        parser.error("give either --icbhi DIR or --without icbhi")
    corpora = {"sprsound": given.sprsound} | ({} if given.icbhi is None else {"icbhi": given.icbhi})
    # As many threads on every machine, since their number changes the last bits of sums.
    torch.set_num_threads(1)
    making = Making(corpora, given.runs, given.set, given.seeds, Console(markup=False, highlight=False))
    try:
        make(making, given.out, hearts=given.hearts, is_any_left_out=given.left_out, command=command_of(given))
    except LungsoundError as error:
        print(f"box: {error}", file=sys.stderr)
        return error.exit_code
    print(f"made: {given.out / MODEL}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One training run on one page. Read this first."""

import shlex
import sys
from pathlib import Path

from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.config import RunConfig
from lungsound.data.batches import training_batches, training_inputs
from lungsound.data.splits import divide, load_corpus
from lungsound.models.classifier import find_device, initial_classifier
from lungsound.models.precision import choose_precision, find_precision
from lungsound.progress import ProgressDisplay
from lungsound.ranks import Alone, joined_ranks
from lungsound.training.callbacks import EpochEvaluation, ProgressBar
from lungsound.training.evaluate import report_on
from lungsound.training.objectives import make_objective
from lungsound.training.run import RunFacts, RunFolder
from lungsound.training.teachers import ask_teachers
from lungsound.training.trainer import Trainer, TrainStep, remarks


def train(
    config: RunConfig,
    run_dir: str | Path,
    *,
    console: Console | None = None,
    is_resumed: bool = False,
    is_reported: bool = True,
) -> Path:
    """Train, choose an epoch, evaluate on the test set, report; the path of the report.

    With `is_reported` false that of the model; then the strict protocol needs no test set, and where there is one
    `is_resumed` makes the report later. The same settings, corpus and machine give the same weights to the byte on the
    CPU, also when the run was killed and resumed. Raises LungsoundError for what a user can mend. Processes that
    torchrun starts together share each batch and its work; the first of them writes.
    """
    run = RunFolder(Path(run_dir))
    with joined_ranks() as ranks:
        if not ranks.is_first:
            return _train(config, run, ranks, console=Console(quiet=True), is_reported=is_reported)
        with run.lock():
            run.check(config, is_resumed=is_resumed or (ranks.is_restarted and not run.is_blank))
            return _train(config, run, ranks, console=console or Console(), is_reported=is_reported)


def _train(config: RunConfig, run: RunFolder, ranks: Alone, *, console: Console, is_reported: bool) -> Path:
    device = ranks.device(find_device(config.train.device))
    find_precision(config.train.precision, device)  # refuses before anything is read what this device does not have

    # Recordings to cycles, which train, choose the epoch or are kept for the end; and to filter banks.
    corpus = load_corpus(config.data)
    parts = divide(corpus, config.data, config.train, is_tested=is_reported)
    model, pretrained = initial_classifier(config, FrontEnd(config.audio), console=console)
    teachers, soft_labels = ask_teachers(config, corpus, parts, device=device, console=console)
    inputs = training_inputs(config, corpus, parts, console=console)
    batches = training_batches(config, corpus, parts, inputs, soft_labels=soft_labels, ranks=ranks, console=console)

    # The objective, and one step of minimising it, in the precision that the run has or that does well here.
    precision, slow = ranks.of_first(
        lambda: choose_precision(config.train, model, inputs.num_frames, device, of_run=run.precision())
    )
    train = config.train.model_copy(update={"precision": precision})
    class_counts = inputs.class_counts(parts.train)
    objective = make_objective(config.objective, config.patchmix, class_counts=class_counts, device=device, ranks=ranks)
    step = TrainStep(model, objective, train, device=device, ranks=ranks)
    for remark in [*remarks(train, corpus, parts, pretrained, batches), *([slow] if slow else [])]:
        console.print(remark, markup=False, highlight=False)

    # The folder of the run: new, or taken up where it stopped.
    if ranks.is_first:
        run.start(config)
    progress = run.restore(step)
    if ranks.is_first:
        made = {"command": shlex.join(sys.argv), "device": str(device), "precision": train.precision}
        run.write_facts(RunFacts.of(corpus, parts, pretrained, teachers, **made))

    # Train to the last epoch; then model.safetensors holds the chosen one.
    with run, ProgressDisplay(console) as display, display.stage("training") as stage:
        evaluation = EpochEvaluation(config, run, step, corpus, inputs, parts, display)
        trainer = Trainer(
            step,
            batches,
            config.train,
            evaluate=evaluation.evaluate,
            save=lambda state: run.save(step, state) if ranks.is_first else None,
            keep=evaluation.keep,
            listeners=(ProgressBar(display, stage, config.train), run) if ranks.is_first else (),
        )
        evaluation.finish(trainer.fit(progress))

    # Evaluate the weights, as they stand on disk, on the test set.
    if not (is_reported and ranks.is_first):
        return run.model
    return report_on(run, corpus, parts.test, data=config.data, console=console)

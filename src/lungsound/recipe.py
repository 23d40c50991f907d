"""One training run on one page. Read this first."""

import shlex
import sys
from pathlib import Path

from rich.console import Console

from lungsound import build
from lungsound.checkpoint import save_model
from lungsound.config import RunConfig
from lungsound.data.dataset import CycleBatches
from lungsound.evaluation.metrics import IcbhiScore
from lungsound.labels import LABEL_SETS
from lungsound.run_folder import RunFolder
from lungsound.scoring import quick_score, report_on
from lungsound.training.progress import ProgressBar
from lungsound.training.trainer import Trainer


def train(config: RunConfig, run_dir: Path, *, console: Console | None = None, is_resumed: bool = False) -> Path:
    """Train, choose an epoch, evaluate on the test part, report; the path of the report.

    The same settings, corpus and machine give the same weights to the byte on the CPU, also when the run was killed
    and resumed. Raises LungsoundError for what a user can mend.
    """
    # On what machine; which cycles train, which choose the epoch, which are kept for the end.
    settings = config.train
    console = console or Console()
    device = build.device(settings.device)
    corpus = build.corpus(config.data)
    parts = build.parts(config, corpus)
    label_set = LABEL_SETS[config.data.label_set]
    labels = build.labels(corpus.cycles, label_set)
    train_labels = [labels[row] for row in parts.train]

    # Recordings to cycles to normalised filter banks.
    front_end = build.front_end(config.audio)
    fbanks = build.filter_banks(corpus, front_end, console=console)
    mean, std = build.statistics(config.audio, fbanks, parts.train)
    batches = build.training_batches(config, fbanks, parts.train, train_labels, mean=mean, std=std)

    # The model, what it is to minimise, and one step of doing so.
    model, pretrained = build.model(config, front_end)
    class_counts = [train_labels.count(index) for index in range(label_set.num_classes)]
    objective = build.objective(config.objective, config.patchmix, class_counts=class_counts, device=device)
    step = build.train_step(settings, model.to(device), objective, device=device)

    # The folder of the run: new, or taken up where it stopped.
    run = RunFolder(run_dir)
    run.start(config, is_resumed=is_resumed)
    progress = run.restore(step)
    run.write_facts(
        command=shlex.join(sys.argv),
        device=str(device),
        precision=build.precision(settings.precision, device),
        corpus=corpus,
        num_cycles={"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)},
        pretrained=None if pretrained is None else pretrained.summary(),
    )

    # What happens after an epoch: the watched part (none for selection = last) gives a score; the best is kept.
    watched = {"last": (), "validation": parts.validation, "best_on_test": parts.test}[settings.selection]
    shown = CycleBatches(
        fbanks, watched, [labels[row] for row in watched], batch_size=settings.batch_size, mean=mean, std=std
    )

    def watch() -> IcbhiScore:
        return quick_score(model, shown, device=device)

    def keep() -> None:
        save_model(
            run.model, model, audio=config.audio, architecture=config.model, mean=mean, std=std, label_set=label_set
        )

    # Train.
    with run, ProgressBar(console, epochs=settings.epochs, batch_size=settings.batch_size) as bar:
        trainer = Trainer(
            step,
            build.schedule(settings),
            batches,
            seed=settings.seed,
            watch=watch if watched else None,
            save=lambda state: run.save(step, state),
            keep=keep,
            checkpoint_every_steps=settings.checkpoint_every_steps,
            listeners=(bar, run),
        )
        progress = trainer.fit(settings.epochs, progress)
    if progress.best_epoch == 0:
        keep()

    # Evaluate the chosen epoch's weights, as they stand on disk, on the test part; report.
    return report_on(run, corpus, parts.test, history=progress.history, chosen=progress.best_epoch, console=console)

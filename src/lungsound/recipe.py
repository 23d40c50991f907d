"""One training run on one page. Read this first."""

import shlex
import sys
from pathlib import Path

from rich.console import Console

from lungsound.config import RunConfig
from lungsound.data import batches as corpora
from lungsound.data.batches import CycleBatches
from lungsound.models import network as models
from lungsound.training import trainer as training
from lungsound.training.callbacks import ProgressBar, Watch
from lungsound.training.evaluate import report_on
from lungsound.training.run import RunFolder
from lungsound.training.trainer import Progress, Trainer


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
    CPU, also when the run was killed and resumed. Raises LungsoundError for what a user can mend.
    """
    run = RunFolder(Path(run_dir))
    with run.alone():
        run.check(config, is_resumed=is_resumed)
        return _train(config, run, console=console or Console(), is_reported=is_reported)


def _train(config: RunConfig, run: RunFolder, *, console: Console, is_reported: bool) -> Path:
    device = training.device(config.train.device)
    precision = training.precision(config.train.precision, device)

    # Recordings to cycles, which of them train, choose the epoch and are kept for the end; to filter banks.
    corpus = corpora.corpus(config.data)
    parts = corpora.parts(config, corpus, is_tested=is_reported)
    model, pretrained = models.model(config, corpora.front_end(config.audio), console=console)
    inputs = corpora.inputs(config, corpus, parts, console=console)

    # The model, what it is to minimise, one step of doing so, and the batches for it.
    counts = inputs.class_counts(parts.train)
    objective = training.objective(config.objective, config.patchmix, class_counts=counts, device=device)
    step = training.train_step(config.train, model.to(device), objective, device=device)
    batches = inputs.training_batches(config, parts.train)
    for remark in training.remarks(config.train, corpus, parts, pretrained, batches):
        console.print(remark, markup=False, highlight=False)

    # The folder of the run: new, or taken up where it stopped.
    run.start(config)
    progress = run.restore(step)
    run.write_facts(
        command=shlex.join(sys.argv),
        device=str(device),
        precision=precision,
        corpus=corpus,
        parts=parts,
        pretrained=None if pretrained is None else pretrained.summary(),
    )

    # Train; then evaluate the chosen epoch's weights, as they stand on disk, on the test set.
    watch = Watch(config, run, step, corpus, inputs, parts)
    progress = fit(config, batches, watch, progress, console=console)
    if not is_reported:
        return run.model
    return report_on(run, corpus, parts.test, data=config.data, progress=progress, console=console)


def fit(config: RunConfig, batches: CycleBatches, watch: Watch, progress: Progress, *, console: Console) -> Progress:
    """Train from where `progress` stands to the last epoch; the run's model.safetensors holds the chosen epoch."""
    settings, run, step = config.train, watch.run, watch.step
    cycles_per_step = settings.batch_size * settings.num_accumulated_batches
    with run, ProgressBar(console, epochs=settings.epochs, cycles_per_step=cycles_per_step) as bar:
        trainer = Trainer(
            step,
            training.schedule(settings),
            batches,
            seed=settings.seed,
            watch=watch,
            save=lambda state: run.save(step, state),
            keep=watch.keep,
            checkpoint_every_steps=settings.checkpoint_every_steps,
            num_accumulated_batches=settings.num_accumulated_batches,
            listeners=(bar, run),
        )
        progress = trainer.fit(settings.epochs, progress)
    watch.finish(progress.best_epochs)
    return progress

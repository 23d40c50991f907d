"""Every row of every table trains two steps on the synthetic corpus; every architecture does at its real size."""

import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.config import RunConfig, load_config, recipe_names
from lungsound.data.batches import training_batches, training_inputs
from lungsound.data.splits import divide, load_corpus
from lungsound.experiments.table import WHOLE, Row, load_table
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import initial_classifier
from lungsound.randomness import generator_at
from lungsound.training.model_file import save_model
from lungsound.training.objectives import make_objective
from lungsound.training.trainer import TrainStep

ROWS = load_table(WHOLE).rows
CPU = torch.device("cpu")
LIGHT = ("ast", "mn04", "resnet10")  # the other architectures take seconds each
QUIET = Console(quiet=True)
QUICK = ("audio.duration_s=1", "model.stride=16", "train.batch_size=4", "train.precision=fp32")
# What the synthetic corpus does not have: RespireNet's patients, and weights that must be downloaded.
NEUTRAL = ("data.split=official", "model.pretrained=none")
ARCHITECTURES = {
    row.config().model.architecture + row.config().model.size * (row.config().model.architecture == "ast"): row
    for row in ROWS
    if not row.after
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path_factory.getbasetemp() / "rows-cache"))


def two_losses(config: RunConfig) -> list[float]:
    """The losses of the first two training steps of a run; the head has moved after them."""
    corpus = load_corpus(config.data)
    parts = divide(corpus, config.data, config.train)
    model, _ = initial_classifier(config, FrontEnd(config.audio))
    inputs = training_inputs(config, corpus, parts, console=QUIET)
    counts = [count + 1 for count in inputs.class_counts(parts.train)]  # one device's part may lack a class
    objective = make_objective(config.objective, config.patchmix, class_counts=counts, device=CPU)
    step = TrainStep(model, objective, config.train, device=CPU)
    before = model.head[-1].weight.detach().clone()
    losses = [
        float(step(batch, learning_rate=1e-4, generator=generator_at(0, "patch-mix", 1, n)).total)
        for n, batch in enumerate(islice(training_batches(config, corpus, parts, inputs, console=QUIET).epoch(1), 2))
    ]
    assert not torch.equal(before, model.head[-1].weight)
    return losses


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=() if row.config().model.architecture in LIGHT else pytest.mark.slow) for row in ROWS],
    ids=lambda row: row.folder,
)
def test_a_row_trains_two_steps(row: Row, synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    """AST rows with the micro encoder, the others as they are; one second of sound."""
    settings = [*QUICK, *NEUTRAL, f"data.root={synthetic_corpus_dir}", "model.size=micro"]
    if row.after is not None:
        before = next(other for other in ROWS if other.folder == row.after).config(tuple(settings))
        settings += [f"model.pretrained={untrained(before, tmp_path)}", "model.is_head_pretrained=true"]
    losses = two_losses(row.config(tuple(settings)))
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))


def untrained(config: RunConfig, folder: Path) -> Path:
    """A model file of that run, with random weights."""
    model, _ = initial_classifier(config, FrontEnd(config.audio))
    path = folder / "model.safetensors"
    labels = LABEL_SETS[config.data.label_set]
    save_model(path, model, audio=config.audio, architecture=config.model, mean=-4.0, std=4.0, label_set=labels)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_trains_at_its_real_size(name: str, synthetic_corpus_dir: Path) -> None:
    settings = (*QUICK, *NEUTRAL, "train.batch_size=2", f"data.root={synthetic_corpus_dir}")
    losses = two_losses(ARCHITECTURES[name].config(settings))
    assert all(map(math.isfinite, losses))
    assert len(losses) == 2


def test_every_architecture_and_size_was_tried() -> None:
    cnns = {"cnn6", "mn04", *(f"resnet{n}" for n in (10, 18, 34, 50, 101)), *(f"efficientnet_b{n}" for n in range(3))}
    assert set(ARCHITECTURES) == cnns | {"asttiny", "astsmall", "astbase"}


def test_every_recipe_of_the_paper_is_in_a_table() -> None:
    """All but the demonstration's and those for a model of one's own."""
    assert {row.recipe for row in ROWS} == set(recipe_names()) - {"demo", "laptop", "laptop_sprsound", "box"}
    assert load_config("demo").model.size == "micro"

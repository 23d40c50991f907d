"""Five properties that hold for every input."""

import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lungsound.axes import PatchGrid
from lungsound.config import RunConfig, TrainSettings, resolve
from lungsound.evaluation.metrics import confusion_matrix, icbhi_score, two_class_score
from lungsound.models.patchmix import draw_patch_mix, mix_patches
from lungsound.training.losses import patch_mix_contrastive_loss
from lungsound.training.trainer import Schedule

relaxed = settings(deadline=None, max_examples=60, database=None)
grids = st.builds(PatchGrid, freq=st.integers(1, 6), time=st.integers(1, 9))


@relaxed
@given(
    grid=grids,
    batch_size=st.integers(1, 6),
    beta=st.floats(0, 5),
    seed=st.integers(0, 2**32),
    axis=st.sampled_from(["patch", "time"]),
    is_lam_per_sample=st.booleans(),
    is_self_partner_allowed=st.booleans(),
)
def test_a_mixed_patch_is_the_samples_own_or_its_partners_in_the_stated_share(
    grid: PatchGrid,
    batch_size: int,
    beta: float,
    seed: int,
    axis: str,
    is_lam_per_sample: bool,
    is_self_partner_allowed: bool,
) -> None:
    draw = draw_patch_mix(
        batch_size,
        grid,
        generator=torch.Generator().manual_seed(seed),
        beta=beta,
        axis=axis,
        is_lam_per_sample=is_lam_per_sample,
        is_self_partner_allowed=is_self_partner_allowed,
    )
    own = torch.arange(batch_size).unsqueeze(1).expand(-1, grid.num_patches)
    owner = mix_patches(own.unsqueeze(2), draw).squeeze(2)
    partner = draw.partner.unsqueeze(1)
    assert ((owner == own) | (owner == partner)).all()
    assert sorted(draw.partner.tolist()) == list(range(batch_size))
    shares = (owner == own).double().mean(1)
    is_other = draw.partner != torch.arange(batch_size)
    assert torch.allclose(shares[is_other], draw.lam.expand(batch_size)[is_other], atol=1e-12)
    assert (shares[~is_other] == 1).all()
    assert is_self_partner_allowed or batch_size == 1 or is_other.all()


@relaxed
@given(
    batch_size=st.integers(2, 8),
    dim=st.integers(1, 6),
    temperature=st.floats(0.02, 2),
    seed=st.integers(0, 2**32),
    has_labels=st.booleans(),
    order_seed=st.integers(0, 2**32),
)
def test_the_contrastive_loss_does_not_depend_on_the_order_of_the_batch(
    batch_size: int, dim: int, temperature: float, seed: int, has_labels: bool, order_seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mixed, anchor = torch.randn(2, batch_size, dim, generator=generator, dtype=torch.float64)
    lam = torch.rand(batch_size, generator=generator, dtype=torch.float64)
    partner = torch.randint(batch_size, (batch_size,), generator=generator)
    labels = torch.randint(3, (batch_size,), generator=generator) if has_labels else None
    order = torch.randperm(batch_size, generator=torch.Generator().manual_seed(order_seed))
    place = order.argsort()
    loss = patch_mix_contrastive_loss(mixed, anchor, partner, lam=lam, temperature=temperature, labels=labels)
    shuffled = patch_mix_contrastive_loss(
        mixed[order],
        anchor[order],
        place[partner[order]],
        lam=lam[order],
        temperature=temperature,
        labels=None if labels is None else labels[order],
    )
    assert torch.isfinite(loss)
    assert loss > -1e-12
    assert torch.allclose(loss, shuffled, rtol=1e-9, atol=1e-12)


@relaxed
@given(
    learning_rate=st.floats(1e-7, 1),
    epochs=st.integers(1, 60),
    kind=st.sampled_from(["cosine", "step", "constant", "cosine_by_step"]),
    decay_rate=st.floats(0.01, 1),
    warmup_epochs=st.floats(0, 10) | st.integers(0, 10).map(float),
    num_steps=st.integers(1, 5),
)
def test_the_learning_rate_stays_between_its_floor_and_its_top(
    learning_rate: float, epochs: int, kind: str, decay_rate: float, warmup_epochs: float, num_steps: int
) -> None:
    schedule = Schedule(
        TrainSettings(
            learning_rate=learning_rate,
            epochs=epochs,
            schedule=kind,
            decay_rate=decay_rate,
            decay_epochs=(3, 20, 40),
            warmup_epochs=warmup_epochs,
        )
    )
    lowest = learning_rate * min(decay_rate**3, 0.1)
    for epoch in range(1, epochs + 1):
        for step in range(num_steps):
            rate = schedule.at(epoch, step, num_steps=num_steps)
            assert lowest * (1 - 1e-9) <= rate <= learning_rate * (1 + 1e-9)


@relaxed
@given(
    cycles=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60),
    seed=st.integers(0, 2**32),
)
def test_the_score_counts_cycles_whatever_their_order_and_two_classes_are_never_harder(
    cycles: list[tuple[int, int]], seed: int
) -> None:
    cycles = [*cycles, (0, 0), (1, 2)]  # one cycle of each side, so that the Score has a value
    order = torch.randperm(len(cycles), generator=torch.Generator().manual_seed(seed)).tolist()
    labels, answers = zip(*cycles, strict=True)
    confusion = confusion_matrix(labels, answers, 4)
    shuffled = confusion_matrix([labels[i] for i in order], [answers[i] for i in order], 4)
    assert (confusion == shuffled).all()
    assert confusion.sum() == len(cycles)
    exact, two = icbhi_score(confusion), two_class_score(confusion)
    assert 0 <= exact.score <= 1
    assert two.specificity == exact.specificity
    assert two.sensitivity >= exact.sensitivity


section = st.fixed_dictionaries(
    {},
    optional={
        "train": st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.integers(1, 10**6),
                "learning_rate": st.floats(1e-30, 1e30),
                "decay_epochs": st.lists(st.integers()).map(tuple),
                "device": st.text(),
                "selection": st.sampled_from(["last", "validation", "best_on_test"]),
            },
        ),
        "data": st.fixed_dictionaries({}, optional={"root": st.none() | st.text(), "is_strict": st.booleans()}),
    },
)


@relaxed
@given(values=section, name=st.text())
def test_settings_written_as_json_come_back_as_they_were(values: dict[str, object], name: str) -> None:
    config = resolve({"name": name, **values}, source="test")
    plain = json.loads(json.dumps(config.model_dump(mode="json")))
    assert resolve(plain, source="config.json") == config
    assert isinstance(config, RunConfig)

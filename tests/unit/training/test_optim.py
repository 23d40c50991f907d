"""Learning rate, optimizers and blending against closed forms and loops."""

import math

import pytest
import torch
from torch import nn

from lungsound.config import TrainSettings
from lungsound.training.trainer import Schedule, blend_statistics, make_optimizer, statistics

LR = 1e-3


def test_cosine_starts_below_the_learning_rate_and_ends_at_its_floor() -> None:
    schedule = Schedule(TrainSettings(learning_rate=LR, epochs=10))
    rates = [schedule.at(epoch) for epoch in range(1, 11)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] < LR
    assert rates[4] == pytest.approx((LR + LR * 1e-3) / 2)  # half way: the mean of both ends
    assert rates[-1] == pytest.approx(LR * 0.1**3)


def test_cosine_is_set_once_an_epoch() -> None:
    schedule = Schedule(TrainSettings(learning_rate=LR, epochs=10))
    assert len({schedule.at(3, step, num_steps=7) for step in range(7)}) == 1


def test_step_multiplies_after_each_of_its_epochs() -> None:
    schedule = Schedule(TrainSettings(learning_rate=LR, epochs=6, schedule="step", decay_rate=0.5, decay_epochs=(2, 4)))
    expected = [LR, LR, LR / 2, LR / 2, LR / 4, LR / 4]
    assert [schedule.at(epoch) for epoch in range(1, 7)] == pytest.approx(expected)


def test_constant_is_constant() -> None:
    schedule = Schedule(TrainSettings(learning_rate=LR, epochs=6, schedule="constant"))
    assert {schedule.at(epoch) for epoch in range(1, 7)} == {LR}


@pytest.mark.parametrize("kind", ["cosine", "step", "constant"])
def test_warm_up_is_a_straight_line_from_a_tenth_to_the_schedule(kind: str) -> None:
    schedule = Schedule(TrainSettings(learning_rate=LR, epochs=10, schedule=kind, warmup_epochs=2))
    rates = [schedule.at(epoch, step, num_steps=5) for epoch in (1, 2) for step in range(5)]
    end = LR * (1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * 0.2)) / 2) if kind == "cosine" else LR
    assert rates == pytest.approx([0.1 * LR + (end - 0.1 * LR) * i / 10 for i in range(10)])
    without = Schedule(TrainSettings(learning_rate=LR, epochs=10, schedule=kind))
    assert [schedule.at(epoch) for epoch in range(3, 11)] == [without.at(epoch) for epoch in range(3, 11)]


@pytest.mark.parametrize(("epochs", "num_steps", "warmup_epochs"), [(1, 9, 0.0), (3, 4, 0.5), (2, 5, 1.3), (1, 1, 0.0)])
def test_cosine_by_step_goes_down_at_each_step(epochs: int, num_steps: int, warmup_epochs: float) -> None:
    schedule = Schedule(
        TrainSettings(learning_rate=LR, epochs=epochs, schedule="cosine_by_step", warmup_epochs=warmup_epochs)
    )
    rates = [
        schedule.at(epoch, step, num_steps=num_steps) for epoch in range(1, epochs + 1) for step in range(num_steps)
    ]
    expected = []
    for index in range(epochs * num_steps):
        if index < warmup_epochs * num_steps:
            expected.append(0.1 * LR + 0.9 * LR * index / (warmup_epochs * num_steps))
        else:
            start, end = warmup_epochs * num_steps, epochs * num_steps - 1
            share = (index - start) / (end - start) if end > start else 0.0
            expected.append(LR * (0.001 + 0.999 * math.cos(math.pi * share / 2) ** 2))  # (1 + cos x) / 2 = cos^2(x / 2)
    assert rates == pytest.approx(expected, rel=1e-12)


def test_cosine_by_step_has_its_top_middle_and_end_within_one_epoch() -> None:
    schedule = Schedule(TrainSettings(learning_rate=LR, epochs=1, schedule="cosine_by_step", warmup_epochs=0.2))
    rates = [schedule.at(1, step, num_steps=11) for step in (0, 11 * 0.2, (11 * 0.2 + 10) / 2, 10)]  # type: ignore[arg-type]
    assert rates == pytest.approx([0.1 * LR, LR, (LR + LR * 1e-3) / 2, LR * 1e-3])


def settings(optimizer: str, weight_decay: float) -> TrainSettings:
    return TrainSettings.model_validate({"optimizer": optimizer, "learning_rate": LR, "weight_decay": weight_decay})


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_weight_decay_is_in_the_gradient_of_adam_and_outside_of_adamw(kind: str) -> None:
    weight, decay = 2.0, 0.1
    parameter = nn.Parameter(torch.tensor([weight], dtype=torch.float64))
    optimizer = make_optimizer([parameter], settings(kind, decay))
    first, second = 0.0, 0.0
    for step, slope in enumerate([0.5, -1.5, 4.0], start=1):
        parameter.grad = torch.tensor([slope], dtype=torch.float64)
        optimizer.step()
        gradient = slope + decay * weight if kind == "adam" else slope
        weight -= LR * decay * weight if kind == "adamw" else 0.0
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        root = math.sqrt(second / (1 - 0.999**step))
        weight -= LR * first / (1 - 0.9**step) / (root + 1e-8)
        assert parameter.item() == pytest.approx(weight, rel=1e-12)


def make_net() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Linear(3, 4, bias=False)  # before batch norm a bias has no gradient but noise, which Adam enlarges
    return nn.Sequential(first, nn.BatchNorm1d(4), nn.Linear(4, 1)).double()


@pytest.mark.parametrize("blend", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_blending_without_copies_of_the_weights_is_a_weighted_mean_of_every_float(kind: str, blend: float) -> None:
    """Against a copy of everything before each step. Integers, which count batches, are the new ones."""
    naive, ours = make_net(), make_net()
    of_naive, of_ours = (make_optimizer(net.parameters(), settings(kind, 0.1)) for net in (naive, ours))
    for number, batch in enumerate(torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(1)).double()):
        rate = LR * (1 + number)
        before = {name: value.clone() for name, value in naive.state_dict().items()}
        old = statistics(ours)
        for net, optimizer, lr in ((naive, of_naive, rate), (ours, of_ours, (1 - blend) * rate)):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            (net(batch) - batch.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
        blend_statistics(ours, old, blend)
        after = naive.state_dict()
        naive.load_state_dict(
            {
                name: blend * before[name] + (1 - blend) * value if value.is_floating_point() else value
                for name, value in after.items()
            }
        )
    for name, value in ours.state_dict().items():
        assert value.flatten().tolist() == pytest.approx(naive.state_dict()[name].flatten().tolist(), abs=1e-14), name
    assert int(ours.state_dict()["1.num_batches_tracked"]) == 6


def test_only_statistics_are_copied() -> None:
    net = make_net()
    copies = statistics(net)
    assert [value.tolist() for value in copies] == [[0.0] * 4, [1.0] * 4]
    buffers = {value.data_ptr() for value in net.buffers()}
    assert not buffers & {value.data_ptr() for value in copies}
    assert statistics(nn.Linear(3, 4)) == []

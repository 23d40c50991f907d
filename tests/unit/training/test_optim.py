"""Learning rate, optimizers and blending against closed forms and loops."""

import math

import pytest
import torch
from torch import nn

from lungsound.training.optim import Schedule, blend_weights, make_optimizer, snapshot

LR = 1e-3


def test_cosine_starts_below_the_learning_rate_and_ends_at_its_floor() -> None:
    schedule = Schedule(learning_rate=LR, epochs=10)
    rates = [schedule.at(epoch) for epoch in range(1, 11)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] < LR
    assert rates[4] == pytest.approx((LR + LR * 1e-3) / 2)  # half way: the mean of both ends
    assert rates[-1] == pytest.approx(LR * 0.1**3)


def test_cosine_is_set_once_an_epoch() -> None:
    schedule = Schedule(learning_rate=LR, epochs=10)
    assert len({schedule.at(3, step, num_steps=7) for step in range(7)}) == 1


def test_step_multiplies_after_each_of_its_epochs() -> None:
    schedule = Schedule(learning_rate=LR, epochs=6, kind="step", decay_rate=0.5, decay_epochs=(2, 4))
    expected = [LR, LR, LR / 2, LR / 2, LR / 4, LR / 4]
    assert [schedule.at(epoch) for epoch in range(1, 7)] == pytest.approx(expected)


def test_constant_is_constant() -> None:
    schedule = Schedule(learning_rate=LR, epochs=6, kind="constant")
    assert {schedule.at(epoch) for epoch in range(1, 7)} == {LR}


@pytest.mark.parametrize("kind", ["cosine", "step", "constant"])
def test_warm_up_is_a_straight_line_from_a_tenth_to_the_schedule(kind: str) -> None:
    schedule = Schedule(learning_rate=LR, epochs=10, kind=kind, warmup_epochs=2)
    rates = [schedule.at(epoch, step, num_steps=5) for epoch in (1, 2) for step in range(5)]
    end = LR * (1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * 0.2)) / 2) if kind == "cosine" else LR
    assert rates == pytest.approx([0.1 * LR + (end - 0.1 * LR) * i / 10 for i in range(10)])
    without = Schedule(learning_rate=LR, epochs=10, kind=kind)
    assert [schedule.at(epoch) for epoch in range(3, 11)] == [without.at(epoch) for epoch in range(3, 11)]


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_weight_decay_is_in_the_gradient_of_adam_and_outside_of_adamw(kind: str) -> None:
    weight, decay = 2.0, 0.1
    parameter = nn.Parameter(torch.tensor([weight], dtype=torch.float64))
    optimizer = make_optimizer([parameter], kind=kind, learning_rate=LR, weight_decay=decay)
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


def make_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net(torch.randn(5, 3))  # gives the running statistics values
    return net


@pytest.mark.parametrize("blend", [0.0, 0.3, 0.9])
def test_blending_is_a_weighted_mean_of_every_float(blend: float) -> None:
    net, other = make_net(0), make_net(1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    old = snapshot(net)
    net.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert net[1].num_batches_tracked is not None
        net[1].num_batches_tracked += 6
    blend_weights(net, old, blend)
    after, new = net.state_dict(), other.state_dict()
    for name, value in after.items():
        if name.endswith("num_batches_tracked"):
            assert int(value) == 7
            continue
        expected = [
            blend * o + (1 - blend) * n
            for o, n in zip(before[name].flatten().tolist(), new[name].flatten().tolist(), strict=True)
        ]
        assert value.flatten().tolist() == pytest.approx(expected, abs=1e-6), name


def test_blending_keeps_the_tensors_and_the_snapshot() -> None:
    net = make_net(0)
    weight = net[0].weight
    old = snapshot(net)
    before = [value.clone() for value in old]
    with torch.no_grad():
        weight.add_(1.0)
    blend_weights(net, old, 0.5)
    assert net[0].weight is weight
    assert all(torch.equal(a, b) for a, b in zip(old, before, strict=True))
    assert not any(value.data_ptr() == weight.data_ptr() for value in old)
    assert all(not value.requires_grad for value in old)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_adam_with_blend_one_half_is_half_the_learning_rate(weight_decay: float) -> None:
    inputs = torch.randn(30, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def train(learning_rate: float, blend: float) -> list[float]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        optimizer = make_optimizer(
            net.parameters(), kind="adam", learning_rate=learning_rate, weight_decay=weight_decay
        )
        for batch in inputs:
            old = snapshot(net)
            optimizer.zero_grad()
            (net(batch) - batch.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
            blend_weights(net, old, blend)
        return torch.cat([value.flatten() for value in net.state_dict().values()]).tolist()

    halved = train(0.005, 0.0)
    assert train(0.01, 0.5) == pytest.approx(halved, abs=1e-14)
    assert train(0.01, 0.0) != pytest.approx(halved, abs=1e-3)

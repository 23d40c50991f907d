"""One step against a plain loop in torch, and a step that is taken up again."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lungsound.data.dataset import Batch
from lungsound.training.objectives import CrossEntropy, Objective, PatchMixContrastive
from lungsound.training.optim import make_optimizer
from lungsound.training.step import TrainStep
from tests.unit.training.small import CPU, fixed_draw, small_batch, small_model


def make_step(
    *,
    objective: Objective | None = None,
    blend: float = 0.0,
    ema_decay: float = 0.0,
    precision: str = "fp32",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    device: torch.device = CPU,
) -> TrainStep:
    model = small_model(dtype=dtype, seed=seed).to(device)
    optimizer = make_optimizer(model.parameters(), kind="adam", learning_rate=1.0, weight_decay=0.0)
    contrastive = objective or PatchMixContrastive(fixed_draw)
    averages = {"blend": blend, "ema_decay": ema_decay}
    return TrainStep(model, contrastive, optimizer, device=device, precision=precision, **averages)


def take(step: TrainStep, number: int, *, learning_rate: float = 1e-3) -> float:
    dtype = next(step.model.parameters()).dtype
    fbank, labels = small_batch(seed=number, dtype=dtype)
    loss = step(Batch(fbank, labels), learning_rate=learning_rate, generator=torch.Generator().manual_seed(number))
    assert not loss.total.requires_grad
    assert not loss.logits.requires_grad
    assert not any(part.requires_grad for part in loss.parts.values())
    return loss.total.item()


def state(step: TrainStep) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in step.tensors().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_steps_equal_a_plain_loop() -> None:
    step = make_step(objective=CrossEntropy())
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for number in range(4):
        fbank, labels = small_batch(seed=number)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(fbank), labels)
        loss.backward()
        optimizer.step()
        assert take(step, number) == pytest.approx(loss.item(), rel=1e-12)
    for name, value in model.state_dict().items():
        assert torch.allclose(step.model.state_dict()[name], value, atol=1e-14), name


def test_the_learning_rate_is_that_of_the_step() -> None:
    step = make_step()
    take(step, 0, learning_rate=0.0)
    assert_same({n: v for n, v in step.model.state_dict().items() if "bn" not in n}, small_weights())
    take(step, 1, learning_rate=0.5)
    assert [group["lr"] for group in step.optimizer.param_groups] == [0.5]


def small_weights() -> dict[str, Tensor]:
    return {name: value for name, value in small_model().state_dict().items() if "bn" not in name}


def test_blend_pulls_the_weights_back_to_where_they_were() -> None:
    free, blended = make_step(), make_step(blend=0.75)
    start = small_weights()
    take(free, 0)
    take(blended, 0)
    for name, value in start.items():
        moved = free.model.state_dict()[name] - value
        assert torch.allclose(blended.model.state_dict()[name] - value, 0.25 * moved, atol=1e-15), name


def test_the_moving_average_is_that_of_the_weights_after_each_step() -> None:
    """avg <- decay * avg + (1 - decay) * weights, from the weights after the first step; training is not touched."""
    plain, averaged = make_step(), make_step(ema_decay=0.75)
    assert plain.answering is plain.model
    expected: dict[str, Tensor] = {}
    for number in range(4):
        assert take(plain, number) == take(averaged, number)
        for name, value in plain.model.state_dict().items():
            before = expected.get(name, value)
            expected[name] = (0.75 * before + 0.25 * value) if value.is_floating_point() else value.clone()
    assert_same(plain.model.state_dict(), averaged.model.state_dict())
    for name, value in averaged.answering.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, expected[name], atol=1e-14), name
            assert not torch.equal(value, plain.model.state_dict()[name]) or "linear1.bias" in name


def test_the_model_is_put_into_training_mode() -> None:
    step = make_step()
    step.model.eval()
    take(step, 0)
    assert step.model.training
    assert step.model.projector is not None
    assert int(step.model.projector.bn.num_batches_tracked) == 1


@pytest.mark.parametrize(("blend", "ema_decay"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.75)])
def test_a_step_taken_up_again_goes_on_to_the_byte(blend: float, ema_decay: float) -> None:
    whole, first = (make_step(blend=blend, ema_decay=ema_decay, dtype=torch.float32) for _ in range(2))
    for number in range(3):
        take(whole, number)
        take(first, number)
    second = make_step(blend=blend, ema_decay=ema_decay, dtype=torch.float32, seed=5)
    second.restore(state(first), first.scaler_state())
    assert_same(state(second), state(first))
    losses = [[take(step, number) for number in (3, 4)] for step in (whole, second)]
    assert losses[0] == losses[1]
    assert_same(state(second), state(whole))


def test_before_the_first_step_there_are_no_moments_and_restoring_works() -> None:
    fresh = make_step()
    assert not any(name.startswith("optimizer.") for name in fresh.tensors())
    other = make_step(seed=5)
    other.restore(state(fresh), {})
    assert_same(state(other), state(fresh))


def test_tensors_name_every_weight_and_every_moment() -> None:
    step = make_step()
    take(step, 0)
    names = set(step.tensors())
    num_parameters = len(list(step.model.parameters()))
    assert {f"model.{name}" for name in step.model.state_dict()} < names
    moments = ("step", "exp_avg", "exp_avg_sq")
    assert {f"optimizer.{i}.{moment}" for i in range(num_parameters) for moment in moments} < names
    assert len(names) == len(step.model.state_dict()) + 3 * num_parameters


def test_the_state_of_another_model_is_refused() -> None:
    smaller = state(make_step())
    del smaller["model.head.1.bias"]
    with pytest.raises(RuntimeError, match=r"head\.1\.bias"):
        make_step().restore(smaller, {})


def test_bf16_keeps_float32_weights_and_losses() -> None:
    step = make_step(precision="bf16", dtype=torch.float32)
    exact = make_step(dtype=torch.float32)
    found, expected = take(step, 0), take(exact, 0)
    assert found == pytest.approx(expected, rel=0.05)
    assert found != expected
    assert {value.dtype for value in step.model.parameters()} == {torch.float32}
    fbank, labels = small_batch(dtype=torch.float32)
    assert step(Batch(fbank, labels), learning_rate=0.0, generator=torch.Generator()).total.dtype == torch.float32


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_steps_and_a_restored_step_on_a_gpu(precision: str) -> None:
    gpu = torch.accelerator.current_accelerator()
    assert gpu is not None
    steps = [make_step(precision=precision, dtype=torch.float32, device=gpu, blend=0.5) for _ in range(2)]
    before = take(steps[0], 0)
    assert before == pytest.approx(take(make_step(dtype=torch.float32, blend=0.5), 0), rel=0.05)
    steps[1].restore(steps[0].tensors(), steps[0].scaler_state())
    first, second = (take(step, 1) for step in steps)
    assert second == pytest.approx(first, rel=1e-3)

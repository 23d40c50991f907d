"""One step against a plain loop in torch, and a step that is taken up again."""

import weakref

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lungsound.config import ObjectiveSettings, TrainSettings
from lungsound.data.batches import Batch
from lungsound.training.objectives import CrossEntropy, Objective, PatchMixContrastive
from lungsound.training.trainer import TrainStep
from tests.unit.training.small import CPU, fixed_draw, small_batch, small_model

TARGETS = ("grad_block", "grad_flow", "project_block", "project_flow")


def make_step(
    *,
    objective: Objective | None = None,
    blend: float = 0.0,
    ema_decay: float = 0.0,
    precision: str = "fp32",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    device: torch.device = CPU,
    depth: int = 1,
) -> TrainStep:
    model = small_model(dtype=dtype, seed=seed, depth=depth).to(device)
    settings = TrainSettings(
        weight_decay=0.0,
        blend=blend,
        ema_decay=ema_decay,
        precision=precision,  # type: ignore[arg-type]
    )
    contrastive = PatchMixContrastive(fixed_draw, ObjectiveSettings())
    return TrainStep(model, objective or contrastive, settings, device=device)


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
    step = make_step(objective=CrossEntropy(ObjectiveSettings()))
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
        # The gradient of a key's bias is nothing but rounding, which Adam enlarges.
        assert torch.allclose(step.model.state_dict()[name], value, atol=1e-12), name


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


def test_several_batches_give_the_mean_gradient_of_steps_on_each() -> None:
    """Of mixing within each batch: the second batch's partners are its own."""
    batches = [Batch(*small_batch(size, seed=size)) for size in (4, 2)]
    generator = torch.Generator()
    singles = [make_step(), make_step()]
    losses = [step(batch, learning_rate=0.0, generator=generator) for step, batch in zip(singles, batches, strict=True)]
    together = make_step()
    loss = together(*batches, learning_rate=0.0, generator=generator)
    gradients = [{n: p.grad for n, p in step.model.named_parameters()} for step in (*singles, together)]
    for name, gradient in gradients[2].items():
        first, second = gradients[0][name], gradients[1][name]
        assert gradient is not None
        assert first is not None
        assert second is not None
        assert torch.allclose(gradient, (first + second) / 2, rtol=1e-12, atol=1e-16), name
    assert loss.total.item() == pytest.approx(sum(each.total.item() for each in losses) / 2, rel=1e-14)
    assert loss.parts["ce"].item() == pytest.approx(sum(each.parts["ce"].item() for each in losses) / 2, rel=1e-14)
    assert torch.equal(loss.logits, torch.cat([each.logits for each in losses]))
    assert {int(state["step"]) for state in together.optimizer.state.values()} == {1}


@pytest.mark.parametrize("target", TARGETS)
def test_a_step_in_two_backward_passes_has_the_gradient_of_one(target: str) -> None:
    batch = Batch(*small_batch())
    step = make_step(objective=PatchMixContrastive(fixed_draw, ObjectiveSettings(target=target, alpha=0.7)))
    loss = step(batch, learning_rate=0.0, generator=torch.Generator())
    whole = make_step(objective=step.objective)
    whole.model.train()
    at_once = whole.objective(whole.model, batch, generator=torch.Generator())
    at_once.total.backward()
    assert loss.total.item() == pytest.approx(at_once.total.item(), rel=1e-14)
    expected = dict(whole.model.named_parameters())
    for name, value in step.model.named_parameters():
        wanted = expected[name].grad
        assert (value.grad is None) == (wanted is None), name
        if value.grad is not None and wanted is not None:
            assert torch.allclose(value.grad, wanted, rtol=1e-9, atol=1e-15), name


@pytest.mark.parametrize(("target", "is_gone"), [("grad_block", True), ("project_block", True), ("grad_flow", False)])
def test_activations_of_the_clean_view_are_gone_before_the_mixed_is_encoded(target: str, is_gone: bool) -> None:
    step = make_step(objective=PatchMixContrastive(fixed_draw, ObjectiveSettings(target=target)))
    inside: list[weakref.ref[Tensor]] = []
    alive: list[list[bool]] = []

    def look(_: object, __: object, out: Tensor) -> None:
        alive.append([each() is not None for each in inside])
        inside.append(weakref.ref(out))

    last = step.model.patch_encoder.blocks[-1]
    last.get_submodule("mlp.fc1").register_forward_hook(look)  # its result is kept for the backward pass of GELU
    take(step, 0)
    assert alive == [[], [not is_gone]]


def test_gradients_of_the_step_before_are_gone_when_the_model_is_asked() -> None:
    step = make_step()
    take(step, 0)
    seen: list[bool] = []
    step.model.patch_encoder.patch_embed.register_forward_pre_hook(
        lambda *_: seen.append(all(parameter.grad is None for parameter in step.model.parameters()))
    )
    take(step, 1)
    assert seen == [True]


def saved_bytes(step: TrainStep, number: int) -> int:
    """Of all that the forward pass of a step keeps for the backward pass, each memory once."""
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        fbank, labels = small_batch(seed=number)
        step.objective(step.model, Batch(fbank, labels), generator=torch.Generator())
    return sum(kept.values())


def test_activation_checkpointing_keeps_less_and_changes_no_bit() -> None:
    plain, checkpointed = (make_step(dtype=torch.float32, depth=4) for _ in range(2))
    checkpointed.model.patch_encoder.is_checkpointed = True
    for number in range(3):
        assert take(plain, number) == take(checkpointed, number)
    assert_same(state(plain), state(checkpointed))
    packed = Batch(*small_batch(dtype=torch.float32), num_frames=torch.tensor([20, 48, 33, 48]))
    for step in (plain, checkpointed):
        step(packed, learning_rate=1e-3, generator=torch.Generator())
    assert_same(state(plain), state(checkpointed))
    plain, checkpointed = (make_step(depth=4) for _ in range(2))
    checkpointed.model.patch_encoder.is_checkpointed = True
    assert saved_bytes(checkpointed, 0) < 0.5 * saved_bytes(plain, 0)


def test_an_answering_model_is_not_checkpointed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(depth=2)
    step.model.patch_encoder.is_checkpointed = True
    fbank, _ = small_batch()
    expected = step.model.eval()(fbank)
    monkeypatch.setattr("lungsound.models.ast.checkpoint", None)
    assert torch.equal(step.model(fbank), expected)


def test_the_moving_average_is_that_of_the_weights_after_each_step() -> None:
    """avg <- decay * avg + (1 - decay) * weights, from the weights after the first step; training is not touched."""
    plain, averaged = make_step(), make_step(ema_decay=0.75)
    assert plain.evaluated_model is plain.model
    expected: dict[str, Tensor] = {}
    for number in range(4):
        assert take(plain, number) == take(averaged, number)
        for name, value in plain.model.state_dict().items():
            before = expected.get(name, value)
            expected[name] = (0.75 * before + 0.25 * value) if value.is_floating_point() else value.clone()
    assert_same(plain.model.state_dict(), averaged.model.state_dict())
    for name, value in averaged.evaluated_model.state_dict().items():
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
    second.restore(state(first), first.scaler.state_dict())
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
    steps[1].restore(steps[0].tensors(), steps[0].scaler.state_dict())
    first, second = (take(step, 1) for step in steps)
    assert second == pytest.approx(first, rel=1e-3)

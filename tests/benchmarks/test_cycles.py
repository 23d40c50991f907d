"""Which cycles are timed and compared, and what is asked of the engines before one is chosen."""

import dataclasses
from pathlib import Path

import pytest
import torch
from benchmarks.answering import forward_flops, prepare
from benchmarks.counts import flops_of
from benchmarks.plan import Plan
from benchmarks.stand_in import write_stand_in

from benchmarks import cycles, ours
from lungsound.errors import SettingsError
from lungsound.inference import engines as kinds
from lungsound.inference.engines import AUTO, Parity, read_parity, select

CPU = torch.device("cpu")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(("micro",), 1, CPU, tmp_path, {}, is_quick=True)


def test_cycles_of_a_corpus_are_drawn_once_each(plan: Plan, tmp_path: Path) -> None:
    folder = write_stand_in(tmp_path / "corpus", num_recordings=14, num_cycles=140, rate_hz=16000)
    plan = dataclasses.replace(plan, data=folder)
    front_end = ours.trained_model(ours.run_config("micro", is_quick=True)).front_end
    drawn = cycles.draw(plan, front_end)
    every = [*drawn.timed, *drawn.compared, *drawn.for_ranges]
    assert [len(part) for part in (drawn.timed, drawn.compared, drawn.for_ranges)] == [
        plan.batch_size,
        Parity.LEAST_CYCLES,
        cycles.NUM_FOR_RANGES,
    ]
    assert len({(len(each), float(each.abs().sum())) for each in every}) == len(every)
    # In an order of their own, not that of the corpus: a part stands for the whole.
    again = cycles.draw(plan, front_end)
    assert all(torch.equal(one, other) for one, other in zip(drawn.timed, again.timed, strict=True))
    with pytest.raises(SettingsError, match="needs 180 cycles"):
        cycles.draw(dataclasses.replace(plan, is_quick=False), front_end)


def test_a_batch_has_evenly_spaced_quantiles() -> None:
    assert cycles._quantiles([float(value) for value in range(101)], 4) == [12.5, 37.5, 62.5, 87.5]


@pytest.mark.parametrize("is_padding_encoded", [True, False])
def test_engines_are_compared_on_balanced_answers_and_chosen_by_them(plan: Plan, is_padding_encoded: bool) -> None:
    config = ours.run_config("micro", precision="fp32", is_quick=True, is_padding_encoded=is_padding_encoded)
    trained = ours.trained_model(config)
    drawn = cycles.draw(plan, trained.front_end)
    found = prepare(trained, plan.work / "run", drawn, is_random=True, is_exported=False)
    logits = kinds.make("torch", trained).predict(drawn.compared).log().mean(dim=0)
    torch.testing.assert_close(logits, logits.mean().expand(4), atol=1e-4, rtol=0)
    assert read_parity(plan.work / "run", trained) == found
    *slower_or_wrong, last = found
    assert all(not found[name].is_enough for name in slower_or_wrong)
    assert select(AUTO, trained, folder=plan.work / "run", device=CPU).name == last


def test_operations_of_cycles_are_the_mean_of_each() -> None:
    trained = ours.trained_model(ours.run_config("micro", is_quick=True, is_padding_encoded=False))
    waveforms = ours.waveforms(trained.front_end, [0.2, 1.0, 3.0])
    alone = []
    for waveform in waveforms:
        fbank = trained.front_end.filter_banks(trained.input_of(waveform).unsqueeze(0))
        alone.append(flops_of(lambda: trained.model(fbank)))  # noqa: B023 (called at once)
    assert alone[0] < alone[1] == alone[2]
    assert forward_flops(trained, waveforms) == sum(alone) / 3

"""The model of cost: closed forms, and a quick call."""

from pathlib import Path

import pytest
from benchmarks.scale import MARK, Machines, Shape, main

from tests.benchmarks.inputs import write_inputs

SHAPE = Shape(num_patches=10, dim=3, num_weights=100, flops=1e6)


def test_one_processor_sends_nothing_and_many_send_twice_the_weights() -> None:
    assert SHAPE.gradient_bytes(1) == SHAPE.patch_bytes(1, 8) == 0
    assert SHAPE.gradient_bytes(2) == 400  # half of 400 bytes to add up, half to tell the sum
    assert SHAPE.gradient_bytes(10**6) == pytest.approx(800, rel=1e-5)
    assert SHAPE.patch_bytes(2, 8) == 3 * 8 * 10 * 3 * 4 / 2


def test_a_step_adds_up_operations_and_messages() -> None:
    machines = Machines("two", 2, flops_per_s=1e6, bytes_per_s=100)
    assert machines.step_s(SHAPE, 4) == (4.0, 4.0, 14.4)


def test_the_shape_is_that_of_the_model() -> None:
    shape = Shape.of("tiny")
    assert (shape.num_patches, shape.dim) == (948, 192)
    assert shape.num_weights == pytest.approx(5.7e6, rel=0.05)
    # Two views of a cycle, forward and twice that backward; of the last block two tokens are asked for.
    expected = 6 * 11 * (2 * 12 * 192**2 * 950 + 4 * 950**2 * 192)
    assert shape.flops == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
def test_a_quick_call_writes_every_table(tmp_path: Path) -> None:
    recordings, into, options = write_inputs(tmp_path, MARK)
    main([*recordings, "--quick", *options])
    page = into.read_text(encoding="utf-8")
    assert page.count("\n| --- |") == 4
    assert page.count("The model is off by") == 2
    assert "64 GPUs" in page

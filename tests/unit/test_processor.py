import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lungsound import processor


@pytest.mark.parametrize(
    ("lines", "has"),
    [
        (["flags\t\t: fpu avx512f amx_bf16"], True),
        (["Features\t: fp asimd bf16"], True),
        (["flags\t\t: fpu avx2", "model name\t: bf16"], False),
        ([], False),
    ],
)
def test_bfloat16_is_read_from_the_processors_flags(
    lines: list[str], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cpu_info", lambda: lines)
    assert processor.has_bf16() is has


def test_threads_are_as_many_as_the_user_says_or_as_there_are_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert processor.num_threads() == 3
    for of_no_use in ("0", "4,2", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", of_no_use)
        assert 1 <= processor.num_threads() <= (os.cpu_count() or 1)


def test_work_is_done_in_order_and_not_far_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(9):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        results = processor.map_ahead(pool, lambda number: number**2, items(), num_ahead=3)
        assert next(results) == 0
        assert taken == [0, 1, 2, 3]
        assert list(results) == [number**2 for number in range(1, 9)]

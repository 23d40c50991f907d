import pytest
from rich.console import Console

from lungsound.cli.cycles import print_cycles
from lungsound.inference.prediction import CyclePrediction, Reason

OF_ALL = (Reason.AGE_OUTSIDE, Reason.STETHOSCOPE_OUTSIDE)
CLASSES = ("normal", "crackle", "wheeze", "both")


def cycle(start_s: float, *reasons: Reason) -> CyclePrediction:
    return CyclePrediction(start_s, start_s + 2.5, "normal", dict.fromkeys(CLASSES, 0.25), reasons)


@pytest.mark.parametrize("width", [80, 120])
def test_no_reason_is_broken_and_one_of_all_cycles_stands_once(width: int) -> None:
    own = (Reason.SILENT_CYCLE, Reason.NO_BREATHING, Reason.OUT_OF_DOMAIN, Reason.ALL_CLASSES_POSSIBLE)
    console = Console(width=width, markup=False, highlight=False)
    with console.capture() as printed:
        print_cycles("a.wav", [cycle(10.0, *OF_ALL, *own), cycle(12.5, *OF_ALL)], console, classes=CLASSES)
    words = [word.rstrip(",") for word in printed.get().split()]
    assert [words.count(reason) for reason in (*OF_ALL, *own)] == [1] * 6
    assert words.index("every") < words.index(Reason.AGE_OUTSIDE) < words.index("10.00")
    assert max(map(len, printed.get().splitlines())) <= width


def test_a_single_cycle_has_its_reasons_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_cycles("a.wav", [cycle(0.0, *OF_ALL)], Console(width=120), classes=CLASSES)
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("0.00"))
    assert row.rstrip().endswith("age_outside, stethoscope_outside")

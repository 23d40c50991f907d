"""Table of a recording's cycles, as `predict` and the demo print it."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lungsound.data.corpus import Cycle
from lungsound.inference.prediction import CyclePrediction, Reason


def print_cycles(
    title: str,
    cycles: Sequence[CyclePrediction],
    console: Console,
    *,
    classes: Sequence[str],
    truth: Sequence[Cycle] = (),
) -> None:
    """Print the predictions for one recording as a table, beside the annotation when `truth` is given.

    Reasons that all of several cycles share are printed once, in the first row.
    """
    withheld = ["withheld because"] if any(cycle.reasons for cycle in cycles) else []
    of_all = set.intersection(*(set(cycle.reasons) for cycle in cycles)) if len(cycles) > 1 else set()
    annotated = ["annotated"] if truth else []
    table = Table(
        "cycle, s",
        "prediction",
        *annotated,
        *classes,
        *withheld,
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for column in table.columns:  # in a narrow terminal the reasons alone are broken
        column.no_wrap, column.overflow = column.header not in withheld, "fold"
    if of_all:
        table.add_row("every cycle", *[""] * (len(table.columns) - 2), ", ".join(Reason.in_order(of_all)))
    for index, cycle in enumerate(cycles):
        cells = [truth[index].sound.name.lower()] if truth else []
        cells += [f"{value:.2f}" for value in cycle.probabilities.values()]
        own = ", ".join(reason for reason in cycle.reasons if reason not in of_all)
        cells += [own or ("as above" if of_all else "")] if withheld else []
        table.add_row(f"{cycle.start_s:.2f} - {cycle.end_s:.2f}", cycle.label, *cells)
    console.print(title)
    console.print(table, "")

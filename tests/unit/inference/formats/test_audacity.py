import re

from lungsound.inference.formats.annotations import audacity_text
from tests.unit.inference.formats.examples import ANSWER, PROVENANCE, SILENT, awkward_answer

# https://manual.audacityteam.org/man/importing_and_exporting_labels.html
LINE = re.compile(r"(\d+\.\d{6})\t(\d+\.\d{6})\t([^\t\n]+)\n")


def read(text: str) -> list[tuple[float, float, str]]:
    matches = list(LINE.finditer(text))
    assert "".join(match[0] for match in matches) == text
    return [(float(match[1]), float(match[2]), match[3]) for match in matches]


def test_a_label_for_each_cycle() -> None:
    assert read(audacity_text(ANSWER, PROVENANCE)) == [
        (0.25, 1.5, "normal 0.50"),
        (1.5, 2.75, "both 0.50"),
        (3.0, 4.5, "uncertain (wheeze 0.50)"),
    ]


def test_no_cycles_and_awkward_names() -> None:
    assert audacity_text(SILENT, PROVENANCE) == ""
    answer, provenance = awkward_answer()
    names = provenance.label_set.classes
    captions = [f"{names[1]} 0.50", f"uncertain ({names[3]} 0.50)", f"{names[2]} 0.50"]
    assert [caption for _, _, caption in read(audacity_text(answer, provenance))] == captions

import pytest

from lungsound.config import ModelSettings
from lungsound.scoring import _model_name, _named


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (ModelSettings(), "AST base"),
        (ModelSettings(size="micro", pooling="average_token"), "AST micro, average token"),
        (ModelSettings(architecture="resnet18", pooling="average_token"), "resnet18"),
    ],
)
def test_a_report_names_the_architecture(settings: ModelSettings, name: str) -> None:
    assert _model_name(settings) == name


@pytest.mark.parametrize(
    ("num_patients", "end"), [(1, "0"), (10, "8, 9"), (11, "8, 9 and 1 more"), (160, "and 150 more")]
)
def test_a_report_names_no_more_than_ten_patients(num_patients: int, end: str) -> None:
    named = _named([str(number) for number in range(num_patients)])
    assert named.startswith("0")
    assert named.endswith(end)

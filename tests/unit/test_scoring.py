import pytest

from lungsound.config import ModelSettings
from lungsound.scoring import _model_name


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

"""The line for what pydantic found: place and value of the first, however long that is."""

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from lungsound.errors import first_fault


class Inner(BaseModel):
    numbers: tuple[int, ...] = ()
    needed: str


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"needed": "x", "numbers": ["many"]}, "numbers.0 is 'many': Input should be a valid integer"),
        ({}, "needed: Field required"),
        ([], "Input should be a valid dictionary"),
        ({"numbers": ["many"]}, "(and 1 more)"),
    ],
)
def test_the_first_fault_is_told_in_a_line(given: object, line: str) -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(Inner).validate_python(given)
    assert line in first_fault(raised.value.errors())


def test_a_long_value_is_cut_and_stays_on_the_line() -> None:
    with pytest.raises(ValidationError) as raised:
        Inner.model_validate({"needed": ["a\nb" * 9999] * 9999})
    told = first_fault(raised.value.errors())
    assert told.startswith("needed is [")
    assert "\n" not in told
    assert len(told) < 500

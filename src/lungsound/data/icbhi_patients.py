"""What ICBHI tells of its patients: age, sex, body-mass index, diagnosis."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lungsound.data.corpus import Problem
from lungsound.errors import DataError

DEMOGRAPHIC_FILES = ("metadata.txt", "demographic_info.txt", "ICBHI_Challenge_demographic_information.txt")
DIAGNOSIS_FILES = ("patient_diagnosis.txt", "patient_diagnosis.csv", "ICBHI_Challenge_diagnosis.txt")
FACT_FILES = (*DEMOGRAPHIC_FILES, *DIAGNOSIS_FILES)


@dataclass(frozen=True)
class PatientFacts:
    """Facts of one patient; None where the database gives NA or no file was there."""

    age_years: float | None = None
    sex: str | None = None
    bmi: float | None = None
    diagnosis: str | None = None


def read_patients(places: Sequence[Path], problems: list[Problem]) -> tuple[dict[str, PatientFacts], list[str]]:
    """Facts by patient from the first of the known files in `places`, and notes on files that are not there.

    A row that cannot be understood is a "bad patient facts" in `problems`.
    """
    facts: dict[str, PatientFacts] = {}
    notes = []
    demographics = _first_file(places, DEMOGRAPHIC_FILES)
    if demographics is None:
        notes.append(f"age, sex and body-mass index are unknown: none of {', '.join(DEMOGRAPHIC_FILES)} is there")
    else:
        for where, row in _rows(demographics, problems):
            try:
                facts[row[0]] = _parse_demographics(row)
            except DataError as error:
                problems.append(Problem("bad patient facts", where, str(error)))
    diagnoses = _first_file(places, DIAGNOSIS_FILES)
    if diagnoses is None:
        notes.append(f"diagnoses are unknown: none of {', '.join(DIAGNOSIS_FILES)} is there")
    else:
        for where, row in _rows(diagnoses, problems):
            if len(row) == 2:
                facts[row[0]] = replace(facts.get(row[0], PatientFacts()), diagnosis=row[1])
            else:
                problems.append(Problem("bad patient facts", where, f"{len(row)} fields, expected 'patient diagnosis'"))
    return facts, notes


def _first_file(places: Sequence[Path], names: Sequence[str]) -> Path | None:
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _rows(path: Path, problems: list[Problem]) -> list[tuple[str, list[str]]]:
    """`<file> line <n>` and the fields of each line, split at tabs, spaces or commas."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem("bad patient facts", path.name, f"cannot be read as text ({type(error).__name__})"))
        return []
    return [
        (f"{path.name} line {number}", re.split(r"[,\s]+", line.strip()))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _parse_demographics(row: Sequence[str]) -> PatientFacts:
    """One row: patient, age, sex, adult body-mass index, child weight (kg), child height (cm), [location].

    A child's index is computed from weight and height. The location is not per patient and is not read.
    """
    if len(row) not in (6, 7):
        raise DataError(f"{len(row)} fields, expected 'patient age sex bmi weight_kg height_cm'")
    age_years, bmi, weight_kg, height_cm = (_number_or_none(row[column]) for column in (1, 3, 4, 5))
    if bmi is None and weight_kg is not None and height_cm is not None:
        bmi = weight_kg / (height_cm / 100) ** 2
    return PatientFacts(age_years=age_years, sex=None if row[2] == "NA" else row[2], bmi=bmi)


def _number_or_none(text: str) -> float | None:
    if text == "NA":
        return None
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{text!r} is neither a number nor NA") from None
    if not 0 < value < 1000:
        raise DataError(f"{text!r} is no age, body-mass index, weight or height")
    return value

"""Firm predictions for clips without lungs: the clips, and what is counted of a model's answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from benchmarks.firm import KINDS, Counts, clips, main, measurements, of_parts, without_lungs

from lungsound.data.reader import read_corpus
from lungsound.data.synthetic import synthesize
from lungsound.inference.predictor import Predictor
from tests.unit.inference.models import saved_model


def test_clips_are_of_each_kind_the_same_every_time_and_none_is_another() -> None:
    num_clips = 2 * len(KINDS)
    made = list(clips(num_clips))
    assert [kind for kind, _, _ in made] == [*KINDS, *KINDS]
    for (_, samples, rate_hz), (_, again, _) in zip(made, clips(num_clips), strict=True):
        assert len(samples) == 10 * rate_hz
        assert np.array_equal(samples, again)
        assert np.isfinite(samples).all()
    loud = [samples for kind, samples, _ in made if kind != "silence"]
    assert all(-50 < 20 * np.log10(samples.std()) < -5 for samples in loud)
    assert len({samples.tobytes() for samples in loud}) == len(loud)


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    """Firm in all that it is not told to withhold: it was measured, and has no calibration."""
    return Predictor(saved_model(tmp_path))


def test_what_is_firm_is_counted_by_kind(predictor: Predictor, tmp_path: Path) -> None:
    hearts = tmp_path / "hearts"
    hearts.mkdir()
    for number in range(4):
        sound = np.random.default_rng(number).normal(0, 0.1, 16000)
        soundfile.write(hearts / f"{number}.wav", sound, 4000)
    found = without_lungs(predictor, num_clips=len(KINDS), hearts=hearts)
    assert found["hearts"].num_recordings == 2
    assert found["all"].num_recordings == len(KINDS) + 2
    assert found["silence"].num_with_firm_cycle == found["noise"].num_with_firm_cycle == 0
    assert found["handling"].num_firm == found["handling"].num_with_firm_cycle == 1
    assert found["handling"].num_firm_cycles == found["handling"].num_cycles
    whole = [each.num_cycles for name, each in found.items() if not name.startswith("all")]
    assert found["all"].num_cycles == sum(whole)
    assert found["all, in cycles of 0.3 to 1.5 s"].num_cycles >= 9 * 6  # of 1.5 s at most
    unmeasured = Predictor(replace(predictor.trained, evidence=None))
    assert without_lungs(unmeasured, num_clips=6, hearts=None)["all"].num_with_firm_cycle == 0


def test_rows_are_shares() -> None:
    assert Counts(4, 1, 2, 20, 5).row == (4, "25.0", "50.0", 20, "25.0")
    assert Counts().row == (0, "0.0", "0.0", 0, "0.0")


def test_annotated_cycles_of_a_part_are_counted_and_the_table_is_printed(
    predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "corpus"
    synthesize(root, num_patients=4, seed=0)
    counts = of_parts(predictor, root, ["test"])
    assert list(counts) == ["synthetic.test"]
    assert counts["synthetic.test"].num_cycles == len(read_corpus(root).part("test"))
    main([str(tmp_path), "--clips", "1", "--data", str(root), "--part", "test"])
    printed = capsys.readouterr().out
    assert printed.startswith(predictor.evidence)
    assert "| synthetic.test |" in printed
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: box -->\nold\n<!-- end: box -->\nafter\n")
    main([str(tmp_path), "--clips", "1", "--into", str(page)])
    before, made, after = page.read_text().partition(measurements(predictor.trained))
    assert made
    assert before == "before\n<!-- begin: box -->\n\n"
    assert "| noise | 1 |" in after
    assert after.endswith("<!-- end: box -->\nafter\n")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nothing")])

"""The table of speed: cycles that are drawn, engines that are compared, and a quick call of each part."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.speed import Bench, cache_in, main, prepare, row

from benchmarks import ours
from lungsound.errors import SettingsError
from lungsound.inference.engines import AUTO, Parity, make, read_parity, select
from tests.unit.inference.models import TRANSFORMER, saved_model

CPU = torch.device("cpu")


def test_a_row_has_median_and_quartiles() -> None:
    # Of four values by hand: 1.75, 2.5, 3.25.
    assert row("what", [4.0, 1.0, 2.0, 3.0], "x", "how") == ("what", "2.50 x", "1.75 to 3.25", "how")


def test_engines_are_compared_on_balanced_classes_of_drawn_cycles(tmp_path: Path) -> None:
    folder = ours.write_noise_corpus(tmp_path / "corpus", 14, 140, rate_hz=16000)
    bench = Bench(("micro",), CPU, {"fp32": 1.0, "bf16": 1.0}, tmp_path, folder, is_quick=True)
    trained = ours.trained_model(ours.run_config("micro", is_quick=True, is_padding_encoded=False))
    with cache_in(tmp_path / "cache"):
        timed, agreement = prepare(bench, trained)
        parities = read_parity(bench.work, trained)
        engine = select(AUTO, trained, folder=bench.work, device="cpu")
    assert len({(len(each.waveform), float(np.abs(each.waveform).sum())) for each in timed}) == 4  # each drawn once
    assert f"in {Parity.LEAST_CYCLES} cycles of icbhi-SC: torch 100.0%" in agreement
    assert parities[engine.name].is_exact or parities[engine.name].is_enough
    logits = np.log(make("torch", trained).predict(timed)[0]).mean(axis=0)
    assert logits.max() - logits.min() < 0.5
    with pytest.raises(SettingsError, match="needs 164 cycles"):
        prepare(replace(bench, is_quick=False), trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["train"], ["patchmix_cl step", "peak memory", "padding-aware"]),
        (["infer"], ["exact engine", "fast default", "padding-aware"]),
        (["data"], ["corpus to features", "padding is not encoded", "start to first batch", "growth"]),
        (["infer", "--model"], ["exact engine", "fast default"]),
    ],
)
def test_a_part_is_measured_and_printed(
    words: list[str], what: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_model(tmp_path)
    main([*words, *[str(tmp_path)] * ("--model" in words), "--quick"])
    page = capsys.readouterr().out
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    assert all(each in cells[0] for each, cells in zip(what, rows, strict=True))
    assert all(float(cells[1].split()[0]) > 0 for cells in rows)
    assert "Ceilings measured in the same call" in page


def test_a_model_that_the_peer_has_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_model(tmp_path, architecture=TRANSFORMER.model_copy(update={"pooling": "average_token"}))
    with pytest.raises(SystemExit):
        main(["infer", "--quick", "--model", str(tmp_path)])
    assert "model.pooling" in capsys.readouterr().err

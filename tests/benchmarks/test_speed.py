"""The table of speed: cycles that are drawn, engines that are compared, and a quick call of each part."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from benchmarks.measure import ceilings, flops_of
from benchmarks.speed import Bench, _arrays, _cycles, _durations_s, _prepared, forward_flops, gpu_lines, main

from benchmarks import ours
from lungsound.errors import DataError, SettingsError
from lungsound.inference.engines import AUTO, Parity, TorchEngine, read_parity, select
from tests.unit.inference.models import TRANSFORMER, saved_model

CPU = torch.device("cpu")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    return Bench(("micro",), 1, CPU, {"fp32": 1.0, "bf16": 1.0}, tmp_path, is_quick=True)


def test_cycles_of_a_corpus_are_drawn_once_each(bench: Bench, tmp_path: Path) -> None:
    folder = ours.write_noise_corpus(tmp_path / "corpus", num_recordings=14, num_cycles=140, rate_hz=16000)
    bench = dataclasses.replace(bench, data=folder)
    trained = ours.trained_model(ours.run_config("micro", is_quick=True))
    timed, compared, source = _cycles(bench, trained)
    assert (len(timed), len(compared), source) == (bench.batch_size, Parity.LEAST_CYCLES, "real cycles of icbhi-SC")
    every = [*timed, *compared]
    assert len({(len(each), float(each.abs().sum())) for each in every}) == len(every)
    assert all(torch.equal(one, other) for one, other in zip(timed, _cycles(bench, trained)[0], strict=True))
    with pytest.raises(SettingsError, match="needs 164 cycles"):
        _cycles(dataclasses.replace(bench, is_quick=False), trained)


def test_a_batch_has_evenly_spaced_quantiles(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "noise_durations_s", lambda _: [float(value) for value in range(101)])
    assert _durations_s(bench) == ([12.5, 37.5, 62.5, 87.5], "lengths like ICBHI's")


@pytest.mark.parametrize("is_padding_encoded", [True, False])
def test_engines_are_compared_on_balanced_classes_and_selected_by_them(bench: Bench, is_padding_encoded: bool) -> None:
    trained, _, measured, _ = _prepared(bench, is_padding_encoded=is_padding_encoded)
    cycles = _arrays(_cycles(bench, trained)[1])
    logits = torch.from_numpy(TorchEngine(trained).predict(cycles)[0]).log().mean(dim=0)
    torch.testing.assert_close(logits, logits.mean().expand(4), atol=1e-4, rtol=0)
    assert read_parity(bench.work, trained) == measured
    name = select(AUTO, trained, folder=bench.work, device=CPU).name
    assert measured[name].is_exact or measured[name].is_enough


def test_operations_of_cycles_are_the_mean_of_each() -> None:
    trained = ours.trained_model(ours.run_config("micro", is_quick=True, is_padding_encoded=False))
    waveforms = ours.waveforms(trained.front_end, [0.2, 1.0, 3.0])
    alone = []
    for waveform in waveforms:
        fbank = trained.front_end.filter_banks(trained.input_of(waveform).unsqueeze(0))
        alone.append(flops_of(lambda: trained.model(fbank)))  # noqa: B023 (called at once)
    assert alone[0] < alone[1] == alone[2]
    assert forward_flops(trained, waveforms) == sum(alone) / 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ("train", ["train-micro", "train-micro-memory", "train-micro-packed"]),
        ("infer", ["infer-exact", "infer-fast", "infer-real"]),
        ("data", ["data-cold", "data-cold-own", "data-start", "data-growth"]),
    ],
)
def test_a_part_is_measured_and_written(
    part: str, keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([part, "--quick", "--threads", "1", "--out", str(tmp_path / "out")])
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [line["key"] for line in written["lines"]] == keys
    assert all(line["measured"]["median"] > 0 for line in written["lines"])
    assert written["machine"]["threads"] == 1
    assert set(written["ceilings"]) == {"fp32", "bf16", "copy"}
    page = (tmp_path / "out" / "bench.md").read_text()
    assert all(line["what"].split(" / ")[0] in page for line in written["lines"])
    assert "Ceilings measured in the same call" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trained_model_is_measured_into_a_document(tmp_path: Path) -> None:
    saved_model(tmp_path)
    page = tmp_path / "performance.md"
    words = ["infer", "--quick", "--model", str(tmp_path), "--out", str(page)]
    page.write_text("no marks")
    with pytest.raises(DataError, match="begin: speed"):
        main(words)
    page.write_text("before\n<!-- begin: speed -->\nold\n<!-- end: speed -->\nafter\n")
    main(words)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert f"{tmp_path.name} (AST of " in text


def test_a_model_that_the_peer_has_not_is_refused(bench: Bench, tmp_path: Path) -> None:
    saved_model(tmp_path, architecture=TRANSFORMER.model_copy(update={"pooling": "average_token"}))
    with pytest.raises(SettingsError, match="not what transformers' AST is"):
        _prepared(dataclasses.replace(bench, model=tmp_path), is_padding_encoded=True)


@pytest.mark.slow
def test_the_lines_of_a_gpu_can_be_measured_anywhere(bench: Bench) -> None:
    lines = gpu_lines(dataclasses.replace(bench, ceilings=ceilings(CPU, is_quick=True)))
    assert [line.key for line in lines] == ["gpu-share", "gpu-step"]
    assert lines[0].cells()[2].count("%") > 0

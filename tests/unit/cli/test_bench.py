"""The command bench: a quick one of each kind, what it prints and what it writes."""

import json
from pathlib import Path

import pytest
import torch
import typer
from benchmarks.gpu_lines import gpu_lines
from benchmarks.infer_lines import infer_lines
from benchmarks.machine import ceilings
from benchmarks.plan import Plan
from benchmarks.profile import group_of
from benchmarks.report import write
from benchmarks.run import run_bench
from lungsound.app.commands.bench import bench
from rich.console import Console
from typer.testing import CliRunner

from lungsound.errors import DataError, SettingsError
from tests.unit.inference.models import TRANSFORMER, saved_model

app = typer.Typer()
app.command()(bench)


def called(*words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--quick", "--threads", "1"], env={"COLUMNS": "200"})
    assert result.exception is None, result.exception
    return result.stdout


@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ("train", ["train-micro", "train-micro-memory", "train-micro-packed"]),
        ("infer", ["infer-exact", "infer-fast", "infer-real"]),
        ("data", ["data-cold", "data-cold-own", "data-start", "data-growth"]),
    ],
)
def test_a_part_is_measured_and_written(part: str, keys: list[str], tmp_path: Path) -> None:
    printed = called(part, "--out", str(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [line["key"] for line in written["lines"]] == keys
    assert all(line["measured"]["median"] > 0 for line in written["lines"])
    assert written["machine"]["threads"] == 1
    assert set(written["ceilings"]) == {"fp32", "bf16", "copy"}
    page = (tmp_path / "out" / "bench.md").read_text()
    assert all(line["what"].split(" / ")[0] in page for line in written["lines"])
    assert "Ceilings measured in the same call" in printed


def test_alone_there_is_no_ratio_but_our_own_numbers() -> None:
    printed = called("infer", "--against", "nothing")
    assert printed.count("not measured") == 3
    assert "ms a cycle" in printed


def test_a_profile_has_every_group_of_a_step() -> None:
    printed = called("profile", "train")
    assert all(name in printed for name in ("matmul", "attention", "norm", "elementwise", "optimizer", "data"))
    assert "filter bank" in called("profile", "infer")


@pytest.mark.parametrize("words", [("profile",), ("profile", "data"), ("train", "infer")])
def test_words_that_mean_nothing_are_refused(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, list(words))
    assert isinstance(result.exception, SettingsError)


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::addmm", "matmul"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::native_layer_norm_backward", "norm"),
        ("aten::gelu", "elementwise and other"),
        ("aten::_fft_r2c", "filter bank"),
        ("aten::copy_", "copies and casts"),
    ],
)
def test_operators_are_grouped_by_name(operator: str, group: str) -> None:
    assert group_of(operator) == group


def test_the_lines_of_a_gpu_can_be_measured_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    cpu = torch.device("cpu")
    told: list[str] = []
    plan = Plan(("micro",), 1, cpu, tmp_path, ceilings(cpu, is_quick=True), is_quick=True, say=told.append)
    lines = gpu_lines(plan)
    assert [line.key for line in lines] == ["gpu-share", "gpu-step", "gpu-waiting"]
    assert lines[0].cells()[2].count("%") > 0


def test_a_document_needs_the_marks(tmp_path: Path) -> None:
    found = run_bench(
        "infer",
        sizes=("micro",),
        num_threads=1,
        is_against=False,
        is_quick=True,
        data=None,
        console=Console(quiet=True),
    )
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- begin: speed -->\nold\n<!-- end: speed -->\nafter\n")
    assert write(found, page) == [page]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "exact engine" in text
    page.write_text("no marks")
    with pytest.raises(DataError, match="begin: speed"):
        write(found, page)


def test_a_trained_model_is_measured_in_place_of_random_weights(tmp_path: Path) -> None:
    saved_model(tmp_path)
    plan = Plan(("micro",), 1, torch.device("cpu"), tmp_path, {"fp32": 1.0, "bf16": 1.0}, model=tmp_path, is_quick=True)
    exact, fast = infer_lines(plan)
    assert exact.what.startswith(f"{tmp_path.name} (AST of ")
    assert exact.numbers["largest_difference"] < 1e-4
    assert fast.measured is not None
    with pytest.raises(SettingsError, match="bench infer --model RUN"):
        CliRunner().invoke(app, ["train", "--model", str(tmp_path)], catch_exceptions=False)


def test_a_model_that_the_peer_has_not_is_refused(tmp_path: Path) -> None:
    saved_model(tmp_path, architecture=TRANSFORMER.model_copy(update={"pooling": "average_token"}))
    plan = Plan(("micro",), 1, torch.device("cpu"), tmp_path, {}, model=tmp_path, is_quick=True)
    with pytest.raises(SettingsError, match="not what transformers' AST is"):
        infer_lines(plan)

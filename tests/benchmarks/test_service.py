"""The service under load: a tiny call of the measurement."""

import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service needs pip install 'lungsound[serve]'")
if not Path("/proc/self/smaps_rollup").exists():
    pytest.skip("memory is counted on Linux only", allow_module_level=True)

from benchmarks.service import main

from benchmarks import measure
from tests.unit.serve.served import save_tiny, sound


@pytest.mark.slow
def test_a_tiny_call_measures_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SETTLE_S", 0.2)
    model = save_tiny(tmp_path / "model.safetensors")
    (tmp_path / "a.wav").write_bytes(sound())
    words = ["--requests", "2", "--clients", "1", "--clients", "2", "--hostile", "1", "--longest", "2"]
    main([str(model), str(tmp_path / "a.wav"), *words, "--json", str(tmp_path / "service.json")])
    values, printed = json.loads((tmp_path / "service.json").read_text()), capsys.readouterr().out
    assert [(each["num_clients"], each["num_requests"], each["num_refused"]) for each in values["load"]] == [
        (1, 2, 0),
        (2, 2, 0),
    ]
    for each in values["load"]:
        assert 0 < each["p50_s"] <= each["p95_s"] <= each["p99_s"]
        assert 0 < each["requests_per_s"] <= each["num_clients"] / each["p50_s"] * 1.5
    for each in values["memory"].values():
        assert 50 < each["final_mib"] <= each["peak_mib"]
    statuses = {status for each in values["hostile"].values() for status in each}
    assert statuses <= {"200", "413", "422"}
    assert values["hostile"]["1,024 channels"] == values["hostile"]["more bytes than the limit"] == {"413": 1}
    assert "| 2 | 2 | " in printed

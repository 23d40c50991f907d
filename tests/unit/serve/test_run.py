"""Starting the service: what is checked before a model is loaded, and what is told first."""

import json
from pathlib import Path

import pytest

from lungsound import extras
from lungsound.cli import serve as serving
from lungsound.errors import SettingsError, WeightsError
from lungsound.serve import server
from lungsound.serve import server as run
from lungsound.serve.limits import Limits
from tests.unit.serve.served import sound


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[server.Server]:
    """Servers that would have been run."""
    found: list[server.Server] = []
    monkeypatch.setattr(server.Server, "run", lambda self, **_: found.append(self))
    monkeypatch.delenv("LUNGSOUND_TOKEN", raising=False)
    return found


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_it_is_ready_when_it_listens(
    tiny_path: Path, started: list[server.Server], capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    serving.serve(tiny_path.parent, port=0, max_mb=0.5, max_duration_s=30, workers=3, timeout_s=5, engine="torch")
    (served,) = started
    told = lines(capsys)
    assert [line["event"] for line in told] == ["start", "ready", "stop"]
    assert told[0]["note"] == "research software, not a medical device"
    assert told[1]["address"].startswith("http://127.0.0.1:")
    assert served._service.is_ready
    assert served._service.folder is None
    assert served._service.limits == Limits(2**19, max_duration_s=30, num_workers=3, max_waiting=16, timeout_s=5)
    assert served.config.app.is_local_only
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("token", "num_warnings"), [(None, 1), ("0123456789abcdef", 0)])
def test_all_the_world_without_a_token_is_warned_of(
    tiny_path: Path, started: list[server.Server], capsys: pytest.CaptureFixture[str], token: str, num_warnings: int
) -> None:
    run.serve(tiny_path, host="0.0.0.0", port=0, token=token)
    told = lines(capsys)
    assert sum(line["event"] == "warning" for line in told) == num_warnings
    assert started[0].config.app.token == token
    assert not started[0].config.app.is_local_only
    assert "0123456789abcdef" not in json.dumps(told)


def test_the_token_may_come_from_the_environment(
    tiny_path: Path, started: list[server.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNGSOUND_TOKEN", "from-the-environment")
    run.serve(tiny_path, port=0)
    run.serve(tiny_path, port=0, token="from-the-command-line")
    assert [each.config.app.token for each in started] == ["from-the-environment", "from-the-command-line"]


def test_review_serves_the_folder(tiny_path: Path, tmp_path: Path, started: list[server.Server]) -> None:
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "a.wav").write_bytes(sound())
    serving.review(tmp_path / "ward", model=str(tiny_path), port=0, max_duration_s=30)
    (served,) = started
    assert served._service.limits == Limits(max_duration_s=30, max_waiting=serving.REVIEW_WAITING)
    assert served._service.folder is not None
    assert [each.name for each in served._service.folder] == ["a.wav"]


def test_mistakes_are_named_in_one_line(tiny_path: Path, tmp_path: Path, started: list[server.Server]) -> None:
    with pytest.raises(SettingsError, match=r"a token has 16 characters or more .*; got 5 characters") as caught:
        run.serve(tiny_path, port=0, token="short")
    assert "short" not in str(caught.value)
    with pytest.raises(SettingsError, match="timeout_s is 0"):
        serving.serve(tiny_path, timeout_s=0)
    with pytest.raises(SettingsError, match="port 70000: ports are 1 to 65535"):
        run.serve(tiny_path, port=70000)
    with pytest.raises(SettingsError, match=r"no\.such\.host\.invalid port 8000 cannot be served"):
        run.serve(tiny_path, host="no.such.host.invalid")
    with pytest.raises(WeightsError):
        run.serve(tmp_path, port=0)
    with pytest.raises(SettingsError, match="is no folder"):
        run.serve(tiny_path, folder=tmp_path / "none", port=0)
    assert not started


def test_a_missing_extra_is_named(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda package: None if package == "prometheus_client" else object())
    with pytest.raises(
        SettingsError,
        match=r"prometheus_client is not installed, which the service needs: pip install 'lungsound\[serve\]'",
    ):
        serving.serve(str(tiny_path))

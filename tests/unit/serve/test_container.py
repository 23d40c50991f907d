"""Dockerfile and compose file by what stands in them; docker itself is not asked."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def instructions() -> list[tuple[str, str]]:
    """Name and text of each instruction, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip()]


def test_the_image_runs_the_service_as_nobody_special() -> None:
    stages = [number for number, (name, _) in enumerate(instructions()) if name == "FROM"]
    last = instructions()[stages[-1] :]
    given = dict(last)
    assert len(stages) == 2
    assert given["USER"] == "10001"
    assert [name for name, _ in last].index("USER") < [name for name, _ in last].index("ENTRYPOINT")
    assert given["ENTRYPOINT"].startswith('["lungsound", "serve", ')
    assert "/health/ready" in given["HEALTHCHECK"]
    assert given["STOPSIGNAL"] == "SIGTERM"


def test_one_layer_installs_the_wheel_and_leaves_no_tools() -> None:
    stages = [number for number, (name, _) in enumerate(instructions()) if name == "FROM"]
    last = instructions()[stages[-1] :]
    (run,) = (text for name, text in last if name == "RUN")
    assert not [text for name, text in last if name in ("COPY", "ADD")]
    assert "lungsound[serve" in run
    assert "--no-cache-dir" in run
    assert "--constraint" in run
    assert "pip uninstall --yes pip" in run
    assert "useradd" in run
    assert "apt-get" not in run


def test_the_image_is_built_from_little() -> None:
    """What the wheel is built from is let in, and everything else is kept out."""
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [text.split()[:-1] for name, text in instructions() if name == "COPY"]
    bound = re.findall(r"source=(\w[\w.]*),", " ".join(text for _, text in instructions()))
    assert set(let_in) == {source for sources in copied for source in sources} | set(bound)
    assert all((ROOT / name).exists() for name in let_in)
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= set(let_in)


def test_the_composed_service_is_closed_to_others_and_cannot_write() -> None:
    yaml = pytest.importorskip("yaml", reason="reading compose.yaml needs PyYAML")
    (service,) = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["environment"]["LUNGSOUND_TOKEN"].startswith("${LUNGSOUND_TOKEN:?")
    assert [volume for volume in service["volumes"] if not volume.endswith(":ro")] == []
    (cache,) = re.findall(r"LUNGSOUND_CACHE=(\S+)", (ROOT / "Dockerfile").read_text())
    assert [place.partition(":")[0] for place in service["tmpfs"]] == ["/tmp", cache]

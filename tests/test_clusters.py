"""The examples for clusters: scripts that a shell can read, YAML, and options that torchrun and lungsound have."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser
from typer.main import get_command

from lungsound.cli.main import app
from lungsound.config import recipe_names
from tests.documents import ROOT, blocks
from tests.test_site import only_parsing

PAGE = ROOT / "docs" / "how-to" / "train-on-several-devices.md"


def check_torchrun(words: list[str]) -> None:
    """What follows `torchrun` has options that exist, and so has the training."""
    options = get_args_parser().parse_args([re.sub(r"\$SLURM_NNODES", "2", word) for word in words])
    assert (options.module, options.training_script) == (True, "lungsound")
    called: list[dict[str, object]] = []
    command = only_parsing(get_command(app), called)
    command.main(options.training_script_args, prog_name="lungsound", standalone_mode=False)
    assert called[0]["recipe"] in recipe_names()


def check_script(text: str, folder: Path) -> None:
    """A shell reads it, and its call of torchrun is one that trains, whether it resumes or not."""
    (folder / "script").write_text(text)
    subprocess.run(["bash", "-n", str(folder / "script")], check=True)
    (line,) = [line for line in text.replace("\\\n", " ").splitlines() if "torchrun" in line]
    words = [word for word in shlex.split(line) if word != "$resume"]
    check_torchrun(words[words.index("torchrun") + 1 :])


def test_the_scripts_are_read_by_a_shell_and_their_options_exist(tmp_path: Path) -> None:
    scripts = blocks(PAGE, "sh")
    assert len(scripts) == 2
    for script in scripts:
        check_script(script.text, tmp_path)


def test_the_job_is_one_that_trains(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="pip install 'lungsound[dev]'")
    service, job = yaml.safe_load_all(blocks(PAGE, "yaml")[0].text)
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["sh", "-c"]
    (script,) = container["args"]
    check_script(script, tmp_path)
    assert "resume=--resume" in script, "a pod that is restarted has the same words"
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    assert service["metadata"]["name"] == pod["subdomain"] == "lungsound"

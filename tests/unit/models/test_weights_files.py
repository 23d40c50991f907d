"""Files that are no weights, or hold more than weights: one line each, and nothing in them is run."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lungsound.errors import WeightsError
from lungsound.models.weights import open_weights

WEIGHTS = {"v.pos_embed": torch.ones(1, 9, 3), "v.cls_token": torch.ones(1, 1, 3)}


def assert_refused(path: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        open_weights(path)
    assert "\n" not in str(caught.value)


def test_reads_names_hash_header_and_values(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors", metadata={"lungsound": "{}"})
    torch.save({"module." + key: value for key, value in WEIGHTS.items()}, tmp_path / "a.pt")
    torch.save({"model": WEIGHTS, "epoch": 3}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pt", "a.pth"):
        file = open_weights(tmp_path / name)
        assert set(file.tensors) == set(WEIGHTS)
        assert all(torch.equal(value, WEIGHTS[key]) for key, value in file.tensors.items())
        assert file.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert file.metadata == ({"lungsound": "{}"} if name == "a.safetensors" else {})
        assert file.is_checkpoint == (name == "a.pth")
        assert file.ignored == ([("epoch", "state of training")] if name == "a.pth" else [])


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.pth", "no such file")
    assert_refused(tmp_path, "no weights in this folder; it needs model.safetensors")
    (tmp_path / "weights.npz").write_bytes(b"")
    assert_refused(tmp_path / "weights.npz", "unknown kind of file; weights are a .safetensors")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.bin"])
@pytest.mark.parametrize("content", [b"", b"no weights at all" * 99, None])
def test_damaged_files(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is None:
        weights = {"v.pos_embed": torch.ones(1, 999, 3)}
        if path.suffix == ".safetensors":
            save_file(weights, path)
        else:
            torch.save(weights, path)
        content = path.read_bytes()[:3000]
    path.write_bytes(content)
    assert_refused(path, "cannot be read as weights|damaged, or holds more than weights")


class Attack:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    torch.save({"model": WEIGHTS, "args": Attack(made)}, tmp_path / "attack.pth")
    assert_refused(tmp_path / "attack.pth", "holds more than weights and is not opened")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Attack(made), protocol=2))
    assert_refused(tmp_path / "plain.pth", "holds more than weights and is not opened")
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], "holds an empty or unnamed list"),
        ({}, "holds an empty or unnamed dict"),
        ({"v.pos_embed": 3}, "entries that are no weights: v.pos_embed"),
        ({"model": WEIGHTS, "teacher": WEIGHTS}, "unexplained parts beside 'model': teacher"),
    ],
)
def test_content_that_is_no_state_dict(tmp_path: Path, content: Any, match: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", match)

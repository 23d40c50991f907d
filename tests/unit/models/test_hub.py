"""Model files by name, from a hub that is not asked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lungsound.errors import FetchError, SettingsError
from lungsound.models.hub import download_model, is_hub_name

errors = pytest.importorskip("huggingface_hub.errors")


def hub(files: dict[str, Path], asked: list[tuple[str, str, str | None, bool]]) -> Callable[..., str]:
    """Stands for hf_hub_download of a repository with these files."""

    def download(repository: str, file: str, *, revision: str | None, local_files_only: bool) -> str:
        asked.append((repository, file, revision, local_files_only))
        if file in files:
            return str(files[file])
        raise errors.EntryNotFoundError(f"404: {file}")

    return download


def failing(error: Exception) -> Callable[..., str]:
    def download(*_: object, **__: object) -> str:
        raise error

    return download


@pytest.mark.parametrize("name", ["hf://ann/lungs", "ann/lungs", "ann/lungs@v1", "hf://a-b/c.d_e@refs/pr/1"])
def test_names_of_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name(name)


@pytest.mark.parametrize("name", ["runs/tiny", "runs/nothing", "run", "a/b/c", "/ann/lungs", "./ann", "../lungs", "a/"])
def test_paths_are_no_names_even_mistyped_ones(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    assert not is_hub_name(name)


def test_our_own_file_comes_first(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("lungsound.safetensors", "model.safetensors")}
    asked: list[tuple[str, str, str | None, bool]] = []
    assert download_model("hf://ann/lungs@v1", download=hub(files, asked)) == files["lungsound.safetensors"]
    assert asked == [("ann/lungs", "lungsound.safetensors", "v1", False)]
    del files["lungsound.safetensors"]
    assert download_model("ann/lungs", download=hub(files, asked)) == files["model.safetensors"]
    assert asked[-1] == ("ann/lungs", "model.safetensors", None, False)


def test_offline_asks_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGSOUND_OFFLINE", "1")
    asked: list[tuple[str, str, str | None, bool]] = []
    download_model("ann/lungs", download=hub({"model.safetensors": tmp_path}, asked))
    assert [is_local for *_, is_local in asked] == [True, True]


def test_what_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    del tmp_path
    cases: list[tuple[Callable[..., str], str]] = [
        (hub({}, []), "ann/lungs on the Hub holds none of lungsound.safetensors, model.safetensors: upload"),
        (failing(errors.LocalEntryNotFoundError("no")), "is not in the Hub's cache and the Hub cannot be asked"),
        (failing(ConnectionError("no route")), r"cannot get lungsound.safetensors of ann/lungs .*no route"),
        (failing(errors.HFValidationError("bad")), r"cannot get .*bad"),
    ]
    for download, told in cases:
        with pytest.raises(FetchError, match=told):
            download_model("ann/lungs", download=download)


@pytest.mark.parametrize("name", ["hf://lungs", "hf://a/b/c", "hf://a/b@", "hf:///b"])
def test_what_is_no_name_is_said(name: str) -> None:
    with pytest.raises(SettingsError, match="is no name on the Hub: hf://OWNER/NAME"):
        download_model(name, download=hub({}, []))


def test_the_library_itself_is_called_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its function takes our arguments, and what it raises is understood."""
    monkeypatch.setenv("LUNGSOUND_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    ask: Callable[[str], Path] = download_model
    with pytest.raises(FetchError, match="is not in the Hub's cache"):
        ask("nobody-at-all/nothing-at-all")

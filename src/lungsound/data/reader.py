"""Any supported corpus on disk: finds out which one it is and reads it."""

from pathlib import Path
from typing import Literal

from lungsound.data.corpus import AUDIO_SUFFIXES, Corpus
from lungsound.data.icbhi import AUDIO_FOLDER, is_icbhi_name, read_icbhi
from lungsound.data.sprsound import is_sprsound, read_sprsound
from lungsound.data.tree import files_with_suffix, require_folder
from lungsound.errors import CorpusError


def read_corpus(root: Path, *, kind: str = "auto", split: str = "official", is_strict: bool = True) -> Corpus:
    """The corpus in the folder `root`, whichever it is.

    kind: "icbhi", "sprsound", or "auto" to see by what is in the folder.
    split: see `read_icbhi`; SPRSound has only its official one.
    is_strict: a corpus without recordings or with problems is a CorpusError; else its `problems` tell.

    Raises CorpusError too when `root` is no folder or holds no corpus.
    """
    require_folder(root)
    if kind == "auto":
        kind = find_kind(root)
    if kind == "icbhi":
        corpus = read_icbhi(root, split=split)
    elif kind == "sprsound":
        if split != "official":
            raise CorpusError(f"SPRSound has its official split only, got split {split!r}: leave it 'official'")
        corpus = read_sprsound(root)
    else:
        raise CorpusError(f"unknown kind of corpus {kind!r}: expected 'auto', 'icbhi' or 'sprsound'")
    return corpus.require_sound() if is_strict else corpus


def find_kind(root: Path) -> Literal["icbhi", "sprsound"]:
    """Which corpus the folder holds; CorpusError when it is none that is known."""
    if is_sprsound(root):
        return "sprsound"
    if (root / AUDIO_FOLDER).is_dir() or files_with_suffix(root, AUDIO_SUFFIXES):
        return "icbhi"
    if any(is_icbhi_name(path.stem) for path in files_with_suffix(root, [".txt"])):
        return "icbhi"
    raise CorpusError(
        f"no corpus in {root}: looked for ICBHI (sound files with .txt beside them, or a folder {AUDIO_FOLDER}) "
        "and for SPRSound (folders train_wav, train_json, test_wav, test_json)"
    )

"""Any supported corpus on disk, recognised and read."""

from pathlib import Path
from typing import Literal

from lungsound.data.corpus import AUDIO_SUFFIXES, Corpus, relabelled
from lungsound.data.file_facts import file_facts
from lungsound.data.folders import class_folders, read_folders
from lungsound.data.icbhi import AUDIO_FOLDER, is_icbhi_name, read_icbhi
from lungsound.data.sprsound import is_sprsound, read_sprsound
from lungsound.data.table import SUFFIXES, read_table, table_file, tables_in
from lungsound.data.tree import files_with_suffix, require_folder
from lungsound.errors import CorpusError
from lungsound.labels import Unit, read_label_map

Kind = Literal["icbhi", "sprsound", "table", "folders"]


def read_corpus(
    root: str | Path,
    *,
    kind: str = "auto",
    split: str = "official",
    is_strict: bool = True,
    unit: Unit = "cycle",
    label_map: str | Path | None = None,
) -> Corpus:
    """The corpus in the folder `root` (a table may be a file), of whichever kind.

    - `kind`: "icbhi", "sprsound", "table", "folders", or "auto" to see by what is there.
    - `split`: of ICBHI's layout "official", "fold0" to "fold4" (RespireNet's), or a file of `name<TAB>part` lines; the
      others have only the one that comes with them.
    - `is_strict`: a corpus without recordings or with problems is a CorpusError; else its `problems` tell.
    - `unit`: "recording" to have whole recordings as cycles, for a label set that tells those apart; ICBHI has no word
      for them.
    - `label_map`: a TOML file that reads the corpus's words as others.

    Raises CorpusError too when `root` is not there or holds no corpus, SettingsError for a label map that is none.
    """
    root = Path(root)
    if kind == "auto":
        kind = find_kind(root)
    if split != "official" and kind in ("sprsound", "table", "folders"):
        whose = "SPRSound has" if kind == "sprsound" else f"a corpus of the kind {kind!r} has"
        raise CorpusError(f"{whose} its official split only, got split {split!r}: leave it 'official'")
    if unit == "recording" and kind == "icbhi":
        raise CorpusError(f"ICBHI's layout in {root} has no word for a whole recording: choose a label set of cycles")
    own = None if label_map is None else read_label_map(Path(label_map))
    if kind == "icbhi":
        corpus = read_icbhi(root, split=split)
    elif kind == "sprsound":
        corpus = read_sprsound(root, unit=unit)
    elif kind == "table":
        corpus = read_table(root, unit=unit, label_map=own)
    elif kind == "folders":
        corpus = read_folders(root, label_map=own)
    else:
        raise CorpusError(
            f"unknown kind of corpus {kind!r}: expected 'auto', 'icbhi', 'sprsound', 'table' or 'folders'"
        )
    if own is not None and kind in ("icbhi", "sprsound"):
        corpus = relabelled(corpus, own)
    file_facts().save()
    return corpus.require_sound() if is_strict else corpus


def find_kind(root: Path) -> Kind:
    """Kind of the corpus in a folder or table; CorpusError when it is none that is known."""
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        return "table"
    require_folder(root)
    if is_sprsound(root):
        return "sprsound"
    if (root / AUDIO_FOLDER).is_dir() or any(is_icbhi_name(path.stem) for path in files_with_suffix(root, [".txt"])):
        return "icbhi"
    if tables_in(root):
        table_file(root)
        return "table"
    if files_with_suffix(root, AUDIO_SUFFIXES):
        return "icbhi"
    if any(class_folders(root)):
        return "folders"
    raise CorpusError(
        f"no corpus in {root}: looked for ICBHI (sound files with .txt beside them, or a folder {AUDIO_FOLDER}), "
        "for SPRSound (folders train_wav, train_json, test_wav, test_json), for a table (a .csv or .tsv file with "
        "columns path, patient, label) and for folders of classes (<class>/*.wav or <part>/<class>/*.wav)"
    )

"""Any supported corpus on disk, recognised and read."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from lungsound.data.corpus import AUDIO_SUFFIXES, Corpus, relabelled
from lungsound.data.file_facts import file_facts
from lungsound.data.folders import class_folders, read_folders
from lungsound.data.icbhi import AUDIO_FOLDER, is_icbhi_name, read_icbhi
from lungsound.data.shards import INDEX, read_packed
from lungsound.data.sprsound import is_sprsound, read_sprsound
from lungsound.data.table import SUFFIXES, misread, read_table, table_file, tables_in
from lungsound.data.tree import files_below, files_with_suffix, is_hidden, require_folder
from lungsound.errors import CorpusError
from lungsound.files import first_names
from lungsound.labels import Unit, read_label_map
from lungsound.storage import as_uri

Kind = Literal["icbhi", "sprsound", "table", "folders", "packed"]
MAX_DEPTH = 4  # of the folders in which a corpus is looked for, to name it


def read_corpus(
    root: str | Path,
    *,
    kind: str = "auto",
    split: str = "official",
    is_strict: bool = True,
    unit: Unit = "cycle",
    label_map: str | Path | None = None,
) -> Corpus:
    """The corpus in the folder `root` (a table may be a file, a packed one at a URI), of whichever kind.

    - `kind`: "icbhi", "sprsound", "table", "folders", "packed", or "auto" to see by what is there.
    - `split`: of ICBHI's layout "official", "fold0" to "fold4" (RespireNet's), or a file of `name<TAB>part` lines; the
      others have only the one that comes with them.
    - `is_strict`: a corpus without recordings or with problems is a CorpusError; else its `problems` tell.
    - `unit`: "recording" to have whole recordings as cycles, for a label set that tells those apart; ICBHI has no word
      for them.
    - `label_map`: a TOML file that reads the corpus's words as others.

    Raises CorpusError too when `root` is not there or holds no corpus, SettingsError for a label map that is none.
    """
    uri, root = as_uri(root), Path(root)
    if kind == "auto":
        kind = "packed" if uri else find_kind(root)
    if uri and kind != "packed":
        raise CorpusError(f"{uri} is a URI, where only packed corpora are read, got kind {kind!r}: leave it 'auto'")
    if split != "official" and kind in ("sprsound", "table", "folders", "packed"):
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
    elif kind == "packed":
        corpus = read_packed(uri or root, unit=unit)
    else:
        raise CorpusError(
            f"unknown kind of corpus {kind!r}: expected {', '.join(map(repr, ('auto', *get_args(Kind))))}"
        )
    if own is not None and kind in ("icbhi", "sprsound", "packed"):
        corpus = relabelled(corpus, own)
    folders = {recording.path.parent for recording in corpus.recordings if recording.packed is None}
    wanted = (*AUDIO_SUFFIXES, ".txt")
    num_hidden = sum(is_hidden(path) and path.suffix.lower() in wanted for each in folders for path in each.iterdir())
    if num_hidden:
        note = f"{num_hidden} files whose names begin with a dot, as macOS makes them, are passed over"
        corpus = replace(corpus, notes=(*corpus.notes, note))
    file_facts().save()
    return corpus.require_sound() if is_strict else corpus


def find_kind(root: Path) -> Kind:
    """Kind of the corpus in a folder or table; CorpusError, with the folder that is meant, when it is none."""
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        return "table"
    kind = _kind_here(require_folder(root))
    if kind == "table":
        table_file(root)
    if kind is not None:
        return kind
    sounds, others = files_with_suffix(root, AUDIO_SUFFIXES), files_with_suffix(root, SUFFIXES)
    if sounds and others and not any(is_icbhi_name(path.stem) for path in sounds):
        reasons = first_names([f"{path.name}: {misread(path)}" for path in others])
        raise CorpusError(f"{root} has sounds without annotations, and no table that says what they are ({reasons})")
    if sounds:
        return "icbhi"
    below = files_below(root, AUDIO_SUFFIXES, max_depth=MAX_DEPTH)
    inner = [folder for folder in below.folders if folder != root and _kind_here(folder) is not None]
    if inner:
        deepest = [str(one) for one in inner if not any(one in other.parents for other in inner)]
        raise CorpusError(f"{root} is no corpus itself, but there is one in {first_names(deepest)}: give that folder")
    if any(class_folders(root)):
        return "folders"
    deeper = first_names(sorted({str(path.parent) for path in below.files}))
    raise CorpusError(
        f"no corpus in {root}: looked for ICBHI (sound files with .txt beside them, or a folder {AUDIO_FOLDER}), "
        "for SPRSound (folders train_wav, train_json, test_wav, test_json), for a table (a .csv or .tsv file with "
        "columns path, patient, label), for folders of classes (<class>/*.wav or <part>/<class>/*.wav) and for a "
        f"packed corpus ({INDEX} and shards)" + (f"; there are sound files in {deeper}" if deeper else "")
    )


def _kind_here(folder: Path) -> Kind | None:
    """Kind of the corpus whose recordings and annotations are named in this very folder; None for none."""
    if (folder / INDEX).is_file():
        return "packed"
    if is_sprsound(folder):
        return "sprsound"
    official = folder / AUDIO_FOLDER
    if official.is_dir() and files_with_suffix(official, AUDIO_SUFFIXES):
        return "icbhi"
    if any(is_icbhi_name(path.stem) for path in files_with_suffix(folder, [".txt"])):
        return "icbhi"
    return "table" if tables_in(folder) else None

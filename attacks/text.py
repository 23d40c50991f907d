"""Text that somebody may have written, mutated: each parser answers, or raises the error that it documents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from attacks.mutate import mutated
from attacks.watch import Fault, Row, attempted
from lungsound.config import load_config, to_toml
from lungsound.data import icbhi, sprsound
from lungsound.data.icbhi import parse_split
from lungsound.data.table import read_table
from lungsound.errors import AnnotationError, CorpusError, DataError, LungsoundError, SettingsError, WeightsError
from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.rescore import rescore, summary
from lungsound.evaluation.rescore_files import ReadOptions, read_parts
from lungsound.files import read_model, read_record, write_record
from lungsound.inference.engines import MeasuredEngines
from lungsound.labels import read_label_map
from lungsound.training.run import RunFolder

NUM_TRIES = 10_000


@dataclass(frozen=True)
class Parser:
    """A file's name, good contents of it, how it is read, and the errors that this may raise."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    errors: tuple[type[LungsoundError], ...]
    beside: Mapping[str, bytes] = field(default_factory=dict)


ANNOTATION = b"0.036\t0.579\t0\t0\n0.579\t2.45\t1\t0\n2.45\t3.893\t0\t1\n3.893\t5.793\t1\t1\n"
EVENTS = (
    b'{"record_annotation": "CAS & DAS", "event_annotation": [\n'
    b' {"start": "312", "end": "1690", "type": "Fine Crackle"},\n'
    b' {"start": 1701.5, "end": 2900, "type": "Wheeze+Crackle"}, {"start": "3000", "end": "4000", "type": "Normal"}]}'
)
TABLE = (
    b"path,start_s,end_s,label,patient,split,device,age_years,sex\na.wav,0,0.1,normal,101,train,Littmann,63,F\n"
    b'a.wav,0.1,0.2,crackle,101,train,Littmann,63,F\n"b.wav",0.05,0.25,both,102,test,,7.5,male\n'
)
SEMICOLONS = b"path;crackle;wheeze;patient\r\na.wav;0;1;101\r\nb.wav;1;1;102\r\n"
SPLIT = b"101_1b1_Al_sc_Meditron\ttrain\n102_1b1_Ar_sc_Meditron\ttest\n103_2b2_Ar_mc_LittC2SE\ttrain\n"
PREDICTIONS = b"key,patient,device,part,label,answer,p_normal,p_crackle,p_wheeze,p_both\n" + b"".join(
    f"a{n}#{n}.5-{n + 1}.25,{100 + n},Meditron,test,{label},normal,0.55,0.25,0.125,0.075\n".encode()
    for n, label in enumerate(("normal", "crackle", "wheeze", "both", "normal", "crackle"))
)
MATRIX = b",normal,crackle,wheeze\nnormal,120,30,8\ncrackle,44,61,5\nwheeze,12,9,31\n"
JSON_MATRIX = b'{"classes": ["normal", "crackle"], "confusion": [[120, 30], [44, 61]]}'
RECIPE = (
    b'extends = "demo"\nname = "mine"\n\n[data]\nroot = "corpus"\ndevices = ["Meditron"]\n\n[train]\nepochs = 5\n'
    b'learning_rate = 1e-3\ndecay_epochs = [3, 4]\n\n[[data.corpora]]\nroot = "a"\nshare = 0.5\n'
)
LABEL_MAP = (
    b'vocabulary = "ours"\nlabel_set = "sound4"\n\n[classes]\n"rale" = "crackle"\nclear = "normal"\n"two" = "both"\n'
)
FACTS = (
    b'{"command": "lungsound train", "device": "cpu", "precision": "fp32", "pretrained": null,\n "weights": "random",'
    b' "teachers": {},\n'
    b' "corpus": {"name": "icbhi", "root": "c", "num_recordings": 3, "num_cycles": 9, "problems": [], "notes": ["x"],\n'
    b' "split_origin": "official", "fingerprint": "ab", "members": {}}, "num_cycles": {"train": 6},'
    b' "patients": {"train": ["101"]},\n'
    b' "left_out_patients": [], "versions": {"torch": "2.11"}, "revision": null}'
)
ENGINES = (
    b'{"format": "lungsound engines 2", "model": "ab", "engines": {"onnx": {"num_cycles": 500, "share": 1.0, '
    b'"largest_difference": 1e-06}}}'
)
DEMOGRAPHICS = b"101 3 F NA 19 99\n102 0.75 F NA 9.8 73\n103 70 F 33 NA NA\n"


def _sound() -> bytes:
    import io

    content = io.BytesIO()
    soundfile.write(content, np.zeros(2000), 8000, format="WAV")
    return content.getvalue()


def _rescored(path: Path) -> None:
    for part in read_parts(path, ReadOptions()):
        summary(rescore(part, epoch="unknown", bootstrap=Bootstrap(0, 20)))


def _patients(path: Path) -> None:
    icbhi._read_patients([path.parent], [])


def _facts(path: Path) -> None:
    RunFolder(path.parent).facts()


def _config(path: Path) -> None:
    RunFolder(path.parent).config()


def _engines(path: Path) -> None:
    read_model(path, MeasuredEngines, WeightsError, is_nan_allowed=True)


def _record(path: Path) -> None:
    if (values := read_record(path, made_for="test")) not in (None, RECORD):
        raise Fault("silent", f"a damaged record was read: {str(values)[:200]}")


RECORD = {"label": "crackle", "probabilities": [0.5, 0.25, 0.25], "path": "a.wav"}


def parsers() -> dict[str, Parser]:
    """Each parser by what it reads."""
    sounds = {"a.wav": _sound(), "b.wav": _sound()}
    return {
        "ICBHI annotation": Parser("a.txt", (ANNOTATION,), icbhi.read_annotation, (AnnotationError,)),
        "SPRSound annotation": Parser("a.json", (EVENTS,), sprsound.read_annotation, (AnnotationError,)),
        "table": Parser("table.csv", (TABLE, SEMICOLONS), read_table, (CorpusError,), sounds),
        "split": Parser("split.tsv", (SPLIT,), parse_split, (CorpusError,)),
        "patients": Parser("metadata.txt", (DEMOGRAPHICS,), _patients, ()),
        "predictions": Parser("predictions.csv", (PREDICTIONS,), _rescored, (DataError, SettingsError)),
        "confusion matrix": Parser("matrix.csv", (MATRIX,), _rescored, (DataError, SettingsError)),
        "confusion matrix in JSON": Parser("matrix.json", (JSON_MATRIX,), _rescored, (DataError, SettingsError)),
        "recipe": Parser("mine.toml", (RECIPE, to_toml(load_config("demo")).encode()), load_config, (SettingsError,)),
        "label map": Parser("map.toml", (LABEL_MAP,), read_label_map, (SettingsError,)),
        "settings of a run": Parser("config.json", (_json_of_config(),), _config, (SettingsError,)),
        "facts of a run": Parser("run.json", (FACTS,), _facts, (SettingsError,)),
        "parity of engines": Parser("engines.json", (ENGINES,), _engines, (WeightsError,)),
        "kept answers": Parser("kept.json", (b"",), _record, ()),
    }


def _json_of_config() -> bytes:
    return load_config("demo").model_dump_json(indent=1).encode()


def attack_parser(what: str, parser: Parser, folder: Path, *, seed: int) -> Callable[[int], None]:
    """One try of a parser, by its number: the file is written, read, and what is not documented is raised."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in parser.beside.items():
        (folder / name).write_bytes(content)
    path, seeds = folder / parser.name, parser.seeds
    if what == "kept answers":
        write_record(path, RECORD, made_for="test")
        seeds = (path.read_bytes(),)

    def attempt(number: int) -> None:
        rng = Random(f"{seed} {what} {number}")
        path.write_bytes(mutated(rng.choice(seeds), rng, seeds, is_text=True))
        try:
            parser.read(path)
        except parser.errors as error:
            if not str(error) or len(str(error)) > 3000:
                raise Fault("internal", f"an error of {len(str(error))} characters") from None

    return attempt


def attack(folder: Path, *, seed: int, share: float) -> list[Row]:
    """All parsers, a process each."""
    made = {what: attack_parser(what, each, folder / what, seed=seed) for what, each in parsers().items()}
    return [attempted("text", what, attempt, round(share * NUM_TRIES)) for what, attempt in made.items()]

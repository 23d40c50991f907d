"""Packed corpora: the same bytes each time, the corpus of the folder, rows that stay few, damage in one line."""

import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, DataSettings, TrainSettings
from lungsound.data.audit import audit_corpus
from lungsound.data.batches import Inputs, TrainingBatches
from lungsound.data.corpus import Corpus, Recording, join
from lungsound.data.reader import read_corpus
from lungsound.data.shards import INDEX, in_shards, pack, sound_file
from lungsound.data.splits import load_corpus
from lungsound.data.store import open_filter_banks, open_waveforms
from lungsound.errors import CorpusError, LungsoundError, SettingsError
from lungsound.files import read_json, write_json
from lungsound.labels import LABEL_SETS, Unit
from tests.integration.command import lungsound
from tests.unit.data.trees import write_event_file, write_icbhi, write_sound

FRONT_END = FrontEnd(AudioSettings(duration_s=0.3, num_mels=16))
NAMES = [f"{patient}_1b1_Al_sc_Meditron" for patient in range(101, 109)]
CYCLES = "0\t0.5\t0\t0\n0.5\t1.1\t1\t0\n1.2\t2.0\t0\t1\n"
QUIET = Console(quiet=True)


def packed(corpus: Corpus, out: str | Path, *, unit: Unit = "cycle") -> str | Path:
    pack(corpus, out, shard_mb=1, unit=unit, on_progress=lambda *_: None)
    return out


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three cycles of each of eight recordings of noise of 0.4 MB, so that a shard of 1 MB has two; an empty cache."""
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    folder = write_icbhi(tmp_path / "corpus", dict.fromkeys(NAMES, CYCLES))
    split = "".join(f"{name}\t{'test' if name > '106' else 'train'}\n" for name in NAMES)
    (folder / "official_split.txt").write_text(split)
    for seed, name in enumerate(NAMES):
        noise = np.random.default_rng(seed).normal(0, 0.1, 200_000)
        soundfile.write(folder / f"{name}.wav", noise, 100_000, subtype="PCM_16")
    return folder


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Path:
    return Path(packed(read_corpus(folder), tmp_path / "packed"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Patients whose recordings are opened from now on."""
    patients: list[str] = []

    def counted(recording: Recording) -> object:
        patients.append(recording.patient)
        return sound_file(recording)

    monkeypatch.setattr("lungsound.data.store.sound_file", counted)
    return patients


class WithRanges(SimpleHTTPRequestHandler):
    """Files of a folder, or the range of bytes that is asked for."""

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, status = path.read_bytes(), 200
        if given := self.headers["Range"]:
            first, last = given.removeprefix("bytes=").split("-")
            content, status = content[int(first) : int(last) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def serve(shards: Path) -> Iterator[Callable[[type[SimpleHTTPRequestHandler]], str]]:
    """Serve the packed corpus on the loopback; its address."""
    pytest.importorskip("aiohttp", reason="a URI of http needs the extra remote")
    servers = []

    def start(handler: type[SimpleHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(shards)))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# ---- what is packed ----


def test_the_same_corpus_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    one, other = (Path(packed(read_corpus(folder), tmp_path / name)) for name in ("one", "other"))
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }
    again = Path(packed(read_corpus(one), tmp_path / "again"))  # from shards in place of files
    assert all((again / path.name).read_bytes() == path.read_bytes() for path in one.glob("*.tar"))
    assert sorted(path.name for path in one.iterdir()) == [INDEX, *(f"shard-{n:05}.tar" for n in range(4))]


def test_a_shard_holds_files_and_facts_as_samples(folder: Path, shards: Path) -> None:
    files = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            assert {(each.mtime, each.uid, each.uname) for each in tar} == {(0, 0, "")}
            files |= {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    assert list(files) == [f"{number:08}.{kind}" for number in range(8) for kind in ("wav", "json")]
    for number, name in enumerate(NAMES):
        assert files[f"{number:08}.wav"] == (folder / f"{name}.wav").read_bytes()
        facts = json.loads(files[f"{number:08}.json"])
        assert (facts["recording"]["name"], len(facts["cycles"])) == (name, 3)


def without_places(corpus: Corpus) -> Corpus:
    """The corpus as if its sound were nowhere."""
    made = {each.name: replace(each, path=Path(), shard="", packed=None) for each in corpus.recordings}
    cycles = tuple(replace(each, recording=made[each.recording.name]) for each in corpus.cycles)
    return replace(corpus, root="", recordings=tuple(made.values()), cycles=cycles)


def assert_same(found: Corpus, expected: Corpus) -> None:
    assert found.fingerprint == expected.fingerprint
    assert without_places(found) == without_places(expected)
    assert [each.position for each in found.cycles] == [each.position for each in expected.cycles]
    for one, other in zip(found.recordings, expected.recordings, strict=True):
        with sound_file(one) as path:
            assert path.read_bytes() == other.path.read_bytes()


def test_a_packed_corpus_is_that_of_the_folder(folder: Path, shards: Path) -> None:
    assert_same(read_corpus(shards), read_corpus(folder))


@pytest.mark.parametrize("unit", ["cycle", "recording"])
def test_words_parts_and_names_of_any_kind_come_back(unit: Unit, tmp_path: Path) -> None:
    for place, name in [("train", "65101170_4.0_0_p1_1"), ("test", "65101171_5.0_1_p2_2")]:
        write_sound(tmp_path / "own" / f"{place}_wav" / f"{name}.wav")
        events = [(0, 900, "Normal"), (900, 2000, "Rhonchi")]
        json_folder = "train_json" if place == "train" else "test_json/intra_test_json"
        write_event_file(tmp_path / "own" / json_folder / f"{name}.json", events, record="CAS")
    corpus = read_corpus(tmp_path / "own", unit=unit)
    found = read_corpus(packed(corpus, tmp_path / "packed", unit=unit), unit=unit)
    assert_same(found, corpus)
    assert found.known_patient_parts == {"intra"}
    other: Unit = "recording" if unit == "cycle" else "cycle"
    with pytest.raises(CorpusError, match=f"packed with labels of each {unit}"):
        read_corpus(tmp_path / "packed", unit=other)


def test_the_command_packs_into_a_new_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("data", "pack", folder, "--out", tmp_path / "packed", "--shard-mb", 1)
    assert lungsound(*command) == 0
    assert "24 cycles of 8 recordings in 4 shards" in capsys.readouterr().out
    assert lungsound("data", "check", tmp_path / "packed") == 0
    assert lungsound(*command) == 2
    assert "is not empty" in capsys.readouterr().err
    assert lungsound("data", "convert", tmp_path / "packed", "--to", "table", "--out", tmp_path / "table") == 2


def test_a_corpus_with_problems_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / f"{NAMES[0]}.txt").write_text("0\t9\t0\t0\n")
    with pytest.raises(CorpusError, match="cycle past the end"):
        packed(read_corpus(folder, is_strict=False), tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_an_audit_finds_in_shards_what_it_finds_in_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / f"{NAMES[7]}.wav").write_bytes((folder / f"{NAMES[0]}.wav").read_bytes())  # a sound on both sides
    corpus = read_corpus(folder)
    found, expected = (audit_corpus(each) for each in (read_corpus(packed(corpus, tmp_path / "packed")), corpus))
    assert replace(found, root=folder) == expected
    assert [(each.audio.one, each.audio.other) for each in found.shared_sounds] == [(NAMES[0], NAMES[7])]


# ---- the order of an epoch ----


def batches_of(corpus: Corpus, *, shuffle_shards: int = 2, weights: torch.Tensor | None = None) -> TrainingBatches:
    """Batches of one cycle each, of all the cycles, whose value is the row."""
    num = len(corpus.cycles)
    values = np.arange(num, dtype=np.float32).reshape(-1, 1, 1)
    inputs = Inputs(values, torch.zeros(num, dtype=torch.int64), None, num_classes=4, mean=0.0, std=0.5)
    train = TrainSettings(batch_size=1, shuffle_shards=shuffle_shards)
    names = [cycle.recording.shard for cycle in corpus.cycles]
    return TrainingBatches(inputs, range(num), train, shards=names, weights=weights)


def rows_of(batches: TrainingBatches, *, epoch: int = 1, first_step: int = 0) -> list[int]:
    return [int(batch.fbank) for batch in batches.epoch(epoch, first_step=first_step)]


def test_cycles_of_as_many_shards_are_mixed(folder: Path) -> None:
    corpus = in_shards(read_corpus(folder), 1)
    batches = batches_of(corpus)
    epochs = [rows_of(batches, epoch=epoch) for epoch in range(1, 9)]
    pairs = set()
    for rows in epochs:
        assert sorted(rows) == list(range(24))
        windows = [{row // 6 for row in rows[first : first + 12]} for first in (0, 12)]
        assert [len(window) for window in windows] == [2, 2]
        pairs.add(tuple(sorted(windows[0])))
    assert len(pairs) > 2
    assert rows_of(batches, first_step=15) == epochs[0][15:]


def test_all_in_one_shard_or_all_shards_together_is_the_order_of_a_folder(folder: Path) -> None:
    corpus = read_corpus(folder)
    weights = torch.arange(1, 25, dtype=torch.float64)
    for given in (None, weights):
        plain = rows_of(batches_of(corpus, weights=given))
        assert rows_of(batches_of(in_shards(corpus, 1), shuffle_shards=4, weights=given)) == plain


def test_weights_draw_from_each_shard_as_many_as_its_share(folder: Path) -> None:
    """Six cycles in each of four shards, the first of which weigh three times as much, and the last nothing."""
    weights = torch.tensor([3.0] * 6 + [1.0] * 12 + [0.0] * 6, dtype=torch.float64)
    rows = rows_of(batches_of(in_shards(read_corpus(folder), 1), shuffle_shards=1, weights=weights))
    counts = np.bincount(np.array(rows) // 6, minlength=4).tolist()
    assert sum(counts) == 24
    assert all(abs(found - share) <= 1 for found, share in zip(counts, (14.4, 4.8, 4.8, 0), strict=True))


def test_the_shards_of_a_folder_are_those_that_pack_would_write(folder: Path, shards: Path) -> None:
    expected = [(each.name, each.shard) for each in read_corpus(shards).recordings]
    divided = load_corpus(DataSettings(root=str(folder), shard_mb=1))
    assert [(each.name, each.shard) for each in divided.recordings] == expected
    assert [each.recording for each in divided.cycles[::3]] == list(divided.recordings)
    part = load_corpus(DataSettings(root=str(folder), shard_mb=1, left_out_recordings=(NAMES[0],)))
    assert [(each.name, each.shard) for each in part.recordings] == expected[1:]
    assert {each.shard for each in load_corpus(DataSettings(root=str(folder))).recordings} == {""}


# ---- rows ----


def test_rows_are_those_of_the_folder_and_few_are_kept(folder: Path, shards: Path, tmp_path: Path) -> None:
    plain, corpus = read_corpus(folder), read_corpus(shards)
    expected = open_filter_banks(plain, FRONT_END, console=QUIET)
    found = open_filter_banks(corpus, FRONT_END, console=QUIET)
    (private,) = (tmp_path / "cache").glob(".*.partial")
    most = 0
    for order in (np.arange(24), np.random.default_rng(0).permutation(24)):
        found.expect(order)
        for row in order:
            assert np.array_equal(found[np.array([row])], expected[np.array([row])])
            most = max(most, len(list(private.iterdir())))
    assert most == 2
    assert found.num_samples.tolist() == expected.num_samples.tolist()
    assert found.statistics(range(24)) == expected.statistics(range(24))
    sounds, cut = (open_waveforms(each, FRONT_END, console=QUIET) for each in (corpus, plain))
    for row in (0, 23, 5):
        assert np.array_equal(sounds[row].waveform, cut[row].waveform)
    del found, sounds
    assert not list((tmp_path / "cache").glob(".*.partial"))


def test_what_is_announced_is_read_once_and_alone(shards: Path, reads: list[str]) -> None:
    fbanks = open_filter_banks(read_corpus(shards), FRONT_END, console=QUIET)
    rows = np.array([20, 3, 18, 5, 4, 19, 0, 1])  # of the recordings 6, 1, 6, 1, 1, 6, 0, 0 in the shards 3 and 0
    fbanks.expect(rows, 2)
    for row in rows:
        fbanks[np.array([row])]
    assert sorted(reads) == ["101", "102", "107"]
    fbanks[np.array([21])]  # of another recording in shard 3, which nobody has announced
    assert sorted(reads) == ["101", "102", "107", "108"]


def test_rows_of_a_packed_and_another_corpus_together(folder: Path, shards: Path) -> None:
    one, other = read_corpus(folder), read_corpus(shards)
    corpus = join({"folder": one, "packed": other}, LABEL_SETS["sound4"])
    fbanks, expected = (open_filter_banks(each, FRONT_END, console=QUIET) for each in (corpus, one))
    rows = np.random.default_rng(0).permutation(48)
    fbanks.expect(rows, 2)
    for row in rows:
        assert np.array_equal(fbanks[np.array([row])], expected[np.array([row % 24])])
    assert fbanks.statistics(range(24, 48)) == expected.statistics(range(24))
    fbanks.expect(np.arange(24))
    for row in (24, 47, 32, 40):  # of the packed one, of which nothing was announced
        assert np.array_equal(fbanks[np.array([row])], expected[np.array([row - 24])])


def test_facts_are_kept_for_the_next_run(shards: Path, reads: list[str]) -> None:
    first = open_filter_banks(read_corpus(shards), FRONT_END, console=QUIET).num_samples
    assert len(reads) == 8
    again = open_filter_banks(read_corpus(shards), FRONT_END, console=QUIET).num_samples
    assert (len(reads), again.tolist()) == (8, first.tolist())


# ---- damage ----


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200_000])


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100_000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(cut, "is cut or damaged"), (change, "is cut or damaged"), (Path.unlink, "is not reached.*No such file")],
)
def test_a_damaged_shard_is_refused(damage: Callable[[Path], None], message: str, shards: Path) -> None:
    damage(shards / "shard-00002.tar")
    fbanks = open_filter_banks(read_corpus(shards), FRONT_END, console=QUIET)
    with pytest.raises(CorpusError, match=rf"shard-00002\.tar.*{message}"):
        fbanks[np.arange(24)]


def test_a_damaged_index_or_one_of_another_version_is_refused(shards: Path) -> None:
    index = shards / INDEX
    text, values = index.read_text(), read_json(index, CorpusError)
    index.write_text(text.replace(NAMES[0], NAMES[0].replace("101", "999")))
    with pytest.raises(CorpusError, match="damaged, or was changed"):
        read_corpus(shards)
    del values["own_sha256"]
    write_json(index, values | {"format": "lungsound packed corpus 2"}, is_sealed=True)
    with pytest.raises(CorpusError, match=r"packed corpus 2.*pack the corpus again"):
        read_corpus(shards)
    values["recordings"][0]["cycles"][0]["end_s"] = 99.0
    write_json(index, values, is_sealed=True)
    with pytest.raises(CorpusError, match="cycle past the end"):
        read_corpus(shards)


def test_sound_that_is_none_is_named_by_its_place(folder: Path, tmp_path: Path) -> None:
    corpus = read_corpus(folder)
    (folder / f"{NAMES[3]}.wav").write_bytes(b"no sound")
    shards = packed(corpus, tmp_path / "packed")
    fbanks = open_filter_banks(read_corpus(shards), FRONT_END, console=QUIET)
    with pytest.raises(LungsoundError, match=r"shard-0000\d\.tar/00000003\.wav is no sound file"):
        fbanks[np.arange(24)]


# ---- URIs ----


def test_a_corpus_is_packed_to_a_uri_and_read_from_it(folder: Path) -> None:
    assert_same(read_corpus(packed(read_corpus(folder), "memory://bucket/packed")), read_corpus(folder))
    with pytest.raises(SettingsError, match="has a packed corpus already"):
        packed(read_corpus(folder), Path("memory://bucket/packed"))
    with pytest.raises(CorpusError, match=r"memory://bucket/none/packed_corpus\.json is not reached"):
        read_corpus("memory://bucket/none")


def test_what_broke_off_on_the_way_to_a_uri_is_no_corpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    put = MemoryFileSystem.put_file

    def broken(self: MemoryFileSystem, source: str, place: str) -> None:
        if place.endswith("2.tar"):
            raise TimeoutError
        put(self, source, place)

    monkeypatch.setattr(MemoryFileSystem, "put_file", broken)
    with pytest.raises(CorpusError, match=r"memory://broken is not reached \(TimeoutError"):
        packed(read_corpus(folder), "memory://broken")
    with pytest.raises(CorpusError, match="is not reached"):
        read_corpus("memory://broken")
    monkeypatch.undo()
    assert_same(read_corpus(packed(read_corpus(folder), "memory://broken")), read_corpus(folder))


def test_a_packed_corpus_is_read_over_http(folder: Path, serve: Callable[[type], str]) -> None:
    uri = serve(WithRanges)
    assert_same(read_corpus(f"{uri}/"), read_corpus(folder))
    assert load_corpus(DataSettings(root=uri)).root == uri


def test_a_server_without_ranges_or_without_the_files_is_named(serve: Callable[[type], str]) -> None:
    class Whole(WithRanges):
        def do_GET(self) -> None:
            del self.headers["Range"]
            super().do_GET()

    corpus = read_corpus(serve(Whole))
    with pytest.raises(CorpusError, match="range requests"), sound_file(corpus.recordings[0]):
        pass
    with pytest.raises(CorpusError, match="is not reached"):
        read_corpus(f"{corpus.root}/elsewhere")
    with pytest.raises(CorpusError, match="is not reached"):
        read_corpus("http://127.0.0.1:9")


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(SettingsError, match=r"s3://bucket/.* needs: pip install 'lungsound\[remote\]'"):
        read_corpus("s3://bucket/packed")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(SettingsError, match=r"gs://bucket/.*gcsfs.* pip install 'lungsound\[remote\]'"):
        read_corpus("gs://bucket/packed")


def test_a_folder_or_a_packed_folder_needs_no_extra(shards: Path) -> None:
    program = "import sys; from lungsound import read_corpus; read_corpus(sys.argv[1]); print('fsspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, str(shards)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

import typer
from typer.testing import CliRunner

from lungsound.cli.data import data_convert
from lungsound.data.reader import read_corpus
from lungsound.errors import CorpusError
from tests.unit.data.trees import write_icbhi, write_sound

app = typer.Typer()
app.command("convert")(data_convert)


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_icbhi_to_a_table_that_reads_at_once(tmp_path):
    write_icbhi(tmp_path / "in", {"101_1b1_Al_sc_Meditron": "0 0.5 0 0\n0.5 1 1 0\n"})
    result = run(tmp_path / "in", "--to", "table", "--out", tmp_path / "out")
    assert (result.exit_code, result.exception) == (0, None)
    assert f"wrote 2 cycles of 1 recordings as table into {tmp_path / 'out'}\n" in result.output
    assert [cycle.key for cycle in read_corpus(tmp_path / "out").cycles] == [
        "101_1b1_Al_sc_Meditron#0.000-0.500",
        "101_1b1_Al_sc_Meditron#0.500-1.000",
    ]


def test_what_is_lost_is_an_error_or_listed(tmp_path):
    for name in ("normal/a_1.wav", "crackle/b_1.wav"):
        write_sound(tmp_path / "in" / name)
    result = run(tmp_path / "in", "--to", "icbhi", "--out", tmp_path / "out")
    assert isinstance(result.exception, CorpusError)
    assert "add --lossy" in str(result.exception)
    result = run(tmp_path / "in", "--to", "icbhi", "--out", tmp_path / "out", "--lossy")
    assert result.exit_code == 0
    assert "lost: 2 recordings are not named as those of icbhi, so their patients are lost\n" in result.output
    assert (tmp_path / "out" / "b_1.txt").read_text() == "0\t2\t1\t0\n"


def test_a_label_map_and_whole_recordings(tmp_path):
    write_sound(tmp_path / "in" / "wheezy" / "a_1.wav")
    (tmp_path / "map.toml").write_text('label_set = "sprsound_record5"\n[classes]\nwheezy = "CAS"\n')
    result = run(
        tmp_path / "in", "--to", "table", "--out", tmp_path / "out", "--unit", "recording",
        "--label-map", tmp_path / "map.toml",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    assert ",,,CAS,a,train,wheezy/a_1" in (tmp_path / "out" / "annotations.csv").read_text()


def test_an_unknown_format(tmp_path):
    assert run(tmp_path, "--to", "wav", "--out", tmp_path / "out").exit_code == 2

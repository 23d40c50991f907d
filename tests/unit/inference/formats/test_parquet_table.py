import io
import json
import sys

import pytest

from lungsound.errors import SettingsError
from lungsound.inference.formats.tables import column_types, load_pyarrow, parquet_bytes, provenance_record, rows
from tests.unit.inference.formats.examples import ANSWER, PROVENANCE, SILENT, awkward_answer


def test_pyarrow_reads_the_same_rows_typed() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    table = parquet.read_table(io.BytesIO(parquet_bytes([ANSWER, SILENT], PROVENANCE)))
    assert table.column_names == list(column_types(PROVENANCE))
    expected = [
        tuple(list(v) if isinstance(v, tuple) else v for v in row) for row in rows([ANSWER, SILENT], PROVENANCE)
    ]
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["format_version"], types["start_s"], types["p_both"]) == ("int32", "double", "double")
    assert (types["answer"], types["possible"].split("<")[0]) == ("string", "list")
    assert json.loads(table.schema.metadata[b"lungsound"]) == provenance_record(PROVENANCE)


def test_no_recording_and_awkward_names_are_tables_too() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    assert parquet.read_table(io.BytesIO(parquet_bytes([], PROVENANCE))).num_rows == 0
    answer, provenance = awkward_answer()
    table = parquet.read_table(io.BytesIO(parquet_bytes([answer], provenance)))
    assert table["possible"].to_pylist()[1] == list(answer.cycles[0].possible)


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"pip install 'lungsound\[parquet\]'"):
        load_pyarrow()

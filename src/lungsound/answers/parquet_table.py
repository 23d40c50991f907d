"""The CSV's table as Parquet, typed, with the provenance as metadata (extra `parquet`)."""

import importlib
import json
from collections.abc import Sequence
from typing import Any

from lungsound.answers.answer import Provenance, RecordingAnswer
from lungsound.answers.json_lines import provenance_record
from lungsound.answers.rows import PROBABILITY_PREFIX, columns, rows
from lungsound.errors import SettingsError

METADATA_KEY = "lungsound"
_TYPES = {
    "format_version": "int32",
    "duration_s": "float64",
    "start_s": "float64",
    "end_s": "float64",
    "out_of_domain": "float64",
}
_LISTS = ("possible", "quality")


def parquet_bytes(answers: Sequence[RecordingAnswer], provenance: Provenance) -> bytes:
    """The columns of the CSV; unknown values are null, several names are a list. SettingsError without pyarrow."""
    arrow, parquet = load_pyarrow()
    names = columns(provenance)
    schema = arrow.schema(
        [(name, _type(arrow, name)) for name in names],
        metadata={METADATA_KEY: json.dumps(provenance_record(provenance), allow_nan=False)},
    )
    table = [dict(zip(names, row, strict=True)) for row in rows(answers, provenance)]
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist(table, schema=schema), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def load_pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet; SettingsError naming the extra when they are not installed."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise SettingsError(
            "pyarrow is not installed, which the format parquet needs: pip install 'lungsound[parquet]', "
            "or choose csv, which has the same columns"
        ) from None


def _type(arrow: Any, column: str) -> Any:
    if column in _LISTS:
        return arrow.list_(arrow.string())
    if column.startswith(PROBABILITY_PREFIX):
        return arrow.float64()
    return arrow.type_for_alias(_TYPES.get(column, "string"))

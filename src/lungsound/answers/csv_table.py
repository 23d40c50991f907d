"""All answers as one CSV table: UTF-8, comma, quoted where needed."""

import csv
import io
from collections.abc import Sequence

from lungsound.answers.answer import SEPARATOR, Provenance, RecordingAnswer
from lungsound.answers.rows import columns, rows


def csv_text(answers: Sequence[RecordingAnswer], provenance: Provenance) -> str:
    """A row for each recording and each cycle; unknown values are blank, several names in a cell parted by `;`.

    Numbers carry as many digits as it takes to read back the same float64.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns(provenance))
    for row in rows(answers, provenance):
        writer.writerow([SEPARATOR.join(value) if isinstance(value, tuple) else value for value in row])
    return text.getvalue()

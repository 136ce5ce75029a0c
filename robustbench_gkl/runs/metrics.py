"""``metrics.csv``: a row an epoch. Rows of epochs without a measurement lack its columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence


def columns(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the columns of ``rows``, in the order of the row that has most."""
    return list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))


def csv_text(rows: Sequence[Mapping[str, float]]) -> str:
    """Return ``rows`` as CSV; what a row lacks is left empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns(rows), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()

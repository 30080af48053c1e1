"""A report's tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from crucible_core.values.jsonable import visible_text


def csv_of(rows: Iterable[Sequence[str | float]]) -> str:
    """The rows as CSV; a number is written in full."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n").writerows(
        [_csv_cell(visible_text(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows
    )
    return written.getvalue()


def _csv_cell(text: str) -> str:
    # Spreadsheets run a cell that begins like a formula, even in quotes; numbers stay numbers.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""A table of records as a file: CSV, and Parquet where pyarrow is installed."""

from __future__ import annotations

import importlib
import importlib.util
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, get_args

from crucible_core.errors import CrucibleError
from crucible_core.report.csv import csv_of
from crucible_core.values.jsonable import to_jsonable
from crucible_core.values.messages import closest

__all__ = ["FrameLibrary", "columns_of", "csv_of_records", "frame_of", "has_parquet", "parquet_of_records"]

FrameLibrary = Literal["pandas", "polars"]

Record = Mapping[str, Any]


def columns_of(records: Iterable[Record]) -> list[str]:
    """The names that any of the records has, in the order in which they come."""
    return list(dict.fromkeys(name for one in records for name in one))


def csv_of_records(records: Sequence[Record]) -> str:
    """All columns as CSV (RFC 4180): numbers in full, None empty, lists and mappings as JSON."""
    columns = columns_of(records)
    return csv_of(itertools.chain([columns], ([_cell(one.get(name)) for name in columns] for one in records)))


def has_parquet() -> bool:
    """Whether Parquet can be written."""
    return importlib.util.find_spec("pyarrow") is not None


def parquet_of_records(records: Sequence[Record]) -> bytes:
    """All columns as Parquet: whole numbers, numbers, truth values and texts keep their type.

    A column with values of several types is one of texts, as in CSV. Raises CrucibleError without pyarrow.
    """
    if not has_parquet():
        raise CrucibleError("Parquet needs pyarrow: pip install pyarrow")
    import pyarrow as pa  # noqa: PLC0415  # optional, and slow to load
    from pyarrow import parquet  # noqa: PLC0415

    def column(name: str) -> Any:
        values = [one.get(name) for one in records]
        if all(value is None or isinstance(value, int | float | str | datetime) for value in values):
            try:
                return pa.array(values)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
                pass
        return pa.array([None if value is None else _text(value) for value in values], pa.string())

    written = io.BytesIO()
    columns = columns_of(records)
    parquet.write_table(pa.table([column(name) for name in columns], names=columns), written)
    return written.getvalue()


def frame_of(records: Sequence[Record], library: FrameLibrary | None = None) -> Any:
    """The records as a data frame of pandas or polars, whichever is installed; a list of dicts where neither is.

    Raises CrucibleError if the `library` that is asked for is not installed, or not known.
    """
    known = get_args(FrameLibrary)
    if library is not None and (library not in known or importlib.util.find_spec(library) is None):
        said = "is not installed" if library in known else f"is not a library of data frames{closest(library, known)}"
        raise CrucibleError(f"{library!r} {said}; known: {', '.join(known)}; without them, records are a list of dicts")
    chosen = library or next((one for one in known if importlib.util.find_spec(one) is not None), None)
    columns = columns_of(records)
    rows = [{name: one.get(name) for name in columns} for one in records]
    if chosen == "pandas":
        return importlib.import_module("pandas").DataFrame(rows)
    if chosen == "polars":
        return importlib.import_module("polars").DataFrame(rows, infer_schema_length=None, strict=False)
    return rows


def _cell(value: Any) -> str | float:
    return value if type(value) in (int, float) else "" if value is None else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    rendered = to_jsonable(value)
    return rendered if isinstance(rendered, str) else json.dumps(rendered, ensure_ascii=False)

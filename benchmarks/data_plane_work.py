"""What every stage of the data plane's benchmark does, whoever calls it, and a record of which process opens what."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

STAGES = int(os.environ.get("DATA_PLANE_STAGES", "8"))
OPENS_VARIABLE = "DATA_PLANE_OPENS"
"""File in which it is recorded who opens large files; unset in runs that are timed."""

Shape = Literal["all", "ends", "outputs"]
"""Every stage reads the array; the first and the last do; or there is no array, but the second stage adds records."""


def make_array(values: int) -> Any:
    return np.arange(values, dtype=np.float64)


def make_records(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": index,
            "name": f"record {index}",
            "group": index % 7,
            "split": "train" if index % 5 else "test",
            "weight": index / 3,
            "score": index / 7,
            "rank": count - index,
            "right": index % 2 == 0,
            "note": "as it was measured",
            "missing": None,
        }
        for index in range(count)
    ]


def reads_array(shape: Shape, index: int) -> bool:
    return shape == "all" or (shape == "ends" and index in {0, STAGES - 1})


def metric_of(array: Any) -> float:
    """What a stage that reads the array makes of it: all of it is looked at."""
    return float(array.sum())


# --- who opens what ------------------------------------------------------------------------------------------------


def mark(index: int) -> None:
    """Say that this process runs this stage now."""
    if _log is not None:
        _write({"pid": os.getpid(), "stage": index})


def _write(entry: dict[str, Any]) -> None:
    assert _log is not None
    os.write(_log, json.dumps(entry).encode() + b"\n")


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    path = Path(os.fsdecode(arguments[0]))
    try:
        size = path.stat().st_size
    except OSError:
        return  # it is being made
    if size >= LARGE:
        _write({"pid": os.getpid(), "open": str(path), "size": size})


LARGE = 1_000_000
_log: int | None = None
if os.environ.get(OPENS_VARIABLE):
    _log = os.open(os.environ[OPENS_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sys.addaudithook(_hear)  # a step's process is forked from one that has it already


def opens_by_stage(log: Path, folder: Path, size: int) -> list[int]:
    """How often each stage opened a file of at least this size below the folder."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    stages: dict[int, int] = {}
    found = [0] * STAGES
    # A process of its own is its stage's from its beginning; one for all is its last mark's.
    alone = {entry["pid"]: entry["stage"] for entry in reversed(entries) if "stage" in entry}
    for entry in entries:
        if "stage" in entry:
            stages[entry["pid"]] = entry["stage"]
        elif entry["size"] >= size and Path(entry["open"]).is_relative_to(folder) and entry["pid"] in alone:
            found[stages.get(entry["pid"], alone[entry["pid"]])] += 1
    return found

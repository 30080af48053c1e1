"""What is kept of each trial: a line as soon as it ends, appended by the process that ran it.

`trials/<experiment>/<run>/<writer>` has lines of one process: a key, a space, and the trial's row as JSON. A key is
what the result of a trial depends on, so a line that is there for a key need not be made again, in whichever run. A key
with nothing behind it says that the trial has begun.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic_core import from_json

__all__ = ["FolderFiles", "LogFiles", "Row", "TrialLog", "TrialSettings", "settings_of"]

Row = dict[str, Any]

LINES_PER_FILE = 1_000
"""An object store writes a file anew for each line."""


class LogFiles(Protocol):
    """What a log needs of a file system; names are relative to its base, with `/` between their parts."""

    def children(self, folder: str) -> Sequence[str]:
        """The names of the files and folders in the folder; nothing if there is none."""

    def read(self, name: str) -> bytes:
        """The bytes of a file."""

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file that this process alone writes."""


class TrialSettings(NamedTuple):
    """How the trials of a run are run and kept, besides what the experiment says."""

    jobs: int | None = None
    """Processes, instead of the experiment's `jobs`."""
    files: LogFiles | None = None
    """Where their rows are kept for later runs; by default, only for this one."""
    identify: Callable[[type], str | None] | None = None
    """A digest of the code of a stage, or None if it is not known; by default, of its module's source."""
    fresh: bool = False
    """Whether trials are run that an earlier run has kept."""


def settings_of(jobs: int | None, keep: str | os.PathLike[str] | None) -> TrialSettings:
    """Those of a run in this process, whose rows are kept in the folder `keep`. Raises ValueError for no jobs."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is a number of processes of at least 1, not {jobs}")
    return TrialSettings(jobs, None if keep is None else FolderFiles(Path(keep).absolute()))


class FolderFiles:
    """The files below a folder of this machine."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def children(self, folder: str) -> Sequence[str]:
        try:
            return sorted(os.listdir(self.base / folder))  # noqa: PTH208  # names are wanted
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, name: str) -> bytes:
        return (self.base / name).read_bytes()

    def append(self, name: str, data: bytes) -> None:
        path = self.base / name
        try:
            stream = path.open("ab", buffering=0)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("ab", buffering=0)
        with stream:
            before = stream.tell()
            left = memoryview(data)
            try:
                while left:
                    left = left[stream.write(left) :]
            except OSError:
                # An incomplete line would spoil the next one.
                stream.truncate(before)
                raise


class TrialLog:
    """The trials of an experiment: those of this run are written, those of all its runs are read."""

    def __init__(self, files: LogFiles, experiment: str, run_id: str) -> None:
        self._files = files
        self._experiment = f"trials/{experiment}"
        self._run = f"{self._experiment}/{run_id}"

    def __reduce__(self) -> tuple[Any, ...]:
        return TrialLog, (self._files, self._experiment.partition("/")[2], self._run.rpartition("/")[2])

    def begin(self, key: str) -> None:
        """Say that a trial begins: if its process dies, this is the trial that it died of. Raises OSError."""
        self._append(f"{key} \n")

    def keep(self, key: str, row: Row) -> None:
        """Keep the row of a trial that ended. Raises OSError, or ValueError for a row that is not JSON."""
        self._append(f"{key} {json.dumps(row, separators=(',', ':'))}\n")

    def rows(self, keys: Iterable[str], *, fresh: bool = False) -> dict[str, Row]:
        """The rows of these keys that succeeded in any run, and those that failed in this one. Raises OSError.

        Those of another run say so: `reused`. With `fresh`, only those of this run.
        """
        wanted = set(keys)
        found: dict[str, Row] = {}
        runs = [f"{self._experiment}/{run}" for run in self._files.children(self._experiment)]
        for folder in [self._run] if fresh else runs:
            for key, text in self._entries(folder):
                if text and key in wanted and found.get(key, {}).get("status") != "succeeded":
                    row = from_json(text)
                    if folder == self._run:
                        found[key] = row
                    elif row["status"] == "succeeded":
                        found[key] = row | {"reused": True}
        return found

    def own_rows(self) -> dict[str, Row]:
        """Every row that this run has kept, by its key. Raises OSError."""
        return {key: from_json(text) for key, text in self._entries(self._run) if text}

    def unfinished(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys whose trials began in this run and did not end. Raises OSError."""
        wanted = set(keys)
        began: dict[str, bool] = {}
        for key, text in self._entries(self._run):
            if key in wanted:
                began[key] = bool(text) or began.get(key, False)
        return [key for key, ended in began.items() if not ended]

    def _entries(self, folder: str) -> Iterable[tuple[str, bytes]]:
        for name in self._files.children(folder):
            # The last line of a process that was killed may be a part of one.
            for line in self._files.read(f"{folder}/{name}").split(b"\n")[:-1]:
                key, _, text = line.partition(b" ")
                yield key.decode(), text

    def _append(self, line: str) -> None:
        writer, lines = _writers.get(self._run, ("", 0))
        if not writer.startswith(f"{os.getpid()}-") or lines >= LINES_PER_FILE:
            writer, lines = f"{os.getpid()}-{uuid.uuid4().hex}", 0
        _writers[self._run] = writer, lines + 1
        self._files.append(f"{self._run}/{writer}", line.encode())


_writers: dict[str, tuple[str, int]] = {}
"""Run -> the file that this process writes, and its number of lines: a log is sent to a process with every batch."""

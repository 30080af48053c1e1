"""What is kept of each trial: a line as soon as it ends, appended by the process that ran it.

`trials/<experiment>/<run>/<writer>` has lines of one process: a key, a space, and the trial's row as JSON. A key is
what the result of a trial depends on, so a trial whose key has a line need not be run again, in any run. A key with
nothing behind it says that the trial has begun. When the rows of a run are gathered, its files are put together:
`trials/<experiment>/<run>/compacted-<id>`. At all times each line is in some file; that it is in two does no harm.
"""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, SupportsIndex

from pydantic_core import from_json

from crucible_core.values.arguments import check_instance

__all__ = ["TRIALS", "FolderFiles", "LogFiles", "Row", "TrialLog", "TrialSettings", "settings_of"]

Row = dict[str, Any]

TRIALS = "trials"
LINES_PER_FILE = 1_000
"""An object store writes a file anew for each line, so a file with this many lines gets no more."""
COMPACTED = "compacted-"
COMPACTED_BYTES = 4 << 20
FEW = 8
"""Up to this many files of another run, which may still be going on, are left as they are."""


class LogFiles(Protocol):
    """What a log needs of a file system; names are relative to its base, with `/` between their parts."""

    def children(self, folder: str) -> Sequence[str]:
        """The names of the files and folders in the folder; nothing if there is none."""

    def read(self, name: str) -> bytes:
        """The bytes of a file."""

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file that this process alone writes."""

    def write(self, name: str, parts: Sequence[bytes]) -> None:
        """Write a new file."""

    def delete(self, name: str) -> None:
        """Remove the file if it is there."""


class TrialSettings(NamedTuple):
    """How the trials of a run are run and kept, besides what the experiment says."""

    jobs: int | None = None
    """Processes, instead of the experiment's `jobs`."""
    files: LogFiles | None = None
    """Where their rows are kept for later runs; by default, only for this one."""
    identify: Callable[[type], str | None] | None = None
    """A digest of the code of a stage, or None if it is not known; by default, of its module's source."""
    fresh: bool = False
    """Whether to run trials again that an earlier run has kept."""

    @property
    def folder(self) -> Path | None:
        """The folder that rows and checkpoints are kept in, if it is one of this machine."""
        return self.files.base if isinstance(self.files, FolderFiles) else None


def settings_of(jobs: int | None, keep: str | os.PathLike[str] | None) -> TrialSettings:
    """The settings of a run in this process, whose rows are kept in the folder `keep`.

    Raises WrongArgumentError if `jobs` is not a whole number, ValueError if it is below 1.
    """
    if jobs is not None:
        check_instance("jobs", jobs, SupportsIndex, "a number of processes")
        if jobs < 1:
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
        with self.open_to_append(name) as stream:
            before = stream.tell()
            left = memoryview(data)
            try:
                while left:
                    left = left[stream.write(left) :]
            except OSError:
                # An incomplete line would spoil the next one.
                stream.truncate(before)
                raise

    def open_to_append(self, name: str) -> io.FileIO:
        """The file, made with its folder if it is not there."""
        path = self.base / name
        try:
            return path.open("ab", buffering=0)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("ab", buffering=0)

    def write(self, name: str, parts: Sequence[bytes]) -> None:
        for part in parts:
            self.append(name, part)

    def delete(self, name: str) -> None:
        (self.base / name).unlink(missing_ok=True)


class TrialLog:
    """The trials of an experiment: those of this run are written, those of all its runs are read."""

    def __init__(self, files: LogFiles, experiment: str, run_id: str) -> None:
        self._files = files
        self._experiment = f"{TRIALS}/{experiment}"
        self._run = f"{self._experiment}/{run_id}"
        self._crowded: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return TrialLog, (self._files, self._experiment.partition("/")[2], self._run.rpartition("/")[2])

    def begin(self, key: str) -> None:
        """Say that a trial begins: if its process dies, this is the trial that it died of. Raises OSError."""
        self._append(f"{key} \n")

    def keep(self, key: str, row: Row) -> None:
        """Keep the row of a trial that ended. Raises OSError, or ValueError for a row that is not JSON."""
        self._append(f"{key} {json.dumps(row, separators=(',', ':'))}\n")

    def rows(self, keys: Iterable[str], *, fresh: bool = False) -> dict[str, Row | None]:
        """For each key, in order, the row that succeeded in any run, or failed in this one, or None. Raises OSError.

        Rows of another run have `reused: true`. With `fresh`, only rows of this run are found.
        """
        found: dict[str, Row | None] = dict.fromkeys(keys)
        runs = [f"{self._experiment}/{run}" for run in self._files.children(self._experiment)]
        for folder in [self._run] if fresh else runs:
            for key, text in self._entries(folder):
                if text and key in found and (found[key] or {}).get("status") != "succeeded":
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

    def compact(self) -> None:
        """Put the files of this run together, and the full files of other runs that were read. Raises OSError.

        For the process that gathers the rows of the run: it already has whatever others still append here.
        """
        for folder in {self._run, *self._crowded}:
            self._compact(folder)

    def _compact(self, folder: str) -> None:
        own = folder == self._run
        names = [name for name in self._files.children(folder) if not name.startswith(COMPACTED)]
        if len(names) <= (1 if own else FEW):
            return
        parts: list[bytes] = []
        merged = []

        def write() -> None:
            self._files.write(f"{folder}/{COMPACTED}{uuid.uuid4().hex}", parts)
            parts.clear()

        for name in names:
            try:
                data = self._files.read(f"{folder}/{name}")
            except FileNotFoundError:  # another run puts them together now
                continue
            lines = data[: data.rfind(b"\n") + 1]
            if own or lines.count(b"\n") >= LINES_PER_FILE:
                parts.append(lines)
                merged.append(name)
            if sum(map(len, parts)) >= COMPACTED_BYTES:
                write()
        if parts:
            write()
        if own:
            _writers.pop(self._run, None)
        for name in merged:
            self._files.delete(f"{folder}/{name}")

    def _entries(self, folder: str) -> Iterable[tuple[str, bytes]]:
        seen: set[str] = set()
        gone = True
        while gone:
            gone = False
            names = self._files.children(folder)
            if len(names) > FEW:
                self._crowded.add(folder)
            for name in names:
                if name in seen:
                    continue
                seen.add(name)
                try:
                    data = self._files.read(f"{folder}/{name}")
                except FileNotFoundError:  # its lines are now in a file that was not there when these were listed
                    gone = True
                    continue
                for line in io.BytesIO(data):
                    # The last line of a process that was killed may be a part of one.
                    if line.endswith(b"\n"):
                        key, _, text = line[:-1].partition(b" ")
                        yield key.decode(), text

    def _append(self, line: str) -> None:
        writer, lines = _writers.get(self._run, ("", 0))
        if not writer.startswith(f"{os.getpid()}-") or lines >= LINES_PER_FILE:
            writer, lines = f"{os.getpid()}-{uuid.uuid4().hex}", 0
        _writers[self._run] = writer, lines + 1
        self._files.append(f"{self._run}/{writer}", line.encode())


_writers: dict[str, tuple[str, int]] = {}
"""Run -> the file that this process writes, and its number of lines: a log is sent to a process with every batch."""

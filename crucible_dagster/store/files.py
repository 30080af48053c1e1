"""The bytes below the store's base: whole files that are written once, on a local disk or on any fsspec file system.

A name is relative to the base, with `/` between its parts. A file is written completely or not at all, even if the
process is killed; on a local disk it has reached the disk when `write` or `create` returns.
"""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple, Protocol, cast

from fsspec import AbstractFileSystem
from upath import UPath

from crucible_core import CrucibleError
from crucible_core.trials.log import FolderFiles

__all__ = ["FileInfo", "Files", "LocalFiles", "RemoteFiles", "maps", "open_files"]

TEMPORARY = ".writing-"
EXCLUSIVE = "exclusive"
"""The file of a remote store that is there since it was first seen that a file is created once."""

# Older files are written again: well before the garbage collection would consider them.
FRESH_SECONDS = 12 * 3600.0

BLOCK = 4 * 1024 * 1024
"""Bytes that are read at a time, where a file is not needed as a whole."""
MOST_GROWING = 8
"""Files on an object store whose bytes are remembered, because more may be appended to them."""

maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
"""Those that this process has: each holds a file open."""


class FileInfo(NamedTuple):
    """A file below the base."""

    name: str
    size: int
    modified: float
    """Seconds since the epoch."""


class Files(Protocol):
    """What the store needs of a file system."""

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

    def blocks(self, name: str) -> Iterator[bytes]:
        """The file's bytes, a few MB at a time. Raises FileNotFoundError."""

    def map(self, name: str) -> memoryview:
        """The file's bytes as memory that can be written to without changing the file. Raises FileNotFoundError."""

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write a file whose name determines its content: an existing one is as good."""

    def create(self, name: str, data: bytes) -> bool:
        """Write the file unless there is one: of several writers, one gets True."""

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file that this process alone writes."""

    def exists(self, name: str) -> bool:
        """Whether the file is there."""

    def list(self, folder: str) -> Iterator[FileInfo]:
        """Every file below the folder."""

    def children(self, folder: str) -> Sequence[str]:
        """The names of the files and folders in the folder, sorted; nothing if there is none."""

    def keep(self, name: str) -> int | None:
        """Give an existing file the time of now, and return its size; None if the file has to be written instead."""

    def modified(self, name: str) -> float | None:
        """When the file was written, in seconds since the epoch; None if it is not there."""

    def delete(self, name: str) -> None:
        """Remove the file if it is there."""


def open_files(base: UPath, mode: int | None = None) -> Files:
    """The files below `base`; `mode` is that of local ones, by default what the umask allows.

    Raises CrucibleError if its file system's package is missing.
    """
    try:
        if base.protocol in {"", "file", "local"}:
            return LocalFiles(Path(str(base.path)), mode)
        return RemoteFiles(base)
    except ImportError as error:
        raise CrucibleError(
            f"the context store {base} needs a package that is not installed: {error}"
            + ("; pip install 'crucible-dagster[s3]'" if base.protocol in {"s3", "s3a"} else "")
        ) from error


class LocalFiles(FolderFiles):
    """A folder on a local or mounted disk.

    Files have the `mode`, and folders can be searched by whoever may read files; without one, the umask decides.
    """

    def __init__(self, base: Path, mode: int | None = None) -> None:
        super().__init__(base)
        self.mode = mode

    def __repr__(self) -> str:
        return f"LocalFiles({str(self.base)!r})"

    def path(self, name: str) -> Path:
        return self.base / name

    def blocks(self, name: str) -> Iterator[bytes]:
        with self.path(name).open("rb") as stream:
            yield from iter(lambda: stream.read(BLOCK), b"")

    def map(self, name: str) -> memoryview:
        with self.path(name).open("rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:  # which cannot be mapped
                return memoryview(b"")
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        maps.add(mapped)
        return memoryview(mapped)

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        temporary = self._write_beside(name, parts)
        try:
            temporary.replace(self.path(name))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self.path(name).parent)

    def create(self, name: str, data: bytes) -> bool:
        temporary = self._write_beside(name, [data])
        try:
            # A link, because unlike a rename it does not replace what is there.
            os.link(temporary, self.path(name))
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
                raise
            # A file system without links: created exclusively, where a reader may see half of it and call it damaged.
            try:
                with self.path(name).open("xb") as stream:
                    stream.write(data)
            except FileExistsError:
                return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(self.path(name).parent)
        return True

    def open_to_append(self, name: str) -> io.FileIO:
        path = self.path(name)
        try:
            stream = path.open("ab", buffering=0)
        except FileNotFoundError:
            self._make_folder(path.parent)
            stream = path.open("ab", buffering=0)
        if self.mode is not None and stream.tell() == 0:
            os.fchmod(stream.fileno(), self.mode)
        return stream

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def list(self, folder: str) -> Iterator[FileInfo]:
        for path in sorted(self.path(folder).rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    status = path.stat()
                    yield FileInfo(path.relative_to(self.base).as_posix(), status.st_size, status.st_mtime)

    def keep(self, name: str) -> int | None:
        path = self.path(name)
        try:
            os.utime(path)
            return path.stat().st_size
        except (FileNotFoundError, PermissionError):  # or another user's, in a folder that both write to
            return None

    def modified(self, name: str) -> float | None:
        try:
            return self.path(name).stat().st_mtime
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        path = self.path(name)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder holds something else
            while path.parent != self.base:
                path = path.parent
                path.rmdir()

    def _write_beside(self, name: str, parts: Iterable[bytes | memoryview]) -> Path:
        folder = self.path(name).parent
        temporary = folder / f"{TEMPORARY}{token_hex(8)}"
        try:
            stream = temporary.open("xb")
        except FileNotFoundError:
            self._make_folder(folder)
            stream = temporary.open("xb")
        try:
            with stream:
                if self.mode is not None:
                    os.fchmod(stream.fileno(), self.mode)
                for part in parts:
                    stream.write(part)
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _make_folder(self, folder: Path) -> None:
        missing = [folder, *(parent for parent in folder.parents if not parent.exists())]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            if self.mode is not None and made.is_relative_to(self.base):
                # Search for whoever may read; and what a folder passes on to those below, as its group, stays.
                made.chmod(made.stat().st_mode & 0o7000 | self.mode | (self.mode & 0o444) >> 2)
            _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's new entries to the disk: without it, a file that was synced can be lost with its name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RemoteFiles:
    """A file system of fsspec that can write on condition: an object store, or memory.

    An object there appears whole when it is written, and `create` is a conditional write. That claims and results are
    written once rests on it, so a file system without it is refused when something is first to be created.
    """

    def __init__(self, base: UPath) -> None:
        self.base = base
        # A process that lives long, as Celery's, must see what others have written since it last looked.
        self._fs: Any = type(base.fs)(**{**base.storage_options, "use_listings_cache": False})
        self._written: dict[str, bytes] = {}
        self._is_exclusive = False

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFiles, (self.base,)

    def __repr__(self) -> str:
        return f"RemoteFiles({str(self.base)!r})"

    def path(self, name: str) -> str:
        return f"{self.base.path.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        return cast("bytes", self._fs.cat_file(self.path(name)))

    def blocks(self, name: str) -> Iterator[bytes]:
        with self._fs.open(self.path(name), "rb") as stream:
            yield from iter(lambda: cast("bytes", stream.read(BLOCK)), b"")

    def map(self, name: str) -> memoryview:
        return memoryview(bytearray(self.read(name)))

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        with self._fs.open(self.path(name), "wb") as stream:
            for part in parts:
                stream.write(part)

    def create(self, name: str, data: bytes) -> bool:
        if not self._is_exclusive:
            self._check_exclusive()
            self._is_exclusive = True
        return self._create(name, data)

    def _create(self, name: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def _check_exclusive(self) -> None:
        """Raises CrucibleError if two writers of one file may both be told that theirs counts."""
        fs = self._fs
        while getattr(fs, "fs", None) is not None:  # one that passes everything on to another
            fs = fs.fs
        if getattr(fs.pipe_file, "__func__", None) is AbstractFileSystem.pipe_file:
            why = f"{type(fs).__name__} looks whether a file is there and then writes it, as two writers may do at once"
        elif self._create(EXCLUSIVE, b"") and self._create(EXCLUSIVE, b""):
            why = "it has just created one file twice"
        else:
            return
        raise CrucibleError(
            f"the context store {self.base} cannot be written to: {why}, and results and claims of runs must be "
            "written once. Use a folder, or an object store with conditional writes, such as S3"
        )

    def append(self, name: str, data: bytes) -> None:
        # Objects cannot grow. What is appended to is small: the events of one stage, or a thousand trials.
        before = self._written.pop(name, None)
        if before is None:
            # Another of these may have begun it in this process: each batch of trials brings one.
            try:
                before = self.read(name)
            except FileNotFoundError:
                before = b""
        self._written[name] = before + data
        if len(self._written) > MOST_GROWING:
            del self._written[next(iter(self._written))]  # that was not written to for longest
        self._fs.pipe_file(self.path(name), before + data)

    def exists(self, name: str) -> bool:
        return bool(self._fs.exists(self.path(name)))

    def list(self, folder: str) -> Iterator[FileInfo]:
        base = self.path("").lstrip("/")
        with contextlib.suppress(FileNotFoundError):
            for path, info in sorted(self._fs.find(self.path(folder), detail=True).items()):
                yield FileInfo(path.lstrip("/").removeprefix(base), int(info["size"]), _modified(info))

    def children(self, folder: str) -> Sequence[str]:
        self._fs.invalidate_cache(self.path(folder))  # other processes write here
        try:
            found = self._fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def keep(self, name: str) -> int | None:
        # The time of an object is that of its last write, and cannot be set.
        try:
            info = self._fs.info(self.path(name))
        except FileNotFoundError:
            return None
        return int(info["size"]) if time.time() - _modified(info) < FRESH_SECONDS else None

    def modified(self, name: str) -> float | None:
        try:
            return _modified(self._fs.info(self.path(name)))
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        self._written.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self.path(name))


def _modified(info: dict[str, Any]) -> float:
    found: Any = info.get("LastModified") or info.get("created") or info.get("mtime")
    return float(found.timestamp() if hasattr(found, "timestamp") else found or 0)

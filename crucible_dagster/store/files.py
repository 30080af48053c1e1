"""The bytes below the store's base: whole files that are written once, on a local disk or on any fsspec file system.

A name is relative to the base, with `/` between its parts. A file is written completely or not at all, even if the
process is killed; on a local disk it has reached the disk when `write` or `create` returns.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from upath import UPath

from crucible_core import CrucibleError
from crucible_core.trials.log import FolderFiles

__all__ = ["FileInfo", "Files", "LocalFiles", "RemoteFiles", "maps", "open_files"]

TEMPORARY = ".writing-"

# Older files are written again: well before the garbage collection would consider them.
FRESH_SECONDS = 12 * 3600.0


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

    def map(self, name: str) -> memoryview:
        """The file's bytes as memory that can be written to without changing the file. Raises FileNotFoundError."""

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
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


def open_files(base: UPath) -> Files:
    """The files below `base`. Raises CrucibleError if its file system's package is missing."""
    try:
        if base.protocol in {"", "file", "local"}:
            return LocalFiles(Path(str(base.path)))
        return RemoteFiles(base)
    except ImportError as error:
        raise CrucibleError(
            f"the context store {base} needs a package that is not installed: {error}"
            + ("; pip install 'crucible-dagster[s3]'" if base.protocol in {"s3", "s3a"} else "")
        ) from error


class LocalFiles(FolderFiles):
    """A folder on a local or mounted disk."""

    def __repr__(self) -> str:
        return f"LocalFiles({str(self.base)!r})"

    def path(self, name: str) -> Path:
        return self.base / name

    def map(self, name: str) -> memoryview:
        with self.path(name).open("rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:  # which cannot be mapped
                return memoryview(b"")
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        maps.add(mapped)
        return memoryview(mapped)

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
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
        except FileNotFoundError:
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

    def _write_beside(self, name: str, parts: Sequence[bytes | memoryview]) -> Path:
        folder = self.path(name).parent
        try:
            handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
        except FileNotFoundError:
            _make_folder(folder)
            handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
        try:
            with os.fdopen(handle, "wb") as stream:
                for part in parts:
                    stream.write(part)
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return Path(temporary)


def _make_folder(folder: Path) -> None:
    missing = [folder, *(parent for parent in folder.parents if not parent.exists())]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's new entries to the disk: without it, a file that was synced can be lost with its name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RemoteFiles:
    """Any file system that fsspec knows: an object store, or memory.

    An object there appears whole when it is written, and `create` is a conditional write.
    """

    def __init__(self, base: UPath) -> None:
        self.base = base
        # A process that lives long, as Celery's, must see what others have written since it last looked.
        self._fs: Any = type(base.fs)(**{**base.storage_options, "use_listings_cache": False})
        self._written: dict[str, bytes] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFiles, (self.base,)

    def __repr__(self) -> str:
        return f"RemoteFiles({str(self.base)!r})"

    def path(self, name: str) -> str:
        return f"{self.base.path.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        return cast("bytes", self._fs.cat_file(self.path(name)))

    def map(self, name: str) -> memoryview:
        return memoryview(bytearray(self.read(name)))

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        with self._fs.open(self.path(name), "wb") as stream:
            for part in parts:
                stream.write(part)

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def append(self, name: str, data: bytes) -> None:
        # Objects cannot grow. What is appended to is small: the events of one stage, or rows of trials.
        if name not in self._written:
            # This process may have begun it with another of these: each batch of trials brings one.
            try:
                self._written[name] = self.read(name)
            except FileNotFoundError:
                self._written[name] = b""
        self._written[name] += data
        self._fs.pipe_file(self.path(name), self._written[name])

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

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
"""A file in a remote store; it exists once it was checked that a file there can be created only once."""

# Older files are written again: well before the garbage collection would consider them.
FRESH_SECONDS = 12 * 3600.0

BLOCK = 4 * 1024 * 1024
"""Bytes to read at a time, if a file is not needed as a whole."""
MOST_GROWING = 8
"""How many growing files on an object store are held in memory, because more may be appended to them."""

maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
"""The memory maps of this process; each of them holds a file open."""


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
        """Write a file whose name determines its content, so that an existing file may stay."""

    def create(self, name: str, data: bytes) -> bool:
        """Write the file unless it exists. If there are several writers, exactly one gets True."""

    def append(self, name: str, data: bytes) -> None:
        """Append to a file that only this process writes."""

    def exists(self, name: str) -> bool:
        """Whether the file is there."""

    def list(self, folder: str) -> Iterator[FileInfo]:
        """Every file below the folder."""

    def children(self, folder: str) -> Sequence[str]:
        """The sorted names of the files and folders in the folder; empty if it does not exist."""

    def keep(self, name: str) -> int | None:
        """Set an existing file's time to now, and return its size; None if the file has to be written instead."""

    def modified(self, name: str) -> float | None:
        """When the file was written, in seconds since the epoch; None if it is not there."""

    def delete(self, name: str) -> None:
        """Remove the file if it is there."""


def open_files(base: UPath, mode: int | None = None) -> Files:
    """The files below `base`; `mode` is the mode of local files, by default what the umask allows.

    Raises CrucibleError if the package for the file system is missing.
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

    Files have the mode `mode`, and everyone who may read files may also enter folders. Without it, the umask decides.
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
            # A link, because unlike a rename it does not replace an existing file.
            os.link(temporary, self.path(name))
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
                raise
            # No links here, so the file is created exclusively; a reader may see half of it and call it damaged.
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
        except (FileNotFoundError, PermissionError):  # or another user owns it, in a folder that both write to
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
                # Everyone who may read may enter; setgid, setuid and sticky bits stay.
                made.chmod(made.stat().st_mode & 0o7000 | self.mode | (self.mode & 0o444) >> 2)
            _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    """Sync a folder's new entries to the disk: otherwise a file that was synced can still lose its name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RemoteFiles:
    """A file system of fsspec that has conditional writes: an object store, or memory.

    An object appears there only when it is complete, and `create` is a conditional write. It ensures that claims and
    results are written once. So a file system without it is refused when the first file is to be created.
    """

    def __init__(self, base: UPath) -> None:
        self.base = base
        # A long-lived process, such as a Celery worker, must see what others have written since it last looked.
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
        """Raises CrucibleError if two writers of a file could both be told that they created it."""
        fs = self._fs
        while getattr(fs, "fs", None) is not None:  # a wrapper of another file system
            fs = fs.fs
        if getattr(fs.pipe_file, "__func__", None) is AbstractFileSystem.pipe_file:
            why = f"{type(fs).__name__} checks whether a file exists and then writes it, so two writers can both do so"
        elif self._create(EXCLUSIVE, b"") and self._create(EXCLUSIVE, b""):
            why = "it has just created one file twice"
        else:
            return
        raise CrucibleError(
            f"the context store {self.base} cannot be written to: {why}, and results and claims of runs must be "
            "written once. Use a folder, or an object store with conditional writes, such as S3"
        )

    def append(self, name: str, data: bytes) -> None:
        # Objects cannot grow. Files that are appended to are small: the events of one stage, or a thousand trials.
        before = self._written.pop(name, None)
        if before is None:
            # Another instance in this process may have begun the file: each batch of trials has its own.
            try:
                before = self.read(name)
            except FileNotFoundError:
                before = b""
        self._written[name] = before + data
        if len(self._written) > MOST_GROWING:
            del self._written[next(iter(self._written))]  # the one whose last write was longest ago
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

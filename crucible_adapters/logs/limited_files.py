"""Reading files from sources that are not trusted: unpacking stops at a limit, and every error is one sentence."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from crucible_adapters.logs.records import MEGABYTE, LogError

__all__ = ["Archive", "parse", "read_all", "read_lines"]

ZSTANDARD = 93  # the number of this compression method in a zip file
LOCAL_HEADER = 30
WINDOW = 2**27


def read_all(path: Path, max_megabytes: int) -> bytes:
    """The file's bytes.

    Raises LogError if it has more than the limit, or cannot be read.
    """
    limit = max_megabytes * MEGABYTE
    try:
        with path.open("rb") as file:
            held = file.read(limit + 1)
    except OSError as error:
        raise LogError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(held) > limit:
        raise _too_large(path, max_megabytes)
    return held


def read_lines(path: Path, max_megabytes: int) -> Iterator[tuple[int, bytes]]:
    """The number, from 1, of each line that is not blank, and the line.

    Raises LogError as `read_all` does; a line longer than the limit is never held in memory.
    """
    left = max_megabytes * MEGABYTE
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(left + 1):
                number += 1
                left -= len(line)
                if left < 0:
                    raise _too_large(path, max_megabytes)
                if line.strip():
                    yield number, line
    except OSError as error:
        raise LogError(f"{path} cannot be read: {error.strerror or error}") from error


def parse(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object.

    Raises LogError if it is anything else.
    """
    try:
        held = json.loads(text)
    except RecursionError:
        raise LogError(f"{where} is nested too deeply") from None
    except ValueError as error:
        raise LogError(f"{where} is not JSON: {error!s:.200}") from None
    if not isinstance(held, dict):
        raise LogError(f"{where} is not a JSON object; it is {held!r:.80}")
    return held


class Archive:
    """A zip file whose entries are unpacked one at a time, together no more than the limit."""

    def __init__(self, path: Path, file: IO[bytes], max_megabytes: int) -> None:
        """Raises LogError if the file is not a zip file."""
        self._path = path
        self._file = file
        self._max_megabytes = max_megabytes
        self._left = max_megabytes * MEGABYTE
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
            raise LogError(f"{path} is not a zip file, or is cut off: {error}") from error

    @property
    def names(self) -> list[str]:
        """The names of the entries, in order; if several share a name, the last one counts."""
        return list(self._zip.NameToInfo)

    def read(self, name: str) -> dict[str, Any]:
        """The JSON object of one entry.

        Raises LogError if it is damaged, not JSON, or larger than what is left of the limit.
        """
        where = f"{self._path}: {name}"
        info = self._zip.NameToInfo[name]
        try:
            held = self._unpacked(info)
        except _FAILURES as error:
            raise LogError(f"{where} is damaged: {error}") from error
        if len(held) > self._left:
            raise _too_large(self._path, self._max_megabytes)
        self._left -= len(held)
        return parse(held, where)

    def _unpacked(self, info: zipfile.ZipInfo) -> bytes:
        """The whole entry; if it is larger than what is left of the limit, only a little more than that."""
        if info.compress_type == ZSTANDARD and not hasattr(zipfile, "ZIP_ZSTANDARD"):  # Python 3.14 and later have it
            return self._unpacked_by_zstandard(info)
        with self._zip.open(info) as entry:
            return entry.read(self._left + 1)

    def _unpacked_by_zstandard(self, info: zipfile.ZipInfo) -> bytes:
        try:
            import zstandard  # noqa: PLC0415  # an extra
        except ImportError:
            raise LogError(
                f"{self._path} is compressed with Zstandard, which needs the extra 'inspect': pip install "
                "'crucible-dagster[inspect]'"
            ) from None
        self._file.seek(info.header_offset)
        header = self._file.read(LOCAL_HEADER)
        name, extra = struct.unpack("<HH", header[LOCAL_HEADER - 4 :])
        self._file.seek(name + extra, 1)
        packed = self._file.read(min(info.compress_size, self._left))
        unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        try:
            with unpacker.stream_reader(packed, read_across_frames=True) as entry:
                held: bytes = entry.read(min(info.file_size, self._left) + 1)
        except zstandard.ZstdError as error:
            raise zipfile.BadZipFile(str(error)) from error
        if len(held) <= self._left and (len(held) != info.file_size or zlib.crc32(held) != info.CRC):
            raise zipfile.BadZipFile("its content is not what its checksum says")
        return held


_FAILURES = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    struct.error,
    NotImplementedError,
    RuntimeError,  # encrypted
    ValueError,
)


def _too_large(path: Path, max_megabytes: int) -> LogError:
    return LogError(f"{path} holds more than {max_megabytes} MB; `max_megabytes` allows more")

"""What all trials begin with: pickled once, and read anew by each of them, in whichever process."""

from __future__ import annotations

import hashlib
import mmap
import pickle
from pathlib import Path
from typing import Any

__all__ = ["SharedValue", "digest_of", "pickled"]

ALIGNMENT = 64
"""In bytes: mapped arrays are aligned like those in memory."""


class SharedValue:
    """A value in a file. Each `load` makes it anew; arrays are mapped, and are copied only where they are changed."""

    def __init__(self, path: Path, header: bytes, places: tuple[tuple[int, int], ...]) -> None:
        self._path = path
        self._header = header
        self._places = places

    def load(self) -> Any:
        """The value, for one trial: what the trial changes in place stays its own. Raises OSError."""
        if not self._places:
            return pickle.loads(self._header)  # noqa: S301  # pickled by this run
        with self._path.open("rb") as stream:
            mapped = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
        buffers = [mapped[start : start + size] for start, size in self._places]
        return pickle.loads(self._header, buffers=buffers)  # noqa: S301  # pickled by this run


def pickled(value: Any, path: Path | None) -> SharedValue:
    """The value as a SharedValue, its arrays written to `path`; without one, for other machines, it holds them too.

    Raises whatever pickling it raises.
    """
    if path is None:
        return SharedValue(Path(), pickle.dumps(value, protocol=5), ())
    header, buffers = _pickle(value)
    places = []
    if buffers:
        with path.open("wb") as stream:
            for buffer in buffers:
                stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
                places.append((stream.tell(), buffer.nbytes))
                stream.write(buffer)
            stream.write(b"\0")  # an empty file cannot be mapped
    return SharedValue(path, header, tuple(places))


def digest_of(value: Any) -> str:
    """A digest of the value's pickle. Raises whatever pickling it raises."""
    header, buffers = _pickle(value)
    digest = hashlib.sha256(header)
    for buffer in buffers:
        digest.update(buffer)
    return digest.hexdigest()


def _pickle(value: Any) -> tuple[bytes, list[memoryview]]:
    buffers: list[pickle.PickleBuffer] = []
    header = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return header, [buffer.raw() for buffer in buffers]

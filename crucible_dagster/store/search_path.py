"""Where modules are looked for while a stored value is read."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["modules_beside"]

_lock = threading.Lock()
_reading: dict[str, int] = {}
"""Folder that was added here -> how many values are read with it now."""


@contextlib.contextmanager
def modules_beside(folder: Path | None) -> Iterator[None]:
    """Also look in this folder, and last, as where the run took place; afterwards no more."""
    if folder is None:
        yield
        return
    name = str(folder)
    with _lock:
        ours = name in _reading or name not in sys.path
        if ours:
            if name not in _reading:
                sys.path.append(name)
            _reading[name] = _reading.get(name, 0) + 1
    try:
        yield
    finally:
        if ours:
            with _lock:
                _reading[name] -= 1
                if not _reading[name]:
                    del _reading[name]
                    with contextlib.suppress(ValueError):  # what was read has removed it
                        sys.path.remove(name)

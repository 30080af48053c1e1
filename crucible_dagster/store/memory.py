"""Digests of memory, and which memory still holds the bytes of an object.

An object that is mapped may be written to: the change stays in this process. Whether that happened, the kernel knows
page by page, so that a large array that a stage only looked at need not be read again to see that it is unchanged.
"""

from __future__ import annotations

import hashlib
import mmap
import sys
import weakref
from pathlib import Path

__all__ = ["digest_of", "remember_mapping"]

PAGE = mmap.PAGESIZE
PAGEMAP = Path("/proc/self/pagemap")
PRESENT, SWAPPED, UNCHANGED = 1 << 63, 1 << 62, 1 << 61  # linux: Documentation/admin-guide/mm/pagemap.rst

# Address -> the map that begins there, its length, and the digest of what was mapped.
_mappings: dict[int, tuple[weakref.ref[mmap.mmap], int, str]] = {}


def digest_of(block: bytes | memoryview) -> str:
    """The SHA-256 of the bytes, in hexadecimal."""
    known = _digest_of_mapped(block) if isinstance(block, memoryview) and _mappings else None
    return known or hashlib.sha256(block).hexdigest()


def remember_mapping(block: memoryview, digest: str) -> None:
    """Say that this memory is a map (private, copy on write) of bytes with this digest."""
    mapped = block.obj
    address = _address(block)
    if address is None or not isinstance(mapped, mmap.mmap):
        return
    _mappings[address] = (weakref.ref(mapped, lambda gone: _forget(address, gone)), block.nbytes, digest)


def _forget(address: int, gone: weakref.ref[mmap.mmap]) -> None:
    if address in _mappings and _mappings[address][0] is gone:
        del _mappings[address]


def _digest_of_mapped(block: memoryview) -> str | None:
    address = _address(block)
    found = _mappings.get(address) if address is not None else None
    if address is None or found is None or found[0]() is None or found[1] != block.nbytes:
        return None
    return found[2] if _is_unchanged(address, block.nbytes) else None


def _address(block: memoryview) -> int | None:
    # Large blocks of memory are numpy's, or nobody asks for their address.
    numpy = sys.modules.get("numpy")
    return int(numpy.frombuffer(block, dtype=numpy.uint8).ctypes.data) if numpy is not None and block.nbytes else None


def _is_unchanged(address: int, size: int) -> bool:
    """Whether no page of a private map was written to; False where the kernel does not say."""
    numpy = sys.modules["numpy"]
    first, last = address // PAGE, (address + size - 1) // PAGE
    try:
        with PAGEMAP.open("rb", buffering=0) as pages:
            pages.seek(first * 8)
            raw = pages.read((last - first + 1) * 8)
    except OSError:
        return False
    if len(raw) != (last - first + 1) * 8:
        return False
    state = numpy.frombuffer(raw, dtype=numpy.uint64)
    here = (state & numpy.uint64(PRESENT)) != 0
    own = (state & numpy.uint64(UNCHANGED)) == 0
    away = (state & numpy.uint64(SWAPPED)) != 0
    return not bool((away | (here & own)).any())

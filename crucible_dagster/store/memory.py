"""Digests of memory, and which memory still holds the bytes of an object.

Objects are named by their SHA-256. Whether a large block of memory, or file, is still what it was is asked far more
often than what its name is, and XXH3 answers that in a tenth of the time; against damage, not against malice.

An object that is mapped may be written to: the change stays in this process. Whether that happened, the kernel knows
page by page, so that a large array that a stage only looked at need not be read again to see that it is unchanged.
"""

from __future__ import annotations

import hashlib
import mmap
import sys
import weakref
from pathlib import Path
from typing import NamedTuple

import xxhash

__all__ = ["Digests", "checksum", "count_mappings", "digests_of", "remember_mapping"]

PAGE = mmap.PAGESIZE
PAGEMAP = Path("/proc/self/pagemap")
PRESENT, SWAPPED, UNCHANGED = 1 << 63, 1 << 62, 1 << 61  # linux: Documentation/admin-guide/mm/pagemap.rst
MAX_KNOWN = 256


class Digests(NamedTuple):
    """Of some bytes, both in hexadecimal."""

    sha256: str
    checksum: str
    """XXH3, 128 bits."""


# Address -> the map that begins there, its length, and the digests of what was mapped.
_mappings: dict[int, tuple[weakref.ref[mmap.mmap], int, Digests]] = {}
# Length and checksum of memory that was digested before -> its SHA-256.
_known: dict[tuple[int, str], str] = {}


def digests_of(block: memoryview) -> Digests:
    """The digests of the bytes in a large block of memory."""
    if _mappings and (found := _digests_of_mapped(block)) is not None:
        return found
    key = (block.nbytes, checksum(block))
    if key not in _known:
        while len(_known) >= MAX_KNOWN:
            del _known[next(iter(_known))]
        _known[key] = hashlib.sha256(block).hexdigest()
    return Digests(_known[key], key[1])


def count_mappings() -> int:
    """How many maps there are now."""
    return len(_mappings)


def checksum(block: bytes | memoryview) -> str:
    return xxhash.xxh3_128(block).hexdigest()


def remember_mapping(block: memoryview, digests: Digests) -> None:
    """Say that this memory is a map (private, copy on write) of bytes with these digests."""
    mapped = block.obj
    address = _address(block)
    if address is None or not isinstance(mapped, mmap.mmap):
        return
    _mappings[address] = (weakref.ref(mapped, lambda gone: _forget(address, gone)), block.nbytes, digests)


def _forget(address: int, gone: weakref.ref[mmap.mmap]) -> None:
    if address in _mappings and _mappings[address][0] is gone:
        del _mappings[address]


def _digests_of_mapped(block: memoryview) -> Digests | None:
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

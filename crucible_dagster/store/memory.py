"""Digests of large blocks of memory.

Objects are named by their SHA-256. But whether a large block of memory has changed is checked far more often than its
name is needed. XXH3 does that in a tenth of the time; it protects against damage, not against malice.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import xxhash

__all__ = ["Digests", "checksum", "digests_of", "remember"]

MAX_KNOWN = 256


class Digests(NamedTuple):
    """Two digests of some bytes, both in hexadecimal."""

    sha256: str
    checksum: str
    """XXH3, 128 bits."""


# Length and checksum of memory that was digested or read before -> its SHA-256.
_known: dict[tuple[int, str], str] = {}


def digests_of(block: memoryview) -> Digests:
    """The digests of the bytes in a large block of memory."""
    found = checksum(block)
    if (block.nbytes, found) not in _known:
        remember(block.nbytes, Digests(hashlib.sha256(block).hexdigest(), found))
    return Digests(_known[block.nbytes, found], found)


def remember(size: int, digests: Digests) -> None:
    """Remember the digests of some bytes of this size; the next `digests_of` them need not compute the SHA-256."""
    while len(_known) >= MAX_KNOWN:
        del _known[next(iter(_known))]
    _known[size, digests.checksum] = digests.sha256


def checksum(block: bytes | memoryview) -> str:
    return xxhash.xxh3_128(block).hexdigest()

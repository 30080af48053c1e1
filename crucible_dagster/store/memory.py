"""Digests of large blocks of memory.

Objects are named by their SHA-256. Whether a large block of memory is still what it was is asked far more often than
what its name is, and XXH3 answers that in a tenth of the time; against damage, not against malice.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import xxhash

__all__ = ["Digests", "checksum", "digests_of", "remember"]

MAX_KNOWN = 256


class Digests(NamedTuple):
    """Of some bytes, both in hexadecimal."""

    sha256: str
    checksum: str
    """XXH3, 128 bits."""


# Length and checksum of memory that was digested, or read, before -> its SHA-256.
_known: dict[tuple[int, str], str] = {}


def digests_of(block: memoryview) -> Digests:
    """The digests of the bytes in a large block of memory."""
    found = checksum(block)
    if (block.nbytes, found) not in _known:
        remember(block.nbytes, Digests(hashlib.sha256(block).hexdigest(), found))
    return Digests(_known[block.nbytes, found], found)


def remember(size: int, digests: Digests) -> None:
    """Say that some bytes of this size have these digests: the next `digests_of` them needs no SHA-256."""
    while len(_known) >= MAX_KNOWN:
        del _known[next(iter(_known))]
    _known[size, digests.checksum] = digests.sha256


def checksum(block: bytes | memoryview) -> str:
    return xxhash.xxh3_128(block).hexdigest()

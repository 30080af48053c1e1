"""Immutable objects, named by the digest of their bytes, and values made of them."""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from crucible_core.values.jsonable import safe_text, type_name
from crucible_dagster.store.codec import Encoded, classes_in_pickle, decode, encode
from crucible_dagster.store.errors import StoreError
from crucible_dagster.store.files import Files, LocalFiles, maps
from crucible_dagster.store.memory import Digests, checksum, digests_of, remember

__all__ = ["FOLDER", "ObjectStore", "Ref", "digest_in", "object_name", "objects_in"]

FOLDER = "objects"
# A value up to this many bytes is kept in the manifest itself.
MAX_INLINE = 1024
# A buffer of at least this many bytes is mapped instead of read.
MIN_MAPPED = 256 * 1024
# Each map holds a file open.
MAX_MAPPED = 256
MAX_RECENT = 64


class Ref(NamedTuple):
    """Where a value is kept: two values with equal refs are equal.

    `head` is either `text:` or `base64:` with the bytes themselves, or `sha256:<digest>:<size>` of an object. `buffers`
    are `sha256:<digest>:<size>:<checksum>`; for read-only memory they end in `:r`.
    """

    codec: str
    head: str
    buffers: tuple[str, ...] = ()
    type: str = ""
    """The value's type, for messages; only set for the codec pickle."""

    def to_json(self) -> list[Any]:
        full: list[Any] = [self.codec, self.head, list(self.buffers), self.type]
        while len(full) > 2 and not full[-1]:
            del full[-1]
        return full

    @classmethod
    def from_json(cls, items: list[Any]) -> Ref:
        codec, head, *rest = items
        return cls(codec, head, tuple(rest[0]) if rest else (), rest[1] if len(rest) > 1 else "")

    @property
    def digest(self) -> str:
        """One digest for the whole value."""
        return hashlib.sha256("\n".join((self.codec, self.head, *self.buffers)).encode()).hexdigest()

    @property
    def objects(self) -> Iterator[tuple[str, int]]:
        """Digest and size of each object that the value is made of."""
        return objects_in((self.head, *self.buffers))


def objects_in(blobs: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Digest and size of each object among the blobs."""
    for blob in blobs:
        if blob.startswith("sha256:"):
            _, digest, size, *_ = blob.split(":")
            yield digest, int(size)


def object_name(digest: str) -> str:
    return f"{FOLDER}/{digest[:2]}/{digest[2:]}"


def digest_in(name: str) -> str:
    """The digest from which `object_name` made the name."""
    return name.removeprefix(f"{FOLDER}/").replace("/", "")


class ObjectStore:
    """Writes values as objects, and reads them back."""

    def __init__(self, files: Files, *, allow_pickle: bool = True) -> None:
        self.files = files
        self.allow_pickle = allow_pickle
        self._folder: Path | None = None
        self._verified: set[str] = set()
        self._written: set[str] = set()
        self._repaired: list[str] = []
        self._classes: dict[str, frozenset[tuple[str, str]]] = {}
        self._recent: dict[str, bytes] = {}

    def beside(self, folder: Path | None) -> ObjectStore:
        """The same store; the classes of what it reads are also looked for in this folder."""
        there = copy.copy(self)
        there._folder = folder
        return there

    # --- values ---

    def ref(self, value: Any, where: str) -> tuple[Ref, Encoded]:
        """Where the value is kept, or would be after writing it. `where` names the value in errors.

        Raises StoreError for a value that cannot be stored.
        """
        try:
            encoded = encode(value)
        except Exception as error:
            raise StoreError(_unstorable(value, where, error)) from error
        if len(encoded.head) <= MAX_INLINE:
            head = _inline(encoded.head)
        else:
            head = f"sha256:{hashlib.sha256(encoded.head).hexdigest()}:{len(encoded.head)}"
        buffers = tuple(map(_described, encoded.buffers))
        kind = type_name(value) if encoded.codec == "pickle" else ""
        return Ref(encoded.codec, head, buffers, kind), encoded

    def write(self, ref: Ref, encoded: Encoded, where: str) -> None:
        """Write what `ref` returned. Raises OSError, and StoreError for a pickle if reading pickles is switched off."""
        if ref.codec == "pickle" and not self.allow_pickle:
            raise _refused(ref, where)
        blocks: list[bytes | memoryview] = [encoded.head, *encoded.buffers]
        for blob, block in zip((ref.head, *ref.buffers), blocks, strict=True):
            if blob.startswith("sha256:"):
                self._put(blob.split(":")[1], block)

    def put(self, value: Any, where: str) -> Ref:
        """Write a value. Raises StoreError if it cannot be stored, and OSError."""
        ref, encoded = self.ref(value, where)
        self.write(ref, encoded, where)
        return ref

    def get(self, ref: Ref, where: str) -> Any:
        """Read a value back. Raises StoreError, which names the object, if it is damaged, missing or refused."""
        if ref.codec == "pickle" and not self.allow_pickle:
            raise _refused(ref, where)
        head = self._head(ref.head, where)
        blocks = [self._buffer(blob, where) for blob in ref.buffers]
        try:
            return decode(ref.codec, head, blocks, self._folder)
        except Exception as error:
            kind = f"a {ref.type}" if ref.type else f"a value ({ref.codec})"
            raise StoreError(
                f"{where}, {kind}, cannot be restored from the context store: {type(error).__name__}: {error}"
                + ("; was its class moved or changed since it was stored?" if ref.codec == "pickle" else "")
            ) from error

    def classes_in(self, ref: Ref, where: str) -> frozenset[tuple[str, str]]:
        """Module and name of each class and function that a pickled value refers to, without unpickling it.

        Raises StoreError, and whatever `classes_in_pickle` raises.
        """
        if ref.head not in self._classes:
            self._classes[ref.head] = classes_in_pickle(self._head(ref.head, where))
        return self._classes[ref.head]

    # --- bytes ---

    def put_bytes(self, data: bytes) -> str:
        """Write bytes. Returns the blob that `get_bytes` reads. Raises OSError."""
        digest = hashlib.sha256(data).hexdigest()
        self._put(digest, data)
        return f"sha256:{digest}:{len(data)}"

    def get_bytes(self, blob: str, where: str) -> bytes:
        """The bytes of a blob. Raises StoreError if they are missing or damaged."""
        # Kept, because the next step's manifest begins with the contents of this one's.
        if blob not in self._recent:
            self._recent[blob] = self._head(blob, where)
            while len(self._recent) > MAX_RECENT:
                del self._recent[next(iter(self._recent))]
        return self._recent[blob]

    def check(self, ref: Ref, where: str) -> None:
        """Read the bytes of a value without decoding it. Raises StoreError if some are missing or damaged."""
        self._head(ref.head, where)
        for blob in ref.buffers:
            self._buffer(blob, where)

    def repaired(self) -> list[str]:
        """The objects that were found damaged and written again since the last call, one sentence each."""
        found, self._repaired[:] = list(self._repaired), []
        return found

    def _put(self, digest: str, block: bytes | memoryview) -> None:
        name = object_name(digest)
        # An existing object may be old and unreferenced; the garbage collection must see that it is in use again.
        size = self.files.keep(name)
        # Compared once per store object, and so once per run: a file damaged on disk must not stay for ever.
        if size is not None and digest not in self._written and not self._holds(name, block):
            self._repaired.append(f"{name} in the context store was damaged and has been written again")
            size = None
        if size is None:
            self.files.write(name, [block])
        self._written.add(digest)

    def _holds(self, name: str, block: bytes | memoryview) -> bool:
        """Whether an object has these bytes."""
        expected, position = memoryview(block), 0
        try:
            for part in self.files.blocks(name):
                # A bytearray compares a whole block of memory at once, a memoryview byte by byte.
                if bytearray(part) != expected[position : position + len(part)]:
                    return False
                position += len(part)
        except OSError:
            return False
        return position == expected.nbytes

    def _head(self, blob: str, where: str) -> bytes:
        kind, _, content = blob.partition(":")
        if kind == "text":
            return content.encode()
        if kind == "base64":
            return base64.b64decode(content)
        digest, size, *_ = content.split(":")
        name = object_name(digest)
        try:
            data = self.files.read(name)
        except FileNotFoundError:
            raise _missing(name, where) from None
        except OSError as error:
            raise _unreadable(name, where, error) from error
        if len(data) != int(size) or hashlib.sha256(data).hexdigest() != digest:
            raise _damaged(name, where, len(data), int(size))
        return data

    def _buffer(self, blob: str, where: str) -> memoryview:
        _, digest, size, expected, *_ = blob.split(":")
        name = object_name(digest)
        try:
            if isinstance(self.files, LocalFiles) and int(size) >= MIN_MAPPED and len(maps) < MAX_MAPPED:
                block = self.files.map(name)
            else:
                block = memoryview(bytearray(self.files.read(name)))
        except FileNotFoundError:
            raise _missing(name, where) from None
        except OSError as error:
            raise _unreadable(name, where, error) from error
        # Checked through the map: the stage that needs the value is about to read the same pages anyway.
        if block.nbytes != int(size) or (digest not in self._verified and checksum(block) != expected):
            raise _damaged(name, where, block.nbytes, int(size))
        self._verified.add(digest)
        remember(block.nbytes, Digests(digest, expected))
        return block.toreadonly() if blob.endswith(":r") else block

    def verify(self, digest: str) -> str | None:
        """What is wrong with an object, or None."""
        name = object_name(digest)
        hashed, found = hashlib.sha256(), 0
        try:
            for part in self.files.blocks(name):
                hashed.update(part)
                found += len(part)
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error}"
        if hashed.hexdigest() != digest:
            return f"{name} is damaged: the file ({found:,} bytes) was changed or cut off after it was written"
        return None


def _described(block: memoryview) -> str:
    digest, checked = digests_of(block)
    return f"sha256:{digest}:{block.nbytes}:{checked}{':r' if block.readonly else ''}"


def _inline(data: bytes) -> str:
    try:
        return f"text:{data.decode()}"
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(data).decode()}"


def _refused(ref: Ref, where: str) -> StoreError:
    return StoreError(
        f"{where} is a {ref.type}, which is kept as a pickle, and reading pickles is switched off "
        "(CRUCIBLE_ALLOW_PICKLE=false): a pickle can run any code where it is read. Keep such values in files of a "
        "format of your own, and their paths in the Context"
    )


def _missing(name: str, where: str) -> StoreError:
    return StoreError(
        f"{where} cannot be read: {name} is missing from the context store; was it removed by hand, or the store moved "
        "without it? `crucible store verify` lists what is missing"
    )


def _damaged(name: str, where: str, found: int, size: int) -> StoreError:
    difference = f"it has {found:,} bytes and was written with {size:,}" if found != size else "its bytes were altered"
    return StoreError(
        f"{where} cannot be read: {name} in the context store is damaged: {difference}. Run the stage that made it "
        "again (`--fresh`): it writes the file anew"
    )


def _unreadable(name: str, where: str, error: OSError) -> StoreError:
    return StoreError(f"{where} cannot be read: {name} in the context store: {error.strerror or error}")


def _unstorable(value: Any, where: str, error: Exception) -> str:
    return safe_text(
        f"{where} is a {type_name(value)}, which cannot be stored: {type(error).__name__}: {error}. What passes from "
        "one stage to the next must be data: keep what it is made of and make it again where it is needed; a client or "
        "a connection is declared under `resources:`"
    )

"""The parts of a Context that come from the store: each value is read when a stage first looks at it. Everything that
a stage looks at is noted, because its result depends on that.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from crucible_core import Context
from crucible_core.ir.resources import PlannedResource
from crucible_core.run_state.resources import resources_of
from crucible_core.run_state.spending import SPENT
from crucible_core.values.immutable import PersistentDict, PersistentList
from crucible_dagster.store.codec import exact_digest
from crucible_dagster.store.objects import ObjectStore, Ref

__all__ = [
    "PARTS",
    "Cell",
    "Chunk",
    "Read",
    "Reads",
    "StoredDict",
    "StoredList",
    "changed_names",
    "detached",
    "digest_of_read",
    "entries_of",
    "tracked",
    "untracked",
]

PARTS = ("assigns", "metrics", "artifacts")

_UNREAD = object()


class Cell:
    """A value in the store: read once, and kept together with a reference to its state at that time.

    If two keys hold the same object, they hold the same cell.
    """

    __slots__ = ("_lock", "_objects", "_value", "baseline", "exact", "ref", "shared", "where")

    def __init__(self, objects: ObjectStore, ref: Ref, where: str, value: Any = _UNREAD, baseline: Ref | None = None):
        self._objects = objects
        self._lock = threading.RLock()  # so that all threads of a stage get the same object
        self._value = value
        self.exact: bytes | None = None
        """Digest of the value in memory, if that is cheaper than the digest of its text."""
        self.ref = ref
        self.where = where
        self.baseline = baseline
        self.shared: str | None = None
        """A mark in the manifest, the same for all entries that are the same object."""

    @property
    def is_read(self) -> bool:
        return self._value is not _UNREAD

    @property
    def value(self) -> Any:
        with self._lock:
            if self._value is _UNREAD:
                value = self._objects.get(self.ref, self.where)
                # Pickling an unpickled value gives other bytes than those in the store, but the same ones each time.
                self.baseline = self._objects.ref(value, self.where)[0] if self.ref.codec == "pickle" else self.ref
                self.exact = exact_digest(value) if self.ref.codec == "json" else None
                self._value = value
            return self._value

    def read_again(self) -> None:
        """Forget the value in memory with all changes to it; the next access reads it from the store."""
        with self._lock:
            self._value, self.baseline, self.exact = _UNREAD, None, None

    def unread(self) -> Cell:
        """The value as it is stored, without changes made in memory."""
        again = Cell(self._objects, self.ref, self.where)
        again.shared = self.shared
        return again

    def stored_again(self, objects: ObjectStore, where: str) -> Cell:
        """A cell for the next stage: the same reference, or another if the value was changed in place (`where`).

        Every value in memory is compared, even one that was not read through the Context: a stage may have reached it
        through another value that contains it.
        """
        again = Cell(objects, self.ref, self.where, self._value, self.baseline)
        again.shared, again.exact = self.shared, self.exact
        if self.is_read and (self.exact is None or exact_digest(self._value) != self.exact):
            ref, encoded = objects.ref(self._value, where)
            again.exact = encoded.exact
            if ref != self.baseline:
                objects.write(ref, encoded, where)
                again.ref = again.baseline = ref
                again.where = where
        return again


Read = tuple[str, ...]


class Reads:
    """What a stage looked at while `listening` was true, and the digest of what it saw.

    A read is ("value", "assigns", "model"), ("has", "metrics", "loss"), ("names", "assigns"), ("outputs",),
    ("number of outputs",), or the name of another field of the Context.
    """

    def __init__(self) -> None:
        self.seen: dict[Read, str] = {}
        self.listening = False

    def note(self, read: Read, digest: Callable[[], str]) -> None:
        if self.listening and read not in self.seen and read[1:] != _SPENDING:
            self.seen[read] = digest()


# A stage reads what others have spent only to add to it; its result does not depend on that.
_SPENDING = ("metrics", SPENT)

ABSENT = "absent"
NEVER_THE_SAME = "never the same"


def digest_of_read(context: Context, read: Read) -> str:
    """The digest of what a stage sees if it does this read on the Context before it."""
    match read:
        case ("value" | "has" | "names", part, *rest):
            return _digest_in(getattr(context, part), read[0], rest)
        case ("outputs" | "number of outputs",):
            outputs = context.outputs
            assert isinstance(outputs, StoredList)
            if read[0] == "number of outputs":
                return str(outputs.before)
            return _digest([chunk.cell.ref.digest for chunk in outputs.chunks])
        case ("experiment",):
            return _digest([context.experiment.to_json(), str(context.experiment.folder)])
        case ("experiment_id",):
            return context.experiment_id
        case ("resources",):
            declared = context.experiment.resources or {}
            makers = resources_of(context.run_id).makers
            if all(isinstance(one, PlannedResource) for one in makers.values()):
                return _digest([f"{name}: {one.to_json()}" for name, one in sorted(declared.items())])
    return NEVER_THE_SAME


def _digest_in(part: PersistentDict[Any], what: str, names: list[str]) -> str:
    assert isinstance(part, StoredDict)
    match what:
        case "value":
            return _digest_of_value(part, names[0])
        case "has":
            return str(names[0] in part.before)
    return _digest(list(part.before))


def _digest_of_value(part: StoredDict, name: str) -> str:
    cell = part.before.get(name)
    if cell is None:
        return ABSENT
    # Other names of the same object: a change in place affects all of them.
    others = [other for other, entry in part.before.items() if entry is cell] if cell.shared else []
    return _digest([cell.ref.digest, *others]) if len(others) > 1 else str(cell.ref.digest)


class StoredDict(PersistentDict[Any]):
    """A mapping whose stored values are cells; values that the stage itself has put are plain."""

    __slots__ = ("before", "origin", "part", "reads")

    def __init__(self, items: Mapping[str, Any], part: str, reads: Reads, origin: object) -> None:
        super().__init__(items)
        self.part = part
        self.reads = reads
        self.before = dict(items)
        """The items at the time when the stage began."""
        self.origin = origin
        """The manifest that the cells come from."""

    def _view(self, buffer: dict[str, Any], size: int) -> StoredDict:
        view = super()._view(buffer, size)
        assert isinstance(view, StoredDict)
        view.part, view.reads, view.origin, view.before = self.part, self.reads, self.origin, self.before
        return view

    def __getitem__(self, key: str) -> Any:
        try:
            entry = self._own()[key]
        except KeyError:
            self.reads.note(("value", self.part, key), lambda: _digest_of_value(self, key))
            raise self._missing(key) from None
        if isinstance(entry, Cell):
            self.reads.note(("value", self.part, key), lambda: _digest_of_value(self, key))
            return entry.value
        return entry

    def __contains__(self, key: object) -> bool:
        there = super().__contains__(key)
        if isinstance(key, str) and (not there or isinstance(self._own()[key], Cell)):
            self.reads.note(("has", self.part, key), lambda: str(key in self.before))
        return there

    def __iter__(self) -> Iterator[str]:
        self._note_names()
        return super().__iter__()

    def __len__(self) -> int:
        self._note_names()
        return self._size

    def _note_names(self) -> None:
        self.reads.note(("names", self.part), lambda: _digest_in(self, "names", []))

    def read_again(self) -> StoredDict:
        """Itself, for another attempt at the stage: its values are read again, without the last attempt's changes."""
        for entry in self.entries().values():
            if isinstance(entry, Cell):
                entry.read_again()
        return self

    def entries(self) -> dict[str, Any]:
        """Cells and plain values as they are, without counting as a read."""
        return dict(self._own())

    def __reduce__(self) -> tuple[Any, ...]:
        return PersistentDict, (dict(self),)


def entries_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a part of any Context, without reading them."""
    return part.entries() if isinstance(part, StoredDict) else dict(part)


def changed_names(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names whose values a step added or replaced. No value is read."""
    earlier, later = (
        {name: entry.ref for name, entry in entries_of(part).items() if isinstance(entry, Cell)}
        for part in (before, after)
    )
    return [name for name, ref in later.items() if earlier.get(name) != ref]


class Chunk:
    """Outputs that were stored together."""

    __slots__ = ("cell", "count")

    def __init__(self, cell: Cell, count: int) -> None:
        self.cell = cell
        self.count = count


class StoredList(PersistentList[Any]):
    """The outputs of earlier stages, read when one of them is looked at, followed by those of this stage."""

    __slots__ = ("before", "chunks", "reads")

    def __init__(self, chunks: Iterable[Chunk], reads: Reads) -> None:
        super().__init__()
        self.chunks = tuple(chunks)
        self.before = sum(chunk.count for chunk in self.chunks)
        self.reads = reads

    def append(self, item: Any) -> StoredList:
        view = super().append(item)
        assert isinstance(view, StoredList)
        view.chunks, view.before, view.reads = self.chunks, self.before, self.reads
        return view

    def read_again(self) -> StoredList:
        """See `StoredDict.read_again`."""
        for chunk in self.chunks:
            chunk.cell.read_again()
        return self

    def added(self) -> list[Any]:
        """The outputs that are not stored yet."""
        return self._buffer[: self._size]

    def __len__(self) -> int:
        self.reads.note(("number of outputs",), lambda: str(self.before))
        return self.before + self._size

    def __iter__(self) -> Iterator[Any]:
        for chunk in self._read_chunks():
            yield from chunk.cell.value
        yield from super().__iter__()

    def __getitem__(self, index: Any) -> Any:
        size = len(self)
        if isinstance(index, slice):
            return list(self)[index]
        if not -size <= index < size:
            raise IndexError(f"index {index} of a sequence of {size}")
        position = index if index >= 0 else size + index
        if position >= self.before:
            return self._buffer[position - self.before]
        for chunk in self._read_chunks():
            if position < chunk.count:
                return chunk.cell.value[position]
            position -= chunk.count
        raise AssertionError(index)

    def _read_chunks(self) -> tuple[Chunk, ...]:
        self.reads.note(("outputs",), lambda: _digest([chunk.cell.ref.digest for chunk in self.chunks]))
        return self.chunks

    def extends(self, earlier: PersistentList[Any]) -> bool:
        if isinstance(earlier, StoredList) and earlier.chunks == self.chunks:
            return self._size >= earlier._size and self._buffer[: earlier._size] == earlier._buffer[: earlier._size]
        return super().extends(earlier)

    def __reduce__(self) -> tuple[Any, ...]:
        return PersistentList, (list(self),)


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass")).hexdigest()


def detached(context: Context) -> Context:
    """The Context with every value read, so that it no longer needs the store."""
    parts = {part: PersistentDict(dict(getattr(context, part))) for part in PARTS}
    return untracked(context)._replace(**parts, outputs=PersistentList(context.outputs))


# --- what else of a Context a stage may look at -----------------------------------------------------------------------


class _TrackedContext(Context):
    """A Context that notes in `_reads` when a field that is not a collection is looked at."""

    _reads: Reads | None = None
    """None during construction, because the constructor looks at the fields."""

    def __getattribute__(self, name: str) -> Any:
        if name in _TRACKED:
            reads: Reads | None = super().__getattribute__("_reads")
            if reads is not None:
                reads.note((name,), lambda: digest_of_read(untracked(self), (name,)))
        return super().__getattribute__(name)

    def decide(self, *args: Any, **named: Any) -> Context:
        # `decide` looks at the run's id and the trace, but the stage does not.
        after = untracked(self).decide(*args, **named)
        return after if self._reads is None else tracked(after, self._reads)

    def spend(self, *args: Any, **named: Any) -> Context:
        after = untracked(self).spend(*args, **named)
        return after if self._reads is None else tracked(after, self._reads)

    @property
    def resources(self) -> Mapping[str, Any]:
        # This property looks at the run's id, but the stage does not.
        plain = untracked(self)
        if self._reads is not None:
            self._reads.note(("resources",), lambda: digest_of_read(plain, ("resources",)))
        return plain.resources

    def __reduce__(self) -> tuple[Any, ...]:
        return Context, tuple(getattr(self, one.name) for one in fields(Context))


_TRACKED = frozenset({"experiment", "experiment_id", "run_id", "trace"})


def tracked(context: Context, reads: Reads) -> Context:
    """The same Context, but everything that is looked at is noted in `reads`."""
    tracking = _TrackedContext(**_fields_of(context))
    object.__setattr__(tracking, "_reads", reads)
    return tracking


def untracked(context: Context) -> Context:
    """The same Context, without noting what is looked at."""
    return context if type(context) is Context else Context(**_fields_of(context))


def _fields_of(context: Context) -> dict[str, Any]:
    return {one.name: object.__getattribute__(context, one.name) for one in fields(Context)}

"""The two collections a Context is made of: immutable to the reader, cheap to extend.

Every version of a collection shares one growing buffer with the versions it came from and sees only its own first `len`
entries. The newest version is extended in place (constant time); extending an older one, or overwriting a key, copies.
So N single additions cost N steps and not N squared, and no version ever changes.

Two threads may extend one version at once. No lock is needed. Each adds to the buffer first (one atomic operation of
list or dict), and then checks that its entry is right behind its own version. If it is not, the thread takes a copy. An
entry left behind in the buffer is beyond the end of every version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, Self, TypeVar, overload

__all__ = ["MissingNameError", "PersistentDict", "PersistentList"]

_new = object.__new__

T = TypeVar("T")
V = TypeVar("V")


class PersistentList(Sequence[T], Generic[T]):
    """An immutable sequence; `append` and `extend` return the longer one."""

    __slots__ = ("_buffer", "_size")

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._buffer: list[T] = list(items)
        self._size = len(self._buffer)

    def append(self, item: T) -> Self:
        buffer, size = self._buffer, self._size
        if len(buffer) == size:
            buffer.append(item)
        if buffer[size] is not item:
            buffer = [*buffer[:size], item]
        view = _new(type(self))
        view._buffer = buffer
        view._size = size + 1
        return view

    def extend(self, items: Iterable[T]) -> Self:
        extended = self
        for item in items:
            extended = extended.append(item)
        return extended

    def extends(self, earlier: PersistentList[T]) -> bool:
        """Whether this sequence begins with `earlier`."""
        if self._buffer is earlier._buffer:
            return self._size >= earlier._size
        return self._size >= earlier._size and all(a is b or a == b for a, b in zip(earlier, self, strict=False))

    def since(self, earlier: PersistentList[T]) -> list[T]:
        """The items that this sequence has after `earlier`, which it extends; nothing in a store is read."""
        return self._buffer[earlier._size : self._size]

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._buffer[i] for i in range(*index.indices(self._size))]
        if not -self._size <= index < self._size:
            raise IndexError(f"index {index} of a sequence of {self._size}")
        return self._buffer[index if index >= 0 else self._size + index]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        return islice(self._buffer, self._size)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PersistentList | list | tuple):
            return len(self) == len(other) and all(a is b or a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list: equal to lists, and its items may be mutable

    def __repr__(self) -> str:
        return repr(list(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self),)


class MissingNameError(KeyError):
    """There is no such name in this part of the Context; `known` are the names that there are."""

    known: tuple[str, ...] = ()

    def __str__(self) -> str:
        from crucible_core.values.messages import closest, cut, listing  # noqa: PLC0415  # for a mistake only

        (name,) = self.args
        near = closest(name, self.known) if isinstance(name, str) else ""
        return f"there is no {name!r} here{near}; there are: {cut(listing(self.known), 500)}"


class PersistentDict(Mapping[str, V], Generic[V]):
    """An immutable mapping in insertion order; `put` and `merge` return the changed one."""

    __slots__ = ("_buffer", "_size")

    def __init__(self, items: Mapping[str, V] | None = None) -> None:
        self._buffer: dict[str, V] = dict(items or {})
        self._size = len(self._buffer)

    def _view(self, buffer: dict[str, V], size: int) -> Self:
        view = _new(type(self))
        view._buffer = buffer
        view._size = size
        return view

    def put(self, key: str, value: V) -> Self:
        buffer, size = self._buffer, self._size
        if len(buffer) == size and buffer.setdefault(key, value) is value and len(buffer) == size + 1:
            return self._view(buffer, size + 1)
        return self.merge({key: value})

    def merge(self, items: Mapping[str, V]) -> Self:
        copy = self._copy()
        copy.update(items)
        return self._view(copy, len(copy))

    def _copy(self) -> dict[str, V]:
        copy = self._buffer.copy()
        while len(copy) > self._size:
            copy.popitem()
        return copy

    def _own(self) -> dict[str, V]:
        # A version that others have grown past takes its own copy the first time it is read.
        if len(self._buffer) != self._size:
            self._buffer = self._copy()
        return self._buffer

    def __getitem__(self, key: str) -> V:
        try:
            return self._own()[key]
        except KeyError:
            raise self._missing(key) from None

    def _missing(self, key: object) -> MissingNameError:
        error = MissingNameError(key)
        error.known = tuple(self._own())
        return error

    def __contains__(self, key: object) -> bool:
        return key in self._own()

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        # A snapshot: `for name in ctx.metrics: ctx = ctx.put_metric(...)` grows the shared buffer meanwhile.
        return iter(list(self._own())[: self._size])

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

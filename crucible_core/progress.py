"""Progress of long work inside a stage, for the observers of the run.

```python
for batch in progress(batches, description="training"):
    ...

with progress(total=size, description="downloading") as bar:
    bar.advance(len(chunk))
```

Without an observer, as in `run_experiment` and tests, this costs nothing; `crucible run` draws bars, Dagster gets log
lines.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from numbers import Real
from time import perf_counter
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from crucible_core.observers import ProgressUpdate, Updates
from crucible_core.run_state.attempt import current_attempt

__all__ = ["Progress", "ProgressUpdate", "progress"]

T = TypeVar("T")

MAX_STRIDE = 16
QUICK = 1e-3


class Progress(Generic[T]):
    """Made by `progress`: iterate over it, or use it in a `with` block and advance it by hand, from any thread."""

    def __init__(self, iterable: Iterable[T] | None, total: float | None, description: str | None) -> None:
        if total is None and iterable is not None:
            total = _length(iterable)
        elif total is not None and not (isinstance(total, Real) and total >= 0):
            raise ValueError(f"the total of progress() must be a number of at least 0, not {total!r:.80}")
        self._iterable = iterable
        self._total = None if total is None else float(total)
        self._description = description
        # In the thread that the stage runs in, which need not be the one that advances.
        attempt = current_attempt.get()
        self._updates = None if attempt is None else attempt.updates
        if description is not None and attempt is not None and self._updates is not None:
            self._description = attempt.readable(description)
        self._lock = threading.Lock()
        self._key = -1
        self._count = 0.0
        self._began: float | None = None
        self._due = 0.0

    def __iter__(self) -> Iterator[T]:
        if self._iterable is None:
            raise TypeError("without an iterable, use progress() as in `with progress(...) as bar: bar.advance()`")
        return iter(self._iterable) if self._updates is None else self._iterate(self._iterable)

    def _iterate(self, iterable: Iterable[T]) -> Iterator[T]:
        with self:
            # Reading the clock may cost more than an item: if items are quick, only every 16th reads it.
            quick = min(QUICK, self._updates.interval / MAX_STRIDE) if self._updates else QUICK
            done, stride, last = 0, 1, perf_counter()
            try:
                for item in iterable:
                    yield item
                    done += 1
                    if done >= stride:
                        now = perf_counter()
                        stride = MAX_STRIDE if now - last < stride * quick else 1
                        last = now
                        self.advance(done)
                        done = 0
            finally:
                self._count += done

    def __enter__(self) -> Progress[T]:
        self._began = perf_counter()
        self._count = 0.0
        if self._updates is not None:
            self._key = next(self._updates.keys)
            self._due = self._began + self._updates.interval
            self._updates.progress(self._update(self._updates, self._began))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._updates is not None:
            self._updates.progress(self._update(self._updates, perf_counter(), ended=True))
        self._began = None

    def advance(self, by: float = 1) -> None:
        """Count `by` more as done. Raises RuntimeError before the `with` block or the iteration, and after it."""
        if self._began is None:
            raise RuntimeError("this progress is not running: use it as in `with progress(...) as bar: bar.advance()`")
        updates = self._updates
        if updates is None:
            return
        with self._lock:
            self._count += by
            now = perf_counter()
            if now < self._due:
                return
            self._due = now + updates.interval
            update = self._update(updates, now)
        updates.progress(update)

    def _update(self, updates: Updates, now: float, *, ended: bool = False) -> ProgressUpdate:
        began = now if self._began is None else self._began
        description = self._description or updates.stage
        return ProgressUpdate(updates.stage, self._key, description, self._count, self._total, now - began, ended)


@overload
def progress(iterable: Iterable[T], total: float | None = None, description: str | None = None) -> Progress[T]: ...


@overload
def progress(iterable: None = None, total: float | None = None, description: str | None = None) -> Progress[Any]: ...


def progress(
    iterable: Iterable[T] | None = None, total: float | None = None, description: str | None = None
) -> Progress[T]:
    """The items of `iterable`; the observers of the run get the progress.

    `total` is the number of items by default. Without an iterable, use the result in a `with` block and advance it by
    hand: `bar.advance(amount)`. An item counts when the next one is asked for. Raises ValueError for a negative total.
    """
    return Progress(iterable, total, description)


def _length(iterable: Iterable[Any]) -> float | None:
    try:
        return len(iterable)  # type: ignore[arg-type]  # most have one
    except TypeError:
        return None

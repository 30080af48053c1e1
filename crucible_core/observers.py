"""Who hears of a run, and how they are told."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import (
    Protocol,
    cast,
    runtime_checkable,
)

from crucible_core.context import Context
from crucible_core.progress import Watcher
from crucible_core.trace import (
    Event,
    Observer,
)

_log = logging.getLogger("crucible")


@runtime_checkable
class RunObserver(Protocol):
    """An observer that is also told of the run to which the events belong."""

    def __call__(self, event: Event, /) -> None: ...

    def watch_run(self, context: Context, /) -> AbstractContextManager[None]:
        """Entered with the Context on which a run begins, and left when the run is over, with what ended it."""
        ...


def watchers_among(observers: Sequence[object]) -> tuple[Watcher, ...]:
    return tuple(cast("Watcher", one) for one in observers if hasattr(one, "on_progress"))


def announce(event: Event, observers: Sequence[Observer]) -> None:
    """Tell the observers of an event; one that raises is logged."""
    for observer in observers:
        try:
            observer(event)
        except Exception:  # noqa: BLE001
            # Who watches a run must not be able to change its result.
            _log.exception("the observer %r failed on %s of stage %r", observer, event.kind, event.stage)


def replay(context: Context, observers: Sequence[Observer], error: BaseException | None = None) -> None:
    """Tell the observers of a run that is over: of the events of its last Context, and of the error that ended it."""
    watching = _watched_run(context, observers)
    watching.__enter__()
    for event in context.trace.events:
        announce(event, observers)
    watching.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


@contextlib.contextmanager
def _watched_run(context: Context, observers: Sequence[Observer]) -> Iterator[None]:
    """Around a run, for the observers that watch whole runs; one that raises is logged."""
    with contextlib.ExitStack() as stack:
        for observer in observers:
            if isinstance(observer, RunObserver):
                try:
                    watching = observer.watch_run(context)
                    watching.__enter__()
                except Exception:  # noqa: BLE001
                    _log.exception("the observer %r failed at the begin of run %s", observer, context.run_id)
                else:
                    stack.push(functools.partial(_leave, watching, observer, context.run_id))
        yield


def _leave(
    watching: contextlib.AbstractContextManager[None],
    observer: Observer,
    run_id: str,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> bool:
    try:
        watching.__exit__(kind, error, trace)
    except Exception:  # noqa: BLE001
        _log.exception("the observer %r failed at the end of run %s", observer, run_id)
    return False  # what ended the run is not an observer's to withhold

"""What stages need and no run can keep, such as a client or a connection: made on first use, closed at the end.

Whatever runs stages says which resources a run has; in each process a resource is made when a stage first asks for it,
and closed when the part of the run in that process is over. They belong to the run, and not to the thread or the
Context: threads of a stage have them too, and a Context is the same with and without them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from crucible_core.errors import CrucibleError
from crucible_core.values.jsonable import type_name
from crucible_core.values.messages import closest, error_text, listing

__all__ = ["Maker", "Ready", "Resources", "UnknownResourceError", "Unsent", "held", "ready_made", "resources_of"]

_log = logging.getLogger("crucible")


class UnknownResourceError(CrucibleError, KeyError):
    """The run has no resource of that name."""

    def __str__(self) -> str:
        return str(self.args[0])


Maker = Callable[[], Any]
"""Makes a resource, or a context manager that gives it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A resource that whoever runs the experiment has made, and closes."""

    value: Any

    def __call__(self) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class Unsent:
    """A resource that was passed to the run in another process, and cannot be sent to this one."""

    name: str
    why: str

    def __call__(self) -> Any:
        """Raises CrucibleError, which says why it could not be sent."""
        raise CrucibleError(
            f"the resource {self.name!r} was passed to the run as an object, which cannot be sent to the process of "
            f"this stage: {self.why}; declare it under `resources:` in the experiment file, to be made in each process"
        )


class Resources(Mapping[str, Any]):
    """The resources of a run in this process, by name. Safe to use from any thread."""

    def __init__(self, makers: Mapping[str, Maker], readable: Callable[[str], str] = str) -> None:
        """`readable` is what a text becomes before it is logged: without secrets."""
        self.makers = makers
        self._readable = readable
        self._forget()

    def _forget(self) -> None:
        self._made: dict[str, Any] = {}
        self._closing = contextlib.ExitStack()
        self._lock = threading.RLock()
        self._process = os.getpid()

    def __getitem__(self, name: str) -> Any:
        """The resource, made now if nobody has asked for it before.

        Raises UnknownResourceError, and what its factory raises; the next request then has it made again.
        """
        if name not in self.makers:
            has = f"this run has: {listing(self.makers)}" if self.makers else "this run has none"
            raise UnknownResourceError(
                f"there is no resource {name!r}{closest(name, self.makers)}; {has}; they are declared under "
                "`resources:` in the experiment file"
            )
        if self._process != os.getpid():
            self._forget()  # a fork: two processes must not use one connection
        with self._lock:
            if name not in self._made:
                try:
                    self._made[name] = self._make(name)
                except Exception as error:
                    error.add_note(f"raised while the resource {name!r} was made")
                    raise
            return self._made[name]

    def _make(self, name: str) -> Any:
        maker = self.makers[name]
        made = maker()
        if isinstance(maker, Ready):
            return made
        kind = type(made)
        if hasattr(kind, "__enter__") and hasattr(kind, "__exit__"):
            entered = kind.__enter__(made)
            self._closing.push(partial(self._close, name, partial(kind.__exit__, made)))
            return entered
        close = getattr(made, "close", None) or getattr(made, "aclose", None)
        if close is None and hasattr(kind, "__aenter__"):
            raise CrucibleError(
                f"the resource {name!r} is an asynchronous context manager, which belongs to one event loop, but "
                "each asynchronous stage has its own loop: enter it in the stage, or have the factory return an object "
                "with `close` or `aclose`"
            )
        if callable(close):
            self._closing.push(partial(self._close, name, lambda *_: close()))
        return made

    def close(self, error: BaseException | None = None) -> None:
        """Close what was made, the last first; `error` is what ended the run, if anything did.

        An error in closing is logged: the run has its result, or its own error.
        """
        if self._process == os.getpid():
            with self._lock:
                closing, self._closing, self._made = self._closing, contextlib.ExitStack(), {}
            closing.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def _close(
        self,
        name: str,
        close: Callable[..., Any],
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Close one of them; the other arguments are what ended the run, if anything did."""
        try:
            closed = close(kind, error, trace)
            if isinstance(closed, Awaitable):
                # In a thread of its own: there may be a loop in this one.
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(asyncio.run, _awaited(closed)).result()
        except Exception as raised:  # noqa: BLE001  # whatever a user's class does here
            if raised is not error:
                said = "closing the resource %r failed: %s: %s; the run's result does not change"
                _log.error(said, name, type_name(raised), self._readable(error_text(raised)))
        return False  # a resource must not suppress what ended the run

    def __contains__(self, name: object) -> bool:
        return name in self.makers

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)

    def __repr__(self) -> str:
        return f"Resources({', '.join(self.makers)})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("the resources of a run belong to one process, and are never stored: use ctx.resources there")


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


def ready_made(given: Mapping[str, Any]) -> dict[str, Maker]:
    """Resources that were passed to a run. Raises TypeError for anything but a mapping of names."""
    from crucible_core.values.arguments import checked_names  # noqa: PLC0415  # few runs get some

    return {name: Ready(value) for name, value in checked_names(given).items()}


# --- those of the runs in this process --------------------------------------------------------------------------------

_RUNS: dict[str, tuple[Resources, int]] = {}
"""By run: its resources, and how many parts of it are at work."""
_lock = threading.Lock()
_NONE = Resources({})


def resources_of(run_id: str) -> Resources:
    """The resources of the run whose stages run in this process."""
    return _RUNS[run_id][0] if run_id in _RUNS else _NONE


@contextlib.contextmanager
def held(run_id: str, makers: Mapping[str, Maker], readable: Callable[[str], str] = str) -> Iterator[None]:
    """Holds the resources while a part of the run works in this process; the last part closes what was made."""
    with _lock:
        resources, count = _RUNS.get(run_id, (None, 0))
        _RUNS[run_id] = (Resources(makers, readable) if resources is None else resources, count + 1)
    ended: BaseException | None = None
    try:
        yield
    except BaseException as error:
        ended = error
        raise
    finally:
        with _lock:
            resources, count = _RUNS[run_id]
            if count == 1:
                del _RUNS[run_id]
            else:
                _RUNS[run_id] = (resources, count - 1)
        if count == 1:
            resources.close(ended)

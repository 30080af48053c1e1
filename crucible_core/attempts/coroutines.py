"""Runs the coroutine that an `async def run` returns, to its end, from a plain function."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

__all__ = ["finished"]

T = TypeVar("T")


def finished(work: Awaitable[T]) -> T:
    """What the awaitable gives, run in an event loop of its own.

    If a loop already runs in this thread, as in a notebook, the new loop runs in a thread of its own. An interrupt here
    reaches the coroutine as CancelledError; it is raised again when the coroutine has ended.
    """
    try:
        if _is_in_a_loop():
            return _InThread(partial(_awaited, work)).result()
        # An interrupt cancels the task. With Python's own handler of Ctrl-C, asyncio does that; any other interrupt
        # leaves the loop, and closing the loop cancels what is left in it.
        return asyncio.run(_awaited(work))
    except BaseException as error:
        error.__traceback__ = _below_this_module(error.__traceback__)
        raise


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _awaited(work: Awaitable[T]) -> T:
    return await work


def _below_this_module(trace: TracebackType | None) -> TracebackType | None:
    """The traceback of the coroutine itself, without the frames of the loop."""
    found, below = trace, trace
    while below is not None:
        if below.tb_frame.f_code is _awaited.__code__:
            found = below.tb_next
        below = below.tb_next
    return found


class _InThread(Generic[T]):
    """A coroutine in a loop of a new thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = threading.Event()
        self._value: T
        self._error: BaseException | None = None

    def result(self) -> T:
        inside = contextvars.copy_context()  # the attempt, among others
        thread = threading.Thread(target=inside.run, args=(asyncio.run, self._run()), name="crucible-async")
        thread.start()
        try:
            self._ended.wait()
        except BaseException:
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
            thread.join()
            raise
        thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(self._work())
        try:
            self._value = await self._task
        except BaseException as error:  # noqa: BLE001  # raised in the thread that waits
            self._error = error
        finally:
            self._ended.set()

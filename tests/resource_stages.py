"""Stages and factories for the tests of resources: what is made and closed is written into a file, with its process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel, Field, SecretStr

from crucible_core import Context, stage


def note(log: str, what: str) -> None:
    with Path(log).open("a") as stream:
        stream.write(f"{os.getpid()} {what}\n")


def notes(log: Path) -> list[str]:
    """What happened, without the processes."""
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []


class Backend(BaseModel):
    """A client: it holds a lock, so that it cannot be stored."""

    log: str
    factor: int = Field(default=2, ge=1)
    token: SecretStr = SecretStr("no token")

    def model_post_init(self, _: object) -> None:
        self._lock = threading.Lock()
        note(self.log, "made")

    def ask(self, number: int) -> int:
        with self._lock:
            return number * self.factor

    def refuse(self) -> None:
        raise ConnectionError(f"refused for {self.token.get_secret_value()}")

    def close(self) -> None:
        note(self.log, "closed")


@contextlib.contextmanager
def session(*, log: str, fails: bool = False) -> Iterator[dict[str, int]]:
    """A factory that is a generator: what is behind `yield` closes it."""
    note(log, "session made")
    try:
        yield {"answer": 42}
    except Exception as error:
        note(log, f"rolled back: {type(error).__name__}")
        raise
    else:
        note(log, "committed")
    finally:
        if fails:
            raise OSError("the disk is full")


@contextlib.asynccontextmanager
async def looped() -> AsyncIterator[int]:
    """Can only be entered where an event loop runs."""
    yield 1


class Asynchronous:
    """As the clients of httpx are: closed by a coroutine."""

    def __init__(self, log: str) -> None:
        self.log = log

    async def ask(self, number: int) -> int:
        return number + 1

    async def aclose(self) -> None:
        note(self.log, "aclosed")


@stage
def ask(ctx: Context, *, number: int = 21, metric: str = "answer", seed: int = 0) -> Context:
    """Asks the backend."""
    return ctx.put_metric(metric, ctx.resources["backend"].ask(number)).put_metric("seeded", seed)


@stage
async def ask_asynchronously(ctx: Context, *, number: int = 1) -> Context:
    """Asks the asynchronous client."""
    return ctx.put_metric("later", await ctx.resources["client"].ask(number))


@stage
def ask_from_threads(ctx: Context, *, n: int = 8) -> Context:
    """Every thread asks first."""
    together = threading.Barrier(4)

    def one(number: int) -> int:
        if number < 4:
            together.wait()
        return int(ctx.resources["backend"].ask(number))

    with ThreadPoolExecutor(4) as pool:
        return ctx.put_metric("sum", sum(pool.map(one, range(n))))


@stage
def refused(ctx: Context) -> Context:
    """The backend refuses, and says its token."""
    ctx.resources["backend"].refuse()
    return ctx


@stage
def nothing(ctx: Context) -> Context:
    """Asks for nothing."""
    return ctx.put_metric("nothing", 1)

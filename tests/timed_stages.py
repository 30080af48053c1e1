"""Stages that take too long, or work in a coroutine; importable by name, as other processes need."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from crucible_core import Context, Stage, progress, stage


@stage
def load(ctx: Context) -> Context:
    return ctx.assign(data=[1, 2, 3]).put_metric("loaded", 3).put_metric("kept", 0.5).add_output("zero")


@stage
def quick(ctx: Context, *, file: str | None = None) -> Context:
    """Changes in place what it was given, and says in the file which process it ran in."""
    ctx.assigns["data"].append(4)
    if file is not None:
        with Path(file).open("a") as stream:
            stream.write(f"{os.getpid()}\n")
    logging.getLogger(__name__).warning("this is quick")
    for _ in progress(range(3), description="counting"):
        pass
    return ctx.decide("be quick", "there is little time").put_metric("length", len(ctx.assigns["data"]))


@stage
def sleeps(ctx: Context, *, seconds: float = 60.0) -> Context:
    ctx = ctx.decide("sleep", "there is much time").put_metric("slept", seconds)
    time.sleep(seconds)
    return ctx


@stage
def in_c(ctx: Context) -> Context:
    """A loop in C, which gives neither signals nor other threads a chance."""
    ctx = ctx.put_metric("begun", 1)
    deque(itertools.repeat(None), maxlen=0)
    return ctx


@stage
def stubborn(ctx: Context, *, file: str) -> Context:
    """Swallows interrupts, and has started a process of its own."""
    child = subprocess.Popen(["sleep", "60"])
    Path(file).write_text(str(child.pid))
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(60)


@stage
def slow_at_first(ctx: Context, *, file: str, until: int = 1) -> Context:
    """Takes too long until it has been tried `until` times."""
    tried = len(Path(file).read_text()) if Path(file).exists() else 0
    Path(file).write_text("x" * (tried + 1))
    if tried < until:
        time.sleep(60)
    return ctx.put_metric("tried", tried + 1)


@stage
def raises(ctx: Context, *, how: str = "plain") -> Context:
    if how == "unportable":
        raise UnportableError(ctx, threading.Lock())
    if how == "exit":
        sys.exit(3)
    raise ValueError("too small")


class UnportableError(Exception):
    """Neither pickled nor made again from its text."""

    def __init__(self, ctx: Context, lock: Any) -> None:
        super().__init__(f"{ctx.experiment_id} cannot be sent")
        self.lock = lock


@stage
def half(ctx: Context, *, file: str | None = None, how: str = "raises") -> Context:
    """Puts something of each kind, and raises; the first time only, if there is a file."""
    tried = file is not None and Path(file).exists()
    ctx = ctx.put_metric("loaded", 4).put_metric("epoch", 1 if tried else 7)
    ctx = ctx.add_outputs(["one", "two"]).put_artifact("plot", "plot.svg").assign(model="half of one")
    ctx = ctx.decide("go on", "it looks good")
    if tried:
        return ctx
    if file is not None:
        Path(file).touch()
    if how == "sleeps":
        time.sleep(60)
    if how == "lock":
        ctx = ctx.put_metric("lock", threading.Lock()).add_output("three")
    raise ValueError("no more")


class UnportableTimeoutError(UnportableError, TimeoutError):
    """The same, of a kind that another attempt may help."""


@stage
def flaky(ctx: Context, *, file: str, how: str = "late") -> Context:
    """Fails the first time: for a while, or for good."""
    if Path(file).exists():
        return ctx.put_metric("tried", 2)
    Path(file).touch()
    if how == "late":
        raise UnportableTimeoutError(ctx, threading.Lock())
    raise ValueError("wrong")


@stage
def clean(ctx: Context) -> Context:
    """Says what it found, and what failed."""
    logging.getLogger(__name__).warning("cleaning")
    failed = [name for name, ending in ctx.trace.endings.items() if ending.kind == "stage_failed"]
    return ctx.decide("clean up", "in any case").merge_metrics({"cleaned_after": failed, "seen": dict(ctx.metrics)})


@stage
def crashes(ctx: Context) -> Context:
    ctypes.string_at(0)
    return ctx


@stage
def unsendable(ctx: Context) -> Context:
    return ctx.assign(lock=threading.Lock())


@stage
def forgets(ctx: Context) -> Context:
    ctx.put_metric("lost", 1)
    return ctx


@stage
async def wait_async(ctx: Context, *, seconds: float = 0.01, file: str | None = None) -> Context:
    ctx = ctx.decide("wait", "it is asynchronous").put_metric("waited", seconds)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if file is not None:
            Path(file).write_text("cancelled")
        raise
    return ctx


class AsyncClass(Stage):
    """A stage that does several things at once."""

    calls: int = 3

    async def run(self, ctx: Context) -> Context:
        async def call(number: int) -> int:
            await asyncio.sleep(0)
            return number

        answers = await asyncio.gather(*map(call, range(self.calls)))
        return ctx.put_metric("answers", list(answers))


@stage
async def raises_async(ctx: Context) -> Context:
    await asyncio.sleep(0)
    raise ValueError("too small")

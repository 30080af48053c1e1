"""Stages that log, warn and take their time; importable by module name from other processes."""

from __future__ import annotations

import logging
import os
import threading
import warnings

from crucible_core import Context, progress, stage

log = logging.getLogger(__name__)
library = logging.getLogger("some_library.core")


@stage
def talk(ctx: Context) -> Context:
    """Says things in every way there is."""
    log.debug("own debug")
    log.info("own %s", "info")
    log.warning("own warning")
    library.info("library info")
    library.warning("library warning")
    warnings.warn("something is deprecated", UserWarning, stacklevel=1)
    try:
        raise ValueError("deep inside")
    except ValueError:
        log.exception("it went wrong")
    thread = threading.Thread(target=lambda: log.info("from a thread"))
    thread.start()
    thread.join()
    print("printed")
    return ctx.put_metric("said", 1)


@stage
def fall(ctx: Context) -> Context:
    """Says something and fails."""
    log.debug("before the fall")
    raise ValueError("it fell")


@stage
def hostile(ctx: Context) -> Context:
    """Logs what cannot be shown."""
    log.info("half a pair \ud800 and a NUL \x00")
    log.log(25, "between two levels")
    log.info("x" * 50_000)
    return ctx


@stage
def fork(ctx: Context) -> Context:
    """Logs and makes progress in a fork of its process, as process pools do."""
    before = os.getpid()
    child = os.fork()
    if child == 0:
        log.warning("from a fork")
        for _ in progress(range(3), description="in a fork"):
            pass
        os._exit(0)
    os.waitpid(child, 0)
    log.warning("from process %s", "one" if os.getpid() == before else "two")
    return ctx


@stage
def flood(ctx: Context, *, lines: int = 1_200) -> Context:
    """Logs too much."""
    for number in range(lines):
        library.warning("line %d", number)
    log.info("own line")
    return ctx


@stage
def count(ctx: Context, *, items: int = 3) -> Context:
    """Reports its progress."""
    for _ in progress(range(items), description="counting"):
        pass
    with progress(description="by hand") as bar:
        bar.advance(2.5)
    return ctx.put_metric("counted", items)


@stage
def train(ctx: Context, *, points: int = 50, fail: bool = False) -> Context:
    """Logs a loss, and half as often an accuracy."""
    for step in range(points):
        ctx = ctx.log_metric("loss", 1 / (step + 1), step=step)
        if step % 2 == 0:
            ctx = ctx.log_metrics({"accuracy": step / points}, step=step)
    if fail:
        raise RuntimeError("503")
    return ctx

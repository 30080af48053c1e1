"""Stages that spend, in a module that other processes can import."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from crucible_core import BudgetExceededError, Context, stage


@stage
def pay(ctx: Context, *, usd: float = 1.0, times: int = 1, tokens: int = 0) -> Context:
    for _ in range(times):
        ctx = ctx.spend("usd", usd)
    return ctx.spend("tokens", tokens) if tokens else ctx


@stage
async def pay_async(ctx: Context, *, usd: float = 1.0, times: int = 1) -> Context:
    for _ in range(times):
        await asyncio.sleep(0)
        ctx = ctx.spend("usd", usd)
    return ctx


@stage
def catch(ctx: Context, *, usd: float = 1.0) -> Context:
    """Goes on until nothing is left, and keeps what it has."""
    answers = 0
    while True:
        try:
            ctx = ctx.spend("usd", usd)
        except BudgetExceededError as error:
            kept: Context = error.context
            return kept.put_metric("answers", answers)
        answers += 1


@stage
def flaky(ctx: Context, *, usd: float = 1.0, marks: str, fails: int = 1, how: str = "raises") -> Context:
    """Spends, and fails the first times; `marks` counts how often it ran."""
    ctx = ctx.spend("usd", usd).put_metric("half", True)
    ran = Path(marks).read_text() if Path(marks).exists() else ""
    Path(marks).write_text(f"{ran}x")
    if len(ran) < fails:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hangs":
            time.sleep(60)
        raise RuntimeError("the backend is busy")
    return ctx


@stage
def score(ctx: Context, *, usd: float = 1.0, seconds: float = 0.0, seed: int = 0) -> Context:
    """One trial."""
    time.sleep(seconds)
    return ctx.put_metric("score", float(seed % 7)).spend("usd", usd)

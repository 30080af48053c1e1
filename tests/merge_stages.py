"""Stages for the tests of merging: they fan out over threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from crucible_core import Context, stage


@stage
def begin(ctx: Context) -> Context:
    """Puts what the next stage finds in the store."""
    ctx = ctx.assign(big=np.arange(1000.0)).put_metric("first", 1).log_metric("loss", 9.0)
    return ctx.add_outputs([{"part": -2}, {"part": -1}]).put_artifact("page", "page.html").decide("begin", "to begin")


def work(ctx: Context, part: int) -> Context:
    """What one thread does."""
    ctx = ctx.decide(f"part {part}", "its turn", confidence=0.5).put_metric(f"metric_{part}", part)
    ctx = ctx.add_output({"part": part}).put_artifact(f"file_{part}", f"{part}.txt").assign({f"value_{part}": [part]})
    return ctx.log_metric("loss", 1.0 / (part + 1)).put_metric("same", "in all of them")


@stage
def fan_out(ctx: Context, *, parts: int = 4) -> Context:
    """Each thread has a Context of its own."""
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda part: work(ctx, part), range(parts)))
    return ctx.merge(*done)


@stage
async def gather(ctx: Context, *, parts: int = 4) -> Context:
    """The same as tasks, which know the attempt."""

    async def one(part: int) -> Context:
        await asyncio.sleep(0)
        return work(ctx, part)

    return ctx.merge(*await asyncio.gather(*map(one, range(parts))))


@stage
def break_after(ctx: Context) -> Context:
    """Fails when it has merged."""
    ctx.merge(work(ctx, 0), work(ctx, 1))
    raise RuntimeError("after all")

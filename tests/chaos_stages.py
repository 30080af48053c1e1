"""The stages of runs that live through chaos: each notes that it begins, takes a moment, and can be checked."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from crucible_core import Context, stage

SIZE = 2_000


def mark(ctx: Context, folder: str) -> None:
    """Note that a stage begins, in one write: it is there whatever happens next."""
    with (Path(folder) / "executed").open("a") as file:
        file.write(f"{ctx.run_id} {ctx.stage}\n")


@stage
def draw(ctx: Context, *, folder: str, seed: int = 0) -> Context:
    mark(ctx, folder)
    return ctx.assign(array=np.random.default_rng(seed).normal(size=SIZE), seed=seed)


@stage
def think(ctx: Context, *, folder: str) -> Context:
    mark(ctx, folder)
    ctx = ctx.decide("wait", "something may happen meanwhile")
    time.sleep(0.5 + ctx.assigns.get("seed", 0) % 4)
    return ctx.decide("go on", "nothing did")


@stage
def add(ctx: Context, *, folder: str) -> Context:
    mark(ctx, folder)
    return ctx.put_metric("sum", float(ctx.assigns["array"].sum()))


@stage
def tick(ctx: Context, *, folder: str) -> Context:
    mark(ctx, folder)
    time.sleep(0.5)
    return ctx.put_metric("ticked", 1)


def expected_sum(seed: int) -> float:
    return float(np.random.default_rng(seed).normal(size=SIZE).sum())

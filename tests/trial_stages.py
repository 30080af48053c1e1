"""Stages of trials that other processes can import."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from crucible_core import Context, stage


@stage
def load(ctx: Context, *, n: int = 4) -> Context:
    return ctx.assign(data=list(range(n)))


@stage
def flip(ctx: Context, *, bias: float = 0.5, n: int = 50, seed: int = 0) -> Context:
    ctx.assigns["data"].append(0)  # in place: it must not reach another trial
    draw = random.Random(seed)
    heads = sum(draw.random() < bias for _ in range(n)) / n
    return ctx.put_metric("heads", heads).put_metric("length", len(ctx.assigns["data"])).put_metric("bias", bias)


@stage
def mark(
    ctx: Context, *, folder: str = "", kill: int | None = None, fail: int | None = None, seconds: float = 0.0
) -> Context:
    """Leaves a mark of each trial that ran; the trials of one seed kill their process the first time, or fail."""
    seed = ctx.experiment.seed
    if seed == kill:
        try:
            Path(folder, "killed").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    with Path(folder, "ran").open("a") as file:
        file.write(f"{seed} {ctx.metrics['bias']}\n")
    time.sleep(seconds)
    if seed == fail:
        raise RuntimeError(f"seed {seed} does not work")
    return ctx

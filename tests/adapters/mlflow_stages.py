"""Stages for the tests of MLflow; importable by name, as other processes need."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from crucible_core import Context, stage


@stage
def measure(ctx: Context, *, seed: int = 0, rate: float = 0.1) -> Context:
    """Puts numbers of all sizes, and groups for a comparison."""
    random = Random(seed)
    ctx = ctx.put_metric("loss", random.random() * 10 ** random.randint(-300, 300)).put_metric("third", 1 / 3)
    ctx = ctx.put_metric("by class", {"größte": random.gauss(0, 1), "a/b": 2, "50 %": -0.0, "../x": 1e-300})
    groups = {name: [random.gauss(0, 1) for _ in range(9)] for name in ("a", "b")}
    return ctx.put_metric("whole", 2**53).put_metric("good", True).assign(bench_data=groups, rate=rate)


@stage
def write(ctx: Context) -> Context:
    """Writes a file, and changes a number."""
    file = Path(f"{ctx.run_id}.txt")
    file.write_text(f"process {os.getpid()}")
    ctx = ctx.put_artifact("notes", str(file.resolve())).put_artifact("board", "https://example.org/board")
    return ctx.put_metric("third", 2 / 3)


@stage
def breaks(ctx: Context) -> Context:
    """Fails."""
    raise ValueError("the loss is NaN")

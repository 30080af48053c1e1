"""Judging a run by the gates of its experiment."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # By their old names, which stored values have: until version 1.0.
    from crucible_core.moved import moved_names  # noqa: PLC0415

    models = ["Baseline", "Gate", "GateResult", "NoRegression"]
    return moved_names(__name__, dict.fromkeys(models, "crucible_core.ir.gates"))(name)

"""The closed choices of the experiment file, each spelled once.

Whatever implements a choice is a mapping keyed by these same names, and a test asserts that the two sets are equal.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "AutomationWhen",
    "Backoff",
    "ExecutorName",
    "GateSeverity",
    "GateStatus",
    "Jitter",
    "MissedTicks",
    "OnUpdate",
    "ReportFormat",
    "ScheduleStatus",
    "Sink",
    "WhenUndecided",
]


ReportFormat = Literal["csv", "html", "json", "latex", "markdown"]

Sink = Literal["file", "stdout"]

ExecutorName = Literal["celery", "in_process", "k8s", "multiprocess"]

ScheduleStatus = Literal["running", "stopped"]

MissedTicks = Literal["all", "latest", "skip"]

OnUpdate = Literal["all", "any"]

AutomationWhen = Literal["eager", "on_cron", "on_missing"]

Backoff = Literal["exponential", "linear"]

Jitter = Literal["full", "plus_minus"]

GateSeverity = Literal["error", "warn"]

GateStatus = Literal["failed", "passed", "undecided"]

WhenUndecided = Literal["fail", "warn"]

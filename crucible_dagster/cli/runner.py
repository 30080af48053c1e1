"""What `crucible run --dagster` calls."""

from __future__ import annotations

import functools

from crucible_dagster.execution import execute_experiment

__all__ = ["run_on_dagster"]

run_on_dagster = functools.partial(execute_experiment, launched_by="cli")

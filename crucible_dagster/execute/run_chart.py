"""Several metrics of the last runs in one picture; Dagster itself plots them one by one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from typing import Any

from dagster import DagsterInstance, FloatMetadataValue, IntMetadataValue

from crucible_bench.plots import Picture, run_chart
from crucible_core import Context, Experiment
from crucible_core.report import results
from crucible_dagster.names import asset_key

__all__ = ["chart_of_runs"]

_log = logging.getLogger("crucible")

RUNS = 30
SERIES = 8
CONSIDERED = 200
SHORT = 8
NOT_DRAWN = ("p_value", "p_adjusted")


def chart_of_runs(instance: DagsterInstance, ctx: Context) -> Picture | None:
    """The run's metrics and those of earlier runs; None if there is nothing to compare with.

    Only a few metrics are shown: first those with a gate, then those that vary, then those that never changed. This
    takes one query: the numbers come from the asset's last materializations.
    """
    ours = dict(islice(_drawable(ctx), CONSIDERED))
    if not ours:
        return None
    earlier = [
        (one.run_id, dict(shown.metadata))
        for one in instance.fetch_materializations(asset_key(ctx.experiment), limit=RUNS - 1).records
        if (shown := one.asset_materialization) is not None and one.run_id != ctx.run_id
    ]
    series: dict[str, list[tuple[str, float | None]]] = {}
    for name, value in ours.items():
        before = [(run_id[:SHORT], _number(shown.get(name))) for run_id, shown in reversed(earlier)]
        if any(number is not None for _, number in before):
            series[name] = [*before, (ctx.run_id[:SHORT], value)]
    if not series:
        return None
    declared = _bounds(ctx.experiment)

    def rank(name: str) -> int:
        return 0 if name in declared else 1 if len({value for _, value in series[name]} - {None}) > 1 else 2

    series = {name: series[name] for name in sorted(series, key=rank)[:SERIES]}
    bounds = {name: bound for name, bound in declared.items() if name in series}
    caption = "The last runs, the newest on the right." + (" Dashed lines: the bounds of gates." if bounds else "")
    try:
        return run_chart(series, bounds=bounds or None, caption=caption)
    except (ArithmeticError, ValueError):
        # All stages have succeeded: a picture that cannot be drawn must not fail their run.
        _log.exception("the chart of the last runs cannot be drawn")
        return None


def _drawable(ctx: Context) -> Any:
    for name, value in results(ctx):
        if not name.endswith(NOT_DRAWN):
            yield name, float(value)


def _number(value: Any) -> float | None:
    if isinstance(value, IntMetadataValue | FloatMetadataValue) and value.value is not None:
        return float(value.value)
    return None


def _bounds(experiment: Experiment) -> Mapping[str, float]:
    """The bound of the first gate on each metric."""
    found: dict[str, float] = {}
    for gate in experiment.gates or ():
        if gate.metric is not None and gate.bound is not None:
            found.setdefault(gate.metric, float(gate.bound[1]))
    return found

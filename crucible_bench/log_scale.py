"""Comparisons on the logarithmic scale, for times, sizes and costs: differences become ratios of geometric means.

If the logarithms of two groups have the means m and n, exp(m - n) is the ratio of the groups' geometric means, and the
ends of the interval of m - n become those of the ratio (Bland & Altman 1996, BMJ 312: 1153).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from crucible_bench.compared import ComparedGroup, FamilyResult
from crucible_bench.comparison import Comparison
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Interval, TestResult

__all__ = ["as_ratios", "logarithms"]


def logarithms(groups: Mapping[str, Any]) -> dict[str, Any]:
    """Natural logarithms of each group's values, of shape (n,).

    Raises CannotTestError for a value that is not above 0. Values that are not numbers stay as they are: the test
    refuses them.
    """
    return {name: _logarithms(name, values) for name, values in groups.items()}


def _logarithms(name: str, values: Any) -> Any:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return values
    if numbers.ndim == 1 and (numbers <= 0).any():
        position = int(np.argmax(numbers <= 0))
        reason = f"group {name!r}, position {position}: {numbers[position]:g} has no logarithm; values must be above 0"
        raise CannotTestError("scale: log", reason)
    return np.log(numbers)


def as_ratios(comparison: Comparison) -> Comparison:
    """A comparison of logarithms, written in the units of the data: estimates are ratios, means geometric means."""
    best = comparison.best
    if best is not None:
        mean = best.mean
        best = replace(
            best,
            contenders=tuple(
                replace(one, mean=math.exp(one.mean), interval=one.interval and _exp(one.interval))
                for one in best.contenders
            ),
            mean=mean
            and replace(
                mean,
                mean=math.exp(mean.mean),
                interval=_exp(mean.interval),
                uncorrected=_exp(mean.uncorrected),
                notes=(),  # the ratio of the widths is that of the logarithms
            ),
        )
    return replace(
        comparison,
        scale="log",
        groups={name: _group(group) for name, group in comparison.groups.items()},
        quantiles={
            name: replace(of, value=math.exp(of.value), interval=of.interval and _exp(of.interval))
            for name, of in comparison.quantiles.items()
        },
        tests=tuple(map(_test, comparison.tests)),
        comparisons=None if comparison.comparisons is None else _family(comparison.comparisons),
        best=best,
    )


def _group(group: ComparedGroup) -> ComparedGroup:
    return replace(
        group,
        mean=math.exp(group.mean),
        sd=None if group.sd is None else math.exp(group.sd),
        median=math.exp(group.median),
        mean_interval=None if group.mean_interval is None else _exp(group.mean_interval),
        values=tuple(map(math.exp, group.values)),
    )


def _test(test: TestResult) -> TestResult:
    name = _ratio(test.estimate_name)
    if name is None or test.null_value != 0.0:
        return test  # an effect size, or a probability
    interval = _exp(test.confidence_interval)
    return replace(
        test, estimate=math.exp(test.estimate), confidence_interval=interval, estimate_name=name, null_value=1.0
    )


def _family(family: FamilyResult) -> FamilyResult:
    name = _ratio(family.estimate_name)
    if name is None or family.null_value != 0.0:
        return family
    pairs = tuple(
        replace(pair, estimate=math.exp(pair.estimate), confidence_interval=_exp(pair.confidence_interval))
        for pair in family.comparisons
    )
    return replace(family, comparisons=pairs, estimate_name=name, null_value=1.0)


_RATIOS = {
    "Hodges-Lehmann shift": "Hodges-Lehmann ratio",
    "difference of means": "ratio of geometric means",
    "mean difference": "ratio of geometric means",
    "median difference": "median ratio",
    "difference of": "ratio of",  # quantiles, which are those of the data's logarithms
}


def _ratio(name: str) -> str | None:
    """`difference of means (a - b)` as the ratio that it becomes: `ratio of geometric means (a / b)`."""
    for difference, ratio in _RATIOS.items():
        if name.startswith(difference):
            return ratio + name.removeprefix(difference).replace(" - ", " / ")
    return None


def _exp(interval: Interval) -> Interval:
    return math.exp(interval[0]), math.exp(interval[1])

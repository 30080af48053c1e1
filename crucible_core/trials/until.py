"""When a sweep has enough replicates: each difference from the baseline has a narrow interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from crucible_core.values.jsonable import as_number

__all__ = ["Difference", "differences", "widest"]


class Difference(NamedTuple):
    """The mean difference of an arm from the baseline, in units of the measure."""

    arm: str
    estimate: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.arm} {self.estimate:.4g} ({self.lower:.4g} to {self.upper:.4g})"


def differences(
    rows: Iterable[Mapping[str, Any]],
    arms: Sequence[str],
    baseline: str,
    measure: str,
    *,
    alpha: float,
    tightest_at: int,
) -> list[Difference]:
    """For each other arm, the difference over the replicates that have both, in their order, and its interval.

    With probability 1 - alpha the intervals of all arms, at all numbers of replicates, cover the mean differences (a
    confidence sequence of normal differences for each arm, Bonferroni's correction for the number of arms). An interval
    is infinite as long as nothing can be said. Raises CannotTestError for differences that no test takes.
    """
    from crucible_bench.sequential.confidence_sequences import t_mixture_sequence  # noqa: PLC0415  # loads scipy

    values: dict[str, dict[int, float]] = {arm: {} for arm in arms}
    for row in rows:
        value = as_number(row.get(measure))
        if value is not None and not math.isnan(value):
            values[row["arm"]][row["replicate"]] = float(value)
    first = values.pop(baseline)
    found = []
    for arm, own in values.items():
        pairs = [own[replicate] - value for replicate, value in first.items() if replicate in own]
        difference = Difference(arm, math.nan, -math.inf, math.inf)
        if pairs:
            sequence = t_mixture_sequence(pairs, alpha=alpha / len(values), tightest_at=tightest_at)
            difference = Difference(arm, sequence.estimates[-1], *sequence.interval)
        found.append(difference)
    return found


def widest(found: Iterable[Difference]) -> float:
    """The length of the widest interval."""
    return max(one.upper - one.lower for one in found)

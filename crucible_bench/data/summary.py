"""Describing one group."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crucible_bench.data.moments import moments
from crucible_bench.data.sample import Values, read_sample, scale_exponent, scaled, unscaled


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """n, mean, sd (the n - 1 one; None for a single value) and median, in the units of the data."""

    n: int
    mean: float
    sd: float | None
    median: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


def summarize(values: Values) -> GroupSummary:
    """Describe one group of numbers, of any scale.

    Raises CannotTestError for what no test would take either: no values, missing or infinite ones, booleans, text,
    more than one dimension.
    """
    sample = read_sample("summary", "values", values)
    exponent = scale_exponent((sample,))
    of = moments(sample.values, exponent)
    sd = None if of.n == 1 else unscaled("summary", math.sqrt(of.variance), exponent)
    median = float(np.median(scaled(sample.values, exponent)))
    return GroupSummary(of.n, unscaled("summary", of.mean, exponent), sd, unscaled("summary", median, exponent))

"""Describing one group."""

from __future__ import annotations

import math

import numpy as np

from crucible_bench.compared import GroupSummary
from crucible_bench.data.moments import moments
from crucible_bench.data.sample import Values, read_sample, scale_exponent, scaled, unscaled


def summarize(values: Values) -> GroupSummary:
    """n, mean, sd (the n - 1 one) and median of one group of numbers, shape (n,), in the units of the data.

    Raises CannotTestError for data that no test takes: no values, missing or infinite ones, booleans, text, more than
    one dimension.
    """
    sample = read_sample("summary", "values", values)
    exponent = scale_exponent((sample,))
    of = moments(sample.values, exponent)
    sd = None if of.n == 1 else unscaled("summary", math.sqrt(of.variance), exponent)
    median = float(np.median(scaled(sample.values, exponent)))
    return GroupSummary(of.n, unscaled("summary", of.mean, exponent), sd, unscaled("summary", median, exponent))

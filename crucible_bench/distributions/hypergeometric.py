"""The distribution of a 2 x 2 table's first cell, given its margins and the odds ratio."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy import optimize

from crucible_bench.data.sample import Vector
from crucible_bench.result import Interval
from crucible_bench.vocabulary import Alternative

Margins = tuple[int, int, int]
"""Outcomes in the first row, in the second row, and in the first column."""

MOST_CELLS: Final = 1 << 22  # at most this many first cells are listed; a table with more needs no exact test

_EQUAL = 1.0 + 1e-7  # R's tolerance for tables as probable as the observed one
_FARTHEST = 60.0
_FLAT = 700.0


def fisher_tail(first: int, margins: Margins, alternative: Alternative, *, mid_p: bool = False) -> float:
    """Fisher's exact p-value (1935); two-sided, it sums all tables no more probable than the observed one, as in R.

    With `mid_p`, half of the observed table counts (Lancaster 1961), and two-sided it is twice the smaller tail (Hirji,
    Tan & Elashoff 1991).
    """
    cells, weights = _weights(margins, 0.0)
    observed = float(weights[cells == first][0])
    if mid_p:
        below = float(weights[cells < first].sum()) + observed / 2.0
        return {"less": below, "greater": 1.0 - below}.get(alternative, 2.0 * min(below, 1.0 - below))
    if alternative != "two-sided":
        chosen = cells >= first if alternative == "greater" else cells <= first
        return min(1.0, float(weights[chosen].sum()))
    return min(1.0, float(weights[weights <= observed * _EQUAL].sum()))


def conditional_odds_ratio(first: int, margins: Margins) -> float:
    """The odds ratio under which the observed cell is the expected one: the conditional maximum-likelihood estimate."""
    low, high = support(margins)
    if first == low:
        return 0.0
    if first == high:
        return math.inf

    def surplus(log_ratio: float) -> float:
        cells, weights = _weights(margins, log_ratio)
        return float(np.dot(cells, weights)) - first

    return math.exp(optimize.brentq(surplus, -_FARTHEST, _FARTHEST, xtol=1e-13))


def conditional_interval(first: int, margins: Margins, tail: float) -> Interval:
    """The odds ratios under which neither tail at the observed cell is below `tail` (Cornfield 1956; R's interval)."""
    low, high = support(margins)

    def end(upper_tail: bool) -> float:
        def surplus(log_ratio: float) -> float:
            cells, weights = _weights(margins, log_ratio)
            return float(weights[cells >= first if upper_tail else cells <= first].sum()) - tail

        reach = _FARTHEST
        while surplus(-reach) * surplus(reach) > 0.0 and reach < _FLAT:
            reach *= 2.0
        return math.exp(optimize.brentq(surplus, -reach, reach, xtol=1e-13))

    return (0.0 if first == low else end(True)), (math.inf if first == high else end(False))


def support(margins: Margins) -> tuple[int, int]:
    """The smallest and the largest first cell that these margins allow."""
    row, other, column = margins
    return max(0, column - other), min(row, column)


def _weights(margins: Margins, log_ratio: float) -> tuple[Vector, Vector]:
    row, other, column = margins
    low, high = support(margins)
    cells = np.arange(float(low), high + 1.0)
    # From one cell to the next, because differences of log-factorials of large counts have lost their digits.
    before = cells[:-1]
    steps = np.log((row - before) / (before + 1.0)) + np.log((column - before) / (other - column + before + 1.0))
    logs = np.concatenate(([0.0], np.cumsum(steps + log_ratio)))
    weights = np.exp(logs - logs.max())
    return cells, weights / weights.sum()

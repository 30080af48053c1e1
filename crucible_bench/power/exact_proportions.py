"""Exact power of the tests of proportions: sums over all outcomes that the tests themselves reject."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_bench.data.sample import Vector
from crucible_bench.distributions.hypergeometric import MOST_CELLS, fisher_tail, support
from crucible_bench.hypothesis_tests.share_difference import LEAST_EXPECTED
from crucible_bench.vocabulary import Alternative

_REACH: Final = 9.0  # standard deviations; a binomial exceeds it with a probability too small to matter
_ROWS: Final = 1 << 20
_SLACK: Final = 1e-12

Whole = NDArray[np.int64]


def binomial_power(n: int, probability: float, reference: float, alpha: float, alternative: Alternative) -> float:
    """The power of the exact binomial test of `reference` when outcomes succeed with `probability`."""
    tail = alpha / 2.0 if alternative == "two-sided" else alpha
    power = 0.0
    if alternative != "greater":
        below = _last(np.array([n]), lambda k, size: _at_most(k, size, reference), tail)[0]
        power += float(_at_most(np.array([below]), np.array([n]), probability)[0])
    if alternative != "less":
        failed = _last(np.array([n]), lambda k, size: _at_most(k, size, 1.0 - reference), tail)[0]
        power += float(_at_most(np.array([failed]), np.array([n]), 1.0 - probability)[0])
    return min(1.0, power)


def mcnemar_power(
    n: int, difference: float, discordant: float, alpha: float, alternative: Alternative, *, mid_p: bool
) -> float:
    """The power of McNemar's test of n pairs, a share `discordant` of which differ, the first winning more of them."""
    sizes, weights = _likely(n, discordant)
    tail = alpha / 2.0 if alternative == "two-sided" else alpha
    first = min(1.0, max(0.0, 0.5 + difference / discordant / 2.0))

    def lower(k: Whole, size: Whole) -> Vector:
        return _at_most(k, size, 0.5) - (_exactly(k, size, 0.5) / 2.0 if mid_p else 0.0)

    cut = _last(sizes, lower, tail)
    power: Vector = np.zeros(sizes.size)
    if alternative != "greater":
        power += _at_most(cut, sizes, first)
    if alternative != "less":
        power += _at_most(cut, sizes, 1.0 - first)
    return min(1.0, float(np.dot(weights, power)))


def two_proportions_power(
    sizes: tuple[int, int], first: float, second: float, alpha: float, alternative: Alternative
) -> float:
    """The power of the N - 1 chi-square of two proportions, or Fisher's mid-p where an expected count is below 1."""
    (n, m), total = sizes, sum(sizes)
    rows, row_weights = _likely(n, first)
    columns, column_weights = _likely(m, second)
    few = _few_rejections(sizes, alpha, alternative)
    critical = -float(special.ndtri(alpha / 2.0 if alternative == "two-sided" else alpha))
    power, height = 0.0, max(1, _ROWS // columns.size)
    for start in range(0, rows.size, height):
        k = rows[start : start + height, None]
        together = k + columns
        # n m (p1 - p2) against the critical z times n m standard errors, multiplied out: no division by zero.
        difference = (k * m - columns * n).astype(np.float64)
        reach = critical * np.sqrt(together * (total - together) * (float(n) * m / (total - 1.0))) * (1.0 - _SLACK)
        if alternative == "two-sided":
            rejected = np.abs(difference) >= reach
        else:
            rejected = (difference if alternative == "greater" else -difference) >= reach
        rejected &= (together > 0) & (together < total)
        rare = min(sizes) * np.minimum(together, total - together) < LEAST_EXPECTED * total
        if rare.any() and few is not None:
            pairs = zip(np.broadcast_to(k, rare.shape)[rare].tolist(), together[rare].tolist(), strict=True)
            rejected[rare] = [pair in few for pair in pairs]
        power += float(row_weights[start : start + height] @ (rejected @ column_weights))
    return min(1.0, power)


def _few_rejections(sizes: tuple[int, int], alpha: float, alternative: Alternative) -> set[tuple[int, int]] | None:
    """The (successes of the first, successes of both) that Fisher's mid-p rejects, where it is the one used."""
    total = sum(sizes)
    if min(sizes) > MOST_CELLS:
        return None
    most = min(total // 2, math.ceil(LEAST_EXPECTED * total / min(sizes)) - 1)
    found: set[tuple[int, int]] = set()
    for rare in range(1, most + 1):
        for together in {rare, total - rare}:
            low, high = support((*sizes, together))
            found.update(
                (k, together)
                for k in range(low, high + 1)
                if fisher_tail(k, (*sizes, together), alternative, mid_p=True) <= alpha
            )
    return found


def _likely(n: int, probability: float) -> tuple[Whole, Vector]:
    """The counts that a binomial takes with more than a negligible probability, and those probabilities."""
    spread = _REACH * math.sqrt(n * probability * (1.0 - probability)) + 2.0 * _REACH
    low, high = max(0, math.floor(n * probability - spread)), min(n, math.ceil(n * probability + spread))
    counts = np.arange(low, high + 1, dtype=np.int64)
    return counts, _exactly(counts, np.full(counts.size, n, dtype=np.int64), probability)


def _exactly(k: Whole, n: Whole, probability: float) -> Vector:
    with np.errstate(under="ignore"):
        log = special.gammaln(n + 1.0) - special.gammaln(k + 1.0) - special.gammaln(n - k + 1.0)
        weights: Vector = np.exp(log + special.xlogy(k, probability) + special.xlog1py(n - k, -probability))
    return np.where((k >= 0) & (k <= n), weights, 0.0)


def _at_most(k: Whole, n: Whole, probability: float) -> Vector:
    """P(X <= k), elementwise; 0 below the support and 1 from n on."""
    inside = (k >= 0) & (k < n)
    safe = np.where(inside, k, 0)
    below: Vector = special.betaincc(safe + 1.0, np.maximum(n - safe, 1.0), probability)
    return np.where(inside, below, (k >= n) * 1.0)


def _last(sizes: Whole, lower: Callable[[Whole, Whole], Vector], tail: float) -> Whole:
    """For each n the largest k whose lower tail is at most `tail`, -1 where there is none; by bisection."""
    low, high = np.full(sizes.size, -1, dtype=np.int64), sizes.astype(np.int64).copy()
    while (high - low > 1).any():
        middle = (low + high) // 2
        fits = lower(middle, sizes) <= tail * (1.0 + _SLACK)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return low

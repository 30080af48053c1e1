"""Friedman's test: ranks within blocks, for repeated measures without normality."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import special

from crucible_bench.data.pairs import check_blocks
from crucible_bench.data.sample import Sample, Vector
from crucible_bench.distributions.noncentral import noncentral_chi_square_interval
from crucible_bench.result import Choice, Effect, Settings, TestResult, conclude

_MOST_STEPS = 60_000  # of the exact distribution: a fraction of a second
_MOST_GROUPS = 6
_MOST_BLOCKS = 60
_NOISE = 1e-9

_Sums = tuple[int, ...]


def friedman_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Friedman's (1937) test that two or more conditions, measured on the same blocks, rank alike; tie-corrected.

    With few blocks every assignment of the ranks within blocks is counted; otherwise Q is taken as chi-square. The
    effect size is Kendall's W (1939), its interval the noncentralities under which Q is not extreme, over n (k - 1). If
    the values of every block are alike, Q is 0, p is 1, and W may be anything.
    """
    n, k = check_blocks("friedman", samples), len(samples)
    ranks = ranks_within_blocks(samples)
    q = _q(ranks)
    most = n * (k - 1.0)
    if np.ptp(np.column_stack(ranks), axis=1).any():
        p_value, note, choice = _p_value(q, ranks)
        low, high = noncentral_chi_square_interval(q, k - 1.0, settings.confidence_level)
    else:
        p_value, note = 1.0, "the values of every block are alike: there is nothing to rank"
        choice, low, high = Choice("p = 1", "no arrangement of ties is less extreme"), 0.0, most
    effect = Effect(
        "kendall_w",
        min(1.0, q / most),
        (min(1.0, low / most), min(1.0, high / most)),
        Choice(
            "noncentral chi-square interval for the effect size", "it agrees with the test about zero", ("bootstrap",)
        ),
        () if high > 0.0 else ("a Q this low is improbable even without an effect: both ends of W's interval are 0",),
    )
    return conclude(
        "friedman",
        samples,
        settings,
        method="Friedman rank sum test",
        statistic=("Q", q),
        df=(k - 1.0,),
        p_value=p_value,
        estimate=(effect.name, effect.value, effect.interval),
        effect=effect,
        assumptions=(
            "values at the same position of the groups belong to one block",
            "blocks are independent of each other",
            "without an effect the values of a block could be exchanged",
        ),
        notes=(note,),
        decisions=(choice,),
        disagreement="Q tests one tail, the interval leaves out two"
        " (1 - 2 * alpha as the confidence level makes them agree)",
    )


def ranks_within_blocks(samples: Sequence[Sample]) -> list[Vector]:
    """Midranks within each block, one vector of shape (n,) per group."""
    ranks = []
    for sample in samples:
        rank = np.full(sample.n, 0.5)
        for other in samples:
            rank += other.values < sample.values
            rank += 0.5 * (other.values == sample.values)
        ranks.append(rank)
    return ranks


def _q(ranks: list[Vector]) -> float:
    k = len(ranks)
    centre = (k + 1.0) / 2.0
    spread = sum(float(np.square(rank - centre).sum()) for rank in ranks)
    between = sum(float((rank - centre).sum()) ** 2 for rank in ranks)
    return (k - 1.0) * between / spread if spread > 0.0 else 0.0


def _p_value(q: float, ranks: list[Vector]) -> tuple[float, str, Choice]:
    k, n = len(ranks), ranks[0].size
    null = _every_assignment(ranks) if k <= _MOST_GROUPS and n <= _MOST_BLOCKS else None
    if null is None:
        choice = Choice("chi-square distribution of Q", f"{n} blocks of {k}", ("exact distribution",))
        rough = f"{n} blocks: below 10 the chi-square approximation is rough" if n < 10 else "chi-square approximation"
        return float(special.chdtrc(k - 1.0, q)), rough, choice
    choice = Choice("exact distribution of Q", f"{n} blocks of {k}: every assignment is counted", ("chi-square",))
    centre, spread = n * (k + 1.0), sum(float(np.square(rank - (k + 1.0) / 2.0).sum()) for rank in ranks)
    p_value = sum(
        weight
        for sums, weight in null.items()
        if (k - 1.0) * sum((total - centre) ** 2 for total in sums) / (4.0 * spread) >= q * (1.0 - _NOISE)
    )
    return min(1.0, p_value), f"exact p-value, {n} blocks of {k}, given the ties if any", choice


def _every_assignment(ranks: list[Vector]) -> dict[_Sums, float] | None:
    """P of each sorted set of doubled rank sums, when each block's ranks fall in any order; None if that takes long.

    Sorted, because a block whose order is random does not care which group has which sum so far.
    """
    blocks = np.rint(2.0 * np.column_stack(ranks)).astype(int)
    states: dict[_Sums, float] = {(0,) * blocks.shape[1]: 1.0}
    steps = 0
    for block in blocks.tolist():
        orders = Counter(itertools.permutations(block))
        steps += len(states) * len(orders)
        if steps > _MOST_STEPS:
            return None
        following: dict[_Sums, float] = {}
        for sums, weight in states.items():
            for order, count in orders.items():
                key = tuple(sorted(map(int.__add__, sums, order)))
                following[key] = following.get(key, 0.0) + weight * count / math.factorial(len(block))
        states = following
    return states

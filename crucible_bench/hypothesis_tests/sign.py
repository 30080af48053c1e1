"""The sign test for pairs."""

from __future__ import annotations

import numpy as np
from scipy import special

from crucible_bench.data.pairs import PairDifferences, pair_differences
from crucible_bench.data.sample import Sample, unscaled
from crucible_bench.hypothesis_tests.proportions import clopper_pearson
from crucible_bench.hypothesis_tests.share_difference import binomial_tail
from crucible_bench.result import Choice, Effect, Interval, Settings, TestResult, conclude
from crucible_bench.wording import counted


def sign_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Exact sign test (Arbuthnott 1710; Dixon & Mood 1946) that the median difference within pairs is zero.

    Differences of zero are dropped, including those within the rounding error of what was subtracted. The median's
    interval runs between order statistics of all differences (Thompson 1936).
    """
    pairs = pair_differences("sign", samples)
    signs = np.sign(pairs.signed_levels())
    positive, negative = int(np.count_nonzero(signs > 0)), int(np.count_nonzero(signs < 0))
    n = positive + negative
    zeros = signs.size - n
    interval, depth_note = _median_interval(pairs, settings)
    return conclude(
        "sign",
        samples,
        settings,
        method=f"sign test, {settings.sides}",
        statistic=("positive differences", float(positive)),
        df=(),
        p_value=binomial_tail(positive, n, 0.5, settings.alternative),
        estimate=(
            f"median difference ({samples[0].name} - {samples[1].name})",
            unscaled("sign", float(np.median(pairs.values)), pairs.exponent),
            settings.bounded(interval),
        ),
        effect=_share_of_positive(positive, n, settings) if n else None,
        assumptions=("values at the same position of the two groups belong together", "pairs are independent"),
        notes=(
            *((f"{counted(zeros, 'zero difference')} dropped",) if zeros else ()),
            f"exact p-value, {positive} of {n} differences are positive",
            *depth_note,
        ),
        decisions=(),
        disagreement="the test drops differences of zero, the interval keeps them",
    )


def _share_of_positive(positive: int, n: int, settings: Settings) -> Effect:
    """Cohen's g (1988, chapter 5): the share of positive signs, minus one half."""
    low, high = clopper_pearson(positive, n, settings.tail)
    choice = Choice("Clopper-Pearson interval for the effect size", "exact, given the number of nonzero differences")
    return Effect("cohens_g", positive / n - 0.5, (low - 0.5, high - 0.5), choice)


def _median_interval(pairs: PairDifferences, settings: Settings) -> tuple[Interval, tuple[str, ...]]:
    n, tail = pairs.values.size, settings.estimate_tail
    depth, beyond = 0, (n + 1) // 2 + 1
    while beyond - depth > 1:  # the largest depth that leaves out no more than the tail
        middle = (depth + beyond) // 2
        if float(special.bdtr(middle - 1, n, 0.5)) <= tail:
            depth = middle
        else:
            beyond = middle
    if depth == 0:
        return (-np.inf, np.inf), (f"{counted(n, 'pair')} are too few for a finite interval at this confidence level",)
    ordered = np.partition(pairs.values, (depth - 1, n - depth))
    low, high = (unscaled("sign", float(ordered[place]), pairs.exponent) for place in (depth - 1, n - depth))
    return (low, high), ("interval for the median between order statistics, exact (conservative with ties)",)

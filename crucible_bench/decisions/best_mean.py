"""The mean of the group that was picked as the best of several: an interval that allows for the picking."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy import special

from crucible_bench.compared import BestMean
from crucible_bench.data.moments import LEAST_SQUARES, moments
from crucible_bench.data.outcomes import booleans_as_numbers
from crucible_bench.data.sample import Sample, Values, read_groups, scale_exponent, unscaled
from crucible_bench.decisions.differences import Differences
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.clusters import clustered_mean
from crucible_bench.hypothesis_tests.proportions import proportion_interval
from crucible_bench.levels import levels
from crucible_bench.result import Choice, Interval
from crucible_bench.wording import counted

_NAME = "best"


def mean_of_best(
    groups: Mapping[str, Values],
    *,
    higher_is_better: bool = True,
    paired: bool = False,
    difference: Differences | None = None,
    alpha: float = 0.05,
    confidence_level: float | None = None,
) -> BestMean:
    """The mean of the group with the best mean, with an interval that holds although it was picked for its mean.

    `groups` are name -> values of shape (n,). The best of k looks better than it is, the more so the more groups there
    are and the closer they are together (the winner's curse); its ordinary interval covers too seldom. Here the end on
    the worse side leaves out alpha / (2 k), so that it holds for all k groups at once, whichever is picked: the
    projection interval of Andrews, Kitagawa & McCloskey (2024), with Student's t in place of the normal distribution.
    The end on the better side leaves out alpha / 2 if the groups are independent. It needs no correction: the higher
    the mean of a group, the more likely it is picked, so picking does not make it more likely that its mean is far
    too low (Chebyshev's inequality for a rising and a falling function). Values that belong together
    (`paired`, or another design in `difference`) leave out alpha / (2 k) on this side too.

    So the interval covers the mean with probability 1 - alpha (or `confidence_level`) or more, under the assumptions of
    one group's interval: t for a mean, with the design's standard error, and Clopper-Pearson for a share. Intervals
    that adapt to how far the best is ahead (Zrnic & Fithian 2024) are shorter where it is far ahead.

    Raises CannotTestError for fewer than two groups, if the best one has a single value or no spread, and for data that
    no test takes; ValueError for a level out of range.
    """
    level = levels(alpha, confidence_level)[1]
    samples = read_groups(_NAME, booleans_as_numbers(groups))
    if len(samples) < 2:
        raise CannotTestError(_NAME, "there are fewer than two groups, so none was picked as the best")
    of = (difference or Differences("paired" if paired else "independent")).of(samples)
    means = [_mean(sample) for sample in samples]
    best = samples[means.index(max(means) if higher_is_better else min(means))]
    k, tail = len(samples), (1.0 - level) / 2.0
    plain, wide = _interval(of, best, tail), _interval(of, best, tail / k)
    interval = wide
    if of.design == "independent":
        interval = (wide[0], plain[1]) if higher_is_better else (plain[0], wide[1])
    width, others = interval[1] - interval[0], plain[1] - plain[0]
    return BestMean(
        name=best.name,
        picked_from=k,
        n=best.n,
        mean=_mean(best),
        interval=interval,
        uncorrected=plain,
        confidence_level=level,
        method=f"{'Clopper-Pearson' if of.of_shares else 't'} interval of the best of {k}, Bonferroni over {k}",
        notes=(
            f"the interval of the best mean is {width / others:.3g} times as wide as if {best.name} had been named "
            "before the data were seen",
        ),
        decisions=(
            Choice(
                f"an interval for the best of {counted(k, 'group')}",
                "the group with the best mean was picked by the same data, so its ordinary interval covers too seldom "
                "(Andrews, Kitagawa & McCloskey 2024)",
                ("the interval of a group that was named beforehand",),
            ),
        ),
    )


def interval_of_mean(sample: Sample, of: Differences, level: float) -> Interval | None:
    """The interval of the mean of one group that was named beforehand, by the design; None if it has none."""
    try:
        return _interval(of, sample, (1.0 - level) / 2.0)
    except CannotTestError:
        return None


def _mean(sample: Sample) -> float:
    exponent = scale_exponent((sample,))
    return unscaled(_NAME, moments(sample.values, exponent).mean, exponent)


def _interval(of: Differences, sample: Sample, tail: float) -> Interval:
    """The interval of one group's mean that leaves out `tail` at each end."""
    level = 1.0 - 2.0 * tail
    if of.of_shares:
        return proportion_interval(
            round(float(sample.values.sum())), sample.n, method="clopper_pearson", confidence_level=level
        )
    if of.design == "clustered":
        clusters = of.clusters.get(sample.name) if isinstance(of.clusters, Mapping) else of.clusters
        assert clusters is not None
        return clustered_mean(sample.values, clusters, confidence_level=level).interval
    if sample.n < 2:
        raise CannotTestError(_NAME, f"group {sample.name!r} has one value, so its mean has no interval")
    exponent = scale_exponent((sample,))
    group = moments(sample.values, exponent)
    if sample.is_constant or group.squares < LEAST_SQUARES:
        raise CannotTestError(_NAME, f"the values of {sample.name!r} are all equal, so its mean has no interval")
    shared = 0.0
    if of.design == "resampled":
        shared = 1.0 / (group.n - 1.0) if of.test_share is None else of.test_share
    reach = float(-special.stdtrit(group.n - 1.0, tail)) * math.sqrt(group.variance * (1.0 / group.n + shared))
    return unscaled(_NAME, group.mean - reach, exponent), unscaled(_NAME, group.mean + reach, exponent)

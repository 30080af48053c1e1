"""Values that are related within clusters: several questions on one document, several answers to one question."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_bench.data.missing import is_missing
from crucible_bench.data.moments import LEAST_SQUARES, Moments, moments
from crucible_bench.data.pairs import pair_differences
from crucible_bench.data.sample import (
    Sample,
    Values,
    Vector,
    check_count,
    read_groups,
    read_sample,
    scale_exponent,
    scaled,
    unscaled,
)
from crucible_bench.effect_sizes.standardized import standardized_mean
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.mean_difference import MeanDifference
from crucible_bench.hypothesis_tests.normality import is_skewed_mean
from crucible_bench.hypothesis_tests.ttests import t_interval, t_tail
from crucible_bench.levels import levels
from crucible_bench.result import Choice, Interval, Settings, TestResult, conclude, plain_json
from crucible_bench.settings import read_settings
from crucible_bench.vocabulary import EFFECT_SIZES, Alternative, EffectSizeName
from crucible_bench.wording import counted, listing

Clusters: TypeAlias = Sequence[Hashable] | NDArray[Any]
"""The cluster of each value, in the values' order: any labels that can be compared."""

ClustersOfGroups: TypeAlias = Clusters | Mapping[str, Clusters]
"""The clusters of the positions that groups share, or of each group's own values by the name of the group."""

Codes: TypeAlias = NDArray[np.intp]

_TEST: Final = "clustered_ttest"
_MEAN: Final = "clustered_mean"
FEW_CLUSTERS: Final = 30
_FEW_DF: Final = 18.5  # fewer than twenty clusters of one size: as with few values, the test relies on normal data
_EPS: Final = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class ClusteredMean:
    """A mean with its cluster-robust standard error and t interval.

    `df` are Satterthwaite's. `design_effect` is the variance divided by that of as many independent values: what the
    clusters cost.
    """

    value: float
    standard_error: float
    interval: Interval
    confidence_level: float
    n: int
    clusters: int
    df: float
    design_effect: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        plain: dict[str, Any] = plain_json(asdict(self))
        return plain


def clustered_mean(values: Values, clusters: Clusters, *, confidence_level: float = 0.95) -> ClusteredMean:
    """The mean of values that fall into clusters, with the standard error of `clustered_ttest`.

    `values` and `clusters` have shape (n,); outcomes are given as the numbers 0 and 1. Raises CannotTestError for fewer
    than two clusters, values or cluster averages that are all equal, and data that no test takes; ValueError for a
    level out of range.
    """
    settings = Settings(0.05, levels(0.05, confidence_level)[1], "cohens_dz", 0, 0)
    sample = read_sample(_MEAN, "values", values)
    # Against zeros the differences are the values themselves, with an error that leaves equal ones equal.
    robust = _of_positions(_MEAN, (sample, Sample("zero", np.zeros(sample.n))), clusters)
    return ClusteredMean(
        unscaled(_MEAN, robust.single.mean, robust.exponent),
        unscaled(_MEAN, robust.error, robust.exponent),
        t_interval(_MEAN, (robust.single.mean, robust.error), robust.df, robust.exponent, settings),
        settings.confidence_level,
        sample.n,
        robust.count,
        robust.df,
        robust.design_effect,
        robust.notes,
    )


def clustered_ttest(
    groups: Mapping[str, Values],
    clusters: ClustersOfGroups,
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """The mean difference of two groups whose values fall into the same clusters.

    `groups` holds two rows of values. `clusters` is one row of n labels if value i of both is on item i. Or it maps
    each group's name to the labels of its own values, and the groups may then differ in length: answers to the same
    questions, each asked k times, with the question as the cluster. Values then belong together by their cluster only.

    The estimate is the average of the clusters' differences of means, each with the weight n_a n_b / (n_a + n_b) for
    n_a and n_b values: every item, or answer, counts alike where both groups have as many, and it is the coefficient of
    a regression on the group with an effect of each cluster. Clusters that one group lacks are left out.

    The standard error is CR2, which is unbiased for independent values, with Satterthwaite's degrees of freedom (Bell &
    McCaffrey 2002; Pustejovsky & Tipton 2018; as in R's clubSandwich). For clusters of one size they are the number of
    clusters minus one, and the result is the paired t-test of the clusters' means: for answers to the same questions
    the paired standard error of Miller (2024, "Adding error bars to evals"), for several questions on shared documents
    his clustered one with a small-sample factor.

    The effect size is Hedges' g_z: the mean difference over the standard deviation of one difference, times Hedges'
    factor for the degrees of freedom of that standard deviation. These are Satterthwaite's (1946) of the sum of the
    variation between and within clusters, so about n - 1 if clusters do not matter, and the number of clusters
    minus one if nothing else does.

    Raises CannotTestError for fewer than two clusters, for differences or cluster averages that are all equal, for
    groups on different items and for data that no test takes; ValueError for levels out of range.
    """
    settings = read_settings(
        _TEST,
        EFFECT_SIZES[_TEST],
        effect_size=effect_size,
        alpha=alpha,
        confidence_level=confidence_level,
        alternative=alternative,
    )
    samples = read_groups(_TEST, groups)
    check_count(_TEST, samples, True)
    robust = _robust(_TEST, (samples[0], samples[1]), clusters)
    mean, error, df = robust.single.mean, robust.error, robust.df
    return conclude(
        "clustered_ttest",
        robust.samples,
        settings,
        method=f"paired t-test with cluster-robust standard error, {settings.sides}",
        statistic=("t", mean / error),
        df=(df,),
        p_value=t_tail(mean / error, df, settings.alternative),
        estimate=(
            f"mean difference ({samples[0].name} - {samples[1].name})",
            unscaled(_TEST, mean, robust.exponent),
            t_interval(_TEST, (mean, error), df, robust.exponent, settings),
        ),
        effect=standardized_mean(
            robust.single, settings, error=error, df=df, own_df=robust.spread_df, interval=_EFFECT_INTERVAL
        ),
        assumptions=(
            "values of one cluster belong together across the groups"
            if isinstance(clusters, Mapping)
            else "values at the same position of the two groups belong to one item",
            "clusters are independent of each other; values of one cluster need not be",
            "the mean difference is approximately normal",
        ),
        notes=robust.notes,
        decisions=(
            Choice(
                "cluster-robust standard error CR2, t with Satterthwaite's degrees of freedom",
                "values of one cluster are not independent; it equals the paired t-test where every cluster has one, "
                "and keeps its level better than the usual G - 1 degrees of freedom where sizes differ",
                ("paired t-test of the averages of clusters, which weighs clusters and not values alike",),
            ),
        ),
    )


_EFFECT_INTERVAL: Final = Choice(
    "noncentral-t interval for the effect size, on the cluster-robust t",
    "approximate: it widens with the standard error of the mean and treats the standard deviation as known as well "
    "as from independent clusters; exact for normal differences with one item per cluster",
    ("cluster bootstrap interval",),
)


@dataclass(frozen=True, slots=True)
class _ClusteredDifference(MeanDifference):
    """`more` is how many more clusters there would be, of sizes like the existing ones."""

    def half_width(self, tail: float, more: int) -> float:
        count = self.counts[0]
        df = self.df + more * (self.df + 1.0) / count
        return -float(special.stdtrit(df, tail)) * self.error * math.sqrt(count / (count + more))


def clustered_difference(test: str, samples: tuple[Sample, Sample], clusters: ClustersOfGroups) -> MeanDifference:
    """The mean difference within clusters, with the cluster-robust standard error of `clustered_ttest`."""
    robust = _robust(test, samples, clusters)
    variance = robust.error**2 * robust.count
    return _ClusteredDifference(
        robust.single.mean, robust.error, robust.df, robust.exponent, (variance,), (robust.count,)
    )


def read_clusters(test: str, clusters: Clusters, n: int) -> Codes:
    """Shape (n,): the number of each value's cluster, from 0 in order of appearance; at least two clusters."""
    codes, seen = read_labels(test, clusters, n, "cluster")
    if len(seen) < 2:
        raise CannotTestError(
            test,
            f"all {n} values are of one cluster, {seen[0]!r}, so nothing says how clusters vary; at least two are "
            "needed, and many more for a trustworthy standard error",
        )
    return codes


def read_labels(test: str, given: Clusters, n: int, what: str) -> tuple[Codes, list[Hashable]]:
    """Shape (n,): the number of each value's label, from 0 in order of appearance; and the labels in that order.

    `what` is what a label names. Raises CannotTestError unless there is one label per value, none of them missing.
    """
    labels = _labels(test, given, n, what)
    seen: dict[Hashable, int] = {}
    for place, label in enumerate(labels):
        if not isinstance(label, Hashable):
            raise CannotTestError(
                test, f"the {what} label at position {place} is a {type(label).__name__}; a label is a name or number"
            )
        if is_missing(label) or (isinstance(label, str) and not label.strip()):
            raise CannotTestError(
                test,
                f"the {what} label at position {place} is missing; leave the value out, or give it a {what} of its "
                "own if it shares none",
            )
        seen.setdefault(label, len(seen))
    texts = {str(label).strip() for label in seen}
    if len(texts) < len(seen):
        raise CannotTestError(
            test, f"some {what} labels differ in type or surrounding blanks only, as 1 and '1' do; spell them one way"
        )
    return np.array([seen[label] for label in labels], dtype=np.intp), list(seen)


def _labels(test: str, labels: Clusters, n: int, what: str) -> Sequence[Any]:
    given = cast(object, labels)
    if isinstance(given, (str, bytes, Mapping)) or not (isinstance(given, Sequence) or hasattr(given, "tolist")):
        raise CannotTestError(test, f"the {what}s must be one label per value, not {type(given).__name__}")
    listed: Any = given if isinstance(given, Sequence) else cast(Any, given).tolist()
    if not isinstance(listed, Sequence) or len(listed) != n:
        size = len(listed) if isinstance(listed, Sequence) else "no"
        raise CannotTestError(test, f"there are {n} values but {size} {what} labels; every value needs one")
    return listed


def _robust(test: str, samples: tuple[Sample, Sample], clusters: ClustersOfGroups) -> _Robust:
    if isinstance(clusters, Mapping):
        return _of_labels(test, samples, clusters)
    if samples[0].n != samples[1].n:
        raise CannotTestError(
            test,
            f"value i of both groups is on item i, but {samples[0].name!r} has {samples[0].n} values and "
            f"{samples[1].name!r} has {samples[1].n}; give the clusters of each group's own values, by its name",
        )
    return _of_positions(test, samples, clusters)


def _of_positions(test: str, samples: tuple[Sample, Sample], clusters: Clusters) -> _Robust:
    """From differences by position, n >= 2. CannotTestError if they, or the clusters' averages, are all equal."""
    codes = read_clusters(test, clusters, samples[0].n)
    pairs = pair_differences(test, samples)
    of = moments(pairs.values, 0)
    if pairs.is_constant or of.squares < LEAST_SQUARES:
        what = "values" if test == _MEAN else "differences"
        raise CannotTestError(
            test,
            f"all {of.n} {what} are equal up to rounding, so the standard error is zero; nothing can be said about "
            "how sure their mean is",
        )
    sizes = np.bincount(codes)
    from_mean = pairs.values - of.reference - of.offset
    averages = np.bincount(codes, weights=from_mean) / sizes
    within = _variance_within(from_mean, codes, averages)
    rounding = 4.0 * (float(pairs.error.max()) + _EPS)
    weights = sizes.astype(np.float64)
    between = float(np.dot(weights, np.square(averages)))
    inside = within * (of.n - sizes.size)
    spread_df = _satterthwaite(between + inside, (between, sizes.size - 1), (inside, of.n - sizes.size))
    parts = within / weights
    return _Robust.of(test, samples, (sizes, sizes), weights, averages, parts, of, spread_df, pairs.exponent, rounding)


def _of_labels(test: str, samples: tuple[Sample, Sample], clusters: Mapping[str, Clusters]) -> _Robust:
    """From the averages of each group in each cluster that both have."""
    kept, codes, left_out = _shared(test, samples, clusters)
    exponent = scale_exponent(kept)
    values = [scaled(sample.values, exponent) for sample in kept]
    centre = float(values[0].mean())
    own = max(float(np.abs(one - centre).max()) for one in values)
    shift = math.frexp(own)[1] if own > 0.0 else 0  # differences may be far smaller than the values
    values = [scaled(one - centre, shift) for one in values]
    rounding = math.ldexp(8.0 * _EPS, -shift) + 8.0 * _EPS
    count = int(codes[0].max()) + 1
    sizes = [np.bincount(one, minlength=count) for one in codes]
    means = [np.bincount(one, weights=of) / n for one, of, n in zip(codes, values, sizes, strict=True)]
    within = [_variance_within(*one) for one in zip(values, codes, means, strict=True)]
    averages = means[0] - means[1]
    weights = 1.0 / (1.0 / sizes[0] + 1.0 / sizes[1])
    mean = float(np.dot(weights, averages)) / float(weights.sum())
    parts = within[0] / sizes[0] + within[1] / sizes[1]
    # The variance of a difference between one value of each group, whatever the number of values.
    between = float(averages.var(ddof=1))
    variance = max(0.0, between + sum(within) - float(parts.mean()))
    single = Moments(count, mean, 0.0, variance * (count - 1))
    inside = [(own, of.size - count) for own, of in zip(within, values, strict=True)]
    spread_df = _satterthwaite(between + sum(within), (between, count - 1), *inside)
    return _Robust.of(
        test,
        kept,
        (sizes[0], sizes[1]),
        weights,
        averages - mean,
        parts,
        single,
        spread_df,
        exponent + shift,
        rounding,
        left_out,
    )


def _shared(
    test: str, samples: tuple[Sample, Sample], clusters: Mapping[str, Clusters]
) -> tuple[tuple[Sample, Sample], tuple[Codes, Codes], int]:
    """The values in clusters that both groups have, the clusters' numbers, and how many others there are."""
    for sample in samples:
        if sample.name not in clusters:
            raise CannotTestError(test, f"there are no clusters of group {sample.name!r}, only of {listing(clusters)}")
    first, second = samples
    labels = [label for one in (first, second) for label in _labels(test, clusters[one.name], one.n, "cluster")]
    together = read_clusters(test, labels, first.n + second.n)
    own = together[: first.n], together[first.n :]
    common = np.intersect1d(*own)
    if common.size < 2:
        raise CannotTestError(
            test,
            f"{first.name!r} and {second.name!r} share {counted(int(common.size), 'cluster')}; at least two are needed",
        )
    kept = np.isin(own[0], common), np.isin(own[1], common)
    return (
        (Sample(first.name, first.values[kept[0]]), Sample(second.name, second.values[kept[1]])),
        (np.searchsorted(common, own[0][kept[0]]), np.searchsorted(common, own[1][kept[1]])),
        int(together.max()) + 1 - int(common.size),
    )


def _variance_within(values: Vector, codes: Codes, averages: Vector) -> float:
    """The variance of the values within clusters, pooled; 0 where no cluster has two."""
    df = values.size - averages.size
    return float(np.square(values - averages[codes]).sum()) / df if df > 0 else 0.0


def _satterthwaite(total: float, *parts: tuple[float, int]) -> float:
    """The degrees of freedom of a sum of independent parts, each with its own; a part without any is zero."""
    if not total > 0.0:  # refused in a moment
        return 1.0
    return 1.0 / sum((part / total) ** 2 / df for part, df in parts if df > 0)


@dataclass(frozen=True, slots=True)
class _Robust:
    """A mean of clusters' averages and its CR2 standard error, divided by 2**exponent.

    `single` has the mean, and the variance of one difference. `within` is the share of the squared error that is from
    variation within clusters; None if it cannot be estimated.
    """

    samples: tuple[Sample, Sample]
    single: Moments
    error: float
    df: float
    count: int
    smallest: int
    largest: int
    exponent: int
    within: float | None
    left_out: int
    is_paired: bool
    is_skewed: bool
    spread_df: float

    @classmethod
    def of(
        cls,
        test: str,
        samples: tuple[Sample, Sample],
        sizes: tuple[Codes, Codes],
        weights: Vector,
        from_mean: Vector,
        within: Vector,
        single: Moments,
        spread_df: float,
        exponent: int,
        rounding: float,
        left_out: int | None = None,
    ) -> _Robust:
        """From the clusters' weights, the distances of their averages from the mean, and the parts of the averages'
        variances that come from within clusters.

        For p the share of a cluster in the weights, the adjustment of CR2 is 1 / sqrt(1 - p), and with q = p**2 /
        (1 - p) the degrees of freedom are 1 / (sum p**2 + (sum q)**2 - sum q**2): Bell and McCaffrey's for a mean.
        """
        if (np.abs(from_mean) <= rounding).all():
            raise CannotTestError(
                test,
                f"the {weights.size} clusters' averages are all equal up to rounding, so the cluster-robust standard "
                "error is zero; check the cluster labels",
            )
        share = weights / weights.sum()
        lever = share**2 / (1.0 - share)
        scale = float(np.abs(from_mean).max())  # squares next to 1e-160 would vanish
        squares = float(np.dot(lever, np.square(from_mean / scale)))
        from_within = float(np.dot(share**2, within)) / scale**2
        return cls(
            samples,
            single,
            scale * math.sqrt(squares),
            1.0 / float(np.square(share).sum() + lever.sum() ** 2 - np.square(lever).sum()),
            int(weights.size),
            int(min(of.min() for of in sizes)),
            int(max(of.max() for of in sizes)),
            exponent,
            min(1.0, from_within / squares) if from_within > 0.0 else None,
            left_out or 0,
            left_out is None,
            is_skewed_mean(
                float(np.dot(share**3, (from_mean / scale) ** 3)), squares, 1.0 / float(np.square(share).sum())
            ),
            spread_df,
        )

    @property
    def design_effect(self) -> float:
        return (self.error / math.sqrt(self.single.variance / self.single.n)) ** 2

    @property
    def notes(self) -> tuple[str, ...]:
        sizes = f"{self.smallest}" if self.smallest == self.largest else f"{self.smallest} to {self.largest}"
        if self.is_paired:
            notes = [
                f"{self.count} clusters of {sizes} of the {self.single.n} items; the standard error is "
                f"{math.sqrt(self.design_effect):.3g} times that of independent items"
            ]
        else:
            notes = [f"{self.count} clusters with {sizes} values of each group"]
        if self.left_out:
            notes.append(f"{counted(self.left_out, 'cluster')} left out, which only one of the groups has")
        if self.within is not None:
            notes.append(
                f"about {self.within:.0%} of the squared standard error is from variation within clusters, which more "
                "values per cluster lower; only more clusters lower the rest (Miller 2024)"
            )
        if self.df < (self.count - 1) / 2.0:
            notes.append(
                f"a few of the {self.count} clusters have most of the values, so they are worth {self.df + 1.0:.2g} of "
                "one size; in simulations of such clusters without a difference the test rejected in up to 9 % where "
                "5 % were promised; the paired t-test of the clusters' averages keeps its level"
            )
        elif self.df < _FEW_DF:
            notes.append(
                f"{self.count} clusters are few: the test then relies on normal differences, which so few can neither "
                "show nor rule out; with lognormal ones it rejects in up to 15 % where 5 % are promised"
            )
        elif self.is_skewed:
            notes.append(
                "the clusters' averages are so skewed that t-tests and their intervals err in up to 12 % where 5 % are "
                "promised (Cochran 1977)"
            )
        return tuple(notes)

"""Values that are related within clusters: several questions on one document, several runs on one seed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from crucible_bench.data.missing import is_missing
from crucible_bench.data.moments import LEAST_SQUARES, Moments, moments
from crucible_bench.data.pairs import PairDifferences, pair_differences
from crucible_bench.data.sample import Sample, Values, check_count, read_groups, read_sample, unscaled
from crucible_bench.effect_sizes.standardized import standardized_mean
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.mean_difference import MeanDifference
from crucible_bench.hypothesis_tests.ttests import t_interval, t_tail
from crucible_bench.levels import levels
from crucible_bench.result import Choice, Interval, Settings, TestResult, conclude, plain_json
from crucible_bench.settings import read_settings
from crucible_bench.vocabulary import Alternative

Clusters: TypeAlias = Sequence[Hashable] | NDArray[Any]
"""The cluster of each value, in the values' order: any labels that can be compared."""

Codes: TypeAlias = NDArray[np.intp]

_TEST: Final = "clustered_ttest"
_MEAN: Final = "clustered_mean"
FEW_CLUSTERS: Final = 30
_EPS: Final = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class ClusteredMean:
    """A mean with its cluster-robust standard error and t interval.

    `design_effect` is the variance over that of as many independent values: what clusters cost.
    """

    value: float
    standard_error: float
    interval: Interval
    confidence_level: float
    n: int
    clusters: int
    df: int
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
    codes = read_clusters(_MEAN, clusters, sample.n)
    # Against zeros the differences are the values themselves, with an error that leaves equal ones equal.
    robust = _Robust.of(_MEAN, pair_differences(_MEAN, (sample, Sample("zero", np.zeros(sample.n)))), codes)
    return ClusteredMean(
        unscaled(_MEAN, robust.moments.mean, robust.exponent),
        unscaled(_MEAN, robust.error, robust.exponent),
        t_interval(_MEAN, (robust.moments.mean, robust.error), robust.df, robust.exponent, settings),
        settings.confidence_level,
        sample.n,
        robust.count,
        robust.df,
        robust.design_effect,
        robust.notes,
    )


def clustered_ttest(
    groups: Mapping[str, Values],
    clusters: Clusters,
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """The mean difference of two groups on the same items, where the items fall into clusters.

    `groups` holds two rows of n values, value i of both on item i, and `clusters` the cluster of each item. Every item
    has the same weight. The standard error is the cluster-robust one of an intercept (Liang & Zeger 1986). For G
    clusters it has the factor G / (G - 1) and G - 1 degrees of freedom (Cameron & Miller 2015, section VI; for
    questions on shared documents Miller 2024, "Adding error bars to evals"). With one item per cluster it is the paired
    t-test.

    Raises CannotTestError for fewer than two clusters, for differences or cluster averages that are all equal, for
    groups on different items and for data that no test takes; ValueError for levels out of range.
    """
    settings = read_settings(
        _TEST, ("cohens_dz",), alpha=alpha, confidence_level=confidence_level, alternative=alternative
    )
    samples = read_groups(_TEST, groups)
    check_count(_TEST, samples, True)
    if samples[0].n != samples[1].n:
        raise CannotTestError(
            _TEST,
            f"both groups need the same items, but {samples[0].name!r} has {samples[0].n} values and "
            f"{samples[1].name!r} has {samples[1].n}; for different items compare the averages of the clusters (ttest)",
        )
    codes = read_clusters(_TEST, clusters, samples[0].n)
    robust = _Robust.of(_TEST, pair_differences(_TEST, samples), codes)
    mean, error, df = robust.moments.mean, robust.error, robust.df
    return conclude(
        "clustered_ttest",
        samples,
        settings,
        method=f"paired t-test with cluster-robust standard error, {settings.sides}",
        statistic=("t", mean / error),
        df=(float(df),),
        p_value=t_tail(mean / error, df, settings.alternative),
        estimate=(
            f"mean difference ({samples[0].name} - {samples[1].name})",
            unscaled(_TEST, mean, robust.exponent),
            t_interval(_TEST, (mean, error), df, robust.exponent, settings),
        ),
        effect=standardized_mean(robust.moments, settings, error=error, df=df, interval=_EFFECT_INTERVAL),
        assumptions=(
            "values at the same position of the two groups belong to one item",
            "clusters are independent of each other; items of one cluster need not be",
            "the mean difference is approximately normal (many clusters, none of which dominates)",
        ),
        notes=robust.notes,
        decisions=(
            Choice(
                "cluster-robust standard error, t with one degree of freedom less than there are clusters",
                "items of one cluster are not independent; it equals the paired t-test where every cluster has one",
                ("paired t-test of the averages of clusters, which weighs clusters and not items alike",),
            ),
        ),
    )


_EFFECT_INTERVAL: Final = Choice(
    "noncentral-t interval for the effect size, on the cluster-robust t",
    "approximate: it widens with the standard error of the mean and treats the standard deviation as known as well "
    "as from independent clusters; exact for normal differences with one item per cluster",
    ("cluster bootstrap interval",),
)


def clustered_difference(test: str, samples: tuple[Sample, Sample], clusters: Clusters) -> MeanDifference:
    """The mean difference on the same items, its standard error cluster-robust as that of `clustered_ttest`."""
    codes = read_clusters(test, clusters, samples[0].n)
    robust = _Robust.of(test, pair_differences(test, samples), codes)
    variance = robust.error**2 * robust.count
    return MeanDifference(
        robust.moments.mean, robust.error, float(robust.df), robust.exponent, (variance,), (robust.count,)
    )


def read_clusters(test: str, clusters: Clusters, n: int) -> Codes:
    """Shape (n,): the number of each value's cluster, from 0 in order of appearance; at least two clusters."""
    given = cast(object, clusters)
    if isinstance(given, (str, bytes, Mapping)) or not (isinstance(given, Sequence) or hasattr(given, "tolist")):
        raise CannotTestError(test, f"clusters must be one label per value, not {type(given).__name__}")
    labels: Any = given if isinstance(given, Sequence) else cast(Any, given).tolist()
    if not isinstance(labels, Sequence) or len(labels) != n:
        size = len(labels) if isinstance(labels, Sequence) else "no"
        raise CannotTestError(test, f"there are {n} values but {size} cluster labels; every value needs one")
    seen: dict[Hashable, int] = {}
    for place, label in enumerate(labels):
        if not isinstance(label, Hashable):
            raise CannotTestError(
                test, f"the cluster label at position {place} is a {type(label).__name__}; a label is a name or number"
            )
        if is_missing(label) or (isinstance(label, str) and not label.strip()):
            raise CannotTestError(
                test,
                f"the cluster label at position {place} is missing; leave the value out, or give it a cluster of its "
                "own if it shares none",
            )
        seen.setdefault(label, len(seen))
    texts = {str(label).strip() for label in seen}
    if len(texts) < len(seen):
        raise CannotTestError(
            test, "some cluster labels differ in type or surrounding blanks only, as 1 and '1' do; spell them one way"
        )
    if len(seen) < 2:
        raise CannotTestError(
            test,
            f"all {n} values are of one cluster, {labels[0]!r}, so nothing says how clusters vary; at least two are "
            "needed, and many more for a trustworthy standard error",
        )
    return np.array([seen[label] for label in labels], dtype=np.intp)


@dataclass(frozen=True, slots=True)
class _Robust:
    """The mean of clustered differences and its standard error, divided by 2**exponent."""

    moments: Moments
    error: float
    count: int
    smallest: int
    largest: int
    exponent: int

    @classmethod
    def of(cls, test: str, pairs: PairDifferences, codes: Codes) -> _Robust:
        """From n >= 2 differences; CannotTestError where they or the clusters' sums do not vary."""
        what = "values" if test == _MEAN else "differences"
        of = moments(pairs.values, 0)
        if pairs.is_constant or of.squares < LEAST_SQUARES:
            raise CannotTestError(
                test,
                f"all {of.n} {what} are equal up to rounding, so the standard error is zero; nothing can be said about "
                "how sure their mean is",
            )
        sizes = np.bincount(codes)
        residuals = pairs.values - of.reference - of.offset
        sums = np.bincount(codes, weights=residuals)
        if (np.abs(sums) <= 4.0 * sizes * (float(pairs.error.max()) + _EPS)).all():
            raise CannotTestError(
                test,
                f"the {what} vary within clusters, but the {sizes.size} clusters' averages are all equal up to "
                "rounding, so the cluster-robust standard error is zero; check the cluster labels",
            )
        scale = float(np.abs(sums).max())  # squares of sums next to 1e-160 would vanish
        squares = float(np.square(sums / scale).sum())
        error = scale * math.sqrt(squares * sizes.size / (sizes.size - 1.0)) / of.n
        return cls(of, error, int(sizes.size), int(sizes.min()), int(sizes.max()), pairs.exponent)

    @property
    def df(self) -> int:
        return self.count - 1

    @property
    def design_effect(self) -> float:
        return (self.error / math.sqrt(self.moments.variance / self.moments.n)) ** 2

    @property
    def notes(self) -> tuple[str, ...]:
        sizes = f"{self.smallest}" if self.smallest == self.largest else f"{self.smallest} to {self.largest}"
        notes = [
            f"{self.count} clusters of {sizes} of the {self.moments.n} items; the standard error is "
            f"{math.sqrt(self.design_effect):.3g} times that of independent items"
        ]
        if self.count < FEW_CLUSTERS:
            notes.append(
                f"{self.count} clusters are few: below {FEW_CLUSTERS} or so, and the more their sizes differ, the "
                "standard error tends to be too small and the test to reject too often (Cameron & Miller 2015)"
            )
        return tuple(notes)

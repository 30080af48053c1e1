"""The difference of two means by design: which values belong together, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, Protocol

from crucible_bench.data.outcomes import are_zero_or_one
from crucible_bench.data.sample import Sample
from crucible_bench.hypothesis_tests.clusters import ClustersOfGroups, clustered_difference
from crucible_bench.hypothesis_tests.mean_difference import MeanDifference, independent_difference, paired_difference
from crucible_bench.hypothesis_tests.quantiles import QuantileDifference
from crucible_bench.hypothesis_tests.resampled_ttest import resampled_difference
from crucible_bench.hypothesis_tests.share_difference import independent_shares, paired_shares
from crucible_bench.result import Interval

PairDesign = Literal["clustered", "independent", "paired", "resampled"]
"""The designs in which two groups have a difference."""


class Difference(Protocol):
    """First minus second, with what judging it needs: a `MeanDifference`, or a `ShareDifference` for outcomes."""

    @property
    def df(self) -> float: ...

    @property
    def exponent(self) -> int: ...

    def upper_tail(self, than: float = 0.0) -> float: ...

    def lower_tail(self, than: float = 0.0) -> float: ...

    def two_sided(self) -> float: ...

    def estimate(self, test: str) -> float: ...

    def interval(self, test: str, tail: float) -> Interval: ...

    def half_width(self, tail: float, more: int) -> float: ...


_INTERVALS: Final[Mapping[PairDesign, str]] = MappingProxyType(
    {
        "clustered": "cluster-robust t",
        "independent": "Welch t",
        "paired": "paired t",
        "resampled": "corrected resampled t",
    }
)
_INTERVALS_OF_SHARES: Final[Mapping[PairDesign, str]] = MappingProxyType(
    {"independent": "Miettinen-Nurminen score", "paired": "Tango score"}
)
"""The names of the intervals of each design's difference, of means and of shares."""

_ASSUMPTIONS: Final[Mapping[PairDesign, tuple[str, ...]]] = MappingProxyType(
    {
        "clustered": (
            "values at the same position of the groups belong to one item",
            "clusters are independent of each other; items of one cluster need not be",
        ),
        "independent": ("observations are independent, within and between the groups",),
        "paired": ("values at the same position of the groups belong together", "pairs are independent of each other"),
        "resampled": (
            "values at the same position of the groups come from the same fold",
            "the differences of any two folds have one correlation, n_test / (n_test + n_train)",
        ),
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Differences:
    """Makes differences of one design; `clusters` is for `clustered`, `test_share` for `resampled`.

    `of_shares` says whether independent or paired values are outcomes (the numbers 0 and 1): then shares are compared
    by their scores, not means by t. None means yes if all values are 0 or 1.
    """

    design: PairDesign = "independent"
    clusters: ClustersOfGroups | None = None
    test_share: float | None = None

    of_shares: bool | None = None

    quantile: float | None = None
    """The quantile of independent or paired groups that is compared in place of their means, by a bootstrap."""
    resamples: int = 10_000
    seed: int = 0

    def of(self, samples: Iterable[Sample]) -> Differences:
        """The same, with `of_shares` decided for these values."""
        if self.quantile is not None or (self.of_shares is not None and self.design in _INTERVALS_OF_SHARES):
            return self
        shares = self.design in _INTERVALS_OF_SHARES and all(are_zero_or_one(sample.values) for sample in samples)
        return dataclasses.replace(self, of_shares=shares)

    @property
    def intervals(self) -> str:
        """What the intervals are called."""
        if self.quantile is not None:
            return "percentile bootstrap"
        return (_INTERVALS_OF_SHARES if self.of_shares else _INTERVALS)[self.design]

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the intervals assume."""
        if self.quantile is not None:
            return _ASSUMPTIONS[self.design]
        normal = "each group has one probability" if self.of_shares else "the mean difference is approximately normal"
        return *_ASSUMPTIONS[self.design], normal

    def __call__(self, test: str, samples: tuple[Sample, Sample]) -> Difference:
        """First minus second. Raises CannotTestError for what the test of the design refuses."""
        if self.quantile is not None:
            paired = self.design == "paired"
            return QuantileDifference.of(test, samples, self.quantile, paired, self.resamples, self.seed)
        if self.of_shares:
            return (independent_shares if self.design == "independent" else paired_shares)(test, samples)
        return _MAKERS[self.design](self, test, samples)


def _clustered(self: Differences, test: str, samples: tuple[Sample, Sample]) -> MeanDifference:
    if self.clusters is None:
        raise ValueError("a clustered difference needs the cluster of each item")
    return clustered_difference(test, samples, self.clusters)


_MAKERS: Final[Mapping[PairDesign, Callable[[Differences, str, tuple[Sample, Sample]], MeanDifference]]] = (
    MappingProxyType(
        {
            "clustered": _clustered,
            "independent": lambda _, test, samples: independent_difference(test, samples),
            "paired": lambda _, test, samples: paired_difference(test, samples),
            "resampled": lambda self, test, samples: resampled_difference(test, samples, self.test_share),
        }
    )
)

"""The difference of two means by design: which values belong together, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal

from crucible_bench.data.sample import Sample
from crucible_bench.hypothesis_tests.clusters import ClustersOfGroups, clustered_difference
from crucible_bench.hypothesis_tests.mean_difference import MeanDifference, independent_difference, paired_difference
from crucible_bench.hypothesis_tests.resampled_ttest import resampled_difference

PairDesign = Literal["clustered", "independent", "paired", "resampled"]
"""The designs in which two groups have a difference."""

INTERVALS: Final[Mapping[PairDesign, str]] = MappingProxyType(
    {
        "clustered": "cluster-robust t",
        "independent": "Welch t",
        "paired": "paired t",
        "resampled": "corrected resampled t",
    }
)
"""The name of the interval of each design's mean difference."""

ASSUMPTIONS: Final[Mapping[PairDesign, tuple[str, ...]]] = MappingProxyType(
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
    """Makes mean differences of one design; `clusters` is for `clustered`, `test_share` for `resampled`."""

    design: PairDesign = "independent"
    clusters: ClustersOfGroups | None = None
    test_share: float | None = None

    def __call__(self, test: str, samples: tuple[Sample, Sample]) -> MeanDifference:
        """First minus second. Raises CannotTestError under the rules of the design's t-test."""
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

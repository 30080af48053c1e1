"""The probability that one of two groups is better in practice, or neither is: Bayesian, beside the tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from crucible_bench.compared import BayesianResult
from crucible_bench.data.pairs import PairDifferences, pair_differences
from crucible_bench.data.sample import Sample, Values, Vector, read_groups
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.resampled_ttest import resampled_difference
from crucible_bench.result import Choice
from crucible_bench.wording import counted

BayesianTest = Literal["correlated_ttest", "signed_rank"]

_NAME: Final = "rope"
_PRIOR: Final = 0.5
"""The prior is one difference of zero with this weight; each pair has a weight of 1."""
_BATCH: Final = 1 << 17
_EPS: Final = float(np.finfo(np.float64).eps)

_Matrix: TypeAlias = NDArray[np.float64]


def practical_equivalence(
    groups: Mapping[str, Values],
    rope: float,
    *,
    test: BayesianTest = "signed_rank",
    test_share: float | None = None,
    higher_is_better: bool = True,
    draws: int = 50_000,
    seed: int = 0,
) -> BayesianResult:
    """The probabilities that the first of two groups is better by more than `rope`, that the second is, and neither.

    `groups` are two rows, each of shape (n,), whose values belong together pair by pair. The region of practical
    equivalence (rope) is the differences of at most `rope`, in units of the data, in either direction.

    | test | values | posterior | source |
    | --- | --- | --- | --- |
    | correlated_ttest | scores on the folds of one cross-validation | Student's t with k - 1 degrees of freedom about \
the mean difference, variance s**2 (1/k + n_test / n_train) | Corani & Benavoli 2015 |
    | signed_rank | pairs that are independent, such as scores on data sets | Dirichlet process: weights drawn for the \
pairs and for one prior difference of zero with the weight 0.5; a draw goes to the most probable of the three regions \
of the mean of two differences | Benavoli et al. 2014, 2017 |

    Both are as in Benavoli, Corani, Demsar & Zaffalon 2017. `test_share` is for correlated_ttest, as in
    `corrected_resampled_ttest`; `draws` and `seed` are for signed_rank. A pair is judged by itself: nothing corrects
    for the number of pairs.

    Raises CannotTestError for a rope that is not a positive number, for anything but two groups of the same length with
    two pairs or more and, for correlated_ttest, for differences that are all equal. Raises ValueError for an unknown
    test, a `test_share` that is not positive, and fewer than 100 draws.
    """
    if test not in get_args(BayesianTest):
        raise ValueError(f"unknown Bayesian test {test!r}; known: {', '.join(get_args(BayesianTest))}")
    if isinstance(rope, bool) or not (math.isfinite(rope) and rope > 0.0):
        raise CannotTestError(_NAME, f"it must be a positive number in units of the data, not {rope!r}")
    if test_share is not None and not (test_share > 0.0 and math.isfinite(test_share)):
        raise ValueError(f"test_share must be a positive number, not {test_share!r}")
    if draws < 100:
        raise ValueError(f"draws must be at least 100, not {draws}")
    samples = read_groups(_NAME, groups)
    if len(samples) != 2:
        raise CannotTestError(_NAME, f"it compares two groups, but {len(samples)} were given")
    pair = samples[0], samples[1]
    if test == "correlated_ttest":
        higher, lower = _by_t(pair, rope, test_share)
        notes: tuple[str, ...] = ()
    else:
        higher, lower = _by_signed_ranks(pair, rope, draws, seed)
        notes = (f"{counted(draws, 'draw')}, seed {seed}: a standard error of at most {0.5 / math.sqrt(draws):.2g}",)
    first, second = (higher, lower) if higher_is_better else (lower, higher)
    said = _SAID[test]
    return BayesianResult(
        method=said.method,
        groups=(pair[0].name, pair[1].name),
        n=pair[0].n,
        rope=float(rope),
        higher_is_better=higher_is_better,
        p_first=first,
        p_equivalent=max(0.0, 1.0 - first - second),
        p_second=second,
        assumptions=said.assumptions,
        notes=notes,
        decisions=(
            Choice(
                f"Bayesian {said.method}",
                said.reason,
                tuple(other.method for name, other in _SAID.items() if name != test),
            ),
        ),
    )


class _Said(NamedTuple):
    method: str
    assumptions: tuple[str, ...]
    reason: str


_SAID: Final[Mapping[BayesianTest, _Said]] = MappingProxyType(
    {
        "correlated_ttest": _Said(
            "correlated t-test",
            (
                "the differences of any two folds have one correlation, n_test / (n_test + n_train)",
                "the mean difference is approximately normal; the prior says nothing about it or its variance",
            ),
            "the training sets of folds overlap, which makes their differences dependent (Corani & Benavoli 2015)",
        ),
        "signed_rank": _Said(
            "signed-rank test",
            (
                "pairs are independent of each other",
                "the prior is one difference of zero with half the weight of a pair",
            ),
            "pairs are independent, and the mean of two differences needs no shape (Benavoli et al. 2014)",
        ),
    }
)


def _by_t(pair: tuple[Sample, Sample], rope: float, test_share: float | None) -> tuple[float, float]:
    """The posterior probabilities above rope and below -rope.

    With this prior they are the one-sided p-values against a difference of at least rope, and of at most -rope.
    """
    difference = resampled_difference(_NAME, pair, test_share)
    return difference.lower_tail(rope), difference.upper_tail(-rope)


def _by_signed_ranks(pair: tuple[Sample, Sample], rope: float, draws: int, seed: int) -> tuple[float, float]:
    differences = pair_differences(_NAME, pair)
    n = differences.values.size
    if n < 2:
        raise CannotTestError(_NAME, "one pair has no spread to judge by; at least two pairs are needed")
    # Sorted by size: then the order of the pairs changes nothing, and exchanging the groups mirrors the result.
    values = differences.values[np.argsort(np.abs(differences.values), kind="stable")]
    regions = _Regions(np.concatenate(([0.0], values)), differences, rope)
    prior = np.concatenate(([_PRIOR], np.ones(n)))
    rng, rows = np.random.default_rng(seed), max(1, _BATCH // n)
    won = np.zeros(3)
    for start in range(0, draws, rows):
        won += regions.won(rng.dirichlet(prior, min(rows, draws - start)))
    return float(won[0]) / draws, float(won[2]) / draws


class _Regions:
    """Where the mean of two differences lies: above the rope, within it, below it."""

    def __init__(self, values: Vector, differences: PairDifferences, rope: float) -> None:
        """`values` has shape (n + 1,); the first value is the prior's."""
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        try:
            twice = math.ldexp(2.0 * rope, -differences.exponent)
        except OverflowError:
            twice = 4.0  # scaled differences are at most 1, so every sum lies within
        # Sums that differ from the border only by rounding lie on it, and count half on either side.
        near = 2.0 * float(differences.error.max()) + 4.0 * _EPS * twice
        self.above = [np.searchsorted(ordered, twice - ordered + off, side) for off, side in _sides(near)]
        self.below = [np.searchsorted(ordered, -twice - ordered + off, side) for off, side in _sides(near)]

    def shares(self, weights: _Matrix) -> _Matrix:
        """Shape (draws, 3): the probabilities above, within and below, by weights of shape (draws, n + 1)."""
        w = weights[:, self.order]
        before = np.concatenate((np.zeros((w.shape[0], 1)), np.cumsum(w, axis=1)), axis=1)
        after = before[:, -1:] - before
        above = sum(np.einsum("ij,ij->i", w, after[:, border]) for border in self.above) / 2.0
        below = sum(np.einsum("ij,ij->i", w, before[:, border]) for border in self.below) / 2.0
        return np.stack((above, 1.0 - above - below, below), axis=1)

    def won(self, weights: _Matrix) -> Vector:
        """How many draws each region wins; shape (3,)."""
        return np.bincount(np.argmax(self.shares(weights), axis=1), minlength=3).astype(np.float64)


def _sides(near: float) -> tuple[tuple[float, Literal["left", "right"]], ...]:
    return (-near, "left"), (near, "right")

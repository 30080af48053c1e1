"""Differences within pairs, and which of them are equal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from crucible_bench.data.sample import Sample, Vector, scale_exponent, scaled
from crucible_bench.errors import CannotTestError

Integers: TypeAlias = NDArray[np.int64]

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, eq=False)
class PairDifferences:
    """First minus second of each pair, divided by 2**exponent, with the rounding error each may carry.

    0.81 - 0.80 and 0.41 - 0.40 are not the same double. Ties and zeros are therefore judged within the rounding error
    of the two numbers that were subtracted; otherwise the order of noise would decide a rank test.
    """

    values: Vector
    error: Vector
    exponent: int

    @property
    def is_constant(self) -> bool:
        """Whether all differences are equal within rounding."""
        low, high = int(np.argmin(self.values)), int(np.argmax(self.values))
        spread = self.values[high] - self.values[low]
        return bool(spread <= 2.0 * (self.error[high] + self.error[low]))

    def signed_levels(self) -> Integers:
        """Shape (n,): the sign of each difference times the rank of its size among the distinct sizes, from 1.

        Zero for differences that are zero.
        """
        size = np.abs(self.values)
        order = np.argsort(size, kind="stable")
        ordered, error = size[order], self.error[order]
        first = np.concatenate(([True], np.diff(ordered) > error[1:] + error[:-1]))
        level = np.empty(size.size, dtype=np.int64)
        level[order] = np.cumsum(first)
        level[size <= self.error] = 0
        return cast(Integers, np.sign(self.values).astype(np.int64) * level)


def pair_differences(test: str, samples: tuple[Sample, ...]) -> PairDifferences:
    """The differences of two groups of the same length. Raises CannotTestError if the lengths differ."""
    check_lengths(test, samples)
    first, second = samples
    exponent = scale_exponent(samples)
    x, y = scaled(first.values, exponent), scaled(second.values, exponent)
    differences, error = x - y, _EPS * np.maximum(np.abs(x), np.abs(y))
    # Differences may be far smaller than the values: a scale of their own keeps their digits.
    largest = float(np.abs(differences).max())
    own = math.frexp(largest)[1] if largest > 0.0 else 0
    return PairDifferences(scaled(differences, own), scaled(error, own), exponent + own)


def check_lengths(test: str, samples: tuple[Sample, ...]) -> None:
    """Refuse two groups of different lengths, whose values cannot belong together."""
    first, second = samples
    if first.n != second.n:
        raise CannotTestError(
            test,
            f"a paired test needs groups of one length, but {first.name!r} has {first.n} values and "
            f"{second.name!r} has {second.n}; pair them, or use a test for independent groups (ttest, mann_whitney)",
        )


def check_blocks(test: str, samples: tuple[Sample, ...]) -> int:
    """The number of blocks: values at the same position are one block. Raises CannotTestError if lengths differ."""
    sizes = {sample.name: sample.n for sample in samples}
    if len(set(sizes.values())) > 1:
        raise CannotTestError(
            test,
            f"repeated measures need groups of one length, but their lengths are {sizes}; leave out the subjects that "
            "lack a value, or use a test for independent groups (anova, kruskal_wallis)",
        )
    return samples[0].n

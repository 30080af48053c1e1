"""The Shapiro-Wilk test of normality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crucible_bench.data.moments import LEAST_SQUARES
from crucible_bench.data.sample import Values, read_sample, scale_exponent, scaled
from crucible_bench.errors import CannotTestError

_MOST = 5000
_MOST_SKEWED = 0.2
_FEWEST_OF_SHAPE = 5


@dataclass(frozen=True, slots=True)
class Normality:
    """W is near 1 for normal data; a small p-value is evidence against normality.

    Skewness and excess kurtosis of a normal distribution are 0. A large p-value shows nothing: with few values every
    distribution passes, with many none does. Look at the moments.
    """

    n: int
    statistic: float
    p_value: float
    skewness: float
    excess_kurtosis: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


def shapiro_wilk(values: Values) -> Normality:
    """Shapiro & Wilk's (1965) test of 3 to 5000 values, shape (n,), by Royston's (1995) approximation.

    Skewness and kurtosis are the sample's own, g1 and g2. Raises CannotTestError for fewer or more values, for a
    constant group, and for anything that is not a group of finite numbers.
    """
    sample = read_sample("shapiro_wilk", "values", values)
    n = sample.n
    if n < 3:
        raise CannotTestError("shapiro_wilk", f"n = {n}, but it needs at least 3 values")
    if n > _MOST:
        raise CannotTestError(
            "shapiro_wilk",
            f"{n} values are more than the {_MOST} its p-value was made for; with so many, even departures that do "
            "not matter to a test of means are significant; look at a subsample, or at the skewness",
        )
    if sample.is_constant:
        raise CannotTestError("shapiro_wilk", "all values are equal: a constant has no distribution to test")
    from scipy import stats  # noqa: PLC0415  # takes a quarter of a second to load, and most of the package does without

    x = np.sort(scaled(sample.values, scale_exponent((sample,))))
    x -= x.mean()
    x -= x.mean()
    squares = float(np.dot(x, x))
    if squares < LEAST_SQUARES:
        raise CannotTestError("shapiro_wilk", "the values vary too little, next to their size; rescale")
    x /= math.sqrt(squares)
    w, p_value = stats.shapiro(x)
    return Normality(n, float(w), float(p_value), math.sqrt(n) * float((x**3).sum()), n * float((x**4).sum()) - 3.0)


def skewness_of_mean(groups: Sequence[Any]) -> float | None:
    """The skewness of a mean, or of the difference of two, if it is above 0.2 and not within two standard errors of 0.

    `groups` are one or two groups of numbers, shape (n,). Cochran's (1977) rule n > 25 skewness**2 says that the mean's
    skewness is below 0.2. None otherwise, and for fewer than five values, which show no shape. Never raises.
    """
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    largest = max(float(np.abs(values).max(initial=0.0)) for values in arrays)
    if min(values.size for values in arrays) < _FEWEST_OF_SHAPE or not 0.0 < largest < math.inf:
        return None
    variance = third = error = 0.0
    for sign, values in zip((1.0, -1.0), (values / largest for values in arrays), strict=False):
        n, own = values.size, float(values.var())
        variance += own / n
        third += sign * float(np.mean((values - values.mean()) ** 3)) / n**2
        error += 6.0 * (n - 2.0) / ((n + 1.0) * (n + 3.0)) * own**3 / n**4  # as for normal values
    if not variance**1.5 > 0.0:
        return None
    skewness = third / variance**1.5
    noise = 2.0 * math.sqrt(error) / variance**1.5
    return skewness if abs(skewness) > max(_MOST_SKEWED, noise) else None


def is_skewed_mean(third: float, variance: float, count: float) -> bool:
    """Whether a weighted mean is so skewed, by its third central moment and variance, both above 0, and the number of
    values that it is worth. Never raises.
    """
    noise = 2.0 * math.sqrt(6.0) / count
    return count >= _FEWEST_OF_SHAPE and abs(third) > max(_MOST_SKEWED, noise) * variance**1.5

"""The Shapiro-Wilk test of normality."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crucible_bench.data.moments import LEAST_SQUARES
from crucible_bench.data.sample import Values, read_sample, scale_exponent, scaled
from crucible_bench.errors import CannotTestError

_MOST = 5000


@dataclass(frozen=True, slots=True)
class Normality:
    """W is near 1 for normal data; a small p-value is evidence against them.

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

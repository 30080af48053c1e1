"""The Shapiro-Wilk test of normality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from crucible_bench.data.moments import LEAST_SQUARES
from crucible_bench.data.sample import Values, Vector, read_sample, scale_exponent, scaled
from crucible_bench.errors import CannotTestError

_MOST = 5000
# Royston (1995), algorithm AS R94: polynomials in 1 / sqrt(n) for the weights, in n or log n for the p-value.
_LAST = (0.0, 0.221157, -0.147981, -2.07119, 4.434685, -2.706056)
_LAST_BUT_ONE = (0.0, 0.042981, -0.293762, -1.752461, 5.682633, -3.582633)
_SMALL_MEAN, _SMALL_LOG_SD = (0.544, -0.39978, 0.025054, -6.714e-4), (1.3822, -0.77857, 0.062767, -0.0020322)
_MEAN, _LOG_SD = (-1.5861, -0.31082, -0.083751, 0.0038915), (-0.4803, -0.082676, 0.0030302)
_CUT = (-2.273, 0.459)
_MOST_SKEWED = 0.2
_FEWEST_OF_SHAPE = 5


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
    x = np.sort(scaled(sample.values, scale_exponent((sample,))))
    x -= x.mean()
    x -= x.mean()
    squares = float(np.dot(x, x))
    if squares < LEAST_SQUARES:
        raise CannotTestError("shapiro_wilk", "the values vary too little, next to their size; rescale")
    x /= math.sqrt(squares)
    weights = _weights(n)
    # From the distance of two unit vectors, so that 1 - W keeps its digits.
    distance = x - weights
    lack = float(np.dot(distance, distance))
    lack = lack * (1.0 - lack / 4.0)
    return Normality(
        n,
        1.0 - lack,
        _p_value(lack, n),
        math.sqrt(n) * float((x**3).sum()),
        n * float((x**4).sum()) - 3.0,
    )


def skewness_of_mean(groups: Sequence[Any]) -> float | None:
    """The skewness of a mean, or of the difference of two, if it is above 0.2 and not within two standard errors of 0.

    `groups` are one or two groups of numbers, shape (n,). Cochran's (1977) rule n > 25 skewness**2 is that the mean's
    is below 0.2. None otherwise, and for fewer than five values, which show no shape. Never raises.
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
    """The same of a weighted mean, by its third central moment and variance, both above 0, and the number of values
    that it is worth. Never raises.
    """
    noise = 2.0 * math.sqrt(6.0) / count
    return count >= _FEWEST_OF_SHAPE and abs(third) > max(_MOST_SKEWED, noise) * variance**1.5


def _weights(n: int) -> Vector:
    if n == 3:
        return np.array([-math.sqrt(0.5), 0.0, math.sqrt(0.5)])
    scores: Vector = special.ndtri((np.arange(1, n + 1) - 0.375) / (n + 0.25))
    squares, root = float(np.dot(scores, scores)), 1.0 / math.sqrt(n)
    ends = [scores[-1] / math.sqrt(squares) + _polynomial(_LAST, root)]
    if n > 5:
        ends.insert(0, scores[-2] / math.sqrt(squares) + _polynomial(_LAST_BUT_ONE, root))
    outer = scores[-len(ends) :]
    left = 1.0 - 2.0 * sum(end**2 for end in ends)
    weights = scores * math.sqrt(left / (squares - 2.0 * float(np.dot(outer, outer))))
    weights[-len(ends) :] = ends
    weights[: len(ends)] = [-end for end in reversed(ends)]
    return weights


def _p_value(lack: float, n: int) -> float:
    if n == 3:
        return min(1.0, max(0.0, 1.0 - 6.0 / math.pi * math.asin(min(1.0, math.sqrt(lack)))))
    y = math.log(lack) if lack > 0.0 else -math.inf
    if n <= 11:
        cut = _polynomial(_CUT, n)
        if y >= cut:
            return 1e-99  # as in AS R94
        y = -math.log(cut - y)
        mean, sd = _polynomial(_SMALL_MEAN, n), math.exp(_polynomial(_SMALL_LOG_SD, n))
    else:
        mean, sd = _polynomial(_MEAN, math.log(n)), math.exp(_polynomial(_LOG_SD, math.log(n)))
    return float(special.ndtr(-(y - mean) / sd))


def _polynomial(coefficients: tuple[float, ...], x: float) -> float:
    return float(np.polynomial.polynomial.polyval(x, coefficients))

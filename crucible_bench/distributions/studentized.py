"""Distributions of the largest of several studentized differences: Tukey's range, and Dunnett's maximum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from scipy import interpolate, optimize, special

from crucible_bench.data.sample import Vector

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)  # for the means
_MORE_NODES, _MORE_WEIGHTS = np.polynomial.legendre.leggauss(144)  # for those of many groups, whose extremes are sharp
_MANY: Final = 20
_S_NODES, _S_WEIGHTS = np.polynomial.legendre.leggauss(88)  # for the standard deviation
_REACH: Final = 9.0  # a standard normal exceeds it with probability 1e-19
_VANISHED: Final = 76.0  # a range or maximum beyond it has a probability below the smallest double
_FAR_TAIL: Final = 1e-300
_COARSE: Final = 80
_NEGLIGIBLE: Final = 1e-17
_KNOTS: Final = 4_001

_Tail = Callable[[Vector], Vector]


def range_tail(q: float, groups: int, df: float) -> float:
    """P(Q > q) for the studentized range of `groups` means on `df` degrees of freedom (infinite: known variance).

    The double integral of Tukey (1953) and Copenhaver & Holland (1988), over terms that are all positive, so that
    small tails keep their digits too: seven up to 50 groups, five up to 200.
    """
    if math.isinf(df):
        return _averaged(lambda w: _normal_range_tail(w, groups), q, df)
    return _averaged(lambda w: _interpolated_range_tail(w, groups), q, df)


@lru_cache(maxsize=256)
def range_quantile(tail: float, groups: int, df: float) -> float:
    """The q with P(Q > q) = tail."""
    return _quantile(lambda q: range_tail(q, groups, df), tail, groups * (groups - 1) / 2.0, df, math.sqrt(2.0))


def many_one_tail(d: float, loadings: Sequence[float], df: float) -> float:
    """P(max |T_i| > d) for Dunnett's t statistics of treatments against one control.

    `loadings`, sqrt(n_i / (n_i + n_control)), give the correlations as products of two of them (Dunnett 1955), which
    leaves one integral over the control's mean and one over the standard deviation.
    """
    return _averaged(lambda w: _normal_many_one_tail(w, tuple(loadings)), d, df)


@lru_cache(maxsize=256)
def many_one_quantile(tail: float, loadings: tuple[float, ...], df: float) -> float:
    """The d with P(max |T_i| > d) = tail."""
    return _quantile(lambda d: many_one_tail(d, loadings, df), tail, len(loadings), df, 1.0)


def _normal_range_tail(w: Vector, groups: int) -> Vector:
    # With z the smallest of the means: groups * density(z) * (all others above z, but not all within w of it).
    nodes, weights = (_NODES, _WEIGHTS) if groups <= _MANY else (_MORE_NODES, _MORE_WEIGHTS)
    low = -w / 2.0 - _REACH
    z = low[:, None] + (_REACH - low)[:, None] * (nodes + 1.0) / 2.0
    above = special.ndtr(-z)
    far = special.ndtr(-z - w[:, None])
    with np.errstate(divide="ignore"):
        share = np.minimum(far / above, 1.0)
        not_all = -np.expm1((groups - 1.0) * np.log1p(-share))
    density = np.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    tail: Vector = (groups * density * above ** (groups - 1.0) * not_all) @ weights * (_REACH - low) / 2.0
    return tail


@lru_cache(maxsize=32)
def _log_range_tail(groups: int) -> tuple[interpolate.CubicSpline, float]:
    """The logarithm of the tail as a spline, and where it ends; nine digits, for all pairs of so many groups."""
    w = np.linspace(0.0, _VANISHED, _KNOTS)
    tail = np.concatenate([_normal_range_tail(part, groups) for part in np.array_split(w, 16)])
    kept = int(np.count_nonzero(tail > _FAR_TAIL))
    return interpolate.CubicSpline(w[:kept], np.log(np.minimum(tail[:kept], 1.0))), float(w[kept - 1])


def _interpolated_range_tail(w: Vector, groups: int) -> Vector:
    log_tail, end = _log_range_tail(groups)
    tail: Vector = np.exp(log_tail(np.minimum(w, end)))
    beyond = w > end
    if beyond.any():
        tail[beyond] = _normal_range_tail(w[beyond], groups)
    return tail


def _normal_many_one_tail(w: Vector, loadings: tuple[float, ...]) -> Vector:
    sizes, counts = np.unique(np.array(loadings), return_counts=True)
    rest = np.sqrt((1.0 - sizes) * (1.0 + sizes))
    # The integrand is even in the control's mean z; it bends within `rest` of w / size, which needs panels as narrow.
    panels = min(16, max(1, math.ceil(0.25 / float(rest.min()))))
    high = w + _REACH
    places = (np.arange(panels)[:, None] + (_NODES + 1.0) / 2.0).ravel() / panels
    z = high[:, None] * places
    log_within = np.zeros_like(z)
    with np.errstate(divide="ignore"):
        for size, spare, count in zip(sizes, rest, counts, strict=True):
            beyond = special.ndtr(-(size * z + w[:, None]) / spare) + special.ndtr((size * z - w[:, None]) / spare)
            log_within += count * np.log1p(-np.minimum(beyond, 1.0))
    density = np.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    tail: Vector = (density * -np.expm1(log_within)) @ np.tile(_WEIGHTS, panels) * high / panels
    return tail


def _averaged(tail: _Tail, value: float, df: float) -> float:
    """The mean of tail(value * S), S**2 being a chi-square over its df.

    Integrated over log S between the points where, on a coarse grid, the integrand has become negligible: for a
    large value and few degrees of freedom that is far below the bulk of S.
    """
    if value <= 0.0:
        return 1.0
    if math.isinf(df):
        return min(1.0, float(tail(np.array([value]))[0])) if value < _VANISHED else 0.0
    low, high = (
        0.5 * math.log(max(quantile, _FAR_TAIL) * 2.0 / df)
        for quantile in (special.gammaincinv(df / 2.0, _FAR_TAIL), special.gammainccinv(df / 2.0, 1e-20))
    )

    def integrand(u: Vector) -> Vector:
        return np.exp(df * u - df * np.expm1(2.0 * u) / 2.0) * tail(np.minimum(value * np.exp(u), _VANISHED))

    coarse = np.linspace(low, high, _COARSE)
    heights = integrand(coarse)
    if not heights.max() > 0.0:
        return 0.0
    kept = np.flatnonzero(heights > _NEGLIGIBLE * heights.max())
    top = int(np.argmax(heights))
    # In two parts, because the integrand may rise for long, like a power, and then drop.
    ends = coarse[max(0, kept[0] - 1)], coarse[top], coarse[min(_COARSE - 1, kept[-1] + 1)]
    total = 0.0
    for start, end in itertools.pairwise(ends):
        u = start + (end - start) * (_S_NODES + 1.0) / 2.0
        total += float(np.dot(_S_WEIGHTS, integrand(u)) * (end - start)) / 2.0
    log_constant = math.log(2.0) + df / 2.0 * math.log(df / 2.0) - df / 2.0 - float(special.gammaln(df / 2.0))
    return min(1.0, total * math.exp(log_constant))


def _quantile(tail: Callable[[float], float], probability: float, comparisons: float, df: float, scale: float) -> float:
    """The root, which lies between the quantile of one comparison and Bonferroni's for all of them."""

    def quantile(upper: float) -> float:
        return -scale * float(special.ndtri(upper) if math.isinf(df) else special.stdtrit(df, upper))

    def miss(log_value: float) -> float:  # close to a straight line
        return math.log(max(tail(math.exp(log_value)), _FAR_TAIL) / probability)

    low, high = (math.log(quantile(probability / 2.0 / count)) for count in (1.0, comparisons))
    if miss(low) <= 0.0:
        return math.exp(low)
    if miss(high) >= 0.0:
        return math.exp(high)
    return math.exp(optimize.brentq(miss, low, high, xtol=1e-11, rtol=1e-11))

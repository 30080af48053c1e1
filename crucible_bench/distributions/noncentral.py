"""Intervals for the noncentrality parameters of t, F and chi-square, by inverting their distribution functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, special

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(256)
_LONG_SERIES = 1e3
_FAR = 9.0  # a standard normal exceeds it with probability 1e-19
_F_AS_T = 1e7


def noncentral_t_interval(t: float, df: float, confidence_level: float) -> tuple[float, float]:
    """Two-sided interval of the noncentrality delta, from one observation `t` on `df` degrees of freedom.

    The ends are the deltas under which a t this high, or this low, has probability (1 - confidence_level) / 2 (Steiger
    & Fouladi 1997; Cumming & Finch 2001).
    """
    if t < 0.0:
        low, high = noncentral_t_interval(-t, df, confidence_level)
        return -high, -low
    tail = (1.0 - confidence_level) / 2.0
    spread = math.hypot(1.0, t / math.sqrt(2.0 * df))

    def end(probability: float) -> float:
        return _decreasing_root(lambda delta: noncentral_t_cdf(t, df, delta) - probability, t, spread)

    return end(1.0 - tail), end(tail)


def noncentral_t_cdf(t: float, df: float, delta: float) -> float:
    """P(T <= t) for noncentral T = (Z + delta) / S, with S**2 a chi-square over its df; for t >= 0.

    From about t = 1000 on scipy's series takes long, and from 1e4 on it loses its digits. There t S varies by no less
    than Z / 2, and the expectation over Z has a smooth integrand.
    """
    if t > max(_LONG_SERIES, math.sqrt(df / 2.0)):
        return _averaged_over_z(t, df, delta)
    found = float(special.nctdtr(df, delta, t))
    return 1.0 if math.isnan(found) else found  # nan is for a delta far below 0, where all but 1e-15 lies below t


def noncentral_f_interval(f: float, df: tuple[float, float], confidence_level: float) -> tuple[float, float]:
    """Two-sided interval of the noncentrality lambda, from one observation `f` (Steiger 2004).

    An end is 0 if an F this low is too improbable even for lambda = 0.
    """
    tail = (1.0 - confidence_level) / 2.0
    if f > _F_AS_T:
        # The numerator is then (Z + sqrt(lambda))**2 up to a chi-square that varies by less than 1 in 1e7 of it.
        low, high = noncentral_t_interval(math.sqrt(df[0] * f), df[1], confidence_level)
        return max(0.0, low * low - df[0] + 1.0), max(0.0, high * high - df[0] + 1.0)
    spread = 2.0 * math.sqrt(df[0] + df[0] * f) + df[0] * f * math.sqrt(2.0 / df[1])
    return _ends_from_zero(
        lambda noncentrality: float(special.ncfdtr(df[0], df[1], noncentrality, f)), df[0] * f, spread, tail
    )


def noncentral_chi_square_interval(value: float, df: float, confidence_level: float) -> tuple[float, float]:
    """The same, from one observation `value` of a chi-square on `df` degrees of freedom."""
    tail = (1.0 - confidence_level) / 2.0
    spread = 2.0 * math.sqrt(df + value)
    return _ends_from_zero(lambda noncentrality: float(special.chndtr(value, df, noncentrality)), value, spread, tail)


def _ends_from_zero(cdf: Callable[[float], float], guess: float, spread: float, tail: float) -> tuple[float, float]:
    def end(probability: float) -> float:
        if cdf(0.0) <= probability:
            return 0.0
        return _decreasing_root(lambda value: cdf(value) - probability, guess, spread, floor=0.0)

    return end(1.0 - tail), end(tail)


def _averaged_over_z(t: float, df: float, delta: float) -> float:
    # Left of -delta the sum Z + delta is negative and T <= t is certain; the integrand may have a kink there.
    low = max(-delta, -_FAR)
    certain = float(special.ndtr(-delta))
    if low >= _FAR:
        return certain
    z = low + (_FAR - low) * (_NODES + 1.0) / 2.0
    density = np.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    exceeds = special.gammaincc(df / 2.0, df / 2.0 * np.square((delta + z) / t))
    return certain + float(np.dot(_WEIGHTS, density * exceeds)) * (_FAR - low) / 2.0


def _decreasing_root(function: Callable[[float], float], guess: float, step: float, floor: float = -math.inf) -> float:
    low = high = guess
    while low > floor and function(low) < 0.0:
        low, step = max(floor, low - step), 2.0 * step
    while function(high) > 0.0:
        high, step = high + step, 2.0 * step
    if low == high:
        return low
    return float(optimize.brentq(function, low, high, xtol=1e-13 * max(1.0, abs(guess)), rtol=1e-14))

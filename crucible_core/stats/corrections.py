"""Corrections of p-values for families of comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from crucible_core.stats.sample import Vector
from crucible_core.stats.vocabulary import CorrectionName


def adjust_p_values(p_values: Sequence[float], method: CorrectionName) -> tuple[float, ...]:
    """Adjusted p-values, in the order given; compare each with alpha as you would an unadjusted one.

    "bonferroni" (Dunn 1961) and "holm" (Holm 1979) bound the chance of any false rejection in the family, under any
    dependence, and Holm's rejects whatever Bonferroni's does. "fdr" (Benjamini & Hochberg 1995) bounds the expected
    share of false rejections among the rejections, for independent or positively dependent tests. "none" returns the
    p-values as they are. An empty family has no adjusted values.

    Raises ValueError for an unknown method and for anything that is not a probability.
    """
    if method not in CORRECTIONS:
        raise ValueError(f"unknown correction {method!r}; known: {', '.join(sorted(CORRECTIONS))}")
    given = [float(p) for p in p_values]
    for index, p in enumerate(given):
        if math.isnan(p) or not 0.0 <= p <= 1.0:
            raise ValueError(f"p-value {p} at position {index} is not a probability")
    if not given:
        return ()
    return tuple(float(p) for p in CORRECTIONS[method](np.array(given)))


def _bonferroni(p: Vector) -> Vector:
    return np.minimum(1.0, p * p.size)


def _holm(p: Vector) -> Vector:
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    return _in_given_order(stepped, order)


def _benjamini_hochberg(p: Vector) -> Vector:
    order = np.argsort(p, kind="stable")
    stepped = np.minimum.accumulate((p[order] * (p.size / np.arange(1, p.size + 1)))[::-1])[::-1]
    return _in_given_order(stepped, order)


def _in_given_order(stepped: Vector, order: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Vector:
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


CORRECTIONS: Final[Mapping[CorrectionName, Callable[[Vector], Vector]]] = MappingProxyType(
    {"bonferroni": _bonferroni, "fdr": _benjamini_hochberg, "holm": _holm, "none": lambda p: p}
)

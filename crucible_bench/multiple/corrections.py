"""Corrections of p-values for families of comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from crucible_bench.data.sample import Vector
from crucible_bench.vocabulary import CorrectionName


def adjust_p_values(p_values: Sequence[float], method: CorrectionName) -> tuple[float, ...]:
    """Adjusted p-values, shape (m,), in the given order; compare each with alpha like an unadjusted one.

    | method | bounds the chance of any false rejection, for tests that are | source |
    | --- | --- | --- |
    | bonferroni | of any dependence | Dunn 1961 |
    | holm | of any dependence; rejects all that bonferroni does | Holm 1979 |
    | sidak | independent, or two-sided and jointly normal | Sidak 1967 |
    | holm_sidak | the same; rejects all that sidak does | Holm 1979 |
    | hochberg | independent or positively dependent; rejects all that holm does | Hochberg 1988 |

    | method | bounds the expected share of false ones among the rejections, for tests that are | source |
    | --- | --- | --- |
    | fdr | independent or positively dependent | Benjamini & Hochberg 1995 |
    | benjamini_yekutieli | of any dependence | Benjamini & Yekutieli 2001 |

    "none" returns the p-values as they are. An empty family has no adjusted values.

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
    return _step_down(p, lambda ordered, left: ordered * left)


def _sidak(p: Vector) -> Vector:
    return _any_of(p, float(p.size))


def _holm_sidak(p: Vector) -> Vector:
    return _step_down(p, _any_of)


def _any_of(p: Vector, tests: float | Vector) -> Vector:
    """1 - (1 - p)**tests, with all the digits of a small p."""
    with np.errstate(divide="ignore"):  # p = 1
        none: Vector = np.expm1(tests * np.log1p(-p))
    return -none


def _hochberg(p: Vector) -> Vector:
    return _step_up(p, np.arange(float(p.size), 0.0, -1.0))


def _benjamini_hochberg(p: Vector) -> Vector:
    return _step_up(p, p.size / np.arange(1.0, p.size + 1.0))


def _benjamini_yekutieli(p: Vector) -> Vector:
    places = np.arange(1.0, p.size + 1.0)
    return _step_up(p, float((1.0 / places).sum()) * p.size / places)


def _step_down(p: Vector, adjusted: Callable[[Vector, Vector], Vector]) -> Vector:
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(adjusted(p[order], np.arange(float(p.size), 0.0, -1.0)))
    return _in_given_order(stepped, order)


def _step_up(p: Vector, factors: Vector) -> Vector:
    order = np.argsort(p, kind="stable")
    return _in_given_order(np.minimum.accumulate((p[order] * factors)[::-1])[::-1], order)


def _in_given_order(stepped: Vector, order: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Vector:
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


CORRECTIONS: Final[Mapping[CorrectionName, Callable[[Vector], Vector]]] = MappingProxyType(
    {
        "benjamini_yekutieli": _benjamini_yekutieli,
        "bonferroni": _bonferroni,
        "fdr": _benjamini_hochberg,
        "hochberg": _hochberg,
        "holm": _holm,
        "holm_sidak": _holm_sidak,
        "none": lambda p: p,
        "sidak": _sidak,
    }
)

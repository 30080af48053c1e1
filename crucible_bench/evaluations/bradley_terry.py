"""Strengths of arms from comparisons of two at a time: the model of Bradley and Terry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from crucible_bench.data.sample import Vector
from crucible_bench.hypothesis_tests.clusters import Codes

__all__ = ["Fit", "bradley_terry", "sides"]

_MOST_STEPS: Final = 200
_CLOSE: Final = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Strengths as log odds, shape (k,), with a mean of zero, and their covariance, shape (k, k); `df` is one less
    than the number of clusters.
    """

    strengths: Vector
    covariance: Vector
    df: int

    def against(self, reference: int | None) -> tuple[Vector, Vector]:
        """Strengths and standard errors against one arm, given by its place, or against the mean of all."""
        variance = np.diag(self.covariance)
        if reference is None:
            return self.strengths, np.sqrt(variance)
        own = self.covariance[:, reference]
        return self.strengths - self.strengths[reference], np.sqrt(
            np.maximum(0.0, variance + variance[reference] - 2.0 * own)
        )


def bradley_terry(first: Codes, second: Codes, scores: Vector, clusters: Codes, arms: int) -> Fit:
    """The strengths of `arms` arms, and their cluster-robust covariance.

    `first`, `second`, `scores` and `clusters` have shape (n,): the places of the two arms, 1 if the first won, 0 if the
    second did and 0.5 for a tie, and the number of the cluster, from 0, of at least two. The log odds that i beats j
    are the difference of their strengths (Bradley & Terry 1952). A tie is half a win for both: the expected score is
    then the model's chance of a win, and the estimate that of a fractional logit (Papke & Wooldridge 1996). The
    covariance is the sandwich over clusters with the factor G / (G - 1); of the model, it relies on the expected score
    alone. The arms must be connected in both directions, as `sides` says, or the strengths are not finite.
    """
    strengths = np.zeros(arms)
    information = np.zeros((arms, arms))
    for _ in range(_MOST_STEPS):
        expected = 1.0 / (1.0 + np.exp(strengths[second] - strengths[first]))
        slope = _sums(first, second, scores - expected, arms)
        information = _information(first, second, expected * (1.0 - expected), arms)
        step = np.linalg.pinv(information, hermitian=True) @ slope
        step /= max(1.0, float(np.abs(step).max()))  # far from the maximum a whole step could leave it behind
        strengths = strengths + step
        if float(np.abs(step).max()) < _CLOSE:
            break
    expected = 1.0 / (1.0 + np.exp(strengths[second] - strengths[first]))
    count = int(clusters.max()) + 1
    by_cluster = np.zeros((count, arms))
    np.add.at(by_cluster, (clusters, first), scores - expected)
    np.add.at(by_cluster, (clusters, second), expected - scores)
    bread = np.linalg.pinv(_information(first, second, expected * (1.0 - expected), arms), hermitian=True)
    covariance = bread @ (by_cluster.T @ by_cluster) @ bread * (count / (count - 1.0))
    return Fit(strengths - strengths.mean(), covariance, count - 1)


def sides(first: Codes, second: Codes, scores: Vector, arms: int) -> tuple[Codes, Codes]:
    """Shape (arms,) each: which arms are connected by comparisons, and which by wins or ties in both directions.

    Connected arms have the same number. Strengths are finite only among arms with one second number (Ford 1957).
    """
    won, tied = scores == 1.0, scores == 0.5
    above = np.concatenate([first[won | tied], second[~won]])
    below = np.concatenate([second[won | tied], first[~won]])
    graph = coo_array((np.ones(above.size), (above, below)), shape=(arms, arms)).tocsr()
    connected = connected_components(graph, directed=False)[1]
    both_ways = connected_components(graph, directed=True, connection="strong")[1]
    return connected.astype(np.intp), both_ways.astype(np.intp)


def _sums(first: Codes, second: Codes, values: Vector, arms: int) -> Vector:
    totals = np.bincount(first, weights=values, minlength=arms) - np.bincount(second, weights=values, minlength=arms)
    return totals.astype(np.float64)


def _information(first: Codes, second: Codes, weights: Vector, arms: int) -> Vector:
    pairs = np.bincount(first * arms + second, weights=weights, minlength=arms * arms).reshape(arms, arms)
    both = pairs + pairs.T
    return cast(Vector, np.diag(both.sum(axis=0)) - both)

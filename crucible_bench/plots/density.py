"""How a group's values are spread: quartiles, whiskers, density, and places for dots that do not hide each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Box", "box_of", "counts_of", "density", "mean_of", "swarm", "thinned"]

_Item = TypeVar("_Item")

_BINS = 256
_MOST_NEAR = 24  # a higher pile has no room anyway
_MOST_FOR_DENSITY = 20_000


@dataclass(frozen=True, slots=True)
class Box:
    """Tukey's box: quartiles, and whiskers to the furthest values within 1.5 times the box's length of it."""

    low: float
    first: float
    median: float
    third: float
    high: float


def box_of(ordered: Sequence[float]) -> Box:
    """The box of values in ascending order; quantiles by linear interpolation (Hyndman & Fan's type 7)."""
    first, median, third = (_quantile(ordered, share) for share in (0.25, 0.5, 0.75))
    # Scaled, as the difference of two floats may be too large for one.
    reach = 1.5 * (third / 4 - first / 4)
    low = next(value for value in ordered if value / 4 >= first / 4 - reach)
    high = next(value for value in reversed(ordered) if value / 4 <= third / 4 + reach)
    return Box(min(low, first), first, median, third, max(high, third))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    index = math.floor(place)
    part = place - index
    upper = ordered[min(index + 1, len(ordered) - 1)]
    return ordered[index] * (1 - part) + upper * part


def mean_of(values: Sequence[float]) -> float:
    # In quarters, as the sum of some that are rounded up may be beyond the largest float.
    mean = 4 * math.fsum(value / 4 / len(values) for value in values)
    return min(max(mean, min(values)), max(values))


def swarm(places: Sequence[float], size: float, room: float) -> list[float]:
    """An offset for each place, given in ascending order, such that dots of this size touch at most.

    Dots pile up symmetrically around 0; where a pile is higher than `room` to either side, all offsets are scaled down.
    """
    offsets: list[float] = []
    for index, place in enumerate(places):
        near = [
            (place - places[other], offsets[other])
            for other in range(max(0, index - _MOST_NEAR), index)
            if place - places[other] < size
        ]
        tried = [0.0]
        for apart, offset in near:
            reach = math.sqrt(size * size - apart * apart) + 1e-6
            tried += [offset - reach, offset + reach]
        free = [one for one in tried if all(math.hypot(apart, one - offset) >= size - 1e-3 for apart, offset in near)]
        offsets.append(min(free, key=lambda one: (abs(one), one)))
    largest = max(map(abs, offsets), default=0.0)
    return [offset * min(1.0, room / largest) if largest else 0.0 for offset in offsets]


def thinned(ordered: Sequence[_Item], most: int) -> list[_Item]:
    """At most `most` of the values, evenly by rank, with the smallest and the largest."""
    count = len(ordered)
    if count <= most:
        return list(ordered)
    return [ordered[round(index * (count - 1) / (most - 1))] for index in range(most)]


def density(ordered: Sequence[float]) -> list[tuple[float, float]]:
    """The density as (value, height up to 1): a Gaussian kernel of Silverman's width over counts in 256 bins.

    Of more than 20,000 values, 20,000 are taken, evenly by rank.
    """
    ordered = thinned(ordered, _MOST_FOR_DENSITY)
    low, high = ordered[0], ordered[-1]
    half = high / 2 - low / 2
    shares = [(value / 2 - low / 2) / half for value in ordered]  # from 0 to 1
    mean = math.fsum(shares) / len(shares)
    sd = math.sqrt(math.fsum((share - mean) ** 2 for share in shares) / len(shares))
    quarter = _quantile(shares, 0.75) - _quantile(shares, 0.25)
    width = 0.9 * min(sd, quarter / 1.34 or sd) * len(shares) ** -0.2
    counts = Counter(min(_BINS - 1, int(share * _BINS)) for share in shares)
    step = 1 / 96
    width = max(width, 1 / _BINS)
    heights = []
    for index in range(97):
        at = index * step
        heights.append(
            sum(
                count * math.exp(-0.5 * (((bin_ + 0.5) / _BINS - at) / width) ** 2)
                for bin_, count in counts.items()
                if abs((bin_ + 0.5) / _BINS - at) < 4 * width
            )
        )
    top = max(heights)
    return [(low * (1 - index * step) + high * index * step, height / top) for index, height in enumerate(heights)]


def counts_of(ordered: Sequence[float]) -> list[tuple[float, float]]:
    """Each different value with its count as a share of the largest count.

    For few different values, for which a smooth curve would be misleading.
    """
    counts = Counter(ordered)
    top = max(counts.values())
    return [(value, count / top) for value, count in counts.items()]

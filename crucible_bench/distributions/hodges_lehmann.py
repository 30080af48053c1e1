"""Hodges-Lehmann estimates and their intervals: order statistics of all pairwise sums, without forming them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np

from crucible_bench.data.pairs import Integers
from crucible_bench.data.sample import Vector, unscaled
from crucible_bench.result import Interval

_GRID = 60  # bits: values in [-1, 1] become whole numbers whose sums still fit 64 bits
_LISTED = 1 << 18  # up to this many candidates are listed and partitioned; more are narrowed down first
_SAMPLED = 4096


def pseudomedian(test: str, differences: Vector, exponent: int, depth: int) -> tuple[float, Interval]:
    """Median of the Walsh averages (d_i + d_j) / 2, i <= j, and the interval between the depth-th from each end.

    `differences` has shape (n,) and is divided by 2**exponent, within [-1, 1]; depth 0 means no finite ends (Hodges &
    Lehmann 1963; Hollander & Wolfe 1999).
    """
    whole = _on_grid(differences)
    return _estimate(test, _Sums(whole, whole, np.arange(whole.size)), exponent - 1, depth)


def shift(test: str, first: Vector, second: Vector, exponent: int, depth: int) -> tuple[float, Interval]:
    """Median of the differences x_i - y_j and the interval between the depth-th from each end (same sources).

    Shapes (n,) and (m,), divided by 2**exponent, within [-1, 1].
    """
    x, y = _on_grid(first), _on_grid(-second)
    return _estimate(test, _Sums(x, y, np.zeros(x.size, dtype=np.int64)), exponent, depth)


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """All rows[i] + columns[j] with j >= first[i]; rows and columns ascend.

    Whole numbers, because sums of doubles would be rounded and counting them by bisection would then be off by one
    here and there. `at` takes memory for a few vectors, not for the n * m sums.
    """

    rows: Integers
    columns: Integers
    first: Integers

    @property
    def count(self) -> int:
        return int((self.columns.size - self.first).sum())

    def at(self, rank: int) -> int:
        """The sum at this rank from 0, by narrowing each row's range of columns around sampled sums.

        Every pivot is itself a candidate and leaves with the side that is cut off, so the search ends.
        """
        low, high = self.first, np.full(self.rows.size, self.columns.size)
        while int((high - low).sum()) > _LISTED:
            for pivot in self._pivots(low, high, rank - int((low - self.first).sum())):
                below = np.maximum(np.searchsorted(self.columns, pivot - self.rows, "left"), self.first)
                if rank < int((below - self.first).sum()):
                    high = np.minimum(high, below)
                    continue
                upto = np.maximum(np.searchsorted(self.columns, pivot - self.rows, "right"), self.first)
                if rank < int((upto - self.first).sum()):
                    return pivot
                low = np.maximum(low, upto)
        sums = self._candidates(low, high)
        rank -= int((low - self.first).sum())
        return int(np.partition(sums, rank)[rank])

    def _pivots(self, low: Integers, high: Integers, rank: int) -> tuple[int, ...]:
        ends = np.cumsum(high - low)
        total = int(ends[-1])
        places = ((np.arange(_SAMPLED) + 0.5) * (total / _SAMPLED)).astype(np.int64)
        row = np.searchsorted(ends, places, side="right")
        sample = np.sort(self.rows[row] + self.columns[high[row] - (ends[row] - places)])
        centre, margin = rank / total * _SAMPLED, 2.0 * math.sqrt(_SAMPLED)
        around = (max(0, int(centre - margin)), min(_SAMPLED - 1, int(centre + margin)))
        return tuple(int(sample[place]) for place in around)

    def _candidates(self, low: Integers, high: Integers) -> Integers:
        counts = high - low
        row = np.repeat(np.arange(self.rows.size), counts)
        within = np.arange(row.size) - np.repeat(np.cumsum(counts) - counts, counts)
        return cast(Integers, self.rows[row] + self.columns[low[row] + within])


def _estimate(test: str, sums: _Sums, exponent: int, depth: int) -> tuple[float, Interval]:
    count = sums.count
    lower_middle = sums.at((count - 1) // 2)
    upper_middle = sums.at(count // 2) if count % 2 == 0 else lower_middle
    point = unscaled(test, float(lower_middle + upper_middle), exponent - _GRID - 1)
    if depth == 0:
        return point, (-math.inf, math.inf)
    low, high = sums.at(depth - 1), sums.at(count - depth)
    return point, (
        unscaled(test, float(low), exponent - _GRID),
        unscaled(test, float(high), exponent - _GRID),
    )


def _on_grid(values: Vector) -> Integers:
    return cast(Integers, np.sort(np.rint(np.ldexp(values, _GRID)).astype(np.int64)))

"""Looking at every new value: confidence sequences, whose intervals hold at all times at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from scipy import special

from crucible_bench.data.sample import Sample, Values, Vector, read_sample, scale_exponent, scaled
from crucible_bench.errors import CannotTestError
from crucible_bench.levels import share
from crucible_bench.result import plain_json

SequenceName = Literal["betting", "t_mixture"]

_TRUNCATION: Final = 0.5  # of a bet, so that no single value can take all of the capital
_CELLS: Final = 1 << 18  # values times means at once: 2 MB a table
_ROUNDING: Final = 8.0 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """One interval of the mean after each value; with probability `confidence_level` all of them cover it.

    So you may look after every value and stop at any time. `estimates`, `lower` and `upper` have an entry per value, in
    its units; an end is infinite (None in JSON) where nothing can be said yet.
    """

    procedure: SequenceName
    method: str
    n: int
    confidence_level: float
    estimates: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    assumptions: tuple[str, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """The last one."""
        return self.lower[-1], self.upper[-1]

    def first_exclusion(self, value: float) -> int | None:
        """After how many values an interval first leaves this mean out; None if none does."""
        for count, (low, high) in enumerate(zip(self.lower, self.upper, strict=True), start=1):
            if not low <= value <= high:
                return count
        return None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields: dict[str, Any] = plain_json(asdict(self))
        return fields


def betting_sequence(
    values: Values,
    bounds: tuple[float, float],
    *,
    alpha: float = 0.05,
    breaks: int = 1000,
    caps: Sequence[float] = (_TRUNCATION,),
) -> ConfidenceSequence:
    """Confidence sequence of the mean of bounded values by hedged betting (Waudby-Smith & Ramdas 2023, theorem 3).

    For each possible mean m, one capital bets that the values are higher and another that they are lower, with bets
    that follow the variance seen so far. If either has grown by a factor of 2 / alpha, m is left out. Both capitals are
    monotone in m, so what is left is an interval. Its ends are rounded outwards to `breaks` steps between the bounds.
    No assumption but the bounds and a mean that stays the same (given the past).

    `caps` are the shares of its capital that a bet may put at risk, one half being what the paper recommends; over
    several the capital is split evenly at the start. Values far from 0 and 1 that hardly vary, as scores of whole runs
    do, need one near 1.

    `values` have shape (n,), in the order in which they came. Raises CannotTestError for values outside the bounds and
    for invalid bounds, ValueError for caps that do not lie between 0 and 1 and for fewer than 10 breaks.
    """
    alpha, unit, (low, width) = share("alpha", alpha), *_unit_interval("betting", values, bounds)
    if breaks < 10:
        raise ValueError(f"breaks must be at least 10, not {breaks}")
    caps = tuple(share("every cap", cap) for cap in caps)
    if not caps:
        raise ValueError("caps must name at least one share of the capital")
    grid = np.linspace(0.0, 1.0, breaks + 1)
    threshold = math.log(2.0 / alpha)
    lower, upper = [np.empty(0)], [np.empty(0)]
    for gains, losses in _log_capitals(unit, grid, alpha, caps):
        # Rising capital is lost as m grows, falling capital won: so the places left out are the first and the last.
        below = (gains >= threshold).sum(axis=1)
        above = (losses >= threshold).sum(axis=1)
        lower.append(np.where(below > 0, grid[np.maximum(below - 1, 0)], 0.0))
        upper.append(np.where(above > 0, grid[np.minimum(breaks + 1 - above, breaks)], 1.0))
    return _sequence(
        "betting",
        "hedged betting confidence sequence",
        unit,
        (np.concatenate(lower), np.concatenate(upper)),
        (low, width),
        alpha,
        assumptions=_bounded_assumptions(bounds),
    )


def t_mixture_sequence(values: Values, *, alpha: float = 0.05, tightest_at: int = 100) -> ConfidenceSequence:
    """Confidence sequence of the mean of normal values of any standard deviation (Wang & Ramdas 2025; Lai 1976).

    For each possible mean the t statistic's Bayes factor, with a normal prior of variance g on the standardized mean
    (Gonen et al. 2005), is a martingale whatever the standard deviation; the means against which it is below 1 / alpha
    stay. With G = 1 + t g and R = (sqrt(G) / alpha)**(2 / t) these have t-statistic**2 < (t - 1) (R - 1) / (1 - R / G).
    The interval is infinite while R >= G, and as long as all values are equal. `tightest_at`, to be chosen before
    looking, sets g: that of the mixture which is narrowest after so many values (Howard et al. 2021).

    `values` have shape (n,). Raises CannotTestError for data that no test takes, ValueError for an alpha or
    `tightest_at` out of range.
    """
    alpha, sample = share("alpha", alpha), read_sample("t_mixture", "values", values)
    g, (values_scaled, unit) = 1.0 / _mixing(alpha, tightest_at), _scaled(sample)
    t = np.arange(1.0, sample.n + 1.0)
    centre = _running_means(values_scaled)
    offset = values_scaled - centre[-1]
    # A running sum of squares about the running mean (Welford 1962), without its loop.
    before = np.concatenate(([offset[0]], np.cumsum(offset)[:-1] / t[:-1]))
    squares = np.cumsum(np.square(offset - before) * (t - 1.0) / t)
    growth = 1.0 + t * g
    bound = np.exp(2.0 / t * (0.5 * np.log(growth) - math.log(alpha)))
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.sqrt(squares * (bound - 1.0) / (1.0 - bound / growth) / t)
    spread = np.maximum.accumulate(values_scaled) - np.minimum.accumulate(values_scaled)
    settled = (bound < growth) & (spread > _ROUNDING * np.maximum.accumulate(np.abs(values_scaled)))
    reach = np.where(settled, reach, math.inf)
    return _sequence(
        "t_mixture",
        "normal-mixture confidence sequence, estimated standard deviation",
        values_scaled,
        (centre - reach, centre + reach),
        (0.0, unit),
        alpha,
        assumptions=("values are independent and normal, with one mean and one standard deviation",),
    )


def _log_capitals(
    unit: Vector, means: Vector, alpha: float, caps: Sequence[float] = (_TRUNCATION,)
) -> Iterator[tuple[Vector, Vector]]:
    """Per batch of values, shape (rows, means): log capital of the bets on higher and on lower values.

    The bets are cut off at a cap over m, and over 1 - m, so that a capital always keeps a part and is never lost. With
    several caps it is the mean of one capital per cap.
    """
    bets = _bets(unit, alpha)
    with np.errstate(divide="ignore"):
        limits = [(cap / means, cap / (1.0 - means)) for cap in caps]
    totals = [(np.zeros_like(means), np.zeros_like(means)) for _ in caps]
    rows = max(1, _CELLS // means.size)
    for start in range(0, unit.size, rows):
        bet = bets[start : start + rows, None]
        deviation = unit[start : start + rows, None] - means
        capitals = []
        for place, (highest, lowest) in enumerate(limits):
            gains = np.cumsum(np.log1p(np.minimum(bet, highest) * deviation), axis=0) + totals[place][0]
            losses = np.cumsum(np.log1p(-np.minimum(bet, lowest) * deviation), axis=0) + totals[place][1]
            totals[place] = gains[-1], losses[-1]
            capitals.append((gains, losses))
        if len(capitals) == 1:
            yield capitals[0]
        else:
            gains, losses = (special.logsumexp(side, axis=0) for side in zip(*capitals, strict=True))
            yield gains - math.log(len(caps)), losses - math.log(len(caps))


def _bets(unit: Vector, alpha: float) -> Vector:
    """Predictable plug-in bets: sqrt(2 log(2 / alpha) / (variance so far * t log(t + 1)))."""
    _, variances = _regularized(unit)
    t = np.arange(1.0, unit.size + 1.0)
    before = np.concatenate(([0.25], variances[:-1]))
    bets: Vector = np.sqrt(2.0 * math.log(2.0 / alpha) / (before * t * np.log1p(t)))
    return bets


def _regularized(unit: Vector) -> tuple[Vector, Vector]:
    """Running mean and variance of values in [0, 1], as if one value at 1/2 with variance 1/4 had come before."""
    t = np.arange(1.0, unit.size + 1.0)
    means = (0.5 + np.cumsum(unit)) / (t + 1.0)
    return means, (0.25 + np.cumsum(np.square(unit - means))) / (t + 1.0)


def _unit_interval(test: str, values: Values, bounds: tuple[float, float]) -> tuple[Vector, tuple[float, float]]:
    low, high = (float(bound) for bound in bounds)
    if not (math.isfinite(low) and math.isfinite(high) and low < high and math.isfinite(high - low)):
        raise CannotTestError(test, f"the bounds must be two finite numbers, the lower first, not {bounds!r}")
    sample = read_sample(test, "values", values)
    outside = np.flatnonzero((sample.values < low) | (sample.values > high))
    if outside.size:
        where = int(outside[0])
        raise CannotTestError(
            test,
            f"{outside.size} of {sample.n} values lie outside the bounds {low:g} and {high:g}; the first, at position "
            f"{where}, is {float(sample.values[where])!r}; bounds must hold for all values that could come",
        )
    return np.clip((sample.values - low) / (high - low), 0.0, 1.0), (low, high - low)


def _mixing(alpha: float, tightest_at: int) -> float:
    """The r that makes the normal-mixture boundary lowest at that many values (Howard et al. 2021)."""
    if tightest_at < 1:
        raise ValueError(f"tightest_at must be at least 1, not {tightest_at}")
    return tightest_at / (-float(special.lambertw(-(alpha**2) / math.e, -1).real) - 1.0)


def _scaled(sample: Sample) -> tuple[Vector, float]:
    """The values divided by a power of two so that they lie within [-2, 2]; and that power."""
    exponent = max(scale_exponent((sample,)), -1020) - 1
    return scaled(sample.values, exponent), math.ldexp(1.0, exponent)


def _running_means(values: Vector) -> Vector:
    # About the first value, so that a large common offset costs no digits.
    means: Vector = values[0] + np.cumsum(values - values[0]) / np.arange(1.0, values.size + 1.0)
    return means


def _sequence(
    procedure: SequenceName,
    method: str,
    values: Vector,
    ends: tuple[Vector, Vector],
    place: tuple[float, float],
    alpha: float,
    *,
    assumptions: tuple[str, ...],
) -> ConfidenceSequence:
    low, width = place
    with np.errstate(over="ignore"):
        rows = [low + width * row for row in (_running_means(values), *ends)]
    if any(np.isnan(row).any() for row in rows) or not np.isfinite(rows[0]).all():
        raise CannotTestError(procedure, "the numbers leave the range of double precision; rescale the data")
    estimates, lower, upper = (tuple(float(value) for value in row) for row in rows)
    return ConfidenceSequence(
        procedure=procedure,
        method=method,
        n=int(values.size),
        confidence_level=1.0 - alpha,
        estimates=estimates,
        lower=lower,
        upper=upper,
        assumptions=assumptions,
    )


def _bounded_assumptions(bounds: tuple[float, float]) -> tuple[str, ...]:
    return (
        "the mean of the next value, given the past, is the same every time",
        f"values lie between {bounds[0]:g} and {bounds[1]:g}",
    )

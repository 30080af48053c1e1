"""Looking at every new value: confidence sequences, whose intervals hold at all times at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from scipy import special

from crucible_bench.data.moments import moments
from crucible_bench.data.sample import Sample, Values, Vector, read_sample, scale_exponent, scaled
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.choose_test import SHOWS_ITS_SHAPE
from crucible_bench.hypothesis_tests.normality import skewness_of_mean
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
    notes: tuple[str, ...] = ()

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
    The only assumptions are the bounds and a mean that stays the same (given the past).

    `caps` are the shares of its capital that a bet may put at risk, one half being what the paper recommends; over
    several the capital is split evenly at the start. Values far from 0 and 1 that hardly vary, such as scores of whole
    runs, need a cap near 1.

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


def betting_change(
    before: Values,
    values: Values,
    bounds: tuple[float, float],
    *,
    alpha: float = 0.05,
    breaks: int = 1000,
    caps: Sequence[float] = (_TRUNCATION,),
) -> ConfidenceSequence:
    """Confidence sequence of the mean of bounded values minus that of m earlier ones, by hedged betting.

    For an earlier mean m and a later mean m', the capital of bets on the earlier values times that of bets on the later
    ones is a fair game. A change is left out when that product has grown by 2 / alpha for every m: the evidence of both
    groups is multiplied, where an interval of each at alpha / 2 would have to leave the change out by itself. The ends
    are rounded outwards to `breaks` steps between the bounds.

    Shapes, `caps` and errors are as for `betting_sequence`.
    """
    alpha, later, (_, width) = share("alpha", alpha), *_unit_interval("betting", values, bounds)
    first, _ = _unit_interval("betting", before, bounds)
    grid = np.linspace(0.0, 1.0, breaks + 1)
    for gains, losses in _log_capitals(first, grid, alpha, caps):
        of_higher, of_lower = gains[-1], losses[-1]
    # The least capital of the earlier values between two places of the grid: one falls as m grows, one rises.
    wanted = math.log(2.0 / alpha) - (np.logaddexp(of_higher[1:], of_lower[:-1]) - math.log(2.0))
    possible = wanted > min(0.0, float(wanted.max()) - 1.0)  # the others are left out before there are later values
    wanted, left, right = wanted[possible], grid[:-1][possible], grid[1:][possible]
    lower, upper = [], []
    for gains, losses in _log_capitals(later, grid, alpha, caps):
        for gain, loss in zip(gains, losses, strict=True):
            below, above = np.searchsorted(-gain, -wanted, side="right"), np.searchsorted(loss, wanted)
            lower.append(float((grid[np.maximum(below - 1, 0)] - right).min()))
            upper.append(float((grid[np.minimum(above, breaks)] - left).max()))
    return _sequence(
        "betting",
        "hedged betting confidence sequence of the change",
        later - float(first.mean()),
        (np.array(lower), np.array(upper)),
        (0.0, width),
        alpha,
        assumptions=_bounded_assumptions(bounds),
    )


def t_mixture_sequence(values: Values, *, alpha: float = 0.05, tightest_at: int = 100) -> ConfidenceSequence:
    """Confidence sequence of the mean of normal values of any standard deviation (Wang & Ramdas 2025; Lai 1976).

    For each possible mean the t statistic's Bayes factor, with a normal prior of variance g on the standardized mean
    (Gonen et al. 2005), is a martingale whatever the standard deviation; the means against which it is below 1 / alpha
    stay. With G = 1 + t g and R = (sqrt(G) / alpha)**(2 / t) these have t-statistic**2 < (t - 1) (R - 1) / (1 - R / G).
    The interval is infinite while R >= G, and as long as all values are equal. `tightest_at`, to be chosen before
    looking, sets g: that of the mixture that is narrowest after this many values (Howard et al. 2021).

    `values` have shape (n,). Raises CannotTestError for data that no test takes, ValueError for an alpha or
    `tightest_at` out of range.
    """
    alpha, sample = share("alpha", alpha), read_sample("t_mixture", "values", values)
    g, (values_scaled, unit) = 1.0 / _mixing(alpha, tightest_at), _scaled(sample)
    t = np.arange(1.0, sample.n + 1.0)
    centre = _running_means(values_scaled)
    reach = _t_mixture_reach(_running_squares(values_scaled), t, t, g, alpha)
    spread = np.maximum.accumulate(values_scaled) - np.minimum.accumulate(values_scaled)
    settled = spread > _ROUNDING * np.maximum.accumulate(np.abs(values_scaled))
    reach = np.where(settled, reach, math.inf)
    return _sequence(
        "t_mixture",
        "normal-mixture confidence sequence, estimated standard deviation",
        values_scaled,
        (centre - reach, centre + reach),
        (0.0, unit),
        alpha,
        assumptions=("values are independent and normal, with one mean and one standard deviation",),
        notes=_notes_of_shape(sample),
    )


def t_mixture_change(
    before: Values, values: Values, *, alpha: float = 0.05, tightest_at: int = 100
) -> ConfidenceSequence:
    """Confidence sequence of the mean of the values minus that of m earlier ones, for normal values of one sd.

    The Bayes factor of the two-sample t statistic (Gonen et al. 2005) is a martingale as the second group grows, with
    or without values in the first, because the mean and the standard deviation that both share have their right Haar
    prior (Lai 1976; Wang & Ramdas 2025). So one alpha is spent, not one for each mean. The interval is that of
    `t_mixture_sequence` with e = m t / (m + t) for t in G and in the standard error, m + t values in place of t in R,
    and the pooled sum of squares. It never becomes shorter than the error of the earlier mean allows.

    `before` and `values` have shapes (m,) and (n,). Raises CannotTestError if fewer than two earlier values differ, and
    otherwise as `t_mixture_sequence` does.
    """
    test, alpha = "t_mixture", share("alpha", alpha)
    first, later = read_sample(test, "baseline", before), read_sample(test, "values", values)
    if first.n < 2 or first.is_constant:
        raise CannotTestError(
            test, f"the {first.n} earlier values do not vary, so nothing is known of the error of their mean"
        )
    exponent = scale_exponent((first, later)) - 1  # so that 2**exponent is a double
    m, t = float(first.n), np.arange(1.0, later.n + 1.0)
    of = moments(first.values, exponent)
    after = scaled(later.values, exponent)
    g = 1.0 / _mixing(alpha, tightest_at, m)
    reach = _t_mixture_reach(of.squares + _running_squares(after), m * t / (m + t), m + t - 1.0, g, alpha)
    change = (after - of.reference) - of.offset
    centre = _running_means(change)
    return _sequence(
        "t_mixture",
        "normal-mixture confidence sequence of the change, estimated standard deviation",
        change,
        (centre - reach, centre + reach),
        (0.0, math.ldexp(1.0, exponent)),
        alpha,
        assumptions=("values are independent and normal, with one mean before, one after, and one standard deviation",),
    )


def _running_squares(values: Vector) -> Vector:
    """The sum of squares about the running mean after each value (Welford 1962), without its loop."""
    t = np.arange(1.0, values.size + 1.0)
    offset = values - _running_means(values)[-1]
    before = np.concatenate(([offset[0]], np.cumsum(offset)[:-1] / t[:-1]))
    squares: Vector = np.cumsum(np.square(offset - before) * (t - 1.0) / t)
    return squares


def _t_mixture_reach(squares: Vector, count: Vector, power: Vector, g: float, alpha: float) -> Vector:
    """Half the interval's length, infinite while nothing can be said.

    `squares` are those within groups, on one degree of freedom less than `power`; 1 / `count` is the variance of the
    estimate in units of the values' own.
    """
    growth = 1.0 + count * g
    bound = np.exp(2.0 / power * (0.5 * np.log(growth) - math.log(alpha)))
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.sqrt(squares * (bound - 1.0) / (1.0 - bound / growth) / count)
    found: Vector = np.where(bound < growth, reach, math.inf)
    return found


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


def _mixing(alpha: float, tightest_at: int, earlier: float = math.inf) -> float:
    """The r that makes the normal-mixture boundary lowest at that many values (Howard et al. 2021).

    `earlier` is how many values the mean is compared with; infinite for a number.
    """
    if tightest_at < 1:
        raise ValueError(f"tightest_at must be at least 1, not {tightest_at}")
    return tightest_at / (1.0 + tightest_at / earlier) / (-float(special.lambertw(-(alpha**2) / math.e, -1).real) - 1.0)


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
    notes: tuple[str, ...] = (),
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
        notes=notes,
    )


def _notes_of_shape(sample: Sample) -> tuple[str, ...]:
    n = sample.n
    if n >= SHOWS_ITS_SHAPE and skewness_of_mean([sample.values]) is None:
        return ()
    why = "the values are skewed" if n >= SHOWS_ITS_SHAPE else f"{n} values can neither show nor rule out normal ones"
    return (
        f"{why}: with lognormal values, some interval of the sequence leaves the mean out in up to 25 % where 5 % are "
        "promised; a sequence with bounds of the values holds, and so does one of the logarithms of positive values",
    )


def _bounded_assumptions(bounds: tuple[float, float]) -> tuple[str, ...]:
    return (
        "the mean of the next value, given the past, is the same every time",
        f"values lie between {bounds[0]:g} and {bounds[1]:g}",
    )

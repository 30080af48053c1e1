"""The bootstrap comparison of two means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crucible_bench.data.moments import Moments
from crucible_bench.data.sample import Sample, Vector, scaled, unscaled
from crucible_bench.distributions.resampling import bca_interval, check_resamples, generators
from crucible_bench.effect_sizes.standardized import bias_factor, pooled_sd
from crucible_bench.hypothesis_tests.ttests import independent_moments
from crucible_bench.result import Choice, Effect, Interval, Settings, TestResult, conclude
from crucible_bench.vocabulary import Alternative

_BATCH = 1 << 16  # values drawn at once: 512 kB of positions and 512 kB of values, whatever n
_NOISE = 1e-12
_SMALL_GROUP = 20

_PerGroup = tuple[float, float]


def bootstrap_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Bootstrap test and interval for the difference of two means, groups resampled separately.

    One set of resamples serves all three answers. The p-value is that of the studentized difference under the null:
    both groups are moved to a common mean (Efron & Tibshirani 1993, algorithm 16.2). It is counted as (b + 1) / (B + 1)
    (Davison & Hinkley 1997, section 4.2). The interval is BCa with the empirical influence values' acceleration (Efron
    1987). Memory beyond the data is one copy of the larger group and a constant.
    """
    check_resamples("bootstrap", settings.resamples, (settings.alpha, settings.tail))
    first, second, exponent = independent_moments("bootstrap", samples)
    streams = generators(settings.seed, samples)
    drawn = tuple(
        _resample(sample.values, of, exponent, settings.resamples, stream)
        for sample, of, stream in zip(samples, (first, second), streams, strict=True)
    )
    both = _Both(samples, (first, second), exponent)
    t = both.difference / math.sqrt(first.variance / first.n + second.variance / second.n)
    interval, interval_choice = _difference_interval(both, drawn, settings)
    return conclude(
        "bootstrap",
        samples,
        settings,
        method=f"bootstrap test of the difference of means, {settings.sides}, {settings.resamples} resamples",
        statistic=("t", t),
        df=(),
        p_value=_p_value(t, both, drawn, settings.alternative),
        estimate=(
            f"difference of means ({samples[0].name} - {samples[1].name})",
            unscaled("bootstrap", both.difference, exponent),
            interval,
        ),
        effect=_effect(both, drawn, settings),
        assumptions=(
            "observations are independent, within and between the groups",
            "each group represents its population well (no small or very heavy-tailed group)",
            "the effect size expresses the difference in pooled standard deviations",
        ),
        notes=_notes(samples, settings),
        decisions=(
            Choice(
                "studentized null bootstrap for the p-value",
                "the groups are moved to a common mean but keep their own variances, so only the means are tested",
                ("permutation test", "counting resamples beyond zero"),
            ),
            interval_choice,
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """Per resample: its mean minus the group's mean, and its variance. Shapes (B,), scaled."""

    means: Vector
    variances: Vector


@dataclass(frozen=True, slots=True, eq=False)
class _Both:
    samples: tuple[Sample, ...]
    moments: tuple[Moments, Moments]
    exponent: int

    @property
    def difference(self) -> float:
        return self.moments[0].minus(self.moments[1])

    def centred(self, group: int) -> Iterator[Vector]:
        """A group's values minus their mean, in pieces."""
        of, values = self.moments[group], self.samples[group].values
        for start in range(0, of.n, _BATCH):
            yield scaled(values[start : start + _BATCH], self.exponent) - of.reference - of.offset


def _resample(values: Vector, of: Moments, exponent: int, resamples: int, stream: np.random.Generator) -> _Drawn:
    centred = scaled(values, exponent)
    centred -= of.reference
    centred -= of.offset
    centred.sort()  # then the order of the values does not change which of them are drawn
    n = of.n
    rows, width = max(1, _BATCH // n), min(n, _BATCH)
    picked = np.empty((rows, width))
    sums, squares = np.zeros(resamples), np.zeros(resamples)
    for row in range(0, resamples, rows):
        height = min(rows, resamples - row)
        for column in range(0, n, width):
            piece = picked[:height, : min(width, n - column)]
            if piece.shape != picked.shape:
                piece = np.empty(piece.shape)
            # Every position is in range; "clip" spares the check and the copy that goes with it.
            centred.take(stream.integers(0, n, piece.shape), out=piece, mode="clip")
            sums[row : row + height] += piece.sum(axis=1)
            squares[row : row + height] += np.einsum("ij,ij->i", piece, piece)
    spread = squares - sums * sums / n
    spread[spread <= _NOISE * squares] = 0.0  # a resample that drew one value n times
    return _Drawn(sums / n, spread / (n - 1))


def _p_value(t: float, both: _Both, drawn: tuple[_Drawn, ...], alternative: Alternative) -> float:
    numerator = drawn[0].means - drawn[1].means
    if alternative == "two-sided":
        numerator, t = np.abs(numerator), abs(t)
    elif alternative == "less":
        numerator, t = -numerator, -t
    error = np.sqrt(drawn[0].variances / both.moments[0].n + drawn[1].variances / both.moments[1].n)
    # Multiplied out, so that resamples without spread count as extreme instead of dividing by zero.
    extreme = np.count_nonzero(numerator >= (t - _NOISE * abs(t)) * error)
    return (extreme + 1.0) / (numerator.size + 1.0)


def _difference_interval(both: _Both, drawn: tuple[_Drawn, ...], settings: Settings) -> tuple[Interval, Choice]:
    acceleration = _acceleration(both, (1.0, -1.0), (0.0, 0.0), pooled_sd(*both.moments))
    (low, high), choice = bca_interval(drawn[0].means - drawn[1].means, acceleration, settings.estimate_tail)
    ends = (unscaled("bootstrap", both.difference + end, both.exponent) for end in (low, high))
    return settings.bounded((next(ends), next(ends))), choice


def _effect(both: _Both, drawn: tuple[_Drawn, ...], settings: Settings) -> Effect:
    """Cohen's d or Hedges' g with the BCa interval of its own replicates, from the same resamples."""
    first, second = both.moments
    df, sd = first.n + second.n - 2, pooled_sd(first, second)
    d = both.difference / sd
    pooled = ((first.n - 1) * drawn[0].variances + (second.n - 1) * drawn[1].variances) / df
    usable = pooled > 0.0
    replicates = (both.difference + (drawn[0].means - drawn[1].means)[usable]) / np.sqrt(pooled[usable])
    # Influence values over sd, and shrunk together when d is huge: acceleration has no scale.
    weight, curve = 1.0 / (1.0 + abs(d)), -d / (1.0 + abs(d)) / (2.0 * df)
    acceleration = _acceleration(both, (weight, -weight), (curve * first.n, curve * second.n), sd)
    (low, high), choice = bca_interval(replicates - d, acceleration, settings.tail)
    factor = bias_factor(df) if settings.effect_size == "hedges_g" else 1.0
    lost = int(usable.size - np.count_nonzero(usable))
    return Effect(
        settings.effect_size,
        factor * d,
        (factor * (d + low), factor * (d + high)),
        Choice(
            f"{choice.decision} for the effect size",
            f"from the same resamples as the difference, so it assumes no normality; {choice.reasoning}",
            (*choice.alternatives, "noncentral-t interval"),
        ),
        (f"{lost} resamples without any spread left out of the effect size's interval",) if lost else (),
    )


def _acceleration(both: _Both, slope: _PerGroup, curve: _PerGroup, unit: float) -> float:
    """Efron's (1987) acceleration from the influence values slope * x + curve * (x**2 - mean square).

    x is a value minus its group's mean, over `unit`. These are the exact empirical influence values of the difference
    of means (curve 0) and of its ratio to the pooled standard deviation. nan where nothing varies.
    """
    cubes = total = 0.0
    for group, of in enumerate(both.moments):
        mean_square = of.squares / of.n / unit**2
        for centred in both.centred(group):
            x = centred / unit
            influence = slope[group] * x + curve[group] * (x * x - mean_square)
            square = influence * influence
            cubes += float(np.dot(square, influence)) / of.n**3
            total += float(square.sum()) / of.n**2
    return cubes / (6.0 * total**1.5) if total > 0.0 else math.nan


def _notes(samples: tuple[Sample, ...], settings: Settings) -> tuple[str, ...]:
    smallest = min(sample.n for sample in samples)
    seeded = (f"{settings.resamples} resamples, seed {settings.seed}",)
    if smallest >= _SMALL_GROUP:
        return seeded
    return (
        *seeded,
        f"the smallest group has {smallest} values: below {_SMALL_GROUP} bootstrap intervals tend to be too short",
    )

"""Permutation tests of means: values exchanged between groups, or the signs of paired differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crucible_bench.data.moments import moments
from crucible_bench.data.pairs import pair_differences
from crucible_bench.data.sample import Sample, Vector, scale_exponent, scaled, unscaled
from crucible_bench.distributions.rank_distributions import midranks
from crucible_bench.distributions.resampling import check_resamples
from crucible_bench.effect_sizes.standardized import paired_standardized, standardized_difference
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.mann_whitney import DOMINANCE_EFFECTS, dominance
from crucible_bench.hypothesis_tests.ttests import independent_moments
from crucible_bench.hypothesis_tests.wilcoxon import matched_rank_biserial
from crucible_bench.result import Choice, Effect, Interval, Settings, TestResult, conclude
from crucible_bench.vocabulary import TestName

_EVERY_UP_TO = 20_000  # up to this many rearrangements are all counted, however many resamples were asked for
_BATCH = 1 << 18  # values rearranged at once: 2 MB
_NOISE = 1e-12


def permutation_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Permutation test of the difference of two means (Fisher 1935; Pitman 1937).

    If there are at most 20000 divisions of the values into such groups, all are counted. Otherwise B random ones are,
    and the p-value is (b + 1) / (B + 1), never 0 (Phipson & Smyth 2010). The interval holds the shifts that the same
    divisions do not reject (Garthwaite 1996), so it agrees with the test. Two-sided, both use twice the smaller tail.
    """
    name: TestName = "permutation"
    exponent = scale_exponent(samples)
    # Which group is drawn depends on sizes and names, not on places: exchanging the groups only changes the sign.
    drawn, rest = sorted(samples, key=lambda sample: (sample.n, sample.name))
    first, second = (np.sort(scaled(sample.values, exponent)) for sample in (drawn, rest))
    found = _divisions(first, second, settings)
    if drawn is not samples[0]:
        found = found.turned()
    if settings.effect_size in DOMINANCE_EFFECTS:
        x, y = (sample.values for sample in samples)
        u = float(midranks(np.concatenate([x, y]))[: x.size].sum()) - x.size * (x.size + 1.0) / 2.0
        effect = dominance(x, y, u, settings)
    else:
        one, other, _ = independent_moments(name, samples)
        effect = standardized_difference(name, one, other, settings)
    parts = [moments(sample.values, exponent) for sample in samples]
    return _concluded(
        name,
        samples,
        settings,
        method="permutation test of the difference of means",
        estimate=(f"difference of means ({samples[0].name} - {samples[1].name})", parts[0].minus(parts[1])),
        exponent=exponent,
        found=found,
        effect=effect,
        assumptions=(
            "observations are independent, within and between the groups",
            "without an effect both groups have the same distribution; with one they differ in location only",
        ),
    )


def paired_permutation_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Permutation test of the mean paired difference: every sign, or B random choices of signs (Fisher 1935).

    Counting is as for `permutation_test`; the interval's ends are means of subsets of the differences, whose order
    statistics hold the confidence exactly (Hartigan 1969).
    """
    name: TestName = "paired_permutation"
    pairs = pair_differences(name, samples)
    turned = samples[0].name > samples[1].name
    found = _signs(np.sort(-pairs.values if turned else pairs.values), settings)
    if turned:
        found = found.turned()
    of = moments(pairs.values, 0)
    if settings.effect_size == "rank_biserial":
        levels = pairs.signed_levels()
        if not levels.any():
            raise CannotTestError(
                name, f"none of {levels.size} differences is other than zero: nothing can change sign"
            )
        effect = matched_rank_biserial(levels[levels != 0], settings)
    elif of.n < 2 or pairs.is_constant:
        raise CannotTestError(
            name,
            f"all {of.n} differences are equal, so the effect size {settings.effect_size} is undefined; "
            "rank_biserial is defined here",
        )
    else:
        effect = paired_standardized(name, samples, of, pairs.exponent, settings)
    return _concluded(
        name,
        samples,
        settings,
        method="permutation test of the mean paired difference",
        estimate=(f"mean difference ({samples[0].name} - {samples[1].name})", of.mean),
        exponent=pairs.exponent,
        found=found,
        effect=effect,
        assumptions=(
            "values at the same position of the two groups belong together",
            "pairs are independent of each other",
            "the differences are symmetric about their mean",
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Rearranged:
    """For each rearrangement that differs from the data, the shift that makes both means equal; scaled, shape (<= B,).

    A rearrangement's difference is at least the observed one exactly where this shift is at most zero, so the shifts
    give both the p-value and the interval. `same` counts random ones that rearrange nothing.
    """

    shifts: Vector
    same: int
    is_every: bool

    @property
    def total(self) -> int:
        return self.shifts.size + self.same + 1  # the data themselves are one arrangement

    def turned(self) -> _Rearranged:
        return _Rearranged(-self.shifts, self.same, self.is_every)

    def tails(self) -> tuple[float, float]:
        noise = _NOISE * max(1e-300, float(np.abs(self.shifts).max(initial=0.0)))
        above = int(np.count_nonzero(self.shifts <= noise)) + self.same + 1
        below = int(np.count_nonzero(self.shifts >= -noise)) + self.same + 1
        return above / self.total, below / self.total

    def interval(self, tail: float) -> Interval:
        depth = math.floor(tail * self.total * (1.0 + _NOISE)) - self.same
        if depth < 1:
            return -math.inf, math.inf
        ordered = np.partition(self.shifts, (depth - 1, self.shifts.size - depth))
        return float(ordered[depth - 1]), float(ordered[self.shifts.size - depth])


def _divisions(first: Vector, second: Vector, settings: Settings) -> _Rearranged:
    """Divisions of all values into groups of these sizes; only members of the first, smaller one are drawn."""
    n, pooled = first.size, np.concatenate([first, second])
    pooled -= pooled.mean()
    own = float(pooled[:n].sum())
    # A choice of n has more than 2**n outcomes, and the exact number of some takes minutes.
    if n <= _EVERY_UP_TO.bit_length() and math.comb(pooled.size, n) <= _EVERY_UP_TO:
        chosen = np.array(list(itertools.islice(itertools.combinations(range(pooled.size), n), 1, None)))
        return _Rearranged((own - pooled[chosen].sum(1)) / np.count_nonzero(chosen >= n, axis=1), 0, True)
    check_resamples("permutation", settings.resamples, (settings.alpha, settings.estimate_tail))
    stream = np.random.default_rng(settings.seed)
    shifts, same = [], 0
    for chosen in _drawn_without_replacement(stream, pooled.size, n, settings.resamples):
        moved = np.count_nonzero(chosen >= n, axis=1)
        same += int(np.count_nonzero(moved == 0))
        shifts.append((own - pooled[chosen[moved > 0]].sum(1)) / moved[moved > 0])
    return _Rearranged(np.concatenate(shifts), same, False)


def _drawn_without_replacement(
    stream: np.random.Generator, total: int, members: int, resamples: int
) -> Iterator[np.ndarray[tuple[int, int], np.dtype[np.intp]]]:
    rows = max(1, _BATCH // total)
    for start in range(0, resamples, rows):
        if rows == 1:
            yield stream.choice(total, members, replace=False, shuffle=False)[None, :]
        else:
            keys = stream.random((min(rows, resamples - start), total))
            yield np.argpartition(keys, members - 1, axis=1)[:, :members]


def _signs(differences: Vector, settings: Settings) -> _Rearranged:
    n = differences.size
    if n < _EVERY_UP_TO.bit_length():
        flips = np.array(list(itertools.product((0.0, 1.0), repeat=n)))[1:]
        return _Rearranged(flips @ differences / flips.sum(1), 0, True)
    check_resamples("paired_permutation", settings.resamples, (settings.alpha, settings.estimate_tail))
    stream = np.random.default_rng(settings.seed)
    sums, counts = np.zeros(settings.resamples), np.zeros(settings.resamples)
    rows, width = max(1, _BATCH // n), min(n, _BATCH)
    for start in range(0, settings.resamples, rows):
        height = min(rows, settings.resamples - start)
        for column in range(0, n, width):
            piece = differences[column : column + width]
            flipped = stream.integers(0, 2, (height, piece.size), dtype=np.int8).astype(np.float64)
            sums[start : start + height] += flipped @ piece
            counts[start : start + height] += flipped.sum(1)
    moved = counts > 0.0
    return _Rearranged(sums[moved] / counts[moved], int(np.count_nonzero(~moved)), False)


def _concluded(
    name: TestName,
    samples: tuple[Sample, ...],
    settings: Settings,
    *,
    method: str,
    estimate: tuple[str, float],
    exponent: int,
    found: _Rearranged,
    effect: Effect,
    assumptions: tuple[str, ...],
) -> TestResult:
    above, below = found.tails()
    p_value = min(1.0, 2.0 * min(above, below))
    if settings.alternative != "two-sided":
        p_value = above if settings.alternative == "greater" else below
    low, high = (
        end if math.isinf(end) else unscaled(name, end, exponent) for end in found.interval(settings.estimate_tail)
    )
    difference = unscaled(name, estimate[1], exponent)
    how = f"{found.total - 1} random rearrangements, seed {settings.seed}"
    choice = Choice("random rearrangements", f"there are more than {_EVERY_UP_TO}", ("every rearrangement",))
    if found.is_every:
        how = f"exact p-value, all {found.total} rearrangements counted"
        choice = Choice("every rearrangement", f"there are {found.total}", ("random rearrangements",))
    few = () if math.isfinite(low) else ("too few values for a finite interval at this confidence level",)
    return conclude(
        name,
        samples,
        settings,
        method=f"{method}, {settings.sides}",
        statistic=(estimate[0], difference),
        df=(),
        p_value=p_value,
        estimate=(estimate[0], difference, settings.bounded((low, high))),
        effect=effect,
        assumptions=assumptions,
        notes=(how, *few),
        decisions=(choice,),
    )

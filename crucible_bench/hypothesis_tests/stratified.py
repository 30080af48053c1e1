"""Scores of several tasks and seeds: interquartile means and the probability of improvement, stratified by task."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_bench.data.sample import (
    Sample,
    Values,
    Vector,
    check_count,
    read_groups,
    scale_exponent,
    scaled,
    unscaled,
)
from crucible_bench.distributions.resampling import check_resamples, generators
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.bootstrap_interval import BootstrapInterval
from crucible_bench.hypothesis_tests.clusters import ClustersOfGroups, read_labels
from crucible_bench.levels import levels
from crucible_bench.result import Choice, Effect, Interval, TestResult, conclude
from crucible_bench.settings import read_settings
from crucible_bench.vocabulary import EFFECT_SIZES, Alternative, TestName
from crucible_bench.wording import counted

__all__ = ["compare_iqm", "iqm_interval", "probability_of_improvement"]

_Scores: TypeAlias = NDArray[np.float64]
"""Shape (..., seeds, tasks)."""

_Codes: TypeAlias = NDArray[np.intp]
"""Shape (..., seeds, tasks)."""

_Number = TypeVar("_Number", np.float64, np.intp)

_NAME: Final[TestName] = "iqm"
_FEW_SEEDS: Final = 10
_BATCH: Final = 1 << 17
_EQUAL: Final = 1e-12
_PERCENTILE: Final = Choice(
    "percentile interval of a stratified bootstrap",
    "seeds are drawn within each task, because the tasks are fixed and the seeds are not (Agarwal et al. 2021)",
    ("drawing tasks too",),
)


def iqm_interval(
    values: Values,
    strata: Sequence[object],
    *,
    confidence_level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> BootstrapInterval:
    """The interquartile mean of scores over tasks and seeds, with a stratified bootstrap interval.

    `values` and `strata`, the task of each value, have shape (n,), with the same number of values, at least two, in
    every task. The interquartile mean is the mean of the middle half of all values together: int(n / 4) of them are cut
    off at either end. Values are drawn anew within each task; the ends are quantiles of the replicates
    (Agarwal, Schwarzer, Castro, Courville & Bellemare 2021, and their package rliable).

    Raises CannotTestError for unequal numbers of values per task, fewer than two per task, missing labels, and data
    that no test takes; ValueError for a level, number of resamples or seed out of range.
    """
    level, resamples, seed = _checked(confidence_level, resamples, seed)
    arm, exponent = _read({"values": values}, {"values": strata})
    replicates = np.concatenate([_iqm(_taken(arm[0].scores, at)) for (at,) in _drawn(arm, resamples, seed)])
    return _interval_of(float(_iqm(arm[0].scores)), replicates, arm, exponent, level, resamples, seed)


def probability_of_improvement(
    groups: Mapping[str, Values],
    strata: ClustersOfGroups,
    *,
    confidence_level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> BootstrapInterval:
    """P(X > Y) + P(X = Y) / 2 for the first group's scores X and the second's Y, averaged over tasks, with interval.

    `groups` are two rows of scores; `strata` has the task of each value, for both groups or by the name of the group.
    It is the probability of improvement of Agarwal et al. (2021): for each task, Mann and Whitney's U per pair of
    seeds. The interval is as in `iqm_interval`, each group drawn by itself. Raises as `compare_iqm` does.
    """
    level, resamples, seed = _checked(confidence_level, resamples, seed)
    arms, _ = _read_two(groups, strata)
    x, y = _codes(arms[0].scores, arms[1].scores)
    drawn = _drawn(arms, resamples, seed)
    replicates = np.concatenate([_improvement(_taken(x, one), _taken(y, other)) for one, other in drawn])
    value = float(_improvement(x, y))
    return _interval_of(value, replicates, arms, 0, level, resamples, seed)


def compare_iqm(
    groups: Mapping[str, Values],
    strata: ClustersOfGroups,
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    seed: int = 0,
) -> TestResult:
    """The difference of two groups' interquartile means over tasks and seeds, such as of two algorithms' scores.

    `groups` are two rows of scores, shapes (n,) and (m,); `strata` has the task of each value, for both groups or by
    the name of the group. Both groups have the same tasks. Each group has the same number of values in every task, and
    the two numbers may differ. Nothing else pairs the values.

    The estimate's interval, and that of the effect size P(first > second), averaged over tasks, are those of
    `iqm_interval` and `probability_of_improvement`. Bootstrap intervals are too short for few seeds, so the p-value is
    that of a permutation test: values are exchanged at random between the groups within each task, and p is (b + 1) /
    (B + 1) if b of B such differences are at least as large (Phipson & Smyth 2010). As a test of no difference in any
    task, it keeps its level whatever the number of seeds.

    Raises CannotTestError for other than two groups, tasks that only one group has, unequal numbers of values per task,
    fewer than two, missing labels, and data that no test takes; ValueError for a level, number of resamples or seed out
    of range.
    """
    settings = read_settings(
        _NAME,
        EFFECT_SIZES[_NAME],
        alpha=alpha,
        confidence_level=confidence_level,
        alternative=alternative,
        resamples=resamples,
        seed=seed,
    )
    check_resamples(_NAME, settings.resamples, (settings.alpha, settings.tail))
    arms, exponent = _read_two(groups, strata)
    first, second = arms
    difference = float(_iqm(first.scores) - _iqm(second.scores))
    x, y = _codes(first.scores, second.scores)
    differences, improvements = [], []
    for one, other in _drawn(arms, settings.resamples, settings.seed):
        differences.append(_iqm(_taken(first.scores, one)) - _iqm(_taken(second.scores, other)))
        improvements.append(_improvement(_taken(x, one), _taken(y, other)))
    low, high = _percentiles(np.concatenate(differences), settings.estimate_tail)
    value = f"difference of interquartile means ({first.name} - {second.name})"
    return conclude(
        _NAME,
        arms,
        settings,
        method=f"stratified bootstrap of interquartile means, permutation test, {settings.sides}, "
        f"{settings.resamples} resamples",
        statistic=("difference", unscaled(_NAME, difference, exponent)),
        df=(),
        p_value=_p_value(arms, difference, settings.resamples, settings.seed, settings.alternative),
        estimate=(
            value,
            unscaled(_NAME, difference, exponent),
            settings.bounded((unscaled(_NAME, low, exponent), unscaled(_NAME, high, exponent))),
        ),
        effect=Effect(
            "common_language",
            float(_improvement(x, y)),
            _percentiles(np.concatenate(improvements), settings.tail),
            _PERCENTILE,
            ("P(first > second) is the average over tasks: the probability of improvement",),
        ),
        assumptions=(
            "values of one task are independent, within and between the groups",
            "the tasks are those of interest, and not a sample of others",
            "without an effect, both groups have one distribution in each task",
        ),
        notes=(f"{settings.resamples} resamples, seed {settings.seed}", *_notes(arms, settings.confidence_level)),
        decisions=(
            Choice(
                "permutation within tasks for the p-value",
                "with few seeds bootstrap intervals are too short, and a p-value read from them would be too small",
                ("p-value from the bootstrap interval",),
            ),
        ),
        disagreement="the test permutes the values within tasks, the interval resamples them",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Arm:
    """A group's scores, scaled, of shape (seeds, tasks), sorted within each task."""

    name: str
    scores: _Scores

    @property
    def n(self) -> int:
        return int(self.scores.size)

    @property
    def seeds(self) -> int:
        return int(self.scores.shape[0])


def _iqm(scores: _Scores) -> Vector:
    """The mean of the middle half of all scores; one number for each of the leading dimensions."""
    pooled = scores.reshape(*scores.shape[:-2], -1)
    n = pooled.shape[-1]
    cut = n // 4
    kept = np.partition(pooled, (cut, n - cut - 1), axis=-1)[..., cut : n - cut]
    return cast(Vector, kept.mean(axis=-1))


def _improvement(first: _Codes, second: _Codes) -> Vector:
    """P(X > Y) + P(X = Y) / 2, averaged over tasks, of `_codes`; one number for each of the leading dimensions."""
    count = int(max(first.max(), second.max())) + 1
    x, y = _counted(first, count), _counted(second, count)
    below = np.cumsum(y, axis=-1) - 0.5 * y  # for each code, how many of the second are below it
    won = np.einsum("...i,...i->...", x, below)
    return cast(Vector, (won / (first.shape[-2] * second.shape[-2])).mean(axis=-1))


def _counted(codes: _Codes, count: int) -> Vector:
    """How often each of `count` codes occurs, along the seeds; shape (..., tasks, count)."""
    cells = codes.shape[:-2] + codes.shape[-1:]
    places = np.arange(math.prod(cells)).reshape(*codes.shape[:-2], 1, codes.shape[-1]) * count + codes
    return np.bincount(places.ravel(), minlength=math.prod(cells) * count).reshape(*cells, count).astype(np.float64)


def _codes(first: _Scores, second: _Scores) -> tuple[_Codes, _Codes]:
    """The scores as their order among both groups' scores of the task, from 0; equal scores share one code."""
    both = np.concatenate((first, second))
    codes = np.stack([np.unique(task, return_inverse=True)[1].ravel() for task in both.T], axis=1)
    return codes[: len(first)], codes[len(first) :]


def _taken(values: NDArray[_Number], places: _Codes) -> NDArray[_Number]:
    """The values of shape (seeds, tasks) at places of shape (batch, seeds, tasks)."""
    return values[places, np.arange(values.shape[1])]


def _percentiles(replicates: Vector, tail: float) -> Interval:
    low, high = np.quantile(replicates, (tail, 1.0 - tail))
    return float(low), float(high)


def _drawn(arms: Sequence[_Arm], resamples: int, seed: int) -> Iterator[tuple[_Codes, ...]]:
    """The places of each arm's scores that are drawn within each task, in batches of shape (batch, seeds, tasks)."""
    streams = generators(seed, [Sample(arm.name, arm.scores.ravel()) for arm in arms])
    rows = max(1, _BATCH // max(arm.n for arm in arms))
    for start in range(0, resamples, rows):
        shape = min(rows, resamples - start)
        yield tuple(
            stream.integers(0, arm.seeds, (shape, *arm.scores.shape)) for arm, stream in zip(arms, streams, strict=True)
        )


def _p_value(arms: tuple[_Arm, _Arm], difference: float, resamples: int, seed: int, alternative: Alternative) -> float:
    turned = arms[0].name > arms[1].name
    one, other = sorted(arms, key=lambda arm: arm.name)
    pooled = np.sort(np.concatenate((one.scores, other.scores)), axis=0)
    rng = np.random.default_rng([seed, 2])
    rows = max(1, _BATCH // pooled.size)
    extreme = 0
    for start in range(0, resamples, rows):
        mixed = rng.permuted(np.broadcast_to(pooled, (min(rows, resamples - start), *pooled.shape)), axis=1)
        found = _iqm(mixed[:, : one.seeds]) - _iqm(mixed[:, one.seeds :])
        extreme += _as_extreme(-found if turned else found, difference, alternative)
    return (extreme + 1.0) / (resamples + 1.0)


def _as_extreme(found: Vector, difference: float, alternative: Alternative) -> int:
    if alternative == "two-sided":
        return int(np.count_nonzero(np.abs(found) >= abs(difference) - _EQUAL))
    sign = 1.0 if alternative == "greater" else -1.0
    return int(np.count_nonzero(sign * found >= sign * difference - _EQUAL))


def _interval_of(
    value: float,
    replicates: Vector,
    arms: Sequence[_Arm],
    exponent: int,
    level: float,
    resamples: int,
    seed: int,
) -> BootstrapInterval:
    low, high = _percentiles(replicates, (1.0 - level) / 2.0)
    return BootstrapInterval(
        unscaled(_NAME, value, exponent),
        (unscaled(_NAME, low, exponent), unscaled(_NAME, high, exponent)),
        unscaled(_NAME, float(replicates.std(ddof=1)), exponent),
        level,
        tuple(arm.n for arm in arms),
        resamples,
        seed,
        (f"{resamples} resamples, seed {seed}", *_notes(arms, level)),
        (_PERCENTILE,),
    )


def _notes(arms: Sequence[_Arm], level: float) -> Iterator[str]:
    seeds = min(arm.seeds for arm in arms)
    if seeds < _FEW_SEEDS:
        # The variance of n values drawn anew is (n - 1) / n times that of n new ones.
        short = math.sqrt((seeds - 1.0) / seeds)
        covers = 2.0 * float(special.ndtr(special.ndtri((1.0 + level) / 2.0) * short)) - 1.0
        yield (
            f"{counted(seeds, 'seed')} per task: drawing so few anew makes bootstrap intervals too short, by a factor "
            f"of about {short:.2f}; a {100 * level:.4g}% interval then covers about {100 * covers:.0f}%"
        )
    if all(np.ptp(arm.scores, axis=0).max() <= _EQUAL for arm in arms):
        yield "the scores of each task are all equal, so the interval has no width and says nothing about the error"


def _checked(confidence_level: float, resamples: int, seed: int) -> tuple[float, int, int]:
    level = levels(0.05, confidence_level)[1]
    resamples, seed = operator.index(resamples), operator.index(seed)
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")
    check_resamples(_NAME, resamples, ((1.0 - level) / 2.0,))
    return level, resamples, seed


# --- reading ----------------------------------------------------------------------------------------------------------


def _read_two(groups: Mapping[str, Values], strata: ClustersOfGroups) -> tuple[tuple[_Arm, _Arm], int]:
    check_count(_NAME, read_groups(_NAME, groups), True)
    (first, second), exponent = _read(groups, strata)
    return (first, second), exponent


def _read(groups: Mapping[str, Values], strata: ClustersOfGroups) -> tuple[tuple[_Arm, ...], int]:
    """The groups as arms whose tasks are in one order, and the exponent by which they are scaled."""
    samples = read_groups(_NAME, groups)
    exponent = scale_exponent(samples)
    by_task = [_by_task(sample, strata, exponent) for sample in samples]
    tasks = sorted(by_task[0], key=str)  # so that the order of the values changes nothing
    for sample, own in zip(samples, by_task, strict=True):
        lacking = [task for task in (*tasks, *own) if task not in own or task not in by_task[0]]
        if lacking:
            has, has_not = (samples[0], sample) if lacking[0] not in own else (sample, samples[0])
            raise CannotTestError(
                _NAME,
                f"group {has_not.name!r} has no value in {lacking[0]!r}, which {has.name!r} has; compare the groups on "
                "the tasks that both have",
            )
        _check_numbers(sample.name, own)
    arms = (
        _Arm(sample.name, np.stack([own[task] for task in tasks], axis=1))
        for sample, own in zip(samples, by_task, strict=True)
    )
    return tuple(arms), exponent


def _by_task(sample: Sample, strata: ClustersOfGroups, exponent: int) -> dict[object, Vector]:
    labels = strata.get(sample.name) if isinstance(strata, Mapping) else strata
    if labels is None:
        raise CannotTestError(_NAME, f"there are no strata of group {sample.name!r}; give the task of each value")
    codes, tasks = read_labels(_NAME, labels, sample.n, "stratum")
    values = scaled(sample.values, exponent)
    return {task: np.sort(values[codes == code]) for code, task in enumerate(tasks)}


def _check_numbers(group: str, by_task: Mapping[object, Vector]) -> None:
    sizes = {task: values.size for task, values in by_task.items()}
    fewest, most = min(sizes, key=lambda task: sizes[task]), max(sizes, key=lambda task: sizes[task])
    if sizes[fewest] < sizes[most]:
        raise CannotTestError(
            _NAME,
            f"group {group!r} has {counted(sizes[fewest], 'value')} in {fewest!r} but {sizes[most]} in {most!r}; an "
            "interquartile mean counts every value alike, so every task needs the same number: leave out the rest, or "
            "run what is missing",
        )
    if sizes[fewest] < 2:
        raise CannotTestError(
            _NAME,
            f"group {group!r} has one value in each task, so none can be drawn anew; run at least two seeds",
        )

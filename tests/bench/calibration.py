"""Level and coverage of every path that `auto` and the verdicts take, by simulation through `compare` itself.

A scenario draws data whose truth is known. Each comparison of such data is read as a reader would: did a test reject
what is true, does an interval miss the truth, is a verdict false, is the best configuration left out? An error counts
as silent if no sentence of the result warns of it with a figure. The promise of every path is that silent errors stay
below the limits here; the paths are found in the results, not listed.

`python tests/bench/calibration.py` runs the long form and writes its table into docs/statistics.md.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import re
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from crucible_bench import CannotTestError, Comparison, compare

Draw = Callable[[np.random.Generator, int], np.ndarray]
Groups = dict[str, np.ndarray]

MOST_WRONG = {
    "level": 0.06,
    "verdict": 0.06,
    "best set": 0.06,
    "coverage": 0.07,
    "effect size": 0.07,
    "mean": 0.07,
    "quantile": 0.07,
}
"""The most that each kind of error may happen without a warning, at a nominal 0.05."""

SURE = 0.999
"""A rate is too high if its lower confidence bound at this level is above the limit."""

WARNING = re.compile(r"\d %.* 5 % (are|were) promised|a 95% interval then covers about \d+%")


@dataclass(frozen=True, eq=False)
class Scenario:
    """Groups to draw, what is declared about them, and what is true of them."""

    design: str
    shape: str
    sizes: str
    draw: Callable[[np.random.Generator], Groups]
    declared: Mapping[str, Any]
    centres: Mapping[str, float]
    """The true mean of each group, a share for outcomes, the median for ordinal values, the quantile if one is
    declared."""
    alike: bool = True
    """Whether neither a group nor an order of two is different: what tests of all groups and of orders ask."""
    effect: float | None = None
    """The true effect size of the test of two groups, where it is not 0."""
    cost: float = 1.0
    """How long one run takes, in units of a plain t-test: there are as many fewer runs."""

    @property
    def name(self) -> str:
        return f"{self.design} | {self.shape} | {self.sizes}"


@dataclass
class Tally:
    runs: int = 0
    wrong: int = 0
    silent: int = 0
    """Those of the wrong ones without a warning."""
    warned: int = 0

    def add(self, wrong: bool, warned: bool) -> None:
        self.runs += 1
        self.wrong += wrong
        self.silent += wrong and not warned
        self.warned += warned

    def too_high(self, limit: float) -> bool:
        return at_least(self.silent, self.runs) > limit


Found = dict[tuple[str, str], Tally]
"""By path and promise."""


def at_least(count: int, runs: int) -> float:
    """The lower bound of a rate (Clopper & Pearson 1934), at the confidence `SURE`."""
    return float(special.betaincinv(count, runs - count + 1.0, 1.0 - SURE)) if count else 0.0


def simulate(scenario: Scenario, runs: int) -> Found:
    """As many comparisons, divided by the scenario's cost; equal names give equal data."""
    rng = np.random.default_rng(zlib.crc32(scenario.name.encode()))
    found: Found = defaultdict(Tally)
    for run in range(max(20, round(runs / scenario.cost))):
        try:
            result = compare(scenario.draw(rng), seed=run, **scenario.declared)
        except CannotTestError:  # a refusal claims nothing
            found["refused", "level"].add(False, False)
            continue
        warned = is_warned(result)
        for path, promise, wrong in errors(scenario, result):
            found[path, promise].add(wrong, warned)
    return found


def is_warned(result: Comparison) -> bool:
    """Whether the result says with a figure that its tests or intervals may not hold."""
    notes = [*result.checks]
    for part in (*result.tests, result.comparisons, result.best, result.ranking, *result.verdicts):
        notes += part.notes if part is not None else ()
    return any(WARNING.search(note) for note in notes)


def errors(scenario: Scenario, result: Comparison) -> Iterator[tuple[str, str, bool]]:
    """The path, the promise, and whether it was broken, of everything that a result claims."""
    for test, _, significant in result.judged:
        names = (test.test, *([f"{test.test} ({variant(test.method)})"] if variant(test.method) else []))
        truth = true_value(scenario, test.test, test.groups)
        for name in names:
            if (truth is None and scenario.alike) or truth == test.null_value:
                yield name, "level", significant
            if truth is not None:
                yield name, "coverage", not covers(test.confidence_interval, truth)
            effect = true_effect(scenario, test.test, truth, test.null_value)
            if effect == 0.0 and test.effect_size_name == "common_language":
                effect = 0.5
            if effect is not None and test.effect_size_interval is not None:
                yield name, "effect size", not covers(test.effect_size_interval, effect)
    family = result.comparisons
    if family is not None:
        own = next((choice.decision for about, choice in result.choices if about == "test of each pair"), None)
        path = f"{family.procedure}{f' of {own}' if own else ''}"
        truths = [true_value(scenario, own or family.procedure, (row.first, row.second)) for row in family.comparisons]
        null = family.null_value
        if any(truth in (None, null) for truth in truths):
            yield (
                path,
                "level",
                any(
                    row.significant
                    for row, truth in zip(family.comparisons, truths, strict=True)
                    if truth == null or (truth is None and scenario.alike)
                ),
            )
        if None not in truths:
            yield (
                path,
                "coverage",
                not all(
                    covers(row.confidence_interval, truth)
                    for row, truth in zip(family.comparisons, truths, strict=True)
                    if truth is not None
                ),
            )
    if result.verdicts:
        rule = result.verdicts[0].method.split(" intervals")[0]
        yield (
            f"verdict by {rule}",
            "verdict",
            any(
                is_false(v.verdict, difference(scenario, v.groups), v.margin, v.higher_is_better)
                for v in result.verdicts
            ),
        )
        yield (
            f"verdict by {rule}",
            "coverage",
            not all(covers(v.confidence_interval, difference(scenario, v.groups)) for v in result.verdicts),
        )
    if result.best is not None:
        picked = result.best.mean
        if picked is not None:
            path = f"{picked.method.split(' of the best')[0]} of the best mean"
            yield path, "mean", not covers(picked.interval, scenario.centres[picked.name])
        best = max(scenario.centres, key=lambda name: scenario.centres[name])
        yield result.best.method.split(",")[0], "best set", best not in result.best.kept
    for name, own_quantile in result.quantiles.items():
        if own_quantile.interval is not None:
            yield "quantile of a group", "quantile", not covers(own_quantile.interval, scenario.centres[name])
    for name, group in result.groups.items():
        if group.mean_interval is not None and result.outcome != "ordinal" and result.quantile is None:
            yield f"mean of a group, {result.outcome}", "mean", not covers(group.mean_interval, scenario.centres[name])


def variant(method: str) -> str:
    """Which way a test was computed, where its method says it."""
    return method.split(",")[0] if method.startswith(("Fisher", "N-1", "exact")) else ""


_OF_ORDER = {"brunner_munzel", "dunn", "nemenyi"}
_OF_ALL = {"chi_square", "friedman", "kruskal_wallis", "repeated_measures_anova", "welch_anova"}


def true_value(scenario: Scenario, test: str, groups: Sequence[str]) -> float | None:
    """The true value of a test's estimate; None if it has none that is known."""
    if test in _OF_ALL or (test in _OF_ORDER and not scenario.alike):
        return None
    if test in _OF_ORDER:
        return 0.5 if test == "brunner_munzel" else 0.0
    return scenario.centres[groups[0]] if len(groups) == 1 else difference(scenario, groups)


def true_effect(scenario: Scenario, test: str, truth: float | None, null: float) -> float | None:
    if scenario.effect is not None:
        return scenario.effect
    if test == "sign" or test == "one_sample_sign":  # cohens_g counts what differs only
        return 0.0 if scenario.alike else None
    return 0.0 if (truth == null if truth is not None else scenario.alike) else None


def difference(scenario: Scenario, groups: Sequence[str]) -> float:
    # As a decimal, so that a true difference of 0.1 is that of the margin.
    return round(scenario.centres[groups[0]] - scenario.centres[groups[1]], 12)


def covers(interval: tuple[float, float], truth: float) -> bool:
    slack = 1e-9 * (1.0 + abs(truth))
    return interval[0] - slack <= truth <= interval[1] + slack


def is_false(verdict: str, difference: float, margin: float, higher_is_better: bool) -> bool:
    gain = difference if higher_is_better else -difference
    return {
        "better": gain <= 0.0,
        "worse": gain >= 0.0,
        "equivalent": abs(gain) >= margin,
        "non_inferior": gain <= -margin,
        "inconclusive": False,
    }[verdict]


# --- shapes -----------------------------------------------------------------------------------------------------------

LIKERT = np.array([0.05, 0.10, 0.20, 0.35, 0.30])
WIDE, NARROW = np.array([0.3, 0.15, 0.1, 0.15, 0.3]), np.array([0.05, 0.2, 0.5, 0.2, 0.05])


def normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=n)


def lognormal(rng: np.random.Generator, n: int) -> np.ndarray:
    """Of mean 0 and skewness 6.2."""
    return rng.lognormal(size=n) - math.exp(0.5)


def rounded(rng: np.random.Generator, n: int) -> np.ndarray:
    """Normal values that are rounded, so that most are tied."""
    return np.round(rng.normal(size=n))


def likert(shares: np.ndarray = LIKERT) -> Draw:
    return lambda rng, n: rng.choice(5, size=n, p=shares) + 1.0


def outcomes(share: float) -> Draw:
    return lambda rng, n: rng.random(n) < share


CONTINUOUS: dict[str, Draw] = {"normal": normal, "lognormal": lognormal, "rounded": rounded}
SHARES = (0.5, 0.95)

# --- scenarios --------------------------------------------------------------------------------------------------------

TWO = ((3, 3), (5, 5), (10, 10), (30, 30), (100, 100), (3, 10), (3, 100), (10, 30), (10, 100), (30, 100))
PAIRS = (3, 5, 10, 30, 100)
MANY = {
    3: ((3, 3, 3), (5, 5, 5), (10, 10, 10), (30, 30, 30), (100, 100, 100), (3, 10, 30), (10, 30, 100)),
    10: ((3,) * 10, (5,) * 10, (10,) * 10, (30,) * 10, (3, 4, 5, 6, 8, 10, 12, 15, 20, 30)),
}


def scenarios() -> list[Scenario]:
    """All of them, in a fixed order."""
    return [
        *_one_sample(),
        *_independent(),
        *_independent_order(),
        *_paired(),
        *_many_independent(),
        *_many_paired(),
        *_clustered(),
        *_answers(),
        *_resampled(),
        *_tasks(),
        *_sweeps(),
        *_data_sets(),
        *_quantiles(),
    ]


def _groups(draws: Sequence[Draw], sizes: Sequence[int], shifts: Sequence[float] = ()) -> Callable[..., Groups]:
    shifts = shifts or [0.0] * len(sizes)

    def draw(rng: np.random.Generator) -> Groups:
        drawn = [of(rng, n) for of, n in zip(draws, sizes, strict=True)]
        return {
            str(place): values if values.dtype == bool else values + shift
            for place, (values, shift) in enumerate(zip(drawn, shifts, strict=True))
        }

    return draw


def _times(sd: float, of: Draw = normal) -> Draw:
    return lambda rng, n: sd * of(rng, n)


def _one_sample() -> Iterator[Scenario]:
    for n in PAIRS:
        for shape, of in CONTINUOUS.items():
            yield Scenario(
                "one sample",
                shape,
                f"{n}",
                _groups([of], [n]),
                {"design": "one_sample", "reference": 0.0, "outcome": "continuous"},
                {"0": 0.0},
            )
        yield Scenario(
            "one sample",
            "normal, 1 sd above",
            f"{n}",
            _groups([normal], [n], [1.0]),
            {"design": "one_sample", "reference": 0.0},
            {"0": 1.0},
            alike=False,
            effect=1.0,
        )
        for share in SHARES:
            yield Scenario(
                "one sample",
                f"outcomes, {share:g}",
                f"{n}",
                _groups([outcomes(share)], [n]),
                {"design": "one_sample", "reference": share},
                {"0": share},
            )
        yield Scenario(
            "one sample",
            "Likert",
            f"{n}",
            _groups([likert(NARROW)], [n]),
            {"design": "one_sample", "reference": 3.0, "outcome": "ordinal"},
            {"0": 3.0},
        )


def _independent() -> Iterator[Scenario]:
    design = "two groups"
    for n, m in TWO:
        sizes = f"{n}, {m}"
        for shape, draws in {
            **{name: (of, of) for name, of in CONTINUOUS.items()},
            "normal, sd 3 and 1": (_times(3.0), normal),
            "normal, sd 1 and 3": (normal, _times(3.0)),
            "lognormal and normal": (lognormal, normal),
        }.items():
            declared = {"margin": 0.5, "outcome": "continuous", "non_inferiority": True}
            yield Scenario(
                design, shape, sizes, _groups(draws, [n, m]), declared, {"0": 0.0, "1": 0.0}, alike=draws[0] is draws[1]
            )
            for shift in (-0.5, 0.5):
                yield Scenario(
                    design,
                    f"{shape}, {shift:+g}",
                    sizes,
                    _groups(draws, [n, m], [shift, 0.0]),
                    declared,
                    {"0": shift, "1": 0.0},
                    alike=False,
                    effect=shift if shape == "normal" else None,
                    cost=2.0,
                )
        for first, second in ((0.5, 0.5), (0.95, 0.95), (0.4, 0.5), (0.85, 0.95), (0.95, 0.85)):
            yield Scenario(
                design,
                f"outcomes, {first:g} and {second:g}",
                sizes,
                _groups([outcomes(first), outcomes(second)], [n, m]),
                {"margin": 0.1, "non_inferiority": True},
                {"0": first, "1": second},
                alike=first == second,
                effect=round(first - second, 12),
                cost=2.5,
            )


def _independent_order() -> Iterator[Scenario]:
    for n, m in TWO:
        for shape, draws in {
            "Likert": (likert(), likert()),
            "rounded": (rounded, rounded),
            "Likert, wide and narrow": (likert(WIDE), likert(NARROW)),
            "Likert, narrow and wide": (likert(NARROW), likert(WIDE)),
            "normal, sd 3 and 1": (_times(3.0), normal),
        }.items():
            yield Scenario(
                "two groups, ordinal",
                shape,
                f"{n}, {m}",
                _groups(draws, [n, m]),
                {"outcome": "ordinal"},
                {"0": 0.0, "1": 0.0},
                cost=3.0,
            )


def _paired() -> Iterator[Scenario]:
    for n in PAIRS:
        for shape, of in CONTINUOUS.items():
            for shift in (0.0, -0.5, 0.5):
                yield Scenario(
                    "pairs",
                    f"differences {shape}{f', {shift:+g}' if shift else ''}",
                    f"{n}",
                    functools.partial(_pairs, of, n, shift),
                    {"design": "paired", "margin": 0.5, "outcome": "continuous", "non_inferiority": True},
                    {"0": shift, "1": 0.0},
                    alike=not shift,
                    effect=shift if shape == "normal" else None,
                    cost=2.0 if shift else 1.0,
                )
        for first, second in ((0.5, 0.5), (0.95, 0.95), (0.4, 0.5), (0.85, 0.95), (0.95, 0.85)):
            yield Scenario(
                "pairs",
                f"outcomes, {first:g} and {second:g}",
                f"{n}",
                functools.partial(_paired_outcomes, first, second, n),
                {"design": "paired", "margin": 0.1, "non_inferiority": True},
                {"0": first, "1": second},
                alike=first == second,
                effect=round(first - second, 12),
                cost=2.0,
            )
        for shape, of in {"Likert": likert(), "rounded": rounded}.items():
            yield Scenario(
                "pairs, ordinal",
                shape,
                f"{n}",
                _groups([of, of], [n, n]),
                {"design": "paired", "outcome": "ordinal"},
                {"0": 0.0, "1": 0.0},
            )


def _pairs(of: Draw, n: int, shift: float, rng: np.random.Generator) -> Groups:
    base = np.round(rng.normal(size=n), 2)
    return {"0": base + of(rng, n) + shift, "1": base}


def _paired_outcomes(first: float, second: float, n: int, rng: np.random.Generator) -> Groups:
    """A third of the items are right or wrong for both alike."""
    common, alone = rng.random(n), rng.random((2, n))
    shared = rng.random(n) < 1.0 / 3.0
    return {"0": np.where(shared, common, alone[0]) < first, "1": np.where(shared, common, alone[1]) < second}


def _many_independent() -> Iterator[Scenario]:
    for k, all_sizes in MANY.items():
        for sizes in all_sizes:
            said = f"{k} of {sizes[0]}" if len(set(sizes)) == 1 else f"{k} of {min(sizes)} to {max(sizes)}"
            shapes: dict[str, tuple[list[Draw], dict[str, Any]]] = {
                "normal": ([normal] * k, {}),
                "normal, sds 1 to 3": ([_times(1.0 + 2.0 * place / (k - 1)) for place in range(k)], {}),
                "normal, sds 3 to 1": ([_times(3.0 - 2.0 * place / (k - 1)) for place in range(k)], {}),
                "lognormal": ([lognormal] * k, {}),
                "rounded": ([rounded] * k, {}),
                "outcomes, 0.5": ([outcomes(0.5)] * k, {"outcome": "binary"}),
                "outcomes, 0.95": ([outcomes(0.95)] * k, {"outcome": "binary"}),
                "Likert": ([likert()] * k, {"outcome": "ordinal"}),
                "rounded, ordinal": ([rounded] * k, {"outcome": "ordinal"}),
            }
            for shape, (draws, more) in shapes.items():
                centre = float(shape.rpartition(" ")[2]) if shape.startswith("outcomes") else 0.0
                for comparing in ("all_pairs", "baseline"):
                    yield Scenario(
                        f"{k} groups, {comparing.replace('_', ' ')}",
                        shape,
                        said,
                        _groups(draws, sizes),
                        {"outcome": "continuous", "compare": comparing, "baseline": "0", **more}
                        if comparing == "baseline"
                        else {"outcome": "continuous", "compare": comparing, **more},
                        {str(place): centre for place in range(k)},
                        cost=10.0 if k == 3 else (50.0 if comparing == "all_pairs" else 20.0),
                    )
            if min(sizes) in (5, 10, 30):
                yield Scenario(
                    f"{k} groups, all pairs",
                    "normal, one 2 sd higher",
                    said,
                    _groups([normal] * k, sizes, [2.0] + [0.0] * (k - 1)),
                    {"compare": "all_pairs", "margin": 0.5},
                    {str(place): 2.0 * (place == 0) for place in range(k)},
                    alike=False,
                    cost=10.0 if k == 3 else 50.0,
                )


def _many_paired() -> Iterator[Scenario]:
    for k, n in itertools.product((3, 10), PAIRS):
        shapes: dict[str, tuple[list[Draw], dict[str, Any]]] = {
            "normal": ([normal] * k, {}),
            "normal, sds 1 to 3": ([_times(1.0 + 2.0 * place / (k - 1)) for place in range(k)], {}),
            "lognormal": ([lognormal] * k, {}),
            "lognormal and normal": ([lognormal] + [normal] * (k - 1), {}),
            "outcomes, 0.5": ([outcomes(0.5)] * k, {"outcome": "binary"}),
            "outcomes, 0.95": ([outcomes(0.95)] * k, {"outcome": "binary"}),
            "Likert": ([likert()] * k, {"outcome": "ordinal"}),
        }
        for shape, (draws, more) in shapes.items():
            centre = float(shape.rpartition(" ")[2]) if shape.startswith("outcomes") else 0.0
            yield Scenario(
                f"{k} groups in blocks, all pairs",
                shape,
                f"{n} blocks",
                _groups(draws, [n] * k),
                {"design": "paired", "outcome": "continuous", "compare": "all_pairs", **more},
                {str(place): centre for place in range(k)},
                alike=len(set(map(id, draws))) == 1 or "sds" in shape or "and" in shape,
                cost=10.0 if k == 3 else 60.0,
            )


CLUSTERS = {
    "5 of 4": [4] * 5,
    "10 of 5": [5] * 10,
    "30 of 3": [3] * 30,
    "10 of 1 to 10": list(range(1, 11)),
    "10, one of 100": [100] + [5] * 9,
    "30 of 1 to 30": list(range(1, 31)),
    "40, one of 100": [100] + [5] * 39,
}


def _clustered() -> Iterator[Scenario]:
    for sizes, counts in CLUSTERS.items():
        codes = np.repeat(np.arange(len(counts)), counts)
        for shape, k in (
            ("normal", 2),
            ("lognormal", 2),
            ("outcomes, 0.5", 2),
            ("outcomes, 0.95", 2),
            ("normal", 3),
        ):
            share = float(shape.rpartition(" ")[2]) if shape.startswith("outcomes") else None
            yield Scenario(
                "clusters" if k == 2 else "3 groups on clusters",
                shape,
                sizes,
                functools.partial(_on_clusters, shape, share, codes, k),
                {
                    "design": "clustered",
                    "clusters": codes.tolist(),
                    "margin": 0.5 if share is None else 0.1,
                    "compare": None if k == 2 else "all_pairs",
                },
                {str(place): share or 0.0 for place in range(k)},
                cost=2.0 * (k - 1),
            )


def _on_clusters(shape: str, share: float | None, codes: np.ndarray, k: int, rng: np.random.Generator) -> Groups:
    """Half of the variance of differences is from clusters."""
    n = int(codes.max()) + 1
    if share is not None:  # the group is right on a cluster as a whole in half of the cases
        whole = [rng.random(n)[codes] for _ in range(k)]
        return {
            str(place): np.where(rng.random(n)[codes] < 0.5, whole[place], rng.random(codes.size)) < share
            for place in range(k)
        }
    of = lognormal if shape == "lognormal" else normal
    base = rng.normal(size=codes.size)
    return {str(place): base + (of(rng, n)[codes] + of(rng, codes.size) if place != 1 else 0.0) for place in range(k)}


def _answers() -> Iterator[Scenario]:
    """Items times seeds: each item is answered several times by each group, right or wrong."""
    for items, (name, counts) in itertools.product(
        (5, 10, 30, 100),
        {"5 and 5": (5, 5), "3 and 8": (3, 8), "1 to 10": (None, None), "1 and 1": (1, 1)}.items(),
    ):
        for share in SHARES:
            sizes = [
                np.full(items, count) if count else 1 + (np.arange(items) * (3 + 4 * place)) % 10
                for place, count in enumerate(counts)
            ]
            codes = [np.repeat(np.arange(items), size) for size in sizes]
            yield Scenario(
                "items, several answers",
                f"outcomes, {share:g}",
                f"{items} items, {name} answers",
                functools.partial(_answered, share, items, codes),
                {
                    "design": "clustered",
                    "clusters": {str(place): code.tolist() for place, code in enumerate(codes)},
                    "margin": 0.1,
                    "non_inferiority": True,
                },
                {"0": share, "1": share},
                cost=2.0,
            )


def _answered(share: float, items: int, codes: Sequence[np.ndarray], rng: np.random.Generator) -> Groups:
    """How hard an item is varies from item to item, by a beta distribution, and between the groups."""
    common, own = rng.beta(2.0 * share, 2.0 * (1.0 - share), (2, items)), rng.random((2, items)) < 0.5
    return {
        str(place): rng.random(code.size)
        < np.where(own[place], common[0], rng.beta(2.0 * share, 2.0 * (1.0 - share), items))[code]
        for place, code in enumerate(codes)
    }


def _resampled() -> Iterator[Scenario]:
    for folds, repeats in ((3, 1), (5, 1), (10, 1), (2, 5), (5, 2), (10, 10)):
        declared = {"design": "resampled", "folds": folds, "repeats": repeats, "margin": 0.5, "non_inferiority": True}
        sizes = f"{folds} folds x {repeats}"
        for shift in (0.0, -0.5):
            yield Scenario(
                "folds",
                f"normal, equally correlated{f', {shift:+g}' if shift else ''}",
                sizes,
                functools.partial(_correlated, folds, repeats, shift),
                declared,
                {"0": shift, "1": 0.0},
                alike=not shift,
            )
        yield Scenario(
            "folds",
            "regressions on 60 cases",
            sizes,
            functools.partial(_cross_validated, folds, repeats, 60, 2),
            declared,
            {"0": 0.0, "1": 0.0},
            cost=2.0,
        )
        yield Scenario(
            "3 groups on folds",
            "regressions on 60 cases",
            sizes,
            functools.partial(_cross_validated, folds, repeats, 60, 3),
            {"design": "resampled", "folds": folds, "repeats": repeats},
            {"0": 0.0, "1": 0.0, "2": 0.0},
            cost=4.0,
        )


def _correlated(folds: int, repeats: int, shift: float, rng: np.random.Generator) -> Groups:
    """Differences of two folds with the correlation that Nadeau & Bengio (2003) put, n_test / (n_test + n_train)."""
    rho, k = 1.0 / folds, folds * repeats
    differences = math.sqrt(rho) * rng.normal() + math.sqrt(1.0 - rho) * rng.normal(size=k)
    base = rng.normal(size=k)
    return {"0": base + differences + shift, "1": base}


def _cross_validated(folds: int, repeats: int, cases: int, k: int, rng: np.random.Generator) -> Groups:
    """Squared errors of regressions, each on a feature of its own that is worth as much as the others'."""
    x = rng.normal(size=(k, cases))
    y = x.sum(axis=0) + rng.normal(size=cases)
    scores = np.empty((k, folds * repeats))
    for repeat in range(repeats):
        for fold, test in enumerate(np.array_split(rng.permutation(cases), folds)):
            train = np.ones(cases, dtype=bool)
            train[test] = False
            of, on = x[:, train], y[train]
            slope = (of @ (on - on.mean())) / np.square(of - of.mean(axis=1, keepdims=True)).sum(axis=1)
            predicted = on.mean() + slope[:, None] * (x[:, test] - of.mean(axis=1, keepdims=True))
            scores[:, repeat * folds + fold] = np.square(y[test] - predicted).mean(axis=1)
    return {str(place): row for place, row in enumerate(scores)}


def _tasks() -> Iterator[Scenario]:
    """Tasks of different difficulty, each run with several seeds."""
    for tasks, seeds in ((5, 3), (5, 10), (20, 3), (20, 10)):
        for shape, of in (("normal", normal), ("lognormal", lognormal)):
            yield Scenario(
                "tasks and seeds",
                shape,
                f"{tasks} tasks x {seeds} seeds",
                functools.partial(_of_tasks, of, tasks, seeds),
                {
                    "design": "stratified",
                    "strata": np.repeat(np.arange(tasks), seeds).tolist(),
                    "outcome": "continuous",
                },
                {"0": 0.0, "1": 0.0},
                cost=50.0,
            )


def _of_tasks(of: Draw, tasks: int, seeds: int, rng: np.random.Generator) -> Groups:
    difficulty = np.repeat(rng.normal(size=tasks), seeds)
    return {name: difficulty + of(rng, tasks * seeds) for name in ("0", "1")}


def _sweeps() -> Iterator[Scenario]:
    for k, n in itertools.product((3, 10), (3, 5, 10, 30)):
        for design in ("independent", "paired"):
            for shape, of, centre in (
                ("normal", normal, 0.0),
                ("lognormal", lognormal, 0.0),
                ("outcomes, 0.5", outcomes(0.5), 0.5),
                ("outcomes, 0.95", outcomes(0.95), 0.95),
            ):
                for lower in (False, True):
                    if lower and shape != "lognormal":
                        continue
                    yield Scenario(
                        f"sweep of {k}, {design}",
                        f"{shape}{', lower is better' if lower else ''}",
                        f"{n}",
                        _groups([of] * k, [n] * k),
                        {
                            "study": "sweep",
                            "design": design,
                            "outcome": "binary" if "outcomes" in shape else "continuous",
                            "higher_is_better": not lower,
                        },
                        {str(place): centre for place in range(k)},
                        cost=3.0 if k == 3 else 15.0,
                    )


def _data_sets() -> Iterator[Scenario]:
    for k, n in itertools.product((3, 5, 10), (3, 5, 10, 30)):
        for shape, of in (("normal", normal), ("rounded", rounded)):
            yield Scenario(
                f"{k} methods on data sets",
                shape,
                f"{n} data sets",
                _groups([of] * k, [n] * k),
                {"study": "multiple_datasets", "design": "paired", "outcome": "continuous"},
                {str(place): 0.0 for place in range(k)},
                cost=6.0 * k,
            )


def exponential(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.exponential(size=n)


def pareto(rng: np.random.Generator, n: int) -> np.ndarray:
    """Without a variance."""
    return 1.0 + rng.pareto(1.5, size=n)


def with_timeouts(rng: np.random.Generator, n: int) -> np.ndarray:
    """Latencies of which one in 25 is far from all others."""
    return np.where(rng.random(n) < 0.04, 50.0, rng.exponential(size=n))


TAILS: dict[str, tuple[Draw, Callable[[float], float]]] = {
    "exponential": (exponential, lambda q: -math.log1p(-q)),
    "lognormal": (lognormal, lambda q: math.exp(special.ndtri(q)) - math.exp(0.5)),
    "Pareto": (pareto, lambda q: (1.0 - q) ** (-1.0 / 1.5)),
    "with timeouts": (with_timeouts, lambda q: -math.log1p(-q / 0.96) if q < 0.96 else 50.0),
}
"""Skewed shapes, each with its quantile function."""


def _quantiles() -> Iterator[Scenario]:
    for shape, (of, quantile) in TAILS.items():
        for q, sizes in ((0.95, (75, 75)), (0.95, (150, 300)), (0.95, (400, 400)), (0.5, (10, 20)), (0.99, (400, 800))):
            for times in (1.0, 1.5):
                yield Scenario(
                    f"two groups, {q} quantile",
                    f"{shape}{'' if times == 1.0 else ', times 1.5'}",
                    ", ".join(map(str, sizes)),
                    _groups([of, _times(times, of)], sizes),
                    {"quantile": q, "resamples": 1_000},
                    {"0": quantile(q), "1": times * quantile(q)},
                    alike=times == 1.0,
                    cost=2.0,
                )
        for n in (75, 400):
            yield Scenario(
                "pairs, 0.95 quantile",
                shape,
                f"{n}",
                functools.partial(_of_shared_tails, of, n),
                {"quantile": 0.95, "design": "paired", "resamples": 1_000},
                {"0": quantile(0.95), "1": quantile(0.95)},
                cost=8.0,
            )


def _of_shared_tails(of: Draw, n: int, rng: np.random.Generator) -> Groups:
    """Pairs of which half have one value twice, and the others two values."""
    first, other = of(rng, n), of(rng, n)
    return {"0": first, "1": np.where(rng.random(n) < 0.5, first, other)}


# --- the long form ----------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
BEGIN, END = "<!-- calibration: begin -->", "<!-- calibration: end -->"


def core() -> list[Scenario]:
    """One scenario of each design and shape, the sizes in turn: what is quick enough for every change."""
    kinds: dict[tuple[str, str], list[Scenario]] = defaultdict(list)
    for scenario in scenarios():
        kinds[scenario.design, scenario.shape].append(scenario)
    return [of[place % len(of)] for place, of in enumerate(kinds.values())]


def broken(found: Mapping[Scenario, Found]) -> list[str]:
    """The promises that are not kept, one sentence each."""
    return [
        f"{scenario.name}: {path}: {promise}: {tally.silent} of {tally.runs} wrong without a warning"
        for scenario, of in found.items()
        for (path, promise), tally in of.items()
        if tally.too_high(MOST_WRONG[promise])
    ]


def table(found: Mapping[Scenario, Found], runs: int) -> str:
    """Of each path and promise: the scenarios, the worst of them as it is, and the worst without a warning."""
    cells: dict[tuple[str, str], list[tuple[Scenario, Tally]]] = defaultdict(list)
    for scenario, of in found.items():
        for key, tally in of.items():
            if key[0] != "refused":
                cells[key].append((scenario, tally))
    rows = [
        "| path | error | scenarios | on average | most, and where | most without a warning |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (path, promise), of in sorted(cells.items()):
        average = sum(tally.wrong for _, tally in of) / sum(tally.runs for _, tally in of)
        where, worst = max(of, key=lambda pair: at_least(pair[1].wrong, pair[1].runs))
        _, silent = max(of, key=lambda pair: at_least(pair[1].silent, pair[1].runs))
        rows.append(
            f"| {path} | {WORDS[promise]} | {len(of)} | {average:.3f} | {worst.wrong / worst.runs:.3f} of "
            f"{worst.runs:,}: {where.name.replace(' | ', '; ')} | {silent.silent / silent.runs:.3f} of "
            f"{silent.runs:,} |"
        )
    total = sum(max(tally.runs for tally in of.values()) for of in found.values())
    return "\n".join(
        [
            f"{len(found)} scenarios, {runs:,} runs of each that is as quick as a t-test and fewer of slower ones, "
            f"{total:,} comparisons in all. The worst scenario is that whose rate is surely highest (by its lower "
            f"{SURE:.1%} bound), so that few runs do not make it the worst by chance.",
            "",
            *rows,
        ]
    )


WORDS = {
    "level": "rejects what is true",
    "coverage": "interval misses the truth",
    "effect size": "interval of the effect size misses the truth",
    "mean": "interval misses the mean",
    "quantile": "interval misses the quantile",
    "verdict": "verdict is false",
    "best set": "best configuration is left out",
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=1_000, help="of a scenario as quick as a t-test")
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--only", default="", help="the scenarios whose name has this text; with --dry")
    options.add_argument("--dry", action="store_true", help="print the table instead of writing it into the page")
    asked = options.parse_args()
    begun, found = time.monotonic(), dict[Scenario, Found]()
    every = scenarios()
    places = [place for place, scenario in enumerate(every) if asked.only in scenario.name]
    if asked.only and not asked.dry:
        options.error("--only makes a part of the table, which is not written into the page: add --dry")
    with ProcessPoolExecutor(asked.processes) as pool:
        tallies = pool.map(_simulated, places, itertools.repeat(asked.runs))
        for scenario, of in zip((every[place] for place in places), tallies, strict=True):
            found[scenario] = of
            print(f"{time.monotonic() - begun:6.0f} s  {len(found)} of {len(places)}  {scenario.name}", file=sys.stderr)
            for sentence in broken({scenario: of}):
                print(f"          {sentence}", file=sys.stderr, flush=True)
    text = table(found, asked.runs)
    if asked.dry:
        print(text)
    else:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        _, after = rest.split(END)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return 1 if broken(found) else 0


def _simulated(place: int, runs: int) -> Found:
    return dict(simulate(scenarios()[place], runs))


if __name__ == "__main__":
    sys.exit(main())

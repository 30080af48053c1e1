"""Simultaneous comparisons as one family, and any two-group test run over it."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from crucible_bench.compared import FamilyResult, PairResult
from crucible_bench.data.sample import Sample, Values, read_groups, unscaled
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.run_test import run_test
from crucible_bench.levels import levels
from crucible_bench.multiple.corrections import adjust_p_values
from crucible_bench.result import Choice, TestResult, Untested, is_open
from crucible_bench.vocabulary import EFFECT_SIZES, Alternative, CorrectionName, EffectSizeName, FamilyName, TestName
from crucible_bench.wording import counted


def pairwise_tests(
    test: str,
    groups: Mapping[str, Values],
    *,
    control: str | None = None,
    correction: CorrectionName = "holm",
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    seed: int = 0,
) -> FamilyResult:
    """The named two-group test (`run_test`) on all pairs, or on each group against `control`, corrected.

    The intervals are simultaneous by Bonferroni's inequality (Sidak's for sidak and holm_sidak): each has the
    confidence 1 - (1 - confidence_level) / size. With "none" each has `confidence_level` by itself. The intervals of
    effect sizes are those of each pair alone, at that same level.

    `groups` are name -> values of shape (n,). A pair that the test refuses is among the `untested`, with the reason; it
    counts in the correction all the same.

    Raises CannotTestError for fewer than two groups, an unknown control or test, and data that the test refuses for
    every pair; ValueError for an unknown correction and levels out of range.
    """
    return pairwise_family(
        lambda pair, alpha, level: run_test(
            test,
            pair,
            alpha=alpha,
            confidence_level=level,
            effect_size=effect_size,
            alternative=alternative,
            resamples=resamples,
            seed=seed,
        ),
        groups,
        control=control,
        correction=correction,
        alpha=alpha,
        confidence_level=confidence_level,
    )


_MOST_NAMED: Final = 6

PairTest = Callable[[Mapping[str, Values], float, float], TestResult]
"""The test of one pair, given the two groups, alpha and the confidence level of its interval."""


def pairwise_family(
    run: PairTest,
    groups: Mapping[str, Values],
    *,
    control: str | None = None,
    correction: CorrectionName = "holm",
    alpha: float = 0.05,
    confidence_level: float | None = None,
) -> FamilyResult:
    """`pairwise_tests` with any test of two groups, for those that need more than the groups."""
    family = Family("pairwise", groups, alpha, confidence_level, control)
    size = len(family.pairs)
    tail, how = simultaneous_tail(correction, family.level, size)
    results: list[TestResult] = []
    untested: list[Untested] = []
    for pair in family.pairs:
        names = tuple(family.samples[place].name for place in pair)
        try:
            results.append(run({name: groups[name] for name in names}, family.alpha, 1.0 - 2.0 * tail))
        except CannotTestError as refusal:
            untested.append(family.untested(pair, refusal))
    if not results:
        raise CannotTestError(
            untested[0].test, f"of {' and '.join(map(repr, untested[0].groups))}: {untested[0].reason}"
        )
    adjusted = adjust_p_values([*(result.p_value for result in results), *(1.0 for _ in untested)], correction)
    # Groups without spread have an exact test, whose names are not those of the others.
    usual = [result for result in results if result.effect_size_name is not None] or results
    first = usual[0]
    statistics = {_of_any_pair(result.statistic_name, result.groups) for result in usual}
    methods = dict.fromkeys(result.method for result in (*usual, *results))
    return family.result(
        [
            PairResult(
                first=result.groups[0],
                second=result.groups[1],
                n=(result.n[0], result.n[1]),
                estimate=result.estimate,
                confidence_interval=result.confidence_interval,
                statistic=result.statistic,
                df=result.df,
                p_value=result.p_value,
                p_adjusted=p,
                significant=p <= family.alpha,
                effect_size=result.effect_size,
                effect_size_name=result.effect_size_name,
                effect_size_interval=result.effect_size_interval,
                note=result.notes[0]
                if is_open(result.confidence_interval, result.null_value) and result.notes
                else None,
            )
            for result, p in zip(results, adjusted, strict=False)  # those of the untested come last
        ],
        method=f"{' or '.join(methods)}, {'all pairs' if control is None else 'each group against the control'}",
        correction=correction,
        names=(
            statistics.pop() if len(statistics) == 1 else "statistic",
            _of_any_pair(first.estimate_name, first.groups),
        ),
        assumptions=first.assumptions,
        notes=(
            how,
            *_disagreements(results, adjusted, correction, family.alpha),
            *_notes_of_pairs(results),
        ),
        choice=Choice(
            f"{correction} over {counted(size, 'comparison')}",
            "it needs only the p-values of the separate tests",
            ("tukey_hsd or games_howell", "dunnett, against a control"),
        ),
        null_value=first.null_value,
        untested=tuple(untested),
    )


def _of_any_pair(name: str, groups: tuple[str, ...]) -> str:
    """The name of a pair's estimate or statistic, without the names of that pair."""
    first, second = groups
    if name == f"P({first} > {second}) + P({first} = {second}) / 2":
        return "P(first > second) + P(first = second) / 2"
    for own in (f" ({first} - {second})", f" ({first} / {second})", f" of {first} and {second}"):
        name = name.removesuffix(own)
    return name.replace(f" by {first}", " by the first")


def _notes_of_pairs(results: Sequence[TestResult]) -> Iterator[str]:
    """The notes of the tests, each once, with the pairs that it is about; without pairs if it is about all of them."""
    about: dict[str, list[str]] = {}
    for result in results:
        for note in dict.fromkeys(result.notes):
            if "disagree" not in note:
                about.setdefault(note, []).append(f"{result.groups[0]} - {result.groups[1]}")
    for note, pairs in about.items():
        if 1 < len(pairs) == len(results):
            yield f"each pair: {note}"
        else:
            more = len(pairs) - _MOST_NAMED
            yield f"{', '.join(pairs[:_MOST_NAMED])}{f' and {more} more pairs' if more > 0 else ''}: {note}"


def _disagreements(
    results: Sequence[TestResult], adjusted: Sequence[float], correction: CorrectionName, alpha: float
) -> Iterator[str]:
    """Pairs about which a stepwise correction and the simultaneous interval disagree."""
    for result, p in zip(results, adjusted, strict=False):
        low, high = result.confidence_interval
        if not is_open(result.confidence_interval, result.null_value) and (p <= alpha) == (
            low <= result.null_value <= high
        ):
            yield (
                f"{' - '.join(result.groups)}: the {correction}-adjusted test and the simultaneous interval disagree "
                f"about {result.null_value:g}: stepwise corrections decide more sharply than intervals can"
            )


_EFFECT_FROM: Final[Mapping[FamilyName, TestName]] = MappingProxyType(
    {
        "dunn": "mann_whitney",
        "dunnett": "ttest",
        "games_howell": "ttest",
        "nemenyi": "wilcoxon",
        "tukey_hsd": "ttest",
    }
)
"""The test of two groups whose effect size describes a comparison of the family."""


class Family:
    """The groups as read, the pairs to compare, and how a comparison and a result are put together."""

    def __init__(
        self,
        procedure: FamilyName,
        groups: Mapping[str, Values],
        alpha: float,
        confidence_level: float | None,
        control: str | None = None,
        effect_size: EffectSizeName | None = None,
    ) -> None:
        self.procedure: FamilyName = procedure
        self.effect_size = effect_size
        self.alpha, self.level = levels(alpha, confidence_level)
        self.samples = read_groups(procedure, groups)
        self.control = control
        names = [sample.name for sample in self.samples]
        if len(names) < 2:
            listed = ", ".join(map(repr, names)) or "none"
            raise CannotTestError(procedure, f"a family of comparisons needs at least two groups; given: {listed}")
        if control is None:
            self.pairs = list(itertools.combinations(range(len(names)), 2))
            return
        if control not in names:
            close = difflib.get_close_matches(str(control), names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise CannotTestError(
                procedure, f"the control {control!r} is not among the groups {', '.join(map(repr, names))}{hint}"
            )
        self.pairs = [(i, self.place_of_control) for i in range(len(names)) if i != self.place_of_control]

    @property
    def place_of_control(self) -> int:
        return [sample.name for sample in self.samples].index(str(self.control))

    def comparison(
        self,
        i: int,
        j: int,
        estimate: float,
        reach: float,
        statistic: float,
        df: tuple[float, ...],
        p_value: float,
        p_adjusted: float,
        exponent: int = 0,
    ) -> PairResult:
        first, second = self.samples[i], self.samples[j]
        ends = (unscaled(self.procedure, estimate + side * reach, exponent) for side in (-1.0, 1.0))
        p_adjusted = min(1.0, max(p_value, float(p_adjusted)))  # the last digits of two integrals could cross
        effect = self._effect(first, second)
        return PairResult(
            first=first.name,
            second=second.name,
            n=(first.n, second.n),
            estimate=unscaled(self.procedure, estimate, exponent),
            confidence_interval=(next(ends), next(ends)),
            statistic=statistic,
            df=df,
            p_value=p_value,
            p_adjusted=p_adjusted,
            significant=p_adjusted <= self.alpha,
            effect_size=effect.effect_size if effect else None,
            effect_size_name=effect.effect_size_name if effect else None,
            effect_size_interval=effect.effect_size_interval if effect else None,
        )

    def untested(self, pair: tuple[int, int], refusal: CannotTestError) -> Untested:
        """The pair, given by the places of its groups, that a test refused."""
        first, second = (self.samples[place] for place in pair)
        return Untested(refusal.test, (first.name, second.name), (first.n, second.n), refusal.reason)

    def _effect(self, first: Sample, second: Sample) -> TestResult | None:
        pair = {first.name: first.values, second.name: second.values}
        test = _EFFECT_FROM[self.procedure]
        asked = self.effect_size if self.effect_size in EFFECT_SIZES[test] else None
        try:
            return run_test(test, pair, alpha=self.alpha, confidence_level=self.level, effect_size=asked)
        except CannotTestError:
            return None

    def result(
        self,
        comparisons: list[PairResult],
        *,
        method: str,
        correction: str,
        names: tuple[str, str],
        assumptions: tuple[str, ...],
        choice: Choice,
        notes: tuple[str, ...] = (),
        null_value: float = 0.0,
        untested: tuple[Untested, ...] = (),
    ) -> FamilyResult:
        return FamilyResult(
            procedure=self.procedure,
            method=method,
            groups=tuple(sample.name for sample in self.samples),
            n=tuple(sample.n for sample in self.samples),
            control=self.control,
            size=len(comparisons) + len(untested),
            correction=correction,
            statistic_name=names[0],
            estimate_name=names[1],
            alpha=self.alpha,
            confidence_level=self.level,
            comparisons=tuple(comparisons),
            assumptions=assumptions,
            notes=notes,
            decisions=(choice,),
            null_value=null_value,
            untested=untested,
        )


def simultaneous_tail(correction: CorrectionName, level: float, size: int) -> tuple[float, str]:
    """The probability that each interval leaves out at each end, and a sentence about it."""
    if correction == "none":
        return (1.0 - level) / 2.0, "no correction: the intervals hold one by one, not together"
    if correction in ("sidak", "holm_sidak"):
        return -math.expm1(math.log(level) / size) / 2.0, "simultaneous intervals by Sidak's inequality"
    return (1.0 - level) / size / 2.0, "simultaneous intervals by Bonferroni's inequality"

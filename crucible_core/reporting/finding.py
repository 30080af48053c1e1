"""What a comparison found, in a sentence or a few."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crucible_core.reporting.comparison import (
    EFFECT_LABELS,
    RATIOS,
    BestOfSweep,
    ComparedFamily,
    ComparedPair,
    ComparedTest,
    Comparison,
    Interval,
    MarginVerdict,
    RankedGroups,
)
from crucible_core.reporting.numbers import format_interval, format_number, format_p
from crucible_core.vocabulary import EffectSizeName

__all__ = ["estimated", "finding", "number", "percent", "statistic"]

MOST_TOLD = 6


def finding(comparison: Comparison) -> str:
    """The result in one sentence, or a few where several pairs were compared.

    It is that of the test declared first: picking the smallest p would be picking the result.
    """
    if comparison.best is not None:
        found = _finding_of_sweep(comparison, comparison.best)
    elif comparison.ranking is not None:
        found = _finding_of_ranking(comparison, comparison.ranking)
    elif comparison.comparisons is not None:
        found = _finding_of_family(comparison, comparison.comparisons)
    else:
        found = _finding_of_test(comparison, next(iter(comparison.tests.values())))
    return " ".join([found, *map(_verdict_sentence(comparison), comparison.verdicts[:MOST_TOLD])])


def _finding_of_test(comparison: Comparison, test: ComparedTest) -> str:
    p, adjusted = test.p_value, ""
    if test.p_adjusted is not None:
        p, adjusted = test.p_adjusted, f" ({comparison.correction}-adjusted)"
    measure = _measured(comparison)
    effect = _effect(test.effect_size_name, test.effect_size, test.effect_size_interval)
    numbers = (
        f"{estimated(test.estimate_name, test.estimate)}, "
        f"{percent(test.confidence_level)} CI {format_interval(test.confidence_interval)}, "
        f"{test.method}, {statistic(test.statistic_name, test.df, test.statistic)}, p {format_p(p)}{adjusted}, "
        f"{effect}, n = {_counts(comparison, test)}"
    )
    if len(test.groups) > 2:
        differ = "differ" if test.significant else "could not be told apart"
        return f"The {len(test.groups)} groups {', '.join(test.groups)} {differ}{measure}: {numbers}."
    first, *others = test.groups
    second = others[0] if others else "the reference"
    if test.effect_size_name in _ASSOCIATIONS:
        related = "go together" if test.significant else "were not shown to go together"
        return f"{first} and {second} {related}: {numbers}."
    if test.effect_size_name == "variance_ratio" or test.test in _OF_SPREAD:
        spread = "differ in spread" if test.significant else "could not be told apart in spread"
        return f"{first} and {second} {spread}{measure}: {numbers}."
    if test.significant:
        word = "higher" if _is_higher(test) else "lower"
        return f"{first} is {word} than {second}{measure}: {numbers}."
    return f"{first} and {second} could not be told apart{measure}: {numbers}."


_ASSOCIATIONS = frozenset({"pearson_r", "spearman_rho", "kendall_tau"})
_OF_SPREAD = frozenset({"brown_forsythe", "levene", "variance_ratio"})


def _is_higher(test: ComparedTest) -> bool:
    neutral = 1.0 if test.effect_size_name in RATIOS else 0.5 if test.effect_size_name == "common_language" else 0.0
    return test.effect_size is None or test.effect_size > neutral


def _finding_of_family(comparison: Comparison, family: ComparedFamily) -> str:
    apart = [pair for pair in family.comparisons if pair.significant]
    against = f" with {family.control}" if family.control else ""
    head = (
        f"{len(apart)} of {family.size} comparisons{against}{_measured(comparison)} show a difference "
        f"({family.method}, adjusted by {_adjuster(family)}, {percent(family.confidence_level)} simultaneous CIs"
        f"{_shared_counts(comparison, family)})"
    )
    told = [_pair_sentence(family, pair) for pair in (*apart, *(p for p in family.comparisons if not p.significant))]
    more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return f"{head}: {'; '.join(told[:MOST_TOLD])}{more}."


def _adjuster(family: ComparedFamily) -> str:
    return f"the {family.correction}" if " " in family.correction else family.correction


def _pair_sentence(family: ComparedFamily, pair: ComparedPair) -> str:
    low, high = pair.confidence_interval
    if pair.significant:
        higher = pair.statistic > 0 if pair.estimate is None or pair.estimate == 0 else pair.estimate > 0
        said = f"{pair.first} is {'higher' if higher else 'lower'} than {pair.second}"
    else:
        said = f"{pair.first} and {pair.second} could not be told apart"
    numbers = f"{estimated(family.estimate_name, pair.estimate)}, CI {format_interval((low, high))}"
    return f"{said} ({numbers}, p {format_p(pair.p_adjusted)})"


def _finding_of_sweep(comparison: Comparison, best: BestOfSweep) -> str:
    leader = next(one for one in best.contenders if one.name == best.leader)
    others = [name for name in best.kept if name != best.leader]
    dropped = len(best.contenders) - len(best.kept)
    kept = (
        f"not told apart from it: {', '.join(others)}" if others else "every other configuration is shown to be worse"
    )
    rest = f"; {dropped} of {len(best.contenders)} are shown to be worse than another" if dropped and others else ""
    return (
        f"{best.leader} has the best mean{_measured(comparison)} ({format_number(leader.mean)}, n = {leader.n}); {kept}"
        f"{rest} ({best.method}; with {percent(1 - comparison.alpha)} confidence the best one is among those kept)."
    )


def _finding_of_ranking(comparison: Comparison, ranking: RankedGroups) -> str:
    first = ranking.groups[0]
    alike = sorted(
        {name for clique in ranking.cliques if first in clique for name in clique if name != first},
        key=ranking.groups.index,
    )
    statistic, df, p = ranking.friedman
    worse = [name for name in ranking.groups[1:] if name not in alike]
    said = f"not told apart from it: {', '.join(alike)}" if alike else "told apart from every other"
    rest = f"; ranked lower: {', '.join(worse)}" if worse and alike else ""
    ruler = (
        f"critical difference {format_number(ranking.critical_difference)}"
        if ranking.critical_difference is not None
        else "Wilcoxon tests with Holm's correction"
    )
    return (
        f"Over {ranking.blocks} data sets {first} has the best mean rank{_measured(comparison)} "
        f"({format_number(ranking.mean_ranks[0])}); {said}{rest} (Friedman chi-square({format_number(df)}) = "
        f"{format_number(statistic)}, p {format_p(p)}; {ruler})."
    )


def _verdict_sentence(comparison: Comparison) -> Callable[[MarginVerdict], str]:
    def told(verdict: MarginVerdict) -> str:
        first, second = verdict.groups
        judged = f"Against a margin of {format_number(verdict.margin)}, {first} is"
        if verdict.verdict == "equivalent":
            return f"{judged} equivalent to {second}."
        if verdict.verdict == "inconclusive":
            more = verdict.more_replicates
            decide = (
                f"about {more:,} more {comparison.replicate} would decide"
                if more
                else f"no number of {comparison.replicate} would decide"
            )
            return f"{judged} neither shown to be better, worse nor equivalent to {second}: inconclusive; {decide}."
        if verdict.verdict == "non_inferior":
            return f"{judged} not worse than {second} by the margin."
        return f"{judged} {verdict.verdict} than {second}."

    return told


def _measured(comparison: Comparison) -> str:
    return f" in {comparison.measure}" if comparison.measure else ""


def _effect(name: EffectSizeName, value: float | None, interval: Interval) -> str:
    return f"{EFFECT_LABELS[name]} = {number(value)} {format_interval(interval)}"


def _counts(comparison: Comparison, test: ComparedTest) -> str:
    if comparison.paired and comparison.design != "clustered":
        return f"{test.n[0]} {comparison.replicate}"
    if comparison.design == "clustered":
        return f"{test.n[0]} items"
    if len(test.n) == 1:
        return f"{test.n[0]}"
    return " and ".join(map(str, test.n)) if len(set(test.n)) > 1 else f"{test.n[0]} per group"


def _shared_counts(comparison: Comparison, family: ComparedFamily) -> str:
    counts = {count for pair in family.comparisons for count in pair.n}
    if len(counts) != 1:
        return ""
    (n,) = counts
    unit = "items" if comparison.design == "clustered" else comparison.replicate if comparison.paired else "per group"
    return f", n = {n} {unit}"


def number(value: float | None) -> str:
    return "∞" if value is None else format_number(value)


def estimated(name: str, value: float | None, joint: str = " ") -> str:
    return f"{name.replace('_', ' ')}{joint}{number(value)}"


def statistic(name: str, df: Sequence[float], value: float) -> str:
    degrees = f"({', '.join(map(format_number, df))})" if df else ""
    return (
        f"{name}{degrees} = {format_number(value)}" if name else f"{format_number(value)}{f' {degrees}' if df else ''}"
    )


def percent(share: float) -> str:
    return f"{100 * share:.6g}%"

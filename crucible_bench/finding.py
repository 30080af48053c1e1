"""What a comparison found, in a sentence or a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from crucible_bench.compared import BestSet, Compared, FamilyResult, JudgedTest, MarginResult, PairResult, Ranking
from crucible_bench.numbers import format_interval, format_number, format_p
from crucible_bench.result import Interval, TestResult
from crucible_bench.vocabulary import EFFECT_LABELS, RATIOS, Alternative, EffectSizeName

__all__ = ["estimated", "finding", "labelled", "percent", "statistic"]

MOST_SHOWN = 6


def finding(comparison: Compared) -> str:
    """The result in one sentence, or a few where several pairs were compared.

    It is the result of the test declared first: to pick the smallest p would be to pick the result.
    """
    if comparison.best is not None:
        found = _finding_of_sweep(comparison, comparison.best)
    elif comparison.ranking is not None:
        found = _finding_of_ranking(comparison, comparison.ranking)
    elif comparison.comparisons is not None:
        found = _finding_of_family(comparison, comparison.comparisons)
    else:
        found = _finding_of_test(comparison, comparison.judged[0])
    more = len(comparison.verdicts) - MOST_SHOWN
    rest = [f"{more} more {'pair is' if more == 1 else 'pairs are'} judged in the table."] if more > 0 else []
    verdicts = map(_verdict_sentence(comparison), comparison.verdicts[:MOST_SHOWN])
    return " ".join([found, *verdicts, *rest, *_left_out(comparison)])


def _left_out(comparison: Compared) -> Iterator[str]:
    """How many values were dropped, and that this may flatter a group."""
    counts = {name: f"{gone:,} of {comparison.groups[name].n + gone:,}" for name, gone in comparison.left_out.items()}
    if not counts:
        return
    shares = [f"{count} values of {name}" for name, count in counts.items()]
    if len(set(counts.values())) == 1 and len(counts) == len(comparison.groups) > 1:
        shares = [f"{next(iter(counts.values()))} values of each group"]
    more = len(shares) - MOST_SHOWN
    rest = f" and of {more} more groups" if more > 0 else ""
    yield f"Left out because of missing values: {', '.join(shares[:MOST_SHOWN])}{rest}."


def _finding_of_test(comparison: Compared, judged: JudgedTest) -> str:
    test, p, adjusted = judged.result, judged.result.p_value, ""
    if judged.p_adjusted is not None:
        p = judged.p_adjusted
        adjusted = " (not adjusted)" if comparison.correction == "none" else f" ({comparison.correction}-adjusted)"
    # Of a test that estimates its effect size, the same numbers twice would say nothing more.
    is_effect = (test.estimate, test.confidence_interval) == (test.effect_size, test.effect_size_interval)
    effect = "" if is_effect else f"{_effect(test.effect_size_name, test.effect_size, test.effect_size_interval)}, "
    name = EFFECT_LABELS[test.effect_size_name] if is_effect else test.estimate_name
    numbers = (
        f"{estimated(name, test.estimate, ' = ' if is_effect or _ends_in_figure(name) else ' ')}, "
        f"{percent(test.confidence_level)} CI {format_interval(test.confidence_interval)}, "
        f"{test.method}, {statistic(test.statistic_name, test.df, test.statistic)}, p {format_p(p)}{adjusted}, "
        f"{effect}n = {_counts(comparison, test)}"
    )
    measure = _measured(comparison)
    if len(test.groups) > 2:
        spread = " in spread" if test.test in _OF_SPREAD else ""
        differ = f"differ{spread}" if judged.significant else f"could not be told apart{spread}"
        return f"The {len(test.groups)} groups {', '.join(test.groups)} {differ}{measure}: {numbers}."
    first, *others = test.groups
    second = others[0] if others else f"the reference {format_number(test.null_value)}"
    found = _Found(
        test.effect_size_name,
        test.effect_size,
        test.estimate,
        test.null_value,
        test.alternative,
        judged.significant,
        spread=test.test in _OF_SPREAD,
    )
    return f"{found.in_words(first, second, measure)}: {numbers}."


_ASSOCIATIONS = frozenset({"pearson_r", "spearman_rho", "kendall_tau"})
_OF_SPREAD = frozenset({"brown_forsythe", "levene", "variance_ratio"})
_WITHOUT_DIRECTION = frozenset(
    {
        "cramers_v",
        "epsilon_squared",
        "eta_squared",
        "kendall_w",
        "omega_squared",
        "partial_eta_squared",
    }
)


class _Found(NamedTuple):
    """What is needed to say in which direction two groups differ, if the test has a direction."""

    effect_name: EffectSizeName | None
    effect: float | None
    estimate: float
    null_value: float
    alternative: Alternative
    significant: bool
    spread: bool = False

    def in_words(self, first: str, second: str, measure: str) -> str:
        if self.effect_name in _ASSOCIATIONS:
            return self._association(first, second)
        if self.alternative != "two-sided" and not self.significant:
            # A one-sided test is silent about the other side, where the groups may well differ.
            word = "higher" if self.alternative == "greater" else "lower"
            what = f"{word} in spread" if self.spread else word
            return f"{first} was not shown to be {what} than {second}{measure}"
        spread = " in spread" if self.spread else ""
        if not self.significant:
            return f"{first} and {second} could not be told apart{spread}{measure}"
        sign = 0 if self.effect_name in _WITHOUT_DIRECTION else self._sign()
        if sign == 0:
            return f"{first} and {second} differ{spread}{measure}"
        return f"{first} is {'higher' if sign > 0 else 'lower'}{spread} than {second}{measure}"

    def _association(self, first: str, second: str) -> str:
        apart = self.alternative == "less" or (self.significant and self._sign() < 0)
        if self.significant:
            return f"{first} and {second} go {'in opposite directions' if apart else 'together'}"
        return f"{first} and {second} were not shown to go {'in opposite directions' if apart else 'together'}"

    def _sign(self) -> int:
        """The sign of the estimate, which the test is about; that of the effect size if the estimate has none."""
        if self.estimate != self.null_value:
            return 1 if self.estimate > self.null_value else -1
        neutral = 1.0 if self.effect_name in RATIOS else 0.5 if self.effect_name == "common_language" else 0.0
        if self.effect is None:
            return 0
        return (self.effect > neutral) - (self.effect < neutral)


def _ends_in_figure(name: str) -> bool:
    return name[-1:].isdigit()


def _finding_of_family(comparison: Compared, family: FamilyResult) -> str:
    apart = [pair for pair in family.comparisons if pair.significant]
    related = any(pair.effect_size_name in _ASSOCIATIONS for pair in family.comparisons)
    against = f" with {family.control}" if family.control else ""
    head = (
        f"{len(apart)} of {family.size} comparisons{against}{_measured(comparison)} "
        f"{'shows' if len(apart) == 1 else 'show'} {'an association' if related else 'a difference'} "
        f"({family.method}, {_adjusted(family)}{_shared_counts(comparison, family)})"
    )
    sentences = [
        _pair_sentence(comparison, family, pair)
        for pair in (*apart, *(p for p in family.comparisons if not p.significant))
    ]
    more = f"; and {len(sentences) - MOST_SHOWN} more" if len(sentences) > MOST_SHOWN else ""
    return f"{head}: {'; '.join(sentences[:MOST_SHOWN])}{more}."


def _adjusted(family: FamilyResult) -> str:
    level = percent(family.confidence_level)
    if family.correction == "none":
        return f"not adjusted for their number, {level} CIs one by one"
    return f"adjusted by {_adjuster(family)}, {level} simultaneous CIs"


def _adjuster(family: FamilyResult) -> str:
    return f"the {family.correction}" if " " in family.correction else family.correction


def _pair_sentence(comparison: Compared, family: FamilyResult, pair: PairResult) -> str:
    found = _Found(
        pair.effect_size_name,
        pair.effect_size,
        pair.estimate,
        family.null_value,
        comparison.alternative,
        pair.significant,
        spread=pair.effect_size_name == "variance_ratio",
    )
    name = family.estimate_name
    joint = " = " if _ends_in_figure(name) else " "
    numbers = f"{estimated(name, pair.estimate, joint)}, CI {format_interval(pair.confidence_interval)}"
    return f"{found.in_words(pair.first, pair.second, '')} ({numbers}, p {format_p(pair.p_adjusted)})"


def _finding_of_sweep(comparison: Compared, best: BestSet) -> str:
    leader = next(one for one in best.contenders if one.name == best.leader)
    others = [name for name in best.kept if name != best.leader]
    dropped = len(best.contenders) - len(best.kept)
    kept = (
        f"not told apart from it: {', '.join(others)}" if others else "every other configuration is shown to be worse"
    )
    are = "is" if dropped == 1 else "are"
    rest = f"; {dropped} of {len(best.contenders)} {are} shown to be worse than another" if dropped and others else ""
    return (
        f"{best.leader} has the best mean{_measured(comparison)} ({format_number(leader.mean)}, n = {leader.n}); {kept}"
        f"{rest} ({best.method}; with {percent(1 - comparison.alpha)} confidence the best one is among those kept)."
    )


def _finding_of_ranking(comparison: Compared, ranking: Ranking) -> str:
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


def _verdict_sentence(comparison: Compared) -> Callable[[MarginResult], str]:
    def in_words(verdict: MarginResult) -> str:
        first, second = verdict.groups
        judged = f"Against a margin of {format_number(verdict.margin)}, {first} is"
        if verdict.verdict == "equivalent":
            return f"{judged} equivalent to {second}."
        if verdict.verdict == "inconclusive":
            more = verdict.more_replicates
            decide = (
                f"about {more:,} more {comparison.replicate} would decide"
                if more
                else f"more {comparison.replicate} would not decide"
            )
            return (
                f"{judged} not shown to be better or worse than {second}, nor equivalent to it: inconclusive; {decide}."
            )
        if verdict.verdict == "non_inferior":
            return f"{judged} non-inferior to {second}: a loss as large as the margin is ruled out."
        low, high = verdict.confidence_interval
        nearest = max(low, -high)  # the end of the interval next to zero
        if nearest > verdict.margin:
            margin = format_number(verdict.margin)
            return f"{first} is {verdict.verdict} than {second} by more than the margin of {margin}."
        return (
            f"{first} is {verdict.verdict} than {second}, though perhaps by less than the margin of "
            f"{format_number(verdict.margin)}."
        )

    return in_words


def _measured(comparison: Compared) -> str:
    return f" in {comparison.measure}" if comparison.measure else ""


def _effect(name: EffectSizeName, value: float, interval: Interval) -> str:
    return f"{EFFECT_LABELS[name]} = {format_number(value)} {format_interval(interval)}"


def _counts(comparison: Compared, test: TestResult) -> str:
    if comparison.paired and comparison.design != "clustered":
        return f"{test.n[0]:,} {comparison.replicate}"
    if len(test.n) == 1:
        return f"{test.n[0]:,}"
    counts = " and ".join(map(format_number, test.n)) if len(set(test.n)) > 1 else f"{test.n[0]:,} per group"
    return f"{counts}, in clusters" if comparison.design == "clustered" else counts


def _shared_counts(comparison: Compared, family: FamilyResult) -> str:
    counts = {count for pair in family.comparisons for count in pair.n}
    if len(counts) != 1:
        return ""
    (n,) = counts
    unit = comparison.replicate if comparison.paired and comparison.design != "clustered" else "per group"
    return f", n = {n:,} {unit}"


def estimated(name: str, value: float, joint: str = " ") -> str:
    return f"{labelled(name)}{joint}{format_number(value)}"


def labelled(name: str) -> str:
    """An estimate's name with the effect size in it as people write it; names of groups stay as they are."""
    for effect, label in EFFECT_LABELS.items():
        if name == effect or name.startswith(f"{effect} of "):
            return f"{label}{name.removeprefix(effect)}"
    return name


def statistic(name: str, df: Sequence[float], value: float) -> str:
    degrees = f"({', '.join(map(format_number, df))})" if df else ""
    return (
        f"{name}{degrees} = {format_number(value)}" if name else f"{format_number(value)}{f' {degrees}' if df else ''}"
    )


def percent(share: float) -> str:
    short = f"{100 * share:.4g}"
    return f"{100 * share:.6g}%" if short == "100" else f"{short}%"

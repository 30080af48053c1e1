"""What a comparison found, in a sentence or a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from crucible_bench.compared import (
    BestSet,
    Compared,
    FamilyResult,
    JudgedTest,
    MarginResult,
    PairResult,
    Preferences,
    Ranking,
)
from crucible_bench.numbers import format_effect, format_interval, format_number, format_p
from crucible_bench.result import Interval, TestResult, Untested, is_open
from crucible_bench.vocabulary import EFFECT_LABELS, RATIOS, Alternative, Design, EffectSizeName
from crucible_bench.wording import counted, percentile

__all__ = [
    "Found",
    "adjusted",
    "bayesian",
    "counts",
    "effect_text",
    "estimated",
    "estimates_effect",
    "family_head",
    "finding",
    "found_by",
    "found_of_pair",
    "joint_after",
    "judged_by",
    "labelled",
    "left_out",
    "mean_of_best",
    "measured",
    "not_tested",
    "percent",
    "preference_caveats",
    "preference_head",
    "preferred",
    "probability",
    "rate_of",
    "shared_counts",
    "statistic",
]

MOST_SHOWN = 6


def finding(comparison: Compared) -> str:
    """The result in one sentence, or a few where several pairs were compared.

    It is that of the test declared first: picking the smallest p would be picking the result.
    """
    if comparison.preferences is not None:
        return _finding_of_preferences(comparison, comparison.preferences)
    ranked = None if comparison.best is None else _finding_of_best(comparison, comparison.best)
    if ranked is not None and comparison.study == "sweep":
        found, ranked = ranked, None
    elif comparison.ranking is not None:
        found = _finding_of_ranking(comparison, comparison.ranking)
    elif comparison.comparisons is not None:
        found = _finding_of_family(comparison, comparison.comparisons)
    else:
        found = _finding_of_test(comparison, comparison.judged[0])
    more = len(comparison.verdicts) - MOST_SHOWN
    rest = [f"{more} more {'pair is' if more == 1 else 'pairs are'} judged in the table."] if more > 0 else []
    verdicts = map(_verdict_sentence(comparison), comparison.verdicts[:MOST_SHOWN])
    return " ".join(
        [
            *(found, *verdicts, *rest, *bayesian(comparison), *([ranked] if ranked else [])),
            *(*not_tested(comparison.untested), *left_out(comparison)),
        ]
    )


def bayesian(comparison: Compared) -> Iterator[str]:
    """The Bayesian statements about pairs, in one sentence."""
    if not comparison.bayesian:
        return
    said = []
    for one in comparison.bayesian[:MOST_SHOWN]:
        (first, second), size = one.groups, format_number(one.rope)
        said.append(
            f"P({first} better by more than {size}) {probability(one.p_first)}, "
            f"P(practically equal) {probability(one.p_equivalent)}, "
            f"P({second} better by more than {size}) {probability(one.p_second)}"
        )
    more = len(comparison.bayesian) - MOST_SHOWN
    rest = [f"and {counted(more, 'more pair')}"] if more > 0 else []
    yield f"Bayesian, by a {comparison.bayesian[0].method}: {'; '.join([*said, *rest])}."


def probability(value: float) -> str:
    """`= 0.93`, `< 0.01` or `> 0.99`."""
    return "< 0.01" if value < 0.01 else "> 0.99" if value > 0.99 else f"= {value:.2f}"


def not_tested(untested: Sequence[Untested]) -> Iterator[str]:
    """What was declared and could not be tested, with the reasons."""
    if untested:
        shown = [f"{' – '.join(one.groups)} by {one.test} ({one.reason})" for one in untested[:MOST_SHOWN]]
        more = f"; and {len(untested) - MOST_SHOWN} more" if len(untested) > MOST_SHOWN else ""
        yield f"Not tested: {'; '.join(shown)}{more}."


def left_out(comparison: Compared) -> Iterator[str]:
    """How many values of which groups were dropped, and how many items."""
    answers, groups = comparison.answers, comparison.groups
    noun = "values" if answers is None else "answers"
    used = {name: groups[name].n if answers is None else answers.answers[name] for name in comparison.left_out}
    counts = {name: f"{gone:,} of {used[name] + gone:,}" for name, gone in comparison.left_out.items()}
    if counts:
        shares = [f"{count} {noun} of {name}" for name, count in counts.items()]
        if len(set(counts.values())) == 1 and len(counts) == len(groups) > 1:
            shares = [f"{next(iter(counts.values()))} {noun} of each group"]
        more = len(shares) - MOST_SHOWN
        rest = f" and of {more} more groups" if more > 0 else ""
        yield f"Left out because of missing values: {', '.join(shares[:MOST_SHOWN])}{rest}."
    if answers is not None and answers.items_left_out:
        total = max(group.n for group in groups.values()) + answers.items_left_out
        yield (
            f"Left out: {answers.items_left_out:,} of {total:,} items, to which a group has fewer than {answers.k} "
            f"{'answer' if answers.k == 1 else 'answers'}."
        )


def _finding_of_test(comparison: Compared, judged: JudgedTest) -> str:
    test, p, adjusted = judged.result, judged.result.p_value, ""
    if judged.p_adjusted is not None:
        p = judged.p_adjusted
        adjusted = " (not adjusted)" if comparison.correction == "none" else f" ({comparison.correction}-adjusted)"
    effect, name, level = "", test.estimate_name, percent(test.confidence_level)
    if test.effect_size_name is not None and test.effect_size_interval is not None:
        if estimates_effect(test):
            name = EFFECT_LABELS[test.effect_size_name]
        else:
            ends = format_interval(test.effect_size_interval)
            effect = f"{effect_text(test.effect_size_name, test.effect_size, format_number)} {ends}, "
    joint = joint_after(name)
    note = test.notes[0] if test.notes else None
    interval = _interval(f"{level} CI", test.confidence_interval, note, test.null_value)
    numbers = (
        f"{estimated(name, test.estimate, joint)}, {interval}, "
        f"{test.method}, {statistic(test.statistic_name, test.df, test.statistic)}, p {format_p(p)}{adjusted}, "
        f"{effect}n = {counts(comparison, test)}"
    )
    measure = measured(comparison)
    if len(test.groups) > 2:
        spread = " in spread" if test.test in _OF_SPREAD else ""
        differ = f"differ{spread}" if judged.significant else f"could not be told apart{spread}"
        return f"The {len(test.groups)} groups {', '.join(test.groups)} {differ}{measure}: {numbers}."
    first, *others = test.groups
    second = others[0] if others else f"the reference {format_number(test.null_value)}"
    found = found_by(judged)
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


class Found(NamedTuple):
    """What is needed to say in which direction two groups differ, if the test has one."""

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
        if not self.direction:
            return f"{first} and {second} differ{spread}{measure}"
        return f"{first} is {'higher' if self.direction > 0 else 'lower'}{spread} than {second}{measure}"

    def _association(self, first: str, second: str) -> str:
        apart = self.alternative == "less" or (self.significant and self.sign < 0)
        if self.significant:
            return f"{first} and {second} go {'in opposite directions' if apart else 'together'}"
        return f"{first} and {second} were not shown to go {'in opposite directions' if apart else 'together'}"

    @property
    def direction(self) -> int:
        """1 if the first group is shown to be higher, -1 if lower, 0 if neither is shown or the test cannot say."""
        if not self.significant or self.effect_name in _ASSOCIATIONS | _WITHOUT_DIRECTION:
            return 0
        return self.sign

    @property
    def sign(self) -> int:
        """The sign of the estimate, which the test is about; that of the effect size if the estimate has none."""
        if self.estimate != self.null_value:
            return 1 if self.estimate > self.null_value else -1
        neutral = 1.0 if self.effect_name in RATIOS else 0.5 if self.effect_name == "common_language" else 0.0
        if self.effect is None:
            return 0
        return (self.effect > neutral) - (self.effect < neutral)


def found_by(judged: JudgedTest) -> Found:
    """What a test of one or two groups found."""
    test = judged.result
    return Found(
        test.effect_size_name,
        test.effect_size,
        test.estimate,
        test.null_value,
        test.alternative,
        judged.significant,
        spread=test.test in _OF_SPREAD,
    )


def joint_after(name: str) -> str:
    """What stands between the name of a number and the number: ` = ` where a blank would run the two together."""
    return " = " if name in EFFECT_LABELS.values() or name[-1:].isdigit() else " "


def _finding_of_family(comparison: Compared, family: FamilyResult) -> str:
    head = f"{family_head(comparison, family)} ({family.method}, {adjusted(family)}{shared_counts(comparison, family)})"
    apart = [pair for pair in family.comparisons if pair.significant]
    sentences = [
        _pair_sentence(comparison, family, pair)
        for pair in (*apart, *(p for p in family.comparisons if not p.significant))
    ]
    more = f"; and {len(sentences) - MOST_SHOWN} more" if len(sentences) > MOST_SHOWN else ""
    return " ".join([f"{head}: {'; '.join(sentences[:MOST_SHOWN])}{more}.", *not_tested(family.untested)])


def family_head(comparison: Compared, family: FamilyResult) -> str:
    """`2 of 3 comparisons with a in accuracy show a difference`."""
    apart = sum(pair.significant for pair in family.comparisons)
    related = any(pair.effect_size_name in _ASSOCIATIONS for pair in family.comparisons)
    against = f" with {family.control}" if family.control else ""
    return (
        f"{apart} of {family.size} comparisons{against}{measured(comparison)} "
        f"{'shows' if apart == 1 else 'show'} {'an association' if related else 'a difference'}"
    )


def adjusted(family: FamilyResult) -> str:
    level = percent(family.confidence_level)
    if family.correction == "none":
        return f"not adjusted for their number, {level} CIs one by one"
    return f"adjusted by {_adjuster(family)}, {level} simultaneous CIs"


def _adjuster(family: FamilyResult) -> str:
    return f"the {family.correction}" if " " in family.correction else family.correction


def found_of_pair(comparison: Compared, family: FamilyResult, pair: PairResult) -> Found:
    """What a family found of one of its pairs."""
    return Found(
        pair.effect_size_name,
        pair.effect_size,
        pair.estimate,
        family.null_value,
        comparison.alternative,
        pair.significant,
        spread=pair.effect_size_name == "variance_ratio",
    )


def _pair_sentence(comparison: Compared, family: FamilyResult, pair: PairResult) -> str:
    found = found_of_pair(comparison, family, pair)
    name = family.estimate_name
    joint = joint_after(name)
    interval = _interval("CI", pair.confidence_interval, pair.note, family.null_value)
    numbers = f"{estimated(name, pair.estimate, joint)}, {interval}"
    return f"{found.in_words(pair.first, pair.second, '')} ({numbers}, p {format_p(pair.p_adjusted)})"


def _finding_of_best(comparison: Compared, best: BestSet) -> str:
    leader = next(one for one in best.contenders if one.name == best.leader)
    others = [name for name in best.kept if name != best.leader]
    dropped = len(best.contenders) - len(best.kept)
    kept = (
        f"not told apart from it: {', '.join(others)}" if others else "every other configuration is shown to be worse"
    )
    are = "is" if dropped == 1 else "are"
    rest = f"; {dropped} of {len(best.contenders)} {are} shown to be worse than another" if dropped and others else ""
    return (
        f"{best.leader} has the best mean{measured(comparison)} ({format_number(leader.mean)}, n = {leader.n}); {kept}"
        f"{rest} ({best.method}; with {percent(1 - comparison.alpha)} confidence the best one is among those kept)."
        f"{mean_of_best(best)}"
    )


def mean_of_best(best: BestSet) -> str:
    """What the mean of the leader is likely to be, as a further sentence; empty if it has no interval."""
    if best.mean is None:
        return ""
    return (
        f" The mean of {best.leader} is likely {'lower' if best.higher_is_better else 'higher'} than it looks, because "
        f"the best of {best.mean.picked_from} was picked: {percent(best.mean.confidence_level)} CI for the mean of the "
        f"one that came out best {format_interval(best.mean.interval)}."
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
        f"Over {ranking.blocks} data sets {first} has the best mean rank{measured(comparison)} "
        f"({format_number(ranking.mean_ranks[0])}); {said}{rest} (Friedman chi-square({format_number(df)}) = "
        f"{format_number(statistic)}, p {format_p(p)}; {ruler})."
    )


def _finding_of_preferences(comparison: Compared, preferences: Preferences) -> str:
    family, measure = comparison.comparisons, measured(comparison)
    assert family is not None
    level = percent(family.confidence_level)
    of = f"{preferences.n:,} comparisons{judged_by(preferences)}"
    if family.size == 1:
        (pair,), (counts,) = family.comparisons, preferences.pairs
        name = rate_of(pair)[0]
        wins, losses, sign = counts.wins, counts.losses, 1.0
        if name == pair.second:
            wins, losses, sign = losses, wins, -1.0
        tested = statistic(family.statistic_name, pair.df, sign * pair.statistic)
        said = [
            f"{preferred(pair)}{measure}: {win_rate(pair, f'{level} CI')}, {tested}, p {format_p(pair.p_value)}; "
            f"{name} has {wins:,} wins, {counts.ties:,} ties and {losses:,} losses in {of}."
        ]
    else:
        apart = sorted(family.comparisons, key=lambda pair: not pair.significant)
        pairs = [
            f"{preferred(pair)} ({win_rate(pair, 'CI')}, p {format_p(pair.p_adjusted)})" for pair in apart[:MOST_SHOWN]
        ]
        more = f"; and {len(apart) - MOST_SHOWN} more" if len(apart) > MOST_SHOWN else ""
        how = f"{family.method}, {adjusted(family)}; {of}"
        said = [f"{preference_head(comparison, family)} ({how}): {'; '.join(pairs)}{more}."]
        strong = [arm for arm in preferences.arms if arm.strength is not None]
        if strong:
            order = ", ".join(f"{arm.name} {format_number(arm.strength or 0.0)}" for arm in strong[:MOST_SHOWN])
            rest = f" and {len(strong) - MOST_SHOWN} more" if len(strong) > MOST_SHOWN else ""
            against = preferences.reference or "their mean"
            said.append(f"Bradley-Terry strengths as log odds against {against}: {order}{rest}.")
    said += [f"{arm.reason}." for arm in preferences.arms if arm.reason is not None][:MOST_SHOWN]
    return " ".join([*said, *preference_caveats(comparison, preferences)])


def preference_caveats(comparison: Compared, preferences: Preferences) -> Iterator[str]:
    """A position bias that is shown, what could not be compared, and what was left out."""
    bias = preferences.position
    if bias is not None and not bias.interval[0] <= 0.5 <= bias.interval[1]:
        yield (
            f"Position bias: the arm shown first has a win rate of {format_number(bias.rate)}, CI "
            f"{format_interval(bias.interval)}, where both orders count alike."
        )
    family = comparison.comparisons
    yield from not_tested((*(family.untested if family is not None else ()), *comparison.untested))
    if preferences.left_out:
        total = preferences.n + preferences.left_out
        yield f"Left out because no winner is given: {preferences.left_out:,} of {total:,} comparisons."


def preferred(pair: PairResult) -> str:
    """`a is preferred to b`, if that is shown."""
    if not pair.significant:
        return f"{pair.first} and {pair.second} could not be told apart"
    better, other = (pair.first, pair.second) if pair.estimate > 0.5 else (pair.second, pair.first)
    return f"{better} is preferred to {other}"


def rate_of(pair: PairResult) -> tuple[str, float, Interval]:
    """The win rate of the preferred arm of a pair, or of the first if none is shown to be, by its name."""
    low, high = pair.confidence_interval
    if pair.significant and pair.estimate < 0.5:
        return pair.second, 1.0 - pair.estimate, (1.0 - high, 1.0 - low)
    return pair.first, pair.estimate, (low, high)


def win_rate(pair: PairResult, interval: str) -> str:
    name, rate, ends = rate_of(pair)
    return f"win rate of {name} {format_number(rate)}, {interval} {format_interval(ends)}"


def preference_head(comparison: Compared, family: FamilyResult) -> str:
    """`2 of 3 pairs show a preference`."""
    apart = sum(pair.significant for pair in family.comparisons)
    against = f" with {family.control}" if family.control else ""
    shows = "shows" if apart == 1 else "show"
    return f"{apart} of {family.size} pairs{against} {shows} a preference{measured(comparison)}"


def judged_by(preferences: Preferences) -> str:
    """` of 150 items by 2 judges`, as far as they are named."""
    items = "" if preferences.items is None else f" of {preferences.items:,} items"
    count = len(preferences.judges)
    return items + ("" if not count else f" by {preferences.judges[0]}" if count == 1 else f" by {count:,} judges")


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


def measured(comparison: Compared) -> str:
    """` in accuracy`, ` in the 95th percentile of latency`."""
    if comparison.quantile is not None:
        of = f" of {comparison.measure}" if comparison.measure else ""
        return f" in the {percentile(comparison.quantile)}{of}"
    return f" in {comparison.measure}" if comparison.measure else ""


def _interval(what: str, interval: Interval, note: str | None, null_value: float) -> str:
    """An interval with its name; or a note that there is none, and why."""
    if is_open(interval, null_value):
        return f"no interval ({note})" if note else "no interval"
    return f"{what} {format_interval(interval)}"


def estimates_effect(test: TestResult | PairResult) -> bool:
    """Whether the estimate is itself the effect size, so that the effect size's numbers would add nothing.

    For a difference of proportions, the estimate's interval says enough, even where it is one-sided.
    """
    same = (test.estimate, test.confidence_interval) == (test.effect_size, test.effect_size_interval)
    return same or test.effect_size_name == "risk_difference"


def effect_text(name: EffectSizeName | None, value: float | None, write: Callable[[float], str] = format_effect) -> str:
    """`Cohen's d = 0.50`; a dash if there is none."""
    return "–" if name is None or value is None else f"{EFFECT_LABELS[name]} = {write(value)}"


def counts(comparison: Compared, test: TestResult) -> str:
    if comparison.paired and comparison.design != "clustered":
        return f"{test.n[0]:,} {comparison.replicate}"
    if len(test.n) == 1:
        return f"{test.n[0]:,}"
    counts = " and ".join(map(format_number, test.n)) if len(set(test.n)) > 1 else f"{test.n[0]:,} per group"
    return f"{counts}{_PARTS.get(comparison.design, '')}"


_PARTS: Final[Mapping[Design, str]] = MappingProxyType({"clustered": ", in clusters", "stratified": ", in strata"})


def shared_counts(comparison: Compared, family: FamilyResult) -> str:
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


def statistic(name: str, df: Sequence[float], value: float, *, short: bool = False) -> str:
    degrees = f"({', '.join(format_number(one, 3 if short else 4) for one in df)})" if df else ""
    number = format_effect(value) if short and not value.is_integer() else format_number(value)
    return f"{name}{degrees} = {number}" if name else f"{number}{f' {degrees}' if df else ''}"


def percent(share: float) -> str:
    short = f"{100 * share:.4g}"
    return f"{100 * share:.6g}%" if short == "100" else f"{short}%"

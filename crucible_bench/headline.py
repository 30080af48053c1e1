"""What a comparison found in one line, and in another how it was found."""

from __future__ import annotations

from crucible_bench.compared import BestSet, Compared, FamilyResult, JudgedTest
from crucible_bench.finding import (
    Found,
    adjusted,
    bayesian,
    counts,
    effect_text,
    estimates_effect,
    family_head,
    found_by,
    found_of_pair,
    joint_after,
    judged_by,
    labelled,
    left_out,
    mean_of_best,
    measured,
    not_tested,
    percent,
    preference_caveats,
    preference_head,
    preferred,
    rate_of,
    shared_counts,
    statistic,
)
from crucible_bench.numbers import format_effect, format_number, format_p, rounded
from crucible_bench.result import Interval, is_open

__all__ = ["headline", "method"]

MOST_PAIRS = 3
MOST_NAMES = 6


def headline(comparison: Compared) -> str:
    """The finding in one line, with as many digits as its interval justifies: `a beats b by 0.10, 95% CI 0.07 to 0.13.`

    One group beats another where the declaration gives a direction a meaning: with a margin, or with
    `higher_is_better: false`. Otherwise it is higher or lower.
    """
    if comparison.best is not None and comparison.study == "sweep":
        return _of_best(comparison, comparison.best)
    if (ranking := comparison.ranking) is not None:
        first = ranking.groups[0]
        alike = {name for clique in ranking.cliques if first in clique for name in clique} - {first}
        named = _names([name for name in ranking.groups if name in alike])
        rest = f"not told apart from it: {named}" if alike else "told apart from every other one"
        mean = format_number(ranking.mean_ranks[0], 3)
        return f"{first} has the best mean rank{measured(comparison)}, {mean} over {ranking.blocks} data sets; {rest}."
    if comparison.preferences is not None and comparison.comparisons is not None:
        return _of_preferences(comparison, comparison.comparisons)
    if comparison.comparisons is not None:
        found = _of_family(comparison, comparison.comparisons)
    else:
        found = f"{_of_test(comparison, comparison.judged[0])}."
    return found if comparison.best is None else f"{found} {_of_best(comparison, comparison.best)}"


def _of_best(comparison: Compared, best: BestSet) -> str:
    leader = next(one for one in best.contenders if one.name == best.leader)
    others = [name for name in best.kept if name != leader.name]
    rest = f"not told apart from it: {_names(others)}" if others else "every other one is shown to be worse"
    return f"{leader.name} has the best mean{measured(comparison)}, {format_number(leader.mean, 3)}; {rest}."


def method(comparison: Compared) -> str:
    """How the headline was found: the test with its numbers, or how the pairs were judged together.

    Then the Bayesian statements, what was declared and could not be tested, and how many values were left out.
    """
    if (preferences := comparison.preferences) is not None and comparison.comparisons is not None:
        how = _capital(comparison.comparisons.method)
        if comparison.comparisons.size > 1:
            how += f", {adjusted(comparison.comparisons)}"
        of = f"{preferences.n:,} comparisons{judged_by(preferences)}"
        return " ".join([f"{how}; {of}.", *preference_caveats(comparison, preferences)])
    return " ".join(
        [_method(comparison), *bayesian(comparison), *not_tested(comparison.untested), *left_out(comparison)]
    )


def _method(comparison: Compared) -> str:
    if comparison.best is not None and comparison.study == "sweep":
        sure = percent(1 - comparison.alpha)
        kept = f"{_capital(comparison.best.method)}; with {sure} confidence the best one is among those kept."
        return f"{kept}{mean_of_best(comparison.best)}"
    if (ranking := comparison.ranking) is not None:
        value, df, p = ranking.friedman
        ruler = "Wilcoxon tests with Holm's correction"
        if ranking.critical_difference is not None:
            ruler = f"critical difference {format_number(ranking.critical_difference, 3)}"
        return f"{statistic('Friedman chi-square', (df,), value, short=True)}, p {format_p(p)}; {ruler}."
    if (family := comparison.comparisons) is not None:
        return f"{_capital(family.method)}, {adjusted(family)}{shared_counts(comparison, family)}."
    test, p_adjusted, _ = comparison.judged[0]
    corrected = "" if p_adjusted is None or comparison.correction == "none" else f" ({comparison.correction}-adjusted)"
    p = test.p_value if p_adjusted is None else p_adjusted
    parts = [f"{statistic(test.statistic_name, test.df, test.statistic, short=True)}, p {format_p(p)}{corrected}"]
    if test.effect_size_interval is not None and not estimates_effect(test):
        ends = ", ".join(map(format_effect, test.effect_size_interval))
        parts.append(f"{effect_text(test.effect_size_name, test.effect_size)} [{ends}]")
    return f"{_capital(test.method)}: {', '.join(parts)}, n = {counts(comparison, test)}."


def _of_test(comparison: Compared, judged: JudgedTest) -> str:
    test = judged.result
    name = labelled(test.estimate_name)
    level = f"{percent(test.confidence_level)} CI "
    if len(test.groups) > 2:
        differ = "differ" if judged.significant else "could not be told apart"
        spread = " in spread" if found_by(judged).spread else ""
        value, interval = _numbers(test.estimate, test.confidence_interval, test.null_value, level)
        return (
            f"The {len(test.groups)} groups {differ}{spread}{measured(comparison)}: {_joined(name, value)}, {interval}"
        )
    first, *others = test.groups
    second = others[0] if others else f"the reference {format_number(test.null_value)}"
    ends, measure = test.confidence_interval, measured(comparison)
    return _of_two(comparison, found_by(judged), first, second, name, ends, level, measure, _margin(comparison))


def _of_family(comparison: Compared, family: FamilyResult) -> str:
    pairs = sorted(family.comparisons, key=lambda pair: not pair.significant)
    shown: list[str] = []
    margin = _margin(comparison)
    for pair in pairs[:MOST_PAIRS]:
        found = found_of_pair(comparison, family, pair)
        if pair.significant or not pairs[0].significant:
            level = "" if shown else f"{percent(family.confidence_level)} CI "
            name = labelled(family.estimate_name)
            ends = pair.confidence_interval
            shown.append(_of_two(comparison, found, pair.first, pair.second, name, ends, level, "", margin))
        else:
            against = _against_margin(comparison, pair.first, pair.second, margin)
            shown.append(f"{found.in_words(pair.first, pair.second, '')}{against}")
        if margin and shown[-1].endswith(margin):
            margin = "the margin"  # its value is given only once
    more = f"; and {len(pairs) - MOST_PAIRS} more" if len(pairs) > MOST_PAIRS else ""
    more += f"; {len(family.untested)} not tested" if family.untested else ""
    return f"{family_head(comparison, family)}: {'; '.join(shown)}{more}."


def _of_preferences(comparison: Compared, family: FamilyResult) -> str:
    pairs = sorted(family.comparisons, key=lambda pair: not pair.significant)
    shown: list[str] = []
    for pair in pairs[:MOST_PAIRS]:
        level = "" if shown else f"{percent(family.confidence_level)} CI "
        name, value, interval = rate_of(pair)
        rate, ends = _numbers(value, interval, family.null_value, level)
        measure = measured(comparison) if family.size == 1 else ""
        shown.append(f"{preferred(pair)}{measure}: win rate of {name} {rate}, {ends}")
    more = f"; and {len(pairs) - MOST_PAIRS} more" if len(pairs) > MOST_PAIRS else ""
    head = "" if family.size == 1 else f"{preference_head(comparison, family)}: "
    return f"{head}{'; '.join(shown)}{more}."


def _of_two(
    comparison: Compared,
    found: Found,
    first: str,
    second: str,
    name: str,
    interval: Interval,
    level: str,
    measure: str,
    margin: str,
) -> str:
    against = _against_margin(comparison, first, second, margin)
    is_difference = ("difference" in name or "shift" in name) and "rank" not in name
    words = found.in_words(first, second, measure)
    has_direction = is_difference or (comparison.scale == "log" and "ratio" in name and not found.spread)
    if has_direction and found.direction and (comparison.verdicts or not comparison.higher_is_better):
        good, bad = (first, second) if (found.direction > 0) == comparison.higher_is_better else (second, first)
        words = f"{good} beats {bad}{measure}"
    if not (is_difference and found.direction and found.estimate and found.null_value == 0.0):
        value, ends = _numbers(found.estimate, interval, found.null_value, level)
        return f"{words}: {_joined(name, value)}, {ends}{against}"
    size = interval if found.estimate > 0 else (-interval[1], -interval[0])
    by, ends = _numbers(abs(found.estimate), size, 0.0, level)
    return f"{words} by {by}, {ends}{against}"


def _margin(comparison: Compared) -> str:
    return f"the margin of {format_number(comparison.verdicts[0].margin)}" if comparison.verdicts else ""


def _against_margin(comparison: Compared, first: str, second: str, margin: str) -> str:
    verdict = next((one for one in comparison.verdicts if one.groups == (first, second)), None)
    if verdict is None:
        return ""
    match verdict.verdict:
        case "equivalent":
            return f", equivalent within {margin}"
        case "inconclusive":
            return f", inconclusive against {margin}"
        case "non_inferior":
            return f", not worse by {margin}"
    low, high = verdict.confidence_interval
    return f", {'more' if max(low, -high) > verdict.margin else 'perhaps less'} than {margin}"


def _numbers(value: float, interval: Interval, null_value: float, level: str) -> tuple[str, str]:
    if is_open(interval, null_value):
        return format_number(value, 3), "no interval"
    shown, low, high = rounded(value, interval, null_value)
    return shown, f"{level}{low} to {high}"


def _joined(name: str, value: str) -> str:
    return f"{name}{joint_after(name)}{value}"


def _names(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

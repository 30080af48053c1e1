"""The section of a report about a comparison: pictures, tables, and what was assumed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from crucible_bench.compared import (
    BayesianResult,
    BestSet,
    FamilyResult,
    MarginResult,
    PositionBias,
    Preferences,
    PreferredPair,
    Ranking,
    Verdict,
)
from crucible_bench.comparison import Comparison
from crucible_bench.effect_sizes.interpretation import interpret
from crucible_bench.finding import effect_text, estimates_effect, labelled, percent, probability, statistic
from crucible_bench.numbers import format_effect, format_number, format_p
from crucible_bench.plots.numbers import interval_ends, interval_text, length_of, numerals, ratios
from crucible_bench.result import Interval, TestResult, is_open
from crucible_bench.vocabulary import EffectSizeName
from crucible_bench.wording import percentile
from crucible_core.report.comparison_pictures import comparison_pictures
from crucible_core.report.document import Block, Items, Paragraph, Section, Table

__all__ = ["comparison_section", "unread_section"]

VERDICTS: Mapping[Verdict, str] = {
    "better": "better",
    "equivalent": "equivalent",
    "inconclusive": "inconclusive",
    "non_inferior": "not worse by the margin",
    "worse": "worse",
}


def comparison_section(name: str, comparison: Comparison) -> Section:
    """How the answer was found, the differences, the groups, the verdicts, and what was assumed."""
    preferences = comparison.preferences
    groups = _groups_table(comparison) if preferences is None else _strengths_table(comparison, preferences)
    if comparison.best is not None:
        groups = _contenders_table(groups, comparison.best)
    blocks: list[Block] = [Paragraph(comparison.method), *_results(comparison), groups]
    # The differences first; the other pictures after the tables that have their numbers.
    pictures = list(comparison_pictures(comparison))
    blocks[1:1] = pictures[:1]
    blocks += pictures[1:]
    if comparison.ranking is not None:
        blocks.append(_ranks_table(comparison.ranking))
    if preferences is not None and preferences.judged and len(preferences.judges) > 1:
        blocks.append(_judges_table(preferences))
    blocks.append(Items(tuple(dict.fromkeys(_settings(comparison)))))
    if comparison.checks:
        blocks.append(
            Paragraph("Checks of assumptions, for information only: they had no influence on the choice of a test.")
        )
        blocks.append(Items(comparison.checks))
    if comparison.dropped:
        blocks.append(Paragraph(f"Left out, as declared, because of missing values ({len(comparison.dropped)}):"))
        blocks.append(Items(comparison.dropped[:20]))
    return Section("Comparison" if name == "bench" else f"Comparison: {name}", tuple(blocks))


def unread_section(name: str, reason: str) -> Section:
    """The section in place of a comparison that cannot be read."""
    return Section(f"Comparison: {name}", (Paragraph(reason),))


def _settings(comparison: Comparison) -> Iterator[str]:
    level = f"alpha = {format_number(comparison.alpha)}"
    if comparison.p_adjusted is not None:
        adjusted = "not adjusted" if comparison.correction == "none" else f"adjusted by {comparison.correction}"
        level += f"; {comparison.family_size} tests, p-values {adjusted}"
    family = comparison.comparisons
    if family is not None and family.size > 1:
        adjusted = "not adjusted" if family.correction == "none" else f"adjusted by {family.correction}"
        level += f"; a family of {family.size} comparisons, {adjusted}"
    yield level
    if (made := comparison.answers) is not None:
        each = f"{made.most:,}" if made.fewest == made.most else f"{made.fewest:,} to {made.most:,}"
        yield f"each value is {made.name} of an item's {each} answers"
    if comparison.scale == "log":
        yield "scale: log; everything is computed from the logarithms, and differences are shown as ratios"
    yield from (
        f"groups: {choice.decision}; {choice.reasoning}" for about, choice in comparison.choices if about == "groups"
    )
    several = len(comparison.tests) + (family is not None) + (comparison.best is not None) > 1
    for test, _, significant in comparison.judged:
        yield from (f"{test.test}: {line}" if several else line for line in (*test.assumptions, *test.notes))
        yield from (f"{test.test}: {line}" if several else line for line in _words_for(test, significant))
    if family is not None:
        yield from (f"{family.method}: {line}" if several else line for line in (*family.assumptions, *family.notes))
    if comparison.preferences is not None:
        yield from _of_preferences(comparison.preferences)
    if comparison.best is not None:
        mean = comparison.best.mean
        lines = (*comparison.best.assumptions, *comparison.best.notes, *(mean.notes if mean else ()))
        yield from (f"{comparison.best.method}: {line}" if several else line for line in lines)
    if comparison.ranking is not None:
        yield from comparison.ranking.notes
    for verdict in comparison.verdicts:
        yield from (f"{' - '.join(verdict.groups)}: {note}" for note in verdict.notes)
    for one in comparison.bayesian:
        yield from (f"Bayesian {one.method}: {line}" for line in (*one.assumptions, *one.notes))
    for lost in comparison.untested:
        yield f"{' - '.join(lost.groups)}: not tested by {lost.test}: {lost.reason}"


def _of_preferences(preferences: Preferences) -> Iterator[str]:
    yield f"strengths: {preferences.method}"
    yield from preferences.notes
    yield from (arm.reason for arm in preferences.arms if arm.reason is not None)
    if preferences.position is not None:
        yield _position(preferences.position)


def _words_for(test: TestResult, significant: bool) -> Iterator[str]:
    """The convention's word for an effect that is shown to be there."""
    if significant and test.effect_size_name is not None and test.effect_size is not None:
        word = interpret(test.effect_size_name, test.effect_size)
        if word is not None:
            effect = effect_text(test.effect_size_name, test.effect_size)
            yield f"{effect} is {word.word} by the convention of {word.source}"


def _groups_table(comparison: Comparison) -> Table:
    groups = comparison.groups
    intervals = any(group.mean_interval for group in groups.values())
    binary = comparison.outcome == "binary"
    numbers = [value for group in groups.values() for value in (group.mean, group.median, *(group.mean_interval or ()))]
    lengths = [length_of(*group.mean_interval) for group in groups.values() if group.mean_interval]
    write = numerals(numbers, lengths=[*lengths, *(group.sd for group in groups.values() if group.sd)])
    log = comparison.scale == "log"
    mean = "share" if binary else "geometric mean" if log else "mean"
    shown = f"{mean} [{percent(comparison.confidence_level)} CI]" if intervals else mean
    columns = (
        ("group", "n", "true", shown) if binary else ("group", "n", shown, "geometric sd" if log else "sd", "median")
    )
    if comparison.design == "stratified":
        columns = (*columns[:2], f"interquartile mean [{percent(comparison.confidence_level)} CI]", *columns[2:])
    if comparison.quantile is not None:
        own = f" [{percent(comparison.confidence_level)} CI]" if comparison.design == "independent" else ""
        columns = (*columns[:2], f"{percentile(comparison.quantile)}{own}", *columns[2:])
    rows = []
    for name, group in groups.items():
        cells = [_with_interval(group.mean, group.mean_interval, write)]
        if binary:
            cells.insert(0, f"{round(group.mean * group.n):,}")
        else:
            cells += ["–" if group.sd is None else write(group.sd), write(group.median)]
        if (iqm := comparison.iqm.get(name)) is not None:
            cells.insert(0, _with_interval(iqm.value, iqm.interval, write))
        if (quantile := comparison.quantiles.get(name)) is not None:
            cells.insert(0, _with_interval(quantile.value, quantile.interval, write))
        rows.append((name, f"{group.n:,}", *cells))
    return Table(columns, tuple(rows), frozenset(columns[1:]))


class _Pair(NamedTuple):
    """What a row of results says of two groups: the first minus the second, or their ratio."""

    groups: tuple[str, ...]
    estimate: float
    interval: Interval


def _results(comparison: Comparison) -> Iterator[Table]:
    """The tests, the pairs, and the verdicts against the margin, as further columns where the numbers are the same."""
    family, judged = comparison.comparisons, comparison.judged
    pairs = []
    if family is not None:
        pairs = [_Pair((one.first, one.second), one.estimate, one.confidence_interval) for one in family.comparisons]
    elif len(judged) == 1:
        test = judged[0].result
        pairs = [_Pair(test.groups, test.estimate, test.confidence_interval)]
    margins = _margin_columns(comparison, pairs)
    if judged:
        tests = _tests_table(comparison)
        yield tests if family is not None or margins is None else _beside(tests, margins)
    if family is not None and comparison.preferences is not None:
        yield _preferences_table(family, comparison.preferences)
    elif family is not None:
        yield _pairs_table(family) if margins is None else _beside(_pairs_table(family), margins)
    if comparison.verdicts and margins is None:
        yield _verdicts_table(comparison)
    if comparison.bayesian:
        yield _bayesian_table(comparison.bayesian)


def _beside(left: Table, right: Table) -> Table:
    """The two tables as one; rows that the right one lacks, as for a pair that was not tested, have dashes there."""
    no_row = ("–",) * len(right.columns)
    rows = tuple((*one, *other) for one, other in itertools.zip_longest(left.rows, right.rows, fillvalue=no_row))
    return Table((*left.columns, *right.columns), rows, left.numeric | right.numeric)


def _margin_columns(comparison: Comparison, pairs: Sequence[_Pair]) -> Table | None:
    """A verdict per pair; None where verdicts have other pairs, estimates or intervals than the rows."""
    verdicts: dict[tuple[str, ...], MarginResult] = {one.groups: one for one in comparison.verdicts}
    found = [verdict for pair in pairs if (verdict := verdicts.get(pair.groups)) and _is_same(pair, verdict)]
    if not found or not len(found) == len(pairs) == len(verdicts):
        return None
    write = _writer([(one.estimate, one.equivalence_interval) for one in found])
    level = percent(1 - 2 * found[0].alpha)
    columns = (f"{level} equivalence CI", f"against the margin of {format_number(found[0].margin)}")
    rows = [(_interval(one.equivalence_interval, write), VERDICTS[one.verdict]) for one in found]
    if all(one.verdict != "inconclusive" for one in found):
        return Table(columns, tuple(rows))
    more = (*columns, f"more {comparison.replicate} to decide")
    return Table(more, tuple((*row, _more(one)) for row, one in zip(rows, found, strict=True)))


def _is_same(pair: _Pair, verdict: MarginResult) -> bool:
    ours, theirs = (pair.estimate, *pair.interval), (verdict.estimate, *verdict.confidence_interval)
    return all(math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12) for one, other in zip(ours, theirs, strict=True))


def _tests_table(comparison: Comparison) -> Table:
    judged = comparison.judged
    adjusted = comparison.p_adjusted is not None
    level = f"[{percent(judged[0].result.confidence_level)} CI]"
    # One test's estimate names its column; of several tests each may have another one.
    named = labelled(judged[0].result.estimate_name) if len(judged) == 1 else None
    columns = ["test", f"{named or 'estimate'} {level}", "statistic", "p", "effect size", "verdict"]
    if adjusted:
        columns.insert(4, "p adjusted")
    rows = []
    for test, p_adjusted, significant in judged:
        write = _writer([(test.estimate, test.confidence_interval)], test.null_value)
        estimate = _with_interval(test.estimate, test.confidence_interval, write)
        rows.append(
            (
                test.method,
                estimate if named else f"{labelled(test.estimate_name)}: {estimate}",
                statistic(test.statistic_name, test.df, test.statistic, short=True),
                *(format_p(p).removeprefix("= ") for p in (test.p_value, p_adjusted) if p is not None),
                "the estimate"
                if estimates_effect(test)
                else _effect(test.effect_size_name, test.effect_size, test.effect_size_interval),
                "significant" if significant else "not significant",
            )
        )
    return Table(tuple(columns), tuple(rows), frozenset({"p", "p adjusted"}))


def _pairs_table(family: FamilyResult) -> Table:
    simultaneous = "" if family.correction == "none" else "simultaneous "
    columns = (
        "first / second" if family.null_value == 1.0 else "first – second",
        f"{labelled(family.estimate_name)} [{percent(family.confidence_level)} {simultaneous}CI]",
        family.statistic_name,
        "p",
        "p adjusted",
        "effect size",
        "verdict",
    )
    write = _writer([(pair.estimate, pair.confidence_interval) for pair in family.comparisons], family.null_value)
    rows: tuple[tuple[str, ...], ...] = tuple(
        (
            f"{pair.first} – {pair.second}",
            _with_interval(pair.estimate, pair.confidence_interval, write),
            statistic("", pair.df, pair.statistic, short=True),
            format_p(pair.p_value).removeprefix("= "),
            format_p(pair.p_adjusted).removeprefix("= "),
            "the estimate"
            if estimates_effect(pair)
            else _effect(pair.effect_size_name, pair.effect_size, pair.effect_size_interval),
            f"{'significant' if pair.significant else 'not significant'}{f': {pair.note}' if pair.note else ''}",
        )
        for pair in family.comparisons
    )
    rows += tuple(
        (" – ".join(one.groups), *("–" for _ in columns[2:]), f"not tested: {one.reason}") for one in family.untested
    )
    return Table(columns, rows, frozenset({"p", "p adjusted"}))


def _preferences_table(family: FamilyResult, preferences: Preferences) -> Table:
    simultaneous = "" if family.correction == "none" else "simultaneous "
    columns = [
        "first – second", "wins", "ties", "losses",
        f"{family.estimate_name} [{percent(family.confidence_level)} {simultaneous}CI]", "p", "p adjusted", "verdict",
    ]  # fmt: skip
    if family.size == 1:
        columns.remove("p adjusted")
    write = _writer([(pair.estimate, pair.confidence_interval) for pair in family.comparisons], family.null_value)
    counted = {(pair.first, pair.second): pair for pair in preferences.pairs}
    rows = []
    for pair in family.comparisons:
        ps = (pair.p_value, pair.p_adjusted) if family.size > 1 else (pair.p_value,)
        rows.append(
            (
                f"{pair.first} – {pair.second}",
                *_outcomes(counted[pair.first, pair.second]),
                _with_interval(pair.estimate, pair.confidence_interval, write),
                *(format_p(p).removeprefix("= ") for p in ps),
                "significant" if pair.significant else "not significant",
            )
        )
    for one in family.untested:
        outcomes = _outcomes(counted[one.groups[0], one.groups[1]])
        rows.append((" – ".join(one.groups), *outcomes, "–", "–", "–", f"not tested: {one.reason}"))
    return Table(tuple(columns), tuple(rows), frozenset({"wins", "ties", "losses", "p", "p adjusted"}))


def _outcomes(pair: PreferredPair) -> tuple[str, str, str]:
    return f"{pair.wins:,}", f"{pair.ties:,}", f"{pair.losses:,}"


def _strengths_table(comparison: Comparison, preferences: Preferences) -> Table:
    """Every arm over all its comparisons, the strongest first."""
    level = f"[{percent(preferences.confidence_level)} CI]"
    against = "the mean" if preferences.reference is None else preferences.reference
    write = numerals(
        [end for arm in preferences.arms for end in (arm.strength, *(arm.interval or ())) if end is not None]
    )
    rates = _writer([(one.mean, one.mean_interval) for one in comparison.groups.values() if one.mean_interval])
    rows = []
    for arm in preferences.arms:
        group = comparison.groups[arm.name]
        strength = "–" if arm.strength is None else _with_interval(arm.strength, arm.interval, write)
        outcomes = f"{arm.wins:,}", f"{arm.ties:,}", f"{arm.losses:,}"
        rows.append((arm.name, *outcomes, _with_interval(group.mean, group.mean_interval, rates), strength))
    columns = ("arm", "wins", "ties", "losses", f"win rate {level}", f"log odds against {against} {level}")
    return Table(columns, tuple(rows), frozenset(columns[1:]))


def _judges_table(preferences: Preferences) -> Table:
    columns = (
        *("judge", "first – second", "wins", "ties", "losses"),
        f"win rate of the first [{percent(preferences.confidence_level)} CI]",
    )
    write = _writer([(pair.rate, pair.interval) for pair in preferences.judged if pair.interval])
    rows = tuple(
        (
            str(pair.judge),
            f"{pair.first} – {pair.second}",
            *_outcomes(pair),
            _with_interval(pair.rate, pair.interval, write),
        )
        for pair in preferences.judged
    )
    return Table(columns, rows, frozenset(columns[2:]))


def _position(bias: PositionBias) -> str:
    write = _writer([(bias.rate, bias.interval)])
    return (
        f"position bias: the arm shown first has a win rate of {write(bias.rate)} {_interval(bias.interval, write)} "
        f"where both orders count alike; one half is no bias ({bias.n:,} comparisons)"
    )


def _effect(name: EffectSizeName | None, value: float | None, interval: Interval | None) -> str:
    ends = "" if interval is None else f" [{', '.join(map(format_effect, interval))}]"
    return f"{effect_text(name, value)}{ends}"


def _writer(estimates: Sequence[tuple[float, Interval]], null_value: float = 0.0) -> Callable[[float], str]:
    """One precision for all estimates and ends, as in the picture beside them."""
    if null_value == 1.0:
        return ratios
    ends = [interval_ends(interval) for _, interval in estimates]
    numbers = [estimate for estimate, _ in estimates if math.isfinite(estimate)]
    numbers += [end for pair in ends for end in pair if end is not None]
    return numerals(numbers, lengths=[length_of(*pair) for pair in ends])


def _with_interval(value: float, interval: Interval | None, write: Callable[[float], str]) -> str:
    shown = write(value) if math.isfinite(value) else format_number(value)
    if interval is None:
        return shown
    return f"{shown} (no interval)" if is_open(interval) else f"{shown} {_interval(interval, write)}"


def _interval(interval: Interval, write: Callable[[float], str]) -> str:
    return interval_text(*interval_ends(interval), write)


def _verdicts_table(comparison: Comparison) -> Table:
    alpha, margin = comparison.verdicts[0].alpha, comparison.verdicts[0].margin
    write = _writer([(one.estimate, one.confidence_interval) for one in comparison.verdicts])
    columns = (
        "first – second",
        f"{'difference of proportions' if comparison.outcome == 'binary' else 'mean difference'} "
        f"[{percent(1 - alpha)} CI]",
        f"{percent(1 - 2 * alpha)} equivalence CI",
        f"against the margin of {format_number(margin)}",
        f"more {comparison.replicate} to decide",
    )
    rows = tuple(
        (
            " – ".join(verdict.groups),
            _with_interval(verdict.estimate, verdict.confidence_interval, write),
            _interval(verdict.equivalence_interval, write),
            VERDICTS[verdict.verdict],
            _more(verdict),
        )
        for verdict in comparison.verdicts
    )
    return Table(columns, rows)


def _bayesian_table(statements: Sequence[BayesianResult]) -> Table:
    size = format_number(statements[0].rope)
    columns = (
        f"Bayesian {statements[0].method}",
        f"P(first better by more than {size})",
        "P(practically equal)",
        f"P(second better by more than {size})",
    )
    rows = tuple(
        (
            " – ".join(one.groups),
            *(probability(p).removeprefix("= ") for p in (one.p_first, one.p_equivalent, one.p_second)),
        )
        for one in statements
    )
    return Table(columns, rows, frozenset(columns[1:]))


def _more(verdict: MarginResult) -> str:
    if verdict.verdict != "inconclusive":
        return "–"
    return f"{verdict.more_replicates:,}" if verdict.more_replicates else "no number is enough"


def _contenders_table(groups: Table, best: BestSet) -> Table:
    """The groups in the order of their means, each with the evidence that another one is better."""
    rows = {row[0]: row for row in groups.rows}
    columns = (*groups.columns, "p that another is better", "strongest against it", "verdict")
    return Table(
        ("configuration", *columns[1:]),
        tuple(
            (
                *rows[one.name],
                format_p(one.p_value).removeprefix("= "),
                one.beaten_by or "–",
                "may be the best" if one.kept else "shown to be worse",
            )
            for one in best.contenders
        ),
        groups.numeric | {"p that another is better"},
    )


def _ranks_table(ranking: Ranking) -> Table:
    rows = tuple((name, format_number(rank)) for name, rank in zip(ranking.groups, ranking.mean_ranks, strict=True))
    return Table(("method", "mean rank"), rows, frozenset({"mean rank"}))

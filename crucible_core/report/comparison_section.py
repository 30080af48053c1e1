"""The section of a report about a comparison: pictures, tables, and what was assumed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from crucible_bench.compared import BestSet, FamilyResult, JudgedTest, MarginResult, Ranking, Verdict
from crucible_bench.comparison import Comparison
from crucible_bench.effect_sizes.interpretation import interpret
from crucible_bench.finding import effect_text, estimated, labelled, percent, statistic
from crucible_bench.numbers import format_interval, format_number, format_p
from crucible_bench.plots import (
    ForestRow,
    Picture,
    critical_difference,
    forest_plot,
    paired_lines,
    power_curve,
    strip_plot,
)
from crucible_bench.result import TestResult, is_open
from crucible_core.report.document import Block, Items, Paragraph, Section, Table
from crucible_core.values.messages import shorten

__all__ = ["comparison_section", "unread_section"]

VERDICTS: Mapping[Verdict, str] = {
    "better": "better",
    "equivalent": "equivalent",
    "inconclusive": "inconclusive",
    "non_inferior": "not worse by the margin",
    "worse": "worse",
}

MOST_LINES = 200
MOST_OF_A_NAME = 10


def comparison_section(name: str, comparison: Comparison) -> Section:
    """The groups, the tests and pairs, pictures of both, the verdicts, and what was assumed."""
    blocks: list[Block] = [_groups_table(comparison)]
    blocks += _pictures(comparison)
    if comparison.tests:
        blocks.append(_tests_table(comparison))
    if comparison.comparisons is not None:
        blocks.append(_pairs_table(comparison.comparisons))
    if comparison.verdicts:
        blocks.append(_verdicts_table(comparison))
    if comparison.best is not None:
        blocks.append(_contenders_table(comparison.best))
    if comparison.ranking is not None:
        blocks.append(_ranks_table(comparison.ranking))
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
    if family is not None:
        adjusted = "not adjusted" if family.correction == "none" else f"adjusted by {family.correction}"
        level += f"; a family of {family.size} comparisons, {adjusted}"
    yield level
    several = len(comparison.tests) + (family is not None) + (comparison.best is not None) > 1
    for test, _, significant in comparison.judged:
        yield from (f"{test.test}: {line}" if several else line for line in (*test.assumptions, *test.notes))
        yield from (f"{test.test}: {line}" if several else line for line in _words_for(test, significant))
    if family is not None:
        yield from (f"{family.method}: {line}" if several else line for line in (*family.assumptions, *family.notes))
    if comparison.best is not None:
        lines = (*comparison.best.assumptions, *comparison.best.notes)
        yield from (f"{comparison.best.method}: {line}" if several else line for line in lines)
    if comparison.ranking is not None:
        yield from comparison.ranking.notes
    for verdict in comparison.verdicts:
        yield from (f"{' - '.join(verdict.groups)}: {note}" for note in verdict.notes)
    for one in comparison.untested:
        yield f"{' - '.join(one.groups)}: not tested by {one.test}: {one.reason}"


def _words_for(test: TestResult, significant: bool) -> Iterator[str]:
    """The convention's word for an effect that is shown to be there."""
    if significant and test.effect_size_name is not None and test.effect_size is not None:
        word = interpret(test.effect_size_name, test.effect_size)
        if word is not None:
            effect = effect_text(test.effect_size_name, test.effect_size)
            yield f"{effect} is {word.word} by the convention of {word.source}"


def _groups_table(comparison: Comparison) -> Table:
    intervals = any(group.mean_interval for group in comparison.groups.values())
    columns = (
        "group",
        "n",
        "mean",
        *((f"{percent(comparison.confidence_level)} interval of the mean",) if intervals else ()),
        "sd",
        "median",
    )
    rows = []
    for name, group in comparison.groups.items():
        interval = (format_interval(group.mean_interval) if group.mean_interval else "–",) if intervals else ()
        sd = "–" if group.sd is None else format_number(group.sd)
        cells = (format_number(group.n), format_number(group.mean), *interval, sd, format_number(group.median))
        rows.append((name, *cells))
    return Table(columns, tuple(rows), frozenset({"n", "mean", "sd", "median"}))


def _tests_table(comparison: Comparison) -> Table:
    adjusted = comparison.p_adjusted is not None
    columns = (
        "test",
        "statistic",
        "p",
        *(("p adjusted",) if adjusted else ()),
        "estimate",
        "interval",
        "effect size",
        "effect interval",
        "verdict",
    )
    return Table(columns, tuple(map(_test_row, comparison.judged)), frozenset({"p", "p adjusted"}))


def _test_row(judged: JudgedTest) -> tuple[str, ...]:
    test = judged.result
    ps = [p for p in (test.p_value, judged.p_adjusted) if p is not None]
    return (
        test.method,
        statistic(test.statistic_name, test.df, test.statistic),
        *(format_p(p).removeprefix("= ") for p in ps),
        estimated(test.estimate_name, test.estimate, " = "),
        f"{percent(test.confidence_level)} {format_interval(test.confidence_interval)}",
        effect_text(test.effect_size_name, test.effect_size),
        "–" if test.effect_size_interval is None else format_interval(test.effect_size_interval),
        "significant" if judged.significant else "not significant",
    )


def _pairs_table(family: FamilyResult) -> Table:
    estimate = labelled(family.estimate_name)
    columns = (
        "first – second",
        estimate,
        f"{percent(family.confidence_level)} {'' if family.correction == 'none' else 'simultaneous '}interval",
        family.statistic_name,
        "p",
        "p adjusted",
        "effect size",
        "effect interval",
        "verdict",
    )
    rows: tuple[tuple[str, ...], ...] = tuple(
        (
            f"{pair.first} – {pair.second}",
            format_number(pair.estimate),
            format_interval(pair.confidence_interval),
            statistic("", pair.df, pair.statistic),
            format_p(pair.p_value).removeprefix("= "),
            format_p(pair.p_adjusted).removeprefix("= "),
            effect_text(pair.effect_size_name, pair.effect_size),
            "–" if pair.effect_size_interval is None else format_interval(pair.effect_size_interval),
            f"{'significant' if pair.significant else 'not significant'}{f': {pair.note}' if pair.note else ''}",
        )
        for pair in family.comparisons
    )
    rows += tuple(
        (" – ".join(one.groups), *("–" for _ in columns[2:]), f"not tested: {one.reason}") for one in family.untested
    )
    return Table(columns, rows, frozenset({estimate, "p", "p adjusted"}))


def _verdicts_table(comparison: Comparison) -> Table:
    rows = tuple(
        (
            " – ".join(verdict.groups),
            format_number(verdict.margin),
            format_number(verdict.estimate),
            format_interval(verdict.confidence_interval),
            format_interval(verdict.equivalence_interval),
            VERDICTS[verdict.verdict],
            _more(verdict),
        )
        for verdict in comparison.verdicts
    )
    alpha = comparison.verdicts[0].alpha
    columns = (
        "first – second",
        "margin",
        "mean difference",
        f"{percent(1 - alpha)} interval",
        f"{percent(1 - 2 * alpha)} equivalence interval",
        "verdict",
        f"more {comparison.replicate} to decide",
    )
    return Table(columns, rows, frozenset({"margin", "mean difference"}))


def _more(verdict: MarginResult) -> str:
    if verdict.verdict != "inconclusive":
        return "–"
    return f"{verdict.more_replicates:,}" if verdict.more_replicates else "no number is enough"


def _contenders_table(best: BestSet) -> Table:
    rows = tuple(
        (
            one.name,
            format_number(one.n),
            format_number(one.mean),
            format_p(one.p_value).removeprefix("= "),
            one.beaten_by or "–",
            "may be the best" if one.kept else "shown to be worse",
        )
        for one in best.contenders
    )
    return Table(
        ("configuration", "n", "mean", "p that another is better", "strongest against it", "verdict"),
        rows,
        frozenset({"n", "mean", "p that another is better"}),
    )


def _ranks_table(ranking: Ranking) -> Table:
    rows = tuple((name, format_number(rank)) for name, rank in zip(ranking.groups, ranking.mean_ranks, strict=True))
    return Table(("method", "mean rank"), rows, frozenset({"mean rank"}))


# --- pictures ---------------------------------------------------------------------------------------------------------


def _pictures(comparison: Comparison) -> Iterator[Picture]:
    measure = comparison.measure or "value"
    for draw in (_effects_picture, _values_picture, _pairs_picture, _ranks_picture, _power_picture):
        picture = draw(comparison, measure)
        if picture is not None:
            yield picture


class _Effects(NamedTuple):
    axis: str
    rows: list[ForestRow]
    level: float
    null_value: float


def _effects(comparison: Comparison) -> _Effects | None:
    """The pairs of the family, or else the tests that estimate the same quantity as the first one."""
    family = comparison.comparisons
    if family is not None:
        short = _shortened(comparison.groups)
        pairs = [
            ForestRow(
                f"{short[pair.first]} – {short[pair.second]}",
                pair.estimate,
                *pair.confidence_interval,
                note=_p(pair.p_adjusted),
            )
            for pair in family.comparisons
            if math.isfinite(pair.estimate) and not is_open(pair.confidence_interval)
        ]
        return (
            _Effects(labelled(family.estimate_name), pairs, family.confidence_level, family.null_value)
            if pairs
            else None
        )
    of_two = [
        one
        for one in comparison.judged
        if len(one.result.groups) == 2
        and math.isfinite(one.result.estimate)
        and not is_open(one.result.confidence_interval)
    ]
    if not of_two:
        return None
    first = of_two[0].result
    rows = [
        ForestRow(
            test.method,
            test.estimate,
            *test.confidence_interval,
            note=_p(test.p_value if p_adjusted is None else p_adjusted),
        )
        for test, p_adjusted, _ in of_two
        if test.estimate_name == first.estimate_name
    ]
    return _Effects(labelled(first.estimate_name), rows, first.confidence_level, first.null_value)


def _shortened(names: Iterable[str]) -> dict[str, str]:
    """Names short enough for a picture's margin and still distinct: without what all of them share."""
    names = list(names)
    if max(map(len, names)) <= MOST_OF_A_NAME:
        return {name: name for name in names}
    start = _shared(names)
    end = _shared([name[start:][::-1] for name in names])
    short = {}
    for name in names:
        own = name[start : len(name) - end] if end else name[start:]
        begins = start > 0
        if begins and start + len(own) <= MOST_OF_A_NAME:
            own, begins = name[:start] + own, False
        own = shorten(own, MOST_OF_A_NAME)
        short[name] = f"{'…' if begins else ''}{own}{'…' if end else ''}"
    return short if len(set(short.values())) == len(names) else {name: name for name in names}


def _shared(names: Sequence[str]) -> int:
    """How many characters all of them begin with."""
    return sum(1 for _ in itertools.takewhile(lambda each: len(set(each)) == 1, zip(*names, strict=False)))


def _effects_picture(comparison: Comparison, measure: str) -> Picture | None:
    effects = _effects(comparison)
    if effects is None:
        return None
    is_ratio = effects.null_value == 1.0
    margin = comparison.verdicts[0].margin if comparison.verdicts and effects.null_value == 0.0 else None
    about = f"{effects.axis} of {measure}" if " in " not in effects.axis and measure != "value" else effects.axis
    try:
        picture = forest_plot(
            effects.rows,
            axis=about,
            reference=effects.null_value,
            margin=margin,
            log=is_ratio,
            interval=f"{percent(effects.level)} CI",
        )
    except ValueError:
        return None  # a ratio of zero has no place on a logarithmic axis; the table has it
    if comparison.comparisons is None:
        return picture
    together = (
        "The intervals are simultaneous."
        if comparison.comparisons.correction != "none"
        else "Each interval holds by itself."
    )
    return replace(picture, caption=f"{picture.caption} {together}")


def _values_picture(comparison: Comparison, measure: str) -> Picture | None:
    groups = {name: group.values for name, group in comparison.groups.items() if group.values}
    if not groups or comparison.outcome == "binary":
        return None
    means = {
        name: (group.mean, *group.mean_interval)
        for name, group in comparison.groups.items()
        if group.values and group.mean_interval is not None
    }
    sampled = any(group.sampled for group in comparison.groups.values())
    return strip_plot(
        groups,
        measure=measure,
        means=means or None,
        interval=f"{percent(comparison.confidence_level)} CI",
        caption="Larger groups are shown by a thousand values, evenly spaced by rank." if sampled else None,
    )


def _pairs_picture(comparison: Comparison, measure: str) -> Picture | None:
    names = list(comparison.groups)
    groups = [comparison.groups[name] for name in names]
    lined_up = comparison.paired and len(names) == 2 and len(groups[0].values) == len(groups[1].values)
    if not lined_up or groups[0].sampled or not 2 <= len(groups[0].values) <= MOST_LINES:
        return None
    if comparison.outcome == "binary":
        return None
    tests = (one for one in comparison.tests if one.estimate_name.startswith("mean difference"))
    test = next((one for one in tests if not is_open(one.confidence_interval)), None)
    difference, level = None, None
    if test is not None:
        low, high = test.confidence_interval
        level = test.confidence_level
        if test.groups == (names[0], names[1]):  # the picture has the second minus the first
            difference = (-test.estimate, -high, -low)
        else:
            difference = (test.estimate, low, high)
    return paired_lines(
        names[0],
        names[1],
        list(zip(groups[0].values, groups[1].values, strict=True)),
        measure=measure,
        difference=difference,
        interval="interval" if level is None else f"{percent(level)} CI",
    )


def _ranks_picture(comparison: Comparison, _: str) -> Picture | None:
    ranking = comparison.ranking
    if ranking is None or len(ranking.groups) > 40:
        return None
    return critical_difference(
        dict(zip(ranking.groups, ranking.mean_ranks, strict=True)),
        critical_difference=ranking.critical_difference,
        cliques=ranking.cliques,
        blocks=ranking.blocks,
    )


def _power_picture(comparison: Comparison, _: str) -> Picture | None:
    planned = comparison.planned
    if planned is None or len(planned.curve) < 2:
        return None
    return power_curve(
        {f"{planned.effect_size_name} = {format_number(planned.smallest_effect)}": planned.curve},
        target=planned.wanted,
        planned=float(planned.n),
        across=f"n ({comparison.replicate})",
        caption=f"Power of the {planned.test} as planned, before there were data.",
    )


def _p(value: float) -> str:
    return f"p {format_p(value)}"

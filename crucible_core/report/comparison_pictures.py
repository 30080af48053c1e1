"""The charts of a comparison: the differences, the values, the pairs, the ranks, the planned power."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from crucible_bench.comparison import Comparison
from crucible_bench.finding import labelled, percent
from crucible_bench.numbers import format_number, format_p
from crucible_bench.plots import (
    ForestRow,
    Picture,
    critical_difference,
    forest_plot,
    paired_lines,
    power_curve,
    strip_plot,
)
from crucible_bench.plots.numbers import interval_ends
from crucible_bench.plots.picture import NARROW, WIDE
from crucible_bench.plots.strip import Mean
from crucible_bench.result import TestResult, is_open
from crucible_bench.wording import percentile
from crucible_core.report.document import PictureOfTwoWidths
from crucible_core.values.messages import shorten

__all__ = ["comparison_pictures"]

MOST_LINES = 200
MOST_OF_A_NAME = 10
NO_ENDS = (-math.inf, math.inf)


def comparison_pictures(comparison: Comparison) -> Iterator[Picture]:
    """The charts that the comparison has data for; each also drawn for a phone."""
    for draw in (_effects_picture, _values_picture, _pairs_picture, _ranks_picture, _power_picture):
        picture = draw(comparison, WIDE)
        if picture is not None:
            narrow = draw(comparison, NARROW)
            small = picture if narrow is None else narrow
            yield PictureOfTwoWidths(picture.svg, picture.alt, picture.caption, small.svg)


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
                f"{short[pair.first]}{_joint(family.null_value)}{short[pair.second]}",
                pair.estimate,
                *pair.confidence_interval,
                note=_p(pair.p_adjusted),
            )
            for pair in family.comparisons
            if math.isfinite(pair.estimate) and not is_open(pair.confidence_interval, family.null_value)
        ]
        return (
            _Effects(labelled(family.estimate_name), pairs, family.confidence_level, family.null_value)
            if pairs
            else None
        )
    of_two = [one for one in comparison.judged if _can_be_drawn(one.result)]
    if not of_two:
        return None
    first = of_two[0].result
    rows = [
        ForestRow(
            test.method if len(of_two) > 1 else _joint(test.null_value).join(test.groups),
            test.estimate,
            *test.confidence_interval,
            note=_p(test.p_value if p_adjusted is None else p_adjusted),
        )
        for test, p_adjusted, _ in of_two
        if test.estimate_name == first.estimate_name
    ]
    return _Effects(labelled(first.estimate_name), rows, first.confidence_level, first.null_value)


def _can_be_drawn(test: TestResult) -> bool:
    of_two = len(test.groups) == 2 and math.isfinite(test.estimate)
    return of_two and not is_open(test.confidence_interval, test.null_value)


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


def _effects_picture(comparison: Comparison, width: float) -> Picture | None:
    effects = _effects(comparison)
    if effects is None:
        return None
    is_ratio = effects.null_value == 1.0
    margin = comparison.verdicts[0].margin if comparison.verdicts and effects.null_value == 0.0 else None
    of_measure = f" of {comparison.measure}" if comparison.measure and " in " not in effects.axis else ""
    try:
        picture = forest_plot(
            effects.rows,
            axis=f"{effects.axis}{of_measure}",
            reference=effects.null_value,
            margin=margin,
            log=is_ratio,
            interval=f"{percent(effects.level)} CI",
            width=width,
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


def _values_picture(comparison: Comparison, width: float) -> Picture | None:
    groups = {name: group.values for name, group in comparison.groups.items() if group.values}
    if not groups or comparison.outcome == "binary":
        return None
    means: dict[str, Mean] = {
        name: (group.mean, *group.mean_interval)
        for name, group in comparison.groups.items()
        if group.values and group.mean_interval is not None
    }
    average = "geometric mean" if comparison.scale == "log" else "mean"
    if comparison.quantile is not None:
        average = percentile(comparison.quantile)
        means = {name: (of.value, *interval_ends(of.interval or NO_ENDS)) for name, of in comparison.quantiles.items()}
    sampled = any(group.sampled for group in comparison.groups.values())
    return strip_plot(
        groups,
        measure=comparison.measure or "value",
        means=means or None,
        interval=f"{percent(comparison.confidence_level)} CI",
        caption="Larger groups are shown by a thousand values, evenly spaced by rank." if sampled else None,
        log=comparison.scale == "log",
        average=average,
        width=width,
    )


def _pairs_picture(comparison: Comparison, width: float) -> Picture | None:
    names = list(comparison.groups)
    groups = [comparison.groups[name] for name in names]
    lined_up = comparison.paired and len(names) == 2 and len(groups[0].values) == len(groups[1].values)
    if not lined_up or groups[0].sampled or not 2 <= len(groups[0].values) <= MOST_LINES:
        return None
    if comparison.outcome == "binary" or comparison.scale == "log":
        return None
    tests = (one for one in comparison.tests if one.estimate_name.startswith("mean difference"))
    test = next((one for one in tests if not is_open(one.confidence_interval)), None)
    # The picture has its second minus its first, and every table the first minus the second.
    second, first = names if test is None else test.groups
    return paired_lines(
        first,
        second,
        list(zip(comparison.groups[first].values, comparison.groups[second].values, strict=True)),
        measure=comparison.measure or "value",
        difference=None if test is None else (test.estimate, *test.confidence_interval),
        interval="interval" if test is None else f"{percent(test.confidence_level)} CI",
        width=width,
    )


def _ranks_picture(comparison: Comparison, width: float) -> Picture | None:
    ranking = comparison.ranking
    if ranking is None or len(ranking.groups) > 40:
        return None
    return critical_difference(
        dict(zip(ranking.groups, ranking.mean_ranks, strict=True)),
        critical_difference=ranking.critical_difference,
        cliques=ranking.cliques,
        blocks=ranking.blocks,
        width=width,
    )


def _power_picture(comparison: Comparison, width: float) -> Picture | None:
    planned = comparison.planned
    if planned is None or len(planned.curve) < 2:
        return None
    return power_curve(
        {f"{planned.effect_size_name} = {format_number(planned.smallest_effect)}": planned.curve},
        target=planned.wanted,
        planned=float(planned.n),
        across=f"n ({comparison.replicate})",
        caption=f"Power of the {planned.test} as planned, before there were data.",
        width=width,
    )


def _joint(null_value: float) -> str:
    return " / " if null_value == 1.0 else " – "


def _p(value: float) -> str:
    return f"p {format_p(value)}"

"""The charts of a sweep: a heat map of two varied options, and a curve over the values of a number."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from crucible_bench.plots import CurvePoint, Picture, curve, heat_map
from crucible_bench.plots.picture import NARROW, WIDE
from crucible_core.context import Context
from crucible_core.report.document import PictureOfTwoWidths
from crucible_core.report.leaderboard import Arm, Leaderboard
from crucible_core.values.jsonable import as_number, plain_number

__all__ = ["sweep_pictures"]

MOST_SERIES = 5
LEAST_LEVELS = 3
"""The fewest values of a number that make a curve."""

Row = Mapping[str, Any]


def sweep_pictures(ctx: Context, rows: Sequence[Row], board: Leaderboard) -> Iterator[Picture]:
    """Charts of the measure by the options of a grid, if it varies one or two of them: each also drawn for a phone.

    A curve has the values of a number across, and a line for each value of the other option.
    """
    levels = _levels(ctx)
    if board.measure is None or not 1 <= len(levels) <= 2:
        return
    arms = _arms_by_level(rows, board, list(levels))
    if not any(arm.mean is not None for arm in arms.values()):
        return
    numeric = [key for key, values in levels.items() if len(values) >= LEAST_LEVELS and all(map(_is_number, values))]
    if len(levels) == 2:
        yield from _of_two_widths(lambda width: _heat_map(levels, arms, board, width))
    if len(numeric) == 1:
        others = [value for key in levels if key not in numeric for value in levels[key]]
        if len(others) <= MOST_SERIES:
            yield from _of_two_widths(lambda width: _curve(levels, arms, board, numeric[0], width))


def _levels(ctx: Context) -> dict[str, list[Any]]:
    """The options of the grid that have more than one value, if the grid alone makes the arms."""
    options: Mapping[str, Any] = next(
        (one.options or {} for one in ctx.experiment.pipeline if one.name == "trials"), {}
    )
    grid = options.get("grid")
    if not isinstance(grid, Mapping) or options.get("arms"):
        return {}
    return {key: list(values) for key, values in grid.items() if len(values) > 1}


def _arms_by_level(rows: Sequence[Row], board: Leaderboard, keys: Sequence[str]) -> dict[tuple[str, ...], Arm]:
    """The values of the options, in text, -> the arm that has them."""
    arms = {one.name: one for one in board.arms}
    found = {}
    for row in rows:
        if row["arm"] in arms:
            found[tuple(_text(row.get(key)) for key in keys)] = arms.pop(row["arm"])
    return found


def _heat_map(
    levels: Mapping[str, Sequence[Any]], arms: Mapping[tuple[str, ...], Arm], board: Leaderboard, width: float
) -> Picture:
    down, across = levels
    of_two = {(level[0], level[1]): arm for level, arm in arms.items()}
    return heat_map(
        {level: arm.mean for level, arm in of_two.items()},
        rows=list(map(_text, levels[down])),
        columns=list(map(_text, levels[across])),
        down=down,
        across=across,
        measure=board.measure or "",
        marked=[level for level, arm in of_two.items() if arm.may_be_best],
        width=width,
    )


def _curve(
    levels: Mapping[str, Sequence[Any]],
    arms: Mapping[tuple[str, ...], Arm],
    board: Leaderboard,
    across: str,
    width: float,
) -> Picture:
    place = list(levels).index(across)
    numbers = {_text(value): float(plain_number(value)) for value in levels[across]}
    series: dict[str, list[CurvePoint]] = {}
    for level, arm in arms.items():
        if arm.mean is not None:
            name = " ".join(level[:place] + level[place + 1 :])
            series.setdefault(name, []).append(CurvePoint(numbers[level[place]], arm.mean, *(arm.interval or ())))
    return curve(series, across=across, measure=board.measure or "", interval=board.interval, width=width)


def _of_two_widths(draw: Callable[[float], Picture]) -> Iterator[Picture]:
    wide = draw(WIDE)
    yield PictureOfTwoWidths(wide.svg, wide.alt, wide.caption, draw(NARROW).svg)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and as_number(value) is not None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

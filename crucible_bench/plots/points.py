"""A line through many points, such as a loss over the steps of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from crucible_bench.plots.axes import linear_axis
from crucible_bench.plots.numbers import numerals, plain
from crucible_bench.plots.picture import WIDE, Picture
from crucible_bench.plots.svg import SERIES, Drawing, shape
from crucible_bench.plots.text_layout import clean, counted, named

__all__ = ["line_of_points"]

_HEIGHT = 260
_FEW = 40  # points that are marked, too
_COLUMNS = 240

Pair = tuple[float, float]


def line_of_points(
    points: Sequence[Pair], *, measure: str, across: str = "step", caption: str | None = None, width: float = WIDE
) -> Picture:
    """A line through pairs of (x, y), in the order of x; NaN and infinities of y are gaps.

    Of many points, the first, lowest, highest and last of each of 240 columns are drawn: no peak is lost.

    Raises ValueError without points, and for an x that is NaN or infinite.
    """
    if not points:
        raise ValueError("a line needs at least one point")
    if not all(math.isfinite(x) for x, _ in points):
        raise ValueError(f"{clean(across)} is not a finite number at one of the points")
    ordered = sorted(points, key=lambda point: point[0])
    stretches = list(_stretches(ordered))
    numbers = [y for stretch in stretches for _, y in stretch]
    drawing = Drawing(width)
    left, right, top, bottom = 76.0, width - 24.0, 46.0, _HEIGHT - 52.0
    x_axis = linear_axis((ordered[0][0], ordered[-1][0]), left, right, pad=0.02)
    y_axis = linear_axis(numbers, bottom, top)
    drawing.axis_left(y_axis, left, right, measure, 26)
    drawing.axis_below(x_axis, top, bottom, across)
    for stretch in stretches:
        places = [(x_axis.at(x), y_axis.at(y)) for x, y in _thinned(stretch, ordered[0][0], ordered[-1][0])]
        if len(places) > 1:
            drawing.line(places, SERIES[0], width=1.6)
        if len(ordered) <= _FEW or len(places) == 1:
            drawing.path("".join(shape(0, x, y, 3) for x, y in places), f"fill {SERIES[0]}")
    gaps = len(ordered) - len(numbers)
    said = counted(len(ordered), "point")
    if numbers:
        write = numerals(numbers)
        said += f", from {write(min(numbers))} to {write(max(numbers))}, the last {write(stretches[-1][-1][1])}"
        said += f" at {plain(stretches[-1][-1][0])}"
    if gaps:
        said += f"; {gaps:,} not a finite number"
    return drawing.picture(
        float(_HEIGHT),
        title=f"{named(measure)} by {named(across)}",
        description=f"{said}.",
        caption=f"{said}." if caption is None else caption,
    )


def _stretches(points: Iterable[Pair]) -> Iterable[list[Pair]]:
    """The finite points, as stretches that end where a point is not finite."""
    stretch: list[Pair] = []
    for point in points:
        if math.isfinite(point[1]):
            stretch.append(point)
        elif stretch:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


def _thinned(points: list[Pair], low: float, high: float) -> list[Pair]:
    if len(points) <= 4 * _COLUMNS:
        return points
    columns: dict[int, list[Pair]] = {}
    for point in points:
        columns.setdefault(int((point[0] - low) / (high - low) * _COLUMNS) if high > low else 0, []).append(point)
    kept = []
    for column in columns.values():
        ys = [y for _, y in column]
        kept += [column[place] for place in sorted({0, ys.index(min(ys)), ys.index(max(ys)), len(ys) - 1})]
    return kept

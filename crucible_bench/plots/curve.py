"""Curves of a measure over the levels of a number: means with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log10

from crucible_bench.plots.axes import Axis, linear_axis, log_axis
from crucible_bench.plots.numbers import finite, interval_text, length_of, numerals, open_or_finite, plain
from crucible_bench.plots.picture import WIDE, Picture
from crucible_bench.plots.svg import DASHES, SERIES, Drawing, sentence, shape
from crucible_bench.plots.text_layout import clean, named, spread, widest

__all__ = ["CurvePoint", "curve", "is_geometric"]

_MOST_SERIES = 5
_MOST_POINTS = 60
_HEIGHT = 320
_BESIDE = 7.0  # pixels between the points of two series at one place


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A mean at `x` with its interval; None is an open end, and both ends None is a mean without an interval."""

    x: float
    mean: float
    low: float | None = None
    high: float | None = None


def curve(
    series: Mapping[str, Sequence[CurvePoint]],
    *,
    across: str,
    measure: str,
    log: bool | None = None,
    interval: str = "interval",
    caption: str | None = None,
    width: float = WIDE,
) -> Picture:
    """A line through the means of each series by x, with an interval at each; `across` says what x is.

    `log` asks for a logarithmic axis of x; None takes one where `is_geometric` says so. More than 60 points are
    not drawn, and the picture says so. A single series needs no name.

    Raises ValueError without points, for more than 5 series, for two points of a series at one x, for a number that is
    NaN or infinite, and for a logarithmic axis with an x that is not above 0.
    """
    if not 1 <= len(series) <= _MOST_SERIES or not all(series.values()):
        raise ValueError(f"a picture of curves shows 1 to {_MOST_SERIES} series with points, not {len(series)}")
    every = [(clean(name), _points(name, points)) for name, points in series.items()]
    longest = max(len(points) for _, points in every)
    most = _MOST_POINTS // len(every)
    shown = [(name, points[:most]) for name, points in every]
    xs = sorted({point.x for _, points in shown for point in points})
    log = is_geometric(xs) if log is None else log
    if log and xs[0] <= 0:
        raise ValueError(f"a logarithmic axis has no place for {xs[0]:g}")
    numbers = [value for _, points in shown for p in points for value in (p.mean, p.low, p.high) if value is not None]
    write = numerals(numbers, lengths=[length_of(p.low, p.high) for _, points in shown for p in points])
    drawing = Drawing(width)
    names = len(shown) > 1
    room = min(max(widest(name for name, _ in shown), 40.0), 190.0 if width >= 480 else 72.0) if names else 0.0
    left, right, top, bottom = 76.0, width - 24 - (room + 22 if names else 0), 46.0, _HEIGHT - 52.0
    x_axis = (log_axis if log else linear_axis)(xs, left, right)
    y_axis = linear_axis(numbers, bottom, top)
    drawing.axis_left(y_axis, left, right, measure, 26)
    drawing.axis_below(x_axis, top, bottom, across)
    ends = [y_axis.at(points[-1].mean) for _, points in shown]
    for index, ((name, points), label_at) in enumerate(zip(shown, spread(ends, 16, top + 4, bottom - 4), strict=True)):
        shift = _BESIDE * (index - (len(shown) - 1) / 2)
        _draw(drawing, x_axis, y_axis, points, index, shift)
        if names:
            last = points[-1]
            place = x_axis.at(last.x) + shift
            # Dotted, so that it does not look like a part of the curve.
            drawing.line([(place + 6, y_axis.at(last.mean)), (right + 12, label_at)], "soft", dash="1 3")
            drawing.text(right + 18, label_at + 4, name, room=room)
    height = float(_HEIGHT)
    if longest > most:
        height += 16
        drawing.text(16, height - 12, f"The first {most} of {longest} values.", "soft small")
    if caption is None:
        caption = f"Marks: means of {clean(measure)}"
        if any(p.low is not None or p.high is not None for _, points in shown for p in points):
            caption += f"; lines through them: {clean(interval)}"
        caption += f". The axis of {clean(across)} is logarithmic." if log else "."
    return drawing.picture(
        height,
        title=f"{named(measure)} by {named(across)}",
        description=sentence((_in_words(name, points, interval, write) for name, points in shown), 5, "series") + ".",
        caption=caption,
    )


def is_geometric(values: Sequence[float]) -> bool:
    """Whether at least three numbers, all above 0, are more evenly spaced by their logarithms than by themselves."""
    ordered = sorted(set(values))
    if len(ordered) < 3 or ordered[0] <= 0:
        return False
    return _evenness([log10(value) for value in ordered]) > _evenness(ordered)


def _evenness(ordered: Sequence[float]) -> float:
    """The smallest gap as a share of the whole length."""
    length = ordered[-1] / 2 - ordered[0] / 2
    return min((high / 2 - low / 2) / length for low, high in pairwise(ordered)) if length > 0 else 0.0


def _points(name: str, points: Sequence[CurvePoint]) -> list[CurvePoint]:
    called = f"series {clean(name)[:60]!r}"
    found = []
    for point in points:
        x = finite(point.x, f"{called}: an x")
        ends = open_or_finite(point.low, point.high, f"{called}, x = {plain(x)}")
        found.append(CurvePoint(x, finite(point.mean, f"{called}: a mean"), *ends))
    found.sort(key=lambda point: point.x)
    twice = next((after.x for before, after in pairwise(found) if before.x == after.x), None)
    if twice is not None:
        raise ValueError(f"{called} has two points at {plain(twice)}")
    return found


def _draw(drawing: Drawing, x_axis: Axis, y_axis: Axis, points: Sequence[CurvePoint], index: int, shift: float) -> None:
    colour = SERIES[index]
    places = [(x_axis.at(point.x) + shift, y_axis.at(point.mean)) for point in points]
    if len(places) > 1:
        drawing.line(places, colour, width=1.8, dash=DASHES[index])
    for point, (x, y) in zip(points, places, strict=True):
        if point.low is not None or point.high is not None:
            drawing.whisker(y_axis, point.low, point.high, x, colour, upright=True)
        drawing.path(shape(index, x, y, 4), f"fill {colour}", title=f"at {plain(point.x)}")


def _in_words(name: str, points: Sequence[CurvePoint], interval: str, write: Callable[[float], str]) -> str:
    said = []
    for point in points[:12]:
        ends = ""
        if point.low is not None or point.high is not None:
            ends = f", {clean(interval)} {interval_text(point.low, point.high, write)}"
        said.append(f"{write(point.mean)} at {plain(point.x)}{ends}")
    more = f"; and {len(points) - 12} more values" if len(points) > 12 else ""
    return f"{f'{named(name)}: ' if name else ''}{'; '.join(said)}{more}"

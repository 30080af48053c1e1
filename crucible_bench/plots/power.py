"""Power curves: how likely a planned comparison is to find an effect, by its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from crucible_bench.plots.axes import Axis, linear_axis
from crucible_bench.plots.numbers import finite, numerals, plain
from crucible_bench.plots.picture import WIDE, Picture
from crucible_bench.plots.svg import DASHES, SERIES, Drawing, sentence, shape
from crucible_bench.plots.text_layout import clean, named, spread, widest

__all__ = ["power_curve"]

_MOST = 10
_HEIGHT = 340


def power_curve(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    target: float | None = 0.8,
    planned: float | None = None,
    across: str = "n per group",
    caption: str | None = None,
    width: float = WIDE,
) -> Picture:
    """One curve of power, from 0 to 1, by effect (or whatever distinguishes the curves).

    Each curve is (x, power) in any order of x; `across` says what x is. A dashed line marks the `target` power, another
    the `planned` x, with each curve's power there, read between its two nearest points.

    Raises ValueError without curves or for more than 10, for a curve without points, for a number that is NaN or
    infinite, and for a power or a target outside 0 to 1.
    """
    if not 1 <= len(curves) <= _MOST:
        raise ValueError(f"a picture of power shows 1 to {_MOST} curves, not {len(curves)}")
    shown = [(clean(name), _points(name, points)) for name, points in curves.items()]
    if target is not None and not 0 <= finite(target, "the target power") <= 1:
        raise ValueError(f"the target power must be from 0 to 1, not {target:g}")
    xs = [x for _, points in shown for x, _ in points]
    if planned is not None:
        xs.append(finite(planned, f"the planned {across}"))
    write = numerals(xs)
    drawing = Drawing(width)
    labels_room = min(max(widest(name for name, _ in shown), 40.0), 190.0 if width >= 480 else 72.0)
    names_from = 22 if planned is None else 56
    left, right, top, bottom = 76.0, width - 16 - labels_room - names_from, 46.0, _HEIGHT - 52.0
    across_axis = linear_axis(xs, left, right, pad=0.0)
    power_axis = linear_axis((), bottom, top, bounds=(0.0, 1.0))
    drawing.axis_left(power_axis, left, right, "power", 26)
    drawing.axis_below(across_axis, top, bottom, across)
    marked = across_axis, power_axis, target, planned
    _draw_marks(drawing, *marked)
    ends = [power_axis.at(points[-1][1]) for _, points in shown]
    for index, ((name, points), label_at) in enumerate(zip(shown, spread(ends, 16, top + 4, bottom - 4), strict=True)):
        colour, dash = SERIES[index % 5], DASHES[index % 5]
        places = [(across_axis.at(x), power_axis.at(power)) for x, power in points]
        if len(places) > 1:
            drawing.line(places, colour, width=2, dash=dash)
        else:
            drawing.dots(places, colour, size=6)
        drawing.line([(places[-1][0], places[-1][1]), (right + 16, label_at)], colour)
        power = None if planned is None else _at(points, planned)
        drawing.text(right + 22, label_at + 4, "" if power is None else f"{power:.2f}", "ink figures")
        drawing.text(right + names_from, label_at + 4, name, "soft" if names_from > 22 else "ink", room=labels_room)
        if planned is not None and power is not None:
            mark = shape(index, across_axis.at(planned), power_axis.at(power), 4)
            drawing.path(mark, f"{'fill' if index < 5 else 'open'} {colour}", title=f"{name}: power {power:.2f}")
    _name_marks(drawing, *marked, write)
    if caption is None:
        caption = f"Power by {clean(across)}"
        caption += "." if planned is None else f"; marks and numbers: at the planned {write(planned)}."
    return drawing.picture(
        _HEIGHT,
        title=f"Power by {clean(across)}",
        description=_describe(shown, target, planned, write),
        caption=caption,
    )


def _draw_marks(drawing: Drawing, across: Axis, power: Axis, target: float | None, planned: float | None) -> None:
    if target is not None:
        line = [(across.start, power.at(target)), (across.end, power.at(target))]
        drawing.line(line, "soft", dash="4 3", width=1.3)
    if planned is not None:
        line = [(across.at(planned), power.end), (across.at(planned), power.start)]
        drawing.line(line, "soft", dash="4 3", width=1.3)


def _name_marks(
    drawing: Drawing,
    across: Axis,
    power: Axis,
    target: float | None,
    planned: float | None,
    write: Callable[[float], str],
) -> None:
    """The labels of the dashed lines, drawn over the curves."""
    if target is not None:
        drawing.text(across.start + 6, power.at(target) - 6, f"target {plain(target)}", "soft small halo")
    if planned is not None:
        edge = drawing.width - 16
        drawing.text(edge, 26, f"power at {write(planned)}", "soft small", anchor="end", room=edge - across.end)
        x = across.at(planned)
        side, step = ("end", -6) if x > (across.start + across.end) / 2 else ("start", 6)
        drawing.text(x + step, power.start - 8, f"planned {write(planned)}", "soft small halo", anchor=side)


def _points(name: str, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    called = f"curve {clean(name)[:60]!r}"
    if len(points) == 0:
        raise ValueError(f"{called} has no points")
    found = sorted((finite(x, f"{called}: an x"), finite(power, f"{called}: a power")) for x, power in points)
    for x, power in found:
        if not -1e-9 <= power <= 1 + 1e-9:
            raise ValueError(f"{called}: the power at {x:g} is {power:g}; it must be from 0 to 1")
    return found


def _at(points: Sequence[tuple[float, float]], x: float) -> float | None:
    """The power at x, between the two points around it; None outside of the curve."""
    for (before, low), (after, high) in pairwise(points):
        if before <= x <= after:
            return low if after == before else low + (high - low) * (x - before) / (after - before)
    return points[0][1] if x == points[0][0] else None


def _describe(
    curves: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    target: float | None,
    planned: float | None,
    write: Callable[[float], str],
) -> str:
    lines = []
    for name, points in curves:
        (first, low), (last, high) = points[0], points[-1]
        said = f"{named(name)}: from {low:.2f} at {write(first)} to {high:.2f} at {write(last)}"
        if planned is not None and (power := _at(points, planned)) is not None:
            said += f", {power:.2f} at the planned {write(planned)}"
        if target is not None:
            reached = next((x for x, power in points if power >= target), None)
            end = "not reached" if reached is None else f"reached by {write(reached)}"
            said += f", target {plain(target)} {end}"
        lines.append(said)
    return sentence(lines, 10, "curves") + "."

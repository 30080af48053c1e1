"""Paired lines: the change of each pair, and the differences beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crucible_bench.plots.axes import Axis, linear_axis
from crucible_bench.plots.density import box_of, mean_of, swarm, thinned
from crucible_bench.plots.numbers import all_finite, finite, interval_text, length_of, numerals, open_or_finite
from crucible_bench.plots.picture import WIDE, Picture
from crucible_bench.plots.strip import Mean
from crucible_bench.plots.svg import Drawing, sentence, shape
from crucible_bench.plots.text_layout import clean, counted, named, text_width

__all__ = ["paired_lines"]

_MOST_LINES = 120
_MOST_TITLES = 40
_HEIGHT = 372
_WAYS = {1: ("c0", ""), -1: ("c1", "6 3"), 0: ("soft", "2 3")}


def paired_lines(
    first: str,
    second: str,
    pairs: Sequence[tuple[float, float]],
    *,
    measure: str,
    names: Sequence[str] | None = None,
    difference: Mean | None = None,
    interval: str = "interval",
    caption: str | None = None,
    width: float = WIDE,
) -> Picture:
    """A line from the first to the second value of each pair, by colour and dash up, down or level.

    The panel beside it shows the differences, second minus first, and their mean: `difference` is that mean with its
    low and high end (None is an open one), otherwise only the mean is computed. `names` name the pairs, in their order.
    Of more than 120 pairs, 120 are drawn, evenly by the rank of their difference, and the picture says so. In a picture
    narrower than 480 pixels, the panel is below the lines.

    Raises ValueError without pairs, for a value that is NaN or infinite, and for different numbers of names and pairs.
    """
    if len(pairs) == 0:
        raise ValueError("paired lines need at least one pair")
    if names is not None and len(names) != len(pairs):
        raise ValueError(f"{len(names)} names for {len(pairs)} pairs")
    called = [clean(name) for name in names] if names is not None else [f"pair {n + 1}" for n in range(len(pairs))]
    values = list(
        zip(
            all_finite([a for a, _ in pairs], lambda index: f"{called[index]}: the first value"),
            all_finite([b for _, b in pairs], lambda index: f"{called[index]}: the second value"),
            strict=True,
        )
    )
    first, second = clean(first), clean(second)
    order = sorted(range(len(values)), key=lambda index: values[index][1] / 2 - values[index][0] / 2)
    differences = [values[index][1] - values[index][0] for index in order]
    differences = all_finite(differences, lambda index: f"{called[order[index]]}: the difference")
    mean = _mean(difference, differences)
    drawn = thinned(order, _MOST_LINES)
    drawing, stacked = Drawing(width), width < 480
    top, bottom = 66.0, _HEIGHT - 44.0
    axis = linear_axis([value for pair in values for value in pair], bottom, top)
    write = numerals([value for pair in values for value in pair])
    lines = [(called[index], *values[index]) for index in drawn]
    _draw_lines(drawing, axis, lines, (first, second), measure, write, right=width - 16 if stacked else 430.0)
    below = _HEIGHT - 22.0 if stacked else 0.0
    beside = linear_axis([0.0, *differences, *(end for end in mean if end is not None)], below + bottom, below + top)
    write_difference = numerals(
        [*differences, *(end for end in mean if end is not None)], lengths=[length_of(*mean[1:])]
    )
    title = f"difference, {second} − {first}"
    title = title if text_width(title) < 220 else "difference, second − first"
    panel = (76.0, width - 16) if stacked else (520.0, 704.0)
    _draw_differences(drawing, beside, differences, mean, write_difference, title, panel)
    ways = [sum(value > 0 for value in differences), sum(value < 0 for value in differences)]
    ways.append(len(differences) - sum(ways))
    _draw_legend(drawing, ways, len(drawn), len(order))
    if caption is None:
        caption = f"Lines: pairs. Other panel: the differences, {named(second)} minus {named(first)}, and their mean"
        caption += f" with {interval}." if mean[1] is not None or mean[2] is not None else "."
    box = box_of(differences)
    middle = f"mean {write_difference(mean[0])}"
    if mean[1] is not None or mean[2] is not None:
        middle += f", {interval} {interval_text(mean[1], mean[2], write_difference)}"
    described = (
        f"{counted(len(order), 'pair')}: {named(second)} is higher in {ways[0]:,}, "
        f"lower in {ways[1]:,}, equal in {ways[2]:,}. "
        f"Differences from {write_difference(differences[0])} to {write_difference(differences[-1])}, "
        f"median {write_difference(box.median)}, {middle}."
    )
    if len(order) <= 12:
        each = (f"{named(called[n])}: {write(values[n][0])} to {write(values[n][1])}" for n in range(len(values)))
        described += f" {sentence(each, 12, 'pairs')}."
    return drawing.picture(
        _HEIGHT + below,
        title=f"{named(measure)} of {named(first)} and {named(second)}, pair by pair",
        description=described,
        caption=caption,
    )


def _mean(given: Mean | None, differences: Sequence[float]) -> Mean:
    if given is None:
        return mean_of(differences), None, None
    at, low, high = given
    return finite(at, "the mean difference"), *open_or_finite(low, high, "the mean difference")


def _draw_lines(
    drawing: Drawing,
    axis: Axis,
    lines: Sequence[tuple[str, float, float]],
    names: tuple[str, str],
    measure: str,
    write: Callable[[float], str],
    *,
    right: float,
) -> None:
    left = 76.0
    places = (left + 50, right - 50)
    drawing.axis_left(axis, left, right, measure, 26)
    room = min(200, 2 * (drawing.width - places[1]) - 8)
    for place, name in zip(places, names, strict=True):
        drawing.line([(place, axis.end), (place, axis.start)], "soft")
        drawing.text(place, axis.start + 22, name, "ink bold", anchor="middle", room=room)
    if len(lines) <= _MOST_TITLES:
        for name, a, b in lines:
            colour, dash = _WAYS[_way(a, b)]
            points = [(places[0], axis.at(a)), (places[1], axis.at(b))]
            drawing.line(points, colour, width=1.5, dash=dash, title=f"{name}: {write(a)} to {write(b)}")
    else:
        for way, (colour, dash) in _WAYS.items():
            kept = [[(places[0], axis.at(a)), (places[1], axis.at(b))] for _, a, b in lines if _way(a, b) == way]
            drawing.lines(kept, colour, dash=dash)
    for way, (colour, _) in _WAYS.items():
        ends = [
            point
            for _, a, b in lines
            if _way(a, b) == way
            for point in ((places[0], axis.at(a)), (places[1], axis.at(b)))
        ]
        drawing.dots(ends, colour, size=5.5)


def _draw_differences(
    drawing: Drawing,
    axis: Axis,
    differences: Sequence[float],
    mean: Mean,
    write: Callable[[float], str],
    title: str,
    panel: tuple[float, float],
) -> None:
    left, right = panel
    drawing.axis_left(axis, left, right, title, axis.end - 40)
    drawing.line([(left, axis.at(0)), (right, axis.at(0))], "ink")
    shown = thinned(differences, 150)
    offsets = swarm([-axis.at(value) for value in shown], 5.5, 52)
    for way, (colour, _) in _WAYS.items():
        kept = [
            (left + 62 + offset, axis.at(value))
            for value, offset in zip(shown, offsets, strict=True)
            if _way(0, value) == way
        ]
        drawing.dots(kept, colour, size=5.5)
    at, low, high = mean
    x = left + 150
    if low is not None or high is not None:
        drawing.whisker(axis, low, high, x, "ink", upright=True)
    drawing.path(shape(1, x, axis.at(at), 4.5), "fill ink")
    text = f"mean {write(at)}"
    if low is not None or high is not None:
        text += f" {interval_text(low, high, write)}"
    drawing.text(right, axis.start + 22, text, "ink figures", anchor="end", room=250)


def _way(first: float, second: float) -> int:
    return (second > first) - (second < first)


def _draw_legend(drawing: Drawing, ways: Sequence[int], drawn: int, count: int) -> None:
    x = 76.0
    for (colour, dash), count_, word in zip(_WAYS.values(), ways, ("higher", "lower", "equal"), strict=True):
        if not count_:
            continue
        drawing.line([(x, 46), (x + 24, 46)], colour, width=1.8, dash=dash)
        drawing.text(x + 30, 50, f"{word}: {count_:,}", "ink small figures")
        x += 110
    if drawn < count:
        drawing.text(x, 50, f"{drawn} of {count:,} drawn", "soft small")

"""The strip plot: each group's values, their box, and the mean with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from crucible_bench.plots.axes import Axis, linear_axis, log_axis
from crucible_bench.plots.density import Box, box_of, counts_of, density, swarm
from crucible_bench.plots.numbers import all_finite, finite, interval_text, length_of, numerals, open_or_finite
from crucible_bench.plots.picture import WIDE, Picture
from crucible_bench.plots.svg import SERIES, Drawing, sentence, shape
from crucible_bench.plots.text_layout import BOLD_SIZE, clean, counted, cut, named, text_width, widest

__all__ = ["Mean", "strip_plot"]

Mean = tuple[float, float | None, float | None]

_MOST_GROUPS = 40
_MOST_DOTS = 150
_FEW_VALUES = 12


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    values: tuple[float, ...]  # ascending
    mean: Mean | None
    box: Box | None
    average: str
    """What `mean` is called."""


def strip_plot(
    groups: Mapping[str, Sequence[float]],
    *,
    measure: str,
    means: Mapping[str, Mean] | None = None,
    interval: str = "interval",
    caption: str | None = None,
    log: bool = False,
    average: str = "mean",
    width: float = WIDE,
) -> Picture:
    """Every value as a dot, the box of the group below, and its mean with an interval.

    Of more than 150 values in a group the density is drawn instead of dots, or the counts where there are at most
    twelve different values. `means` gives mean, low and high end (None is an open one) by group; `interval` names the
    intervals: `95% CI`. More than 40 groups are not drawn, and the picture says so. In a picture narrower than 480
    pixels, names and numbers stand above the values. `log` is for values above 0; `average` says what `means`
    are, such as geometric means.

    Raises ValueError without groups, for a value that is NaN or infinite (or, on a logarithmic axis, not above 0), and
    for a mean of an unknown group.
    """
    if not groups:
        raise ValueError("a strip plot needs at least one group")
    given = dict(means or {})
    if unknown := given.keys() - groups.keys():
        raise ValueError(f"a mean is given for {sorted(unknown)[0]!r:.80}, which is not one of the groups")
    every = [_group(name, values, given.get(name), average) for name, values in groups.items()]
    shown = every[:_MOST_GROUPS]
    numbers = [v for group in shown for v in (*group.values[:1], *group.values[-1:], *_ends(group.mean))]
    write = numerals(numbers, lengths=[length_of(*group.mean[1:]) for group in shown if group.mean is not None])
    head = _head(shown, interval)
    beside = [_beside(group, write) if head else _beside_named(group, write) for group in shown]
    numbers_at, stacked = width - 16, width < 480
    numbers_width = max(widest(beside), text_width(head, 11))
    labels = min(widest((group.name for group in shown), BOLD_SIZE), 190.0)
    labels_room = max(60.0, min(labels, numbers_at - numbers_width - (40 if stacked else 318)))
    start, end = (24.0, width - 24) if stacked else (16 + labels_room + 20, numbers_at - numbers_width - 20)
    if log and min(numbers, default=1.0) <= 0:
        raise ValueError(f"a logarithmic axis has no place for {min(numbers):g}")
    axis = log_axis(numbers, start, end) if log and numbers else linear_axis(numbers, start, end)
    drawing = Drawing(width)
    lanes = 66 if len(shown) <= 12 else 48
    above = 34 if stacked else 0
    row = lanes + above
    top, bottom = 36, 36 + row * len(shown)
    drawing.axis_below(axis, top, bottom, measure)
    drawing.text(numbers_at, 24, head, "soft small", anchor="end")
    for index, group in enumerate(shown):
        at = top + row * index
        label_at = at + (18 if stacked else row / 2)
        if index:
            drawing.line([(16, at), (width - 16, at)], "rule")
        drawing.text(16, label_at, group.name, "ink bold", room=labels_room)
        drawing.text(16, label_at + 15, f"n = {len(group.values):,}", "soft small figures")
        drawing.text(numbers_at, label_at + (0 if stacked else 5), beside[index], "ink figures", anchor="end")
        _draw_group(drawing, axis, group, at + above, lanes, SERIES[index % 4])
    height = bottom + 50.0
    if len(every) > len(shown):
        height += 18
        drawing.text(16, height - 14, f"The first {len(shown)} of {len(every)} groups are drawn.", "soft small")
    if caption is None:
        caption = _caption(shown, interval)
    return drawing.picture(
        height,
        title=f"Values of {named(measure)} by group",
        description=sentence((_in_words(group, interval, write) for group in every), 12, "groups") + ".",
        caption=caption,
    )


def _group(name: str, values: Sequence[float], mean: Mean | None, average: str) -> _Group:
    called = f"group {clean(name)[:60]!r}"
    numbers = tuple(sorted(all_finite(values, lambda _: f"{called}: a value")))
    if mean is not None:
        at, low, high = mean
        mean = (finite(at, f"{called}: the mean"), *open_or_finite(low, high, f"{called}: the mean's interval"))
    return _Group(clean(name), numbers, mean, box_of(numbers) if numbers else None, average)


def _ends(mean: Mean | None) -> list[float]:
    return [value for value in mean or () if value is not None]


def _head(groups: Sequence[_Group], interval: str) -> str:
    """The name of the numbers beside the groups, if all have the same one."""
    if all(group.mean is None for group in groups):
        return "median"
    if any(group.mean is None for group in groups):
        return ""
    ends = any(len(_ends(group.mean)) > 1 for group in groups)
    average = groups[0].average
    return f"{average} [{cut(clean(interval), 110, 11)}]" if ends else average


def _beside(group: _Group, write: Callable[[float], str]) -> str:
    if group.mean is None:
        return write(group.box.median) if group.box else "no values"
    at, low, high = group.mean
    return write(at) if low is None and high is None else f"{write(at)} {interval_text(low, high, write)}"


def _beside_named(group: _Group, write: Callable[[float], str]) -> str:
    if group.mean is None and group.box is None:
        return "no values"
    return f"{'median' if group.mean is None else group.average} {_beside(group, write)}"


def _draw_group(drawing: Drawing, axis: Axis, group: _Group, top: float, row: float, colour: str) -> None:
    with_mean = group.mean is not None
    # Three lanes: the values, the box, the mean.
    mean_at = top + row - 13
    box_at = mean_at - 13 if with_mean else mean_at - 3
    floor = box_at - 8
    room = floor - top - 7
    values = group.values
    if len(values) > _MOST_DOTS:
        _draw_many(drawing, axis, values, floor, room, colour)
    elif values:
        places = [axis.at(value) for value in values]
        size = 5.0 if row > 50 else 4.2
        middle = floor - room / 2
        offsets = swarm(places, size, room / 2 - size / 2)
        dots = [(place, middle + offset) for place, offset in zip(places, offsets, strict=True)]
        drawing.dots(dots, colour, size=size)
    if group.box is not None and len(values) > 1:
        box = group.box
        drawing.line([(axis.at(box.low), box_at), (axis.at(box.high), box_at)], colour, width=1.3)
        left, right = axis.at(box.first), axis.at(box.third)
        drawing.box(left, box_at - 4, right, box_at + 4, f"open {colour}", width=1.3)
        median = axis.at(box.median)
        drawing.line([(median, box_at - 4), (median, box_at + 4)], colour, width=2.6)
    if group.mean is not None:
        at, low, high = group.mean
        if low is not None or high is not None:
            drawing.whisker(axis, low, high, mean_at, "ink")
        drawing.path(shape(1, axis.at(at), mean_at, 4), "fill ink")


def _draw_many(drawing: Drawing, axis: Axis, values: Sequence[float], floor: float, room: float, colour: str) -> None:
    different = len(set(values)) if values[0] != values[-1] else 1
    if different <= _FEW_VALUES:
        for value, share in counts_of(values):
            at = axis.at(value)
            drawing.line([(at, floor), (at, floor - max(1.5, share * room))], colour, width=6)
        return
    curve = [(axis.at(value), floor - height * room) for value, height in density(values)]
    drawing.area([(curve[0][0], floor), *curve, (curve[-1][0], floor)], colour, opacity=0.3)
    drawing.line(curve, colour, width=1.4)


def _caption(groups: Sequence[_Group], interval: str) -> str:
    many = [len(group.values) > _MOST_DOTS for group in groups]
    values = "dots: values" if not any(many) else "curves: density" if all(many) else "dots: values, curves: density"
    said = f"{values[0].upper()}{values[1:]}; boxes: quartiles and median, "
    said += "whiskers to the furthest values within 1.5 box lengths"
    if any(group.mean is not None for group in groups):
        ends = any(len(_ends(group.mean)) > 1 for group in groups)
        said += f"; diamonds: {groups[0].average}s{f' with {interval}' if ends else ''}"
    return said + "."


def _in_words(group: _Group, interval: str, write: Callable[[float], str]) -> str:
    if group.box is None:
        return f"{named(group.name)}: no values"
    count = counted(len(group.values), "value")
    parts = [f"{named(group.name)}: {count} from {write(group.values[0])} to {write(group.values[-1])}"]
    parts.append(f"median {write(group.box.median)}")
    if group.mean is not None:
        at, low, high = group.mean
        parts.append(f"{group.average} {write(at)}")
        if low is not None or high is not None:
            parts[-1] += f", {interval} {interval_text(low, high, write)}"
    return ", ".join(parts)

"""The run chart: several metrics over runs in one picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from crucible_bench.plots.axes import TICK_SIZE, Axis, linear_axis
from crucible_bench.plots.numbers import finite, numerals, open_or_finite, plain
from crucible_bench.plots.picture import Picture
from crucible_bench.plots.svg import DASHES, SERIES, Drawing, sentence, shape
from crucible_bench.plots.text_layout import clean, counted, cut, named, spread, text_width, widest

__all__ = ["run_chart"]

_MOST_SERIES = 12
_MOST_ON_ONE_AXIS = 6
_MOST_RUNS = 200
_BOUND = "3 4"

Band = Sequence[tuple[float | None, float | None] | None]
_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Series:
    name: str
    points: dict[int, float]  # run -> value, in the order of runs
    gaps: int
    band: dict[int, tuple[float, float]]
    bound: float | None

    def numbers(self) -> list[float]:
        ends = [end for both in self.band.values() for end in both if math.isfinite(end)]
        return [*self.points.values(), *ends, *([] if self.bound is None else [self.bound])]


def run_chart(
    series: Mapping[str, Sequence[tuple[str, float | None]]],
    *,
    measure: str = "value",
    bands: Mapping[str, Band] | None = None,
    bounds: Mapping[str, float] | None = None,
    together: bool | None = None,
    caption: str | None = None,
) -> Picture:
    """Metrics over runs, each a sequence of (run's label, value), the oldest run first.

    Series are aligned by the labels of their runs (the same label again is the next run of that name), with runs in the
    order in which they first appear. None, NaN and infinities are gaps. `bands` gives each value of a series its
    (low, high), None where there is none or no end; `bounds` draws a dashed line across a series, such as a gate's.

    Series are drawn `together` on one axis where their numbers are of similar size, else in stacked panels; say
    True or False to choose. `measure` is the title of the common axis. Of more than 200 runs the last 200 are drawn,
    and of more than 12 series the first 12; the picture says so.

    Raises ValueError without series; for a band or bound of an unknown series, or a band of another length than its
    series; for a bound that is NaN or infinite; and for a band's end that is NaN or on the wrong side of the other.
    """
    if not series:
        raise ValueError("a run chart needs at least one series")
    for what, given in (("band", bands), ("bound", bounds)):
        if unknown := (given or {}).keys() - series.keys():
            raise ValueError(
                f"a {what} is given for {clean(sorted(unknown)[0])[:60]!r}, which is not one of the series"
            )
    runs, every = _read(series, bands or {}, bounds or {})
    cut_off = max(0, len(runs) - _MOST_RUNS)
    shown = [_from(one, cut_off) for one in every[:_MOST_SERIES]]
    labels = [label for label, _ in runs[cut_off:]]
    if together is None:
        together = len(shown) <= _MOST_ON_ONE_AXIS and _of_one_size(shown)
    drawing = Drawing()
    top = 46.0
    if together:
        bottom = 300.0
        _draw_panel(drawing, shown, len(labels), top, bottom, measure, 0)
    else:
        height = 150 if len(shown) <= 3 else 124
        bottom = top
        for index, one in enumerate(shown):
            bottom = top + (height + 8) * index + height - 42
            _draw_panel(drawing, [one], len(labels), bottom - (height - 42), bottom, one.name, index)
    _draw_runs(drawing, labels, bottom)
    notes = [f"the last {len(labels)} of {len(runs)} runs"] if cut_off else []
    notes += [f"the first {len(shown)} of {len(every)} series"] if len(every) > len(shown) else []
    end = bottom + 34.0
    if notes:
        end += 16
        drawing.text(16, end - 12, f"Drawn: {', '.join(notes)}.", "soft small")
    if caption is None:
        caption = f"{counted(len(labels), 'run')}, the latest on the right."
        if any(one.band for one in shown):
            caption += " Shaded: intervals."
        if any(one.bound is not None for one in shown):
            caption += " Dashed: bounds."
    return drawing.picture(
        end,
        title=f"{', '.join(named(one.name) for one in shown[:4])}{' and more' if len(shown) > 4 else ''} over runs",
        description=f"{counted(len(runs), 'run')}. {sentence(map(_in_words, every), 12, 'series')}.",
        caption=caption,
    )


def _read(
    series: Mapping[str, Sequence[tuple[str, float | None]]], bands: Mapping[str, Band], bounds: Mapping[str, float]
) -> tuple[list[_Key], list[_Series]]:
    places: dict[_Key, int] = {}
    keyed: dict[str, list[_Key]] = {}
    for name, points in series.items():
        seen: Counter[str] = Counter()
        keyed[name] = []
        for label, _ in points:
            key = (clean(label), seen[clean(label)])
            seen[clean(label)] += 1
            keyed[name].append(key)
            places.setdefault(key, len(places))
    read = []
    for name, points in series.items():
        band = bands.get(name)
        if band is not None and len(band) != len(points):
            raise ValueError(f"the band of {clean(name)[:60]!r} has {len(band)} intervals for {len(points)} values")
        values, ends, gaps = {}, {}, 0
        for number, (key, (_, value)) in enumerate(zip(keyed[name], points, strict=True)):
            if value is None or not math.isfinite(value):
                gaps += 1
                continue
            values[places[key]] = float(value)
            if band is not None and (both := band[number]) is not None:
                low, high = open_or_finite(*both, f"{clean(name)[:60]!r}: the band")
                ends[places[key]] = (-math.inf if low is None else low, math.inf if high is None else high)
        bound = bounds.get(name)
        read.append(
            _Series(
                clean(name),
                dict(sorted(values.items())),
                gaps,
                ends,
                None if bound is None else finite(bound, f"the bound of {clean(name)[:60]!r}"),
            )
        )
    return list(places), read


def _from(one: _Series, first: int) -> _Series:
    points = {run - first: value for run, value in one.points.items() if run >= first}
    band = {run - first: both for run, both in one.band.items() if run >= first}
    return _Series(one.name, points, one.gaps, band, one.bound)


def _of_one_size(series: Sequence[_Series]) -> bool:
    """Whether one axis shows how each series varies: none takes less than a sixth of it."""
    spans = [(min(numbers), max(numbers)) for one in series if (numbers := one.numbers())]
    if len(spans) < 2:
        return True
    whole = max(high for _, high in spans) / 2 - min(low for low, _ in spans) / 2
    return all((high / 2 - low / 2) >= whole / 6 for low, high in spans)


_LEFT, _RIGHT = 76.0, 560.0


def _x(run: int, count: int) -> float:
    room = 10.0
    return _RIGHT - room if count == 1 else _LEFT + room + run / (count - 1) * (_RIGHT - _LEFT - 2 * room)


def _draw_panel(
    drawing: Drawing, series: Sequence[_Series], runs: int, top: float, bottom: float, title: str, colours_from: int
) -> None:
    numbers = [number for one in series for number in one.numbers()]
    axis = linear_axis(numbers, bottom, top, pad=0.08)
    write = numerals(numbers)
    drawing.axis_left(axis, _LEFT, _RIGHT, title, top - 16)
    drawing.line([(_LEFT, bottom), (_RIGHT, bottom)], "soft")
    if not numbers:
        drawing.text((_LEFT + _RIGHT) / 2, (top + bottom) / 2 + 4, "no values", "soft small", anchor="middle")
    for index, one in enumerate(series, colours_from):
        _draw_band(drawing, axis, one, runs, SERIES[index % 5])
    for index, one in enumerate(series, colours_from):
        _draw_series(drawing, axis, one, runs, index)
    _label_ends(drawing, axis, series, runs, (top, bottom), colours_from, write)


def _label_ends(
    drawing: Drawing,
    axis: Axis,
    series: Sequence[_Series],
    runs: int,
    within: tuple[float, float],
    colours_from: int,
    write: Callable[[float], str],
) -> None:
    """At the right, the latest value of each series, and the bounds."""
    drawn = list(enumerate(series, colours_from))
    ends = [(index, one, list(one.points.items())[-1]) for index, one in drawn if one.points]
    bounds = [(index, one.bound) for index, one in drawn if one.bound is not None]
    wanted = [axis.at(value) for *_, (_, value) in ends] + [axis.at(bound) for _, bound in bounds]
    places = spread(wanted, 17, *within)
    for (index, one, (last, value)), at in zip(ends, places, strict=False):
        colour = SERIES[index % 5]
        drawing.line([(_x(last, runs), axis.at(value)), (_RIGHT + 8, at)], colour, opacity=0.6)
        drawing.path(shape(index, _RIGHT + 14, at, 3.4), f"{'fill' if index < 5 else 'open'} {colour}")
        text = write(value)
        drawing.text(_RIGHT + 24, at + 4, text, "ink figures")
        if len(series) > 1:
            left = _RIGHT + 32 + text_width(text)
            drawing.text(left, at + 4, one.name, "soft", room=704 - left)
    for (index, bound), at in zip(bounds, places[len(ends) :], strict=True):
        place = [(_RIGHT, axis.at(bound)), (_RIGHT + 6, at), (_RIGHT + 20, at)]
        drawing.line(place, SERIES[index % 5], dash=_BOUND, width=1.3)
        drawing.text(_RIGHT + 24, at + 4, f"bound {plain(bound)}", "soft small figures", room=704 - _RIGHT - 24)


def _stretches(points: Mapping[int, float]) -> list[list[int]]:
    """Runs that follow each other without a gap."""
    found: list[list[int]] = []
    for run in points:
        if found and found[-1][-1] == run - 1:
            found[-1].append(run)
        else:
            found.append([run])
    return found


def _draw_band(drawing: Drawing, axis: Axis, one: _Series, runs: int, colour: str) -> None:
    for stretch in _stretches({run: low for run, (low, _) in one.band.items()}):
        if len(stretch) == 1:
            x = _x(stretch[0], runs)
            low, high = one.band[stretch[0]]
            drawing.line([(x, axis.at(low)), (x, axis.at(high))], colour, width=6, opacity=0.3)
            continue
        upper = [(_x(run, runs), axis.at(one.band[run][1])) for run in stretch]
        lower = [(_x(run, runs), axis.at(one.band[run][0])) for run in reversed(stretch)]
        drawing.area(upper + lower, colour, opacity=0.2)


def _draw_series(drawing: Drawing, axis: Axis, one: _Series, runs: int, index: int) -> None:
    colour = SERIES[index % 5]
    if one.bound is not None:
        drawing.line([(_LEFT, axis.at(one.bound)), (_RIGHT, axis.at(one.bound))], colour, dash=_BOUND, width=1.3)
    for stretch in _stretches(one.points):
        if len(stretch) > 1:
            places = [(_x(run, runs), axis.at(one.points[run])) for run in stretch]
            drawing.line(places, colour, width=1.8, dash=DASHES[index % 5])
    if runs <= 60:
        marks = "".join(shape(index, _x(run, runs), axis.at(value), 3) for run, value in one.points.items())
        if marks:
            drawing.path(marks, f"{'fill' if index < 5 else 'open'} {colour}")


def _draw_runs(drawing: Drawing, labels: Sequence[str], bottom: float) -> None:
    if not labels:
        return
    shown = [cut(label, 110, TICK_SIZE) for label in labels]
    count = len(labels)
    room = widest(shown, TICK_SIZE) + 16
    step = 1 if count == 1 else max(1, math.ceil(room / ((_RIGHT - _LEFT - 20) / (count - 1))))
    # Counted from the latest, which readers look for first.
    for run in range(count - 1, -1, -step):
        drawing.line([(_x(run, count), bottom), (_x(run, count), bottom + 4)], "soft")
        drawing.text(_x(run, count), bottom + 17, labels[run], "soft small figures", anchor="middle", room=110)


def _in_words(one: _Series) -> str:
    write = numerals(one.numbers())
    values = list(one.points.values())
    if not values:
        return f"{named(one.name)}: no values"
    said = f"{named(one.name)}: {counted(len(values), 'value')} from {write(min(values))} to {write(max(values))}"
    said += f", latest {write(values[-1])}"
    if one.gaps:
        said += f", {one.gaps} missing"
    if one.bound is not None:
        said += f", bound {plain(one.bound)}"
    return said

"""The forest plot: estimates with their intervals, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crucible_bench.plots.axes import Axis, linear_axis, log_axis
from crucible_bench.plots.numbers import finite, interval_text, length_of, numerals, open_or_finite, plain, ratios
from crucible_bench.plots.picture import WIDE, Picture
from crucible_bench.plots.svg import Drawing, sentence, shape
from crucible_bench.plots.text_layout import clean, cut, named, text_width, widest

__all__ = ["ForestRow", "Margin", "forest_plot"]

Margin = float | tuple[float | None, float | None]

_MOST_ROWS = 60


@dataclass(frozen=True, slots=True)
class ForestRow:
    """An estimate with its interval; None is an open end, and both ends None is an estimate without an interval."""

    label: str
    estimate: float
    low: float | None
    high: float | None
    note: str = ""


def forest_plot(
    rows: Sequence[ForestRow],
    *,
    axis: str,
    reference: float | None = 0.0,
    margin: Margin | None = None,
    log: bool = False,
    interval: str = "interval",
    caption: str | None = None,
    width: float = WIDE,
) -> Picture:
    """Estimates as squares with their intervals as lines, and their numbers beside them.

    `axis` says what is estimated. A line marks the `reference`, the value that means "no difference": by default 0, or
    1 on a logarithmic axis; None draws none. `margin` shades what counts as equivalent: one number is that far to
    either side of the reference (divided and multiplied on a logarithmic axis), a pair gives the ends themselves, None
    an open one. `interval` names the intervals: `95% CI`. An infinite end is an open one, and so is one at 0 on a
    logarithmic axis. More than 60 rows are not drawn, and the picture says so. In a picture narrower than 480 pixels,
    labels stand above the intervals and numbers below them.

    Raises ValueError without rows, for an estimate that is NaN or infinite, for an end that is NaN or on the wrong side
    of the other, and for a number that is not above 0 on a logarithmic axis.
    """
    if len(rows) == 0:
        raise ValueError("a forest plot needs at least one row")
    shown = [_checked(row, log) for row in rows]
    if log and reference == 0:
        reference = 1.0
    band = _band(margin, reference, log)
    for value in (reference, *band):
        if log and value is not None and value <= 0:
            raise ValueError(f"a logarithmic axis has no place for {value:g}")
    drawn = shown[:_MOST_ROWS]
    numbers = [value for row in drawn for value in (row.estimate, row.low, row.high) if value is not None]
    write = ratios if log else numerals(numbers, lengths=[length_of(row.low, row.high) for row in drawn])
    if caption is None:
        caption = _caption(drawn, reference, band, interval)
    head = f"estimate [{cut(clean(interval), 110, 11)}]"
    plot = _Layout(
        drawn, numbers + [value for value in (reference, *band) if value is not None], write, log, head, width
    )
    drawing = Drawing(width)
    top, bottom = 40, 40 + plot.row * len(drawn)
    _draw_backdrop(drawing, plot.axis, top, bottom, band, axis)
    if reference is not None:
        drawing.line([(plot.axis.at(reference), top - 6), (plot.axis.at(reference), bottom)], "ink")
    drawing.text(plot.numbers_at, 26, head, "soft small", anchor="end", room=plot.numbers_room)
    for index, row in enumerate(drawn):
        _draw_row(drawing, plot, row, top + plot.row * index, reference, write)
    height = bottom + 50.0
    if len(shown) > len(drawn):
        height += 18
        left = len(shown) - len(drawn)
        said = f"The first {len(drawn)} of {len(shown)} rows; {left} more are not drawn."
        drawing.text(16, height - 14, said, "soft small")
    return drawing.picture(
        height,
        title=f"Forest plot of {named(axis)}",
        description=_describe(shown, reference, band, interval, write),
        caption=caption,
    )


def _checked(row: ForestRow, log: bool) -> ForestRow:
    name = f"row {clean(row.label)[:60]!r}"
    estimate = finite(row.estimate, f"{name}: the estimate")
    low, high = open_or_finite(row.low, row.high, name)
    if log and min(value for value in (estimate, low, high) if value is not None) <= 0:
        if estimate <= 0 or (high is not None and high <= 0):
            raise ValueError(f"{name}: a logarithmic axis has no place for numbers that are not above 0")
        low = None
    return ForestRow(clean(row.label), estimate, low, high, clean(row.note))


def _band(margin: Margin | None, reference: float | None, log: bool) -> tuple[float | None, float | None]:
    if margin is None:
        return None, None
    if isinstance(margin, tuple):
        return open_or_finite(*margin, "the margin")
    size = finite(margin, "the margin")
    if reference is None:
        raise ValueError("a margin around a reference needs the reference")
    if log:
        size = max(size, 1 / size) if size > 0 else size
        return (reference / size, reference * size) if size > 0 else (size, size)
    return reference - abs(size), reference + abs(size)


class _Layout:
    """Where things are: labels, plot, numbers and notes in a row, or one below the other in a narrow picture."""

    def __init__(
        self,
        rows: Sequence[ForestRow],
        numbers: Sequence[float],
        write: Callable[[float], str],
        log: bool,
        head: str,
        width: float,
    ) -> None:
        numbers_width = max(widest([_numbers_text(row, write) for row in rows]), text_width(head, 11))
        notes = widest([row.note for row in rows], 11)
        self.numbers_room = numbers_width
        self.halo = " halo" if width < 480 else ""  # there, texts are on the plot
        if width < 480:
            self.row, self.label_at, self.middle, self.number_at = 62.0, 16.0, 29.0, 50.0
            self.notes_room = min(notes, 100.0)
            self.numbers_at = width - 16
            self.notes_at, self.notes_anchor = width - 16, "end"
            self.labels_room = width - 32 - (self.notes_room + 12 if notes else 0)
            start, end = 24.0, width - 24
        else:
            self.row, self.label_at, self.middle, self.number_at = 26.0, 17.0, 13.0, 17.0
            self.notes_room = min(notes, 130.0)
            self.numbers_at = width - 16 - (self.notes_room + 14 if notes else 0)
            self.notes_at, self.notes_anchor = self.numbers_at + 14, "start"
            # At least 240 pixels for the plot, whatever the texts take.
            labels = min(widest([row.label for row in rows]), 210.0)
            self.labels_room = max(60.0, min(labels, self.numbers_at - numbers_width - 18 - 240 - 34))
            start, end = 16 + self.labels_room + 18, self.numbers_at - numbers_width - 18
        self.axis: Axis = log_axis(numbers, start, end) if log else linear_axis(numbers, start, end)


def _draw_backdrop(
    drawing: Drawing, axis: Axis, top: float, bottom: float, band: tuple[float | None, float | None], title: str
) -> None:
    low, high = band
    if low is not None or high is not None:
        left = axis.start if low is None else axis.at(low)
        right = axis.end if high is None else axis.at(high)
        drawing.box(left, top, right, bottom, "fill c2", opacity=0.13)
    drawing.axis_below(axis, top, bottom, title)
    for end in band:
        if end is not None:
            drawing.line([(axis.at(end), top), (axis.at(end), bottom)], "c2", dash="4 3", width=1.3)


def _draw_row(
    drawing: Drawing, plot: _Layout, row: ForestRow, top: float, reference: float | None, write: Callable[[float], str]
) -> None:
    axis, middle = plot.axis, top + plot.middle
    text = _numbers_text(row, write)
    drawing.text(16, top + plot.label_at, row.label, f"ink{plot.halo}", room=plot.labels_room)
    drawing.text(plot.numbers_at, top + plot.number_at, text, f"ink figures{plot.halo}", anchor="end")
    if row.note:
        place = plot.notes_at, top + plot.label_at
        drawing.text(*place, row.note, f"soft small{plot.halo}", anchor=plot.notes_anchor, room=plot.notes_room)
    if row.low is not None or row.high is not None:
        drawing.whisker(axis, row.low, row.high, middle, "c0")
    mark = shape(0, axis.at(row.estimate), middle, 4.5)
    label = f"{row.label}: {text}"
    if _excludes(row, reference):
        drawing.path(mark, "fill c0", title=label)
    else:
        drawing.path(mark, "open c0", width=1.8, title=label)


def _excludes(row: ForestRow, reference: float | None) -> bool:
    if reference is None:
        return True
    return (row.low is not None and row.low > reference) or (row.high is not None and row.high < reference)


def _numbers_text(row: ForestRow, write: Callable[[float], str]) -> str:
    if row.low is None and row.high is None:
        return write(row.estimate)
    return f"{write(row.estimate)} {interval_text(row.low, row.high, write)}"


def _margin_words(band: tuple[float | None, float | None]) -> str:
    low, high = band
    if low is None and high is None:
        return ""
    if low is None or high is None:
        return f"above {plain(low)}" if low is not None else f"below {plain(high)}" if high is not None else ""
    return f"from {plain(low)} to {plain(high)}"


def _caption(
    rows: Sequence[ForestRow],
    reference: float | None,
    band: tuple[float | None, float | None],
    interval: str,
) -> str:
    said = f"Squares: estimates; lines: {interval}."
    if reference is not None:
        said += f" A filled square: the interval excludes {plain(reference)}."
    if any((row.low is None) != (row.high is None) for row in rows):
        said += " An arrow: the interval has no end there."
    if words := _margin_words(band):
        said += f" Shaded: the margin, {words}."
    return said


def _describe(
    rows: Sequence[ForestRow],
    reference: float | None,
    band: tuple[float | None, float | None],
    interval: str,
    write: Callable[[float], str],
) -> str:
    rows_in_words = []
    for row in rows:
        parts = f"{named(row.label)}: {write(row.estimate)}"
        if row.low is not None or row.high is not None:
            parts += f", {interval} {interval_text(row.low, row.high, write)}"
            if reference is not None:
                parts += f", {'excludes' if _excludes(row, reference) else 'includes'} {plain(reference)}"
        rows_in_words.append(parts)
    words = _margin_words(band)
    return sentence(rows_in_words, 12, "rows") + "." + (f" Margin {words}." if words else "")

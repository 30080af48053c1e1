"""The SVG writer: a few shapes, one style for light and dark, every text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Final

from crucible_bench.plots.axes import TICK_SIZE, Axis
from crucible_bench.plots.picture import WIDE, Picture
from crucible_bench.plots.text_layout import BOLD_SIZE, clean, cut, text_width

__all__ = ["COLOURS", "DASHES", "SERIES", "Drawing", "sentence", "shape"]

# Name -> on light, on dark. The series are of Okabe and Ito's set, which people with any colour vision can tell
# apart: https://jfly.uni-koeln.de/color/. On light those that stand out from white by 3 to 1, on dark the bright ones.
COLOURS: Final[Mapping[str, tuple[str, str]]] = {
    "ink": ("#1a1f29", "#e6e9ef"),
    "soft": ("#5b6472", "#9aa4b2"),
    "rule": ("#dfe3e9", "#2c333e"),
    "paper": ("#ffffff", "#14171d"),
    "c0": ("#0072b2", "#56b4e9"),
    "c1": ("#d55e00", "#e69f00"),
    "c2": ("#009e73", "#009e73"),
    "c3": ("#cc79a7", "#cc79a7"),
    "c4": ("#1a1f29", "#f0e442"),
}
SERIES: Final = ("c0", "c1", "c2", "c3", "c4")
DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "12 4")
_MOST_WORDS = 3000

_FONT = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif'


def _style() -> str:
    def colours(theme: int) -> str:
        return "".join(f".crucible-picture .{name}{{color:{both[theme]}}}" for name, both in COLOURS.items())

    return (
        f".crucible-picture{{font:12px {_FONT};max-width:100%;height:auto}}"
        ".crucible-picture text{fill:currentColor}"
        ".crucible-picture .halo{paint-order:stroke;stroke-width:4;stroke-linejoin:round}"
        ".crucible-picture .small{font-size:11px}.crucible-picture .bold{font-weight:600}"
        ".crucible-picture .figures{font-variant-numeric:tabular-nums}"
        ".crucible-picture .fill{fill:currentColor;stroke:none}"
        ".crucible-picture .line{fill:none;stroke:currentColor}"
        ".crucible-picture .dots{fill:none;stroke:currentColor;stroke-linecap:round}"
        f".crucible-picture .card,.crucible-picture .open{{fill:{COLOURS['paper'][0]};stroke:currentColor}}"
        f".crucible-picture .halo{{stroke:{COLOURS['paper'][0]}}}"
        f"{colours(0)}"
        "@media (prefers-color-scheme:dark){"
        f".crucible-picture .card,.crucible-picture .open{{fill:{COLOURS['paper'][1]}}}"
        f".crucible-picture .halo{{stroke:{COLOURS['paper'][1]}}}{colours(1)}}}"
    )


def _number(value: float) -> str:
    """A place in pixels, to a tenth."""
    text = f"{value:.1f}"
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


def _escape(text: str, most: int = 300) -> str:
    return html.escape(clean(text, most), quote=True)


def sentence(parts: Iterable[str], most: int, what: str) -> str:
    """At most `most` parts, joined, and how many are left."""
    every = list(parts)
    left = len(every) - most
    return "; ".join(every[:most]) + (f"; and {left} more {what}" if left > 0 else "")


def shape(kind: int, x: float, y: float, size: float) -> str:
    """The outline of one of six marks, centred, as the data of a path."""
    s = size
    match kind % 6:
        case 0:
            points = [(-s, -s), (s, -s), (s, s), (-s, s)]
        case 1:
            points = [(0, -1.3 * s), (1.3 * s, 0), (0, 1.3 * s), (-1.3 * s, 0)]
        case 2:
            points = [(0, -1.25 * s), (1.25 * s, s), (-1.25 * s, s)]
        case 3:
            points = [(0, 1.25 * s), (-1.25 * s, -s), (1.25 * s, -s)]
        case 4:
            points = [(-s, -1.3 * s), (s, -1.3 * s), (s, 1.3 * s), (-s, 1.3 * s)]
        case _:
            points = [(-1.4 * s, -0.7 * s), (1.4 * s, -0.7 * s), (1.4 * s, 0.7 * s), (-1.4 * s, 0.7 * s)]
    return _moves([(x + dx, y + dy) for dx, dy in points]) + "Z"


def _moves(points: Iterable[tuple[float, float]]) -> str:
    """A line through the points as the data of a path; horizontal and vertical pieces in their shorter form."""
    data, last = "", ("", "")
    for x, y in points:
        place = _number(x), _number(y)
        if not data:
            data = f"M{place[0]} {place[1]}"
        elif place[1] == last[1]:
            data += f"H{place[0]}"
        elif place[0] == last[0]:
            data += f"V{place[1]}"
        else:
            data += f"L{place[0]} {place[1]}"
        last = place
    return data


class Drawing:
    """Collects shapes from the back to the front; `picture` makes the SVG of them.

    Coordinates are pixels from the upper left corner. Class names are those of the style: a colour (`ink`, `soft`,
    `rule`, `c0` ...) and a way to draw (`fill`, `line`, `dots`, `open`).
    """

    def __init__(self, width: float = WIDE) -> None:
        self.width = width
        self._parts: list[str] = []

    def path(
        self, data: str, classes: str, *, width: float = 1, dash: str = "", opacity: float = 1, title: str = ""
    ) -> None:
        more = f' stroke-width="{width:g}"' if width != 1 else ""
        more += f' stroke-dasharray="{dash}"' if dash else ""
        more += f' opacity="{opacity:g}"' if opacity != 1 else ""
        inner = f"><title>{_escape(title)}</title></path>" if title else "/>"
        self._parts.append(f'<path class="{classes}" d="{data}"{more}{inner}')

    def line(
        self, points: Iterable[tuple[float, float]], classes: str, *, width: float = 1, dash: str = "", title: str = "",
        opacity: float = 1,
    ) -> None:  # fmt: skip
        self.path(_moves(points), f"line {classes}", width=width, dash=dash, title=title, opacity=opacity)

    def lines(
        self, every: Iterable[Iterable[tuple[float, float]]], classes: str, *, width: float = 1, dash: str = ""
    ) -> None:
        """Many lines of the same style as one path."""
        data = "".join(map(_moves, every))
        if data:
            self.path(data, f"line {classes}", width=width, dash=dash)

    def area(self, points: Iterable[tuple[float, float]], classes: str, *, opacity: float = 1) -> None:
        self.path(_moves(points) + "Z", f"fill {classes}", opacity=opacity)

    def areas(self, every: Iterable[Iterable[tuple[float, float]]], classes: str, *, opacity: float = 1) -> None:
        """Many areas of the same style as one path."""
        data = "".join(f"{_moves(points)}Z" for points in every)
        if data:
            self.path(data, f"fill {classes}", opacity=opacity)

    def box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        classes: str,
        *,
        width: float = 1,
        opacity: float = 1,
    ) -> None:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.path(_moves(corners) + "Z", classes, width=width, opacity=opacity)

    def dots(self, points: Iterable[tuple[float, float]], classes: str, *, size: float, opacity: float = 1) -> None:
        """Round dots as one path of lines that have no length: fifteen bytes a dot."""
        data = "".join(f"M{_number(x)} {_number(y)}h0" for x, y in points)
        if data:
            self.path(data, f"dots {classes}", width=size, opacity=opacity)

    def whisker(
        self,
        axis: Axis,
        low: float | None,
        high: float | None,
        at: float,
        classes: str,
        *,
        upright: bool = False,
    ) -> None:
        """An interval along the axis at the place `at` across it: an end with a cap, an open one with an arrow."""

        def turn(along: float, across: float) -> tuple[float, float]:
            return (across, along) if upright else (along, across)

        ends = (axis.start if low is None else axis.at(low), axis.end if high is None else axis.at(high))
        data = _moves([turn(ends[0], at), turn(ends[1], at)])
        inward = 6.5 if axis.end > axis.start else -6.5
        for end, place, step in ((low, ends[0], inward), (high, ends[1], -inward)):
            if end is None:
                data += _moves([turn(place + step, at - 4.5), turn(place, at), turn(place + step, at + 4.5)])
            else:
                data += _moves([turn(place, at - 3.5), turn(place, at + 3.5)])
        self.path(data, f"line {classes}", width=1.8)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        classes: str = "ink",
        *,
        anchor: str = "start",
        room: float | None = None,
        suffix: str = "",
    ) -> None:
        """Text with its baseline at y; what does not fit into `room` is cut, and the whole text becomes its title."""
        whole = clean(text)
        size = TICK_SIZE if "small" in classes else BOLD_SIZE if "bold" in classes else 12
        shown = whole if room is None else cut(whole, room - text_width(suffix, size), size)
        if not shown + suffix:
            return
        title = f"<title>{_escape(whole)}</title>" if shown != whole else ""
        side = f' text-anchor="{anchor}"' if anchor != "start" else ""
        place = f'x="{_number(x)}" y="{_number(y)}"{side}'
        self._parts.append(f'<text class="{classes}" {place}>{title}{html.escape(shown + suffix)}</text>')

    def axis_below(self, axis: Axis, top: float, bottom: float, title: str) -> None:
        """Grid, tick labels and title of a horizontal axis under a plot; it takes 44 pixels below `bottom`."""
        self.lines(([(axis.at(tick), top), (axis.at(tick), bottom)] for tick in axis.ticks), "rule")
        for tick, label in zip(axis.ticks, axis.labels, strict=True):
            self.text(axis.at(tick), bottom + 16, label, "soft small figures", anchor="middle")
        self.line([(axis.start, bottom), (axis.end, bottom)], "soft")
        self.centred(axis.start, axis.end, bottom + 36, title, axis.suffix)

    def centred(self, left: float, right: float, y: float, title: str, suffix: str = "") -> None:
        """A title in the middle of a span; one that is longer stays within the picture."""
        room = self.width - 32
        width = min(text_width(clean(title) + suffix), room)
        middle = min(max((left + right) / 2, 16 + width / 2), self.width - 16 - width / 2)
        self.text(middle, y, title, anchor="middle", room=room, suffix=suffix)

    def axis_left(self, axis: Axis, left: float, right: float, title: str, top: float) -> None:
        """Grid and tick labels of a vertical axis; its title is above them, where it can be read."""
        self.lines(([(left, axis.at(tick)), (right, axis.at(tick))] for tick in axis.ticks), "rule")
        for tick, label in zip(axis.ticks, axis.labels, strict=True):
            self.text(left - 8, axis.at(tick) + 4, label, "soft small figures", anchor="end")
        self.text(left - 60, top, title, room=right - left + 60, suffix=axis.suffix)

    def picture(self, height: float, *, title: str, description: str, caption: str | None) -> Picture:
        alt = clean(f"{title}. {description}", _MOST_WORDS)
        size = f"{_number(self.width)} {_number(height)}"
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="crucible-picture" role="img" viewBox="0 0 {size}"'
            f' width="{_number(self.width)}" height="{_number(height)}">'
            f"<title>{_escape(title)}</title><desc>{_escape(description, _MOST_WORDS)}</desc><style>{_style()}</style>"
            f'<rect class="card rule" x="0.5" y="0.5" width="{_number(self.width - 1)}" height="{_number(height - 1)}"'
            f' rx="8"/>{"".join(self._parts)}</svg>'
        )
        return Picture(svg, alt, caption and clean(caption))

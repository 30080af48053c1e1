"""The heat map: a number for each pair of two things' levels, written in its cell and shown by a shade."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product

from crucible_bench.plots.numbers import finite, numerals
from crucible_bench.plots.picture import WIDE, Picture
from crucible_bench.plots.svg import Drawing, sentence
from crucible_bench.plots.text_layout import BOLD_SIZE, clean, named, text_width, widest

__all__ = ["heat_map"]

_MOST_ROWS = 16
_MOST_COLUMNS = 12
_SHADES = 10
DARKEST = 0.5  # the text in a cell stands out from it by 4.5 to 1 or more, in both themes
_WIDEST = 170.0
_ROW = 32.0

Cell = tuple[str, str]
"""Row and column."""


def heat_map(
    values: Mapping[Cell, float | None],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    down: str,
    across: str,
    measure: str,
    marked: Collection[Cell] = (),
    caption: str | None = None,
    width: float = WIDE,
) -> Picture:
    """The number of each row and column in its cell, on a shade of one colour: the stronger, the higher.

    `down` and `across` say what rows and columns are, `measure` what the numbers are. A pair without a number, or with
    None, is an empty cell with a dashed outline. The cells in `marked` have a frame and bold numbers. Rows become
    columns where there are more columns than fit; what is still too much is not drawn, and the picture says so.

    Raises ValueError without rows or columns, for names that are not unique, and for a number that is NaN or infinite.
    """
    for what, names in (("row", rows), ("column", columns)):
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a heat map needs at least one {what}, and no two {what}s of one name")
    numbers = {
        cell: finite(value, f"the cell {' and '.join(map(clean, cell))[:80]!r}")
        for cell, value in values.items()
        if value is not None
    }
    for digits in (3, 2):  # fewer where the columns do not fit
        write = numerals(numbers.values(), digits)
        texts = {cell: write(value) for cell, value in numbers.items()}
        table = _Table(rows, columns, down, across, widest(texts.values(), BOLD_SIZE), width)
        if not table.left_out:
            break
    drawing = Drawing(width)
    empty = [table.box(place) for place in table.places if table.cell(place) not in numbers]
    framed = [table.box(place) for place in table.places if (cell := table.cell(place)) in marked and cell in numbers]
    for opacity, boxes in _shaded(table, numbers).items():
        drawing.areas(boxes, "c0", opacity=opacity)
    drawing.lines(empty, "soft", dash="3 3")
    drawing.lines(framed, "ink", width=1.8)
    for place in table.places:
        cell, (x, y) = table.cell(place), table.middle(place)
        bold = " bold" if cell in marked and cell in texts else ""
        drawing.text(x, y, texts.get(cell, "–"), f"ink figures{bold}", anchor="middle")
    table.draw_names(drawing)
    height = table.bottom + 16
    for said in table.left_out:
        height += 16
        drawing.text(16, height - 12, said, "soft small")
    return drawing.picture(
        height,
        title=f"Heat map of {named(measure)} by {named(across)} and {named(down)}",
        description=_describe(table, texts, marked),
        caption=_caption(measure, bool(empty), bool(framed)) if caption is None else caption,
    )


Place = tuple[int, int]
"""Row and column as they are drawn."""


class _Table:
    """Where the cells are. Rows and columns change places where that lets more of the columns fit."""

    def __init__(
        self, rows: Sequence[str], columns: Sequence[str], down: str, across: str, numbers: float, width: float
    ) -> None:
        least = max(34.0, numbers + 12)
        fits = _columns_that_fit(rows, down, least, width)
        self.is_turned = len(columns) > fits and len(rows) < len(columns)
        if self.is_turned:
            rows, columns, down, across = columns, rows, across, down
            fits = _columns_that_fit(rows, down, least, width)
        self.rows, self.columns = rows[:_MOST_ROWS], columns[:fits]
        self.down, self.across, self.width = down, across, width
        self.left, self.top = 16 + _labels_room(self.rows, down, width), 58.0
        self.size = min(_WIDEST, (width - 16 - self.left) / len(self.columns))
        self.bottom = self.top + _ROW * len(self.rows)
        self.places: list[Place] = list(product(range(len(self.rows)), range(len(self.columns))))
        self.left_out = [
            f"The first {len(few)} of {len(many)} {what}."
            for many, few, what in ((rows, self.rows, "rows"), (columns, self.columns, "columns"))
            if len(many) > len(few)
        ]

    def cell(self, place: Place) -> Cell:
        row, column = self.rows[place[0]], self.columns[place[1]]
        return (column, row) if self.is_turned else (row, column)

    def box(self, place: Place) -> list[tuple[float, float]]:
        x, y = self.left + place[1] * self.size, self.top + place[0] * _ROW
        right, bottom = x + self.size - 1, y + _ROW - 1
        return [(x + 1, y + 1), (right, y + 1), (right, bottom), (x + 1, bottom), (x + 1, y + 1)]

    def middle(self, place: Place) -> tuple[float, float]:
        return self.left + (place[1] + 0.5) * self.size, self.top + (place[0] + 0.5) * _ROW + 4

    def draw_names(self, drawing: Drawing) -> None:
        for c, column in enumerate(self.columns):
            x, _ = self.middle((0, c))
            drawing.text(x, self.top - 8, column, "soft small", anchor="middle", room=self.size - 8)
        for r, row in enumerate(self.rows):
            _, y = self.middle((r, 0))
            drawing.text(16, y, row, "soft small", room=self.left - 26)
        drawing.text(16, self.top - 8, self.down, room=self.left - 26)
        drawing.text(self.left + 1, 26, self.across, room=self.width - 17 - self.left)


def _columns_that_fit(rows: Sequence[str], down: str, least: float, width: float) -> int:
    room = width - 32 - _labels_room(rows, down, width)
    return min(_MOST_COLUMNS, max(1, int(room / least)))


def _shaded(table: _Table, numbers: Mapping[Cell, float]) -> dict[float, list[list[tuple[float, float]]]]:
    """Opacity -> the corners of the cells that have it."""
    found: dict[float, list[list[tuple[float, float]]]] = {}
    low, high = min(numbers.values(), default=0.0), max(numbers.values(), default=0.0)
    half = high / 2 - low / 2  # the difference of the largest and the smallest float overflows
    for place in table.places:
        value = numbers.get(table.cell(place))
        if value is not None:
            share = (value / 2 - low / 2) / half if half > 0 else 0.5
            opacity = (1 + min(_SHADES - 1, int(share * _SHADES))) * DARKEST / _SHADES
            found.setdefault(opacity, []).append(table.box(place)[:4])
    return found


def _labels_room(rows: Sequence[str], down: str, width: float) -> float:
    most = 190.0 if width >= 480 else 92.0
    return min(most, max(widest(map(clean, rows), 11), text_width(clean(down))) + 16)


def _caption(measure: str, has_empty: bool, has_framed: bool) -> str:
    said = f"Mean {clean(measure)} in each cell; the stronger the shade, the higher."
    if has_framed:
        said += " Framed: those that may be the best."
    if has_empty:
        said += " A dashed cell has no value."
    return said


def _describe(table: _Table, texts: Mapping[Cell, str], marked: Collection[Cell]) -> str:
    lines = []
    for r, row in enumerate(table.rows):
        parts = []
        for c, column in enumerate(table.columns):
            cell = table.cell((r, c))
            frame = " (framed)" if cell in marked and cell in texts else ""
            parts.append(f"{named(column)} {texts.get(cell, 'no value')}{frame}")
        lines.append(f"{named(row)}: {', '.join(parts)}")
    return sentence(lines, 12, "rows") + "."

"""The critical-difference diagram: mean ranks, and which are not shown to differ (Demsar 2006, figure 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from crucible_bench.plots.numbers import finite
from crucible_bench.plots.picture import WIDE, Picture
from crucible_bench.plots.svg import Drawing, sentence
from crucible_bench.plots.text_layout import clean, counted, named, widest

__all__ = ["critical_difference"]

_ROW = 24
_MOST = 40


def critical_difference(
    mean_ranks: Mapping[str, float],
    *,
    critical_difference: float | None,
    cliques: Sequence[Sequence[str]],
    blocks: int,
    caption: str | None = None,
    width: float = WIDE,
) -> Picture:
    """Methods on an axis of mean ranks, 1 the best; a bar joins the members of each clique, which are not told apart.

    `critical_difference` is drawn as a ruler; None, for procedures that have none, draws no ruler. `blocks` is the
    number of data sets that were ranked.

    Raises ValueError for fewer than two or more than 40 methods, for a rank below 1 or above the number of methods, and
    for a clique that names an unknown method.
    """
    count = len(mean_ranks)
    if not 2 <= count <= _MOST:
        raise ValueError(f"a critical-difference diagram shows 2 to {_MOST} methods, not {count}")
    ranks = {name: finite(rank, f"the mean rank of {clean(name)[:60]!r}") for name, rank in mean_ranks.items()}
    for name, rank in ranks.items():
        if not 1 - 1e-9 <= rank <= count + 1e-9:
            raise ValueError(f"the mean rank of {clean(name)[:60]!r} is {rank:g}; it must be from 1 to {count}")
    if critical_difference is not None and finite(critical_difference, "the critical difference") <= 0:
        raise ValueError(f"the critical difference must be above 0, not {critical_difference:g}")
    for member in (member for clique in cliques for member in clique):
        if member not in ranks:
            raise ValueError(f"a clique names {clean(member)[:60]!r}, which has no mean rank")
    names = sorted(ranks, key=lambda name: ranks[name])
    bars = _bars(ranks, cliques)
    drawing = Drawing(width)
    # At least 60 pixels for the axis, whatever the names take.
    most = max(50.0, min(150.0, width / 2 - 106))
    names_room = min(max(widest(clean(name) for name in names), 50.0), most)
    start = 16 + names_room + 46 + 14
    end = drawing.width - start

    def at(rank: float) -> float:
        return start + (min(max(rank, 1), count) - 1) / (count - 1) * (end - start)

    line = 44.0
    if critical_difference is not None:
        line = 76.0
        _draw_ruler(drawing, at, critical_difference, count, start)
    _draw_axis(drawing, at, line, count)
    bars_top = line + 14
    below = bars_top + 9 * (max((level for *_, level in bars), default=-1) + 1) + 8
    left, right = names[: (count + 1) // 2], names[(count + 1) // 2 :]
    for side, members in ((0, left), (1, list(reversed(right)))):
        for row, name in enumerate(members):
            y = below + 12 + row * _ROW
            edge = start - 14 if side == 0 else end + 14
            drawing.line([(at(ranks[name]), line), (at(ranks[name]), y), (edge, y)], "soft")
            drawing.dots([(at(ranks[name]), line)], "ink", size=5)
            outwards = -1 if side == 0 else 1
            anchor = "end" if side == 0 else "start"
            drawing.text(edge + 6 * outwards, y + 4, f"{ranks[name]:.2f}", "soft small figures", anchor=anchor)
            drawing.text(edge + 46 * outwards, y + 4, name, anchor=anchor, room=names_room)
    for low, high, level in bars:
        y = bars_top + 9 * level
        drawing.line([(at(low) - 4, y), (at(high) + 4, y)], "c0", width=4.5)
    height = below + 12 + _ROW * max(len(left), len(right))
    if caption is None:
        caption = (
            f"Mean ranks over {counted(blocks, 'data set')}, 1 the best. A bar joins methods that are not told apart."
        )
        if critical_difference is not None:
            caption += f" CD: the critical difference, {critical_difference:.3g}."
    ranked = sentence((f"{named(name)} {ranks[name]:.2f}" for name in names), 40, "methods")
    groups = "; ".join(
        ", ".join(map(named, sorted(clique, key=lambda name: ranks[name]))) for clique in cliques if len(clique) > 1
    )
    ruler = "" if critical_difference is None else f" Critical difference {critical_difference:.3g}."
    return drawing.picture(
        height,
        title=f"Critical-difference diagram of {count} methods over {counted(blocks, 'data set')}",
        description=f"Mean ranks, 1 the best: {ranked}.{ruler} Not told apart: {groups or 'none'}.",
        caption=caption,
    )


def _bars(ranks: Mapping[str, float], cliques: Sequence[Sequence[str]]) -> list[tuple[float, float, int]]:
    """From, to and level of a bar for each clique of at least two; bars of one level do not touch."""
    bars: list[tuple[float, float, int]] = []
    gap = 0.03 * len(ranks)
    spans = {(min(members), max(members)) for clique in cliques if len(members := [ranks[one] for one in clique]) > 1}
    for low, high in sorted(spans):
        taken = {level for before, after, level in bars if before - gap <= high and low <= after + gap}
        bars.append((low, high, next(level for level in range(len(bars) + 1) if level not in taken)))
    return bars


def _draw_axis(drawing: Drawing, at: Callable[[float], float], line: float, count: int) -> None:
    drawing.line([(at(1), line), (at(count), line)], "ink", width=1.3)
    step = next(step for step in (1, 2, 5, 10) if count / step <= 12)
    for rank in range(1, count + 1):
        major = rank == 1 or rank % step == 0
        drawing.line([(at(rank), line), (at(rank), line - (7 if major else 4))], "ink")
        if major:
            drawing.text(at(rank), line - 11, str(rank), "soft small figures", anchor="middle")
    drawing.text(16, line - 11, "mean rank", "soft small")


def _draw_ruler(drawing: Drawing, at: Callable[[float], float], size: float, count: int, start: float) -> None:
    # Longer than the axis, it separates no methods: it is drawn as long as the axis, open at its end.
    end = at(1 + min(size, count - 1))
    drawing.line([(start, 34), (end, 34)], "ink", width=1.8)
    drawing.line([(start, 29.5), (start, 38.5)], "ink", width=1.8)
    if size <= count - 1:
        drawing.line([(end, 29.5), (end, 38.5)], "ink", width=1.8)
    else:
        drawing.line([(end - 7, 29.5), (end, 34), (end - 7, 38.5)], "ink", width=1.8)
    drawing.text((start + end) / 2, 24, f"CD = {size:.3g}", "ink small figures", anchor="middle")

"""The series of a run in its report: a curve of each."""

from __future__ import annotations

from crucible_bench.plots import line_of_points
from crucible_core.context import Context
from crucible_core.report.document import Block, Paragraph, Section
from crucible_core.values.series import Series

__all__ = ["series_section"]

MOST = 12


def series_section(ctx: Context) -> Section | None:
    """A picture of each of the first 12 series among the metrics; None without one."""
    found = {name: value for name, value in ctx.metrics.items() if isinstance(value, Series)}
    if not found:
        return None
    shown = list(found)[:MOST]
    blocks: list[Block] = [line_of_points(found[name].points, measure=name) for name in shown]
    if len(found) > len(shown):
        blocks.append(Paragraph(f"Drawn: the first {MOST} of {len(found)} series."))
    return Section("Series", tuple(blocks))

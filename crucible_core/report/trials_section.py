"""What a report says about the trials of a run: those that failed first, then the arms, the best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crucible_core.context import Context
from crucible_core.report.document import Block, Paragraph, Section, Table
from crucible_core.report.leaderboard import MOST_ARMS, leaderboard_of
from crucible_core.report.sweep_pictures import sweep_pictures
from crucible_core.values.formatting import format_value

__all__ = ["failed_trials", "trial_rows", "trials_section", "trials_table"]

MOST_SHOWN = 20
TABLES = ("trials.csv", "trials.parquet")
"""The artifacts that have the whole table."""
_COLUMNS = frozenset({"arm", "replicate", "seed", "status", "seconds"})

Row = Mapping[str, Any]


def trial_rows(ctx: Context) -> list[Row]:
    """The rows of its trials among the outputs; none if the run has no trials."""
    if not isinstance(ctx.metrics.get("trials"), Mapping):
        return []
    return [one for one in ctx.outputs if isinstance(one, Mapping) and one.keys() >= _COLUMNS]


def trials_section(ctx: Context) -> Section | None:
    """Which trials failed and why, and the leaderboard of the arms."""
    rows = trial_rows(ctx)
    if not rows:
        return None
    failed = [row for row in rows if row["status"] != "succeeded"]
    blocks: list[Block] = []
    if failed:
        blocks.append(Paragraph(failed_trials(ctx)))
        blocks.append(trials_table(failed[:MOST_SHOWN], ("arm", "replicate", "stage", "error")))
    board = leaderboard_of(ctx, rows)
    blocks.append(board.table())
    if len(board.arms) > MOST_ARMS:
        blocks.append(Paragraph(f"The first {MOST_ARMS} of {len(board.arms):,} arms."))
    blocks += map(Paragraph, board.notes)
    blocks += sweep_pictures(ctx, rows, board)
    if kept := [name for name in ctx.artifacts if name in TABLES]:
        blocks.append(Paragraph(f"All columns of all {len(rows):,} trials: {' and '.join(kept)}, among the artifacts."))
    return Section("Trials", tuple(blocks))


def failed_trials(ctx: Context) -> str:
    """`3 of 30 trials failed.`; empty if none did."""
    count = ctx.metrics.get("trials")
    if not isinstance(count, Mapping) or not count.get("failed"):
        return ""
    return f"{count['failed']:,} of {count['count']:,} trials failed."


def trials_table(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    """These columns of these rows."""
    numeric = {name for name in columns if all(isinstance(row.get(name), int | float) for row in rows)}
    cells = tuple(tuple(_cell(row.get(name)) for name in columns) for row in rows)
    return Table(tuple(columns), cells, frozenset(numeric))


def _cell(value: Any) -> str:
    return "" if value is None else format_value(value)

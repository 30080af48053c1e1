"""What a report says about the trials of a run: those that failed first, then each arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crucible_core.context import Context
from crucible_core.report.csv import csv_of
from crucible_core.report.document import Block, Paragraph, Section, Table
from crucible_core.values.formatting import format_duration, format_value

__all__ = ["csv_of_trials", "failed_trials", "trial_rows", "trials_section", "trials_table"]

MOST_SHOWN = 20
_COLUMNS = frozenset({"arm", "replicate", "seed", "status", "seconds"})

Row = Mapping[str, Any]


def trial_rows(ctx: Context) -> list[Row]:
    """The rows of its trials among the outputs; none if the run has no trials."""
    if not isinstance(ctx.metrics.get("trials"), Mapping):
        return []
    return [one for one in ctx.outputs if isinstance(one, Mapping) and one.keys() >= _COLUMNS]


def trials_section(ctx: Context) -> Section | None:
    """Which trials failed and why, and a row for each arm."""
    rows = trial_rows(ctx)
    if not rows:
        return None
    failed = [row for row in rows if row["status"] != "succeeded"]
    blocks: list[Block] = []
    if failed:
        blocks.append(Paragraph(failed_trials(ctx)))
        blocks.append(trials_table(failed[:MOST_SHOWN], ("arm", "replicate", "stage", "error")))
    return Section("Trials", (*blocks, _arms_table(rows)))


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


def csv_of_trials(rows: Sequence[Row]) -> str:
    """All columns of the rows as CSV, numbers in full."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return csv_of([tuple(columns), *(tuple(_text(row.get(name)) for name in columns) for row in rows)])


def _arms_table(rows: Sequence[Row]) -> Table:
    return Table(
        ("arm", "succeeded", "failed", "mean time"),
        tuple(_arms(rows)),
        frozenset({"succeeded", "failed", "mean time"}),
    )


def _arms(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    by_arm: dict[str, list[Row]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], []).append(row)
    for arm, own in by_arm.items():
        done = [row["seconds"] for row in own if row["status"] == "succeeded"]
        mean = format_duration(sum(done) / len(done)) if done else ""
        yield arm, f"{len(done):,}", f"{len(own) - len(done):,}", mean


def _cell(value: Any) -> str:
    return "" if value is None else format_value(value)


def _text(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)

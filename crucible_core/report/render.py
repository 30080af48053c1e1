"""A document in each format. Every text is escaped for the format it goes into."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping

from crucible_core.context import Context
from crucible_core.ir.vocabulary import ReportFormat
from crucible_core.metrics import comparisons_in, flatten, pair_values
from crucible_core.report.csv import csv_of
from crucible_core.report.html import html_of
from crucible_core.report.latex import latex_of
from crucible_core.report.markdown import markdown_of
from crucible_core.report.run_report import report_on, summarize_run
from crucible_core.values.jsonable import to_json_text, to_jsonable

__all__ = ["RENDERERS", "html_of", "latex_of", "markdown_of", "render_report"]


def render_report(ctx: Context, report_format: ReportFormat, *, title: str | None = None) -> str:
    """The report on a run as text in the given format."""
    return RENDERERS[report_format](ctx, title)


def _json_report(ctx: Context, title: str | None) -> str:
    return to_json_text({"title": title or ctx.experiment_id, **summarize_run(ctx)})


def _jsonl_report(ctx: Context, _title: str | None) -> str:
    """One JSON object per line: each metric, each output, then each event of the trace, told apart by `kind`."""
    metrics = ({"kind": "metric", "name": name, "value": value} for name, value in flatten(ctx.metrics))
    outputs = ({"kind": "output", "value": value} for value in ctx.outputs)
    events = json.loads(ctx.trace.to_json())
    run = {"experiment": ctx.experiment_id, "run": ctx.run_id}
    return "".join(f"{to_json_text(run | line, indent=None)}\n" for line in itertools.chain(metrics, outputs, events))


def _csv_report(ctx: Context, _title: str | None) -> str:
    """The metrics, one per line, at full precision, with the numbers of a family's pairs by their names.

    A comparison that cannot be read has a line that says so.
    """
    rows = [("experiment", "run", "metric", "value")]
    unread = comparisons_in(ctx.metrics).unread
    for name, value in itertools.chain(unread.items(), flatten(ctx.metrics), pair_values(ctx)):
        rendered = to_jsonable(value)
        text = rendered if isinstance(rendered, str) else json.dumps(rendered, ensure_ascii=False)
        rows.append((ctx.experiment_id, ctx.run_id, name, text))
    return csv_of(rows)


RENDERERS: Mapping[ReportFormat, Callable[[Context, str | None], str]] = {
    "csv": _csv_report,
    "html": lambda ctx, title: html_of(report_on(ctx, title=title)),
    "json": _json_report,
    "jsonl": _jsonl_report,
    "latex": lambda ctx, title: latex_of(report_on(ctx, title=title)),
    "markdown": lambda ctx, title: markdown_of(report_on(ctx, title=title)),
}

"""What Dagster shows from a Context: metrics to plot, the report, the trace, decisions, failures."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import astuple, replace
from typing import Any
from urllib.parse import urlsplit

from dagster import AssetMaterialization, AssetObservation, MetadataValue, TableRecord

from crucible_core import Context, Decision, Experiment, PlannedStage, StageFailed
from crucible_core.ir.secrets import hide
from crucible_core.report import flatten, headline, report_on, results, stages_table
from crucible_core.report.document import Picture, Section
from crucible_core.report.leaderboard import leaderboard_of
from crucible_core.report.markdown import escape_markdown, markdown_of
from crucible_core.report.trials_section import trial_rows
from crucible_core.values.jsonable import to_jsonable, visible_text
from crucible_core.values.messages import cut
from crucible_dagster.names import asset_key, decisions_key
from crucible_dagster.store.lazy import changed_names

__all__ = ["asset_key", "failure_metadata", "inline_code", "materialization", "metric_metadata", "observation"]

MAX_TEXT = 1_000
MAX_MARKDOWN = 250_000  # bytes; Dagster's UI chokes above 256 kB
MAX_JSON = 20_000
MAX_ENTRIES = 1_000
MAX_NUMBERS = 10_000
MAX_ARMS = 50

_RUN_ID = re.compile(r"\b([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")

Metadata = dict[str, MetadataValue[Any]]


def metric_metadata(before: Context | None, after: Context) -> Metadata:
    """The metrics that a stage added or changed; numbers under their plain names, so that Dagster plots them."""
    changed = changed_names({} if before is None else before.metrics, after.metrics)
    return dict(_limited(flatten({name: after.metrics[name] for name in changed})))


def materialization(ctx: Context, chart: Picture | None = None) -> AssetMaterialization:
    """The run's result on the asset's page: the report, the metrics, what ran, the artifacts.

    `chart` is a picture of this run and earlier ones, for the report.
    """
    said = headline(ctx)
    metadata: Metadata = {
        "headline": MetadataValue.text(visible_text(said)),
        "report": MetadataValue.md(_report(ctx, chart)),
        **_leaderboard(ctx),
        "stages": _table(ctx),
    }
    texts = ((name, value) for name, value in ctx.metrics.items() if isinstance(value, str))
    for name, shown in _limited(itertools.chain(results(ctx), texts), MAX_NUMBERS):
        metadata[_free_name(name, "metric", metadata)] = shown
    for name, value in itertools.islice(ctx.artifacts.items(), MAX_ENTRIES):
        metadata[_free_name(visible_text(name), "artifact", metadata)] = _artifact(value)
    return AssetMaterialization(
        asset_key=asset_key(ctx.experiment),
        description=escape_markdown(cut(said, MAX_TEXT)),
        metadata=metadata,
        tags={"crucible/run": ctx.run_id[:63]},
    )


def _report(ctx: Context, chart: Picture | None) -> str:
    """The report as Markdown of at most MAX_MARKDOWN bytes: pictures are replaced by words before any text is cut."""
    document = report_on(ctx)
    if chart is not None:
        gates = sum(section.title == "Gates" for section in document.sections)
        sections = (*document.sections[:gates], Section("The last runs", (chart,)), *document.sections[gates:])
        document = replace(document, sections=sections)
    words = markdown_of(document, picture_bytes=0)
    size = len(words.encode())
    if size <= MAX_MARKDOWN:
        return markdown_of(document, picture_bytes=MAX_MARKDOWN - size)
    kept = words.encode()[: MAX_MARKDOWN - 100].decode(errors="ignore")
    # Only whole lines, so that no table row and no mark-up is cut in the middle.
    return f"{kept.rpartition(chr(10))[0]}\n\n… cut after {MAX_MARKDOWN:,} of {size:,} bytes\n"


def observation(experiment: Experiment, decision: Decision) -> AssetObservation:
    """A decision, in the run's log and on the page of `crucible/<id>/decisions`.

    It is not on the page of the experiment's asset: Dagster plots an asset's numbers from its last hundred events. With
    a few decisions in each run, there would be room for only a dozen runs, with gaps between them.
    """
    metadata: Metadata = {
        "stage": MetadataValue.text(decision.stage),
        "decision": _text(decision.decision),
        "reasoning": _text(decision.reasoning),
    }
    if decision.alternatives:
        metadata["alternatives"] = _text(", ".join(decision.alternatives))
    if decision.confidence is not None:
        metadata["confidence"] = MetadataValue.float(decision.confidence)
    metadata["id"] = MetadataValue.text(decision.id)
    if decision.depends_on:
        metadata["depends_on"] = _text(", ".join(decision.depends_on))
    if decision.metadata:
        metadata["details"] = _value(decision.metadata)
    described = f"{decision.stage} decided: {decision.decision}"
    return AssetObservation(
        asset_key=decisions_key(experiment),
        description=escape_markdown(cut(described, MAX_TEXT)),
        metadata=metadata,
    )


def failure_metadata(planned: PlannedStage, ctx: Context) -> Metadata:
    """What is shown for a failed stage: its name, its options, why it failed, and what ran before it."""
    failed = ctx.trace.endings[planned.name]
    assert isinstance(failed, StageFailed)
    options = hide(type(planned.stage), to_jsonable(planned.stage))
    return {
        "stage": MetadataValue.text(planned.name),
        "options": MetadataValue.json(options),
        "error": _text(failed.reason),
        **({"traceback": MetadataValue.md(_code(failed.traceback))} if failed.traceback else {}),
        "trace": _table(ctx),
    }


def _free_name(name: str, kind: str, taken: Metadata) -> str:
    """The name; with its kind added if something else on the page already has that name."""
    return name if name not in taken else f"{name} ({kind})"


def _limited(values: Iterator[tuple[str, Any]], limit: int = MAX_ENTRIES) -> Iterator[tuple[str, MetadataValue[Any]]]:
    left_out = 0
    for number, (name, value) in enumerate(values):
        if number < limit:
            yield visible_text(name), _value(value)
        else:
            left_out += 1
    if left_out:
        yield "left out", MetadataValue.text(f"{left_out:,} more metrics; the JSON report has them all")


def _value(value: Any) -> MetadataValue[Any]:
    rendered = to_jsonable(value)
    match rendered:
        case bool():
            return MetadataValue.bool(rendered)
        case int():
            return MetadataValue.int(rendered)
        case float() if math.isfinite(rendered):
            return MetadataValue.float(rendered)
        case str():
            return _text(rendered)
        case None:
            return MetadataValue.null()
        case _:
            size = len(str(rendered))
            return (
                MetadataValue.json(rendered)
                if size <= MAX_JSON
                else MetadataValue.text(f"{size:,} characters; see the JSON report")
            )


def _text(text: str) -> MetadataValue[Any]:
    return MetadataValue.text(cut(visible_text(text), MAX_TEXT))


def inline_code(text: str) -> str:
    """A line as Markdown code, no matter what it contains; unlike a code block, it is wrapped."""
    fence = "`" * (max((len(run) for run in _backtick_runs(text)), default=0) + 1)
    return f"{fence} {text} {fence}"


def _code(text: str) -> str:
    fence = "`" * max(3, max((len(run) for run in _backtick_runs(text)), default=0) + 1)
    return f"{fence}\n{cut(text, MAX_JSON)}\n{fence}"


def _backtick_runs(text: str) -> Iterator[str]:
    yield from "".join(char if char == "`" else " " for char in text).split()


def _artifact(value: Any) -> MetadataValue[Any]:
    rendered = to_jsonable(value)
    if not isinstance(rendered, str):
        return _value(value)
    # Dagster makes a clickable link of any URL, even of `javascript:`.
    if urlsplit(rendered).scheme in {"http", "https"}:
        return MetadataValue.url(rendered)
    return MetadataValue.path(rendered) if rendered.startswith("/") else _text(rendered)


def _table(ctx: Context) -> MetadataValue[Any]:
    # Three columns: with one more for the time, the page would cut off its column of values at 1440 pixels.
    records = [
        TableRecord({"stage": _cell(stage), "outcome": outcome, "note": _cell(note or time)})
        for stage, outcome, time, note in stages_table(ctx.trace.events).rows
    ]
    return MetadataValue.table(records=records) if records else _text("nothing ran")


def _leaderboard(ctx: Context) -> Metadata:
    """The arms of a sweep, the best first, if the run compared them."""
    board = leaderboard_of(ctx, trial_rows(ctx))
    if not board.is_ranked:
        return {}
    columns, rows, _ = astuple(board.table(MAX_ARMS))
    # Four columns, for the same reason as above.
    wanted = [columns.index(name) for name in ("rank", "arm")] + [2, columns.index("verdict")]
    records = [TableRecord({columns[place]: _cell(row[place]) for place in wanted}) for row in rows]
    return {"leaderboard": MetadataValue.table(records=records)}


def _cell(text: str) -> str:
    # A whole id is not wrapped and would make the table, and with it the page's column, too wide.
    return cut(_RUN_ID.sub(r"\1", text), MAX_TEXT)

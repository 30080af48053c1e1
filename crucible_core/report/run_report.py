"""What a report says about a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crucible_core.context import Context
from crucible_core.ir.gates import GateResult
from crucible_core.metrics import comparisons, comparisons_in, entries_of, flatten, is_number, named_values, results
from crucible_core.report.comparison_section import comparison_section, unread_section
from crucible_core.report.document import Block, Document, Paragraph, Section, Table
from crucible_core.report.html import framed, html_of
from crucible_core.report.registration_section import (
    as_data,
    label,
    labelled_as,
    registration_in,
    registration_section,
)
from crucible_core.report.series_section import series_section
from crucible_core.report.spending_section import spending_table
from crucible_core.report.trials_section import failed_trials, trial_rows, trials_section
from crucible_core.run_errors import GateFailedError
from crucible_core.run_state.spending import SPENT, spent_in
from crucible_core.trace import (
    Decision,
    Event,
    StageFailed,
    StageRetried,
    StageSkipped,
    StageStarted,
    StageSucceeded,
    Trace,
)
from crucible_core.values.formatting import format_duration, format_value
from crucible_core.values.jsonable import to_jsonable
from crucible_core.values.series import Series

__all__ = [
    "decisions_table",
    "flatten",
    "headline",
    "named_values",
    "report_on",
    "results",
    "stages_table",
    "summarize_run",
]

MAX_ROWS = 200
MAX_OUTPUT_ROWS = 10
MAX_OUTPUT_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class RunReport(Document):
    """The report on a run, which a notebook shows as a page."""

    def _repr_html_(self) -> str:
        return framed(html_of(self))


def report_on(ctx: Context, *, title: str | None = None) -> RunReport:
    """The report on a run so far: the answer, the gates, the comparisons, then everything else."""
    experiment, compared = ctx.experiment, comparisons_in(ctx.metrics)
    opening: list[Block] = [Paragraph(line, strong=True) for line in _headlines(ctx)]
    if experiment.description:
        opening.append(Paragraph(experiment.description))
    opening.append(Table(("", " "), tuple(_identity(ctx))))
    registration = registration_in(ctx)
    sections = [
        _section("Gates", gates_table(ctx.trace.gates)),
        None if registration is None else registration_section(registration, compared.read),
        trials_section(ctx),
        *(
            labelled_as(registration, name, comparison_section(name, comparison))
            for name, comparison in compared.read.items()
        ),
        *(unread_section(name, reason) for name, reason in compared.unread.items()),
        series_section(ctx),
        _section("Spending", spending_table(ctx.metrics, experiment.budget)),
        _section("Metrics", _metrics_table(ctx)),
        _section("Outputs", _outputs_table(ctx)),
        _section("Decisions", decisions_table(ctx.trace.events)),
        _section("What ran", stages_table(_ended(ctx))),
        _section("Artifacts", _artifacts_table(ctx)),
        _section("Options", _options_table(ctx)),
    ]
    return RunReport(title or experiment.id, tuple(opening), tuple(one for one in sections if one is not None))


def head_of(ctx: Context) -> Document:
    """What the report begins with: the answer, the gates and the comparisons, without everything else."""
    whole = report_on(ctx)
    return replace(whole, sections=tuple(one for one in whole.sections if one.title not in _EVERYTHING_ELSE))


_EVERYTHING_ELSE = frozenset({"Metrics", "Outputs", "Decisions", "What ran", "Artifacts", "Options"})


def headline(ctx: Context) -> str:
    """The result in one line, or one per comparison: what failed, else what was found, else the numbers."""
    return " ".join(_headlines(ctx))


def _headlines(ctx: Context) -> list[str]:
    failed = [event for event in ctx.trace.events if isinstance(event, StageFailed)]
    if failed:
        return [f"Failed at stage {failed[0].stage}: {failed[0].reason}"]
    compared = comparisons_in(ctx.metrics)
    registration = registration_in(ctx)
    found = [f"{label(registration, name)}{comparison.headline}" for name, comparison in compared.read.items()]
    found += [f"{name}: {reason}" for name, reason in compared.unread.items()]
    if said := failed_trials(ctx):
        found.append(said)
    if registration is not None and registration.changes:
        found.append(registration.sentence)
    if found:
        return found
    numbers = _to_open_with(ctx)
    if numbers:
        shown = ", ".join(f"{name} = {format_value(value)}" for name, value in numbers[:3])
        return [f"{shown}{f' and {len(numbers) - 3} more metrics' if len(numbers) > 3 else ''}."]
    skipped = sum(isinstance(event, StageSkipped) for event in ctx.trace.endings.values())
    stages = len(ctx.experiment.pipeline) - skipped
    # The stage that writes this report has not ended.
    done = stages if ctx.trace.events and not _is_to_go_on(ctx) else len(ctx.completed_stages)
    return [f"{done} of {stages} stages succeeded; no metrics."]


def _to_open_with(ctx: Context) -> list[tuple[str, Any]]:
    """The numbers of a run without a comparison, except what it spent; series come last, by their last value."""
    of_spending = f"{SPENT}." if spent_in(ctx.metrics) else None
    numbers = [one for one in results(ctx) if of_spending is None or not one[0].startswith(of_spending)]
    series = {name for name, value in ctx.metrics.items() if isinstance(value, Series)}
    of_series = {f"{name}.{part}": part == "last" for name in series for part in ctx.metrics[name]}
    return sorted((one for one in numbers if of_series.get(one[0], True)), key=lambda one: one[0] in of_series)


def _ended(ctx: Context) -> Sequence[Event]:
    """The events without the start of a stage that is running: the one that writes this report."""
    events = ctx.trace.events
    return events[:-1] if events and isinstance(events[-1], StageStarted) else events


def summarize_run(ctx: Context) -> dict[str, Any]:
    """Everything about a run as JSON types: what `crucible run --json` prints and the JSON report holds."""
    endings = ctx.trace.endings
    failed = next((event for event in endings.values() if isinstance(event, StageFailed)), None)
    failure: dict[str, Any] | None = None
    gates = ctx.trace.gates
    if failed is not None:
        failure = {"stage": failed.stage, "error_type": failed.error_type, "message": failed.message}
        if failed.unfinished:
            failure["unfinished"] = list(failed.unfinished)
    elif any(one.blocks for one in gates):
        error = GateFailedError(ctx, gates)
        failure = {"stage": None, "error_type": type(error).__name__, "message": str(error)}
    return {
        "experiment": ctx.experiment.to_dict(),
        "run_id": ctx.run_id,
        "status": "failed" if failure else "running" if _is_to_go_on(ctx) else "succeeded",
        "failure": failure,
        "headline": headline(ctx),
        **as_data(registration_in(ctx), comparisons(ctx)),
        "metrics": to_jsonable(ctx.metrics),
        "outputs": to_jsonable(ctx.outputs),
        "artifacts": to_jsonable(ctx.artifacts),
        "stages": {name: ending.kind.removeprefix("stage_") for name, ending in endings.items()},
        "decisions": _decisions(ctx.trace),
        "gates": [gate.to_dict() for gate in gates],
        "trace": json.loads(ctx.trace.to_json()),
    }


def _decisions(trace: Trace) -> list[dict[str, Any]]:
    parents = trace.parents
    return [
        {"id": one.id, "parent": parents.get(one.id)}
        | {name: value for name, value in one.to_dict().items() if name != "kind"}
        for one in trace.decisions
    ]


def _is_to_go_on(ctx: Context) -> bool:
    # The last stage of the trace may be the one that writes this report: if no other stage is left, the run is over.
    running = {event.stage for event in ctx.trace.events[-1:]}
    over = ctx.trace.endings.keys() | running
    return any(definition.enabled and definition.name not in over for definition in ctx.experiment.pipeline)


def _section(title: str, table: Table | None) -> Section | None:
    if table is None or not table.rows:
        return None
    if not any(row[-1] for row in table.rows):  # notes that no row has
        table = Table(table.columns[:-1], tuple(row[:-1] for row in table.rows), table.numeric)
    if len(table.rows) <= MAX_ROWS:
        return Section(title, (table,))
    note = Paragraph(f"The first {MAX_ROWS} of {len(table.rows):,}; the JSON report has them all.")
    return Section(title, (note, Table(table.columns, table.rows[:MAX_ROWS], table.numeric)))


def _identity(ctx: Context) -> Iterator[tuple[str, str]]:
    yield "experiment", ctx.experiment_id
    yield "run", ctx.run_id
    if len(ctx.trace):
        yield "started", f"{ctx.trace.events[0].at:%Y-%m-%d %H:%M:%S} UTC"
    if (registration := registration_in(ctx)) is not None and not registration.changes:
        yield "pre-registration", registration.sentence
    if ctx.experiment.owner:
        yield "owner", ctx.experiment.owner
    if ctx.experiment.tags:
        yield "tags", ", ".join(ctx.experiment.tags)


# --- the tables -----------------------------------------------------------------------------------------------------


def _metrics_table(ctx: Context) -> Table:
    told_elsewhere = {*comparisons(ctx), "validate", *(("trials",) if trial_rows(ctx) else ())}
    if spent_in(ctx.metrics):
        told_elsewhere.add(SPENT)
    kept = {name: value for name, value in ctx.metrics.items() if name not in told_elsewhere}
    return Table(
        ("metric", "value"), tuple((name, format_value(value)) for name, value in flatten(kept)), frozenset({"value"})
    )


def _outputs_table(ctx: Context) -> Table | None:
    shown = ctx.outputs[:MAX_OUTPUT_ROWS]
    opened = [dict(entries_of(output)) for output in shown]
    more = f"… and {len(ctx.outputs) - len(shown):,} more" if len(ctx.outputs) > len(shown) else None
    if not all(opened):
        cells = [*map(format_value, shown), *([more] if more else [])]
        return Table(("output",), tuple((cell,) for cell in cells))
    names = list(dict.fromkeys(name for output in opened for name in output))
    columns, left_out = names[:MAX_OUTPUT_COLUMNS], len(names[MAX_OUTPUT_COLUMNS:])
    rows = [[format_value(output[name], 80) if name in output else "" for name in columns] for output in opened]
    numeric = {name for name in columns if all(is_number(output[name]) for output in opened if name in output)}
    if left_out:
        columns.append(f"… and {left_out:,} more")
        rows = [[*row, "…"] for row in rows]
    if more:
        rows.append([more, *[""] * (len(columns) - 1)])
    return Table(tuple(columns), tuple(map(tuple, rows)), frozenset(numeric))


def decisions_table(events: Iterable[Event]) -> Table:
    """One row per decision; columns that few decisions fill are there only if one does."""
    decisions = [event for event in events if isinstance(event, Decision)]
    texts = {one.id: one.decision for one in decisions} if any(one.depends_on for one in decisions) else {}
    rows = [
        (
            one.stage,
            one.decision,
            one.reasoning,
            ", ".join(one.alternatives),
            "" if one.confidence is None else f"{one.confidence:.0%}",
            ", ".join(texts.get(each, each) for each in one.depends_on),
            ", ".join(f"{name}: {format_value(value)}" for name, value in (one.metadata or {}).items()),
        )
        for one in decisions
    ]
    columns = ("stage", "decision", "why", "instead of", "confidence", "depends on", "details")
    shown = [place for place in range(len(columns)) if place < 4 or any(row[place] for row in rows)]
    return Table(
        tuple(columns[place] for place in shown),
        tuple(tuple(row[place] for place in shown) for row in rows),
        frozenset({"confidence"}),
    )


def gates_table(gates: Iterable[GateResult]) -> Table:
    return Table(("gate", "result", "why"), tuple((gate.gate, _outcome(gate), gate.sentence) for gate in gates))


def _outcome(gate: GateResult) -> str:
    return gate.status if gate.status == "passed" else f"{gate.status} ({'blocking' if gate.blocks else gate.severity})"


def stages_table(events: Iterable[Event]) -> Table:
    """One row per stage: how it ended, how long it took, and anything unusual."""
    rows: dict[str, tuple[str, str, str, str]] = {}
    retries: dict[str, list[str]] = {}
    for event in events:
        match event:
            case StageStarted():
                rows[event.stage] = (event.stage, "running", "", "")
            case StageRetried():
                retries.setdefault(event.stage, []).append(f"attempt {event.attempt}: {event.reason}")
            case StageSkipped():
                rows[event.stage] = (event.stage, "skipped", "", event.reason)
            case StageSucceeded() | StageFailed():
                said = retries.get(event.stage, [])
                outcome = "succeeded"
                if isinstance(event, StageFailed):
                    outcome, said = "failed", [*said, event.reason]
                elif event.reused_from is not None:
                    outcome = "reused"
                    said = [f"reused from run {event.reused_from}", *said]
                note = "; ".join([*([f"{event.attempts} attempts"] if event.attempts > 1 else []), *said])
                rows[event.stage] = (event.stage, outcome, format_duration(event.seconds), note)
    return Table(("stage", "outcome", "time", "note"), tuple(rows.values()), frozenset({"time"}))


def _artifacts_table(ctx: Context) -> Table:
    return Table(("artifact", "where"), tuple((name, format_value(value)) for name, value in entries_of(ctx.artifacts)))


def _options_table(ctx: Context) -> Table:
    rows = tuple(
        (definition.name, definition.module or definition.name, name, format_value(value))
        for definition in ctx.experiment.pipeline
        for name, value in (definition.options or {}).items()
    )
    return Table(("stage", "runs", "option", "value"), rows)

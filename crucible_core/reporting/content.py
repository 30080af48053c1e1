"""What a report says about a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from crucible_core.context import Context
from crucible_core.jsonable import to_jsonable
from crucible_core.reporting.document import Block, Document, Items, Paragraph, Section, Table
from crucible_core.reporting.numbers import format_duration, format_interval, format_number, format_p, format_value
from crucible_core.trace import Decision, Event, StageFailed, StageRetried, StageSkipped, StageStarted, StageSucceeded
from crucible_core.vocabulary import EffectSizeName

__all__ = ["decisions_table", "flatten", "headline", "report_on", "results", "stages_table", "summarize_run"]

EFFECT_LABELS: Mapping[EffectSizeName, str] = {
    "cohens_d": "Cohen's d",
    "cohens_dz": "Cohen's d_z",
    "epsilon_squared": "ε²",
    "eta_squared": "η²",
    "hedges_g": "Hedges' g",
    "omega_squared": "ω²",
    "rank_biserial": "rank-biserial r",
}

MAX_ROWS = 200
MAX_OUTPUT_ROWS = 10
MAX_OUTPUT_COLUMNS = 8


def report_on(ctx: Context, *, title: str | None = None) -> Document:
    """The report on a run as it stands."""
    experiment = ctx.experiment
    opening: list[Block] = [Paragraph(headline(ctx), strong=True)]
    if experiment.description:
        opening.append(Paragraph(experiment.description))
    opening.append(Table(("", " "), tuple(_identity(ctx))))
    sections = [
        *(_comparison(name, bench) for name, bench in _benches(ctx)),
        _section("Metrics", _metrics_table(ctx)),
        _section("Outputs", _outputs_table(ctx)),
        _section("Decisions", decisions_table(ctx.trace.events)),
        _section("What ran", stages_table(ctx.trace.events)),
        _section("Artifacts", _artifacts_table(ctx)),
        _section("Options", _options_table(ctx)),
    ]
    return Document(title or experiment.id, tuple(opening), tuple(one for one in sections if one is not None))


def headline(ctx: Context) -> str:
    """The result in one sentence: what failed, else what was found, else the numbers."""
    failed = [event for event in ctx.trace.events if isinstance(event, StageFailed)]
    if failed:
        return f"Failed at stage {failed[-1].stage}: {failed[-1].reason}"
    found = [sentence for _, bench in _benches(ctx) for sentence in _finding(bench)]
    if found:
        return " ".join(found)
    numbers = list(results(ctx))
    if numbers:
        shown = ", ".join(f"{name} = {format_number(value)}" for name, value in numbers[:3])
        return f"{shown}{f' and {len(numbers) - 3} more metrics' if len(numbers) > 3 else ''}."
    return f"{len(ctx.completed_stages)} of {len(ctx.experiment.pipeline)} stages succeeded; no metrics."


def summarize_run(ctx: Context) -> dict[str, Any]:
    """Everything about a run as JSON types: what `crucible run --json` prints and the JSON report holds."""
    endings = ctx.trace.endings
    failed = next((event for event in endings.values() if isinstance(event, StageFailed)), None)
    return {
        "experiment": ctx.experiment.to_dict(),
        "run_id": ctx.run_id,
        "status": "failed" if failed else "succeeded" if len(endings) == len(ctx.experiment.pipeline) else "running",
        "failure": failed and {"stage": failed.stage, "error_type": failed.error_type, "message": failed.message},
        "headline": headline(ctx),
        "metrics": to_jsonable(ctx.metrics),
        "outputs": to_jsonable(ctx.outputs),
        "artifacts": to_jsonable(ctx.artifacts),
        "stages": {name: ending.kind.removeprefix("stage_") for name, ending in endings.items()},
        "decisions": [decision.model_dump(mode="json", exclude={"kind"}) for decision in ctx.trace.decisions],
        "trace": json.loads(ctx.trace.to_json()),
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as ("a.b", 1): nested mappings opened, everything else as it is."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def results(ctx: Context) -> Iterator[tuple[str, Any]]:
    """The numbers worth following from run to run: every metric, and of a comparison its findings, not its settings."""
    compared = dict(_benches(ctx))
    for name, value in flatten({name: value for name, value in ctx.metrics.items() if name not in compared}):
        if _is_number(value):
            yield name, value
    for name, bench in compared.items():
        for group, one in bench["groups"].items():
            yield f"{name}.{group}.mean", one["mean"]
        for test, result in bench["tests"].items():
            for key in ("estimate", "effect_size", "p_value", "p_adjusted"):
                if key in result:
                    yield f"{name}.{test}.{key}", result[key]


def _is_number(value: Any) -> bool:
    rendered = to_jsonable(value)
    return isinstance(rendered, int | float) and not isinstance(rendered, bool)


def _section(title: str, table: Table | None) -> Section | None:
    if table is None or not table.rows:
        return None
    if len(table.rows) <= MAX_ROWS:
        return Section(title, (table,))
    note = Paragraph(f"The first {MAX_ROWS} of {len(table.rows):,}; the JSON report has them all.")
    return Section(title, (note, Table(table.columns, table.rows[:MAX_ROWS], table.numeric)))


def _identity(ctx: Context) -> Iterator[tuple[str, str]]:
    yield "experiment", ctx.experiment_id
    yield "run", ctx.run_id
    if len(ctx.trace):
        yield "started", f"{ctx.trace.events[0].at:%Y-%m-%d %H:%M:%S} UTC"
    if ctx.experiment.owner:
        yield "owner", ctx.experiment.owner
    if ctx.experiment.tags:
        yield "tags", ", ".join(ctx.experiment.tags)


# --- the comparison -------------------------------------------------------------------------------------------------


def _benches(ctx: Context) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (name, value)
        for name, value in ctx.metrics.items()
        if isinstance(value, Mapping) and {"alpha", "groups", "tests"} <= set(value)
    ]


def _finding(bench: Mapping[str, Any]) -> Iterator[str]:
    # The first test declared is the one the headline reports; picking the smallest p would be picking the result.
    test = next(iter(bench["tests"].values()), None)
    if test is None:
        return
    p = test.get("p_adjusted", test["p_value"])
    measure = f" in {bench['measure']}" if bench["measure"] else ""
    level = _percent(test["confidence_level"])
    adjusted = f" ({bench['correction']}-adjusted)" if "p_adjusted" in test else ""
    numbers = (
        f"{test['estimate_name']} {format_number(test['estimate'])}, "
        f"{level} CI {format_interval(test['confidence_interval'])}, "
        f"{test['method']}, p {format_p(p)}{adjusted}, n = {_counts(bench, test)}"
    )
    if len(test["groups"]) != 2:
        differ = "differ" if test["significant"] else "could not be told apart"
        yield f"The {len(test['groups'])} groups {', '.join(test['groups'])} {differ}{measure}: {numbers}."
        return
    first, second = test["groups"]
    if test["significant"]:
        word = "higher" if test["estimate"] > 0 else "lower"
        yield f"{first} is {word} than {second}{measure}: {numbers}."
    else:
        yield f"{first} and {second} could not be told apart{measure}: {numbers}."


def _percent(share: float) -> str:
    return f"{100 * share:.6g}%"


def _counts(bench: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    if bench["paired"]:
        return f"{test['n'][0]} pairs"
    return " and ".join(str(n) for n in test["n"]) if len(set(test["n"])) > 1 else f"{test['n'][0]} per group"


def _comparison(name: str, bench: Mapping[str, Any]) -> Section:
    tests = bench["tests"].values()
    groups = Table(
        ("group", "n", "mean", "sd", "median"),
        tuple(
            (
                group,
                format_number(one["n"]),
                *("–" if one[key] is None else format_number(one[key]) for key in ("mean", "sd", "median")),
            )
            for group, one in bench["groups"].items()
        ),
        frozenset({"n", "mean", "sd", "median"}),
    )
    adjusted = bench["correction"] is not None
    columns = (
        "test",
        "statistic",
        "p",
        *(("p adjusted",) if adjusted else ()),
        "estimate",
        "interval",
        "effect size",
        "effect interval",
        "verdict",
    )
    rows = tuple(
        (
            test["method"],
            f"{test['statistic_name']}{_degrees(test['df'])} = {format_number(test['statistic'])}",
            format_p(test["p_value"]).removeprefix("= "),
            *((format_p(test["p_adjusted"]).removeprefix("= "),) if adjusted else ()),
            f"{test['estimate_name']} = {format_number(test['estimate'])}",
            f"{_percent(test['confidence_level'])} {format_interval(test['confidence_interval'])}",
            f"{EFFECT_LABELS[test['effect_size_name']]} = {format_number(test['effect_size'])}",
            format_interval(test["effect_size_interval"]),
            "significant" if test["significant"] else "not significant",
        )
        for test in tests
    )
    blocks: list[Block] = [groups, Table(columns, rows, frozenset({"p", "p adjusted"}))]
    family = f"alpha = {format_number(bench['alpha'])}"
    if adjusted:
        family += f"; {bench['family_size']} tests, p-values adjusted by {bench['correction']}"
    said = [f"{test['test']}: {line}" for test in tests for line in (*test["assumptions"], *test["notes"])]
    blocks.append(Items((family, *said)))
    return Section("Comparison" if name == "bench" else f"Comparison: {name}", tuple(blocks))


def _degrees(df: list[float]) -> str:
    return f"({', '.join(format_number(value) for value in df)})" if df else ""


# --- the tables -----------------------------------------------------------------------------------------------------


def _metrics_table(ctx: Context) -> Table:
    told_elsewhere = {name for name, _ in _benches(ctx)} | {"validate"}
    kept = {name: value for name, value in ctx.metrics.items() if name not in told_elsewhere}
    return Table(
        ("metric", "value"), tuple((name, format_value(value)) for name, value in flatten(kept)), frozenset({"value"})
    )


def _outputs_table(ctx: Context) -> Table | None:
    shown = ctx.outputs[:MAX_OUTPUT_ROWS]
    if not shown:
        return None
    if all(isinstance(output, Mapping) for output in shown):
        columns = tuple(dict.fromkeys(str(key) for output in shown for key in output))[:MAX_OUTPUT_COLUMNS]
        rows = [tuple(format_value(output.get(column, ""), 80) for column in columns) for output in shown]
    else:
        columns, rows = ("output",), [(format_value(output),) for output in shown]
    if len(ctx.outputs) > len(shown):
        rows.append((f"… and {len(ctx.outputs) - len(shown):,} more", *("",) * (len(columns) - 1)))
    numeric = {
        name
        for name in columns
        if all(_is_number(one[name]) for one in shown if isinstance(one, Mapping) and name in one)
    }
    return Table(columns, tuple(rows), frozenset(numeric if isinstance(shown[0], Mapping) else ()))


def decisions_table(events: Iterable[Event]) -> Table:
    columns: tuple[str, ...] = ("stage", "decision", "why", "instead of", "confidence")
    rows: tuple[tuple[str, ...], ...] = tuple(
        (
            event.stage,
            event.decision,
            event.reasoning,
            ", ".join(event.alternatives),
            "" if event.confidence is None else f"{event.confidence:.0%}",
        )
        for event in events
        if isinstance(event, Decision)
    )
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], tuple(row[:-1] for row in rows)
    return Table(columns, rows, frozenset({"confidence"}))


def stages_table(events: Iterable[Event]) -> Table:
    """One row per stage: how it ended, how long it took, what was remarkable."""
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
                note = "; ".join([*([f"{event.attempts} attempts"] if event.attempts > 1 else []), *said])
                rows[event.stage] = (event.stage, outcome, format_duration(event.seconds), note)
    return Table(("stage", "outcome", "time", "note"), tuple(rows.values()), frozenset({"time"}))


def _artifacts_table(ctx: Context) -> Table:
    return Table(("artifact", "where"), tuple((name, format_value(value)) for name, value in ctx.artifacts.items()))


def _options_table(ctx: Context) -> Table:
    rows = tuple(
        (definition.name, definition.module or definition.name, name, format_value(value))
        for definition in ctx.experiment.pipeline
        for name, value in (definition.options or {}).items()
    )
    return Table(("stage", "runs", "option", "value"), rows)

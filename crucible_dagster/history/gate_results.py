"""The results of gates as Dagster keeps them: evaluations of asset checks, and a tag of the run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JsonMetadataValue,
    MetadataValue,
)

from crucible_core import Experiment, GateResult
from crucible_core.ir.vocabulary import GateSeverity
from crucible_core.report.markdown import escape_markdown
from crucible_core.values.jsonable import safe_text, to_jsonable
from crucible_dagster.names import asset_key, dagster_name
from crucible_dagster.tags import GATES_TAG

__all__ = [
    "GATES_TAG",
    "SEVERITIES",
    "GatesVerdict",
    "evaluation_of",
    "forget_verdict",
    "gate_description",
    "gate_metadata",
    "gates_of_run",
    "has_passed",
    "is_judged",
    "is_judged_in",
    "verdict_of",
    "verdict_of_run",
]


GatesVerdict = Literal["failed", "passed", "undecided", "warned"]
"""`failed`: a gate of severity error failed; else `warned`: one of severity warn failed; else `undecided`: one is."""

RESULT_KEY = "gate"
SEVERITIES: Mapping[GateSeverity, AssetCheckSeverity] = {
    "error": AssetCheckSeverity.ERROR,
    "warn": AssetCheckSeverity.WARN,
}


def verdict_of(results: Iterable[GateResult]) -> GatesVerdict:
    """The verdict over all gates of a run."""
    found = list(results)
    if any(one.fails for one in found):
        return "failed"
    if any(one.status == "failed" for one in found):
        return "warned"
    return "undecided" if any(one.status == "undecided" for one in found) else "passed"


def verdict_of_run(run: DagsterRun) -> GatesVerdict | None:
    """What the run's tag says; None if the run was not judged."""
    return next((one for one in get_args(GatesVerdict) if one == run.tags.get(GATES_TAG)), None)


def is_judged_in(run: DagsterRun) -> bool:
    """Whether the run has evaluated the gates on its own stages."""
    return verdict_of_run(run) is not None


def has_passed(run: DagsterRun) -> bool:
    """Whether the run succeeded without a failed gate of severity error."""
    return run.status is DagsterRunStatus.SUCCESS and verdict_of_run(run) != "failed"


def is_judged(run: DagsterRun) -> bool:
    """Whether all stages of the run succeeded, whatever the results of its gates."""
    return run.status is DagsterRunStatus.SUCCESS or (
        run.status is DagsterRunStatus.FAILURE and verdict_of_run(run) is not None
    )


def evaluation_of(experiment: Experiment, result: GateResult, **target: Any) -> AssetCheckEvaluation:
    """The result of a gate as an evaluation of the asset check."""
    return AssetCheckEvaluation(
        asset_key=asset_key(experiment),
        check_name=dagster_name(result.gate),
        passed=result.status == "passed",
        severity=SEVERITIES[result.severity],
        description=gate_description(result),
        blocking=result.blocking,
        metadata=gate_metadata(result),
        **target,
    )


def gate_description(result: GateResult) -> str:
    """The sentence of a gate. Dagster labels an undecided gate "Failed" too, so its text says that it is undecided."""
    return escape_markdown(f"undecided: {result.sentence}" if result.status == "undecided" else result.sentence)


def forget_verdict(instance: DagsterInstance, run: DagsterRun) -> None:
    """Remove the verdict that a re-execution got from the original run, because Dagster copies its tags."""
    if run.tags.get(GATES_TAG):
        instance.add_run_tags(run.run_id, {GATES_TAG: ""})


def gate_metadata(result: GateResult) -> dict[str, MetadataValue[Any]]:
    """Numbers under their plain names, so that Dagster plots them on the check's page, and the whole result."""
    shown: dict[str, MetadataValue[Any]] = {
        "status": MetadataValue.text(result.status),
        "why": MetadataValue.text(safe_text(result.sentence)),
    }
    for name, value in result.numbers.items():
        if not math.isfinite(value):
            shown[name] = MetadataValue.text(str(to_jsonable(value)))
        elif isinstance(value, int):
            shown[name] = MetadataValue.int(value)
        else:
            shown[name] = MetadataValue.float(value)
    if len(result.baseline_runs) == 1:
        shown["baseline run"] = MetadataValue.dagster_run(result.baseline_runs[0])
    shown[RESULT_KEY] = MetadataValue.json(to_jsonable(result.to_dict()))
    return shown


def gates_of_run(instance: DagsterInstance, run_id: str) -> tuple[GateResult, ...]:
    """The results of a run's gates, in order; empty if the run has none, or ended before they were judged."""
    found: dict[str, GateResult] = {}
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
        evaluation = entry.dagster_event.event_specific_data if entry.dagster_event else None
        shown = evaluation.metadata.get(RESULT_KEY) if isinstance(evaluation, AssetCheckEvaluation) else None
        if isinstance(shown, JsonMetadataValue) and isinstance(shown.value, dict):
            result = _read(shown.value)
            found[result.gate] = result
    return tuple(found.values())


def _read(data: Mapping[str, Any]) -> GateResult:
    # In the JSON, infinities are texts.
    numbers = {name: float(value) if isinstance(value, str) else value for name, value in data["numbers"].items()}
    return GateResult(**{**data, "numbers": numbers, "baseline_runs": tuple(data["baseline_runs"])})

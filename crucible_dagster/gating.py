"""Gates on Dagster: asset checks of the experiment's asset, told by each run and executable without one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    DagsterEventType,
    DagsterInstance,
    JsonMetadataValue,
    MetadataValue,
)

from crucible_core import Experiment, GateResult
from crucible_core.jsonable import safe_text, to_jsonable
from crucible_core.vocabulary import GateSeverity
from crucible_dagster.metadata import asset_key
from crucible_dagster.names import dagster_name

__all__ = ["evaluation_of", "gates_of_run"]

RESULT_KEY = "gate"
SEVERITIES: Mapping[GateSeverity, AssetCheckSeverity] = {
    "error": AssetCheckSeverity.ERROR,
    "warn": AssetCheckSeverity.WARN,
}


def evaluation_of(experiment: Experiment, result: GateResult) -> AssetCheckEvaluation:
    """The result of a gate as that of the asset check."""
    return AssetCheckEvaluation(
        asset_key=asset_key(experiment),
        check_name=dagster_name(result.gate),
        passed=result.status == "passed",
        severity=SEVERITIES[result.severity],
        description=safe_text(result.sentence),
        blocking=result.blocking,
        metadata=gate_metadata(result),
    )


def gate_metadata(result: GateResult) -> dict[str, MetadataValue[Any]]:
    """Numbers under their plain names, so that Dagster plots them on the check's page, and the whole result."""
    shown: dict[str, MetadataValue[Any]] = {
        "status": MetadataValue.text(result.status),
        "why": MetadataValue.text(safe_text(result.sentence)),
    }
    for name, value in result.numbers.items():
        if abs(value) < 2**63 and math.isfinite(value):
            shown[name] = MetadataValue.int(value) if isinstance(value, int) else MetadataValue.float(value)
        else:
            shown[name] = MetadataValue.text(str(to_jsonable(value))[:100])
    if len(result.baseline_runs) == 1:
        shown["baseline run"] = MetadataValue.dagster_run(result.baseline_runs[0])
    shown[RESULT_KEY] = MetadataValue.json(to_jsonable(result.to_dict()))
    return shown


def gates_of_run(instance: DagsterInstance, run_id: str) -> tuple[GateResult, ...]:
    """The results of a run's gates, in order; none of a run that did not get that far, or has no gates."""
    found: dict[str, GateResult] = {}
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
        told = entry.dagster_event.event_specific_data if entry.dagster_event else None
        shown = told.metadata.get(RESULT_KEY) if isinstance(told, AssetCheckEvaluation) else None
        if isinstance(shown, JsonMetadataValue) and isinstance(shown.value, dict):
            result = _read(shown.value)
            found[result.gate] = result
    return tuple(found.values())


def _read(data: Mapping[str, Any]) -> GateResult:
    numbers = {name: float(value) if isinstance(value, str) else value for name, value in data["numbers"].items()}
    return GateResult(**{**data, "numbers": numbers, "baseline_runs": tuple(data["baseline_runs"])})

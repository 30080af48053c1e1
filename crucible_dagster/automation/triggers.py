"""The trigger of an experiment: a sensor that launches a run when assets that it depends on were updated.

Its cursor holds the last materialization seen of each asset; several updates between two evaluations launch one
run. Each run is tagged with the materializations that it was launched for, and `crucible_dagster.execute.run_claims`
ensures that one run does the work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    DefaultSensorStatus,
    EventLogRecord,
    JobDefinition,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
)

from crucible_core import Experiment
from crucible_core.ir.vocabulary import OnUpdate, ScheduleStatus
from crucible_core.values.jsonable import safe_text
from crucible_core.values.messages import shorten
from crucible_dagster.compile.run_settings import config_of_variant, tags_of_variant
from crucible_dagster.names import dagster_name
from crucible_dagster.tags import UPDATE_TAG, UPDATED_TAG

__all__ = ["ON_UPDATE", "SENSOR_STATUS", "UPDATED_TAG", "trigger_for"]

MAX_TAG = 1_000

SENSOR_STATUS: Mapping[ScheduleStatus, DefaultSensorStatus] = {
    "running": DefaultSensorStatus.RUNNING,
    "stopped": DefaultSensorStatus.STOPPED,
}
ON_UPDATE: Mapping[OnUpdate, Callable[[Iterable[bool]], bool]] = {"all": all, "any": any}


def trigger_for(experiment: Experiment, job: JobDefinition) -> SensorDefinition | None:
    """The sensor that the experiment asks for by `trigger`."""
    trigger = experiment.trigger
    if trigger is None:
        return None
    assets = {dep: AssetKey(dep.split("/")) for dep in experiment.deps or ()}

    def evaluate(context: SensorEvaluationContext) -> Iterator[RunRequest | SkipReason]:
        seen, start = _seen(context, assets)
        updates = {
            dep: record
            for dep, key in assets.items()
            if (record := _newest(context.instance, key, after_storage_id=seen.get(dep))) is not None
        }
        if ON_UPDATE[trigger.on_update](dep in updates for dep in assets):
            seen |= {dep: record.storage_id for dep, record in updates.items()}
            tags = {**_update_tags(updates), **tags_of_variant(trigger.variant)}
            yield RunRequest(run_key=tags[UPDATE_TAG], run_config=config_of_variant(trigger.variant), tags=tags)
        else:
            waiting = [dep for dep in assets if dep not in updates]
            yield SkipReason(f"No update of {', '.join(waiting)}.")
        context.update_cursor(json.dumps({"start": start, "seen": seen}))

    return SensorDefinition(
        name=f"{dagster_name(experiment.id)}_trigger",
        evaluation_fn=evaluate,
        job=job,
        default_status=SENSOR_STATUS[trigger.default_status],
        description=f"Runs the experiment {experiment.id} when {trigger.on_update} of {', '.join(assets)} was updated.",
    )


def _seen(context: SensorEvaluationContext, assets: Mapping[str, AssetKey]) -> tuple[dict[str, int], float | None]:
    """Asset -> its last materialization that was seen, or that existed when the trigger was switched on."""
    start = context.last_sensor_start_time
    known: dict[str, Any] = json.loads(context.cursor) if context.cursor else {}
    seen: dict[str, int] = known.get("seen", {})
    if known and known.get("start") == start:
        return seen, start
    for dep, key in assets.items():
        before = _newest(context.instance, key, before_timestamp=start)
        if before is not None:
            seen[dep] = max(before.storage_id, seen.get(dep, before.storage_id))
    return seen, start


def _newest(instance: DagsterInstance, key: AssetKey, **bounds: Any) -> EventLogRecord | None:
    found = instance.fetch_materializations(AssetRecordsFilter(key, **bounds), limit=1).records
    return found[0] if found else None


def _update_tags(updates: Mapping[str, EventLogRecord]) -> dict[str, str]:
    ids = sorted(f"{dep} {record.storage_id}" for dep, record in updates.items())
    by = "; ".join(
        f"{dep} #{record.storage_id}{f' of run {record.run_id}' if record.run_id else ''}"  # none if reported by hand
        for dep, record in updates.items()
    )
    return {
        UPDATE_TAG: hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        UPDATED_TAG: safe_text(shorten(by, MAX_TAG)),
    }

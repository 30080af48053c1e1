"""Running a recorded run again, without Dagster, and comparing every result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dagster import DagsterInstance

from crucible_core import (
    Context,
    Experiment,
    GateFailedError,
    Registry,
    StageFailedError,
    builtin_registry,
    plan_experiment,
    run_experiment,
)
from crucible_core.observers import Observers
from crucible_core.values.equality import same
from crucible_dagster.execute.given import given_to
from crucible_dagster.history.history import History
from crucible_dagster.history.recorded import recorded_experiment, recorded_run
from crucible_dagster.history.run_record import RunRecord, same_code, stage_record
from crucible_dagster.store import StoreError, detached
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.lazy import PARTS
from crucible_dagster.store.objects import ObjectStore

__all__ = ["Replay", "Result", "changed_code", "recorded_experiment", "recorded_run", "replay_run"]

Verdict = Literal["same digest", "equal", "different", "only then", "only now"]
"""`equal`: the same value with different bytes, which can happen with pickles."""


@dataclass(frozen=True, slots=True)
class Result:
    """One result, compared between the recorded run and the replay."""

    name: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Replay:
    """A run that was run again."""

    run_id: str
    """The id of the recorded run."""
    context: Context
    """The Context of the replay."""
    error: StageFailedError | GateFailedError | None
    results: tuple[Result, ...]
    changed_code: tuple[str, ...]
    """Stages whose source has changed."""

    @property
    def is_same(self) -> bool:
        return all(result.verdict in {"same digest", "equal"} for result in self.results)


def changed_code(record: RunRecord, experiment: Experiment, registry: Registry) -> tuple[str, ...]:
    """The stages whose source has changed since the run was recorded."""
    now = {one.name: one for one in plan_experiment(experiment, registry)}
    return tuple(
        one.name
        for one in record.stages
        if one.name in now and not same_code(one, stage_record(now[one.name], one.step))
    )


def replay_run(
    instance: DagsterInstance, run: str, *, registry: Registry | None = None, observers: Observers = ()
) -> Replay:
    """Run the experiment of a recorded run again, directly, and compare its results with the recorded ones.

    It compares metrics, outputs, artifacts, assigns, decisions and how each stage ended; the run id in an artifact's
    path may differ. Raises CrucibleError if the run has no record, and what `run_experiment` raises before the first
    stage.
    """
    history = History(instance)
    record = recorded_run(history, run)
    registry = builtin_registry() if registry is None else registry
    experiment = recorded_experiment(record)
    changed = changed_code(record, experiment, registry)
    then = history.context(record.run_id)
    store, launched = open_store(instance), instance.get_run_by_id(record.run_id)
    given = None if launched is None else given_to(store, launched)
    assigns = None if given is None else detached(given).assigns
    error: StageFailedError | GateFailedError | None = None
    try:
        now = run_experiment(experiment, registry=registry, assigns=assigns, observers=observers)
    except (StageFailedError, GateFailedError) as failed:
        now, error = failed.context, failed
    objects = store.objects
    differ = set(then.differences(now))
    results = [one for part in PARTS for one in _compare_part(objects, then, now, part, differ)]
    results.append(Result("outputs", _compare(objects, list(then.outputs), list(now.outputs))))
    results += [Result(name, "different" if name in differ else "equal") for name in ("decisions", "stages")]
    return Replay(record.run_id, now, error, tuple(results), changed)


def _compare_part(objects: ObjectStore, then: Context, now: Context, part: str, differ: set[str]) -> list[Result]:
    before, after = getattr(then, part), getattr(now, part)
    found = []
    for name in dict.fromkeys([*before, *after]):
        place = f"{part}[{name!r}]"
        if name not in after:
            found.append(Result(place, "only then"))
        elif name not in before:
            found.append(Result(place, "only now"))
        elif part == "artifacts" and place not in differ:  # a path with the run's id in it
            found.append(Result(place, "equal"))
        else:
            found.append(Result(place, _compare(objects, before[name], after[name])))
    return found


def _compare(objects: ObjectStore, then: Any, now: Any) -> Verdict:
    try:
        if objects.ref(then, "")[0].digest == objects.ref(now, "")[0].digest:
            return "same digest"
    except StoreError:  # a value that cannot be stored has no digest
        pass
    return "equal" if same(then, now) else "different"

"""The record of a run: what ran, from which code, in which environment, and who launched it.

Environment variables are never recorded. Options are recorded with secrets masked.
"""

from __future__ import annotations

import getpass
import platform
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from dagster import DagsterRun
from pydantic import AwareDatetime, Field, JsonValue, ValidationError

from crucible_core import CrucibleError, Experiment, PlannedStage
from crucible_core.ir.secrets import has_secrets, hide, secrets_in
from crucible_core.values.jsonable import to_jsonable
from crucible_dagster.history.environment import GitState, Recorded, git_state, package_versions
from crucible_dagster.history.reachable_code import code_hash
from crucible_dagster.history.source_identity import stage_identity
from crucible_dagster.origins import is_launched_here
from crucible_dagster.processes import worker_of_this_step
from crucible_dagster.tags import LAUNCHED_BY_TAG, USER_TAG, WORKER_TAG

__all__ = [
    "LAUNCHED_BY_TAG",
    "USER_TAG",
    "GitState",
    "Launch",
    "RunRecord",
    "StageRecord",
    "changed_since",
    "git_state",
    "kept_stages",
    "launch_of",
    "launch_tags",
    "read_run_record",
    "record_run",
    "same_code",
    "stage_identity",
    "stage_record",
]

FORMAT_VERSION = 1


LaunchedBy = Literal["cli", "python"]
How = Literal[LaunchedBy, "backfill", "dagster", "re-execution", "retry", "schedule", "sensor", "ui"]
"""`dagster`: by Dagster's command line, API or Python functions; `retry`: by Dagster's run retries."""


class StageRecord(Recorded):
    """One entry of the pipeline, as it was run."""

    name: str
    """The stage's name in the pipeline."""
    step: str
    """The key of its step in Dagster."""
    stage: str
    """The stage's class, as `module:name`."""
    source_hash: str | None = None
    """SHA-256 of the source of the modules that define the class; None if there is no source."""
    code_hash: str | None = None
    """Digest of the code that the stage can reach, and of Python's version; None if that is not known."""
    from_run: str | None = None
    """If this run continued from another one: the run that made the result, and that this entry comes from."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """All options, including defaults; secrets are masked."""
    secrets: dict[str, str] = Field(default_factory=dict)
    """Place of a given secret (`login.token`) -> its digest, keyed with the key of the context store."""
    enabled: bool = True


class Launch(Recorded):
    """Who launched a run, and how."""

    how: How
    by: str | None = None
    """The user, if known."""
    name: str | None = None
    """The name of the schedule, sensor or backfill."""
    parent: str | None = None
    """The run that this one executes again."""


class RunRecord(Recorded):
    """What is recorded when the first stage of a run starts."""

    format_version: int = FORMAT_VERSION
    run_id: str
    recorded: AwareDatetime
    experiment: dict[str, JsonValue]
    """The experiment as it was run, with the run config applied and secrets masked."""
    source: str | None = None
    """The experiment's file."""
    stages: tuple[StageRecord, ...]
    seeds: dict[str, JsonValue] = Field(default_factory=dict)
    """Stage -> its option `seed`."""
    git: GitState | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    """Installed distribution -> version: the distributions with the stages, and those that may affect numbers."""
    python: str
    platform: str
    host: str
    """Where the first stage ran."""
    worker: str | None = None
    """The process that ran the run: host, process id, start."""
    launched: Launch

    def to_json(self) -> str:
        return self.model_dump_json(indent=2)

    def to_experiment(self) -> Experiment:
        """The experiment as it was run. Raises CrucibleError if this version of the package cannot read it."""
        try:
            return Experiment.model_validate(self.experiment)
        except ValidationError as error:
            raise CrucibleError(f"the experiment of run {self.run_id} cannot be read back: {error}") from error


def record_run(
    experiment: Experiment,
    planned: Sequence[PlannedStage],
    steps: Sequence[str],
    run: DagsterRun,
    digest_of_secret: Callable[[Any], str] | None = None,
    *,
    kept: Mapping[str, StageRecord] | None = None,
) -> RunRecord:
    """The record of a run that is about to execute `planned`, each in the step of the same place in `steps`.

    The secrets in `experiment` are masked already. Without `digest_of_secret` nothing about them is recorded. `kept`
    has the steps whose results another run made, as recorded by that run.
    """
    stages = tuple(
        (kept or {}).get(step) or stage_record(one, step, digest_of_secret)
        for one, step in zip(planned, steps, strict=True)
    )
    return RunRecord(
        run_id=run.run_id,
        recorded=datetime.now(UTC),
        experiment=experiment.to_dict(),
        source=experiment.source.path if experiment.source else None,
        stages=stages,
        seeds={one.name: one.options["seed"] for one in stages if "seed" in one.options},
        git=git_state(experiment.folder or Path.cwd()),
        packages=package_versions({type(one.stage).__module__ for one in planned}),
        python=platform.python_version(),
        platform=platform.platform(),
        host=socket.gethostname(),
        worker=run.tags.get(WORKER_TAG) or worker_of_this_step(),
        launched=launch_of(run),
    )


def read_run_record(text: str) -> RunRecord:
    """Read a run record. Raises CrucibleError if it is damaged, or has a format that this version does not know."""
    try:
        record = RunRecord.model_validate_json(text)
    except ValidationError as error:
        raise CrucibleError(f"the run record cannot be read: {error}") from error
    if record.format_version != FORMAT_VERSION:
        raise CrucibleError(
            f"the record of run {record.run_id} has format {record.format_version}, and this version of crucible reads "
            f"format {FORMAT_VERSION}; upgrade"
        )
    return record


def stage_record(planned: PlannedStage, step: str, digest_of_secret: Callable[[Any], str] | None = None) -> StageRecord:
    """The entry of a stage, as its code is now."""
    kind = type(planned.stage)
    stage, source_hash = stage_identity(kind)
    options = to_jsonable(planned.stage)
    given = secrets_in(kind, planned.definition.options)
    return StageRecord(
        name=planned.name,
        step=step,
        stage=stage,
        source_hash=source_hash,
        code_hash=code_hash(kind),
        options=hide(kind, options) if has_secrets(kind) else options,
        secrets={place: digest_of_secret(one) for place, one in given.items()} if digest_of_secret else {},
        enabled=planned.definition.enabled,
    )


def same_code(then: StageRecord, now: StageRecord) -> bool:
    """Whether a stage had the same code: all that it can reach or, if that is not known for both, its modules."""
    hashes = then.code_hash, now.code_hash
    if None not in hashes and len({str(one).partition(":")[0] for one in hashes}) == 1:
        return hashes[0] == hashes[1]
    return then.source_hash == now.source_hash


def changed_since(record: RunRecord, planned: Iterable[PlannedStage]) -> list[tuple[str, str]]:
    """The stages whose results another run made with code that has changed since, and that run."""
    now = {one.name: one for one in planned}
    return [
        (one.name, one.from_run)
        for one in record.stages
        if one.from_run is not None and one.name in now and not same_code(one, stage_record(now[one.name], one.step))
    ]


def kept_stages(parent: RunRecord, executed: Collection[str]) -> dict[str, StageRecord]:
    """Step -> its record, for the steps that a run that continues `parent` does not execute."""
    return {
        one.step: one.model_copy(update={"from_run": one.from_run or parent.run_id})
        for one in parent.stages
        if one.step not in executed
    }


# --- the launch ---------------------------------------------------------------------------------------------------


def launch_tags(launched_by: LaunchedBy) -> dict[str, str]:
    """The tags of a run that is launched from this process."""
    try:
        user = {USER_TAG: getpass.getuser()}
    except (OSError, KeyError, ImportError):  # a user id without a name, as in some containers
        user = {}
    return {LAUNCHED_BY_TAG: launched_by, **user}


def launch_of(run: DagsterRun) -> Launch:
    """Who launched the run and how, according to its tags.

    Dagster copies a run's tags to its re-execution; there, the tags that say what launched the first run are ignored.
    A run launched by Dagster's command line or API has the same tags as one from the UI, except `dagster/from_ui`.
    """
    tags, parent = run.tags, run.parent_run_id
    own = tags.get(LAUNCHED_BY_TAG)
    if own in get_args(LaunchedBy) and is_launched_here(run):
        return Launch(how=own, by=tags.get(USER_TAG), parent=parent)
    if parent is not None:
        return Launch(how="retry" if RETRY_TAG in tags else "re-execution", parent=parent)
    by = tags.get(USER_TAG)
    for tag, how in _LAUNCHERS.items():
        if tag in tags:
            return Launch(how=how, by=by, name=tags[tag])
    return Launch(how="ui" if tags.get(_UI_TAG) == "true" else "dagster", by=by)


# Dagster's tags for runs that no person launched, for its automatic retries, and for its UI.
_LAUNCHERS: Mapping[str, How] = {
    "dagster/backfill": "backfill",
    "dagster/schedule_name": "schedule",
    "dagster/sensor_name": "sensor",
}
RETRY_TAG = "dagster/retry_number"
_UI_TAG = "dagster/from_ui"

"""At most one run does the work of a tick or of an update, however many are launched for it.

Two daemons launch every tick twice, and nothing in Dagster prevents the second run: it checks whether there is a run,
and then creates one. So the runs settle it themselves. Each run is tagged with what it was launched for. Before its
first stage it claims that, by creating a file in the context store that must not exist yet. One run gets the claim; the
others end as cancelled. No matter what is killed and when, the claim belongs to that run and its re-executions. If two
daemons launch a retry of the same run, only one of the retries gets the claim.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from typing import NoReturn

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from crucible_core.errors import CrucibleError
from crucible_dagster.dagster_internals import InstanceRef, run_of_this_process
from crucible_dagster.execute.failures import StepFailure
from crucible_dagster.execute.heartbeat import INTERVAL, start_heartbeat
from crucible_dagster.execute.orphan_watch import ORPHAN_EXIT_CODE
from crucible_dagster.names import root_of
from crucible_dagster.origins import location_of
from crucible_dagster.processes import is_elsewhere, is_gone, worker_of_this_step
from crucible_dagster.store import ContextStore
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.tags import (
    EXPERIMENT_TAG,
    SCHEDULE_NAME_TAG,
    SENSOR_NAME_TAG,
    SUPERSEDED_TAG,
    TICK_TAG,
    UPDATE_TAG,
)

__all__ = [
    "SCHEDULE_NAME_TAG",
    "SENSOR_NAME_TAG",
    "SUPERSEDED_TAG",
    "TICK_TAG",
    "UPDATE_TAG",
    "begin_run_of_this_process",
    "claim_key",
    "claim_or_end",
    "root_of",
    "supersede",
]


RETRY_NUMBER_TAG = "dagster/retry_number"
"""On a run that Dagster launched because another one failed; not on one that a person launched from it."""
_WHAT: Mapping[str, str] = {SCHEDULE_NAME_TAG: TICK_TAG, SENSOR_NAME_TAG: UPDATE_TAG}


def claim_key(run: DagsterRun) -> str | None:
    """What the run was launched for; None unless a schedule or a trigger launched it."""
    # Both tags must be there: the UI copies tags other than Dagster's own to a run that is launched from another.
    for launcher, what in _WHAT.items():
        if launcher in run.tags and what in run.tags:
            return f"{location_of(run)} {run.tags[launcher]} {run.tags[what]}"
    return None


def claim_or_end(run: DagsterRun, store: ContextStore, instance: DagsterInstance) -> None:
    """Claim what the run was launched for; if another run has it, end this one as cancelled.

    Raises StepFailure in that case, and StoreError if the store cannot be used.
    """
    if RETRY_NUMBER_TAG in run.tags and run.parent_run_id is not None:
        owner = store.claim(f"retry of {run.parent_run_id}", run.run_id)
        if owner != run.run_id:
            _end_superseded(run, owner, f"is the retry of run {run.parent_run_id}", instance)
    key = claim_key(run)
    if key is None:
        return
    owner = store.claim(key, root_of(run))
    if owner == root_of(run):
        _leave_to_another_process(run, store, instance)
        return
    what = f"tick {run.tags[TICK_TAG]}" if SCHEDULE_NAME_TAG in run.tags else "this update"
    launcher = run.tags.get(SCHEDULE_NAME_TAG) or run.tags.get(SENSOR_NAME_TAG)
    _end_superseded(run, owner, f"has {what} of {launcher}", instance)


def _end_superseded(run: DagsterRun, owner: str, why: str, instance: DagsterInstance) -> NoReturn:
    said = f"Run {owner} {why}; this run does nothing."
    instance.add_run_tags(run.run_id, {SUPERSEDED_TAG: owner})
    # A run whose steps fail while it is being cancelled ends as cancelled: there is no alert and no retry.
    instance.report_run_canceling(run, said)
    raise StepFailure(said)


def begin_run_of_this_process() -> None:
    """In a process started for a run: end it if another process executes the same run, else start its heartbeat.

    Call it when the definitions are loaded. Right after that, Dagster would let a second process of a run end by
    itself, and would take its end for the end of the run.
    """
    launched = run_of_this_process()
    if launched is None or launched in _begun:
        return
    _begun.append(launched)
    run_id, ref = launched
    if ref is None:
        return
    # Without a store, the first stage fails and says why.
    with contextlib.suppress(CrucibleError, OSError):
        with DagsterInstance.from_ref(ref) as instance:
            run = instance.get_run_by_id(run_id)
            if run is None or (EXPERIMENT_TAG not in run.tags and not run.asset_selection):
                return
            store = open_store(instance)
            _leave_to_another_process(run, store, instance)
            interval = getattr(instance.run_launcher, "beat_seconds", INTERVAL)
        start_heartbeat(store, run_id, interval)


_begun: list[tuple[str, InstanceRef | None]] = []


def _leave_to_another_process(run: DagsterRun, store: ContextStore, instance: DagsterInstance) -> None:
    """End this process if another one on this machine executes the same run: two daemons took it from the queue.

    It ends only when the run is over, because Dagster takes the end of any of its processes for the end of the run.
    """
    mine = worker_of_this_step()
    first = store.claim(f"process of {run.run_id}", run.run_id, mine)
    if first == mine or is_elsewhere(first) or is_gone(first):
        return
    with contextlib.suppress(Exception):
        instance.report_engine_event(f"Process {os.getpid()} does nothing: process {first} executes this run.", run)
    over = False
    while not over and not is_gone(first):
        time.sleep(1.0)
        with contextlib.suppress(Exception):  # if the database is unavailable, nothing is known about the run
            now = instance.get_run_by_id(run.run_id)
            over = now is None or now.is_finished
    os._exit(ORPHAN_EXIT_CODE)


def supersede(instance: DagsterInstance, run_ids: Iterable[str], why: str) -> None:
    """Cancel runs that were created but never submitted; if one is submitted later, Dagster does not start it."""
    for run_id in run_ids:
        run = instance.get_run_by_id(run_id)
        if run is not None and run.status is DagsterRunStatus.NOT_STARTED:
            instance.add_run_tags(run_id, {SUPERSEDED_TAG: "never submitted"})
            instance.report_run_canceled(run, why)

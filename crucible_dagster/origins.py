"""The code location that a run belongs to: without it, Dagster's UI does not list the run on its job's pages."""

from __future__ import annotations

from dagster import DagsterInstance, DagsterRun, RunsFilter

from crucible_dagster.dagster_internals import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from crucible_dagster.tags import LOCATION_TAG

__all__ = ["LOCATION", "is_launched_here", "location_of", "origin_of"]

LOCATION = "crucible"
"""The code location of `crucible ui`; also of runs launched from a process, if no other is known."""
REPOSITORY = "__repository__"  # the name that Dagster gives the repository of any Definitions


def origin_of(instance: DagsterInstance, job: str, location: str | None = None) -> RemoteJobOrigin:
    """The origin of a run of the job that this process launches.

    `location` is a code location and repository, as `location:repository`. It defaults to that of the job's newest run
    that has one, so that runs from a command line are listed with those launched from the project's UI.
    """
    if location is None:
        newest = next(iter(instance.get_runs(RunsFilter(job_name=job), limit=1)), None)
        location = (newest and location_of(newest)) or f"{LOCATION}:{REPOSITORY}"
    name, _, repository = location.rpartition(":")
    return RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(name), repository), job)


def location_of(run: DagsterRun) -> str:
    """The code location and repository of the run, as `location:repository`; empty if it has none."""
    if run.remote_job_origin is None:
        return run.tags.get(LOCATION_TAG, "")
    repository = run.remote_job_origin.repository_origin
    return f"{repository.code_location_origin.location_name}:{repository.repository_name}"


def is_launched_here(run: DagsterRun) -> bool:
    """Whether a process launched the run itself; then its code location is only a name, and cannot be loaded."""
    origin = run.remote_job_origin
    return origin is None or isinstance(origin.repository_origin.code_location_origin, RegisteredCodeLocationOrigin)

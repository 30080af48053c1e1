"""Starts runs as Kubernetes Jobs like Dagster, but does not give up a run just because the cluster does not answer.

When an API server is upgraded, it is away for seconds or minutes, and the pods go on. Dagster's launcher then knows
nothing about a run, and Dagster's run monitoring marks the run as failed at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dagster import DagsterRun, Field
from dagster_k8s import K8sRunLauncher

from crucible_dagster.dagster_internals import CheckRunHealthResult, WorkerStatus

__all__ = ["UNANSWERED", "PatientK8sRunLauncher"]

UNANSWERED = 600.0
"""Seconds without an answer about a run after which it counts as dead; the default of `unanswered_seconds`."""
NO_JOB = "could not be found"
"""Part of the launcher's message if the cluster has answered that there is no such Job."""


class PatientK8sRunLauncher(K8sRunLauncher):
    """Dagster's launcher for Kubernetes, with its settings and `unanswered_seconds`.

    If the cluster has said nothing about a run for so many seconds, the run counts as dead; until then, as alive.
    An answer of the cluster counts at once: that the Job has failed, has succeeded, or does not exist.
    """

    def __init__(self, unanswered_seconds: float = UNANSWERED, **settings: Any) -> None:
        super().__init__(**settings)
        self._patience = unanswered_seconds
        self._unanswered: dict[str, float] = {}

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        theirs: Mapping[str, Any] = super().config_type()  # type: ignore[no-untyped-call]
        return {**theirs, "unanswered_seconds": Field(float, is_required=False, default_value=UNANSWERED)}

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """The result of Dagster's launcher; RUNNING while the cluster is silent for less than `unanswered_seconds`."""
        found: CheckRunHealthResult = super().check_run_worker_health(run)
        if found.status is not WorkerStatus.UNKNOWN or NO_JOB in (found.msg or ""):
            self._unanswered.pop(run.run_id, None)
            return found
        since = self._unanswered.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - since < self._patience:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"the cluster does not answer: {found.msg}")
        return found

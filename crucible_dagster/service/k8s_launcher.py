"""Starts runs as Kubernetes Jobs as Dagster does, and does not take one for dead because the cluster does not answer.

An API server is away for seconds or minutes when it is upgraded, and the pods go on. Dagster's launcher then knows
nothing of a run, and its run monitoring marks the run as failed at once.
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
"""Seconds without an answer about a run after which it is dead, unless the instance's settings say otherwise."""
NO_JOB = "could not be found"
"""What Dagster's launcher says where the cluster has answered, and has no such Job."""


class PatientK8sRunLauncher(K8sRunLauncher):
    """Dagster's launcher for Kubernetes, with its settings and `unanswered_seconds`.

    A run of which the cluster has said nothing for so many seconds is dead; until then, it is taken for alive. What the
    cluster does say counts at once: that the Job has failed, has succeeded, or is not there.
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
        """As Dagster's launcher says; RUNNING while the cluster has not answered for less than `unanswered_seconds`."""
        found: CheckRunHealthResult = super().check_run_worker_health(run)
        if found.status is not WorkerStatus.UNKNOWN or NO_JOB in (found.msg or ""):
            self._unanswered.pop(run.run_id, None)
            return found
        since = self._unanswered.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - since < self._patience:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"the cluster does not answer: {found.msg}")
        return found

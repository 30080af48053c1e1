"""MLflow as an observer: one MLflow run for each run, no matter how many processes execute it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from time import time
from typing import Any

from crucible_adapters.mlflow.tracked_run import MlflowClient, TrackedRun
from crucible_core.context import Context
from crucible_core.observers import Observer
from crucible_core.trace import Event, StageFailed

__all__ = ["MlflowObserver"]


class MlflowObserver(Observer):
    """An observer that logs any number of runs to MLflow: `observers=[MlflowObserver()]`.

    Options become params, numbers metrics, files artifacts; gates, the finding and what identifies the run become tags.
    `tracking_uri` defaults to MLFLOW_TRACKING_URI, as for MLflow itself. `experiment` is the name of
    MLflow's experiment; it defaults to the experiment's id. A run that MLflow already has is continued. After an
    error, nothing more of that run is sent.

    Raises MissingExtraError if MLflow is not installed.
    """

    def __init__(self, tracking_uri: str | None = None, *, experiment: str | None = None) -> None:
        self.client = MlflowClient(tracking_uri)
        self.experiment = experiment
        self._runs: dict[str, TrackedRun | None] = {}

    def run_started(self, experiment_id: str, run_id: str) -> None:
        _current.set((*_current.get(), (self, run_id)))
        self._of(experiment_id, run_id)

    def on_context(self, context: Context) -> None:
        self._tell(context.run_id, self._of(context.experiment_id, context.run_id), TrackedRun.log, context)

    def on_event(self, event: Event) -> None:
        # On Dagster, the error that ended the run says less than the one that failed the stage.
        if isinstance(event, StageFailed):
            self._tell_innermost(TrackedRun.tag, {"crucible.failure": f"stage {event.stage}: {event.reason}"})

    def on_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:  # noqa: ARG002
        self._tell_innermost(TrackedRun.log_numbers, metrics, int(time() * 1_000))

    def on_points(self, stage: str, points: Sequence[Any]) -> None:  # noqa: ARG002
        """Log points of series; each has `name`, `value`, `step`, and `at` in seconds since 1970."""
        found = [(one.name, one.value, int(one.at * 1_000), one.step) for one in points]
        self._tell_innermost(TrackedRun.log_series, found)

    def run_ended(self, error: BaseException | None) -> None:
        run_id = self._innermost()
        if run_id is None:
            return
        _current.set(tuple(one for one in _current.get() if one != (self, run_id)))
        run = self._runs.pop(run_id, None)
        if run is None:
            return
        context = getattr(error, "context", None)
        if isinstance(context, Context):
            run.log(context)
        interrupted = error is not None and not isinstance(error, Exception)
        run.end("KILLED" if interrupted else "FINISHED" if error is None else "FAILED", datetime.now(UTC))

    def _of(self, experiment_id: str, run_id: str) -> TrackedRun | None:
        if run_id not in self._runs:
            self._runs[run_id] = None  # if the next line fails, it is not tried again
            self._runs[run_id] = TrackedRun.of(self.client, self.experiment or experiment_id, experiment_id, run_id)
        return self._runs[run_id]

    def _tell_innermost(self, what: Callable[..., None], *arguments: Any) -> None:
        run_id = self._innermost()
        if run_id is not None:
            self._tell(run_id, self._runs.get(run_id), what, *arguments)

    def _tell(self, run_id: str, run: TrackedRun | None, what: Callable[..., None], *arguments: Any) -> None:
        """After an error nothing more of the run is sent: by then, MLflow's client has tried for minutes."""
        if run is None:
            return
        try:
            what(run, *arguments)
        except Exception:
            self._runs[run_id] = None
            raise

    def _innermost(self) -> str | None:
        mine = [run_id for observer, run_id in _current.get() if observer is self]
        # A thread that a stage starts does not see the variable.
        return mine[-1] if mine else next(iter(self._runs)) if len(self._runs) == 1 else None


# The runs observed here, the innermost last: a stage may start a run of its own with the same observer.
_current: ContextVar[tuple[tuple[MlflowObserver, str], ...]] = ContextVar("crucible_mlflow_runs", default=())

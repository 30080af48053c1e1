"""One run of MLflow, and what a Context becomes in it.

| of the run | in MLflow |
| --- | --- |
| the experiment's id | the experiment |
| options of the stages, the seed, the variant | params `STAGE.OPTION`, `seed`, `variant` |
| the numbers that History shows | metrics; the step is the number of stages that had ended |
| a series | the metric of its name, with each point and step |
| an artifact that is a file or a folder | artifacts below its name; tag `crucible.logged.NAME`: name, size and time |
| any other artifact | tag `crucible.artifact.NAME` |
| a gate | tag `crucible.gate.NAME`: its status and its sentence |
| the finding | tags `crucible.finding` and `mlflow.note.content`, which MLflow shows as the description |
| run id, tags of the experiment | tags `crucible.run_id`, `crucible.experiment_id`, `crucible.tags` |
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from crucible_core.context import Context
from crucible_core.errors import CrucibleError, MissingExtraError
from crucible_core.metrics import flatten, results
from crucible_core.report.run_report import headline
from crucible_core.trace import Event
from crucible_core.values.jsonable import to_jsonable, visible_text
from crucible_core.values.messages import cut
from crucible_core.values.series import Series

try:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run, RunTag
    from mlflow.exceptions import MlflowException
except ImportError:
    raise MissingExtraError("logging to MLflow", "mlflow") from None

__all__ = ["MlflowClient", "MlflowException", "TrackedRun", "name_in_mlflow", "times_of"]

MOST_METRICS = 1_000
MOST_PARAMS = 100
MOST_TAGS = 100
MAX_PARAM = 6_000
MAX_TAG = 5_000
MAX_NAME = 250
RUN_TAG = "crucible.run_id"


class TrackedRun:
    """A run of MLflow that stands for one run here."""

    def __init__(self, client: MlflowClient, run: Run, run_id: str) -> None:
        """What MLflow's run already has is not logged again: another process may have executed earlier stages."""
        self.client = client
        self.mlflow_id = run.info.run_id
        self.run_id = run_id
        self.step = 0
        """How many stages had ended at the last call of `log`."""
        self._params = dict(run.data.params)
        self._numbers = dict(run.data.metrics)
        self._tags = dict(run.data.tags)
        self._series = set(run.data.metrics)

    @classmethod
    def of(
        cls, client: MlflowClient, experiment: str, experiment_id: str, run_id: str, began: datetime | None = None
    ) -> TrackedRun:
        """The MLflow run that has the run's id as a tag, or else a new one.

        Raises CrucibleError if the experiment was deleted in MLflow.
        """
        where = _experiment_in(client, experiment)
        found = client.search_runs([where], f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1)
        if found:
            [run] = found
            client.update_run(run.info.run_id, "RUNNING")
            return cls(client, run, run_id)
        run = client.create_run(
            where,
            start_time=None if began is None else _milliseconds(began),
            tags={RUN_TAG: run_id, "crucible.experiment_id": cut(visible_text(experiment_id), MAX_TAG)},
            run_name=f"{experiment_id} {run_id[:8]}",
        )
        return cls(client, run, run_id)

    def log(self, context: Context) -> None:
        """Log what is new in the Context, as of its last event."""
        events = context.trace.events
        at = _milliseconds(events[-1].at) if len(events) else 0
        self.step = len(context.trace.endings)
        self._log_params(context)
        self.log_numbers(dict(results(context)), at)
        for name, value in context.metrics.items():
            if isinstance(value, Series) and name_in_mlflow(name) not in self._series:  # no observer got its points
                self.log_series([(name, number, at, step) for step, number in value.points])
        self.tag(dict(_tags(context)))
        for name, value in context.artifacts.items():
            self._log_artifact(name, value)

    def log_numbers(self, numbers: Mapping[str, float], at: int) -> None:
        """Log the numbers that are new or have changed; `at` is in milliseconds since 1970."""
        named = {name_in_mlflow(name): float(value) for name, value in numbers.items()}
        new = {name: value for name, value in named.items() if self._numbers.get(name) != value}
        self.log_points([(name, value, at, self.step) for name, value in new.items()])
        self._numbers.update(new)

    def log_series(self, points: Sequence[tuple[str, float, int, int]]) -> None:
        """Log points of series, as `log_points` does; `log` then leaves these series out."""
        self.log_points(points)
        self._series.update(name_in_mlflow(name) for name, *_ in points)

    def log_points(self, points: Iterable[tuple[str, float, int, int]]) -> None:
        """Log each name, value, time in milliseconds since 1970, and step."""
        metrics = [Metric(name_in_mlflow(name), value, at, step) for name, value, at, step in points]
        for few in _in_parts(metrics, MOST_METRICS):
            self.client.log_batch(self.mlflow_id, metrics=few)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set the tags that are new or have changed."""
        named = {name_in_mlflow(name): cut(visible_text(value), MAX_TAG) for name, value in tags.items()}
        new = {name: value for name, value in named.items() if self._tags.get(name) != value}
        for few in _in_parts([RunTag(name, value) for name, value in new.items()], MOST_TAGS):
            self.client.log_batch(self.mlflow_id, tags=few)
        self._tags.update(new)

    def end(self, status: str, at: datetime) -> None:
        """End the run with the status FINISHED, FAILED or KILLED."""
        # Otherwise MLflow prints an address into the program's output, which may be JSON.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self.client.set_terminated(self.mlflow_id, status, _milliseconds(at))

    def _log_params(self, context: Context) -> None:
        new = {name: value for name, value in _params(context) if name not in self._params}
        for few in _in_parts([Param(name, value) for name, value in new.items()], MOST_PARAMS):
            self.client.log_batch(self.mlflow_id, params=few)
        self._params.update(new)

    def _log_artifact(self, name: str, value: Any) -> None:
        path = Path(value) if isinstance(value, str | os.PathLike) and "://" not in str(value) else None
        try:
            state = None if path is None else path.stat()
        except (OSError, ValueError):
            state = None
        if path is None or state is None:
            self.tag({f"crucible.artifact.{name}": str(value)})
            return
        below = name_in_mlflow(name)
        logged, written = f"crucible.logged.{below}", f"{path.name}, {state.st_size} bytes, {state.st_mtime_ns}"
        if self._tags.get(name_in_mlflow(logged)) == cut(visible_text(written), MAX_TAG):
            return
        if path.is_dir():
            self.client.log_artifacts(self.mlflow_id, str(path), below)
        else:
            self.client.log_artifact(self.mlflow_id, str(path), below)
        self.tag({logged: written})


def name_in_mlflow(name: str) -> str:
    """The name if MLflow accepts it; else a similar one with a digest, so that two names stay different."""
    allowed = re.sub(r"[^\w.\- :/]", "_", name)
    if posixpath.normpath(allowed) != allowed or allowed[:1] in ("/", ".") or not allowed.strip():
        allowed = f"_{re.sub('[/.]', '_', allowed)}"
    if allowed == name and len(name) <= MAX_NAME:
        return name
    return f"{allowed[: MAX_NAME - 9]}_{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"


def _experiment_in(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process made it at the same time
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise CrucibleError(f"the experiment {name!r} was deleted in MLflow: restore it there, or choose another")
    return str(found.experiment_id)


def _params(context: Context) -> Iterator[tuple[str, str]]:
    experiment = context.experiment
    chosen = {"seed": experiment.seed, "variant": experiment.variant}
    options = {one.name: dict(one.options or {}) for one in experiment.pipeline}
    for name, value in flatten({**{key: it for key, it in chosen.items() if it is not None}, **options}):
        if value != {}:  # a stage without options
            text = value if isinstance(value, str) else json.dumps(to_jsonable(value), ensure_ascii=False)
            yield name_in_mlflow(name), cut(visible_text(text), MAX_PARAM)


def _tags(context: Context) -> Iterator[tuple[str, str]]:
    experiment = context.experiment
    if experiment.tags:
        yield "crucible.tags", ", ".join(experiment.tags)
    if experiment.source is not None:
        yield "mlflow.source.name", experiment.source.path
    found = headline(context)
    yield "crucible.finding", found
    yield "mlflow.note.content", found
    for gate in context.trace.gates:
        yield f"crucible.gate.{gate.gate}", f"{gate.status}: {gate.sentence}"


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000)


def times_of(events: Iterable[Event]) -> tuple[datetime | None, datetime | None]:
    """When the first and the last event were."""
    times = [event.at for event in events]
    return (times[0], times[-1]) if times else (None, None)


def _in_parts(things: list[Any], most: int) -> Iterator[list[Any]]:
    for start in range(0, len(things), most):
        yield things[start : start + most]

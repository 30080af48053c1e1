"""Dagster's executor for Celery, with an eye on the workers.

`dagster-celery` hands each step to Celery and waits for its result. If the worker is killed, no result comes, and it
would wait forever. So this asks the workers, by Celery's own means, which of them has the step. A step of trials that
none has any more is handed out again, since it runs only the trials that have no row; any other step ends the run.

The broker and the result backend are those of the environment, where Celery looks for them first: their URLs may hold
passwords, and stand in no file and no run config.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from billiard.exceptions import WorkerLostError
from dagster import (
    DagsterEvent,
    DagsterEventType,
    ExecutorDefinition,
    InitExecutorContext,
    multiple_process_executor_requirements,
)
from dagster_celery import celery_executor as plain_executor
from dagster_celery.core_execution_loop import core_celery_execution_loop
from dagster_celery.executor import CeleryExecutor, _submit_task
from dagster_celery.make_app import make_app
from kombu.exceptions import OperationalError

from crucible_core import CrucibleError
from crucible_core.ir.trials_stage import STAGE
from crucible_dagster.names import sharing, step_name
from crucible_dagster.processes import worker_of_this_step
from crucible_dagster.tags import WORKER_TAG

__all__ = ["BACKEND_VARIABLE", "BROKER_VARIABLE", "celery_executor"]

BROKER_VARIABLE, BACKEND_VARIABLE = "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"
"""Celery's own, which go before its other settings."""
CHECK_SECONDS = 5.0
"""Between two questions to the workers."""
ANSWER_SECONDS = 0.5
"""For which their answers are waited for."""
MOST_MISSED = 3
"""Questions in a row after which a step that no worker has is lost."""
MOST_TIMES = 3
"""That a step of trials is handed out, if its worker dies each time."""
PLAIN_BACKEND = "rpc://"


class WatchedCeleryExecutor(CeleryExecutor):
    """Hands out the steps as `dagster-celery` does, and notices that a worker died."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self._settings: dict[str, Any] = self.app_args()  # type: ignore[no-untyped-call]

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[DagsterEvent]:
        """Raises CrucibleError if the broker does not answer, or if the worker of a step died."""
        app = make_app(self._settings)
        _check_broker(app)
        # The process of its first step is a worker, which goes on whatever happens to the run.
        plan_context.instance.add_run_tags(plan_context.run_id, {WORKER_TAG: worker_of_this_step()})
        watch = _Watch(app, plan_context)
        try:
            yield from core_celery_execution_loop(plan_context, execution_plan, step_execution_fn=watch.submit)
        except Exception as error:
            if watch.lost:
                raise CrucibleError(
                    f"the Celery worker that ran {' and '.join(watch.lost)} died; `crucible resume "
                    f"{plan_context.run_id}` runs what has no result"
                ) from error
            raise


def _create(init: InitExecutorContext) -> WatchedCeleryExecutor:
    config: Mapping[str, Any] = init.executor_config
    broker = os.environ.get(BROKER_VARIABLE) or config.get("broker")
    backend = os.environ.get(BACKEND_VARIABLE) or config.get("backend")
    if not broker or (backend == PLAIN_BACKEND and not broker.startswith(("amqp", "pyamqp"))):
        raise CrucibleError(
            "the executor celery needs a broker and a result backend: set the environment variables "
            f"{BROKER_VARIABLE} and {BACKEND_VARIABLE}, such as redis://localhost:6379/0, here and for the workers"
        )
    create = plain_executor.executor_creation_fn
    assert create is not None
    made: Any = create(init)
    return WatchedCeleryExecutor(
        retries=made.retries,
        broker=broker,
        backend=backend,
        include=made.include,
        config_source=config.get("config_source"),
    )


celery_executor = ExecutorDefinition(
    name="celery",
    config_schema=plain_executor.config_schema.as_field(),
    requirements=multiple_process_executor_requirements(),
    executor_creation_fn=_create,
    description="A task for each stage, which any of Celery's workers runs.",
)


def _check_broker(app: Any) -> None:
    with app.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
        except OperationalError as error:
            raise CrucibleError(f"the Celery broker at {connection.as_uri()} does not answer: {error}") from error


class _Watch:
    """The tasks of one run, and which of their steps were lost."""

    def __init__(self, app: Any, context: Any) -> None:
        self.lost: list[str] = []
        self._app = app
        self._context = context
        self._tasks: list[_Task] = []
        self._checked = time.monotonic()

    def submit(self, app: Any, context: Any, step: Any, queue: str, priority: int, known_state: Any) -> _Task:
        """Hand out a step, in the place of the function of `dagster-celery`."""

        def submit() -> Any:
            with warnings.catch_warnings():
                # `dagster-celery` makes its task anew for each step, and Celery keeps the first.
                warnings.filterwarnings("ignore", "Task name")
                return _submit_task(app, context, step, queue, priority, known_state)

        made = _Task(self, step.key, submit)
        self._tasks.append(made)
        return made

    def begun(self, step_key: str) -> int:
        """How often a worker has begun the step, by the event log."""
        events = self._context.instance.all_logs(self._context.run_id, of_type=DagsterEventType.ENGINE_EVENT)
        return sum(one.step_key == step_key and "in celery worker" in one.message for one in events)

    def look(self) -> None:
        """Ask the workers for the tasks that have no result, unless they were asked a moment ago."""
        if time.monotonic() - self._checked < CHECK_SECONDS:
            return
        open_tasks = [task for task in self._tasks if not task.result.ready()]
        ids = [task.result.id for task in open_tasks]
        answers = self._app.control.inspect(timeout=ANSWER_SECONDS).query_task(*ids) or {}
        held = {task_id for tasks in answers.values() for task_id in tasks}
        for task in open_tasks:
            task.heard(held=task.result.id in held)
        if not answers and open_tasks:
            self.say("no Celery worker answers; the steps wait for one", step_key=None)
        self._checked = time.monotonic()

    def say(self, message: str, *, step_key: str | None) -> None:
        self._context.log.warning(message if step_key is None else f"step {step_key}: {message}")


class _Task:
    """A step's result in Celery; where its worker died, that of the step handed out again."""

    def __init__(self, watch: _Watch, step_key: str, submit: Callable[[], Any]) -> None:
        self._watch = watch
        self._step_key = step_key
        self._submit = submit
        self._times = 1
        self._begun = 0
        self._taken = False
        self._missed = 0
        self._is_lost = False
        self._is_revoked = False
        self.result = submit()

    def ready(self) -> bool:
        if self._is_lost:
            return True
        if not self.result.ready():
            self._watch.look()
            return self._is_lost
        if isinstance(self.result.result, WorkerLostError):
            self._again()
            return self._is_lost
        return True

    def get(self) -> Any:
        if self._is_lost:
            raise CrucibleError("the Celery worker that ran it died")
        return self.result.get()

    def revoke(self) -> None:
        """End it, also where it runs already: what its trials have given is kept."""
        self._is_revoked = True
        self.result.revoke(terminate=True)

    def heard(self, *, held: bool) -> None:
        self._taken = self._taken or held
        self._missed = 0 if held else self._missed + 1
        if self._missed < MOST_MISSED:
            return
        # A worker may have died before it was asked for the first time.
        if self._taken or self._watch.begun(self._step_key) > self._begun:
            self.result.revoke()  # a broker may deliver it once more, long after
            self._again()

    def _again(self) -> None:
        name = step_name(self._step_key)
        if self._is_revoked or self._times == MOST_TIMES or (sharing(name) is None and name != STAGE):
            self._is_lost = True
            self._watch.lost.append(f"step {self._step_key!r}")
            return
        self._watch.say("its worker died; another runs what is missing", step_key=self._step_key)
        self._times += 1
        self._begun = self._watch.begun(self._step_key)
        self._taken, self._missed = False, 0
        self.result = self._submit()

"""Dagster's executor for Celery, which also watches the workers.

`dagster-celery` hands each step to Celery and waits for its result. If the worker is killed, no result comes, and it
would wait forever. So this executor asks the workers which of them has the step. If none has it any more, a step of
trials is handed out again, because it runs only the trials without a row; any other step ends the run. While the broker
does not answer, the run waits. A step that the broker lost before a worker got it is handed out again; if only its
result was lost, the end of the step is read from the event log.

Broker and result backend are set by environment variables, where Celery looks first: their URLs may contain passwords,
so they are in no file and no run config.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.exceptions import TaskRevokedError
from dagster import (
    DagsterEvent,
    DagsterEventType,
    ExecutorDefinition,
    InitExecutorContext,
    multiple_process_executor_requirements,
    serialize_value,
)
from dagster_celery import celery_executor as plain_executor
from dagster_celery.core_execution_loop import core_celery_execution_loop
from dagster_celery.executor import CeleryExecutor, _submit_task
from dagster_celery.make_app import make_app
from kombu.exceptions import OperationalError

from crucible_core import CrucibleError
from crucible_core.ir.trials_stage import STAGE
from crucible_core.values.redaction import scrub
from crucible_dagster.names import sharing, step_name
from crucible_dagster.processes import worker_of_this_step
from crucible_dagster.tags import WORKER_TAG

__all__ = ["BACKEND_VARIABLE", "BROKER_VARIABLE", "celery_executor"]

BROKER_VARIABLE, BACKEND_VARIABLE = "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"
"""Celery's own variables; they take precedence over its other settings."""
CHECK_SECONDS = 5.0
"""The time between two queries to the workers."""
ANSWER_SECONDS = 0.5
"""How long to wait for the workers' answers."""
MOST_MISSED = 3
"""After so many queries in a row without a worker that has the step, the step is lost."""
MOST_TIMES = 3
"""How often a step of trials is handed out, if its worker dies each time."""
PLAIN_BACKEND = "rpc://"
BEGUN = "in celery worker"
"""Part of the event that a worker logs when it begins a step."""
ENDS = {
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.STEP_UP_FOR_RETRY,
    DagsterEventType.STEP_SKIPPED,
}


class WatchedCeleryExecutor(CeleryExecutor):
    """Hands out the steps as `dagster-celery` does, and notices that a worker died."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self._settings: dict[str, Any] = self.app_args()  # type: ignore[no-untyped-call]

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[DagsterEvent]:
        """Execute the steps. Raises CrucibleError if the broker does not answer, or if the worker of a step died."""
        app = make_app(self._settings)
        _check_broker(app)
        # The process of the first step is a Celery worker, which goes on no matter what happens to the run.
        plan_context.instance.add_run_tags(plan_context.run_id, {WORKER_TAG: worker_of_this_step()})
        watch = _Watch(app, plan_context)
        try:
            yield from core_celery_execution_loop(plan_context, execution_plan, step_execution_fn=watch.submit)
        except Exception as error:
            if watch.lost:
                raise CrucibleError(
                    f"the Celery worker that ran {' and '.join(watch.lost)} died; `crucible resume "
                    f"{plan_context.run_id}` runs the steps that have no result"
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
        with app.connection_for_write() as connection:
            errors: tuple[type[Exception], ...] = (*connection.connection_errors, OperationalError)
        self.unreachable = (*errors, *getattr(app.backend, "connection_errors", ()))
        """The exceptions that mean that the broker or the result backend does not answer."""
        self.outages = 0
        self._is_away = False

    def submit(self, app: Any, context: Any, step: Any, queue: str, priority: int, known_state: Any) -> _Task:
        """Hand out a step; replaces the function of `dagster-celery`."""

        def submit() -> Any:
            with warnings.catch_warnings():
                # `dagster-celery` creates its task again for each step, but Celery keeps the first one.
                warnings.filterwarnings("ignore", "Task name")
                return _submit_task(app, context, step, queue, priority, known_state)

        made = _Task(self, step.key, queue, submit)
        self._tasks.append(made)
        return made

    def begun(self, step_key: str) -> int:
        """How often a worker has begun the step, according to the event log."""
        events = self._context.instance.all_logs(self._context.run_id, of_type=DagsterEventType.ENGINE_EVENT)
        return sum(one.step_key == step_key and BEGUN in one.message for one in events)

    def end(self, step_key: str, begun: int) -> list[str]:
        """The result of a worker that began the step after `begun` others; empty if the step has not ended."""
        entries = [one for one in self._context.instance.all_logs(self._context.run_id) if one.step_key == step_key]
        begins = [index for index, one in enumerate(entries) if BEGUN in one.message]
        if len(begins) <= begun:
            return []
        events = [one.dagster_event for one in entries[begins[-1] :] if one.dagster_event is not None]
        return [serialize_value(one) for one in events] if any(one.event_type in ENDS for one in events) else []

    def look(self) -> None:
        """Ask the workers which tasks without a result they have, unless they were asked a moment ago."""
        if time.monotonic() - self._checked < CHECK_SECONDS:
            return
        open_tasks = [task for task in self._tasks if task.is_open()]
        ids = [task.result.id for task in open_tasks]
        answers = self._app.control.inspect(timeout=ANSWER_SECONDS).query_task(*ids) or {}
        held = {task_id for tasks in answers.values() for task_id in tasks}
        for task in open_tasks:
            is_held = task.result.id in held
            # Silent workers may answer soon: perhaps they could not reach the broker either.
            nowhere = bool(answers) and not is_held and (task.outages < self.outages or not self._offers(task.queue))
            task.heard(held=is_held, nowhere=nowhere)
        if not answers and open_tasks:
            self.say("no Celery worker answers; the steps wait for one", step_key=None)
        self._checked = time.monotonic()
        self._is_away = False

    def missed(self, error: Exception) -> None:
        """Note that the broker or the result backend did not answer."""
        if not self._is_away:
            said = scrub(str(error))  # the addresses have passwords
            self.say(f"Celery's broker or result backend does not answer; the steps wait for it: {said}", step_key=None)
            self.outages += 1
        self._is_away = True

    def _offers(self, queue: str) -> bool:
        """Whether the broker has messages in the queue that no worker has taken."""
        with self._app.connection_for_read() as connection:
            try:
                return bool(connection.default_channel.queue_declare(queue, passive=True).message_count)
            except connection.channel_errors:  # there is no such queue; in Redis, an empty queue does not exist
                return False

    def say(self, message: str, *, step_key: str | None) -> None:
        self._context.log.warning(message if step_key is None else f"step {step_key}: {message}")


class _Task:
    """A step's result in Celery. If its worker died, it is the result of the step as it was handed out again."""

    def __init__(self, watch: _Watch, step_key: str, queue: str, submit: Callable[[], Any]) -> None:
        self.queue = queue
        self.result: Any = None
        """None until the broker has accepted the task."""
        self._watch = watch
        self._step_key = step_key
        self._submit = submit
        self._times = 1
        self._begun = 0
        self.outages = 0
        """The number of outages before the step was handed out."""
        self._taken = False
        self._missed = 0
        self._nowhere = 0
        self._is_lost = False
        self._is_revoked = False
        self._logged: list[str] = []
        """The step's result, if it was read from the event log."""
        self._reached(self._hand_out)

    def ready(self) -> bool:
        return self._is_over or self._reached(self._is_ready)

    def is_open(self) -> bool:
        """Whether the broker has accepted it, and nothing is known about its end."""
        return not self._is_over and self.result is not None and not self.result.ready()

    def get(self) -> Any:
        if self._is_lost:
            raise TaskRevokedError if self._is_revoked else CrucibleError("the Celery worker that ran it died")
        return self._logged or self.result.get()

    def revoke(self) -> None:
        """End it, even if it is running already; the results of its trials are kept."""
        self._is_revoked = True
        if self.result is not None:
            self._reached(lambda: self.result.revoke(terminate=True))

    def heard(self, *, held: bool, nowhere: bool) -> None:
        """Take note of what the workers and the broker say about it."""
        self._taken = self._taken or held
        self._missed = 0 if held else self._missed + 1
        self._nowhere = self._nowhere + 1 if nowhere else 0
        # The worker may have died before it was first asked.
        is_gone = self._missed >= MOST_MISSED and (self._taken or self._watch.begun(self._step_key) > self._begun)
        if is_gone or self._nowhere >= MOST_MISSED:
            self.result.revoke()  # the broker may deliver it again much later
            self._without_result()

    @property
    def _is_over(self) -> bool:
        return self._is_lost or bool(self._logged)

    def _is_ready(self) -> bool:
        if self.result is None:
            self._hand_out()
        if not self.result.ready():
            self._watch.look()
            return self._is_over
        # A worker may still have begun it, or finished it, while the result backend was away.
        if isinstance(self.result.result, (WorkerLostError, *self._watch.unreachable)):
            self._without_result()
            return self._is_over
        return True

    def _without_result(self) -> None:
        """Celery will give no result: the step has ended anyway, no worker has begun it, or its worker has died."""
        self._logged = self._watch.end(self._step_key, self._begun)
        if self._logged:
            return
        if self._is_revoked:
            self._is_lost = True
            return
        begun = self._watch.begun(self._step_key)
        if begun == self._begun:
            self._watch.say("the broker lost it before a worker began; it is handed out again", step_key=self._step_key)
            self._hand_out()
            return
        name = step_name(self._step_key)
        if self._times == MOST_TIMES or (sharing(name) is None and name != STAGE):
            self._is_lost = True
            self._watch.lost.append(f"step {self._step_key!r}")
            return
        self._watch.say("its worker died; another runs what is missing", step_key=self._step_key)
        self._times += 1
        self._begun = begun
        self._hand_out()

    def _hand_out(self) -> None:
        self.result = None
        self._taken, self._missed, self._nowhere = False, 0, 0
        self.outages = self._watch.outages
        self.result = self._submit()

    def _reached(self, ask: Callable[[], object]) -> bool:
        """Whether `ask` returns something true; False if the broker or the result backend does not answer."""
        try:
            return bool(ask())
        except self._watch.unreachable as error:
            self._watch.missed(error)
            return False

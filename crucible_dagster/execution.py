"""Running an experiment as a Dagster job, from Python and from the command line."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dagster import (
    DagsterError,
    DagsterEventType,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
    build_reconstructable_job,
)
from dagster_shared.check import CheckError
from sqlalchemy.exc import SQLAlchemyError

from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    GateFailedError,
    InvalidExperimentError,
    Plan,
    Registry,
    RunInterrupted,
    StageFailedError,
)
from crucible_core.ir.experiment import Execution, Source
from crucible_core.ir.resources import plan_resources
from crucible_core.ir.secrets import has_secrets, masked_experiment, restored
from crucible_core.ir.trials_stage import every_stage
from crucible_core.ir.vocabulary import ExecutorName
from crucible_core.observers import Audience, Observers
from crucible_core.plan import plan_of
from crucible_core.values.messages import listing
from crucible_core.values.places import project_folder
from crucible_dagster.compile.executors import ALWAYS
from crucible_dagster.compile.job import job_for
from crucible_dagster.dagster_internals import (
    InMemoryJob,
    ReconstructableJob,
    database_errors,
    execute_run,
    in_this_process,
    is_on_sqlite,
)
from crucible_dagster.execute.given import keep_given
from crucible_dagster.execute.tracing import parent_tags, tracing_here, without_tracers
from crucible_dagster.history.gate_results import is_judged
from crucible_dagster.history.run_record import LaunchedBy, launch_tags
from crucible_dagster.names import last_step, op_names
from crucible_dagster.origins import origin_of
from crucible_dagster.processes import without_the_script
from crucible_dagster.store import RefusedWriteError, StoreError, detached
from crucible_dagster.store.io_manager import EMBEDDED, open_store
from crucible_dagster.tags import FRESH_TAG, LOCATION_TAG

__all__ = [
    "database_in_words",
    "embedded_home",
    "execute_experiment",
    "job_in_processes",
    "launch",
    "make_tables",
    "open_instance",
    "outcome",
    "rebuild_job",
]

INTERRUPTS = {DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__}
OURS = {CrucibleError.__name__, StoreError.__name__, RefusedWriteError.__name__}
SECRETS_VARIABLE = "_CRUCIBLE_EXPERIMENT_{}"
"""The environment variable with those stages that have secrets, for the processes that rebuild the job."""
LOCAL = Path(__file__).parent / "local"
"""The folder with the settings of an instance on this machine."""
OLD_SETTINGS = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"
"""What earlier versions wrote. A UI also needs a queue, and an end for runs whose process was lost."""
OPENS_WITHIN = 10.0
"""Seconds; far more than it takes to create the tables on a server and to open the instance."""
FULL = 1 << 18
"""Bytes; with less free space, a database on the disk cannot be written to."""
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def execute_experiment(
    experiment: Experiment | Plan,
    *,
    registry: Registry | None = None,
    assigns: Mapping[str, Any] | None = None,
    instance: DagsterInstance | None = None,
    executor: ExecutorName | None = None,
    run_id: str | None = None,
    observers: Observers = (),
    launched_by: LaunchedBy = "python",
    fresh: bool = False,
    tags: Mapping[str, str] | None = None,
    resources: Mapping[str, Any] | None = None,
) -> Context:
    """Run the experiment's job on a Dagster instance and return the Context read back from its store.

    The first stage finds `assigns` in `ctx.assigns`, as they were stored. So does the first stage of a run that resumes
    or retries this one.

    `instance` defaults to that of DAGSTER_HOME, or to an embedded one in `.crucible/dagster` in the folder of the
    experiment's project. `executor` defaults to that of the experiment. `observers` get each event as it happens; under
    `multiprocess`, they get them when the run is over. `launched_by` becomes a tag of the run, like the user's name.
    `fresh` runs every stage, even those with `cache: true`. `tags` are further tags of the run. Each of `resources`
    replaces in `ctx.resources` what the experiment declares; this needs a run in this process.

    Raises what `run_experiment` raises; StageFailedError holds the Context at that time. Raises CrucibleError if the
    instance's database cannot be used, or under `multiprocess`, if other processes cannot import a stage: they need to
    find it by module and name. The message says what is wrong.
    """
    plan = plan_of(experiment, registry)
    experiment = plan.experiment
    chosen = executor or (experiment.execution.executor if experiment.execution else "in_process")
    with contextlib.ExitStack() as stack:
        if instance is None:
            instance = stack.enter_context(open_instance(experiment.folder))
        run_id = run_id or str(uuid.uuid4())
        try:
            uuid.UUID(run_id)
        except ValueError:
            raise CrucibleError(f"the run id {run_id!r} is not a UUID; Dagster requires one") from None
        own = {FRESH_TAG: "true"} if fresh else {}
        if assigns is not None:
            own |= keep_given(open_store(instance), plan, run_id, assigns)
        all_tags = {**launch_tags(launched_by), **parent_tags(), **own, **(tags or {})}
        in_process = chosen == "in_process"
        if resources and not in_process:
            raise CrucibleError(
                f"the executor {chosen} runs the steps in other processes, to which objects cannot be passed: declare "
                f'{listing(resources)} under `resources:` in the experiment file, or use `executor="in_process"`'
            )
        # Under `multiprocess`, they get all events when the run is over.
        stack.enter_context(Audience.of(without_tracers(observers) if in_process else ()).during(experiment.id, run_id))
        with database_in_words(instance):
            EXECUTE[chosen](plan, instance, run_id, observers, all_tags, resources or {})
            context, error = outcome(experiment, instance, run_id)
        if in_process and error is not None:
            raise error
    if not in_process:
        Audience.of(tracing_here(observers)).retell(context, error)
    if error is not None:
        raise error
    return context


def embedded_home(folder: Path | None = None) -> Path:
    """Where the embedded instance keeps its files, in the project of `folder` or of the working directory."""
    return project_folder(folder) / EMBEDDED


def open_instance(folder: Path | None = None) -> DagsterInstance:
    """The instance of DAGSTER_HOME; otherwise the embedded one on SQLite files, which is created if there is none.

    The embedded one is `.crucible/dagster` in the project of `folder`: the nearest folder, upward from there, with
    `.crucible`, `pyproject.toml` or `.git`, else the working directory. `folder` defaults to the working directory.
    """
    home = os.environ.get("DAGSTER_HOME")
    try:
        return _open_in_turn(Path(home)) if home else _open_embedded(embedded_home(folder))
    except Exception as error:
        if not isinstance(error, (OSError, DagsterError, CheckError, *database_errors())):
            raise
        where = f"DAGSTER_HOME={home}" if home else str(embedded_home(folder))
        why = _why_of_database(error, Path(home) if home else embedded_home(folder))
        raise CrucibleError(f"the Dagster instance of {where} cannot be opened: {why}") from error


def _open_in_turn(home: Path) -> DagsterInstance:
    if not home.is_dir():
        return DagsterInstance.get()  # it says what is wrong with the folder
    on_sqlite = is_on_sqlite(str(home))
    # Opening creates a server's tables. While a server is away, each process finds that out by its own attempts.
    with _alone(home, patience=math.inf if on_sqlite else OPENS_WITHIN):
        instance = DagsterInstance.get()
        if on_sqlite:
            make_tables(instance)
    return instance


def _open_embedded(home: Path) -> DagsterInstance:
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    with _alone(home, patience=math.inf):
        if not settings.exists() or settings.read_text() == OLD_SETTINGS:
            shutil.copyfile(LOCAL / "dagster.yaml", settings)
        instance = DagsterInstance.from_config(str(home))
        make_tables(instance)
    return instance


@contextlib.contextmanager
def _alone(home: Path, patience: float) -> Iterator[None]:
    """Wait until no other process opens the instance: two that open fresh storage at the same time both create its
    tables, and both may fail. After waiting for `patience` seconds, go on anyway.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a file system without locks
            folder = os.open(home, os.O_RDONLY)  # the folder itself is locked, because it may not be writable
            stack.callback(os.close, folder)
            given_up = time.monotonic() + patience
            while not _locked(folder) and time.monotonic() < given_up:
                time.sleep(0.01)
        yield


def _locked(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextlib.contextmanager
def database_in_words(instance: DagsterInstance) -> Iterator[None]:
    """Turn an error of the instance's database into a CrucibleError with one sentence."""
    try:
        yield
    except database_errors() as error:
        home = None if instance.is_ephemeral else Path(instance.root_directory)
        why = _why_of_database(error, home)
        raise CrucibleError(f"the Dagster instance{f' of {home}' if home else ''} failed: {why}") from error


def _why_of_database(error: Exception, home: Path | None) -> str:
    if not isinstance(error, database_errors()):
        return str(error)
    cause = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error  # after many attempts to connect
    said = " ".join(str(getattr(cause, "orig", None) or cause).split())
    with contextlib.suppress(OSError):
        if home is not None and shutil.disk_usage(home).free < FULL:
            return f"its database cannot be written to, because the disk of {home} is full ({said}); make space"
    if "database is locked" in said:
        return (
            f"other processes held the lock on its SQLite files for too long ({said}); run fewer at once, or give the "
            "instance PostgreSQL (deploy/)"
        )
    return f"its database cannot be used: {said}"


def make_tables(instance: DagsterInstance) -> None:
    """Use each storage once, because it creates its tables at the first use."""
    instance.get_runs_count()
    instance.all_asset_keys()
    instance.all_instigator_state()


def outcome(
    experiment: Experiment, instance: DagsterInstance, run_id: str
) -> tuple[Context, StageFailedError | RunInterrupted | GateFailedError | None]:
    """The Context as it stood when the run ended, and the error that ended it, if one did.

    Raises CrucibleError if the run failed outside its stages.
    """
    store = open_store(instance)
    names = op_names(experiment)
    run = instance.get_run_by_id(run_id)
    if run is not None and run.status is DagsterRunStatus.SUCCESS:
        return detached(store.load(run_id, last_step(experiment))), None
    if run is not None and is_judged(run) and store.has_result(run_id, last_step(experiment)):
        context = detached(store.load(run_id, last_step(experiment)))
        if any(one.blocks for one in context.trace.gates):
            return context, GateFailedError(context, context.trace.gates)
    failure = next((found for name in names if (found := store.load_failure(run_id, name)) is not None), None)
    if failure is None:
        failed = _failed_events(instance, run_id)
        stopped = next((step for step, chain, _ in failed if {one.cls_name for one in chain} & INTERRUPTS), None)
        if stopped in names:  # while its result was written
            at = names.index(stopped)
            done = [name for name in names[: at + 1] if store.has_result(run_id, name)]
            context = detached(store.load(run_id, done[-1])) if done else Context.begin(experiment, run_id=run_id)
            return context, RunInterrupted(experiment.pipeline[at].name, context)
        raise CrucibleError(f"run {run_id} of experiment {experiment.id!r} failed outside its stages: {_why(failed)}")
    failure = replace(failure, context=detached(failure.context))
    return failure.context, failure.to_error()


def _failed_events(instance: DagsterInstance, run_id: str) -> list[tuple[str | None, list[Any], str]]:
    """What failed: the step or None, the error with its causes as Dagster stores them, and Dagster's message."""
    found = []
    for entry in instance.all_logs(run_id, of_type={DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}):
        event = entry.dagster_event
        if event is not None:
            chain, error = [], getattr(event.event_specific_data, "error", None)
            while error is not None:
                chain.append(error)
                error = error.cause
            found.append((event.step_key, chain, event.message or ""))
    return found


def _why(failed: Sequence[tuple[str | None, list[Any], str]]) -> str:
    for step, chain, _ in failed:
        # Our own error if there is one; otherwise the innermost error, without Dagster's wrappers.
        ours = [error for error in chain if error.cls_name in OURS]
        if chain:
            return f"{f'step {step}: ' if step else ''}{(ours or chain[-1:])[0].message.strip()}"
    return "; ".join(message for _, _, message in failed) or "no cause is recorded"


# --- the two ways to execute -----------------------------------------------------------------------------------------


def _execute_here(
    plan: Plan,
    instance: DagsterInstance,
    run_id: str,
    observers: Observers,
    tags: Mapping[str, str],
    resources: Mapping[str, Any],
) -> None:
    job = InMemoryJob(job_for(plan, observers=observers, resources=resources))
    launch(job, instance, run_config=_config("in_process"), tags=tags, apart=False, run_id=run_id)


def _execute_apart(
    plan: Plan,
    instance: DagsterInstance,
    run_id: str,
    _observers: Observers,
    tags: Mapping[str, str],
    _resources: Mapping[str, Any],
    *,
    executor: ExecutorName = "multiprocess",
) -> None:
    if instance.is_ephemeral:
        raise CrucibleError(
            f"the {executor} executor needs an instance on disk, which its processes can open: set DAGSTER_HOME, or "
            "leave `instance` out"
        )
    experiment = plan.experiment
    if executor not in ALWAYS and (experiment.execution is None or experiment.execution.executor != executor):
        experiment = experiment.model_copy(update={"execution": Execution(executor=executor)})
    config = _config(executor, **({} if executor == "celery" else _limits(experiment)))
    with job_in_processes(experiment, plan.registry, ()) as job:
        launch(job, instance, run_config=config, tags=tags, apart=True, run_id=run_id)


def launch(
    job: InMemoryJob | ReconstructableJob,
    instance: DagsterInstance,
    *,
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
    apart: bool,
    **more: Any,
) -> DagsterRun:
    """Run the job from this process, as a run that Dagster's UI lists with the job's other runs.

    `apart` says whether the steps run in other processes; `more` goes to Dagster's `create_run_for_job`.
    """
    definition = job.get_definition()
    run = instance.create_run_for_job(
        job_def=definition,
        run_config=run_config,
        tags={**definition.run_tags, **tags},
        remote_job_origin=origin_of(instance, definition.name, tags.get(LOCATION_TAG)),
        **more,
    )
    with without_the_script() if apart else in_this_process(instance):
        execute_run(job, run, instance)
    return run


def _config(executor: ExecutorName, **settings: Any) -> dict[str, Any]:
    return {**QUIET, "execution": {"config": {executor: settings}}}


@contextlib.contextmanager
def job_in_processes(experiment: Experiment, registry: Registry, observers: Observers) -> Iterator[ReconstructableJob]:
    """The experiment's job in a form that other processes can rebuild; `observers` get the events of this process.

    Raises CrucibleError for a stage that other processes cannot import, and for secrets that cannot be sent to them.
    """
    token = uuid.uuid4().hex
    stages = [registry.resolve(one, folder=experiment.folder) for one in experiment.pipeline]
    mistakes: list[InvalidExperimentError] = []
    resources = plan_resources(experiment, registry, mistakes)
    shown = masked_experiment(experiment, stages, resources)
    secret = SECRETS_VARIABLE.format(token)
    _observers[token] = tuple(observers)
    if shown is not experiment:
        executor = experiment.execution.executor if experiment.execution else "in_process"
        if executor not in ALWAYS:
            raise CrucibleError(
                f"secret options do not reach the workers of the executor {executor}: read the secret in the stage, "
                "from an environment variable that the workers have"
            )
        # Passed through the environment of child processes, because Dagster stores the arguments with the run.
        with_secrets = tuple(one for one, kind in zip(experiment.pipeline, stages, strict=True) if has_secrets(kind))
        with_secrets = with_secrets or experiment.pipeline[:1]  # those of resources are in it anyway
        os.environ[secret] = experiment.model_copy(update={"pipeline": with_secrets}).to_json(indent=None)
    try:
        yield build_reconstructable_job(
            "crucible_dagster.execution",
            "rebuild_job",
            reconstructable_kwargs={
                "experiment": shown.to_json(indent=None),
                "options_changed": experiment.options_changed,
                "path": experiment.source.path if experiment.source else None,
                "stages": _references(experiment, registry),
                "resources": _references_of_resources(resources, experiment),
                "importable": None if registry.importable is None else sorted(registry.importable),
                "token": token,
            },
        )
    finally:
        del _observers[token]
        os.environ.pop(secret, None)


# The observers of jobs that this process executes; they cannot be passed to another process.
_observers: dict[str, Observers] = {}


EXECUTE: Mapping[ExecutorName, Callable[..., None]] = {
    "in_process": _execute_here,
    "multiprocess": _execute_apart,
    "celery": functools.partial(_execute_apart, executor="celery"),
    "k8s": functools.partial(_execute_apart, executor="k8s"),
}


def _limits(experiment: Experiment) -> dict[str, Any]:
    most = experiment.execution and experiment.execution.max_concurrent
    return {"max_concurrent": most} if most else {}


def rebuild_job(
    *,
    experiment: str,
    path: str | None,
    stages: Mapping[str, str],
    importable: Sequence[str] | None,
    resources: Mapping[str, str] = {},  # is only read
    options_changed: bool = False,
    token: str = "",
) -> JobDefinition:
    """Rebuild, in another process, the job that `execute_experiment` was given; every argument is JSON."""
    made = Experiment.model_validate_json(experiment)
    if (secret := os.environ.get(SECRETS_VARIABLE.format(token))) is not None:
        made = restored(made, Experiment.model_validate_json(secret))
    made = made.as_changed(options_changed)
    if path is not None:
        made.read_from(Source(path, path))
    registered = {name: _dereference(reference) for name, reference in stages.items()}
    factories = {name: _dereference(reference) for name, reference in resources.items()}
    registry = Registry(registered, importable=importable, resources=factories)
    return job_for(made, registry, observers=_observers.get(token, ()))


def _references(experiment: Experiment, registry: Registry) -> dict[str, str]:
    found = {}
    for definition in every_stage(experiment):
        name = definition.module or definition.name
        if ":" in name or name not in registry:
            continue
        found[name] = _reference(registry[name], f"stage {definition.name!r}")
    return found


def _references_of_resources(resources: Mapping[str, Any], experiment: Experiment) -> dict[str, str]:
    """References to the factories of resources in the registry, by their names there."""
    found = {}
    for name, one in resources.items():
        module = (experiment.resources or {})[name].module or name
        if ":" not in module:
            found[module] = _reference(one.factory, f"the factory of resource {name!r}")
    return found


def _reference(code: Any, what: str) -> str:
    reference = f"{code.__module__}:{code.__qualname__}"
    try:
        importable = code.__module__ != "__main__" and _dereference(reference) is code
    except (ImportError, AttributeError):
        importable = False
    if not importable:
        raise CrucibleError(
            f"{what} ({reference}) cannot be imported by another process, as the executor needs: define it at the top "
            "level of a module"
        )
    return reference


def _dereference(reference: str) -> Any:
    module, _, qualname = reference.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found

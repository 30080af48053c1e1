"""The stage that `trials:` of an experiment file becomes: it runs the table of trials, and puts a row for each."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Final, Self

from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from crucible_core.context import Context
from crucible_core.errors import InvalidExperimentError
from crucible_core.ir.experiment import Experiment, Place, Source, StageDef
from crucible_core.ir.option_schema import merge_options
from crucible_core.ir.trials import MOST_WORKERS, Engine, Grid
from crucible_core.ir.trials_stage import STAGE
from crucible_core.metrics import flatten
from crucible_core.plan import PlannedStage, current_plan, plan_experiment, plan_stage
from crucible_core.progress import progress
from crucible_core.registry import Registry, builtin_registry
from crucible_core.run_errors import StageFailedError
from crucible_core.runner import run_stages
from crucible_core.stage import Stage
from crucible_core.trace import StageFailed, Trace
from crucible_core.trials.engine import run_in_processes
from crucible_core.trials.log import FolderFiles, Row, TrialLog, TrialSettings
from crucible_core.trials.shared import SharedValue, digest_of, pickled
from crucible_core.trials.table import Arm, Trial, TrialsError, arms_of, table_of
from crucible_core.values.attempt_inputs import AttemptInputs
from crucible_core.values.jsonable import as_number, plain_number, to_jsonable, type_name
from crucible_core.values.messages import closest, error_text, listing

__all__ = ["RunTrials", "run_trial"]

PARTS: Final = ("assigns", "metrics", "artifacts", "outputs")
COLUMNS: Final = ("arm", "replicate", "seed", "status", "seconds", "stage", "error", "reused")
# What a trial does not depend on, or what its key has by itself.
NOT_OF_A_TRIAL: Final = dict.fromkeys(("automation", "gates", "outputs", "schedule", "trigger", "variant", "variants"))
NOT_INPUT: Final = frozenset({*NOT_OF_A_TRIAL, "description", "execution", "owner", "pipeline", "seed", "tags"})


class RunTrials(Stage):
    """Runs the trials of a sweep: its stages once for each arm and replicate, and puts a row for each into `outputs`.

    A row has `arm`, the varied options as `stage.option`, `replicate` (from 0), `seed`, `status` (succeeded or failed),
    `seconds`, the metrics of the trial and, if it failed, `stage` and `error`. `metrics["trials"]` counts them. A trial
    begins with the Context as it was before this stage; of what it puts, the metrics are kept. An experiment file
    declares this stage by its key `trials`.
    """

    only_in_file: ClassVar[frozenset[str]] = frozenset({"engine", "stages"})
    """Options that the config of a run cannot change: what is imported, and where it is sent."""

    stages: list[StageDef] = Field(min_length=1)
    """The stages of a trial."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Their options, by the name of the stage."""
    arms: dict[str, dict[str, dict[str, Any]]] | None = None
    """Arm -> stage -> options that replace those of the stage."""
    grid: Grid | None = None
    """`stage.option` -> its values: each combination is an arm, or, with `arms`, a version of each arm."""
    replicates: int = Field(default=1, ge=1)
    """How often each arm is run, each time with another seed."""
    measure: str | None = None
    """The metric of a trial that is compared."""
    workers: int = Field(default=1, ge=1, le=MOST_WORKERS)
    """On Dagster: the number of ops among which the trials are divided."""
    jobs: int = Field(default=1, ge=1)
    """Processes, in each worker on Dagster."""
    engine: Engine | None = None
    """What runs the processes (default: `{kind: loky}`)."""
    seed: int = Field(default=0, ge=0)
    """The seed from which those of the replicates follow."""

    _registry: Registry | None = PrivateAttr(default=None)
    _share: int | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _remember_registry(self, info: ValidationInfo) -> Self:
        if info.context:
            self._registry = info.context.get("registry")
        return self

    def check(self, experiment: Experiment) -> Iterable[str]:
        """Raises InvalidExperimentError for trials that cannot be run, each mistake where the file has it."""
        at = ("pipeline", experiment.index_of(STAGE), "options")
        try:
            arms = arms_of(self.arms, self.grid)
            next(table_of(arms, self.replicates, self.seed))
        except TrialsError as error:
            raise InvalidExperimentError(f"trials: {error}", location=experiment.location(*at, *error.place)) from None
        self._check(experiment, Arm("", {}, {}))
        mistakes: dict[tuple[str | int, ...], InvalidExperimentError] = {}
        seen: dict[str, str] = {}
        for arm in arms:
            try:
                same = seen.setdefault(self._check(experiment, arm), arm.name)
            except InvalidExperimentError as error:
                place = self._culprit(experiment, arm)
                said = f"trials: arm {arm.name!r}: {error.message}"
                mistakes.setdefault(place, InvalidExperimentError(said, location=experiment.location(*at, *place)))
                continue
            if same != arm.name:
                said = f"trials: the arms {same!r} and {arm.name!r} are the same: leave one of them out"
                raise InvalidExperimentError(said, location=experiment.location(*at, "grid" if self.grid else "arms"))
        if mistakes:
            raise InvalidExperimentError.of(list(mistakes.values()))
        return ()

    def _check(self, experiment: Experiment, arm: Arm) -> str:
        """What the arm's stages are, in text. Raises InvalidExperimentError if they cannot be run."""
        plan = plan_experiment(self._of_trial(experiment, arm, self.seed), self._known_stages)
        return "\n".join(one.stage.model_dump_json() for one in plan)

    def _culprit(self, experiment: Experiment, arm: Arm) -> tuple[str | int, ...]:
        """Where the arm has what cannot be run: the value of the grid or the stage that is refused by itself."""
        for key, value in arm.varied.items():
            stage, _, option = key.partition(".")
            if self._is_refused(experiment, Arm("", {stage: {option: value}}, {})):
                return ("grid", key, (self.grid or {})[key].index(value))
        own = next((name for name in self.arms or () if arm.name == name or arm.name.startswith(f"{name} ")), None)
        for stage in (self.arms or {}).get(own or "", {}):
            if self._is_refused(experiment, Arm("", {stage: arm.options[stage]}, {})):
                return ("arms", own or "", stage)
        return ("grid",) if own is None else ("arms", own)

    def _is_refused(self, experiment: Experiment, arm: Arm) -> bool:
        try:
            self._check(experiment, arm)
        except InvalidExperimentError:
            return True
        return False

    def run(self, ctx: Context) -> Context:
        with self._sweep(ctx) as sweep:
            rows = dict(progress(sweep.rows(), total=sweep.size, description=f"{sweep.size:,} trials"))
            if self._share is not None:
                return ctx
            table = [rows.pop(task.key) | task.columns for task in sweep.tasks]
        reused = sum(row.pop("reused", False) for row in table)
        if reused:
            ctx = ctx.decide(
                f"{reused:,} of {_counted(len(table), 'trial')} were not run again",
                "an earlier run has kept them: what they began with, their code, options and seeds are the same",
            )
        return self._gathered(ctx, table)

    def share_of(self, worker: int) -> RunTrials:
        """The stage that runs the trials whose place in the table is `worker` (from 0) modulo the number of workers.

        It only keeps their rows, where the plan says; this stage finds them there.
        """
        made = self.model_copy()
        made._share = worker
        return made

    def planned_stages(self, experiment: Experiment) -> tuple[PlannedStage, ...]:
        """The stages of a trial, without the changes of an arm. Raises InvalidExperimentError."""
        return self._stages(experiment, Arm("", {}, {}), self.seed)

    def summary(self, experiment: Experiment) -> str:
        """The size of the table and the stages of a trial, in one sentence."""
        arms = len(arms_of(self.arms, self.grid))
        names = [one.name for one in experiment.pipeline]
        index = names.index(STAGE)
        before, after = (", ".join(part) for part in (names[:index], names[index + 1 :]))
        counted = f"{_counted(arms, 'arm')} x {_counted(self.replicates, 'replicate')}"
        return (
            f"{_counted(arms * self.replicates, 'trial')} ({counted}) of the stages "
            f"{', '.join(one.name for one in self.stages)}; run once, before them: {before or 'none'}; after them: "
            f"{after or 'none'}"
        )

    def _stages(self, experiment: Experiment, arm: Arm, seed: int) -> tuple[PlannedStage, ...]:
        of_trial = self._of_trial(experiment, arm, seed)
        return tuple(plan_stage(of_trial, index, self._known_stages) for index in range(len(self.stages)))

    @property
    def _known_stages(self) -> Registry:
        return builtin_registry() if self._registry is None else self._registry

    def _of_trial(self, experiment: Experiment, arm: Arm, seed: int) -> Experiment:
        """The experiment that one trial is: the stages of a trial as its pipeline, with the options of the arm."""
        definitions = []
        for one in self.stages:
            given, changes = self.options.get(one.name), arm.options.get(one.name)
            if changes is not None:
                model = self._known_stages.resolve(one, folder=experiment.folder)
                given = merge_options(model, given or {}, changes)
            definitions.append(one if given is None else one.model_copy(update={"options": given}))
        made = experiment.model_copy(update={**NOT_OF_A_TRIAL, "pipeline": tuple(definitions), "seed": seed})
        if (source := experiment.source) is not None:
            at = ("pipeline", experiment.index_of(STAGE), "options", "options")
            made.read_from(replace(source, find=functools.partial(_places_of_trial, source, at, definitions)))
        made._replaced = {}
        return made

    @contextmanager
    def _sweep(self, ctx: Context) -> Iterator[_Sweep]:
        plan = current_plan.get()
        settings = (plan and plan.trials) or TrialSettings()
        jobs = settings.jobs or self.jobs
        with tempfile.TemporaryDirectory(prefix="crucible-trials-", ignore_cleanup_errors=True) as folder:
            log = TrialLog(settings.files or FolderFiles(Path(folder)), ctx.experiment_id, ctx.run_id)
            must_pickle = jobs > 1 or self.engine is not None
            elsewhere = self.engine is not None and self.engine.kind != "loky"
            shared, digest = _shared(ctx, None if elsewhere else Path(folder) / "shared", must_pickle=must_pickle)
            identify = settings.identify or _identify
            arms = arms_of(self.arms, self.grid)
            of_arm = {arm.name: _digest_of_arm(self._stages(ctx.experiment, arm, 0), identify) for arm in arms}
            tasks = [
                _Task(_key(digest, of_arm[trial.arm.name] or ctx.run_id, trial.seed), trial)
                for trial in table_of(arms, self.replicates, self.seed)
                if self._share is None or trial.place % self.workers == self._share
            ]
            ready = functools.partial(_with_stages, self, ctx.experiment)
            yield _Sweep(tasks, ready, shared, log, jobs, self.engine, settings.fresh)

    def _gathered(self, ctx: Context, rows: list[Row]) -> Context:
        """The Context with the rows, each with all columns that any of them has."""
        columns = dict.fromkeys(name for row in rows for name in row)
        failed = [row for row in rows if row["status"] != "succeeded"]
        if self.measure is not None and len(failed) < len(rows) and self.measure not in columns:
            raise TrialsError(
                f"no trial put the metric {self.measure!r}, which `measure` names{closest(self.measure, columns)}; "
                f"they put: {listing([name for name in columns if name not in COLUMNS and '.' not in name])}"
            )
        if self.measure is not None:
            columns.setdefault(self.measure)  # every trial failed
        for row in rows:
            row |= {name: None for name in columns if name not in row}
        ctx = ctx.add_outputs(rows)
        if failed:
            common = Counter((row["stage"], row["error"]) for row in failed).most_common(3)
            said = "; ".join(f"{count} of them in stage {stage!r}: {error}" for (stage, error), count in common)
            ctx = ctx.decide(f"{len(failed)} of {len(rows)} trials failed, and are left out", said)
        count = {"count": len(rows), "succeeded": len(rows) - len(failed), "failed": len(failed)}
        return ctx.put_metric("trials", {**count, "failed_share": len(failed) / len(rows)})


@dataclass(frozen=True, slots=True)
class _Task:
    """A trial, and the key of its row."""

    key: str
    trial: Trial

    @property
    def columns(self) -> Row:
        """What the table says of the trial, also if its row was kept when the arm had another name."""
        trial = self.trial
        return {"arm": trial.arm.name, **trial.arm.varied, "replicate": trial.replicate, "seed": trial.seed}

    def died(self, why: str) -> Row:
        return self.row("failed", 0.0, stage=None, error=why)

    def row(self, status: str, seconds: float, **more: Any) -> Row:
        return {**self.columns, "status": status, "seconds": seconds, **more}


@dataclass(frozen=True, slots=True)
class _ReadyTask(_Task):
    """The same with its stages, as it is sent to another process."""

    stages: tuple[PlannedStage, ...]


def _with_stages(sweep: RunTrials, experiment: Experiment, task: _Task) -> _ReadyTask:
    stages = sweep._stages(experiment, task.trial.arm, task.trial.seed)
    return _ReadyTask(task.key, task.trial, stages)


@dataclass(frozen=True, slots=True)
class _Sweep:
    tasks: Sequence[_Task]
    ready: Callable[[_Task], _ReadyTask]
    shared: SharedValue | _InMemory
    log: TrialLog
    jobs: int
    engine: Engine | None
    fresh: bool

    @property
    def size(self) -> int:
        return len(self.tasks)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """The key and the row of each trial: first what is kept already, then what has to be run, as it ends."""
        kept = self.log.rows((task.key for task in self.tasks), fresh=self.fresh)
        yield from kept.items()
        left = [task for task in self.tasks if task.key not in kept]
        run = functools.partial(_run_task, self.shared)
        if self.jobs == 1 and self.engine is None:
            for task in left:
                row = run(self.ready(task))
                self.log.keep(task.key, row)
                yield task.key, row
        elif left:
            engine = self.engine or Engine()
            yield from run_in_processes(
                left, self.ready, run, self.log, jobs=self.jobs, kind=engine.kind, address=engine.address
            )


def run_trial(before: Context, stages: Sequence[PlannedStage], seed: int) -> Context:
    """Run one trial: `run_stage` for each of its stages in turn, on the Context before the trials, and return the last.

    `ctx.experiment` has the trial's pipeline and `seed`. Raises StageFailedError or RunInterrupted as `run_stage` does.
    """
    pipeline = tuple(one.definition for one in stages)
    experiment = before.experiment.model_copy(update={"pipeline": pipeline, "seed": seed})
    ctx = replace(before, experiment=experiment, trace=Trace())
    return run_stages(stages, ctx)


def _run_task(shared: SharedValue | _InMemory, task: _ReadyTask) -> Row:
    started = perf_counter()
    before: Context = shared.load()
    try:
        after = run_trial(before, task.stages, task.trial.seed)
        metrics = _metrics_of(before, after)
    except StageFailedError as failed:
        ending = failed.context.trace.endings.get(failed.stage)
        error = f"{ending.error_type}: {ending.message}" if isinstance(ending, StageFailed) else failed.reason
        return task.row("failed", perf_counter() - started, stage=failed.stage, error=error)
    except ValueError as error:
        said = error_text(error)
        return task.row("failed", perf_counter() - started, stage=task.stages[-1].name, error=said)
    return task.row("succeeded", perf_counter() - started, **metrics)


def _metrics_of(before: Context, after: Context) -> Row:
    """The metrics that the trial put, by their names. Raises ValueError for the name of another column."""
    put = {
        name: value
        for name, value in after.metrics.items()
        if name not in before.metrics or before.metrics[name] is not value
    }
    found: Row = {}
    for name, value in flatten(put):
        if name in COLUMNS:
            raise ValueError(f"the metric {name!r} has the name of a column of the trials; give it another name")
        number = as_number(value)
        found[name] = to_jsonable(value) if number is None or isinstance(value, bool) else plain_number(number)
    return found


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# --- what a trial depends on ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _InMemory:
    """The Context before the trials, where something in it cannot be pickled."""

    context: Context

    def load(self) -> Context:
        """The Context for one trial: copies, except of what cannot be copied."""
        return AttemptInputs(self, self.context).restored(self.context)


def _shared(ctx: Context, file: Path | None, *, must_pickle: bool) -> tuple[SharedValue | _InMemory, str]:
    """What each trial loads, and a digest of what a trial can see of it. Raises TrialsError if it must be pickled."""
    base = replace(ctx, trace=Trace())
    try:
        shared = pickled(base, file)
        experiment = {key: value for key, value in ctx.experiment.to_dict().items() if key not in NOT_INPUT}
        seen = [json.dumps(experiment, sort_keys=True), *(_digest_of(getattr(ctx, part)) for part in PARTS)]
    except Exception as error:
        if must_pickle:
            raise TrialsError(
                f"the Context before the trials cannot be sent to other processes: {type_name(error)}: "
                f"{error_text(error)}; make what cannot be sent in a stage of the trials, or run them with `jobs: 1`"
            ) from error
        return _InMemory(base), f"of run {ctx.run_id}"
    return shared, hashlib.sha256("\n".join(seen).encode()).hexdigest()


def _digest_of(part: Iterable[Any]) -> str:
    # Value by value: two that are one object in this process may be two in another.
    values = sorted(part.items()) if isinstance(part, Mapping) else part
    return hashlib.sha256("".join(digest_of(value) for value in values).encode()).hexdigest()


def _digest_of_arm(stages: Sequence[PlannedStage], identify: Callable[[type[Stage]], str | None]) -> str | None:
    """A digest of the stages of an arm, their code and options; None if the code of one is not known."""
    codes = [identify(type(one.stage)) for one in stages]
    if None in codes:
        return None
    parts = [[one.name, one.definition.enabled, one.stage.model_dump_json()] for one in stages]
    return hashlib.sha256(json.dumps([codes, parts]).encode()).hexdigest()


def _key(before: str, arm: str, seed: int) -> str:
    return hashlib.blake2b(f"{before} {arm} {seed}".encode(), digest_size=16).hexdigest()


def _identify(stage: type[Stage]) -> str | None:
    """A digest of the source of the modules that define the class; None if there is none."""
    digest = hashlib.sha256()
    for cls in stage.__mro__[: stage.__mro__.index(Stage)]:
        try:
            source = inspect.getsource(inspect.getmodule(cls) or cls)
        except (OSError, TypeError):
            return None
        digest.update(f"{cls.__qualname__}\0{source}\0".encode())
    return digest.hexdigest()


def _places_of_trial(source: Source, at: Place, stages: Sequence[StageDef]) -> dict[Place, tuple[int, int]]:
    """Where the file has the options of a trial's stages, which are a part of those of the stage `trials`."""
    index = {one.name: place for place, one in enumerate(stages)}
    size = len(at)
    return {
        ("pipeline", index[str(place[size])], "options", *place[size + 1 :]): position
        for place, position in source.find().items()
        if place[:size] == at and len(place) > size
    }

"""The stage that `trials:` of an experiment file becomes: it runs the table of trials, and puts a row for each."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Final, Self

from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from crucible_core.context import Context
from crucible_core.errors import InvalidExperimentError
from crucible_core.ir.experiment import Experiment, Place, Source, StageDef
from crucible_core.ir.option_schema import merge_options
from crucible_core.ir.resources import Having, PlannedResource, sent
from crucible_core.ir.trials import MOST_WORKERS, Engine, Grid, Search, Until
from crucible_core.ir.trials_stage import STAGE
from crucible_core.metrics import flatten
from crucible_core.plan import PlannedStage, current_plan, plan_experiment, plan_stage
from crucible_core.progress import Progress, progress
from crucible_core.registry import Registry, builtin_registry
from crucible_core.run_errors import StageFailedError
from crucible_core.run_state.attempt_inputs import AttemptInputs
from crucible_core.run_state.checkpoints import part_of_run
from crucible_core.run_state.resources import Maker, resources_of
from crucible_core.run_state.spending import SPENT, check, counted, over, since, spent_in
from crucible_core.runner import run_stages
from crucible_core.stage import Stage
from crucible_core.trace import StageFailed, Trace
from crucible_core.trials.costs import Costs
from crucible_core.trials.engine import end_processes, run_in_processes
from crucible_core.trials.log import FolderFiles, Row, TrialLog, TrialSettings
from crucible_core.trials.search import ends_of, searched
from crucible_core.trials.shared import SharedValue, digest_of, pickled
from crucible_core.trials.table import Arm, Trial, TrialsError, arm_of, arms_of, check_size, find_arm, table_of
from crucible_core.trials.until import Difference, differences, widest
from crucible_core.values.jsonable import as_number, plain_number, to_jsonable, type_name
from crucible_core.values.messages import closest, cut, error_text, listing

__all__ = ["RunTrials", "run_trial"]

PARTS: Final = ("assigns", "metrics", "artifacts", "outputs")
COLUMNS: Final = ("arm", "replicate", "seed", "status", "seconds", "stage", "error", "reused")
# What a trial does not depend on, or what is in its key already.
NOT_OF_A_TRIAL: Final = dict.fromkeys(
    ("automation", "gates", "lock", "outputs", "schedule", "trigger", "variant", "variants")
)
NOT_INPUT: Final = frozenset(
    {*NOT_OF_A_TRIAL, "budget", "description", "execution", "owner", "pipeline", "seed", "tags"}
)


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
    until: Until | None = None
    """Goes on, `replicates` at a time, until the differences from the baseline are known well enough."""
    search: Search | None = None
    """Chooses the arms by what earlier ones measured."""
    measure: str | None = None
    """The metric of a trial that is compared."""
    baseline: str | None = None
    """With `until`: the arm that the others are compared with."""
    workers: int = Field(default=1, ge=1, le=MOST_WORKERS)
    """On Dagster: the number of ops among which the trials are divided."""
    jobs: int = Field(default=1, ge=1)
    """The number of processes; on Dagster, of each worker."""
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
            arms = self._arms()
            check_size((self.search.budget if self.search else len(arms)) * self._most_replicates)
            self._check_rounds(arms)
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
            if same != arm.name and self.search is None:
                said = f"trials: the arms {same!r} and {arm.name!r} are the same: leave one of them out"
                raise InvalidExperimentError(said, location=experiment.location(*at, "grid" if self.grid else "arms"))
        if mistakes:
            raise InvalidExperimentError.of(list(mistakes.values()))
        if self.until is not None and importlib.util.find_spec("scipy") is None:
            return ["`until` needs the extra 'stats': pip install 'crucible-dagster[stats]'"]
        if self.search is not None and importlib.util.find_spec("optuna") is None:
            return ["`search` needs the extra 'optuna': pip install 'crucible-dagster[optuna]'"]
        return ()

    def _arms(self) -> Sequence[Arm]:
        """The arms; for a search, one for each value that shows whether the other values are possible."""
        if self.search is None:
            return arms_of(self.arms, self.grid)
        return [arm_of({key: value}, ()) for key, values in self.search.space.items() for value in ends_of(values)]

    def _check_rounds(self, arms: Sequence[Arm]) -> None:
        key = "search" if self.search is not None else "until"
        if (self.search or self.until) is not None and self.measure is None:
            raise TrialsError(f"{key}: name the `measure` that it looks at", key)
        if self.until is None:
            return
        if self.baseline is None:
            raise TrialsError("until: differences need two arms, or more arms and the `baseline` of them", "until")
        find_arm(arms, self.baseline)
        if self.replicates > self.until.at_most:
            said = f"replicates are added {self.replicates} at a time, which is more than at_most, {self.until.at_most}"
            raise TrialsError(f"until: {said}", "until", "at_most")

    def _check(self, experiment: Experiment, arm: Arm) -> str:
        """What the arm's stages are, in text. Raises InvalidExperimentError if they cannot be run."""
        plan = plan_experiment(self._of_trial(experiment, arm, self.seed), self._known_stages)
        return "\n".join(one.stage.model_dump_json() for one in plan)

    def _culprit(self, experiment: Experiment, arm: Arm) -> tuple[str | int, ...]:
        """Where the arm has what cannot be run: the value of the grid or the stage that is refused by itself."""
        if self.search is not None:
            return ("search", "space", *arm.varied)
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
        table: list[Row] = []
        with self._sweep(ctx) as sweep:
            for trials in self._rounds(table):
                if self._share is not None:
                    sweep.rows(trials[self._share :: self.workers])
                    return ctx
                table += sweep.rows(trials)
                if sweep.costs.is_over:
                    break
            if sweep.keeps:
                with suppress(OSError):  # more files are slower to read, and nothing else
                    sweep.log.compact()
        reused = sum(row.pop("reused", False) for row in table)
        if reused:
            ctx = ctx.decide(
                f"{reused:,} of {_counted(len(table), 'trial')} were not run again",
                "an earlier run has kept them: what they began with, their code, options and seeds are the same",
            )
        costs = sweep.costs
        if costs.spent:
            # Before anything else may fail, because it was paid.
            ctx = ctx._with("metrics", counted(ctx.metrics, ctx.stage, costs.spent))
        if costs.not_run:
            ctx = ctx.decide(
                f"{_counted(len(costs.not_run), 'trial')} of {len(table) + len(costs.not_run):,} were not run",
                f"the budget {over(costs.limits, costs.spent)!r} is used up: {cut(listing(costs.not_run), 1_000)}",
            )
        elif self.until is not None and not costs.is_over:
            found = self._differences(table)
            ctx = ctx.decide(
                f"stopped after {table[-1]['replicate'] + 1} replicates: the widest interval is {widest(found):.4g}, "
                f"and {self.until.width:g} was asked for",
                f"{self.measure} minus that of {self.baseline}: {'; '.join(map(str, found))}; these intervals "
                f"({1 - self.until.alpha:.4g} for all of them together) hold however often one has looked",
            )
        ctx = self._gathered(ctx, table)
        check(ctx)
        return ctx

    def _rounds(self, table: list[Row]) -> Iterator[list[Trial]]:
        """The trials of each round; `table` then has the rows of the rounds before."""
        if self.search is not None:
            yield from searched(table, str(self.measure), self.replicates, self.seed, **self.search.model_dump())
            return
        arms = arms_of(self.arms, self.grid)
        trials = table_of(arms, self._most_replicates, self.seed)
        while round_ := list(islice(trials, len(arms) * self.replicates)):
            yield round_
            if self.until is None or all(row.get(str(self.measure)) is None for row in table[-len(round_) :]):
                return  # no trial of the last round measured anything, so more would not either
            if widest(self._differences(table)) <= self.until.width:
                return

    def _differences(self, table: Sequence[Row]) -> list[Difference]:
        assert self.until is not None
        assert self.measure is not None
        assert self.baseline is not None
        arms = [arm.name for arm in arms_of(self.arms, self.grid)]
        tightest_at = self.until.at_most // 2
        return differences(table, arms, self.baseline, self.measure, alpha=self.until.alpha, tightest_at=tightest_at)

    @property
    def _most_replicates(self) -> int:
        return self.replicates if self.until is None else self.until.at_most

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
        arms = self.search.budget if self.search else len(arms_of(self.arms, self.grid))
        names = [one.name for one in experiment.pipeline]
        index = names.index(STAGE)
        before, after = (", ".join(part) for part in (names[:index], names[index + 1 :]))
        counted = f"{_counted(arms, 'arm')} x {_counted(self.replicates, 'replicate')}"
        if self.search is not None:
            counted += f", the arms chosen {self.search.batch} at a time by {self.search.sampler}"
        if self.until is not None:
            counted += f", or more, up to {self.until.at_most:,} replicates"
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
        # Its resources are those of the run, which has planned them.
        changes = {**NOT_OF_A_TRIAL, "resources": None, "pipeline": tuple(definitions), "seed": seed}
        made = experiment.model_copy(update=changes)
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
            shared, before = _shared(ctx, None if elsewhere else Path(folder) / "shared", must_pickle=must_pickle)
            identify = settings.identify or _identify
            makers = resources_of(ctx.run_id).makers
            if makers:
                before = _with_resources(before, makers, identify, ctx.run_id)
            of_arm: dict[str, str] = {}

            def key_of(trial: Trial) -> str:
                arm = trial.arm
                if arm.name not in of_arm:
                    of_arm[arm.name] = _digest_of_arm(self._stages(ctx.experiment, arm, 0), identify, ctx.run_id)
                return _key(before, of_arm[arm.name], trial)

            ready = functools.partial(_with_stages, self, ctx.experiment)
            shares = 1 if self._share is None else self.workers
            costs = Costs(ctx.experiment.budget, spent_in(ctx.metrics), shares)
            keeps = settings.files is not None
            having = Having(ctx.run_id, sent(makers)) if makers and must_pickle else None
            try:
                yield _Sweep(key_of, ready, shared, log, jobs, self.engine, settings.fresh, keeps, costs, having)
            finally:
                if having is not None and not elsewhere:
                    end_processes()

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

    def died(self, why: str) -> Row:
        return self.row("failed", 0.0, stage=None, error=why)

    def row(self, status: str, seconds: float, **more: Any) -> Row:
        return {**_columns(self.trial), "status": status, "seconds": seconds, **more}


@dataclass(frozen=True, slots=True)
class _ReadyTask(_Task):
    """The same with its stages, as it is sent to another process."""

    stages: tuple[PlannedStage, ...]


def _with_stages(sweep: RunTrials, experiment: Experiment, task: _Task) -> _ReadyTask:
    stages = sweep._stages(experiment, task.trial.arm, task.trial.seed)
    return _ReadyTask(task.key, task.trial, stages)


def _columns(trial: Trial) -> Row:
    """What the table says about the trial, even if its row was kept when the arm had another name."""
    return {"arm": trial.arm.name, **trial.arm.varied, "replicate": trial.replicate, "seed": trial.seed}


@dataclass(frozen=True, slots=True)
class _Sweep:
    key: Callable[[Trial], str]
    ready: Callable[[_Task], _ReadyTask]
    shared: SharedValue | _InMemory
    log: TrialLog
    jobs: int
    engine: Engine | None
    fresh: bool
    keeps: bool
    costs: Costs
    having: Having | None

    def rows(self, trials: Sequence[Trial]) -> list[Row]:
        """The row of each trial: the one that is kept already, or else the one of running it now.

        When the budget is used up, no other trial begins: what is left has no row.
        """
        rows = self.log.rows(map(self.key, trials), fresh=self.fresh)
        left = [_Task(key, trial) for trial, (key, row) in zip(trials, rows.items(), strict=True) if row is None]
        for row in rows.values():
            self.costs.count(row)
        bar: Progress[None] = progress(total=len(trials), description=_counted(len(trials), "trial"))
        with bar:
            bar.advance(len(trials) - len(left))
            for key, row in self._run(left):
                rows[key] = row
                self.costs.count(row)
                bar.advance()
        table = []
        for trial, one in zip(trials, rows.values(), strict=True):
            if one is None:
                self.costs.not_run.append(f"{trial.arm.name} (replicate {trial.replicate})")
            else:
                one.update(_columns(trial))  # in place: copies would take as much memory again
                table.append(one)
        return table

    def _run(self, left: Sequence[_Task]) -> Iterator[tuple[str, Row]]:
        run = functools.partial(_run_task, self.shared)
        if self.jobs == 1 and self.engine is None:
            for task in left:
                if self.costs.is_over:
                    return
                row = run(self.ready(task))
                self.log.keep(task.key, row)
                yield task.key, row
        elif left:
            engine = self.engine or Engine()
            stops = None if self.costs.limits is None else lambda: self.costs.is_over
            yield from run_in_processes(
                left,
                self.ready,
                run,
                self.log,
                jobs=self.jobs,
                kind=engine.kind,
                address=engine.address,
                stops=stops,
                having=self.having,
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
    after = before
    try:
        with part_of_run(f"trials/{task.key}"):
            after = run_trial(before, task.stages, task.trial.seed)
        metrics = _metrics_of(before, after)
    except StageFailedError as failed:
        ending = failed.context.trace.endings.get(failed.stage)
        error = f"{ending.error_type}: {ending.message}" if isinstance(ending, StageFailed) else failed.reason
        spent = _spent(before, failed.context)
        return task.row("failed", perf_counter() - started, stage=failed.stage, error=error, **spent)
    except ValueError as error:
        said, spent = error_text(error), _spent(before, after)
        return task.row("failed", perf_counter() - started, stage=task.stages[-1].name, error=said, **spent)
    return task.row("succeeded", perf_counter() - started, **metrics)


def _metrics_of(before: Context, after: Context) -> Row:
    """The metrics that the trial put, by their names. Raises ValueError for the name of another column."""
    put = {
        name: value
        for name, value in after.metrics.items()
        if name not in before.metrics or before.metrics[name] is not value
    }
    found = _spent(before, after)
    if spent_in(after.metrics):
        put.pop(SPENT, None)
    for name, value in flatten(put):
        if name in COLUMNS:
            raise ValueError(f"the metric {name!r} has the name of a column of the trials; give it another name")
        number = as_number(value)
        found[name] = to_jsonable(value) if number is None or isinstance(value, bool) else plain_number(number)
    return found


def _spent(before: Context, after: Context) -> Row:
    """What the trial itself has spent, `spent.usd`, in columns."""
    return {f"{SPENT}.{name}": amount for name, amount in since(before.metrics, after.metrics).items()}


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
    """What each trial loads, and a digest of what it sees. Raises TrialsError if it must be pickled and cannot be."""
    base = replace(ctx, trace=Trace())
    try:
        shared = pickled(base, file)
        experiment = {key: value for key, value in ctx.experiment.to_dict().items() if key not in NOT_INPUT}
        seen = [json.dumps(experiment, sort_keys=True), *(_digest_of(_seen(ctx, part)) for part in PARTS)]
    except Exception as error:
        if must_pickle:
            raise TrialsError(
                f"the Context before the trials cannot be sent to other processes: {type_name(error)}: "
                f"{error_text(error)}; make what cannot be sent in a stage of the trials, declare a client or a "
                "connection under `resources:`, or run them with `jobs: 1`"
            ) from error
        return _InMemory(base), f"of run {ctx.run_id}"
    return shared, hashlib.sha256("\n".join(seen).encode()).hexdigest()


def _seen(ctx: Context, part: str) -> Any:
    values = getattr(ctx, part)
    if part != "metrics" or SPENT not in values:
        return values
    return {name: value for name, value in values.items() if name != SPENT}  # what was paid before is not an input


def _digest_of(part: Iterable[Any]) -> str:
    # Value by value: two that are one object in this process may be two in another.
    values = sorted(part.items()) if isinstance(part, Mapping) else part
    return hashlib.sha256("".join(digest_of(value) for value in values).encode()).hexdigest()


def _with_resources(
    before: str, makers: Mapping[str, Maker], identify: Callable[[Any], str | None], run_id: str
) -> str:
    """The digest, with the code of what makes the resources; valid for this run only if that is not known."""
    code = [
        [name, (identify(one.factory) if isinstance(one, PlannedResource) else None) or run_id]
        for name, one in makers.items()
    ]
    return hashlib.sha256(json.dumps([before, code]).encode()).hexdigest()


def _digest_of_arm(stages: Sequence[PlannedStage], identify: Callable[[Any], str | None], run_id: str) -> str:
    """A digest of an arm's stages, their code and options; valid for this run only if some code is not known."""
    parts = [
        [one.name, one.definition.enabled, one.stage.model_dump_json(), identify(type(one.stage)) or run_id]
        for one in stages
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _key(before: str, arm: str, trial: Trial) -> str:
    # With the replicate: of 100,000 seeds of 32 bits, two are equal more often than not.
    return hashlib.blake2b(f"{before} {arm} {trial.replicate} {trial.seed}".encode(), digest_size=16).hexdigest()


def _identify(code: Any) -> str | None:
    """A digest of the source of the modules that define a stage's class, or a function; None if there is none."""
    digest = hashlib.sha256()
    is_stage = isinstance(code, type) and issubclass(code, Stage)
    for one in code.__mro__[: code.__mro__.index(Stage)] if is_stage else [code]:
        try:
            source = inspect.getsource(inspect.getmodule(one) or one)
        except (OSError, TypeError):
            return None
        digest.update(f"{one.__qualname__}\0{source}\0".encode())
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

"""The plan of an experiment: every stage found, every option checked, nothing run.

Made once, and passed to whatever needs it: the runner, the gates, the `validate` stage, the command line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from pydantic import ValidationError
from pydantic_core import to_json

from crucible_core.errors import InvalidExperimentError, InvalidOptionsError, UnknownStageError
from crucible_core.ir.experiment import Experiment, StageDef
from crucible_core.ir.option_schema import takes_seed
from crucible_core.ir.secrets import secrets_of
from crucible_core.registry import Registry, builtin_registry
from crucible_core.stage import Stage, nature_of
from crucible_core.values.arguments import check_experiment, check_instance
from crucible_core.values.jsonable import safe_text, type_name
from crucible_core.values.messages import error_text
from crucible_core.values.places import ReportFolder

if TYPE_CHECKING:
    from crucible_core.trials.log import TrialSettings

__all__ = [
    "Plan",
    "PlannedStage",
    "advice",
    "check_again",
    "current_plan",
    "plan_experiment",
    "plan_of",
    "plan_stage",
    "read_options",
]


class PlannedStage(NamedTuple):
    """A pipeline entry with its stage found and its options checked."""

    definition: StageDef
    stage: Stage

    @property
    def name(self) -> str:
        return self.definition.name

    def safe(self, text: str) -> str:
        """The text without secrets, those of the stage's options too, and without what could not be shown or kept."""
        from crucible_core.values.redaction import scrub  # noqa: PLC0415  # most stages say nothing

        return safe_text(scrub(text, secrets_of(self.stage, self.definition.options)))


# `_new(PlannedStage, ...)` is PlannedStage(...) without the function that a named tuple puts around it: once for every
# stage.
_new = tuple.__new__


@dataclass(frozen=True, slots=True)
class Plan(Sequence[PlannedStage]):
    """An experiment with the stages that run it: a sequence of its planned stages.

    Running it twice runs the same stage objects twice: what a stage changes in its own options stays changed.
    """

    experiment: Experiment
    stages: tuple[PlannedStage, ...]
    registry: Registry
    reports: ReportFolder = field(compare=False, repr=False)
    trials: TrialSettings | None = None
    """How its trials are run, and where the run keeps rows and checkpoints; None for the defaults."""
    resources: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What makes each resource, by its name."""

    @property
    def output_root(self) -> Path:
        """Where its reports are written: absolute, since a stage may change the working directory."""
        return self.reports.path

    @overload
    def __getitem__(self, index: int) -> PlannedStage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PlannedStage, ...]: ...
    def __getitem__(self, index: int | slice) -> PlannedStage | tuple[PlannedStage, ...]:
        return self.stages[index]

    def __len__(self) -> int:
        return len(self.stages)

    def folder_of(self, run_id: str) -> Path:
        """Where the folder of a run in this process is: below what the run keeps, else below the reports, by its id."""
        kept = None if self.trials is None else self.trials.folder
        return self.output_root / "folders" / run_id if kept is None else kept / "folders" / self.experiment.id

    @contextlib.contextmanager
    def running(self, run_id: str = "") -> Iterator[None]:
        """Makes this plan the `current_plan` while its stages run: the `validate` stage reads it there.

        The stages of the run have its resources, which are closed at the end.
        """
        token = current_plan.set(self)
        try:
            if not self.resources:
                yield
                return
            from crucible_core.ir.resources import resources_during  # noqa: PLC0415  # few experiments have some

            with resources_during(run_id, self.resources):
                yield
        finally:
            current_plan.reset(token)


current_plan: ContextVar[Plan | None] = ContextVar("crucible_plan", default=None)


def plan_experiment(experiment: Experiment, registry: Registry) -> Plan:
    """Find every stage, check every option, call the `check` of every stage; run nothing.

    Every variant of the experiment is checked too, unless this is one of them. Every stage that has an option `seed`
    without a value gets the experiment's.

    Raises UnknownStageError, InvalidOptionsError or InvalidExperimentError for the first mistake, with the rest as its
    `others`.
    """
    check_experiment(experiment, Experiment)
    check_instance("registry", registry, Registry, "a Registry, such as builtin_registry() or Registry({...})")
    if experiment.trials is not None:
        from crucible_core.ir.trials_stage import with_trials_stage  # noqa: PLC0415  # few experiments have them

        experiment = with_trials_stage(experiment, registry)
    mistakes: list[InvalidExperimentError] = []
    planned = _plan_each(experiment, range(len(experiment.pipeline)), registry, mistakes)
    resources: Mapping[str, Any] = {}
    if experiment.resources is not None:
        from crucible_core.ir.resources import plan_resources  # noqa: PLC0415  # few experiments have some

        resources = plan_resources(experiment, registry, mistakes)
    if experiment.gates and not mistakes:
        from crucible_core.ir.whole_checks import check_gates  # noqa: PLC0415  # few experiments have some

        mistakes += check_gates(experiment, (one.stage for one in planned if one.definition.enabled))
    if experiment.variants and experiment.variant is None and not mistakes:
        for name, changes in experiment.variants.items():
            try:
                variant = experiment.with_variant(name, registry)
            except InvalidExperimentError as error:
                mistakes.append(error)
                continue
            found: list[InvalidExperimentError] = []
            _plan_each(variant, [variant.index_of(stage) for stage in changes], registry, found)
            mistakes += [error.within(f"variant {name!r}: ") for error in found]
    if experiment.schedule is not None or experiment.automation is not None:
        from crucible_core.ir.whole_checks import check_crons  # noqa: PLC0415  # few experiments have one

        mistakes += check_crons(experiment)
    if mistakes:
        raise InvalidExperimentError.of(mistakes)
    return Plan(experiment, planned, registry, ReportFolder(experiment.folder), resources=resources)


def check_again(plan: Plan) -> None:
    """Call the `check` of the enabled stages of a plan that was made a while ago.

    Raises InvalidOptionsError for the first stage that cannot succeed now, with the rest as its `others`.
    """
    mistakes: list[InvalidExperimentError] = []
    for index, one in enumerate(plan):
        if one.definition.enabled:
            try:
                _call_check(one.stage, plan.experiment, index)
            except InvalidExperimentError as error:
                mistakes.append(error)
    if mistakes:
        raise InvalidExperimentError.of(mistakes)


def plan_of(experiment: Experiment | Plan, registry: Registry | None) -> Plan:
    """A Plan as it is; an Experiment planned with `registry`, by default `builtin_registry()`."""
    if isinstance(experiment, Plan):
        if registry is not None:
            raise TypeError("a Plan has its registry; give `registry` with an Experiment only")
        return experiment
    return plan_experiment(experiment, builtin_registry() if registry is None else registry)


def _plan_each(
    experiment: Experiment, indices: Iterable[int], registry: Registry, mistakes: list[InvalidExperimentError]
) -> tuple[PlannedStage, ...]:
    planned = []
    # Read once: every attribute of a pydantic model that is read costs as much as a call.
    seed, folder = experiment.seed, experiment.folder
    broken: set[str] = set()  # a module that cannot be imported is tried, and reported, once
    for index in indices:
        if broken and str(experiment.pipeline[index].module).partition(":")[0] in broken:
            continue
        try:
            planned.append(_plan(experiment, index, seed, registry, folder, check=True))
        except InvalidExperimentError as error:
            mistakes.append(error)
            if isinstance(error, UnknownStageError) and error.module is not None:
                broken.add(error.module)
    return tuple(planned)


def plan_stage(experiment: Experiment, index: int, registry: Registry) -> PlannedStage:
    """The stage at `index` of the pipeline (from 0), found and its options checked; its `check` is not called.

    Raises as `plan_experiment` does.
    """
    return _plan(experiment, index, experiment.seed, registry, experiment.folder)


def _plan(
    experiment: Experiment,
    index: int,
    seed: int | None,
    registry: Registry,
    folder: Path | None,
    *,
    check: bool = False,
) -> PlannedStage:
    definition = experiment.pipeline[index]
    try:
        found = registry.resolve(definition, folder=folder)
    except UnknownStageError as error:
        error.location = experiment.location("pipeline", index, "module" if definition.module else "name")
        raise
    # Read from its fields as they are, as in `run_stage`.
    fields = definition.__dict__
    options, enabled = fields["options"] or {}, fields["enabled"]
    seeded = seed is not None and "seed" not in options and takes_seed(found) and enabled
    if seeded:
        options = {**options, "seed": seed}
    try:
        stage = read_options(found, options, {"registry": registry})
    except ValidationError as error:
        from crucible_core.ir.option_mistakes import describe_options  # noqa: PLC0415  # for mistakes only

        raise InvalidExperimentError.of(
            _refuse_seed(experiment, index, said)
            if seeded and place[:1] == ("seed",)
            else InvalidOptionsError(
                said, stage=definition.name, location=experiment.location("pipeline", index, "options", *place)
            )
            for said, place in describe_options(definition.name, found, options, error)
        ) from None
    except Exception as error:
        reason = f"its options cannot be checked: {type_name(error)}: {error_text(error)}"
        raise _refuse(experiment, index, reason) from error
    wrong_default, declares_settings, own_check = nature_of(found)
    if wrong_default is not None:
        raise _refuse(experiment, index, wrong_default)
    if fields["timeout"] is not None and enabled:
        from crucible_core.ir.whole_checks import why_not_elsewhere  # noqa: PLC0415  # few stages have one

        if (said := why_not_elsewhere(found)) is not None:
            raise _refuse(experiment, index, said, "timeout")
    if declares_settings and enabled:
        from crucible_core.ir.settings import mistakes_in_settings  # noqa: PLC0415  # few stages have some

        if refused := list(mistakes_in_settings(experiment, definition.name, found.settings)):  # type: ignore[attr-defined]
            raise InvalidExperimentError.of(refused)
    if check and own_check and enabled:
        _call_check(stage, experiment, index)
    return _new(PlannedStage, (definition, stage))


def read_options(stage: type[Stage], options: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> Stage:
    """The stage with these options; its validators find the context, which has the `registry`, in `info.context`.

    Raises pydantic.ValidationError, or whatever a validator of the stage raises.
    """
    for value in options.values():
        if type(value) is dict:  # it may stand for a model with a default of its own
            from crucible_core.ir.option_values import completed  # noqa: PLC0415  # few options are mappings

            options = completed(stage, options)
            break
    # As JSON, for its strict rules: "0.1" is not a number, but a list can be a tuple. By the validator itself, because
    # `model_validate_json` takes half as long again.
    read: Stage = stage.__pydantic_validator__.validate_json(to_json(options), strict=True, context=context)
    return read


def _call_check(stage: Stage, experiment: Experiment, index: int) -> None:
    """Raises InvalidOptionsError if the `check` of the stage finds a problem."""
    if said := "; ".join(_sentences(stage.check, experiment, index)):
        raise _refuse(experiment, index, said)


def _sentences(method: Callable[[Experiment], Iterable[str]], experiment: Experiment, index: int) -> list[str]:
    """What `check` or `advise` of a stage says. Raises InvalidOptionsError if it raises something else."""
    try:
        said = method(experiment) or ()
        sentences = [said] if isinstance(said, str) else list(said)
        "".join(sentences)  # raises TypeError for what is not a text
        return sentences
    except InvalidExperimentError:  # it says where the mistake is
        raise
    except Exception as error:
        reason = f"its {getattr(method, '__name__', 'check')} failed: {type_name(error)}: {error_text(error)}"
        raise _refuse(experiment, index, reason) from error


def advice(plan: Plan) -> list[str]:
    """The warnings of the enabled stages about an experiment that can be run.

    Raises InvalidOptionsError if the `advise` of a stage raises.
    """
    return [
        f"stage {one.name!r}: {said}"
        for index, one in enumerate(plan)
        if one.definition.enabled
        for said in _sentences(one.stage.advise, plan.experiment, index)
    ]


def _refuse(experiment: Experiment, index: int, reason: str, key: str = "options") -> InvalidOptionsError:
    name = experiment.pipeline[index].name
    location = experiment.location("pipeline", index, key)
    return InvalidOptionsError(f"stage {name!r}: {reason}", stage=name, location=location)


def _refuse_seed(experiment: Experiment, index: int, said: str) -> InvalidOptionsError:
    return InvalidOptionsError(
        f"{said}: the `seed` of the experiment goes to every stage that has an option `seed` without a value; set one "
        "for this stage",
        stage=experiment.pipeline[index].name,
        location=experiment.location("seed"),
    )

"""The asset of an experiment, as it is known before any run."""

# Not `from __future__ import annotations`: Dagster reads the annotation of a resource's context as a class.
import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from dagster import (
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    BetaWarning,
    CodeReferencesMetadataValue,
    InitResourceContext,
    LocalFileCodeReference,
    ResourceDefinition,
)

from crucible_core import Experiment, InvalidExperimentError, Registry, Stage, builtin_registry
from crucible_core.ir.trials_stage import every_stage
from crucible_core.report.markdown import escape_markdown_lines
from crucible_core.stage import FunctionStage
from crucible_dagster.compile.conditions import condition_of
from crucible_dagster.compile.run_settings import settings_of, settings_of_any_experiment
from crucible_dagster.execute.compiled import RUN_KEY, CompiledExperiment, ExperimentGraph
from crucible_dagster.names import asset_key, decisions_key
from crucible_dagster.store.io_manager import STORE_KEY, context_store

__all__ = ["asset_for", "circle_of_deps", "decisions_of", "materializable"]

GROUP = "crucible"
DECISIONS_GROUP = "crucible_decisions"
KINDS = {"crucible", "python"}
# What Dagster 1.13 accepts (found by trying): for anything else it refuses the whole code location.
_TAG = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_TEAM = re.compile(r"team:.+", re.DOTALL)
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")


def asset_for(experiment: Experiment, registry: Registry | None = None) -> AssetSpec:
    """The asset that the job's runs materialize.

    An owner and tags that Dagster would refuse are shown in the metadata instead.

    Raises InvalidExperimentError if the experiment depends on its own asset, UnknownStageError for a stage that does
    not exist.
    """
    registry = builtin_registry() if registry is None else registry
    key = asset_key(experiment)
    deps = [AssetKey(dep.split("/")) for dep in experiment.deps or ()]
    if key in deps:
        raise InvalidExperimentError(
            f"the experiment depends on {key.to_user_string()!r}, which is its own asset",
            location=experiment.location("deps", deps.index(key)),
        )
    stages = [definition.name for definition in experiment.pipeline]
    owner, tags = experiment.owner, experiment.tags or ()
    owned = owner is not None and (_TEAM.fullmatch(owner) or _EMAIL.fullmatch(owner)) is not None
    fitting = [tag for tag in tags if _TAG.fullmatch(tag)]
    metadata: dict[str, Any] = {
        "experiment": experiment.id,
        **({"file": experiment.source.path} if experiment.source else {}),
        **({"owner": owner} if owner is not None and not owned else {}),
        **({"tags": ", ".join(tags)} if len(fitting) < len(tags) else {}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BetaWarning)  # the warning is for us, not for the author of an experiment
        references = list(_code_references(experiment, registry))
        if references:
            metadata["dagster/code_references"] = CodeReferencesMetadataValue(code_references=references)
    return AssetSpec(
        key=key,
        deps=deps,
        # Without a description, Dagster's page tells the reader which argument to add to the code.
        description=escape_markdown_lines(experiment.description or f"Stages: {', '.join(stages)}."),
        group_name=GROUP,
        owners=[owner] if owner is not None and owned else None,
        tags=dict.fromkeys(fitting, ""),
        kinds=KINDS,
        metadata=metadata,
        automation_condition=condition_of(experiment),
    )


def materializable(spec: AssetSpec, graph: ExperimentGraph) -> AssetsDefinition:
    """The asset that the ops of the experiment's job materialize; its own page and automation can launch it too."""
    return AssetsDefinition(
        keys_by_input_name={},
        keys_by_output_name={"result": spec.key},
        node_def=graph,
        specs=[spec],
        resource_defs={STORE_KEY: context_store, RUN_KEY: _RUN_OF_ASSET},
    )


def decisions_of(experiment: Experiment) -> AssetSpec:
    """The asset whose observations are the decisions that the stages made."""
    return AssetSpec(
        key=decisions_key(experiment),
        description=f"What the stages of experiment {experiment.id} decided, run by run. These are observations: "
        "nothing materializes this asset.",
        group_name=DECISIONS_GROUP,
        kinds={"crucible"},
        metadata={"experiment": experiment.id, **({"file": experiment.source.path} if experiment.source else {})},
    )


def _run_of_asset(context: InitResourceContext) -> Callable[[ExperimentGraph], CompiledExperiment]:
    config = context.resource_config

    @functools.cache
    def compiled(graph: ExperimentGraph) -> CompiledExperiment:
        return graph.compiled.of_run(settings_of(graph.compiled.experiment, config))

    return compiled


# One object: the assets of a code location share their resources, and Dagster compares those by identity.
_RUN_OF_ASSET = ResourceDefinition(
    _run_of_asset,
    config_schema=settings_of_any_experiment(),
    description="The settings of this run of an experiment.",
)


def circle_of_deps(experiments: Iterable[Experiment]) -> Iterator[InvalidExperimentError]:
    """A mistake if experiments depend on each other in a circle: they would trigger each other for ever."""
    known = {asset_key(one).to_user_string(): one for one in experiments}
    # An experiment that depends on itself is refused elsewhere, with a message of its own.
    among = {key: [dep for dep in one.deps or () if dep in known and dep != key] for key, one in known.items()}
    try:
        TopologicalSorter(among).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]  # each one is a dependency of the next; the last is the first
        experiment = known[circle[-1]]
        path = " on ".join(known[key].id for key in reversed(circle))
        yield InvalidExperimentError(
            f"experiments depend on each other in a circle: {path}; remove one of these `deps`",
            location=experiment.location("deps", list(experiment.deps or ()).index(circle[-2])),
        )


def _code_references(experiment: Experiment, registry: Registry) -> Iterator[LocalFileCodeReference]:
    """The experiment's file, and where each of its stages is defined."""
    if experiment.source is not None:
        place = experiment.source.location()
        yield LocalFileCodeReference(
            file_path=experiment.source.path, line_number=place.line or 1, label=f"experiment {experiment.id}"
        )
    for definition in every_stage(experiment):
        defined = _place_of(registry.resolve(definition, folder=experiment.folder))
        if defined is not None:
            file, line = defined
            yield LocalFileCodeReference(file_path=file, line_number=line, label=f"stage {definition.name}")


@functools.lru_cache(maxsize=1024)
def _place_of(stage: type[Stage]) -> tuple[str, int] | None:
    """File and line of a stage's definition; None if it is in no file, for example if it was typed at a prompt."""
    made = inspect.unwrap(stage.function) if issubclass(stage, FunctionStage) else stage
    try:
        file = inspect.getsourcefile(made)
        line = inspect.getsourcelines(made)[1]
    except (OSError, TypeError):
        return None
    return None if file is None else (str(Path(file).absolute()), line)

"""The component of `dg`: `type: crucible_dagster.ExperimentComponent` in a defs.yaml.

Dagster reads a defs.yaml as YAML 1.1, in which `1e-3` is a text and `on` is true. The experiment in it is therefore
read from the text of the file, like an experiment file, so that the same words mean the same in both. Text that the two
readings would understand differently is refused, with its line.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import Component, ComponentLoadContext, ComponentTypeSpec, Definitions, scaffold_with
from dagster.components.core.decl import ComponentDecl
from pydantic import BaseModel

from crucible_core import Experiment, InvalidExperimentError, Registry, builtin_registry
from crucible_core.ir.experiment import Source
from crucible_core.ir.loading import experiment_from, load_document
from crucible_core.registry import IMPORTABLE_VARIABLE
from crucible_core.values.messages import printable
from crucible_dagster.code_location import definitions_of, experiment_files, load_experiments
from crucible_dagster.components.experiment.scaffolder import ExperimentScaffolder
from crucible_dagster.components.experiment.schema import FILES, ExperimentAttributes

__all__ = ["ExperimentComponent"]

ATTRIBUTES = "attributes"
_TEMPLATE = re.compile(r"\{\{-?\s*(env\s*[.(]|(context\.)?project_root\b)")


@scaffold_with(ExperimentScaffolder)
@dataclass(frozen=True, eq=False)
class ExperimentComponent(Component):
    """Experiments: each a job that runs its stages, and an asset that shows the results over time.

    In YAML, `attributes:` holds one experiment, with the same keys as an experiment file, or `files:`, a list of
    experiment files, folders or glob patterns, relative to the defs.yaml. Stage modules may be in the
    folder of the file.

    In Python, give the experiments, and a registry if they name stages that are not installed.
    """

    experiments: Sequence[Experiment]
    registry: Registry | None = None

    def __post_init__(self) -> None:
        if isinstance(self.experiments, Experiment):  # iterating over it would give its fields
            raise TypeError("ExperimentComponent takes a list of experiments: ExperimentComponent([experiment])")

    @classmethod
    def get_spec(cls) -> ComponentTypeSpec:
        """What `dg` lists in addition to the docstring."""
        return ComponentTypeSpec(
            description="Experiments as files: a job and an asset each, with their stages, gates and schedules.",
            owners=["team:crucible"],
            tags=["crucible", "experiments", "statistics"],
            produces=["job", "asset", "asset_check", "schedule", "sensor"],
        )

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """What is allowed under `attributes:`."""
        return ExperimentAttributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: ComponentLoadContext) -> ExperimentComponent:
        """Read the experiments of a defs.yaml, or of attributes from elsewhere, such as a test.

        Raises InvalidExperimentError with all mistakes, each with file, line and column.
        """
        tree = context.resolution_context.source_position_tree
        if tree is None:  # there is no file, only what Dagster has read
            return cls(_experiments(getattr(attributes, "root", None), None, context))
        document, source = load_document(tree.position.filename, number=_document_number(context))
        if not isinstance(document, dict):  # Dagster has found `type:` in it
            document = {}
        if "template_vars_module" in document:
            raise _mistake(
                "`template_vars_module` has no effect here: an experiment is read as it is written; write a "
                "component.py (dg scaffold defs ... --format python) to compute one",
                source,
                "template_vars_module",
            )
        return cls(_experiments(document.get(ATTRIBUTES), source.below(ATTRIBUTES), context))

    def build_defs(self, context: ComponentLoadContext) -> Definitions:
        """The jobs, assets and schedules of the experiments.

        Raises InvalidExperimentError for what `run_experiment` would refuse, and for an id that another component of
        the project already uses.
        """
        beside: list[Experiment] = []
        if isinstance(context.component_decl, ComponentDecl):  # otherwise it is built alone, outside a project
            ours = {id(experiment) for experiment in self.experiments}
            everywhere = context.component_tree.get_all_components(ExperimentComponent)
            beside = [one for component in everywhere for one in component.experiments if id(one) not in ours]
        registry = self.registry or _installed_stages(os.environ.get(IMPORTABLE_VARIABLE))
        return definitions_of(self.experiments, registry, beside=beside)


@functools.cache
def _installed_stages(_importable: str | None) -> Registry:
    # Looking through the installed packages takes milliseconds, and a project may have hundreds of components.
    return builtin_registry()


def _document_number(context: ComponentLoadContext) -> int:
    key = context.component_path.instance_key
    return key if isinstance(key, int) else 0


def _experiments(data: Any, source: Source | None, context: ComponentLoadContext) -> list[Experiment]:
    if isinstance(data, dict) and FILES in data:
        return _experiments_of_files(data, source, context)
    if not isinstance(data, dict) or not data:
        raise _mistake("no experiment: `attributes:` needs either `id:` and `pipeline:`, or `files:`", source)
    mistakes = [
        _mistake(
            f"{printable(text)}: Dagster's templates are not read in an experiment, whose meaning would depend on the "
            "machine; read os.environ in the stage, or write a component.py",
            source,
            *place,
        )
        for place, text in _texts(data)
        if _TEMPLATE.search(text)
    ]
    try:
        experiment = experiment_from(data, source)
    except InvalidExperimentError as error:
        mistakes.append(error)
    if mistakes:
        raise InvalidExperimentError.of(mistakes)
    return [experiment]


def _experiments_of_files(
    data: Mapping[str, Any], source: Source | None, context: ComponentLoadContext
) -> list[Experiment]:
    mistakes = [
        _mistake(
            f"{key!r} cannot be combined with `files:`: a component holds one experiment or names files; write two "
            "components, with a line of `---` between them",
            source,
            key,
        )
        for key in data
        if key != FILES
    ]
    patterns = data[FILES]
    if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) for one in patterns):
        mistakes.append(_mistake("files: should be a list of files, folders or glob patterns", source, FILES))
        patterns = []
    files: dict[Path, None] = {}
    for index, pattern in enumerate(patterns):
        try:
            files.update(dict.fromkeys(_files_of(pattern, context)))
        except InvalidExperimentError as error:
            mistakes.append(_mistake(error.message, source, FILES, index))
    experiments, unread = load_experiments(files)
    if mistakes or unread:
        raise InvalidExperimentError.of([*mistakes, *unread])
    return experiments


def _mistake(message: str, source: Source | None, *place: str | int) -> InvalidExperimentError:
    return InvalidExperimentError(message, location=source.location(*place) if source else None)


def _files_of(pattern: str, context: ComponentLoadContext) -> list[Path]:
    if Path(pattern).is_absolute():
        raise InvalidExperimentError(f"{pattern!r} is not a path relative to this file")
    try:
        found = experiment_files(context.path / pattern)
    except InvalidExperimentError as error:
        raise InvalidExperimentError(f"{pattern!r}: {error.message}") from None
    # Compared by name, because parts of a project may be links into an installer's cache.
    files = [Path(os.path.normpath(file)) for file in found]
    root = context.project_root.absolute()
    if not all(file.is_relative_to(root) for file in files):
        raise InvalidExperimentError(f"{pattern!r} leaves the project {root}; move the experiments into it")
    return files


def _texts(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*place, index))

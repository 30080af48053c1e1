"""Registry: from the name in an experiment file to the stage class. An object you make and pass."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from crucible_core.errors import InvalidExperimentError, UnknownStageError
from crucible_core.ir.experiment import StageDef
from crucible_core.stage import Stage, StageDescription
from crucible_core.values.arguments import check_mapping
from crucible_core.values.entry_points import installed_entries
from crucible_core.values.messages import closest, listing

__all__ = ["ENTRY_POINT_GROUP", "IMPORTABLE_VARIABLE", "Registry", "builtin_registry"]

ENTRY_POINT_GROUP = "crucible.stages"
IMPORTABLE_VARIABLE = "CRUCIBLE_IMPORTABLE"


class Registry:
    """The stages that experiments may name, and the factories of `resources`.

    `importable` limits what `module: package.module:Attribute` of an experiment file may import: None allows any
    module (an author's own machine), a collection allows those packages and what is below them, () allows none.

    Raises TypeError for a class that is not a stage.
    """

    def __init__(
        self,
        stages: Mapping[str, type[Stage] | EntryPoint] | None = None,
        *,
        importable: Collection[str] | str | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        check_mapping("Registry", {} if stages is None else stages)
        check_mapping("Registry(resources=...)", {} if resources is None else resources)
        checked: dict[str, type[Stage] | EntryPoint] = dict(stages or {})
        for name, found in checked.items():
            if not isinstance(found, EntryPoint):
                _check_stage(found, f"the stage registered as {name!r}")
        self._stages = checked
        if isinstance(importable, str):
            importable = (importable,)
        self.importable = None if importable is None else frozenset(importable)
        self.resources = dict(resources or {})

    def names(self) -> tuple[str, ...]:
        """The names of the stages, sorted."""
        return tuple(sorted(self._stages))

    def describe(self, name: str) -> StageDescription:
        """The description of the stage of that name. Raises UnknownStageError."""
        return {**self[name].describe(), "name": name}

    def __getitem__(self, name: str) -> type[Stage]:
        """The stage of that name. Raises UnknownStageError with the closest name and all others."""
        if name not in self._stages:
            raise UnknownStageError(
                f"unknown stage {name!r}{closest(name, self._stages)}; registered: {listing(self._stages)}",
                stage=name,
                known=self.names(),
            )
        found = self._stages[name]
        if isinstance(found, EntryPoint):
            self._stages[name] = found = _load_entry_point(found)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._stages

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._stages)

    def __or__(self, more: Mapping[str, type[Stage]] | Registry) -> Registry:
        """A registry with these stages too; for a name that both have, the right operand wins.

        Of two registries, only what both allow may be imported.
        """
        if not isinstance(more, Registry):
            return Registry({**self._stages, **more}, importable=self.importable, resources=self.resources)
        stages, resources = {**self._stages, **more._stages}, {**self.resources, **more.resources}
        return Registry(stages, importable=_both(self.importable, more.importable), resources=resources)

    def __bool__(self) -> bool:
        return True  # `registry or builtin_registry()` must not replace an empty one

    def __repr__(self) -> str:
        return f"Registry({', '.join(self.names())})"

    def resolve(self, definition: StageDef, *, folder: Path | None = None) -> type[Stage]:
        """The stage class of a pipeline entry; modules are also looked for in `folder`, the experiment file's.

        Raises UnknownStageError if there is none.
        """
        module = definition.module
        found = self._stages.get(module or definition.name)
        if isinstance(found, type) and (module is None or ":" not in module):
            return found
        try:
            if module is not None and ":" in module:
                return self.load(module, folder=folder)
            return self[module or definition.name]
        except InvalidExperimentError as error:
            from crucible_core.beside.references import remedy  # noqa: PLC0415  # for mistakes only

            reason = f"stage {definition.name!r}: {error.message}{remedy(module)}"
            refused = UnknownStageError(reason, stage=definition.name, known=self.names())
            refused.module = getattr(error, "module", None)
            raise refused from error.__cause__

    def load(self, reference: str, *, folder: Path | None = None) -> type[Stage]:
        """The stage class that `package.module:Attribute` names.

        Raises InvalidExperimentError if it is not allowed here, cannot be imported or is not a stage.
        """
        from crucible_core.beside.references import referred  # noqa: PLC0415  # not for registered stages

        try:
            return _check_stage(referred(reference, self.importable, folder, "stages", _is_stage), repr(reference))
        except TypeError as error:
            raise InvalidExperimentError(str(error)) from error


def builtin_registry() -> Registry:
    """The stages of all installed packages, found by the entry point group `crucible.stages`; the built-in ones too.

    The environment variable CRUCIBLE_IMPORTABLE, a comma-separated list of packages, limits what experiment files may
    import; unset, they may import anything.

    Raises CrucibleError if two packages offer a stage under one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in installed_entries(ENTRY_POINT_GROUP):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise InvalidExperimentError(
                f"two packages register a stage {entry.name!r}: {other.value} and {entry.value}; "
                "uninstall or rename one"
            )
    listed = os.environ.get(IMPORTABLE_VARIABLE)
    importable = None if listed is None else [part.strip() for part in listed.split(",") if part.strip()]
    return Registry(found, importable=importable)


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    from crucible_core.beside.references import below  # noqa: PLC0415  # few registries are joined

    return frozenset(name for name in one if below(name, other)) | {name for name in other if below(name, one)}


def _is_stage(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Stage) and value is not Stage


def _check_stage(value: Any, what: str) -> type[Stage]:
    if not _is_stage(value):
        hint = "; decorate it with @stage" if callable(value) and not isinstance(value, type) else ""
        raise TypeError(
            f"{what} is not a stage: it is {value!r:.80}; a stage is a subclass of crucible_core.Stage{hint}"
        )
    if getattr(value, "__abstractmethods__", None):
        raise TypeError(f"{what} has no run(self, ctx) method")
    return value  # type: ignore[no-any-return]


def _load_entry_point(entry: EntryPoint) -> type[Stage]:
    try:
        return _check_stage(entry.load(), f"the entry point {entry.name!r} ({entry.value})")
    except Exception as error:
        raise InvalidExperimentError(
            f"the installed stage {entry.name!r} ({entry.value}) cannot be loaded: {error}"
        ) from error

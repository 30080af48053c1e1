"""The resources that an experiment declares: their factories found, their options checked, nothing made."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from inspect import Parameter
from typing import Any, Protocol, TypeGuard, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import to_json

from crucible_core.errors import InvalidExperimentError
from crucible_core.ir import secrets
from crucible_core.ir.experiment import Experiment, ResourceDef
from crucible_core.ir.option_mistakes import describe_options
from crucible_core.ir.option_schema import file_name
from crucible_core.ir.option_values import completed
from crucible_core.run_state.resources import Maker, Ready, Unsent, held
from crucible_core.trials.shared import pickled
from crucible_core.values.jsonable import type_name
from crucible_core.values.messages import closest, error_text, listing
from crucible_core.values.redaction import scrub

__all__ = ["Having", "PlannedResource", "factory_of", "model_of", "plan_resources", "resources_during", "sent"]


class Factories(Protocol):
    """What a Registry has of resources."""

    resources: dict[str, Any]
    importable: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class PlannedResource:
    """A resource whose factory is found and whose options are checked. Calling this makes the resource."""

    name: str
    factory: Callable[..., Any]
    options: Mapping[str, Any]

    def __call__(self) -> Any:
        if _is_model(self.factory):
            return _read(self.factory, self.options)
        model = self.model
        read = _read(model, self.options)
        names = {file_name(name, field): name for name, field in model.model_fields.items()}
        more = read.model_extra or {}
        given = {name: getattr(read, names[name]) if name in names else more[name] for name in self.options}
        return self.factory(**given)

    @property
    def model(self) -> type[BaseModel]:
        """Its options."""
        return model_of(self.factory)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets among its options, as texts."""
        model = self.model
        return secrets.secrets_of(_read(model, self.options), self.options) if secrets.has_secrets(model) else ()


def plan_resources(
    experiment: Experiment, registry: Factories, mistakes: list[InvalidExperimentError]
) -> dict[str, Maker]:
    """The resources that the experiment declares, planned; what is wrong with the others is added to the mistakes."""
    planned: dict[str, Maker] = {}
    for name, definition in (experiment.resources or {}).items():
        try:
            planned[name] = _plan(experiment, name, definition, registry)
        except InvalidExperimentError as error:
            mistakes.append(error)
    return planned


def _plan(experiment: Experiment, name: str, definition: ResourceDef, registry: Factories) -> PlannedResource:
    try:
        factory = factory_of(experiment, name, definition, registry)
        model = model_of(factory)
    except InvalidExperimentError as error:
        place = ("resources", name, "module") if definition.module else ("resources", name)
        said = f"resource {name!r}: {error.message}"
        raise InvalidExperimentError(said, location=experiment.location(*place)) from error.__cause__
    options = definition.options or {}
    try:
        _read(model, options)
    except ValidationError as error:
        raise InvalidExperimentError.of(
            InvalidExperimentError(said, location=experiment.location("resources", name, "options", *place))
            for said, place in describe_options(name, model, options, error, kind="resource")
        ) from None
    except Exception as error:
        said = f"resource {name!r}: its options cannot be checked: {type_name(error)}: {error_text(error)}"
        raise InvalidExperimentError(said, location=experiment.location("resources", name, "options")) from error
    return PlannedResource(name, factory, options)


def factory_of(experiment: Experiment, name: str, definition: ResourceDef, registry: Factories) -> Callable[..., Any]:
    """The factory of a declared resource. Raises InvalidExperimentError if there is none that can make it."""
    module = definition.module
    if module is not None and ":" in module and module not in registry.resources:
        from crucible_core.beside.references import referred  # noqa: PLC0415  # not for registered ones

        found = referred(module, registry.importable, experiment.folder, "functions and classes", _is_own)
    else:
        asked = module or name
        if asked not in registry.resources:
            raise InvalidExperimentError(
                f"unknown resource {asked!r}{closest(asked, registry.resources)}; registered: "
                f"{listing(registry.resources)}; or name its factory with `module: package.module:Attribute`"
            )
        found = registry.resources[asked]
    if (why := _why_no_factory(found)) is not None:
        raise InvalidExperimentError(f"{module or name!r} makes no resource: {why}")
    return found  # type: ignore[no-any-return]


def _is_own(value: Any) -> bool:
    return inspect.isfunction(value) or isinstance(value, type)


def _why_no_factory(found: Any) -> str | None:
    if not callable(found):
        return f"it is {found!r:.80}, and cannot be called"
    if type(found).__hash__ is None:
        return f"it is a {type_name(found)}, an object that has no hash; name a function or a class"
    if inspect.iscoroutinefunction(found):
        return "it is an `async def`; a factory is called where no event loop runs"
    if inspect.isgeneratorfunction(found):
        return "it is a generator; put @contextlib.contextmanager on it"
    return None


@functools.lru_cache(maxsize=256)
def model_of(factory: Callable[..., Any]) -> type[BaseModel]:
    """The options of a factory: the fields of a pydantic model, otherwise its parameters, with their types.

    A parameter takes anything if it has no type, or its type cannot be found. Raises InvalidExperimentError for a
    parameter that cannot be given by its name.
    """
    if _is_model(factory):
        # Checking options must not connect. An unknown option is a mistake unless the class says otherwise.
        base: Any = factory

        class Checked(base):  # type: ignore[misc]
            model_config = ConfigDict() if "extra" in base.model_config else ConfigDict(extra="forbid")

            def model_post_init(self, _: Any) -> None:
                pass

        return Checked
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # some that are written in C
        parameters = [Parameter("options", Parameter.VAR_KEYWORD)]
    hints: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # a name for type checkers only
        hints = get_type_hints(factory.__init__ if isinstance(factory, type) else factory, include_extras=True)  # type: ignore[misc]
    fields: dict[str, Any] = {}
    others = False
    for number, one in enumerate(parameters):
        if one.kind is Parameter.VAR_KEYWORD:
            others = True
        elif one.kind is Parameter.POSITIONAL_ONLY and one.default is one.empty:
            raise InvalidExperimentError(f"its parameter {one.name!r} cannot be given by its name")
        elif one.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            required = one.default is one.empty
            # Under a name that no method of a model has; the default is the factory's own, and is never read here.
            fields[f"option_{number}"] = (hints.get(one.name, Any), Field(... if required else None, alias=one.name))
    config = ConfigDict(extra="allow" if others else "forbid", arbitrary_types_allowed=True)
    made: type[BaseModel] = create_model(getattr(factory, "__name__", "Options"), __config__=config, **fields)
    return made


def _is_model(factory: Callable[..., Any]) -> TypeGuard[type[BaseModel]]:
    return isinstance(factory, type) and issubclass(factory, BaseModel)


def _read(model: type[BaseModel], options: Mapping[str, Any]) -> BaseModel:
    # As JSON, by the strict rules of a stage's options.
    read: BaseModel = model.__pydantic_validator__.validate_json(to_json(completed(model, options)), strict=True)
    return read


def sent(makers: Mapping[str, Maker]) -> dict[str, Maker]:
    """The same for another process; what cannot be sent there is replaced by an error for those who ask for it."""
    found = dict(makers)
    for name, maker in makers.items():
        if isinstance(maker, Ready):
            try:
                pickled(maker, None)
            except Exception as error:  # noqa: BLE001  # whatever a user's class does here
                found[name] = Unsent(name, f"{type_name(error)}: {error_text(error)}")
    return found


@contextlib.contextmanager
def resources_during(run_id: str, makers: Mapping[str, Maker]) -> Iterator[None]:
    """Gives stages the resources while a part of the run works here, and keeps their secrets out of all texts."""
    known = [text for one in makers.values() if isinstance(one, PlannedResource) for text in one.secrets]
    secrets.OF_RESOURCES.extend(known)
    try:
        with held(run_id, makers, partial(scrub, secrets=known)):
            yield
    finally:
        for text in known:
            secrets.OF_RESOURCES.remove(text)


@dataclass(frozen=True, slots=True)
class Having:
    """The resources of a run, to be sent to another process and called there as `resources_during`."""

    run_id: str
    makers: Mapping[str, Maker]

    def __call__(self) -> AbstractContextManager[None]:
        return resources_during(self.run_id, self.makers)

"""Secret options: known to the process that runs the stage, and masked wherever a run is shown or kept.

An option is a secret if pydantic knows it as one (`SecretStr`, `SecretBytes`, `Secret[...]`), or if its JSON schema
says `writeOnly: true`. The experiment in a Context has masks in their place, and so has everything that is made of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Annotated, Any, Final, Literal, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from crucible_core.errors import InvalidExperimentError, InvalidOptionsError
from crucible_core.ir.experiment import Experiment, StageDef
from crucible_core.ir.option_schema import Option, option_tree
from crucible_core.values import MASK

__all__ = [
    "MASK",
    "OF_RESOURCES",
    "SECRETS",
    "check_known",
    "has_secrets",
    "hide",
    "is_secret_at",
    "masked_experiment",
    "restored",
    "secrets_in",
    "secrets_of",
    "shown_experiment",
    "unknown_secrets",
]

Options = Mapping[str, Any]
SECRETS: Final = (Secret, SecretStr, SecretBytes)
_SHORTEST = 4
"""Shorter texts occur in any message by chance, so they are not looked for there."""

OF_RESOURCES: Final[list[str]] = []
"""The secrets of the resources of the runs that are at work in this process: every stage may hold them."""


@functools.lru_cache(maxsize=1024)
def has_secrets(model: type[BaseModel]) -> bool:
    """Whether any option of the stage is a secret or contains one."""
    # Making the tree from the JSON schema takes as long as many runs, so it is made only for types that may need it.
    return _may_hold(model, set()) and option_tree(model).secret


def masked_experiment(
    experiment: Experiment,
    models: Iterable[type[BaseModel]],
    resources: Mapping[str, Any] = {},  # is only read
) -> Experiment:
    """The experiment with its secrets masked, in the pipeline, in the variants and in the resources.

    `models` are its stages, and `resources` those of the plan.
    """
    secretive = {one.name: model for one, model in zip(experiment.pipeline, models, strict=True) if has_secrets(model)}
    of_resources = _secretive(resources)
    if not secretive and not of_resources:
        return experiment

    def mask(stage: str, options: Options | None) -> Any:
        return hide(secretive[stage], options) if options and stage in secretive else options

    pipeline = tuple(one.model_copy(update={"options": mask(one.name, one.options)}) for one in experiment.pipeline)
    changes: dict[str, Any] = {"pipeline": pipeline}
    if experiment.variants:
        changes["variants"] = {
            name: {stage: mask(stage, options) for stage, options in stages.items()}
            for name, stages in experiment.variants.items()
        }
    if of_resources:
        changes["resources"] = {
            name: one.model_copy(update={"options": hide(of_resources[name], one.options)})
            if name in of_resources and one.options
            else one
            for name, one in (experiment.resources or {}).items()
        }
    return _copied(experiment, changes)


def shown_experiment(
    experiment: Experiment,
    models: Sequence[type[BaseModel]],
    resources: Mapping[str, Any] = {},  # is only read
    *,
    first: int = 0,
) -> Experiment:
    """The experiment as a run that begins with the stage at `first` shows and keeps it: its secrets masked.

    Raises InvalidExperimentError if only the mask of a secret is known.
    """
    of_resources = _secretive(resources)
    # Asked in every run, of what may be thousands of stages of few classes.
    if not of_resources and not any(map(has_secrets, set(models))):
        return experiment
    for one, model in zip(experiment.pipeline[first:], models[first:], strict=True):
        if one.enabled and has_secrets(model):
            check_known(one, model)
    for name, model in of_resources.items():
        known = secrets_in(model, (experiment.resources or {})[name].options)
        if unknown := [place for place, value in known.items() if value == MASK]:
            raise InvalidExperimentError(
                f"resource {name!r}: the secret option {unknown[0]!r} is not known: runs do not keep secrets, and "
                f"{MASK!r} stands in its place; have the factory read it from an environment variable",
                location=experiment.location("resources", name),
            )
    return masked_experiment(experiment, models, resources)


def _secretive(resources: Mapping[str, Any]) -> dict[str, type[BaseModel]]:
    """The options of the declared resources that have secrets."""
    return {name: one.model for name, one in resources.items() if hasattr(one, "model") and has_secrets(one.model)}


def restored(experiment: Experiment, *sources: Experiment | None) -> Experiment:
    """The experiment, with each masked value replaced by the one at its place in the first source that has it."""
    for source in sources:
        if source is None:
            continue
        given = {one.name: one.options for one in source.pipeline}
        # A source that is the variant already has its options in its pipeline.
        variant = None if source.variant == experiment.variant else experiment.variant
        of_variant = (source.variants or {}).get(variant or "", {})
        pipeline = tuple(
            one.model_copy(update={"options": _unmasked(one.options, of_variant.get(one.name), given.get(one.name))})
            for one in experiment.pipeline
        )
        variants = experiment.variants and _unmasked(experiment.variants, source.variants)
        changes = {"pipeline": pipeline, **({"variants": variants} if variants else {})}
        if experiment.resources and source.resources:
            changes["resources"] = {
                name: one.model_copy(update={"options": _unmasked(one.options, source.resources[name].options)})
                if name in source.resources
                else one
                for name, one in experiment.resources.items()
            }
        experiment = _copied(experiment, changes)
    return experiment


def hide(model: type[BaseModel], options: Options | None, by: Callable[[Any], Any] = lambda _: MASK) -> dict[str, Any]:
    """The options of a stage, each secret replaced by what `by` makes of it."""
    return {name: _hide(option_tree(model).part(name), one, by) for name, one in (options or {}).items()}


def secrets_in(model: type[BaseModel], options: Options | None) -> dict[str, Any]:
    """The secrets among the options, by their places: `login.token`."""
    found: dict[str, Any] = {}
    if has_secrets(model):
        hide_marked = hide(model, options, _Found)
        found = {place: one.value for place, one in _leaves(hide_marked) if isinstance(one, _Found)}
    return found


def secrets_of(stage: BaseModel, options: Options | None) -> tuple[str, ...]:
    """The secrets that a stage holds, as texts, the longest first; `options` are those that it was read from.

    Those of the resources of the runs in this process are among them.
    """
    stage = cast(
        "BaseModel", getattr(stage, "__wrapped__", stage)
    )  # as `functools.wraps` sets it on what is put around a stage
    if not has_secrets(type(stage)):
        return tuple(OF_RESOURCES)
    values = [*_held(stage), *(one for _, one in _leaves(secrets_in(type(stage), options)))]
    texts = {one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in values}
    texts.update(OF_RESOURCES)
    return tuple(sorted((one for one in texts if len(one) >= _SHORTEST), key=len, reverse=True))


def is_secret_at(model: type[BaseModel], place: Sequence[str | int]) -> bool:
    """Whether the value at a place in the options is a secret, contains one, or is a part of one."""
    if not has_secrets(model):
        return False
    option = option_tree(model)
    for step in place:
        inside = _item(option, step) if isinstance(step, int) else option.part(step)
        if inside is None or (inside.kind == "anything" and option.kind not in {"model", "mapping", "list"}):
            return option.secret  # a step that is not a part of the value, such as the name of an alternative
        option = inside
    return option.secret


def unknown_secrets(definition: StageDef, model: type[BaseModel]) -> tuple[str, ...]:
    """The places of the stage's secrets of which only the mask is known."""
    return tuple(place for place, value in secrets_in(model, definition.options).items() if value == MASK)


def check_known(definition: StageDef, model: type[BaseModel]) -> None:
    """Raises InvalidOptionsError if only the mask of a secret is known."""
    if unknown := unknown_secrets(definition, model):
        first, name = unknown[0], definition.name
        raise InvalidOptionsError(
            f"stage {name!r}: the secret option {first!r} is not known: runs do not keep secrets, and {MASK!r} stands "
            f"in its place; give it again, for example with --set {name}.{first}=VALUE",
            stage=name,
        )


class _Found:
    def __init__(self, value: Any) -> None:
        self.value = value


def _hide(option: Option, value: Any, by: Callable[[Any], Any]) -> Any:
    if value is None or not option.secret:
        return value
    if isinstance(value, Mapping) and option.kind in {"model", "mapping", "union_by_tag"}:
        return {name: _hide(option.part(name), one, by) for name, one in value.items()}
    if isinstance(value, list | tuple) and option.kind == "list":
        return [_hide(_item(option, index) or option, one, by) for index, one in enumerate(value)]
    return by(value)


def _item(option: Option, index: int) -> Option | None:
    return option.items[index] if index < len(option.items) else option.item


def _leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping | list):
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, one in entries:
            yield from _leaves(one, (*place, str(name)))
    else:
        yield ".".join(place), value


def _held(value: Any) -> Iterator[Any]:
    """The values in objects that pydantic knows as secrets."""
    if isinstance(value, SECRETS):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        yield from _held(value.__dict__)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _held(vars(value) if hasattr(value, "__dict__") else ())
    elif isinstance(value, Mapping):
        yield from _held(list(value.values()))
    elif isinstance(value, list | tuple | Set):
        for one in value:
            yield from _held(one)


def _unmasked(value: Any, *sources: Any) -> Any:
    if value == MASK:
        return next((one for one in sources if one is not None and one != MASK), value)
    if isinstance(value, Mapping):
        return {
            name: _unmasked(one, *(part.get(name) for part in sources if isinstance(part, Mapping)))
            for name, one in value.items()
        }
    if isinstance(value, list):
        alike = [one for one in sources if isinstance(one, list) and len(one) == len(value)]
        return [_unmasked(one, *(part[index] for part in alike)) for index, one in enumerate(value)]
    return value


def _copied(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    set_before = set(experiment.model_fields_set)
    copied = experiment.model_copy(update=changes)
    copied.__pydantic_fields_set__ = set_before
    return copied


def _may_hold(kind: Any, seen: set[int]) -> bool:
    """Whether a type may hold a secret; true if that cannot be told from its annotations."""
    if id(kind) in seen or kind is Any:
        return False
    seen.add(id(kind))
    if not isinstance(kind, type):
        if get_origin(kind) is Literal:
            return False
        named = getattr(kind, "__value__", None)
        inside = [*get_args(kind), *([] if named is None else [named])]
        if get_origin(kind) is Annotated:
            return _may_hold(inside[0], seen) or any(map(_says_more, inside[1:]))
        return isinstance(kind, str) or any(_may_hold(one, seen) for one in inside if one is not ...)
    if issubclass(kind, SECRETS):
        return True
    if issubclass(kind, BaseModel):
        fields = kind.model_fields.values()
        return kind.model_config.get("json_schema_extra") is not None or any(
            _may_hold(one.annotation, seen) or _says_more(one) or any(map(_says_more, one.metadata)) for one in fields
        )
    if dataclasses.is_dataclass(kind) or hasattr(kind, "__required_keys__"):
        return any(_may_hold(one, seen) for one in get_type_hints(kind, include_extras=True).values())
    return any(_may_hold(one, seen) for one in get_args(kind)) or _says_more(kind)


def _says_more(kind: Any) -> bool:
    """Whether a type, or what is said of one, has its own word in the JSON schema."""
    if isinstance(kind, FieldInfo):
        extra = kind.json_schema_extra
        return callable(extra) or "writeOnly" in (extra or ()) or any(map(_says_more, kind.metadata))
    return hasattr(kind, "__get_pydantic_json_schema__")

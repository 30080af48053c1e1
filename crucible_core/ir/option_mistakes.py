"""What is wrong with the options of a stage, in words that hold no secret."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from crucible_core.ir.option_schema import Option, option_tree
from crucible_core.ir.secrets import is_secret_at, secrets_in
from crucible_core.values.messages import closest, describe_mistake, listing, printable, without_echoes
from crucible_core.values.redaction import scrub

__all__ = ["describe_options", "no_such_option"]

Place = tuple[str | int, ...]


def describe_options(
    name: str, model: type[BaseModel], options: Mapping[str, Any], error: ValidationError, *, kind: str = "stage"
) -> list[tuple[str, Place]]:
    """A sentence for each mistake in the options of the stage `name`, and the place in them that it is about.

    `kind` is the word for what has these options, if it is not a stage.
    """
    secrets = [str(one) for one in secrets_in(model, options).values()]
    return [
        (scrub(_describe(f"{kind} {name!r}", model, one), secrets), one["loc"])
        for one in without_echoes(error.errors(include_url=False, include_context=True))
    ]


def no_such_option(owner: str, path: Sequence[str], name: str, known: Collection[str]) -> str:
    """That the owner, such as `stage 'train'`, has no option `name`, or its option at `path` no field of that name."""
    whole, what = (f"option {'.'.join(path)!r} of {owner}", "field") if path else (owner, "option")
    return f"{whole} has no {what} {printable(name)!r}{closest(name, known)}; its {what}s: {listing(known)}"


def _describe(owner: str, model: type[BaseModel], mistake: Any) -> str:
    place: Place = mistake["loc"]
    if mistake["type"] == "extra_forbidden":
        option = _option_at(model, place[:-1])
        if option.kind in {"model", "union_by_tag"}:
            remedy = getattr(model, "instead", {}).get(place[0]) if len(place) == 1 else None
            if remedy is not None:
                return f"{owner} has no option {place[0]!r}: {remedy}"
            return no_such_option(owner, [str(step) for step in place[:-1]], str(place[-1]), option.children)
    said = describe_mistake(mistake, model, secret=is_secret_at(model, place))
    return f"{owner}, option {said}" if place else f"{owner}: {said}"


def _option_at(model: type[BaseModel], place: Place) -> Option:
    option = option_tree(model)
    for step in place:
        if isinstance(step, int):
            option = (option.items[step] if step < len(option.items) else option.item) or option
        elif option.kind != "union_by_tag" or step in option.children:  # not the tag of a model
            option = option.part(step)
    return option

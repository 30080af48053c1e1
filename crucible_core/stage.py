"""Stage: one step of a pipeline, whose options are the fields of a frozen pydantic model."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import Parameter
from typing import Any, ClassVar, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from crucible_core.context import Context
from crucible_core.ir.description import StageDescription, description_of
from crucible_core.ir.experiment import Experiment
from crucible_core.ir.option_schema import wrong_default

__all__ = ["Stage", "StageDescription", "stage", "state_of_source"]


class Stage(BaseModel):
    """Base class of stages: the fields are the options, `run` is the work, the docstring is the description.

    A string below a field is that option's description. A stage fails by raising.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)

    source_when_defined: ClassVar[tuple[int, int] | None] = None
    """When the file of the class's module was last changed (ns), and its size, when the class was made."""

    gathers: ClassVar[bool] = False
    """Whether it works on the results of trials, such as `bench`: the stages of a trial end before it."""

    instead: ClassVar[Mapping[str, str]] = {}
    """What to write instead of an option that users may know from elsewhere, but the stage does not have."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.source_when_defined = state_of_source(cls.__module__)

    @abstractmethod
    def run(self, ctx: Context) -> Context | Awaitable[Context]:
        """Do the work and return the Context with the results added; `async def run` is run to its end too."""

    def check(self, experiment: Experiment) -> Iterable[str]:  # noqa: ARG002
        """The reasons why this stage is certain to fail, one sentence each.

        Called once at the start of a run, of `crucible validate` or of a compilation, before any stage has run.
        """
        return ()

    def advise(self, experiment: Experiment) -> Iterable[str]:  # noqa: ARG002
        """Warnings about an experiment that can be run, one sentence each.

        Called by `crucible validate` and the stage `validate` only, so it may take a second.
        """
        return ()

    def after_gates(self, ctx: Context) -> Context:
        """Called after the gates were judged, if the stage succeeded: a report shows `ctx.trace.gates` now."""
        return ctx

    @classmethod
    def describe(cls) -> StageDescription:
        """Name, description, required and optional options, their types, defaults and JSON schema."""
        return description_of(cls)


def state_of_source(module: str) -> tuple[int, int] | None:
    """When the module's file was last changed (ns), and its size; None if it has none."""
    try:
        found = os.stat(sys.modules[module].__file__ or "")  # noqa: PTH116  # at every definition of a stage
    except (KeyError, AttributeError, OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size


# For the classes below this one: pydantic reads the source of each, and builds a validator for its options. This class
# has no options, and everybody imports it.
Stage.model_config["use_attribute_docstrings"] = True
Stage.model_config["defer_build"] = False


class FunctionStage(Stage):
    """The base of the classes that `@stage` makes of functions."""

    model_config = ConfigDict(use_attribute_docstrings=False, defer_build=True)

    function: ClassVar[Callable[..., Any]]

    def run(self, ctx: Context) -> Context | Awaitable[Context]:
        result: Context | Awaitable[Context] = type(self).function(ctx, **self.__dict__)
        return result


FunctionStage.model_config["defer_build"] = False


def stage(function: Callable[..., Context | Awaitable[Context]]) -> type[Stage]:
    """Make a stage of `def train(ctx, *, lr: float = 0.1) -> Context`: its keyword-only arguments are the options.

    Bounds and descriptions go into the annotation: `lr: Annotated[float, Field(gt=0, description="Step size.")] = 0.1`.
    The function itself stays reachable as `train.function`. It may be an `async def`.

    Raises TypeError if the function has another signature, or an option without a type.
    """
    name = getattr(function, "__qualname__", repr(function))
    if not inspect.isfunction(function):
        raise TypeError(f"@stage goes on a function, without parentheses; {name} is not a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} is a generator; a stage is a function that returns the Context")
    arguments = list(inspect.signature(function).parameters.values())
    if not arguments or arguments[0].kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
        raise TypeError(f"the first argument of {name} must take the Context")
    options = arguments[1:]
    hints = _option_types(function, [option.name for option in options])
    fields: dict[str, Any] = {}
    for option in options:
        if option.kind is not option.KEYWORD_ONLY:
            raise TypeError(f"the options of {name} must be keyword-only: put a * before {option.name!r}")
        if option.name not in hints:
            raise TypeError(f"the option {option.name!r} of {name} has no type")
        if hasattr(FunctionStage, option.name) or option.name.startswith("_"):
            what = (
                "begins with an underscore"
                if option.name.startswith("_")
                else "has the name of a method of Stage, or of pydantic's models"
            )
            raise TypeError(f"the option {option.name!r} of {name} {what}; rename it")
        fields[option.name] = (hints[option.name], ... if option.default is option.empty else option.default)
    made = create_model(function.__name__, __base__=FunctionStage, __module__=function.__module__, **fields)
    made.__qualname__ = function.__qualname__
    made.__doc__ = function.__doc__
    made.function = staticmethod(function)
    return made


@functools.lru_cache(maxsize=1024)
def nature_of(stage: type[Stage]) -> tuple[str | None, bool, bool]:
    """What planning needs to know of a class, read once: attributes of a pydantic model's class are slow to read.

    Why the default of an option is not valid, or None; whether there are settings outside the pipeline (a class
    variable `settings`); whether it has a `check` of its own.
    """
    settings = isinstance(getattr(stage, "settings", None), tuple)
    return wrong_default(stage), settings, stage.check is not Stage.check


def _option_types(function: Callable[..., Any], options: list[str]) -> dict[str, Any]:
    # Of the options only: the Context may be imported for type checkers only.
    annotations = {name: kind for name, kind in function.__annotations__.items() if name in options}
    holder = type("Options", (), {"__annotations__": annotations})
    return get_type_hints(holder, globalns=getattr(function, "__globals__", {}), include_extras=True)

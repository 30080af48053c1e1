"""`trials:` of an experiment file: arms and replicates of a part of the pipeline."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from crucible_core.ir.fields import Data, Name, Node, Options, Text
from crucible_core.values.messages import closest

__all__ = ["MOST_WORKERS", "Engine", "Grid", "Search", "Trials", "Until"]

MOST_WORKERS: Final = 32

NO_OPTION: Final = "{key} does not name an option: write it as stage.option, such as train.rate"

Grid = dict[Text, list[Data]]


class Engine(Node):
    """What runs the trials in other processes, through joblib."""

    kind: Text = "loky"
    """`loky`: processes on this machine; `dask`, `ray`: a cluster."""
    address: Text | None = None
    """The address of the cluster's scheduler."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        known = ("loky", "dask", "ray")
        if kind not in known:
            raise ValueError(f"{kind!r} is not an engine{closest(kind, known)}; known: {', '.join(known)}")
        return kind


class Until(Node):
    """Goes on with more replicates until the differences from the baseline are known well enough."""

    width: float = Field(gt=0, strict=True, allow_inf_nan=False)
    """It ends when no interval of a difference is wider than this, in units of the measure."""
    at_most: int = Field(ge=2, strict=True)
    """It ends at this number of replicates in any case."""
    alpha: float = Field(default=0.05, gt=0, lt=1, strict=True)
    """The probability that one of the intervals, at any of the looks, leaves out its difference."""


class Search(Node):
    """Chooses the arms by what earlier ones measured, with optuna."""

    sampler: Literal["random", "tpe"] = "tpe"
    """The sampler of optuna that chooses them."""
    budget: int = Field(ge=1, strict=True)
    """How many arms are chosen."""
    batch: int = Field(default=10, ge=1, strict=True)
    """How many of them are run before the next ones are chosen."""
    space: dict[Text, Data]
    """`stage.option` -> its choices, as a list, or `{low:, high:}`, with `log: true` for a logarithmic scale."""
    higher_is_better: bool | None = None
    """Which direction of the measure is good (default: as `bench` says)."""

    @field_validator("space")
    @classmethod
    def _choices_or_ranges(cls, space: dict[str, Any]) -> dict[str, Any]:
        if not space:
            raise PydanticCustomError("space", "names no option that is searched")
        for key, values in space.items():
            if not all(key.partition(".")):
                raise PydanticCustomError(
                    "space", NO_OPTION, {"key": repr(key), "place": ("trials", "search", "space", key)}
                )
            if not (isinstance(values, list) and values) and not _is_range(values):
                raise PydanticCustomError(
                    "space",
                    "{key} needs a list of choices, or a range such as {example}, whose low is below its high, and "
                    "above 0 if log",
                    {
                        "key": repr(key),
                        "example": "{low: 0.1, high: 10, log: true}",
                        "place": ("trials", "search", "space", key),
                    },
                )
        return space


def _is_range(values: Any) -> bool:
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
        return False
    low, high, log = values["low"], values["high"], values.get("log", False)
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    return numbers and isinstance(log, bool) and low < high and (low > 0 or not log)


class Trials(Node):
    """Runs a part of the pipeline once for each arm and replicate."""

    arms: dict[Name, dict[Name, Options]] | None = None
    """Arm -> stage -> options that replace those of the pipeline."""
    grid: Grid | None = None
    """`stage.option` -> its values: each combination is an arm, or, with `arms`, a version of each arm."""
    replicates: int = Field(default=1, ge=1, strict=True)
    """How often each arm is run, each time with another seed."""
    until: Until | None = None
    """Goes on, `replicates` at a time, until the differences from the baseline are known well enough."""
    search: Search | None = None
    """Chooses the arms by what earlier ones measured."""
    measure: Text | None = None
    """The metric of a trial that `bench` compares."""
    baseline: Text | dict[Text, Data] | None = None
    """The arm that the others are compared with: its name, or its values of the grid."""
    max_failures: int | float = 0
    """Failed trials, as a number or as a share below 1, above which the run fails, after the report."""
    workers: int = Field(default=1, ge=1, le=MOST_WORKERS, strict=True)
    """On Dagster: the number of ops among which the trials are divided."""
    jobs: int = Field(default=1, ge=1, strict=True)
    """The number of processes; on Dagster, of each worker."""
    engine: Engine | None = None
    """What runs the processes (default: `{kind: loky}`)."""
    from_: Name | None = Field(default=None, alias="from")
    """The first stage of a trial (default: the first that an arm or the seed reaches)."""
    to: Name | None = None
    """The last stage of a trial (default: the last before a stage that gathers, such as `bench`)."""

    @field_validator("max_failures", mode="before")
    @classmethod
    def _a_number_or_a_share(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PydanticCustomError("max_failures", "should be a number of trials, or a share below 1")
        if value < 0 or (isinstance(value, float) and value >= 1):
            raise PydanticCustomError(
                "max_failures",
                "should be a whole number of trials, or a share of them from 0 to below 1, not {value}",
                {"value": value},
            )
        return value

    @field_validator("grid")
    @classmethod
    def _options_of_stages(cls, grid: Grid | None) -> Grid | None:
        for key, values in (grid or {}).items():
            if not all(key.partition(".")):
                raise PydanticCustomError("grid", NO_OPTION, {"key": repr(key), "place": ("trials", "grid", key)})
            if not values:
                raise PydanticCustomError(
                    "grid", "{key} has no values", {"key": repr(key), "place": ("trials", "grid", key)}
                )
        return grid

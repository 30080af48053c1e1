"""Gates: the rules that decide whether a run is good enough, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from crucible_bench.vocabulary import Looks
from crucible_core.ir.fields import Name, Node, Text
from crucible_core.ir.vocabulary import GateSeverity, GateStatus, WhenUndecided

__all__ = ["BOUNDS", "LAST_PASSING", "Baseline", "BoundName", "Gate", "GateResult", "NoRegression", "did_not_pass"]

BoundName = Literal["above", "at_least", "at_most", "below", "is"]

BOUNDS: Mapping[BoundName, str] = {
    "above": "above",
    "at_least": "at least",
    "at_most": "at most",
    "below": "below",
    "is": "is",
}
"""The bounds in words."""

LAST_PASSING = "last_passing"


class Baseline(Node):
    """The earlier runs that a run is compared with: `last_passing`, or one of run, last_runs and variant.

    `any_options` alone is `last_passing`, with whatever options it ran.
    """

    run: Text | None = None
    """The id of a run."""
    last_runs: int | None = Field(default=None, ge=2, le=1000, strict=True)
    """The number of latest passing runs to compare with."""
    variant: Name | None = None
    """The newest run of this variant that succeeded."""
    any_options: bool = Field(default=False, strict=True)
    """Whether runs count whose options differ from the file and its variants, by `--set` or by config."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        if given == LAST_PASSING:
            return {}
        if isinstance(given, str):
            raise PydanticCustomError(
                "baseline", "a baseline is 'last_passing', or one of run: ID, last_runs: 5, variant: NAME"
            )
        return given

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        chosen = sum(value is not None for value in (self.run, self.last_runs, self.variant))
        if self.model_fields_set and chosen != 1 and not (chosen == 0 and self.any_options):
            raise ValueError("set one of run, last_runs and variant")
        return self

    @model_serializer(mode="plain")
    def _as_said(self) -> Any:
        return {name: getattr(self, name) for name in self.model_fields_set} or LAST_PASSING

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"const": LAST_PASSING}, handler(schema)]}

    @property
    def words(self) -> str:
        """In words: `the last passing run`."""
        if self.run is not None:
            return f"run {self.run}"
        if self.last_runs is not None:
            runs = f"the last {self.last_runs} passing runs"
        else:
            runs = "the last passing run" if self.variant is None else f"the newest run of variant {self.variant}"
        return f"{runs} with any options" if self.any_options else runs


class NoRegression(Node):
    """The rule that a run is not worse than its baseline by the margin or more, as far as the data show."""

    group: Text | None = None
    """The group of the `bench` stage whose values are compared."""
    bench: Text = "bench"
    """The metric of that `bench` stage."""
    metric: Text | None = None
    """Instead of a group: one number per run."""
    baseline: Baseline = Field(default_factory=Baseline)
    """The earlier runs that the run is compared with: `last_passing`, or one of `run`, `last_runs`, `variant`."""
    margin: float = Field(gt=0, allow_inf_nan=False, strict=True)
    """The loss that would matter, in units of the data."""
    higher_is_better: bool = Field(default=True, strict=True)
    paired: bool = Field(default=False, strict=True)
    """Values at the same position of both runs belong together: the same fold, example or seed."""
    alpha: float | None = Field(default=None, gt=0, lt=0.5, strict=True)
    """The chance of a false verdict (default: that of `reliability.stats`, or 0.05)."""
    looks: Looks = "once"
    """`always_valid`: judge all runs since a pinned one, with an error rate that holds for any number of them."""
    bounds: tuple[float, float] | None = None
    """With `looks: always_valid`: the lowest and the highest possible value (default: values are normal)."""

    @model_validator(mode="after")
    def _something_to_compare(self) -> Self:
        if (self.group is None) == (self.metric is None):
            raise ValueError("set what is compared: either `group`, of a bench stage, or `metric`, one number per run")
        if self.metric is not None and self.paired:
            raise ValueError("`paired` is for the values of a `group`; a `metric` is one number per run")
        if self.metric is not None and "bench" in self.model_fields_set:
            raise ValueError("`bench` names the stage of a `group`; a `metric` is named in full by `metric`")
        if self.looks == "once":
            if self.bounds is not None:
                raise ValueError("`bounds` are for `looks: always_valid`")
            if self.metric is not None and self.baseline.last_runs is None:
                raise ValueError(
                    f"one number of this run and one of {self.baseline.words} have no interval, so they cannot be "
                    "compared: use `baseline: {last_runs: 5}` or more, or the values of a `group`"
                )
            return self
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError("`bounds` are two numbers, the lowest and the highest possible value")
        if self.baseline.run is None:
            raise ValueError(
                "`looks: always_valid` needs `baseline: {run: ID}`: a baseline that moves restarts the count of looks, "
                "and with it the error rate"
            )
        if self.paired:
            raise ValueError(
                "with `looks: always_valid` each run is one value, so there is nothing to pair: leave `paired` out"
            )
        return self


class Gate(Node):
    """One rule: a bound on a number, or no regression against a baseline."""

    name: Name
    metric: Text | None = None
    """The number that has a bound, by its name: `accuracy`, `nested.loss`, `bench.paired_ttest.interval_low`."""
    at_least: float | None = Field(default=None, allow_inf_nan=False, strict=True)
    at_most: float | None = Field(default=None, allow_inf_nan=False, strict=True)
    above: float | None = Field(default=None, allow_inf_nan=False, strict=True)
    below: float | None = Field(default=None, allow_inf_nan=False, strict=True)
    is_: bool | None = Field(default=None, alias="is", strict=True)
    """For a metric that is true or false."""
    no_regression: NoRegression | None = None
    """Instead of a metric and a bound: not worse than an earlier run."""
    severity: GateSeverity = "error"
    blocking: bool = Field(default=False, strict=True)
    """`true`: if this gate fails, the run fails, after its report is written."""
    undecided: WhenUndecided = "warn"
    """`fail`: an undecided gate counts as failed, except if earlier runs are missing."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        said = list(self._bounds())
        if self.no_regression is not None:
            if self.metric is not None or said:
                raise ValueError("a gate has either a metric with its bound, or no_regression; make two gates of it")
        elif self.metric is None:
            raise ValueError("a gate needs a `metric` with a bound, or `no_regression`")
        elif len(said) != 1:
            given = " and ".join(said) if said else "none"
            raise ValueError(f"a metric has one bound, {', '.join(BOUNDS)}; given: {given}")
        if self.severity == "warn" and (self.blocking or self.undecided == "fail"):
            word = "`blocking: true`" if self.blocking else "`undecided: fail`"
            raise ValueError(f"{word} is for `severity: error`; a warning stops nothing")
        return self

    @property
    def bound(self) -> tuple[BoundName, float] | None:
        """The name and the value of the bound; None for a gate against regression."""
        return next(iter(self._bounds().items()), None)

    def _bounds(self) -> dict[BoundName, float]:
        given = ((name, self.is_ if name == "is" else getattr(self, name)) for name in BOUNDS)
        return {name: value for name, value in given if value is not None}

    @property
    def words(self) -> str:
        """The rule in one line."""
        if self.no_regression is None:
            assert self.bound is not None
            name, value = self.bound
            if name == "is":
                return f"{self.metric} is {'true' if value else 'false'}"
            return f"{self.metric} {BOUNDS[name]} {value:g}"
        rule = self.no_regression
        what = rule.metric if rule.group is None else f"{rule.group} ({rule.bench})"
        return f"{what} not worse than {rule.baseline.words} by {rule.margin:g} or more"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The result of a gate in one run."""

    gate: str
    status: GateStatus
    severity: GateSeverity
    """The severity in effect: an undecided gate is a warning, unless it has `undecided: fail`."""
    blocking: bool
    sentence: str
    """The result in words: the numbers and what follows from them."""
    numbers: Mapping[str, float | int] = field(default_factory=dict)
    """`value` and `bound`; or `estimate` (this run minus the baseline, in units of the data), `interval_low` and
    `interval_high`, `confidence_level`, `margin`, `n`, `n_baseline`, `more_replicates`; only those that exist."""
    baseline_runs: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether it counts as an error: failed, or undecided where that counts as failed."""
        return self.status != "passed" and self.severity == "error"

    @property
    def blocks(self) -> bool:
        """Whether it fails the run."""
        return self.blocking and self.fails

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**asdict(self), "baseline_runs": list(self.baseline_runs)}


def did_not_pass(experiment: str, gates: Sequence[GateResult]) -> str:
    """A sentence about the gates of the experiment that did not pass, each with its own."""
    many = f"{len(gates)} gates" if len(gates) > 1 else "a gate"
    said = "; ".join(f"{one.gate}: {'undecided: ' if one.status == 'undecided' else ''}{one.sentence}" for one in gates)
    return f"{many} of experiment {experiment!r} did not pass: {said}"

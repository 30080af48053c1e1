"""What a test returns: the numbers, what was assumed, and every choice that was made on the way.

Results are written as JSON by `plain_json` and read back by their annotations, with pydantic. JSON has no infinity:
an infinite number is written as null, and the types here say which infinity a null stands for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import AfterValidator, BeforeValidator, Field

from crucible_bench.errors import CannotTestError
from crucible_bench.vocabulary import Alternative, EffectSizeName, TestName


def _null_as(infinity: float) -> Callable[[Any], Any]:
    return lambda value: infinity if value is None else value


def _number(value: float) -> float:
    if math.isnan(value):
        raise ValueError("NaN is not a number")
    return value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Ratio = Annotated[float, Field(strict=True), BeforeValidator(_null_as(math.inf)), AfterValidator(_number)]
"""A number, or plus infinity where a denominator is zero."""
_Low = Annotated[float, Field(strict=True), BeforeValidator(_null_as(-math.inf)), AfterValidator(_number)]
Interval = tuple[_Low, Ratio]
"""Low and high end; an open end is infinite."""


class Group(Protocol):
    """A group in a result: its name and its number of observations."""

    @property
    def name(self) -> str: ...

    @property
    def n(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice the computation made itself: what it chose, why, and what else it could have chosen."""

    decision: str
    reasoning: str
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TestResult:
    """One comparison of groups.

    Differences are the first group minus the second, in the units of the data; effect sizes have no unit. `significant`
    is `p_value <= alpha`. `statistic` and `p_value` are always finite. An interval end is infinite only on the open
    side of a one-sided test's interval, or if no finite end has the confidence asked for; `notes` then says so. An
    interval that is open at both ends counts as none. The effect size's interval is always two-sided. A ratio whose
    denominator is zero is infinite, and `notes` says so. The effect size and its name are None if the data leave it
    undefined, such as a standardized difference of values that do not vary.
    """

    __test__: ClassVar[bool] = False  # the name would otherwise make pytest collect it

    test: TestName
    method: str
    groups: Annotated[tuple[str, ...], Field(min_length=1)]
    n: Annotated[tuple[Count, ...], Field(min_length=1)]
    statistic: Number
    statistic_name: str
    df: tuple[Number, ...]
    p_value: Number
    alpha: Number
    significant: Flag
    estimate: Ratio
    estimate_name: str
    confidence_interval: Interval
    confidence_level: Number
    effect_size: Number | None
    effect_size_name: EffectSizeName | None
    effect_size_interval: Interval | None
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    decisions: tuple[Choice, ...] = ()
    alternative: Alternative = "two-sided"
    null_value: Number = 0.0
    """The value of `estimate` that means no difference."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values: tuples become lists, and infinite numbers become None."""
        plain: dict[str, Any] = plain_json(self)
        return plain


def with_infinite_ratio(result: Any) -> Any:
    """An effect size that has a name and is null in JSON is a ratio with a denominator of zero."""
    if result.effect_size is None and result.effect_size_name is not None:
        return replace(result, effect_size=math.inf)
    return result


@dataclass(frozen=True, slots=True)
class Untested:
    """A comparison that the data do not allow: the test that was to be run, on which groups, and why it could not.

    It still counts in its family, so that the others are corrected for all comparisons that were declared.
    """

    test: str
    groups: tuple[str, ...]
    n: tuple[Count, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller asked of a test, already checked."""

    alpha: float
    confidence_level: float
    asked_effect_size: EffectSizeName | None
    resamples: int
    seed: int
    alternative: Alternative = "two-sided"

    @property
    def effect_size(self) -> EffectSizeName:
        """The effect size to report, for a test that defines one."""
        assert self.asked_effect_size is not None
        return self.asked_effect_size

    @property
    def tail(self) -> float:
        """The probability left out at each end of a two-sided interval."""
        return (1.0 - self.confidence_level) / 2.0

    @property
    def estimate_tail(self) -> float:
        """The probability left out at each closed end of the estimate's interval, which has the test's sides."""
        return self.tail if self.alternative == "two-sided" else 1.0 - self.confidence_level

    @property
    def sides(self) -> str:
        """The words for the alternative, with which the method's name ends."""
        return "two-sided" if self.alternative == "two-sided" else f"one-sided ({self.alternative})"

    def bounded(self, interval: Interval, least: float = -math.inf, most: float = math.inf) -> Interval:
        """The interval, open at the end that a one-sided test says nothing about."""
        low, high = interval
        if self.alternative == "greater":
            return low, most
        return (least, high) if self.alternative == "less" else interval


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect size with its interval, and how the interval was made."""

    name: EffectSizeName
    value: float
    interval: Interval
    choice: Choice
    notes: tuple[str, ...] = ()
    is_ratio: bool = False
    """Whether the value, and an estimate that is the same, may be infinite."""


def conclude(
    test: TestName,
    samples: Sequence[Group],
    settings: Settings,
    *,
    method: str,
    statistic: tuple[str, float],
    df: tuple[float, ...],
    p_value: float,
    estimate: tuple[str, float, Interval],
    effect: Effect | None,
    assumptions: tuple[str, ...],
    notes: tuple[str, ...],
    decisions: tuple[Choice, ...],
    disagreement: str = "they rest on different approximations",
    null_value: float = 0.0,
) -> TestResult:
    """Put a result together, or refuse if a number that must be finite is not.

    `disagreement` says why test and interval of the estimate may differ about the null value; it is noted where they
    do.
    """
    numbers: dict[str, float] = {
        statistic[0]: statistic[1],
        "p-value": p_value,
        estimate[0]: estimate[1],
    }
    if effect is not None:
        numbers[effect.name] = effect.value
    may_be_infinite = {effect.name} if effect and effect.is_ratio else set[str]()
    wrong = [
        f"{name} = {value}"
        for name, value in numbers.items()
        if math.isnan(value) or (math.isinf(value) and name not in may_be_infinite)
    ]
    if wrong or any(math.isnan(end) for end in (*estimate[2], *(effect.interval if effect else ()))):
        raise CannotTestError(
            test,
            f"the numbers leave the range of double precision ({', '.join(wrong) or 'an interval end'}); "
            "rescale the data",
        )
    low, high = estimate[2]
    extra = list(effect.notes) if effect else []
    if not is_open(estimate[2], null_value) and (p_value <= 1.0 - settings.confidence_level) == (
        low <= null_value <= high
    ):
        about = "zero" if null_value == 0.0 else f"{null_value:.4g}"
        extra.append(
            f"the test and the {settings.confidence_level:.4g} interval disagree about {about}: {disagreement}"
        )
    if p_value == 0.0:
        extra.append("the p-value is smaller than the smallest double and is given as 0")
    return TestResult(
        test=test,
        method=method,
        groups=tuple(sample.name for sample in samples),
        n=tuple(sample.n for sample in samples),
        statistic=float(statistic[1]),
        statistic_name=statistic[0],
        df=tuple(float(value) for value in df),
        p_value=min(1.0, max(0.0, float(p_value))),
        alpha=settings.alpha,
        significant=bool(p_value <= settings.alpha),
        estimate=float(estimate[1]),
        estimate_name=estimate[0],
        confidence_interval=(float(estimate[2][0]), float(estimate[2][1])),
        confidence_level=settings.confidence_level,
        effect_size=float(effect.value) if effect else None,
        effect_size_name=effect.name if effect else None,
        effect_size_interval=(float(effect.interval[0]), float(effect.interval[1])) if effect else None,
        assumptions=assumptions,
        notes=(*notes, *extra),
        decisions=(*decisions, effect.choice) if effect else decisions,
        alternative=settings.alternative,
        null_value=float(null_value),
    )


def is_open(interval: Interval, null_value: float = 0.0) -> bool:
    """Whether an interval is open at both ends and so says nothing; for a ratio (`null_value` 1), the low end is 0."""
    return interval == (0.0 if null_value == 1.0 else -math.inf, math.inf)


def plain_json(value: Any) -> Any:
    """The value as JSON types: dataclasses become dicts, tuples lists, and an infinite number None."""
    if isinstance(value, float):
        return None if math.isinf(value) else value
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if is_dataclass(value):
        return {field.name: plain_json(getattr(value, field.name)) for field in fields(value)}
    return value

"""What a report says about a comparison, which is the metric that a `bench` stage puts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crucible_core.context import Context
from crucible_core.reporting.document import Block, Items, Section, Table
from crucible_core.reporting.numbers import format_interval, format_number, format_p
from crucible_core.vocabulary import CorrectionName, EffectSizeName

__all__ = ["Comparison", "comparison_section", "comparisons", "finding"]

EFFECT_LABELS: Mapping[EffectSizeName, str] = {
    "cliffs_delta": "Cliff's δ",
    "cohens_d": "Cohen's d",
    "cohens_dav": "Cohen's d_av",
    "cohens_dz": "Cohen's d_z",
    "cohens_g": "Cohen's g",
    "cohens_h": "Cohen's h",
    "common_language": "P(first > second)",
    "cramers_v": "Cramér's V",
    "epsilon_squared": "ε²",
    "eta_squared": "η²",
    "glass_delta": "Glass's Δ",
    "hedges_g": "Hedges' g",
    "kendall_tau": "Kendall's τ",
    "kendall_w": "Kendall's W",
    "odds_ratio": "odds ratio",
    "omega_squared": "ω²",
    "partial_eta_squared": "partial η²",
    "pearson_r": "Pearson's r",
    "rank_biserial": "rank-biserial r",
    "risk_ratio": "risk ratio",
    "spearman_rho": "Spearman's ρ",
    "variance_ratio": "variance ratio",
}

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Interval = tuple[Number | None, Number | None]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True)


class ComparedGroup(_Read):
    n: Count
    mean: Number
    sd: Number | None
    median: Number


class ComparedTest(_Read):
    test: str
    method: str
    groups: tuple[str, ...] = Field(min_length=2)
    n: tuple[Count, ...] = Field(min_length=2)
    statistic: Number
    statistic_name: str
    df: tuple[Number, ...]
    p_value: Number
    p_adjusted: Number | None = None
    significant: Flag
    estimate: Number
    estimate_name: str
    confidence_interval: Interval
    confidence_level: Number
    effect_size: Number
    effect_size_name: EffectSizeName
    effect_size_interval: Interval
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]


class Comparison(_Read):
    """The metric of a `bench` stage as far as a report tells it; a metric that lacks any of it is no comparison."""

    alpha: Number
    correction: CorrectionName | None
    family_size: Count
    measure: str | None
    paired: Flag
    groups: dict[str, ComparedGroup]
    tests: dict[str, ComparedTest] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_p_adjusted_or_none(self) -> Self:
        if any((test.p_adjusted is None) != (self.correction is None) for test in self.tests.values()):
            raise ValueError("either all p-values are adjusted, by a correction that is named, or none")
        return self


def comparisons(ctx: Context) -> dict[str, Comparison]:
    """Metric -> comparison, for each metric that is one."""
    found = {}
    for name, value in ctx.metrics.items():
        if isinstance(value, dict):
            try:
                found[name] = Comparison.model_validate(value)
            except ValidationError:
                continue
    return found


def finding(comparison: Comparison) -> str:
    """The result in one sentence.

    It is that of the test declared first: picking the smallest p would be picking the result.
    """
    test = next(iter(comparison.tests.values()))
    p, adjusted = test.p_value, ""
    if test.p_adjusted is not None:
        p, adjusted = test.p_adjusted, f" ({comparison.correction}-adjusted)"
    measure = f" in {comparison.measure}" if comparison.measure else ""
    numbers = (
        f"{test.estimate_name} {format_number(test.estimate)}, "
        f"{_percent(test.confidence_level)} CI {format_interval(test.confidence_interval)}, "
        f"{test.method}, p {format_p(p)}{adjusted}, n = {_counts(comparison, test)}"
    )
    if len(test.groups) != 2:
        differ = "differ" if test.significant else "could not be told apart"
        return f"The {len(test.groups)} groups {', '.join(test.groups)} {differ}{measure}: {numbers}."
    first, second = test.groups
    if test.significant:
        word = "higher" if test.estimate > 0 else "lower"
        return f"{first} is {word} than {second}{measure}: {numbers}."
    return f"{first} and {second} could not be told apart{measure}: {numbers}."


def comparison_section(name: str, comparison: Comparison) -> Section:
    """The groups, the tests, and what was assumed."""
    adjusted = comparison.correction is not None
    family = f"alpha = {format_number(comparison.alpha)}"
    if adjusted:
        family += f"; {comparison.family_size} tests, p-values adjusted by {comparison.correction}"
    tests = comparison.tests.values()
    said = [f"{test.test}: {line}" for test in tests for line in (*test.assumptions, *test.notes)]
    blocks: tuple[Block, ...] = (
        _groups_table(comparison.groups),
        Table(
            (
                "test",
                "statistic",
                "p",
                *(("p adjusted",) if adjusted else ()),
                "estimate",
                "interval",
                "effect size",
                "effect interval",
                "verdict",
            ),
            tuple(map(_test_row, tests)),
            frozenset({"p", "p adjusted"}),
        ),
        Items((family, *said)),
    )
    return Section("Comparison" if name == "bench" else f"Comparison: {name}", blocks)


def _groups_table(groups: Mapping[str, ComparedGroup]) -> Table:
    rows = (
        (
            name,
            format_number(group.n),
            *("–" if value is None else format_number(value) for value in (group.mean, group.sd, group.median)),
        )
        for name, group in groups.items()
    )
    return Table(("group", "n", "mean", "sd", "median"), tuple(rows), frozenset({"n", "mean", "sd", "median"}))


def _test_row(test: ComparedTest) -> tuple[str, ...]:
    degrees = f"({', '.join(map(format_number, test.df))})" if test.df else ""
    ps = [p for p in (test.p_value, test.p_adjusted) if p is not None]
    return (
        test.method,
        f"{test.statistic_name}{degrees} = {format_number(test.statistic)}",
        *(format_p(p).removeprefix("= ") for p in ps),
        f"{test.estimate_name} = {format_number(test.estimate)}",
        f"{_percent(test.confidence_level)} {format_interval(test.confidence_interval)}",
        f"{EFFECT_LABELS[test.effect_size_name]} = {format_number(test.effect_size)}",
        format_interval(test.effect_size_interval),
        "significant" if test.significant else "not significant",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.6g}%"


def _counts(comparison: Comparison, test: ComparedTest) -> str:
    if comparison.paired:
        return f"{test.n[0]} pairs"
    return " and ".join(map(str, test.n)) if len(set(test.n)) > 1 else f"{test.n[0]} per group"

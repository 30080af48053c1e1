"""What a report says about a comparison, which is the metric that a `bench` stage puts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from crucible_bench.vocabulary import Alternative, CorrectionName, Design, EffectSizeName, Outcome, StudyName

__all__ = [
    "EFFECT_LABELS",
    "RATIOS",
    "Comparison",
    "comparison_numbers",
]

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
RATIOS: frozenset[EffectSizeName] = frozenset({"odds_ratio", "risk_ratio", "variance_ratio"})
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
    mean_interval: Interval | None = None
    values: tuple[Number, ...] = ()
    sampled: Flag = False


class Interpretation(_Read):
    word: str
    source: str


class ComparedTest(_Read):
    test: str
    method: str
    groups: tuple[str, ...] = Field(min_length=1)
    n: tuple[Count, ...] = Field(min_length=1)
    statistic: Number
    statistic_name: str
    df: tuple[Number, ...]
    p_value: Number
    p_adjusted: Number | None = None
    significant: Flag
    estimate: Number | None
    estimate_name: str
    confidence_interval: Interval
    confidence_level: Number
    effect_size: Number | None
    effect_size_name: EffectSizeName
    effect_size_interval: Interval
    interpretation: Interpretation | None = None
    null_value: Number = 0.0
    alternative: Alternative = "two-sided"
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]


class ComparedPair(_Read):
    first: str
    second: str
    n: tuple[Count, Count]
    estimate: Number | None
    confidence_interval: Interval
    statistic: Number
    df: tuple[Number, ...]
    p_value: Number
    p_adjusted: Number
    significant: Flag
    effect_size: Number | None
    effect_size_name: EffectSizeName | None
    effect_size_interval: Interval | None
    interpretation: Interpretation | None = None


class ComparedFamily(_Read):
    method: str
    control: str | None
    size: Count
    correction: str
    statistic_name: str
    estimate_name: str
    confidence_level: Number
    null_value: Number = 0.0
    comparisons: tuple[ComparedPair, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]


class MarginVerdict(_Read):
    verdict: str
    method: str
    groups: tuple[str, str]
    margin: Number
    alpha: Number | None = None
    estimate: Number
    confidence_interval: Interval
    equivalence_interval: Interval
    more_replicates: Count | None
    notes: tuple[str, ...]


class Contender(_Read):
    name: str
    n: Count
    mean: Number
    p_value: Number
    beaten_by: str | None
    kept: Flag


class BestOfSweep(_Read):
    leader: str
    kept: tuple[str, ...]
    contenders: tuple[Contender, ...]
    method: str
    assumptions: tuple[str, ...]


class RankedGroups(_Read):
    procedure: str
    groups: tuple[str, ...]
    mean_ranks: tuple[Number, ...]
    blocks: Count
    critical_difference: Number | None
    cliques: tuple[tuple[str, ...], ...]
    friedman: tuple[Number, Number, Number]
    iman_davenport: tuple[Number | None, Number, Number, Number]
    notes: tuple[str, ...]


class PlannedPower(_Read):
    test: str
    n: Count
    smallest_effect: Number
    effect_size_name: str
    power: Number
    wanted: Number
    curve: tuple[tuple[Number, Number], ...]


class Comparison(_Read):
    """The metric of a `bench` stage as far as a report tells it; a metric that lacks any of it is no comparison."""

    alpha: Number
    correction: CorrectionName | None
    family_size: Count
    measure: str | None
    paired: Flag
    design: Design = "independent"
    outcome: Outcome = "continuous"
    alternative: Alternative = "two-sided"
    study: StudyName | None = None
    baseline: str | None = None
    groups: dict[str, ComparedGroup]
    tests: dict[str, ComparedTest]
    comparisons: ComparedFamily | None = None
    verdicts: tuple[MarginVerdict, ...] = ()
    best: BestOfSweep | None = None
    ranking: RankedGroups | None = None
    planned: PlannedPower | None = None
    checks: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _something_compared_and_every_p_adjusted_or_none(self) -> Self:
        if not self.tests and self.comparisons is None:
            raise ValueError("nothing was compared")
        adjusted = [test.p_adjusted is not None for test in self.tests.values()]
        if any(adjusted) and not (all(adjusted) and self.correction is not None):
            raise ValueError("either all p-values are adjusted, by a correction that is named, or none")
        return self

    @property
    def confidence_level(self) -> float:
        """Of an interval that stands alone."""
        if self.comparisons is not None:
            return self.comparisons.confidence_level
        return next((test.confidence_level for test in self.tests.values()), 1.0 - self.alpha)

    @property
    def replicate(self) -> str:
        """What one more observation of each group is called."""
        return {"clustered": "clusters", "paired": "pairs", "resampled": "folds"}.get(self.design, "values per group")


def comparison_numbers(comparison: Comparison) -> Iterator[tuple[str, float]]:
    """The findings as numbers to follow from run to run, not the settings: `svm.mean`, `ttest.p_value`,
    `svm_vs_logistic.estimate`; of an interval with an open end, the other one.
    """
    for group, summary in comparison.groups.items():
        yield f"{group}.mean", summary.mean
    for test, result in comparison.tests.items():
        yield from _numbers(test, result)
    for pair in comparison.comparisons.comparisons if comparison.comparisons else ():
        yield from _numbers(f"{pair.first}_vs_{pair.second}", pair)
    ranking = comparison.ranking
    if ranking is not None:
        for name, rank in zip(ranking.groups, ranking.mean_ranks, strict=True):
            yield f"{name}.mean_rank", rank


def _numbers(name: str, compared: ComparedTest | ComparedPair) -> Iterator[tuple[str, float]]:
    for key in ("estimate", "effect_size", "p_value", "p_adjusted"):
        if (number := getattr(compared, key)) is not None:
            yield f"{name}.{key}", number

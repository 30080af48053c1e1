"""What a comparison holds: its groups, tests, families of pairs, verdicts, the best of a sweep, a ranking.

Plain frozen dataclasses without numpy. The functions that compute them return them, and `Comparison` writes them as
JSON and reads them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator

from crucible_bench.result import (
    Choice,
    Count,
    Flag,
    Interval,
    Number,
    Ratio,
    TestResult,
    Untested,
    plain_json,
    with_infinite_ratio,
)
from crucible_bench.vocabulary import (
    Alternative,
    CorrectionName,
    Design,
    EffectSizeName,
    FamilyName,
    Outcome,
    Scale,
    StudyName,
)

__all__ = [
    "AnswersUsed",
    "ArmStrength",
    "BayesianResult",
    "BestMean",
    "BestSet",
    "Compared",
    "ComparedGroup",
    "Contender",
    "FamilyResult",
    "GroupQuantile",
    "GroupSummary",
    "InterquartileMean",
    "JudgedTest",
    "MarginResult",
    "PairResult",
    "PlannedPower",
    "PositionBias",
    "Preferences",
    "PreferredPair",
    "Ranking",
    "RankingProcedure",
    "Verdict",
]

Verdict = Literal["better", "equivalent", "inconclusive", "non_inferior", "worse"]
RankingProcedure = Literal["nemenyi", "wilcoxon_holm"]


class JudgedTest(NamedTuple):
    """A test of a comparison, with its p-value adjusted for the number of tests; None if there is only one test.

    `significant` is decided by the adjusted p-value where there is one.
    """

    result: TestResult
    p_adjusted: float | None
    significant: bool


# --- groups -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """n, mean, sd (with n - 1; None for a single value) and median, in the units of the data."""

    n: Count
    mean: Number
    sd: Number | None
    median: Number

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields: dict[str, Any] = plain_json(self)
        return fields


@dataclass(frozen=True, slots=True)
class ComparedGroup(GroupSummary):
    """A group of a comparison.

    `mean_interval` is the interval of the mean alone: by t, or by Clopper and Pearson for a share. It is None for
    designs in which values belong together, where it would say nothing about the differences. `values` are the group's
    values in their order; if there are more than a thousand, `sampled` is true and they are a thousand quantiles, in
    ascending order.
    """

    mean_interval: Interval | None = None
    values: tuple[Number, ...] = ()
    sampled: Flag = False


@dataclass(frozen=True, slots=True)
class InterquartileMean:
    """A group's interquartile mean over tasks and seeds, with its stratified bootstrap interval."""

    value: Number
    interval: Interval


@dataclass(frozen=True, slots=True)
class GroupQuantile:
    """The declared quantile of a group, with its own interval between two of its values.

    The interval is None for designs in which values belong together.
    """

    value: Number
    interval: Interval | None


# --- pairs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairResult:
    """Two groups of a family: `estimate` is about the first minus the second.

    `p_value` is that of the pair alone, `p_adjusted` and `confidence_interval` are the family's, and `significant` is
    p_adjusted <= alpha. `df` is empty where the statistic is normal or has a table of its own.
    """

    first: str
    second: str
    n: tuple[Count, Count]
    estimate: Ratio
    confidence_interval: Interval
    statistic: Number
    df: tuple[Number, ...]
    p_value: Number
    p_adjusted: Number
    significant: Flag
    effect_size: Number | None = None
    """The effect size of the two groups alone: the declared one, if their test defines it. None if the groups do not
    allow one. Its interval is not simultaneous."""
    effect_size_name: EffectSizeName | None = None
    effect_size_interval: Interval | None = None
    note: str | None = None
    """Why there is no interval, if there is none."""


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """Pairs of groups that were judged together.

    `size` is the number of comparisons that the adjustment counts, `correction` the method that adjusts their p-values,
    and `confidence_level` that of all intervals together. The pairs in `comparisons` are in the order of the groups;
    against a control, each is the group minus the control.
    """

    procedure: FamilyName
    method: str
    groups: tuple[str, ...]
    n: tuple[Count, ...]
    control: str | None
    size: Count
    correction: str
    statistic_name: str
    estimate_name: str
    alpha: Number
    confidence_level: Number
    comparisons: tuple[Annotated[PairResult, AfterValidator(with_infinite_ratio)], ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    decisions: tuple[Choice, ...] = ()
    null_value: Number = 0.0
    """The value of an estimate that means no difference."""
    untested: tuple[Untested, ...] = ()
    """The pairs that could not be tested. They count in `size`, so that the data do not decide the correction."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values: tuples become lists, and an infinite interval end becomes None."""
        fields: dict[str, Any] = plain_json(self)
        return fields


# --- decisions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MarginResult:
    """The first group judged against the second.

    `estimate` and the intervals are the first mean minus the second, in units of the data, whichever direction is
    better. `confidence_interval` has the confidence 1 - alpha and decides between better and worse;
    `equivalence_interval` has 1 - 2 alpha, its ends are the one-sided 1 - alpha bounds, and it is compared with the
    margin. `p_equivalence` is the larger of the two one-sided p-values (TOST), `p_non_inferiority` the one on the bad
    side, `p_difference` the two-sided one against no difference.

    `more_replicates` is for planning: with that many more values per group (or pairs), the expected 1 - alpha interval
    is as short as the margin, and always decides, whatever the true difference. It depends on the spread seen here, not
    on the difference seen here. It is 0 if there is a verdict already, and None if a billion would not be enough.
    """

    verdict: Verdict
    method: str
    groups: tuple[str, str]
    n: tuple[Count, Count]
    paired: Flag
    higher_is_better: Flag
    margin: Number
    alpha: Number
    estimate: Number
    df: Ratio
    confidence_interval: Interval
    equivalence_interval: Interval
    p_equivalence: Number
    p_non_inferiority: Number
    p_difference: Number
    more_replicates: Count | None
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    decisions: tuple[Choice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields: dict[str, Any] = plain_json(self)
        return fields


@dataclass(frozen=True, slots=True)
class BayesianResult:
    """The probabilities that the first of two groups is better by more than `rope`, that the second is, and neither.

    The three are posterior probabilities and add up to 1. `n` is the number of pairs or folds. It is a statement
    beside the test, not a test: it has no level of significance, and nothing corrects it for the number of pairs.
    """

    method: str
    groups: tuple[str, str]
    n: Count
    rope: Number
    higher_is_better: Flag
    p_first: Number
    p_equivalent: Number
    p_second: Number
    assumptions: tuple[str, ...]
    notes: tuple[str, ...] = ()
    decisions: tuple[Choice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields: dict[str, Any] = plain_json(self)
        return fields


@dataclass(frozen=True, slots=True)
class Contender:
    """A configuration of a sweep or a leaderboard: its mean, and the evidence that another one is better.

    `p_value` is corrected for the comparisons with all others. `beaten_by` names the configuration with the strongest
    evidence of being better; None for the leader.
    """

    name: str
    n: Count
    mean: Number
    p_value: Number
    beaten_by: str | None
    kept: Flag
    interval: Interval | None = None
    """The interval of the mean of this configuration alone; None if it has none."""


@dataclass(frozen=True, slots=True)
class BestMean:
    """The mean of the group that came out best of `picked_from`.

    `interval` allows for the group having been picked by the same data; `uncorrected` is the interval as it would be if
    the group had been named beforehand. All are in units of the data.
    """

    name: str
    picked_from: Count
    n: Count
    mean: Number
    interval: Interval
    uncorrected: Interval
    confidence_level: Number
    method: str
    notes: tuple[str, ...] = ()
    decisions: tuple[Choice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields: dict[str, Any] = plain_json(self)
        return fields


@dataclass(frozen=True, slots=True)
class BestSet:
    """The configurations that may be the best: with probability 1 - alpha the truly best one is among `kept`.

    `leader` has the best mean here. `size` is the number of comparisons that each configuration's p-value counts.
    """

    leader: str
    kept: tuple[str, ...]
    contenders: tuple[Contender, ...]
    higher_is_better: Flag
    paired: Flag
    size: Count
    alpha: Number
    method: str
    assumptions: tuple[str, ...]
    decisions: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()
    mean: BestMean | None = None
    """The leader's mean with an interval that allows for the leader having been picked; None if there is none."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields: dict[str, Any] = plain_json(self)
        return fields


@dataclass(frozen=True, slots=True)
class Ranking:
    """Methods ranked over data sets: what a critical-difference diagram shows.

    `groups` are ordered from the best to the worst, and so are their `mean_ranks`; 1 is the best possible. `cliques`
    are the largest sets of groups in which no two are shown to differ: the diagram's bars. `critical_difference` is
    None for the Wilcoxon-Holm procedure, which has none. `friedman` and `iman_davenport` are (statistic, df...,
    p-value) of the test that all groups are alike; Friedman's p-value is exact for few groups and data sets.
    """

    procedure: RankingProcedure
    groups: tuple[str, ...]
    mean_ranks: tuple[Number, ...]
    blocks: Count
    higher_is_better: Flag
    critical_difference: Number | None
    cliques: tuple[tuple[str, ...], ...]
    friedman: tuple[Number, Number, Number]
    iman_davenport: tuple[Ratio, Number, Number, Number]
    family: FamilyResult
    notes: tuple[str, ...]
    decisions: tuple[Choice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values: tuples become lists, and an infinite number becomes None."""
        fields: dict[str, Any] = plain_json(self)
        return fields


@dataclass(frozen=True, slots=True)
class PlannedPower:
    """The power of a comparison as it was planned, computed without the data.

    `power` is the probability of seeing `smallest_effect` with `n` replicates per group; `wanted` is the power
    that was asked for. `curve` has pairs (n, power), from a quarter of the planned n (at least 3) to four times it; it
    is empty for tests whose power is simulated.
    """

    test: str
    n: Count
    smallest_effect: Number
    effect_size_name: str
    power: Number
    wanted: Number
    curve: tuple[tuple[Count, Number], ...]


# --- preferences ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmStrength:
    """An arm of preferences: its wins, ties and losses, and its strength by Bradley and Terry as log odds.

    The log odds that one arm beats another, ties counted half, are the difference of their strengths. The interval is
    None for the arm that the others are measured against. Without a finite strength both are None, and `reason` says
    why.
    """

    name: str
    wins: Count
    ties: Count
    losses: Count
    strength: Number | None
    interval: Interval | None
    reason: str | None = None

    @property
    def n(self) -> int:
        return self.wins + self.ties + self.losses


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferredPair:
    """Wins, ties and losses of the first arm against the second, by all judges or by one.

    `rate` is the share of wins, ties counted half. Its interval is that of this pair alone, None if all comparisons are
    of one item.
    """

    first: str
    second: str
    wins: Count
    ties: Count
    losses: Count
    rate: Number
    interval: Interval | None
    judge: str | None = None

    @property
    def n(self) -> int:
        return self.wins + self.ties + self.losses


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How often the arm that is shown first wins, with ties counted half and both orders of a pair counted alike.

    One half is no bias. `n` is the number of comparisons of pairs that were shown in both orders.
    """

    rate: Number
    interval: Interval
    n: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """Arms that were compared two at a time by judges.

    `arms` are ordered from the strongest to the weakest, those without a finite strength last. `reference` is the arm
    of strength zero; None if zero is their mean. There are `n` comparisons of `items` items, which is None if none are
    named. `pairs` count all judges together, `judged` each judge alone, if judges are named and there are at most 200
    such entries. `left_out` comparisons have no winner.
    """

    arms: tuple[ArmStrength, ...]
    reference: str | None
    confidence_level: Number
    n: Count
    items: Count | None
    pairs: tuple[PreferredPair, ...]
    judges: tuple[str, ...]
    judged: tuple[PreferredPair, ...]
    position: PositionBias | None
    method: str
    notes: tuple[str, ...]
    left_out: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersUsed:
    """The answers that the values are made of, where each value is pass@k or majority@k of one item.

    `answers` has the number of all answers of each group; `fewest` and `most` are the numbers of answers to a compared
    item. `items_left_out` items have fewer than k answers of some group.
    """

    statistic: Literal["pass", "majority"]
    k: Count
    answers: Mapping[str, Count]
    fewest: Count
    most: Count
    items_left_out: Count = 0

    @property
    def name(self) -> str:
        """Such as pass@5."""
        return f"{self.statistic}@{self.k}"


# --- all of it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What was compared, as declared, and the results."""

    alpha: Number
    design: Design = "independent"
    outcome: Outcome = "continuous"
    alternative: Alternative = "two-sided"
    study: StudyName | None = None
    correction: CorrectionName | None = None
    """The correction of the p-values; None if there was nothing to correct for."""
    baseline: str | None = None
    higher_is_better: Flag = True
    scale: Scale = "linear"
    """With `log`, means are geometric means, standard deviations factors, and estimates of differences ratios."""
    measure: str | None = None
    """The name of the numbers, such as accuracy."""
    groups: Mapping[str, ComparedGroup]
    iqm: Mapping[str, InterquartileMean] = field(default_factory=dict)
    """For the design `stratified`: each group's interquartile mean, by its name."""
    quantile: Number | None = None
    """The quantile that is compared in place of the mean; None if none was declared."""
    quantiles: Mapping[str, GroupQuantile] = field(default_factory=dict)
    """The declared quantile of each group, by its name."""
    tests: tuple[Annotated[TestResult, AfterValidator(with_infinite_ratio)], ...]
    """Tests of all groups at once (of two groups, or of many)."""
    p_adjusted: tuple[Number, ...] | None = None
    """The adjusted p-value of each of `tests`, if there are several."""
    untested: tuple[Untested, ...] = ()
    """Tests of all groups at once, and judgements against the margin or the rope, that could not be made."""
    comparisons: FamilyResult | None = None
    """The pairs of more than two groups, as one family."""
    verdicts: tuple[MarginResult, ...] = ()
    """Pairs judged against the margin."""
    bayesian: tuple[BayesianResult, ...] = ()
    """Bayesian statements about pairs, beside their tests."""
    best: BestSet | None = None
    ranking: Ranking | None = None
    planned: PlannedPower | None = None
    checks: tuple[str, ...] = ()
    """Sentences about the assumptions. They had no influence on any choice."""
    dropped: tuple[str, ...] = ()
    """The places dropped because of missing values, one sentence each."""
    left_out: Mapping[str, Count] = field(default_factory=dict)
    """How many values of each group were dropped, by its name; its n does not count them."""
    preferences: Preferences | None = None
    """Wins, ties and losses, where arms were compared two at a time; `comparisons` has their win rates."""
    answers: AnswersUsed | None = None
    """What each value is made of, where the values are items and `left_out` counts answers."""
    choices: tuple[tuple[str, Choice], ...] = ()
    """The choices that the declaration left open, each with its subject."""

    @property
    def decisions(self) -> tuple[tuple[str, Choice], ...]:
        """Every choice with its subject: those of the whole, then those of its tests and other parts.

        Where a rule has chosen a test, the test's own reason for itself is left out: the rule's reason stands for it.
        """
        by_rule = {choice.decision for _, choice in self.choices}
        parts: list[tuple[str, tuple[Choice, ...]]] = [
            (
                test.test,
                tuple(c for c in test.decisions if not (test.test in by_rule and test.method.startswith(c.decision))),
            )
            for test in self.tests
        ]
        if self.ranking is not None:  # its family is part of it
            parts.append(("ranking", self.ranking.decisions))
        elif self.comparisons is not None:
            parts.append(("family", self.comparisons.decisions))
        if self.best is not None:
            parts.append(("best", self.best.decisions))
        if self.verdicts:  # all are made in the same way
            parts.append(("margin", self.verdicts[0].decisions))
        if self.bayesian:
            parts.append(("rope", self.bayesian[0].decisions))
        return (*self.choices, *((about, choice) for about, chosen in parts for choice in chosen))

    @property
    def judged(self) -> tuple[JudgedTest, ...]:
        """Each of `tests` with its adjusted p-value."""
        if self.p_adjusted is None:
            return tuple(JudgedTest(test, None, test.significant) for test in self.tests)
        return tuple(JudgedTest(test, p, p <= self.alpha) for test, p in zip(self.tests, self.p_adjusted, strict=True))

    @property
    def family_size(self) -> int:
        """How many tests of all groups at once the adjusted p-values count, including those that could not be run."""
        return len(self.tests) + sum(one.test not in ("margin", "rope") for one in self.untested)

    @property
    def paired(self) -> bool:
        """Whether values of the groups belong together."""
        return self.design not in ("independent", "one_sample", "stratified")

    @property
    def confidence_level(self) -> float:
        """The confidence level of an interval outside of a family."""
        if self.comparisons is not None:
            return self.comparisons.confidence_level
        return next((test.confidence_level for test in self.tests), 1.0 - self.alpha)

    @property
    def replicate(self) -> str:
        """What further observations are called, in the plural: values per group, pairs, folds or clusters."""
        if self.answers is not None and self.design == "paired":
            return "items"
        return {"clustered": "clusters", "paired": "pairs", "resampled": "folds"}.get(self.design, "values per group")

"""`test: auto`: which test a design calls for, decided before the numbers are looked at."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, plain_json
from crucible_bench.vocabulary import Design, Outcome, TestName

Count = Literal["one", "two", "more"]
"""How many groups."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table: the design, the test, the alternatives, why this one, and the source."""

    outcome: Outcome
    design: Design
    groups: Count
    test: TestName
    alternatives: tuple[TestName, ...]
    reason: str
    source: str
    preparation: str = ""


@dataclass(frozen=True, slots=True)
class TestChoice:
    """The test chosen for a design, its alternatives, the reason, and the source.

    `preparation` says what must be done to the values first; it is empty if nothing must. `information` repeats the
    assumption checks that were passed in: they are shown to the reader and had no influence on the choice. `notes` are
    about sizes.
    """

    __test__ = False

    test: TestName
    alternatives: tuple[TestName, ...]
    reason: str
    source: str
    outcome: Outcome
    design: Design
    sizes: tuple[int, ...]
    preparation: str
    information: tuple[str, ...]
    notes: tuple[str, ...]

    def choice(self) -> Choice:
        """The choice as a decision of a result."""
        return Choice(self.test, f"{self.reason} ({self.source})", tuple(self.alternatives))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields: dict[str, Any] = plain_json(asdict(self))
        return fields


def choose_test(
    outcome: Outcome, sizes: Sequence[int], *, design: Design = "independent", checks: Sequence[str] = ()
) -> TestChoice:
    """The test for a design: the kind of outcome, the number and sizes of the groups, how their values belong together.

    | outcome | design | groups | test |
    | --- | --- | --- | --- |
    | binary | independent | two | two_proportions |
    | binary | independent | more | chi_square |
    | binary | paired | two | mcnemar_midp |
    | binary | paired | more | friedman |
    | ordinal | independent | two | brunner_munzel |
    | ordinal | independent | more | kruskal_wallis |
    | ordinal | paired | two | sign |
    | ordinal | paired | more | friedman |
    | continuous | independent | two | ttest |
    | continuous | independent | more | welch_anova |
    | continuous | paired | two | paired_ttest |
    | continuous | paired | more | repeated_measures_anova |
    | continuous | clustered | two | clustered_ttest |
    | continuous | clustered | more | welch_anova |
    | continuous | resampled | two | corrected_resampled_ttest |
    | continuous | stratified | two | iqm |
    | binary | clustered | two | clustered_ttest |
    | binary | clustered | more | welch_anova |
    | binary | resampled | two | corrected_resampled_ttest |
    | binary | one_sample | one | proportion |
    | ordinal | one_sample | one | one_sample_sign |
    | continuous | one_sample | one | one_sample_ttest |

    Reasons and sources are in `RULES`. "paired" also means blocks: value i of all groups shares a question, a seed or a
    fold. "clustered" means that values within a group are related (several questions on one text, several answers to
    one question), with two groups measured on the same clusters; "resampled" that they come from overlapping training
    sets (cross-validation); "stratified" that they are scores of one set of tasks, each with seeds of its own. More
    than two groups lead to one test of all; which of them differ is a separate question, for a family of comparisons.
    `run_test` computes the test, or the function that `OTHER_TESTS` names.

    Neither the data nor `checks` (sentences about normality or spread, passed through as information) decide: a test
    chosen by a preliminary test on the same data does not keep its level (Zimmerman 2004; Rochon, Gondan & Kieser
    2012). Only one test is ever named, so there is nothing to pick from afterwards.

    Raises CannotTestError for designs without a rule here and for sizes that the test cannot work with.
    """
    known = {rule.outcome for rule in RULES}, {rule.design for rule in RULES}
    if outcome not in known[0] or design not in known[1]:
        raise CannotTestError(
            "auto",
            f"there is no rule for {design!r} and {outcome!r}; designs: {', '.join(sorted(known[1]))}; outcomes: "
            f"{', '.join(sorted(known[0]))}",
        )
    counts = tuple(operator.index(size) for size in sizes)
    if design == "one_sample" and len(counts) != 1:
        raise CannotTestError("auto", f"one sample is compared with a reference, but {len(counts)} groups were given")
    if len(counts) < 2 and design != "one_sample":
        raise CannotTestError("auto", f"a comparison needs at least two groups, but {len(counts)} were given")
    wanted = (outcome, design, _COUNTS[min(len(counts), 3)])
    rule = next((rule for rule in RULES if (rule.outcome, rule.design, rule.groups) == wanted), None)
    if rule is None:
        raise CannotTestError("auto", _without_rule(outcome, design, len(counts)))
    _check_sizes(rule, counts)
    return TestChoice(
        test=rule.test,
        alternatives=rule.alternatives,
        reason=rule.reason,
        source=rule.source,
        outcome=outcome,
        design=design,
        sizes=counts,
        preparation=rule.preparation,
        information=tuple(checks),
        notes=_notes(rule, counts),
    )


_COUNTS: Final[dict[int, Count]] = {1: "one", 2: "two", 3: "more"}

_MEANS_PER_CLUSTER = (
    "average the values of each cluster first, and compare the averages; where the groups share their clusters, the "
    "averages are paired, and that is the design to ask for"
)

RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "continuous",
        "one_sample",
        "one",
        "one_sample_ttest",
        ("one_sample_wilcoxon", "one_sample_sign"),
        "the mean is the question, and the t-test keeps its level except for strongly skewed values in small samples",
        "Student 1908; Lumley et al. 2002",
    ),
    Rule(
        "ordinal",
        "one_sample",
        "one",
        "one_sample_sign",
        ("one_sample_wilcoxon",),
        "it uses only the order; signed ranks would rank distances, which needs symmetry",
        "Conover 1999, section 3.4",
    ),
    Rule(
        "binary",
        "one_sample",
        "one",
        "proportion",
        (),
        "it is exact: successes among independent outcomes are binomial",
        "Clopper & Pearson 1934; Fay 2010",
    ),
    Rule(
        "binary",
        "independent",
        "two",
        "two_proportions",
        ("fisher_exact", "chi_square"),
        "the N-1 chi-square holds its level down to an expected count of 1, and Fisher's mid-p below it",
        "Campbell 2007; Lydersen, Fagerland & Laake 2009",
    ),
    Rule(
        "binary",
        "independent",
        "more",
        "chi_square",
        ("fisher_exact",),
        "successes and failures of several groups are a table of counts",
        "Pearson 1900; Agresti 2013, section 3.2",
        "count the successes and failures of each group",
    ),
    Rule(
        "binary",
        "paired",
        "two",
        "mcnemar_midp",
        ("mcnemar", "sign"),
        "only the pairs that differ distinguish the two groups, and the mid-p-value is less conservative than the "
        "exact one",
        "Fagerland, Lydersen & Laake 2013",
    ),
    Rule(
        "binary",
        "paired",
        "more",
        "friedman",
        (),
        "with zeros and ones the tie-corrected Friedman statistic is Cochran's Q",
        "Cochran 1950; Conover 1999, section 4.6",
    ),
    Rule(
        "ordinal",
        "independent",
        "two",
        "brunner_munzel",
        ("mann_whitney", "permutation"),
        "it asks which group tends to have higher values and, unlike Mann-Whitney's, keeps its level when spreads "
        "differ",
        "Brunner & Munzel 2000; Karch 2021",
    ),
    Rule(
        "ordinal",
        "independent",
        "more",
        "kruskal_wallis",
        (),
        "it uses the order of the values only",
        "Kruskal & Wallis 1952",
    ),
    Rule(
        "ordinal",
        "paired",
        "two",
        "sign",
        ("wilcoxon",),
        "it uses only the direction of each pair; ranking the sizes of the differences would need a scale",
        "Conover 1999, section 3.4",
    ),
    Rule(
        "ordinal",
        "paired",
        "more",
        "friedman",
        (),
        "it uses the order within each block only",
        "Friedman 1937; Demsar 2006",
    ),
    Rule(
        "continuous",
        "independent",
        "two",
        "ttest",
        ("mann_whitney", "brunner_munzel", "permutation", "bootstrap"),
        "Welch's t-test keeps its level when the variances differ and loses almost nothing when they do not, "
        "so no preliminary test of the variances decides",
        "Delacre, Lakens & Leys 2017; Zimmerman 2004; Ruxton 2006",
    ),
    Rule(
        "continuous",
        "independent",
        "more",
        "welch_anova",
        ("anova", "kruskal_wallis"),
        "it keeps its level when the variances differ and loses little when they do not",
        "Delacre, Leys, Mora & Lakens 2019; Welch 1951",
    ),
    Rule(
        "continuous",
        "paired",
        "two",
        "paired_ttest",
        ("wilcoxon", "paired_permutation", "sign"),
        "the mean difference is the question, and the t-test of differences needs no equal variances",
        "Student 1908; Lumley et al. 2002",
    ),
    Rule(
        "continuous",
        "paired",
        "more",
        "repeated_measures_anova",
        ("friedman",),
        "its degrees of freedom are always corrected, so no preliminary test of sphericity decides",
        "Greenhouse & Geisser 1959",
    ),
    *(
        rule
        for outcome in ("continuous", "binary")
        for rule in (
            Rule(
                outcome,
                "clustered",
                "two",
                "clustered_ttest",
                ("paired_ttest",),
                "items of one cluster are not independent; a standard error over clusters counts each cluster once",
                "Bell & McCaffrey 2002; Pustejovsky & Tipton 2018; Miller 2024",
                "name the cluster of each value"
                if outcome == "continuous"
                else "name the cluster of each value, and pass outcomes as the numbers 0 and 1",
            ),
            Rule(
                outcome,
                "clustered",
                "more",
                "welch_anova",
                ("kruskal_wallis",),
                "averages of clusters are independent, but the values themselves are not",
                "Donner & Klar 2000; Welch 1951",
                _MEANS_PER_CLUSTER,
            ),
            Rule(
                outcome,
                "resampled",
                "two",
                "corrected_resampled_ttest",
                (),
                "overlapping training sets make the folds' differences dependent, which a paired t-test ignores",
                "Nadeau & Bengio 2003; Dietterich 1998",
                "one score per fold and model"
                if outcome == "continuous"
                else "one share of successes per fold and model",
            ),
        )
    ),
    Rule(
        "continuous",
        "stratified",
        "two",
        "iqm",
        (),
        "one task can rule a mean, and a median ignores all tasks but one; the middle half of all scores does neither",
        "Agarwal et al. 2021",
    ),
)


def _without_rule(outcome: Outcome, design: Design, groups: int) -> str:
    if design == "stratified" and outcome != "continuous":
        return (
            f"interquartile means need measurements, but the outcomes are {outcome}; for right and wrong answers take "
            "the design clustered, with the task as the cluster"
        )
    if outcome == "ordinal":
        return f"there is no rule for {design} ordinal outcomes; take one value per cluster or fold, such as its median"
    return (
        f"there is no test here of {groups} groups of {design} outcomes at once; compare them two by two as a family, "
        "with a correction"
    )


def _check_sizes(rule: Rule, sizes: tuple[int, ...]) -> None:
    least = 1 if rule.outcome == "binary" and rule.design in ("independent", "one_sample", "paired") else 2
    if min(sizes) < least:
        raise CannotTestError("auto", f"{rule.test} needs at least {least} in every group, but the sizes are {sizes}")
    if rule.design in ("paired", "resampled") and len(set(sizes)) > 1:
        raise CannotTestError("auto", f"{rule.design} groups have one length, but the sizes are {sizes}")


def _notes(rule: Rule, sizes: tuple[int, ...]) -> tuple[str, ...]:
    smallest = min(sizes)
    if rule.test == "sign" and smallest < 6:
        return (f"{smallest} pairs: below 6 not even a unanimous sign test reaches 0.05, two-sided",)
    if rule.test == "mcnemar_midp" and smallest < 5:
        return (f"{smallest} pairs: below 5 not even a unanimous mid-p test reaches 0.05, two-sided",)
    if rule.test in _OF_MEANS and smallest < SHOWS_ITS_SHAPE:
        return (
            f"the smallest group has {smallest} values: the test then relies on normal data, which so few values can "
            "neither show nor rule out; with lognormal values it rejects in up to 20 % where 5 % are promised",
        )
    if rule.test == "brunner_munzel" and smallest < _HOLDS_WITH_SPREADS and smallest < max(sizes):
        return (
            f"the smallest group has {smallest} values: if it also varies more than the others, the test rejects in up "
            "to 28 % where 5 % are promised; groups of one size hold",
        )
    return ()


_OF_MEANS: Final = ("one_sample_ttest", "paired_ttest", "repeated_measures_anova", "ttest", "welch_anova")
SHOWS_ITS_SHAPE: Final = 20
"""From this many values on, skewness that makes the test err shows in the sample, and is noted."""

_HOLDS_WITH_SPREADS: Final = 9

"""A whole comparison as declared: its tests, its family and its verdicts, from groups of numbers.

The `bench` stage and `crucible compare` call this. Every choice follows from the declaration, from the sizes of the
groups and from the kind of their values, never from the values themselves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np
from scipy import special

from crucible_bench.compared import (
    BayesianResult,
    BestSet,
    ComparedGroup,
    FamilyResult,
    GroupQuantile,
    GroupSummary,
    InterquartileMean,
    MarginResult,
    Ranking,
)
from crucible_bench.comparison import Comparison
from crucible_bench.data.outcomes import (
    are_booleans,
    are_zero_or_one,
    as_numbers,
    open_counts,
    outcome_table,
    refuse_tuples_of_counts,
)
from crucible_bench.data.sample import Values
from crucible_bench.data.summary import summarize
from crucible_bench.decisions.differences import Differences, PairDesign
from crucible_bench.decisions.equivalence import judge_margin
from crucible_bench.decisions.practical_equivalence import practical_equivalence
from crucible_bench.decisions.rankings import indistinguishable_from_best, rank_over_blocks
from crucible_bench.declaration import Declaration
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.choose_test import SHOWS_ITS_SHAPE, TestChoice, choose_test
from crucible_bench.hypothesis_tests.clusters import ClustersOfGroups, clustered_ttest
from crucible_bench.hypothesis_tests.contingency import chi_square_test, fisher_exact_test
from crucible_bench.hypothesis_tests.normality import shapiro_wilk, skewness_of_mean
from crucible_bench.hypothesis_tests.one_sample import OneSampleTest, one_sample_test
from crucible_bench.hypothesis_tests.proportions import proportion_interval, proportion_test
from crucible_bench.hypothesis_tests.quantiles import compare_quantiles, quantile_interval
from crucible_bench.hypothesis_tests.resampled_ttest import corrected_resampled_ttest
from crucible_bench.hypothesis_tests.run_test import DEFINITIONS, run_test
from crucible_bench.hypothesis_tests.stratified import compare_iqm, iqm_interval
from crucible_bench.levels import levels
from crucible_bench.multiple.corrections import adjust_p_values
from crucible_bench.multiple.dunn_nemenyi import dunn, nemenyi
from crucible_bench.multiple.families import pairwise_family
from crucible_bench.multiple.tukey_dunnett import dunnett, games_howell, tukey_hsd
from crucible_bench.result import Choice, Interval, TestResult, Untested
from crucible_bench.vocabulary import (
    EFFECT_SIZES,
    QUANTILE_TESTS,
    TEST_ALIASES,
    TESTS_OF_MANY_GROUPS,
    Alternative,
    Comparing,
    CorrectionName,
    Design,
    EffectSizeName,
    FamilyName,
    Outcome,
    StudyName,
    TestName,
    TestSpelling,
)
from crucible_bench.wording import counted

__all__ = ["FamilyChoice", "analyse", "choose_family", "compare"]

_OF_MEANS: Final = frozenset({"anova", "one_sample_ttest", "paired_ttest", "student_ttest", "ttest", "welch_anova"})
_MOST_NAMED: Final = 6
_ONLY_PAIRS: Final = frozenset({"clustered", "resampled", "stratified"})
_LARGE_ENOUGH: Final = 10
"""Games-Howell comparisons keep their level if the smallest group has at least this many values."""

MOST_KEPT: Final = 1_000
"""How many values a comparison keeps of each group, for charts."""


def compare(
    groups: Mapping[str, Values],
    *,
    design: Design = "independent",
    outcome: Outcome | None = None,
    tests: TestSpelling | Sequence[TestSpelling] = ("auto",),
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
    correction: CorrectionName = "holm",
    study: StudyName | None = None,
    compare: Comparing | None = None,
    family: FamilyName | None = None,
    baseline: str | None = None,
    margin: float | None = None,
    non_inferiority: bool = False,
    rope: float | None = None,
    higher_is_better: bool = True,
    leaderboard: bool = False,
    reference: float | None = None,
    quantile: float | None = None,
    folds: int | None = None,
    repeats: int | None = None,
    test_share: float | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: ClustersOfGroups | None = None,
    strata: ClustersOfGroups | None = None,
    measure: str | None = None,
) -> Comparison:
    """Compare groups of numbers as declared: tests, effect sizes with intervals, and verdicts, in one result.

    `groups` maps each group's name to its values, of shape (n,) and all in one unit; values may be booleans, or counts
    `{"successes": k, "n": n}`. The keywords declare what is compared and how, before the data are seen:

    | keyword | meaning | default |
    | --- | --- | --- |
    | design | how values of the groups belong together: independent, paired, resampled, clustered, stratified, \
one_sample | \
independent |
    | outcome | what the values are: continuous, ordinal, binary | binary for booleans, counts and numbers that are \
all 0 or 1, else continuous |
    | tests | one or more test names; auto chooses by design, outcome and sizes | auto |
    | alternative | two-sided; greater or less: whether the first group is higher or lower than the second | two-sided |
    | alpha | level of significance, for the whole family of tests | 0.05 |
    | confidence_level | of every interval | 1 - alpha |
    | effect_size | the effect size to report, by the tests that define it | that of each test |
    | correction | of the p-values if there are several tests or pairs | holm |
    | study | the shape of the study: ab_test, ablation, sweep, multiple_datasets | none |
    | compare | of more than two groups: all_pairs, or baseline (each group with the baseline) | as the study says; \
else all groups at once |
    | family | how the pairs are judged together | by design and outcome, see `choose_family` |
    | baseline | the group that the others are compared with | for an ab_test, the first group |
    | margin | the smallest difference that matters, in units of the data; gives a verdict for each pair | no verdicts |
    | non_inferiority | whether "not worse by the margin" is a verdict too | False |
    | rope | for paired and resampled: the largest difference that is practically none; gives Bayesian probabilities \
for each pair, beside its test | none |
    | higher_is_better | which direction is good, for verdicts, sweeps and rankings | True |
    | leaderboard | whether groups are also ranked by their means, as in a sweep | False |
    | reference | for one_sample: the number that the group is compared with | |
    | quantile | for independent and paired: compare this quantile of the groups, such as 0.95, not their means | none |
    | folds | for resampled: the number of folds of the cross-validation; declare this or test_share | |
    | repeats | for resampled: how often the cross-validation was repeated, each time with other folds | 1 |
    | test_share | for resampled: the size of a test set divided by that of its training set | 1 / (folds - 1) |
    | resamples | of the bootstrap and of permutation tests, at least 100 | 10,000 |
    | seed | for everything that is drawn at random; equal seeds give equal results | 0 |
    | clusters | for clustered: the cluster of each item, of shape (n,); or a mapping of each group's name to the \
clusters of its own values, such as the questions of its answers | |
    | strata | for stratified: the task of each score, of shape (n,); or a mapping of each group's name to its tasks | |
    | measure | what the numbers are, such as accuracy, for the sentence and for reports | |

    Raises CannotTestError, a ValueError, if the declaration contradicts itself or has an unknown word (the message
    lists every problem), or if the data do not fit it; and ValueError for a number out of range.
    """
    named = (tests,) if isinstance(tests, str) else tuple(tests)
    declaration = Declaration(
        design=design,
        outcome=outcome,
        tests=tuple(dict.fromkeys(cast("TestName", TEST_ALIASES.get(test, test)) for test in named)),
        alternative=alternative,
        alpha=alpha,
        confidence_level=confidence_level,
        effect_size=effect_size,
        correction=correction,
        study=study,
        compare=compare,
        family=family,
        baseline=baseline,
        margin=margin,
        non_inferiority=non_inferiority,
        rope=rope,
        higher_is_better=higher_is_better,
        leaderboard=leaderboard,
        reference=reference,
        quantile=quantile,
        folds=folds,
        repeats=repeats,
        test_share=test_share,
        resamples=resamples,
        seed=seed,
    )
    if (strata is not None) != (design == "stratified"):
        raise CannotTestError("bench", "strata: only for the design stratified, where they name the task of each score")
    return replace(analyse(groups, declaration, clusters=clusters if strata is None else strata), measure=measure)


def analyse(
    groups: Mapping[str, Values], declaration: Declaration, *, clusters: ClustersOfGroups | None = None
) -> Comparison:
    """`compare`, with the declaration as one value.

    `groups` maps names to values of shape (n,), or to `{"successes": k, "n": n}`. For the design `clustered`,
    `clusters` has the cluster of each item, or maps each group's name to the clusters of its own values; for
    `stratified` it has the tasks in the same form. Raises CannotTestError if the declaration contradicts itself or
    the data do not fit it, ValueError for a number out of range.
    """
    if not isinstance(groups, Mapping):
        raise CannotTestError("groups", f"they are a mapping of names to values, not a {type(groups).__name__}")
    problems = declaration.problems()
    if problems:
        raise CannotTestError(" and ".join(map(str, declaration.tests)), "; ".join(problems))
    return _Analyst(groups, declaration, clusters).comparison()


@dataclass(frozen=True, slots=True)
class FamilyChoice:
    """The family of comparisons for a design, the reason, and the source."""

    family: FamilyName
    reason: str
    source: str
    alternatives: tuple[FamilyName, ...]


def choose_family(outcome: Outcome, design: Design, compare: Comparing, *, smallest: int | None = None) -> FamilyChoice:
    """How more than two groups are compared two by two if nothing is declared.

    | outcome | design | compared | family |
    | --- | --- | --- | --- |
    | continuous | independent | all_pairs | games_howell, for groups of at least 10 values |
    | ordinal | independent | all_pairs or baseline | dunn |
    | anything else | | | pairwise, by the test that `choose_test` has for two groups |

    Neither needs equal variances. The rank families compare orders, as a declared `kruskal_wallis` does. `smallest` is
    the size of the smallest group. The data do not influence the choice. Never raises.
    """
    large = smallest is None or smallest >= _LARGE_ENOUGH
    if design == "independent" and outcome == "continuous" and compare == "all_pairs" and large:
        return FamilyChoice(
            "games_howell",
            "it holds its level for unequal variances and sizes, as the Welch tests do",
            "Games & Howell 1976; Sauder & DeMars 2019",
            ("tukey_hsd", "pairwise"),
        )
    if design == "independent" and outcome == "ordinal":
        return FamilyChoice("dunn", "it uses the ranks that the Kruskal-Wallis test uses", "Dunn 1964", ("pairwise",))
    others: tuple[FamilyName, ...] = ()
    if (design, outcome) == ("independent", "continuous"):
        others = ("dunnett",) if compare == "baseline" else ("games_howell", "tukey_hsd")
    return FamilyChoice(
        "pairwise",
        "the two-group test of the design on each pair, with a correction, assumes nothing that the test does not",
        "Holm 1979; Demsar 2006",
        others,
    )


# --- the analysis ---------------------------------------------------------------------------------------------------

Groups: TypeAlias = Mapping[str, Any]


class _Analyst:
    def __init__(self, groups: Groups, declared: Declaration, clusters: ClustersOfGroups | None) -> None:
        self.declared = declared
        self.clusters = clusters
        self.choices: list[tuple[str, Choice]] = []
        refuse_tuples_of_counts(groups)
        self.size_notes: list[str] = []
        _refuse_counts_without_pairs(groups, declared.design)
        self.given = {name: open_counts(name, values) for name, values in groups.items()}
        self.outcome = self._outcome()
        self.baseline = self._baseline()
        # Booleans are outcomes to the tests of proportions, and the numbers 0 and 1 to everything else.
        self.groups: dict[str, Any] = (
            {name: as_numbers(values) for name, values in self.given.items()}
            if self.outcome == "binary"
            else self.given
        )
        self.compare = declared.comparing
        self.untested: list[Untested] = []

    def comparison(self) -> Comparison:
        names = list(self.groups)
        summaries = {name: _summary(name, values) for name, values in self.groups.items()}
        if self.declared.design == "clustered" and self.clusters is None:
            raise CannotTestError("clustered_ttest", "it needs the cluster of each item")
        if self.declared.quantile is not None and self.outcome == "binary":
            raise CannotTestError("quantile", "right and wrong answers have no quantiles; compare their shares")
        if self.declared.design == "stratified" and self.clusters is None:
            raise CannotTestError("iqm", "it needs the stratum of each value")
        self._refuse_unequal_lengths(summaries)
        self._check_folds()
        many = len(names) > 2
        if many and self.declared.alternative != "two-sided" and self.compare is None:
            raise CannotTestError(
                " and ".join(self.declared.tests),
                f"the alternative is {self.declared.alternative!r}, but {len(names)} groups at once have no direction: "
                "declare `compare: baseline` or `compare: all_pairs`, or choose two with `groups`",
            )
        if many and self.declared.baseline is not None and self.compare is None:
            raise CannotTestError(
                "baseline",
                f"nothing is compared with {self.declared.baseline!r}: of {len(names)} groups, declare `compare: "
                "baseline`, or leave `baseline` out",
            )
        if not many and self.declared.family is not None:
            reason = f"{counted(len(names), 'group')} make no family of pairs, so there is nothing to correct for"
            self._decide("family", Choice("none", reason, (self.declared.family,)))
        ranking = self._ranking() if self.declared.study == "multiple_datasets" else None
        best = self._best() if self.declared.study == "sweep" else self._leaderboard()
        tests, pair_test = self._chosen_tests(names)
        results = self._all_at_once(tests)
        family: FamilyResult | None = None
        if ranking is not None:
            family = ranking.family
        elif many and self.compare is not None:
            family = self._family(pair_test)
        if not (results or family or best):
            raise CannotTestError(self.untested[0].test, self.untested[0].reason)
        adjusted = self._adjusted(results)
        self._say_if_effect_is_not_there(results, family)
        verdicts = tuple(self._verdicts(names))
        bayesian = tuple(self._bayesian(names))
        said = self.declared
        return Comparison(
            alpha=said.alpha,
            design=said.design,
            outcome=self.outcome,
            alternative=said.alternative,
            study=said.study,
            correction=said.correction if adjusted is not None or family is not None else None,
            baseline=self.baseline,
            higher_is_better=said.higher_is_better,
            groups={name: self._group(name, summary) for name, summary in summaries.items()},
            iqm={name: self._iqm(name) for name in names} if said.design == "stratified" else {},
            quantile=said.quantile,
            quantiles={} if said.quantile is None else {name: self._quantile(name, said.quantile) for name in names},
            tests=tuple(results),
            p_adjusted=adjusted,
            untested=tuple(self.untested),
            comparisons=family,
            verdicts=verdicts,
            bayesian=bayesian,
            best=best,
            ranking=ranking,
            checks=(*self._checks(), *dict.fromkeys(self.size_notes)),
            choices=tuple(self.choices),
        )

    def _refuse_unequal_lengths(self, summaries: Mapping[str, GroupSummary]) -> None:
        lengths = {name: summary.n for name, summary in summaries.items()}
        if self.declared.design in ("paired", "resampled") and len(set(lengths.values())) > 1:
            raise CannotTestError(
                "groups",
                f"{self.declared.design} groups have one length, but theirs are {lengths}; pair them, or leave out "
                "what has no partner with `missing: drop`",
            )

    def _check_folds(self) -> None:
        folds, repeats = self.declared.folds, self.declared.repeats or 1
        scores = max(map(_length, self.groups.values()), default=0)
        if folds is not None and scores > folds * repeats:  # there are fewer where some were dropped
            raise CannotTestError(
                "corrected_resampled_ttest",
                f"there are {scores} scores per group, but folds: {folds} and repeats: {repeats} make "
                f"{folds * repeats}; declare how many folds one cross-validation has, and how often it was repeated",
            )

    def _group(self, name: str, summary: GroupSummary) -> ComparedGroup:
        values = np.asarray(as_numbers(self.given[name]), dtype=np.float64)
        sampled = values.size > MOST_KEPT
        if sampled:
            places = np.linspace(0, values.size - 1, MOST_KEPT).round().astype(int)
            values = np.sort(values)[places]
        return ComparedGroup(
            n=summary.n,
            mean=summary.mean,
            sd=summary.sd,
            median=summary.median,
            mean_interval=self._mean_interval(summary),
            values=tuple(values.tolist()),
            sampled=sampled,
        )

    def _iqm(self, name: str) -> InterquartileMean:
        said, strata = self.declared, self.clusters
        found = iqm_interval(
            self.groups[name],
            cast("Sequence[object]", strata[name] if isinstance(strata, Mapping) else strata),
            confidence_level=levels(said.alpha, said.confidence_level)[1],
            resamples=said.resamples,
            seed=said.seed,
        )
        return InterquartileMean(found.value, found.interval)

    def _quantile(self, name: str, quantile: float) -> GroupQuantile:
        values = np.asarray(self.groups[name], dtype=np.float64)
        interval = None
        if self.declared.design == "independent":  # where values belong together, it says nothing about the differences
            level = levels(self.declared.alpha, self.declared.confidence_level)[1]
            interval = quantile_interval(values, quantile, confidence_level=level)
        return GroupQuantile(float(np.quantile(values, quantile)), interval)

    def _mean_interval(self, summary: GroupSummary) -> Interval | None:
        """The interval of one mean by t, or of a share by Clopper and Pearson. None for paired designs, where it says
        nothing about the differences.
        """
        if self.declared.design not in {"independent", "one_sample"} or summary.sd is None:
            return None
        level = levels(self.declared.alpha, self.declared.confidence_level)[1]
        if self.outcome == "binary":
            return proportion_interval(
                round(summary.mean * summary.n), summary.n, method="clopper_pearson", confidence_level=level
            )
        reach = float(special.stdtrit(summary.n - 1, 0.5 + level / 2.0)) * (summary.sd / math.sqrt(summary.n))
        ends = summary.mean - reach, summary.mean + reach
        return ends if all(map(math.isfinite, ends)) else None

    def _say_if_effect_is_not_there(self, results: Sequence[TestResult], family: FamilyResult | None) -> None:
        asked = self.declared.effect_size
        reported = [result.effect_size_name for result in results if result.effect_size_name]
        reported += [pair.effect_size_name for pair in family.comparisons if pair.effect_size_name] if family else []
        if asked is not None and reported and asked not in reported:
            own = " and ".join(dict.fromkeys(reported))
            reason = f"{asked} was asked for, but the tests that were run do not define it"
            self._decide("effect_size", Choice(own, reason))

    def _decide(self, about: str, *choices: Choice) -> None:
        self.choices += [(about, choice) for choice in choices]

    def _outcome(self) -> Outcome:
        if self.declared.outcome is not None:
            return self.declared.outcome
        if self.given and all(are_booleans(values) for values in self.given.values()):
            self._decide(
                "outcome", Choice("binary", "every value of every group is true or false", ("continuous", "ordinal"))
            )
            return "binary"
        if self.declared.quantile is not None:
            return "continuous"
        numbers = bool(self.given) and all(
            are_booleans(values) or are_zero_or_one(values) for values in self.given.values()
        )
        if numbers and not set(self.declared.tests) & _OF_MEASUREMENTS:
            self._decide(
                "outcome",
                Choice(
                    "binary",
                    "every value of every group is 0 or 1, so they are outcomes; `outcome: continuous` compares them "
                    "as measurements",
                    ("continuous", "ordinal"),
                ),
            )
            return "binary"
        return "continuous"

    def _baseline(self) -> str | None:
        named, names = self.declared.baseline, list(self.given)
        if named is not None and named not in names:
            raise CannotTestError(
                "baseline", f"there is no group {named!r} to be the baseline; groups: {', '.join(map(repr, names))}"
            )
        if named is None and self.declared.study == "ab_test" and names:
            self._decide(
                "baseline",
                Choice(names[0], "an A/B test compares the others with the first group if no baseline is named"),
            )
            return names[0]
        return named

    # --- tests of all groups at once ---

    def _chosen_tests(self, names: Sequence[str]) -> tuple[list[TestName], TestName | None]:
        """The tests of all groups at once, and the test of two groups for a family of pairs."""
        declared, many = self.declared, len(names) > 2
        at_once: list[TestName] = []
        of_pairs: list[TestName] = []
        for asked in dict.fromkeys(declared.tests):
            if asked == "auto":
                if declared.study == "multiple_datasets":
                    at_once.append("friedman")
                elif (chosen := self._chosen_for_all(names)) is not None:
                    at_once.append(chosen)
            elif many and asked not in TESTS_OF_MANY_GROUPS:
                of_pairs.append(asked)
            else:
                at_once.append(asked)
        if of_pairs and self.compare is None and declared.study not in ("multiple_datasets", "sweep"):
            raise CannotTestError(
                of_pairs[0],
                f"it compares two groups, but there are {len(names)} ({', '.join(names)}): declare `compare: "
                "all_pairs` or `compare: baseline`, choose two with `groups`, or take a test of many groups",
            )
        if len(of_pairs) > 1:
            raise CannotTestError(
                of_pairs[1],
                f"{' and '.join(of_pairs)} would each compare all pairs; declare one of them, so that there is one "
                "family of comparisons",
            )
        return list(dict.fromkeys(at_once)), of_pairs[0] if of_pairs else None

    def _chosen_for_all(self, names: Sequence[str]) -> TestName | None:
        sizes = [_length(self.groups[name]) for name in names]
        only_pairs = self.declared.quantile is not None or self.declared.design in _ONLY_PAIRS
        if len(names) > 2 and only_pairs:
            # No test takes that many groups of these designs at once: they are compared as a family of pairs.
            if self.compare is None and self.declared.study is None:
                self.compare = "all_pairs"
                what = "the quantiles of " if self.declared.quantile is not None else ""
                reason = f"no test takes {what}{len(names)} {self.declared.design} groups at once"
                self._decide("compare", Choice("all_pairs", reason, ("baseline",)))
            return None
        if self.declared.quantile is not None:
            return QUANTILE_TESTS[self.declared.design]
        chosen = choose_test(self.outcome, sizes, design=self.declared.design)
        self._decide("test", self._by_rule(chosen, len(names)))
        return chosen.test

    def _by_rule(self, chosen: TestChoice, count: int) -> Choice:
        self.size_notes += chosen.notes
        groups = (
            f"{self.declared.design.replace('_', ' ')} of"
            if count == 1
            else f"{count} {self.declared.design} groups of"
        )
        return Choice(
            chosen.test,
            f"by rule, for {groups} {self.outcome} values: {chosen.reason} ({chosen.source})",
            tuple(chosen.alternatives),
        )

    def _all_at_once(self, tests: Sequence[TestName]) -> list[TestResult]:
        results, groups = [], self._oriented()
        for test in tests:
            try:
                results.append(self._run(test, groups, self.declared.alpha, self.declared.confidence_level))
            except CannotTestError as refusal:
                self._note_untested(refusal, groups)
        return results

    def _note_untested(self, refusal: CannotTestError, groups: Groups) -> None:
        sizes = tuple(_length(values) for values in groups.values())
        self.untested.append(Untested(refusal.test, tuple(groups), sizes, refusal.reason))

    def _oriented(self) -> Groups:
        """Two groups with the baseline last, so that the difference is from it."""
        if self.baseline is None or len(self.groups) != 2:
            return self.groups
        return {name: self.groups[name] for name in sorted(self.groups, key=lambda name: name == self.baseline)}

    def _run(self, test: TestName, groups: Groups, alpha: float, level: float | None) -> TestResult:
        own = _SPECIAL.get(test)
        if own is not None:
            return own(self, test, groups, alpha, level)
        said = self.declared
        return run_test(
            test,
            groups,
            alpha=alpha,
            confidence_level=level,
            effect_size=self.own_effect_size(test),
            alternative=said.alternative if test not in TESTS_OF_MANY_GROUPS else "two-sided",
            resamples=said.resamples,
            seed=said.seed,
        )

    def own_effect_size(self, test: TestName) -> EffectSizeName | None:
        """The declared effect size if the test defines it."""
        asked = self.declared.effect_size
        return asked if asked in EFFECT_SIZES[test] else None

    def _adjusted(self, results: Sequence[TestResult]) -> tuple[float, ...] | None:
        refused = len(self.untested)
        if len(results) + refused < 2 or not results:
            return None
        correction = self.declared.correction
        self._decide(
            "correction",
            Choice(
                correction,
                f"{len(results) + refused} tests were declared for the same data, and one of them could be significant "
                "by chance alone",
                tuple(name for name in ("holm", "bonferroni", "fdr", "none") if name != correction),
            ),
        )
        p_values = [*(result.p_value for result in results), *(1.0 for _ in range(refused))]
        return adjust_p_values(p_values, correction)[: len(results)]

    # --- pairs ---

    def _family(self, pair_test: TestName | None) -> FamilyResult:
        said, compare = self.declared, self.compare
        assert compare is not None
        procedure = said.family
        if procedure is None:
            if pair_test is not None or said.quantile is not None:
                procedure = "pairwise"
            else:
                smallest = min(map(_length, self.groups.values()))
                chosen = choose_family(self._outcome_of_pairs, said.design, compare, smallest=smallest)
                if said.alternative != "two-sided":
                    procedure = "pairwise"
                else:
                    procedure = chosen.family
                    self._decide(
                        "family", Choice(procedure, f"{chosen.reason} ({chosen.source})", tuple(chosen.alternatives))
                    )
        control = self.baseline if compare == "baseline" else None
        if procedure == "pairwise":
            result = self._pairwise(pair_test or self._test_of_pairs(), control)
        else:
            result = _FAMILIES[procedure](self, control)
        return result

    @property
    def _outcome_of_pairs(self) -> Outcome:
        """A declared rank test of all groups asks about orders, so the pairs do too."""
        return "ordinal" if self.declared.tests == ("kruskal_wallis",) else self.outcome

    def _test_of_pairs(self) -> TestName:
        if self.declared.quantile is not None:
            return QUANTILE_TESTS[self.declared.design]
        sizes = sorted(_length(values) for values in self.groups.values())[:2]
        chosen = choose_test(self._outcome_of_pairs, sizes, design=self.declared.design)
        self._decide("test of each pair", self._by_rule(chosen, 2))
        return chosen.test

    def _pairwise(self, test: TestName, control: str | None) -> FamilyResult:
        said = self.declared
        return pairwise_family(
            lambda pair, alpha, level: self._run(test, pair, alpha, level),
            self.groups,
            control=control,
            correction=said.correction,
            alpha=said.alpha,
            confidence_level=said.confidence_level,
        )

    def _pairs(self, names: Sequence[str]) -> list[tuple[str, str]]:
        if self.baseline is not None and (len(names) == 2 or self.compare == "baseline"):
            return [(name, self.baseline) for name in names if name != self.baseline]
        if len(names) == 2:
            return [(names[0], names[1])]
        if self.compare == "all_pairs":
            return [(first, second) for i, first in enumerate(names) for second in names[i + 1 :]]
        return []

    def _verdicts(self, names: Sequence[str]) -> list[MarginResult]:
        said = self.declared
        if said.margin is None:
            return []
        if not (math.isfinite(said.margin) and said.margin > 0.0):
            raise CannotTestError(
                "margin", f"the margin must be a positive number in units of the data, not {said.margin!r}"
            )
        pairs = self._pairs(names)
        if not pairs:
            todo = "declare with `compare` which pairs are judged"
            if said.study is not None:
                todo = f"the study {said.study} has no pairs to judge; leave `margin` out, or choose two with `groups`"
            raise CannotTestError("margin", f"there are {len(names)} groups; {todo}")
        alpha = said.alpha if said.correction == "none" else said.alpha / len(pairs)
        if len(pairs) > 1 and said.correction != "none":
            self._decide(
                "margin",
                Choice(
                    f"alpha / {len(pairs)} for each verdict",
                    f"{counted(len(pairs), 'pair')} are judged, and Bonferroni's inequality holds for any of them",
                ),
            )
        results = []
        for pair in pairs:
            groups = {name: self.groups[name] for name in pair}
            try:
                result = judge_margin(
                    groups,
                    said.margin,
                    difference=self._differences(),
                    higher_is_better=said.higher_is_better,
                    non_inferiority=said.non_inferiority,
                    alpha=alpha,
                )
            except CannotTestError as refusal:
                self._note_untested(refusal, groups)
            else:
                results.append(result)
        return results

    def _bayesian(self, names: Sequence[str]) -> Iterator[BayesianResult]:
        said = self.declared
        if said.rope is None:
            return
        pairs = self._pairs(names)
        if said.study == "multiple_datasets":
            pairs = list(itertools.combinations(names, 2))
        if not pairs:
            raise CannotTestError(
                "rope", f"there are {len(names)} groups; declare with `compare` which pairs it is about"
            )
        for pair in pairs:
            groups = {name: self.groups[name] for name in pair}
            try:
                if self.outcome == "binary":
                    raise CannotTestError(
                        "rope", "right and wrong answers have no distances that a region of equivalence could measure"
                    )
                yield practical_equivalence(
                    groups,
                    said.rope,
                    test="correlated_ttest" if said.design == "resampled" else "signed_rank",
                    test_share=said.share_of_test_set,
                    higher_is_better=said.higher_is_better,
                    draws=said.resamples,
                    seed=said.seed,
                )
            except CannotTestError as refusal:
                self._note_untested(refusal, groups)

    def _differences(self) -> Differences:
        said = self.declared
        shares = self.outcome == "binary" and not set(said.tests) & _OF_MEASUREMENTS
        return Differences(
            cast("PairDesign", said.design),
            self.clusters,
            said.share_of_test_set,
            of_shares=shares,
            quantile=said.quantile,
            resamples=said.resamples,
            seed=said.seed,
        )

    # --- studies ---

    def _ranking(self) -> Ranking:
        procedure: Literal["nemenyi", "wilcoxon_holm"] = (
            "wilcoxon_holm" if self.declared.family == "pairwise" else "nemenyi"
        )
        return rank_over_blocks(
            self.groups,
            higher_is_better=self.declared.higher_is_better,
            procedure=procedure,
            alpha=self.declared.alpha,
        )

    def _best(self) -> BestSet:
        smallest = min(map(_length, self.groups.values()))
        if self.outcome != "binary" and smallest < SHOWS_ITS_SHAPE:
            self.size_notes.append(
                f"the interval of the best mean relies on normal data too, which {smallest} values can neither show "
                "nor rule out; of ten groups of lognormal values it errs in up to 50 % where 5 % are promised"
            )
        return indistinguishable_from_best(
            self.groups,
            higher_is_better=self.declared.higher_is_better,
            difference=self._differences(),
            alpha=self.declared.alpha,
            confidence_level=self.declared.confidence_level,
        )

    def _leaderboard(self) -> BestSet | None:
        """The groups in the order of their means, if that was asked for and some of them can be told apart."""
        if not self.declared.leaderboard or len(self.groups) < 2 or self.declared.study == "multiple_datasets":
            return None
        try:
            return self._best()
        except CannotTestError as refusal:
            self._decide("leaderboard", Choice("none", refusal.reason))
            return None

    # --- assumptions ---

    def _checks(self) -> list[str]:
        """Sentences about normality and spread; none about what cannot be checked."""
        if self.outcome != "continuous" or self.declared.design == "stratified" or self.declared.quantile is not None:
            return []
        said = []
        if self.declared.design in {"independent", "one_sample"}:
            shaped = [(f"group {name}", values) for name, values in self.groups.items()]
        else:
            # Values that belong together by their cluster only have no differences one by one.
            pairs = [] if isinstance(self.clusters, Mapping) else self._pairs(list(self.groups))
            shaped = [
                (f"differences {first} - {second}", _difference(self.groups[first], self.groups[second]))
                for first, second in pairs
                if _length(self.groups[first]) == _length(self.groups[second])
            ]
        for what, values in shaped:
            try:
                normality = shapiro_wilk(values)
            except CannotTestError:
                continue
            shape = f"skewness {normality.skewness:.2f}, n = {normality.n}"
            if self.declared.design in ("clustered", "resampled"):
                said.append(f"{what}: {shape}; no test of normality, which would assume independent values")
                continue
            said.append(f"{what}: Shapiro-Wilk W = {normality.statistic:.3f}, {_p(normality.p_value)}, {shape}")
        said += self._skewed()
        if self.declared.design == "independent" and len(self.groups) > 1:
            try:
                spread = run_test("brown_forsythe", self.groups)
            except CannotTestError:
                return said
            said.append(f"spread: Brown-Forsythe F = {spread.statistic:.3f}, {_p(spread.p_value)}")
        return said

    def _skewed(self) -> Iterator[str]:
        """Differences too skewed for a test of their mean, by Cochran's (1977) rule n > 25 skewness**2."""
        said = self.declared
        of_means = said.margin is not None or bool({"auto", *_OF_MEANS} & set(said.tests))
        if not of_means or said.design not in ("independent", "one_sample", "paired"):
            return
        names = list(self.groups)
        if said.design == "one_sample":
            samples = [(names[0], [self.groups[names[0]]])]
        elif said.design == "paired":
            pairs = self._pairs(names)
            samples = [(f"{a} - {b}", [_difference(self.groups[a], self.groups[b])]) for a, b in pairs]
        else:
            samples = [(f"{a} - {b}", [self.groups[a], self.groups[b]]) for a, b in self._pairs(names)]
        for what, groups in samples:
            if (skewness := skewness_of_mean(groups)) is not None:
                yield (
                    f"{what}: the values are so skewed and so few that their mean has a skewness of {skewness:.2f}; "
                    "t-tests and their intervals need less than 0.2 (Cochran 1977): for ten lognormal differences they "
                    "reject in 16 % where 5 % are promised. More values help. Sign tests (pairs) and brunner_munzel "
                    "(groups) keep their level, but compare the order of values; a log scale compares ratios"
                )
        if said.design == "independent" or said.study == "sweep":
            skewed = [name for name, values in self.groups.items() if skewness_of_mean([values]) is not None]
            more = len(skewed) - _MOST_NAMED
            if skewed:
                yield (
                    f"{', '.join(skewed[:_MOST_NAMED])}{f' and {more} more' if more > 0 else ''}: so skewed that the "
                    "interval of the mean of such a group alone, and tests with groups that are not skewed alike, err "
                    "in up to 16 % where 5 % are promised"
                    f"{'; that of the best mean of ten in up to 40 %' if said.study == 'sweep' else ''}"
                )


Special: TypeAlias = Callable[["_Analyst", TestName, Groups, float, float | None], TestResult]


def _clustered(self: _Analyst, _: TestName, groups: Groups, alpha: float, level: float | None) -> TestResult:
    assert self.clusters is not None
    return clustered_ttest(
        groups,
        self.clusters,
        alpha=alpha,
        confidence_level=level,
        effect_size=self.own_effect_size("clustered_ttest"),
        alternative=self.declared.alternative,
    )


def _resampled(self: _Analyst, _: TestName, groups: Groups, alpha: float, level: float | None) -> TestResult:
    said = self.declared
    return corrected_resampled_ttest(
        groups,
        test_share=said.share_of_test_set,
        alpha=alpha,
        confidence_level=level,
        effect_size=self.own_effect_size("corrected_resampled_ttest"),
        alternative=said.alternative,
    )


def _iqm(self: _Analyst, _: TestName, groups: Groups, alpha: float, level: float | None) -> TestResult:
    said = self.declared
    assert self.clusters is not None
    return compare_iqm(
        groups,
        self.clusters,
        alpha=alpha,
        confidence_level=level,
        alternative=said.alternative,
        resamples=said.resamples,
        seed=said.seed,
    )


def _quantiles(self: _Analyst, _: TestName, groups: Groups, alpha: float, level: float | None) -> TestResult:
    said = self.declared
    assert said.quantile is not None
    return compare_quantiles(
        groups,
        said.quantile,
        paired=said.design == "paired",
        alpha=alpha,
        confidence_level=level,
        alternative=said.alternative,
        resamples=said.resamples,
        seed=said.seed,
    )


def _one_sample(self: _Analyst, test: TestName, groups: Groups, alpha: float, level: float | None) -> TestResult:
    ((name, values),) = _only(test, groups).items()
    assert self.declared.reference is not None
    result = one_sample_test(
        values,
        self.declared.reference,
        test=cast("OneSampleTest", test.removeprefix("one_sample_")),
        alpha=alpha,
        confidence_level=level,
        alternative=self.declared.alternative,
    )
    return replace(result, groups=(name,))


def _proportion(self: _Analyst, test: TestName, groups: Groups, alpha: float, level: float | None) -> TestResult:
    ((name, (successes, failures)),) = outcome_table(test, _only(test, groups)).items()
    assert self.declared.reference is not None
    result = proportion_test(
        successes,
        successes + failures,
        reference=self.declared.reference,
        interval="clopper_pearson",  # Wilson's covers 84 % with few values near 0 and 1
        alpha=alpha,
        confidence_level=level,
        alternative=self.declared.alternative,
    )
    return replace(result, groups=(name,))


def _chi_square(self: _Analyst, test: TestName, groups: Groups, alpha: float, level: float | None) -> TestResult:
    said = self.declared
    return chi_square_test(
        outcome_table(test, groups), alpha=alpha, confidence_level=level, resamples=said.resamples, seed=said.seed
    )


def _fisher(self: _Analyst, test: TestName, groups: Groups, alpha: float, level: float | None) -> TestResult:
    return fisher_exact_test(
        outcome_table(test, groups), alpha=alpha, confidence_level=level, alternative=self.declared.alternative
    )


_SPECIAL: Final[Mapping[TestName, Special]] = MappingProxyType(
    {
        "chi_square": _chi_square,
        "clustered_ttest": _clustered,
        "corrected_resampled_ttest": _resampled,
        "fisher_exact": _fisher,
        "iqm": _iqm,
        "one_sample_sign": _one_sample,
        "one_sample_ttest": _one_sample,
        "one_sample_wilcoxon": _one_sample,
        "paired_quantile": _quantiles,
        "proportion": _proportion,
        "quantile": _quantiles,
    }
)
"""The tests that need more from the declaration than `run_test` takes."""

_OF_MEASUREMENTS: Final[frozenset[str]] = frozenset(
    {
        *("anova", "bootstrap", "paired_permutation", "paired_ttest", "permutation", "repeated_measures_anova"),
        *("student_ttest", "ttest", "welch_anova", "one_sample_ttest", "iqm"),
    }
)
"""The tests of means: naming one says that the numbers 0 and 1 are compared as measurements."""

RUNNABLE: Final = frozenset(DEFINITIONS) | frozenset(_SPECIAL)
"""Every test that a declaration may name."""

_FAMILIES: Final[Mapping[FamilyName, Callable[[_Analyst, str | None], FamilyResult]]] = MappingProxyType(
    {
        "dunn": lambda self, control: dunn(
            self.groups,
            control=control,
            correction=self.declared.correction,
            alpha=self.declared.alpha,
            confidence_level=self.declared.confidence_level,
            effect_size=self.declared.effect_size,
        ),
        "dunnett": lambda self, control: dunnett(
            self.groups,
            str(control),
            alpha=self.declared.alpha,
            confidence_level=self.declared.confidence_level,
            effect_size=self.declared.effect_size,
        ),
        "games_howell": lambda self, _: games_howell(
            self.groups,
            alpha=self.declared.alpha,
            confidence_level=self.declared.confidence_level,
            effect_size=self.declared.effect_size,
        ),
        "nemenyi": lambda self, control: nemenyi(
            self.groups,
            control=control,
            alpha=self.declared.alpha,
            confidence_level=self.declared.confidence_level,
            effect_size=self.declared.effect_size,
        ),
        "tukey_hsd": lambda self, _: tukey_hsd(
            self.groups,
            alpha=self.declared.alpha,
            confidence_level=self.declared.confidence_level,
            effect_size=self.declared.effect_size,
        ),
    }
)
"""Every family but `pairwise`, which runs the test of two groups."""


def _refuse_counts_without_pairs(groups: Groups, design: Design) -> None:
    for name, values in groups.items():
        if isinstance(values, Mapping) and design not in ("independent", "one_sample"):
            raise CannotTestError(
                "groups",
                f"group {name!r} has counts, which do not say which outcomes belong together, and the design is "
                f"{design}; pass true or false for each item, or declare the design independent",
            )


# --- values -----------------------------------------------------------------------------------------------------------


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _length(values: Any) -> int:
    try:
        return len(values)
    except TypeError:
        return 0  # the test says what is wrong with it


def _summary(name: str, values: Any) -> GroupSummary:
    try:
        return summarize(values)
    except CannotTestError as refusal:
        raise CannotTestError("bench", refusal.reason.replace("group 'values'", f"group {name!r}")) from None


def _difference(first: Any, second: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)


def _only(test: str, groups: Groups) -> Groups:
    if len(groups) != 1:
        raise CannotTestError(
            test, f"it compares one group with a reference, but there are {len(groups)}: {', '.join(groups)}"
        )
    return groups

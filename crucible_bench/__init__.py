"""Statistical comparisons as pure functions: groups of numbers in, one typed, frozen result out.

`compare` makes a whole comparison of groups; the other functions make its parts. Nothing here knows of pipelines. Every
result carries an effect size with an interval, the group sizes, what was assumed, and each choice that was made on the
way.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crucible_bench.analysis import FamilyChoice, analyse, choose_family, compare
    from crucible_bench.compared import (
        AnswersUsed,
        ArmStrength,
        BayesianResult,
        BestMean,
        BestSet,
        ComparedGroup,
        Contender,
        FamilyResult,
        GroupSummary,
        InterquartileMean,
        MarginResult,
        PairResult,
        PlannedPower,
        PositionBias,
        Preferences,
        PreferredPair,
        Ranking,
        RankingProcedure,
        Verdict,
    )
    from crucible_bench.comparison import Comparison, UnreadableComparisonError
    from crucible_bench.data.missing import CompleteGroups, MissingValue, drop_missing, find_missing
    from crucible_bench.data.summary import summarize
    from crucible_bench.decisions.best_mean import mean_of_best
    from crucible_bench.decisions.equivalence import judge_margin, judge_new_value
    from crucible_bench.decisions.practical_equivalence import BayesianTest, practical_equivalence
    from crucible_bench.decisions.rankings import indistinguishable_from_best, rank_over_blocks
    from crucible_bench.declaration import Declaration
    from crucible_bench.effect_sizes.interpretation import Interpretation, interpret
    from crucible_bench.errors import CannotTestError
    from crucible_bench.evaluations.answers import AnswersAtK, majority_at_k, pair_by_item, pass_at_k
    from crucible_bench.evaluations.preferences import compare_preferences
    from crucible_bench.hypothesis_tests.bootstrap_interval import BootstrapInterval, bootstrap_interval
    from crucible_bench.hypothesis_tests.choose_test import TestChoice, choose_test
    from crucible_bench.hypothesis_tests.clusters import ClusteredMean, clustered_mean, clustered_ttest
    from crucible_bench.hypothesis_tests.contingency import chi_square_test, fisher_exact_test
    from crucible_bench.hypothesis_tests.normality import Normality, shapiro_wilk
    from crucible_bench.hypothesis_tests.one_sample import OneSampleTest, one_sample_test
    from crucible_bench.hypothesis_tests.proportions import (
        compare_paired_proportions,
        compare_proportions,
        proportion_interval,
        proportion_test,
    )
    from crucible_bench.hypothesis_tests.quantiles import compare_quantiles, quantile_interval
    from crucible_bench.hypothesis_tests.resampled_ttest import corrected_resampled_ttest
    from crucible_bench.hypothesis_tests.run_test import run_test
    from crucible_bench.hypothesis_tests.stratified import compare_iqm, iqm_interval, probability_of_improvement
    from crucible_bench.multiple.corrections import adjust_p_values
    from crucible_bench.multiple.dunn_nemenyi import dunn, nemenyi
    from crucible_bench.multiple.families import pairwise_tests
    from crucible_bench.multiple.tukey_dunnett import dunnett, games_howell, tukey_hsd
    from crucible_bench.named_effect_size import EffectSize, effect_size
    from crucible_bench.power.planned_power import foresee
    from crucible_bench.power.power import (
        Draw,
        PlannedTest,
        PowerAnalysis,
        minimum_detectable_effect,
        power_of,
        sample_size,
    )
    from crucible_bench.result import Choice, TestResult, Untested
    from crucible_bench.sequential.baseline_watch import BaselineWatch, WatchVerdict, watch_baseline
    from crucible_bench.sequential.confidence_sequences import (
        ConfidenceSequence,
        SequenceName,
        betting_sequence,
        t_mixture_sequence,
    )
    from crucible_bench.vocabulary import (
        OTHER_TESTS,
        TEST_ALIASES,
        TEST_NAMES,
        Alternative,
        CorrectionName,
        Design,
        EffectSizeName,
        FamilyName,
        Outcome,
        TestName,
        canonical_test_name,
    )

__all__ = [
    "OTHER_TESTS",
    "TEST_ALIASES",
    "TEST_NAMES",
    "Alternative",
    "AnswersAtK",
    "AnswersUsed",
    "ArmStrength",
    "BaselineWatch",
    "BayesianResult",
    "BayesianTest",
    "BestMean",
    "BestSet",
    "BootstrapInterval",
    "CannotTestError",
    "Choice",
    "ClusteredMean",
    "ComparedGroup",
    "Comparison",
    "CompleteGroups",
    "ConfidenceSequence",
    "Contender",
    "CorrectionName",
    "Declaration",
    "Design",
    "Draw",
    "EffectSize",
    "EffectSizeName",
    "FamilyChoice",
    "FamilyName",
    "FamilyResult",
    "GroupSummary",
    "Interpretation",
    "InterquartileMean",
    "MarginResult",
    "MissingValue",
    "Normality",
    "OneSampleTest",
    "Outcome",
    "PairResult",
    "PlannedPower",
    "PlannedTest",
    "PositionBias",
    "PowerAnalysis",
    "Preferences",
    "PreferredPair",
    "Ranking",
    "RankingProcedure",
    "SequenceName",
    "TestChoice",
    "TestName",
    "TestResult",
    "UnreadableComparisonError",
    "Untested",
    "Verdict",
    "WatchVerdict",
    "adjust_p_values",
    "analyse",
    "betting_sequence",
    "bootstrap_interval",
    "canonical_test_name",
    "chi_square_test",
    "choose_family",
    "choose_test",
    "clustered_mean",
    "clustered_ttest",
    "compare",
    "compare_iqm",
    "compare_paired_proportions",
    "compare_preferences",
    "compare_proportions",
    "compare_quantiles",
    "corrected_resampled_ttest",
    "drop_missing",
    "dunn",
    "dunnett",
    "effect_size",
    "find_missing",
    "fisher_exact_test",
    "foresee",
    "games_howell",
    "indistinguishable_from_best",
    "interpret",
    "iqm_interval",
    "judge_margin",
    "judge_new_value",
    "majority_at_k",
    "mean_of_best",
    "minimum_detectable_effect",
    "nemenyi",
    "one_sample_test",
    "pair_by_item",
    "pairwise_tests",
    "pass_at_k",
    "power_of",
    "practical_equivalence",
    "probability_of_improvement",
    "proportion_interval",
    "proportion_test",
    "quantile_interval",
    "rank_over_blocks",
    "run_test",
    "sample_size",
    "shapiro_wilk",
    "summarize",
    "t_mixture_sequence",
    "tukey_hsd",
    "watch_baseline",
]

# Where each name is defined, relative to this package: a module is imported when one of its names is first used.
_HOMES = {
    "Alternative": "vocabulary",
    "AnswersAtK": "evaluations.answers",
    "AnswersUsed": "compared",
    "ArmStrength": "compared",
    "BaselineWatch": "sequential.baseline_watch",
    "BayesianResult": "compared",
    "BayesianTest": "decisions.practical_equivalence",
    "BestMean": "compared",
    "BestSet": "compared",
    "BootstrapInterval": "hypothesis_tests.bootstrap_interval",
    "CannotTestError": "errors",
    "Choice": "result",
    "ClusteredMean": "hypothesis_tests.clusters",
    "ComparedGroup": "compared",
    "Comparison": "comparison",
    "CompleteGroups": "data.missing",
    "ConfidenceSequence": "sequential.confidence_sequences",
    "Contender": "compared",
    "CorrectionName": "vocabulary",
    "Declaration": "declaration",
    "Design": "vocabulary",
    "Draw": "power.power",
    "EffectSize": "named_effect_size",
    "EffectSizeName": "vocabulary",
    "FamilyChoice": "analysis",
    "FamilyName": "vocabulary",
    "FamilyResult": "compared",
    "GroupSummary": "compared",
    "InterquartileMean": "compared",
    "Interpretation": "effect_sizes.interpretation",
    "MarginResult": "compared",
    "MissingValue": "data.missing",
    "Normality": "hypothesis_tests.normality",
    "OTHER_TESTS": "vocabulary",
    "OneSampleTest": "hypothesis_tests.one_sample",
    "Outcome": "vocabulary",
    "PairResult": "compared",
    "PowerAnalysis": "power.power",
    "PlannedPower": "compared",
    "PlannedTest": "power.power",
    "PositionBias": "compared",
    "PreferredPair": "compared",
    "Preferences": "compared",
    "Ranking": "compared",
    "RankingProcedure": "compared",
    "SequenceName": "sequential.confidence_sequences",
    "TEST_ALIASES": "vocabulary",
    "TEST_NAMES": "vocabulary",
    "TestChoice": "hypothesis_tests.choose_test",
    "TestName": "vocabulary",
    "TestResult": "result",
    "Untested": "result",
    "UnreadableComparisonError": "comparison",
    "Verdict": "compared",
    "WatchVerdict": "sequential.baseline_watch",
    "adjust_p_values": "multiple.corrections",
    "analyse": "analysis",
    "betting_sequence": "sequential.confidence_sequences",
    "bootstrap_interval": "hypothesis_tests.bootstrap_interval",
    "canonical_test_name": "vocabulary",
    "chi_square_test": "hypothesis_tests.contingency",
    "choose_family": "analysis",
    "choose_test": "hypothesis_tests.choose_test",
    "clustered_mean": "hypothesis_tests.clusters",
    "clustered_ttest": "hypothesis_tests.clusters",
    "compare": "analysis",
    "compare_iqm": "hypothesis_tests.stratified",
    "compare_paired_proportions": "hypothesis_tests.proportions",
    "compare_preferences": "evaluations.preferences",
    "compare_proportions": "hypothesis_tests.proportions",
    "compare_quantiles": "hypothesis_tests.quantiles",
    "corrected_resampled_ttest": "hypothesis_tests.resampled_ttest",
    "drop_missing": "data.missing",
    "dunn": "multiple.dunn_nemenyi",
    "dunnett": "multiple.tukey_dunnett",
    "effect_size": "named_effect_size",
    "find_missing": "data.missing",
    "fisher_exact_test": "hypothesis_tests.contingency",
    "foresee": "power.planned_power",
    "games_howell": "multiple.tukey_dunnett",
    "indistinguishable_from_best": "decisions.rankings",
    "interpret": "effect_sizes.interpretation",
    "iqm_interval": "hypothesis_tests.stratified",
    "judge_margin": "decisions.equivalence",
    "judge_new_value": "decisions.equivalence",
    "mean_of_best": "decisions.best_mean",
    "majority_at_k": "evaluations.answers",
    "minimum_detectable_effect": "power.power",
    "nemenyi": "multiple.dunn_nemenyi",
    "one_sample_test": "hypothesis_tests.one_sample",
    "pair_by_item": "evaluations.answers",
    "pairwise_tests": "multiple.families",
    "pass_at_k": "evaluations.answers",
    "power_of": "power.power",
    "practical_equivalence": "decisions.practical_equivalence",
    "probability_of_improvement": "hypothesis_tests.stratified",
    "quantile_interval": "hypothesis_tests.quantiles",
    "proportion_interval": "hypothesis_tests.proportions",
    "proportion_test": "hypothesis_tests.proportions",
    "rank_over_blocks": "decisions.rankings",
    "run_test": "hypothesis_tests.run_test",
    "sample_size": "power.power",
    "shapiro_wilk": "hypothesis_tests.normality",
    "summarize": "data.summary",
    "t_mixture_sequence": "sequential.confidence_sequences",
    "tukey_hsd": "multiple.tukey_dunnett",
    "watch_baseline": "sequential.baseline_watch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name not in {"numpy", "scipy"}:
            raise
        what = f"{__name__}.{name} needs {error.name}: pip install 'crucible-dagster[stats]'"
        raise ModuleNotFoundError(what, name=error.name) from error
    found = globals()[name] = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

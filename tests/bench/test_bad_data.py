"""Every function over one table of bad data: a finite number, or a refusal that says why; never in between."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
import pytest

from crucible_bench import (
    TEST_NAMES,
    CannotTestError,
    betting_sequence,
    chi_square_test,
    clustered_mean,
    clustered_ttest,
    compare_iqm,
    compare_paired_proportions,
    compare_proportions,
    compare_quantiles,
    corrected_resampled_ttest,
    drop_missing,
    dunn,
    dunnett,
    effect_size,
    find_missing,
    fisher_exact_test,
    games_howell,
    indistinguishable_from_best,
    iqm_interval,
    judge_margin,
    mean_of_best,
    minimum_detectable_effect,
    nemenyi,
    one_sample_test,
    pairwise_tests,
    power_of,
    practical_equivalence,
    probability_of_improvement,
    proportion_interval,
    proportion_test,
    quantile_interval,
    rank_over_blocks,
    run_test,
    sample_size,
    shapiro_wilk,
    summarize,
    t_mixture_sequence,
    tukey_hsd,
)
from crucible_bench.compared import GroupQuantile, MarginResult
from crucible_bench.hypothesis_tests.bootstrap_interval import bootstrap_interval
from crucible_bench.hypothesis_tests.run_test import DEFINITIONS
from crucible_bench.named_effect_size import EFFECT_SIZE_HOMES
from crucible_bench.power.power import PlannedTest
from crucible_bench.vocabulary import EFFECT_SIZES, TESTS_OF_MANY_GROUPS

Groups = dict[str, Any]
GOOD = [1.0, 2.5, 3.0, 7.0, 4.0]
OTHER = [2.0, 1.5, 6.0, 5.0, 8.0]

BAD: dict[str, Groups] = {
    "NaN": {"a": [1.0, math.nan, 3.0, 4.0, 5.0], "b": GOOD, "c": OTHER},
    "None": {"a": [1.0, None, 3.0, 4.0, 5.0], "b": GOOD, "c": OTHER},
    "infinity": {"a": [1.0, math.inf, 3.0, 4.0, 5.0], "b": GOOD, "c": OTHER},
    "minus infinity": {"a": np.array([1.0, -np.inf, 3.0, 4.0, 5.0]), "b": GOOD, "c": OTHER},
    "booleans": {"a": [True, False, True, True, False], "b": [True, False, False, False, True], "c": [True] * 5},
    "a boolean among numbers": {"a": [1.0, True, 3.0, 4.0, 5.0], "b": GOOD, "c": OTHER},
    "strings": {"a": ["1", "2", "3", "4", "5"], "b": GOOD, "c": OTHER},
    "one string": {"a": "12345", "b": GOOD, "c": OTHER},
    "complex": {"a": [1 + 2j, 1.0, 2.0, 3.0, 4.0], "b": GOOD, "c": OTHER},
    "nested": {"a": [[1.0, 2.0]] * 5, "b": GOOD, "c": OTHER},
    "matrix": {"a": np.ones((5, 2)), "b": GOOD, "c": OTHER},
    "generator": {"a": (x for x in GOOD), "b": GOOD, "c": OTHER},
    "set": {"a": set(GOOD), "b": GOOD, "c": OTHER},
    "a long integer": {"a": [10**400, 1, 2, 3, 4], "b": GOOD, "c": OTHER},
    "all empty": {"a": [], "b": [], "c": []},
    "one empty": {"a": [], "b": GOOD, "c": OTHER},
    "n of 1": {"a": [1.0], "b": [2.0], "c": [4.0]},
    "n of 1 and 5": {"a": [1.0], "b": GOOD, "c": OTHER},
    "n of 2": {"a": [1.0, 2.0], "b": [4.0, 3.5], "c": [9.0, 7.0]},
    "n of 3": {"a": [1.0, 2.0, 5.0], "b": [4.0, 3.5, 6.0], "c": [9.0, 7.0, 8.0]},
    "all constant, one value": {"a": [5.0] * 5, "b": [5.0] * 5, "c": [5.0] * 5},
    "all constant, different": {"a": [5.0] * 5, "b": [6.0] * 5, "c": [7.0] * 5},
    "one constant": {"a": [5.0] * 5, "b": GOOD, "c": OTHER},
    "one value differs": {"a": [5.0, 5.0, 5.0, 5.0, 6.0], "b": [5.0] * 5, "c": [5.0] * 5},
    "constant up to rounding": {"a": [0.1 + 0.2, 0.3, 0.3, 0.3, 0.3], "b": [0.3] * 5, "c": [0.1 * 3] * 5},
    "shifted copies": {"a": GOOD, "b": [x + 0.1 for x in GOOD], "c": [x + 0.3 for x in GOOD]},
    "equal groups": {"a": GOOD, "b": GOOD, "c": GOOD},
    "separated": {"a": [1.0, 2.0, 3.0, 4.0, 5.0], "b": [11.0, 12.5, 13.0, 14.0, 15.0], "c": [21.0, 22, 23, 24, 26]},
    "unequal lengths": {"a": GOOD, "b": [1.0, 4.0, 3.0], "c": [*OTHER, 9.0, 11.0]},
    "zeros and ones": {"a": [0.0, 1.0, 1.0, 1.0, 0.0], "b": [1.0, 0.0, 0.0, 0.0, 0.0], "c": [0.0, 0, 1, 0, 1]},
    "all successes": {"a": [1.0] * 5, "b": [1.0] * 5, "c": [1.0] * 5},
    "successes against failures": {"a": [1.0] * 5, "b": [0.0] * 5, "c": [1.0, 0, 1, 0, 1]},
    "signed zeros": {"a": [0.0, -0.0, 0.0, -0.0, 0.0], "b": [-0.0] * 5, "c": [0.0] * 5},
    "huge": {"a": [x * 1e300 for x in GOOD], "b": [x * 1e300 for x in OTHER], "c": [x * 2e300 for x in GOOD]},
    "next to the largest double": {
        "a": [1.7e308, -1.7e308, 1.0, 0.0, 1e308],
        "b": [-1.7e308, 1.6e308, 1.7e308, -1e308, 5.0],
        "c": [1.7e308] * 4 + [1.6e308],
    },
    "subnormal": {"a": [5e-324, 0.0, 1e-323, 2e-323, 0.0], "b": [0.0, 5e-324, 0.0, 0.0, 1e-322], "c": [1e-320] * 5},
    "tiny": {"a": [x * 1e-300 for x in GOOD], "b": [x * 1e-300 for x in OTHER], "c": [x * 2e-300 for x in GOOD]},
    "huge and tiny": {"a": [x * 1e300 for x in GOOD], "b": [x * 1e-300 for x in OTHER], "c": GOOD},
    "one outlier": {"a": [1e300, 1.0, 2.0, 3.0, 4.0], "b": GOOD, "c": OTHER},
    "large offset": {"a": [1e15 + x for x in (1, 2, 3, 7, 4)], "b": [1e15 + x for x in (2, 1, 6, 5, 8)], "c": GOOD},
    "a unit in the last place": {"a": [1.0, 1.0 + 2**-52, 1.0, 1.0, 1.0], "b": [1.0] * 5, "c": [1.0 + 2**-51] * 5},
}

CLUSTERS = ["x", "x", "y", "y", "z"]
TASKS = ["t"] * 5
UNBOUNDED = (-1.79e308 / 2, 1.79e308 / 2)


def of_two(run: Callable[[Groups], Any]) -> Callable[[Groups], Any]:
    return lambda groups: run({name: groups[name] for name in "ab"})


def every_function() -> dict[str, Callable[[Groups], Any]]:
    runs: dict[str, Callable[[Groups], Any]] = {}
    for test in DEFINITIONS:
        for name in EFFECT_SIZES[test]:

            def run(groups: Groups, test: str = test, name: Any = name) -> Any:
                return run_test(test, groups, effect_size=name, resamples=400)

            runs[f"{test}, {name}"] = run if test in TESTS_OF_MANY_GROUPS else of_two(run)
    for test in set(DEFINITIONS) - TESTS_OF_MANY_GROUPS:

        def one_sided(groups: Groups, test: str = test) -> Any:
            return run_test(test, groups, alternative="greater", resamples=400)

        runs[f"{test}, one-sided"] = of_two(one_sided)
    for name in EFFECT_SIZE_HOMES:

        def effect(groups: Groups, name: Any = name) -> Any:
            return effect_size(name, groups)

        runs[f"effect_size {name}"] = of_two(effect)
    for test in ("sign", "ttest", "wilcoxon"):

        def one_sample(groups: Groups, test: Any = test) -> Any:
            return one_sample_test(groups["a"], 0.5, test=test)

        runs[f"one_sample_test {test}"] = one_sample
    return runs | {
        "best": indistinguishable_from_best,
        "best, paired": lambda groups: indistinguishable_from_best(groups, paired=True),
        "betting_sequence": lambda groups: betting_sequence(groups["a"], (0.0, 10.0), breaks=20),
        "bootstrap_interval": lambda groups: bootstrap_interval(np.mean, groups["a"], resamples=100),
        "bootstrap_interval, median": lambda groups: bootstrap_interval(np.median, groups["a"], resamples=100),
        "chi_square_test": lambda groups: chi_square_test(groups, resamples=400),
        "clustered_mean": lambda groups: clustered_mean(groups["a"], CLUSTERS),
        "clustered_ttest": of_two(lambda groups: clustered_ttest(groups, CLUSTERS)),
        "compare_iqm": of_two(lambda groups: compare_iqm(groups, TASKS, resamples=100)),
        "compare_quantiles, quantile": of_two(
            lambda groups: compare_quantiles(groups, 0.4, confidence_level=0.8, resamples=100)
        ),
        "compare_quantiles, paired_quantile": of_two(
            lambda groups: compare_quantiles(groups, 0.5, paired=True, confidence_level=0.8, resamples=100)
        ),
        "quantile_interval": lambda groups: GroupQuantile(
            0.0, quantile_interval(groups["a"], 0.4, confidence_level=0.8)
        ),
        "corrected_resampled_ttest": of_two(lambda groups: corrected_resampled_ttest(groups, test_share=0.25)),
        "drop_missing": drop_missing,
        "drop_missing, paired": lambda groups: drop_missing(groups, paired=True),
        "dunn": dunn,
        "dunnett": lambda groups: dunnett(groups, "a"),
        "find_missing": lambda groups: find_missing(groups, paired=True),
        "fisher_exact_test": of_two(fisher_exact_test),
        "games_howell": games_howell,
        "iqm_interval": lambda groups: iqm_interval(groups["a"], TASKS, resamples=100),
        "judge_margin": of_two(lambda groups: judge_margin(groups, 1.0)),
        "judge_margin, paired": of_two(lambda groups: judge_margin(groups, 1.0, paired=True, non_inferiority=True)),
        "mean_of_best": mean_of_best,
        "mean_of_best, paired": lambda groups: mean_of_best(groups, paired=True),
        "nemenyi": nemenyi,
        "pairwise_tests": lambda groups: pairwise_tests("student_ttest", groups),
        "pairwise_tests, control": lambda groups: pairwise_tests("wilcoxon", groups, control="b", correction="sidak"),
        "practical_equivalence": of_two(lambda groups: practical_equivalence(groups, 0.5, draws=100)),
        "practical_equivalence, correlated_ttest": of_two(
            lambda groups: practical_equivalence(groups, 0.5, test="correlated_ttest")
        ),
        "probability_of_improvement": of_two(lambda groups: probability_of_improvement(groups, TASKS, resamples=100)),
        "rank_over_blocks": rank_over_blocks,
        "rank_over_blocks, wilcoxon_holm": lambda groups: rank_over_blocks(groups, procedure="wilcoxon_holm"),
        "shapiro_wilk": lambda groups: shapiro_wilk(groups["a"]),
        "summarize": lambda groups: summarize(groups["a"]),
        "t_mixture_sequence": lambda groups: t_mixture_sequence(groups["a"]),
        "tukey_hsd": tukey_hsd,
    }


RUNS = every_function()
# Where a number may be infinite: open ends, ends that nothing bounds, and ratios whose denominator is zero.
MAY_BE_INFINITE = {"confidence_interval", "interval", "effect_size_interval", "lower", "upper", "iman_davenport"}
RATIOS = {"odds_ratio", "risk_ratio"}


def check(value: Any, field: str = "") -> None:
    """Every number of a result is one, and finite where it must be."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = getattr(value, "effect_size_name", getattr(value, "name", ""))
        for part in dataclasses.fields(value):
            ratio = name in RATIOS and part.name in {"effect_size", "estimate", "value"}
            normal = isinstance(value, MarginResult) and part.name == "df"  # of the scores of shares
            check(getattr(value, part.name), "interval" if ratio or normal else part.name)
    elif isinstance(value, Mapping):
        return  # data that drop_missing hands on
    elif isinstance(value, tuple):
        for part in value:
            check(part, field)
    elif isinstance(value, float):
        assert not math.isnan(value), field
        assert math.isfinite(value) or field in MAY_BE_INFINITE, field


def problem(run: Callable[[], Any]) -> str:
    """What is wrong with what came back, empty for a result of numbers or a refusal that says why."""
    try:
        check(run())
    except (CannotTestError, ValueError) as refusal:
        reason = getattr(refusal, "reason", str(refusal))
        return "" if len(reason) > 20 and "\n" not in reason else f"says too little: {refusal}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no refusal
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("data", BAD)
def test_bad_data_give_numbers_or_a_refusal_that_says_why(data: str) -> None:
    found = {name: problem(lambda run=run: run(dict(BAD[data]))) for name, run in RUNS.items()}  # type: ignore[misc]
    assert {name: what for name, what in found.items() if what} == {}


NO_NUMBERS = [
    *("NaN", "None", "infinity", "minus infinity", "strings", "one string", "complex", "nested", "matrix"),
    *("generator", "set", "a long integer", "all empty", "one empty", "a boolean among numbers"),
]


@pytest.mark.parametrize("data", NO_NUMBERS)
def test_what_is_no_group_of_numbers_is_refused_by_all(data: str) -> None:
    for name, run in RUNS.items():
        if "missing" not in name:
            with pytest.raises(CannotTestError):
                run(dict(BAD[data]))


OUTCOMES_ONLY = ("cohens_h", "mcnemar", "odds_ratio", "risk_difference", "risk_ratio", "two_proportions")
TABLES_ONLY = {"chi_square_test", "effect_size cramers_v", "fisher_exact_test"}
ONCE = [name for name in RUNS if not name.endswith("one-sided") and not name.startswith("effect_size")]


@pytest.mark.slow
def test_memory_grows_no_faster_than_the_data() -> None:
    # A matrix of all pairs would take half a gigabyte; what is kept is some vectors and batches of fixed size.
    rng, n = np.random.default_rng(8), 8_000
    numbers = {name: rng.normal(size=n) for name in "abc"}
    outcomes = {name: (rng.random(n) < 0.5) * 1.0 for name in "abc"}
    runs = dict(RUNS)
    runs["clustered_mean"] = lambda groups: clustered_mean(groups["a"], list(range(n // 10)) * 10)
    runs["clustered_ttest"] = of_two(lambda groups: clustered_ttest(groups, list(range(n // 10)) * 10))
    one_task = ["t"] * n
    runs["compare_iqm"] = of_two(lambda groups: compare_iqm(groups, one_task, resamples=100))
    runs["iqm_interval"] = lambda groups: iqm_interval(groups["a"], one_task, resamples=100)
    runs["probability_of_improvement"] = of_two(
        lambda groups: probability_of_improvement(groups, one_task, resamples=100)
    )
    runs["betting_sequence"] = lambda groups: betting_sequence(groups["a"], (-9.0, 9.0))
    runs["shapiro_wilk"] = lambda groups: shapiro_wilk(groups["a"][:5000])
    peaks = {}
    for name in sorted(set(ONCE) - TABLES_ONLY):
        groups = outcomes if any(word in name for word in OUTCOMES_ONLY) else numbers
        tracemalloc.start()
        runs[name](dict(groups))
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert {name: peak for name, peak in peaks.items() if peak > 24e6 + 400 * n} == {}


# --- counts -----------------------------------------------------------------------------------------------------------

COUNTS: list[Any] = [-1, 1.5, math.nan, math.inf, True, "3", None, 2**60, [1], 0, 3, 10]


@pytest.mark.parametrize("k", COUNTS, ids=repr)
@pytest.mark.parametrize("n", COUNTS, ids=repr)
def test_bad_counts_give_numbers_or_a_refusal_that_says_why(k: Any, n: Any) -> None:
    runs: list[Callable[[], Any]] = [
        lambda: proportion_interval(k, n),
        lambda: proportion_interval(k, n, method="clopper_pearson"),
        lambda: proportion_test(k, n),
        lambda: proportion_test(k, n, reference=0.0),
        lambda: proportion_test(k, n, reference=1.0, alternative="less"),
        lambda: compare_proportions({"a": (k, n), "b": (3, 10)}),
        lambda: compare_proportions({"a": (k, n), "b": (3, 10)}, effect_size="risk_ratio"),
        lambda: compare_proportions({"a": (0, 10), "b": (k, n)}, effect_size="odds_ratio"),
        lambda: compare_paired_proportions(3, k, n, 10),
        lambda: compare_paired_proportions(k, 3, 2, n, mid_p=True, effect_size="odds_ratio"),
        lambda: chi_square_test({"a": [k, n], "b": [3, 10]}, resamples=400),
        lambda: chi_square_test({"a": [k, 3, 1], "b": [n, 10, 2]}, resamples=400),
        lambda: fisher_exact_test({"a": [k, 3], "b": [n, 10]}),
        lambda: clustered_mean([1.0, 2.0], [k, n]),
    ]
    assert [what for run in runs if (what := problem(run))] == []


# --- planning ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # it simulates
@pytest.mark.parametrize("test", get_args(PlannedTest))
@pytest.mark.parametrize("effect", [0.0, 1e-300, -0.5, 1e3, 1e300, math.nan])
def test_odd_plans_give_a_probability_or_a_refusal(test: Any, effect: float) -> None:
    few: dict[str, Any] = {"simulations": 100, "resamples": 100, "alpha": 0.2}
    few |= {"discordant": 0.6} if test.startswith("mcnemar") else {}
    few |= {"baseline": 0.5} if "proportion" in test else {}

    def plan(n: Any) -> Any:
        found = power_of(test, effect, n, **few)
        assert 0.0 <= found.power <= 1.0
        return found

    sizes = (-1, 0, 1, 2, (2, 5), (4, 4, 4), ())
    assert [what for n in sizes if (what := problem(lambda n=n: plan(n)))] == []  # type: ignore[misc]


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, 2.0, math.nan, math.inf])
def test_levels_that_are_none_are_refused_by_all(wrong: float) -> None:
    for run in (
        lambda: power_of("ttest", 0.5, 10, alpha=wrong),
        lambda: sample_size("ttest", 0.5, power=wrong),
        lambda: minimum_detectable_effect("ttest", 10, power=wrong),
        lambda: t_mixture_sequence(GOOD, alpha=wrong),
        lambda: tukey_hsd(BAD["n of 3"], alpha=wrong),
        lambda: judge_margin({"a": GOOD, "b": OTHER}, 1.0, alpha=wrong),
        lambda: effect_size("cohens_d", {"a": GOOD, "b": OTHER}, confidence_level=wrong),
        lambda: bootstrap_interval(np.mean, GOOD, confidence_level=wrong),
    ):
        with pytest.raises(ValueError, match=r"must lie (between 0 and 1|below 0\.5)"):
            run()


def test_every_test_of_the_vocabulary_is_in_the_sweep() -> None:
    swept = " ".join(RUNS)
    named_otherwise = {"one_sample_sign", "one_sample_ttest", "one_sample_wilcoxon", "proportion"}
    assert [test for test in TEST_NAMES if test not in swept and test not in named_otherwise] == []

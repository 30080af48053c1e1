"""The tests beside the seven of the experiment file: published examples, scipy, statsmodels, enumeration."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from scipy import special, stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.oneway import anova_oneway

from crucible_bench import CannotTestError, Declaration, foresee, power_of, run_test
from crucible_bench.hypothesis_tests.normality import shapiro_wilk

SIDES = ["greater", "less", "two-sided"]
RNG = np.random.default_rng(23)
SLEEP = {
    "1": [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    "2": [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
}
INSECTS = {  # R's InsectSprays
    "A": [10, 7, 20, 14, 14, 12, 10, 23, 17, 20, 14, 13],
    "B": [11, 17, 21, 11, 16, 14, 17, 17, 19, 21, 7, 13],
    "C": [0, 1, 7, 2, 3, 1, 2, 1, 3, 0, 1, 4],
    "D": [3, 5, 12, 6, 4, 3, 5, 5, 5, 5, 2, 4],
    "E": [3, 5, 3, 5, 3, 6, 1, 1, 3, 2, 6, 4],
    "F": [11, 9, 15, 22, 15, 16, 13, 10, 26, 26, 24, 13],
}
BASES = {  # R, ?friedman.test: Hollander & Wolfe (1973), p. 140 ff., three ways to round first base
    "round out": [
        *(5.40, 5.85, 5.20, 5.55, 5.90, 5.45, 5.40, 5.45, 5.25, 5.85, 5.25, 5.65, 5.60, 5.05, 5.50, 5.45),
        *(5.55, 5.45, 5.50, 5.65, 5.70, 6.30),
    ],
    "narrow": [
        *(5.50, 5.70, 5.60, 5.50, 5.85, 5.55, 5.40, 5.50, 5.15, 5.80, 5.20, 5.55, 5.35, 5.00, 5.50, 5.55),
        *(5.55, 5.50, 5.45, 5.60, 5.65, 6.30),
    ],
    "wide": [
        *(5.55, 5.75, 5.50, 5.40, 5.70, 5.60, 5.35, 5.35, 5.00, 5.70, 5.10, 5.45, 5.45, 4.95, 5.40, 5.50),
        *(5.35, 5.55, 5.25, 5.40, 5.55, 6.25),
    ],
}
BUSHTUCKER = {  # Field, Discovering Statistics, chapter on repeated measures: seconds to retch, eight celebrities
    "stick insect": [8, 9, 6, 5, 8, 7, 10, 12],
    "testicle": [7, 5, 2, 3, 4, 5, 2, 6],
    "fish eye": [1, 2, 3, 1, 5, 6, 7, 8],
    "grub": [6, 5, 8, 9, 8, 7, 2, 1],
}
# Brunner & Munzel (2000) and scipy's own documentation: pain scores after surgery
PAIN = {
    "x": [1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 1, 1],
    "y": [3, 3, 4, 3, 1, 2, 3, 1, 1, 5, 4],
}


def test_brunner_munzel_agrees_with_the_published_pain_scores() -> None:
    # Neubert & Brunner (2007), R's lawstat and brunnermunzel: statistic 3.1375, df 17.683, p-value 0.005786,
    # P(X < Y) + P(X = Y) / 2 = 0.788961, interval 0.5952169 to 0.9827052
    result = run_test("brunner_munzel", {"y": PAIN["y"], "x": PAIN["x"]})
    assert result.statistic == pytest.approx(3.1375, abs=5e-5)
    assert result.df[0] == pytest.approx(17.683, abs=5e-4)
    assert result.p_value == pytest.approx(0.005786, abs=5e-7)
    assert result.estimate == pytest.approx(0.788961, abs=5e-7)
    assert result.confidence_interval == pytest.approx((0.5952169, 0.9827052), abs=5e-8)
    shown = run_test("brunner_munzel", {"y": PAIN["y"], "x": PAIN["x"]}, effect_size="common_language")
    assert shown.effect_size == result.estimate
    assert result.effect_size == pytest.approx(2 * result.estimate - 1)
    assert shown.effect_size_interval == pytest.approx([(end + 1) / 2 for end in result.effect_size_interval])


@pytest.mark.parametrize("side", SIDES)
def test_brunner_munzel_agrees_with_scipy(side: Any) -> None:
    x, y = RNG.normal(size=20), RNG.normal(0.5, 3, size=31)
    # scipy's "greater" asks whether the first is greater, its statistic has the opposite sign
    oracle = stats.brunnermunzel(x, y, alternative=side)
    result = run_test("brunner_munzel", {"x": x, "y": y}, alternative=side)
    assert result.statistic == pytest.approx(-float(oracle.statistic))
    assert result.p_value == pytest.approx(float(oracle.pvalue))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("x", "y"), [([1, 3, 3, 7], [2, 3, 8, 9, 11]), ([1, 2, 8], [3, 4, 5, 0])])
def test_brunner_munzel_of_few_values_counts_every_division(x: Any, y: Any, side: Any) -> None:
    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            value = -float(stats.brunnermunzel(a, b).statistic)
        if math.isnan(value):
            return math.copysign(math.inf, float(np.mean(a) - np.mean(b)))
        return value

    pooled = np.array([*x, *y], dtype=float)
    every = []
    for chosen in itertools.combinations(range(pooled.size), len(x)):
        mask = np.isin(np.arange(pooled.size), chosen)
        every.append(statistic(pooled[mask], pooled[~mask]))
    observed = statistic(np.array(x, dtype=float), np.array(y, dtype=float))
    tails = np.mean(np.array(every) >= observed - 1e-9), np.mean(np.array(every) <= observed + 1e-9)
    expected = {"greater": tails[0], "less": tails[1], "two-sided": min(1.0, 2 * min(tails))}[side]
    result = run_test("brunner_munzel", {"x": x, "y": y}, alternative=side)
    assert result.p_value == pytest.approx(float(expected))
    assert result.notes[0].startswith("exact p-value")


@pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 5), (8, 3), (12, 11), (400, 700)])
def test_brunner_munzel_is_exact_where_the_groups_do_not_overlap(n: int, m: int) -> None:
    """The permutation test of Neubert & Brunner 2007: one division of C(n + m, n) is as extreme on each side."""
    groups = {"x": np.arange(n) + float(m), "y": np.arange(float(m))}
    result = run_test("brunner_munzel", groups)
    assert result.p_value == pytest.approx(2 / math.comb(n + m, n), rel=1e-9)
    assert run_test("brunner_munzel", groups, alternative="greater").p_value == pytest.approx(result.p_value / 2)
    assert run_test("brunner_munzel", groups, alternative="less").p_value == 1.0
    assert (result.estimate, result.statistic, result.df) == (1.0, n * m, ())
    low, high = result.confidence_interval
    assert (0.0 <= low < 1.0, high) == (True, 1.0)
    turned = run_test("brunner_munzel", {"y": groups["y"], "x": groups["x"]})
    assert turned.confidence_interval == pytest.approx((0.0, 1.0 - low))
    assert any("do not overlap" in note for note in result.notes)


def test_nearly_separated_groups_have_no_smaller_p_value_than_separated_ones() -> None:
    x = np.arange(12) + 10.0
    apart = run_test("brunner_munzel", {"x": x, "y": np.arange(9.0)})
    near = run_test("brunner_munzel", {"x": x, "y": np.append(np.arange(8.0), 10.0)})
    assert near.p_value >= apart.p_value


def test_the_power_of_ordinal_outcomes_grows_with_the_effect() -> None:
    powers = [power_of("brunner_munzel", effect, 12, simulations=100).power for effect in (0.5, 1.0, 3.0, 6.0)]
    assert powers == sorted(powers)
    assert powers[-1] == 1.0
    assert foresee(Declaration(outcome="ordinal"), 2, 6, 3.0) == []


def test_brunner_munzel_refuses_what_has_no_ranks_or_spread() -> None:
    with pytest.raises(CannotTestError, match="1 value"):
        run_test("brunner_munzel", {"x": [1], "y": [7, 8, 9]})
    with pytest.raises(CannotTestError, match="nothing to rank"):
        run_test("brunner_munzel", {"x": [7, 7], "y": [7, 7, 7]})


def test_brunner_munzel_keeps_its_level_where_spreads_differ() -> None:
    rng, runs = np.random.default_rng(4), 800
    groups = [{"a": rng.normal(0, 1, 25), "b": rng.normal(0, 4, 12)} for _ in range(runs)]
    results = [run_test("brunner_munzel", group) for group in groups]
    assert np.mean([r.significant for r in results]) <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / runs) + 0.01
    covered = np.mean([r.confidence_interval[0] <= 0.5 <= r.confidence_interval[1] for r in results])
    assert covered >= 0.95 - 3.5 * math.sqrt(0.05 * 0.95 / runs) - 0.01


@pytest.mark.parametrize(("n", "m"), [(4, 5), (3, 12), (12, 3), (8, 8), (6, 30)])
def test_brunner_munzel_and_its_interval_agree_about_one_half(n: int, m: int) -> None:
    rng, shifts = np.random.default_rng(31), np.linspace(0.0, 4.0, 12)
    drawn = [
        {"a": np.round(2 * (rng.normal(size=n) + shift)), "b": np.round(2 * rng.normal(size=m))} for shift in shifts
    ]
    results = [run_test("brunner_munzel", groups, resamples=999) for groups in drawn]
    judged = [result for result in results if not any("do not overlap" in note for note in result.notes)]
    assert {result.significant for result in judged} == {True, False} or min(n, m) < 4
    for result in judged:
        assert result.significant == (not result.confidence_interval[0] <= 0.5 <= result.confidence_interval[1])


@pytest.mark.slow
def test_random_divisions_are_near_all_of_them_and_know_no_first_group() -> None:
    rng = np.random.default_rng(32)
    x, y = rng.normal(0.8, 1.0, 7), rng.normal(0.0, 2.0, 12)
    result = run_test("brunner_munzel", {"x": x, "y": y})
    turned = run_test("brunner_munzel", {"y": y, "x": x})
    assert "10000 random divisions, seed 0" in result.notes[0]
    assert turned.p_value == result.p_value
    assert turned.confidence_interval == pytest.approx([1.0 - end for end in reversed(result.confidence_interval)])
    with warnings.catch_warnings(action="ignore"):  # of divisions that separate the groups
        exact = stats.permutation_test(
            (x, y),
            lambda a, b: -float(stats.brunnermunzel(a, b).statistic),
            permutation_type="independent",
            n_resamples=2_000,
            rng=np.random.default_rng(33),
        )
    spread = math.sqrt(exact.pvalue * (1 - exact.pvalue) / 2_000)
    assert result.p_value == pytest.approx(exact.pvalue, abs=4 * spread + 0.01)


@pytest.mark.slow
def test_brunner_munzel_of_few_and_many_values_keeps_its_level() -> None:
    """The t approximation rejects in 10 % here."""
    rng, runs = np.random.default_rng(34), 1000
    drawn = [{"a": rng.normal(size=3), "b": rng.normal(size=10)} for _ in range(runs)]
    results = [run_test("brunner_munzel", groups) for groups in drawn]
    assert np.mean([result.significant for result in results]) <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize("side", SIDES)
def test_the_sign_test_is_a_binomial_of_the_signs(side: Any) -> None:
    result = run_test("sign", SLEEP, alternative=side)
    assert result.statistic == 0.0
    assert result.p_value == pytest.approx(float(stats.binomtest(0, 9, 0.5, side).pvalue))
    assert result.estimate == pytest.approx(-1.3)
    assert result.notes[0] == "1 zero difference dropped"


def test_the_sign_tests_interval_runs_between_the_tabled_order_statistics() -> None:
    # Hollander & Wolfe (1999), table A.2; Conover (1999): n = 10 leaves out 2 * P(B <= 1) = 0.0215 with depth 2
    d = np.array([3.0, -1.0, 2.0, 5.0, -4.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    result = run_test("sign", {"d": d, "zero": np.zeros(10)})
    assert result.confidence_interval == (-1.0, 9.0)
    assert stats.binom.cdf(1, 10, 0.5) <= 0.025 < stats.binom.cdf(2, 10, 0.5)
    few = run_test("sign", {"d": d[:5], "zero": np.zeros(5)})
    assert few.confidence_interval == (-math.inf, math.inf)
    assert any("too few" in note for note in few.notes)


def test_the_sign_tests_interval_covers_and_scales() -> None:
    rng, runs, covered = np.random.default_rng(9), 500, 0
    for _ in range(runs):
        low, high = run_test("sign", {"d": rng.exponential(size=21), "zero": np.zeros(21)}).confidence_interval
        covered += low <= math.log(2) <= high
    assert covered / runs >= 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / runs)
    million = run_test("sign", {"d": rng.normal(0.01, 1, 1_000_000), "zero": np.zeros(1_000_000)})
    assert million.confidence_interval[0] < 0.01 < million.confidence_interval[1]
    none = run_test("sign", {"a": [1.0, 2.0], "b": [1.0, 2.0]})
    assert (none.p_value, none.effect_size) == (1.0, None)


def test_welchs_anova_prints_what_r_documents() -> None:
    # R, ?oneway.test: oneway.test(extra ~ group, data = sleep): F = 3.4626, denom df = 17.776, p-value = 0.07939
    result = run_test("welch_anova", SLEEP)
    assert result.statistic == pytest.approx(3.4626, abs=5e-5)
    assert result.df == (1.0, pytest.approx(17.776, abs=5e-4))
    assert result.p_value == pytest.approx(0.07939, abs=5e-6)
    # R: oneway.test(count ~ spray, InsectSprays): F = 36.065, num df = 5.000, denom df = 30.043, p-value = 7.999e-12
    sprays = run_test("welch_anova", INSECTS)
    assert sprays.statistic == pytest.approx(36.065, abs=5e-4)
    assert sprays.df[1] == pytest.approx(30.043, abs=5e-4)
    assert sprays.p_value == pytest.approx(7.999e-12, rel=1e-3)


def test_welchs_anova_agrees_with_statsmodels_at_any_scale() -> None:
    groups = {str(i): RNG.normal(i / 3, i + 1, 8 + 5 * i) for i in range(4)}
    oracle = anova_oneway(list(groups.values()), use_var="unequal", welch_correction=True)
    for exponent in (0, 900, -900):
        result = run_test("welch_anova", {name: np.ldexp(v, exponent) for name, v in groups.items()})
        assert result.statistic == pytest.approx(float(oracle.statistic))
        assert result.p_value == pytest.approx(float(oracle.pvalue))


@pytest.mark.slow
@pytest.mark.parametrize(("k", "n"), [(3, 3), (5, 3), (6, 8), (10, 3), (10, 5), (10, 12)])
@pytest.mark.parametrize("last", [1.0, 5.0])
def test_welchs_anova_keeps_its_level_for_many_small_groups(k: int, n: int, last: float) -> None:
    # By Welch's F alone ten groups of three reject in 14 %.
    rng, runs = np.random.default_rng(0), 500
    scales = [1.0] * (k - 1) + [last]
    rejected = sum(
        run_test(
            "welch_anova", {str(i): rng.normal(0, sd, n) for i, sd in enumerate(scales)}, resamples=399
        ).significant
        for _ in range(runs)
    )
    assert rejected / runs <= 0.06 + 3 * math.sqrt(0.06 * 0.94 / runs)


def test_small_groups_are_compared_by_a_parametric_bootstrap_whatever_their_order() -> None:
    groups = {str(i): RNG.normal(i, 1 + i, 4) for i in range(5)}
    result = run_test("welch_anova", groups)
    turned = run_test("welch_anova", dict(reversed(groups.items())))
    assert turned.p_value == result.p_value
    assert "parametric bootstrap" in result.notes[0]
    assert 0.2 < result.p_value / float(special.fdtrc(*result.df, result.statistic)) < 5
    few = run_test("welch_anova", {name: groups[name] for name in "012"})
    assert few.p_value == float(special.fdtrc(*few.df, few.statistic))


def test_welchs_anova_refuses_what_has_no_variance_of_its_own() -> None:
    with pytest.raises(CannotTestError, match="'a' is constant"):
        run_test("welch_anova", {"a": [1.0, 1.0], "b": [1.0, 2.0]})
    with pytest.raises(CannotTestError, match="'a' has 1 value"):
        run_test("welch_anova", {"a": [1.0], "b": [1.0, 2.0]})


def test_omega_squared_of_welch_covers_without_and_with_an_effect() -> None:
    rng, runs = np.random.default_rng(12), 400
    truth = (0.64 * 2 / 3) / (0.64 * 2 / 3 + 1)
    for means, target in (((0.0, 0.0, 0.0), 0.0), ((0.0, 0.8, 1.6), truth)):
        ends = [
            run_test("welch_anova", {str(m): rng.normal(m, 1, 15) for m in means} if target else
                     {str(i): rng.normal(0, i + 1, 10) for i in range(3)}).effect_size_interval
            for _ in range(runs)
        ]  # fmt: skip
        covered = np.mean([low <= target <= high for low, high in ends])
        assert covered >= 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / runs)


def test_friedman_prints_what_r_documents() -> None:
    # R, ?friedman.test: Friedman chi-squared = 11.143, df = 2, p-value = 0.003805 (by the chi-square distribution)
    result = run_test("friedman", BASES)
    assert result.statistic == pytest.approx(11.143, abs=5e-4)
    assert float(special.chdtrc(2, result.statistic)) == pytest.approx(0.003805, abs=5e-7)
    assert result.notes[0].startswith("exact p-value")
    assert result.p_value == pytest.approx(0.003, abs=1e-3)
    assert result.effect_size == pytest.approx(11.143 / 44, abs=5e-5)


def test_friedman_agrees_with_scipy_where_it_uses_chi_square() -> None:
    groups = [np.round(2 * RNG.normal(i / 4, 1, 90)) for i in range(5)]
    result = run_test("friedman", {str(i): g for i, g in enumerate(groups)})
    oracle = stats.friedmanchisquare(*groups)
    assert result.statistic == pytest.approx(float(oracle.statistic))
    assert result.p_value == pytest.approx(float(oracle.pvalue))


@pytest.mark.parametrize(
    "blocks",
    [
        [[1, 2, 3], [2, 1, 3], [1, 2, 3], [1, 3, 2]],
        [[1, 1, 3], [2, 1, 3], [1, 2, 2], [1, 3, 2]],
        [[4, 2, 3, 1], [4, 2, 1, 3], [3, 3, 3, 1]],
        [[1, 2], [1, 2], [2, 1], [1, 2], [5, 5]],
    ],
)
def test_exact_friedman_counts_every_assignment_of_ranks(blocks: list[list[int]]) -> None:
    ranks = np.array([stats.rankdata(block) for block in blocks])
    centre = (ranks.shape[1] + 1) / 2 * len(blocks)
    observed = float(np.square(ranks.sum(0) - centre).sum())
    every = [
        float(np.square(np.sum(rows, axis=0) - centre).sum())
        for rows in itertools.product(*(list(itertools.permutations(row)) for row in ranks))
    ]
    result = run_test("friedman", {str(i): column for i, column in enumerate(np.array(blocks).T)})
    assert result.p_value == pytest.approx(float(np.mean(np.array(every) >= observed - 1e-9)))


def test_exact_friedman_reaches_the_printed_table() -> None:
    # Hollander & Wolfe (1999), table A.22: k = 3, n = 4, P(S >= 6.5) = 0.042, P(S >= 8) = 0.005
    perfect = run_test("friedman", {"a": [1.0] * 4, "b": [2.0] * 4, "c": [3.0] * 4})
    assert perfect.statistic == pytest.approx(8.0)
    assert perfect.p_value == pytest.approx(0.005, abs=5e-4)
    near = run_test("friedman", {"a": [1, 1, 1, 1], "b": [2, 2, 2, 3], "c": [3, 3, 3, 2]})
    assert near.statistic == pytest.approx(6.5)
    assert near.p_value == pytest.approx(0.042, abs=5e-4)


@pytest.mark.parametrize(("n", "step"), [(12, 0.0), (12, 0.6), (70, 0.3)])
@pytest.mark.slow
def test_kendalls_w_covers_its_population_value(n: int, step: float) -> None:
    # 12 sum (E rank_j - (k + 1) / 2)**2 / (k (k**2 - 1)) for independent unit normals around 0, step, 2 step
    means = step * np.arange(3)
    expected = 0.5 + special.ndtr(np.subtract.outer(means, means) / math.sqrt(2)).sum(axis=1)
    truth = float(12 * np.square(expected - 2).sum() / 24)
    rng, runs, covered = np.random.default_rng(31), 400, 0
    for _ in range(runs):
        groups = {str(i): rng.normal(i * step, 1, n) for i in range(3)}
        low, high = run_test("friedman", groups).effect_size_interval
        covered += low <= truth <= high
    assert covered / runs >= 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / runs)


def test_repeated_measures_agree_with_fields_bushtucker_trial() -> None:
    # F(3, 21) = 3.79, p = .026; Greenhouse-Geisser .533, p = .063; Huynh-Feldt .666, p = .048
    result = run_test("repeated_measures_anova", BUSHTUCKER)
    assert result.statistic == pytest.approx(3.79, abs=5e-3)
    assert result.df[0] == pytest.approx(3 * 0.533, abs=3 * 5e-4)
    assert result.df[1] == pytest.approx(7 * result.df[0])
    huynh_feldt = next(note for note in result.notes if note.startswith("Huynh-Feldt"))
    assert float(huynh_feldt.rstrip(")").rpartition("epsilon ")[2]) == pytest.approx(0.666, abs=5e-4)
    assert result.p_value == pytest.approx(0.063, abs=5e-4)
    assert any("Huynh-Feldt p-value 0.048" in note for note in result.notes)
    assert any("uncorrected p-value 0.02557" in note for note in result.notes)


def test_repeated_measures_agree_with_statsmodels_at_any_scale_and_offset() -> None:
    import pandas as pd

    block = RNG.normal(size=(14, 4)) + RNG.normal(size=(14, 1)) * 3 + [0, 0.3, 0.5, 1.0]
    frame = pd.DataFrame(
        [(i, j, block[i, j]) for i in range(14) for j in range(4)], columns=["subject", "condition", "value"]
    )
    oracle = AnovaRM(frame, "value", "subject", within=["condition"]).fit().anova_table
    # epsilon from orthonormal contrasts: trace squared over 3 times the trace of the square
    contrasts = np.linalg.svd(np.eye(4) - 0.25)[0][:, :3]
    covariance = contrasts.T @ np.cov(block.T) @ contrasts
    epsilon = np.trace(covariance) ** 2 / (3 * np.trace(covariance @ covariance))
    for moved in (block, np.ldexp(block, 900), np.ldexp(block, -900), block + 2.0**20):
        result = run_test("repeated_measures_anova", {str(j): moved[:, j] for j in range(4)})
        assert result.statistic == pytest.approx(float(oracle["F Value"].iloc[0]), rel=1e-8)
        assert result.df[0] == pytest.approx(3 * float(epsilon), rel=1e-8)


def test_two_repeated_measures_are_a_paired_t_test() -> None:
    t, result = run_test("paired_ttest", SLEEP), run_test("repeated_measures_anova", SLEEP)
    assert result.statistic == pytest.approx(t.statistic**2)
    assert result.p_value == pytest.approx(t.p_value)
    assert result.df == (1.0, 9.0)


def test_repeated_measures_keep_level_and_coverage_without_sphericity() -> None:
    rng, runs, rejected, covered = np.random.default_rng(6), 500, 0, 0
    for _ in range(runs):
        base = rng.normal(size=12)
        groups = {str(j): base + rng.normal(0, 1 + j, 12) for j in range(4)}
        result = run_test("repeated_measures_anova", groups)
        rejected += result.significant
        covered += result.effect_size_interval[0] <= 0.0
    assert rejected / runs <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / runs)
    assert covered / runs >= 0.95


@pytest.mark.parametrize("test", ["friedman", "repeated_measures_anova"])
def test_blocks_that_are_none_are_refused(test: str) -> None:
    with pytest.raises(CannotTestError, match="'b': 2"):
        run_test(test, {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0]})
    alike = {name: [1.0, 2.0] for name in "abc"}
    if test == "friedman":
        assert (run_test(test, alike).p_value, run_test(test, alike).effect_size_interval) == (1.0, (0.0, 1.0))
    else:
        with pytest.raises(CannotTestError, match="error variance is zero"):
            run_test(test, alike)
    with pytest.raises(CannotTestError, match="two-sided only"):
        run_test(test, BUSHTUCKER, alternative="less")


def test_levene_and_brown_forsythe_agree_with_scipy() -> None:
    groups = {str(i): RNG.normal(i, 1 + i / 2, 9 + 3 * i) for i in range(4)}
    for test, centre in (("levene", "mean"), ("brown_forsythe", "median")):
        oracle = stats.levene(*groups.values(), center=centre)
        for exponent in (0, 900, -900):
            result = run_test(test, {name: np.ldexp(v, exponent) for name, v in groups.items()})
            assert result.statistic == pytest.approx(float(oracle.statistic))
            assert result.p_value == pytest.approx(float(oracle.pvalue))
    # R: car::leveneTest(count ~ spray, InsectSprays), around the median: F(5, 66) = 3.8214, p = 0.004223
    sprays = run_test("brown_forsythe", INSECTS)
    assert sprays.statistic == pytest.approx(3.8214, abs=5e-5)
    assert sprays.p_value == pytest.approx(0.004223, abs=5e-7)


def test_distances_that_do_not_vary_are_refused() -> None:
    for test in ("levene", "brown_forsythe"):
        with pytest.raises(CannotTestError, match="one distance"):
            run_test(test, {"a": [1.0, 2.0], "b": [1.0, 5.0]})
        with pytest.raises(CannotTestError, match="one distance"):
            run_test(test, {"a": [5.0] * 4, "b": [6.0] * 4})


@pytest.mark.parametrize("side", SIDES)
def test_the_ratio_of_variances_has_the_f_distribution(side: Any) -> None:
    x, y = RNG.normal(0, 2, 50), RNG.normal(1, 1, 30)
    result = run_test("variance_ratio", {"x": x, "y": y}, alternative=side)
    f = x.var(ddof=1) / y.var(ddof=1)
    tails = stats.f.sf(f, 49, 29), stats.f.cdf(f, 49, 29)
    assert result.statistic == pytest.approx(f)
    assert result.p_value == pytest.approx({"greater": tails[0], "less": tails[1], "two-sided": 2 * min(tails)}[side])
    tail = 0.025 if side == "two-sided" else 0.05
    ends = {"greater": (f / stats.f.ppf(1 - tail, 49, 29), math.inf), "less": (0.0, f / stats.f.ppf(tail, 49, 29))}
    both = f / stats.f.ppf(1 - tail, 49, 29), f / stats.f.ppf(tail, 49, 29)
    assert result.confidence_interval == pytest.approx(ends.get(side, both))
    moved = run_test("variance_ratio", {"x": np.ldexp(x, 800), "y": np.ldexp(y, 800)}, alternative=side)
    assert moved.statistic == result.statistic


def test_a_ratio_of_variances_that_is_none_is_refused() -> None:
    with pytest.raises(CannotTestError, match="constant"):
        run_test("variance_ratio", {"x": [1.0, 1.0], "y": [1.0, 2.0]})
    with pytest.raises(CannotTestError, match="1 value"):
        run_test("variance_ratio", {"x": [1.0], "y": [1.0, 2.0]})
    with pytest.raises(CannotTestError, match="largest double"):
        run_test("variance_ratio", {"x": [1e300, 2e300], "y": [1e-300, 2e-300]})
    with pytest.raises(CannotTestError, match="smallest double"):
        run_test("variance_ratio", {"x": [1e-300, 2e-300], "y": [1e300, 2e300]})


@pytest.mark.parametrize("n", [3, 4, 5, 6, 11, 12, 50, 700, 4999])
@pytest.mark.parametrize("shape", ["normal", "exponential"])
def test_shapiro_wilk_agrees_with_scipy(n: int, shape: str) -> None:
    x = getattr(np.random.default_rng(n), shape)(size=n)
    oracle = stats.shapiro(x)
    for exponent in (0, 900, -900):
        result = shapiro_wilk(np.ldexp(x, exponent))
        assert result.statistic == pytest.approx(float(oracle.statistic), abs=1e-7)
        assert result.p_value == pytest.approx(float(oracle.pvalue), rel=2e-5, abs=1e-12)
        assert result.skewness == pytest.approx(float(stats.skew(x)))
        assert result.excess_kurtosis == pytest.approx(float(stats.kurtosis(x)))


def test_shapiro_wilk_agrees_with_the_paper() -> None:
    # Shapiro & Wilk (1965), their example of weights of men: W = 0.79; R: shapiro.test gives p-value = 0.006704
    weights = [148, 154, 158, 160, 161, 162, 166, 170, 182, 195, 236]
    result = shapiro_wilk(weights)
    assert result.statistic == pytest.approx(0.79, abs=5e-3)
    assert result.p_value == pytest.approx(0.006704, abs=5e-6)


def test_shapiro_wilk_keeps_its_level() -> None:
    rng = np.random.default_rng(2)
    rejected = np.mean([shapiro_wilk(rng.normal(size=15)).p_value <= 0.05 for _ in range(1000)])
    assert abs(rejected - 0.05) < 3.5 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 2.0], "n = 2, but it needs at least 3"),
        ([1.0] * 9, "all values are equal"),
        (np.zeros(5001), "more than the 5000"),
        ([1.0, math.nan, 2.0], "missing"),
        ([True, False, True], "booleans"),
        ([], "empty"),
    ],
)
def test_values_without_a_testable_shape_are_refused(values: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        shapiro_wilk(values)

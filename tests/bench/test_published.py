"""Every test against numbers that others have published; the source stands with each."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from scipy import special

from crucible_bench import run_test
from crucible_bench.hypothesis_tests.mann_whitney import asymmetric_interval, dominance_variance

# R's data sets, as printed by R.
SLEEP = {
    "1": [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    "2": [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
}
PLANT_GROWTH = {
    "ctrl": [4.17, 5.58, 5.18, 6.11, 4.50, 4.61, 5.17, 4.53, 5.33, 5.14],
    "trt1": [4.81, 4.17, 4.41, 3.59, 5.87, 3.83, 6.03, 4.89, 4.32, 4.69],
    "trt2": [6.31, 5.12, 5.54, 5.50, 5.37, 5.29, 4.92, 6.15, 5.80, 5.26],
}
OZONE = {  # airquality$Ozone by month, missing values left out
    "May": [
        *(41, 36, 12, 18, 28, 23, 19, 8, 7, 16, 11, 14, 18, 14, 34, 6, 30, 11, 1, 11, 4, 32, 23, 45, 115, 37),
    ],
    "June": [29, 71, 39, 23, 21, 37, 20, 12, 13],
    "July": [
        *(135, 49, 32, 64, 40, 77, 97, 97, 85, 10, 27, 7, 48, 35, 61, 79, 63, 16, 80, 108, 20, 52, 82, 50),
        *(64, 59),
    ],
    "August": [
        *(39, 9, 16, 78, 35, 66, 122, 89, 110, 44, 28, 65, 22, 59, 23, 31, 44, 21, 9, 45, 168, 73, 76, 118),
        *(84, 85),
    ],
    "September": [
        *(96, 78, 73, 91, 47, 32, 20, 23, 21, 24, 44, 21, 28, 9, 13, 46, 18, 13, 24, 16, 13, 23, 36, 7),
        *(14, 30, 14, 18, 20),
    ],
}
# NIST/ITL Statistical Reference Datasets, one-way analysis of variance.
SIRSTV = {
    "1": [196.3052, 196.1240, 196.1890, 196.2569, 196.3403],
    "2": [196.3042, 196.3825, 196.1669, 196.3257, 196.0422],
    "3": [196.1303, 196.2005, 196.2889, 196.0343, 196.1811],
    "4": [196.2795, 196.1748, 196.1494, 196.1485, 195.9885],
    "5": [196.2119, 196.1051, 196.1850, 196.0052, 196.2090],
}
ATMWTAG_DIGITS = {  # 107.868 and these four digits
    "1": [
        *(1568, 1465, 1572, 1785, 1446, 1903, 1526, 1494, 1616, 1587, 1519, 1486, 1419, 1569, 1508, 1672),
        *(1385, 1518, 1662, 1424, 1360, 1333, 1610, 1477),
    ],
    "2": [
        *(1079, 1344, 1513, 1197, 1604, 1385, 1642, 1365, 1151, 1082, 1517, 1448, 1198, 1482, 1334, 1609),
        *(1101, 1512, 1469, 1360, 1254, 1261, 1450, 1368),
    ],
}

DOMINANCE = (
    np.array([10.0, 10, 20, 20, 20, 30, 30, 30, 40, 50]),
    np.array([10.0, 20, 30, 40, 40, 50]),
)


def smls(offset: int, replicates: int) -> dict[str, list[float]]:
    """NIST's SmLs01 to SmLs09: nine treatments around .4, .3, .5, .3, ..., each alternating by a tenth."""

    def value(tenths: int) -> float:
        return float(f"{offset}.{tenths}") if offset else tenths / 10

    return {
        f"{treatment}": [value(centre)] + [value(centre - 1), value(centre + 1)] * (replicates // 2)
        for treatment, centre in enumerate((4, 3, 5, 3, 5, 3, 5, 3, 5), start=1)
    }


def test_welch_agrees_with_r_on_sleep() -> None:
    # R, ?t.test: t.test(extra ~ group, data = sleep)
    result = run_test("ttest", SLEEP)
    assert result.statistic == pytest.approx(-1.8608, abs=5e-5)
    assert result.df[0] == pytest.approx(17.776, abs=5e-4)
    assert result.p_value == pytest.approx(0.07939, abs=5e-6)
    assert result.confidence_interval == pytest.approx((-3.3654832, 0.2054832), abs=5e-8)
    assert result.estimate == pytest.approx(0.75 - 2.33)
    assert not result.significant


def test_paired_ttest_agrees_with_r_on_sleep() -> None:
    # R, ?t.test: t.test(Pair(extra.1, extra.2) ~ 1, data = sleep2)
    result = run_test("paired_ttest", SLEEP)
    assert result.statistic == pytest.approx(-4.0621, abs=5e-5)
    assert result.df == (9.0,)
    assert result.p_value == pytest.approx(0.002833, abs=5e-7)
    assert result.confidence_interval == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert result.estimate == pytest.approx(-1.58)


def test_mann_whitney_agrees_with_r_on_sleep_where_there_are_ties() -> None:
    # R: exactRankTests::wilcox.exact(extra ~ group, data = sleep); wilcox.test's normal approximation has 0.06933
    result = run_test("mann_whitney", SLEEP)
    assert result.statistic == 25.5
    assert result.p_value == pytest.approx(0.06582, abs=5e-6)
    assert "exact p-value, n = 10 and 10, given the ties" in result.notes


def test_wilcoxon_agrees_with_r_on_sleep_where_there_are_ties_and_a_zero() -> None:
    # R: exactRankTests::wilcox.exact(sleep2$extra.1, sleep2$extra.2, paired = TRUE)
    # (wilcox.test takes the normal approximation where there are ties: 0.009091)
    result = run_test("wilcoxon", SLEEP)
    assert result.statistic == 0.0
    assert result.p_value == 2 / 2**9
    assert "1 zero difference dropped (Wilcoxon's rule)" in result.notes


def test_wilcoxon_is_exact_on_hollander_and_wolfes_depression_scores() -> None:
    # R, ?wilcox.test (Hollander & Wolfe 1973, p. 29 f.): V = 40, one-sided p-value = 0.01953
    first = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    second = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    result = run_test("wilcoxon", {"first": first, "second": second})
    assert result.statistic == 40
    assert result.p_value == 2 * 10 / 2**9  # 10 of 512 sign patterns reach 40
    assert result.p_value / 2 == pytest.approx(0.01953, abs=5e-6)
    # The 95 % interval of the same example, and its pseudomedian, by listing all 45 Walsh averages.
    walsh = sorted((a - b + c - d) / 2 for i, (a, b) in enumerate(zip(first, second, strict=True))
                   for c, d in list(zip(first, second, strict=True))[i:])  # fmt: skip
    assert result.estimate == pytest.approx(walsh[22])
    # P(W <= 5) = 10/512 <= 0.025 < P(W <= 6), so six values of W lie in the lower tail.
    assert result.confidence_interval == pytest.approx((walsh[5], walsh[-6]))


def test_wilcoxon_agrees_with_a_published_r_output_and_the_table_of_critical_values() -> None:
    # stats.stackexchange.com/q/270889: wilcox.test(dat, conf.int = T, exact = F, conf.level = .99)
    data = [2.1, 2.35, 2.35, 3.1, 3.1, 3.15, 3.9, 3.9, 4, 4.8, 5, 5, 5.15, 5.35, 5.5, 6, 6, 6.25, 6.45]
    result = run_test("wilcoxon", {"dat": data, "zero": [0.0] * 19}, confidence_level=0.99)
    assert result.statistic == 190
    assert result.p_value == 2 / 2**19  # all signs are positive; the output's normal approximation has 0.0001419
    assert result.estimate == pytest.approx(4.400028, abs=1e-4)  # R searches its root to 1e-4
    # The printed tables have 32 as the two-sided 1 % point for n = 19, so the ends are 33rd from each side.
    walsh = sorted((x + y) / 2 for i, x in enumerate(data) for y in data[i:])
    assert result.confidence_interval == pytest.approx((walsh[32], walsh[-33]))


def test_mann_whitney_is_exact_on_hollander_and_wolfes_permeability_constants() -> None:
    # R, ?wilcox.test (Hollander & Wolfe 1973, p. 69 f.): W = 35, one-sided p-value = 0.1272
    at_term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    early = [1.15, 0.88, 0.90, 0.74, 1.21]
    result = run_test("mann_whitney", {"at term": at_term, "early": early})
    assert result.statistic == 35
    assert result.p_value / 2 == pytest.approx(0.1272, abs=5e-5)


def test_mann_whitney_agrees_with_r_on_airquality() -> None:
    # R, ?wilcox.test: wilcox.test(Ozone ~ Month, data = airquality, subset = Month %in% c(5, 8))
    result = run_test("mann_whitney", {"May": OZONE["May"], "August": OZONE["August"]})
    assert result.statistic == 127.5
    # There are ties: R takes the normal approximation, 0.0001208; counted in whole numbers, one rank after another:
    may, august = OZONE["May"], OZONE["August"]
    pooled = sorted([*may, *august])
    doubled = [2 * pooled.index(value) + pooled.count(value) + 1 for value in pooled]
    ways = Counter({(0, 0): 1})
    for rank in doubled:
        ways += Counter({(size + 1, total + rank): count for (size, total), count in ways.items() if size < len(may)})
    observed = sum(2 * pooled.index(value) + pooled.count(value) + 1 for value in may)
    low = sum(count for (size, total), count in ways.items() if size == len(may) and total <= observed)
    assert result.p_value == pytest.approx(2 * low / math.comb(len(pooled), len(may)), rel=1e-10)
    assert result.p_value == pytest.approx(0.0001208, rel=0.5)


def test_kruskal_wallis_agrees_with_r_on_airquality() -> None:
    # R, ?kruskal.test: kruskal.test(Ozone ~ Month, data = airquality)
    result = run_test("kruskal_wallis", OZONE)
    assert sum(result.n) == 116
    assert result.statistic == pytest.approx(29.267, abs=5e-4)
    assert result.df == (4.0,)
    assert result.p_value == pytest.approx(6.901e-06, abs=5e-10)
    assert result.effect_size == pytest.approx(result.statistic / 115)


def test_kruskal_wallis_agrees_with_r_on_plant_growth() -> None:
    # R: kruskal.test(weight ~ group, data = PlantGrowth)
    result = run_test("kruskal_wallis", PLANT_GROWTH, effect_size="eta_squared")
    assert result.statistic == pytest.approx(7.9882, abs=5e-5)
    assert result.p_value == pytest.approx(0.01842, abs=5e-6)
    assert result.effect_size == pytest.approx((7.9882 - 2) / 27, abs=5e-6)


def test_anova_agrees_with_r_on_plant_growth() -> None:
    # R: anova(lm(weight ~ group, data = PlantGrowth)): SS 3.7663 and 10.4921, F = 4.8461, p = 0.01591
    result = run_test("anova", PLANT_GROWTH)
    assert result.statistic == pytest.approx(4.8461, abs=5e-5)
    assert result.df == (2.0, 27.0)
    assert result.p_value == pytest.approx(0.01591, abs=5e-6)
    assert result.effect_size == pytest.approx(3.7663 / (3.7663 + 10.4921), abs=5e-6)
    omega = run_test("anova", PLANT_GROWTH, effect_size="omega_squared")
    within = 10.4921 / 27
    assert omega.effect_size == pytest.approx((3.7663 - 2 * within) / (3.7663 + 10.4921 + within), abs=1e-5)
    assert omega.effect_size_interval == result.effect_size_interval


@pytest.mark.parametrize(
    ("groups", "f", "r_squared", "digits"),
    [
        (SIRSTV, 1.18046237440255, 1.90999039051129e-01, 1e-10),
        (
            {name: [float(f"107.868{d}") for d in digits] for name, digits in ATMWTAG_DIGITS.items()},
            1.59467335677930e01,
            2.57426544538321e-01,
            1e-7,
        ),
        (smls(1, 21), 2.1e01, 4.82758620689655e-01, 1e-12),
        (smls(1, 201), 2.01e02, None, 1e-12),
        (smls(1, 2001), 2.001e03, None, 1e-12),
        (smls(1_000_000, 21), 2.1e01, 4.82758620689655e-01, 1e-8),
        (smls(1_000_000, 201), 2.01e02, None, 1e-8),
        (smls(1_000_000, 2001), 2.001e03, None, 1e-8),
    ],
    ids=["SiRstv", "AtmWtAg", "SmLs01", "SmLs02", "SmLs03", "SmLs04", "SmLs05", "SmLs06"],
)
def test_anova_reaches_nists_certified_values(
    groups: dict[str, list[float]], f: float, r_squared: float | None, digits: float
) -> None:
    # The digits that an offset takes away in writing 1000000.4 as a double cannot come back.
    result = run_test("anova", groups)
    assert result.statistic == pytest.approx(f, rel=digits)
    if r_squared is not None:
        assert result.effect_size == pytest.approx(r_squared, rel=digits)


@pytest.mark.parametrize("replicates", [21, 201])
def test_anova_of_nists_hardest_sets_is_right_for_the_doubles_it_was_given(replicates: int) -> None:
    # SmLs07 and SmLs08 (offset 1e12): the oracle is the textbook formula in exact rational arithmetic.
    groups = smls(10**12, replicates)
    exact = [[Fraction(value) for value in values] for values in groups.values()]
    n, k = sum(map(len, exact)), len(exact)
    grand = sum(map(sum, exact)) / n
    means = [sum(values) / len(values) for values in exact]
    between = sum(len(v) * (m - grand) ** 2 for v, m in zip(exact, means, strict=True)) / (k - 1)
    within = sum((x - m) ** 2 for v, m in zip(exact, means, strict=True) for x in v) / (n - k)
    assert run_test("anova", groups).statistic == pytest.approx(float(between / within), rel=1e-9)


def test_cliffs_variance_has_the_published_parts() -> None:
    # Hogarty & Kromrey (1999), "Using SAS to calculate tests of Cliff's delta", as quoted in the source of
    # R's effsize: the three variances are 0.2669753, 0.447 and 1.0055556.
    published = (5 * 0.2669753 + 9 * 0.447 + 1.0055556) / 60
    assert dominance_variance(-0.25, *DOMINANCE) == pytest.approx(published, rel=1e-6)


def test_cliffs_asymmetric_interval_agrees_with_effsize() -> None:
    # effsize::cliff.delta(treatment, control) prints -0.25, [-0.7265846, 0.3890062]. Its default is the
    # unbiased variance of Cliff (1993), written out here; the interval around it is the one under test.
    x, y = DOMINANCE
    matrix = np.sign(np.subtract.outer(x, y))
    rows, columns = (float(np.square(matrix.mean(axis) + 0.25).sum()) for axis in (1, 0))
    unbiased = (36 * rows + 100 * columns - float(np.square(matrix + 0.25).sum())) / (60 * 9 * 5)
    quantile = float(special.stdtrit(14, 0.975))
    assert asymmetric_interval(-0.25, unbiased, quantile) == pytest.approx((-0.7265846, 0.3890062), abs=5e-8)
    # The tests report the same interval around the consistent variance.
    result = run_test("mann_whitney", {"treatment": x, "control": y})
    assert result.effect_size == -0.25
    consistent = dominance_variance(-0.25, x, y)
    assert result.effect_size_interval == pytest.approx(asymmetric_interval(-0.25, consistent, quantile))

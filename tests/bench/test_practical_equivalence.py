"""The Bayesian tests with a region of practical equivalence: baycomp's numbers, what they assume, where they are said.

The recorded values are of baycomp 1.0.3 with numpy 2.4.6, made by this program:

    a, b, x, y = (np.array(values) for values in (FOLDS["a"], FOLDS["b"], SETS["x"], SETS["y"]))
    for rope, runs in ((0.01, 1), (0.005, 1), (0.02, 2), (0.03, 5)):
        print(baycomp.CorrelatedTTest.probs(a, b, rope, runs))
    for rope in (1 / 64, 2 / 64, 0.02):
        print(baycomp.SignedRankTest.probs(x, y, rope, nsamples=50000, random_state=7))
        print(baycomp.SignedRankTest.sample(x, y, rope, nsamples=50000, random_state=7)[:2])

Its probabilities are those of the left, first group, of the rope, and of the right, second one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from test_finding import bench

from crucible_bench import CannotTestError, Comparison, compare, practical_equivalence
from crucible_bench.data.pairs import pair_differences
from crucible_bench.data.sample import read_groups
from crucible_bench.decisions.practical_equivalence import _Regions
from crucible_core import InvalidOptionsError
from crucible_core.metrics import comparisons
from crucible_core.report import named_values, render_report
from crucible_core.report.comparison_section import comparison_section
from crucible_core.report.document import Items, Table

FOLDS = {
    "a": [0.81, 0.84, 0.79, 0.86, 0.83, 0.80, 0.85, 0.82, 0.88, 0.81],
    "b": [0.79, 0.83, 0.80, 0.82, 0.81, 0.77, 0.83, 0.82, 0.84, 0.80],
}
# In 64ths: differences and their sums are exact doubles, so that ties with the border are ties for baycomp too.
SETS = {
    "x": [n / 64 for n in (48, 51, 40, 60, 33, 52, 47, 50, 38, 41, 57, 44)],
    "y": [n / 64 for n in (45, 51, 41, 52, 31, 54, 46, 45, 38, 39, 50, 43)],
}
BY_T = [
    (0.01, 1, (0.8448738583556493, 0.1528949773754137, 0.0022311642689369915)),
    (0.005, 1, (0.9427301947784265, 0.050818355358222544, 0.006451449863351)),
    (0.02, 2, (0.41963940276871425, 0.5787248023203999, 0.001635794910885835)),
    (0.03, 5, (0.2488609224848732, 0.741217282371323, 0.009921795143803758)),
]
BY_RANKS = [
    (
        1 / 64,
        (0.87278, 0.12664, 0.00058),
        [
            (0.4687096236328133, 0.4709868309587112, 0.060303545408475476),
            (0.2938227270408111, 0.4911299258932551, 0.21504734706593376),
        ],
    ),
    (
        2 / 64,
        (0.39462, 0.60538, 0.0),
        [
            (0.3325257204539639, 0.6674533082380152, 2.0971308021000243e-05),
            (0.1909916423459218, 0.7834812903221612, 0.025527067331917043),
        ],
    ),
    (
        0.02,
        (0.73142, 0.26844, 0.00014),
        [
            (0.40932696693228243, 0.5863501109539481, 0.004322922113769475),
            (0.26387736510431725, 0.59391529942232, 0.14220733547336267),
        ],
    ),
]


def of(result: Any) -> tuple[float, float, float]:
    return result.p_first, result.p_equivalent, result.p_second


@pytest.mark.parametrize(("rope", "runs", "expected"), BY_T)
def test_the_correlated_t_test_is_baycomps(rope: float, runs: int, expected: tuple[float, ...]) -> None:
    result = practical_equivalence(FOLDS, rope, test="correlated_ttest", test_share=1 / (10 / runs - 1))
    assert of(result) == pytest.approx(expected, abs=1e-13)
    declared = compare(FOLDS, design="resampled", folds=10 // runs, repeats=runs, rope=rope)
    assert declared.bayesian == (result,)


@pytest.mark.parametrize(("rope", "expected", "first_draws"), BY_RANKS)
def test_the_signed_rank_test_is_baycomps_with_the_same_draws(
    rope: float, expected: tuple[float, ...], first_draws: list[tuple[float, ...]]
) -> None:
    samples = read_groups("rope", SETS)
    differences = pair_differences("rope", samples)
    regions = _Regions(np.concatenate(([0.0], differences.values)), differences, rope)
    weights = np.random.RandomState(7).dirichlet([0.5, *[1.0] * 12], 50_000)
    assert regions.shares(weights[:2]) == pytest.approx(np.array(first_draws), abs=1e-12)
    assert regions.won(weights) / 50_000 == pytest.approx(np.array(expected), abs=1e-12)
    drawn = practical_equivalence(SETS, rope, seed=3)
    assert of(drawn) == pytest.approx(expected, abs=3.5 * math.sqrt(2 * 0.25 / 50_000))


def test_sums_that_are_on_the_border_but_for_rounding_count_half() -> None:
    """0.84 - 0.83 and 0.81 - 0.80 are not the same double, and neither is 0.01."""
    hundredths = {"a": [0.84, 0.81, 0.56, 0.30], "b": [0.83, 0.80, 0.55, 0.29]}
    exact = {"a": [2.0, 3.0, 4.0, 5.0], "b": [1.0, 2.0, 3.0, 4.0]}
    assert of(practical_equivalence(hundredths, 0.01)) == of(practical_equivalence(exact, 1.0))


@pytest.mark.parametrize("test", ["correlated_ttest", "signed_rank"])
def test_what_must_not_matter_does_not(test: Any) -> None:
    groups = FOLDS if test == "correlated_ttest" else SETS
    (a, first), (b, second) = groups.items()
    result = practical_equivalence(groups, 0.02, test=test)
    assert of(practical_equivalence({b: second, a: first}, 0.02, test=test)) == pytest.approx(of(result)[::-1])
    lower = practical_equivalence(groups, 0.02, test=test, higher_is_better=False)
    assert of(lower) == pytest.approx(of(result)[::-1])
    scale = 2.0**-900
    tiny = {name: [scale * value for value in values] for name, values in groups.items()}
    assert of(practical_equivalence(tiny, 0.02 * scale, test=test)) == pytest.approx(of(result))
    assert sum(of(result)) == pytest.approx(1.0)
    turned = practical_equivalence({a: first[::-1], b: second[::-1]}, 0.02, test=test)
    assert of(turned) == pytest.approx(of(result), abs=0.02)
    assert of(practical_equivalence(groups, 1e9, test=test)) == pytest.approx((0.0, 1.0, 0.0), abs=1e-12)


def test_equal_groups_are_practically_equal_by_ranks_and_refused_by_t() -> None:
    same = {"a": FOLDS["a"], "b": FOLDS["a"]}
    assert of(practical_equivalence(same, 0.01)) == (0.0, 1.0, 0.0)
    with pytest.raises(CannotTestError, match=r"practical equivalence has no probability.*equal up to rounding"):
        practical_equivalence(same, 0.01, test="correlated_ttest")
    declared = compare({**FOLDS, "c": FOLDS["a"]}, design="resampled", folds=10, rope=0.01)
    assert [one.groups for one in declared.bayesian] == [("a", "b"), ("b", "c")]
    assert [(one.test, one.groups) for one in declared.untested] == [("rope", ("a", "c"))]
    assert "Not tested: a – c by rope (all 10 differences" in declared.sentence


@pytest.mark.slow
def test_a_bayesian_t_test_is_right_as_often_as_it_says() -> None:
    """Under its own model: differences drawn with a mean from a flat prior over a wide range."""
    rng, runs, k, share, rope = np.random.default_rng(5), 4000, 10, 1 / 9, 0.4
    rho = share / (1 + share)
    said, true = [], []
    for mean in rng.uniform(-6.0, 6.0, runs):
        d = mean + math.sqrt(rho) * rng.normal() + math.sqrt(1 - rho) * rng.normal(size=k)
        result = practical_equivalence({"a": d, "b": np.zeros(k)}, rope, test="correlated_ttest", test_share=share)
        said.append(result.p_equivalent)
        true.append(abs(mean) <= rope)
    assert np.mean(said) == pytest.approx(np.mean(true), abs=3.5 * math.sqrt(0.07 / runs))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "rope: its Bayesian tests are for pairs and folds, but the design is independent; a `margin` judges"),
        ({"design": "clustered"}, "but the design is clustered"),
        ({"design": "paired", "outcome": "ordinal"}, "rope: ordinal values have no distances"),
        ({"design": "paired", "outcome": "binary"}, "rope: binary values have no distances"),
        ({"design": "paired", "study": "sweep"}, "rope: a sweep asks which may be the best"),
        ({"design": "paired", "rope": 0.0}, "rope: it must be a positive number in units of the data, not 0.0"),
        ({"design": "paired", "rope": math.nan}, "rope: it must be a positive number"),
        ({"design": "paired", "rope": "small"}, "rope is a number, not 'small'"),
    ],
)
def test_a_rope_that_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        compare(FOLDS, **{"rope": 0.01, **options})


def test_of_many_groups_the_pairs_must_be_declared() -> None:
    three = {**FOLDS, "c": FOLDS["b"][::-1]}
    with pytest.raises(CannotTestError, match="there are 3 groups; declare with `compare`"):
        compare(three, design="paired", rope=0.01)
    assert len(compare(three, design="paired", rope=0.01, study="multiple_datasets").bayesian) == 3
    assert len(compare(three, design="paired", rope=0.01, compare="baseline", baseline="b").bayesian) == 2


def test_right_and_wrong_answers_are_listed_as_untested() -> None:
    answers = {"a": [True, False, True, True, False], "b": [False, False, True, True, True]}
    result = compare(answers, design="paired", rope=0.01)
    assert result.bayesian == ()
    assert result.untested[0].reason.startswith("right and wrong answers have no distances")


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: practical_equivalence(FOLDS, 0.0), CannotTestError, "must be a positive number"),
        (lambda: practical_equivalence({"a": [1.0]}, 1.0), CannotTestError, "it compares two groups"),
        (lambda: practical_equivalence({"a": [1.0], "b": [2.0]}, 1.0), CannotTestError, "at least two pairs"),
        (lambda: practical_equivalence({"a": [1.0, 2.0], "b": [2.0]}, 1.0), CannotTestError, "groups of one length"),
        (lambda: practical_equivalence(FOLDS, 1.0, test="t"), ValueError, "known: correlated_ttest, signed_rank"),
        (lambda: practical_equivalence(FOLDS, 1.0, test_share=-1.0), ValueError, "test_share must be"),
        (lambda: practical_equivalence(FOLDS, 1.0, draws=10), ValueError, "at least 100"),
    ],
)
def test_what_cannot_be_computed_is_refused(call: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


def test_the_finding_says_it_beside_the_test_and_the_json_keeps_it() -> None:
    result = compare(FOLDS, design="resampled", folds=10, rope=0.01)
    sentence = (
        "Bayesian, by a correlated t-test: P(a better by more than 0.01) = 0.84, P(practically equal) = 0.15, "
        "P(b better by more than 0.01) < 0.01."
    )
    assert result.sentence.endswith(sentence)
    assert result.method.endswith(sentence)
    plain = compare(FOLDS, design="resampled", folds=10)
    assert result.tests == plain.tests
    assert result.sentence.startswith(plain.sentence)
    assert Comparison.from_json(result.to_json()) == result
    assert result.to_dict()["bayesian"][0]["p_first"] == pytest.approx(BY_T[0][2][0])
    assert any(about == "rope" and choice.decision.startswith("Bayesian") for about, choice in result.decisions)


def test_the_probabilities_of_each_pair_have_names_for_gates() -> None:
    ctx = bench(FOLDS, design="resampled", folds=10, rope=0.01)
    names = [f"bench.a_vs_b.{key}" for key in ("p_first", "p_equivalent", "p_second")]
    assert [named_values(ctx)[name] for name in names] == pytest.approx(BY_T[0][2])
    assert "bench.a_vs_b.p_first" in render_report(ctx, "csv")


def test_a_bench_stage_takes_a_rope_and_the_report_shows_it() -> None:
    ctx = bench(FOLDS, design="resampled", folds=10, rope=0.01)
    section = comparison_section("bench", comparisons(ctx)["bench"])
    table = next(b for b in section.blocks if isinstance(b, Table) and b.columns[0] == "Bayesian correlated t-test")
    assert table.rows == (("a – b", "0.84", "0.15", "< 0.01"),)
    items = next(block for block in section.blocks if isinstance(block, Items))
    assert any(line.startswith("Bayesian correlated t-test: the differences of any two folds") for line in items.items)
    with pytest.raises(InvalidOptionsError, match="no margin, rope, reference or binary outcome"):
        bench(FOLDS, scale="log", design="paired", rope=0.01)

"""pass@k and majority@k against every draw of k answers, the published formula, and simulated coverage and level."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from crucible_bench import (
    CannotTestError,
    Comparison,
    clustered_mean,
    compare,
    majority_at_k,
    pair_by_item,
    pass_at_k,
    run_test,
)
from crucible_bench.evaluations.answers import _plurality, items_of_arms, with_answers
from crucible_bench.evaluations.mean_share import mean_share
from crucible_bench.hypothesis_tests.clusters import read_clusters

ITEMS = ["q1"] * 4 + ["q2"] * 3


def of_one(answers: Any, k: int, statistic: Any = pass_at_k, **options: Any) -> float:
    """The number of one item; the other one has nothing right."""
    other = ["?"] * k if options else [False] * k
    if options:
        options["expected"] = {"one": options["expected"], "other": "!"}
    found = statistic([*answers, *other], ["one"] * len(answers) + ["other"] * k, k, **options)
    assert found.values[1] == 0.0
    return float(found.values[0])


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_and_majority_are_the_shares_of_all_draws_of_k_answers(n: int) -> None:
    for right in range(n + 1):
        answers = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            draws = [sum(draw) for draw in itertools.combinations(answers, k)]
            assert of_one(answers, k) == pytest.approx(np.mean([drawn > 0 for drawn in draws]), abs=1e-15)
            more = np.mean([1.0 if 2 * drawn > k else 0.5 if 2 * drawn == k else 0.0 for drawn in draws])
            assert of_one(answers, k, majority_at_k) == pytest.approx(more, abs=1e-15)


@pytest.mark.parametrize("answers", ["aaabbc", "aabbcc", "abcdef", "aaaaab", "bbbcca", "abbbb", "bbccdd", "aabbccd"])
def test_the_plurality_of_texts_is_that_of_all_draws_and_ties_are_split(answers: str) -> None:
    for k in range(1, len(answers) + 1):
        won = []
        for draw in itertools.combinations(answers, k):
            counts = Counter(draw)
            first = [text for text, count in counts.items() if count == max(counts.values())]
            won.append(("a" in first) / len(first))
        assert of_one(answers, k, majority_at_k, expected="a") == pytest.approx(np.mean(won), abs=1e-14)


def test_the_formula_is_that_of_chen_et_al_also_for_many_answers() -> None:
    """Chen et al. 2021, figure 3: 1 - prod(1 - k / arange(n - c + 1, n + 1))."""
    for n, c, k in [(200, 3, 1), (200, 3, 10), (200, 3, 100), (10_000, 1, 5), (10_000, 7, 9_000)]:
        published = 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))
        assert of_one([True] * c + [False] * (n - c), k) == pytest.approx(published, rel=1e-9)
    # where the published product cancels: one right answer of a billion draws
    assert of_one([True] + [False] * 99_999, 1) == 1e-05
    assert 0.5 < of_one(["a"] * 400 + ["b"] * 350 + ["c"] * 250, 101, majority_at_k, expected="a") < 1.0
    assert _plurality(1000, (), 500) == 1.0


def test_more_texts_of_one_item_than_can_be_counted_are_refused() -> None:
    with pytest.raises(
        CannotTestError, match=r"item 'one' of 'answers' has 1,001 answers; texts are counted up to 1,000"
    ):
        of_one(["a"] * 1001, 3, majority_at_k, expected="a")


def test_the_interval_is_wilsons_for_outcomes_and_that_of_the_mean_for_many_items() -> None:
    answers = np.random.default_rng(1).random(4000) < 0.3
    items = np.repeat(np.arange(1000), 4)
    once = pass_at_k(answers[::4], items[::4], 1)
    wilson = proportion_confint(int(answers[::4].sum()), 1000, method="wilson")
    assert once.value == answers[::4].mean()
    assert once.interval == pytest.approx(wilson, abs=2e-4)  # t with 999 degrees of freedom, and n - 1
    found = pass_at_k(answers, items, 2)
    numbers = np.array(found.values)
    reach = 1.962 * numbers.std(ddof=1) / math.sqrt(1000)
    assert found.interval == pytest.approx((numbers.mean() - reach, numbers.mean() + reach), abs=1e-3)
    always = pass_at_k([True] * 60, np.repeat(np.arange(20), 3), 2)
    assert (always.value, always.interval[1]) == (1.0, 1.0)
    assert 0.8 < always.interval[0] < 0.9


def test_the_variance_of_a_share_is_that_of_the_clustered_mean() -> None:
    labels = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 2, 2])
    values = np.random.default_rng(3).random(labels.size)
    expected = clustered_mean(values, labels)
    found = mean_share(values, read_clusters("test", labels, labels.size))
    assert (found.value, found.df, found.clusters) == pytest.approx((expected.value, expected.df, 9))
    variance = found.value * (1 - found.value) / found.effective
    assert variance == pytest.approx(expected.standard_error**2)
    low, high = found.interval(0.9)
    statistic, p = mean_share(values - found.value + 0.5).from_half  # nothing but the half
    assert (statistic, p) == pytest.approx((0.0, 1.0), abs=1e-9)
    assert 0.0 < low < found.value < high < 1.0


def test_interval_and_test_of_one_half_agree() -> None:
    rng = np.random.default_rng(8)
    for _ in range(200):
        values = rng.choice([0.0, 0.5, 1.0], size=25, p=[0.25, 0.2, 0.55])
        share = mean_share(values)
        low, high = share.interval(0.95)
        assert (share.from_half[1] <= 0.05) == (not low <= 0.5 <= high)


def test_arms_are_compared_item_by_item_as_any_pairs() -> None:
    rng = np.random.default_rng(5)
    items = np.repeat([f"q{i}" for i in range(60)], 8)
    order = rng.permutation(480)
    chance = np.repeat(rng.beta(0.5, 0.5, 60), 8)
    arms = {
        "new": pass_at_k((rng.random(480) < chance + 0.1)[order], items[order], 4),
        "old": pass_at_k(rng.random(480) < chance, items, 4),
    }
    groups = pair_by_item(arms)
    assert groups["old"] == [
        dict(zip(arms["old"].items, arms["old"].values, strict=True))[q] for q in arms["new"].items
    ]
    result = compare(groups, design="paired", margin=0.02, measure="pass@4")
    assert result.tests[0].test == "paired_ttest"
    assert result.tests[0].estimate == pytest.approx(arms["new"].value - arms["old"].value)
    assert json.loads(json.dumps(arms["new"].to_dict()))["values"] == list(arms["new"].values)


def test_what_is_left_out_is_refused_or_listed() -> None:
    right = [True, False, True, False, True, True, False]
    with pytest.raises(CannotTestError, match=r"1 of 2 items of 'answers' have fewer \('q2' has 3\)"):
        pass_at_k(right, ITEMS, 4)
    with pytest.raises(CannotTestError, match="1 item of 'answers' has 4 answers or more"):
        pass_at_k(right, ITEMS, 4, fewer="drop")
    longer = [*ITEMS, "q3", "q3", "q3", "q3", "q4"]
    some = pass_at_k([*right, True, True, True, False, True], longer, 4, fewer="drop")
    assert (some.items, some.left_out, some.answers) == (("q1", "q3"), ("q2", "q4"), 12)
    assert (some.fewest, some.most, some.name) == (4, 4, "pass@4")
    every = pass_at_k([True] * 12 + [False] * 4, [*(f"q{i}" for i in (1, 3, 5) for _ in range(4)), *["q2"] * 4], 4)
    with pytest.raises(
        CannotTestError,
        match=r"item 'q2' has fewer than 4 answers of some; item 'q4' has fewer than 4 answers of some and no answer "
        r"of every; item 'q5' has no answer of some; `missing: drop`",
    ):
        pair_by_item({"some": some, "every": every})
    assert pair_by_item({"some": some, "every": every}, lacking="drop") == {"some": [1.0, 1.0], "every": [1.0, 1.0]}
    with pytest.raises(CannotTestError, match="not by pass@2 and pass@4"):
        pair_by_item({"some": some, "other": pass_at_k(right, ITEMS, 2)})


@pytest.mark.parametrize(
    ("answers", "k", "expected", "error", "said"),
    [
        ([1, 0, 2, 0, 1, 1, 0], 2, None, CannotTestError, r"has 2\.0 at position 2"),
        ([1, 0, None, 0, 1, 1, 0], 2, None, CannotTestError, "missing"),
        ([1, 0, 1], 2, None, CannotTestError, "3 values but 7 cluster labels"),
        ([1, 0, 1, 0, 1, 1, 0], 0, None, ValueError, "at least 1, not 0"),
        (list("abcabca"), 2, {"q1": "a"}, CannotTestError, "no expected answer to the item 'q2'"),
        (["a", [1], *"cabca"], 2, {"q1": "a", "q2": "b"}, CannotTestError, "at position 1 is a list"),
        (["a", None, *"cabca"], 2, {"q1": "a", "q2": "b"}, CannotTestError, "at position 1 is missing"),
        ("abcabca", 2, {"q1": "a", "q2": "b"}, CannotTestError, "must be a sequence of answers, not str"),
    ],
)
def test_bad_answers_are_refused_with_the_reason(answers: Any, k: int, expected: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        majority_at_k(answers, ITEMS, k, expected=expected)


def test_the_comparison_says_what_its_values_are_made_of_also_when_read_back() -> None:
    arms = {
        "new": pass_at_k([True, True, False, True, True, False], [1, 1, 2, 2, 3, 3], 2),
        "old": pass_at_k([True, False, False, False, False, False], [1, 1, 2, 2, 3, 3], 2),
    }
    of = items_of_arms(arms, "refuse")
    result = with_answers(compare(of.values, design="paired", measure="pass@2"), of.values, of.used)
    assert Comparison.from_json(result.to_json()) == result
    assert result.replicate == "items"
    assert result.sentence.endswith("n = 3 items.")
    assert result.groups["new"].mean_interval == pytest.approx(arms["new"].interval)
    assert any("3 items are few" in check for check in result.checks)


# --- what the intervals and the test keep ---------------------------------------------------------------------------


def drawn(rng: Any, chance: Any, answers: int, k: int) -> Any:
    table = [1.0 - math.comb(answers - c, k) / math.comb(answers, k) for c in range(answers + 1)]
    return np.array(table)[rng.binomial(answers, chance)]


@pytest.mark.slow
@pytest.mark.parametrize(("answers", "k"), [(1, 1), (10, 1), (10, 5), (10, 10), (20, 2)])
def test_intervals_over_items_cover_and_the_paired_test_keeps_its_level(answers: int, k: int) -> None:
    rng = np.random.default_rng(answers * 100 + k)
    shapes = {
        "uneven": lambda n: rng.beta(0.5, 0.5, n),
        "easy": lambda n: np.where(rng.random(n) < 0.07, rng.beta(1, 8, n), rng.beta(20, 1, n)),
        "hard": lambda n: np.where(rng.random(n) < 0.85, 0.01, rng.beta(1, 1, n)),
        "middling": lambda n: rng.beta(4, 4, n),
    }
    for name, chances in shapes.items():
        truth = (1.0 - (1.0 - chances(400_000)) ** k).mean()
        covered = rejected = 0
        for _ in range(300):
            items = chances(100)
            first, second = (drawn(rng, items, answers, k) for _ in range(2))
            low, high = mean_share(first).interval(0.95)
            covered += bool(low <= truth <= high)
            binary = np.isin((first, second), (0.0, 1.0)).all()
            try:
                test = run_test("mcnemar_midp" if binary else "paired_ttest", {"a": first, "b": second})
            except CannotTestError:
                continue  # identical arms
            rejected += test.significant
        assert covered / 300 > 0.93 - 2.6 * math.sqrt(0.07 * 0.93 / 300), (name, covered)
        assert rejected / 300 < 0.06 + 2.6 * math.sqrt(0.06 * 0.94 / 300), (name, rejected)

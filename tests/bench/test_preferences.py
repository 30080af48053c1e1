"""Preferences against published strengths, statsmodels and hand counts; what has no finite strength; coverage."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from crucible_bench import CannotTestError, Comparison, adjust_p_values, clustered_mean, compare_preferences
from crucible_bench.comparison import comparison_numbers
from crucible_bench.evaluations.bradley_terry import bradley_terry, sides
from crucible_bench.evaluations.mean_share import mean_share

NAMES = ["a", "b", "c"]


def drawn(
    strengths: Any,
    items: int,
    per_item: int = 2,
    *,
    seed: int = 1,
    ties: float = 0.2,
    spread: float = 0.7,
    place: float = 0,
) -> list[dict[str, Any]]:
    """Comparisons of random pairs; the arms' strengths vary from item to item."""
    rng = np.random.default_rng(seed)
    records = []
    for item in range(items):
        own = dict(zip(strengths, rng.normal(list(strengths.values()), spread), strict=True))
        for judge in range(per_item):
            first, second = rng.permutation(list(own))[:2]
            wins = rng.random() < 1 / (1 + math.exp(own[second] - own[first] - place))
            winner = "tie" if rng.random() < ties else first if wins else second
            records.append(
                {"first": str(first), "second": str(second), "winner": str(winner), "judge": f"j{judge}", "item": item}
            )
    return records


def counted(first: str, second: str, wins: int, losses: int, ties: int = 0) -> list[dict[str, str]]:
    winners = [first] * wins + [second] * losses + ["tie"] * ties
    return [{"first": first, "second": second, "winner": winner} for winner in winners]


RECORDS = drawn({"a": 1.0, "b": 0.0, "c": 0.3}, 80)


# --- strengths ------------------------------------------------------------------------------------------------------


def test_strengths_are_the_published_ones_of_the_citations_between_journals() -> None:
    """Stigler 1994, as in Agresti 2002, page 448; fitted in Turner & Firth 2012 (BradleyTerry2), section 2."""
    citations = [
        ("Biometrika", "Comm Statist", 730, 33),
        ("Biometrika", "JASA", 498, 320),
        ("Biometrika", "JRSS-B", 221, 284),
        ("Comm Statist", "JASA", 68, 813),
        ("Comm Statist", "JRSS-B", 17, 276),
        ("JASA", "JRSS-B", 142, 325),
    ]
    result = compare_preferences([one for row in citations for one in counted(*row)], baseline="Biometrika")
    assert result.preferences is not None
    found = {arm.name: arm.strength for arm in result.preferences.arms}
    published = {"JRSS-B": 0.26895, "Biometrika": 0.0, "JASA": -0.47957, "Comm Statist": -2.94907}
    assert list(found) == list(published)
    assert found == pytest.approx(published, abs=5e-6)


def design(records: Any, names: Any) -> tuple[Any, Any, Any]:
    x = np.array([[(one["first"] == name) - (one["second"] == name) for name in names] for one in records], dtype=float)
    y = np.array([0.5 if one["winner"] == "tie" else float(one["winner"] == one["first"]) for one in records])
    return x, y, np.array([one["item"] for one in records])


def test_strengths_and_intervals_are_those_of_a_clustered_logit_in_statsmodels() -> None:
    x, y, items = design(RECORDS, NAMES)
    kinds = {"groups": items, "use_correction": False}
    fit = sm.GLM(y, x[:, 1:], family=sm.families.Binomial()).fit(cov_type="cluster", cov_kwds=kinds)
    result = compare_preferences(RECORDS, item="item", baseline="a", confidence_level=0.9)
    assert result.preferences is not None
    reach = stats.t.ppf(0.95, 79) * fit.bse * math.sqrt(80 / 79)
    for place, name in enumerate(NAMES[1:]):
        (arm,) = (one for one in result.preferences.arms if one.name == name)
        assert arm.strength == pytest.approx(fit.params[place], abs=1e-7)
        assert arm.interval == pytest.approx(
            (fit.params[place] - reach[place], fit.params[place] + reach[place]), abs=1e-6
        )
    mean = compare_preferences(RECORDS, item="item").preferences
    assert mean is not None
    contrast = np.eye(3)[:, 1:] - np.ones((3, 2)) / 3
    errors = np.sqrt(np.diag(contrast @ fit.cov_params() @ contrast.T) * 80 / 79)
    for place, name in enumerate(NAMES):
        (arm,) = (one for one in mean.arms if one.name == name)
        assert arm.strength == pytest.approx(contrast[place] @ fit.params, abs=1e-7)
        assert arm.interval is not None
        half = (arm.interval[1] - arm.interval[0]) / 2
        assert half == pytest.approx(stats.t.ppf(0.975, 79) * errors[place], rel=1e-6)


def test_without_ties_they_are_those_of_a_logit() -> None:
    records = drawn({"a": 1.0, "b": 0.0, "c": 0.3}, 60, ties=0.0)
    x, y, _ = design(records, NAMES)
    fit = sm.Logit(y, x[:, 1:]).fit(disp=False)
    result = compare_preferences(records, baseline="a").preferences
    assert result is not None
    assert {arm.name: arm.strength for arm in result.arms if arm.name != "a"} == pytest.approx(
        dict(zip(NAMES[1:], fit.params, strict=True)), abs=1e-6
    )


# --- win rates ------------------------------------------------------------------------------------------------------


def test_win_rates_count_ties_half_and_have_the_variance_over_items() -> None:
    result = compare_preferences(RECORDS, item="item", judge="judge", groups=NAMES)
    family = result.comparisons
    assert family is not None
    assert result.preferences is not None
    ps = []
    for pair, outcomes in zip(family.comparisons, result.preferences.pairs, strict=True):
        own = [one for one in RECORDS if {one["first"], one["second"]} == {pair.first, pair.second}]
        scores = [0.5 if one["winner"] == "tie" else float(one["winner"] == pair.first) for one in own]
        assert (outcomes.wins, outcomes.ties, outcomes.losses) == tuple(scores.count(s) for s in (1.0, 0.5, 0.0))
        mean = clustered_mean(scores, [one["item"] for one in own])
        assert pair.estimate == pytest.approx(mean.value)
        worth = mean.value * (1 - mean.value) / mean.standard_error**2
        statistic = (mean.value - 0.5) * 2 * math.sqrt(worth)
        assert (pair.statistic, pair.df[0]) == pytest.approx((statistic, mean.df))
        ps.append(2 * stats.t.sf(abs(statistic), mean.df))
        quantile = stats.t.ppf(1 - 0.05 / 3 / 2, mean.df)
        low, high = pair.confidence_interval  # Wilson's: both ends are as far from the rate as the quantile
        for end in (low, high):
            assert abs(mean.value - end) / math.sqrt(end * (1 - end) / worth) == pytest.approx(quantile)
    assert [pair.p_value for pair in family.comparisons] == pytest.approx(ps)
    assert [pair.p_adjusted for pair in family.comparisons] == pytest.approx(adjust_p_values(ps, "holm"))
    by_judge = {
        pair: [one for one in result.preferences.judged if (one.first, one.second) == pair]
        for pair in itertools.combinations(NAMES, 2)
    }
    for outcomes in result.preferences.pairs:
        own_judges = by_judge[outcomes.first, outcomes.second]
        assert [one.judge for one in own_judges] == ["j0", "j1"]
        assert sum(one.wins for one in own_judges) == outcomes.wins
        assert sum(one.n * one.rate for one in own_judges) == pytest.approx(outcomes.n * outcomes.rate)


def test_independent_wins_and_losses_have_wilsons_interval() -> None:
    result = compare_preferences(counted("a", "b", 620, 380))
    assert result.comparisons is not None
    (pair,) = result.comparisons.comparisons
    assert pair.confidence_interval == pytest.approx(proportion_confint(620, 1000, method="wilson"), abs=2e-4)
    assert result.sentence.startswith(
        "a is preferred to b: win rate of a 0.62, 95% CI [0.5895, 0.6496], t(999) = 7.586"
    )
    assert result.sentence.endswith("a has 620 wins, 0 ties and 380 losses in 1,000 comparisons.")
    turned = compare_preferences(counted("b", "a", 380, 620))
    assert turned.sentence == result.sentence
    assert turned.headline == result.headline == "a is preferred to b: win rate of a 0.62, 95% CI 0.59 to 0.65."
    even = compare_preferences(counted("a", "b", 20, 18, 5))
    assert even.sentence.startswith("a and b could not be told apart: win rate of a 0.52")


def test_judgements_of_one_item_by_copies_of_a_judge_say_nothing_new() -> None:
    once = compare_preferences(drawn({"a": 1.0, "b": 0.0}, 40, 1), item="item")
    again = compare_preferences([one for one in drawn({"a": 1.0, "b": 0.0}, 40, 1) for _ in range(5)], item="item")
    assert once.comparisons is not None
    assert again.comparisons is not None
    for attribute in ("estimate", "confidence_interval", "p_value"):
        first, second = (getattr(one.comparisons.comparisons[0], attribute) for one in (once, again))
        assert first == pytest.approx(second)
    strengths = [one.preferences.arms[0].interval for one in (once, again)]
    assert strengths[0] == pytest.approx(strengths[1])


def test_position_bias_is_judged_where_both_orders_count_alike() -> None:
    """a is far better and mostly shown first; each is preferred by a tenth more in the first place."""
    result = compare_preferences(counted("a", "b", 90, 10) * 8 + counted("b", "a", 30, 70))
    assert result.preferences is not None
    place = result.preferences.position
    assert place is not None
    assert (place.n, place.rate) == (900, pytest.approx((0.9 + 0.3) / 2))
    error = math.sqrt((0.9 * 0.1 / 800 + 0.3 * 0.7 / 100) / 4)
    assert place.interval == pytest.approx((0.6 - 1.96 * error, 0.6 + 1.96 * error), abs=2e-3)
    assert "Position bias: the arm shown first has a win rate of 0.6" in result.sentence
    assert any("a was shown first in 800 of 900 comparisons with b" in note for note in result.preferences.notes)
    alone = compare_preferences(counted("a", "b", 9, 6))
    assert alone.preferences is not None
    assert alone.preferences.position is None
    assert any("15 comparisons of pairs that were shown in one order only" in note for note in alone.preferences.notes)


# --- what has no finite answer ---------------------------------------------------------------------------------------


def reasons(result: Comparison) -> dict[str, str | None]:
    assert result.preferences is not None
    return {arm.name: arm.reason for arm in result.preferences.arms if arm.strength is None}


def test_an_arm_that_wins_always_has_a_rate_with_an_interval_and_no_strength() -> None:
    result = compare_preferences(counted("a", "b", 30, 0))
    assert reasons(result) == {
        "a": "a won every one of 30 comparisons, so no finite strength fits",
        "b": "b lost every one of 30 comparisons, so no finite strength fits",
    }
    assert result.comparisons is not None
    low, high = result.comparisons.comparisons[0].confidence_interval
    assert 0.85 < low < 0.9
    assert high == 1.0
    assert "a won every one of 30 comparisons, so no finite strength fits." in result.sentence
    others = compare_preferences([*counted("a", "b", 30, 0), *counted("b", "c", 12, 8), *counted("a", "c", 5, 0)])
    assert reasons(others) == {"a": "a won every one of 35 comparisons, so no finite strength fits"}
    assert others.preferences is not None
    assert [arm.name for arm in others.preferences.arms] == ["b", "c", "a"]
    assert others.preferences.arms[0].strength == pytest.approx(math.log(12 / 8) / 2)


def test_two_sides_of_which_one_wins_always_are_said_to_be_two_sides() -> None:
    records = [*counted("a", "b", 5, 6), *counted("c", "d", 7, 5), *counted("a", "c", 4, 0), *counted("b", "d", 3, 0)]
    side = "is on a side that won or lost every comparison with the other, so no finite strength fits"
    assert reasons(compare_preferences(records)) == {"a": f"a {side}", "b": f"b {side}"}


def test_arms_that_nothing_connects_are_said_to_be_apart() -> None:
    records = [*counted("a", "b", 5, 6), *counted("a", "c", 5, 6), *counted("x", "y", 7, 5)]
    result = compare_preferences(records, groups=["a", "b", "c", "x", "y", "z"])
    apart = "was never compared with a, b, c, nor through others, so nothing connects their strengths"
    assert reasons(result) == {"x": f"x {apart}", "y": f"y {apart}"}
    assert result.comparisons is not None
    assert [(one.first, one.second) for one in result.comparisons.comparisons] == [("a", "b"), ("a", "c"), ("x", "y")]
    assert result.sentence.endswith("Not tested: z by preferences (it has no comparison).")
    assert any("7 pairs of arms never compared with each other" in note for note in result.comparisons.notes)


def test_pairs_of_one_item_are_not_tested_and_count_in_the_correction() -> None:
    records = [{**one, "item": place} for place, one in enumerate(counted("a", "b", 12, 3))]
    records += [{**one, "item": "same"} for one in counted("a", "c", 6, 3)]
    result = compare_preferences(records, item="item")
    assert result.comparisons is not None
    assert result.comparisons.size == 2
    (pair,) = result.comparisons.comparisons
    assert pair.p_adjusted == pytest.approx(min(1.0, 2 * pair.p_value))
    assert result.sentence.endswith(
        "Not tested: a – c by preferences (9 comparisons of one item; at least two items are needed)."
    )


def test_one_judge_and_missing_winners_are_said() -> None:
    records = [{**one, "judge": "gpt"} for one in counted("a", "b", 12, 9)]
    records.append({"first": "a", "second": "b", "winner": None, "judge": "gpt"})
    with pytest.raises(CannotTestError, match=r"1 comparison of 22 without a winner \(record 21\)"):
        compare_preferences(records, judge="judge")
    result = compare_preferences(records, judge="judge", missing="drop")
    assert result.preferences is not None
    assert "gpt judged every comparison, so nothing says how another judge would decide" in result.preferences.notes
    assert "in 21 comparisons by gpt. " in result.sentence
    assert result.sentence.endswith("Left out because no winner is given: 1 of 22 comparisons.")


def test_very_many_rates_of_judges_are_left_out_and_it_is_said() -> None:
    records = [
        {**one, "judge": place % 70}
        for pair in itertools.combinations(NAMES, 2)
        for place, one in enumerate(counted(*pair, 40, 40))
    ]
    result = compare_preferences(records, judge="judge").preferences
    assert result is not None
    assert (len(result.pairs), len(result.judges), result.judged) == (3, 70, ())
    assert any("3 pairs by 70 judges are more than 200 rates" in note for note in result.notes)


def test_winners_may_be_named_by_their_field_and_ties_by_several_words() -> None:
    records: list[dict[str, Any]] = [
        {"model_a": one["first"], "model_b": one["second"], "winner": "model_a" if one["winner"] == "a" else "model_b"}
        for one in counted("a", "b", 7, 4)
    ]
    records += [{"model_a": "b", "model_b": "a", "winner": word} for word in ("tie", "both bad")]
    result = compare_preferences(records, first="model_a", second="model_b", ties=["tie", "both bad"])
    assert result.preferences is not None
    (pair,) = result.preferences.pairs
    assert (pair.wins, pair.ties, pair.losses) == (7, 2, 4)


@pytest.mark.parametrize(
    ("records", "options", "said"),
    [
        ([], {}, "there is no comparison of two arms"),
        ("ab", {}, "records are a sequence of mappings, not str"),
        ([1], {}, "record 0 is a int, not a mapping"),
        ([{"first": "a", "second": "b"}], {}, "record 0 lacks 'winner'"),
        ([{"first": "a", "second": "a", "winner": "a"}], {}, "record 0 compares 'a' with itself"),
        ([{"first": "a", "second": None, "winner": "a"}], {}, "record 0 has no second in 'second': None"),
        ([{"first": "a", "second": "b", "winner": "c"}], {}, "'c', which is neither 'a' nor 'b', nor a tie"),
        (counted("a", "b", 2, 2), {"item": "prompt"}, "record 0 lacks 'prompt'"),
        (counted("a", "b", 1, 0), {}, "no pair of arms can be compared: 1 comparison of one item"),
        (counted("a", "b", 3, 4), {"baseline": "c"}, "there is no comparison with 'c'; arms: 'a', 'b'"),
        (counted("a", "b", 3, 4), {"groups": ["a"]}, "there is no comparison of two arms"),
    ],
)
def test_records_that_cannot_be_read_are_refused_with_the_reason(records: Any, options: Any, said: str) -> None:
    with pytest.raises(CannotTestError) as caught:
        compare_preferences(records, **options)
    assert said in str(caught.value)


def test_all_ties_are_one_half_with_an_interval_and_equal_strengths() -> None:
    result = compare_preferences(counted("a", "b", 0, 0, 40))
    assert result.comparisons is not None
    assert result.preferences is not None
    pair = result.comparisons.comparisons[0]
    assert (pair.estimate, pair.p_value, pair.significant) == (0.5, 1.0, False)
    assert pair.confidence_interval[0] < 0.4 < 0.6 < pair.confidence_interval[1]
    assert [arm.strength for arm in result.preferences.arms] == pytest.approx([0.0, 0.0])


def test_the_result_is_a_comparison_that_reads_its_json() -> None:
    for records, options in [
        (RECORDS, {"item": "item", "judge": "judge", "measure": "helpfulness"}),
        (RECORDS, {"baseline": "b", "correction": "none"}),
        (counted("a", "b", 30, 0), {}),
    ]:
        result = compare_preferences(records, **options)
        assert Comparison.from_json(result.to_json()) == result
        assert (result.to_dict()["kind"], result.to_dict()["version"]) == ("comparison", 2)
    numbers = dict(comparison_numbers(compare_preferences(RECORDS, groups=NAMES)))
    assert {"a.strength", "a.mean", "a_vs_b.estimate", "a_vs_b.p_adjusted"} <= numbers.keys()


def test_the_sentence_says_of_every_pair_what_its_numbers_say() -> None:
    for seed in range(12):
        result = compare_preferences(drawn({"a": 0.9, "b": 0.0, "c": 0.2}, 60, seed=seed), item="item", measure="tone")
        family = result.comparisons
        assert family is not None
        apart = sum(pair.significant for pair in family.comparisons)
        assert result.sentence.startswith(
            f"{apart} of 3 pairs {'shows' if apart == 1 else 'show'} a preference in tone"
        )
        for pair in family.comparisons:
            better, other = (pair.first, pair.second) if pair.estimate > 0.5 else (pair.second, pair.first)
            said = f"{better} is preferred to {other} (win rate of {better} 0." in result.sentence
            assert said == pair.significant
            assert (f"{pair.first} and {pair.second} could not be told apart" in result.sentence) != pair.significant


# --- what the intervals and the test keep ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("items", [12, 40, 100])
def test_rates_and_strengths_cover_and_the_test_keeps_its_level(items: int) -> None:
    rng = np.random.default_rng(items)
    strengths = np.array([0.0, 0.4, 1.2])

    def sample(count: int, truth: Any) -> tuple[Any, Any, Any, Any]:
        own = truth + rng.normal(0, 0.8, (count, 3))
        first = rng.integers(0, 3, (count, 3))
        second = (first + rng.integers(1, 3, (count, 3))) % 3
        rows = np.arange(count)[:, None]
        wins = rng.random((count, 3)) < 1 / (1 + np.exp(own[rows, second] - own[rows, first]))
        scores = np.where(rng.random((count, 3)) < 0.2, 0.5, wins)
        return first.ravel(), second.ravel(), scores.ravel(), np.repeat(np.arange(count), 3)

    first, second, scores, codes = sample(300_000, strengths)
    truth = bradley_terry(first, second, scores, codes, 3).strengths
    rate = float(np.where(first < second, scores, 1 - scores)[first + second == 2].mean())  # of arm 0 against arm 2
    runs, covered, of_rate, rejected, fitted = 400, np.zeros(3), 0, 0, 0
    for _ in range(runs):
        first, second, scores, codes = sample(items, strengths)
        if len(set(sides(first, second, scores, 3)[1])) == 1:
            fit = bradley_terry(first, second, scores, codes, 3)
            found, errors = fit.against(None)
            covered += np.abs(found - truth) <= stats.t.ppf(0.975, fit.df) * errors
            fitted += 1
        for of, null in ((strengths, False), (np.zeros(3), True)):
            first, second, scores, codes = sample(items, of)
            own = first + second == 2
            share = mean_share(
                np.where(first < second, scores, 1 - scores)[own], np.unique(codes[own], return_inverse=True)[1]
            )
            low, high = share.interval(0.95)
            of_rate += bool(not null and low <= rate <= high)
            rejected += bool(null and share.from_half[1] <= 0.05)
    noise = 2.6 * math.sqrt(0.07 * 0.93 / runs)
    assert fitted > 0.9 * runs
    assert (covered / fitted > 0.93 - noise).all(), covered / fitted
    assert of_rate / runs > 0.93 - noise
    assert rejected / runs < 0.06 + noise

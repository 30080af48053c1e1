"""Watching a metric against its baseline: the same night after night as at once, and one error rate for all looks."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from crucible_bench import CannotTestError, betting_sequence, run_test, watch_baseline

UNIT = (0.0, 1.0)
RNG = np.random.default_rng(41)
BASELINE = RNG.normal(0.80, 0.015, 20)
SAME = RNG.normal(0.80, 0.015, 50)
WORSE = RNG.normal(0.70, 0.015, 50)
BOTH: list[dict[str, Any]] = [{}, {"bounds": UNIT}]


@pytest.mark.parametrize("options", BOTH)
def test_looking_night_after_night_gives_what_looking_once_does(options: dict[str, Any]) -> None:
    at_once = watch_baseline(BASELINE, SAME, **options)
    assert at_once.n == len(at_once.estimates) == 50
    for night in (1, 2, 7, 23, 50):
        tonight = watch_baseline(BASELINE, SAME[:night], **options)
        assert tonight.interval == pytest.approx((at_once.lower[night - 1], at_once.upper[night - 1]))
        assert tonight.estimates == pytest.approx(at_once.estimates[:night])


def test_a_drop_is_found_within_few_nights_and_no_drop_is_not() -> None:
    dropped = watch_baseline(BASELINE, WORSE)
    assert dropped.verdict == "worse"
    assert dropped.first_worse is not None
    assert dropped.first_worse <= 8
    steady = watch_baseline(BASELINE, SAME, margin=0.05)
    assert (steady.verdict, steady.first_worse) == ("not_worse", None)
    assert watch_baseline(WORSE, BASELINE).verdict == "better"
    assert watch_baseline(BASELINE, WORSE, higher_is_better=False).verdict == "better"
    assert watch_baseline(WORSE, BASELINE, higher_is_better=False).verdict == "worse"


def test_bounds_alone_find_a_drop_more_slowly() -> None:
    dropped = watch_baseline(0.8, WORSE, bounds=UNIT)
    assert dropped.verdict == "worse"
    assert dropped.first_worse is not None
    assert 9 <= dropped.first_worse <= 20
    large = watch_baseline(BASELINE, WORSE - 0.3, bounds=UNIT)
    assert large.first_worse is not None
    assert large.first_worse <= 20
    assert watch_baseline(BASELINE, SAME, bounds=UNIT).first_worse is None


def test_intervals_are_not_vacuous_after_five_to_fifty_nights() -> None:
    normal = watch_baseline(BASELINE, SAME)
    bounded = watch_baseline(0.8, SAME, bounds=UNIT)
    widths = {n: (normal.upper[n - 1] - normal.lower[n - 1], bounded.upper[n - 1] - bounded.lower[n - 1])
              for n in (5, 10, 50)}  # fmt: skip
    assert widths[5][0] < 0.5
    assert widths[10][0] < 0.06
    assert widths[50][0] < 0.04
    assert widths[5][1] < 0.75  # of 1, which nothing known would leave
    assert widths[10][1] < 0.45
    assert widths[50][1] < 0.12


def test_bounded_values_that_never_vary_are_watched_almost_as_sharply_as_is_possible() -> None:
    # Values of 0.8 may come from a metric that is 0 now and then: n of them in a row have probability at least alpha
    # while the mean is above 0.8 alpha**(1 / n), so no valid lower end lies higher.
    for n in (10, 50, 200):
        low = watch_baseline(0.8, [0.8] * n, bounds=UNIT).interval[0] + 0.8
        best = 0.8 * 0.05 ** (1 / n)
        assert best - 0.16 * (10 / n) ** 0.5 <= low <= best
    assert watch_baseline(0.8, [0.8] * 50).verdict == "undecided"
    assert "too much alike" in watch_baseline(0.8, [0.8] * 50).notes[0]


def test_a_baseline_that_is_a_number_costs_no_alpha() -> None:
    fixed, measured = watch_baseline(0.8, SAME), watch_baseline(BASELINE, SAME)
    assert fixed.n_baseline == 0
    assert fixed.interval[1] - fixed.interval[0] < measured.interval[1] - measured.interval[0]
    assert watch_baseline(np.float32(0.5), SAME) == watch_baseline(0.5, SAME)
    assert watch_baseline(1, [1.2, 0.7, 0.9]).estimates == pytest.approx((0.2, -0.05, -1 / 15))


def test_a_mean_that_changes_while_it_is_watched_is_noted() -> None:
    moved = watch_baseline(BASELINE, [*SAME[:15], *(SAME[15:] - 0.3)])
    assert any("the mean has changed" in note for note in moved.notes)
    assert not any("changed" in note for note in watch_baseline(BASELINE, SAME).notes)


def test_units_and_direction_do_not_matter() -> None:
    plain = watch_baseline(BASELINE, WORSE, margin=0.01)
    scaled = watch_baseline(1e200 * BASELINE, 1e200 * WORSE, margin=1e198)
    turned = watch_baseline(-BASELINE, -WORSE, margin=0.01, higher_is_better=False)
    assert scaled.interval == pytest.approx([1e200 * end for end in plain.interval])
    assert turned.interval == pytest.approx([-end for end in reversed(plain.interval)])
    assert plain.verdict == scaled.verdict == turned.verdict == "worse"
    assert plain.first_worse == scaled.first_worse == turned.first_worse


@pytest.mark.parametrize("kind", ["normal", "bounded", "coins"])
@pytest.mark.slow
def test_looking_every_night_for_fifty_nights_errs_with_at_most_alpha(kind: str) -> None:
    alpha, runs, rng, wrong = 0.2, (600 if kind == "normal" else 120), np.random.default_rng(17), 0
    for _ in range(runs):
        if kind == "normal":
            found = watch_baseline(rng.normal(0, 1, 12), rng.normal(0, 1, 50), alpha=alpha)
        elif kind == "bounded":
            found = watch_baseline(rng.beta(8, 2, 12), rng.beta(8, 2, 50), bounds=UNIT, alpha=alpha)
        else:
            found = watch_baseline(0.7, (rng.random(50) < 0.7) * 1.0, bounds=UNIT, alpha=alpha)
        wrong += max(found.lower) > 0.0 or min(found.upper) < 0.0
    assert wrong / runs <= alpha + 3.5 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.slow
def test_a_measured_baseline_costs_no_second_alpha() -> None:
    # An interval of each mean at alpha / 2 would alarm in 0.1 % (normal values) and never (coins).
    rng, alpha, runs, alarms, widths = np.random.default_rng(23), 0.05, 2000, 0, []
    for _ in range(runs):
        found = watch_baseline(rng.normal(0, 1, 12), rng.normal(0, 1, 50), alpha=alpha)
        alarms += max(found.lower) > 0.0 or min(found.upper) < 0.0
        widths.append(found.interval[1] - found.interval[0])
    assert 0.2 * alpha <= alarms / runs <= alpha
    assert np.median(widths) < 2.1  # 2.48 by two intervals; 1.31 by a t-test of a single look
    coins = [(rng.random((2, 50)) < 0.7) * 1.0 for _ in range(40)]
    change = [np.ptp(watch_baseline(first, later, bounds=UNIT).interval) for first, later in coins]
    apart = [
        sum(np.ptp(betting_sequence(side, UNIT, alpha=0.025, caps=(0.5, 0.99)).interval) for side in pair)
        for pair in coins
    ]
    assert np.median(change) < 0.85 * np.median(apart)


def test_the_change_is_the_bayes_factor_of_the_two_sample_t() -> None:
    """The interval's ends are where the Bayes factor of Gonen et al. (2005), equation 4, is 1 / alpha."""
    alpha, m, n = 0.05, BASELINE.size, 7
    found = watch_baseline(BASELINE, SAME[:n], alpha=alpha, tightest_at=8)
    r = (m * 8 / (m + 8)) / (-float(special.lambertw(-(alpha**2) / math.e, -1).real) - 1)
    for end in found.interval:
        t = float(stats.ttest_ind(SAME[:n] - end, BASELINE).statistic)
        df, growth = m + n - 2, 1 + (m * n / (m + n)) / r
        factor = ((1 + t**2 / df) / (1 + t**2 / (df * growth))) ** ((df + 1) / 2) / math.sqrt(growth)
        assert factor == pytest.approx(1 / alpha)


def test_a_t_test_every_night_errs_far_more_often() -> None:
    # Five looks at the accumulating data, no difference: every p-value at 0.05.
    runs, rng = 4000, np.random.default_rng(3)
    x, y = rng.normal(size=(2, runs, 100))
    looks = [stats.ttest_ind(x[:, :n], y[:, :n], axis=1, equal_var=False).pvalue for n in (20, 40, 60, 80, 100)]
    p_values = np.column_stack(looks)
    assert run_test("ttest", {"a": x[0], "b": y[0]}).p_value == pytest.approx(p_values[0, -1])
    naive = int((p_values.min(axis=1) <= 0.05).sum())
    assert naive / runs > 0.11  # Armitage, McPherson & Rowe (1969), table 2: 0.142 for five looks


def test_caps_split_the_capital() -> None:
    cautious, bold = betting_sequence(SAME, UNIT), betting_sequence(SAME, UNIT, caps=(0.99,))
    split = betting_sequence(SAME, UNIT, caps=(0.5, 0.99))
    assert cautious.interval[0] < split.interval[0] <= bold.interval[0]
    for wrong in ((), (0.0,), (0.5, 1.0)):
        with pytest.raises(ValueError, match="cap"):
            betting_sequence(SAME, UNIT, caps=wrong)


def test_a_watch_is_plain_json_and_bad_questions_are_refused() -> None:
    found = watch_baseline(0.8, SAME[:2])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["lower"] == [None, None]
    for baseline, options, said in (
        ([0.5], {}, "do not vary"),
        ([0.5, 0.5], {}, "do not vary"),
        (math.nan, {}, "finite number, or several"),
        (True, {}, "finite number, or several"),
        ([0.5, 1.5], {"bounds": UNIT}, "outside the bounds"),
        ([1.7e308, 1.6e308], {}, "the range of double precision; rescale"),
    ):
        with pytest.raises(CannotTestError, match=said):
            watch_baseline(baseline, [-0.5, -1.7e308, 0.1] if "rescale" in said else [0.2, 0.1], **options)
    with pytest.raises(ValueError, match="margin must be a number"):
        watch_baseline(BASELINE, SAME, margin=-1.0)

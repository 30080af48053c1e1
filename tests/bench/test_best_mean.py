"""The mean of the best of several: the formula, the coverage that is promised, where it is said."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_finding import bench

from crucible_bench import (
    CannotTestError,
    Comparison,
    clustered_mean,
    compare,
    indistinguishable_from_best,
    mean_of_best,
)
from crucible_bench.decisions.differences import Differences
from crucible_core.metrics import comparisons
from crucible_core.report import render_report

SWEEP = {
    "lr=0.1": [0.80, 0.82, 0.81, 0.79, 0.83],
    "lr=0.01": [0.84, 0.83, 0.85, 0.82, 0.84],
    "lr=0.001": [0.835, 0.82, 0.84, 0.85, 0.81],
    "lr=1": [0.50, 0.55, 0.40, 0.61, 0.52],
}


def by_t(values: list[float], tail: float, share: float = 0.0) -> tuple[float, float]:
    x, n = np.array(values), len(values)
    error = math.sqrt(x.var(ddof=1) * (1 / n + share))
    return float(x.mean() - stats.t.isf(tail, n - 1) * error), float(x.mean() + stats.t.isf(tail, n - 1) * error)


def test_the_end_on_the_worse_side_is_corrected_for_all_groups() -> None:
    best = mean_of_best(SWEEP)
    own = SWEEP["lr=0.01"]
    assert (best.name, best.picked_from, best.n) == ("lr=0.01", 4, 5)
    assert best.mean == pytest.approx(np.mean(own))
    assert best.uncorrected == pytest.approx(by_t(own, 0.025))
    assert best.interval == pytest.approx((by_t(own, 0.025 / 4)[0], by_t(own, 0.025)[1]))
    losses = {name: [-value for value in values] for name, values in SWEEP.items()}
    assert mean_of_best(losses, higher_is_better=False).interval == pytest.approx(
        tuple(-e for e in best.interval[::-1])
    )
    assert mean_of_best(SWEEP, confidence_level=0.9).interval == pytest.approx(
        (by_t(own, 0.05 / 4)[0], by_t(own, 0.05)[1])
    )


def test_values_that_belong_together_are_corrected_on_both_sides() -> None:
    own = SWEEP["lr=0.01"]
    assert mean_of_best(SWEEP, paired=True).interval == pytest.approx(by_t(own, 0.025 / 4))
    folds = mean_of_best(SWEEP, difference=Differences("resampled", test_share=0.25))
    assert folds.interval == pytest.approx(by_t(own, 0.025 / 4, 0.25))
    clusters = ["x", "x", "y", "z", "z"]
    clustered = mean_of_best(SWEEP, difference=Differences("clustered", clusters))
    assert clustered.interval == clustered_mean(own, clusters, confidence_level=1 - 0.05 / 4).interval
    by_name = mean_of_best(SWEEP, difference=Differences("clustered", dict.fromkeys(SWEEP, clusters)))
    assert by_name.interval == clustered.interval


def test_a_share_has_the_exact_interval() -> None:
    answers = {"a": [True] * 18 + [False] * 2, "b": [True] * 15 + [False] * 5}
    exact = stats.binomtest(18, 20)
    low = exact.proportion_ci(1 - 0.05 / 2, method="exact").low
    assert mean_of_best(answers).interval == pytest.approx((low, exact.proportion_ci(0.95, method="exact").high))
    always = mean_of_best({"a": [True] * 5, "b": [True, False] * 3})
    assert always.interval == pytest.approx(((0.05 / 4) ** (1 / 5), 1.0))


RUNS = 500
BOUND = 0.95 - 3.5 * math.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(
    ("means", "sds", "n"),
    [
        ([0.0] * 10, [1.0] * 10, 8),
        ([0.0] * 10, [float(sd) for sd in range(1, 11)], 4),
        ([0.0, -0.1, -0.5, -3.0], [1.0, 2.0, 1.0, 0.2], 5),
        ([0.0, 0.0], [1.0, 1.0], 3),
    ],
)
def test_it_covers_the_mean_of_the_one_that_came_out_best(
    means: list[float], sds: list[float], n: int, paired: bool
) -> None:
    rng, covered, ordinary = np.random.default_rng(6), 0, 0
    for _ in range(RUNS):
        shared = rng.normal(size=n) if paired else np.zeros(n)
        groups = {
            str(i): mean + sd * (0.8 * shared + (0.6 if paired else 1.0) * rng.normal(size=n))
            for i, (mean, sd) in enumerate(zip(means, sds, strict=True))
        }
        best = mean_of_best(groups, paired=paired)
        true = means[int(best.name)]
        covered += best.interval[0] <= true <= best.interval[1]
        ordinary += best.uncorrected[0] <= true <= best.uncorrected[1]
    assert covered / RUNS >= BOUND
    if means == [0.0] * 10 and sds[0] == sds[-1] and not paired:
        assert ordinary / RUNS < 0.85  # what the correction is for


@pytest.mark.slow
@pytest.mark.parametrize(("share", "n"), [(0.95, 30), (0.5, 30)])
def test_it_covers_the_share_of_the_one_that_came_out_best(share: float, n: int) -> None:
    rng, covered = np.random.default_rng(7), 0
    for _ in range(RUNS):
        best = mean_of_best({str(i): (rng.random(n) < share).astype(float) for i in range(10)})
        covered += best.interval[0] <= share <= best.interval[1]
    assert covered / RUNS >= BOUND


def test_the_sweep_says_what_the_mean_of_its_leader_is_likely_to_be() -> None:
    result = compare(SWEEP, study="sweep")
    assert result.best is not None
    assert result.best.mean == mean_of_best(SWEEP)
    sentence = (
        "The mean of lr=0.01 is likely lower than it looks, because the best of 4 was picked: 95% CI for the mean of "
        "the one that came out best [0.8140, 0.8502]."
    )
    assert result.sentence.endswith(sentence)
    assert result.method.endswith(sentence)
    assert "1.28 times as wide as if lr=0.01 had been named" in result.best.mean.notes[0]
    assert "likely higher than it looks" in compare(SWEEP, study="sweep", higher_is_better=False).sentence
    assert Comparison.from_json(result.to_json()) == result
    assert json.loads(result.to_json())["best"]["mean"]["picked_from"] == 4
    wider = compare(SWEEP, study="sweep", confidence_level=0.99).best
    assert wider is not None
    assert wider.mean is not None
    assert wider.mean.interval == mean_of_best(SWEEP, confidence_level=0.99).interval


def test_the_report_has_it_and_a_logarithmic_scale_is_undone() -> None:
    html = render_report(bench(SWEEP, study="sweep"), "html")
    assert "because the best of 4 was picked" in html
    assert "1.28 times as wide" in html
    best = comparisons(bench(SWEEP, study="sweep", scale="log"))["bench"].best
    assert best is not None
    assert best.mean is not None
    plain = mean_of_best({name: list(np.log(values)) for name, values in SWEEP.items()})
    assert best.mean.interval == pytest.approx(tuple(map(math.exp, plain.interval)))
    assert best.mean.mean == pytest.approx(stats.gmean(SWEEP["lr=0.01"]))


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": [1.0, 2.0]}, "there are fewer than two groups, so none was picked as the best"),
        ({"a": [9.0], "b": [1.0, 2.0]}, "group 'a' has one value, so its mean has no interval"),
        ({"a": [9.0, 9.0, 9.0], "b": [1.0, 2.0]}, "the values of 'a' are all equal"),
    ],
)
def test_what_has_no_interval_is_refused(groups: dict[str, Any], said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        mean_of_best(groups)


def test_a_leader_without_an_interval_leaves_the_rest_of_the_sweep() -> None:
    best = indistinguishable_from_best({"a": [9.0, 9.0, 9.0], "b": [1.0, 2.0, 1.5]})
    assert best.leader == "a"
    assert best.mean is None
    assert "the values of 'a' are all equal, so its mean has no interval" in best.notes

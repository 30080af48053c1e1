"""`scale: log`: the comparison of logarithms, told as ratios."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_finding import bench

from crucible_core import InvalidOptionsError, StageFailedError
from crucible_core.metrics import comparisons
from crucible_core.report import headline, render_report

_DRAW = np.random.default_rng(3)
NEW, OLD, OLDEST = (list(map(float, _DRAW.lognormal(mean, 0.6, 40))) for mean in (-1.6, -1.0, -0.9))


def test_the_ratio_and_its_interval_are_those_of_welch_on_the_logarithms() -> None:
    ctx = bench({"new": NEW, "old": OLD}, scale="log", measure="seconds")
    test = comparisons(ctx)["bench"].tests[0]
    expected = stats.ttest_ind(np.log(NEW), np.log(OLD), equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert test.p_value == pytest.approx(expected.pvalue)
    assert test.estimate == pytest.approx(stats.gmean(NEW) / stats.gmean(OLD))
    assert test.confidence_interval == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert (test.estimate_name, test.null_value) == ("ratio of geometric means (new / old)", 1.0)
    assert headline(ctx).startswith("new is lower than old in seconds: ratio of geometric means (new / old) 0.")


def test_where_less_is_better_the_lower_geometric_mean_beats_the_other() -> None:
    said = headline(bench({"old": OLD, "new": NEW}, scale="log", measure="seconds", higher_is_better=False))
    assert said.startswith("new beats old in seconds: ratio of geometric means (old / new) 1.")


def test_groups_are_in_the_units_of_the_data() -> None:
    group = comparisons(bench({"new": NEW, "old": OLD}, scale="log"))["bench"].groups["new"]
    assert group.mean == pytest.approx(stats.gmean(NEW))
    assert group.sd == pytest.approx(stats.gstd(NEW))
    assert group.values == pytest.approx(NEW)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"tests": ["mann_whitney"]}, "Hodges-Lehmann ratio (new / old)"),
        ({"design": "paired"}, "ratio of geometric means (new / old)"),
        ({"design": "paired", "tests": ["sign"]}, "median ratio (new / old)"),
    ],
)
def test_every_difference_becomes_a_ratio(options: dict[str, Any], name: str) -> None:
    test = comparisons(bench({"new": NEW, "old": OLD}, scale="log", **options))["bench"].tests[0]
    assert test.estimate_name == name
    assert 0 < test.confidence_interval[0] < test.estimate < test.confidence_interval[1]


def test_the_pairs_of_a_family_are_ratios_too() -> None:
    ctx = bench({"new": NEW, "old": OLD, "oldest": OLDEST}, scale="log", compare="all_pairs")
    family = comparisons(ctx)["bench"].comparisons
    assert family is not None
    assert (family.estimate_name, family.null_value) == ("ratio of geometric means", 1.0)
    for pair, (one, other) in zip(family.comparisons, ((NEW, OLD), (NEW, OLDEST), (OLD, OLDEST)), strict=True):
        assert pair.estimate == pytest.approx(stats.gmean(one) / stats.gmean(other))
    html = render_report(ctx, "html")
    assert "ratio of geometric means" in html
    assert "geometric mean [95% CI]" in html
    assert "diamonds: geometric means with 95% CI." in html


def test_what_has_no_logarithm_is_refused_with_its_place() -> None:
    with pytest.raises(StageFailedError, match="group 'old', position 2: 0 has no logarithm; values must be above 0"):
        bench({"new": NEW, "old": [1.0, 2.0, 0.0]}, scale="log")


@pytest.mark.parametrize(
    "options", [{"margin": 0.1}, {"outcome": "binary"}, {"design": "one_sample", "reference": 1.0}]
)
def test_what_a_logarithmic_scale_does_not_take_is_refused_before_there_are_data(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionsError, match="scale: log compares positive numbers by ratios"):
        bench({"new": NEW, "old": OLD}, scale="log", **options)

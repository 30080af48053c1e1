"""Level and coverage of every path of `auto` and the verdicts, in the short form of `make calibration`."""

from __future__ import annotations

import itertools
from typing import get_args

import calibration
import numpy as np
import pytest
from calibration import Found, Scenario

from crucible_bench import choose_family, compare
from crucible_bench.hypothesis_tests.choose_test import RULES
from crucible_bench.vocabulary import Comparing, Design, Outcome

RUNS = 100
PARTS = 12

found: dict[Scenario, Found] = {}


@pytest.mark.slow
@pytest.mark.xdist_group("calibration")
@pytest.mark.parametrize("part", range(PARTS))
def test_no_path_errs_more_than_it_says(part: int) -> None:
    own = {scenario: calibration.simulate(scenario, RUNS) for scenario in calibration.core()[part::PARTS]}
    found.update(own)
    assert own
    assert calibration.broken(own) == []


@pytest.mark.slow
@pytest.mark.xdist_group("calibration")
def test_every_path_that_can_be_taken_was() -> None:
    paths = {path for of in (found or simulated()).values() for path, _ in of}
    tests = {rule.test for rule in RULES if (rule.design, rule.groups) != ("clustered", "more")}  # pairs in their place
    assert tests <= paths
    assert families() <= {path.split(" of ")[0] for path in paths}
    assert {path.removeprefix("verdict by ") for path in paths if path.startswith("verdict")} == {
        *("Miettinen-Nurminen score", "Tango score", "Welch t", "cluster-robust t", "corrected resampled t"),
        "paired t",
    }
    assert any(path.startswith("subset selection") for path in paths)


def simulated() -> dict[Scenario, Found]:
    """One run of each scenario: where the test runs alone, the paths are all that is asked."""
    return {scenario: calibration.simulate(scenario, 0) for scenario in calibration.core()}


def families() -> set[str]:
    """What a comparison without a declared family may take."""
    chosen = {
        choose_family(outcome, design, comparing, smallest=smallest).family
        for outcome, design, comparing, smallest in itertools.product(
            get_args(Outcome), get_args(Design), get_args(Comparing), (5, 50)
        )
    }
    return {*chosen, "nemenyi"}  # that of several data sets


def test_a_promise_that_is_broken_is_found() -> None:
    scenario = next(one for one in calibration.scenarios() if one.name == "one sample | normal | 30")
    declared = {**scenario.declared, "reference": 1.0}
    wrong = Scenario(scenario.design, scenario.shape, scenario.sizes, scenario.draw, declared, {"0": 1.0})
    (sentence, *_) = calibration.broken({wrong: calibration.simulate(wrong, 60)})
    assert "one_sample_ttest" in sentence


def test_normal_values_are_not_warned_of_once_there_are_enough() -> None:
    rng = np.random.default_rng(8)
    results = [compare({"a": rng.normal(size=30), "b": rng.normal(size=40)}) for _ in range(100)]
    assert sum(map(calibration.is_warned, results)) <= 12
    assert calibration.is_warned(compare({"a": rng.normal(size=9), "b": rng.normal(size=40)}))
    assert not calibration.is_warned(compare({"a": rng.random(9) < 0.5, "b": rng.random(40) < 0.5}))


def test_the_table_of_the_page_is_the_long_forms() -> None:
    page = calibration.PAGE.read_text(encoding="utf-8")
    written = page.split(calibration.BEGIN)[1].split(calibration.END)[0]
    rows = [line.split(" | ") for line in written.splitlines() if line.startswith("| ")][2:]
    promised = {words: promise for promise, words in calibration.WORDS.items()}
    assert len(rows) > 60
    for path, error, *_, silent in rows:
        rate, runs = silent.removesuffix(" |").replace(",", "").split(" of ")
        limit = calibration.MOST_WRONG[promised[error]]
        assert calibration.at_least(round(float(rate) * int(runs)), int(runs)) <= limit, path

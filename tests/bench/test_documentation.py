"""docs/statistics.md names what there is, and nothing that there is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

import crucible_bench
from crucible_bench.hypothesis_tests.choose_test import RULES
from crucible_bench.power.power import PlannedTest
from crucible_bench.vocabulary import (
    CORRECTION_ALIASES,
    EFFECT_SIZES,
    CorrectionName,
    EffectSizeName,
    FamilyName,
    TestName,
)

PAGE = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")
QUOTED = set(re.findall(r"`([a-z_0-9]+)", PAGE))


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    ("vocabulary", "title"),
    [
        (TestName, "Tests"),
        (EffectSizeName, "Effect sizes"),
        (CorrectionName, "Families"),
        (FamilyName, "Families"),
        (PlannedTest, "Planning"),
    ],
)
def test_every_name_of_the_vocabularies_is_explained(vocabulary: object, title: str) -> None:
    explained = set(re.findall(r"`([a-z_0-9]+)`", section(title)))
    assert [name for name in get_args(vocabulary) if name not in explained] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.outcome}-{rule.design}-{rule.groups}")
def test_every_rule_of_auto_stands_on_the_page_with_its_reason_and_source(rule: object) -> None:
    row = [getattr(rule, field) for field in ("outcome", "design", "groups", "test", "reason", "source")]
    assert f"| {' | '.join(row)} |" in section("How `auto` chooses")


def test_the_page_has_no_more_rules_than_there_are() -> None:
    rows = [line for line in section("How `auto` chooses").splitlines() if line.startswith("| ")]
    assert len(rows) == len(RULES) + 2


def test_every_function_that_the_page_names_exists() -> None:
    known = {*crucible_bench.__all__, *EFFECT_SIZES, *get_args(EffectSizeName), *get_args(CorrectionName)}
    known |= {*get_args(FamilyName), *CORRECTION_ALIASES}
    other = {
        *(
            "alternative",
            "auto",
            "axis",
            "baseline",
            "bench",
            "benchmarks",
            "checks",
            "clustered",
            "crucible",
            "crucible_bench",
        ),
        *(
            "discordant",
            "majority_at",
            "make",
            "more_replicates",
            "multiple_datasets",
            "one_sample",
            "outcome",
            "paired",
            "pass_at",
            "planned",
            "preferences",
            "python",
        ),
        *("resampled", "sweep", "tests", "untested"),
        *("correlated_ttest", "margin", "resamples", "rope", "scale", "signed_rank", "strata", "stratified"),
    }
    assert sorted(QUOTED - known - other) == []
    assert sorted(other - QUOTED) == []


def test_every_function_of_the_package_is_on_the_page() -> None:
    functions = {name for name in crucible_bench.__all__ if callable(getattr(crucible_bench, name))}
    functions = {name for name in functions if name.islower()}
    assert sorted(functions - QUOTED - {"canonical_test_name"}) == []

"""Missing values are listed, and dropped only when asked, with a record."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crucible_bench import CannotTestError, MissingValue, drop_missing, find_missing, run_test

GROUPS = {"a": [1.0, None, 3.0, 4.0, math.nan], "b": [2.0, 5.0, math.nan, 1.0]}


def test_missing_values_are_found_by_group_and_position_and_nothing_is_changed() -> None:
    before = {name: list(values) for name, values in GROUPS.items()}
    assert find_missing(GROUPS) == (  # type: ignore[arg-type]
        MissingValue("a", 1, "missing"),
        MissingValue("a", 4, "missing"),
        MissingValue("b", 2, "missing"),
    )
    assert {name: str(values) for name, values in GROUPS.items()} == {n: str(v) for n, v in before.items()}
    assert find_missing({"a": [1.0, 2.0], "b": np.array([1, 2])}) == ()


def test_independent_groups_lose_only_their_own_missing_values() -> None:
    found = drop_missing(GROUPS)  # type: ignore[arg-type]
    assert found.groups == {"a": [1.0, 3.0, 4.0], "b": [2.0, 5.0, 1.0]}
    assert found.dropped == find_missing(GROUPS)  # type: ignore[arg-type]
    assert found.notes == ("2 values of group 'a' dropped, missing", "1 value of group 'b' dropped, missing")
    assert run_test("ttest", found.groups).n == (3, 3)
    assert found.to_dict()["dropped"][0] == {"group": "a", "position": 1, "reason": "missing"}


def test_pairs_are_dropped_together_and_values_past_the_shorter_group_have_no_partner() -> None:
    found = drop_missing(GROUPS, paired=True)  # type: ignore[arg-type]
    assert found.groups == {"a": [1.0, 4.0], "b": [2.0, 1.0]}
    assert {(place.group, place.position): place.reason for place in found.dropped} == {
        ("a", 1): "missing",
        ("a", 2): "partner missing",
        ("a", 4): "missing",
        ("b", 1): "partner missing",
        ("b", 2): "missing",
    }
    longer = drop_missing({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0]}, paired=True)
    assert longer.groups == {"a": [1.0, 2.0], "b": [4.0, 5.0]}
    assert longer.dropped == (MissingValue("a", 2, "without partner"),)
    assert longer.notes == ("1 value of group 'a' dropped, without partner",)


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.0, np.nan, 3.0]),
        np.array([1.0, None, 3.0], dtype=object),
        np.ma.masked_array([1.0, 2.0, 3.0], mask=[0, 1, 0]),
        pd.Series([1.0, None, 3.0]),
        pd.array([1, pd.NA, 3], dtype="Int64"),
        [1.0, pd.NA, 3.0],
        [1.0, np.float32("nan"), 3.0],
        np.array(["2020-01-01", "NaT", "2020-01-03"], dtype="datetime64[D]"),
    ],
    ids=lambda values: f"{type(values).__name__} {getattr(values, 'dtype', '')}",
)
def test_each_kind_of_missing_value_is_known(values: Any) -> None:
    assert find_missing({"a": values}) == (MissingValue("a", 1, "missing"),)
    kept = list(drop_missing({"a": values}).groups["a"])
    assert kept == [values[0], values[2]]


def test_types_and_whatever_is_wrong_rather_than_missing_are_left_for_the_test() -> None:
    wrong: dict[str, Any] = {"a": [True, None, False], "b": [1.0, math.inf, "x"], "c": np.array([1, 2, 3])}
    found = drop_missing(wrong)
    assert found.groups["a"] == [True, False]
    assert found.groups["b"] == [1.0, math.inf, "x"]
    assert found.groups["c"] is wrong["c"]
    with pytest.raises(CannotTestError, match="'x' at position 2"):
        run_test("ttest", {"b": found.groups["b"], "c": found.groups["c"]})


@pytest.mark.parametrize("values", ["12", {1: 2}, iter([1.0]), np.ones((2, 2)), 3.0])
def test_what_is_no_row_of_values_is_refused(values: Any) -> None:
    with pytest.raises(CannotTestError, match=r"must be a sequence|one row of numbers"):
        find_missing({"a": values})


def test_groups_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(CannotTestError, match="must be a mapping"):
        drop_missing([[1.0, 2.0]])  # type: ignore[arg-type]

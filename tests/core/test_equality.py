"""Equality of any two values that a Context may hold."""

from __future__ import annotations

import datetime
import math
import pickle
import random
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

from crucible_core.values.equality import same
from crucible_core.values.immutable import PersistentDict, PersistentList


class Color(Enum):
    RED = "red"


@dataclass
class Fit:
    weights: Any
    name: str = "fit"


class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    weights: Any


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


FITTED = [
    LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]),
    RandomForestClassifier(n_estimators=2, random_state=0).fit([[0.0], [1.0]], [0, 1]),
]

VALUES: list[Any] = [
    None, True, 0, 1, 2**70, 0.0, -1.5, math.nan, math.inf, "a", b"a", 1 + 2j, complex(math.nan, 0),
    [], [1, math.nan], (), (1, "a"), {}, {"a": [math.nan]}, {1: 2}, set(), {1, 2}, frozenset({1}),
    deque([1, math.nan]), OrderedDict(a=1), defaultdict(list, a=[1]), Counter("aab"), range(3), Fraction(1, 3),
    PersistentList([1, math.nan]), PersistentDict({"a": math.nan}), Color.RED, Path("a/b"),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.timedelta(seconds=1),
    np.float32(math.nan), np.float64(math.nan), np.int8(3), np.bool_(True), np.datetime64("NaT"), np.array(5),
    np.array([1.0, math.nan]), np.array([["a", "b"]]), np.array([]), np.array([1, None, math.nan], dtype=object),
    np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), np.array(["2026-01-01", "NaT"], dtype="datetime64[D]"),
    np.ma.masked_array([1.0, 2.0], mask=[True, False]), np.array([1 + 2j, complex(math.nan, 1)]),
    pd.DataFrame({"a": [1.0, math.nan], "b": ["x", None]}), pd.Series([1.0, math.nan]), pd.Index([1, 2]),
    pd.Timestamp("2026-01-01"), pd.NaT, pd.NA, pd.Categorical(["a", "b"]),
    Fit([1, math.nan]), Fit(np.array([1.0, math.nan])), Fit(Fit(np.arange(3))), Model(weights=[1]),
    Model(weights=np.array([1.0, math.nan])), Plain(math.nan), Plain(np.arange(2)), Slotted(1), Slotted(np.arange(2)),
    random.Random(1), np.random.default_rng(0), print, int, *FITTED,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_the_same_as_what_comes_back_from_another_process(value: Any) -> None:
    back = pickle.loads(pickle.dumps(value))
    assert same(value, back)
    assert same(back, value)
    assert same([value], [back])
    assert same({"k": (value,)}, {"k": (back,)})


@pytest.mark.parametrize("left", range(len(VALUES)))
def test_values_that_differ_are_not_the_same(left: int) -> None:
    # Whatever the two are, the answer is a bool, the same in both directions, and no warning or error.
    for right in range(len(VALUES)):
        found = same(VALUES[left], VALUES[right])
        assert isinstance(found, bool)
        assert found == same(VALUES[right], VALUES[left])
        assert found == (left == right), (VALUES[left], VALUES[right])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 3.0])),
        (np.array([1.0]), np.array([1])),
        (np.array([1, 2]), np.array([[1, 2]])),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
        (pd.Series([1, 2], index=["a", "b"]), pd.Series([1, 2])),
        (Fit(np.arange(3)), Fit(np.arange(4))),
        (Fit(1, "a"), Fit(1, "b")),
        (Plain(1), Plain(2)),
        (Slotted(1), Slotted(2)),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({1, 2}, {1, 3}),
        (0.0, 1e-300),
        ("a", "A"),
        (LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])),
    ],
)
def test_a_change_of_content_is_seen(left: Any, right: Any) -> None:
    assert not same(left, right)
    assert not same([left], [right])


def test_values_that_contain_themselves_are_compared() -> None:
    def loop(value: int) -> list[Any]:
        made: list[Any] = [value]
        made.append(made)
        return made

    assert same(loop(1), loop(1))
    assert not same(loop(1), loop(2))
    one, two = Plain(1), Plain(1)
    one.value, two.value = one, two
    assert same(one, two)


class Rude:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("I am not compared")

    __hash__ = None


def test_a_value_that_refuses_to_be_compared_is_the_same_as_itself_only() -> None:
    rude = Rude()
    assert same(rude, rude)
    assert not same(Rude(), Rude())


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3) | st.tuples(inner)
    ),
)


@given(plain)
def test_any_plain_value_is_the_same_as_its_copy(value: Any) -> None:
    assert same(value, pickle.loads(pickle.dumps(value)))


@given(plain, plain)
def test_sameness_has_no_direction(left: Any, right: Any) -> None:
    assert same(left, right) == same(right, left)

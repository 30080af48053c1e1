"""Any value as JSON: by the documented table, and without ever raising."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretStr

from crucible_core.values.immutable import PersistentDict, PersistentList
from crucible_core.values.jsonable import MAX_DEPTH, MAX_ELEMENTS, safe_text, to_json_text, to_jsonable, type_name


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


@dataclass
class Point:
    x: float
    more: Any = None


class Account(BaseModel):
    name: str
    password: SecretStr
    score: float = 0.0


class Text(str):
    pass


TABLE = [
    (None, None),
    (True, True),
    (0, 0),
    (2**63 - 1, 2**63 - 1),
    (-(2**63) + 1, -(2**63) + 1),
    (2**63, "9223372036854775808"),
    (10**30, "1" + "0" * 30),
    (10**5000, hex(10**5000)),
    (1.5, 1.5),
    (-0.0, -0.0),
    (5e-324, 5e-324),
    (math.nan, "NaN"),
    (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
    ("a", "a"),
    ("ä😀", "ä😀"),
    ("a\x00b", "a\\u0000b"),
    ("a\udc80", "a\\udc80"),
    (Text("a"), "a"),
    ([1, (2, [3])], [1, [2, [3]]]),
    (deque([1, 2]), [1, 2]),
    (range(3), [0, 1, 2]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({1, "a", None}, ["a", 1, None]),
    ({"a": {"b": 1}}, {"a": {"b": 1}}),
    ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
    ({(1, 2): "a"}, {"[1, 2]": "a"}),
    ({"a\ud800": 1}, {"a\\ud800": 1}),
    ({datetime.date(2026, 1, 2): 1, Color.RED: 2, 1.5: 3}, {"2026-01-02": 1, "red": 2, "1.5": 3}),
    (MappingProxyType({"a": 1}), {"a": 1}),
    (OrderedDict(a=1), {"a": 1}),
    (PersistentDict({"a": 1}), {"a": 1}),
    (PersistentList([1]), [1]),
    (Point(1.0, [math.nan]), {"x": 1.0, "more": ["NaN"]}),
    (
        Account(name="a", password="hunter2", score=math.inf),
        {"name": "a", "password": "**********", "score": "Infinity"},
    ),
    (np.float32(0.5), 0.5),
    (np.float64(math.nan), "NaN"),
    (np.float16(2), 2.0),
    (np.longdouble(1.5), 1.5),
    (np.int64(7), 7),
    (np.uint64(2**64 - 1), str(2**64 - 1)),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.array(3), 3),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (np.array([1.0, math.nan]), [1.0, "NaN"]),
    (np.array([]), []),
    (np.array(["a"]), ["a"]),
    (np.zeros((100, 101)), {"type": "numpy.ndarray", "dtype": "float64", "shape": [100, 101]}),
    (pd.Series([1, 2]), [1, 2]),
    (datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC), "2026-01-02T03:04:00+00:00"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (datetime.time(3, 4), "03:04:00"),
    (datetime.timedelta(minutes=1), 60.0),
    (PurePosixPath("a/b"), "a/b"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (decimal.Decimal("0.10"), "0.10"),
    (1 + 2j, "(1+2j)"),
    (Color.RED, "red"),
    (Level.HIGH, 3),
    (Word.YES, "yes"),
    (b"abc", {"type": "bytes", "length": 3}),
    (bytearray(b"ab"), {"type": "bytearray", "length": 2}),
    (object(), {"type": "object"}),
    (print, {"type": "builtin_function_or_method"}),
    ((n for n in range(3)), {"type": "generator"}),
]


@pytest.mark.parametrize(("value", "rendered"), TABLE, ids=lambda one: type(one).__name__)
def test_values_are_rendered_by_the_table(value: Any, rendered: Any) -> None:
    made = to_jsonable(value)
    assert made == rendered
    assert type(made) is type(rendered)
    assert json.loads(to_json_text(value)) == json.loads(json.dumps(made))


@pytest.mark.parametrize("unit", ["D", "h", "s", "ms", "us", "ns"])
def test_a_numpy_date_is_a_text_whatever_its_unit(unit: str) -> None:
    rendered = to_jsonable(np.datetime64("2026-01-02", unit))
    assert isinstance(rendered, str)
    assert rendered.startswith("2026-01-02")
    assert to_jsonable(np.array(["2026-01-02"], dtype=f"datetime64[{unit}]"))[0].startswith("2026-01-02")


def test_a_pandas_date_is_a_text() -> None:
    assert to_jsonable(pd.Timestamp("2026-01-02")).startswith("2026-01-02")
    assert to_jsonable(pd.Series(pd.to_datetime(["2026-01-02"])))[0].startswith("2026-01-02")


def test_a_numpy_duration_is_seconds_whatever_its_unit() -> None:
    assert to_jsonable(np.timedelta64(5, "s")) == 5.0
    assert to_jsonable(np.timedelta64(5_000_000_000, "ns")) == 5.0


@pytest.mark.parametrize("value", [np.clongdouble(1 + 2j), np.complex64(1 + 2j)])
def test_a_complex_number_of_numpy_is_a_text(value: Any) -> None:
    assert to_jsonable(value) == "(1+2j)"


def test_an_exact_fraction_does_not_lose_its_value() -> None:
    assert to_jsonable(Fraction(1, 3)) in ("1/3", 1 / 3)


def test_two_keys_that_read_alike_do_not_swallow_each_other() -> None:
    assert sorted(to_jsonable({1: "a", "1": "b"}).values()) == ["a", "b"]
    assert sorted(to_jsonable({"a\x00": 1, "a\\u0000": 2}).values()) == [1, 2]


def test_what_contains_itself_is_said_to() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert to_jsonable(loop) == [1, {"type": "list", "omitted": "contains itself"}]
    mapping: dict[str, Any] = {}
    mapping["me"] = mapping
    assert to_jsonable(mapping) == {"me": {"type": "dict", "omitted": "contains itself"}}
    array = np.empty(1, dtype=object)
    array[0] = array
    json.dumps(to_jsonable(array))


def test_one_value_in_two_places_is_rendered_twice() -> None:
    shared = [1]
    assert to_jsonable([shared, shared, {"a": shared}]) == [[1], [1], {"a": [1]}]


def test_what_is_nested_too_deep_is_said_to() -> None:
    deep: Any = "end"
    for _ in range(100_000):
        deep = [deep]
    text = to_json_text(deep)
    assert f"nested more than {MAX_DEPTH} deep" in text


class Cycle(enum.Enum):
    HERE = []  # noqa: RUF012


Cycle.HERE.value.append(Cycle.HERE)


def test_an_enum_that_contains_itself_is_rendered() -> None:
    text = to_json_text(Cycle.HERE, indent=None)
    assert "omitted" in text
    assert text.count("[") <= MAX_DEPTH + 1


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class RaisesEverywhere:
    def __getattr__(self, name: str) -> Any:
        raise UnprintableError

    def __str__(self) -> str:
        raise UnprintableError

    __repr__ = __str__

    def __len__(self) -> int:
        raise UnprintableError


class BadShape:
    @property
    def shape(self) -> Any:
        raise UnprintableError

    @property
    def dtype(self) -> Any:
        raise ValueError("no dtype")


class AnyAttribute:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: self


class BadMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class BadSequence(Sequence[int]):
    def __getitem__(self, index: Any) -> Any:
        raise UnprintableError

    def __len__(self) -> int:
        return 3


class BadText(str):
    def __str__(self) -> str:
        raise UnprintableError


class BadKey:
    def __hash__(self) -> int:
        return 1

    def __str__(self) -> str:
        raise UnprintableError

    __repr__ = __str__


class OneItem:
    """Claims to be a scalar of numpy whose item is another such."""

    shape = ()
    dtype = "odd"

    def item(self) -> Any:
        return OneItem()


class Unserialisable(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    value: Any


HOSTILE = [
    RaisesEverywhere(), BadShape(), AnyAttribute(), BadMapping(), BadSequence(), BadText("a"), {BadKey(): 1}, OneItem(),
    Unserialisable(value=object()), Unserialisable(value={1, 2}), SimpleNamespace(shape=(10**9,), dtype="x",
    tolist=list),
    SimpleNamespace(shape="a", dtype=None), [RaisesEverywhere()], {"a": RaisesEverywhere()}, {RaisesEverywhere: 1},
    {frozenset({BadKey()}): 1}, list, dict, Color, Account, Point, type, NotImplemented, Ellipsis, memoryview(b"ab"),
    pd.NA, pd.NaT, np.ma.masked, np.array([object()]), np.array([(1, "a")], dtype=[("a", int), ("b", "U1")])[0],
    np.datetime64("NaT"), datetime.datetime.max, datetime.timedelta.max, decimal.Decimal("sNaN"),
    pd.DataFrame({"shape": [1], "dtype": [2]}),
    Exception("a\ud800"), {1, BadKey()}, {"x": np.float32(math.nan)}, {math.nan: math.nan}, "\ud800" * 3,
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_no_value_makes_rendering_raise(value: Any) -> None:
    json.loads(json.dumps(to_jsonable(value), allow_nan=False))
    to_json_text(value).encode()


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_a_value_that_cannot_be_rendered_does_not_hide_its_neighbours(value: Any) -> None:
    assert to_jsonable({"before": 1, "bad": value, "after": [2]}) | {"bad": 0} == {"before": 1, "bad": 0, "after": [2]}


def test_an_array_up_to_the_limit_is_written_out() -> None:
    assert len(to_jsonable(np.zeros(MAX_ELEMENTS))) == MAX_ELEMENTS
    assert to_jsonable(np.zeros(MAX_ELEMENTS + 1))["shape"] == [MAX_ELEMENTS + 1]


def test_a_data_frame_is_named_with_its_shape() -> None:
    rendered = to_jsonable(pd.DataFrame({"a": [1, 2]}))
    assert rendered["type"].endswith("DataFrame")
    assert rendered["shape"] == [2, 1]


@pytest.mark.fault("text that a database or a browser chokes on")
def test_text_is_made_safe_for_databases_and_browsers() -> None:
    assert safe_text("a\x00b\ud800c\udfffd\te") == "a\\u0000b\\ud800c\\udfffd\te"


def test_types_are_named_with_their_module_unless_they_are_built_in() -> None:
    assert type_name(1) == "int"
    assert type_name(Path()).startswith("pathlib.")
    assert type_name(Point(1)) == f"{__name__}.Point"


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.binary(max_size=5)
    | st.datetimes()
    | st.timedeltas()
    | st.decimals()
    | st.fractions()
    | st.uuids()
    | st.sampled_from([*Color, np.float32(1), np.int8(1), object, np.arange(3)])
    | st.from_type(type),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2), inner, max_size=3
        )
        | st.builds(Point, st.floats(), inner)
        | st.builds(SimpleNamespace, value=inner)
    ),
    max_leaves=15,
)


@settings(max_examples=200)
@given(anything)
@pytest.mark.fault("numbers that JSON does not have")
def test_any_value_becomes_valid_json(value: Any) -> None:
    text = to_json_text(value)
    text.encode()
    assert json.loads(text) == json.loads(json.dumps(to_jsonable(value), allow_nan=False))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=3), inner, max_size=4
        )
    ),
)


@given(json_values)
def test_what_is_json_already_is_itself(value: Any) -> None:
    assert to_jsonable(value) == value

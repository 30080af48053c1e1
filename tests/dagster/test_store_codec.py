"""Every value comes back from bytes as it was, with pickle only where a value needs it."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crucible_core.values.equality import same
from crucible_dagster.store.codec import MIN_BUFFER, Encoded, decode, encode

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)
KEYS = st.text() | st.integers() | st.tuples(st.integers(), st.text()) | st.none() | st.booleans()
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.frozensets(st.integers() | st.text(), max_size=4)
        | st.sets(st.integers() | st.text(), max_size=4)
    ),
    max_leaves=25,
)
DTYPES = (
    hnp.scalar_dtypes()
    | hnp.unicode_string_dtypes(max_len=5)
    | hnp.byte_string_dtypes(max_len=5)
    | hnp.array_dtypes(max_size=3)
)


class Number(IntEnum):
    ONE = 1


def again(encoded: Encoded) -> Any:
    return decode(encoded.codec, encoded.head, [memoryview(bytearray(block)) for block in encoded.buffers])


@given(PLAIN)
def test_json_values_are_kept_as_json_text(value: Any) -> None:
    encoded = encode(value)
    if encoded.codec == "json":
        json.loads(encoded.head)
        assert same(again(encoded), value)
    else:  # one list or dict at two places, or an integer that JSON readers refuse
        assert same(again(encoded), value)


@given(ANY)
@example({"$tuple": [1]})
@example({"$x": {"$y": (1,)}})
@example(10**5000)
@example(-0.0)
@example("\ud83d\ude00")
@example({"\ud83d\ude00": ["\ud800"]})
@example(np.str_(""))
@example([math.nan, (math.inf, {-math.inf})])
@example(datetime(2026, 3, 29, 2, 30, fold=1))
@example(datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1), "X")))
def test_any_value_comes_back_with_its_types(value: Any) -> None:
    assert same(again(encode(value)), value)


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
def test_arrays_come_back_with_dtype_shape_and_order(array: np.ndarray) -> None:
    for kept in (array, np.asfortranarray(array), array.T, array[..., ::-1] if array.ndim else array):
        found = again(encode(kept))
        assert (found.dtype, found.shape, found.tobytes()) == (kept.dtype, kept.shape, kept.tobytes())


@pytest.mark.parametrize(
    ("value", "codec"),
    [
        ([1, {"a": [2.5, None]}], "json"),
        ("text", "json"),
        ((1, 2), "tagged"),
        ({1: "one"}, "tagged"),
        (math.nan, "tagged"),
        (b"bytes", "tagged"),
        (np.float32(0.1), "tagged"),
        (np.arange(3), "tagged"),
        ({"x": np.arange(3.0), "y": [np.int8(1)]}, "tagged"),
        (Path("a/b"), "tagged"),
        (PurePosixPath("a"), "tagged"),
        (date(2026, 1, 2), "tagged"),
        (Decimal("1.10"), "tagged"),
        (Fraction(1, 3), "tagged"),
        (UUID(int=7), "tagged"),
        (pd.DataFrame({"x": [1]}), "pickle"),
        (np.array([1, None], dtype=object), "pickle"),
        (OrderedDict(a=1), "pickle"),
        (Number.ONE, "pickle"),
        (np.ma.masked_array([1, 2], [0, 1]), "pickle"),
    ],
    ids=repr,
)
def test_the_codec_follows_the_type(value: Any, codec: str) -> None:
    encoded = encode(value)
    assert encoded.codec == codec
    assert same(again(encoded), value)


def test_a_list_at_two_places_stays_one_list() -> None:
    row = [1, 2]
    found = again(encode({"a": row, "b": [row]}))
    found["a"].append(3)
    assert found["b"] == [[1, 2, 3]]
    array = np.arange(3)
    found = again(encode((array, array)))
    assert found[0] is found[1]


def test_a_list_that_holds_itself_comes_back() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    found = again(encode(loop))
    assert found[1] is found


def test_large_arrays_are_handed_out_beside_the_text_and_not_copied() -> None:
    array = np.arange(float(MIN_BUFFER))
    for value in (array, {"x": array, "n": 1}, pd.DataFrame({"x": array})):
        encoded = encode(value)
        assert len(encoded.head) < 2_000
        (block,) = encoded.buffers
        assert block.nbytes == array.nbytes
    assert np.shares_memory(np.frombuffer(encode(array).buffers[0]), array)


def test_what_is_decoded_can_be_changed_and_what_was_read_only_cannot() -> None:
    for size in (3, MIN_BUFFER):
        array = np.zeros(size)
        found = again(encode(array))
        found[0] = 1.0
        array.flags.writeable = False
        found = again(encode(array))
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 1.0


def test_bytes_that_no_codec_wrote_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no codec 'dill'"):
        decode("dill", b"", [])
    with pytest.raises(KeyError):
        decode("tagged", b'{"$system": "rm"}', [])

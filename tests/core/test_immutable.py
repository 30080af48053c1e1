"""The persistent list and dict behave as list and dict, and every version keeps its value for ever."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from crucible_core.values.immutable import PersistentDict, PersistentList

ONE = object()  # shared, so that identity and equality are told apart
values = st.integers(0, 3) | st.sampled_from([ONE, None, "a"])
keys = st.sampled_from(["a", "b", "c", "d", "e"])


class Lists(RuleBasedStateMachine):
    """Any version, old or new, may be extended at any time."""

    versions = Bundle("versions")

    def __init__(self) -> None:
        super().__init__()
        self.known: list[tuple[PersistentList[Any], list[Any]]] = []

    def remember(self, made: PersistentList[Any], model: list[Any]) -> tuple[PersistentList[Any], list[Any]]:
        self.known.append((made, model))
        return made, model

    @rule(target=versions, items=st.lists(values, max_size=3))
    def begin(self, items: list[Any]) -> Any:
        return self.remember(PersistentList(items), list(items))

    @rule(target=versions, version=versions, item=values)
    def append(self, version: Any, item: Any) -> Any:
        made, model = version
        return self.remember(made.append(item), [*model, item])

    @rule(target=versions, version=versions, items=st.lists(values, max_size=3))
    def extend(self, version: Any, items: list[Any]) -> Any:
        made, model = version
        return self.remember(made.extend(items), [*model, *items])

    @rule(target=versions, version=versions)
    def extend_by_itself(self, version: Any) -> Any:
        made, model = version
        return self.remember(made.extend(made), [*model, *model])

    @rule(version=versions, earlier=versions)
    def knows_whether_it_extends(self, version: Any, earlier: Any) -> None:
        (made, model), (before, model_before) = version, earlier
        assert made.extends(before) == (model[: len(model_before)] == model_before)

    @rule(
        version=versions,
        start=st.integers(-5, 5),
        stop=st.none() | st.integers(-5, 5),
        step=st.sampled_from([1, 2, -1]),
    )
    def slice(self, version: Any, start: int, stop: int | None, step: int) -> None:
        made, model = version
        assert made[start:stop:step] == model[start:stop:step]

    @invariant()
    def every_version_has_kept_its_value(self) -> None:
        for made, model in self.known:
            assert list(made) == model
            assert len(made) == len(model)
            assert made == model
            assert model == made
            assert [made[i] for i in range(-len(model), len(model))] == [*model, *model]
            assert list(reversed(made)) == model[::-1]
            assert repr(made) == repr(model)


class Dicts(RuleBasedStateMachine):
    """Any version, old or new, may be changed at any time."""

    versions = Bundle("versions")

    def __init__(self) -> None:
        super().__init__()
        self.known: list[tuple[PersistentDict[Any], dict[str, Any]]] = []

    def remember(self, made: PersistentDict[Any], model: dict[str, Any]) -> tuple[PersistentDict[Any], dict[str, Any]]:
        self.known.append((made, model))
        return made, model

    @rule(target=versions, items=st.dictionaries(keys, values, max_size=3))
    def begin(self, items: dict[str, Any]) -> Any:
        return self.remember(PersistentDict(items), dict(items))

    @rule(target=versions, version=versions, key=keys, value=values)
    def put(self, version: Any, key: str, value: Any) -> Any:
        made, model = version
        return self.remember(made.put(key, value), {**model, key: value})

    @rule(target=versions, version=versions, items=st.dictionaries(keys, values, max_size=3))
    def merge(self, version: Any, items: dict[str, Any]) -> Any:
        made, model = version
        return self.remember(made.merge(items), {**model, **items})

    @rule(target=versions, version=versions, other=versions)
    def merge_another(self, version: Any, other: Any) -> Any:
        return self.remember(version[0].merge(other[0]), {**version[1], **other[1]})

    @rule(target=versions, version=versions)
    def put_while_iterating(self, version: Any) -> Any:
        made, model = version
        grown = made
        for key in made:
            grown = grown.put(f"{key}!", made[key])
        return self.remember(grown, {**model, **{f"{key}!": value for key, value in model.items()}})

    @invariant()
    def every_version_has_kept_its_value(self) -> None:
        for made, model in self.known:
            assert dict(made) == model
            assert list(made) == list(model)
            assert len(made) == len(model)
            assert made == model
            assert model == made
            assert list(made.items()) == list(model.items())
            assert [key in made for key in "abcdef"] == [key in model for key in "abcdef"]
            assert made.get("zzz", 5) == 5
            assert repr(made) == repr(model)


small = settings(max_examples=40, stateful_step_count=15)
Lists.TestCase.settings = small
Dicts.TestCase.settings = small
test_lists_behave_as_lists_under_any_interleaving = Lists.TestCase
test_dicts_behave_as_dicts_under_any_interleaving = Dicts.TestCase


@given(st.dictionaries(keys, values), st.dictionaries(keys, values), st.dictionaries(keys, values))
def test_merging_is_associative(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    one, two, three = PersistentDict(a), PersistentDict(b), PersistentDict(c)
    assert one.merge(two).merge(three) == one.merge(two.merge(three)) == {**a, **b, **c}


@pytest.mark.parametrize("index", [3, -4, 10**9])
def test_an_index_outside_raises_even_when_the_shared_buffer_has_grown_past_it(index: int) -> None:
    version = PersistentList([1, 2, 3])
    version.extend(range(100))
    with pytest.raises(IndexError):
        version[index]


def test_a_missing_key_raises_even_when_a_newer_version_has_it() -> None:
    version = PersistentDict({"a": 1})
    version.put("b", 2)
    with pytest.raises(KeyError):
        version["b"]
    assert "b" not in version


def test_the_source_of_a_collection_may_change_afterwards() -> None:
    items, mapping = [1], {"a": 1}
    made_list, made_dict = PersistentList(items), PersistentDict(mapping)
    items.append(2)
    mapping["b"] = 2
    assert made_list == [1]
    assert made_dict == {"a": 1}


@pytest.mark.parametrize("change", ["x[0] = 1", "x.append_ = 1", "del x[0]", "x += [1]; assert x is y"])
def test_nothing_changes_a_list_in_place(change: str) -> None:
    made = PersistentList([1])
    with pytest.raises((TypeError, AttributeError, AssertionError)):
        exec(change, {"x": made, "y": made})
    assert made == [1]


def test_nothing_changes_a_dict_in_place() -> None:
    made = PersistentDict({"a": 1})
    for change in ("x['a'] = 2", "del x['a']", "x.pop('a')", "x.update(b=1)", "x.clear()"):
        with pytest.raises((TypeError, AttributeError)):
            exec(change, {"x": made})
    assert made == {"a": 1}


@pytest.mark.parametrize("made", [PersistentList([1, [2]]), PersistentDict({"a": [1]})])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_is_equal_and_of_the_same_type(made: Any, duplicate: Callable[[Any], Any]) -> None:
    assert duplicate(made) == made
    assert type(duplicate(made)) is type(made)


def test_a_pickle_holds_this_version_only() -> None:
    old = PersistentList([1])
    old.append("a newer secret")
    older = PersistentDict({"a": 1})
    older.put("b", "a newer secret")
    assert b"secret" not in pickle.dumps((old, older))


def test_neither_can_be_hashed_as_their_items_may_change() -> None:
    for made in (PersistentList(), PersistentDict()):
        with pytest.raises(TypeError):
            hash(made)


def test_appending_one_by_one_costs_no_copy_of_the_whole() -> None:
    def cost(count: int) -> float:
        started = time.process_time()
        grown_list: PersistentList[int] = PersistentList()
        grown_dict: PersistentDict[int] = PersistentDict()
        for number in range(count):
            grown_list = grown_list.append(number)
            grown_dict = grown_dict.put(str(number), number)
            grown_dict.get("0")
        return time.process_time() - started

    assert cost(40_000) < 3.0  # quadratic, it would be minutes


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run each in a thread of its own, all started together, with threads changing as often as they can."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        barrier.wait()
        return work()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(works)) as pool:
            return list(pool.map(begin, works))
    finally:
        sys.setswitchinterval(interval)


def test_threads_that_extend_one_list_version_each_get_their_own() -> None:
    for _ in range(30):
        base = PersistentList(range(3))

        def grow(name: int, base: PersistentList[Any] = base) -> PersistentList[Any]:
            grown = base
            for number in range(50):
                grown = grown.append((name, number))
            return grown

        for name, grown in enumerate(at_once(*(lambda n=n, g=grow: g(n) for n in range(4)))):
            assert list(grown) == [0, 1, 2, *((name, number) for number in range(50))]
        assert base == [0, 1, 2]


def test_threads_that_extend_one_dict_version_each_get_their_own() -> None:
    for _ in range(30):
        base = PersistentDict({"base": 0})

        def grow(name: int, base: PersistentDict[Any] = base) -> PersistentDict[Any]:
            grown = base
            for number in range(50):
                # Keys that all threads put, and keys of its own.
                grown = grown.put(f"shared {number}", name).put(f"{name} {number}", number)
            return grown

        for name, grown in enumerate(at_once(*(lambda n=n, g=grow: g(n) for n in range(4)))):
            expected = {"base": 0}
            for number in range(50):
                expected |= {f"shared {number}": name, f"{name} {number}": number}
            assert dict(grown) == expected
            assert list(grown) == list(expected)
        assert dict(base) == {"base": 0}


def test_a_version_that_is_read_while_others_extend_it_shows_its_own_entries_only() -> None:
    for _ in range(20):
        base = PersistentDict({str(number): number for number in range(50)})

        def extend(base: PersistentDict[Any] = base) -> None:
            grown = base
            for number in range(200):
                grown = grown.put(f"new {number}", number)

        def read(base: PersistentDict[Any] = base) -> set[int]:
            return {len(dict(base)) for _ in range(20)} | {len(base.merge({"mine": 1})) - 1 for _ in range(50)}

        for sizes in at_once(extend, read, read)[1:]:
            assert sizes == {50}

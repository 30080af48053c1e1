"""Which code counts as that of a stage: a change of what it can reach is seen, a change of anything else is not."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from crucible_dagster.history.reachable_code import ReachableCode, code_hash, code_of_classes, code_of_stage
from crucible_dagster.store.codec import classes_in_pickle, encode

LIB = dedent(
    """
    import dataclasses, enum, functools, threading, typing
    from pydantic import BaseModel, Field, field_validator

    RATE = 1
    NAMES = {"b", "a"}
    TABLE = {"x": [1, 2]}
    def times(n): return n * RATE
    def unused(n): return n + 1
    def deco(f):
        @functools.wraps(f)
        def inner(ctx, **options): return f(ctx, **options).put_metric("rate", RATE)
        return inner
    @functools.lru_cache
    def cached(n): return n * 7
    def maker(n):
        def inner(): return n
        return inner
    made = maker(3)
    bound = functools.partial(times, 5)
    class Mixin:
        scale = 2
        def rate(self): return self.scale
        @property
        def half(self): return self.scale / 2
        @staticmethod
        def fixed(): return 11
    class Model:
        def __init__(self): self.w = 13
        def score(self): return self.w * 17
    model = Model()
    class Conf(BaseModel):
        x: int = Field(default=19, ge=0)
        @field_validator("x")
        @classmethod
        def check(cls, x): return x + 23
    @dataclasses.dataclass
    class Point:
        x: int = 29
    class Color(enum.Enum):
        RED = 31
    HANDLERS = {"one": times, "two": Model}
    def by_default(n=37): return n
    """
)
STAGES = dedent(
    """
    from crucible_core import Context, Stage, stage
    import {lib}
    from {lib} import *
    from {lib} import deco, model

    @stage
    def one(ctx: Context) -> Context:
        {body}
        return ctx

    class Two(Mixin, Stage):
        def run(self, ctx): return ctx.put_metric("m", self.rate())

    @stage
    @deco
    def three(ctx: Context) -> Context:
        return ctx
    """
)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Writes and imports both modules, `change`d, as in a new process."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("reach_lib", "reach_stages")

    def load(body: str = "pass", change: Mapping[str, str] | None = None) -> Any:
        texts = [LIB, STAGES.format(lib=names[0], body=body)]
        for old, new in (change or {}).items():
            assert any(old in text for text in texts)
            texts = [text.replace(old, new) for text in texts]
        for name, text in zip(names, texts, strict=True):
            sys.modules.pop(name, None)
            (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            return importlib.import_module(names[1])
        finally:
            sys.dont_write_bytecode = before

    yield load
    for name in names:
        sys.modules.pop(name, None)


def digest(stage: Any) -> str:
    found = code_of_stage(stage())
    assert isinstance(found, ReachableCode), found
    return found.digest


REACHED = {
    "a constant": ("RATE", {"RATE = 1\n": "RATE = 2\n"}),
    "a function": ("times(3)", {"n * RATE": "RATE * n"}),
    "a constant of a function": ("times(3)", {"RATE = 1\n": "RATE = 2\n"}),
    "an attribute of a module": ("reach_lib.times(3)", {"RATE = 1\n": "RATE = 2\n"}),
    "a module by itself": ("getattr(reach_lib, 'unused')", {"n + 1": "n + 2"}),
    "globals()": ("globals()['unused']", {"n + 1": "n + 2"}),
    "a set": ("NAMES", {'"b", "a"': '"b", "c"'}),
    "a part of a table": ("TABLE", {"[1, 2]": "[1, 3]"}),
    "a cached function": ("cached(1)", {"n * 7": "n * 8"}),
    "a closure": ("made()", {"maker(3)": "maker(4)"}),
    "a partial": ("bound()", {"partial(times, 5)": "partial(times, 6)"}),
    "the function of a partial": ("bound()", {"n * RATE": "RATE * n"}),
    "a method": ("Model().score()", {"17": "18"}),
    "the class of an object": ("model.score()", {"17": "18"}),
    "the state of an object": ("model.score()", {"13": "14"}),
    "the default of a field": ("Conf()", {"default=19": "default=20"}),
    "the bound of a field": ("Conf()", {"ge=0": "ge=1"}),
    "the type of a field": ("Conf()", {"x: int = Field": "x: float = Field"}),
    "a validator": ("Conf()", {"x + 23": "x + 24"}),
    "what a validator is of": ("Conf()", {'@field_validator("x")': '@field_validator("x", mode="before")'}),
    "a data class": ("Point()", {"29": "30"}),
    "a member of an enum": ("Color.RED", {"31": "32"}),
    "a function in a table": ("HANDLERS['one']", {"n * RATE": "RATE * n"}),
    "a class in a table": ("HANDLERS['one']", {"17": "18"}),
    "a default argument": ("by_default()", {"n=37": "n=38"}),
    "an import inside": ("from reach_lib import times", {"n * RATE": "RATE * n"}),
    "a module imported inside": ("import reach_lib as r; r.times(1)", {"n * RATE": "RATE * n"}),
    "a function inside": ("(lambda: times(1))()", {"n * RATE": "RATE * n"}),
    "a generator": ("[times(n) for n in (1, 2)]", {"n * RATE": "RATE * n"}),
}


@pytest.mark.parametrize(("body", "change"), REACHED.values(), ids=REACHED)
def test_a_change_of_what_a_stage_can_reach_is_seen(load: Any, body: str, change: Mapping[str, str]) -> None:
    first = digest(load(body).one)
    assert digest(load(body).one) == first, "nothing is different"
    assert digest(load(body, change).one) != first


@pytest.mark.parametrize(
    "change", [{"scale = 2": "scale = 3"}, {"return self.scale\n": "return 1 + self.scale\n"}, {"11": "12"}], ids=str
)
def test_a_change_of_a_base_class_is_seen(load: Any, change: Mapping[str, str]) -> None:
    assert digest(load().Two) != digest(load(change=change).Two)


@pytest.mark.parametrize("change", [{'put_metric("rate"': 'put_metric("other"'}, {"RATE = 1\n": "RATE = 2\n"}], ids=str)
def test_a_change_of_a_decorator_is_seen(load: Any, change: Mapping[str, str]) -> None:
    assert digest(load().three) != digest(load(change=change).three)


@pytest.mark.parametrize(
    "change",
    [
        {"n + 1": "n + 2"},
        {"17": "18"},
        {"self.rate())": "-self.rate())"},
        {"def unused(n)": "# a comment\n\ndef unused(n)"},
        {"RATE = 1\n": "RATE = 1  # the step\n"},
    ],
    ids=str,
)
def test_a_change_of_anything_else_in_the_same_files_does_not_count(load: Any, change: Mapping[str, str]) -> None:
    assert digest(load("times(3)").one) == digest(load("times(3)", change).one)


def test_each_piece_has_a_name_and_a_number_is_shown(load: Any) -> None:
    found = code_of_stage(load("times(3)").one())
    assert isinstance(found, ReachableCode)
    assert found.parts["RATE in reach_lib.py"] == "1"
    assert {"times in reach_lib.py", "one in reach_stages.py", "package crucible_dagster"} <= found.parts.keys()
    assert not any("unused" in name or "Model" in name for name in found.parts)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("eval('times(1)')", "uses eval"),
        ("import sys; sys.modules", "reach"),
        ("import not_there", "imports not_there inside a function of reach_stages.py"),
        ("import importlib; importlib.import_module('x')", "imports importlib inside"),
        ("from reach_lib import not_there", "imports reach_lib.not_there inside"),
        ("Mixin.__subclasses__()", "asks for __subclasses__"),
    ],
)
def test_where_the_code_cannot_be_followed_that_is_said(load: Any, body: str, why: str) -> None:
    found = code_of_stage(load(body).one())
    if why == "reach":  # an import of sys inside a function is that of a package
        assert isinstance(found, ReachableCode)
        return
    assert isinstance(found, str)
    assert why in found
    assert code_hash(load(body).one) is None


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("os.environ['RATE']", {"RATE"}),
        ("os.environ.get('RATE', '1')", {"RATE"}),
        ("os.getenv('RATE')", {"RATE"}),
        ("[os.environ[name] for name in ('A', 'B')]", None),
        ("dict(os.environ)", None),
    ],
)
def test_environment_variables_count_by_their_names(load: Any, body: str, names: set[str] | None) -> None:
    found = code_of_stage(load(body, {"from crucible_core import": "import os\nfrom crucible_core import"}).one())
    if names is None:
        assert found == "it reads environment variables whose names it does not spell out"
    else:
        assert isinstance(found, ReachableCode)
        assert found.environment == names


def test_a_module_with_something_opaque_counts_as_a_whole(load: Any, tmp_path: Path) -> None:
    change = {"RATE = 1\n": "RATE = 1\nlock = threading.Lock()\n"}
    found = code_of_stage(load("lock", change).one())
    assert found == "a global of reach_stages.py cannot be looked into", "it was written after this process began"

    def digest_of(change: Mapping[str, str]) -> str:
        stages = load("lock", change)
        for name in ("reach_lib", "reach_stages"):
            os.utime(tmp_path / f"{name}.py", (1_000_000_000, 1_000_000_000))
        stages.one.source_when_defined = (1_000_000_000 * 10**9, (tmp_path / "reach_stages.py").stat().st_size)
        return digest(stages.one)

    assert digest_of(change) == digest_of(change)
    assert digest_of(change) != digest_of({**change, "n + 1": "n + 2"})


def test_the_classes_of_a_pickle_are_found_without_reading_it(load: Any) -> None:
    load()
    model = sys.modules["reach_lib"].Model()
    pickled = encode({"models": [model], "function": sys.modules["reach_lib"].times})
    assert pickled.codec == "pickle"
    found = classes_in_pickle(pickled.head)
    assert found == {("reach_lib", "Model"), ("reach_lib", "times")}
    first = code_of_classes(found)
    load(change={"n + 1": "n + 2"})
    assert code_of_classes(found) == first
    load(change={"17": "18"})
    assert code_of_classes(found) != first
    assert code_of_classes({("not_there_at_all", "Model")}) is None


def test_the_classes_of_a_library_s_pickle_are_found(tmp_path: Path) -> None:
    import pandas

    frame = pandas.DataFrame({"x": [1.0, 2.0], "y": ["a", None]})
    found = classes_in_pickle(encode(frame).head)
    assert ("pandas.core.frame", "DataFrame") in found or any(name == "DataFrame" for _, name in found)
    with pytest.raises(pickle.UnpicklingError):
        classes_in_pickle(b"no pickle")

"""Five-line stages for the agreement suite; importable by name, as other processes need."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, SecretStr

from crucible_core import Context, Stage, stage


@dataclass
class Model:
    """What a user's stages hand to each other."""

    weights: np.ndarray
    history: list[float] = field(default_factory=list)


@stage
def produce(ctx: Context, *, scale: float = 1.0, names: list[str] | None = None) -> Context:
    return ctx.assign(
        {
            "list": [1, 2, 3],
            "dict": {"a": {"b": 1}},
            "array": np.arange(6.0).reshape(2, 3) * scale,
            "frame": pd.DataFrame({"x": [1.0, float("nan")], "y": ["a", "b"]}),
            "model": Model(np.ones(3) * scale),
            "names": tuple(names or ()),
        }
    )


@stage
def odd_values(ctx: Context) -> Context:
    odd: dict[str, Any] = {
        "nan": float("nan"),
        "inf": float("inf"),
        "minus_inf": float("-inf"),
        "float32": np.float32(0.1),
        "int64": np.int64(7),
        "bool_": np.bool_(True),
        "array": np.array([1.0, np.nan, np.inf]),
        "datetime": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "date": date(2026, 1, 2),
        "delta": timedelta(seconds=1.5),
        "tuple": (1, (2, 3)),
        "set": frozenset({1, 2}),
        "path": PurePosixPath("a/b"),
        "bytes": b"\x00\xff",
        "text": "half a pair: \ud800, and a NUL: \x00",
        "big": 10**5000,
        "complex": 1 + 2j,
        "none": None,
        "nested": {"deep": [{"deeper": float("nan")}]},
    }
    for name, value in odd.items():
        ctx = ctx.put_metric(name, value)
    return (
        ctx.add_outputs(list(odd.values()))
        .put_artifact("local", Path("somewhere/x.bin"))
        .put_artifact("remote", "https://example.org/x")
    )


@stage
def mutate(ctx: Context) -> Context:
    """Changes in place what it read, which a Context cannot forbid, and returns the Context it was given."""
    ctx.assigns["list"].append(4)
    ctx.assigns["dict"]["a"]["c"] = 2
    ctx.assigns["array"][0, 0] = -1.0
    ctx.assigns["frame"].loc[0, "x"] = 9.0
    ctx.assigns["model"].history.append(0.5)
    return ctx


@stage
def summarize(ctx: Context) -> Context:
    return ctx.merge_metrics(
        {
            "list": list(ctx.assigns["list"]),
            "dict": dict(ctx.assigns["dict"]["a"]),
            "sum": float(ctx.assigns["array"].sum()),
            "x": float(ctx.assigns["frame"]["x"].iloc[0]),
            "history": list(ctx.assigns["model"].history),
            "names": ctx.assigns["names"],
        }
    )


@stage
def decide_twice(ctx: Context) -> Context:
    ctx = ctx.decide("first", "because", alternatives=("second", "third"), confidence=0.25)
    return ctx.decide("again", "why not").put_metric("decided", 2).put_metric("said", "twice")


@stage
def fail_until(ctx: Context, *, counter: str, successes_after: int) -> Context:
    """Raises until it has been called more often than `successes_after`; the count is kept in a file."""
    path = Path(counter)
    calls = len(path.read_text()) + 1 if path.exists() else 1
    path.write_text("x" * calls)
    if calls <= successes_after:
        raise ConnectionError(f"call {calls}")
    return ctx.put_metric("calls", calls)


@stage
def kinds_of_numbers(ctx: Context) -> Context:
    exact = {"decimal": Decimal("0.5"), "fraction": Fraction(1, 2), "yes": True}
    return odd_values.function(ctx).merge_metrics(exact)


class MutateUntil(Stage):
    """Changes in place what it was given, its options too, and raises until it has been called often enough."""

    counter: str
    successes_after: int
    seen: list[int] = Field(default=[0])

    def run(self, ctx: Context) -> Context:
        self.seen.append(1)
        ctx.assigns["list"].append(4)
        ctx.assigns["same_list"].append(5)
        array = ctx.assigns["array"]
        array *= 10
        ctx.outputs[0]["n"] += 1
        assert ctx.experiment.metadata
        ctx.experiment.metadata["notes"].append("changed")
        ctx = ctx.put_metric("notes", list(ctx.experiment.metadata["notes"])).put_metric("seen", list(self.seen))
        return fail_until.function(ctx, counter=self.counter, successes_after=self.successes_after)


@stage
def share(ctx: Context) -> Context:
    return ctx.assign(same_list=ctx.assigns["list"]).add_output({"n": 1})


class UnpicklableError(Exception):
    """Its pickle cannot be read back: the constructor wants two arguments and args holds one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


@stage
def fail(ctx: Context, *, how: str) -> Context:
    ctx = ctx.put_metric("begun", 1)
    match how:
        case "raise":
            raise ValueError("a message with | pipes, <b>tags</b> and\nlines")
        case "unpicklable":
            raise UnpicklableError("one", "two")
        case "exit":
            sys.exit(3)
        case "none":
            return None  # type: ignore[return-value]
        case "text":
            return "done"  # type: ignore[return-value]
        case "own":
            return Context("other", "other-run", ctx.experiment)
        case "mutate":
            ctx.assigns["list"].append("kept")
            raise RuntimeError("after a change in place")
        case "chained":
            try:
                return ctx.put_metric("x", {}["missing"])
            except KeyError as error:
                raise LookupError("no such thing") from error
    raise AssertionError(how)


class Bounded(Stage):
    """Has options with bounds, nested options and a choice."""

    rate: float = 0.1
    """A rate."""
    count: int = 3

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("rate", self.rate).put_metric("count", self.count)


@stage
def answers_and_votes(ctx: Context) -> Context:
    """Four answers of two arms to each of six items as outputs, and votes between the arms."""
    answers = [
        {"arm": arm, "item": f"q{item}", "right": (item + shift + count) % 3 == 0}
        for shift, arm in enumerate(("new", "old"))
        for item in range(6)
        for count in range(4 - shift)
    ]
    votes = [{"first": "new", "second": "old", "winner": ("new", "tie", "old", "new")[item % 4]} for item in range(30)]
    return ctx.add_outputs(answers).assign(votes=votes)


@stage
def rows(ctx: Context) -> Context:
    scores = {"a": [0.61, 0.72, 0.55, 0.68, 0.7], "b": [0.81, 0.77, 0.9, 0.85, 0.79]}
    return ctx.add_outputs({"group": name, "score": score} for name, values in scores.items() for score in values)


@stage
def hold_lambda(ctx: Context) -> Context:
    return ctx.assign(function=lambda: 1)


@stage
def look_at_environment(ctx: Context, *, name: str = "CRUCIBLE_TEST_VALUE") -> Context:
    return ctx.put_metric(name, os.environ.get(name))


class Secret(Stage):
    password: SecretStr

    def run(self, ctx: Context) -> Context:
        return ctx

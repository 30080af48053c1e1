"""Small real stages for tests. They are importable by module name from any process that has `tests/` on its path."""

from __future__ import annotations

import datetime
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from crucible_bench.comparison import VERSION
from crucible_core import Context, Experiment, Registry, Stage, builtin_registry, stage

HERE = Path(__file__).parent


@stage
def nothing(ctx: Context) -> Context:
    """Returns what it was given."""
    return ctx


@stage
def measure(ctx: Context, *, name: str = "accuracy", value: float = 0.5) -> Context:
    """Puts one metric."""
    return ctx.put_metric(name, value)


@stage
def newer_comparison(ctx: Context) -> Context:
    """Puts a comparison as a later version of crucible may write it."""
    return ctx.put_metric("bench", {"kind": "comparison", "version": VERSION + 1, "p": 0.25})


class Optimizer(BaseModel, extra="forbid"):
    """Options that are themselves a mapping."""

    kind: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(default=0.1, gt=0)


class Train(Stage):
    """Fits a line through the origin to `assigns["points"]` by gradient descent."""

    epochs: int = Field(ge=1)
    """How often every point is seen."""
    optimizer: Optimizer = Optimizer()
    """How a step is made."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """One fit is made for each."""

    def run(self, ctx: Context) -> Context:
        slope = 0.0
        points = ctx.assigns.get("points", [(1.0, 2.0), (2.0, 4.0)])
        for _ in range(self.epochs):
            for x, y in points:
                slope += self.optimizer.learning_rate * x * (y - slope * x)
        return ctx.assign(slope=slope).put_metric("slope", slope)


@stage
def add(ctx: Context, *, what: str = "total", by: float = 1.0) -> Context:
    """Adds to a metric."""
    return ctx.update_metric(what, lambda total: total + by, 0.0)


@stage
def assign(ctx: Context, *, values: dict[str, Any]) -> Context:
    """Assigns its option."""
    return ctx.assign(values)


@stage
def record(ctx: Context, *, outputs: list[dict[str, Any]]) -> Context:
    """Adds its option as outputs."""
    return ctx.add_outputs(outputs)


@stage
def groups(ctx: Context, *, control: list[float], treatment: list[float]) -> Context:
    """Puts two groups where `bench` looks for them."""
    return ctx.assign(bench_data={"control": control, "treatment": treatment})


@stage
def choose(ctx: Context, *, decision: str = "use the small model", times: int = 1) -> Context:
    """Records decisions."""
    for number in range(times):
        ctx = ctx.decide(decision, f"reason {number}", alternatives=["use the large model"], confidence=0.75)
    return ctx


@stage
def choose_in_turn(ctx: Context) -> Context:
    """Records a decision that depends on another one."""
    ctx = ctx.decide("adam", "it converged")
    return ctx.decide("rate 0.1", "as usual", depends_on=ctx.trace.decisions[-1], metadata={"tried": [0.1, 0.01]})


@stage
def odd_values(ctx: Context) -> Context:
    """Puts values that JSON does not have."""
    ctx = ctx.merge_metrics({"nan": math.nan, "infinity": math.inf, "minus": -math.inf, "pair": (1, 2.5), "none": None})
    ctx = ctx.assign(when=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), where=Path("a/b"), many={3, 1, 2})
    return ctx.add_output({"day": datetime.date(2026, 1, 2)}).put_artifact("file", Path("a/b.bin"))


class Broken(Exception):
    """An error of the user's own."""


@stage
def fail(ctx: Context, *, message: str = "the loss is NaN") -> Context:
    """Decides something, and raises."""
    ctx.decide("go on", "it looked fine")
    raise Broken(message)


@stage
def fail_until(ctx: Context, *, counter: str, succeed_at: int = 3) -> Context:
    """Raises until its attempt number `succeed_at`; attempts are counted in a file, so in any process."""
    file = Path(counter)
    attempt = len(file.read_text()) + 1 if file.exists() else 1
    file.write_text("x" * attempt)
    if attempt < succeed_at:
        raise Broken(f"attempt {attempt}")
    return ctx.put_metric("attempt", attempt)


@stage
def leave(ctx: Context, *, code: int | str | None = None) -> Context:
    """Calls sys.exit."""
    sys.exit(code)


@stage
def interrupt(ctx: Context) -> Context:
    """Is interrupted as by Ctrl-C."""
    raise KeyboardInterrupt


@stage
def sleep(ctx: Context, *, seconds: float = 30.0, ready: str | None = None) -> Context:
    """Sleeps, after making the file `ready`."""
    if ready is not None:
        Path(ready).touch()
    time.sleep(seconds)
    return ctx


@stage
def say(ctx: Context, *, text: str = "hello from a stage") -> Context:
    """Prints."""
    print(text)
    return ctx


@stage
def returns_none(ctx: Context) -> Context:
    """Forgets its return."""
    ctx.put_metric("lost", 1)


@stage
def returns_metrics(ctx: Context) -> Context:
    """Returns the wrong thing."""
    return {"accuracy": 0.9}


@stage
def returns_foreign(ctx: Context) -> Context:
    """Returns a Context of its own making."""
    return Context.begin(ctx.experiment)


@stage
def change_in_place(ctx: Context) -> Context:
    """Changes values inside the Context without a verb."""
    ctx.assigns["model"]["weights"].append(3)
    ctx.assigns["model"]["nested"]["deep"] = True
    return ctx


class Bounds(Stage):
    """Options of every kind that JSON can give."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A share."""
    count: int | None = None
    """A number, or none."""
    size: int | list[int] = 1
    """One or several."""
    mode: Literal["fast", "slow"] = "fast"
    """A choice."""
    verbose: bool = False
    """A switch."""
    pair: tuple[int, float] = (1, 2.0)
    """Two numbers."""
    weights: dict[str, float] = Field(default={})
    """By class."""
    file: Path | None = None
    """A file."""

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("options", self.model_dump(mode="json"))


STAGES: dict[str, type[Stage]] = {
    "add": add,
    "assign": assign,
    "bounds": Bounds,
    "change_in_place": change_in_place,
    "choose": choose,
    "choose_in_turn": choose_in_turn,
    "fail": fail,
    "fail_until": fail_until,
    "groups": groups,
    "interrupt": interrupt,
    "leave": leave,
    "measure": measure,
    "newer_comparison": newer_comparison,
    "nothing": nothing,
    "odd_values": odd_values,
    "record": record,
    "returns_foreign": returns_foreign,
    "returns_metrics": returns_metrics,
    "returns_none": returns_none,
    "say": say,
    "sleep": sleep,
    "train": Train,
}


def registry() -> Registry:
    """The built-in stages and those of this file."""
    return builtin_registry() | STAGES


def experiment_of(*pipeline: str | dict[str, Any], **fields: Any) -> Experiment:
    """An experiment of these stages; a text stands for a stage without options."""
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in pipeline]
    return Experiment.model_validate({"id": "tried", **fields, "pipeline": entries})

"""A metric logged step by step: every point reaches the observers and the result, and its summary has names."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from stages_for_tests import experiment_of
from watched_stages import train

from crucible_bench.plots import line_of_points
from crucible_core import (
    Context,
    CrucibleError,
    Observer,
    Point,
    Registry,
    Series,
    StageFailedError,
    run_experiment,
    stage,
    to_jsonable,
)
from crucible_core.report import report_on, results
from crucible_core.report.html import html_of
from crucible_core.run_state import updates


class Watcher(Observer):
    def __init__(self) -> None:
        self.batches: list[Sequence[Point]] = []

    def on_points(self, stage: str, points: Sequence[Point]) -> None:
        assert stage == "train"
        self.batches.append(points)

    @property
    def heard(self) -> list[tuple[str, int, float]]:
        return [(point.name, point.step, point.value) for batch in self.batches for point in batch]


def begun() -> Context:
    return Context.begin(experiment_of("train"))


def logged(*values: float) -> Context:
    ctx = begun()
    for value in values:
        ctx = ctx.log_metric("loss", value)
    return ctx


def test_a_series_has_its_points_and_four_numbers_by_name() -> None:
    ctx = logged(3.0, 1.0, 2.0).log_metrics({"loss": 4, "rate": np.float32(0.5)}, step=7)
    series = ctx.metrics["loss"]
    assert isinstance(series, Series)
    assert series.points == [(0, 3.0), (1, 1.0), (2, 2.0), (7, 4.0)]
    assert series.steps == [0, 1, 2, 7]
    assert dict(series) == {"last": 4.0, "min": 1.0, "max": 4.0, "mean": 2.5}
    assert dict(results(ctx))["loss.min"] == 1.0
    assert to_jsonable(series) == {"last": 4.0, "min": 1.0, "max": 4.0, "mean": 2.5}
    assert ctx.metrics["rate"].points == [(7, 0.5)]
    assert "4 points" in repr(series)


def test_no_context_changes_when_another_logs() -> None:
    two = logged(1.0, 2.0)
    left, right = two.log_metric("loss", 3.0), two.log_metric("loss", 4.0)
    assert two.metrics["loss"].numbers == [1.0, 2.0]
    assert left.metrics["loss"].numbers == [1.0, 2.0, 3.0]
    assert right.metrics["loss"].numbers == [1.0, 2.0, 4.0]


def test_nan_and_infinity_are_points() -> None:
    series = logged(1.0, math.nan, math.inf, 0.5).metrics["loss"]
    assert (series["min"], series["max"], series["last"]) == (0.5, math.inf, 0.5)
    assert math.isnan(series["mean"])
    assert math.isnan(logged(math.nan).metrics["loss"]["min"])


@pytest.mark.parametrize(
    ("name", "value", "step", "error", "said"),
    [
        ("loss", "0.5", None, TypeError, "number"),
        ("loss", None, None, TypeError, "float"),
        ("loss", 0.5, 1.5, TypeError, "integer"),
        ("loss", 0.5, 2**63, CrucibleError, "64 bits"),
        (3, 0.5, None, TypeError, "string"),
        ("plain", 0.5, None, CrucibleError, "put_metric has set it to 1"),
        ("plain", 0.5, 3, CrucibleError, "another name"),
    ],
)
def test_what_is_no_point_is_refused(name: str, value: float, step: int, error: type[Exception], said: str) -> None:
    ctx = begun().put_metric("plain", 1)
    with pytest.raises(error, match=said):
        ctx.log_metric(name, value, step=step)


@pytest.mark.parametrize("steps", [[5], [0, 1, 2, 3], [10, 7, 4, 1], [0, 0, 0], [3, 1, 4, -1]])
def test_a_series_comes_back_from_its_columns(steps: list[int]) -> None:
    series = Series([(step, math.nan if step == 4 else step / 3) for step in steps])
    back = pickle.loads(pickle.dumps(series))
    assert back == series
    assert back.steps == steps
    assert back.extended(9, 9.0) != series
    with pytest.raises(ValueError, match="at least one"):
        Series([])


def test_the_columns_of_regular_steps_are_half_as_large() -> None:
    points = [(step, step / 7) for step in range(100_000)]
    assert len(pickle.dumps(Series(points))) < 0.9e6
    assert len(pickle.dumps(Series([(step**2, value) for step, value in points]))) < 1.7e6


def test_runs_whose_points_differ_are_different_even_with_the_same_four_numbers() -> None:
    one, other = logged(2.0, 1.0, 3.0, 2.0), logged(2.0, 3.0, 1.0, 2.0)
    assert dict(one.metrics["loss"]) == dict(other.metrics["loss"])
    assert one.differences(other) == ("metrics['loss']",)
    assert one.differences(logged(2.0, 1.0, 3.0, 2.0)) == ()


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("timeout", [None, pytest.param(60, marks=pytest.mark.slow)])
def test_observers_hear_every_point_in_order_also_of_a_stage_that_fails(fail: bool, timeout: float | None) -> None:
    watcher = Watcher()
    entry = {"name": "train", "module": "watched_stages:train", "options": {"fail": fail}}
    experiment = experiment_of({**entry, **({} if timeout is None else {"timeout": timeout})})
    if fail:
        with pytest.raises(StageFailedError) as raised:
            run_experiment(experiment, observers=[watcher])
        assert raised.value.context.metrics["loss"].steps == list(range(50))
    else:
        run_experiment(experiment, observers=[watcher])
    expected = []
    for step in range(50):
        expected.append(("loss", step, 1 / (step + 1)))
        if step % 2 == 0:
            expected.append(("accuracy", step, step / 50))
    assert watcher.heard == expected
    assert len(watcher.batches) == 1


def test_points_are_sent_while_the_stage_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(10_000))
    monkeypatch.setattr(updates, "time", lambda: next(seconds) / 4)
    watcher = Watcher()
    run_experiment(experiment_of("train"), registry=Registry({"train": train}), observers=[watcher])
    assert {len(batch) for batch in watcher.batches} == {5}
    assert len(watcher.heard) == 75


def test_a_retry_begins_the_series_again() -> None:
    failing = iter([True, False])

    @stage
    def twice(ctx: Context) -> Context:
        """Fails once."""
        ctx = ctx.log_metric("loss", 1.0)
        if next(failing):
            raise RuntimeError
        return ctx

    @stage
    def before(ctx: Context) -> Context:
        """Logs a point."""
        return ctx.log_metric("loss", 2.0)

    retried = experiment_of("before", {"name": "twice", "retry": {"max_retries": 1}})
    ctx = run_experiment(retried, registry=Registry({"before": before, "twice": twice}))
    assert ctx.metrics["loss"].points == [(0, 2.0), (1, 1.0)]


def test_gates_use_the_four_numbers() -> None:
    experiment = experiment_of(
        "train",
        gates=[
            {"metric": "loss.last", "at_most": 0.02, "name": "low"},
            {"metric": "loss", "above": 0, "name": "whole"},
        ],
    )
    low, whole = run_experiment(experiment, registry=Registry({"train": train})).trace.gates
    assert (low.status, whole.status) == ("passed", "failed")
    assert "loss.last" in whole.sentence


def test_the_report_has_a_curve_of_each_series() -> None:
    ctx = run_experiment(experiment_of("train"), registry=Registry({"train": train}))
    document = report_on(ctx)
    (section,) = [one for one in document.sections if one.title == "Series"]
    assert len(section.blocks) == 2
    assert "loss by step" in html_of(document)
    for number in range(20):
        ctx = ctx.log_metric(f"other {number}", 1.0)
    (section,) = [one for one in report_on(ctx).sections if one.title == "Series"]
    assert len(section.blocks) == 13


def test_a_line_of_many_points_keeps_every_peak_and_stays_small() -> None:
    values = [math.sin(step / 900) for step in range(100_000)]
    values[54_321] = 50.0
    values[7] = math.nan
    picture = line_of_points(list(enumerate(values)), measure="loss")
    assert len(picture.svg) < 30_000
    assert "to 50" in picture.svg
    assert "1 not a finite number" in picture.svg
    assert line_of_points([(0, math.nan)], measure="loss").svg
    assert line_of_points([(0, 1.0)], measure="loss").svg
    for wrong in ([], [(math.inf, 1.0)]):
        with pytest.raises(ValueError, match="point"):
            line_of_points(wrong, measure="loss")

"""A series is on Dagster what it is without: in the store in columns, in History, in the report of the asset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance
from stages_for_tests import experiment_of

from crucible_core import CrucibleError, Experiment, Observer, Point, Series, StageFailedError, run_experiment
from crucible_dagster import History, execute_experiment
from crucible_dagster.store.codec import decode, encode
from crucible_dagster.store.io_manager import open_store

OpenInstance = Callable[[], AbstractContextManager[DagsterInstance]]


@pytest.fixture
def instance(open_instance: OpenInstance) -> Iterator[DagsterInstance]:
    with open_instance() as opened:
        yield opened


class Watcher(Observer):
    def __init__(self) -> None:
        self.heard: list[tuple[str, int, float]] = []

    def on_points(self, stage: str, points: Sequence[Point]) -> None:
        self.heard += [(point.name, point.step, point.value) for point in points]


def training(name: str = "train", **options: Any) -> dict[str, Any]:
    return {"name": name, "module": "watched_stages:train", "options": options}


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_a_series_is_the_same_directly_and_on_dagster(instance: DagsterInstance, executor: Any) -> None:
    experiment = experiment_of(
        training(points=7), training("again", points=3), gates=[{"name": "low", "metric": "loss.min", "above": 0}]
    )
    direct, dagster = run_experiment(experiment), execute_experiment(experiment, instance=instance, executor=executor)
    assert direct.differences(dagster) == ()
    series = History(instance).series(dagster.run_id[:8], "loss")
    assert series == direct.metrics["loss"]
    assert series.steps == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
    with pytest.raises(CrucibleError, match=r"no series 'los'.*loss.*accuracy"):
        History(instance).series(dagster.run_id, "los")
    (record,) = instance.fetch_materializations(AssetKey(["crucible", experiment.id]), limit=1).records
    assert record.asset_materialization is not None
    metadata = record.asset_materialization.metadata
    assert metadata["loss.min"].value == pytest.approx(1 / 7)
    assert "loss by step" in str(metadata["report"].value)
    assert History(instance).metrics(experiment.id)[0]["loss.last"] == pytest.approx(1 / 3)


def test_observers_hear_every_point_of_a_stage_that_fails(instance: DagsterInstance) -> None:
    watcher = Watcher()
    with pytest.raises(StageFailedError) as raised:
        execute_experiment(experiment_of(training(points=5, fail=True)), instance=instance, observers=[watcher])
    assert [step for name, step, _ in watcher.heard if name == "loss"] == [0, 1, 2, 3, 4]
    assert len(watcher.heard) == 8
    assert History(instance).series(raised.value.context.run_id, "loss").steps == [0, 1, 2, 3, 4]


def test_a_hundred_thousand_points_are_kept_in_less_than_two_megabytes(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUCIBLE_ALLOW_PICKLE", "false")
    experiment = experiment_of(training(points=100_000))
    run_id = execute_experiment(experiment, instance=instance).run_id
    store = open_store(instance)
    files = [one for one in store.base.rglob("*") if one.is_file()]
    assert sum(one.stat().st_size for one in files) < 2e6
    assert len(History(instance).series(run_id, "loss").points) == 100_000
    assert all(len(entry.to_json()) < 400_000 for entry in instance.all_logs(run_id))


@pytest.mark.parametrize("steps", [range(3), range(5_000), [4, 1, 1], [n * n for n in range(3_000)]])
def test_the_codec_keeps_a_series_without_pickle(steps: Sequence[int]) -> None:
    series = Series([(step, step / 3) for step in steps])
    encoded = encode(series)
    assert encoded.codec == "tagged"
    assert decode(encoded.codec, encoded.head, encoded.buffers) == series


def test_trials_compare_a_number_of_a_series(instance: DagsterInstance) -> None:
    experiment = Experiment.model_validate(
        {
            "id": "swept",
            "pipeline": [training()],
            "trials": {"measure": "loss.last", "grid": {"train.points": [4, 8]}, "replicates": 2},
        }
    )
    for ctx in (run_experiment(experiment), execute_experiment(experiment, instance=instance)):
        assert {row["loss.last"] for row in ctx.outputs} == {1 / 4, 1 / 8}

"""Merging on Dagster, where what the threads began with is in the store."""

from __future__ import annotations

from typing import Any

from dagster import DagsterInstance

from crucible_core import Experiment, run_experiment
from crucible_dagster import execute_experiment
from crucible_dagster.store.io_manager import open_store


def test_a_stage_that_fans_out_gives_the_same_reads_nothing_for_it_and_can_be_used_again() -> None:
    pipeline = [
        {"name": "begin", "module": "merge_stages:begin", "cache": True},
        {"name": "fan_out", "module": "merge_stages:fan_out", "cache": True},
    ]
    tried = Experiment.model_validate({"id": "merged", "pipeline": pipeline})
    with DagsterInstance.ephemeral() as instance:
        done = execute_experiment(tried, instance=instance)
        again = execute_experiment(tried, instance=instance)
        manifest = open_store(instance).find(done.run_id, "fan_out")
    # What the threads have read themselves: they log points of a series that there was.
    assert manifest is not None
    assert [read for read, _ in manifest.notes["reuse"]["reads"]] == [["value", "metrics", "loss"]]
    assert not done.differences(run_experiment(tried))
    assert [one["part"] for one in done.outputs] == [-2, -1, 0, 1, 2, 3]
    assert [one.decision for one in done.trace.decisions] == ["begin", *(f"part {part}" for part in range(4))]
    endings: list[Any] = list(again.trace.endings.values())
    assert [one.reused_from for one in endings] == [done.run_id, done.run_id]
    assert not again.differences(done)

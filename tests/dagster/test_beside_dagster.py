"""Modules beside an experiment file, on Dagster: step processes, what was stored, the asset's code references."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance

from crucible_core import load_experiment
from crucible_core.beside import package_of
from crucible_dagster import History, build_definitions, execute_experiment

STAGES = """\
import logging
import helpers
from crucible_core import Context, stage

class Model:
    rate = helpers.RATE

@stage
def fit(ctx: Context) -> Context:
    logging.getLogger(__name__).info("fitted")
    return ctx.assign(model=Model())

@stage
def score(ctx: Context) -> Context:
    return ctx.put_metric("rate", ctx.assigns["model"].rate)
"""


@pytest.fixture
def two_folders(tmp_path: Path) -> Path:
    for name, rate in (("a", 1), ("b", 2)):
        folder = tmp_path / "experiments" / name
        folder.mkdir(parents=True)
        (folder / "stages.py").write_text(STAGES)
        (folder / "helpers.py").write_text(f"RATE = {rate}\n")
        entries = ", ".join(f"{{name: {stage}, module: 'stages:{stage}'}}" for stage in ("fit", "score"))
        (folder / f"{name}.yaml").write_text(f"id: {name}\npipeline: [{entries}]\n")
    return tmp_path / "experiments"


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_each_folder_runs_its_own_code(instance: DagsterInstance, two_folders: Path, executor: Any) -> None:
    before = sys.path[:]
    for name, rate in (("a", 1), ("b", 2)):
        experiment = load_experiment(two_folders / name / f"{name}.yaml")
        context = execute_experiment(experiment, instance=instance, executor=executor)
        assert context.metrics["rate"] == rate
        record = History(instance).record(context.run_id)
        assert record is not None
        assert [one.stage for one in record.stages] == ["stages:fit", "stages:score"]
        assert all(one.source_hash for one in record.stages)
    assert sys.path == before


def test_another_process_reads_what_was_stored(two_folders: Path, tmp_path: Path) -> None:
    from crucible_dagster import open_instance

    with open_instance() as instance:
        run = execute_experiment(load_experiment(two_folders / "b" / "b.yaml"), instance=instance).run_id
    program = (
        "from crucible_dagster import History, open_instance\n"
        "with open_instance() as instance:\n"
        f"    print(History(instance).context({run!r}).assigns['model'].rate)\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    assert done.stdout == "2\n"


def test_the_code_references_are_the_files(two_folders: Path) -> None:
    graph = build_definitions(two_folders).resolve_asset_graph()
    for name in ("a", "b"):
        metadata = graph.get(AssetKey(["crucible", name])).metadata
        places = metadata["dagster/code_references"].code_references
        assert {one.file_path for one in places} == {
            str(two_folders / name / f"{name}.yaml"),
            str(two_folders / name / "stages.py"),
        }


def test_lines_of_its_logger_are_those_of_the_stage(instance: DagsterInstance, two_folders: Path) -> None:
    context = execute_experiment(load_experiment(two_folders / "a" / "a.yaml"), instance=instance)
    lines = [entry.user_message for entry in instance.all_logs(context.run_id) if not entry.is_dagster_event]
    assert "stages: fitted" in lines
    assert package_of(two_folders / "a") not in " ".join(lines)

"""Where the runs of Dagster and the context store are, wherever a run is started and wherever its stages go."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster import DagsterInstance

from crucible_core import CrucibleError, load_experiment
from crucible_dagster import execute_experiment, open_instance
from crucible_dagster.store.io_manager import open_store

STAGES = """\
import os
from crucible_core import stage

@stage
def go(ctx):
    os.chdir("/")
    return ctx.put_metric("m", 1)

@stage
def more(ctx):
    return ctx.put_metric("k", ctx.metrics["m"] + 1)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "exp"
    folder.mkdir(parents=True)
    (folder / "s.py").write_text(STAGES)
    entries = "{name: go, module: 's:go'}, {name: more, module: 's:more'}, {name: report}"
    (folder / "e.yaml").write_text(f"id: e\npipeline: [{entries}]\ngates: [{{name: ok, metric: k, at_least: 1}}]\n")
    return folder / "e.yaml"


@pytest.mark.parametrize(
    ("marked", "store", "place"),
    [
        (True, None, "project/.crucible/dagster/storage/crucible"),
        (True, "store", "project/store"),
        (True, "~/store", "home/store"),
        (False, None, ".crucible/dagster/storage/crucible"),
        (False, "store", "store"),
    ],
)
def test_a_run_is_kept_in_its_project_whatever_its_stages_do(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: bool, store: str | None, place: str
) -> None:
    if marked:
        (tmp_path / "project" / "pyproject.toml").touch()
    if store:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("CRUCIBLE_STORE", store)
    context = execute_experiment(load_experiment(file))
    assert context.metrics["k"] == 2
    assert Path.cwd() == Path("/")
    assert (tmp_path / place / "runs" / context.run_id).is_dir()
    root = tmp_path / "project" if marked else tmp_path
    assert Path(context.artifacts["report.markdown"]).is_relative_to(root / "reports")
    assert Path(context.artifacts["report.markdown"]).exists()
    monkeypatch.chdir(file.parent if marked else tmp_path)
    with open_instance() as instance:
        assert open_store(instance).load(context.run_id, "gates").metrics["k"] == 2


def test_a_relative_store_of_a_home_is_in_that_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("CRUCIBLE_STORE", "store")
    with DagsterInstance.from_config(str(home)) as instance:
        assert str(open_store(instance).base.path) == str(home / "store")
        monkeypatch.setenv("CRUCIBLE_STORE", "~nobody_of_that_name/store")
        with pytest.raises(CrucibleError, match="CRUCIBLE_STORE=~nobody_of_that_name/store: "):
            open_store(instance)

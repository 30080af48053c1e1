"""Every example gives the same Context directly and on Dagster, in one process and in several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance

from crucible_core import Context, load_experiment, run_experiment
from crucible_core.values.spending import spent_in
from crucible_dagster import execute_experiment, open_instance

# Sweeps, whose rows have times, are compared in dagster/test_engines.py.
FILES = [
    file
    for file in sorted((Path(__file__).parents[2] / "examples").glob("*/*.yaml"))
    if load_experiment(file).trials is None
]
# Several processes take seconds each time: for those that somebody copies.
RECIPES = [file for file in FILES if file.with_name("README.md").exists()]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("examples_agree")]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("home")))
        with open_instance() as opened:
            yield opened


@pytest.fixture(scope="module")
def direct() -> dict[Path, Context]:
    """What has run directly, by its file."""
    return {}


@pytest.mark.parametrize(
    ("file", "executor"),
    [
        pytest.param(file, executor, id=f"{file.stem}-{executor}")
        for file in FILES
        for executor in ("in_process", "multiprocess")
        if executor == "in_process" or file in RECIPES
    ],
)
def test_an_example_gives_the_same_context_everywhere(
    file: Path, executor: str, direct: dict[Path, Context], instance: DagsterInstance
) -> None:
    experiment = load_experiment(file)
    here = direct.get(file) or direct.setdefault(file, run_experiment(experiment))
    there = execute_experiment(experiment, instance=instance, executor=executor)
    # The places of reports and checkpoints are those of a run.
    assert there.artifacts.keys() == here.artifacts.keys()
    # What answers cost that come in any order is added up in that order.
    assert spent_in(there.metrics) == pytest.approx(spent_in(here.metrics))
    left_out = ("artifacts", "metrics['spent']")
    assert not [name for name in here.differences(there) if not name.startswith(left_out)]

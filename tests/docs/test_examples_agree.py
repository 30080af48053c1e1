"""Every example gives the same Context directly and on Dagster, in one process and in several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance

from crucible_core import builtin_registry, load_experiment, run_experiment
from crucible_core.run_state.spending import spent_in
from crucible_dagster import execute_experiment

LEFT_OUT = {
    "digits_sweep": "has times; compared in dagster/test_engines.py",
    "hedging": "has times; compared in docs/test_recipe_hedging.py",
}
EXAMPLES = {file.stem: file for file in sorted((Path(__file__).parents[2] / "examples").glob("*/*.yaml"))}
IN_SEVERAL_PROCESSES = {"training", "llm_eval"}
"""What has checkpoints, or spends something: a process takes a second."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("examples_agree")]


@pytest.mark.parametrize(
    ("name", "executor"),
    [(name, "in_process") for name in EXAMPLES if name not in LEFT_OUT]
    + [(name, "multiprocess") for name in sorted(IN_SEVERAL_PROCESSES)],
)
def test_an_example_gives_the_same_context_everywhere(name: str, executor: Any, home: DagsterInstance) -> None:
    experiment = load_experiment(EXAMPLES[name])
    if "quick" in (experiment.variants or ()):
        experiment = experiment.with_variant("quick", builtin_registry())
    if executor == "multiprocess":
        # Only what the recipe has of its own.
        own = tuple(one for one in experiment.pipeline if ":" in (one.module or ""))
        experiment = experiment.model_copy(update={"pipeline": own, "gates": None, "outputs": None})
    here = run_experiment(experiment)
    there = execute_experiment(experiment, instance=home, executor=executor)
    # The places of reports and checkpoints are those of a run.
    assert there.artifacts.keys() == here.artifacts.keys()
    # What answers cost that come in any order is added up in that order.
    assert spent_in(there.metrics) == pytest.approx(spent_in(here.metrics))
    left_out = ("artifacts", "metrics['spent']", "metrics['latency']")
    assert not [name for name in here.differences(there) if not name.startswith(left_out)]


def test_what_is_left_out_is_there() -> None:
    assert LEFT_OUT.keys() <= EXAMPLES.keys()

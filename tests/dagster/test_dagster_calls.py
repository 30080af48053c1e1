"""What Dagster's side costs, in calls of our own functions: they depend neither on the machine nor on Dagster.

Whoever raises a number here says why beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from counting import REGISTRY, calls_per_stage, pipeline
from dagster import DagsterInstance
from stages_for_tests import experiment_of, registry

import crucible_core
import crucible_core.plan
from crucible_core import Experiment, GateFailedError, Plan, Registry, run_experiment
from crucible_dagster import execute_experiment, job_for

OURS = tuple(str(Path(crucible_core.__file__).parents[1] / name) for name in ("crucible_core", "crucible_dagster"))


# Planning (4), the options of the file as JSON, and finding the op, which is made once for a stage class, its name and
# its options.
COMPILED = 10
# The op's config as well: the option tree of the stage is made once, its fields for each op.
COMPILED_NEW = 53
# One more step of eight. Its Context is read and committed (manifest, event file, values: about 450), the run's claim
# and record are looked at, the stage is run (25), and its worker is watched. Each step reads the whole trace, so that
# the number grows with the number of steps.
STEP = 740


def test_compiling_calls_so_many_functions_a_stage() -> None:
    assert calls_per_stage(lambda experiment: job_for(experiment, REGISTRY), 20, OURS) <= COMPILED


def test_compiling_a_new_pipeline_calls_so_many_functions_a_stage() -> None:
    fresh = iter(range(100))

    def compile_new(experiment: Experiment) -> None:
        job_for(pipeline(len(experiment.pipeline), f"new_{next(fresh)}"), REGISTRY)

    assert calls_per_stage(compile_new, 20, OURS) <= COMPILED_NEW


def test_a_step_calls_so_many_functions() -> None:
    with DagsterInstance.ephemeral() as instance:
        per_step = calls_per_stage(
            lambda experiment: execute_experiment(experiment, registry=REGISTRY, instance=instance), 4, OURS
        )
    assert per_step <= STEP


# --- how often an experiment is planned -------------------------------------------------------------------------------


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """The experiments that are planned, by whichever module."""
    made: list[Experiment] = []
    real = crucible_core.plan.plan_experiment

    def counting(experiment: Experiment, registry: Registry) -> Plan:
        made.append(experiment)
        return real(experiment, registry)

    for module in list(sys.modules.values()):
        if getattr(module, "plan_experiment", None) is real:
            monkeypatch.setattr(module, "plan_experiment", counting)
    return made


EVERYTHING = ("validate", {"name": "measure", "options": {"value": 0.25}}, "nothing")
GATES = [{"name": "good", "metric": "accuracy", "at_least": 0.2}]


def test_a_direct_run_plans_once(planned: list[Experiment]) -> None:
    experiment = experiment_of(*EVERYTHING, gates=GATES)
    context = run_experiment(experiment, registry=registry())
    assert context.metrics["validate"]["stages"].keys() == {"validate", "measure", "nothing"}
    assert [one.status for one in context.trace.gates] == ["passed"]
    assert planned == [experiment]


def test_a_dagster_run_in_one_process_plans_once_and_again_if_something_was_chosen_for_it(
    planned: list[Experiment],
) -> None:
    experiment = experiment_of(*EVERYTHING, gates=GATES, variants={"high": {"measure": {"value": 0.75}}})
    with DagsterInstance.ephemeral() as instance:
        context = execute_experiment(experiment, registry=registry(), instance=instance)
        assert [one.status for one in context.trace.gates] == ["passed"]
        assert planned == [experiment]
        planned.clear()
        job = job_for(experiment, registry())
        chosen = {"resources": {"experiment": {"config": {"variant": "high"}}}}
        assert job.execute_in_process(instance=instance, run_config=chosen).success
        assert len(planned) == 2
        planned.clear()
        typed = {"ops": {"measure": {"config": {"value": 0.5}}}}
        assert job.execute_in_process(instance=instance, run_config=typed).success
        assert len(planned) == 1


def test_gates_have_the_same_results_in_both_worlds(planned: list[Experiment]) -> None:
    gates = [
        {"name": "good", "metric": "accuracy", "at_least": 0.9},
        {"name": "there", "metric": "accurasy", "at_least": 0.9},
        {"name": "stop", "metric": "accuracy", "above": 0.5, "blocking": True},
    ]
    experiment = experiment_of(*EVERYTHING, gates=gates)
    with pytest.raises(GateFailedError) as direct:
        run_experiment(experiment, registry=registry())
    with DagsterInstance.ephemeral() as instance, pytest.raises(GateFailedError) as dagster:
        execute_experiment(experiment, registry=registry(), instance=instance)
    assert direct.value.gates == dagster.value.gates
    assert direct.value.context.trace.gates == dagster.value.context.trace.gates == direct.value.gates
    assert len(planned) == 2

"""What Dagster's side costs, in calls of our own functions: they depend neither on the machine nor on Dagster.

Whoever raises a number here says why beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from counting import REGISTRY, calls_per_stage, pipeline
from dagster import DagsterInstance
from stages_for_tests import experiment_of, registry

import crucible_core
import crucible_core.plan
from crucible_core import (
    Context,
    Experiment,
    GateFailedError,
    Observer,
    Plan,
    Registry,
    Stage,
    StageDef,
    StageFailedError,
    run_experiment,
)
from crucible_dagster import execute_experiment, job_for
from crucible_dagster.compile.executors import PRELOAD

OURS = tuple(str(Path(crucible_core.__file__).parents[1] / name) for name in ("crucible_core", "crucible_dagster"))


# Planning (4), the options of the file as JSON, and finding the op, which is made once for a stage class, its name and
# its options.
COMPILED = 10
# The op's config as well: the option tree of the stage is made once, its fields for each op.
COMPILED_NEW = 53
# One more step of eight. Its Context is read and committed (manifest, event file, values: about 450), the run's claim
# and record are looked at, its options are read again, for this step only (4), the stage is run (25), and its worker is
# watched; and its config is checked when the run is created and when it is executed. It says where the folder of the
# run is, which stages run always, and asks who takes its Context (9). Each step reads the whole trace, so that the
# number grows with the number of steps.
STEP = 780


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


def test_a_code_location_imports_no_stage_that_its_experiments_do_not_have(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("id: plain\npipeline: [{name: validate}]\n")
    program = "import crucible_dagster.definitions, sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        # As in a process that a stage has started: what is announced is for the server of step processes alone.
        env={
            **os.environ,
            "CRUCIBLE_EXPERIMENTS": str(tmp_path),
            PRELOAD: json.dumps({"modules": ["crucible_core.stages.bench"]}),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = set(done.stdout.split())
    assert "crucible_core.stages.validate" in found
    unwanted = {"crucible_core.stages.bench", "crucible_core.stages.trials", "numpy", "pandas", "scipy"}
    assert found.isdisjoint(unwanted), found & unwanted


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
        if vars(module).get("plan_experiment") is real:
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


def test_each_run_of_a_job_begins_with_the_options_that_it_was_launched_with() -> None:
    class Collect(Stage):
        """Changes its own options in place."""

        items: list[int]
        level: bool | int | float = 1

        def run(self, ctx: Context) -> Context:
            self.items.append(1)
            return ctx.put_metric("n", len(self.items)).put_metric("level", repr(self.level))

    stages = Registry({"collect": Collect})
    options = {"items": [], "level": 1}
    experiment = Experiment(id="x", pipeline=(StageDef(name="collect", options=options),))
    job = job_for(experiment, stages)
    with DagsterInstance.ephemeral() as instance:
        ran = [job.execute_in_process(instance=instance) for _ in range(2)]
        assert [one.output_for_node("collect").metrics["n"] for one in ran] == [1, 1]
        typed = job.execute_in_process(instance=instance, run_config={"ops": {"collect": {"config": {"level": True}}}})
    assert typed.output_for_node("collect").metrics["level"] == "True"


def test_a_stage_is_asked_for_problems_when_a_run_begins_however_long_ago_its_job_was_compiled() -> None:
    asked: list[str] = []

    class Asked(Stage):
        """Knows a problem from the second time on."""

        def check(self, experiment: Experiment) -> list[str]:
            asked.append(experiment.id)
            return [] if len(asked) == 1 else ["the file is gone"]

        def run(self, ctx: Context) -> Context:
            return ctx

    job = job_for(Experiment(id="x", pipeline=(StageDef(name="asked"),)), Registry({"asked": Asked}))
    assert asked == ["x"]
    with DagsterInstance.ephemeral() as instance:
        ran = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not ran.success
    assert len(asked) == 2


class Run(Observer):
    """Hears of a whole run."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def run_started(self, experiment_id: str, run_id: str) -> None:
        self.heard.append(f"{experiment_id} starts")

    def run_ended(self, error: BaseException | None) -> None:
        self.heard.append(f"ends by {type(error).__name__}" if error else "ends")


def test_observers_hear_of_the_start_and_the_end_of_a_run_on_dagster() -> None:
    good, bad = Run(), Run()
    with DagsterInstance.ephemeral() as instance:
        execute_experiment(experiment_of("nothing"), registry=registry(), instance=instance, observers=[good])
        with pytest.raises(StageFailedError):
            execute_experiment(experiment_of("fail"), registry=registry(), instance=instance, observers=[bad])
    assert good.heard == ["tried starts", "ends"]
    assert bad.heard == ["tried starts", "ends by StageFailedError"]


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

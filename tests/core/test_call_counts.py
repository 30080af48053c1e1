"""What a run costs, in function calls: they do not depend on the machine, so that a cost that creeps in is seen.

A direct run once became twice as slow because a later feature asked every stage a question. Whoever raises a number
here says why beside it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from counting import REGISTRY, calls_per_stage

from crucible_core import Context, Experiment, plan_experiment, run_experiment

# Planning a stage: plan, resolve, read its options, make the entry (4), and what pydantic's own checks add.
PLANNED = 4
# Running it: run_stage, two events with their records (2 x 4), one attempt, the stage itself, its metric (4), the check
# of what it returned and of its trace.
RUN = 18


@pytest.mark.parametrize("stages", [50, 500])
def test_planning_calls_so_many_functions_a_stage(stages: int) -> None:
    assert calls_per_stage(lambda experiment: plan_experiment(experiment, REGISTRY), stages) <= PLANNED


@pytest.mark.parametrize("stages", [50, 500, 2_500])
def test_a_direct_run_calls_so_many_functions_a_stage_however_many_there_are(stages: int) -> None:
    assert calls_per_stage(lambda experiment: run_experiment(experiment, registry=REGISTRY), stages) <= PLANNED + RUN


def test_observers_cost_one_call_for_each_event_more_than_they_do_themselves() -> None:
    def heard(experiment: Experiment) -> Context:
        return run_experiment(experiment, registry=REGISTRY, observers=[lambda _: None])

    # Two events, each through the audience and the function's own observer to the function; and whether the trace
    # has decisions that nobody heard of (2).
    assert calls_per_stage(heard, 50) <= PLANNED + RUN + 2 * 3 + 2


# What `import crucible_core` needs beyond pydantic with one model: ours, and a few of Python's own. Three of ours guard
# what a run is given and begins with: `ir.secrets`, `values.arguments` and `run_state.attempt_inputs`.
OURS, OTHERS = 37, 14


def imported_by(program: str) -> set[str]:
    program += "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_importing_the_core_imports_so_many_modules() -> None:
    model = "import pydantic\nclass Model(pydantic.BaseModel):\n    x: int = 1\nModel()"
    added = imported_by("import crucible_core") - imported_by(model)
    ours = {name for name in added if name.startswith("crucible_")}
    assert len(ours) <= OURS, sorted(ours)
    assert len(added - ours) <= OTHERS, sorted(added - ours)

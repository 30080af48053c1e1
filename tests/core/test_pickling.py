"""What crosses processes arrives as it was sent."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stages_for_tests import experiment_of, registry

from crucible_bench import CannotTestError
from crucible_core import (
    Context,
    CrucibleError,
    InvalidExperimentError,
    InvalidOptionsError,
    MissingExtraError,
    RunInterrupted,
    StageFailedError,
    UnknownStageError,
    load_experiment,
    plan_experiment,
    run_experiment,
    run_stage,
)
from crucible_core.errors import Location

ROUND_TRIPS = [lambda value: pickle.loads(pickle.dumps(value)), copy.copy, copy.deepcopy]
round_trips = pytest.mark.parametrize("round_trip", ROUND_TRIPS, ids=["pickle", "copy", "deepcopy"])

CONTEXT = Context.begin(experiment_of("measure"), run_id="run-1").put_metric("m", 1)
ERRORS: list[BaseException] = [
    CrucibleError("text"),
    InvalidExperimentError("text", location=Location("a.yaml", 1, 2), others=[InvalidExperimentError("other")]),
    UnknownStageError("text", stage="s", known=["a"], location=Location("a.yaml")),
    InvalidOptionsError("text", stage="s"),
    MissingExtraError("running on Dagster", "dagster"),
    StageFailedError("s", CONTEXT, "ValueError: x"),
    RunInterrupted("s", CONTEXT),
    CannotTestError("ttest", "too few values"),
]


@round_trips
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_type_its_words_and_its_facts(error: BaseException, round_trip: Any) -> None:
    back = round_trip(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == error.args
    for name, value in vars(error).items():
        if name != "others":
            assert getattr(back, name) == value


@round_trips
def test_an_experiment_keeps_its_file_and_folder(round_trip: Any) -> None:
    Path("a.yaml").write_text("id: a\npipeline:\n  - name: s\n")
    experiment = load_experiment("a.yaml")
    back = round_trip(experiment)
    assert back == experiment
    assert back.to_json() == experiment.to_json()
    assert back.folder == experiment.folder
    assert back.location("pipeline", 0).path == "a.yaml"


@round_trips
def test_a_context_keeps_everything(round_trip: Any) -> None:
    ctx = run_experiment(experiment_of("odd_values", "choose", "measure"), registry=registry())
    ctx = ctx.assign(array=np.arange(3), nested={"a": [1, {2}]})
    assert round_trip(ctx) == ctx
    assert round_trip(ctx.put_metric("more", 1)).get_metric("more") == 1


def test_planned_stages_can_be_sent_to_another_process() -> None:
    experiment = experiment_of("measure", {"name": "train", "options": {"epochs": 2}}, "choose", "validate", "report")
    planned = plan_experiment(experiment, registry())
    back = pickle.loads(pickle.dumps(planned))
    assert [one.name for one in back] == [one.name for one in planned]
    for one, other in zip(back, planned, strict=True):
        assert type(one.stage) is type(other.stage)
        assert one.stage.model_dump() == other.stage.model_dump()


def run_first(context: Context) -> Context:
    return run_stage(plan_experiment(context.experiment, registry())[0], context)


@pytest.mark.slow
def test_a_stage_gives_the_same_in_another_process() -> None:
    contexts = [Context.begin(experiment_of(name), run_id="r") for name in ("odd_values", "choose", "measure")]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for context, there in zip(contexts, pool.map(run_first, contexts), strict=True):
            assert run_first(context).differences(there) == ()


@pytest.mark.slow
def test_a_failure_in_another_process_arrives_with_its_context() -> None:
    context = Context.begin(experiment_of("fail"), run_id="r").put_metric("before", 1)
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        pytest.raises(StageFailedError) as caught,
    ):
        pool.submit(run_first, context).result()
    assert caught.value.stage == "fail"
    assert caught.value.context.get_metric("before") == 1
    assert caught.value.context.trace.endings["fail"].message == "the loss is NaN"

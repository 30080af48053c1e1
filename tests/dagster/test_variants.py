"""Variants and the seed: what belongs to the experiment and not to one stage, in both worlds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterInvalidConfigError,
    ExecuteInProcessResult,
    JobDefinition,
    validate_run_config,
)
from pydantic import BaseModel, Field, SecretStr
from stages_for_tests import registry

from crucible_core import (
    Context,
    Experiment,
    InvalidExperimentError,
    InvalidOptionsError,
    Registry,
    Stage,
    load_experiment,
    plan_experiment,
    run_experiment,
    stage,
)
from crucible_core.cli import main
from crucible_dagster import History, execute_experiment, job_for
from crucible_dagster.compile.job import graph_for, variants_job_of
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.tags import VARIANT_TAG


class Optimizer(BaseModel):
    kind: str = "sgd"
    rate: float = 0.1


class Draw(Stage):
    """Shows its options."""

    size: int = 10
    seed: int = 0
    optimizer: Optimizer = Optimizer()
    weights: dict[str, float] = Field(default={})

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric(ctx.trace.events[-1].stage, self.model_dump(mode="json"))


@stage
def listed(ctx: Context, *, seed: list[int]) -> Context:
    """Has another idea of a seed."""
    return ctx


STAGES = registry() | {"draw": Draw, "listed": listed}

FILE = """
id: drawn
seed: 3
pipeline:
  - name: draw
    options: {size: 20, optimizer: {kind: adam, rate: 0.5}, weights: {a: 1}}
  - name: again
    module: draw
    options: {seed: 4}
  - name: nothing
variants:
  small:
    draw: {size: 2, optimizer: {rate: 0.25}, weights: {b: 2}}
  other:
    again: {seed: 5}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    (tmp_path / "drawn.yaml").write_text(FILE)
    return load_experiment("drawn.yaml")


@pytest.fixture(scope="module")
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


def launch(
    experiment: Experiment,
    instance: DagsterInstance,
    settings: dict[str, Any] | None = None,
    ops: dict[str, Any] | None = None,
    **more: Any,
) -> ExecuteInProcessResult:
    config = {
        **({"resources": {"experiment": {"config": settings}}} if settings else {}),
        **({"ops": {name: {"config": options} for name, options in ops.items()}} if ops else {}),
    }
    job = job_for(experiment, STAGES)
    return job.execute_in_process(instance=instance, run_config=config, raise_on_error=False, **more)


def context_of(result: ExecuteInProcessResult, instance: DagsterInstance) -> Context:
    assert result.success
    return open_store(instance).load(result.run_id, "nothing")


def test_a_variant_replaces_the_options_that_it_names_and_of_nested_ones_their_parts(experiment: Experiment) -> None:
    small = experiment.with_variant("small", STAGES)
    assert small.variant == "small"
    context = run_experiment(small, registry=STAGES)
    assert context.metrics["draw"] == {
        "size": 2,
        "seed": 3,
        "optimizer": {"kind": "adam", "rate": 0.25},
        "weights": {"b": 2.0},
    }
    assert context.experiment.variant == "small"
    assert run_experiment(experiment, registry=STAGES).metrics["draw"]["size"] == 20


def test_a_variant_is_the_same_once_more_and_no_other(experiment: Experiment) -> None:
    small = experiment.with_variant("small", STAGES).with_options("draw", {"size": 3})
    assert small.with_variant("small", STAGES) == small
    with pytest.raises(InvalidExperimentError, match="this is variant 'small' of experiment 'drawn' already"):
        small.with_variant("other", STAGES)


def test_an_unknown_variant_is_named_with_those_that_exist(experiment: Experiment) -> None:
    with pytest.raises(
        InvalidExperimentError, match=r"no variant 'smal'; did you mean 'small'\?; its variants: other, small"
    ):
        experiment.with_variant("smal", STAGES)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("draw: {sise: 1}", "drawn.yaml:13:12: variant 'small': stage 'draw' has no option 'sise'"),
        ("draw: {size: many}", "drawn.yaml:13:12: variant 'small': stage 'draw', option size: should be a valid"),
        ("draw: {optimizer: {rate: x}}", "drawn.yaml:13:24: variant 'small': stage 'draw', option optimizer.rate: "),
        ("drow: {size: 1}", "drawn.yaml:13:5: variant 'small': experiment 'drawn' has no stage 'drow'; did you mean"),
    ],
)
def test_a_mistake_in_any_variant_is_refused_with_its_place(tmp_path: Path, wrong: str, said: str) -> None:
    right = "draw: {size: 2, optimizer: {rate: 0.25}, weights: {b: 2}}"
    (tmp_path / "drawn.yaml").write_text(FILE.replace(right, wrong))
    with pytest.raises(InvalidExperimentError) as caught:
        plan_experiment(load_experiment("drawn.yaml"), STAGES)
    assert said in str(caught.value)
    assert len(caught.value.each()) == 1


def test_a_file_that_holds_the_options_of_a_variant_names_one_that_it_has(tmp_path: Path) -> None:
    (tmp_path / "drawn.yaml").write_text(FILE + "variant: smal\n")
    with pytest.raises(InvalidExperimentError) as caught:
        load_experiment("drawn.yaml")
    assert str(caught.value).startswith("drawn.yaml:16:1: ")
    assert "no variant 'smal' in `variants`; did you mean 'small'?; known: other, small" in str(caught.value)


def test_a_run_of_one_variant_is_not_refused_for_another(experiment: Experiment) -> None:
    broken = Experiment.model_validate({**experiment.to_dict(), "variants": {"small": {}, "bad": {"draw": {"x": 1}}}})
    with pytest.raises(InvalidOptionsError, match="variant 'bad'"):
        run_experiment(broken, registry=STAGES)
    assert run_experiment(broken.with_variant("small", STAGES), registry=STAGES).experiment.variant == "small"


def test_the_seed_goes_to_every_stage_that_is_not_given_its_own(experiment: Experiment) -> None:
    context = run_experiment(experiment, registry=STAGES)
    assert [context.metrics[name]["seed"] for name in ("draw", "again")] == [3, 4]
    context = run_experiment(experiment.with_seed(9), registry=STAGES)
    assert [context.metrics[name]["seed"] for name in ("draw", "again")] == [9, 4]
    assert context.experiment.seed == 9


@pytest.mark.parametrize("seed", [-1, 2**63, True, 1.5, "1"])
def test_what_is_no_seed_is_refused(experiment: Experiment, seed: Any) -> None:
    with pytest.raises(InvalidExperimentError, match="seed: "):
        experiment.with_seed(seed)


def test_a_stage_that_cannot_take_the_seed_is_told_so(experiment: Experiment) -> None:
    described = Experiment.model_validate({"id": "x", "seed": 1, "pipeline": [{"name": "listed"}]})
    with pytest.raises(InvalidOptionsError, match=r"stage 'listed', option seed: .*set one for this stage"):
        plan_experiment(described, STAGES)
    plan_experiment(described.with_options("listed", {"seed": [1]}), STAGES)


# --- the command line -------------------------------------------------------------------------------------------------


def command(*arguments: str, **more: Any) -> Any:
    return CliRunner().invoke(main, arguments, **more)


CLI_FILE = """
id: checked
pipeline: [{name: data_checks, options: {required_fields: [a]}}]
variants: {wide: {data_checks: {required_fields: [a, b]}}}
"""


def test_the_command_line_takes_a_variant_and_a_seed(tmp_path: Path) -> None:
    (tmp_path / "stages_of_mine.py").write_text(
        "from crucible_core import Context, stage\n"
        "@stage\ndef show(ctx: Context, *, size: int = 1, seed: int = 0) -> Context:\n"
        "    return ctx.merge_metrics({'size': size, 'seed': seed})\n"
    )
    (tmp_path / "x.yaml").write_text(
        "id: x\npipeline: [{name: show, module: 'stages_of_mine:show'}]\n"
        "variants: {big: {show: {size: 5}}, bigger: {show: {size: 6}}}\n"
    )
    done = command("run", "x.yaml", "--variant", "big", "--seed", "8", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["metrics"] == {"size": 5, "seed": 8}
    done = command("run", "x.yaml", "--variant", "big", "--set", "show.size=7", "--json")
    assert json.loads(done.stdout)["metrics"]["size"] == 7
    done = command("run", "x.yaml", "--variant", "bog")
    assert (done.exit_code, "did you mean 'big'" in done.stderr) == (2, True)
    assert command("validate", "x.yaml", "--variant", "bigger", "--seed", "1").stdout == "x.yaml: valid\n"
    assert command("validate", "x.yaml", "--seed", "-1").exit_code == 2


# --- on Dagster -------------------------------------------------------------------------------------------------------


def test_both_worlds_run_the_same_variant_with_the_same_seed(experiment: Experiment, instance: DagsterInstance) -> None:
    chosen = experiment.with_variant("small", STAGES).with_seed(11)
    direct = run_experiment(chosen, registry=STAGES)
    assert execute_experiment(chosen, registry=STAGES, instance=instance).differences(direct) == ()
    launched = context_of(launch(experiment, instance, {"variant": "small", "seed": 11}), instance)
    assert launched.differences(direct) == ()
    assert launched.experiment == direct.experiment


def test_config_that_writes_every_default_out_does_not_override_the_variant(
    experiment: Experiment, instance: DagsterInstance
) -> None:
    # What the Launchpad's editor holds before anyone has typed anything.
    shown = validate_run_config(job_for(experiment, STAGES), {})
    ops = {name: one["config"] for name, one in shown["ops"].items()}
    assert ops["draw"]["size"] == 20
    settings = {**shown["resources"]["experiment"]["config"], "variant": "small"}
    metrics = context_of(launch(experiment, instance, settings, ops), instance).metrics
    assert metrics["draw"] == {
        "size": 2,
        "seed": 3,
        "optimizer": {"kind": "adam", "rate": 0.25},
        "weights": {"b": 2.0},
    }


def test_what_is_typed_wins_over_the_variant_and_the_variant_over_the_file(
    experiment: Experiment, instance: DagsterInstance
) -> None:
    ops = {"draw": {"size": 7, "optimizer": {"kind": "lion"}}, "again": {"seed": 6}}
    context = context_of(launch(experiment, instance, {"variant": "small"}, ops), instance)
    assert context.metrics["draw"]["size"] == 7
    assert context.metrics["draw"]["optimizer"] == {"kind": "lion", "rate": 0.25}
    assert context.metrics["draw"]["weights"] == {"b": 2.0}
    assert context.metrics["again"]["seed"] == 6


def test_a_run_is_tagged_with_its_variant_and_history_tells_it(
    experiment: Experiment, instance: DagsterInstance
) -> None:
    history = History(instance)
    typed = launch(experiment, instance, {"variant": "small", "seed": 12})
    python = execute_experiment(experiment.with_variant("other", STAGES), registry=STAGES, instance=instance)
    plain = launch(experiment, instance)
    assert instance.get_run_by_id(typed.run_id).tags[VARIANT_TAG] == "small"
    found = {run.run_id: run.variant for run in history.runs("drawn")}
    assert [found[run] for run in (typed.run_id, python.run_id, plain.run_id)] == ["small", "other", None]
    record = history.record(typed.run_id)
    assert record is not None
    assert (record.experiment["variant"], record.experiment["seed"]) == ("small", 12)
    assert record.seeds == {"draw": 12, "again": 4}
    rows = {row["run_id"]: row.get("variant") for row in history.metrics("drawn")}
    assert rows[typed.run_id] == "small"


def test_a_run_that_executes_another_again_without_its_variant_loses_the_tag(
    experiment: Experiment, instance: DagsterInstance
) -> None:
    again = launch(experiment, instance, tags={VARIANT_TAG: "small"})
    own = launch(experiment, instance, tags={VARIANT_TAG: "a label of my own"})
    found = {run.run_id: run.variant for run in History(instance).runs("drawn")}
    assert found[again.run_id] is None
    assert found[own.run_id] == "a label of my own"


def variants_job(experiment: Experiment, stages: Registry) -> JobDefinition:
    job = variants_job_of(graph_for(plan_experiment(experiment, stages)))
    assert job is not None
    return job


def test_a_variant_is_a_partition_whose_config_runs_it(experiment: Experiment, instance: DagsterInstance) -> None:
    assert job_for(experiment, STAGES).partitions_def is None  # the Launchpad would ask for one at every launch
    job = variants_job(experiment, STAGES)
    assert job.partitions_def is not None
    assert list(job.partitions_def.get_partition_keys()) == ["small", "other"]
    result = job.execute_in_process(instance=instance, partition_key="small")
    assert context_of(result, instance).metrics["draw"]["size"] == 2
    assert instance.get_run_by_id(result.run_id).tags[VARIANT_TAG] == "small"
    plain = Experiment.model_validate({"id": "plain", "pipeline": [{"name": "nothing"}]})
    assert variants_job_of(graph_for(plan_experiment(plain, STAGES))) is None
    assert next(iter(History(instance).runs("drawn"))).run_id == result.run_id


def test_what_is_typed_over_a_partitions_config_is_what_runs(experiment: Experiment, instance: DagsterInstance) -> None:
    job = variants_job(experiment, STAGES)
    assert job.partitioned_config is not None
    filled_in = job.partitioned_config.get_run_config_for_partition_key("small")
    assert filled_in["ops"]["draw"]["config"] == {"size": 2, "optimizer": {"rate": 0.25}, "weights": {"b": 2}}
    shown = validate_run_config(job, filled_in)
    ops = {name: one["config"] for name, one in shown["ops"].items()}
    settings = shown["resources"]["experiment"]["config"]
    tags = {"dagster/partition": "small"}
    untouched = context_of(launch(experiment, instance, settings, ops, tags=tags), instance)
    assert untouched.metrics["draw"]["size"] == 2
    assert untouched.metrics["draw"]["seed"] == 3
    assert untouched.experiment.pipeline == experiment.with_variant("small", STAGES).pipeline
    # The file's own value, which in this editor somebody has typed.
    ops["draw"]["size"] = 20
    typed = context_of(launch(experiment, instance, settings, ops, tags=tags), instance)
    assert typed.metrics["draw"]["size"] == 20
    assert typed.metrics["draw"]["optimizer"] == {"kind": "adam", "rate": 0.25}


def test_a_secret_of_a_variant_is_not_in_the_config_of_its_partition(instance: DagsterInstance) -> None:
    described = Experiment.model_validate(
        {
            "id": "secretive",
            "pipeline": [{"name": "fetch"}, {"name": "nothing"}],
            "variants": {"mine": {"fetch": {"token": "hunter2", "user": {"name": "me", "password": "hunter3"}}}},
        }
    )
    job = variants_job(described, STAGES | {"fetch": Fetch})
    assert job.partitioned_config is not None
    config = job.partitioned_config.get_run_config_for_partition_key("mine")
    assert config["ops"] == {"fetch": {"config": {"user": {"name": "me"}}}}
    result = job.execute_in_process(instance=instance, partition_key="mine")
    assert context_of(result, instance).metrics["lengths"] == [7, 7]
    assert "hunter" not in str(instance.get_run_by_id(result.run_id).run_config)


class User(BaseModel):
    name: str = ""
    password: SecretStr = SecretStr("")


class Fetch(Stage):
    """Has secrets."""

    token: SecretStr = SecretStr("")
    user: User = User()

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("lengths", [len(self.token), len(self.user.password)])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variant": "smal"}, "smal"),
        ({"seed": "many"}, "seed"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"tracing": 1}, "tracing"),
        ({"log_level": "LOUD"}, "log_level"),
        ({"trials": 3}, "trials"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_run(experiment: Experiment, settings: Any, said: str) -> None:
    with pytest.raises(DagsterInvalidConfigError, match=said):
        validate_run_config(job_for(experiment, STAGES), {"resources": {"experiment": {"config": settings}}})


def test_an_option_that_fits_the_variant_alone_is_left_to_the_run(instance: DagsterInstance) -> None:
    described = Experiment.model_validate(
        {
            "id": "ordered",
            "pipeline": [{"name": "between", "options": {"low": 1, "high": 2}}, {"name": "nothing"}],
            "variants": {"high": {"between": {"high": 10}}},
        }
    )
    stages = STAGES | {"between": Between}
    job = job_for(described, stages)
    typed = {"ops": {"between": {"config": {"low": 5}}}}
    chosen = {"resources": {"experiment": {"config": {"variant": "high"}}}}
    assert job.execute_in_process(instance=instance, run_config={**typed, **chosen}).success
    refused = job.execute_in_process(instance=instance, run_config=typed, raise_on_error=False)
    (failure,) = [event for event in refused.all_events if event.is_step_failure]
    assert "low is above high" in failure.event_specific_data.user_failure_data.description
    with pytest.raises(DagsterInvalidConfigError, match="low is above high"):
        job.execute_in_process(instance=instance, run_config={"ops": {"between": {"config": {"low": 50}}}})


class Between(Stage):
    """Needs two options in order."""

    low: int = 0
    high: int = 1

    def model_post_init(self, _: object) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")

    def run(self, ctx: Context) -> Context:
        return ctx


def test_a_run_of_a_variant_that_was_typed_is_held_against_runs_of_that_variant(instance: DagsterInstance) -> None:
    low, high = [1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 12.0, 13.0, 14.0, 15.0]
    described = Experiment.model_validate(
        {
            "id": "judged",
            "pipeline": [{"name": "groups", "options": {"control": low, "treatment": high}}, {"name": "bench"}],
            "variants": {"small": {"groups": {"treatment": low}}},
            "gates": [{"name": "no_worse", "no_regression": {"group": "treatment", "margin": 0.5, "paired": True}}],
        }
    )
    first = launch(described, instance, {"variant": "small"})
    launch(described, instance)
    second = launch(described, instance, {"variant": "small"})
    (event,) = [event for event in second.all_events if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION]
    assert first.run_id in str(event.event_specific_data)


def test_a_resumed_run_keeps_variant_and_seed(experiment: Experiment, tmp_path: Path) -> None:
    described = Experiment.model_validate(
        {
            **experiment.to_dict(),
            "id": "resumed",
            "pipeline": [
                {"name": "draw", "options": {"size": 20}},
                {"name": "fail_until", "options": {"counter": str(tmp_path / "count"), "succeed_at": 2}},
                {"name": "again", "module": "draw"},
                {"name": "nothing"},
            ],
        }
    )
    with DagsterInstance.ephemeral() as instance:
        failed = launch(described, instance, {"variant": "small", "seed": 13}, {"draw": {"size": 4}})
        assert not failed.success
        context = resume_run(instance, failed.run_id, registry=STAGES)
        assert context.metrics["draw"]["size"] == 4
        assert [context.metrics[name]["seed"] for name in ("draw", "again")] == [13, 13]
        assert {run.run_id: run.variant for run in History(instance).runs("resumed")}[context.run_id] == "small"

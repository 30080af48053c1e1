"""Mistakes in options, arguments and schedules: one sentence that says what was asked, what exists and what to do."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr

import crucible_bench
from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    InvalidExperimentError,
    Registry,
    Stage,
    StageFailedError,
    builtin_registry,
    load_experiment,
    plan_experiment,
    run_experiment,
    stage,
)
from crucible_core.ir.secrets import MASK
from crucible_core.observers import Observer
from crucible_core.values.immutable import MissingNameError, PersistentDict


class Login(BaseModel, extra="forbid"):
    user: str = "me"
    password: Annotated[SecretStr, Field(min_length=10)] = SecretStr("not so short")


class Adam(BaseModel):
    kind: Literal["adam"]
    rate: float = 0.1


class Sgd(BaseModel):
    kind: Literal["sgd"]
    momentum: float = 0.9


class Brew(Stage):
    """Makes coffee."""

    cups: int = 1
    beans: Literal["arabica", "robusta"] = "arabica"
    login: Login = Login()
    logins: list[Login] = Field(default=[])
    either: Login | int = 1
    optimizer: Annotated[Adam | Sgd, Field(discriminator="kind")] = Adam(kind="adam")

    def run(self, ctx: Context) -> Context:
        return ctx


REGISTRY = builtin_registry() | {"brew": Brew}


def refused(entry: dict[str, Any], **more: Any) -> str:
    with pytest.raises(InvalidExperimentError) as caught:
        plan_experiment(Experiment.model_validate({"id": "e", "pipeline": [entry], **more}), REGISTRY)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"cupps": 2},
            "stage 'brew' has no option 'cupps'; did you mean 'cups'?; its options: beans, cups, either, login, "
            "logins, optimizer",
        ),
        (
            {"login": {"usr": "x"}},
            "option 'login' of stage 'brew' has no field 'usr'; did you mean 'user'?; its fields: password, user",
        ),
        (
            {"logins": [{"usr": "x"}]},
            "option 'logins.0' of stage 'brew' has no field 'usr'; did you mean 'user'?; its fields: password, user",
        ),
        (
            {"beans": "arabca"},
            "stage 'brew', option beans: should be 'arabica' or 'robusta'; did you mean 'arabica'? (given: 'arabca')",
        ),
        ({"optimizer": {"kind": "adm"}}, "did you mean 'adam'?"),
        ({"cups": "many"}, "stage 'brew', option cups: should be a valid integer (given: 'many')"),
    ],
)
def test_a_wrong_option_is_named_with_the_closest_that_exists(options: dict[str, Any], said: str) -> None:
    assert said in refused({"name": "brew", "options": options})


def test_of_a_long_enumeration_the_closest_is_named_or_the_first_few() -> None:
    said = refused({"name": "bench", "options": {"tests": ["t_test"]}})
    assert said.endswith("this is not one of the 38 values that it takes; did you mean 'ttest'? (given: 't_test')")
    said = refused({"name": "bench", "options": {"tests": ["xyz"]}})
    assert "tests.0: this is not one of the 38 values that it takes; among them: 'anova', 'bootstrap'" in said
    assert len(said) < 450


@pytest.mark.parametrize(
    "options",
    [
        {"login": {"password": "hunter2"}},
        {"login": {"password": 1234567}},
        {"logins": [{"password": "hunter2"}]},
        {"either": {"password": "hunter2"}},
        {"logins": [{"password": "hunter2hunter2"}, {"password": "hunter2"}]},
    ],
)
def test_a_nested_secret_is_not_in_what_is_said_of_it(options: dict[str, Any]) -> None:
    said = refused({"name": "brew", "options": options})
    assert "password" in said
    assert "hunter2" not in said
    assert "1234567" not in said


def test_a_secret_is_masked_in_the_context_and_in_how_a_stage_failed() -> None:
    class Talks(Stage):
        """Says its secret."""

        login: Login = Login()

        def run(self, ctx: Context) -> Context:
            raise RuntimeError(f"refused: {self.login.password.get_secret_value()}")

    options = {"login": {"password": "correct horse"}}
    variants = {"other": {"talks": {"login": {"password": "battery staple"}}}}
    described = {"id": "e", "pipeline": [{"name": "talks", "options": options}], "variants": variants}
    with pytest.raises(StageFailedError) as failed:
        run_experiment(Experiment.model_validate(described), registry=Registry({"talks": Talks}))
    context = failed.value.context
    assert context.experiment.pipeline[0].options == {"login": {"password": MASK}}
    assert context.experiment.variants == {"other": {"talks": {"login": {"password": MASK}}}}
    assert failed.value.reason == f"RuntimeError: refused: {MASK}"
    assert "correct horse" not in context.trace.to_json()


def test_a_mask_is_refused_where_a_secret_is_needed() -> None:
    masked = Experiment.model_validate(
        {"id": "e", "pipeline": [{"name": "brew", "options": {"login": {"password": MASK}}}]}
    )
    with pytest.raises(InvalidExperimentError, match=r"'login.password' is not known.*--set brew.login.password=VALUE"):
        run_experiment(masked, registry=REGISTRY)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"cron": "99 * * * *"}, "'99 * * * *' is not a cron schedule: its minute is 99, and goes from 0 to 59"),
        ({"cron": "0 24 * * *"}, "its hour is 24"),
        ({"cron": "0 0 1,32 * *"}, "its day of month is 32"),
        ({"cron": "0 0 * 0-3 *"}, "its month is 0"),
        ({"cron": "0 0 * * 8"}, "its day of week is 8"),
        ({"cron": "@daily", "timezone": "Europe/Berln"}, "'Europe/Berln' is not an IANA time zone, such as"),
        ({"cron": "@daily", "timezone": "Europe/Berln"}, "did you mean 'Europe/Berlin'?"),
        ({"cron": "@daily", "timezone": "europe/berlin"}, "did you mean 'Europe/Berlin'?"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_named(schedule: dict[str, str], said: str, tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    file.write_text(Experiment.model_validate({"id": "e", "pipeline": [{"name": "brew"}]}).to_json()[:-1])
    text = file.read_text().rstrip() + f', "schedule": {str(schedule).replace(chr(39), chr(34))}}}'
    file.write_text(text)
    with pytest.raises(InvalidExperimentError) as caught:
        plan_experiment(load_experiment(file), REGISTRY)
    assert said in str(caught.value)


@pytest.mark.parametrize("cron", ["*/90 * * * *", "0 0 * * MON#2", "0 0 L * *", "5-10/99 * * JAN-MAR *"])
def test_other_forms_of_cron_are_left_to_what_runs_the_schedule(cron: str) -> None:
    described = {"id": "e", "pipeline": [{"name": "brew"}], "schedule": {"cron": cron}}
    assert plan_experiment(Experiment.model_validate(described), REGISTRY).experiment.schedule is not None


def test_a_gate_names_a_group_and_a_variant_that_exist() -> None:
    entry = {"name": "bench", "options": {"groups": ["control", "new"]}}
    gate = {"name": "g", "no_regression": {"group": "contol", "margin": 0.1}}
    assert (
        "gate 'g': 'bench' compares no group 'contol'; did you mean 'control'?; it compares: control, new"
        in refused(entry, gates=[gate])
    )
    rule = {"group": "new", "margin": 0.1, "baseline": {"variant": "smal"}}
    described = {"id": "e", "pipeline": [entry], "gates": [{"name": "g", "no_regression": rule}]}
    with pytest.raises(ValueError, match="there is no variant 'smal'; did you mean 'small'\\?; variants: small"):
        Experiment.model_validate({**described, "variants": {"small": {}}})
    assert Experiment.model_validate(described).gates, "it may have had variants before"


EXPERIMENT = Experiment.model_validate({"id": "e", "pipeline": [{"name": "validate"}]})
CTX = Context.begin(EXPERIMENT)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: run_experiment("x.yaml"),
            "takes an Experiment, not str 'x.yaml'; read the file first: load_experiment(",
        ),
        (lambda: run_experiment(Path("x.yaml")), "read the file first: load_experiment('x.yaml')"),
        (lambda: run_experiment({"id": "e"}), "make one of it first: Experiment.model_validate"),
        (lambda: plan_experiment("x.yaml", REGISTRY), "takes an Experiment, not str"),
        (
            lambda: run_experiment(EXPERIMENT, registry={"a": 1}),
            "registry takes a Registry, such as builtin_registry()",
        ),
        (lambda: run_experiment(EXPERIMENT, observers=Observer()), "observers takes a list, not Observer"),
        (lambda: run_experiment(EXPERIMENT, observers=print), "write observers=[...]"),
        (lambda: run_experiment(EXPERIMENT, observers=["x"]), "observers takes Observers and functions, not str 'x'"),
        (lambda: run_experiment(EXPERIMENT, assigns=[1]), "assigns takes a mapping of names to values, not list [1]"),
        (lambda: run_experiment(EXPERIMENT, run_id=5), "run_id takes a text, not int 5"),
        (lambda: load_experiment({"id": 1}), "load_experiment takes the path of a file, not dict"),
        (lambda: Registry([1]), "Registry takes a mapping"),
        (lambda: EXPERIMENT.with_options("validate", [1]), "with_options takes a mapping"),
        (lambda: CTX.merge_metrics([1]), "takes a mapping of names to values, not list [1]"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused_in_one_sentence(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(CrucibleError) as caught:
        call()
    assert isinstance(caught.value, TypeError)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: crucible_bench.compare({"a": [1, 2], "b": [2, 3]}, margin="0.1"), "margin is a number, not '0.1'"),
        (lambda: crucible_bench.compare({"a": [1, 2], "b": [2, 3]}, alpha="0.1"), "alpha is a number, not '0.1'"),
        (lambda: crucible_bench.compare([[1, 2], [3, 4]]), "the groups cannot be compared: they are a mapping"),
        (
            lambda: crucible_bench.compare({"a": [1, 2], "b": [2, 3]}, margin=1.0, non_inferiority="x", alpha="1"),
            "no test can be chosen: alpha is a number",
        ),
    ],
)
def test_a_wrong_argument_of_a_comparison_is_named(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(crucible_bench.CannotTestError) as caught:
        call()
    assert said in str(caught.value)


# --- what a stage reads and returns -----------------------------------------------------------------------------------


def test_a_name_that_a_context_does_not_have_is_still_a_key_error_that_says_what_there_is() -> None:
    ctx = CTX.put_metric("accuracy", 0.5).assign(model=1)
    with pytest.raises(KeyError) as caught:
        ctx.metrics["acuracy"]
    assert str(caught.value) == "there is no 'acuracy' here; did you mean 'accuracy'?; there are: accuracy"
    assert caught.value.args == ("acuracy",)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (MissingNameError, str(caught.value))
    assert ctx.metrics.get("acuracy", 7) == 7
    with pytest.raises(KeyError, match="there are: none"):
        PersistentDict()[3]


@stage
def drops(ctx: Context, *, how: str) -> Context:
    made = {
        "metric": lambda: ctx.put_metric("a", 1),
        "assign": lambda: ctx.assign(a=1),
        "output": lambda: ctx.add_output(1),
        "decision": lambda: ctx.decide("a", "b"),
        "other": lambda: Context.begin(EXPERIMENT).put_metric("a", 1),
        "nothing": lambda: ctx.get_metric("a"),
    }[how]()
    return ctx if how != "kept" else made


@stage
def keeps(ctx: Context) -> Context:
    ctx.put_metric("left", 1)
    return ctx.put_metric("a", 1)


def run_of(*pipeline: dict[str, Any]) -> Context:
    described = Experiment.model_validate({"id": "e", "pipeline": pipeline})
    return run_experiment(described, registry=Registry({"drops": drops, "keeps": keeps}))


@pytest.mark.parametrize("how", ["metric", "assign", "output", "decision"])
def test_a_new_context_that_is_not_returned_is_warned_of(how: str, caplog: pytest.LogCaptureFixture) -> None:
    run_of({"name": "drops", "options": {"how": how}})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "stage 'drops' returned the Context that it was given, although it made a new one" in record.getMessage()


@pytest.mark.parametrize("how", ["other", "nothing"])
def test_a_context_that_came_back_unchanged_as_nothing_was_made_of_it_is_not_warned_of(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_of({"name": "keeps"}, {"name": "drops", "options": {"how": how}})
    assert not caplog.records


@pytest.mark.slow
def test_a_stage_that_returns_none_is_explained_without_an_empty_traceback(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text(
        "from crucible_core import Context, stage\n\n@stage\ndef none(ctx: Context) -> Context:\n    ctx.assign(a=1)\n"
    )
    (tmp_path / "e.yaml").write_text("id: e\npipeline: [{name: none, module: 'none:none'}]\n")
    program = "from crucible_core.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "e.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("stage 'none' returned None; run() must return the Context") == 1

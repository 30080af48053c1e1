"""The Launchpad: each kind of option that a stage can have, as Dagster shows and checks it."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from dagster import DagsterInstance, DagsterInvalidConfigError, JobDefinition, validate_run_config
from pydantic import BaseModel, Field, SecretStr
from typing_extensions import TypeAliasType

from crucible_core import Context, Experiment, Registry, Stage, run_experiment
from crucible_core.ir.option_schema import Kind
from crucible_dagster import job_for
from crucible_dagster.compile import op_config
from crucible_dagster.compile.op_config import enum_of, option_fields
from crucible_dagster.execute.launchpad import typed_options
from crucible_dagster.store.io_manager import open_store


class Adam(BaseModel):
    kind: Literal["adam"]
    rate: float = Field(default=0.001, gt=0, description="Step size.")
    betas: tuple[float, float] = (0.9, 0.999)


class Sgd(BaseModel):
    kind: Literal["sgd"]
    rate: float = Field(default=0.001, gt=0, description="Step size.")
    momentum: float = 0.9


class Layer(BaseModel):
    width: int = Field(ge=1)
    activation: Literal["relu", "tanh"] = "relu"


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Everything(Stage):
    """Has an option of every kind."""

    name: str
    """A text."""
    count: Annotated[int, Field(ge=1, multiple_of=2)] = 2
    """A whole number."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A number."""
    loud: bool = False
    """A switch."""
    mode: Literal["fast", "exact"] = "fast"
    """A choice."""
    only: Literal["this"] = "this"
    """A choice of one."""
    colour: Colour = Colour.red
    """A choice of an enum."""
    power: Literal[1, 2, 4] = 1
    """A choice of numbers."""
    either: Literal["auto"] | int = "auto"
    """A word or a number."""
    limit: int | None = None
    """A number or nothing."""
    sizes: list[int] = Field(default=[1, 2])
    """Several numbers."""
    size: int | list[int] = 1
    """One number or several."""
    pair: tuple[float, float] = (0.0, 1.0)
    """Two numbers."""
    mixed: tuple[str, int] = ("a", 1)
    """A text and a number."""
    names: set[str] = Field(default={"a"})
    """Texts."""
    weights: dict[str, float] = Field(default={"a": 1.0})
    """Numbers by name."""
    anything: dict[str, Any] = Field(default={})
    """Whatever."""
    layer: Layer = Layer(width=3)
    """A model."""
    maybe: Layer | None = None
    """A model or nothing."""
    layers: list[Layer] = Field(default=[Layer(width=8)])
    """Models."""
    by_name: dict[str, Layer] = Field(default={})
    """Models by name."""
    optimizer: Adam | Sgd = Field(default=Sgd(kind="sgd"), discriminator="kind")
    """One of several models."""
    day: datetime.date = datetime.date(2026, 1, 1)
    """A day."""
    at: datetime.datetime | None = None
    """A time or nothing."""
    patience: datetime.timedelta = datetime.timedelta(minutes=5)
    """A duration."""
    file: Path | None = None
    """A file."""
    key: uuid.UUID | None = None
    """A UUID."""
    price: Decimal = Decimal("1.5")
    """An exact number."""
    token: SecretStr = SecretStr("")
    """A secret."""

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("options", self.model_dump(mode="json"))


STAGES = Registry({"everything": Everything})
GIVEN = {"name": "x", "optimizer": {"kind": "adam", "rate": 0.5}, "layer": {"width": 5, "activation": "tanh"}}
EXPERIMENT = Experiment.model_validate({"id": "all", "pipeline": [{"name": "everything", "options": GIVEN}]})


@pytest.fixture(scope="module")
def job() -> JobDefinition:
    return job_for(EXPERIMENT, STAGES)


@pytest.fixture(scope="module")
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture(scope="module")
def fields(job: JobDefinition) -> dict[str, Any]:
    """The fields of the op's config as Dagster's webserver gets them."""
    snapshots = job.get_job_snapshot().config_schema_snapshot.all_config_snaps_by_key.values()
    (found,) = [kind for kind in snapshots if {"name", "share", "token"} <= {one.name for one in kind.fields or ()}]
    return {one.name: one for one in found.fields}


def config_of(**options: Any) -> dict[str, Any]:
    return {"ops": {"everything": {"config": options}}}


def test_every_option_is_there_with_its_description(fields: dict[str, Any]) -> None:
    assert set(fields) == set(Everything.model_fields)
    assert all(one.description for one in fields.values())
    assert fields["count"].description == "A whole number. (at least 1, a multiple of 2)"
    assert fields["share"].description == "A number. (more than 0, less than 1)"
    assert fields["power"].description == "A choice of numbers. (1 or 2 or 4)"
    assert fields["either"].description == 'A word or a number. ("auto" or whole number)'
    assert fields["size"].description == "One number or several. (whole number or list of whole numbers)"
    assert fields["mixed"].description == "A text and a number. (list of text, whole number, items at least 2, " + (
        "items at most 2)"
    )
    assert fields["day"].description == "A day. (date such as 2026-01-31)"
    assert fields["at"].description == "A time or nothing. (time such as 2026-01-31T12:30:00Z)"
    assert fields["file"].description == "A file. (path)"


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("name", "String"),
        ("count", "Int"),
        ("share", "Float"),
        ("loud", "Bool"),
        ("mode", "fast_or_exact"),
        ("only", "this"),
        ("colour", "red_or_blue"),
        ("power", "Int"),
        ("either", "Any"),
        ("limit", "Noneable.Int"),
        ("sizes", "Array.Int"),
        ("size", "ScalarUnion.Int-Array.Int"),
        ("pair", "Array.Float"),
        ("mixed", "Array.Any"),
        ("names", "Array.String"),
        ("weights", "Map.String.Float"),
        ("layer", "Shape."),
        ("maybe", "Noneable.Shape."),
        ("layers", "Array.Shape."),
        ("by_name", "Map.String.Shape."),
        ("optimizer", "Shape."),
        ("day", "String"),
        ("file", "Noneable.String"),
        ("price", "Any"),
        ("token", "String"),
    ],
)
def test_every_option_has_the_type_that_dagster_can_check(fields: dict[str, Any], option: str, kind: str) -> None:
    found = fields[option].type_key
    assert found.startswith(kind) if kind.endswith(".") else found == kind


def test_the_defaults_are_those_of_the_file_and_then_of_the_stage(fields: dict[str, Any], job: JobDefinition) -> None:
    shown = {name: json.loads(one.default_value_as_json_str) for name, one in fields.items() if one.default_provided}
    assert shown["optimizer"] == {"kind": "adam", "rate": 0.5}
    assert shown["layers"] == [{"width": 8, "activation": "relu"}]
    assert (shown["name"], shown["mode"], shown["day"]) == ("x", "fast", "2026-01-01")
    assert not {"token", "limit", "maybe", "file"} & shown.keys()
    resolved = validate_run_config(job, {})["ops"]["everything"]["config"]
    assert resolved["layer"] == {"width": 5, "activation": "tanh"}
    assert not any(one.is_required for one in fields.values())


def test_what_the_editor_holds_from_the_beginning_runs_as_the_file_does(
    job: JobDefinition, instance: DagsterInstance
) -> None:
    config = {"ops": {"everything": {"config": validate_run_config(job, {})["ops"]["everything"]["config"]}}}
    run = job.execute_in_process(instance=instance, run_config=config)
    context = open_store(instance).load(run.run_id, "everything")
    assert context.differences(run_experiment(EXPERIMENT, registry=STAGES)) == ()
    assert context.experiment.pipeline == EXPERIMENT.pipeline


@pytest.mark.parametrize(
    "options",
    [
        {"count": 4, "share": 0.25, "loud": True, "mode": "exact", "colour": "blue", "power": 4},
        {"either": 3, "limit": 7, "sizes": [3], "size": [1, 2], "pair": [1, 2.5], "mixed": ["b", 2]},
        {"names": ["b"], "weights": {"b": 2}, "anything": {"deep": [1, {"er": None}]}},
        {"layers": [{"width": 1}, {"width": 2, "activation": "tanh"}], "by_name": {"a": {"width": 9}}},
        {"optimizer": {"kind": "sgd", "momentum": 0.5}},
        {"optimizer": {"kind": "adam", "betas": [0.5, 0.6]}, "maybe": {"width": 4}},
        {"day": "2026-02-03", "at": "2026-02-03T04:05:06Z", "patience": "PT1H", "file": "a/b", "price": "2.25"},
        {"key": "12345678-1234-5678-1234-567812345678", "token": "hunter2", "limit": None},
    ],
    ids=" ".join,
)
def test_what_is_typed_reaches_the_stage(job: JobDefinition, instance: DagsterInstance, options: Any) -> None:
    run = job.execute_in_process(instance=instance, run_config=config_of(**options))
    got = open_store(instance).load(run.run_id, "everything").metrics["options"]
    direct = run_experiment(EXPERIMENT.with_options("everything", options), registry=STAGES).metrics["options"]
    assert got == direct


def test_one_field_of_a_nested_model_keeps_the_others_of_the_file(
    job: JobDefinition, instance: DagsterInstance
) -> None:
    run = job.execute_in_process(instance=instance, run_config=config_of(layer={"activation": "relu"}))
    got = open_store(instance).load(run.run_id, "everything").metrics["options"]
    assert got["layer"] == {"width": 5, "activation": "relu"}


@pytest.mark.parametrize(
    "options",
    [
        {"name": 1},
        {"count": 2.5},
        {"count": "2"},
        {"share": "0.1"},
        {"loud": "yes"},
        {"mode": "slow"},
        {"only": "that"},
        {"colour": "green"},
        {"power": "two"},
        {"limit": "none"},
        {"sizes": [1, "two"]},
        {"sizes": 1},
        {"size": "one"},
        {"size": ["one"]},
        {"pair": [0, "one"]},
        {"names": [1]},
        {"weights": {"a": "heavy"}},
        {"layer": {"depth": 1}},
        {"layer": {"activation": "gelu"}},
        {"layers": [{"width": "wide"}]},
        {"layers": [{}]},
        {"by_name": {"a": {"width": "wide"}}},
        {"maybe": {"width": "wide"}},
        {"optimizer": {"kind": "newton"}},
        {"optimizer": {"rate": 0.1}},
        {"optimizer": {"kind": "sgd", "momentum": "much"}},
        {"day": 20260101},
        {"nmae": "x"},
    ],
    ids=str,
)
def test_the_wrong_type_is_refused_while_it_is_typed(job: JobDefinition, options: Any) -> None:
    with pytest.raises(DagsterInvalidConfigError) as caught:
        validate_run_config(job, config_of(**options))
    # By Dagster's own types, which its UI checks without asking the code location.
    assert caught.value.errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"count": 0}, "option count: should be greater than or equal to 1 (given: 0)"),
        ({"count": 3}, "option count: should be a multiple of 2 (given: 3)"),
        ({"share": 1.0}, "option share: should be less than 1 (given: 1.0)"),
        ({"power": 3}, "option power: should be 1, 2 or 4 (given: 3)"),
        ({"either": "manual"}, "option either"),
        ({"pair": [1.0]}, "option 'pair.1' is missing"),
        ({"layer": {"width": 0}}, "option layer.width: should be greater than or equal to 1 (given: 0)"),
        ({"layers": [{"width": 1}, {"width": 0}]}, "option layers.1.width: should be greater than or equal to 1"),
        ({"optimizer": {"kind": "adam", "rate": -1.0}}, "option optimizer.adam.rate: should be greater than 0"),
        ({"day": "yesterday"}, "option day: should be a valid date"),
        ({"key": "abc"}, "option key: should be a valid UUID"),
        ({"patience": "soon"}, "option patience: should be a valid duration"),
    ],
    ids=str,
)
def test_the_wrong_value_is_refused_before_a_run_is_created(
    job: JobDefinition, instance: DagsterInstance, options: Any, said: str
) -> None:
    before = len(instance.get_run_ids())
    with pytest.raises(DagsterInvalidConfigError) as caught:
        instance.create_run_for_job(job, run_config=config_of(**options))
    assert f"stage 'everything', {said}" in str(caught.value)
    assert len(instance.get_run_ids()) == before


def test_a_secret_is_not_in_what_is_said_of_it(job: JobDefinition) -> None:
    with pytest.raises(DagsterInvalidConfigError) as caught:
        validate_run_config(job, config_of(count=0, token="hunter2"))
    assert "hunter2" not in str(caught.value)


def test_every_kind_of_option_has_a_config_type() -> None:
    assert set(op_config._CONFIG_TYPES) == set(get_args(Kind))


class Corner(Stage):
    """Has options that Dagster's types cannot say, or that it fills in inside a list."""

    limits: bool | dict[str, int] = False
    """On or off, or numbers by name."""
    ends: tuple[Layer, Layer] = (Layer(width=1), Layer(width=2))
    """Two models."""

    def run(self, ctx: Context) -> Context:
        return ctx


def test_a_switch_or_a_mapping_is_described_where_dagster_has_no_such_type() -> None:
    field = option_fields(Corner, {})["limits"]
    assert field.config_type.key == "Any"
    assert field.description == "On or off, or numbers by name. (true or false or mapping)"


def test_what_dagster_fills_in_inside_a_tuple_was_typed_by_nobody() -> None:
    given = {"ends": [{"width": 3}, {"width": 4}]}
    filled_in = {"ends": [{"width": 3, "activation": "relu"}, {"width": 4, "activation": "relu"}]}
    assert typed_options(Corner, given, filled_in) == {}
    changed = {"ends": [{"width": 3, "activation": "relu"}, {"width": 5, "activation": "relu"}]}
    assert typed_options(Corner, given, changed) == changed


class Tree(BaseModel):
    value: int = 0
    below: list[Tree] = []


class Login(BaseModel):
    user: str = ""
    password: SecretStr = SecretStr("")


Nested = TypeAliasType("Nested", "int | list[Nested]")


class Odd(Stage):
    """Has options that refer to themselves, and secrets deep inside."""

    tree: Tree = Tree()
    nested: Nested = 1
    logins: list[Login] = Field(default=[])

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("odd", [self.tree.model_dump(), self.nested, len(self.logins)])


def test_types_that_refer_to_themselves_and_secrets_deep_inside_are_offered_as_far_as_they_go(
    instance: DagsterInstance,
) -> None:
    options = {"logins": [{"user": "me", "password": "hunter2"}]}
    described = Experiment.model_validate({"id": "odd", "pipeline": [{"name": "odd", "options": options}]})
    odd = job_for(described, Registry({"odd": Odd}))
    assert "hunter2" not in str(odd.get_job_snapshot())
    assert "logins" not in validate_run_config(odd, {})["ops"]["odd"]["config"]
    typed = {"tree": {"below": [{"value": 2, "below": [{"value": 3}]}]}, "nested": [1, [2, [3]]]}
    run = odd.execute_in_process(instance=instance, run_config={"ops": {"odd": {"config": typed}}})
    tree = {"value": 0, "below": [{"value": 2, "below": [{"value": 3, "below": []}]}]}
    assert open_store(instance).load(run.run_id, "odd").metrics["odd"] == [tree, [1, [2, [3]]], 1]


class Tuned(Stage):
    """Has a model with a default of its own, and mappings whose keys are numbers."""

    login: Login = Login(user="me", password=SecretStr("hunter2"))
    layer: Layer = Layer(width=77, activation="tanh")
    weights: dict[int, float] = Field(default={0: 1.0})
    anything: dict[str, Any] = Field(default={})

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("tuned", [self.layer.model_dump(), self.weights, self.anything]).put_metric(
            "length", len(self.login.password.get_secret_value())
        )


TUNED = Experiment.model_validate(
    {
        "id": "tuned",
        "pipeline": [{"name": "tuned"}],
        "variants": {"wide": {"tuned": {"layer": {"width": 99}}}},
    }
)


@pytest.mark.parametrize("filled_in", [False, True])
def test_one_field_of_a_model_with_a_default_of_its_own_keeps_the_others(
    instance: DagsterInstance, filled_in: bool
) -> None:
    job = job_for(TUNED, Registry({"tuned": Tuned}))
    config = validate_run_config(job, {})["ops"]["tuned"]["config"] if filled_in else {}
    assert "hunter2" not in str(config)
    config = {**config, "layer": {**config.get("layer", {}), "width": 5}, "login": {"user": "you"}}
    run = job.execute_in_process(instance=instance, run_config={"ops": {"tuned": {"config": config}}})
    metrics = open_store(instance).load(run.run_id, "tuned").metrics
    assert metrics["tuned"][0] == {"width": 5, "activation": "tanh"}
    assert metrics["length"] == len("hunter2")
    variant = {"resources": {"experiment": {"config": {"variant": "wide"}}}}
    run = job.execute_in_process(instance=instance, run_config=variant)
    assert open_store(instance).load(run.run_id, "tuned").metrics["tuned"][0] == {"width": 99, "activation": "tanh"}


def test_keys_that_are_numbers_can_be_typed(instance: DagsterInstance) -> None:
    config = {"weights": {0: 1.0, 1: 7, -1: 2}, "anything": {1: {2: "x"}}}
    job = job_for(TUNED, Registry({"tuned": Tuned}))
    run = job.execute_in_process(instance=instance, run_config={"ops": {"tuned": {"config": config}}})
    _, weights, anything = open_store(instance).load(run.run_id, "tuned").metrics["tuned"]
    assert weights == {0: 1.0, 1: 7.0, -1: 2.0}
    assert anything == {"1": {"2": "x"}}


def test_a_choice_is_shown_by_its_values_and_no_two_choices_share_a_name() -> None:
    assert enum_of(("quick", "weaker_svm")).given_name == "quick_or_weaker_svm"
    alike = [("a", "b"), ("a_or_b",), ("a-b",), ("a_45_b",), ("a_or", "b"), ("a", "or_b"), ("a-", "b"), ("a_45", "b")]
    assert len({enum_of(values).given_name for values in alike}) == len(alike)

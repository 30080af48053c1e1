"""What is in effect of an option that is a model, and one part of an option replaced."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, BaseModel, Field, SecretStr
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from crucible_core import Context, Experiment, InvalidExperimentError, Registry, Stage, StageDef, plan_experiment
from crucible_core.ir.option_values import completed, to_data, with_part


class Inner(BaseModel):
    rounds: int = 1
    speed: float = 1.0


class Optimizer(BaseModel):
    kind: str = "adam"
    rate: float = Field(default=0.1, alias="lr")
    steps: Annotated[int, Field(validation_alias=AliasChoices("steps", "n"))] = 10
    inner: Inner = Inner(rounds=2)
    token: SecretStr | None = None


@dataclasses.dataclass
class Plain:
    size: int = 1
    names: tuple[str, ...] = ()
    inner: Inner = dataclasses.field(default_factory=lambda: Inner(speed=9.0))


@pydantic_dataclass
class Checked:
    size: int = 1
    depth: int = 1


class Typed(TypedDict):
    a: int
    b: int


class Adam(BaseModel):
    kind: Literal["adam"] = "adam"
    rate: float = 0.1


class Sgd(BaseModel):
    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.9


OWN = Optimizer(kind="sgd", lr=0.5, n=77, inner=Inner(rounds=5), token=SecretStr("open sesame"))


class Go(Stage):
    opt: Optimizer = OWN
    maybe: Optimizer | None = OWN
    made: Optimizer = Field(default_factory=lambda: OWN)
    plain: Plain = Plain(size=4, names=("x", "y"))
    checked: Checked = Checked(size=4, depth=5)
    typed: Typed = Field(default={"a": 1, "b": 2})
    union: Annotated[Adam | Sgd, Field(discriminator="kind")] = Adam(rate=0.7)
    bare: Optimizer = Optimizer()
    layers: list[int] = Field(default=[8, 4])
    stack: list[Inner] = Field(default=[Inner(rounds=3), Inner(rounds=4)])
    pair: tuple[int, Inner] = (1, Inner(rounds=3))
    table: dict[str, int] = Field(default={"a": 1, "m.x": 2})
    free: Any = None

    def run(self, ctx: Context) -> Context:
        return ctx


REGISTRY = Registry({"go": Go})


def planned(options: dict[str, Any]) -> Go:
    (one,) = plan_experiment(Experiment(id="e", pipeline=(StageDef(name="go", options=options),)), REGISTRY)
    assert isinstance(one.stage, Go)
    return one.stage


@pytest.mark.parametrize("option", ["opt", "maybe", "made"])
def test_a_field_that_is_given_replaces_that_field_of_the_default_only(option: str) -> None:
    changed = getattr(planned({option: {"lr": 0.001}}), option)
    assert changed == OWN.model_copy(update={"rate": 0.001})


def test_deeper_fields_and_other_kinds_of_models_keep_their_defaults_too() -> None:
    stage = planned(
        {
            "opt": {"inner": {"speed": 3.0}, "n": 5},
            "plain": {"inner": {"rounds": 7}},
            "checked": {"size": 1},
            "typed": {"b": 5},
            "bare": {"inner": {"speed": 0.5}},
        }
    )
    assert (stage.opt.kind, stage.opt.steps, stage.opt.inner) == ("sgd", 5, Inner(rounds=5, speed=3.0))
    assert stage.plain == Plain(size=4, names=("x", "y"), inner=Inner(rounds=7, speed=9.0))
    assert (stage.checked, stage.typed) == (Checked(size=1, depth=5), {"a": 1, "b": 5})
    assert stage.bare.inner == Inner(rounds=2, speed=0.5)


def test_a_variant_changes_the_given_fields_of_what_is_in_effect() -> None:
    experiment = Experiment(
        id="e",
        pipeline=(StageDef(name="go", options={"opt": {"steps": 5}}),),
        variants={"slow": {"go": {"opt": {"lr": 0.001}, "checked": {"depth": 1}}}},
    )
    (one,) = plan_experiment(experiment.with_variant("slow", REGISTRY), REGISTRY)
    assert isinstance(one.stage, Go)
    assert (one.stage.opt.kind, one.stage.opt.rate, one.stage.opt.steps) == ("sgd", 0.001, 5)
    assert one.stage.checked == Checked(size=4, depth=1)


def test_what_is_not_a_mapping_for_a_model_stays_as_it_is() -> None:
    options = {"maybe": None, "union": {"kind": "sgd"}, "table": {"b": 1}, "layers": [1], "unknown": {"x": 1}}
    assert completed(Go, options) == options
    assert planned({"union": {"kind": "sgd"}}).union == Sgd()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("opt.lr", {"lr": 9}),
        ("opt.inner.speed", {"inner": {"speed": 9}}),
        ("layers.1", [8, 9]),
        ("stack.1.speed", [{"rounds": 3}, {"rounds": 4, "speed": 9}]),
        ("pair.1.rounds", [1, {"rounds": 9}]),
        ("plain.names.0", {"names": [9, "y"]}),
        ("table.m.x", {"a": 1, "m.x": 9}),
        ("table.b", {"a": 1, "m.x": 2, "b": 9}),
        ("union.rate", {"rate": 9}),
        ("union.kind", {"kind": 9}),
        ("free.a.b", {"a": {"b": 9}}),
    ],
)
def test_a_part_is_replaced_in_what_is_in_effect(path: str, expected: Any) -> None:
    assert with_part(Go, {}, path.split("."), 9, stage="go") == expected


def test_a_part_is_replaced_in_what_was_given_before() -> None:
    given = {"free": [{"x": 1, "y": 2}, {"x": 3}], "opt": {"kind": "lbfgs"}, "union": {"kind": "sgd", "momentum": 0.5}}
    assert with_part(Go, given, ["free", "0", "x"], 9, stage="go") == [{"x": 9, "y": 2}, {"x": 3}]
    assert with_part(Go, given, ["opt", "lr"], 9, stage="go") == {"kind": "lbfgs", "lr": 9}
    assert with_part(Go, given, ["union", "momentum"], 9, stage="go") == {"kind": "sgd", "momentum": 9}
    assert with_part(Go, given, ["union", "kind"], "adam", stage="go") == {"kind": "adam"}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (
            "layers.2",
            "option 'layers' of stage 'go' has no item '2'; it is a list, and the indices of its items are 0 to 1",
        ),
        ("layers.-1", "has no item '-1'"),
        ("layers.x", "has no item 'x'"),
        ("layers.0.x", "option 'layers.0' of stage 'go' has no parts, its type is: whole number"),
        ("stack.0.round", "option 'stack.0' of stage 'go' has no field 'round'; did you mean 'rounds'?"),
        ("opt.rate", "has no field 'rate'; "),
        ("table.a.b", "option 'table.a' of stage 'go' has no parts, its type is: whole number"),
        ("otp.lr", "stage 'go' has no option 'otp'; did you mean 'opt'?"),
    ],
)
def test_a_part_that_does_not_exist_is_refused(path: str, reason: str) -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        with_part(Go, {}, path.split("."), 9, stage="go")
    assert reason in str(caught.value)


def test_a_value_that_has_no_parts_is_not_replaced_by_a_mapping() -> None:
    with pytest.raises(InvalidExperimentError, match="option 'free' of stage 'go' is 5, which has no parts"):
        with_part(Go, {"free": 5}, ["free", "x"], 9, stage="go")


def test_a_default_as_data_has_its_secrets_and_only_what_was_set() -> None:
    assert to_data(OWN) == {"kind": "sgd", "lr": 0.5, "steps": 77, "inner": {"rounds": 5}, "token": "open sesame"}

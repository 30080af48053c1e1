"""Settings of a stage that an experiment has outside its pipeline; and the name that a stage has there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, Field, field_validator

from crucible_core import (
    Context,
    Experiment,
    InvalidExperimentError,
    Registry,
    Settings,
    Stage,
    load_experiment,
    plan_experiment,
    run_experiment,
    stage,
)


class HedgingSettings(BaseModel, extra="forbid"):
    percentile: float = Field(default=0.95, gt=0, lt=1)
    delays: list[float] = []


class Hedge(Stage):
    settings: ClassVar = Settings("reliability.hedging", HedgingSettings)

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("percentile", self.settings.of(ctx.experiment).percentile)


class Team(BaseModel):
    name: str


class Needs(Stage):
    settings: ClassVar = Settings("metadata.team", Team)

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("team", self.settings.of(ctx.experiment).name)


class Nowhere(Hedge):
    settings: ClassVar = Settings("reliabilty.hedging", HedgingSettings)


class Option(Stage):
    """`settings` is the name of an option, or of anything, where it is no Settings."""

    settings: tuple[int, int] = (1, 2)

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("settings", self.settings)


@stage
def named(ctx: Context, *, settings: list[int] | None = None) -> Context:
    return ctx.decide("a", "b").put_metric(ctx.stage, 1)


REGISTRY = Registry({"hedge": Hedge, "needs": Needs, "nowhere": Nowhere, "option": Option, "named": named})


def experiment(*names: str, **more: Any) -> Experiment:
    return Experiment.model_validate({"id": "settled", "pipeline": [{"name": name} for name in names], **more})


@pytest.mark.parametrize(
    ("reliability", "percentile"),
    [(None, 0.95), ({"hedging": None}, 0.95), ({"hedging": {"percentile": 0.5}}, 0.5)],
)
def test_a_stage_gets_them_as_its_model(reliability: Any, percentile: float) -> None:
    ctx = run_experiment(experiment("hedge", reliability=reliability), registry=REGISTRY)
    assert ctx.metrics["percentile"] == percentile


def test_they_may_be_below_any_key_of_the_experiment() -> None:
    ctx = run_experiment(experiment("needs", metadata={"team": {"name": "red"}}), registry=REGISTRY)
    assert ctx.metrics["team"] == "red"


def test_mistakes_are_refused_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "settled.yaml"
    file.write_text(
        "id: settled\npipeline: [{name: hedge}]\n"
        "reliability:\n  hedging:\n    percentile: 2\n    delays:\n      - 1\n      - soon\n    quantile: 1\n"
    )
    with pytest.raises(InvalidExperimentError) as caught:
        plan_experiment(load_experiment(file), REGISTRY)
    first, second, third = sorted(str(caught.value).splitlines())
    assert ":5:5: reliability.hedging (of stage 'hedge'): percentile: should be less than 1 (given: 2" in first
    assert ":8:9: reliability.hedging (of stage 'hedge'): delays.1: " in second
    assert ":9:5: reliability.hedging (of stage 'hedge'): unknown key 'quantile'" in third


def test_what_is_missing_is_refused_where_it_should_be() -> None:
    with pytest.raises(InvalidExperimentError, match=r"^metadata.team \(of stage 'needs'\): 'name' is missing"):
        plan_experiment(experiment("needs"), REGISTRY)


def test_a_place_that_no_experiment_has_is_refused() -> None:
    with pytest.raises(InvalidExperimentError, match=r"'reliabilty\.hedging', and an experiment has no key"):
        plan_experiment(experiment("nowhere"), REGISTRY)


def test_those_of_a_stage_that_is_off_are_not_checked() -> None:
    described = Experiment.model_validate({"id": "settled", "pipeline": [{"name": "needs", "enabled": False}]})
    assert len(plan_experiment(described, REGISTRY)) == 1


def test_an_option_may_have_that_name() -> None:
    ctx = run_experiment(experiment("option", "named"), registry=REGISTRY)
    assert ctx.metrics["settings"] == (1, 2)


def test_a_stage_knows_its_name_in_the_pipeline() -> None:
    described = Experiment.model_validate(
        {"id": "settled", "pipeline": [{"name": "first", "module": "named"}, {"name": "second", "module": "named"}]}
    )
    assert dict(run_experiment(described, registry=REGISTRY).metrics) == {"first": 1, "second": 1}
    assert Context.begin(described).stage == ""


class Picky(BaseModel):
    name: str = "x"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return {"red": name}[name]


class Picks(Needs):
    settings: ClassVar = Settings("metadata.team", Picky)


def test_settings_whose_model_raises_something_else_are_refused_with_the_stage() -> None:
    experiment = Experiment(id="picks", pipeline=[{"name": "picks"}], metadata={"team": {"name": "blue"}})
    with pytest.raises(InvalidExperimentError, match=r"metadata.team \(of stage 'picks'\) cannot be checked: KeyError"):
        plan_experiment(experiment, Registry({"picks": Picks}))

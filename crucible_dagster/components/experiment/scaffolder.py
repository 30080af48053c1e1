"""What `dg scaffold defs crucible_dagster.ExperimentComponent NAME` writes: a working experiment to start from."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from click import ClickException
from dagster import Scaffolder, ScaffoldRequest
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from crucible_core.ir.fields import Name
from crucible_dagster.names import dagster_name

__all__ = ["ExperimentScaffolder", "ScaffoldParams"]

_EXPERIMENT = """\
id: {id}
description: Is the coin fair? Replace this by the question of your experiment.

# The stages, in the order in which they run. `module` names the file {module}.py and the function in it;
# `options` are the function's keyword arguments. In the UI's Launchpad each can be changed for one run.
pipeline:
  - name: toss
    module: {module}:toss
    options:
      tosses: 1000
      bias: 0.5
      seed: 1

  - name: judge
    module: {module}:judge
    options:
      tolerance: 0.05

  # A comparison of two groups of numbers. Remove the # signs after: pip install 'crucible-dagster[stats]'
  # - name: bench
"""

_COMPONENT_YAML = """\
# One experiment: Dagster shows it as the job `{job}`, and its results over time as the asset `crucible/{job}`.
# Check it with `dg check defs`, run it with `dg launch --job {job}`, or look at it with `dg dev`.
type: {type}

"""

_COMPONENT_PYTHON = '''\
"""One experiment: the job `{job}`, and the asset `crucible/{job}`."""

import dagster as dg
from crucible_core import Experiment, StageDef, builtin_registry
from {type_module} import {type_class}

from .{module} import judge, toss


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> {type_class}:
    experiment = Experiment(
        id="{id}",
        description="Is the coin fair? Replace this by the question of your experiment.",
        # The stages, in the order in which they run, by the names that the registry below gives them.
        pipeline=(
            StageDef(name="toss", options={{"tosses": 1000, "bias": 0.5, "seed": 1}}),
            StageDef(name="judge", options={{"tolerance": 0.05}}),
        ),
    )
    return {type_class}([experiment], builtin_registry() | {{"toss": toss, "judge": judge}})
'''

_STAGES = '''\
"""The stages of the experiment `{id}`: functions that take the Context and return the next one."""

import random

from crucible_core import Context, stage


@stage
def toss(ctx: Context, *, tosses: int = 1000, bias: float = 0.5, seed: int = 1) -> Context:
    """Tosses a coin, and a fair one to compare it with.

    Keyword arguments are options: typed, checked before anything runs, and fields in the Launchpad.
    """
    random_numbers = random.Random(seed)
    coin = [float(random_numbers.random() < bias) for _ in range(tosses)]
    fair = [float(random_numbers.random() < 0.5) for _ in range(tosses)]
    # A metric is plotted over runs on the asset's page. `assign` hands values to later stages; `bench` reads these.
    return ctx.put_metric("heads", sum(coin) / tosses).assign(bench_data={{"coin": coin, "fair": fair}})


@stage
def judge(ctx: Context, *, tolerance: float = 0.05) -> Context:
    """Says whether heads came about half of the time. A decision is shown in the run's log, with its reason."""
    heads = ctx.get_metric("heads")
    verdict = "fair" if abs(heads - 0.5) <= tolerance else "biased"
    return ctx.decide(verdict, f"heads in {{heads:.1%}} of the tosses", alternatives=["fair", "biased"])
'''


class ScaffoldParams(BaseModel):
    """What `dg scaffold defs crucible_dagster.ExperimentComponent` takes in addition to the name."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    id: str | None = None
    """The experiment's id; by default, the last part of the name."""
    own_file: bool = False
    """Write the experiment to a file of its own, named in the defs.yaml; `crucible run FILE` can run it too."""


class ExperimentScaffolder(Scaffolder[ScaffoldParams]):
    """Writes a defs.yaml (or a component.py) and a module with two stages."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        return ScaffoldParams

    def scaffold(self, request: ScaffoldRequest[ScaffoldParams]) -> None:
        """Raises ClickException, which `dg` shows as one line, if the name cannot be an experiment's id."""
        folder = request.target_path.parent if request.append else request.target_path
        name = request.params.id or folder.name
        try:
            TypeAdapter(Name).validate_python(name)
        except ValidationError as error:
            with contextlib.suppress(OSError):
                folder.rmdir()  # `dg` made it, and would refuse the same place next time
            said = error.errors(include_url=False)[0]["msg"]
            raise ClickException(f"the experiment's id: {said}; give another one with --id") from None
        for file, text in _files(name, request).items():
            _write(folder / file, text)


def _files(name: str, request: ScaffoldRequest[ScaffoldParams]) -> dict[str, str]:
    job = dagster_name(name)
    # Named after the experiment: if two modules had the same name, Python would give both experiments the first one.
    module = f"stages_{job}"
    type_module, _, type_class = request.type_name.rpartition(".")
    words: dict[str, Any] = {
        "id": name,
        "job": job,
        "module": module,
        "type": request.type_name,
        "type_module": type_module,
        "type_class": type_class,
    }
    files = {f"{module}.py": _STAGES.format(**words)}
    experiment = _EXPERIMENT.format(**words)
    if request.scaffold_format == "python":
        return {**files, "component.py": _COMPONENT_PYTHON.format(**words)}
    head = _COMPONENT_YAML.format(**words)
    if request.params.own_file:
        body = f"attributes:\n  files:\n    - {name}.yaml\n"
        return {**files, "defs.yaml": head + body, f"{name}.yaml": experiment}
    body = re.sub(r"(?m)^(?=.)", "  ", experiment)
    return {**files, "defs.yaml": f"{head}attributes:\n{body}"}


def _write(path: Path, text: str) -> None:
    if path.name == "defs.yaml" and path.exists():
        text = f"{path.read_text(encoding='utf-8').rstrip()}\n---\n{text}"
    path.write_text(text, encoding="utf-8")

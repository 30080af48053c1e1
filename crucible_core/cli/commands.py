"""`crucible run`, `validate`, `stages` and `schema`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crucible_core.cli.common import (
    INVALID,
    chosen,
    gates_option,
    input_errors,
    json_option,
    nothing_else_on_stdout,
    run_and_show,
    run_options,
    say,
    set_options,
    with_overrides,
)
from crucible_core.cli.extensions import HELP, RunCommand, Runner, chosen_runner
from crucible_core.cli.plain import plain
from crucible_core.context import Context
from crucible_core.errors import CrucibleError, InvalidExperimentError
from crucible_core.ir.experiment import Experiment
from crucible_core.ir.loading import load_experiment
from crucible_core.ir.option_schema import Option, option_tree
from crucible_core.plan import Plan, advice, plan_experiment
from crucible_core.registry import builtin_registry
from crucible_core.values.jsonable import to_json_text

if TYPE_CHECKING:
    from crucible_core.trials.log import TrialSettings

GITHUB_SUMMARY = "GITHUB_STEP_SUMMARY"

__all__ = ["run", "schema", "stages", "validate"]


@click.command(cls=RunCommand, context_settings=HELP)
@click.argument("file")
@run_options
@set_options
@gates_option
@json_option
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes that run the trials.")
@click.option("--github-summary", is_flag=True, help="Add the head of the report to the summary of the job on GitHub.")
@click.option("--keep", metavar="FOLDER", help="Where trials and checkpoints are kept; another run goes on from them.")
def run(
    file: str,
    variant: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    gates: str,
    as_json: bool,
    jobs: int | None,
    keep: str | None,
    github_summary: bool,
    **options: Any,
) -> None:
    """Run the experiment in FILE and show its result."""
    with nothing_else_on_stdout() if as_json else contextlib.nullcontext(), input_errors():
        experiment = with_overrides(chosen(load_experiment(file), variant, seed), overrides)
        runner, options = chosen_runner(options)
        summary = _summary_file() if github_summary else None
        execute = _runner_here() if runner is None else runner.load()
        if jobs is not None:
            experiment = _with_jobs(experiment, jobs)
        plan = plan_experiment(experiment, builtin_registry())
        if keep is not None:
            plan = replace(plan, trials=_kept_in(keep, runner))
    run_id = str(uuid.uuid4())
    shown = f" ({experiment.variant})" if experiment.variant else ""
    run_and_show(
        f"{experiment.id}{shown} run {run_id}{f' {runner.where}' if runner else ''}",
        len(plan),
        lambda observers: execute(plan, run_id=run_id, observers=observers, **options),
        as_json=as_json,
        resumable=runner is not None and runner.resumable,
        folder=experiment.folder,
        gates=gates,
        summary=summary,
    )


def _summary_file() -> Path:
    """The file of the job's summary. Raises CrucibleError if this is not a job on GitHub."""
    file = os.environ.get(GITHUB_SUMMARY)
    if not file:
        raise CrucibleError(f"--github-summary writes to the file that {GITHUB_SUMMARY} names, but that is not set")
    return Path(file)


def _with_jobs(experiment: Experiment, jobs: int) -> Experiment:
    """The experiment with `jobs` processes. Raises InvalidExperimentError if it has no trials."""
    if experiment.trials is None:
        raise InvalidExperimentError(f"--jobs is for experiments with `trials`, and {experiment.id!r} has none")
    return experiment.model_copy(update={"trials": experiment.trials.model_copy(update={"jobs": jobs})})


def _kept_in(folder: str, runner: Runner | None) -> TrialSettings:
    """The settings for `--keep`. Raises InvalidExperimentError for a run in another place."""
    from crucible_core.trials.log import settings_of  # noqa: PLC0415  # few experiments have trials

    if runner is not None:
        raise InvalidExperimentError(f"--keep is for runs in this process; one {runner.where} keeps them itself")
    return settings_of(None, folder)


def _runner_here() -> Callable[..., Context]:
    from crucible_core.telemetry.run import run_traced  # noqa: PLC0415  # for `run` only

    return run_traced


@click.command(context_settings=HELP)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def validate(files: tuple[str, ...], variant: str | None, seed: int | None, as_json: bool) -> None:
    """Check experiment files without running them: the file, every stage, every option, every variant."""
    findings: dict[str, list[dict[str, Any]]] = {}
    warnings: dict[str, list[str]] = {}
    trials: dict[str, str] = {}
    for file in files:
        findings[file] = []
        try:
            with nothing_else_on_stdout():
                experiment = load_experiment(file)
                if variant is not None:
                    plan_experiment(experiment, builtin_registry())
                experiment = chosen(experiment, variant, seed)
                plan = plan_experiment(experiment, builtin_registry())
                warnings[file] = advice(plan)
                if experiment.trials is not None:
                    trials[file] = _summary_of_trials(plan)
        except InvalidExperimentError as error:
            findings[file] = [
                {"message": one.message, "path": one.path, "line": one.line, "column": one.column}
                for one in error.each()
            ]
            if not as_json:
                say(str(error))
        else:
            if not as_json:
                click.echo(plain(f"{file}: valid"))
                if file in trials:
                    click.echo(plain(f"{file}: {trials[file]}"))
                for warning in warnings[file]:
                    say(f"{file}: warning: {warning}")
    if as_json:
        said = {
            file: {
                "valid": not found,
                "mistakes": found,
                "warnings": warnings.get(file, []),
                **({"trials": trials[file]} if file in trials else {}),
            }
            for file, found in findings.items()
        }
        click.echo(to_json_text(said))
    sys.exit(INVALID if any(findings.values()) else 0)


def _summary_of_trials(plan: Plan) -> str:
    from crucible_core.stages.trials import RunTrials  # noqa: PLC0415  # few experiments have them

    return next(one.stage.summary(plan.experiment) for one in plan if isinstance(one.stage, RunTrials))


@click.command(context_settings=HELP)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def stages(name: str | None, as_json: bool) -> None:
    """List the registered stages, or describe the stage NAME (registered, or package.module:Class)."""
    with input_errors(), nothing_else_on_stdout():
        registry = builtin_registry()
        tree: Option | None = None
        if name is None:
            described = [registry.describe(one) for one in registry.names()]
        else:
            found = registry.load(name, folder=Path.cwd()) if ":" in name else registry[name]
            described, tree = [{**found.describe(), "name": name}], option_tree(found)
    if as_json:
        click.echo(to_json_text(described if name is None else described[0]))
    elif tree is None:
        width = max(len(one["name"]) for one in described)
        for one in described:
            click.echo(plain(f"{one['name']:{width}}  {one['description'].partition(chr(10))[0]}"))
    else:
        _print_stage(described[0], tree)


@click.command(context_settings=HELP)
def schema() -> None:
    """Print the JSON Schema of the experiment file, for editors."""
    click.echo(schema_text())


def schema_text() -> str:
    """The JSON Schema of the experiment file."""
    made = Experiment.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **made}, indent=2)


def _print_stage(one: Mapping[str, Any], tree: Option) -> None:
    click.echo(plain(f"{one['name']}\n\n{one['description']}\n"))
    for option in [*one["required"], *one["optional"]]:
        state = "required" if option in one["required"] else f"default {json.dumps(one['defaults'].get(option))}"
        click.echo(plain(f"  {option}: {one['types'][option]}  ({state})"))
        if described := tree.part(option).description:
            click.echo(plain("      " + " ".join(described.split())))

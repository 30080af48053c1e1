"""The command line: `crucible run`, `validate`, `stages`, `schema`, and the commands of crucible_dagster.cli.

Exit codes: 0 done, 1 the experiment failed, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from crucible_core import __version__
from crucible_core.context import Context
from crucible_core.errors import (
    CrucibleError,
    GateFailedError,
    InvalidExperimentError,
    MissingExtraError,
    RunInterrupted,
    StageFailedError,
)
from crucible_core.experiment import Experiment
from crucible_core.gates import GateResult
from crucible_core.jsonable import to_json_text
from crucible_core.loading import load_experiment, parse_scalar
from crucible_core.registry import builtin_registry
from crucible_core.runner import advice, plan_experiment
from crucible_core.trace import Observer, StageFailed
from crucible_core.tracing import run_traced
from crucible_core.verdicts import judge_gates
from crucible_core.wording import closest

__all__ = [
    "FAILED",
    "INVALID",
    "LATER",
    "input_errors",
    "json_option",
    "main",
    "nothing_else_on_stdout",
    "run_and_show",
    "set_options",
    "with_overrides",
]

FAILED, INVALID, INTERRUPTED = 1, 2, 130


LATER = {
    "runs": "List the runs that Dagster has kept, newest first.",
    "show": "Show everything about one run.",
    "compare": "Show what two runs do not have in common.",
    "resume": "Go on with a failed, cancelled or killed run where it stopped.",
    "replay": "Run a recorded run again, without Dagster, and compare the results.",
    "why": "Say why a stage's earlier result was, or was not, used again.",
    "ticks": "List the ticks of an experiment's schedule, and what became of each: a run, skipped, missed.",
    "store": "Look after the context store, which keeps what the stages of Dagster's runs returned.",
}
"""The commands of crucible_dagster.cli: loading them would load dagster, which takes over a second."""


class _LaterCommand(click.Command):
    """A command whose name and first sentence are known, and whose module is loaded when it is called."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with input_errors():
            if importlib.util.find_spec("dagster") is None:
                raise MissingExtraError(f"crucible {self.name}", "dagster")
            from crucible_dagster.cli import COMMANDS  # noqa: PLC0415  # loads dagster
        return COMMANDS[str(self.name)].make_context(info_name, args, parent, **extra)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="crucible")
def main() -> None:
    """Experiments as small files, run as pipelines of stages."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a pipe that takes ASCII only gets escapes, not a crash


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print as JSON on standard output, and nothing else there."
)
set_options = click.option(
    "--set",
    "overrides",
    metavar="STAGE.OPTION=VALUE",
    multiple=True,
    help="Replace an option of a stage; VALUE is read as YAML.",
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that say what is run of an experiment file."""
    seed = click.option(
        "--seed", type=int, metavar="N", help="The experiment's seed, for the stages that are given none of their own."
    )
    variant = click.option("--variant", metavar="NAME", help="The variant of the experiment to run.")
    return variant(seed(command))


@main.command()
@click.argument("file")
@run_options
@set_options
@click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output, and nothing else there."
)
@click.option(
    "--dagster",
    "on_dagster",
    is_flag=True,
    help="Run the compiled job on Dagster: the instance of DAGSTER_HOME, or one under .crucible/.",
)
@click.option("--fresh", is_flag=True, help="Run every stage, also those with `cache: true` (with --dagster).")
def run(
    file: str,
    variant: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    as_json: bool,
    on_dagster: bool,
    fresh: bool,
) -> None:
    """Run the experiment in FILE and show its result."""
    with nothing_else_on_stdout() if as_json else contextlib.nullcontext(), input_errors():
        experiment = with_overrides(_chosen(load_experiment(file), variant, seed), overrides)
        execute, recorded = _dagster_runner(fresh=fresh) if on_dagster else (run_traced, None)
        if fresh and not on_dagster:
            raise CrucibleError("--fresh goes with --dagster: a direct run keeps no results, and uses none again")
        planned = plan_experiment(experiment, builtin_registry())
    run_id = str(uuid.uuid4())
    shown = f" ({experiment.variant})" if experiment.variant else ""
    heading = f"{experiment.id}{shown} run {run_id}{' on Dagster' if on_dagster else ''}"
    run_and_show(
        heading,
        len(experiment.pipeline),
        lambda observers: execute(experiment, run_id=run_id, observers=observers),
        lambda context: recorded(context.run_id) if recorded else judge_gates(context, planned),
        as_json=as_json,
        resumable=on_dagster,
    )


def run_and_show(
    heading: str,
    stages: int,
    execute: Callable[[Sequence[Observer]], Context],
    judge: Callable[[Context], Sequence[GateResult]],
    *,
    as_json: bool,
    resumable: bool,
) -> NoReturn:
    """Execute a run of so many stages, show how it goes and what comes out, and end the program with its exit code.

    `judge` is asked for the results of the gates of a run that went well.
    """
    from crucible_core.terminal import Progress, make_console, print_summary  # noqa: PLC0415  # rich only where it shows

    with nothing_else_on_stdout() if as_json else contextlib.nullcontext():
        console = make_console(sys.stdout)
        console.print(heading, style="bold")
        code, partial, blocked = 0, None, None
        gates: Sequence[GateResult] = ()
        try:
            with Progress(console, stages) as progress:
                context = execute([progress])
            gates = judge(context) if context.experiment.gates else ()
        except GateFailedError as error:
            context, gates, code, blocked = error.context, error.gates, FAILED, error
        except StageFailedError as error:
            context, code = error.context, FAILED
            partial = _keep_partial(context)
        except RunInterrupted as error:
            context, code = error.context, INTERRUPTED
            partial = _keep_partial(context)
        except KeyboardInterrupt:
            say("interrupted between the stages")
            sys.exit(INTERRUPTED)
        except CrucibleError as error:
            fail(error, INVALID if isinstance(error, InvalidExperimentError | MissingExtraError) else FAILED)
    if as_json:
        from crucible_core.reporting import summarize_run  # noqa: PLC0415

        status: dict[str, Any] = {"status": "interrupted"} if code == INTERRUPTED else {}
        if blocked is not None:
            failure = {"stage": None, "error_type": type(blocked).__name__, "message": str(blocked)}
            status = {"status": "failed", "failure": failure}
        click.echo(to_json_text({**summarize_run(context), **status, "gates": [one.to_dict() for one in gates]}))
    else:
        print_summary(console, context, gates)
    if blocked is not None:
        say(f"\nerror: {blocked}")
    elif code:
        _explain(context, code, partial)
        if resumable:
            say(f"to go on from there: crucible resume {context.run_id}")
    sys.exit(code)


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def validate(files: tuple[str, ...], variant: str | None, seed: int | None, as_json: bool) -> None:
    """Check experiment files without running them: the file, every stage, every option, every variant."""
    findings: dict[str, list[dict[str, Any]]] = {}
    warnings: dict[str, list[str]] = {}
    for file in files:
        findings[file] = []
        try:
            with nothing_else_on_stdout():
                experiment = load_experiment(file)
                if variant is not None:
                    plan_experiment(experiment, builtin_registry())
                experiment = _chosen(experiment, variant, seed)
                warnings[file] = advice(experiment, plan_experiment(experiment, builtin_registry()))
        except InvalidExperimentError as error:
            findings[file] = [
                {"message": one.message, "path": one.path, "line": one.line, "column": one.column}
                for one in error.each()
            ]
            if not as_json:
                say(str(error))
        else:
            if not as_json:
                click.echo(f"{file}: valid")
                for warning in warnings[file]:
                    say(f"{file}: warning: {warning}")
    if as_json:
        said = {
            file: {"valid": not found, "mistakes": found, "warnings": warnings.get(file, [])}
            for file, found in findings.items()
        }
        click.echo(to_json_text(said))
    sys.exit(INVALID if any(findings.values()) else 0)


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def stages(name: str | None, as_json: bool) -> None:
    """List the registered stages, or describe the stage NAME (registered, or package.module:Class)."""
    with input_errors(), nothing_else_on_stdout():
        registry = builtin_registry()
        if name is None:
            described = [registry.describe(one) for one in registry.names()]
        else:
            found = registry.load(name, folder=Path.cwd()) if ":" in name else registry[name]
            described = [{**found.describe(), "name": name}]
    if as_json:
        click.echo(to_json_text(described if name is None else described[0]))
    elif name is None:
        width = max(len(one["name"]) for one in described)
        for one in described:
            click.echo(f"{one['name']:{width}}  {one['description'].partition(chr(10))[0]}")
    else:
        _print_stage(described[0])


@main.command()
def schema() -> None:
    """Print the JSON Schema of the experiment file, for editors."""
    made = Experiment.model_json_schema()
    click.echo(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **made}, indent=2))


for _name, _sentence in LATER.items():
    main.add_command(_LaterCommand(_name, help=_sentence))


def _print_stage(one: Mapping[str, Any]) -> None:
    click.echo(f"{one['name']}\n\n{one['description']}\n")
    properties = one["schema"].get("properties", {})
    for option in [*one["required"], *one["optional"]]:
        state = "required" if option in one["required"] else f"default {json.dumps(one['defaults'].get(option))}"
        click.echo(f"  {option}: {one['types'][option]}  ({state})")
        if properties[option].get("description"):
            click.echo("      " + " ".join(properties[option]["description"].split()))


def _chosen(experiment: Experiment, variant: str | None, seed: int | None) -> Experiment:
    if variant is not None:
        experiment = experiment.with_variant(variant)
    return experiment if seed is None else experiment.with_seed(seed)


def with_overrides(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The experiment with options replaced as `--set` says. Raises InvalidExperimentError."""
    names = [definition.name for definition in experiment.pipeline]
    for override in overrides:
        place, equals, text = override.partition("=")
        # A stage's name may hold dots itself: the longest name that fits is meant.
        stage = max((name for name in names if place.startswith(f"{name}.")), key=len, default=None)
        if not equals or "." not in place:
            raise InvalidExperimentError(f"--set {override!r} is not of the form STAGE.OPTION=VALUE")
        if stage is None:
            asked = place.partition(".")[0]
            raise InvalidExperimentError(
                f"--set {override!r}: no stage {asked!r}{closest(asked, names)}; stages: {', '.join(names)}"
            )
        option, *inner = place.removeprefix(f"{stage}.").split(".")
        value = parse_scalar(text)
        if inner:
            current = next(one.options or {} for one in experiment.pipeline if one.name == stage).get(option)
            value = _nested(current, inner, value)
        experiment = experiment.with_options(stage, {option: value})
    return experiment


def _nested(current: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    inside = current if isinstance(current, Mapping) else {}
    return {**inside, path[0]: _nested(inside.get(path[0]), path[1:], value)}


def _dagster_runner(*, fresh: bool) -> tuple[Callable[..., Context], Callable[[str], Sequence[GateResult]]]:
    """What runs an experiment on Dagster, and what tells the results of a run's gates."""
    if importlib.util.find_spec("dagster") is None:
        raise MissingExtraError("running on Dagster", "dagster")
    from crucible_dagster import History, execute_experiment, open_instance  # noqa: PLC0415  # loads dagster

    def recorded(run_id: str) -> Sequence[GateResult]:
        with open_instance() as instance:
            return History(instance).gates(run_id)

    return functools.partial(execute_experiment, launched_by="cli", fresh=fresh), recorded


@contextlib.contextmanager
def nothing_else_on_stdout() -> Iterator[None]:
    """What modules and stages print, and the programs and libraries that they call, goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):  # a stream that is no file, as in tests
            output, error = sys.__stdout__, sys.__stderr__
            assert output is not None
            assert error is not None
            kept = os.dup(output.fileno())
            stack.callback(os.close, kept)
            output.flush()
            os.dup2(error.fileno(), output.fileno())
            stack.callback(os.dup2, kept, output.fileno())
        yield


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """What is wrong with the input is said in one sentence, and ends the program with exit code 2."""
    try:
        yield
    except CrucibleError as error:
        fail(error, INVALID)
    except KeyboardInterrupt:
        click.echo("interrupted before the first stage", err=True)
        sys.exit(INTERRUPTED)


def fail(error: CrucibleError, code: int) -> NoReturn:
    say(f"error: {error}")
    sys.exit(code)


def say(text: str) -> None:
    from crucible_core.terminal import plain  # noqa: PLC0415

    click.echo(plain(text), err=True)


def _keep_partial(ctx: Context) -> str:
    from crucible_core.output_root import write_atomically  # noqa: PLC0415
    from crucible_core.reporting import render_report  # noqa: PLC0415

    try:
        return str(write_atomically(f"{ctx.experiment_id}/{ctx.run_id}/partial.json", render_report(ctx, "json")))
    except CrucibleError as error:
        return f"not kept: {error}"


def _explain(ctx: Context, code: int, partial: str | None) -> None:
    failed = next(event for event in reversed(ctx.trace.events[:]) if isinstance(event, StageFailed))
    if code == INTERRUPTED:
        say(f"\ninterrupted in stage {failed.stage!r}")
    else:
        say(f"\n{failed.traceback.rstrip()}\n\nerror: stage {failed.stage!r} failed: {failed.reason}")
    say(f"partial results: {partial}")

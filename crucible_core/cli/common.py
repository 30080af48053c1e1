"""What the commands share: options, exit codes, errors in one sentence, a run shown while it runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import click

from crucible_core.context import Context
from crucible_core.errors import CrucibleError, InvalidExperimentError, MissingExtraError, UnknownStageError
from crucible_core.ir.experiment import Experiment, StageDef
from crucible_core.ir.loading import parse_scalar
from crucible_core.ir.option_schema import option_tree
from crucible_core.observers import Observers
from crucible_core.registry import builtin_registry
from crucible_core.run_errors import GateFailedError, RunInterrupted, StageFailedError
from crucible_core.trace import StageFailed
from crucible_core.values.jsonable import to_json_text
from crucible_core.values.messages import closest, listing

FAILED, INVALID, INTERRUPTED = 1, 2, 130

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
set_options = click.option(
    "--set",
    "overrides",
    metavar="STAGE.OPTION=VALUE",
    multiple=True,
    help="Replace an option of a stage; VALUE is read as YAML.",
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a command that runs an experiment file: `--seed` and `--variant`."""
    seed = click.option(
        "--seed", type=int, metavar="N", help="The experiment's seed, for stages without one of their own."
    )
    variant = click.option("--variant", metavar="NAME", help="The variant of the experiment to run.")
    return variant(seed(command))


def run_and_show(
    heading: str,
    stages: int,
    execute: Callable[[Observers], Context],
    *,
    as_json: bool,
    resumable: bool,
) -> NoReturn:
    """Execute a run of that many stages, show its progress and results, and end the program with its exit code."""
    from crucible_core.cli.terminal import (  # noqa: PLC0415  # rich only where it is used
        ProgressDisplay,
        make_console,
        print_summary,
    )

    with nothing_else_on_stdout() if as_json else contextlib.nullcontext():
        console = make_console(sys.stdout)
        console.print(heading, style="bold")
        code, partial, blocked = 0, None, None
        try:
            with ProgressDisplay(console, stages) as progress:
                context = execute([progress])
        except GateFailedError as error:
            context, code, blocked = error.context, FAILED, error
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
        from crucible_core.report import summarize_run  # noqa: PLC0415

        status: dict[str, Any] = {"status": "interrupted"} if code == INTERRUPTED else {}
        if blocked is not None:
            failure = {"stage": None, "error_type": type(blocked).__name__, "message": str(blocked)}
            status = {"status": "failed", "failure": failure}
        click.echo(to_json_text({**summarize_run(context), **status}))
    else:
        print_summary(console, context)
    if blocked is not None:
        say(f"\nerror: {blocked}")
    elif code:
        _explain(context, code, partial)
        if resumable:
            say(f"to continue from there: crucible resume {context.run_id}")
    sys.exit(code)


def chosen(experiment: Experiment, variant: str | None, seed: int | None) -> Experiment:
    if variant is not None:
        experiment = experiment.with_variant(variant, builtin_registry())
    return experiment if seed is None else experiment.with_seed(seed)


def with_overrides(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The experiment with options replaced as `--set` says.

    Raises InvalidExperimentError for text that is not STAGE.OPTION=VALUE, a stage that the pipeline does not have, a
    value that is not YAML, and a part of an option that does not exist.
    """
    names = [definition.name for definition in experiment.pipeline]
    for override in overrides:
        place, equals, text = override.partition("=")
        # A stage's name may contain dots: the longest name that fits is meant.
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
            definition = next(one for one in experiment.pipeline if one.name == stage)
            _check_part(f"--set {override!r}", experiment, definition, [option, *inner])
            value = _nested((definition.options or {}).get(option), inner, value)
        experiment = experiment.with_options(stage, {option: value})
    return experiment


def _check_part(asked: str, experiment: Experiment, definition: StageDef, path: Sequence[str]) -> None:
    """Raises InvalidExperimentError if the stage's options have no such part."""
    try:
        stage = builtin_registry().resolve(definition, folder=experiment.folder)
    except UnknownStageError:
        return  # plan_experiment says so, with all other mistakes
    from crucible_core.ir.option_words import type_in_words  # noqa: PLC0415  # for --set only

    option, where = option_tree(stage), f"stage {definition.name!r}"
    for index, name in enumerate(path):
        if not option.has_parts:
            whole = ".".join([definition.name, *path[:index]])
            raise InvalidExperimentError(
                f"{asked}: {where} has no parts, its type is: {type_in_words(option)}; set it as a whole: {whole}=VALUE"
            )
        if option.children and not option.takes_others and name not in option.children:
            what, known = ("field" if index else "option"), option.children
            raise InvalidExperimentError(
                f"{asked}: {where} has no {what} {name!r}{closest(name, known)}; its {what}s: {listing(known)}"
            )
        option, where = option.part(name), f"option {'.'.join(path[: index + 1])!r} of stage {definition.name!r}"


def _nested(current: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    inside = current if isinstance(current, Mapping) else {}
    return {**inside, path[0]: _nested(inside.get(path[0]), path[1:], value)}


@contextlib.contextmanager
def nothing_else_on_stdout() -> Iterator[None]:
    """Send what modules and stages print, and the programs and libraries that they call, to standard error."""
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):  # a stream that is not a file, as in tests
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
    """Print a mistake in the input as one sentence, and end the program with exit code 2."""
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
    from crucible_core.cli.terminal import plain  # noqa: PLC0415

    click.echo(plain(text), err=True)


def _keep_partial(ctx: Context) -> str:
    from crucible_core.report import render_report  # noqa: PLC0415
    from crucible_core.report.output_files import write_atomically  # noqa: PLC0415

    try:
        return str(write_atomically(f"{ctx.experiment_id}/{ctx.run_id}/partial.json", render_report(ctx, "json")))
    except CrucibleError as error:
        return f"not kept: {error}"


def _explain(ctx: Context, code: int, partial: str | None) -> None:
    failed = next(event for event in reversed(ctx.trace.events[:]) if isinstance(event, StageFailed))
    if code == INTERRUPTED:
        say(f"\ninterrupted in stage {failed.stage!r}")
    else:
        shown = f"\n{failed.traceback.rstrip()}\n" if failed.traceback else ""
        say(f"{shown}\nerror: stage {failed.stage!r} failed: {failed.reason}")
    say(f"partial results: {partial}")

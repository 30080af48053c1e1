"""What the commands share: options, exit codes, errors in one sentence, a run shown while it runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from crucible_core.cli.plain import plain
from crucible_core.context import Context
from crucible_core.errors import CrucibleError, InvalidExperimentError, Location, MissingExtraError, UnknownStageError
from crucible_core.ir.experiment import Experiment
from crucible_core.ir.gates import GateResult, did_not_pass
from crucible_core.ir.loading import parse_scalar
from crucible_core.ir.option_values import with_part
from crucible_core.ir.secrets import MASK, is_secret_at
from crucible_core.observers import Observers
from crucible_core.registry import builtin_registry
from crucible_core.run_errors import GateFailedError, RunInterrupted, StageFailedError
from crucible_core.trace import StageFailed
from crucible_core.values.jsonable import to_json_text
from crucible_core.values.messages import closest
from crucible_core.values.places import project_folder, report_folder
from crucible_core.values.redaction import scrub

FAILED, INVALID, INTERRUPTED = 1, 2, 130

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
set_options = click.option(
    "--set",
    "overrides",
    metavar="STAGE.OPTION=VALUE",
    multiple=True,
    help="Replace an option of a stage, or a part of one: VALUE is a text, a number, true, false, null, [a, list] or "
    "{a: mapping}; quote a text that looks like one of the others.",
)


gates_option = click.option(
    "--gates",
    "gates",
    type=click.Choice(["errors", "strict"]),
    default="errors",
    show_default=True,
    help="The gates of severity error that make the exit code 1: those that failed or, with `strict`, all that did not "
    "pass, including undecided ones.",
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
    folder: Path | None,
    gates: str,
    summary: Path | None = None,
) -> NoReturn:
    """Execute a run of that many stages, show its progress and results, and end the program with its exit code.

    `folder` is that of the experiment file; `gates`, `errors` or `strict`, says which gates make the exit code 1.
    The head of the report is appended to the file `summary`, as Markdown.
    """
    from crucible_core.cli.terminal import (  # noqa: PLC0415  # rich only where it is used
        ProgressDisplay,
        make_console,
        print_summary,
        show_log_lines_as_text,
        styled,
    )

    with nothing_else_on_stdout() if as_json else contextlib.nullcontext():
        console = make_console(sys.stdout)
        show_log_lines_as_text()
        console.print(styled((heading, "bold")))
        root, project = report_folder(folder), project_folder(folder)
        if project != Path.cwd():
            console.print(styled((f"reports and runs of this project are kept in {project}", "dim")))
        code, partial = 0, None
        try:
            with ProgressDisplay(console, stages) as progress:
                context = execute([progress])
        except GateFailedError as error:
            context = error.context
        except StageFailedError as error:
            context, code = error.context, FAILED
            partial = _keep_partial(context, root)
        except RunInterrupted as error:
            context, code = error.context, INTERRUPTED
            partial = _keep_partial(context, root)
        except KeyboardInterrupt:
            say("interrupted between the stages")
            sys.exit(INTERRUPTED)
        except CrucibleError as error:
            fail(error, INVALID if isinstance(error, InvalidExperimentError | MissingExtraError) else FAILED)
    if summary is not None:
        _append_head(summary, context)
    if as_json:
        from crucible_core.report import summarize_run  # noqa: PLC0415

        status: dict[str, Any] = {"status": "interrupted"} if code == INTERRUPTED else {}
        click.echo(to_json_text({**summarize_run(context), **status}))
    else:
        print_summary(console, context, answer=code == 0)
    if code == 0 and (missed := _not_passed(context, strict=gates == "strict")):
        code = FAILED
        say(f"\nerror: {did_not_pass(context.experiment_id, missed)}")
    elif code:
        _explain(context, code, partial)
        if resumable:
            say(f"to continue from there: crucible resume {context.run_id}")
    sys.exit(code)


def _append_head(file: Path, ctx: Context) -> None:
    from crucible_core.report.markdown import markdown_of  # noqa: PLC0415
    from crucible_core.report.run_report import head_of  # noqa: PLC0415

    try:
        with file.open("a", encoding="utf-8") as opened:
            opened.write(f"{markdown_of(head_of(ctx), picture_bytes=0).rstrip()}\n\n")
    except OSError as error:
        say(f"the summary cannot be written to {file}: {error.strerror or error}")


def _not_passed(ctx: Context, *, strict: bool) -> list[GateResult]:
    """The gates that failed as errors; with `strict`, also the undecided ones of severity error."""
    errors = {gate.name for gate in ctx.experiment.gates or () if gate.severity == "error"}
    undecided = errors if strict else ()
    return [one for one in ctx.trace.gates if one.fails or (one.status == "undecided" and one.gate in undecided)]


def chosen(experiment: Experiment, variant: str | None, seed: int | None) -> Experiment:
    if variant is not None:
        experiment = experiment.with_variant(variant, builtin_registry())
    return experiment if seed is None else experiment.with_seed(seed)


def with_overrides(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The experiment with options replaced as `--set` says.

    Raises InvalidExperimentError, which quotes the text after `--set`, for text that is not STAGE.OPTION=VALUE, a stage
    that the pipeline does not have, a value that cannot be read, and a part of an option that does not exist.
    """
    for override in overrides:
        try:
            experiment = _with_override(experiment, override)
        except InvalidExperimentError as error:
            asked = _asked(experiment, override)
            if MASK in asked:
                error.args = (scrub(error.message, [override.partition("=")[2]]), *error.args[1:])
            raise error.within(f"{asked}: ") from error.__cause__
    return experiment


def _with_override(experiment: Experiment, override: str) -> Experiment:
    place, equals, text = override.partition("=")
    names = [definition.name for definition in experiment.pipeline]
    stage = _stage_of(place, names)
    if not equals or "." not in place:
        raise InvalidExperimentError("this is not of the form STAGE.OPTION=VALUE")
    if stage is None:
        asked = place.partition(".")[0]
        raise InvalidExperimentError(f"no stage {asked!r}{closest(asked, names)}; stages: {', '.join(names)}")
    path = place.removeprefix(f"{stage}.").split(".")
    value = parse_scalar(text)
    if len(path) > 1:
        definition = experiment.pipeline[names.index(stage)]
        try:
            found = builtin_registry().resolve(definition, folder=experiment.folder)
        except UnknownStageError:
            return experiment  # plan_experiment says so, with all other mistakes
        value = with_part(found, definition.options or {}, path, value, stage=stage)
    return experiment.with_options(stage, {path[0]: value}, asked=Location(_asked(experiment, override)))


def _stage_of(place: str, names: Iterable[str]) -> str | None:
    # A stage's name may contain dots: the longest name that fits is meant.
    return max((name for name in names if place.startswith(f"{name}.")), key=len, default=None)


def _asked(experiment: Experiment, override: str) -> str:
    """What was given, with a mask in the place of a secret."""
    place, equals, _ = override.partition("=")
    stage = _stage_of(place, (definition.name for definition in experiment.pipeline))
    if stage is not None and equals:
        with contextlib.suppress(UnknownStageError):
            definition = experiment.pipeline[experiment.index_of(stage)]
            found = builtin_registry().resolve(definition, folder=experiment.folder)
            if is_secret_at(found, place.removeprefix(f"{stage}.").split(".")):
                return f"--set '{place}={MASK}'"
    return f"--set {override!r}"


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
    click.echo(plain(text), err=True)


def _keep_partial(ctx: Context, root: Path) -> str:
    from crucible_core.report import render_report  # noqa: PLC0415
    from crucible_core.report.output_files import write_atomically  # noqa: PLC0415

    try:
        name = f"{ctx.experiment_id}/{ctx.run_id}/partial.json"
        return str(write_atomically(name, render_report(ctx, "json"), root))
    except CrucibleError as error:
        return f"not kept: {error}"


def _explain(ctx: Context, code: int, partial: str | None) -> None:
    failed = next(event for event in ctx.trace.events if isinstance(event, StageFailed))
    if code == INTERRUPTED:
        say(f"\ninterrupted in stage {failed.stage!r}")
    else:
        # A traceback without frames, as of a stage that returned no Context, would only repeat the next line.
        frames = f"{failed.traceback.rstrip()}\n\n" if "\n  File " in failed.traceback else ""
        say(f"\n{frames}error: stage {failed.stage!r} failed: {failed.reason}")
    say(f"partial results: {partial}")

"""The commands that run something again, or explain why it ran: `crucible resume`, `replay`, `why`."""

from __future__ import annotations

import contextlib
import sys

import click

from crucible_core import builtin_registry
from crucible_core.cli.common import (
    FAILED,
    gates_option,
    input_errors,
    json_option,
    nothing_else_on_stdout,
    run_and_show,
    set_options,
    with_overrides,
)
from crucible_core.cli.terminal import ProgressDisplay, make_console, print_table, styled
from crucible_core.report.document import Table
from crucible_core.values.jsonable import to_json_text
from crucible_dagster.cli.home import open_existing_instance
from crucible_dagster.history.history import History
from crucible_dagster.history.recorded import recorded_run
from crucible_dagster.rerun.replay import Replay, replay_run
from crucible_dagster.rerun.resume import plan_resumption
from crucible_dagster.rerun.why import Why, explain_stage

__all__ = ["replay", "resume", "why"]

SHORT = 12


@click.command()
@click.argument("run")
@set_options
@click.option("--fresh", is_flag=True, help="Run every stage that is left, even those with `cache: true`.")
@click.option(
    "--force",
    is_flag=True,
    help="Resume although Dagster believes the run is running; use it only if you know that it is dead.",
)
@gates_option
@json_option
def resume(run: str, overrides: tuple[str, ...], fresh: bool, force: bool, gates: str, as_json: bool) -> None:
    """Resume a failed, cancelled or killed run where it stopped.

    RUN is its id, or at least the first four characters of it. A new run executes the stages that have no result yet,
    with the experiment as it was recorded and the code as it is now. `--set` changes options of these stages.
    """
    with contextlib.ExitStack() as stack:
        with input_errors(), nothing_else_on_stdout():
            instance = stack.enter_context(open_existing_instance())
            planned = plan_resumption(
                instance, run, override=lambda experiment: with_overrides(experiment, overrides), force=force
            )
        for said in planned.warnings:
            click.echo(f"warning: {said}", err=True)
        run_and_show(
            f"{planned.experiment.id}, resuming run {planned.parent.run_id}",
            len(planned.experiment.pipeline),
            lambda observers: planned.execute(observers=observers, fresh=fresh, launched_by="cli"),
            as_json=as_json,
            resumable=True,
            folder=planned.experiment.folder,
            gates=gates,
        )


@click.command()
@click.argument("run")
@json_option
def replay(run: str, as_json: bool) -> None:
    """Run a recorded run again, without Dagster, and compare the results.

    RUN is its id, or at least the first four characters of it. For each result, the command says whether its digest
    is the same as then. The exit code is 1 if one differs.
    """
    with input_errors(), nothing_else_on_stdout(), open_existing_instance() as instance:
        console = make_console(sys.stderr)
        record = recorded_run(History(instance), run)
        with ProgressDisplay(console, len(record.stages)) as progress:
            found = replay_run(instance, record.run_id, registry=builtin_registry(), observers=[progress])
    if as_json:
        results = [{"name": one.name, "verdict": one.verdict} for one in found.results]
        failed = None if found.error is None else str(found.error)
        told = {"run_id": found.run_id, "same": found.is_same, "results": results, "error": failed}
        click.echo(to_json_text({**told, "changed_code": found.changed_code}))
    else:
        _print_replay(found)
    sys.exit(0 if found.is_same else FAILED)


@click.command()
@click.argument("run")
@click.argument("stage")
@json_option
def why(run: str, stage: str, as_json: bool) -> None:
    """Say why an earlier result of a stage was reused, or why not.

    RUN is the id of a run, or at least the first four characters of it; STAGE is the name of a stage in its pipeline.
    """
    with input_errors(), nothing_else_on_stdout(), open_existing_instance() as instance:
        found = explain_stage(instance, run, stage)
    if as_json:
        click.echo(to_json_text(found))
    else:
        _print_why(found)


def _print_replay(found: Replay) -> None:
    console = make_console(sys.stdout)
    rows = tuple((one.name, one.verdict) for one in found.results)
    console.print(styled(""))
    print_table(console, Table(("result", "now, against then"), rows))
    if found.changed_code:
        console.print(styled((f"\nthe code has changed since: {', '.join(found.changed_code)}", "yellow")))
    if found.error is not None:
        console.print(styled((f"\nnow it failed: {found.error}", "red")))
    different = sum(one.verdict not in {"same digest", "equal"} for one in found.results)
    said = "every result is the same" if found.is_same else f"{different} of {len(rows)} results differ"
    console.print(
        styled(f"\n{said} as in run {found.run_id}" if found.is_same else f"\n{said} from run {found.run_id}")
    )


def _print_why(found: Why) -> None:
    console = make_console(sys.stdout)
    console.print(styled((found.verdict, "bold")))
    if found.parts:
        rows = tuple(
            (part.part, part.verdict, part.values[0] or _short(part.then), part.values[1] or _short(part.now))
            for part in found.parts
        )
        console.print(styled(""))
        print_table(console, Table(("depends on", "", "then", "now"), rows))


def _short(digest: str | None) -> str:
    if digest is None:
        return "-"
    # The digest of code has the version of Python before it.
    return digest if len(digest) < 40 or " " in digest else digest.rpartition(":")[2][:SHORT]

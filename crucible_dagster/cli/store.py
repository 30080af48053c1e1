"""The commands that look after the context store: `crucible store gc`, `verify`, `pin`, `unpin`."""

from __future__ import annotations

import sys

import click

from crucible_core.cli.common import FAILED, input_errors, json_option
from crucible_core.cli.terminal import make_console, styled
from crucible_core.values.jsonable import to_json_text
from crucible_dagster.execution import open_instance
from crucible_dagster.history.history import History
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.retention import collect, pin

__all__ = ["store"]


@click.group(name="store")
def store() -> None:
    """Look after the context store, which keeps what the stages of Dagster's runs returned."""


@store.command()
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Keep what runs refer to that ended within so many days.",
)
@click.option("--delete", is_flag=True, help="Really remove it. Without, what would be removed is only counted.")
@json_option
def gc(days: float, delete: bool, as_json: bool) -> None:
    """Remove the values of old runs.

    Kept is what refers to any run that is newer, pinned, still at work, or was resumed by such a run; and whatever was
    written within the last day. Dagster's own record of the runs, their metrics and reports among it, stays.
    """
    with input_errors(), open_instance() as instance:
        found = collect(instance, days=days, delete=delete)
    if as_json:
        click.echo(to_json_text(found))
        return
    console = make_console(sys.stdout)
    counted = f"{len(found.removed_runs):,} runs, {found.removed_objects:,} objects, {found.removed_bytes:,} bytes"
    done = "removed" if delete else "would be removed (--delete removes it)"
    console.print(styled(f"{counted} {done}; {len(found.kept_runs):,} runs kept"))


@store.command()
@json_option
def verify(as_json: bool) -> None:
    """Read everything and compare it with its digest. The exit code is 1 if something is damaged or missing."""
    with input_errors(), open_instance() as instance:
        found = verify_store(open_store(instance))
    if as_json:
        click.echo(to_json_text(found))
    else:
        console = make_console(sys.stdout)
        for problem in found.problems:
            console.print(styled((problem, "red")))
        counted = f"{found.runs:,} runs, {found.objects:,} objects, {found.bytes:,} bytes"
        console.print(styled(f"{counted}: {len(found.problems) or 'no'} problems"))
    sys.exit(FAILED if found.problems else 0)


@store.command(name="pin")
@click.argument("run")
def pin_(run: str) -> None:
    """Keep RUN for good, whatever its age."""
    _pin(run, pinned=True)


@store.command()
@click.argument("run")
def unpin(run: str) -> None:
    """Let RUN go with its age again."""
    _pin(run, pinned=False)


def _pin(run: str, *, pinned: bool) -> None:
    with input_errors(), open_instance() as instance:
        run_id = History(instance).find(run)
        pin(instance, run_id, pinned=pinned)
    click.echo(f"run {run_id} is {'pinned' if pinned else 'no longer pinned'}")

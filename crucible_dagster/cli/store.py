"""The commands that maintain the context store: `crucible store gc`, `verify`, `pin`, `unpin`."""

from __future__ import annotations

import sys

import click
from dagster import RunRecord as StoredRun

from crucible_core.cli.common import FAILED, input_errors, json_option
from crucible_core.cli.terminal import make_console, print_table, styled
from crucible_core.report.document import Table
from crucible_core.values.jsonable import to_json_text
from crucible_dagster.cli.home import open_existing_instance
from crucible_dagster.history.history import History
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.retention import collect, pin
from crucible_dagster.tags import EXPERIMENT_TAG

__all__ = ["store"]

SHORT = 8
MAX_LISTED = 20


@click.group(name="store")
def store() -> None:
    """Maintain the context store, which keeps what the stages of Dagster's runs returned."""


@store.command()
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Keep everything that belongs to runs which ended within this many days.",
)
@click.option("--delete", is_flag=True, help="Remove it; without this flag it is only counted.")
@json_option
def gc(days: float, delete: bool, as_json: bool) -> None:
    """Remove the values of old runs.

    A run is kept if it is newer, pinned, still running, or resumed by a run that is kept. Everything written within
    the last day is kept too, and so are Dagster's own records of the runs, with their metrics and reports.
    """
    with input_errors(), open_existing_instance() as instance:
        found = collect(instance, days=days, delete=delete)
        removed = [_row(instance.get_run_record_by_id(run_id), run_id) for run_id in found.removed_runs[:MAX_LISTED]]
    if as_json:
        click.echo(to_json_text(found))
        return
    console = make_console(sys.stdout)
    if removed:
        print_table(console, Table(("run", "experiment", "status", "created"), tuple(removed)))
        more = len(found.removed_runs) - len(removed)
        console.print(styled((f"and {more:,} more\n" if more else "", "dim")))
    counted = f"{len(found.removed_runs):,} runs, {found.removed_objects:,} objects, {found.removed_bytes:,} bytes"
    done = "removed" if delete else "would be removed (--delete removes it)"
    console.print(styled(f"{counted} {done}; {len(found.kept_runs):,} runs kept"))


def _row(record: StoredRun | None, run_id: str) -> tuple[str, ...]:
    if record is None:
        return run_id[:SHORT], "", "removed from Dagster", ""
    run, created = record.dagster_run, record.create_timestamp
    return run_id[:SHORT], run.tags.get(EXPERIMENT_TAG, ""), run.status.value.lower(), f"{created:%Y-%m-%d %H:%M:%S}"


@store.command()
@json_option
def verify(as_json: bool) -> None:
    """Read everything and compare it with its digest. The exit code is 1 if something is damaged or missing."""
    with input_errors(), open_existing_instance() as instance:
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
    """Keep RUN regardless of its age."""
    _pin(run, pinned=True)


@store.command()
@click.argument("run")
def unpin(run: str) -> None:
    """Let `crucible store gc` remove RUN again when it is old."""
    _pin(run, pinned=False)


def _pin(run: str, *, pinned: bool) -> None:
    with input_errors(), open_existing_instance() as instance:
        run_id = History(instance).find(run)
        pin(instance, run_id, pinned=pinned)
    click.echo(f"run {run_id} is {'pinned' if pinned else 'no longer pinned'}")

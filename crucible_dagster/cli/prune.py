"""The command that removes old runs from Dagster and from the context store: `crucible prune`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from crucible_core.cli.common import input_errors, json_option
from crucible_core.cli.terminal import make_console, print_table, styled
from crucible_core.report.document import Table
from crucible_core.values.jsonable import to_json_text
from crucible_dagster.cli.home import open_existing_instance
from crucible_dagster.execution import database_in_words
from crucible_dagster.store.retention import RemovedRun
from crucible_dagster.store.retention import prune as prune_runs

__all__ = ["prune"]

SHORT = 8
MAX_LISTED = 20


@click.command()
@click.option(
    "--days",
    type=click.FloatRange(min=1),
    default=90.0,
    show_default=True,
    help="Keep runs that ended within this many days.",
)
@click.option(
    "--keep-last",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Keep this many of the newest runs of each experiment, however old.",
)
@click.option("--delete", is_flag=True, help="Remove them; without this flag they are only listed.")
@json_option
def prune(days: float, keep_last: int, delete: bool, as_json: bool) -> None:
    """Remove old runs of experiments, from Dagster and from the context store.

    Runs are kept if they are newer, pinned (`crucible store pin`), not over, or resumed by a run that is kept. Runs of
    other jobs and reports are kept too. `crucible store gc` removes only Contexts, nothing from Dagster.
    """
    with input_errors(), open_existing_instance() as instance, database_in_words(instance):
        found = prune_runs(instance, days=days, keep_last=keep_last, delete=delete)
    if as_json:
        click.echo(to_json_text(found))
        return
    console = make_console(sys.stdout)
    if found.runs:
        columns = ("run", "experiment", "status", "ended")
        print_table(console, Table(columns, tuple(map(_row, found.runs[:MAX_LISTED]))))
        more = len(found.runs) - MAX_LISTED
        console.print(styled((f"and {more:,} more\n" if more > 0 else "", "dim")))
    counted = f"{len(found.runs):,} runs, {found.store.removed_objects:,} objects, {found.store.removed_bytes:,} bytes"
    done = "removed" if delete else "would be removed (--delete removes it)"
    console.print(styled(f"{counted} {done}; {found.kept:,} runs kept"))


def _row(run: RemovedRun) -> tuple[str, ...]:
    ended = datetime.fromtimestamp(run.ended, UTC)
    return run.run_id[:SHORT], run.experiment, run.status, f"{ended:%Y-%m-%d %H:%M:%S}"

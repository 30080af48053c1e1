"""The commands that copy an instance with its store, and put the copy back: `crucible backup`, `crucible restore`."""

from __future__ import annotations

from pathlib import Path

import click

from crucible_core.cli.common import input_errors, json_option, say
from crucible_core.values.jsonable import to_json_text
from crucible_dagster.cli.home import open_existing_instance
from crucible_dagster.execution import database_in_words, open_instance
from crucible_dagster.upkeep.backup import back_up
from crucible_dagster.upkeep.restore import restore as put_back

__all__ = ["backup", "restore"]

folder_argument = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))


@click.command()
@folder_argument
@json_option
def backup(folder: Path, as_json: bool) -> None:
    """Copy the instance's database, and then the context store, into FOLDER.

    FOLDER must be empty or not exist. Runs may go on meanwhile; do not run `crucible store gc` or `crucible prune`.
    """
    with input_errors(), open_existing_instance() as instance, database_in_words(instance):
        made = back_up(instance, folder)
    for name in made.damaged:
        say(f"{name} is damaged in the context store, and in the backup: see `crucible store verify`")
    if as_json:
        click.echo(to_json_text(made))
        return
    click.echo(f"{folder}: {made.runs:,} runs, {made.files:,} files, {made.bytes:,} bytes")


@click.command()
@folder_argument
@click.option("--replace", is_flag=True, help="Replace the runs with those of the backup; the existing runs are lost.")
@json_option
def restore(folder: Path, replace: bool, as_json: bool) -> None:
    """Put the backup in FOLDER back into the instance and into its context store. Stop the services first.

    The instance is that of DAGSTER_HOME, or the one under .crucible/ in the project's folder; it must have no runs. If
    the command is killed, run it again.
    """
    with input_errors():
        done = put_back(folder, open_instance, replace=replace)
    if as_json:
        click.echo(to_json_text(done))
        return
    click.echo(f"{done.runs:,} runs restored, as of {done.backup.made}")
    for run_id in done.in_flight:
        click.echo(f"run {run_id} had not ended; it is marked as failed. To resume it: crucible resume {run_id[:8]}")
    for run_id in done.waiting:
        click.echo(f"run {run_id} had not begun; it is cancelled")

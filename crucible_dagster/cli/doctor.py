"""The command that says what is wrong: `crucible doctor`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click

from crucible_core.cli.common import FAILED, input_errors, json_option, nothing_else_on_stdout
from crucible_core.cli.terminal import make_console, styled
from crucible_core.values.jsonable import to_json_text
from crucible_dagster.upkeep.doctor import examine
from crucible_dagster.upkeep.findings import SEVERITIES, Diagnosis, Severity

__all__ = ["doctor"]

STYLES: Mapping[Severity, str] = {"error": "red", "warning": "yellow", "unchecked": "yellow", "note": "dim"}

NAMES: Mapping[Severity, tuple[str, str]] = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "unchecked": ("check not done", "checks not done"),
}


@click.command()
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--workspace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file that names the code servers.  [default: workspace.yaml in DAGSTER_HOME]",
)
@click.option("--deep", is_flag=True, help="Read the whole context store, not a sample.")
@click.option("--strict", is_flag=True, help="Exit with 1 also for warnings, and for checks that could not be done.")
@json_option
def doctor(folder: Path | None, workspace: Path | None, deep: bool, strict: bool, as_json: bool) -> None:
    """Say what is wrong with the Dagster instance, the context store and the experiment files, and what to do.

    The instance is that of DAGSTER_HOME, or the one under .crucible/ in the project of FOLDER. FOLDER has the
    experiment files; without it, they are those of CRUCIBLE_EXPERIMENTS or, without DAGSTER_HOME, of the working
    directory. The command changes nothing. The exit code is 1 if there is an error.
    """
    with input_errors(), nothing_else_on_stdout():
        found = examine(folder, workspace=workspace, deep=deep)
    if as_json:
        click.echo(to_json_text(found))
    else:
        _print(found)
    wrong: tuple[Severity, ...] = ("error", "warning", "unchecked") if strict else ("error",)
    sys.exit(FAILED if found.has(*wrong) else 0)


def _print(found: Diagnosis) -> None:
    console = make_console(sys.stdout)
    console.print(styled(("instance  ", "dim"), found.home))
    if found.store is not None:
        console.print(styled(("store     ", "dim"), found.store))
    console.print(styled(("versions  ", "dim"), ", ".join(f"{name} {one}" for name, one in found.versions.items())))
    console.print(styled(("checked   ", "dim"), ", ".join(found.checked) or "nothing"))
    console.print()
    for one in found.findings:
        console.print(styled((one.severity, STYLES[one.severity]), f"  {one.check}: {one.what}"))
        if one.do:
            console.print(styled(f"    {one.do}"))
    counted = {one: sum(each.severity == one for each in found.findings) for one in SEVERITIES}
    said = ", ".join(
        f"{number} {NAMES[one][number != 1]}" for one, number in counted.items() if number and one != "note"
    )
    console.print(styled(said or "nothing is wrong"))

"""The command `crucible export`, as `crucible --help` shows it, without importing what it exports to."""

from __future__ import annotations

import click

from crucible_core.cli.extensions import HELP, LazyCommand

__all__ = ["export"]


@click.group(context_settings=HELP)
def export() -> None:
    """Copy runs that Dagster has kept to another tool."""


export.add_command(
    LazyCommand(
        "mlflow", "Copy runs to MLflow, where their numbers are the same.", "crucible_adapters.mlflow.export:to_mlflow"
    )
)

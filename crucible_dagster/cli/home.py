"""The Dagster instance whose runs a command looks at."""

from __future__ import annotations

import os
from pathlib import Path

from dagster import DagsterInstance

from crucible_core.cli.common import say
from crucible_core.errors import CrucibleError
from crucible_core.values.places import project_folder
from crucible_dagster.execution import embedded_home, open_instance

__all__ = ["existing_home", "open_existing_instance"]


def open_existing_instance() -> DagsterInstance:
    """Open the instance as `execution.open_instance` does, but create none; say which project the runs are from.

    Raises CrucibleError if there is no instance yet.
    """
    existing_home()
    project = project_folder()
    if not os.environ.get("DAGSTER_HOME") and project != Path.cwd():
        say(f"the runs of the project in {project}:")
    return open_instance()


def existing_home() -> Path:
    """The folder of the instance whose runs a command looks at. Raises CrucibleError if there is no instance yet."""
    home = os.environ.get("DAGSTER_HOME")
    if not home and not embedded_home().exists():
        raise CrucibleError(
            f"there are no runs here: DAGSTER_HOME is not set, and there is no {embedded_home()}, which "
            "`crucible run FILE --dagster` makes. Direct runs, without --dagster, are not kept"
        )
    if home and Path(home).is_dir() and not any(Path(home).iterdir()):
        raise CrucibleError(f"there are no runs here: DAGSTER_HOME={home} is an empty folder")
    return Path(home) if home else embedded_home()

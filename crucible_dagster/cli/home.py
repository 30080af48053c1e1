"""The Dagster instance that a command uses."""

from __future__ import annotations

import os
from pathlib import Path

from dagster import DagsterInstance

from crucible_core.cli.common import say
from crucible_core.values.places import project_folder
from crucible_dagster import execution

__all__ = ["open_instance"]


def open_instance() -> DagsterInstance:
    """The instance as `execution.open_instance` opens it; says whose runs these are if that is not this folder."""
    project = project_folder()
    if not os.environ.get("DAGSTER_HOME") and project != Path.cwd():
        say(f"the runs of the project in {project}:")
    return execution.open_instance()

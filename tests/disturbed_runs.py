"""Runs of the stages of fault_stages.py that a test disturbs: what a child process is given, and what came of it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus

from crucible_core import Experiment

__all__ = ["arguments_of", "executed", "status_of"]


def executed(folder: Path) -> list[str]:
    """The stages that were executed with that folder, in order."""
    return (folder / "executed").read_text().split() if (folder / "executed").exists() else []


def arguments_of(instance: DagsterInstance, experiment: Experiment, folder: Path, **more: Any) -> dict[str, Any]:
    """What a function of fault_stages.py that runs an experiment is called with."""
    return {
        "home": instance.root_directory,
        "experiment": experiment.to_json(indent=None),
        "run_id": str(uuid.uuid4()),
        "folder": str(folder),
        **more,
    }


def status_of(instance: DagsterInstance, run_id: str) -> DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status

"""The experiment of an earlier run, as it was recorded."""

from __future__ import annotations

import contextlib

from crucible_core import CrucibleError, Experiment, InvalidExperimentError, load_experiment
from crucible_core.ir.experiment import Source
from crucible_core.ir.secrets import restored
from crucible_dagster.history.history import History
from crucible_dagster.history.run_record import RunRecord


def recorded_experiment(record: RunRecord) -> Experiment:
    """The experiment as it was run, with its file, in whose folder the modules of its stages are found.

    Runs do not keep secrets. Their values are taken from the file as it is now; without one, they stay masks.
    """
    experiment = record.to_experiment()
    if record.source:
        experiment.read_from(Source(record.source, record.source))
        if experiment.resources or any(one.secrets for one in record.stages):
            with contextlib.suppress(InvalidExperimentError):
                return restored(experiment, load_experiment(record.source))
    return experiment


def recorded_run(history: History, run: str) -> RunRecord:
    """The record of a run. Raises CrucibleError if there is no such run, or it has no record."""
    record = history.record(run)
    if record is None:
        raise CrucibleError(
            f"run {history.find(run)} has no record: it ended before its first stage, or it was removed from the "
            "context store. Run the experiment again"
        )
    return record

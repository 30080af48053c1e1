"""`crucible export mlflow`: runs that Dagster has kept, copied to MLflow."""

from __future__ import annotations

import click

from crucible_adapters.mlflow.tracked_run import MlflowClient, MlflowException, TrackedRun, times_of
from crucible_core.cli.common import input_errors
from crucible_core.cli.plain import plain
from crucible_core.context import Context
from crucible_core.errors import CrucibleError, MissingExtraError
from crucible_core.trace import StageFailed

__all__ = ["export_context", "to_mlflow"]

INTERRUPTED = "KeyboardInterrupt"


def export_context(client: MlflowClient, context: Context, experiment: str | None = None) -> str:
    """Log a run that is over, by its last Context, and return the id of MLflow's run.

    A run that MLflow already has is not created again; only what is new is added to it.
    """
    began, ended = times_of(context.trace)
    run = TrackedRun.of(client, experiment or context.experiment_id, context.experiment_id, context.run_id, began)
    run.log(context)
    failure = next((event for event in context.trace if isinstance(event, StageFailed)), None)
    if failure is not None:
        run.tag({"crucible.failure": f"stage {failure.stage}: {failure.reason}"})
    status = "FINISHED"
    if failure is not None:
        status = "KILLED" if failure.error_type == INTERRUPTED else "FAILED"
    elif any(gate.blocks for gate in context.trace.gates):
        status = "FAILED"
    if ended is not None:
        run.end(status, ended)
    return str(run.mlflow_id)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--tracking-uri", metavar="URI", help="MLflow's server or store (default: MLFLOW_TRACKING_URI).")
@click.option("--experiment", metavar="NAME", help="The experiment in MLflow (default: that of the run).")
def to_mlflow(runs: tuple[str, ...], tracking_uri: str | None, experiment: str | None) -> None:
    """Copy runs to MLflow: their options, numbers, artifacts, gates and findings. What MLflow already has is kept.

    RUN is the id of a run, or the beginning of one.
    """
    with input_errors():
        try:
            from crucible_dagster.cli.home import open_existing_instance  # noqa: PLC0415  # an extra
            from crucible_dagster.history.history import History  # noqa: PLC0415
        except ImportError:
            raise MissingExtraError("reading the runs that Dagster has kept", "dagster") from None
        client = MlflowClient(tracking_uri)
        with open_existing_instance() as instance:
            history = History(instance)
            for one in runs:
                context = history.context(one)
                try:
                    made = export_context(client, context, experiment)
                except MlflowException as error:
                    raise CrucibleError(f"run {context.run_id} cannot be copied to MLflow: {error!s:.300}") from error
                click.echo(plain(f"{context.run_id}  {context.experiment_id}  is {made} in MLflow"))

"""The commands and the runner as `crucible --help` shows them, without importing Dagster, which takes over a second."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from crucible_core.cli.extensions import LazyCommand, Runner
from crucible_core.errors import MissingExtraError

if TYPE_CHECKING:
    from crucible_core import Context

__all__ = [
    "backup",
    "compare",
    "dagster",
    "doctor",
    "metrics",
    "prune",
    "replay",
    "restore",
    "resume",
    "runs",
    "show",
    "store",
    "ticks",
    "trials",
    "ui",
    "why",
]


def _need_dagster(what: str) -> None:
    if importlib.util.find_spec("dagster") is None:
        raise MissingExtraError(what, "dagster")


def _command(name: str, sentence: str, module: str) -> LazyCommand:
    return LazyCommand(name, sentence, f"crucible_dagster.cli.{module}:{name}", prepare=_need_dagster)


runs = _command("runs", "List the runs that Dagster has kept, newest first.", "runs")
show = _command("show", "Show everything about one run.", "runs")
doctor = _command(
    "doctor",
    "Say what is wrong with the Dagster instance, the context store and the experiment files, and what to do.",
    "doctor",
)
backup = _command("backup", "Copy the instance's database, and then the context store, into FOLDER.", "backup")
restore = _command("restore", "Put the backup in FOLDER back into the instance and into its context store.", "backup")
prune = _command("prune", "Remove old runs of experiments, from Dagster and from the context store.", "prune")
metrics = _command("metrics", "Print figures of the instance for Prometheus, or serve them.", "metrics")
compare = _command("compare", "Show how runs differ: two side by side, or more in one table.", "runs")
resume = _command("resume", "Resume a failed, cancelled or killed run where it stopped.", "rerun")
replay = _command("replay", "Run a recorded run again, without Dagster, and compare the results.", "rerun")
why = _command("why", "Say why an earlier result of a stage was reused, or why not.", "rerun")
ticks = _command(
    "ticks", "List the ticks of an experiment's schedule and what happened to each: run, skipped or missed.", "ticks"
)
trials = _command(
    "trials", "List the trials of one run: which arm, which replicate, how it ended, what it measured.", "runs"
)
ui = _command("ui", "Open Dagster's UI on the experiments of a folder.", "ui")
store = _command(
    "store", "Maintain the context store, which keeps what the stages of Dagster's runs returned.", "store"
)


def _load_runner() -> Callable[..., Context]:
    _need_dagster("running on Dagster")
    from crucible_dagster.cli.runner import run_on_dagster  # noqa: PLC0415  # loads dagster

    return run_on_dagster


dagster = Runner(
    help="Run the compiled job on Dagster: the instance of DAGSTER_HOME, or one under .crucible/.",
    where="on Dagster",
    load=_load_runner,
    options=(
        click.Option(
            ["--fresh"], is_flag=True, help="Run every stage, even those with `cache: true` (with --dagster)."
        ),
    ),
    resumable=True,
)

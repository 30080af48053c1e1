"""The command that lists the ticks of a schedule: `crucible ticks`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from dagster import DagsterInstance

from crucible_core import CrucibleError, Experiment, InvalidExperimentError, Schedule, load_experiment
from crucible_core.cli.common import FAILED, input_errors, json_option, nothing_else_on_stdout
from crucible_core.cli.terminal import make_console, print_table, styled
from crucible_core.report.document import Table
from crucible_core.values.jsonable import to_json_text, to_jsonable
from crucible_dagster.automation.schedules import run_missed, schedule_name
from crucible_dagster.automation.ticks import Tick, Ticks, check_times, find_state, ticks_of
from crucible_dagster.cli.home import open_existing_instance
from crucible_dagster.history.history import History
from crucible_dagster.history.recorded import recorded_experiment

__all__ = ["ticks"]

SHORT = 8


@click.command()
@click.argument("experiment")
@click.option(
    "--since",
    metavar="TIME",
    help="List ticks from this date or time on; without it, from when the schedule was switched on.",
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most this many, the newest."
)
@click.option("--missed", is_flag=True, help="Show the missed ones only.")
@click.option("--location", metavar="NAME", help="The code location, if several have a schedule of this name.")
@click.option(
    "--catch-up", is_flag=True, help="Run the experiment in this process, once for each missed tick in the list."
)
@json_option
def ticks(
    experiment: str,
    since: str | None,
    limit: int,
    missed: bool,
    location: str | None,
    catch_up: bool,
    as_json: bool,
) -> None:
    """List the ticks of an experiment's schedule and what happened to each: run, skipped or missed.

    EXPERIMENT is its file, or its id; for an id, the schedule is the one recorded with the last run. The exit code is 1
    if a run of --catch-up failed.
    """
    failures: list[str] = []
    with input_errors(), nothing_else_on_stdout(), open_existing_instance() as instance:
        found, schedule = _scheduled(instance, experiment)
        state = find_state(instance, schedule_name(found), location)
        begin = None if since is None else _time(since, schedule)
        listed = ticks_of(
            instance, schedule, state, until=datetime.now(UTC), since=begin, limit=limit, now=datetime.now(UTC)
        )
        if catch_up:
            if not _is_file(experiment):
                raise CrucibleError(f"--catch-up runs the experiment as it is now: name its file, not {experiment}")
            for tick in listed.missed:
                failure = run_missed(instance, found, tick, listed.location)
                failures += [] if failure is None else [f"{_shown(tick)}: {failure}"]
            listed = ticks_of(
                instance, schedule, state, until=datetime.now(UTC), since=begin, limit=limit, now=datetime.now(UTC)
            )
    if as_json:
        click.echo(to_json_text({"experiment": found.id, "cron": schedule.cron, **_described(listed, missed=missed)}))
    else:
        _print(listed, schedule, missed=missed)
    for said in failures:
        click.echo(said, err=True)
    sys.exit(FAILED if failures else 0)


def _scheduled(instance: DagsterInstance, named: str) -> tuple[Experiment, Schedule]:
    """The experiment in that file, or with that id as it was last run, and its schedule."""
    if _is_file(named):
        experiment = load_experiment(named)
    else:
        history = History(instance)
        record = next((one for run in history.runs(named, limit=5) if (one := history.record(run.run_id))), None)
        if record is None:
            raise CrucibleError(f"no run of an experiment {named!r} is recorded: name its file")
        experiment = recorded_experiment(record)
    if experiment.schedule is None:
        raise InvalidExperimentError(
            f"experiment {experiment.id!r} has no schedule", location=experiment.location("id")
        )
    check_times(experiment)
    return experiment, experiment.schedule


def _is_file(named: str) -> bool:
    return Path(named).suffix in {".json", ".yaml", ".yml"} or Path(named).exists()


def _time(said: str, schedule: Schedule) -> datetime:
    try:
        time = datetime.fromisoformat(said)
    except ValueError:
        raise CrucibleError(f"{said!r} is not a date or time such as 2026-03-29 or 2026-03-29T02:00") from None
    return time if time.tzinfo else time.replace(tzinfo=ZoneInfo(schedule.timezone))


def _described(listed: Ticks, *, missed: bool) -> dict[str, object]:
    shown = listed.missed if missed else listed.ticks
    return {**to_jsonable(listed), "ticks": to_jsonable(shown)}


def _print(listed: Ticks, schedule: Schedule, *, missed: bool) -> None:
    console = make_console(sys.stdout)
    state = "on" if listed.on else "off"
    console.print(
        styled((f"{listed.schedule}", "bold"), f" of {listed.location}: {schedule.cron} {schedule.timezone}, {state}")
    )
    if listed.since is None:
        console.print(styled("it is not known since when ticks are expected; give --since"))
        return
    shown = listed.missed if missed else listed.ticks
    rows = tuple(
        (_shown(tick), tick.outcome, (tick.run_id or "")[:SHORT], tick.run_status or "", tick.note or "")
        for tick in reversed(shown)
    )
    if rows:
        print_table(console, Table(("tick", "outcome", "run", "status", "note"), rows))
    zone = ZoneInfo(schedule.timezone)
    counted = f"{len(listed.missed)} of {len(listed.ticks)} ticks missed"
    console.print(styled((f"\n{counted}; since {listed.since.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}", "dim")))


def _shown(tick: Tick) -> str:
    return f"{tick.time:%Y-%m-%d %H:%M %Z}"

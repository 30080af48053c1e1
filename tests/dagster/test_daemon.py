"""Real daemons that tick a real schedule, a real trigger and a real alert: two at once, killed, and started again."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance, DagsterRunStatus
from postgres import Storage, dagster_home
from scheduler import add_settings, switch_on, switch_sensor_on
from services import Deployment, wait_until

from crucible_core import load_experiment
from crucible_dagster.automation.ticks import Tick, find_state, ticks_of
from crucible_dagster.tags import SUPERSEDED_TAG, TICK_TAG

pytestmark = [
    pytest.mark.xdist_group("daemon"),  # one deployment for them all
    pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`:DeprecationWarning"),
]

DEFINITIONS = """
import json
from pathlib import Path

from dagster import Definitions

from crucible_dagster import build_definitions, failure_sensor

folder = Path(__file__).parent


def notify(alert):
    with (folder / "alerts").open("a") as file:
        file.write(json.dumps({"key": alert.key, "sentence": alert.sentence, "facts": dict(alert.facts)}) + "\\n")


alarm = failure_sensor(notify, minimum_interval_seconds=1)
defs = Definitions.merge(build_definitions(folder / "experiments"), Definitions(sensors=[alarm]))
"""


def experiment(folder: Path, name: str, stage: str, **fields: Any) -> None:
    options = {"folder": str(folder / name)}
    (folder / name).mkdir()
    pipeline = [{"name": stage, "module": f"schedule_stages:{stage}", "options": options}]
    (folder / "experiments").mkdir(exist_ok=True)
    (folder / "experiments" / f"{name}.yaml").write_text(json.dumps({"id": name, "pipeline": pipeline, **fields}))


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def storage(request: pytest.FixtureRequest) -> Storage:
    return request.param


@pytest.fixture(scope="module")
def deployment(
    storage: Storage, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    server = request.getfixturevalue("postgres") if storage == "postgres" else None
    folder = tmp_path_factory.mktemp("deployment")
    (folder / "home").mkdir()
    (folder / "definitions.py").write_text(DEFINITIONS)
    experiment(folder, "minutely", "work", schedule={"cron": "* * * * *", "missed": "all", "max_catch_up": 3})
    experiment(folder, "follower", "fail", deps=["raw"], trigger={"on_update": "any"})
    with ExitStack() as stack:
        home = stack.enter_context(dagster_home(folder / "home", storage, server))
        queue = {"module": "dagster.core.run_coordinator", "class": "QueuedRunCoordinator"}
        add_settings(
            home,
            {
                "run_coordinator": {**queue, "config": {"dequeue_interval_seconds": 1}},
                # A daemon that is killed may have said of a run that it starts, and not started it.
                "run_monitoring": {"enabled": True, "poll_interval_seconds": 2, "start_timeout_seconds": 60},
                "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
            },
        )
        # How often the daemon looks for runs to be retried.
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS", "1")
        instance = stack.enter_context(DagsterInstance.from_config(str(home)))
        instance.get_runs_count()
        instance.all_asset_keys()
        instance.all_instigator_state()
        yield Deployment(folder, instance, stack)


def ticks(deployment: Deployment, until: datetime) -> tuple[Tick, ...]:
    schedule = load_experiment(deployment.folder / "experiments" / "minutely.yaml").schedule
    assert schedule is not None
    state = find_state(deployment.instance, "minutely_schedule")
    return ticks_of(deployment.instance, schedule, state, until=until, limit=10).ticks


def worked(folder: Path) -> list[str]:
    return (folder / "executed").read_text().split() if (folder / "executed").exists() else []


@pytest.mark.fault("R7", "the daemon is killed", "two daemons")
@pytest.mark.all_faults  # as test_one_daemon.py and test_chaos.py
def test_two_daemons_that_are_killed_and_started_again_have_each_tick_s_and_update_s_work_done_once(
    deployment: Deployment,
) -> None:
    instance, folder = deployment.instance, deployment.folder
    since = datetime.now(UTC) - timedelta(minutes=2, seconds=30)
    switch_on(deployment.workspace, "minutely_schedule", since)
    switch_sensor_on(deployment.workspace, "follower_trigger", since)
    instance.report_runless_asset_event(AssetMaterialization(AssetKey("raw")))

    daemons = deployment.two_daemons()
    wait_until(lambda: instance.get_runs_count() > 0, "a run of a tick")
    time.sleep(random.uniform(0, 0.5))  # somewhere between making runs, submitting them and noting that
    for daemon in daemons:
        daemon.kill()
        daemon.wait(timeout=30)
    until = datetime.now(UTC)
    deployment.two_daemons()

    def all_done() -> bool:
        found = ticks(deployment, until)
        return len(found) >= 2 and all(tick.run_status == "succeeded" for tick in found)

    wait_until(all_done, "each tick's run", lambda: (ticks(deployment, until), deployment.told()))
    # A daemon that is killed may leave runs that nobody ever submits or starts; they do no work.
    idle = {DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING}
    wait_until(
        lambda: all(run.is_finished or run.status in idle for run in instance.get_runs()),
        "the end of every run that was started",
        deployment.told,
    )
    runs = {run.run_id: run for run in instance.get_runs()}
    done = Counter(runs[run_id].tags[TICK_TAG] for run_id in worked(folder / "minutely"))
    expected = {tick.time.astimezone(UTC).isoformat() for tick in ticks(deployment, until)}
    assert expected <= set(done)
    assert set(done.values()) == {1}, done
    for run in runs.values():
        assert run.status is not DagsterRunStatus.CANCELED or SUPERSEDED_TAG in run.tags

    # The update started one run, which failed, and somebody was told of it: at least once, under one key.
    wait_until((folder / "alerts").exists, "an alert")
    (failed,) = set(worked(folder / "follower"))
    assert worked(folder / "follower") == [failed]
    told = [json.loads(line) for line in (folder / "alerts").read_text().splitlines()]
    assert {alert["key"] for alert in told} == {f"{failed} run_failed"}
    assert told[0]["sentence"].startswith("Run of follower failed at stage fail: ")
    assert told[0]["facts"]["sensor"] == "follower_trigger"
    assert told[0]["facts"]["updated"].startswith("raw #")

"""Runs that an updated asset starts, and who is told of failures: sensors, evaluated on a real instance."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, get_args
from uuid import uuid4

import pytest
import schedule_stages
from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    Definitions,
    SensorDefinition,
    build_sensor_context,
    job,
    op,
)
from scheduler import add_settings

from crucible_core import CrucibleError, Experiment, InvalidExperimentError, load_experiment
from crucible_core.ir import vocabulary
from crucible_core.ir.experiment import Trigger
from crucible_dagster import Alert, build_definitions, execute_experiment, failure_sensor, job_for, trigger_for
from crucible_dagster.automation import alerts
from crucible_dagster.automation.alerts import ATTEMPTS
from crucible_dagster.automation.triggers import ON_UPDATE, SENSOR_STATUS
from crucible_dagster.tags import UPDATE_TAG, UPDATED_TAG


class Watched:
    """A sensor on an instance, looked at as the daemon does: the cursor of one look is that of the next."""

    def __init__(self, sensor: SensorDefinition, instance: DagsterInstance, start: float | None = None) -> None:
        self.sensor = sensor
        self.instance = instance
        self.start = time.time() if start is None else start
        self.cursor: str | None = None
        self.said: str | None = None

    def look(self, *, killed: bool = False) -> Sequence[Any]:
        context = build_sensor_context(
            self.instance, cursor=self.cursor, last_sensor_start_time=self.start, definitions=Definitions()
        )
        found = self.sensor.evaluate_tick(context)
        if not killed:  # before Dagster has stored the cursor
            self.cursor = found.cursor
        self.said = found.skip_message
        return found.run_requests or []


def materialize(instance: DagsterInstance, *keys: str) -> None:
    for key in keys:
        instance.report_runless_asset_event(AssetMaterialization(AssetKey(key.split("/"))))


def triggered(on_update: str, **fields: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "id": "follower",
            "deps": ["raw/orders", "prices"],
            "pipeline": [{"name": "work", "module": f"{schedule_stages.__name__}:work", "options": {"folder": "."}}],
            **fields,
            "trigger": {"on_update": on_update, **fields.get("trigger", {})},
        }
    )


def watch(instance: DagsterInstance, experiment: Experiment, start: float | None = None) -> Watched:
    sensor = trigger_for(experiment, job_for(experiment))
    assert sensor is not None
    return Watched(sensor, instance, start)


# --- triggers ---------------------------------------------------------------------------------------------------------


def test_each_way_to_be_triggered_is_implemented() -> None:
    assert set(ON_UPDATE) == set(get_args(vocabulary.OnUpdate))
    assert set(SENSOR_STATUS) == set(get_args(vocabulary.ScheduleStatus))


def test_any_update_starts_one_run_and_several_between_two_looks_start_one(instance: DagsterInstance) -> None:
    materialize(instance, "prices")
    sensor = watch(instance, triggered("any"))
    assert sensor.look() == []
    assert sensor.said == "No update of raw/orders, prices."
    materialize(instance, "raw/orders")
    (request,) = sensor.look()
    newest = instance.fetch_materializations(AssetKey(["raw", "orders"]), limit=1).records[0]
    assert request.tags[UPDATED_TAG] == f"raw/orders #{newest.storage_id}"
    assert request.run_key == request.tags[UPDATE_TAG]
    assert sensor.look() == []
    materialize(instance, "raw/orders", "raw/orders", "prices", "another")
    (both,) = sensor.look()
    assert "raw/orders #" in both.tags[UPDATED_TAG]
    assert "; prices #" in both.tags[UPDATED_TAG]
    assert both.run_key != request.run_key
    assert sensor.look() == []


def test_all_waits_until_every_asset_was_updated_since_the_last_run(instance: DagsterInstance) -> None:
    sensor = watch(instance, triggered("all"))
    materialize(instance, "raw/orders", "raw/orders")
    assert sensor.look() == []
    assert sensor.said == "No update of prices."
    materialize(instance, "prices")
    assert len(sensor.look()) == 1
    materialize(instance, "prices")
    assert sensor.look() == []
    materialize(instance, "raw/orders")
    assert len(sensor.look()) == 1


def test_an_update_that_was_looked_at_and_whose_run_was_not_kept_has_the_same_key(instance: DagsterInstance) -> None:
    sensor = watch(instance, triggered("any"))
    sensor.look()
    materialize(instance, "prices")
    (lost,) = sensor.look(killed=True)
    (again,) = sensor.look()
    assert lost.run_key == again.run_key
    # Two daemons ask for it at once: both runs have the key, and the first to begin does the work.
    experiment = triggered("any")
    tags = {"dagster/sensor_name": "follower_trigger", **again.tags}
    execute_experiment(experiment, instance=instance, tags=tags)
    with pytest.raises(Exception, match="has this update of follower_trigger; this run does nothing"):
        execute_experiment(experiment, instance=instance, tags=tags)
    assert len(Path("executed").read_text().split()) == 1


def test_what_was_updated_while_the_trigger_was_off_starts_nothing_and_what_was_right_after_does(
    instance: DagsterInstance,
) -> None:
    materialize(instance, "prices")
    switched_on = time.time()
    materialize(instance, "raw/orders")
    sensor = watch(instance, triggered("any"), switched_on)
    (request,) = sensor.look()
    assert request.tags[UPDATED_TAG].startswith("raw/orders #")
    assert "prices" not in request.tags[UPDATED_TAG]
    materialize(instance, "prices")
    sensor.start = time.time()  # switched off before, and on again
    assert sensor.look() == []
    materialize(instance, "prices")
    assert len(sensor.look()) == 1


def test_a_variant_is_run_when_the_file_says_which(instance: DagsterInstance) -> None:
    variants = {"slow": {"work": {"seconds": 0.01}}}
    sensor = watch(instance, triggered("any", variants=variants, trigger={"variant": "slow"}))
    sensor.look()
    materialize(instance, "prices")
    (request,) = sensor.look()
    assert request.run_config == {"resources": {"experiment": {"config": {"variant": "slow"}}}}
    assert request.tags["crucible/variant"] == "slow"


def test_a_file_s_trigger_is_among_its_definitions(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(
        "id: e\npipeline: [{name: validate}]\ndeps: [a/b]\ntrigger: {on_update: any, default_status: running}\n"
    )
    made = build_definitions(tmp_path)
    sensor = made.resolve_sensor_def("e_trigger")
    assert (sensor.job_name, sensor.default_status) == ("e", SENSOR_STATUS["running"])
    assert Trigger(on_update="any").default_status == "stopped"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("trigger: {on_update: any}", "e.yaml:3:1: trigger: a trigger needs `deps`"),
        ("deps: []\ntrigger: {on_update: any}", "e.yaml:4:1: trigger: a trigger needs `deps`"),
        ("deps: [a]\ntrigger: {on_update: some}", "e.yaml:4:11: trigger.on_update: should be 'all' or 'any'"),
        ("deps: [a]\ntrigger: {on_update: any, variant: x}", "there is no variant 'x'; the experiment has none"),
        (
            "variants: {y: {validate: {}}}\nschedule: {cron: '@daily', variant: x}",
            "e.yaml:4:28: schedule: there is no variant 'x'; variants: y",
        ),
    ],
)
def test_a_trigger_that_nothing_triggers_and_a_variant_that_there_is_not_are_refused(
    tmp_path: Path, lines: str, said: str
) -> None:
    (tmp_path / "e.yaml").write_text(f"id: e\npipeline: [{{name: validate}}]\n{lines}\n")
    with pytest.raises(InvalidExperimentError) as refused:
        load_experiment(tmp_path / "e.yaml")
    assert said in str(refused.value)


# --- alerts -----------------------------------------------------------------------------------------------------------


class Mailbox:
    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.broken = 0

    def __call__(self, alert: Alert) -> None:
        if self.broken:
            self.broken -= 1
            raise ConnectionError("the webhook is away")
        self.alerts.append(alert)

    @property
    def keys(self) -> list[str]:
        return [alert.key for alert in self.alerts]


def failing(folder: Path, id_: str = "failing") -> Experiment:
    options = {"folder": str(folder)}
    pipeline = [{"name": "first-stage", "module": f"{schedule_stages.__name__}:fail", "options": options}]
    return Experiment.model_validate({"id": id_, "pipeline": pipeline})


def run(instance: DagsterInstance, experiment: Experiment, tags: Mapping[str, str] | None = None) -> str:
    run_id = str(uuid4())
    with suppress(CrucibleError):
        execute_experiment(experiment, instance=instance, run_id=run_id, tags=tags)
    return run_id


def judged(folder: Path, *, blocking: bool = False) -> Experiment:
    pipeline = [{"name": "work", "module": f"{schedule_stages.__name__}:work", "options": {"folder": str(folder)}}]
    gates = [
        {"name": "enough-work", "metric": "worked", "at_least": 2, "blocking": blocking},
        {"name": "some.work", "metric": "worked", "at_least": 1},
        {"name": "nice", "metric": "worked", "at_least": 3, "severity": "warn"},
    ]
    return Experiment.model_validate({"id": "judged", "pipeline": pipeline, "gates": gates})


def test_a_failed_run_is_told_of_once_with_its_stage_and_why(instance: DagsterInstance, tmp_path: Path) -> None:
    mailbox = Mailbox()
    run(instance, failing(tmp_path))  # before it was switched on
    sensor = Watched(failure_sensor(mailbox, ui="https://dagster.example/"), instance)
    sensor.look()
    failed = run(instance, failing(tmp_path), {"dagster/schedule_name": "failing_schedule"})
    (tmp_path / "mended").touch()
    run(instance, failing(tmp_path))
    sensor.look()
    assert sensor.said == "1 reported"
    (alert,) = mailbox.alerts
    assert (alert.kind, alert.experiment, alert.run_id) == ("run_failed", "failing", failed)
    assert (alert.stage, alert.gate) == ("first-stage", None)
    assert alert.sentence.startswith("Run of failing failed at stage first-stage: ")
    assert "it does not work yet" in alert.sentence
    assert alert.link == f"https://dagster.example/runs/{failed}"
    assert alert.facts == {"job": "failing", "schedule": "failing_schedule"}
    sensor.look()
    assert len(mailbox.alerts) == 1


def test_failed_gates_are_told_of_also_of_a_run_that_succeeded(instance: DagsterInstance, tmp_path: Path) -> None:
    mailbox, all_runs = Mailbox(), Mailbox()
    sensor = Watched(failure_sensor(mailbox), instance)
    without_gates = Watched(failure_sensor(all_runs, gates=False), instance)
    sensor.look()
    without_gates.look()
    good, bad = run(instance, judged(tmp_path)), run(instance, judged(tmp_path, blocking=True))
    sensor.look()
    without_gates.look()
    assert sorted(mailbox.keys) == sorted(f"{one} gate_failed enough-work" for one in (good, bad))
    assert {alert.gate for alert in mailbox.alerts} == {"enough-work"}
    assert mailbox.alerts[0].sentence.startswith("Gate enough-work of judged failed: ")
    assert all_runs.keys == [f"{bad} run_failed"]


def test_a_notifier_that_raises_is_called_again_and_hides_no_other_failure(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    mailbox = Mailbox()
    sensor = Watched(failure_sensor(mailbox), instance)
    sensor.look()
    first, second = run(instance, failing(tmp_path)), run(instance, failing(tmp_path))
    mailbox.broken = 1
    sensor.look()
    assert mailbox.keys == [f"{second} run_failed"]
    assert sensor.said == "1 reported, 1 to be tried again, because the notifier raised"
    sensor.look()
    assert mailbox.keys == [f"{second} run_failed", f"{first} run_failed"]
    third = run(instance, failing(tmp_path))
    mailbox.broken = ATTEMPTS
    said = []
    for _ in range(ATTEMPTS):
        sensor.look()
        said.append(sensor.said)
    assert said[-2:] == ["0 reported, 1 to be tried again, because the notifier raised", "0 reported, 1 given up"]
    sensor.look()
    assert f"{third} run_failed" not in mailbox.keys


def test_an_alert_that_is_to_be_told_again_goes_with_its_run(instance: DagsterInstance, tmp_path: Path) -> None:
    mailbox = Mailbox()
    sensor = Watched(failure_sensor(mailbox), instance)
    sensor.look()
    failed = run(instance, failing(tmp_path))
    mailbox.broken = 1
    sensor.look()
    assert sensor.said == "0 reported, 1 to be tried again, because the notifier raised"
    instance.delete_run(failed)
    sensor.look()
    assert sensor.said == "0 reported"


def test_what_failed_while_the_sensor_was_off_is_not_told_and_what_did_right_after_is(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    mailbox = Mailbox()
    sensor = Watched(failure_sensor(mailbox), instance)
    sensor.look()
    run(instance, failing(tmp_path))
    sensor.start = time.time()  # switched off before, and on again
    failed = run(instance, failing(tmp_path))
    sensor.look()
    assert mailbox.keys == [f"{failed} run_failed"]


def test_what_was_told_before_a_kill_is_told_again_under_the_same_key(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    mailbox = Mailbox()
    sensor = Watched(failure_sensor(mailbox), instance)
    sensor.look()
    failed = run(instance, failing(tmp_path))
    sensor.look(killed=True)
    sensor.look()
    assert mailbox.keys == [f"{failed} run_failed"] * 2


def test_only_the_wanted_experiments_and_no_run_that_is_retried_are_told_of(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    mailbox = Mailbox()
    sensor = Watched(failure_sensor(mailbox, experiments=["failing"], name="mine"), instance)
    assert sensor.sensor.name == "mine"
    sensor.look()
    run(instance, failing(tmp_path, "another"))
    run(instance, failing(tmp_path), {"dagster/will_retry": "true"})

    @op
    def other() -> None:
        raise ValueError

    @job
    def foreign() -> None:
        other()

    foreign.execute_in_process(instance=instance, raise_on_error=False)
    failed = run(instance, failing(tmp_path))
    sensor.look()
    assert mailbox.keys == [f"{failed} run_failed"]


def held_up(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, when: Callable[..., bool]) -> tuple[Event, Event]:
    """The call of `target.name` that `when` accepts says that it was made, and then waits until it may go on."""
    made, go_on, real = Event(), Event(), getattr(target, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            made.set()
            assert go_on.wait(120)
        return real(*arguments, **named)

    monkeypatch.setattr(target, name, call)
    return made, go_on


def test_a_failure_whose_run_has_no_status_yet_is_told_of_when_it_has(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = Mailbox()
    sensor = Watched(failure_sensor(mailbox), instance)
    sensor.look()
    # Dagster stores the event first, and then the status.
    made, go_on = held_up(
        monkeypatch,
        instance.run_storage,
        "handle_run_event",
        lambda _, event, *__: event.event_type is DagsterEventType.RUN_FAILURE,
    )
    running = Thread(target=run, args=(instance, failing(tmp_path)))
    running.start()
    assert made.wait(120)
    sensor.look()
    assert sensor.said == "0 reported, 1 not yet, because Dagster is still recording the end"
    go_on.set()
    running.join()
    (failed,) = instance.get_run_ids()
    for _ in range(3):
        sensor.look()
    assert mailbox.keys == [f"{failed} run_failed"]


def test_a_failure_whose_process_died_before_it_set_the_status_is_told_of(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = Mailbox()
    sensor = Watched(failure_sensor(mailbox), instance)
    sensor.look()
    keep = instance.run_storage.handle_run_event

    def all_but_the_failure(run_id: str, event: DagsterEvent, *more: Any) -> None:
        if event.event_type is not DagsterEventType.RUN_FAILURE:
            keep(run_id, event, *more)

    monkeypatch.setattr(instance.run_storage, "handle_run_event", all_but_the_failure)
    failed = run(instance, failing(tmp_path))
    sensor.look()
    assert mailbox.keys == []
    mailbox.broken = 1
    monkeypatch.setattr(alerts, "SETTLES", 0.0)
    sensor.look()
    assert sensor.said == "0 reported, 1 to be tried again, because the notifier raised"
    sensor.look()
    sensor.look()
    assert mailbox.keys == [f"{failed} run_failed"]


def test_a_run_that_will_be_retried_is_not_told_of_before_dagster_has_said_so(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = Mailbox()
    sensor = Watched(failure_sensor(mailbox), instance)
    sensor.look()
    add_settings(Path(instance.root_directory), {"run_retries": {"enabled": True, "max_retries": 1}})
    with DagsterInstance.from_config(instance.root_directory) as retrying:
        sensor.instance = retrying
        made, go_on = held_up(
            monkeypatch, retrying.run_storage, "add_run_tags", lambda _, tags: "dagster/will_retry" in tags
        )
        running = Thread(target=run, args=(retrying, failing(tmp_path)))
        running.start()
        assert made.wait(120)
        sensor.look()
        assert sensor.said == "0 reported, 1 not yet, because Dagster is still recording the end"
        go_on.set()
        running.join()
        sensor.look()
    assert sensor.said == "0 reported"
    assert mailbox.keys == []


def test_a_failure_that_can_be_seen_after_a_later_one_is_told_of(instance: DagsterInstance, tmp_path: Path) -> None:
    mailbox = Mailbox()
    sensor = Watched(failure_sensor(mailbox), instance)
    sensor.look()
    first, second = run(instance, failing(tmp_path)), run(instance, failing(tmp_path))
    # As two transactions of PostgreSQL, of which the first takes its id first and commits last.
    storage: Any = instance.event_log_storage
    rows = "FROM event_logs WHERE dagster_event_type = 'PIPELINE_FAILURE'"
    with storage.index_connection() as connection:
        connection.exec_driver_sql(f"CREATE TABLE aside AS SELECT * {rows} ORDER BY id LIMIT 1")
        connection.exec_driver_sql("DELETE FROM event_logs WHERE id IN (SELECT id FROM aside)")
    sensor.look()
    assert mailbox.keys == [f"{second} run_failed"]
    with storage.index_connection() as connection:
        connection.exec_driver_sql("INSERT INTO event_logs SELECT * FROM aside")
        connection.exec_driver_sql("DROP TABLE aside")
    sensor.look()
    sensor.look()
    assert mailbox.keys == [f"{second} run_failed", f"{first} run_failed"]

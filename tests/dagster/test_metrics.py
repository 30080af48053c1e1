"""`crucible metrics`: the figures are right, Prometheus reads them, and the rules and the dashboard ask for them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml
from click.testing import CliRunner
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.types import DaemonHeartbeat
from postgres import Postgres, dagster_home, free_port
from stages_for_tests import experiment_of, registry

from crucible_core import StageFailedError
from crucible_dagster import execute_experiment
from crucible_dagster.cli.metrics import MetricsServer, metrics
from crucible_dagster.dagster_internals import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.upkeep.metrics import CONTENT_TYPE, METRICS, Meter, exposition

MONITORING = Path(__file__).parent.parent.parent / "deploy" / "monitoring"
SAMPLE = re.compile(r'(?P<name>[a-z_]+)(?:\{(?P<labels>(?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*)\})? (?P<value>\S+)')


def read(text: str) -> dict[str, float]:
    """Name with labels -> value; every other line is a help or a type, before the samples of its metric."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            assert line.split()[1] in {"HELP", "TYPE"}
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        found[line.rpartition(" ")[0]] = float(sample["value"])
    return found


def name_of(sample: str) -> str:
    return sample.partition("{")[0]


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dagster_home(home, "sqlite"), DagsterInstance.get() as opened:
        yield opened


def run(instance: DagsterInstance, *pipeline: Any, id: str) -> str:
    return execute_experiment(experiment_of(*pipeline, id=id), registry=registry(), instance=instance).run_id


def unfinished(instance: DagsterInstance, status: DagsterRunStatus) -> str:
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("lab"), "__repository__"), "lab")
    return create_run_for_test(instance, "lab", status=status, remote_job_origin=origin).run_id


def promtool(*arguments: str, stdin: str | None = None) -> None:
    """What Prometheus's own program says, where it is installed; what else these tests assert holds without it."""
    program = shutil.which("promtool")
    if program is not None:
        done = subprocess.run([program, *arguments], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_figures_are_those_of_the_instance_and_prometheus_reads_them(instance: DagsterInstance) -> None:
    store = open_store(instance)
    measure = {"name": "measure", "options": {"value": 0.25}}
    ran = run(instance, measure, id="lab")
    with pytest.raises(StageFailedError):
        run(instance, "fail", id="another")
    unfinished(instance, DagsterRunStatus.QUEUED)
    silent = unfinished(instance, DagsterRunStatus.STARTED)
    store.beat(silent)
    os.utime(Path(str(store.base)) / "heartbeats" / silent, (time.time() - 500, time.time() - 500))
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 10, "SENSOR", "a", []))
    done = CliRunner().invoke(metrics, [])
    assert done.exit_code == 0, done.output
    found = read(done.stdout)
    assert {name_of(one) for one in found} == METRICS.keys()
    expected = {
        "crucible_database_up": 1,
        "crucible_store_up": 1,
        "crucible_daemon_up": 1,
        'crucible_runs{status="succeeded"}': 1,
        'crucible_runs{status="failed"}': 1,
        'crucible_runs{status="queued"}': 1,
        'crucible_runs{status="running"}': 1,
        'crucible_runs{status="canceled"}': 0,
        "crucible_runs_silent": 1,
        "crucible_instigators_on": 0,
        'crucible_last_run_succeeded{experiment="lab"}': 1,
        'crucible_last_run_succeeded{experiment="another"}': 0,
        "crucible_store_runs": len(store.runs()),
        'crucible_store_bytes{folder="runs"}': sum(info.size for info in store.files.list("runs")),
        'crucible_store_files{folder="heartbeats"}': 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert 499 < found["crucible_run_heartbeat_oldest_seconds"] < 600
    assert 9 < found['crucible_daemon_heartbeat_age_seconds{daemon="sensor"}'] < 60
    assert 0 <= found["crucible_queue_oldest_seconds"] < 60
    record = instance.get_run_record_by_id(ran)
    assert record is not None
    assert found['crucible_last_run_end_timestamp_seconds{experiment="lab"}'] == record.end_time
    taken = found['crucible_last_run_seconds{experiment="lab"}']
    assert 0 < found['crucible_last_stage_seconds{experiment="lab",stage="measure"}'] <= taken
    promtool("check", "metrics", stdin=done.stdout)


def test_labels_are_escaped() -> None:
    text = exposition([("crucible_last_run_succeeded", {"experiment": 'a"b\\c\nd'}, 1.0)])
    assert text.splitlines()[-1] == 'crucible_last_run_succeeded{experiment="a\\"b\\\\c\\nd"} 1.0'
    assert len(read(text)) == 1
    promtool("check", "metrics", stdin=text)


@contextmanager
def serving(meter: Meter) -> Iterator[str]:
    with MetricsServer(("127.0.0.1", 0), meter) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_it_serves_the_figures_and_nothing_else(instance: DagsterInstance) -> None:
    run(instance, "nothing", id="lab")
    meter = Meter(instance, open_store(instance), store_every=3_600)
    with serving(meter) as address:
        with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, CONTENT_TYPE)
            first = read(answer.read().decode())
        for path, data, code in (("/", None, 404), ("/metrics/../etc", None, 404), ("/metrics", b"x", 501)):
            with pytest.raises(HTTPError) as refused:
                urllib.request.urlopen(f"{address}{path}", data=data, timeout=60)
            assert refused.value.code == code
            refused.value.close()
        run(instance, "nothing", id="lab")
        second = read(urllib.request.urlopen(f"{address}/metrics", timeout=60).read().decode())
    runs, measured = 'crucible_runs{status="succeeded"}', "crucible_store_measured_timestamp_seconds"
    assert (first[runs], second[runs]) == (1, 2)
    assert first[measured] == second[measured], "the store is measured once an hour"
    assert first["crucible_store_runs"] == second["crucible_store_runs"] == 1


def test_a_database_that_is_away_is_a_figure(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dagster_home(tmp_path, "postgres", postgres):
        assert read(CliRunner().invoke(metrics, []).stdout)["crucible_database_up"] == 1
        monkeypatch.setenv("DAGSTER_PG_PORT", str(free_port()))
        found = read(CliRunner().invoke(metrics, []).stdout)
    assert (found["crucible_database_up"], found["crucible_store_up"]) == (0, 1)
    assert not any(one.startswith("crucible_runs") for one in found)


def test_the_rules_and_the_dashboard_ask_for_figures_that_there_are() -> None:
    rules = yaml.safe_load((MONITORING / "crucible_rules.yml").read_text())["groups"][0]["rules"]
    board = json.loads((MONITORING / "dashboard.json").read_text())
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    names = {name for one in asked for name in re.findall(r"\bcrucible_[a-z_]+", one)}
    assert names <= METRICS.keys()
    # Nobody looks at a figure that is in neither.
    rest = {"crucible_info", "crucible_scrape_seconds", "crucible_store_files", "crucible_store_runs"}
    rest |= {"crucible_store_measured_timestamp_seconds", "crucible_last_run_end_timestamp_seconds"}
    assert METRICS.keys() - names == rest
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    promtool("check", "rules", str(MONITORING / "crucible_rules.yml"))
    promtool("check", "config", str(MONITORING / "prometheus.yml"))

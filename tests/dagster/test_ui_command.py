"""`crucible ui`: the runs of the command line, one home, one settings file, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import commands
import psutil
import pytest
from dagster import DagsterInstance
from dagster._core.storage.runs import SqliteRunStorage

import crucible_dagster
from crucible_dagster.cli.ui import _migrate, _pass_on, _wait_for
from crucible_dagster.execution import OLD_SETTINGS, open_instance

CRUCIBLE = str(Path(sys.executable).with_name("crucible"))
SETTINGS = Path(crucible_dagster.__file__).parent / "local" / "dagster.yaml"
EXPERIMENT = "id: mine\npipeline: [{name: report}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(EXPERIMENT)
    (tmp_path / "experiments" / "zone.yaml").write_text(f"{EXPERIMENT}schedule: {{cron: '@daily', timezone: Mars}}\n")
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(port: int, query: str) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def test_it_shows_the_runs_of_the_command_line_says_four_lines_and_leaves_nothing_behind(
    folder: Path, environment: dict[str, str]
) -> None:
    ran = commands.crucible("run", "experiments/mine.yaml", "--dagster", "--json", cwd=folder, env=environment)
    assert ran.returncode == 0, ran.stderr
    run_id = json.loads(ran.stdout)["run_id"]
    port = free_port()
    shown = subprocess.Popen(
        [CRUCIBLE, "ui", "experiments", "--port", str(port)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert shown.stdout is not None
        said = [shown.stdout.readline() for _ in range(4)]
        assert said[0] == f"Dagster's UI: http://localhost:{port}\n"
        assert [line.split()[0] for line in said[1:]] == ["experiments", "runs", "to"]
        assert str(folder / ".crucible" / "dagster") in said[2]
        job = '{repositoryName:"__repository__",repositoryLocationName:"crucible",pipelineName:"mine"}'
        answer = ask(port, f"{{ pipelineOrError(params:{job}) {{ ... on Pipeline {{ runs {{ runId }} }} }} }}")
        assert run_id in answer
        assert "broken_zone" in ask(
            port, "{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }"
        )
        children = psutil.Process(shown.pid).children(recursive=True)
        assert len(children) >= 3  # webserver, daemon, code server
        shown.send_signal(signal.SIGINT)
        rest, errors = shown.communicate(timeout=90)
    finally:
        shown.kill()
        shown.wait()
    assert shown.returncode == 130
    assert rest == ""
    (warning,) = errors.splitlines()
    assert warning.startswith("warning: this file is left out: ")
    assert "'Mars' is not an IANA time zone" in warning
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    assert (folder / ".crucible" / "dagster" / "dagster.yaml").read_text() == SETTINGS.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no experiment file"),
        (["experiments", "--port", "PORT"], "cannot be used (Address already in use): choose another with --port"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    folder: Path, environment: dict[str, str], arguments: list[str], said: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = [str(taken.getsockname()[1]) if one == "PORT" else one for one in arguments]
        ran = commands.crucible("ui", *given, cwd=folder, env=environment)
    assert ran.returncode != 0
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (folder / ".crucible").exists()


def test_the_settings_of_an_earlier_version_are_replaced_and_those_of_the_user_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / ".crucible" / "dagster" / "dagster.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text(OLD_SETTINGS)
    open_instance().dispose()
    assert settings.read_text() == SETTINGS.read_text()
    own = "telemetry: {enabled: false}\n"
    settings.write_text(own)
    open_instance().dispose()
    assert settings.read_text() == own


def test_a_database_of_an_earlier_version_is_migrated_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        storage = instance.run_storage
        assert isinstance(storage, SqliteRunStorage)
        instance.get_runs_count()
        before, head = storage.alembic_version()
        assert before == head
        with storage.connect() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '6d366a41b4be'")
        assert storage.alembic_version()[0] != head
        capfd.readouterr()
        _migrate(instance)
        assert storage.alembic_version()[0] == head
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_it_says_that_dagster_is_starting_if_that_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crucible_dagster.cli.ui.QUIET", 0.1)
    for on_a_terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=on_a_terminal: shown)
        slow = [sys.executable, "-c", "import time; time.sleep(1); raise SystemExit(3)"]
        with subprocess.Popen(slow, text=True) as server, pytest.raises(SystemExit):
            _wait_for(server, free_port())
        *starting, failed = capsys.readouterr().err.splitlines()
        assert starting == ["Dagster is starting; the first time this can take a minute"] * on_a_terminal
        assert failed == "error: Dagster ended with exit code 3 before its UI was ready"


def test_of_what_dagster_says_its_warnings_are_passed_on_once(capsys: pytest.CaptureFixture[str]) -> None:
    run = "mine - 142a3331-ab01-4e98-98f1-587dd479a886 - 14818"
    stamp = "2026-11-27 17:12:13 +0000 - dagster"
    _pass_on(
        [
            "/lib/dagster/cli.py:1: SupersessionWarning: use dg dev\n",
            "  superseded(context)\n",
            f"\x1b[32m{stamp}.builtin.crucible\x1b[0m - \x1b[33mWARNING\x1b[0m - left out: a.yaml\n",
            "left out: a.yaml\n",
            f"{stamp} - DEBUG - {run} - RUN_START - Started\n",
            f"{stamp} - ERROR - {run} - step - STEP_FAILURE - Execution failed.\n",
            "\n",
            "  File x, line 1\n",
            f"{stamp}.daemon.SensorDaemon - ERROR - the sensor broke\n",
            "  File y, line 2\n",
            "Aborted!\n",
        ]
    )
    assert capsys.readouterr().err.splitlines() == [
        "warning: left out: a.yaml",
        "error: the sensor broke",
        "  File y, line 2",
    ]

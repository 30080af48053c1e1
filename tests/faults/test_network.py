"""The network between the process of a run and its store is cut: a network namespace, where that is permitted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from children import PATH
from dagster import DagsterInstance
from fault_stages import wait_for
from postgres import dagster_home

from crucible_core import Experiment, run_experiment
from crucible_dagster import History
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store

NAME = f"crucible{os.getpid()}"
OUTSIDE, INSIDE = "10.213.7.1", "10.213.7.2"


def ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


class Network:
    """A namespace with one line to the rest of this machine, where a service that speaks S3 is."""

    inside = ("ip", "netns", "exec", NAME)

    def cut(self, cut: bool) -> None:
        assert ip("link", "set", f"{NAME[-8:]}o", "down" if cut else "up")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    from moto.server import ThreadedMotoServer

    line = NAME[-8:]
    with ExitStack() as stack:
        if not ip("netns", "add", NAME):
            pytest.skip("network namespaces are not permitted here")
        stack.callback(ip, "netns", "del", NAME)  # with the line
        made = [
            ip("link", "add", f"{line}o", "type", "veth", "peer", "name", f"{line}i"),
            ip("link", "set", f"{line}i", "netns", NAME),
            ip("addr", "add", f"{OUTSIDE}/30", "dev", f"{line}o"),
            ip("link", "set", f"{line}o", "up"),
            ip("-n", NAME, "addr", "add", f"{INSIDE}/30", "dev", f"{line}i"),
            ip("-n", NAME, "link", "set", f"{line}i", "up"),
            ip("-n", NAME, "link", "set", "lo", "up"),
        ]
        assert all(made), made
        server = ThreadedMotoServer(ip_address=OUTSIDE, port=0, verbose=False)
        server.start()
        stack.callback(server.stop)
        _, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{OUTSIDE}:{port}",
            "CRUCIBLE_STORE": "s3://crucible-cut",
        }.items():
            monkeypatch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem().mkdir("crucible-cut")
        yield Network()


@pytest.mark.fault("the network between worker and store is cut")
@pytest.mark.all_faults
def test_a_run_whose_store_cannot_be_reached_for_five_seconds_goes_on(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    stages = [
        {"name": one, "module": f"fault_stages:{one}", "options": {"folder": str(marks)}}
        for one in ("numbers", "decide_around", "total")
    ]
    described = Experiment.model_validate({"id": "cut", "pipeline": stages})
    (tmp_path / "cut.json").write_text(described.to_json())
    (tmp_path / "home").mkdir()
    with dagster_home(tmp_path / "home", "sqlite") as home, DagsterInstance.from_config(str(home)) as instance:
        environment = {**os.environ, "PYTHONPATH": PATH, "DAGSTER_HOME": str(home)}
        command = [str(Path(sys.executable).with_name("crucible")), "run", "cut.json", "--dagster", "--json"]
        with subprocess.Popen(
            [*network.inside, *command],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            wait_for(marks / "held")
            network.cut(True)
            (marks / "go").touch()
            time.sleep(2)
            (marks / "back").touch()
            time.sleep(3)
            network.cut(False)
            said, errors = running.communicate(timeout=300)
        assert running.returncode == 0, errors
        context = History(instance).context(json.loads(said)["run_id"])
        assert [one.decision for one in context.trace.decisions] == ["before", "during", "after"]
        assert (marks / "executed").read_text().split() == ["numbers", "decide_around", "total"]
        assert run_experiment(described).differences(context) == ()
        assert verify_store(open_store(instance)).problems == ()

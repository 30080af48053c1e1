"""Runs in MLflow, on a server of its own with SQLite: what is read back is what History has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from click.testing import CliRunner
from dagster import DagsterInstance

from crucible_adapters.mlflow import MlflowObserver
from crucible_adapters.mlflow.export import export_context
from crucible_adapters.mlflow.tracked_run import name_in_mlflow
from crucible_core import Context, Experiment, GateFailedError, RunInterrupted, StageFailedError, run_experiment, stage
from crucible_core.cli import main
from crucible_core.metrics import results
from crucible_core.registry import Registry, builtin_registry
from crucible_dagster import execute_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

HERE = Path(__file__).parent
PATIENCE = 300.0
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mlflow")]  # one server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log").open("w") as log:
        # Without the queue of jobs, which is further processes.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process, folder / "log")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture
def client(server: str) -> MlflowClient:
    from mlflow import MlflowClient  # as long as Dagster to import, and only one worker needs it

    return MlflowClient(server)


def experiment_of(*pipeline: dict[str, Any] | str, name: str | None = None, **fields: Any) -> Experiment:
    stages = [{"name": one} if isinstance(one, str) else one for one in pipeline]
    for one in stages:
        if one["name"] in ("measure", "write", "breaks"):
            one["module"] = f"mlflow_stages:{one['name']}"
    return Experiment.model_validate({"id": name or f"e-{uuid.uuid4().hex[:8]}", "pipeline": stages, **fields})


@pytest.fixture(autouse=True)
def stages_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{HERE.parents[1]}")


def only_run(client: MlflowClient, experiment: str) -> Run:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    [run] = client.search_runs([found.experiment_id])
    return run


def assert_same_numbers(run: Run, ctx: Context) -> None:
    assert run.data.metrics == {name_in_mlflow(name): number for name, number in results(ctx)}


GATES = [
    {"name": "low", "metric": "third", "at_most": 0.7},
    {"name": "sure", "metric": "third", "at_most": 0.1, "severity": "warn"},
]


@pytest.mark.parametrize("runs", [20, pytest.param(100, marks=pytest.mark.all_faults)])
def test_every_number_of_many_runs_is_read_back_as_it_was(server: str, client: MlflowClient, runs: int) -> None:
    observer = MlflowObserver(server)
    name = f"runs-{runs}"
    kept: dict[str, Context] = {}
    for seed in range(runs):
        pipeline = {"name": "measure", "options": {"seed": seed, "rate": seed / 7}}
        ctx = run_experiment(experiment_of(pipeline, "bench", "write", name=name), observers=[observer])
        kept[ctx.run_id] = ctx
    found = client.search_runs([client.get_experiment_by_name(name).experiment_id], max_results=1_000)
    assert len(found) == runs
    for run in found:
        ctx = kept[run.data.tags["crucible.run_id"]]
        assert run.info.status == "FINISHED"
        assert_same_numbers(run, ctx)
        assert len(run.data.metrics) > 10
        assert float(run.data.params["measure.rate"]) == ctx.assigns["rate"]
        assert run.data.tags["crucible.finding"] == run.data.tags["mlflow.note.content"] != ""


class Ran(NamedTuple):
    experiment: Experiment
    context: Context


def run_everything(world: str, server: str, monkeypatch: pytest.MonkeyPatch) -> Ran:
    experiment = experiment_of(
        {"name": "measure", "options": {"rate": 0.25}}, "bench", "write",
        tags=["nightly", "small"], seed=7, gates=GATES,
    )  # fmt: skip
    if world == "direct":
        return Ran(experiment, run_experiment(experiment, observers=[MlflowObserver(server)]))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    if world == "in_process":
        with DagsterInstance.ephemeral() as instance:
            made = execute_experiment(experiment, instance=instance, observers=[MlflowObserver()])
            return Ran(experiment, made)
    if world == "afterwards":
        return Ran(experiment, execute_experiment(experiment, executor="multiprocess", observers=[MlflowObserver()]))
    monkeypatch.setenv("CRUCIBLE_OBSERVERS", "mlflow")
    return Ran(experiment, execute_experiment(experiment, executor="multiprocess"))


@pytest.mark.parametrize("world", ["direct", "in_process", "afterwards", "multiprocess"])
def test_a_run_is_one_run_of_mlflow_in_every_world(
    world: str, server: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, ctx = run_everything(world, server, monkeypatch)
    run = only_run(client, experiment.id)
    assert run.info.status == "FINISHED"
    assert_same_numbers(run, ctx)
    assert run.data.params == {"measure.rate": "0.25", "seed": "7"}
    tags = run.data.tags
    assert tags["crucible.run_id"] == ctx.run_id
    assert tags["crucible.tags"] == "nightly, small"
    assert tags["crucible.artifact.board"] == "https://example.org/board"
    assert tags["crucible.gate.low"].startswith("passed: ")
    assert tags["crucible.gate.sure"].startswith("failed: ")
    assert tags["crucible.finding"]
    file = client.download_artifacts(run.info.run_id, f"notes/{ctx.run_id}.txt")
    assert Path(file).read_text() == Path(ctx.artifacts["notes"]).read_text()
    if world != "afterwards":  # when the run is over, nobody knows what a number was before
        steps = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "third")]
        assert steps == [(1, 1 / 3), (3, 2 / 3)]


@pytest.mark.parametrize("world", ["direct", "multiprocess"])
def test_a_run_that_fails_is_failed_there_with_what_it_had(
    world: str, server: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_of("measure", "breaks", "write")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("CRUCIBLE_OBSERVERS", "mlflow")

    def run_it() -> Context:
        if world == "direct":
            return run_experiment(experiment, observers=[MlflowObserver()])
        return execute_experiment(experiment, executor="multiprocess")

    with pytest.raises(StageFailedError) as caught:
        run_it()
    run = only_run(client, experiment.id)
    assert run.info.status == "FAILED"
    assert run.data.tags["crucible.failure"] == "stage breaks: ValueError: the loss is NaN"
    assert_same_numbers(run, caught.value.context)


def test_a_blocking_gate_and_an_interrupt_end_it_as_they_end_the_run(server: str, client: MlflowClient) -> None:
    observer = MlflowObserver(server)
    blocked = experiment_of("measure", gates=[{**GATES[0], "at_most": 0.1, "blocking": True}])
    with pytest.raises(GateFailedError):
        run_experiment(blocked, observers=[observer])
    run = only_run(client, blocked.id)
    assert (run.info.status, run.data.tags["crucible.gate.low"][:8]) == ("FAILED", "failed: ")

    @stage
    def stops(ctx: Context) -> Context:
        """Is interrupted."""
        raise KeyboardInterrupt

    stopped = experiment_of("measure", "stops")
    with pytest.raises(RunInterrupted):
        run_experiment(stopped, registry=builtin_registry() | Registry({"stops": stops}), observers=[observer])
    assert only_run(client, stopped.id).info.status == "KILLED"


def test_every_point_of_a_series_is_there(server: str, client: MlflowClient) -> None:
    @stage
    def trains(ctx: Context) -> Context:
        """Logs a curve."""
        for step in range(1_500):
            ctx = ctx.log_metric("curve", 1 / (step + 1), step=step)
        return ctx.put_metric("done", 1)

    experiment = experiment_of("trains")
    registry = builtin_registry() | Registry({"trains": trains})
    run_experiment(experiment, registry=registry, observers=[MlflowObserver(server)])
    run = only_run(client, experiment.id)
    expected = [(step, 1 / (step + 1)) for step in range(1_500)]
    found = sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, "curve"))
    assert found == expected

    ctx = run_experiment(experiment, registry=registry)  # and afterwards
    made = export_context(client, ctx)
    assert sorted((one.step, one.value) for one in client.get_metric_history(made, "curve")) == expected


def test_runs_are_exported_afterwards_and_once(server: str, client: MlflowClient) -> None:
    experiment = experiment_of("measure", "bench", "write", gates=GATES)
    contexts = [execute_experiment(experiment) for _ in range(3)]
    failing = experiment_of("measure", "breaks")
    with pytest.raises(StageFailedError) as caught:
        execute_experiment(failing)
    runs = [*(one.run_id for one in contexts), caught.value.context.run_id[:13]]
    for _ in range(2):
        done = CliRunner().invoke(main, ["export", "mlflow", *runs, "--tracking-uri", server])
        assert done.exit_code == 0, done.output
        assert len(done.output.splitlines()) == 4
    found = client.search_runs([client.get_experiment_by_name(experiment.id).experiment_id])
    assert sorted(one.data.tags["crucible.run_id"] for one in found) == sorted(one.run_id for one in contexts)
    for run in found:
        ctx = next(one for one in contexts if one.run_id == run.data.tags["crucible.run_id"])
        assert_same_numbers(run, ctx)
        assert run.info.start_time == int(ctx.trace.events[0].at.timestamp() * 1_000)
        assert run.info.end_time == int(ctx.trace.events[-1].at.timestamp() * 1_000)
    failed = only_run(client, failing.id)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["crucible.failure"] == "stage breaks: ValueError: the loss is NaN"


def test_an_export_of_a_run_that_is_not_there_says_so(server: str) -> None:
    execute_experiment(experiment_of("measure"))
    done = CliRunner().invoke(main, ["export", "mlflow", "0000", "--tracking-uri", server])
    assert done.exit_code == 2
    assert done.output.startswith("error: ")
    assert len(done.output.splitlines()) == 1


def test_an_export_to_a_server_that_is_away_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ctx = execute_experiment(experiment_of("measure"))
    done = CliRunner().invoke(main, ["export", "mlflow", ctx.run_id, "--tracking-uri", "http://127.0.0.1:9"])
    assert done.exit_code != 0
    assert done.output.startswith(f"error: run {ctx.run_id} cannot be copied to MLflow: ")
    assert "Traceback" not in done.output


def test_a_server_that_is_away_changes_nothing_and_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ctx = run_experiment(experiment_of("measure", "write"), observers=[MlflowObserver("http://127.0.0.1:9")])
    assert ctx.completed_stages == ("measure", "write")
    assert len([one for one in caplog.records if one.name == "crucible"]) == 1


def test_an_observer_that_does_not_exist_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path("e.yaml").write_text("id: e\npipeline: [{name: validate}]\n")
    monkeypatch.setenv("CRUCIBLE_OBSERVERS", "mlfow")
    assert CliRunner().invoke(main, ["run", "e.yaml"]).exit_code == 0
    assert "there is no observer 'mlfow'; installed: mlflow, which CRUCIBLE_OBSERVERS asks for" in caplog.text


def test_the_command_logs_a_run_if_the_environment_asks(
    server: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("CRUCIBLE_OBSERVERS", "mlflow")
    name = f"c-{uuid.uuid4().hex[:8]}"
    Path("e.yaml").write_text(f"id: {name}\npipeline: [{{name: measure, module: 'mlflow_stages:measure'}}]\n")
    assert CliRunner().invoke(main, ["run", "e.yaml"]).exit_code == 0
    assert only_run(client, name).data.metrics["third"] == 1 / 3


@pytest.mark.parametrize(
    ("name", "taken"),
    [("loss", True), ("by class.größte", True), ("a/b", True), ("50 %", False), ("../x", False), ("a//b", False),
     ("", False), ("/a", False), (".", False), ("x" * 251, False), ("\ud800", False)],
)  # fmt: skip
def test_a_name_that_mlflow_does_not_take_is_replaced(
    name: str, taken: bool, server: str, client: MlflowClient
) -> None:
    made = name_in_mlflow(name)
    assert (made == name) is taken
    run = client.create_run("0").info.run_id
    client.log_metric(run, made, 1.0)
    client.set_tag(run, made, "a")
    client.log_param(run, made, "b")
    assert client.get_run(run).data.metrics == {made: 1.0}
    assert name_in_mlflow("50 %") != name_in_mlflow("50 _")

"""One sweep gives the same wherever its trials run: in this process, in others, on Celery's workers, on Dask or Ray."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster_celery.core_execution_loop as celery_loop
import pytest
import yaml
from celery import Celery
from celery_workers import PASSWORD, Redis, Worker, redis_server, wait_until, workers
from dagster import DagsterInstance, DagsterInvalidConfigError, RunsFilter, validate_run_config
from test_executors_agree import (  # noqa: F401  # they are collected here too, to be run on Celery
    test_a_blocking_gate_that_fails_gives_the_same_error_with_the_whole_context,
    test_decisions_and_a_skipped_stage_are_recorded_alike,
    test_every_kind_of_value_comes_back_as_it_was,
    test_retries_are_counted_alike,
    test_the_same_failure_gives_the_same_error_with_the_context_as_it_stood,
    test_what_a_stage_changes_in_place_is_kept,
)
from test_timeouts_dagster import (  # noqa: F401
    test_a_stage_with_a_time_limit_gives_the_same_and_what_it_logs_is_in_the_log_of_the_run,
)
from test_trials_dagster import experiment, ran, rows

from crucible_core import Context, CrucibleError, Experiment, MissingExtraError, load_experiment, run_experiment
from crucible_core.ir.experiment import Execution
from crucible_core.ir.trials import Engine
from crucible_core.trials import engine
from crucible_core.trials.log import FolderFiles, TrialLog
from crucible_dagster import execute_experiment, job_for
from crucible_dagster.execute import celery_executor
from crucible_dagster.rerun.resume import resume_run

EXAMPLES = Path(__file__).parents[2] / "examples"
REPLICATES = 2


@pytest.fixture(scope="module")
def storage() -> str:
    """What Celery's workers need: a database that other machines reach."""
    return "postgres"


@pytest.fixture(scope="module")
def instance(open_instance: Callable[[], AbstractContextManager[DagsterInstance]]) -> Iterator[DagsterInstance]:
    with open_instance() as opened:
        yield opened


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis_server(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture(scope="module")
def celery(
    broker: Redis, instance: DagsterInstance, s3: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Worker, Worker]]:
    """Two workers, and this process set to hand out steps to them."""
    folder = tmp_path_factory.mktemp("celery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(celery_executor.BROKER_VARIABLE, broker.url)
        patch.setenv(celery_executor.BACKEND_VARIABLE, broker.url)
        patch.setenv("CRUCIBLE_STORE", f"{s3}/celery")
        patch.setenv("DAGSTER_HOME", instance.root_directory)
        # Waiting, most of it, for what is there already.
        patch.setattr(celery_loop, "TICK_SECONDS", 0.05)
        with workers(folder, "own") as both:
            yield both


@pytest.fixture
def run(celery: Any, instance: DagsterInstance) -> Callable[[Experiment], Context]:
    """On Celery, for the tests of test_executors_agree."""
    return lambda described: execute_experiment(described, instance=instance, executor="celery")


# --- one suite --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The digits sweep in a folder of its own, with two of its ten replicates."""
    folder = tmp_path_factory.mktemp("digits")
    for name in ("digits_sweep.yaml", "digits_stages.py"):
        shutil.copy(EXAMPLES / "digits" / name, folder / name)
    (folder / "pyproject.toml").touch()  # the project, below which reports are written
    return with_settings(load_experiment(folder / "digits_sweep.yaml"), replicates=REPLICATES)


@pytest.fixture(scope="module")
def expected(sweep: Experiment) -> Context:
    return run_experiment(sweep)


def with_settings(described: Experiment, **settings: Any) -> Experiment:
    """The same with other settings of its trials."""
    assert described.trials is not None
    return described.model_copy(update={"trials": described.trials.model_copy(update=settings)})


def test_the_sweep_of_the_example_has_six_arms_and_ten_replicates() -> None:
    trials = load_experiment(EXAMPLES / "digits" / "digits_sweep.yaml").trials
    assert trials is not None
    assert {name: len(values) for name, values in (trials.grid or {}).items()} == {"train.model": 2, "train.C": 3}
    assert trials.replicates == 10


@pytest.mark.parametrize("executor", ["in_process", "multiprocess", "celery"])
def test_dagster_gives_the_same_sweep(
    sweep: Experiment,
    expected: Context,
    instance: DagsterInstance,
    executor: Any,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if executor == "celery":
        request.getfixturevalue("celery")
    else:
        monkeypatch.delenv("CRUCIBLE_STORE", raising=False)
    found = execute_experiment(sweep, instance=instance, executor=executor, fresh=True)
    check_same(found, expected)


def test_two_processes_give_the_same_sweep(sweep: Experiment, expected: Context) -> None:
    check_same(run_experiment(sweep, jobs=2), expected)


def test_dask_gives_the_same_sweep(sweep: Experiment, expected: Context, dask: str) -> None:
    described = with_settings(sweep, engine=Engine(kind="dask", address=dask), jobs=2)
    check_same(run_experiment(described), expected)


@pytest.fixture(scope="module")
def dask() -> Iterator[str]:
    """The address of a scheduler with two worker processes, none of which is below this process."""
    program = (
        "import sys; from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:\n"
        "        print(cluster.scheduler_address, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


RAY = """
import pickle, sys, ray
from crucible_core import run_experiment
experiment = pickle.load(sys.stdin.buffer)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
context = run_experiment(experiment)
with open(sys.argv[1], "wb") as file:
    pickle.dump(context, file)
"""


@pytest.mark.xdist_group("ray")  # it takes longest to start
def test_ray_gives_the_same_sweep(sweep: Experiment, expected: Context, tmp_path: Path) -> None:
    described = with_settings(sweep, engine=Engine(kind="ray", address="auto"), jobs=2)
    # In a process of its own: Ray keeps threads and connections for as long as there is one.
    command = [sys.executable, "-W", "ignore", "-c", RAY, str(tmp_path / "context")]
    done = subprocess.run(command, input=pickle.dumps(described), capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    check_same(pickle.loads((tmp_path / "context").read_bytes()), expected)


@pytest.mark.parametrize(
    ("kind", "address", "said"),
    [
        ("dask", "tcp://127.0.0.1:1", "the Dask scheduler at tcp://127.0.0.1:1 does not answer: "),
        ("dask", "nowhere", "the Dask scheduler at nowhere does not answer: missing port number"),
        ("ray", "127.0.0.1:1", "the Ray cluster at 127.0.0.1:1 does not answer: "),
        ("ray", "ray://127.0.0.1:1", "the Ray cluster at ray://127.0.0.1:1 does not answer: "),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of Dask's and Ray's own imports
def test_an_address_that_does_not_answer_is_one_sentence_within_seconds(
    kind: str, address: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ANSWER_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(CrucibleError, match=f"^{re.escape(said)}"):
        start_engine(kind, address, tmp_path)
    assert time.monotonic() - began < 30  # Ray by itself: more than a minute, and then it ends the process


@pytest.mark.parametrize(
    ("package", "what", "extra"),
    [
        ("distributed", "running trials on Dask", "dask"),
        ("ray", "running trials on Ray", "ray"),
        ("dagster_celery", "the executor celery", "celery"),
        ("dagster_k8s", "the executor k8s", "k8s"),
    ],
)
def test_what_an_extra_is_needed_for_says_how_to_install_it(
    package: str, what: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, celery_executor.__name__)
    said = f"{what} needs the extra '{extra}': pip install 'crucible-dagster[{extra}]'"
    with pytest.raises(MissingExtraError, match=re.escape(said)):
        start_engine(extra, None, tmp_path) if extra in {"dask", "ray"} else job_for(of_executor(extra))
    declared = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(one.startswith(package.replace("_", "-")) for one in declared[extra])


def start_engine(kind: str, address: str | None, folder: Path) -> None:
    log = TrialLog(FolderFiles(folder), "x", "y")
    list(engine.run_in_processes([], str, dict, log, jobs=2, kind=kind, address=address))  # type: ignore[type-var]


def of_executor(executor: str) -> Experiment:
    stages = [{"name": one, "module": f"trial_stages:{one}"} for one in ("load", "flip")]
    return Experiment.model_validate({"id": "x", "pipeline": stages, "execution": {"executor": executor}})


def check_same(found: Context, expected: Context) -> None:
    """Nothing differs but times and ids: neither the Contexts with their decisions, nor the reports."""
    assert found.run_id != expected.run_id
    assert untimed(found).differences(untimed(expected)) == ()
    assert [one.decision for one in found.trace.decisions] == [one.decision for one in expected.trace.decisions]
    assert report(found) == report(expected)


def untimed(ctx: Context) -> Context:
    return replace(ctx, outputs=rows(ctx))


def report(ctx: Context) -> str:
    """The report without ids, times and what says where the trials run."""
    text = Path(ctx.artifacts["report.markdown"]).read_text().replace(ctx.run_id, "RUN")
    assert text.count("RUN") >= 1
    text = re.sub(r"^\| trials \| \S+ \| (engine|jobs) \| .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"[-0-9]{10} [:0-9]{8} UTC", "TIME", text)
    return re.sub(r"\b[\d.]+ (ms|s|min)\b|(?<=\| succeeded \| )[\d.e-]+", "TIME", text)


# --- Celery -----------------------------------------------------------------------------------------------------------


def test_a_sweep_on_celery_runs_each_trial_once(celery: Any, instance: DagsterInstance, tmp_path: Path) -> None:
    described = on_celery(tmp_path / "once", {"jobs": 2})
    found = execute_experiment(described, instance=instance)
    direct = run_experiment(on_celery(tmp_path / "direct"))
    assert rows(found) == rows(direct)
    assert found.metrics == direct.metrics
    assert len(ran(tmp_path / "once")) == len({*ran(tmp_path / "once")}) == 12
    assert workers_of(instance, found.run_id) == 2
    # The password of the broker is in nothing that Dagster keeps of the run.
    run = instance.get_run_by_id(found.run_id)
    assert run is not None
    logged = [entry.to_json() for entry in instance.all_logs(found.run_id)]
    assert PASSWORD not in "".join([json.dumps(run.run_config), str(run.tags), *logged])


def on_celery(folder: Path, trials: Mapping[str, Any] | None = None, **options: Any) -> Experiment:
    """A sweep that leaves marks in the folder, on Celery by its own word."""
    folder.mkdir()
    made = experiment(folder, trials, **options)
    # Without what imports scipy, in each process that Celery makes for one that was killed.
    pipeline = [one for one in made.to_dict()["pipeline"] if one["name"] not in {"bench", "report"}]
    return Experiment.model_validate({**made.to_dict(), "pipeline": pipeline, "execution": {"executor": "celery"}})


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers are asked more often, so that a dead one is missed within seconds."""
    monkeypatch.setattr(celery_executor, "CHECK_SECONDS", 1.0)


@pytest.mark.usefixtures("hasty")
@pytest.mark.fault("a Celery worker is killed")
def test_what_a_killed_worker_had_is_run_by_another_without_help(
    celery: tuple[Worker, Worker], instance: DagsterInstance, tmp_path: Path
) -> None:
    folder = tmp_path / "marks"
    described = on_celery(folder, seconds=0.4)
    first, _ = celery

    def kill() -> None:
        wait_until(lambda: marks(folder) >= 4)
        first.main.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        ctx = execute_experiment(described, instance=instance)
    finally:
        thread.join()
        first.end()
        first.start()
        first.wait()
    assert rows(ctx) == rows(run_experiment(on_celery(tmp_path / "direct")))
    done = ran(folder)
    assert len({*done}) == 12
    # The one trial that it ran, and no other, was begun twice.
    assert len(done) <= 13
    said = [entry.message for entry in instance.all_logs(ctx.run_id) if "its worker died" in entry.message]
    assert len(said) == 1, said
    assert "another runs what is missing" in said[0]


@pytest.mark.usefixtures("hasty")
@pytest.mark.fault("a Celery worker is killed")
def test_a_run_whose_stage_lost_its_worker_says_so_and_is_resumed(
    celery: tuple[Worker, Worker], instance: DagsterInstance, tmp_path: Path
) -> None:
    folder = tmp_path / "marks"
    folder.mkdir()
    stages = [{"name": one, "module": f"trial_stages:{one}"} for one in ("load", "flip", "mark")]
    stages[2]["options"] = {"folder": str(folder), "kill": 42}  # type: ignore[assignment]
    described = Experiment.model_validate(
        {"id": "dies", "seed": 42, "pipeline": stages, "execution": {"executor": "celery"}}
    )
    with pytest.raises(CrucibleError, match="the Celery worker that ran step 'mark' died; `crucible resume") as failed:
        execute_experiment(described, instance=instance)
    run_id = instance.get_run_records(limit=1)[0].dagster_run.run_id
    assert f"crucible resume {run_id}" in str(failed.value)
    resumed = resume_run(instance, run_id)
    assert resumed.completed_stages == ("load", "flip", "mark")
    assert len(ran(folder)) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
@pytest.mark.all_faults(signal.SIGINT)
def test_a_run_whose_own_process_ends_is_resumed_and_its_steps_stop(
    celery: tuple[Worker, Worker], instance: DagsterInstance, tmp_path: Path, how: signal.Signals
) -> None:
    folder = tmp_path / "marks"
    file = tmp_path / "flips.json"
    file.write_text(on_celery(folder, seconds=0.4).to_json())
    (tmp_path / "pyproject.toml").touch()
    program = (
        f"import sys; sys.path.append({str(Path(__file__).parents[1])!r}); from crucible_core.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "run", str(file), "--dagster"]
    environment = {**os.environ, "DAGSTER_HOME": instance.root_directory}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: marks(folder) >= 3)
        process.send_signal(how)
        process.wait(timeout=60)
    run_id = instance.get_run_records(limit=1)[0].dagster_run.run_id
    resumed = resume_run(instance, run_id)
    assert resumed.metrics["trials"]["succeeded"] == 12
    done = ran(folder)
    assert len({*done}) == 12
    # Each worker is within two seconds done with what nobody waits for.
    assert len(done) <= 12 + 2 * (1 + 2 / 0.4)


def test_the_steps_of_a_queue_go_to_the_workers_that_listen_to_it(
    celery: tuple[Worker, Worker], instance: DagsterInstance
) -> None:
    stages = [{"name": one, "module": f"trial_stages:{one}"} for one in ("load", "flip")]
    execution = {"executor": "celery", "queue": "own"}
    described = Experiment.model_validate({"id": "queued", "pipeline": stages, "execution": execution})
    ctx = execute_experiment(described, instance=instance)
    submitted = [one.message for one in instance.all_logs(ctx.run_id) if "Submitting celery task" in one.message]
    assert len(submitted) == 2
    assert all('queue "own"' in one for one in submitted)


@pytest.mark.parametrize(
    "execution", [{"executor": "celery", "max_concurrent": 2}, {"executor": "multiprocess", "queue": "own"}]
)
def test_a_setting_of_another_executor_is_refused(execution: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is (not )?for the executor celery"):
        Experiment.model_validate({"id": "x", "pipeline": [{"name": "bench"}], "execution": execution})


@contextmanager
def beside(act: Callable[[], None]) -> Iterator[None]:
    """Act in a thread of its own meanwhile. Raises what it raised."""
    with ThreadPoolExecutor() as pool:
        acted = pool.submit(act)
        yield
        acted.result()


@pytest.mark.usefixtures("hasty", "celery")
@pytest.mark.fault("the broker is restarted")
@pytest.mark.all_faults  # always run: the next two
def test_a_broker_that_is_restarted_while_trials_run_costs_none(
    broker: Redis, instance: DagsterInstance, tmp_path: Path
) -> None:
    folder = tmp_path / "marks"
    described = on_celery(folder, seconds=0.4)
    with beside(lambda: restart(broker, lambda: marks(folder) >= 4, away=3.0)):
        found = execute_experiment(described, instance=instance)
    assert rows(found) == rows(run_experiment(on_celery(tmp_path / "direct")))
    assert len(ran(folder)) == len({*ran(folder)}) == 12


@pytest.mark.usefixtures("hasty", "celery")
@pytest.mark.fault("the broker is restarted")
def test_a_stage_that_ends_while_the_broker_is_away_has_ended(
    broker: Redis, instance: DagsterInstance, tmp_path: Path
) -> None:
    stages = [{"name": one, "module": f"trial_stages:{one}"} for one in ("load", "flip", "mark")]
    stages[2]["options"] = {"folder": str(tmp_path), "seconds": 2.0}  # type: ignore[assignment]
    described = Experiment.model_validate(
        {"id": "ends", "seed": 42, "pipeline": stages, "execution": {"executor": "celery"}}
    )
    with beside(lambda: restart(broker, lambda: marks(tmp_path) == 1, away=5.0)):
        found = execute_experiment(described, instance=instance)
    assert found.completed_stages == ("load", "flip", "mark")
    assert len(ran(tmp_path)) == 1
    assert "does not answer; the steps wait for it" in said(instance, "ends")


def marks(folder: Path) -> int:
    """How many times `mark` ran."""
    return len(ran(folder)) if (folder / "ran").exists() else 0


def restart(broker: Redis, when: Callable[[], bool], away: float) -> None:
    """Kill it when that is so, and start it again so many seconds later."""
    wait_until(when)
    broker.kill()
    time.sleep(away)
    broker.start()


@pytest.mark.usefixtures("hasty", "celery")
@pytest.mark.fault("the broker is restarted")
def test_a_step_that_a_broker_forgot_before_a_worker_had_it_is_handed_out_again(
    broker: Redis, instance: DagsterInstance
) -> None:
    stages = [{"name": one, "module": f"trial_stages:{one}"} for one in ("load", "flip")]
    execution = {"executor": "celery", "queue": "later"}
    described = Experiment.model_validate({"id": "forgotten", "pipeline": stages, "execution": execution})

    def forget() -> None:
        restart(broker, lambda: broker.has_key("later*"), away=0.5)
        wait_until(lambda: "handed out again" in said(instance, described.id))
        with Celery(broker=broker.url) as app:
            wait_until(lambda: app.control.add_consumer("later", reply=True))

    with beside(forget):
        found = execute_experiment(described, instance=instance)
    assert found.completed_stages == ("load", "flip")
    assert said(instance, described.id).count("it is handed out again") == 1


def said(instance: DagsterInstance, job: str) -> str:
    """What the log of its runs says; nothing before there is one."""
    runs = instance.get_runs(RunsFilter(job_name=job))
    return "\n".join(entry.message for run in runs for entry in instance.all_logs(run.run_id))


@pytest.mark.fault("the broker is restarted")
def test_a_broker_that_is_not_set_or_does_not_answer_is_one_sentence(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = on_celery(tmp_path / "marks")
    for name in (celery_executor.BROKER_VARIABLE, celery_executor.BACKEND_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CrucibleError, match="needs a broker and a result backend: set the environment variables"):
        execute_experiment(described, instance=instance)
    for name in (celery_executor.BROKER_VARIABLE, celery_executor.BACKEND_VARIABLE):
        monkeypatch.setenv(name, f"redis://:{PASSWORD}@127.0.0.1:1/0")
    began = time.monotonic()
    with pytest.raises(
        CrucibleError, match=r"the Celery broker at redis://:\*\*@127.0.0.1:1/0 does not answer"
    ) as failed:
        execute_experiment(described, instance=instance)
    assert time.monotonic() - began < 20
    assert PASSWORD not in str(failed.value)


def workers_of(instance: DagsterInstance, run_id: str) -> int:
    """How many workers have run steps of the run."""
    events = [entry.dagster_event for entry in instance.all_logs(run_id) if "in celery worker" in entry.message]
    return len({one.event_specific_data.metadata["Celery worker"].value for one in events})  # type: ignore[union-attr]


def test_secret_options_are_refused_where_they_do_not_reach(instance: DagsterInstance, tmp_path: Path) -> None:
    stage = {"name": "secret", "module": "agreement_stages:Secret", "options": {"password": "hush"}}
    described = Experiment.model_validate({"id": "x", "pipeline": [stage]})
    with pytest.raises(CrucibleError, match="secret options do not reach the workers of the executor celery"):
        execute_experiment(described, instance=instance, executor="celery")


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def test_the_run_config_for_kubernetes_is_that_of_its_executor() -> None:
    """What docs/trials.md shows, checked by the schema of dagster-k8s."""
    page = (EXAMPLES.parent / "docs" / "trials.md").read_text()
    section = page[page.index("### Kubernetes") :]
    in_file, run_config = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[:2])
    described = of_executor("k8s").model_copy(update={"execution": Execution.model_validate(in_file["execution"])})
    job = job_for(described)
    assert validate_run_config(job)["execution"]["crucible"]["k8s"]["max_concurrent"] == 8
    validated = validate_run_config(job, run_config)["execution"]["crucible"]["k8s"]
    assert validated["job_namespace"] == "crucible"
    assert set(run_config["execution"]["config"]["k8s"]) <= set(validated)
    run_config["execution"]["config"]["k8s"]["job_nmespace"] = "crucible"
    with pytest.raises(DagsterInvalidConfigError, match="job_nmespace"):
        validate_run_config(job, run_config)

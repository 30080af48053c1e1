"""deploy/: what a machine without docker can show of it.

The compose file is held against its schema, and the image's install steps run in an environment of their own, which
then runs an experiment on a real PostgreSQL server. test_up.py starts the services.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from children import clean_environment
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test, create_test_daemon_workspace_context
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.concurrency import execute_concurrency_slots_iteration
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from postgres import DEPLOYED, Postgres, dagster_home

from crucible_core import Experiment
from crucible_dagster import execute_experiment
from deploy.local.topology import PORTS

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
PACKAGES = ("crucible_adapters", "crucible_bench", "crucible_core", "crucible_dagster")

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}

VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::?([-?])([^}]*))?\}")

pytestmark = pytest.mark.xdist_group("deploy")  # one installation for them all


# --- the compose file ------------------------------------------------------------------------------------------------


def test_the_compose_file_follows_the_schema_of_compose_files() -> None:
    checked = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_schema_check_refuses_what_compose_would(tmp_path: Path) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    (tmp_path / "compose.yaml").write_text(text.replace("condition: service_healthy", "condition: healthy", 1))
    checked = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", tmp_path / "compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1


def test_whatever_is_waited_for_is_there_and_can_tell() -> None:
    waited_for = {
        (name, condition["condition"])
        for service in SERVICES.values()
        for name, condition in service.get("depends_on", {}).items()
    }
    assert {name for name, condition in waited_for if condition == "service_completed_successfully"} == {"migrate"}
    for name, condition in waited_for:
        assert name in SERVICES
        assert condition != "service_healthy" or SERVICES[name]["healthcheck"]["test"]


def test_nothing_starts_before_the_tables_are_made() -> None:
    assert SERVICES["migrate"]["command"] == ["dagster", "instance", "migrate"]
    for name in OURS.keys() - {"migrate"}:
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_only_the_proxy_is_reached_from_outside_and_only_from_this_machine_unless_told_otherwise() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"proxy": ["${CRUCIBLE_ADDRESS:-127.0.0.1}:${CRUCIBLE_PORT:-3000}:8080"]}


def test_a_port_means_one_service_in_the_whole_file() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert {name for name in SERVICES if re.search(rf"\b{name}:\d", text)} <= PORTS.keys() <= SERVICES.keys()
    assert len(set(PORTS.values())) == len(PORTS)


def test_there_can_be_only_one_daemon() -> None:
    assert "crucible_dagster.service.daemon" in SERVICES["daemon"]["command"]
    assert not [name for name, service in SERVICES.items() if "dagster-daemon" in service.get("command", ())]


def test_every_volume_is_declared_and_its_folder_is_made_in_the_image_with_its_owner() -> None:
    mounted = {tuple(volume.rsplit(":", 1)) for service in OURS.values() for volume in service["volumes"]}
    named = {name: path for name, path in mounted if name in COMPOSE["volumes"]}
    made = re.search(r"install -d -o crucible -g crucible -m 0700 ([^&]+)", instructions("RUN", final=True)[0])
    assert made is not None
    assert set(made[1].split()) == set(named.values())
    assert named.keys() | {"database", "logins"} == COMPOSE["volumes"].keys()
    # What the proxy reads as a member of the group.
    assert "install -d -o crucible -g crucible -m 0750 /srv/logins" in instructions("RUN", final=True)[0]
    assert SERVICES["proxy"]["user"].split(":")[1] == instructions("USER", final=True)[0].split(":")[1]
    assert SERVICES["database"]["volumes"] == ["database:/var/lib/postgresql"]


def test_no_secret_is_in_a_file_and_the_example_has_every_setting_with_its_default() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            secrets = ("${DAGSTER_PG_PASSWORD:?set it in .env}", "${CRUCIBLE_REDIS_PASSWORD-}")
            assert "PASSWORD" not in name or value in secrets
    settings = {name: default if kind == "-" else "" for name, kind, default in VARIABLE.findall(text)}
    settings = {name: "" if default == "/dev/null" else default for name, default in settings.items()}
    example = re.findall(r"(?m)^#?([A-Z_]+)=(.*)$", (DEPLOY / ".env.example").read_text())
    assert dict(example) == settings


@pytest.mark.parametrize("file", ["dagster.yaml", "workspace.yaml"])
def test_every_service_is_given_what_the_settings_take_from_the_environment(file: str) -> None:
    wanted = set(re.findall(r"\{env: (\w+)\}", (DEPLOY / file).read_text()))
    assert wanted
    for service in OURS.values():
        assert wanted <= service["environment"].keys()


def test_the_database_is_of_the_version_that_the_tests_run_on(postgres: Postgres) -> None:
    ((version,),) = postgres.execute("SHOW server_version")
    assert SERVICES["database"]["image"].split(":")[1].split(".")[0] == version.split(".")[0]


# --- the instance ----------------------------------------------------------------------------------------------------


def test_an_experiment_runs_on_the_instance_that_is_deployed(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = postgres.create_database()
    monkeypatch.setenv("DAGSTER_PG_DB", database)
    shutil.copy(DEPLOYED, tmp_path)
    described = Experiment.model_validate(
        {"id": "deployed", "pipeline": [{"name": "produce", "module": "agreement_stages:produce"}]}
    )
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        context = execute_experiment(described, instance=instance)
        (run,) = instance.get_runs()
        assert (run.status, run.run_id) == (DagsterRunStatus.SUCCESS, context.run_id)
        assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds > 0
        assert instance.run_retries_enabled
        assert instance.global_op_concurrency_default_limit == 4
        assert not instance.telemetry_enabled
    assert postgres.execute("SELECT run_id FROM runs", database) == [(context.run_id,)]
    postgres.drop_database(database)


HOLDER = "a step"


@pytest.mark.fault("a pool's slot is held by a dead run")
def test_the_slot_that_a_dead_run_held_in_a_pool_is_freed_by_the_settings_that_are_deployed(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dagster_home(tmp_path, "postgres", postgres) as home:
        settings = yaml.safe_load(DEPLOYED.read_text())
        assert 0 < settings["run_monitoring"]["free_slots_after_run_end_seconds"] <= 300
        settings["run_monitoring"]["free_slots_after_run_end_seconds"] = 1
        settings["concurrency"]["pools"]["default_limit"] = 1
        (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        with (
            DagsterInstance.from_config(str(home)) as instance,
            create_test_daemon_workspace_context(EmptyWorkspaceTarget(), instance) as workspace,
        ):
            events = instance.event_log_storage
            dead, next_one = create_run_for_test(instance), create_run_for_test(instance)
            events.initialize_concurrency_limit_to_default("disk")
            assert events.claim_concurrency_slot("disk", dead.run_id, HOLDER).is_claimed
            assert not events.claim_concurrency_slot("disk", next_one.run_id, HOLDER).is_claimed
            instance.report_run_failed(dead)
            deadline = time.monotonic() + 60
            while not events.claim_concurrency_slot("disk", next_one.run_id, HOLDER).is_claimed:
                assert time.monotonic() < deadline
                time.sleep(0.5)
                assert not any(execute_concurrency_slots_iteration(workspace, logging.getLogger("monitoring")))


# --- the image -------------------------------------------------------------------------------------------------------


def dockerfile() -> list[list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile."""
    text = re.sub(r"(?m)^#.*\n", "", (DEPLOY / "Dockerfile").read_text()).replace("\\\n", " ")
    stages: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((keyword, re.sub(r"\s+", " ", rest)))
    return stages


def instructions(keyword: str, *, final: bool) -> list[str]:
    return [rest for found, rest in dockerfile()[-1 if final else 0] if found == keyword]


@pytest.mark.fault("a container with too many rights")
def test_the_image_is_pinned_and_runs_as_nobody_in_particular() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?$", text, re.MULTILINE)
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert requires == ">=3.11"
    (user,) = instructions("USER", final=True)
    assert user == "10001:10001"
    assert "apt-get" not in text
    assert not any("pip" in run for run in instructions("RUN", final=True))
    for run in instructions("RUN", final=False):
        if " install " in run:
            assert "--require-hashes" in run or "--no-index --no-deps" in run


@pytest.mark.parametrize("lock", ["requirements.lock", "build.lock"])
@pytest.mark.fault("S8")
def test_every_line_of_a_lock_is_one_version_with_hashes_of_its_files(lock: str) -> None:
    text = (DEPLOY / lock).read_text()
    for entry in entries(text):
        assert re.fullmatch(r"[a-z0-9._-]+==[^\s;]+( --hash=sha256:[0-9a-f]{64})+", entry), entry
    assert len(locked(lock)) == len(entries(text))


@pytest.mark.fault("S8")
def test_the_locks_satisfy_pyproject_and_hold_what_the_makefile_says() -> None:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = described["project"]
    (extras,) = re.findall(r"(?m)^IMAGE_EXTRAS := (\S+)$", (ROOT / "Makefile").read_text())
    asked, wanted = [*project["dependencies"]], extras.split(",")
    while wanted:
        for text in project["optional-dependencies"][wanted.pop()]:
            if (found := Requirement(text)).name == project["name"]:
                wanted += found.extras
            else:
                asked.append(text)
    pins = locked("requirements.lock")
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    (build,) = map(Requirement, described["build-system"]["requires"])
    assert build.specifier.contains(locked("build.lock")[build.name])


def entries(text: str) -> list[str]:
    lines = re.sub(r"(?m)^#.*\n", "", text).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+", " ", line).strip() for line in lines]


def locked(lock: str) -> dict[str, str]:
    """The versions in a lock, by name."""
    found = (entry.split(" ")[0].partition("==") for entry in entries((DEPLOY / lock).read_text()))
    return {name: version for name, _, version in found}


def test_what_is_copied_is_there_and_reaches_docker() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [copy.split()[:-1] for final in (False, True) for copy in instructions("COPY", final=final)]
    for source in (source for sources in copied if not sources[0].startswith("--from") for source in sources):
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of the image: its first stage, run in folders of this machine."""
    build, installed = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("image") / "crucible"
    for copy in instructions("COPY", final=False):
        *sources, target = copy.split()
        for source in sources:
            if target.endswith("/"):
                (build / target).mkdir(exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, build / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, build / target)
    # The image's `python` is the interpreter that the tests' own environment was made of.
    path = tmp_path_factory.mktemp("path")
    (path / "python").symlink_to(Path(sys.executable).resolve())
    environment = {
        **clean_environment("PYTHON"),
        "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
    }
    for run in instructions("RUN", final=False):
        command = run.replace("/opt/crucible", shlex.quote(str(installed)))
        ran = subprocess.run(
            command, shell=True, cwd=build, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return installed / "bin"


@pytest.mark.fault("another driver is installed", "S8")
def test_a_fresh_installation_is_whole_and_has_the_driver_that_the_settings_name(image: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", image / "python"]
    subprocess.run([*pip, "check"], check=True, capture_output=True, timeout=120)
    # What is installed is what is locked, and the package; nothing that builds or installs is with it.
    said = subprocess.run([*pip, "list", "--format=freeze"], check=True, capture_output=True, text=True, timeout=120)
    installed = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in said.stdout.split()}
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert installed == {**locked("requirements.lock"), package["name"]: package["version"]}
    assert not {"pip", "setuptools", "wheel", "hatchling"} & installed.keys()
    subprocess.run([image / "python", "-c", f"import {', '.join(PACKAGES)}"], check=True, cwd="/", timeout=120)
    script = "import sqlalchemy; print(sqlalchemy.create_engine('postgresql+psycopg2://').dialect.driver)"
    said = subprocess.run([image / "python", "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert said.stdout == "psycopg2\n"


STAGES = """
from crucible_core import Context, stage

@stage
def measure(ctx: Context, *, shift: float = 2.5) -> Context:
    data = {"old": [1.0, 2.0, 3.0, 4.0, 6.0], "new": [shift + x for x in (1.1, 2.3, 2.9, 4.2, 6.4)]}
    return ctx.assign(bench_data=data).put_metric("best", max(data["new"]))
"""

EXPERIMENT = """
id: small-one
pipeline:
  - {name: measure, module: "deployed_stages:measure"}
  - {name: bench, options: {paired: true}}
  - {name: report}
"""


def test_an_experiment_runs_with_what_the_image_holds(image: Path, postgres: Postgres, tmp_path: Path) -> None:
    """Compared, reported and kept in PostgreSQL; test_up.py starts the services themselves."""
    (tmp_path / "deployed_stages.py").write_text(STAGES)
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    (tmp_path / "home").mkdir()
    with dagster_home(tmp_path / "home", "postgres", postgres) as home:
        environment = {
            **clean_environment("PYTHON"),
            **postgres.environment(os.environ["DAGSTER_PG_DB"]),
            "DAGSTER_HOME": str(home),
        }
        said = subprocess.run(
            [image / "crucible", "run", "small.yaml", "--dagster"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert said.returncode == 0, said.stdout + said.stderr
        assert postgres.execute("SELECT pipeline_name, status FROM runs", environment["DAGSTER_PG_DB"]) == [
            ("small_one", "SUCCESS")
        ]
    assert list((tmp_path / "reports").rglob("*.md"))

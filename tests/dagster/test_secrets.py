"""Secret options: they reach the stage, and nothing that is kept or shown holds them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
from dagster import DagsterInstance
from pydantic import BaseModel, Field, SecretStr

from crucible_core import Context, Experiment, Registry, Stage, StageFailedError
from crucible_core.ir.secrets import MASK
from crucible_dagster import History, execute_experiment, job_for
from crucible_dagster.execution import open_instance
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store.io_manager import open_store

CANARY = "canary-b1f7"

STAGES = """
import hashlib
import logging
from typing import Annotated
from pydantic import BaseModel, Field, SecretBytes, SecretStr
from crucible_core import Context, Stage

class Account(BaseModel):
    user: str = "me"
    password: SecretStr

class Login(Stage):
    token: Annotated[SecretStr, Field(min_length=15)]
    main: Account
    accounts: list[Account] = []
    by_name: dict[str, SecretBytes] = {}
    plain: Annotated[str, Field(json_schema_extra={"writeOnly": True})] = ""
    either: Account | int = 0
    fail: bool = False

    def run(self, ctx: Context) -> Context:
        token = self.token.get_secret_value()
        logging.getLogger(__name__).info("logs in with %s", token)
        ctx = ctx.decide(f"log in with {token}", f"{token} is known", alternatives=[f"not with {token}"])
        if self.fail:
            raise RuntimeError(f"the server refused {token!r}")
        known = [token, self.main.password.get_secret_value(), self.accounts[0].password.get_secret_value(), self.plain]
        known += [self.by_name["x"].get_secret_value().decode(), self.either.password.get_secret_value()]
        return ctx.put_metric("known", [one[11:] for one in known])
"""

OPTIONS = {
    "token": f"{CANARY}-token",
    "main": {"user": "you", "password": f"{CANARY}-main"},
    "accounts": [{"password": f"{CANARY}-list"}],
    "by_name": {"x": f"{CANARY}-dict"},
    "plain": f"{CANARY}-plain",
    "either": {"password": f"{CANARY}-either"},
}
KNOWN = ["-token", "-main", "-list", "-plain", "-dict", "-either"]

EXPERIMENT = {
    "id": "secretive",
    "pipeline": [
        {"name": "first", "module": "secretive:Login", "options": OPTIONS, "cache": True},
        {"name": "login", "module": "secretive:Login", "options": OPTIONS},
        {"name": "report"},
    ],
    "variants": {"other": {"login": {"token": f"{CANARY}-other-token"}}},
    "outputs": [{"name": "all", "formats": ["markdown", "html", "json", "csv", "latex"]}],
    "gates": [{"name": "some", "metric": "count", "at_least": 0}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secretive.py").write_text(STAGES)
    (tmp_path / "e.json").write_text(json.dumps({**EXPERIMENT, "gates": []}))
    return tmp_path


def crucible(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DAGSTER_HOME": ""}
    done = commands.crucible(*arguments, cwd=folder, env=environment)
    assert CANARY not in done.stdout + done.stderr, arguments
    return done


def kept_in(folder: Path) -> list[str]:
    """The files that hold a secret, the experiment's own left out."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in {"e.json", "apart.json"})
    return [str(file.relative_to(folder)) for file in files if CANARY.encode() in file.read_bytes()]


def test_no_secret_is_in_anything_that_a_direct_run_writes_or_prints(folder: Path) -> None:
    ran = crucible("run", "e.json", "--json", folder=folder)
    assert json.loads(ran.stdout)["metrics"]["known"] == KNOWN, ran.stderr
    decided = [one for one in json.loads(ran.stdout)["decisions"] if one["stage"] == "login"]
    assert [(one["decision"], one["reasoning"], one["alternatives"]) for one in decided] == [
        (f"log in with {MASK}", f"{MASK} is known", [f"not with {MASK}"])
    ]
    failed = crucible("run", "e.json", "--set", "login.fail=true", folder=folder)
    assert failed.returncode == 1
    assert f"the server refused '{MASK}'" in failed.stderr
    assert "partial results: " in failed.stderr
    wrong = crucible(
        "run", "e.json", "--set", f"login.main.password=[{CANARY}]", "--set", "first.token=short", folder=folder
    )
    assert "short" not in wrong.stderr
    assert f"--set 'first.token={MASK}'" in wrong.stderr
    assert wrong.returncode == 2
    unread = crucible("run", "e.json", "--set", f"login.token=[{CANARY}", folder=folder)
    assert "begins like a list" in unread.stderr
    assert crucible("validate", "e.json", folder=folder).returncode == 0
    assert kept_in(folder) == []


@pytest.mark.fault("S5")
def test_no_secret_is_in_anything_that_runs_on_dagster_keep_or_print(folder: Path) -> None:
    ran = crucible("run", "e.json", "--json", "--dagster", folder=folder)
    assert json.loads(ran.stdout)["metrics"]["known"] == KNOWN, ran.stderr
    other = crucible("run", "e.json", "--json", "--dagster", "--variant", "other", folder=folder)
    assert json.loads(other.stdout)["metrics"]["known"][0] == "-other-token", other.stderr
    (folder / "apart.json").write_text(json.dumps({**EXPERIMENT, "execution": {"executor": "multiprocess"}}))
    failed = crucible("run", "apart.json", "--json", "--dagster", "--set", "login.fail=true", folder=folder)
    assert json.loads(failed.stdout)["failure"]["message"] == f"the server refused '{MASK}'"
    cached = crucible("run", "e.json", "--json", "--dagster", "--set", "first.fail=true", folder=folder)
    assert json.loads(cached.stdout)["failure"]["message"] == f"the server refused '{MASK}'"
    run_id = json.loads(failed.stdout)["run_id"]
    resumed = crucible("resume", run_id, "--json", "--set", "login.fail=false", folder=folder)
    assert json.loads(resumed.stdout)["metrics"]["known"] == KNOWN, resumed.stderr
    a, b = json.loads(ran.stdout)["run_id"], json.loads(other.stdout)["run_id"]
    assert "login.token" in crucible("compare", a, b, folder=folder).stdout
    assert MASK in crucible("show", b, "--ir", folder=folder).stdout
    for command in (
        ["show", a],
        ["show", a, "--json"],
        ["show", run_id],
        ["compare", a, b, "--json"],
        ["why", a, "first"],
    ):
        assert crucible(*command, folder=folder).returncode == 0
    logged = f"logs in with {MASK}".encode()
    assert any(logged in file.read_bytes() for file in folder.rglob("*.db"))
    assert kept_in(folder) == []


# --- in one process ---------------------------------------------------------------------------------------------------


class Account(BaseModel):
    user: str = "me"
    password: SecretStr


class Login(Stage):
    """Has secrets."""

    token: SecretStr = Field(min_length=15)
    account: Account | None = None
    fail: bool = False

    def run(self, ctx: Context) -> Context:
        if self.fail:
            raise ConnectionError("no route", self.token)
        return ctx.put_metric("token", len(self.token.get_secret_value()))


LOGIN = Registry({"login": Login})


def experiment(**options: Any) -> Experiment:
    gates = [{"name": "some", "metric": "token", "at_least": 1}]
    return Experiment.model_validate({"id": "e", "pipeline": [{"name": "login", "options": options}], "gates": gates})


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with open_instance() as instance:
        yield instance


def test_a_required_secret_that_the_file_gives_need_not_be_typed_and_is_not_in_the_definitions() -> None:
    given = experiment(token=f"{CANARY}-token", account={"password": f"{CANARY}-account"})
    job = job_for(given, LOGIN)
    field = job.graph.node_defs[0].config_schema.config_type.fields["token"]
    assert not field.is_required
    assert not field.default_provided
    assert CANARY not in str(job.get_job_snapshot())
    # An op is named by its options, secrets left out: a digest of a short one would give it away.
    assert job_for(experiment(token="x" * 15), LOGIN).graph.node_defs[0].name != job.graph.node_defs[0].name
    same = job_for(experiment(token="y" * 15, account={"password": "z"}), LOGIN)
    assert same.graph.node_defs[0].name == job.graph.node_defs[0].name


def test_records_say_that_a_secret_has_changed_and_not_what_it_is(instance: DagsterInstance) -> None:
    runs = [
        execute_experiment(experiment(token=token), registry=LOGIN, instance=instance).run_id
        for token in (f"{CANARY}-token-1", f"{CANARY}-token-1", f"{CANARY}-token-2")
    ]
    history = History(instance)
    assert history.compare(*runs[:2]).options == ()
    (changed,) = history.compare(*runs[1:]).options
    assert changed.name == "login.token"
    assert CANARY not in str(changed)
    records = [history.record(run) for run in runs]
    assert CANARY not in str(records)
    assert all(len(one.stages[0].secrets["token"]) == 32 for one in records if one)


def test_what_is_typed_for_one_run_is_masked_too(instance: DagsterInstance) -> None:
    job = job_for(experiment(token=f"{CANARY}-file"), LOGIN)
    config = {"ops": {"login": {"config": {"token": f"{CANARY}-typed-long", "account": {"password": "typed"}}}}}
    ran = job.execute_in_process(instance=instance, run_config=config)
    store = open_store(instance)
    context = store.load(ran.run_id, "gates")
    assert context.metrics["token"] == len(f"{CANARY}-typed-long")
    assert context.experiment.pipeline[0].options == {"token": MASK, "account": {"password": MASK}}
    assert CANARY not in (store.run_record(ran.run_id) or "")


def test_a_mask_is_not_taken_for_a_secret(instance: DagsterInstance) -> None:
    failing = experiment(token=f"{CANARY}-token", fail=True)
    with pytest.raises(StageFailedError) as failed:
        execute_experiment(failing, registry=LOGIN, instance=instance)
    run_id = failed.value.context.run_id
    # It was made in code: there is no file that still has the secret.
    repaired = lambda one: one.with_options("login", {"fail": False})  # noqa: E731
    with pytest.raises(Exception, match=r"login.token=VALUE|min_length|at least 15"):
        resume_run(instance, run_id, registry=LOGIN, override=repaired)
    again = lambda one: one.with_options("login", {"fail": False, "token": f"{CANARY}-token-2"})  # noqa: E731
    resumed = resume_run(instance, run_id, registry=LOGIN, override=again)
    assert resumed.metrics["token"] == len(f"{CANARY}-token-2")
    assert kept_in(Path.cwd()) == []

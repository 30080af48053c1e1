"""What is wrong with an instance, its context store and its experiment files. It only reads."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dagster import DagsterInstance
from sqlalchemy import create_engine, inspect
from sqlalchemy.pool import NullPool

from crucible_core import CrucibleError
from crucible_core.values.messages import error_text
from crucible_dagster.dagster_internals import open_as_it_is, postgres_url, sqlite_folders
from crucible_dagster.execution import embedded_home
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.upkeep.findings import SEVERITIES, Check, Diagnosis, Finding, Subject
from crucible_dagster.upkeep.instance_checks import daemons, migrations, runs, schedules, versions
from crucible_dagster.upkeep.place_checks import code_servers, disk, experiments, modes
from crucible_dagster.upkeep.store_checks import drift, objects, reachable

__all__ = ["examine"]

WITHOUT_DATABASE: Mapping[str, Check] = {
    "versions": versions,
    "disk": disk,
    "modes": modes,
    "experiments": experiments,
    "code location": code_servers,
}
OF_DATABASE: Mapping[str, Check] = {
    "migrations": migrations,
    "daemon": daemons,
    "runs": runs,
    "schedules": schedules,
}
OF_STORE: Mapping[str, Check] = {"drift": drift, "objects": objects}
SHOWN = ("crucible-dagster", "dagster", "dagster-postgres", "dagster-webserver", "sqlalchemy")
WORKSPACE = "workspace.yaml"
EXPERIMENTS_VARIABLE = "CRUCIBLE_EXPERIMENTS"


def examine(folder: Path | None = None, *, workspace: Path | None = None, deep: bool = False) -> Diagnosis:
    """Examine the instance of DAGSTER_HOME, or the embedded one of `folder`'s project, with its store and its files.

    `folder` has the experiment files; it defaults to the working directory or, with DAGSTER_HOME, to the folder of
    CRUCIBLE_EXPERIMENTS. `workspace` names the code servers; it defaults to `workspace.yaml` in DAGSTER_HOME, if that
    exists. `deep` reads every object of the store instead of a sample. Problems become findings and are not raised.
    """
    subject = _subject(folder, workspace, deep=deep)
    findings: list[Finding] = []
    checked: list[str] = []

    def look(checks: Mapping[str, Check], on: Subject) -> None:
        for name, check in checks.items():
            found = list(_looked(name, check, on))
            findings.extend(found)
            if not any(one.severity == "unchecked" for one in found):
                checked.append(name)

    with ExitStack() as stack:
        opened, wrong = _opened(subject, stack)
        findings += wrong
        has_database = opened.instance is not None and not any(one.check == "database" for one in wrong)
        checked += ["database"] if has_database else []
        look(WITHOUT_DATABASE, opened)
        if opened.store is not None:
            look({"store": reachable}, opened)
        if opened.instance is not None:
            has_store = opened.store is not None and not any(
                one.check == "store" and one.severity != "note" for one in findings
            )
            look(OF_DATABASE if has_database else {}, opened)
            look(OF_STORE if has_database and has_store else {}, opened)
            left = [] if has_database else [*OF_DATABASE, *OF_STORE]
            left += [*OF_STORE] if has_database and not has_store else []
            why = f"not checked: see the error of the {'store' if has_database else 'database'}"
            findings += [Finding("unchecked", name, why) for name in left]
    findings.sort(key=lambda one: [*SEVERITIES].index(one.severity))
    where = None if opened.store is None else str(opened.store.base)
    return Diagnosis(str(subject.home), where, _versions(), tuple(checked), tuple(findings))


def _subject(folder: Path | None, workspace: Path | None, *, deep: bool) -> Subject:
    said = os.environ.get("DAGSTER_HOME")
    if said:
        home = Path(said)
        named = os.environ.get(EXPERIMENTS_VARIABLE)
        folder = folder or (Path(named) if named else None)
        beside = home / WORKSPACE
        workspace = workspace or (beside if beside.is_file() else None)
        return Subject(home, False, folder, workspace, deep)
    return Subject(embedded_home(folder and folder.absolute()), True, folder or Path.cwd(), workspace, deep)


def _opened(subject: Subject, stack: ExitStack) -> tuple[Subject, list[Finding]]:
    """The subject with its instance and store, if they can be opened; for each that cannot, a finding says why."""
    if not subject.home.is_dir():
        none = f"there is no {subject.home}"
        if subject.is_embedded:
            return subject, [Finding("note", "database", f"{none}: nothing has run here yet")]
        return subject, [
            Finding("error", "database", f"{none}, which DAGSTER_HOME names", "make it, or set DAGSTER_HOME")
        ]
    try:
        files = sqlite_folders(str(subject.home))
        if files is not None and not (files.runs / "runs.db").exists():
            return subject, [Finding("note", "database", f"{subject.home} has no database: nothing has run here yet")]
        instance = stack.enter_context(open_as_it_is(str(subject.home)))
    except ModuleNotFoundError as error:
        return subject, [Finding("error", "database", *_of_driver(error))]
    except Exception as error:  # noqa: BLE001  # dagster.yaml may contain anything
        return subject, [
            Finding("error", "database", f"the instance of {subject.home} cannot be opened: {_said(error)}")
        ]
    subject, wrong = replace(subject, instance=instance), list(_of_database(instance))
    try:
        subject = replace(subject, store=open_store(instance))
    except CrucibleError as error:
        wrong.append(Finding("error", "store", str(error)))
    return subject, wrong


def _of_driver(error: ModuleNotFoundError) -> tuple[str, str]:
    said = f"SQLAlchemy {_versions().get('sqlalchemy', '')} needs the module {error.name} for the database's address"
    return (
        f"{said}, and it is not installed",
        "name the driver that is installed in dagster.yaml: `scheme: postgresql+psycopg2`",
    )


def _of_database(instance: DagsterInstance) -> Iterator[Finding]:
    url = postgres_url(instance)
    where = "the database" if url is None else "PostgreSQL"
    try:
        # Dagster's own connection to PostgreSQL would try for eleven seconds, with a message for each attempt.
        of_dagster = instance.run_storage.connect  # type: ignore[attr-defined]  # of every SQL storage
        with of_dagster() if url is None else create_engine(url, poolclass=NullPool).connect() as connection:
            there = inspect(connection).has_table("runs")
    except Exception as error:  # noqa: BLE001  # of any database and driver
        yield Finding(
            "error", "database", f"{where} cannot be reached: {_said(error)}", "start it, or correct dagster.yaml"
        )
        return
    if not there:
        yield Finding("error", "database", f"{where} has no tables of Dagster", "run `dagster instance migrate` once")


def _looked(name: str, check: Check, subject: Subject) -> Iterator[Finding]:
    try:
        yield from check(subject)
    except Exception as error:  # noqa: BLE001  # a check that fails must not hide what the others find
        yield Finding("unchecked", name, f"could not be checked: {_said(error)}")


def _said(error: Exception) -> str:
    text = " ".join(error_text(getattr(error, "orig", None) or error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in SHOWN:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

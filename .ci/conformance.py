"""Run Dagster's own storage suites against PostgreSQL as deploy/dagster.yaml names it.

The suites come from the source distributions of the installed versions, unpacked below .cache, and are not part of this
repository. Arguments are handed to pytest.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "conformance"

PACKAGES = {"dagster": "dagster_tests", "dagster-postgres": "dagster_postgres_tests"}
SUITES = ["test_run_storage.py", "test_event_log.py", "test_schedule_storage.py", "test_daemon_cursor_storage.py"]

# What cannot be run here, and why.
DESELECTED = {
    # They want a second database, `test` on port 5432 with the password `test`, in order to compare two spellings of
    # its address. tests/test_deploy.py opens storage by the settings that are deployed.
    "test_run_storage.py::TestPostgresRunStorage::test_load_from_config": "an address of its own",
    "test_event_log.py::TestPostgresEventLogStorage::test_load_from_config": "an address of its own",
}

# Dagster's repository has a package for its tests that is not published. The suites take one function from it.
UNPUBLISHED = """
from dagster import DagsterRun
from dagster._core.utils import make_new_run_id


def dagster_run(job_name="a_job", run_id=None, **fields):
    return DagsterRun(job_name=job_name, run_id=run_id or make_new_run_id(), **fields)
"""

CONFTEST = '''
import dagster._core.test_utils
import pytest
import yaml
from dagster._config import process_config
from dagster_postgres.utils import pg_config, pg_url_from_config
from postgres import DEPLOYED, DATABASE, environment_of_tests, server

# It looks for the suites beside the package's source; here they are beside this file, which is on the path.
dagster._core.test_utils.ensure_dagster_tests_import = lambda: None


@pytest.fixture(scope="session")
def postgres_conn_str():
    """The address that Dagster makes of the deployed settings, of a server and a database for this process alone."""
    settings = yaml.safe_load(DEPLOYED.read_text())["storage"]["postgres"]
    with server() as started, environment_of_tests(started):
        started.create_database(DATABASE)
        address = pg_url_from_config(process_config(pg_config(), settings).value)
        assert address.startswith("postgresql+psycopg2://"), address
        yield address


@pytest.fixture(scope="session")
def postgres_hostname():
    return "127.0.0.1"
'''


def main() -> int:
    unpack()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CACHE / "tools"), str(ROOT / "tests")])}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "--rootdir", CACHE, "-c", CACHE / "pytest.ini"]
    command += [CACHE / "dagster_postgres_tests" / suite for suite in SUITES]
    command += [f"--deselect=dagster_postgres_tests/{test}" for test in DESELECTED]
    return subprocess.run([*command, *sys.argv[1:]], cwd=CACHE, env=environment, check=False).returncode


def unpack() -> None:
    """Fetch the suites of the installed versions, unless they are there."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    stamp = CACHE / "versions"
    wanted = f"{versions}\n{Path(__file__).read_text()}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(CACHE, ignore_errors=True)
    downloads, tools = CACHE / "downloads", CACHE / "tools"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for package, version in versions.items():
        subprocess.run(
            [*pip, "download", "--no-deps", "--no-binary", package, "--dest", downloads, f"{package}=={version}"],
            check=True,
        )
    for archive in downloads.glob("*.tar.gz"):
        with tarfile.open(archive) as source:
            source.extractall(downloads, filter="data")
    for package, folder in PACKAGES.items():
        (found,) = downloads.glob(f"{package.replace('-', '_')}-{versions[package]}/{folder}")
        found.rename(CACHE / folder)
    shutil.rmtree(downloads)
    # One test counts objects with it; nothing else here does.
    subprocess.run([*pip, "install", "--target", tools, "objgraph"], check=True)
    (tools / "dagster_test" / "utils").mkdir(parents=True)
    (tools / "dagster_test" / "__init__.py").touch()
    (tools / "dagster_test" / "utils" / "__init__.py").touch()
    (tools / "dagster_test" / "utils" / "data_factory.py").write_text(UNPUBLISHED)
    (CACHE / "conftest.py").write_text(CONFTEST)
    (CACHE / "pytest.ini").write_text("[pytest]\n")
    stamp.write_text(wanted)


if __name__ == "__main__":
    sys.exit(main())

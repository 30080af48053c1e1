"""Makes `home_of_<commit>.tar.xz`: what `crucible run --dagster` leaves, by an earlier version, on an earlier schema.

Run in an empty folder whose name says nothing of a machine, with the packages and tests of that commit on the path:

    git archive COMMIT | tar -x -C /tmp/old
    PYTHONPATH=/tmp/old:/tmp/old/tests python make_home.py COMMIT

The tables are taken back to an earlier revision of Dagster's, as a home has them that was made before.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import tarfile
from pathlib import Path

os.environ.update(USER="lab", LOGNAME="lab", LNAME="lab", USERNAME="lab")
socket.gethostname = lambda: "lab"

from dagster._core.storage.sql import get_alembic_config, run_alembic_downgrade  # noqa: E402
from sqlalchemy import create_engine  # noqa: E402
from sqlalchemy.pool import NullPool  # noqa: E402
from stages_for_tests import experiment_of, registry  # noqa: E402

from crucible_core import StageFailedError  # noqa: E402
from crucible_dagster import execute_experiment, open_instance  # noqa: E402
from crucible_dagster.store.retention import pin  # noqa: E402

REVISION = "16e3655b4d9b"
"""Of October 2024: without an index of the runs' tags, and without a column of the concurrency limits."""
NAMES = {"runs": "run_storage", "event_log": "event_log", "schedules": "schedule_storage"}
MEASURE = {"name": "measure", "options": {"value": 0.25}}
VALUES = {"name": "assign", "options": {"values": {"numbers": list(range(600))}}}
AGAIN = {"name": "fail_until", "options": {"counter": "attempts", "succeed_at": 2}}


def main() -> None:
    with open_instance() as instance:
        first = execute_experiment(experiment_of(MEASURE, VALUES, id="old"), registry=registry(), instance=instance)
        pin(instance, first.run_id)
        changed = {**MEASURE, "options": {"value": 0.5}}
        execute_experiment(experiment_of(changed, VALUES, id="old"), registry=registry(), instance=instance)
        with contextlib.suppress(StageFailedError):
            execute_experiment(experiment_of(MEASURE, AGAIN, id="failed"), registry=registry(), instance=instance)
    home = Path(".crucible/dagster")
    for kind, files in {
        "runs": [home / "history" / "runs.db"],
        "event_log": sorted((home / "history" / "runs").glob("*.db")),
        "schedules": [home / "schedules" / "schedules.db"],
    }.items():
        storage = importlib.import_module(f"dagster._core.storage.{kind}.sqlite.sqlite_{NAMES[kind]}")
        config = get_alembic_config(str(storage.__file__))
        for file in files:
            engine = create_engine(f"sqlite:///{file}", poolclass=NullPool, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                run_alembic_downgrade(config, connection, REVISION, run_id=file.stem)
                connection.exec_driver_sql("VACUUM")
                connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    with tarfile.open(Path(__file__).with_name(f"home_of_{sys.argv[1]}.tar.xz"), "w:xz") as archive:
        archive.add(".crucible", filter=_of_nobody)


def _of_nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


main()

"""The command that opens Dagster's UI: `crucible ui`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import click
from dagster import DagsterInstance

from crucible_core import CrucibleError
from crucible_core.cli.common import FAILED, INTERRUPTED, input_errors, say
from crucible_core.errors import MissingExtraError
from crucible_core.values.jsonable import safe_text
from crucible_dagster.code_location import experiment_files
from crucible_dagster.execution import LOCAL, make_tables, open_instance

__all__ = ["ui"]

HOST = "127.0.0.1"
STOPPING = (signal.SIGINT, signal.SIGTERM)
QUIET = 10.0
"""Seconds after which a message says that Dagster is still starting."""
PATIENCE = 20.0
"""Seconds that Dagster's processes have to end by themselves, before they are killed."""


@click.command()
@click.argument("folder", default=".")
@click.option("--port", type=click.IntRange(1, 65_535), default=3000, show_default=True, help="The port of the UI.")
def ui(folder: str, port: int) -> None:
    """Open Dagster's UI on the experiments of a folder.

    FOLDER defaults to the working directory. The UI shows the runs of the instance that `crucible run --dagster` uses
    here: that of DAGSTER_HOME, or the one under .crucible/. The command runs until Ctrl-C.
    """
    with input_errors():
        if importlib.util.find_spec("dagster_webserver") is None:
            raise MissingExtraError("crucible ui", "dagster")
        experiments = Path(folder).absolute()
        files = experiment_files(experiments)
        _check_port(port)
        with open_instance(experiments) as instance:  # the same as for `crucible run --dagster` of a file there
            make_tables(instance)  # now, before several processes make them at the same time
            if not os.environ.get("DAGSTER_HOME"):
                _migrate(instance)
            home = instance.root_directory
    environment = {**os.environ, "DAGSTER_HOME": home, "CRUCIBLE_EXPERIMENTS": str(experiments)}
    for number in STOPPING:
        signal.signal(number, _stop)  # SIGINT too: a shell makes background processes ignore it
    try:
        with _dagster_dev(environment, port) as server:
            _wait_for(server, port)
            click.echo(f"Dagster's UI: http://localhost:{port}")
            click.echo(f"  experiments  {len(files)} {'file' if len(files) == 1 else 'files'} in {experiments}")
            click.echo(f"  runs         in {home}")
            click.echo("  to stop      Ctrl-C")
            code = server.wait()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    say(f"error: Dagster ended with exit code {code}")
    sys.exit(FAILED)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CrucibleError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from None


def _migrate(instance: DagsterInstance) -> None:
    """Bring the databases of an earlier version up to date, without Dagster's log lines about it."""
    storages = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
    versions = [storage.alembic_version() for storage in storages if storage is not None]
    if all(version is None or version[0] == version[1] for version in versions):
        return  # it would open the event log of each run
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            instance.upgrade()
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _dagster_dev(environment: Mapping[str, str], port: int) -> Iterator[subprocess.Popen[str]]:
    """Run webserver, daemon and code server; all of them have ended when the context is left."""
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(LOCAL / "workspace.yaml")]
    command += ["-h", HOST, "-p", str(port), "--log-level", "warning"]
    # In a session of their own: Ctrl-C reaches only this process, which then ends them in the way Dagster does.
    server = subprocess.Popen(  # noqa: S603  # our own arguments
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert server.stdout is not None
    threading.Thread(target=_pass_on, args=(server.stdout,), daemon=True).start()
    try:
        yield server
    finally:
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave some of them behind
        server.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _pass_on(lines: Iterable[str]) -> None:
    """Print each of Dagster's warnings once. The lines of runs are left out: they are in the runs' own logs."""
    said, hidden = set[str](), False
    for line in (safe_text(click.unstyle(line.rstrip("\n"))) for line in lines):
        record, text = _RECORD.fullmatch(line), line
        if record is not None:
            # The lines of a run begin with its job and its id.
            hidden = record["level"] in {"DEBUG", "INFO"} or _OF_A_RUN.match(record["text"]) is not None
            text = f"{record['level'].lower()}: {record['text']}"
        elif _NOISE.search(line):
            hidden = True
        elif line and not line[0].isspace():
            hidden = False  # not a continuation of the line before
        told = record["text"] if record else line
        if not hidden and told not in said:
            said.add(told)
            click.echo(text, err=True)


_RECORD = re.compile(r"\d{4}-\d\d-\d\d \S+ \S+ - dagster\S* - (?P<level>[A-Z]+) - (?P<text>.*)")
_OF_A_RUN = re.compile(r"\S+ - [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22} - ")
_NOISE = re.compile(r"^Aborted!$|(Superseded|Supersession|Deprecation|Beta|Preview|User)Warning\b")


def _wait_for(server: subprocess.Popen[str], port: int) -> None:
    said_at = time.monotonic() + QUIET if sys.stderr.isatty() else math.inf
    while True:
        if time.monotonic() > said_at:
            say("Dagster is starting; the first time this can take a minute")
            said_at = math.inf
        if server.poll() is not None:
            say(f"error: Dagster ended with exit code {server.returncode} before its UI was ready")
            sys.exit(FAILED)
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/server_info", timeout=5):  # http
                return
        except OSError:
            time.sleep(0.2)

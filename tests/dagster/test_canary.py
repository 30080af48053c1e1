"""Canaries: secrets that a stage puts into all that it says are in nothing that a run on Dagster keeps or shows.

They are in secret options, in the environment, and in URLs; what is looked at are the database (SQLite's files, and
every row of PostgreSQL), the context store, reports, compute logs, and the answers of Dagster's webserver.
"""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import commands
import pytest
import uvicorn
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_webserver.webserver import DagsterWebserver
from postgres import Postgres

from crucible_core.values import MASK

CANARY = "canary-7d02"

STAGES = """
import logging
import os

from pydantic import SecretStr

from crucible_core import Context, Stage, progress

log = logging.getLogger(__name__)

class Careless(Stage):
    token: SecretStr
    fail: bool = False

    def run(self, ctx: Context) -> Context:
        marked = "-".join(["canary", "7d02", "marked"])  # no line of the source holds one
        said = f"{self.token.get_secret_value()} {os.environ['SERVICE_TOKEN']} https://me:{marked}@host/?token={marked}"
        log.info("logs in with %s", said)
        log.error("refused: %s", said)
        try:
            raise ValueError(said)
        except ValueError:
            log.exception("with a traceback")
        for _ in progress([1], description=f"asks {said}"):
            pass
        ctx = ctx.put_metric("text", said).merge_metrics({"deep": {"list": [said]}})
        ctx = ctx.put_artifact("file", f"https://host/file?X-Amz-Signature={marked}")
        ctx = ctx.decide(said, said, alternatives=[said], metadata={"deep": [said]})
        if self.fail:
            try:
                raise ConnectionError(os.environ["DATABASE_URL"])
            except ConnectionError as error:
                raise RuntimeError(f"no connection: {said}") from error
        return ctx
"""

QUERY = """
query All($run: ID!) {
  runOrError(runId: $run) { ... on Run {
    runConfigYaml tags { key value } stats { __typename }
    eventConnection(limit: 1000) { events {
      __typename
      ... on MessageEvent { message }
      ... on DisplayableEvent { label description metadataEntries { ...Entry } }
      ... on ErrorEvent { error { ...Error } }
      ... on LogsCapturedEvent { fileKey }
      ... on ExecutionStepFailureEvent { failureMetadata { metadataEntries { ...Entry } } }
    } }
  } }
}
fragment Entry on MetadataEntry {
  label description
  ... on TextMetadataEntry { text }
  ... on UrlMetadataEntry { url }
  ... on JsonMetadataEntry { jsonString }
  ... on MarkdownMetadataEntry { mdStr }
  ... on TableMetadataEntry { table { records } }
}
fragment Error on PythonError { message stack className cause { message stack } causes { message stack }
  errorChain { error { message stack } } }
"""

LOGS = "query Logs($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }"


@contextmanager
def served(app: Any) -> Iterator[Callable[..., str]]:
    """What asks the webserver, on a port of its own: a path, and what is posted to it as JSON."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]

    def ask(path: str, posted: object = None) -> str:
        body = None if posted is None else json.dumps(posted).encode()
        request = Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content).decode("latin-1")

    try:
        yield ask
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def failed_run(open_instance, tmp_path_factory):  # type: ignore[no-untyped-def]
    """The instance of a run of which one stage succeeded and one failed, its id, and its folder."""
    folder = tmp_path_factory.mktemp("careless")
    (folder / "careless.py").write_text(STAGES)
    pipeline = [
        {"name": name, "module": "careless:Careless", "options": {"token": f"{CANARY}-option", "fail": name == "fails"}}
        for name in ("speaks", "fails")
    ]
    pipeline.insert(1, {"name": "report"})
    outputs = [{"name": "all", "formats": ["markdown", "html", "json", "csv", "latex"]}]
    apart = {"executor": "multiprocess"}
    (folder / "e.json").write_text(
        json.dumps({"id": "careless", "pipeline": pipeline, "outputs": outputs, "execution": apart})
    )
    with open_instance() as instance:
        secrets = {
            "SERVICE_TOKEN": f"{CANARY}-environment",
            "DATABASE_URL": f"postgresql://me:{CANARY}-url@host/db",
        }
        environment = {**os.environ, **secrets, "DAGSTER_HOME": instance.root_directory}
        ran = commands.crucible("run", "e.json", "--dagster", "--json", cwd=folder, env=environment)
        assert ran.returncode == 1, ran.stderr
        assert CANARY not in ran.stdout + ran.stderr
        yield instance, json.loads(ran.stdout), folder


def test_the_run_says_that_something_is_masked(failed_run: tuple[DagsterInstance, dict, Path]) -> None:
    _, told, _ = failed_run
    masked = f"{MASK} {MASK} https://me:{MASK}@host/?token={MASK}"
    assert told["failure"]["message"] == f"no connection: {masked}"
    assert told["metrics"]["text"] == masked
    assert told["artifacts"]["file"] == f"https://host/file?X-Amz-Signature={MASK}"


@pytest.mark.fault("S5")
def test_no_file_holds_a_canary(failed_run: tuple[DagsterInstance, dict, Path]) -> None:
    instance, _, folder = failed_run
    roots = (folder, Path(instance.root_directory))
    files = [file for root in roots for file in root.rglob("*") if file.is_file() and file.name != "e.json"]
    assert [str(file) for file in files if CANARY.encode() in file.read_bytes()] == []
    # They were looked at where they would be: in reports, in the store, in what the processes printed.
    said = {file.suffix for file in files if MASK.encode() in file.read_bytes()}
    assert {".html", ".tex", ".json", ".csv", ".err"} <= said


@pytest.mark.fault("S5")
def test_no_row_of_the_database_holds_a_canary(
    failed_run: tuple[DagsterInstance, dict, Path], storage: str, request: pytest.FixtureRequest
) -> None:
    instance, _, _ = failed_run
    if storage == "sqlite":  # whose files are those above
        assert any(MASK.encode() in file.read_bytes() for file in Path(instance.root_directory).rglob("*.db"))
        return
    server: Postgres = request.getfixturevalue("postgres")
    database = os.environ["DAGSTER_PG_DB"]
    tables = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database)
    rows = [row for (table,) in tables for row in server.execute(f'SELECT t::text FROM "{table}" t', database)]
    assert any(MASK in text for (text,) in rows)
    assert [text[:200] for (text,) in rows if CANARY in text] == []


@pytest.mark.fault("S5")
def test_no_answer_of_the_webserver_holds_a_canary(failed_run: tuple[DagsterInstance, dict, Path]) -> None:
    instance, told, _ = failed_run
    run = told["run_id"]
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace, ExitStack() as stack:
        ask = stack.enter_context(served(DagsterWebserver(workspace).create_asgi_app()))
        asked = ask("/graphql", {"query": QUERY, "variables": {"run": run}})
        events = json.loads(asked)["data"]["runOrError"]["eventConnection"]["events"]
        answers = [asked]
        captured = [one["fileKey"] for one in events if one["__typename"] == "LogsCapturedEvent"]
        assert captured
        for key in captured:
            variables = {"key": [run, "compute_logs", key]}
            answers.append(ask("/graphql", {"query": LOGS, "variables": variables}))
        answers.append(ask(f"/download_debug/{run}"))
    assert all(one for one in answers)
    assert any(MASK in one for one in answers[1:-1])
    assert MASK in answers[0]
    assert MASK in answers[-1]
    assert [one[max(0, one.find(CANARY) - 300) :][:400] for one in answers if CANARY in one] == []

"""`make up`: the services of deploy/compose.yaml as processes behind the proxy, started once for all tests."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from graphql import (
    GraphQLField,
    GraphQLSchema,
    build_client_schema,
    get_introspection_query,
    get_named_type,
    get_nullable_type,
    is_abstract_type,
    is_composite_type,
    is_enum_type,
    is_input_object_type,
    is_list_type,
    is_non_null_type,
)
from local_services import LocalServices, environment_of_services, local
from postgres import free_port
from ruamel.yaml import YAML

from crucible_dagster.service.logins import make_logins
from crucible_dagster.service.webserver import refusal_of
from deploy.local.programs import with_programs
from deploy.local.settings import DEPLOY, Settings, UsageError
from deploy.local.supervision import Supervisor
from deploy.local.topology import PORTS, services_of

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="needs Debian's nginx, which .ci/run installs"),
    pytest.mark.xdist_group("up"),  # one topology for them all
]

STAGES = """
import time
from pathlib import Path
from crucible_core import Context, stage

@stage
def measure(ctx: Context, *, shift: float = 2.5) -> Context:
    return ctx.put_metric("best", shift)

@stage
def wait(ctx: Context, *, started: str, seconds: float = 6.0) -> Context:
    Path(started).touch()
    time.sleep(seconds)
    return ctx
"""
EXPERIMENT = "id: small-one\npipeline: [{name: measure, module: 'upped_stages:measure'}]\n"
SLOW_EXPERIMENT = """
id: slow-one
pipeline:
  - {name: wait, module: "upped_stages:wait", options: {started: STARTED}}
  - {name: report}
"""

LAUNCH = """mutation ($job: String!) { launchRun(executionParams: {selector: {
  repositoryLocationName: "crucible", repositoryName: "__repository__", jobName: $job}}) {
    __typename ... on LaunchRunSuccess { run { runId } } } }"""

Role = Literal["viewer", "operator"]


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str


@dataclass
class Service(LocalServices):
    """What `make up` started, as those who use it reach it."""

    passwords: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.environment["CRUCIBLE_PORT"])

    def ask(
        self,
        method: str,
        path: str,
        role: Role | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        login = {"Authorization": self.login(role)} if role else {}
        with contextlib.closing(connection):
            connection.request(method, path, body, {**login, **(headers or {})})
            answer = connection.getresponse()
            headers = {name: ", ".join(answer.headers.get_all(name, [])) for name in answer.headers}
            return Answer(answer.status, headers, answer.read().decode(errors="replace"))

    def login(self, role: Role) -> str:
        return "Basic " + base64.b64encode(f"{role}:{self.passwords[role]}".encode()).decode()

    def graphql(self, query: str, role: Role = "operator", **variables: Any) -> Answer:
        body = json.dumps({"query": query, "variables": variables}).encode()
        return self.ask("POST", "/graphql", role, body, {"Content-Type": "application/json"})

    def launch(self, job: str) -> str:
        """Have an operator launch a run; its id."""
        launched = json.loads(self.graphql(LAUNCH, job=job).body)["data"]["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def run_succeeds(self) -> bool:
        """Whether a run that an operator launches now succeeds."""
        run_id = self.launch("small_one")
        ended = {"SUCCESS", "FAILURE", "CANCELED"}
        wait_until(lambda: self.status(run_id) in ended, f"run {run_id}", 120)
        return self.status(run_id) == "SUCCESS"

    def status(self, run_id: str) -> str:
        ((status,),) = self.rows(f"SELECT status FROM runs WHERE run_id = '{run_id}'")
        return status


def wait_until(happened: Callable[[], Any], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    # Not below pytest's folder: it is closed to other users, and root starts PostgreSQL and nginx as another user.
    folder = Path(tempfile.mkdtemp(prefix="crucible-up-"))
    experiments = folder / "experiments"
    experiments.mkdir()
    (experiments / "upped_stages.py").write_text(STAGES)
    (experiments / "small.yaml").write_text(EXPERIMENT)
    (experiments / "slow.yaml").write_text(SLOW_EXPERIMENT.replace("STARTED", str(experiments / "started")))
    made = Service(folder, environment_of_services(experiments, "upped_stages", DAGSTER_PG_PASSWORD="p@ss/w:rd?#%&+ $"))
    try:
        started = made.command("up")
        assert started.returncode == 0, started.stdout + started.stderr + made.logs()
        made.passwords = dict(re.findall(r"(?m)^Password of (\w+): +(\S+)$", started.stdout))
        yield made
    finally:
        with contextlib.suppress(FileNotFoundError):
            supervisor = int((folder / "supervisord.pid").read_text())
            stopped = made.command("down")
            assert stopped.returncode == 0, stopped.stderr
            with contextlib.suppress(psutil.NoSuchProcess):
                assert psutil.Process(supervisor).status() == psutil.STATUS_ZOMBIE
        shutil.rmtree(folder)


SERVICES = ("database", "migrate", "code-server", "webserver", "viewer", "daemon", "proxy")


# --- up, down and status ---------------------------------------------------------------------------------------------


def test_up_starts_what_compose_does_and_says_the_passwords_once(service: Service) -> None:
    assert service.states() == {"health": "well", **dict.fromkeys(SERVICES, "well"), "migrate": "done"}
    assert service.command("status").returncode == 0
    assert service.passwords.keys() == {"operator", "viewer"}
    everything = "".join(
        file.read_text(errors="replace")
        for file in service.folder.rglob("*")
        if file.is_file() and "database" not in file.parts
    )
    assert not [password for password in service.passwords.values() if password in everything]


def test_a_second_up_changes_nothing(service: Service) -> None:
    before = service.pids()
    again = service.command("up")
    assert again.returncode == 0, again.stderr
    assert "Password" not in again.stdout
    assert service.pids() == before


def test_nobody_else_can_read_what_lies_in_the_folder(service: Service) -> None:
    assert service.folder.stat().st_mode & 0o066 == 0
    for entry in service.folder.iterdir():
        if entry.name not in {"logins", "experiments"}:
            assert entry.stat().st_mode & 0o077 == 0, entry
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for pid in service.pids().values()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


# --- who may do what -------------------------------------------------------------------------------------------------

JSON = {"Content-Type": "application/json"}
READ = json.dumps({"query": "{ version }"}).encode()
WRITE = json.dumps({"query": LAUNCH, "variables": {"job": "no_such_job"}}).encode()
ALIASES = json.dumps({"query": "{" + " ".join(f"a{n}: version" for n in range(300)) + "}"}).encode()
DEEP = json.dumps({"query": "{" * 20_000 + "version" + "}" * 20_000}).encode()
ASSET = b'{"metadata": {}}'
LOGS = "/logs/run/compute_logs/step.out"
OWN = "http://127.0.0.1"  # the port is added

# Method, path, headers and body; what nobody, a viewer and an operator get.
TABLE: list[tuple[str, str, dict[str, str], bytes | None, tuple[int, int, int]]] = [
    ("GET", "/healthz", {}, None, (200, 200, 200)),
    ("GET", "/", {}, None, (401, 200, 200)),
    ("GET", "/runs", {}, None, (401, 200, 200)),
    ("GET", "/locations/crucible/jobs/small_one/playground", {}, None, (401, 200, 200)),
    ("GET", "/favicon.png", {}, None, (401, 200, 200)),
    ("GET", "/_next/static/no-such-file.js", {}, None, (401, 404, 404)),
    ("GET", LOGS, {}, None, (401, 404, 404)),
    ("POST", "/graphql", JSON, READ, (401, 200, 200)),
    ("POST", "/graphql", JSON, WRITE, (401, 400, 200)),
    # What the UI does not need.
    ("GET", "/server_info", {}, None, (401, 403, 403)),
    ("GET", "/dagit_info", {}, None, (401, 403, 403)),
    ("GET", "/notebook?path=a.ipynb&repoLocName=crucible", {}, None, (401, 403, 403)),
    ("GET", "/dagit/notebook", {}, None, (401, 403, 403)),
    ("GET", "/download_debug/some-run", {}, None, (401, 403, 403)),
    ("GET", "/vendor/graphiql/graphiql.min.js", {}, None, (401, 403, 403)),
    ("POST", "/report_asset_materialization/a", JSON, ASSET, (401, 403, 403)),
    ("POST", "/report_asset_check/a", JSON, ASSET, (401, 403, 403)),
    ("POST", "/report_asset_observation/a", JSON, ASSET, (401, 403, 403)),
    # Mutations that a link, an image or a form of another site can send.
    ("GET", "/graphql?query={version}", {}, None, (405, 405, 405)),
    ("GET", "/graphql", {"Accept": "text/html"}, None, (405, 405, 405)),
    ("POST", "/graphql?query={version}", {}, b"", (415, 415, 415)),
    ("POST", "/graphql", {"Content-Type": "text/plain"}, READ, (415, 415, 415)),
    ("POST", "/graphql", {"Content-Type": "application/graphql"}, b"{ version }", (415, 415, 415)),
    ("OPTIONS", "/graphql", {"Origin": OWN, "Access-Control-Request-Method": "POST"}, None, (405, 405, 405)),
    ("DELETE", "/runs", {}, None, (405, 405, 405)),
    ("POST", "/runs", {}, b"", (405, 405, 405)),
    # Other sites.
    ("POST", "/graphql", {**JSON, "Origin": OWN}, READ, (401, 200, 200)),
    ("POST", "/graphql", {**JSON, "Origin": OWN, "Sec-Fetch-Site": "same-origin"}, READ, (401, 200, 200)),
    ("POST", "/graphql", {**JSON, "Origin": "http://evil.example"}, READ, (403, 403, 403)),
    ("POST", "/graphql", {**JSON, "Origin": f"{OWN}.evil.example"}, READ, (403, 403, 403)),
    ("POST", "/graphql", {**JSON, "Origin": "null"}, READ, (403, 403, 403)),
    ("POST", "/graphql", {**JSON, "Sec-Fetch-Site": "cross-site"}, READ, (403, 403, 403)),
    ("POST", "/graphql", {**JSON, "Sec-Fetch-Site": "same-site"}, READ, (403, 403, 403)),
    ("GET", "/runs", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, None, (403, 403, 403)),
    (
        "GET",
        "/runs",  # a link in a mail
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        None,
        (401, 200, 200),
    ),
    (
        "GET",
        "/runs",  # a frame
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        None,
        (403, 403, 403),
    ),
    # Out of the folder of logs.
    ("GET", "/logs/..%2f..%2fdagster.yaml", {}, None, (400, 400, 400)),
    ("GET", "/logs/%2e%2e/%2e%2e/dagster.yaml", {}, None, (400, 400, 400)),
    ("GET", "/logs/a/..%2f..%2fdagster.yaml", {}, None, (403, 403, 403)),
    ("GET", "/logs/%2e%2e/dagster.yaml", {}, None, (403, 403, 403)),
    ("GET", "/logs/../../dagster.yaml", {}, None, (400, 400, 400)),
    ("GET", "/logs/a/../../dagster.yaml", {}, None, (403, 403, 403)),
    ("GET", "/logs//etc/passwd", {}, None, (403, 403, 403)),
    # Too much.
    ("POST", "/graphql", JSON, b" " * (1 << 20) + READ, (413, 413, 413)),
    ("POST", "/graphql", JSON, ALIASES, (401, 400, 400)),
    ("POST", "/graphql", JSON, DEEP, (401, 400, 400)),
    ("GET", f"/{'x' * 10_000}", {}, None, (414, 414, 414)),
]


@pytest.mark.fault("S6", "nobody logged in", "requests from another site", "large or costly requests")
@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "expected"),
    TABLE,
    ids=[f"{n} {row[0]} {row[1][:40]} {' '.join(row[2].values())}"[:80] for n, row in enumerate(TABLE)],
)
@pytest.mark.fault(
    "S6", "nobody logged in", "requests from another site", "a viewer tries to write", "large or costly requests"
)
def test_each_route_gives_each_role_what_it_may_have(
    service: Service, method: str, path: str, headers: dict[str, str], body: bytes | None, expected: tuple[int, ...]
) -> None:
    if headers.get("Origin", "").startswith(OWN):
        headers = {**headers, "Origin": headers["Origin"].replace(OWN, f"{OWN}:{service.port}", 1)}
    roles: tuple[Role | None, ...] = (None, "viewer", "operator")
    answers = [service.ask(method, path, role, body, headers) for role in roles]
    assert tuple(answer.status for answer in answers) == expected, [answer.body[:300] for answer in answers]
    for answer in answers:
        assert "Traceback" not in answer.body
        if answer.status != 414:  # nginx has read no header by then
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.fault("nobody logged in")
def test_a_wrong_password_and_a_name_that_there_is_not_are_refused(service: Service) -> None:
    for login in ("operator:wrong", "operator:", f"nobody:{service.passwords['operator']}", "viewer"):
        encoded = base64.b64encode(login.encode()).decode()
        assert service.ask("GET", "/", headers={"Authorization": f"Basic {encoded}"}).status == 401
    assert service.ask("GET", "/", headers={"Authorization": "Bearer x"}).status == 401


def websocket(service: Service, role: Role | None, origin: str) -> int:
    """The status with which the start of a websocket is answered."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
        "Sec-WebSocket-Protocol": "graphql-ws",
        "Origin": origin,
        **({"Authorization": service.login(role)} if role else {}),
    }
    lines = ["GET /graphql HTTP/1.1", f"Host: 127.0.0.1:{service.port}", *(f"{k}: {v}" for k, v in headers.items())]
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(4096).split()[1])


@pytest.mark.fault("requests from another site")
def test_a_websocket_is_for_those_who_logged_in_and_for_pages_of_this_site(service: Service) -> None:
    own = f"http://127.0.0.1:{service.port}"
    assert websocket(service, "operator", own) == 101
    assert websocket(service, "viewer", own) == 101
    assert websocket(service, None, own) == 401
    assert websocket(service, "operator", "http://evil.example") == 403


@pytest.mark.fault("large or costly requests")
def test_too_many_requests_are_refused_and_others_are_still_answered(service: Service) -> None:
    with ThreadPoolExecutor(4) as pool:
        # By somebody who did not log in: each user has a limit of its own.
        statuses = Counter(pool.map(lambda _: service.ask("GET", "/favicon.png").status, range(600)))
    assert statuses.keys() == {401, 429}, statuses
    assert service.ask("GET", "/favicon.png", "viewer").status == 200


def test_an_answer_of_a_failure_names_its_kind_and_has_no_traceback(service: Service) -> None:
    # A cursor that is none: Dagster raises, and answers with the traceback.
    query = '{ logsForRun(runId: "x", afterCursor: "?") { __typename ... on PythonError { message stack } } }'
    answers = [service.graphql(query, role) for role in ("viewer", "operator")]
    for answer in answers:
        assert "File " not in answer.body


def test_with_a_certificate_the_proxy_speaks_https_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="crucible-up-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as `make up` makes it where root starts nginx as another user
        (folder / "logins").mkdir()
        make_logins(folder / "logins")
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        of = ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
        subprocess.run([*made, *of, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
        ports = {name: free_port() for name in PORTS}
        monkeypatch.setenv("CRUCIBLE_TLS_CERTIFICATE", str(certificate))
        monkeypatch.setenv("CRUCIBLE_TLS_KEY", str(key))
        settings = Settings.read(folder, folder / "no.env")
        (proxy,) = (one for one in services_of(settings, ports) if one.name == "proxy")
        proxy = with_programs(proxy, settings, ports)
        tested = subprocess.run([*proxy.command, "-t"], capture_output=True, text=True, check=False)
        assert tested.returncode == 0, tested.stderr
        with subprocess.Popen(proxy.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as nginx:
            try:
                assert proxy.check is not None
                wait_until(
                    lambda: subprocess.run(proxy.check.command, capture_output=True, check=False).returncode == 0,
                    "nginx",
                )
                context = ssl.create_default_context(cafile=certificate)
                context.check_hostname = True
                connection = http.client.HTTPSConnection("localhost", ports["proxy"], context=context, timeout=30)
                connection.request("GET", "/")
                answer = connection.getresponse()
                assert answer.status == 401
                assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
                plain = http.client.HTTPConnection("localhost", ports["proxy"], timeout=30)
                plain.request("GET", "/runs")
                answer = plain.getresponse()
                assert answer.status == 302
                assert answer.headers["Location"] == f"https://localhost:{ports['proxy']}/runs"
                connection.close()
                plain.close()
            finally:
                nginx.terminate()


def test_settings_are_read_as_compose_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "# a comment\n\nDAGSTER_PG_PASSWORD='a$$b #\"c'\nexport CRUCIBLE_STORE=s3://here # the place\n"
        'DAGSTER_PG_USER="some body"\nCRUCIBLE_EXPERIMENTS_FOLDER=../mine\nCRUCIBLE_PORT=1\n'
    )
    monkeypatch.setenv("CRUCIBLE_PORT", "2")
    settings = Settings.read(tmp_path, file)
    text = (
        "${DAGSTER_PG_PASSWORD:?set it} ${CRUCIBLE_STORE:-no} ${DAGSTER_PG_USER} ${CRUCIBLE_PORT:-3} ${NONE:-d} $${x}"
    )
    assert settings.interpolated(text) == 'a$$b #"c s3://here some body 2 d ${x}'
    assert settings.interpolated("http${CRUCIBLE_TLS_KEY:+s} http${CRUCIBLE_STORE:+s} [${NONE-}]") == "http https []"
    assert settings.values["CRUCIBLE_EXPERIMENTS_FOLDER"] == str(tmp_path.parent / "mine")
    made = settings.values["CRUCIBLE_REDIS_PASSWORD"]
    assert len(made) == 32
    assert Settings.read(tmp_path, file).values["CRUCIBLE_REDIS_PASSWORD"] == made
    file.write_text("nothing\n")
    with pytest.raises(UsageError, match=r"\.env:1: not NAME=VALUE"):
        Settings.read(tmp_path, file)


@pytest.mark.fault("large or costly requests")
@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ("{ version }", None),
        ("mutation { x }", None),
        ("{", None),
        ("{" * 400 + "a" + "}" * 400, None),
        ("fragment a on B { x ...a } { ...a ...none }", None),
        ("{" + " ".join(f"a{n}: version" for n in range(51)) + "}", "51 aliases"),
        ("{" + " ".join(f"... on Query {{ a{n}: version }}" for n in range(60)) + "}", "60 aliases"),
        ("{ ...a } fragment a on Query {" + " ".join(f"a{n}: version" for n in range(51)) + "}", "51 aliases"),
        (
            "{ ...a ...a }"
            + "".join(f"fragment {a} on Q {{ ...{b} x ...{b} }}" for a, b in zip("abcdefghijklmno", "bcdefghijklmnop")),
            "fields",
        ),
        ("{ " + "x" * 50_000 + " }", "50004 characters"),
        (5, "not a text"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.fault("large or costly requests")
def test_a_query_that_would_hold_the_webserver_is_refused(query: object, refused: str | None) -> None:
    said = refusal_of(query)
    assert said is None if refused is None else refused in str(said)


@pytest.mark.parametrize("action", ["status", "down"])
def test_where_nothing_runs_it_says_so(tmp_path: Path, action: str) -> None:
    said = local(tmp_path, os.environ, action)
    expected = {"status": (1, "nothing is running: make up\n"), "down": (0, "everything is stopped\n")}[action]
    assert (said.returncode, said.stdout) == expected, said.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = local(tmp_path, {**os.environ, "CRUCIBLE_PORT": str(port)}, "up")
    assert said.returncode == 2
    assert said.stderr == f"port {port} is taken by another program. Set CRUCIBLE_PORT to a free one\n"


# --- whatever anybody asks -------------------------------------------------------------------------------------------


class Queries:
    """Random queries and mutations over a schema: its own fields, with arguments that nobody expects."""

    TEXTS = (
        "crucible",
        "small_one",
        "__repository__",
        "",
        "x" * 300,
        "../../etc/passwd",
        "\\u0000",
        "\\ud800",
        "'; --",
    )

    def __init__(self, schema: GraphQLSchema, seed: int) -> None:
        self._schema = schema
        self._random = random.Random(seed)

    def query(self) -> str:
        assert self._schema.query_type is not None
        fields = list(self._schema.query_type.fields.items())
        return "{" + " ".join(self.field(*one, depth=3) for one in self._random.sample(fields, 2)) + "}"

    def mutation(self, name: str) -> str:
        assert self._schema.mutation_type is not None
        return "mutation {" + self.field(name, self._schema.mutation_type.fields[name], depth=2) + "}"

    def mutations(self) -> list[str]:
        assert self._schema.mutation_type is not None
        return list(self._schema.mutation_type.fields)

    def field(self, name: str, field: GraphQLField, depth: int) -> str:
        given = [
            f"{key}: {self.value(argument.type)}"
            for key, argument in field.args.items()
            if is_non_null_type(argument.type) or self._random.random() < 0.4
        ]
        arguments = f"({', '.join(given)})" if given else ""
        return f"{name}{arguments} {self.selection(get_named_type(field.type), depth)}"

    def selection(self, of: Any, depth: int) -> str:
        if not is_composite_type(of):
            return ""
        if not depth:
            return "{__typename}"
        kind = self._random.choice(self._schema.get_possible_types(of)) if is_abstract_type(of) else of
        fields = self._random.sample(list(kind.fields.items()), min(3, len(kind.fields)))
        return f"{{__typename ... on {kind.name} {{{' '.join(self.field(*one, depth - 1) for one in fields)}}}}}"

    def value(self, of: Any, depth: int = 4) -> str:
        if not is_non_null_type(of) and (not depth or self._random.random() < 0.2):
            return "null"
        bare = get_nullable_type(of)
        if is_list_type(bare):
            return "[" + ", ".join(self.value(bare.of_type, depth - 1) for _ in range(self._random.randint(0, 2))) + "]"
        if is_enum_type(bare):
            return self._random.choice(list(bare.values))
        if is_input_object_type(bare):
            given = [
                f"{key}: {self.value(one.type, depth - 1)}"
                for key, one in bare.fields.items()
                if is_non_null_type(one.type) or (depth > 0 and self._random.random() < 0.5)
            ]
            return "{" + ", ".join(given) + "}"
        return {
            "Int": lambda: str(self._random.choice([0, -1, 1, 2**31 - 1])),
            "Float": lambda: self._random.choice(["0", "-1.5", "1e300"]),
            "Boolean": lambda: self._random.choice(["true", "false"]),
        }.get(bare.name, lambda: f'"{self._random.choice(self.TEXTS)}"')()


# Rows that the services write by themselves.
OF_THE_SERVICES = {"daemon_heartbeats", "job_ticks", "instance_info", "asset_daemon_asset_evaluations"}
FUZZ_SECONDS = float(os.environ.get("CRUCIBLE_FUZZ_SECONDS", "8"))
TRACES = re.compile(r'Traceback|File \\?"|errorInfo|site-packages')


def contents(service: Service) -> dict[str, Any]:
    """How much each table of the database holds, and a digest of it."""
    tables = service.rows("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
    digest = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM \"{}\" t"
    return {name: service.rows(digest.format(name)) for (name,) in tables if name not in OF_THE_SERVICES}


@pytest.fixture(scope="module")
def queries(service: Service) -> Queries:
    # Dagster's page of queries asks in the same way: what GraphQL can be asked is known to those who may look.
    asked = service.graphql(get_introspection_query(descriptions=False), "viewer")
    assert asked.status == 200, asked.body[:500]
    return Queries(build_client_schema(json.loads(asked.body)["data"]), seed=20_261_128)


@pytest.mark.fault("a viewer tries to write")
def test_no_mutation_of_a_viewer_changes_anything(service: Service, queries: Queries) -> None:
    assert len(queries.mutations()) > 30
    before = contents(service)
    for name in queries.mutations():
        answer = service.graphql(queries.mutation(name), "viewer")
        assert answer.status == 400, (name, answer.body[:300])
        assert json.loads(answer.body)["data"] is None
    # Nor one that comes with a query, or by a name.
    both = f"query a {{ version }} mutation b {{ {queries.mutation('setConcurrencyLimit')[10:]} "
    body = json.dumps({"query": both, "operationName": "b"}).encode()
    assert service.ask("POST", "/graphql", "viewer", body, JSON).status == 400
    assert contents(service) == before


@pytest.mark.fault("random GraphQL")
def test_whatever_is_asked_the_services_live_and_tell_nothing_of_themselves(service: Service, queries: Queries) -> None:
    """Random queries of both roles, and random mutations of an operator, for some seconds."""
    asked: Counter[int] = Counter()
    end = time.monotonic() + FUZZ_SECONDS
    while time.monotonic() < end:
        role: Role = "operator" if sum(asked.values()) % 2 else "viewer"
        names = queries.mutations()
        query = (
            queries.query()
            if sum(asked.values()) % 4
            else queries.mutation(names[sum(asked.values()) // 4 % len(names)])
        )
        answer = service.graphql(query, role)
        asked[answer.status] += 1
        # What a user's own code raised is for those who may look; this asks for nothing of the kind.
        assert not TRACES.search(answer.body), (query, answer.body[:1000])
    assert asked[200] > 10, asked
    wait_until(lambda: set(service.states().values()) == {"well", "done"}, "the services", 180)
    assert service.run_succeeds(), service.logs()


# --- a person --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium, which .ci/run installs")
@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_the_ui_works_in_a_browser_that_has_logged_in(service: Service, role: Role) -> None:
    from playwright.sync_api import expect, sync_playwright

    said: list[str] = []
    refused: list[str] = []
    address = f"http://127.0.0.1:{service.port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(http_credentials={"username": role, "password": service.passwords[role]})
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("response", lambda one: refused.append(f"{one.status} {one.url}") if one.status >= 400 else None)
        sockets: list[Any] = []
        # Not the list's own method: playwright puts a mark on what it calls.
        page.on("websocket", lambda one: one.on("framereceived", lambda frame: sockets.append(frame)))  # noqa: PLW0108
        page.goto(f"{address}/locations/crucible/jobs/small_one/playground")
        if role == "operator":
            launch = page.get_by_role("button", name="Launch run").first
            expect(launch).to_be_enabled(timeout=90_000)
            launch.click()
            page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
            expect(page.get_by_text("RUN_SUCCESS").first).to_be_visible(timeout=90_000)
            assert sockets, "the log of the run comes by websocket"
        else:
            expect(page.get_by_role("tab", name="Launchpad")).to_be_disabled(timeout=90_000)
        browser.close()
    assert (refused, said) == ([], [])


# --- what is stopped ends well, and what is killed comes back --------------------------------------------------------


@pytest.mark.fault("the code server is told to stop")
def test_a_run_in_flight_ends_before_the_code_server_does(service: Service) -> None:
    run_id = service.launch("slow_one")
    wait_until((service.folder / "experiments" / "started").exists, "the first stage")
    # As `make down` does, the last one first: the code server waits for those that are connected to it.
    stopped = ("daemon", "viewer", "webserver", "code-server")
    service.supervisor("stop", *stopped)
    assert service.status(run_id) == "SUCCESS", service.logs()
    kinds = service.rows(f"SELECT dagster_event_type FROM event_logs WHERE run_id = '{run_id}' ORDER BY id LIMIT 2")
    assert kinds == [("PIPELINE_ENQUEUED",), ("PIPELINE_STARTING",)]  # the daemon took it from the queue
    assert list((service.folder / "crucible" / "reports").rglob("*.md"))
    processes = Supervisor(service.folder).processes()
    assert {name: (processes[name]["statename"], processes[name]["exitstatus"]) for name in stopped} == dict.fromkeys(
        stopped, ("STOPPED", 0)
    )
    service.supervisor("start", *stopped)
    wait_until(lambda: set(service.states().values()) == {"well", "done"}, "all to be well", 400)


def test_nothing_is_written_but_to_the_volumes(service: Service) -> None:
    composed = YAML(typ="safe").load(DEPLOY / "compose.yaml")["services"]["code-server"]["volumes"]
    volumes = [service.folder / volume.rsplit(":/srv/", 1)[1] for volume in composed if ":/srv/" in volume]
    assert [path.name for path in volumes] == ["experiments:ro", "store", "reports", "storage"]
    stray = [
        path
        for part in ("crucible", "dagster")
        for path in (service.folder / part).rglob("*")
        if path.is_file() and path.suffix != ".yaml" and not any(path.is_relative_to(volume) for volume in volumes)
    ]
    assert stray == []


@pytest.mark.fault("R1", "the webserver is killed", "the code server is killed", "the daemon is killed")
def test_each_process_that_is_killed_comes_back(service: Service) -> None:
    before = service.pids()
    assert before.keys() == {"health", *SERVICES} - {"migrate"}
    for name, pid in before.items():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda killed=pid: not psutil.pid_exists(killed), f"the end of {name}")
    wait_until(lambda: set(service.states().values()) == {"well", "done"}, "all to be well", 400)
    after = service.pids()
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert service.run_succeeds(), service.logs()


def test_the_services_end_with_the_supervisor_and_hold_no_port(service: Service) -> None:
    before = service.pids()
    os.kill(int((service.folder / "supervisord.pid").read_text()), signal.SIGKILL)
    for name, pid in before.items():
        wait_until(lambda killed=pid: not psutil.pid_exists(killed), f"the end of {name}")
    assert service.command("status").returncode == 1
    assert service.command("down").returncode == 0

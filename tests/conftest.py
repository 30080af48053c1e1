"""What every test shares: a folder of its own, a clean environment, and, where asked for, no skipping."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import re
import resource
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fault_table import ALL_FAULTS
from hypothesis import settings

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from postgres import Postgres, Storage

    OpenInstance = Callable[[], AbstractContextManager[DagsterInstance]]

settings.register_profile("crucible", deadline=None)  # slow machines are no defect
settings.load_profile("crucible")

FORBID_SKIPS = "CRUCIBLE_FORBID_SKIPS"
HERE = Path(__file__).parent

gc.disable()  # until the tests are collected: what they import stays


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's own, which for its number looks through the folders of all tests before: seconds, for thousands."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    folder = tmp_path_factory.getbasetemp() / f"{name}{next(_NUMBERS)}"
    folder.mkdir(mode=0o700)
    return folder


_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test runs in an empty working directory, and leaves neither modules nor import paths behind."""
    for name in ("CRUCIBLE_OUTPUT_ROOT", "CRUCIBLE_IMPORTABLE", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    tracemalloc.stop()  # a test that fails while it measures memory makes those after it ten times as long otherwise
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def same_numbers(request: pytest.FixtureRequest) -> None:
    """A module's generator of random numbers begins anew with every test: whatever ran before, and on which worker."""
    generator = getattr(request.module, "RNG", None)
    if generator is not None:
        generator.bit_generator.state = _STATES.setdefault(request.path, generator.bit_generator.state)


_STATES: dict[Path, Any] = {}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """The comparisons that are parsed during the test; none is known when it begins."""
    from crucible_bench import Comparison
    from crucible_core import metrics

    seen: list[Mapping[str, Any]] = []
    parse = Comparison.from_dict

    def counted(data: Mapping[str, Any]) -> Comparison:
        seen.append(data)
        return parse(data)

    monkeypatch.setattr(Comparison, "from_dict", counted)
    monkeypatch.setattr(metrics, "_LATEST", {})
    return seen


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, started for the first test that wants one. A test that stops it starts it again."""
    from postgres import environment_of_tests, server

    with server() as started, environment_of_tests(started):
        yield started


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest) -> Storage:
    """Where Dagster keeps runs, events and schedules: a test that asks for this runs once on each."""
    return request.param


@pytest.fixture(scope="module")
def open_instance(
    storage: Storage, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> OpenInstance:
    """Opens an instance on fresh storage, one at a time; for modules whose tests share an instance."""

    @contextlib.contextmanager
    def open_one() -> Iterator[DagsterInstance]:
        from dagster import DagsterInstance
        from postgres import dagster_home

        server = request.getfixturevalue("postgres") if storage == "postgres" else None
        with (
            dagster_home(tmp_path_factory.mktemp("dagster_home"), storage, server) as home,
            DagsterInstance.from_config(str(home)) as instance,
        ):
            yield instance

    return open_one


@pytest.fixture
def instance(open_instance: OpenInstance) -> Iterator[DagsterInstance]:
    """A Dagster instance on fresh storage, on each kind of storage; `instance.root_directory` is its DAGSTER_HOME."""
    with open_instance() as opened:
        yield opened


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """The embedded instance, in a DAGSTER_HOME of the module's own."""
    from crucible_dagster import open_instance

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("home")))
        with open_instance() as opened:
            yield opened


def pytest_collection_finish() -> None:
    """What all tests that follow would otherwise pay for again and again."""
    if "dagster" in sys.modules:
        from migration_scripts import read_migration_scripts_once

        read_migration_scripts_once()
    gc.enable()
    gc.collect()
    gc.freeze()  # the modules that are loaded by now stay: no later collection looks through them again
    gc.set_threshold(20_000, 20, 20)  # by default, one part in fourteen of what the tests compute is collections


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, metavar="N", help="run at most N cases of each test")


def some_of(items: list[pytest.Item], cases: int) -> list[pytest.Item]:
    """At most so many cases of each test, at equal distances."""
    found: dict[str, list[pytest.Item]] = {}
    for item in items:
        found.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return [item for every in found.values() for item in every[:: -(-len(every) // cases)]]


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests are marked by their folder and fixtures, and the long ones begin first."""
    if (cases := config.getoption("--cases")) is not None:
        chosen = some_of(items, cases)
        config.hook.pytest_deselected(items=list(set(items) - set(chosen)))
        items[:] = chosen
    long = [item for item in items if is_long(item)]
    if ALL_FAULTS:
        for item in long:
            item.add_marker("all_faults")
    else:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not is_long(item)]
    for item in items:
        for marker in markers_of(item):
            item.add_marker(marker)
        # Its instance, server or child processes are started once for a module, and by each worker that has one of its
        # tests: one worker has them all. Not the faults, which would keep one worker busy to the end.
        if folder_of(item) == "dagster" and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        shared = {"home", "server", "proxied"} & set(getattr(item, "fixturenames", ()))
        if folder_of(item) == "faults" and shared:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {item.callspec.params.get('storage')}"))  # type: ignore[attr-defined]
    items.sort(key=turn)


def turn(item: pytest.Item) -> int:
    """When a test begins, so that no worker is left alone with long ones: the short ones fill the end."""
    if item.get_closest_marker("xdist_group") is not None:
        return 0  # with others that the same worker must run
    return 1 if folder_of(item) == "faults" else 2  # each of the faults may take half a minute


def is_long(item: pytest.Item) -> bool:
    """Whether it waits for `make faults`: it takes minutes, or repeats others in one more setting.

    Of four settings, SQLite or PostgreSQL in one process or several, two are always run: several processes on SQLite,
    and one process on PostgreSQL. Services on SQLite, which nobody deploys, wait too.
    """
    given = item.callspec.params if hasattr(item, "callspec") else {}
    storage = given.get("storage")
    again = (storage == "postgres" and "multiprocess" in given.values()) or (
        storage == "sqlite" and "in_process" in given.values()
    )
    services = {"deployment", "server", "proxied", "watched"} & set(getattr(item, "fixturenames", ()))
    marked = item.get_closest_marker("all_faults")
    named = marked is not None and (not marked.args or any(value in marked.args for value in given.values()))
    return again or named or bool(folder_of(item) == "faults" and services and storage == "sqlite")


FAST_FOLDERS = {"core", "bench"}
SLOW_FOLDERS = {"dagster", "faults", "ui"}
FOLDERS_WITH_A_MARKER = {"faults", "ui"}
FIXTURES_THAT_START_SOMETHING = {"children", "instance", "page", "postgres", "s3", "sqlite", "storage"}


def folder_of(item: pytest.Item) -> str:
    """The folder of tests/ that a test lies in."""
    return _folder_of(item.path)


@functools.cache
def _folder_of(path: Path) -> str:
    return path.relative_to(HERE).parts[0]


def markers_of(item: pytest.Item) -> set[str]:
    """What follows from where a test lies and what it asks for; in core and bench, `slow` can also be written on it."""
    folder, fixtures = folder_of(item), set(getattr(item, "fixturenames", ()))
    storage = item.callspec.params.get("storage") if hasattr(item, "callspec") else None
    markers = {folder} & FOLDERS_WITH_A_MARKER
    if "postgres" in {storage, *fixtures}:
        markers.add("postgres")
    if folder in SLOW_FOLDERS or fixtures & FIXTURES_THAT_START_SOMETHING:
        markers.add("slow")
    return markers


# What a test of the fast tier does not do, as Python's audit events call it.
STARTS = {"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "sqlite3.connect", "subprocess.Popen"}
_started: list[str] = []


def _remember(event: str, arguments: tuple[Any, ...], starts: Set[str] = STARTS, started: list[str] = _started) -> None:
    # A hook stays to the interpreter's very end, when the names of this module are gone.
    if event in starts:
        started.append(event)
    elif event == "import" and arguments[0] == "dagster":
        started.append("import dagster")


sys.addaudithook(_remember)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test of core or bench that starts a process, opens a database or imports Dagster is slow, and must say so."""
    if folder_of(item) not in FAST_FOLDERS or item.get_closest_marker("slow"):
        return (yield)
    ended = _processes_that_ended()
    # One that an earlier test has started may end, or be waited for, at any moment.
    childless = _is_childless()
    _started.clear()
    outcome = yield
    if childless and _processes_that_ended() != ended:
        _started.append("a process that ended")
    assert not _started, f"a test without the marker `slow` had {', '.join(dict.fromkeys(_started))}"
    return outcome


def _is_childless() -> bool:
    """Whether this process has no child, neither one that runs nor one that nobody has waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _processes_that_ended() -> int:
    """Grows with every child that was waited for, also with one of multiprocessing, which no audit event tells of."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get(FORBID_SKIPS):
        why = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, and {FORBID_SKIPS} is set: {why}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket on a real server that speaks S3, in this process."""
    from moto.server import ThreadedMotoServer

    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL")
    before = {name: os.environ.get(name) for name in names}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(dict(zip(names, ("key", "secret", "us-east-1", f"http://{host}:{port}"), strict=True)))
    import s3fs

    s3fs.S3FileSystem().mkdir("crucible-bucket")
    yield "s3://crucible-bucket"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})

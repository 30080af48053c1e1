"""Resources: made when a stage first asks, once per process, closed at the end, never kept."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from resource_stages import Backend, notes

from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    InvalidExperimentError,
    Registry,
    Stage,
    StageFailedError,
    load_experiment,
    plan_experiment,
    run_experiment,
)
from crucible_core.ir.resources import Having, sent
from crucible_core.run_state.resources import Resources, UnknownResourceError, ready_made, resources_of
from crucible_core.trials.engine import _run_batch
from crucible_core.trials.log import FolderFiles, TrialLog

STAGES = "ask", "ask_asynchronously", "ask_from_threads", "refused", "nothing"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def experiment(log: Path, *names: str, **keys: Any) -> Experiment:
    backend = {"module": "resource_stages:Backend", "options": {"log": str(log)}}
    pipeline = [{"name": f"{name}_{index}", "module": f"resource_stages:{name}"} for index, name in enumerate(names)]
    return Experiment.model_validate({"id": "x", "pipeline": pipeline, "resources": {"backend": backend}, **keys})


def test_a_resource_is_made_once_for_all_stages_and_closed_at_the_end(log: Path) -> None:
    tried = experiment(log, "ask", "ask")
    done = run_experiment(tried)
    assert done.metrics["answer"] == 42
    assert notes(log) == ["made", "closed"]
    assert done.resources == {}  # the run is over
    assert done == pickle.loads(pickle.dumps(done))
    assert not done.differences(copy.deepcopy(done))


def test_a_stage_that_never_asks_costs_nothing(log: Path) -> None:
    run_experiment(experiment(log, "nothing"))
    assert notes(log) == []


def test_threads_that_ask_at_once_get_one(log: Path) -> None:
    assert run_experiment(experiment(log, "ask_from_threads")).metrics["sum"] == 2 * sum(range(8))
    assert notes(log) == ["made", "closed"]


def test_one_that_was_passed_is_used_as_it_is_and_not_closed(log: Path) -> None:
    class Fake:
        def ask(self, number: int) -> int:
            return -number

        def close(self) -> None:
            raise AssertionError

    assert run_experiment(experiment(log, "ask"), resources={"backend": Fake()}).metrics["answer"] == -21
    assert notes(log) == []
    undeclared = experiment(log, "ask").model_copy(update={"resources": None})
    assert run_experiment(undeclared, resources={"backend": Fake()}).metrics["answer"] == -21


def test_an_unknown_name_says_what_there_is(log: Path) -> None:
    class Asks(Stage):
        """Asks for what is not there."""

        name: str = "bakend"

        def run(self, ctx: Context) -> Context:
            assert "backend" in ctx.resources
            assert list(ctx.resources) == ["backend"]
            return ctx.assign(x=ctx.resources[self.name])

    with pytest.raises(StageFailedError) as failed:
        run_experiment(experiment(log, pipeline=[{"name": "asks"}]), registry=Registry({"asks": Asks}))
    assert str(failed.value.__cause__) == (
        "there is no resource 'bakend'; did you mean 'backend'?; this run has: backend; they are declared under "
        "`resources:` in the experiment file"
    )
    assert isinstance(failed.value.__cause__, KeyError)
    assert isinstance(failed.value.__cause__, CrucibleError)
    with pytest.raises(UnknownResourceError, match="this run has none"):
        resources_of("no such run")["backend"]
    assert notes(log) == []


def test_it_is_never_stored(log: Path) -> None:
    class Keeps(Stage):
        """Puts all of them into the Context."""

        def run(self, ctx: Context) -> Context:
            with pytest.raises(TypeError, match="never stored"):
                pickle.dumps(ctx.assign(them=ctx.resources))
            pickle.dumps(ctx)
            return ctx

    run_experiment(experiment(log, pipeline=[{"name": "keeps"}]), registry=Registry({"keeps": Keeps}))


class Opens(Stage):
    """Uses both, and may fail."""

    fail: bool = False

    def run(self, ctx: Context) -> Context:
        ctx = ctx.put_metric("answer", ctx.resources["s"]["answer"] + ctx.resources["backend"].ask(1))
        if self.fail:
            raise ValueError("the first error")
        return ctx


def opening(log: Path, *, fail: bool = False, **options: Any) -> Context:
    data = experiment(log, pipeline=[{"name": "opens", "options": {"fail": fail}}]).to_dict()
    data["resources"]["s"] = {"module": "resource_stages:session", "options": {"log": str(log), **options}}
    return run_experiment(Experiment.model_validate(data), registry=Registry({"opens": Opens}))


def test_they_are_closed_the_last_first_and_hear_whether_the_run_failed(log: Path) -> None:
    assert opening(log).metrics["answer"] == 44
    assert notes(log) == ["session made", "made", "closed", "committed"]
    log.unlink()
    with pytest.raises(StageFailedError, match="the first error"):
        opening(log, fail=True)
    assert notes(log) == ["session made", "made", "closed", "rolled back: StageFailedError"]


def test_an_error_in_closing_hides_neither_the_result_nor_the_first_error(
    log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "crucible"):
        assert opening(log, fails=True).metrics["answer"] == 44
        with pytest.raises(StageFailedError, match="the first error"):
            opening(log, fails=True, fail=True)
    said = "closing the resource 's' failed: OSError: the disk is full; the run's result does not change"
    assert [one.getMessage() for one in caplog.records] == [said, said]


def test_what_is_logged_of_an_error_in_closing_has_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    class Bad:
        def close(self) -> None:
            raise OSError("s3cret refused")

    resources = Resources({"bad": Bad}, lambda text: text.replace("s3cret", "***"))
    assert resources["bad"] is resources["bad"]
    resources.close()
    assert caplog.messages == [
        "closing the resource 'bad' failed: OSError: *** refused; the run's result does not change"
    ]


def test_an_asynchronous_stage_and_a_client_that_a_coroutine_closes(log: Path) -> None:
    client = {"module": "resource_stages:Asynchronous", "options": {"log": str(log)}}
    assert run_experiment(experiment(log, "ask_asynchronously", resources={"client": client})).metrics["later"] == 2
    assert notes(log) == ["aclosed"]


def test_one_that_can_only_be_entered_in_a_loop_says_so(log: Path) -> None:
    client = {"module": "resource_stages:looped"}
    with pytest.raises(StageFailedError, match="'client' is an asynchronous context manager, which belongs to one"):
        run_experiment(experiment(log, "ask_asynchronously", resources={"client": client}))


def test_a_factory_that_raises_fails_the_stage_with_its_own_error_and_is_asked_again(log: Path) -> None:
    calls: list[int] = []

    def flaky() -> Backend:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("not yet")
        return Backend(log=str(log))

    registry = Registry(resources={"backend": flaky})
    tried = experiment(log, "ask", resources={"backend": {}})
    with pytest.raises(StageFailedError, match="not yet") as failed:
        run_experiment(tried, registry=registry)
    assert "raised while the resource 'backend' was made" in failed.value.context.trace.endings["ask_0"].traceback
    retried = tried.to_dict()
    retried["pipeline"][0]["retry"] = {"max_retries": 1, "on": ["ConnectionError"]}
    calls.clear()
    done = run_experiment(Experiment.model_validate(retried), registry=registry)
    assert done.metrics["answer"] == 42
    assert len(calls) == 2


# --- the declaration ------------------------------------------------------------------------------------------------


def refused(tmp_path: Path, declared: str, registry: Registry | None = None) -> str:
    file = tmp_path / "x.yaml"
    file.write_text(f"id: x\npipeline:\n  - {{name: n, module: 'resource_stages:nothing'}}\nresources:\n  {declared}\n")
    with pytest.raises(InvalidExperimentError) as error:
        plan_experiment(load_experiment(file), registry or Registry())
    return str(error.value).replace(f"{file}:", "")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (
            "db: {module: 'resource_stages:Backend', options: {log: x, factor: 0}}",
            "5:61: resource 'db', option factor: should be greater than or equal to 1 (given: 0)",
        ),
        (
            "db: {module: 'resource_stages:Backend', options: {log: x, facto: 3}}",
            "5:61: resource 'db' has no option 'facto'; did you mean 'factor'?; its options: factor, log, token",
        ),
        (
            "db: {module: 'resource_stages:session', options: {log: x, fails: 'yes'}}",
            "5:61: resource 'db', option fails: should be a valid boolean (given: 'yes')",
        ),
        ("db: {module: 'resource_stages:session'}", "5:3: resource 'db', option 'log' is missing"),
        (
            "db: {module: 'resource_stages:Asynchronous', options: {logg: x}}",
            "5:58: resource 'db' has no option 'logg'; did you mean 'log'?; its options: log",
        ),
        ("db: {module: 'resource_stages:sesion'}", "5:8: resource 'db': 'resource_stages' has no 'sesion'; did you"),
        ("db: {module: 'no_such_module:x'}", "5:8: resource 'db': there is no module 'no_such_module' to import"),
        ("db: {module: 'os:sep'}", "5:8: resource 'db': 'os:sep' makes no resource: it is '/', and cannot be called"),
        ("db: {}", "5:3: resource 'db': unknown resource 'db'; registered: none; or name its factory with `module:"),
        ("db: {options: [1]}", "5:8: resources.db.options: should be a valid dictionary"),
        ("db: {modul: x}", "5:8: unknown key 'resources.db.modul'; did you mean 'module'?"),
    ],
)
def test_a_mistake_is_refused_with_its_place_before_anything_runs(tmp_path: Path, declared: str, said: str) -> None:
    assert refused(tmp_path, declared).startswith(said)


def test_a_factory_is_found_under_the_rule_of_stages(tmp_path: Path) -> None:
    strict = Registry(importable=["resource_stages"])
    said = refused(tmp_path, "db: {module: 'sqlite3:connect', options: {database: ':memory:'}}", strict)
    assert said.startswith("5:8: resource 'db': importing 'sqlite3' is not allowed here; importable: resource_stages")


def test_a_factory_may_be_beside_the_file_or_in_the_registry_and_take_whatever_its_signature_takes(
    tmp_path: Path,
) -> None:
    (tmp_path / "beside_it.py").write_text(
        "from crucible_core import stage\n"
        "class Client:\n"
        "    def __init__(self, url, *, schema: int = 1, **more):\n"
        "        self.url, self.schema, self.more = url, schema, more\n"
        "@stage\n"
        "def use(ctx):\n"
        "    one, two = ctx.resources['client'], ctx.resources['named']\n"
        "    return ctx.assign(seen=[one.url, one.schema, one.more, two])\n"
    )
    file = tmp_path / "x.yaml"
    file.write_text(
        "id: x\npipeline: [{name: use, module: 'beside_it:use'}]\nresources:\n"
        "  client: {module: 'beside_it:Client', options: {url: 'https://x', schema: 2, retries: 3}}\n"
        "  named: {module: table, options: {rows: 1}}\n"
    )
    done = run_experiment(load_experiment(file), registry=Registry(resources={"table": dict}))
    assert done.assigns["seen"] == ["https://x", 2, {"retries": 3}, {"rows": 1}]
    assert (Registry() | Registry(resources={"table": dict})).resources == {"table": dict}


def test_its_secrets_are_in_no_experiment_and_no_text_of_a_run(log: Path) -> None:
    token = "s3cret-t0ken"
    tried = experiment(log, "refused").to_dict()
    tried["resources"]["backend"]["options"]["token"] = token
    with pytest.raises(StageFailedError) as failed:
        run_experiment(Experiment.model_validate(tried))
    context = failed.value.context
    assert token not in context.experiment.to_json()
    assert token not in context.trace.to_json()
    assert "refused for **********" in context.trace.to_json()
    told_nothing = Experiment.model_validate({**tried, "pipeline": [{"name": "validate"}]})
    given = run_experiment(told_nothing, resources={"backend": 1})
    assert token not in given.experiment.to_json()


def test_the_declaration_is_a_part_of_the_experiment(log: Path) -> None:
    tried = experiment(log, "ask")
    assert Experiment.model_validate_json(tried.to_json()) == tried
    assert tried != tried.model_copy(update={"resources": None})


# --- other processes ------------------------------------------------------------------------------------------------


def by_process(log: Path) -> dict[str, list[str]]:
    """What each process did, in order."""
    found: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        process, _, what = line.partition(" ")
        found.setdefault(process, []).append(what)
    return found


@pytest.mark.slow
def test_a_stage_with_a_timeout_has_its_own_in_its_process_and_leaves_none_open(log: Path) -> None:
    tried = experiment(log, "ask", "ask").to_dict()
    tried["pipeline"][0]["timeout"] = 60
    assert run_experiment(Experiment.model_validate(tried)).metrics["answer"] == 42
    found = by_process(log)
    assert list(found.values()) == [["made", "closed"], ["made", "closed"]]
    assert str(os.getpid()) == list(found)[1]
    unsent = threading.Lock()  # cannot be pickled
    tried["pipeline"] = [{"name": "nothing", "module": "resource_stages:nothing", "timeout": 60}, tried["pipeline"][0]]
    with pytest.raises(StageFailedError, match="'backend' was passed to the run as an object, which cannot be sent"):
        run_experiment(Experiment.model_validate(tried), resources={"backend": unsent})


def sweep(log: Path, **keys: Any) -> Experiment:
    trials = {"grid": {"ask_0.number": [1, 2, 3]}, "replicates": 4, "measure": "answer"}
    return experiment(log, "ask", seed=1, trials=trials, **keys)


def test_trials_in_this_process_share_that_of_the_run_and_kept_ones_depend_on_its_code_and_options(
    log: Path, tmp_path: Path
) -> None:
    keep = tmp_path / "kept"
    first = run_experiment(sweep(log), keep=keep)
    assert [row["answer"] for row in first.outputs] == [2, 4, 6] * 4
    assert notes(log) == ["made", "closed"]
    run_experiment(sweep(log), keep=keep)
    assert notes(log) == ["made", "closed"]  # every trial was kept: nobody asked
    changed = sweep(log).to_dict()
    changed["resources"]["backend"]["options"]["factor"] = 3
    again = run_experiment(Experiment.model_validate(changed), keep=keep)
    assert [row["answer"] for row in again.outputs] == [3, 6, 9] * 4


@pytest.mark.slow
def test_each_process_of_trials_makes_its_own_once_and_closes_it_with_the_sweep(log: Path) -> None:
    done = run_experiment(sweep(log), jobs=2)
    assert [row["answer"] for row in done.outputs] == [2, 4, 6] * 4
    found = by_process(log)
    assert str(os.getpid()) not in found
    assert 1 <= len(found) <= 2
    assert all(one == ["made", "closed"] for one in found.values())


def test_a_process_of_a_cluster_has_its_own_for_a_batch_of_trials(log: Path, tmp_path: Path) -> None:
    @dataclass
    class Number:
        key: str

    def double(task: Number) -> dict[str, Any]:
        return {"seconds": 0.0, "answer": resources_of("run").get("backend").ask(int(task.key))}

    planned = plan_experiment(experiment(log, "ask"), Registry())
    having = pickle.loads(pickle.dumps(Having("run", sent({**planned.resources, **ready_made({"fork": os.getpid()})}))))
    assert having.makers["fork"]() == os.getpid()
    kept = TrialLog(FolderFiles(tmp_path), "x", "run")
    done = _run_batch(double, kept, having, None, [Number("1"), Number("2")])
    assert [row["answer"] for _, row, _ in done] == [2, 4]
    assert notes(log) == ["made", "closed"]


def test_a_fork_does_not_use_that_of_its_parent(log: Path) -> None:
    resources = Resources({"pid": os.getpid})
    here = resources["pid"]
    resources._process = 1  # as in a fork, to which this process is another one
    resources._made["pid"] = "of the parent"
    assert resources["pid"] == here == os.getpid()
    assert notes(log) == []

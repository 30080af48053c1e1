"""The recipe for evaluations: against a real server, which is busy and breaks, and after a kill."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import crucible, python
from scipy import stats
from sklearn.datasets import load_iris

from crucible_core import (
    BudgetExceededError,
    Context,
    Experiment,
    InvalidOptionsError,
    StageFailedError,
    load_experiment,
    run_experiment,
    to_jsonable,
)

FILE = Path(__file__).parents[2] / "examples" / "llm_eval" / "llm_eval.yaml"
KEY = "sk-of-nobody-8731"

# Kills the process as it sends the request that KILL_IN names.
PROGRAM = """
import os, signal, sys, urllib.request
from crucible_core.cli import main

send, sent = urllib.request.urlopen, []

def counted(*given, **named):
    sent.append(1)
    if len(sent) == int(os.environ.get("KILL_IN", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return send(*given, **named)

urllib.request.urlopen = counted
sys.exit(main())
"""


class Server(ThreadingHTTPServer):
    """Speaks the form of chat completions, and names the species by the petals alone."""

    # Eight questions are asked at once: with the default of 5, connections wait for seconds, or are reset under load.
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.failures: dict[int, tuple[int, dict[str, str]]] = {}
        """The number of a request, from 1 -> its status and headers instead of an answer."""
        self.never = "of no prompt"
        """What has no answer, ever."""
        self.pause = 0.0
        self.open = self.most_open = 0
        self.endpoint = f"http://127.0.0.1:{self.server_port}/v1"


class Answering(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests.append({**asked, "path": self.path, "at": time.monotonic()})
            server.keys.add(self.headers["Authorization"])
            number = len(server.requests)
            server.open += 1
            server.most_open = max(server.open, server.most_open)
        time.sleep(server.pause)
        prompt = asked["messages"][0]["content"]
        status, headers = server.failures.get(number, (503 if server.never in prompt else 200, {}))
        petals = float(re.findall(r"petals ([\d.]+) cm", prompt)[-1])
        text = "Setosa" if petals < 2.5 else "It is versicolor." if petals < 4.9 else "virginica"
        if "Petals" not in prompt and asked["seed"] % 3 == 0:  # the arms do not answer alike
            text = "I cannot tell."
        reply = {
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 10},
        }
        with server.lock:
            server.open -= 1
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(reply if status == 200 else {"error": "not now"}).encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server() as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def asking(server: Server, *, size: int = 6, **options: Any) -> Experiment:
    more = {"endpoint": server.endpoint, "samples": 2, **options}
    return load_experiment(FILE).with_options("questions", {"size": size}).with_options("ask", more)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Context:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path_factory.mktemp("reports")))
        return run_experiment(load_experiment(FILE))


def test_every_arm_answers_every_question_and_the_prompts_are_compared_by_question(made_up: Context) -> None:
    assert Counter(row["arm"] for row in made_up.outputs) == {"plain": 360, "examples": 360}
    assert len({(row["item"], row["sample"]) for row in made_up.outputs}) == 360
    shares = {
        arm: np.mean([[row["right"]] for row in made_up.outputs if row["arm"] == arm]) for arm in ("plain", "examples")
    }
    by_item = [
        np.reshape([row["right"] for row in made_up.outputs if row["arm"] == arm], (120, 3)).mean(axis=1)
        for arm in ("examples", "plain")
    ]
    # As many answers to each question: then the error over clusters is that of the means of the questions.
    expected = stats.ttest_rel(*by_item)
    (test,) = made_up.metrics["bench"]["tests"].values()
    assert test["estimate"] == pytest.approx(shares["examples"] - shares["plain"])
    assert test["statistic"] == pytest.approx(expected.statistic)
    assert test["p_value"] == pytest.approx(expected.pvalue)


def test_the_questions_have_the_measures_of_scikit_learn_and_the_species_in_equal_shares(made_up: Context) -> None:
    iris = load_iris()
    examples = made_up.assigns["examples"]
    assert Counter(one["species"] for one in examples) == {"setosa": 40, "versicolor": 40, "virginica": 40}
    for one in examples:
        assert [float(number) for number in re.findall(r"\d+\.\d+", one["flower"])] == list(iris.data[one["item"]])
        assert one["species"] == iris.target_names[iris.target[one["item"]]]


def test_what_was_spent_is_what_the_answers_cost(made_up: Context) -> None:
    spent = made_up.metrics["spent"]
    assert spent["usd"] == pytest.approx(sum(row["usd"] for row in made_up.outputs))
    assert spent["tokens"] == sum(row["tokens"] for row in made_up.outputs)
    assert 0 < spent["usd"] < 0.10


def test_the_report_opens_with_both_comparisons(made_up: Context) -> None:
    markdown = Path(made_up.get_artifact("llm_eval.markdown")).read_text("utf-8")
    first, second = markdown.split("\n\n")[1:3]
    assert first.startswith("**examples beats plain in right answers by ")
    assert second.startswith("**plain beats examples in seconds by ")


def test_a_server_that_is_busy_and_breaks_is_asked_again(server: Server) -> None:
    server.failures = {2: (429, {"Retry-After": "1"}), 5: (500, {})}
    server.pause = 0.02
    ctx = run_experiment(asking(server, at_once=3, retry={"max_retries": 1, "delay": 0.0}))
    assert len(ctx.outputs) == 24
    assert len(server.requests) == 26
    assert ctx.metrics["failed_share"] == 0
    assert 1 < server.most_open <= 3
    # 1,000 tokens at 0.15 dollars for a million, and 10 at 0.60.
    assert ctx.metrics["spent"]["usd"] == pytest.approx(24 * (1000 * 0.15 + 10 * 0.60) / 1e6)
    assert ctx.metrics["spent"]["tokens"] == 24 * 1010
    species = {one["item"]: one["species"] for one in ctx.assigns["examples"]}
    assert all(row["right"] == (row["answer"] == species[row["item"]]) for row in ctx.outputs)
    assert {one["path"] for one in server.requests} == {"/v1/chat/completions"}
    asked_twice = Counter((one["messages"][0]["content"], one["seed"]) for one in server.requests)
    assert Counter(asked_twice.values()) == {1: 22, 2: 2}
    busy = server.requests[1]
    again = [one for one in server.requests[2:] if (one["messages"], one["seed"]) == (busy["messages"], busy["seed"])]
    assert again[0]["at"] - busy["at"] >= 1


def test_the_key_goes_to_the_server_and_nowhere_else(server: Server, tmp_path: Path) -> None:
    ctx = run_experiment(asking(server, size=3), keep=tmp_path / "kept")
    assert server.keys == {f"Bearer {KEY}"}
    assert KEY not in json.dumps(to_jsonable(ctx))
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


def test_a_question_without_an_answer_is_left_out_and_said(server: Server) -> None:
    experiment = asking(server, retry={"max_retries": 1, "delay": 0.0})
    item = run_experiment(asking(server)).assigns["examples"][0]
    server.never = item["flower"]
    ctx = run_experiment(experiment, keep="kept")
    failed = [row for row in ctx.outputs if "error" in row]
    assert {row["item"] for row in failed} == {item["item"]}
    assert len(failed) == 4
    assert [row["error"] for row in failed if "503" not in row["error"]] == []
    assert {row["right"] for row in failed} == {None}
    assert ctx.metrics["failed_share"] == pytest.approx(4 / 24)
    assert {one.gate: one.status for one in ctx.trace.gates}["answered"] == "failed"
    assert {group["n"] for group in ctx.metrics["bench"]["groups"].values()} == {10}
    before = len(server.requests)
    server.never = "of no prompt"
    assert run_experiment(experiment, keep="kept").metrics["failed_share"] == 0
    assert len(server.requests) == before + 4


def test_a_server_that_refuses_ends_the_run_and_one_that_is_not_there_has_no_answers(server: Server) -> None:
    server.failures = dict.fromkeys(range(1, 100), (401, {}))
    with pytest.raises(StageFailedError, match=r"chat/completions: 401 .*not now"):
        run_experiment(asking(server, at_once=2))
    assert len(server.requests) <= 6
    there = asking(server, endpoint="http://127.0.0.1:9/v1", retry={"max_retries": 0})
    with pytest.raises(StageFailedError) as failed:  # nothing is left to compare
        run_experiment(there)
    assert failed.value.stage == "bench"
    assert all("refused" in row["error"] for row in failed.value.context.outputs)


def test_only_web_addresses_and_prompts_with_a_question_are_taken(server: Server) -> None:
    for wrong, said in (({"endpoint": "file:///etc"}, "endpoint"), ({"arms": {"a": {"prompt": "Which?"}}}, "prompt")):
        with pytest.raises(InvalidOptionsError, match=said):
            run_experiment(asking(server, **wrong))


def test_a_larger_budget_goes_on_with_what_is_paid(server: Server) -> None:
    asked = asking(server, at_once=1)
    small = asked.model_copy(update={"budget": {"tokens": 10_000}})
    with pytest.raises(StageFailedError) as failed:
        run_experiment(small, keep="kept")
    assert isinstance(failed.value.__cause__, BudgetExceededError)
    assert failed.value.context.metrics["spent"]["tokens"] == 10_100
    assert len(server.requests) <= 11  # of 1,010 tokens; the next one may be on its way
    ctx = run_experiment(asked, keep="kept")
    assert ctx.metrics["spent"]["tokens"] == 24 * 1010
    assert len(server.requests) <= 25
    assert len(ctx.outputs) == 24


@pytest.mark.slow
def test_a_killed_run_is_resumed_and_nothing_is_paid_twice(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path / "reports"))
    options = {"at_once": 1, "keep_every": 0.0, "samples": 2, "endpoint": server.endpoint}
    changes = [f"ask.{name}={value}" for name, value in options.items()] + ["questions.size=6"]
    monkeypatch.setenv("KILL_IN", "10")
    killed = python("-c", PROGRAM, "run", str(FILE), "--dagster", *(word for one in changes for word in ("--set", one)))
    assert killed.returncode == -signal.SIGKILL
    assert len(server.requests) == 9
    (run,) = re.findall(r"^llm_eval run (\S+)", killed.stdout)
    done = crucible("resume", run, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(server.requests) <= 26  # one was on its way, and one had come and was not kept yet
    assert len(said["outputs"]) == 24
    assert said["metrics"]["spent"]["tokens"] == 24 * 1010

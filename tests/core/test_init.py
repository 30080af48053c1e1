"""`crucible init`: every template is a folder whose experiment, test and schema work as they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from crucible_core import load_experiment, run_experiment
from crucible_core.cli import main
from crucible_core.cli.templates import TEMPLATES


def said(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


@pytest.mark.slow  # the training trains
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_experiment_of_a_template_runs_and_compares(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path / "reports"))
    folder = tmp_path / f"my-{template}"
    code, text = said("init", folder, "--template", template)
    assert code == 0
    listed = [Path(line) for line in text.splitlines()[:4]]
    assert sorted(listed) == sorted(folder.iterdir())
    (file,) = folder.glob("*.yaml")
    assert f"crucible run {file}" in text
    assert said("validate", file)[:1] == (0,)
    ctx = run_experiment(load_experiment(file))
    wanted = re.search(r"== {(.*)}", next(folder.glob("test_*.py")).read_text())
    assert wanted is not None
    assert set(ctx.metrics["bench"]["groups"]) == set(json.loads(f"[{wanted[1]}]"))


def test_editors_find_the_schema_beside_the_file(tmp_path: Path) -> None:
    said("init", tmp_path / "mine")
    first = (tmp_path / "mine" / "mine.yaml").read_text().splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(.*)", first)
    assert named is not None
    assert (tmp_path / "mine" / named[1]).read_text() == said("schema")[1]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    said("init", tmp_path / "mine")
    file = tmp_path / "mine" / "mine.yaml"
    file.write_text("mine")
    code, text = said("init", tmp_path / "mine", "--template", "training")
    assert code == 2
    assert f"error: {file} exists already; name another folder, or move it away" in text
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My Experiment!", "my_experiment"), ("2nd", "experiment_2nd"), ("é", "experiment"), ("a.b-c", "a_b_c")],
)
def test_the_name_of_any_folder_becomes_one_that_a_module_can_have(folder: str, name: str, tmp_path: Path) -> None:
    assert said("init", tmp_path / folder)[0] == 0
    assert load_experiment(tmp_path / folder / f"{name}.yaml").id == name
    assert (tmp_path / folder / f"{name}_stages.py").exists()


@pytest.mark.slow
def test_the_test_of_a_template_passes(tmp_path: Path) -> None:
    said("init", tmp_path / "mine")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path / "mine"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr


class Model(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that is right when it is asked to think."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({**body, "path": self.path, "key": self.headers["Authorization"]})
        text = body["messages"][0]["content"]
        a, b = map(int, re.findall(r"\d+", text))
        reply = f"It is {a * b if 'step by step' in text and a != 12 else 7}."
        sent = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Model)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_the_evaluation_asks_a_server(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path / "reports"))
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    said("init", tmp_path / "asked", "--template", "llm-eval")
    options = {"endpoint": endpoint, "model": "mine", "samples": 2}
    ctx = run_experiment(load_experiment(tmp_path / "asked" / "asked.yaml").with_options("answer", options))
    assert len(Model.asked) == 80
    assert {(one["path"], one["model"], one["key"]) for one in Model.asked} == {
        ("/v1/chat/completions", "mine", "Bearer a key")
    }
    assert {name: group["mean"] for name, group in ctx.metrics["bench"]["groups"].items()} == {
        "long": 0.8,
        "short": 0.0,
    }

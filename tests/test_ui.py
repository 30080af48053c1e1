"""Dagster's UI as its user sees it: a real webserver, daemon and browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from playwright.sync_api import Page, expect, sync_playwright

from crucible_dagster.context_store import open_store

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
CHROMIUM = shutil.which("chromium")

expect.set_options(timeout=60_000)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium, which .ci/run installs"),
    pytest.mark.xdist_group("ui"),
]

STAGES = '''
from crucible_core import Context, Stage
from pydantic import Field


class Measure(Stage):
    """Measures two things."""

    shift: float = Field(default=1.0, ge=0)
    """How far apart the two things are."""

    def run(self, ctx: Context) -> Context:
        data = {"old": [1.0, 2.0, 3.0, 4.0, 6.0], "new": [self.shift + x for x in (1.1, 2.3, 2.9, 4.2, 6.4)]}
        ctx = ctx.decide("measured five times", "that is how often one can", alternatives=["six times"])
        return ctx.assign(bench_data=data).put_metric("best", max(data["new"]))
'''

EXPERIMENT = """
id: small-one
description: A small experiment.
pipeline:
  - name: measure
    module: ui_stages:Measure
    options: {shift: 2.5}
  - name: bench
    options: {paired: true}
  - name: report
"""


class Deployment:
    """A webserver and a daemon on a fresh instance, and what they show."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.home = home


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("ui")
    (folder / "experiments").mkdir()
    (folder / "experiments" / "ui_stages.py").write_text(STAGES)
    (folder / "experiments" / "small.yaml").write_text(EXPERIMENT)
    home = folder / "home"
    home.mkdir()
    shutil.copy(ROOT / "deploy" / "local" / "dagster.yaml", home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "CRUCIBLE_EXPERIMENTS": str(folder / "experiments"),
        "CRUCIBLE_OUTPUT_ROOT": str(folder / "reports"),
    }
    subprocess.run(
        [BIN / "dagster", "instance", "migrate"], env=environment, check=True, capture_output=True, timeout=120
    )
    with (folder / "dev.log").open("w") as log:
        server = subprocess.Popen(
            [BIN / "dagster", "dev", "-w", ROOT / "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, server, folder / "dev.log")
        yield Deployment(url, home)
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(timeout=30)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.fixture
def page() -> Iterator[Page]:
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        opened = browser.new_page(viewport={"width": 1500, "height": 1000})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


def open_launchpad(page: Page, deployment: Deployment, config: str) -> None:
    setup = urllib.parse.urlencode({"mode": "default", "config": config})
    page.goto(f"{deployment.url}/locations/crucible/jobs/small_one/playground/setup?{setup}")
    expect(page.get_by_text("CONFIG ACTIONS")).to_be_visible(timeout=60_000)


def launch(page: Page, deployment: Deployment, config: str) -> str:
    open_launchpad(page, deployment, config)
    page.get_by_role("button", name="Launch run").first.click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    run_id = page.url.rpartition("/")[2].partition("?")[0]
    with DagsterInstance.from_config(str(deployment.home)) as instance:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            run = instance.get_run_by_id(run_id)
            if run is not None and run.is_finished:
                assert run.status is DagsterRunStatus.SUCCESS
                return run_id
            time.sleep(0.5)
    raise AssertionError(f"run {run_id} did not finish")


def test_the_launchpad_shows_the_options_of_the_file_and_describes_them(page: Page, deployment: Deployment) -> None:
    page.goto(f"{deployment.url}/locations/crucible/jobs/small_one/playground")
    editor = page.locator(".CodeMirror").first
    expect(editor).to_contain_text("measure:")
    expect(editor).to_contain_text("shift: 2.5")
    expect(editor).to_contain_text("paired: true")
    expect(page.get_by_text("No errors")).to_be_visible()


def test_a_wrong_option_is_refused_on_screen(page: Page, deployment: Deployment) -> None:
    open_launchpad(page, deployment, "ops: {measure: {config: {shift: far, shfit: 1}}}")
    expect(page.get_by_text('Received unexpected config entry "shfit"')).to_be_visible()
    expect(page.get_by_text('is not valid for expected type "Float"')).to_be_visible()
    expect(page.get_by_role("button", name="Launch run").first).to_be_disabled()


def test_a_value_out_of_bounds_is_refused_when_launch_is_pressed(page: Page, deployment: Deployment) -> None:
    open_launchpad(page, deployment, "ops: {measure: {config: {shift: -1.0}}}")
    page.get_by_role("button", name="Launch run").first.click()
    said = "stage 'measure', option shift: Input should be greater than or equal to 0 (given: -1.0)"
    expect(page.get_by_text(said)).to_be_visible()
    with DagsterInstance.from_config(str(deployment.home)) as instance:
        assert instance.get_runs_count() == 0


def test_a_changed_option_reaches_the_run_and_the_asset_shows_the_results(page: Page, deployment: Deployment) -> None:
    first = launch(page, deployment, "ops: {measure: {config: {shift: 10.0}}}")
    launch(page, deployment, "{}")
    with DagsterInstance.from_config(str(deployment.home)) as instance:
        context = open_store(instance).load(first, "report")
    assert context.metrics["best"] == 16.4
    assert context.experiment.pipeline[1].options == {"paired": True}

    page.goto(f"{deployment.url}/assets/crucible/small_one")
    expect(page.get_by_text(re.compile("old is lower than new: mean difference")).first).to_be_visible()
    page.get_by_text("Show Markdown").first.click()
    report = page.get_by_role("dialog")
    expect(report.get_by_role("heading", name="Comparison")).to_be_visible()
    expect(report.get_by_text("measured five times")).to_be_visible()
    assert report.locator("table").count() >= 5
    report.get_by_text("Close").click()
    page.get_by_text("Plots").first.click()
    expect(page.get_by_text("best", exact=True).first).to_be_visible()
    expect(page.get_by_text("bench.paired_ttest.estimate", exact=True).first).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()

    page.goto(f"{deployment.url}/assets/crucible/small_one?view=events")
    expect(page.get_by_text("Materialized in run").first).to_be_visible()
    decided = page.get_by_text("measure decided: measured five times")
    for event in page.locator("[data-index]").all():
        event.click()
        if decided.count():
            break
    expect(decided).to_be_visible()
    expect(page.get_by_text("that is how often one can")).to_be_visible()
